//! Random hosts, links and failures: whenever packets can pass, they do so soon.

use super::world::*;
use super::*;

/// From the moment there is a working pair in each direction.
const BOUND: Duration = Duration::from_secs(5);

fn some_locator(world: &mut World, host: u8, count: u8) -> IpAddr {
    ip(host, world.rng.below(u64::from(count)) as u8 + 1)
}

/// Something fails, comes back or is said.
fn misfortune(world: &mut World, counts: (u8, u8)) {
    let (a, b) = (some_locator(world, 1, counts.0), some_locator(world, 2, counts.1));
    let up = world.rng.below(3) == 0;
    match world.rng.below(12) {
        0..3 => world.link(a, b).up = up,
        3..6 => world.link(b, a).up = up,
        6 => world.set_up(Pair::new(a, b), up),
        7 => world.set_address_up(a, up),
        8 => {
            world.set_address_up(a, up);
            world.hint(0, if up { Hint::LocatorBack(a) } else { Hint::LinkDown(a) });
        }
        9 => {
            world.set_address_up(b, up);
            world.hint(1, if up { Hint::LocatorBack(b) } else { Hint::LocatorGone(b) });
        }
        10 => world.hint(0, Hint::NoProgress),
        _ => world.hint(0, Hint::Icmp(Pair::new(a, b))),
    }
}

fn random_world(seed: u64, config: ReapConfig, counts: (u8, u8)) -> World {
    let mut world = World::new(seed, config, counts, ms(1));
    let mut rng = Rng::from_u64(seed ^ 0x5eed);
    world.each_link(|link| {
        link.delay = Duration::from_micros(rng.below(15_000));
        link.loss_percent = if rng.below(4) == 0 { rng.below(30) } else { 0 };
    });
    // As fast as failures are noticed.
    let slow = if config == ReapConfig::rfc() { 40 } else { 1 };
    match world.rng.below(3) {
        0 => world.bulk(ms(5) * slow),
        1 => world.traffic(0, Some(ms(7) * slow)),
        _ => {
            world.traffic(0, Some(ms(20) * slow));
            world.traffic(1, Some(ms(50) * slow));
        }
    }
    world
}

/// All is well again with what is said to be there, in one pair a direction.
fn relief(world: &mut World, counts: (u8, u8)) -> (Pair, Pair) {
    world.each_link(|link| *link = Link { loss_percent: 0, ..*link });
    for n in 1..=counts.0 {
        world.hint(0, Hint::LocatorBack(ip(1, n)));
    }
    for n in 1..=counts.1 {
        world.hint(1, Hint::LocatorBack(ip(2, n)));
    }
    let way = |world: &mut World| {
        Pair::new(some_locator(world, 1, counts.0), some_locator(world, 2, counts.1))
    };
    let (there, back) = (way(world), way(world));
    world.link(there.local, there.remote).up = true;
    world.link(back.remote, back.local).up = true;
    (there, back)
}

fn check_settled(world: &mut World, seed: u64) {
    let after = world.now;
    let explorations =
        |world: &World| world.hosts.iter().map(|h| h.reap.stats().explorations).collect::<Vec<_>>();
    let before = explorations(world);
    world.run(Duration::from_secs(2));
    for host in 0..2 {
        let h = &world.hosts[host];
        assert_eq!(h.reap.state(), ReapState::Operational, "host {host}, seed {seed}");
        if let Some(every) = h.traffic.every {
            let gap = world.gap(1 - host, after);
            assert!(gap <= every + ms(50), "to host {}: {gap:?}, seed {seed}", 1 - host);
        }
        assert!(h.reap.report(world.now).paths.iter().filter(|p| p.current).count() == 1);
    }
    assert_eq!(explorations(world), before, "no more alarms, seed {seed}");
    world.check_budget();
}

#[test]
fn whenever_there_is_a_way_in_each_direction_traffic_flows_within_the_bound() {
    for seed in 0..seeds(300) {
        let mut rng = Rng::from_u64(seed);
        let counts = (rng.below(4) as u8 + 1, rng.below(4) as u8 + 1);
        let mut world = random_world(seed, ReapConfig::data_centre(), counts);
        for _ in 0..15 {
            misfortune(&mut world, counts);
            let pause = Duration::from_micros(world.rng.below(600_000));
            world.run(pause);
        }
        relief(&mut world, counts);
        let from = world.now;
        world.run(BOUND);
        for host in 0..2 {
            if world.hosts[host].traffic.every.is_some() {
                let first = world.hosts[1 - host].arrived.iter().find(|at| **at > from);
                assert!(first.is_some(), "to host {}: nothing, seed {seed}", 1 - host);
            }
        }
        check_settled(&mut world, seed);
    }
}

#[test]
fn with_the_constants_of_the_rfc_as_well_if_later() {
    for seed in 0..seeds(60) {
        let counts = (2, 2);
        let mut world = random_world(seed, ReapConfig::rfc(), counts);
        for _ in 0..6 {
            misfortune(&mut world, counts);
            let pause = Duration::from_millis(world.rng.below(10_000));
            world.run(pause);
        }
        relief(&mut world, counts);
        world.run(Duration::from_mins(6));
        check_settled(&mut world, seed);
    }
}

#[test]
fn forged_and_replayed_probes_do_not_move_traffic() {
    for seed in 0..seeds(50) {
        let mut world = World::new(seed, ReapConfig::data_centre(), (3, 3), ms(2));
        world.bulk(ms(5));
        world.run(Duration::from_secs(2));
        let seen: Vec<_> = world.hosts[1].probes.iter().map(|p| p.2.clone()).collect();
        for n in 0..400 {
            let by = pair(world.rng.below(3) as u8 + 1, world.rng.below(3) as u8 + 1);
            let state = [ReapState::Operational, ReapState::Exploring, ReapState::InboundOk]
                [world.rng.below(3) as usize];
            let number = |world: &mut World| world.rng.next_u32();
            let report = |world: &mut World| Report {
                src: by.local,
                dst: by.remote,
                nonce: number(world),
                data: number(world) & 0xffff | 0x5700_0000 | (world.rng.below(3) as u32) << 16,
            };
            let mut probe = from_peer_by(by, state, &[report(&mut world)]);
            probe.sent[0].nonce = n;
            probe.sent[0].data = report(&mut world).data;
            if world.rng.below(2) == 0 {
                probe = seen[world.rng.below(seen.len() as u64) as usize].clone();
            }
            let now = world.now;
            world.hosts[0].reap.probe_received(now, by, &probe);
            world.flush(0);
            world.run(ms(10));
        }
        for host in 0..2 {
            assert!(world.switches(host).is_empty(), "seed {seed}: {:?}", world.switches(host));
        }
        world.check_budget();
    }
}
