//! What a transport may ask of the layers below it, and what it gets from them: the line between
//! `transport` and `path`/`ip`.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::admission::{First, Verdict};
use crate::ctx::Ctx;
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::ip::Ip;
use crate::ip::address::{AddressState, Alias, AliasId};
use crate::ip::icmp::{self, Problem};
use crate::ip::output;
use crate::ip::ready;
use crate::ip::rule::Via;
use crate::link::Link;
pub(crate) use crate::path::IcmpErrorKind;
use crate::path::{Passing, PathFlow, PathLayer};
use crate::wire::header::IpHeader;

mod mapped;
mod mapped_ways;

pub(crate) use mapped::MappedWay;
pub(crate) use mapped_ways::{Mapped, MappedWays};

const UNSPECIFIED4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const UNSPECIFIED6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
/// Largest super-segment payload between sockets of one stack.
const LOOPED_SUPER_BYTES: usize = 65_000;

/// A packet on its way up. Addresses are ULIDs; the frame that goes with it starts with the
/// transport header and ends with the IP payload (padding removed), `Frame::network_header` still
/// gives the IP header for ICMP quotes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InPacket {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) protocol: u8,
    /// DSCP and ECN, as in the header.
    pub(crate) traffic_class: u8,
    pub(crate) hop_limit: u8,
    pub(crate) alias: AliasId,
    /// The destination is multicast or broadcast: no RST, no ICMP error.
    pub(crate) to_many: bool,
    /// Where it came from below the path layer, if that does not vouch for `src`
    /// ([`crate::path::Pass::Unshown`]).
    pub(crate) below: Option<IpAddr>,
}

impl InPacket {
    /// The address that access rules judge it by, once `allows` said which they let in: the one they
    /// refuse, if there are two.
    #[inline]
    fn judged_by(&self, allows: impl FnOnce(IpAddr) -> bool) -> IpAddr {
        self.below.filter(|below| !allows(*below)).unwrap_or(self.src)
    }
}

/// A packet on its way down. Addresses are ULIDs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutPacket {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) traffic_class: u8,
    /// `None`: the default, 64.
    pub(crate) hop_limit: Option<u8>,
    /// IPv4 DF, IPv6 no fragmentation by us: too big packets are dropped, `IpTooBig`.
    pub(crate) dont_fragment: bool,
    /// Leave by this alias only (multicast, link-local).
    pub(crate) alias: Option<AliasId>,
    /// What policy routing rules look at.
    pub(crate) mark: u32,
}

/// The way to a destination as of now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RouteInfo {
    pub(crate) alias: AliasId,
    /// Source address: as asked for, or by RFC 6724.
    pub(crate) src: IpAddr,
    /// Largest IP packet to the destination: PMTU, less the path layer's overhead.
    pub(crate) mtu: usize,
    /// Largest super-segment payload the device takes; 0: none.
    pub(crate) gso_bytes_max: usize,
    /// The device completes partial checksums.
    pub(crate) tx_checksum: bool,
}

/// What a connection keeps of the path layer's answer about its addresses. A memory of what was asked
/// before, no part of its state: it shows nothing.
#[derive(Clone, Copy, Default)]
pub(crate) struct Known {
    /// [`Ip::path_turn`] when it was asked.
    turn: u32,
    /// Of its packets where ports are out of sight; 0: not known yet.
    pub(crate) flow_hash: u32,
    pub(crate) passing: Passing,
}

impl core::fmt::Debug for Known {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("_")
    }
}

/// An ICMP error about a packet we sent, already matched to addresses (ULIDs) and protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IcmpError<'a> {
    pub(crate) kind: IcmpErrorKind,
    /// Source of the quoted packet: ours.
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    /// Who told; `None`: known here.
    pub(crate) origin: Option<IpAddr>,
    /// The quoted transport header, at least 8 bytes.
    pub(crate) transport: &'a [u8],
}

/// The access rules let a packet no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// In silence.
    Drop,
    /// As if nobody listened, if the protocol can say so.
    Reject,
    /// Administratively prohibited.
    Prohibit,
}

