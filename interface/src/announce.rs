//! Frames that tell a network where an address is now: gratuitous ARP (RFC 5227 3, RFC 5944 4.6)
//! and unsolicited neighbour advertisements (RFC 4861 7.2.6).

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

    #[test]
    fn groups_and_no_address_are_not_announced() {
        for addr in ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1"] {
            assert!(announcement(addr.parse().unwrap(), MAC).is_empty(), "{addr}");
        }
    }
}
