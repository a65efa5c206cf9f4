//! Frame to packet and back: Ethernet headers, ARP, and the neighbour cache that ARP and NDP
//! share.
//!
//! The link layer speaks ARP by itself. Neighbour solicitations need IP: they are left in
//! `solicits`, and neighbours that stopped answering in `gone`, for `crate::ip::ndp::link_work`,
//! which has to run after every call that may send.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::VecDeque;
use std::sync::Arc;

use crate::ctx::{Ctx, Fate};
use crate::drop::DropReason;
use crate::frame::{Frame, prefetch};
use crate::ip::address::{Alias, AliasId, AliasMedium, Aliases};
use crate::time::Instant;

mod acd;
mod arp;
pub(crate) mod ethernet;
pub mod gro;
mod lru;
pub mod neighbour;
pub mod shared;
#[cfg(test)]
mod tests;

use acd::{Defence, Probe, Probed};
use arp::Announcement;
use ethernet::EtherType;
pub(crate) use neighbour::{Answer, NeighbourTimes};
use neighbour::{NeighbourInfo, Neighbours, Verdict};
use shared::SharedNeighbours;

/// What a link frame was.
#[derive(Debug)]
pub(crate) enum LinkInput {
    /// An IPv4 packet, link header pulled (padding may follow the packet).
    Ip4(Frame),
    /// An IPv6 packet, link header pulled (padding may follow the packet).
    Ip6(Frame),
    /// ARP, or lost.
    Done(Fate),
}

/// A neighbour solicitation to be sent: to the neighbour (whose MAC is in the table) or to its
/// solicited-node group. `src` sent the packet that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Solicit {
    pub(crate) alias: AliasId,
    pub(crate) target: Ipv6Addr,
    pub(crate) unicast: bool,
    pub(crate) src: Option<IpAddr>,
}

/// The link layer of one stack: neighbours of all its aliases.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Link {
    // What every packet asks for comes first.
    pub(crate) solicits: VecDeque<Solicit>,
    pub(crate) gone: VecDeque<(AliasId, IpAddr)>,
    /// Packets (IP header at the front) that were given up because the neighbour did not answer.
    /// `Stack` drains it, counts each as `NeighbourUnreachable`, and reports host unreachable.
    pub(crate) failed: VecDeque<(AliasId, Frame)>,
    /// What became of addresses, for `crate::ip::acd`.
    pub(crate) probed: VecDeque<Probed>,
    neighbours: Neighbours,
    announcements: VecDeque<Announcement>,
    /// Addresses being probed.
    probes: Vec<Probe>,
    /// Addresses defended in the last seconds.
    defended: Vec<Defence>,
}

/// RFC 1122 3.3.6: a packet to one host in a frame to many is not meant for us.
fn is_one_host(alias: &Alias, frame: &Frame, ethertype: EtherType) -> bool {
    let data = frame.data();
    match ethertype {
        EtherType::Ip4 => data.get(16..20).is_some_and(|d| {
            let dst = Ipv4Addr::new(d[0], d[1], d[2], d[3]);
            !dst.is_multicast() && !dst.is_broadcast() && !is_broadcast(alias, dst.into())
        }),
        EtherType::Ip6 => data.get(24).is_some_and(|d| *d != 0xff),
        _ => false,
    }
}

/// Bytes of the link header of an IP packet to this host alone, and whether it is IPv4 (`None`: the
/// packet tells). `None`: look closer.
#[inline]
pub(crate) fn unicast_ip(alias: &Alias, frame: &Frame) -> Option<(usize, Option<bool>)> {
    if !alias.config.up {
        return None;
    }
    let AliasMedium::Ethernet { mac } = alias.config.medium else { return Some((0, None)) };
    let header: &[u8; ethernet::HEADER_BYTES] = frame.data().first_chunk()?;
    let (dst, rest) = header.split_first_chunk::<6>()?;
    match (rest[6], rest[7]) {
        _ if *dst != mac => None,
        (0x08, 0x00) => Some((ethernet::HEADER_BYTES, Some(true))),
        (0x86, 0xdd) => Some((ethernet::HEADER_BYTES, Some(false))),
        _ => None,
    }
}

fn is_broadcast(alias: &Alias, addr: IpAddr) -> bool {
    addr.is_ipv4() && alias.addresses.iter().any(|a| a.cidr.broadcast() == Some(addr))
}

