//! The model of the path (5.5): bandwidth, aggregation, and what losses and marks say about
//! them.

use core::time::Duration;

use crate::transport::tcp::cc::{Acked, Lost};

use super::{Bbr, INFINITE, State, Undo};

/// 2.5: the loss rate per round trip that probing tolerates, in percent.
const LOSS_THRESH_PERCENT: u64 = 2;
/// Of a few hundred segments more than 2 % are lost by chance every few rounds where 1 % is the
/// rule: so many segments (5.3.1.3's `StartupFullLossCnt`), or a part of a smaller flight, prove
/// nothing.
const CHANCE_SEGMENTS: u64 = 5;
const CHANCE_DIVISOR: u64 = 10;
/// 2.5: `BBR.Beta`, in percent.
pub(super) const BETA_PERCENT: u64 = 70;
/// 2.10
const EXTRA_ACKED_FILTER_LEN: u64 = 10;

/// BBR.ecn_alpha is 1 at this value.
const ECN_ONE: u64 = 1 << 16;
/// The share of marks beyond which probing has gone too far: a half.
const ECN_THRESH_DIVISOR: u64 = 2;
/// The window falls by alpha divided by this.
const ECN_FACTOR_DIVISOR: u64 = 3;
/// Rounds of Startup with more marks than that, after which the pipe is full.
const ECN_FULL_ROUNDS: u32 = 2;

/// Marks, as BBRv3 of its authors takes them (the draft leaves it open, 3.6).
#[derive(Clone, Debug)]
pub(super) struct Ecn {
    /// Moving average of the share of marks per round, in 1 / [`ECN_ONE`].
    pub(super) alpha: u64,
    delivered: u64,
    marked: u64,
    in_round: bool,
    full_rounds: u32,
}

impl Ecn {
    pub(super) fn new() -> Ecn {
        // The first mark counts in full.
        Ecn { alpha: ECN_ONE, delivered: 0, marked: 0, in_round: false, full_rounds: 0 }
    }

    /// Takes an acknowledgement; at the end of a round whether half of it was marked.
    fn update(&mut self, bytes: u64, ce: u64, round_start: bool) -> Option<bool> {
        self.delivered += bytes;
        self.marked += ce;
        self.in_round |= ce > 0;
        if !round_start || self.delivered == 0 {
            return None;
        }
        let share = self.marked.min(self.delivered) * ECN_ONE / self.delivered;
        self.alpha = self.alpha - self.alpha.div_ceil(16) + share / 16;
        let high = share * ECN_THRESH_DIVISOR > ECN_ONE;
        self.full_rounds = if high { self.full_rounds + 1 } else { 0 };
        (self.delivered, self.marked) = (0, 0);
        Some(high)
    }
}

/// `rate` for a `time`, in bytes.
pub(super) fn volume(rate: u64, time: Duration) -> u64 {
    (u128::from(rate) * time.as_nanos() / 1_000_000_000).min(u128::from(INFINITE / 4)) as u64
}

impl Bbr {
    /// `StartRound()` (5.5.1)
    pub(super) fn start_round(&mut self) {
        self.next_round_delivered = self.path.delivered;
    }

    /// `UpdateRound()` (5.5.1)
    fn update_round(&mut self) {
        self.round_start =
            self.rs.prior_delivered.is_some_and(|prior| prior >= self.next_round_delivered);
        if self.round_start {
            self.start_round();
            self.round_count += 1;
            self.rounds_since_probe_up += 1;
        }
    }

    /// `UpdateMaxBw()` (5.5.5)
    fn update_max_bw(&mut self) {
        self.update_round();
        if self.rs.rate > 0 && (self.rs.rate >= self.max_bw || !self.rs.app_limited) {
            self.max_bw = self.max_bw_filter.update(self.rs.rate);
        }
    }

    /// `AdvanceMaxBwFilter()` (5.5.6)
    pub(super) fn advance_max_bw_filter(&mut self) {
        self.max_bw_filter.advance();
    }

    /// `UpdateACKAggregation()` (5.5.9)
    pub(super) fn update_ack_aggregation(&mut self) {
        let now = self.path.now;
        let mut expected = volume(self.bw, now - self.extra_acked_start);
        if self.extra_acked_delivered <= expected {
            self.extra_acked_delivered = 0;
            self.extra_acked_start = now;
            expected = 0;
        }
        self.extra_acked_delivered += self.rs.newly;
        let extra = (self.extra_acked_delivered - expected).min(self.cwnd);
        let window = if self.full_bw_reached { EXTRA_ACKED_FILTER_LEN } else { 1 };
        self.extra_acked_filter.update(window, self.round_count, extra);
    }

