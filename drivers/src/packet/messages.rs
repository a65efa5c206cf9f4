//! Batches of frames by `recvmmsg` and `sendmmsg`: one system call per batch, and the kernel
//! copies straight between its buffers and our frames.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};

use libc::{c_uint, iovec, mmsghdr, tpacket_auxdata};
use weft_stack::frame::Frame;

use super::status::{Delivery, Status};
use crate::device::{DeviceStats, Medium};
use crate::intake::Intake;
use crate::vnet;

/// Frames per system call.
pub(super) const BATCH: usize = 32;
/// Fragments of a frame sent by gathering; a frame with more is copied.
pub(super) const FRAGS_MAX: usize = 62;

/// Pieces of memory per system call that sends: all of the longest frame, or a batch of usual ones.
const VECTORS: usize = 2 * (FRAGS_MAX + 2);
const EMPTY: iovec = iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

/// Room for one control message with auxiliary data, aligned as a `cmsghdr`.
type Control = [u64; 8];

fn io_vector(part: &mut [u8]) -> iovec {
    iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() }
}

fn empty_message() -> mmsghdr {
    // SAFETY: mmsghdr is plain data for which all zeros is a value.
    unsafe { std::mem::zeroed() }
}

/// Buffers of one batch of receives.
#[derive(Default)]
pub(super) struct Receiver {
    intakes: [Intake; BATCH],
}

impl Receiver {
    /// One batch of up to `max` frames; returns how many the kernel had.
    pub(super) fn receive(
        &mut self,
        fd: &OwnedFd,
        max: usize,
        to: &mut Delivery<'_>,
    ) -> io::Result<usize> {
        let mut vectors = [[EMPTY; 3]; BATCH];
        let mut controls = [Control::default(); BATCH];
        let mut messages = [empty_message(); BATCH];
        let mut prepared = 0;
        for (i, intake) in self.intakes.iter_mut().enumerate().take(max) {
            intake.prepare(to.pools);
            vectors[i] = intake.buffers(to.header_len).map(io_vector);
            let header = &mut messages[i].msg_hdr;
            header.msg_iov = vectors[i].as_mut_ptr();
            header.msg_iovlen = 3;
            header.msg_control = controls[i].as_mut_ptr().cast();
            header.msg_controllen = size_of::<Control>();
            prepared += 1;
        }
        // SAFETY: every message points to vectors and control buffers that outlive the call, and
        // the vectors to buffers that the intakes own exclusively.
        let n = unsafe {
            let flags = libc::MSG_DONTWAIT;
            let (count, none) = (prepared as c_uint, std::ptr::null_mut());
            libc::recvmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count, flags, none)
        };
        let Ok(n) = usize::try_from(n) else { return Err(io::Error::last_os_error()) };
        for (message, intake) in messages.iter().zip(&mut self.intakes).take(n) {
            let header = &message.msg_hdr;
            let len = (message.msg_len as usize).checked_sub(to.header_len);
            let Some(len) = len.filter(|_| header.msg_flags & libc::MSG_TRUNC == 0) else {
                to.stats.rx_errors += 1;
                continue;
            };
            to.deliver(intake, len, auxiliary(header));
        }
        Ok(n)
    }
}

fn auxiliary(header: &libc::msghdr) -> Status {
    // SAFETY: the kernel filled the control buffer that the header names, which still lives.
    let message = unsafe { libc::CMSG_FIRSTHDR(header).as_ref() };
    let Some(message) = message else { return Status::default() };
    let wanted = (libc::SOL_PACKET, libc::PACKET_AUXDATA);
    if (message.cmsg_level, message.cmsg_type) != wanted {
        return Status::default();
    }
    // SAFETY: a message of this type carries one tpacket_auxdata, of any alignment.
    let data = unsafe { libc::CMSG_DATA(message).cast::<tpacket_auxdata>().read_unaligned() };
    Status { flags: data.tp_status, vlan_tci: data.tp_vlan_tci, vlan_tpid: data.tp_vlan_tpid }
}

/// Why a batch ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// All went.
    Nothing,
    /// The next frame must be cut or completed in software.
    Software,
    /// The kernel refused the next frame.
    Error(io::Error),
}

/// Sends frames as they are until one does not go; returns how many went, and why it stopped.
pub(super) fn send<'a>(
    fd: &OwnedFd,
    frames: impl Iterator<Item = &'a Frame>,
    header_len: usize,
    medium: Medium,
    stats: &mut DeviceStats,
) -> (usize, Stop) {
    let mut headers = [[0u8; vnet::LEN_MRG]; BATCH];
    let mut vectors = [EMPTY; VECTORS];
    let mut used = 0;
    let mut messages = [empty_message(); BATCH];
    let mut sizes = [(0u64, 0u64); BATCH];
    let (mut count, mut stop) = (0, Stop::Nothing);
    for frame in frames.take(BATCH) {
        let parts = frame.frags.len() + 2;
        if used + parts > VECTORS && count > 0 {
            break;
        }
        let Some(encoded) =
            vnet::encode(frame, medium).filter(|_| goes_as_it_is(frame, header_len))
        else {
            stop = Stop::Software;
            break;
        };
        headers[count] = encoded.header;
        sizes[count] = (encoded.packets, frame.total_len() as u64);
        let (bytes, frags) = ([&headers[count][..header_len], frame.data()], &frame.frags);
        let bytes = bytes.into_iter().chain(frags);
        let own = &mut vectors[used..used + parts];
        for (vector, part) in own.iter_mut().zip(bytes) {
            // The kernel only reads from them.
            *vector = iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() };
        }
        messages[count].msg_hdr.msg_iov = own.as_mut_ptr();
        messages[count].msg_hdr.msg_iovlen = parts;
        used += parts;
        count += 1;
    }
    if count == 0 {
        return (0, stop);
    }
    stats.kicks += 1;
    // SAFETY: every message points to vectors that outlive the call, and the vectors to headers
    // and to bytes of frames that are borrowed for all of it.
    let n = unsafe {
        let (messages, flags) = (messages.as_mut_ptr(), libc::MSG_DONTWAIT);
        libc::sendmmsg(fd.as_raw_fd(), messages, count as c_uint, flags)
    };
    let Ok(n) = usize::try_from(n) else { return (0, Stop::Error(io::Error::last_os_error())) };
    for (packets, bytes) in &sizes[..n] {
        stats.tx_frames += packets;
        stats.tx_bytes += bytes;
    }
    // If some did not go, the next call tells why.
    (n, if n < count { Stop::Nothing } else { stop })
}

/// Whether the kernel takes a frame without our help.
fn goes_as_it_is(frame: &Frame, header_len: usize) -> bool {
    use weft_stack::frame::{Checksum, Gso};
    let plain =
        frame.meta.gso == Gso::None && !matches!(frame.meta.checksum, Checksum::Partial { .. });
    frame.frags.len() <= FRAGS_MAX && (header_len > 0 || plain)
}
