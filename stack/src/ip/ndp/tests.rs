use super::message::{Advertisement, RouterAdvert, Solicitation};
use super::*;
use crate::ctx::testing::World;
use crate::ip::address::{AliasConfig, AliasMedium, Origin};
use crate::ip::route::Route;
use crate::socket::Event;

const ID: AliasId = AliasId(1);
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];

struct Bench {
    world: World,
    link: Link,
    ip: Ip,
}

fn v6(s: &str) -> Ipv6Addr {
    s.parse().unwrap()
}

fn bench(slaac: bool) -> Bench {
    let world = World::new();
    let mut ip = Ip::new(&crate::stack::StackConfig::default(), &world.secrets, world.now);
    let config = AliasConfig {
        slaac,
        ..AliasConfig::up_without_offload(ID, AliasMedium::Ethernet { mac: OURS })
    };
    ip.aliases.insert(ID, Alias::new(config));
    let mut b = Bench { world, link: Link::default(), ip };
    alias_up(&mut b.world.ctx(), &mut b.link, &mut b.ip, ID);
    b
}

/// What was sent: source, destination and ICMPv6 message.
#[derive(Clone, Debug)]
struct Sent {
    src: Ipv6Addr,
    dst: Ipv6Addr,
    icmp: Vec<u8>,
}

impl Bench {
    fn add(&mut self, cidr: &str) {
        let (ctx, link) = (&mut self.world.ctx(), &mut self.link);
        let cidr = cidr.parse().unwrap();
        self.ip.add_address(ctx, link, ID, cidr, Origin::Static).unwrap();
    }

    fn pass(&mut self, time: Duration) {
        // Timers fire within a tick of the wheel, not before.
        let end = self.world.now + time + Duration::from_micros(100);
        while let Some(at) = self.world.timers.next_deadline().filter(|at| *at <= end) {
            self.world.now = self.world.now.max(at);
            let ctx = &mut self.world.ctx();
            match ctx.timers.pop_expired(ctx.now) {
                Some(Timer::Ndp) => timeout(ctx, &mut self.link, &mut self.ip),
                Some(Timer::Membership) => multicast::timeout(ctx, &mut self.link, &mut self.ip),
                Some(Timer::Neighbour) => self.link.timeout(ctx, &self.ip.aliases),
                _ => {}
            }
            link_work(ctx, &mut self.link, &mut self.ip);
        }
        self.world.now = end;
    }

    /// Neighbour discovery that was sent; MLD is left out.
    fn sent(&mut self) -> Vec<Sent> {
        let frames = self.world.all_sent();
        let nd = frames.iter().filter(|f| f[12..14] == [0x86, 0xdd] && f[20] == 58);
        nd.map(|f| {
            let at = |i: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&f[i..i + 16]).unwrap());
            let (src, dst, icmp) = (at(22), at(38), f[54..].to_vec());
            let pseudo = checksum::pseudo_v6(src, dst, 58, icmp.len());
            assert!(checksum::is_valid(checksum::combine(pseudo, checksum::sum(&icmp))));
            assert_eq!(f[21], 255, "hop limit");
            Sent { src, dst, icmp }
        })
        .collect()
    }

    fn receive(&mut self, src: &str, dst: Ipv6Addr, icmp: &[u8]) -> Fate {
        self.receive_hops(src, dst, icmp, 255)
    }

    fn receive_hops(&mut self, src: &str, dst: Ipv6Addr, icmp: &[u8], hop_limit: u8) -> Fate {
        let mut data = [&[0x33; 6][..], &PEER, &[0x86, 0xdd]].concat();
        data.extend([0; 40]);
        data.extend(icmp);
        let mut frame = Frame::from_heap(0, &data);
        frame.pull_front(14);
        frame.mark_network_header();
        frame.pull_front(40);
        let packet = InPacket {
            src: v6(src).into(),
            dst: dst.into(),
            protocol: 58,
            traffic_class: 0,
            hop_limit,
            alias: ID,
            to_many: dst.is_multicast(),
            below: None,
        };
        let ctx = &mut self.world.ctx();
        let fate = input(ctx, &mut self.link, &mut self.ip, &packet, frame);
        link_work(ctx, &mut self.link, &mut self.ip);
        fate
    }

    fn state(&self, addr: Ipv6Addr) -> Option<AddressState> {
        self.ip.aliases[&ID].address(addr.into()).map(|a| a.state)
    }

    fn addresses(&self) -> Vec<(Ipv6Addr, AddressState)> {
        let all = self.ip.aliases[&ID].addresses.iter();
        all.filter_map(|a| match a.cidr.addr {
            IpAddr::V6(addr) => Some((addr, a.state)),
            IpAddr::V4(_) => None,
        })
        .collect()
    }

    fn global(&self) -> Option<(Ipv6Addr, AddressState)> {
        self.addresses().into_iter().find(|a| !a.0.is_unicast_link_local())
    }

    fn default_routers(&self) -> Vec<Ipv6Addr> {
        let mut routes: Vec<&Route> =
            self.ip.routes.iter().filter(|r| r.prefix.prefix_len == 0).collect();
        routes.sort_by_key(|r| r.metric);
        let via = routes.iter().filter_map(|r| match r.via {
            Some(IpAddr::V6(via)) => Some(via),
            _ => None,
        });
        via.collect()
    }
}

