//! The RFC's constants, asserted in virtual time.

use super::world::*;
use super::*;

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// Whole and half seconds from `from`.
fn since(times: impl Iterator<Item = Instant>, from: Instant) -> Vec<f64> {
    times.map(|at| (at - from).as_secs_f64()).collect()
}

// RFC 5534 4.1, 4.3, 6.4, 6.5, 7
#[test]
fn the_send_timeout_is_15_s_and_probes_follow_at_half_a_second_four_times_then_ever_slower() {
    let mut world = World::new(1, ReapConfig::rfc(), (2, 2), ms(10));
    world.each_link(|link| link.up = false);
    let from = world.now;
    world.traffic(0, Some(ms(100)));
    world.run(Duration::from_mins(5));
    let probes = world.probes_since(0, from);
    let expected =
        [15.0, 15.5, 16.0, 16.5, 17.5, 19.5, 23.5, 31.5, 47.5, 79.5, 139.5, 199.5, 259.5];
    assert_eq!(since(probes.iter().map(|p| p.0), from), expected);
    let first: Vec<Pair> = probes.iter().take(4).map(|p| p.1).collect();
    assert_eq!(first[0], pair(2, 2), "the one that shares nothing with the one that failed");
    assert_eq!(first[3], pair(1, 1), "the one that failed comes last");
    let mut all = first.clone();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 4, "every pair is tried before one is tried again");
    let second: Vec<Pair> = probes.iter().skip(4).take(4).map(|p| p.1).collect();
    assert_eq!(second, first, "and then again");
    assert!(world.hosts[0].probes.iter().all(|p| p.2.state == ReapState::Exploring));
    assert_eq!(world.hosts[0].reap.current(), pair(1, 1), "payload keeps to the old pair");
}

// RFC 5534 4.1, 6.1, 6.3, 7
#[test]
fn keepalives_come_at_a_third_to_a_half_of_15_s_and_a_last_one_at_the_end() {
    for seed in 0..20 {
        let mut world = World::new(seed, ReapConfig::rfc(), (1, 1), ms(10));
        world.payload(0);
        let from = world.now + ms(10);
        world.run(Duration::from_mins(2));
        let times = since(world.hosts[1].keepalives.iter().copied(), from);
        assert!((5.0..=7.5).contains(&times[0]), "{times:?}");
        for pair in times[..times.len() - 1].windows(2) {
            assert!((5.0..=7.5).contains(&(pair[1] - pair[0])), "{times:?}");
        }
        assert_eq!(times.last(), Some(&15.0), "no more after the timeout: {times:?}");
        assert!(world.hosts[0].probes.is_empty(), "the sender is content");
    }
    let mut first: Vec<_> = (0..20)
        .map(|seed| {
            let mut world = World::new(seed, ReapConfig::rfc(), (1, 1), ms(10));
            world.payload(0);
            world.run(Duration::from_secs(30));
            world.hosts[1].keepalives[0]
        })
        .collect();
    first.sort();
    first.dedup();
    assert_eq!(first.len(), 20, "at random, so that many contexts do not answer at once");
}

// RFC 5534 4.1, 6.2
#[test]
fn traffic_in_both_directions_and_silence_need_no_keepalives() {
    let mut world = World::new(1, ReapConfig::rfc(), (2, 2), ms(10));
    world.bulk(ms(500));
    world.run(Duration::from_mins(10));
    world.traffic(0, None);
    for host in 0..2 {
        assert!(world.hosts[host].probes.is_empty() && world.hosts[host].keepalives.is_empty());
    }
    world.run(Duration::from_mins(10));
    for host in 0..2 {
        assert!(world.hosts[host].probes.is_empty());
        assert!(world.hosts[host].keepalives.len() <= 3, "as a session turns from active to idle");
    }
}

