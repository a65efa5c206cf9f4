//! The shim's scenes: connections between the stable addresses of two weft hosts, while one of their
//! two providers fails in every way. Told once (`--providers`, the second act of the demo), or measured
//! many times (`--shim`), with kernel MPTCP beside it.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use weft_vserver::config::{Driver, HostConfig};

use super::report::Report;
use super::scenario::interrupted;
use super::traffic::{self, spread};
use super::{Args, Carrier, LabError};

mod act;
mod bench;
mod flows;
mod multipath;
mod network;

use bench::{Bench, Event, MIXED, SHORT, Ways};
use flows::Flown;
use network::Fault;

/// What the providers do.
#[derive(Clone, Debug, clap::Args)]
pub struct Providers {
    /// Instead of the traffic scenario: two weft hosts with the multipath shim, two providers that fail
    /// in turn, and connections that go on
    #[arg(long, conflicts_with = "measured")]
    pub providers: bool,
    /// The same measured: gaps of `--times` failures of each kind, and of kernel MPTCP
    #[arg(long)]
    pub shim: bool,
}

/// How long traffic may stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    /// The host knows at once: two round trips and 5 ms.
    Told,
    /// It has to notice: 200 ms.
    Silent,
}

/// What happens to the path in use.
struct Scene {
    name: &'static str,
    event: Event,
    bound: Bound,
}

const fn dark(name: &'static str, from: [bool; 2]) -> Scene {
    Scene { name, event: Event::Fault(Fault::Dark { from }), bound: Bound::Silent }
}

const fn link(name: &'static str, side: usize) -> Scene {
    Scene { name, event: Event::Fault(Fault::Link { side }), bound: Bound::Told }
}

/// In the order of the act.
static SCENES: [Scene; 6] = [
    dark("the provider goes dark", [true, true]),
    dark("only what comes from the left is lost", [true, false]),
    dark("only what comes from the right is lost", [false, true]),
    Scene { name: "the left address is withdrawn", event: Event::Withdrawn, bound: Bound::Told },
    link("the left link goes down", 0),
    link("the right link goes down", 1),
];

/// What the kernel's kinds begin with.
const MPTCP: &str = "kernel MPTCP, ";
/// Without traffic the loss is noticed with the next request.
const IDLE: &str = "dark while idle";
/// Silence before the provider goes dark: keepalives have ended.
const SILENCE: Duration = Duration::from_millis(500);

impl Bound {
    fn ms(self, rtt_ms: f64) -> f64 {
        match self {
            Bound::Told => 2.0 * rtt_ms + 5.0,
            Bound::Silent => 200.0,
        }
    }
}

/// Runs the act or the measurement.
pub(super) fn run(
    args: &Args,
    dir: &Path,
    report: &mut Report,
    stop: &AtomicBool,
) -> Result<(), LabError> {
    let driver = match args.driver {
        Carrier::Packet => Driver::Packet,
        Carrier::Mem => {
            report.condition("skipped", "providers are network namespaces, which are refused here");
            return Ok(());
        }
        _ => Driver::AfXdp,
    };
    super::plan::driver_name(driver).clone_into(&mut report.driver);
    if args.paths.shim {
        measure(args, driver, dir, report, stop)
    } else {
        act::run(driver, (dir, args.keep_captures.as_deref()), report, stop)
    }
}

fn configured(
    ways: Ways,
    driver: Driver,
    dir: &Path,
    captures: Option<&Path>,
) -> Result<[HostConfig; 2], LabError> {
    let broken = |text: String| LabError::io("configure the hosts")(std::io::Error::other(text));
    ways.configs(driver, dir, captures).map_err(broken)
}

/// Everything `--times`, or the kinds that `--kind` names.
fn measure(
    args: &Args,
    driver: Driver,
    dir: &Path,
    report: &mut Report,
    stop: &AtomicBool,
) -> Result<(), LabError> {
    let (times, only) = args.runs.what();
    report.condition("runs", format!("{times} of each kind"));
    report.condition(
        "traffic",
        "8000 bytes of a stream from left to right each millisecond, and requests from right to left, \
         one at a time",
    );
    let all: Vec<&Scene> = SCENES.iter().collect();
    for (ways, scenes) in [(Ways::V6, all), (Ways::Mixed, MIXED.map(|at| &SCENES[at]).to_vec())] {
        let named = |name: &str| format!("{}{name}", ways.title());
        let scenes: Vec<_> = scenes.iter().filter(|s| named(s.name).contains(only)).collect();
        let idles = named(IDLE).contains(only);
        if scenes.is_empty() && !idles {
            continue;
        }
        let bench = Bench::start(ways, configured(ways, driver, dir, None)?, report, stop)?;
        for scene in scenes {
            kind(&bench, scene, &named(scene.name), times, report, stop)?;
        }
        if idles {
            idle(&bench, &named(IDLE), times, report, stop)?;
        }
    }
    let faults: Vec<(&str, Fault)> = SCENES
        .iter()
        .filter(|scene| format!("{MPTCP}{}", scene.name).contains(only))
        .filter_map(|scene| match scene.event {
            Event::Fault(fault) => Some((scene.name, fault)),
            Event::Withdrawn => None,
        })
        .collect();
    multipath::run(&faults, times, report, stop)
}

