//! Bulk TCP between the kernel and a service of weft over TUN or TAP, in a namespace of its own: the
//! figures of `docs/drivers.md`. Needs root.
//!
//! `cargo run --release -p weft-vserver --example tun_bulk -- [tun|tap] [in|out|rr] [SECONDS] [REPEATS] [POLL]`
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use weft_drivers::netlink::Netlink;
use weft_drivers::netns::Netns;
use weft_vserver::app::{Cx, Service, SocketId};
use weft_vserver::{Host, config};

const KERNEL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const OURS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

/// Reads on port 80; sends on port 81, or to the kernel's port 80, as long as there is room.
struct Bulk {
    received: Arc<AtomicU64>,
    data: Bytes,
}

impl Bulk {
    fn send(&self, cx: &mut Cx<'_>, id: SocketId) {
        loop {
            let mut data = self.data.clone();
            if cx.send_bytes(id, &mut data).is_err() || !data.is_empty() {
                return;
            }
        }
    }
}

impl Service for Bulk {
    fn start(&mut self, cx: &mut Cx<'_>) {
        cx.listen((OURS, 80).into(), 8).unwrap();
        cx.listen((OURS, 81).into(), 8).unwrap();
        cx.listen((OURS, 82).into(), 8).unwrap();
    }
    fn accepted(&mut self, cx: &mut Cx<'_>, conn: SocketId, _: std::net::SocketAddr) {
        if cx.addrs(conn).is_some_and(|(ours, _)| ours.port() == 81) {
            self.send(cx, conn);
        }
    }
    fn writable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        self.send(cx, id);
    }
    fn readable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        loop {
            match cx.recv_bytes(id, usize::MAX) {
                Ok(data) if data.is_empty() => return cx.close(id),
                Ok(mut data) if cx.addrs(id).is_some_and(|(ours, _)| ours.port() == 82) => {
                    let _ = cx.send_bytes(id, &mut data);
                }
                Ok(data) => {
                    self.received.fetch_add(data.len() as u64, Ordering::Relaxed);
                }
                Err(_) => return,
            }
        }
    }
}

fn bulk_in(ns: &Netns, received: &AtomicU64, time: Duration) -> f64 {
    let before = received.load(Ordering::Relaxed);
    let mut stream = ns.enter(|| TcpStream::connect((OURS, 80)).unwrap()).unwrap();
    rustix::net::sockopt::set_tcp_congestion(&stream, "cubic").unwrap();
    let data = vec![7; 1 << 18];
    let start = Instant::now();
    while start.elapsed() < time {
        stream.write_all(&data).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    // The service closes when it has read all.
    stream.read_to_end(&mut Vec::new()).unwrap();
    let bytes = received.load(Ordering::Relaxed) - before;
    bytes as f64 * 8e-9 / start.elapsed().as_secs_f64()
}

fn bulk_out(ns: &Netns, time: Duration) -> f64 {
    let mut stream = ns.enter(|| TcpStream::connect((OURS, 81)).unwrap()).unwrap();
    let mut buffer = vec![0; 1 << 18];
    let (mut bytes, start) = (0, Instant::now());
    while start.elapsed() < time {
        bytes += stream.read(&mut buffer).unwrap();
    }
    bytes as f64 * 8e-9 / start.elapsed().as_secs_f64()
}

/// Of one byte; the service on port 82 echoes. The kernel's side spins.
fn round_trips(ns: &Netns, time: Duration) -> f64 {
    let mut stream = ns.enter(|| TcpStream::connect((OURS, 82)).unwrap()).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_nonblocking(true).unwrap();
    let (mut count, start) = (0, Instant::now());
    while start.elapsed() < time {
        stream.write_all(b"x").unwrap();
        while stream.read(&mut [0]).is_err() {}
        count += 1;
    }
    f64::from(count) / 1e3 / start.elapsed().as_secs_f64()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |i: usize, default: &str| args.get(i).cloned().unwrap_or_else(|| default.into());
    let (driver, direction) = (arg(0, "tun"), arg(1, "in"));
    let time = Duration::from_secs_f64(arg(2, "2").parse().unwrap());
    let poll = arg(4, "adaptive");
    let ns = Netns::new().unwrap();
    let text = format!(
        "nic.eth0 = {{ driver = \"{driver}\", device = \"weft0\", poll = \"{poll}\" }}\n\
         alias.data0 = {{ over = \"eth0\" }}\n\
         vserver.one = {{ addresses = [\"data0 {OURS}/24\"] }}\n"
    );
    let host = ns
        .enter(|| {
            let config =
                config::parse(&text, Path::new("bench.toml")).unwrap_or_else(|e| panic!("{e}"));
            let host = Host::start(config).unwrap();
            Netlink::open().unwrap().add_address("weft0", KERNEL.into(), 24).unwrap();
            host
        })
        .unwrap();
    let vserver = host.vserver("one").unwrap();
    let received = Arc::new(AtomicU64::new(0));
    let data = Bytes::from(vec![7; 1 << 18]);
    let make = |_| Bulk { received: Arc::clone(&received), data: data.clone() };
    let _service = host.run_service(&vserver, make).unwrap();
    for _ in 0..arg(3, "3").parse().unwrap() {
        let (figure, unit) = match direction.as_str() {
            "in" => (bulk_in(&ns, &received, time), "Gbit/s"),
            "out" => (bulk_out(&ns, time), "Gbit/s"),
            _ => (round_trips(&ns, time), "thousand round trips per second"),
        };
        println!("{driver} {direction} {poll}: {figure:.1} {unit}");
    }
    if std::env::var("STATS").is_ok() {
        print!("{}", host.runtime(false).workers[0].render(false));
        let s = host.snapshot();
        println!("{:#?}", s.nics[0].counters);
        let shown = |n: &u64| *n > 0;
        let counters: Vec<_> = s.vservers[0].counters.iter().filter(|c| shown(c.1)).collect();
        println!("{counters:?} {:?}", s.vservers[0].drops);
    }
    thread::sleep(Duration::from_millis(10));
}
