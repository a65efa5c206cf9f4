//! The failover scenario: how long a client notices that one of two paths died, and that it came back.
//!
//! weft has a failover group of two NICs on two switches. In each run pings and a stream go on while the
//! path dies that the client's packets come by; when the group has moved, and everything has calmed down,
//! the path is mended. Beside it, on the same switches, the kernel's own way: MPTCP over two paths.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use weft_interface::events::What;
use weft_interface::fail::{FastConfig, GroupConfig, ProbeMode};
use weft_interface::paths::{GroupHealth, MemberHealth};
use weft_interface::tree::GroupSpec;
use weft_stack::ip::address::Cidr;
use weft_vserver::Host;
use weft_vserver::config::{Driver, HostConfig};
use weft_vserver::net::TcpListener;

use super::report::Report;
use super::scenario::{interrupted, pause, wait_for_addresses};
use super::series::{Series, go_on};
use super::topology::{CLIENT, Machine, PREFIX4, PREFIX6, WAN, nic, v4};
use super::traffic::{self, Pings, Sum, join, spread};
use super::{Args, LabError, plan};

mod multipath;
mod network;

use network::{Fault, Network};

/// Host numbers: the vserver, test addresses of the two members, that of the other weft host.
const ALPHA: u16 = 11;
const TESTS: [u16; 2] = [31, 32];
const PEER: u16 = 33;
const PORT: u16 = 5001;
/// Traffic before a fault, after the group has moved, and after it is whole again.
const CALM: Duration = Duration::from_millis(300);
/// In which the effect of a fault is looked for.
const EFFECT: Duration = Duration::from_millis(700);
/// The group follows within it, or the run has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether it is this scenario.
#[derive(Clone, Debug, clap::Args)]
pub struct Matrix {
    /// Instead of the traffic scenario: how long a client notices that a path of a failover group
    /// died, and of kernel MPTCP
    #[arg(long)]
    pub failover: bool,
}

/// How a failure is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    Link,
    Icmp,
    Arp,
    Bfd,
}

/// What is measured, with the target in ms (99 % of runs).
struct Kind {
    name: &'static str,
    watch: Watch,
    fault: Fault,
    target_ms: f64,
}

const KINDS: [Kind; 4] = [
    Kind { name: "link down", watch: Watch::Link, fault: Fault::Link, target_ms: 10.0 },
    Kind {
        name: "silent, ICMP probes",
        watch: Watch::Icmp,
        fault: Fault::Silent,
        target_ms: 150.0,
    },
    Kind {
        name: "silent, ARP/ND probes",
        watch: Watch::Arp,
        fault: Fault::Silent,
        target_ms: 150.0,
    },
    Kind { name: "silent, BFD 3 ms x 3", watch: Watch::Bfd, fault: Fault::Silent, target_ms: 15.0 },
];

/// What the runs of one kind gave, in ms.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    ping: Vec<f64>,
    bulk: Vec<f64>,
    /// Longest silences before the fault: what the machine itself does.
    calm_ping: Vec<f64>,
    calm_bulk: Vec<f64>,
    /// From the fault until the group has moved the address.
    moved: Vec<f64>,
    lost: usize,
    back_lost: usize,
    back_ping: Vec<f64>,
    back_bulk: Vec<f64>,
    bytes: u64,
    /// Streams that did not come as they were sent.
    differ: usize,
    /// The longest detection time that the group had.
    detect_ms: u64,
}

/// Runs it.
pub(super) fn run(
    args: &Args,
    dir: &Path,
    report: &mut Report,
    stop: &AtomicBool,
) -> Result<(), LabError> {
    let traffic =
        "a ping and 8000 bytes of a stream from weft each millisecond, to one kernel client";
    let series = Series::begin(&args.runs, traffic, report);
    let times = series.times;
    for kind in &KINDS {
        for family in ["IPv4", "IPv6"] {
            let name = format!("{}, {family}", kind.name);
            if series.has(&name) {
                let mut gaps = Gaps::default();
                let v6 = family == "IPv6";
                let ended = group(kind, v6, times, dir, report, stop, &mut gaps);
                if !gaps.ping.is_empty() {
                    tell(&name, kind.target_ms, &gaps, report);
                }
                go_on(&name, ended, report)?;
            }
        }
    }
    for (name, fault) in [("MPTCP, link down", Fault::Link), ("MPTCP, silent", Fault::Silent)] {
        if series.has(name) {
            let gaps = multipath::run(fault, times, stop)?;
            report.check(format!("{name}: every byte came"), gaps.differ == 0, gaps.sums());
            let bulk = spread(&gaps.bulk);
            report.number(name, format!("stream {bulk}"), "kernel to kernel, two paths; ms");
        }
    }
    report.condition("documented by illumos", "10 s to detect a silent failure, by default");
    Ok(())
}

