//! What to send again and how much is in flight: fast recovery with SACK (RFC 6675) or without
//! (RFC 6582), and recovery after a timeout (RFC 5681, 6298).

use crate::seq::SeqNum;

use super::cc::{Cause, Congestion, Controller};
use super::state::{Connection, Cx};

/// RFC 5681 section 3.2.
const DUP_THRESH: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// Loss was shown by duplicate acknowledgements.
    Fast,
    /// Loss was shown by a timeout.
    Timeout,
}

#[derive(Clone, Debug)]
pub(crate) struct Recovery {
    pub(crate) phase: Phase,
    /// Recovery ends when this is acknowledged.
    pub(crate) recover: SeqNum,
    /// Unreported bytes below this are lost.
    pub(crate) lost_end: SeqNum,
    /// Lost bytes below this were sent again (RFC 6675 `HighRxt`).
    pub(crate) rtx_next: SeqNum,
    pub(crate) dupacks: u32,
    /// The first segment goes out whatever the window says.
    pub(crate) force: bool,
}

impl Recovery {
    pub(crate) fn new(iss: SeqNum) -> Recovery {
        Recovery {
            phase: Phase::Open,
            recover: iss,
            lost_end: iss,
            rtx_next: iss,
            dupacks: 0,
            force: false,
        }
    }
}

impl Connection {
    /// Bytes in flight (RFC 6675 `SetPipe`; without SACK each duplicate acknowledgement stands
    /// for one segment that left the network).
    pub(crate) fn pipe(&self) -> usize {
        let flight = self.flight();
        let r = &self.recovery;
        if self.sack_ok {
            if r.phase == Phase::Open {
                return flight - self.scoreboard.bytes().min(flight);
            }
            let from = r.lost_end.max(self.snd_una);
            return self.scoreboard.unreported(from, self.snd_nxt)
                + self.scoreboard.unreported(self.snd_una, r.rtx_next);
        }
        if r.phase == Phase::Open && r.dupacks == 0 {
            return flight;
        }
        let left = (r.dupacks as usize).saturating_mul(self.mss_full());
        let lost = r.lost_end.diff(r.rtx_next).max(0) as usize;
        flight.saturating_sub(left).saturating_sub(lost)
    }

    /// The next lost bytes that were not sent again.
    pub(crate) fn next_lost(&self) -> Option<(SeqNum, SeqNum)> {
        let r = &self.recovery;
        if r.phase == Phase::Open {
            return None;
        }
        self.scoreboard.next_hole(r.rtx_next.max(self.snd_una), r.lost_end)
    }

    /// `acked` new bytes were acknowledged, `snd_una` has moved.
    pub(crate) fn recovery_on_advance(&mut self, cx: &Cx<'_>, acked: usize) {
        let una = self.snd_una;
        let mss = self.mss_full();
        let r = &mut self.recovery;
        r.lost_end = r.lost_end.max(una);
        r.rtx_next = r.rtx_next.max(una);
        if r.phase == Phase::Open {
            r.dupacks = 0;
            return;
        }
        if una >= r.recover {
            let fast = r.phase == Phase::Fast;
            (r.phase, r.dupacks, r.force) = (Phase::Open, 0, false);
            (r.lost_end, r.rtx_next) = (una, una);
            if fast {
                self.cc.on_recovered(cx.now);
            }
            return;
        }
        // RFC 6582 3.2 step 3, partial acknowledgement: the next segment is lost as well.
        if !self.sack_ok && r.phase == Phase::Fast {
            r.dupacks = r.dupacks.saturating_sub((acked.div_ceil(mss) as u32).max(1) - 1);
            r.lost_end = (una + mss as u32).min(self.snd_nxt);
            r.rtx_next = una;
            r.force = true;
        }
    }

    /// An acknowledgement without progress: duplicate, or with `reported` new bytes by SACK.
    pub(crate) fn recovery_on_duplicate(
        &mut self,
        cx: &mut Cx<'_>,
        duplicate: bool,
        reported: usize,
    ) {
        // After a timeout duplicates only echo what was sent twice.
        let counts = self.recovery.phase != Phase::Timeout;
        if counts && duplicate && (!self.sack_ok || reported > 0) {
            self.recovery.dupacks += 1;
        }
        self.detect_loss(cx);
    }

    /// Moves the loss watermark and starts fast recovery where loss is proved.
    pub(crate) fn detect_loss(&mut self, cx: &mut Cx<'_>) {
        let mss = self.mss_full();
        let proved = if self.sack_ok { self.scoreboard.lost_below(mss) } else { None };
        if let Some(below) = proved {
            let r = &mut self.recovery;
            r.lost_end = r.lost_end.max(below);
        }
        if self.recovery.phase != Phase::Open || self.flight() == 0 {
            return;
        }
        let by_count = self.recovery.dupacks >= DUP_THRESH
            // RFC 6582 3.2 step 2: not for what an earlier recovery sent twice.
            && (self.sack_ok || self.snd_una > self.recovery.recover || self.rtx_never());
        if by_count || proved.is_some_and(|below| below > self.snd_una) {
            self.enter_fast_recovery(cx);
        }
    }

    fn rtx_never(&self) -> bool {
        self.totals.retransmits.total() == 0
    }

    fn enter_fast_recovery(&mut self, cx: &mut Cx<'_>) {
        cx.stats.fast_retrans += 1;
        if self.sack_ok {
            cx.stats.sack_recovery += 1;
        } else {
            cx.stats.reno_recovery += 1;
        }
        let mss = self.mss_full() as u32;
        let (una, nxt) = (self.snd_una, self.snd_nxt);
        let (now, flight) = (cx.now, self.flight());
        self.cc.on_congestion(&Congestion { now, cause: Cause::Loss, flight, snd_nxt: nxt });
        let r = &mut self.recovery;
        (r.phase, r.recover, r.rtx_next, r.force) = (Phase::Fast, nxt, una, true);
        // RFC 6675 section 5 step 4.3: the first segment goes whatever is proved about it.
        r.lost_end = r.lost_end.max((una + mss).min(nxt));
    }

    /// The retransmission timer expired: everything unreported is lost.
    pub(crate) fn enter_timeout_recovery(&mut self, cx: &mut Cx<'_>) {
        let first = self.rtx_count == 1;
        self.cc.on_timeout(cx.now, self.flight(), first);
        // RFC 2018 section 8: the peer may have dropped what it reported.
        if !first || self.scoreboard.reneged(self.snd_una) {
            self.scoreboard.clear();
        }
        let (una, nxt) = (self.snd_una, self.snd_nxt);
        let r = &mut self.recovery;
        (r.phase, r.recover, r.lost_end, r.rtx_next) = (Phase::Timeout, nxt, nxt, una);
        (r.dupacks, r.force) = (0, true);
        self.timed = None;
    }

    /// The path takes less than was sent: cut it again, without a sign of congestion (RFC 1191
    /// section 6.4).
    pub(crate) fn resegment(&mut self) {
        if self.flight() == 0 || !self.is_synchronised() {
            return;
        }
        let (una, nxt) = (self.snd_una, self.snd_nxt);
        let r = &mut self.recovery;
        if r.phase == Phase::Open {
            (r.phase, r.recover) = (Phase::Timeout, nxt);
        }
        (r.lost_end, r.rtx_next, r.dupacks, r.force) = (nxt, una, 0, true);
        self.timed = None;
    }
}
