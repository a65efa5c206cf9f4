//! IPv4 and IPv6: input, output, routes, addresses, reassembly, ICMP, PMTU, multicast.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smallvec::SmallVec;

use crate::ctx::Ctx;
use crate::drop::DropReason;
use crate::frame::{Frame, prefetch};
use crate::link::Link;
use crate::lower::MappedWays;
use crate::rng::Secrets;
use crate::small_map::SmallMap;
use crate::socket::Event;
use crate::stack::{ChangeError, StackConfig};
use crate::time::Instant;
use crate::wire::header::IpHeader;

pub(crate) mod acd;
pub mod address;
pub(crate) mod configure;
mod extension;
mod forward;
mod header;
pub(crate) mod icmp;
pub(crate) mod input;
pub(crate) mod multicast;
pub(crate) mod ndp;
pub(crate) mod output;
pub(crate) mod pmtu;
pub(crate) mod ready;
mod reassembly;
pub mod route;
pub mod rule;
mod source_select;
mod taps;
pub(crate) mod terms;
mod way_cache;

use address::{Address, AddressState, Alias, AliasId, Aliases, Cidr, Origin};
use icmp::ErrorLimit;
use pmtu::{Ends, PmtuCache};
use ready::ReadyWays;
use reassembly::Reassembly;
use route::{Route, Routes};
use rule::{Asked, Flow, Looks, Policy, TableId, Via};
use way_cache::{Question, WayCache};

/// Limited broadcast.
const BROADCAST: IpAddr = IpAddr::V4(Ipv4Addr::BROADCAST);
/// RFC 1700; everybody's default.
const HOP_LIMIT: u8 = 64;
/// What packets to ourselves may measure.
const LOOPBACK_MTU: usize = 0xffff;
/// The alias that packets to 127.0.0.1 and ::1 seem to come by.
pub(crate) const LOOPBACK: AliasId = AliasId(u16::MAX);

/// Addresses, and the aliases each is on.
type AddressMap = SmallMap<IpAddr, SmallVec<[AliasId; 1]>, 2>;

/// The way to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) alias: AliasId,
    /// What the link resolves; the limited broadcast for every IPv4 broadcast.
    pub(crate) next_hop: IpAddr,
    pub(crate) src: IpAddr,
    /// Of the link, the route and the path.
    pub(crate) mtu: usize,
    /// For unicast, unless the packet asks for another.
    pub(crate) hop_limit: u8,
    /// The destination is this stack.
    pub(crate) local: bool,
}

/// A route applied to a destination.
#[derive(Clone, Copy)]
struct NextHop {
    alias: AliasId,
    addr: IpAddr,
    mtu: usize,
    hop_limit: u8,
    src: Option<IpAddr>,
}

/// 127.0.0.0/8 and ::1.
fn is_loopback(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => a.is_loopback(),
        IpAddr::V6(a) => a.is_loopback(),
    }
}

fn is_link_local_v6(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(a) if a.is_unicast_link_local())
}

/// The hop limit of a link: the default, for IPv6 as routers say (RFC 4861 6.3.4).
fn hop_limit(alias: &Alias, dst: IpAddr) -> u8 {
    alias.ndp.hop_limit.filter(|_| dst.is_ipv6()).unwrap_or(HOP_LIMIT)
}

/// Whether a host can have the address: not unspecified, loopback, multicast, or the broadcast or
/// network address of its prefix.
fn can_be_host(cidr: Cidr) -> bool {
    let addr = cidr.addr;
    let reserved = match addr {
        IpAddr::V4(a) => {
            let is_network = cidr.prefix_len < 31 && cidr.network().addr == addr;
            is_network || a.octets()[0] == 0 || a.octets()[0] >= 224
        }
        IpAddr::V6(a) => a.to_ipv4_mapped().is_some(),
    };
    let to_many = addr.is_multicast() || cidr.broadcast() == Some(addr);
    !(reserved || to_many || addr.is_unspecified() || is_loopback(addr))
}

