//! Router discovery: solicitations (RFC 4861 6.3.7, RFC 7559), advertisements, default routers in
//! order of preference (RFC 4191), prefixes on the link.
//!
//! Advertisements are heeded only on aliases with `slaac` set. What they teach is bounded per
//! alias.

use core::net::{IpAddr, Ipv6Addr};

use super::super::Ip;
use super::super::address::{AliasId, Cidr};
use super::super::route::Route;
use super::message::{self, Preference, PrefixInfo, RouterAdvert};
use super::{ALL_ROUTERS, FOREVER, SOLICITATION_DELAY, send, slaac};
use crate::ctx::{Ctx, Fate};
use crate::link::Link;
use crate::time::{Duration, Instant};

/// Default routers remembered on one alias.
const ROUTERS_MAX: usize = 8;
/// On-link prefixes remembered on one alias.
const PREFIXES_MAX: usize = 16;
/// Metric of the best learned default router; the others follow. Configured routes go first.
const ROUTER_METRIC: u32 = 1024;
/// Metric of a learned on-link prefix.
const PREFIX_METRIC: u32 = 256;
/// RFC 7559: the first interval between solicitations, and the longest.
const SOLICIT_INTERVAL: Duration = Duration::from_secs(4);
const SOLICIT_INTERVAL_MAX: Duration = Duration::from_hours(1);
/// RFC 8200 5: no IPv6 link has less.
const MTU_MIN: usize = 1280;

#[derive(Clone, Copy, Debug)]
struct Router {
    addr: Ipv6Addr,
    until: Instant,
    preference: Preference,
    /// It stopped answering; used last.
    suspect: bool,
}

#[derive(Clone, Copy, Debug)]
struct Prefix {
    cidr: Cidr,
    until: Instant,
}

/// Routers and prefixes of one alias.
#[derive(Debug, Default)]
pub(super) struct Routers {
    list: Vec<Router>,
    prefixes: Vec<Prefix>,
    /// The next solicitation, and the interval after it.
    solicit: Option<(Instant, Duration)>,
}

impl Routers {
    pub(super) fn deadline(&self) -> Option<Instant> {
        let routers = self.list.iter().map(|r| r.until);
        let prefixes = self.prefixes.iter().map(|p| p.until);
        let solicit = self.solicit.map(|s| s.0);
        routers.chain(prefixes).chain(solicit).filter(|at| *at != FOREVER).min()
    }

    pub(super) fn stop(&mut self) {
        self.solicit = None;
    }

    pub(super) fn on_link(&self, addr: Ipv6Addr) -> bool {
        self.prefixes.iter().any(|p| p.cidr.contains(addr.into()))
    }
}

/// Solicits routers, first within a second. Shard 0 asks for all.
pub(super) fn start(ctx: &mut Ctx<'_>, ip: &mut Ip, alias: AliasId) {
    if !ctx.shard.is_home() {
        return;
    }
    let delay = Duration::from_nanos(ctx.rng.below(SOLICITATION_DELAY.as_nanos() as u64));
    if let Some(entry) = ip.aliases.get_mut(&alias) {
        entry.ndp.routers.solicit = Some((ctx.now + delay, SOLICIT_INTERVAL));
    }
}

fn solicit(ctx: &mut Ctx<'_>, link: &mut Link, ip: &mut Ip, alias: AliasId) {
    let src = ip.link_local(alias);
    let Some(entry) = ip.aliases.get_mut(&alias) else { return };
    let Some((at, interval)) = entry.ndp.routers.solicit.filter(|s| s.0 <= ctx.now) else {
        return;
    };
    // RFC 7559 2: doubled each time, with a tenth of randomness either way.
    let jitter = ctx.rng.below(interval.as_micros() as u64 / 5);
    let wait = interval * 9 / 10 + Duration::from_micros(jitter);
    let next = (interval * 2).min(SOLICIT_INTERVAL_MAX);
    entry.ndp.routers.solicit = Some((at + wait, next));
    // RFC 4861 4.1: without a source there is no MAC to tell.
    let mac = entry.mac().filter(|_| src.is_some());
    let message = message::router_solicitation(mac);
    ctx.mib.neighbour.out_router_solicits += 1;
    let src = src.unwrap_or(Ipv6Addr::UNSPECIFIED);
    send(ctx, link, ip, alias, (src, ALL_ROUTERS), &message);
}

