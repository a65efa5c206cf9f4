use weft_stack::time::{Duration, Instant};

use super::config::{Activity, Rate};
use super::lab_tests::*;
use super::lacp::wire::{Marker, State, SystemId};
use super::lacp::{ChurnState, MuxState, PeriodicState, ReceiveState};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn joined(a: &BondConfig, b: &BondConfig) -> Lab {
    let mut lab = Lab::pair(a, b);
    let ports: Vec<u16> = (0..a.ports.len() as u16).collect();
    let took = lab.run_until(SECOND * 10, |lab| lab.agree(&ports));
    assert!(took.is_some(), "{:#?}", lab.bonds[0].report(lab.now));
    lab
}

#[test]
fn two_bonds_come_together_whatever_their_rates_activities_and_kinds_of_control() {
    for bits in 0..64u8 {
        let make = |rate, activity, independent| {
            let lacp = LacpConfig { activity, rate, independent, ..LacpConfig::default() };
            BondConfig { lacp, ..config(3) }
        };
        let rate = |bit: u8| if bits & bit == 0 { Rate::Fast } else { Rate::Slow };
        let activity = |bit: u8| if bits & bit == 0 { Activity::Active } else { Activity::Passive };
        let a = make(rate(1), activity(2), bits & 4 == 0);
        let b = make(rate(8), activity(16), bits & 32 == 0);
        let mut lab = Lab::pair(&a, &b);
        let took = lab.run_until(SECOND * 10, |lab| lab.agree(&[0, 1, 2]));
        if bits & (2 | 16) == 2 | 16 {
            assert_eq!(took, None, "nobody begins");
            assert_eq!(lab.bonds[0].ports[0].counters.pdus_out, 0);
            assert_eq!(lab.unused(0, 0), Some(Unused::NoPartner));
            continue;
        }
        // The wait of 2 s, and no more than the limit of three PDUs may add.
        let took =
            took.unwrap_or_else(|| panic!("{bits:06b}: {:#?}", lab.bonds[0].report(lab.now)));
        assert!(took >= SECOND * 2 && took < SECOND * 4, "{bits:06b}: {took:?}");
        assert!(lab.bonds.iter().all(Bond::is_up));
        // And stay together.
        lab.events.clear();
        lab.run(SECOND * 300);
        assert!(lab.agree(&[0, 1, 2]));
        assert_eq!(lab.events, []);
    }
}

// 802.1AX 6.4.13: the partner's timeout is our rate
#[test]
fn pdus_go_out_as_often_as_the_partner_asks() {
    let mut lab = joined(&fast(1), &config(1));
    lab.run(SECOND * 60);
    let out = |lab: &Lab, b: usize| lab.bonds[b].ports[0].counters.pdus_out;
    let before = [out(&lab, 0), out(&lab, 1)];
    lab.run(SECOND * 300);
    assert_eq!(out(&lab, 0) - before[0], 10, "to the slow one");
    assert_eq!(out(&lab, 1) - before[1], 300, "to the fast one");
    assert_eq!(lab.bonds[0].ports[0].periodic, PeriodicState::Slow);
    assert_eq!(lab.bonds[1].ports[0].periodic, PeriodicState::Fast);
}

#[test]
fn a_link_that_goes_down_leaves_at_once_and_comes_back() {
    let mut lab = joined(&config(2), &config(2));
    lab.bonds[0].take_changed();
    lab.set_link(1, false);
    assert_eq!(lab.distributing(0), [0]);
    assert!(lab.bonds[0].take_changed() && !lab.bonds[0].take_changed());
    let down = BondEvent::PortDown { port: 1, why: Unused::LinkDown };
    assert_eq!(lab.events_of(0).last(), Some(&down));
    lab.run(SECOND * 5);
    assert!(lab.agree(&[0]));
    lab.set_link(1, true);
    assert!(lab.run_until(SECOND * 4, |lab| lab.agree(&[0, 1])).is_some());
    assert!(lab.bonds[0].is_up());
}

