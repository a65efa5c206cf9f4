//! Round-trip time and the retransmission timeout (RFC 6298).

use core::time::Duration;

use crate::time::Instant;

/// Upper bound of the timeout (RFC 6298 2.5 allows no less than 60 s).
const RTO_MAX: Duration = Duration::from_mins(2);
const RTO_MAX_NS: u64 = 120_000_000_000;

/// RFC 6298 2.1.
const RTO_INITIAL: Duration = Duration::from_secs(1);

/// RFC 6298 5.7.
const RTO_AFTER_LOST_SYN: Duration = Duration::from_secs(3);

/// The smallest round trip is that of the last two halves of this.
const MIN_WINDOW: Duration = Duration::from_mins(5);

/// Not measured yet.
const UNKNOWN: u64 = u64::MAX;

/// RTT estimate of one connection, in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Rtt {
    srtt: u64,
    rttvar: u64,
    rto: u64,
    /// Smallest of this half of the window and of the one before.
    min: (u64, u64),
    /// When this half began.
    min_since: Instant,
    rto_min_us: u32,
    /// Timeouts since the last progress.
    backoff: u32,
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

fn known(nanos: u64) -> Option<Duration> {
    (nanos != UNKNOWN).then(|| Duration::from_nanos(nanos))
}

impl Rtt {
    pub(crate) fn new(rto_min: Duration) -> Rtt {
        Rtt {
            srtt: UNKNOWN,
            rttvar: 0,
            rto: nanos(RTO_INITIAL.max(rto_min)),
            min: (UNKNOWN, UNKNOWN),
            min_since: Instant::ZERO,
            rto_min_us: u32::try_from(rto_min.as_micros()).unwrap_or(u32::MAX),
            backoff: 0,
        }
    }

    /// RFC 6298 2.2, 2.3; a valid sample also ends the backoff (section 5). `per_round` samples
    /// share the weight of one (RFC 7323 appendix G).
    pub(crate) fn sample(&mut self, rtt: Duration, per_round: u32) {
        // Longer ones are those of a clock that stood still, and would overflow below.
        let rtt = nanos(rtt).min(RTO_MAX_NS);
        if self.srtt == UNKNOWN {
            (self.srtt, self.rttvar) = (rtt, rtt / 2);
        } else {
            let n = u64::from(per_round.clamp(1, 1 << 16));
            let away = self.srtt.abs_diff(rtt);
            self.rttvar = (self.rttvar * (4 * n - 1) + away) / (4 * n);
            self.srtt = (self.srtt * (8 * n - 1) + rtt) / (8 * n);
        }
        let rto_min = u64::from(self.rto_min_us) * 1000;
        self.rto = (self.srtt + self.rttvar * 4).clamp(rto_min, nanos(RTO_MAX));
        self.backoff = 0;
    }

    /// A timeout was spurious: the estimate starts again from the round trip that it missed (RFC
    /// 4015), if that is longer.
    pub(crate) fn restart(&mut self, rtt: Duration) {
        if self.srtt == UNKNOWN || nanos(rtt) > self.srtt {
            self.srtt = UNKNOWN;
            self.sample(rtt, 1);
        }
    }

    /// A round trip that is none of the samples above, or one of them, may be the smallest.
    pub(crate) fn observe_min(&mut self, now: Instant, rtt: Duration) {
        if now.saturating_since(self.min_since) > MIN_WINDOW / 2 {
            self.min = (UNKNOWN, self.min.0);
            self.min_since = now;
        }
        self.min.0 = self.min.0.min(nanos(rtt));
    }

    /// The smallest round trip of the last minutes.
    pub(crate) fn min(&self) -> Option<Duration> {
        known(self.min.0.min(self.min.1))
    }

    /// RFC 6298 5.5: the timer expired.
    pub(crate) fn back_off(&mut self) {
        self.backoff += 1;
    }

    /// RFC 6298 5.7: after a SYN had to be sent again, data starts with 3 seconds.
    pub(crate) fn syn_was_lost(&mut self) {
        if self.srtt == UNKNOWN {
            self.rto = self.rto.max(nanos(RTO_AFTER_LOST_SYN));
        }
    }

    /// The timeout to arm now, backed off.
    pub(crate) fn rto(&self) -> Duration {
        Duration::from_nanos(self.rto_nanos())
    }

    /// The same as a plain number.
    pub(crate) fn rto_nanos(&self) -> u64 {
        self.rto.saturating_mul(1 << self.backoff.min(16)).min(RTO_MAX_NS)
    }

    /// The handshake is done; what its segments waited for is over.
    pub(crate) fn end_backoff(&mut self) {
        self.backoff = 0;
    }

    pub(crate) fn backoff(&self) -> u32 {
        self.backoff
    }

    pub(crate) fn srtt(&self) -> Option<Duration> {
        known(self.srtt)
    }

    pub(crate) fn rttvar(&self) -> Duration {
        Duration::from_nanos(self.rttvar)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_first_sample_gives_three_times_the_rtt() {
        let mut rtt = Rtt::new(200 * MS);
        assert_eq!(rtt.rto(), 1000 * MS);
        rtt.sample(100 * MS, 1);
        assert_eq!(rtt.rto(), 300 * MS);
        assert_eq!(rtt.srtt(), Some(100 * MS));
    }

    #[test]
    fn a_steady_rtt_converges_to_the_minimum() {
        let mut rtt = Rtt::new(200 * MS);
        (0..50).for_each(|_| rtt.sample(20 * MS, 1));
        assert_eq!(rtt.rto(), 200 * MS);
        assert!(rtt.rttvar() < MS);
    }

    #[test]
    fn timeouts_double_up_to_the_maximum_and_a_sample_ends_it() {
        let mut rtt = Rtt::new(200 * MS);
        rtt.sample(100 * MS, 1);
        let steps: Vec<_> = (0..4)
            .map(|_| {
                rtt.back_off();
                rtt.rto().as_millis()
            })
            .collect();
        assert_eq!(steps, [600, 1200, 2400, 4800]);
        (0..40).for_each(|_| rtt.back_off());
        assert_eq!(rtt.rto(), RTO_MAX);
        rtt.sample(100 * MS, 1);
        assert!(rtt.rto() < 300 * MS);
    }

    #[test]
    fn a_sample_of_a_month_is_one_of_the_longest_timeout() {
        let mut rtt = Rtt::new(200 * MS);
        for _ in 0..3 {
            rtt.sample(Duration::from_hours(24 * 30), 1 << 16);
        }
        assert_eq!((rtt.rto(), rtt.srtt()), (RTO_MAX, Some(RTO_MAX)));
    }

    #[test]
    fn a_lost_syn_starts_data_at_three_seconds() {
        let mut rtt = Rtt::new(200 * MS);
        rtt.syn_was_lost();
        assert_eq!(rtt.rto(), 3000 * MS);
    }
}
