use core::net::IpAddr;

use super::neighbour::NeighbourState::{self, *};
use super::*;
use crate::ctx::Timer;
use crate::ctx::testing::World;
use crate::ip::address::{Address, AddressState, AliasConfig, Aliases, Origin};
use crate::socket::Event;
use crate::time::Duration;

mod shared;

const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 3];
const ID: AliasId = AliasId(3);

struct Bench {
    world: World,
    link: Link,
    aliases: Aliases,
}

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn bench() -> Bench {
    let world = World::new();
    let config = AliasConfig::up_without_offload(ID, AliasMedium::Ethernet { mac: OURS });
    let mut alias = Alias::new(config);
    for cidr in ["10.0.0.1/24", "fe80::1/64"] {
        alias.addresses.push(Address {
            cidr: cidr.parse().unwrap(),
            state: AddressState::Preferred,
            origin: Origin::Static,
        });
    }
    let mut aliases = Aliases::default();
    aliases.insert(ID, alias);
    Bench { world, link: Link::default(), aliases }
}

/// A minimal IPv4 or IPv6 packet with one byte of payload to tell it by.
fn packet(dst: IpAddr, tag: u8) -> Frame {
    let mut p = match dst {
        IpAddr::V4(d) => {
            let mut p = vec![0x45, 0, 0, 21, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1];
            p.extend(d.octets());
            p
        }
        IpAddr::V6(d) => {
            let mut p = vec![0x60, 0, 0, 0, 0, 1, 17, 64];
            p.extend("fe80::1".parse::<Ipv6Addr>().unwrap().octets());
            p.extend(d.octets());
            p
        }
    };
    p.push(tag);
    Frame::from_heap(64, &p)
}

fn arp(op: u8, sender_mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut p = vec![0, 1, 8, 0, 6, 4, 0, op];
    p.extend(sender_mac);
    p.extend(sender);
    p.extend([0; 6]);
    p.extend(target);
    p
}

impl Bench {
    fn output(&mut self, dst: &str, tag: u8) -> Result<(), DropReason> {
        let dst = ip(dst);
        self.link.output(&mut self.world.ctx(), &self.aliases[&ID], dst, packet(dst, tag))
    }

    fn input(&mut self, dst: [u8; 6], ethertype: u16, payload: &[u8]) -> LinkInput {
        let mut data = [dst, PEER].concat();
        data.extend(ethertype.to_be_bytes());
        data.extend(payload);
        let frame = Frame::from_heap(0, &data);
        self.link.input(&mut self.world.ctx(), &self.aliases[&ID], frame)
    }

    fn arp_in(&mut self, dst: [u8; 6], payload: &[u8]) -> Fate {
        match self.input(dst, 0x0806, payload) {
            LinkInput::Done(fate) => fate,
            other => panic!("{other:?}"),
        }
    }

    /// Time passes; timers fire in order.
    fn pass(&mut self, time: Duration) {
        // Timers fire within a tick of the wheel, not before.
        let end = self.world.now + time + Duration::from_micros(100);
        while let Some(at) = self.world.timers.next_deadline().filter(|at| *at <= end) {
            self.world.now = self.world.now.max(at);
            if let Some(timer) = self.world.timers.pop_expired(self.world.now) {
                assert_eq!(timer, Timer::Neighbour);
                self.link.timeout(&mut self.world.ctx(), &self.aliases);
            }
        }
        self.world.now = end;
    }

    fn state(&self, addr: &str) -> Option<NeighbourState> {
        self.link.neighbours(self.world.now).find(|n| n.addr == ip(addr)).map(|n| n.state)
    }

    fn reply(&mut self) -> Fate {
        self.arp_in(OURS, &arp(2, PEER, [10, 0, 0, 2], [10, 0, 0, 1]))
    }
}