impl Refusal {
    pub(crate) fn reason(self) -> DropReason {
        match self {
            Refusal::Drop => DropReason::AccessDenied,
            Refusal::Reject | Refusal::Prohibit => DropReason::AccessRejected,
        }
    }
}

/// What the access rules say of the first packet of a flow, if they do not allow it.
#[inline]
pub(crate) fn refuses(
    ctx: &Ctx<'_>,
    ip: &Ip,
    packet: &InPacket,
    port: u16,
    packets: u64,
) -> Option<Refusal> {
    let rules = ctx.admission.rules(packet.protocol, port)?;
    // What the vserver sends to itself is nobody else's business.
    if ip.is_local(packet.src) {
        return None;
    }
    let of = |src| First { alias: packet.alias, protocol: packet.protocol, src, port };
    let first = of(packet.judged_by(|below| rules.allows(&of(below))));
    match rules.judge(ctx.now, &first, packets) {
        Verdict::Allow => None,
        Verdict::Drop => Some(Refusal::Drop),
        Verdict::Reject => Some(Refusal::Reject),
        Verdict::Prohibit => Some(Refusal::Prohibit),
    }
}

/// Everything below the transports, borrowed for one call.
pub(crate) struct Lower<'a, P> {
    pub(crate) ctx: Ctx<'a>,
    pub(crate) link: &'a mut Link,
    pub(crate) ip: &'a mut Ip,
    pub(crate) path: &'a mut P,
}

