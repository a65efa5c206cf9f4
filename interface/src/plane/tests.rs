use std::net::IpAddr;

use weft_stack::drop::DropReason;
use weft_stack::frame::Frame;
use weft_stack::wire::checksum;

use super::*;
use crate::bond::{BondConfig, HashPolicy, Mode};
use crate::doctor::Sample;
use crate::{BondSelection, GroupSelection};

const A: Mac = [2, 0, 0, 0, 0, 0xa];
const B: Mac = [2, 0, 0, 0, 0, 0xb];
const C: Mac = [2, 0, 0, 0, 0, 0xc];
const OWN: Mac = [2, 0, 0, 0, 0, 0x77];
const PEER: Mac = [2, 0, 0, 0, 9, 9];
const ALL: Mac = [0xff; 6];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ethernet(to: Mac, from: Mac, ethertype: u16, payload: &[u8]) -> Frame {
    let mut bytes = [to, from].concat();
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(payload);
    Frame::from_heap(64, &bytes)
}

/// UDP of one flow; the flow is the source port.
fn packet(to: Mac, from: Mac, (src, dst): (&str, &str), flow: u16) -> Frame {
    let mut p = Vec::new();
    match (ip(src), ip(dst)) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            p.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
            p.extend(src.octets());
            p.extend(dst.octets());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            p.extend([0x60, 0, 0, 0, 0, 8, 17, 64]);
            p.extend(src.octets());
            p.extend(dst.octets());
        }
        _ => panic!("one family"),
    }
    p.extend(flow.to_be_bytes());
    p.extend([0, 9, 0, 8, 0, 0]);
    ethernet(to, from, if ip(src).is_ipv4() { 0x0800 } else { 0x86dd }, &p)
}

fn arp(to: Mac, from: Mac, sender: &str, target: &str) -> Frame {
    let octets = |a: &str| match ip(a) {
        IpAddr::V4(a) => a.octets(),
        IpAddr::V6(_) => panic!("ARP is IPv4's"),
    };
    let mut p = vec![0, 1, 8, 0, 6, 4, 0, 1];
    p.extend(from);
    p.extend(octets(sender));
    p.extend([0; 6]);
    p.extend(octets(target));
    ethernet(to, from, 0x0806, &p)
}

/// A message of neighbour discovery with a link-layer address option.
fn discovery(kind: u8, from: Mac, (src, dst): (&str, &str), target: &str, option: u8) -> Frame {
    let (IpAddr::V6(src), IpAddr::V6(dst), IpAddr::V6(target)) = (ip(src), ip(dst), ip(target))
    else {
        panic!("IPv6")
    };
    let mut icmp = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    match kind {
        133 => {}
        134 => icmp.extend([0; 8]),
        _ => icmp.extend(target.octets()),
    }
    icmp.extend([option, 1]);
    icmp.extend(from);
    let sum =
        checksum::combine(checksum::pseudo_v6(src, dst, 58, icmp.len()), checksum::sum(&icmp));
    icmp[2..4].copy_from_slice(&(!sum).to_be_bytes());
    let mut p = vec![0x60, 0, 0, 0, 0, icmp.len() as u8, 58, 255];
    p.extend(src.octets());
    p.extend(dst.octets());
    p.extend(icmp);
    ethernet([0x33, 0x33, 0, 0, 0, 1], from, 0x86dd, &p)
}

fn discovery_checksum_is_right(frame: &Frame) -> bool {
    let packet = &frame.data()[14..];
    let mut sum = checksum::combine(checksum::sum(&packet[8..40]), 58);
    sum = checksum::combine(sum, (packet.len() - 40) as u16);
    checksum::combine(sum, checksum::sum(&packet[40..])) == 0xffff
}

fn tagged(mut frame: Frame, tag: u16, priority: u8) -> Frame {
    vlan::push(&mut frame, vlan::control(tag, priority));
    frame
}