    /// `UpdateLatestDeliverySignals()` (5.5.10.3)
    pub(super) fn update_latest_delivery_signals(&mut self) {
        self.loss_round_start = false;
        self.bw_latest = self.bw_latest.max(self.rs.rate);
        self.inflight_latest = self.inflight_latest.max(self.rs.delivered);
        if self.rs.prior_delivered.is_some_and(|prior| prior >= self.loss_round_delivered) {
            self.loss_round_delivered = self.path.delivered;
            self.loss_round_start = true;
        }
    }

    /// `AdvanceLatestDeliverySignals()` (5.5.10.3)
    pub(super) fn advance_latest_delivery_signals(&mut self) {
        if self.loss_round_start {
            self.bw_latest = self.rs.rate;
            self.inflight_latest = self.rs.delivered;
        }
    }

    /// `ResetCongestionSignals()` (5.5.10.3)
    pub(super) fn reset_congestion_signals(&mut self) {
        self.is_loss_in_round = false;
        self.ecn.in_round = false;
        self.bw_latest = 0;
        self.inflight_latest = 0;
    }

    /// `UpdateCongestionSignals()` (5.5.10.3)
    pub(super) fn update_congestion_signals(&mut self, ack: &Acked) {
        self.update_max_bw();
        self.loss_round_bytes.1 += self.rs.newly;
        if self.ecn.update(self.rs.newly, ack.ce as u64, self.round_start).is_some() {
            self.check_startup_marks();
        }
        if !self.loss_round_start {
            return;
        }
        self.adapt_lower_bounds();
        self.is_loss_in_round = false;
        self.ecn.in_round = false;
        self.loss_round_bytes = (0, 0);
    }

    /// Marks in Startup: the queue is there, whatever the rate does.
    fn check_startup_marks(&mut self) {
        if self.state == State::Startup && self.ecn.full_rounds >= ECN_FULL_ROUNDS {
            self.startup_found_the_limit();
        }
    }

    /// `AdaptLowerBoundsFromCongestion()` (5.5.10.3)
    fn adapt_lower_bounds(&mut self) {
        if self.state.is_accelerating() {
            return;
        }
        let mut by_marks = INFINITE;
        if self.ecn.in_round {
            let from = self.inflight_shortterm.min(self.cwnd);
            by_marks = from - from * self.ecn.alpha / ECN_ONE / ECN_FACTOR_DIVISOR;
        }
        if self.is_loss_in_round && self.round_lost_too_much() {
            // InitLowerBounds(), LossLowerBounds()
            let bw = self.bw_shortterm.min(self.max_bw);
            let inflight = self.inflight_shortterm.min(self.cwnd);
            self.bw_shortterm = self.bw_latest.max(bw * BETA_PERCENT / 100);
            self.inflight_shortterm = self.inflight_latest.max(inflight * BETA_PERCENT / 100);
        }
        self.inflight_shortterm = self.inflight_shortterm.min(by_marks);
    }

    /// Whether the round lost more than probing tolerates.
    ///
    /// The draft reacts to any loss in a round. With that, steady loss far below the threshold
    /// and our own pacing margin compound from round to round until the next probe.
    fn round_lost_too_much(&self) -> bool {
        let (lost, delivered) = self.loss_round_bytes;
        let sent = lost + delivered;
        (lost * 100 > sent * LOSS_THRESH_PERCENT && lost > self.lost_by_chance(sent))
            || !self.path.sack
    }

    fn lost_by_chance(&self, flight: u64) -> u64 {
        (CHANCE_SEGMENTS * self.path.mss).min(flight / CHANCE_DIVISOR)
    }

    /// `ResetShortTermModel()` (5.5.10.3)
    pub(super) fn reset_short_term_model(&mut self) {
        self.bw_shortterm = INFINITE;
        self.inflight_shortterm = INFINITE;
    }

    /// `BoundBWForModel()` (5.5.10.3)
    pub(super) fn bound_bw_for_model(&mut self) {
        self.bw = self.max_bw.min(self.bw_shortterm);
    }

    /// `NoteLoss()` (5.5.10.2)
    pub(super) fn note_loss(&mut self, delivered: u64) {
        if !self.is_loss_in_round {
            self.loss_round_delivered = delivered;
            // 5.5.11.1: once per recovery, not for its later rounds.
            if !self.in_recovery {
                self.save_state_upon_loss();
            }
        }
        self.is_loss_in_round = true;
    }

