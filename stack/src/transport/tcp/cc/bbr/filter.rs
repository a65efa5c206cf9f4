//! Windowed maxima in constant space.

/// The maximum over the current and the previous cycle (`BBR.max_bw_filter`).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TwoCycleMax {
    previous: u64,
    current: u64,
}

impl TwoCycleMax {
    pub(super) fn update(&mut self, value: u64) -> u64 {
        self.current = self.current.max(value);
        self.get()
    }

    /// The next cycle begins.
    pub(super) fn advance(&mut self) {
        // A cycle without a sample forgets nothing.
        if self.current > 0 {
            self.previous = self.current;
            self.current = 0;
        }
    }

    pub(super) fn get(&self) -> u64 {
        self.previous.max(self.current)
    }
}

/// The maximum over a number of rounds: the best three, each newer than the one before (Nichols).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RoundMax {
    best: [(u64, u64); 3],
}

impl RoundMax {
    /// Takes the `value` of `round`; the maximum of the last `window` rounds.
    pub(super) fn update(&mut self, window: u64, round: u64, value: u64) -> u64 {
        let new = (round, value);
        let stale = round.saturating_sub(self.best[2].0) > window;
        if value >= self.best[0].1 || stale {
            self.best = [new; 3];
            return value;
        }
        if value >= self.best[1].1 {
            (self.best[1], self.best[2]) = (new, new);
        } else if value >= self.best[2].1 {
            self.best[2] = new;
        }
        self.expire(window, round, new);
        self.best[0].1
    }

    fn expire(&mut self, window: u64, round: u64, new: (u64, u64)) {
        let age = round - self.best[0].0;
        if age > window {
            self.best = [self.best[1], self.best[2], new];
            if round - self.best[0].0 > window {
                self.best = [self.best[1], self.best[2], new];
            }
        } else if self.best[1].0 == self.best[0].0 && age > window / 4 {
            (self.best[1], self.best[2]) = (new, new);
        } else if self.best[2].0 == self.best[1].0 && age > window / 2 {
            self.best[2] = new;
        }
    }

    pub(super) fn get(&self) -> u64 {
        self.best[0].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_maximum_lasts_two_cycles() {
        let mut max = TwoCycleMax::default();
        assert_eq!(max.update(10), 10);
        max.advance();
        assert_eq!(max.update(5), 10);
        max.advance();
        assert_eq!(max.get(), 5);
        max.advance();
        assert_eq!(max.get(), 5, "no sample, nothing forgotten");
    }

    #[test]
    fn a_maximum_over_rounds_is_one_of_the_recent_values() {
        let mut rng = crate::rng::Rng::from_u64(3);
        let mut filter = RoundMax::default();
        let mut all: Vec<u64> = Vec::new();
        for round in 0..2000u64 {
            let value = rng.below(1000);
            all.push(value);
            let got = filter.update(10, round, value);
            let exact = all.iter().rev().take(11).max().copied();
            // The approximation may forget the second best, never invent one.
            assert!(Some(got) <= exact);
            assert!(got >= value);
        }
    }

    #[test]
    fn a_maximum_over_rounds_expires() {
        let mut filter = RoundMax::default();
        assert_eq!(filter.update(10, 1, 100), 100);
        for round in 2..=11 {
            assert_eq!(filter.update(10, round, 50), 100);
        }
        assert_eq!(filter.update(10, 12, 50), 50);
    }
}
