//! Every rule of a group, in virtual time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_stack::time::{Duration, Instant};

use super::outbound::destination_key;
use super::*;
use crate::Mac;
use crate::events::What;
use crate::paths::{GroupHealth, MemberHealth};
use crate::probe::{ProbeState, ProbeVerdict};

const OFF: ProbeVerdict = ProbeVerdict::DISABLED;

fn at(ms: u64) -> Instant {
    // Away from the origin, as a host is that runs for a while.
    Instant::from_millis(1_000_000 + ms)
}

fn mac(i: u16) -> Mac {
    [2, 0, 0, 0, 1, i as u8 + 1]
}

fn info(i: u16) -> MemberInfo {
    MemberInfo { name: format!("eth{i}"), mac: mac(i) }
}

fn config(members: u16, standby: &[u16]) -> GroupConfig {
    GroupConfig {
        members: (0..members).map(|i| format!("eth{i}")).collect(),
        standby: standby.iter().map(|i| format!("eth{i}")).collect(),
        ..GroupConfig::default()
    }
}

fn ok(success: u64) -> ProbeVerdict {
    ProbeVerdict { state: ProbeState::Ok, first_loss: None, last_success: Some(at(success)) }
}

fn lost(first: u64, success: Option<u64>) -> ProbeVerdict {
    let last_success = success.map(at);
    ProbeVerdict { state: ProbeState::Failed, first_loss: Some(at(first)), last_success }
}

fn unknown() -> ProbeVerdict {
    ProbeVerdict { state: ProbeState::Unknown, ..ProbeVerdict::default() }
}

/// A group that nobody knows anything of.
fn fresh(config: &GroupConfig) -> Group {
    assert_eq!(config.validate(), Ok(()));
    let members: Vec<MemberInfo> = (0..config.members.len() as u16).map(info).collect();
    Group::new("fail0", config, &members)
}

/// All links up, nothing probed, nothing left to read.
fn up(config: &GroupConfig) -> Group {
    let mut group = fresh(config);
    for i in 0..config.members.len() {
        group.handle_health(at(0), i as u16, true, OFF);
    }
    drain(&mut group);
    group
}

fn drain(group: &mut Group) -> Vec<What> {
    group.announcements();
    while group.poll_handover().is_some() {}
    std::iter::from_fn(|| group.poll_event()).collect()
}

fn link(group: &mut Group, ms: u64, member: u16, up: bool) {
    group.handle_health(at(ms), member, up, OFF);
}

fn states(group: &Group) -> Vec<MemberState> {
    group.report().members.iter().map(|m| m.state).collect()
}

fn active(group: &Group) -> Vec<u16> {
    let mut active = group.selection().active.to_vec();
    active.sort_unstable();
    active
}

fn v4(i: u16) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, (i >> 8) as u8, i as u8))
}

fn v6(i: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, i + 1))
}

fn with_addresses(group: &mut Group, count: u16) {
    for i in 0..count {
        assert!(group.address_added(at(0), if i % 2 == 0 { v4(i) } else { v6(i) }, None));
    }
    drain(group);
}

fn loads(group: &Group) -> Vec<usize> {
    group.report().members.iter().map(|m| m.bound).collect()
}

use MemberState::{Active, Duplicate, Failed, Inactive, Init, Offline, Standby};

#[test]
fn nothing_is_active_before_it_is_heard_of() {
    let mut group = fresh(&config(2, &[]));
    assert_eq!(states(&group), [Init, Init]);
    assert!(!group.is_up());
    assert_eq!(group.state(), GroupHealth::Failed);
    link(&mut group, 0, 1, true);
    assert_eq!(states(&group), [Init, Active]);
    assert_eq!(group.state(), GroupHealth::Degraded);
    link(&mut group, 0, 0, true);
    assert_eq!(group.state(), GroupHealth::Ok);
    assert_eq!(active(&group), [0, 1]);
}

#[test]
fn a_member_without_link_fails_at_once_and_is_used_again_at_once() {
    let mut group = up(&config(2, &[]));
    link(&mut group, 10, 0, false);
    assert_eq!(states(&group), [Failed, Active]);
    assert_eq!(group.state(), GroupHealth::Degraded);
    assert!(group.take_changed());
    link(&mut group, 20, 0, true);
    assert_eq!(states(&group), [Active, Active]);
    assert!(group.take_changed());
    assert!(!group.take_changed());
}

#[test]
fn a_standby_member_waits_until_another_fails_and_waits_again() {
    for order in [[0, 1, 2], [2, 1, 0], [2, 0, 1], [1, 2, 0]] {
        let mut group = fresh(&config(3, &[2]));
        for i in order {
            link(&mut group, 0, i, true);
        }
        assert_eq!(states(&group), [Active, Active, Standby], "{order:?}");
        link(&mut group, 10, 0, false);
        assert_eq!(states(&group), [Failed, Active, Active]);
        link(&mut group, 20, 0, true);
        assert_eq!(states(&group), [Active, Active, Standby]);
    }
}

#[test]
fn a_standby_member_carries_frames_where_nobody_else_does() {
    let mut group = fresh(&config(2, &[1]));
    link(&mut group, 0, 1, true);
    assert_eq!(states(&group), [Init, Active]);
    link(&mut group, 0, 0, false);
    assert_eq!(states(&group), [Failed, Active]);
    link(&mut group, 0, 0, true);
    assert_eq!(states(&group), [Active, Standby]);
}

