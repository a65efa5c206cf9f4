//! A link with faults between two machines, in real time: the simulator's faults, seeded, on frames
//! of two TAP devices. Each machine sees an ordinary Ethernet interface; this process is the wire.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weft_drivers::device::{Device, DeviceError, Medium};
use weft_drivers::netns::Netns;
use weft_drivers::tuntap::{TunTap, TunTapConfig};
use weft_sim::LinkStats;
use weft_stack::frame::Frame;
use weft_stack::time::Instant;

/// Largest MTU of a TAP: the largest IP packet less what the kernel keeps for the Ethernet header.
pub const MTU_MAX: usize = 65_521;

/// Frames moved between two looks at the clock.
const BURST: usize = 64;

/// How soon a relay that has nothing to do sees that it is to end.
const IDLE: Duration = Duration::from_millis(20);

/// Makes an interface in `netns` whose other end is here, for [`Wire::start`]. The kernel gives
/// frames no longer than `mtu`, with complete checksums.
pub fn port(netns: &Netns, interface: &str, mtu: usize) -> Result<TunTap, DeviceError> {
    let config = TunTapConfig {
        pool_frames: 1024,
        vnet: false,
        mtu: Some(mtu),
        ..TunTapConfig::new(interface, Medium::Ethernet)
    };
    let mut ports = netns.enter(|| TunTap::open(&config))??;
    ports.pop().ok_or_else(|| {
        let e = io::Error::from(io::ErrorKind::NotFound);
        DeviceError::new("open", interface, e)
    })
}

/// A relay at work; it stops when it is dropped.
#[derive(Debug)]
pub struct Wire {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<[LinkStats; 2]>>>,
}

impl Wire {
    /// Starts to carry frames between ends 0 and 1.
    pub fn start(ends: [Box<dyn Device>; 2], relay: weft_sim::Relay) -> io::Result<Wire> {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name(String::from("relay"))
            .spawn(move || carry(ends, relay, &asked))?;
        Ok(Wire { stop, thread: Some(thread) })
    }

    /// Ends it; what it did to the frames from end 0 and from end 1. Frames under way are lost.
    pub fn stop(mut self) -> io::Result<[LinkStats; 2]> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().map(JoinHandle::join);
        match thread {
            Some(Ok(stats)) => stats,
            _ => Err(io::Error::other("the relay panicked")),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn carry(
    mut ends: [Box<dyn Device>; 2],
    mut relay: weft_sim::Relay,
    stop: &AtomicBool,
) -> io::Result<[LinkStats; 2]> {
    let origin = std::time::Instant::now();
    let mut received = Vec::with_capacity(BURST);
    let mut data = Vec::new();
    let mut leaving = [VecDeque::new(), VecDeque::new()];
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::ZERO + origin.elapsed();
        let mut idle = true;
        for (from, end) in ends.iter_mut().enumerate() {
            end.receive(&mut received, BURST)?;
            for frame in received.drain(..) {
                data.resize(frame.total_len(), 0);
                frame.copy_to(&mut data);
                relay.push(now, from, &data);
                idle = false;
            }
        }
        while let Some((to, data)) = relay.pop(now) {
            leaving[to].push_back(Frame::from_heap(0, &data));
        }
        for (end, frames) in ends.iter_mut().zip(&mut leaving) {
            if !frames.is_empty() {
                end.transmit(frames)?;
                end.flush()?;
            }
        }
        if idle {
            let due = relay.next().map_or(IDLE, |at| at - now);
            wait(&ends, due.min(IDLE))?;
        }
    }
    Ok(relay.stats())
}

/// Until a frame comes, or for `time`.
fn wait(ends: &[Box<dyn Device>; 2], time: Duration) -> io::Result<()> {
    let mut fds: Vec<PollFd<'_>> = ends
        .iter()
        .filter_map(Device::fd)
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    let time = Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) };
    match poll(&mut fds, Some(&time)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
