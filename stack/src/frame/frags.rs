//! The payload behind a frame's linear data: shared bytes, and whole frames, in any order.
//!
//! Each frame of a chain has the shared bytes that follow its own data, then the next frame.

use std::fmt;
use std::ptr::NonNull;

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use super::{Frame, Slot};

/// One piece of payload.
#[derive(Debug)]
pub enum Frag {
    /// A slice of something that others may hold as well: a send buffer.
    Shared(Bytes),
    /// A frame of its own, without fragments: a further buffer, or a merged segment.
    Frame(Frame),
}

impl Frag {
    /// As shared bytes; see [`Frame::into_bytes`].
    pub fn into_bytes(self) -> Bytes {
        match self {
            Frag::Shared(bytes) => bytes,
            Frag::Frame(frame) => frame.into_bytes(),
        }
    }
}

impl From<Bytes> for Frag {
    fn from(bytes: Bytes) -> Frag {
        Frag::Shared(bytes)
    }
}

impl From<Frame> for Frag {
    fn from(frame: Frame) -> Frag {
        Frag::Frame(frame)
    }
}

impl std::ops::Deref for Frag {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Frag::Shared(bytes) => bytes,
            Frag::Frame(frame) => frame.data(),
        }
    }
}

/// Payload pieces that follow the linear part of a frame. Frames in it cost no allocation, nor do
/// the first two shared pieces.
#[derive(Default)]
pub struct Frags {
    shared: SmallVec<[Bytes; 2]>,
    /// What follows `shared`.
    next: Option<Frame>,
    /// The last frame of the chain that starts with `next`, which owns it. Meaningful where
    /// pieces are pushed only, at the head.
    last: Option<NonNull<Slot>>,
}

// SAFETY: `last` is a shortcut to a frame that `next` owns; Frame and Bytes are Send.
unsafe impl Send for Frags {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Frags {}

impl Frags {
    /// None.
    pub fn new() -> Frags {
        Frags::default()
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.shared.is_empty() && self.next.is_none()
    }

    /// Number of pieces; counts them.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Bytes of all pieces; walks them.
    #[inline]
    pub fn bytes(&self) -> usize {
        if self.is_empty() { 0 } else { self.iter().map(<[u8]>::len).sum() }
    }

    /// The pieces in order.
    #[inline]
    pub fn iter(&self) -> FragIter<'_> {
        FragIter { shared: self.shared.iter(), next: self.next.as_ref() }
    }

    /// Appends a piece. A frame brings its own fragments along.
    pub fn push(&mut self, frag: impl Into<Frag>) {
        match frag.into() {
            Frag::Shared(bytes) => self.end().shared.push(bytes),
            Frag::Frame(mut frame) => {
                let last = frame.frags.last.take().unwrap_or(frame.slot);
                self.end().next = Some(frame);
                self.last = Some(last);
            }
        }
    }

    /// Where the next piece goes.
    fn end(&mut self) -> &mut Frags {
        match self.last {
            // SAFETY: a frame of the chain, which is ours alone.
            Some(last) => unsafe { &mut (*last.as_ptr()).state.frags },
            None => self,
        }
    }

    /// Takes the first piece.
    pub fn pop_front(&mut self) -> Option<Frag> {
        if !self.shared.is_empty() {
            return Some(Frag::Shared(self.shared.remove(0)));
        }
        let mut frame = self.next.take()?;
        std::mem::swap(&mut self.shared, &mut frame.frags.shared);
        self.next = frame.frags.next.take();
        if self.next.is_none() {
            self.last = None;
        }
        Some(Frag::Frame(frame))
    }

    /// Drops the first `n` bytes; all if there are fewer.
    pub fn advance(&mut self, n: usize) {
        let mut left = n;
        while left > 0 {
            if let Some(first) = self.shared.first_mut() {
                if first.len() > left {
                    return first.advance(left);
                }
            } else if let Some(first) = self.next.as_mut().filter(|first| first.len() > left) {
                return first.pull_front(left);
            }
            match self.pop_front() {
                Some(piece) => left -= piece.len(),
                None => return,
            }
        }
    }

    /// Keeps the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        let mut left = len;
        let mut last = None;
        let mut at = &mut *self;
        loop {
            let mut keep = 0;
            for piece in &mut at.shared {
                if left == 0 {
                    break;
                }
                piece.truncate(left);
                left -= piece.len();
                keep += 1;
            }
            at.shared.truncate(keep);
            if left == 0 {
                at.cut_chain();
            }
            let Some(next) = &mut at.next else { break };
            next.truncate(left);
            left -= next.len();
            last = Some(next.slot);
            at = &mut next.frags;
        }
        self.last = last;
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.shared.clear();
        self.cut_chain();
        self.last = None;
    }

    /// Drops the frames one by one: a chain may be long, a call stack may not.
    fn cut_chain(&mut self) {
        let mut next = self.next.take();
        while let Some(mut frame) = next {
            next = frame.frags.next.take();
        }
    }
}

impl Drop for Frags {
    fn drop(&mut self) {
        self.cut_chain();
    }
}

impl fmt::Debug for Frags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(<[u8]>::len)).finish()
    }
}

impl From<Vec<Bytes>> for Frags {
    fn from(pieces: Vec<Bytes>) -> Frags {
        pieces.into_iter().collect()
    }
}

impl<F: Into<Frag>> Extend<F> for Frags {
    fn extend<I: IntoIterator<Item = F>>(&mut self, pieces: I) {
        pieces.into_iter().for_each(|piece| self.push(piece));
    }
}

impl FromIterator<Bytes> for Frags {
    fn from_iter<I: IntoIterator<Item = Bytes>>(pieces: I) -> Frags {
        let mut frags = Frags::new();
        frags.extend(pieces);
        frags
    }
}

/// See [`Frags::iter`].
#[derive(Clone, Debug)]
pub struct FragIter<'a> {
    shared: std::slice::Iter<'a, Bytes>,
    next: Option<&'a Frame>,
}

impl<'a> Iterator for FragIter<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if let Some(piece) = self.shared.next() {
            return Some(piece);
        }
        let frame = self.next.take()?;
        self.shared = frame.frags.shared.iter();
        self.next = frame.frags.next.as_ref();
        Some(frame.data())
    }
}

/// The pieces of a [`Frags`] one by one, frames without fragments of their own.
#[derive(Debug)]
pub struct IntoFrags {
    shared: smallvec::IntoIter<[Bytes; 2]>,
    next: Option<Frame>,
}

impl Iterator for IntoFrags {
    type Item = Frag;

    #[inline]
    fn next(&mut self) -> Option<Frag> {
        if let Some(bytes) = self.shared.next() {
            return Some(Frag::Shared(bytes));
        }
        let mut frame = self.next.take()?;
        self.next = frame.frags.next.take();
        if !frame.frags.shared.is_empty() {
            self.shared = std::mem::take(&mut frame.frags.shared).into_iter();
        }
        Some(Frag::Frame(frame))
    }
}

impl Drop for IntoFrags {
    fn drop(&mut self) {
        while self.next.is_some() {
            self.next();
        }
    }
}

impl IntoIterator for Frags {
    type Item = Frag;
    type IntoIter = IntoFrags;

    fn into_iter(mut self) -> IntoFrags {
        let shared = std::mem::take(&mut self.shared).into_iter();
        IntoFrags { shared, next: self.next.take() }
    }
}

impl<'a> IntoIterator for &'a Frags {
    type Item = &'a [u8];
    type IntoIter = FragIter<'a>;

    fn into_iter(self) -> FragIter<'a> {
        self.iter()
    }
}
