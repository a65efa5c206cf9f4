//! What arrived in order and the application has not read: the received frames themselves, trimmed
//! to their payload.
//!
//! Memory is accounted as held, not as used: a small payload in a large frame is copied out once a
//! connection holds much more memory than data, and any payload once its pool runs low, so that
//! readers who do not read cannot starve the receive rings. Frames lent to the application as [`Bytes`] stay
//! counted until it drops them; beyond the limit, or once the pool runs low, it gets copies.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};

use crate::frame::{Frag, Frame};

use super::autotune::Tuning;
use super::on_demand::OnDemand;
use super::payload;

/// Copied-out payloads are gathered in blocks of this size.
const BLOCK_BYTES: usize = 16 << 10;

/// How many times its data a connection may hold in frames before it copies.
const OVERHEAD_MAX: usize = 4;

/// Below this a connection never copies.
const OVERHEAD_FREE_BYTES: usize = 64 << 10;

#[derive(Debug)]
enum Chunk {
    Frame(Frame),
    Shared(Bytes),
    Copied(BytesMut),
}

impl Chunk {
    fn data(&self) -> &[u8] {
        match self {
            Chunk::Frame(f) => f.data(),
            Chunk::Shared(b) => b,
            Chunk::Copied(b) => b,
        }
    }

    fn advance(&mut self, n: usize) {
        match self {
            Chunk::Frame(f) => f.pull_front(n),
            Chunk::Shared(b) => b.advance(n),
            Chunk::Copied(b) => b.advance(n),
        }
    }

    fn footprint(&self) -> usize {
        match self {
            Chunk::Frame(f) => payload::footprint(f),
            Chunk::Shared(b) => b.len(),
            Chunk::Copied(b) => b.capacity(),
        }
    }
}

/// A frame in the hands of the application.
struct Lent {
    frame: Frame,
    /// Counts itself among those of the connection.
    _lent: Arc<()>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.frame.data()
    }
}

#[derive(Debug, Default)]
pub(crate) struct RecvBuffer {
    chunks: VecDeque<Chunk>,
    len: usize,
    held: usize,
    limit: usize,
    /// What the window may offer, data that waits included.
    window_max: usize,
    /// One more than there are frames lent.
    lent: Option<Arc<()>>,
    pub(crate) tuning: OnDemand<Tuning>,
}

impl RecvBuffer {
    pub(crate) fn new(limit: usize) -> RecvBuffer {
        RecvBuffer { limit, window_max: usize::MAX, ..RecvBuffer::default() }
    }

    /// Bytes not read.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Memory held, whole frames counted.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// What the window may span, unread data included.
    pub(crate) fn window_limit(&self) -> usize {
        self.limit.min(self.window_max)
    }

    pub(crate) fn set_window_max(&mut self, bytes: usize) {
        self.window_max = bytes;
    }

    /// Appends a payload; returns how many bytes were copied to save memory.
    pub(crate) fn push(&mut self, mut frame: Frame) -> usize {
        if frame.frags.is_empty() {
            return self.push_frame(frame);
        }
        let frags = std::mem::take(&mut frame.frags);
        let first = self.push_frame(frame);
        let rest = frags.into_iter().map(|frag| match frag {
            Frag::Frame(frame) => self.push_frame(frame),
            Frag::Shared(bytes) => self.push_shared(bytes),
        });
        first + rest.sum::<usize>()
    }

    /// Appends a frame without fragments.
    fn push_frame(&mut self, frame: Frame) -> usize {
        let len = frame.len();
        if len == 0 {
            return 0;
        }
        self.len += len;
        let held = self.held + frame.capacity();
        let wasteful = held > OVERHEAD_MAX * self.len + OVERHEAD_FREE_BYTES;
        if wasteful || frame.is_scarce() {
            self.push_copy(frame.data(), BLOCK_BYTES);
            return len;
        }
        self.push_chunk(Chunk::Frame(frame));
        0
    }

    fn push_shared(&mut self, bytes: Bytes) -> usize {
        if !bytes.is_empty() {
            self.len += bytes.len();
            self.push_chunk(Chunk::Shared(bytes));
        }
        0
    }

