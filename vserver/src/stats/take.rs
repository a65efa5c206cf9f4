//! Taking a snapshot.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use weft_drivers::device::Device;
use weft_stack::drop::Drops;
use weft_stack::ip::address::{AddressState, AliasId, Origin};
use weft_stack::ip::route::Route;
use weft_stack::ip::rule::{PolicyRules, RouteTable, Rule, RuleAction, Service};
use weft_stack::stats::Mib;
use weft_stack::time::Instant;

use super::links::{self, LinkSnapshot};
use super::runtime::{RuntimeSnapshot, StageCost, WorkerRuntime};
use super::snapshot::{HostSnapshot, NicSnapshot, VserverSnapshot};
use crate::config::{HostConfig, MAIN_TABLE};
use crate::host::{Live, Shared};
use crate::runtime::{Core, Cost, HandOverStats, HostStack, Nic, NodeId, Stages, Worker};

/// `aa:bb:cc:dd:ee:ff`.
pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// A snapshot of a host. The lock of one worker is held for one vserver at a time.
pub(crate) fn take(shared: &Shared) -> HostSnapshot {
    let live = shared.live();
    let config = &*live.config;
    let below = config.nics_of_aliases();
    let tree = config.tree().unwrap_or_default();
    let mut above: Vec<LinkSnapshot> = Vec::new();
    let mut nics: Vec<NicSnapshot> = Vec::new();
    let mut problems: Vec<String> = Vec::new();
    let (mut drops, mut handed) = (Drops::default(), HandOverStats::default());
    for worker in &shared.workers {
        let mut core = worker.lock();
        core.take_hook_failures();
        drops.merge(&core.drops);
        handed.merge(&core.mesh.stats);
        for problem in &core.problems {
            if !problems.contains(problem) {
                problems.push(problem.clone());
            }
        }
        links::add(&mut above, &tree, &core);
        for (i, nic) in core.nics.iter().enumerate() {
            match nics.get_mut(i) {
                Some(sum) => add_queues(sum, nic),
                None => nics.push(of_nic(config, &below, i, nic)),
            }
        }
    }
    let mut hand_over = BTreeMap::new();
    if shared.workers.len() > 1 {
        handed.for_each(|name, n| {
            hand_over.insert(name.to_owned(), n);
        });
    }
    let captures = shared.captures.iter();
    problems.extend(captures.filter_map(|(path, file)| {
        Some(format!("capture {} ended: {}", path.display(), file.failure()?))
    }));
    HostSnapshot {
        schema_version: 1,
        generation: live.generation,
        uptime_ms: shared.home().clock.now().as_millis(),
        nics,
        links: above,
        services: Vec::new(),
        vservers: of_vservers(shared, &live),
        drops: by_reason(&drops),
        workers: shared.workers.len(),
        hand_over,
        problems,
        rights: None,
    }
}

/// The accounts of all workers; with `clear` they begin anew.
pub(crate) fn take_runtime(shared: &Shared, clear: bool) -> RuntimeSnapshot {
    let one = |(worker, w): (usize, &Arc<Worker>)| {
        let mut core = w.lock();
        let now = w.clock.now();
        let runtime = of_worker(worker, &core, now);
        if clear {
            let before = spent_elsewhere(&core);
            core.poll.account.clear(now, before);
            core.stages = Stages::new(now);
        }
        runtime
    };
    let workers = shared.workers.iter().enumerate().map(one).collect();
    RuntimeSnapshot { schema_version: 1, workers }
}

/// System calls of the worker's devices, and messages to other workers.
fn spent_elsewhere(core: &Core) -> (u64, u64) {
    let mut handed = 0;
    core.mesh.stats.for_each(|name, n| handed += if name.ends_with("Wakes") { 0 } else { n });
    (core.nics.iter().map(|nic| nic.stats().kicks).sum(), handed)
}

fn of_worker(worker: usize, core: &Core, now: Instant) -> WorkerRuntime {
    let account = core.poll.account.at(now);
    let tick_ns = core.stages.tick_ns(now);
    let (kicks, handed_over) = spent_elsewhere(core);
    let stage = |(name, cost): (&'static str, Cost)| StageCost {
        stage: name.to_owned(),
        batches: cost.batches,
        packets: cost.packets,
        time_ns: (cost.ticks as f64 * tick_ns) as u64,
        cycles_per_packet: cost.ticks as f64 / cost.packets.max(1) as f64,
    };
    WorkerRuntime {
        worker,
        poll: core.poll.mode.name().to_owned(),
        elapsed_ns: now.saturating_since(core.stages.since()).as_nanos() as u64,
        idle_ns: account.idle.as_nanos() as u64,
        polling_ns: account.polling.as_nanos() as u64,
        working_ns: account.working.as_nanos() as u64,
        turns: account.turns,
        turns_working: account.turns_working,
        turns_of_waiters: account.turns_of_waiters,
        sleeps: account.sleeps,
        wakeups: account.wakeups,
        calls: account.calls,
        seats_taken: account.seats_taken,
        frames: account.frames_received,
        kicks: kicks - account.before.0,
        handed_over: handed_over - account.before.1,
        bursts: core.stages.bursts.to_vec(),
        stages: core.stages.costs().map(stage).collect(),
    }
}