fn tell(name: &str, target_ms: f64, gaps: &Gaps, report: &mut Report) {
    let method = "longest silence in ms: median / 99 % / most";
    for (what, values) in [
        ("ping", &gaps.ping),
        ("stream", &gaps.bulk),
        ("group moved", &gaps.moved),
        ("ping before", &gaps.calm_ping),
        ("stream before", &gaps.calm_bulk),
        ("ping at return", &gaps.back_ping),
        ("stream at return", &gaps.back_bulk),
    ] {
        report.number(&format!("{name}: {what}"), spread(values), method);
    }
    for (what, values) in [("ping", &gaps.ping), ("stream", &gaps.bulk)] {
        let within = values.iter().filter(|ms| **ms <= target_ms).count();
        report.number(
            &format!("{name}: {what}, target {target_ms} ms"),
            format!("{within} of {}", values.len()),
            "runs within the target",
        );
    }
    if gaps.detect_ms > 0 {
        let seen = format!("{} ms", gaps.detect_ms);
        report.number(
            &format!("{name}: detection time, most"),
            seen,
            "as weft tells it after a run",
        );
    }
    report.check(format!("{name}: every byte of every stream came"), gaps.differ == 0, gaps.sums());
    let lost = format!("{} lost at the fault, {} at the return", gaps.lost, gaps.back_lost);
    report.check(
        format!("{name}: the return of the path loses no ping"),
        gaps.back_lost == 0,
        lost,
    );
}

/// Both hosts' configuration and what they are on.
struct Bench {
    network: Network,
    client: Machine,
    host: Host,
    /// Whom the group keeps BFD sessions with.
    _peer: Option<Host>,
    to: IpAddr,
}

/// The group with a failure of a kind, `times`.
fn group(
    kind: &Kind,
    v6: bool,
    times: usize,
    dir: &Path,
    report: &mut Report,
    stop: &AtomicBool,
    gaps: &mut Gaps,
) -> Result<(), LabError> {
    let bench = Bench::start(kind.watch, v6, dir, report, stop)?;
    for _ in 0..times {
        interrupted(stop)?;
        bench.once(kind, gaps, stop)?;
        gaps.detect_ms = gaps.detect_ms.max(bench.detection_ms());
    }
    bench.host.stop();
    Ok(())
}

/// Test address, as a link-local one in IPv6.
fn test(n: u16, v6: bool) -> Cidr {
    let local = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, n));
    let (address, prefix) = if v6 { (local, PREFIX6) } else { (IpAddr::V4(v4(n)), PREFIX4) };
    Cidr::new(address, prefix).expect("the lab's prefixes fit their families")
}

/// A failover group, as `Watch` has it.
fn spec(watch: Watch, v6: bool, members: &[(&str, u16)], peers: &[u16]) -> GroupSpec {
    let names: Vec<String> = members.iter().map(|(name, _)| (*name).to_owned()).collect();
    let tested = matches!(watch, Watch::Icmp | Watch::Bfd);
    let tests = names.iter().zip(members).map(|(name, (_, n))| (name.clone(), test(*n, v6)));
    let target = match (v6, watch) {
        (true, Watch::Arp) => IpAddr::V6(super::topology::v6(CLIENT)),
        _ => test(CLIENT, v6).addr,
    };
    let probe = match watch {
        Watch::Link => ProbeMode::Link,
        Watch::Icmp | Watch::Bfd => ProbeMode::Icmp,
        Watch::Arp => ProbeMode::Arp,
    };
    let peers = peers.iter().map(|n| test(*n, v6).addr).collect();
    let config = GroupConfig {
        members: names.clone(),
        probe,
        detect: Duration::from_millis(100),
        targets: if watch == Watch::Link { vec![] } else { vec![target] },
        test: if tested { tests.collect() } else { vec![] },
        fast: (watch == Watch::Bfd).then(|| FastConfig { peers, ..FastConfig::default() }),
        // These are failures on purpose, many in a minute.
        flaps_max: u8::MAX,
        ..GroupConfig::default()
    };
    GroupSpec { name: String::from("fail0"), config }
}

