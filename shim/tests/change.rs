//! What changes while contexts live: proofs, policies, the UDP port.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashSet;
use std::net::IpAddr;

use support::*;
use weft_shim::config::{Bounds, SetUp, SetUpConfig, ShimConfig};
use weft_shim::contexts::{ContextReport, StartError};
use weft_shim::encap::EncapConfig;
use weft_shim::limit::Rate;
use weft_shim::locator::{Locator, Pair, Verification};
use weft_shim::own::Change;
use weft_shim::reap::{Policy, ReapConfig};
use weft_shim::wire::{Body, Tag};
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

/// Two hosts with so many contexts between the same ULIDs.
fn many(contexts: u32) -> Lab {
    let fast = Rate::new(1_000_000, 100_000);
    let bounds = Bounds {
        contexts_max: 10_000,
        contexts_per_prefix_max: 10_000,
        initiating_max: 10_000,
        queue_max: 100_000,
        i1: fast,
        r1: fast,
        r2: fast,
        lists: fast,
        ..Bounds::default()
    };
    let config = ShimConfig { bounds, ..ShimConfig::default() };
    let mut lab = Lab::two(5, &config, ReapConfig::rfc(), [3, 2]);
    let now = lab.now;
    for fii in 0..contexts {
        lab.shim(0).start(now, ulids(), fii).unwrap();
    }
    lab.pump(0);
    lab.run(Duration::from_millis(100));
    assert_eq!(lab.shim(0).stats().contexts_established, u64::from(contexts));
    lab.log = Some(Vec::new());
    lab
}

/// Tags that updates of the last call were sent to.
fn told(lab: &mut Lab) -> Vec<Tag> {
    lab.pump(0);
    let sent = lab.log.replace(Vec::new()).into_iter().flatten();
    let updates = sent.filter_map(|(_, p)| match p.message()?.body {
        Body::Update { receiver_tag, .. } if p.src == ip(1, 1) || p.src == ip(1, 2) => {
            Some(receiver_tag)
        }
        _ => None,
    });
    updates.collect()
}

/// Calls until every context knows, and who was told in each. Time stands still.
fn calls(lab: &mut Lab, most: usize) -> Vec<Vec<Tag>> {
    let now = lab.now;
    let mut calls = Vec::new();
    while calls.len() < most && lab.shim(0).poll_timeout().is_some_and(|at| at <= now) {
        lab.shim(0).handle_timeout(now);
        calls.push(told(lab));
    }
    calls
}

fn all_distinct(tags: &[Tag]) -> bool {
    tags.iter().collect::<HashSet<_>>().len() == tags.len()
}

#[test]
fn of_many_contexts_some_at_a_time_learn_of_a_change() {
    let order = || {
        let mut lab = many(3000);
        let now = lab.now;
        lab.shim(0).address_changed(now, ip(1, 1), Change::LinkDown);
        let first = told(&mut lab);
        let mut each = calls(&mut lab, usize::MAX);
        each.insert(0, first);
        assert!(each.iter().all(|tags| (1..=64).contains(&tags.len())), "{}", each.len());
        let all = each.concat();
        assert!(all.len() == 3000 && all_distinct(&all), "each once: {}", all.len());
        let continued = lab.shim(0).stats().own_changes_continued;
        assert_eq!(continued, each.len() as u64 - 1);
        lab.run(Duration::from_secs(3));
        let now = lab.now;
        for (host, used) in [(0, ip(1, 1)), (1, ip(1, 1))] {
            let all = lab.shim(host).report_contexts(now, 5000);
            let (local, remote) =
                (|c: &ContextReport| c.locator_local, |c: &ContextReport| c.locator_remote);
            let by: &dyn Fn(&ContextReport) -> IpAddr = if host == 0 { &local } else { &remote };
            assert!(all.len() == 3000 && all.iter().all(|c| by(c) != used), "host {host}");
            assert!(all.iter().all(|c| host == 0 || c.peer[0].broken && !c.peer[1].broken));
            assert!(all.iter().all(|c| !c.updating));
        }
        each
    };
    assert_eq!(order(), order(), "the same again");
}