/// A router advertisement: lifetime in seconds, preference bits, options.
fn ra(lifetime: u16, preference: u8, options: &[&[u8]]) -> Vec<u8> {
    let life = lifetime.to_be_bytes();
    let mut m = vec![134, 0, 0, 0, 61, preference << 3, life[0], life[1]];
    m.extend(20_000u32.to_be_bytes());
    m.extend(500u32.to_be_bytes());
    m.extend(options.concat());
    m
}

fn prefix(prefix: &str, flags: u8, valid: u32, preferred: u32) -> Vec<u8> {
    let mut o = vec![3, 4, 64, flags];
    o.extend(valid.to_be_bytes());
    o.extend(preferred.to_be_bytes());
    o.extend([0; 4]);
    o.extend(v6(prefix).octets());
    o
}

#[test]
fn an_address_is_tried_then_used_and_announced() {
    let mut b = bench(false);
    assert_eq!(b.addresses().len(), 0, "no IPv6, no link-local address");
    b.add("fd00::5/64");
    assert_eq!(b.state(v6("fd00::5")), Some(AddressState::Tentative));
    assert!(!b.ip.is_local(v6("fd00::5").into()));
    b.pass(Duration::from_millis(999));
    let sent = b.sent();
    assert_eq!(sent.len(), 2, "one solicitation for each of two addresses");
    let ns = Solicitation::parse(&sent[0].icmp).unwrap();
    assert!(sent.iter().all(|s| s.src.is_unspecified()));
    assert_eq!(sent[0].dst, solicited_node(ns.target));
    assert!(ns.options.nonce.is_some() && ns.options.source_mac.is_none());
    b.pass(Duration::from_millis(1));
    assert_eq!(b.state(v6("fd00::5")), Some(AddressState::Preferred));
    let ll = b.ip.link_local(ID).expect("a link-local address was made");
    let added: Vec<_> = b.world.events();
    for addr in [v6("fd00::5"), ll] {
        assert!(added.contains(&Event::AddressAdded { alias: ID, addr: addr.into() }));
        let group = solicited_node(addr).into();
        assert!(added.contains(&Event::GroupJoined { alias: ID, group }));
    }
    let adverts = b.sent();
    assert_eq!(adverts.len(), 2);
    assert!(adverts.iter().all(|s| s.dst == ALL_NODES && s.icmp[0] == 136));
    b.pass(Duration::from_mins(1));
    assert_eq!((b.sent().len(), b.world.timers.len()), (0, 0));
}

