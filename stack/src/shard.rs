//! Shards: the stacks of one vserver on several workers, and which of them a packet belongs to.
//!
//! Shard 0 is at home: it alone answers ARP and neighbour solicitations, tries and announces
//! addresses, talks to routers and multicast routers, and reassembles. The others take over the
//! addresses that it finished and learn neighbours from copies of what arrives.
//!
//! The owner of a packet is a function of the packet alone, the same in both directions for TCP, so
//! that both ends of a connection within one host, and a receive queue that the peer's transmit
//! queue of the same number leads to, meet on one worker. The hash has no secret: a peer that
//! gathers its flows on one worker wins what it wins with the fixed keys of a NIC's own hash, and
//! two hosts that run weft find each other's queues.
//!
//! A vserver whose flows have state in common, the contexts of a multipath shim, has them all on
//! one shard ([`Shard::flows`]). Shard 0 speaks for it all the same.

use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::AtomicUsize;

use crate::ip::icmp::Quote;
use crate::stack::Limits;
use crate::wire::protocol;

/// Where a stack stands among the stacks of its vserver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its number.
    pub index: u16,
    /// How many there are; at least 1.
    pub count: u16,
    /// The one that has every flow, and puts fragments together; `None`: flows are spread.
    pub flows: Option<u16>,
}

impl Default for Shard {
    fn default() -> Shard {
        Shard::ONLY
    }
}

/// What the shards of a vserver count together.
#[derive(Debug, Default)]
pub struct SharedCounts {
    pub(crate) udp_sockets: AtomicUsize,
}

/// Whose a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This shard's.
    Shard(u16),
    /// Every shard wants to know it: ARP and neighbour discovery.
    All,
}

const HOME: Owner = Owner::Shard(0);
const ETHERTYPE_ARP: u16 = 0x0806;
/// Extension headers looked at; input allows as many.
const EXTENSIONS_MAX: usize = 8;

impl Shard {
    /// The only one.
    pub const ONLY: Shard = Shard { index: 0, count: 1, flows: None };

    /// Whether it speaks for the vserver.
    #[inline]
    pub fn is_home(self) -> bool {
        self.index == 0
    }

    /// Whether there are others.
    #[inline]
    pub fn has_peers(self) -> bool {
        self.count > 1
    }

    /// Whether a TCP connection is this shard's.
    pub fn owns_flow(self, a: SocketAddr, b: SocketAddr) -> bool {
        let owner = || self.flows.unwrap_or_else(|| flow_owner(a, b, self.count));
        !self.has_peers() || owner() == self.index
    }

    /// Whether the UDP port is this shard's.
    pub fn owns_port(self, port: u16) -> bool {
        let owner = || self.flows.unwrap_or_else(|| port_owner(port, self.count));
        !self.has_peers() || owner() == self.index
    }

    /// The owner of an IP packet for this vserver.
    pub fn owner(self, packet: &[u8]) -> Owner {
        match self.flows {
            Some(flows) => pinned_packet_owner(packet, flows),
            None => packet_owner(packet, self.count),
        }
    }

    /// This shard's part of what the flow hash spreads.
    pub(crate) fn part(self, whole: usize) -> usize {
        if self.flows.is_some() { whole } else { whole.div_ceil(usize::from(self.count)) }
    }

