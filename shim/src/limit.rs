//! Token buckets: bounds of what others can make this host do.

use weft_stack::time::{Duration, Instant};

/// How often something may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// In the long run.
    pub per_second: u32,
    /// At once.
    pub burst: u32,
}

impl Rate {
    /// `per_second` in the long run, `burst` at once.
    pub const fn new(per_second: u32, burst: u32) -> Rate {
        Rate { per_second, burst }
    }
}

/// A bucket that fills at a [`Rate`].
#[derive(Clone, Debug)]
pub struct Bucket {
    rate: Rate,
    /// In millionths of a token.
    level: u64,
    at: Instant,
}

const TOKEN: u64 = 1_000_000;

impl Bucket {
    /// A full bucket.
    pub fn new(rate: Rate) -> Bucket {
        Bucket { rate, level: u64::from(rate.burst) * TOKEN, at: Instant::ZERO }
    }

    /// Takes a token; `false`: there is none.
    pub fn take(&mut self, now: Instant) -> bool {
        let full = u64::from(self.rate.burst) * TOKEN;
        // Longer than it can take to fill does not matter and could overflow.
        let passed = now.saturating_since(self.at).min(Duration::from_hours(1));
        let gained = passed.as_micros() as u64 * u64::from(self.rate.per_second);
        self.level = (self.level + gained).min(full);
        self.at = self.at.max(now);
        let taken = self.level.checked_sub(TOKEN);
        self.level = taken.unwrap_or(self.level);
        taken.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::new(Rate::new(100, 10));
        let at = Instant::from_millis;
        assert_eq!((0..50).filter(|_| bucket.take(at(1000))).count(), 10);
        assert!(!bucket.take(at(1009)));
        assert!(bucket.take(at(1010)));
        assert_eq!((0..1000).filter(|i| bucket.take(at(1011 + i))).count(), 100);
    }
}
