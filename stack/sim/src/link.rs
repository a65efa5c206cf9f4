//! Segments: what happens to a frame between two stacks.

use weft_stack::frame::{Checksum, FrameMeta};
use weft_stack::rng::Rng;
use weft_stack::time::{Duration, Instant};

/// What frames of a segment start with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Medium {
    /// Ethernet: a switch between the hosts.
    #[default]
    Ethernet,
    /// Bare IP packets between two hosts (TUN).
    Ip,
}

/// Losses in bursts. They end by the clock: counted in frames, a burst would last for minutes once
/// only retransmissions are left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Burst {
    /// Chance per frame that a burst begins.
    pub enter: f64,
    /// How long it lasts at most.
    pub lasts: Duration,
    /// Chance that a frame is lost while it lasts.
    pub loss: f64,
}

/// Properties and faults of a segment, per direction. The default is a clean gigabit-like link of
/// 100 us without rate limit. Chances are from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkSpec {
    /// Propagation delay.
    pub latency: Duration,
    /// Random addition to it, which does not reorder.
    pub jitter: Duration,
    /// Chance that a frame is lost.
    pub loss: f64,
    /// Losses in bursts, besides.
    pub burst: Option<Burst>,
    /// Chance that a frame is held back so that others overtake it.
    pub reorder: f64,
    /// How long at most.
    pub reorder_delay: Duration,
    /// Chance that a frame arrives twice.
    pub duplicate: f64,
    /// Chance that one bit of an IP packet is flipped.
    pub corrupt: f64,
    /// Bits per second; `None`: no serialisation delay, no queue.
    pub rate: Option<u64>,
    /// Bytes that may wait for the rate; more are dropped at the tail.
    pub queue_bytes: usize,
    /// Bytes waiting from which ECN-capable packets are marked.
    pub ecn_mark_bytes: Option<usize>,
    /// Largest IP packet the segment carries; longer ones vanish. Hosts believe this MTU too.
    pub mtu: usize,
    /// What the hosts believe instead of `mtu` (a black hole for what is between).
    pub host_mtu: Option<usize>,
    /// Super-segments and partial checksums pass whole, as through TUN with a virtio-net header.
    pub offload: bool,
    /// What frames start with.
    pub medium: Medium,
}

impl Default for LinkSpec {
    fn default() -> LinkSpec {
        LinkSpec {
            latency: Duration::from_micros(100),
            jitter: Duration::ZERO,
            loss: 0.0,
            burst: None,
            reorder: 0.0,
            reorder_delay: Duration::from_millis(2),
            duplicate: 0.0,
            corrupt: 0.0,
            rate: None,
            queue_bytes: 256 << 10,
            ecn_mark_bytes: None,
            mtu: 1500,
            host_mtu: None,
            offload: false,
            medium: Medium::Ethernet,
        }
    }
}

/// What a segment did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Frames the hosts sent.
    pub sent: u64,
    /// Lost by chance, also in bursts.
    pub lost: u64,
    /// Dropped because the queue was full.
    pub queue_full: u64,
    /// Dropped because they were longer than the segment carries.
    pub too_long: u64,
    /// Delivered twice.
    pub duplicated: u64,
    /// Delivered late.
    pub reordered: u64,
    /// Delivered with a flipped bit.
    pub corrupted: u64,
    /// Marked "congestion experienced".
    pub marked: u64,
}

/// A frame under way.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    pub(crate) data: Vec<u8>,
    pub(crate) meta: FrameMeta,
}

/// One direction of a host's attachment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Direction {
    burst_until: Instant,
    /// When the last byte of the last frame leaves.
    busy_until: Instant,
    last_arrival: Instant,
}

fn chance(rng: &mut Rng, p: f64) -> bool {
    // No number is drawn for what cannot happen: switching a fault off leaves the rest of a run be.
    p > 0.0 && (rng.below(1 << 32) as f64) < p * f64::from(2.0f32).powi(32)
}

fn up_to(rng: &mut Rng, max: Duration) -> Duration {
    if max.is_zero() { max } else { Duration::from_nanos(rng.below(max.as_nanos() as u64)) }
}

impl LinkSpec {
    pub(crate) fn header_bytes(&self) -> usize {
        if self.medium == Medium::Ethernet { 14 } else { 0 }
    }

    /// A frame enters the link: when the copies of it arrive, if any do.
    pub(crate) fn pass(
        &self,
        way: &mut Direction,
        stats: &mut LinkStats,
        rng: &mut Rng,
        now: Instant,
        wire: &mut Wire,
    ) -> Vec<Instant> {
        stats.sent += 1;
        let super_segment = self.offload && wire.data.len() > self.mtu;
        if !super_segment && wire.data.len() > self.mtu + self.header_bytes() {
            stats.too_long += 1;
            return Vec::new();
        }
        let Some(leaves) = self.queue(way, stats, now, wire) else { return Vec::new() };
        if self.loses(way, rng, now) {
            stats.lost += 1;
            return Vec::new();
        }
        if chance(rng, self.corrupt) && self.flip_a_bit(rng, wire) {
            stats.corrupted += 1;
        }
        let mut at = leaves + self.latency + up_to(rng, self.jitter);
        if chance(rng, self.reorder) {
            stats.reordered += 1;
            at += up_to(rng, self.reorder_delay);
        } else {
            at = at.max(way.last_arrival);
            way.last_arrival = at;
        }
        let mut arrivals = vec![at];
        if chance(rng, self.duplicate) {
            stats.duplicated += 1;
            arrivals.push(at + up_to(rng, self.reorder_delay));
        }
        arrivals
    }

