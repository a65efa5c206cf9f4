//! The traffic scenario: what kernel clients see of vservers on a shared NIC.

use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use weft_drivers::netns::Netns;
use weft_vserver::Host;
use weft_vserver::config::HostConfig;
use weft_vserver::net::TcpStream;
use weft_vserver::service::Services;

use super::client::{self, Curl};
use super::plan::{self, Plan, SECOND, SHARED};
use super::report::Report;
use super::tally::{self, Tally};
use super::topology::{BANNER_PORT, Cabling, KERNEL, Topology, WAN, nic, v4, v6};
use super::{Args, Carrier, LabError};

/// A lab with its host.
struct Bench<'a> {
    lab: Topology,
    host: Host,
    services: Services,
    dir: PathBuf,
    /// The NIC is a cable with the kernel's own address on it, gateways and a second NIC.
    cabled: bool,
    carrier: Carrier,
    /// The NIC polls its receive queue rather than taking frames in the sender's system call.
    napi: bool,
    stop: &'a AtomicBool,
}

/// Runs it.
pub(super) fn run(
    args: &Args,
    dir: &Path,
    report: &mut Report,
    stop: &AtomicBool,
) -> Result<(), LabError> {
    let bytes = args.size << 20;
    report.step(&format!("making a file of {} MiB", args.size));
    let sum = plan::make_files(dir, bytes).map_err(LabError::io("write the served files"))?;
    report.step(match args.driver {
        Carrier::AfXdp | Carrier::Packet => {
            "alpha, beta, gamma and the kernel share nic0; delta has alpha's addresses, on nic1"
        }
        _ => "alpha, beta, gamma on wan0, whose other end is the client's kernel",
    });
    let bench = start(args, dir, report, stop)?;
    pings(&bench, report)?;
    transfers(&bench, report, bytes, &sum)?;
    echoes(&bench, report)?;
    if bench.cabled {
        gateways(&bench, report)?;
        same_address(&bench, report)?;
    }
    let end = Tally::settled(&bench.lab, &bench.host)?;
    tally::table(report, &end.host);
    bench.services.stop();
    bench.host.stop();
    if bench.cabled {
        kernel_afterwards(&bench, report)?;
    }
    Ok(())
}

fn start<'a>(
    args: &Args,
    dir: &Path,
    report: &mut Report,
    stop: &'a AtomicBool,
) -> Result<Bench<'a>, LabError> {
    let cabled = matches!(args.driver, Carrier::AfXdp | Carrier::Packet);
    let cabling = Cabling { queues: args.queues, mtu: args.mtu, threaded_napi: args.threaded_napi };
    let lab = if cabled { Topology::cabled(cabling)? } else { Topology::machines()? };
    let devices = if cabled { plan::nics() } else { vec![WAN.to_owned()] };
    let plan = Plan {
        driver: args.driver.driver(),
        devices,
        queues: args.queues,
        mtu: (!cabled).then_some(args.mtu),
        captures: args.keep_captures.clone(),
        dir: dir.to_owned(),
        gateways: cabled,
    };
    let begin = Instant::now();
    // A TAP or TUN device is born in the client, so that the client's kernel is its other end.
    let home = if cabled { &lab.weft } else { &lab.client };
    let (host, services) = home.netns.enter(|| start_host(plan.config()))??;
    if !cabled {
        lab.client.number(WAN, super::topology::CLIENT)?;
    }
    let carrier = args.driver;
    let napi = carrier == Carrier::AfXdp || cabled && args.threaded_napi;
    let bench = Bench { lab, host, services, dir: dir.to_owned(), cabled, carrier, napi, stop };
    conditions(&bench, args, report)?;
    wait_for_addresses(&bench.host, report, begin, stop)?;
    if cabled {
        let own = IpAddr::V4(v4(KERNEL));
        bench.lab.weft.serve_banner(own).map_err(LabError::io("listen on the kernel's address"))?;
    }
    Ok(bench)
}

