//! What the workers share of a node: its buckets, its counters, its place among its siblings.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weft_stack::time::Duration;

use super::bucket::{Bucket, Meter, Ticks};
use crate::config::qos::Rates;

/// A frame of the usual MTU.
const FRAME_BYTES: u64 = 1514;
/// What a limit gives in this time may go at once, unless configured: a worker is woken late.
const BURST_MS: u64 = 20;
/// What a limit gives in this time waits here, unless configured.
const QUEUE_MS: u64 = 50;
/// Bounds of that, in bytes; the upper one is that of queues without a limit.
const QUEUE_BYTES: (u64, u64) = (24 * FRAME_BYTES, 1 << 20);
/// What a limit gives in this time is asked of a stack in advance; bounds of it in bytes.
const AHEAD_MS: u64 = 4;
const AHEAD_BYTES: (u64, u64) = (2 * FRAME_BYTES, 128 << 10);
/// What a limit gives in this time may be one super-segment.
const SUPER_MS: u64 = 1;
/// What a limit gives in this time may wait in a stack.
const WAITING_MS: u64 = 100;
/// RFC 8289 4.2; a queue that takes longer for eight frames has so much more: a sender with less in
/// flight can only wait for its timer when one is lost.
const TARGET: Duration = Duration::from_millis(5);

/// The configured part of a node, as it is reckoned with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shape {
    /// The least limit of the node and those above it, in bit/s.
    pub(crate) ceiling: Option<u64>,
    pub(crate) rates: Rates,
    pub(crate) limit: Option<Meter>,
    pub(crate) limit_packets: Option<Meter>,
    pub(crate) guarantee: Option<Meter>,
    pub(crate) guarantee_packets: Option<Meter>,
    /// Bytes that may wait.
    pub(crate) queue_bytes: u64,
    /// Bytes that a stack is asked for in advance.
    pub(crate) ahead_bytes: u64,
    pub(crate) target: Duration,
}

/// Bytes at `rate` bit/s in `ms`.
fn bytes_in(rate: u64, ms: u64) -> u64 {
    (u128::from(rate) * u128::from(ms) / 8_000) as u64
}

impl Shape {
    /// `ceiling`: the least limit of the node and those above it.
    pub(crate) fn new(rates: Rates, ceiling: Option<u64>) -> Shape {
        let burst = |rate: u64| {
            rates.burst.unwrap_or_else(|| bytes_in(rate, BURST_MS).max(2 * FRAME_BYTES))
        };
        // Of packets as many as of bytes in the time that the bytes take, or 20 ms.
        let packets = |rate: u64| match rates.burst {
            Some(bytes) => (bytes / FRAME_BYTES).max(2),
            None => (rate * BURST_MS / 1_000).max(2),
        };
        let within = |ms, (low, high): (u64, u64)| {
            ceiling.map_or(high, |rate| bytes_in(rate, ms).clamp(low, high))
        };
        let few = ceiling.map_or(0, |rate| 8 * FRAME_BYTES * 8_000_000_000 / rate.max(1));
        let queue_bytes = rates.queue.unwrap_or_else(|| within(QUEUE_MS, QUEUE_BYTES));
        Shape {
            ceiling,
            rates,
            limit: rates.limit.map(|r| Meter::new(r.div_ceil(8), burst(r))),
            limit_packets: rates.limit_packets.map(|r| Meter::new(r, packets(r))),
            guarantee: rates.guarantee.map(|r| Meter::new(r.div_ceil(8), burst(r))),
            guarantee_packets: rates.guarantee_packets.map(|r| Meter::new(r, packets(r))),
            queue_bytes,
            ahead_bytes: within(AHEAD_MS, AHEAD_BYTES).min(queue_bytes.max(FRAME_BYTES)),
            target: TARGET.max(Duration::from_nanos(few)),
        }
    }

    pub(crate) fn has_guarantee(&self) -> bool {
        self.guarantee.is_some() || self.guarantee_packets.is_some()
    }
}

/// What a stack may make below a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// The longest super-segment: a longer one would keep others waiting, and go far beyond what the
    /// limit gives at once.
    pub(crate) super_bytes: usize,
    /// Frames that wait in the stack: what the limit gives in 100 ms.
    pub(crate) frames: usize,
}

impl Bounds {
    /// Below a limit of `rate` bit/s.
    pub(crate) fn new(rate: u64) -> Bounds {
        Bounds {
            super_bytes: bytes_in(rate, SUPER_MS).max(FRAME_BYTES) as usize,
            frames: (bytes_in(rate, WAITING_MS) / FRAME_BYTES).max(16) as usize,
        }
    }
}

/// What went through a node, and what did not.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) bytes: AtomicU64,
    pub(crate) packets: AtomicU64,
    /// Bytes above the guarantee, of a node that has one.
    pub(crate) borrowed: AtomicU64,
    /// Packets lost because the queue was full.
    pub(crate) dropped_full: AtomicU64,
    /// Packets lost because all waited too long.
    pub(crate) dropped_late: AtomicU64,
    /// Packets over the limit of a node without a queue.
    pub(crate) dropped_policed: AtomicU64,
    /// Packets that got the mark of congestion instead.
    pub(crate) marked: AtomicU64,
    /// Bytes that wait now.
    pub(crate) queued: AtomicU64,
    /// How long the last packet waited, in nanoseconds.
    pub(crate) sojourn: AtomicU64,
    /// Clients that found the table full and shared a queue.
    pub(crate) crowded: AtomicU64,
    window: Window,
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Bytes and packets of the last whole second. Workers that change it at once may lose a packet of
/// it, which the totals do not.
#[derive(Debug, Default)]
struct Window {
    second: AtomicU64,
    bytes: [AtomicU64; 2],
    packets: [AtomicU64; 2],
}