/// A finished link frame into the transmit queue.
fn transmit(ctx: &mut Ctx<'_>, alias: AliasId, frame: Frame) {
    if ctx.out_room() == 0 {
        return ctx.drop_out(DropReason::OutQueueFull);
    }
    ctx.outbox.frames.push_back((alias, frame));
}

fn transmit_ip(ctx: &mut Ctx<'_>, alias: &Alias, dst: [u8; 6], mut frame: Frame) {
    let Some(src) = alias.mac() else { return ctx.drop_out(DropReason::AliasUnknown) };
    let v4 = frame.data().first().is_some_and(|b| b >> 4 == 4);
    let ethertype = if v4 { EtherType::Ip4 } else { EtherType::Ip6 };
    ethernet::push(&mut frame, dst, src, ethertype);
    transmit(ctx, alias.config.id, frame);
}

impl Link {
    /// Asks for what every packet reads here.
    #[inline]
    pub(crate) fn prefetch(&self) {
        prefetch(&self.solicits);
        prefetch(&self.failed);
        self.neighbours.prefetch();
    }

    /// The same, one step further; waits for the step before.
    #[inline]
    pub(crate) fn touch(&self) -> usize {
        self.neighbours.touch()
    }

    /// Strips the link header of a received frame. ARP is handled here. Unicast to another MAC
    /// address is dropped.
    pub(crate) fn input(
        &mut self,
        ctx: &mut Ctx<'_>,
        alias: &Alias,
        mut frame: Frame,
    ) -> LinkInput {
        let dropped = |reason| LinkInput::Done(Fate::Dropped(reason));
        if !alias.config.up {
            return dropped(DropReason::AliasDown);
        }
        let AliasMedium::Ethernet { mac } = alias.config.medium else {
            frame.mark_network_header();
            return match frame.data().first().map(|b| b >> 4) {
                Some(4) => LinkInput::Ip4(frame),
                Some(6) => LinkInput::Ip6(frame),
                Some(_) => dropped(DropReason::IpVersionWrong),
                None => dropped(DropReason::IpTruncated),
            };
        };
        let Some(header) = ethernet::parse(frame.data()) else {
            return dropped(DropReason::EthernetTruncated);
        };
        let to_many = ethernet::is_group(header.dst);
        if header.dst != mac && !to_many {
            return dropped(DropReason::NotForThisHost);
        }
        frame.pull_front(ethernet::HEADER_BYTES);
        frame.mark_network_header();
        if to_many && is_one_host(alias, &frame, header.ethertype) {
            return dropped(DropReason::NotForThisHost);
        }
        match header.ethertype {
            EtherType::Ip4 => LinkInput::Ip4(frame),
            EtherType::Ip6 => LinkInput::Ip6(frame),
            EtherType::Arp => LinkInput::Done(self.arp_input(ctx, alias, &frame, !to_many)),
            EtherType::Other => dropped(DropReason::EthertypeUnknown),
        }
    }

    /// Sends an IP packet to `next_hop` (the limited broadcast for every broadcast) out of `alias`:
    /// maps multicast and broadcast, looks the neighbour up, or queues the packet while it is resolved (which is `Ok`). The frame ends in
    /// `ctx.outbox.frames`. `Err`: lost; the caller counts it.
    pub(crate) fn output(
        &mut self,
        ctx: &mut Ctx<'_>,
        alias: &Alias,
        next_hop: IpAddr,
        mut frame: Frame,
    ) -> Result<(), DropReason> {
        if !alias.config.up {
            return Err(DropReason::AliasDown);
        }
        if ctx.out_room() == 0 {
            return Err(DropReason::OutQueueFull);
        }
        frame.mark_network_header();
        if alias.mac().is_none() {
            ctx.outbox.frames.push_back((alias.config.id, frame));
            return Ok(());
        }
        if let Some(mac) = ethernet::group_mac(next_hop) {
            transmit_ip(ctx, alias, mac, frame);
            return Ok(());
        }
        let (id, times) = (alias.config.id, alias.ndp.times);
        let verdict = self.neighbours.output(ctx, id, next_hop, frame, times)?;
        if let Verdict::Send(mac, frame) = verdict {
            transmit_ip(ctx, alias, mac, frame);
        }
        // To a neighbour in regular use there is nothing to do.
        if self.neighbours.is_changed() {
            self.carry_on(ctx, alias);
        }
        Ok(())
    }