/// The network an address is on, as a route.
fn connected_route(alias: AliasId, cidr: Cidr) -> Option<Route> {
    let host_only = cidr.prefix_len == address::bits(cidr.addr);
    (!host_only).then(|| Route {
        prefix: cidr.network(),
        via: None,
        alias,
        src: None,
        metric: 0,
        mtu: None,
    })
}

/// IP of one stack: addresses, routes, reassembly, PMTU, ICMP, membership.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Ip {
    // What every packet asks for comes first, see `Stack::prefetch`.
    pub(crate) ready: ReadyWays,
    ways: WayCache,
    /// Grows with every change of addresses, links, path MTUs, rules and shared tables.
    version: u64,
    /// What of a packet rules look at.
    looks: Looks,
    /// Addresses that went away; `Stack` tells the transports and empties it.
    pub(crate) removed: Vec<IpAddr>,
    /// A path layer maps packets: what IP itself has to say to hosts goes through it.
    pub(crate) mapped: bool,
    /// Whether packets to the destination that was asked for last are none of a path layer's
    /// business, and of which version of the addresses that is.
    pub(crate) last_direct: Option<(u32, IpAddr, bool)>,
    /// What is known of how segments are rewritten.
    pub(crate) mapped_ways: MappedWays,
    /// Another path layer may stand here since it was last counted up.
    pub(crate) path_turn: u32,
    /// Packets are forwarded between aliases; neighbours are told that we are a router.
    pub(crate) forwarding: bool,
    /// Bytes of the longest super-segment, if the device takes it.
    pub(crate) super_bytes_max: usize,
    /// Usable addresses (not tentative, not duplicate).
    local: AddressMap,
    /// Directed broadcast addresses of the usable IPv4 addresses.
    broadcasts: AddressMap,
    /// What connections found by probing; for them only.
    pmtu_probed: PmtuCache,
    pub(crate) aliases: Aliases,
    pub(crate) routes: Routes,
    /// Rules and shared tables, if there are any.
    pub(crate) policy: Option<Box<Policy>>,
    /// What raw sockets listen to.
    pub(crate) taps: taps::Taps,
    pub(crate) reassembly: Reassembly,
    /// Addresses that came into use, while packets are mapped; `Stack` tells the path layer.
    pub(crate) added: Vec<IpAddr>,
    pmtu: PmtuCache,
    error_limit: ErrorLimit,
    ndp: ndp::Schedule,
    membership: multicast::Schedule,
}

impl Ip {
    /// No aliases, no routes.
    pub(crate) fn new(config: &StackConfig, secrets: &Secrets, now: Instant) -> Ip {
        let key = secrets.flow;
        Ip {
            aliases: Aliases::default(),
            routes: Routes::default(),
            policy: None,
            looks: Looks::default(),
            local: AddressMap::default(),
            broadcasts: AddressMap::default(),
            ways: WayCache::default(),
            ready: ReadyWays::default(),
            version: 0,
            reassembly: Reassembly::new(key),
            pmtu: PmtuCache::new(key),
            pmtu_probed: PmtuCache::new(key),
            error_limit: ErrorLimit::new(now, config.limits.icmp_errors_per_second),
            forwarding: config.forwarding,
            super_bytes_max: usize::MAX,
            removed: Vec::new(),
            mapped: false,
            last_direct: None,
            mapped_ways: MappedWays::default(),
            path_turn: 0,
            added: Vec::new(),
            taps: taps::Taps::default(),
            ndp: ndp::Schedule::default(),
            membership: multicast::Schedule::default(),
        }
    }

    /// Asks for what every packet reads here.
    #[inline]
    pub(crate) fn prefetch(&self) {
        prefetch(&self.ready);
        prefetch(&self.ways);
        prefetch(&self.version);
        prefetch(&self.removed);
        prefetch(&self.local);
        prefetch(&self.broadcasts);
        prefetch(&self.taps);
        prefetch(self.routes.version_ref());
        self.aliases.prefetch();
    }

    /// What judged a received packet's addresses holds while this stays the same. Never zero.
    #[inline]
    pub(crate) fn address_version(&self) -> u32 {
        (self.version as u32) | 1 << 31
    }

