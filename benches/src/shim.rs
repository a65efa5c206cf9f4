//! `weft-bench shim`: what the multipath shim costs two hosts, from socket to socket: off, on
//! without rewriting, rewriting, in UDP. All four pairs of hosts stand side by side in one process
//! and take turns, so that other load hits them alike; ratios are those of one round.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use weft_drivers::ethtool::{Offload, set_offload};
use weft_drivers::netlink::{Netlink, VethEnd};
use weft_drivers::netns::Netns;
use weft_vserver::net::{TcpListener, TcpStream};
use weft_vserver::{Devices, Host, ShimWish, Vserver, config};

use crate::cpu;
use crate::stats::Spread;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
const PORT: u16 = 7;
const CHUNK: usize = 64 << 10;
/// The first byte of a connection says what it is for.
const ECHO: u8 = b'e';

/// What is measured.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    /// How often each takes its turn
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// How long a turn is
    #[arg(long, value_name = "MS", default_value_t = 200)]
    milliseconds: u64,
    /// Hosts joined by memory instead of AF_XDP on veth pairs
    #[arg(long)]
    memory: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Off,
    Plain,
    Rewritten,
    Udp,
}

const WAYS: [Way; 4] = [Way::Off, Way::Plain, Way::Rewritten, Way::Udp];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Off => "off",
            Way::Plain => "on, not rewriting",
            Way::Rewritten => "rewriting",
            Way::Udp => "rewriting, in UDP",
        }
    }
}

/// What a turn gave: CPU is that of both hosts and of the sockets' threads.
const COLUMNS: [&str; 4] = ["1 B round trip, p50", "CPU", "bulk", "CPU"];

pub(crate) fn run(args: &Args) -> Result<bool, crate::Error> {
    let directory = tempfile::tempdir()?;
    let key = directory.path().join("peers.key");
    let mut file = std::fs::OpenOptions::new();
    file.create(true).write(true).mode(0o600).open(&key)?.write_all(b"a secret of two hosts\n")?;
    let mut pairs = Vec::new();
    for way in WAYS {
        pairs.push(Pair::new(way, &key, args.memory)?);
    }
    let turn = Duration::from_millis(args.milliseconds);
    let mut results = vec![Vec::new(); WAYS.len()];
    for round in 0..=args.rounds {
        for (pair, results) in pairs.iter_mut().zip(&mut results) {
            let of_round = pair.turn(turn)?;
            // The first one warms up.
            if round > 0 {
                results.push(of_round);
            }
        }
    }
    print(&results);
    Ok(true)
}

fn print(results: &[Vec<[f64; 4]>]) {
    println!("| shim | {} |", COLUMNS.map(|c| format!("{c} | of off")).join(" | "));
    println!("|---|{}", "---:|---:|".repeat(COLUMNS.len()));
    for (way, of_way) in WAYS.iter().zip(results) {
        let mut line = format!("| {} |", way.name());
        for column in 0..COLUMNS.len() {
            let own = Spread::of(of_way.iter().map(|r| r[column])).unwrap_or_default();
            let ratios = of_way.iter().zip(&results[0]).map(|(r, off)| r[column] / off[column]);
            let ratio = Spread::of(ratios).unwrap_or_default().median;
            let text = match column {
                0 => format!("{:.1} us", own.median * 1e6),
                1 => format!("{:.1} us", own.median * 1e6),
                2 => format!("{:.2} Gbit/s", own.median / 1e9),
                _ => format!("{:.0} ns/KiB", own.median * 1e9),
            };
            let _ = write!(line, " {text} | {ratio:.3} |");
        }
        println!("{line}");
    }
}

/// Two hosts with two networks between them, and a connection of each kind.
struct Pair {
    trips: TcpStream,
    bulk: TcpStream,
    sunk: Arc<AtomicU64>,
    _hosts: [Host; 2],
    _spaces: Vec<Netns>,
}