    /// `HandleLostPacket()` (5.5.10.2)
    pub(super) fn handle_lost_segment(&mut self, lost: &Lost) {
        if !self.is_loss_in_round || lost.seq != self.loss_range_end {
            self.loss_ranges_in_round += 1;
        }
        self.loss_range_end = lost.seq + lost.bytes as u32;
        self.loss_round_bytes.0 += lost.bytes as u64;
        self.path.delivered = self.path.delivered.max(lost.delivered);
        self.note_loss(lost.delivered);
        if !self.is_bw_probe_sample {
            return;
        }
        let flight = lost.flight_at_send as u64;
        if self.is_loss_too_high(lost.lost, flight) {
            let at = inflight_at_loss(flight, lost.lost, lost.bytes as u64);
            let app_limited = lost.app_limited || self.limited_itself(lost.delivered);
            self.handle_inflight_too_high(at, app_limited);
        }
    }

    fn is_loss_too_high(&self, lost: u64, flight: u64) -> bool {
        (lost * 100 > flight * LOSS_THRESH_PERCENT && lost > self.lost_by_chance(flight))
            || (lost > 0 && !self.path.sack)
    }

    /// `IsInflightTooHigh()` (5.5.10.2), of the sample.
    pub(super) fn is_inflight_too_high(&self) -> bool {
        let marked = self.rs.ce * ECN_THRESH_DIVISOR > self.rs.delivered && self.rs.ce > 0;
        marked || self.is_loss_too_high(self.rs.lost, self.rs.flight_at_send)
    }

    /// `HandleInflightTooHigh()` (5.5.10.2)
    pub(super) fn handle_inflight_too_high(&mut self, flight: u64, app_limited: bool) {
        self.prev_probe_too_high = true;
        self.is_bw_probe_sample = false;
        if !app_limited {
            self.inflight_longterm = flight.max(self.target_inflight() * BETA_PERCENT / 100);
        }
        if self.state == State::ProbeBwUp {
            self.undo.state = Some(State::ProbeBwUp);
            self.start_probe_bw_down();
        }
    }

    /// `SaveStateUponLoss()` (5.5.11.1)
    fn save_state_upon_loss(&mut self) {
        self.save_cwnd();
        self.undo = Undo {
            state: None,
            bw_shortterm: self.bw_shortterm,
            inflight_shortterm: self.inflight_shortterm,
            inflight_longterm: self.inflight_longterm,
        };
    }

    /// `HandleSpuriousLossDetection()` (5.5.11.2)
    pub(super) fn handle_spurious_loss(&mut self) {
        self.restore_cwnd();
        self.is_loss_in_round = false;
        self.reset_full_bw();
        self.bw_shortterm = self.bw_shortterm.max(self.undo.bw_shortterm);
        self.inflight_shortterm = self.inflight_shortterm.max(self.undo.inflight_shortterm);
        self.inflight_longterm = self.inflight_longterm.max(self.undo.inflight_longterm);
        match self.undo.state.take() {
            Some(State::Startup) if self.state != State::Startup => {
                self.full_bw_reached = false;
                if self.state != State::ProbeRtt {
                    self.enter_startup();
                }
            }
            Some(State::ProbeBwUp)
                if self.state != State::ProbeBwUp && self.state != State::ProbeRtt =>
            {
                self.start_probe_bw_refill();
            }
            _ => {}
        }
    }

    /// Losses in Startup by their number of ranges (5.3.1.3).
    pub(super) fn end_loss_count(&mut self) {
        if self.loss_round_start {
            self.loss_ranges_in_round = 0;
        }
    }
}

/// `InflightAtLoss()` (5.5.10.2): at which prefix of the lost segment losses passed the threshold.
fn inflight_at_loss(flight: u64, lost: u64, size: u64) -> u64 {
    let before = flight.saturating_sub(size);
    let lost_before = lost.saturating_sub(size);
    let budget = (before * LOSS_THRESH_PERCENT / 100).saturating_sub(lost_before);
    before + budget * 100 / (100 - LOSS_THRESH_PERCENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    // draft-ietf-ccwg-bbr 5.5.10.2
    #[test]
    fn losses_pass_the_threshold_within_the_lost_segment() {
        // 100 kB in flight before, 1 kB of it lost: 1020 bytes more and 2 % of 101 kB is reached.
        assert_eq!(inflight_at_loss(164_000, 65_000, 64_000), 101_020);
        assert_eq!(inflight_at_loss(101_000, 5_000, 1_000), 100_000);
    }

    #[test]
    fn the_average_of_marks_starts_at_one_and_reaches_zero() {
        let mut ecn = Ecn::new();
        assert_eq!(ecn.update(1000, 1000, true), Some(true));
        assert_eq!(ecn.alpha, ECN_ONE);
        for _ in 0..300 {
            assert_eq!(ecn.update(1000, 0, true), Some(false));
        }
        assert_eq!(ecn.alpha, 0);
        assert_eq!(ecn.update(1000, 0, false), None);
    }
}
