//! Binding a socket to a queue.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use xsk_rs::Socket;
use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig};
use xsk_rs::umem::Umem;

use super::program::QueueClaim;
use super::rings::{Rings, os_error};
use super::umem::{SocketGuard, UmemPool};
use super::{AfXdpOptions, XdpMode, XdpProgram};
use crate::device::{DeviceError, LINK_HEADER_BYTES_MAX};
use crate::sockopt::{get_option, set_option};

/// Descriptors that the kernel sends per system call, Linux 6.17 and later.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
/// Frames in flight in copy mode are bounded by the socket's send buffer too.
const SEND_BUFFER_BYTES: libc::c_int = 8 << 20;
/// The kernel closes queues behind the back of a process that ended: wait that long for it.
const BIND_TRIES: u32 = 200;
const BIND_RETRY: Duration = Duration::from_millis(5);
/// A bound socket and what belongs to it.
pub(super) struct Bound {
    pub(super) rings: Rings,
    pub(super) socket: SocketGuard,
    pub(super) claim: QueueClaim,
    pub(super) queue: u32,
    pub(super) zero_copy: bool,
}

/// Checks what can be said in words before the kernel says `EINVAL`, then binds.
pub(super) fn bind(
    program: &Arc<XdpProgram>,
    queue: u32,
    umem: &UmemPool,
    options: AfXdpOptions,
) -> Result<Bound, DeviceError> {
    let object = format!("{} queue {queue}", program.ifname());
    let fail = |e| bind_error(&object, e);
    let invalid = |text: &str| fail(io::Error::new(io::ErrorKind::InvalidInput, text));
    let queues = program.nic().rx_queues;
    if queue as usize >= queues {
        let hint = format!("`ethtool -l {}` tells, `ethtool -L` changes", program.ifname());
        return Err(invalid(&format!("the NIC has {queues} receive queues")).hint(hint));
    }
    if options.tx_ring > UmemPool::RING_ENTRIES {
        return Err(invalid("the transmit ring is larger than the completion ring"));
    }
    if !umem.is_of_this_namespace().map_err(fail)? {
        return Err(invalid("the UMEM was made in another network namespace than the NIC"));
    }
    let claim = program.claim(queue).map_err(fail)?;
    let (rings, socket) = try_ways(program, queue, umem, options).map_err(fail)?;
    let zero_copy = is_zero_copy(&rings).map_err(fail)?;
    tune(&rings, options.tx_ring);
    Ok(Bound { rings, socket, claim, queue, zero_copy })
}

/// Tries the ways to bind that the mode allows, best first.
fn try_ways(
    program: &XdpProgram,
    queue: u32,
    umem: &UmemPool,
    options: AfXdpOptions,
) -> io::Result<(Rings, SocketGuard)> {
    let jumbo = program.nic().mtu + LINK_HEADER_BYTES_MAX > umem.data_bytes();
    let base = BindFlags::XDP_USE_NEED_WAKEUP;
    let copy = base | BindFlags::XDP_COPY | BindFlags::XDP_USE_SG;
    let mut zero_copy = base | BindFlags::XDP_ZEROCOPY;
    if jumbo {
        // Few drivers chain buffers in zero-copy mode.
        zero_copy |= BindFlags::XDP_USE_SG;
    }
    let ways: &[BindFlags] = match program.requested() {
        XdpMode::Auto if !program.generic() => &[zero_copy, copy],
        XdpMode::ZeroCopy => &[zero_copy],
        _ => &[copy],
    };
    let mut result = Err(io::Error::from(io::ErrorKind::Unsupported));
    for flags in ways {
        let name = program.ifname();
        result = umem.with_umem(|umem| bind_patiently(name, queue, umem, options, *flags));
        match &result {
            Err(e) if e.raw_os_error() != Some(libc::EBUSY) => {}
            _ => break,
        }
    }
    result
}

fn bind_patiently(
    ifname: &str,
    queue: u32,
    umem: &Umem,
    options: AfXdpOptions,
    flags: BindFlags,
) -> io::Result<Rings> {
    let mut tries = 0;
    loop {
        match bind_as(ifname, queue, umem, options, flags) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && tries < BIND_TRIES => {
                tries += 1;
                thread::sleep(BIND_RETRY);
            }
            result => return result,
        }
    }
}

fn bind_as(
    ifname: &str,
    queue: u32,
    umem: &Umem,
    options: AfXdpOptions,
    flags: BindFlags,
) -> io::Result<Rings> {
    let invalid = |e: &(dyn std::error::Error + 'static)| {
        io::Error::new(io::ErrorKind::InvalidInput, e.to_string())
    };
    let mut config = SocketConfig::builder();
    config
        .rx_queue_size(QueueSize::new(options.rx_ring).map_err(|e| invalid(&e))?)
        .tx_queue_size(QueueSize::new(options.tx_ring).map_err(|e| invalid(&e))?)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(flags);
    let interface: Interface = ifname.parse().map_err(|e| invalid(&e))?;
    // SAFETY: no program of the library's is loaded (the flag above), which is what its contract
    // is about.
    let made = unsafe { Socket::new(config.build(), umem, &interface, queue) };
    let (tx, rx, fill_and_completion) = made.map_err(|e| os_error(&e))?;
    let Some((fill, completion)) = fill_and_completion else {
        return Err(io::Error::other("the UMEM has rings of this queue already"));
    };
    Ok(Rings { tx, rx, fill, completion })
}

fn bind_error(object: &str, source: io::Error) -> DeviceError {
    let hint = match source.raw_os_error() {
        Some(libc::EBUSY) => "another process has the queue",
        Some(libc::EOPNOTSUPP) => {
            "the driver has no zero-copy; or the other NIC on this UMEM has and this one has not"
        }
        Some(libc::EPERM) => "needs root or CAP_NET_RAW",
        Some(libc::ENOBUFS | libc::ENOMEM) => "raise the locked memory limit: ulimit -l",
        _ => "",
    };
    DeviceError::new("bind AF_XDP socket", object, source).hint(hint)
}

fn is_zero_copy(rings: &Rings) -> io::Result<bool> {
    // SAFETY: the ring keeps the descriptor open during this call.
    let fd = unsafe { BorrowedFd::borrow_raw(rings.rx.fd().as_raw_fd()) };
    let flags = get_option(fd, libc::SOL_XDP, libc::XDP_OPTIONS, 0u32)?;
    Ok(flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// Settings that help and may be refused: older kernels, fewer rights.
fn tune(rings: &Rings, tx_ring: u32) {
    // SAFETY: the ring keeps the descriptor open during this call.
    let fd = unsafe { BorrowedFd::borrow_raw(rings.rx.fd().as_raw_fd()) };
    let budget = tx_ring.cast_signed();
    let _ = set_option(fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &budget);
    let _ = set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BUFFER_BYTES);
}
