//! Round trips and bulk rate of both ways to receive of the `packet` driver, against the kernel
//! over a veth pair in namespaces of its own: the figures in `docs/drivers.md`. Needs root.

#![allow(clippy::unwrap_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::Write;
use std::net::{TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use common::{How, OURS, Peer, Tcp, UDP};
use weft_drivers::device::Device;
use weft_drivers::packet::{Packet, PacketConfig, PacketReceive};

const ROUNDS: usize = 2000;
const BULK_BYTES: usize = 64 << 20;

fn main() {
    for receive in [PacketReceive::Messages, PacketReceive::Ring] {
        let config = PacketConfig { receive, ..PacketConfig::new("weft0") };
        common::with_packet(&config, |mut devices| {
            let mut peer = Peer::new(devices.remove(0));
            let times = round_trips(&mut peer, common::kernel_udp());
            let gbit_s = bulk(&mut peer);
            let (p50, p99) = (times[ROUNDS / 2], times[ROUNDS * 99 / 100]);
            println!("{receive:?}: round trip {p50:?} p50 {p99:?} p99, bulk {gbit_s:.1} Gbit/s");
            println!("  {:?}", peer.device.stats());
        });
    }
}

/// Times of 4 bytes there and back, the shortest first.
fn round_trips(peer: &mut Peer<Packet>, socket: UdpSocket) -> Vec<Duration> {
    let echo = thread::spawn(move || {
        let mut buffer = [0; 64];
        for _ in 0..ROUNDS {
            let (n, from) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&buffer[..n], from).unwrap();
        }
    });
    let one = |_| {
        let start = Instant::now();
        peer.send_udp(5000, 7, b"ping", How::default());
        peer.receive(UDP);
        start.elapsed()
    };
    let mut times: Vec<Duration> = (0..ROUNDS).map(one).collect();
    echo.join().unwrap();
    times.sort_unstable();
    times
}

/// Rate at which kernel TCP is received.
fn bulk(peer: &mut Peer<Packet>) -> f64 {
    let client = thread::spawn(|| {
        let mut stream = TcpStream::connect((OURS, 80)).unwrap();
        stream.write_all(&vec![7; BULK_BYTES]).unwrap();
    });
    let mut tcp = Tcp::accept(peer, 80);
    let start = Instant::now();
    tcp.receive(peer, BULK_BYTES);
    let gbit_s = BULK_BYTES as f64 * 8e-9 / start.elapsed().as_secs_f64();
    client.join().unwrap();
    gbit_s
}
