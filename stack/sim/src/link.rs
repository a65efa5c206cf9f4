//! Segments: what happens to a frame between two stacks.

use weft_stack::frame::{Checksum, FrameMeta};
use weft_stack::rng::Rng;
use weft_stack::time::{Duration, Instant};

use crate::fate::{Blackhole, Burst, GilbertElliott, Losses, chance, up_to};
use crate::queue::{Backlog, Discipline, Signal};
use crate::witness::Seen;

/// What frames of a segment start with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Medium {
    /// Ethernet: a switch between the hosts.
    #[default]
    Ethernet,
    /// Bare IP packets between two hosts (TUN).
    Ip,
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
    /// Losses in bursts that end by the clock, besides.
    pub burst: Option<Burst>,
    /// Losses in bursts that end by frames, besides.
    pub gilbert: Option<GilbertElliott>,
    /// What vanishes always.
    pub blackhole: Blackhole,
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
    /// What else that queue does.
    pub discipline: Discipline,
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
            gilbert: None,
            blackhole: Blackhole::Off,
            reorder: 0.0,
            reorder_delay: Duration::from_millis(2),
            duplicate: 0.0,
            corrupt: 0.0,
            rate: None,
            queue_bytes: 256 << 10,
            discipline: Discipline::Tail,
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
    /// Bytes of these frames.
    pub sent_bytes: u64,
    /// Lost by chance, also in bursts.
    pub lost: u64,
    /// Swallowed by a [`Blackhole`].
    pub swallowed: u64,
    /// Dropped because the queue was full.
    pub queue_full: u64,
    /// Dropped by the queue's [`Discipline`].
    pub queue_early: u64,
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
    /// What it said when it was sent, if it is a TCP segment.
    pub(crate) seen: Option<Box<Seen>>,
}

/// One direction of a host's attachment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Direction {
    losses: Losses,
    backlog: Backlog,
    last_arrival: Instant,
}

/// When the copies of a frame arrive: none, one or two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arrivals {
    pub(crate) first: Option<Instant>,
    pub(crate) again: Option<Instant>,
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
    ) -> Arrivals {
        stats.sent += 1;
        stats.sent_bytes += wire.data.len() as u64;
        let none = Arrivals::default();
        let super_segment = self.offload && wire.data.len() > self.mtu;
        if !super_segment && wire.data.len() > self.mtu + self.header_bytes() {
            stats.too_long += 1;
            return none;
        }
        if self.blackhole.takes(wire.data.get(self.header_bytes()..).unwrap_or(&[])) {
            stats.swallowed += 1;
            return none;
        }
        let Some(leaves) = self.queue(way, stats, rng, now, wire) else { return none };
        if self.loses(way, rng, now) {
            stats.lost += 1;
            return none;
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
        let again = chance(rng, self.duplicate).then(|| {
            stats.duplicated += 1;
            at + up_to(rng, self.reorder_delay)
        });
        Arrivals { first: Some(at), again }
    }

    /// When the last byte is on the wire; `None`: dropped by the queue.
    fn queue(
        &self,
        way: &mut Direction,
        stats: &mut LinkStats,
        rng: &mut Rng,
        now: Instant,
        wire: &mut Wire,
    ) -> Option<Instant> {
        let Some(rate) = self.rate else { return Some(now) };
        let backlog = &mut way.backlog;
        let waiting = backlog.bytes(now, rate);
        if waiting + wire.data.len() > self.queue_bytes {
            stats.queue_full += 1;
            return None;
        }
        let signal = backlog.signal(&self.discipline, waiting, rng, now);
        if signal != Signal::Pass {
            if self.mark(wire) {
                stats.marked += 1;
            } else if signal == Signal::Congested && self.ecn(wire) != 3 {
                stats.queue_early += 1;
                return None;
            }
        }
        Some(backlog.push(now, rate, wire.data.len()))
    }

    fn loses(&self, way: &mut Direction, rng: &mut Rng, now: Instant) -> bool {
        let mut lost = chance(rng, self.loss);
        if let Some(burst) = &self.burst {
            lost |= way.losses.burst(burst, rng, now);
        }
        if let Some(gilbert) = &self.gilbert {
            lost |= way.losses.gilbert(gilbert, now, rng);
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

    /// The ECN field; 0 for what is not IP.
    fn ecn(&self, wire: &Wire) -> u8 {
        match wire.data.get(self.header_bytes()..) {
            Some([first, second, ..]) if first >> 4 == 4 => second & 3,
            Some([first, second, ..]) if first >> 4 == 6 => second >> 4 & 3,
            _ => 0,
        }
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

    fn wire(data: Vec<u8>) -> Wire {
        Wire { data, meta: FrameMeta::default(), seen: None }
    }

    fn run(spec: &LinkSpec, frames: usize) -> (LinkStats, Vec<Instant>) {
        let (mut way, mut stats) = (Direction::default(), LinkStats::default());
        let mut rng = Rng::from_u64(5);
        let mut arrivals = Vec::new();
        for i in 0..frames {
            let now = Instant::from_micros(i as u64 * 10);
            let mut wire = wire(vec![0x45; 1000]);
            let copies = spec.pass(&mut way, &mut stats, &mut rng, now, &mut wire);
            arrivals.extend(copies.first.into_iter().chain(copies.again));
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
        let mut wire = wire([vec![0; 14], ip].concat());
        assert!(LinkSpec::default().mark(&mut wire));
        assert_eq!(wire.data[15], 3);
        assert!(checksum::is_valid(checksum::sum(&wire.data[14..])));
        assert!(!LinkSpec::default().mark(&mut wire), "marked already");
    }
}
