//! Ways with their headers: what a flow asks of IP and the link layer for each of its packets,
//! answered once. A packet of such a flow needs no look into any table, only its own lengths,
//! traffic class and hop limit in a copy of the headers.
//!
//! An answer holds until an address, a route, a link, a path MTU or a neighbour changes (all count
//! their changes), and no longer than what time alone changes: a second, as in the way cache, and
//! until the neighbour is due to be asked again. What needs more than headers (our own addresses,
//! groups, a neighbour that has to be asked or is being asked) is never ready and takes the long
//! way. What a path layer rewrites has the ways between its locators (`lower/mapped.rs`).

use core::net::IpAddr;

use super::output::{addresses_hash, flow_hash_from};
use super::rule::Via;
use super::{Ip, Way};
use crate::ctx::Ctx;
use crate::frame::Frame;
use crate::hash::FoldHasher;
use crate::link::Link;
use crate::lower::RouteInfo;
use crate::stats::IpStats;
use crate::time::Instant;
use crate::wire::checksum;
use crate::wire::header::{IPV4_LEN, IPV6_LEN, IpHeader};

/// Slots at first; most stacks talk to few. A power of two, as their number always is.
const SLOTS_MIN: usize = 2;
/// Slots at most.
const SLOTS_MAX: usize = 1024;
/// Ethernet and IPv6.
const HEADERS_MAX: usize = 54;

/// A way and its headers.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    dst: IpAddr,
    asked: Via,
    version: u64,
    until: Instant,
    pub(crate) route: RouteInfo,
    hop_limit: u8,
    link_len: u8,
    len: u8,
    /// Link and IP header; lengths, traffic class, hop limit, protocol and IPv4 checksum are zero.
    headers: [u8; HEADERS_MAX],
    /// Sum of the IPv4 header as it stands.
    header_sum: u16,
    /// Sum of the pseudo header without length and protocol.
    pseudo: u16,
    hasher: FoldHasher,
}

impl Ready {
    fn new(way: &Way, dst: IpAddr, route: RouteInfo, link: Option<[u8; 14]>) -> Ready {
        let mut frame = Frame::heap_with_capacity(HEADERS_MAX, 0);
        IpHeader::new(way.src, dst, 0, 0).push(&mut frame);
        let ip = frame.data_mut();
        if dst.is_ipv4() {
            // Length and checksum; the others are zero.
            ip[2..4].fill(0);
            ip[10..12].fill(0);
        }
        let header_sum = checksum::sum(ip);
        let mut headers = [0; HEADERS_MAX];
        let link_len = link.map_or(0, |l| l.len());
        headers[..link_len].copy_from_slice(link.as_ref().map_or(&[], |l| &l[..]));
        let len = link_len + ip.len();
        headers[link_len..len].copy_from_slice(ip);
        Ready {
            dst,
            asked: Via::default(),
            version: 0,
            until: Instant::ZERO,
            route,
            hop_limit: way.hop_limit,
            link_len: link_len as u8,
            len: len as u8,
            headers,
            header_sum,
            pseudo: checksum::pseudo(way.src, dst, 0, 0),
            hasher: addresses_hash(way.src, dst),
        }
    }

    /// Sum of the pseudo header of a segment or datagram, header included, of `len` bytes.
    #[inline]
    pub(crate) fn pseudo(&self, protocol: u8, len: usize) -> u16 {
        let len = len as u32;
        let len = checksum::combine((len >> 16) as u16, len as u16);
        checksum::combine(self.pseudo, checksum::combine(u16::from(protocol), len))
    }

    /// Whether a segment or datagram of `len` bytes with its header fits the path, or if it is to be
    /// cut the device.
    #[inline]
    pub(crate) fn takes(&self, len: usize, is_super: bool) -> bool {
        if is_super {
            len <= self.route.gso_bytes_max
        } else {
            len + usize::from(self.len - self.link_len) <= self.route.mtu
        }
    }

