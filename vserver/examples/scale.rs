//! What a second worker brings: two vservers of one host exchange data over flows that the hash
//! spreads, with 1 worker and with 2, each round in turn; and what a hand-over costs. Over the memory
//! driver, no privilege needed.
//!
//! `cargo run --release -p weft-vserver --example scale [ROUNDS]`

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use weft_vserver::app::{Cx, Service, SocketId};
use weft_vserver::{Devices, Host, config};

const FLOWS: usize = 16;
const TIME: Duration = Duration::from_secs(2);
const CHUNK: usize = 64 << 10;

type Error = Box<dyn std::error::Error>;

/// Takes bytes and counts them.
struct Sink(Arc<AtomicU64>);

impl Service for Sink {
    fn start(&mut self, cx: &mut Cx<'_>) {
        let _ = cx.listen(SocketAddr::new([0; 4].into(), 80), 1024);
    }
    fn readable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        let mut sum = 0;
        while let Ok(bytes) = cx.recv_bytes(id, usize::MAX) {
            if bytes.is_empty() {
                cx.close(id);
                break;
            }
            sum += bytes.len() as u64;
        }
        self.0.fetch_add(sum, Ordering::Relaxed);
    }
}

/// Sends as much as goes.
struct Source {
    flows: usize,
    to: SocketAddr,
    data: Bytes,
}

impl Service for Source {
    fn start(&mut self, cx: &mut Cx<'_>) {
        for _ in 0..self.flows {
            let _ = cx.connect(None, self.to);
        }
    }
    fn connected(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        self.writable(cx, id);
    }
    fn writable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        loop {
            let mut data = self.data.clone();
            let Ok(n) = cx.send_bytes(id, &mut data) else { return };
            if n < CHUNK {
                return cx.want_write(id);
            }
        }
    }
}

fn text(vservers: &[(&str, u8)], mac: u8, workers: usize, queues: usize) -> String {
    let mut text = format!(
        "[workers]\ncount = {workers}\nframes = 16384\n\
         [nic.eth0]\ndevice = \"m\"\ndriver = \"mem\"\nqueues = {queues}\nmac = \"02:00:00:00:00:0{mac}\"\n\
         [alias.data0]\nover = \"eth0\"\n"
    );
    for (name, n) in vservers {
        // Writing to a String cannot fail.
        let _ = write!(text, "[vserver.{name}]\naddresses = [\"data0 10.0.0.{n}/24\"]\n");
    }
    text
}

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// GB/s, and CPU nanoseconds per KiB.
fn measure(server: &Host, client: &Host, workers: usize) -> Result<(f64, f64), Error> {
    let received = Arc::new(AtomicU64::new(0));
    let sink = |_| Sink(Arc::clone(&received));
    let _sink = server.run_service(&server.vserver("b").ok_or("no b")?, sink)?;
    let source = |_| Source {
        flows: FLOWS / workers,
        to: SocketAddr::new([10, 0, 0, 2].into(), 80),
        data: Bytes::from(vec![7; CHUNK]),
    };
    let _source = client.run_service(&client.vserver("a").ok_or("no a")?, source)?;
    std::thread::sleep(Duration::from_millis(300));
    let (before, spent, began) = (received.load(Ordering::Relaxed), cpu(), Instant::now());
    std::thread::sleep(TIME);
    let bytes = (received.load(Ordering::Relaxed) - before) as f64;
    let (time, spent) = (began.elapsed(), cpu().saturating_sub(spent));
    Ok((bytes / time.as_secs_f64() / 1e9, spent.as_nanos() as f64 / (bytes / 1024.0)))
}

fn parse(text: &str) -> Result<config::HostConfig, Error> {
    Ok(config::parse(text, Path::new("scale.toml"))?)
}

/// Both vservers on one host.
fn within(workers: usize) -> Result<(f64, f64), Error> {
    let text = text(&[("a", 1), ("b", 2)], 1, workers, workers);
    let host = Host::start(parse(&text)?)?;
    measure(&host, &host, workers)
}

/// One on each of two hosts; with one queue between them, half of the frames are handed over.
fn between(workers: usize, queues: usize) -> Result<(f64, f64), Error> {
    let server = Host::start(parse(&text(&[("b", 2)], 1, workers, queues))?)?;
    let far = server.take_mem_peers("eth0").ok_or("no far end")?;
    let devices = Devices::from([("eth0".to_owned(), far)]);
    let config = parse(&text(&[("a", 1)], 2, workers, queues))?;
    let client = Host::start_with_devices(config, devices)?;
    measure(&server, &client, workers)
}

fn main() -> Result<(), Error> {
    let rounds = std::env::args().nth(1).map_or(Ok(5), |n| n.parse::<usize>())?;
    let mut all: [Vec<(f64, f64)>; 5] = Default::default();
    for _ in 0..rounds {
        for (i, result) in [within(1)?, within(2)?, between(1, 1)?, between(2, 2)?, between(2, 1)?]
            .into_iter()
            .enumerate()
        {
            all[i].push(result);
        }
    }
    let names = [
        "one host, 1 worker",
        "one host, 2 workers",
        "two hosts, 1 worker each",
        "two hosts, 2 workers and queues each",
        "two hosts, 2 workers each, 1 queue",
    ];
    for (name, results) in names.iter().zip(&mut all) {
        let median = |mut v: Vec<f64>| {
            v.sort_by(f64::total_cmp);
            (v[v.len() / 2], v[0], v[v.len() - 1])
        };
        let (rate, low, high) = median(results.iter().map(|r| r.0).collect());
        let (cost, ..) = median(results.iter().map(|r| r.1).collect());
        println!("{name:38} {rate:6.2} GB/s ({low:.2} to {high:.2}), {cost:6.0} ns of CPU per KiB");
    }
    Ok(())
}
