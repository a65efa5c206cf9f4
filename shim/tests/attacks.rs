//! What others try: RFC 5533 16, the threats of RFC 4218, floods. The attacker is off the path
//! unless the test says that it reads along.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::IpAddr;

use support::*;
use weft_shim::config::{Bounds, ShimConfig};
use weft_shim::context::State;
use weft_shim::contexts::{Contexts, Payload};
use weft_shim::limit::Rate;
use weft_shim::locator::{Locator, LocatorList, Pair, Preference, Verification};
use weft_shim::reap::ReapConfig;
use weft_shim::wire::message::code;
use weft_shim::wire::probe::{Probe, ReapState, Report};
use weft_shim::wire::{Body, Message, Options, Preferences, Tag};
use weft_stack::path::IcmpErrorKind;
use weft_stack::time::{Duration, Instant};

const VICTIM: Pair = Pair::new(
    IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1)),
    IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2)),
);

fn at(ms: u64) -> Instant {
    Instant::from_millis(1000 + ms)
}

fn quiet() -> Contexts {
    shim(1, 2, ShimConfig::default(), ReapConfig::rfc())
}

fn message(body: Body, options: Options) -> Vec<u8> {
    Message { body, options }.write().unwrap()
}

/// Hosts 1 and 2 with an established context, over their ULIDs.
fn established() -> Lab {
    let mut lab = Lab::two(3, &ShimConfig::default(), ReapConfig::rfc(), [2, 2]);
    lab.log = Some(Vec::new());
    let now = lab.now;
    lab.shim(0).start(now, ulids(), 0).unwrap();
    lab.pump(0);
    lab.run(Duration::from_millis(100));
    lab
}

/// A probe of somebody who explores, as if it came by `pair`.
fn forged_probe(receiver_tag: Tag, pair: Pair) -> Body {
    let sent = Report { src: pair.remote, dst: pair.local, nonce: 1, data: 0 };
    let (state, sent) = (ReapState::Exploring, [sent].into_iter().collect());
    let probe = Probe { state, sent, received: weft_shim::wire::probe::Reports::new() };
    let mut report = Vec::new();
    probe.emit(&mut report);
    Body::Probe { receiver_tag, report }
}

fn tags(lab: &mut Lab) -> (Tag, Tag) {
    let now = lab.now;
    let report = lab.shim(0).report_contexts(now, 1).remove(0);
    let tag = |text: &str| Tag::new(u64::from_str_radix(text, 16).unwrap());
    (tag(&report.local_tag), tag(&report.peer_tag.unwrap()))
}

/// What an attack could have changed.
fn picture(shim: &Contexts) -> String {
    let report = shim.report_contexts(at(0), 9);
    format!(
        "{:?}",
        report
            .iter()
            .map(|r| (r.state, &r.peer_tag, &r.peer, r.locator_remote))
            .collect::<Vec<_>>()
    )
}

// RFC 5533 4.4
// RFC 5533 16
#[test]
fn ten_thousand_i1_a_second_leave_nothing_behind_and_are_answered_at_a_bounded_rate() {
    let mut shim = quiet();
    let mut answers = 0;
    for n in 0..100_000u32 {
        let now = at(u64::from(n / 10));
        let host = IpAddr::from([0x2001, 0xdb8, 9, (n >> 16) as u16, 0, 0, 0, n as u16]);
        let body = Body::I1 { initiator_tag: Tag::new(n.into()), initiator_nonce: n };
        shim.receive(now, Pair::new(ip(1, 1), host), &message(body, Options::default()));
        answers += taken(&mut shim).len();
    }
    assert!(shim.is_empty());
    let report = shim.report();
    assert_eq!((report.contexts, report.flows, report.held_down), (0, 0, 0));
    assert_eq!(shim.poll_timeout(), None, "no timer");
    // Ten seconds at the default of 2,000 a second and a burst.
    assert!((20_000..=20_600).contains(&answers), "{answers}");
    assert_eq!(report.stats.limited_r1, 100_000 - answers as u64);
}

// RFC 5533 16
#[test]
fn a_flood_of_i1_does_not_keep_a_peer_out_for_long() {
    let mut lab = Lab::two(3, &ShimConfig::default(), ReapConfig::rfc(), [2, 2]);
    let now = lab.now;
    lab.shim(0).start(now, ulids(), 0).unwrap();
    lab.pump(0);
    for n in 0..200_000u32 {
        if n % 10 == 0 {
            lab.run(Duration::from_millis(1));
        }
        let host = IpAddr::from([0x2001, 0xdb8, 9, 0, 0, 0, (n >> 16) as u16, n as u16]);
        let body = Body::I1 { initiator_tag: Tag::new(n.into()), initiator_nonce: n };
        let now = lab.now;
        lab.shim(1).receive(now, Pair::new(ip(2, 1), host), &message(body, Options::default()));
        taken_others(&mut lab, 1);
    }
    let now = lab.now;
    assert_eq!(lab.shim(0).state(now, ulids(), 0), State::Established);
}