#[test]
fn without_failback_a_repaired_member_waits_for_the_next_failure() {
    let mut group = up(&GroupConfig { failback: false, ..config(3, &[2]) });
    link(&mut group, 10, 0, false);
    assert_eq!(active(&group), [1, 2]);
    link(&mut group, 20, 0, true);
    assert_eq!(states(&group), [Inactive, Active, Active]);
    link(&mut group, 30, 1, false);
    assert_eq!(states(&group), [Active, Failed, Active]);
}

#[test]
fn without_failback_members_come_back_after_the_whole_group_had_failed() {
    let mut group = up(&GroupConfig { failback: false, ..config(3, &[]) });
    for i in 0..3 {
        link(&mut group, 10, i, false);
    }
    assert_eq!(group.state(), GroupHealth::Failed);
    for i in 0..3 {
        link(&mut group, 20, i, true);
    }
    assert_eq!(states(&group), [Active, Active, Active]);
}

#[test]
fn without_failback_a_member_whose_link_came_late_is_used() {
    let mut group = fresh(&GroupConfig { failback: false, ..config(2, &[]) });
    link(&mut group, 0, 0, true);
    link(&mut group, 0, 1, false);
    link(&mut group, 900, 1, true);
    assert_eq!(states(&group), [Active, Active]);
}

#[test]
fn a_hundred_addresses_over_three_members_stay_even_through_every_failure() {
    let mut group = up(&config(3, &[]));
    with_addresses(&mut group, 100);
    assert_eq!(loads(&group), [34, 33, 33]);
    // (what happens, addresses by member afterwards, how many moved)
    let steps: [(u16, bool, [usize; 3], usize); 8] = [
        (1, false, [50, 0, 50], 33),
        (1, true, [33, 33, 34], 33),
        (0, false, [0, 50, 50], 33),
        (2, false, [0, 100, 0], 50),
        (0, true, [50, 50, 0], 50),
        (2, true, [33, 34, 33], 33),
        (2, false, [50, 50, 0], 33),
        (2, true, [33, 34, 33], 33),
    ];
    for (i, (member, is_up, expected, moved)) in steps.into_iter().enumerate() {
        // Far apart, for nothing flaps here.
        link(&mut group, (i as u64 + 1) * 100_000, member, is_up);
        println!("eth{member} {}: {:?}", if is_up { "up" } else { "down" }, loads(&group));
        let mut sorted = (loads(&group), expected.to_vec());
        sorted.0.sort_unstable();
        sorted.1.sort_unstable();
        assert_eq!(sorted.0, sorted.1, "step {i}");
        assert_eq!(group.announcements().len(), moved, "step {i}: each move once, and no others");
        assert_eq!(group.announcements(), []);
    }
}

// Binding: a new address goes to the emptiest, a gap is filled by the fullest.
#[test]
fn an_address_that_goes_leaves_no_gap() {
    let mut group = up(&config(2, &[]));
    for i in 0..4 {
        group.address_added(at(0), v4(i), None);
    }
    assert_eq!(loads(&group), [2, 2]);
    assert_eq!(group.announcements(), [], "whoever adds an address announces it");
    let by = |group: &Group, i| group.selection().bindings[&v4(i)];
    let on_first: Vec<u16> = (0..4).filter(|i| by(&group, *i) == 0).collect();
    group.address_removed(at(1), v4(on_first[0]), None);
    assert_eq!(loads(&group), [1, 2]);
    assert_eq!(group.announcements(), [], "a difference of one is left alone");
    group.address_removed(at(2), v4(on_first[1]), None);
    assert_eq!(loads(&group), [1, 1]);
    let moved = group.announcements();
    assert_eq!(moved.len(), 1);
    assert_eq!((moved[0].member, moved[0].mac), (0, None));
    group.address_removed(at(3), v4(on_first[1]), None);
    assert_eq!(loads(&group), [1, 1], "what is not there cannot go");
}

#[test]
fn the_first_active_member_takes_all_and_each_is_announced() {
    let mut group = fresh(&config(2, &[]));
    for i in 0..10 {
        group.address_added(at(0), v4(i), None);
    }
    assert!(group.selection().bindings.is_empty());
    assert!(group.report().addresses.iter().all(|a| a.inbound.is_none() && a.outbound.is_empty()));
    link(&mut group, 0, 1, true);
    assert_eq!(loads(&group), [0, 10]);
    let announced = group.announcements();
    assert_eq!(announced.len(), 10);
    assert!(announced.iter().all(|a| a.member == 1));
    link(&mut group, 0, 0, true);
    assert_eq!(loads(&group), [5, 5]);
}

#[test]
fn addresses_that_nobody_could_take_are_announced_when_somebody_can() {
    let mut group = up(&config(1, &[]));
    with_addresses(&mut group, 3);
    link(&mut group, 10, 0, false);
    assert!(group.selection().bindings.is_empty());
    assert_eq!(group.announcements(), []);
    link(&mut group, 20, 0, true);
    assert_eq!(group.announcements().len(), 3, "what neighbours knew may be gone");
}

#[test]
fn a_move_forth_and_back_between_two_looks_is_none() {
    let mut group = up(&config(2, &[]));
    group.address_added(at(0), v4(0), None);
    link(&mut group, 10, 0, false);
    link(&mut group, 10, 0, true);
    link(&mut group, 10, 1, false);
    assert_eq!(group.selection().bindings[&v4(0)], 0);
    assert_eq!(group.announcements(), []);
}

