//! Neighbours of the vservers of a host, and the tables that they share by name.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weft_stack::link::neighbour::{NeighbourOrigin, NeighbourState};

use super::Host;
use crate::config::{HostConfig, Vserver};
use crate::runtime::{Core, NodeId};

/// Lines of a [`NeighbourReport`].
const LINES_MAX: usize = 20_000;

/// What a vserver knows of a neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighbourLine {
    /// The vserver.
    pub vserver: String,
    /// Number of the worker whose part of the vserver knows it.
    pub worker: usize,
    /// The alias it is behind.
    pub alias: String,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// `incomplete`, `reachable`, `stale`, `delay`, `probe`, `failed` or `permanent`.
    pub state: String,
    /// It said that it is a router.
    #[serde(default)]
    pub router: bool,
    /// `own`: it asked or listened itself; `shared NAME`: another vserver of the table did;
    /// `static`, `static NAME`: it is configured, in the table.
    pub origin: String,
}

/// A shared table, over all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedNeighbourTable {
    /// Its name.
    pub name: String,
    /// Vservers that use it.
    pub vservers: usize,
    /// Configured neighbours.
    pub configured: usize,
    /// Neighbours learned or asked for, each worker's counted.
    pub learned: usize,
    /// How many one worker may have.
    pub learned_max: usize,
    /// Removed to make room.
    pub evicted: u64,
}

/// Neighbours of vservers, and the tables that they share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighbourReport {
    /// By vserver, then alias and address.
    pub neighbours: Vec<NeighbourLine>,
    /// Lines left out because there are too many.
    #[serde(default)]
    pub left_out: usize,
    /// In order of the configuration.
    pub tables: Vec<SharedNeighbourTable>,
}

fn state(state: NeighbourState) -> &'static str {
    match state {
        NeighbourState::Incomplete => "incomplete",
        NeighbourState::Reachable => "reachable",
        NeighbourState::Stale => "stale",
        NeighbourState::Delay => "delay",
        NeighbourState::Probe => "probe",
        NeighbourState::Failed => "failed",
        NeighbourState::Permanent => "permanent",
    }
}

fn origin(origin: NeighbourOrigin, state: NeighbourState, table: Option<&str>) -> String {
    let table = table.unwrap_or("");
    match (origin, state) {
        (NeighbourOrigin::Own, _) => String::from("own"),
        (NeighbourOrigin::Static, _) => String::from("static"),
        (NeighbourOrigin::Shared, NeighbourState::Permanent) => format!("static {table}"),
        (NeighbourOrigin::Shared, _) => format!("shared {table}"),
    }
}

/// What one worker's part of a vserver knows.
fn lines(
    config: &HostConfig,
    v: &Vserver,
    core: &Core,
    (id, worker): (NodeId, usize),
) -> Vec<NeighbourLine> {
    let Some(node) = core.node(id) else { return Vec::new() };
    let line = |n: weft_stack::link::neighbour::NeighbourInfo| NeighbourLine {
        vserver: v.name.clone(),
        worker,
        alias: config.aliases.get(n.alias.0 as usize).map_or("?", |a| a.name.as_str()).to_owned(),
        address: n.addr,
        mac: n.mac.map(|m| m.map(|b| format!("{b:02x}")).join(":")),
        state: state(n.state).to_owned(),
        router: n.router,
        origin: origin(n.origin, n.state, v.neighbours.as_deref()),
    };
    let mut lines: Vec<_> = node.stack.neighbours().map(line).collect();
    lines.sort_by(|a, b| (&a.alias, a.address).cmp(&(&b.alias, b.address)));
    lines
}

impl Host {
    /// What vservers know of their neighbours; of one, or of all. `None`: there is no such vserver.
    pub fn neighbours(&self, vserver: Option<&str>) -> Option<NeighbourReport> {
        let live = self.shared.live();
        if vserver.is_some_and(|v| !live.names.contains_key(v)) {
            return None;
        }
        let mut report = NeighbourReport::default();
        let mut tables: BTreeMap<String, SharedNeighbourTable> = BTreeMap::new();
        for (worker, of) in self.shared.workers.iter().enumerate() {
            let core = of.lock();
            for (spec, counts) in core.neighbours.counts() {
                let table = tables.entry(spec.name.clone()).or_default();
                table.learned += counts.entries;
                table.evicted += counts.evicted;
            }
            for v in live.config.vservers.iter().filter(|v| vserver.is_none_or(|n| n == v.name)) {
                let Some(id) = live.names.get(&v.name) else { continue };
                let mut lines = lines(&live.config, v, &core, (*id, worker));
                let room = LINES_MAX - report.neighbours.len();
                report.left_out += lines.len().saturating_sub(room);
                lines.truncate(room);
                report.neighbours.append(&mut lines);
            }
        }
        report.neighbours.sort_by(|a, b| a.vserver.cmp(&b.vserver));
        report.tables = live
            .config
            .neighbours
            .iter()
            .map(|spec| {
                let users = live.config.vservers.iter();
                SharedNeighbourTable {
                    name: spec.name.clone(),
                    vservers: users.filter(|v| v.neighbours.as_ref() == Some(&spec.name)).count(),
                    configured: spec.entries.len(),
                    learned_max: spec.learned,
                    ..tables.remove(&spec.name).unwrap_or_default()
                }
            })
            .collect();
        Some(report)
    }
}

/// Brings the tables of a worker, and who uses them, from one configuration to another.
pub(crate) fn follow(
    core: &mut Core,
    now: weft_stack::time::Instant,
    (before, after): (&HostConfig, &HostConfig),
    id: impl Fn(&str) -> NodeId,
) {
    core.set_neighbours(&after.neighbours);
    let changed: HashSet<&str> = after
        .neighbours
        .iter()
        .filter(|t| !before.neighbours.contains(t))
        .map(|t| t.name.as_str())
        .collect();
    let old: std::collections::HashMap<&str, &Vserver> =
        before.vservers.iter().map(|v| (v.name.as_str(), v)).collect();
    for v in &after.vservers {
        let used = old.get(v.name.as_str()).and_then(|v| v.neighbours.as_deref());
        let uses = v.neighbours.as_deref();
        let index = id(&v.name).index;
        if used != uses || uses.is_some_and(|name| changed.contains(name)) {
            core.share_neighbours(now, index, uses);
        }
    }
}
