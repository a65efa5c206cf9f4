//! What waits for one queue of a device: a short list in the order of transmission, and behind it, only
//! when the device is slower than the senders, a list for each vserver, served in turn.

use std::collections::VecDeque;

use hashbrown::HashMap;
use weft_stack::frame::Frame;

/// Frames of all vservers that wait in the usual case.
pub(crate) const TX_QUEUE: usize = 512;
/// Frames in the order of transmission; what comes to them waits for no more than these.
const READY: usize = 64;
/// Frames that each vserver gives at a time.
const QUANTUM: usize = 8;
/// What a vserver may have waiting however many do.
const PART_MIN: usize = 16;
/// Frames of no vserver alone: from a shaper, which has given each its turn, or from other workers.
pub(crate) const IN_ORDER: u32 = u32::MAX;

#[derive(Debug, Default)]
pub(crate) struct TxQueue {
    pub(super) ready: VecDeque<Frame>,
    /// By vserver; none is empty.
    waiting: HashMap<u32, VecDeque<Frame>>,
    /// Whose turn it is, in this order.
    turns: VecDeque<u32>,
    /// In `waiting`.
    held: usize,
}

impl TxQueue {
    pub(crate) fn len(&self) -> usize {
        self.ready.len() + self.held
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// Frames that may come before senders should wait.
    pub(crate) fn room(&self) -> usize {
        TX_QUEUE.saturating_sub(self.len())
    }

    /// The same for one vserver: the more wait, the less each may have waiting.
    pub(crate) fn room_of(&self, vserver: u32) -> usize {
        if self.held == 0 {
            return self.room();
        }
        let part = (TX_QUEUE / (1 + self.turns.len())).max(PART_MIN);
        part.saturating_sub(self.waiting.get(&vserver).map_or(0, VecDeque::len))
    }

    pub(crate) fn push(&mut self, vserver: u32, frame: Frame) {
        // One vserver alone waits for nobody, in whatever list.
        if self.held == 0 && self.ready.len() < READY {
            return self.ready.push_back(frame);
        }
        self.held += 1;
        let own = self.waiting.entry(vserver).or_insert_with(|| {
            self.turns.push_back(vserver);
            VecDeque::new()
        });
        own.push_back(frame);
    }

    /// Moves what is next to the frames that are ready; `false`: there is nothing.
    pub(super) fn refill(&mut self) -> bool {
        while self.ready.len() < READY
            && let Some(vserver) = self.turns.pop_front()
        {
            let Some(own) = self.waiting.get_mut(&vserver) else { continue };
            let taken = own.len().min(QUANTUM);
            self.ready.extend(own.drain(..taken));
            self.held -= taken;
            if own.is_empty() {
                self.waiting.remove(&vserver);
            } else {
                self.turns.push_back(vserver);
            }
        }
        !self.ready.is_empty()
    }

    /// Loses everything; returns how many frames.
    pub(super) fn clear(&mut self) -> usize {
        let lost = self.len();
        *self = TxQueue::default();
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(vserver: u8, number: u8) -> Frame {
        Frame::from_heap(0, &[vserver, number])
    }

    fn sent(q: &mut TxQueue, device_takes: usize) -> Vec<(u8, u8)> {
        let mut out = Vec::new();
        while out.len() < device_takes && (!q.is_empty() || q.refill()) {
            let f = q.ready.pop_front().unwrap();
            out.push((f.data()[0], f.data()[1]));
        }
        out
    }

    #[test]
    fn nobody_waits_behind_more_than_is_ready() {
        let mut q = TxQueue::default();
        for n in 0..200 {
            q.push(1, frame(1, n));
        }
        q.push(2, frame(2, 0));
        let order = sent(&mut q, 1000);
        let at = order.iter().position(|f| f.0 == 2).unwrap();
        assert!(at <= READY + QUANTUM, "{at}");
        let first: Vec<u8> = order.iter().filter(|f| f.0 == 1).map(|f| f.1).collect();
        assert_eq!(first, (0..200).collect::<Vec<u8>>(), "each in its order");
        assert_eq!((q.len(), q.room()), (0, TX_QUEUE));
    }

    #[test]
    fn each_has_room_however_much_others_have_waiting() {
        let mut q = TxQueue::default();
        let mut pushed = 0;
        while q.room_of(1) > 0 {
            q.push(1, frame(1, 0));
            pushed += 1;
        }
        assert!(pushed <= TX_QUEUE);
        for vserver in 2..100 {
            assert!(q.room_of(vserver) >= PART_MIN, "{vserver}");
            while q.room_of(vserver) > 0 {
                q.push(vserver, frame(2, 0));
            }
        }
        assert!(q.len() < 6 * TX_QUEUE, "{}", q.len());
        let order = sent(&mut q, 64 + 99 * QUANTUM);
        assert_eq!(order[64..].iter().filter(|f| f.0 == 1).count(), QUANTUM, "its part");
    }

    #[test]
    fn what_is_lost_is_told() {
        let mut q = TxQueue::default();
        for _ in 0..100 {
            q.push(7, frame(7, 0));
        }
        assert_eq!(q.clear(), 100);
        assert!(q.is_empty() && !q.refill());
    }
}
