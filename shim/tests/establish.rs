//! Set-up, concurrent set-up, recovery, updates and teardown between two hosts.
#![allow(clippy::unwrap_used)]

mod support;

use support::*;
use weft_shim::config::{SetUp, SetUpConfig, ShimConfig};
use weft_shim::context::State;
use weft_shim::locator::Pair;
use weft_shim::own::Change;
use weft_shim::reap::ReapConfig;
use weft_shim::wire::Body;
use weft_stack::time::Duration;

const MS: Duration = Duration::from_millis(1);

fn lab(addresses: [u16; 2]) -> Lab {
    let mut lab = Lab::two(1, &ShimConfig::default(), ReapConfig::default(), addresses);
    lab.log = Some(Vec::new());
    lab
}

/// Types of the control messages that were sent, handshake only.
fn kinds(lab: &Lab) -> Vec<u8> {
    let messages = lab.log.iter().flatten().filter_map(|(_, p)| p.message());
    messages.filter(|m| is_handshake(&m.body)).map(|m| m.body.kind()).collect()
}

fn states(lab: &mut Lab) -> (State, State) {
    let now = lab.now;
    (lab.shim(0).state(now, ulids(), 0), lab.shim(1).state(now, ulids().reversed(), 0))
}

fn established(addresses: [u16; 2]) -> Lab {
    let mut lab = lab(addresses);
    let now = lab.now;
    lab.shim(0).start(now, ulids(), 0).unwrap();
    lab.pump(0);
    lab.run(100 * MS);
    assert_eq!(states(&mut lab), (State::Established, State::Established));
    lab
}

// RFC 5533 7.3
#[test]
fn four_messages_make_a_context() {
    let mut lab = established([2, 3]);
    assert_eq!(kinds(&lab), [1, 2, 3, 4]);
    let now = lab.now;
    let (a, b) = (lab.shim(0).report_contexts(now, 9), lab.shim(1).report_contexts(now, 9));
    assert_eq!((a[0].peer.len(), b[0].peer.len()), (3, 2));
    assert_eq!(a[0].peer_tag.as_ref(), Some(&b[0].local_tag));
    assert_eq!(b[0].peer_tag.as_ref(), Some(&a[0].local_tag));
}

// RFC 5533 11
// RFC 5533 11.1
#[test]
fn packets_over_the_ulids_carry_no_header_and_others_do() {
    let mut lab = established([2, 2]);
    lab.log = Some(Vec::new());
    lab.send(0, ulids(), 1);
    lab.run(20 * MS);
    let now = lab.now;
    let pair = Pair::new(ip(1, 2), ip(2, 2));
    lab.shim(0).switch(now, ulids(), 0, pair).unwrap();
    lab.pump(0);
    lab.run(50 * MS);
    lab.send(0, ulids(), 2);
    lab.run(20 * MS);
    assert_eq!(lab.hosts[1].got.iter().map(|g| g.number).collect::<Vec<_>>(), [1, 2]);
    let payloads: Vec<_> =
        lab.log.iter().flatten().filter(|(_, p)| p.message().is_none()).collect();
    assert_eq!((payloads[0].1.protocol, payloads[0].1.data.len()), (17, 44));
    let second = &payloads[1].1;
    assert_eq!((second.protocol, second.data.len(), second.data[0]), (140, 52, 17));
    assert_eq!((second.src, second.dst), (pair.local, pair.remote));
}

// RFC 5533 7.4
#[test]
fn both_ends_may_begin_at_once() {
    let mut lab = lab([2, 2]);
    let now = lab.now;
    lab.shim(0).start(now, ulids(), 0).unwrap();
    lab.shim(1).start(now, ulids().reversed(), 0).unwrap();
    lab.pump(0);
    lab.pump(1);
    lab.run(100 * MS);
    assert_eq!(states(&mut lab), (State::Established, State::Established));
    assert_eq!(kinds(&lab), [1, 1, 4, 4]);
    assert_eq!((lab.shim(0).len(), lab.shim(1).len()), (1, 1));
}

// RFC 5533 7.4
#[test]
fn an_i2_may_cross_an_i1() {
    let mut lab = lab([2, 2]);
    let now = lab.now;
    lab.shim(0).start(now, ulids(), 0).unwrap();
    lab.pump(0);
    // The I1 arrives, the R1 is on its way: then the other end begins.
    lab.run(6 * MS);
    let now = lab.now;
    lab.shim(1).start(now, ulids().reversed(), 0).unwrap();
    lab.pump(1);
    lab.run(200 * MS);
    assert_eq!(states(&mut lab), (State::Established, State::Established));
    assert_eq!((lab.shim(0).len(), lab.shim(1).len()), (1, 1));
}

