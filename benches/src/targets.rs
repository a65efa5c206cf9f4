//! The targets that weft sets itself, each computed from the results of one run. On veth the honest
//! yardstick is the raw device: frames are copied by the kernel on both ends there, which a kernel
//! that talks to itself does not pay. So a target is a ratio to the raw limit of the same run, and
//! to the kernel where that is fair.

use serde::{Deserialize, Serialize};

use crate::outcome::{Latency, Run, Unit};
use crate::run::{CellResult, Results};
use crate::stats::Spread;

/// One line of the table of targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Target {
    /// `1` to `9`.
    pub(crate) number: u8,
    /// What shall hold.
    pub(crate) text: String,
    /// Median and spread of the ratio; `None`: a contestant did not run.
    pub(crate) measured: Option<Spread>,
    /// The bound, in the same measure.
    pub(crate) bound: f64,
    /// Less than the bound is good.
    pub(crate) at_most: bool,
    /// What stands beside it: `0.52 x the kernel with offloads off`.
    pub(crate) beside: String,
}

impl Target {
    /// Whether it is met; `None`: not measured.
    pub(crate) fn met(&self) -> Option<bool> {
        let measured = self.measured?.median;
        Some(if self.at_most { measured <= self.bound } else { measured >= self.bound })
    }

    /// `met`, `MISSED`, `not measured`.
    pub(crate) fn verdict(&self) -> &'static str {
        match self.met() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "not measured",
        }
    }

    fn beside(mut self, text: String) -> Target {
        self.beside = text;
        self
    }
}

/// The scene of latency.
pub(crate) fn latency_scene(bytes: usize, how: &str) -> String {
    format!("request/response {bytes} B, 1 connection, {how}")
}

/// The scene of many connections.
pub(crate) fn transactions_scene(bytes: usize, connections: usize, how: &str) -> String {
    format!("request/response {bytes} B, {connections} connections, {how}")
}

/// The scene of short connections.
pub(crate) fn connections_scene(at_once: usize, how: &str) -> String {
    format!("connect-request-close, {at_once} at once, {how}")
}

/// The scene of datagrams.
pub(crate) fn datagrams_scene(bytes: usize, how: &str) -> String {
    format!("UDP echo {bytes} B, 64 in flight, {how}")
}

/// The scene of bulk; `way` is `in`, `out` or `both`, `device` is `veth`, `TUN` or `TAP`.
pub(crate) fn bulk_scene(way: &str, device: &str, mtu: usize) -> String {
    format!("bulk {way}, {device}, MTU {mtu}")
}

/// The scene of one flow over memory.
pub(crate) const SEGMENTS: &str = "one flow over memory, full segments";
/// The scene of many vservers.
pub(crate) const VSERVERS: &str = "packets by number of vservers";
/// The scene of idle connections.
pub(crate) const IDLE: &str = "packets by number of idle connections";

/// What stands for two workers: they share nothing but the machine.
pub(crate) const TWO_STACKS: &str = "weft, two stacks in two threads";

/// The most idle connections of a form: a million take long to make.
pub(crate) fn idle_most(full: bool) -> usize {
    if full { 1_000_000 } else { 100_000 }
}

/// What a target is about.
pub(crate) fn subject(number: u8) -> &'static str {
    match number {
        1 => "latency of one connection",
        2 => "256 connections",
        3 => "bulk over AF_XDP",
        4 => "bulk over TUN and TAP",
        5 => "short connections",
        6 => "UDP echo",
        7 => "one flow over memory",
        8 => "many vservers, many idle connections",
        _ => "bytes copied",
    }
}

/// What is compared of a run.
type Measure<'a> = &'a dyn Fn(&Run) -> f64;

/// Results by name.
struct Lookup<'a>(&'a Results);

