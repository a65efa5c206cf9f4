//! What becomes of a pair in use that the peer calls broken.

use super::world::*;
use super::*;

fn quiet() -> ReapConfig {
    ReapConfig { measure: None, ..ReapConfig::data_centre() }
}

/// The peer's locators, of which these are flagged.
fn with_broken(count: u8, broken: &[u8]) -> Vec<Locator> {
    let mut all = locators(2, count);
    for n in broken {
        all[usize::from(*n) - 1].preference.flags |= Preference::BROKEN;
    }
    all
}

/// Host 1 is told of them.
fn told(world: &mut World, local: u8, remote: &[Locator]) {
    let now = world.now;
    world.hosts[0].reap.set_paths(now, &locators(1, local), remote);
    world.flush(0);
}

#[test]
fn it_is_left_at_once_for_one_that_works() {
    for seed in 0..20 {
        let mut world = World::new(seed, ReapConfig::data_centre(), (2, 2), ms(5));
        world.bulk(ms(1));
        world.run(Duration::from_secs(3));
        let from = world.now;
        told(&mut world, 2, &with_broken(2, &[1]));
        let current = world.hosts[0].reap.current();
        assert_eq!(current.remote, ip(2, 2), "seed {seed}");
        world.run(Duration::from_mins(1));
        let switches = world.switches(0);
        assert_eq!(switches, [(from, current, Why::Broken)], "nor is it used again, seed {seed}");
        assert_eq!(world.hosts[0].reap.state(), ReapState::Operational);
        assert!(world.gap(1, from) <= ms(2), "{:?}", world.gap(1, from));
        world.check_budget();
    }
}

#[test]
fn one_that_works_is_looked_for_while_packets_go_on() {
    for (config, within) in [(quiet(), ms(100)), (ReapConfig::rfc(), Duration::from_secs(3))] {
        for seed in 0..20 {
            let mut world = World::new(seed, config, (2, 2), ms(5));
            world.bulk(ms(1));
            world.run(Duration::from_secs(1));
            let from = world.now;
            told(&mut world, 2, &with_broken(2, &[1]));
            assert_eq!(world.hosts[0].reap.current(), pair(1, 1), "no other is known to work");
            world.run(Duration::from_secs(20));
            let switches = world.switches(0);
            assert!(switches[0].0 - from <= within, "{switches:?}, seed {seed}");
            assert_eq!(switches[0].1.remote, ip(2, 2), "seed {seed}");
            assert_eq!(world.hosts[0].reap.current().remote, ip(2, 2), "seed {seed}");
            assert_eq!(world.hosts[0].reap.state(), ReapState::Operational);
            assert!(world.gap(1, from) <= ms(2), "{:?}", world.gap(1, from));
        }
    }
}

#[test]
fn it_is_used_on_while_nothing_else_works() {
    for config in [quiet(), ReapConfig::data_centre(), ReapConfig::rfc()] {
        for seed in 0..20 {
            let mut world = World::new(seed, config, (1, 2), ms(5));
            world.bulk(ms(1));
            world.set_up(pair(1, 2), false);
            world.run(Duration::from_secs(10));
            let from = world.now;
            told(&mut world, 1, &with_broken(2, &[1]));
            world.run(Duration::from_secs(30));
            assert!(world.switches(0).is_empty(), "{:?}, seed {seed}", world.switches(0));
            assert_eq!(world.hosts[0].reap.state(), ReapState::Operational, "seed {seed}");
            assert!(world.gap(1, from) <= ms(2), "{:?}", world.gap(1, from));
            world.check_budget();
        }
    }
}

