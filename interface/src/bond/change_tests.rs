use weft_stack::time::Duration;

use super::lab_tests::*;
use super::lacp::MuxState;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn joined(ports: usize) -> Lab {
    let mut lab = Lab::pair(&config(ports), &config(ports));
    let all: Vec<u16> = (0..ports as u16).collect();
    assert!(lab.run_until(SECOND * 10, |lab| lab.agree(&all)).is_some());
    lab.events.clear();
    lab
}

fn change(lab: &mut Lab, config: &BondConfig, links: &[PortLink]) {
    let macs: Vec<_> = config
        .ports
        .iter()
        .map(|p| mac(0, p.name.trim_start_matches("eth").parse().unwrap()))
        .collect();
    let now = lab.now;
    lab.bonds[0].update(now, config, (&macs, links), 99);
}

#[test]
fn what_no_partner_is_told_changes_without_a_pdu_and_without_a_gap() {
    let mut lab = joined(2);
    let sent = |lab: &Lab| [0, 1].map(|p: usize| lab.bonds[0].ports[p].counters.pdus_out);
    let before = sent(&lab);
    let next = BondConfig { hash: HashPolicy::Symmetric, min_links: 2, ..config(2) };
    change(&mut lab, &next, &[PortLink::UP; 2]);
    assert_eq!(lab.distributing(0), [0, 1], "at once");
    lab.run(SECOND);
    assert_eq!(sent(&lab), before);
    assert_eq!(lab.events, []);
    assert_eq!(lab.bonds[0].config().min_links, 2);
    lab.set_link(1, false);
    assert_eq!(lab.distributing(0), [0; 0], "the new limit holds");
}

#[test]
fn a_port_comes_and_the_others_carry_on() {
    let mut lab = joined(2);
    change(&mut lab, &config(3), &[PortLink::UP, PortLink::UP, PortLink::DOWN]);
    assert_eq!(lab.distributing(0), [0, 1]);
    lab.run(SECOND * 5);
    assert_eq!(lab.distributing(0), [0, 1]);
    assert_eq!(lab.events, []);
}

#[test]
fn a_port_goes_and_the_others_carry_on_at_other_places() {
    let mut lab = joined(3);
    let mut next = config(3);
    next.ports.remove(1);
    // Numbers are the operator's or of the NIC: they do not move with the place.
    let numbered = |config: &mut BondConfig| {
        for port in &mut config.ports {
            port.number = Some(port.name.trim_start_matches("eth").parse::<u16>().unwrap() + 1);
        }
    };
    let mut before = config(3);
    numbered(&mut before);
    change(&mut lab, &before, &[PortLink::UP; 3]);
    assert!(lab.run_until(SECOND * 10, |lab| lab.distributing(0) == [0, 1, 2]).is_some());
    numbered(&mut next);
    change(&mut lab, &next, &[PortLink::UP; 2]);
    assert_eq!(lab.distributing(0), [0, 1]);
    assert_eq!(lab.bonds[0].ports[1].actor.port.number, 3);
    assert!(lab.bonds[0].ports.iter().all(|p| p.mux >= MuxState::Collecting));
}

#[test]
fn another_key_is_negotiated_from_the_start() {
    let mut lab = joined(2);
    let mut next = config(2);
    next.lacp.key = 7;
    change(&mut lab, &next, &[PortLink::UP; 2]);
    assert_eq!(lab.distributing(0), [0; 0]);
    assert!(lab.run_until(SECOND * 10, |lab| lab.agree(&[0, 1])).is_some());
    assert_eq!(lab.bonds[1].ports[0].partner.key, 7);
}

#[test]
fn a_bond_that_gets_another_mode_uses_its_links_at_once() {
    let mut lab = joined(2);
    let next = BondConfig { mode: Mode::ActiveBackup, ..config(2) };
    change(&mut lab, &next, &[PortLink::UP; 2]);
    assert_eq!(lab.distributing(0), [0]);
    let now = lab.now;
    lab.bonds[0].set_offline(now, 0, true);
    assert_eq!(lab.distributing(0), [1]);
    let primary = BondConfig { primary: Some(String::from("eth0")), ..next };
    change(&mut lab, &primary, &[PortLink::UP; 2]);
    assert_eq!(lab.distributing(0), [1], "what the operator took out stays out");
    lab.bonds[0].set_offline(now, 0, false);
    assert_eq!(lab.distributing(0), [0]);
}