fn config(dir: &Path, group: GroupSpec, vserver: (&str, u16)) -> HostConfig {
    let mut config = plan::host(dir.join(format!("{}.sock", vserver.0)));
    for at in 0..group.config.members.len() {
        config.nics.push(plan::physical(&format!("eth{at}"), nic(at), Driver::AfXdp));
    }
    let alias = plan::alias("data0", 0);
    config.aliases.push(weft_vserver::config::Alias { over: group.name.clone(), ..alias });
    config.failover.push(group);
    config.vservers.push(plan::numbered(vserver.0, 0, vserver.1));
    config
}

impl Bench {
    fn start(
        watch: Watch,
        v6: bool,
        dir: &Path,
        report: &mut Report,
        stop: &AtomicBool,
    ) -> Result<Bench, LabError> {
        let (home, client) = (Machine::new("weft")?, Machine::new("client")?);
        let network = Network::new(true)?;
        network.cables(&home)?;
        network.cable(&client, WAN, "port2", 0)?;
        client.number(WAN, CLIENT)?;
        let local = test(CLIENT, true).addr;
        client.netlink(|netlink| netlink.add_address(WAN, local, PREFIX6))?;
        let peer = if watch == Watch::Bfd {
            let machine = Machine::new("peer")?;
            network.cable(&machine, nic(0), "port3", 1)?;
            let group = spec(watch, v6, &[("eth0", PEER)], &TESTS);
            let config = config(dir, group, ("peer", PEER + 100));
            Some(machine.netns.enter(|| Host::start(config))??)
        } else {
            None
        };
        let members = [("eth0", TESTS[0]), ("eth1", TESTS[1])];
        let config = config(dir, spec(watch, v6, &members, &[PEER]), ("alpha", ALPHA));
        let begin = Instant::now();
        let host = home.netns.enter(|| Host::start(config))??;
        wait_for_addresses(&host, report, begin, stop)?;
        let to = if v6 { super::topology::v6(ALPHA).into() } else { v4(ALPHA).into() };
        let bench = Bench { network, client, host, _peer: peer, to };
        bench.until(GroupHealth::Ok, stop)?;
        if watch == Watch::Bfd {
            bench.sessions(stop)?;
        }
        Ok(bench)
    }

    /// Waits until the group is in a state, and its probers have an opinion.
    fn until(&self, state: GroupHealth, stop: &AtomicBool) -> Result<(), LabError> {
        let known = |paths: &weft_interface::paths::PathsReport| {
            paths.groups.iter().all(|g| g.state == state)
                && paths.interfaces.iter().all(|i| i.state != MemberHealth::Unknown)
        };
        self.wait("the group", stop, || known(&self.host.paths()))
    }

    /// Waits until members hear each other's BFD.
    fn sessions(&self, stop: &AtomicBool) -> Result<(), LabError> {
        let mut up = 0;
        let mut after = Some(0);
        self.wait("BFD sessions", stop, || {
            let (_, page) = self.host.events(after);
            after = Some(page.next);
            up += page.items.iter().filter(|e| is_session_up(&e.what)).count();
            up >= TESTS.len()
        })
    }

