//! What `weft qos` shows.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::access::NamedClient;
use serde::{Deserialize, Serialize};
use weft_stack::time::Instant;

use super::bucket::ticks;
use super::node::{Shape, State};
use super::plan::{Name, Plan, Way};
use crate::config::qos::Rates;

/// Clients of one class that a report lists.
const CLIENTS_SHOWN: usize = 256;

/// What a node of the hierarchy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A NIC.
    Link,
    /// Several vservers together.
    Group,
    /// One vserver, on all its NICs.
    Vserver,
    /// A class of a vserver.
    Class,
    /// A client of a class that tells them apart.
    Client,
}

/// A node in one direction: what is configured, what it does. Totals count since the daemon started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QosNode {
    /// What it is.
    pub kind: Kind,
    /// NIC, group or vserver.
    pub name: String,
    /// Class of the vserver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Client of the class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Send or receive.
    pub direction: Way,
    /// Configured ceiling, bit/s.
    pub limit_bits: Option<u64>,
    /// Configured ceiling, packets/s.
    pub limit_packets: Option<u64>,
    /// Configured minimum, bit/s.
    pub guarantee_bits: Option<u64>,
    /// Configured minimum, packets/s.
    pub guarantee_packets: Option<u64>,
    /// Configured share.
    pub weight: u32,
    /// Configured priority.
    pub priority: u8,
    /// Bit/s of the last whole second.
    pub bits_per_second: u64,
    /// Packets/s of the last whole second.
    pub packets_per_second: u64,
    /// Bytes of frames that went.
    pub bytes: u64,
    /// Packets that went.
    pub packets: u64,
    /// Bytes above the guarantee, of a node that has one.
    pub borrowed_bytes: u64,
    /// Packets lost because the queue was full.
    pub dropped_full: u64,
    /// Packets lost because all had waited too long.
    pub dropped_late: u64,
    /// Packets over the limit of a node that polices.
    pub dropped_policed: u64,
    /// Packets that got the mark of congestion instead.
    pub marked: u64,
    /// Bytes that wait.
    pub queued_bytes: u64,
    /// How long the last packet waited, in microseconds.
    pub sojourn_us: u64,
    /// Packets of clients that found the table of clients full.
    pub crowded: u64,
}

impl QosNode {
    /// Packets lost, whatever the reason.
    pub fn dropped(&self) -> u64 {
        self.dropped_full + self.dropped_late + self.dropped_policed
    }
}

/// What a vserver uses of the workers' processing time. It is measured while several vservers share a
/// worker: who has one for itself shares nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processing {
    /// Whose.
    pub vserver: String,
    /// Configured share (`limits.weight`) of each round.
    pub weight: u32,
    /// Microseconds of the last whole second, of all workers together: 10,000 are 1 % of one.
    pub us_per_second: u64,
    /// Microseconds since the daemon started.
    pub us: u64,
    /// Times that its output, events or timers waited for another round.
    pub deferred: u64,
}

/// All nodes, senders first; parents before their classes and clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QosSnapshot {
    /// Version of this document.
    pub schema_version: u32,
    /// The nodes.
    pub nodes: Vec<QosNode>,
    /// Processing time of each vserver.
    #[serde(default)]
    pub processing: Vec<Processing>,
    /// Classes whose clients have names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<ClassClients>,
}

/// A name among the clients of a class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassClients {
    /// Whose class.
    pub vserver: String,
    /// The class.
    pub class: String,
    /// The name, and what it stands for now.
    pub client: NamedClient,
}

fn node(name: &Name, direction: Way, shape: &Shape, state: &State, now: Instant) -> QosNode {
    let (kind, name, class) = match name {
        Name::Link(n) => (Kind::Link, n, None),
        Name::Group(n) => (Kind::Group, n, None),
        Name::Vserver(n) => (Kind::Vserver, n, None),
        Name::Class(n, class) => (Kind::Class, n, Some(class.clone())),
    };
    let Rates { limit, limit_packets, guarantee, guarantee_packets, weight, priority, .. } =
        shape.rates;
    let (bits_per_second, packets_per_second) = state.rate(ticks(now));
    let c = &state.counts;
    let n = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    QosNode {
        kind,
        name: name.clone(),
        class,
        client: None,
        direction,
        limit_bits: limit,
        limit_packets,
        guarantee_bits: guarantee,
        guarantee_packets,
        weight,
        priority,
        bits_per_second,
        packets_per_second,
        bytes: n(&c.bytes),
        packets: n(&c.packets),
        borrowed_bytes: n(&c.borrowed),
        dropped_full: n(&c.dropped_full),
        dropped_late: n(&c.dropped_late),
        dropped_policed: n(&c.dropped_policed),
        marked: n(&c.marked),
        queued_bytes: n(&c.queued),
        sojourn_us: n(&c.sojourn) / 1_000,
        crowded: n(&c.crowded),
    }
}

/// What a plan's nodes do; with `vserver` only its own.
pub(crate) fn take(plan: &Plan, now: Instant, vserver: Option<&str>) -> QosSnapshot {
    let mut nodes = Vec::new();
    for way in Way::ALL {
        for shown in &plan.shown[way as usize] {
            let own = node(&shown.name, way, &shown.shape, &shown.state, now);
            let is_vservers = matches!(own.kind, Kind::Vserver | Kind::Class);
            if vserver.is_some_and(|v| !is_vservers || v != own.name) {
                continue;
            }
            let clients = shown.clients.as_ref().map(|c| c.list(CLIENTS_SHOWN)).unwrap_or_default();
            let rates = shown.client_rates;
            nodes.push(own);
            for (client, state) in clients {
                let shape = Shape::new(rates, rates.limit);
                let mut one = node(&shown.name, way, &shape, &state, now);
                (one.kind, one.client) = (Kind::Client, Some(client.to_string()));
                nodes.push(one);
            }
        }
    }
    let own = plan.named().filter(|(name, _)| vserver.is_none_or(|v| v == *name));
    let names = own.flat_map(|(name, c)| {
        c.matches.names.iter().map(|n| ClassClients {
            vserver: name.to_owned(),
            class: c.name.clone(),
            client: NamedClient::of(n),
        })
    });
    QosSnapshot { schema_version: 1, nodes, processing: Vec::new(), names: names.collect() }
}