fn static_bond(ports: &[u16]) -> LinkSpec {
    let config = BondConfig { mode: Mode::Static, hash: HashPolicy::L34, ..BondConfig::default() };
    LinkSpec::Bond { position: 0, ports: ports.iter().map(|p| LinkId(*p)).collect(), config }
}

fn vlan_of(over: u16, tag: u16, priority: u8) -> LinkSpec {
    LinkSpec::Vlan { over: LinkId(over), tag, priority }
}

fn group_of(members: &[u16]) -> LinkSpec {
    let members = members.iter().map(|m| LinkId(*m)).collect();
    LinkSpec::Group { position: 0, members, mac: None }
}

fn plane(nics: &[Mac], links: &[LinkSpec]) -> Plane {
    let nics = nics.iter().map(|mac| LinkSpec::Nic(Some(*mac)));
    let layout = Layout { links: nics.chain(links.iter().cloned()).collect() };
    let mut plane = Plane::new(&layout);
    plane.select(&layout.selection(|_| true));
    plane
}

// What a stack sent by the one that left was lost; what comes or goes otherwise costs nothing.
#[test]
fn links_whose_frames_were_lost_are_told_with_what_stands_on_them() {
    let mut plane = plane(&[A, B, C], &[group_of(&[0, 1]), vlan_of(3, 5, 0)]);
    let (group, vlan) = (LinkId(3), LinkId(4));
    let mut select = |members: &[u16]| {
        let groups = vec![active(members, members.first().copied().unwrap_or(0), &[])];
        plane.select(&Selection { groups, ..Selection::default() }).to_vec()
    };
    assert_eq!(select(&[0, 1]), []);
    assert_eq!(select(&[1]), [group]);
    assert_eq!(select(&[1, 0]), [], "one came back");
    assert_eq!(select(&[]), [], "there is no other path");
    assert_eq!(select(&[0]), [group], "there is one again");
    for (link, on) in [(group, true), (vlan, true), (LinkId(0), false), (LinkId(2), false)] {
        assert_eq!(plane.stands_on(link, group), on, "{link:?}");
    }
    assert!(plane.stands_on(vlan, LinkId(1)) && !plane.stands_on(vlan, LinkId(2)));
}

fn select_group(plane: &mut Plane, group: GroupSelection) {
    plane.select(&Selection { groups: vec![group], ..Selection::default() });
}

/// Active members, and one nominee.
fn active(members: &[u16], nominee: u16, bindings: &[(&str, u16)]) -> GroupSelection {
    GroupSelection {
        active: members.iter().copied().collect(),
        nominee4: Some(nominee),
        nominee6: Some(nominee),
        bindings: bindings.iter().map(|(a, m)| (ip(a), *m)).collect(),
        ..GroupSelection::default()
    }
}

const FLOW: (&str, &str) = ("10.0.0.9", "10.0.0.1");

#[test]
fn a_bare_nic_gives_its_frames_as_they_are() {
    let mut plane = plane(&[A, B], &[]);
    let mut frame = packet(A, PEER, FLOW, 1);
    let before = frame.data().to_vec();
    assert_eq!(plane.receive(1, &mut frame), Ingress::Link(LinkId(1)));
    assert_eq!(plane.send(LinkId(1), &mut frame), Ok(1));
    assert_eq!(frame.data(), before);
    let mut frame = ethernet(A, PEER, 0x88cc, &[0; 50]);
    assert_eq!(plane.receive(0, &mut frame), Ingress::Control(LinkId(0)), "LLDP of any NIC");
    let mut frame = tagged(packet(A, PEER, FLOW, 1), 5, 0);
    assert_eq!(plane.receive(0, &mut frame), Ingress::Drop(DropReason::VlanUnknown));
    let mut frame = tagged(packet(A, PEER, FLOW, 1), 0, 5);
    assert_eq!(plane.receive(0, &mut frame), Ingress::Link(LinkId(0)), "only a priority");
    assert_eq!(frame.data()[12..14], [8, 0]);
    assert_eq!(plane.receive(0, &mut Frame::from_heap(0, &[0; 5])), Ingress::Link(LinkId(0)));
}