    /// Appends a payload in as little memory as it takes; returns how many bytes were copied.
    pub(crate) fn push_compact(&mut self, mut frame: Frame) -> usize {
        let frags = std::mem::take(&mut frame.frags);
        let mut copied = 0;
        for piece in std::iter::once(Frag::Frame(frame)).chain(frags) {
            let len = piece.len();
            match piece {
                Frag::Frame(frame) if len > 0 => {
                    self.len += len;
                    copied += if self.push_tight(Chunk::Frame(frame)) { len } else { 0 };
                }
                Frag::Frame(_) => {}
                Frag::Shared(bytes) => copied += self.push_shared(bytes),
            }
        }
        copied
    }

    /// Appends a chunk, copied if it holds more than twice its data.
    fn push_tight(&mut self, chunk: Chunk) -> bool {
        let wasteful = chunk.footprint() > 2 * chunk.data().len();
        if wasteful {
            self.push_copy(chunk.data(), 0);
        } else {
            self.push_chunk(chunk);
        }
        wasteful
    }

    /// Copies small frames together if much memory is held for little data; returns how many
    /// frames and bytes.
    pub(crate) fn collapse(&mut self) -> (u64, usize) {
        if self.held <= 2 * self.len + BLOCK_BYTES {
            return (0, 0);
        }
        self.held = 0;
        let (mut frames, mut bytes) = (0, 0);
        for chunk in std::mem::take(&mut self.chunks) {
            let len = chunk.data().len();
            if self.push_tight(chunk) {
                frames += 1;
                bytes += len;
            }
        }
        (frames, bytes)
    }

    fn push_chunk(&mut self, chunk: Chunk) {
        self.held += chunk.footprint();
        self.chunks.push_back(chunk);
    }

    /// Copies `data` behind the last block, or into a new one of `block` bytes at least.
    fn push_copy(&mut self, data: &[u8], block: usize) {
        if let Some(Chunk::Copied(block)) = self.chunks.back_mut()
            && block.capacity() - block.len() >= data.len()
        {
            block.extend_from_slice(data);
            return;
        }
        let mut block = BytesMut::with_capacity(block.max(data.len().next_power_of_two()));
        block.extend_from_slice(data);
        self.push_chunk(Chunk::Copied(block));
    }

    /// Copies bytes out; returns how many.
    pub(crate) fn read(&mut self, out: &mut [u8]) -> usize {
        let mut at = 0;
        self.visit(out.len(), |data| {
            out[at..at + data.len()].copy_from_slice(data);
            at += data.len();
        })
    }

    /// Shows at most `max` bytes, piece by piece, and gives them up; returns how many.
    pub(crate) fn visit(&mut self, max: usize, mut look: impl FnMut(&[u8])) -> usize {
        let mut at = 0;
        while at < max {
            let Some(chunk) = self.chunks.front_mut() else { break };
            let data = chunk.data();
            let n = data.len().min(max - at);
            look(&data[..n]);
            at += n;
            if n == data.len() {
                self.pop_chunk();
            } else {
                self.consume_front(n);
            }
        }
        self.len -= at;
        at
    }

    /// Copies bytes out and leaves them; returns how many.
    pub(crate) fn peek(&self, out: &mut [u8]) -> usize {
        let mut at = 0;
        for chunk in &self.chunks {
            let data = chunk.data();
            let n = data.len().min(out.len() - at);
            out[at..at + n].copy_from_slice(&data[..n]);
            at += n;
        }
        at
    }

    fn consume_front(&mut self, n: usize) {
        if let Some(chunk) = self.chunks.front_mut() {
            let before = chunk.footprint();
            chunk.advance(n);
            self.held = self.held + chunk.footprint() - before;
        }
    }

    fn pop_chunk(&mut self) -> Option<Chunk> {
        let chunk = self.chunks.pop_front()?;
        self.held -= chunk.footprint();
        Some(chunk)
    }

