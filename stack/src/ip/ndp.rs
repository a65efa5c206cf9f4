//! Neighbour discovery (RFC 4861), duplicate address detection and SLAAC (RFC 4862).
//!
//! The neighbour cache is the link layer's; here are the messages: solicitations and
//! advertisements of neighbours (this file), [`dad`], routers and prefixes ([`router`]), and the
//! addresses made from them ([`slaac`]). Deadlines of all aliases share one timer.

use core::net::{IpAddr, Ipv6Addr};

use super::address::{AddressState, Alias, AliasId};
use super::{Ip, acd, multicast, terms};
use crate::ctx::{Ctx, Fate, Timer};
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::link::{Answer, Link, NeighbourTimes, Solicit, ethernet};
use crate::lower::InPacket;
use crate::socket::Event;
use crate::time::{Duration, Instant};
use crate::timer_wheel::TimerHandle;
use crate::wire::header::IpHeader;
use crate::wire::{checksum, protocol};

mod dad;
mod message;
mod router;
mod slaac;
#[cfg(test)]
mod tests;

use message::{Advertisement, Message, Solicitation};

pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// RFC 4861 6.1.2, 7.1: a packet that was forwarded cannot have it.
const HOP_LIMIT: u8 = 255;
const FOREVER: Instant = Instant::from_nanos(u64::MAX);
/// RFC 4861 10: hosts that start together do not speak together.
const SOLICITATION_DELAY: Duration = Duration::from_secs(1);

/// Per-alias state of neighbour and router discovery and SLAAC.
#[derive(Debug, Default)]
pub(crate) struct AliasNdp {
    /// Times of the alias's neighbours.
    pub(crate) times: NeighbourTimes,
    /// Hop limit to send with, as routers say.
    pub(crate) hop_limit: Option<u8>,
    /// MTU of the link for IPv6, as routers say.
    pub(crate) mtu: Option<usize>,
    dad: Vec<dad::Detection>,
    routers: router::Routers,
    made: Vec<slaac::Made>,
}

impl AliasNdp {
    pub(super) fn deadline(&self) -> Option<Instant> {
        let dad = self.dad.iter().map(|d| d.at).min();
        let made = self.made.iter().filter_map(slaac::Made::deadline).min();
        [dad, made, self.routers.deadline()].into_iter().flatten().min()
    }
}

/// The timer of all aliases.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    armed: Option<(Instant, TimerHandle)>,
}

pub(super) fn arm(ctx: &mut Ctx<'_>, ip: &mut Ip) {
    let want = ip.aliases.values().filter_map(Alias::deadline).min();
    if ip.ndp.armed.map(|a| a.0) == want {
        return;
    }
    if let Some((_, handle)) = ip.ndp.armed.take() {
        ctx.timers.cancel(handle);
    }
    ip.ndp.armed = want.map(|at| (at, ctx.timers.schedule(at, Timer::Ndp)));
}