#[test]
fn silence_is_noticed_after_three_seconds_or_ninety() {
    for (config, limit) in [(fast(2), SECOND * 3), (config(2), SECOND * 90)] {
        let mut lab = joined(&config, &config);
        lab.run(SECOND * 100);
        lab.cables[1].loss = [100; 2];
        let from = lab.now;
        let took = lab.run_until(limit * 2, |lab| lab.agree(&[0])).expect("noticed");
        assert!(took <= limit + MS, "{took:?}");
        let port = &lab.bonds[0].ports[1];
        assert!(port.receive == ReceiveState::Expired, "{:?} {from:?}", port.receive);
        assert_eq!(lab.unused(0, 1), Some(Unused::PartnerSilent));
        assert_eq!(port.counters.expired, 1);
        lab.run(SECOND * 4);
        assert_eq!(lab.unused(0, 1), Some(Unused::NoPartner));
        assert_eq!(lab.bonds[0].ports[1].receive, ReceiveState::Defaulted);
        lab.cables[1].loss = [0; 2];
        assert!(lab.run_until(SECOND * 40, |lab| lab.agree(&[0, 1])).is_some());
    }
}

#[test]
fn a_one_way_link_is_used_in_neither_direction() {
    let mut lab = joined(&fast(2), &fast(2));
    lab.cables[1].loss = [100, 0]; // the second bond hears nothing
    let took =
        lab.run_until(SECOND * 6, |lab| lab.distributing(0) == [0] && lab.distributing(1) == [0]);
    assert!(took.is_some());
    // The evidence at the end that hears: the partner says that it does not.
    let report = lab.bonds[0].report(lab.now);
    let partner = report.ports[1].partner.as_ref().expect("it is heard");
    assert!(partner.state.expired);
    lab.run(SECOND * 120);
    assert_eq!(lab.bonds[0].selection().distributing[..], [0]);
    assert_eq!(lab.bonds[1].selection().collecting[..], [0]);
    let event = BondEvent::PartnerChurn { port: 1, on: true };
    assert!(lab.events_of(0).contains(&event) && lab.events_of(1).contains(&event));
    lab.cables[1].loss = [0, 0];
    assert!(lab.run_until(SECOND * 6, |lab| lab.agree(&[0, 1])).is_some());
    assert!(lab.events_of(0).contains(&BondEvent::PartnerChurn { port: 1, on: false }));
}

#[test]
fn lost_pdus_do_not_disturb_an_aggregate_as_long_as_one_of_three_arrives() {
    let mut lab = joined(&config(2), &config(2));
    lab.cables.iter_mut().for_each(|c| c.loss = [20, 20]);
    lab.events.clear();
    lab.run(SECOND * 200);
    assert_eq!(lab.events_of(0), []);
}

/// A host and a system with two bonds: one switch whose ports are in two groups.
fn two_partners(same_system: bool) -> Lab {
    let mut second = fast(1);
    second.lacp.key = 2;
    let mut first = fast(1);
    if same_system {
        first.lacp.system = Some([10, 0, 0, 0, 0, 1]);
        second.lacp.system = Some([10, 0, 0, 0, 0, 1]);
        second.ports[0].number = Some(9);
    }
    let mut lab = Lab::new(&[fast(2), first, second], 1);
    lab.plug((0, 0), (1, 0));
    lab.plug((0, 1), (2, 0));
    lab.run(SECOND * 10);
    lab
}

#[test]
fn ports_with_another_key_or_another_system_stay_out_and_say_why() {
    for (same_system, why) in [(true, Unused::OtherKey), (false, Unused::OtherPartner)] {
        let mut lab = two_partners(same_system);
        assert_eq!(lab.distributing(0), [0]);
        assert_eq!(lab.distributing(1), [0]);
        assert_eq!(lab.unused(0, 1), Some(why));
        assert!(!lab.bonds[2].is_up(), "it is told that we are not in sync");
        assert_eq!(lab.unused(2, 0), Some(Unused::PartnerNotInSync));
        lab.run(SECOND * 60);
        assert!(lab.events_of(0).contains(&BondEvent::ActorChurn { port: 1, on: true }));
        assert!(lab.events_of(2).contains(&BondEvent::PartnerChurn { port: 0, on: true }));
        // The one in use fails: the other is better than none.
        lab.set_link(0, false);
        assert!(lab.run_until(SECOND * 4, |lab| lab.distributing(0) == [1]).is_some());
        let changed = lab.events_of(0).into_iter().rev().find_map(|e| match e {
            BondEvent::PartnerChanged { from, to } => Some((from, to)),
            _ => None,
        });
        let (from, to) = changed.expect("told");
        assert_ne!(from, to);
        assert!(lab.events_of(0).contains(&BondEvent::ActorChurn { port: 1, on: false }));
        // It comes back: no reason to move again.
        lab.set_link(0, true);
        lab.run(SECOND * 10);
        assert_eq!(lab.distributing(0), [1]);
    }
}