    /// Takes at most `max` bytes, without copying while the application holds less than the limit;
    /// returns them and how many were copied.
    pub(crate) fn take(&mut self, max: usize) -> (Bytes, usize) {
        let Some(chunk) = self.pop_chunk() else { return (Bytes::new(), 0) };
        let (mut bytes, copied) = match chunk {
            Chunk::Shared(bytes) => (bytes, 0),
            Chunk::Copied(block) => (block.freeze(), 0),
            Chunk::Frame(frame) => self.lend(frame),
        };
        if bytes.len() > max {
            let rest = bytes.split_off(max);
            self.held += rest.len();
            self.chunks.push_front(Chunk::Shared(rest));
        }
        self.len -= bytes.len();
        (bytes, copied)
    }

    fn lend(&mut self, frame: Frame) -> (Bytes, usize) {
        let lent = self.lent.get_or_insert_default();
        // The frames of a device are of one size.
        let held = Arc::strong_count(lent) * payload::footprint(&frame);
        if held > self.limit || frame.is_scarce() {
            return (Bytes::copy_from_slice(frame.data()), frame.len());
        }
        (Bytes::from_owner(Lent { frame, _lent: Arc::clone(lent) }), 0)
    }

    /// Whether memory is kept for data to come.
    pub(crate) fn has_spare(&self) -> bool {
        self.chunks.is_empty() && self.chunks.capacity() > 0
    }

    /// Gives it back.
    pub(crate) fn release(&mut self) {
        if self.has_spare() {
            self.chunks = VecDeque::new();
        }
        if self.lent.as_ref().is_some_and(|lent| Arc::strong_count(lent) == 1) {
            self.lent = None;
        }
    }

