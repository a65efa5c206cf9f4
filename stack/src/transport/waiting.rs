//! Which sockets of a datagram table have something to tell, and which wait for room on the way
//! out. Each socket stands in either list at most once.

use core::mem::{replace, take};
use std::collections::VecDeque;

use slab::Slab;

/// What a socket remembers of the lists.
#[derive(Debug, Default)]
pub(super) struct Marks {
    dirty: bool,
    blocked: bool,
}

/// A socket in [`Waiting`].
pub(super) trait Marked {
    fn marks(&mut self) -> &mut Marks;
}

/// The lists of one table; entries name slots.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Waiting {
    dirty: VecDeque<u32>,
    blocked: Vec<u32>,
}

impl Waiting {
    /// The socket has something to tell.
    pub(super) fn tell<T: Marked>(&mut self, sockets: &mut Slab<T>, index: u32) {
        if let Some(socket) = sockets.get_mut(index as usize)
            && !replace(&mut socket.marks().dirty, true)
        {
            self.dirty.push_back(index);
        }
    }

    /// The socket was refused and is told once there is room.
    pub(super) fn block<T: Marked>(&mut self, sockets: &mut Slab<T>, index: u32) {
        if let Some(socket) = sockets.get_mut(index as usize)
            && !replace(&mut socket.marks().blocked, true)
        {
            self.blocked.push(index);
        }
    }

    /// There is room: sockets that were refused have something to tell.
    pub(super) fn room_available<T: Marked>(&mut self, sockets: &mut Slab<T>) {
        while let Some(index) = self.blocked.pop() {
            let waits =
                sockets.get_mut(index as usize).is_some_and(|s| take(&mut s.marks().blocked));
            if waits {
                self.tell(sockets, index);
            }
        }
    }

    /// Whether a socket has something to tell, maybe one that is gone.
    #[inline]
    pub(super) fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The next socket with something to tell.
    pub(super) fn next<T: Marked>(&mut self, sockets: &mut Slab<T>) -> Option<u32> {
        // A slot may be free by now, or somebody else's, who then is not dirty.
        core::iter::from_fn(|| self.dirty.pop_front())
            .find(|i| sockets.get_mut(*i as usize).is_some_and(|s| take(&mut s.marks().dirty)))
    }
}
