//! BBR version 3 (draft-ietf-ccwg-bbr; section numbers are of version -05, names are the draft's).
//!
//! A model of the path (`model`), a state machine that probes it (`probe`, `probe_rtt`), and the
//! pacing rate and window that follow (`control`). Bytes, bytes per second and nanoseconds, in
//! integers: the same acknowledgements give the same decisions on every machine.

use core::time::Duration;

use crate::rng::Rng;
use crate::seq::SeqNum;
use crate::time::Instant;

use super::{Acked, Cause, Congestion, Controller, INITIAL_WINDOW_SEGMENTS, Lost};

mod control;
mod filter;
mod model;
mod probe;
mod probe_rtt;
#[cfg(test)]
mod tests;

use filter::{RoundMax, TwoCycleMax};

/// "Infinity" of a volume or rate.
const INFINITE: u64 = u64::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Startup,
    Drain,
    ProbeBwDown,
    ProbeBwCruise,
    ProbeBwRefill,
    ProbeBwUp,
    ProbeRtt,
}

impl State {
    fn is_probe_bw(self) -> bool {
        use State::{ProbeBwCruise, ProbeBwDown, ProbeBwRefill, ProbeBwUp};
        matches!(self, ProbeBwDown | ProbeBwCruise | ProbeBwRefill | ProbeBwUp)
    }

    /// `IsProbingBW()`
    fn is_accelerating(self) -> bool {
        matches!(self, State::Startup | State::ProbeBwRefill | State::ProbeBwUp)
    }
}

/// What the acknowledgements coming in are about (2.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AckPhase {
    Init,
    Refilling,
    ProbeStarting,
    ProbeFeedback,
    ProbeStopping,
}

/// The rate sample `RS` of the acknowledgement at hand. Without one it is all zero but for
/// `newly`.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    rate: u64,
    prior_delivered: Option<u64>,
    flight_at_send: u64,
    lost: u64,
    ce: u64,
    delivered: u64,
    app_limited: bool,
    newly: u64,
}

/// The connection's state that the model reads, as of the last acknowledgement.
#[derive(Clone, Copy, Debug)]
struct Path {
    now: Instant,
    mss: u64,
    delivered: u64,
    inflight: u64,
    /// Before the acknowledgement.
    inflight_before: u64,
    window_limited: bool,
    sack: bool,
    recovering: bool,
}

impl Path {
    fn new(mss: u64) -> Path {
        Path {
            now: Instant::ZERO,
            mss,
            delivered: 0,
            inflight: 0,
            inflight_before: 0,
            window_limited: false,
            sack: true,
            recovering: false,
        }
    }
}

/// Recovery from a timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timeout {
    No,
    /// No acknowledgement came since.
    Expired,
    /// It ends when this is acknowledged.
    Until(SeqNum),
}

/// What losses changed, for the case that they were none (5.5.11).
#[derive(Clone, Copy, Debug, Default)]
struct Undo {
    state: Option<State>,
    bw_shortterm: u64,
    inflight_shortterm: u64,
    inflight_longterm: u64,
}

/// Bandwidth and round-trip time as control, not loss.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)]
pub struct Bbr {
    rng: Rng,
    path: Path,
    rs: Sample,
    state: State,
    cwnd: u64,
    prior_cwnd: u64,
    /// `C.pacing_rate`, bytes per second.
    pacing_rate: u64,
    pacing_from_rtt: bool,

    // Rounds (5.5.1).
    next_round_delivered: u64,
    round_start: bool,
    round_count: u64,

    // The model.
    max_bw_filter: TwoCycleMax,
    max_bw: u64,
    bw_shortterm: u64,
    bw: u64,
    min_rtt: Option<Duration>,
    min_rtt_stamp: Instant,
    inflight_longterm: u64,
    inflight_shortterm: u64,
    extra_acked_filter: RoundMax,
    extra_acked_start: Instant,
    extra_acked_delivered: u64,

    // Congestion signals.
    bw_latest: u64,
    inflight_latest: u64,
    loss_round_delivered: u64,
    loss_round_start: bool,
    is_loss_in_round: bool,
    /// Lost and delivered in the round.
    loss_round_bytes: (u64, u64),
    loss_ranges_in_round: u32,
    loss_range_end: SeqNum,
    ecn: model::Ecn,

    // Startup and the search for a full pipe.
    full_bw: u64,
    full_bw_count: u32,
    full_bw_now: bool,
    full_bw_reached: bool,
    drain_start_round: u64,