#[test]
fn an_aggregate_that_its_partner_refuses_is_left_for_one_that_works() {
    let mut lab = Lab::new(&[fast(3), fast(2), fast(1)], 1);
    // The larger partner never gets in sync: it needs three.
    let mut large = fast(2);
    large.min_links = 2;
    lab.bonds[1] = bond(1, &large);
    lab.plug((0, 0), (1, 0));
    lab.plug((0, 1), (1, 1));
    lab.plug((0, 2), (2, 0));
    assert!(lab.run_until(SECOND * 5, |lab| lab.distributing(0) == [0, 1]).is_some());
    // It does not want us any more.
    for port in 0..2 {
        lab.bonds[1].set_offline(lab.now, port, true);
    }
    let took = lab.run_until(SECOND * 20, |lab| lab.distributing(0) == [2]);
    assert!(took.is_some_and(|t| t > SECOND * 4), "{took:?}");
}

#[test]
fn a_partner_that_only_one_port_still_knows_is_left_as_soon_as_that_is_silent() {
    let mut lab = two_partners(false);
    assert_eq!(lab.distributing(0), [0]);
    lab.cables[0].loss = [100; 2];
    let took = lab.run_until(SECOND * 10, |lab| lab.distributing(0) == [1]).expect("moved");
    assert!(took < SECOND * 6, "{took:?}");
}

#[test]
fn a_partner_that_keeps_an_old_view_of_us_is_shown() {
    let mut lab = joined(&fast(1), &fast(1));
    lab.run(SECOND * 5);
    let stale =
        |lab: &Lab| lab.bonds[0].report(lab.now).ports[0].lacp.as_ref().expect("lacp").stale_view;
    assert!(!stale(&lab));
    // A cable that leads to a mirror of what another host is told.
    let mut pdu = super::lacp::wire::Lacpdu {
        version: 1,
        actor: lab.bonds[1].ports[0].actor,
        partner: lab.bonds[0].ports[0].actor,
        max_delay: 0,
    };
    pdu.partner.port.number = 99;
    lab.cables[0].loss = [100; 2];
    for n in 0..4 {
        assert_eq!(stale(&lab), n > 2);
        lab.bonds[0].handle_frame(lab.now, 0, &pdu.emit([2; 6]));
        lab.run(SECOND);
    }
    assert_eq!(lab.unused(0, 0), Some(Unused::PartnerNotInSync));
}

#[test]
fn a_loop_is_refused() {
    let mut lab = Lab::new(&[fast(3), fast(1)], 1);
    lab.plug((0, 0), (0, 1));
    lab.plug((0, 2), (1, 0));
    lab.run(SECOND * 10);
    assert_eq!(lab.distributing(0), [2]);
    assert_eq!(lab.unused(0, 0), Some(Unused::Loopback));
    assert_eq!(lab.unused(0, 1), Some(Unused::Loopback));
    assert!(lab.bonds[0].ports[0].counters.loopback > 2);
}

// 802.1AX 6.4.7, port_moved
#[test]
fn a_partner_that_is_plugged_over_is_forgotten_where_it_was() {
    let mut lab = Lab::new(&[fast(3), fast(2)], 1);
    lab.plug((0, 0), (1, 0));
    lab.plug((0, 1), (1, 1));
    assert!(lab.run_until(SECOND * 5, |lab| lab.agree(&[0, 1])).is_some());
    lab.set_link(1, false);
    lab.cables.pop();
    assert_ne!(lab.bonds[0].ports[1].partner.system.mac, [0; 6], "kept for when it comes back");
    lab.plug((0, 2), (1, 1));
    assert!(lab.run_until(SECOND * 5, |lab| lab.distributing(0) == [0, 2]).is_some());
    assert_eq!(lab.bonds[0].ports[1].partner.system.mac, [0; 6]);
    assert_eq!(lab.distributing(1), [0, 1]);
}

