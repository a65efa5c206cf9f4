//! What the application wrote and the peer has not acknowledged: a queue of shared chunks, sliced
//! into segments without copying.
//!
//! Offsets count from the first unacknowledged byte.

use std::collections::VecDeque;
use std::mem;

use bytes::{Buf, Bytes, BytesMut};

use crate::frame::Frags;

/// Copied writes are gathered in blocks between these sizes.
const BLOCK_BYTES_MIN: usize = 512;
const BLOCK_BYTES_MAX: usize = 64 << 10;

/// Blocks that a connection keeps beside those that hold data.
const SPARE_BLOCKS: usize = 2;

/// Shared bytes shorter than this are copied: a segment then has a bounded number of pieces.
pub(crate) const SHARE_BYTES_MIN: usize = 2 << 10;

/// The same for the device's own memory, which is copied twice otherwise, here and by the device.
pub(crate) const SHARE_POOL_BYTES_MIN: usize = 512;

/// Most connections wait with nothing to send: then there is no queue.
#[derive(Debug, Default)]
pub(crate) struct SendBuffer {
    queue: Option<Box<Queue>>,
    len: usize,
    limit: usize,
}

#[derive(Debug, Default)]
struct Queue {
    chunks: VecDeque<Bytes>,
    /// Bytes behind `chunks` that no segment covered yet; the rest of its block takes the next
    /// small writes.
    tail: BytesMut,
    /// Blocks that are full, oldest first. When the last byte of one is acknowledged and its last
    /// frame is sent, it serves again: a bulk transfer allocates nothing.
    spent: VecDeque<BytesMut>,
    /// Whether `tail` ever was a block.
    has_block: bool,
    /// Where the last slice ended: chunk index and the offset of its first byte.
    cursor: (u32, u32),
}

impl SendBuffer {
    pub(crate) fn new(limit: usize) -> SendBuffer {
        SendBuffer { limit, ..SendBuffer::default() }
    }

    /// Bytes held.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Bytes that may be added.
    pub(crate) fn free(&self) -> usize {
        self.limit.saturating_sub(self.len)
    }

    /// Copies as much of `data` as fits; returns how much.
    pub(crate) fn push(&mut self, data: &[u8]) -> usize {
        let taken = data.len().min(self.free());
        if taken > 0 {
            self.queue.get_or_insert_default().push(&data[..taken], self.len);
            self.len += taken;
        }
        taken
    }

    /// Takes what fits, at most `room`, off the front of `data`, shared unless it is shorter than
    /// `share_min`; returns bytes taken and bytes copied.
    pub(crate) fn push_shared(
        &mut self,
        data: &mut Bytes,
        room: usize,
        share_min: usize,
    ) -> (usize, usize) {
        let small = data.len() < share_min && !self.continues(data);
        let taken = data.len().min(room).min(self.free());
        // The whole of it is moved, not counted twice.
        let piece = if taken == data.len() { mem::take(data) } else { data.split_to(taken) };
        // Parts of what is large are not copied: among pieces of the device's memory they would make
        // the whole super-segment one that the device must copy.
        if small || taken == 0 {
            self.push(&piece);
            return (taken, taken);
        }
        let queue = self.queue.get_or_insert_default();
        queue.freeze_tail();
        queue.chunks.push_back(piece);
        self.len += taken;
        (taken, 0)
    }

    /// Whether `data` is the rest of what was shared last, a part of which fitted.
    fn continues(&self, data: &Bytes) -> bool {
        let Some(queue) = self.queue.as_deref().filter(|q| q.tail.is_empty()) else { return false };
        queue.chunks.back().is_some_and(|last| last.as_ptr_range().end == data.as_ptr())
    }

    /// The `len` bytes from `offset`, as pieces in order.
    pub(crate) fn slice(&mut self, offset: usize, len: usize) -> Frags {
        debug_assert!(offset + len <= self.len, "slice beyond the buffer");
        let Some(queue) = self.queue.as_deref_mut() else { return Frags::new() };
        if offset + len > self.len - queue.tail.len() {
            queue.freeze_tail();
        }
        queue.slice(offset, len)
    }

