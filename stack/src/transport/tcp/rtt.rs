//! Round-trip time and the retransmission timeout (RFC 6298).

use core::time::Duration;

/// Upper bound of the timeout (RFC 6298 2.5 allows no less than 60 s).
const RTO_MAX: Duration = Duration::from_mins(2);

/// RFC 6298 2.1.
const RTO_INITIAL: Duration = Duration::from_secs(1);

/// RTT estimate of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Rtt {
    srtt: Option<Duration>,
    rttvar: Duration,
    rto: Duration,
    rto_min: Duration,
    /// Timeouts since the last progress.
    backoff: u32,
}

impl Rtt {
    pub(crate) fn new(rto_min: Duration) -> Rtt {
        let rto = RTO_INITIAL.max(rto_min);
        Rtt { srtt: None, rttvar: Duration::ZERO, rto, rto_min, backoff: 0 }
    }

    /// RFC 6298 2.2, 2.3; a valid sample also ends the backoff (section 5).
    pub(crate) fn sample(&mut self, rtt: Duration) {
        match self.srtt {
            None => {
                self.srtt = Some(rtt);
                self.rttvar = rtt / 2;
            }
            Some(srtt) => {
                self.rttvar = (self.rttvar * 3 + srtt.abs_diff(rtt)) / 4;
                self.srtt = Some((srtt * 7 + rtt) / 8);
            }
        }
        let srtt = self.srtt.unwrap_or(rtt);
        self.rto = (srtt + self.rttvar * 4).clamp(self.rto_min, RTO_MAX);
        self.backoff = 0;
    }

    /// RFC 6298 5.5: the timer expired.
    pub(crate) fn back_off(&mut self) {
        self.backoff += 1;
    }

    /// RFC 6298 5.7: after a SYN had to be sent again, data starts with 3 seconds.
    pub(crate) fn syn_was_lost(&mut self) {
        if self.srtt.is_none() {
            self.rto = self.rto.max(Duration::from_secs(3));
        }
    }

    /// The timeout to arm now, backed off.
    pub(crate) fn rto(&self) -> Duration {
        self.rto.saturating_mul(1 << self.backoff.min(16)).min(RTO_MAX)
    }

    /// The handshake is done; what its segments waited for is over.
    pub(crate) fn end_backoff(&mut self) {
        self.backoff = 0;
    }

    pub(crate) fn backoff(&self) -> u32 {
        self.backoff
    }

    pub(crate) fn srtt(&self) -> Option<Duration> {
        self.srtt
    }

    pub(crate) fn rttvar(&self) -> Duration {
        self.rttvar
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
        rtt.sample(100 * MS);
        assert_eq!(rtt.rto(), 300 * MS);
        assert_eq!(rtt.srtt(), Some(100 * MS));
    }

    #[test]
    fn a_steady_rtt_converges_to_the_minimum() {
        let mut rtt = Rtt::new(200 * MS);
        (0..50).for_each(|_| rtt.sample(20 * MS));
        assert_eq!(rtt.rto(), 200 * MS);
        assert!(rtt.rttvar() < MS);
    }

    #[test]
    fn timeouts_double_up_to_the_maximum_and_a_sample_ends_it() {
        let mut rtt = Rtt::new(200 * MS);
        rtt.sample(100 * MS);
        let steps: Vec<_> = (0..4)
            .map(|_| {
                rtt.back_off();
                rtt.rto().as_millis()
            })
            .collect();
        assert_eq!(steps, [600, 1200, 2400, 4800]);
        (0..40).for_each(|_| rtt.back_off());
        assert_eq!(rtt.rto(), RTO_MAX);
        rtt.sample(100 * MS);
        assert!(rtt.rto() < 300 * MS);
    }

    #[test]
    fn a_lost_syn_starts_data_at_three_seconds() {
        let mut rtt = Rtt::new(200 * MS);
        rtt.syn_was_lost();
        assert_eq!(rtt.rto(), 3000 * MS);
    }
}
