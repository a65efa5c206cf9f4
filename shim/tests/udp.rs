//! Locators reached through UDP: IPv4 ones, and those whose owner says so.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::IpAddr;

use support::*;
use weft_shim::config::ShimConfig;
use weft_shim::context::State;
use weft_shim::contexts::Contexts;
use weft_shim::encap::EncapConfig;
use weft_shim::layer::Layer;
use weft_shim::locator::{Locator, LocatorList, Pair, Verification};
use weft_shim::reap::{Hint, ReapConfig};
use weft_shim::wire::Tag;
use weft_stack::path::PathLayer;
use weft_stack::time::{Duration, Instant};

const PORT: u16 = 4140;

fn v4(host: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, host])
}

/// Two hosts with these locators.
fn lab(of: impl Fn(u8) -> Vec<Locator>) -> Lab {
    let hosts = [1u8, 2].map(|host| {
        let list = LocatorList { generation: 0, locators: of(host).into() };
        let (config, reap) = (ShimConfig::default(), ReapConfig::default());
        let mut shim = Contexts::new(config, reap, list, Box::new(Sets), [host; 16]);
        shim.set_encap(Instant::ZERO, Some(EncapConfig::new(PORT)));
        (u16::from(host), 0, Layer::on(shim))
    });
    let mut lab = Lab::new(1, hosts.into());
    for host in 0..2u8 {
        let addrs = of(host + 1).into_iter().map(|l| l.addr).collect();
        lab.hosts[usize::from(host)].addrs = addrs;
    }
    lab.log = Some(Vec::new());
    lab
}

fn establish(lab: &mut Lab, ulids: Pair) {
    let now = lab.now;
    lab.shim(0).start(now, ulids, 0).unwrap();
    lab.pump(0);
    lab.run(Duration::from_millis(100));
    let now = lab.now;
    assert_eq!(lab.shim(0).state(now, ulids, 0), State::Established);
    assert_eq!(lab.shim(1).state(now, ulids.reversed(), 0), State::Established);
}

/// Traffic both ways for a second.
fn traffic(lab: &mut Lab, ulids: Pair) {
    for n in 0..100 {
        lab.send(0, ulids, n);
        lab.send(1, ulids.reversed(), n);
        lab.run(Duration::from_millis(10));
    }
}

fn got_last(lab: &Lab) -> bool {
    lab.hosts.iter().all(|h| h.got.iter().any(|g| g.number == 99))
}

#[test]
fn a_context_between_ipv6_ulids_goes_over_to_ipv4_and_back() {
    let of = |host: u8| {
        let v6 = Locator::new(ip(u16::from(host), 1), Verification::Hba);
        vec![v6, Locator::new(v4(host), Verification::Hba)]
    };
    let mut lab = lab(of);
    establish(&mut lab, ulids());
    lab.kill(ip(1, 1), ip(2, 1));
    lab.kill(ip(2, 1), ip(1, 1));
    lab.log = Some(Vec::new());
    traffic(&mut lab, ulids());
    assert!(got_last(&lab));
    let over_v4: Vec<_> = lab.log.iter().flatten().filter(|(_, p)| p.src.is_ipv4()).collect();
    assert!(over_v4.len() > 100);
    // Each a datagram between the ports.
    let ports = [PORT.to_be_bytes(), PORT.to_be_bytes()].concat();
    assert!(over_v4.iter().all(|(_, p)| p.protocol == 17 && p.data.starts_with(&ports)));
    let (src, dst) = (ulids().local, ulids().remote);
    let layer = &lab.hosts[0].layer;
    assert_eq!(layer.overhead_bytes(src, dst), 16);
    assert!(!layer.takes_super_segments(src, dst));
    let now = lab.now;
    lab.dead.clear();
    lab.shim(0).switch(now, ulids(), 0, ulids()).unwrap();
    lab.pump(0);
    lab.run(Duration::from_millis(100));
    assert_eq!(lab.hosts[0].layer.overhead_bytes(src, dst), 0);
    assert!(lab.hosts[0].layer.passes(src, dst), "a port does not make plain packets slower");
}

#[test]
fn a_context_between_ipv4_ulids_goes_over_to_ipv6() {
    let of = |host: u8| {
        let v6 = Locator::new(ip(u16::from(host), 1), Verification::Hba);
        vec![Locator::new(v4(host), Verification::Hba), v6]
    };
    let mut lab = lab(of);
    let ulids = Pair::new(v4(1), v4(2));
    establish(&mut lab, ulids);
    assert!(lab.log.iter().flatten().all(|(_, p)| p.protocol == 17), "control messages in UDP");
    lab.kill(v4(1), v4(2));
    lab.kill(v4(2), v4(1));
    traffic(&mut lab, ulids);
    assert!(got_last(&lab));
    // 20 bytes more of IP header, 8 of the shim's.
    assert_eq!(lab.hosts[0].layer.overhead_bytes(ulids.local, ulids.remote), 28);
}

