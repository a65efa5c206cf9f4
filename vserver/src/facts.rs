//! What QoS looks at in a frame: its flow, its size, its marks.
//!
//! Made once per frame, and only if the frame's vserver or NIC has a policy. Parsing is lenient: what
//! is malformed is the stack's to count, so whatever cannot be read here is zero.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_stack::frame::{Frame, Gso};
use weft_stack::ip::address::AliasId;

use crate::demux::Target;

const ETHERNET_BYTES: usize = 14;
const IP4_BYTES: usize = 20;
const IP6_BYTES: usize = 40;
const UDP_BYTES: usize = 8;
/// IPv6 extension headers looked at; the stack takes no more.
const EXTENSIONS_MAX: usize = 8;

const HOP_BY_HOP: u8 = 0;
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
pub(crate) const ICMP6: u8 = 58;
const DEST_OPTIONS: u8 = 60;

/// One IP packet, or the packets of one super-segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The receiver; of a frame on its way out, the sender.
    pub(crate) vserver: u32,
    /// The alias it comes or leaves by.
    pub(crate) alias: AliasId,
    pub(crate) is_v6: bool,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// Of the transport, behind the extension headers; `FRAGMENT` never.
    pub(crate) protocol: u8,
    /// Of TCP and UDP; 0 without, and in fragments but the first.
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    /// Type of an ICMP or ICMPv6 message, 0 of others.
    pub(crate) icmp_type: u8,
    /// As on the wire (`FIN` is 1, `SYN` 2, `RST` 4, `ACK` 16).
    pub(crate) tcp_flags: u8,
    pub(crate) dscp: u8,
    pub(crate) ecn: u8,
    /// On the wire, link headers included, of all packets.
    pub(crate) bytes: u32,
    /// Packets of the wire.
    pub(crate) packets: u32,
    /// Where the IP header stands in the frame's data.
    pub(crate) network: usize,
    /// Part of a packet; the first one has ports.
    pub(crate) fragment: bool,
}

/// Where a header chain led.
#[derive(Clone, Copy, Default)]
struct Chain {
    protocol: u8,
    /// Of the transport, from the IP header; `None` in a fragment but the first.
    at: Option<usize>,
    fragment: bool,
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn chain_v4(packet: &[u8]) -> Option<Chain> {
    let flags_offset = word(packet, 6)?;
    let first = flags_offset.trailing_zeros() >= 13;
    let at = first.then_some(usize::from(packet[0] & 15) * 4);
    Some(Chain { protocol: packet[9], at, fragment: flags_offset & 0x3fff != 0 })
}

fn chain_v6(packet: &[u8]) -> Option<Chain> {
    let mut chain = Chain { protocol: *packet.get(6)?, at: Some(IP6_BYTES), fragment: false };
    for _ in 0..EXTENSIONS_MAX {
        let Some(at) = chain.at else { break };
        let len = |unit: usize| packet.get(at + 1).map(|n| usize::from(*n) * unit);
        let len = match chain.protocol {
            HOP_BY_HOP | ROUTING | DEST_OPTIONS => len(8).map(|n| n + 8),
            AUTHENTICATION => len(4).map(|n| n + 8),
            FRAGMENT => {
                chain.fragment = true;
                Some(8)
            }
            _ => break,
        };
        let (Some(len), Some(next)) = (len, packet.get(at)) else {
            chain.at = None;
            break;
        };
        let later = chain.protocol == FRAGMENT && word(packet, at + 2).unwrap_or(0) & !7 != 0;
        chain.protocol = *next;
        chain.at = (!later).then_some(at + len);
    }
    Some(chain)
}

fn ip4(packet: &[u8], at: usize) -> IpAddr {
    let octets = [packet[at], packet[at + 1], packet[at + 2], packet[at + 3]];
    IpAddr::V4(Ipv4Addr::from(octets))
}

fn ip6(packet: &[u8], at: usize) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&packet[at..at + 16]);
    IpAddr::V6(Ipv6Addr::from(octets))
}

impl Facts {
    /// Of a frame of `of.vserver` by `of.alias`; `None`: it is not IP (ARP, or too short to tell).
    pub(crate) fn of(frame: &Frame, ethernet: bool, of: Target) -> Option<Facts> {
        let network = if ethernet { ETHERNET_BYTES } else { 0 };
        let data = frame.data();
        let packet = data.get(network..)?;
        let version = match (ethernet, word(data, 12)) {
            (true, Some(0x0800)) => 4,
            (true, Some(0x86dd)) => 6,
            (true, _) => return None,
            (false, _) => packet.first()? >> 4,
        };
        let (chain, source, destination, class) = match version {
            4 if packet.len() >= IP4_BYTES => {
                (chain_v4(packet)?, ip4(packet, 12), ip4(packet, 16), packet[1])
            }
            6 if packet.len() >= IP6_BYTES => {
                let class = (packet[0] << 4) | (packet[1] >> 4);
                (chain_v6(packet)?, ip6(packet, 8), ip6(packet, 24), class)
            }
            _ => return None,
        };
        let mut facts = Facts {
            vserver: of.vserver,
            alias: of.alias,
            is_v6: version == 6,
            source,
            destination,
            protocol: chain.protocol,
            source_port: 0,
            destination_port: 0,
            icmp_type: 0,
            tcp_flags: 0,
            dscp: class >> 2,
            ecn: class & 3,
            bytes: frame.total_len() as u32,
            packets: 1,
            network,
            fragment: chain.fragment,
        };
        facts.read_transport(packet, chain);
        facts.count_packets(frame, chain.at.unwrap_or(0), packet);
        Some(facts)
    }

