//! Failover groups of a tree.

use weft_stack::ip::address::Cidr;

use super::build::Builder;
use super::error::{At, Illegal};
use super::{Group, LinkKind, MEMBERS_MAX, Owner, TreeSpec, check};
use crate::LinkId;
use crate::fail::config::GroupConfig;
use crate::name::InterfaceName;

/// Whether a group may have such a member: a NIC, a bond, or a VLAN on one.
pub(super) fn may_be_member(name: &InterfaceName) -> bool {
    match name {
        InterfaceName::Eth(_) | InterfaceName::Bond(_) => true,
        InterfaceName::Vlan { parent, .. } => may_be_member(parent),
        InterfaceName::Fail(_) | InterfaceName::Alias(..) => false,
    }
}

pub(super) fn groups(b: &mut Builder, spec: &TreeSpec) {
    for (i, group) in spec.groups.iter().enumerate() {
        let at = At::Group(i);
        let Some(name) = b.parse(at, &group.name) else { continue };
        if !matches!(name, InterfaceName::Fail(_)) {
            b.error(at, Illegal::Place { name, place: "a failover group", wanted: "fail# is" });
            continue;
        }
        if b.links.contains_key(&name) {
            b.error(at, Illegal::Twice(name));
            continue;
        }
        let count = group.config.members.len();
        if count == 0 {
            b.error(at, Illegal::Empty(name.clone(), "members"));
        }
        if count > MEMBERS_MAX {
            let (what, most) = ("members of a group", MEMBERS_MAX);
            b.error(at, Illegal::TooMany { count, what, most });
            continue;
        }
        let position = b.tree.groups.len();
        let mut members = Vec::new();
        for (n, text) in group.config.members.iter().enumerate() {
            let Some(link) = member(b, At::Member(i, n), &name, text) else { continue };
            b.tree.links[usize::from(link.0)].above = Some(Owner::Group(position));
            shared_nic(b, At::Member(i, n), &name, &members, link);
            members.push(link);
        }
        let mtu = members.iter().filter_map(|m| b.tree.at(*m).mtu).min();
        let link = b.add(at, name.clone(), LinkKind::Group(position));
        b.tree.links[usize::from(link.0)].mtu = mtu;
        settings(b, i, &name, &group.config);
        b.tree.groups.push(Group { link, members, config: lower(&group.config) });
    }
}

fn lower(config: &GroupConfig) -> GroupConfig {
    let lower = |names: &[String]| names.iter().map(|n| n.to_ascii_lowercase()).collect();
    GroupConfig {
        members: lower(&config.members),
        standby: lower(&config.standby),
        test: config.test.iter().map(|(m, a)| (m.to_ascii_lowercase(), *a)).collect(),
        ..config.clone()
    }
}

fn member(b: &mut Builder, at: At, group: &InterfaceName, text: &str) -> Option<LinkId> {
    let member = b.parse(at, text)?;
    let base = match &member {
        InterfaceName::Vlan { parent, .. } => (**parent).clone(),
        other => other.clone(),
    };
    if base == *group {
        b.error(at, Illegal::Cycle { group: base, member });
        return None;
    }
    if matches!(base, InterfaceName::Fail(_)) {
        b.error(at, Illegal::Nested { group: group.clone(), member });
        return None;
    }
    if !may_be_member(&member) {
        let wanted = "eth#, bond# and VLANs on them are";
        let place = "a member of a failover group";
        b.error(at, Illegal::Place { name: member, place, wanted });
        return None;
    }
    let Some(&link) = b.links.get(&member) else {
        // Of a VLAN, what is missing below it is said where it was named first.
        if member.tag().is_none() {
            b.error(at, Illegal::Unknown(member));
        }
        return None;
    };
    if !b.tree.at(link).ethernet {
        b.error(at, Illegal::NotEthernet { name: member, what: "it is no member of a group" });
        return None;
    }
    if let Some(owner) = b.tree.at(link).above {
        let by = match owner {
            Owner::Group(g) if g == b.tree.groups.len() => group.clone(),
            owner => b.tree.owner_name(owner).clone(),
        };
        b.error(at, Illegal::Used { name: member, by });
        return None;
    }
    Some(link)
}

/// Two VLANs of one NIC or bond fail together, and would have one MAC address.
fn shared_nic(b: &mut Builder, at: At, group: &InterfaceName, before: &[LinkId], link: LinkId) {
    let LinkKind::Vlan { over, .. } = b.tree.at(link).kind else { return };
    let same =
        |m: &&LinkId| matches!(b.tree.at(**m).kind, LinkKind::Vlan { over: o, .. } if o == over);
    if let Some(&other) = before.iter().find(same) {
        let (a, also, nic) = (b.name(other), b.name(link), b.name(over));
        b.error(at, Illegal::SharedNic { group: group.clone(), a, b: also, nic });
    }
}

fn settings(b: &mut Builder, i: usize, group: &InterfaceName, spec: &GroupConfig) {
    let mut waiting = Vec::new();
    for (n, text) in spec.standby.iter().enumerate() {
        if let Some(name) = of_group(b, At::Standby(i, n), group, spec, text)
            && !waiting.contains(&name)
        {
            waiting.push(name);
        }
    }
    if !waiting.is_empty() && waiting.len() == spec.members.len() {
        b.error(At::Group(i), Illegal::AllStandby(group.clone()));
    }
    for (n, (text, cidr)) in spec.test.iter().enumerate() {
        let at = At::Test(i, n);
        of_group(b, at, group, spec, text);
        test_address(b, at, group, *cidr, &spec.test[..n]);
    }
    let told = |e: &super::TreeError| matches!(e.at, At::Group(g) | At::Member(g, _) | At::Standby(g, _) | At::Test(g, _) if g == i);
    if b.errors.iter().any(told) {
        return;
    }
    if let Err(why) = lower(spec).validate() {
        b.error(At::Group(i), Illegal::Group { group: group.clone(), why });
    }
}

/// The name of a member that something is said of.
fn of_group(
    b: &mut Builder,
    at: At,
    group: &InterfaceName,
    spec: &GroupConfig,
    text: &str,
) -> Option<InterfaceName> {
    let name = b.parse(at, text)?;
    if spec.members.iter().any(|m| m.eq_ignore_ascii_case(text)) {
        return Some(name);
    }
    b.error(at, Illegal::NoMember { group: group.clone(), name });
    None
}

fn test_address(
    b: &mut Builder,
    at: At,
    group: &InterfaceName,
    cidr: Cidr,
    before: &[(String, Cidr)],
) {
    if !check::is_host(cidr.addr) {
        b.error(at, Illegal::TestNoHost(cidr.addr));
    } else if check::is_global_v6(cidr.addr) {
        b.error(at, Illegal::TestNotLocal(cidr.addr));
    }
    if before.iter().any(|(_, c)| c.addr == cidr.addr) {
        b.error(at, Illegal::TestTwice { group: group.clone(), addr: cidr.addr });
    }
}