#[test]
fn a_standby_member_takes_the_addresses_of_the_failed_one_and_no_other_moves() {
    let mut group = up(&config(3, &[2]));
    with_addresses(&mut group, 100);
    assert_eq!(loads(&group), [50, 50, 0]);
    let before = group.selection().bindings.clone();
    link(&mut group, 10, 0, false);
    assert_eq!(loads(&group), [0, 50, 50]);
    for (address, member) in &group.selection().bindings {
        assert!(before[address] == 0 && *member == 2 || before[address] == 1 && *member == 1);
    }
    assert_eq!(group.announcements().len(), 50);
}

#[test]
fn addresses_of_an_alias_with_its_own_mac_move_as_one() {
    let own: Mac = [2, 9, 9, 9, 9, 9];
    let mut group = up(&config(2, &[]));
    for i in 0..5 {
        group.address_added(at(0), v4(i), Some(own));
    }
    for i in 5..8 {
        group.address_added(at(0), v4(i), None);
    }
    assert_eq!(group.selection().bindings.len(), 3);
    let member = group.selection().own_macs[&own];
    drain(&mut group);
    link(&mut group, 10, member, false);
    let mut moved = group.announcements();
    moved.retain(|a| a.mac == Some(own));
    assert_eq!(moved.len(), 5);
    assert!(moved.iter().all(|a| a.member == 1 - member));
    assert_eq!(group.selection().own_macs[&own], 1 - member);
    // What has its own MAC address leaves where that is, and nowhere else.
    link(&mut group, 20, member, true);
    let lines = group.report().addresses;
    assert!(lines.iter().filter(|a| a.outbound.len() == 1).count() == 5);
    for i in 0..5 {
        group.address_removed(at(30), v4(i), Some(own));
    }
    assert!(group.selection().own_macs.is_empty());
}

#[test]
fn an_address_that_was_added_twice_is_there_until_it_was_removed_twice() {
    let mut group = up(&config(2, &[]));
    group.address_added(at(0), v4(0), None);
    group.address_added(at(0), v4(0), None);
    assert_eq!(loads(&group), [1, 0]);
    group.address_removed(at(1), v4(0), None);
    assert!(group.selection().bindings.contains_key(&v4(0)));
    group.address_removed(at(1), v4(0), None);
    assert!(group.selection().bindings.is_empty());
}

#[test]
fn addresses_have_a_limit_that_is_counted() {
    let mut group = fresh(&config(2, &[]));
    for i in 0..ADDRESSES_MAX as u32 {
        assert!(group.address_added(at(0), Ipv4Addr::from_bits(i + 1).into(), None));
    }
    assert!(!group.address_added(at(0), v6(0), None));
    assert!(group.address_added(at(0), Ipv4Addr::from_bits(1).into(), None), "it is there");
    assert_eq!(group.report().counters.addresses_refused, 1);
    for i in 0..2 {
        link(&mut group, 1, i, true);
    }
    assert_eq!(loads(&group), [ADDRESSES_MAX / 2; 2]);
}

#[test]
fn one_member_takes_multicast_and_hands_it_over_with_what_was_joined() {
    let mut group = fresh(&config(3, &[]));
    let (all4, all6): (IpAddr, IpAddr) =
        ("224.0.0.251".parse().unwrap(), "ff02::fb".parse().unwrap());
    for group_address in [all4, all6, all6] {
        assert!(group.membership_added(group_address));
    }
    link(&mut group, 0, 1, true);
    let first = |family, to, from, memberships: &[IpAddr]| {
        Some(Handover { family, from, to, memberships: memberships.to_vec() })
    };
    assert_eq!(group.poll_handover(), first(Family::V4, 1, None, &[all4]));
    assert_eq!(group.poll_handover(), first(Family::V6, 1, None, &[all6]));
    assert_eq!(group.poll_handover(), None);
    // The first that became active stays, whatever comes.
    link(&mut group, 10, 0, true);
    link(&mut group, 10, 2, true);
    assert_eq!(group.poll_handover(), None);
    assert_eq!(group.selection().nominee4, Some(1));
    group.membership_removed(all6);
    // The next is the one that is active for longest.
    link(&mut group, 20, 1, false);
    assert_eq!((group.selection().nominee4, group.selection().nominee6), (Some(0), Some(0)));
    assert_eq!(group.poll_handover(), first(Family::V4, 0, Some(1), &[all4]));
    assert_eq!(group.poll_handover(), first(Family::V6, 0, Some(1), &[all6]));
    group.membership_removed(all6);
    link(&mut group, 30, 1, true);
    assert_eq!(group.poll_handover(), None);
    link(&mut group, 40, 0, false);
    assert_eq!(group.selection().nominee4, Some(2));
    group.poll_handover();
    assert_eq!(group.poll_handover(), first(Family::V6, 2, Some(0), &[]));
}

// One that has no link is no evidence against others.
#[test]
fn links_that_go_down_one_after_the_other_fail_one_member_each() {
    let mut group = fresh(&config(2, &[]));
    group.handle_health(at(0), 0, true, unknown());
    group.handle_health(at(0), 1, true, unknown());
    group.handle_health(at(10), 0, false, unknown());
    assert_eq!(states(&group), [Failed, Active]);
    group.handle_health(at(20), 1, false, unknown());
    assert_eq!(group.state(), GroupHealth::Failed);
    assert_eq!(group.report().counters.group_failures, 0);
}

