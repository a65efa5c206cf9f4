//! Troubles of a group: what is told of each, in order, and what `weft paths` shows then.

use super::change::{change, of_members};
use super::*;
use crate::paths::{GroupHealth, InterfacePath};

impl Switched {
    /// Two members that work and are answered, with two data addresses each; the start is told.
    fn working() -> Switched {
        let mut lab = Switched::new(&probed(100));
        let fail0 = link(&lab.hosts[0], "fail0");
        for last in 1..=4 {
            lab.hosts[0].address_added(lab.now, fail0, [10, 0, 0, last].into(), None);
        }
        lab.run_for(Duration::from_secs(2));
        assert!(lab.told().ends_with(&[
            String::from("interface fail0 eth1 ok active link is up, probes are answered"),
            String::from("interface fail0 eth0 ok active link is up, probes are answered"),
        ]));
        let shown = ["fail0 ok: eth0 eth1 () []", "eth0 --mbM-- up ok ok", "eth1 ------- up ok ok"];
        assert_eq!(lab.shown(), shown);
        lab
    }

    /// What was told since the last call.
    fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events)
    }

    /// Groups with active members, those that wait in (), those that cannot in []; members with
    /// flags, link, probes and state.
    fn shown(&self) -> Vec<String> {
        let paths = self.hosts[0].paths(self.now);
        let low = |words: &[&dyn std::fmt::Debug]| {
            words.iter().map(|w| format!("{w:?}").to_lowercase()).collect::<Vec<_>>().join(" ")
        };
        let group = paths.groups.iter().map(|g| {
            let [active, waits, cannot] =
                [&g.active, &g.inactive, &g.unusable].map(|all| all.join(" "));
            format!("{} {}: {active} ({waits}) [{cannot}]", g.group, low(&[&g.state]))
        });
        let member = |m: &InterfacePath| {
            format!("{} {} {}", m.interface, m.flags.letters(), low(&[&m.link, &m.probe, &m.state]))
        };
        group.chain(paths.interfaces.iter().map(member)).collect()
    }

    fn link(&mut self, nic: usize, up: bool) {
        let link = if up { PortLink::UP } else { PortLink::DOWN };
        self.hosts[0].handle_link(self.now, nic, link, None);
        self.exchange();
    }
}

#[test]
fn targets_that_die_fail_the_group_and_no_member_alone() {
    let mut lab = Switched::working();
    lab.works[1][1] = false;
    lab.run_for(Duration::from_secs(1));
    assert_eq!(
        lab.told(),
        [
            "notice fail0 eth0 target 10.0.0.111 is silent",
            "notice fail0 eth1 target 10.0.0.111 is silent"
        ],
        "one of two is put aside"
    );
    assert_eq!(lab.shown()[0], "fail0 ok: eth0 eth1 () []");

    lab.works[1][0] = false;
    lab.run_for(Duration::from_millis(150));
    let told = lab.told();
    let (moved, states) = told.split_at(4);
    assert!(moved.iter().all(|e| e.starts_with("moved ") && e.ends_with(" none")), "{moved:?}");
    assert_eq!(states.len(), 4, "{states:?}");
    // Whoever loses its fifth probe first knows already that no other is answered.
    let of_members: std::collections::BTreeSet<_> =
        states[..2].iter().filter_map(|e| e.split(' ').nth(2)).collect();
    assert!(states[..2].iter().all(|e| e.contains(" failed inactive probes ")), "{states:?}");
    assert_eq!(of_members.len(), 2, "{states:?}");
    assert_eq!(states[2..], ["group fail0 failed", "link fail0 down"]);
    assert_eq!(
        lab.shown(),
        [
            "fail0 failed:  () [eth0 eth1]",
            "eth0 ------- up failed failed",
            "eth1 ------- up failed failed"
        ]
    );
    let inbound = lab.hosts[0].paths(lab.now).addresses;
    assert!(inbound.iter().all(|a| a.inbound.is_none() && a.outbound.is_empty()));

    lab.works[1] = vec![true, true];
    lab.run_for(Duration::from_secs(1));
    let told = lab.told();
    assert!(told.contains(&String::from("link fail0 up")), "{told:?}");
    assert_eq!(told.last().map(String::as_str), Some("group fail0 ok"));
    assert_eq!(lab.spread(), [2, 2]);
}

