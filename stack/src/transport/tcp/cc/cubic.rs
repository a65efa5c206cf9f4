//! CUBIC (RFC 9438) with `HyStart++` (RFC 9406) in the first slow start.
//!
//! Windows are bytes and times microseconds, all in integers: the same acknowledgements give the
//! same windows on every machine.

use core::time::Duration;

use crate::time::Instant;

use super::hystart::HyStart;
use super::{Acked, Cause, Congestion, Controller, INITIAL_WINDOW_SEGMENTS, grow_by, was_used};

/// RFC 9438 5: C = 0.4 segments per second cubed.
const C_TENTHS: i128 = 4;
/// RFC 9438 4.6: `beta_cubic` = 0.7.
const BETA_TENTHS: u64 = 7;
/// RFC 9438 4.3: `alpha_cubic` = 3 (1 - beta) / (1 + beta) = 9 / 17.
const ALPHA: (u64, u64) = (9, 17);

/// So long into a stage (19 hours) the curve has no more to say, and its cube still fits.
const LATE_US: u64 = 1 << 36;

/// The default controller.
#[derive(Clone, Debug)]
pub struct Cubic {
    mss: u32,
    cwnd: u32,
    /// `u32::MAX` before the first congestion.
    ssthresh: u32,
    curve: Curve,
    /// Fraction of a byte of the window, over the window.
    rest: u32,
    /// Up to when the window was in use; what comes between is not time of the curve.
    used_until: Instant,
    /// In fast recovery.
    fast: bool,
    /// In the slow start after a timeout.
    restarting: bool,
    /// `None` once the first slow start is over.
    hystart: Option<HyStart>,
    /// What the last reaction changed (RFC 9438 4.9).
    prior: Option<Box<Prior>>,
}

#[derive(Clone, Debug)]
struct Prior {
    cwnd: u32,
    ssthresh: u32,
    curve: Curve,
}

/// The state of equations 1 to 4.
#[derive(Clone, Debug)]
struct Curve {
    /// `t_epoch`: the current congestion avoidance stage began; `None`: it has yet to.
    epoch: Option<Instant>,
    /// `K`, in microseconds.
    k_us: u32,
    /// `W_max`.
    w_max: u32,
    /// `cwnd_prior`: the window before the last reduction.
    cwnd_prior: u32,
    /// `W_est`.
    w_est: u32,
    /// Fraction of a byte of it, over 17 windows.
    w_est_rest: u32,
    /// The next stage has K = 0 and `W_max` = cwnd: no loss told where the limit is.
    flat: bool,
}

/// The integer cube root.
fn cbrt(n: u128) -> u64 {
    let mut root = 0u128;
    for bit in (0..42).rev() {
        let with = root | 1 << bit;
        if with * with * with <= n {
            root = with;
        }
    }
    root as u64
}

impl Curve {
    /// RFC 9438 4.2: a congestion avoidance stage begins.
    fn begin(&mut self, now: Instant, cwnd: u32, mss: u32) {
        self.epoch = Some(now);
        self.w_est = cwnd;
        self.w_est_rest = 0;
        // RFC 9438 4.8, 4.10
        if core::mem::take(&mut self.flat) {
            self.w_max = cwnd;
        }
        // Equation 2. A window beyond W_max grows from where it is.
        self.w_max = self.w_max.max(cwnd);
        let segments_e18 = u128::from(self.w_max - cwnd) * 10u128.pow(18) / u128::from(mss.max(1));
        self.k_us = cbrt(segments_e18 * 10 / C_TENTHS as u128) as u32;
    }

    /// Equation 1, `t_us` into the stage.
    fn w_cubic(&self, t_us: u64, mss: u32) -> u64 {
        let d = i128::from(t_us.min(LATE_US)) - i128::from(self.k_us);
        let rise = C_TENTHS * i128::from(mss) * d * d * d / 10i128.pow(19);
        (i128::from(self.w_max) + rise).clamp(0, i128::from(u32::MAX)) as u64
    }

