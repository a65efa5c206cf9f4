//! The memory that NIC queues and the stack share.

use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};
use weft_stack::frame::{FramePool, Region};
use xsk_rs::config::{FrameSize, QueueSize, UmemConfig};
use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::umem::{Umem, UmemCreateError};

use super::rings::Rings;
use crate::device::DeviceError;

/// Room that the kernel leaves in front of a received frame (`XDP_PACKET_HEADROOM`). Frames to be
/// sent start there too: descriptors cannot be given another address.
const HEADROOM_BYTES: usize = 256;
const HUGEPAGE_BYTES: usize = 2 << 20;

/// A UMEM and the [`FramePool`] over it. Clones are handles on the same memory, which is unmapped
/// when the last handle, socket and frame are gone.
#[derive(Clone)]
pub struct UmemPool {
    shared: Arc<Shared>,
}

struct Shared {
    umem: Umem,
    /// One descriptor per slot, as the UMEM gave it.
    descs: Box<[FrameDesc]>,
    frame_bytes: usize,
    pool: FramePool,
    note: Option<String>,
    namespace: u64,
    sockets: Mutex<Sockets>,
}

struct UmemRegion {
    _umem: Umem,
}

impl Region for UmemRegion {}

impl fmt::Debug for UmemPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UmemPool")
            .field("pool", &self.shared.pool)
            .field("note", &self.shared.note)
            .finish_non_exhaustive()
    }
}

impl UmemPool {
    /// Entries of the fill and completion ring of every queue on this memory.
    pub const RING_ENTRIES: u32 = 2048;

    /// Maps `frames` frames of `frame_bytes` (2048 or 4096, 256 of them are headroom) and locks
    /// them into memory.
    ///
    /// Each queue keeps [`super::AfXdpOptions::fill_frames`] of them; the rest is for frames on
    /// their way to or from applications. Without a free hugepage it falls back to ordinary
    /// pages, see [`UmemPool::note`].
    ///
    /// Belongs to the calling thread's network namespace, as its NICs must.
    pub fn new(frames: u32, frame_bytes: u32, hugepages: bool) -> Result<UmemPool, DeviceError> {
        let object = format!("UMEM of {frames} frames of {frame_bytes} bytes");
        let invalid = |reason: String| {
            let source = io::Error::new(io::ErrorKind::InvalidInput, reason);
            DeviceError::new("create", object.clone(), source)
        };
        if !frame_bytes.is_power_of_two() || !(2048..=4096).contains(&frame_bytes) {
            return Err(invalid("the frame size must be 2048 or 4096".to_owned()));
        }
        let mut frames = frames;
        let mut note = None;
        if hugepages {
            frames = frames.next_multiple_of(HUGEPAGE_BYTES as u32 / frame_bytes);
        }
        let count = NonZeroU32::new(frames).ok_or_else(|| invalid("no frames".to_owned()))?;
        let config = config(frame_bytes).map_err(|e| invalid(e.to_string()))?;
        let mut made = Umem::new(config, count, hugepages);
        if hugepages && made.is_err() {
            note = Some(format!("no hugepages for the {object}: using ordinary pages"));
            made = Umem::new(config, count, false);
        }
        let (umem, descs) = made.map_err(|e| create_error(object.clone(), &e))?;
        let namespace = current_namespace()
            .map_err(|e| DeviceError::new("ask for the network namespace of", object, e))?;
        Ok(UmemPool::over(umem, descs, frame_bytes as usize, note, namespace))
    }

    /// Whether it was made in the calling thread's network namespace. The first AF_XDP socket on a
    /// UMEM is the one that made it: elsewhere it would be bound to whatever interface of its own
    /// namespace has the NIC's index.
    pub(super) fn is_of_this_namespace(&self) -> io::Result<bool> {
        Ok(current_namespace()? == self.shared.namespace)
    }

