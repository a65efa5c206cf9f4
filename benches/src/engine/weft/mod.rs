//! weft: a host with one vserver in this process, used in two ways. `weft` is a service whose
//! callbacks run on the worker; `weft-sockets` uses blocking sockets and a poller from threads.

use std::fmt::Write as _;
use std::io;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use weft_vserver::{Host, Vserver, config};

use super::{Engine, on_stop, unsupported};
use crate::side::Control;
use crate::spec::{Carrier, Poll, Role, Side, Workload};

mod bulk;
mod echo;
mod exchange;
mod short;
mod sockets;

/// `weft`.
pub(crate) struct Services;
/// `weft-sockets`.
pub(crate) struct Sockets;

/// How long a vserver's address may take to come up.
const PATIENCE: Duration = Duration::from_secs(5);
/// Frames of the one pool.
const FRAMES: usize = 16_384;

impl Engine for Services {
    fn name(&self) -> &'static str {
        "weft"
    }

    fn run(&self, side: &Side, control: &Control) -> io::Result<()> {
        let (host, vserver) = start(side)?;
        let (done, ended) = mpsc::channel();
        let end = done.clone();
        on_stop(move || {
            // nobody listens once the side has ended by itself
            let _ = end.send(Ok(()));
        });
        let common = Common { side: side.clone(), control: control.clone(), done };
        let service = match (side.workload, side.role) {
            (Workload::BulkIn | Workload::BulkOut | Workload::BulkBoth, _) => {
                host.run_service(&vserver, |_| bulk::Bulk::new(common.clone()))?
            }
            (Workload::RequestResponse | Workload::ConnectClose, Role::Server) => {
                host.run_service(&vserver, |_| exchange::Server::new(common.clone()))?
            }
            (Workload::RequestResponse, Role::Client) => {
                host.run_service(&vserver, |_| exchange::Client::new(common.clone()))?
            }
            (Workload::ConnectClose, Role::Client) => {
                host.run_service(&vserver, |_| short::Client::new(common.clone()))?
            }
            (Workload::UdpEcho, Role::Server) => {
                host.run_service(&vserver, |_| echo::Server::new(common.clone()))?
            }
            (Workload::UdpEcho, Role::Client) => {
                host.run_service(&vserver, |_| echo::Client::new(common.clone()))?
            }
            _ => return Err(unsupported(side)),
        };
        if side.role == Role::Server {
            control.ready();
        }
        let result = ended.recv().unwrap_or_else(|e| Err(e.to_string()));
        if !service.is_running() {
            return Err(io::Error::other(format!(
                "the service ended: {:?}",
                host.snapshot().problems
            )));
        }
        tell(&host, side, control);
        drop(service);
        result.map_err(io::Error::other)
    }
}

impl Engine for Sockets {
    fn name(&self) -> &'static str {
        "weft-sockets"
    }

    fn run(&self, side: &Side, control: &Control) -> io::Result<()> {
        let (host, vserver) = start(side)?;
        let result = sockets::run(&vserver, side, control);
        tell(&host, side, control);
        result
    }
}

/// What every service of a cell has.
#[derive(Clone)]
struct Common {
    side: Side,
    control: Control,
    done: mpsc::Sender<Result<(), String>>,
}

impl Common {
    /// The side has ended.
    fn end(&self, result: Result<(), String>) {
        // the first one counts; nobody waits for the second
        let _ = self.done.send(result);
    }
}

/// The configuration as an operator would write it.
fn text(side: &Side) -> String {
    let driver = match side.carrier {
        Carrier::Veth => "af-xdp",
        Carrier::Tun => "tun",
        Carrier::Tap => "tap",
        Carrier::Wan => "packet",
        Carrier::Mem => "mem",
    };
    let poll = match side.poll {
        Poll::Busy => "busy",
        Poll::Interrupt => "interrupt",
        Poll::Adaptive => "adaptive",
    };
    // a frame with its headroom in one chunk, where one can be that large
    let frame_bytes = if side.mtu <= 1500 { 2048 } else { 4096 };
    // what lies in the device's memory is to be sent from there, also where a copy costs less
    let from_pool = driver == "af-xdp" && side.extra("pool").is_some();
    let gather = if from_pool { "gather = \"always\"" } else { "" };
    let (device, local) = (&side.device, side.local);
    let connections = (4 * side.connections).max(200_000);
    let mut text = format!(
        r#"
[workers]
frames = {FRAMES}
frame_bytes = {frame_bytes}
[nic.eth0]
device = "{device}"
driver = "{driver}"
poll = "{poll}"
queues = {queues}
{gather}
[alias.data0]
over = "eth0"
[vserver.bench]
addresses = ["data0 {local}/16"]
[vserver.bench.limits]
tcp_connections = {connections}
tcp_half_open = 65536
"#,
        queues = side.queues,
    );
    let tcp: Vec<_> = side.extra.iter().filter_map(|e| e.strip_prefix("tcp.")).collect();
    if !tcp.is_empty() {
        let _ = writeln!(text, "[vserver.bench.tcp]\n{}", tcp.join("\n"));
    }
    text
}

fn start(side: &Side) -> io::Result<(Host, Vserver)> {
    start_with(side, "")
}

/// With `more` of the vserver's configuration.
pub(super) fn start_with(side: &Side, more: &str) -> io::Result<(Host, Vserver)> {
    let text = text(side) + more;
    let config = config::parse(&text, "bench.toml".as_ref()).map_err(io::Error::other)?;
    let host = Host::start(config).map_err(io::Error::other)?;
    let vserver = host.vserver("bench").ok_or(io::ErrorKind::NotFound)?;
    let patience = Instant::now() + PATIENCE;
    while !vserver.addresses().contains(&side.local) {
        if Instant::now() > patience {
            return Err(io::Error::other(format!("{} did not come up", side.local)));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok((host, vserver))
}

/// How the device ran, and what was copied.
pub(super) fn tell(host: &Host, side: &Side, control: &Control) {
    let snapshot = host.snapshot();
    let nic = &snapshot.nics[0];
    control.fact("mode", nic.mode.clone());
    if !snapshot.problems.is_empty() {
        control.fact("problems", snapshot.problems.join("; "));
    }
    let vserver = snapshot.vservers[0].counters.iter();
    for (name, value) in nic.counters.iter().chain(vserver) {
        let interesting = ["Copied", "Retrans", "Dropped", "OutOfOrder", "Frames", "Octets"];
        if *value > 0 && interesting.iter().any(|i| name.contains(i)) {
            control.number(name, *value as f64);
        }
    }
    let vserver = &snapshot.vservers[0].counters;
    let of = |name: &str| vserver.get(name).copied().unwrap_or(0) as f64;
    let device = |name: &str| nic.counters.get(name).copied().unwrap_or(0) as f64;
    let per_byte = |copied: f64, moved: f64| (copied / moved * 1000.0).round() / 1000.0;
    if side.receives() && !side.sends() {
        let ratio =
            per_byte(of("TcpExtRcvCopiedOctets") + device("DeviceInCopiedBytes"), of("IpInOctets"));
        control.number("copied_per_byte_received", ratio);
    }
    if side.sends() && !side.receives() {
        let ratio = per_byte(
            of("TcpExtSndCopiedOctets") + device("DeviceOutCopiedBytes"),
            of("IpOutOctets"),
        );
        control.number("copied_per_byte_sent", ratio);
    }
}
