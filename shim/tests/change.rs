//! What changes while contexts live: proofs, policies, the UDP port.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::IpAddr;

use support::*;
use weft_shim::config::{Bounds, SetUp, SetUpConfig, ShimConfig};
use weft_shim::contexts::StartError;
use weft_shim::encap::EncapConfig;
use weft_shim::locator::{Locator, Pair, Verification};
use weft_shim::reap::{Policy, ReapConfig};
use weft_stack::path::PathLayer;
use weft_stack::time::Duration;

fn established() -> Lab {
    let mut lab = Lab::two(5, &ShimConfig::default(), ReapConfig::default(), [2, 2]);
    let now = lab.now;
    lab.shim(0).start(now, ulids(), 0).unwrap();
    lab.pump(0);
    lab.run(Duration::from_millis(100));
    lab.log = Some(Vec::new());
    lab
}

fn second() -> Pair {
    Pair::new(ip(1, 2), ip(2, 2))
}

fn send_by(lab: &mut Lab, pair: Pair) {
    let now = lab.now;
    for host in 0..2 {
        let of_host = |p: Pair| if host == 0 { p } else { p.reversed() };
        lab.shim(host).switch(now, of_host(ulids()), 0, of_host(pair)).unwrap();
        lab.pump(host);
    }
    for n in 0..10 {
        lab.send(0, ulids(), n);
        lab.send(1, ulids().reversed(), n);
        lab.run(Duration::from_millis(10));
    }
}