/// A router advertisement from `(alias, link-local address)`, RFC 4861 6.3.4.
pub(super) fn advertised(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    (alias, src): (AliasId, Ipv6Addr),
    ra: &RouterAdvert,
) -> Fate {
    ctx.mib.neighbour.in_router_adverts += 1;
    let Some(entry) = ip.aliases.get_mut(&alias) else { return Fate::Consumed };
    if !entry.config.slaac {
        return Fate::Consumed;
    }
    let ndp = &mut entry.ndp;
    if ra.hop_limit != 0 {
        ndp.hop_limit = Some(ra.hop_limit);
    }
    if !ra.reachable.is_zero() {
        ndp.times.reachable = ra.reachable.min(Duration::from_hours(1));
    }
    if !ra.retrans.is_zero() {
        ndp.times.retrans = ra.retrans.clamp(Duration::from_millis(100), Duration::from_mins(1));
    }
    if let Some(mtu) = ra.options.mtu.map(|m| m as usize)
        && (MTU_MIN..=entry.config.mtu).contains(&mtu)
    {
        ndp.mtu = Some(mtu);
    }
    if let Some(mac) = ra.options.source_mac {
        link.heard(ctx, entry, src.into(), mac, true);
        link.set_router(ctx, alias, src.into());
    }
    default_router(ctx, ip, alias, src, ra);
    for info in &ra.options.prefixes {
        prefix(ctx, link, ip, alias, info);
    }
    Fate::Consumed
}

fn default_router(
    ctx: &mut Ctx<'_>,
    ip: &mut Ip,
    alias: AliasId,
    addr: Ipv6Addr,
    ra: &RouterAdvert,
) {
    if ra.lifetime.is_zero() {
        return remove(ctx, ip, alias, addr);
    }
    let until = ctx.now + ra.lifetime;
    let router = Router { addr, until, preference: ra.preference, suspect: false };
    change(ctx, ip, alias, |routers| {
        // RFC 7559 2.1: solicitations end with a router that can be used.
        routers.stop();
        match routers.list.iter().position(|r| r.addr == addr) {
            Some(at) => routers.list[at] = router,
            None if routers.list.len() < ROUTERS_MAX => routers.list.push(router),
            None => {}
        }
    });
}

/// Removes a default router.
pub(super) fn remove(ctx: &mut Ctx<'_>, ip: &mut Ip, alias: AliasId, addr: Ipv6Addr) {
    change(ctx, ip, alias, |routers| routers.list.retain(|r| r.addr != addr));
}

/// A neighbour stopped answering; as a router it is used last from now on (RFC 4861 6.3.6).
pub(super) fn suspect(ctx: &mut Ctx<'_>, ip: &mut Ip, alias: AliasId, addr: Ipv6Addr) {
    let known = |r: &Router| r.addr == addr;
    if ip.aliases.get(&alias).is_some_and(|a| a.ndp.routers.list.iter().any(known)) {
        change(ctx, ip, alias, |routers| {
            let found = routers.list.iter_mut().filter(|r| r.addr == addr);
            found.for_each(|r| r.suspect = true);
        });
    }
}