#[test]
fn a_rival_makes_a_duplicate_our_own_echo_does_not() {
    let mut b = bench(false);
    b.add("fd00::5/64");
    b.pass(Duration::from_millis(10));
    let sent = b.sent();
    let own = sent.iter().find(|s| s.dst == solicited_node(v6("fd00::5"))).unwrap().clone();
    assert_eq!(b.receive("::", own.dst, &own.icmp), Fate::Consumed);
    assert_eq!(b.state(v6("fd00::5")), Some(AddressState::Tentative));
    // Somebody who resolves it is no rival.
    let resolve = Solicitation::emit(v6("fd00::5"), Some(PEER), None);
    assert_eq!(b.receive("fd00::9", own.dst, resolve.bytes()), Fate::Consumed);
    assert_eq!(b.state(v6("fd00::5")), Some(AddressState::Tentative));

    let rival = Solicitation::emit(v6("fd00::5"), None, Some([9; 6]));
    assert_eq!(b.receive("::", own.dst, rival.bytes()), Fate::Consumed);
    assert_eq!(b.state(v6("fd00::5")), Some(AddressState::Duplicate));
    let addr = v6("fd00::5").into();
    let event = Event::AddressDuplicate { alias: ID, addr, mac: PEER };
    assert!(b.world.events().contains(&event));
    b.pass(Duration::from_secs(5));
    assert!(!b.ip.is_local(addr));
    assert_eq!(b.world.mib.neighbour.duplicate_addresses, 1);
    assert_eq!(b.receive("fd00::9", own.dst, resolve.bytes()), NOT_FOR_US);
}

const NOT_FOR_US: Fate = Fate::Dropped(DropReason::NdpNotForUs);

// RFC 4862 5.4.4
#[test]
fn a_rival_of_an_address_in_use_is_told_of_every_ten_seconds_at_most() {
    let mut b = bench(false);
    b.add("fd00::5/64");
    b.pass(Duration::from_secs(5));
    b.world.events();
    let claim = |mac| Advertisement::emit(v6("fd00::5"), mac, false, false);
    let event = Event::AddressDuplicate { alias: ID, addr: v6("fd00::5").into(), mac: PEER };
    assert_eq!(b.receive("fd00::5", ALL_NODES, claim(OURS).bytes()), Fate::Consumed);
    assert_eq!(b.world.events(), [], "our own echo");
    for _ in 0..3 {
        assert_eq!(b.receive("fd00::5", ALL_NODES, claim(PEER).bytes()), Fate::Consumed);
    }
    assert_eq!(b.world.events(), [event]);
    b.pass(Duration::from_secs(10));
    let _ = b.receive("fd00::5", ALL_NODES, claim(PEER).bytes());
    assert_eq!(b.world.events(), [event]);
    assert_eq!(b.world.mib.neighbour.duplicate_addresses, 4);
    assert_eq!(b.state(v6("fd00::5")), Some(AddressState::Preferred));
}

#[test]
fn a_made_address_that_is_taken_is_replaced_a_few_times() {
    let mut b = bench(false);
    b.add("fd00::5/64");
    let mut seen = Vec::new();
    for _ in 0..6 {
        b.pass(Duration::from_millis(10));
        let made = b.addresses().into_iter().find(|a| a.0.is_unicast_link_local()).unwrap();
        seen.push(made.0);
        let claim = Advertisement::emit(made.0, PEER, false, false);
        let _ = b.receive(&made.0.to_string(), ALL_NODES, claim.bytes());
    }
    seen.dedup();
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert_eq!(b.state(seen[3]), Some(AddressState::Duplicate));
    assert_eq!(b.addresses().len(), 2);
}

