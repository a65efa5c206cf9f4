//! What the AF_XDP device costs beyond bare rings: frames per second one way, round trips of one
//! frame, and frames bounced, by the device and by the rings, over a veth pair in namespaces of
//! its own. As root: `cargo run --release -p weft-drivers --example afxdp_limits`.
//!
//! Every figure is the median of the given number of runs (default 3), which alternate between the
//! two contestants. Arguments: `[runs] [filter]`.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weft_drivers::afxdp::{AfXdp, AfXdpOptions, BareQueue, Gather, UmemPool, XdpMode, XdpProgram};
use weft_drivers::device::{Device, Steer};
use weft_drivers::netlink::{Netlink, VethEnd};
use weft_drivers::netns::Netns;
use weft_stack::frame::{Checksum, Frame, FrameDomain, Gso, HEADROOM_BYTES};

const RUN: Duration = Duration::from_millis(700);
const BATCH: usize = 64;
const FILL: u32 = 1024;
/// Frames under way; they fit the receiver's slots, three of which a frame may take.
const WINDOW: usize = 256;

/// What both contestants can do.
trait Contestant: Send {
    /// Whether its descriptor is waited for.
    fn watch(&mut self, on: bool);
    /// Sleeps until frames come.
    fn wait(&mut self) {
        self.watch(true);
        wait(self.fd());
        self.watch(false);
    }
    fn fd(&self) -> BorrowedFd<'_>;
    /// Frames that were sent; the content is prepared.
    fn send(&mut self, n: usize) -> usize;
    fn receive(&mut self) -> usize;
    fn bounce(&mut self) -> usize;
    fn kicks(&self) -> u64;
    fn copied(&self) -> u64;
}

struct Bare(BareQueue);

impl Contestant for Bare {
    fn watch(&mut self, _on: bool) {}
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }
    fn send(&mut self, n: usize) -> usize {
        self.0.send(n).unwrap()
    }
    fn receive(&mut self) -> usize {
        self.0.receive(|bytes| assert_eq!(bytes[12], 8))
    }
    fn bounce(&mut self) -> usize {
        self.0.bounce(turn).unwrap()
    }
    fn kicks(&self) -> u64 {
        self.0.kicks()
    }
    fn copied(&self) -> u64 {
        0
    }
}

/// The device, used as a worker does: inside the domain of its pool.
struct Weft {
    device: AfXdp,
    domain: FrameDomain,
    headers: Vec<u8>,
    len: usize,
    /// Payload of super-segments, and their segment size.
    payload: Option<(Vec<Bytes>, u16)>,
    burst: Vec<Frame>,
    queue: VecDeque<Frame>,
}

impl Weft {
    fn new(device: AfXdp, frame: &[u8]) -> Weft {
        let mut domain = FrameDomain::new();
        domain.adopt(device.pool());
        let headers = frame[..42].to_vec();
        let (burst, queue) = (Vec::new(), VecDeque::new());
        Weft { device, domain, headers, len: frame.len(), payload: None, burst, queue }
    }

    /// Sends super-segments of 60,000 bytes from now on, their payload in the UMEM or elsewhere.
    fn send_super_segments(&mut self, in_umem: bool) {
        let pool = self.device.pool();
        let each = pool.slot_bytes() - HEADROOM_BYTES;
        let piece = |i: usize| {
            let len = each.min(60_000 - i * each);
            if !in_umem {
                return Bytes::from(vec![7; len]);
            }
            let mut frame = pool.alloc().unwrap();
            frame.push_back(len).fill(7);
            frame.into_bytes()
        };
        let pieces = (0..60_000usize.div_ceil(each)).map(piece).collect();
        self.payload = Some((pieces, (self.len - 42) as u16));
    }

    fn super_segment(&self) -> Option<Frame> {
        let (pieces, size) = self.payload.as_ref()?;
        let mut frame = self.device.pool().alloc()?;
        frame.append(&self.headers);
        frame.frags.extend(pieces.iter().cloned());
        frame.meta.gso = Gso::Udp { size: *size };
        frame.meta.checksum = Checksum::Partial { start: 34, offset: 6 };
        Some(frame)
    }

