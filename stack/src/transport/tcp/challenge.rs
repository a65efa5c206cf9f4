//! The budget of challenge ACKs (RFC 5961 section 7): per stack and second, with a random share
//! withheld so that an off-path attacker cannot count what is left (CVE-2016-5696).

use crate::rng::Rng;
use crate::time::Instant;

/// Challenge ACKs per second, at most.
const PER_SECOND: u64 = 1000;

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
}
