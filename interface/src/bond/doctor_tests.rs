//! Bonds that are misconfigured against each other, and what is diagnosed of it.

use weft_stack::rng::Rng;
use weft_stack::time::Duration;

use super::lab_tests::*;
use super::lacp::wire::{Info, Lacpdu, PortId, State, SystemId};
use super::*;
use crate::doctor::{BondEvidence, Code, Diagnosis, Evidence, Severity, diagnose};

const SECOND: Duration = Duration::from_secs(1);

fn examine(lab: &Lab, bond: usize) -> Vec<Diagnosis> {
    let report = lab.bonds[bond].report(lab.now);
    let bond = BondEvidence { name: "bond0".to_owned(), report, tags: Vec::new() };
    diagnose(&Evidence { bonds: vec![bond], ..Evidence::default() })
}

fn codes(lab: &Lab, bond: usize) -> Vec<(Code, String)> {
    examine(lab, bond).into_iter().map(|d| (d.code, d.ports.join(" "))).collect()
}

fn is(code: Code, ports: &str) -> Vec<(Code, String)> {
    vec![(code, ports.to_owned())]
}

/// Nothing is found until `at`, and the same from 5 s later on.
fn found_after(lab: &mut Lab, bond: usize, at: u64, wanted: &[(Code, String)]) {
    for second in 0..at {
        assert_eq!(codes(lab, bond), [], "after {second} s");
        lab.run(SECOND);
    }
    lab.run(SECOND * 5);
    for _ in 0..130 {
        assert_eq!(codes(lab, bond), wanted, "{:#?}", lab.bonds[bond].report(lab.now));
        lab.run(SECOND);
    }
}

#[test]
fn nothing_is_found_of_a_healthy_bond_whatever_happens_to_its_links() {
    for (seed, a, b) in [(1, fast(3), fast(3)), (2, config(3), fast(3)), (3, config(3), config(3))]
    {
        let mut lab = Lab::pair(&a, &b);
        let mut rng = Rng::from_u64(seed);
        let mut offline = 0;
        for second in 0..1500 {
            lab.run(SECOND);
            assert_eq!(examine(&lab, 0), [], "at {second}");
            // Who takes ports out makes his partner ask, until they are back.
            if second > offline {
                assert_eq!(examine(&lab, 1), [], "at {second}");
            }
            let port = rng.below(3) as usize;
            match rng.below(40) {
                0 => lab.set_link(port, false),
                1..4 => lab.set_link(port, true),
                4 => {
                    lab.bonds[0].set_offline(lab.now, port, true);
                    offline = u64::MAX;
                }
                5 | 6 => {
                    (0..3).for_each(|port| lab.bonds[0].set_offline(lab.now, port, false));
                    offline = second + 5;
                }
                _ => {}
            }
            if second % 400 == 399 {
                let saved = lab.bonds[0].save(lab.now);
                lab.restart(0, &a, &saved, SECOND);
                for cable in 0..3 {
                    lab.set_link(cable, true);
                }
            }
        }
    }
}

#[test]
fn silence_has_a_name_after_three_slow_periods() {
    let mut lab = Lab::pair(&passive(config(2)), &passive(config(2)));
    found_after(&mut lab, 0, 89, &is(Code::NoPartner, "eth0 eth1"));
    let found = &examine(&lab, 0)[0];
    assert_eq!((found.severity, found.interface.as_str()), (Severity::Error, "bond0"));
    assert!(found.evidence[0].contains("no LACPDU ever came, 0 sent"), "{found:#?}");
    assert!(found.advice.contains("lacp.activity = \"active\""), "{found:#?}");
    // One port of a bond that works is named alone.
    let mut lab = Lab::pair(&fast(2), &fast(1));
    let other = lab.plug((0, 1), (1, 7));
    assert_eq!(other, 1);
    found_after(&mut lab, 0, 89, &is(Code::NoPartner, "eth1"));
}

/// A host, and one switch whose ports are in two groups, or two switches.
fn two_partners(same_system: bool) -> Lab {
    let mut groups = [fast(1), fast(1)];
    groups[1].lacp.key = 2;
    groups[1].ports[0].number = Some(9);
    if same_system {
        for group in &mut groups {
            group.lacp.system = Some([10, 0, 0, 0, 0, 1]);
        }
    }
    let [first, second] = groups;
    let mut lab = Lab::new(&[fast(2), first, second], 1);
    lab.plug((0, 0), (1, 0));
    lab.plug((0, 1), (2, 0));
    lab
}