/// Sends on what is for the other host of the lab, and drops the rest.
fn taken_others(lab: &mut Lab, host: usize) {
    while let Some(out) = lab.shim(host).poll_transmit() {
        if out.pair.remote == ip(1, 1) {
            let (src, dst) = (out.pair.local, out.pair.remote);
            lab.put(Packet { src, dst, protocol: 140, data: out.bytes });
        }
    }
}

// RFC 5533 7.13 MUST
// RFC 5533 16
#[test]
fn an_i2_without_our_validator_makes_nothing() {
    let mut shim = quiet();
    for n in 0..10_000u32 {
        let body = Body::I2 { initiator_tag: Tag::new(1), initiator_nonce: n, responder_nonce: n };
        let validator = Some([n as u8; 16][..].into());
        shim.receive(at(1), VICTIM, &message(body, Options { validator, ..Options::default() }));
    }
    assert!(shim.is_empty() && taken(&mut shim).is_empty());
    assert_eq!(shim.stats().validator_wrong, 10_000);
}

// RFC 5533 7.13 MUST
// RFC 5533 16
#[test]
fn ten_thousand_i2_and_i2bis_a_second_leave_nothing_behind_and_are_not_answered() {
    let mut shim = quiet();
    for n in 0..50_000u32 {
        let now = at(u64::from(n / 10));
        let host = IpAddr::from([0x2001, 0xdb8, 9, (n >> 16) as u16, 0, 0, 0, n as u16]);
        let (initiator_tag, initiator_nonce) = (Tag::new(n.into()), n);
        // The responder nonce counts seconds: all that may be fresh are tried.
        let responder_nonce = n % 40;
        let body = if n % 2 == 0 {
            Body::I2 { initiator_tag, initiator_nonce, responder_nonce }
        } else {
            let packet_tag = Tag::new((n * 7).into());
            Body::I2bis { initiator_tag, initiator_nonce, responder_nonce, packet_tag }
        };
        let validator = Some([n as u8; 16][..].into());
        let options = Options { validator, ..Options::default() };
        shim.receive(now, Pair::new(ip(1, 1), host), &message(body, options));
        assert!(taken(&mut shim).is_empty());
    }
    let report = shim.report();
    assert_eq!((report.contexts, report.flows, report.held_down), (0, 0, 0));
    assert_eq!(report.stats.validator_wrong, 50_000);
    assert_eq!(shim.poll_timeout(), None, "no timer");
}

/// The R1 that `source` gets for an I1 about `ulids`.
fn r1_for(
    shim: &mut Contexts,
    now: Instant,
    source: Pair,
    ulids: Pair,
    tag: Tag,
) -> (u32, Options) {
    let names = (source != ulids).then_some(ulids.reversed());
    let options = Options { ulids: names, ..Options::default() };
    let body = Body::I1 { initiator_tag: tag, initiator_nonce: 1 };
    shim.receive(now, source, &message(body, options));
    let (_, r1) = taken(shim).pop().expect("an answer");
    let Body::R1 { responder_nonce, .. } = r1.body else { panic!("{r1:?}") };
    (
        responder_nonce,
        Options { validator: r1.options.validator, ulids: names, ..Options::default() },
    )
}

// RFC 5533 7.2 MUST
// RFC 5533 16
#[test]
fn nobody_makes_a_context_for_another_hosts_ulid() {
    // The attacker (host 3) receives at its own address and goes through the exchange there.
    let attacker = Pair::new(ip(1, 1), ip(3, 1));
    let stolen = list(&[ip(2, 1), ip(3, 1)]);
    let cases = [
        // It says nothing of locators.
        Options::default(),
        // It lists itself with the victim's parameters, with its own, with none.
        Options { locators: Some(stolen.clone()), pds: Some(vec![0, 2]), ..Options::default() },
        Options { locators: Some(stolen.clone()), pds: Some(vec![0, 3]), ..Options::default() },
        Options { locators: Some(stolen), ..Options::default() },
        // It lists only what is the victim's.
        Options { locators: Some(list_of(2, 2)), pds: Some(vec![0, 2]), ..Options::default() },
    ];
    for case in cases {
        let mut shim = quiet();
        let (tag, now) = (Tag::new(66), at(0));
        let (responder_nonce, got) = r1_for(&mut shim, now, attacker, VICTIM, tag);
        let body = Body::I2 { initiator_tag: tag, initiator_nonce: 1, responder_nonce };
        let options = Options { validator: got.validator, ulids: got.ulids, ..case };
        shim.receive(now, attacker, &message(body, options.clone()));
        assert!(shim.is_empty(), "{options:?}");
        assert!(!taken(&mut shim).iter().any(|(_, m)| matches!(m.body, Body::R2 { .. })));
    }
}