#[test]
fn packets_wait_for_the_answer_and_leave_in_order() {
    let mut b = bench();
    for tag in 1..=3 {
        assert_eq!(b.output("10.0.0.2", tag), Ok(()));
    }
    let sent = b.world.all_sent();
    assert_eq!(sent.len(), 1, "one request, however many packets wait");
    assert_eq!(sent[0][..14], [&BROADCAST_MAC[..], &OURS, &[8, 6]].concat());
    assert_eq!(sent[0][14..], arp(1, OURS, [10, 0, 0, 1], [10, 0, 0, 2]));
    assert_eq!((b.link.queued(), b.state("10.0.0.2")), (3, Some(Incomplete)));

    assert_eq!(b.reply(), Fate::Consumed);
    let sent = b.world.all_sent();
    assert_eq!(sent.iter().map(|f| f[34]).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(sent.iter().all(|f| f[..14] == [&PEER[..], &OURS, &[8, 0]].concat()));
    assert_eq!((b.link.queued(), b.state("10.0.0.2")), (0, Some(Reachable)));
    assert_eq!(b.output("10.0.0.2", 4), Ok(()));
    assert_eq!(b.world.all_sent().len(), 1);
    assert_eq!(b.world.timers.len(), 0, "a reachable neighbour needs no timer");
}

const BROADCAST_MAC: [u8; 6] = ethernet::BROADCAST;

#[test]
fn the_queue_keeps_the_newest() {
    let mut b = bench();
    b.world.limits.neighbour_queue = 2;
    for tag in 1..=4 {
        b.output("10.0.0.2", tag).unwrap();
    }
    assert_eq!(b.world.mib.drops.get(DropReason::NeighbourQueueFull), 2);
    b.world.all_sent();
    let _ = b.reply();
    let tags: Vec<u8> = b.world.all_sent().iter().map(|f| f[34]).collect();
    assert_eq!(tags, [3, 4]);
}

#[test]
fn all_queues_together_are_bounded() {
    let mut b = bench();
    for host in 2..40u8 {
        for tag in 0..16 {
            b.output(&format!("10.0.0.{host}"), tag).unwrap();
        }
    }
    assert_eq!(b.link.queued(), 256);
    assert_eq!(b.world.mib.drops.get(DropReason::NeighbourQueueFull), 38 * 16 - 256);
}

#[test]
fn silence_fails_after_three_requests_and_is_remembered() {
    let mut b = bench();
    b.output("10.0.0.2", 1).unwrap();
    b.pass(Duration::from_millis(2_999));
    assert_eq!(b.world.mib.neighbour.out_arp_requests, 3);
    assert_eq!(b.state("10.0.0.2"), Some(Incomplete));
    b.pass(Duration::from_millis(2));
    assert_eq!(b.state("10.0.0.2"), Some(Failed));
    let (alias, frame) = b.link.failed.pop_front().unwrap();
    assert_eq!((alias, frame.data()[20]), (ID, 1), "the packet comes back with its IP header");
    assert_eq!(b.link.gone.pop_front(), Some((ID, ip("10.0.0.2"))));
    assert_eq!(b.output("10.0.0.2", 2), Err(DropReason::NeighbourUnreachable));
    assert_eq!(b.world.mib.neighbour.out_arp_requests, 3, "refused without asking");
    b.pass(Duration::from_secs(2));
    assert_eq!((b.link.len(), b.world.timers.len()), (0, 0));
    assert_eq!(b.output("10.0.0.2", 3), Ok(()));
    assert_eq!(b.world.mib.neighbour.res_failed, 1);
}

#[test]
fn unreachability_detection_runs_its_states() {
    let mut b = bench();
    b.output("10.0.0.2", 1).unwrap();
    let _ = b.reply();
    b.pass(Duration::from_secs(46));
    assert_eq!(b.state("10.0.0.2"), Some(Stale));
    b.world.all_sent();
    b.output("10.0.0.2", 2).unwrap();
    assert_eq!(b.state("10.0.0.2"), Some(Delay));
    // A confirmation from above is as good as an answer.
    let alias = &b.aliases[&ID];
    b.link.confirm(&mut b.world.ctx(), alias, ip("10.0.0.2"));
    assert_eq!((b.state("10.0.0.2"), b.world.timers.len()), (Some(Reachable), 0));

    b.pass(Duration::from_secs(46));
    b.output("10.0.0.2", 3).unwrap();
    b.world.all_sent();
    b.pass(Duration::from_secs(5));
    assert_eq!(b.state("10.0.0.2"), Some(Probe));
    let probe = b.world.all_sent();
    assert_eq!((probe.len(), &probe[0][..6]), (1, &PEER[..]), "a unicast probe");
    b.pass(Duration::from_millis(5_500));
    let probes = b.world.all_sent();
    assert_eq!(probes.iter().filter(|f| f[..6] == PEER).count(), 2);
    assert_eq!(probes.iter().filter(|f| f[..6] == BROADCAST_MAC).count(), 3);
    b.pass(Duration::from_secs(1));
    assert_eq!(b.state("10.0.0.2"), Some(Failed));
}

// RFC 5227 3
#[test]
fn an_announcement_to_all_changes_a_neighbour_that_was_confirmed_just_now() {
    let mut b = bench();
    b.output("10.0.0.2", 7).unwrap();
    let hear = |b: &mut Bench, op: u8, mac: [u8; 6], target: [u8; 4], to: [u8; 6]| {
        let mut packet = [to, mac].concat();
        packet.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, op]);
        packet.extend(mac);
        packet.extend([10, 0, 0, 2]);
        packet.extend([0; 6]);
        packet.extend(target);
        let frame = Frame::from_heap(0, &packet);
        b.link.input(&mut b.world.ctx(), &b.aliases[&ID], frame);
        b.world.all_sent();
        b.output("10.0.0.2", 9).unwrap();
        b.world.all_sent()[0][..6].to_vec()
    };
    assert_eq!(hear(&mut b, 2, PEER, [10, 0, 0, 1], OURS), PEER);
    assert_eq!(hear(&mut b, 2, OTHER, [10, 0, 0, 1], OURS), PEER, "nobody asked");
    for op in [1, 2] {
        assert_eq!(hear(&mut b, op, OTHER, [10, 0, 0, 2], BROADCAST_MAC), OTHER);
        assert_eq!(hear(&mut b, op, PEER, [10, 0, 0, 2], BROADCAST_MAC), PEER);
    }
}

