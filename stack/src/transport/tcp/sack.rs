//! The scoreboard: what the peer reported as received beyond the cumulative acknowledgement, what
//! counts as lost, and what is in flight (RFC 6675).
//!
//! Loss is a watermark: `IsLost` of RFC 6675 is true for every byte below some sequence number
//! and false above it, so one number and the reported ranges say everything.

use crate::seq::SeqNum;
use crate::wire::tcp::SackBlock;

/// Ranges kept; further ones are ignored, which costs retransmissions only.
const RANGES_MAX: usize = 128;

/// RFC 6675 section 2.
const DUP_THRESH: usize = 3;

#[derive(Clone, Debug, Default)]
pub(crate) struct Scoreboard {
    /// Disjoint, sorted, above `snd_una`.
    ranges: Vec<SackBlock>,
    bytes: usize,
}

impl Scoreboard {
    /// Bytes reported.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn clear(&mut self) {
        self.ranges.clear();
        self.bytes = 0;
    }

    /// Takes one block; returns how many bytes are new. Blocks outside `(una, nxt]` (among them
    /// duplicate reports, RFC 2883) are ignored.
    pub(crate) fn add(&mut self, block: SackBlock, una: SeqNum, nxt: SeqNum) -> usize {
        let (start, end) = block;
        if start >= end || start <= una || end > nxt {
            return 0;
        }
        let first = self.ranges.partition_point(|r| r.1 < start);
        let last = self.ranges.partition_point(|r| r.0 <= end);
        let old: usize = self.ranges[first..last].iter().map(|r| (r.1 - r.0) as usize).sum();
        let mut joined = (start, end);
        for r in &self.ranges[first..last] {
            joined = (joined.0.min(r.0), joined.1.max(r.1));
        }
        if first == last && self.ranges.len() >= RANGES_MAX {
            return 0;
        }
        self.ranges.splice(first..last, [joined]);
        let new = (joined.1 - joined.0) as usize - old;
        self.bytes += new;
        new
    }

    /// The cumulative acknowledgement moved to `una`.
    pub(crate) fn advance(&mut self, una: SeqNum) {
        let gone = self.ranges.partition_point(|r| r.1 <= una);
        for (start, end) in self.ranges.drain(..gone) {
            self.bytes -= (end - start) as usize;
        }
        if let Some(first) = self.ranges.first_mut()
            && first.0 < una
        {
            self.bytes -= (una - first.0) as usize;
            first.0 = una;
        }
    }

    /// Whether the peer dropped what it had reported (RFC 2018 section 8): the range at the front
    /// should have been acknowledged.
    pub(crate) fn reneged(&self, una: SeqNum) -> bool {
        self.ranges.first().is_some_and(|r| r.0 <= una)
    }

    /// Bytes below this, not reported, are lost (RFC 6675 `IsLost`); `None`: no loss is proved.
    pub(crate) fn lost_below(&self, mss: usize) -> Option<SeqNum> {
        let mut above = 0;
        for (count, range) in self.ranges.iter().rev().enumerate() {
            above += (range.1 - range.0) as usize;
            if count + 1 >= DUP_THRESH || above > (DUP_THRESH - 1) * mss {
                return Some(range.0);
            }
        }
        None
    }

    /// The first unreported bytes in `[from, to)`.
    pub(crate) fn next_hole(&self, from: SeqNum, to: SeqNum) -> Option<SackBlock> {
        let mut start = from;
        let index = self.ranges.partition_point(|r| r.1 <= from);
        let mut end = to;
        if let Some(r) = self.ranges.get(index) {
            if r.0 <= start {
                start = r.1;
                end = self.ranges.get(index + 1).map_or(to, |next| next.0.min(to));
            } else {
                end = r.0.min(to);
            }
        }
        (start < end && start < to).then_some((start, end))
    }

    /// Unreported bytes in `[from, to)`.
    pub(crate) fn unreported(&self, from: SeqNum, to: SeqNum) -> usize {
        if from >= to {
            return 0;
        }
        let reported: usize = self
            .ranges
            .iter()
            .map(|r| (r.0.max(from), r.1.min(to)))
            .filter(|(a, b)| a < b)
            .map(|(a, b)| (b - a) as usize)
            .sum();
        (to - from) as usize - reported
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn board(blocks: &[(u32, u32)]) -> Scoreboard {
        let mut s = Scoreboard::default();
        for (a, b) in blocks {
            s.add((SeqNum(*a), SeqNum(*b)), SeqNum(0), SeqNum(1 << 20));
        }
        s
    }

    #[test]
    fn three_ranges_or_more_than_two_segments_prove_loss() {
        assert_eq!(board(&[(100, 200), (300, 400)]).lost_below(100), None);
        let s = board(&[(100, 200), (300, 400), (500, 600)]);
        assert_eq!(s.lost_below(100), Some(SeqNum(100)));
        assert_eq!(board(&[(100, 401)]).lost_below(100), Some(SeqNum(100)));
        let s = board(&[(100, 200), (300, 400), (500, 600), (700, 950)]);
        assert_eq!(s.lost_below(100), Some(SeqNum(700)));
    }

    #[test]
    fn blocks_outside_the_flight_are_ignored() {
        let mut s = Scoreboard::default();
        let (una, nxt) = (SeqNum(100), SeqNum(200));
        for (a, b) in [(50, 80), (90, 120), (150, 201), (170, 160), (100, 150)] {
            assert_eq!(s.add((SeqNum(a), SeqNum(b)), una, nxt), 0, "{a}..{b}");
        }
        assert_eq!(s.add((SeqNum(150), SeqNum(200)), una, nxt), 50);
        assert_eq!(s.add((SeqNum(140), SeqNum(160)), una, nxt), 10);
    }

    #[test]
    fn a_range_at_the_front_is_reneging() {
        let mut s = board(&[(100, 200)]);
        s.advance(SeqNum(50));
        assert!(!s.reneged(SeqNum(50)));
        s.advance(SeqNum(150));
        assert!(s.reneged(SeqNum(150)));
    }

    proptest! {
        #[test]
        fn agrees_with_a_bitmap(
            blocks in proptest::collection::vec((1..300u32, 1..40u32), 0..40),
            una in 0..100u32, from in 0..200u32, len in 0..200u32,
            base in prop_oneof![Just(0u32), Just(u32::MAX - 100)],
        ) {
            let base = SeqNum(base);
            let mut s = Scoreboard::default();
            let mut model = vec![false; 400];
            for (a, n) in blocks {
                let new = s.add((base + a, base + a + n), base, base + 400);
                let part = &mut model[a as usize..(a + n) as usize];
                prop_assert_eq!(new, part.iter().filter(|b| !**b).count());
                part.fill(true);
            }
            s.advance(base + una);
            model[..una as usize].fill(false);
            prop_assert_eq!(s.bytes(), model.iter().filter(|b| **b).count());
            let (from, to) = (from.max(una), (from + len).max(una).min(400));
            let window = &model[from as usize..(to.max(from)) as usize];
            prop_assert_eq!(s.unreported(base + from, base + to), window.iter().filter(|b| !**b).count());
            let hole = window.iter().position(|b| !b).map(|i| {
                let n = window[i..].iter().position(|b| *b).unwrap_or(window.len() - i);
                (base + from + i as u32, base + from + (i + n) as u32)
            });
            prop_assert_eq!(s.next_hole(base + from, base + to), hole);
        }
    }
}