impl Lookup<'_> {
    fn cell(&self, scene: &str, contestant: &str) -> Option<(&CellResult, Unit)> {
        let scene = self.0.scenes.iter().find(|s| s.scene.name == scene)?;
        let cell = scene.cells.iter().find(|c| c.cell.contestant == contestant)?;
        Some((cell, scene.scene.unit))
    }

    fn values(&self, scene: &str, contestant: &str, f: Option<Measure<'_>>) -> Vec<f64> {
        let Some((cell, unit)) = self.cell(scene, contestant) else { return Vec::new() };
        cell.runs.iter().map(|r| f.map_or_else(|| r.figure(unit), |f| f(r))).collect()
    }

    /// Ratio of the medians; its spread is that of the pairs that ran next to each other.
    fn ratio(
        &self,
        scene: &str,
        ours: &str,
        theirs: &str,
        f: Option<Measure<'_>>,
    ) -> Option<Spread> {
        let (ours, theirs) = (self.values(scene, ours, f), self.values(scene, theirs, f));
        let pairs = Spread::of(ours.iter().zip(&theirs).map(|(a, b)| a / b))?;
        let median = Spread::of(ours)?.median / Spread::of(theirs)?.median;
        Some(Spread { median, min: pairs.min.min(median), max: pairs.max.max(median) })
    }

    fn number(&self, scene: &str, contestant: &str, name: &str) -> Option<Spread> {
        let of = |r: &Run| r.client.numbers.get(name).or(r.server.numbers.get(name)).copied();
        Spread::of(self.cell(scene, contestant)?.0.runs.iter().filter_map(of))
    }
}

fn at_most(number: u8, text: impl Into<String>, measured: Option<Spread>, bound: f64) -> Target {
    let text = text.into();
    Target { number, text, measured, bound, at_most: true, beside: String::new() }
}

fn at_least(number: u8, text: impl Into<String>, measured: Option<Spread>, bound: f64) -> Target {
    Target { at_most: false, ..at_most(number, text, measured, bound) }
}

fn server_cpu(unit: Unit) -> impl Fn(&Run) -> f64 {
    move |r| r.cpu_ns(&r.server, unit)
}

fn both_cpu(unit: Unit) -> impl Fn(&Run) -> f64 {
    move |r| r.cpu_ns(&r.server, unit) + r.cpu_ns(&r.client, unit)
}

fn p99(run: &Run) -> f64 {
    run.client.latency.as_ref().map_or(f64::NAN, |l: &Latency| l.p99 as f64)
}

/// All targets, from what was measured.
pub(crate) fn all(results: &Results) -> Vec<Target> {
    let r = Lookup(results);
    let mut targets = latency(&r);
    targets.extend(transactions(&r));
    targets.extend(bulk_over_afxdp(&r));
    targets.extend(bulk_over_tunnels(&r));
    targets.extend(packets(&r));
    targets.extend(memory(&r));
    targets.extend(copies(&r));
    targets
}

fn latency(r: &Lookup<'_>) -> Vec<Target> {
    let (busy, sleep) = (latency_scene(1, "polling"), latency_scene(1, "interrupt"));
    let cpu = both_cpu(Unit::Operations);
    vec![
        at_most(
            1,
            "1 B round trip, polling: p50 against the raw frame ping-pong",
            r.ratio(&busy, "weft", "raw", None),
            1.5,
        ),
        at_most(
            1,
            "1 B round trip, polling: p50 against the kernel's spinning sockets",
            r.ratio(&busy, "weft", "kernel", None),
            0.65,
        ),
        at_most(
            1,
            "1 B round trip, polling: p99 against the kernel",
            r.ratio(&busy, "weft", "kernel", Some(&p99)),
            1.0,
        ),
        at_most(
            1,
            "1 B round trip, interrupt: p50 against the kernel's blocking sockets",
            r.ratio(&sleep, "weft", "kernel", None),
            1.0,
        ),
        at_most(
            1,
            "1 B round trip, interrupt: CPU of both sides a transaction against the kernel",
            r.ratio(&sleep, "weft", "kernel", Some(&cpu)),
            1.0,
        ),
    ]
}

fn transactions(r: &Lookup<'_>) -> Vec<Target> {
    let mut targets = Vec::new();
    let cpu = server_cpu(Unit::Operations);
    for how in ["polling", "interrupt"] {
        let scene = transactions_scene(1, 256, how);
        targets.push(at_least(
            2,
            format!("256 connections, {how}: transactions with the same kernel client against the kernel's server"),
            r.ratio(&scene, "weft, kernel client", "kernel", None),
            1.3,
        ));
        targets.push(at_most(
            2,
            format!("256 connections, {how}: the server's CPU a transaction, same kernel client"),
            r.ratio(&scene, "weft, kernel client", "kernel", Some(&cpu)),
            0.5,
        ));
        targets.push(at_least(
            2,
            format!("256 connections, {how}: weft on both ends against the kernel on both ends"),
            r.ratio(&scene, "weft", "kernel", None),
            2.5,
        ));
    }
    targets
}

