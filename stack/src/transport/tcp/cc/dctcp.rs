//! DCTCP (RFC 8257): the window falls by the share of bytes that were marked. For networks whose
//! every switch marks at a low threshold. Without ECN there are no marks, and it is `NewReno`.

use core::time::Duration;

use crate::seq::SeqNum;
use crate::time::Instant;

use super::newreno::NewReno;
use super::{Acked, Congestion, Controller, Lost};

/// `DCTCP.Alpha` is 1 at this value.
const ONE: u32 = 1 << 20;
/// RFC 8257 4.2: the estimation gain g is 1/16.
const GAIN_SHIFT: u32 = 4;

/// The controller of data centres.
#[derive(Clone, Debug)]
pub struct Dctcp {
    reno: NewReno,
    /// `DCTCP.Alpha`, in units of 1 / [`ONE`].
    alpha: u32,
    /// `DCTCP.WindowEnd`; `None` before the first window.
    window_end: Option<SeqNum>,
    /// `DCTCP.BytesAcked` and `DCTCP.BytesMarked`.
    acked: u32,
    marked: u32,
    /// The window was reduced for a mark; not again before this is acknowledged.
    reduced_until: Option<SeqNum>,
}

impl Dctcp {
    /// A controller for segments of `mss` bytes, in slow start.
    pub fn new(mss: usize) -> Dctcp {
        Dctcp {
            reno: NewReno::new(mss),
            // RFC 8257 3.3: the first mark counts in full.
            alpha: ONE,
            window_end: None,
            acked: 0,
            marked: 0,
            reduced_until: None,
        }
    }

    /// RFC 8257 3.3, steps 1 to 9.
    fn observe(&mut self, ack: &Acked) {
        self.acked = self.acked.saturating_add(ack.bytes as u32);
        self.marked = self.marked.saturating_add(ack.ce as u32);
        if self.window_end.is_some_and(|end| ack.snd_una <= end) {
            return;
        }
        if self.window_end.is_some() && self.acked > 0 {
            let marked = u64::from(self.marked.min(self.acked));
            let fraction = (marked * u64::from(ONE) / u64::from(self.acked)) as u32;
            // RFC 8257 4.3: rounded so that it reaches zero, and one.
            self.alpha -= self.alpha.div_ceil(1 << GAIN_SHIFT).min(self.alpha);
            self.alpha = (self.alpha + (fraction >> GAIN_SHIFT)).min(ONE);
        }
        self.window_end = Some(ack.snd_nxt);
        (self.acked, self.marked) = (0, 0);
    }
}

impl Controller for Dctcp {
    fn on_ack(&mut self, ack: &Acked) {
        if self.reduced_until.is_some_and(|end| ack.snd_una > end) {
            self.reduced_until = None;
        }
        self.observe(ack);
        // RFC 8257 3.3: cwnd x (1 - alpha / 2), once per window; loss has its own reaction.
        if ack.ce > 0 && self.reduced_until.is_none() && !ack.recovering {
            let cwnd = self.reno.cwnd() as u64;
            let cut = cwnd * u64::from(self.alpha) / u64::from(ONE) / 2;
            self.reno.reduce_to((cwnd - cut) as usize);
            self.reduced_until = Some(ack.snd_nxt);
        }
        self.reno.on_ack(ack);
    }

    fn on_lost(&mut self, lost: &Lost) {
        self.reno.on_lost(lost);
    }

    fn on_congestion(&mut self, c: &Congestion) {
        // RFC 8257 3.5: as standard TCP.
        self.reno.on_congestion(c);
    }

    fn on_recovered(&mut self, now: Instant) {
        self.reno.on_recovered(now);
    }

    fn on_timeout(&mut self, now: Instant, flight: usize, first: bool) {
        self.reno.on_timeout(now, flight, first);
    }

    fn undo(&mut self, now: Instant) {
        self.reno.undo(now);
    }

    fn on_send(&mut self, now: Instant, flight: usize, app_limited: bool) {
        self.reno.on_send(now, flight, app_limited);
    }

    fn on_idle(&mut self, now: Instant, idle: Duration) {
        self.reno.on_idle(now, idle);
    }

    fn set_mss(&mut self, mss: usize) {
        self.reno.set_mss(mss);
    }

    fn cwnd(&self) -> usize {
        self.reno.cwnd()
    }

    fn ssthresh(&self) -> usize {
        self.reno.ssthresh()
    }

