//! Progress while it runs, and the table at the end.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::rows::NOT_RUN;
use super::{Row, figure, rows, work_unit};
use crate::outcome::{Run, Unit};
use crate::run::Results;
use crate::targets;

/// Columns of the narrowest terminal that the table is made for.
pub(super) const COLUMNS_MAX: usize = 120;

/// What runs now: one line that changes on a terminal, a line per run elsewhere.
pub(crate) struct Progress {
    tty: bool,
    runs: usize,
    at: usize,
    line: String,
    begun: Instant,
    expected: Duration,
}

impl Progress {
    /// `runs` will follow, in about `seconds`.
    pub(crate) fn new(runs: usize, seconds: f64) -> Progress {
        let tty = io::stderr().is_terminal();
        let expected = Duration::from_secs_f64(seconds);
        eprintln!("{runs} runs, about {}", minutes(expected));
        Progress { tty, runs, at: 0, line: String::new(), begun: Instant::now(), expected }
    }

    /// The next run begins.
    pub(crate) fn next(&mut self, scene: &str, contestant: &str, repetition: usize) {
        self.at += 1;
        let (at, runs) = (self.at, self.runs);
        self.line = format!("[{at}/{runs}] {scene}: {contestant} #{}", repetition + 1);
        if self.tty {
            let left = self.expected.saturating_sub(self.begun.elapsed());
            // a line that wraps could not be cleared
            let line: String = self.line.chars().take(COLUMNS_MAX - 28).collect();
            eprint!("\r\x1b[K{} left  {line}", minutes(left));
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

/// `4:05 min`.
fn minutes(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02} min", seconds / 60, seconds % 60)
}

/// All scenes, then the targets.
pub(crate) fn table(results: &Results) -> String {
    let mut out = String::new();
    let mut group = "";
    for scene in &results.scenes {
        let rows = rows(scene);
        if rows.iter().all(|r| r.spread.is_none() && r.note == NOT_RUN) {
            continue;
        }
        let unit = scene.scene.unit;
        if scene.scene.group != group {
            group = &scene.scene.group;
            let _ = writeln!(out, "\n== {group} ==");
        }
        let _ = writeln!(out, "\n{} (CPU per {})", scene.scene.name, work_unit(unit));
        out += &scene_table(&rows);
    }
    targets(&mut out, results);
    if results.interrupted {
        out += "\nThe run was interrupted: what is not told was not measured.\n";
    }
    out
}

fn scene_table(rows: &[Row]) -> String {
    let mut out = String::new();
    let headings =
        ["", "median", "min .. max", "p50", "p99", "p99.9", "server CPU", "client CPU", "threads"];
    let timed = rows.iter().any(|r| !r.brief.p50.is_empty());
    line(&mut out, &headings, timed);
    for row in rows {
        if row.spread.is_none() {
            wrapped(&mut out, &format!("  {:30} ", row.contestant), 33, &row.note);
            continue;
        }
        let b = &row.brief;
        let columns = [
            &row.contestant,
            &b.median,
            &b.range,
            &b.p50,
            &b.p99,
            &b.p999,
            &b.server,
            &b.client,
            &b.threads,
        ];
        line(&mut out, &columns.map(String::as_str), timed);
        if row.note.contains("failed") {
            wrapped(&mut out, &" ".repeat(33), 33, &row.note);
        }
    }
    out
}

fn line(out: &mut String, c: &[&str; 9], timed: bool) {
    let _ = write!(out, "  {:30} {:>11} {:>15}", c[0], c[1], c[2]);
    if timed {
        let _ = write!(out, " {:>7} {:>7} {:>7}", c[3], c[4], c[5]);
    }
    let _ = writeln!(out, " {:>12} {:>12} {:>7}", c[6], c[7], c[8]);
}

/// `text` after `first`, in lines that fit; the others begin in column `indent`.
fn wrapped(out: &mut String, first: &str, indent: usize, text: &str) {
    let mut column = first.chars().count();
    *out += first;
    for (i, word) in text.split_whitespace().enumerate() {
        let width = word.chars().count() + usize::from(i > 0);
        if i > 0 && column + width > COLUMNS_MAX {
            let _ = write!(out, "\n{}{word}", " ".repeat(indent));
            column = indent + width - 1;
        } else {
            let _ = write!(out, "{}{word}", if i > 0 { " " } else { "" });
            column += width;
        }
    }
    out.push('\n');
}

fn targets(out: &mut String, results: &Results) {
    let _ = writeln!(out, "\n== targets ==\n");
    for target in targets::all(results) {
        let sign = if target.at_most { "<=" } else { ">=" };
        let measured = target
            .measured
            .map_or_else(String::new, |m| format!("{:.2} [{:.2}..{:.2}]", m.median, m.min, m.max));
        let (n, bound, verdict) = (target.number, target.bound, target.verdict());
        let first = format!("  {n} {verdict:12} {measured:>22} {sign} {bound:<5} ");
        let mut text = target.text.clone();
        if !target.beside.is_empty() {
            let _ = write!(text, " ({})", target.beside);
        }
        wrapped(out, &first, 50, &text);
    }
}