    /// Puts the headers in front of a segment or datagram, which [`Ready::takes`], and counts it.
    #[inline]
    pub(crate) fn push(
        &self,
        stats: &mut IpStats,
        frame: &mut Frame,
        protocol: u8,
        traffic_class: u8,
        hop_limit: Option<u8>,
    ) {
        frame.meta.flow_hash = flow_hash_from(self.hasher, protocol, frame);
        self.push_headers(stats, frame, protocol, traffic_class, hop_limit);
    }

    /// The same of one whose flow hash is known.
    #[inline(always)]
    pub(crate) fn push_headers(
        &self,
        stats: &mut IpStats,
        frame: &mut Frame,
        protocol: u8,
        traffic_class: u8,
        hop_limit: Option<u8>,
    ) {
        let hop_limit = hop_limit.unwrap_or(self.hop_limit);
        let (link_len, len) = (usize::from(self.link_len), usize::from(self.len));
        let payload = frame.total_len();
        let total = payload + len - link_len;
        let headers = frame.push_front(len);
        // Of known length they are a few words, not a call.
        if let Ok(headers) = <&mut [u8; 14 + IPV4_LEN]>::try_from(&mut *headers) {
            headers.copy_from_slice(&self.headers[..14 + IPV4_LEN]);
        } else {
            headers.copy_from_slice(&self.headers[..len]);
        }
        let ip = &mut headers[link_len..];
        if let Some(h) = ip.first_chunk_mut::<IPV4_LEN>().filter(|_| self.dst.is_ipv4()) {
            h[1] = traffic_class;
            // As in `IpHeader::push`: whoever cuts a super-segment writes the lengths.
            let total = total.min(0xffff) as u16;
            h[2..4].copy_from_slice(&total.to_be_bytes());
            h[8] = hop_limit;
            h[9] = protocol;
            let hops = u16::from_be_bytes([hop_limit, protocol]);
            let own = checksum::combine(u16::from(traffic_class), hops);
            let sum = checksum::combine(checksum::combine(self.header_sum, own), total);
            h[10..12].copy_from_slice(&checksum::finish(sum).to_be_bytes());
        } else if let Some(h) = ip.first_chunk_mut::<IPV6_LEN>() {
            h[0] = 0x60 | traffic_class >> 4;
            h[1] = traffic_class << 4;
            h[4..6].copy_from_slice(&(payload.min(0xffff) as u16).to_be_bytes());
            h[6] = protocol;
            h[7] = hop_limit;
        }
        frame.meta.network_offset = i32::from(self.link_len);
        stats.out_requests += 1;
        stats.out_transmits += 1;
        stats.out_octets += total as u64;
    }
}

/// The ways that are ready.
#[derive(Debug, Default)]
pub(crate) struct ReadyWays {
    /// Empty until first used. Direct-mapped; grows while flows push each other out.
    slots: Box<[Option<Ready>]>,
}

impl ReadyWays {
    #[inline]
    fn slot(&self, src: IpAddr, dst: IpAddr) -> usize {
        let low = |addr| match addr {
            IpAddr::V4(a) => a.to_bits(),
            IpAddr::V6(a) => a.to_bits() as u32 ^ (a.to_bits() >> 64) as u32,
        };
        let mixed = (low(dst) ^ low(src).rotate_left(16)).wrapping_mul(0x9e37_79b9);
        (mixed >> 16) as usize & self.slots.len().wrapping_sub(1)
    }

    /// What [`find`] gave a place to.
    #[inline]
    pub(crate) fn at(&self, slot: usize) -> Option<&Ready> {
        self.slots.get(slot)?.as_ref()
    }

    fn put(&mut self, now: Instant, ready: Ready) -> usize {
        if self.slots.is_empty() {
            self.slots = vec![None; SLOTS_MIN].into_boxed_slice();
        }
        let mut slot = self.slot(ready.route.src, ready.dst);
        let lives = |old: &Ready| old.version == ready.version && now < old.until;
        if self.slots[slot].as_ref().is_some_and(lives) && self.slots.len() < SLOTS_MAX {
            // What was there is asked for again.
            self.slots = vec![None; 2 * self.slots.len()].into_boxed_slice();
            slot = self.slot(ready.route.src, ready.dst);
        }
        self.slots[slot] = Some(ready);
        slot
    }
}