#[test]
fn a_locator_with_a_port_is_reached_through_udp_only() {
    let of = |host: u8| {
        let mut second = Locator::new(ip(u16::from(host), 2), Verification::Hba);
        second.port = (host == 2).then_some(PORT);
        vec![Locator::new(ip(u16::from(host), 1), Verification::Hba), second]
    };
    let mut lab = lab(of);
    establish(&mut lab, ulids());
    lab.kill(ip(1, 1), ip(2, 1));
    lab.kill(ip(2, 1), ip(1, 1));
    // Its network drops protocol 140.
    lab.log = Some(Vec::new());
    traffic(&mut lab, ulids());
    assert!(got_last(&lab));
    let at = |p: &Packet| p.src == ip(2, 2) || p.dst == ip(2, 2);
    assert!(lab.log.iter().flatten().filter(|(_, p)| at(p)).all(|(_, p)| p.protocol == 17));
}

#[test]
fn contexts_in_udp_leave_nothing_behind() {
    let mut lab = lab(|host| vec![Locator::new(v4(host), Verification::Hba)]);
    let ulids = Pair::new(v4(1), v4(2));
    establish(&mut lab, ulids);
    traffic(&mut lab, ulids);
    lab.log = Some(Vec::new());
    lab.run(Duration::from_mins(4));
    let sent: Vec<_> = lab.log.iter().flatten().filter(|(_, p)| p.src == v4(1)).collect();
    let gap = sent.windows(2).map(|w| w[1].0.saturating_since(w[0].0)).max().unwrap();
    assert!(gap <= Duration::from_secs(20), "the NAT is kept open: {gap:?}");
    lab.run(Duration::from_mins(10));
    for host in 0..2 {
        assert!(lab.shim(host).is_empty());
        assert_eq!(lab.hosts[host].layer.poll_timeout(), None);
        let sent = lab.shim(host).encap().unwrap().stats().keepalives_out;
        lab.run(Duration::from_mins(10));
        assert_eq!(lab.shim(host).encap().unwrap().stats().keepalives_out, sent);
    }
}

/// Two hosts behind one IPv4 address each, the context established.
fn over_v4() -> (Lab, Pair) {
    let mut lab = lab(|host| vec![Locator::new(v4(host), Verification::Hba)]);
    let ulids = Pair::new(v4(1), v4(2));
    establish(&mut lab, ulids);
    (lab, ulids)
}

/// As if a NAT, or somebody else, had sent it from this port.
fn from_port(packet: &Packet, port: u16) -> Packet {
    let mut packet = packet.clone();
    packet.data[..2].copy_from_slice(&port.to_be_bytes());
    // IPv4 allows none.
    packet.data[6..8].fill(0);
    packet
}

/// The port that host 1 sends payload for host 2 to.
fn port_used(lab: &mut Lab) -> Option<u16> {
    let now = lab.now;
    let tag = lab.shim(0).report_contexts(now, 1).remove(0).local_tag;
    let tag = Tag::new(u64::from_str_radix(&tag, 16).unwrap());
    lab.shim(0).encap().unwrap().port(tag, v4(2))
}

#[test]
fn recorded_probes_move_no_port() {
    let (mut lab, ulids) = over_v4();
    lab.log = Some(Vec::new());
    // Both explore, so that probes report probes.
    let now = lab.now;
    lab.shim(0).hint(now, ulids, Hint::NoProgress);
    lab.pump(0);
    lab.run(Duration::from_millis(200));
    let recorded: Vec<Packet> =
        lab.log.iter().flatten().map(|(_, p)| p.clone()).filter(|p| p.src == v4(2)).collect();
    assert!(recorded.len() >= 2);
    lab.run(Duration::from_secs(5));
    for _ in 0..2 {
        for packet in &recorded {
            lab.deliver(0, &from_port(packet, 31_007));
            lab.pump(0);
        }
    }
    lab.run(Duration::from_millis(100));
    assert!(lab.shim(0).encap().unwrap().stats().candidates > 0);
    assert_eq!(lab.shim(0).encap().unwrap().stats().ports_learnt, 0);
    assert_eq!(port_used(&mut lab), Some(PORT));
}