    /// Copies the bytes from `offset` on into `out`. What is small stays in its block, so that
    /// writes to come can follow it there.
    pub(crate) fn copy_to(&self, offset: usize, out: &mut [u8]) {
        debug_assert!(offset + out.len() <= self.len, "copy from beyond the buffer");
        if let Some(queue) = self.queue.as_deref() {
            queue.copy_to(offset, out);
        }
    }

    /// Drops `n` acknowledged bytes from the front.
    pub(crate) fn ack(&mut self, n: usize) {
        debug_assert!(n <= self.len, "more acknowledged than held");
        let Some(queue) = self.queue.as_deref_mut() else { return };
        queue.ack(n);
        self.len -= n;
    }

    /// Whether memory is kept for data to come.
    pub(crate) fn has_spare(&self) -> bool {
        self.len == 0 && self.queue.is_some()
    }

    /// Gives it back.
    pub(crate) fn release(&mut self) {
        if self.has_spare() {
            self.clear();
        }
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        *self = SendBuffer::new(self.limit);
    }
}

impl Queue {
    /// Copies `data` behind the `held` bytes that are there.
    fn push(&mut self, mut data: &[u8], held: usize) {
        if held == 0 {
            // Everything was acknowledged: the last block may be all ours again.
            let _reclaimed = self.tail.try_reclaim(data.len());
        }
        while !data.is_empty() {
            if self.tail.capacity() == self.tail.len() {
                self.start_block(data.len(), held);
            }
            let n = data.len().min(self.tail.capacity() - self.tail.len());
            self.tail.extend_from_slice(&data[..n]);
            data = &data[n..];
        }
    }

