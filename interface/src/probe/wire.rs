//! Frames that probes read and write: ARP, neighbour discovery, echo, UDP.
//!
//! Readers check every length; what they refuse is counted by the caller.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_stack::wire::checksum;

use crate::Mac;

pub(super) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(super) const ETHERTYPE_ARP: u16 = 0x0806;
pub(super) const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IEEE 802 local experimental 1: transitive probes.
pub(super) const ETHERTYPE_TRANSITIVE: u16 = 0x88b5;
pub(super) const BROADCAST: Mac = [0xff; 6];

pub(super) const ICMP: u8 = 1;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;

const ETHERNET_BYTES: usize = 14;
/// Shorter frames are padded.
const FRAME_BYTES_MIN: usize = 60;
/// Longer ones are not answered.
pub(super) const PACKET_BYTES_MAX: usize = 1500;
const ARP_BYTES: usize = 28;

/// A frame that was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ether<'a> {
    pub(super) dst: Mac,
    pub(super) src: Mac,
    pub(super) ethertype: u16,
    pub(super) payload: &'a [u8],
}

impl<'a> Ether<'a> {
    pub(super) fn parse(frame: &'a [u8]) -> Option<Ether<'a>> {
        let (dst, rest) = frame.split_first_chunk::<6>()?;
        let (src, rest) = rest.split_first_chunk::<6>()?;
        let (kind, payload) = rest.split_first_chunk::<2>()?;
        Some(Ether { dst: *dst, src: *src, ethertype: u16::from_be_bytes(*kind), payload })
    }
}

/// An Ethernet frame, padded.
pub(super) fn ether(dst: Mac, src: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity((ETHERNET_BYTES + payload.len()).max(FRAME_BYTES_MIN));
    out.extend_from_slice(&dst);
    out.extend_from_slice(&src);
    out.extend_from_slice(&ethertype.to_be_bytes());
    out.extend_from_slice(payload);
    if out.len() < FRAME_BYTES_MIN {
        out.resize(FRAME_BYTES_MIN, 0);
    }
    out
}

/// ARP for IPv4 over Ethernet (RFC 826).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arp {
    /// 1 request, 2 reply.
    pub(super) op: u16,
    pub(super) sha: Mac,
    pub(super) spa: Ipv4Addr,
    pub(super) tha: Mac,
    pub(super) tpa: Ipv4Addr,
}

pub(super) const ARP_REQUEST: u16 = 1;
pub(super) const ARP_REPLY: u16 = 2;

impl Arp {
    pub(super) fn parse(data: &[u8]) -> Option<Arp> {
        let data: &[u8; ARP_BYTES] = data.first_chunk()?;
        if data[..6] != [0, 1, 8, 0, 6, 4] {
            return None;
        }
        let mac = |at: usize| core::array::from_fn(|i| data[at + i]);
        let ip = |at: usize| Ipv4Addr::new(data[at], data[at + 1], data[at + 2], data[at + 3]);
        Some(Arp {
            op: u16::from_be_bytes([data[6], data[7]]),
            sha: mac(8),
            spa: ip(14),
            tha: mac(18),
            tpa: ip(24),
        })
    }

    pub(super) fn emit(&self, dst: Mac, src: Mac) -> Vec<u8> {
        let mut out = Vec::with_capacity(ARP_BYTES);
        out.extend_from_slice(&[0, 1, 8, 0, 6, 4]);
        out.extend_from_slice(&self.op.to_be_bytes());
        out.extend_from_slice(&self.sha);
        out.extend_from_slice(&self.spa.octets());
        out.extend_from_slice(&self.tha);
        out.extend_from_slice(&self.tpa.octets());
        ether(dst, src, ETHERTYPE_ARP, &out)
    }
}

/// An IP packet whose transport header follows at once: no extension headers, no fragments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ip<'a> {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) hop_limit: u8,
    pub(super) protocol: u8,
    pub(super) payload: &'a [u8],
}

