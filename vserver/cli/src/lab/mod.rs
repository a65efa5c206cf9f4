//! `weft lab`: hosts as network namespaces joined by veth pairs, weft in one and the kernel with
//! real programs in the others.
//!
//! Nothing has a name outside this process, so nothing can be left behind: namespaces and
//! interfaces vanish with the process, children are killed with it, files are in one temporary
//! directory.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{ArgGroup, ValueEnum};
use weft_drivers::netns;
use weft_vserver::config::Driver;

use crate::Error;

pub mod client;
mod ending;
pub mod failover;
pub mod goodput;
mod mem;
mod mptcp;
pub mod plan;
pub mod relay;
pub mod report;
mod scale;
mod scenario;
mod series;
pub mod shim;
mod tally;
pub mod topology;
mod traffic;

use ending::Ending;
use report::Report;

/// Options of `weft lab`.
#[derive(Clone, Debug, clap::Args)]
#[command(group = ArgGroup::new("measured").args(["failover", "shim"]))]
pub struct Args {
    /// What carries the frames between weft and the client
    #[arg(long, value_enum, default_value_t = Carrier::AfXdp)]
    pub driver: Carrier,
    /// Size of the files that are downloaded and uploaded, in MiB
    #[arg(long, default_value_t = 256, value_name = "MIB")]
    pub size: u64,
    /// Queues per NIC
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub queues: usize,
    /// L3 MTU of the cables
    #[arg(long, default_value_t = 1500, value_name = "BYTES")]
    pub mtu: usize,
    /// Receive work of the NIC in a kernel thread of its own
    #[arg(long)]
    pub threaded_napi: bool,
    /// Congestion control of the kernel's side
    #[arg(long, default_value = "cubic", value_name = "NAME")]
    pub congestion_control: String,
    /// Instead of the traffic scenario: N vservers on one NIC, each asked once, cost per packet
    #[arg(long, value_name = "N")]
    pub vservers: Option<u16>,
    /// Goodput of congestion controls
    #[command(flatten)]
    pub trial: goodput::Trial,
    /// Gaps of failover
    #[command(flatten)]
    pub matrix: failover::Matrix,
    /// Providers that fail under the multipath shim
    #[command(flatten)]
    pub paths: shim::Providers,
    /// Of failures that are measured
    #[command(flatten)]
    pub runs: Runs,
    /// Write every frame of every NIC to pcapng files in DIR
    #[arg(long, value_name = "DIR")]
    pub keep_captures: Option<PathBuf>,
    /// Print the result as JSON, and no progress
    #[arg(short, long)]
    pub json: bool,
}

/// Which failures, and how often.
#[derive(Clone, Debug, clap::Args)]
pub struct Runs {
    /// Failures of each kind
    #[arg(long, default_value_t = 3, value_name = "N", requires = "measured")]
    pub times: usize,
    /// Only the kinds whose name contains TEXT
    #[arg(long, value_name = "TEXT", requires = "measured")]
    pub kind: Option<String>,
}

/// What carries the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Carrier {
    /// AF_XDP on veth
    AfXdp,
    /// A TAP device in the client
    Tap,
    /// A TUN device in the client (no Ethernet)
    Tun,
    /// AF_PACKET on veth
    Packet,
    /// Memory; the client is a second weft
    Mem,
}

impl Carrier {
    /// The driver of the host's configuration.
    pub fn driver(self) -> Driver {
        match self {
            Carrier::AfXdp => Driver::AfXdp,
            Carrier::Tap => Driver::Tap,
            Carrier::Tun => Driver::Tun,
            Carrier::Packet => Driver::Packet,
            Carrier::Mem => Driver::Mem,
        }
    }
}

