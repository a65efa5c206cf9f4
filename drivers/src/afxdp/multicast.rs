//! Copies of the multicast and broadcast frames that both the kernel and the vservers want.
//!
//! XDP cannot clone a frame, so the program passes these to the kernel, and one AF_PACKET socket
//! per NIC with a filter over the same maps takes a copy. Its ring is memory (TPACKET_V2): looking
//! for a frame costs a load, not a system call. Memberships on the socket open the NIC's multicast
//! filter and end with it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use weft_stack::frame::{Checksum, Frame, FramePool};

use crate::device::Medium;
use crate::segment::Headers;
use crate::sockopt::set_option;

const SLOTS: usize = 128;
const VLAN_TAG_BYTES: usize = 4;
const MAC_PAIR_BYTES: usize = 12;
const ETHERTYPE_VLAN: u16 = 0x8100;

/// The socket; memberships may change from any thread.
#[derive(Debug)]
pub(super) struct CopySocket {
    fd: OwnedFd,
    ifindex: libc::c_int,
}

impl CopySocket {
    /// A socket that receives nothing before [`CopySocket::start`].
    pub(super) fn open(ifindex: u32) -> io::Result<CopySocket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
        let ifindex = libc::c_int::try_from(ifindex).map_err(io::Error::other)?;
        Ok(CopySocket { fd, ifindex })
    }

    /// Binds it to the interface, after filter and ring are set.
    pub(super) fn start(&self) -> io::Result<()> {
        // SAFETY: all zeroes is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = self.ifindex;
        // SAFETY: the pointer and length are of a live sockaddr_ll.
        let result = unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Lets frames for a link-layer group through the NIC's filter.
    pub(super) fn join(&self, group: [u8; 6]) -> io::Result<()> {
        self.membership(libc::PACKET_ADD_MEMBERSHIP, libc::PACKET_MR_MULTICAST, group)
    }

    /// Undoes [`CopySocket::join`].
    pub(super) fn leave(&self, group: [u8; 6]) -> io::Result<()> {
        self.membership(libc::PACKET_DROP_MEMBERSHIP, libc::PACKET_MR_MULTICAST, group)
    }

    /// Lets frames for a unicast MAC address through that is not the NIC's.
    pub(super) fn join_mac(&self, mac: [u8; 6]) -> io::Result<()> {
        self.membership(libc::PACKET_ADD_MEMBERSHIP, libc::PACKET_MR_UNICAST, mac)
    }

    /// Undoes [`CopySocket::join_mac`].
    pub(super) fn leave_mac(&self, mac: [u8; 6]) -> io::Result<()> {
        self.membership(libc::PACKET_DROP_MEMBERSHIP, libc::PACKET_MR_UNICAST, mac)
    }

    /// Lets all of multicast through.
    pub(super) fn join_all(&self) -> io::Result<()> {
        self.membership(libc::PACKET_ADD_MEMBERSHIP, libc::PACKET_MR_ALLMULTI, [0; 6])
    }

    fn membership(&self, option: libc::c_int, kind: libc::c_int, mac: [u8; 6]) -> io::Result<()> {
        let mut address = [0; 8];
        address[..6].copy_from_slice(&mac);
        let request = libc::packet_mreq {
            mr_ifindex: self.ifindex,
            mr_type: kind as u16,
            mr_alen: 6,
            mr_address: address,
        };
        set_option(&self.fd, libc::SOL_PACKET, option, &request)
    }
}

impl AsFd for CopySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The receive ring of the socket; one thread reads it.
pub(super) struct CopyRing {
    memory: NonNull<u8>,
    slot_bytes: usize,
    next: usize,
    /// Frames that did not fit a slot.
    pub(super) truncated: u64,
    socket: Arc<CopySocket>,
}

// SAFETY: the mapping is owned by this value alone and not tied to a thread.
unsafe impl Send for CopyRing {}

