//! Single rules of RFC 5533 that the other tests do not show.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashSet;
use std::net::IpAddr;

use support::*;
use weft_shim::config::{Bounds, ShimConfig};
use weft_shim::context::State;
use weft_shim::contexts::Contexts;
use weft_shim::layer::Layer;
use weft_shim::limit::Rate;
use weft_shim::locator::Pair;
use weft_shim::reap::ReapConfig;
use weft_shim::wire::{Body, Message, Options, Tag, payload_header};
use weft_stack::path::{IcmpErrorKind, Passing, PathAddrs, PathLayer, Quoted, Requoted};
use weft_stack::time::{Duration, Instant};

fn at(ms: u64) -> Instant {
    Instant::from_millis(1000 + ms)
}

/// The messages of set-up in a lab's log, with the locators they went by.
fn handshakes(lab: &Lab) -> Vec<(Pair, Message)> {
    let all = lab.log.iter().flatten();
    all.filter_map(|(_, p)| Some((Pair::new(p.src, p.dst), p.message()?)))
        .filter(|(_, m)| is_handshake(&m.body))
        .collect()
}

fn established(config: &ShimConfig, fii: u32) -> Lab {
    let mut lab = Lab::two(5, config, ReapConfig::rfc(), [2, 2]);
    lab.log = Some(Vec::new());
    let now = lab.now;
    lab.shim(0).start(now, ulids(), fii).unwrap();
    lab.pump(0);
    lab.run(Duration::from_millis(100));
    lab
}

// RFC 5533 7.1 MUST
// RFC 5533 7.1 SHOULD
#[test]
fn tags_are_random_and_each_is_given_once() {
    let bounds = Bounds {
        contexts_per_prefix_max: 10_000,
        initiating_max: 10_000,
        i1: Rate::new(10_000, 10_000),
        ..Bounds::default()
    };
    let mut shim = shim(1, 1, ShimConfig { bounds, ..ShimConfig::default() }, ReapConfig::rfc());
    let mut tags = HashSet::new();
    let (mut ones, mut last) = ([0u32; 47], None);
    for n in 0..2000u16 {
        let peer = IpAddr::from([0x2001, 0xdb8, 7, 0, 0, 0, 0, n]);
        shim.start(at(0), Pair::new(ip(1, 1), peer), 0).unwrap();
        let (_, i1) = taken(&mut shim).pop().unwrap();
        let Body::I1 { initiator_tag, .. } = i1.body else { panic!("{i1:?}") };
        assert!(tags.insert(initiator_tag));
        for (bit, count) in ones.iter_mut().enumerate() {
            *count += (initiator_tag.bits() >> bit & 1) as u32;
        }
        assert!(last.is_none_or(|l: Tag| l.bits().abs_diff(initiator_tag.bits()) > 1000));
        last = Some(initiator_tag);
    }
    // Every bit is random: five standard deviations of 2,000 throws.
    assert!(ones.iter().all(|n| n.abs_diff(1000) < 112), "{ones:?}");
}

