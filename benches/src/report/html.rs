//! One page without anything from elsewhere: tables, bars, the method.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::markdown::{facts, method};
use super::plot::{bars, escape};
use super::rows::{COLUMNS, used};
use super::{rows, work_unit};
use crate::Error;
use crate::outcome::Unit;
use crate::run::{Results, SceneResult};
use crate::targets;

const STYLE: &str = "
body{font:15px/1.45 system-ui,sans-serif;max-width:1180px;margin:2em auto;padding:0 1em;color:#222;background:#fff}
h1,h2,h3{line-height:1.2}h2{border-bottom:1px solid #ccc;padding-bottom:.2em;margin-top:2em}
table{border-collapse:collapse;margin:.6em 0;font-size:13px}
td,th{padding:.25em .6em;border-bottom:1px solid #e4e4e4;text-align:right;vertical-align:top}
td{white-space:nowrap}td:first-child,th:first-child,.t{text-align:left}td.t{white-space:normal;min-width:15em}
.met{color:#17692c}.MISSED{color:#a61b1b;font-weight:600}.not{color:#777}
svg{width:100%;max-width:860px;font:12px system-ui,sans-serif}
svg .l{text-anchor:end}svg .weft{fill:#2563a8}svg .kernel{fill:#8a8f98}svg .raw{fill:#c9a227}svg .other{fill:#7aa37a}
svg .w{stroke:#222;stroke-width:1;fill:none}
nav a{margin-right:1em}
@media(prefers-color-scheme:dark){body{background:#17191c;color:#ddd}td,th{border-color:#333}h2{border-color:#444}
svg text{fill:#ddd}svg .w{stroke:#eee}.met{color:#62c27c}.MISSED{color:#ff7b7b}a{color:#8ab4f8}}
";

/// Writes the page, directories included.
pub(crate) fn write(path: &Path, results: &Results) -> Result<(), Error> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(path, page(results)).map_err(|e| format!("write {}: {e}", path.display()).into())
}

/// The page.
pub(crate) fn page(results: &Results) -> String {
    let mut out =
        String::from("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n");
    out += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n";
    let _ = writeln!(out, "<title>weft benchmark</title>\n<style>{STYLE}</style>\n</head>\n<body>");
    out += "<h1>weft benchmark</h1>\n";
    let groups = groups(results);
    out += "<nav><a href=\"#targets\">Targets</a>";
    for (i, group) in groups.iter().enumerate() {
        let _ = write!(out, "<a href=\"#g{i}\">{}</a>", escape(group));
    }
    out += "<a href=\"#method\">Method</a></nav>\n";
    target_table(&mut out, results);
    for (i, group) in groups.iter().enumerate() {
        let _ = writeln!(out, "<h2 id=\"g{i}\">{}</h2>", escape(group));
        let of_group = results.scenes.iter().filter(|s| s.scene.group == **group);
        of_group.for_each(|scene| scene_part(&mut out, scene));
    }
    out += "<h2 id=\"method\">Method</h2>\n";
    for paragraph in method(results) {
        let _ = writeln!(out, "<p>{}</p>", escape(&paragraph));
    }
    out += "<table>\n";
    for (name, value) in facts(results) {
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td class=\"t\">{}</td></tr>",
            escape(&name),
            escape(&value)
        );
    }
    out + "</table>\n</body>\n</html>\n"
}

fn groups(results: &Results) -> Vec<&String> {
    let mut groups: Vec<&String> = Vec::new();
    for scene in &results.scenes {
        if !groups.contains(&&scene.scene.group) {
            groups.push(&scene.scene.group);
        }
    }
    groups
}

fn target_table(out: &mut String, results: &Results) {
    *out += "<h2 id=\"targets\">Targets</h2>\n<table>\n<tr><th>#</th><th class=\"t\">what</th>";
    *out += "<th>bound</th><th>measured</th><th>range</th><th>verdict</th></tr>\n";
    for t in targets::all(results) {
        let sign = if t.at_most { "≤" } else { "≥" };
        let (measured, range) = t.measured.map_or_else(Default::default, |m| {
            (format!("{:.2}", m.median), format!("{:.2} .. {:.2}", m.min, m.max))
        });
        let class = t.verdict().split(' ').next().unwrap_or_default();
        let beside = if t.beside.is_empty() { String::new() } else { format!(" ({})", t.beside) };
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td class=\"t\">{}</td><td>{sign} {}</td><td>{measured}</td>\
             <td>{range}</td><td class=\"{class}\">{}</td></tr>",
            t.number,
            escape(&(t.text.clone() + &beside)),
            t.bound,
            t.verdict(),
        );
    }
    *out += "</table>\n";
}

fn scene_part(out: &mut String, scene: &SceneResult) {
    let rows = rows(scene);
    let unit = scene.scene.unit;
    let better = if unit == Unit::Nanoseconds { "less is better" } else { "more is better" };
    let name = escape(&scene.scene.name);
    let _ = writeln!(out, "<h3>{name}</h3>\n<p>{better}; CPU per {}</p>", work_unit(unit));
    *out += &bars(&rows, unit);
    *out += "<table>\n<tr><th></th>";
    let used = used(&rows);
    for i in &used {
        let _ = write!(out, "<th>{}</th>", COLUMNS[*i]);
    }
    *out += "<th class=\"t\">note</th></tr>\n";
    for row in rows {
        let _ = write!(out, "<tr><td>{}</td>", escape(&row.contestant));
        for i in &used {
            let _ = write!(out, "<td>{}</td>", escape(row.columns.get(*i).map_or("", |c| c)));
        }
        let _ = writeln!(out, "<td class=\"t\">{}</td></tr>", escape(&row.note));
    }
    *out += "</table>\n";
}
