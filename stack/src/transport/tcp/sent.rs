//! What was sent and not acknowledged: one record per (super-)segment, in sequence order, with all
//! that is remembered about its last transmission.
//!
//! Invariants: records are not empty, do not overlap and leave no gap; `sacked` and `lost` are the
//! bytes of the records of that fate; no record below `resend_from` is lost; every first
//! transmission below `judge_from` was judged by RACK.
//!
//! What an acknowledgement costs does not grow with the window: totals are running, places are
//! found by binary search, runs of reported records are jumped over, and RACK looks at first
//! transmissions in sequence order (which is their order in time) and at repeated ones in a queue.

use core::ops::{Deref, DerefMut};
use core::time::Duration;
use std::collections::VecDeque;

use crate::seq::SeqNum;
use crate::time::Instant;
use crate::wire::tcp::SackBlock;

use super::rack::Recent;

/// SACK blocks split records up to this many records; what they report beyond is ignored, which
/// costs retransmissions only.
const SPLIT_RECORDS_MAX: usize = 4096;

/// From this many on, small segments share a record.
const PUSH_RECORDS_MAX: usize = 16_384;

/// A shared record is no longer than this.
const SHARED_BYTES_MAX: u32 = 64 << 10;

/// Capacity kept when nothing is in flight; it goes when the connection is idle.
const RECORDS_KEPT: usize = 64;

/// What is known of a record's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    InFlight,
    /// The peer has them (RFC 2018).
    Sacked,
    /// Judged lost, and not sent again yet.
    Lost,
}

/// The state of the connection when something left (draft-ietf-ccwg-bbr, section 4.1.1.2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) sent_at: Instant,
    pub(crate) delivered: u64,
    pub(crate) delivered_at: Instant,
    pub(crate) first_sent_at: Instant,
    /// Bytes in flight, these included.
    pub(crate) flight: u32,
    /// Totals of lost and CE-marked bytes, modulo 2^32.
    pub(crate) lost: u32,
    pub(crate) ce: u32,
    pub(crate) app_limited: bool,
}

/// One record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) stamp: Stamp,
    pub(crate) start: SeqNum,
    pub(crate) end: SeqNum,
    /// Of a reported record: everything up to here is reported.
    run_end: SeqNum,
    pub(crate) fate: Fate,
    /// How often it was sent again.
    pub(crate) resent: u8,
}

impl Sent {
    pub(crate) fn bytes(&self) -> u32 {
        self.end - self.start
    }

    /// Its last transmission.
    pub(crate) fn transmission(&self) -> Transmission {
        Transmission { at: self.stamp.sent_at, end: self.end, resent: self.resent > 0 }
    }
}

/// One transmission of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transmission {
    pub(crate) at: Instant,
    pub(crate) end: SeqNum,
    pub(crate) resent: bool,
}

impl Transmission {
    /// RFC 8985 6.2 `RACK_sent_after`: whether it left after `other`. Much leaves in one instant;
    /// in it, repeated data may have left before new data or after, so that neither tells that
    /// the other is lost.
    pub(crate) fn is_after(&self, other: Transmission) -> bool {
        let later = self.resent != other.resent || self.end > other.end;
        self.at > other.at || (self.at == other.at && later)
    }
}

/// A repeated transmission.
#[derive(Clone, Copy, Debug)]
struct Resent {
    at: Instant,
    start: SeqNum,
    end: SeqNum,
}

impl Resent {
    fn of(sent: &Sent) -> Resent {
        Resent { at: sent.stamp.sent_at, start: sent.start, end: sent.end }
    }

    fn transmission(&self) -> Transmission {
        Transmission { at: self.at, end: self.end, resent: true }
    }
}

/// What RACK found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judged {
    /// Bytes newly lost.
    pub(crate) lost: u32,
    /// Records among them that were sent more than once.
    pub(crate) lost_again: u32,
    /// How long until the next one is lost.
    pub(crate) wait: Option<Duration>,
}

/// Everything about the flight, in a box that a connection has while it sends: allocated with the
/// first segment, freed when the connection is idle. Without it, reads see an empty flight.
#[derive(Debug, Default)]
pub(crate) struct SentQueue(Option<Box<Records>>);

impl SentQueue {
    /// Gives memory back if nothing is in flight.
    pub(crate) fn release(&mut self) {
        if self.queue.is_empty() {
            self.0 = None;
        }
    }

