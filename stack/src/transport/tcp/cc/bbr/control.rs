//! Pacing rate and congestion window from the model (5.6).

use core::time::Duration;

use super::model::volume;
use super::{Bbr, INFINITE, State};

/// 2.5
pub(super) const HEADROOM_PERCENT: u64 = 15;
/// 2.3: pace this much below the bandwidth.
const PACING_MARGIN_PERCENT: u64 = 1;
/// 5.6.3
const SEND_QUANTUM_MAX: u64 = 64 << 10;

/// `part` percent of `whole`, which may be infinite.
fn percent(whole: u64, part: u64) -> u64 {
    (u128::from(whole) * u128::from(part) / 100).min(u128::from(INFINITE)) as u64
}

impl Bbr {
    /// The gains of the table in 5.6.1, in percent.
    pub(super) fn pacing_gain(&self) -> u64 {
        match self.state {
            State::Startup => 277,
            State::Drain => 50,
            State::ProbeBwDown => 90,
            State::ProbeBwUp => 125,
            State::ProbeBwCruise | State::ProbeBwRefill | State::ProbeRtt => 100,
        }
    }

    fn cwnd_gain(&self) -> u64 {
        match self.state {
            State::ProbeBwUp => 225,
            State::ProbeRtt => 50,
            _ => 200,
        }
    }

    /// `InitPacingRate()` (5.6.2)
    pub(super) fn init_pacing_rate(&mut self, srtt: Duration) {
        let ns = srtt.as_nanos().max(1);
        let nominal = u128::from(self.initial_cwnd()) * 1_000_000_000 / ns;
        self.pacing_rate = percent(nominal.min(u128::from(INFINITE)) as u64, 277);
    }

    /// `SetPacingRateWithGain()` (5.6.2)
    pub(super) fn set_pacing_rate(&mut self, gain: u64) {
        let rate = percent(percent(self.bw, gain), 100 - PACING_MARGIN_PERCENT);
        if rate > 0 && (self.full_bw_reached || rate > self.pacing_rate) {
            self.pacing_rate = rate;
        }
    }

    /// `SetSendQuantum()` (5.6.3)
    fn send_quantum(&self) -> u64 {
        (self.pacing_rate / 1000).min(SEND_QUANTUM_MAX).max(2 * self.path.mss)
    }

    /// `BBR.MinPipeCwnd` (2.5)
    pub(super) fn min_pipe_cwnd(&self) -> u64 {
        4 * self.path.mss
    }

    /// `BDPMultiple()` (5.6.4.2), with the gain in percent.
    pub(super) fn bdp(&self, gain: u64) -> u64 {
        self.bdp_at(self.bw, gain)
    }

    fn bdp_at(&self, bw: u64, gain: u64) -> u64 {
        match self.min_rtt {
            None => self.initial_cwnd(),
            Some(rtt) => percent(volume(bw, rtt), gain),
        }
    }

    /// `QuantizationBudget()` (5.6.4.2)
    fn quantization_budget(&self, inflight: u64) -> u64 {
        let cap = inflight.max(3 * self.send_quantum()).max(self.min_pipe_cwnd());
        if self.state == State::ProbeBwUp { cap + 2 * self.path.mss } else { cap }
    }

    /// `Inflight()` (5.6.4.2)
    pub(super) fn inflight(&self, gain: u64) -> u64 {
        self.inflight_at(self.bw, gain)
    }

    pub(super) fn inflight_at(&self, bw: u64, gain: u64) -> u64 {
        self.quantization_budget(self.bdp_at(bw, gain))
    }

    /// `TargetInflight()` (5.3.3.5.3)
    pub(super) fn target_inflight(&self) -> u64 {
        self.bdp(100).min(self.cwnd)
    }

    /// `UpdateMaxInflight()` (5.6.4.2)
    fn max_inflight(&self) -> u64 {
        self.quantization_budget(self.bdp(self.cwnd_gain()) + self.extra_acked_filter.get())
    }

    /// `ProbeRTTCwnd()` (5.6.4.5)
    pub(super) fn probe_rtt_cwnd(&self) -> u64 {
        self.bdp(50).max(self.min_pipe_cwnd())
    }

    /// `SetCwnd()` (5.6.4.6)
    pub(super) fn set_cwnd(&mut self) {
        let max_inflight = self.max_inflight();
        if self.full_bw_reached {
            self.cwnd = (self.cwnd + self.rs.newly).min(max_inflight);
        } else if self.cwnd < max_inflight || self.path.delivered < self.initial_cwnd() {
            self.cwnd += self.rs.newly;
        }
        self.cwnd = self.cwnd.max(self.min_pipe_cwnd());
        if self.state == State::ProbeRtt {
            self.cwnd = self.cwnd.min(self.probe_rtt_cwnd());
        }
        self.bound_cwnd_for_model();
    }

    /// `BoundCwndForModel()` (5.6.4.7)
    fn bound_cwnd_for_model(&mut self) {
        let cap = match self.state {
            State::ProbeRtt | State::ProbeBwCruise => self.inflight_with_headroom(),
            state if state.is_probe_bw() => self.inflight_longterm,
            // The table in 5.6.1: Drain as well.
            State::Drain => self.inflight_longterm,
            _ => INFINITE,
        };
        let cap = cap.min(self.inflight_shortterm).max(self.min_pipe_cwnd());
        self.cwnd = self.cwnd.min(cap);
    }
}
