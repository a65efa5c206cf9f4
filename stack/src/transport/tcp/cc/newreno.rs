//! Slow start, congestion avoidance and the window after fast recovery (RFC 5681, 6582, 6928),
//! counting bytes (RFC 3465).

use core::time::Duration;

use crate::time::Instant;

use super::{Acked, Cause, Congestion, Controller, INITIAL_WINDOW_SEGMENTS, grow_by, was_used};

/// The standard controller.
#[derive(Clone, Debug)]
pub struct NewReno {
    mss: u32,
    cwnd: u32,
    /// `u32::MAX` before the first congestion.
    ssthresh: u32,
    /// Bytes acknowledged towards the next increase in congestion avoidance.
    acked: u32,
    /// Window and threshold before the last reaction.
    prior: Option<(u32, u32)>,
    /// In fast recovery.
    fast: bool,
    /// In the slow start after a timeout.
    restarting: bool,
}

impl NewReno {
    /// A controller for segments of `mss` bytes, in slow start.
    pub fn new(mss: usize) -> NewReno {
        NewReno {
            mss: mss as u32,
            cwnd: (INITIAL_WINDOW_SEGMENTS * mss) as u32,
            ssthresh: u32::MAX,
            acked: 0,
            prior: None,
            fast: false,
            restarting: false,
        }
    }

    /// RFC 5681 equation 4. What was sent beyond the window while duplicates came in was not
    /// carried at once.
    fn half_of(&self, flight: usize) -> u32 {
        (flight.min(self.cwnd as usize) as u32 / 2).max(2 * self.mss)
    }

    /// Sets both, as another controller's reaction.
    pub(super) fn reduce_to(&mut self, cwnd: usize) {
        self.prior = Some((self.cwnd, self.ssthresh));
        self.cwnd = (cwnd as u32).max(self.mss);
        // RFC 5681 equation 4's floor.
        self.ssthresh = self.cwnd.max(2 * self.mss);
        self.acked = 0;
    }
}

impl Controller for NewReno {
    fn on_ack(&mut self, ack: &Acked) {
        // RFC 3168 6.1.2: no increase on an ACK that reports congestion.
        if ack.recovering || ack.ce > 0 || !was_used(ack, self.cwnd as usize) {
            return;
        }
        let mut bytes = ack.bytes as u32;
        if self.cwnd < self.ssthresh {
            let limited = grow_by(ack, self.mss as usize, self.restarting) as u32;
            let room = (self.ssthresh - self.cwnd).min(limited);
            self.cwnd += room;
            bytes -= room.min(bytes);
            if self.cwnd < self.ssthresh {
                return;
            }
        }
        self.restarting = false;
        self.acked += bytes;
        // RFC 5681 3.1, RFC 3465 2.1: one segment per window acknowledged.
        if self.acked >= self.cwnd {
            self.acked -= self.cwnd;
            self.cwnd += self.mss;
        }
    }

    fn on_congestion(&mut self, c: &Congestion) {
        self.prior = Some((self.cwnd, self.ssthresh));
        self.ssthresh = self.half_of(c.flight);
        self.cwnd = self.ssthresh;
        self.acked = 0;
        self.fast = c.cause == Cause::Loss;
        self.restarting = false;
    }

    fn on_recovered(&mut self, _now: Instant) {
        // RFC 6582 3.2 step 3, option 2: what is in flight says little by now, the path carried
        // ssthresh.
        if core::mem::take(&mut self.fast) {
            self.cwnd = self.ssthresh;
        }
    }

    fn on_timeout(&mut self, _now: Instant, flight: usize, first: bool) {
        // RFC 5681 3.1: ssthresh falls once per loss event.
        if first {
            self.prior = Some((self.cwnd, self.ssthresh));
            self.ssthresh = self.half_of(flight);
        }
        // RFC 5681 equation 5's loss window.
        self.cwnd = self.mss;
        self.acked = 0;
        self.fast = false;
        self.restarting = true;
    }

    fn undo(&mut self, _now: Instant) {
        let Some((cwnd, ssthresh)) = self.prior.take() else { return };
        self.cwnd = self.cwnd.max(cwnd);
        self.ssthresh = self.ssthresh.max(ssthresh);
        self.fast = false;
        self.restarting = false;
    }

    fn on_send(&mut self, _now: Instant, _flight: usize, _app_limited: bool) {}

    fn on_idle(&mut self, _now: Instant, _idle: Duration) {
        // RFC 5681 4.1: the restart window.
        self.cwnd = self.cwnd.min(INITIAL_WINDOW_SEGMENTS as u32 * self.mss);
    }

    fn set_mss(&mut self, mss: usize) {
        let mss = mss as u32;
        if mss != self.mss {
            self.cwnd = super::rescale(self.cwnd, self.mss, mss);
            self.mss = mss;
        }
    }

    fn cwnd(&self) -> usize {
        self.cwnd as usize
    }

