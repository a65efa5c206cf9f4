//! The sending side of a queue.
//!
//! A frame goes one of four ways. *In place*: a linear frame of the UMEM is a descriptor. *Chained*:
//! so are its fragments, if they lie in the UMEM too. *Gathered*: of a super-segment whose payload
//! lies in the UMEM only the headers are written, one set for each segment, and descriptors point
//! at the payload. *Copied*: everything else is cut, summed and written into slots in one pass.
//!
//! In the copying modes only frames longer than a slot are chained or gathered, see
//! [`super::Gather`].
//!
//! What descriptors point at stays owned by [`super::held::Held`] until their completion.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use weft_stack::frame::{Frag, Frame, Gso};

use super::FRAME_SLOTS_MAX;
use super::ring::{CONTINUED, Desc};
use super::rings::{Rings, reap};
use super::socket::AfXdp;
use crate::device::Medium;
use crate::segment::{Cut, complete_checksum};

/// What the kernel sends per call without `XDP_MAX_TX_SKB_BUDGET`.
const TX_BATCH: usize = 32;
/// Headers in one slot start on lines of their own.
const HEADER_ALIGN: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// It fits, or is in the ring already.
    Yes,
    /// No ring entries or no slots: backpressure.
    NoRoom,
    /// Can never be sent here.
    Refused,
}

/// How a frame gets into the ring; see the module documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    AsItIs,
    Gathered,
    Copied,
}

impl AfXdp {
    /// Takes frames from the front while there is room; returns how many.
    pub(super) fn take_frames(&mut self, burst: &mut VecDeque<Frame>) -> usize {
        let mut taken = 0;
        while let Some(frame) = burst.front() {
            let way = self.way(frame);
            let result = match way {
                Way::AsItIs if self.rings.tx.has_room(1 + frame.frags.len()) => Taken::Yes,
                Way::AsItIs => Taken::NoRoom,
                Way::Gathered => self.gather(frame),
                Way::Copied => self.copy_out(frame),
            };
            if result == Taken::NoRoom {
                break;
            }
            let Some(frame) = burst.pop_front() else { break };
            taken += 1;
            match (result, way) {
                (Taken::Refused, _) => self.stats.tx_dropped += 1,
                (_, Way::AsItIs) => self.send(frame),
                (_, Way::Gathered) => self.pin(frame),
                (_, Way::Copied) => {}
            }
        }
        taken
    }

    fn way(&self, frame: &Frame) -> Way {
        let ours = self.umem.pool().owns(frame);
        let frags = &frame.frags;
        if frags.is_empty() {
            let whole = ours && frame.meta.gso == Gso::None;
            return if whole { Way::AsItIs } else { Way::Copied };
        }
        let mut pieces = 0;
        for frag in frags {
            if !self.gathers || frag.is_empty() || self.umem.find(frag).is_none() {
                return Way::Copied;
            }
            pieces += 1;
        }
        let size = match frame.meta.gso {
            Gso::None if ours && !frame.is_empty() && pieces < FRAME_SLOTS_MAX => {
                return Way::AsItIs;
            }
            Gso::None => return Way::Copied,
            Gso::Tcp4 { mss } | Gso::Tcp6 { mss } => usize::from(mss),
            Gso::Udp { size } => usize::from(size),
        };
        if frame.len() + size < self.gather_bytes_min {
            return Way::Copied;
        }
        if chains(frags.iter().map(<[u8]>::len), size) { Way::Gathered } else { Way::Copied }
    }

    fn put(&mut self, slot: u32, desc: Desc) {
        self.held.send(slot);
        self.rings.tx.put(desc);
    }

    /// Sends a frame of the UMEM, whose fragments are there too, from where it lies.
    fn send(&mut self, mut frame: Frame) {
        let bytes = frame.total_len();
        let len = frame.len() as u32;
        let sendable = len > 0 && bytes <= self.frame_bytes_max() && complete_checksum(&mut frame);
        let found = self.umem.find(frame.data()).filter(|_| sendable);
        let Some((slot, address)) = found else {
            self.stats.tx_dropped += 1;
            return;
        };
        let frags = std::mem::take(&mut frame.frags);
        if frame.into_slot().is_err() {
            self.stats.tx_dropped += 1;
            return;
        }
        let mut left = frags.len();
        let options = |left| if left > 0 { CONTINUED } else { 0 };
        self.put(slot, Desc { address, len, options: options(left) });
        for frag in frags {
            left -= 1;
            let (slot, address) = self.umem.find(&frag).expect("found when the way was chosen");
            self.put(slot, Desc { address, len: frag.len() as u32, options: options(left) });
            self.keep(slot, frag);
        }
        self.count_sent(bytes);
    }

