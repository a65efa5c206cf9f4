//! The `TPACKET_V3` receive ring: the kernel fills blocks, we copy the frames out and give the
//! blocks back.

use std::ffi::c_void;
use std::io;
use std::mem::size_of;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{SOL_PACKET, tpacket_block_desc, tpacket3_hdr};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::status::{Delivery, Status};
use crate::intake::Intake;
use crate::sockopt::set_option;

/// Holds at least three super-segments.
const BLOCK_BYTES: usize = 256 << 10;
const BLOCKS: usize = 32;
/// The least that the kernel takes. A frame on an idle link waits this long.
const RETIRE_MS: u32 = 1;
/// Only a unit of account in version 3.
const FRAME_BYTES: u32 = 2048;

/// One block of the ring; it starts with its descriptor.
#[repr(C, align(4096))]
struct Block([u8; BLOCK_BYTES]);

/// The mapped ring of one socket.
pub(super) struct Ring {
    map: NonNull<Block>,
    /// Block that is read next, or is being read.
    block: usize,
    /// Frames not yet read of that block, and where the next is.
    frames_left: u32,
    next: usize,
    intake: Intake,
}

// SAFETY: the mapping is this value's alone; the kernel's side is synchronised by block status.
unsafe impl Send for Ring {}

impl Ring {
    pub(super) fn new(fd: &OwnedFd) -> io::Result<Ring> {
        set_option(fd, SOL_PACKET, libc::PACKET_VERSION, &libc::tpacket_versions::TPACKET_V3)?;
        let request = libc::tpacket_req3 {
            tp_block_size: BLOCK_BYTES as u32,
            tp_block_nr: BLOCKS as u32,
            tp_frame_size: FRAME_BYTES,
            tp_frame_nr: (BLOCKS * BLOCK_BYTES) as u32 / FRAME_BYTES,
            tp_retire_blk_tov: RETIRE_MS,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set_option(fd, SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let map =
            unsafe { mmap(std::ptr::null_mut(), BLOCKS * BLOCK_BYTES, access, flags, fd, 0) }?;
        let map = NonNull::new(map.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Ring { map, block: 0, frames_left: 0, next: 0, intake: Intake::default() })
    }

    fn current(&self) -> *mut Block {
        // SAFETY: the block number is below the number of blocks mapped.
        unsafe { self.map.as_ptr().add(self.block) }
    }

    fn status(&self) -> &AtomicU32 {
        let block = self.current().cast::<tpacket_block_desc>();
        // SAFETY: a block starts with its page-aligned descriptor; both sides access the status
        // only as one aligned word.
        unsafe { AtomicU32::from_ptr(&raw mut (*block).hdr.bh1.block_status) }
    }

    /// Opens the next block if the kernel is done with it.
    fn open_block(&mut self) -> bool {
        if self.status().load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return false;
        }
        let block = self.current().cast::<tpacket_block_desc>();
        // SAFETY: the status says that the block is ours, so the kernel does not write to it.
        let header = unsafe { (*block).hdr.bh1 };
        self.frames_left = header.num_pkts;
        self.next = header.offset_to_first_pkt as usize;
        true
    }

    fn close_block(&mut self) {
        self.status().store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.block = (self.block + 1) % BLOCKS;
    }

    /// Takes up to `max` frames.
    pub(super) fn receive(&mut self, max: usize, to: &mut Delivery<'_>) {
        for _ in 0..max {
            while self.frames_left == 0 {
                if !self.open_block() {
                    return;
                }
                // A block whose time was up may be empty.
                if self.frames_left == 0 {
                    self.close_block();
                }
            }
            self.intake.prepare(to.pools);
            self.copy_frame(to);
            if self.frames_left == 0 {
                self.close_block();
            }
        }
    }

    /// Reads one record of the open block.
    fn copy_frame(&mut self, to: &mut Delivery<'_>) {
        let at = self.next;
        // SAFETY: the block is ours since `open_block`; the kernel keeps its records inside.
        let (block, head) = unsafe {
            let block = &(*self.current()).0;
            assert!(at + size_of::<tpacket3_hdr>() <= BLOCK_BYTES, "record outside of its block");
            (block, (&raw const block[at]).cast::<tpacket3_hdr>().read_unaligned())
        };
        self.frames_left -= 1;
        self.next = at + head.tp_next_offset as usize;
        let len = head.tp_snaplen as usize;
        let start = at + usize::from(head.tp_mac);
        if head.tp_snaplen < head.tp_len {
            to.stats.rx_errors += 1;
            return;
        }
        let parts = self.intake.buffers(to.header_len);
        let mut from = &block[start - to.header_len..start + len];
        for part in parts {
            let (now, rest) = from.split_at(part.len().min(from.len()));
            part[..now.len()].copy_from_slice(now);
            from = rest;
        }
        if !from.is_empty() {
            to.stats.rx_errors += 1;
            return;
        }
        to.stats.rx_copied_bytes += len as u64;
        let status = Status {
            flags: head.tp_status,
            vlan_tci: head.hv1.tp_vlan_tci as u16,
            vlan_tpid: head.hv1.tp_vlan_tpid,
        };
        to.deliver(&mut self.intake, len, status);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows from it. Failure would mean that it is
        // not mapped, which leaves nothing to do.
        let _ = unsafe { munmap(self.map.as_ptr().cast::<c_void>(), BLOCKS * BLOCK_BYTES) };
    }
}
