//! CoDel (RFC 8289): which packets of a queue to drop or mark so that none waits long for good.

use weft_stack::time::{Duration, Instant};

/// How long the least wait must be above the target before the first drop (RFC 8289 4.3).
const INTERVAL: Duration = Duration::from_millis(100);

/// The same of a slow queue, whose wait is most of its senders' round trip: they must have had time
/// to heed a drop before the next (RFC 8289 3.2, 4.3).
fn interval(target: Duration) -> Duration {
    INTERVAL.max(target * 4)
}

/// The state of one queue.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Codel {
    /// When the wait will have been above the target for an interval.
    first_above: Option<Instant>,
    dropping: bool,
    drop_next: Instant,
    count: u32,
    last_count: u32,
}

/// `interval / sqrt(count)` from `at` (RFC 8289 4.3).
fn control_law(at: Instant, count: u32, interval: Duration) -> Instant {
    at + Duration::from_nanos((interval.as_nanos() as f64 / f64::from(count.max(1)).sqrt()) as u64)
}

impl Codel {
    /// Whether the wait of the packet at the head has been too long for an interval.
    fn is_late(&mut self, now: Instant, sojourn: Duration, target: Duration, small: bool) -> bool {
        if sojourn < target || small {
            self.first_above = None;
            return false;
        }
        match self.first_above {
            None => {
                self.first_above = Some(now + interval(target));
                false
            }
            Some(at) => now >= at,
        }
    }

    /// The packet at the head has waited for `sojourn`; `small`: so little is in the queue that
    /// dropping would only idle it. Returns whether it is to be dropped or marked; after a drop, ask
    /// again for the next.
    pub(crate) fn takes(
        &mut self,
        now: Instant,
        sojourn: Duration,
        target: Duration,
        small: bool,
    ) -> bool {
        let late = self.is_late(now, sojourn, target, small);
        if self.dropping {
            if !late {
                self.dropping = false;
                return false;
            }
            if now < self.drop_next {
                return false;
            }
            self.count += 1;
            self.drop_next = control_law(self.drop_next, self.count, interval(target));
            return true;
        }
        if !late {
            return false;
        }
        self.dropping = true;
        // RFC 8289 5.4: a queue that was just in the dropping state goes on where it was.
        let delta = self.count.saturating_sub(self.last_count);
        let recent = now < self.drop_next + interval(target) * 16;
        self.count = if delta > 1 && recent { delta } else { 1 };
        self.drop_next = control_law(now, self.count, interval(target));
        self.last_count = self.count;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(5);

    fn drops(codel: &mut Codel, sojourn_ms: u64, from: u64, to: u64) -> usize {
        (from..to)
            .filter(|ms| {
                let sojourn = Duration::from_millis(sojourn_ms);
                codel.takes(Instant::from_millis(*ms), sojourn, TARGET, false)
            })
            .count()
    }

    // RFC 8289 4.3
    #[test]
    fn a_standing_queue_loses_packets_ever_faster_and_a_burst_none() {
        let mut codel = Codel::default();
        assert_eq!(drops(&mut codel, 50, 1000, 1099), 0, "a burst of less than an interval");
        assert_eq!(drops(&mut codel, 1, 1099, 1110), 0);
        let first = drops(&mut codel, 50, 1110, 2110);
        let second = drops(&mut codel, 50, 2110, 3110);
        assert!(first > 5 && second > first, "{first} {second}");
        assert_eq!(drops(&mut codel, 1, 3110, 3210), 0, "the queue is short again");
    }

    // RFC 8289 3.2
    #[test]
    fn a_slow_queue_gives_its_senders_a_round_trip_to_heed_a_drop() {
        let (mut codel, target) = (Codel::default(), Duration::from_millis(240));
        let wait = Duration::from_millis(300);
        let drops: Vec<u64> = (1_000..4_000)
            .step_by(30)
            .filter(|ms| codel.takes(Instant::from_millis(*ms), wait, target, false))
            .collect();
        assert!(drops.len() <= 4 && drops.windows(2).all(|w| w[1] - w[0] > 500), "{drops:?}");
    }
}
