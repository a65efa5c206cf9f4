//! Received out of order: the frames, sorted and disjoint, and the runs they form, from which SACK
//! blocks are made (RFC 2018 section 4: the run that changed last comes first).

use core::ops::Range;
use std::collections::VecDeque;

use crate::frame::Frame;
use crate::seq::SeqNum;
use crate::wire::tcp::{SackBlock, SackBlocks};

use super::payload;

/// Holes a peer may leave.
const RUNS_MAX: usize = 128;

/// How many times the buffer limit the frames may hold in memory.
const OVERHEAD_MAX: usize = 2;

/// What one queued segment costs beside its bytes.
const SEGMENT_BYTES: usize = 128;

#[derive(Debug)]
struct Held {
    seq: SeqNum,
    end: SeqNum,
    frame: Frame,
}

impl Held {
    /// Memory charged for it.
    fn cost(&self) -> usize {
        payload::footprint(&self.frame) + SEGMENT_BYTES
    }
}

/// Neighbours share a frame up to this: a peer that sends single bytes makes no long queue of them.
const JOINED_BYTES_MAX: usize = 1024;

/// Copies two neighbours together, if they are short.
fn join(first: &Frame, second: &Frame) -> Option<Frame> {
    let (a, b) = (first.total_len(), second.total_len());
    if a + b > JOINED_BYTES_MAX {
        return None;
    }
    let mut joined = Frame::heap_with_capacity(0, a + b);
    let data = joined.push_back(a + b);
    first.copy_to(&mut data[..a]);
    second.copy_to(&mut data[a..]);
    Some(joined)
}

/// A run of contiguous bytes.
#[derive(Clone, Copy, Debug)]
struct Run {
    start: SeqNum,
    end: SeqNum,
    /// Grows with every change of a run.
    stamp: u32,
}

/// What became of an inserted segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inserted {
    /// Queued, at least in part; how many bytes were copied to save memory.
    Queued { copied: usize },
    /// Every byte was there already: the range to report (RFC 2883).
    Duplicate(SackBlock),
    /// Too many holes or too much memory.
    Full,
}

/// The queue of a connection. Holes are rare and connections many: without one there is nothing.
#[derive(Debug, Default)]
pub(crate) struct Assembler(Option<Box<Queue>>);

