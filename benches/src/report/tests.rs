use clap::Parser;

use super::{html, json, markdown, terminal};
use crate::outcome::{CpuSeconds, Latency, Machine, Outcome, Run, Unit};
use crate::plan::{self, Plan};
use crate::run::{CellResult, Results, SCHEMA, SceneResult};
use crate::targets;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    plan: crate::PlanArgs,
}

fn plan_of(full: bool) -> Plan {
    plan::make(&Line::parse_from(["x"].into_iter().chain(full.then_some("--full"))).plan)
}

fn run(operations: u64, p50: u64) -> Run {
    let side = Outcome {
        seconds: 1.0,
        operations,
        received: operations * 1000,
        cpu: CpuSeconds { user: 0.25, system: 0.5 },
        latency: Some(Latency { count: operations, p50, p99: 2 * p50, ..Latency::default() }),
        ..Outcome::default()
    };
    Run { server: side.clone(), client: side, machine: Machine::default() }
}

/// The full plan in which `weft` is twice as good as everybody else, with one failure and one
/// absence.
fn results() -> Results {
    results_of(true)
}

fn results_of(full: bool) -> Results {
    let mut scenes = Vec::new();
    for scene in plan_of(full).scenes {
        let cells = scene.cells.iter().map(|cell| {
            let weft = cell.contestant.starts_with("weft");
            let runs = if weft { vec![run(20_000, 4000); 3] } else { vec![run(10_000, 8000); 3] };
            CellResult { cell: cell.clone(), runs, failures: vec![], missing: None }
        });
        scenes.push(SceneResult { cells: cells.collect(), scene });
    }
    let cells = &mut scenes[0].cells;
    let last = cells.len() - 1;
    cells[last].runs.clear();
    cells[last].failures.push("said <b>&\"no\"".into());
    Results {
        schema: SCHEMA,
        facts: crate::facts::Facts::gather(),
        full,
        repetitions: 3,
        seconds: 1.0,
        interrupted: false,
        scenes,
    }
}

#[test]
fn results_survive_json_and_another_schema_is_refused() {
    let dir = std::env::temp_dir().join(format!("weft-bench-json-{}", std::process::id()));
    let path = dir.join("results.json");
    let results = results();
    json::write(&path, &results).unwrap();
    let again = json::read(&path).unwrap();
    assert_eq!(serde_json::to_value(&results).unwrap(), serde_json::to_value(&again).unwrap());
    assert_eq!(terminal::table(&results), terminal::table(&again));
    json::write(&path, &Results { schema: SCHEMA + 1, ..results }).unwrap();
    assert!(json::read(&path).unwrap_err().to_string().contains("schema"));
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Every tag closed, in order, and nothing fetched from elsewhere.
#[test]
fn the_page_is_well_formed_and_self_contained() {
    let page = html::page(&results());
    let mut open: Vec<String> = Vec::new();
    let body = page.strip_prefix("<!DOCTYPE html>").unwrap();
    for part in body.split('<').skip(1) {
        let (tag, rest) = part.split_once('>').expect("a tag ends");
        assert!(!rest.contains('>'), "an unescaped > in {rest:?}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "closed {name}");
        } else if !tag.ends_with('/') {
            open.push(tag.split(' ').next().unwrap().to_owned());
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
    // the one address is the name of SVG's namespace
    let page = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for from_elsewhere in ["://", "src=", "@import", "url("] {
        assert!(!page.contains(from_elsewhere), "{from_elsewhere}");
    }
    assert!(!page.contains("<script") && page.contains("<rect"));
    assert!(page.contains("said &lt;b&gt;&amp;&quot;no&quot;"));
}

#[test]
fn the_targets_are_computed_from_what_ran() {
    let results = results();
    let all = targets::all(&results);
    let find = |text: &str| all.iter().find(|t| t.text.contains(text)).unwrap();
    let spin = find("spinning sockets");
    assert!((spin.measured.unwrap().median - 0.5).abs() < 1e-9);
    assert_eq!(spin.met(), Some(true));
    let both = find("256 connections, polling: weft on both ends");
    assert!((both.measured.unwrap().median - 2.0).abs() < 1e-9);
    assert_eq!((both.met(), both.verdict()), (Some(false), "MISSED"));
    let numbers: Vec<_> = all.iter().map(|t| t.number).collect();
    assert!((1..=9).all(|n| numbers.contains(&n)), "all nine: {numbers:?}");
}

#[test]
fn every_target_has_its_scene_and_contestants_in_both_forms() {
    for full in [false, true] {
        let mut results = results_of(full);
        let cells = results.scenes.iter_mut().flat_map(|s| &mut s.cells);
        for run in cells.flat_map(|c| {
            c.runs.resize(1, run(1, 1));
            &mut c.runs
        }) {
            for number in [
                "speedup",
                "bytes_per_connection",
                "copied_per_byte_received",
                "copied_per_byte_sent",
            ] {
                run.client.numbers.insert(number.into(), 1.0);
            }
        }
        for target in targets::all(&results) {
            assert!(target.measured.is_some(), "full {full}: nothing measures: {}", target.text);
        }
        // a plan without a scene is caught
        results.scenes.retain(|s| s.scene.name != targets::VSERVERS);
        assert!(targets::all(&results).iter().any(|t| t.number == 8 && t.met().is_none()));
    }
}

#[test]
fn the_table_fits_120_columns() {
    for full in [false, true] {
        for line in terminal::table(&results_of(full)).lines() {
            assert!(line.chars().count() <= terminal::COLUMNS_MAX, "{line}");
        }
    }
}

#[test]
fn nothing_measured_is_no_target_met() {
    let results = Results { scenes: vec![], ..results() };
    assert!(targets::all(&results).iter().all(|t| t.verdict() == "not measured"));
    assert!(html::page(&results).contains("not measured"));
}

#[test]
fn the_document_names_the_method_every_target_and_what_weft_loses() {
    let mut results = results();
    let scene = results.scenes.iter().position(|s| s.scene.unit == Unit::Operations).unwrap();
    for cell in &mut results.scenes[scene].cells {
        if cell.cell.contestant == "kernel" {
            cell.runs = vec![run(90_000, 1)];
        }
    }
    let text = markdown::document(&results);
    let losses = text.split("## Where weft loses").nth(1).unwrap();
    let losses = losses.split("\n## ").next().unwrap();
    assert!(losses.contains(&results.scenes[scene].scene.name), "{losses}");
    for target in targets::all(&results) {
        assert!(text.contains(&target.text), "{}", target.text);
    }
    assert!(text.contains("congestion control of the kernel's sides"));
}
