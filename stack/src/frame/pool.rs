//! Pools: slots, their records, and the two lists of free ones.

use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::{Frame, FrameMeta, HEADROOM_BYTES, Slot, domain};

/// Free slots that a domain keeps to itself at most; half of them move at once.
const LOCAL_SLOTS_MAX: usize = 512;
/// Pools from so many slots on keep some for drivers.
const RESERVE_FROM: usize = 1024;
/// Of these, one slot of so many.
const RESERVE_PART: usize = 32;

/// Keeps a memory region mapped for as long as a pool or any of its frames lives.
///
/// Implemented by whatever owns the memory: a boxed slab, an AF_XDP UMEM.
pub trait Region: Send + Sync + 'static {}

impl Region for Box<[u8]> {}

/// The free slots that a domain keeps. Only a thread inside of it touches `slots`, and only such a
/// thread writes `len`.
struct Local {
    len: AtomicU32,
    slots: Box<[Cell<u32>]>,
}

impl Local {
    fn new(slots: usize) -> Local {
        Local { len: AtomicU32::new(0), slots: vec![Cell::new(0); slots].into_boxed_slice() }
    }

    #[inline]
    fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed) as usize
    }

    #[inline]
    fn set_len(&self, len: usize) {
        // A plain store: others only read it, as a hint.
        self.len.store(len as u32, Ordering::Relaxed);
    }

    #[inline]
    fn push(&self, slot: u32) -> bool {
        let len = self.len();
        let Some(place) = self.slots.get(len) else { return false };
        place.set(slot);
        self.set_len(len + 1);
        true
    }

    #[inline]
    fn pop(&self) -> Option<u32> {
        let len = self.len().checked_sub(1)?;
        self.set_len(len);
        Some(self.slots[len].get())
    }
}

struct Shared {
    free: Vec<u32>,
    /// The last handle is gone: every slot that returns counts down [`Pool::out`].
    orphaned: bool,
    /// Fewer slots are here than the reserve: [`Pool::home`] is nobody's until they came back, so
    /// that every slot takes the way through this list.
    closed: bool,
}

pub(super) struct Pool {
    /// `count` records, from a boxed slice.
    slots: NonNull<Slot>,
    count: u32,
    slot_bytes: u32,
    /// Addresses from the first slot's first byte to the last one's end.
    range: Range<usize>,
    /// Token of the domain it belongs to, 0 for none; its complement while the pool is closed.
    home: AtomicUsize,
    /// Slots of the shared list that only drivers get.
    reserve: usize,
    local: Local,
    shared: Mutex<Shared>,
    /// Length of the shared list, to be read without its lock.
    shared_len: AtomicU32,
    /// Once orphaned: slots that are not back, and one for whoever orphans.
    out: AtomicUsize,
    /// Allocations refused because the pool was empty.
    exhausted: AtomicUsize,
    _region: Box<dyn Region>,
}

// SAFETY: the records name disjoint slots of a region that is itself Send + Sync; a slot and its
// record are reached only through the one Frame (or the one driver) that owns its index. `local`
// is touched only inside its domain, which one thread is at a time.
unsafe impl Send for Pool {}
// SAFETY: as above; the shared state proper is behind the mutex.
unsafe impl Sync for Pool {}

impl Pool {
    fn is_home(&self) -> bool {
        domain::is_inside(self.home.load(Ordering::Relaxed))
    }

    fn free(&self) -> usize {
        self.local.len() + self.shared_len.load(Ordering::Relaxed) as usize
    }

    pub(super) fn is_scarce(&self) -> bool {
        self.free() * 8 < self.count as usize
    }

    /// After every change of the shared list: its length, and whether its reserve is whole.
    fn note_shared(&self, shared: &mut Shared) {
        self.shared_len.store(shared.free.len() as u32, Ordering::Relaxed);
        let short = shared.free.len() < self.reserve;
        // Closed from inside only, where the local list is known to be empty.
        if short != shared.closed && (shared.closed || self.is_home()) {
            shared.closed = short;
            // A domain's token is an address, whose complement is no domain's.
            self.home.fetch_xor(usize::MAX, Ordering::Relaxed);
        }
    }