    // ProbeBW.
    ack_phase: AckPhase,
    is_bw_probe_sample: bool,
    prev_probe_too_high: bool,
    prev_probe_precautionary: bool,
    bw_probe_up_acked: u64,
    bw_probe_up_rounds: u32,
    probe_up_acked_per_inc: u64,
    rounds_since_probe_up: u64,
    bw_probe_wait: Duration,
    cycle_stamp: Instant,

    // ProbeRTT.
    probe_rtt_min_delay: Option<Duration>,
    probe_rtt_min_stamp: Instant,
    probe_rtt_expired: bool,
    probe_rtt_done_stamp: Option<Instant>,
    probe_rtt_round_done: bool,
    /// Samples of what left between these amounts of delivered data are application-limited.
    limited: Option<(u64, u64)>,

    idle_restart: bool,
    /// In recovery of either kind.
    in_recovery: bool,
    timeout: Timeout,
    undo: Undo,
}

impl Bbr {
    /// A controller for segments of `mss` bytes, in Startup; `seed` makes its random choices.
    pub fn new(mss: usize, seed: u64) -> Bbr {
        let mss = mss as u64;
        let path = Path::new(mss);
        let cwnd = INITIAL_WINDOW_SEGMENTS as u64 * mss;
        let mut bbr = Bbr {
            rng: Rng::from_u64(seed),
            path,
            rs: Sample::default(),
            state: State::Startup,
            cwnd,
            prior_cwnd: 0,
            pacing_rate: 0,
            pacing_from_rtt: false,
            next_round_delivered: 0,
            round_start: false,
            round_count: 0,
            max_bw_filter: TwoCycleMax::default(),
            max_bw: 0,
            bw_shortterm: INFINITE,
            bw: 0,
            min_rtt: None,
            min_rtt_stamp: Instant::ZERO,
            inflight_longterm: INFINITE,
            inflight_shortterm: INFINITE,
            extra_acked_filter: RoundMax::default(),
            extra_acked_start: Instant::ZERO,
            extra_acked_delivered: 0,
            bw_latest: 0,
            inflight_latest: 0,
            loss_round_delivered: 0,
            loss_round_start: false,
            is_loss_in_round: false,
            loss_round_bytes: (0, 0),
            loss_ranges_in_round: 0,
            loss_range_end: SeqNum(0),
            ecn: model::Ecn::new(),
            full_bw: 0,
            full_bw_count: 0,
            full_bw_now: false,
            full_bw_reached: false,
            drain_start_round: 0,
            ack_phase: AckPhase::Init,
            is_bw_probe_sample: false,
            prev_probe_too_high: false,
            prev_probe_precautionary: false,
            bw_probe_up_acked: 0,
            bw_probe_up_rounds: 0,
            probe_up_acked_per_inc: INFINITE,
            rounds_since_probe_up: 0,
            bw_probe_wait: Duration::ZERO,
            cycle_stamp: Instant::ZERO,
            probe_rtt_min_delay: None,
            probe_rtt_min_stamp: Instant::ZERO,
            probe_rtt_expired: false,
            probe_rtt_done_stamp: None,
            probe_rtt_round_done: false,
            limited: None,
            idle_restart: false,
            in_recovery: false,
            timeout: Timeout::No,
            undo: Undo::default(),
        };
        bbr.init_pacing_rate(Duration::from_millis(1));
        bbr
    }

    fn initial_cwnd(&self) -> u64 {
        INITIAL_WINDOW_SEGMENTS as u64 * self.path.mss
    }

    fn take_sample(&mut self, ack: &Acked) {
        self.path = Path {
            now: ack.now,
            mss: self.path.mss,
            delivered: ack.delivered,
            inflight: ack.flight as u64,
            inflight_before: ack.flight_before as u64,
            window_limited: ack.window_limited,
            sack: ack.sack,
            recovering: ack.recovering,
        };
        let newly = ack.bytes as u64;
        self.rs = match ack.rate {
            Some(r) => Sample {
                rate: r.bytes_per_s,
                prior_delivered: Some(r.prior_delivered),
                flight_at_send: r.flight_at_send as u64,
                lost: r.lost,
                ce: r.ce,
                delivered: r.delivered,
                app_limited: r.app_limited || self.limited_itself(r.prior_delivered),
                newly,
            },
            None => Sample { newly, ..Sample::default() },
        };
    }

    fn limited_itself(&self, prior_delivered: u64) -> bool {
        self.limited.is_some_and(|(from, to)| (from..=to).contains(&prior_delivered))
    }

