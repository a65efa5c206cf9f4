//! Kernel TCP through a plain relay between two TUN or TAP interfaces in namespaces of their own: the
//! limit of the device, which `docs/drivers.md` compares with. Needs root.
//!
//! `cargo run --release -p weft-drivers --example relay -- [tun|tap] [raw|device] [SECONDS] [REPEATS]`
//!
//! `raw` is one `read` and one `write` per unit, straight between the descriptors; `device` goes
//! through weft's drivers. Two threads carry the frames, one per direction.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weft_drivers::device::{Device, Medium};
use weft_drivers::netlink::Netlink;
use weft_drivers::netns::Netns;
use weft_drivers::tuntap::{TunTap, TunTapConfig};

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const BURST: usize = 64;
/// How long the relay sleeps before it looks whether it should end.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

fn side(medium: Medium, addr: Ipv4Addr) -> (Netns, TunTap) {
    let ns = Netns::new().unwrap();
    let device = ns
        .enter(|| {
            let device = TunTap::open(&TunTapConfig::new("weft0", medium)).unwrap().remove(0);
            let mut netlink = Netlink::open().unwrap();
            netlink.add_address("weft0", addr.into(), 24).unwrap();
            device
        })
        .unwrap();
    (ns, device)
}

fn wait(fd: BorrowedFd<'_>) {
    let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&TICK));
}

fn relay_raw(from: &OwnedFd, to: &OwnedFd, stop: &AtomicBool, units: &AtomicU64) {
    let mut buffer = vec![0; 1 << 17];
    while !stop.load(Ordering::Relaxed) {
        let Ok(n) = rustix::io::read(from, &mut buffer) else {
            wait(from.as_fd());
            continue;
        };
        units.fetch_add(1, Ordering::Relaxed);
        while rustix::io::write(to, &buffer[..n]) == Err(rustix::io::Errno::AGAIN) {
            thread::yield_now();
        }
    }
}

/// One driver object per thread and direction: a second descriptor is not needed, a clone of it is.
fn relay_device(from: &mut TunTap, to: &mut TunTap, stop: &AtomicBool, units: &AtomicU64) {
    let (mut burst, mut queue) = (Vec::new(), VecDeque::new());
    while !stop.load(Ordering::Relaxed) {
        let mut moved = false;
        for forward in [true, false] {
            let (rx, tx) = if forward { (&mut *from, &mut *to) } else { (&mut *to, &mut *from) };
            let n = rx.receive(&mut burst, BURST).unwrap();
            moved |= n > 0;
            units.fetch_add(n as u64, Ordering::Relaxed);
            queue.extend(burst.drain(..));
            while !queue.is_empty() {
                tx.transmit(&mut queue).unwrap();
                tx.flush().unwrap();
            }
        }
        if !moved {
            let (a, b) = (from.fd().unwrap(), to.fd().unwrap());
            let mut fds = [PollFd::new(&a, PollFlags::IN), PollFd::new(&b, PollFlags::IN)];
            let _ = poll(&mut fds, Some(&TICK));
        }
    }
}

/// Gbit/s that a kernel client gets to a kernel server.
fn bulk(client: &Netns, server: &Netns, time: Duration) -> f64 {
    let listener = server.enter(|| TcpListener::bind((SERVER, 80)).unwrap()).unwrap();
    let sink = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 1 << 18];
        let (mut bytes, start) = (0, Instant::now());
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            bytes += n;
        }
        bytes as f64 * 8e-9 / start.elapsed().as_secs_f64()
    });
    let mut stream = client.enter(|| TcpStream::connect((SERVER, 80)).unwrap()).unwrap();
    rustix::net::sockopt::set_tcp_congestion(&stream, "cubic").unwrap();
    let data = vec![7; 1 << 18];
    let start = Instant::now();
    while start.elapsed() < time {
        stream.write_all(&data).unwrap();
    }
    drop(stream);
    sink.join().unwrap()
}

fn run(medium: Medium, raw: bool, time: Duration) -> (f64, f64) {
    let (client, mut a) = side(medium, CLIENT);
    let (server, mut b) = side(medium, SERVER);
    let (stop, units) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    thread::scope(|scope| {
        let mut threads = Vec::new();
        let (stop, units) = (&*stop, &*units);
        if raw {
            let fd = |d: &TunTap| Arc::new(d.fd().unwrap().try_clone_to_owned().unwrap());
            let (a, b) = (fd(&a), fd(&b));
            let (a2, b2) = (Arc::clone(&a), Arc::clone(&b));
            threads.push(scope.spawn(move || relay_raw(&a, &b, stop, units)));
            threads.push(scope.spawn(move || relay_raw(&b2, &a2, stop, units)));
        } else {
            threads.push(scope.spawn(|| relay_device(&mut a, &mut b, stop, units)));
        }
        let gbit_s = bulk(&client, &server, time);
        stop.store(true, Ordering::Relaxed);
        let bytes = gbit_s * 1e9 / 8.0 * time.as_secs_f64();
        for thread in threads {
            thread.join().unwrap();
        }
        (gbit_s, bytes / units.load(Ordering::Relaxed) as f64)
    })
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |i: usize, default: &str| args.get(i).cloned().unwrap_or_else(|| default.into());
    let medium = if arg(0, "tun") == "tun" { Medium::Ip } else { Medium::Ethernet };
    let raw = arg(1, "raw") == "raw";
    let time = Duration::from_secs_f64(arg(2, "2").parse().unwrap());
    for _ in 0..arg(3, "3").parse().unwrap() {
        let (gbit_s, unit) = run(medium, raw, time);
        println!(
            "{} {}: {gbit_s:.1} Gbit/s, {unit:.0} bytes per read",
            arg(0, "tun"),
            arg(1, "raw")
        );
    }
}