impl<P: PathLayer> Lower<'_, P> {
    /// Route, source address and sizes for a packet to `dst`, from `src` if given.
    pub(crate) fn route(
        &mut self,
        src: Option<IpAddr>,
        dst: IpAddr,
        via: impl Into<Via>,
    ) -> Result<RouteInfo, DropReason> {
        self.route_of(src, dst, via, None)
    }

    /// The same for packets of a flow, which the path layer may send another way than others.
    pub(crate) fn route_of(
        &mut self,
        src: Option<IpAddr>,
        dst: IpAddr,
        via: impl Into<Via>,
        flow: Option<PathFlow>,
    ) -> Result<RouteInfo, DropReason> {
        let via = via.into();
        if !self.path.is_transparent() && !self.is_direct(dst) {
            return self.route_mapped(src, dst, via, flow);
        }
        let way = self.ip.resolve(self.ctx.now, src, dst, via)?;
        let device = self.ip.aliases.get(&way.alias).filter(|_| !way.local);
        Ok(RouteInfo {
            alias: way.alias,
            src: way.src,
            mtu: way.mtu,
            // A packet to ourselves meets no device: as large as it may be, never summed.
            gso_bytes_max: device.map_or(LOOPED_SUPER_BYTES, |a| {
                a.config.gso_bytes_max.min(self.ip.super_bytes_max)
            }),
            tx_checksum: device.is_none_or(|a| a.config.tx_checksum),
        })
    }

    /// The place of a way that is ready in `ip.ready`, for packets from `src` to `dst`; `None`: they
    /// take [`Lower::send`].
    #[inline]
    pub(crate) fn ready(&mut self, src: IpAddr, dst: IpAddr, via: Via) -> Option<usize> {
        self.ready_of((src, dst), via, &mut Known::default())
    }

    /// The same for segments of a connection, which has `known`.
    #[inline]
    pub(crate) fn ready_of(
        &mut self,
        (src, dst): (IpAddr, IpAddr),
        via: Via,
        known: &mut Known,
    ) -> Option<usize> {
        if !self.path.is_transparent() && !self.passes(src, dst, known) {
            return None;
        }
        ready::find(&self.ctx, self.link, self.ip, (src, dst), via)
    }

    /// By what is known still, a received packet passes the path layer unchanged, which noted it.
    #[inline(always)]
    pub(crate) fn noted_in(&mut self, known: &Known) -> bool {
        known.turn == self.ip.path_turn && self.path.noted_in(self.ctx.now, known.passing)
    }

    /// Whether packets between two ULIDs pass the path layer unchanged; `known` is of the same two.
    #[inline]
    pub(crate) fn passes(&mut self, src: IpAddr, dst: IpAddr, known: &mut Known) -> bool {
        let turn = self.ip.path_turn;
        if known.turn != turn {
            *known = Known { turn, ..Known::default() };
        }
        self.path.passing(src, dst, &mut known.passing)
    }

    /// Sends a packet; `frame` starts with the transport header (its checksum complete, or marked
    /// `Partial` with the pseudo-header sum if [`RouteInfo::tx_checksum`]). Adds path, IP and link
    /// headers, fragments if allowed, queues behind neighbour resolution. A loss is counted here.
    pub(crate) fn send(&mut self, packet: OutPacket, frame: Frame) -> Result<(), DropReason> {
        if !self.path.is_transparent() && !self.is_direct(packet.dst) {
            return self.send_mapped(packet, frame);
        }
        output::send(&mut self.ctx, self.link, self.ip, &packet, frame)
    }

    /// A copy of a packet to a group or broadcast for this stack's own sockets, if they want it.
    pub(crate) fn loop_copy(&mut self, packet: &OutPacket, alias: AliasId, frame: &Frame) {
        let groups = self.ip.aliases.get(&alias).map(|a| &a.groups);
        let wanted = !packet.dst.is_multicast() || groups.is_some_and(|g| g.contains(packet.dst));
        if !wanted || self.ctx.outbox.looped.len() >= self.ctx.limits.out_queue {
            return;
        }
        let mut header =
            IpHeader::new(packet.src, packet.dst, packet.protocol, packet.hop_limit.unwrap_or(1));
        header.traffic_class = packet.traffic_class;
        let mut copy = frame.to_heap();
        header.push(&mut copy);
        self.ctx.outbox.looped.push_back((alias, copy));
    }

    /// Whether `addr` is the limited broadcast or that of a network of any alias.
    pub(crate) fn is_broadcast(&self, addr: IpAddr) -> bool {
        self.ip.is_broadcast(addr)
    }

    /// Whether `addr` is one of this stack's usable unicast addresses, or a ULID that it still has.
    pub(crate) fn is_local(&self, addr: IpAddr) -> bool {
        self.ip.is_local(addr) || (!self.path.is_transparent() && self.path.owns(addr))
    }

    /// Whether a socket may bind to `addr`: usable, or in duplicate address detection, so that
    /// services need not wait for it.
    pub(crate) fn may_bind(&self, addr: IpAddr) -> bool {
        let waits = |a: &Alias| a.address(addr).is_some_and(|a| a.state == AddressState::Tentative);
        self.is_local(addr) || self.ip.aliases.values().any(waits)
    }

    /// Answers a received packet with ICMP port unreachable, unless RFC 1122/4443 forbid it.
    pub(crate) fn port_unreachable(&mut self, packet: &InPacket, frame: &Frame) {
        if !packet.to_many {
            self.report(packet.alias, Problem::PortUnreachable, frame);
        }
    }

    /// What the access rules say of the first packet of a flow, if they do not allow it.
    #[inline]
    pub(crate) fn refuses(&self, packet: &InPacket, port: u16, packets: u64) -> Option<Refusal> {
        refuses(&self.ctx, self.ip, packet, port, packets)
    }

    /// Whether raw sockets may see a packet that was lost before it was judged, or without it.
    pub(crate) fn may_be_seen(&self, packet: &InPacket, port: u16) -> bool {
        let Some(rules) = self.ctx.admission.rules(packet.protocol, port) else { return true };
        let of = |src| First { alias: packet.alias, protocol: packet.protocol, src, port };
        let src = packet.judged_by(|below| rules.allows(&of(below)));
        self.ip.is_local(packet.src) || rules.allows(&of(src))
    }

    /// Answers a packet that rules refuse, unless RFC 1122/4443 forbid it.
    pub(crate) fn prohibited(&mut self, packet: &InPacket, frame: &Frame) {
        if !packet.to_many {
            self.report(packet.alias, Problem::AdminProhibited, frame);
        }
    }

    /// Reports a problem with a received packet to its sender, where that is allowed.
    pub(crate) fn report(&mut self, alias: AliasId, problem: Problem, frame: &Frame) {
        let packet = frame.network_header();
        icmp::send_error(&mut self.ctx, self.link, self.ip, alias, problem, packet);
    }
}