impl Assembler {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Bytes queued.
    pub(crate) fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |q| q.bytes)
    }

    /// The end of what is queued.
    pub(crate) fn end(&self) -> Option<SeqNum> {
        self.0.as_ref()?.runs.last().map(|r| r.end)
    }

    /// Memory held.
    pub(crate) fn held(&self) -> usize {
        self.0.as_ref().map_or(0, |q| q.held)
    }

    /// Queues the payload that starts at `seq`; `limit`: the connection's receive buffer.
    pub(crate) fn insert(&mut self, seq: SeqNum, frame: Frame, limit: usize) -> Inserted {
        let inserted = self.0.get_or_insert_default().insert(seq, frame, limit);
        self.tidy();
        inserted
    }

    /// Takes the next payload once everything before it has arrived.
    pub(crate) fn pop(&mut self, rcv_nxt: SeqNum) -> Option<Frame> {
        let frame = self.0.as_mut()?.pop(rcv_nxt);
        self.tidy();
        frame
    }

    /// Drops the newest data until `bytes` of memory are free; returns how many segments.
    pub(crate) fn prune(&mut self, bytes: usize) -> u64 {
        let pruned = self.0.as_mut().map_or(0, |q| q.prune(bytes));
        self.tidy();
        pruned
    }

    /// At most `max` blocks, most recent first.
    pub(crate) fn sack_blocks(&self, max: usize, out: &mut SackBlocks) {
        if let Some(queue) = &self.0 {
            queue.sack_blocks(max, out);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }

    fn tidy(&mut self) {
        if self.0.as_ref().is_some_and(|q| q.segments.is_empty()) {
            self.0 = None;
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    segments: VecDeque<Held>,
    runs: Vec<Run>,
    bytes: usize,
    held: usize,
    stamp: u32,
}

impl Queue {
    /// Queues the payload that starts at `seq`; `limit`: the connection's receive buffer.
    fn insert(&mut self, seq: SeqNum, frame: Frame, limit: usize) -> Inserted {
        let (mut seq, mut frame) = (seq, frame);
        let whole = (seq, seq + frame.total_len() as u32);
        // What is there stays: what lies before cuts the front ...
        let mut at = self.segments.partition_point(|h| h.seq <= seq);
        while let Some(before) = at.checked_sub(1).and_then(|i| self.segments.get(i))
            && before.end > seq
        {
            let overlap = (before.end - seq).min(frame.total_len() as u32);
            payload::trim_front(&mut frame, overlap as usize);
            seq += overlap;
            if frame.total_len() == 0 {
                return Inserted::Duplicate(whole);
            }
            at += usize::from(self.segments.get(at).is_some_and(|h| h.seq <= seq));
        }
        let mut end = seq + frame.total_len() as u32;
        // ... successors that are covered whole give way, and the last one cuts the end.
        let covered = self.segments.range(at..).take_while(|h| h.end <= end).count();
        let covered = at..at + covered;
        if let Some(next) = self.segments.get(covered.end).filter(|h| h.seq < end) {
            end = next.seq;
            payload::truncate(&mut frame, (end - seq) as usize);
        }
        self.place(covered, Held { seq, end, frame }, limit)
    }

    /// Puts a segment in the place of those it covers, if it fits.
    fn place(&mut self, covered: Range<usize>, new: Held, limit: usize) -> Inserted {
        let Held { seq, end, mut frame } = new;
        if !self.touches_run(seq, end) && self.runs.len() >= RUNS_MAX {
            return Inserted::Full;
        }
        let mut copied = 0;
        let len = frame.total_len();
        let freed: usize = self.segments.range(covered.clone()).map(Held::cost).sum();
        let room = (OVERHEAD_MAX * limit).saturating_sub(self.held - freed);
        let footprint = payload::footprint(&frame);
        if footprint > room || footprint > 8 * len || frame.is_scarce() {
            let mut small = Frame::heap_with_capacity(0, len);
            frame.copy_to(small.push_back(len));
            frame = small;
            copied = len;
        }
        let new = Held { seq, end, frame };
        if new.cost() > room {
            return Inserted::Full;
        }
        let at = covered.start;
        for old in self.segments.drain(covered) {
            self.bytes -= (old.end - old.seq) as usize;
            self.held -= old.cost();
        }
        self.held += new.cost();
        self.bytes += len;
        copied += self.add(at, new);
        self.join_runs(seq, end);
        Inserted::Queued { copied }
    }

    /// Puts a segment at `at`, together with the one before or behind it if both are short. Returns
    /// how many bytes that copied.
    fn add(&mut self, at: usize, new: Held) -> usize {
        let before = at.checked_sub(1).filter(|i| self.segments[*i].end == new.seq);
        let behind = Some(at).filter(|i| self.segments.get(*i).is_some_and(|h| h.seq == new.end));
        for (i, is_before) in
            before.map(|i| (i, true)).into_iter().chain(behind.map(|i| (i, false)))
        {
            let old = &mut self.segments[i];
            let (first, second) = if is_before { (&*old, &new) } else { (&new, &*old) };
            let Some(frame) = join(&first.frame, &second.frame) else { continue };
            let joined = Held { seq: first.seq, end: second.end, frame };
            self.held = self.held + joined.cost() - old.cost() - new.cost();
            *old = joined;
            return old.frame.total_len();
        }
        self.segments.insert(at, new);
        0
    }

    fn touches_run(&self, seq: SeqNum, end: SeqNum) -> bool {
        self.runs.iter().any(|r| r.start <= end && r.end >= seq)
    }

    fn join_runs(&mut self, seq: SeqNum, end: SeqNum) {
        self.stamp = self.stamp.wrapping_add(1);
        let mut run = Run { start: seq, end, stamp: self.stamp };
        let first = self.runs.partition_point(|r| r.end < seq);
        let last = self.runs.partition_point(|r| r.start <= end);
        for old in &self.runs[first..last] {
            run.start = run.start.min(old.start);
            run.end = run.end.max(old.end);
        }
        self.runs.splice(first..last, [run]);
    }

    /// Takes the next payload once everything before it has arrived.
    fn pop(&mut self, rcv_nxt: SeqNum) -> Option<Frame> {
        loop {
            if self.segments.front()?.seq > rcv_nxt {
                return None;
            }
            let held = self.segments.pop_front()?;
            self.held -= held.cost();
            let Held { seq, end, mut frame } = held;
            self.bytes -= (end - seq) as usize;
            self.forget_before(end);
            if end > rcv_nxt {
                payload::trim_front(&mut frame, (rcv_nxt - seq) as usize);
                return Some(frame);
            }
        }
    }

    fn prune(&mut self, bytes: usize) -> u64 {
        let (mut freed, mut pruned) = (0, 0);
        while freed < bytes
            && let Some(last) = self.segments.pop_back()
        {
            freed += last.cost();
            pruned += 1;
            self.held -= last.cost();
            self.bytes -= (last.end - last.seq) as usize;
            match self.runs.last_mut() {
                Some(run) if run.start < last.seq => run.end = last.seq,
                _ => drop(self.runs.pop()),
            }
        }
        pruned
    }

    fn forget_before(&mut self, seq: SeqNum) {
        while let Some(run) = self.runs.first_mut() {
            if run.end > seq {
                run.start = run.start.max(seq);
                return;
            }
            self.runs.remove(0);
        }
    }

    /// At most `max` blocks, most recent first.
    fn sack_blocks(&self, max: usize, out: &mut SackBlocks) {
        let mut before = None;
        for _ in 0..max {
            let newest = self.runs.iter().filter(|r| before.is_none_or(|b| r.stamp < b));
            let Some(run) = newest.max_by_key(|r| r.stamp) else { return };
            out.push((run.start, run.end));
            before = Some(run.stamp);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(data: &[u8]) -> Frame {
        Frame::from_heap(0, data)
    }

    fn blocks(a: &Assembler) -> Vec<(u32, u32)> {
        let mut out = SackBlocks::default();
        a.sack_blocks(4, &mut out);
        out.as_slice().iter().map(|(s, e)| (s.0, e.0)).collect()
    }

    fn insert(a: &mut Assembler, seq: u32, len: u32) -> Inserted {
        let data: Vec<u8> = (seq..seq + len).map(|i| i as u8).collect();
        a.insert(SeqNum(seq), frame(&data), 1 << 16)
    }

    #[test]
    fn what_does_not_fit_pushes_nothing_out() {
        let mut a = Assembler::default();
        let small = |a: &mut Assembler, seq: u32, len: usize| {
            a.insert(SeqNum(seq), frame(&vec![1; len]), 400)
        };
        assert!(matches!(small(&mut a, 1000, 100), Inserted::Queued { .. }));
        assert_eq!(small(&mut a, 900, 2000), Inserted::Full);
        assert_eq!((blocks(&a), a.bytes()), (vec![(1000, 1100)], 100));
    }

    #[test]
    fn the_newest_run_is_reported_first() {
        let mut a = Assembler::default();
        insert(&mut a, 100, 10);
        insert(&mut a, 200, 10);
        insert(&mut a, 300, 10);
        assert_eq!(blocks(&a), [(300, 310), (200, 210), (100, 110)]);
        insert(&mut a, 110, 10);
        assert_eq!(blocks(&a), [(100, 120), (300, 310), (200, 210)]);
        insert(&mut a, 210, 90);
        assert_eq!(blocks(&a), [(200, 310), (100, 120)]);
    }

    #[test]
    fn a_duplicate_is_reported_whole() {
        let mut a = Assembler::default();
        insert(&mut a, 100, 50);
        let dup = insert(&mut a, 110, 20);
        assert_eq!(dup, Inserted::Duplicate((SeqNum(110), SeqNum(130))));
        assert_eq!(a.bytes(), 50);
    }

    #[test]
    fn holes_and_memory_are_bounded() {
        let mut a = Assembler::default();
        let fit = (0..1000).filter(|i| insert(&mut a, i * 10, 1) != Inserted::Full).count();
        assert_eq!(fit, RUNS_MAX);
        let mut a = Assembler::default();
        let mut add = |i| a.insert(SeqNum(1 + 600 * i), frame(&[0; 600]), 1000);
        assert_eq!((0..1000u32).take_while(|i| add(*i) != Inserted::Full).count(), 2);
        assert!(a.held() <= 2000);
        while a.pop(SeqNum(1000)).is_some() {}
        assert_eq!((a.held(), a.bytes()), (0, 0));
    }

    #[test]
    fn single_bytes_in_any_order_share_frames() {
        let limit = 1 << 20;
        let (low, high) = (SeqNum(u32::MAX - 5000), SeqNum(20_000));
        let mut q = Queue::default();
        for i in 0..10_000u32 {
            // Two runs that grow towards each other, and away.
            let up = low + i;
            let down = high - i;
            q.insert(up, Frame::from_heap(0, &[up.0 as u8]), limit);
            q.insert(down, Frame::from_heap(0, &[down.0 as u8]), limit);
        }
        assert_eq!((q.bytes, q.runs.len()), (20_000, 2));
        assert!(q.segments.len() <= 24, "{}", q.segments.len());
        let mut at = low;
        while let Some(frame) = q.pop(at) {
            for byte in frame.data() {
                assert_eq!(*byte, at.0 as u8);
                at += 1;
            }
        }
        assert_eq!(at, low + 10_000);
    }

    proptest! {
        /// Random overlapping pieces in random order give back the stream, across the wrap.
        #[test]
        fn gives_back_the_stream(
            pieces in proptest::collection::vec((0..300u32, 1..60u32), 1..80),
            base in prop_oneof![Just(0u32), Just(u32::MAX - 150)],
        ) {
            let base = SeqNum(base);
            let mut a = Assembler::default();
            let mut have = vec![false; 400];
            for (from, len) in pieces {
                let data: Vec<u8> = (from..from + len).map(|i| i as u8).collect();
                let result = a.insert(base + from, frame(&data), 1 << 20);
                let new = have[from as usize..(from + len) as usize].iter().any(|h| !h);
                let queued = matches!(result, Inserted::Queued { .. });
                prop_assert_eq!(new, queued);
                have[from as usize..(from + len) as usize].fill(true);
                prop_assert_eq!(a.bytes(), have.iter().filter(|h| **h).count());
                let runs = have.chunk_by(|a, b| a == b).filter(|c| c[0]).count();
                prop_assert_eq!(a.0.as_ref().map_or(0, |q| q.runs.len()), runs);
            }
            let mut at = 0;
            while at < 400 {
                while let Some(f) = a.pop(base + at) {
                    for byte in f.data() {
                        prop_assert!(have[at as usize]);
                        prop_assert_eq!(*byte, at as u8);
                        at += 1;
                    }
                }
                prop_assert!(at >= 400 || !have[at as usize]);
                at += 1;
            }
            prop_assert!(a.is_empty() && a.held() == 0);
        }
    }
}
