//! Changes of configuration: each is applied whole, or refused and nothing has happened.

use core::net::IpAddr;

use super::address::{AddressTerms, Alias, AliasConfig, AliasId, AliasMedium, Cidr, Origin};
use super::route::Route;
use super::rule::TableId;
use super::{Ip, acd, ndp, terms};
use crate::ctx::Ctx;
use crate::link::Link;
use crate::stack::{Change, ChangeError};

/// Applies one change.
pub(crate) fn apply(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    change: Change,
) -> Result<(), ChangeError> {
    ip.changed();
    let result = apply_one(ctx, link, ip, change);
    // Again: what was looked up halfway counts no more.
    ip.changed();
    result
}

fn apply_one(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    change: Change,
) -> Result<(), ChangeError> {
    match change {
        Change::AliasAdd(config) => alias_add(ctx, link, ip, config),
        Change::AliasRemove(alias) => alias_remove(ctx, link, ip, alias),
        Change::AliasLink { alias, up, mtu } => alias_link(ctx, link, ip, alias, up, mtu),
        Change::AliasMove { config, elsewhere } => alias_move(ctx, link, ip, config, elsewhere),
        Change::AddressAdd { alias, cidr } => {
            ip.add_address(ctx, link, alias, cidr, Origin::Static)
        }
        Change::AddressAssign { alias, cidr, terms } => {
            terms::assign(ctx, link, ip, alias, cidr, &terms)
        }
        Change::AddressTake { alias, cidr, terms } => {
            address_take(ctx, link, ip, alias, cidr, &terms)
        }
        Change::LinkLocalAdd(alias) => {
            known(ip, alias)?;
            ndp::ensure_link_local(ctx, link, ip, alias);
            Ok(())
        }
        Change::AddressesAdopt { alias, addresses } => {
            ip.adopt_addresses(ctx, link, alias, &addresses)
        }
        Change::AddressRemove { alias, addr } => {
            link.forget_probe(alias, addr);
            ip.remove_address(ctx, alias, addr)
        }
        Change::RouteAdd(route) => route_add(ctx, ip, route),
        Change::RouteRemove(route) => {
            known(ip, route.alias)?;
            let found = ip.routes.remove(&route);
            if found { Ok(()) } else { Err(ChangeError::NoRoute(route.prefix)) }
        }
        Change::NeighboursShare(shared) => {
            link.share(ctx, shared);
            Ok(())
        }
        Change::NeighbourAdd { alias, addr, mac } => pin(ctx, link, ip, alias, (addr, mac)),
        change @ (Change::RuleAdd(_)
        | Change::RuleRemove(_)
        | Change::TableSet { .. }
        | Change::TablesUse(_)) => policy(ctx, ip, change),
        Change::AddressPrefix { alias, cidr } => ip.set_prefix(ctx, alias, cidr),
        Change::AliasSlaac { alias, on } => alias_slaac(ctx, link, ip, alias, on),
        // The stack's own, which took them before.
        Change::Limits(_) | Change::Tcp(_) => Ok(()),
        Change::Forwarding(on) => {
            ip.forwarding = on;
            Ok(())
        }
        Change::SuperBytes(most) => {
            ip.super_bytes_max = most.unwrap_or(usize::MAX);
            Ok(())
        }
    }
}

/// An address that another stack of this host has just given up.
fn address_take(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    alias: AliasId,
    cidr: Cidr,
    terms: &AddressTerms,
) -> Result<(), ChangeError> {
    terms::assign(ctx, link, ip, alias, cidr, terms)?;
    match cidr.addr {
        IpAddr::V4(addr) => acd::address_taken(ctx, link, ip, alias, addr),
        IpAddr::V6(addr) => ndp::address_taken(ctx, link, ip, alias, addr),
    }
    Ok(())
}

/// Rules and shared tables.
fn policy(ctx: &Ctx<'_>, ip: &mut Ip, change: Change) -> Result<(), ChangeError> {
    match change {
        Change::RuleAdd(rule) => {
            let policy = ip.policy.get_or_insert_default();
            policy.add(rule, ctx.limits.rules)?;
        }
        Change::RuleRemove(rule) => {
            let policy = ip.policy.as_mut().ok_or(ChangeError::NoRule(rule.priority))?;
            policy.remove(&rule)?;
        }
        Change::TableSet { id, table } => {
            if id == TableId::MAIN {
                return Err(ChangeError::TableMain);
            }
            ip.policy.get_or_insert_default().set_table(id, table);
        }
        Change::TablesUse(tables) => {
            ip.policy.get_or_insert_default().set_also(tables);
        }
        _ => {}
    }
    ip.rules_changed();
    Ok(())
}