#[test]
fn ipv6_asks_the_layer_above() {
    let mut b = bench();
    b.output("fe80::2", 7).unwrap();
    let want = Solicit { alias: ID, target: "fe80::2".parse().unwrap(), unicast: false, src: None };
    let got = b.link.solicits.pop_front().unwrap();
    assert_eq!(Solicit { src: None, ..got }, want);
    assert_eq!(got.src, Some(ip("fe80::1")));
    let answer = Answer {
        mac: Some(PEER),
        solicited: true,
        overrides: true,
        router: true,
        announced: false,
    };
    b.link.answered(&mut b.world.ctx(), &b.aliases[&ID], ip("fe80::2"), answer);
    let sent = b.world.all_sent();
    assert_eq!(sent[0][..14], [&PEER[..], &OURS, &[0x86, 0xdd]].concat());
    // RFC 4861 7.2.5: an answer without override does not change, it casts doubt.
    let answer = Answer {
        mac: Some(OTHER),
        solicited: false,
        overrides: false,
        router: true,
        announced: false,
    };
    b.link.answered(&mut b.world.ctx(), &b.aliases[&ID], ip("fe80::2"), answer);
    assert_eq!(b.state("fe80::2"), Some(Stale));
    let answer =
        Answer { mac: None, solicited: true, overrides: false, router: false, announced: false };
    let gone = b.link.answered(&mut b.world.ctx(), &b.aliases[&ID], ip("fe80::2"), answer);
    assert!(gone, "no router any more");
    assert_eq!(b.state("fe80::2"), Some(Reachable));
    let known = b.link.neighbours(b.world.now).next().unwrap();
    assert_eq!((known.mac, known.router), (Some(PEER), false));
}

