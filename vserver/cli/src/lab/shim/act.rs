//! The second act of the demo: each failure once, under one stream and one conversation that last from
//! the first scene to the last.

use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use weft_vserver::config::{Driver, HostConfig};

use super::super::LabError;
use super::super::report::Report;
use super::super::scenario::interrupted;
use super::bench::{Bench, EFFECT, MIXED, Told, Ways};
use super::flows::{self, Flown, ms};
use super::{SCENES, Scene, configured};

/// The stream lasts no longer than this, whatever happens.
const PATIENCE: Duration = Duration::from_mins(3);

/// Runs it.
pub(super) fn run(
    driver: Driver,
    (dir, captures): (&Path, Option<&Path>),
    report: &mut Report,
    stop: &AtomicBool,
) -> Result<(), LabError> {
    report.step("left and right are weft hosts, each with a cable to both providers");
    let all: Vec<&Scene> = SCENES.iter().collect();
    play(Ways::V6, configured(Ways::V6, driver, dir, captures)?, &all, report, stop)?;
    match Ways::Mixed.configs(driver, dir, captures) {
        Ok(configs) => {
            report.step("the same, with IPv6 from the first provider and IPv4 from the second");
            play(Ways::Mixed, configs, &MIXED.map(|at| &SCENES[at]), report, stop)
        }
        Err(why) => {
            let why = why.lines().next().unwrap_or_default();
            report.condition("IPv6 and IPv4 path", format!("left out, not configurable: {why}"));
            Ok(())
        }
    }
}

fn play(
    ways: Ways,
    configs: [HostConfig; 2],
    scenes: &[&Scene],
    report: &mut Report,
    stop: &AtomicBool,
) -> Result<(), LabError> {
    let bench = Bench::start(ways, configs, report, stop)?;
    let [left, right] = [bench.ulid(0), bench.ulid(1)];
    report.condition("connections", format!("between {left} and {right}, from first to last"));
    for (at, provider) in ["first", "second"].into_iter().enumerate() {
        let pair = (ways.locator(at, 0), ways.locator(at, 1));
        report.step(&format!("the {provider} provider gives {} and {}", pair.0, pair.1));
    }
    if let Some(rtt) = bench.rtt_ms() {
        report.condition("round trip", format!("{rtt:.2} ms"));
    }
    let (flown, told) = flows::flow(&bench, PATIENCE, || {
        scenes
            .iter()
            .map(|scene| {
                interrupted(stop)?;
                report.step(scene.name);
                bench.scene(scene.event, EFFECT, stop)
            })
            .collect::<Result<Vec<Told>, LabError>>()
    })?;
    for (scene, told) in scenes.iter().zip(&told) {
        tell(scene, told, &flown, report);
    }
    let whole = "one stream and one conversation through all of it";
    report.check(whole, flown.is_whole(), flown.text());
    Ok(())
}

/// Flows went on while the fault lasted, and how long they stood still.
fn tell(scene: &Scene, told: &Told, flown: &Flown, report: &mut Report) {
    let [stream, requests] = flown.at_fault(told);
    let by = told.by.map_or_else(String::new, |(a, b): (IpAddr, IpAddr)| format!(", by {a} > {b}"));
    let seen = format!("longest silence {stream:.1} ms (stream), {requests:.1} ms (requests){by}");
    let on = stream.max(requests) < ms(told.mended - told.broken);
    report.check(format!("{}, both go on", scene.name), on, seen);
}
