//! A long path with loss between two namespaces, in real time: each has a TAP, and a thread of this
//! process is the wire, with the simulator's faults.

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
use weft_sim::{LinkSpec, Relay};
use weft_stack::frame::Frame;
use weft_stack::time::Instant;

/// What the path is, for names of scenes.
pub(crate) const PATH: &str = "100 Mbit/s, 20 ms, 1 % loss";

const RATE: u64 = 100_000_000;
const ONE_WAY: Duration = Duration::from_millis(10);
const LOSS: f64 = 0.01;
/// The volume of the path.
const QUEUE_BYTES: usize = 250_000;
/// Frames moved between two looks at the clock.
const BURST: usize = 64;
/// How soon a wire that has nothing to do sees that it is to end.
const IDLE: Duration = Duration::from_millis(20);

/// The wire; gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Wire {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Makes `device` in both namespaces and joins the two.
    pub(crate) fn between(
        ends: [&Netns; 2],
        device: &str,
        mtu: usize,
    ) -> Result<Wire, DeviceError> {
        let [a, b] = ends.map(|netns| port(netns, device, mtu));
        let ports = [a?, b?];
        let spec = LinkSpec {
            latency: ONE_WAY,
            loss: LOSS,
            rate: Some(RATE),
            queue_bytes: QUEUE_BYTES,
            ..LinkSpec::default()
        };
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        // the seed differs from run to run: the spread is that of the losses too
        let relay = Relay::new([spec; 2], u64::from(std::process::id()) ^ unix_ns());
        let thread = thread::Builder::new()
            .name(String::from("wire"))
            // a device that failed carries nothing more, which the sides see
            .spawn(move || drop(carry(ports, relay, &asked)))
            .map_err(|e| DeviceError::new("start", "thread of a wire", e))?;
        Ok(Wire { stop, thread: Some(thread) })
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

fn unix_ns() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| d.as_nanos() as u64)
}

fn port(netns: &Netns, device: &str, mtu: usize) -> Result<TunTap, DeviceError> {
    let config = TunTapConfig {
        pool_frames: 1024,
        vnet: false,
        mtu: Some(mtu),
        ..TunTapConfig::new(device, Medium::Ethernet)
    };
    let mut ports = netns.enter(|| TunTap::open(&config))??;
    ports
        .pop()
        .ok_or_else(|| DeviceError::new("open", device, io::Error::from(io::ErrorKind::NotFound)))
}

fn carry(mut ends: [TunTap; 2], mut relay: Relay, stop: &AtomicBool) -> io::Result<()> {
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
    Ok(())
}

/// Until a frame comes, or for `time`.
fn wait(ends: &[TunTap; 2], time: Duration) -> io::Result<()> {
    let fds = ends.iter().filter_map(Device::fd);
    let mut fds: Vec<PollFd<'_>> =
        fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    let time = Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) };
    match poll(&mut fds, Some(&time)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
