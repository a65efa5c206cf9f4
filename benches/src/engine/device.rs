//! Opens what carries the frames of a side, for engines that have no stack or a foreign one.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weft_drivers::afxdp::{AfXdp, AfXdpOptions, UmemPool, XdpMode, XdpProgram};
use weft_drivers::device::{AnyDevice, Device, Medium, Steer};
use weft_drivers::packet::{Packet, PacketConfig};
use weft_drivers::tuntap::{TunTap, TunTapConfig};

use crate::spec::{Carrier, Side};

/// Frames of a device's pool.
const FRAMES: u32 = 8192;
/// Largest frame of the link that one UMEM frame of 2048 bytes takes.
const SMALL_FRAME_BYTES: usize = 1792;

/// Opens the device of a side; frames for `steered` are ours. `offload`: the virtio-net header.
pub(super) fn open(side: &Side, steered: IpAddr, offload: bool) -> io::Result<AnyDevice> {
    match side.carrier {
        Carrier::Veth => af_xdp(side, steered),
        Carrier::Tun => tuntap(side, Medium::Ip, offload),
        Carrier::Tap => tuntap(side, Medium::Ethernet, offload),
        Carrier::Wan => packet(side),
        Carrier::Mem => Err(io::Error::new(io::ErrorKind::Unsupported, "no device has no frames")),
    }
}

fn af_xdp(side: &Side, steered: IpAddr) -> io::Result<AnyDevice> {
    let frame_bytes = if side.mtu + 14 > SMALL_FRAME_BYTES { 4096 } else { 2048 };
    let program = XdpProgram::attach(&side.device, XdpMode::Auto).map_err(io::Error::other)?;
    let umem = UmemPool::new(FRAMES, frame_bytes, false).map_err(io::Error::other)?;
    let options = AfXdpOptions { fill_frames: UmemPool::RING_ENTRIES, ..AfXdpOptions::default() };
    let mut device = AfXdp::open(&program, 0, &umem, options).map_err(io::Error::other)?;
    device.steer(Steer::Add(steered))?;
    Ok(Box::new(device))
}

fn packet(side: &Side) -> io::Result<AnyDevice> {
    let config = PacketConfig { vnet: false, ..PacketConfig::new(&side.device) };
    let queues = Packet::open(&config).map_err(io::Error::other)?;
    let first = queues.into_iter().next().ok_or(io::ErrorKind::NotFound)?;
    Ok(Box::new(first))
}

fn tuntap(side: &Side, medium: Medium, offload: bool) -> io::Result<AnyDevice> {
    let config = TunTapConfig { vnet: offload, ..TunTapConfig::new(&side.device, medium) };
    let queues = TunTap::open(&config).map_err(io::Error::other)?;
    let first = queues.into_iter().next().ok_or(io::ErrorKind::NotFound)?;
    Ok(Box::new(first))
}

/// Waits until frames have come, at most `limit`.
pub(super) fn wait(device: &AnyDevice, limit: Duration) -> io::Result<()> {
    let Some(fd) = device.fd() else { return Ok(()) };
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    match poll(&mut fds, Some(&limit)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
