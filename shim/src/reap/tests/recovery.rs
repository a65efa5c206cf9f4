//! How long flows stand still: bounds in virtual time with the preset for data centres.

use super::world::*;
use super::*;

/// Round trips for which the preset is meant.
const ROUND_TRIPS: [u64; 5] = [0, 1, 5, 20, 30];

fn world(seed: u64, counts: (u8, u8), rtt_ms: u64) -> World {
    let mut world = World::new(seed, ReapConfig::data_centre(), counts, ms(rtt_ms) / 2);
    world.bulk(ms(20));
    world.run(Duration::from_secs(3) + Duration::from_micros(seed * 3_700 % 100_000));
    world.bulk(ms(1));
    world.run(ms(100));
    for host in 0..2 {
        assert_eq!(world.hosts[host].reap.stats().switches, 0);
        assert_eq!(world.hosts[host].reap.stats().explorations, 0);
    }
    world
}

/// A packet a millisecond, and half the last round trip to arrive.
fn slack(rtt_ms: u64) -> Duration {
    ms(1) + ms(rtt_ms) / 2
}

#[test]
fn link_loss_by_hint_is_repaired_within_two_round_trips_and_5_ms() {
    for rtt in ROUND_TRIPS {
        for seed in 0..seeds(10) {
            let mut world = world(seed, (2, 2), rtt);
            let from = world.now;
            world.set_address_up(ip(1, 1), false);
            world.hint(0, Hint::LinkDown(ip(1, 1)));
            world.run(ms(300));
            let (there, back) = (world.gap(1, from), world.gap(0, from));
            let bound = ms(2 * rtt + 5);
            assert!(there <= bound, "{there:?} with {rtt} ms, seed {seed}");
            // The answer to what arrived then has half a round trip to go.
            assert!(back <= bound + ms(rtt) / 2, "{back:?} with {rtt} ms, seed {seed}");
            assert_eq!(world.hosts[0].reap.current().local, ip(1, 2));
            assert_eq!(world.hosts[1].reap.current().remote, ip(1, 2));
            world.check_budget();
        }
    }
}

#[test]
fn link_loss_by_hint_is_repaired_as_fast_when_nothing_was_measured() {
    for rtt in ROUND_TRIPS {
        let config = ReapConfig { measure: None, ..ReapConfig::data_centre() };
        let mut world = World::new(rtt, config, (2, 2), ms(rtt) / 2);
        world.bulk(ms(1));
        world.run(ms(3_000));
        let from = world.now;
        world.set_address_up(ip(1, 1), false);
        world.hint(0, Hint::LocatorGone(ip(1, 1)));
        world.run(ms(1_000));
        let there = world.gap(1, from);
        assert!(there <= ms(2 * rtt + 5), "{there:?} with {rtt} ms");
    }
}

#[test]
fn silent_loss_with_traffic_is_repaired_within_200_ms() {
    for rtt in ROUND_TRIPS {
        for seed in 0..seeds(10) {
            let mut world = world(seed, (2, 2), rtt);
            let from = world.now;
            world.set_up(pair(1, 1), false);
            world.run(ms(600));
            for host in 0..2 {
                let gap = world.gap(host, from);
                let bound = ms(200) + slack(rtt) * u32::from(host == 0);
                assert!(gap <= bound, "host {host}: {gap:?} with {rtt} ms, seed {seed}");
                assert_eq!(world.hosts[host].reap.state(), ReapState::Operational);
            }
            world.check_budget();
        }
    }
}

#[test]
fn a_provider_that_goes_dark_in_one_direction_is_left_within_200_ms() {
    for rtt in ROUND_TRIPS {
        for seed in 0..seeds(10) {
            for (src, dst) in [(ip(1, 1), ip(2, 1)), (ip(2, 1), ip(1, 1))] {
                let mut world = world(seed, (2, 2), rtt);
                let from = world.now;
                world.link(src, dst).up = false;
                world.run(ms(600));
                for host in 0..2 {
                    let gap = world.gap(host, from);
                    let bound = ms(200) + slack(rtt);
                    assert!(gap <= bound, "{src} to {dst}, host {host}: {gap:?}, {rtt} ms");
                }
            }
        }
    }
}

#[test]
fn traffic_in_one_direction_only_is_watched_as_well() {
    for rtt in ROUND_TRIPS {
        let config = ReapConfig::data_centre();
        let mut world = World::new(rtt, config, (2, 2), ms(rtt) / 2);
        world.traffic(0, Some(ms(1)));
        world.run(ms(5_000));
        assert_eq!(world.hosts[0].reap.stats().explorations, 0, "keepalives come back");
        let from = world.now;
        world.set_up(pair(1, 1), false);
        world.run(ms(600));
        let gap = world.gap(1, from);
        // The last keepalive restarted the clock up to half a timeout before.
        assert!(gap <= ms(200), "{gap:?} with {rtt} ms");
    }
}

