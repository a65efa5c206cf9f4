//! Rings shared with the kernel: one side writes entries and moves the producer index, the other
//! reads them and moves the consumer index.
//!
//! Both ends keep copies of the indices and touch the shared ones once per batch: entries are
//! written (or read) first, [`Producer::submit`] (or [`Consumer::release`]) then moves our index
//! with release ordering, and the other side's index is read with acquire ordering. The kernel
//! does the same (`net/xdp/xsk_queue.h`).

use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::net::xdp::XdpRingOffset;
use weft_stack::frame::Region;

/// The kernel waits for a system call before it looks at the ring again (linux/if_xdp.h).
const NEED_WAKEUP: u32 = 1;

/// A descriptor of a receive or transmit ring (`struct xdp_desc`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Desc {
    /// Where the bytes start, counted from the start of the UMEM.
    pub(super) address: u64,
    /// How many there are.
    pub(super) len: u32,
    /// [`CONTINUED`] and others.
    pub(super) options: u32,
}

/// Descriptor option: the packet goes on in the next descriptor.
pub(super) const CONTINUED: u32 = 1;

/// Plain data that stands in a ring: any bytes are a value.
pub(super) trait Entry: Copy {}
impl Entry for u64 {}
impl Entry for Desc {}

/// Memory mapped into the process, unmapped on drop.
pub(super) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is plain memory, valid on every thread; whoever writes through the pointer
// answers for it.
unsafe impl Send for Mapping {}
// SAFETY: as above; the struct itself is never changed.
unsafe impl Sync for Mapping {}

impl Region for Mapping {}

impl Mapping {
    /// Takes over what `mmap` returned.
    ///
    /// # Safety
    /// `base` is a mapping of `len` bytes that nobody else unmaps.
    pub(super) unsafe fn over(base: *mut libc::c_void, len: usize) -> io::Result<Mapping> {
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { base, len })
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone, and whoever held pointers into it also held `self`.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// What both ends of a ring need.
struct Shared<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    mask: u32,
    _mapping: Mapping,
    _entry: PhantomData<T>,
}

// SAFETY: the pointers are into the mapping that is owned along with them; the ends are used
// through `&mut self`, by one thread at a time.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T: Entry> Shared<T> {
    /// Maps the ring of `size` entries (a power of two) that the socket has at `page_offset`.
    fn map(
        fd: BorrowedFd<'_>,
        at: XdpRingOffset,
        size: u32,
        page_offset: u64,
    ) -> io::Result<Shared<T>> {
        let len = at.desc as usize + size as usize * size_of::<T>();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping of the kernel's choice of place touches nothing that exists.
        let base = unsafe { mmap(ptr::null_mut(), len, protection, flags, fd, page_offset)? };
        // SAFETY: just mapped, of that length.
        let mapping = unsafe { Mapping::over(base, len)? };
        let flags = at.flags.ok_or_else(|| {
            io::Error::new(io::ErrorKind::Unsupported, "AF_XDP needs Linux 5.4 or later")
        })?;
        let ends = [at.producer, at.consumer, flags].map(|o| o as usize + size_of::<AtomicU32>());
        if !size.is_power_of_two() || ends.into_iter().any(|end| end > len) {
            return Err(io::Error::other("the kernel's ring offsets are outside of the ring"));
        }
        // SAFETY: all four places are inside the mapping (checked), which the kernel aligns.
        let place = |offset: u64| unsafe { mapping.base().add(offset as usize) };
        Ok(Shared {
            producer: place(at.producer).cast(),
            consumer: place(at.consumer).cast(),
            flags: place(flags).cast(),
            entries: place(at.desc).cast(),
            mask: size - 1,
            _mapping: mapping,
            _entry: PhantomData,
        })
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: inside the mapping, which lives as long as `self`; the kernel changes it
        // atomically too.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`.
        unsafe { self.consumer.as_ref() }
    }

    fn needs_wakeup(&self) -> bool {
        // SAFETY: as in `producer`.
        unsafe { self.flags.as_ref() }.load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }

    fn entry(&self, index: u32) -> *mut T {
        // SAFETY: the masked index is below the number of entries, which are all mapped.
        unsafe { self.entries.as_ptr().add((index & self.mask) as usize) }
    }
}

/// The end of a ring that we write: fill, transmit.
pub(super) struct Producer<T> {
    shared: Shared<T>,
    /// Entries written so far; those after [`Producer::submit`]ted are not yet the kernel's.
    written: u32,
    submitted: u32,
    /// Entries the kernel had read when it was last asked.
    consumed: u32,
}

impl<T: Entry> Producer<T> {
    pub(super) fn map(
        fd: BorrowedFd<'_>,
        at: XdpRingOffset,
        size: u32,
        page_offset: u64,
    ) -> io::Result<Producer<T>> {
        Ok(Producer::over(Shared::map(fd, at, size, page_offset)?))
    }

    fn over(shared: Shared<T>) -> Producer<T> {
        let written = shared.producer().load(Ordering::Relaxed);
        let consumed = shared.consumer().load(Ordering::Acquire);
        Producer { shared, written, submitted: written, consumed }
    }

    /// Whether `n` more entries fit. Asks the kernel's index only when it does not look so.
    #[inline]
    pub(super) fn has_room(&mut self, n: usize) -> bool {
        let size = self.shared.mask as usize + 1;
        if self.written.wrapping_sub(self.consumed) as usize + n <= size {
            return true;
        }
        self.consumed = self.shared.consumer().load(Ordering::Acquire);
        self.written.wrapping_sub(self.consumed) as usize + n <= size
    }