#[test]
fn a_scan_does_not_push_out_real_neighbours() {
    let mut b = bench();
    b.world.limits.neighbours = 16;
    for host in 2..10u8 {
        let _ = b
            .arp_in(BROADCAST_MAC, &arp(1, [2, 0, 0, 0, 1, host], [10, 0, 0, host], [10, 0, 0, 1]));
    }
    b.world.all_sent();
    let mut refused = 0;
    for host in 100..200u8 {
        refused += u32::from(b.output(&format!("10.0.0.{host}"), 0).is_err());
        b.pass(Duration::from_millis(100));
        b.world.all_sent();
    }
    assert!(refused > 50, "{refused}");
    assert!(b.link.len() <= 16);
    for host in 2..10u8 {
        let addr = format!("10.0.0.{host}");
        assert_eq!(b.state(&addr), Some(Stale), "{addr}");
        b.output(&addr, 0).unwrap();
    }
    b.pass(Duration::from_secs(10));
    assert_eq!(b.link.queued(), 0);
}

#[test]
fn a_full_table_gives_up_the_least_recently_used() {
    let mut b = bench();
    b.world.limits.neighbours = 4;
    let alias = &b.aliases[&ID];
    b.link.pin(&mut b.world.ctx(), alias, ip("10.0.0.99"), OTHER).unwrap();
    for host in 2..9u8 {
        let _ = b
            .arp_in(BROADCAST_MAC, &arp(1, [2, 0, 0, 0, 1, host], [10, 0, 0, host], [10, 0, 0, 1]));
    }
    assert_eq!(b.link.len(), 4);
    assert_eq!(b.world.mib.neighbour.evicted, 4);
    assert_eq!(b.state("10.0.0.99"), Some(Permanent));
    for host in 6..9 {
        assert_eq!(b.state(&format!("10.0.0.{host}")), Some(Stale));
    }
}

#[test]
fn only_requests_to_us_make_entries() {
    let mut b = bench();
    let other = arp(1, PEER, [10, 0, 0, 2], [10, 0, 0, 77]);
    assert_eq!(b.arp_in(BROADCAST_MAC, &other), Fate::Dropped(DropReason::ArpNotForUs));
    let announcement = arp(1, PEER, [10, 0, 0, 2], [10, 0, 0, 2]);
    assert_eq!(b.arp_in(BROADCAST_MAC, &announcement), Fate::Consumed);
    assert_eq!(b.reply(), Fate::Consumed);
    // Off the link: answered, not remembered.
    let _ = b.arp_in(BROADCAST_MAC, &arp(1, PEER, [10, 9, 0, 2], [10, 0, 0, 1]));
    // A probe (RFC 5227) is answered and names nobody.
    let _ = b.arp_in(BROADCAST_MAC, &arp(1, PEER, [0; 4], [10, 0, 0, 1]));
    assert_eq!(b.link.len(), 0);
    assert_eq!(b.world.mib.neighbour.out_arp_replies, 2);
    b.world.all_sent();

    let _ = b.arp_in(BROADCAST_MAC, &arp(1, PEER, [10, 0, 0, 2], [10, 0, 0, 1]));
    assert_eq!(b.state("10.0.0.2"), Some(Stale));
    let mut want = arp(2, OURS, [10, 0, 0, 1], [10, 0, 0, 2]);
    want[18..24].copy_from_slice(&PEER);
    assert_eq!(b.world.sent().unwrap()[14..], want);
    // The announcement of a new MAC updates the entry that exists now.
    let _ = b.arp_in(BROADCAST_MAC, &arp(1, OTHER, [10, 0, 0, 2], [10, 0, 0, 2]));
    assert_eq!(b.link.neighbours(b.world.now).next().unwrap().mac, Some(OTHER));
}

