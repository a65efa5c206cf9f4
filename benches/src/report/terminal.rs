//! Progress while it runs, and the table at the end.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use super::{figure, rows, work_unit};
use crate::outcome::{Run, Unit};
use crate::run::Results;
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

/// All scenes, then the targets.
pub(crate) fn table(results: &Results) -> String {
    let mut out = String::new();
    let mut group = "";
    for scene in &results.scenes {
        let unit = scene.scene.unit;
        if scene.scene.group != group {
            group = &scene.scene.group;
            let _ = writeln!(out, "\n== {group} ==");
        }
        let _ = writeln!(out, "\n{} (CPU per {})", scene.scene.name, work_unit(unit));
        let headings =
            ["", "median", "min .. max", "p50", "p99", "p99.9", "server", "client", "threads"];
        line(&mut out, &headings);
        for row in rows(scene) {
            if row.spread.is_none() {
                let _ = writeln!(out, "  {:32} {}", row.contestant, row.note);
                continue;
            }
            let columns: Vec<_> =
                std::iter::once(&row.contestant).chain(&row.columns).map(String::as_str).collect();
            line(&mut out, &columns);
            if row.note.contains("failed") {
                let _ = writeln!(out, "  {:32} {}", "", row.note);
            }
        }
    }
    targets(&mut out, results);
    out
}

fn line(out: &mut String, c: &[&str]) {
    let _ = writeln!(
        out,
        "  {:32} {:>12} {:>25} {:>8} {:>8} {:>8} {:>22} {:>22} {:>8}",
        c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8]
    );
}

fn targets(out: &mut String, results: &Results) {
    let _ = writeln!(out, "\n== targets ==\n");
    for target in targets::all(results) {
        let sign = if target.at_most { "<=" } else { ">=" };
        let measured = target.measured.map_or_else(
            || "-".into(),
            |m| format!("{:.2} [{:.2}..{:.2}]", m.median, m.min, m.max),
        );
        let (n, text, bound, verdict) =
            (target.number, &target.text, target.bound, target.verdict());
        let _ = writeln!(out, "  {n} {text:84} {measured:>22} {sign} {bound:<5} {verdict}");
        if !target.beside.is_empty() {
            let _ = writeln!(out, "    {}", target.beside);
        }
    }
}