/// Why a scenario could not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LabError {
    /// The kernel refused part of the topology.
    #[error(transparent)]
    Device(#[from] weft_drivers::device::DeviceError),
    /// The host did not start.
    #[error(transparent)]
    Host(#[from] weft_vserver::HostError),
    /// Its services did not start.
    #[error(transparent)]
    Services(#[from] weft_vserver::service::ServiceError),
    /// A file or a client program.
    #[error("{operation}: {source}")]
    Io {
        /// What was tried.
        operation: String,
        /// Why not.
        source: std::io::Error,
    },
    /// SIGINT or SIGTERM.
    #[error("interrupted; everything is taken down")]
    Interrupted,
}

impl LabError {
    pub(crate) fn io(operation: impl Into<String>) -> impl FnOnce(std::io::Error) -> LabError {
        let operation = operation.into();
        |source| match source.kind() {
            std::io::ErrorKind::Interrupted => LabError::Interrupted,
            _ => LabError::Io { operation, source },
        }
    }
}

/// Runs the lab, prints the result; fails if a check failed.
pub fn run(args: &Args) -> Result<(), Error> {
    let mut args = args.clone();
    let notes = prepare(&mut args);
    let ending = Ending::listen().map_err(|e| Error::Failed(format!("catch signals: {e}")))?;
    let mut report = Report::new(plan::driver_name(args.driver.driver()), args.json);
    for note in notes {
        report.condition("user", note);
    }
    if cfg!(debug_assertions) {
        report.condition("build", "debug; numbers are several times better with --release");
    }
    let mut ended = run_scenario(&args, &mut report, &ending);
    if ending.stop.load(Ordering::Relaxed) {
        ended = Err(LabError::Interrupted);
    }
    // Lines of a series took minutes each: they are told, whatever came after them.
    if ended.is_ok() || report.has_rows() {
        report.print(args.json)?;
    }
    ended.map_err(|e| Error::Failed(format!("lab: {e}")))?;
    match report.failed() {
        0 => Ok(()),
        n => Err(Error::Failed(format!("lab: {n} checks failed"))),
    }
}

/// Runs what was asked for; its files are gone afterwards, however it ends.
fn run_scenario(args: &Args, report: &mut Report, ending: &Ending) -> Result<(), LabError> {
    let dir = tempfile::Builder::new()
        .prefix("weft-lab-")
        .tempdir()
        .map_err(LabError::io("create a temporary directory"))?;
    *ending.files.lock() = Some(dir.path().to_owned());
    run_in(dir.path(), args, report, &ending.stop)
}

fn run_in(dir: &Path, args: &Args, report: &mut Report, stop: &AtomicBool) -> Result<(), LabError> {
    if let Some(captures) = &args.keep_captures {
        std::fs::create_dir_all(captures)
            .map_err(LabError::io(format!("create {}", captures.display())))?;
    }
    if args.trial.goodput {
        // Whatever `--driver` says: weft and the kernel send from the same TAP.
        report.driver = String::from("packet");
        return goodput::run(args, dir, report, stop);
    }
    if args.matrix.failover {
        report.driver = String::from("af-xdp");
        return failover::run(args, dir, report, stop);
    }
    if args.paths.providers || args.paths.shim {
        return shim::run(args, dir, report, stop);
    }
    match (args.vservers, args.driver) {
        (Some(n), _) => scale::run(args, n, dir, report, stop),
        (None, Carrier::Mem) => mem::run(args, dir, report, stop),
        (None, _) => scenario::run(args, dir, report, stop),
    }
}

/// Gets the privileges the driver needs; without them chooses what works. Returns what it did.
fn prepare(args: &mut Args) -> Vec<String> {
    if args.driver == Carrier::Mem {
        return vec![];
    }
    // the first question needs no thread, which the user namespace could not stand
    let root = rustix::process::geteuid().is_root() && netns::may_make_namespaces();
    if root {
        return vec![];
    }
    match netns::enter_user_namespace() {
        Ok(()) => {
            let note = format!(
                "no root: in a user namespace, with AF_PACKET instead of {}",
                plan::driver_name(args.driver.driver())
            );
            if args.driver == Carrier::Packet {
                return vec![String::from("no root: in a user namespace")];
            }
            args.driver = Carrier::Packet;
            vec![note]
        }
        Err(e) => {
            args.driver = Carrier::Mem;
            vec![format!("no root and no user namespace ({e}): memory driver, no kernel client")]
        }
    }
}