    /// How many slots the shared list has for whoever leaves `keep` of them.
    fn above(shared: &Shared, keep: usize) -> usize {
        shared.free.len().saturating_sub(keep)
    }

    /// A free slot.
    #[inline]
    fn take(&self) -> Option<u32> {
        if self.is_home() { self.local.pop().or_else(|| self.refill()) } else { self.take_shared() }
    }

    fn take_shared(&self) -> Option<u32> {
        let mut shared = self.shared.lock();
        let slot = if Pool::above(&shared, self.reserve) > 0 { shared.free.pop() } else { None };
        self.note_shared(&mut shared);
        slot
    }

    /// Takes up to `max` free slots, of which `keep` stay in the shared list.
    fn take_many(&self, max: usize, keep: usize, out: &mut Vec<u32>) -> usize {
        let before = out.len();
        if self.is_home() {
            while out.len() - before < max
                && let Some(slot) = self.local.pop()
            {
                out.push(slot);
            }
        }
        let left = max - (out.len() - before);
        if left > 0 {
            let mut shared = self.shared.lock();
            let from = shared.free.len() - left.min(Pool::above(&shared, keep));
            out.extend(shared.free.drain(from..));
            self.note_shared(&mut shared);
        }
        out.len() - before
    }

    /// A slot from the shared list, and a batch for the next calls.
    #[cold]
    fn refill(&self) -> Option<u32> {
        let mut shared = self.shared.lock();
        let above = Pool::above(&shared, self.reserve).checked_sub(1)?;
        let slot = shared.free.pop();
        let from = shared.free.len() - above.min(self.local.slots.len() / 2);
        for slot in shared.free.drain(from..) {
            self.local.push(slot);
        }
        self.note_shared(&mut shared);
        slot
    }

    /// Takes back a slot.
    ///
    /// # Safety
    /// The caller owned the slot, and its pool lives until here.
    #[inline]
    pub(super) unsafe fn give(pool: NonNull<Pool>, slot: u32) {
        // SAFETY: it lives at least until the slot is back.
        let this = unsafe { pool.as_ref() };
        if !(this.is_home() && this.local.push(slot)) {
            // SAFETY: as promised by the caller.
            unsafe { Pool::give_shared(pool, slot) };
        }
    }

    #[cold]
    unsafe fn give_shared(pool: NonNull<Pool>, slot: u32) {
        // SAFETY: the pool lives until the last slot is counted down, below.
        let this = unsafe { pool.as_ref() };
        let mut shared = this.shared.lock();
        shared.free.push(slot);
        if this.is_home() {
            // The local list is full: half of it goes along.
            for _ in 0..this.local.slots.len() / 2 {
                shared.free.extend(this.local.pop());
            }
        }
        this.note_shared(&mut shared);
        let orphaned = shared.orphaned;
        drop(shared);
        if orphaned {
            // SAFETY: this slot is one of those counted when the pool was orphaned.
            unsafe { Pool::count_down(pool) };
        }
    }

    /// The last handle goes: the pool ends with the last slot that is out.
    ///
    /// # Safety
    /// There is no handle any more, hence no domain.
    unsafe fn orphan(pool: NonNull<Pool>) {
        // SAFETY: it lives until the count taken here is counted down.
        let this = unsafe { pool.as_ref() };
        let mut shared = this.shared.lock();
        let out = this.count as usize - shared.free.len() - this.local.len();
        this.out.store(out + 1, Ordering::Relaxed);
        shared.orphaned = true;
        drop(shared);
        // SAFETY: the one that was added.
        unsafe { Pool::count_down(pool) };
    }

    /// # Safety
    /// The caller does not touch the pool after it.
    unsafe fn count_down(pool: NonNull<Pool>) {
        // SAFETY: it lives until the count is 0.
        if unsafe { pool.as_ref() }.out.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: made by `Box::leak`, and everybody else has counted down, which was the
            // last thing they did with it.
            drop(unsafe { Box::from_raw(pool.as_ptr()) });
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let slots = NonNull::slice_from_raw_parts(self.slots, self.count as usize);
        // SAFETY: they came from a boxed slice of that length, and no frame is left.
        drop(unsafe { Box::from_raw(slots.as_ptr()) });
    }
}

