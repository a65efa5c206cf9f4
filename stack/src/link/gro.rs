//! Receive merging (GRO): consecutive segments of a flow within one received burst become one
//! super-segment, before IP, so that everything above is paid once per unit and not per packet.
//!
//! A unit stands where its first segment stood and nothing outlives its burst, so merging adds no
//! latency. Whatever is not merged passes unchanged and in order within its flow: it ends the
//! flow's unit.
//!
//! What is merged is alike, as in Linux: Ethernet header, addresses, TTL or hop limit, traffic class
//! (so a CE mark merges with CE marks only, and all packets of a marked unit are marked), flow label,
//! "don't fragment"; identification counts up, unless "don't fragment" makes it meaningless
//! (RFC 6864 section 4.1). No IP options, extension headers or fragments. The IPv4 header checksum
//! and the transport checksum of each segment are verified first; a unit is [`Checksum::Verified`].
//!
//! * TCP: contiguous sequence numbers, payloads as long as the first one's, only the last may be
//!   shorter. Equal acknowledgement number and window: an ACK that moves is an ACK that the sender's
//!   congestion control wants to see. Flags are ACK and marks of ECN, all equal (they may count, RFC
//!   9768); PSH and FIN end a unit and are kept, everything else stays alone. Options equal, but that
//!   TSval may grow; the first one's is kept, because it is the first segment behind the last ACK
//!   sent that RFC 7323 section 4.3 wants echoed.
//! * UDP: datagrams as long as the first, only the last may be shorter, all or none with a checksum.
//! * TCP that a path layer rewrote, where the receiver has one: [`rewritten`].
//!
//! A payload much smaller than its buffer is copied behind the first one, so that a peer cannot make
//! us hold many buffers for few bytes; without room there, it begins a unit.
//!
//! Bare ACKs are not merged: each says something (duplicates count, SACK blocks, the window, marks),
//! and has nothing to be spared but its header.

mod rewritten;
mod template;

use core::mem;

use crate::frame::{Checksum, Frame, Gso};
use crate::wire::{checksum, frame_sum, protocol};

use rewritten::Outer;
use template::Template;

/// Flows merged at a time; more of them take each other's place.
const SLOTS: usize = 16;
/// Slots looked at for one flow.
const PROBES: usize = 4;
/// A buffer may be so many times as large as the payload that it is held for.
const OVERHEAD_MAX: usize = 4;
/// An IP packet whose length the header can tell.
const UNIT_BYTES_MAX: usize = 65_535;

const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const TCP_LEN: usize = 20;
const UDP_LEN: usize = 8;
const ETHERNET_LEN: usize = 14;

const ETHERTYPE_IP4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IP6: [u8; 2] = [0x86, 0xdd];
/// IPv4 flags: "don't fragment" alone.
const DF: u8 = 0x40;

const FIN: u8 = 0x01;
const SYN_RST_URG: u8 = 0x26;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// NOP, NOP, timestamp of ten bytes: how everybody sends timestamps.
const TIMESTAMP: [u8; 4] = [1, 1, 8, 10];

crate::counters! {
    /// What merging did.
    pub struct GroStats, "Gro" {
        /// Units made of more than one packet.
        units: "Units",
        /// Packets that they were made of.
        packets: "Packets",
        /// Payload bytes copied, of packets much smaller than their buffers.
        copied_bytes: "CopiedBytes",
    }
}

/// Where a packet's parts are, and what decides whether it can be merged.
#[derive(Clone, Copy)]
struct Segment {
    is_v4: bool,
    is_tcp: bool,
    outer: Outer,
    transport: usize,
    payload: usize,
    /// Bytes of payload, fragments of the frame included.
    len: usize,
    /// Nothing may follow it in a unit.
    last: bool,
    /// What [`Checksum::Summed`] says of one that was rewritten.
    sum: u16,
}

impl Segment {
    /// Where the IP header stands.
    fn network(&self) -> usize {
        self.transport - self.outer.len() - if self.is_v4 { IPV4_LEN } else { IPV6_LEN }
    }
}

/// What a frame is to its neighbours in a burst.
enum Kind {
    /// Of no flow that merging knows (not IP).
    Foreign,
    /// May belong to any flow: an IP fragment, a packet with options, a broken one.
    Unknown,
    /// Of a flow, to be passed as it is.
    Alone(u32),
    /// Of a flow, to be merged.
    Mergeable(u32, Segment),
}