#[test]
fn solicitations_for_us_are_answered() {
    let mut b = bench(false);
    b.add("fd00::5/64");
    b.pass(Duration::from_secs(2));
    b.sent();
    let ns = Solicitation::emit(v6("fd00::5"), Some(PEER), None);
    let group = solicited_node(v6("fd00::5"));
    assert_eq!(b.receive("fd00::9", group, ns.bytes()), Fate::Consumed);
    let sent = b.sent();
    assert_eq!((sent.len(), sent[0].src, sent[0].dst), (1, v6("fd00::5"), v6("fd00::9")));
    let na = Advertisement::parse(&sent[0].icmp).unwrap();
    assert!(na.solicited && na.overrides && !na.router);
    assert_eq!(na.options.target_mac, Some(OURS));
    let known: Vec<_> = b.link.neighbours(b.world.now).collect();
    assert_eq!((known.len(), known[0].addr), (1, v6("fd00::9").into()));

    // DAD of another host for our address: everybody is told.
    let dad = Solicitation::emit(v6("fd00::5"), None, None);
    assert_eq!(b.receive("::", group, dad.bytes()), Fate::Consumed);
    let sent = b.sent();
    assert_eq!(sent[0].dst, ALL_NODES);
    assert!(!Advertisement::parse(&sent[0].icmp).unwrap().solicited);
    // From off the link: answered, through whatever route there is, but not remembered.
    let _ = b.receive("2001:db8::1", group, ns.bytes());
    assert!(
        b.link
            .neighbours(b.world.now)
            .all(|n| n.mac == Some(PEER).filter(|_| n.addr != IpAddr::V6(v6("2001:db8::1"))))
    );
    let other = Solicitation::emit(v6("fd00::6"), Some(PEER), None);
    assert_eq!(b.receive("fd00::9", group, other.bytes()), NOT_FOR_US);
}

#[test]
fn neighbours_are_resolved_and_probed_by_unicast() {
    let mut b = bench(false);
    b.add("fd00::5/64");
    b.pass(Duration::from_secs(2));
    b.sent();
    let send = |b: &mut Bench| {
        let mut frame = Frame::from_heap(64, b"x");
        let (src, dst) = (v6("fd00::5").into(), v6("fd00::9").into());
        IpHeader::new(src, dst, 17, 64).push(&mut frame);
        let ctx = &mut b.world.ctx();
        b.link.output(ctx, &b.ip.aliases[&ID], dst, frame).unwrap();
        link_work(ctx, &mut b.link, &mut b.ip);
    };
    send(&mut b);
    let sent = b.sent();
    assert_eq!((sent.len(), sent[0].dst), (1, solicited_node(v6("fd00::9"))));
    assert_eq!(sent[0].src, v6("fd00::5"), "the source of the packet that waits");
    let ns = Solicitation::parse(&sent[0].icmp).unwrap();
    assert_eq!(ns.options.source_mac, Some(OURS));
    for nobody in [[0x33, 0x33, 0, 0, 0, 1], [0; 6], [0xff; 6]] {
        let na = Advertisement::emit(v6("fd00::9"), nobody, false, true);
        let _ = b.receive("fd00::9", v6("fd00::5"), na.bytes());
        assert!(b.world.all_sent().is_empty(), "no host has {nobody:x?}");
    }
    let na = Advertisement::emit(v6("fd00::9"), PEER, false, true);
    assert_eq!(b.receive("fd00::9", v6("fd00::5"), na.bytes()), Fate::Consumed);
    assert_eq!(b.world.all_sent().len(), 1, "the packet");

    b.pass(Duration::from_mins(1));
    send(&mut b);
    b.world.all_sent();
    b.pass(Duration::from_secs(20));
    let probes = b.sent();
    assert_eq!(probes.len(), 3);
    assert!(probes.iter().all(|s| s.dst == v6("fd00::9")));
    assert_eq!(b.link.len(), 0, "failed, remembered for a second, gone");
}

#[test]
fn router_solicitations_back_off() {
    let mut b = bench(true);
    b.pass(Duration::from_secs(100));
    let sent = b.sent();
    let rs: Vec<_> = sent.iter().filter(|s| s.icmp[0] == 133).collect();
    assert!((4..=6).contains(&rs.len()), "{}", rs.len());
    assert!(rs.iter().all(|s| s.dst == ALL_ROUTERS));
    let last = rs.last().unwrap();
    assert_eq!((last.src, last.icmp.len()), (b.ip.link_local(ID).unwrap(), 16));
    let _ = b.receive("fe80::1", ALL_NODES, &ra(1800, 0, &[]));
    b.pass(Duration::from_secs(1000));
    assert!(b.sent().is_empty(), "a router was found");
}