/// Handles on one pool share it; the last one orphans the pool.
struct Handle(NonNull<Pool>);

// SAFETY: Pool is Send + Sync.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: no FramePool is left, and a domain would hold one.
        unsafe { Pool::orphan(self.0) };
    }
}

/// A fixed number of equal buffers, allocated at start. Cloning gives another handle on the pool.
///
/// Inside of its [`FrameDomain`](super::FrameDomain), `alloc` and the return of a frame are a few
/// plain instructions; elsewhere they take one short lock. Neither blocks for long nor allocates.
#[derive(Clone)]
pub struct FramePool {
    /// What the handle keeps.
    pool: NonNull<Pool>,
    _handle: Arc<Handle>,
}

// SAFETY: Pool is Send + Sync.
unsafe impl Send for FramePool {}
// SAFETY: as above.
unsafe impl Sync for FramePool {}

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
    #[inline]
    fn pool(&self) -> &Pool {
        // SAFETY: a handle keeps the pool.
        unsafe { self.pool.as_ref() }
    }

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
        let count = slots.len() as u32;
        let starts = || slots.iter().map(|base| base.addr().get());
        let first = starts().min().unwrap_or_default();
        let range = first..starts().max().map_or(first, |last| last + slot_bytes);
        let slot_bytes = u32::try_from(slot_bytes).expect("a frame is smaller than 4 GiB");
        let records = slots.into_iter().zip(0..).map(|(base, i)| Slot::new(base, slot_bytes, i));
        let records: Box<[Slot]> = records.collect();
        let pool = Box::new(Pool {
            slots: NonNull::from(Box::leak(records)).cast(),
            count,
            slot_bytes,
            range,
            home: AtomicUsize::new(0),
            reserve: if count as usize >= RESERVE_FROM { count as usize / RESERVE_PART } else { 0 },
            local: Local::new((count as usize / 2).min(LOCAL_SLOTS_MAX)),
            shared: Mutex::new(Shared {
                free: (0..count).rev().collect(),
                orphaned: false,
                closed: false,
            }),
            shared_len: AtomicU32::new(count),
            out: AtomicUsize::new(0),
            exhausted: AtomicUsize::new(0),
            _region: region,
        });
        let pool = NonNull::from(Box::leak(pool));
        // SAFETY: the pool was just made, nobody else knows its records.
        let records = unsafe { NonNull::slice_from_raw_parts(pool.as_ref().slots, count as usize) };
        for i in 0..records.len() {
            // SAFETY: in bounds, and as above.
            unsafe { (*records.cast::<Slot>().add(i).as_ptr()).pool = Some(pool) };
        }
        FramePool { pool, _handle: Arc::new(Handle(pool)) }
    }

    /// The frame in a slot that the caller owns.
    ///
    /// # Safety
    /// The caller owns the slot, whose index is in bounds, and gives it up; `head + len` is at most
    /// `slot_bytes`.
    #[inline]
    unsafe fn frame(&self, slot: u32, head: u32, len: u32) -> Frame {
        // SAFETY: in bounds.
        let mut slot = unsafe { self.pool().slots.add(slot as usize) };
        // SAFETY: the slot is the caller's, hence nobody else reaches its record.
        let record = unsafe { slot.as_mut() };
        record.head = head;
        record.len = len;
        record.state.meta = FrameMeta::default();
        Frame { slot }
    }

    /// An empty frame with [`HEADROOM_BYTES`] of headroom (less if the slots are small), or `None`
    /// when the pool is empty, which is counted. Pools of 1,024 slots and more keep a 32nd for
    /// drivers, so that whatever stacks hold, frames can still be received and sent.
    #[inline]
    pub fn alloc(&self) -> Option<Frame> {
        let pool = self.pool();
        let Some(slot) = pool.take() else {
            pool.exhausted.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let head = pool.slot_bytes.min(HEADROOM_BYTES as u32);
        // SAFETY: the slot was free and is ours now.
        Some(unsafe { self.frame(slot, head, 0) })
    }

    /// An empty frame for a driver that copies what it sends; also from the reserve of slots that
    /// [`FramePool::alloc`] leaves to drivers. Not counted if there is none.
    pub fn alloc_to_send(&self) -> Option<Frame> {
        let pool = self.pool();
        let slot = pool.take().or_else(|| {
            let mut slots = Vec::with_capacity(1);
            pool.take_many(1, 0, &mut slots);
            slots.pop()
        })?;
        let head = pool.slot_bytes.min(HEADROOM_BYTES as u32);
        // SAFETY: the slot was free and is ours now.
        Some(unsafe { self.frame(slot, head, 0) })
    }

    /// Takes up to `max` free slots for a driver that hands them to the kernel to receive (fill
    /// ring). Half of the reserve stays, for sending: what is received, stacks may hold.
    pub fn take_slots(&self, max: usize, out: &mut Vec<u32>) -> usize {
        let pool = self.pool();
        pool.take_many(max, pool.reserve / 2, out)
    }

    /// Takes up to `max` free slots for a driver that sends from them. They come back when they
    /// are sent, so all may be taken.
    pub fn take_slots_to_send(&self, max: usize, out: &mut Vec<u32>) -> usize {
        self.pool().take_many(max, 0, out)
    }

    /// Gives slots back that a driver took with [`FramePool::take_slots`] or
    /// [`Frame::into_slot`].
    pub fn give_slots(&self, slots: &[u32]) {
        let pool = self.pool();
        let mut left = slots;
        if pool.is_home() {
            while let [slot, rest @ ..] = left
                && pool.local.push(*slot)
            {
                left = rest;
            }
        }
        if !left.is_empty() {
            let mut shared = pool.shared.lock();
            shared.free.extend_from_slice(left);
            pool.note_shared(&mut shared);
        }
    }

    /// The frame in a slot that the caller owns, with `len` bytes of data from offset `head`.
    ///
    /// # Safety
    /// The caller must own `slot` (from [`FramePool::take_slots`] or [`Frame::into_slot`]) and
    /// give that ownership up here, and the kernel must be done with the slot.
    ///
    /// # Panics
    /// If `slot` or `head + len` is out of bounds.
    #[inline]
    pub unsafe fn frame_at(&self, slot: u32, head: usize, len: usize) -> Frame {
        let inside = (slot as usize) < self.slots() && head + len <= self.slot_bytes();
        assert!(inside, "frame {slot} out of bounds");
        // SAFETY: in bounds, the rest is the caller's promise.
        unsafe { self.frame(slot, head as u32, len as u32) }
    }

    /// Number of buffers.
    pub fn slots(&self) -> usize {
        self.pool().count as usize
    }

    /// Bytes per buffer, headroom included.
    pub fn slot_bytes(&self) -> usize {
        self.pool().slot_bytes as usize
    }

    /// Buffers nobody holds; while others take and give, about.
    pub fn free(&self) -> usize {
        self.pool().free()
    }

    /// How often [`FramePool::alloc`] found nothing.
    pub fn exhausted(&self) -> usize {
        self.pool().exhausted.load(Ordering::Relaxed)
    }

    /// Whether `frame` lives in this pool.
    #[inline]
    pub fn owns(&self, frame: &Frame) -> bool {
        frame.record().pool == Some(self.pool)
    }

    /// Whether `data` lies in the memory of this pool.
    #[inline]
    pub fn holds(&self, data: &[u8]) -> bool {
        self.pool().range.contains(&data.as_ptr().addr())
    }

    /// Makes it the domain's with this token, unless it is some domain's.
    pub(super) fn settle(&self, token: usize) -> bool {
        let home = &self.pool().home;
        home.compare_exchange(0, token, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Makes it no domain's again.
    ///
    /// # Safety
    /// Nobody is inside its domain, or ever will be.
    pub(super) unsafe fn unsettle(&self) {
        let pool = self.pool();
        let mut shared = pool.shared.lock();
        while let Some(slot) = pool.local.pop() {
            shared.free.push(slot);
        }
        shared.closed = false;
        pool.home.store(0, Ordering::Relaxed);
        pool.note_shared(&mut shared);
    }
}
