//! From loss to its repair: fast recovery, proved by RACK (RFC 8985) or without SACK by three
//! duplicates (RFC 5681, 6582), and recovery after a timeout (RFC 6298). What is lost stands in
//! the records (`sent`), what may leave in `window`.

use crate::seq::SeqNum;
use crate::socket::tcp::TcpState;

use super::cc::{Cause, Congestion, Controller};
use super::prr::{Progress, Prr};
use super::rate::Newly;
use super::state::{Connection, Cx};
use super::undo::{Episode, Frto};

/// RFC 5681 section 3.2.
const DUP_THRESH: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// Loss was shown by acknowledgements.
    Fast,
    /// Loss was shown by a timeout.
    Timeout,
    /// What was in flight is cut anew for a smaller path MTU.
    Resegment,
}

impl Phase {
    /// As dumps show it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Phase::Open | Phase::Resegment => "open",
            Phase::Fast => "recovery",
            Phase::Timeout => "loss",
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Recovery {
    pub(crate) phase: Phase,
    /// Recovery ends when this is acknowledged.
    pub(crate) recover: SeqNum,
    /// Duplicate acknowledgements, each of which stands for a segment that arrived (without SACK).
    pub(crate) dupacks: u32,
    /// The first segment goes out whatever the window says.
    pub(crate) force: bool,
    /// The last recovery, until the connection is idle.
    pub(crate) episode: Option<Box<Episode>>,
}

impl Recovery {
    pub(crate) fn new(iss: SeqNum) -> Recovery {
        Recovery { phase: Phase::Open, recover: iss, dupacks: 0, force: false, episode: None }
    }
}

impl Connection {
    /// Bytes in flight: sent, and neither acknowledged, reported nor lost (RFC 6675 `SetPipe`).
    /// Without SACK each duplicate acknowledgement stands for one segment that left the network.
    pub(crate) fn pipe(&self) -> usize {
        let gone = self.sent.sacked() + self.sent.lost();
        let unreported = if self.sack_ok || self.recovery.dupacks == 0 {
            0
        } else {
            (self.recovery.dupacks as usize).saturating_mul(self.mss_full())
        };
        self.flight().saturating_sub(gone).saturating_sub(unreported)
    }

    /// How many bytes may be in flight.
    pub(crate) fn window(&self) -> usize {
        self.reduction().map_or_else(|| self.cc.cwnd(), Prr::window)
    }

    /// Proportional rate reduction, while it rules.
    fn reduction(&self) -> Option<&Prr> {
        let rules = self.recovery.phase == Phase::Fast && self.sack_ok;
        let episode = self.recovery.episode.as_ref().filter(|_| rules)?;
        (!self.cc.governs_recovery()).then_some(&episode.prr)
    }

    /// An acknowledgement moved `snd_una` by `acked`, or is a `duplicate`, and delivers `newly`.
    pub(crate) fn recovery_on_ack(
        &mut self,
        cx: &mut Cx<'_>,
        acked: usize,
        duplicate: bool,
        newly: &Newly,
    ) {
        if self.recovery.phase == Phase::Timeout
            && self.frto_on_ack(cx, acked > 0, duplicate, newly)
        {
            return;
        }
        if acked > 0 {
            self.recovery_on_advance(cx, acked);
        } else if duplicate
            // After a timeout duplicates only echo what was sent twice.
            && self.recovery.phase != Phase::Timeout
            && (!self.sack_ok || newly.bytes > 0)
        {
            self.recovery.dupacks += 1;
        }
        let lost = self.detect_loss(cx, newly.bytes);
        self.reduce(acked > 0 && lost == 0, newly.bytes);
    }

    fn reduce(&mut self, safe: bool, delivered: usize) {
        if self.recovery.phase != Phase::Fast {
            return;
        }
        let (pipe, ssthresh, mss) = (self.pipe(), self.cc.ssthresh(), self.mss_full());
        if let Some(e) = &mut self.recovery.episode {
            e.prr.on_ack(&Progress { delivered, pipe, ssthresh, mss, safe });
        }
    }

    fn recovery_on_advance(&mut self, cx: &Cx<'_>, acked: usize) {
        let mss = self.mss_full();
        let r = &mut self.recovery;
        if r.phase == Phase::Open {
            r.dupacks = 0;
            if self.snd_una > r.recover {
                // Left behind, it would be ahead again after two gigabytes.
                r.recover = self.snd_una - 1;
            }
            return;
        }
        if self.snd_una >= r.recover {
            let fast = r.phase == Phase::Fast;
            (r.phase, r.dupacks, r.force) = (Phase::Open, 0, false);
            if fast {
                self.rack.on_recovered();
                self.cc.on_recovered(cx.now);
            }
            return;
        }
        // RFC 6582 3.2 step 3, partial acknowledgement: the next segment is lost as well.
        if !self.sack_ok && r.phase == Phase::Fast {
            r.dupacks = r.dupacks.saturating_sub((acked.div_ceil(mss) as u32).max(1) - 1);
            r.force = true;
            self.lose_first();
        }
    }