#[test]
fn tags_lead_to_their_vlan_on_nics_bonds_and_groups() {
    // 0, 1: NICs; 2: eth0.5, 3: eth0.7; 4: a bond of eth1, eth2; ...
    let links = [
        vlan_of(0, 5, 3),
        vlan_of(0, 7, 0),
        static_bond(&[1, 2]),
        vlan_of(5, 5, 0),
        group_of(&[2 + 4]),
    ];
    let mut plane = plane(&[A, B, C], &links);
    let (eth0_5, eth0_7, bond, bond_5, fail) =
        (LinkId(3), LinkId(4), LinkId(5), LinkId(6), LinkId(7));
    for (link, tag) in [(eth0_5, 5), (eth0_7, 7)] {
        let mut frame = tagged(packet(A, PEER, FLOW, 1), tag, 6);
        assert_eq!(plane.receive(0, &mut frame), Ingress::Link(link));
        assert_eq!(frame.data(), packet(A, PEER, FLOW, 1).data());
    }
    let mut frame = packet(A, PEER, FLOW, 1);
    assert_eq!(
        plane.receive(0, &mut frame),
        Ingress::Link(LinkId(0)),
        "tagged and untagged together"
    );
    let mut frame = tagged(packet(A, PEER, FLOW, 1), 9, 0);
    assert_eq!(plane.receive(0, &mut frame), Ingress::Drop(DropReason::VlanUnknown));

    let mut frame = packet(PEER, A, FLOW, 1);
    assert_eq!(plane.send(eth0_5, &mut frame), Ok(0));
    assert_eq!(frame.data(), tagged(packet(PEER, A, FLOW, 1), 5, 3).data());

    let mut frame = tagged(packet(B, PEER, FLOW, 1), 5, 0);
    assert_eq!(
        plane.receive(2, &mut frame),
        Ingress::Link(fail),
        "through bond and tag to the group"
    );
    let mut frame = packet(B, PEER, FLOW, 1);
    assert_eq!(plane.receive(2, &mut frame), Ingress::Link(bond));
    let mut frame = packet(PEER, B, FLOW, 1);
    assert!(matches!(plane.send(fail, &mut frame), Ok(1 | 2)));
    assert_eq!(frame.data(), tagged(packet(PEER, B, FLOW, 1), 5, 0).data());
    assert_eq!(plane.nics_below(fail)[..], [1, 2]);
    assert_eq!((plane.mac(fail), plane.mac(bond_5)), (Some(B), Some(B)));
    let stats: Vec<_> = plane.tags().map(|(l, s)| (l, s.rx_frames, s.tx_frames)).collect();
    assert_eq!(stats, [(eth0_5, 1, 1), (eth0_7, 1, 0), (bond_5, 1, 1)]);
}

#[test]
fn flows_of_a_bond_are_spread_and_leave_ports_that_may_not_send() {
    let mut plane = plane(&[A, B], &[static_bond(&[0, 1])]);
    let bond = LinkId(2);
    let spread = |plane: &mut Plane| {
        let mut counts = [0; 2];
        for flow in 0..1000 {
            counts[plane.send(bond, &mut packet(PEER, A, FLOW, flow)).unwrap()] += 1;
        }
        counts
    };
    let counts = spread(&mut plane);
    assert!(counts.iter().all(|n| (400..600).contains(n)), "{counts:?}");
    assert!(plane.is_up(bond, |_| true) && plane.is_up(bond, |nic| nic == 1));
    assert!(!plane.is_up(bond, |_| false));

    let only = |ports: &[u16]| BondSelection {
        distributing: ports.iter().copied().collect(),
        collecting: ports.iter().copied().collect(),
    };
    let select = |plane: &mut Plane, ports: &[u16]| {
        plane.select(&Selection { bonds: vec![only(ports)], ..Selection::default() });
    };
    select(&mut plane, &[1]);
    assert_eq!(spread(&mut plane), [0, 1000]);
    let mut frame = packet(A, PEER, FLOW, 1);
    assert_eq!(plane.receive(0, &mut frame), Ingress::Drop(DropReason::BondNotCollecting));
    assert_eq!(plane.receive(1, &mut frame), Ingress::Link(bond));
    let mut lacp = ethernet([1, 0x80, 0xc2, 0, 0, 2], PEER, 0x8809, &[1; 110]);
    assert_eq!(plane.receive(0, &mut lacp), Ingress::Control(LinkId(0)), "LACP always comes");
    assert_eq!(plane.send(LinkId(0), &mut lacp), Ok(0), "and goes");
    select(&mut plane, &[]);
    let lost = plane.send(bond, &mut packet(PEER, A, FLOW, 1));
    assert_eq!(lost, Err(DropReason::LinkHasNoMember));
    assert!(!plane.is_up(bond, |_| true));
    select(&mut plane, &[0, 1, 9]);
    assert_eq!(plane.receive(0, &mut frame), Ingress::Link(bond), "no port 9");
}

