//! The budgets of challenge ACKs (RFC 5961 section 7): one per connection, which nobody else can
//! see or use up, and one per stack against floods over many connections, with a random share
//! withheld so that an off-path attacker cannot count what is left (CVE-2016-5696).

use crate::rng::Rng;
use crate::time::Instant;

/// Challenge ACKs of a stack per second, at most.
const PER_SECOND: u64 = 1000;

/// RFC 5961 section 7 proposes ten in five seconds for a connection.
const PER_PERIOD: u8 = 10;
const PERIOD_MS: u64 = 5000;

/// One connection's budget.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ChallengeQuota {
    /// Periods since the origin of time, cut to what tells neighbours apart; 0: none yet.
    period: u32,
    used: u8,
}

impl ChallengeQuota {
    /// Whether one more may be sent now.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let period = (now.as_millis() / PERIOD_MS) as u32 | 1 << 31;
        if period != self.period {
            *self = ChallengeQuota { period, used: 0 };
        }
        let left = self.used < PER_PERIOD;
        self.used += u8::from(left);
        left
    }
}

#[derive(Debug, Default)]
pub(crate) struct ChallengeBudget {
    second: u64,
    left: u64,
}

impl ChallengeBudget {
    /// Whether one more may be sent now.
    pub(crate) fn take(&mut self, now: Instant, rng: &mut Rng) -> bool {
        let second = now.as_millis() / 1000 + 1;
        if second != self.second {
            self.second = second;
            self.left = PER_SECOND / 2 + rng.below(PER_SECOND / 2);
        }
        let Some(left) = self.left.checked_sub(1) else { return false };
        self.left = left;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 5961 7
    #[test]
    fn a_second_has_a_bounded_random_budget() {
        let mut budget = ChallengeBudget::default();
        let mut rng = Rng::from_u64(1);
        let mut spend =
            |ms| (0..5000).filter(|_| budget.take(Instant::from_millis(ms), &mut rng)).count();
        let (first, second) = (spend(0), spend(1000));
        assert!((500..1000).contains(&first) && (500..1000).contains(&second));
        assert_ne!(first, second);
        assert_eq!(spend(1999), 0);
    }

    // RFC 5961 7
    #[test]
    fn a_connection_has_ten_in_five_seconds() {
        let mut quota = ChallengeQuota::default();
        let mut spend = |ms| (0..100).filter(|_| quota.take(Instant::from_millis(ms))).count();
        assert_eq!((spend(0), spend(4999), spend(5000), spend(9999)), (10, 0, 10, 0));
    }
}