/// A unit that may still grow.
#[derive(Clone, Copy, Default)]
struct Slot {
    /// Of the flow; 0: free.
    hash: u32,
    /// Where the unit stands in the burst.
    index: u32,
    /// Sequence number behind it (TCP).
    next_seq: u32,
    /// Payload bytes of its first packet.
    size: usize,
    /// Bytes of its IP packet.
    total: usize,
    packets: u16,
    is_v4: bool,
    is_tcp: bool,
    outer: Outer,
    network: u16,
    transport: u16,
    /// As that of each segment.
    sum: u16,
}

/// What a receiver takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Frames as the wire carried them.
    Frames,
    /// Units.
    Units,
    /// Units, also of what a path layer rewrote.
    Rewritten {
        /// Datagrams to this port are the layer's.
        udp_port: Option<u16>,
    },
}

/// Merges bursts. It holds nothing between them but its table.
#[derive(Default)]
pub struct Gro {
    slots: [Slot; SLOTS],
    /// Of the unit that grew last.
    next: Option<Template>,
    stats: GroStats,
}

impl core::fmt::Debug for Gro {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Gro").field("stats", &self.stats).finish_non_exhaustive()
    }
}

/// How the frames of a burst came.
#[derive(Clone, Copy, Debug)]
pub struct BurstFacts {
    /// Frames start with an Ethernet header; otherwise with the IP header.
    pub ethernet: bool,
    /// Transport checksums are right although they may not look it, see
    /// [`rx_checksum_trust`](crate::ip::address::AliasConfig::rx_checksum_trust).
    pub trust: bool,
}

impl Gro {
    /// Merges what can be merged of a burst, in place. Each frame has the receiver that it was found
    /// to be for; frames to different ones are not merged. What was taken into an earlier frame
    /// leaves `None` behind.
    pub fn merge<T: PartialEq>(
        &mut self,
        burst: &mut [(T, Option<Frame>)],
        facts: BurstFacts,
        takes: impl Fn(&T) -> Takes,
    ) -> GroStats {
        if burst.len() < 2 {
            return GroStats::default();
        }
        for at in 0..burst.len() {
            if self.follow(burst, at, facts) {
                continue;
            }
            let (to, Some(frame)) = &mut burst[at] else { continue };
            match kind(frame, facts.ethernet, || takes(to)) {
                Kind::Foreign => {}
                Kind::Unknown => self.end_all(burst),
                Kind::Alone(hash) => self.end_flow(burst, hash),
                Kind::Mergeable(hash, mut segment) => {
                    if takes(to) != Takes::Frames && verify(frame, &mut segment, facts.trust) {
                        self.take(burst, at, hash, &segment);
                    } else {
                        self.end_flow(burst, hash);
                    }
                }
            }
        }
        self.end_all(burst);
        mem::take(&mut self.stats)
    }

    /// Takes the next segment of the unit that grew last, by one look at its headers.
    fn follow<T: PartialEq>(
        &mut self,
        burst: &mut [(T, Option<Frame>)],
        at: usize,
        facts: BurstFacts,
    ) -> bool {
        let Some(template) = &self.next else { return false };
        let slot = &mut self.slots[template.slot];
        let (before, rest) = burst.split_at_mut(at);
        let ((to, Some(unit)), (next_to, next)) = (&mut before[slot.index as usize], &mut rest[0])
        else {
            return false;
        };
        let segment = next.as_mut().and_then(|next| template.fits(slot, next, facts));
        let Some(segment) = segment.filter(|_| *to == *next_to) else { return false };
        if let Some(next) = next.take() {
            slot.join(unit, next, &segment);
        }
        true
    }

    /// A packet that can be merged: into the flow's unit, or it begins one.
    fn take<T: PartialEq>(
        &mut self,
        burst: &mut [(T, Option<Frame>)],
        at: usize,
        hash: u32,
        segment: &Segment,
    ) {
        let slot = self.place(hash);
        if self.slots[slot].hash != 0 {
            if self.slots[slot].hash == hash && self.join(burst, at, slot, segment) {
                if segment.last || segment.len < self.slots[slot].size {
                    self.end(burst, slot);
                }
                return;
            }
            self.end(burst, slot);
        }
        if let Some(frame) = burst[at].1.as_ref().filter(|_| !segment.last) {
            self.slots[slot] = Slot::begin(frame, at, hash, segment);
        }
    }