#[test]
fn fewer_links_than_min_links_are_none() {
    let two = BondConfig { min_links: 2, ..fast(3) };
    let mut lab = joined(&two, &fast(3));
    lab.set_link(0, false);
    assert_eq!(lab.distributing(0), [1, 2]);
    lab.set_link(1, false);
    assert_eq!(lab.distributing(0), [] as [u16; 0]);
    assert_eq!(lab.unused(0, 2), Some(Unused::MinLinks));
    assert_eq!(lab.events_of(0).last(), Some(&BondEvent::Down));
    lab.run(SECOND);
    assert_eq!(lab.distributing(1), [] as [u16; 0], "the partner is told that we take nothing");
    assert_eq!(lab.unused(1, 2), Some(Unused::PartnerNotCollecting));
    lab.set_link(1, true);
    assert!(lab.run_until(SECOND * 4, |lab| lab.agree(&[1, 2])).is_some());
    let [.., up, _] = &lab.events_of(0)[..] else { panic!("told") };
    assert_eq!(*up, BondEvent::Up);
    // Both ends with a limit do not wait for each other.
    joined(&two, &two);
}

// 802.1AX 6.7.1
#[test]
fn ports_beyond_the_limit_are_standby_in_the_order_of_the_better_system() {
    let mut a = BondConfig { ..fast(3) };
    a.lacp.max_ports = Some(1);
    a.lacp.system_priority = 100;
    a.ports[2].priority = 1;
    let mut b = fast(3);
    b.ports[0].priority = 1;
    let mut lab = Lab::pair(&a, &b);
    lab.run(SECOND * 6);
    assert!(lab.agree(&[2]), "the first bond decides");
    assert_eq!(lab.unused(0, 0), Some(Unused::Standby));
    assert_eq!(lab.unused(1, 0), Some(Unused::PartnerNotInSync));
    // A standby port has waited already: it is in use after one exchange.
    lab.set_link(2, false);
    let took = lab.run_until(SECOND, |lab| lab.agree(&[0])).expect("taken over");
    assert!(took <= MS * 10, "{took:?}");
    // With the better system at the other end, its priorities decide.
    a.lacp.system_priority = 65535;
    b.lacp.system_priority = 100;
    let mut lab = Lab::pair(&a, &b);
    lab.run(SECOND * 6);
    assert!(lab.agree(&[0]));
}

#[test]
fn a_preferred_port_that_is_back_takes_over_before_the_other_is_emptied_and_leaves() {
    let mut a = fast(2);
    a.lacp.max_ports = Some(1);
    a.lacp.system_priority = 1;
    a.ports[1].priority = 1;
    let mut lab = Lab::pair(&a, &fast(2));
    lab.run(SECOND * 6);
    assert!(lab.agree(&[1]));
    lab.set_link(1, false);
    lab.run(SECOND * 6);
    assert!(lab.agree(&[0]));
    lab.set_link(1, true);
    lab.events.clear();
    let took = lab.run_until(SECOND * 5, |lab| lab.agree(&[1]));
    assert!(took.is_some_and(|t| t >= SECOND * 2));
    let events = lab.events_of(0);
    assert!(!events.contains(&BondEvent::Down), "{events:?}");
    assert!(events.contains(&BondEvent::Drained { port: 0, answered: true }), "{events:?}");
}

#[test]
fn a_port_that_waits_for_its_replacement_can_still_be_taken_out() {
    let mut a = fast(2);
    a.lacp.max_ports = Some(1);
    a.lacp.system_priority = 1;
    a.ports[1].priority = 1;
    let mut lab = Lab::pair(&a, &fast(2));
    lab.set_link(1, false);
    lab.run(SECOND * 6);
    assert!(lab.agree(&[0]));
    lab.set_link(1, true);
    // The better one hears its partner, but nobody hears it: it never replaces the other.
    lab.run(SECOND);
    lab.cables[1].loss = [100, 0];
    let retires =
        |lab: &Lab| matches!(lab.bonds[0].ports[0].leaving, super::lacp::Leaving::Retiring { .. });
    lab.run_until(SECOND * 3, retires).expect("it is to be replaced");
    assert_eq!(lab.distributing(0), [0]);
    lab.bonds[0].set_offline(lab.now, 0, true);
    assert_eq!(lab.distributing(0), [] as [u16; 0]);
}