    /// A frame with headers; of several slots if it is longer than one.
    fn build(&self) -> Option<Frame> {
        let mut frame = self.device.pool().alloc()?;
        let first = self.len.min(frame.tailroom());
        frame.push_back(first)[..self.headers.len()].copy_from_slice(&self.headers);
        let mut left = self.len - first;
        while left > 0 {
            let mut more = self.device.pool().alloc()?;
            more.reset(0);
            let n = left.min(more.tailroom());
            more.push_back(n);
            frame.frags.push(more);
            left -= n;
        }
        Some(frame)
    }
}

impl Contestant for Weft {
    fn watch(&mut self, on: bool) {
        self.device.watch(on).unwrap();
    }
    fn fd(&self) -> BorrowedFd<'_> {
        self.device.fd().unwrap()
    }
    fn send(&mut self, n: usize) -> usize {
        let _inside = self.domain.enter();
        if self.payload.is_some() && self.queue.is_empty() {
            self.queue.extend(self.super_segment());
        }
        while self.payload.is_none() && self.queue.len() < n {
            let Some(frame) = self.build() else { break };
            self.queue.push_back(frame);
        }
        let sent = self.device.transmit(&mut self.queue).unwrap();
        self.device.flush().unwrap();
        if self.payload.is_some() { sent * 60_000usize.div_ceil(self.len - 42) } else { sent }
    }
    fn receive(&mut self) -> usize {
        let _inside = self.domain.enter();
        let n = self.device.receive(&mut self.burst, 256).unwrap();
        for frame in self.burst.drain(..) {
            assert_eq!(frame.data()[12], 8);
        }
        n
    }
    fn bounce(&mut self) -> usize {
        let _inside = self.domain.enter();
        self.device.receive(&mut self.burst, 64).unwrap();
        for mut frame in self.burst.drain(..) {
            turn(frame.data_mut());
            self.queue.push_back(frame);
        }
        if self.queue.is_empty() {
            return 0;
        }
        let n = self.device.transmit(&mut self.queue).unwrap();
        self.device.flush().unwrap();
        n
    }
    fn kicks(&self) -> u64 {
        self.device.stats().kicks
    }
    fn copied(&self) -> u64 {
        self.device.stats().copied_bytes()
    }
}

/// Back to the sender: addresses of both layers change places.
fn turn(frame: &mut [u8]) {
    let (to, from) = frame.split_at_mut(6);
    to.swap_with_slice(&mut from[..6]);
    let (source, destination) = frame[26..34].split_at_mut(4);
    source.swap_with_slice(destination);
}

/// A UDP frame of `len` bytes to the other end.
fn frame(len: usize, from: u8, to: u8) -> Vec<u8> {
    let mut frame = vec![0; len];
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 8, 0]);
    frame[14..24].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17]);
    frame[26..34].copy_from_slice(&[10, 0, 0, from, 10, 0, 0, to]);
    frame
}

/// The two ends, of the same kind.
struct Pair {
    _ns: [Netns; 2],
    ends: [Box<dyn Contestant>; 2],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bare,
    Frames,
    /// Payload in the UMEM.
    Gathered,
    /// Payload elsewhere.
    Copied,
}