    /// Moves the payload of a packet into the unit, if it is the next one.
    fn join<T: PartialEq>(
        &mut self,
        burst: &mut [(T, Option<Frame>)],
        at: usize,
        index: usize,
        segment: &Segment,
    ) -> bool {
        let slot = &mut self.slots[index];
        let (before, rest) = burst.split_at_mut(at);
        let ((to, Some(unit)), next) = (&mut before[slot.index as usize], &mut rest[0]) else {
            return false;
        };
        let fits = next.1.as_ref().is_some_and(|next| slot.continues(unit, next, segment));
        if *to != next.0 || !fits {
            return false;
        }
        if let Some(next) = next.1.take() {
            self.stats.copied_bytes += slot.join(unit, next, segment) as u64;
        }
        if slot.packets > 2 && self.next.as_ref().is_none_or(|next| next.slot != index) {
            self.next = Template::of(unit, index, slot, segment);
        }
        true
    }

    /// The flow's slot, a free one, or one whose flow has to make room.
    fn place(&self, hash: u32) -> usize {
        let probes = || (0..PROBES).map(|i| (hash as usize + i) % SLOTS);
        let of_flow = probes().find(|i| self.slots[*i].hash == hash);
        of_flow
            .or_else(|| probes().find(|i| self.slots[*i].hash == 0))
            .unwrap_or(hash as usize % SLOTS)
    }

    fn end_flow<T>(&mut self, burst: &mut [(T, Option<Frame>)], hash: u32) {
        let slot = self.place(hash);
        if self.slots[slot].hash == hash {
            self.end(burst, slot);
        }
    }

    fn end_all<T>(&mut self, burst: &mut [(T, Option<Frame>)]) {
        for slot in 0..SLOTS {
            if self.slots[slot].hash != 0 {
                self.end(burst, slot);
            }
        }
    }

    /// A unit is complete: its headers tell of the whole.
    fn end<T>(&mut self, burst: &mut [(T, Option<Frame>)], slot: usize) {
        if self.next.as_ref().is_some_and(|next| next.slot == slot) {
            self.next = None;
        }
        let slot = mem::take(&mut self.slots[slot]);
        if slot.packets > 1 {
            if let Some(unit) = &mut burst[slot.index as usize].1 {
                slot.seal(unit);
            }
            self.stats.units += 1;
            self.stats.packets += u64::from(slot.packets);
        }
    }
}

impl Slot {
    fn begin(frame: &Frame, at: usize, hash: u32, s: &Segment) -> Slot {
        let network = s.network();
        Slot {
            hash,
            index: at as u32,
            next_seq: be32(frame.data(), s.transport + 4).wrapping_add(s.len as u32),
            size: s.len,
            total: frame.total_len() - network,
            packets: 1,
            is_v4: s.is_v4,
            is_tcp: s.is_tcp,
            outer: s.outer,
            network: network as u16,
            transport: s.transport as u16,
            sum: s.sum,
        }
    }

    /// Whether a packet is the next one of the unit.
    fn continues(&self, unit: &Frame, next: &Frame, s: &Segment) -> bool {
        let (a, b) = (unit.data(), next.data());
        self.is_v4 == s.is_v4
            && self.is_tcp == s.is_tcp
            && self.outer == s.outer
            && self.sum == s.sum
            && usize::from(self.transport) == s.transport
            && s.len <= self.size
            && self.total + s.len <= UNIT_BYTES_MAX
            && self.network_is_alike(a, b)
            && if s.is_tcp {
                be32(b, s.transport + 4) == self.next_seq && tcp_is_alike(a, b, s)
            } else {
                udp_is_alike(a, b, s.transport)
            }
            && if is_small(next, s.len) {
                unit.frags.is_empty() && unit.tailroom() >= s.len
            } else {
                // A unit holds its buffers until all of it is read.
                self.packets > 1 || !next.is_scarce()
            }
    }

    fn network_is_alike(&self, a: &[u8], b: &[u8]) -> bool {
        let network = usize::from(self.network);
        let end = usize::from(self.transport) - self.outer.len();
        if !self.outer.is_alike(a, b, end) {
            return false;
        }
        if !self.is_v4 {
            return a[..network + 4] == b[..network + 4]
                && a[network + 6..end] == b[network + 6..end];
        }
        let counts_up = || {
            let id = |data: &[u8]| u16::from_be_bytes([data[network + 4], data[network + 5]]);
            id(b) == id(a).wrapping_add(self.packets)
        };
        a[..network + 2] == b[..network + 2]
            && a[network + 6..network + 10] == b[network + 6..network + 10]
            && a[network + 12..end] == b[network + 12..end]
            && (a[network + 6] == DF || counts_up())
    }