#[test]
fn after_an_idle_time_the_next_request_is_answered_within_200_ms_and_a_round_trip() {
    for rtt in ROUND_TRIPS {
        for seed in 0..seeds(5) {
            // With measurements the failure may be known before; without, it never is.
            for measure in [None, ReapConfig::data_centre().measure] {
                let config = ReapConfig { measure, ..ReapConfig::data_centre() };
                let mut world = World::new(seed, config, (2, 2), ms(rtt) / 2);
                world.hosts[1].traffic.answers = true;
                world.payload(0);
                world.run(Duration::from_secs(20));
                world.set_up(pair(1, 1), false);
                world.run(ms(100 * seed));
                // A transport repeats its request when the pair in use changes.
                let from = world.now;
                world.payload(0);
                let mut switches = world.switches(0).len();
                let mut answered = None;
                while answered.is_none() && world.now - from < ms(1_000) {
                    world.run(Duration::from_micros(100));
                    answered = world.hosts[0].arrived.iter().copied().find(|at| *at > from);
                    if world.switches(0).len() > switches {
                        switches += 1;
                        world.payload(0);
                    }
                }
                let took = answered.unwrap() - from;
                assert!(took <= ms(200 + rtt), "{took:?} with {rtt} ms, seed {seed}");
            }
        }
    }
}

// RFC 5534 3.3, 4.2
#[test]
fn pairs_that_work_in_one_direction_only_are_found_and_used() {
    for rtt in ROUND_TRIPS {
        for seed in 0..seeds(10) {
            let mut world = world(seed, (3, 3), rtt);
            let (from, there, back) = (world.now, pair(2, 3), pair(3, 2));
            world.each_link(|link| link.up = false);
            world.link(there.local, there.remote).up = true;
            world.link(back.remote, back.local).up = true;
            world.run(ms(600));
            for host in 0..2 {
                let gap = world.gap(host, from);
                assert!(gap <= ms(450), "host {host}: {gap:?} with {rtt} ms, seed {seed}");
            }
            assert_eq!(world.hosts[0].reap.current(), there);
            assert_eq!(world.hosts[1].reap.current(), back.reversed());
            world.check_budget();
        }
    }
}

#[test]
fn a_false_alarm_changes_nothing() {
    for rtt in ROUND_TRIPS {
        let mut world = world(3, (2, 2), rtt);
        let from = world.now;
        for hint in [Hint::NoProgress, Hint::Icmp(pair(1, 1)), Hint::NoProgress] {
            world.hint(0, hint);
            world.run(ms(500));
        }
        assert!(world.hosts[0].reap.stats().explorations > 0);
        assert!(world.switches(0).is_empty() && world.switches(1).is_empty());
        assert_eq!(world.hosts[0].reap.state(), ReapState::Operational);
        assert!(world.gap(1, from) <= ms(2));
    }
}

#[test]
fn everything_down_then_one_pair_up_is_found_within_the_longest_interval() {
    let config = ReapConfig::data_centre();
    for seed in 0..seeds(10) {
        let mut world = world(seed, (4, 4), 10);
        world.each_link(|link| link.up = false);
        world.run(Duration::from_secs(30));
        for host in 0..2 {
            let told = world.hosts[host].events.iter().filter(|(_, e)| *e == ReapEvent::NoPath);
            assert!(told.count() >= 1, "it is told that there is no path");
        }
        world.check_budget();
        let from = world.now;
        world.set_up(pair(3, 4), true);
        world.run(Duration::from_secs(10));
        let gap = world.gap(1, from);
        assert!(gap <= config.max_probe_timeout * 2 + ms(500), "{gap:?}, seed {seed}");
        world.check_budget();
    }
}

#[test]
fn every_context_at_once_stays_within_its_budget_for_an_hour_of_silence() {
    for config in [ReapConfig::data_centre(), ReapConfig::rfc()] {
        let mut world = World::new(1, config, (4, 4), ms(5));
        world.bulk(ms(50));
        world.run(Duration::from_secs(2));
        world.each_link(|link| link.up = false);
        world.run(Duration::from_hours(1));
        world.check_budget();
        let slowest = config.max_probe_timeout.as_secs_f64();
        let rounds = 3_600.0 / slowest * config.parallel as f64;
        let sent = world.hosts[0].probes.len() as f64;
        assert!(sent <= rounds * 1.3 + 100.0, "{sent} probes");
    }
}
