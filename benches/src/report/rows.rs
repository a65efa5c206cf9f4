//! A scene as lines of text, the same for every report.

use super::{figure, nanoseconds};
use crate::outcome::{Latency, Run, Unit};
use crate::run::{CellResult, SceneResult};
use crate::stats::Spread;

/// One contestant.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) contestant: String,
    /// Of its runs; `None`: none went well.
    pub(crate) spread: Option<Spread>,
    /// Median, range, p50, p99, p99.9, CPU of server, client, device threads.
    pub(crate) columns: Vec<String>,
    /// Why there is nothing, or that some runs failed, or that others used the CPUs.
    pub(crate) note: String,
}

/// Headings of [`Row::columns`].
pub(crate) const COLUMNS: [&str; 8] = [
    "median",
    "min .. max",
    "p50",
    "p99",
    "p99.9",
    "CPU server (user+system)",
    "CPU client (user+system)",
    "device threads",
];

/// The lines of a scene.
pub(crate) fn rows(scene: &SceneResult) -> Vec<Row> {
    scene.cells.iter().map(|cell| row(cell, scene.scene.unit)).collect()
}

fn spread(cell: &CellResult, f: impl Fn(&Run) -> f64) -> Option<Spread> {
    Spread::of(cell.runs.iter().map(f))
}

fn row(cell: &CellResult, unit: Unit) -> Row {
    let contestant = cell.cell.contestant.clone();
    let Some(of) = spread(cell, |r| r.figure(unit)) else {
        let why = cell.missing.as_ref().or(cell.failures.first());
        let note = why.map_or("not run", String::as_str).to_owned();
        return Row { contestant, spread: None, columns: Vec::new(), note };
    };
    let columns = vec![
        figure(of.median, unit),
        format!("{} .. {}", figure(of.min, unit), figure(of.max, unit)),
        quantile(cell, |l| l.p50),
        quantile(cell, |l| l.p99),
        quantile(cell, |l| l.p999),
        cpu(cell, unit, |r| (r.server.cpu.user, r.server.cpu.system, r.server.seconds)),
        cpu(cell, unit, |r| (r.client.cpu.user, r.client.cpu.system, r.client.seconds)),
        threads(cell, unit),
    ];
    Row { contestant, spread: Some(of), columns, note: note(cell) }
}

fn quantile(cell: &CellResult, f: impl Fn(&Latency) -> u64) -> String {
    let of = spread(cell, |r| r.client.latency.as_ref().map_or(f64::NAN, |l| f(l) as f64));
    of.map(|s| nanoseconds(s.median)).unwrap_or_default()
}

/// CPU is told per operation, or per KiB.
fn per_work(unit: Unit, ns_per_unit: f64) -> f64 {
    if unit == Unit::Bits { ns_per_unit * 1024.0 } else { ns_per_unit }
}

/// `820 ns (210+610)`; nothing for a side that does not exist.
fn cpu(cell: &CellResult, unit: Unit, f: impl Fn(&Run) -> (f64, f64, f64)) -> String {
    let per = |r: &Run, seconds: f64, of: f64| {
        per_work(unit, seconds / of.max(1e-9) * 1e9 / r.work_per_second(unit))
    };
    let user = spread(cell, |r| per(r, f(r).0, f(r).2)).map_or(0.0, |s| s.median);
    let system = spread(cell, |r| per(r, f(r).1, f(r).2)).map_or(0.0, |s| s.median);
    if user + system == 0.0 {
        return String::new();
    }
    format!("{} ({user:.0}+{system:.0})", nanoseconds(user + system))
}

fn threads(cell: &CellResult, unit: Unit) -> String {
    let of = spread(cell, |r| per_work(unit, r.kernel_threads_ns(unit)));
    of.map(|s| nanoseconds(s.median)).unwrap_or_default()
}

fn note(cell: &CellResult) -> String {
    let mut notes = Vec::new();
    if !cell.failures.is_empty() {
        let all = cell.runs.len() + cell.failures.len();
        notes.push(format!("{} of {all} runs failed: {}", cell.failures.len(), cell.failures[0]));
    }
    let share = |f: fn(&Run) -> f64| {
        spread(cell, |r| f(r) / r.client.seconds.max(1e-9)).map_or(0.0, |s| s.median)
    };
    let (foreign, steal) = (share(|r| r.machine.foreign), share(|r| r.machine.steal));
    if foreign > 0.1 {
        notes.push(format!("other load {:.0} % of a CPU", foreign * 100.0));
    }
    if steal > 0.05 {
        notes.push(format!("stolen {:.0} % of a CPU", steal * 100.0));
    }
    if let Some(mode) = cell.runs.first().and_then(mode) {
        notes.push(mode);
    }
    notes.join("; ")
}

/// The driver mode that a side's device reported.
fn mode(run: &Run) -> Option<String> {
    let of = |facts: &std::collections::BTreeMap<String, String>| facts.get("mode").cloned();
    of(&run.server.facts).or_else(|| of(&run.client.facts))
}