#[test]
fn destinations_are_spread_over_active_members_and_stay() {
    let mut plane = plane(&[A, B, C], &[group_of(&[0, 1, 2])]);
    let fail = LinkId(3);
    select_group(&mut plane, active(&[0, 1, 2], 0, &[]));
    let ways = |plane: &mut Plane| -> Vec<usize> {
        (0..90)
            .map(|host| {
                let mut frame = packet(PEER, A, ("10.0.0.1", &format!("10.1.0.{host}")), host);
                let nic = plane.send(fail, &mut frame).unwrap();
                assert_eq!(frame.data()[6..12], [A, B, C][nic], "the member's address on the wire");
                nic
            })
            .collect()
    };
    let first = ways(&mut plane);
    let count = |ways: &[usize], nic| ways.iter().filter(|w| **w == nic).count();
    let even = |ways: &[usize], nics: &[usize]| {
        let fair = 90 / nics.len();
        nics.iter().all(|nic| (fair - 4..=fair + 4).contains(&count(ways, *nic)))
    };
    assert!(even(&first, &[0, 1, 2]), "in turn: {first:?}");
    assert_eq!(ways(&mut plane), first, "and latched");
    select_group(&mut plane, active(&[0, 2], 0, &[]));
    let second = ways(&mut plane);
    assert!(first.iter().zip(&second).all(|(a, b)| *a == 1 || a == b), "only those of 1 move");
    assert!(even(&second, &[0, 2]) && !second.contains(&1), "{second:?}");
    select_group(&mut plane, active(&[0, 1, 2], 0, &[]));
    let third = ways(&mut plane);
    assert!(even(&third, &[0, 1, 2]));
    assert!(second.iter().zip(&third).all(|(a, b)| *b == 1 || a == b), "only what 1 takes moves");
    select_group(&mut plane, active(&[], 0, &[]));
    let lost = plane.send(fail, &mut packet(PEER, A, FLOW, 1));
    assert_eq!(lost, Err(DropReason::LinkHasNoMember), "nothing is sent on a failed member");
    assert!(!plane.is_up(fail, |_| true));
}

#[test]
fn arp_goes_by_the_member_of_its_sender_and_says_that_members_address() {
    let mut plane = plane(&[A, B], &[group_of(&[0, 1])]);
    let fail = LinkId(2);
    select_group(&mut plane, active(&[0, 1], 0, &[("10.0.0.1", 1)]));
    let mut request = arp(ALL, A, "10.0.0.1", "10.0.0.9");
    assert_eq!(plane.send(fail, &mut request), Ok(1));
    assert_eq!(request.data(), arp(ALL, B, "10.0.0.1", "10.0.0.9").data());
    // RFC 5227 2.1.1: a probe has no sender yet; its target is bound, or nothing is.
    let mut probe = arp(ALL, A, "0.0.0.0", "10.0.0.1");
    assert_eq!(plane.send(fail, &mut probe), Ok(1));
    let mut probe = arp(ALL, A, "0.0.0.0", "10.0.0.2");
    assert_eq!(plane.send(fail, &mut probe), Ok(0), "the nominee");
    select_group(&mut plane, active(&[0], 0, &[("10.0.0.1", 1)]));
    let mut request = arp(ALL, A, "10.0.0.1", "10.0.0.9");
    assert_eq!(plane.send(fail, &mut request), Ok(0), "never by one that is not active");
}