/// What the runs of one kind gave, in ms: of the stream and of the requests.
#[derive(Debug, Default)]
struct Seen {
    fault: [Vec<f64>; 2],
    before: [Vec<f64>; 2],
    back: [Vec<f64>; 2],
    rtt: Vec<f64>,
    bytes: u64,
    requests: usize,
    broken: Vec<String>,
}

impl Seen {
    fn add(&mut self, flown: &Flown, told: &bench::Told) {
        let [before, back] = flown.otherwise(told);
        let all = [
            (&mut self.fault, flown.at_fault(told)),
            (&mut self.before, before),
            (&mut self.back, back),
        ];
        for (values, gaps) in all {
            values.iter_mut().zip(gaps).for_each(|(values, gap)| values.push(gap));
        }
        self.bytes += flown.bytes();
        self.requests += flown.requests();
        if !flown.is_whole() {
            self.broken.push(flown.text());
        }
    }
}

/// One kind of failure, `times`.
fn kind(
    bench: &Bench,
    scene: &Scene,
    name: &str,
    times: usize,
    report: &mut Report,
    stop: &AtomicBool,
) -> Result<(), LabError> {
    let mut seen = Seen::default();
    for _ in 0..times {
        interrupted(stop)?;
        seen.rtt.extend(bench.rtt_ms());
        let (flown, told) =
            flows::flow(bench, traffic::PATIENCE, || bench.scene(scene.event, SHORT, stop))?;
        seen.add(&flown, &told);
    }
    tell(name, scene.bound, &seen, report);
    Ok(())
}

fn tell(name: &str, bound: Bound, seen: &Seen, report: &mut Report) {
    report.number(
        &format!("{name}: round trip"),
        spread(&seen.rtt),
        "of the pair in use, as the shim measures it; ms",
    );
    let bound = bound.ms(median(&seen.rtt));
    for (at, what) in ["stream", "requests"].into_iter().enumerate() {
        let method = "longest silence in ms: median / 99 % / most";
        let gaps = &seen.fault[at];
        report.number(&format!("{name}: {what}"), spread(gaps), method);
        let within = gaps.iter().filter(|ms| **ms <= bound).count();
        let target = format!("{name}: {what}, at most {bound:.1} ms");
        report.number(&target, format!("{within} of {}", gaps.len()), "runs within the target");
        report.number(&format!("{name}: {what} before"), spread(&seen.before[at]), method);
        report.number(&format!("{name}: {what} at return"), spread(&seen.back[at]), method);
    }
    let text = seen.broken.first().cloned().unwrap_or_else(|| {
        format!("{} bytes compared by SHA-256, {} answers", seen.bytes, seen.requests)
    });
    let check = format!("{name}: every byte and answer came once, and nothing was reset");
    report.check(check, seen.broken.is_empty(), text);
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// The provider goes dark while nobody says anything; the next request is answered.
fn idle(
    bench: &Bench,
    name: &str,
    times: usize,
    report: &mut Report,
    stop: &AtomicBool,
) -> Result<(), LabError> {
    let event = SCENES[0].event;
    let (mut took, mut rtt) = (Vec::new(), Vec::new());
    for run in 0..times {
        interrupted(stop)?;
        rtt.extend(bench.rtt_ms());
        // At every part of the second between two measurements.
        let wait = Duration::from_secs(1) * run as u32 / times as u32;
        took.push(flows::first_after_silence(bench, SILENCE, |request| {
            let asked = bench.during(event, stop, || {
                std::thread::sleep(wait);
                request()
            })?;
            asked.map_err(LabError::io("ask after the silence"))
        })?);
    }
    let bound = Bound::Silent.ms(0.0) + median(&rtt);
    let within = took.iter().filter(|ms| **ms <= bound).count();
    let method = "ms from the request to its answer: median / 99 % / most";
    report.number(&format!("{name}: next request"), spread(&took), method);
    let target = format!("{name}: next request, at most {bound:.1} ms");
    report.number(&target, format!("{within} of {times}"), "runs within the target");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_is_told_is_bounded_by_round_trips_and_what_it_notices_by_time() {
        assert_eq!((Bound::Told.ms(10.0), Bound::Silent.ms(10.0)), (25.0, 200.0));
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[])), (2.0, 0.0));
    }
}
