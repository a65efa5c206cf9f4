//! What operators see of the contexts.

use core::net::IpAddr;

use serde::Serialize;
use weft_stack::time::Instant;

use super::Contexts;
use crate::context::Context;
use crate::context::table::State;
use crate::locator::{Locator, Pair, Verification};
use crate::reap::ReapReport;
use crate::stats::ShimStats;

/// A locator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LocatorReport {
    /// Address.
    pub addr: IpAddr,
    /// UDP port, if it is reached through UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `hba`, `cga`, `keyed`, or the number.
    pub verification: String,
    /// Its owner says that it does not work.
    pub broken: bool,
    /// Its owner says that it is less stable.
    pub transient: bool,
    /// Lower is tried earlier.
    pub priority: u8,
    /// Share among equals.
    pub weight: u8,
}

impl From<&Locator> for LocatorReport {
    fn from(l: &Locator) -> LocatorReport {
        let verification = match l.verification {
            Verification::Hba => "hba".into(),
            Verification::Cga => "cga".into(),
            Verification::Keyed => "keyed".into(),
            Verification::Other(n) => n.to_string(),
        };
        LocatorReport {
            addr: l.addr,
            port: l.port,
            verification,
            broken: l.preference.is_broken(),
            transient: l.preference.flags & crate::locator::Preference::TRANSIENT != 0,
            priority: l.preference.priority,
            weight: l.preference.weight,
        }
    }
}

/// A context.
#[derive(Clone, Debug, Serialize)]
pub struct ContextReport {
    /// Our ULID.
    pub local: IpAddr,
    /// The peer's.
    pub remote: IpAddr,
    /// Forked instance; 0: the context of all.
    pub fii: u32,
    /// State (RFC 5533 6.2).
    pub state: State,
    /// Our tag, twelve hexadecimal digits.
    pub local_tag: String,
    /// The peer's.
    pub peer_tag: Option<String>,
    /// Our locator in use.
    pub locator_local: IpAddr,
    /// The peer's.
    pub locator_remote: IpAddr,
    /// Packets are rewritten.
    pub rewritten: bool,
    /// The peer's locators.
    pub peer: Vec<LocatorReport>,
    /// An update waits for its acknowledgement.
    pub updating: bool,
    /// Seconds since it was made.
    pub age_s: u64,
    /// Milliseconds since the last packet.
    pub idle_ms: u64,
    /// Packets of transports sent.
    pub packets_out: u64,
    /// Packets for transports received.
    pub packets_in: u64,
    /// How often it went over to another pair.
    pub switches: u64,
    /// Reachability.
    pub reap: Option<ReapReport>,
}

/// The shim of a vserver.
#[derive(Clone, Debug, Serialize)]
pub struct ShimReport {
    /// Our locators.
    pub locators: Vec<LocatorReport>,
    /// Number of contexts.
    pub contexts: usize,
    /// Of these, being set up by this host.
    pub initiating: usize,
    /// Pairs of ULIDs that are counted.
    pub flows: usize,
    /// Peers that are not asked for a while.
    pub held_down: usize,
    /// Counters.
    pub stats: ShimStats,
}

impl Contexts {
    /// Everything but the contexts.
    pub fn report(&self) -> ShimReport {
        ShimReport {
            locators: self.env.own.list().locators.iter().map(LocatorReport::from).collect(),
            contexts: self.slots.len(),
            initiating: self.initiating,
            flows: self.flows.len(),
            held_down: self.holds.len(),
            stats: self.env.stats.clone(),
        }
    }

    /// At most `max` contexts, those made first in front.
    pub fn report_contexts(&self, now: Instant, max: usize) -> Vec<ContextReport> {
        self.slots.iter().take(max).map(|(_, c)| report(c, now)).collect()
    }

    /// A page of them, of `slots` places from `from` on; the second part of the answer is where the
    /// next one begins, `None` after the last.
    pub fn report_page(
        &self,
        now: Instant,
        from: usize,
        slots: usize,
    ) -> (Vec<ContextReport>, Option<usize>) {
        let end = from.saturating_add(slots).min(self.slots.capacity());
        let there = (from..end).filter_map(|at| self.slots.get(at));
        let page = there.map(|c| report(c, now)).collect();
        (page, (end < self.slots.capacity()).then_some(end))
    }

    /// Our ULIDs of the contexts with a peer, forked ones aside.
    pub fn ulids_with(&self, peer: IpAddr) -> Vec<IpAddr> {
        let with = |ulid: &IpAddr| self.by_ulids.contains_key(&(Pair::new(*ulid, peer), 0));
        let mut found: Vec<IpAddr> = self.own_ulids.keys().copied().filter(with).collect();
        found.sort_unstable();
        found
    }
}

fn report(c: &Context, now: Instant) -> ContextReport {
    ContextReport {
        local: c.ulids.local,
        remote: c.ulids.remote,
        fii: c.fii,
        state: c.state,
        local_tag: c.local_tag.to_string(),
        peer_tag: c.peer_tag.map(|t| t.to_string()),
        locator_local: c.pair.local,
        locator_remote: c.pair.remote,
        rewritten: c.tag_out().is_some() && c.pair != c.ulids,
        peer: c.peer.locators.iter().map(LocatorReport::from).collect(),
        updating: c.update.is_some(),
        age_s: now.saturating_since(c.made).as_secs(),
        idle_ms: now.saturating_since(c.used).as_millis() as u64,
        packets_out: c.packets_out,
        packets_in: c.packets_in,
        switches: c.switches,
        reap: c.reap.as_ref().map(|r| r.report(now)),
    }
}