    /// Whether `addr` is a usable address of any alias.
    #[inline]
    pub(crate) fn is_local(&self, addr: IpAddr) -> bool {
        self.local.contains_key(&addr) || is_loopback(addr)
    }

    /// All usable addresses.
    pub(crate) fn local_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let usable = |a: &&Address| a.state.usable();
        self.aliases
            .values()
            .flat_map(move |a| a.addresses.iter().filter(usable))
            .map(|a| a.cidr.addr)
    }

    /// Whether `addr` is a usable address of this alias.
    pub(crate) fn is_local_on(&self, alias: AliasId, addr: IpAddr) -> bool {
        self.local.get(&addr).is_some_and(|on| on.contains(&alias))
            || (alias == LOOPBACK && is_loopback(addr))
    }

    /// The alias that has `addr`, the first of several.
    pub(crate) fn alias_of(&self, addr: IpAddr) -> Option<AliasId> {
        self.local.get(&addr)?.first().copied()
    }

    /// Whether `addr` is the broadcast address of a network of any alias.
    pub(crate) fn is_broadcast(&self, addr: IpAddr) -> bool {
        addr == BROADCAST || self.broadcasts.contains_key(&addr)
    }

    fn is_broadcast_on(&self, alias: AliasId, addr: IpAddr) -> bool {
        self.broadcasts.get(&addr).is_some_and(|on| on.contains(&alias))
    }

    /// The way of a packet to `dst`, from `src` if given.
    pub(crate) fn resolve(
        &mut self,
        now: Instant,
        src: Option<IpAddr>,
        dst: IpAddr,
        via: Via,
    ) -> Result<Way, DropReason> {
        self.resolve_until(now, src, dst, via).map(|(way, _)| way)
    }

    /// What of it makes a difference: the rest is no part of a question that caches know.
    #[inline]
    fn what_rules_see(&self, via: Via) -> Via {
        self.looks.at(via)
    }

    /// Which service lists of the rules a flow is of, for [`Via`].
    #[inline]
    pub(crate) fn services_of(&self, flow: impl FnOnce() -> Flow) -> u64 {
        if self.looks.services { self.services_looked_up(flow()) } else { 0 }
    }

    #[cold]
    fn services_looked_up(&self, flow: Flow) -> u64 {
        self.policy.as_ref().map_or(0, |policy| policy.services_of(flow))
    }

    /// The same, and until when the answer holds if [`Ip::ways_version`] does not change.
    fn resolve_until(
        &mut self,
        now: Instant,
        src: Option<IpAddr>,
        dst: IpAddr,
        via: Via,
    ) -> Result<(Way, Instant), DropReason> {
        let via = self.what_rules_see(via);
        let question = Question { src, dst, via };
        let version = self.ways_version();
        if let Some(found) = self.ways.get(now, version, &question) {
            return Ok(found);
        }
        let way = self.find_way(now, src, dst, via)?;
        let until = self.ways.put(now, version, question, way);
        Ok((way, until))
    }

    /// Grows with every change that ways may depend on.
    #[inline]
    fn ways_version(&self) -> u64 {
        // Both only grow: equal sums mean that nothing changed.
        self.version + self.routes.version()
    }

    /// To be called when an alias or an address changes, other than by the calls here.
    pub(crate) fn changed(&mut self) {
        self.version += 1;
    }

    /// Rules or shared tables changed; without any they cost nothing.
    pub(crate) fn rules_changed(&mut self) {
        self.policy = self.policy.take().filter(|policy| !policy.is_empty());
        self.looks = self.policy.as_ref().map_or_else(Looks::default, |policy| policy.looks());
        self.changed();
    }

    fn find_way(
        &self,
        now: Instant,
        src: Option<IpAddr>,
        dst: IpAddr,
        via: Via,
    ) -> Result<Way, DropReason> {
        if let Some(src) = src
            && (!self.is_local(src) || src.is_ipv4() != dst.is_ipv4())
        {
            return Err(DropReason::IpNoSourceAddress);
        }
        if let Some(on) = self.way_to_self(dst, via.alias) {
            let src = src.unwrap_or(dst);
            return Ok(Way {
                alias: on,
                next_hop: dst,
                src,
                mtu: LOOPBACK_MTU,
                hop_limit: HOP_LIMIT,
                local: true,
            });
        }
        if dst.is_unspecified() || src.is_some_and(is_loopback) {
            return Err(DropReason::IpNoRoute);
        }
        let mut hop = self.hop(src, dst, via)?;
        if self.is_broadcast_on(hop.alias, dst) {
            hop.addr = BROADCAST;
        }
        let src = if let Some(src) = src.or(hop.src) {
            src
        } else {
            let entry = self.aliases.get(&hop.alias).ok_or(DropReason::AliasUnknown)?;
            source_select::select(&entry.addresses, dst, hop.addr)
                .ok_or(DropReason::IpNoSourceAddress)?
        };
        let told = |from| self.pmtu.get(now, (from, dst)).unwrap_or(usize::MAX);
        let mtu = hop.mtu.min(told(None)).min(told(Some(src)));
        Ok(Way {
            alias: hop.alias,
            next_hop: hop.addr,
            src,
            mtu,
            hop_limit: hop.hop_limit,
            local: false,
        })
    }

    /// The alias by which a packet to ourselves seems to come.
    #[inline]
    fn way_to_self(&self, dst: IpAddr, alias: Option<AliasId>) -> Option<AliasId> {
        if is_loopback(dst) {
            return Some(LOOPBACK);
        }
        let on = self.local.get(&dst)?;
        match alias {
            // A link-local address means another host on another link.
            Some(alias) if is_link_local_v6(dst) => on.contains(&alias).then_some(alias),
            _ => on.first().copied(),
        }
    }

    fn hop(&self, src: Option<IpAddr>, dst: IpAddr, via: Via) -> Result<NextHop, DropReason> {
        if dst.is_multicast() || dst == BROADCAST {
            return self.hop_to_many(src, dst, via.alias);
        }
        self.decide(&Asked { src, dst, by: via, input: None }, |table| {
            self.hop_in(table, src, dst, via.alias)
        })
    }

    /// Asks `find` for the tables that may have the way of a packet, in order.
    fn decide(
        &self,
        asked: &Asked,
        find: impl Fn(TableId) -> Result<NextHop, DropReason>,
    ) -> Result<NextHop, DropReason> {
        match &self.policy {
            Some(policy) if !is_link_local_v6(asked.dst) => policy.decide(asked, find),
            _ => find(TableId::MAIN),
        }
    }

    /// The best route of a table for a packet of our own.
    fn hop_in(
        &self,
        table: TableId,
        src: Option<IpAddr>,
        dst: IpAddr,
        alias: Option<AliasId>,
    ) -> Result<NextHop, DropReason> {
        if alias.is_some() {
            return self.route_in(table, dst, alias);
        }
        // RFC 1122 3.3.4.2, RFC 8028: a host answers by the alias that has the source address.
        if !self.forwarding
            && let Some(on) = src.and_then(|src| self.local.get(&src))
            && let Some(hop) = on.iter().find_map(|a| self.route_in(table, dst, Some(*a)).ok())
        {
            return Ok(hop);
        }
        self.route_in(table, dst, None)
    }

    /// The way of a packet that came in on `input` and is for somebody else.
    fn hop_forward(
        &self,
        src: IpAddr,
        dst: IpAddr,
        input: AliasId,
        by: Via,
    ) -> Result<NextHop, DropReason> {
        let asked = Asked { src: Some(src), dst, by, input: Some(input) };
        self.decide(&asked, |table| self.route_in(table, dst, None))
    }

    /// The best route of a table to `dst`, out of `alias` if given.
    fn route_in(
        &self,
        table: TableId,
        dst: IpAddr,
        alias: Option<AliasId>,
    ) -> Result<NextHop, DropReason> {
        let usable = |r: &Route| {
            alias.is_none_or(|a| a == r.alias)
                && self.aliases.get(&r.alias).is_some_and(|a| a.config.up)
        };
        let route = match &self.policy {
            None => self.routes.lookup(dst, usable),
            Some(policy) => policy.lookup(&self.routes, table, dst, usable),
        };
        let route = route.ok_or(DropReason::IpNoRoute)?;
        let entry = self.aliases.get(&route.alias).ok_or(DropReason::AliasUnknown)?;
        Ok(NextHop {
            alias: route.alias,
            addr: route.via.unwrap_or(dst),
            mtu: entry.mtu(dst).min(route.mtu.unwrap_or(usize::MAX)),
            hop_limit: hop_limit(entry, dst),
            src: route.src,
        })
    }

    /// Multicast and broadcast leave by the alias asked for, else by the source's, else by a route
    /// to the group, else by the first that is up.
    fn hop_to_many(
        &self,
        src: Option<IpAddr>,
        dst: IpAddr,
        alias: Option<AliasId>,
    ) -> Result<NextHop, DropReason> {
        let of_src = || src.and_then(|s| self.local.get(&s)).and_then(|on| on.first().copied());
        let by_route = || self.route_in(TableId::MAIN, dst, None).ok().map(|hop| hop.alias);
        let first_up = || {
            let fits = |a: &&Alias| {
                let family = |x: &Address| x.cidr.addr.is_ipv4() == dst.is_ipv4();
                a.config.up && a.addresses.iter().any(family)
            };
            self.aliases.values().filter(fits).map(|a| a.config.id).min()
        };
        let id = alias.or_else(of_src).or_else(by_route).or_else(first_up);
        let id = id.ok_or(DropReason::IpNoRoute)?;
        let entry = self.aliases.get(&id).ok_or(DropReason::AliasUnknown)?;
        let (mtu, hop_limit) = (entry.mtu(dst), hop_limit(entry, dst));
        Ok(NextHop { alias: id, addr: dst, mtu, hop_limit, src: None })
    }

    /// Lowers a path MTU.
    pub(crate) fn lower_pmtu(&mut self, ctx: &mut Ctx<'_>, ends: Ends, mtu: usize) {
        let changed = self.pmtu.lower(ctx.now, ends, mtu, ctx.limits.pmtu);
        ctx.mib.limits.path_mtus += self.pmtu.take_evicted();
        self.version += u64::from(changed);
    }

    /// Path MTU entries held.
    pub(crate) fn pmtu_len(&self) -> usize {
        self.pmtu.len() + self.pmtu_probed.len()
    }

    /// A connection found that packets of this size pass between `ends`, and no larger ones; `None`:
    /// as large as the link takes.
    pub(crate) fn learn_pmtu(&mut self, ctx: &mut Ctx<'_>, ends: Ends, mtu: Option<usize>) {
        self.pmtu_probed.set(ctx.now, ends, mtu, ctx.limits.pmtu);
        ctx.mib.limits.path_mtus += self.pmtu_probed.take_evicted();
    }

    /// Whether [`Ip::learn_pmtu`] was told anything.
    #[inline]
    pub(crate) fn has_learned_pmtu(&self) -> bool {
        self.pmtu_probed.len() > 0
    }

    /// What [`Ip::learn_pmtu`] was told of these ends in the last ten minutes.
    #[inline]
    pub(crate) fn learned_pmtu(&self, now: Instant, ends: Ends) -> Option<usize> {
        self.pmtu_probed.get(now, ends)
    }

    /// Adds an address with the route to its network. IPv6 starts tentative, IPv4 is ready at once.
    /// Configuration and SLAAC both come here.
    pub(crate) fn add_address(
        &mut self,
        ctx: &mut Ctx<'_>,
        link: &mut Link,
        alias: AliasId,
        cidr: Cidr,
        origin: Origin,
    ) -> Result<(), ChangeError> {
        let entry = self.aliases.get_mut(&alias).ok_or(ChangeError::NoAlias(alias))?;
        if !can_be_host(cidr) {
            return Err(ChangeError::AddressInvalid(cidr.addr));
        }
        if entry.address(cidr.addr).is_some() {
            return Err(ChangeError::AddressExists(cidr.addr));
        }
        if entry.addresses.len() >= ctx.limits.addresses {
            ctx.mib.limits.addresses += 1;
            return Err(ChangeError::Limit("addresses"));
        }
        if let Some(route) = connected_route(alias, cidr) {
            self.routes.insert_for(ctx, route)?;
        }
        let tentative = cidr.addr.is_ipv6();
        let state = if tentative { AddressState::Tentative } else { AddressState::Preferred };
        entry.addresses.push(Address { cidr, state, origin });
        ctx.addresses_changed(alias);
        match cidr.addr {
            IpAddr::V6(addr) => ndp::address_added(ctx, link, self, alias, addr),
            IpAddr::V4(addr) => acd::address_added(ctx, link, self, alias, addr),
        }
        Ok(())
    }

    /// A tentative address passed DAD (or an IPv4 address was configured): it may be used.
    pub(crate) fn address_ready(&mut self, ctx: &mut Ctx<'_>, alias: AliasId, addr: IpAddr) {
        let Some(entry) = self.aliases.get_mut(&alias).and_then(|a| a.address_mut(addr)) else {
            return;
        };
        entry.state = AddressState::Preferred;
        ctx.addresses_changed(alias);
        self.version += 1;
        if let Some(broadcast) = entry.cidr.broadcast() {
            let on = self.broadcasts.or_default(broadcast);
            if !on.contains(&alias) {
                on.push(alias);
            }
        }
        let on = self.local.or_default(addr);
        if !on.contains(&alias) {
            if self.mapped {
                self.added.push(addr);
                ctx.outbox.for_path = true;
            }
            on.push(alias);
            ctx.outbox.events.push_back(Event::AddressAdded { alias, addr });
        }
    }

    /// Another host has the address: it stays in the table as duplicate and is not used.
    pub(crate) fn address_duplicate(
        &mut self,
        ctx: &mut Ctx<'_>,
        alias: AliasId,
        addr: IpAddr,
        mac: [u8; 6],
    ) {
        let Some(entry) = self.aliases.get_mut(&alias).and_then(|a| a.address_mut(addr)) else {
            return;
        };
        entry.state = AddressState::Duplicate;
        ctx.addresses_changed(alias);
        ctx.mib.neighbour.duplicate_addresses += 1;
        ctx.outbox.events.push_back(Event::AddressDuplicate { alias, addr, mac });
        // That one is probed was told, too.
        if self.forget_local(alias, addr) || addr.is_ipv4() {
            ctx.outbox.events.push_back(Event::AddressRemoved { alias, addr });
        }
    }

    /// Removes an address and the route to its network.
    pub(crate) fn remove_address(
        &mut self,
        ctx: &mut Ctx<'_>,
        alias: AliasId,
        addr: IpAddr,
    ) -> Result<(), ChangeError> {
        let entry = self.aliases.get_mut(&alias).ok_or(ChangeError::NoAlias(alias))?;
        let at = entry.addresses.iter().position(|a| a.cidr.addr == addr);
        let gone = entry.addresses.remove(at.ok_or(ChangeError::NoAddress(addr))?);
        let cidr = gone.cidr;
        entry.terms.retain(|t| t.addr != addr);
        ctx.addresses_changed(alias);
        self.forget_network(alias, cidr);
        if let IpAddr::V6(addr) = addr {
            ndp::address_removed(ctx, self, alias, addr);
        }
        let probed = addr.is_ipv4() && gone.state == AddressState::Tentative;
        if self.forget_local(alias, addr) || probed {
            ctx.outbox.events.push_back(Event::AddressRemoved { alias, addr });
        }
        Ok(())
    }

    /// Gives an address another prefix length, with the route to its network.
    pub(crate) fn set_prefix(
        &mut self,
        ctx: &mut Ctx<'_>,
        alias: AliasId,
        cidr: Cidr,
    ) -> Result<(), ChangeError> {
        let entry = self.aliases.get_mut(&alias).ok_or(ChangeError::NoAlias(alias))?;
        if !can_be_host(cidr) {
            return Err(ChangeError::AddressInvalid(cidr.addr));
        }
        let missing = ChangeError::NoAddress(cidr.addr);
        let old = entry.address_mut(cidr.addr).ok_or(missing)?;
        let (before, usable) = (old.cidr, old.state.usable());
        if let Some(route) = connected_route(alias, cidr) {
            self.routes.insert_for(ctx, route)?;
        }
        old.cidr = cidr;
        self.forget_network(alias, before);
        ctx.addresses_changed(alias);
        if usable && let Some(broadcast) = cidr.broadcast() {
            let on = self.broadcasts.or_default(broadcast);
            if !on.contains(&alias) {
                on.push(alias);
            }
        }
        Ok(())
    }

    /// The route to a network and its broadcast address, unless an address of the alias has it.
    fn forget_network(&mut self, alias: AliasId, cidr: Cidr) {
        let addresses = self.aliases.get(&alias).into_iter().flat_map(|a| &a.addresses);
        if addresses.into_iter().any(|a| a.cidr.network() == cidr.network()) {
            return;
        }
        if let Some(route) = connected_route(alias, cidr) {
            self.routes.remove(&route);
        }
        if let Some(broadcast) = cidr.broadcast()
            && let Some(on) = self.broadcasts.get_mut(&broadcast)
        {
            on.retain(|a| *a != alias);
            if on.is_empty() {
                self.broadcasts.remove(&broadcast);
            }
        }
    }

    /// Another shard's address, which shard 0 has finished or not.
    pub(crate) fn adopt_addresses(
        &mut self,
        ctx: &mut Ctx<'_>,
        link: &mut Link,
        alias: AliasId,
        addresses: &[Address],
    ) -> Result<(), ChangeError> {
        let entry = self.aliases.get(&alias).ok_or(ChangeError::NoAlias(alias))?;
        let kept = |a: &Address| addresses.iter().any(|new| new.cidr == a.cidr);
        let gone: Vec<IpAddr> =
            entry.addresses.iter().filter(|a| !kept(a)).map(|a| a.cidr.addr).collect();
        for addr in gone {
            self.remove_address(ctx, alias, addr)?;
        }
        for new in addresses {
            let known = self.aliases.get(&alias).and_then(|a| a.address(new.cidr.addr)).is_some();
            if !known {
                self.add_address(ctx, link, alias, new.cidr, new.origin)?;
            }
            if new.state.usable() {
                self.address_ready(ctx, alias, new.cidr.addr);
            } else if self.forget_local(alias, new.cidr.addr) {
                let addr = new.cidr.addr;
                ctx.outbox.events.push_back(Event::AddressRemoved { alias, addr });
            }
            let entry = self.aliases.get_mut(&alias);
            if let Some(own) = entry.and_then(|a| a.address_mut(new.cidr.addr)) {
                own.state = new.state;
            }
        }
        Ok(())
    }

    /// Takes an address out of use; whether it was in use.
    fn forget_local(&mut self, alias: AliasId, addr: IpAddr) -> bool {
        self.version += 1;
        let Some(on) = self.local.get_mut(&addr) else { return false };
        let before = on.len();
        on.retain(|a| *a != alias);
        let was_there = on.len() < before;
        if on.is_empty() {
            self.local.remove(&addr);
            self.removed.push(addr);
        }
        was_there
    }

    /// The alias's usable link-local address, for ND and MLD.
    pub(crate) fn link_local(&self, alias: AliasId) -> Option<Ipv6Addr> {
        let entry = self.aliases.get(&alias)?;
        entry.addresses.iter().find_map(|a| match a.cidr.addr {
            IpAddr::V6(addr) if addr.is_unicast_link_local() && a.state.usable() => Some(addr),
            _ => None,
        })
    }

    /// Sends a packet of the stack itself (ND, IGMP, MLD) on a link: pushes the IP header and hands
    /// it to the link with the destination as next hop. Losses are counted here.
    pub(crate) fn send_on_link(
        &mut self,
        ctx: &mut Ctx<'_>,
        link: &mut Link,
        alias: AliasId,
        header: &IpHeader,
        mut frame: Frame,
    ) {
        let Some(entry) = self.aliases.get(&alias) else {
            return ctx.drop_out(DropReason::AliasUnknown);
        };
        header.push(&mut frame);
        if let Err(reason) = link.output(ctx, entry, header.dst, frame) {
            ctx.drop_out(reason);
        }
    }
}
