//! The memory that NIC queues and the stack share.

use std::fmt;
use std::io;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
use weft_stack::frame::{FramePool, Region};

use super::bind::LiveSockets;
use super::ring::Mapping;
use crate::device::DeviceError;

/// Room that the kernel leaves in front of a received frame (`XDP_PACKET_HEADROOM`).
const RECEIVE_HEADROOM_BYTES: usize = 256;
const HUGEPAGE_BYTES: usize = 2 << 20;
/// `MPOL_PREFERRED` (linux/mempolicy.h): that node, or others when it is full.
const MPOL_PREFERRED: libc::c_long = 1;
/// Nodes that fit the mask which `mbind` is given.
const NODES_MAX: u32 = 1024;

/// What pages a UMEM is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hugepages {
    /// Ordinary pages, which the kernel may merge into huge ones (`madvise`).
    #[default]
    Auto,
    /// Ordinary pages only.
    Off,
    /// Reserved hugepages of 2 MiB (`vm.nr_hugepages`); if there are too few, as `Auto`, with a
    /// note.
    Reserved,
}

/// How to make a [`UmemPool`].
#[derive(Clone, Copy, Debug, Default)]
pub struct UmemConfig {
    /// Number of frames.
    pub frames: u32,
    /// Bytes per frame, 2048 or 4096.
    pub frame_bytes: u32,
    /// What pages it is made of.
    pub hugepages: Hugepages,
    /// NUMA node to take the memory from; `None`: wherever the kernel likes, which is the node of
    /// the thread that first writes to a page. A full node is no error.
    pub numa_node: Option<u32>,
}

/// A UMEM and the [`FramePool`] over it. Clones are handles on the same memory, which is unmapped
/// when the last handle, socket and frame are gone.
#[derive(Clone)]
pub struct UmemPool {
    shared: Arc<Shared>,
}

struct Shared {
    mapping: Arc<Mapping>,
    frame_bytes: usize,
    pool: FramePool,
    notes: Vec<String>,
    sockets: Mutex<LiveSockets>,
}

struct UmemRegion {
    _mapping: Arc<Mapping>,
}

impl Region for UmemRegion {}

impl fmt::Debug for UmemPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UmemPool")
            .field("pool", &self.shared.pool)
            .field("notes", &self.shared.notes)
            .finish_non_exhaustive()
    }
}

impl UmemPool {
    /// Most entries of a ring of a queue on this memory.
    pub const RING_ENTRIES: u32 = 2048;

    /// [`UmemPool::open`] with `frames` frames of `frame_bytes`, anywhere, in reserved hugepages or
    /// not.
    pub fn new(frames: u32, frame_bytes: u32, hugepages: bool) -> Result<UmemPool, DeviceError> {
        let hugepages = if hugepages { Hugepages::Reserved } else { Hugepages::Auto };
        UmemPool::open(&UmemConfig { frames, frame_bytes, hugepages, numa_node: None })
    }

    /// Maps the memory. It is locked into RAM when the first queue is opened on it.
    ///
    /// Each queue keeps [`super::AfXdpOptions::fill_frames`] of the frames; the rest is for frames
    /// on their way to or from applications. With reserved hugepages the number of frames is
    /// rounded up to whole ones. What could not be had is in [`UmemPool::notes`]; a node that does
    /// not exist is an error.
    pub fn open(config: &UmemConfig) -> Result<UmemPool, DeviceError> {
        let UmemConfig { frames, frame_bytes, hugepages, numa_node } = *config;
        let object = format!("UMEM of {frames} frames of {frame_bytes} bytes");
        let invalid = |reason: &str| {
            let source = io::Error::new(io::ErrorKind::InvalidInput, reason);
            DeviceError::new("create", object.clone(), source)
        };
        if !frame_bytes.is_power_of_two() || !(2048..=4096).contains(&frame_bytes) {
            return Err(invalid("the frame size must be 2048 or 4096"));
        }
        if frames == 0 {
            return Err(invalid("no frames"));
        }
        let frame_bytes = frame_bytes as usize;
        let mut bytes = frames as usize * frame_bytes;
        if hugepages == Hugepages::Reserved {
            bytes = bytes.next_multiple_of(HUGEPAGE_BYTES);
        }
        let fail = |operation, e: io::Error| {
            let unlock = e.raw_os_error() == Some(libc::ENOMEM);
            let hint = if unlock { "fewer `workers.frames` need less memory" } else { "" };
            DeviceError::new(operation, object.clone(), e).hint(hint)
        };
        let mut notes = Vec::new();
        let mapping = map(bytes, hugepages, &object, &mut notes).map_err(|e| fail("map", e))?;
        if let Some(node) = numa_node {
            bind_to_node(&mapping, node).map_err(|e| {
                fail("place on a NUMA node", e)
                    .hint(format!("node {node}: /sys/devices/system/node has those that exist"))
            })?;
        }
        Ok(UmemPool::over(Arc::new(mapping), frame_bytes, notes))
    }