/// Starts a host and its services in the calling thread's namespace.
pub(super) fn start_host(config: HostConfig) -> Result<(Host, Services), LabError> {
    let host = Host::start(config)?;
    let services = Services::start(&host)?;
    Ok((host, services))
}

fn conditions(bench: &Bench<'_>, args: &Args, report: &mut Report) -> Result<(), LabError> {
    for nic in &bench.host.snapshot().nics {
        let text = format!("{}, {} queues, MTU {}", nic.mode, nic.queues, nic.mtu);
        report.condition(&format!("{} on {}", nic.name, nic.device), text);
    }
    let congestion_control = bench.lab.congestion_control(&args.congestion_control)?;
    let offloads = match (bench.cabled, args.threaded_napi) {
        (true, true) => "client transmit checksum, TSO, GSO off; threaded NAPI",
        (true, false) => "client transmit checksum, TSO, GSO off",
        (false, _) => "those of the device (virtio-net header)",
    };
    report.condition("kernel client", format!("{congestion_control}, {offloads}"));
    Ok(())
}

/// IPv6 addresses are usable only after duplicate address detection.
pub(super) fn wait_for_addresses(
    host: &Host,
    report: &mut Report,
    begin: Instant,
    stop: &AtomicBool,
) -> Result<(), LabError> {
    let wanted: Vec<(usize, usize)> =
        host.config().vservers.iter().map(|v| v.addresses.len()).enumerate().collect();
    let vservers = host.vservers();
    let ready = || wanted.iter().all(|(i, n)| vservers[*i].addresses().len() >= *n);
    while !ready() && begin.elapsed() < Duration::from_secs(10) {
        interrupted(stop)?;
        std::thread::sleep(Duration::from_millis(20));
    }
    let seen = format!("{} vservers after {:.2} s", wanted.len(), begin.elapsed().as_secs_f64());
    report.check("all addresses are in use", ready(), seen);
    Ok(())
}

pub(super) fn interrupted(stop: &AtomicBool) -> Result<(), LabError> {
    if stop.load(Ordering::Relaxed) { Err(LabError::Interrupted) } else { Ok(()) }
}

/// Waits so long, or until a signal.
pub(super) fn pause(time: Duration, stop: &AtomicBool) -> Result<(), LabError> {
    /// How late a signal may be heeded.
    const LOOK: Duration = Duration::from_millis(100);
    let begin = Instant::now();
    loop {
        interrupted(stop)?;
        let left = time.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(LOOK));
    }
}

/// Both addresses of host number `n`.
fn both(n: u16) -> [IpAddr; 2] {
    [IpAddr::V4(v4(n)), IpAddr::V6(v6(n))]
}

fn ping(netns: &Netns, name: &str, to: IpAddr, bytes: usize, report: &mut Report) {
    let what = format!("ping {name} at {to}, {bytes} bytes");
    match client::ping(netns, to, 3, bytes) {
        Ok(pings) => report.check(what, pings.ok(), pings.text()),
        Err(e) => report.check(what, false, e.to_string()),
    }
}

fn pings(bench: &Bench<'_>, report: &mut Report) -> Result<(), LabError> {
    for (name, n) in SHARED {
        for to in both(n) {
            interrupted(bench.stop)?;
            ping(&bench.lab.client.netns, name, to, 56, report);
        }
    }
    for to in both(SHARED[0].1) {
        // goes in fragments and comes back in fragments
        ping(&bench.lab.client.netns, SHARED[0].0, to, 4000, report);
    }
    if bench.cabled {
        ping(&bench.lab.client2.netns, SECOND.0, IpAddr::V4(v4(SECOND.1)), 56, report);
        for to in both(KERNEL) {
            ping(&bench.lab.client.netns, "the kernel", to, 56, report);
        }
    }
    Ok(())
}