#[test]
fn a_port_that_is_taken_out_is_emptied_first_and_then_told_to_the_partner() {
    for independent in [true, false] {
        let mut config = fast(2);
        config.lacp.independent = independent;
        let mut lab = joined(&config, &config);
        lab.run(SECOND * 2);
        lab.events.clear();
        lab.bonds[0].set_offline(lab.now, 0, true);
        // Nothing is sent any more, but what comes is still taken.
        assert_eq!(lab.bonds[0].selection().distributing[..], [1]);
        assert_eq!(lab.bonds[0].selection().collecting[..], [0, 1]);
        assert_eq!(lab.unused(0, 0), Some(Unused::Draining));
        let left = |lab: &Lab| lab.distributing(1) == [1];
        let took = lab.run_until(SECOND, left).expect("left");
        assert!(took <= MS * 10, "{took:?}");
        // What the partner sent before it knew is not lost.
        assert_eq!(lab.bonds[0].selection().collecting[..], [0, 1]);
        lab.run(MS * 100);
        assert!(lab.agree(&[1]));
        assert!(lab.events_of(0).contains(&BondEvent::Drained { port: 0, answered: true }));
        assert_eq!(lab.unused(0, 0), Some(Unused::Offline));
        assert_eq!(lab.bonds[1].ports[0].counters.marker_responses_out, 1);
        lab.bonds[0].set_offline(lab.now, 0, false);
        assert!(lab.run_until(SECOND * 4, |lab| lab.agree(&[0, 1])).is_some());
        // Nobody answers: it leaves all the same.
        lab.cables[0].loss = [0, 100];
        lab.bonds[0].set_offline(lab.now, 0, true);
        lab.run(SECOND * 2);
        assert!(lab.events_of(0).contains(&BondEvent::Drained { port: 0, answered: false }));
        assert_eq!(lab.distributing(1), [1]);
    }
}

// 802.1AX 6.5.4
#[test]
fn markers_are_answered_but_not_without_limit() {
    let mut b = bond(0, &config(1));
    let now = Instant::from_millis(1000);
    b.handle_link(now, 0, PortLink::UP);
    while b.poll_transmit().is_some() {}
    let ask =
        |transaction| Marker { response: false, port: 7, system: [2, 0, 0, 0, 9, 9], transaction };
    for t in 0..20 {
        b.handle_frame(now, 0, &ask(t).emit([2; 6]));
    }
    let mut answers = Vec::new();
    while let Some((port, frame)) = b.poll_transmit() {
        assert_eq!(port, 0);
        answers.push(frame);
    }
    let wanted = Marker { response: true, ..ask(0) }.emit(mac(0, 0));
    assert_eq!((answers.len(), &answers[0]), (5, &wanted));
    assert_eq!(b.ports[0].counters.marker_limit, 15);
    b.handle_frame(now + SECOND, 0, &ask(99).emit([2; 6]));
    while b.poll_transmit().is_some() {}
    assert_eq!(b.ports[0].counters.marker_responses_out, 6);
    // Our own is no question, and an answer that nobody waits for does nothing.
    b.handle_frame(now + SECOND, 0, &Marker { system: mac(0, 0), ..ask(1) }.emit([2; 6]));
    b.handle_frame(
        now + SECOND,
        0,
        &Marker { response: true, system: mac(0, 0), ..ask(1) }.emit([2; 6]),
    );
    assert_eq!(b.poll_transmit(), None);
    assert_eq!((b.ports[0].counters.loopback, b.ports[0].counters.marker_responses_in), (1, 1));
}

/// The process of the first bond ends, and another begins after `away`.
fn restart(lab: &mut Lab, config: &BondConfig, away: Duration) -> usize {
    let saved = lab.bonds[0].save(lab.now);
    let text = serde_json::to_string(&saved).expect("a record is text");
    let saved: SavedBond = serde_json::from_str(&text).expect("and is read back");
    let taken = lab.restart(0, config, &saved, away);
    for port in 0..config.ports.len() {
        lab.bonds[0].handle_link(lab.now, port, PortLink::UP);
    }
    taken
}

#[test]
fn a_restart_leaves_no_gap_in_distributing_at_either_end() {
    for (ours, theirs, away) in [
        (fast(2), fast(2), MS * 1500),
        (config(2), config(2), SECOND * 40),
        (fast(2), passive(config(2)), SECOND * 20),
        (config(2), fast(2), SECOND),
    ] {
        let mut lab = joined(&ours, &theirs);
        lab.run(SECOND * 5);
        lab.events.clear();
        assert_eq!(restart(&mut lab, &ours, away), 2);
        assert!(lab.agree(&[0, 1]), "before any PDU came");
        assert!(lab.bonds[0].report(lab.now).ports[0].lacp.as_ref().expect("lacp").resumed);
        let begin = [BondEvent::PortUp { port: 0 }, BondEvent::Up];
        lab.run(MS * 10);
        assert_eq!(lab.events_of(0)[..1], begin[..1]);
        let heard = lab.bonds[0].ports.iter().all(|p| p.last_pdu.is_some() && !p.resumed);
        assert!(heard, "the partner answers at once, whatever its rate");
        lab.run(SECOND * 200);
        assert!(lab.agree(&[0, 1]));
        assert_eq!(lab.events_of(1), [], "the partner noticed nothing");
        let lost = |e: &BondEvent| matches!(e, BondEvent::PortDown { .. } | BondEvent::Down);
        assert!(!lab.events_of(0).iter().any(lost));
    }
}

