//! What must hold between links, and between links and aliases.

use std::net::IpAddr;

use super::build::Builder;
use super::error::{At, Illegal};
use super::{AliasSpec, LinkKind, NicSpec, Tree, TreeSpec};
use crate::LinkId;
use crate::bond::{BondConfig, Mode};
use crate::name::InterfaceName;

/// Ports of one bond are of one kind: what one cannot do the bond cannot.
pub(super) fn drivers(b: &mut Builder, bond: usize, ports: &[LinkId], nics: &[NicSpec]) {
    let driver = |b: &Builder, link: LinkId| match b.tree.at(link).kind {
        LinkKind::Nic(nic) => nics[nic].driver,
        _ => "",
    };
    let Some((&first, rest)) = ports.split_first() else { return };
    for (n, &port) in rest.iter().enumerate() {
        let (a_driver, b_driver) = (driver(b, first), driver(b, port));
        if a_driver != b_driver {
            let (a, other) = (b.name(first), b.name(port));
            let at = At::Port(bond, n + 1);
            b.error(at, Illegal::Drivers { a, a_driver, b: other, b_driver });
            return;
        }
    }
}

/// Settings of the bond that was added last, against its ports and the bonds before.
pub(super) fn bond(b: &mut Builder, i: usize) {
    let Some((this, before)) = b.tree.bonds.split_last() else { return };
    let name = b.name(this.link);
    let config = &this.config;
    let mut found = Vec::new();
    let most = config.lacp.max_ports.filter(|_| config.mode == Mode::Lacp).map(usize::from);
    let ports = config.ports.len().min(most.unwrap_or(usize::MAX));
    if !config.ports.is_empty() && usize::from(config.min_links.max(1)) > ports {
        let bond = name.clone();
        found.push((
            At::MinLinks(i),
            Illegal::MinLinks { bond, min: config.min_links.max(1), ports },
        ));
    }
    if let Some(primary) = &config.primary
        && !config.ports.iter().any(|p| p.name == *primary)
    {
        let (bond, primary) = (name.clone(), primary.clone());
        found.push((At::Bond(i), Illegal::Primary { bond, primary }));
    }
    for (n, port) in config.ports.iter().enumerate() {
        let Ok(port_name) = port.name.parse::<InterfaceName>() else { continue };
        if port.number == Some(0) {
            found.push((At::Port(i, n), Illegal::PortNumberZero(port_name)));
            continue;
        }
        let of_system = before.iter().filter(|o| one_system(&o.config, config));
        let others = of_system.flat_map(|o| &o.config.ports).chain(&config.ports[..n]);
        let mut others = others.filter(|o| port.number.is_some() && o.number == port.number);
        if let Some(other) = others.find(|o| o.name != port.name)
            && let (Some(number), Ok(a)) = (port.number, other.name.parse())
        {
            found.push((At::Port(i, n), Illegal::PortNumber { a, b: port_name, number }));
        }
    }
    for other in before {
        let a = b.name(other.link);
        if one_system(&other.config, config) && other.config.lacp.key == config.lacp.key {
            let key = config.lacp.key;
            found.push((At::Bond(i), Illegal::Key { a: a.clone(), b: name.clone(), key }));
        }
        if let Some(mac) = config.mac.filter(|m| other.config.mac == Some(*m)) {
            found.push((At::Bond(i), Illegal::MacTwice { a, b: name.clone(), mac }));
        }
    }
    for (at, why) in found {
        b.error(at, why);
    }
}

/// Whether a partner takes both for one system.
fn one_system(a: &BondConfig, b: &BondConfig) -> bool {
    let lacp = a.mode == Mode::Lacp && b.mode == Mode::Lacp;
    // The bond's own MAC address, if nothing else is set; that is nobody else's.
    lacp && a.lacp.system.is_some()
        && (a.lacp.system, a.lacp.system_priority) == (b.lacp.system, b.lacp.system_priority)
}

/// The nearest VLAN that frames of a link go through.
pub(super) fn tagged_below(tree: &Tree, link: LinkId) -> Option<LinkId> {
    tree.path(link).into_iter().map(|(_, l)| l).find(|l| tree.at(*l).name.tag().is_some())
}

/// No VLAN stands on a part of a bond or group. (Aliases are checked when they are added.)
pub(super) fn locks(b: &mut Builder) {
    for i in b.tree.nics..b.tree.links.len() {
        let LinkKind::Vlan { over, .. } = b.tree.links[i].kind else { continue };
        if let Some(owner) = b.tree.at(over).above {
            let by = b.tree.owner_name(owner).clone();
            let (name, what) = (b.name(over), b.tree.links[i].name.clone());
            b.error(b.named_at[i], Illegal::Locked { name, by, what });
        }
    }
}