fn open(kind: Kind, len: usize) -> Pair {
    let ns = [Netns::new().unwrap(), Netns::new().unwrap()];
    let mac = |i: u8| Some([2, 0, 0, 0, 0, i + 1]);
    ns[0]
        .enter(|| {
            let mut netlink = Netlink::open().unwrap();
            let a = VethEnd { name: "end0", netns: None, mac: mac(0) };
            let b = VethEnd { name: "end1", netns: Some(ns[1].as_fd()), mac: mac(1) };
            netlink.add_veth(&a, &b, 1, (len - 14).max(1500)).unwrap();
            netlink.set_up("end0", true).unwrap();
        })
        .unwrap();
    ns[1].enter(|| Netlink::open().unwrap().set_up("end1", true).unwrap()).unwrap();
    let chunk = if len > 1700 { 4096 } else { 2048 };
    let end = |i: u8| -> Box<dyn Contestant> {
        let name = format!("end{i}");
        let frame = frame(len, i + 1, 2 - i);
        let options =
            AfXdpOptions { fill_frames: FILL, gather: Gather::Always, ..AfXdpOptions::default() };
        ns[usize::from(i)]
            .enter(|| -> Box<dyn Contestant> {
                let umem = UmemPool::new(4096, chunk, false).unwrap();
                let program = XdpProgram::attach(&name, XdpMode::Native).unwrap();
                program.steer(Steer::Add([10, 0, 0, i + 1].into())).unwrap();
                if kind == Kind::Bare {
                    let mut queue = BareQueue::open(&program, 0, &umem, options).unwrap();
                    queue.prepare(&frame);
                    Box::new(Bare(queue))
                } else {
                    let device = AfXdp::open(&program, 0, &umem, options).unwrap();
                    let mut weft = Weft::new(device, &frame);
                    if i == 0 && kind != Kind::Frames {
                        weft.send_super_segments(kind == Kind::Gathered);
                    }
                    Box::new(weft)
                }
            })
            .unwrap()
    };
    let ends = [end(0), end(1)];
    // Until the link is up frames vanish.
    let mut pair = Pair { _ns: ns, ends };
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        pair.ends[0].send(1);
        std::thread::sleep(Duration::from_millis(5));
        if pair.ends[1].receive() > 0 {
            break;
        }
        assert!(Instant::now() < deadline, "nothing came over the link");
    }
    pair
}

fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    // On a machine with one CPU both ends share it.
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

fn wait(fd: BorrowedFd<'_>) {
    let timeout = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap();
}

#[derive(Clone, Copy, Default)]
struct Rate {
    per_second: f64,
    kicks_per_frame: f64,
    copied_per_frame: f64,
    /// Share of the frames sent that arrived.
    arrived: f64,
}

/// Frames per second that arrive.
fn one_way(kind: Kind, len: usize, sleep: bool) -> Rate {
    let mut pair = open(kind, len);
    let [near, far] = &mut pair.ends;
    near.watch(false);
    far.watch(false);
    let stop = AtomicBool::new(false);
    let arrived = AtomicU64::new(0);
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            barrier.wait();
            while !stop.load(Ordering::Relaxed) {
                let n = far.receive();
                if n > 0 {
                    arrived.store(arrived.load(Ordering::Relaxed) + n as u64, Ordering::Relaxed);
                } else if sleep {
                    far.wait();
                }
            }
        });
        let sender = scope.spawn(|| {
            pin(0);
            barrier.wait();
            let warm = Instant::now() + RUN / 5;
            while Instant::now() < warm {
                near.send(BATCH);
            }
            let (start, before) = (Instant::now(), arrived.load(Ordering::Relaxed));
            let (kicks, copied) = (near.kicks(), near.copied());
            let mut sent = 0;
            let mut lost = 0;
            while start.elapsed() < RUN {
                sent += near.send(BATCH);
                // Frames that nobody takes only cost: no more under way than a window has.
                let full = Instant::now();
                while sent > lost + WINDOW + (arrived.load(Ordering::Relaxed) - before) as usize {
                    if full.elapsed() > Duration::from_millis(2) {
                        lost = sent - (arrived.load(Ordering::Relaxed) - before) as usize;
                    }
                    std::hint::spin_loop();
                }
            }
            let seconds = start.elapsed().as_secs_f64();
            let frames = arrived.load(Ordering::Relaxed) - before;
            stop.store(true, Ordering::Relaxed);
            Rate {
                per_second: frames as f64 / seconds,
                kicks_per_frame: (near.kicks() - kicks) as f64 / sent as f64,
                copied_per_frame: (near.copied() - copied) as f64 / sent as f64,
                arrived: frames as f64 / sent as f64,
            }
        });
        sender.join().unwrap()
    })
}

