//! A rate as the time at which everything that went is paid for.
//!
//! One word holds a bucket: the time (in 1/64 ns) at which it is empty of debt. What goes moves it
//! on by its cost; it never lies further back than the burst. So nothing has to be refilled, and
//! several workers share a bucket by adding to one atomic word.
//!
//! A worker that comes late finds a bucket further back than its burst. What it could not give in
//! that time is not lost: [`Lateness`] tells how much further back buckets may lie for a while.

use std::sync::atomic::{AtomicU64, Ordering};

use weft_stack::time::Instant;

/// Ticks of a nanosecond: a minimal frame at 1 Tbit/s is 32.
const TICKS_PER_NS: u64 = 64;
const TICKS_PER_SECOND: u128 = 1_000_000_000 * TICKS_PER_NS as u128;
/// Binary places of [`Meter::cost`].
const SCALE: u32 = 20;
/// Beyond this a worker's lateness is lost: nobody expects more at once.
const LATE_MAX: Ticks = 100_000_000 * TICKS_PER_NS;

/// A time in ticks.
pub(crate) type Ticks = u64;

pub(crate) fn ticks(at: Instant) -> Ticks {
    at.as_nanos().saturating_mul(TICKS_PER_NS)
}

/// The first instant not before `at`.
pub(crate) fn instant(at: Ticks) -> Instant {
    Instant::from_nanos(at.div_ceil(TICKS_PER_NS))
}

/// Price of a unit (a byte, a packet) at some rate, and the credit that idleness gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meter {
    cost: u64,
    burst: Ticks,
}

impl Meter {
    /// Of `per_second` units; `burst` of them may go at once.
    pub(crate) fn new(per_second: u64, burst: u64) -> Meter {
        let cost = (TICKS_PER_SECOND << SCALE) / u128::from(per_second.max(1));
        let mut meter = Meter { cost: u64::try_from(cost).unwrap_or(u64::MAX), burst: 0 };
        meter.burst = meter.price(burst);
        meter
    }

    fn price(self, units: u64) -> Ticks {
        ((u128::from(units) * u128::from(self.cost)) >> SCALE) as u64
    }
}

/// When a meter's debt is paid.
#[derive(Debug, Default)]
pub(crate) struct Bucket(AtomicU64);

impl Bucket {
    /// More may go from here on.
    pub(crate) fn opens_at(&self) -> Ticks {
        self.0.load(Ordering::Relaxed)
    }

    /// `units` go now, whether or not it is open. `late`: see [`Lateness`].
    pub(crate) fn charge(&self, now: Ticks, late: Ticks, meter: Meter, units: u64) {
        self.add((now, late), meter, units, u64::MAX);
    }

    /// As [`Bucket::charge`], but the debt does not grow beyond these units: what was given without
    /// need takes no claim away.
    pub(crate) fn spend(&self, now: Ticks, late: Ticks, meter: Meter, units: u64) {
        self.add((now, late), meter, units, now + meter.price(units));
    }

    fn add(&self, (now, late): (Ticks, Ticks), meter: Meter, units: u64, most: Ticks) {
        let price = meter.price(units);
        let least = now.saturating_sub(meter.burst).saturating_sub(late);
        let next = |at: u64| {
            let paid = at.max(least) + price;
            Some(if paid > most { at.max(most) } else { paid })
        };
        // Nobody else is told anything by it.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// How full it is, from 0 to 1.
    pub(crate) fn level(&self, now: Ticks, meter: Meter) -> f64 {
        let credit = now.saturating_sub(self.opens_at()).min(meter.burst);
        credit as f64 / meter.burst.max(1) as f64
    }
}

/// How late a worker looks at its buckets. It fades as time passes, as long as it was; while
/// something is always due it stays.
#[derive(Debug, Default)]
pub(crate) struct Lateness {
    late: Ticks,
    at: Ticks,
}

impl Lateness {
    /// The worker looks; something could have been done since `due`.
    pub(crate) fn look(&mut self, now: Ticks, due: Option<Ticks>) -> Ticks {
        let passed = now.saturating_sub(self.at);
        let fresh = due.map_or(0, |due| now.saturating_sub(due).min(passed));
        self.late = (self.late.saturating_sub(passed) + fresh).min(LATE_MAX);
        self.at = now;
        self.late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> Ticks {
        ticks(Instant::from_micros(us))
    }

    #[test]
    fn a_bucket_gives_its_rate_and_its_burst_once() {
        let meter = Meter::new(1_000_000, 5_000);
        let bucket = Bucket::default();
        let mut sent = 0;
        for us in (1_000_000..2_000_000).step_by(10) {
            while bucket.opens_at() <= at(us) {
                bucket.charge(at(us), 0, meter, 100);
                sent += 100;
            }
        }
        assert!((1_005_000..1_005_300).contains(&sent), "{sent}");
    }

    #[test]
    fn a_price_is_exact_at_high_rates_and_no_overflow_at_low_ones() {
        let fast = Meter::new(12_500_000_000, 0);
        assert_eq!(fast.price(64), 327);
        let slow = Meter::new(1, 1_000_000_000);
        assert!(slow.price(65_535) > 0 && slow.burst > slow.price(1));
    }

    #[test]
    fn what_was_spent_without_need_leaves_no_debt() {
        let meter = Meter::new(1_000, 0);
        let bucket = Bucket::default();
        for _ in 0..100 {
            bucket.spend(at(1_000_000), 0, meter, 10);
        }
        assert_eq!(bucket.opens_at(), at(1_010_000));
    }

    #[test]
    fn lateness_counts_from_when_something_was_due_and_fades_as_long_as_it_was() {
        let mut lateness = Lateness::default();
        assert_eq!(lateness.look(at(1_000_000), None), 0);
        assert_eq!(lateness.look(at(1_050_000), Some(at(1_010_000))), at(40_000));
        assert_eq!(lateness.look(at(1_060_000), None), at(30_000));
        assert_eq!(lateness.look(at(1_070_000), Some(at(1_000))), at(30_000), "due all the time");
        assert_eq!(lateness.look(at(1_100_000), None), 0);
        assert_eq!(lateness.look(at(3_000_000), Some(at(1_200_000))), LATE_MAX);
    }
}
