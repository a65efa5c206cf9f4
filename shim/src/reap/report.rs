//! What an operator sees of a context's paths.

use core::net::IpAddr;

use serde::Serialize;
use weft_stack::time::Instant;

use super::{Reap, Why};
use crate::wire::probe::ReapState;

/// Counters of one context, or of many added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReapStats {
    /// Probes sent, of every purpose.
    pub probes_sent: u64,
    /// Probes received.
    pub probes_received: u64,
    /// Of these, overtaken by newer ones, or sent again by somebody.
    pub probes_old: u64,
    /// Keepalives sent.
    pub keepalives_sent: u64,
    /// Keepalives received.
    pub keepalives_received: u64,
    /// Explorations begun, by this host or by the peer.
    pub explorations: u64,
    /// Explorations of this host that found the pair in use working.
    pub false_alarms: u64,
    /// Times another pair was used.
    pub switches: u64,
    /// Explorations that found no pair before probing slowed down.
    pub no_path: u64,
    /// Times a probe had to wait for the budget.
    pub budget_waits: u64,
    /// Measurements, or answers to them, that the budget did not allow.
    pub measures_left_out: u64,
    /// Hints taken.
    pub hints: u64,
}

impl core::ops::AddAssign for ReapStats {
    fn add_assign(&mut self, other: ReapStats) {
        self.probes_sent += other.probes_sent;
        self.probes_received += other.probes_received;
        self.probes_old += other.probes_old;
        self.keepalives_sent += other.keepalives_sent;
        self.keepalives_received += other.keepalives_received;
        self.explorations += other.explorations;
        self.false_alarms += other.false_alarms;
        self.switches += other.switches;
        self.no_path += other.no_path;
        self.budget_waits += other.budget_waits;
        self.measures_left_out += other.measures_left_out;
        self.hints += other.hints;
    }
}

/// A change of the pair in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SwitchReport {
    /// Microseconds ago.
    pub ago_us: u64,
    /// Local locator left.
    pub from_local: IpAddr,
    /// Remote locator left.
    pub from_remote: IpAddr,
    /// Local locator used instead.
    pub to_local: IpAddr,
    /// Remote locator used instead.
    pub to_remote: IpAddr,
    /// Why.
    pub why: Why,
}

/// One pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PathReport {
    /// This host's end.
    pub local: IpAddr,
    /// The peer's.
    pub remote: IpAddr,
    /// Packets go by it.
    pub current: bool,
    /// `works`, `silent` (requests are not answered), `gone` (an end is not there, or its link is
    /// down), `broken` (so its owner says) or `unknown`.
    pub state: &'static str,
    /// Failed so often that others are used while there are any.
    pub suppressed: bool,
    /// Smoothed round-trip time.
    pub rtt_us: Option<u64>,
    /// Loss over the last 32 requests.
    pub loss_permille: Option<u32>,
    /// Sum of both locators' priorities.
    pub cost: u16,
    /// Milliseconds since the last sign that it works.
    pub heard_ms: Option<u64>,
}

/// The paths of one context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReapReport {
    /// `operational`, `exploring` or `inbound-ok`.
    pub state: &'static str,
    /// The operator chose the pair in use.
    pub pinned: bool,
    /// Every pair, cheapest first.
    pub paths: Vec<PathReport>,
    /// Pairs beyond the limit.
    pub left_out: u32,
    /// The send timeout as it is now.
    pub send_timeout_us: u64,
    /// How long the peer gets keepalives.
    pub keepalive_timeout_us: u64,
    /// The last change of the pair in use.
    pub last_switch: Option<SwitchReport>,
    /// Counters.
    pub stats: ReapStats,
}

impl Reap {
    /// What there is to see at `now`.
    pub fn report(&self, now: Instant) -> ReapReport {
        ReapReport {
            state: match self.state {
                ReapState::Operational => "operational",
                ReapState::Exploring => "exploring",
                ReapState::InboundOk => "inbound-ok",
            },
            pinned: self.pinned,
            paths: self.paths.all.iter().map(|p| self.path_report(now, p)).collect(),
            left_out: self.paths.left_out,
            send_timeout_us: self.send_after().as_micros() as u64,
            keepalive_timeout_us: self.detector.keepalive_timeout().as_micros() as u64,
            last_switch: self.last_switch.map(|(at, from, to, why)| SwitchReport {
                ago_us: (now - at).as_micros() as u64,
                from_local: from.local,
                from_remote: from.remote,
                to_local: to.local,
                to_remote: to.remote,
                why,
            }),
            stats: self.stats,
        }
    }

    /// Counters alone.
    pub fn stats(&self) -> &ReapStats {
        &self.stats
    }

    fn path_report(&self, now: Instant, path: &super::paths::Path) -> PathReport {
        let silent = path.misses >= super::paths::MISSES_MAX;
        PathReport {
            local: path.pair.local,
            remote: path.pair.remote,
            current: path.pair == self.current,
            state: match path {
                p if p.gone => "gone",
                p if p.broken => "broken",
                _ if silent => "silent",
                p if p.heard.is_some() => "works",
                _ => "unknown",
            },
            suppressed: path.is_suppressed(now, self.config.damping),
            rtt_us: path.rtt.map(|rtt| rtt.as_micros() as u64),
            loss_permille: path.loss_permille(),
            cost: path.cost,
            heard_ms: path.heard.map(|at| (now - at).as_millis() as u64),
        }
    }
}
