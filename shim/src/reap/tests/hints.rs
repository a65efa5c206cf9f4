//! What hints do and cannot do.

use super::world::*;
use super::*;

fn quiet() -> ReapConfig {
    ReapConfig { measure: None, ..ReapConfig::data_centre() }
}

// RFC 5534 3.3, 8
#[test]
fn hints_that_prove_nothing_start_a_test_and_not_many() {
    let mut world = World::new(1, quiet(), (2, 2), ms(5));
    world.bulk(ms(5));
    world.run(ms(500));
    for n in 0..1_000 {
        let hint = if n % 2 == 0 { Hint::NoProgress } else { Hint::Icmp(pair(1, 1)) };
        world.hint(0, hint);
        world.run(ms(10));
    }
    let stats = *world.hosts[0].reap.stats();
    assert!(world.switches(0).is_empty() && world.switches(1).is_empty());
    assert!((3..15).contains(&stats.explorations), "ten seconds of lies: {stats:?}");
    assert_eq!(stats.false_alarms, stats.explorations);
    world.check_budget();
}

#[test]
fn a_transport_that_does_not_get_on_finds_the_other_pair_in_two_round_trips() {
    for rtt in [2, 10, 20] {
        let mut world = World::new(rtt, quiet(), (2, 2), ms(rtt) / 2);
        world.bulk(ms(1));
        world.run(ms(500));
        // An exploration has measured the round trip.
        world.hint(0, Hint::NoProgress);
        world.run(ms(500));
        world.set_up(pair(1, 1), false);
        let from = world.now;
        world.hint(0, Hint::NoProgress);
        world.run(ms(500));
        let took = world.switches(0)[0].0 - from;
        assert!(took <= ms(2 * rtt + rtt.min(20)), "{took:?} with {rtt} ms");
        assert_eq!(world.switches(0)[0].2, Why::NoProgress);
    }
}

// RFC 5534 4.3
#[test]
fn a_link_that_took_other_pairs_with_it_is_left_for_one_that_shares_nothing() {
    for seed in 0..20 {
        let mut world = World::new(seed, ReapConfig::data_centre(), (2, 2), ms(5));
        world.bulk(ms(1));
        world.run(Duration::from_secs(3));
        // Packets from the second address to the peer's first go by the first provider as well.
        let from = world.now;
        world.set_address_up(ip(1, 1), false);
        for gone in [pair(2, 1), pair(1, 2)] {
            world.set_up(gone, false);
        }
        world.hint(0, Hint::LinkDown(ip(1, 1)));
        assert_eq!(world.hosts[0].reap.current(), pair(2, 2));
        world.run(ms(500));
        let gap = world.gap(1, from);
        assert!(gap <= ms(2 * 10 + 5), "{gap:?}, seed {seed}");
    }
}

// RFC 5534 3.1
#[test]
fn an_address_that_comes_back_is_tried_at_once() {
    let mut world = World::new(1, quiet(), (1, 2), ms(5));
    world.bulk(ms(5));
    world.run(ms(500));
    world.set_address_up(ip(1, 1), false);
    world.hint(0, Hint::LinkDown(ip(1, 1)));
    world.run(Duration::from_mins(3));
    assert_eq!(world.probes_since(0, world.now), [], "there is nothing to send by");
    let from = world.now;
    world.set_address_up(ip(1, 1), true);
    world.hint(0, Hint::LocatorBack(ip(1, 1)));
    world.run(ms(500));
    let arrived = world.hosts[1].arrived.iter().find(|at| **at > from).unwrap();
    assert!(*arrived - from <= ms(20), "{:?}", *arrived - from);
    assert_eq!(world.hosts[0].reap.state(), ReapState::Operational);
}

// RFC 5534 3.1
#[test]
fn a_new_address_is_used_while_nothing_else_works() {
    let mut world = World::new(1, quiet(), (2, 1), ms(5));
    let now = world.now;
    world.hosts[0].reap.set_paths(now, &locators(1, 1), &locators(2, 1));
    world.bulk(ms(5));
    world.run(ms(500));
    world.set_up(pair(1, 1), false);
    world.run(Duration::from_mins(3));
    let from = world.now;
    world.hosts[0].reap.set_paths(from, &locators(1, 2), &locators(2, 1));
    world.flush(0);
    world.run(ms(500));
    let arrived = world.hosts[1].arrived.iter().find(|at| **at > from).unwrap();
    assert!(*arrived - from <= ms(20), "{:?}", *arrived - from);
}

