//! Progress while it runs, and the table at the end.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use crate::outcome::{Run, Unit};
use crate::run::{CellResult, Results};
use crate::stats::Spread;
use crate::targets;

/// What runs now: one line that changes on a terminal, a line per run elsewhere.
pub(crate) struct Progress {
    tty: bool,
    runs: usize,
    at: usize,
    line: String,
}

impl Progress {
    /// `runs` will follow.
    pub(crate) fn new(runs: usize) -> Progress {
        Progress { tty: io::stderr().is_terminal(), runs, at: 0, line: String::new() }
    }

    /// The next run begins.
    pub(crate) fn next(&mut self, scene: &str, contestant: &str, repetition: usize) {
        self.at += 1;
        let (at, runs) = (self.at, self.runs);
        self.line = format!("[{at}/{runs}] {scene}: {contestant} #{}", repetition + 1);
        if self.tty {
            eprint!("\r\x1b[K{}", self.line);
            // progress is a courtesy
            let _ = io::stderr().flush();
        }
    }

    /// It ended.
    pub(crate) fn done(&mut self, run: &Run, unit: Unit) {
        let figure = figure(run.figure(unit), unit);
        if self.tty {
            eprint!("  {figure}");
        } else {
            eprintln!("{}  {figure}", self.line);
        }
    }

    /// It failed.
    pub(crate) fn failed(&mut self, reason: &str) {
        let clear = if self.tty { "\r\x1b[K" } else { "" };
        eprintln!("{clear}{}  FAILED: {reason}", self.line);
    }

    /// No more.
    pub(crate) fn end(&mut self) {
        if self.tty {
            eprint!("\r\x1b[K");
        }
    }
}

/// `3.21 Gbit/s`, `48.1 k/s`, `6.8 us`.
pub(crate) fn figure(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Bits => format!("{:.2} Gbit/s", value * 1e-9),
        Unit::Operations if value < 1e4 => format!("{value:.0} /s"),
        Unit::Operations => format!("{:.1} k/s", value * 1e-3),
        Unit::Nanoseconds if value < 1e3 => format!("{value:.0} ns"),
        Unit::Nanoseconds => format!("{:.1} us", value * 1e-3),
    }
}

/// Median and spread of something of each run.
pub(crate) fn spread(cell: &CellResult, f: impl Fn(&Run) -> f64) -> Option<Spread> {
    Spread::of(cell.runs.iter().map(f))
}

/// All scenes.
pub(crate) fn table(results: &Results) -> String {
    let mut out = String::new();
    let mut group = "";
    for scene in &results.scenes {
        let unit = scene.scene.unit;
        if scene.scene.group != group {
            group = &scene.scene.group;
            let _ = writeln!(out, "\n== {group} ==");
        }
        let _ = writeln!(out, "\n{}", scene.scene.name);
        let _ = writeln!(
            out,
            "  {:34} {:>13} {:>25} {:>9} {:>9} {:>11} {:>11} {:>9}",
            "", "median", "min .. max", "p99", "p99.9", "CPU server", "CPU client", "kthreads"
        );
        for cell in &scene.cells {
            row(&mut out, cell, unit);
        }
    }
    targets(&mut out, results);
    out
}

fn targets(out: &mut String, results: &Results) {
    let _ = writeln!(out, "\n== targets ==\n");
    for target in targets::all(results) {
        let met = match target.met() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "not measured",
        };
        let sign = if target.at_most { "<=" } else { ">=" };
        let measured = target.measured.map_or_else(|| "-".into(), |m| format!("{m:.2}"));
        let (n, text, bound) = (target.number, &target.text, target.bound);
        let _ = writeln!(out, "  {n} {text:90} {measured:>8} {sign} {bound:<6} {met}");
    }
}

fn row(out: &mut String, cell: &CellResult, unit: Unit) {
    let name = &cell.cell.contestant;
    let Some(s) = spread(cell, |r| r.figure(unit)) else {
        let why = cell.missing.as_ref().or(cell.failures.first());
        let _ = writeln!(out, "  {name:34} {}", why.map_or("not run", String::as_str));
        return;
    };
    let quantile = |f: fn(&crate::outcome::Latency) -> u64| {
        let of = spread(cell, |r| r.client.latency.as_ref().map_or(f64::NAN, |l| f(l) as f64));
        of.map(|s| figure(s.median, Unit::Nanoseconds)).unwrap_or_default()
    };
    let cpu = |f: &dyn Fn(&Run) -> f64| {
        let per = if unit == Unit::Bits { 1024.0 } else { 1.0 };
        let of = spread(cell, |r| f(r) * per).map_or(0.0, |s| s.median);
        format!("{of:.0} ns")
    };
    let range = format!("{} .. {}", figure(s.min, unit), figure(s.max, unit));
    let _ = writeln!(
        out,
        "  {name:34} {:>13} {range:>25} {:>9} {:>9} {:>11} {:>11} {:>9}{}",
        figure(s.median, unit),
        quantile(|l| l.p99),
        quantile(|l| l.p999),
        cpu(&|r| r.cpu_ns(&r.server, unit)),
        cpu(&|r| r.cpu_ns(&r.client, unit)),
        cpu(&|r| r.kernel_threads_ns(unit)),
        if cell.failures.is_empty() { "" } else { "  (failed at times)" },
    );
}
