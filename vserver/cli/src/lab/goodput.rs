//! The goodput scenario: weft's controllers and the kernel's, in turn, through the same link with
//! random loss, to the same kernel client.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use weft_drivers::device::Device;
use weft_sim::{LinkSpec, Relay};
use weft_stack::socket::tcp::CongestionControl;
use weft_vserver::config::{Driver, HostConfig, ServiceKind};

use super::relay::{Wire, port};
use super::report::Report;
use super::scenario::{interrupted, start_host, wait_for_addresses};
use super::topology::{CLIENT, KERNEL, Machine, WAN, nic, v4};
use super::{Args, LabError, plan};

/// Where endless streams begin: weft's built-in service.
const CHARGEN_PORT: u16 = 19;
/// Where the kernel's begin, one port per controller.
const KERNEL_PORT: u16 = 5001;
/// Host number of the first vserver.
const FIRST: u16 = 11;
/// Not measured: slow start, and BBR's first probes.
const START: Duration = Duration::from_secs(3);
const MEASURED: Duration = Duration::from_secs(10);
/// Payload of a full segment with timestamps, and what a frame adds to it.
const MSS: f64 = 1448.0;
const OVERHEAD: f64 = 66.0;
/// What is compared.
const CONTROLLERS: [CongestionControl; 2] = [CongestionControl::Cubic, CongestionControl::Bbr];

/// The link, and how often to try.
#[derive(Clone, Debug, clap::Args)]
pub struct Trial {
    /// Instead of the traffic scenario: goodput of weft's and of the kernel's congestion control
    /// through a link with random loss
    #[arg(long)]
    pub goodput: bool,
    /// Frames lost, each way, in percent
    #[arg(long, default_value_t = 1.0, value_name = "PERCENT", requires = "goodput")]
    pub loss: f64,
    /// Round-trip time of the link in ms
    #[arg(long, default_value_t = 20, value_name = "MS", requires = "goodput")]
    pub rtt: u64,
    /// Rate of the link in Mbit/s
    #[arg(long, default_value_t = 100, value_name = "MBIT", requires = "goodput")]
    pub rate: u64,
    /// Runs of each
    #[arg(long, default_value_t = 3, value_name = "N", requires = "goodput")]
    pub runs: usize,
}

impl Trial {
    fn link(&self) -> LinkSpec {
        let rtt = Duration::from_millis(self.rtt);
        let volume = self.rate * 125_000 * self.rtt / 1000;
        LinkSpec {
            latency: rtt / 2,
            loss: self.loss / 100.0,
            rate: Some(self.rate * 1_000_000),
            queue_bytes: (volume as usize).max(64 << 10),
            ..LinkSpec::default()
        }
    }

    /// The response function, in Mbit/s of payload: RFC 9438 5.1, and the rate less what is lost.
    fn theory(&self, cc: CongestionControl) -> f64 {
        let loss = self.loss / 100.0;
        let full = self.rate as f64 * MSS / (MSS + OVERHEAD) * (1.0 - loss);
        if cc == CongestionControl::Bbr || loss == 0.0 {
            return full;
        }
        let rtt = self.rtt as f64 / 1000.0;
        let segments = (1.5 / loss).sqrt().max(1.054 * (rtt / loss).powf(0.75));
        (segments * MSS * 8e-6 / rtt).min(full)
    }
}

/// A sender and what it reached, in Mbit/s.
struct Case {
    name: String,
    cc: CongestionControl,
    from: SocketAddr,
    rates: Vec<f64>,
}