// RFC 5533 16
#[test]
fn a_ulid_is_vouched_for_once_its_host_received_something_there() {
    // A set may have any prefix: also one that rules let in, and that its host is not in.
    let (ulid, locator) = (ip(3, 9), ip(3, 1));
    let (pair, ulids) = (Pair::new(ip(1, 1), locator), Pair::new(ip(1, 1), ulid));
    let mut shim = shim(1, 1, ShimConfig::default(), ReapConfig::default());
    let (tag, now) = (Tag::new(66), at(0));
    let (responder_nonce, got) = r1_for(&mut shim, now, pair, ulids, tag);
    let body = Body::I2 { initiator_tag: tag, initiator_nonce: 1, responder_nonce };
    let (locators, pds) = (Some(list(&[ulid, locator])), Some(vec![0, 3]));
    shim.receive(now, pair, &message(body, Options { locators, pds, ..got }));
    let sent = taken(&mut shim);
    let tag = sent.iter().find_map(|(_, m)| match m.body {
        Body::R2 { responder_tag, .. } => Some(responder_tag),
        _ => None,
    });
    let receiver_tag = tag.unwrap();
    assert_eq!(shim.received_tagged(now, pair, receiver_tag), Payload::Unshown(ulids));
    shim.probe(now, ulids, 0);
    // What it heard at its own address shows nothing of the other.
    for (remote, shown) in [(locator, false), (ulid, true)] {
        let by = Pair::new(ip(1, 1), remote);
        let probe = probe_by(&mut shim, now, ulids, by);
        let sent = Report { src: remote, dst: by.local, nonce: 5, data: 0x5702_0001 };
        let answer = Probe {
            state: ReapState::Operational,
            sent: [sent].into_iter().collect(),
            received: [probe].into_iter().collect(),
        };
        let mut report = Vec::new();
        answer.emit(&mut report);
        shim.receive(now, by, &message(Body::Probe { receiver_tag, report }, Options::default()));
        let payload = shim.received_tagged(now, pair, receiver_tag);
        assert_eq!(payload == Payload::Of(ulids), shown, "{remote}: {payload:?}");
    }
}

/// What a probe by `pair` says of itself.
fn probe_by(shim: &mut Contexts, now: Instant, ulids: Pair, pair: Pair) -> Report {
    shim.probe(now, ulids, 0);
    let sent = taken(shim).into_iter().find(|(by, _)| *by == pair);
    let Some((_, Message { body: Body::Probe { report, .. }, .. })) = sent else { panic!() };
    Probe::parse(&report).unwrap().0.sent[0]
}

// RFC 5533 16
#[test]
fn a_flood_of_lists_is_not_verified_beyond_a_rate() {
    let mut lab = established();
    let (local_tag, _) = tags(&mut lab);
    let start = lab.now;
    let mut taken_over = 0;
    for n in 0..50_000u32 {
        let now = start + Duration::from_micros(u64::from(n) * 100);
        let body = Body::Update { receiver_tag: local_tag, nonce: n };
        let list = LocatorList { generation: 1000 + n, ..list_of(2, 2) };
        let options = Options { locators: Some(list), pds: Some(vec![0, 2]), ..Options::default() };
        lab.shim(0).receive(now, ulids(), &message(body, options));
        taken_over += taken(lab.shim(0)).len();
    }
    // Five seconds of 2,000 and a burst of 1,000.
    assert!((10_900..=11_100).contains(&taken_over), "{taken_over}");
    assert_eq!(lab.shim(0).stats().limited_lists, 50_000 - taken_over as u64);
}

fn list(addrs: &[IpAddr]) -> LocatorList {
    let locators = addrs.iter().map(|a| Locator::new(*a, Verification::Hba)).collect();
    LocatorList { generation: 9, locators }
}

// RFC 5533 7.2 MUST
// RFC 5533 16
#[test]
fn nobody_redirects_an_established_context_with_a_new_exchange() {
    let mut lab = established();
    let before = picture(lab.shim(0));
    let (attacker, tag, now) = (Pair::new(ip(1, 1), ip(3, 1)), Tag::new(66), lab.now);
    let shim = lab.shim(0);
    let (responder_nonce, got) = r1_for(shim, now, attacker, ulids(), tag);
    for locators in [None, Some(list(&[ip(2, 1), ip(3, 1)]))] {
        let body = Body::I2 { initiator_tag: tag, initiator_nonce: 1, responder_nonce };
        let options = Options { locators, pds: Some(vec![0, 2]), ..got.clone() };
        shim.receive(now, attacker, &message(body, options));
    }
    assert_eq!(picture(shim), before);
    assert_eq!(shim.stats().locator_unproved, 2);
}