    /// Asks for what is lost by now, and starts fast recovery where there is some; `delivered`
    /// bytes are new. Returns how many bytes are newly lost.
    fn detect_loss(&mut self, cx: &mut Cx<'_>, delivered: usize) -> u32 {
        if self.flight() == 0 {
            if let Some(sent) = self.sent.existing() {
                sent.recent.at = None;
            }
            return 0;
        }
        let lost = self.rack_judge(cx).lost;
        if self.is_only_probe_lost(cx, lost) {
            return 0;
        }
        let starts = match self.recovery.phase {
            Phase::Open if self.sack_ok => self.sent.lost() > 0,
            // RFC 6582 3.2 step 2: not for what an earlier recovery sent twice.
            Phase::Open => {
                self.recovery.dupacks >= DUP_THRESH && self.snd_una > self.recovery.recover
            }
            Phase::Resegment => lost > 0,
            Phase::Fast | Phase::Timeout => false,
        };
        if starts {
            self.enter_fast_recovery(cx, delivered);
        }
        lost
    }

    /// Without SACK: the first segment is lost.
    fn lose_first(&mut self) {
        let mss = self.mss_full() as u32;
        let (delivery, cc) = (&mut self.delivery, &mut self.cc);
        self.sent.lose_front(mss, |sent| cc.on_lost(&delivery.lose(sent)));
    }

    /// RACK's timer.
    pub(crate) fn on_reorder_timer(&mut self, cx: &mut Cx<'_>) {
        self.detect_loss(cx, 0);
    }

    fn enter_fast_recovery(&mut self, cx: &mut Cx<'_>, delivered: usize) {
        cx.stats.fast_retrans += 1;
        if self.sack_ok {
            cx.stats.sack_recovery += 1;
        } else {
            cx.stats.reno_recovery += 1;
            self.lose_first();
        }
        let nxt = self.snd_nxt;
        let (now, flight) = (cx.now, self.flight());
        self.cc.on_congestion(&Congestion { now, cause: Cause::Loss, flight, snd_nxt: nxt });
        // RFC 9937 6.1: what was reported before is not delivered in recovery.
        let recover_fs = (flight + delivered).saturating_sub(self.sent.sacked());
        let prr = Prr::new(recover_fs, self.pipe(), self.mss_full());
        self.sent.recent.probe.forget();
        let r = &mut self.recovery;
        let episode = Episode::new(self.snd_una, false, prr);
        r.episode = Some(Box::new(episode.after_repetition(self.sent.first_was_resent())));
        (r.phase, r.recover, r.force) = (Phase::Fast, nxt, true);
    }

    /// The retransmission timer expired (RFC 6298 section 5, RFC 8985 6.3).
    pub(crate) fn enter_timeout_recovery(&mut self, cx: &mut Cx<'_>) {
        let first = self.rtx_count == 1;
        self.cc.on_timeout(cx.now, self.flight(), first);
        // RFC 2018 section 8: the peer may have dropped what it reported.
        let void = !first || self.sent.reneged();
        cx.stats.sack_reneging += u64::from(self.sent.reneged());
        let until = if self.sack_ok && !void { self.rack_timeout_until(cx.now) } else { cx.now };
        self.delivery.lost += u64::from(self.sent.lose_all(until, void));
        self.sent.recent.probe.forget();
        let r = &mut self.recovery;
        // RFC 5682 2.1 step 1: not in a recovery that a timeout began.
        let again = r.phase == Phase::Timeout && r.recover > self.snd_una;
        if first || r.episode.is_none() {
            r.episode = Some(Box::new(Episode::new(self.snd_una, true, Prr::default())));
        }
        if let Some(e) = &mut r.episode {
            e.frto = if again || void { Frto::Off } else { Frto::Resent };
        }
        (r.phase, r.recover, r.dupacks, r.force) = (Phase::Timeout, self.snd_nxt, 0, true);
    }

    /// The path moved, and all that is in flight was lost with the former one. The window shrinks as
    /// for any loss, but not to a segment as after a timeout: there the peer would sit on its
    /// acknowledgement, and nothing says that the new path is congested.
    pub(crate) fn enter_moved_recovery(&mut self, cx: &mut Cx<'_>) {
        let (now, flight, snd_nxt) = (cx.now, self.flight(), self.snd_nxt);
        if self.recovery.phase == Phase::Open {
            self.cc.on_congestion(&Congestion { now, cause: Cause::Loss, flight, snd_nxt });
            self.cc.on_recovered(now);
        }
        self.delivery.lost += u64::from(self.sent.lose_all(now, false));
        self.sent.recent.probe.forget();
        let r = &mut self.recovery;
        r.episode = Some(Box::new(Episode::new(self.snd_una, true, Prr::default())));
        (r.phase, r.recover, r.dupacks, r.force) = (Phase::Timeout, snd_nxt, 0, true);
    }

    /// The path takes less than was sent: cut it again, without a sign of congestion (RFC 1191
    /// section 6.4).
    pub(crate) fn resegment(&mut self, now: crate::time::Instant) {
        let synchronised =
            self.is_synchronised() && self.state != TcpState::TimeWait && !self.sent.is_empty();
        if !synchronised {
            return;
        }
        self.sent.lose_all(now, false);
        let r = &mut self.recovery;
        if r.phase == Phase::Open {
            (r.phase, r.recover) = (Phase::Resegment, self.snd_nxt);
        }
        (r.dupacks, r.force) = (0, true);
    }
}
