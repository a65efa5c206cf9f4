//! A token bucket in one instant (the generic cell rate algorithm).

use core::time::Duration;

use weft_stack::time::Instant;

use super::config::Budget;

/// What is left of a [`Budget`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    /// When all that was taken will have been earned.
    earned: Instant,
    cost: Duration,
    burst: u32,
}

impl Bucket {
    pub(super) fn new(budget: Budget, now: Instant) -> Bucket {
        let cost = Duration::from_secs(1) / budget.per_second.max(1);
        Bucket { earned: now, cost, burst: budget.burst.max(1) }
    }

    /// When one can be taken that leaves `reserve` in the bucket.
    pub(super) fn next(&self, reserve: u32) -> Instant {
        let depth = self.cost * self.burst.saturating_sub(reserve).max(1);
        Instant::from_nanos(
            (self.earned + self.cost).as_nanos().saturating_sub(depth.as_nanos() as u64),
        )
    }

    /// One can be taken now.
    pub(super) fn has(&self, now: Instant, reserve: u32) -> bool {
        self.next(reserve) <= now
    }

    /// Takes one, if it leaves `reserve`.
    pub(super) fn take(&mut self, now: Instant, reserve: u32) -> bool {
        let has = self.has(now, reserve);
        if has {
            self.earned = self.earned.max(now) + self.cost;
        }
        has
    }

    /// What idle business leaves for an emergency.
    pub(super) fn reserve(&self) -> u32 {
        self.burst / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate_and_a_reserve_for_emergencies() {
        let now = Instant::from_millis(5);
        let mut bucket = Bucket::new(Budget { burst: 4, per_second: 10 }, now);
        assert_eq!((0..10).filter(|_| bucket.take(now, bucket.reserve())).count(), 2);
        assert_eq!((0..10).filter(|_| bucket.take(now, 0)).count(), 2);
        assert_eq!(bucket.next(0), now + Duration::from_millis(100));
        assert!(bucket.take(now + Duration::from_millis(100), 0));
        assert!(!bucket.has(now + Duration::from_millis(199), 0));
        assert_eq!(
            (0..10).filter(|_| bucket.take(now + Duration::from_mins(1), 0)).count(),
            4,
            "no more than the burst is saved up"
        );
    }
}