/// Half the frames of a round trip bounce: `window` are on their way. Returns round trips per
/// second and the median time of one in microseconds.
fn round_trips(kind: Kind, len: usize, sleep: bool, window: usize) -> (f64, f64) {
    let mut pair = open(kind, len);
    let [near, far] = &mut pair.ends;
    near.watch(false);
    far.watch(false);
    while far.receive() + near.receive() > 0 {}
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            while !stop.load(Ordering::Relaxed) {
                if far.bounce() == 0 && sleep {
                    far.wait();
                }
            }
        });
        let client = scope.spawn(|| {
            pin(0);
            let mut times = Vec::with_capacity(1 << 20);
            let (mut back, mut out) = (0, 0);
            let start = Instant::now();
            while start.elapsed() < RUN {
                let asked = Instant::now();
                out += near.send(window - out);
                let round = Instant::now();
                while out > 0 {
                    let n = near.receive();
                    back += n;
                    out -= n.min(out);
                    if n > 0 && window > 1 {
                        break;
                    }
                    if round.elapsed() > Duration::from_millis(100) {
                        out = 0;
                    } else if n == 0 && sleep {
                        near.wait();
                    }
                }
                times.push(asked.elapsed().as_secs_f64() * 1e6);
            }
            stop.store(true, Ordering::Relaxed);
            let rate = back as f64 / start.elapsed().as_secs_f64();
            times.sort_by(f64::total_cmp);
            (rate, times[times.len() / 2])
        });
        client.join().unwrap()
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let runs: usize = std::env::args().nth(1).map_or(3, |a| a.parse().unwrap());
    let filter = std::env::args().nth(2).unwrap_or_default();
    let between = |kinds: [Kind; 2], run: &dyn Fn(Kind) -> f64| {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            first.push(run(kinds[0]));
            second.push(run(kinds[1]));
        }
        (median(first), median(second))
    };
    let both = |run: &dyn Fn(Kind) -> f64| between([Kind::Bare, Kind::Frames], run);
    println!("{:28} {:>12} {:>12} {:>7}", "", "bare rings", "device", "ratio");
    let show = |name: String, (bare, weft): (f64, f64), more: String| {
        println!("{name:28} {bare:12.2} {weft:12.2} {:7.3} {more}", weft / bare);
    };
    for sleep in [false, true] {
        let how = if sleep { "poll" } else { "spin" };
        for len in [60, 1514, 3500, 9014] {
            let name = format!("one way {len} B {how}, kpps");
            if !name.contains(&filter) {
                continue;
            }
            let last = std::cell::Cell::new(Rate::default());
            let rates = both(&|kind| {
                let rate = one_way(kind, len, sleep);
                last.set(rate);
                rate.per_second / 1e3
            });
            let Rate { kicks_per_frame, copied_per_frame, arrived, .. } = last.get();
            let more = format!(
                "{kicks_per_frame:.4} kicks, {copied_per_frame:.0} bytes copied a frame, \
                 {:.1} % arrived",
                100.0 * arrived
            );
            show(name, rates, more);
        }
        for (what, window) in [("ping-pong", 1), ("bounce", 64)] {
            for len in [60, 1514] {
                let unit = if window == 1 { "us p50" } else { "kpps" };
                let name = format!("{what} {len} B {how}, {unit}");
                if !name.contains(&filter) {
                    continue;
                }
                let rates = both(&|kind| {
                    let (rate, time) = round_trips(kind, len, sleep, window);
                    if window == 1 { time } else { rate / 1e3 }
                });
                show(name, rates, String::new());
            }
        }
    }
    println!(
        "{:28} {:>12} {:>12} {:>7}",
        "super-segments of 60,000 B", "copied", "gathered", "ratio"
    );
    for len in [1514, 3500, 9014] {
        let name = format!("super {len} B spin, kpps");
        if name.contains(&filter) {
            let run = |kind| one_way(kind, len, false).per_second / 1e3;
            show(name, between([Kind::Copied, Kind::Gathered], &run), String::new());
        }
    }
}