// RFC 5534 4.1, 5.3
#[test]
fn the_timeout_that_a_peer_announces_is_how_long_it_gets_keepalives() {
    let mut world = World::new(1, ReapConfig::rfc(), (1, 1), ms(10));
    world.hosts[1].reap.set_peer_timeout(Duration::from_secs(30));
    world.payload(0);
    let from = world.now + ms(10);
    world.run(Duration::from_mins(2));
    let times = since(world.hosts[1].keepalives.iter().copied(), from);
    assert!((10.0..=15.0).contains(&times[0]), "{times:?}");
    assert_eq!(times.last(), Some(&30.0));
    assert_eq!(ReapConfig::rfc().announced(), None, "the default need not be said");
    let config = ReapConfig { send_timeout: secs(20.0), ..ReapConfig::rfc() };
    assert_eq!(config.announced(), Some(secs(20.0)));
}

// RFC 5534 4.2, 6.4, 6.7, 6.8, 6.9
#[test]
fn a_failure_of_one_pair_is_repaired_after_the_send_timeout_and_a_round_trip() {
    let mut world = World::new(1, ReapConfig::rfc(), (2, 2), ms(10));
    world.bulk(ms(100));
    world.run(Duration::from_mins(1));
    let from = world.now;
    world.set_up(pair(1, 1), false);
    world.run(Duration::from_mins(1));
    let took = world.switches(0)[0].0 - from;
    // The send timer starts with the first packet after the last acknowledgement.
    assert!((secs(15.0)..=secs(15.2)).contains(&took), "{took:?}");
    let states: Vec<Vec<ReapState>> =
        world.hosts.iter().map(|h| h.probes.iter().map(|p| p.2.state).collect()).collect();
    assert_eq!(states[0], [ReapState::Exploring, ReapState::Operational]);
    assert_eq!(states[1], [ReapState::InboundOk]);
    assert_eq!(world.hosts[0].reap.current(), pair(2, 2));
    assert_eq!(world.hosts[1].reap.current(), pair(2, 2).reversed());
    assert!(matches!(
        world.hosts[0].events[..],
        [
            (_, ReapEvent::Exploring),
            (_, ReapEvent::Operational),
            (_, ReapEvent::Switched { why: Why::SendTimeout, .. })
        ]
    ));
}

// RFC 5534 5.2, 6.1
#[test]
fn a_probe_tells_of_earlier_ones_and_of_those_received_since_it_explores() {
    let mut reap = reap(&ReapConfig::rfc(), 2, 1);
    let mut now = Instant::from_millis(2_000);
    let probes = |reap: &mut Reap, now| {
        let sent = drain(reap, now).into_iter();
        let sent = sent.filter_map(|(_, out)| match out {
            Outgoing::Probe(probe) => Some(probe),
            Outgoing::Keepalive => None,
        });
        sent.collect::<Vec<_>>()
    };
    reap.payload_sent(now);
    now += secs(15.0);
    reap.handle_timeout(now);
    let first = probes(&mut reap, now).remove(0);
    assert_eq!((first.sent.len(), first.received.len()), (1, 0));
    now += ms(500);
    reap.handle_timeout(now);
    let second = probes(&mut reap, now).remove(0);
    assert_eq!(second.sent[1..], first.sent[..], "not yet reported: told again");
    assert_ne!(second.sent[0].nonce, first.sent[0].nonce);

    let heard = from_peer(ReapState::Exploring, &[]);
    reap.probe_received(now, pair(1, 1), &heard);
    let third = probes(&mut reap, now).remove(0);
    assert_eq!(third.state, ReapState::InboundOk);
    assert_eq!(third.received[..], heard.sent[..], "copied with no change");

    // The peer reports the second: it is not told again.
    let mut report = from_peer(ReapState::Exploring, &second.sent[..1]);
    report.sent[0].nonce = 100;
    assert!(reap.probe_received(now, pair(1, 1), &report));
    let fourth = probes(&mut reap, now).remove(0);
    assert!(!fourth.sent.contains(&second.sent[0]));
    assert_eq!(fourth.received[..], [report.sent[0], heard.sent[0]], "newest first");

    // Silence again: what was received before counts no longer.
    now += secs(15.0);
    reap.handle_timeout(now);
    assert_eq!(reap.state(), ReapState::Exploring);
    assert!(probes(&mut reap, now).iter().all(|p| p.received.is_empty()));
}