    /// Its share of a vserver's limits.
    ///
    /// Divided are the limits of what the flow hash spreads: connections, half-open ones, bytes,
    /// path MTUs, ICMP errors and RSTs per second. Whole are those of what exists on every shard alike
    /// (routes, addresses, groups, listeners, neighbours), of what only shard 0 has (raw sockets,
    /// reassembly), and of single sockets and queues. UDP sockets are counted over all shards
    /// ([`SharedCounts`]), because few ports fall unevenly. Where one shard has all flows it has
    /// all of everything.
    pub(crate) fn share(self, limits: Limits) -> Limits {
        if !self.has_peers() || self.flows.is_some() {
            return limits;
        }
        let part = |whole: usize| self.part(whole);
        Limits {
            pmtu: part(limits.pmtu),
            tcp_connections: part(limits.tcp_connections),
            tcp_half_open: part(limits.tcp_half_open),
            tcp_fast_open: part(limits.tcp_fast_open),
            tcp_bytes: part(limits.tcp_bytes),
            app_frames: part(limits.app_frames),
            icmp_errors_per_second: limits.icmp_errors_per_second.div_ceil(self.count.into()),
            tcp_resets_per_second: limits.tcp_resets_per_second.div_ceil(self.count.into()),
            ..limits
        }
    }
}

/// Spreads the bits of one end of a flow.
#[inline]
fn mix(word: u64) -> u64 {
    // splitmix64, the first half: enough for what is mixed again.
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

#[inline]
fn end_v4(addr: u32, port: u16) -> u64 {
    mix(u64::from(addr) << 16 | u64::from(port))
}

#[inline]
fn end_v6(addr: u128, port: u16) -> u64 {
    mix(((addr >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (addr as u64))
        .wrapping_add(mix(u64::from(port)))
}

/// A number below `count`.
#[inline]
fn below(hash: u64, count: u16) -> u16 {
    let high = (hash ^ (hash >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    ((high * u64::from(count)) >> 32) as u16
}

#[inline]
fn owner(a: u64, b: u64, count: u16) -> u16 {
    below(a.wrapping_add(b), count)
}

fn end(addr: SocketAddr) -> u64 {
    match addr.ip() {
        IpAddr::V4(ip) => end_v4(ip.into(), addr.port()),
        IpAddr::V6(ip) => end_v6(ip.into(), addr.port()),
    }
}

/// The shard of a TCP connection between two ends, whichever is first.
pub fn flow_owner(a: SocketAddr, b: SocketAddr, count: u16) -> u16 {
    owner(end(a), end(b), count)
}

/// The shard of a UDP port.
#[inline]
pub fn port_owner(port: u16, count: u16) -> u16 {
    below(mix(u64::from(port) + 1), count)
}

/// The owner of a received link frame. What is malformed is shard 0's to count.
#[inline]
pub fn frame_owner(frame: &[u8], ethernet: bool, count: u16) -> Owner {
    owner_in(frame, ethernet, |packet| packet_owner(packet, count))
}

/// The owner of a received link frame for a vserver whose flows are all on shard `flows`.
pub fn pinned_owner(frame: &[u8], ethernet: bool, flows: u16) -> Owner {
    owner_in(frame, ethernet, |packet| pinned_packet_owner(packet, flows))
}

#[inline(always)]
fn owner_in(frame: &[u8], ethernet: bool, of_packet: impl FnOnce(&[u8]) -> Owner) -> Owner {
    if !ethernet {
        return of_packet(frame);
    }
    match frame {
        [_, _, _, _, _, _, _, _, _, _, _, _, high, low, packet @ ..] => {
            let ethertype = u16::from_be_bytes([*high, *low]);
            if ethertype == ETHERTYPE_ARP { Owner::All } else { of_packet(packet) }
        }
        _ => HOME,
    }
}

/// Discovery is everybody's, membership in groups is told to routers by shard 0, all else is of the
/// shard with the flows.
fn pinned_packet_owner(packet: &[u8], flows: u16) -> Owner {
    match packet_owner(packet, 1) {
        Owner::All => Owner::All,
        Owner::Shard(_) if is_membership(packet) => HOME,
        Owner::Shard(_) => Owner::Shard(flows),
    }
}

/// IGMP, MLD.
fn is_membership(packet: &[u8]) -> bool {
    match packet.first().map(|b| b >> 4) {
        Some(4) => packet.get(9) == Some(&protocol::IGMP),
        Some(6) => upper_v6(packet).is_some_and(|(next, at)| {
            next == protocol::ICMPV6 && matches!(packet.get(at), Some(130..=132 | 143))
        }),
        _ => false,
    }
}

/// The owner of an IP packet.
#[inline]
pub fn packet_owner(packet: &[u8], count: u16) -> Owner {
    match packet.first().map(|b| b >> 4) {
        Some(4) => packet_owner_v4(packet, count),
        Some(6) => packet_owner_v6(packet, count),
        _ => HOME,
    }
}

fn port_at(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*data.get(at)?, *data.get(at + 1)?]))
}

#[inline]
fn packet_owner_v4(p: &[u8], count: u16) -> Owner {
    let Some(h) = p.first_chunk::<20>() else { return HOME };
    let transport = usize::from(h[0] & 15) * 4;
    // More fragments, or an offset: whole again on shard 0.
    let fragment = u16::from_be_bytes([h[6], h[7]]) & 0x3fff != 0;
    if fragment {
        return HOME;
    }
    let word = |at: usize| u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
    let ports = || Some((port_at(p, transport)?, port_at(p, transport + 2)?));
    match h[9] {
        protocol::TCP => ports().map_or(HOME, |(src, dst)| {
            Owner::Shard(owner(end_v4(word(12), src), end_v4(word(16), dst), count))
        }),
        protocol::UDP => ports().map_or(HOME, |(_, dst)| Owner::Shard(port_owner(dst, count))),
        protocol::ICMP => match p.get(transport) {
            Some(3 | 11 | 12) => quoted_owner(p.get(transport + 8..), count),
            _ => HOME,
        },
        _ => HOME,
    }
}

#[inline]
fn packet_owner_v6(p: &[u8], count: u16) -> Owner {
    let Some(h) = p.first_chunk::<40>() else { return HOME };
    let addr = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&h[at..at + 16]);
        u128::from_be_bytes(octets)
    };
    let Some((next, at)) = upper_v6(p) else { return HOME };
    let ports = || Some((port_at(p, at)?, port_at(p, at + 2)?));
    match next {
        protocol::TCP => ports().map_or(HOME, |(src, dst)| {
            Owner::Shard(owner(end_v6(addr(8), src), end_v6(addr(24), dst), count))
        }),
        protocol::UDP => ports().map_or(HOME, |(_, dst)| Owner::Shard(port_owner(dst, count))),
        protocol::ICMPV6 => match p.get(at) {
            Some(1..=4) => quoted_owner(p.get(at + 8..), count),
            // Router and neighbour discovery; of solicitations for routers we have none.
            Some(134..=137) => Owner::All,
            _ => HOME,
        },
        // An atomic fragment too: input takes it for whole, which then finds its owner.
        _ => HOME,
    }
}

