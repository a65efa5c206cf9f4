//! Frames that tell a network where an address is now: gratuitous ARP (RFC 5227 3, RFC 5944 4.6)
//! and unsolicited neighbour advertisements (RFC 4861 7.2.6); and where groups are wanted, for
//! switches that listen to reports (RFC 4541).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smallvec::{SmallVec, smallvec};
use weft_stack::wire::checksum;

use crate::Mac;

const BROADCAST: Mac = [0xff; 6];
/// Shorter frames are padded: whoever takes them off a wire expects that.
const FRAME_MIN: usize = 60;
const ICMPV6: u8 = 58;
/// Flag of an advertisement: take this even if you know another.
const OVERRIDE: u8 = 0x20;

/// The burst for one move: all frames that it takes, each whole and untagged, from its destination
/// address on. IPv4: a request and a reply, for there are hosts that heed only one of them. IPv6:
/// one advertisement. Nothing for an address that no network knows.
pub fn announcement(addr: IpAddr, mac: Mac) -> SmallVec<[Vec<u8>; 2]> {
    match addr {
        IpAddr::V4(a) if a.is_unspecified() || a.is_multicast() || a.is_broadcast() => smallvec![],
        IpAddr::V6(a) if a.is_unspecified() || a.is_multicast() => smallvec![],
        IpAddr::V4(a) => smallvec![arp(1, a, mac), arp(2, a, mac)],
        IpAddr::V6(a) => smallvec![advertisement(a, mac)],
    }
}

/// ARP in which sender and target are the same: what a host knows of the address is set anew.
fn arp(operation: u8, addr: Ipv4Addr, mac: Mac) -> Vec<u8> {
    // RFC 5227 1.1: a request knows no target; a reply tells the sender's.
    let target = if operation == 1 { [0; 6] } else { mac };
    let mut frame = Vec::with_capacity(FRAME_MIN);
    frame.extend_from_slice(&BROADCAST);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&addr.octets());
    frame.extend_from_slice(&target);
    frame.extend_from_slice(&addr.octets());
    frame.resize(FRAME_MIN, 0);
    frame
}

