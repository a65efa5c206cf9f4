//! The document of the last full run, and the words about the method.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::rows::{COLUMNS, used};
use super::{figure, rows, work_unit};
use crate::Error;
use crate::outcome::Unit;
use crate::run::{Results, SceneResult};
use crate::targets;

/// Causes of misses and what was tried, by hand, put behind the table of targets.
const NOTES: &str = include_str!("../../notes.md");

/// Writes the document.
pub(crate) fn write(path: &Path, results: &Results) -> Result<(), Error> {
    fs::write(path, document(results)).map_err(|e| format!("write {}: {e}", path.display()).into())
}

/// The document: what came out first, then why, then how, then everything.
pub(crate) fn document(results: &Results) -> String {
    let form = if results.full { "full" } else { "quick" };
    let mut out = format!(
        "# Benchmarks\n\nGenerated from the results of one {form} run (`make bench` makes the quick form, \
         `make bench-full` the full one; `weft-bench report --markdown` this file). Every figure is the \
         median [min..max] of {} repetitions.\n\n",
        results.repetitions
    );
    if results.interrupted {
        out += "**The run was interrupted: what is not told was not measured.**\n\n";
    }
    summary(&mut out, results);
    losses(&mut out, results);
    target_table(&mut out, results);
    out += NOTES;
    out += "\n## Method\n\n";
    for paragraph in method(results) {
        out += &paragraph;
        out += "\n\n";
    }
    out += "| | |\n|---|---|\n";
    for (name, value) in facts(results) {
        let _ = writeln!(out, "| {name} | {} |", cell(&value));
    }
    out += "\n## Results\n";
    for scene in &results.scenes {
        scene_part(&mut out, scene);
    }
    out
}

/// How many targets are met, and which are not.
fn summary(out: &mut String, results: &Results) {
    let targets = targets::all(results);
    let count = |met| targets.iter().filter(|t| t.met() == met).count();
    let (met, missed, unmeasured) = (count(Some(true)), count(Some(false)), count(None));
    let _ = write!(
        out,
        "## Summary\n\n{met} of {} checks of the nine targets are met, ",
        targets.len()
    );
    let _ = write!(out, "{missed} missed");
    let _ = if unmeasured > 0 { write!(out, ", {unmeasured} not measured") } else { Ok(()) };
    *out += ".\n\n| target | met | missed |\n|---|---|---|\n";
    for number in 1..=9 {
        let of = |met: bool| {
            let of = targets.iter().filter(|t| t.number == number && t.met() == Some(met));
            of.count()
        };
        let _ = writeln!(
            out,
            "| {number}, {} | {} | {} |",
            targets::subject(number),
            of(true),
            of(false)
        );
    }
    let missed: Vec<_> = targets.iter().filter(|t| t.met() == Some(false)).collect();
    if !missed.is_empty() {
        *out += "\nMissed, with what was measured and the bound:\n\n";
    }
    for t in missed {
        let sign = if t.at_most { "≤" } else { "≥" };
        let measured = t.measured.map_or(f64::NAN, |m| m.median);
        let _ = writeln!(out, "- {}: {}: {measured:.2} ({sign} {})", t.number, t.text, t.bound);
    }
}

/// How it was measured.
pub(crate) fn method(results: &Results) -> Vec<String> {
    vec![
        format!(
            "Each run is two processes in network namespaces made for it, with a new veth pair, TUN or \
             TAP device, and lasts {} s after a warm-up; nothing of an earlier run is left (no TIME-WAIT, \
             no neighbours). Within a scene the contestants take turns: the first repetition of all, then \
             the second of all. The client's process stays on the first CPU, the server's on the second; \
             each is a session of its own, so that the scheduler's groups are the two sides.",
            results.seconds
        ),
        "Polling means that both sides never sleep: the kernel's contestant loops over non-blocking \
         calls. Interrupt means blocking calls or epoll. On a virtual machine a wake-up across CPUs takes \
         20 us, or 80 us when the other CPU has halted; compare interrupt figures within a scene only. \
         Adaptive is weft alone: it spins while there is work and a little longer. Devices have one queue. \
         Where AF_XDP moves bulk over veth, the receive work of both ends runs in kernel threads (threaded \
         NAPI), whoever owns them: AF_XDP against the kernel as AF_XDP against AF_XDP, with weft, smoltcp and \
         the raw device alike. That time is the column `device threads`. A veth end of the kernel has such \
         a thread only while its GRO is on, so it is on there, as it is on any NIC. Kernel to kernel there is \
         none: super-segments go over by reference."
            .into(),
        "`kernel` is the kernel on both ends with its offloads as shipped; `offloads off` has TSO, GSO and \
         GRO off, so that it pays per packet as a stack does whose device cuts nothing. A kernel whose peer \
         is AF_XDP has transmit checksums and segmentation off, because AF_XDP carries neither. On veth \
         the kernel copies every frame of an AF_XDP socket on both ends, which kernel-to-kernel veth does \
         not pay: the fair yardstick there is `raw`, the same device without any stack."
            .into(),
        "CPU time is that of the side's process (getrusage, softirqs that ran on its CPU included), \
         divided by operations, or by KiB of payload for bulk. Latencies are the client's, one histogram \
         per run, told as the median over the runs. UDP latencies are times between echoes. A side that \
         polls uses its whole CPU by definition."
            .into(),
    ]
}

