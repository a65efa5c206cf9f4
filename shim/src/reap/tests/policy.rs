//! Which of several working pairs is used, and what is measured for that.

use super::world::*;
use super::*;

fn preferring() -> ReapConfig {
    ReapConfig { policy: Policy::Prefer, ..ReapConfig::data_centre() }
}

/// Two providers; the first costs less.
fn two_providers(seed: u64, config: ReapConfig) -> World {
    let costs = |host| {
        let mut locators = locators(host, 2);
        locators[1].preference.priority = 10;
        locators
    };
    let mut world = World::of(seed, config, &costs(1), &costs(2), ms(5));
    world.bulk(ms(20));
    world.run(Duration::from_secs(20));
    world
}

#[test]
fn failover_stays_and_preference_returns_when_the_cheaper_pair_has_held() {
    for (policy, back) in [(Policy::Failover, false), (Policy::Prefer, true)] {
        let config = ReapConfig { policy, ..ReapConfig::data_centre() };
        let mut world = two_providers(1, config);
        world.set_up(pair(1, 1), false);
        world.run(Duration::from_secs(5));
        let other = world.hosts[0].reap.current();
        assert_ne!(other, pair(1, 1));
        world.set_up(pair(1, 1), true);
        let from = world.now;
        world.run(config.hold);
        assert_ne!(world.hosts[0].reap.current(), pair(1, 1), "not before it has held");
        world.run(Duration::from_secs(10));
        assert_eq!(world.hosts[0].reap.current() == pair(1, 1), back, "{policy:?}");
        assert!(world.gap(1, from) <= ms(21), "no gap on the way back");
        if back {
            assert_eq!(world.switches(0).last().unwrap().2, Why::Policy);
            assert_eq!(world.hosts[1].reap.current(), pair(1, 1).reversed());
        }
    }
}

#[test]
fn a_pair_is_not_blamed_for_what_the_operator_of_the_other_host_wants() {
    let mut world = World::new(1, ReapConfig::data_centre(), (2, 2), ms(5));
    world.bulk(ms(1));
    world.run(Duration::from_secs(3));
    for to in [pair(2, 2), pair(1, 1)].into_iter().cycle().take(10) {
        let now = world.now;
        world.hosts[0].reap.switch(now, to).unwrap();
        world.flush(0);
        world.run(ms(300));
        assert_eq!(world.hosts[0].reap.current(), to);
    }
    let (now, config) = (world.now, ReapConfig::data_centre());
    for host in &world.hosts {
        for path in &host.reap.paths.all {
            assert_eq!(path.penalty(now, config.damping), 0, "{path:?}");
            assert!(!path.is_suppressed(now, config.damping) && path.is_alive(now, &config));
        }
    }
}

#[test]
fn who_asks_again_before_an_answer_can_have_come_makes_no_pair_lossy() {
    let mut reap = reap(&ReapConfig::data_centre(), 2, 2);
    let mut now = Instant::from_millis(1_000);
    let requests = |sent: Vec<(Pair, Outgoing)>| -> Vec<Report> {
        let sent = reports_of(&sent).into_iter();
        sent.filter(|r| matches!(Mark::of(r.data), Some((Mark::Request, _)))).collect()
    };
    let answer = |reap: &mut Reap, now, asked: &Report| {
        let data = Mark::Answer.data(1);
        let own = Report { src: asked.dst, dst: asked.src, nonce: 5, data };
        let probe = Probe {
            state: ReapState::Operational,
            sent: Reports::from_slice(&[own]),
            received: Reports::from_slice(&[*asked]),
        };
        assert!(reap.probe_received(now, Pair::new(asked.src, asked.dst), &probe));
    };
    reap.probe_now(now);
    let asked = requests(drain(&mut reap, now));
    assert_eq!(asked.len(), 4);
    now += ms(100);
    for asked in &asked {
        answer(&mut reap, now, asked);
    }
    let mut last = Vec::new();
    for _ in 0..4 {
        reap.probe_now(now);
        last = requests(drain(&mut reap, now));
        assert!(reap.paths.all.iter().all(|p| p.misses == 0), "the answers are on their way");
        now += ms(50);
    }
    now += ms(50);
    for asked in &last {
        answer(&mut reap, now, asked);
    }
    // Two round trips without an answer are a loss.
    reap.probe_now(now);
    let _ = drain(&mut reap, now);
    now += ms(200);
    reap.probe_now(now);
    assert!(reap.paths.all.iter().all(|p| p.misses == 1));
}