#[test]
fn lost_probes_fail_a_member_if_another_had_an_answer_since() {
    let mut group = fresh(&config(2, &[]));
    group.handle_health(at(0), 0, true, ok(0));
    group.handle_health(at(0), 1, true, ok(0));
    drain(&mut group);
    group.handle_health(at(190), 1, true, ok(180));
    group.handle_health(at(200), 0, true, lost(100, Some(90)));
    assert_eq!(states(&group), [Failed, Active]);
    assert_eq!(group.report().counters.group_failures, 0);
    assert_eq!(group.report().members[0].path.why.as_deref(), Some("probes are not answered"));
    // Ten answers, which the prober counts, are a repair.
    group.handle_health(at(400), 0, true, ok(390));
    assert_eq!(states(&group), [Active, Active]);
}

#[test]
fn lost_probes_fail_the_group_if_no_other_had_an_answer_since() {
    let mut group = fresh(&config(3, &[]));
    for i in 0..3 {
        group.handle_health(at(0), i, true, ok(0));
    }
    // The others are about to lose theirs: their last answers are older.
    group.handle_health(at(190), 1, true, ok(95));
    group.handle_health(at(190), 2, true, ok(100));
    group.handle_health(at(200), 0, true, lost(100, Some(90)));
    assert_eq!(states(&group), [Failed, Failed, Failed]);
    assert!(!group.is_up());
    assert_eq!(group.report().counters.group_failures, 1);
    // An answer of before is no repair, one of afterwards is.
    group.handle_health(at(210), 1, true, ok(199));
    assert_eq!(states(&group), [Failed, Failed, Failed]);
    group.handle_health(at(300), 1, true, ok(290));
    assert_eq!(states(&group), [Failed, Active, Failed]);
    group.handle_health(at(310), 0, true, ok(300));
    group.handle_health(at(310), 2, true, ok(300));
    assert_eq!(group.state(), GroupHealth::Ok);
}

#[test]
fn a_member_that_is_not_probed_is_evidence_by_its_link_alone() {
    let mut group = fresh(&config(2, &[]));
    group.handle_health(at(0), 0, true, ok(0));
    group.handle_health(at(0), 1, true, OFF);
    group.handle_health(at(200), 0, true, lost(100, Some(90)));
    assert_eq!(states(&group), [Failed, Active]);
}

#[test]
fn a_member_without_targets_works_but_is_no_evidence() {
    let mut group = fresh(&config(2, &[]));
    group.handle_health(at(0), 0, true, ok(0));
    group.handle_health(at(0), 1, true, unknown());
    assert_eq!(states(&group), [Active, Active]);
    assert_eq!(group.report().members[1].path.state, MemberHealth::Unknown);
    group.handle_health(at(200), 0, true, lost(100, Some(90)));
    assert_eq!(states(&group), [Failed, Failed]);
    // It comes back with the group.
    group.handle_health(at(400), 0, true, ok(390));
    assert_eq!(states(&group), [Active, Active]);
}

#[test]
fn offline_and_failed_members_are_no_evidence() {
    let mut group = fresh(&config(3, &[]));
    for i in 0..3 {
        group.handle_health(at(0), i, true, ok(0));
    }
    group.handle_health(at(150), 1, true, ok(150));
    group.offline(at(160), 1, 1).unwrap();
    group.handle_health(at(170), 2, false, ok(165));
    group.handle_health(at(200), 0, true, lost(100, Some(90)));
    assert_eq!(group.report().counters.group_failures, 1);
    assert_eq!(states(&group), [Failed, Offline, Failed]);
}

// Switches with spanning tree do not forward for half a minute.
#[test]
fn losses_do_not_count_for_40_seconds_after_link_up_unless_one_was_answered() {
    let mut group = fresh(&config(2, &[]));
    group.handle_health(at(0), 0, true, OFF);
    group.handle_health(at(0), 1, true, unknown());
    group.handle_health(at(10_000), 1, true, lost(1_000, None));
    assert_eq!(states(&group), [Active, Active]);
    assert_eq!(group.poll_timeout(), Some(at(40_000)));
    group.handle_timeout(at(39_999));
    assert_eq!(states(&group), [Active, Active]);
    group.handle_timeout(at(40_000));
    assert_eq!(states(&group), [Active, Failed]);
    assert_eq!(group.poll_timeout(), None);
}

#[test]
fn the_first_answer_ends_the_quiet_period() {
    let mut group = fresh(&config(2, &[]));
    group.handle_health(at(0), 0, true, OFF);
    group.handle_health(at(0), 1, true, unknown());
    group.handle_health(at(1_000), 1, true, ok(1_000));
    group.handle_health(at(3_000), 1, true, lost(2_000, Some(1_500)));
    assert_eq!(states(&group), [Active, Failed]);
}

#[test]
fn answers_of_before_the_link_went_are_no_repair() {
    let mut group = fresh(&config(2, &[]));
    group.handle_health(at(0), 0, true, OFF);
    group.handle_health(at(0), 1, true, ok(0));
    group.handle_health(at(1_000), 1, false, ok(990));
    group.handle_health(at(2_000), 1, true, ok(990));
    assert_eq!(states(&group), [Active, Failed]);
    group.handle_health(at(2_100), 1, true, lost(990, Some(990)));
    assert_eq!(states(&group), [Active, Failed]);
    group.handle_health(at(16_000), 1, true, ok(15_990));
    assert_eq!(states(&group), [Active, Active]);
}