    /// Takes the payload of `next`; returns how many bytes were copied.
    fn join(&mut self, unit: &mut Frame, mut next: Frame, s: &Segment) -> usize {
        if s.is_tcp {
            let flags = next.data()[s.transport + 13] & (PSH | FIN);
            unit.data_mut()[s.transport + 13] |= flags;
        }
        self.next_seq = self.next_seq.wrapping_add(s.len as u32);
        self.total += s.len;
        self.packets += 1;
        let small = is_small(&next, s.len);
        next.pull_front(s.payload);
        if small {
            next.copy_to(unit.push_back(s.len));
            return s.len;
        }
        if next.is_empty() {
            unit.frags.extend(mem::take(&mut next.frags));
        } else {
            unit.frags.push(next);
        }
        0
    }

    fn seal(&self, unit: &mut Frame) {
        let size = self.size as u16;
        if self.outer == Outer::None {
            unit.meta.checksum = Checksum::Verified;
        }
        unit.meta.gso = match (self.is_tcp, self.is_v4) {
            (true, true) => Gso::Tcp4 { mss: size },
            (true, false) => Gso::Tcp6 { mss: size },
            (false, _) => Gso::Udp { size },
        };
        let (network, header) = (usize::from(self.network), self.header_len());
        let data = unit.data_mut();
        let ip = &mut data[network..network + header];
        if self.is_v4 {
            let (old, new) = ([ip[2], ip[3]], (self.total as u16).to_be_bytes());
            let sum = u16::from_be_bytes([ip[10], ip[11]]);
            let sum = checksum::replace(sum, u16::from_be_bytes(old), self.total as u16);
            ip[2..4].copy_from_slice(&new);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            let len = (self.total - IPV6_LEN) as u16;
            ip[4..6].copy_from_slice(&len.to_be_bytes());
        }
        if !self.is_tcp || self.outer == Outer::Datagram {
            let len = ((self.total - header) as u16).to_be_bytes();
            data[network + header + 4..network + header + 6].copy_from_slice(&len);
        }
    }

    /// Of IP.
    fn header_len(&self) -> usize {
        if self.is_v4 { IPV4_LEN } else { IPV6_LEN }
    }
}

/// A payload of `len` bytes that is not worth the buffer it stands in.
fn is_small(frame: &Frame, len: usize) -> bool {
    frame.headroom() + frame.len() + frame.tailroom() > OVERHEAD_MAX * len
}

/// Header fields of TCP but the sequence number, which the caller compares.
fn tcp_is_alike(a: &[u8], b: &[u8], s: &Segment) -> bool {
    let t = s.transport;
    let acks = |data: &[u8]| be32(data, t + 8);
    a[t..t + 4] == b[t..t + 4]
        && acks(a) == acks(b)
        && a[t + 12] == b[t + 12]
        && (a[t + 13] ^ b[t + 13]) & !(PSH | FIN) == 0
        && a[t + 14..t + 16] == b[t + 14..t + 16]
        && a[t + 18..t + 20] == b[t + 18..t + 20]
        && options_are_alike(&a[t + TCP_LEN..s.payload], &b[t + TCP_LEN..s.payload])
}

fn options_are_alike(a: &[u8], b: &[u8]) -> bool {
    if a == b {
        return true;
    }
    a.len() == 12
        && a.starts_with(&TIMESTAMP)
        && a[..4] == b[..4]
        && a[8..] == b[8..]
        && be32(b, 4).wrapping_sub(be32(a, 4)) as i32 >= 0
}

/// Ports, and whether there is a checksum.
fn udp_is_alike(a: &[u8], b: &[u8], t: usize) -> bool {
    let has_checksum = |data: &[u8]| data[t + 6..t + 8] != [0, 0];
    a[t..t + 4] == b[t..t + 4] && has_checksum(a) == has_checksum(b)
}

#[inline]
fn be16(data: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([data[at], data[at + 1]]))
}

#[inline]
fn be32(data: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]])
}

/// Never 0, which marks a free slot. Not keyed: who finds collisions spoils merging within one burst.
fn hash(addresses: &[u8], ports: &[u8]) -> u32 {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut sum = u64::from(be32(ports, 0));
    for word in addresses.chunks_exact(4) {
        sum = (sum ^ u64::from(be32(word, 0))).wrapping_mul(MULTIPLIER).rotate_left(29);
    }
    (sum >> 16) as u32 | 1 << 31
}

/// Looks at a frame's headers; all that are there are in its linear data.
fn kind(frame: &Frame, ethernet: bool, takes: impl Fn() -> Takes) -> Kind {
    let data = frame.data();
    let network = if ethernet { ETHERNET_LEN } else { 0 };
    if data.len() <= network {
        return Kind::Foreign;
    }
    match data[network] >> 4 {
        4 if !ethernet || data[12..14] == ETHERTYPE_IP4 => kind_v4(frame, network, takes),
        6 if !ethernet || data[12..14] == ETHERTYPE_IP6 => kind_v6(frame, network, takes),
        _ => Kind::Foreign,
    }
}