    /// Equation 4: the window Reno would have.
    fn raise_w_est(&mut self, acked: u64, cwnd: u32, mss: u32) {
        // RFC 9438 4.3: alpha is 1 from the window before the reduction on.
        let (num, den) = if self.w_est >= self.cwnd_prior { (17, 17) } else { ALPHA };
        let whole = den * u64::from(cwnd.max(1));
        let sum = num * u64::from(mss) * acked + u64::from(self.w_est_rest);
        self.w_est = self.w_est.saturating_add((sum / whole) as u32);
        self.w_est_rest = (sum % whole).min(u64::from(u32::MAX)) as u32;
    }

    fn scale(&mut self, to: u32, from: u32) {
        let scaled = |w: u32| (u64::from(w) * u64::from(to) / u64::from(from.max(1))) as u32;
        self.w_max = scaled(self.w_max);
        self.cwnd_prior = scaled(self.cwnd_prior);
        self.w_est = scaled(self.w_est);
    }
}

impl Cubic {
    /// A controller for segments of `mss` bytes, in slow start.
    pub fn new(mss: usize) -> Cubic {
        Cubic {
            mss: mss as u32,
            cwnd: (INITIAL_WINDOW_SEGMENTS * mss) as u32,
            ssthresh: u32::MAX,
            curve: Curve {
                epoch: None,
                k_us: 0,
                w_max: 0,
                cwnd_prior: 0,
                w_est: 0,
                w_est_rest: 0,
                flat: true,
            },
            rest: 0,
            used_until: Instant::ZERO,
            fast: false,
            restarting: false,
            hystart: Some(HyStart::new()),
            prior: None,
        }
    }

    /// Time in which the sender, not the path, held back is no time of the curve (RFC 9438 5.8).
    fn skip_unused(&mut self, now: Instant) {
        let idle = now - self.used_until;
        if let Some(epoch) = &mut self.curve.epoch {
            *epoch += idle;
        }
        self.used_until = now;
    }

    /// The bytes of `ack` that slow start did not take.
    fn slow_start(&mut self, ack: &Acked) -> usize {
        let mss = self.mss as usize;
        let grow = match &mut self.hystart {
            Some(hystart) => {
                let step = hystart.on_ack(ack);
                if step.done {
                    // RFC 9438 4.10: out of slow start without a loss.
                    self.ssthresh = self.cwnd;
                    self.curve.cwnd_prior = self.cwnd;
                    self.curve.flat = true;
                    return ack.bytes;
                }
                let limit = if ack.paced { step.grow } else { step.grow.min(8 * mss) };
                limit as u32
            }
            None => grow_by(ack, mss, self.restarting) as u32,
        };
        let room = (self.ssthresh - self.cwnd).min(grow);
        self.cwnd += room;
        if self.cwnd < self.ssthresh { 0 } else { ack.bytes.saturating_sub(room as usize) }
    }

    fn avoid_congestion(&mut self, ack: &Acked, bytes: u64) {
        self.hystart = None;
        self.restarting = false;
        if self.curve.epoch.is_none() {
            self.curve.begin(ack.now, self.cwnd, self.mss);
        }
        let Some(epoch) = self.curve.epoch else { return };
        self.curve.raise_w_est(bytes, self.cwnd, self.mss);
        let t_us = (ack.now - epoch).as_micros() as u64;
        let rtt_us = ack.srtt.unwrap_or_default().as_micros() as u64;
        // RFC 9438 4.3: the Reno-friendly region.
        if self.curve.w_cubic(t_us, self.mss) < u64::from(self.curve.w_est) {
            self.cwnd = self.cwnd.max(self.curve.w_est);
            return;
        }
        // RFC 9438 4.2, 4.4, 4.5: towards where the curve is in a round trip.
        let cwnd = u64::from(self.cwnd);
        let target = self.curve.w_cubic(t_us + rtt_us, self.mss).clamp(cwnd, cwnd * 3 / 2);
        let sum = (target - cwnd) * bytes + u64::from(self.rest);
        self.cwnd = self.cwnd.saturating_add((sum / cwnd) as u32);
        self.rest = (sum % cwnd) as u32;
    }

