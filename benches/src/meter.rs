//! A client's clock: warm-up, measured time, end; and the times of the operations between.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::side::Control;
use crate::spec::Side;

/// One minute: nothing that a cell waits for takes longer.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// Where in its life a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Warmup,
    Measured,
    Over,
}

/// Counts operations and says when it is enough.
pub(crate) struct Meter {
    control: Control,
    phase: Phase,
    until: Instant,
    measured: Duration,
    operations_max: u64,
    operations: u64,
    histogram: Histogram<u64>,
}

impl Meter {
    /// The warm-up begins now.
    pub(crate) fn start(side: &Side, control: &Control) -> Meter {
        Meter {
            control: control.clone(),
            phase: Phase::Warmup,
            until: Instant::now() + side.warmup(),
            measured: side.measured(),
            operations_max: side.operations_max,
            operations: 0,
            histogram: Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)
                .expect("three digits between constant bounds"),
        }
    }

    /// An operation that began at `began` has ended at `now`. `false`: it was the last.
    pub(crate) fn operation(&mut self, began: Instant, now: Instant) -> bool {
        if self.phase == Phase::Measured {
            self.operations += 1;
            self.control.work().set_operations(self.operations);
            let ns = (now - began).as_nanos() as u64;
            self.histogram.saturating_record(ns.max(1));
        }
        self.tick(now)
    }

    /// Time went by. `false`: it is over.
    pub(crate) fn tick(&mut self, now: Instant) -> bool {
        let enough = self.operations >= self.operations_max;
        if now < self.until && !enough {
            return true;
        }
        match self.phase {
            Phase::Warmup => {
                self.phase = Phase::Measured;
                self.control.begin();
                self.until = Instant::now() + self.measured;
                true
            }
            Phase::Measured => {
                self.control.end();
                self.phase = Phase::Over;
                self.control.latency(&self.histogram);
                false
            }
            Phase::Over => false,
        }
    }

    /// Whether the measured time has ended.
    pub(crate) fn over(&self) -> bool {
        self.phase == Phase::Over
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        side: Side,
    }

    #[test]
    fn only_the_measured_time_counts_and_it_ends() {
        let line = "x --engine kernel --role client --workload request-response --warmup-s 0 \
                    --seconds 60 --operations-max 3";
        let side = Line::parse_from(line.split_whitespace()).side;
        let control = Control::default();
        let mut meter = Meter::start(&side, &control);
        let began = Instant::now();
        assert!(meter.operation(began, Instant::now()), "of the warm-up");
        assert_eq!(control.work().operations(), 0);
        let later = began + Duration::from_micros(5);
        assert!(meter.operation(began, later));
        assert!(meter.operation(began, later));
        assert!(!meter.operation(began, later), "the limit of operations");
        assert!(meter.over());
        assert_eq!(control.work().operations(), 3);
    }
}