#[test]
fn ports_in_two_groups_or_on_two_switches_are_told_apart() {
    let mut lab = two_partners(true);
    found_after(&mut lab, 0, 9, &is(Code::KeyMismatch, "eth1"));
    let found = &examine(&lab, 0)[0];
    assert!(found.evidence[1].contains("key 2 port 9"), "{found:#?}");
    assert!(found.advice.contains("key 1"), "{found:#?}");
    // The group that is left out sees a partner that refuses.
    assert_eq!(codes(&lab, 1), []);
    assert_eq!(codes(&lab, 2), is(Code::PartnerChurn, "eth0"));
    let mut lab = two_partners(false);
    found_after(&mut lab, 0, 9, &is(Code::SystemMismatch, "eth1"));
}

#[test]
fn ports_that_are_cabled_to_each_other_are_named() {
    let mut lab = Lab::new(&[fast(3), fast(1)], 1);
    lab.plug((0, 0), (0, 1));
    lab.plug((0, 2), (1, 0));
    let both = [is(Code::Loopback, "eth0"), is(Code::Loopback, "eth1")].concat();
    found_after(&mut lab, 0, 9, &both);
    let found = &examine(&lab, 0)[0];
    assert!(found.advice.contains("eth0 and eth1 are cabled to each other"), "{found:#?}");
}

#[test]
fn a_one_way_link_is_seen_at_both_ends() {
    for partner in [fast(2), config(2)] {
        let mut lab = Lab::pair(&fast(2), &partner);
        lab.cables[1].loss = [100, 0]; // the second bond does not hear
        lab.run(SECOND * 70);
        assert_eq!(codes(&lab, 0), is(Code::OneWay, "eth1"));
        assert_eq!(codes(&lab, 1), []);
        lab.run(SECOND * 100);
        assert_eq!(codes(&lab, 0), is(Code::OneWay, "eth1"));
        assert_eq!(codes(&lab, 1), is(Code::NoPartner, "eth1"));
        lab.cables[1].loss = [0, 0];
        lab.run(SECOND * 40);
        assert_eq!((codes(&lab, 0), codes(&lab, 1)), (Vec::new(), Vec::new()));
    }
}

#[test]
fn a_partner_that_does_not_aggregate_is_told() {
    let mut partner = fast(2);
    partner.ports[1].individual = true;
    let mut lab = Lab::pair(&fast(2), &partner);
    found_after(&mut lab, 0, 9, &is(Code::PartnerIndividual, "eth1"));
    // Alone it makes no difference.
    partner.ports.remove(0);
    let mut lab = Lab::pair(&fast(1), &partner);
    lab.run(SECOND * 100);
    assert_eq!(codes(&lab, 0), []);
}

#[test]
fn a_partner_that_refuses_is_told_after_a_minute_but_not_our_own_standby() {
    let mut partner = fast(2);
    partner.lacp.max_ports = Some(1);
    partner.lacp.system_priority = 1;
    let mut lab = Lab::pair(&fast(2), &partner);
    found_after(&mut lab, 0, 59, &is(Code::PartnerChurn, "eth1"));
    assert_eq!(codes(&lab, 1), []);
}

#[test]
fn a_partner_that_takes_no_frames_is_told_and_who_has_the_limit_sees_why() {
    let mut partner = fast(2);
    partner.min_links = 2;
    let mut lab = Lab::pair(&fast(2), &partner);
    lab.run(SECOND * 10);
    lab.set_link(1, false);
    found_after(&mut lab, 0, 59, &is(Code::PartnerNotCollecting, "eth0"));
    assert_eq!(codes(&lab, 1), is(Code::ActorChurn, "eth0"));
}

#[test]
fn a_bond_without_lacp_on_ports_with_lacp_is_told_at_both_ends() {
    for mode in [Mode::Static, Mode::ActiveBackup] {
        let without = BondConfig { mode, ..config(2) };
        let mut lab = Lab::pair(&without, &fast(2));
        lab.run(SECOND * 100);
        assert_eq!(codes(&lab, 0), is(Code::ModeMismatch, "eth0 eth1"));
        assert_eq!(codes(&lab, 1), is(Code::NoPartner, "eth0 eth1"));
        let mut lab = Lab::pair(&without, &without);
        lab.run(SECOND * 100);
        assert_eq!(codes(&lab, 0), []);
    }
}

