//! Frames and the pools they live in.
//!
//! A [`Frame`] is a linear handle on one buffer: it is not `Clone`, whoever holds it owns the
//! bytes, and dropping it, on any thread, gives the buffer back to its [`FramePool`]. The buffer
//! is a heap block or a chunk of an AF_XDP UMEM; the stack cannot tell and does not care.
//!
//! ```text
//!   base          head              tail                cap
//!    |  headroom   |  linear data    |     tailroom      |     + frags: Bytes | Frame, ...
//! ```
//!
//! A frame to be sent holds headers (and small payloads) in the linear part; bulk payload follows
//! in `frags`, reference-counted slices of the send buffer, which the driver gathers (`writev`, or
//! one fused copy into the UMEM). A received frame is linear, unless it came in several buffers or
//! receive merging put following segments behind it: then `frags` holds those frames.
//!
//! # What it costs
//!
//! A handle is one pointer. What is known about a frame stands in its slot's record, which the
//! pool made at start, beside the buffer and not in it (a UMEM's belongs to the kernel at times);
//! chained frames are a list through these records. So moving a frame moves eight bytes, and no
//! number of fragments that are frames allocates.
//!
//! A frame holds no count on its pool. The pool's memory goes when its last handle is gone *and*
//! its last slot is back: the last handle counts the slots that are out, and only from then on
//! does each return count down (`pool::Pool::orphan`).
//!
//! Free slots stand in two lists. One, behind a lock, is for everybody. The other belongs to a
//! [`FrameDomain`], the pools of one worker: whoever has entered the domain (which takes exclusive
//! access to it, hence the worker's lock) takes and gives slots there with plain loads and stores.
//! A drop cannot be told where it runs, so a thread remembers the domain that it is inside of; a
//! drop elsewhere takes the lock. Slots move between the lists in batches.
//!
//! `unsafe` in this crate stands in this module and its children only.
#![allow(unsafe_code)]

mod buf;
mod domain;
mod frags;
mod pool;
mod prefetch;
#[cfg(test)]
mod tests;

use std::alloc::Layout;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use bytes::Bytes;

pub use buf::PoolBuf;
pub(crate) use buf::Quota;
pub use domain::{Entered, FrameDomain};
pub use frags::{Frag, FragIter, Frags, IntoFrags};
pub use pool::{FramePool, Region};
pub use prefetch::prefetch;

use pool::Pool;

/// Room in front of a frame's data that [`FramePool::alloc`] leaves for headers: Ethernet, a VLAN
/// tag, IPv6, a shim6 payload header, TCP with full options, all rounded up.
pub const HEADROOM_BYTES: usize = 192;

/// What is known about the transport checksum of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing is known. On receive: verify in software. On transmit: already complete.
    #[default]
    Complete,
    /// Received and verified by the device or its peer kernel; do not verify again.
    Verified,
    /// The checksum field holds the pseudo-header sum only (virtio `NEEDS_CSUM`, or a kernel's
    /// "partial" checksum). On transmit: whoever copies or cuts the frame completes it. On
    /// receive: the bytes never crossed a wire, trust them; complete it before forwarding.
    /// Offsets count from the start of the linear data.
    Partial {
        /// First byte covered by the checksum (the transport header).
        start: u16,
        /// Where the 16-bit checksum stands, counted from `start`.
        offset: u16,
    },
    /// Received behind a header of the path layer, and summed by receive merging: transport header,
    /// payload, protocol and length; of a merged unit the same for each of its segments. Right if
    /// the addresses that the layer gives the packet make it all ones.
    Summed(u16),
}

impl Checksum {
    /// Whether the transport checksum of a received frame need not be verified.
    #[inline]
    pub const fn is_settled(self) -> bool {
        matches!(self, Checksum::Verified | Checksum::Partial { .. })
    }
}

/// Segmentation state: one frame that stands for many packets of one flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gso {
    /// An ordinary frame.
    #[default]
    None,
    /// TCP super-segment over IPv4, to be cut into `mss` payload bytes each.
    Tcp4 {
        /// Payload bytes per cut segment.
        mss: u16,
    },
    /// TCP super-segment over IPv6.
    Tcp6 {
        /// Payload bytes per cut segment.
        mss: u16,
    },
    /// Several datagrams of equal size to one destination (Linux `UDP_SEGMENT`).
    Udp {
        /// Payload bytes per cut datagram.
        size: u16,
    },
}