#[test]
fn a_change_while_contexts_still_learn_of_another_reaches_all_of_them() {
    let mut lab = many(2000);
    let now = lab.now;
    lab.shim(0).address_changed(now, ip(1, 3), Change::LinkDown);
    let mut early = told(&mut lab);
    early.extend(calls(&mut lab, 9).concat());
    assert_eq!(early.len(), 640);
    // The second begins where the first has come to.
    let now = lab.now;
    lab.shim(0).address_changed(now, ip(1, 3), Change::LinkUp);
    lab.shim(0).address_changed(now, ip(1, 2), Change::Removed);
    let mut late = told(&mut lab);
    assert!((1..=128).contains(&late.len()), "{}", late.len());
    let rest = calls(&mut lab, usize::MAX);
    assert!(rest.iter().all(|tags| tags.len() <= 64));
    late.extend(rest.concat());
    let news: HashSet<Tag> = late.iter().copied().collect();
    assert_eq!(news.len(), 2000);
    assert!(late.len() <= 2064, "each once, but for those between the two: {}", late.len());
    assert!(early.iter().all(|tag| !late[..1360].contains(tag)), "who waits comes first");
    lab.run(Duration::from_secs(2));
    let now = lab.now;
    let own = lab.shim(0).report_contexts(now, 5000);
    let gone = |c: &ContextReport, n| {
        let paths = &c.reap.as_ref().unwrap().paths;
        paths.iter().filter(|p| p.local == ip(1, n)).all(|p| p.state == "gone")
    };
    assert!(own.iter().all(|c| gone(c, 2) && !gone(c, 3) && !gone(c, 1) && !c.updating));
    let peer = lab.shim(1).report_contexts(now, 5000);
    let broken = |c: &ContextReport| c.peer.iter().map(|l| l.broken).collect::<Vec<_>>();
    assert!(peer.len() == 2000 && peer.iter().all(|c| broken(c) == [false, true, false]));
}

#[test]
fn a_locator_that_came_back_unseen_is_used_again() {
    let mut lab = many(300);
    let now = lab.now;
    lab.shim(0).address_changed(now, ip(1, 3), Change::LinkDown);
    calls(&mut lab, usize::MAX);
    // It leaves the list and is on it again before most contexts could see either.
    let now = lab.now;
    lab.shim(0).set_own(now, list_of(1, 2));
    lab.shim(0).set_own(now, list_of(1, 3));
    calls(&mut lab, usize::MAX);
    let now = lab.now;
    let all = lab.shim(0).report_contexts(now, 5000);
    let paths = |c: &ContextReport| c.reap.as_ref().unwrap().paths.clone();
    assert!(all.iter().all(|c| paths(c).len() == 6 && paths(c).iter().all(|p| p.state != "gone")));
}

#[test]
fn a_pair_that_the_peer_calls_broken_is_left() {
    let mut lab = established();
    let mut number = 0;
    let mut talk = |lab: &mut Lab, ms: u64| {
        for _ in 0..ms / 10 {
            lab.send(0, ulids(), number);
            lab.send(1, ulids().reversed(), number);
            lab.run(Duration::from_millis(10));
            number += 1;
        }
    };
    talk(&mut lab, 2000);
    let now = lab.now;
    let mut own = list_of(2, 2);
    own.locators[0].preference.flags = weft_shim::locator::Preference::BROKEN;
    lab.shim(1).set_own(now, own);
    lab.pump(1);
    talk(&mut lab, 2000);
    let by = lab.shim(0).pair(ulids(), 0).unwrap();
    assert_eq!(by.remote, ip(2, 2));
    let got: Vec<u64> = lab.hosts[1].got.iter().map(|g| g.number).collect();
    assert_eq!(got, (0..number).take(got.len()).collect::<Vec<_>>(), "nothing is lost");
}