const TICKS_PER_SECOND: u64 = 64_000_000_000;

impl Window {
    /// Moves on to the second of `now`.
    fn turn(&self, now: Ticks) {
        let second = now / TICKS_PER_SECOND;
        let before = self.second.swap(second, Ordering::Relaxed);
        if before == second {
            return;
        }
        for pair in [&self.bytes, &self.packets] {
            let current = pair[0].swap(0, Ordering::Relaxed);
            pair[1].store(if before + 1 == second { current } else { 0 }, Ordering::Relaxed);
        }
    }

    fn add(&self, now: Ticks, bytes: u64, packets: u64) {
        if self.second.load(Ordering::Relaxed) != now / TICKS_PER_SECOND {
            self.turn(now);
        }
        add(&self.bytes[0], bytes);
        add(&self.packets[0], packets);
    }
}

/// What all workers and all NICs share of a node.
#[derive(Debug, Default)]
pub(crate) struct State {
    limit: Bucket,
    limit_packets: Bucket,
    guarantee: Bucket,
    guarantee_packets: Bucket,
    pub(crate) counts: Counts,
}

/// What a frame costs: its bytes and packets on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) bytes: u32,
    pub(crate) packets: u32,
}

impl State {
    /// When the limits let more through.
    #[inline]
    pub(crate) fn opens_at(&self, shape: &Shape) -> Ticks {
        let bytes = shape.limit.map_or(0, |_| self.limit.opens_at());
        bytes.max(shape.limit_packets.map_or(0, |_| self.limit_packets.opens_at()))
    }

    /// When the node falls below what it is guaranteed; `None`: it is guaranteed nothing.
    #[inline]
    pub(crate) fn due_at(&self, shape: &Shape) -> Option<Ticks> {
        let bytes = shape.guarantee.map(|_| self.guarantee.opens_at());
        let packets = shape.guarantee_packets.map(|_| self.guarantee_packets.opens_at());
        [bytes, packets].into_iter().flatten().min()
    }

    /// A frame goes now. What goes while the guarantee is due counts against it in full; beyond it
    /// only so far that the next claim waits its turn.
    /// `late`: see [`super::bucket::Lateness`].
    pub(crate) fn charge(&self, now: Ticks, late: Ticks, shape: &Shape, cost: Cost) {
        let (bytes, packets) = (u64::from(cost.bytes), u64::from(cost.packets));
        let claims = self.due_at(shape).is_some_and(|at| at <= now);
        if shape.has_guarantee() && !claims {
            add(&self.counts.borrowed, bytes);
        }
        for (meter, bucket, units) in
            [(shape.limit, &self.limit, bytes), (shape.limit_packets, &self.limit_packets, packets)]
        {
            meter.inspect(|m| bucket.charge(now, late, *m, units));
        }
        for (meter, bucket, units) in [
            (shape.guarantee, &self.guarantee, bytes),
            (shape.guarantee_packets, &self.guarantee_packets, packets),
        ] {
            match meter {
                Some(meter) if claims => bucket.charge(now, late, meter, units),
                Some(meter) => bucket.spend(now, late, meter, units),
                None => {}
            }
        }
        add(&self.counts.bytes, bytes);
        add(&self.counts.packets, packets);
        self.counts.window.add(now, bytes, packets);
    }

    /// How much of the burst is left, from 0 to 1, by the emptier bucket.
    pub(crate) fn level(&self, now: Ticks, shape: &Shape) -> f64 {
        let bytes = shape.limit.map_or(1.0, |m| self.limit.level(now, m));
        bytes.min(shape.limit_packets.map_or(1.0, |m| self.limit_packets.level(now, m)))
    }

    /// Bit/s and packets/s of the last whole second.
    pub(crate) fn rate(&self, now: Ticks) -> (u64, u64) {
        let window = &self.counts.window;
        window.turn(now);
        let last = |pair: &[AtomicU64; 2]| pair[1].load(Ordering::Relaxed);
        (last(&window.bytes) * 8, last(&window.packets))
    }
}

/// A node's place among its siblings on one NIC, in one direction.
#[derive(Debug)]
pub(crate) struct Place {
    /// Service received by weight: the sibling with the least goes first.
    pub(crate) service: AtomicU64,
    /// By priority, the service at which the last of its children began: where one that was idle
    /// starts.
    pub(crate) floors: [AtomicU64; 8],
    /// What its next child would be on each worker; see [`pack`].
    pub(crate) heads: Box<[AtomicU64]>,
}

/// Nothing to send.
pub(crate) const NO_HEAD: u64 = u64::MAX;

/// Priority and service in a word; smaller goes first.
pub(crate) fn pack(priority: u8, service: u64) -> u64 {
    (u64::from(priority) << 60) | ((service >> 4) & ((1 << 60) - 1))
}

impl Place {
    pub(crate) fn new(workers: usize) -> Arc<Place> {
        let heads = (0..workers).map(|_| AtomicU64::new(NO_HEAD)).collect();
        Arc::new(Place { service: AtomicU64::new(0), floors: Default::default(), heads })
    }
}

/// Service of `bytes` for a weight, in units of [`Place::service`].
pub(crate) fn service(bytes: u32, weight: u32) -> u64 {
    u64::from(bytes) * 4096 / u64::from(weight.max(1))
}
