//! Slow start, congestion avoidance and the window of fast recovery (RFC 5681, 6582, 6928).

use core::time::Duration;

use crate::time::Instant;

use super::{Acked, Congestion, Controller};

/// RFC 6928: ten segments.
const INITIAL_WINDOW_SEGMENTS: usize = 10;

/// The standard controller.
#[derive(Clone, Debug)]
pub struct NewReno {
    mss: usize,
    cwnd: usize,
    ssthresh: usize,
    /// Bytes acknowledged towards the next increase in congestion avoidance.
    acked: usize,
    /// Window and threshold before the last reaction.
    prior: (usize, usize),
}

impl NewReno {
    /// A controller for segments of `mss` bytes, in slow start.
    pub fn new(mss: usize) -> NewReno {
        let cwnd = INITIAL_WINDOW_SEGMENTS * mss;
        NewReno { mss, cwnd, ssthresh: usize::MAX, acked: 0, prior: (cwnd, usize::MAX) }
    }

    /// RFC 5681 equation 4.
    fn half_of(&self, flight: usize) -> usize {
        (flight / 2).max(2 * self.mss)
    }
}

impl Controller for NewReno {
    fn on_ack(&mut self, ack: &Acked) {
        if ack.bytes == 0 || ack.recovering || !ack.advanced {
            return;
        }
        // RFC 7661: a window that was not used says nothing about the path.
        let slow_start = self.cwnd < self.ssthresh;
        let used =
            if slow_start { ack.flight_before * 2 } else { ack.flight_before + 3 * self.mss };
        if used < self.cwnd {
            return;
        }
        let mut bytes = ack.bytes;
        if slow_start {
            // RFC 5681 3.1 with appropriate byte counting: stretch ACKs count in full.
            let room = (self.ssthresh - self.cwnd).min(bytes);
            self.cwnd += room;
            bytes -= room;
        }
        self.acked += bytes;
        if self.acked >= self.cwnd {
            self.acked -= self.cwnd;
            self.cwnd += self.mss;
        }
    }

    fn on_congestion(&mut self, c: &Congestion) {
        self.prior = (self.cwnd, self.ssthresh);
        self.ssthresh = self.half_of(c.flight);
        self.cwnd = self.ssthresh;
        self.acked = 0;
    }

    fn on_recovered(&mut self, _now: Instant) {
        // RFC 6582 3.2 step 3, option 2: what is in flight says little by now, the path carried
        // ssthresh.
        self.cwnd = self.ssthresh;
    }

    fn on_timeout(&mut self, _now: Instant, flight: usize, first: bool) {
        // RFC 5681 3.1: ssthresh falls once per loss event.
        if first {
            self.prior = (self.cwnd, self.ssthresh);
            self.ssthresh = self.half_of(flight);
        }
        self.cwnd = self.mss;
        self.acked = 0;
    }

    fn undo(&mut self, _now: Instant) {
        self.cwnd = self.cwnd.max(self.prior.0);
        self.ssthresh = self.ssthresh.max(self.prior.1);
    }

    fn on_send(&mut self, _now: Instant, _flight: usize, _app_limited: bool) {}

    fn on_idle(&mut self, _now: Instant, _idle: Duration) {
        self.cwnd = self.cwnd.min(INITIAL_WINDOW_SEGMENTS * self.mss);
    }

    fn set_mss(&mut self, mss: usize) {
        if mss != self.mss {
            // The window stays the same number of segments.
            self.cwnd = (self.cwnd / self.mss.max(1)).max(1) * mss;
            self.mss = mss;
        }
    }

    fn cwnd(&self) -> usize {
        self.cwnd
    }

    fn ssthresh(&self) -> usize {
        self.ssthresh
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cause, testing::acked};
    use super::*;
    use crate::seq::SeqNum;

    fn ack(cc: &mut NewReno, bytes: usize) {
        let flight = cc.cwnd();
        cc.on_ack(&acked(bytes, flight));
    }

    fn congestion(flight: usize) -> Congestion {
        Congestion { now: Instant::ZERO, cause: Cause::Loss, flight, snd_nxt: SeqNum(0) }
    }

    #[test]
    fn slow_start_doubles_per_window() {
        let mut cc = NewReno::new(1000);
        assert_eq!(cc.cwnd(), 10_000);
        (0..10).for_each(|_| ack(&mut cc, 1000));
        assert_eq!(cc.cwnd(), 20_000);
    }

    #[test]
    fn congestion_avoidance_adds_a_segment_per_window() {
        let mut cc = NewReno::new(1000);
        cc.on_congestion(&congestion(20_000));
        assert_eq!((cc.cwnd(), cc.ssthresh()), (10_000, 10_000));
        (0..10).for_each(|_| ack(&mut cc, 1000));
        assert_eq!(cc.cwnd(), 11_000);
    }

    #[test]
    fn a_timeout_falls_to_one_segment_and_halves_only_once() {
        let mut cc = NewReno::new(1000);
        cc.on_timeout(Instant::ZERO, 10_000, true);
        assert_eq!((cc.cwnd(), cc.ssthresh()), (1000, 5000));
        cc.on_timeout(Instant::ZERO, 1000, false);
        assert_eq!((cc.cwnd(), cc.ssthresh()), (1000, 5000));
    }

    #[test]
    fn an_unused_window_does_not_grow() {
        let mut cc = NewReno::new(1000);
        cc.on_ack(&acked(1000, 1000));
        assert_eq!(cc.cwnd(), 10_000);
    }

    #[test]
    fn slow_start_ends_at_ssthresh() {
        let mut cc = NewReno::new(1000);
        cc.on_timeout(Instant::ZERO, 6_000, true);
        ack(&mut cc, 1000);
        ack(&mut cc, 2000);
        assert_eq!(cc.cwnd(), 3000);
        assert_eq!(cc.acked, 1000);
    }

    #[test]
    fn a_smaller_mss_keeps_the_number_of_segments() {
        let mut cc = NewReno::new(1000);
        cc.set_mss(500);
        assert_eq!(cc.cwnd(), 5000);
    }

    #[test]
    fn a_spurious_reaction_is_taken_back() {
        let mut cc = NewReno::new(1000);
        cc.on_congestion(&congestion(10_000));
        cc.undo(Instant::ZERO);
        assert_eq!((cc.cwnd(), cc.ssthresh()), (10_000, usize::MAX));
    }
}
