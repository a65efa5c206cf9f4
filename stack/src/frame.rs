//! Frames and the pools they live in.
//!
//! A [`Frame`] is a linear handle on one buffer: it is not `Clone`, whoever holds it owns the
//! bytes, and dropping it, on any thread, gives the buffer back to its [`FramePool`]. The buffer
//! is a heap block or a chunk of an AF_XDP UMEM; the stack cannot tell and does not care.
//!
//! ```text
//!   base          head              tail                cap
//!    |  headroom   |  linear data    |     tailroom      |     + frags: Bytes, Bytes, ...
//! ```
//!
//! A frame to be sent holds headers (and small payloads) in the linear part; bulk payload follows
//! in `frags`, reference-counted slices of the send buffer, which the driver gathers (`writev`, or
//! one fused copy into the UMEM). A received frame is linear, unless receive merging put the
//! payload of following segments into `frags`.
//!
//! This is the only module of the crate with `unsafe`.
#![allow(unsafe_code)]

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;

/// Room in front of a frame's data that [`FramePool::alloc`] leaves for headers: Ethernet, a VLAN
/// tag, IPv6, a shim6 payload header, TCP with full options, all rounded up.
pub const HEADROOM_BYTES: usize = 192;

/// Payload slices that follow the linear part of a frame.
pub type Frags = SmallVec<[Bytes; 2]>;

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
    /// Offset from the linear data to the network header, once known. See [`Frame::network_header`].
    pub network_offset: i32,
}

/// Keeps a memory region mapped for as long as a pool or any of its frames lives.
///
/// Implemented by whatever owns the memory: a boxed slab, an AF_XDP UMEM.
pub trait Region: Send + Sync + 'static {}

impl Region for Box<[u8]> {}

struct PoolShared {
    /// Start of each slot. The region outlives them.
    slots: Box<[NonNull<u8>]>,
    slot_bytes: u32,
    free: Mutex<Vec<u32>>,
    /// Allocations refused because the pool was empty.
    exhausted: AtomicUsize,
    _region: Box<dyn Region>,
}

// SAFETY: the pointers name disjoint slots of a region that is itself Send + Sync; a slot is
// reached only through the one Frame (or the one driver) that owns its index.
unsafe impl Send for PoolShared {}
// SAFETY: as above; the shared state proper is behind the mutex.
unsafe impl Sync for PoolShared {}

/// A fixed number of equal buffers, allocated at start. Cloning gives another handle on the pool.
///
/// `alloc` and the return of a frame take one short uncontended lock; neither blocks for long nor
/// allocates.
#[derive(Clone)]
pub struct FramePool {
    shared: Arc<PoolShared>,
}

impl fmt::Debug for FramePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FramePool")
            .field("slots", &self.slots())
            .field("slot_bytes", &self.slot_bytes())
            .field("free", &self.free())
            .finish()
    }
}

impl FramePool {
    /// A pool of `slots` heap buffers of `slot_bytes` each (headroom included).
    pub fn heap(slots: usize, slot_bytes: usize) -> FramePool {
        let stride = slot_bytes.next_multiple_of(64);
        let mut memory = vec![0u8; slots * stride].into_boxed_slice();
        let base = memory.as_mut_ptr();
        let pointers = (0..slots).map(|i| {
            // SAFETY: i * stride lies inside the allocation of slots * stride bytes.
            unsafe { NonNull::new_unchecked(base.add(i * stride)) }
        });
        let pointers: Vec<_> = pointers.collect();
        // SAFETY: the slots are disjoint parts of `memory`, which moves into the region (a boxed
        // slice does not move its bytes), and nobody else holds a pointer into it.
        unsafe { FramePool::from_region(Box::new(memory), pointers, slot_bytes) }
    }

    /// A pool over memory that somebody else mapped (a UMEM).
    ///
    /// # Safety
    /// Every pointer must be valid for reads and writes of `slot_bytes` bytes for as long as
    /// `region` lives, the slots must not overlap, and nothing else may touch a slot while a
    /// [`Frame`] owns it.
    pub unsafe fn from_region(
        region: Box<dyn Region>,
        slots: Vec<NonNull<u8>>,
        slot_bytes: usize,
    ) -> FramePool {
        let free = (0..slots.len() as u32).rev().collect();
        FramePool {
            shared: Arc::new(PoolShared {
                slots: slots.into_boxed_slice(),
                slot_bytes: u32::try_from(slot_bytes).expect("a frame is smaller than 4 GiB"),
                free: Mutex::new(free),
                exhausted: AtomicUsize::new(0),
                _region: region,
            }),
        }
    }

