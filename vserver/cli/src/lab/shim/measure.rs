//! Every kind of failure many times, and how long traffic stands still; one line of a table for each.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use weft_vserver::config::Driver;

use super::super::report::{Report, Table};
use super::super::scenario::{interrupted, pause};
use super::super::series::{Series, go_on};
use super::super::traffic::{self, spread};
use super::super::{Args, LabError};
use super::bench::{Bench, MIXED, SHORT, Told, Ways};
use super::flows::{self, Flown, ms};
use super::network::Fault;
use super::{Bound, Event, IDLE, MPTCP, SCENES, SILENCE, Scene, configured, multipath};

/// What a line says of a kind, in ms where nothing else stands.
const HEAD: [&str; 9] = [
    "Fault",
    "Bound",
    "Stream",
    "Requests",
    "Within the bound",
    "Before: stream, requests",
    "Fault made; left, right on another pair",
    "Compared",
    "Lost, twice or reset",
];
const NOT: &str = "–";

/// Everything `--times`, or the kinds that `--kind` names.
pub(super) fn run(
    args: &Args,
    driver: Driver,
    dir: &Path,
    report: &mut Report,
    stop: &AtomicBool,
) -> Result<(), LabError> {
    let traffic = "8000 bytes of a stream from left to right each millisecond, and requests from right \
                   to left, one at a time";
    let series = Series::begin(&args.runs, traffic, report);
    let mut table = Table::new("Longest silence, ms: median / 99 % / most", &HEAD);
    let done = every_kind(series, (driver, dir), &mut table, report, stop);
    report.tables.push(table);
    done
}

fn every_kind(
    series: Series<'_>,
    (driver, dir): (Driver, &Path),
    table: &mut Table,
    report: &mut Report,
    stop: &AtomicBool,
) -> Result<(), LabError> {
    let all: Vec<&Scene> = SCENES.iter().collect();
    for (ways, scenes) in [(Ways::V6, all), (Ways::Mixed, MIXED.map(|at| &SCENES[at]).to_vec())] {
        let mut kinds: Vec<(String, Option<&Scene>)> = scenes
            .into_iter()
            .map(|scene| (format!("{}{}", ways.title(), scene.name), Some(scene)))
            .collect();
        kinds.push((format!("{}{IDLE}", ways.title()), None));
        // Of a kind that failed something may still be broken.
        let mut bench = None;
        for (name, scene) in kinds.iter().filter(|(name, _)| series.has(name)) {
            let ready = match bench.take() {
                Some(bench) => Ok(bench),
                None => Bench::start(ways, configured(ways, driver, dir, None)?, report, stop),
            };
            let ended = ready.and_then(|ready| {
                match scene {
                    Some(scene) => kind(&ready, scene, (name, series.times), table, report, stop),
                    None => idle(&ready, (name, series.times), table, report, stop),
                }?;
                bench = Some(ready);
                Ok(())
            });
            go_on(name, ended, report)?;
        }
    }
    for scene in &SCENES {
        let name = format!("{MPTCP}{}", scene.name);
        if let Event::Fault(fault) = scene.event
            && series.has(&name)
        {
            let ended = kernel(&name, fault, series.times, table, report, stop);
            go_on(&name, ended, report)?;
        }
    }
    Ok(())
}

/// What the runs of one kind gave, in ms: of the stream and of the requests.
#[derive(Debug, Default)]
struct Seen {
    fault: [Vec<f64>; 2],
    before: [Vec<f64>; 2],
    back: [Vec<f64>; 2],
    rtt: Vec<f64>,
    /// Until the fault was made, and until each host went over to another pair.
    made: Vec<f64>,
    moved: [Vec<f64>; 2],
    /// Runs that began with the second provider suppressed.
    held_back: usize,
    bytes: u64,
    requests: usize,
    broken: Vec<String>,
}

impl Seen {
    fn add(&mut self, flown: &Flown, told: &Told) {
        let [before, back] = flown.otherwise(told);
        let all = [
            (&mut self.fault, flown.at_fault(told)),
            (&mut self.before, before),
            (&mut self.back, back),
        ];
        for (values, gaps) in all {
            values.iter_mut().zip(gaps).for_each(|(values, gap)| values.push(gap));
        }
        self.made.push(ms(told.made - told.broken));
        for (values, at) in self.moved.iter_mut().zip(told.moved) {
            values.extend(at.map(|at| ms(at - told.broken)));
        }
        self.bytes += flown.bytes();
        self.requests += flown.requests();
        if !flown.is_whole() {
            self.broken.push(flown.text());
        }
    }

    fn runs(&self) -> usize {
        self.made.len()
    }

    fn row(&self, name: &str, bound: f64) -> Vec<String> {
        let [stream, requests] = &self.fault;
        let (left, right) = (&self.moved[0], &self.moved[1]);
        vec![
            name.to_owned(),
            format!("{bound:.1}"),
            spread(stream),
            spread(requests),
            format!("{}, {} of {}", within(stream, bound), within(requests, bound), self.runs()),
            format!("{}, {}", spread(&self.before[0]), spread(&self.before[1])),
            format!("{}; {}, {}", spread(&self.made), moved(left), moved(right)),
            format!("{:.1} MB, {} answers", self.bytes as f64 / 1e6, self.requests),
            self.broken.len().to_string(),
        ]
    }
}

/// Of a host that stayed where it was there is nothing.
fn moved(values: &[f64]) -> String {
    if values.is_empty() { NOT.to_owned() } else { spread(values) }
}

