//! How a REAP behaves: the RFC's constants, a preset for data centres, and policies.

use core::time::Duration;

use serde::Serialize;

/// Which of several working pairs is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The pair in use, until it fails.
    #[default]
    Failover,
    /// The pair of the lowest cost (sum of both locators' priorities); back to it when it has
    /// worked for [`ReapConfig::hold`].
    Prefer,
    /// Contexts are spread over the pairs of the lowest cost by their weights.
    Spread,
}

/// Bound of the probes of one context: a token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Probes that may leave at once.
    pub burst: u32,
    /// Probes per second in the long run.
    pub per_second: u32,
}

/// Damping of pairs that fail again and again (in the manner of RFC 2439): each failure adds
/// 1,000 to a penalty that halves every `half_life`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damping {
    /// Time in which a penalty halves.
    pub half_life: Duration,
    /// A pair with this penalty is used only if no other works.
    pub suppress: u32,
    /// Until its penalty fell below this.
    pub reuse: u32,
}

/// How a REAP behaves. [`ReapConfig::rfc`] and [`ReapConfig::data_centre`] are sound; what is
/// between them is the operator's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReapConfig {
    /// Without return traffic for so long after a packet was sent, another pair is looked for.
    pub send_timeout: Duration,
    /// How long keepalives are sent to a peer that did not say its timeout.
    pub keepalive_timeout: Duration,
    /// Between the first probes.
    pub initial_probe_timeout: Duration,
    /// Probes (rounds of them, if parallel) before the interval doubles.
    pub initial_probes: u32,
    /// The interval does not grow beyond.
    pub max_probe_timeout: Duration,
    /// Each probe interval is longer or shorter by up to this part.
    pub jitter_percent: u8,
    /// Pairs probed at once; the RFC has one after the other.
    pub parallel: usize,
    /// The send timeout grows by the round-trip time, and after false alarms.
    pub adaptive: bool,
    /// Where the alarm may be false, the pair in use is probed first, and others so much later at
    /// most (twice its round-trip time, if that is less).
    pub stagger_max: Duration,
    /// Bound of the probes of one context.
    pub budget: Budget,
    /// Every pair is measured so often while the context is in use; `None` for never.
    pub measure: Option<Duration>,
    /// Which of several working pairs is used.
    pub policy: Policy,
    /// A preferred pair has worked for so long before it is moved to.
    pub hold: Duration,
    /// Damping of pairs that fail again and again.
    pub damping: Damping,
    /// A pair that loses more is worse than any that does not.
    pub lossy_percent: u8,
}

impl ReapConfig {
    /// The constants of RFC 5534 7, one probe after the other, nothing measured.
    pub const fn rfc() -> ReapConfig {
        ReapConfig {
            send_timeout: Duration::from_secs(15),
            keepalive_timeout: Duration::from_secs(15),
            initial_probe_timeout: Duration::from_millis(500),
            initial_probes: 4,
            max_probe_timeout: Duration::from_mins(1),
            jitter_percent: 0,
            parallel: 1,
            adaptive: false,
            stagger_max: Duration::ZERO,
            budget: Budget { burst: 16, per_second: 8 },
            measure: None,
            policy: Policy::Failover,
            hold: Duration::from_mins(1),
            damping: Damping { half_life: Duration::from_mins(1), suppress: 2_500, reuse: 750 },
            lossy_percent: 10,
        }
    }

    /// Between weft hosts with round trips up to 30 ms: a silent loss is repaired within 200 ms
    /// while there is traffic.
    pub const fn data_centre() -> ReapConfig {
        ReapConfig {
            send_timeout: Duration::from_millis(80),
            keepalive_timeout: Duration::from_millis(80),
            initial_probe_timeout: Duration::from_millis(40),
            initial_probes: 4,
            max_probe_timeout: Duration::from_secs(1),
            jitter_percent: 20,
            parallel: 16,
            adaptive: true,
            stagger_max: Duration::from_millis(20),
            budget: Budget { burst: 48, per_second: 32 },
            measure: Some(Duration::from_secs(1)),
            policy: Policy::Failover,
            hold: Duration::from_secs(10),
            damping: Damping { half_life: Duration::from_mins(1), suppress: 2_500, reuse: 750 },
            lossy_percent: 10,
        }
    }

    /// What the peer is to be told in a Keepalive Timeout option: nothing while the send timeout
    /// is the RFC's (RFC 5534 5.3).
    pub fn announced(&self) -> Option<Duration> {
        (self.send_timeout != ReapConfig::rfc().send_timeout).then_some(self.send_timeout)
    }
}

impl Default for ReapConfig {
    fn default() -> ReapConfig {
        ReapConfig::data_centre()
    }
}