#[test]
fn our_address_is_announced_twice_and_defended() {
    let mut b = bench();
    let alias = &b.aliases[&ID];
    b.link.announce(&mut b.world.ctx(), alias, ip("10.0.0.1"));
    b.pass(Duration::from_secs(3));
    let sent = b.world.all_sent();
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|f| f[14..] == arp(1, OURS, [10, 0, 0, 1], [10, 0, 0, 1])));
    assert_eq!(b.world.timers.len(), 0);

    for _ in 0..5 {
        let spoof = arp(1, PEER, [10, 0, 0, 1], [10, 0, 0, 1]);
        assert_eq!(b.arp_in(BROADCAST_MAC, &spoof), Fate::Consumed);
    }
    let conflict = Event::AddressDuplicate { alias: ID, addr: ip("10.0.0.1"), mac: PEER };
    assert_eq!(b.world.events(), [conflict]);
    assert_eq!(b.world.all_sent().len(), 1, "defended once in ten seconds");
    assert_eq!(b.world.mib.neighbour.duplicate_addresses, 5);
    assert_eq!(b.link.len(), 0);
}

#[test]
fn malformed_frames_are_counted() {
    let mut b = bench();
    let dropped = |input: LinkInput| match input {
        LinkInput::Done(Fate::Dropped(reason)) => reason,
        other => panic!("{other:?}"),
    };
    let good = arp(1, PEER, [10, 0, 0, 2], [10, 0, 0, 1]);
    for (at, value) in [(0, 9), (2, 9), (4, 5), (5, 16), (7, 3), (7, 0), (8, 1), (14, 224)] {
        let mut bad = good.clone();
        bad[at] = value;
        assert_eq!(b.arp_in(BROADCAST_MAC, &bad), Fate::Dropped(DropReason::ArpMalformed));
    }
    for len in 0..28 {
        let fate = b.arp_in(BROADCAST_MAC, &good[..len]);
        assert_eq!(fate, Fate::Dropped(DropReason::ArpMalformed));
    }
    assert_eq!(dropped(b.input(OTHER, 0x0800, &[0; 20])), DropReason::NotForThisHost);
    assert_eq!(dropped(b.input(OURS, 0x88cc, &[])), DropReason::EthertypeUnknown);
    let unicast = packet(ip("10.0.0.1"), 0);
    let in_broadcast = dropped(b.input(BROADCAST_MAC, 0x0800, unicast.data()));
    assert_eq!(in_broadcast, DropReason::NotForThisHost);
    let short = Frame::from_heap(0, &[0; 13]);
    let input = b.link.input(&mut b.world.ctx(), &b.aliases[&ID], short);
    assert_eq!(dropped(input), DropReason::EthernetTruncated);
    assert_eq!((b.link.len(), b.world.timers.len()), (0, 0));
}

#[test]
fn groups_need_no_neighbour_and_tun_no_header() {
    let mut b = bench();
    b.output("224.0.0.22", 0).unwrap();
    b.output("255.255.255.255", 0).unwrap();
    b.output("ff02::1", 0).unwrap();
    let macs: Vec<_> = b.world.all_sent().iter().map(|f| f[..6].to_vec()).collect();
    assert_eq!(macs, [&[1, 0, 0x5e, 0, 0, 22][..], &BROADCAST_MAC, &[0x33, 0x33, 0, 0, 0, 1]]);
    b.aliases.get_mut(&ID).unwrap().config.medium = AliasMedium::Ip;
    b.output("10.0.0.2", 9).unwrap();
    assert_eq!(b.world.sent().unwrap()[..2], [0x45, 0]);
    let frame = packet(ip("10.0.0.1"), 0);
    let input = b.link.input(&mut b.world.ctx(), &b.aliases[&ID], frame);
    assert!(matches!(input, LinkInput::Ip4(_)));
    assert_eq!(b.link.len(), 0);
}

#[test]
fn a_link_that_goes_down_forgets_what_it_learned() {
    let mut b = bench();
    let alias = &b.aliases[&ID];
    b.link.pin(&mut b.world.ctx(), alias, ip("10.0.0.99"), OTHER).unwrap();
    b.output("10.0.0.2", 1).unwrap();
    b.link.alias_down(&mut b.world.ctx(), ID, false);
    assert_eq!((b.link.len(), b.link.queued(), b.world.timers.len()), (1, 0, 0));
    assert_eq!(b.world.mib.drops.get(DropReason::NeighbourUnreachable), 1);
    b.link.alias_down(&mut b.world.ctx(), ID, true);
    assert_eq!(b.link.len(), 0);
}
