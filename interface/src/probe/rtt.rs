//! Round-trip time of one target, after Jacobson.

use weft_stack::time::Duration;

/// Average and mean deviation. Nothing is known before the first sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rtt {
    known: bool,
    avg_ns: i64,
    dev_ns: i64,
}

impl Rtt {
    /// With one more sample.
    pub(super) fn with(self, sample: Duration) -> Rtt {
        // An hour is more than any probe lives.
        let sample = sample.as_nanos().min(3_600_000_000_000) as i64;
        if !self.known {
            return Rtt { known: true, avg_ns: sample, dev_ns: sample / 2 };
        }
        let error = sample - self.avg_ns;
        Rtt {
            known: true,
            avg_ns: self.avg_ns + error / 8,
            dev_ns: self.dev_ns + (error.abs() - self.dev_ns) / 4,
        }
    }

    pub(super) fn average(self) -> Option<Duration> {
        self.known.then(|| Duration::from_nanos(self.avg_ns.max(0) as u64))
    }

    pub(super) fn deviation(self) -> Option<Duration> {
        self.known.then(|| Duration::from_nanos(self.dev_ns.max(0) as u64))
    }

    /// What a round trip may take: the average and four deviations.
    pub(super) fn conservative(self) -> Option<Duration> {
        self.known.then(|| Duration::from_nanos((self.avg_ns + 4 * self.dev_ns).max(0) as u64))
    }
}