/// Changes the routers of an alias, and its default routes with them: one per router, the best
/// with the lowest metric. The list is kept in that order.
fn change(ctx: &mut Ctx<'_>, ip: &mut Ip, alias: AliasId, f: impl FnOnce(&mut Routers)) {
    let Some(entry) = ip.aliases.get_mut(&alias) else { return };
    for (rank, router) in entry.ndp.routers.list.iter().enumerate() {
        ip.routes.remove(&default_route(alias, router.addr, rank));
    }
    f(&mut entry.ndp.routers);
    let list = &mut entry.ndp.routers.list;
    list.sort_by_key(|r| (r.suspect, core::cmp::Reverse(r.preference)));
    for (rank, router) in list.iter().enumerate() {
        // At the limit of routes the worst routers are not used.
        if ip.routes.insert_for(ctx, default_route(alias, router.addr, rank)).is_err() {
            return;
        }
    }
}

fn default_route(alias: AliasId, via: Ipv6Addr, rank: usize) -> Route {
    Route {
        prefix: Cidr { addr: Ipv6Addr::UNSPECIFIED.into(), prefix_len: 0 },
        via: Some(IpAddr::V6(via)),
        alias,
        src: None,
        metric: ROUTER_METRIC + rank as u32,
        mtu: None,
    }
}

/// A prefix information option (RFC 4861 6.3.4, RFC 4862 5.5.3).
fn prefix(ctx: &mut Ctx<'_>, link: &mut Link, ip: &mut Ip, alias: AliasId, info: &PrefixInfo) {
    let addr = info.prefix;
    let nonsense = addr.is_unicast_link_local() || addr.is_multicast() || info.prefix_len > 128;
    if nonsense || info.preferred > info.valid {
        return;
    }
    if info.on_link {
        on_link(ctx, ip, alias, info);
    }
    if info.autonomous {
        slaac::advertised(ctx, link, ip, alias, info);
    }
}

fn on_link(ctx: &mut Ctx<'_>, ip: &mut Ip, alias: AliasId, info: &PrefixInfo) {
    let cidr = Cidr { addr: info.prefix.into(), prefix_len: info.prefix_len }.network();
    let Some(entry) = ip.aliases.get_mut(&alias) else { return };
    let prefixes = &mut entry.ndp.routers.prefixes;
    let known = prefixes.iter().position(|p| p.cidr == cidr);
    let until = ctx.now + info.valid;
    match known {
        Some(at) if info.valid.is_zero() => {
            prefixes.remove(at);
            ip.routes.remove(&prefix_route(alias, cidr));
        }
        Some(at) => prefixes[at].until = until,
        None if info.valid.is_zero() || prefixes.len() >= PREFIXES_MAX => {}
        None => {
            if ip.routes.insert_for(ctx, prefix_route(alias, cidr)).is_ok() {
                prefixes.push(Prefix { cidr, until });
            }
        }
    }
}

fn prefix_route(alias: AliasId, prefix: Cidr) -> Route {
    Route { prefix, via: None, alias, src: None, metric: PREFIX_METRIC, mtu: None }
}

/// Solicits, and forgets routers and prefixes whose lifetimes ran out.
pub(super) fn timeout(ctx: &mut Ctx<'_>, link: &mut Link, ip: &mut Ip, alias: AliasId) {
    solicit(ctx, link, ip, alias);
    let now = ctx.now;
    let Some(entry) = ip.aliases.get_mut(&alias) else { return };
    let expired = |until: Instant| until <= now;
    let gone: Vec<Cidr> =
        entry.ndp.routers.prefixes.iter().filter(|p| expired(p.until)).map(|p| p.cidr).collect();
    entry.ndp.routers.prefixes.retain(|p| !expired(p.until));
    let routers_expired = entry.ndp.routers.list.iter().any(|r| expired(r.until));
    for cidr in gone {
        ip.routes.remove(&prefix_route(alias, cidr));
    }
    if routers_expired {
        change(ctx, ip, alias, |routers| routers.list.retain(|r| !expired(r.until)));
        let left = ip.aliases.get(&alias).is_some_and(|a| !a.ndp.routers.list.is_empty());
        if !left {
            start(ctx, ip, alias);
        }
    }
}