impl CopyRing {
    /// A ring for frames of up to `frame_bytes`.
    pub(super) fn new(socket: Arc<CopySocket>, frame_bytes: usize) -> io::Result<CopyRing> {
        let fd = socket.as_fd();
        set_option(
            fd,
            libc::SOL_PACKET,
            libc::PACKET_VERSION,
            &(libc::tpacket_versions::TPACKET_V2 as libc::c_int),
        )?;
        set_option(fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1i32)?;
        let slot_bytes = (frame_bytes + libc::TPACKET2_HDRLEN + 64).next_power_of_two().max(2048);
        let block = slot_bytes.max(4096);
        let request = libc::tpacket_req {
            tp_block_size: block as u32,
            tp_block_nr: (SLOTS * slot_bytes / block) as u32,
            tp_frame_size: slot_bytes as u32,
            tp_frame_nr: SLOTS as u32,
        };
        set_option(fd, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        let (read_write, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice; the result is checked.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                SLOTS * slot_bytes,
                read_write,
                shared,
                fd.as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(CopyRing { memory, slot_bytes, next: 0, truncated: 0, socket })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn status(&self) -> &AtomicU32 {
        // SAFETY: `next` is below SLOTS, so the slot is mapped; the status is the first, aligned
        // word of it, and is shared with the kernel as an atomic.
        unsafe { AtomicU32::from_ptr(self.memory.add(self.next * self.slot_bytes).as_ptr().cast()) }
    }

    pub(super) fn is_readable(&self) -> bool {
        self.status().load(Ordering::Acquire) & libc::TP_STATUS_USER != 0
    }

    /// The next frame, copied into one of `pool`, or into a heap frame when the pool is empty.
    pub(super) fn receive(&mut self, pool: &FramePool) -> Option<Frame> {
        loop {
            let status = self.status().load(Ordering::Acquire);
            if status & libc::TP_STATUS_USER == 0 {
                return None;
            }
            let frame = self.take(status, pool);
            self.status().store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.next = (self.next + 1) % SLOTS;
            if frame.is_some() {
                return frame;
            }
            self.truncated += 1;
        }
    }

    /// `None` if the slot does not hold the whole frame.
    fn take(&self, status: u32, pool: &FramePool) -> Option<Frame> {
        // SAFETY: the kernel gave the slot to us (status), so its bytes are stable until the
        // status is stored again; the slot is mapped and lives as long as `self`.
        let slot = unsafe {
            std::slice::from_raw_parts(
                self.memory.add(self.next * self.slot_bytes).as_ptr(),
                self.slot_bytes,
            )
        };
        // SAFETY: the slot starts with a header of this type.
        let header = unsafe { slot.as_ptr().cast::<libc::tpacket2_hdr>().read_unaligned() };
        if header.tp_snaplen != header.tp_len {
            return None;
        }
        let start = usize::from(header.tp_mac);
        let data = slot.get(start..start + header.tp_snaplen as usize)?;
        if data.len() < MAC_PAIR_BYTES {
            return None;
        }
        let room = data.len() + VLAN_TAG_BYTES;
        let mut frame = pool
            .alloc()
            .filter(|f| f.tailroom() >= room)
            .unwrap_or_else(|| Frame::heap_with_capacity(64, room));
        frame.append(&data[..MAC_PAIR_BYTES]);
        if status & libc::TP_STATUS_VLAN_VALID != 0 {
            let given = status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
            let tpid = if given { header.tp_vlan_tpid } else { ETHERTYPE_VLAN };
            frame.append(&tpid.to_be_bytes());
            frame.append(&header.tp_vlan_tci.to_be_bytes());
        }
        frame.append(&data[MAC_PAIR_BYTES..]);
        frame.meta.checksum = checksum_state(status, &frame);
        Some(frame)
    }
}

fn checksum_state(status: u32, frame: &Frame) -> Checksum {
    if status & libc::TP_STATUS_CSUM_VALID != 0 {
        return Checksum::Verified;
    }
    if status & libc::TP_STATUS_CSUMNOTREADY == 0 {
        return Checksum::Complete;
    }
    match Headers::parse(frame.data(), Medium::Ethernet) {
        Ok(headers) => headers.partial(),
        Err(_) => Checksum::Complete,
    }
}

impl Drop for CopyRing {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` with this length, and no slice of it is alive.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), SLOTS * self.slot_bytes) };
    }
}