/// The place of a way from `src` to `dst` that is ready to be used now.
#[inline]
pub(crate) fn find(
    ctx: &Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    ends: (IpAddr, IpAddr),
    via: Via,
) -> Option<usize> {
    find_here(ctx, link, ip, ends, via)
}

/// The same, without a call.
#[inline(always)]
pub(crate) fn find_here(
    ctx: &Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    (src, dst): (IpAddr, IpAddr),
    via: Via,
) -> Option<usize> {
    let via = ip.what_rules_see(via);
    let version = ip.ways_version() + link.version();
    let slot = ip.ready.slot(src, dst);
    if let Some(ready) = ip.ready.at(slot)
        && ready.version == version
        && ctx.now < ready.until
        && ready.dst == dst
        && ready.route.src == src
        && ready.asked == via
    {
        return Some(slot);
    }
    make(ctx, link, ip, (src, dst), via)
}

#[inline(never)]
fn make(
    ctx: &Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    (src, dst): (IpAddr, IpAddr),
    asked: Via,
) -> Option<usize> {
    let (way, until) = ip.resolve_until(ctx.now, Some(src), dst, asked).ok()?;
    if way.local || dst.is_multicast() || ip.is_broadcast(dst) {
        return None;
    }
    let alias = ip.aliases.get(&way.alias)?;
    let (header, known_until) = link.header_for(ctx, alias, way.next_hop, dst.is_ipv4())?;
    let route = RouteInfo {
        alias: way.alias,
        src,
        mtu: way.mtu,
        gso_bytes_max: alias.config.gso_bytes_max.min(ip.super_bytes_max),
        tx_checksum: alias.config.tx_checksum,
    };
    let ready = Ready {
        asked,
        version: ip.ways_version() + link.version(),
        until: until.min(known_until),
        ..Ready::new(&way, dst, route, header)
    };
    Some(ip.ready.put(ctx.now, ready))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctx::testing::World;
    use crate::drop::DropReason;
    use crate::ip::address::{AliasConfig, AliasId, AliasMedium};
    use crate::ip::configure;
    use crate::ip::output;
    use crate::ip::route::Route;
    use crate::lower::OutPacket;
    use crate::stack::{Change, StackConfig};
    use crate::time::Duration;
    use crate::wire::protocol;

    const ID: AliasId = AliasId(3);
    const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 9];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 8];

    struct Bench {
        world: World,
        link: Link,
        ip: Ip,
    }

    fn addr(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    fn route(via: &str, metric: u32, mtu: Option<usize>) -> Route {
        let prefix = if via.contains(':') { "fd09::/16" } else { "192.0.2.0/24" };
        let via = Some(addr(via));
        Route { prefix: prefix.parse().unwrap(), via, alias: ID, src: None, metric, mtu }
    }

    /// A way to 192.0.2.1 by a gateway that is known.
    fn bench() -> Bench {
        let world = World::new();
        let ip = Ip::new(&StackConfig::default(), &world.secrets, world.now);
        let mut bench = Bench { world, link: Link::default(), ip };
        let mac = [2, 0, 0, 0, 0, 1];
        bench.change(Change::AliasAdd(AliasConfig::up_without_offload(
            ID,
            AliasMedium::Ethernet { mac },
        )));
        for cidr in ["10.0.0.1/24", "fd00::1/64"] {
            bench.change(Change::AddressAdd { alias: ID, cidr: cidr.parse().unwrap() });
        }
        bench.knows("10.0.0.9", GATEWAY);
        bench.change(Change::RouteAdd(route("10.0.0.9", 10, None)));
        bench.world.all_sent();
        bench
    }

    impl Bench {
        fn change(&mut self, change: Change) {
            configure::apply(&mut self.world.ctx(), &mut self.link, &mut self.ip, change).unwrap();
        }

        fn knows(&mut self, of: &str, mac: [u8; 6]) {
            self.change(Change::NeighbourAdd { alias: ID, addr: addr(of), mac });
        }

        fn find(&mut self, src: &str, dst: &str) -> Option<usize> {
            let ctx = self.world.ctx();
            find(&ctx, &mut self.link, &mut self.ip, (addr(src), addr(dst)), Via::default())
        }

        /// The frame that the long way makes, and what it counts.
        fn long(&mut self, src: &str, dst: &str, (tc, hops): (u8, Option<u8>)) -> Sent {
            let packet = OutPacket {
                src: addr(src),
                dst: addr(dst),
                protocol: protocol::TCP,
                traffic_class: tc,
                hop_limit: hops,
                dont_fragment: true,
                alias: None,
                mark: 0,
            };
            let frame = Frame::from_heap(128, &[7; 32]);
            let mut ctx = self.world.ctx();
            output::send(&mut ctx, &mut self.link, &mut self.ip, &packet, frame)?;
            Ok(self.world.outbox.frames.pop_back().map(|(alias, frame)| seen(alias, &frame)))
        }

        /// That of the short way, which has to be ready.
        fn short(&mut self, src: &str, dst: &str, (tc, hops): (u8, Option<u8>)) -> Seen {
            let slot = self.find(src, dst).expect("a way that is ready");
            let ready = self.ip.ready.at(slot).unwrap();
            assert!(ready.takes(32, false));
            let mut frame = Frame::from_heap(128, &[7; 32]);
            ready.push(
                output::stats(&mut self.world.mib, ready.dst.is_ipv4()),
                &mut frame,
                protocol::TCP,
                tc,
                hops,
            );
            seen(ready.route.alias, &frame)
        }

        fn same(&mut self, src: &str, dst: &str) {
            for fields in [(0, None), (0xb9, Some(3)), (0xff, Some(255))] {
                let before = self.world.mib.ip4.clone();
                let short = self.short(src, dst, fields);
                let between = self.world.mib.ip4.clone();
                assert_eq!(
                    Ok(Some(short)),
                    self.long(src, dst, fields),
                    "{src} to {dst}, {fields:?}"
                );
                let counts = |a: &IpStats, b: &IpStats| {
                    [b.out_requests - a.out_requests, b.out_octets - a.out_octets]
                };
                assert_eq!(counts(&before, &between), counts(&between, &self.world.mib.ip4));
            }
        }
    }

    type Seen = (AliasId, Vec<u8>, u32, i32);
    type Sent = Result<Option<Seen>, DropReason>;

    fn seen(alias: AliasId, frame: &Frame) -> Seen {
        (alias, frame.data().to_vec(), frame.meta.flow_hash, frame.meta.network_offset)
    }

    const HERE: &str = "10.0.0.1";
    const THERE: &str = "192.0.2.1";

    #[test]
    fn a_short_way_sends_what_the_long_way_sends() {
        let mut b = bench();
        b.same(HERE, THERE);
        b.same(HERE, "10.0.0.9");
        // No link header, and IPv6 behind it.
        b.change(Change::AliasAdd(AliasConfig::up_without_offload(AliasId(4), AliasMedium::Ip)));
        b.change(Change::AddressAdd { alias: AliasId(4), cidr: "10.4.0.1/24".parse().unwrap() });
        b.same("10.4.0.1", "10.4.0.7");
        b.ip.address_ready(&mut b.world.ctx(), ID, addr("fd00::1"));
        b.knows("fd00::9", GATEWAY);
        b.change(Change::RouteAdd(route("fd00::9", 1, None)));
        b.same("fd00::1", "fd09::5");
    }

    #[test]
    fn a_better_route_is_taken_at_once() {
        let mut b = bench();
        b.same(HERE, THERE);
        b.knows("10.0.0.8", OTHER);
        b.change(Change::RouteAdd(route("10.0.0.8", 1, None)));
        b.same(HERE, THERE);
        assert_eq!(b.short(HERE, THERE, (0, None)).1[..6], OTHER);
        b.change(Change::RouteRemove(route("10.0.0.8", 1, None)));
        assert_eq!(b.short(HERE, THERE, (0, None)).1[..6], GATEWAY);
        b.change(Change::RouteRemove(route("10.0.0.9", 10, None)));
        assert_eq!(b.find(HERE, THERE), None);
    }

    #[test]
    fn a_neighbours_new_mac_address_is_used_at_once() {
        let mut b = bench();
        b.same(HERE, THERE);
        b.knows("10.0.0.9", OTHER);
        assert_eq!(b.short(HERE, THERE, (0, None)).1[..6], OTHER);
        b.same(HERE, THERE);
    }

    #[test]
    fn a_neighbour_that_has_to_be_asked_is_never_ready() {
        let mut b = bench();
        assert_eq!(b.find(HERE, "10.0.0.5"), None);
        // It names itself: known, but not verified, so that the first packet starts the delay.
        let entry = b.ip.aliases.get(&ID).unwrap();
        b.link.heard(&mut b.world.ctx(), entry, addr("10.0.0.5"), OTHER, true);
        assert_eq!(b.find(HERE, "10.0.0.5"), None);
        b.long(HERE, "10.0.0.5", (0, None)).unwrap();
        b.same(HERE, "10.0.0.5");
        let entry = b.ip.aliases.get(&ID).unwrap();
        b.link.confirm(&mut b.world.ctx(), entry, addr("10.0.0.5"));
        b.same(HERE, "10.0.0.5");
        // Reachable for at most 45 s.
        b.world.now += Duration::from_secs(46);
        assert_eq!(b.find(HERE, "10.0.0.5"), None);
    }

    #[test]
    fn a_smaller_path_mtu_holds_at_once() {
        let mut b = bench();
        let mtu = |b: &mut Bench| {
            let slot = b.find(HERE, THERE).unwrap();
            let ready = b.ip.ready.at(slot).unwrap();
            (ready.route.mtu, ready.takes(1280, false), ready.takes(1480, false))
        };
        assert_eq!(mtu(&mut b), (1500, true, true));
        b.ip.lower_pmtu(&mut b.world.ctx(), (None, addr(THERE)), 1300);
        assert_eq!(mtu(&mut b), (1300, true, false));
        // Ten minutes later it is tried again; time alone is noticed within a second.
        b.world.now += Duration::from_secs(602);
        assert_eq!(mtu(&mut b).0, 1500);
        b.change(Change::RouteAdd(route("10.0.0.9", 10, Some(1400))));
        assert_eq!(mtu(&mut b).0, 1400);
        b.change(Change::AliasLink { alias: ID, up: true, mtu: 1290 });
        assert_eq!(mtu(&mut b), (1290, false, false));
    }

    #[test]
    fn nothing_is_ready_without_link_address_or_alias() {
        let mut b = bench();
        b.same(HERE, THERE);
        b.change(Change::AliasLink { alias: ID, up: false, mtu: 1500 });
        assert_eq!(b.find(HERE, THERE), None);
        b.change(Change::AliasLink { alias: ID, up: true, mtu: 1500 });
        b.same(HERE, THERE);
        b.change(Change::AddressRemove { alias: ID, addr: addr(HERE) });
        assert_eq!(b.find(HERE, THERE), None);
        b.change(Change::AddressAdd { alias: ID, cidr: "10.0.0.1/24".parse().unwrap() });
        b.same(HERE, THERE);
        b.change(Change::AliasRemove(ID));
        assert_eq!(b.find(HERE, THERE), None);
    }

    #[test]
    fn our_own_addresses_and_groups_are_never_ready() {
        let mut b = bench();
        for dst in [HERE, "127.0.0.1", "10.0.0.255", "224.0.0.5", "255.255.255.255"] {
            assert_eq!(b.find(HERE, dst), None, "{dst}");
        }
    }

    #[test]
    fn ways_that_push_each_other_out_get_room() {
        let mut b = bench();
        for round in 0..3 {
            for peer in 1..=200 {
                assert!(b.find(HERE, &format!("192.0.2.{peer}")).is_some(), "{round}");
            }
        }
        assert!((128..=SLOTS_MAX).contains(&b.ip.ready.slots.len()));
        b.same(HERE, THERE);
    }
}
