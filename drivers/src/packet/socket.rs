//! The AF_PACKET socket: options, binding, fanout, statistics (`packet(7)`).

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use libc::{SOL_PACKET, SOL_SOCKET, c_int, sock_filter};

use super::filter;
use crate::device::DeviceError;
use crate::sockopt::{get_option, set_option};

/// Kernel memory for frames on their way to us. A super-segment takes about 70 KiB of it, so the
/// usual default holds three.
const RECEIVE_BUFFER_BYTES: c_int = 16 << 20;
const SEND_BUFFER_BYTES: c_int = 4 << 20;
const ETH_P_ALL: u16 = 3;

/// A socket that receives nothing yet.
pub(super) fn create(name: &str) -> Result<OwnedFd, DeviceError> {
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        return Err(DeviceError::new("open packet socket for", name, io::Error::last_os_error())
            .hint("needs CAP_NET_RAW, which a user namespace gives"));
    }
    // SAFETY: the descriptor was just made and is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Buffers as large as they may be, nothing that we send ourselves, auxiliary data.
pub(super) fn prepare(fd: &OwnedFd) -> io::Result<()> {
    for (forced, plain, bytes) in [
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER_BYTES),
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER_BYTES),
    ] {
        if set_option(fd, SOL_SOCKET, forced, &bytes).is_err() {
            // Without privilege the system's limit holds, silently.
            set_option(fd, SOL_SOCKET, plain, &bytes)?;
        }
    }
    set_option(fd, SOL_PACKET, libc::PACKET_AUXDATA, &1i32)?;
    // The filter does the same where the option is too new.
    let _ = set_option(fd, SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1i32);
    attach_filter(fd, &filter::incoming())
}

/// Replaces the filter; frames already queued have passed the old one.
pub(super) fn attach_filter(fd: &OwnedFd, program: &[sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: program.len() as u16,
        // The kernel copies the program and does not write to it.
        filter: program.as_ptr().cast_mut(),
    };
    set_option(fd, SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// Starts to receive.
pub(super) fn bind(fd: &OwnedFd, index: u32) -> io::Result<()> {
    // SAFETY: sockaddr_ll is plain data for which all zeros is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ETH_P_ALL.to_be();
    address.sll_ifindex = index.cast_signed();
    // SAFETY: the kernel reads one sockaddr_ll of a live value.
    let result = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives frames for other MAC addresses too, or at least all groups, while the socket lives.
pub(super) fn join(fd: &OwnedFd, index: u32, promiscuous: bool) -> io::Result<()> {
    let kind = if promiscuous { libc::PACKET_MR_PROMISC } else { libc::PACKET_MR_ALLMULTI };
    let request = libc::packet_mreq {
        mr_ifindex: index.cast_signed(),
        mr_type: kind as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set_option(fd, SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
}

/// Receives frames for one more MAC address than the interface's own, while the socket lives, or no
/// longer. One that was not there before is no error.
pub(super) fn join_mac(fd: &OwnedFd, index: u32, mac: [u8; 6], on: bool) -> io::Result<()> {
    let mut address = [0; 8];
    address[..6].copy_from_slice(&mac);
    let request = libc::packet_mreq {
        mr_ifindex: index.cast_signed(),
        mr_type: libc::PACKET_MR_UNICAST as u16,
        mr_alen: 6,
        mr_address: address,
    };
    if on {
        return set_option(fd, SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request);
    }
    match set_option(fd, SOL_PACKET, libc::PACKET_DROP_MEMBERSHIP, &request) {
        Err(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
        result => result,
    }
}

/// Joins the sockets of one NIC: the kernel gives each flow to one of them.
pub(super) fn fan_out(fds: &[&Arc<OwnedFd>]) -> io::Result<()> {
    let Some((first, rest)) = fds.split_first().filter(|(_, rest)| !rest.is_empty()) else {
        return Ok(());
    };
    let kind = libc::PACKET_FANOUT_HASH;
    let unique = (kind | libc::PACKET_FANOUT_FLAG_UNIQUEID) << 16;
    set_option(first, SOL_PACKET, libc::PACKET_FANOUT, &unique)?;
    let group = get_option(first, SOL_PACKET, libc::PACKET_FANOUT, 0u32)? & 0xffff;
    for fd in rest {
        set_option(fd, SOL_PACKET, libc::PACKET_FANOUT, &(group | kind << 16))?;
    }
    Ok(())
}

/// Frames dropped since the last call because nobody took them.
pub(super) fn take_drops(fd: &OwnedFd) -> u64 {
    // The two older versions fill the first two fields only.
    let empty = libc::tpacket_stats_v3 { tp_packets: 0, tp_drops: 0, tp_freeze_q_cnt: 0 };
    get_option(fd, SOL_PACKET, libc::PACKET_STATISTICS, empty)
        .map_or(0, |stats| u64::from(stats.tp_drops))
}