// RFC 5533 7.5
#[test]
fn a_peer_that_lost_the_context_gets_it_back_when_packets_are_rewritten() {
    let mut lab = established([2, 2]);
    let now = lab.now;
    lab.shim(0).switch(now, ulids(), 0, Pair::new(ip(1, 2), ip(2, 2))).unwrap();
    lab.pump(0);
    lab.run(50 * MS);
    let now = lab.now;
    assert!(lab.shim(1).end(now, ulids().reversed(), 0));
    lab.log = Some(Vec::new());
    lab.send(0, ulids(), 1);
    lab.run(100 * MS);
    assert_eq!(kinds(&lab)[..3], [5, 6, 4]);
    assert_eq!(states(&mut lab), (State::Established, State::Established));
    lab.send(0, ulids(), 2);
    lab.send(1, ulids().reversed(), 3);
    lab.run(50 * MS);
    assert_eq!(lab.hosts[1].got.last().unwrap().number, 2);
    assert_eq!(lab.hosts[0].got.last().unwrap().number, 3);
}

// RFC 5533 7.5
#[test]
fn a_host_that_lost_the_context_makes_it_anew_with_four_messages() {
    let mut lab = established([2, 2]);
    let now = lab.now;
    assert!(lab.shim(1).end(now, ulids().reversed(), 0));
    lab.log = Some(Vec::new());
    lab.shim(1).start(now, ulids().reversed(), 0).unwrap();
    lab.pump(1);
    lab.run(100 * MS);
    assert_eq!(kinds(&lab), [1, 2, 3, 4]);
    assert_eq!(states(&mut lab), (State::Established, State::Established));
    let now = lab.now;
    let (a, b) = (lab.shim(0).report_contexts(now, 9), lab.shim(1).report_contexts(now, 9));
    assert_eq!(a[0].peer_tag.as_ref(), Some(&b[0].local_tag), "the new tag is used");
}

// RFC 5533 4.2
// RFC 5533 7.7 MUST
#[test]
fn a_forked_context_has_its_own_tags_and_pair() {
    let mut lab = established([2, 2]);
    let now = lab.now;
    lab.shim(0).start(now, ulids(), 5).unwrap();
    lab.pump(0);
    lab.run(100 * MS);
    assert_eq!((lab.shim(0).len(), lab.shim(1).len()), (2, 2));
    let now = lab.now;
    let shim = lab.shim(0);
    let (first, more) = shim.report_page(now, 0, 1);
    let (rest, _) = shim.report_page(now, more.expect("another place"), usize::MAX);
    assert_eq!([first, rest].concat().iter().map(|c| c.fii).collect::<Vec<_>>(), [0, 5]);
    assert_eq!(shim.report_page(now, 99_999, 1).1, None);
    assert_eq!(shim.ulids_with(ulids().remote), [ulids().local]);
    assert!(shim.ulids_with(ulids().local).is_empty());
    let reports = lab.shim(1).report_contexts(now, 9);
    assert_eq!(reports.iter().map(|r| r.fii).collect::<Vec<_>>(), [0, 5]);
    assert_ne!(reports[0].local_tag, reports[1].local_tag);
    let pair = Pair::new(ip(1, 2), ip(2, 2));
    lab.shim(0).switch(now, ulids(), 5, pair).unwrap();
    lab.pump(0);
    let flow = weft_shim::contexts::Flow { ulids: ulids(), protocol: 17, ports: (7, 9) };
    lab.shim(0).fork(now, flow, 5).unwrap();
    lab.log = Some(Vec::new());
    lab.send(0, ulids(), 1);
    lab.shim(0).unfork(&flow);
    lab.send(0, ulids(), 2);
    lab.run(50 * MS);
    let protocols: Vec<u8> = lab
        .log
        .iter()
        .flatten()
        .filter(|(_, p)| p.message().is_none())
        .map(|(_, p)| p.protocol)
        .collect();
    assert_eq!(protocols, [140, 17], "the flow's packet goes by the forked context's pair");
    let got: Vec<_> = lab.hosts[1].got.iter().map(|g| g.ulids).collect();
    assert_eq!(got, [ulids().reversed(); 2]);
}