/// Protocols of packets between the second addresses, each once.
fn protocols(lab: &Lab) -> Vec<u8> {
    let between = lab.log.iter().flatten().filter(|(_, p)| p.src == ip(1, 2) || p.src == ip(2, 2));
    let mut all: Vec<u8> = between.map(|(_, p)| p.protocol).collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
fn a_udp_port_comes_to_a_shim_that_runs_changes_and_goes() {
    let mut lab = established();
    send_by(&mut lab, second());
    assert_eq!(protocols(&lab), [140]);
    for (port, protocol) in [(Some(4140), 17), (Some(4141), 17), (None, 140)] {
        send_by(&mut lab, ulids());
        let now = lab.now;
        for host in 0..2u8 {
            let shim = lab.shim(host.into());
            shim.set_encap(now, port.map(EncapConfig::new));
            let mut own = list_of(u16::from(host) + 1, 2);
            own.locators[1].port = port;
            shim.set_own(now, own);
            lab.pump(host.into());
        }
        lab.run(Duration::from_millis(500));
        lab.log = Some(Vec::new());
        send_by(&mut lab, second());
        let got =
            |h: &Host| -> Vec<u64> { h.got.iter().rev().take(10).map(|g| g.number).collect() };
        for host in &lab.hosts {
            assert_eq!(got(host), [9, 8, 7, 6, 5, 4, 3, 2, 1, 0], "{port:?}");
            assert_eq!(host.layer.takes_udp_port(4140), port.is_some(), "a minute longer");
        }
        assert_eq!(protocols(&lab), [protocol], "{port:?}");
    }
}

#[test]
fn packets_to_the_port_before_are_taken_for_a_minute_after_it_changed() {
    let mut lab = established();
    for host in 0..2u8 {
        let now = lab.now;
        let shim = lab.shim(host.into());
        shim.set_encap(now, Some(EncapConfig::new(4140)));
        let mut own = list_of(u16::from(host) + 1, 2);
        own.locators[1].port = Some(4140);
        shim.set_own(now, own);
        lab.pump(host.into());
    }
    lab.run(Duration::from_millis(500));
    send_by(&mut lab, second());
    for host in &mut lab.hosts {
        host.got.clear();
    }
    // The port changes at one end, while the other sends all the time and is never told.
    let now = lab.now;
    let before = lab.shim(1).encap().unwrap().stats().packets_in;
    lab.shim(1).set_encap(now, Some(EncapConfig::new(4141)));
    while lab.shim(1).poll_transmit().is_some() {}
    for n in 0..20 {
        lab.send(0, ulids(), n);
        lab.run(Duration::from_millis(1));
    }
    lab.run(Duration::from_millis(20));
    assert_eq!(lab.hosts[1].got.len(), 20, "none is lost");
    let taken = lab.shim(1).encap().unwrap().stats().old_port_in;
    assert!(taken >= 20, "{taken}");
    let packets = lab.shim(1).encap().unwrap().stats().packets_in;
    assert!(before > 0 && packets >= before + 20, "counters go on: {before}, {packets}");
    assert!([4140, 4141].iter().all(|port| lab.hosts[1].layer.takes_udp_port(*port)));
    lab.run(Duration::from_secs(61));
    assert!(!lab.hosts[1].layer.takes_udp_port(4140), "a socket may have it");
}

#[test]
fn the_policy_is_that_of_contexts_that_live_too() {
    let mut lab = established();
    let now = lab.now;
    lab.shim(0).set_reap(ReapConfig { policy: Policy::Prefer, ..ReapConfig::default() });
    let mut own = list_of(1, 2);
    own.locators[0].preference.priority = 9;
    lab.shim(0).set_own(now, own);
    lab.pump(0);
    for n in 0..200 {
        lab.send(0, ulids(), n);
        lab.send(1, ulids().reversed(), n);
        lab.run(Duration::from_millis(100));
    }
    let by = lab.shim(0).pair(ulids(), 0).unwrap();
    assert_eq!(by.local, ip(1, 2), "the cheaper one of ours, though the first one works");
}

#[test]
fn contexts_beyond_a_lower_bound_stay_and_no_more_are_made() {
    let mut lab = established();
    let set_up = SetUpConfig { default: SetUp::Immediate, ..SetUpConfig::default() };
    let bounds = Bounds { contexts_max: 1, ..Bounds::default() };
    lab.shim(0).set_config(&ShimConfig { set_up, bounds, ..ShimConfig::default() });
    let now = lab.now;
    let other = Pair::new(ip(1, 2), ip(2, 2));
    assert_eq!(lab.shim(0).start(now, other, 0), Err(StartError::Bound));
    assert_eq!(lab.shim(0).len(), 1);
    lab.shim(0).set_config(&ShimConfig::default());
    assert_eq!(lab.shim(0).start(now, other, 0), Ok(()));
}

#[test]
fn other_proofs_are_told_with_the_list_they_prove() {
    let mut lab = established();
    let now = lab.now;
    let sent = lab.shim(0).stats().control_sent;
    lab.shim(0).set_trust(now, Box::new(Sets));
    lab.shim(0).set_own(now, list_of(1, 3));
    lab.pump(0);
    lab.run(Duration::from_millis(100));
    assert!(lab.shim(0).stats().control_sent > sent);
    let peers: Vec<IpAddr> = lab.shim(1).locators_of_peer(ip(1, 1));
    assert_eq!(peers, [ip(1, 2), ip(1, 3)]);
}

#[test]
fn locators_of_a_peer_are_those_that_work_without_udp() {
    let mut lab = established();
    assert_eq!(lab.shim(0).locators_of_peer(ip(2, 1)), [ip(2, 2)]);
    assert!(lab.shim(0).locators_of_peer(ip(2, 2)).is_empty(), "no context with that ULID");
    let now = lab.now;
    let mut own = list_of(2, 3);
    own.locators[1].preference.flags = weft_shim::locator::Preference::BROKEN;
    own.locators[2].port = Some(4140);
    let mut first = Locator::new(ip(2, 4), Verification::Hba);
    first.preference.priority = 1;
    own.locators.push(first);
    lab.shim(1).set_own(now, own);
    lab.pump(1);
    lab.run(Duration::from_millis(100));
    assert_eq!(lab.shim(0).locators_of_peer(ip(2, 1)), [ip(2, 4)]);
}