    fn remember(&mut self) {
        let (cwnd, ssthresh, curve) = (self.cwnd, self.ssthresh, self.curve.clone());
        self.prior = Some(Box::new(Prior { cwnd, ssthresh, curve }));
    }

    /// RFC 9438 4.6, 4.7: what the congestion says about the path; the reduced window.
    fn reduce(&mut self, flight: usize) -> u32 {
        self.curve.cwnd_prior = self.cwnd;
        self.curve.w_max = if self.cwnd < self.curve.w_max {
            // Fast convergence: (1 + beta) / 2.
            (u64::from(self.cwnd) * (10 + BETA_TENTHS) / 20) as u32
        } else {
            self.cwnd
        };
        self.curve.flat = false;
        self.curve.epoch = None;
        self.rest = 0;
        self.hystart = None;
        // What was sent beyond the window during duplicates was not carried at once.
        let flight = (flight as u64).min(u64::from(self.cwnd));
        let reduced = (flight * BETA_TENTHS / 10) as u32;
        self.ssthresh = reduced.max(2 * self.mss);
        reduced
    }
}

impl Controller for Cubic {
    fn on_ack(&mut self, ack: &Acked) {
        if ack.recovering {
            self.used_until = ack.now;
            return;
        }
        if !was_used(ack, self.cwnd as usize) {
            self.skip_unused(ack.now);
            return;
        }
        self.used_until = ack.now;
        // RFC 3168 6.1.2: no increase on an ACK that reports congestion.
        if ack.ce > 0 {
            return;
        }
        let mut bytes = ack.bytes;
        if self.cwnd < self.ssthresh {
            bytes = self.slow_start(ack);
            if self.cwnd < self.ssthresh {
                return;
            }
        }
        self.avoid_congestion(ack, bytes as u64);
    }

    fn on_congestion(&mut self, c: &Congestion) {
        self.remember();
        let reduced = self.reduce(c.flight);
        // RFC 9438 4.6: with marks the window may fall to one segment.
        let floor = if c.cause == Cause::Ecn { self.mss } else { 2 * self.mss };
        self.cwnd = reduced.max(floor);
        self.fast = c.cause == Cause::Loss;
        self.restarting = false;
    }

    fn on_recovered(&mut self, now: Instant) {
        if core::mem::take(&mut self.fast) {
            self.cwnd = self.ssthresh;
            self.used_until = now;
        }
    }

    fn on_timeout(&mut self, _now: Instant, flight: usize, first: bool) {
        if first {
            self.remember();
            self.reduce(flight);
        }
        // RFC 9438 4.8: the window of RFC 5681, and a curve that starts where slow start ends.
        self.cwnd = self.mss;
        self.curve.flat = true;
        self.curve.epoch = None;
        self.hystart = None;
        self.fast = false;
        self.restarting = true;
    }

    fn undo(&mut self, now: Instant) {
        let Some(prior) = self.prior.take() else { return };
        self.fast = false;
        self.restarting = false;
        // RFC 9438 4.9: a window that has grown beyond it by now stays, with its curve.
        if self.cwnd < prior.cwnd {
            (self.cwnd, self.ssthresh, self.curve) = (prior.cwnd, prior.ssthresh, prior.curve);
            self.used_until = now;
        }
    }

    fn on_send(&mut self, now: Instant, flight: usize, _app_limited: bool) {
        if flight == 0 {
            self.skip_unused(now);
        }
    }

    fn on_idle(&mut self, _now: Instant, _idle: Duration) {
        // RFC 5681 4.1: the restart window; a curve that begins anew.
        self.cwnd = self.cwnd.min(INITIAL_WINDOW_SEGMENTS as u32 * self.mss);
        self.curve.epoch = None;
    }