/// Download from alpha and upload to beta at the same time, the kernel's own address in between.
fn transfers(
    bench: &Bench<'_>,
    report: &mut Report,
    bytes: u64,
    sum: &str,
) -> Result<(), LabError> {
    let client = &bench.lab.client.netns;
    let (source, got) = (bench.dir.join("alpha/big"), bench.dir.join("got"));
    let download_url = client::url(IpAddr::V4(v4(SHARED[0].1)), "big");
    let upload_url = client::url(IpAddr::V6(v6(SHARED[1].1)), "big");
    report.step("download from alpha over IPv4 and upload to beta over IPv6, at the same time");
    let before = Tally::settled(&bench.lab, &bench.host)?;
    let (down, up, kernel) = std::thread::scope(|scope| {
        let down = scope.spawn(|| client::curl(client, &download_url, &got, None, bench.stop));
        let discard = Path::new("/dev/null");
        let up =
            scope.spawn(|| client::curl(client, &upload_url, discard, Some(&source), bench.stop));
        let kernel = use_kernel_while(bench, || !down.is_finished() || !up.is_finished());
        (join(down), join(up), kernel)
    });
    let after = Tally::settled(&bench.lab, &bench.host)?;
    let down = down.map_err(LabError::io("curl"))?;
    let up = up.map_err(LabError::io("curl"))?;
    if let Some((pings, banners)) = kernel {
        report.check("meanwhile the kernel answers ping on the same NIC", pings.ok(), pings.text());
        let all = banners.0 > 0 && banners.0 == banners.1;
        let seen = format!("{}/{} connections served", banners.1, banners.0);
        report.check("meanwhile the kernel answers TCP on the same NIC", all, seen);
    }
    for (name, curl, file) in [
        ("download from alpha", &down, got.clone()),
        ("upload to beta", &up, bench.dir.join("beta/upload/big")),
    ] {
        check_transfer(report, name, curl, &file, bytes, sum);
    }
    let [(down_tcp, up_tcp), (down_seen, up_seen)] = [
        (
            tally::grown(&before, &after, "alpha", "TcpOutOctets"),
            tally::grown(&before, &after, "beta", "TcpInOctets"),
        ),
        (down.tcp_in(), up.tcp_out()),
    ];
    let seen = |weft: u64, curl: u64| format!("weft {weft} bytes, curl {curl} bytes");
    report.check(
        "alpha sent over TCP what curl received",
        down_tcp == down_seen,
        seen(down_tcp, down_seen),
    );
    report.check("beta received over TCP what curl sent", up_tcp == up_seen, seen(up_tcp, up_seen));
    tally::compare(report, &before, &after, bench.carrier, bench.napi);
    let _ = fs::remove_file(got);
    Ok(())
}

fn join<T>(thread: std::thread::ScopedJoinHandle<'_, io::Result<T>>) -> io::Result<T> {
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the client's thread panicked")))
}

fn check_transfer(
    report: &mut Report,
    name: &str,
    curl: &Curl,
    file: &Path,
    bytes: u64,
    sum: &str,
) {
    let got = plan::sha256(file).unwrap_or_else(|e| format!("{}: {e}", file.display()));
    let seen = if curl.ok() && got == sum {
        format!("{bytes} bytes, SHA-256 {}…", &sum[..16])
    } else {
        let why = curl.error.as_deref().unwrap_or("no error");
        format!("status {}, curl exit {} ({why}), SHA-256 {got}", curl.status, curl.exit)
    };
    report.check(format!("{name}, equal checksum"), curl.ok() && got == sum, seen);
    report.transfer(name, bytes, Duration::from_secs_f64(curl.seconds));
}

/// Pings of the kernel's own address, and its TCP service: (tried, served).
type KernelSeen = (client::Pings, (usize, usize));