#[test]
fn neighbour_discovery_says_the_members_address_with_a_right_checksum() {
    let mut plane = plane(&[A, B], &[group_of(&[0, 1])]);
    let fail = LinkId(2);
    select_group(&mut plane, active(&[0, 1], 0, &[("fd00::1", 1)]));
    let all = "ff02::1";
    let frames = [
        (133, ("fd00::1", "ff02::2"), "::", 1),
        (134, ("fd00::1", all), "::", 1),
        (135, ("fd00::1", "fd00::9"), "fd00::9", 1),
        // What it tells about decides, not who speaks.
        (136, ("fe80::1", all), "fd00::1", 2),
    ];
    for (kind, ends, target, option) in frames {
        let mut frame = discovery(kind, A, ends, target, option);
        assert!(discovery_checksum_is_right(&frame));
        assert_eq!(plane.send(fail, &mut frame), Ok(1), "type {kind}");
        assert!(discovery_checksum_is_right(&frame), "type {kind}");
        assert_eq!(frame.data(), discovery(kind, B, ends, target, option).data(), "type {kind}");
    }
    // Duplicate address detection: no sender, no option of ours; by the target.
    let mut dad = discovery(135, PEER, ("::", "ff02::1:ff00:1"), "fd00::1", 14);
    dad.data_mut()[6..12].copy_from_slice(&A);
    assert_eq!(plane.send(fail, &mut dad), Ok(1));
    assert!(discovery_checksum_is_right(&dad));
    let mut cut = discovery(135, A, ("fd00::1", "fd00::9"), "fd00::9", 1);
    for len in (14..cut.len()).rev() {
        cut.truncate(len);
        assert!(plane.send(fail, &mut cut).is_ok());
    }
}

#[test]
fn frames_to_many_come_by_the_nominee_only_and_to_one_by_its_member() {
    let mut plane = plane(&[A, B], &[group_of(&[0, 1])]);
    let fail = LinkId(2);
    let mut selection = active(&[0, 1], 0, &[]);
    selection.nominee6 = Some(1);
    select_group(&mut plane, selection);
    let not_nominee = Ingress::Drop(DropReason::MemberNotNominee);
    let asked = || arp(ALL, PEER, "10.0.0.9", "10.0.0.1");
    assert_eq!(plane.receive(0, &mut asked()), Ingress::Link(fail));
    assert_eq!(plane.receive(1, &mut asked()), not_nominee);
    let advertised = || discovery(136, PEER, ("fe80::9", "ff02::1"), "fe80::9", 2);
    assert_eq!(plane.receive(0, &mut advertised()), not_nominee);
    assert_eq!(plane.receive(1, &mut advertised()), Ingress::Link(fail));

    let mut frame = packet(B, PEER, FLOW, 1);
    assert_eq!(plane.receive(1, &mut frame), Ingress::Link(fail));
    assert_eq!(frame.data(), packet(A, PEER, FLOW, 1).data(), "to the address that stacks know");
    let flooded = plane.receive(1, &mut packet(A, PEER, FLOW, 1));
    assert_eq!(flooded, Ingress::Drop(DropReason::NotForThisHost), "the other member has it too");
    for from in [A, B] {
        let back = plane.receive(0, &mut arp(ALL, from, "10.0.0.1", "10.0.0.9"));
        assert_eq!(back, Ingress::Drop(DropReason::OwnFrameReflected));
    }
    let short = plane.receive(0, &mut Frame::from_heap(0, &[0; 13]));
    assert_eq!(short, Ingress::Drop(DropReason::EthernetTruncated));
}