    fn set_mss(&mut self, mss: usize) {
        let (new, old) = (mss as u32, self.mss.max(1));
        if new != self.mss {
            self.cwnd = super::rescale(self.cwnd, old, new);
            self.curve.scale(new.min(old), old);
            self.curve.epoch = None;
            self.mss = new;
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

    const MSS: u32 = 1000;

    /// In congestion avoidance after a loss at `segments`.
    fn reduced(segments: u32) -> Cubic {
        let mut cc = Cubic::new(MSS as usize);
        cc.cwnd = segments * MSS;
        cc.on_congestion(&congestion(cc.cwnd as usize, Cause::Loss));
        cc.on_recovered(Instant::ZERO);
        cc
    }

    /// Acknowledges a full window, segment by segment, spread over the round trip that ends at
    /// `now`.
    fn round(cc: &mut Cubic, now: Instant, rtt: Duration) {
        let n = cc.cwnd() / MSS as usize;
        let start = Instant::from_nanos(now.as_nanos() - rtt.as_nanos() as u64);
        for i in 0..n {
            let now = start + rtt * (i as u32 + 1) / n as u32;
            let flight = cc.cwnd();
            cc.on_ack(&Acked { now, srtt: Some(rtt), ..acked(MSS as usize, flight) });
        }
    }

    /// Runs for `seconds`; the window in segments after each round trip.
    fn run(cc: &mut Cubic, rtt: Duration, seconds: u64) -> Vec<(f64, f64)> {
        let rounds = Duration::from_secs(seconds).as_nanos() / rtt.as_nanos();
        (1..=rounds as u32)
            .map(|i| {
                let now = Instant::ZERO + rtt * i;
                round(cc, now, rtt);
                (now.as_nanos() as f64 / 1e9, f64::from(cc.cwnd) / f64::from(MSS))
            })
            .collect()
    }

    // RFC 9438 4.2
    // RFC 9438 4.4
    // RFC 9438 4.5
    #[test]
    fn the_window_follows_the_cubic_function() {
        let rtt = Duration::from_millis(100);
        let mut cc = reduced(1000);
        assert_eq!(cc.cwnd(), 700_000);
        let k = (300.0f64 / 0.4).cbrt();
        let windows = run(&mut cc, rtt, 14);
        // The stage begins with the first acknowledgement; the window is where the curve is a
        // round trip after the target was set.
        for (t, w) in windows.iter().skip(10) {
            let model = 0.4 * (t - k).powi(3) + 1000.0;
            assert!((w - model).abs() < model * 0.01, "at {t:.1} s {w:.1}, model {model:.1}");
        }
        let (concave, convex) = (windows[0].1, windows[windows.len() - 1].1);
        assert!(concave < 1000.0 && convex > 1020.0);
    }

    // RFC 9438 4.2 equation 2
    #[test]
    fn k_is_the_cube_root_of_the_reduction() {
        let mut cc = reduced(1000);
        round(&mut cc, Instant::from_millis(100), Duration::from_millis(100));
        let k = (300.0f64 / 0.4).cbrt();
        assert!((f64::from(cc.curve.k_us) / 1e6 - k).abs() < 1e-5);
        assert_eq!((cbrt(27), cbrt(26), cbrt(0), cbrt(10u128.pow(18))), (3, 2, 0, 1_000_000));
    }

    // RFC 9438 4.3 equation 4
    #[test]
    fn on_short_paths_the_window_grows_as_renos_with_alpha() {
        let rtt = Duration::from_millis(10);
        let mut cc = reduced(20);
        assert_eq!(cc.cwnd(), 14_000);
        // Up to cwnd_prior 9/17 of a segment per round trip, then a whole one.
        let windows = run(&mut cc, rtt, 1);
        let slope = (windows[9].1 - windows[0].1) / 9.0;
        assert!((slope - 9.0 / 17.0).abs() < 0.03, "{slope}");
        let after = windows.iter().position(|(_, w)| *w >= 21.0).expect("beyond cwnd_prior");
        let slope = (windows[after + 10].1 - windows[after].1) / 10.0;
        assert!((slope - 1.0).abs() < 0.05, "{slope}");
    }

    // RFC 9438 4.2
    #[test]
    fn the_target_is_at_most_half_a_window_beyond() {
        let mut cc = reduced(1000);
        let rtt = Duration::from_millis(100);
        round(&mut cc, Instant::from_millis(100), rtt);
        let before = cc.cwnd();
        // The curve went on for a minute although no ACK came.
        round(&mut cc, Instant::from_millis(60_000), rtt);
        assert!(cc.cwnd() > before * 14 / 10 && cc.cwnd() <= before * 165 / 100);
    }

    // RFC 8899 3
    #[test]
    fn larger_segments_make_no_larger_window_and_smaller_ones_a_smaller_one() {
        for mut cc in [
            super::super::Algorithm::new(crate::socket::tcp::CongestionControl::Cubic, 1000, 0),
            super::super::Algorithm::new(crate::socket::tcp::CongestionControl::NewReno, 1000, 0),
        ] {
            cc.set_mss(8900);
            assert_eq!(cc.cwnd(), 10_000);
            cc.set_mss(890);
            assert_eq!(cc.cwnd(), 890);
            cc.set_mss(8900);
            assert_eq!(cc.cwnd(), 8900, "one segment at least");
        }
    }

    // RFC 9438 4.2 equation 1
    #[test]
    fn a_stage_of_weeks_does_not_overflow() {
        let mut cc = reduced(1000);
        cc.set_mss(65_495);
        let late = Instant::from_millis(30 * 24 * 3_600_000);
        for now in [Instant::from_millis(1), late] {
            let srtt = Some(Duration::from_mins(2));
            cc.on_ack(&Acked { now, srtt, ..acked(MSS as usize, cc.cwnd()) });
            cc.used_until = late;
        }
        assert!(cc.cwnd() > 700_000);
    }

    // RFC 9438 4.6
    #[test]
    fn the_window_falls_to_seven_tenths_and_not_below_two_segments() {
        assert_eq!(reduced(100).cwnd(), 70_000);
        let cc = reduced(2);
        assert_eq!((cc.cwnd(), cc.ssthresh()), (2_000, 2_000));
        let mut cc = Cubic::new(1000);
        cc.cwnd = 1000;
        cc.on_congestion(&congestion(1000, Cause::Ecn));
        assert_eq!((cc.cwnd(), cc.ssthresh()), (1_000, 2_000), "a mark: down to one");
    }

    // RFC 9438 4.7
    #[test]
    fn fast_convergence_gives_way_to_newcomers() {
        let mut cc = reduced(100);
        assert_eq!(cc.curve.w_max, 100_000);
        cc.on_congestion(&congestion(70_000, Cause::Loss));
        assert_eq!(cc.curve.w_max, 59_500, "70 x (1 + 0.7) / 2");
        assert_eq!(cc.curve.cwnd_prior, 70_000);
        cc.cwnd = 80_000;
        cc.on_congestion(&congestion(80_000, Cause::Loss));
        assert_eq!(cc.curve.w_max, 80_000);
    }

    // RFC 9438 4.8
    #[test]
    fn after_a_timeout_the_curve_starts_flat_where_slow_start_ends() {
        let mut cc = reduced(100);
        cc.on_timeout(Instant::ZERO, 70_000, true);
        assert_eq!((cc.cwnd(), cc.ssthresh()), (1_000, 49_000));
        cc.on_timeout(Instant::ZERO, 1_000, false);
        assert_eq!((cc.cwnd(), cc.ssthresh()), (1_000, 49_000));
        let rtt = Duration::from_millis(100);
        for i in 1..10 {
            round(&mut cc, Instant::from_millis(i * 100), rtt);
        }
        assert_eq!((cc.curve.k_us, cc.curve.w_max), (0, 49_000));
        assert!(cc.cwnd() >= 49_000);
    }

    // RFC 9438 4.9.2
    #[test]
    fn a_spurious_fast_retransmit_restores_window_and_curve() {
        let mut cc = reduced(1000);
        let rtt = Duration::from_millis(100);
        run(&mut cc, rtt, 5);
        let (cwnd, ssthresh, curve) = (cc.cwnd, cc.ssthresh, cc.curve.clone());
        cc.on_congestion(&congestion(cwnd as usize, Cause::Loss));
        assert!(cc.cwnd < cwnd);
        cc.undo(Instant::from_millis(5_100));
        assert_eq!((cc.cwnd, cc.ssthresh, cc.curve.w_max), (cwnd, ssthresh, curve.w_max));
        assert_eq!((cc.curve.epoch, cc.curve.k_us), (curve.epoch, curve.k_us));
    }

    // RFC 9438 4.9.1
    #[test]
    fn a_spurious_timeout_restores_window_and_curve() {
        let mut cc = Cubic::new(1000);
        cc.on_timeout(Instant::ZERO, 10_000, true);
        cc.undo(Instant::ZERO);
        assert_eq!((cc.cwnd(), cc.ssthresh()), (10_000, usize::MAX));
    }

    // RFC 9438 4.9.2
    #[test]
    fn a_window_that_grew_beyond_the_old_one_stays_when_the_loss_proves_spurious() {
        let mut cc = reduced(10);
        run(&mut cc, Duration::from_millis(10), 2);
        let (cwnd, ssthresh) = (cc.cwnd(), cc.ssthresh());
        assert!(cwnd > 10_000);
        cc.undo(Instant::from_millis(2_000));
        assert_eq!((cc.cwnd(), cc.ssthresh()), (cwnd, ssthresh));
    }

    // RFC 9438 4.10
    // RFC 9406 4.2
    #[test]
    fn hystart_ends_the_first_slow_start_and_the_curve_starts_flat() {
        let mut cc = Cubic::new(1000);
        let mut una = 0u32;
        for number in 0u64..20 {
            let rtt = Duration::from_millis(40 + number * 8);
            for _ in 0..cc.cwnd() / 1000 {
                una += 1000;
                let snd_una = crate::seq::SeqNum(una);
                cc.on_ack(&Acked {
                    now: Instant::from_millis(number * 100),
                    rtt: Some(rtt),
                    srtt: Some(rtt),
                    snd_una,
                    snd_nxt: snd_una + cc.cwnd,
                    ..acked(1000, cc.cwnd())
                });
            }
        }
        // Two doublings at most, then five rounds of a quarter.
        assert!(cc.ssthresh() < 80_000, "{}", cc.ssthresh());
        assert_eq!((cc.curve.k_us, cc.curve.w_max), (0, cc.ssthresh));
        assert!(cc.hystart.is_none());
        cc.on_timeout(Instant::ZERO, 10_000, true);
        assert!(cc.hystart.is_none(), "RFC 9406 4.3: only the initial slow start");
    }

    // RFC 9438 5.8
    #[test]
    fn time_without_use_of_the_window_is_no_time_of_the_curve() {
        let rtt = Duration::from_millis(100);
        let (mut busy, mut idle) = (reduced(1000), reduced(1000));
        run(&mut busy, rtt, 2);
        run(&mut idle, rtt, 2);
        // Ten seconds of an application that sends little, then a pause.
        for i in 0..100u64 {
            let now = Instant::from_millis(2_000 + i * 100);
            idle.on_ack(&Acked { now, ..acked(1000, 2000) });
        }
        assert_eq!(idle.cwnd, busy.cwnd);
        idle.on_send(Instant::from_millis(13_000), 0, true);
        round(&mut busy, Instant::from_millis(2_100), rtt);
        round(&mut idle, Instant::from_millis(13_100), rtt);
        assert!(idle.cwnd.abs_diff(busy.cwnd) < 1000, "{} {}", idle.cwnd, busy.cwnd);
    }

    // RFC 3168 6.1.2
    #[test]
    fn an_ack_with_a_mark_does_not_grow_the_window() {
        let mut cc = Cubic::new(1000);
        cc.on_ack(&Acked { ce: 1000, ..acked(5_000, 10_000) });
        assert_eq!(cc.cwnd(), 10_000);
    }

    // RFC 5681 4.1
    #[test]
    fn after_idling_the_window_is_at_most_the_initial_one() {
        let mut cc = reduced(100);
        cc.on_idle(Instant::ZERO, Duration::from_secs(1));
        assert_eq!((cc.cwnd(), cc.ssthresh()), (10_000, 70_000));
    }

    mod on_a_path {
        use super::super::super::closed_loop::{Loop, MSS, Path};
        use super::*;

        const MBIT: u64 = 1_000_000 / 8;

        // RFC 9438 5.1
        // RFC 9438 5.2
        #[test]
        fn the_mean_window_under_random_loss_is_the_response_function() {
            // Loss rate, round trip: Reno-friendly first, then CUBIC's own region.
            for (loss, ms) in [(1e-2, 20), (1e-3, 20), (1e-3, 200), (1e-4, 100)] {
                let rtt = Duration::from_millis(ms);
                let path =
                    Path { rate: 20_000 * MBIT, rtt, queue_bytes: 1 << 30, loss, mark_bytes: None };
                let mut l = Loop::new(Cubic::new(MSS), path, 11);
                // Out of slow start.
                l.cc.ssthresh = 10 * MSS as u32;
                l.run(Duration::from_secs(20));
                let losses = 60.0;
                let reno = (3.0f64 / 2.0 / loss).sqrt();
                let rtt_s = rtt.as_secs_f64();
                let own = 1.054 * rtt_s.powf(0.75) / loss.powf(0.75);
                let window = reno.max(own);
                let seconds = (losses / loss / window * rtt_s).max(30.0) as u64;
                let rate = l.run(Duration::from_secs(seconds));
                let model = window * MSS as f64 / rtt_s;
                let ratio = rate / model;
                assert!((0.8..1.5).contains(&ratio), "loss {loss}, {ms} ms: {ratio:.2}");
            }
        }

        // RFC 9406 4.2
        #[test]
        fn slow_start_ends_by_delay_before_the_queue_overflows() {
            let rtt = Duration::from_millis(50);
            // Three times the path's volume when it shows, which five rounds of a quarter make nine.
            let queue_bytes = 10 * 100 * MBIT / 20;
            let path = Path { rate: 100 * MBIT, rtt, queue_bytes, loss: 0.0, mark_bytes: None };
            let mut l = Loop::new(Cubic::new(MSS), path, 1);
            while l.cc.hystart.is_some() {
                l.run(Duration::from_millis(10));
            }
            assert_eq!(l.lost, 0);
            let mut plain = Loop::new(Cubic::new(MSS), path, 1);
            plain.cc.hystart = None;
            plain.run(Duration::from_secs(3));
            assert!(plain.lost > 100 * MSS as u64, "{}", plain.lost);
            let bdp = 100 * MBIT / 20;
            assert!(u64::from(l.cc.ssthresh) > bdp * 8 / 10, "{}", l.cc.ssthresh);
            assert!(u64::from(l.cc.ssthresh) < bdp + queue_bytes);
        }

        #[test]
        fn a_shallow_queue_is_used_well() {
            let rtt = Duration::from_millis(20);
            let bdp = 100 * MBIT / 50;
            let path =
                Path { rate: 100 * MBIT, rtt, queue_bytes: bdp / 2, loss: 0.0, mark_bytes: None };
            let mut l = Loop::new(Cubic::new(MSS), path, 1);
            l.run(Duration::from_secs(5));
            let rate = l.run(Duration::from_mins(1));
            assert!(rate > (95 * MBIT) as f64, "{}", rate / MBIT as f64);
        }
    }
}
