//! The shim's scenes: connections between the stable addresses of two weft hosts, while one of their
//! two providers fails in every way. Told once (`--providers`, the second act of the demo), or measured
//! many times (`--shim`), with kernel MPTCP beside it.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use weft_vserver::config::{Driver, HostConfig};

use super::report::Report;
use super::{Args, Carrier, LabError};

mod act;
mod bench;
mod flows;
mod measure;
mod multipath;
mod network;

use bench::{Event, Ways};
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
        measure::run(args, driver, dir, report, stop)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_is_told_is_bounded_by_round_trips_and_what_it_notices_by_time() {
        assert_eq!((Bound::Told.ms(10.0), Bound::Silent.ms(10.0)), (25.0, 200.0));
    }
}
