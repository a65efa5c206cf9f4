//! Addresses that the stack makes: link-local, and from the prefixes of routers (RFC 4862 5.3,
//! 5.5), with stable opaque interface identifiers (RFC 7217).

use core::net::{IpAddr, Ipv6Addr};

use super::super::Ip;
use super::super::address::{AddressState, Alias, AliasId, Cidr, Origin};
use super::message::PrefixInfo;
use super::{FOREVER, dad};
use crate::ctx::Ctx;
use crate::link::Link;
use crate::time::{Duration, Instant};

/// RFC 7217 6 IDGEN_RETRIES.
const RETRIES: u8 = 3;
/// Addresses made on one alias.
const MADE_MAX: usize = 16;
/// RFC 4862 5.5.3 e: an advertisement, which anybody may send, shortens a lifetime to this at most.
const TWO_HOURS: Duration = Duration::from_hours(2);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);

/// An address that the stack made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Made {
    pub(super) addr: Ipv6Addr,
    /// The prefix is on-link: the address brings the route.
    on_link: bool,
    /// RFC 7217 DAD_Counter.
    counter: u8,
    preferred_until: Instant,
    valid_until: Instant,
    deprecated: bool,
}

impl Made {
    pub(super) fn deadline(&self) -> Option<Instant> {
        let at = if self.deprecated { self.valid_until } else { self.preferred_until };
        let at = at.min(self.valid_until);
        (at != FOREVER).then_some(at)
    }
}

fn high(addr: Ipv6Addr) -> u64 {
    (u128::from(addr) >> 64) as u64
}

/// RFC 5453: subnet anycast, and the identifiers reserved by EUI-64 and RFC 2526.
fn reserved(id: u64) -> bool {
    id == 0
        || (0xfdff_ffff_ffff_ff80..=0xfdff_ffff_ffff_ffff).contains(&id)
        || (0x0200_5eff_fe00_0000..=0x0200_5eff_fe00_5212).contains(&id)
}

/// RFC 7217 5: a function of prefix, interface, counter and secret; the same after a restart.
fn identifier(ctx: &Ctx<'_>, alias: &Alias, prefix: Ipv6Addr, counter: u8) -> Ipv6Addr {
    let prefix = high(prefix);
    let name = alias.config.name.as_bytes();
    let mut id = 0;
    for again in 0..=u8::MAX {
        id = ctx.secrets.address.hash(&[&prefix.to_be_bytes(), name, &[counter, again]]);
        if !reserved(id) {
            break;
        }
    }
    Ipv6Addr::from(u128::from(prefix) << 64 | u128::from(id))
}

/// Makes the link-local address of an alias that has none.
pub(super) fn ensure_link_local(ctx: &mut Ctx<'_>, link: &mut Link, ip: &mut Ip, alias: AliasId) {
    let Some(entry) = ip.aliases.get(&alias) else { return };
    let has = |a: IpAddr| matches!(a, IpAddr::V6(a) if a.is_unicast_link_local());
    if entry.mac().is_some() && !entry.addresses.iter().any(|a| has(a.cidr.addr)) {
        let made = Made {
            addr: identifier(ctx, entry, LINK_LOCAL, 0),
            on_link: true,
            counter: 0,
            preferred_until: FOREVER,
            valid_until: FOREVER,
            deprecated: false,
        };
        add(ctx, link, ip, alias, made);
    }
}

fn add(ctx: &mut Ctx<'_>, link: &mut Link, ip: &mut Ip, alias: AliasId, made: Made) {
    let Some(entry) = ip.aliases.get_mut(&alias) else { return };
    entry.ndp.made.push(made);
    let prefix_len = if made.on_link { 64 } else { 128 };
    let cidr = Cidr { addr: made.addr.into(), prefix_len };
    // Refused: at the limit of addresses, which is the operator's word.
    if ip.add_address(ctx, link, alias, cidr, Origin::Slaac).is_err()
        && let Some(entry) = ip.aliases.get_mut(&alias)
    {
        entry.ndp.made.retain(|m| m.addr != made.addr);
    }
}