#[test]
fn a_record_that_is_too_old_or_of_another_bond_is_not_taken() {
    let mut lab = joined(&fast(2), &fast(2));
    assert_eq!(restart(&mut lab, &fast(2), SECOND * 3), 0, "the partner has given us up");
    assert_eq!(lab.distributing(0), [] as [u16; 0]);
    assert!(lab.run_until(SECOND * 6, |lab| lab.agree(&[0, 1])).is_some());
    let mut other = fast(2);
    other.lacp.key = 5;
    assert_eq!(restart(&mut lab, &other, MS), 0);
    let mut renumbered = fast(2);
    renumbered.lacp.key = 5;
    assert!(lab.run_until(SECOND * 6, |lab| lab.agree(&[0, 1])).is_some());
    renumbered.ports[1].number = Some(40);
    assert_eq!(restart(&mut lab, &renumbered, MS), 1, "the port that is still the same");
}

#[test]
fn what_was_taken_up_ends_when_the_partner_does_not_answer_or_says_no() {
    // Cut while we were away.
    let mut lab = joined(&fast(2), &fast(2));
    lab.run(SECOND);
    lab.cables[0].loss = [100; 2];
    assert_eq!(restart(&mut lab, &fast(2), MS * 100), 2);
    assert_eq!(lab.distributing(0), [0, 1]);
    lab.run(SECOND * 3 + MS);
    assert_eq!(lab.distributing(0), [1]);
    assert_eq!(lab.bonds[0].ports[0].receive, ReceiveState::Expired);
    // The partner was restarted as well, and knows nothing.
    let mut lab = joined(&fast(2), &fast(2));
    lab.run(SECOND);
    lab.bonds[1] = bond(1, &fast(2));
    for port in 0..2 {
        lab.bonds[1].handle_link(lab.now, port, PortLink::UP);
    }
    assert_eq!(restart(&mut lab, &fast(2), Duration::ZERO), 2);
    lab.run(MS * 10);
    assert_eq!(lab.distributing(0), [] as [u16; 0]);
    assert!(lab.run_until(SECOND * 5, |lab| lab.agree(&[0, 1])).is_some());
    // No link within 3 s: nothing is left to go on with.
    let saved = lab.bonds[0].save(lab.now);
    let mut late = bond(0, &fast(2));
    assert_eq!(late.restore(lab.now, &saved, Duration::ZERO), 2);
    late.handle_timeout(lab.now + SECOND * 3);
    late.handle_link(lab.now + SECOND * 3, 0, PortLink::UP);
    assert_eq!(late.ports[0].mux, MuxState::Detached);
}

#[test]
fn a_standalone_partner_is_used_alone_and_an_aggregate_is_preferred() {
    let mut alone = fast(2);
    alone.ports[0].individual = true;
    alone.ports[1].individual = true;
    let mut lab = Lab::pair(&fast(2), &alone);
    lab.run(SECOND * 6);
    assert!(lab.agree(&[0]));
    assert_eq!(lab.unused(0, 1), Some(Unused::Individual));
    // Another two ports with a real aggregate: it wins once it is in sync.
    let mut lab = Lab::new(&[fast(3), alone, fast(2)], 1);
    lab.plug((0, 0), (1, 0));
    lab.run(SECOND * 6);
    assert_eq!(lab.distributing(0), [0]);
    lab.plug((0, 1), (2, 0));
    lab.plug((0, 2), (2, 1));
    lab.run(SECOND * 10);
    assert_eq!(lab.distributing(0), [1, 2]);
}