impl<'a> Ip<'a> {
    pub(super) fn parse_v4(data: &'a [u8]) -> Option<Ip<'a>> {
        let h: &[u8; 20] = data.first_chunk()?;
        let header_len = usize::from(h[0] & 0xf) * 4;
        let total_len = usize::from(u16::from_be_bytes([h[2], h[3]]));
        let fragment = u16::from_be_bytes([h[6], h[7]]) & 0x3fff;
        if h[0] >> 4 != 4 || header_len < 20 || total_len < header_len || fragment != 0 {
            return None;
        }
        let packet = data.get(..total_len)?;
        let (header, payload) = packet.split_at(header_len);
        checksum::is_valid(checksum::sum(header)).then_some(Ip {
            src: Ipv4Addr::new(h[12], h[13], h[14], h[15]).into(),
            dst: Ipv4Addr::new(h[16], h[17], h[18], h[19]).into(),
            hop_limit: h[8],
            protocol: h[9],
            payload,
        })
    }

    pub(super) fn parse_v6(data: &'a [u8]) -> Option<Ip<'a>> {
        let (h, rest) = data.split_first_chunk::<40>()?;
        if h[0] >> 4 != 6 {
            return None;
        }
        let address = |at: usize| Ipv6Addr::from(core::array::from_fn(|i| h[at + i]));
        Some(Ip {
            src: address(8).into(),
            dst: address(24).into(),
            hop_limit: h[7],
            protocol: h[6],
            payload: rest.get(..usize::from(u16::from_be_bytes([h[4], h[5]])))?,
        })
    }

    /// Whether the checksum of ICMP, ICMPv6 or UDP is right.
    pub(super) fn sum_is_valid(&self) -> bool {
        let sum = checksum::sum(self.payload);
        if self.protocol == ICMP {
            return checksum::is_valid(sum);
        }
        if self.protocol == UDP && self.src.is_ipv4() && self.payload.get(6..8) == Some(&[0, 0]) {
            return true;
        }
        checksum::is_valid(checksum::combine(sum, self.pseudo()))
    }

    fn pseudo(&self) -> u16 {
        checksum::pseudo(self.src, self.dst, self.protocol, self.payload.len())
    }
}

/// Where a packet goes from and to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Envelope {
    pub(super) src_mac: Mac,
    pub(super) dst_mac: Mac,
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) hop_limit: u8,
    pub(super) traffic_class: u8,
}

impl Envelope {
    /// The frame with this message, whose checksum at `sum_at` is filled in. Addresses are of one
    /// family.
    pub(super) fn frame(&self, protocol: u8, sum_at: usize, mut message: Vec<u8>) -> Vec<u8> {
        let mut sum = checksum::sum(&message);
        if protocol != ICMP {
            let pseudo = checksum::pseudo(self.src, self.dst, protocol, message.len());
            sum = checksum::combine(sum, pseudo);
        }
        let sum = if protocol == UDP { checksum::finish_udp(sum) } else { checksum::finish(sum) };
        message[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
        let mut packet = Vec::with_capacity(40 + message.len());
        let ethertype = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                packet.extend_from_slice(&[0x45, self.traffic_class]);
                packet.extend_from_slice(&((20 + message.len()) as u16).to_be_bytes());
                packet.extend_from_slice(&[0, 0, 0x40, 0, self.hop_limit, protocol, 0, 0]);
                packet.extend_from_slice(&src.octets());
                packet.extend_from_slice(&dst.octets());
                let sum = checksum::finish(checksum::sum(&packet));
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
                ETHERTYPE_IPV4
            }
            (src, dst) => {
                let class = self.traffic_class;
                packet.extend_from_slice(&[0x60 | class >> 4, class << 4, 0, 0]);
                packet.extend_from_slice(&(message.len() as u16).to_be_bytes());
                packet.extend_from_slice(&[protocol, self.hop_limit]);
                packet.extend_from_slice(&as_v6(src).octets());
                packet.extend_from_slice(&as_v6(dst).octets());
                ETHERTYPE_IPV6
            }
        };
        packet.extend_from_slice(&message);
        ether(self.dst_mac, self.src_mac, ethertype, &packet)
    }
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// A neighbour solicitation or advertisement (RFC 4861 4.3, 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub(super) advertisement: bool,
    pub(super) target: Ipv6Addr,
    /// Source or target link-layer address option.
    pub(super) mac: Option<Mac>,
}

pub(super) const SOLICITATION: u8 = 135;
pub(super) const ADVERTISEMENT: u8 = 136;

impl Neighbour {
    /// RFC 4861 7.1: hop limit 255, code 0, options with a length.
    pub(super) fn parse(ip: &Ip<'_>) -> Option<Neighbour> {
        let (head, mut options) = ip.payload.split_first_chunk::<24>()?;
        if ip.hop_limit != 255 || head[1] != 0 {
            return None;
        }
        let advertisement = head[0] == ADVERTISEMENT;
        let target = Ipv6Addr::from(core::array::from_fn(|i| head[8 + i]));
        let mut mac = None;
        while let [kind, len, ..] = *options {
            if len == 0 {
                return None;
            }
            let option = options.get(..usize::from(len) * 8)?;
            if kind == 1 + u8::from(advertisement) {
                mac = option.get(2..8).and_then(|m| m.try_into().ok());
            }
            options = &options[option.len()..];
        }
        Some(Neighbour { advertisement, target, mac })
    }