// RFC 5533 5.15.1
// RFC 5533 16
#[test]
fn a_validator_is_of_no_use_at_another_address_or_later() {
    let (tag, other) = (Tag::new(5), Pair::new(ip(1, 1), ip(2, 2)));
    for (late, from) in [(0, other), (31_000, VICTIM)] {
        let mut shim = quiet();
        let (responder_nonce, got) = r1_for(&mut shim, at(0), VICTIM, VICTIM, tag);
        let body = Body::I2 { initiator_tag: tag, initiator_nonce: 1, responder_nonce };
        let ulids = (from != VICTIM).then_some(VICTIM.reversed());
        let options =
            Options { ulids, locators: Some(list_of(2, 2)), pds: Some(vec![0, 2]), ..got };
        shim.receive(at(late), from, &message(body, options));
        assert!(shim.is_empty());
        assert_eq!(shim.stats().validator_wrong, 1);
    }
}

// RFC 5533 16
#[test]
fn a_replayed_exchange_changes_nothing() {
    let mut lab = established();
    // Somebody recorded everything, and sends it again while it is fresh.
    let recorded: Vec<Packet> = lab.log.take().unwrap().into_iter().map(|(_, p)| p).collect();
    let now = lab.now;
    lab.hosts[0].addrs.remove(&ip(1, 2));
    lab.shim(0).address_changed(now, ip(1, 2), weft_shim::own::Change::Removed);
    lab.pump(0);
    lab.run(Duration::from_millis(100));
    let before = [0, 1].map(|h| picture(lab.shim(h)));
    assert!(before[1].contains("broken: true"), "the update was taken");
    for packet in recorded {
        let to = usize::from(packet.dst == ip(2, 1));
        lab.deliver(to, &packet);
        lab.pump(to);
        lab.run(Duration::from_millis(50));
    }
    assert_eq!([0, 1].map(|h| picture(lab.shim(h))), before, "an old list does not come back");
    assert_eq!(lab.shim(1).stats().replayed, 1);
}

/// Control messages of one kind on the wire since the log began, from host 2.
fn recorded(lab: &Lab, fits: impl Fn(&Body) -> bool) -> Vec<Packet> {
    let all = lab.log.iter().flatten().map(|(_, p)| p);
    let wanted = |p: &&Packet| p.message().is_some_and(|m| fits(&m.body));
    all.filter(|p| p.dst == ip(1, 1) || p.dst == ip(1, 2)).filter(wanted).cloned().collect()
}

// RFC 5533 10.4
// RFC 5533 16
#[test]
fn a_replayed_update_does_not_bring_withdrawn_locators_back() {
    use weft_shim::own::Change;
    let mut lab = established();
    // The second address of host 2 goes and comes and goes; somebody records the updates.
    lab.log = Some(Vec::new());
    for change in [Change::Removed, Change::Added, Change::Removed] {
        let now = lab.now;
        lab.shim(1).address_changed(now, ip(2, 2), change);
        lab.pump(1);
        lab.run(Duration::from_millis(100));
    }
    let updates = recorded(&lab, |b| matches!(b, Body::Update { .. }));
    assert_eq!(updates.len(), 3);
    let before = picture(lab.shim(0));
    assert!(before.contains("broken: true"), "the last one was taken");
    for packet in &updates[..2] {
        lab.deliver(0, packet);
        assert!(taken(lab.shim(0)).is_empty(), "no answer");
    }
    assert_eq!((picture(lab.shim(0)), lab.shim(0).stats().replayed), (before.clone(), 2));
    // The newest is repeated when its acknowledgement was lost: it is acknowledged again.
    lab.deliver(0, &updates[2]);
    let sent = taken(lab.shim(0));
    assert!(matches!(sent[..], [(_, Message { body: Body::UpdateAck { .. }, .. })]), "{sent:?}");
    // With another nonce it is still the generation of a list that was replaced.
    let Message { body, options } = updates[0].message().unwrap();
    let Body::Update { receiver_tag, .. } = body else { panic!("{body:?}") };
    let data = message(Body::Update { receiver_tag, nonce: 7 }, options);
    lab.deliver(0, &Packet { data, ..updates[0].clone() });
    assert!(taken(lab.shim(0)).is_empty(), "no answer");
    assert_eq!((picture(lab.shim(0)), lab.shim(0).stats().replayed), (before, 3));
}