fn advertisement(addr: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut message = vec![136, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend_from_slice(&addr.octets());
    message.extend_from_slice(&[2, 1]);
    message.extend_from_slice(&mac);
    let pseudo = checksum::pseudo_v6(addr, to, ICMPV6, message.len());
    let sum = checksum::combine(pseudo, checksum::sum(&message));
    message[2..4].copy_from_slice(&checksum::finish(sum).to_be_bytes());
    let mut frame = Vec::with_capacity(86);
    frame.extend_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend_from_slice(&(message.len() as u16).to_be_bytes());
    frame.extend_from_slice(&[ICMPV6, 255]);
    frame.extend_from_slice(&addr.octets());
    frame.extend_from_slice(&to.octets());
    frame.extend_from_slice(&message);
    frame
}

/// Groups of one report: it fits the least MTU of IPv6.
const GROUPS_MAX: usize = 50;

/// Reports that these groups are wanted here, from every source: what a switch has to know of a port
/// that takes over. As RFC 4541 2.1.1 and RFC 3590 have it for who has no address, the source is
/// unspecified, so that nobody takes the sender for a member on its own.
pub fn membership_reports(groups: &[IpAddr], mac: Mac) -> Vec<Vec<u8>> {
    let four = |a: &IpAddr| match a {
        IpAddr::V4(a) if a.is_multicast() && *a != Ipv4Addr::new(224, 0, 0, 1) => Some(*a),
        _ => None,
    };
    let six = |a: &IpAddr| match a {
        // RFC 3810 6: not the nodes' own, nor all nodes of the link.
        IpAddr::V6(a) if a.octets()[..2] != [0xff, 0x01] && a.is_multicast() => Some(*a),
        _ => None,
    };
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let fours: Vec<Ipv4Addr> = groups.iter().filter_map(four).collect();
    let sixes: Vec<Ipv6Addr> = groups.iter().filter_map(six).filter(|a| *a != all_nodes).collect();
    let v4 = fours.chunks(GROUPS_MAX).map(|some| report_v4(some, mac));
    v4.chain(sixes.chunks(GROUPS_MAX).map(|some| report_v6(some, mac))).collect()
}

/// `CHANGE_TO_EXCLUDE_MODE` with no sources.
const TO_EXCLUDE: [u8; 4] = [4, 0, 0, 0];

/// RFC 3376 4.2.
fn report_v4(groups: &[Ipv4Addr], mac: Mac) -> Vec<u8> {
    let mut message = vec![0x22, 0, 0, 0, 0, 0, 0, groups.len() as u8];
    for group in groups {
        message.extend_from_slice(&TO_EXCLUDE);
        message.extend_from_slice(&group.octets());
    }
    let sum = checksum::finish(checksum::sum(&message));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut header = vec![0x46, 0xc0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 224, 0, 0, 22];
    header.extend_from_slice(&[148, 4, 0, 0]);
    let total = (header.len() + message.len()) as u16;
    header[2..4].copy_from_slice(&total.to_be_bytes());
    let sum = checksum::finish(checksum::sum(&header));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    let to = [0x01, 0x00, 0x5e, 0, 0, 22];
    let mut frame = [&to[..], &mac, &[0x08, 0x00], &header, &message].concat();
    frame.resize(frame.len().max(FRAME_MIN), 0);
    frame
}

/// RFC 3810 5.2.
fn report_v6(groups: &[Ipv6Addr], mac: Mac) -> Vec<u8> {
    let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 22);
    let mut message = vec![143, 0, 0, 0, 0, 0, 0, groups.len() as u8];
    for group in groups {
        message.extend_from_slice(&TO_EXCLUDE);
        message.extend_from_slice(&group.octets());
    }
    let pseudo = checksum::pseudo_v6(Ipv6Addr::UNSPECIFIED, to, ICMPV6, message.len());
    let sum = checksum::finish(checksum::combine(pseudo, checksum::sum(&message)));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    // Hop-by-hop: a router alert (RFC 2711).
    let alert = [ICMPV6, 0, 5, 2, 0, 0, 1, 0];
    let length = (alert.len() + message.len()) as u16;
    let [high, low] = length.to_be_bytes();
    let head = [0x60, 0, 0, 0, high, low, 0, 1];
    let (from, link) = (Ipv6Addr::UNSPECIFIED.octets(), [0x33, 0x33, 0, 0, 0, 22]);
    [&link[..], &mac, &[0x86, 0xdd], &head, &from, &to.octets(), &alert, &message].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    use smoltcp::wire::{
        ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, Icmpv6Packet, Icmpv6Repr,
        Ipv6Packet, NdiscNeighborFlags, NdiscRepr,
    };

    const MAC: Mac = [2, 0, 0, 0, 0, 7];

    // RFC 5227 1.2, 3: sender and target address are the announced one.
    #[test]
    fn an_ipv4_address_is_announced_by_a_request_and_a_reply() {
        let addr = Ipv4Addr::new(10, 0, 0, 9);
        let frames = announcement(addr.into(), MAC);
        let mut seen = Vec::new();
        for frame in &frames {
            let ethernet = EthernetFrame::new_checked(&frame[..]).unwrap();
            assert_eq!(ethernet.src_addr(), EthernetAddress(MAC));
            assert!(ethernet.dst_addr().is_broadcast());
            let packet = ArpPacket::new_checked(ethernet.payload()).unwrap();
            let ArpRepr::EthernetIpv4 {
                operation,
                source_hardware_addr,
                source_protocol_addr,
                target_protocol_addr,
                ..
            } = ArpRepr::parse(&packet).unwrap()
            else {
                panic!("ARP for Ethernet")
            };
            assert_eq!(source_hardware_addr, EthernetAddress(MAC));
            assert_eq!((source_protocol_addr, target_protocol_addr), (addr, addr));
            seen.push(operation);
        }
        assert_eq!(seen, [ArpOperation::Request, ArpOperation::Reply]);
    }

    // RFC 4861 7.2.6, 4.4: hop limit 255, O set, S not set, the link-layer address as an option.
    #[test]
    fn an_ipv6_address_is_announced_to_all_nodes_and_overrides() {
        let addr: Ipv6Addr = "fd00::9".parse().unwrap();
        let frames = announcement(addr.into(), MAC);
        assert_eq!(frames.len(), 1);
        let ethernet = EthernetFrame::new_checked(&frames[0][..]).unwrap();
        assert_eq!(ethernet.dst_addr(), EthernetAddress([0x33, 0x33, 0, 0, 0, 1]));
        let ip = Ipv6Packet::new_checked(ethernet.payload()).unwrap();
        assert_eq!((ip.hop_limit(), ip.src_addr()), (255, addr));
        let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
        let caps = smoltcp::phy::ChecksumCapabilities::default();
        let parsed = Icmpv6Repr::parse(&ip.src_addr(), &ip.dst_addr(), &icmp, &caps).unwrap();
        let Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr, lladdr }) = parsed
        else {
            panic!("an advertisement: {parsed:?}")
        };
        assert_eq!((flags, target_addr), (NdiscNeighborFlags::OVERRIDE, addr));
        assert_eq!(lladdr.unwrap().as_bytes(), MAC);
    }

    // RFC 3376 4.2 and RFC 3810 5.2.
    #[test]
    fn reports_are_whole_packets_with_a_record_for_each_group() {
        let groups: Vec<IpAddr> = ["224.0.0.1", "239.1.2.3", "ff02::1", "ff05::7", "10.0.0.1"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        let frames = membership_reports(&groups, MAC);
        assert_eq!(frames.len(), 2);
        let ethernet = EthernetFrame::new_checked(&frames[0][..]).unwrap();
        let ip = smoltcp::wire::Ipv4Packet::new_checked(ethernet.payload()).unwrap();
        assert!(ip.verify_checksum());
        assert_eq!((ip.hop_limit(), ip.dst_addr()), (1, Ipv4Addr::new(224, 0, 0, 22)));
        assert!(checksum::is_valid(checksum::sum(ip.payload())));
        assert_eq!(ip.payload()[8..], [4, 0, 0, 0, 239, 1, 2, 3]);
        let ethernet = EthernetFrame::new_checked(&frames[1][..]).unwrap();
        let ip = Ipv6Packet::new_checked(ethernet.payload()).unwrap();
        assert_eq!(ip.hop_limit(), 1);
        let message = &ip.payload()[8..];
        let pseudo = checksum::pseudo_v6(ip.src_addr(), ip.dst_addr(), ICMPV6, message.len());
        assert!(checksum::is_valid(checksum::combine(pseudo, checksum::sum(message))));
        assert_eq!((message[0], message[7], message[8]), (143, 1, 4));
        assert_eq!(membership_reports(&vec![groups[1]; 120], MAC).len(), 3);
    }

    #[test]
    fn groups_and_no_address_are_not_announced() {
        for addr in ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1"] {
            assert!(announcement(addr.parse().unwrap(), MAC).is_empty(), "{addr}");
        }
    }
}