#[test]
fn the_operators_choice_is_tested_and_stays_while_it_works() {
    for config in [quiet(), ReapConfig::data_centre(), ReapConfig::rfc()] {
        for seed in 0..20 {
            let mut world = World::new(seed, config, (2, 2), ms(5));
            world.bulk(ms(1));
            world.run(Duration::from_secs(3));
            let now = world.now;
            world.hosts[0].reap.switch(now, pair(2, 1)).unwrap();
            world.flush(0);
            world.run(Duration::from_secs(3));
            let (from, before) = (world.now, world.hosts[0].probes.len());
            told(&mut world, 2, &with_broken(2, &[1]));
            world.run(Duration::from_secs(20));
            let tested = &world.hosts[0].probes[before..];
            assert!(tested.iter().any(|(_, by, _)| *by == pair(2, 1)), "seed {seed}");
            assert_eq!(world.switches(0).len(), 1, "{:?}, seed {seed}", world.switches(0));
            assert!(world.hosts[0].reap.report(world.now).pinned);
            assert_eq!(world.hosts[0].reap.state(), ReapState::Operational);
            assert!(world.gap(1, from) <= ms(2), "{:?}", world.gap(1, from));
        }
    }
}

#[test]
fn the_operators_choice_is_left_when_it_fails_as_well() {
    for seed in 0..20 {
        let mut world = World::new(seed, quiet(), (2, 2), ms(5));
        world.bulk(ms(1));
        world.run(Duration::from_secs(1));
        let now = world.now;
        world.hosts[0].reap.switch(now, pair(2, 1)).unwrap();
        world.flush(0);
        world.run(Duration::from_secs(1));
        let from = world.now;
        world.set_address_up(ip(2, 1), false);
        told(&mut world, 2, &with_broken(2, &[1]));
        world.run(Duration::from_secs(2));
        assert_eq!(world.hosts[0].reap.current().remote, ip(2, 2), "seed {seed}");
        assert!(world.gap(1, from) <= ms(200), "{:?}, seed {seed}", world.gap(1, from));
    }
}

#[test]
fn what_is_called_broken_without_an_alternative_changes_nothing() {
    for broken in [&with_broken(1, &[1]), &with_broken(2, &[1, 2])] {
        let mut reap = reap(&ReapConfig::data_centre(), 2, 2);
        let now = Instant::from_millis(2_000);
        drain(&mut reap, now);
        events(&mut reap);
        reap.set_paths(now, &locators(1, 2), broken);
        assert_eq!((reap.state(), reap.current()), (ReapState::Operational, pair(1, 1)));
        assert!(events(&mut reap).is_empty());
    }
}

#[test]
fn the_same_word_again_is_no_news() {
    let mut world = World::new(3, quiet(), (1, 2), ms(5));
    world.bulk(ms(1));
    world.set_up(pair(1, 2), false);
    world.run(Duration::from_secs(1));
    told(&mut world, 1, &with_broken(2, &[1]));
    world.run(Duration::from_secs(10));
    let explorations = world.hosts[0].reap.stats().explorations;
    for _ in 0..100 {
        told(&mut world, 1, &with_broken(2, &[1]));
        world.run(ms(10));
    }
    assert_eq!(world.hosts[0].reap.stats().explorations, explorations);
}

// A peer whose link is down explores and says so: whichever of both comes first.
#[test]
fn a_peer_whose_link_went_down_is_followed_within_two_round_trips() {
    for config in [quiet(), ReapConfig::data_centre()] {
        for (seed, late) in (0..40).flat_map(|seed| [(seed, 0), (seed, 3), (seed, 12)]) {
            let mut world = World::new(seed, config, (2, 2), ms(5));
            world.bulk(ms(1));
            world.run(Duration::from_secs(2));
            let from = world.now;
            world.set_address_up(ip(2, 1), false);
            world.hint(1, Hint::LinkDown(ip(2, 1)));
            world.run(ms(5 + late));
            told(&mut world, 2, &with_broken(2, &[1]));
            world.run(ms(500));
            assert_eq!(world.hosts[0].reap.current().remote, ip(2, 2), "seed {seed}, {late}");
            assert!(world.gap(1, from) <= ms(25), "{:?}, {seed}, {late}", world.gap(1, from));
        }
    }
}