    /// Everything is forgotten.
    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }

    /// What there is to change, if there is anything: changes nothing else.
    pub(crate) fn existing(&mut self) -> Option<&mut Records> {
        self.0.as_deref_mut()
    }
}

impl Deref for SentQueue {
    type Target = Records;
    fn deref(&self) -> &Records {
        const NONE: &Records = &Records::new();
        self.0.as_deref().unwrap_or(NONE)
    }
}

impl DerefMut for SentQueue {
    fn deref_mut(&mut self) -> &mut Records {
        self.0.get_or_insert_with(|| Box::new(Records::new()))
    }
}

/// What is in flight. See [`SentQueue`].
#[derive(Debug)]
pub(crate) struct Records {
    /// What RACK knows of this flight.
    pub(crate) recent: Recent,
    queue: VecDeque<Sent>,
    /// Repeated transmissions in the order of time; some are out of date.
    resent: VecDeque<Resent>,
    sacked: u32,
    lost: u32,
    resend_from: SeqNum,
    judge_from: SeqNum,
}

impl Records {
    const fn new() -> Records {
        Records {
            recent: Recent::new(),
            queue: VecDeque::new(),
            resent: VecDeque::new(),
            sacked: 0,
            lost: 0,
            resend_from: SeqNum(0),
            judge_from: SeqNum(0),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes reported by SACK.
    pub(crate) fn sacked(&self) -> usize {
        self.sacked as usize
    }

    /// Bytes judged lost and not sent again.
    pub(crate) fn lost(&self) -> usize {
        self.lost as usize
    }

    /// The oldest record.
    pub(crate) fn first(&self) -> Option<&Sent> {
        self.queue.front()
    }

    fn fate(&self, seq: SeqNum) -> Option<Fate> {
        self.queue.get(self.index_of(seq)).filter(|r| r.start <= seq).map(|r| r.fate)
    }

    /// Whether `seq` is judged lost and was not sent again.
    pub(crate) fn is_lost(&self, seq: SeqNum) -> bool {
        self.fate(seq) == Some(Fate::Lost)
    }

    /// Whether the peer reported `seq`.
    pub(crate) fn is_sacked(&self, seq: SeqNum) -> bool {
        self.fate(seq) == Some(Fate::Sacked)
    }

    /// The newest record.
    pub(crate) fn last(&self) -> Option<&Sent> {
        self.queue.back()
    }

    /// Bytes were sent for the first time. Returns whether they share a record with those before.
    pub(crate) fn push(&mut self, start: SeqNum, end: SeqNum, stamp: Stamp) -> bool {
        if self.queue.is_empty() {
            (self.resend_from, self.judge_from) = (start, start);
        } else if self.queue.len() >= PUSH_RECORDS_MAX
            && let Some(last) = self.queue.back_mut()
            && last.fate == Fate::InFlight
            && last.resent == 0
            && last.bytes() < SHARED_BYTES_MAX
        {
            // The older state makes rates smaller, the newer time makes loss later.
            last.end = end;
            last.stamp.sent_at = stamp.sent_at;
            return true;
        }
        let fate = Fate::InFlight;
        self.queue.push_back(Sent { stamp, start, end, run_end: start, fate, resent: 0 });
        false
    }

    /// Where `seq` is, or would be.
    fn index_of(&self, seq: SeqNum) -> usize {
        match self.queue.front() {
            Some(first) if first.end <= seq => self.queue.partition_point(|r| r.end <= seq),
            _ => 0,
        }
    }

    fn uncount(&mut self, fate: Fate, bytes: u32) {
        match fate {
            Fate::InFlight => {}
            Fate::Sacked => self.sacked -= bytes,
            Fate::Lost => self.lost -= bytes,
        }
    }

    /// Everything below `una` was acknowledged; `f` sees what that delivers, piece by piece.
    pub(crate) fn ack(&mut self, una: SeqNum, mut f: impl FnMut(&Sent)) {
        while let Some(first) = self.queue.front_mut() {
            let whole = first.end <= una;
            let mut gone = *first;
            if !whole {
                if first.start >= una {
                    break;
                }
                gone.end = una;
                first.start = una;
            }
            self.uncount(gone.fate, gone.bytes());
            f(&gone);
            if !whole {
                break;
            }
            self.queue.pop_front();
        }
        // Left behind, they would be ahead again after two gigabytes.
        self.resend_from = self.resend_from.max(una);
        self.judge_from = self.judge_from.max(una);
        if self.queue.is_empty() {
            self.resent.clear();
            if self.queue.capacity() > RECORDS_KEPT {
                (self.queue, self.resent) = (VecDeque::new(), VecDeque::new());
            }
        }
    }

    /// The peer reports a block within the flight; `f` sees what that delivers, as it was before.
    /// Returns whether all of it could be noted.
    pub(crate) fn sack(&mut self, block: SackBlock, mut f: impl FnMut(&Sent)) -> bool {
        let (start, end) = block;
        let mut i = self.index_of(start);
        let mut reached = end;
        while let Some(r) = self.queue.get(i).copied().filter(|r| r.start < end) {
            if r.fate == Fate::Sacked {
                // A run known from earlier reports.
                i = if r.run_end > r.end { self.index_of(r.run_end) } else { i + 1 };
                continue;
            }
            let full = self.queue.len() >= SPLIT_RECORDS_MAX;
            if r.start < start {
                if full {
                    reached = start;
                    break;
                }
                self.split(i, start);
                i += 1;
                continue;
            }
            if r.end > end {
                if full {
                    reached = r.start;
                    break;
                }
                self.split(i, end);
            }
            let r = &mut self.queue[i];
            f(r);
            let (fate, bytes) = (r.fate, r.bytes());
            (r.fate, r.run_end) = (Fate::Sacked, r.end);
            self.uncount(fate, bytes);
            self.sacked += bytes;
            i += 1;
        }
        let first = self.index_of(start);
        if let Some(r) = self.queue.get_mut(first).filter(|r| r.fate == Fate::Sacked) {
            r.run_end = r.run_end.max(reached);
        }
        reached == end
    }

    /// Cuts record `i` at `at`, which is inside.
    fn split(&mut self, i: usize, at: SeqNum) {
        let left = &mut self.queue[i];
        let mut right = *left;
        left.end = at;
        right.start = at;
        if left.fate == Fate::Sacked {
            left.run_end = at;
        }
        self.queue.insert(i + 1, right);
    }

    /// Whether the first bytes in flight are a repetition.
    pub(crate) fn first_was_resent(&self) -> bool {
        self.queue.front().is_some_and(|r| r.resent > 0)
    }

    /// The front record is reported although it was not acknowledged: the peer dropped what it
    /// had reported (RFC 2018 section 8).
    pub(crate) fn reneged(&self) -> bool {
        self.queue.front().is_some_and(|r| r.fate == Fate::Sacked)
    }

    fn mark_lost(&mut self, i: usize, mut f: impl FnMut(&Sent)) {
        let r = &mut self.queue[i];
        if r.fate != Fate::InFlight {
            return;
        }
        f(r);
        r.fate = Fate::Lost;
        let (start, bytes) = (r.start, r.bytes());
        self.resend_from = if self.lost == 0 { start } else { self.resend_from.min(start) };
        self.lost += bytes;
    }

    /// The first `bytes` in flight are lost, whatever is known about them; `f` sees them if they
    /// were not known to be.
    pub(crate) fn lose_front(&mut self, bytes: u32, f: impl FnMut(&Sent)) {
        if let Some(first) = self.queue.front().filter(|r| r.fate == Fate::InFlight) {
            if first.bytes() > bytes {
                let at = first.start + bytes;
                self.split(0, at);
            }
            self.mark_lost(0, f);
        }
    }

    /// Everything in flight that left at or before `until`, and the first record, is lost; with
    /// `reports_void`, so is what was reported. Returns bytes newly lost.
    pub(crate) fn lose_all(&mut self, until: Instant, reports_void: bool) -> u32 {
        let before = self.lost;
        for i in 0..self.queue.len() {
            let r = &mut self.queue[i];
            if reports_void && r.fate == Fate::Sacked {
                r.fate = Fate::InFlight;
                self.sacked -= r.bytes();
            }
            if i == 0 || self.queue[i].stamp.sent_at <= until {
                self.mark_lost(i, |_| {});
            }
        }
        self.judge_anew();
        self.lost - before
    }

    /// Nothing was lost after all: what waits to be sent again is in flight. Returns how many
    /// bytes.
    pub(crate) fn unlose(&mut self) -> u32 {
        let before = self.lost;
        if before > 0 {
            for r in self.queue.iter_mut().filter(|r| r.fate == Fate::Lost) {
                r.fate = Fate::InFlight;
            }
            self.lost = 0;
            self.judge_anew();
        }
        before
    }

    /// What was judged or reported may be in flight again.
    fn judge_anew(&mut self) {
        self.resent.clear();
        let again = self.queue.iter().filter(|r| r.fate == Fate::InFlight && r.resent > 0);
        self.resent.extend(again.map(Resent::of));
        self.resent.make_contiguous().sort_by_key(|t| t.at);
        if let Some(first) = self.queue.front() {
            self.judge_from = first.start;
        }
    }

    /// The first bytes that are lost and not sent again: whole records, no longer than `most` if
    /// there are several.
    pub(crate) fn next_lost(&mut self, most: u32) -> Option<(SeqNum, SeqNum)> {
        if self.lost == 0 {
            return None;
        }
        let mut i = self.index_of(self.resend_from);
        while let Some(r) = self.queue.get(i).filter(|r| r.fate != Fate::Lost) {
            let jump = r.fate == Fate::Sacked && r.run_end > r.end;
            i = if jump { self.index_of(r.run_end) } else { i + 1 };
        }
        let first = self.queue.get(i)?;
        let (start, mut end) = (first.start, first.end);
        self.resend_from = start;
        let lost = self.queue.range(i + 1..).take_while(|r| r.fate == Fate::Lost);
        for r in lost {
            if end - start >= most {
                break;
            }
            end = r.end;
        }
        Some((start, end))
    }

    /// `[start, end)` was sent again.
    pub(crate) fn resend(&mut self, start: SeqNum, end: SeqNum, stamp: Stamp) {
        let mut i = self.index_of(start);
        if self.queue.get(i).is_some_and(|r| r.start < start) {
            self.split(i, start);
            i += 1;
        }
        while let Some(r) = self.queue.get(i).filter(|r| r.start < end) {
            if r.end > end {
                self.split(i, end);
            }
            let r = &mut self.queue[i];
            let (fate, bytes) = (r.fate, r.bytes());
            if fate != Fate::Sacked {
                r.fate = Fate::InFlight;
                r.stamp = stamp;
                r.resent = r.resent.saturating_add(1);
                self.uncount(fate, bytes);
            }
            i += 1;
        }
        if self.resend_from == start {
            self.resend_from = end;
        }
        self.drop_stale();
        // Twice as many as there are records: most are out of date, and a timeout sees the rest.
        if self.resent.len() < 2 * self.queue.len() + RECORDS_KEPT {
            self.resent.push_back(Resent { at: stamp.sent_at, start, end });
        }
    }

    /// The first record of a repeated transmission that is still in flight, from `i` on.
    fn next_live(&self, mut i: usize, t: Resent) -> Option<usize> {
        loop {
            let r = self.queue.get(i).filter(|r| r.start < t.end)?;
            if r.fate == Fate::InFlight && r.stamp.sent_at == t.at {
                return Some(i);
            }
            i += 1;
        }
    }

    fn drop_stale(&mut self) {
        while let Some(t) = self.resent.front().copied() {
            if self.next_live(self.index_of(t.start), t).is_some() {
                return;
            }
            self.resent.pop_front();
        }
    }

    /// RFC 8985 6.2 step 5: what left before the `newest` delivered transmission, and `patience`
    /// or longer ago, is lost; `f` sees it.
    pub(crate) fn judge(
        &mut self,
        newest: Transmission,
        patience: Duration,
        now: Instant,
        mut f: impl FnMut(&Sent),
    ) -> Judged {
        let before = self.lost;
        let mut judged = Judged::default();
        let mut wait = |sent_at: Instant| {
            let left = (sent_at + patience).saturating_since(now);
            if !left.is_zero() {
                judged.wait = Some(judged.wait.map_or(left, |w| w.min(left)));
            }
            left.is_zero()
        };
        let mut i = self.index_of(self.judge_from);
        while let Some(r) = self.queue.get(i) {
            if r.fate == Fate::InFlight && r.resent == 0 {
                if r.transmission().is_after(newest) || !wait(r.stamp.sent_at) {
                    break;
                }
                self.judge_from = r.end;
                self.mark_lost(i, &mut f);
                i += 1;
                continue;
            }
            let jump = r.fate == Fate::Sacked && r.run_end > r.end;
            self.judge_from = if jump { r.run_end } else { r.end };
            i = if jump { self.index_of(r.run_end) } else { i + 1 };
        }
        let mut lost_again = 0;
        while let Some(t) = self.resent.front().copied() {
            let mut live = self.next_live(self.index_of(t.start), t);
            if live.is_some() && (t.transmission().is_after(newest) || !wait(t.at)) {
                break;
            }
            while let Some(i) = live {
                lost_again += 1;
                self.mark_lost(i, &mut f);
                live = self.next_live(i + 1, t);
            }
            self.resent.pop_front();
        }
        judged.lost_again = lost_again;
        judged.lost = self.lost - before;
        judged
    }

    /// Whether nothing is reported and nothing was sent again, and what is left was sent after
    /// `newest`, the newest that was delivered: then [`Records::judge`] finds nothing.
    pub(crate) fn is_behind(&self, newest: Transmission) -> bool {
        let first = self.queue.front();
        self.sacked == 0
            && self.resent.is_empty()
            && first.is_none_or(|r| {
                r.fate == Fate::InFlight
                    && r.resent == 0
                    && r.start == self.judge_from
                    && r.transmission().is_after(newest)
            })
    }

    /// What has to hold between `una` and `nxt`.
    #[cfg(any(test, feature = "check"))]
    pub(crate) fn check(&self, una: SeqNum, nxt: SeqNum) -> Result<(), String> {
        let mut at = una;
        let (mut sacked, mut lost) = (0, 0);
        for r in &self.queue {
            if r.start != at || r.end <= r.start {
                return Err(format!("a record of {:?}..{:?} after {at:?}", r.start, r.end));
            }
            at = r.end;
            match r.fate {
                Fate::InFlight => {}
                Fate::Sacked => sacked += r.bytes(),
                Fate::Lost => lost += r.bytes(),
            }
            if r.fate == Fate::Lost && r.start < self.resend_from {
                return Err(format!("{:?} is lost, below {:?}", r.start, self.resend_from));
            }
        }
        if !self.queue.is_empty() && at != nxt {
            return Err(format!("records end at {at:?}, not {nxt:?}"));
        }
        if (sacked, lost) != (self.sacked, self.lost) {
            return Err(format!("{sacked} reported, {lost} lost; totals say {self:?}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPACE: u32 = 600;

    fn stamp(ms: u64) -> Stamp {
        let at = Instant::from_millis(ms);
        Stamp {
            sent_at: at,
            delivered: 0,
            delivered_at: at,
            first_sent_at: at,
            flight: 0,
            lost: 0,
            ce: 0,
            app_limited: false,
        }
    }

    fn sent(lens: &[u32]) -> Records {
        let mut q = Records::new();
        let mut at = SeqNum(0);
        for (i, len) in lens.iter().enumerate() {
            q.push(at, at + *len, stamp(i as u64));
            at += *len;
        }
        q
    }

    fn fates(q: &Records) -> Vec<(u32, u32, Fate)> {
        q.queue.iter().map(|r| (r.start.0, r.end.0, r.fate)).collect()
    }

    // RFC 2018 4
    #[test]
    fn a_report_inside_a_super_segment_splits_it() {
        let mut q = sent(&[1000]);
        let mut delivered = 0;
        q.sack((SeqNum(300), SeqNum(500)), |r| delivered += r.bytes());
        assert_eq!(delivered, 200);
        let expected =
            [(0, 300, Fate::InFlight), (300, 500, Fate::Sacked), (500, 1000, Fate::InFlight)];
        assert_eq!(fates(&q), expected);
    }

    // RFC 8985 5.2, 6.1
    #[test]
    fn each_record_knows_when_it_left_last_and_how_often_it_was_sent_again() {
        let mut q = sent(&[100, 100]);
        q.lose_front(100, |_| {});
        let (from, to) = q.next_lost(100).unwrap();
        q.resend(from, to, stamp(50));
        let seen = q.queue.iter().map(|r| (r.stamp.sent_at.as_millis(), r.resent));
        assert_eq!(seen.collect::<Vec<_>>(), [(50, 1), (1, 0)]);
    }

    #[test]
    fn reports_beyond_the_limit_of_records_are_ignored_and_told() {
        let mut q = sent(&[20_000]);
        let noted =
            (0..9000u32).filter(|i| q.sack((SeqNum(1 + i * 2), SeqNum(2 + i * 2)), |_| {})).count();
        assert!(noted < 2100, "{noted}");
        assert!(q.queue.len() <= SPLIT_RECORDS_MAX + 2);
        q.check(SeqNum(0), SeqNum(20_000)).unwrap();
    }

    #[test]
    fn tiny_segments_beyond_the_limit_share_a_record() {
        let mut q = Records::new();
        let shared = (0..40_000u32)
            .filter(|i| q.push(SeqNum(*i), SeqNum(i + 1), stamp(u64::from(*i))))
            .count();
        assert_eq!((q.queue.len(), shared), (PUSH_RECORDS_MAX, 40_000 - PUSH_RECORDS_MAX));
        q.check(SeqNum(0), SeqNum(40_000)).unwrap();
    }

    // RFC 8985 6.2
    // RFC 9293 3.4
    #[test]
    fn loss_is_found_after_gigabytes_without_one() {
        let mut q = Records::new();
        let (mut una, mut nxt) = (SeqNum(0), SeqNum(0));
        // Never empty, and nothing lost for three quarters of the sequence space.
        for i in 0..3u64 << 10 {
            q.push(nxt, nxt + (1 << 20), stamp(i));
            nxt += 1 << 20;
            if i > 0 {
                una += 1 << 20;
                q.ack(una, |_| {});
                let newest =
                    Transmission { at: Instant::from_millis(i - 1), end: una, resent: false };
                let judged = q.judge(newest, Duration::ZERO, Instant::from_millis(i), |_| {});
                assert_eq!(judged, Judged::default(), "{i}");
            }
        }
        q.push(nxt, nxt + 1000, stamp(5000));
        q.sack((nxt, nxt + 1000), |_| {});
        let newest =
            Transmission { at: Instant::from_millis(5000), end: nxt + 1000, resent: false };
        let judged = q.judge(newest, Duration::ZERO, Instant::from_millis(6000), |_| {});
        assert_eq!(judged.lost, 1 << 20);
        assert_eq!(q.next_lost(1000), Some((una, nxt)));
    }

    #[test]
    fn an_empty_queue_keeps_little_memory_and_an_idle_one_none() {
        let mut q = sent(&[1; 1000]);
        q.ack(SeqNum(1000), |_| {});
        assert!(q.queue.capacity() <= RECORDS_KEPT);
        let mut q = SentQueue::default();
        q.push(SeqNum(0), SeqNum(1), stamp(0));
        q.release();
        assert!(!q.is_empty(), "there is something in flight");
        q.ack(SeqNum(1), |_| {});
        q.release();
        assert!(q.0.is_none());
    }

    /// A byte: when it left, how often again, what is known.
    type Byte = (u64, u8, Fate);

    /// The same by the byte, without any cleverness.
    struct Model {
        bytes: Vec<Byte>,
        una: usize,
        nxt: usize,
    }

    impl Model {
        fn count(&self, fate: Fate) -> usize {
            self.flight().iter().filter(|b| b.2 == fate).count()
        }
        fn flight(&self) -> &[Byte] {
            &self.bytes[self.una..self.nxt]
        }
        fn set(&mut self, from: usize, to: usize, of: Fate, fate: Fate) -> usize {
            let part = self.bytes[from..to].iter_mut().filter(|b| b.2 == of);
            part.map(|b| b.2 = fate).count()
        }
        fn first_lost(&self) -> Option<usize> {
            (self.una..self.nxt).find(|i| self.bytes[*i].2 == Fate::Lost)
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_model_of_single_bytes(
            ops in proptest::collection::vec((0..8u8, 0..SPACE, 1..90u32, 0..20u64), 1..80),
            base in prop_oneof![Just(0u32), Just(u32::MAX - 200)],
        ) {
            let base = SeqNum(base);
            let mut q = Records::new();
            let mut m = Model { bytes: vec![(0, 0, Fate::InFlight); SPACE as usize], una: 0, nxt: 0 };
            for (clock, (op, a, n, back)) in ops.into_iter().enumerate() {
                let now = 100 + clock as u64 * 3;
                let flight = m.nxt - m.una;
                match op {
                    0 | 1 => {
                        let end = (m.nxt + n as usize).min(SPACE as usize);
                        if end > m.nxt {
                            q.push(base + m.nxt as u32, base + end as u32, stamp(now));
                            m.bytes[m.nxt..end].fill((now, 0, Fate::InFlight));
                            m.nxt = end;
                        }
                    }
                    2 | 3 if flight > 1 => {
                        let from = m.una + 1 + a as usize % (flight - 1);
                        let to = (from + n as usize).min(m.nxt);
                        let mut new = 0;
                        let block = (base + from as u32, base + to as u32);
                        prop_assert!(q.sack(block, |r| new += r.bytes() as usize));
                        let expected = m.set(from, to, Fate::InFlight, Fate::Sacked)
                            + m.set(from, to, Fate::Lost, Fate::Sacked);
                        prop_assert_eq!(new, expected);
                    }
                    4 if flight > 0 => {
                        let to = m.una + a as usize % (flight + 1);
                        let mut new = 0;
                        q.ack(base + to as u32, |r| {
                            new += if r.fate == Fate::Sacked { 0 } else { r.bytes() as usize };
                        });
                        let part = &m.bytes[m.una..to];
                        prop_assert_eq!(new, part.iter().filter(|b| b.2 != Fate::Sacked).count());
                        m.una = to;
                    }
                    5 => {
                        // Between two instants at which something left.
                        let at = Instant::from_millis(now - back) + Duration::from_micros(1);
                        let newest = Transmission { at, end: base, resent: true };
                        let patience = Duration::from_millis(u64::from(n) / 8);
                        let judged =
                            q.judge(newest, patience, Instant::from_millis(now), |_| {});
                        let until = (now - back).min(now - u64::from(n) / 8);
                        let (una, nxt) = (m.una, m.nxt);
                        let late = m.bytes[una..nxt].iter_mut();
                        let late = late.filter(|b| b.2 == Fate::InFlight && b.0 <= until);
                        prop_assert_eq!(judged.lost as usize, late.map(|b| b.2 = Fate::Lost).count());
                    }
                    6 => {
                        let first = m.first_lost().map(|i| base + i as u32);
                        let next = q.next_lost(n);
                        prop_assert_eq!(next.map(|n| n.0), first);
                        if let Some((from, to)) = next {
                            let to = to.min(from + n);
                            let run = (from - base) as usize..(to - base) as usize;
                            prop_assert!(m.bytes[run.clone()].iter().all(|b| b.2 == Fate::Lost));
                            q.resend(from, to, stamp(now));
                            for b in &mut m.bytes[run] {
                                *b = (now, b.1 + 1, Fate::InFlight);
                            }
                        }
                    }
                    7 if back < 4 && flight > 0 => {
                        if back < 2 {
                            let void = back == 0;
                            let first_end = q.queue[0].end;
                            q.lose_all(Instant::from_millis(now - 10), void);
                            let (una, nxt) = (m.una, m.nxt);
                            if void {
                                m.set(una, nxt, Fate::Sacked, Fate::InFlight);
                            }
                            for i in una..nxt {
                                let first = base + (i as u32) < first_end;
                                let b = &mut m.bytes[i];
                                if b.2 == Fate::InFlight && (first || b.0 <= now - 10) {
                                    b.2 = Fate::Lost;
                                }
                            }
                        } else {
                            let (una, nxt) = (m.una, m.nxt);
                            prop_assert_eq!(q.unlose() as usize, m.count(Fate::Lost));
                            m.set(una, nxt, Fate::Lost, Fate::InFlight);
                        }
                    }
                    _ => {}
                }
                if let Err(wrong) = q.check(base + m.una as u32, base + m.nxt as u32) {
                    prop_assert!(false, "{}", wrong);
                }
                let bytes = q.queue.iter().flat_map(|r| {
                    let at = r.stamp.sent_at.as_millis();
                    std::iter::repeat_n((at, r.resent, r.fate), r.bytes() as usize)
                });
                prop_assert_eq!(bytes.collect::<Vec<_>>(), m.flight());
            }
        }
    }
}