/// The queues of a NIC that another worker has.
fn add_queues(sum: &mut NicSnapshot, nic: &Nic) {
    nic.stats().for_each(|name, n| *sum.counters.entry(name.to_owned()).or_default() += n);
    nic.merged.for_each(|name, n| *sum.counters.entry(name.to_owned()).or_default() += n);
    sum.queues += nic.ports.len();
    sum.up &= nic.link.up && nic.ports.iter().all(|p| p.failed.is_none());
}

fn by_reason(drops: &Drops) -> BTreeMap<String, u64> {
    drops.iter().filter(|(_, n)| *n > 0).map(|(r, n)| (r.name().to_owned(), n)).collect()
}

fn of_nic(config: &HostConfig, below: &[Vec<usize>], index: usize, nic: &Nic) -> NicSnapshot {
    let named = &config.nics[index];
    let device = &nic.ports[0].device;
    let mut counters = BTreeMap::new();
    nic.stats().for_each(|name, n| {
        counters.insert(name.to_owned(), n);
    });
    nic.merged.for_each(|name, n| {
        counters.insert(name.to_owned(), n);
    });
    let on_it = config.aliases.iter().zip(below).filter(|(_, nics)| nics.contains(&index));
    let failed = nic.ports.iter().any(|p| p.failed.is_some());
    NicSnapshot {
        name: named.name.clone(),
        device: named.device.clone(),
        mode: device.caps().mode.clone(),
        queues: nic.ports.len(),
        up: nic.link.up && !failed,
        mtu: nic.link.mtu,
        mac: device.link().mac.map(mac_text),
        aliases: on_it.map(|(a, _)| a.name.clone()).collect(),
        counters,
    }
}

/// One that is being removed is left out.
fn of_vservers(shared: &Shared, live: &Live) -> Vec<VserverSnapshot> {
    let named = live.nodes.iter().zip(&live.config.vservers);
    named.filter_map(|(id, v)| of_vserver(shared, &live.config, *id, &v.name)).collect()
}

/// `None`: it was removed.
pub(crate) fn of_vserver(
    shared: &Shared,
    config: &HostConfig,
    id: NodeId,
    name: &str,
) -> Option<VserverSnapshot> {
    // While a change is under way a stack may be on one that no reader knows.
    let alias = |id: AliasId| config.aliases.get(id.0 as usize).map_or("?", |a| a.name.as_str());
    let core = shared.home().lock();
    let node = core.node(id)?;
    let stack = &node.stack;
    let counted_us = shared.home().clock.now().as_micros();
    let mut mib: Mib = stack.mib().clone();
    let mut memory = stack.memory();
    let mut share = core.shares.stats_of(&node.share);
    let mut input_queue = node.share.waiting();
    let routes: Vec<Route> = stack.routes().copied().collect();
    let policy = stack.rules();
    let addresses = addresses(stack, alias);
    drop(core);
    for worker in &shared.workers[1..] {
        let core = worker.lock();
        let Some(node) = core.node(id) else { continue };
        let (stack, there) = (&node.stack, &node.share);
        mib.merge(stack.mib());
        share.add(&core.shares.stats_of(there));
        input_queue += there.waiting();
        let more = stack.memory();
        memory.neighbours += more.neighbours;
        memory.tcp_connections += more.tcp_connections;
        memory.udp_sockets += more.udp_sockets;
    }
    let mut counters = BTreeMap::new();
    let mut count = |name: &str, n| {
        counters.insert(name.to_owned(), n);
    };
    mib.for_each(&mut count);
    share.for_each(&mut count);
    counters.extend(shared.resolvers.counters(id.index));
    counters.extend(shared.connects.counters(id.index));
    let mut names = shared.named_routes.snapshot(id.index);
    names.extend(shared.named_clients.snapshot(id.index));
    let mut routes: Vec<_> = routes.iter().map(|r| route_text(r, alias(r.alias))).collect();
    routes.sort();
    Some(VserverSnapshot {
        name: name.to_owned(),
        counted_us,
        addresses,
        routes,
        rules: rules(shared, &policy),
        tables: tables(shared, &policy),
        neighbours: memory.neighbours,
        tcp_listeners: memory.tcp_listeners,
        tcp_connections: memory.tcp_connections,
        udp_sockets: memory.udp_sockets,
        input_queue,
        rx_frames: mib.frames.rx_frames,
        rx_bytes: mib.frames.rx_bytes,
        tx_frames: mib.frames.tx_frames,
        tx_bytes: mib.frames.tx_bytes,
        counters,
        drops: by_reason(&mib.drops),
        services: Vec::new(),
        shared_services: Vec::new(),
        names,
        records: Vec::new(),
        mdns: Vec::new(),
    })
}