// RFC 5533 5.6 MUST
// RFC 5533 5.7 MUST
// RFC 5533 5.9 MUST
// RFC 5533 7.6 MUST
#[test]
fn locators_come_with_their_proof_and_validators_come_back() {
    let lab = established(&ShimConfig::default(), 0);
    let sent = handshakes(&lab);
    let [(_, i1), (_, r1), (_, i2), (_, r2)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(i1.options, Options::default(), "the addresses are the ULIDs");
    assert!(r1.options.validator.is_some());
    assert_eq!(i2.options.validator, r1.options.validator);
    for (message, host) in [(i2, 1u16), (r2, 2)] {
        let list = message.options.locators.as_ref().unwrap();
        assert_eq!(list.locators.len(), 2);
        assert_eq!(message.options.pds.as_deref(), Some(&host.to_be_bytes()[..]));
    }
}

// RFC 5533 5.4 MUST
// RFC 5533 5.6 MUST
// RFC 5533 7.7 MUST
// RFC 5533 7.11 MUST
#[test]
fn a_forked_instance_is_named_in_i1_and_i2() {
    let lab = established(&ShimConfig::default(), 77);
    let named: Vec<_> = handshakes(&lab).iter().map(|(_, m)| m.options.fii).collect();
    assert_eq!(named, [Some(77), None, Some(77), None]);
}

#[test]
fn flows_of_a_forked_instance_are_told_of_its_switches_and_no_others() {
    use weft_stack::path::{PathEvent, PathFlow, PathLayer};
    let mut lab = established(&ShimConfig::default(), 9);
    let now = lab.now;
    let flow = |port| weft_shim::contexts::Flow { ulids: ulids(), protocol: 6, ports: (port, 9) };
    for port in [7, 8] {
        lab.shim(0).fork(now, flow(port), 9).unwrap();
    }
    lab.shim(0).switch(now, ulids(), 9, Pair::new(ip(1, 2), ip(2, 2))).unwrap();
    let mut told = Vec::new();
    while let Some(event) = lab.shim(0).poll_event() {
        let PathEvent::Switched { flow, src, dst, lost, .. } = event else { panic!("{event:?}") };
        assert_eq!((src, dst, lost), (ulids().local, ulids().remote, false));
        told.push(flow.unwrap().ports.0);
    }
    told.sort_unstable();
    assert_eq!(told, [7, 8]);
    let apart = |lab: &Lab, port| {
        let flow = PathFlow { protocol: 6, ports: (port, 9) };
        lab.hosts[0].layer.is_apart(ulids().local, ulids().remote, flow)
    };
    assert!(apart(&lab, 7) && !apart(&lab, 6));
    let overhead = |lab: &Lab| lab.hosts[0].layer.overhead_bytes(ulids().local, ulids().remote);
    assert_eq!(
        overhead(&lab),
        8,
        "no packet between the ULIDs may be longer than the longest way takes"
    );
    lab.shim(0).unfork(&flow(7));
    assert!(!apart(&lab, 7) && apart(&lab, 8));
    assert_eq!(overhead(&lab), 8);
    lab.shim(0).unfork(&flow(8));
    assert_eq!(overhead(&lab), 0);
}

/// Host 2 lost the context, host 1 sends over its second addresses.
fn lost_there(fii: u32) -> Lab {
    let mut lab = established(&ShimConfig::default(), fii);
    let now = lab.now;
    lab.shim(0).switch(now, ulids(), fii, Pair::new(ip(1, 2), ip(2, 2))).unwrap();
    lab.pump(0);
    lab.run(Duration::from_millis(50));
    let now = lab.now;
    assert!(lab.shim(1).end(now, ulids().reversed(), fii));
    lab.log = Some(Vec::new());
    lab
}

// RFC 5533 5.9 MUST
// RFC 5533 5.15.6 MUST
// RFC 5533 7.18 MUST
// RFC 5533 7.20 SHOULD
#[test]
fn i2bis_over_other_locators_names_ulids_and_instance_and_gets_another_tag() {
    let mut lab = lost_there(9);
    let now = lab.now;
    let lost = lab.shim(0).report_contexts(now, 1)[0].peer_tag.clone().unwrap();
    // The instance is tested, so that the peer sees its tag.
    let flow = weft_shim::contexts::Flow { ulids: ulids(), protocol: 17, ports: (7, 9) };
    lab.shim(0).fork(now, flow, 9).unwrap();
    lab.send(0, ulids(), 1);
    lab.run(Duration::from_millis(100));
    let sent = handshakes(&lab);
    let [(_, r1bis), (over, i2bis), (_, r2)] = &sent[..] else { panic!("{sent:?}") };
    assert_ne!(*over, ulids());
    assert_eq!(i2bis.options.ulids, Some(ulids()));
    assert_eq!(i2bis.options.fii, Some(9));
    assert_eq!(i2bis.options.validator, r1bis.options.validator);
    assert!(i2bis.options.locators.is_some() && i2bis.options.pds.is_some());
    let Body::I2bis { packet_tag, .. } = i2bis.body else { panic!("{i2bis:?}") };
    assert_eq!(packet_tag.to_string(), lost);
    let Body::R2 { responder_tag, .. } = r2.body else { panic!("{r2:?}") };
    assert_ne!(responder_tag, packet_tag, "a new tag, not the one in the packet");
}

/// When messages of `kind` left.
fn times(lab: &Lab, kind: u8) -> Vec<Instant> {
    let all = lab.log.iter().flatten();
    all.filter(|(_, p)| p.message().is_some_and(|m| m.body.kind() == kind))
        .map(|(t, _)| *t)
        .collect()
}

fn assert_backed_off(times: &[Instant]) {
    for (i, pair) in times.windows(2).enumerate() {
        let (gap, nominal) = (pair[1].saturating_since(pair[0]), Duration::from_secs(4 << i));
        assert!(gap >= nominal / 2 && gap <= nominal * 3 / 2, "{gap:?} of {nominal:?}");
    }
}

// RFC 5533 7.12 MAY
// RFC 5533 7.12 SHOULD
// RFC 5533 14
#[test]
fn i2_is_repeated_twice_and_then_i1_five_times_in_all() {
    let mut lab = Lab::two(5, &ShimConfig::default(), ReapConfig::rfc(), [2, 2]);
    lab.log = Some(Vec::new());
    let now = lab.now;
    lab.shim(0).start(now, ulids(), 0).unwrap();
    lab.pump(0);
    // R1 passes, nothing after it does.
    lab.run(Duration::from_millis(8));
    lab.kill(ip(1, 1), ip(2, 1));
    lab.run(Duration::from_mins(4));
    let (i1, i2) = (times(&lab, 1), times(&lab, 3));
    assert_eq!((i1.len(), i2.len()), (5, 3));
    assert_backed_off(&i2);
    assert!(i2[2] < i1[1], "first I2, then I1 again");
    let now = lab.now;
    assert!(lab.shim(0).is_empty());
    assert_ne!(lab.shim(0).state(now, ulids(), 0), State::I1Sent);
}

// RFC 5533 7.19 MAY
// RFC 5533 7.19 SHOULD
// RFC 5533 7.7 MUST
// RFC 5533 5.4 MUST
#[test]
fn i2bis_is_repeated_twice_and_then_i1_which_names_the_ulids() {
    let mut lab = lost_there(0);
    lab.send(0, ulids(), 1);
    lab.run(Duration::from_millis(8));
    // R1bis is on its way; nothing of host 1 arrives any more.
    for a in [1, 2] {
        for b in [1, 2] {
            lab.kill(ip(1, a), ip(2, b));
        }
    }
    lab.run(Duration::from_mins(4));
    let (i2bis, i1) = (times(&lab, 6), times(&lab, 1));
    assert_eq!(i2bis.len(), 3);
    assert_backed_off(&i2bis);
    assert!(!i1.is_empty() && i1[0] > i2bis[2]);
    let sent = handshakes(&lab);
    let (over, first) = sent.iter().find(|(_, m)| m.body.kind() == 1).unwrap();
    assert_ne!(*over, ulids());
    assert_eq!(first.options.ulids, Some(ulids()));
}

// RFC 5533 5.6 MUST
// RFC 5533 7.11 MUST
#[test]
fn i2_over_other_locators_names_the_ulids() {
    let mut lab = lost_there(0);
    lab.send(0, ulids(), 1);
    lab.run(Duration::from_millis(8));
    for a in [1, 2] {
        for b in [1, 2] {
            lab.kill(ip(1, a), ip(2, b));
        }
    }
    while times(&lab, 1).is_empty() {
        lab.run(Duration::from_millis(100));
        assert!(lab.now < at(200_000));
    }
    // The recovery failed; the full exchange goes by the same locators.
    lab.dead.clear();
    lab.run(Duration::from_secs(20));
    let sent = handshakes(&lab);
    let (over, i2) = sent.iter().find(|(_, m)| m.body.kind() == 3).unwrap();
    assert_ne!(*over, ulids());
    assert_eq!(i2.options.ulids, Some(ulids()));
    let now = lab.now;
    assert_eq!(lab.shim(0).state(now, ulids(), 0), State::Established);
}

// RFC 5533 12.3
#[test]
fn control_messages_between_addresses_that_are_not_unicast_are_dropped() {
    let body = Body::I1 { initiator_tag: Tag::new(1), initiator_nonce: 1 };
    let bytes = Message::new(body).write().unwrap();
    for (local, remote) in [("ff02::1", "2001:db8:1::2"), ("2001:db8:1::1", "::")] {
        let mut shim = shim(1, 1, ShimConfig::default(), ReapConfig::rfc());
        let pair = Pair::new(local.parse().unwrap(), remote.parse().unwrap());
        shim.receive(at(0), pair, &bytes);
        assert!(taken(&mut shim).is_empty());
        assert_eq!(shim.stats().control_malformed, 1);
    }
}

/// A layer with an established context whose packets go by the second addresses, and the tag it
/// sends with.
fn switched(config: &ShimConfig) -> (Layer, Instant, Tag) {
    let mut lab = established(config, 0);
    let now = lab.now;
    lab.shim(0).switch(now, ulids(), 0, Pair::new(ip(1, 2), ip(2, 2))).unwrap();
    lab.pump(0);
    lab.run(Duration::from_millis(50));
    let now = lab.now;
    let tag = lab.shim(0).report_contexts(now, 1)[0].peer_tag.clone().unwrap();
    let tag = Tag::new(u64::from_str_radix(&tag, 16).unwrap());
    (core::mem::take(&mut lab.hosts[0].layer), now, tag)
}

// RFC 5533 8 MUST
// RFC 5533 8 SHOULD
#[test]
fn icmp_errors_reach_the_transport_with_ulids_unless_the_shim_can_act() {
    let all = [
        (IcmpErrorKind::TooBig { mtu: 1400 }, true),
        (IcmpErrorKind::PortUnreachable, true),
        (IcmpErrorKind::ParameterProblem, true),
        (IcmpErrorKind::NetUnreachable, false),
        (IcmpErrorKind::HostUnreachable, false),
        (IcmpErrorKind::AdminProhibited, false),
        (IcmpErrorKind::TimeExceeded, false),
    ];
    for (deliver_icmp, kind, told) in
        all.into_iter().flat_map(|(k, told)| [(false, k, told), (true, k, true)])
    {
        let (mut layer, now, tag) = switched(&ShimConfig { deliver_icmp, ..ShimConfig::default() });
        let mut payload = payload_header(17, tag).to_vec();
        payload.extend_from_slice(&[0, 7, 0, 9, 0, 8, 0, 0]);
        let (src, dst) = (ip(1, 2), ip(2, 2));
        let quoted = Quoted { src, dst, protocol: 140, payload: &payload };
        let expected = Requoted::Rewritten {
            addrs: PathAddrs { src: ulids().local, dst: ulids().remote, protocol: 17 },
            skip: 8,
            overhead_bytes: 8,
        };
        let expected = if told { expected } else { Requoted::Consumed };
        assert_eq!(layer.icmp_error(now, kind, &quoted), expected, "{kind:?} {deliver_icmp}");
        // Of a packet that nobody sent.
        let mut stray = payload.clone();
        stray[7] ^= 1;
        let quoted = Quoted { payload: &stray, ..quoted };
        assert_eq!(layer.icmp_error(now, kind, &quoted), Requoted::Consumed);
        // Of one without header, between addresses that are no ULIDs of a context.
        let quoted = Quoted { src: ip(1, 1), dst: ip(9, 1), protocol: 17, payload: &payload[8..] };
        assert_eq!(layer.icmp_error(now, kind, &quoted), Requoted::Same);
    }
}

#[test]
fn a_host_without_alternatives_is_told_of_every_icmp_error() {
    let mut lab = Lab::two(5, &ShimConfig::default(), ReapConfig::rfc(), [1, 1]);
    let now = lab.now;
    lab.shim(0).start(now, ulids(), 0).unwrap();
    lab.pump(0);
    lab.run(Duration::from_millis(100));
    let (src, dst) = (ulids().local, ulids().remote);
    let quoted = Quoted { src, dst, protocol: 17, payload: &[0; 8] };
    let now = lab.now;
    let layer = &mut lab.hosts[0].layer;
    assert_eq!(layer.icmp_error(now, IcmpErrorKind::NetUnreachable, &quoted), Requoted::Same);
}

#[test]
fn overhead_locators_and_ownership_are_those_of_the_context() {
    let (mut layer, now, _) = switched(&ShimConfig::default());
    let (src, dst) = (ulids().local, ulids().remote);
    assert_eq!(layer.overhead_bytes(src, dst), 8);
    assert_eq!(layer.locators(src, dst), (ip(1, 2), ip(2, 2)));
    assert!(!layer.passes(src, dst) && layer.passes(src, ip(9, 9)));
    assert!(layer.owns(src) && !layer.owns(ip(1, 2)));
    layer.shim_mut().unwrap().end(now, ulids(), 0);
    assert_eq!(layer.overhead_bytes(src, dst), 0);
    assert_eq!(layer.locators(src, dst), (src, dst));
    assert!(layer.passes(src, dst) && !layer.owns(src));
    let off = Layer::off();
    assert!(off.is_transparent() && !layer.is_transparent());
}

// RFC 5533 1.4
#[test]
fn groups_and_links_have_no_contexts() {
    let mut shim = shim(1, 1, ShimConfig::default(), ReapConfig::rfc());
    for remote in ["ff0e::1", "fe80::2", "::1", "192.0.2.1"] {
        let pair = Pair::new(ip(1, 1), remote.parse().unwrap());
        for _ in 0..100 {
            shim.send(at(0), pair, 17, &[0; 8], 1000);
        }
        assert!(shim.start(at(0), pair, 0).is_err(), "{remote}");
    }
    assert_eq!(shim.report().flows, 0);
}

#[test]
fn a_thousand_contexts_and_their_timers_end_together() {
    let bounds = Bounds {
        initiating_max: 2000,
        contexts_per_prefix_max: 2000,
        i1: Rate::new(2000, 2000),
        ..Bounds::default()
    };
    let config = ShimConfig { bounds, ..ShimConfig::default() };
    let mut shim: Contexts = shim(1, 1, config, ReapConfig::rfc());
    for n in 0..1000 {
        let peer = IpAddr::from([0x2001, 0xdb8, 8, 0, 0, 0, 0, n]);
        shim.start(at(0), Pair::new(ip(1, 1), peer), 0).unwrap();
    }
    while let Some(at) = shim.poll_timeout() {
        shim.handle_timeout(at);
        while shim.poll_transmit().is_some() {}
    }
    let report = shim.report();
    assert_eq!((report.contexts, report.initiating, report.held_down), (0, 0, 0));
    assert_eq!(report.stats.initiations_failed, 1000);
}

/// What is kept of the answer that packets between two hosts' ULIDs pass, if anything is.
fn kept(layer: &mut Layer) -> Passing {
    let mut known = Passing::default();
    assert!(layer.passing(ulids().local, ulids().remote, &mut known));
    known
}

/// Whether that answer is given again for what was kept of it.
fn passes_still(layer: &mut Layer, mut known: Passing) -> bool {
    let before = known;
    let passes = layer.passing(ulids().local, ulids().remote, &mut known);
    passes && known == before
}

#[test]
fn an_answer_that_is_kept_holds_until_packets_are_rewritten() {
    let mut lab = established(&ShimConfig::default(), 0);
    let known = kept(&mut lab.hosts[0].layer);
    assert_ne!(known, Passing::default());
    assert!(passes_still(&mut lab.hosts[0].layer, known));
    let (now, away) = (lab.now, Pair::new(ip(1, 2), ip(2, 2)));
    lab.shim(0).switch(now, ulids(), 0, away).unwrap();
    let (src, dst) = (ulids().local, ulids().remote);
    let layer = &mut lab.hosts[0].layer;
    let mut now_known = known;
    assert!(!layer.passing(src, dst, &mut now_known));
    let rewriting = layer.rewriting(now_known, 6).unwrap();
    assert_eq!(rewriting.way, layer.way(src, dst));
    assert_eq!(rewriting.way.locators, (away.local, away.remote));
    assert_eq!(layer.rewriting(known, 6), None, "of another time");
    assert_eq!((layer.rewriting_holds(now_known), layer.rewriting_holds(known)), (true, false));
    // By another pair they are rewritten otherwise.
    let (now, other) = (lab.now, Pair::new(ip(1, 2), ip(2, 1)));
    lab.shim(0).switch(now, ulids(), 0, other).unwrap();
    let layer = &mut lab.hosts[0].layer;
    assert!(!layer.rewriting_holds(now_known));
    assert_eq!(layer.rewriting(now_known, 6), None);
    assert!(!layer.passing(src, dst, &mut now_known));
    let rewriting = layer.rewriting(now_known, 6).unwrap();
    assert_eq!(rewriting.way.locators, (other.local, other.remote));
    assert!(layer.rewriting_holds(now_known));
    let now = lab.now;
    lab.shim(0).switch(now, ulids(), 0, ulids()).unwrap();
    let layer = &mut lab.hosts[0].layer;
    assert!(!passes_still(layer, known), "of another time");
    assert_eq!(layer.rewriting(now_known, 6), None, "they pass again");
    assert!(layer.passing(src, dst, &mut now_known));
}

#[test]
fn an_answer_that_is_kept_ends_with_its_context() {
    let mut lab = established(&ShimConfig::default(), 0);
    let known = kept(&mut lab.hosts[0].layer);
    let now = lab.now;
    assert!(lab.shim(0).end(now, ulids(), 0));
    let layer = &mut lab.hosts[0].layer;
    assert_eq!(kept(layer), Passing::default(), "nothing is kept where there is no context");
    // The place of the context is that of another.
    let other = Pair::new(ip(1, 2), ip(2, 2));
    lab.shim(0).start(now, other, 0).unwrap();
    assert!(!passes_still(&mut lab.hosts[0].layer, known));
    let (src, dst) = (ulids().local, ulids().remote);
    lab.hosts[0].layer.passed_out(now, src, dst, known, 100);
    let reports = lab.shim(0).report_contexts(now, 9);
    assert!(reports.iter().all(|c| c.packets_out == 0), "told to no other");
}

#[test]
fn packets_of_an_answer_that_is_kept_are_counted_as_others() {
    let mut lab = established(&ShimConfig::default(), 0);
    let now = lab.now;
    let (src, dst) = (ulids().local, ulids().remote);
    let known = kept(&mut lab.hosts[0].layer);
    let counts = |lab: &mut Lab| {
        let reports = lab.shim(0).report_contexts(now, 9);
        (reports[0].packets_out, reports[0].packets_in)
    };
    let before = counts(&mut lab);
    for known in [known, Passing::default()] {
        lab.hosts[0].layer.passed_out(now, src, dst, known, 100);
        lab.hosts[0].layer.passed_in(now, dst, src, known, 100);
    }
    assert_eq!(counts(&mut lab), (before.0 + 2, before.1 + 2));
}
