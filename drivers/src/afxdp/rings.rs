//! The four rings of a socket, and the slots on their way through them.

use std::error::Error;
use std::io;

use super::bind::Socket;
use super::held::{Completed, Held};
use super::ring::{Consumer, Desc, Producer};
use super::umem::UmemPool;

/// Slots moved between rings and pool at a time.
pub(super) const BATCH: usize = 64;

pub(super) struct Rings {
    /// First: closed before the rings are unmapped.
    pub(super) socket: Socket,
    pub(super) tx: Producer<Desc>,
    pub(super) rx: Consumer<Desc>,
    pub(super) fill: Producer<u64>,
    pub(super) completion: Consumer<u64>,
}

/// Keeps `target` slots with the kernel for receiving, in the fill or the receive ring.
pub(super) struct Filler {
    target: usize,
    with_kernel: usize,
    slots: Vec<u32>,
}

impl Filler {
    pub(super) fn new(target: usize) -> Filler {
        Filler { target, with_kernel: 0, slots: Vec::with_capacity(BATCH) }
    }

    pub(super) fn received(&mut self, n: usize) {
        self.with_kernel -= n;
    }

    /// Whether the kernel has fewer than it should.
    #[inline]
    pub(super) fn lacks(&self) -> bool {
        self.with_kernel < self.target
    }

    /// Tops the fill ring up from the pool, as far as the pool goes.
    pub(super) fn refill(&mut self, rings: &mut Rings, umem: &UmemPool, held: &mut Held) {
        while self.with_kernel < self.target {
            let n = (self.target - self.with_kernel).min(BATCH);
            if !rings.fill.has_room(n) {
                break;
            }
            self.slots.clear();
            let n = umem.pool().take_slots(n, &mut self.slots);
            if n == 0 {
                break;
            }
            for slot in &self.slots {
                held.fill(*slot);
                rings.fill.put(umem.address(*slot));
            }
            self.with_kernel += n;
        }
        rings.fill.submit();
    }
}

/// Gives the slots of completed descriptors back to the pool, or to those they belong to.
pub(super) fn reap(rings: &mut Rings, umem: &UmemPool, held: &mut Held) {
    let mut slots = [0; BATCH];
    loop {
        let n = rings.completion.available(BATCH);
        if n == 0 {
            return;
        }
        let mut free = 0;
        for i in 0..n {
            let Some((slot, _)) = umem.locate(rings.completion.get(i)) else { continue };
            if held.completed(slot) == Completed::Free {
                slots[free] = slot;
                free += 1;
            }
        }
        rings.completion.release(n);
        umem.pool().give_slots(&slots[..free]);
    }
}

/// The operating system's error behind one of another crate's.
pub(super) fn os_error(error: &(dyn Error + 'static)) -> io::Error {
    let mut at = Some(error);
    while let Some(e) = at {
        if let Some(code) = e.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return io::Error::from_raw_os_error(code);
        }
        at = e.source();
    }
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(e) = at {
        text = format!("{text}: {e}");
        at = e.source();
    }
    io::Error::other(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operating_system_error_is_found_below_others() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] io::Error);
        let e = Outer(io::Error::from_raw_os_error(libc::EBUSY));
        assert_eq!(os_error(&e).raw_os_error(), Some(libc::EBUSY));
        let e = Outer(io::Error::other("words"));
        assert_eq!(os_error(&e).to_string(), "outer: words");
    }
}
