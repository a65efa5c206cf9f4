//! The account of the slots that are with the kernel.
//!
//! A slot is either somebody's (the pool's, a frame's, an application's) or with the kernel, and
//! then this account says how: in the fill ring for a frame to come, or in the transmit ring with
//! so many descriptors. Bytes that are sent from where they lie stay owned while descriptors point
//! at them: the account keeps them as the slot's *pin* and lets go after the last completion.

use bytes::Bytes;
use weft_stack::frame::FramePool;

/// State of a slot of which the kernel has nothing.
const OURS: u16 = 0;
/// State of a slot that waits for a frame.
const FILLED: u16 = u16::MAX;

/// What a completion means for the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Completed {
    /// The slot was not being sent: the kernel's address is wrong.
    NotHeld,
    /// Other descriptors of the slot are in flight, or its owner has it back.
    Settled,
    /// The slot is the caller's.
    Free,
}

/// The slots of one device that are with the kernel.
pub(super) struct Held {
    pool: FramePool,
    /// [`OURS`], [`FILLED`], or how many transmit descriptors point into the slot.
    states: Box<[u16]>,
    /// Owners of slots that are sent from but are not the device's.
    pins: Box<[Option<Bytes>]>,
    /// The NIC may read and write slots for a while after the socket closed (the queue is reset
    /// later). They are then lost to the pool rather than touched under somebody else's hands.
    forfeit: bool,
}

impl Held {
    pub(super) fn new(pool: &FramePool, zero_copy: bool) -> Held {
        let slots = pool.slots();
        Held {
            pool: pool.clone(),
            states: vec![OURS; slots].into(),
            pins: vec![None; slots].into(),
            forfeit: zero_copy,
        }
    }

    /// The slot, which was the caller's, waits for a frame.
    #[inline]
    pub(super) fn fill(&mut self, slot: u32) {
        debug_assert_eq!(self.states[slot as usize], OURS);
        self.states[slot as usize] = FILLED;
    }

    /// A frame came in this slot. Whether that can be; it is the caller's now.
    #[inline]
    #[must_use]
    pub(super) fn received(&mut self, slot: u32) -> bool {
        let state = &mut self.states[slot as usize];
        let was = *state == FILLED;
        if was {
            *state = OURS;
        }
        was
    }

    /// One more transmit descriptor points into the slot, which was the caller's, is pinned, or
    /// will be by [`Held::pin`] before the descriptor is submitted.
    #[inline]
    pub(super) fn send(&mut self, slot: u32) {
        debug_assert!(self.states[slot as usize] < FILLED - 1);
        self.states[slot as usize] += 1;
    }

    /// Whether descriptors of the slot are in flight.
    pub(super) fn is_sent(&self, slot: u32) -> bool {
        !matches!(self.states[slot as usize], OURS | FILLED)
    }

    /// Keeps the owner of a slot until its descriptors are done. A slot has one owner, so the
    /// first handle on it is enough.
    pub(super) fn pin(&mut self, slot: u32, owner: Bytes) {
        self.pins[slot as usize].get_or_insert(owner);
    }

    /// A transmit descriptor of the slot was completed (or was never written).
    #[inline]
    #[must_use]
    pub(super) fn completed(&mut self, slot: u32) -> Completed {
        let state = &mut self.states[slot as usize];
        match *state {
            OURS | FILLED => return Completed::NotHeld,
            1 => *state = OURS,
            _ => {
                *state -= 1;
                return Completed::Settled;
            }
        }
        match self.pins[slot as usize].take() {
            Some(owner) => {
                drop(owner);
                Completed::Settled
            }
            None => Completed::Free,
        }
    }
}

impl Drop for Held {
    /// Runs after the socket is closed: the kernel has let go of the slots.
    fn drop(&mut self) {
        if self.forfeit {
            for pin in &mut self.pins {
                std::mem::forget(pin.take());
            }
            return;
        }
        let held = self.states.iter().zip(&self.pins).enumerate();
        let held = held.filter(|(_, (state, pin))| **state != OURS && pin.is_none());
        let slots: Vec<u32> = held.map(|(slot, _)| slot as u32).collect();
        self.pool.give_slots(&slots);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(slots: usize) -> (FramePool, Held, Vec<u32>) {
        let pool = FramePool::heap(slots, 256);
        let mut taken = Vec::new();
        pool.take_slots(slots, &mut taken);
        let held = Held::new(&pool, false);
        (pool, held, taken)
    }

    #[test]
    fn slots_held_return_to_the_pool_on_drop() {
        let (pool, mut held, slots) = held(130);
        for slot in slots {
            held.fill(slot);
        }
        assert!(held.received(129));
        assert!(!held.received(129), "once");
        held.send(129);
        held.send(129);
        drop(held);
        assert_eq!(pool.free(), 130);
    }

    #[test]
    fn a_slot_is_free_after_its_last_descriptor() {
        let (_pool, mut held, _slots) = held(4);
        held.send(2);
        held.send(2);
        assert!(held.is_sent(2) && !held.received(2));
        assert_eq!(held.completed(2), Completed::Settled);
        assert_eq!(held.completed(2), Completed::Free);
        assert_eq!(held.completed(2), Completed::NotHeld);
        held.fill(1);
        assert_eq!(held.completed(1), Completed::NotHeld, "it waits for a frame");
    }

    #[test]
    fn an_owner_is_kept_while_descriptors_point_at_its_bytes() {
        let pool = FramePool::heap(1, 256);
        let bytes = pool.alloc().unwrap().into_bytes();
        let mut held = Held::new(&pool, false);
        held.send(0);
        held.send(0);
        held.pin(0, bytes.clone());
        held.pin(0, bytes.clone());
        drop(bytes);
        assert_eq!(pool.free(), 0);
        assert_eq!(held.completed(0), Completed::Settled);
        assert_eq!(pool.free(), 0);
        assert_eq!(held.completed(0), Completed::Settled, "it is its owner's, not ours");
        assert_eq!(pool.free(), 1);
    }

    #[test]
    fn pins_are_dropped_with_a_copying_device_and_lost_with_a_zero_copy_one() {
        for (zero_copy, free) in [(false, 1), (true, 0)] {
            let pool = FramePool::heap(1, 256);
            let mut held = Held::new(&pool, zero_copy);
            held.send(0);
            held.pin(0, pool.alloc().unwrap().into_bytes());
            drop(held);
            assert_eq!(pool.free(), free);
        }
    }
}