    fn wait(
        &self,
        what: &str,
        stop: &AtomicBool,
        mut done: impl FnMut() -> bool,
    ) -> Result<(), LabError> {
        let begin = Instant::now();
        while !done() {
            interrupted(stop)?;
            if begin.elapsed() > PATIENCE {
                let paths = self.host.paths();
                let paths = format!("{what}: {:?} {:?}", paths.groups, paths.interfaces);
                return Err(LabError::io(paths)(std::io::ErrorKind::TimedOut.into()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// In which the group notices a silent failure, as it is now; 0: nothing is probed.
    fn detection_ms(&self) -> u64 {
        self.host.paths().groups.iter().filter_map(|g| g.detection_ms).max().unwrap_or(0)
    }

    /// The cable that the client's packets come by.
    fn inbound(&self) -> usize {
        let paths = self.host.paths();
        let path = paths.addresses.iter().find(|a| a.address == self.to);
        usize::from(path.and_then(|a| a.inbound.as_deref()) == Some("eth1"))
    }

    /// One failure and its repair, with traffic.
    fn once(&self, kind: &Kind, gaps: &mut Gaps, stop: &AtomicBool) -> Result<(), LabError> {
        let ended = AtomicBool::new(false);
        let alpha = self.host.vserver("alpha").expect("the lab's own vserver");
        let listener = TcpListener::bind(&alpha, SocketAddr::new(self.to, PORT))
            .map_err(LabError::io("listen"))?;
        let client = &self.client.netns;
        std::thread::scope(|scope| {
            let pings = scope.spawn(|| client.enter(|| traffic::pings(self.to, &ended)));
            let to = SocketAddr::new(self.to, PORT);
            let connect = || {
                let stream = std::net::TcpStream::connect_timeout(&to, PATIENCE)?;
                stream.set_read_timeout(Some(traffic::PATIENCE)).map(|()| stream)
            };
            let connected = client.enter(connect).map_err(LabError::from);
            let opened = connected.and_then(|stream| {
                let stream = stream.map_err(LabError::io("connect"))?;
                let (served, _) = listener.accept().map_err(LabError::io("accept"))?;
                Ok((stream, served))
            });
            let (stream, served) = opened.inspect_err(|_| ended.store(true, Ordering::Release))?;
            let produced = scope.spawn(|| traffic::produce(served, &ended, traffic::PATIENCE));
            let consumed = scope.spawn(move || traffic::consume(&stream));
            let told = self.break_and_mend(kind, stop);
            ended.store(true, Ordering::Release);
            // The stream ends with its host, whatever is broken.
            let told = told.inspect_err(|_| self.host.stop())?;
            let sent = join(produced)?.map_err(LabError::io("send the stream"))?;
            let (got, times) = join(consumed)?.map_err(LabError::io("receive the stream"))?;
            let pings = join(pings)??.map_err(LabError::io("ping"))?;
            gaps.add(&told, &pings, &times, &got);
            gaps.compare(&sent, &got);
            Ok(())
        })
    }

    /// Breaks the path and mends it; when each happened.
    fn break_and_mend(&self, kind: &Kind, stop: &AtomicBool) -> Result<Told, LabError> {
        let begin = Instant::now();
        pause(CALM, stop)?;
        let cable = self.inbound();
        let (_, page) = self.host.events(None);
        let broken = Instant::now();
        self.network.fail(kind.fault, cable)?;
        let done = Instant::now();
        self.wait("the group to fail over", stop, || self.inbound() != cable)?;
        let (now_us, events) = self.host.events(Some(page.next));
        let now = Instant::now();
        let to = self.to;
        let mine = |what: &What| matches!(what, What::Moved { address, .. } if *address == to);
        let moved = events.items.iter().find(|e| mine(&e.what));
        let ago = moved.map_or(0, |e| now_us.saturating_sub(e.at_us));
        let moved = now.checked_sub(Duration::from_micros(ago)).unwrap_or(now);
        pause(EFFECT, stop)?;
        let mended = Instant::now();
        self.network.mend(kind.fault, cable)?;
        self.until(GroupHealth::Ok, stop)?;
        pause(CALM, stop)?;
        Ok(Told { begin, broken, done, moved, mended, end: Instant::now() })
    }
}

/// A notice of a prober.
fn is_session_up(what: &What) -> bool {
    matches!(what, What::Notice { text, .. } if text.contains("is Up"))
}

/// When what happened.
struct Told {
    begin: Instant,
    broken: Instant,
    /// The switch said that it is done.
    done: Instant,
    moved: Instant,
    mended: Instant,
    end: Instant,
}

impl Gaps {
    fn add(&mut self, told: &Told, pings: &Pings, times: &[Instant], got: &Sum) {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let answers = pings.times();
        let effect = (told.broken, told.broken + EFFECT);
        // The first moments are those of the connection.
        let calm = (told.begin + CALM / 3, told.broken);
        // What came after the fault is none of the calm.
        let before = |times: &[Instant]| {
            let times = &times[..times.partition_point(|at| *at <= calm.1)];
            ms(traffic::gap(times, calm.0, calm.1))
        };
        let back = (told.mended, told.end);
        self.ping.push(ms(traffic::gap(&answers, effect.0, effect.1)));
        self.bulk.push(ms(traffic::gap(times, effect.0, effect.1)));
        self.calm_ping.push(before(&answers));
        self.calm_bulk.push(before(times));
        self.back_ping.push(ms(traffic::gap(&answers, back.0, back.1)));
        self.back_bulk.push(ms(traffic::gap(times, back.0, back.1)));
        self.moved.push(ms(told.moved.saturating_duration_since(told.done.min(told.moved))));
        self.lost += pings.lost(told.begin, told.mended);
        self.back_lost += pings.lost(told.mended, told.end);
        self.bytes += got.bytes;
    }

    fn sums(&self) -> String {
        format!("{} bytes in {} streams, SHA-256 compared", self.bytes, self.bulk.len())
    }

    /// Both ends of a stream tell what they sent and got.
    fn compare(&mut self, sent: &Sum, got: &Sum) {
        self.differ += usize::from(sent != got);
    }
}
