//! Random cables, losses, restarts and operators: the lab's rules hold at every instant, and when
//! it is quiet again both ends agree.

use weft_stack::rng::Rng;
use weft_stack::time::Duration;

use super::config::SelectPolicy;
use super::lab_tests::*;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn random_config(rng: &mut Rng, ports: usize) -> BondConfig {
    let mut config = if rng.below(2) == 0 { fast(ports) } else { config(ports) };
    config.lacp.independent = rng.below(2) == 0;
    config.lacp.system_priority = rng.below(3) as u16;
    config.lacp.max_ports = [None, None, Some(1), Some(2)][rng.below(4) as usize];
    config.min_links = 1 + rng.below(2) as u16;
    config.lacp.select =
        [SelectPolicy::Stable, SelectPolicy::Bandwidth, SelectPolicy::Count][rng.below(3) as usize];
    for port in &mut config.ports {
        port.priority = rng.below(4) as u16;
        port.individual = rng.below(20) == 0;
    }
    config.lacp.fallback = rng.below(4) == 0;
    config
}

fn disturb(lab: &mut Lab, rng: &mut Rng, configs: &[BondConfig]) {
    let cable = rng.below(lab.cables.len() as u64) as usize;
    let bond = rng.below(2) as usize;
    match rng.below(8) {
        0 | 1 => lab.set_link(cable, false),
        2 | 3 => lab.set_link(cable, true),
        4 => lab.cables[cable].loss = [rng.below(101), rng.below(101)],
        5 => lab.cables[cable].loss = [[0, 100], [100, 0], [0, 0], [30, 30]][rng.below(4) as usize],
        6 => {
            let port = rng.below(configs[bond].ports.len() as u64) as usize;
            lab.bonds[bond].set_offline(lab.now, port, rng.below(2) == 0);
        }
        _ => restart(lab, bond, &configs[bond], rng.below(5000)),
    }
}

/// The process of a bond ends, and another begins.
fn restart(lab: &mut Lab, index: usize, config: &BondConfig, away_ms: u64) {
    let saved = lab.bonds[index].save(lab.now);
    lab.restart(index, config, &saved, MS * away_ms as u32);
    for cable in lab.cables.clone() {
        for (bond, port) in cable.ends {
            if bond == index && cable.up {
                lab.bonds[bond].handle_link(lab.now, port, PortLink::UP);
            }
        }
    }
}

#[test]
fn whatever_happens_a_port_distributes_only_into_the_one_aggregate_that_is_in_sync() {
    for seed in 0..100 {
        let mut rng = Rng::from_u64(seed);
        let ports = 2 + rng.below(3) as usize;
        let configs = [random_config(&mut rng, ports), random_config(&mut rng, ports)];
        let mut lab = Lab::new(&configs, seed);
        for port in 0..ports {
            lab.plug((0, port), (1, port));
        }
        for _ in 0..40 {
            disturb(&mut lab, &mut rng, &configs);
            let pause = [1, 50, 1500, 4000, 20_000][rng.below(5) as usize];
            lab.run(MS * (1 + rng.below(pause) as u32));
        }
        for cable in 0..lab.cables.len() {
            lab.cables[cable].loss = [0; 2];
            lab.set_link(cable, true);
            lab.bonds[0].set_offline(lab.now, cable, false);
            lab.bonds[1].set_offline(lab.now, cable, false);
        }
        // Two slow periods: all know all.
        lab.run(SECOND * 100);
        let limit = configs.iter().filter_map(|c| c.lacp.max_ports).min();
        let possible = ports.min(limit.map_or(ports, usize::from));
        let individual = configs.iter().any(|c| c.ports.iter().any(|p| p.individual));
        let fewest = configs.iter().map(|c| usize::from(c.min_links)).max().unwrap_or(1);
        let enough = !individual && possible >= fewest;
        // A partner with coupled control sends to an end that is in sync but takes nothing yet.
        if enough || configs.iter().all(|c| c.lacp.independent) {
            assert_eq!(lab.distributing(0), lab.distributing(1), "seed {seed}: {configs:#?}");
        }
        if enough {
            assert_eq!(lab.distributing(0).len(), possible, "seed {seed}");
        }
    }
}

#[test]
fn cables_that_are_plugged_over_at_random_never_make_two_aggregates() {
    for seed in 0..50 {
        let mut rng = Rng::from_u64(seed ^ 0xcab1e);
        // A host with four ports, and three switches of two.
        let configs = [fast(4), fast(2), fast(2), config(2)];
        let mut lab = Lab::new(&configs, seed);
        for _ in 0..30 {
            for cable in 0..lab.cables.len() {
                lab.set_link(cable, false);
            }
            lab.cables.clear();
            let mut free: Vec<At> = vec![(1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)];
            for port in 0..4 {
                let end = free.swap_remove(rng.below(free.len() as u64) as usize);
                lab.plug((0, port), end);
            }
            lab.run(MS * (1 + rng.below(9000) as u32));
        }
        lab.run(SECOND * 20);
        assert!(lab.bonds[0].is_up(), "seed {seed}");
    }
}

#[test]
fn any_frames_are_taken_without_harm() {
    for seed in 0..60 {
        let mut rng = Rng::from_u64(seed);
        let mut lab = Lab::pair(&fast(2), &fast(2));
        lab.run(SECOND * 4);
        for _ in 0..50 {
            let mut frame = super::lacp::wire::Lacpdu {
                version: rng.below(3) as u8,
                actor: lab.bonds[rng.below(2) as usize].ports[rng.below(2) as usize].actor,
                partner: lab.bonds[0].ports[0].actor,
                max_delay: 0,
            }
            .emit([2; 6]);
            for _ in 0..rng.below(4) {
                let at = 14 + rng.below(110) as usize;
                frame[at] = rng.below(256) as u8;
            }
            frame.truncate(if rng.below(9) == 0 { rng.below(124) as usize } else { 124 });
            lab.bonds[0].handle_frame(lab.now, rng.below(3) as usize, &frame);
            lab.run(MS * rng.below(300) as u32);
        }
        lab.run(SECOND * 10);
        assert!(lab.agree(&[0, 1]), "seed {seed}");
    }
}