/// The machine.
pub(crate) fn facts(results: &Results) -> Vec<(String, String)> {
    let f = &results.facts;
    let mut facts = vec![
        ("commit".to_owned(), f.commit.clone()),
        ("build".into(), f.profile.clone()),
        ("kernel".into(), f.kernel.clone()),
        ("CPU".into(), format!("{} x {}", f.cpus, f.cpu)),
        ("memory".into(), format!("{} MiB", f.memory_mib)),
        ("congestion control of the kernel's sides".into(), f.congestion.clone()),
        ("begun".into(), httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(f.time))),
    ];
    facts.extend(f.more.iter().map(|(k, v)| (k.clone(), v.clone())));
    let mut modes: Vec<String> = Vec::new();
    for run in results.scenes.iter().flat_map(|s| &s.cells).flat_map(|c| &c.runs) {
        let sides = [&run.server, &run.client];
        let new = sides.iter().filter_map(|s| s.facts.get("mode"));
        for mode in new {
            if !modes.contains(mode) {
                modes.push(mode.clone());
            }
        }
    }
    facts.push(("driver modes in use".into(), modes.join(", ")));
    facts
}

fn target_table(out: &mut String, results: &Results) {
    *out += "\n## Targets\n\nRatios of medians; the range is that of runs next to each other.\n\n";
    *out += "| # | target | bound | measured | range | |\n|---|---|---|---|---|---|\n";
    for t in targets::all(results) {
        let sign = if t.at_most { "≤" } else { "≥" };
        let (measured, range) = t.measured.map_or_else(Default::default, |m| {
            (format!("{:.2}", m.median), format!("{:.2}..{:.2}", m.min, m.max))
        });
        let beside = if t.beside.is_empty() { String::new() } else { format!(" ({})", t.beside) };
        let _ = writeln!(
            out,
            "| {} | {}{beside} | {sign} {} | {measured} | {range} | {} |",
            t.number,
            cell(&t.text),
            t.bound,
            t.verdict()
        );
    }
    out.push('\n');
}

/// Every scene in which a weft contestant is behind another stack's best.
fn losses(out: &mut String, results: &Results) {
    *out +=
        "\n## Where weft loses\n\nScenes in which weft's best is behind another stack's best.\n\n";
    *out += "| scene | weft | best other | ratio |\n|---|---|---|---|\n";
    for scene in &results.scenes {
        let unit = scene.scene.unit;
        let rows = rows(scene);
        let best = |ours: bool| {
            let of = rows.iter().filter(|r| is_stack(&r.contestant));
            let of = of.filter(|r| r.contestant.starts_with("weft") == ours);
            let ran = of.filter_map(|r| Some((r.contestant.clone(), r.spread?.median)));
            if unit == Unit::Nanoseconds {
                ran.min_by(|a, b| a.1.total_cmp(&b.1))
            } else {
                ran.max_by(|a, b| a.1.total_cmp(&b.1))
            }
        };
        let (Some(weft), Some(other)) = (best(true), best(false)) else { continue };
        let ratio = if unit == Unit::Nanoseconds { other.1 / weft.1 } else { weft.1 / other.1 };
        if ratio < 1.0 {
            let (w, o) = (figure(weft.1, unit), figure(other.1, unit));
            let name = &scene.scene.name;
            let _ = writeln!(out, "| {name} | {}: {w} | {}: {o} | {ratio:.2} |", weft.0, other.0);
        }
    }
}

/// A device without a stack is no rival.
fn is_stack(contestant: &str) -> bool {
    !contestant.starts_with("raw") && !contestant.starts_with("relay")
}

fn scene_part(out: &mut String, scene: &SceneResult) {
    let unit = scene.scene.unit;
    let _ = writeln!(out, "\n### {}\n\nCPU per {}.\n", scene.scene.name, work_unit(unit));
    let rows = rows(scene);
    let used = used(&rows);
    let headings: Vec<_> = used.iter().map(|i| COLUMNS[*i]).collect();
    let _ = writeln!(out, "| | {} | note |", headings.join(" | "));
    let _ = writeln!(out, "|---|{}---|", "---|".repeat(used.len()));
    for row in rows {
        let of = |i: &usize| row.columns.get(*i).map_or("", String::as_str);
        let columns: Vec<_> = used.iter().map(of).collect();
        let _ =
            writeln!(out, "| {} | {} | {} |", row.contestant, columns.join(" | "), cell(&row.note));
    }
}

/// Text in a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