    /// The link header of IP packets to `next_hop`, `None` inside if the link has none, and until when
    /// it holds while [`Link::version`] stays the same. `None`: each packet has to take
    /// [`Link::output`].
    pub(crate) fn header_for(
        &mut self,
        ctx: &Ctx<'_>,
        alias: &Alias,
        next_hop: IpAddr,
        is_v4: bool,
    ) -> Option<(Option<[u8; ethernet::HEADER_BYTES]>, Instant)> {
        let forever = Instant::from_nanos(u64::MAX);
        if !alias.config.up {
            return None;
        }
        let Some(src) = alias.mac() else { return Some((None, forever)) };
        if ethernet::group_mac(next_hop).is_some() {
            return None;
        }
        let (dst, until) = self.neighbours.ready_mac(ctx, alias.config.id, next_hop)?;
        let ethertype = if is_v4 { EtherType::Ip4 } else { EtherType::Ip6 };
        Some((Some(ethernet::header(dst, src, ethertype)), until.unwrap_or(forever)))
    }

    /// Grows with every change of a neighbour.
    #[inline]
    pub(crate) fn version(&self) -> u64 {
        self.neighbours.version()
    }

    /// Carries out what the table left after a call that concerned one alias.
    fn carry_on(&mut self, ctx: &mut Ctx<'_>, alias: &Alias) {
        while let Some((mac, frame)) = self.neighbours.ready.pop_front() {
            transmit_ip(ctx, alias, mac, frame);
        }
        self.ask(ctx, |_| Some(alias));
        self.arm(ctx);
    }