/// What travels beside the bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct FrameMeta {
    /// State of the transport checksum.
    pub checksum: Checksum,
    /// Super-segment, and how to cut it.
    pub gso: Gso,
    /// Flow hash, 0 when unknown. Chooses queues and bond members.
    pub flow_hash: u32,
    /// Receive queue of the device, or the queue to send on.
    pub queue: u16,
    /// Of a received packet, for policy routing: given by the class it was put into; 0: none.
    pub mark: u32,
    /// Offset from the linear data to the network header, once known. See [`Frame::network_header`].
    pub network_offset: i32,
}

/// What a [`Frame`] is beside its bytes; reached through it.
#[derive(Debug, Default)]
pub struct FrameState {
    /// Checksum, segmentation and queue state.
    pub meta: FrameMeta,
    /// Payload that follows the linear data.
    pub frags: Frags,
}

/// The record of one buffer.
#[repr(align(64))]
struct Slot {
    base: NonNull<u8>,
    /// `None`: a heap frame, whose record and buffer are one allocation.
    pool: Option<NonNull<Pool>>,
    cap: u32,
    head: u32,
    len: u32,
    index: u32,
    state: FrameState,
}

impl Slot {
    fn new(base: NonNull<u8>, cap: u32, index: u32) -> Slot {
        Slot { base, pool: None, cap, head: 0, len: 0, index, state: FrameState::default() }
    }
}

/// One frame; see the module documentation.
pub struct Frame {
    /// Owned: nothing else reaches the slot, or its buffer, while the frame lives.
    slot: NonNull<Slot>,
}

// SAFETY: a Frame is the sole owner of its slot and bytes; the pool it returns to takes them on
// any thread. What the fragments hold is Send + Sync.
unsafe impl Send for Frame {}
// SAFETY: shared access only reads.
unsafe impl Sync for Frame {}

impl Deref for Frame {
    type Target = FrameState;

    #[inline]
    fn deref(&self) -> &FrameState {
        &self.record().state
    }
}

impl DerefMut for Frame {
    #[inline]
    fn deref_mut(&mut self) -> &mut FrameState {
        &mut self.record_mut().state
    }
}

fn heap_layout(cap: usize) -> Layout {
    let bytes = size_of::<Slot>() + cap;
    Layout::from_size_align(bytes, align_of::<Slot>()).expect("a frame is smaller than 4 GiB")
}

impl Frame {
    #[inline]
    fn record(&self) -> &Slot {
        // SAFETY: the slot lives as long as the frame, which owns it.
        unsafe { self.slot.as_ref() }
    }

    #[inline]
    fn record_mut(&mut self) -> &mut Slot {
        // SAFETY: as in `record`; the handle is unique.
        unsafe { self.slot.as_mut() }
    }

    /// A frame outside any pool: tests, oversized reassembled packets, control paths. Allocates.
    pub fn from_heap(headroom: usize, data: &[u8]) -> Frame {
        let mut frame = Frame::heap_with_capacity(headroom, data.len());
        frame.append(data);
        frame
    }

    /// An empty heap frame with `headroom` bytes before and `capacity` bytes for data. Allocates.
    ///
    /// # Panics
    /// If that is 4 GiB or more.
    pub fn heap_with_capacity(headroom: usize, capacity: usize) -> Frame {
        let cap = headroom + capacity;
        let cap_bytes = u32::try_from(cap).expect("a frame is smaller than 4 GiB");
        let layout = heap_layout(cap);
        // SAFETY: the layout is not of zero bytes.
        let memory = unsafe { std::alloc::alloc_zeroed(layout) };
        let Some(memory) = NonNull::new(memory) else { std::alloc::handle_alloc_error(layout) };
        // SAFETY: the buffer follows the record in the same allocation.
        let base = unsafe { memory.add(size_of::<Slot>()) };
        let slot = memory.cast::<Slot>();
        let record = Slot { head: headroom as u32, ..Slot::new(base, cap_bytes, u32::MAX) };
        // SAFETY: the memory is ours, large enough and aligned for the record.
        unsafe { slot.write(record) };
        Frame { slot }
    }

