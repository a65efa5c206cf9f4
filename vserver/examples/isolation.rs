//! What a flood of one virtual server does to another: A answers requests and sends in bulk, quiet and
//! while B gets SYNs, datagrams, echo requests and fragments, holds connections that it never reads,
//! and as many buffers as it may. Over AF_XDP on a veth pair, in namespaces of its own; needs root.
//!
//! `cargo run --release -p weft-vserver --example isolation [FLOOD_PER_SECOND [ROUNDS]]`
//!
//! The flood leaves a CPU that the clients use too. So each round also floods an address that nobody
//! has: what A loses then is the price of the sender, not of the neighbour. A round has all floods, each
//! for a fraction of a second, in turn; what a flood did is told of all rounds together, so that what
//! else the machine does is spread over all floods alike.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use weft_drivers::device::Device;
use weft_drivers::netlink::{Netlink, VethEnd};
use weft_drivers::netns::Netns;
use weft_drivers::packet::{Packet, PacketConfig};
use weft_stack::frame::Frame;
use weft_stack::wire::checksum;
use weft_vserver::app::{Cx, Service, SocketId};
use weft_vserver::{Host, config};

const CHUNK: usize = 64 << 10;
const PHASE: Duration = Duration::from_millis(200);
/// For the flood to begin or end, and for what was under way to be read.
const SETTLE: Duration = Duration::from_millis(20);
const CLIENT_MAC: [u8; 6] = [2, 0x78, 0, 0, 0, 2];
const SERVER_MAC: [u8; 6] = [2, 0x78, 0, 0, 0, 1];
const CONFIG: &str = r#"
[workers]
affinity = [1]
[nic.eth0]
device = "w0"
driver = "af-xdp"
rx_checksum = "trust"
[alias.data0]
over = "eth0"
[vserver.a]
addresses = ["data0 10.78.0.1/16"]
[vserver.b]
addresses = ["data0 10.78.0.2/16"]
routes = [{ to = "default", via = "10.78.0.200" }]
"#;

type Error = Box<dyn std::error::Error>;

/// Port 7 answers, port 9 sends without end.
struct A(Bytes);

impl Service for A {
    fn start(&mut self, cx: &mut Cx<'_>) {
        for port in [7, 9] {
            let _ = cx.listen(SocketAddr::new([0; 4].into(), port), 64);
        }
    }
    fn accepted(&mut self, cx: &mut Cx<'_>, id: SocketId, _: SocketAddr) {
        self.writable(cx, id);
    }
    fn readable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        let mut buf = [0; 256];
        while let Ok(n) = cx.recv(id, &mut buf) {
            if n == 0 {
                return cx.close(id);
            }
            let _ = cx.send(id, &buf[..n]);
        }
    }
    fn writable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        while cx.addrs(id).is_some_and(|(local, _)| local.port() == 9) {
            let mut data = self.0.clone();
            match cx.send_bytes(id, &mut data) {
                Ok(CHUNK) => {}
                Ok(_) => return cx.want_write(id),
                Err(_) => return,
            }
        }
    }
}

/// Accepts and binds, reads nothing, and takes every buffer it gets.
#[derive(Default)]
struct B(Vec<weft_stack::frame::PoolBuf>);

impl Service for B {
    fn start(&mut self, cx: &mut Cx<'_>) {
        let _ = cx.listen(SocketAddr::new([0; 4].into(), 80), 1024);
        let _ = cx.udp_bind(SocketAddr::new([0; 4].into(), 9));
        while let Some(buf) = cx.alloc(1024) {
            self.0.push(buf);
        }
    }
}

/// What floods consist of.
#[derive(Clone, Copy, Debug)]
enum Flood {
    Quiet,
    Nobody,
    Syn,
    Udp,
    Icmp,
    Fragments,
}

const FLOODS: [Flood; 6] =
    [Flood::Quiet, Flood::Nobody, Flood::Syn, Flood::Udp, Flood::Icmp, Flood::Fragments];

