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
    MemberInfo { name: format!("eth{i}"), mac: mac(i), mtu: Some(1500) }
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
fn addresses_are_spread_evenly_and_stay_so() {
    let mut group = up(&config(3, &[]));
    with_addresses(&mut group, 100);
    assert_eq!(loads(&group), [34, 33, 33]);
    link(&mut group, 10, 1, false);
    assert_eq!(loads(&group), [50, 0, 50]);
    assert_eq!(group.announcements().len(), 33, "only those of the failed member moved");
    link(&mut group, 20, 1, true);
    assert_eq!(loads(&group), [33, 33, 34]);
    assert_eq!(group.announcements().len(), 33);
    assert_eq!(group.announcements(), []);
}