// RFC 5533 10.1
// RFC 5533 10.4
// RFC 5533 10.5
#[test]
fn a_peer_is_told_of_a_locator_that_is_gone() {
    let mut lab = established([2, 2]);
    let now = lab.now;
    lab.hosts[0].addrs.remove(&ip(1, 2));
    lab.shim(0).address_changed(now, ip(1, 2), Change::Removed);
    lab.pump(0);
    lab.run(100 * MS);
    let now = lab.now;
    let report = &lab.shim(1).report_contexts(now, 1)[0];
    let broken: Vec<bool> = report.peer.iter().map(|l| l.broken).collect();
    assert_eq!(broken, [false, true]);
    assert!(!lab.shim(0).report_contexts(now, 1)[0].updating);
    assert_eq!(lab.shim(0).stats().updates_acknowledged, 1);
}

// RFC 5533 10.2
#[test]
fn updates_are_repeated_ever_more_slowly_until_they_are_acknowledged() {
    let mut lab = established([2, 2]);
    lab.dead.insert((ip(2, 1), ip(1, 1)));
    lab.dead.insert((ip(2, 2), ip(1, 1)));
    lab.dead.insert((ip(2, 1), ip(1, 2)));
    lab.dead.insert((ip(2, 2), ip(1, 2)));
    lab.log = Some(Vec::new());
    let now = lab.now;
    let mut list = list_of(1, 2);
    list.generation = 77;
    list.locators[1].preference.priority = 9;
    lab.shim(0).set_own(now, list);
    lab.pump(0);
    lab.run(Duration::from_secs(200));
    let sent: Vec<_> = lab
        .log
        .iter()
        .flatten()
        .filter_map(|(at, p)| match p.message()?.body {
            Body::Update { nonce, .. } => Some((*at, nonce)),
            _ => None,
        })
        .collect();
    assert!(sent.len() >= 5, "{}", sent.len());
    assert!(sent.iter().all(|(_, nonce)| *nonce == sent[0].1), "one nonce for one update");
    for (i, pair) in sent.windows(2).enumerate() {
        let gap = pair[1].0.saturating_since(pair[0].0);
        let nominal = Duration::from_secs(4 << i.min(5)).min(Duration::from_mins(2));
        assert!(gap >= nominal / 2 && gap <= nominal * 3 / 2, "{gap:?} of {nominal:?}");
    }
}

// RFC 5533 10.3
#[test]
fn newer_information_takes_the_place_of_an_update_on_its_way() {
    let mut lab = established([3, 2]);
    lab.log = Some(Vec::new());
    let now = lab.now;
    lab.shim(0).address_changed(now, ip(1, 2), Change::Removed);
    lab.shim(0).address_changed(now, ip(1, 3), Change::Removed);
    lab.pump(0);
    lab.run(100 * MS);
    let nonces: Vec<u32> = lab
        .log
        .iter()
        .flatten()
        .filter_map(|(_, p)| match p.message()?.body {
            Body::Update { nonce, .. } => Some(nonce),
            _ => None,
        })
        .collect();
    assert_eq!(nonces.len(), 2);
    assert_ne!(nonces[0], nonces[1]);
    assert_eq!(lab.shim(0).stats().updates_acknowledged, 1, "that of the first is ignored");
    let now = lab.now;
    let report = &lab.shim(1).report_contexts(now, 1)[0];
    assert_eq!(report.peer.iter().map(|l| l.broken).collect::<Vec<_>>(), [false, true, true]);
}

// RFC 5533 9
#[test]
fn a_context_ends_when_nothing_used_it_for_five_minutes() {
    let mut lab = established([2, 2]);
    for _ in 0..20 {
        lab.run(Duration::from_mins(1));
        lab.send(0, ulids(), 1);
        lab.send(1, ulids().reversed(), 1);
    }
    assert_eq!((lab.shim(0).len(), lab.shim(1).len()), (1, 1), "used once a minute");
    lab.run(Duration::from_secs(299));
    assert_eq!((lab.shim(0).len(), lab.shim(1).len()), (1, 1));
    // Who has a socket between them says so within a second; here nobody has.
    lab.run(Duration::from_secs(3));
    assert!(lab.shim(0).is_empty() && lab.shim(1).is_empty());
    assert!(!lab.shim(0).owns(ip(1, 1)));
    lab.run(Duration::from_mins(10));
    assert_eq!(lab.shim(0).poll_timeout(), None, "no timer is left");
}