    /// Writes one entry, which the kernel sees after [`Producer::submit`]. The caller has asked
    /// [`Producer::has_room`].
    #[inline]
    pub(super) fn put(&mut self, entry: T) {
        debug_assert!(self.has_room(1), "room was asked for");
        // SAFETY: the entry is inside the ring, and the kernel does not read it before the
        // producer index passes it.
        unsafe { self.shared.entry(self.written).write(entry) };
        self.written = self.written.wrapping_add(1);
    }

    /// Makes what was put visible to the kernel.
    #[inline]
    pub(super) fn submit(&mut self) {
        if self.submitted != self.written {
            self.submitted = self.written;
            self.shared.producer().store(self.written, Ordering::Release);
        }
    }

    /// Submitted entries that the kernel has not read.
    pub(super) fn unread(&mut self) -> u32 {
        self.consumed = self.shared.consumer().load(Ordering::Acquire);
        self.submitted.wrapping_sub(self.consumed)
    }

    pub(super) fn needs_wakeup(&self) -> bool {
        self.shared.needs_wakeup()
    }
}

/// The end of a ring that we read: receive, completion.
pub(super) struct Consumer<T> {
    shared: Shared<T>,
    read: u32,
    /// Entries the kernel had written when it was last asked.
    produced: u32,
}

impl<T: Entry> Consumer<T> {
    pub(super) fn map(
        fd: BorrowedFd<'_>,
        at: XdpRingOffset,
        size: u32,
        page_offset: u64,
    ) -> io::Result<Consumer<T>> {
        Ok(Consumer::over(Shared::map(fd, at, size, page_offset)?))
    }

    fn over(shared: Shared<T>) -> Consumer<T> {
        let read = shared.consumer().load(Ordering::Relaxed);
        Consumer { shared, read, produced: read }
    }

    /// Entries that wait, at most `max`.
    #[inline]
    pub(super) fn available(&mut self, max: usize) -> usize {
        if self.produced == self.read {
            self.produced = self.shared.producer().load(Ordering::Acquire);
        }
        // A producer that ran over the ring would be a defect of the kernel; what is read stays
        // inside either way.
        let waiting = self.produced.wrapping_sub(self.read).min(self.shared.mask + 1);
        max.min(waiting as usize)
    }

    /// The `n`th entry that waits; `n` is less than [`Consumer::available`] said.
    #[inline]
    pub(super) fn get(&self, n: usize) -> T {
        // SAFETY: the entry is inside the ring; the kernel wrote it before it moved its index
        // (acquired above) and does not write it again before `release`.
        unsafe { self.shared.entry(self.read.wrapping_add(n as u32)).read() }
    }

    /// The first `n` entries that wait were read.
    #[inline]
    pub(super) fn release(&mut self, n: usize) {
        self.read = self.read.wrapping_add(n as u32);
        self.shared.consumer().store(self.read, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use rustix::mm::mmap_anonymous;

    const SIZE: u32 = 8;

    /// Both ends of one ring, whose indices start just before they wrap.
    fn ring() -> (Producer<u64>, Consumer<u64>) {
        let len = 4096;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping.
        let base =
            unsafe { mmap_anonymous(ptr::null_mut(), len, protection, MapFlags::PRIVATE).unwrap() };
        let half = |mapping| {
            let base: NonNull<u8> = NonNull::new(base.cast()).unwrap();
            // SAFETY: inside the mapping of a page.
            let place = |offset| unsafe { base.add(offset) };
            Shared {
                producer: place(0).cast(),
                consumer: place(64).cast(),
                flags: place(128).cast(),
                entries: place(192).cast(),
                mask: SIZE - 1,
                _mapping: mapping,
                _entry: PhantomData,
            }
        };
        // SAFETY: the other end's mapping is of no length and unmaps nothing (EINVAL).
        let shared = unsafe { Mapping::over(base, len).unwrap() };
        // SAFETY: as above.
        let other = half(unsafe { Mapping::over(base, 0).unwrap() });
        for index in [other.producer(), other.consumer()] {
            index.store(u32::MAX - 2, Ordering::Relaxed);
        }
        (Producer::over(half(shared)), Consumer::over(other))
    }

    #[test]
    fn entries_pass_in_order_over_the_wrap_of_the_indices() {
        let (mut producer, mut consumer) = ring();
        for round in 0..5u64 {
            assert!(producer.has_room(SIZE as usize) && !producer.has_room(SIZE as usize + 1));
            for i in 0..u64::from(SIZE) {
                producer.put(round * 100 + i);
            }
            assert_eq!(consumer.available(99), 0, "nothing is visible before submit");
            producer.submit();
            assert!(!producer.has_room(1));
            assert_eq!(producer.unread(), SIZE);
            assert_eq!(consumer.available(5), 5);
            let all = consumer.available(99);
            let got: Vec<u64> = (0..all).map(|n| consumer.get(n)).collect();
            assert_eq!(got, (0..u64::from(SIZE)).map(|i| round * 100 + i).collect::<Vec<_>>());
            consumer.release(all);
            assert_eq!((consumer.available(99), producer.unread()), (0, 0));
        }
    }

    #[test]
    fn an_index_that_ran_over_the_ring_gives_no_more_than_the_ring() {
        let (producer, mut consumer) = ring();
        producer.shared.producer().store(1000, Ordering::Release);
        assert_eq!(consumer.available(usize::MAX), SIZE as usize);
    }
}
