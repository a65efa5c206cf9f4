//! The state machine (5.3): Startup, Drain and the four phases of `ProbeBW`.

use core::time::Duration;

use super::control::HEADROOM_PERCENT;
use super::{AckPhase, Bbr, INFINITE, State};

/// 5.3.1.3: lost ranges in a round with which Startup may end.
const STARTUP_FULL_LOSS_COUNT: u32 = 6;
/// 5.3.1.2
const FULL_BW_ROUNDS: u32 = 3;
/// 5.3.2
const DRAIN_ROUNDS_MAX: u64 = 3;
/// 5.3.3.5.3: rounds after which Reno would have probed.
const RENO_ROUNDS_MAX: u64 = 63;

impl Bbr {
    /// `EnterStartup()` (5.3.1.1)
    pub(super) fn enter_startup(&mut self) {
        self.state = State::Startup;
    }

    /// `ResetFullBW()` (5.3.1.2)
    pub(super) fn reset_full_bw(&mut self) {
        self.full_bw = 0;
        self.full_bw_count = 0;
        self.full_bw_now = false;
    }

    /// `CheckFullBWReached()` (5.3.1.2)
    pub(super) fn check_full_bw_reached(&mut self) {
        if self.full_bw_now || !self.round_start || self.rs.app_limited {
            return;
        }
        if u128::from(self.rs.rate) * 4 >= u128::from(self.full_bw) * 5 {
            self.reset_full_bw();
            self.full_bw = self.rs.rate;
            return;
        }
        self.full_bw_count += 1;
        self.full_bw_now = self.full_bw_count >= FULL_BW_ROUNDS;
        self.full_bw_reached |= self.full_bw_now;
    }

    /// `CheckStartupDone()` (5.3.1.1)
    pub(super) fn check_startup_done(&mut self) {
        self.check_startup_high_loss();
        if self.state == State::Startup && self.full_bw_reached {
            self.state = State::Drain;
            self.drain_start_round = self.round_count;
        }
    }

    /// `CheckStartupHighLoss()` (5.3.1.3)
    fn check_startup_high_loss(&mut self) {
        if self.state == State::Startup && self.loss_round_start && self.path.recovering {
            let enough = self.loss_ranges_in_round >= STARTUP_FULL_LOSS_COUNT || !self.path.sack;
            if enough && self.is_inflight_too_high() {
                self.undo.state = Some(State::Startup);
                self.startup_found_the_limit();
            }
        }
        self.end_loss_count();
    }

    /// Startup went too far: the limit is what the last round delivered.
    pub(super) fn startup_found_the_limit(&mut self) {
        self.full_bw_now = true;
        self.full_bw_reached = true;
        self.inflight_longterm = self.bdp(100).max(self.inflight_latest);
    }

    /// `CheckDrainDone()` (5.3.2)
    pub(super) fn check_drain_done(&mut self) {
        let drained = self.path.inflight <= self.inflight(100);
        let late = self.round_count > self.drain_start_round + DRAIN_ROUNDS_MAX;
        if self.state == State::Drain && (drained || late) {
            self.start_probe_bw_down();
        }
    }

    /// `StartProbeBW_DOWN()` (5.3.3.6)
    pub(super) fn start_probe_bw_down(&mut self) {
        self.reset_congestion_signals();
        self.probe_up_acked_per_inc = INFINITE;
        self.pick_probe_wait();
        self.cycle_stamp = self.path.now;
        self.ack_phase = AckPhase::ProbeStopping;
        self.start_round();
        self.state = State::ProbeBwDown;
    }

    pub(super) fn start_probe_bw_cruise(&mut self) {
        self.state = State::ProbeBwCruise;
    }

    /// `StartProbeBW_REFILL()` (5.3.3.6)
    pub(super) fn start_probe_bw_refill(&mut self) {
        self.reset_short_term_model();
        self.bw_probe_up_rounds = 0;
        self.bw_probe_up_acked = 0;
        self.prev_probe_precautionary = false;
        self.ack_phase = AckPhase::Refilling;
        self.start_round();
        self.state = State::ProbeBwRefill;
    }

    /// `StartProbeBW_UP()` (5.3.3.6)
    fn start_probe_bw_up(&mut self) {
        self.ack_phase = AckPhase::ProbeStarting;
        self.start_round();
        self.reset_full_bw();
        self.full_bw = self.rs.rate;
        self.state = State::ProbeBwUp;
        self.raise_inflight_longterm_slope();
    }

    /// `UpdateProbeBWCyclePhase()` (5.3.3.6)
    pub(super) fn update_probe_bw_cycle_phase(&mut self) {
        if !self.full_bw_reached || self.adapt_long_term_model() {
            return;
        }
        match self.state {
            State::ProbeBwDown => self.leave_down(),
            State::ProbeBwCruise => {
                self.is_time_to_probe_bw();
            }
            State::ProbeBwRefill if self.round_start => {
                self.is_bw_probe_sample = true;
                self.start_probe_bw_up();
            }
            State::ProbeBwUp => self.leave_up(),
            _ => {}
        }
    }