#[test]
fn a_third_link_up_within_a_minute_is_not_trusted_until_it_is_stable() {
    let mut group = up(&config(2, &[]));
    for i in 0..2 {
        link(&mut group, i * 1_000 + 500, 0, false);
        link(&mut group, i * 1_000 + 1_000, 0, true);
        assert_eq!(states(&group), [Active, Active]);
    }
    link(&mut group, 2_500, 0, false);
    link(&mut group, 3_000, 0, true);
    assert_eq!(states(&group), [Failed, Active]);
    assert_eq!(group.report().members[0].damped_ms, Some(58_000));
    assert_eq!(group.poll_timeout(), Some(at(61_000)));
    group.handle_timeout(at(60_999));
    assert_eq!(states(&group), [Failed, Active]);
    group.handle_timeout(at(61_000));
    assert_eq!(states(&group), [Active, Active]);
    assert_eq!(group.report().members[0].counters.damped, 1);
}

#[test]
fn one_that_flaps_is_used_where_there_is_no_other() {
    let mut group = up(&config(2, &[]));
    for i in 0..5 {
        link(&mut group, i * 1_000 + 500, 0, false);
        link(&mut group, i * 1_000 + 1_000, 0, true);
    }
    assert_eq!(states(&group), [Failed, Active]);
    link(&mut group, 6_000, 1, false);
    assert_eq!(states(&group), [Active, Failed]);
    // And stays when the other is back.
    link(&mut group, 7_000, 1, true);
    assert_eq!(states(&group), [Active, Active]);
}

#[test]
fn thirty_flaps_in_a_minute_move_addresses_a_few_times_only() {
    let mut group = up(&config(3, &[]));
    with_addresses(&mut group, 99);
    let mut announced = 0;
    for i in 0..30 {
        link(&mut group, i * 2_000, 0, false);
        announced += group.announcements().len();
        link(&mut group, i * 2_000 + 1_000, 0, true);
        announced += group.announcements().len();
    }
    let member = &group.report().members[0];
    assert_eq!((member.counters.link_downs, member.counters.failures), (30, 3));
    assert_eq!(announced, 33 * 5, "three times away and twice back");
    let until = group.poll_timeout().unwrap();
    assert_eq!(until, at(55_000 + 60_000), "the third last link-up is a minute ago");
    group.handle_timeout(until);
    assert_eq!(states(&group), [Active, Active, Active]);
    assert_eq!(loads(&group), [33, 33, 33]);
}

#[test]
fn probes_that_come_and_go_are_damped_too() {
    let mut group = fresh(&config(2, &[]));
    group.handle_health(at(0), 0, true, ok(0));
    group.handle_health(at(0), 1, true, OFF);
    for i in 1..=30 {
        group.handle_health(at(i * 2_000), 0, true, lost(i * 2_000 - 90, Some(i * 2_000 - 100)));
        group.handle_health(at(i * 2_000 + 1_000), 0, true, ok(i * 2_000 + 990));
    }
    let member = &group.report().members[0];
    assert!(member.counters.repairs <= 3, "{member:?}");
    group.handle_timeout(group.poll_timeout().unwrap());
    assert_eq!(states(&group), [Active, Active]);
}

#[test]
fn the_last_usable_member_is_not_taken_out() {
    let mut group = up(&config(2, &[]));
    with_addresses(&mut group, 4);
    let refused = |left, wanted| OfflineError::Redundancy {
        member: "eth0".to_owned(),
        group: "fail0".to_owned(),
        left,
        wanted,
    };
    assert_eq!(group.offline(at(10), 0, 2), Err(refused(1, 2)));
    group.offline(at(10), 0, 1).unwrap();
    assert_eq!(states(&group), [Offline, Active]);
    assert_eq!(loads(&group), [0, 4]);
    assert_eq!(group.state(), GroupHealth::Degraded);
    group.offline(at(11), 0, 1).unwrap();
    assert!(matches!(group.offline(at(12), 1, 1), Err(OfflineError::Redundancy { left: 0, .. })));
    assert!(matches!(group.offline(at(12), 7, 1), Err(OfflineError::Unknown { .. })));
    assert_eq!(group.undo(at(13), 1), Err(UndoError::NotOffline("eth1".to_owned())));
    assert!(matches!(group.undo(at(13), 7), Err(UndoError::Unknown { .. })));
    group.undo(at(14), 0).unwrap();
    assert_eq!(states(&group), [Active, Active]);
    assert_eq!(loads(&group), [2, 2]);
}

#[test]
fn in_a_failed_group_any_member_that_is_not_offline_counts() {
    let mut group = up(&config(2, &[]));
    link(&mut group, 10, 0, false);
    assert!(group.offline(at(20), 1, 1).is_err());
    link(&mut group, 30, 1, false);
    group.offline(at(40), 1, 1).unwrap();
    assert_eq!(states(&group), [Failed, Offline]);
    assert!(group.offline(at(40), 0, 1).is_err());
}

#[test]
fn a_standby_member_takes_over_from_one_that_is_taken_out() {
    for failback in [true, false] {
        let mut group = up(&GroupConfig { failback, ..config(2, &[1]) });
        group.offline(at(10), 0, 1).unwrap();
        assert_eq!(states(&group), [Offline, Active]);
        // Whatever `failback` says: it was the operator.
        group.undo(at(20), 0).unwrap();
        assert_eq!(states(&group), [Active, Standby]);
    }
}