    fn over(
        umem: Umem,
        mut descs: Vec<FrameDesc>,
        frame_bytes: usize,
        note: Option<String>,
        namespace: u64,
    ) -> UmemPool {
        let slots = descs.iter_mut().map(|desc| {
            // SAFETY: the descriptor is of this UMEM, and neither the kernel nor anybody else
            // uses it yet.
            let mut data = unsafe { umem.data_mut(desc) };
            let data = data.contents_mut().as_mut_ptr();
            // SAFETY: the frame starts HEADROOM_BYTES before its data, in the same mapping.
            unsafe { NonNull::new_unchecked(data.sub(HEADROOM_BYTES)) }
        });
        let slots: Vec<_> = slots.collect();
        let region = Box::new(UmemRegion { _umem: umem.clone() });
        // SAFETY: the slots are the disjoint frames of the UMEM, all of frame_bytes; the region
        // keeps it mapped. Devices write to a slot only while they own it (`rings::Held`).
        let pool = unsafe { FramePool::from_region(region, slots, frame_bytes) };
        let descs = descs.into_boxed_slice();
        UmemPool {
            shared: Arc::new(Shared {
                umem,
                descs,
                frame_bytes,
                pool,
                note,
                namespace,
                sockets: Mutex::default(),
            }),
        }
    }

    /// The pool of its frames.
    pub fn pool(&self) -> &FramePool {
        &self.shared.pool
    }

    /// What was asked for and could not be had (hugepages).
    pub fn note(&self) -> Option<&str> {
        self.shared.note.as_deref()
    }

    /// Runs `bind`, which makes a socket on this memory.
    pub(super) fn with_umem(
        &self,
        bind: impl FnOnce(&Umem) -> io::Result<Rings>,
    ) -> io::Result<(Rings, SocketGuard)> {
        let mut sockets = self.shared.sockets.lock();
        if sockets.ended {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "every queue of this UMEM was closed, which ends it: make a new one",
            ));
        }
        let rings = bind(&self.shared.umem)?;
        let fd = rings.rx.fd().as_raw_fd();
        if sockets.live.is_empty() {
            sockets.umem_fd = fd;
            sockets.behind_umem_fd = fd;
        }
        sockets.live.push(fd);
        Ok((rings, SocketGuard { umem: self.clone(), fd }))
    }

    /// Bytes of one descriptor that can be sent or received.
    pub(super) fn data_bytes(&self) -> usize {
        self.shared.frame_bytes - HEADROOM_BYTES
    }

    pub(super) fn desc(&self, slot: u32) -> FrameDesc {
        self.shared.descs[slot as usize]
    }

    /// Slot and offset within it of an address that the kernel named.
    pub(super) fn locate(&self, address: usize) -> Option<(u32, usize)> {
        let slot = address / self.shared.frame_bytes;
        (slot < self.shared.descs.len()).then_some((slot as u32, address % self.shared.frame_bytes))
    }

    /// Sets the length of the descriptor's data and returns the data.
    ///
    /// # Safety
    /// The caller owns the slot of `desc`, and holds no other reference into it.
    ///
    /// # Panics
    /// If `len` is more than [`UmemPool::data_bytes`].
    pub(super) unsafe fn data<'a>(&'a self, desc: &'a mut FrameDesc, len: usize) -> DataMut<'a> {
        assert!(len <= self.data_bytes(), "{len} bytes into one descriptor");
        // SAFETY: the descriptor is one of this UMEM, the rest is the caller's promise.
        let mut data = unsafe { self.shared.umem.data_mut(desc) };
        data.cursor().set_pos(len);
        data
    }
}

/// The sockets of a UMEM.
///
/// To the kernel the UMEM and the first socket on it are one object, and the library keeps its
/// descriptor open until the UMEM is unmapped: as long as an application holds a frame. So that
/// every closed queue is free at once, the descriptor is made to mean another live socket of the
/// UMEM (which is what later sockets are joined to), or nothing after the last.
#[derive(Default)]
struct Sockets {
    /// The library's descriptor of the UMEM.
    umem_fd: RawFd,
    /// Which of `live` it means.
    behind_umem_fd: RawFd,
    live: Vec<RawFd>,
    ended: bool,
}

/// Closes a socket for good; dropped after its rings.
pub(super) struct SocketGuard {
    umem: UmemPool,
    fd: RawFd,
}

