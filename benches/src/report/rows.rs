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
    /// The same for a terminal.
    pub(crate) brief: Brief,
    /// Why there is nothing, or that some runs failed, or that others used the CPUs.
    pub(crate) note: String,
}

/// Which columns say something in a scene.
pub(super) fn used(rows: &[Row]) -> Vec<usize> {
    let says = |i: &usize| rows.iter().any(|r| r.columns.get(*i).is_some_and(|c| !c.is_empty()));
    (0..COLUMNS.len()).filter(says).collect()
}

/// What a terminal has room for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Brief {
    pub(crate) median: String,
    /// In the median's unit.
    pub(crate) range: String,
    pub(crate) p50: String,
    pub(crate) p99: String,
    pub(crate) p999: String,
    /// User and system time: `0.3+7.7 us`.
    pub(crate) server: String,
    pub(crate) client: String,
    pub(crate) threads: String,
}

/// The note of a cell that nobody has tried.
pub(crate) const NOT_RUN: &str = "not run";

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
        let note = match &cell.missing {
            Some(reason) => format!("SKIP: {reason}"),
            None => cell.failures.first().map_or_else(|| NOT_RUN.to_owned(), Clone::clone),
        };
        return Row {
            contestant,
            spread: None,
            columns: Vec::new(),
            brief: Brief::default(),
            note,
        };
    };
    let server = cpu(cell, unit, |r| (r.server.cpu.user, r.server.cpu.system, r.server.seconds));
    let client = cpu(cell, unit, |r| (r.client.cpu.user, r.client.cpu.system, r.client.seconds));
    let columns = vec![
        figure(of.median, unit),
        range(of, unit),
        quantile(cell, |l| l.p50),
        quantile(cell, |l| l.p99),
        quantile(cell, |l| l.p999),
        server.as_ref().map(ToString::to_string).unwrap_or_default(),
        client.as_ref().map(ToString::to_string).unwrap_or_default(),
        threads(cell, unit),
    ];
    let brief = Brief {
        median: columns[0].clone(),
        range: columns[1].clone(),
        p50: columns[2].clone(),
        p99: columns[3].clone(),
        p999: columns[4].clone(),
        server: server.map(Cpu::brief).unwrap_or_default(),
        client: client.map(Cpu::brief).unwrap_or_default(),
        threads: columns[7].clone(),
    };
    Row { contestant, spread: Some(of), columns, brief, note: note(cell) }
}

fn quantile(cell: &CellResult, f: impl Fn(&Latency) -> u64) -> String {
    let of = spread(cell, |r| r.client.latency.as_ref().map_or(f64::NAN, |l| f(l) as f64));
    of.map(|s| nanoseconds(s.median)).unwrap_or_default()
}

/// CPU is told per operation, or per KiB.
fn per_work(unit: Unit, ns_per_unit: f64) -> f64 {
    if unit == Unit::Bits { ns_per_unit * 1024.0 } else { ns_per_unit }
}

/// CPU time of a side for a unit of work, in ns.
#[derive(Clone, Copy, Debug)]
struct Cpu {
    user: f64,
    system: f64,
}

impl std::fmt::Display for Cpu {
    /// `820 ns (210+610)`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Cpu { user, system } = self;
        write!(f, "{} ({user:.0}+{system:.0})", nanoseconds(user + system))
    }
}

impl Cpu {
    /// `0.3+7.7 us`.
    fn brief(self) -> String {
        let (scale, digits, name) = scale(self.user + self.system);
        format!("{:.digits$}+{:.digits$} {name}", self.user * scale, self.system * scale)
    }
}

/// What ns are multiplied with, digits behind the point, and the name of what results.
fn scale(ns: f64) -> (f64, usize, &'static str) {
    match ns {
        ns if ns < 1e3 => (1.0, 0, "ns"),
        ns if ns < 1e5 => (1e-3, 1, "us"),
        ns if ns < 1e6 => (1e-3, 0, "us"),
        ns if ns < 1e8 => (1e-6, 1, "ms"),
        _ => (1e-6, 0, "ms"),
    }
}

/// `9.01 .. 9.34`, in the unit in which the median is told.
fn range(of: Spread, unit: Unit) -> String {
    let (by, digits) = match unit {
        Unit::Bits => (1e-9, 2),
        Unit::Operations if of.median < 1e4 => (1.0, 0),
        Unit::Operations => (1e-3, 1),
        Unit::Nanoseconds => {
            let (by, _, name) = scale(of.median);
            (by, usize::from(name != "ns"))
        }
    };
    format!("{:.digits$} .. {:.digits$}", of.min * by, of.max * by)
}

/// `None` for a side that does not exist.
fn cpu(cell: &CellResult, unit: Unit, f: impl Fn(&Run) -> (f64, f64, f64)) -> Option<Cpu> {
    let per = |r: &Run, seconds: f64, of: f64| {
        per_work(unit, seconds / of.max(1e-9) * 1e9 / r.work_per_second(unit))
    };
    let user = spread(cell, |r| per(r, f(r).0, f(r).2)).map_or(0.0, |s| s.median);
    let system = spread(cell, |r| per(r, f(r).1, f(r).2)).map_or(0.0, |s| s.median);
    (user + system > 0.0).then_some(Cpu { user, system })
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
