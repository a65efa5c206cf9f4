//! Other trees while machines run.

use super::*;
use crate::fail::FastConfig;

fn addr(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

/// The tree of a host is another; `standing`: addresses by the names of their links.
pub(super) fn change(lab: &mut Lab, host: usize, spec: TreeSpec, standing: &[(&str, IpAddr)]) {
    let tree = tree(spec);
    let place = |name: &str| tree.link(&name.parse().unwrap()).unwrap();
    let addresses = standing.iter().map(|(on, addr)| (place(on), *addr, None)).collect();
    let standing = Standing { addresses, ..Standing::default() };
    let now = lab.now;
    lab.hosts[host].update(now, &tree, 77, &standing);
    lab.exchange();
}

/// A group of three NICs' machine.
pub(super) fn of_members(members: &[&str]) -> TreeSpec {
    TreeSpec {
        nics: vec![nic(0), nic(1), nic(2)],
        groups: vec![group("fail0", members)],
        aliases: vec![alias("data0", "fail0")],
        ..TreeSpec::default()
    }
}

#[test]
fn lacp_of_a_bond_that_stays_notices_nothing_of_what_changes_around_it() {
    let hosts = vec![keeper(over_lacp(), 0), keeper(over_lacp(), 1)];
    let mut lab = Lab::new(hosts, &[((0, 0), (1, 0)), ((0, 1), (1, 1))]);
    lab.run_for(Duration::from_secs(10));
    lab.hosts[0].take_selection().unwrap();
    lab.events.iter_mut().for_each(Vec::clear);
    let pdus = |lab: &Lab| lab.hosts[0].bonds[0].report(lab.now).ports[0].counters.pdus_out;
    let before = pdus(&lab);

    let mut spec = over_lacp();
    spec.groups = vec![group("fail0", &["bond0.7", "eth2"])];
    spec.aliases = vec![alias("data0", "fail0"), alias("data1", "bond0.9")];
    spec.vlans.clear();
    change(&mut lab, 0, spec, &[("fail0", addr(1)), ("bond0.9", addr(2))]);
    assert_eq!(lab.hosts[0].selection().bonds[0].distributing[..], [0, 1], "without a gap");
    assert_eq!(pdus(&lab), before);
    let [fail, vlan] = ["fail0", "bond0.9"].map(|n| link(&lab.hosts[0], n));
    assert!(lab.hosts[0].is_up(fail) && lab.hosts[0].is_up(vlan));
    assert_eq!(lab.hosts[0].selection().groups[0].bindings[&addr(1)], 0);
    assert!(!lab.events[0].iter().any(|e| e.contains("bond0 ")), "{:?}", lab.events[0]);
    assert_eq!(lab.events[0][0], "group-added fail0");
    assert_eq!(lab.events[1], [""; 0], "nor does the other end");

    change(&mut lab, 0, over_lacp(), &[]);
    assert_eq!(pdus(&lab), before);
    assert!(lab.hosts[0].is_up(link(&lab.hosts[0], "bond0.5")));
    assert!(lab.events[0].contains(&String::from("group-removed fail0")));
}

#[test]
fn a_member_comes_and_goes_and_only_what_it_takes_moves() {
    let spec = of_members;
    let mut lab = Lab::alone(keeper(spec(&["eth0", "eth1"]), 0));
    let fail = link(&lab.hosts[0], "fail0");
    let all: Vec<(&str, IpAddr)> = (1..=6).map(|last| ("fail0", addr(last))).collect();
    for (_, addr) in &all {
        lab.hosts[0].address_added(lab.now, fail, *addr, None);
    }
    lab.exchange();
    lab.announced();
    lab.events[0].clear();
    let homes = |lab: &Lab| lab.hosts[0].selection().groups[0].bindings.clone();
    let before = homes(&lab);

    change(&mut lab, 0, spec(&["eth2", "eth0", "eth1"]), &all);
    let told = lab.announced();
    assert_eq!(told.len(), 2, "a third of six: {told:?}");
    let eth2 = link(&lab.hosts[0], "eth2");
    assert!(told.iter().all(|t| (t.0, t.2) == (eth2, mac(0, 2))), "{told:?}");
    let joined = homes(&lab);
    for (addr, member) in &before {
        let moved = told.iter().any(|t| t.1 == *addr);
        assert_eq!(joined[addr], if moved { 0 } else { member + 1 }, "its new position");
    }
    assert_eq!(lab.events[0][0], "member-added fail0 eth2 unknown");

    // The first one goes: its addresses find others, nobody else's moves.
    lab.events[0].clear();
    change(&mut lab, 0, spec(&["eth2", "eth1"]), &all);
    let told = lab.announced();
    let left = joined.values().filter(|m| **m == 1).count();
    assert_eq!(told.len(), left, "{told:?}");
    assert_eq!(lab.events[0][0], "member-removed fail0 eth0 ok");
    assert_eq!(lab.hosts[0].mac(fail), mac(0, 0), "what stacks know of it stays");
}

#[test]
fn addresses_that_leave_a_group_are_not_its_any_more() {
    let spec = |on: &str| TreeSpec {
        nics: vec![nic(0), nic(1), nic(2)],
        groups: vec![group("fail0", &["eth0", "eth1"])],
        aliases: vec![alias("data0", "fail0"), alias("data1", on)],
        ..TreeSpec::default()
    };
    let mut lab = Lab::alone(keeper(spec("fail0.5"), 0));
    let [fail, tagged] = ["fail0", "fail0.5"].map(|n| link(&lab.hosts[0], n));
    lab.hosts[0].address_added(lab.now, fail, addr(1), None);
    lab.hosts[0].address_added(lab.now, tagged, addr(1), None);
    lab.hosts[0].address_added(lab.now, tagged, addr(2), None);
    change(&mut lab, 0, spec("eth2"), &[("fail0", addr(1)), ("eth2", addr(2))]);
    let bindings = lab.hosts[0].selection().groups[0].bindings.clone();
    assert_eq!(bindings.keys().collect::<Vec<_>>(), [&addr(1)]);
    lab.hosts[0].address_removed(lab.now, fail, addr(1), None);
    assert!(lab.hosts[0].selection().groups[0].bindings.is_empty(), "it was there once");
}

/// Members `eth0..members` of two hosts with BFD between them, and a cable for each.
fn fast(host: usize, members: u8) -> TreeSpec {
    let names: Vec<String> = (0..members).map(|m| format!("eth{m}")).collect();
    let mut fail = group("fail0", &names.iter().map(String::as_str).collect::<Vec<_>>());
    fail.config.probe = ProbeMode::Icmp;
    let test = |m: u8| (format!("eth{m}"), format!("10.9.{m}.{}/24", host + 1).parse().unwrap());
    fail.config.test = (0..members).map(test).collect();
    let peers = (0..members).map(|m| [10, 9, m, 2 - host as u8].into()).collect();
    fail.config.fast = Some(FastConfig { peers, ..FastConfig::default() });
    TreeSpec {
        nics: (0..3).map(nic).collect(),
        groups: vec![fail],
        aliases: vec![alias("data0", "fail0")],
        ..TreeSpec::default()
    }
}

/// Frames that left at members arrive at those of the other host.
fn carry(lab: &mut Lab, time: Duration) {
    let end = lab.now + time;
    while lab.now < end {
        lab.now += Duration::from_millis(1);
        let now = lab.now;
        for host in &mut lab.hosts {
            host.handle_timeout(now);
        }
        for _ in 0..4 {
            lab.exchange();
            for from in 0..2 {
                for (link, frame) in std::mem::take(&mut lab.sent[from]) {
                    lab.hosts[1 - from].handle_frame(now, link, &frame);
                }
            }
        }
    }
}

#[test]
fn sessions_of_members_that_stay_go_on_and_those_of_others_end_in_order() {
    let hosts = vec![keeper(fast(0, 2), 0), keeper(fast(1, 2), 1)];
    let mut lab = Lab::new(hosts, &[0, 1, 2].map(|n| ((0, n), (1, n))));
    carry(&mut lab, Duration::from_secs(6));
    let states = |lab: &Lab, host: usize| -> Vec<String> {
        let report = lab.hosts[host].groups[0].prober.report(lab.now);
        let own = report.sessions.iter().filter(|s| s.state == crate::probe::bfd::State::Up);
        own.map(|s| s.peer.to_string()).collect()
    };
    assert_eq!(states(&lab, 0), ["10.9.0.2", "10.9.1.2"]);
    lab.events.iter_mut().for_each(Vec::clear);

    change(&mut lab, 0, fast(0, 3), &[]);
    change(&mut lab, 1, fast(1, 3), &[]);
    assert_eq!(states(&lab, 0), ["10.9.0.2", "10.9.1.2"], "at once");
    carry(&mut lab, Duration::from_secs(6));
    assert_eq!(states(&lab, 1), ["10.9.0.1", "10.9.1.1", "10.9.2.1"]);
    let fell = |lab: &Lab| -> Vec<String> {
        lab.events.iter().flatten().filter(|e| e.contains("failed")).cloned().collect()
    };
    assert_eq!(fell(&lab), [""; 0]);

    // The second host still has the member, and hears that it is on purpose.
    change(&mut lab, 0, fast(0, 1), &[]);
    carry(&mut lab, Duration::from_secs(2));
    assert_eq!(states(&lab, 1), ["10.9.0.1"]);
    assert_eq!(fell(&lab), [""; 0], "{:#?}", lab.events);
}