#[test]
fn a_pair_that_fails_again_and_again_is_left_alone() {
    let mut world = two_providers(1, preferring());
    let mut switches = vec![];
    for _ in 0..60 {
        world.set_up(pair(1, 1), false);
        world.run(Duration::from_secs(5));
        world.set_up(pair(1, 1), true);
        world.run(Duration::from_secs(13));
        switches.push(world.switches(0).len());
    }
    // Without damping there would be two switches each time: 120.
    assert!(*switches.last().unwrap() <= 10, "{switches:?}");
    let report = world.hosts[0].reap.report(world.now);
    assert!(report.paths[0].state == "works");
    world.run(Duration::from_mins(5));
    assert_eq!(world.hosts[0].reap.current(), pair(1, 1), "when it has held, it is forgiven");
}

#[test]
fn a_lossy_path_does_not_oscillate() {
    for loss in [5, 15, 30, 60] {
        for policy in [Policy::Failover, Policy::Prefer] {
            for seed in 0..seeds(3) {
                let config = ReapConfig { policy, ..ReapConfig::data_centre() };
                let mut world = two_providers(seed, config);
                world.link(ip(1, 1), ip(2, 1)).loss_percent = loss;
                world.link(ip(2, 1), ip(1, 1)).loss_percent = loss;
                // A request now and then: the worst for a detector of silence.
                world.traffic(0, Some(ms(150)));
                let before = world.switches(0).len();
                world.run(Duration::from_mins(10));
                let switches = world.switches(0).len() - before;
                assert!(switches <= 20, "{switches} in 10 minutes: {loss} %, {policy:?}, {seed}");
                world.check_budget();
            }
        }
    }
}

#[test]
fn two_lossy_paths_do_not_oscillate_either() {
    for seed in 0..seeds(5) {
        let mut world = two_providers(seed, ReapConfig::data_centre());
        world.each_link(|link| link.loss_percent = 20);
        world.traffic(0, Some(ms(150)));
        world.run(Duration::from_mins(10));
        for host in 0..2 {
            let switches = world.switches(host).len();
            assert!(switches <= 10, "{switches} in 10 minutes, seed {seed}");
        }
        world.check_budget();
    }
}

#[test]
fn contexts_spread_over_the_cheapest_pairs_by_weight() {
    let config = ReapConfig { policy: Policy::Spread, ..ReapConfig::data_centre() };
    let mut peer = locators(2, 3);
    peer[0].preference.weight = 30;
    peer[1].preference.weight = 10;
    peer[2].preference.priority = 1;
    let mut used = [0; 3];
    for seed in 0..400 {
        let mut world = World::of(seed, config, &locators(1, 1), &peer, ms(5));
        world.run(Duration::from_secs(30));
        let to = world.hosts[0].reap.current().remote;
        used[peer.iter().position(|l| l.addr == to).unwrap()] += 1;
        assert!(world.hosts[0].reap.stats().switches <= 1);
    }
    assert_eq!(used[2], 0, "it costs more");
    assert!((250..350).contains(&used[0]), "three of four: {used:?}");
}

#[test]
fn the_operators_choice_holds_until_it_fails() {
    let mut world = two_providers(1, preferring());
    let (now, chosen) = (world.now, pair(2, 2));
    world.hosts[0].reap.switch(now, chosen).unwrap();
    world.flush(0);
    world.run(Duration::from_mins(1));
    assert_eq!(world.hosts[0].reap.current(), chosen, "though another costs less");
    assert!(world.hosts[0].reap.report(world.now).pinned);
    assert!(world.gap(1, now) <= ms(21));
    world.set_up(chosen, false);
    world.run(Duration::from_secs(1));
    assert_ne!(world.hosts[0].reap.current(), chosen);
    assert!(!world.hosts[0].reap.report(world.now).pinned);

    let now = world.now;
    world.hint(0, Hint::LinkDown(ip(1, 2)));
    assert_eq!(world.hosts[0].reap.switch(now, chosen), Err(SwitchError::Gone));
}