impl Pair {
    fn new(way: Way, key: &Path, memory: bool) -> Result<Pair, crate::Error> {
        let (server, client, spaces) =
            if memory { over_memory(way, key)? } else { over_veth(way, key)? };
        let [s, c] = [&server, &client].map(|h| h.vserver("v").ok_or("no vserver"));
        let (s, c) = (s?, c?);
        until("addresses", || {
            [(&s, 1), (&c, 2)]
                .iter()
                .all(|(v, n)| ["a", "b"].iter().all(|net| v.addresses().contains(&ip(net, *n))))
        })?;
        let sunk = Arc::new(AtomicU64::new(0));
        serve(&s, &sunk)?;
        let open = |kind: u8| -> io::Result<TcpStream> {
            let to = SocketAddr::new(ip("a", 1), PORT);
            let stream = TcpStream::connect_timeout(&c, to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            (&stream).write_all(&[kind])?;
            Ok(stream)
        };
        let (trips, bulk) = (open(ECHO)?, open(b's')?);
        if way != Way::Off {
            settle(way, &server, &client)?;
        }
        Ok(Pair { trips, bulk, sunk, _hosts: [server, client], _spaces: spaces })
    }

    /// Round trips, then bulk.
    fn turn(&mut self, time: Duration) -> io::Result<[f64; 4]> {
        let mut trips = Vec::new();
        let (begin, before) = (Instant::now(), cpu()?);
        while begin.elapsed() < time {
            let sent = Instant::now();
            (&self.trips).write_all(&[1])?;
            (&self.trips).read_exact(&mut [0])?;
            trips.push(sent.elapsed().as_secs_f64());
        }
        let trip_cpu = (cpu()? - before) / trips.len() as f64;
        let p50 = Spread::of(trips).unwrap_or_default().median;
        let chunk = vec![0x5a; CHUNK];
        let (begin, before) = (Instant::now(), cpu()?);
        let start = self.sunk.load(Ordering::Relaxed);
        let mut written = 0;
        while begin.elapsed() < time {
            (&self.bulk).write_all(&chunk)?;
            written += chunk.len() as u64;
        }
        let end = Instant::now() + PATIENCE;
        while self.sunk.load(Ordering::Relaxed) < start + written && Instant::now() < end {
            std::thread::sleep(Duration::from_micros(100));
        }
        let took = begin.elapsed().as_secs_f64();
        let bulk_cpu = (cpu()? - before) / (written as f64 / 1024.0);
        Ok([p50, trip_cpu, written as f64 * 8.0 / took, bulk_cpu])
    }
}

fn cpu() -> io::Result<f64> {
    let own = cpu::own()?;
    Ok(own.user + own.system)
}

fn ip(network: &str, host: u8) -> IpAddr {
    let last = if network == "a" { 0xa } else { 0xb };
    IpAddr::from([0x2001, 0xdb8, last, 0, 0, 0, 0, u16::from(host)])
}

fn until(what: &str, mut done: impl FnMut() -> bool) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > end {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no {what}")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Echoes, or counts what comes.
fn serve(vserver: &Vserver, sunk: &Arc<AtomicU64>) -> io::Result<()> {
    let listener = TcpListener::bind(vserver, SocketAddr::new(ip("a", 1), PORT))?;
    let sunk = Arc::clone(sunk);
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let sunk = Arc::clone(&sunk);
            std::thread::spawn(move || attend(&stream, &sunk));
        }
    });
    Ok(())
}

fn attend(stream: &TcpStream, sunk: &AtomicU64) {
    let (mut from, mut to) = (stream, stream);
    let mut kind = [0];
    if from.read_exact(&mut kind).is_err() {
        return;
    }
    let mut buffer = vec![0; CHUNK];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if kind == [ECHO] {
            if to.write_all(&buffer[..n]).is_err() {
                return;
            }
        } else {
            sunk.fetch_add(n as u64, Ordering::Relaxed);
        }
    }
}

