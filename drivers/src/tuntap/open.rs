//! Making or joining a TUN or TAP interface: the `ioctl`s of `linux/if_tun.h`.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use libc::{
    IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TAP, IFF_TUN, IFF_VNET_HDR, TUN_F_CSUM, TUN_F_TSO_ECN,
    TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6, TUNGETVNETHDRSZ, TUNSETIFF, TUNSETOFFLOAD,
    TUNSETVNETHDRSZ,
};
use rustix::fs::{Mode, OFlags};

use super::{TunTap, TunTapConfig};
use crate::device::{
    Caps, DeviceError, DeviceStats, Link, Medium, SUPER_SEGMENT_BYTES_MAX, slot_bytes,
};
use crate::intake::{Intake, Pools};
use crate::netlink::Netlink;
use crate::vnet;

const CONTROL: &str = "/dev/net/tun";
/// Buffers for super-segments that applications may hold at one time, per queue: more than one
/// connection may have unread, so that none is copied out because few are left.
const SPILLS: usize = 128;

const TCP_OFFLOADS: libc::c_uint = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
/// What the kernel may leave to us, best first. Datagrams come in one frame since Linux 6.2.
const OFFLOADS: [libc::c_uint; 3] = [
    TCP_OFFLOADS | TUN_F_TSO_ECN | TUN_F_USO4 | TUN_F_USO6,
    TCP_OFFLOADS | TUN_F_TSO_ECN,
    TCP_OFFLOADS,
];

pub(super) fn open(config: &TunTapConfig) -> Result<Vec<TunTap>, DeviceError> {
    let queues = config.queues.max(1);
    let (first, name, vnet) = open_first(config, queues > 1)?;
    let mut fds = vec![first];
    for _ in 1..queues {
        fds.push(attach(config.medium, &name, vnet, true)?.0);
    }
    let header_len = if vnet { header_len(&fds[0], &name)? } else { 0 };
    let offload = vnet && accept_offloads(&fds[0]);
    let link = bring_up(config, &name)?;
    let mode = mode(config.medium, vnet, offload);
    let device = |fd| TunTap {
        fd,
        name: name.clone(),
        caps: Caps {
            medium: config.medium,
            gso_bytes_max: SUPER_SEGMENT_BYTES_MAX,
            tx_checksum: true,
            rx_checksum: offload,
            mode: mode.clone(),
        },
        link,
        pools: Pools::new(config.pool_frames, slot_bytes(link.mtu), SPILLS),
        intake: Intake::default(),
        stats: DeviceStats::default(),
        header_len,
        arrived: VecDeque::new(),
        backlog: VecDeque::new(),
        starved: false,
    };
    Ok(fds.into_iter().map(device).collect())
}

/// Makes an interface that stays when nobody is attached, in the namespace of the calling thread;
/// it goes with the namespace, or with `ip link delete`.
pub fn make_persistent(name: &str, medium: Medium) -> Result<(), DeviceError> {
    let (fd, name) = attach(medium, name, true, false)?;
    // SAFETY: the argument is a plain number.
    if unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETPERSIST, 1 as libc::c_ulong) } < 0 {
        return Err(DeviceError::new("keep", name, io::Error::last_os_error()));
    }
    Ok(())
}

/// A descriptor of an interface with nothing on top, non-blocking: each read and write is one
/// frame, after 10 bytes of virtio-net header if `offload`. What a [`TunTap`] costs beyond the
/// kernel's share is the difference to this.
pub fn open_bare(name: &str, medium: Medium, offload: bool) -> Result<OwnedFd, DeviceError> {
    let (fd, name) = attach(medium, name, offload, false)?;
    if offload {
        header_len(&fd, &name)?;
        if !accept_offloads(&fd) {
            let e = io::Error::from(io::ErrorKind::Unsupported);
            return Err(DeviceError::new("set offloads of", name, e));
        }
    }
    Ok(fd)
}

fn mode(medium: Medium, vnet: bool, offload: bool) -> String {
    let kind = if medium == Medium::Ip { "tun" } else { "tap" };
    let how = match (vnet, offload) {
        (true, true) => "vnet",
        (true, false) => "vnet, transmit offload only",
        (false, _) => "plain",
    };
    format!("{kind} {how}")
}

