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
use std::collections::VecDeque;

use crate::seq::SeqNum;
use crate::wire::tcp::SackBlock;

use super::rack::Recent;

mod loss;
mod record;
#[cfg(test)]
mod tests;

pub(crate) use loss::Judged;
use record::Resent;
pub(crate) use record::{Fate, Sent, Stamp, Transmission};

/// SACK blocks split records up to this many records; what they report beyond is ignored, which
/// costs retransmissions only.
const SPLIT_RECORDS_MAX: usize = 4096;

/// From this many on, small segments share a record.
const PUSH_RECORDS_MAX: usize = 16_384;

/// A shared record is no longer than this.
const SHARED_BYTES_MAX: u32 = 64 << 10;

/// Capacity kept when nothing is in flight; it goes when the connection is idle.
const RECORDS_KEPT: usize = 64;

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