fn kind_v4(frame: &Frame, network: usize, takes: impl Fn() -> Takes) -> Kind {
    let Some(ip) = frame.data()[network..].first_chunk::<IPV4_LEN>() else { return Kind::Unknown };
    // No options, no fragment.
    if ip[0] != 0x45 || ip[6] & !DF != 0 || ip[7] != 0 {
        return Kind::Unknown;
    }
    if !checksum::is_valid(checksum::sum(ip)) {
        return Kind::Unknown;
    }
    // Padding, or a packet cut short.
    let whole = be16(ip, 2) == frame.total_len() - network && ip[16] >> 4 != 14 && ip[16] != 255;
    behind_ip(frame, network + IPV4_LEN, ip[9], &ip[12..20], whole, takes)
}

fn kind_v6(frame: &Frame, network: usize, takes: impl Fn() -> Takes) -> Kind {
    let Some(ip) = frame.data()[network..].first_chunk::<IPV6_LEN>() else { return Kind::Unknown };
    let whole = IPV6_LEN + be16(ip, 4) == frame.total_len() - network && ip[24] != 0xff;
    behind_ip(frame, network + IPV6_LEN, ip[6], &ip[8..40], whole, takes)
}

#[inline]
fn behind_ip(
    frame: &Frame,
    at: usize,
    number: u8,
    addresses: &[u8],
    whole: bool,
    takes: impl Fn() -> Takes,
) -> Kind {
    let outer = match number {
        protocol::SHIM6 if matches!(takes(), Takes::Rewritten { .. }) => Outer::Header,
        protocol::UDP => match (takes(), frame.data().get(at + 2..at + 4)) {
            (Takes::Rewritten { udp_port: Some(port) }, Some(to)) if to == port.to_be_bytes() => {
                Outer::Datagram
            }
            _ => Outer::None,
        },
        _ => Outer::None,
    };
    match outer {
        Outer::None => transport(frame, at, number, addresses, whole),
        outer => rewritten::kind(frame, at, outer, addresses, whole),
    }
}

fn transport(frame: &Frame, at: usize, number: u8, addresses: &[u8], whole: bool) -> Kind {
    let Some(header) = frame.data().get(at..) else { return Kind::Unknown };
    let is_tcp = number == protocol::TCP;
    let least = if is_tcp { TCP_LEN } else { UDP_LEN };
    if !(is_tcp || number == protocol::UDP) || header.len() < least {
        return Kind::Unknown;
    }
    let hash = hash(addresses, &header[..4]);
    let header_len = if is_tcp { usize::from(header[12] >> 4) * 4 } else { UDP_LEN };
    let whole = whole && frame.meta.gso == Gso::None;
    if !whole || header_len < least || header.len() < header_len {
        return Kind::Alone(hash);
    }
    let rest = frame.total_len() - at;
    let len = rest - header_len;
    let alone = if is_tcp {
        header[13] & SYN_RST_URG != 0 || header[13] & ACK == 0
    } else {
        be16(header, 4) != rest || (addresses.len() > 8 && header[6..8] == [0, 0])
    };
    if alone || len == 0 {
        return Kind::Alone(hash);
    }
    let last = is_tcp && header[13] & (PSH | FIN) != 0;
    let is_v4 = addresses.len() == 8;
    Kind::Mergeable(
        hash,
        Segment {
            is_v4,
            is_tcp,
            outer: Outer::None,
            transport: at,
            payload: at + header_len,
            len,
            last,
            sum: 0,
        },
    )
}

/// Whether the transport checksum is right; a frame whose it is says so from then on.
fn verify(frame: &mut Frame, s: &mut Segment, trust: bool) -> bool {
    if s.outer != Outer::None {
        return rewritten::verify(frame, s, trust);
    }
    if trust || frame.meta.checksum != Checksum::Complete {
        return true;
    }
    let data = frame.data();
    if !s.is_tcp && data[s.transport + 6..s.transport + 8] == [0, 0] {
        return true;
    }
    let (addresses, number) = (if s.is_v4 { 8 } else { 32 }, if s.is_tcp { 6 } else { 17 });
    let len = frame.total_len() - s.transport;
    let sum = checksum::sum(&data[s.transport - addresses..s.transport]);
    let sum = checksum::combine(checksum::combine(sum, number), len as u16);
    let valid = checksum::is_valid(frame_sum::sum_from(sum, frame, s.transport));
    if valid {
        frame.meta.checksum = Checksum::Verified;
    }
    valid
}
