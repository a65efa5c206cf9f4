//! Kernel TCP through the plainest user-space relay: two namespaces, in each a TUN or TAP with the
//! virtio-net header, and two threads that write to one what they read from the other. The whole
//! run is one process.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{CpuSet, sched_setaffinity};
use weft_drivers::device::{DeviceError, Medium};
use weft_drivers::netlink::Netlink;
use weft_drivers::netns::Netns;
use weft_drivers::tuntap;

use crate::meter::Meter;
use crate::place;
use crate::side::Control;
use crate::spec::{Carrier, Side, Workload};

/// A super-segment and the virtio-net header.
const FRAME_BYTES_MAX: usize = (1 << 16) + 64;
const CHUNK: usize = 128 << 10;
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
const PATIENCE: Duration = Duration::from_secs(5);
const PREFIX: u8 = 16;

pub(super) fn run(side: &Side, control: &Control) -> io::Result<()> {
    let medium = if side.carrier == Carrier::Tun { Medium::Ip } else { Medium::Ethernet };
    let (far, far_fd) = far_end(side, medium).map_err(io::Error::other)?;
    let near_fd = tuntap::open_bare(&side.device, medium, true).map_err(io::Error::other)?;
    control.fact("mode", "bare descriptors, vnet, two crossings");
    let stop = AtomicBool::new(false);
    on_any_cpu();
    thread::scope(|scope| {
        let there = scope.spawn(|| carry(side, &near_fd, &far_fd, &stop));
        let back = scope.spawn(|| carry(side, &far_fd, &near_fd, &stop));
        let result = transfer(side, control, &far);
        stop.store(true, Ordering::Relaxed);
        for relay in [there, back] {
            relay.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))?;
        }
        result
    })
}

/// The second namespace, where the server is.
fn far_end(side: &Side, medium: Medium) -> Result<(Netns, OwnedFd), DeviceError> {
    let far = Netns::new()?;
    // refused where only the default is allowed, which then both ends have
    let _ = far.set_sysctl("net/ipv4/tcp_congestion_control", place::CONGESTION);
    let _ = far.set_sysctl("net/ipv6/conf/default/disable_ipv6", "1");
    let fd = far.enter(|| -> Result<OwnedFd, DeviceError> {
        let fd = tuntap::open_bare(&side.device, medium, true)?;
        let mut netlink = Netlink::open()?;
        netlink.set_mtu(&side.device, side.mtu)?;
        netlink.add_address(&side.device, IpAddr::V4(place::SERVER), PREFIX)?;
        netlink.set_up(&side.device, true)?;
        Ok(fd)
    })??;
    Ok((far, fd))
}

/// Frames from one device to the other, as they are.
fn carry(side: &Side, from: &OwnedFd, to: &OwnedFd, stop: &AtomicBool) -> io::Result<()> {
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    while !stop.load(Ordering::Relaxed) {
        match rustix::io::read(from, &mut buffer) {
            Ok(n) => {
                // a device that is not up yet drops it, as a wire would
                let _ = rustix::io::write(to, &buffer[..n]);
            }
            Err(rustix::io::Errno::AGAIN) if side.busy() => {}
            Err(rustix::io::Errno::AGAIN) => {
                poll(&mut [PollFd::new(from, PollFlags::IN)], Some(&WAIT))?;
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// One connection of the kernel's, between the namespaces.
fn transfer(side: &Side, control: &Control, far: &Netns) -> io::Result<()> {
    let at = SocketAddr::from((place::SERVER, side.port));
    let listener = far.enter(|| TcpListener::bind(at)).map_err(io::Error::other)??;
    let near = TcpStream::connect_timeout(&at, PATIENCE)?;
    let (far, _) = listener.accept()?;
    crate::engine::kernel::congest(&near)?;
    crate::engine::kernel::congest(&far)?;
    let arrived = AtomicUsize::new(0);
    let mut meter = Meter::start(side, control);
    thread::scope(|scope| {
        if side.workload != Workload::BulkOut {
            scope.spawn(|| send(&near));
            scope.spawn(|| receive(&far, &arrived));
        }
        if side.workload != Workload::BulkIn {
            scope.spawn(|| send(&far));
            scope.spawn(|| receive(&near, &arrived));
        }
        loop {
            control.work().add_received(arrived.swap(0, Ordering::Relaxed));
            if !meter.tick(Instant::now()) {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        // ends the calls that wait
        let _ = near.shutdown(Shutdown::Both);
        let _ = far.shutdown(Shutdown::Both);
    });
    Ok(())
}

fn send(mut stream: &TcpStream) {
    let data = vec![0x5a; CHUNK];
    while stream.write(&data).is_ok_and(|n| n > 0) {}
}

fn receive(mut stream: &TcpStream, arrived: &AtomicUsize) {
    let mut data = vec![0; CHUNK];
    while let Ok(n @ 1..) = stream.read(&mut data) {
        arrived.fetch_add(n, Ordering::Relaxed);
    }
}

/// Threads started from now on run where the scheduler likes.
fn on_any_cpu() {
    let mut set = CpuSet::new();
    (0..64).for_each(|cpu| set.set(cpu));
    let _ = sched_setaffinity(None, &set);
}