    /// The linear data.
    #[inline]
    pub fn data(&self) -> &[u8] {
        let s = self.record();
        // SAFETY: head + len <= cap is an invariant, the slot is ours, its bytes are initialised
        // (pools start zeroed, UMEM is an anonymous mapping).
        unsafe { std::slice::from_raw_parts(s.base.as_ptr().add(s.head as usize), s.len as usize) }
    }

    /// The linear data, writable.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        let s = self.record_mut();
        // SAFETY: as in `data`; the handle is unique.
        unsafe {
            std::slice::from_raw_parts_mut(s.base.as_ptr().add(s.head as usize), s.len as usize)
        }
    }

    /// Bytes of linear data.
    #[inline]
    pub fn len(&self) -> usize {
        self.record().len as usize
    }

    /// Whether there is no linear data.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Linear data plus fragments, in bytes.
    #[inline]
    pub fn total_len(&self) -> usize {
        self.len() + self.frags.bytes()
    }

    /// How many packets of a wire the frame stands for; the first `header_bytes` of its data are
    /// headers that each of them has.
    #[inline]
    pub fn packets(&self, header_bytes: usize) -> u64 {
        match self.meta.gso {
            Gso::None => 1,
            Gso::Tcp4 { mss: size } | Gso::Tcp6 { mss: size } | Gso::Udp { size } => {
                let payload = self.total_len().saturating_sub(header_bytes);
                payload.div_ceil(usize::from(size.max(1))).max(1) as u64
            }
        }
    }

    /// Bytes free in front of the data.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.record().head as usize
    }

    /// Bytes free behind the data.
    #[inline]
    pub fn tailroom(&self) -> usize {
        let s = self.record();
        (s.cap - s.head - s.len) as usize
    }

    /// Bytes of the linear buffer: headroom, data and tailroom.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.record().cap as usize
    }

    /// Makes `n` bytes of headroom part of the data and returns them for writing.
    ///
    /// # Panics
    /// If there is less headroom: the caller reserves [`HEADROOM_BYTES`], which every header
    /// chain of this stack fits.
    #[inline]
    pub fn push_front(&mut self, n: usize) -> &mut [u8] {
        assert!(n <= self.headroom(), "push of {n} bytes into {} of headroom", self.headroom());
        let s = self.record_mut();
        s.head -= n as u32;
        s.len += n as u32;
        s.state.meta.network_offset += n as i32;
        if let Checksum::Partial { start, .. } = &mut s.state.meta.checksum {
            *start += n as u16;
        }
        &mut self.data_mut()[..n]
    }

    /// Removes `n` bytes from the front (they become headroom).
    ///
    /// # Panics
    /// If the linear data is shorter.
    #[inline]
    pub fn pull_front(&mut self, n: usize) {
        assert!(n <= self.len(), "pull of {n} bytes from {}", self.len());
        let s = self.record_mut();
        s.head += n as u32;
        s.len -= n as u32;
        s.state.meta.network_offset -= n as i32;
        if let Checksum::Partial { start, .. } = &mut s.state.meta.checksum {
            *start = start.saturating_sub(n as u16);
        }
    }

    /// Shortens the linear data to `len` bytes; longer is a no-op. Fragments stay.
    pub fn truncate(&mut self, len: usize) {
        let s = self.record_mut();
        s.len = len.min(s.len as usize) as u32;
    }

    /// Appends `n` bytes of tailroom to the data and returns them for writing (old contents).
    ///
    /// # Panics
    /// If there is less tailroom; ask [`Frame::tailroom`] first.
    pub fn push_back(&mut self, n: usize) -> &mut [u8] {
        assert!(n <= self.tailroom(), "append of {n} bytes into {} of tailroom", self.tailroom());
        let from = self.len();
        self.record_mut().len += n as u32;
        &mut self.data_mut()[from..]
    }

    /// Copies `data` behind the linear data.
    ///
    /// # Panics
    /// If there is less tailroom.
    pub fn append(&mut self, data: &[u8]) {
        self.push_back(data.len()).copy_from_slice(data);
    }

    /// Empties the frame and sets the headroom (at most the capacity).
    pub fn reset(&mut self, headroom: usize) {
        let s = self.record_mut();
        s.head = headroom.min(s.cap as usize) as u32;
        s.len = 0;
        s.state.frags.clear();
        s.state.meta = FrameMeta::default();
    }

    /// Remembers that the network header starts where the data starts now.
    pub fn mark_network_header(&mut self) {
        self.meta.network_offset = 0;
    }

    /// The bytes from the marked network header to the end of the linear data, also after the
    /// header was pulled. Used to quote a packet in an ICMP error.
    pub fn network_header(&self) -> &[u8] {
        let s = self.record();
        let end = s.head + s.len;
        let head = i64::from(s.head) + i64::from(self.meta.network_offset);
        let head = head.clamp(0, i64::from(end)) as usize;
        // SAFETY: head <= end <= cap, the slot is ours and initialised.
        unsafe { std::slice::from_raw_parts(s.base.as_ptr().add(head), end as usize - head) }
    }

    /// Copies linear data and fragments to the front of `out`; returns the bytes written.
    pub fn copy_to(&self, out: &mut [u8]) -> usize {
        let mut at = 0;
        for part in std::iter::once(self.data()).chain(&self.frags) {
            let n = part.len().min(out.len() - at);
            out[at..at + n].copy_from_slice(&part[..n]);
            at += n;
        }
        at
    }

    /// A heap copy with everything linear. Allocates.
    pub fn to_heap(&self) -> Frame {
        let n = self.total_len();
        let mut copy = Frame::heap_with_capacity(self.headroom(), n);
        self.copy_to(copy.push_back(n));
        copy.meta = self.meta;
        copy
    }

    /// The frame's linear data as shared bytes; the buffer returns to its pool when the last
    /// clone is dropped, on whatever thread. Allocates one small owner. Fragments are dropped.
    ///
    /// For what leaves the stack only: behind another frame it goes as it is, see
    /// [`Frags::push`].
    pub fn into_bytes(mut self) -> Bytes {
        self.frags.clear();
        Bytes::from_owner(self)
    }

    /// Index of the frame's slot in its pool; `None` for a heap frame.
    pub fn slot(&self) -> Option<u32> {
        let s = self.record();
        s.pool.map(|_| s.index)
    }

    /// Whether few frames are left in the frame's pool (less than an eighth): whoever would keep it
    /// for long copies it instead. Never true for a heap frame.
    #[inline]
    pub fn is_scarce(&self) -> bool {
        // SAFETY: a pool lives as long as any of its frames.
        self.record().pool.is_some_and(|pool| unsafe { pool.as_ref() }.is_scarce())
    }

    /// Gives up the frame but not its slot, which the caller now owns (to pass it to the kernel,
    /// and later to [`FramePool::frame_at`] or [`FramePool::give_slots`]). Fragments are dropped.
    /// `Err` returns a heap frame unchanged.
    pub fn into_slot(mut self) -> Result<u32, Frame> {
        let Some(index) = self.slot() else { return Err(self) };
        self.frags.clear();
        std::mem::forget(self);
        Ok(index)
    }
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        self.data()
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("len", &self.len())
            .field("frags", &self.frags.len())
            .field("headroom", &self.headroom())
            .field("meta", &self.meta)
            .finish_non_exhaustive()
    }
}

impl Drop for Frame {
    #[inline]
    fn drop(&mut self) {
        if !self.frags.is_empty() {
            self.frags.clear();
        }
        let Slot { pool, index, .. } = *self.record();
        match pool {
            // SAFETY: a pool lives as long as any of its frames; the slot is ours and given up.
            Some(pool) => unsafe { Pool::give(pool, index) },
            None => free_heap(self.slot),
        }
    }
}

#[cold]
fn free_heap(slot: NonNull<Slot>) {
    // SAFETY: a heap frame's record and buffer are one allocation of this layout, and the frame
    // that owns them is being dropped.
    unsafe {
        let layout = heap_layout(slot.as_ref().cap as usize);
        slot.drop_in_place();
        std::alloc::dealloc(slot.as_ptr().cast(), layout);
    }
}