#[test]
fn an_alias_with_its_own_address_moves_as_a_whole() {
    let mut plane = plane(&[A, B, C], &[group_of(&[0, 1, 2])]);
    let fail = LinkId(3);
    plane.add_mac(fail, OWN);
    let all = active(&[0, 1, 2], 0, &[]);
    let home = usize::from(all.member_of_mac(OWN).unwrap());
    let away = (home + 1) % 3;
    let own_macs = [(OWN, away as u16)].into_iter().collect();
    select_group(&mut plane, GroupSelection { own_macs, ..active(&[0, 1, 2], 0, &[]) });
    let mut bound = packet(PEER, OWN, ("10.0.0.1", "10.0.0.7"), 1);
    assert_eq!(plane.send(fail, &mut bound), Ok(away), "where its addresses are bound");
    let to_it = || packet(OWN, PEER, FLOW, 1);
    assert_eq!(plane.receive(away, &mut to_it()), Ingress::Link(fail));
    assert_eq!(plane.receive(home, &mut to_it()), Ingress::Drop(DropReason::MemberNotNominee));
    select_group(&mut plane, all);
    for mut frame in [
        packet(PEER, OWN, FLOW, 1),
        packet(PEER, OWN, ("10.0.0.1", "10.0.0.7"), 1),
        arp(ALL, OWN, "10.0.0.1", "10.0.0.7"),
    ] {
        let before = frame.data().to_vec();
        assert_eq!(plane.send(fail, &mut frame), Ok(home));
        assert_eq!(frame.data(), before);
    }
    for nic in 0..3 {
        let got = plane.receive(nic, &mut packet(OWN, PEER, FLOW, 1));
        assert_eq!(got == Ingress::Link(fail), nic == home, "one copy of what is flooded");
    }
    let back = plane.receive(0, &mut arp(ALL, OWN, "10.0.0.1", "10.0.0.9"));
    assert_eq!(back, Ingress::Drop(DropReason::OwnFrameReflected));
    let rest: Vec<u16> = (0..3).filter(|m| usize::from(*m) != home).collect();
    select_group(&mut plane, active(&rest, rest[0], &[]));
    let moved = plane.send(fail, &mut packet(PEER, OWN, FLOW, 1)).unwrap();
    assert!(moved != home);
    plane.remove_mac(fail, OWN);
    let gone = plane.receive(moved, &mut packet(OWN, PEER, FLOW, 1));
    assert_eq!(gone, Ingress::Drop(DropReason::NotForThisHost));
}

#[test]
fn the_prober_gets_its_probes_and_what_is_for_its_addresses() {
    let mut plane = plane(&[A, B], &[vlan_of(1, 5, 0), group_of(&[0, 2])]);
    let (eth0, eth1_5, fail) = (LinkId(0), LinkId(2), LinkId(3));
    plane.set_test_addresses([(eth0, ip("10.0.0.201")), (eth1_5, ip("fe80::201"))]);
    let mut probe = tagged(ethernet(B, A, ETHERTYPE_PROBE, &[0; 50]), 5, 0);
    assert_eq!(plane.receive(1, &mut probe), Ingress::Control(eth1_5), "from a member of ours");
    assert_eq!(probe.data()[12..14], [0x88, 0xb5]);
    for mut frame in [
        arp(ALL, PEER, "10.0.0.9", "10.0.0.201"),
        packet(A, PEER, ("10.0.0.9", "10.0.0.201"), 7),
        arp(ALL, PEER, "10.0.0.201", "10.0.0.9"),
    ] {
        assert_eq!(plane.receive(0, &mut frame), Ingress::Control(eth0));
    }
    let mut solicited = discovery(135, PEER, ("fe80::9", "ff02::1:ff00:201"), "fe80::201", 1);
    assert_eq!(plane.receive(0, &mut solicited), Ingress::Link(fail), "not that member's");
    assert_eq!(plane.receive(1, &mut tagged(solicited, 5, 0)), Ingress::Control(eth1_5));
    let answer = discovery(136, PEER, ("fe80::9", "fe80::201"), "fe80::9", 2);
    assert_eq!(plane.receive(1, &mut tagged(answer, 5, 0)), Ingress::Control(eth1_5));
    let mut answer = packet(A, PEER, FLOW, 7);
    assert_eq!(plane.receive(0, &mut answer), Ingress::Link(fail));
    let mut out = ethernet(PEER, B, ETHERTYPE_PROBE, &[0; 50]);
    assert_eq!(plane.send(eth1_5, &mut out), Ok(1));
    assert_eq!(vlan::pop(&mut out), Some(5), "a member is a link that may be sent by");
}