    fn wants_every_mark(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::Cause;
    use super::super::testing::{acked, congestion};
    use super::*;

    /// A window of ten segments, the first `marked` of them marked.
    fn window(cc: &mut Dctcp, number: u32, marked: u32) {
        for i in 1..=10 {
            let snd_una = SeqNum(number * 10_000 + i * 1000);
            let ce = if i <= marked { 1000 } else { 0 };
            let flight = cc.cwnd();
            cc.on_ack(&Acked { ce, snd_una, snd_nxt: snd_una + 10_000, ..acked(1000, flight) });
        }
    }

    fn alpha(cc: &Dctcp) -> f64 {
        f64::from(cc.alpha) / f64::from(ONE)
    }

    // RFC 8257 3.3
    #[test]
    fn alpha_is_a_moving_average_of_the_marked_share() {
        let mut cc = Dctcp::new(1000);
        let mut model = 1.0;
        window(&mut cc, 0, 0);
        for number in 1..100 {
            let marked = number % 4;
            window(&mut cc, number, marked);
            model = model * 15.0 / 16.0 + f64::from(marked) / 10.0 / 16.0;
        }
        // The last window counts only when something beyond it is acknowledged.
        assert!((alpha(&cc) - model).abs() < 0.03, "{} {model}", alpha(&cc));
    }

    // RFC 8257 4.3
    #[test]
    fn alpha_reaches_zero_and_stays_at_one() {
        let mut cc = Dctcp::new(1000);
        (0..200).for_each(|number| window(&mut cc, number, 10));
        assert!(alpha(&cc) > 0.99);
        (200..800).for_each(|number| window(&mut cc, number, 0));
        assert_eq!(cc.alpha, 0);
    }

    // RFC 8257 3.3
    #[test]
    fn a_mark_cuts_by_half_of_alpha_once_per_window() {
        let mut cc = Dctcp::new(1000);
        cc.alpha = ONE / 4;
        let ack = Acked { ce: 1000, snd_nxt: SeqNum(10_000), ..acked(1000, 10_000) };
        cc.on_ack(&ack);
        assert_eq!(cc.cwnd(), 8_750);
        cc.on_ack(&Acked { snd_una: SeqNum(5_000), ..ack });
        assert_eq!(cc.cwnd(), 8_750);
        cc.on_ack(&Acked { snd_una: SeqNum(11_000), snd_nxt: SeqNum(20_000), ..ack });
        assert!(cc.cwnd() < 8_000, "{}", cc.cwnd());
    }

    // RFC 8257 3.5
    #[test]
    fn loss_halves_the_window_whatever_alpha_is() {
        let mut cc = Dctcp::new(1000);
        cc.alpha = 0;
        cc.on_congestion(&congestion(10_000, Cause::Loss));
        assert_eq!(cc.cwnd(), 5_000);
    }

    // RFC 8257 3.4
    #[test]
    fn without_marks_it_is_newreno() {
        let (mut cc, mut reno) = (Dctcp::new(1000), NewReno::new(1000));
        for number in 0..50u32 {
            if number % 9 == 5 {
                let c = congestion(reno.cwnd(), Cause::Loss);
                cc.on_congestion(&c);
                reno.on_congestion(&c);
                cc.on_recovered(Instant::ZERO);
                reno.on_recovered(Instant::ZERO);
            }
            let snd_una = SeqNum(number * 10_000);
            let ack = Acked { snd_una, snd_nxt: snd_una + 10_000, ..acked(5000, reno.cwnd()) };
            cc.on_ack(&ack);
            reno.on_ack(&ack);
            assert_eq!((cc.cwnd(), cc.ssthresh()), (reno.cwnd(), reno.ssthresh()));
        }
    }

    // RFC 8257 3.3
    #[test]
    fn with_marks_at_a_low_threshold_the_queue_stays_there_and_the_path_is_full() {
        use super::super::closed_loop::{Loop, MSS, Path};
        let rate = 1_000_000_000 / 8;
        let path = Path {
            rate,
            rtt: Duration::from_micros(200),
            queue_bytes: 1 << 20,
            loss: 0.0,
            mark_bytes: Some(30_000),
        };
        let mut l = Loop::new(Dctcp::new(MSS), path, 1);
        l.run(Duration::from_secs(1));
        let goodput = l.run(Duration::from_secs(2));
        assert!(goodput > rate as f64 * 0.97, "{goodput}");
        assert!(l.queue_max < 80_000 && l.queue_mean() > 5_000, "{}", l.queue_max);
        assert_eq!(l.lost, 0);
    }
}