    fn start_block(&mut self, wanted: usize, held: usize) {
        self.freeze_tail();
        let size = wanted.max(held / 2).next_power_of_two();
        let size = size.clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX);
        if mem::replace(&mut self.has_block, true) {
            self.spent.push_back(mem::take(&mut self.tail));
        }
        while let Some(oldest) = self.spent.front_mut()
            && oldest.try_reclaim(1)
        {
            self.tail = self.spent.pop_front().unwrap_or_default();
            if self.tail.try_reclaim(size) {
                return;
            }
        }
        self.tail = BytesMut::with_capacity(size);
    }

    /// Gives back blocks that no data needs.
    fn trim_spent(&mut self) {
        while self.spent.len() > self.chunks.len() + SPARE_BLOCKS {
            self.spent.pop_front();
        }
    }

    fn freeze_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
        }
    }

    fn slice(&mut self, offset: usize, len: usize) -> Frags {
        let (mut index, mut start) = (self.cursor.0 as usize, self.cursor.1 as usize);
        if offset < start || index >= self.chunks.len() {
            (index, start) = (0, 0);
        }
        let (mut offset, mut len) = (offset, len);
        let mut pieces = Frags::new();
        while let Some(chunk) = self.chunks.get(index) {
            let skip = offset - start;
            if skip < chunk.len() {
                let n = len.min(chunk.len() - skip);
                pieces.push(chunk.slice(skip..skip + n));
                offset += n;
                len -= n;
                if len == 0 {
                    break;
                }
            }
            start += chunk.len();
            index += 1;
        }
        self.cursor = (index as u32, start as u32);
        pieces
    }

    fn copy_to(&self, offset: usize, out: &mut [u8]) {
        let (index, start) = (self.cursor.0 as usize, self.cursor.1 as usize);
        let known = start <= offset && index < self.chunks.len();
        let (index, start) = if known { (index, start) } else { (0, 0) };
        let (mut skip, mut rest) = (offset - start, out);
        for piece in self.chunks.range(index..).map(|c| &c[..]).chain([&self.tail[..]]) {
            if rest.is_empty() {
                return;
            }
            if let Some(piece) = piece.get(skip..) {
                let n = piece.len().min(rest.len());
                let (now, later) = rest.split_at_mut(n);
                now.copy_from_slice(&piece[..n]);
                (rest, skip) = (later, 0);
            } else {
                skip -= piece.len();
            }
        }
    }

    fn ack(&mut self, n: usize) {
        let mut left = n;
        if self.chunks.is_empty() {
            return self.tail.advance(n);
        }
        let mut popped = 0u32;
        while left > 0 {
            let Some(chunk) = self.chunks.front_mut() else { break };
            if chunk.len() > left {
                chunk.advance(left);
                break;
            }
            left -= chunk.len();
            self.chunks.pop_front();
            popped += 1;
        }
        if self.chunks.is_empty() {
            self.tail.advance(left);
        }
        self.trim_spent();
        let (index, start) = self.cursor;
        let n = n as u32;
        // The front chunk starts at 0 again even if it was cut.
        self.cursor =
            if index > popped && start >= n { (index - popped, start - n) } else { (0, 0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn joined(pieces: &Frags) -> Vec<u8> {
        pieces.iter().flat_map(|b| b.iter().copied()).collect()
    }

    #[test]
    fn takes_no_more_than_the_limit() {
        let mut b = SendBuffer::new(10);
        assert_eq!(b.push(b"12345678"), 8);
        assert_eq!(b.push(b"abcdef"), 2);
        assert_eq!(b.free(), 0);
        assert_eq!(joined(&b.slice(0, 10)), b"12345678ab");
    }

    #[test]
    fn large_shared_bytes_are_not_copied() {
        let mut b = SendBuffer::new(100_000);
        let original = Bytes::from(vec![7; 50_000]);
        let (taken, copied) = b.push_shared(&mut original.clone(), usize::MAX, SHARE_BYTES_MIN);
        assert_eq!((taken, copied), (50_000, 0));
        assert_eq!(b.slice(1000, 500).iter().next().unwrap().as_ptr(), original[1000..].as_ptr());
        let small = |b: &mut SendBuffer, min| {
            b.push_shared(&mut Bytes::from_static(b"small"), usize::MAX, min)
        };
        assert_eq!((small(&mut b, SHARE_BYTES_MIN), small(&mut b, 5)), ((5, 5), (5, 0)));
        let mut two = Bytes::from_static(b"two parts");
        assert_eq!((b.push_shared(&mut two, 4, 0), &two[..]), ((4, 0), &b"parts"[..]));
        // The rest of what was shared in part is shared, however little it is.
        assert_eq!(b.push_shared(&mut two, 2, SHARE_BYTES_MIN), (2, 0));
        assert_eq!((b.push_shared(&mut two, 9, SHARE_BYTES_MIN), two.len()), ((3, 0), 0));
    }

    #[test]
    fn small_writes_share_a_block() {
        let mut b = SendBuffer::new(1 << 20);
        (0..100).for_each(|_| {
            b.push(b"0123456789");
        });
        // The first block is small; the next holds the rest.
        assert_eq!(b.slice(0, 1000).len(), 2);
        b.ack(1000);
        assert_eq!(b.len(), 0);
    }

    proptest! {
        #[test]
        fn behaves_like_a_queue_of_bytes(
            ops in proptest::collection::vec((0..4u8, 0..5000usize, 0..3000usize), 1..60)
        ) {
            let mut b = SendBuffer::new(20_000);
            let mut model = Vec::new();
            let mut next = 0u8;
            for (op, x, y) in ops {
                match op {
                    0 | 1 => {
                        let data: Vec<u8> = (0..x).map(|_| { next = next.wrapping_add(1); next }).collect();
                        let n = if op == 0 { b.push(&data) } else {
                            b.push_shared(&mut Bytes::from(data.clone()), usize::MAX, y).0
                        };
                        prop_assert_eq!(n, x.min(20_000 - model.len()));
                        model.extend_from_slice(&data[..n]);
                    }
                    2 => {
                        let from = x.min(model.len());
                        let len = y.min(model.len() - from);
                        if len > 0 {
                            let mut copy = vec![0; len];
                            b.copy_to(from, &mut copy);
                            prop_assert_eq!(copy, &model[from..from + len]);
                        }
                        if len > 0 && x % 2 == 0 {
                            prop_assert_eq!(joined(&b.slice(from, len)), &model[from..from + len]);
                        }
                    }
                    _ => {
                        let n = x.min(model.len());
                        b.ack(n);
                        model.drain(..n);
                    }
                }
                prop_assert_eq!(b.len(), model.len());
            }
        }
    }
}