#[test]
fn a_member_that_hears_and_is_not_heard_fails_alone() {
    let mut lab = Switched::working();
    lab.mute = Some((0, 1));
    lab.run_for(Duration::from_millis(150));
    assert_eq!(
        lab.told(),
        [
            "moved fail0 10.0.0.2 eth1 eth0",
            "moved fail0 10.0.0.4 eth1 eth0",
            "interface fail0 eth1 failed inactive probes are not answered",
            "group fail0 degraded"
        ]
    );
    assert_eq!(lab.shown()[0], "fail0 degraded: eth0 () [eth1]");
    assert_eq!(lab.shown()[2], "eth1 ------- up failed failed");
    lab.mute = None;
    lab.run_for(Duration::from_millis(250));
    assert_eq!(lab.told()[2..], REPAIRED);
    assert_eq!(lab.shown()[0], "fail0 ok: eth0 eth1 () []");
}

const REPAIRED: [&str; 2] =
    ["interface fail0 eth1 ok active link is up, probes are answered", "group fail0 ok"];

#[test]
fn all_members_fail_one_after_the_other_and_the_first_to_return_has_all() {
    let mut lab = Switched::working();
    lab.link(0, false);
    lab.link(1, false);
    let told = lab.told();
    let states = |told: &[String]| -> Vec<String> {
        let is = |e: &&String| !e.starts_with("moved") && !e.starts_with("notice");
        told.iter().filter(is).cloned().collect()
    };
    assert_eq!(
        states(&told),
        [
            "link eth0 down",
            "interface fail0 eth0 failed inactive link is down",
            "group fail0 degraded",
            "link eth1 down",
            "interface fail0 eth1 failed inactive link is down",
            "group fail0 failed",
            "link fail0 down"
        ]
    );
    let nowhere = told.iter().filter(|e| e.starts_with("moved") && e.ends_with(" none"));
    assert_eq!(nowhere.count(), 4);
    assert_eq!(
        lab.shown()[1..],
        ["eth0 ------- down failed failed", "eth1 ------- down failed failed"]
    );

    lab.link(1, true);
    lab.run_for(Duration::from_secs(1));
    assert_eq!(
        states(&lab.told()),
        [
            "link eth1 up",
            "interface fail0 eth1 ok active link is up, probes are answered",
            "group fail0 degraded",
            "link fail0 up"
        ]
    );
    assert_eq!((lab.spread(), lab.shown()[2].as_str()), ([0, 4], "eth1 --mbM-- up ok ok"));
    lab.link(0, true);
    lab.run_for(Duration::from_secs(1));
    assert_eq!((lab.spread(), lab.shown()[0].as_str()), ([2, 2], "fail0 ok: eth0 eth1 () []"));
}

#[test]
fn thirty_flaps_in_a_minute_are_three_failures_to_who_listens() {
    let mut lab = Switched::working();
    for _ in 0..30 {
        lab.link(1, false);
        lab.run_for(Duration::from_millis(500));
        lab.link(1, true);
        lab.run_for(Duration::from_millis(1500));
    }
    let told = lab.told();
    let count = |text: &str| told.iter().filter(|e| e.contains(text)).count();
    assert_eq!(count("interface fail0 eth1 failed"), 3);
    assert_eq!((count("interface fail0 eth1 ok"), count("group fail0 degraded")), (2, 3));
    assert_eq!(count("notice fail0 eth1 link or probes came back more than 2 times"), 1);
    assert_eq!(
        (count("link eth1 down"), count("link eth1 up")),
        (30, 30),
        "links are told as they are"
    );
    assert_eq!(lab.shown()[0], "fail0 degraded: eth0 () [eth1]");
    lab.run_for(Duration::from_mins(1));
    assert_eq!(lab.told()[2..], REPAIRED, "it was stable for a minute");
}

