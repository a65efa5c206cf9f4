//! A source and a sink of packets on a TUN or TAP descriptor, one system call for each. The whole
//! run is one process; the other end is the kernel of its namespace.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weft_drivers::device::Medium;
use weft_drivers::netlink::Netlink;
use weft_drivers::tuntap;

use super::frame;
use crate::engine::stay_on_cpu;
use crate::meter::Meter;
use crate::place;
use crate::side::Control;
use crate::spec::{Carrier, Side};

/// Frames between two looks at the clock.
const BATCH: usize = 64;
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// `--extra direction=source` writes frames that the kernel drops; otherwise the kernel floods and
/// the frames are read.
pub(super) fn frames(side: &Side, control: &Control) -> io::Result<()> {
    let medium = if side.carrier == Carrier::Tun { Medium::Ip } else { Medium::Ethernet };
    let fd = tuntap::open_bare(&side.device, medium, false).map_err(io::Error::other)?;
    control.fact("mode", "bare descriptor, plain");
    if side.extra("direction") == Some("source") {
        return write_all(side, control, &fd, medium);
    }
    if medium == Medium::Ethernet {
        let mut netlink = Netlink::open().map_err(io::Error::other)?;
        netlink
            .add_neighbour(&side.device, place::SERVER.into(), place::SERVER_MAC)
            .map_err(io::Error::other)?;
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let flood = scope.spawn(|| flood(side, &stop));
        let result = read_all(side, control, &fd);
        stop.store(true, Ordering::Relaxed);
        let flooded = flood.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
        result.and(flooded)
    })
}

fn write_all(side: &Side, control: &Control, fd: &OwnedFd, medium: Medium) -> io::Result<()> {
    let headers = if medium == Medium::Ethernet { frame::ETHERNET_BYTES } else { 0 };
    let mut packet = vec![0x5a; headers + side.bytes.max(28)];
    // to nowhere: the kernel looks at it and drops it
    let nowhere = Ipv4Addr::new(192, 0, 2, 1).into();
    frame::write_datagram(&mut packet[headers..], place::SERVER.into(), nowhere);
    if medium == Medium::Ethernet {
        let mut netlink = Netlink::open().map_err(io::Error::other)?;
        let link = netlink.link(&side.device).map_err(io::Error::other)?;
        packet[..6].copy_from_slice(&link.mac.unwrap_or_default());
        packet[6..12].copy_from_slice(&place::SERVER_MAC);
        packet[12..14].copy_from_slice(&[8, 0]);
    }
    let mut meter = Meter::start(side, control);
    while meter.tick(Instant::now()) {
        for _ in 0..BATCH {
            rustix::io::write(fd, &packet)?;
        }
        control.work().add_operations(BATCH as u64);
        control.work().add_sent(BATCH * packet.len());
    }
    Ok(())
}

fn read_all(side: &Side, control: &Control, fd: &OwnedFd) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let mut meter = Meter::start(side, control);
    while meter.tick(Instant::now()) {
        for _ in 0..BATCH {
            match rustix::io::read(fd, &mut buffer) {
                Ok(n) => {
                    control.work().add_operations(1);
                    control.work().add_received(n);
                }
                Err(rustix::io::Errno::AGAIN) => {
                    if !side.busy() {
                        poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&WAIT))?;
                    }
                    break;
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(())
}

/// The kernel's share: datagrams to the other end of the device.
fn flood(side: &Side, stop: &AtomicBool) -> io::Result<()> {
    stay_on_cpu(1);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(SocketAddr::from((place::SERVER, 9)))?;
    socket.set_write_timeout(Some(Duration::from_millis(10)))?;
    let data = vec![0x5a; side.bytes.saturating_sub(28).max(1)];
    while !stop.load(Ordering::Relaxed) {
        // a full queue is what a flood is for
        let _ = socket.send(&data);
    }
    Ok(())
}
