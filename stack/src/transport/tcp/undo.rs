//! Recoveries that were not needed, found out and taken back: by timestamps (RFC 3522), by
//! duplicates that the peer reports (RFC 3708), after a timeout by what arrives next (F-RTO, RFC
//! 5682). The response is the controller's (RFC 4015).

use crate::seq::SeqNum;
use crate::time::Instant;
use crate::wire::tcp::SackBlock;

use super::cc::Controller;
use super::prr::Prr;
use super::rate::Newly;
use super::recovery::Phase;
use super::state::{Connection, Cx};

/// F-RTO (RFC 5682 sections 2.1 and 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frto {
    Off,
    /// The first segment was sent again; nothing else is until it is acknowledged.
    Resent,
    /// New data was sent instead of more retransmissions.
    NewData,
}

/// What is remembered of the last recovery: it can be taken back after its end.
#[derive(Clone, Debug)]
pub(crate) struct Episode {
    pub(crate) prr: Prr,
    pub(crate) frto: Frto,
    timeout: bool,
    /// `snd_una` at the start.
    una: SeqNum,
    /// Bytes sent again that the peer did not report as duplicates.
    unproven: u32,
    resent: bool,
    /// Our timestamp when the first was sent again.
    resent_ts: u32,
    /// The first acknowledgement after that was looked at (RFC 3522 section 3.2 step 3).
    examined: bool,
    /// Taken back.
    undone: bool,
    /// When a timeout was found to be too early, until the estimate knows better.
    early_since: Option<Instant>,
}

impl Episode {
    pub(crate) fn new(una: SeqNum, timeout: bool, prr: Prr) -> Episode {
        Episode {
            prr,
            frto: Frto::Off,
            timeout,
            una,
            unproven: 0,
            resent: false,
            resent_ts: 0,
            examined: false,
            undone: false,
            early_since: None,
        }
    }

    /// The first segment in flight was sent again before, in an earlier recovery: an
    /// acknowledgement of that repetition is older than those of this recovery, and says nothing.
    pub(crate) fn after_repetition(mut self, resent: bool) -> Episode {
        self.examined |= resent;
        self
    }
}

/// How it was found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    Timestamp,
    Duplicates,
    Frto,
}

impl Connection {
    /// `bytes` are sent again in recovery.
    pub(crate) fn episode_resends(&mut self, cx: &Cx<'_>, bytes: u32) {
        let now = self.timestamp(cx.now);
        if let Some(e) = &mut self.recovery.episode {
            if !e.resent {
                (e.resent, e.resent_ts) = (true, now);
            }
            e.unproven = e.unproven.saturating_add(bytes);
            e.prr.on_send(bytes);
        }
    }

    /// Looks for proof that the last recovery was spurious.
    pub(crate) fn find_spurious(
        &mut self,
        cx: &mut Cx<'_>,
        advanced: bool,
        echo: Option<u32>,
        duplicate: Option<SackBlock>,
    ) {
        let recovering = matches!(self.recovery.phase, Phase::Fast | Phase::Timeout);
        let Some(e) = self.recovery.episode.as_mut().filter(|e| e.resent && !e.undone) else {
            return;
        };
        // RFC 3708 section 3: every byte sent again had arrived before.
        if let Some((start, end)) = duplicate.filter(|(start, _)| *start >= e.una) {
            let known = e.unproven > 0;
            e.unproven = e.unproven.saturating_sub(end - start);
            if known && e.unproven == 0 {
                self.undo(cx, Proof::Duplicates);
                return;
            }
        }
        // RFC 3522 section 3.2: the acknowledgement was caused by what was sent before.
        if advanced && recovering && !e.examined {
            e.examined = true;
            let older = |echo: u32| (echo.wrapping_sub(e.resent_ts) as i32) < 0;
            let timeout = e.timeout;
            if echo.is_some_and(|echo| self.ts_ok && echo != 0 && older(echo)) {
                self.undo(cx, Proof::Timestamp);
                if let Some(e) = self.recovery.episode.as_mut().filter(|_| timeout) {
                    e.early_since = Some(cx.now);
                }
            }
        }
    }

    /// RFC 4015: after a spurious timeout the estimate starts again from the round trip of data
    /// that was not sent before, here `sent_at`. The acknowledgement that proved the timeout
    /// spurious is no measure: it may be late because those before it were lost.
    pub(crate) fn adapt_after_spurious(&mut self, sent_at: Instant, now: Instant) {
        let Some(e) = &mut self.recovery.episode else { return };
        if e.early_since.is_some_and(|since| sent_at >= since) {
            e.early_since = None;
            self.rtt.restart(now - sent_at);
        }
    }

    /// F-RTO: an acknowledgement in recovery after a timeout. True if it took recovery back.
    pub(crate) fn frto_on_ack(
        &mut self,
        cx: &mut Cx<'_>,
        advanced: bool,
        duplicate: bool,
        newly: &Newly,
    ) -> bool {
        let (unsent, window) = (self.unsent(), self.usable_window());
        let can_send = unsent > 0 && window >= unsent.min(self.mss_now());
        let recover = self.recovery.recover;
        let done = self.snd_una >= recover;
        let Some(e) = self.recovery.episode.as_mut().filter(|e| e.timeout) else { return false };
        match e.frto {
            Frto::Off => {}
            // RFC 5682 2.1, 3.1 step 2; duplicates only say what else arrived.
            Frto::Resent if advanced => {
                e.frto = if can_send && !done { Frto::NewData } else { Frto::Off };
            }
            Frto::Resent if duplicate && !self.sack_ok => e.frto = Frto::Off,
            Frto::Resent => {}
            // Step 3: something arrived that was sent once, before the timeout.
            Frto::NewData => {
                if newly.original_end.is_some_and(|end| end <= recover) {
                    e.frto = Frto::Off;
                    self.undo(cx, Proof::Frto);
                    return true;
                }
                // The third segment of the window that step 3a allows is a repetition.
                if advanced || duplicate || newly.bytes > 0 {
                    e.frto = Frto::Off;
                    self.recovery.force = true;
                }
            }
        }
        false
    }

    /// New data goes before what is called lost (RFC 5682 2.1 step 2b).
    pub(crate) fn frto_holds(&self) -> bool {
        self.recovery.phase == Phase::Timeout
            && self.recovery.episode.as_ref().is_some_and(|e| e.frto == Frto::NewData)
    }

    fn undo(&mut self, cx: &mut Cx<'_>, proof: Proof) {
        let Some(e) = &mut self.recovery.episode else { return };
        (e.undone, e.frto) = (true, Frto::Off);
        let stats = &mut *cx.stats;
        match (proof, e.timeout) {
            (Proof::Duplicates, _) => stats.dsack_undo += 1,
            (Proof::Frto, _) => stats.spurious_rtos += 1,
            (Proof::Timestamp, true) => stats.loss_undo += 1,
            (Proof::Timestamp, false) => stats.full_undo += 1,
        }
        self.totals.losses.undos = self.totals.losses.undos.saturating_add(1);
        if e.timeout {
            // What was delivered last may be either transmission.
            self.sent.recent.forget();
        } else {
            // What looked lost was late.
            self.rack.saw_reordering();
        }
        self.cc.undo(cx.now);
        let r = &mut self.recovery;
        if matches!(r.phase, Phase::Fast | Phase::Timeout) {
            (r.phase, r.dupacks, r.force) = (Phase::Open, 0, false);
            self.sent.unlose();
        }
    }
}