    /// Drops everything unread.
    pub(crate) fn clear(&mut self) {
        self.chunks.clear();
        (self.len, self.held) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FramePool;

    fn pool_frame(pool: &FramePool, data: &[u8]) -> Frame {
        let mut f = pool.alloc().unwrap();
        f.append(data);
        f
    }

    #[test]
    fn what_is_looked_at_in_place_is_given_up_piece_by_piece() {
        let pool = FramePool::heap(16, 2048);
        let mut b = RecvBuffer::new(100_000);
        b.push(pool_frame(&pool, &[1; 1000]));
        b.push(pool_frame(&pool, &[2; 1000]));
        let mut pieces = Vec::new();
        assert_eq!(b.visit(1500, |data| pieces.push(data.to_vec())), 1500);
        assert_eq!(pieces, [vec![1; 1000], vec![2; 500]]);
        assert_eq!((b.len(), pool.free()), (500, 15));
        assert_eq!(b.visit(usize::MAX, |data| assert_eq!(data, [2; 500])), 500);
        assert_eq!((b.len(), b.held(), pool.free()), (0, 0, 16));
    }

    #[test]
    fn reads_across_frames_and_fragments() {
        let mut b = RecvBuffer::new(1000);
        let mut f = Frame::from_heap(0, b"abc");
        f.frags.push(Bytes::from_static(b"defg"));
        b.push(f);
        b.push(Frame::from_heap(0, b"hi"));
        let mut out = [0; 5];
        assert_eq!(b.read(&mut out), 5);
        assert_eq!(&out, b"abcde");
        assert_eq!(b.read(&mut out), 4);
        assert_eq!(&out[..4], b"fghi");
        assert_eq!((b.len(), b.held()), (0, 0));
    }

    #[test]
    fn lends_frames_up_to_the_limit_and_copies_beyond() {
        let pool = FramePool::heap(4, 2048);
        let mut b = RecvBuffer::new(5000);
        (0..3).for_each(|_| {
            b.push(pool_frame(&pool, &[1; 1000]));
        });
        let first = b.take(usize::MAX);
        let second = b.take(usize::MAX);
        assert_eq!((first.1, second.1), (0, 0));
        assert_eq!(pool.free(), 1);
        let third = b.take(usize::MAX);
        assert_eq!((third.0.len(), third.1), (1000, 1000));
        assert_eq!(pool.free(), 2);
        drop((first, second));
        assert_eq!(pool.free(), 4);
        b.push(pool_frame(&pool, &[2; 10]));
        assert_eq!(b.take(4).0, &[2; 4][..]);
        assert_eq!(b.take(100).0, &[2; 6][..]);
        assert_eq!((b.len(), b.held()), (0, 0));
    }

    #[test]
    fn a_pool_that_runs_low_is_not_held() {
        let pool = FramePool::heap(64, 2048);
        let mut b = RecvBuffer::new(1 << 20);
        let copied: usize = (0..100).map(|_| b.push(pool_frame(&pool, &[1; 1400]))).sum();
        assert_eq!((pool.free(), copied), (8, (100 - 56) * 1400));
    }

    #[test]
    fn tiny_payloads_do_not_hold_large_frames() {
        let pool = FramePool::heap(200, 4096);
        let mut b = RecvBuffer::new(1 << 20);
        let copied: usize = (0..150).map(|_| b.push(pool_frame(&pool, b"x"))).sum();
        assert!(copied > 100, "{copied}");
        assert!(pool.free() > 180);
        let mut out = [0; 200];
        assert_eq!(b.read(&mut out), 150);
        assert_eq!(b.held(), 0);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Push(u16),
        PushCompact(u16),
        Collapse,
        Read(u16),
        Peek(u16),
        Take(u16),
    }

    fn op() -> impl proptest::strategy::Strategy<Value = Op> {
        use proptest::prelude::*;
        prop_oneof![
            (1u16..1500).prop_map(Op::Push),
            (1u16..1500).prop_map(Op::PushCompact),
            (1u16..20).prop_map(Op::Push),
            Just(Op::Collapse),
            (0u16..4000).prop_map(Op::Read),
            (0u16..4000).prop_map(Op::Peek),
            (1u16..4000).prop_map(Op::Take),
        ]
    }

    proptest::proptest! {
        /// The model: a queue of bytes.
        #[test]
        fn behaves_like_a_queue_of_bytes(ops in proptest::collection::vec(op(), 1..120)) {
            let pool = FramePool::heap(64, 2048);
            let mut b = RecvBuffer::new(30_000);
            let (mut model, mut next, mut lent) = (VecDeque::new(), 0u8, Vec::new());
            let mut frame = |model: &mut VecDeque<u8>, len: u16| {
                let data: Vec<u8> = (0..len).map(|i| next.wrapping_add(i as u8)).collect();
                next = next.wrapping_add(len as u8);
                model.extend(&data);
                let mut frame = pool.alloc().unwrap_or_else(|| Frame::heap_with_capacity(0, 2000));
                frame.append(&data);
                frame
            };
            for op in ops {
                match op {
                    Op::Push(len) => drop(b.push(frame(&mut model, len))),
                    Op::PushCompact(len) => drop(b.push_compact(frame(&mut model, len))),
                    Op::Collapse => drop(b.collapse()),
                    Op::Read(len) => {
                        let mut out = vec![0; usize::from(len)];
                        let n = b.read(&mut out);
                        proptest::prop_assert_eq!(n, model.len().min(out.len()));
                        out.truncate(n);
                        proptest::prop_assert_eq!(out, model.drain(..n).collect::<Vec<_>>());
                    }
                    Op::Peek(len) => {
                        let mut out = vec![0; usize::from(len)];
                        let n = b.peek(&mut out);
                        out.truncate(n);
                        proptest::prop_assert_eq!(&out, &model.range(..n).copied().collect::<Vec<_>>());
                        proptest::prop_assert_eq!(n, model.len().min(usize::from(len)));
                    }
                    Op::Take(len) => {
                        let (bytes, _) = b.take(usize::from(len));
                        proptest::prop_assert!(bytes.len() <= usize::from(len));
                        proptest::prop_assert_eq!(bytes.is_empty(), model.is_empty());
                        let expected: Vec<u8> = model.drain(..bytes.len()).collect();
                        proptest::prop_assert_eq!(&bytes[..], &expected[..]);
                        lent.push(bytes);
                    }
                }
                proptest::prop_assert_eq!(b.len(), model.len());
                let held: usize = b.chunks.iter().map(Chunk::footprint).sum();
                proptest::prop_assert_eq!(b.held(), held);
            }
            drop((b, lent));
            proptest::prop_assert_eq!(pool.free(), pool.slots());
        }
    }
}