fn use_kernel_while(bench: &Bench<'_>, going: impl Fn() -> bool) -> Option<KernelSeen> {
    let mut pings = client::Pings { best: Duration::MAX, ..client::Pings::default() };
    let mut banners = (0, 0);
    while going() {
        if bench.cabled {
            let client = &bench.lab.client.netns;
            let own = IpAddr::V4(v4(KERNEL));
            if let Ok(p) = client::ping(client, own, 1, 56) {
                pings.sent += p.sent;
                pings.answered += p.answered;
                pings.best = pings.best.min(p.best);
            }
            let text = client::banner(client, SocketAddr::new(own, BANNER_PORT));
            banners.0 += 1;
            banners.1 += usize::from(text.is_ok_and(|t| t == "weft"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bench.cabled.then_some((pings, banners))
}

fn echoes(bench: &Bench<'_>, report: &mut Report) -> Result<(), LabError> {
    let client = &bench.lab.client.netns;
    let data: Vec<u8> = (0..1200u16).map(|i| i as u8).collect();
    for to in both(SHARED[2].1) {
        interrupted(bench.stop)?;
        let came = client::udp_echo(client, SocketAddr::new(to, 7), &data)
            .map_err(LabError::io("UDP echo"))?;
        report.check(format!("gamma echoes UDP at {to}"), came, format!("{} bytes", data.len()));
    }
    Ok(())
}

/// Two vservers connect to one destination address; their own routes decide who answers.
fn gateways(bench: &Bench<'_>, report: &mut Report) -> Result<(), LabError> {
    let to = SocketAddr::new(plan::far(), BANNER_PORT);
    for ((name, _), gateway) in SHARED.iter().zip(&bench.lab.gateways) {
        interrupted(bench.stop)?;
        let vserver = bench.host.vserver(name).expect("the lab's own vserver");
        let answer = TcpStream::connect_timeout(&vserver, to, client::PATIENCE).and_then(|s| {
            let mut text = String::new();
            (&s).read_to_string(&mut text).map(|_| text)
        });
        let ok = answer.as_ref().is_ok_and(|t| t == gateway.name);
        let seen = match answer {
            Ok(text) => format!("{to} is {text}"),
            Err(e) => format!("{to}: {e}"),
        };
        report.check(format!("{name} reaches {} by its own route", gateway.name), ok, seen);
    }
    Ok(())
}

/// alpha and delta have the same address, on different aliases.
fn same_address(bench: &Bench<'_>, report: &mut Report) -> Result<(), LabError> {
    let got = bench.dir.join("name");
    for (machine, wanted) in [(&bench.lab.client, SHARED[0]), (&bench.lab.client2, SECOND)] {
        for to in both(wanted.1) {
            interrupted(bench.stop)?;
            let url = client::url(to, "name");
            let curl = client::curl(&machine.netns, &url, &got, None, bench.stop)
                .map_err(LabError::io("curl"))?;
            let name = fs::read_to_string(&got).unwrap_or_default();
            let ok = curl.ok() && name == wanted.0;
            let seen = format!("answered by {name:?}, status {}", curl.status);
            report.check(format!("{to} seen from {} is {}", machine.name, wanted.0), ok, seen);
        }
    }
    Ok(())
}

/// Once weft is gone the NIC is the kernel's alone, and works.
fn kernel_afterwards(bench: &Bench<'_>, report: &mut Report) -> Result<(), LabError> {
    for to in both(KERNEL) {
        ping(&bench.lab.client.netns, "the kernel after weft stopped", to, 56, report);
    }
    let to = SocketAddr::new(IpAddr::V4(v4(KERNEL)), BANNER_PORT);
    let text = client::banner(&bench.lab.client.netns, to);
    let ok = text.as_ref().is_ok_and(|t| t == "weft");
    report.check(
        "TCP to the kernel after weft stopped",
        ok,
        text.unwrap_or_else(|e| e.to_string()),
    );
    let up = bench.lab.weft.netlink(|n| n.link(nic(0)))?.up;
    report.check("the NIC is still up", up, nic(0));
    Ok(())
}