// RFC 5534 6.8
#[test]
fn an_exploration_of_either_host_leaves_the_operators_choice_while_it_works() {
    for config in [ReapConfig::data_centre(), ReapConfig::rfc()] {
        for explorer in 0..2 {
            let mut world = World::new(1, config, (2, 2), ms(5));
            // The slowest one: the peer reports probes by the others first.
            let chosen = pair(2, 2);
            world.link(chosen.local, chosen.remote).delay = ms(40);
            world.link(chosen.remote, chosen.local).delay = ms(40);
            world.bulk(ms(20));
            world.run(Duration::from_secs(3));
            let now = world.now;
            world.hosts[0].reap.switch(now, chosen).unwrap();
            world.flush(0);
            world.run(Duration::from_secs(10));
            for _ in 0..5 {
                // As of a tail loss probe.
                world.hint(explorer, Hint::NoProgress);
                world.run(Duration::from_secs(10));
                assert_eq!(world.hosts[0].reap.current(), chosen);
                assert_eq!(world.hosts[0].reap.state(), ReapState::Operational);
            }
            assert!(world.hosts[explorer].reap.stats().explorations >= 5);
            let report = world.hosts[0].reap.report(world.now);
            assert!(report.pinned && world.switches(0).len() == 1, "{:?}", world.switches(0));
            // Only the way there fails.
            let from = world.now;
            world.link(chosen.local, chosen.remote).up = false;
            world.run(config.send_timeout * 2 + Duration::from_secs(3));
            assert_ne!(world.hosts[0].reap.current(), chosen);
            assert!(!world.hosts[0].reap.report(world.now).pinned);
            let gap = world.gap(1, from);
            assert!(gap <= config.send_timeout * 2 + ms(2_500), "{gap:?}");
        }
    }
}

#[test]
fn the_operators_choice_is_left_soon_after_the_peer_lost_its_link() {
    for rtt in [ms(1), ms(10), ms(30)] {
        let mut world = two_providers(1, ReapConfig::data_centre());
        world.bulk(ms(1));
        world.each_link(|link| link.delay = rtt / 2);
        // No provider carries anything for the other's addresses.
        world.set_up(pair(1, 2), false);
        world.set_up(pair(2, 1), false);
        let now = world.now;
        for host in &mut world.hosts {
            let other = if host.reap.current().local == ip(1, 1) {
                pair(2, 2)
            } else {
                pair(2, 2).reversed()
            };
            host.reap.switch(now, other).unwrap();
        }
        world.flush(0);
        world.flush(1);
        // Until the round trip is known.
        world.run(Duration::from_mins(1));
        assert!(world.hosts.iter().all(|h| h.reap.report(now).pinned));
        // Only the first host is told.
        let from = world.now;
        world.set_up(pair(2, 2), false);
        world.hint(0, Hint::LinkDown(ip(1, 2)));
        world.run(Duration::from_secs(1));
        assert_eq!(world.hosts[1].reap.current(), pair(1, 1).reversed());
        let gap = world.gap(0, from);
        assert!(gap <= rtt * 4 + ms(5), "{rtt:?}: {gap:?}");
    }
}

#[test]
fn the_operators_choice_may_fail_while_the_only_other_pair_goes_too() {
    for wait in 0..40 {
        let mut world = two_providers(1, ReapConfig::data_centre());
        let now = world.now;
        world.bulk(ms(1));
        world.hosts[0].reap.switch(now, pair(2, 2)).unwrap();
        world.flush(0);
        world.run(Duration::from_secs(1));
        world.set_up(pair(2, 2), false);
        world.set_up(pair(1, 2), false);
        world.set_up(pair(2, 1), false);
        world.hint(0, Hint::NoProgress);
        world.run(ms(wait));
        world.hint(0, Hint::LocatorGone(ip(1, 1)));
        world.run(Duration::from_secs(1));
        world.hint(0, Hint::LocatorBack(ip(1, 1)));
        world.run(Duration::from_secs(3));
        assert_eq!(world.hosts[0].reap.current(), pair(1, 1), "{wait} ms");
        assert_eq!(world.hosts[0].reap.state(), ReapState::Operational, "{wait} ms");
    }
}