#[test]
fn an_advertisement_makes_an_address_which_ages() {
    let mut b = bench(true);
    b.pass(Duration::from_secs(3));
    let (p, mac) = (prefix("2001:db8:1::", 0xc0, 10_000, 600), [1, 1, 2, 0, 0, 0, 0, 9]);
    let mtu = [5, 1, 0, 0, 0, 0, 5, 0x78];
    let message = ra(1800, 0, &[&p, &mac, &mtu]);
    assert_eq!(b.receive("fe80::1", ALL_NODES, &message), Fate::Consumed);
    b.pass(Duration::from_millis(2_500));
    let (addr, state) = b.global().unwrap();
    assert_eq!(state, AddressState::Preferred);
    assert_eq!(addr.segments()[..4], v6("2001:db8:1::").segments()[..4]);
    let ndp = &b.ip.aliases[&ID].ndp;
    assert_eq!((ndp.hop_limit, ndp.mtu), (Some(61), Some(1400)));
    assert_eq!(ndp.times.retrans, Duration::from_millis(500));
    assert_eq!(b.default_routers(), [v6("fe80::1")]);
    let router = b.link.neighbours(b.world.now).find(|n| n.router).unwrap();
    assert_eq!(router.mac, Some([2, 0, 0, 0, 0, 9]));

    b.pass(Duration::from_mins(10));
    assert_eq!(b.global().unwrap().1, AddressState::Deprecated);
    let _ = b.receive("fe80::1", ALL_NODES, &message);
    assert_eq!(b.global().unwrap(), (addr, AddressState::Preferred));
    // RFC 4862 5.5.3 e: a forged short lifetime leaves two hours.
    let short = prefix("2001:db8:1::", 0xc0, 1, 1);
    let _ = b.receive("fe80::1", ALL_NODES, &ra(1800, 0, &[&short]));
    b.pass(Duration::from_secs(7_199));
    assert_eq!(b.global().unwrap().1, AddressState::Deprecated);
    b.world.events();
    b.pass(Duration::from_secs(2));
    assert_eq!(b.global(), None);
    assert!(b.world.events().contains(&Event::AddressRemoved { alias: ID, addr: addr.into() }));
    assert!(b.default_routers().is_empty(), "its lifetime ran out too");
}

#[test]
fn the_identifier_is_stable_and_differs_by_prefix() {
    let made = |p: &str| {
        let mut b = bench(true);
        let _ = b.receive("fe80::1", ALL_NODES, &ra(0, 0, &[&prefix(p, 0x40, 9000, 9000)]));
        b.global().unwrap().0
    };
    assert_eq!(made("2001:db8:1::"), made("2001:db8:1::"));
    let id = |a: Ipv6Addr| a.segments()[4..].to_vec();
    assert_ne!(id(made("2001:db8:1::")), id(made("2001:db8:2::")));
}

#[test]
fn routers_are_ranked_withdrawn_and_distrusted() {
    let mut b = bench(true);
    let _ = b.receive("fe80::1", ALL_NODES, &ra(1800, 3, &[]));
    let _ = b.receive("fe80::2", ALL_NODES, &ra(1800, 0, &[&[1, 1, 2, 0, 0, 0, 0, 9]]));
    let _ = b.receive("fe80::3", ALL_NODES, &ra(1800, 1, &[]));
    assert_eq!(b.default_routers(), [v6("fe80::3"), v6("fe80::2"), v6("fe80::1")]);
    let _ = b.receive("fe80::3", ALL_NODES, &ra(0, 1, &[]));
    assert_eq!(b.default_routers(), [v6("fe80::2"), v6("fe80::1")]);
    b.link.gone.push_back((ID, v6("fe80::2").into()));
    link_work(&mut b.world.ctx(), &mut b.link, &mut b.ip);
    assert_eq!(b.default_routers(), [v6("fe80::1"), v6("fe80::2")]);
    // RFC 4861 7.2.5: a neighbour that says it is no router is none.
    let na = Advertisement::emit(v6("fe80::2"), [2, 0, 0, 0, 0, 9], false, true);
    let ours = b.addresses()[0].0;
    b.pass(Duration::from_secs(2));
    let _ = b.receive("fe80::2", ours, na.bytes());
    assert_eq!(b.default_routers(), [v6("fe80::1")]);
    for host in 10..40 {
        let _ = b.receive(&format!("fe80::{host}"), ALL_NODES, &ra(1800, 0, &[]));
    }
    assert_eq!(b.default_routers().len(), 8, "bounded");
    b.pass(Duration::from_secs(1801));
    assert!(b.default_routers().is_empty());
}