// RFC 5534 5.2
// RFC 5533 16
#[test]
fn nobody_is_told_of_probes_that_went_to_another_locator() {
    // He who is would report them, and have payload sent to whoever is there.
    for config in [ReapConfig::rfc(), ReapConfig::data_centre()] {
        let (mut reap, mut now) = (reap(&config, 2, 3), Instant::from_millis(2_000));
        reap.payload_sent(now);
        let mut told_again = 0;
        for _ in 0..200 {
            now += ms(500);
            reap.handle_timeout(now);
            for (pair, out) in drain(&mut reap, now) {
                let Outgoing::Probe(probe) = out else { continue };
                assert!(probe.sent.iter().all(|report| report.dst == pair.remote));
                told_again += probe.sent.len() - 1;
            }
        }
        assert!(told_again > 10);
    }
}

// RFC 5534 5.2
#[test]
fn no_more_is_told_than_a_packet_of_1280_bytes_holds() {
    let mut reap = reap(&ReapConfig::rfc(), 4, 8);
    let mut now = Instant::from_millis(2_000);
    reap.payload_sent(now);
    for n in 0..200 {
        now += secs(20.0);
        reap.handle_timeout(now);
        let mut probe = from_peer(ReapState::Exploring, &[]);
        probe.sent[0].nonce = n;
        reap.probe_received(now, pair(1, 1), &probe);
        for (_, out) in drain(&mut reap, now) {
            let Outgoing::Probe(probe) = out else { continue };
            assert!(probe.len() + 12 + 8 + 40 <= 1_280, "with a UDP header of the encapsulation");
            assert!(probe.sent.len() <= 15 && probe.received.len() <= 15);
        }
    }
}

// RFC 5534 5.2, 8
#[test]
fn nonces_cannot_be_guessed_from_earlier_ones() {
    let mut reap = reap(&ReapConfig::rfc(), 2, 2);
    let mut now = Instant::from_millis(2_000);
    let mut nonces = vec![];
    for _ in 0..100 {
        reap.probe_received(now, pair(1, 1), &from_peer(ReapState::Exploring, &[]));
        nonces.extend(reports_of(&drain(&mut reap, now)).iter().map(|r| r.nonce));
        now += secs(1.0);
    }
    let mut differences: Vec<_> = nonces.windows(2).map(|w| w[1].wrapping_sub(w[0])).collect();
    differences.sort_unstable();
    differences.dedup();
    assert_eq!(differences.len(), nonces.len() - 1);
}

// RFC 5534 4.3
#[test]
fn pairs_that_no_packet_can_go_between_are_not_tried() {
    let now = Instant::from_millis(1_000);
    let mut reap = Reap::new(&ReapConfig::rfc(), [1; 16], now, pair(1, 1));
    let with = |text: &str| Locator::new(text.parse().unwrap(), Verification::Keyed);
    let local = [locators(1, 1)[0], with("fe80::1"), with("192.0.2.1"), with("::1")];
    let peer = [locators(2, 1)[0], with("fe80::2"), with("192.0.2.2"), with("ff02::1")];
    reap.set_paths(now, &local, &peer);
    let pairs: Vec<Pair> = reap.paths.all.iter().map(|p| p.pair).collect();
    let expected: Vec<Pair> = [0, 1, 2].map(|n| Pair::new(local[n].addr, peer[n].addr)).into();
    assert_eq!(pairs, expected);
}

// RFC 5534 4.3
#[test]
fn what_its_owner_prefers_is_tried_first_and_what_is_broken_last() {
    let now = Instant::from_millis(2_000);
    let mut reap = reap(&ReapConfig::rfc(), 1, 1);
    let mut peer = locators(2, 4);
    peer[1].preference.priority = 20;
    peer[2].preference.priority = 10;
    peer[3].preference.flags = Preference::BROKEN;
    reap.set_paths(now, &locators(1, 1), &peer);
    reap.explore(now, Why::SendTimeout, false);
    let mut order = vec![];
    for n in 0..4 {
        order.extend(drain(&mut reap, now + ms(500) * n).iter().map(|(pair, _)| pair.remote));
        reap.handle_timeout(now + ms(500) * (n + 1));
    }
    assert_eq!(order, [ip(2, 3), ip(2, 2), ip(2, 4), ip(2, 1)]);
}
