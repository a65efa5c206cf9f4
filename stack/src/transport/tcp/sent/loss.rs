//! What of a flight is lost, and what was sent again: by timeouts, by duplicates and by RACK.

use core::time::Duration;

use crate::seq::SeqNum;
use crate::time::Instant;

use super::record::{Fate, Resent, Sent, Stamp, Transmission};
use super::{RECORDS_KEPT, Records};

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

impl Records {
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
}