// RFC 5534 7
#[test]
fn replayed_probes_do_not_move_packets() {
    let mut lab = Lab::two(3, &ShimConfig::default(), ReapConfig::default(), [2, 2]);
    let now = lab.now;
    lab.shim(0).start(now, ulids(), 0).unwrap();
    lab.pump(0);
    lab.run(Duration::from_millis(100));
    // A failure and its end: probes of every state and of both pairs, all recorded.
    lab.log = Some(Vec::new());
    let dark = [(ip(1, 1), ip(2, 1)), (ip(2, 1), ip(1, 1))];
    for round in 0..2 {
        lab.dead.clear();
        if round == 0 {
            lab.dead.extend(dark);
        }
        for n in 0..200 {
            lab.send(0, ulids(), n);
            lab.send(1, ulids().reversed(), n);
            lab.run(Duration::from_millis(5));
        }
    }
    let now = lab.now;
    lab.shim(0).switch(now, ulids(), 0, ulids()).unwrap();
    lab.shim(1).switch(now, ulids().reversed(), 0, ulids().reversed()).unwrap();
    lab.run(Duration::from_secs(1));
    let probes = recorded(&lab, |b| matches!(b, Body::Probe { .. }));
    assert!(probes.len() > 10, "{}", probes.len());
    let (before, switches) = (picture(lab.shim(0)), lab.hosts[0].switched.len());
    assert!(before.contains(&format!("{}", ip(2, 1))));
    // While traffic goes on, ten times each, as fast as one can.
    let sent = lab.control_sent;
    for n in 0..400 {
        for packet in &probes {
            if n % 40 == 0 {
                lab.deliver(0, packet);
                lab.pump(0);
            }
        }
        lab.send(0, ulids(), n);
        lab.send(1, ulids().reversed(), n);
        lab.run(Duration::from_millis(5));
    }
    assert_eq!((picture(lab.shim(0)), lab.hosts[0].switched.len()), (before, switches));
    // Two seconds of two hosts, 32 a second each and what their buckets had.
    let answers = lab.control_sent - sent;
    assert!(answers <= 2 * (48 + 2 * 32), "{answers} to {} probes", 10 * probes.len());
}

// RFC 5533 10.4 MUST
// RFC 5533 16
#[test]
fn control_messages_with_a_guessed_tag_change_nothing() {
    let mut lab = established();
    let before = picture(lab.shim(0));
    let now = lab.now;
    let preferences =
        Preferences { generation: 0, elements: [Preference::default(); 2][..].into() };
    for guess in 0..5000 {
        let receiver_tag = Tag::new(guess * 7919);
        let options = Options { preferences: Some(preferences.clone()), ..Options::default() };
        let shim = lab.shim(0);
        shim.receive(now, ulids(), &message(Body::Update { receiver_tag, nonce: 1 }, options));
        for body in [Body::Keepalive { receiver_tag }, forged_probe(receiver_tag, ulids())] {
            shim.receive(now, ulids(), &message(body, Options::default()));
        }
        taken(shim);
    }
    assert_eq!(picture(lab.shim(0)), before);
    assert_eq!(lab.shim(0).stats().control_unknown_tag, 15_000);
    // 200 at once, then limited.
    assert_eq!(lab.shim(0).stats().limited_r1bis, 14_800);
}

// RFC 5533 10.4 MUST
// RFC 5533 10.5 MUST
#[test]
fn the_right_tag_from_a_wrong_address_is_answered_with_r1bis_and_ignored() {
    let mut lab = established();
    let (tag, _) = tags(&mut lab);
    let before = picture(lab.shim(0));
    let now = lab.now;
    let stranger = Pair::new(ip(1, 1), ip(3, 1));
    let bodies = [
        Body::Update { receiver_tag: tag, nonce: 1 },
        Body::UpdateAck { receiver_tag: tag, nonce: 1 },
        Body::Keepalive { receiver_tag: tag },
        forged_probe(tag, stranger),
    ];
    for body in bodies {
        let options = match body {
            Body::Update { .. } => Options {
                locators: Some(list_of(3, 1)),
                pds: Some(vec![0, 3]),
                ..Options::default()
            },
            _ => Options::default(),
        };
        lab.shim(0).receive(now, stranger, &message(body, options));
        let sent = taken(lab.shim(0));
        assert_eq!(sent.len(), 1);
        assert!(matches!(sent[0].1.body, Body::R1bis { packet_tag, .. } if packet_tag == tag));
        assert_eq!(sent[0].0, stranger);
    }
    assert_eq!(picture(lab.shim(0)), before);
}

