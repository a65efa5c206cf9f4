//! The way down through a path layer that maps packets, and what is known per pair of locators.

use core::net::IpAddr;

use super::mapped_ways::Mapped;
use super::{Known, Lower, OutPacket, RouteInfo, UNSPECIFIED4, UNSPECIFIED6};
use crate::ctx::Ctx;
use crate::drop::DropReason;
use crate::frame::{Frame, Gso};
use crate::ip::Ip;
use crate::ip::output;
use crate::ip::pmtu::Ends;
use crate::ip::ready::{self, Ready};
use crate::ip::rule::Via;
use crate::link::Link;
use crate::path::{Passing, PathAddrs, PathFlow, PathLayer, PathWay, Rewriting};
use crate::wire::{checksum, frame_sum, protocol};

/// What the path layer leaves of a way between locators.
fn narrowed(route: RouteInfo, way: &PathWay) -> RouteInfo {
    let overhead = way.overhead_bytes;
    let gso = if overhead > 0 && !way.super_segments { 0 } else { route.gso_bytes_max };
    RouteInfo {
        mtu: route.mtu.saturating_sub(overhead),
        gso_bytes_max: gso.saturating_sub(overhead),
        ..route
    }
}

/// A short way for segments that the path layer rewrites: places of what is known of it.
#[derive(Clone, Copy)]
pub(crate) struct MappedWay {
    /// In `ip.ready`, between their locators.
    pub(crate) ready: usize,
    /// In `ip.mapped_ways`.
    pub(crate) mapped: usize,
}

impl MappedWay {
    /// What is known of it.
    #[inline]
    pub(crate) fn at<'a>(&self, ip: &'a Ip) -> Option<(&'a Mapped, &'a Ready)> {
        Some((ip.mapped_ways.at(self.mapped)?, ip.ready.at(self.ready)?))
    }

    /// The way between the ULIDs; its source is the locator.
    #[inline]
    pub(crate) fn route(&self, ip: &Ip) -> Option<RouteInfo> {
        let (mapped, ready) = self.at(ip)?;
        Some(narrowed(ready.route, &mapped.rewriting.way))
    }
}

/// By what is kept in a place of `ip.mapped_ways`.
#[inline(never)]
fn find_kept(
    ctx: &Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    mapped: usize,
    via: Via,
) -> Option<MappedWay> {
    let Rewriting { way, protocol, .. } = &ip.mapped_ways.at(mapped)?.rewriting;
    let (locators, number) = (way.locators, *protocol);
    let services = ip.services_of(|| (number, 0, 0));
    let via = Via { mark: via.mark, class: via.class, services, ..Via::default() };
    let ready = ready::find_here(ctx, link, ip, locators, via)?;
    Some(MappedWay { ready, mapped })
}

