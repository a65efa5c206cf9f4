//! What a transport may ask of the layers below it, and what it gets from them: the line between
//! `transport` and `path`/`ip`.

use core::net::IpAddr;

use crate::ctx::Ctx;
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::ip::Ip;
use crate::ip::address::AliasId;
use crate::link::Link;
use crate::path::PathLayer;

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

/// An ICMP error about a packet we sent, already matched to addresses (ULIDs) and protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IcmpError<'a> {
    pub(crate) kind: IcmpErrorKind,
    /// Source of the quoted packet: ours.
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) protocol: u8,
    /// The quoted transport header, at least 8 bytes.
    pub(crate) transport: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IcmpErrorKind {
    NetUnreachable,
    HostUnreachable,
    ProtocolUnreachable,
    PortUnreachable,
    AdminProhibited,
    /// Packet too big / fragmentation needed. IP has not lowered the PMTU yet: the transport that
    /// recognises the quoted packet as its own (RFC 5927) calls [`Lower::lower_pmtu`].
    TooBig {
        mtu: usize,
    },
    TimeExceeded,
    ParameterProblem,
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
        alias: Option<AliasId>,
    ) -> Result<RouteInfo, DropReason> {
        let _ = (src, dst, alias, &self.ip, &self.path);
        todo!()
    }

    /// Sends a packet; `frame` starts with the transport header (its checksum complete, or marked
    /// `Partial` with the pseudo-header sum if [`RouteInfo::tx_checksum`]). Adds path, IP and link
    /// headers, fragments if allowed, queues behind neighbour resolution. A loss is counted here.
    pub(crate) fn send(&mut self, packet: OutPacket, frame: Frame) -> Result<(), DropReason> {
        let _ = (packet, frame, &self.link, &self.ctx.now);
        todo!()
    }

    /// Whether `addr` is one of this stack's usable unicast addresses.
    pub(crate) fn is_local(&self, addr: IpAddr) -> bool {
        let _ = addr;
        todo!()
    }

    /// Lowers the path MTU to `dst`, after the transport verified the quote.
    pub(crate) fn lower_pmtu(&mut self, dst: IpAddr, mtu: usize) {
        let _ = (dst, mtu);
        todo!()
    }

    /// The transport made progress with `dst`: the neighbour is reachable (RFC 4861 7.3.1).
    pub(crate) fn confirm_reachable(&mut self, dst: IpAddr) {
        let _ = dst;
        todo!()
    }

    /// Answers a received packet with ICMP port unreachable, unless RFC 1122/4443 forbid it.
    pub(crate) fn port_unreachable(&mut self, packet: &InPacket, frame: &Frame) {
        let _ = (packet, frame);
        todo!()
    }
}