/// RFC 7217 6: a made address met its double; the next identifier, a few times.
pub(super) fn replace(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    alias: AliasId,
    addr: Ipv6Addr,
) {
    let Some(entry) = ip.aliases.get(&alias) else { return };
    let Some(old) = entry.ndp.made.iter().find(|m| m.addr == addr).copied() else { return };
    if old.counter >= RETRIES {
        return;
    }
    let counter = old.counter + 1;
    let new = Made { addr: identifier(ctx, entry, addr, counter), counter, ..old };
    if ip.remove_address(ctx, alias, addr.into()).is_ok() {
        add(ctx, link, ip, alias, new);
    }
}

/// A prefix with the autonomous flag (RFC 4862 5.5.3); its sanity is checked.
pub(super) fn advertised(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    alias: AliasId,
    info: &PrefixInfo,
) {
    let Some(entry) = ip.aliases.get_mut(&alias) else { return };
    if info.prefix_len != 64 || !ctx.shard.is_home() {
        return;
    }
    let prefix = high(info.prefix);
    let now = ctx.now;
    if let Some(made) = entry.ndp.made.iter_mut().find(|m| high(m.addr) == prefix) {
        made.preferred_until = now + info.preferred;
        let remaining = made.valid_until.saturating_since(now);
        if info.valid > TWO_HOURS || info.valid > remaining {
            made.valid_until = now + info.valid;
        } else if remaining > TWO_HOURS {
            made.valid_until = now + TWO_HOURS;
        }
        let addr = made.addr;
        return refresh_state(ctx, ip, alias, addr);
    }
    if info.valid.is_zero() || entry.ndp.made.len() >= MADE_MAX {
        return;
    }
    let made = Made {
        addr: identifier(ctx, entry, info.prefix, 0),
        on_link: info.on_link,
        counter: 0,
        preferred_until: now + info.preferred,
        valid_until: now + info.valid,
        deprecated: false,
    };
    add(ctx, link, ip, alias, made);
    if ip.aliases.get(&alias).is_some_and(|a| a.config.up) {
        dad::start_spread(ctx, ip, alias, made.addr);
    }
}

/// Preferred or deprecated, by the clock (RFC 4862 5.5.4).
pub(super) fn refresh_state(ctx: &mut Ctx<'_>, ip: &mut Ip, alias: AliasId, addr: Ipv6Addr) {
    let Some(entry) = ip.aliases.get_mut(&alias) else { return };
    let Some(made) = entry.ndp.made.iter_mut().find(|m| m.addr == addr) else { return };
    let deprecated = made.preferred_until <= ctx.now;
    made.deprecated = deprecated;
    if let Some(own) = entry.address_mut(addr.into()).filter(|a| a.state.usable()) {
        own.state = if deprecated { AddressState::Deprecated } else { AddressState::Preferred };
        ctx.addresses_changed(alias);
    }
}

/// Deprecates and removes addresses whose lifetimes ran out.
pub(super) fn timeout(ctx: &mut Ctx<'_>, ip: &mut Ip, alias: AliasId) {
    let Some(entry) = ip.aliases.get(&alias) else { return };
    let now = ctx.now;
    let due: Vec<Made> = entry
        .ndp
        .made
        .iter()
        .filter(|m| m.deadline().is_some_and(|at| at <= now))
        .copied()
        .collect();
    for made in due {
        if made.valid_until > now {
            refresh_state(ctx, ip, alias, made.addr);
        } else if ip.remove_address(ctx, alias, made.addr.into()).is_err()
            && let Some(entry) = ip.aliases.get_mut(&alias)
        {
            // The operator removed it before.
            entry.ndp.made.retain(|m| m.addr != made.addr);
        }
    }
}