    /// An empty frame with [`HEADROOM_BYTES`] of headroom (less if the slots are small), or `None`
    /// when the pool is empty, which is counted.
    pub fn alloc(&self) -> Option<Frame> {
        let Some(slot) = self.shared.free.lock().pop() else {
            self.shared.exhausted.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let cap = self.shared.slot_bytes;
        let head = cap.min(HEADROOM_BYTES as u32);
        Some(Frame {
            base: self.shared.slots[slot as usize],
            cap,
            head,
            len: 0,
            slot,
            owner: Owner::Pool(Arc::clone(&self.shared)),
            frags: Frags::new(),
            meta: FrameMeta::default(),
        })
    }

    /// Takes up to `max` free slots for a driver that hands them to the kernel (fill ring).
    pub fn take_slots(&self, max: usize, out: &mut Vec<u32>) -> usize {
        let mut free = self.shared.free.lock();
        let n = max.min(free.len());
        let from = free.len() - n;
        out.extend(free.drain(from..));
        n
    }

    /// Gives slots back that a driver took with [`FramePool::take_slots`] or
    /// [`Frame::into_slot`].
    pub fn give_slots(&self, slots: &[u32]) {
        self.shared.free.lock().extend_from_slice(slots);
    }

    /// The frame in a slot that the caller owns, with `len` bytes of data from offset `head`.
    ///
    /// # Safety
    /// The caller must own `slot` (from [`FramePool::take_slots`] or [`Frame::into_slot`]) and
    /// give that ownership up here, and the kernel must be done with the slot.
    ///
    /// # Panics
    /// If `slot` or `head + len` is out of bounds.
    pub unsafe fn frame_at(&self, slot: u32, head: usize, len: usize) -> Frame {
        assert!(head + len <= self.shared.slot_bytes as usize, "frame {slot} out of bounds");
        Frame {
            base: self.shared.slots[slot as usize],
            cap: self.shared.slot_bytes,
            head: head as u32,
            len: len as u32,
            slot,
            owner: Owner::Pool(Arc::clone(&self.shared)),
            frags: Frags::new(),
            meta: FrameMeta::default(),
        }
    }

    /// Number of buffers.
    pub fn slots(&self) -> usize {
        self.shared.slots.len()
    }

    /// Bytes per buffer, headroom included.
    pub fn slot_bytes(&self) -> usize {
        self.shared.slot_bytes as usize
    }

    /// Buffers nobody holds.
    pub fn free(&self) -> usize {
        self.shared.free.lock().len()
    }

    /// How often [`FramePool::alloc`] found nothing.
    pub fn exhausted(&self) -> usize {
        self.shared.exhausted.load(Ordering::Relaxed)
    }

    /// Whether `frame` lives in this pool.
    pub fn owns(&self, frame: &Frame) -> bool {
        matches!(&frame.owner, Owner::Pool(p) if Arc::ptr_eq(p, &self.shared))
    }
}

enum Owner {
    Pool(Arc<PoolShared>),
    /// `Box<[u8]>` of `cap` bytes, leaked into `base`.
    Heap,
}

/// One frame; see the module documentation.
pub struct Frame {
    base: NonNull<u8>,
    cap: u32,
    head: u32,
    len: u32,
    slot: u32,
    owner: Owner,
    /// Payload that follows the linear data.
    pub frags: Frags,
    /// Checksum, segmentation and queue state.
    pub meta: FrameMeta,
}

// SAFETY: a Frame is the sole owner of its bytes; the pool it returns to is Send + Sync.
unsafe impl Send for Frame {}
// SAFETY: shared access only reads.
unsafe impl Sync for Frame {}

impl Frame {
    /// A frame outside any pool: tests, oversized reassembled packets, control paths. Allocates.
    pub fn from_heap(headroom: usize, data: &[u8]) -> Frame {
        let mut frame = Frame::heap_with_capacity(headroom, data.len());
        frame.append(data);
        frame
    }

