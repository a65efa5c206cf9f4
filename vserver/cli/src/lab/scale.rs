//! The scale scenario: many vservers on one NIC, what they cost to start, to keep and per packet.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use weft_drivers::netns::Netns;
use weft_vserver::Host;
use weft_vserver::config::{HostConfig, ServiceKind};

use super::plan;
use super::report::Report;
use super::scenario::{interrupted, start_host, wait_for_addresses};
use super::topology::{CLIENT, Cabling, Machine, Topology, WAN, nic, v4, v6};
use super::{Args, Carrier, LabError};

/// Host number of the first vserver.
const FIRST: u16 = 1000;
/// Requests of one cost run.
const REQUESTS: usize = 100_000;
/// Requests that wait for their answer at one time.
const WINDOW: usize = 32;
const ECHO_PORT: u16 = 7;

/// Runs it with `n` vservers.
pub(super) fn run(
    args: &Args,
    n: u16,
    dir: &Path,
    report: &mut Report,
    stop: &AtomicBool,
) -> Result<(), LabError> {
    let cabled = matches!(args.driver, Carrier::AfXdp | Carrier::Packet);
    if args.driver == Carrier::Mem {
        report.condition("skipped", "the scale scenario needs a kernel client");
        return Ok(());
    }
    let cabling = Cabling { queues: args.queues, mtu: args.mtu, threaded_napi: args.threaded_napi };
    let lab = if cabled { Topology::cabled(cabling)? } else { Topology::machines()? };
    let config = config(args, n, if cabled { nic(0) } else { WAN }, dir);
    let home = if cabled { &lab.weft } else { &lab.client };

    let rss_before = rss_kib();
    let begin = Instant::now();
    let (host, services) = home.netns.enter(|| start_host(config))??;
    let started = begin.elapsed();
    if !cabled {
        lab.client.number(WAN, CLIENT)?;
    }
    wait_for_addresses(&host, report, begin, stop)?;
    let rss = rss_kib().saturating_sub(rss_before);
    report.condition("device", host.snapshot().nics[0].mode.clone());
    report.number(
        "start",
        format!("{:.0} ms", started.as_secs_f64() * 1e3),
        &format!("from Host::start to its return and all services listening, {n} vservers"),
    );
    report.number(
        "memory",
        format!("{:.1} KiB per vserver", rss as f64 / f64::from(n)),
        "growth of VmRSS of the process over the start, frame pool included, divided",
    );
    echo_each(&lab.client.netns, n, report, stop)?;
    costs(&lab.client, &host, n, report, stop)?;
    services.stop();
    Ok(())
}

fn config(args: &Args, n: u16, device: &str, dir: &Path) -> HostConfig {
    let mut config = plan::host(dir.join("weft.sock"));
    let mut eth0 = plan::physical("eth0", device, args.driver.driver());
    eth0.queues = args.queues;
    config.nics.push(eth0);
    config.aliases.push(plan::alias("data0", 0));
    for i in 0..n {
        let mut vserver = plan::numbered(&format!("v{i}"), 0, FIRST + i);
        vserver.services = vec![plan::service(ECHO_PORT, ServiceKind::Echo)];
        config.vservers.push(vserver);
    }
    config
}

fn echo_each(
    netns: &Netns,
    n: u16,
    report: &mut Report,
    stop: &AtomicBool,
) -> Result<(), LabError> {
    for family in ["IPv4", "IPv6"] {
        let mut answered = 0;
        for i in FIRST..FIRST + n {
            interrupted(stop)?;
            let address = if family == "IPv4" { IpAddr::V4(v4(i)) } else { IpAddr::V6(v6(i)) };
            let to = SocketAddr::new(address, ECHO_PORT);
            let came = super::client::udp_echo(netns, to, &i.to_be_bytes());
            answered += u16::from(came.map_err(LabError::io(format!("UDP echo to {to}")))?);
        }
        let seen = format!("{answered} of {n} answered");
        report.check(format!("every vserver echoes over {family}"), answered == n, seen);
    }
    Ok(())
}

/// Cost per frame with one vserver busy and with all, in turn.
fn costs(
    client: &Machine,
    host: &Host,
    n: u16,
    report: &mut Report,
    stop: &AtomicBool,
) -> Result<(), LabError> {
    if let Some(mac) = host.snapshot().nics[0].mac.as_deref().and_then(parse_mac) {
        // the kernel's neighbour table holds 1,024 entries that may go stale
        client.netlink(|netlink| {
            (FIRST..FIRST + n).try_for_each(|i| netlink.add_neighbour(WAN, v4(i).into(), mac))
        })?;
    }
    let mut one = Vec::new();
    let mut all = Vec::new();
    for _ in 0..3 {
        for (busy, costs) in [(1, &mut one), (n, &mut all)] {
            interrupted(stop)?;
            let cost = flood(&client.netns, host, busy).map_err(LabError::io("UDP flood"))?;
            costs.push(cost);
        }
    }
    for (busy, mut costs) in [(1, one), (n, all)] {
        costs.sort_by(f64::total_cmp);
        report.number(
            &format!("cost per frame, {busy} of {n} vservers busy"),
            format!("{:.0} ns [{:.0}..{:.0}]", costs[1], costs[0], costs[2]),
            "CPU time of the process without the client's thread, per frame in or out; UDP echo \
             of 64 bytes, 32 in flight; median of 3 [min..max], runs in turn",
        );
    }
    Ok(())
}

/// Nanoseconds of CPU per frame while `busy` vservers answer [`REQUESTS`] echo requests in turn.
fn flood(netns: &Netns, host: &Host, busy: u16) -> io::Result<f64> {
    let socket = netns.enter(|| UdpSocket::bind("0.0.0.0:0")).map_err(io::Error::other)??;
    // a lost datagram must not end the run: its place in the window is given away
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let frames = |host: &Host| {
        let counters = &host.snapshot().nics[0].counters;
        let get = |name: &str| counters.get(name).copied().unwrap_or(0);
        get("DeviceInFrames") + get("DeviceOutFrames")
    };
    let before = frames(host);
    let cpu = (cpu_ns(ClockId::ProcessCPUTime), cpu_ns(ClockId::ThreadCPUTime));
    let mut in_flight = 0;
    let mut buffer = [0; 128];
    for i in 0..REQUESTS {
        let to = SocketAddr::new(v4(FIRST + (i % busy as usize) as u16).into(), ECHO_PORT);
        socket.send_to(&[0; 64], to)?;
        in_flight += 1;
        if in_flight >= WINDOW {
            let _ = socket.recv(&mut buffer);
            in_flight -= 1;
        }
    }
    while in_flight > 0 && socket.recv(&mut buffer).is_ok() {
        in_flight -= 1;
    }
    let process = cpu_ns(ClockId::ProcessCPUTime) - cpu.0;
    let own = cpu_ns(ClockId::ThreadCPUTime) - cpu.1;
    let crossed = (frames(host) - before).max(1);
    Ok((process - own) as f64 / crossed as f64)
}

fn cpu_ns(clock: ClockId) -> i64 {
    let t = clock_gettime(clock);
    t.tv_sec * 1_000_000_000 + t.tv_nsec
}

fn rss_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    bytes?.try_into().ok()
}