#[test]
fn a_member_comes_back_failed_if_it_failed_meanwhile() {
    let mut group = up(&config(2, &[]));
    group.offline(at(10), 0, 1).unwrap();
    link(&mut group, 20, 0, false);
    assert_eq!(states(&group), [Offline, Active]);
    group.undo(at(30), 0).unwrap();
    assert_eq!(states(&group), [Failed, Active]);
    group.offline(at(40), 0, 1).unwrap();
    link(&mut group, 50, 0, true);
    group.undo(at(60), 0).unwrap();
    assert_eq!(states(&group), [Active, Active]);
}

#[test]
fn all_but_one_of_the_members_with_one_mac_go_offline_until_it_is_unique() {
    let mut group = up(&config(3, &[]));
    group.handle_mac(at(10), 0, mac(2));
    assert_eq!(states(&group), [Active, Active, Duplicate]);
    assert_eq!(group.report().members[2].path.flags.letters(), "-----dh");
    let refused = UndoError::DuplicateMac { member: "eth2".to_owned(), other: "eth0".to_owned() };
    assert_eq!(group.undo(at(20), 2), Err(refused));
    group.handle_mac(at(30), 1, mac(2));
    assert_eq!(states(&group), [Active, Duplicate, Duplicate]);
    group.handle_mac(at(40), 2, mac(7));
    assert_eq!(states(&group), [Active, Duplicate, Active]);
    group.handle_mac(at(50), 0, mac(8));
    assert_eq!(states(&group), [Active, Active, Active]);
    let texts: Vec<String> = drain(&mut group).iter().filter_map(log_line).collect();
    let taken = "fail0: eth2: hardware address 02:00:00:00:01:03 is that of eth0 too; \
                 taken offline until it is unique";
    assert!(texts.iter().any(|text| text == taken), "{texts:#?}");
}

#[test]
fn of_members_with_one_mac_the_one_that_works_stays() {
    let mut group = up(&config(3, &[]));
    link(&mut group, 10, 0, false);
    group.handle_mac(at(20), 0, mac(1));
    assert_eq!(states(&group), [Duplicate, Active, Active]);
    // Who is taken out by the operator does not use it.
    group.offline(at(30), 1, 1).unwrap();
    assert_eq!(states(&group), [Failed, Offline, Active]);
    assert!(matches!(group.undo(at(40), 1), Err(UndoError::DuplicateMac { .. })));
    // A duplicate that the operator takes out stays out.
    group.offline(at(40), 0, 1).unwrap();
    group.undo(at(50), 1).unwrap();
    assert_eq!(states(&group), [Offline, Active, Active]);
}

#[test]
fn members_that_are_not_known_yet_have_no_mac_in_common() {
    let unknown_mac = |i| MemberInfo { mac: [0; 6], ..info(i) };
    let mut group = Group::new("fail0", &config(2, &[]), &[unknown_mac(0), unknown_mac(1)]);
    link(&mut group, 0, 0, true);
    link(&mut group, 0, 1, true);
    assert_eq!(states(&group), [Active, Active]);
}

#[test]
fn members_come_and_go() {
    let mut group = up(&config(2, &[]));
    with_addresses(&mut group, 60);
    let added = group.member_added(at(10), info(2), false).unwrap();
    assert_eq!(added, 2);
    let twice = MemberError::Twice("fail0".to_owned(), "eth2".to_owned());
    assert_eq!(group.member_added(at(10), info(2), false), Err(twice));
    assert_eq!(states(&group), [Active, Active, Init]);
    link(&mut group, 11, 2, true);
    assert_eq!(loads(&group), [20, 20, 20]);
    drain(&mut group);
    // Those behind it move up: only its own addresses are announced.
    group.member_removed(at(20), 0);
    assert_eq!(loads(&group), [30, 30]);
    assert_eq!(group.announcements().len(), 20);
    let names: Vec<_> = group.report().members.iter().map(|m| m.path.interface.clone()).collect();
    assert_eq!(names, ["eth1", "eth2"]);
    let moved = std::iter::from_fn(|| group.poll_event())
        .filter(|e| matches!(e, What::Moved { from: Some(from), .. } if from == "eth0"))
        .count();
    assert_eq!(moved, 20);
    group.member_removed(at(30), 9);
    group.member_removed(at(30), 1);
    group.member_removed(at(30), 0);
    assert!(!group.is_up());
    assert_eq!(group.state(), GroupHealth::Failed);
    for i in 0..config::MEMBERS_MAX as u16 {
        group.member_added(at(40), info(i), false).unwrap();
    }
    let full = group.member_added(at(40), info(99), false);
    assert_eq!(full, Err(MemberError::Full("fail0".to_owned())));
}

#[test]
fn a_removed_member_is_replaced_and_standby_waits_if_there_are_enough() {
    let mut group = up(&config(4, &[2, 3]));
    link(&mut group, 10, 0, false);
    assert_eq!(states(&group), [Failed, Active, Active, Standby]);
    // One is wanted, two are active.
    group.member_removed(at(20), 0);
    assert_eq!(states(&group), [Active, Standby, Standby]);
    group.member_removed(at(30), 0);
    assert_eq!(states(&group), [Active, Standby]);
}