    /// `UpdateModelAndState()` (5.2.3)
    fn update_model_and_state(&mut self, ack: &Acked) {
        self.update_latest_delivery_signals();
        self.update_congestion_signals(ack);
        self.update_ack_aggregation();
        self.check_full_bw_reached();
        self.check_startup_done();
        self.check_drain_done();
        self.update_probe_bw_cycle_phase();
        self.update_min_rtt(ack.rtt);
        self.check_probe_rtt();
        self.advance_latest_delivery_signals();
        self.bound_bw_for_model();
    }

    /// The end of what a timeout declared lost (5.6.4.4).
    fn check_timeout_recovery(&mut self, ack: &Acked) {
        match self.timeout {
            Timeout::Expired => self.timeout = Timeout::Until(ack.snd_nxt),
            Timeout::Until(end) if ack.snd_una >= end => self.leave_recovery(),
            _ => {}
        }
    }

    fn leave_recovery(&mut self) {
        self.timeout = Timeout::No;
        self.in_recovery = false;
        self.restore_cwnd();
    }

    /// `SaveCwnd()` (5.6.4.4)
    fn save_cwnd(&mut self) {
        let usual = !self.in_recovery && self.state != State::ProbeRtt;
        self.prior_cwnd = if usual { self.cwnd } else { self.prior_cwnd.max(self.cwnd) };
    }

    fn restore_cwnd(&mut self) {
        self.cwnd = self.cwnd.max(self.prior_cwnd);
    }
}

impl Controller for Bbr {
    fn on_ack(&mut self, ack: &Acked) {
        self.take_sample(ack);
        if self.rs.newly == 0 {
            return;
        }
        if !self.pacing_from_rtt
            && let Some(srtt) = ack.srtt
        {
            self.pacing_from_rtt = true;
            self.init_pacing_rate(srtt);
        }
        self.check_timeout_recovery(ack);
        self.update_model_and_state(ack);
        self.set_pacing_rate(self.pacing_gain());
        self.set_cwnd();
    }

    fn on_lost(&mut self, lost: &Lost) {
        self.handle_lost_segment(lost);
    }

    fn on_congestion(&mut self, c: &Congestion) {
        // 5.6.4.4 OnEnterFastRecovery(); the model was saved at the first lost segment.
        self.save_cwnd();
        if c.cause == Cause::Loss {
            self.in_recovery = true;
        } else {
            // 3.6: a mark is congestion.
            self.path.now = c.now;
            self.note_loss(self.path.delivered);
            if self.is_bw_probe_sample {
                self.handle_inflight_too_high(c.flight as u64, false);
            }
        }
    }

    fn on_recovered(&mut self, _now: Instant) {
        if self.timeout == Timeout::No {
            self.leave_recovery();
        }
    }

    fn on_timeout(&mut self, now: Instant, _flight: usize, _first: bool) {
        self.path.now = now;
        self.save_cwnd();
        // 5.5.10.3: any recovery; the loss counts when the round ends.
        self.note_loss(self.path.delivered);
        self.in_recovery = true;
        self.timeout = Timeout::Expired;
        // All is lost, one segment may go.
        self.cwnd = self.path.mss;
    }

    fn undo(&mut self, now: Instant) {
        self.path.now = now;
        self.handle_spurious_loss();
        self.timeout = Timeout::No;
        self.in_recovery = false;
    }

    fn on_send(&mut self, now: Instant, flight: usize, app_limited: bool) {
        // 5.4.1 HandleRestartFromIdle()
        if flight == 0 && app_limited {
            self.path.now = now;
            self.idle_restart = true;
            self.extra_acked_start = now;
            if self.state.is_probe_bw() {
                self.set_pacing_rate(100);
            } else if self.state == State::ProbeRtt {
                self.check_probe_rtt_done();
            }
        }
    }

    fn on_idle(&mut self, _now: Instant, _idle: Duration) {
        // 5.4.1: the window stays, pacing makes no burst of it.
    }

    fn set_mss(&mut self, mss: usize) {
        self.path.mss = mss as u64;
        self.cwnd = self.cwnd.max(self.min_pipe_cwnd());
    }

    fn cwnd(&self) -> usize {
        self.cwnd as usize
    }

    fn ssthresh(&self) -> usize {
        usize::MAX
    }

    fn pacing_rate(&self) -> Option<u64> {
        Some(self.pacing_rate)
    }

    fn governs_recovery(&self) -> bool {
        true
    }

    fn wants_every_mark(&self) -> bool {
        true
    }
}