/// The first descriptor decides whether there is a virtio-net header.
fn open_first(
    config: &TunTapConfig,
    multi_queue: bool,
) -> Result<(OwnedFd, String, bool), DeviceError> {
    if config.vnet {
        match attach(config.medium, &config.name, true, multi_queue) {
            Ok((fd, name)) => return Ok((fd, name, true)),
            Err(e) if e.source.raw_os_error() != Some(libc::EINVAL) => return Err(e),
            Err(_) => {}
        }
    }
    let (fd, name) = attach(config.medium, &config.name, false, multi_queue)?;
    Ok((fd, name, false))
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "load the kernel module: modprobe tun",
        Some(libc::EACCES) => "make the node readable for this user, or run as root",
        Some(libc::EPERM) => "needs CAP_NET_ADMIN, or an interface made for this user",
        Some(libc::EBUSY) => "another process has this interface",
        Some(libc::EINVAL) => "an interface of that name and another kind may exist",
        _ => "",
    }
}

fn attach(
    medium: Medium,
    name: &str,
    vnet: bool,
    multi_queue: bool,
) -> Result<(OwnedFd, String), DeviceError> {
    let failed = |operation, object: &str, e: io::Error| {
        let hint = hint(&e);
        DeviceError::new(operation, object, e).hint(hint)
    };
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open(CONTROL, flags, Mode::empty())
        .map_err(|e| failed("open", CONTROL, e.into()))?;
    // SAFETY: ifreq is plain data for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        let e = io::Error::from(io::ErrorKind::InvalidInput);
        return Err(DeviceError::new("attach", name, e).hint("names have 1 to 15 bytes"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let mut flags = IFF_NO_PI | if medium == Medium::Ip { IFF_TUN } else { IFF_TAP };
    flags |= if vnet { IFF_VNET_HDR } else { 0 };
    flags |= if multi_queue { IFF_MULTI_QUEUE } else { 0 };
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the descriptor is open and the request lives through the call, which reads and
    // writes one ifreq.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF, &mut request) };
    if result < 0 {
        return Err(failed("attach", name, io::Error::last_os_error()));
    }
    let chosen = request.ifr_name.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    Ok((fd, String::from_utf8(chosen).unwrap_or_else(|_| name.to_owned())))
}

/// The size that the interface has, or the smallest if it has none of the two known ones.
fn header_len(fd: &OwnedFd, name: &str) -> Result<usize, DeviceError> {
    let mut len: libc::c_int = 0;
    // SAFETY: the call writes one int.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), TUNGETVNETHDRSZ, &mut len) };
    let known = usize::try_from(len).is_ok_and(|len| [vnet::LEN, vnet::LEN_MRG].contains(&len));
    if result == 0 && known {
        return Ok(len as usize);
    }
    len = libc::c_int::from(vnet::LEN as u16);
    // SAFETY: the call reads one int.
    if unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETVNETHDRSZ, &len) } < 0 {
        return Err(DeviceError::new("set header size of", name, io::Error::last_os_error()));
    }
    Ok(vnet::LEN)
}

/// Tells the kernel what it may send us; `false`: it takes no offload at all.
fn accept_offloads(fd: &OwnedFd) -> bool {
    OFFLOADS.into_iter().any(|flags| {
        // SAFETY: the argument is a plain number.
        unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETOFFLOAD, libc::c_ulong::from(flags)) == 0 }
    })
}

/// Sets what was asked for and is not so yet; an interface made for an ordinary user is left alone.
fn bring_up(config: &TunTapConfig, name: &str) -> Result<Link, DeviceError> {
    let mut netlink = Netlink::open()?;
    let before = netlink.link(name)?;
    if let Some(mtu) = config.mtu.filter(|mtu| *mtu != before.mtu) {
        netlink.set_mtu(name, mtu)?;
    }
    if !before.up {
        netlink.set_up(name, true)?;
    }
    let mut link = Link::from(&netlink.link(name)?);
    link.mac = match config.medium {
        Medium::Ip => None,
        Medium::Ethernet => config.mac.or_else(|| link.mac.map(other_end)),
    };
    Ok(link)
}

/// A MAC address for our end: the kernel's with one bit changed, locally administered.
fn other_end(mut mac: [u8; 6]) -> [u8; 6] {
    mac[0] = (mac[0] | 2) & !1;
    mac[3] ^= 0x80;
    mac
}