#[test]
fn a_member_with_the_mac_of_another_is_out_until_it_has_its_own() {
    let mut lab = Switched::working();
    lab.hosts[0].handle_link(lab.now, 1, PortLink::UP, Some(mac(0, 0)));
    lab.exchange();
    let told = lab.told();
    let why =
        "hardware address 02:00:00:00:00:01 is that of eth0 too; taken offline until it is unique";
    assert_eq!(told[0], format!("notice fail0 eth1 {why}"));
    assert_eq!(
        told[3..],
        [
            "interface fail0 eth1 offline inactive another member has its hardware address",
            "group fail0 degraded"
        ]
    );
    assert_eq!(lab.shown()[2], "eth1 -----dh up unknown offline");
    let refused = lab.hosts[0].set_offline(lab.now, "eth1", false).unwrap_err().to_string();
    assert!(refused.contains("eth0 has the same hardware address"), "{refused}");

    lab.hosts[0].handle_link(lab.now, 1, PortLink::UP, Some(mac(0, 1)));
    lab.run_for(Duration::from_secs(1));
    let told = lab.told();
    let why = "hardware address 02:00:00:00:00:02 is unique; brought online";
    assert_eq!(told[0], format!("notice fail0 eth1 {why}"));
    assert!(told.contains(&String::from("group fail0 ok")), "{told:?}");
    assert_eq!(lab.shown()[2], "eth1 ------- up ok ok");
}

#[test]
fn a_member_whose_test_address_another_host_has_is_not_probed_and_stays() {
    // Our second member has that of the other host's second.
    let last = |host, nic| if (host, nic) == (0, 1) { 111 } else { 100 + 10 * host + nic };
    let mut lab = Switched::tested(&probed(100), last);
    let fail0 = link(&lab.hosts[0], "fail0");
    lab.hosts[0].address_added(lab.now, fail0, [10, 0, 0, 1].into(), None);
    lab.run_for(Duration::from_secs(3));
    let told = lab.told();
    let named = told.iter().filter(|e| e.starts_with("notice") && e.contains("10.0.0.111"));
    assert!(named.count() >= 1, "{told:?}");
    assert!(!told.iter().any(|e| e.contains("eth0 failed")), "{told:?}");
    assert_eq!(lab.active(), [0, 1], "nothing is said against it");
    assert_eq!(lab.shown()[2], "eth1 ------- up disabled ok");
}

#[test]
fn members_come_and_go_and_no_address_is_without_one_for_a_millisecond() {
    let mut lab = Lab::alone(keeper(of_members(&["eth0", "eth1"]), 0));
    let fail = link(&lab.hosts[0], "fail0");
    let all: Vec<(&str, IpAddr)> = (1..=100).map(|n| ("fail0", [10, 0, 0, n].into())).collect();
    for (_, addr) in &all {
        lab.hosts[0].address_added(lab.now, fail, *addr, None);
    }
    lab.exchange();
    lab.events[0].clear();
    for members in [&["eth0", "eth1", "eth2"][..], &["eth0", "eth2"], &["eth2"], &["eth1", "eth2"]]
    {
        change(&mut lab, 0, of_members(members), &all);
        for _ in 0..100 {
            lab.run_for(Duration::from_millis(1));
            let group = &lab.hosts[0].selection().groups[0];
            assert_eq!((group.active.len(), group.bindings.len()), (members.len(), all.len()));
            assert!(group.bindings.values().all(|m| group.active.contains(m)));
        }
        let paths = lab.hosts[0].paths(lab.now);
        assert_eq!(paths.groups[0].active, members);
        assert_eq!(paths.groups[0].state, GroupHealth::Ok);
    }
    let changes: Vec<_> = lab.events[0].iter().filter(|e| e.starts_with("member-")).collect();
    assert_eq!(
        changes,
        [
            "member-added fail0 eth2 unknown",
            "member-removed fail0 eth1 ok",
            "member-removed fail0 eth0 ok",
            "member-added fail0 eth1 unknown"
        ]
    );
    assert!(!lab.events[0].iter().any(|e| e.ends_with(" none") || e == "group fail0 failed"));
}