#[test]
fn answers_from_beyond_the_link_go_to_the_stacks_and_to_the_machines() {
    let reply = |src: [u8; 4], kind: u8| {
        let mut packet = [0; 46];
        (packet[0], packet[9], packet[20]) = (0x45, 1, kind);
        packet[12..16].copy_from_slice(&src);
        ethernet(A, PEER, 0x0800, &packet)
    };
    let reply6 = |last: u8, kind: u8| {
        let mut packet = [0; 60];
        (packet[0], packet[6], packet[23], packet[40]) = (0x60, 58, last, kind);
        ethernet(A, PEER, 0x86dd, &packet)
    };
    let far = [ip("192.0.2.1"), ip("::1")];
    let mut plane = plane(&[A, B], &[group_of(&[0, 1])]);
    let fail = LinkId(2);
    let both = Ingress::Both { link: fail, member: LinkId(0) };
    assert_eq!(plane.receive(0, &mut reply([192, 0, 2, 1], 0)), Ingress::Link(fail));
    plane.listen_beyond(fail, &far);
    for mut frame in [reply([192, 0, 2, 1], 0), reply6(1, 129)] {
        assert_eq!(plane.receive(0, &mut frame), both);
    }
    for mut frame in [reply([192, 0, 2, 1], 8), reply([192, 0, 2, 2], 0), reply6(2, 129)] {
        assert_eq!(plane.receive(0, &mut frame), Ingress::Link(fail));
    }

    let mut plain = self::plane(&[A], &[]);
    let eth0 = LinkId(0);
    assert_eq!(plain.receive(0, &mut reply([192, 0, 2, 1], 0)), Ingress::Link(eth0));
    plain.listen_for_alias(eth0, &far);
    let both = Ingress::Both { link: eth0, member: eth0 };
    assert_eq!(plain.receive(0, &mut reply([192, 0, 2, 1], 0)), both);
    let mut answer = arp(A, PEER, "10.0.0.9", "10.0.0.1");
    answer.data_mut()[21] = 2;
    assert_eq!(plain.receive(0, &mut answer), both);
    assert_eq!(plain.receive(0, &mut packet(A, PEER, FLOW, 1)), Ingress::Link(eth0));
}

#[test]
fn a_vlan_of_a_group_has_one_tag_outside_and_none_inside() {
    let mut plane = plane(&[A, B], &[group_of(&[0, 1]), vlan_of(2, 5, 0)]);
    let fail_5 = LinkId(3);
    select_group(&mut plane, active(&[0, 1], 0, &[("10.0.0.1", 1)]));
    let mut request = arp(ALL, A, "10.0.0.1", "10.0.0.9");
    assert_eq!(plane.send(fail_5, &mut request), Ok(1));
    assert_eq!(request.data(), tagged(arp(ALL, B, "10.0.0.1", "10.0.0.9"), 5, 0).data());
    let mut frame = tagged(packet(B, PEER, FLOW, 1), 5, 0);
    assert_eq!(plane.receive(1, &mut frame), Ingress::Link(fail_5));
    assert_eq!(frame.data(), packet(A, PEER, FLOW, 1).data());
}