    /// When the last byte is on the wire; `None`: the queue is full.
    fn queue(
        &self,
        way: &mut Direction,
        stats: &mut LinkStats,
        now: Instant,
        wire: &mut Wire,
    ) -> Option<Instant> {
        let Some(rate) = self.rate else { return Some(now) };
        let backlog = way.busy_until.saturating_since(now);
        let waiting = (backlog.as_nanos() * u128::from(rate) / 8_000_000_000) as usize;
        if waiting + wire.data.len() > self.queue_bytes {
            stats.queue_full += 1;
            return None;
        }
        if self.ecn_mark_bytes.is_some_and(|from| waiting > from) && self.mark(wire) {
            stats.marked += 1;
        }
        let bits = wire.data.len() as u64 * 8;
        let lasts = Duration::from_nanos(bits * 1_000_000_000 / rate);
        way.busy_until = way.busy_until.max(now) + lasts;
        Some(way.busy_until)
    }

    fn loses(&self, way: &mut Direction, rng: &mut Rng, now: Instant) -> bool {
        let mut lost = chance(rng, self.loss);
        if let Some(burst) = self.burst {
            if now >= way.burst_until && chance(rng, burst.enter) {
                way.burst_until = now + up_to(rng, burst.lasts);
            }
            lost |= now < way.burst_until && chance(rng, burst.loss);
        }
        lost
    }

    /// Damage that a link's own checksum does not see: in IP packets only, past the link header.
    fn flip_a_bit(&self, rng: &mut Rng, wire: &mut Wire) -> bool {
        let header = self.header_bytes();
        let arp = header == 14 && wire.data.get(12..14) == Some(&[8, 6]);
        // A partial checksum covers nothing.
        if arp || wire.data.len() <= header || wire.meta.checksum != Checksum::Complete {
            return false;
        }
        let bit = rng.below((wire.data.len() - header) as u64 * 8) as usize;
        wire.data[header + bit / 8] ^= 1 << (bit % 8);
        true
    }

    /// RFC 3168: ECT becomes CE. Returns whether it did.
    fn mark(&self, wire: &mut Wire) -> bool {
        let ip = &mut wire.data[self.header_bytes()..];
        match ip.first().map(|b| b >> 4) {
            Some(4) if ip.len() >= 20 && ip[1] & 3 != 0 && ip[1] & 3 != 3 => {
                let old = u16::from_be_bytes([ip[0], ip[1]]);
                ip[1] |= 3;
                let new = u16::from_be_bytes([ip[0], ip[1]]);
                let sum = u16::from_be_bytes([ip[10], ip[11]]);
                let sum = weft_stack::wire::checksum::replace(sum, old, new);
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                true
            }
            Some(6) if ip.len() >= 40 && ip[1] & 0x30 != 0 && ip[1] & 0x30 != 0x30 => {
                ip[1] |= 0x30;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(spec: &LinkSpec, frames: usize) -> (LinkStats, Vec<Instant>) {
        let (mut way, mut stats) = (Direction::default(), LinkStats::default());
        let mut rng = Rng::from_u64(5);
        let mut arrivals = Vec::new();
        for i in 0..frames {
            let now = Instant::from_micros(i as u64 * 10);
            let mut wire = Wire { data: vec![0x45; 1000], meta: FrameMeta::default() };
            arrivals.extend(spec.pass(&mut way, &mut stats, &mut rng, now, &mut wire));
        }
        (stats, arrivals)
    }

    #[test]
    fn faults_happen_as_often_as_asked() {
        let spec = LinkSpec { loss: 0.05, duplicate: 0.1, reorder: 0.2, ..LinkSpec::default() };
        let (stats, arrivals) = run(&spec, 10_000);
        assert!((400..600).contains(&stats.lost), "{stats:?}");
        assert!((850..1050).contains(&stats.duplicated), "{stats:?}");
        assert!(arrivals.windows(2).any(|w| w[1] < w[0]));
        let burst = Some(Burst { enter: 0.01, lasts: Duration::from_micros(200), loss: 1.0 });
        let (stats, _) = run(&LinkSpec { burst, ..LinkSpec::default() }, 10_000);
        assert!((600..1300).contains(&stats.lost), "{stats:?}");
    }

    #[test]
    fn a_rate_serialises_and_its_queue_ends() {
        let spec = LinkSpec { rate: Some(8_000_000), queue_bytes: 5_000, ..LinkSpec::default() };
        let (stats, arrivals) = run(&spec, 10);
        assert_eq!(arrivals.len(), 5);
        assert_eq!(stats.queue_full, 5);
        assert!(arrivals.windows(2).all(|w| w[1] - w[0] == Duration::from_millis(1)));
    }

    #[test]
    fn marks_keep_the_header_checksum() {
        use weft_stack::wire::checksum;
        let mut ip = vec![0x45, 2, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let sum = checksum::finish(checksum::sum(&ip));
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let mut wire = Wire { data: [vec![0; 14], ip].concat(), meta: FrameMeta::default() };
        assert!(LinkSpec::default().mark(&mut wire));
        assert_eq!(wire.data[15], 3);
        assert!(checksum::is_valid(checksum::sum(&wire.data[14..])));
        assert!(!LinkSpec::default().mark(&mut wire), "marked already");
    }
}