#[test]
fn another_configuration_keeps_what_members_are() {
    let mut group = up(&config(3, &[2]));
    with_addresses(&mut group, 30);
    let before: Vec<usize> = loads(&group);
    assert_eq!(before, [15, 15, 0]);
    // The other way round: nothing moves.
    let turned = GroupConfig {
        members: ["eth2", "eth1", "eth0"].map(str::to_owned).to_vec(),
        ..config(3, &[2])
    };
    group.update(at(10), &turned, &[info(2), info(1), info(0)]);
    assert_eq!(loads(&group), [0, 15, 15]);
    assert_eq!(states(&group), [Standby, Active, Active]);
    assert_eq!(group.announcements(), []);
    // Without eth1, and eth2 is no standby any more.
    let less = GroupConfig {
        members: ["eth0", "eth2", "eth3"].map(str::to_owned).to_vec(),
        ..GroupConfig::default()
    };
    group.update(at(20), &less, &[info(0), info(2), info(3)]);
    assert_eq!(states(&group), [Active, Active, Init]);
    assert_eq!(loads(&group), [15, 15, 0]);
    let same: Vec<u16> = group.announcements().iter().map(|a| a.member).collect();
    assert_eq!(same, [1; 15], "eth0 kept its own, eth2 has those of eth1");
    assert_eq!(group.config(), &less);
}

#[test]
fn failback_that_is_switched_on_brings_back_those_that_wait() {
    let without = GroupConfig { failback: false, ..config(3, &[2]) };
    let mut group = up(&without);
    link(&mut group, 10, 0, false);
    link(&mut group, 20, 0, true);
    assert_eq!(states(&group), [Inactive, Active, Active]);
    group.update(at(30), &config(3, &[2]), &[info(0), info(1), info(2)]);
    assert_eq!(states(&group), [Active, Active, Standby]);
}

#[test]
fn a_destination_keeps_its_member_until_that_leaves_or_another_joins() {
    let mut group = up(&config(3, &[]));
    let mut outbound = Outbound::new();
    assert_eq!(outbound.choose(1), None);
    outbound.apply(group.selection());
    let choose = |outbound: &mut Outbound| -> Vec<u16> {
        (0..100).map(|i| outbound.choose(destination_key(v4(i))).unwrap()).collect()
    };
    let count = |chosen: &[u16], member| chosen.iter().filter(|m| **m == member).count();
    let even = |chosen: &[u16], members: &[u16]| {
        for member in members {
            let n = count(chosen, *member);
            // Two destinations in one bucket count as one.
            assert!(n.abs_diff(100 / members.len()) <= 3, "{member}: {n}");
        }
    };
    let first = choose(&mut outbound);
    even(&first, &[0, 1, 2]);
    assert_eq!(choose(&mut outbound), first);
    link(&mut group, 10, 1, false);
    outbound.apply(group.selection());
    let second = choose(&mut outbound);
    even(&second, &[0, 2]);
    for (before, after) in first.iter().zip(&second) {
        assert!(before == after || *before == 1, "only those of the failed one choose again");
    }
    link(&mut group, 20, 1, true);
    outbound.apply(group.selection());
    let third = choose(&mut outbound);
    even(&third, &[0, 1, 2]);
    for (before, after) in second.iter().zip(&third) {
        assert!(before == after || *after == 1, "only what the new one takes moves");
    }
}

#[test]
fn one_member_alone_needs_no_choice() {
    let mut group = up(&config(2, &[]));
    link(&mut group, 0, 0, false);
    let mut outbound = Outbound::default();
    outbound.apply(group.selection());
    assert!((0..1000).all(|key| outbound.choose(key) == Some(1)));
    link(&mut group, 1, 1, false);
    outbound.apply(group.selection());
    assert_eq!(outbound.choose(1), None);
}

#[test]
fn destinations_that_are_close_together_fall_into_different_buckets() {
    let buckets = |of: fn(u16) -> IpAddr| {
        let all: std::collections::BTreeSet<u64> =
            (0..256).map(|i| destination_key(of(i)) % outbound::BUCKETS as u64).collect();
        all.len()
    };
    assert!(buckets(v4) > 235);
    assert!(buckets(v6) > 235);
}

#[test]
fn events_tell_each_change_with_a_signature_of_what_is_so_then() {
    let mut group = up(&config(2, &[1]));
    link(&mut group, 10, 0, false);
    let signature = group.report().path.signature;
    let interface = |interface: &str, state: &str, active, standby, why: &str| What::Interface {
        group: "fail0".to_owned(),
        signature,
        interface: interface.to_owned(),
        state: state.to_owned(),
        active,
        standby,
        why: why.to_owned(),
    };
    let notice = What::Notice {
        group: "fail0".to_owned(),
        interface: Some("eth0".to_owned()),
        text: "link down".to_owned(),
    };
    let state = What::Group { group: "fail0".to_owned(), signature, state: "degraded".to_owned() };
    let expected = [
        notice,
        interface("eth0", "failed", false, false, "link is down"),
        interface("eth1", "ok", true, true, "link is up"),
        state,
    ];
    assert_eq!(drain(&mut group), expected);
    let lines: Vec<String> = expected.iter().filter_map(log_line).collect();
    assert_eq!(
        lines,
        [
            "fail0: eth0: link down",
            "fail0: eth0 failed: link is down",
            "fail0: eth1 works and carries frames: link is up",
            "fail0: some members can be used, not all",
        ]
    );
    link(&mut group, 20, 1, false);
    let last = drain(&mut group).pop().unwrap();
    assert_eq!(log_line(&last).unwrap(), "fail0: no member can be used any more");
    assert_eq!(group.poll_event(), None);
}

#[test]
fn members_that_come_and_go_are_told() {
    let mut group = up(&config(1, &[]));
    group.member_added(at(1), info(1), true).unwrap();
    group.member_removed(at(2), 1);
    let lines: Vec<String> = drain(&mut group).iter().filter_map(log_line).collect();
    assert_eq!(
        lines,
        [
            "fail0: eth1 joins as standby member",
            "fail0: some members can be used, not all",
            "fail0: eth1 leaves as standby member",
            "fail0: all members can be used"
        ]
    );
}