#[test]
fn ports_of_a_bond_count_what_comes_in_and_our_own_frames_are_dropped() {
    let mut plane = plane(&[A, B], &[static_bond(&[0, 1]), vlan_of(2, 5, 0)]);
    let from = |mac| packet(A, mac, FLOW, 1);
    assert_eq!(plane.receive(1, &mut from(PEER)), Ingress::Link(LinkId(2)));
    assert_eq!(plane.receive(1, &mut tagged(from(PEER), 5, 0)), Ingress::Link(LinkId(3)));
    let unknown = Ingress::Drop(DropReason::VlanUnknown);
    assert_eq!(plane.receive(1, &mut tagged(from(PEER), 6, 0)), unknown);
    // The bond has the MAC address of its first port.
    let own = Ingress::Drop(DropReason::OwnFrameReflected);
    assert_eq!(plane.receive(1, &mut from(A)), own);
    let lldp = &mut ethernet(A, PEER, ETHERTYPE_LLDP, &[0; 50]);
    assert_eq!(plane.receive(1, lldp), Ingress::Control(LinkId(1)));
    let seen = plane.seen().samples();
    let second = Sample { frames: 4, own: 1, tags: vec![(5, 1)], flooded: vec![(5, 0)] };
    assert_eq!(seen[1], second);
    assert_eq!(seen[0].frames, 0);
}

#[test]
fn members_of_a_group_count_what_switches_send_to_all_unless_it_is_from_here() {
    let all_nodes = [0x33, 0x33, 0, 0, 0, 1];
    // Tags below the group, and on it.
    let below = plane(&[A, B, C], &[vlan_of(0, 5, 0), vlan_of(1, 5, 0), group_of(&[3, 4])]);
    let above = plane(&[A, B, C], &[group_of(&[0, 1]), vlan_of(3, 5, 0)]);
    for mut plane in [below, above] {
        plane.add_mac(LinkId(0), OWN);
        for from in [PEER, A, B, C, OWN] {
            plane.receive(1, &mut tagged(arp(ALL, from, "10.0.0.9", "10.0.0.1"), 5, 0));
        }
        plane.receive(1, &mut tagged(packet(all_nodes, PEER, ("fe80::9", "ff02::1"), 1), 5, 0));
        plane.receive(1, &mut tagged(packet(B, PEER, FLOW, 1), 5, 0));
        plane.receive(1, &mut tagged(packet(B, PEER, FLOW, 1), 6, 0));
        plane.receive(1, &mut arp(ALL, PEER, "10.0.0.9", "10.0.0.1"));
        plane.receive(1, &mut ethernet(A, PEER, ETHERTYPE_LLDP, &[0; 50]));
        plane.receive(2, &mut arp(ALL, PEER, "10.0.0.9", "10.0.0.1"));
        let seen = plane.seen().samples();
        assert_eq!((seen[1].frames, seen[1].own), (9, 0));
        assert_eq!((&seen[1].tags[..], &seen[1].flooded[..]), (&[(5, 7)][..], &[(5, 2)][..]));
        assert_eq!(seen[0].flooded, [(5, 0)], "nothing, but it is looked for");
        assert_eq!(seen[2], Sample::default(), "no group has it");
    }
}

#[test]
fn what_a_nic_counted_goes_on_while_it_stays_where_it_is() {
    let count = |plane: &mut Plane| {
        plane.receive(1, &mut tagged(arp(ALL, PEER, "10.0.0.9", "10.0.0.1"), 5, 0));
        plane.seen().samples()[1].clone()
    };
    let group = || plane(&[A, B], &[group_of(&[0, 1]), vlan_of(2, 5, 0)]);
    let to = [0, 1, 2, 3].map(|link| Some(LinkId(link)));
    let mut old = group();
    count(&mut old);
    let seen = old.seen().clone();
    let mut same = group();
    same.succeed(old, &to);
    let twice = Sample { frames: 2, own: 0, tags: vec![(5, 2)], flooded: vec![(5, 2)] };
    assert_eq!(count(&mut same), twice);
    assert_eq!(seen.samples()[1].frames, 1, "that of the former plane");
    let mut bond = plane(&[A, B], &[static_bond(&[0, 1]), vlan_of(2, 5, 0)]);
    bond.succeed(same, &[Some(LinkId(0)), Some(LinkId(1)), None, None]);
    assert_eq!(count(&mut bond).frames, 1, "it is in a bond now");
}
