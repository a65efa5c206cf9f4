//! Frame to packet: Ethernet, and neighbours (ARP, NDP).

use core::net::IpAddr;
use std::collections::VecDeque;

use crate::ctx::{Ctx, Fate};
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::ip::address::{Alias, AliasId};

/// What a link frame was.
pub(crate) enum LinkInput {
    /// An IPv4 packet, link header pulled (padding may follow the packet).
    Ip4(Frame),
    /// An IPv6 packet, link header pulled (padding may follow the packet).
    Ip6(Frame),
    /// ARP, or lost.
    Done(Fate),
}

/// The link layer of one stack: neighbours of all its aliases.
#[derive(Debug, Default)]
pub(crate) struct Link {
    /// Packets (IP header at the front) that were given up because the neighbour did not answer.
    /// `Stack` drains it, counts each as `NeighbourUnreachable`, and reports host unreachable.
    pub(crate) failed: VecDeque<(AliasId, Frame)>,
}

impl Link {
    /// Strips the link header of a received frame. ARP is handled here. Unicast to another MAC
    /// address is dropped.
    pub(crate) fn input(&mut self, ctx: &mut Ctx<'_>, alias: &Alias, frame: Frame) -> LinkInput {
        let _ = (ctx, alias, frame);
        todo!()
    }

    /// Sends an IP packet to `next_hop` out of `alias`: maps multicast and broadcast, looks the
    /// neighbour up, or queues the packet while it is resolved (which is `Ok`). The frame ends in
    /// `ctx.outbox.frames`. `Err`: lost; the caller counts it.
    pub(crate) fn output(
        &mut self,
        ctx: &mut Ctx<'_>,
        alias: &Alias,
        next_hop: IpAddr,
        frame: Frame,
    ) -> Result<(), DropReason> {
        let _ = (ctx, alias, next_hop, frame);
        todo!()
    }

    /// A transport made progress through `next_hop` (RFC 4861 7.3.1).
    pub(crate) fn confirm(&mut self, ctx: &mut Ctx<'_>, alias: AliasId, next_hop: IpAddr) {
        let _ = (ctx, alias, next_hop);
    }

    /// Pins a neighbour; `Err`: the table is full of pinned entries.
    pub(crate) fn pin(
        &mut self,
        ctx: &mut Ctx<'_>,
        alias: &Alias,
        addr: IpAddr,
        mac: [u8; 6],
    ) -> Result<(), DropReason> {
        let _ = (ctx, alias, addr, mac);
        todo!()
    }

    /// Announces an IPv4 address that was just configured (RFC 5227 2.3).
    pub(crate) fn announce(&mut self, ctx: &mut Ctx<'_>, alias: &Alias, addr: IpAddr) {
        let _ = (ctx, alias, addr);
    }

    /// Forgets the neighbours of an alias that went down or away, and what waits for them.
    pub(crate) fn alias_down(&mut self, ctx: &mut Ctx<'_>, alias: AliasId) {
        let _ = (ctx, alias);
    }

    /// `Timer::Neighbour` fired.
    pub(crate) fn timeout(&mut self, ctx: &mut Ctx<'_>, aliases: &crate::ip::Aliases) {
        let _ = (ctx, aliases);
    }

    /// Frames that wait for neighbours.
    pub(crate) fn queued(&self) -> usize {
        0
    }

    /// Neighbour entries.
    pub(crate) fn len(&self) -> usize {
        0
    }
}
