//! RACK (RFC 8985): loss by time. What left before something that was delivered, and has had a
//! round trip and some patience for reordering, is lost.
//!
//! Only with SACK (RFC 8985 section 4).

use core::time::Duration;

use crate::seq::SeqNum;
use crate::time::Instant;

use super::cc::Controller;
use super::rate::Newly;
use super::recovery::Phase;
use super::sent::{Judged, Transmission};
use super::state::{Connection, Cx};
use super::tail_probe::TailProbe;

/// RFC 8985 6.2 step 4: segments reported before reordering is ruled out.
const DUP_THRESH: usize = 3;

/// RFC 8985 6.2 step 4: recoveries without a duplicate that the larger window lasts.
const PERSIST_RECOVERIES: u8 = 16;

/// What RACK learnt about the path.
#[derive(Clone, Debug)]
pub(crate) struct Rack {
    /// Times something arrived later than what was sent after it.
    pub(crate) reordered: u32,
    /// Quarters of a round trip to wait.
    reo_wnd_mult: u8,
    reo_wnd_persist: u8,
    /// A probe of a single segment was too early for the peer's delayed acknowledgement.
    pub(crate) acks_late: bool,
}

impl Default for Rack {
    fn default() -> Rack {
        Rack { reordered: 0, reo_wnd_mult: 1, reo_wnd_persist: 0, acks_late: false }
    }
}

impl Rack {
    pub(crate) fn saw_reordering(&mut self) {
        self.reordered = self.reordered.saturating_add(1);
    }

    /// What holds on another path: what the peer does.
    pub(crate) fn on_another_path(&self) -> Rack {
        Rack { acks_late: self.acks_late, ..Rack::default() }
    }

    /// A recovery is over.
    pub(crate) fn on_recovered(&mut self) {
        self.reo_wnd_persist = self.reo_wnd_persist.saturating_sub(1);
        if self.reo_wnd_persist == 0 {
            self.reo_wnd_mult = 1;
        }
    }
}

/// What RACK knows of a flight.
#[derive(Clone, Debug)]
pub(crate) struct Recent {
    /// The newest delivered transmission.
    newest: Option<Transmission>,
    /// Its round trip.
    rtt: Duration,
    /// Highest sequence number delivered.
    fack: Option<SeqNum>,
    /// The round in which a duplicate was reported.
    dsack_round: Option<SeqNum>,
    /// When the next record is lost.
    pub(crate) at: Option<Instant>,
    pub(crate) probe: TailProbe,
}

impl Recent {
    pub(crate) const fn new() -> Recent {
        Recent {
            newest: None,
            rtt: Duration::ZERO,
            fack: None,
            dsack_round: None,
            at: None,
            probe: TailProbe::NONE,
        }
    }

    /// The newest delivered transmission may be another one.
    pub(crate) fn forget(&mut self) {
        self.newest = None;
    }

    /// RFC 8985 6.2 steps 1 to 3. `echoed`: when what the peer's timestamp echoes left at the
    /// latest, if timestamps are in use. Returns whether something arrived out of order.
    fn update(
        &mut self,
        now: Instant,
        newly: &Newly,
        rtt_min: Duration,
        echoed: Option<Instant>,
    ) -> bool {
        let Some(sent) = newly.newest() else { return false };
        let at = sent.stamp.sent_at;
        let rtt = now.saturating_since(at);
        // The acknowledgement of an earlier transmission says nothing about this one.
        let ambiguous =
            sent.resent > 0 && (rtt < rtt_min || echoed.is_some_and(|echoed| echoed < at));
        let transmission = sent.transmission();
        if !ambiguous && self.newest.is_none_or(|newest| transmission.is_after(newest)) {
            self.newest = Some(transmission);
            self.rtt = rtt;
        }
        let fack = self.fack;
        self.fack = fack.into_iter().chain(newly.highest).reduce(SeqNum::max);
        fack.is_some_and(|fack| newly.lowest_once.is_some_and(|end| end < fack))
    }

    /// A duplicate is reported: whether for the first time in this round.
    fn starts_dsack_round(&mut self, una: SeqNum, nxt: SeqNum) -> bool {
        // A round that ends neither in this flight nor behind it ended gigabytes ago.
        let new = self.dsack_round.is_none_or(|round| una >= round || round > nxt);
        if new {
            self.dsack_round = Some(nxt);
        }
        new
    }
}

impl Connection {
    /// RFC 8985 6.2 step 4: how long what was overtaken is waited for.
    pub(crate) fn reo_wnd(&self) -> Duration {
        if self.rack.reordered == 0 {
            let reported = self.sent.sacked().div_ceil(self.mss_full());
            if self.recovery.phase != Phase::Open || reported >= DUP_THRESH {
                return Duration::ZERO;
            }
        }
        let srtt = self.rtt.srtt().unwrap_or_default();
        let wnd = self.rtt.min().unwrap_or_default() / 4 * u32::from(self.rack.reo_wnd_mult);
        wnd.min(srtt)
    }

    /// An acknowledgement delivered something.
    pub(crate) fn rack_update(&mut self, cx: &mut Cx<'_>, newly: &Newly, echo: Option<u32>) {
        let resent = newly.newest().is_some_and(|sent| sent.resent > 0);
        let echoed = echo.filter(|_| self.ts_ok && resent).map(|echo| self.echoed_at(cx.now, echo));
        let rtt_min = self.rtt.min().unwrap_or_default();
        if self.sent.recent.update(cx.now, newly, rtt_min, echoed) {
            self.rack.saw_reordering();
            cx.stats.sack_reorder += 1;
        }
    }

    /// RFC 8985 6.2 step 4: a duplicate says that the window was too small; once per round.
    pub(crate) fn rack_on_dsack(&mut self) {
        let (una, nxt) = (self.snd_una, self.snd_nxt);
        if self.sent.existing().is_none_or(|sent| sent.recent.starts_dsack_round(una, nxt)) {
            self.rack.reo_wnd_mult = self.rack.reo_wnd_mult.saturating_add(1);
            self.rack.reo_wnd_persist = PERSIST_RECOVERIES;
        }
    }

    /// RFC 8985 6.2 step 5: marks what is lost and arms the timer for what may be soon.
    pub(crate) fn rack_judge(&mut self, cx: &mut Cx<'_>) -> Judged {
        self.sent.recent.at = None;
        let Some(newest) =
            self.sent.recent.newest.filter(|_| self.sack_ok && !self.sent.is_empty())
        else {
            return Judged::default();
        };
        if self.sent.is_behind(newest) {
            return Judged::default();
        }
        let patience = self.sent.recent.rtt + self.reo_wnd();
        let (delivery, cc) = (&mut self.delivery, &mut self.cc);
        let mtu_probe = self.path.probe_start();
        let judged = self.sent.judge(newest, patience, cx.now, |sent| {
            if Some(sent.start) != mtu_probe {
                cc.on_lost(&delivery.lose(sent));
            }
        });
        self.sent.recent.at = judged.wait.map(|wait| cx.now + wait);
        cx.stats.lost_retransmit += u64::from(judged.lost_again);
        judged
    }

    /// RFC 8985 6.3: what a timeout does not call lost had no time to arrive yet.
    pub(crate) fn rack_timeout_until(&self, now: Instant) -> Instant {
        let patience = self.sent.recent.rtt + self.reo_wnd();
        let nanos = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        Instant::from_nanos(now.as_nanos().saturating_sub(nanos))
    }
}
