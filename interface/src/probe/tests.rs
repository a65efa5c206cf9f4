use std::net::IpAddr;

use weft_stack::time::{Duration, Instant};

use super::lab_tests::{Lab, MS, S, host, icmp, ip, member};
use super::*;

use ProbeState::{Disabled, Failed, Ok, Unknown};

fn working(detect_ms: u64) -> Lab {
    let mut lab = Lab::pair(&icmp(detect_ms, &["10.0.0.1", "10.0.0.2"]), &["10.0.0.1", "10.0.0.2"]);
    let end = lab.now + 30 * S;
    assert!(lab.run_until(end, |l| l.states() == [Ok, Ok]), "{:?}", lab.states());
    lab.run(Duration::from_millis(detect_ms * 3));
    lab
}

#[test]
fn five_losses_fail_a_member_within_the_detection_time() {
    for detect_ms in [100, 1000, 10_000] {
        let mut lab = working(detect_ms);
        lab.probes.clear();
        let cut = lab.now;
        lab.cut(0);
        let end = cut + Duration::from_millis(detect_ms);
        assert!(lab.run_until(end, |l| l.states() == [Failed, Ok]), "{:?}", lab.states());
        let lost = |e: &&ProbeEvent| e.member == 0 && e.outcome == ProbeOutcome::Lost;
        assert_eq!(lab.probes.iter().filter(lost).count(), LOSSES_FAIL);
        let verdict = lab.probers[0].verdict(0);
        assert!(verdict.last_success <= Some(cut));
        assert!(verdict.first_loss >= Some(cut));
        // What tells a member's failure from that of the group.
        assert!(lab.probers[0].verdict(1).last_success > verdict.first_loss);
    }
}

#[test]
fn ten_answers_repair_a_member_within_twice_the_detection_time() {
    for detect_ms in [100, 10_000] {
        let mut lab = working(detect_ms);
        lab.cut(0);
        lab.run(Duration::from_millis(detect_ms * 4));
        assert_eq!(lab.state(0), Failed);
        lab.probes.clear();
        lab.mend(0);
        let end = lab.now + Duration::from_millis(detect_ms * 2);
        assert!(lab.run_until(end, |l| l.state(0) == Ok));
        let acked = |e: &&ProbeEvent| e.member == 0 && e.outcome == ProbeOutcome::Acked;
        assert_eq!(lab.probes.iter().filter(acked).count(), ACKS_REPAIR);
        assert_eq!(lab.probers[0].verdict(0).first_loss, None);
    }
}

#[test]
fn when_all_targets_are_gone_no_member_has_a_success_since_the_first_loss() {
    let mut lab = working(1000);
    lab.hosts.iter_mut().for_each(|h| h.alive = false);
    lab.run(2 * S);
    assert_eq!(lab.states(), [Failed, Failed]);
    for (suspect, other) in [(0, 1), (1, 0)] {
        let first_loss = lab.probers[0].verdict(suspect).first_loss;
        assert!(lab.probers[0].verdict(other).last_success < first_loss);
    }
}

#[test]
fn one_target_that_dies_is_put_aside_and_comes_back() {
    let addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
    let mut lab = Lab::pair(&icmp(1000, &addresses), &addresses);
    lab.run(10 * S);
    lab.hosts[1].alive = false;
    let died = lab.now;
    lab.run(20 * S);
    assert_eq!(lab.states(), [Ok, Ok]);
    assert_eq!(lab.targets(0)[1], ("10.0.0.2".to_owned(), TargetState::Dead));
    assert_eq!(lab.probers[0].report(lab.now).counters.targets_dropped, 2);
    lab.hosts[1].alive = true;
    lab.run_to(died + 90 * S);
    assert_eq!(lab.targets(0)[1], ("10.0.0.2".to_owned(), TargetState::Active));
}

