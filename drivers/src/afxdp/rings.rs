//! The four rings of a socket and the account of the slots in them.
//!
//! A slot that is in a ring belongs to the device's [`Held`]; it leaves through a received or
//! completed descriptor, or, when the rings are gone, all at once back to the pool.

use std::error::Error;
use std::io;

use weft_stack::frame::FramePool;
use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::{CompQueue, FillQueue, RxQueue, TxQueue};

use super::umem::UmemPool;

/// Descriptors moved per ring access.
pub(super) const BATCH: usize = 64;

pub(super) struct Rings {
    pub(super) tx: TxQueue,
    pub(super) rx: RxQueue,
    pub(super) fill: FillQueue,
    pub(super) completion: CompQueue,
}

/// The slots of one device that are with the kernel.
pub(super) struct Held {
    pool: FramePool,
    bits: Box<[u64]>,
    /// The NIC may write to slots for a while after the socket closed (the queue is reset later).
    /// They are then lost to the pool rather than written to under somebody else's hands.
    forfeit: bool,
}

impl Held {
    pub(super) fn new(pool: &FramePool, zero_copy: bool) -> Held {
        let words = pool.slots().div_ceil(64);
        Held { pool: pool.clone(), bits: vec![0; words].into(), forfeit: zero_copy }
    }

    pub(super) fn insert(&mut self, slot: u32) {
        self.bits[slot as usize / 64] |= 1 << (slot % 64);
    }

    /// Whether the slot was with the kernel; it is the caller's now.
    #[must_use]
    pub(super) fn remove(&mut self, slot: u32) -> bool {
        let word = &mut self.bits[slot as usize / 64];
        let bit = 1 << (slot % 64);
        let was = *word & bit != 0;
        *word &= !bit;
        was
    }

    #[cfg(test)]
    fn count(&self) -> u32 {
        self.bits.iter().map(|w| w.count_ones()).sum()
    }
}

impl Drop for Held {
    /// Runs after the rings are closed: the kernel has let go of the slots.
    fn drop(&mut self) {
        if self.forfeit {
            return;
        }
        let mut slots = Vec::new();
        for (word, bits) in self.bits.iter().enumerate() {
            slots.extend((0..64).filter(|b| bits >> b & 1 == 1).map(|b| word as u32 * 64 + b));
        }
        self.pool.give_slots(&slots);
    }
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

    pub(super) fn received_one(&mut self) {
        self.with_kernel -= 1;
    }

    pub(super) fn missing(&self) -> usize {
        self.target - self.with_kernel
    }

    /// Tops the fill ring up from the pool, as far as the pool goes.
    pub(super) fn refill(&mut self, rings: &mut Rings, umem: &UmemPool, held: &mut Held) {
        if self.missing() == 0 {
            return;
        }
        let mut descs = [FrameDesc::default(); BATCH];
        while self.missing() > 0 {
            let n = self.missing().min(BATCH);
            self.slots.clear();
            let n = umem.pool().take_slots(n, &mut self.slots);
            for (desc, slot) in descs.iter_mut().zip(&self.slots) {
                *desc = umem.desc(*slot);
            }
            // SAFETY: the slots were just taken from the pool of this UMEM; nobody else has them.
            if n == 0 || unsafe { rings.fill.produce(&descs[..n]) } == 0 {
                umem.pool().give_slots(&self.slots);
                return;
            }
            self.slots.iter().for_each(|slot| held.insert(*slot));
            self.with_kernel += n;
        }
    }
}

/// Gives sent slots back to the pool; returns how many.
pub(super) fn reap(rings: &mut Rings, umem: &UmemPool, held: &mut Held) -> usize {
    if rings.completion.nb_avail(1) == 0 {
        return 0;
    }
    let mut descs = [FrameDesc::default(); BATCH];
    let mut slots = [0; BATCH];
    let mut total = 0;
    loop {
        // SAFETY: the ring belongs to this UMEM.
        let n = unsafe { rings.completion.consume(&mut descs) };
        let mut valid = 0;
        for desc in &descs[..n] {
            if let Some((slot, _)) = umem.locate(desc.addr()).filter(|(slot, _)| held.remove(*slot))
            {
                slots[valid] = slot;
                valid += 1;
            }
        }
        umem.pool().give_slots(&slots[..valid]);
        total += valid;
        if n < BATCH {
            return total;
        }
    }
}

/// The operating system's error behind one of the binding crates'.
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
    fn slots_held_return_to_the_pool_on_drop() {
        let pool = FramePool::heap(130, 256);
        let mut slots = Vec::new();
        pool.take_slots(130, &mut slots);
        let mut held = Held::new(&pool, false);
        for slot in &slots {
            held.insert(*slot);
        }
        assert!(held.remove(129));
        assert!(!held.remove(129));
        assert_eq!(held.count(), 129);
        drop(held);
        assert_eq!(pool.free(), 129);
    }

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
