//! Between the workers, which offer frames, and whoever takes the packets: bounded, and never waited
//! for by a worker.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{SystemTime, UNIX_EPOCH};

use weft_shim::contexts::Contexts;
use weft_shim::layer::Layer;
use weft_stack::frame::Frame;

use super::copy::{self, Packet};
use super::filter::Filter;
use super::sight::{Rewritten, Sight};
use super::{CaptureWish, FilterError, Layers};

/// Packets that may wait.
pub(super) const PACKETS_MAX: usize = 4_096;
/// Their bytes.
pub(super) const BYTES_MAX: usize = 16 << 20;

/// A packet that was taken.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) time_ns: u64,
    pub(super) above: bool,
    pub(super) out: bool,
    pub(super) ethernet: bool,
    /// Bytes that it had.
    pub(super) len: usize,
    pub(super) data: Vec<u8>,
}

/// What the workers hold of a capture.
#[derive(Debug)]
pub(crate) struct Feed {
    filter: Filter,
    layers: Layers,
    snaplen: usize,
    /// Packets wanted.
    count: u64,
    queue: SyncSender<Taken>,
    /// Bytes that wait.
    bytes: AtomicUsize,
    taken: AtomicU64,
    lost: AtomicU64,
}

impl Feed {
    pub(super) fn new(wish: &CaptureWish) -> Result<(Feed, Receiver<Taken>), FilterError> {
        let (queue, packets) = sync_channel(PACKETS_MAX);
        let feed = Feed {
            filter: Filter::parse(&wish.filter)?,
            layers: wish.layers,
            snaplen: wish.snaplen.clamp(1, super::SNAPLEN_MAX) as usize,
            count: wish.count.unwrap_or(u64::MAX),
            queue,
            bytes: AtomicUsize::new(0),
            taken: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        };
        Ok((feed, packets))
    }

    /// Packets that were taken, and those that had no room.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.taken.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed))
    }

    /// Whether as many were taken as are wanted.
    pub(super) fn is_complete(&self) -> bool {
        self.taken.load(Ordering::Relaxed) >= self.count
    }

    /// A packet is no longer waiting.
    pub(super) fn left(&self, packet: &Taken) {
        self.bytes.fetch_sub(packet.data.len(), Ordering::Relaxed);
    }

    /// A frame that the vserver received, or sends (`out`). Called with a worker's lock: nothing in
    /// here waits.
    pub(crate) fn offer(&self, frame: &Frame, ethernet: bool, out: bool, path: &Layer) {
        if self.is_complete() {
            return;
        }
        let sight = Sight::of(frame, ethernet, out, path);
        let data = frame.data();
        let below = sight.map(|s| s.below(data));
        let below = self.layers.has_below() && self.filter.takes(below.as_ref());
        let face = sight.and_then(|s| s.above(data));
        let above = self.layers.has_above() && face.is_some_and(|f| self.filter.takes(Some(&f)));
        // Of a frame with several datagrams of the shim each has its own ULIDs.
        let several =
            sight.and_then(|s| s.datagram_bytes(frame)).filter(|_| self.layers.has_above());
        if !(below || above || several.is_some()) {
            return;
        }
        let head = sight.and_then(|s| s.rewritten).map_or(0, |r| r.payload());
        let copied = if several.is_some() { usize::MAX } else { head + self.snaplen };
        let copy = copy::of(frame, sight.as_ref(), copied);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = At { time_ns: now.as_nanos() as u64, out };
        // As they come by: what is sent is above first.
        if below && !out {
            self.put_frame(at, ethernet, frame, &copy);
        }
        match (sight, several, path.shim()) {
            (Some(sight), Some(bytes), Some(shim)) => {
                self.put_datagrams(at, &sight, &copy, bytes, shim);
            }
            (Some(sight), ..) if above => self.put_above(at, &sight, frame, &copy),
            _ => {}
        }
        if below && out {
            self.put_frame(at, ethernet, frame, &copy);
        }
    }

    fn put_frame(&self, at: At, ethernet: bool, frame: &Frame, copy: &[u8]) {
        let data = copy[..copy.len().min(self.snaplen)].to_vec();
        self.put(at, (false, ethernet), Packet { data, len: frame.total_len() });
    }

    fn put_above(&self, at: At, sight: &Sight, frame: &Frame, copy: &[u8]) {
        let end = sight.end_of(frame);
        let packet = match &sight.rewritten {
            None => copy::plain(copy, sight, end),
            Some(what) => copy::above(copy, sight, what, end),
        };
        self.put(at, (true, false), packet);
    }

    /// Datagrams of the shim that came as one frame, each with its own packet.
    fn put_datagrams(&self, at: At, sight: &Sight, copy: &[u8], bytes: usize, shim: &Contexts) {
        let mut start = sight.payload + weft_shim::encap::OVERHEAD_BYTES;
        while start < copy.len() && bytes > 0 {
            let end = (start + bytes).min(copy.len());
            let found: Option<Rewritten> = sight.rewritten_at(copy, start, true, at.out, shim);
            let one = Sight { rewritten: found, ..*sight };
            let wanted = one.above(&copy[..end]).is_some_and(|f| self.filter.takes(Some(&f)));
            if let Some(what) = found.filter(|_| wanted) {
                self.put(at, (true, false), copy::above(copy, &one, &what, end));
            }
            start = end;
        }
    }

    fn put(&self, at: At, (above, ethernet): (bool, bool), packet: Packet) {
        let Packet { mut data, len } = packet;
        data.truncate(self.snaplen);
        if self.is_complete() {
            return;
        }
        let bytes = data.len();
        let taken = Taken { time_ns: at.time_ns, above, out: at.out, ethernet, len, data };
        let room = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= BYTES_MAX;
        if room && self.queue.try_send(taken).is_ok() {
            self.taken.fetch_add(1, Ordering::Relaxed);
        } else {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// When and which way.
#[derive(Clone, Copy)]
struct At {
    time_ns: u64,
    out: bool,
}