/// How many are.
fn within(values: &[f64], bound: f64) -> usize {
    values.iter().filter(|ms| **ms <= bound).count()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// One kind of failure, as often as is wished; what was seen is told, however it ended.
fn kind(
    bench: &Bench,
    scene: &Scene,
    (name, times): (&str, usize),
    table: &mut Table,
    report: &mut Report,
    stop: &AtomicBool,
) -> Result<(), LabError> {
    let mut seen = Seen::default();
    let ended = (0..times).try_for_each(|_| {
        interrupted(stop)?;
        seen.rtt.extend(bench.rtt_ms());
        seen.held_back += usize::from(bench.is_held_back());
        let (flown, told) =
            flows::flow(bench, traffic::PATIENCE, || bench.scene(scene.event, SHORT, stop))?;
        seen.add(&flown, &told);
        Ok(())
    });
    if seen.runs() > 0 {
        let bound = scene.bound.ms(median(&seen.rtt));
        table.rows.push(seen.row(name, bound));
        tell(name, &seen, report);
    }
    ended
}

/// What the line of the table does not say.
fn tell(name: &str, seen: &Seen, report: &mut Report) {
    let method = "ms: median / 99 % / most";
    report.number(&format!("{name}: stream"), spread(&seen.fault[0]), method);
    report.number(&format!("{name}: requests"), spread(&seen.fault[1]), method);
    report.number(&format!("{name}: stream at return"), spread(&seen.back[0]), method);
    report.number(&format!("{name}: requests at return"), spread(&seen.back[1]), method);
    let rtt = "of the pair in use, as the shim measures it; ms";
    report.number(&format!("{name}: round trip"), spread(&seen.rtt), rtt);
    report.number(
        &format!("{name}: began with the second provider suppressed"),
        format!("{} of {}", seen.held_back, seen.runs()),
        "runs; contexts remember failures of the runs before",
    );
    let text = seen.broken.first().cloned().unwrap_or_else(|| {
        format!("{} bytes compared by SHA-256, {} answers", seen.bytes, seen.requests)
    });
    let check = format!("{name}: every byte and answer came once, and nothing was reset");
    report.check(check, seen.broken.is_empty(), text);
}

/// The provider goes dark while nobody says anything; the next request is answered.
fn idle(
    bench: &Bench,
    (name, times): (&str, usize),
    table: &mut Table,
    report: &mut Report,
    stop: &AtomicBool,
) -> Result<(), LabError> {
    let event = SCENES[0].event;
    let (mut took, mut rtt) = (Vec::new(), Vec::new());
    let ended = (0..times).try_for_each(|run| {
        interrupted(stop)?;
        rtt.extend(bench.rtt_ms());
        // At every part of the second between two measurements.
        let wait = Duration::from_secs(1) * run as u32 / times as u32;
        took.push(flows::first_after_silence(bench, (SILENCE, stop), |request| {
            let asked = bench.during(event, stop, || pause(wait, stop).map(|()| request()))??;
            asked.map_err(LabError::io("ask after the silence"))
        })?);
        Ok(())
    });
    let bound = Bound::Silent.ms(0.0) + median(&rtt);
    let method = "ms from the request to its answer: median / 99 % / most";
    report.number(&format!("{name}: next request"), spread(&took), method);
    let mut row = vec![NOT.to_owned(); HEAD.len()];
    name.clone_into(&mut row[0]);
    row[1] = format!("{bound:.1}");
    row[3] = spread(&took);
    row[4] = format!("{} of {}", within(&took, bound), took.len());
    row[7] = format!("{} answers", took.len());
    table.rows.push(row);
    ended
}

/// The same under the kernel's MPTCP.
fn kernel(
    name: &str,
    fault: Fault,
    times: usize,
    table: &mut Table,
    report: &mut Report,
    stop: &AtomicBool,
) -> Result<(), LabError> {
    let seen = multipath::run(fault, times, stop)?;
    let mut row = vec![NOT.to_owned(); HEAD.len()];
    name.clone_into(&mut row[0]);
    row[2] = spread(&seen.gaps);
    row[7] = format!("{:.1} MB", seen.bytes as f64 / 1e6);
    row[8] = format!("{}, stuck {}", seen.differ, seen.stuck);
    table.rows.push(row);
    let method = "longest silence in ms: median / 99 % / most; kernel to kernel";
    report.number(&format!("{name}: stream"), spread(&seen.gaps), method);
    // The second subflow carried something: otherwise the first one's timeout is measured.
    let both = seen.differ == 0 && seen.stuck == 0 && seen.second > seen.bytes / 100;
    let multipath::Seen { bytes, second, stuck, .. } = &seen;
    let text = format!("{bytes} bytes, {second} by the second provider; {stuck} streams got stuck");
    report.check(format!("{name}: every byte came, by both providers"), both, text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_many_runs_were_within_the_bound_and_has_all_its_columns() {
        let seen = Seen {
            fault: [vec![3.0, 9.0], vec![2.0, 4.0]],
            made: vec![1.0, 1.0],
            broken: vec![String::from("reset")],
            ..Seen::default()
        };
        let row = seen.row("dark", 5.0);
        assert_eq!(row.len(), HEAD.len());
        assert_eq!((&row[1][..], &row[4][..], &row[8][..]), ("5.0", "1, 2 of 2", "1"));
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[])), (2.0, 0.0));
    }
}
