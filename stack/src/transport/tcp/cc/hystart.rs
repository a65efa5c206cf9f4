//! `HyStart++` (RFC 9406): the first slow start ends when the round-trip time grows, before the
//! queue overflows.

use core::time::Duration;

use crate::seq::SeqNum;

use super::Acked;

// RFC 9406 4.3
const MIN_RTT_THRESH_US: u32 = 4_000;
const MAX_RTT_THRESH_US: u32 = 16_000;
const MIN_RTT_DIVISOR: u32 = 8;
const N_RTT_SAMPLE: u8 = 8;
const CSS_GROWTH_DIVISOR: usize = 4;
const CSS_ROUNDS: u8 = 5;

const INFINITE: u32 = u32::MAX;

/// What slow start is to do with an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Add this many bytes to the window.
    pub(super) grow: usize,
    /// Slow start is over.
    pub(super) done: bool,
}

/// Rounds and their smallest round-trip times, in microseconds.
#[derive(Clone, Debug)]
pub(super) struct HyStart {
    /// The round ends when this is acknowledged; `None` before the first.
    window_end: Option<SeqNum>,
    last_round_min: u32,
    current_round_min: u32,
    samples: u8,
    /// Rounds in Conservative Slow Start; `None`: not in it.
    css_rounds: Option<u8>,
    css_baseline_min: u32,
}

impl HyStart {
    pub(super) fn new() -> HyStart {
        HyStart {
            window_end: None,
            last_round_min: INFINITE,
            current_round_min: INFINITE,
            samples: 0,
            css_rounds: None,
            css_baseline_min: INFINITE,
        }
    }

    /// An acknowledgement in slow start. Segments are paced, so that L is infinite (RFC 9406 4.3).
    pub(super) fn on_ack(&mut self, ack: &Acked) -> Step {
        // An end that is not in this flight was left behind gigabytes ago.
        let over = |end| ack.snd_una >= end || end > ack.snd_nxt;
        let ended = self.window_end.is_some_and(over);
        if ended || self.window_end.is_none() {
            self.next_round(ack.snd_nxt, ended);
        }
        if self.css_rounds.is_some_and(|rounds| rounds >= CSS_ROUNDS) {
            return Step { grow: 0, done: true };
        }
        if let Some(rtt) = ack.rtt {
            self.sample(rtt);
        }
        let divisor = if self.css_rounds.is_some() { CSS_GROWTH_DIVISOR } else { 1 };
        Step { grow: ack.bytes / divisor, done: false }
    }

    fn next_round(&mut self, snd_nxt: SeqNum, ended: bool) {
        self.window_end = Some(snd_nxt);
        if ended {
            self.last_round_min = self.current_round_min;
            self.current_round_min = INFINITE;
            self.samples = 0;
            // A round that CSS began in counts in full.
            self.css_rounds = self.css_rounds.map(|rounds| rounds + 1);
        }
    }

    fn sample(&mut self, rtt: Duration) {
        let us = u32::try_from(rtt.as_micros()).unwrap_or(INFINITE - 1);
        self.current_round_min = self.current_round_min.min(us);
        self.samples = self.samples.saturating_add(1);
        if self.samples < N_RTT_SAMPLE {
            return;
        }
        if self.css_rounds.is_some() {
            // RFC 9406 4.2: the delay was jitter, slow start resumes.
            if self.current_round_min < self.css_baseline_min {
                self.css_baseline_min = INFINITE;
                self.css_rounds = None;
            }
            return;
        }
        if self.last_round_min == INFINITE {
            return;
        }
        let thresh = self.last_round_min / MIN_RTT_DIVISOR;
        let thresh = thresh.clamp(MIN_RTT_THRESH_US, MAX_RTT_THRESH_US);
        if self.current_round_min >= self.last_round_min.saturating_add(thresh) {
            self.css_baseline_min = self.current_round_min;
            self.css_rounds = Some(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::acked;
    use super::*;

    /// A round of ten segments, each with the round-trip time `ms`; what the last step was.
    fn round(h: &mut HyStart, number: u32, ms: u64) -> Step {
        let mut step = Step { grow: 0, done: false };
        for i in 1..=10 {
            let una = SeqNum(number * 10_000 + i * 1000);
            step = h.on_ack(&Acked {
                rtt: Some(Duration::from_millis(ms)),
                snd_una: una,
                snd_nxt: una + 10_000,
                ..acked(1000, 10_000)
            });
            if step.done {
                break;
            }
        }
        step
    }

    // RFC 9406 4.2
    #[test]
    fn growing_delay_slows_growth_to_a_quarter_and_ends_slow_start_after_five_rounds() {
        let mut h = HyStart::new();
        assert_eq!(round(&mut h, 0, 40).grow, 1000);
        assert_eq!(round(&mut h, 1, 40).grow, 1000);
        assert_eq!(round(&mut h, 2, 46).grow, 250, "40 + 40/8 ms is passed");
        for number in 3..7 {
            assert_eq!(round(&mut h, number, 46), Step { grow: 250, done: false });
        }
        assert!(round(&mut h, 7, 46).done);
    }

    // RFC 9406 4.2
    #[test]
    fn delay_that_falls_again_resumes_slow_start() {
        let mut h = HyStart::new();
        round(&mut h, 0, 40);
        round(&mut h, 1, 40);
        assert_eq!(round(&mut h, 2, 50).grow, 250);
        assert_eq!(round(&mut h, 3, 41).grow, 1000);
    }

    // RFC 9406 4.3
    #[test]
    fn the_threshold_lies_between_4_and_16_ms() {
        let mut h = HyStart::new();
        round(&mut h, 0, 1);
        round(&mut h, 1, 1);
        assert_eq!(round(&mut h, 2, 4).grow, 1000);
        assert_eq!(round(&mut h, 3, 8).grow, 250);
        let mut h = HyStart::new();
        round(&mut h, 0, 400);
        round(&mut h, 1, 400);
        assert_eq!(round(&mut h, 2, 415).grow, 1000);
        assert_eq!(round(&mut h, 3, 431).grow, 250);
    }

    // RFC 9406 4.2
    #[test]
    fn fewer_than_eight_samples_in_a_round_decide_nothing() {
        let mut h = HyStart::new();
        round(&mut h, 0, 40);
        round(&mut h, 1, 40);
        for i in 1..=7 {
            let una = SeqNum(20_000 + i * 1000);
            let rtt = Some(Duration::from_millis(80));
            let ack = Acked { rtt, snd_una: una, snd_nxt: una + 10_000, ..acked(1000, 10_000) };
            assert_eq!(h.on_ack(&ack).grow, 1000);
        }
    }
}