    fn ssthresh(&self) -> usize {
        super::threshold(self.ssthresh)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{acked, congestion};
    use super::*;

    fn ack(cc: &mut NewReno, bytes: usize) {
        let flight = cc.cwnd();
        cc.on_ack(&acked(bytes, flight));
    }

    // RFC 5681 3.1
    // RFC 6928 2
    #[test]
    fn slow_start_doubles_per_window() {
        let mut cc = NewReno::new(1000);
        assert_eq!(cc.cwnd(), 10_000);
        (0..10).for_each(|_| ack(&mut cc, 1000));
        assert_eq!(cc.cwnd(), 20_000);
        assert_eq!(cc.ssthresh(), usize::MAX);
    }

    // RFC 5681 3.1
    // RFC 3465 2.1
    #[test]
    fn congestion_avoidance_adds_a_segment_per_window() {
        let mut cc = NewReno::new(1000);
        cc.on_congestion(&congestion(20_000, Cause::Loss));
        assert_eq!((cc.cwnd(), cc.ssthresh()), (5_000, 5_000), "the window was ten segments");
        (0..5).for_each(|_| ack(&mut cc, 1000));
        assert_eq!(cc.cwnd(), 6_000);
    }

    // RFC 5681 3.1 equation 4
    // RFC 5681 3.1 equation 5
    #[test]
    fn a_timeout_falls_to_one_segment_and_halves_only_once() {
        let mut cc = NewReno::new(1000);
        cc.on_timeout(Instant::ZERO, 10_000, true);
        assert_eq!((cc.cwnd(), cc.ssthresh()), (1000, 5000));
        cc.on_timeout(Instant::ZERO, 1000, false);
        assert_eq!((cc.cwnd(), cc.ssthresh()), (1000, 5000));
    }

    // RFC 5681 3.1 equation 4
    #[test]
    fn the_threshold_is_never_below_two_segments() {
        let mut cc = NewReno::new(1000);
        cc.on_congestion(&congestion(1_000, Cause::Loss));
        assert_eq!(cc.ssthresh(), 2000);
    }

    // RFC 7661 4.2
    #[test]
    fn an_unused_window_does_not_grow() {
        let mut cc = NewReno::new(1000);
        cc.on_ack(&acked(1000, 1000));
        assert_eq!(cc.cwnd(), 10_000);
        cc.on_ack(&Acked { window_limited: false, ..acked(1000, 10_000) });
        assert_eq!(cc.cwnd(), 10_000);
    }

    // RFC 5681 3.1
    #[test]
    fn slow_start_ends_at_ssthresh() {
        let mut cc = NewReno::new(1000);
        cc.on_timeout(Instant::ZERO, 6_000, true);
        ack(&mut cc, 1000);
        ack(&mut cc, 2000);
        assert_eq!(cc.cwnd(), 3000);
        assert_eq!(cc.acked, 1000);
    }

    // RFC 3465 2.3
    #[test]
    fn after_a_timeout_a_cumulative_ack_without_sack_counts_as_one_segment() {
        let mut cc = NewReno::new(1000);
        cc.on_timeout(Instant::ZERO, 10_000, true);
        cc.on_ack(&Acked { sack: false, ..acked(4000, 4000) });
        assert_eq!(cc.cwnd(), 2000);
        // With selective reports each byte counts once, whenever it arrived.
        cc.on_ack(&acked(2000, 2000));
        assert_eq!(cc.cwnd(), 4000);
    }

    // RFC 6582 3.2 step 3
    #[test]
    fn fast_recovery_ends_at_ssthresh_and_recovery_from_a_timeout_does_not_jump_there() {
        let mut cc = NewReno::new(1000);
        cc.on_congestion(&congestion(10_000, Cause::Loss));
        cc.on_recovered(Instant::ZERO);
        assert_eq!(cc.cwnd(), 5_000);
        cc.on_timeout(Instant::ZERO, 5_000, true);
        cc.on_recovered(Instant::ZERO);
        assert_eq!(cc.cwnd(), 1_000);
    }

    // RFC 3168 6.1.2
    #[test]
    fn a_mark_halves_the_window_and_an_ack_with_a_mark_does_not_grow_it() {
        let mut cc = NewReno::new(1000);
        cc.on_congestion(&congestion(10_000, Cause::Ecn));
        assert_eq!(cc.cwnd(), 5_000);
        cc.on_ack(&Acked { ce: 1000, ..acked(5_000, 5_000) });
        assert_eq!(cc.cwnd(), 5_000);
    }

    // RFC 5681 4.1
    #[test]
    fn after_idling_the_window_is_at_most_the_initial_one() {
        let mut cc = NewReno::new(1000);
        (0..10).for_each(|_| ack(&mut cc, 1000));
        cc.on_idle(Instant::ZERO, Duration::from_secs(1));
        assert_eq!(cc.cwnd(), 10_000);
    }

    #[test]
    fn a_smaller_mss_keeps_the_number_of_segments() {
        let mut cc = NewReno::new(1000);
        cc.set_mss(500);
        assert_eq!(cc.cwnd(), 5000);
    }

    // RFC 4015 3.2
    #[test]
    fn a_spurious_reaction_is_taken_back_once() {
        let mut cc = NewReno::new(1000);
        cc.on_congestion(&congestion(10_000, Cause::Loss));
        cc.undo(Instant::ZERO);
        assert_eq!((cc.cwnd(), cc.ssthresh()), (10_000, usize::MAX));
        cc.on_congestion(&congestion(10_000, Cause::Loss));
        cc.undo(Instant::ZERO);
        cc.on_timeout(Instant::ZERO, 10_000, false);
        cc.undo(Instant::ZERO);
        assert_eq!(cc.cwnd(), 1000);
    }
}