    fn ask<'a>(&mut self, ctx: &mut Ctx<'_>, alias: impl Fn(AliasId) -> Option<&'a Alias>) {
        while let Some(ask) = self.neighbours.asks.pop_front() {
            let Some(alias) = alias(ask.alias) else { continue };
            match ask.addr {
                IpAddr::V4(target) => arp::ask(ctx, alias, target, ask.mac, ask.src),
                IpAddr::V6(target) => self.solicits.push_back(Solicit {
                    alias: ask.alias,
                    target,
                    unicast: ask.mac.is_some(),
                    src: ask.src,
                }),
            }
        }
    }

    fn arm(&mut self, ctx: &mut Ctx<'_>) {
        let announcement = self.announcements.front().map(|a| a.at);
        let other = [announcement, self.probe_deadline()].into_iter().flatten().min();
        self.neighbours.arm(ctx, other);
    }

    /// A neighbour named itself and its MAC unasked (source of a request, a solicitation, a router
    /// advertisement): RFC 4861 7.2.3. Without `create` only an entry that exists is updated.
    pub(crate) fn heard(
        &mut self,
        ctx: &mut Ctx<'_>,
        alias: &Alias,
        addr: IpAddr,
        mac: [u8; 6],
        create: bool,
    ) {
        if ethernet::is_host(mac) && alias.mac().is_some() {
            self.neighbours.heard(ctx, alias.config.id, addr, mac, (create, false));
            self.carry_on(ctx, alias);
        }
    }

    /// Somebody tells everybody that the address is his; of interest if it is a neighbour's.
    fn announced(&mut self, ctx: &mut Ctx<'_>, alias: &Alias, addr: IpAddr, mac: [u8; 6]) {
        if ethernet::is_host(mac) {
            self.neighbours.heard(ctx, alias.config.id, addr, mac, (false, true));
            self.carry_on(ctx, alias);
        }
    }

    /// An ARP reply or neighbour advertisement (RFC 4861 7.2.5). Returns whether a router stopped
    /// being one. A MAC address that no host can have is not believed.
    pub(crate) fn answered(
        &mut self,
        ctx: &mut Ctx<'_>,
        alias: &Alias,
        addr: IpAddr,
        answer: Answer,
    ) -> bool {
        let (id, times) = (alias.config.id, alias.ndp.times);
        if answer.mac.is_some_and(|mac| !ethernet::is_host(mac)) {
            return false;
        }
        let router_gone = self.neighbours.answered(ctx, id, addr, answer, times);
        self.carry_on(ctx, alias);
        router_gone
    }

    /// A transport made progress through `next_hop` (RFC 4861 7.3.1).
    pub(crate) fn confirm(&mut self, ctx: &mut Ctx<'_>, alias: &Alias, next_hop: IpAddr) {
        let (id, times) = (alias.config.id, alias.ndp.times);
        self.neighbours.confirm(ctx, id, next_hop, times);
        if self.neighbours.is_changed() {
            self.arm(ctx);
        }
    }

    /// Marks a known neighbour as a router.
    pub(crate) fn set_router(&mut self, ctx: &Ctx<'_>, alias: AliasId, addr: IpAddr) {
        self.neighbours.set_router(ctx, alias, addr);
    }

    /// Pins a neighbour; `Err`: the table is full of pinned entries.
    pub(crate) fn pin(
        &mut self,
        ctx: &mut Ctx<'_>,
        alias: &Alias,
        addr: IpAddr,
        mac: [u8; 6],
    ) -> Result<(), DropReason> {
        let pinned = self.neighbours.pin(ctx, alias.config.id, addr, mac);
        self.carry_on(ctx, alias);
        if pinned { Ok(()) } else { Err(DropReason::NeighbourTableFull) }
    }

    /// Shares what others know, as number `me`; `None`: knows its neighbours alone.
    pub(crate) fn share(
        &mut self,
        ctx: &mut Ctx<'_>,
        shared: Option<(Arc<SharedNeighbours>, u32)>,
    ) {
        self.neighbours.set_shared(ctx, shared);
        self.arm(ctx);
    }

    /// Another stack got the answer that this one may wait for.
    pub(crate) fn told(&mut self, ctx: &mut Ctx<'_>, alias: &Alias, addr: IpAddr) {
        self.neighbours.told(ctx, alias.config.id, addr);
        self.carry_on(ctx, alias);
    }

    /// Announces an IPv4 address that was just configured (RFC 5227 2.3).
    pub(crate) fn announce(&mut self, ctx: &mut Ctx<'_>, alias: &Alias, addr: IpAddr) {
        if let IpAddr::V4(addr) = addr
            && ctx.shard.is_home()
            && alias.mac().is_some()
            && alias.config.up
        {
            self.arp_announce(ctx, alias, addr);
            self.arm(ctx);
        }
    }

    /// Forgets the neighbours of an alias that went down (what was pinned stays) or away, and what
    /// waits for them.
    pub(crate) fn alias_down(&mut self, ctx: &mut Ctx<'_>, alias: AliasId, removed: bool) {
        self.announcements.retain(|a| a.alias != alias);
        self.probes.retain(|p| p.alias != alias);
        self.probed.retain(|p| p.alias != alias);
        self.neighbours.forget_alias(ctx, alias, removed);
        self.solicits.retain(|s| s.alias != alias);
        self.gone.retain(|g| g.0 != alias);
        self.arm(ctx);
    }

    /// `Timer::Neighbour` fired.
    pub(crate) fn timeout(&mut self, ctx: &mut Ctx<'_>, aliases: &Aliases) {
        self.neighbours.timer_fired();
        let times = |id| aliases.get(&id).map_or_else(NeighbourTimes::default, |a| a.ndp.times);
        self.neighbours.expire(ctx, times);
        self.ask(ctx, |id| aliases.get(&id));
        self.failed.append(&mut self.neighbours.lost);
        self.gone.append(&mut self.neighbours.gone);
        while let Some(due) = self.announcements.front().copied() {
            if due.at > ctx.now {
                break;
            }
            self.announcements.pop_front();
            if let Some(alias) = aliases.get(&due.alias) {
                arp::announce_once(ctx, alias, due.addr);
            }
        }
        self.probe_timeout(ctx, aliases);
        self.arm(ctx);
    }

    /// Every neighbour, for dumps.
    pub(crate) fn neighbours(&self, now: Instant) -> impl Iterator<Item = NeighbourInfo> + '_ {
        self.neighbours.iter(now)
    }

    /// Whether something was left for others to do.
    #[inline]
    pub(crate) fn has_work(&self) -> bool {
        !(self.solicits.is_empty()
            && self.gone.is_empty()
            && self.failed.is_empty()
            && self.probed.is_empty())
    }

    /// Frames that wait for neighbours.
    pub(crate) fn queued(&self) -> usize {
        self.neighbours.queued()
    }

    /// Neighbour entries.
    pub(crate) fn len(&self) -> usize {
        self.neighbours.len()
    }
}