    fn leave_down(&mut self) {
        if !self.is_time_to_probe_bw() && self.is_time_to_cruise() {
            self.start_probe_bw_cruise();
        }
    }

    fn leave_up(&mut self) {
        if self.is_time_to_go_down() {
            self.prev_probe_too_high = false;
            self.start_probe_bw_down();
        }
    }

    fn is_time_to_cruise(&self) -> bool {
        let inflight = self.path.inflight;
        inflight <= self.inflight_with_headroom() && inflight <= self.inflight_at(self.max_bw, 100)
    }

    fn is_time_to_go_down(&mut self) -> bool {
        // Precautionary bandwidth probing: deceleration (5.3.3.4.2).
        // The window ends at that volume: what was in flight is up to a segment below it.
        let reached = self.path.inflight_before.saturating_add(self.path.mss);
        if self.prev_probe_too_high && reached > self.inflight_longterm {
            self.prev_probe_precautionary = true;
            return true;
        }
        if self.path.window_limited && self.cwnd >= self.inflight_longterm {
            // The window, not the path, limits the rate.
            self.reset_full_bw();
            self.full_bw = self.rs.rate;
            return false;
        }
        self.full_bw_now
    }

    /// `IsTimeToProbeBW()` (5.3.3.5.3)
    fn is_time_to_probe_bw(&mut self) -> bool {
        let elapsed = self.path.now > self.cycle_stamp + self.bw_probe_wait;
        let reno_rounds = (self.target_inflight() / self.path.mss.max(1)).min(RENO_ROUNDS_MAX);
        let due = elapsed || self.rounds_since_probe_up >= reno_rounds;
        if due {
            self.start_probe_bw_refill();
        }
        due
    }

    /// `PickProbeWait()` (5.3.3.5.3)
    fn pick_probe_wait(&mut self) {
        self.rounds_since_probe_up = self.rng.below(2);
        self.bw_probe_wait = Duration::from_millis(2000 + self.rng.below(1001));
    }

    pub(super) fn inflight_with_headroom(&self) -> u64 {
        if self.inflight_longterm == INFINITE {
            return INFINITE;
        }
        let headroom = (self.inflight_longterm * HEADROOM_PERCENT / 100).max(self.path.mss);
        self.inflight_longterm.saturating_sub(headroom).max(self.min_pipe_cwnd())
    }

    /// `RaiseInflightLongtermSlope()` (5.3.3.6)
    fn raise_inflight_longterm_slope(&mut self) {
        let growth_this_round = 1u64 << self.bw_probe_up_rounds;
        self.bw_probe_up_rounds = (self.bw_probe_up_rounds + 1).min(30);
        self.probe_up_acked_per_inc = (self.cwnd / growth_this_round).max(self.path.mss);
    }

    /// `ProbeInflightLongtermUpward()` (5.3.3.6)
    fn probe_inflight_longterm_upward(&mut self) {
        if !self.path.window_limited || self.cwnd < self.inflight_longterm {
            return;
        }
        self.bw_probe_up_acked += self.rs.newly;
        if self.bw_probe_up_acked >= self.probe_up_acked_per_inc {
            let delta = self.bw_probe_up_acked / self.probe_up_acked_per_inc;
            self.bw_probe_up_acked -= delta * self.probe_up_acked_per_inc;
            self.inflight_longterm += delta * self.path.mss;
        }
        if self.round_start {
            self.raise_inflight_longterm_slope();
        }
    }

    /// `AdaptLongTermModel()` (5.3.3.6); whether it decided on a state.
    fn adapt_long_term_model(&mut self) -> bool {
        if self.ack_phase == AckPhase::ProbeStarting && self.round_start {
            self.ack_phase = AckPhase::ProbeFeedback;
        }
        if self.ack_phase == AckPhase::ProbeStopping && self.round_start {
            self.is_bw_probe_sample = false;
            self.ack_phase = AckPhase::Init;
            if self.state.is_probe_bw() && !self.rs.app_limited {
                self.advance_max_bw_filter();
            }
            // Precautionary bandwidth probing: acceleration (5.3.3.4.2).
            if self.state.is_probe_bw()
                && self.prev_probe_precautionary
                && !self.prev_probe_too_high
            {
                self.start_probe_bw_refill();
                return true;
            }
        }
        if self.is_inflight_too_high() {
            self.marks_end_the_probe();
            return false;
        }
        if self.inflight_longterm != INFINITE {
            self.inflight_longterm = self.inflight_longterm.max(self.rs.flight_at_send);
            if self.state == State::ProbeBwUp {
                self.probe_inflight_longterm_upward();
            }
        }
        false
    }

    /// Lost segments report themselves; marks show only in samples.
    fn marks_end_the_probe(&mut self) {
        if self.is_bw_probe_sample && self.rs.ce > 0 {
            self.handle_inflight_too_high(self.rs.flight_at_send, self.rs.app_limited);
        }
    }
}