fn known(ip: &Ip, alias: AliasId) -> Result<&Alias, ChangeError> {
    ip.aliases.get(&alias).ok_or(ChangeError::NoAlias(alias))
}

fn alias_add(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    config: AliasConfig,
) -> Result<(), ChangeError> {
    let (id, up) = (config.id, config.up);
    if ip.aliases.contains_key(&id) || id == super::LOOPBACK {
        return Err(ChangeError::AliasExists(id));
    }
    ip.aliases.insert(id, Alias::new(config));
    if up {
        ndp::alias_up(ctx, link, ip, id);
    }
    Ok(())
}

fn alias_remove(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    alias: AliasId,
) -> Result<(), ChangeError> {
    let entry = known(ip, alias)?;
    let addrs: Vec<IpAddr> = entry.addresses.iter().map(|a| a.cidr.addr).collect();
    for addr in addrs {
        ip.remove_address(ctx, alias, addr)?;
    }
    ndp::alias_down(ctx, ip, alias);
    ip.routes.remove_alias(alias);
    ip.aliases.remove(&alias);
    link.alias_down(ctx, alias, true);
    Ok(())
}

fn alias_slaac(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    alias: AliasId,
    on: bool,
) -> Result<(), ChangeError> {
    let entry = ip.aliases.get_mut(&alias).ok_or(ChangeError::NoAlias(alias))?;
    entry.config.slaac = on;
    if on && entry.config.up {
        ndp::alias_up(ctx, link, ip, alias);
    }
    Ok(())
}

fn alias_link(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    alias: AliasId,
    up: bool,
    mtu: usize,
) -> Result<(), ChangeError> {
    let entry = ip.aliases.get_mut(&alias).ok_or(ChangeError::NoAlias(alias))?;
    let was_up = entry.config.up;
    entry.config.up = up;
    entry.config.mtu = mtu;
    if was_up && !up {
        link.alias_down(ctx, alias, false);
        ndp::alias_down(ctx, ip, alias);
    } else if up && !was_up {
        for addr in entry.addresses.iter().filter(|a| a.state.usable()).map(|a| a.cidr.addr) {
            link.announce(ctx, entry, addr);
        }
        acd::alias_up(ctx, link, ip, alias);
        ndp::alias_up(ctx, link, ip, alias);
    }
    Ok(())
}

fn alias_move(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    config: AliasConfig,
    elsewhere: bool,
) -> Result<(), ChangeError> {
    let (alias, up, mtu) = (config.id, config.up, config.mtu);
    let entry = ip.aliases.get_mut(&alias).ok_or(ChangeError::NoAlias(alias))?;
    if entry.config.has_link() != config.has_link() {
        return Err(ChangeError::MediumOther(alias));
    }
    let (slaac, was_up) = (entry.config.slaac, entry.config.up);
    entry.config = AliasConfig { slaac, up: was_up, ..config };
    if elsewhere && was_up {
        // As after a cable was pulled and plugged in elsewhere.
        alias_link(ctx, link, ip, alias, false, mtu)?;
    }
    alias_link(ctx, link, ip, alias, up, mtu)
}

fn pin(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &Ip,
    alias: AliasId,
    (addr, mac): (IpAddr, [u8; 6]),
) -> Result<(), ChangeError> {
    let entry = known(ip, alias)?;
    if addr.is_multicast() || addr.is_unspecified() {
        return Err(ChangeError::AddressInvalid(addr));
    }
    link.pin(ctx, entry, addr, mac).map_err(|_| ChangeError::Limit("neighbours"))
}

fn route_add(ctx: &mut Ctx<'_>, ip: &mut Ip, route: Route) -> Result<(), ChangeError> {
    let entry = known(ip, route.alias)?;
    if let Some(via) = route.via
        && !reaches(entry, via, route.prefix.addr)
    {
        return Err(ChangeError::GatewayUnreachable(via));
    }
    let family = |src: &IpAddr| src.is_ipv4() == route.prefix.addr.is_ipv4();
    if let Some(src) = route.src.filter(|s| entry.address(*s).is_none() || !family(s)) {
        return Err(ChangeError::NoAddress(src));
    }
    ip.routes.insert_for(ctx, route)
}

/// Whether `via` can be the next hop of a route of the family of `prefix`.
fn reaches(alias: &Alias, via: IpAddr, prefix: IpAddr) -> bool {
    let link_local = matches!(via, IpAddr::V6(a) if a.is_unicast_link_local());
    let on_link = alias.config.medium == AliasMedium::Ip
        || link_local
        || alias.addresses.iter().any(|a| a.cidr.contains(via));
    on_link && via.is_ipv4() == prefix.is_ipv4() && alias.address(via).is_none()
}
