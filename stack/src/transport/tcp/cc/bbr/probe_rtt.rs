//! The round-trip time of the empty path: `ProbeRTT` (5.3.4).

use core::time::Duration;

use super::{AckPhase, Bbr, State};

/// 2.13.1
const MIN_RTT_FILTER_LEN: Duration = Duration::from_secs(10);
/// 2.13.2
const PROBE_RTT_INTERVAL: Duration = Duration::from_secs(5);
/// 2.13.2
const PROBE_RTT_DURATION: Duration = Duration::from_millis(200);

impl Bbr {
    /// `UpdateMinRTT()` (5.3.4.3)
    pub(super) fn update_min_rtt(&mut self, rtt: Option<Duration>) {
        let now = self.path.now;
        self.probe_rtt_expired = self.probe_rtt_min_delay.is_some()
            && now > self.probe_rtt_min_stamp + PROBE_RTT_INTERVAL;
        if let Some(rtt) = rtt
            && (self.probe_rtt_min_delay.is_none_or(|min| rtt < min) || self.probe_rtt_expired)
        {
            self.probe_rtt_min_delay = Some(rtt);
            self.probe_rtt_min_stamp = now;
        }
        let Some(delay) = self.probe_rtt_min_delay else { return };
        let expired = now > self.min_rtt_stamp + MIN_RTT_FILTER_LEN;
        if self.min_rtt.is_none_or(|min| delay < min) || expired {
            self.min_rtt = Some(delay);
            self.min_rtt_stamp = self.probe_rtt_min_stamp;
        }
    }

    /// `CheckProbeRTT()` (5.3.4.3)
    pub(super) fn check_probe_rtt(&mut self) {
        if self.state != State::ProbeRtt && self.probe_rtt_expired && !self.idle_restart {
            self.save_cwnd();
            self.state = State::ProbeRtt;
            self.probe_rtt_done_stamp = None;
            self.ack_phase = AckPhase::ProbeStopping;
            self.start_round();
            self.limited = Some((self.path.delivered, self.path.delivered));
        }
        if self.state == State::ProbeRtt {
            self.handle_probe_rtt();
        }
        if self.rs.delivered > 0 {
            self.idle_restart = false;
        }
    }

    /// `HandleProbeRTT()` (5.3.4.3)
    fn handle_probe_rtt(&mut self) {
        // MarkConnectionAppLimited(): low rates are our own choice.
        let until = self.path.delivered + self.path.inflight;
        self.limited = self.limited.map(|(from, _)| (from, until));
        let now = self.path.now;
        if self.probe_rtt_done_stamp.is_none() {
            if self.path.inflight <= self.probe_rtt_cwnd() {
                self.probe_rtt_done_stamp = Some(now + PROBE_RTT_DURATION);
                self.probe_rtt_round_done = false;
                self.start_round();
            }
            return;
        }
        self.probe_rtt_round_done |= self.round_start;
        if self.probe_rtt_round_done {
            self.check_probe_rtt_done();
        }
    }

    /// `CheckProbeRTTDone()` (5.3.4.3)
    pub(super) fn check_probe_rtt_done(&mut self) {
        let now = self.path.now;
        if self.probe_rtt_done_stamp.is_some_and(|done| now > done) {
            self.probe_rtt_min_stamp = now;
            self.restore_cwnd();
            self.exit_probe_rtt();
        }
    }

    /// `ExitProbeRTT()` (5.3.4.4)
    fn exit_probe_rtt(&mut self) {
        self.reset_short_term_model();
        if self.full_bw_reached {
            self.start_probe_bw_down();
            self.start_probe_bw_cruise();
        } else {
            self.enter_startup();
        }
    }
}