#[test]
fn round_trip_and_loss_of_every_pair_are_known_while_traffic_takes_one() {
    let mut world = World::new(1, ReapConfig::data_centre(), (2, 2), ms(5));
    world.link(ip(1, 2), ip(2, 2)).delay = ms(15);
    world.link(ip(1, 2), ip(2, 1)).loss_percent = 25;
    world.link(ip(1, 1), ip(2, 2)).up = false;
    world.bulk(ms(10));
    world.run(Duration::from_mins(1));
    let report = world.hosts[0].reap.report(world.now);
    let of = |l: u8, r: u8| {
        *report.paths.iter().find(|p| (p.local, p.remote) == (ip(1, l), ip(2, r))).unwrap()
    };
    assert_eq!((of(1, 1).rtt_us, of(1, 1).loss_permille), (Some(10_000), Some(0)));
    assert_eq!((of(2, 2).rtt_us, of(2, 2).loss_permille), (Some(20_000), Some(0)));
    assert!((60..500).contains(&of(2, 1).loss_permille.unwrap()), "{:?}", of(2, 1));
    assert_eq!(
        (of(1, 2).state, of(1, 2).loss_permille, of(1, 2).rtt_us),
        ("silent", Some(1_000), None)
    );
    assert!(of(1, 1).current && of(1, 1).state == "works" && report.state == "operational");
    // Four pairs, once a second, and as many answers.
    let sent = world.hosts[0].probes.len();
    assert!((60 * 7..60 * 9).contains(&sent), "{sent} probes in a minute");
    assert_eq!(report.stats.explorations, 0);
    let shown = serde_json::to_value(&report).unwrap();
    assert_eq!(shown["paths"][0]["state"], "works");
    assert_eq!(shown["stats"]["switches"], 0);
}

#[test]
fn a_context_that_is_not_used_is_measured_ever_more_seldom() {
    let mut world = World::new(1, ReapConfig::data_centre(), (1, 1), ms(5));
    world.run(Duration::from_hours(1));
    let sent = world.hosts[0].probes.len();
    assert!(sent < 2 * (60 + 10), "{sent} probes in an hour");
    let from = world.now;
    world.bulk(ms(100));
    world.run(Duration::from_secs(10));
    assert!(world.probes_since(0, from).len() >= 9, "and at once when it is used again");
}

#[test]
fn a_pair_that_dies_while_nothing_is_sent_is_left_before_the_next_request() {
    let mut world = World::new(1, ReapConfig::data_centre(), (2, 2), ms(5));
    world.bulk(ms(100));
    world.run(Duration::from_secs(3));
    world.traffic(0, None);
    world.run(ms(500));
    world.set_up(pair(1, 1), false);
    world.run(Duration::from_mins(2));
    assert_ne!(world.hosts[0].reap.current(), pair(1, 1));
    assert_eq!(world.switches(0)[0].2, Why::Measured);
}

#[test]
fn a_peer_that_does_not_answer_measurements_is_left_alone() {
    let mut reap = reap(&ReapConfig::data_centre(), 2, 2);
    let mut now = Instant::from_millis(1_000);
    let mut requests = 0;
    for _ in 0..600 {
        reap.handle_timeout(now);
        requests += reports_of(&drain(&mut reap, now)).len();
        reap.payload_sent(now);
        reap.payload_received(now, pair(1, 1));
        now += ms(100);
    }
    assert_eq!(requests, 8);
    let report = reap.report(now);
    assert!(report.paths.iter().all(|p| p.loss_permille.is_none()), "nothing is said of loss");
    assert_eq!(report.stats.explorations, 0);
}

#[test]
fn every_pair_is_asked_at_the_operators_word() {
    let mut world = World::new(1, ReapConfig::rfc(), (2, 3), ms(5));
    world.hosts[0].reap.probe_now(Instant::from_millis(1_000));
    world.flush(0);
    world.run(ms(100));
    let report = world.hosts[0].reap.report(world.now);
    assert_eq!(report.paths.iter().filter(|p| p.rtt_us == Some(10_000)).count(), 6);
}

#[test]
fn pairs_beyond_the_limit_are_counted_and_the_one_in_use_is_kept() {
    let now = Instant::from_millis(1_000);
    let mut reap = Reap::new(&ReapConfig::data_centre(), [1; 16], now, pair(16, 16));
    let mut local = locators(1, 16);
    local[15].preference.priority = 200;
    reap.set_paths(now, &local, &locators(2, 16));
    let report = reap.report(now);
    assert_eq!((report.paths.len(), report.left_out), (PATHS_MAX, 256 - PATHS_MAX as u32));
    assert!(report.paths.iter().any(|p| p.current));
    assert!(events(&mut reap).is_empty());
}
