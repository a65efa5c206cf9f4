//! What the data path of bonds and groups looks at in a frame, behind up to two tags.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_stack::frame::{Checksum, Frame};

use crate::{Mac, vlan};

pub(super) const IP4: u16 = 0x0800;
pub(super) const ARP: u16 = 0x0806;
pub(super) const IP6: u16 = 0x86dd;

const ETHERNET_BYTES: usize = 14;
const TAGS_MAX: usize = 2;
const ARP_BYTES: usize = 28;
const IP4_BYTES: usize = 20;
const IP6_BYTES: usize = 40;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

#[inline]
pub(super) fn be16(data: &[u8], at: usize) -> Option<u16> {
    data.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]))
}

#[inline]
fn ip4(data: &[u8], at: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(data[at], data[at + 1], data[at + 2], data[at + 3]))
}

#[inline]
fn ip6(data: &[u8], at: usize) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&data[at..at + 16]);
    IpAddr::V6(Ipv6Addr::from(octets))
}

/// The protocol of a frame, and where its header begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) ethertype: u16,
    pub(super) at: usize,
}

/// `None`: the frame ends before.
#[inline]
pub(super) fn network(data: &[u8]) -> Option<Network> {
    let mut at = ETHERNET_BYTES;
    for _ in 0..=TAGS_MAX {
        let ethertype = be16(data, at - 2)?;
        if !vlan::is_tag(ethertype) {
            return Some(Network { ethertype, at });
        }
        at += vlan::TAG_BYTES;
    }
    None
}

pub(super) fn destination_mac(data: &[u8]) -> Mac {
    data.first_chunk().copied().unwrap_or_default()
}

pub(super) fn source_mac(data: &[u8]) -> Mac {
    data.get(6..12).and_then(|m| m.try_into().ok()).unwrap_or_default()
}

/// What a frame is, for who has to choose a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Between these two.
    Packet { to: IpAddr },
    /// ARP, or neighbour discovery, of its sender's address; `about` is what it asks or tells about.
    Resolution { sender: IpAddr, about: IpAddr },
    /// None of these.
    Other,
}

#[inline]
pub(super) fn meaning(data: &[u8], network: Network) -> Meaning {
    let packet = data.get(network.at..).unwrap_or_default();
    match network.ethertype {
        IP4 if packet.len() >= IP4_BYTES => Meaning::Packet { to: ip4(packet, 16) },
        IP6 if packet.len() >= IP6_BYTES => {
            discovery(packet).unwrap_or_else(|| Meaning::Packet { to: ip6(packet, 24) })
        }
        ARP if packet.len() >= ARP_BYTES => {
            Meaning::Resolution { sender: ip4(packet, 14), about: ip4(packet, 24) }
        }
        _ => Meaning::Other,
    }
}

/// Whether it tells where an address is: a reply of ARP, or an advertisement of a neighbour.
pub(super) fn is_answer(data: &[u8]) -> bool {
    let Some(network) = network(data) else { return false };
    let packet = data.get(network.at..).unwrap_or_default();
    match network.ethertype {
        ARP => be16(packet, 6) == Some(2),
        IP6 => packet.get(6) == Some(&ICMP6) && packet.get(IP6_BYTES) == Some(&136),
        _ => false,
    }
}

/// Whether it is an echo reply of one of these hosts.
pub(super) fn is_echo_reply(data: &[u8], hosts: &[IpAddr]) -> bool {
    let Some(network) = network(data) else { return false };
    let packet = data.get(network.at..).unwrap_or_default();
    let (from, is_reply) = match network.ethertype {
        IP4 if packet.len() >= IP4_BYTES => {
            let at = usize::from(packet[0] & 0xf) * 4;
            (ip4(packet, 12), packet[9] == ICMP && packet.get(at) == Some(&0))
        }
        IP6 if packet.len() >= IP6_BYTES => {
            (ip6(packet, 8), packet[6] == ICMP6 && packet.get(IP6_BYTES) == Some(&129))
        }
        _ => return false,
    };
    is_reply && hosts.contains(&from)
}

/// Which address a frame is for.
pub(super) fn receiver(data: &[u8], network: Network) -> Option<IpAddr> {
    let packet = data.get(network.at..)?;
    match network.ethertype {
        IP4 if packet.len() >= IP4_BYTES => Some(ip4(packet, 16)),
        IP6 if packet.len() >= IP6_BYTES => Some(ip6(packet, 24)),
        ARP if packet.len() >= ARP_BYTES => Some(ip4(packet, 24)),
        _ => None,
    }
}

/// Of a message of neighbour discovery (RFC 4861 section 4): where its options begin.
#[inline]
fn options_at(packet: &[u8]) -> Option<usize> {
    if packet[6] != ICMP6 {
        return None;
    }
    let at = match packet.get(IP6_BYTES)? {
        133 => 8,
        134 => 16,
        135 | 136 => 24,
        137 => 40,
        _ => return None,
    };
    Some(IP6_BYTES + at)
}

/// `None`: it is none.
fn discovery(packet: &[u8]) -> Option<Meaning> {
    options_at(packet)?;
    let sender = ip6(packet, 8);
    let has_target = matches!(packet[IP6_BYTES], 135 | 136) && packet.len() >= IP6_BYTES + 24;
    let about = if has_target { ip6(packet, IP6_BYTES + 8) } else { ip6(packet, 24) };
    // What an advertisement tells is true of its target, whoever speaks.
    let tells = packet[IP6_BYTES] == 136;
    Some(Meaning::Resolution { sender: if tells { about } else { sender }, about })
}

/// In ARP and neighbour discovery a hardware address of the sender becomes another, and checksums
/// follow.
pub(super) fn rewrite_hardware_address(frame: &mut Frame, network: Network, from: Mac, to: Mac) {
    match network.ethertype {
        ARP => {
            let sender = network.at + 8;
            if let Some(mac) = frame.data_mut().get_mut(sender..sender + 6)
                && *mac == from
            {
                mac.copy_from_slice(&to);
            }
        }
        IP6 => rewrite_option(frame, network.at, from, to),
        _ => {}
    }
}

fn rewrite_option(frame: &mut Frame, at: usize, from: Mac, to: Mac) {
    const SOURCE: u8 = 1;
    const TARGET: u8 = 2;
    let complete = !matches!(frame.meta.checksum, Checksum::Partial { .. });
    let Some(packet) = frame.data_mut().get_mut(at..) else { return };
    if packet.len() < IP6_BYTES {
        return;
    }
    let Some(mut option) = options_at(packet) else { return };
    while let Some(head) = packet.get(option..option + 2) {
        let (kind, bytes) = (head[0], usize::from(head[1]) * 8);
        if bytes == 0 {
            return;
        }
        let wanted = matches!(kind, SOURCE | TARGET);
        if let Some(mac) = packet.get_mut(option + 2..option + 8)
            && wanted
            && *mac == from
        {
            mac.copy_from_slice(&to);
            if complete {
                fix_checksum(&mut packet[IP6_BYTES + 2..IP6_BYTES + 4], from, to);
            }
        }
        option += bytes;
    }
}

/// RFC 1624 equation 3.
fn fix_checksum(field: &mut [u8], from: Mac, to: Mac) {
    let word = |mac: &Mac, i: usize| u32::from(u16::from_be_bytes([mac[i], mac[i + 1]]));
    let mut sum = u32::from(!u16::from_be_bytes([field[0], field[1]]));
    for i in [0, 2, 4] {
        sum += (!word(&from, i) & 0xffff) + word(&to, i);
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    field.copy_from_slice(&(!(sum as u16)).to_be_bytes());
}
