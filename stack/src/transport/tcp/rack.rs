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

/// What RACK remembers of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Rack {
    /// The newest delivered transmission.
    newest: Option<Transmission>,
    /// Its round trip.
    rtt: Duration,
    /// Highest sequence number delivered.
    fack: SeqNum,
    /// Times something arrived later than what was sent after it.
    pub(crate) reordered: u32,
    /// Quarters of a round trip to wait.
    reo_wnd_mult: u8,
    reo_wnd_persist: u8,
    /// The round in which a duplicate was reported.
    dsack_round: Option<SeqNum>,
    /// When the next record is lost.
    pub(crate) at: Option<Instant>,
    pub(crate) probe: TailProbe,
}

impl Rack {
    pub(crate) fn new(iss: SeqNum) -> Rack {
        Rack {
            newest: None,
            rtt: Duration::ZERO,
            fack: iss,
            reordered: 0,
            reo_wnd_mult: 1,
            reo_wnd_persist: 0,
            dsack_round: None,
            at: None,
            probe: TailProbe::default(),
        }
    }

    /// RFC 8985 6.2 steps 1 to 3. `resent_echo`: when the segment that the peer's timestamp
    /// echoes left at the earliest, if timestamps are in use.
    fn update(&mut self, now: Instant, newly: &Newly, rtt_min: Duration, echoed: Option<Instant>) {
        let Some(sent) = newly.newest() else { return };
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
        if newly.lowest_once.is_some_and(|end| end < self.fack) {
            self.reordered = self.reordered.saturating_add(1);
        }
        if let Some(highest) = newly.highest {
            self.fack = self.fack.max(highest);
        }
    }

    /// RFC 8985 6.2 step 4: a duplicate says that the window was too small; once per round.
    pub(crate) fn on_dsack(&mut self, una: SeqNum, nxt: SeqNum) {
        if self.dsack_round.is_some_and(|round| una >= round) {
            self.dsack_round = None;
        }
        if self.dsack_round.is_none() {
            self.dsack_round = Some(nxt);
            self.reo_wnd_mult = self.reo_wnd_mult.saturating_add(1);
            self.reo_wnd_persist = PERSIST_RECOVERIES;
        }
    }

    /// The newest delivered transmission may be another one.
    pub(crate) fn forget(&mut self) {
        self.newest = None;
    }

    /// A recovery is over.
    pub(crate) fn on_recovered(&mut self) {
        self.reo_wnd_persist = self.reo_wnd_persist.saturating_sub(1);
        if self.reo_wnd_persist == 0 {
            self.reo_wnd_mult = 1;
        }
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
        let echoed = echo.filter(|_| self.ts_ok).map(|echo| {
            // The latest time at which our clock showed the echoed value.
            let age = self.timestamp(cx.now).wrapping_sub(echo);
            let end = cx.now.as_millis().saturating_sub(u64::from(age)) + 1;
            Instant::from_nanos(Instant::from_millis(end).as_nanos() - 1)
        });
        let rtt_min = self.rtt.min().unwrap_or_default();
        let before = self.rack.reordered;
        self.rack.update(cx.now, newly, rtt_min, echoed);
        cx.stats.sack_reorder += u64::from(self.rack.reordered - before);
    }

    /// RFC 8985 6.2 step 5: marks what is lost and arms the timer for what may be soon.
    pub(crate) fn rack_judge(&mut self, cx: &mut Cx<'_>) -> Judged {
        self.rack.at = None;
        let Some(newest) = self.rack.newest.filter(|_| self.sack_ok && !self.sent.is_empty())
        else {
            return Judged::default();
        };
        let patience = self.rack.rtt + self.reo_wnd();
        let (delivery, cc) = (&mut self.delivery, &mut self.cc);
        let judged = self.sent.judge(newest, patience, cx.now, |sent| {
            cc.on_lost(&delivery.lose(sent));
        });
        self.rack.at = judged.wait.map(|wait| cx.now + wait);
        cx.stats.lost_retransmit += u64::from(judged.lost_again);
        judged
    }

    /// RFC 8985 6.3: what a timeout does not call lost had no time to arrive yet.
    pub(crate) fn rack_timeout_until(&self, now: Instant) -> Instant {
        let patience = self.rack.rtt + self.reo_wnd();
        let nanos = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        Instant::from_nanos(now.as_nanos().saturating_sub(nanos))
    }
}