/// What an IPv6 packet carries behind the extension headers that are no fragment's, and where.
#[inline]
fn upper_v6(p: &[u8]) -> Option<(u8, usize)> {
    let (mut next, mut at) = (*p.get(6)?, 40);
    for _ in 0..=EXTENSIONS_MAX {
        match next {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DEST_OPTIONS => {
                let [following, len] = p.get(at..at + 2)?.first_chunk()?;
                next = *following;
                at += 8 * (usize::from(*len) + 1);
            }
            _ => return Some((next, at)),
        }
    }
    None
}

/// The owner of the flow that an ICMP error is about: we sent the quoted packet.
fn quoted_owner(quote: Option<&[u8]>, count: u16) -> Owner {
    let Some(quote) = quote.and_then(Quote::parse) else { return HOME };
    let Some(src) = port_at(quote.transport, 0) else { return HOME };
    let Some(dst) = port_at(quote.transport, 2) else { return HOME };
    match quote.protocol {
        protocol::TCP => {
            let (a, b) = (SocketAddr::new(quote.src, src), SocketAddr::new(quote.dst, dst));
            Owner::Shard(flow_owner(a, b, count))
        }
        protocol::UDP => Owner::Shard(port_owner(src, count)),
        _ => HOME,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::frame::Frame;
    use crate::wire::header::IpHeader;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn packet(src: SocketAddr, dst: SocketAddr, number: u8) -> Vec<u8> {
        let mut frame = Frame::from_heap(128, &[0; 20]);
        frame.data_mut()[..2].copy_from_slice(&src.port().to_be_bytes());
        frame.data_mut()[2..4].copy_from_slice(&dst.port().to_be_bytes());
        IpHeader::new(src.ip(), dst.ip(), number, 64).push(&mut frame);
        frame.data().to_vec()
    }

    #[test]
    fn both_directions_of_a_flow_have_one_owner() {
        for count in 1..=9 {
            for port in 1..2000 {
                for (us, them) in [("10.0.0.1:80", "10.9.8.7:1"), ("[fd00::1]:80", "[fd00::7]:1")] {
                    let (us, mut them) = (at(us), at(them));
                    them.set_port(port);
                    let owner = flow_owner(us, them, count);
                    assert!(owner < count);
                    assert_eq!(owner, flow_owner(them, us, count));
                    let there = packet(us, them, protocol::TCP);
                    let back = packet(them, us, protocol::TCP);
                    assert_eq!(packet_owner(&there, count), Owner::Shard(owner));
                    assert_eq!(packet_owner(&back, count), Owner::Shard(owner));
                }
            }
        }
    }

    #[test]
    fn flows_and_ports_spread_evenly() {
        for count in [2u16, 3, 4, 8] {
            let mut tcp = vec![0u32; count.into()];
            let mut tcp6 = tcp.clone();
            let mut many_hosts = tcp.clone();
            let mut udp = tcp.clone();
            for i in 0..20_000u16 {
                let them = SocketAddr::new([10, 0, 0, 2].into(), 32_768 + i);
                tcp[usize::from(flow_owner(at("10.0.0.1:80"), them, count))] += 1;
                let them = SocketAddr::new("fd00::2".parse().unwrap(), 32_768 + i);
                tcp6[usize::from(flow_owner(at("[fd00::1]:80"), them, count))] += 1;
                let [high, low] = i.to_be_bytes();
                let them = SocketAddr::new([10, 1, high, low].into(), 4000);
                many_hosts[usize::from(flow_owner(at("10.0.0.1:80"), them, count))] += 1;
                udp[usize::from(port_owner(32_768 + i, count))] += 1;
            }
            let fair = 20_000 / u32::from(count);
            for got in [tcp, tcp6, many_hosts, udp].into_iter().flatten() {
                assert!(got.abs_diff(fair) < fair / 10, "{got} of {fair} for {count}");
            }
        }
    }

    #[test]
    fn a_datagram_goes_by_its_destination_port_and_an_error_by_what_it_quotes() {
        const COUNT: u16 = 4;
        for port in 1000..1200 {
            let (us, them) = (at("10.0.0.1:0"), at("10.0.0.2:7"));
            let us = SocketAddr::new(us.ip(), port);
            let owner = Owner::Shard(port_owner(port, COUNT));
            assert_eq!(packet_owner(&packet(them, us, protocol::UDP), COUNT), owner);
            for (number, owner) in [
                (protocol::UDP, owner),
                (protocol::TCP, Owner::Shard(flow_owner(us, them, COUNT))),
                (protocol::ICMP, HOME),
            ] {
                let mut error = Frame::heap_with_capacity(128, 128);
                error.append(&[3, 3, 0, 0, 0, 0, 0, 0]);
                error.append(&packet(us, them, number));
                IpHeader::new(them.ip(), us.ip(), protocol::ICMP, 64).push(&mut error);
                assert_eq!(packet_owner(error.data(), COUNT), owner);
            }
        }
    }

    #[test]
    fn fragments_and_echo_are_at_home_and_discovery_is_everybodys() {
        let (a, b) = (at("10.0.0.1:9"), at("10.0.0.2:9"));
        let mut fragment = packet(a, b, protocol::UDP);
        fragment[6] = 0x20;
        assert_eq!(packet_owner(&fragment, 64), HOME);
        let (a, b) = (at("[fe80::1]:34816"), at("[fe80::2]:0"));
        // Source port 0x8800 stands where type 136 does.
        assert_eq!(packet_owner(&packet(a, b, protocol::ICMPV6), 64), Owner::All);
        let mut frame = vec![0xff; 12];
        frame.extend([8, 6]);
        assert_eq!(frame_owner(&frame, true, 2), Owner::All);
        frame[13] = 0;
        frame.extend(packet(at("10.0.0.1:80"), at("10.0.0.2:1"), protocol::TCP));
        let owner = flow_owner(at("10.0.0.1:80"), at("10.0.0.2:1"), 64);
        assert_eq!(frame_owner(&frame, true, 64), Owner::Shard(owner));
    }

    #[test]
    fn whatever_is_cut_off_has_an_owner() {
        for whole in [
            packet(at("10.0.0.1:9"), at("10.0.0.2:9"), protocol::TCP),
            packet(at("[fd00::1]:9"), at("[fd00::2]:9"), protocol::HOP_BY_HOP),
            packet(at("[fd00::1]:256"), at("[fd00::2]:9"), protocol::ICMPV6),
        ] {
            for len in 0..whole.len() {
                let (Owner::Shard(0..4) | Owner::All) = packet_owner(&whole[..len], 4) else {
                    panic!("no such shard");
                };
            }
        }
    }

    #[test]
    fn a_vserver_in_one_place_has_its_flows_there_and_its_voice_on_shard_0() {
        let shard = Shard { index: 2, count: 4, flows: Some(2) };
        let (a, b) = (at("[fe80::1]:9"), at("[fe80::2]:9"));
        let mut fragment = packet(at("10.0.0.1:9"), at("10.0.0.2:9"), protocol::UDP);
        fragment[6] = 0x20;
        let here = [
            packet(at("10.0.0.1:80"), at("10.0.0.2:7"), protocol::TCP),
            packet(at("10.0.0.1:80"), at("10.0.0.2:7"), protocol::UDP),
            packet(a, b, protocol::TCP),
            // Of a shim; an echo request.
            packet(a, b, 140),
            packet(at("[fe80::1]:32768"), b, protocol::ICMPV6),
            fragment,
        ];
        for packet in here {
            assert_eq!(shard.owner(&packet), Owner::Shard(2));
        }
        // Source port 0x8800 stands where type 136 does, 0x8200 where type 130 does.
        let neighbour = packet(at("[fe80::1]:34816"), b, protocol::ICMPV6);
        assert_eq!(shard.owner(&neighbour), Owner::All);
        for query in [
            packet(at("[fe80::1]:33280"), b, protocol::ICMPV6),
            packet(at("10.0.0.1:9"), at("10.0.0.2:9"), protocol::IGMP),
        ] {
            assert_eq!(shard.owner(&query), HOME);
        }
        for port in 1..100 {
            let them = SocketAddr::new(b.ip(), port);
            assert!(shard.owns_flow(a, them) && shard.owns_port(port));
            let other = Shard { index: 0, ..shard };
            assert!(!other.owns_flow(a, them) && !other.owns_port(port));
        }
        let whole = Limits::default();
        assert_eq!(shard.share(whole.clone()).tcp_connections, whole.tcp_connections);
    }

    #[test]
    fn shares_add_up_to_the_limit() {
        let whole = Limits::default();
        for count in 1..=8u16 {
            let share = Shard { index: 0, count, flows: None }.share(whole.clone());
            let sum = share.tcp_connections * usize::from(count);
            assert!((whole.tcp_connections..whole.tcp_connections + 8).contains(&sum));
            assert_eq!(share.tcp_listeners, whole.tcp_listeners);
        }
    }
}