/// A context is there, and packets of both hosts go the way that is measured.
fn settle(way: Way, server: &Host, client: &Host) -> Result<(), crate::Error> {
    let context = |host: &Host| {
        let contexts = host.shims(None).map(|r| r.contexts).unwrap_or_default();
        contexts.into_iter().find(|c| c.state == "established")
    };
    until("context", || [server, client].iter().all(|h| context(h).is_some()))?;
    let moves = way != Way::Plain;
    for (host, n) in [(server, 1), (client, 2)] {
        if moves {
            let switch = Some((ip("b", n), ip("b", 3 - n)));
            let vserver = String::from("v");
            host.shim_wish(&ShimWish { vserver, peer: ip("a", 3 - n), local: None, switch })?;
        }
    }
    let fits = |h: &&Host| context(h).is_some_and(|c| c.rewritten == moves);
    until("way", || [server, client].iter().all(fits))?;
    Ok(())
}

fn text(way: Way, n: u8, nic: impl Fn(u8) -> String, key: &Path) -> String {
    // Writing to a string cannot fail.
    let mut text = String::from("[workers]\nframes = 8192\n");
    for i in 0..2 {
        text += &nic(i);
        let _ = write!(text, "poll = \"interrupt\"\n[alias.data{i}]\nover = \"eth{i}\"\n");
    }
    let _ = write!(
        text,
        "[vserver.v]\naddresses = [\"data0 {}/64\", \"data1 {}/64\"]\n",
        ip("a", n),
        ip("b", n)
    );
    if way != Way::Off {
        let key = key.display();
        let _ = write!(
            text,
            "[vserver.v.shim]\nset_up = \"immediate\"\nkeys = [\"2001:db8::/32 {key}\"]\n"
        );
    }
    if way == Way::Udp {
        text += "udp_port = 4140\nudp_for = \"all\"\n";
    }
    text
}

type Joined = (Host, Host, Vec<Netns>);

fn parse(text: &str) -> Result<config::HostConfig, crate::Error> {
    Ok(config::parse(text, "bench.toml".as_ref())?)
}

fn over_memory(way: Way, key: &Path) -> Result<Joined, crate::Error> {
    let nic = |n: u8| {
        move |i: u8| {
            format!(
                "[nic.eth{i}]\ndevice = \"m{i}\"\ndriver = \"mem\"\nmac = \"02:00:00:00:0{n}:0{i}\"\n"
            )
        }
    };
    let server = Host::start(parse(&text(way, 1, nic(1), key))?)?;
    let mut devices = Devices::new();
    for i in 0..2 {
        let name = format!("eth{i}");
        let peer = server.take_mem_peer(&name).ok_or("no far end")?;
        devices.insert(name, vec![peer]);
    }
    let client = Host::start_with_devices(parse(&text(way, 2, nic(2), key))?, devices)?;
    Ok((server, client, Vec::new()))
}

fn over_veth(way: Way, key: &Path) -> Result<Joined, crate::Error> {
    let (a, b) = (Netns::new()?, Netns::new()?);
    for i in 0..2 {
        let name = format!("w{i}");
        a.enter(|| -> Result<(), crate::Error> {
            let near = VethEnd { name: &name, netns: None, mac: Some([2, 0, 0, 0, 1, i]) };
            let far =
                VethEnd { name: &name, netns: Some(b.as_fd()), mac: Some([2, 0, 0, 0, 2, i]) };
            let mut netlink = Netlink::open()?;
            netlink.add_veth(&near, &far, 1, 1500)?;
            netlink.set_up(&name, true)?;
            // A veth never completes the checksums that the kernel leaves to it.
            set_offload(&name, Offload::TxChecksum, false)?;
            Ok(())
        })??;
        b.enter(|| Netlink::open().and_then(|mut n| n.set_up(&name, true)))??;
    }
    let nic = |i: u8| format!("[nic.eth{i}]\ndevice = \"w{i}\"\ndriver = \"af-xdp\"\n");
    let start = |space: &Netns, n: u8| -> Result<Host, crate::Error> {
        let config = parse(&text(way, n, nic, key))?;
        Ok(space.enter(|| Host::start(config))??)
    };
    let (server, client) = (start(&a, 1)?, start(&b, 2)?);
    Ok((server, client, vec![a, b]))
}