/// The `n`-th frame of a flood, from an address of its own.
fn frame(flood: Flood, n: u32) -> Frame {
    let mut f = [&SERVER_MAC[..], &CLIENT_MAC, &[8, 0]].concat();
    let (protocol, mut payload) = match flood {
        Flood::Syn => {
            let mut t = vec![0; 20];
            t[0..2].copy_from_slice(&(n as u16 | 1024).to_be_bytes());
            t[2..4].copy_from_slice(&80_u16.to_be_bytes());
            t[4..8].copy_from_slice(&n.to_be_bytes());
            t[12..16].copy_from_slice(&[0x50, 2, 0xff, 0xff]);
            (6, t)
        }
        Flood::Icmp => (1, [&[8, 0, 0, 0][..], &n.to_be_bytes(), &[0; 56]].concat()),
        _ => (17, [&[16, 0, 0, 9, 1, 8, 0, 0][..], &[0; 256]].concat()),
    };
    if let Flood::Icmp = flood {
        let sum = checksum::finish(checksum::sum(&payload));
        payload[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    let to = if let Flood::Nobody = flood { 3 } else { 2 };
    let (id, more) = if let Flood::Fragments = flood { (n as u16, 0x20) } else { (0, 0x40) };
    let len = (payload.len() + 20) as u16;
    let mut ip =
        vec![0x45, 0, 0, 0, 0, 0, more, 0, 64, protocol, 0, 0, 10, 79, 0, 0, 10, 78, 0, to];
    ip[2..4].copy_from_slice(&len.to_be_bytes());
    ip[4..6].copy_from_slice(&id.to_be_bytes());
    ip[14..16].copy_from_slice(&((n.wrapping_mul(40_503) >> 3) as u16 | 1).to_be_bytes());
    let sum = checksum::finish(checksum::sum(&ip));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    f.extend(ip);
    f.extend(payload);
    Frame::from_heap(0, &f)
}

/// Sends the flood that is chosen, evenly, until the program ends.
fn flood(chosen: &AtomicUsize, sent: &AtomicU64, per_second: u64) -> Result<(), Error> {
    let mut config = PacketConfig::new("c0");
    config.vnet = false;
    let mut device = Packet::open(&config)?.remove(0);
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1000));
    let (mut n, mut due, mut last) = (0_u32, Instant::now(), Instant::now());
    let mut frames = VecDeque::new();
    loop {
        let now = Instant::now();
        let flood = FLOODS[chosen.load(Ordering::Relaxed)];
        if let Flood::Quiet = flood {
            std::thread::sleep(Duration::from_millis(1));
            (due, last) = (Instant::now(), Instant::now());
            continue;
        }
        let missing = (now.duration_since(due).as_secs_f64() * per_second as f64) as u64;
        for _ in 0..missing.min(256) {
            frames.push_back(frame(flood, n));
            n = n.wrapping_add(1);
        }
        due = now;
        sent.fetch_add(device.transmit(&mut frames)? as u64, Ordering::Relaxed);
        device.flush()?;
        frames.clear();
        // What the socket's own filter lets through is not wanted here.
        if now.duration_since(last) > Duration::from_millis(5) {
            let mut got = Vec::new();
            while device.receive(&mut got, 256)? > 0 {
                got.clear();
            }
            last = now;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// Round trips of one phase, nanoseconds.
fn requests(stream: &mut TcpStream, all: &mut Vec<u64>) -> Result<(), Error> {
    let (begin, mut buf) = (Instant::now(), [0; 64]);
    while begin.elapsed() < PHASE {
        let sent = Instant::now();
        stream.write_all(&buf)?;
        stream.read_exact(&mut buf)?;
        all.push(sent.elapsed().as_nanos() as u64);
    }
    Ok(())
}

/// Megabit per second of what A sends in one phase, without what it had sent before.
fn bulk(stream: &mut TcpStream) -> Result<f64, Error> {
    let (mut begin, mut sum, mut buf) = (Instant::now(), 0, vec![0; 1 << 20]);
    while begin.elapsed() < SETTLE {
        // What was under way when the phase began is not counted.
        let _before = stream.read(&mut buf)?;
    }
    begin = Instant::now();
    while begin.elapsed() < PHASE {
        sum += stream.read(&mut buf)?;
    }
    Ok(sum as f64 * 8e-6 / begin.elapsed().as_secs_f64())
}

/// What A's clients saw of one flood.
#[derive(Default)]
struct Seen {
    times: Vec<u64>,
    bulk: Vec<f64>,
    flood: Vec<f64>,
}

impl Seen {
    /// Microseconds that this part of the round trips took at most.
    fn us(&self, part: f64) -> f64 {
        self.times[(self.times.len() as f64 * part) as usize] as f64 / 1e3
    }
}

fn mean(of: &[f64]) -> f64 {
    of.iter().sum::<f64>() / of.len() as f64
}

fn print(seen: &[Seen]) {
    println!(
        "FLOOD      PER-SECOND  REQUESTS  P50-US  P99-US  P999-US  BULK-MBIT/S  | P99/QUIET  BULK/QUIET  | P99/NOBODY  BULK/NOBODY"
    );
    let [quiet, nobody, ..] = seen else { return };
    for (flood, s) in FLOODS.iter().zip(seen) {
        let (p99, rate) = (s.us(0.99), mean(&s.bulk));
        let against = |other: &Seen| (p99 / other.us(0.99), rate / mean(&other.bulk));
        let (name, (q99, qbulk), (n99, nbulk)) =
            (format!("{flood:?}"), against(quiet), against(nobody));
        println!(
            "{name:<9}  {:>10.0}  {:>8}  {:>6.1}  {p99:>6.1}  {:>7.1}  {rate:>11.0}  | {q99:>9.2}  {qbulk:>10.2}  | {n99:>10.2}  {nbulk:>11.2}",
            mean(&s.flood),
            s.times.len(),
            s.us(0.5),
            s.us(0.999),
        );
    }
}

fn measure(per_second: u64, rounds: usize) -> Result<(), Error> {
    let (chosen, sent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
    {
        let (chosen, sent) = (Arc::clone(&chosen), Arc::clone(&sent));
        std::thread::spawn(move || {
            if let Err(e) = flood(&chosen, &sent, per_second) {
                println!("the flood ended: {e}");
            }
        });
    }
    // B holds what these send, and never reads it.
    let mut held = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect("10.78.0.2:80")?;
        stream.set_nonblocking(true)?;
        while stream.write(&vec![0; CHUNK]).is_ok_and(|n| n > 0) {}
        held.push(stream);
    }
    let mut asks = TcpStream::connect("10.78.0.1:7")?;
    asks.set_nodelay(true)?;
    let mut reads = TcpStream::connect("10.78.0.1:9")?;
    let mut seen: Vec<Seen> = FLOODS.iter().map(|_| Seen::default()).collect();
    for _ in 0..rounds {
        for (i, seen) in seen.iter_mut().enumerate() {
            chosen.store(i, Ordering::Relaxed);
            std::thread::sleep(SETTLE);
            let (before, begin) = (sent.load(Ordering::Relaxed), Instant::now());
            requests(&mut asks, &mut seen.times)?;
            seen.bulk.push(bulk(&mut reads)?);
            let flooded = sent.load(Ordering::Relaxed) - before;
            seen.flood.push(flooded as f64 / begin.elapsed().as_secs_f64());
            chosen.store(0, Ordering::Relaxed);
            std::thread::sleep(SETTLE);
        }
    }
    for s in &mut seen {
        s.times.sort_unstable();
    }
    print(&seen);
    Ok(())
}

fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let per_second = args.next().map_or(Ok(20_000), |a| a.parse())?;
    let rounds = args.next().map_or(Ok(20), |a| a.parse())?;
    let (server, client) = (Netns::new()?, Netns::new()?);
    let cable = || -> Result<(), weft_drivers::device::DeviceError> {
        let near = VethEnd { name: "w0", netns: None, mac: Some(SERVER_MAC) };
        let far = VethEnd { name: "c0", netns: Some(client.as_fd()), mac: Some(CLIENT_MAC) };
        let mut netlink = Netlink::open()?;
        netlink.add_veth(&near, &far, 1, 1500)?;
        netlink.set_up("w0", true)
    };
    server.enter(cable)??;
    client.enter(|| -> Result<(), weft_drivers::device::DeviceError> {
        let mut netlink = Netlink::open()?;
        netlink.set_up("c0", true)?;
        netlink.add_address("c0", IpAddr::from([10, 78, 0, 200]), 16)?;
        netlink.add_neighbour("c0", IpAddr::from([10, 78, 0, 1]), SERVER_MAC)?;
        netlink.add_neighbour("c0", IpAddr::from([10, 78, 0, 2]), SERVER_MAC)
    })??;
    let config = config::parse(CONFIG, "isolation.toml".as_ref())?;
    let host = server.enter(|| Host::start(config))??;
    let (a, b) = (host.vserver("a").ok_or("a")?, host.vserver("b").ok_or("b")?);
    let data = Bytes::from(vec![7; CHUNK]);
    let _services =
        [host.run_service(&a, move |_| A(data.clone()))?, host.run_service(&b, |_| B::default())?];
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        pin(0);
        let result = client.join().map_err(Error::from).and_then(|()| measure(per_second, rounds));
        let _ = tell.send(result.map_err(|e| e.to_string()));
    });
    told.recv()??;
    let snapshot = host.snapshot();
    for v in &snapshot.vservers {
        println!("\n{}: lost {:?}", v.name, v.drops);
        let shown = |name: &&String| name.starts_with("Share") || name.contains("Syncookies");
        for name in v.counters.keys().filter(shown) {
            println!("  {name} {}", v.counters[name]);
        }
    }
    println!("\nnobody's: {:?}\n{:?}", snapshot.drops, snapshot.problems);
    Ok(())
}

/// Clients and flood on one CPU, the worker on another.
fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    let _ = rustix::thread::sched_setaffinity(None, &set);
}