// RFC 5533 7.8
#[test]
fn a_peer_that_does_not_answer_is_asked_five_times_and_then_left_alone_for_a_minute() {
    let mut lab = lab([2, 2]);
    lab.dead.insert((ip(1, 1), ip(2, 1)));
    let now = lab.now;
    lab.shim(0).start(now, ulids(), 0).unwrap();
    lab.pump(0);
    while !lab.shim(0).is_empty() {
        lab.run(100 * MS);
        assert!(lab.now < now + Duration::from_secs(200));
    }
    let at: Vec<_> = lab.log.iter().flatten().map(|(at, _)| *at).collect();
    assert_eq!(at.len(), 5);
    for (i, pair) in at.windows(2).enumerate() {
        let (gap, nominal) = (pair[1].saturating_since(pair[0]), Duration::from_secs(4 << i));
        assert!(gap >= nominal / 2 && gap <= nominal * 3 / 2, "{gap:?} of {nominal:?}");
    }
    assert_eq!(states(&mut lab).0, State::EFailed);
    let now = lab.now;
    assert!(lab.shim(0).start(now, ulids(), 0).is_err());
    lab.run(Duration::from_secs(61));
    let now = lab.now;
    assert!(lab.shim(0).start(now, ulids(), 0).is_ok());
}

// RFC 5533 4
#[test]
fn traffic_sets_a_context_up_when_it_is_worth_it() {
    let mut lab = lab([2, 2]);
    for n in 0..49 {
        lab.send(0, ulids(), n);
        lab.run(MS);
    }
    assert!(lab.shim(0).is_empty());
    lab.send(0, ulids(), 49);
    lab.run(100 * MS);
    assert_eq!((lab.shim(0).len(), lab.shim(1).len()), (1, 1));
    // The other end may have found its traffic worth a context as well: there is one of them.
    assert_eq!(states(&mut lab), (State::Established, State::Established));
}

#[test]
fn rules_of_ports_decide_who_pays_for_a_context() {
    use weft_shim::config::PortRule;
    let rule = |ports, set_up| PortRule { protocol: 17, ports, set_up };
    for (set_up, contexts) in [(SetUp::Never, 0), (SetUp::Immediate, 1), (SetUp::Deferred, 0)] {
        let config = SetUpConfig { ports: vec![rule(9..=9, set_up)], ..SetUpConfig::default() };
        let config = ShimConfig { set_up: config, ..ShimConfig::default() };
        let mut lab = Lab::two(1, &config, ReapConfig::default(), [2, 2]);
        lab.send(0, ulids(), 1);
        lab.run(100 * MS);
        assert_eq!(lab.shim(0).len(), contexts, "{set_up:?}");
        for n in 0..100 {
            lab.send(0, ulids(), n);
        }
        assert_eq!(lab.shim(0).len(), usize::from(set_up != SetUp::Never), "{set_up:?}");
    }
}

// RFC 5533 7.6 MUST
// RFC 5533 7.14 MUST
// RFC 5533 7.15 MUST
// RFC 5533 7.16 MUST
#[test]
fn a_context_whose_tag_the_peer_gave_to_another_is_made_anew() {
    use weft_shim::wire::Message;
    // A hand-written peer, so that it can use one tag twice.
    let mut lab = lab([1, 2]);
    let now = lab.now;
    let tag = weft_shim::wire::Tag::new(0x55);
    let establish = |lab: &mut Lab, ulids: Pair| {
        lab.shim(0).start(now, ulids, 0).unwrap();
        let sent = taken(lab.shim(0));
        let Body::I1 { initiator_nonce, .. } = sent.last().unwrap().1.body else { panic!() };
        let body = Body::R2 { responder_tag: tag, initiator_nonce };
        let options = weft_shim::wire::Options {
            locators: Some(list_of(2, 2)),
            pds: Some(vec![0, 2]),
            ..Default::default()
        };
        let bytes = Message { body, options }.write().unwrap();
        lab.shim(0).receive(now, ulids, &bytes);
    };
    establish(&mut lab, ulids());
    let other = Pair::new(ip(1, 1), ip(2, 2));
    establish(&mut lab, other);
    assert_eq!(lab.shim(0).state(now, ulids(), 0), State::I1Sent, "the old one begins anew");
    assert_eq!(lab.shim(0).state(now, other, 0), State::Established);
    assert_eq!(lab.shim(0).stats().contexts_confused, 1);
    let sent = taken(lab.shim(0));
    assert!(sent.iter().any(|(p, m)| *p == ulids() && matches!(m.body, Body::I1 { .. })));
}