// RFC 5533 10.4 MUST
// RFC 5533 7.2 SHOULD
#[test]
fn an_update_with_locators_of_another_host_is_told_as_an_error_and_ignored() {
    // On the path: the attacker reads the tag and writes with the peer's address.
    let mut lab = established();
    let (tag, _) = tags(&mut lab);
    let before = picture(lab.shim(0));
    let now = lab.now;
    let locators = Some(list(&[ip(2, 1), ip(3, 1)]));
    let options = Options { locators, pds: Some(vec![0, 2]), ..Options::default() };
    let bytes = message(Body::Update { receiver_tag: tag, nonce: 1 }, options);
    lab.shim(0).receive(now, ulids(), &bytes);
    let sent = taken(lab.shim(0));
    let Body::Error { code: code::VERIFICATION, pointer, packet } = &sent[0].1.body else {
        panic!("{sent:?}")
    };
    // The second verification method, behind an IPv6 header.
    assert_eq!(usize::from(*pointer), 40 + 16 + 9 + 1);
    assert_eq!(packet[40..40 + bytes.len()], bytes[..]);
    // With the parameters of another host: in silence.
    let options =
        Options { locators: Some(list_of(3, 1)), pds: Some(vec![0, 3]), ..Options::default() };
    let bytes = message(Body::Update { receiver_tag: tag, nonce: 2 }, options);
    lab.shim(0).receive(now, ulids(), &bytes);
    assert!(taken(lab.shim(0)).is_empty());
    assert_eq!(picture(lab.shim(0)), before);
}

// RFC 5533 10.4
#[test]
fn preferences_of_another_list_or_of_another_length_are_told_as_errors() {
    let mut lab = established();
    let (tag, _) = tags(&mut lab);
    let before = picture(lab.shim(0));
    let now = lab.now;
    let (generation, elements) = (1, [Preference::default(); 2][..].into());
    let cases = [
        (Preferences { generation, elements }, None, code::GENERATION, 40 + 20),
        (
            Preferences { generation: 9, elements: [Preference::default(); 3][..].into() },
            Some(list(&[ip(2, 1), ip(2, 2)])),
            code::PREFERENCES,
            40 + 16 + 48 + 2,
        ),
    ];
    for (preferences, locators, code, place) in cases {
        let pds = Some(vec![0, 2]);
        let preferences = Some(preferences);
        let options = Options { locators, preferences, pds, ..Options::default() };
        let bytes = message(Body::Update { receiver_tag: tag, nonce: 1 }, options);
        lab.shim(0).receive(now, ulids(), &bytes);
        let sent = taken(lab.shim(0));
        let Body::Error { code: told, pointer, .. } = &sent[0].1.body else { panic!("{sent:?}") };
        assert_eq!((*told, usize::from(*pointer)), (code, place));
        assert!(!sent.iter().any(|(_, m)| matches!(m.body, Body::UpdateAck { .. })));
    }
    assert_eq!(picture(lab.shim(0)), before);
}