#[test]
fn of_many_targets_five_are_used_and_a_dead_one_is_replaced() {
    let addresses: Vec<_> = (1..=7).map(|i| format!("10.0.0.{i}")).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let mut lab = Lab::pair(&icmp(1000, &addresses), &addresses);
    lab.run(10 * S);
    let active = |l: &Lab| {
        l.targets(0)
            .iter()
            .filter(|t| t.1 == TargetState::Active)
            .map(|t| t.0.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(active(&lab), addresses[..5]);
    lab.hosts[0].alive = false;
    lab.run(20 * S);
    assert_eq!(active(&lab), addresses[1..6]);
}

#[test]
fn a_target_that_is_too_slow_alone_is_put_aside() {
    let addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"];
    let mut lab = Lab::pair(&icmp(1000, &addresses), &addresses);
    lab.run(10 * S);
    lab.hosts[2].delay = 170 * MS;
    lab.run(10 * S);
    assert_eq!(lab.targets(0)[2].1, TargetState::Slow);
    assert_eq!(lab.probers[0].detect().as_millis(), 999);
    assert_eq!(lab.states(), [Ok, Ok]);
}

#[test]
fn slow_targets_raise_the_detection_time_and_fast_ones_lower_it_again() {
    let mut lab = working(1000);
    lab.hosts.iter_mut().for_each(|h| h.delay = 120 * MS);
    lab.run(30 * S);
    let raised = lab.probers[0].detect();
    assert!(raised > 1500 * MS, "{raised:?}");
    assert_eq!(lab.states(), [Ok, Ok]);
    let at = lab.notices.iter().rfind(|n| matches!(n.1, ProbeNotice::DetectRaised { .. }));
    let at = at.expect("it was told").0;
    lab.hosts.iter_mut().for_each(|h| h.delay = Duration::ZERO);
    lab.run_to(at + 59 * S);
    assert_eq!(lab.probers[0].detect(), raised, "it is kept for 60 s");
    lab.run(60 * S);
    assert_eq!(lab.probers[0].detect().as_millis(), 999);
    assert!(lab.notices.iter().any(|n| matches!(n.1, ProbeNotice::DetectLowered { .. })));
}

#[test]
fn one_late_answer_does_not_raise_the_detection_time() {
    let mut lab = working(1000);
    // A round trip that alone would: four deviations of an eighth of it.
    lab.hosts.iter_mut().for_each(|h| h.delay = 135 * MS);
    let answers = lab.hosts[0].echoes + lab.hosts[1].echoes;
    let end = lab.now + S;
    lab.run_until(end, |l| l.hosts[0].echoes + l.hosts[1].echoes > answers);
    lab.hosts.iter_mut().for_each(|h| h.delay = Duration::ZERO);
    lab.run(10 * S);
    assert_eq!(lab.probers[0].detect().as_millis(), 999);
}

#[test]
fn losses_do_not_count_in_the_quiet_period_until_the_first_answer() {
    let mut lab = Lab::pair(&icmp(100, &["10.0.0.1"]), &["10.0.0.1"]);
    lab.hosts[0].alive = false;
    lab.run(39 * S);
    assert_eq!(lab.states(), [Unknown, Unknown]);
    lab.run(2 * S);
    assert_eq!(lab.states(), [Failed, Failed]);

    let mut lab = Lab::pair(&icmp(100, &["10.0.0.1"]), &["10.0.0.1"]);
    lab.run(S);
    assert_eq!(lab.states(), [Ok, Ok]);
    lab.cut(0);
    lab.run(100 * MS);
    assert_eq!(lab.states(), [Failed, Ok], "the first answer ended it");
}

#[test]
fn a_link_that_works_one_way_only_fails() {
    for tx in [true, false] {
        let mut lab = working(100);
        lab.cables[0][0].tx = tx;
        lab.cables[0][0].rx = !tx;
        lab.run(100 * MS);
        assert_eq!(lab.states(), [Failed, Ok]);
    }
}

#[test]
fn a_member_whose_link_was_down_has_to_prove_itself() {
    let mut lab = working(1000);
    lab.probers[0].handle_link(lab.now, 0, false);
    assert_eq!(lab.state(0), Failed);
    lab.probers[0].handle_link(lab.now, 0, true);
    lab.run(S);
    assert_eq!(lab.state(0), Failed, "answers from before do not count");
    lab.run(S);
    assert_eq!(lab.state(0), Ok);
}

#[test]
fn both_families_have_to_fail_and_one_is_enough_for_a_repair() {
    let members = vec![member(0, 0, &["10.0.0.201", "fe80::201"])];
    let hosts = vec![host(1, &["10.0.0.1"]), host(2, &["fe80::1"])];
    let config = icmp(100, &["10.0.0.1", "fe80::1"]);
    let mut lab = Lab::new(&[(config, members)], hosts);
    lab.run(S);
    lab.hosts[0].alive = false;
    lab.run(S);
    assert_eq!(lab.state(0), Ok, "IPv6 works");
    lab.hosts[1].alive = false;
    lab.run(S);
    assert_eq!(lab.state(0), Failed);
    lab.hosts[1].alive = true;
    lab.run(S);
    assert_eq!(lab.state(0), Ok, "IPv6 works again");
}

#[test]
fn ipv6_members_fail_within_the_detection_time_too() {
    let members = vec![member(0, 0, &["fe80::201"]), member(0, 1, &["fe80::202"])];
    let config = icmp(100, &["fe80::1"]);
    let mut lab = Lab::new(&[(config, members)], vec![host(1, &["fe80::1"])]);
    lab.run(S);
    assert_eq!(lab.states(), [Ok, Ok]);
    lab.cut(1);
    lab.run(100 * MS);
    assert_eq!(lab.states(), [Ok, Failed]);
}

#[test]
fn hosts_that_answer_all_are_targets_of_the_whole_group() {
    for (tests, all) in [
        (["10.0.0.201", "10.0.0.202"], (1..=7).map(|i| format!("10.0.0.{i}")).collect::<Vec<_>>()),
        (["fe80::201", "fe80::202"], (1..=7).map(|i| format!("fe80::{i}")).collect()),
    ] {
        let members = vec![member(0, 0, &tests[..1]), member(0, 1, &tests[1..])];
        let mut hosts: Vec<_> = (1..=7).map(|i| host(i, &[&all[usize::from(i) - 1]])).collect();
        for host in &mut hosts {
            host.all_hosts = true;
        }
        let mut lab = Lab::new(&[(icmp(1000, &[]), members)], hosts);
        lab.run(5 * S);
        assert_eq!(lab.states(), [Ok, Ok]);
        assert_eq!(lab.targets(0), lab.targets(1));
        assert_eq!(lab.targets(0).len(), 5);
        assert_eq!(lab.probers[0].report(lab.now).rows[0].mode, TargetMode::Multicast);
        // One dies: it is deleted.
        let name = lab.targets(0)[0].0.clone();
        let dead = lab.hosts.iter().position(|h| h.addresses[0] == ip(&name)).expect("a host");
        lab.hosts[dead].alive = false;
        lab.run(20 * S);
        assert!(lab.targets(0).iter().all(|t| t.0 != name));
        assert_eq!(lab.states(), [Ok, Ok]);
        // All die: the group fails, and finds whoever is there then.
        lab.hosts.iter_mut().for_each(|h| h.alive = false);
        let end = lab.now + 2 * S;
        assert!(lab.run_until(end, |l| l.states() == [Failed, Failed]));
        lab.run(3 * S);
        assert_eq!(lab.states(), [Unknown, Unknown], "nobody is there to probe");
        assert_eq!(lab.targets(0), []);
        lab.hosts[dead].alive = true;
        lab.run(10 * S);
        assert_eq!(lab.states(), [Ok, Ok]);
        assert_eq!(lab.targets(0), [(name, TargetState::Active)]);
    }
}

#[test]
fn routers_of_routes_are_preferred_to_hosts() {
    let mut lab = Lab::pair(&icmp(1000, &[]), &["10.0.0.1"]);
    lab.hosts[0].all_hosts = true;
    let routers = [ip("10.0.0.1"), ip("192.0.2.1"), ip("10.0.0.201")];
    lab.probers[0].handle_routers(lab.now, &routers);
    lab.run(5 * S);
    let report = lab.probers[0].report(lab.now);
    assert_eq!(report.rows[0].mode, TargetMode::Routes);
    let near = vec![("10.0.0.1".to_owned(), TargetState::Active)];
    assert_eq!(lab.targets(0), near, "on the subnet, and none of our own");
    assert_eq!(
        report.counters.discoveries,
        lab.probes
            .iter()
            .filter(|p| { p.target.is_none() && p.outcome == ProbeOutcome::Sent })
            .count() as u64
    );
}

#[test]
fn targets_beyond_a_router_are_told_of_and_fail_no_member() {
    let beyond = vec![ip("192.0.2.1"), ip("2001:db8::1")];
    let config = ProbeConfig { beyond, ..icmp(1000, &["10.0.0.1"]) };
    let mut lab = Lab::pair(&config, &["10.0.0.1"]);
    // The router answers for what is behind it.
    lab.hosts[0].addresses.push(ip("192.0.2.1"));
    lab.run(5 * S);
    assert_eq!(lab.states(), [Ok, Ok]);
    assert_eq!(lab.probers[0].poll_beyond(), None, "it counts as reached");
    let far = ProbeTarget::Address(ip("192.0.2.1"));
    let by = |member| move |p: &ProbeEvent| p.target == Some(far) && p.member == member;
    assert!(lab.probes.iter().any(by(0)) && lab.probes.iter().any(by(1)), "in turn");
    // One member that is cut says nothing of what is beyond.
    lab.cut(0);
    lab.run(5 * S);
    assert_eq!(lab.probers[0].poll_beyond(), None);
    lab.mend(0);
    lab.run(5 * S);
    lab.hosts[0].addresses.pop();
    lab.run(S);
    assert_eq!(lab.states(), [Ok, Ok], "the gateway is there, what is beyond is not");
    assert_eq!(lab.probers[0].poll_beyond(), Some((ip("192.0.2.1"), false)));
    let report = lab.probers[0].report(lab.now);
    let lost: Vec<_> = report.beyond.iter().filter(|f| f.lost).map(|f| f.target).collect();
    assert_eq!(lost, [ip("192.0.2.1")]);
    let v6 = &report.beyond[1];
    assert_eq!((v6.source, v6.gateway), (None, None), "no member has an address for it");
    assert_eq!(report.counters.beyond_unused, 0);
    lab.hosts[0].addresses.push(ip("192.0.2.1"));
    lab.run(2 * S);
    assert_eq!(lab.probers[0].poll_beyond(), Some((ip("192.0.2.1"), true)));
    assert_eq!(lab.probers[0].poll_beyond(), None);
}

#[test]
fn what_is_beyond_is_asked_from_data_addresses_where_test_addresses_do_not_leave_the_link() {
    let beyond = vec![ip("2001:db8:1::1"), ip("192.0.2.1")];
    let far = ProbeConfig { beyond, ..icmp(1000, &["fe80::8"]) };
    let link = ProbeConfig { method: ProbeMode::Link, ..far.clone() };
    for (config, test) in [(far, &["fe80::201"][..]), (link, &[][..])] {
        let router = host(9, &["fe80::9", "10.0.0.9", "2001:db8:1::1", "192.0.2.1"]);
        let members = vec![member(0, 0, test), member(0, 1, &[])];
        let mut lab = Lab::new(&[(config, members)], vec![router, host(8, &["fe80::8"])]);
        lab.probers[0].handle_routers(lab.now, &[ip("fe80::9"), ip("10.0.0.9")]);
        // A link-local data address is of no use either.
        lab.probers[0].handle_bindings(lab.now, 0, [None, Some(ip("fe80::77"))]);
        lab.run(10 * S);
        let asked = |l: &Lab, to| {
            let aim = Some(ProbeTarget::Address(ip(to)));
            l.probes.iter().any(|p| p.target == aim && p.outcome == ProbeOutcome::Acked)
        };
        assert!(!asked(&lab, "2001:db8:1::1"), "nobody has an address for it");
        let bound = [Some(ip("10.0.0.5")), Some(ip("2001:db8::5"))];
        lab.probers[0].handle_bindings(lab.now, 0, bound);
        lab.run(10 * S);
        assert!(asked(&lab, "2001:db8:1::1") && asked(&lab, "192.0.2.1"));
        assert_eq!(lab.probers[0].poll_beyond(), None);
        let report = lab.probers[0].report(lab.now);
        let row = &report.beyond[0];
        assert_eq!((row.source, row.gateway), (bound[1], Some(ip("fe80::9"))));
        // The router is gone: that is what a loss of the gateway is.
        lab.hosts[0].alive = false;
        lab.run(2 * S);
        let mut lost: Vec<_> = std::iter::from_fn(|| lab.probers[0].poll_beyond()).collect();
        lost.sort_unstable();
        assert_eq!(lost, [(ip("192.0.2.1"), false), (ip("2001:db8:1::1"), false)]);
        // Another takes its place, with another MAC address.
        lab.hosts[0].alive = true;
        lab.hosts[0].mac = [2, 0, 0, 1, 0, 99];
        lab.run(5 * S);
        let mut back: Vec<_> = std::iter::from_fn(|| lab.probers[0].poll_beyond()).collect();
        back.sort_unstable();
        assert_eq!(back, [(ip("192.0.2.1"), true), (ip("2001:db8:1::1"), true)]);
    }
}

// RFC 5227 2.4
#[test]
fn a_test_address_that_another_host_has_is_not_used_until_it_is_unique() {
    let mut lab = working(1000);
    lab.hosts.push(host(77, &["10.0.0.201"]));
    // It announces itself.
    let (mac, spa) = (lab.hosts[2].mac, std::net::Ipv4Addr::new(10, 0, 0, 201));
    let arp = wire::Arp { op: 1, sha: mac, spa, tha: [0; 6], tpa: spa };
    lab.probers[0].handle_frame(lab.now, 0, &arp.emit(wire::BROADCAST, mac));
    lab.drain(0);
    assert_eq!(lab.states(), [Disabled, Ok]);
    let told = ProbeNotice::DuplicateTestAddress { member: 0, address: ip("10.0.0.201") };
    assert_eq!(lab.notices.last().expect("told").1, told);
    lab.run(200 * S);
    assert_eq!(lab.states(), [Disabled, Ok], "it is asked for, and still there");
    assert_eq!(lab.probers[0].report(lab.now).counters.duplicates, 1);
    lab.hosts[2].alive = false;
    lab.run(80 * S);
    assert_eq!(lab.states(), [Ok, Ok]);
}

// RFC 4862 5.4.4
#[test]
fn a_duplicate_ipv6_test_address_is_found_at_link_up() {
    let members = vec![member(0, 0, &["fe80::201"]), member(0, 1, &["fe80::202"])];
    let hosts = vec![host(1, &["fe80::1"]), host(2, &["fe80::202"])];
    let mut lab = Lab::new(&[(icmp(1000, &["fe80::1"]), members)], hosts);
    lab.run(2 * S);
    assert_eq!(lab.states(), [Ok, Disabled]);
}

// RFC 5227 2.4
#[test]
fn of_two_probers_with_one_test_address_at_most_one_uses_it() {
    let member = |prober| vec![member(prober, 0, &["10.0.0.201"])];
    let config = icmp(1000, &["10.0.0.1"]);
    let probers = [(config.clone(), member(0)), (config, member(1))];
    let mut lab = Lab::new(&probers, vec![host(1, &["10.0.0.1"])]);
    lab.run(S);
    assert_eq!(lab.probers[0].verdict(0).state, Disabled);
    assert_eq!(lab.probers[1].verdict(0).state, Disabled);
    lab.run(200 * S);
    let used = lab.probers.iter().filter(|p| p.verdict(0).state == Ok).count();
    assert_eq!(used, 1);
    let duplicates = |l: &Lab| l.probers[0].report(l.now).counters.duplicates;
    let before = duplicates(&lab);
    lab.run(300 * S);
    assert_eq!(duplicates(&lab), before, "and it stays so");
}

#[test]
fn one_test_address_on_two_members_is_used_by_the_first() {
    let members = vec![member(0, 0, &["10.0.0.201"]), member(0, 1, &["10.0.0.201"])];
    let mut lab = Lab::new(&[(icmp(1000, &["10.0.0.1"]), members)], vec![host(1, &["10.0.0.1"])]);
    lab.run(100 * S);
    assert_eq!(lab.states(), [Ok, Disabled]);
    assert!(lab.probers[0].report(lab.now).rows[1].duplicate);
}

#[test]
fn members_without_test_addresses_are_probed_by_arp() {
    for (target, data) in [("10.0.0.1", "10.0.0.10"), ("fe80::1", "fe80::10")] {
        let config = ProbeConfig { method: ProbeMode::Arp, ..icmp(100, &[target]) };
        let members = vec![member(0, 0, &[]), member(0, 1, &[])];
        let mut lab = Lab::new(&[(config, members)], vec![host(1, &[target])]);
        lab.run(S);
        assert_eq!(lab.states(), [Ok, Ok], "{target}");
        bind(&mut lab, 0, Some(ip(data)));
        lab.run(S);
        assert_eq!(lab.states(), [Ok, Ok]);
        assert_eq!(lab.probers[0].report(lab.now).rows[0].address, Some(ip(data)));
        lab.cut(0);
        lab.run(100 * MS);
        assert_eq!(lab.states(), [Failed, Ok]);
        lab.mend(0);
        lab.run(200 * MS);
        assert_eq!(lab.states(), [Ok, Ok]);
    }
}

/// A member of the first group has this data address, or none.
fn bind(lab: &mut Lab, member: usize, address: Option<IpAddr>) {
    let of = |v6| address.filter(|a| a.is_ipv6() == v6);
    lab.probers[0].handle_bindings(lab.now, member, [of(false), of(true)]);
}

/// Two members without test addresses, the first with a data address, and a target.
fn neighbours(bound: bool) -> Lab {
    let config = ProbeConfig { method: ProbeMode::Arp, ..icmp(100, &["fe80::1"]) };
    let members = vec![member(0, 0, &[]), member(0, 1, &[])];
    let mut lab = Lab::new(&[(config, members)], vec![host(1, &["fe80::1"])]);
    if bound {
        bind(&mut lab, 0, Some(ip("fe80::10")));
    }
    lab.run(S);
    assert_eq!(lab.states(), [Ok, Ok]);
    lab.probes.clear();
    lab
}

fn is_raised(lab: &Lab) -> bool {
    lab.notices.iter().any(|n| matches!(n.1, ProbeNotice::DetectRaised { .. }))
}

#[test]
fn advertisements_without_a_hardware_address_are_answers() {
    let mut lab = neighbours(true);
    lab.run(60 * S);
    let unanswered = lab.probes.iter().filter(|p| p.outcome == ProbeOutcome::Lost);
    assert_eq!(unanswered.count(), 0, "detection time {:?}", lab.probers[0].detect());
    assert!(!is_raised(&lab));
    for _ in 0..15 {
        lab.cut(0);
        lab.run(100 * MS);
        assert_eq!(lab.states(), [Failed, Ok]);
        lab.mend(0);
        lab.run(S);
        assert_eq!(lab.states(), [Ok, Ok]);
    }
    assert!(!is_raised(&lab));
}

#[test]
fn an_answer_to_all_is_none_to_a_member_that_asked_from_its_address() {
    let mut lab = neighbours(true);
    lab.cables[0][0].tx = false;
    lab.run(100 * MS);
    assert_eq!(lab.states(), [Failed, Ok]);
    lab.run(60 * S);
    assert_eq!(lab.states(), [Failed, Ok]);
    assert!(!is_raised(&lab));
}

#[test]
fn answers_to_the_questions_of_others_raise_no_detection_time() {
    let mut lab = neighbours(false);
    lab.cables[0][0].tx = false;
    let end = lab.now + 60 * S;
    assert!(lab.run_until(end, |l| l.state(0) == Failed), "some of its questions stay open");
    lab.run(60 * S);
    assert!(!is_raised(&lab));
    assert_eq!(lab.state(1), Ok);
}

/// As a group of two with two IPv6 addresses: a member that failed asks from none until it is repaired,
/// and its answers go to the other, too.
#[test]
fn one_failure_after_the_other_is_found_within_the_detection_time() {
    let mut lab = neighbours(true);
    let addresses = ["fe80::10", "fe80::11"].map(ip);
    bind(&mut lab, 1, Some(addresses[1]));
    lab.run(S);
    for round in 0..15 {
        let (down, up) = (round % 2, 1 - round % 2);
        lab.cut(down);
        let end = lab.now + 100 * MS;
        let found = lab.run_until(end, |l| l.state(down) == Failed);
        assert!(found, "round {round}, detection time {:?}", lab.probers[0].detect());
        assert_eq!(lab.state(up), Ok);
        bind(&mut lab, down, None);
        lab.run(700 * MS);
        lab.mend(down);
        let end = lab.now + 200 * MS;
        assert!(lab.run_until(end, |l| l.states() == [Ok, Ok]), "round {round}");
        bind(&mut lab, down, Some(addresses[down]));
        lab.run(300 * MS);
    }
    assert!(!is_raised(&lab));
}

fn transitive() -> Lab {
    let config = ProbeConfig { method: ProbeMode::Transitive, ..icmp(100, &["10.0.0.1"]) };
    let members = (0..3).map(|i| member(0, i, &[])).collect();
    let mut lab = Lab::new(&[(config, members)], vec![host(1, &["10.0.0.1"])]);
    bind(&mut lab, 0, Some(ip("10.0.0.10")));
    lab.run(S);
    assert_eq!(lab.states(), [Ok, Ok, Ok]);
    lab
}

#[test]
fn members_without_data_addresses_are_probed_through_those_that_have_one() {
    let mut lab = transitive();
    let modes: Vec<_> = lab.probers[0].report(lab.now).rows.iter().map(|r| r.mode).collect();
    assert_eq!(modes, [TargetMode::Arp, TargetMode::Transitive, TargetMode::Transitive]);
    let unicast = lab.wire.iter().filter(|w| w.3[12..14] == [0x88, 0xb5]);
    assert!(unicast.clone().count() > 10);
    assert!(unicast.clone().all(|w| w.3[0] & 1 == 0), "never a broadcast");
    lab.cut(1);
    lab.run(110 * MS);
    assert_eq!(lab.states(), [Ok, Failed, Ok]);
    lab.mend(1);
    lab.run(250 * MS);
    assert_eq!(lab.states(), [Ok, Ok, Ok]);
}

#[test]
fn the_failure_of_a_member_is_not_that_of_those_probed_through_it() {
    let mut lab = transitive();
    lab.cut(0);
    let end = lab.now + 100 * MS;
    assert!(lab.run_until(end, |l| l.state(0) == Failed));
    let first_loss = lab.probers[0].verdict(0).first_loss;
    for other in [1, 2] {
        assert_eq!(lab.state(other), Ok);
        assert!(
            lab.probers[0].verdict(other).last_success > first_loss,
            "told from a group failure"
        );
    }
}

#[test]
fn test_addresses_take_precedence_over_transitive_probes() {
    let config = ProbeConfig { method: ProbeMode::Transitive, ..icmp(100, &["10.0.0.1"]) };
    let members = vec![member(0, 0, &["10.0.0.201"]), member(0, 1, &[])];
    let mut lab = Lab::new(&[(config, members)], vec![host(1, &["10.0.0.1"])]);
    lab.run(S);
    let modes: Vec<_> = lab.probers[0].report(lab.now).rows.iter().map(|r| r.mode).collect();
    assert_eq!(modes, [TargetMode::Routes, TargetMode::Transitive]);
    assert_eq!(lab.states(), [Ok, Ok]);
}

#[test]
fn an_answer_that_nobody_asked_for_is_counted_only() {
    let mut lab = working(1000);
    let before = lab.probers[0].report(lab.now).counters.unknown;
    let probe = wire::Echo { id: 1, sequence: 1, sent_ns: 0, kind: wire::KIND_UNICAST };
    let mut message = probe.message(false);
    message[0] = 0;
    let envelope = wire::Envelope {
        src_mac: lab.hosts[0].mac,
        dst_mac: [2, 0, 0, 0, 0, 0],
        src: ip("10.0.0.1"),
        dst: ip("10.0.0.201"),
        hop_limit: 64,
        traffic_class: 0,
    };
    let frame = envelope.frame(wire::ICMP, 2, message);
    let (now, verdict) = (lab.now, lab.probers[0].verdict(0));
    lab.probers[0].handle_frame(now, 0, &frame);
    assert_eq!(lab.probers[0].report(lab.now).counters.unknown, before + 1);
    assert_eq!(lab.probers[0].verdict(0), verdict);
}

#[test]
fn members_answer_for_their_test_addresses_and_no_more_than_a_limit() {
    let mut lab = working(1000);
    let request = |n: u16| {
        let echo = wire::Echo { id: 9, sequence: n, sent_ns: 7, kind: 7 };
        wire::Envelope {
            src_mac: [2, 9, 9, 9, 9, 9],
            dst_mac: [2, 0, 0, 0, 0, 0],
            src: ip("10.0.0.77"),
            dst: ip("10.0.0.201"),
            hop_limit: 64,
            traffic_class: 0,
        }
        .frame(wire::ICMP, 2, echo.message(false))
    };
    let mut answers = 0;
    for n in 0..3000 {
        lab.probers[0].handle_frame(lab.now, 0, &request(n));
        while let Some((index, frame)) = lab.probers[0].poll_transmit() {
            assert_eq!((index, &frame[..6]), (0, &[2, 9, 9, 9, 9, 9][..]));
            answers += 1;
        }
    }
    assert_eq!(answers, 1000);
    assert_eq!(lab.probers[0].report(lab.now).counters.answers_limited, 2000);
}

#[test]
fn an_offline_member_is_not_probed() {
    let mut lab = working(1000);
    lab.probers[0].handle_offline(lab.now, 0, true);
    lab.wire.clear();
    lab.run(5 * S);
    assert!(lab.wire.iter().all(|w| w.2 == 1));
    lab.probers[0].handle_offline(lab.now, 0, false);
    lab.run(5 * S);
    assert_eq!(lab.states(), [Ok, Ok]);
}

#[test]
fn the_probe_stream_has_what_ipmpstat_prints() {
    let mut lab = working(1000);
    lab.probes.clear();
    lab.run(S);
    let acked = lab.probes.iter().find(|p| p.outcome == ProbeOutcome::Acked).expect("an answer");
    assert_eq!(acked.rtt_ns, Some(200_000), "two ways of 0.1 ms");
    assert_eq!(acked.rttavg_ns, Some(200_000));
    assert!(acked.rttdev_ns.is_some_and(|ns| ns <= 100_000));
    assert!(matches!(acked.target, Some(ProbeTarget::Address(IpAddr::V4(_)))));
    let text = serde_json::to_string(&lab.probers[0].report(lab.now)).expect("serializes");
    let back: ProbeReport = serde_json::from_str(&text).expect("and back");
    assert_eq!(back, lab.probers[0].report(lab.now));
    assert_ne!(acked.sent_ns, Instant::ZERO.as_nanos());
}

#[test]
fn a_probe_on_the_wire_is_what_it_was() {
    let envelope = wire::Envelope {
        src_mac: [2, 0, 0, 0, 0, 1],
        dst_mac: [2, 0, 0, 0, 0, 2],
        src: ip("10.0.0.201"),
        dst: ip("10.0.0.1"),
        hop_limit: 255,
        traffic_class: 0,
    };
    let echo = wire::Echo {
        id: 0x1122,
        sequence: 0x3344,
        sent_ns: 0x0102_0304_0506_0708,
        kind: wire::KIND_UNICAST,
    };
    let frame = envelope.frame(wire::ICMP, 2, echo.message(false));
    let hex = frame.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().concat();
    let ethernet = "0200000000020200000000010800";
    let ip_header = "4500002800004000ff01670b0a0000c90a000001";
    let message = "0800915111223344010203040506070800001234";
    assert_eq!(hex, [ethernet, ip_header, message, "000000000000"].concat());
    let ip = wire::Ip::parse_v4(&frame[14..]).expect("a packet");
    assert!(ip.sum_is_valid());
    assert_eq!(wire::Echo::parse(ip.payload), Some(echo));
}