    /// `flags` are those of an advertisement (0x60: solicited, override).
    pub(super) fn message(&self, flags: u8) -> Vec<u8> {
        let kind = if self.advertisement { ADVERTISEMENT } else { SOLICITATION };
        let mut out = vec![kind, 0, 0, 0, flags, 0, 0, 0];
        out.extend_from_slice(&self.target.octets());
        if let Some(mac) = self.mac {
            out.extend_from_slice(&[1 + u8::from(self.advertisement), 1]);
            out.extend_from_slice(&mac);
        }
        out
    }
}

/// The solicited-node multicast address of a target (RFC 4291 2.7.1).
pub(super) fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    let last = u16::from_be_bytes([b, c]);
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), last)
}

/// The MAC address of an IPv4 or IPv6 multicast group (RFC 1112 6.4, RFC 2464 7).
pub(super) fn multicast_mac(group: IpAddr) -> Mac {
    match group {
        IpAddr::V4(v4) => {
            let [_, a, b, c] = v4.octets();
            [1, 0, 0x5e, a & 0x7f, b, c]
        }
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}

/// What an echo probe carries (ipmp.md 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Echo {
    pub(super) id: u16,
    pub(super) sequence: u16,
    /// Nanoseconds.
    pub(super) sent_ns: u64,
    pub(super) kind: u32,
}

pub(super) const KIND_UNICAST: u32 = 0x1234;
pub(super) const KIND_MULTICAST: u32 = 0x5678;
pub(super) const KIND_RTT: u32 = 0x9abc;
const ECHO_BYTES: usize = 20;

impl Echo {
    /// An echo reply of exactly the length of ours.
    pub(super) fn parse(message: &[u8]) -> Option<Echo> {
        let m: &[u8; ECHO_BYTES] = message.try_into().ok()?;
        let word = |at: usize| u32::from_be_bytes([m[at], m[at + 1], m[at + 2], m[at + 3]]);
        (m[1] == 0).then(|| Echo {
            id: (word(4) >> 16) as u16,
            sequence: word(4) as u16,
            sent_ns: u64::from(word(8)) << 32 | u64::from(word(12)),
            kind: word(16),
        })
    }

    /// The request; `v6`: ICMPv6.
    pub(super) fn message(&self, v6: bool) -> Vec<u8> {
        let mut out = vec![if v6 { 128 } else { 8 }, 0, 0, 0];
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&self.sent_ns.to_be_bytes());
        out.extend_from_slice(&self.kind.to_be_bytes());
        out
    }
}

/// A transitive probe: "does this frame reach another of our own members, and the answer me?"
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transitive {
    pub(super) answer: bool,
    pub(super) group: u32,
    /// Who asks.
    pub(super) from: u16,
    /// Who answers.
    pub(super) to: u16,
    pub(super) sequence: u16,
    /// Drawn for each probe: only who has seen it can answer.
    pub(super) token: u64,
}

const TRANSITIVE_MAGIC: [u8; 4] = *b"wftp";
const TRANSITIVE_VERSION: u8 = 1;
const TRANSITIVE_BYTES: usize = 28;

impl Transitive {
    pub(super) fn parse(data: &[u8]) -> Option<Transitive> {
        let m: &[u8; TRANSITIVE_BYTES] = data.first_chunk()?;
        if m[..4] != TRANSITIVE_MAGIC || m[4] != TRANSITIVE_VERSION || !matches!(m[5], 1 | 2) {
            return None;
        }
        let half = |at: usize| u16::from_be_bytes([m[at], m[at + 1]]);
        let word = |at: usize| u32::from(half(at)) << 16 | u32::from(half(at + 2));
        Some(Transitive {
            answer: m[5] == 2,
            group: word(8),
            from: half(12),
            to: half(14),
            sequence: half(16),
            token: u64::from(word(20)) << 32 | u64::from(word(24)),
        })
    }

    pub(super) fn emit(&self, dst: Mac, src: Mac) -> Vec<u8> {
        let mut out = Vec::with_capacity(TRANSITIVE_BYTES);
        out.extend_from_slice(&TRANSITIVE_MAGIC);
        out.extend_from_slice(&[TRANSITIVE_VERSION, 1 + u8::from(self.answer), 0, 0]);
        out.extend_from_slice(&self.group.to_be_bytes());
        for half in [self.from, self.to, self.sequence, 0] {
            out.extend_from_slice(&half.to_be_bytes());
        }
        out.extend_from_slice(&self.token.to_be_bytes());
        ether(dst, src, ETHERTYPE_TRANSITIVE, &out)
    }
}