// RFC 5533 12.3 MUST
// RFC 5533 5.15 SHOULD
#[test]
fn unknown_types_and_critical_options_are_told_and_not_processed() {
    let mut shim = quiet();
    let mut bytes = message(Body::Keepalive { receiver_tag: Tag::new(1) }, Options::default());
    bytes[2] = 70;
    reseal(&mut bytes);
    shim.receive(at(0), VICTIM, &bytes);
    let body = Body::I1 { initiator_tag: Tag::new(1), initiator_nonce: 1 };
    let mut bytes = message(body, Options::default());
    bytes.extend_from_slice(&[0x02, 0x01, 0, 4, 1, 2, 3, 4]);
    reseal(&mut bytes);
    shim.receive(at(0), VICTIM, &bytes);
    let told: Vec<(u8, u16)> = taken(&mut shim)
        .into_iter()
        .map(|(_, m)| match m.body {
            Body::Error { code, pointer, .. } => (code, pointer),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [(code::UNKNOWN_TYPE, 42), (code::CRITICAL_OPTION, 56)]);
}

/// Length and checksum of a changed message.
fn reseal(bytes: &mut [u8]) {
    bytes[1] = (bytes.len() / 8 - 1) as u8;
    bytes[4..6].fill(0);
    let sum = weft_stack::wire::checksum::sum(bytes);
    bytes[4..6].copy_from_slice(&weft_stack::wire::checksum::finish(sum).to_be_bytes());
}

// RFC 5533 16
#[test]
fn probes_of_somebody_who_reads_the_tag_are_answered_within_the_budget() {
    let mut lab = established();
    let (tag, _) = tags(&mut lab);
    let before = picture(lab.shim(0));
    let mut answers = 0;
    for n in 0..20_000 {
        let now = lab.now + Duration::from_micros(100 * n);
        let body = forged_probe(tag, ulids());
        lab.shim(0).receive(now, ulids(), &message(body, Options::default()));
        let sent = taken(lab.shim(0));
        assert!(sent.iter().all(|(pair, _)| pair.local == ip(1, 1) || pair.local == ip(1, 2)));
        answers += sent.len();
    }
    // Two seconds: 16 at once and 8 a second.
    assert!(answers <= 16 + 2 * 8 + 1, "{answers}");
    assert_eq!(picture(lab.shim(0)), before, "exploring is not moving");
}

// RFC 5533 10.4 MUST
#[test]
fn a_flood_of_updates_that_prove_nothing_is_told_at_a_bounded_rate() {
    let mut lab = established();
    let (tag, _) = tags(&mut lab);
    let before = picture(lab.shim(0));
    let mut told = 0;
    for n in 0..20_000u32 {
        let now = lab.now + Duration::from_micros(100) * n;
        let locators = Some(list(&[ip(2, 1), ip(3, 1)]));
        let options = Options { locators, pds: Some(vec![0, 2]), ..Options::default() };
        let body = Body::Update { receiver_tag: tag, nonce: n };
        lab.shim(0).receive(now, ulids(), &message(body, options));
        told += taken(lab.shim(0)).len();
    }
    let stats = lab.shim(0).stats();
    assert_eq!(stats.locator_unproved + stats.limited_lists, 20_000);
    assert!((4_900..=5_100).contains(&stats.locator_unproved), "{}", stats.locator_unproved);
    assert_eq!(stats.updates_received, 0);
    assert_eq!(stats.limited_error, stats.locator_unproved - told as u64);
    assert!(told <= 60, "{told}");
    assert_eq!(picture(lab.shim(0)), before);
}

#[test]
fn errors_are_told_at_a_bounded_rate_and_never_about_errors() {
    let mut shim = quiet();
    let mut bytes = message(Body::Keepalive { receiver_tag: Tag::new(1) }, Options::default());
    bytes[2] = 70;
    reseal(&mut bytes);
    let mut told = 0;
    for n in 0..10_000 {
        shim.receive(at(n / 10), VICTIM, &bytes);
        told += taken(&mut shim).len();
    }
    assert!(told <= 40, "{told}");
    let body = Body::Error { code: 0, pointer: 0, packet: bytes };
    shim.receive(at(5000), VICTIM, &message(body, Options::default()));
    assert!(taken(&mut shim).is_empty());
}

// RFC 5533 7.18 MUST
// RFC 5533 16.2
#[test]
fn an_r1bis_that_does_not_know_the_tag_or_comes_from_elsewhere_is_dropped() {
    let mut lab = established();
    let (_, peer) = tags(&mut lab);
    let now = lab.now;
    let stranger = Pair::new(ip(1, 1), ip(3, 1));
    for (tag, from) in [(Tag::new(4), ulids()), (peer, stranger)] {
        let validator = Some([1; 16][..].into());
        let options = Options { validator, ..Options::default() };
        let body = Body::R1bis { packet_tag: tag, responder_nonce: 1 };
        lab.shim(0).receive(now, from, &message(body, options));
        assert!(taken(lab.shim(0)).is_empty());
        assert_eq!(lab.shim(0).state(now, ulids(), 0), State::Established);
    }
    assert_eq!(lab.shim(0).stats().control_no_context, 2);
}

// RFC 5533 16.2
#[test]
fn whoever_read_the_tag_once_gains_a_recovery_and_no_more() {
    // An attacker that was on the path makes a host believe that the peer lost the context.
    let mut lab = established();
    let (_, peer) = tags(&mut lab);
    let now = lab.now;
    let options = Options { validator: Some([1; 16][..].into()), ..Options::default() };
    let body = Body::R1bis { packet_tag: peer, responder_nonce: 1 };
    lab.shim(0).receive(now, ulids(), &message(body, options));
    lab.pump(0);
    assert_eq!(lab.shim(0).state(now, ulids(), 0), State::I2bisSent);
    // The peer does not know that validator; the exchange falls back, and heals, while packets pass.
    for n in 0..700 {
        lab.send(0, ulids(), n);
        lab.send(1, ulids().reversed(), n);
        lab.run(Duration::from_millis(100));
    }
    assert_eq!(lab.hosts[1].got.len(), 700);
    assert_eq!(lab.hosts[0].got.len(), 700);
    let now = lab.now;
    assert_eq!(lab.shim(0).state(now, ulids(), 0), State::Established);
}

// RFC 5533 16.2
#[test]
fn payload_with_a_guessed_tag_reaches_nobody() {
    let mut lab = established();
    let now = lab.now;
    for guess in 0..2000u64 {
        let what = lab.shim(0).received_tagged(now, ulids(), Tag::new(guess * 104_729));
        assert_eq!(what, Payload::UnknownTag);
    }
    assert!(taken(lab.shim(0)).len() <= 200, "R1bis are limited");
}

// RFC 5533 7.8
#[test]
fn a_forged_icmp_error_does_not_end_a_set_up() {
    let mut shim = quiet();
    shim.start(at(0), VICTIM, 0).unwrap();
    let (_, i1) = taken(&mut shim).pop().unwrap();
    let Body::I1 { initiator_tag, initiator_nonce } = i1.body else { panic!() };
    let guess = Body::I1 { initiator_tag, initiator_nonce: initiator_nonce ^ 1 };
    let error = IcmpErrorKind::ProtocolUnreachable;
    let forged = message(guess, Options::default());
    shim.icmp_about_shim(at(1), error, VICTIM, &forged);
    shim.icmp_about_shim(at(1), error, VICTIM, &forged[..8]);
    assert_eq!(shim.state(at(1), VICTIM, 0), State::I1Sent);
    assert_eq!(shim.stats().icmp_unmatched, 2);
    let real = i1.write().unwrap();
    shim.icmp_about_shim(at(1), error, VICTIM, &real);
    assert_eq!(shim.state(at(1), VICTIM, 0), State::NoSupport);
    assert_eq!(shim.state(at(599_000), VICTIM, 0), State::NoSupport);
    assert_eq!(shim.state(at(602_000), VICTIM, 0), State::Idle);
}

#[test]
fn one_prefix_cannot_take_all_contexts() {
    let bounds = Bounds {
        contexts_max: 100,
        contexts_per_prefix_max: 10,
        r1: Rate::new(100_000, 100_000),
        r2: Rate::new(100_000, 100_000),
        ..Bounds::default()
    };
    let mut shim = shim(1, 2, ShimConfig { bounds, ..ShimConfig::default() }, ReapConfig::rfc());
    let mut settle = |prefix: u16, n: u16| {
        let peer = IpAddr::from([0x2001, 0xdb8, prefix, 0, 0, 0, 1, n]);
        let (pair, tag) =
            (Pair::new(ip(1, 1), peer), Tag::new(u64::from(prefix) << 20 | u64::from(n)));
        let (responder_nonce, got) = r1_for(&mut shim, at(0), pair, pair, tag);
        let body = Body::I2 { initiator_tag: tag, initiator_nonce: 1, responder_nonce };
        shim.receive(at(0), pair, &message(body, got));
        taken(&mut shim);
        (shim.len(), shim.stats().contexts_refused_prefix, shim.stats().contexts_refused)
    };
    let last = (0..50).map(|n| settle(100, n)).last().unwrap();
    assert_eq!(last, (10, 40, 0));
    let last = (0..200).map(|n| settle(200 + n / 10, n)).last().unwrap();
    assert_eq!(last, (100, 40, 110));
}

#[test]
fn contexts_that_share_a_tag_of_their_peers_are_bounded() {
    let mut shim = quiet();
    for n in 0..50u16 {
        let peer = IpAddr::from([0x2001, 0xdb8, 500 + n, 0, 0, 0, 1, n]);
        let (pair, tag) = (Pair::new(ip(1, 1), peer), Tag::new(1));
        let (responder_nonce, got) = r1_for(&mut shim, at(0), pair, pair, tag);
        let body = Body::I2 { initiator_tag: tag, initiator_nonce: 1, responder_nonce };
        shim.receive(at(0), pair, &message(body, got));
        taken(&mut shim);
    }
    assert_eq!((shim.len(), shim.stats().contexts_refused), (16, 34));
}

// RFC 5533 7.2 MUST
// RFC 5533 16
#[test]
fn a_locator_of_a_third_party_gets_probes_only_and_few() {
    // A host that may prove any address as its own (a key, a signature) lists somebody else's.
    let mut lab = Lab::two(3, &ShimConfig::default(), ReapConfig::default(), [1, 2]);
    lab.log = Some(Vec::new());
    let now = lab.now;
    lab.shim(0).start(now, ulids(), 0).unwrap();
    lab.pump(0);
    lab.run(Duration::from_millis(50));
    // The second address of host 2 is the victim's: nothing answers there. Then the first goes dark,
    // while the first host has much to send.
    lab.hosts[1].addrs.remove(&ip(2, 2));
    for dark in [(ip(1, 1), ip(2, 1)), (ip(2, 1), ip(1, 1))] {
        lab.dead.insert(dark);
    }
    lab.log = Some(Vec::new());
    for n in 0..2000 {
        lab.send(0, ulids(), n);
        lab.run(Duration::from_millis(5));
    }
    let to_victim: Vec<&Packet> =
        lab.log.iter().flatten().map(|(_, p)| p).filter(|p| p.dst == ip(2, 2)).collect();
    assert!(
        to_victim.iter().all(|p| matches!(p.message().map(|m| m.body), Some(Body::Probe { .. })))
    );
    // Ten seconds.
    assert!(to_victim.len() <= 60, "{} probes", to_victim.len());
}