#[test]
fn half_duplex_and_another_speed_are_told() {
    let link = |speed, full_duplex| PortLink { up: true, speed_mbit: Some(speed), full_duplex };
    let mut lab = Lab::pair(&fast(3), &fast(3));
    lab.bonds[0].handle_link(lab.now, 0, link(10_000, true));
    lab.bonds[0].handle_link(lab.now, 1, link(1000, true));
    lab.bonds[0].handle_link(lab.now, 2, link(10_000, false));
    lab.run(SECOND * 30);
    let wanted = [is(Code::SpeedMismatch, "eth1"), is(Code::HalfDuplex, "eth2")].concat();
    assert_eq!(codes(&lab, 0), wanted);
}

/// A partner made of LACPDUs: everything is as it should be.
fn partner(lab: &Lab) -> Lacpdu {
    let state = State(0x3f);
    let system = SystemId { priority: 1, mac: [10, 0, 0, 0, 0, 1] };
    let port = PortId { priority: 255, number: 1 };
    let actor = Info { system, key: 7, port, state };
    Lacpdu { version: 1, actor, partner: lab.bonds[0].ports[0].actor, max_delay: 0 }
}

/// Tells `change` of a partner on the first port every second for `time`.
fn hears(lab: &mut Lab, time: u32, change: impl Fn(&mut Lacpdu)) {
    for _ in 0..time {
        let mut pdu = partner(lab);
        change(&mut pdu);
        lab.bonds[0].handle_frame(lab.now, 0, &pdu.emit([2; 6]));
        lab.run(SECOND);
    }
}

fn alone(config: &BondConfig) -> Lab {
    let mut lab = Lab::new(std::slice::from_ref(config), 1);
    for port in 0..config.ports.len() {
        lab.bonds[0].handle_link(lab.now, port, PortLink::UP);
    }
    lab
}

#[test]
fn a_partner_that_sends_no_frames_is_told_after_a_minute() {
    let mut lab = alone(&fast(1));
    hears(&mut lab, 100, |_| {});
    assert_eq!(codes(&lab, 0), []);
    hears(&mut lab, 59, |pdu| pdu.actor.state.set(State::DISTRIBUTING, false));
    assert_eq!(codes(&lab, 0), []);
    hears(&mut lab, 5, |pdu| pdu.actor.state.set(State::DISTRIBUTING, false));
    assert_eq!(codes(&lab, 0), is(Code::PartnerNotDistributing, "eth0"));
}

#[test]
fn a_partner_that_takes_us_for_another_is_told() {
    let mut lab = alone(&fast(1));
    hears(&mut lab, 20, |_| {});
    hears(&mut lab, 20, |pdu| pdu.partner.system.mac = [3; 6]);
    assert_eq!(codes(&lab, 0), is(Code::StaleView, "eth0"));
    let found = &examine(&lab, 0)[0];
    assert!(found.advice.contains("talks to another host"), "{found:#?}");
    hears(&mut lab, 5, |_| {});
    assert_eq!(codes(&lab, 0), []);
}

#[test]
fn a_partner_that_ignores_the_rate_is_told_but_an_interruption_is_none() {
    let mut lab = alone(&fast(1));
    for _ in 0..4 {
        hears(&mut lab, 1, |_| {});
        lab.run(SECOND * 29);
    }
    assert_eq!(codes(&lab, 0), is(Code::RateIgnored, "eth0"));
    let mut lab = alone(&fast(1));
    hears(&mut lab, 20, |_| {});
    lab.run(SECOND * 29);
    hears(&mut lab, 1, |_| {});
    assert_eq!(codes(&lab, 0), []);
    // Who asks for the slow rate gets it.
    let mut lab = alone(&config(1));
    for _ in 0..6 {
        hears(&mut lab, 1, |_| {});
        lab.run(SECOND * 29);
    }
    assert_eq!(codes(&lab, 0), []);
}

#[test]
fn two_ports_that_hear_one_port_are_told() {
    let mut lab = alone(&fast(2));
    for _ in 0..30 {
        let pdu = partner(&lab).emit([2; 6]);
        lab.bonds[0].handle_frame(lab.now, 0, &pdu);
        lab.bonds[0].handle_frame(lab.now, 1, &pdu);
        lab.run(SECOND);
    }
    let found = codes(&lab, 0);
    assert!(
        found.iter().all(|(code, _)| *code == Code::Duplicate) && !found.is_empty(),
        "{found:?}"
    );
}