#[test]
fn without_a_partner_a_bond_is_down_or_falls_back_to_one_port() {
    let mut lab = Lab::new(&[fast(2)], 1);
    let up = PortLink::UP;
    (0..2).for_each(|port| lab.bonds[0].handle_link(lab.now, port, up));
    lab.run(SECOND * 20);
    assert!(!lab.bonds[0].is_up());
    assert_eq!(lab.unused(0, 0), Some(Unused::NoPartner));
    let mut fallback = fast(2);
    fallback.lacp.fallback = true;
    let mut lab = Lab::new(&[fallback, fast(2)], 1);
    (0..2).for_each(|port| lab.bonds[0].handle_link(lab.now, port, up));
    lab.run(SECOND * 20);
    assert_eq!(lab.distributing(0), [0]);
    // The partner begins to speak.
    lab.plug((0, 0), (1, 0));
    lab.plug((0, 1), (1, 1));
    assert!(lab.run_until(SECOND * 8, |lab| lab.agree(&[0, 1])).is_some());
}

#[test]
fn half_duplex_and_other_speeds_stay_out() {
    let mut lab = joined(&fast(3), &fast(3));
    let speed = |mbit| PortLink { speed_mbit: Some(mbit), ..PortLink::UP };
    for port in 0..3 {
        lab.bonds[0].handle_link(lab.now, port, speed(10_000));
    }
    assert!(lab.agree(&[0, 1, 2]), "to learn the speed does not disturb");
    lab.bonds[0].handle_link(lab.now, 1, speed(1000));
    let half = PortLink { full_duplex: false, ..speed(10_000) };
    lab.bonds[0].handle_link(lab.now, 2, half);
    lab.run(SECOND * 5);
    assert_eq!(lab.distributing(0), [0]);
    assert_eq!(lab.unused(0, 1), Some(Unused::OtherSpeed));
    assert_eq!(lab.unused(0, 2), Some(Unused::HalfDuplex));
    assert_eq!(lab.bonds[0].ports[2].receive, ReceiveState::LacpDisabled);
}

#[test]
fn static_and_round_robin_bonds_go_by_link() {
    for mode in [Mode::Static, Mode::RoundRobin] {
        let config = BondConfig { mode, min_links: 2, up_delay: SECOND, ..config(3) };
        let mut lab = Lab::new(&[config], 1);
        (0..3).for_each(|port| lab.bonds[0].handle_link(lab.now, port, PortLink::UP));
        assert_eq!(lab.unused(0, 0), Some(Unused::UpDelay));
        lab.run(SECOND);
        assert_eq!(lab.distributing(0), [0, 1, 2]);
        lab.bonds[0].handle_link(lab.now, 1, PortLink::DOWN);
        assert_eq!(lab.distributing(0), [0, 2]);
        lab.bonds[0].set_offline(lab.now, 2, true);
        assert!(!lab.bonds[0].is_up());
        assert_eq!(lab.unused(0, 0), Some(Unused::MinLinks));
        lab.bonds[0].set_offline(lab.now, 2, false);
        lab.run(SECOND);
        assert_eq!(lab.distributing(0), [0, 2]);
        assert_eq!(lab.bonds[0].poll_transmit(), None);
    }
}

#[test]
fn a_static_bond_shows_a_partner_that_speaks_lacp() {
    let mut lab = Lab::pair(&BondConfig { mode: Mode::Static, ..config(2) }, &fast(2));
    lab.run(SECOND * 3);
    assert_eq!(lab.distributing(0), [0, 1]);
    assert!(!lab.bonds[1].is_up());
    let report = lab.bonds[0].report(lab.now);
    let partner = report.ports[0].partner.as_ref().expect("it was heard");
    assert_eq!(partner.system, "02:00:00:00:01:00");
    assert!(report.ports[0].counters.pdus_in > 0 && report.lacp.is_none());
}

#[test]
fn active_backup_uses_one_port_and_announces_each_change() {
    for failback in [true, false] {
        let primary = Some("eth1".to_owned());
        let mut b =
            bond(0, &BondConfig { mode: Mode::ActiveBackup, primary, failback, ..config(3) });
        let now = Instant::from_millis(5);
        let active = |b: &Bond| b.selection().distributing.to_vec();
        (0..3).for_each(|port| b.handle_link(now, port, PortLink::UP));
        let first = u16::from(failback);
        assert_eq!(active(&b), [first]);
        b.handle_link(now, usize::from(first), PortLink::DOWN);
        let second = u16::from(!failback);
        assert_eq!(active(&b), [second]);
        b.handle_link(now, usize::from(first), PortLink::UP);
        assert_eq!(active(&b), [1]);
        let mut announced = Vec::new();
        while let Some(event) = b.poll_event() {
            if let BondEvent::Announce { port } = event {
                announced.push(port);
            }
        }
        let expected: &[usize] = if failback { &[0, 1, 0, 1] } else { &[0, 1] };
        assert_eq!(announced, expected);
        // A restart keeps the active port.
        let saved = b.save(now);
        let mut again = bond(0, b.config());
        assert_eq!(again.restore(now, &saved, SECOND), 1);
        (0..3).rev().for_each(|port| again.handle_link(now, port, PortLink::UP));
        assert_eq!(active(&again), [1]);
        (0..3).for_each(|port| again.handle_link(now, port, PortLink::DOWN));
        assert!(!again.is_up());
    }
}

