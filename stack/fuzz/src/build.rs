//! Frames by hand, checksums right: what a peer at 10.0.0.2, fe80::2 and fd00::2 would send.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_stack::wire::checksum;

/// The stack's MAC address.
pub const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The peer's.
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The stack's IPv4 address.
pub const OUR_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The peer's.
pub const PEER_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// The stack's IPv6 address.
pub const OUR_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
/// The peer's.
pub const PEER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
/// TCP flags.
pub const FIN: u8 = 1;
/// TCP flags.
pub const SYN: u8 = 2;
/// TCP flags.
pub const RST: u8 = 4;
/// TCP flags.
pub const PSH: u8 = 8;
/// TCP flags.
pub const ACK: u8 = 16;
/// Hop limit of neighbour discovery.
pub const NDP_HOPS: u8 = 255;

/// A transport protocol, for its checksum's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

fn ethernet(dst: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut f = [dst, PEER_MAC].concat();
    f.extend(ethertype.to_be_bytes());
    f.extend(payload);
    f
}

fn dst_mac(dst: IpAddr) -> [u8; 6] {
    match dst {
        IpAddr::V4(a) if a.is_multicast() => {
            let o = a.octets();
            [1, 0, 0x5e, o[1] & 0x7f, o[2], o[3]]
        }
        IpAddr::V6(a) if a.is_multicast() => {
            let o = a.octets();
            [0x33, 0x33, o[12], o[13], o[14], o[15]]
        }
        _ => OUR_MAC,
    }
}

/// An ARP frame around 28 (or however many) bytes.
pub fn arp(message: &[u8]) -> Vec<u8> {
    ethernet([0xff; 6], 0x0806, message)
}

/// An ARP message.
pub fn arp_message(op: u8, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut m = vec![0, 1, 8, 0, 6, 4, 0, op];
    m.extend(PEER_MAC);
    m.extend(sender.octets());
    m.extend(if op == 1 { [0; 6] } else { OUR_MAC });
    m.extend(target.octets());
    m
}

/// An IPv4 packet in a frame; `flags_offset` as on the wire.
pub fn ip4(
    dst: Ipv4Addr,
    protocol: u8,
    ttl: u8,
    (id, flags_offset): (u16, u16),
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let header = 20 + options.len().next_multiple_of(4);
    let mut p = vec![0x40 | (header / 4) as u8, 0];
    p.extend(((header + payload.len()) as u16).to_be_bytes());
    p.extend(id.to_be_bytes());
    p.extend(flags_offset.to_be_bytes());
    p.extend([ttl, protocol, 0, 0]);
    p.extend(PEER_V4.octets());
    p.extend(dst.octets());
    p.extend(options);
    p.resize(header, 0);
    let sum = checksum::finish(checksum::sum(&p));
    p[10..12].copy_from_slice(&sum.to_be_bytes());
    p.extend(payload);
    ethernet(dst_mac(dst.into()), 0x0800, &p)
}

/// An IPv6 packet in a frame.
pub fn ip6(src: Ipv6Addr, dst: Ipv6Addr, next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut p = vec![0x60, 0, 0, 0];
    p.extend((payload.len() as u16).to_be_bytes());
    p.extend([next, hops]);
    p.extend(src.octets());
    p.extend(dst.octets());
    p.extend(payload);
    ethernet(dst_mac(dst.into()), 0x86dd, &p)
}