    /// Writes the headers of every segment of a frame and points descriptors at its payload, which
    /// the caller pins afterwards.
    fn gather(&mut self, frame: &Frame) -> Taken {
        let Ok(mut cut) = Cut::new(frame, Medium::Ethernet) else { return Taken::Refused };
        let head = cut.header_bytes();
        let entries = 2 * cut.frames() + frame.frags.len();
        if entries > self.tx_ring || frame.len() > head {
            return self.copy_out(frame);
        }
        if cut.frame_bytes_max() > self.frame_bytes_max() {
            return Taken::Refused;
        }
        let stride = head.next_multiple_of(HEADER_ALIGN);
        let per_slot = self.umem.frame_bytes() / stride;
        if !self.rings.tx.has_room(entries) || !self.take_slots(cut.frames().div_ceil(per_slot)) {
            return Taken::NoRoom;
        }
        let AfXdp { umem, rings, held, slots, stats, .. } = self;
        for n in 0..cut.frames() {
            let Some(len) = cut.next_len() else { break };
            let (slot, offset) = (slots[n / per_slot], n % per_slot * stride);
            let mut left = len - head;
            let options = if left > 0 { CONTINUED } else { 0 };
            let address = umem.address(slot) + offset as u64;
            held.send(slot);
            rings.tx.put(Desc { address, len: head as u32, options });
            // SAFETY: the slot was taken from the pool above, and every segment has a part of it
            // to itself. The kernel sees none of it before `submit`.
            let headers = unsafe { umem.bytes_mut(slot, offset, head) };
            cut.gather_next(headers, |piece| {
                left -= piece.len();
                let (slot, address) = umem.find(piece).expect("found when the way was chosen");
                let options = if left > 0 { CONTINUED } else { 0 };
                held.send(slot);
                rings.tx.put(Desc { address, len: piece.len() as u32, options });
            });
            stats.tx_frames += 1;
            stats.tx_bytes += len as u64;
        }
        slots.clear();
        Taken::Yes
    }

    /// Keeps the payload of a frame that was gathered until the kernel is done with it.
    fn pin(&mut self, mut frame: Frame) {
        for frag in std::mem::take(&mut frame.frags) {
            if let Some((slot, _)) = self.umem.find(&frag)
                && self.held.is_sent(slot)
            {
                self.keep(slot, frag);
            }
        }
    }

    /// The slot of a fragment is in flight: shared bytes are kept, a frame's slot is ours now.
    fn keep(&mut self, slot: u32, frag: Frag) {
        match frag {
            Frag::Shared(bytes) => self.held.pin(slot, bytes),
            Frag::Frame(frame) => {
                let given = frame.into_slot();
                debug_assert_eq!(given.ok(), Some(slot));
            }
        }
    }

    /// Writes the frame, cut if it is a super-segment, into slots of the pool.
    fn copy_out(&mut self, frame: &Frame) -> Taken {
        let Ok(mut cut) = Cut::new(frame, Medium::Ethernet) else { return Taken::Refused };
        let longest = cut.frame_bytes_max();
        let per_frame = longest.div_ceil(self.umem.frame_bytes());
        let chain_max = if self.gathers { FRAME_SLOTS_MAX } else { 1 };
        let wanted = per_frame * cut.frames();
        if longest > self.frame_bytes_max()
            || !(1..=chain_max).contains(&per_frame)
            || wanted > self.tx_ring
        {
            return Taken::Refused;
        }
        if !self.rings.tx.has_room(wanted) || !self.take_slots(wanted) {
            return Taken::NoRoom;
        }
        while let Some(len) = cut.next_len() {
            self.write_next(&mut cut, len);
        }
        self.umem.pool().give_slots(&self.slots);
        self.slots.clear();
        self.stats.tx_copied_bytes += (frame.total_len() - cut.header_bytes()) as u64;
        Taken::Yes
    }