/// The group that everybody with an address of these last 24 bits is in (RFC 4291 2.7.1).
pub(crate) fn solicited_node(addr: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = addr.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// Sends a message with hop limit 255.
fn send(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    alias: AliasId,
    (src, dst): (Ipv6Addr, Ipv6Addr),
    message: &Message,
) {
    let Some(mut frame) = ctx.pool.alloc() else {
        return ctx.drop_out(DropReason::FramePoolEmpty);
    };
    frame.append(message.bytes());
    let pseudo = checksum::pseudo_v6(src, dst, protocol::ICMPV6, frame.len());
    let sum = checksum::finish(checksum::combine(pseudo, checksum::sum(frame.data())));
    frame.data_mut()[2..4].copy_from_slice(&sum.to_be_bytes());
    ctx.mib.icmp6.out_msgs += 1;
    let header = IpHeader::new(src.into(), dst.into(), protocol::ICMPV6, HOP_LIMIT);
    ip.send_on_link(ctx, link, alias, &header, frame);
}

/// Sends what the link layer asked for, and takes note of neighbours that stopped answering. To be
/// called after every call into the stack that may send.
pub(crate) fn link_work(ctx: &mut Ctx<'_>, link: &mut Link, ip: &mut Ip) {
    while let Some(ask) = link.solicits.pop_front() {
        solicit(ctx, link, ip, ask);
    }
    while let Some((alias, addr)) = link.gone.pop_front() {
        if let IpAddr::V6(addr) = addr {
            router::suspect(ctx, ip, alias, addr);
        }
    }
    acd::work(ctx, link, ip);
}

/// RFC 4861 7.2.2: from the waiting packet's source if it is ours, with our MAC.
fn solicit(ctx: &mut Ctx<'_>, link: &mut Link, ip: &mut Ip, ask: Solicit) {
    let Some(alias) = ip.aliases.get(&ask.alias) else { return };
    let usable = |a: &IpAddr| alias.address(*a).is_some_and(|a| a.state.usable());
    let src = match ask.src.filter(usable) {
        Some(IpAddr::V6(src)) => src,
        _ => match ip.link_local(ask.alias).or_else(|| any_source(alias)) {
            Some(src) => src,
            None => return,
        },
    };
    let dst = if ask.unicast { ask.target } else { solicited_node(ask.target) };
    let message = Solicitation::emit(ask.target, alias.mac(), None);
    ctx.mib.neighbour.out_solicits += 1;
    send(ctx, link, ip, ask.alias, (src, dst), &message);
}

fn any_source(alias: &Alias) -> Option<Ipv6Addr> {
    alias.addresses.iter().filter(|a| a.state.usable()).find_map(|a| match a.cidr.addr {
        IpAddr::V6(addr) => Some(addr),
        IpAddr::V4(_) => None,
    })
}

/// Whether a neighbour may have this address: link-local, or of a network of the alias.
fn on_link(alias: &Alias, addr: Ipv6Addr) -> bool {
    addr.is_unicast_link_local()
        || alias.addresses.iter().any(|a| a.cidr.contains(addr.into()))
        || alias.ndp.routers.on_link(addr)
}

/// The source MAC of a received frame, from the link header that still stands in its headroom.
fn link_source(alias: &Alias, frame: &mut Frame) -> [u8; 6] {
    let back = frame.meta.network_offset.unsigned_abs() as usize + ethernet::HEADER_BYTES;
    if alias.mac().is_none() || frame.meta.network_offset > 0 || frame.headroom() < back {
        return [0; 6];
    }
    let header = frame.push_front(back);
    let mac = core::array::from_fn(|i| header[6 + i]);
    frame.pull_front(back);
    mac
}

/// ICMPv6 types 133 to 137, checksum verified. `frame` starts with the ICMPv6 header.
pub(crate) fn input(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    packet: &InPacket,
    mut frame: Frame,
) -> Fate {
    const INVALID: Fate = Fate::Dropped(DropReason::NdpInvalid);
    let (IpAddr::V6(src), IpAddr::V6(dst)) = (packet.src, packet.dst) else { return INVALID };
    let Some(alias) = ip.aliases.get(&packet.alias) else {
        return Fate::Dropped(DropReason::AliasUnknown);
    };
    let sender = link_source(alias, &mut frame);
    let data = frame.data();
    if packet.hop_limit != HOP_LIMIT || data.len() < 8 || data[1] != 0 {
        return INVALID;
    }
    let from = Sender { src, dst, mac: sender, alias: packet.alias };
    let done = match data[0] {
        message::NEIGHBOUR_SOLICIT => Solicitation::parse(data)
            .filter(|s| from.may_solicit(s))
            .map(|s| solicited(ctx, link, ip, &from, &s)),
        message::NEIGHBOUR_ADVERT => Advertisement::parse(data)
            .filter(|a| !(a.solicited && dst.is_multicast()))
            .map(|a| advertised(ctx, link, ip, &from, &a)),
        message::ROUTER_ADVERT => message::RouterAdvert::parse(data)
            .filter(|_| src.is_unicast_link_local())
            .map(|a| router::advertised(ctx, link, ip, (packet.alias, src), &a)),
        // We are no router that advertises itself.
        message::ROUTER_SOLICIT => Some(Fate::Consumed),
        message::REDIRECT => {
            // A redirect steers our traffic on a neighbour's word alone; routes are configured.
            ctx.mib.neighbour.in_redirects += 1;
            Some(Fate::Consumed)
        }
        _ => None,
    };
    arm(ctx, ip);
    done.unwrap_or(INVALID)
}

/// Whether an ICMPv6 message is one of neighbour discovery.
pub(super) fn is_discovery(icmp: &[u8]) -> bool {
    icmp.first().is_some_and(|kind| (message::ROUTER_SOLICIT..=message::REDIRECT).contains(kind))
}

/// Where a message came from.
struct Sender {
    src: Ipv6Addr,
    dst: Ipv6Addr,
    mac: [u8; 6],
    alias: AliasId,
}

impl Sender {
    /// RFC 4861 7.1.1: a solicitation without source goes to the group and names no MAC.
    fn may_solicit(&self, s: &Solicitation) -> bool {
        !self.src.is_unspecified()
            || (self.dst == solicited_node(s.target) && s.options.source_mac.is_none())
    }
}

fn solicited(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    from: &Sender,
    s: &Solicitation,
) -> Fate {
    ctx.mib.neighbour.in_solicits += 1;
    let Some(alias) = ip.aliases.get(&from.alias) else {
        return Fate::Dropped(DropReason::AliasUnknown);
    };
    match alias.address(s.target.into()).map(|a| a.state) {
        // Shard 0 tries and answers, the others listen.
        Some(AddressState::Tentative) if !ctx.shard.is_home() => return Fate::Consumed,
        Some(AddressState::Tentative) => {
            // RFC 4862 5.4.3: another host tries the same address; with our nonce it is ourselves
            // (RFC 7527). A solicitation with a source is from somebody who looks for an owner.
            if from.src.is_unspecified() && !dad::is_own(alias, s.target, s.options.nonce) {
                dad::conflict(ctx, link, ip, from.alias, s.target, from.mac);
            }
            return Fate::Consumed;
        }
        Some(state) if state.usable() => {}
        _ => return Fate::Dropped(DropReason::NdpNotForUs),
    }
    let Some(mac) = alias.mac() else { return Fate::Consumed };
    let unspecified = from.src.is_unspecified();
    if !unspecified && let Some(sender) = s.options.source_mac {
        link.heard(ctx, alias, from.src.into(), sender, on_link(alias, from.src));
    }
    if !ctx.shard.is_home() {
        return Fate::Consumed;
    }
    // RFC 4861 7.2.4: who cannot be answered alone is answered with everybody.
    let dst = if unspecified { ALL_NODES } else { from.src };
    let message = Advertisement::emit(s.target, mac, ip.forwarding, !unspecified);
    ctx.mib.neighbour.out_adverts += 1;
    send(ctx, link, ip, from.alias, (s.target, dst), &message);
    Fate::Consumed
}

fn advertised(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    from: &Sender,
    a: &Advertisement,
) -> Fate {
    ctx.mib.neighbour.in_adverts += 1;
    let Some(alias) = ip.aliases.get(&from.alias) else {
        return Fate::Dropped(DropReason::AliasUnknown);
    };
    let mac = a.options.target_mac;
    match alias.address(a.target.into()).map(|own| own.state) {
        Some(_) if !ctx.shard.is_home() => return Fate::Consumed,
        Some(AddressState::Tentative) => {
            dad::conflict(ctx, link, ip, from.alias, a.target, mac.unwrap_or(from.mac));
            return Fate::Consumed;
        }
        Some(state) if state.usable() => {
            // RFC 4862 5.4.4: too late to give it up; unless it is our own, say so.
            if mac != alias.mac() {
                ctx.mib.neighbour.duplicate_addresses += 1;
                let (alias, addr, mac) = (from.alias, a.target.into(), mac.unwrap_or(from.mac));
                if link.conflict_is_due(ctx.now, alias, addr) {
                    let event = Event::AddressDuplicate { alias, addr, mac };
                    ctx.outbox.events.push_back(event);
                }
            }
            return Fate::Consumed;
        }
        _ => {}
    }
    let announced = !a.solicited && a.overrides;
    let Advertisement { solicited, overrides, router, .. } = *a;
    let answer = Answer { mac, solicited, overrides, router, announced };
    if link.answered(ctx, alias, a.target.into(), answer) {
        router::remove(ctx, ip, from.alias, a.target);
    }
    Fate::Consumed
}

/// RFC 4861 7.2.6: tells everybody about an address that is new here.
fn announce(ctx: &mut Ctx<'_>, link: &mut Link, ip: &mut Ip, alias: AliasId, addr: Ipv6Addr) {
    let Some(mac) = ip.aliases.get(&alias).and_then(Alias::mac) else { return };
    let message = Advertisement::emit(addr, mac, ip.forwarding, false);
    ctx.mib.neighbour.out_adverts += 1;
    send(ctx, link, ip, alias, (addr, ALL_NODES), &message);
}

/// `Timer::Ndp` fired.
pub(crate) fn timeout(ctx: &mut Ctx<'_>, link: &mut Link, ip: &mut Ip) {
    ip.ndp.armed = None;
    let due = |a: &Alias| a.deadline().is_some_and(|at| at <= ctx.now);
    let aliases: Vec<AliasId> =
        ip.aliases.iter().filter(|(_, a)| due(a)).map(|(id, _)| *id).collect();
    for alias in aliases {
        dad::timeout(ctx, link, ip, alias);
        router::timeout(ctx, link, ip, alias);
        slaac::timeout(ctx, ip, alias);
        terms::timeout(ctx, link, ip, alias);
    }
    arm(ctx, ip);
}

/// The alias came up: groups are reported, addresses tried or announced (again), a link-local
/// address made, routers solicited.
pub(crate) fn alias_up(ctx: &mut Ctx<'_>, link: &mut Link, ip: &mut Ip, alias: AliasId) {
    multicast::alias_up(ctx, ip, alias);
    if !ctx.shard.is_home() {
        return arm(ctx, ip);
    }
    let Some(entry) = ip.aliases.get(&alias) else { return };
    let slaac = entry.config.slaac && entry.mac().is_some();
    let addrs: Vec<(Ipv6Addr, AddressState)> = entry
        .addresses
        .iter()
        .filter_map(|a| match a.cidr.addr {
            IpAddr::V6(addr) => Some((addr, a.state)),
            IpAddr::V4(_) => None,
        })
        .collect();
    if slaac || !addrs.is_empty() {
        slaac::ensure_link_local(ctx, link, ip, alias);
    }
    for (addr, state) in addrs {
        if state.usable() {
            announce(ctx, link, ip, alias, addr);
        } else {
            dad::start(ctx, ip, alias, addr, Duration::ZERO);
        }
    }
    if slaac {
        router::start(ctx, ip, alias);
    }
    arm(ctx, ip);
}

/// The alias went down: DAD and router discovery stop.
pub(crate) fn alias_down(ctx: &mut Ctx<'_>, ip: &mut Ip, alias: AliasId) {
    if let Some(entry) = ip.aliases.get_mut(&alias) {
        entry.ndp.dad.clear();
        entry.ndp.routers.stop();
    }
    multicast::alias_down(ctx, ip, alias);
    arm(ctx, ip);
}

/// Makes the link-local address of an alias that has none, for whoever speaks from it (DHCPv6).
pub(crate) fn ensure_link_local(ctx: &mut Ctx<'_>, link: &mut Link, ip: &mut Ip, alias: AliasId) {
    if ctx.shard.is_home() {
        slaac::ensure_link_local(ctx, link, ip, alias);
        arm(ctx, ip);
    }
}

/// A tentative address is in the table: joins the solicited-node group, starts DAD, and calls
/// [`Ip::address_ready`] when it ends well (at once where there is no link to ask, `AliasMedium::Ip`).
pub(crate) fn address_added(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    alias: AliasId,
    addr: Ipv6Addr,
) {
    let Some(entry) = ip.aliases.get(&alias) else { return };
    let up = entry.config.up;
    if entry.mac().is_none() {
        return ip.address_ready(ctx, alias, addr.into());
    }
    if !ctx.shard.is_home() {
        // Shard 0 tells when it may be used.
        return;
    }
    slaac::ensure_link_local(ctx, link, ip, alias);
    multicast::join_internal(ctx, ip, alias, solicited_node(addr).into());
    if up {
        dad::start(ctx, ip, alias, addr, Duration::ZERO);
    }
    arm(ctx, ip);
}

/// Another stack of this host had the address a moment ago: there is no duplicate to look for.
pub(crate) fn address_taken(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    alias: AliasId,
    addr: Ipv6Addr,
) {
    if let Some(entry) = ip.aliases.get_mut(&alias) {
        entry.ndp.dad.retain(|d| d.addr != addr);
    }
    ip.address_ready(ctx, alias, addr.into());
    let up = ip.aliases.get(&alias).is_some_and(|a| a.config.up);
    if up && ctx.shard.is_home() {
        announce(ctx, link, ip, alias, addr);
    }
    arm(ctx, ip);
}

/// The address left the table: leaves its solicited-node group, ends its DAD.
pub(crate) fn address_removed(ctx: &mut Ctx<'_>, ip: &mut Ip, alias: AliasId, addr: Ipv6Addr) {
    if let Some(entry) = ip.aliases.get_mut(&alias) {
        entry.ndp.dad.retain(|d| d.addr != addr);
        entry.ndp.made.retain(|m| m.addr != addr);
        if entry.mac().is_some() && ctx.shard.is_home() {
            multicast::leave(ctx, ip, alias, solicited_node(addr).into());
        }
    }
    arm(ctx, ip);
}