/// What an alias says that it stands over; `data0.5` stands where `data0` does.
pub(super) fn over_text<'a>(
    spec: &'a TreeSpec,
    name: &InterfaceName,
    alias: &'a AliasSpec,
) -> Option<&'a str> {
    alias.over.as_deref().or_else(|| base(spec, name)?.over.as_deref())
}

/// The alias that one with a tag of its own is named after.
fn base<'a>(spec: &'a TreeSpec, name: &InterfaceName) -> Option<&'a AliasSpec> {
    let InterfaceName::Vlan { parent, .. } = name else { return None };
    spec.aliases.iter().find(|a| a.name.parse().as_ref() == Ok(&**parent))
}

/// The name of what an alias stands over, if it may stand there.
pub(super) fn over(
    b: &mut Builder,
    i: usize,
    name: &InterfaceName,
    spec: &TreeSpec,
) -> Option<InterfaceName> {
    let at = At::Over(i);
    let Some(text) = over_text(spec, name, &spec.aliases[i]) else {
        b.error(At::Alias(i), Illegal::NoOver(name.clone()));
        return None;
    };
    let over = b.parse(at, text)?;
    if over.alias_class().is_some() {
        let wanted = "a NIC, bond, VLAN or failover group carries it; aliases carry addresses";
        b.error(at, Illegal::Place { name: over, place: "below an alias", wanted });
        return None;
    }
    if let Some(base) = base(spec, name)
        && let (Some(below), Ok(base_name)) = (&base.over, base.name.parse())
        && let Ok(below) = below.parse::<InterfaceName>()
        && below != over
    {
        let name = name.clone();
        b.error(at, Illegal::OverDiffers { name, base: base_name, over: below });
        return None;
    }
    if name.tag().is_some() && over.tag().is_some() {
        b.error(At::Alias(i), Illegal::TwoTags { name: name.clone(), over });
        return None;
    }
    // What is missing below a VLAN is said where it was named first.
    if over.tag().is_none() && name.tag().is_none() && !b.links.contains_key(&over) {
        b.error(at, Illegal::Unknown(over));
        return None;
    }
    Some(over)
}

/// An alias on the link that carries it.
pub(super) fn alias(
    b: &mut Builder,
    i: usize,
    name: &InterfaceName,
    spec: &AliasSpec,
    link: LinkId,
) {
    let below = b.tree.at(link);
    let (link_name, most, ethernet) = (below.name.clone(), below.mtu, below.ethernet);
    if let Some(owner) = below.above {
        let by = b.tree.owner_name(owner).clone();
        let (name, what) = (link_name.clone(), name.clone());
        b.error(At::Over(i), Illegal::Locked { name, by, what });
    }
    if let (Some(mtu), Some(most)) = (spec.mtu, most)
        && mtu > most
    {
        let (name, link) = (name.clone(), link_name.clone());
        b.error(At::Mtu(i), Illegal::Mtu { name, mtu, link, most });
    }
    if let Err(why) = spec.beyond.validate() {
        b.error(At::Alias(i), Illegal::Beyond { alias: name.clone(), why });
    }
    if !ethernet && !spec.beyond.targets.is_empty() {
        let (name, what) = (link_name.clone(), "nothing beyond it is probed");
        b.error(At::Alias(i), Illegal::NotEthernet { name, what });
    }
    let Some(mac) = spec.mac else { return };
    if !ethernet {
        let what = "an alias on it has no MAC address";
        b.error(At::Mac(i), Illegal::NotEthernet { name: link_name, what });
    }
    let same = |a: &&super::Alias| a.link == link && a.mac == Some(mac);
    if let Some(other) = b.tree.aliases.iter().find(same) {
        let a = other.name.clone();
        b.error(At::Mac(i), Illegal::MacTwice { a, b: name.clone(), mac });
    }
}

/// Whether one host may have an address.
pub(super) fn is_host(addr: IpAddr) -> bool {
    let broadcast = matches!(addr, IpAddr::V4(v4) if v4.is_broadcast());
    !addr.is_unspecified() && !addr.is_multicast() && !addr.is_loopback() && !broadcast
}

pub(super) fn is_global_v6(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(v6) if !v6.is_unicast_link_local())
}