    /// An empty heap frame with `headroom` bytes before and `capacity` bytes for data. Allocates.
    pub fn heap_with_capacity(headroom: usize, capacity: usize) -> Frame {
        let cap = headroom + capacity;
        let memory = vec![0u8; cap].into_boxed_slice();
        let base = Box::leak(memory).as_mut_ptr();
        Frame {
            // SAFETY: a leaked box is never null.
            base: unsafe { NonNull::new_unchecked(base) },
            cap: u32::try_from(cap).expect("a frame is smaller than 4 GiB"),
            head: headroom as u32,
            len: 0,
            slot: u32::MAX,
            owner: Owner::Heap,
            frags: Frags::new(),
            meta: FrameMeta::default(),
        }
    }

    /// The linear data.
    #[inline]
    pub fn data(&self) -> &[u8] {
        // SAFETY: head + len <= cap is an invariant, the slot is ours, its bytes are initialised
        // (pools start zeroed, UMEM is an anonymous mapping).
        unsafe {
            std::slice::from_raw_parts(
                self.base.as_ptr().add(self.head as usize),
                self.len as usize,
            )
        }
    }

    /// The linear data, writable.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `data`; the handle is unique.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.base.as_ptr().add(self.head as usize),
                self.len as usize,
            )
        }
    }

    /// Bytes of linear data.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is no linear data.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Linear data plus fragments, in bytes.
    pub fn total_len(&self) -> usize {
        self.len() + self.frags.iter().map(Bytes::len).sum::<usize>()
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
    pub fn headroom(&self) -> usize {
        self.head as usize
    }

    /// Bytes free behind the data.
    pub fn tailroom(&self) -> usize {
        (self.cap - self.head - self.len) as usize
    }

    /// Makes `n` bytes of headroom part of the data and returns them for writing.
    ///
    /// # Panics
    /// If there is less headroom: the caller reserves [`HEADROOM_BYTES`], which every header
    /// chain of this stack fits.
    pub fn push_front(&mut self, n: usize) -> &mut [u8] {
        assert!(n <= self.headroom(), "push of {n} bytes into {} of headroom", self.headroom());
        self.head -= n as u32;
        self.len += n as u32;
        self.meta.network_offset += n as i32;
        if let Checksum::Partial { start, .. } = &mut self.meta.checksum {
            *start += n as u16;
        }
        &mut self.data_mut()[..n]
    }

    /// Removes `n` bytes from the front (they become headroom).
    ///
    /// # Panics
    /// If the linear data is shorter.
    pub fn pull_front(&mut self, n: usize) {
        assert!(n <= self.len(), "pull of {n} bytes from {}", self.len());
        self.head += n as u32;
        self.len -= n as u32;
        self.meta.network_offset -= n as i32;
        if let Checksum::Partial { start, .. } = &mut self.meta.checksum {
            *start = start.saturating_sub(n as u16);
        }
    }

    /// Shortens the linear data to `len` bytes; longer is a no-op. Fragments stay.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len as u32);
    }

    /// Appends `n` bytes of tailroom to the data and returns them for writing (old contents).
    ///
    /// # Panics
    /// If there is less tailroom; ask [`Frame::tailroom`] first.
    pub fn push_back(&mut self, n: usize) -> &mut [u8] {
        assert!(n <= self.tailroom(), "append of {n} bytes into {} of tailroom", self.tailroom());
        let from = self.len();
        self.len += n as u32;
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
        self.head = (headroom as u32).min(self.cap);
        self.len = 0;
        self.frags.clear();
        self.meta = FrameMeta::default();
    }

    /// Remembers that the network header starts where the data starts now.
    pub fn mark_network_header(&mut self) {
        self.meta.network_offset = 0;
    }

    /// The bytes from the marked network header to the end of the linear data, also after the
    /// header was pulled. Used to quote a packet in an ICMP error.
    pub fn network_header(&self) -> &[u8] {
        let head = i64::from(self.head) + i64::from(self.meta.network_offset);
        let head = head.clamp(0, i64::from(self.head + self.len)) as usize;
        let end = (self.head + self.len) as usize;
        // SAFETY: head <= end <= cap, the slot is ours and initialised.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(head), end - head) }
    }

    /// Copies linear data and fragments to the front of `out`; returns the bytes written.
    pub fn copy_to(&self, out: &mut [u8]) -> usize {
        let mut at = 0;
        for part in std::iter::once(self.data()).chain(self.frags.iter().map(|b| &b[..])) {
            let n = part.len().min(out.len() - at);
            out[at..at + n].copy_from_slice(&part[..n]);
            at += n;
        }
        at
    }

    /// A heap copy with everything linear. Allocates.
    pub fn to_heap(&self) -> Frame {
        let mut copy = Frame::heap_with_capacity(self.headroom(), self.total_len());
        let n = self.total_len();
        self.copy_to(copy.push_back(n));
        copy.meta = self.meta;
        copy
    }

    /// The frame's linear data as shared bytes; the buffer returns to its pool when the last
    /// clone is dropped, on whatever thread. Allocates one small owner.
    pub fn into_bytes(mut self) -> Bytes {
        self.frags.clear();
        Bytes::from_owner(self)
    }

    /// Index of the frame's slot in its pool; `None` for a heap frame.
    pub fn slot(&self) -> Option<u32> {
        matches!(self.owner, Owner::Pool(_)).then_some(self.slot)
    }

    /// Whether few frames are left in the frame's pool (less than an eighth): whoever would keep it
    /// for long copies it instead. Never true for a heap frame.
    pub fn is_scarce(&self) -> bool {
        match &self.owner {
            Owner::Pool(pool) => pool.free.lock().len() * 8 < pool.slots.len(),
            Owner::Heap => false,
        }
    }

    /// Gives up the frame but not its slot, which the caller now owns (to pass it to the kernel,
    /// and later to [`FramePool::frame_at`] or [`FramePool::give_slots`]). Fragments are dropped.
    /// `Err` returns a heap frame unchanged.
    #[expect(clippy::result_large_err, reason = "the frame itself comes back")]
    pub fn into_slot(mut self) -> Result<u32, Frame> {
        if matches!(self.owner, Owner::Heap) {
            return Err(self);
        }
        self.frags.clear();
        let slot = self.slot;
        // An empty heap owner frees nothing.
        self.owner = Owner::Heap;
        self.cap = 0;
        Ok(slot)
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
            .field("len", &self.len)
            .field("frags", &self.frags.len())
            .field("headroom", &self.head)
            .field("meta", &self.meta)
            .finish_non_exhaustive()
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        match &self.owner {
            Owner::Pool(pool) => pool.free.lock().push(self.slot),
            Owner::Heap if self.cap > 0 => {
                let slice =
                    std::ptr::slice_from_raw_parts_mut(self.base.as_ptr(), self.cap as usize);
                // SAFETY: base and cap came from Box::leak of a boxed slice of that length.
                drop(unsafe { Box::from_raw(slice) });
            }
            Owner::Heap => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_frame_returns_to_its_pool() {
        let pool = FramePool::heap(2, 512);
        let a = pool.alloc().unwrap();
        let b = pool.alloc().unwrap();
        assert!(pool.alloc().is_none());
        assert_eq!(pool.exhausted(), 1);
        drop(a);
        std::thread::spawn(move || drop(b.into_bytes())).join().unwrap();
        assert_eq!(pool.free(), 2);
    }

    #[test]
    fn headers_are_pushed_and_pulled() {
        let pool = FramePool::heap(1, 512);
        let mut f = pool.alloc().unwrap();
        f.append(b"payload");
        f.push_front(3).copy_from_slice(b"ip:");
        f.mark_network_header();
        f.push_front(4).copy_from_slice(b"eth:");
        assert_eq!(f.data(), b"eth:ip:payload");
        f.pull_front(7);
        assert_eq!(f.data(), b"payload");
        assert_eq!(f.network_header(), b"ip:payload");
        f.frags.push(Bytes::from_static(b"+more"));
        assert_eq!(f.to_heap().data(), b"payload+more");
    }

    #[test]
    fn a_slot_leaves_and_comes_back() {
        let pool = FramePool::heap(1, 512);
        let mut f = pool.alloc().unwrap();
        f.append(b"x");
        let slot = f.into_slot().unwrap();
        assert_eq!(pool.free(), 0);
        // SAFETY: the slot was just taken from its frame.
        let f = unsafe { pool.frame_at(slot, HEADROOM_BYTES, 1) };
        assert_eq!(f.data(), b"x");
        drop(f);
        assert_eq!(pool.free(), 1);
        assert!(Frame::from_heap(0, b"h").into_slot().is_err());
    }
}