/// Runs it.
pub(super) fn run(
    args: &Args,
    dir: &Path,
    report: &mut Report,
    stop: &AtomicBool,
) -> Result<(), LabError> {
    let trial = &args.trial;
    let (home, client) = (Machine::new("weft")?, Machine::new("client")?);
    let ends: [Box<dyn Device>; 2] =
        [Box::new(port(&home.netns, nic(0), 1500)?), Box::new(port(&client.netns, WAN, 1500)?)];
    let wire = Wire::start(ends, Relay::new([trial.link(); 2], 1))
        .map_err(LabError::io("start the relay"))?;
    home.number(nic(0), KERNEL)?;
    client.number(WAN, CLIENT)?;
    let begin = Instant::now();
    let (host, services) = home.netns.enter(|| start_host(config(dir)))??;
    wait_for_addresses(&host, report, begin, stop)?;
    conditions(trial, report);
    let mut cases = Vec::new();
    for (i, cc) in (0u16..).zip(CONTROLLERS) {
        let kernel = SocketAddr::new(IpAddr::V4(v4(KERNEL)), KERNEL_PORT + i);
        serve(&home, kernel.port(), cc.name())
            .map_err(LabError::io(format!("serve with {}", cc.name())))?;
        let weft = SocketAddr::new(IpAddr::V4(v4(FIRST + i)), CHARGEN_PORT);
        for (who, from) in [("kernel", kernel), ("weft", weft)] {
            cases.push(Case { name: format!("{who} {}", cc.name()), cc, from, rates: vec![] });
        }
    }
    for _ in 0..trial.runs.max(1) {
        for case in &mut cases {
            interrupted(stop)?;
            let rate = client.netns.enter(|| receive(case.from))?;
            case.rates.push(rate.map_err(LabError::io(format!("receive from {}", case.name)))?);
        }
    }
    for case in &mut cases {
        tell(trial, case, report);
    }
    let stats = wire.stop().map_err(LabError::io("carry frames"))?[0];
    let seen = format!("{} of {} frames towards the client", stats.lost, stats.sent);
    report.condition("lost on the link", seen);
    services.stop();
    Ok(())
}

fn config(dir: &Path) -> HostConfig {
    let mut config = plan::host(dir.join("weft.sock"));
    config.nics.push(plan::physical("eth0", nic(0), Driver::Packet));
    config.aliases.push(plan::alias("data0", 0));
    for (i, cc) in (0u16..).zip(CONTROLLERS) {
        let mut vserver = plan::numbered(cc.name(), 0, FIRST + i);
        vserver.tcp.congestion = cc;
        vserver.services = vec![plan::service(CHARGEN_PORT, ServiceKind::Chargen)];
        config.vservers.push(vserver);
    }
    config
}

fn conditions(trial: &Trial, report: &mut Report) {
    let Trial { loss, rtt, rate, runs, .. } = trial;
    report.condition(
        "link",
        format!(
            "{rate} Mbit/s, {rtt} ms round trip, {loss} % loss each way, a queue of its volume"
        ),
    );
    report.condition(
        "senders",
        "weft by AF_PACKET on a TAP and the kernel on the same TAP; the client is the kernel",
    );
    report.condition("runs", format!("{runs} of each, in turn"));
}

fn tell(trial: &Trial, case: &mut Case, report: &mut Report) {
    case.rates.sort_by(f64::total_cmp);
    let (rates, theory) = (&case.rates, trial.theory(case.cc));
    let median = rates[rates.len() / 2];
    report.number(
        &case.name,
        format!(
            "{median:.1} Mbit/s [{:.1}..{:.1}], {:.0} % of theory",
            rates[0],
            rates[rates.len() - 1],
            median * 100.0 / theory
        ),
        "payload received in 10 s after 3 s; median [min..max]",
    );
}

/// Sends without end, with a congestion control of the kernel, to whoever connects.
fn serve(machine: &Machine, port: u16, congestion: &str) -> io::Result<()> {
    let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let listener = machine.netns.enter(|| TcpListener::bind(at)).map_err(io::Error::other)??;
    rustix::net::sockopt::set_tcp_congestion(listener.as_fd(), congestion)?;
    thread::Builder::new().name(format!("kernel {congestion}")).spawn(move || {
        let zeros = vec![0; 64 << 10];
        for mut stream in listener.incoming().flatten() {
            // until the client has enough
            while stream.write_all(&zeros).is_ok() {}
        }
    })?;
    Ok(())
}

/// Mbit/s of payload that come from an endless sender.
fn receive(from: SocketAddr) -> io::Result<f64> {
    let mut stream = TcpStream::connect_timeout(&from, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut buffer = vec![0; 256 << 10];
    let begin = Instant::now();
    while begin.elapsed() < START {
        more(&mut stream, &mut buffer)?;
    }
    let (begin, mut bytes) = (Instant::now(), 0);
    while begin.elapsed() < MEASURED {
        bytes += more(&mut stream, &mut buffer)?;
    }
    Ok(bytes as f64 * 8e-6 / begin.elapsed().as_secs_f64())
}

fn more(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    match stream.read(buffer)? {
        0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        n => Ok(n),
    }
}