// RFC 5534 4.1
#[test]
fn a_locator_that_the_peer_withdrew_is_left_at_once() {
    let mut world = World::new(1, quiet(), (2, 2), ms(5));
    world.bulk(ms(5));
    world.run(ms(500));
    let from = world.now;
    world.set_address_up(ip(2, 1), false);
    let left: Vec<_> = locators(2, 2).split_off(1);
    world.hosts[0].reap.set_paths(from, &locators(1, 2), &left);
    world.flush(0);
    world.run(ms(500));
    assert!(world.switches(0)[0].0 - from <= ms(10));
    assert_eq!(world.switches(0)[0].2, Why::LocatorGone);
}

// RFC 5534 3.3
#[test]
fn an_icmp_error_for_a_probe_saves_the_wait_for_its_answer() {
    let mut reap = reap(&ReapConfig::rfc(), 2, 2);
    let now = Instant::from_millis(2_000);
    reap.explore(now, Why::SendTimeout, false);
    let first = drain(&mut reap, now);
    reap.hint(now + ms(5), Hint::Icmp(first[0].0));
    assert_eq!(reap.poll_timeout(), Some(now + ms(5)));
    reap.handle_timeout(now + ms(5));
    assert_eq!(drain(&mut reap, now + ms(5)).len(), 1);
    reap.hint(now + ms(6), Hint::Icmp(first[0].0));
    reap.handle_timeout(now + ms(6));
    assert!(drain(&mut reap, now + ms(6)).is_empty(), "only for the last one");
}

#[test]
fn hints_for_others_change_nothing() {
    let mut reap = reap(&ReapConfig::rfc(), 2, 2);
    let now = Instant::from_millis(2_000);
    for hint in [
        Hint::LocatorGone(ip(7, 7)),
        Hint::LocatorBack(ip(1, 1)),
        Hint::LinkDown(ip(1, 2)),
        Hint::LocatorGone(ip(2, 2)),
        Hint::Icmp(pair(2, 2)),
        Hint::Icmp(pair(9, 9)),
        Hint::Progress,
    ] {
        reap.hint(now, hint);
    }
    assert!(drain(&mut reap, now).is_empty() && events(&mut reap).is_empty());
    assert_eq!(reap.report(now).paths.iter().filter(|p| p.state == "gone").count(), 3);
    reap.hint(now, Hint::LocatorBack(ip(2, 2)));
    assert_eq!(reap.report(now).paths.iter().filter(|p| p.state == "gone").count(), 2);
}

#[test]
fn progress_stops_the_send_timer() {
    let mut reap = reap(&ReapConfig::rfc(), 2, 2);
    let now = Instant::from_millis(2_000);
    reap.payload_sent(now);
    reap.hint(now, Hint::Progress);
    assert_eq!(reap.poll_timeout(), None);
}

#[test]
fn a_peer_that_hears_but_was_not_heard_is_answered_also_after_a_loss_that_was_certain() {
    let mut reap = reap(&ReapConfig::data_centre(), 2, 2);
    let now = Instant::from_millis(2_000);
    drain(&mut reap, now);
    reap.hint(now, Hint::LinkDown(ip(1, 1)));
    let reports = reports_of(&drain(&mut reap, now));
    reap.probe_received(now, pair(2, 2), &from_peer(ReapState::InboundOk, &reports));
    drain(&mut reap, now);
    assert_eq!(reap.state(), ReapState::Operational);
    reap.probe_received(now + ms(500), pair(2, 2), &from_peer(ReapState::InboundOk, &[]));
    let answers = drain(&mut reap, now + ms(500));
    assert!(answers.iter().any(|(_, out)| {
        matches!(out, Outgoing::Probe(p) if p.state == ReapState::Operational && !p.received.is_empty())
    }));
}