    fn read_transport(&mut self, packet: &[u8], chain: Chain) {
        let Some(at) = chain.at else { return };
        match chain.protocol {
            TCP | UDP => {
                self.source_port = word(packet, at).unwrap_or(0);
                self.destination_port = word(packet, at + 2).unwrap_or(0);
                if chain.protocol == TCP {
                    self.tcp_flags = packet.get(at + 13).copied().unwrap_or(0);
                }
            }
            ICMP | ICMP6 => self.icmp_type = packet.get(at).copied().unwrap_or(0),
            _ => {}
        }
    }

    /// A super-segment counts as what it is cut into, each with its headers.
    fn count_packets(&mut self, frame: &Frame, transport: usize, packet: &[u8]) {
        let headers = match frame.meta.gso {
            Gso::None => return,
            Gso::Udp { .. } => UDP_BYTES,
            Gso::Tcp4 { .. } | Gso::Tcp6 { .. } => {
                usize::from(packet.get(transport + 12).copied().unwrap_or(0x50) >> 4) * 4
            }
        };
        let headers = self.network + transport + headers;
        self.packets = frame.packets(headers) as u32;
        self.bytes += (self.packets - 1) * headers as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Target = Target { alias: AliasId(3), vserver: 7 };

    fn v4(protocol: u8, flags_offset: u16, payload: &[u8]) -> Vec<u8> {
        let mut p = vec![0x45, 0b1011_1001, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
        p[6..8].copy_from_slice(&flags_offset.to_be_bytes());
        p.extend([192, 0, 2, 1, 198, 51, 100, 2]);
        p.extend(payload);
        p
    }

    fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut p = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        p.extend([0x20; 16]);
        p.extend([0x30; 16]);
        p.extend(payload);
        p
    }

    fn tcp(payload: usize) -> Vec<u8> {
        let mut t = vec![0x12, 0x34, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x12, 0, 0, 0, 0, 0, 0];
        t.extend(vec![0; payload]);
        t
    }

    fn of(packet: &[u8]) -> Option<Facts> {
        Facts::of(&Frame::from_heap(0, packet), false, HERE)
    }

    #[test]
    fn a_segment_tells_its_flow_and_its_marks() {
        let f = of(&v4(TCP, 0x4000, &tcp(5))).unwrap();
        assert_eq!((f.vserver, f.alias, f.is_v6, f.fragment), (7, AliasId(3), false, false));
        assert_eq!((f.source_port, f.destination_port, f.tcp_flags), (0x1234, 80, 0x12));
        assert_eq!((f.dscp, f.ecn), (46, 1));
        assert_eq!((f.bytes, f.packets, f.network), (45, 1, 0));
        assert_eq!(f.source, "192.0.2.1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn ethernet_is_looked_through_and_arp_is_nothing() {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00]);
        frame.extend(v4(UDP, 0, &[0, 53, 0, 99, 0, 8, 0, 0]));
        let f = Facts::of(&Frame::from_heap(0, &frame), true, HERE).unwrap();
        assert_eq!((f.source_port, f.destination_port, f.network), (53, 99, 14));
        frame[13] = 6;
        assert_eq!(Facts::of(&Frame::from_heap(0, &frame), true, HERE), None);
    }

    #[test]
    fn fragments_but_the_first_have_no_ports() {
        let first = of(&v4(TCP, 0x2000, &tcp(0))).unwrap();
        assert!(first.fragment && first.destination_port == 80);
        let later = of(&v4(TCP, 0x2010, &tcp(0))).unwrap();
        assert!(later.fragment);
        assert_eq!((later.source_port, later.destination_port, later.tcp_flags), (0, 0, 0));
        let fragment = |offset: u8| [&[TCP, 0, 0, offset, 0, 0, 0, 1][..], &tcp(0)].concat();
        let first = of(&v6(FRAGMENT, &fragment(1))).unwrap();
        assert!(first.fragment && first.protocol == TCP && first.destination_port == 80);
        let later = of(&v6(FRAGMENT, &fragment(8))).unwrap();
        assert!(later.fragment && later.protocol == TCP && later.destination_port == 0);
    }

    #[test]
    fn a_chain_of_extension_headers_is_followed_so_far() {
        let options = |next: u8| [next, 0, 0, 0, 0, 0, 0, 0];
        let two = [&options(DEST_OPTIONS)[..], &options(TCP), &tcp(0)].concat();
        let f = of(&v6(HOP_BY_HOP, &two)).unwrap();
        assert_eq!((f.protocol, f.destination_port), (TCP, 80));
        let endless = options(DEST_OPTIONS).repeat(100);
        let f = of(&v6(DEST_OPTIONS, &endless)).unwrap();
        assert_eq!((f.protocol, f.destination_port), (DEST_OPTIONS, 0));
    }

    #[test]
    fn a_super_segment_counts_the_packets_it_is_cut_into() {
        let mut frame = Frame::from_heap(0, &v4(TCP, 0, &tcp(2500)));
        frame.meta.gso = Gso::Tcp4 { mss: 1000 };
        let f = Facts::of(&frame, false, HERE).unwrap();
        assert_eq!((f.packets, f.bytes), (3, 2500 + 3 * 40));
    }

    #[test]
    fn whatever_is_cut_off_or_random_is_harmless() {
        let whole = v6(HOP_BY_HOP, &[&[TCP, 0, 0, 0, 0, 0, 0, 0][..], &tcp(9)].concat());
        for len in 0..whole.len() {
            let _ = of(&whole[..len]);
            let _ = Facts::of(&Frame::from_heap(0, &whole[..len]), true, HERE);
        }
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[0x15; 60]), None);
    }
}