impl<P: PathLayer> Lower<'_, P> {
    /// The short way of segments between two ULIDs that do not [pass](Lower::passes).
    #[inline]
    pub(crate) fn mapped_way(
        &mut self,
        ends: (IpAddr, IpAddr),
        via: Via,
        known: &Known,
    ) -> Option<MappedWay> {
        if self.path.is_transparent() {
            return None;
        }
        let name = known.passing;
        let versions = (known.turn, self.ip.address_version());
        let kept = self.ip.mapped_ways.find(name, versions);
        let mapped = match kept.filter(|_| self.path.rewriting_holds(name)) {
            Some(place) => place,
            None => self.ask_mapped(ends, name, versions)?,
        };
        debug_assert_eq!(
            self.path.rewriting(name, protocol::TCP),
            self.ip.mapped_ways.at(mapped).map(|mapped| mapped.rewriting),
            "it holds",
        );
        find_kept(&self.ctx, self.link, self.ip, mapped, via)
    }

    #[inline(never)]
    fn ask_mapped(
        &mut self,
        (src, dst): (IpAddr, IpAddr),
        name: Passing,
        versions: (u32, u32),
    ) -> Option<usize> {
        let rewriting = self.path.rewriting(name, protocol::TCP)?;
        if self.is_direct(dst) {
            return None;
        }
        let pseudo = checksum::pseudo(src, dst, 0, 0);
        let mapped = Mapped { name, versions, rewriting, pseudo };
        let path = &self.path;
        Some(self.ip.mapped_ways.put(mapped, |name| path.rewriting_holds(name)))
    }

    /// Whether packets to `dst` are none of the path layer's business: to groups, to everybody, to
    /// ourselves, to a neighbour on its link only. The last answer is kept.
    pub(super) fn is_direct(&mut self, dst: IpAddr) -> bool {
        let version = self.ip.address_version();
        if let Some((asked_at, asked, answer)) = self.ip.last_direct
            && asked_at == version
            && asked == dst
        {
            return answer;
        }
        let answer = self.is_direct_now(dst);
        self.ip.last_direct = Some((version, dst, answer));
        answer
    }

    fn is_direct_now(&self, dst: IpAddr) -> bool {
        let link_local = match dst {
            IpAddr::V4(a) => a.is_link_local(),
            IpAddr::V6(a) => a.is_unicast_link_local(),
        };
        dst.is_multicast() || link_local || self.ip.is_local(dst) || self.ip.is_broadcast(dst)
    }

    /// [`Lower::route`] by the locators of two ULIDs.
    #[inline(never)]
    pub(super) fn route_mapped(
        &mut self,
        src: Option<IpAddr>,
        dst: IpAddr,
        mut via: Via,
        flow: Option<PathFlow>,
    ) -> Result<RouteInfo, DropReason> {
        let any = if dst.is_ipv4() { UNSPECIFIED4 } else { UNSPECIFIED6 };
        let known = self.path.way_of(src.unwrap_or(any), dst, flow);
        let (from, to) = known.locators;
        let from = src.map(|_| from);
        if (from, to) != (src, dst) {
            // What was asked of the way between ULIDs says nothing of that between locators.
            via = Via { mark: via.mark, class: via.class, ..Via::default() };
        }
        if let (Some(src), Some(from)) = (src, from)
            && let Some(slot) = ready::find(&self.ctx, self.link, self.ip, (from, to), via)
            && let Some(ready) = self.ip.ready.at(slot)
        {
            return Ok(narrowed(RouteInfo { src, ..ready.route }, &known));
        }
        let way = self.ip.resolve(self.ctx.now, from, to, via)?;
        let known = match src {
            Some(_) => known,
            None => self.path.way_of(way.src, dst, flow),
        };
        let entry = self.ip.aliases.get(&way.alias);
        let gso_bytes_max = entry.map_or(0, |a| a.config.gso_bytes_max);
        let info = RouteInfo {
            alias: way.alias,
            src: src.unwrap_or(way.src),
            mtu: way.mtu,
            gso_bytes_max: gso_bytes_max.min(self.ip.super_bytes_max),
            tx_checksum: entry.is_none_or(|a| a.config.tx_checksum),
        };
        Ok(narrowed(info, &known))
    }

    /// [`Lower::send`] through the path layer. Devices see headers that their checksum units do not
    /// know, with addresses that the checksum does not cover: it is complete before, but for what
    /// has to be cut, which only software does (`drivers` leave it to no kernel).
    #[inline(never)]
    pub(super) fn send_mapped(
        &mut self,
        packet: OutPacket,
        mut frame: Frame,
    ) -> Result<(), DropReason> {
        let (src, dst) = (packet.src, packet.dst);
        if frame.meta.flow_hash == 0 {
            // The ports are out of sight below.
            frame.meta.flow_hash = output::flow_hash(src, dst, packet.protocol, &frame);
        }
        if self.path.overhead_bytes(src, dst) > 0 && frame.meta.gso == Gso::None {
            frame_sum::complete(&mut frame);
            if !packet.dont_fragment
                && let Some(room) = self.room_of(&packet, &frame)
                && frame.total_len() > room
            {
                return self.send_pieces(packet, room, &frame);
            }
        }
        self.send_through(packet, frame)
    }

    /// Bytes behind the IP header that the way between the locators takes.
    fn room_of(&mut self, packet: &OutPacket, frame: &Frame) -> Option<usize> {
        let (protocol, own, peer) = output::flow_of(packet.protocol, frame);
        let flow = PathFlow { protocol, ports: (own, peer) };
        let via = Via { mark: packet.mark, class: packet.traffic_class, ..Via::default() };
        let info = self.route_mapped(Some(packet.src), packet.dst, via, Some(flow)).ok()?;
        Some(info.mtu.saturating_sub(output::header_len(packet.dst)))
    }

    fn send_pieces(
        &mut self,
        packet: OutPacket,
        room: usize,
        frame: &Frame,
    ) -> Result<(), DropReason> {
        let pieces = output::cut_above(&mut self.ctx, packet.protocol, room, frame);
        let pieces = pieces.inspect_err(|reason| self.ctx.drop_out(*reason))?;
        let stats = output::stats(self.ctx.mib, packet.dst.is_ipv4());
        stats.frag_oks += 1;
        stats.frag_creates += pieces.len() as u64;
        for piece in pieces {
            let packet = OutPacket { protocol: protocol::FRAGMENT, ..packet };
            self.send_through(packet, piece)?;
        }
        Ok(())
    }

    fn send_through(&mut self, mut packet: OutPacket, mut frame: Frame) -> Result<(), DropReason> {
        let mut addrs = PathAddrs { src: packet.src, dst: packet.dst, protocol: packet.protocol };
        if let Err(reason) = self.path.egress(self.ctx.now, &mut addrs, &mut frame) {
            self.ctx.drop_out(reason);
            return Err(reason);
        }
        if (addrs.src, addrs.dst) != (packet.src, packet.dst) {
            // A locator leaves by the alias that has it.
            packet.alias = None;
        }
        (packet.src, packet.dst, packet.protocol) = (addrs.src, addrs.dst, addrs.protocol);
        let Err(frame) = self.send_ready(&packet, frame) else { return Ok(()) };
        output::send(&mut self.ctx, self.link, self.ip, &packet, frame)
    }

    /// Sends a packet between locators by a way that is ready, which is what [`output::send`] does
    /// with it; `Err`: there is none, or the packet does not fit.
    fn send_ready(&mut self, packet: &OutPacket, mut frame: Frame) -> Result<(), Frame> {
        let services = self.ip.services_of(|| output::flow_of(packet.protocol, &frame));
        let via =
            Via { alias: packet.alias, mark: packet.mark, class: packet.traffic_class, services };
        let ends = (packet.src, packet.dst);
        let slot = ready::find(&self.ctx, self.link, self.ip, ends, via);
        let room = self.ctx.out_room() > 0;
        let ready = slot.filter(|_| room).and_then(|slot| self.ip.ready.at(slot));
        let is_super = frame.meta.gso != Gso::None;
        let Some(ready) = ready.filter(|r| r.takes(frame.total_len(), is_super)) else {
            return Err(frame);
        };
        if !ready.route.tx_checksum {
            frame_sum::complete(&mut frame);
        }
        // The flow hash is of the ports that are out of sight here.
        let stats = output::stats(self.ctx.mib, packet.dst.is_ipv4());
        let (class, hop_limit) = (packet.traffic_class, packet.hop_limit);
        ready.push_headers(stats, &mut frame, packet.protocol, class, hop_limit);
        self.ctx.outbox.frames.push_back((ready.route.alias, frame));
        Ok(())
    }

    /// Sends a packet of the path layer itself, by its source and destination.
    pub(crate) fn send_own(&mut self, addrs: PathAddrs, frame: Frame) {
        let packet = OutPacket {
            src: addrs.src,
            dst: addrs.dst,
            protocol: addrs.protocol,
            traffic_class: 0,
            hop_limit: None,
            dont_fragment: false,
            alias: None,
            mark: 0,
        };
        // A loss is counted there, and made good for by the layer's own timers.
        let _ = output::send(&mut self.ctx, self.link, self.ip, &packet, frame);
    }

    /// Whose path MTU is that between two ULIDs, for a flow, and what the layer adds to packets.
    #[inline]
    fn ends(&self, (src, dst): (IpAddr, IpAddr), flow: Option<PathFlow>) -> (Ends, usize) {
        if self.path.is_transparent() {
            return ((None, dst), 0);
        }
        let way = self.path.way_of(src, dst, flow);
        let (from, to) = way.locators;
        ((Some(from), to), way.overhead_bytes)
    }

    /// Lowers the path MTU between two ULIDs, after the transport verified the quote.
    pub(crate) fn lower_pmtu(
        &mut self,
        ulids: (IpAddr, IpAddr),
        flow: Option<PathFlow>,
        mtu: usize,
    ) {
        let (ends, overhead) = self.ends(ulids, flow);
        self.ip.lower_pmtu(&mut self.ctx, ends, mtu.saturating_add(overhead));
    }

    /// A connection found that packets of this size pass between two ULIDs, and no larger ones;
    /// `None`: as large as the link takes.
    pub(crate) fn learn_pmtu(
        &mut self,
        ulids: (IpAddr, IpAddr),
        flow: Option<PathFlow>,
        mtu: Option<usize>,
    ) {
        let (ends, overhead) = self.ends(ulids, flow);
        self.ip.learn_pmtu(&mut self.ctx, ends, mtu.map(|mtu| mtu + overhead));
    }

    /// What [`Lower::learn_pmtu`] was told in the last ten minutes.
    #[inline]
    pub(crate) fn learned_pmtu(
        &self,
        ulids: (IpAddr, IpAddr),
        flow: Option<PathFlow>,
    ) -> Option<usize> {
        if !self.ip.has_learned_pmtu() {
            return None;
        }
        let (ends, overhead) = self.ends(ulids, flow);
        self.ip.learned_pmtu(self.ctx.now, ends)?.checked_sub(overhead)
    }

    /// The transport made progress between two ULIDs: the neighbour is reachable (RFC 4861 7.3.1).
    pub(crate) fn confirm_reachable(&mut self, ulids: (IpAddr, IpAddr), flow: Option<PathFlow>) {
        let ((from, to), _) = self.ends(ulids, flow);
        let Ok(way) = self.ip.resolve(self.ctx.now, from, to, Via::default()) else { return };
        if let Some(alias) = self.ip.aliases.get(&way.alias).filter(|_| !way.local) {
            self.link.confirm(&mut self.ctx, alias, way.next_hop);
        }
    }
}