    /// Writes the next frame of a cut into one slot, or as many as it takes.
    fn write_next(&mut self, cut: &mut Cut<'_>, len: usize) {
        self.count_sent(len);
        let chunk = self.umem.frame_bytes();
        let mut parts: [&mut [u8]; FRAME_SLOTS_MAX] = Default::default();
        let mut written = 0;
        for part in &mut parts {
            let bytes = chunk.min(len - written);
            written += bytes;
            let slot = self.slots.pop().expect("a slot was taken for every descriptor");
            let options = if written < len { CONTINUED } else { 0 };
            self.held.send(slot);
            let address = self.umem.address(slot);
            self.rings.tx.put(Desc { address, len: bytes as u32, options });
            // SAFETY: the slot came from the pool, nobody else has it; the kernel does not see it
            // before `submit`.
            *part = unsafe { self.umem.bytes_mut(slot, 0, bytes) };
            if written == len {
                break;
            }
        }
        cut.write_next_into(&mut parts[..len.div_ceil(chunk)]);
    }

    fn take_slots(&mut self, n: usize) -> bool {
        self.slots.clear();
        let mut got = self.umem.pool().take_slots_to_send(n, &mut self.slots);
        if got < n {
            reap(&mut self.rings, &self.umem, &mut self.held);
            got += self.umem.pool().take_slots_to_send(n - got, &mut self.slots);
        }
        if got < n {
            self.umem.pool().give_slots(&self.slots);
            self.slots.clear();
        }
        got == n
    }

    fn count_sent(&mut self, len: usize) {
        self.stats.tx_frames += 1;
        self.stats.tx_bytes += len as u64;
    }

    /// Wakes the kernel until it has taken all descriptors or makes no more progress. A call takes
    /// all at once, or [`TX_BATCH`] before Linux 6.17.
    pub(super) fn kick(&mut self) -> io::Result<()> {
        let mut left = self.rings.tx.unread();
        for _ in 0..=self.tx_ring / TX_BATCH {
            if left == 0 || !self.rings.tx.needs_wakeup() {
                break;
            }
            self.stats.kicks += 1;
            wake(&self.rings)?;
            let now = self.rings.tx.unread();
            if now == left {
                break;
            }
            left = now;
        }
        Ok(())
    }
}

/// Whether each segment of `size` bytes has as few parts of these pieces as a chain has slots behind
/// the headers.
fn chains(pieces: impl Iterator<Item = usize>, size: usize) -> bool {
    let (mut room, mut parts) = (size, 0);
    for len in pieces {
        parts += 1;
        if parts >= FRAME_SLOTS_MAX {
            return false;
        }
        if len < room {
            room -= len;
        } else {
            // The last segment that it reaches into begins with what is left of it.
            let rest = (len - room) % size.max(1);
            (room, parts) = (size - rest, usize::from(rest > 0));
        }
    }
    true
}

/// Makes the kernel look at the transmit ring.
pub(super) fn wake(rings: &Rings) -> io::Result<()> {
    // SAFETY: a send of no bytes from no buffer to nobody; it makes the kernel look at the
    // ring.
    let sent = unsafe {
        libc::sendto(
            rings.socket.as_fd().as_raw_fd(),
            std::ptr::null(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null(),
            0,
        )
    };
    if sent >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // More to send than one call does, a full queue below, a link that is down, a signal:
        // what is left stays in the ring for the next call.
        Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::ENETDOWN | libc::EINTR) => Ok(()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_takes_as_many_pieces_as_one_segment_has_slots_for() {
        let fits = |pieces: &[usize], size| chains(pieces.iter().copied(), size);
        assert!(fits(&[2048; 30], 1448));
        assert!(fits(&[100, 3, 5, 60_000, 1, 1], 1448));
        // Sixteen beside the headers, wherever the segment begins.
        assert!(fits(&[100; 64], 1600) && !fits(&[100; 64], 1601));
        assert!(fits(&[&[1650][..], &[100; 15]].concat(), 1600));
        assert!(!fits(&[&[1650][..], &[100; 15], &[1]].concat(), 1600));
        assert!(!fits(&[1; 17], 1448) && fits(&[1; 16], 1448));
    }
}