impl Drop for SocketGuard {
    fn drop(&mut self) {
        let sockets = &mut *self.umem.shared.sockets.lock();
        sockets.live.retain(|fd| *fd != self.fd);
        let heir = sockets.live.first().copied();
        if let Some(heir) = heir {
            if sockets.behind_umem_fd == self.fd {
                replace(heir, sockets.umem_fd);
                sockets.behind_umem_fd = heir;
            }
            return;
        }
        sockets.ended = true;
        // Out of descriptors, the queue stays bound until the UMEM is unmapped.
        if let Ok(nothing) = eventfd(0, EventfdFlags::CLOEXEC) {
            replace(nothing.as_raw_fd(), sockets.umem_fd);
        }
    }
}

/// Makes `to` mean what `from` means, closing what it meant before.
fn replace(from: RawFd, to: RawFd) {
    // SAFETY: both are open descriptors of this module: `to` is the library's of the UMEM, which
    // it passes to the kernel as the socket to join and closes at the end, and does nothing else
    // with once the socket that came with it is deleted.
    unsafe { libc::dup3(from, to, libc::O_CLOEXEC) };
}

pub(super) use xsk_rs::umem::frame::DataMut;

fn config(frame_bytes: u32) -> Result<UmemConfig, Box<dyn std::error::Error>> {
    let ring = QueueSize::new(UmemPool::RING_ENTRIES)?;
    let mut config = UmemConfig::builder();
    config.frame_size(FrameSize::new(frame_bytes)?).fill_queue_size(ring).comp_queue_size(ring);
    Ok(config.build()?)
}

/// Identity of the calling thread's network namespace.
fn current_namespace() -> io::Result<u64> {
    Ok(std::fs::metadata("/proc/thread-self/ns/net")?.ino())
}

fn create_error(object: String, error: &UmemCreateError) -> DeviceError {
    let source = super::rings::os_error(error);
    let hint = match source.raw_os_error() {
        Some(libc::ENOBUFS | libc::ENOMEM) => "raise the locked memory limit: ulimit -l",
        Some(libc::EPERM) => "needs root or CAP_NET_RAW",
        _ => "",
    };
    DeviceError::new("create", object, source).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_stack::frame::HEADROOM_BYTES as STACK_HEADROOM_BYTES;

    #[test]
    fn every_slot_is_its_own_memory() {
        let umem = match UmemPool::new(64, 2048, false) {
            Ok(umem) => umem,
            Err(e) => return println!("SKIP: {e}"),
        };
        let mut frames = Vec::new();
        for i in 0..64u8 {
            let mut frame = umem.pool().alloc().unwrap();
            assert_eq!(frame.headroom(), STACK_HEADROOM_BYTES);
            frame.append(&[i; 1800]);
            frames.push(frame);
        }
        for (i, frame) in frames.iter().enumerate() {
            assert!(frame.data().iter().all(|b| usize::from(*b) == i));
        }
        assert!(umem.pool().alloc().is_none());
    }

    #[test]
    fn a_descriptor_names_the_memory_of_its_slot() {
        let umem = match UmemPool::new(8, 4096, false) {
            Ok(umem) => umem,
            Err(e) => return println!("SKIP: {e}"),
        };
        let mut frame = umem.pool().alloc().unwrap();
        frame.reset(HEADROOM_BYTES);
        frame.append(b"seen through the descriptor");
        let slot = frame.into_slot().unwrap();
        let mut desc = umem.desc(slot);
        assert_eq!(umem.locate(desc.addr()), Some((slot, HEADROOM_BYTES)));
        assert_eq!(umem.locate(8 * 4096), None);
        // SAFETY: the slot was just taken from its frame.
        let data = unsafe { umem.data(&mut desc, 27) };
        assert_eq!(data.contents(), b"seen through the descriptor");
        assert_eq!(desc.lengths().data(), 27);
        umem.pool().give_slots(&[slot]);
    }

    #[test]
    fn wrong_sizes_are_refused_in_words() {
        for (frames, bytes) in [(0, 2048), (64, 1500), (64, 65536)] {
            let error = UmemPool::new(frames, bytes, false).unwrap_err();
            assert!(error.to_string().starts_with("create on UMEM of"), "{error}");
        }
    }
}
