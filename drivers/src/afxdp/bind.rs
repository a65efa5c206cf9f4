//! Binding a socket to a queue.
//!
//! The first socket on a UMEM registers the memory and decides about zero-copy for all; later ones
//! join it by naming a live socket. To the kernel the memory is registered for as long as any of
//! them lives, whichever; after the last it can be registered anew.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::{
    set_xdp_rx_ring_size, set_xdp_tx_ring_size, set_xdp_umem_completion_ring_size,
    set_xdp_umem_fill_ring_size, set_xdp_umem_reg, xdp_mmap_offsets, xdp_options,
};
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags as Flags, SocketAddrXdpWithSharedUmem, XDP_PGOFF_RX_RING,
    XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING, XdpOptionsFlags,
    XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind as bind_socket, socket_with};

use super::program::QueueClaim;
use super::ring::{Consumer, Producer};
use super::rings::Rings;
use super::umem::UmemPool;
use super::{AfXdpOptions, XdpMode, XdpProgram};
use crate::device::{DeviceError, LINK_HEADER_BYTES_MAX};
use crate::sockopt::set_option;

/// Descriptors that the kernel sends per system call, Linux 6.17 and later.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
/// Frames in flight in copy mode are bounded by the socket's send buffer too.
const SEND_BUFFER_BYTES: libc::c_int = 8 << 20;
/// The kernel closes queues behind the back of a process that ended: wait that long for it.
const BIND_TRIES: u32 = 200;
const BIND_RETRY: Duration = Duration::from_millis(5);

/// The bound sockets of a UMEM, oldest first.
#[derive(Default)]
pub(super) struct LiveSockets(Vec<RawFd>);

/// A bound socket.
pub(super) struct Socket {
    umem: UmemPool,
    /// `None` only while it is dropped.
    fd: Option<OwnedFd>,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("open until it is dropped").as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut live = self.umem.sockets().lock();
        let raw = self.as_fd().as_raw_fd();
        live.0.retain(|fd| *fd != raw);
        // Under the lock: nobody joins a socket that is closed, or its number in other use.
        self.fd = None;
    }
}

/// A bound socket and what belongs to it.
pub(super) struct Bound {
    pub(super) rings: Rings,
    pub(super) claim: QueueClaim,
    pub(super) queue: u32,
    pub(super) zero_copy: bool,
    /// Frames may be sent from several descriptors.
    pub(super) gathers: bool,
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
    for size in [options.rx_ring, options.tx_ring] {
        if !size.is_power_of_two() || size > UmemPool::RING_ENTRIES {
            let most = UmemPool::RING_ENTRIES;
            return Err(invalid(&format!("ring size {size} is no power of two up to {most}")));
        }
    }
    let claim = program.claim(queue).map_err(fail)?;
    let (rings, gathers) = try_ways(program, queue, umem, options).map_err(fail)?;
    let mode = xdp_options(&rings.socket).map_err(|e| fail(e.into()))?;
    let zero_copy = mode.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY);
    tune(rings.socket.as_fd(), options.tx_ring);
    Ok(Bound { rings, claim, queue, zero_copy, gathers })
}

/// Tries the ways to bind that the mode allows, best first. Also tells whether frames may be sent
/// from several descriptors.
fn try_ways(
    program: &XdpProgram,
    queue: u32,
    umem: &UmemPool,
    options: AfXdpOptions,
) -> io::Result<(Rings, bool)> {
    let jumbo = program.nic().mtu + LINK_HEADER_BYTES_MAX > umem.receive_bytes();
    let copy = Flags::XDP_USE_NEED_WAKEUP | Flags::XDP_COPY | Flags::XDP_USE_SG;
    let mut zero_copy = Flags::XDP_USE_NEED_WAKEUP | Flags::XDP_ZEROCOPY;
    if jumbo {
        // Few drivers chain buffers in zero-copy mode.
        zero_copy |= Flags::XDP_USE_SG;
    }
    let ways: &[Flags] = match program.requested() {
        XdpMode::Auto if !program.generic() => &[zero_copy, copy],
        XdpMode::ZeroCopy => &[zero_copy],
        _ => &[copy],
    };
    let mut result = Err(io::Error::from(io::ErrorKind::Unsupported));
    for flags in ways {
        let address = SocketAddrXdp::new(*flags, program.nic().index, queue);
        let bound = bind_patiently(&address, umem, options);
        let busy = bound.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EBUSY));
        let done = bound.is_ok() || busy;
        result = bound.map(|rings| (rings, flags.contains(Flags::XDP_USE_SG)));
        if done {
            break;
        }
    }
    result
}

fn bind_patiently(
    address: &SocketAddrXdp,
    umem: &UmemPool,
    options: AfXdpOptions,
) -> io::Result<Rings> {
    let mut tries = 0;
    loop {
        match bind_as(address, umem, options) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && tries < BIND_TRIES => {
                tries += 1;
                thread::sleep(BIND_RETRY);
            }
            result => return result,
        }
    }
}

/// Makes a socket with its four rings and binds it.
fn bind_as(address: &SocketAddrXdp, umem: &UmemPool, options: AfXdpOptions) -> io::Result<Rings> {
    let fd = socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let mut live = umem.sockets().lock();
    if live.0.is_empty() {
        register(fd.as_fd(), umem)?;
    }
    set_xdp_umem_fill_ring_size(&fd, UmemPool::RING_ENTRIES)?;
    set_xdp_umem_completion_ring_size(&fd, UmemPool::RING_ENTRIES)?;
    set_xdp_rx_ring_size(&fd, options.rx_ring)?;
    set_xdp_tx_ring_size(&fd, options.tx_ring)?;
    let at = xdp_mmap_offsets(&fd)?;
    let on = fd.as_fd();
    let all = UmemPool::RING_ENTRIES;
    let rx = Consumer::map(on, at.rx, options.rx_ring, XDP_PGOFF_RX_RING)?;
    let tx = Producer::map(on, at.tx, options.tx_ring, XDP_PGOFF_TX_RING)?;
    let fill = Producer::map(on, at.fr, all, XDP_UMEM_PGOFF_FILL_RING)?;
    let completion = Consumer::map(on, at.cr, all, XDP_UMEM_PGOFF_COMPLETION_RING)?;
    match live.0.first() {
        None => bind_socket(&fd, address)?,
        Some(first) => {
            // SAFETY: sockets leave `live` before they are closed, under its lock.
            let shared_umem_fd = unsafe { BorrowedFd::borrow_raw(*first) };
            let mut addr = address.clone();
            // The others are inherited.
            addr.set_flags(Flags::XDP_SHARED_UMEM);
            bind_socket(&fd, &SocketAddrXdpWithSharedUmem { addr, shared_umem_fd })?;
        }
    }
    live.0.push(fd.as_raw_fd());
    let socket = Socket { umem: umem.clone(), fd: Some(fd) };
    Ok(Rings { socket, tx, rx, fill, completion })
}

fn register(fd: BorrowedFd<'_>, umem: &UmemPool) -> io::Result<()> {
    let (addr, len) = umem.place();
    let memory = XdpUmemReg {
        addr,
        len,
        chunk_size: umem.frame_bytes() as u32,
        headroom: 0,
        flags: XdpUmemRegFlags::empty(),
        tx_metadata_len: 0,
    };
    Ok(set_xdp_umem_reg(fd, memory)?)
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

/// Settings that help and may be refused: older kernels, fewer rights.
fn tune(fd: BorrowedFd<'_>, tx_ring: u32) {
    let budget = tx_ring.cast_signed();
    let _ = set_option(fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &budget);
    let _ = set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BUFFER_BYTES);
}
