//! Conflicts of IPv4 addresses, as the address table sees them (RFC 5227). The link layer probes,
//! listens and defends; what it finds out is carried out here.

use core::net::{IpAddr, Ipv4Addr};

use super::Ip;
use super::address::{Acd, AddressState, AliasId, Origin};
use crate::ctx::Ctx;
use crate::link::Link;

#[cfg(test)]
mod tests;

/// An address is in the table: it is probed, or in use at once.
pub(super) fn address_added(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    alias: AliasId,
    addr: Ipv4Addr,
) {
    let Some(entry) = ip.aliases.get_mut(&alias) else { return };
    let acd = entry.acd(addr.into());
    if entry.mac().is_none() || acd != Acd::On {
        if acd == Acd::Defend {
            Link::ask_for_rival(ctx, entry, addr);
        }
        return ready(ctx, link, ip, alias, addr);
    }
    if let Some(own) = entry.address_mut(addr.into()) {
        own.state = AddressState::Tentative;
    }
    // Shard 0 tells the others when it may be used.
    if ctx.shard.is_home() && entry.config.up {
        let pace = entry.acd_pace(addr.into());
        link.probe(ctx, alias, addr, pace);
    }
}

/// Another stack of this host had the address a moment ago: there is nobody to probe for.
pub(super) fn address_taken(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    alias: AliasId,
    addr: Ipv4Addr,
) {
    let entry = ip.aliases.get(&alias).and_then(|a| a.address(addr.into()));
    // Others than those that are probed are in use and announced already.
    if entry.is_some_and(|a| !a.state.usable()) {
        link.forget_probe(alias, addr.into());
        ready(ctx, link, ip, alias, addr);
    }
}

fn ready(ctx: &mut Ctx<'_>, link: &mut Link, ip: &mut Ip, alias: AliasId, addr: Ipv4Addr) {
    ip.address_ready(ctx, alias, addr.into());
    if let Some(entry) = ip.aliases.get(&alias) {
        link.announce(ctx, entry, addr.into());
    }
}

/// The link came up: what was being probed is probed from the start.
pub(super) fn alias_up(ctx: &mut Ctx<'_>, link: &mut Link, ip: &Ip, alias: AliasId) {
    let Some(entry) = ip.aliases.get(&alias).filter(|_| ctx.shard.is_home()) else { return };
    for own in entry.addresses.iter().filter(|a| !a.state.usable()) {
        if let IpAddr::V4(addr) = own.cidr.addr {
            link.probe(ctx, alias, addr, entry.acd_pace(addr.into()));
        }
    }
}

/// Carries out what the link layer found. To be called after every call into it.
pub(super) fn work(ctx: &mut Ctx<'_>, link: &mut Link, ip: &mut Ip) {
    while let Some(found) = link.probed.pop_front() {
        let (alias, addr) = (found.alias, found.addr);
        match found.rival {
            None => ready(ctx, link, ip, alias, addr),
            Some(mac) => {
                ip.address_duplicate(ctx, alias, addr.into(), mac);
                let Some(entry) = ip.aliases.get(&alias) else { continue };
                // A leased one is the server's to replace; a configured one may come free again.
                if entry.address(addr.into()).is_some_and(|a| a.origin == Origin::Static) {
                    link.probe_again(ctx, alias, addr, entry.acd_pace(addr.into()));
                }
            }
        }
    }
}
