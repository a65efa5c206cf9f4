//! Pool memory for applications to fill.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytes::Bytes;

use super::{Frame, FramePool};

/// A buffer in a device's memory: what is written here and sent as [`PoolBuf::freeze`]d bytes is
/// not copied on its way down, whatever the device. It counts against its vserver's quota until
/// the last of the bytes is dropped, on any thread.
///
/// Its first contents are those of an earlier frame: overwrite them or cut them off.
pub struct PoolBuf {
    frame: Frame,
    /// Counts itself.
    _held: Arc<()>,
}

impl fmt::Debug for PoolBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PoolBuf").field(&self.len()).finish()
    }
}

impl Deref for PoolBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.frame.data()
    }
}

impl DerefMut for PoolBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.frame.data_mut()
    }
}

impl AsRef<[u8]> for PoolBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl PoolBuf {
    /// Keeps the first `len` bytes; longer is a no-op.
    pub fn truncate(&mut self, len: usize) {
        self.frame.truncate(len);
    }

    /// No more writing: bytes to be sent, cloned and sliced. Allocates one small owner.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl From<PoolBuf> for Bytes {
    fn from(buf: PoolBuf) -> Bytes {
        buf.freeze()
    }
}

/// How many buffers the applications of a vserver hold.
#[derive(Debug, Default)]
pub(crate) struct Quota(Arc<()>);

impl Quota {
    /// A buffer of `len` bytes, unless that is more than a slot of `pool`, `max` are held, or less
    /// than a quarter of the pool is free: what is left is for the device.
    pub(crate) fn alloc(&self, pool: &FramePool, len: usize, max: usize) -> Option<PoolBuf> {
        let held = Arc::strong_count(&self.0) - 1;
        if len > pool.slot_bytes() || held >= max || pool.free() * 4 < pool.slots() {
            return None;
        }
        let mut frame = pool.alloc()?;
        frame.reset(0);
        frame.push_back(len);
        Some(PoolBuf { frame, _held: Arc::clone(&self.0) })
    }
}