#[test]
fn advertisements_are_not_heeded_without_slaac() {
    let mut b = bench(false);
    let p = prefix("2001:db8:1::", 0xc0, 9000, 9000);
    assert_eq!(b.receive("fe80::1", ALL_NODES, &ra(1800, 0, &[&p])), Fate::Consumed);
    assert_eq!((b.global(), b.default_routers().len()), (None, 0));
    assert_eq!(b.ip.aliases[&ID].ndp.hop_limit, None);
}

#[test]
fn malformed_messages_are_refused() {
    const INVALID: Fate = Fate::Dropped(DropReason::NdpInvalid);
    let mut b = bench(true);
    b.add("fd00::5/64");
    b.pass(Duration::from_secs(2));
    b.world.all_sent();
    let group = solicited_node(v6("fd00::5"));
    let ns = Solicitation::emit(v6("fd00::5"), Some(PEER), None);
    let na = Advertisement::emit(v6("fd00::9"), PEER, false, true);
    let advert = ra(1800, 0, &[&prefix("2001:db8::", 0xc0, 9000, 9000)]);
    for m in [ns.bytes(), na.bytes(), &advert] {
        for len in 0..m.len() {
            let whole = matches!((m[0], len), (134, 16) | (135 | 136, 24));
            let fate = b.receive("fe80::9", v6("fd00::5"), &m[..len]);
            assert_eq!(fate == INVALID, !whole, "{} {len}", m[0]);
        }
        assert_eq!(b.receive_hops("fe80::9", group, m, 254), INVALID, "forwarded");
        let mut code = m.to_vec();
        code[1] = 1;
        assert_eq!(b.receive("fe80::9", group, &code), INVALID);
    }
    assert_eq!(b.receive("::", group, ns.bytes()), INVALID, "a MAC without a source");
    assert_eq!(b.receive("::", v6("fd00::5"), &ns.bytes()[..24]), INVALID, "not to the group");
    assert_eq!(b.receive("fe80::9", ALL_NODES, na.bytes()), INVALID, "solicited, to all");
    assert_eq!(b.receive("fd00::9", ALL_NODES, &advert), INVALID, "not link-local");
    let many = Solicitation::emit(ALL_NODES, None, None);
    assert_eq!(b.receive("fe80::9", group, many.bytes()), INVALID);
    assert_eq!(b.receive("fe80::9", group, &[137, 0, 0, 0, 0, 0, 0, 0]), Fate::Consumed);
    assert_eq!(b.world.mib.neighbour.in_redirects, 1);
    let bad = [
        prefix("fe80::", 0xc0, 9000, 9000),
        prefix("ff02::", 0xc0, 9000, 9000),
        prefix("2001:db8:2::", 0xc0, 100, 9000),
    ];
    let before = b.addresses().len();
    for p in bad {
        let _ = b.receive("fe80::9", ALL_NODES, &ra(0, 0, &[&p]));
    }
    assert_eq!(b.addresses().len(), before);
    assert!(RouterAdvert::parse(&advert[..15]).is_none());
}

#[test]
fn a_link_that_comes_back_tries_and_announces_again() {
    let mut b = bench(false);
    b.add("fd00::5/64");
    b.pass(Duration::from_secs(2));
    b.add("fd00::6/64");
    b.sent();
    alias_down(&mut b.world.ctx(), &mut b.ip, ID);
    b.pass(Duration::from_secs(5));
    assert_eq!(b.state(v6("fd00::6")), Some(AddressState::Tentative));
    alias_up(&mut b.world.ctx(), &mut b.link, &mut b.ip, ID);
    b.pass(Duration::from_secs(2));
    assert_eq!(b.state(v6("fd00::6")), Some(AddressState::Preferred));
    let announced = b.sent().iter().filter(|s| s.icmp[0] == 136).count();
    assert_eq!(announced, 3, "two at once, the third after its trial");
}
