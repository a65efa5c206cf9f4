//! Tail loss probes (RFC 8985 section 7): when the last segments of a flight stay unanswered, one
//! more segment makes the peer answer, and RACK sees what is missing without a timeout.

use core::time::Duration;

use crate::seq::SeqNum;
use crate::time::Instant;
use crate::wire::tcp::{Flags, Header};

use super::cc::{Cause, Congestion, Controller};
use super::output::{PathLimits, SegmentOut};
use super::recovery::Phase;
use super::state::{Connection, Cx};

/// RFC 8985 7.2 `TLP.max_ack_delay`: how long a peer may sit on the acknowledgement of one segment.
/// Most delay it by 40 ms at most, or by a round trip where that is longer.
const MAX_ACK_DELAY: Duration = Duration::from_millis(50);

/// The same for a peer that answered a probe of one segment with a duplicate's report.
const MAX_ACK_DELAY_PATIENT: Duration = Duration::from_millis(200);

/// What timers and schedulers of both ends add to two round trips.
const SLACK: Duration = Duration::from_millis(2);

/// RFC 8985 7.2: before the first round-trip sample.
const TIMEOUT_INITIAL: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub(crate) struct TailProbe {
    /// When to probe.
    pub(crate) at: Option<Instant>,
    /// `snd_nxt` after the probe in flight (`TLP.end_seq`).
    end: Option<SeqNum>,
    /// It repeats data.
    repeats: bool,
    /// Nothing else was in flight, and the acknowledgement may have been delayed.
    alone: bool,
    /// Asked for, not sent yet.
    pub(crate) due: bool,
}

impl TailProbe {
    pub(crate) const NONE: TailProbe =
        TailProbe { at: None, end: None, repeats: false, alone: false, due: false };

    /// Recovery begins: whatever the probe shows belongs to it.
    pub(crate) fn forget(&mut self) {
        *self = TailProbe::NONE;
    }
}

impl Connection {
    /// RFC 8985 7.2: after new data left or progress was acknowledged.
    pub(crate) fn schedule_probe(&mut self, now: Instant) {
        let Some(sent) = self.sent.existing() else { return };
        sent.recent.probe.at = None;
        let quiet = self.recovery.phase == Phase::Open
            && self.sent.sacked() == 0
            && self.sent.lost() == 0
            && self.sent.recent.probe.end.is_none()
            && !self.sent.is_empty();
        let Some(rtx_at) = self.rtx_at.filter(|_| quiet && self.sack_ok) else { return };
        let wait = self.rtt.srtt().map_or(TIMEOUT_INITIAL, |srtt| {
            let alone = self.flight() <= self.mss_full();
            srtt * 2 + if alone { self.max_ack_delay(srtt) } else { SLACK }
        });
        self.sent.recent.probe.at = Some((now + wait).min(rtx_at));
    }

    fn max_ack_delay(&self, srtt: Duration) -> Duration {
        if self.rack.acks_late { MAX_ACK_DELAY_PATIENT } else { MAX_ACK_DELAY.max(srtt) }
    }

    /// The probe's timer expired; the retransmission timer starts anew with it (RFC 8985 7.3).
    pub(crate) fn on_probe_timer(&mut self, cx: &Cx<'_>) {
        self.sent.recent.probe.at = None;
        if !self.sent.is_empty() {
            self.sent.recent.probe.due = true;
            self.rtx_at = Some(cx.now + self.rtt.rto());
        }
    }

    /// RFC 8985 7.3: one segment of new data, or the last one again, whatever the congestion
    /// window says.
    pub(crate) fn poll_tail_probe(
        &mut self,
        cx: &mut Cx<'_>,
        limits: &PathLimits,
    ) -> Option<SegmentOut> {
        if !self.sent.recent.probe.due {
            return None;
        }
        self.sent.recent.probe.due = false;
        if self.sent.is_empty() {
            return None;
        }
        cx.stats.loss_probes += 1;
        let mss = self.mss_now();
        let new = self.unsent().min(mss);
        let repeats = new == 0 || self.usable_window() < new;
        let alone = self.flight() <= self.mss_full();
        let out = if repeats { self.repeat_last(cx, mss)? } else { self.new_segment(cx, new, mss) };
        debug_assert!(out.payload_len <= limits.mtu, "a probe is one segment");
        self.sent.recent.probe =
            TailProbe { end: Some(self.snd_nxt), repeats, alone, ..TailProbe::NONE };
        Some(out)
    }

    fn repeat_last(&mut self, cx: &mut Cx<'_>, mss: usize) -> Option<SegmentOut> {
        let last = self.sent.last()?;
        let end = self.snd_nxt;
        let fin = u32::from(self.fin_sent);
        let start = last.start.max(end - fin - mss as u32);
        let len = (end - start - fin) as usize;
        let flags = if fin > 0 { Flags::ACK.with(Flags::FIN) } else { Flags::ACK };
        let stamp = self.stamp(cx, end - start);
        let out = self.data_segment(cx, start, (len, mss), flags);
        self.sent.resend(start, end, stamp);
        cx.stats.retrans_segs += 1;
        self.totals.losses.retransmits.tail_probe += 1;
        self.totals.losses.bytes_retransmitted += len as u64;
        Some(out)
    }

    /// RFC 8985 7.4.2: what an acknowledgement says about the probe in flight. When everything
    /// before it was acknowledged and no duplicate was reported, the probe repaired a loss, which
    /// is a sign of congestion like any other.
    pub(crate) fn probe_on_ack(&mut self, cx: &mut Cx<'_>, seg: &Header, duplicate: Duplicate) {
        let Some(end) = self.sent.recent.probe.end.filter(|end| seg.ack >= *end) else { return };
        let reported = duplicate.reported_end.is_some_and(|at| at >= end);
        if !self.sent.recent.probe.repeats || reported {
            // Nothing was lost: the peer takes its time.
            self.rack.acks_late |= reported && self.sent.recent.probe.alone;
            self.sent.recent.probe.end = None;
        } else if seg.ack > end {
            self.sent.recent.probe.end = None;
            cx.stats.loss_probe_recovery += 1;
            let (now, flight, snd_nxt) = (cx.now, self.flight(), self.snd_nxt);
            self.cc.on_congestion(&Congestion { now, cause: Cause::Loss, flight, snd_nxt });
            self.cc.on_recovered(now);
        } else if duplicate.bare {
            self.sent.recent.probe.end = None;
        }
    }
}

/// How an acknowledgement duplicates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Duplicate {
    /// The end of the duplicate that its first SACK block reports.
    pub(crate) reported_end: Option<SeqNum>,
    /// It is a duplicate acknowledgement without SACK blocks.
    pub(crate) bare: bool,
}