    fn over(mapping: Arc<Mapping>, frame_bytes: usize, notes: Vec<String>) -> UmemPool {
        let frames = mapping.len() / frame_bytes;
        // SAFETY: every offset is inside the mapping.
        let slots = (0..frames).map(|i| unsafe { mapping.base().add(i * frame_bytes) });
        let slots: Vec<NonNull<u8>> = slots.collect();
        let region = Box::new(UmemRegion { _mapping: Arc::clone(&mapping) });
        // SAFETY: the slots are disjoint parts of the mapping, all of frame_bytes; the region keeps
        // it mapped. Devices write to a slot only while they own it (`held::Held`).
        let pool = unsafe { FramePool::from_region(region, slots, frame_bytes) };
        let sockets = Mutex::default();
        UmemPool { shared: Arc::new(Shared { mapping, frame_bytes, pool, notes, sockets }) }
    }

    /// The pool of its frames.
    pub fn pool(&self) -> &FramePool {
        &self.shared.pool
    }

    /// What was asked for and could not be had (hugepages), in words.
    pub fn notes(&self) -> &[String] {
        &self.shared.notes
    }

    pub(super) fn sockets(&self) -> &Mutex<LiveSockets> {
        &self.shared.sockets
    }

    /// Start and length, as the kernel is told.
    pub(super) fn place(&self) -> (u64, u64) {
        let base = self.shared.mapping.base().as_ptr().expose_provenance();
        (base as u64, self.shared.mapping.len() as u64)
    }

    pub(super) fn frame_bytes(&self) -> usize {
        self.shared.frame_bytes
    }

    /// Bytes of one descriptor that can be received.
    pub(super) fn receive_bytes(&self) -> usize {
        self.shared.frame_bytes - RECEIVE_HEADROOM_BYTES
    }

    /// The address of a slot's first byte, in descriptors.
    #[inline]
    pub(super) fn address(&self, slot: u32) -> u64 {
        slot as u64 * self.shared.frame_bytes as u64
    }

    /// Slot and offset within it of an address that the kernel named.
    #[inline]
    pub(super) fn locate(&self, address: u64) -> Option<(u32, usize)> {
        let frame_bytes = self.shared.frame_bytes as u64;
        let slot = address / frame_bytes;
        // Frames are whole pages or fill them: the last slot ends where the mapping does.
        (address < self.shared.mapping.len() as u64)
            .then_some((slot as u32, (address % frame_bytes) as usize))
    }

    /// Slot and descriptor address of bytes that lie in one slot; `None`: they are elsewhere.
    #[inline]
    pub(super) fn find(&self, bytes: &[u8]) -> Option<(u32, u64)> {
        let offset = bytes.as_ptr().addr().wrapping_sub(self.shared.mapping.base().addr().get());
        let (slot, at) = self.locate(offset as u64)?;
        (at + bytes.len() <= self.shared.frame_bytes).then_some((slot, offset as u64))
    }

    /// Asks the processor for the first bytes at an address, which are read soon.
    #[inline]
    pub(super) fn prefetch(&self, address: u64) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let at = self.shared.mapping.base().as_ptr().wrapping_add(address as usize);
            // SAFETY: a prefetch reads nothing and faults on no address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = address;
    }

    /// `len` bytes at `offset` of a slot.
    ///
    /// # Safety
    /// The caller owns these bytes of the slot: nobody else reads or writes them while the
    /// reference lives.
    ///
    /// # Panics
    /// If they are not all in the slot.
    #[expect(clippy::mut_from_ref, reason = "the slot is the caller's, not the UMEM's")]
    #[inline]
    pub(super) unsafe fn bytes_mut(&self, slot: u32, offset: usize, len: usize) -> &mut [u8] {
        let frame_bytes = self.shared.frame_bytes;
        let start = slot as usize * frame_bytes + offset;
        assert!(
            offset + len <= frame_bytes && start + len <= self.shared.mapping.len(),
            "{len} bytes at {offset} of slot {slot}"
        );
        // SAFETY: inside the mapping (checked), initialised (anonymous memory), exclusive by the
        // caller's promise.
        unsafe {
            std::slice::from_raw_parts_mut(self.shared.mapping.base().as_ptr().add(start), len)
        }
    }
}

