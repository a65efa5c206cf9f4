//! The rings without anything on top: no frames, no pool, no checks of what is sent.
//!
//! What a device costs beyond the kernel's share is the difference to this; see the example
//! `afxdp_limits`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use weft_stack::frame::FramePool;

use super::bind::{self, Bound};
use super::program::QueueClaim;
use super::ring::{CONTINUED, Desc};
use super::rings::Rings;
use super::transmit;
use super::umem::UmemPool;
use super::{AfXdpOptions, XdpProgram};
use crate::device::DeviceError;

/// One queue of a NIC as rings: the limit that [`super::AfXdp`] is measured against. Its frames
/// are the slots of the UMEM, which it takes all for itself.
pub struct BareQueue {
    rings: Rings,
    umem: UmemPool,
    program: Arc<XdpProgram>,
    queue: u32,
    _claim: QueueClaim,
    /// Slots to send from; each holds the prepared frame, as far as it goes.
    free: Vec<u32>,
    /// Bytes of each part of the prepared frame.
    parts: Vec<u32>,
    /// Descriptors that were sent and not completed.
    in_flight: usize,
    kicks: u64,
    /// After the rings: the kernel has let go of the slots.
    _slots: Slots,
}

struct Slots {
    pool: FramePool,
    all: Vec<u32>,
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.pool.give_slots(&self.all);
    }
}

impl BareQueue {
    /// Binds a queue and takes all slots of `umem`: `options.fill_frames` for receiving (not 0),
    /// the others for sending. Copying modes only.
    pub fn open(
        program: &Arc<XdpProgram>,
        queue: u32,
        umem: &UmemPool,
        options: AfXdpOptions,
    ) -> Result<BareQueue, DeviceError> {
        let Bound { rings, claim, zero_copy, .. } = bind::bind(program, queue, umem, options)?;
        let object = || format!("{} queue {queue}", program.ifname());
        if zero_copy {
            let e = io::Error::from(io::ErrorKind::Unsupported);
            return Err(DeviceError::new("use bare rings in zero-copy mode on", object(), e));
        }
        let mut free = Vec::new();
        umem.pool().take_slots_to_send(umem.pool().slots(), &mut free);
        let slots = Slots { pool: umem.pool().clone(), all: free.clone() };
        let mut bare = BareQueue {
            rings,
            umem: umem.clone(),
            program: Arc::clone(program),
            queue,
            _claim: claim,
            free,
            parts: Vec::new(),
            in_flight: 0,
            kicks: 0,
            _slots: slots,
        };
        for _ in 0..options.fill_frames.min(UmemPool::RING_ENTRIES) {
            if let Some(slot) = bare.free.pop() {
                bare.rings.fill.put(umem.address(slot));
            }
        }
        bare.rings.fill.submit();
        let socket = bare.rings.socket.as_fd();
        program
            .insert_socket(queue, socket)
            .map_err(|e| DeviceError::new("enter socket into XSKMAP", object(), e))?;
        Ok(bare)
    }

    /// Writes the frame that [`BareQueue::send`] sends into every slot. One that is longer goes in
    /// several, of which each has the first bytes: only its headers are what they should be. Not
    /// while frames are in flight.
    pub fn prepare(&mut self, frame: &[u8]) {
        assert_eq!(self.in_flight, 0, "the kernel reads the slots");
        let chunk = self.umem.frame_bytes();
        self.parts = frame.chunks(chunk).map(|part| part.len() as u32).collect();
        // Slots change places: any may become the first part, which has the headers.
        let part = &frame[..frame.len().min(chunk)];
        for slot in &self.free {
            // SAFETY: the slot is ours (`free`) and not in flight.
            unsafe { self.umem.bytes_mut(*slot, 0, part.len()) }.copy_from_slice(part);
        }
        let whole = self.free.len() / self.parts.len() * self.parts.len();
        self.free.truncate(whole);
    }

    /// Sends up to `n` prepared frames with one call; returns how many there was room for.
    pub fn send(&mut self, n: usize) -> io::Result<usize> {
        let parts = self.parts.len();
        let mut sent = 0;
        while sent < n && self.free.len() >= parts && self.rings.tx.has_room(parts) {
            for (i, len) in self.parts.iter().enumerate() {
                let Some(slot) = self.free.pop() else { break };
                let options = if i + 1 < parts { CONTINUED } else { 0 };
                let address = self.umem.address(slot);
                self.rings.tx.put(Desc { address, len: *len, options });
            }
            self.in_flight += parts;
            sent += 1;
        }
        self.finish()?;
        Ok(sent)
    }

    /// Makes what was put visible, wakes the kernel and takes completed slots back.
    fn finish(&mut self) -> io::Result<()> {
        self.rings.tx.submit();
        let mut left = self.rings.tx.unread();
        while left > 0 {
            self.kicks += 1;
            transmit::wake(&self.rings)?;
            let now = self.rings.tx.unread();
            if now == left {
                break;
            }
            left = now;
        }
        let n = self.rings.completion.available(usize::MAX);
        for i in 0..n {
            if let Some((slot, _)) = self.umem.locate(self.rings.completion.get(i)) {
                self.free.push(slot);
            }
        }
        self.rings.completion.release(n);
        self.in_flight -= n;
        Ok(())
    }

    /// Shows the first descriptor's bytes of every frame that waits to `see` and gives the slots
    /// back to the kernel. Returns how many frames there were.
    pub fn receive(&mut self, mut see: impl FnMut(&[u8])) -> usize {
        let n = self.rings.rx.available(usize::MAX);
        let mut frames = 0;
        let mut first = true;
        for i in 0..n {
            let desc = self.rings.rx.get(i);
            let Some((slot, at)) = self.umem.locate(desc.address) else { continue };
            if first {
                // SAFETY: the slot came back through the receive ring, so it is ours.
                see(unsafe { self.umem.bytes_mut(slot, at, desc.len as usize) });
            }
            first = desc.options & CONTINUED == 0;
            frames += usize::from(first);
            self.rings.fill.put(self.umem.address(slot));
        }
        self.rings.rx.release(n);
        self.rings.fill.submit();
        frames
    }

    /// Sends every frame that waits back from its slot, after `change`; frames of one descriptor
    /// only. Returns how many there were.
    pub fn bounce(&mut self, mut change: impl FnMut(&mut [u8])) -> io::Result<usize> {
        let n = self.rings.rx.available(64);
        if n == 0 || !self.rings.tx.has_room(n) || self.free.len() < n {
            return Ok(0);
        }
        for i in 0..n {
            let desc = self.rings.rx.get(i);
            let Some((slot, at)) = self.umem.locate(desc.address) else { continue };
            // SAFETY: the slot came back through the receive ring, so it is ours.
            change(unsafe { self.umem.bytes_mut(slot, at, desc.len as usize) });
            self.rings.tx.put(Desc { options: 0, ..desc });
            self.in_flight += 1;
            if let Some(other) = self.free.pop() {
                self.rings.fill.put(self.umem.address(other));
            }
        }
        self.rings.rx.release(n);
        self.rings.fill.submit();
        self.finish()?;
        Ok(n)
    }

    /// Polls readable when frames wait.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.rings.socket.as_fd()
    }

    /// System calls made to send.
    pub fn kicks(&self) -> u64 {
        self.kicks
    }
}

impl Drop for BareQueue {
    fn drop(&mut self) {
        self.program.remove_socket(self.queue);
    }
}