#[test]
fn a_report_has_the_evidence_and_is_json() {
    let mut lab = two_partners(false);
    lab.bonds[0].handle_frame(lab.now, 0, &[0; 5]);
    lab.bonds[0].handle_frame(
        lab.now,
        0,
        &Marker { response: false, port: 1, system: [9; 6], transaction: 3 }.emit([9; 6]),
    );
    lab.run(SECOND);
    let report = lab.bonds[0].report(lab.now);
    let lacp = report.lacp.as_ref().expect("lacp");
    assert_eq!(lacp.system, "02:00:00:00:00:00");
    assert_eq!(lacp.partner.as_ref().map(|p| p.system.as_str()), Some("02:00:00:00:01:00"));
    let [first, second] = &report.ports[..] else { panic!("two ports") };
    let machines = first.lacp.as_ref().expect("lacp");
    assert_eq!(machines.actor.state.octet, 0x3f);
    assert_eq!(first.partner.as_ref().map(|p| p.state.octet), Some(0x3f));
    assert_eq!((machines.expected_interval_ms, first.interval_ms), (1000, Some(1000)));
    assert!(first.last_pdu_ms.is_some_and(|ms| ms <= 1000) && !machines.stale_view);
    assert_eq!((first.counters.short, first.counters.markers_in), (1, 1));
    assert_eq!(second.partner.as_ref().map(|p| p.key), Some(2));
    assert_eq!(second.lacp.as_ref().map(|l| l.actor_churn), Some(ChurnState::Monitor));
    let json = serde_json::to_value(&report).expect("a report is JSON");
    assert_eq!(json["ports"][1]["unused"], "other-partner");
    assert_eq!(json["hash"], "l3+4");
    let back: BondReport = serde_json::from_value(json).expect("and is read back");
    assert_eq!(back, report);
}

#[test]
fn the_same_partner_port_on_two_of_ours_is_shown() {
    let mut lab = Lab::new(&[fast(2), fast(1)], 1);
    (0..2).for_each(|port| lab.bonds[0].handle_link(lab.now, port, PortLink::UP));
    lab.bonds[1].handle_link(lab.now, 0, PortLink::UP);
    let (_, frame) = lab.bonds[1].poll_transmit().expect("it begins");
    lab.bonds[0].handle_frame(lab.now, 0, &frame);
    lab.bonds[0].handle_frame(lab.now, 1, &frame);
    let report = lab.bonds[0].report(lab.now);
    assert_eq!(report.ports[0].same_partner_as.as_deref(), Some("eth1"));
    assert_eq!(report.ports[1].same_partner_as.as_deref(), Some("eth0"));
}

#[test]
fn the_first_pdu_goes_out_with_the_link_and_tells_what_is_configured() {
    let mut config = fast(1);
    config.lacp.system_priority = 0x1234;
    config.lacp.key = 0x77;
    config.ports[0].number = Some(0x21);
    let mut b = bond(3, &config);
    b.handle_link(Instant::from_millis(1), 0, PortLink::UP);
    let (port, frame) = b.poll_transmit().expect("at once");
    let Ok(super::lacp::wire::Pdu::Lacp(pdu)) = super::lacp::wire::parse(&frame) else {
        panic!("a LACPDU")
    };
    assert_eq!(port, 0);
    assert_eq!(pdu.actor.system, SystemId { priority: 0x1234, mac: mac(3, 0) });
    assert_eq!((pdu.actor.key, pdu.actor.port.number, pdu.actor.port.priority), (0x77, 0x21, 255));
    let state = State::ACTIVITY.with(State::TIMEOUT).with(State::AGGREGATION);
    assert_eq!(pdu.actor.state, state.with(State::DEFAULTED).with(State::EXPIRED));
    assert_eq!(pdu.partner.system, SystemId::default());
    assert_eq!(b.poll_transmit(), None);
}