/// Fills in the checksum at `at` of a transport message.
fn sum_at(at: usize, message: &mut [u8], initial: u16) {
    if message.len() < at + 2 {
        return;
    }
    message[at..at + 2].fill(0);
    let sum = checksum::finish(checksum::combine(initial, checksum::sum(message)));
    message[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn segment(
    ports: (u16, u16),
    seq: u32,
    ack: u32,
    flags: u8,
    options: &[u8],
    data: &[u8],
) -> Vec<u8> {
    let header = 20 + options.len().next_multiple_of(4).min(40);
    let mut s = ports.0.to_be_bytes().to_vec();
    s.extend(ports.1.to_be_bytes());
    s.extend(seq.to_be_bytes());
    s.extend(ack.to_be_bytes());
    s.extend([((header / 4) << 4) as u8, flags, 0xff, 0xff, 0, 0, 0, 0]);
    s.extend(options);
    s.resize(header, 0);
    s.extend(data);
    s
}

/// A TCP segment over IPv4.
pub fn tcp4(
    from: u16,
    to: u16,
    seq: u32,
    ack: u32,
    flags: u8,
    options: &[u8],
    data: &[u8],
) -> Vec<u8> {
    let mut s = segment((from, to), seq, ack, flags, options, data);
    let pseudo = checksum::pseudo_v4(PEER_V4, OUR_V4, 6, s.len());
    sum_at(16, &mut s, pseudo);
    ip4(OUR_V4, 6, 64, (1, 0x4000), &[], &s)
}

/// A TCP segment over IPv6.
pub fn tcp6(
    from: u16,
    to: u16,
    seq: u32,
    ack: u32,
    flags: u8,
    options: &[u8],
    data: &[u8],
) -> Vec<u8> {
    let mut s = segment((from, to), seq, ack, flags, options, data);
    let pseudo = checksum::pseudo_v6(PEER_V6, OUR_V6, 6, s.len());
    sum_at(16, &mut s, pseudo);
    ip6(PEER_V6, OUR_V6, 6, 64, &s)
}

/// A UDP datagram, checksum zero over IPv4, to be put into an IP packet.
pub fn datagram(from: u16, to: u16, data: &[u8]) -> Vec<u8> {
    let mut d = from.to_be_bytes().to_vec();
    d.extend(to.to_be_bytes());
    d.extend(((8 + data.len()) as u16).to_be_bytes());
    d.extend([0, 0]);
    d.extend(data);
    d
}

/// A UDP datagram with its checksum for IPv6, to be cut into fragments.
pub fn datagram6(from: u16, to: u16, data: &[u8]) -> Vec<u8> {
    let mut d = datagram(from, to, data);
    let pseudo = checksum::pseudo_v6(PEER_V6, OUR_V6, 17, d.len());
    sum_at(6, &mut d, pseudo);
    d
}

/// A UDP datagram over IPv4.
pub fn udp4(from: u16, to: u16, data: &[u8]) -> Vec<u8> {
    let mut d = datagram(from, to, data);
    let pseudo = checksum::pseudo_v4(PEER_V4, OUR_V4, 17, d.len());
    sum_at(6, &mut d, pseudo);
    ip4(OUR_V4, 17, 64, (1, 0), &[], &d)
}

/// A UDP datagram over IPv6.
pub fn udp6(from: u16, to: u16, data: &[u8]) -> Vec<u8> {
    let d = datagram6(from, to, data);
    ip6(PEER_V6, OUR_V6, 17, 64, &d)
}

/// An ICMPv4 message.
pub fn icmp4(message: &[u8]) -> Vec<u8> {
    let mut m = message.to_vec();
    sum_at(2, &mut m, 0);
    ip4(OUR_V4, 1, 64, (1, 0), &[], &m)
}

/// An ICMPv6 message.
///
/// # Panics
/// If an address is malformed.
pub fn icmp6(src: &str, dst: &str, hops: u8, message: &[u8]) -> Vec<u8> {
    let parse = |s: &str| s.parse::<Ipv6Addr>().unwrap_or_else(|e| panic!("{s}: {e}"));
    let (src, dst) = (parse(src), parse(dst));
    let mut m = message.to_vec();
    let pseudo = checksum::pseudo_v6(src, dst, 58, m.len());
    sum_at(2, &mut m, pseudo);
    ip6(src, dst, 58, hops, &m)
}

/// An IGMP message to all systems, with router alert.
pub fn igmp(message: &[u8]) -> Vec<u8> {
    let mut m = message.to_vec();
    sum_at(2, &mut m, 0);
    ip4(Ipv4Addr::new(224, 0, 0, 1), 2, 1, (1, 0), &[148, 4, 0, 0], &m)
}

fn number(proto: Proto) -> u8 {
    if proto == Proto::Tcp { 6 } else { 17 }
}

/// A fragment over IPv4; `offset` in units of eight bytes.
pub fn fragment4(id: u16, offset: u16, more: bool, proto: Proto, payload: &[u8]) -> Vec<u8> {
    let flags = u16::from(more) << 13 | offset & 0x1fff;
    ip4(OUR_V4, number(proto), 64, (id, flags), &[], payload)
}

/// A fragment over IPv6; `offset` in units of eight bytes.
pub fn fragment6(id: u32, offset: u16, more: bool, proto: Proto, payload: &[u8]) -> Vec<u8> {
    let mut p = vec![number(proto), 0];
    p.extend((offset << 3 | u16::from(more)).to_be_bytes());
    p.extend(id.to_be_bytes());
    p.extend(payload);
    ip6(PEER_V6, OUR_V6, 44, 64, &p)
}

/// Makes the checksums of a frame right again after it was changed, as far as its headers can be
/// followed.
pub fn repair(frame: &mut [u8]) {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => repair4(&mut frame[14..]),
        Some([0x86, 0xdd]) => repair6(&mut frame[14..]),
        _ => {}
    }
}

fn transport(protocol: u8) -> Option<usize> {
    match protocol {
        6 => Some(16),
        17 => Some(6),
        1 | 2 | 58 => Some(2),
        _ => None,
    }
}

fn repair4(p: &mut [u8]) {
    let Some(first) = p.first() else { return };
    let header = usize::from(first & 15) * 4;
    if header < 20 || p.len() < header {
        return;
    }
    let addr = |at: usize| Ipv4Addr::new(p[at], p[at + 1], p[at + 2], p[at + 3]);
    let (src, dst, protocol) = (addr(12), addr(16), p[9]);
    let total = usize::from(u16::from_be_bytes([p[2], p[3]])).clamp(header, p.len());
    p[10..12].fill(0);
    let sum = checksum::finish(checksum::sum(&p[..header]));
    p[10..12].copy_from_slice(&sum.to_be_bytes());
    if let Some(at) = transport(protocol) {
        let payload = &mut p[header..total];
        let pseudo = match protocol {
            6 | 17 => checksum::pseudo_v4(src, dst, protocol, payload.len()),
            _ => 0,
        };
        sum_at(at, payload, pseudo);
    }
}

fn repair6(p: &mut [u8]) {
    if p.len() < 40 {
        return;
    }
    let addr = |at: usize| Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| p[at + i]));
    let (src, dst) = (addr(8), addr(24));
    let end = (40 + usize::from(u16::from_be_bytes([p[4], p[5]]))).min(p.len());
    let (mut next, mut at) = (p[6], 40);
    // Hop-by-hop, routing and destination options have the same shape.
    while matches!(next, 0 | 43 | 60) && at + 2 <= end {
        (next, at) = (p[at], at + 8 + usize::from(p[at + 1]) * 8);
    }
    if at > end {
        return;
    }
    if let Some(sum) = transport(next) {
        let pseudo = checksum::pseudo_v6(src, dst, next, end - at);
        sum_at(sum, &mut p[at..end], pseudo);
    }
}