#[test]
fn events_that_nobody_reads_are_lost_and_counted() {
    let mut group = up(&config(2, &[]));
    for i in 0..2_000 {
        link(&mut group, i, 0, i % 2 == 1);
    }
    let lost = group.report().counters.events_lost;
    assert!(lost > 0);
    assert_eq!(std::iter::from_fn(|| group.poll_event()).count(), 1024);
    assert_eq!(group.report().counters.events_lost, lost);
}

#[test]
fn the_report_has_what_the_tables_show() {
    let mut group = up(&config(3, &[2]));
    with_addresses(&mut group, 2);
    link(&mut group, 10, 1, false);
    link(&mut group, 20, 1, true);
    let report = group.report();
    let flags: Vec<String> = report.members.iter().map(|m| m.path.flags.letters()).collect();
    assert_eq!(flags, ["--mbM--", "-------", "is-----"]);
    assert_eq!(report.path.active, ["eth0", "eth1"]);
    assert_eq!(report.path.inactive, ["eth2"]);
    assert_eq!(report.path.detection_ms, None, "nothing is probed");
    group.offline(at(30), 1, 1).unwrap();
    let report = group.report();
    assert_eq!(report.path.unusable, ["eth1"]);
    assert_eq!(report.path.active, ["eth0", "eth2"]);
    assert_eq!(report.members[1].path.flags.letters(), "-----d-");
    assert_eq!(report.addresses[0].outbound, ["eth0", "eth2"]);
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<GroupReport>(&json).unwrap(), report);
    group.handle_health(at(40), 0, true, ok(40));
    assert_eq!(group.report().path.detection_ms, Some(10_000));
}

#[test]
fn with_all_targets_beyond_the_link_lost_the_group_counts_as_failed_and_carries_on() {
    let (a, b) = (v4(1), v4(2));
    let mut group = up(&GroupConfig { beyond: vec![a, b], ..config(2, &[]) });
    group.handle_beyond(at(10), a, false);
    group.handle_beyond(at(10), v4(9), false);
    assert_eq!(group.state(), GroupHealth::Ok);
    group.handle_beyond(at(20), b, false);
    assert_eq!(group.state(), GroupHealth::Failed);
    assert!(group.is_up());
    let events = drain(&mut group);
    assert!(matches!(events.last(), Some(What::Group { state, .. }) if state == "failed"));
    group.handle_beyond(at(30), a, true);
    assert_eq!(group.state(), GroupHealth::Ok);
    assert_eq!(group.report().beyond_lost, [b]);
}

#[test]
fn a_group_says_what_is_wrong_with_its_configuration() {
    let good = GroupConfig {
        test: vec![
            ("eth0".to_owned(), "10.0.0.201/24".parse().unwrap()),
            ("eth1".to_owned(), "fe80::1/64".parse().unwrap()),
        ],
        targets: vec![v4(1)],
        fast: Some(FastConfig { peers: vec![v4(9)], ..FastConfig::default() }),
        hook: Some("/bin/true".to_owned()),
        ..config(2, &[1])
    };
    assert_eq!(good.validate(), Ok(()));
    type Change = fn(&mut GroupConfig);
    let cases: &[(Change, &str)] = &[
        (|c| c.members.clear(), "it has no members; name at least one"),
        (|c| c.members = (0..33).map(|i| format!("eth{i}")).collect(), "33 members, at most 32"),
        (|c| c.members.push("eth0".to_owned()), "member eth0 stands twice"),
        (|c| c.standby.push("eth7".to_owned()), "eth7 is standby but not a member"),
        (|c| c.standby.push("eth1".to_owned()), "eth1 stands twice in `standby`"),
        (|c| c.detect = Duration::from_millis(99), "`detect_ms` is 99 ms, at least 100"),
        (|c| c.flaps_max = 0, "a member could never come back"),
        (|c| c.test[0].0 = "eth5".to_owned(), "10.0.0.201 is for eth5, which is not a member"),
        (|c| c.test[1] = c.test[0].clone(), "test address 10.0.0.201 stands twice"),
        (|c| c.test[1].1 = "fd00::1/64".parse().unwrap(), "fd00::1 is not link-local"),
        (|c| c.test[0].1 = "224.0.0.1/24".parse().unwrap(), "224.0.0.1 in `test` is not"),
        (|c| c.targets.push(v4(1)), "10.0.0.1 stands twice in `targets`"),
        (|c| c.targets = (0..65).map(v4).collect(), "`targets` has more than 64"),
        (|c| c.targets.push("10.0.0.201".parse().unwrap()), "is a test address of this group"),
        (|c| c.beyond.push("0.0.0.0".parse().unwrap()), "0.0.0.0 in `beyond` is not"),
        (|c| c.fast.as_mut().unwrap().peers.clear(), "`fast` names no peers"),
        (|c| c.fast.as_mut().unwrap().interval = Duration::from_micros(999), "999 us"),
        (|c| c.fast.as_mut().unwrap().multiplier = 0, "multiplier of 0"),
        (|c| c.hook = Some("event.sh".to_owned()), "hook `event.sh` is not a full path"),
    ];
    for (change, expected) in cases {
        let mut config = good.clone();
        change(&mut config);
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains(expected), "{error} / {expected}");
    }
}