fn bulk_over_afxdp(r: &Lookup<'_>) -> Vec<Target> {
    let mut targets = Vec::new();
    for mtu in [1500, 3500, 9000] {
        let scene = bulk_scene("in", "veth", mtu);
        for (contestant, who) in [
            ("weft", "weft on both ends"),
            ("weft, kernel client", "weft receives from the kernel"),
            ("weft client, kernel", "weft sends to the kernel"),
        ] {
            let kernel = r.ratio(&scene, contestant, "kernel, offloads off", None);
            let beside = kernel.map_or_else(String::new, |k| {
                format!("{:.2} x the kernel with offloads off", k.median)
            });
            let text = format!("bulk over AF_XDP, MTU {mtu}, {who}: frames against the raw device");
            let raw = r.ratio(&scene, contestant, "raw", None);
            targets.push(at_least(3, text, raw, 0.85).beside(beside));
        }
    }
    targets
}

fn bulk_over_tunnels(r: &Lookup<'_>) -> Vec<Target> {
    let mut targets = Vec::new();
    for device in ["TUN", "TAP"] {
        for way in ["in", "out"] {
            let scene = bulk_scene(way, device, 1500);
            for (rival, bound, who) in [
                ("relay", 0.9, "a plain frame relay"),
                ("smoltcp, kernel client", 2.5, "smoltcp"),
                ("gvisor, kernel client", 8.0, "gVisor"),
            ] {
                targets.push(at_least(
                    4,
                    format!("bulk {way} over {device}, kernel peer, against {who}"),
                    r.ratio(&scene, "weft, kernel client", rival, None),
                    bound,
                ));
            }
        }
    }
    targets
}

fn packets(r: &Lookup<'_>) -> Vec<Target> {
    let connections = connections_scene(1, "polling");
    let datagrams = datagrams_scene(64, "polling");
    vec![
        at_least(
            5,
            "connect-request-close: weft on both ends against the kernel on both ends",
            r.ratio(&connections, "weft", "kernel", None),
            5.0,
        ),
        at_least(
            5,
            "connect-request-close: with the same kernel client",
            r.ratio(&connections, "weft, kernel client", "kernel", None),
            1.5,
        ),
        at_least(
            6,
            "UDP echo against raw forwarding of the same frames",
            r.ratio(&datagrams, "weft", "raw", None),
            0.85,
        ),
    ]
}

fn memory(r: &Lookup<'_>) -> Vec<Target> {
    let figure = |scene: &str, contestant: &str| Spread::of(r.values(scene, contestant, None));
    let most = format!("weft, {}", idle_most(r.0.full));
    let how_many = if r.0.full { "1 M" } else { "100,000 (1 M in the full form)" };
    vec![
        at_most(
            7,
            "one flow over memory: ns a full segment (receive, ACK, delivery)",
            figure(SEGMENTS, "weft"),
            150.0,
        ),
        at_least(
            7,
            "one flow over memory: segments a second against smoltcp",
            r.ratio(SEGMENTS, "smoltcp", "weft", None),
            4.0,
        ),
        at_least(
            7,
            "over memory: two stacks in two threads, as workers have them, against one",
            r.number(SEGMENTS, TWO_STACKS, "speedup"),
            1.7,
        ),
        at_most(
            8,
            "packet cost with 10,000 vservers against one",
            r.ratio(VSERVERS, "weft, 10000", "weft, 1", None),
            1.15,
        ),
        at_most(
            8,
            format!("packet cost beside {how_many} idle connections against ten"),
            r.ratio(IDLE, &most, "weft, 10", None),
            1.3,
        ),
        at_most(
            8,
            format!("bytes an idle connection takes, of {how_many}"),
            r.number(IDLE, &most, "bytes_per_connection"),
            1024.0,
        ),
    ]
}

fn copies(r: &Lookup<'_>) -> Vec<Target> {
    let scene = bulk_scene("in", "veth", 1500);
    let of = |contestant: &str, name: &str| r.number(&scene, contestant, name);
    vec![
        at_most(
            9,
            "bytes copied a byte received through recv_bytes",
            of("weft, kernel client", "copied_per_byte_received"),
            0.0,
        ),
        at_most(
            9,
            "bytes copied a byte sent from pool memory",
            of("weft client from pool, kernel", "copied_per_byte_sent"),
            0.0,
        ),
        at_most(
            9,
            "bytes copied a byte sent from other memory",
            of("weft client, kernel", "copied_per_byte_sent"),
            1.0,
        ),
    ]
}
