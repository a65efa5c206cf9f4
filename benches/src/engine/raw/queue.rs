//! Bare AF_XDP rings: a source, a sink, and frames sent back.

use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weft_drivers::afxdp::{AfXdpOptions, BareQueue, UmemPool, XdpMode, XdpProgram};
use weft_drivers::device::Steer;

use super::frame;
use crate::meter::Meter;
use crate::side::Control;
use crate::spec::{Role, Side, Workload};

/// Frames given to the kernel at a time.
const BATCH: usize = 64;
const FRAMES: u32 = 8192;
/// Largest frame of the link that one UMEM frame of 2048 bytes takes.
const SMALL_FRAME_BYTES: usize = 1792;
/// A frame that did not come back by then is lost.
const LOST: Duration = Duration::from_millis(20);
/// Frames vanish until the link is up and the other end listens.
const FIRST: Duration = Duration::from_secs(5);
/// IPv4 header, TCP header with timestamps.
const IP_TCP_BYTES: usize = 52;
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

fn open(side: &Side, control: &Control) -> io::Result<BareQueue> {
    let frame_bytes = if side.mtu + 14 > SMALL_FRAME_BYTES { 4096 } else { 2048 };
    let program = XdpProgram::attach(&side.device, XdpMode::Auto).map_err(io::Error::other)?;
    program.steer(Steer::Add(side.local)).map_err(io::Error::other)?;
    let umem = UmemPool::new(FRAMES, frame_bytes, false).map_err(io::Error::other)?;
    let options = AfXdpOptions { fill_frames: UmemPool::RING_ENTRIES, ..AfXdpOptions::default() };
    let mut queue = BareQueue::open(&program, 0, &umem, options).map_err(io::Error::other)?;
    queue.prepare(&frame::to_peer(side));
    let mode = if program.generic() { "af-xdp generic" } else { "af-xdp native copy" };
    control.fact("mode", format!("{mode}, bare rings"));
    Ok(queue)
}

fn wait(side: &Side, queue: &BareQueue) -> io::Result<()> {
    if side.busy() {
        return Ok(());
    }
    match poll(&mut [PollFd::from_borrowed_fd(queue.fd(), PollFlags::IN)], Some(&WAIT)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Sends, counts what comes, or both at once: the rate of frames that bulk is measured against.
pub(super) fn flow(side: &Side, control: &Control) -> io::Result<()> {
    let mut queue = open(side, control)?;
    let (sends, receives) = directions(side);
    let payload = payload_bytes(side);
    let mut clock = Clock::start(side, control);
    let mut bytes = 0;
    while !clock.over(control) {
        let (mut sent, mut received) = (0, 0);
        if sends {
            sent = queue.send(BATCH)?;
            control.work().add_sent(sent * payload);
        }
        if receives {
            received = queue.receive(|first| bytes += first.len());
            control.work().add_received(received * payload);
            clock.count(received, control);
        }
        if sent + received == 0 {
            wait(side, &queue)?;
        }
    }
    std::hint::black_box(bytes);
    Ok(())
}

/// Whether this side sends, and whether it receives; frames alone go from the client to the server.
fn directions(side: &Side) -> (bool, bool) {
    match side.workload {
        Workload::Frames => (side.role == Role::Client, side.role == Role::Server),
        _ => (side.sends(), side.receives()),
    }
}

/// What a frame counts for: itself, or the TCP payload that a segment of its size has.
fn payload_bytes(side: &Side) -> usize {
    match side.workload {
        Workload::Frames => side.bytes,
        _ => side.mtu - IP_TCP_BYTES,
    }
}

/// A client's meter, or a server's readiness.
struct Clock(Option<Meter>);

impl Clock {
    fn start(side: &Side, control: &Control) -> Clock {
        if side.role == Role::Client {
            return Clock(Some(Meter::start(side, control)));
        }
        control.ready();
        Clock(None)
    }

    fn over(&mut self, control: &Control) -> bool {
        self.0.as_mut().map_or_else(|| control.stopped(), |meter| !meter.tick(Instant::now()))
    }

    /// A client's operations are its meter's: frames are the server's operations.
    fn count(&self, frames: usize, control: &Control) {
        if self.0.is_none() {
            control.work().add_operations(frames as u64);
        }
    }
}

/// Sends everything back.
pub(super) fn bounce(side: &Side, control: &Control) -> io::Result<()> {
    let mut queue = open(side, control)?;
    control.ready();
    while !control.stopped() {
        let n = queue.bounce(frame::turn)?;
        if n == 0 {
            wait(side, &queue)?;
        } else {
            control.work().add_operations(n as u64);
        }
    }
    Ok(())
}

/// One frame there and back, again and again.
pub(super) fn ping_pong(side: &Side, control: &Control) -> io::Result<()> {
    let mut queue = open(side, control)?;
    first(&mut queue, side)?;
    let mut meter = Meter::start(side, control);
    let mut lost = 0.0;
    loop {
        let began = Instant::now();
        queue.send(1)?;
        while queue.receive(|_| ()) == 0 {
            if began.elapsed() > LOST {
                lost += 1.0;
                break;
            }
            wait(side, &queue)?;
        }
        if !meter.operation(began, Instant::now()) {
            break;
        }
    }
    control.number("lost", lost);
    Ok(())
}

/// Keeps a window of frames in flight.
pub(super) fn window(side: &Side, control: &Control) -> io::Result<()> {
    let mut queue = open(side, control)?;
    first(&mut queue, side)?;
    let mut meter = Meter::start(side, control);
    let (mut in_flight, mut lost) = (0, 0);
    let mut last = Instant::now();
    loop {
        in_flight += queue.send(side.connections.saturating_sub(in_flight))?;
        let n = queue.receive(|_| ());
        let now = Instant::now();
        for _ in 0..n {
            meter.operation(last, now);
        }
        in_flight = in_flight.saturating_sub(n);
        if n > 0 {
            last = now;
        } else if now - last > LOST {
            lost += in_flight;
            (in_flight, last) = (0, now);
        } else {
            wait(side, &queue)?;
        }
        if meter.over() || !meter.tick(now) {
            break;
        }
    }
    control.number("lost", lost as f64);
    Ok(())
}

/// Returns when frames come back.
fn first(queue: &mut BareQueue, side: &Side) -> io::Result<()> {
    let began = Instant::now();
    while began.elapsed() < FIRST {
        queue.send(1)?;
        let sent = Instant::now();
        while sent.elapsed() < LOST {
            if queue.receive(|_| ()) > 0 {
                return Ok(());
            }
            wait(side, queue)?;
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}