/// Maps zeroed memory of the wanted kind of pages.
fn map(
    bytes: usize,
    hugepages: Hugepages,
    object: &str,
    notes: &mut Vec<String>,
) -> io::Result<Mapping> {
    if hugepages == Hugepages::Reserved {
        match map_as(bytes, MapFlags::HUGETLB | MapFlags::HUGE_2MB) {
            Ok(mapping) => return Ok(mapping),
            Err(e) => notes.push(format!(
                "no hugepages for the {object} ({e}), using ordinary pages: \
                 `sysctl vm.nr_hugepages={}` reserves enough",
                bytes / HUGEPAGE_BYTES
            )),
        }
    }
    let mapping = map_as(bytes, MapFlags::empty())?;
    if hugepages != Hugepages::Off {
        let base = mapping.base().as_ptr().cast();
        // SAFETY: the whole of a mapping of our own; the advice changes no contents. Where the
        // kernel has no transparent hugepages it refuses, and nothing is lost.
        let _ = unsafe { madvise(base, mapping.len(), Advice::LinuxHugepage) };
    }
    Ok(mapping)
}

fn map_as(bytes: usize, flags: MapFlags) -> io::Result<Mapping> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::PRIVATE | flags;
    // SAFETY: a new mapping of the kernel's choice of place touches nothing that exists.
    let base = unsafe { mmap_anonymous(ptr::null_mut(), bytes, protection, flags)? };
    // Pages that devices use are copied by fork(2), and every thread waits for it meanwhile: 100 ms
    // with 64 MiB. No child needs them. What the kernel cannot leave out it copies.
    // SAFETY: the whole of a mapping of our own, which stays as it is in this process.
    let _ = unsafe { madvise(base, bytes, Advice::LinuxDontFork) };
    // SAFETY: just mapped, of that length.
    unsafe { Mapping::over(base, bytes) }
}

/// Prefers a NUMA node for the pages of a mapping that was not touched yet.
fn bind_to_node(mapping: &Mapping, node: u32) -> io::Result<()> {
    if !Path::new(&format!("/sys/devices/system/node/node{node}")).exists() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut mask = [0 as libc::c_ulong; NODES_MAX as usize / libc::c_ulong::BITS as usize];
    let Some(word) = mask.get_mut((node / libc::c_ulong::BITS) as usize) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    *word |= 1 << (node % libc::c_ulong::BITS);
    // SAFETY: the mapping is ours, the mask is of as many bits as said (the kernel reads one
    // less than it is told). The call moves nothing, no page is there yet.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            mapping.base().as_ptr(),
            mapping.len(),
            MPOL_PREFERRED,
            mask.as_ptr(),
            NODES_MAX as libc::c_ulong + 1,
            0 as libc::c_ulong,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_stack::frame::HEADROOM_BYTES;

    #[test]
    fn every_slot_is_its_own_memory() {
        let umem = UmemPool::new(64, 2048, false).unwrap();
        let mut frames = Vec::new();
        for i in 0..64u8 {
            let mut frame = umem.pool().alloc().unwrap();
            assert_eq!(frame.headroom(), HEADROOM_BYTES);
            frame.append(&[i; 1800]);
            frames.push(frame);
        }
        for (i, frame) in frames.iter().enumerate() {
            assert!(frame.data().iter().all(|b| usize::from(*b) == i));
        }
        assert!(umem.pool().alloc().is_none());
    }

    #[test]
    fn an_address_names_the_memory_of_its_slot() {
        let umem = UmemPool::new(8, 4096, false).unwrap();
        let mut frame = umem.pool().alloc().unwrap();
        frame.append(b"seen through the address");
        let at = umem.address(frame.slot().unwrap()) + HEADROOM_BYTES as u64;
        assert_eq!(umem.find(frame.data()), Some((frame.slot().unwrap(), at)));
        assert_eq!(umem.locate(at), Some((frame.slot().unwrap(), HEADROOM_BYTES)));
        assert_eq!(umem.locate(8 * 4096), None);
        assert_eq!(umem.locate(u64::MAX), None);
        assert_eq!(umem.find(b"elsewhere"), None);
        let slot = frame.into_slot().unwrap();
        // SAFETY: the slot was just taken from its frame.
        let bytes = unsafe { umem.bytes_mut(slot, HEADROOM_BYTES, 24) };
        assert_eq!(bytes, b"seen through the address");
        umem.pool().give_slots(&[slot]);
    }

    #[test]
    fn wrong_sizes_are_refused_in_words() {
        for (frames, bytes) in [(0, 2048), (64, 1500), (64, 65536)] {
            let error = UmemPool::new(frames, bytes, false).unwrap_err();
            assert!(error.to_string().starts_with("create on UMEM of"), "{error}");
        }
    }

    #[test]
    fn a_node_that_exists_is_taken_and_another_refused() {
        let config = UmemConfig { frames: 64, frame_bytes: 2048, ..UmemConfig::default() };
        let place = |node| UmemPool::open(&UmemConfig { numa_node: Some(node), ..config });
        match place(0) {
            Ok(umem) => drop(umem.pool().alloc().unwrap()),
            Err(e) => return println!("SKIP: no NUMA here: {e}"),
        }
        for absent in [NODES_MAX - 1, NODES_MAX] {
            let error = place(absent).unwrap_err().to_string();
            assert!(error.contains("/sys/devices/system/node"), "{error}");
        }
    }
}