/// The alias of each address, the address, where it comes from and its state unless they are usual.
fn addresses<'a>(stack: &HostStack, alias: impl Fn(AliasId) -> &'a str) -> Vec<String> {
    let mut all = Vec::new();
    for (on, list) in stack.aliases() {
        all.extend(list.iter().map(|a| {
            let origin = if a.origin == Origin::Dhcp { " dhcp" } else { "" };
            let state = match a.state {
                AddressState::Tentative => " tentative",
                AddressState::Duplicate => " duplicate",
                _ => "",
            };
            format!("{} {}{origin}{state}", alias(on.id), a.cidr)
        }));
    }
    all.sort();
    all
}

/// As `ip rule` shows them.
fn rules(shared: &Shared, policy: &PolicyRules) -> Vec<String> {
    if policy.rules.is_empty() && policy.also.is_empty() {
        return Vec::new();
    }
    let also: Vec<_> = policy.also.iter().map(|id| shared.tables.name(*id)).collect();
    let with = if also.is_empty() { String::new() } else { format!(" with {}", also.join(", ")) };
    let main = format!("{}: from all lookup {MAIN_TABLE}{with}", Rule::MAIN_PRIORITY);
    let at = policy.rules.partition_point(|r| r.priority <= Rule::MAIN_PRIORITY);
    let mut lines: Vec<_> = policy.rules.iter().map(|r| rule_text(shared, r)).collect();
    lines.insert(at, main);
    lines
}

fn rule_text(shared: &Shared, rule: &Rule) -> String {
    let from = rule.from.map_or_else(|| String::from("all"), |net| net.to_string());
    let mut text = format!("{}: from {from}", rule.priority);
    // Writing to a String cannot fail.
    if let Some(to) = rule.to {
        let _ = write!(text, " to {to}");
    }
    if let Some((value, mask)) = rule.mark {
        let _ = write!(text, " fwmark {value:#x}");
        if mask != u32::MAX {
            let _ = write!(text, "/{mask:#x}");
        }
    }
    if let Some(alias) = rule.input {
        let live = shared.live();
        let name = live.config.aliases.get(alias.0 as usize).map_or("?", |a| a.name.as_str());
        let _ = write!(text, " iif {name}");
    }
    if let Some(dscp) = rule.dscp {
        let _ = write!(text, " dscp {dscp}");
    }
    for service in rule.services.iter().flat_map(|all| all.iter()) {
        let _ = write!(text, " {}", service_text(*service));
    }
    let _ = match rule.action {
        RuleAction::Table(id) => write!(text, " lookup {}", shared.tables.name(id)),
        RuleAction::Prohibit => write!(text, " prohibit"),
        RuleAction::Blackhole => write!(text, " blackhole"),
        RuleAction::Unreachable => write!(text, " unreachable"),
    };
    text
}

/// `tcp/80`, `udp/5000-5010`, `icmp`.
fn service_text(s: Service) -> String {
    match s.protocol {
        0 => String::from("any"),
        1 => String::from("icmp"),
        58 => String::from("icmp6"),
        number => {
            let protocol = if number == 6 { "tcp" } else { "udp" };
            match (s.first, s.last) {
                (first, last) if first == last => format!("{protocol}/{first}"),
                (first, last) => format!("{protocol}/{first}-{last}"),
            }
        }
    }
}

fn tables(shared: &Shared, policy: &PolicyRules) -> BTreeMap<String, Vec<String>> {
    let live = shared.live();
    let alias =
        |id: AliasId| live.config.aliases.get(id.0 as usize).map_or("?", |a| a.name.as_str());
    let lines = |table: &RouteTable| {
        let mut lines: Vec<_> = table.iter().map(|r| route_text(r, alias(r.alias))).collect();
        lines.sort();
        lines
    };
    policy.tables.iter().map(|(id, table)| (shared.tables.name(*id), lines(table))).collect()
}

fn route_text(route: &Route, alias: &str) -> String {
    let via = route.via.map(|via| format!(" via {via}")).unwrap_or_default();
    let src = route.src.map(|src| format!(" src {src}")).unwrap_or_default();
    let metric =
        if route.metric == 0 { String::new() } else { format!(" metric {}", route.metric) };
    format!("{}{via} dev {alias}{src}{metric}", route.prefix)
}
