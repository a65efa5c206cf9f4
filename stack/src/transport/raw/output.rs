//! What raw and echo sockets send.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{EchoUse, Raw, Socket, Use};
use crate::drop::DropReason;
use crate::frame::{Frame, HEADROOM_BYTES};
use crate::ip::address::AliasId;
use crate::lower::{Lower, OutPacket, RouteInfo};
use crate::path::PathLayer;
use crate::socket::SocketId;
use crate::socket::raw::{Family, RawSendError};
use crate::transport::udp::scope;
use crate::wire::{checksum, protocol};

/// The most a packet carries in either family.
const PAYLOAD_BYTES_MAX: usize = 65_515;
const IPV4_HEADER_LEN: usize = 20;
/// Echo requests whose time is kept.
const ASKED_MAX: usize = 64;

/// Where a packet goes and how.
struct Plan {
    info: RouteInfo,
    packet: OutPacket,
}

impl Socket {
    fn plan<P: PathLayer>(
        &self,
        lower: &mut Lower<'_, P>,
        number: u8,
        to: Option<SocketAddr>,
    ) -> Result<Plan, RawSendError> {
        let to = to.or(self.peer).ok_or(RawSendError::NoDestination)?;
        if to.is_ipv4() != self.family.is_v4() || to.ip().is_unspecified() {
            return Err(RawSendError::Unreachable);
        }
        let src = Some(self.local).filter(|ip| !ip.is_unspecified());
        let (info, alias) = route(lower, src, to.ip(), scope(to))?;
        let packet = OutPacket {
            src: info.src,
            dst: to.ip(),
            protocol: number,
            traffic_class: self.traffic_class,
            hop_limit: self.hop_limit,
            dont_fragment: false,
            alias,
            mark: 0,
        };
        Ok(Plan { info, packet })
    }
}

fn route<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    src: Option<IpAddr>,
    dst: IpAddr,
    alias: Option<AliasId>,
) -> Result<(RouteInfo, Option<AliasId>), RawSendError> {
    if lower.is_broadcast(dst) {
        return Err(RawSendError::Broadcast);
    }
    let info = lower.route(src, dst, alias).map_err(|_| RawSendError::Unreachable)?;
    Ok((info, alias.or(Some(info.alias).filter(|_| dst.is_multicast()))))
}

/// What an application's own IPv4 header says, and what follows it.
fn included<'a, P: PathLayer>(
    lower: &mut Lower<'_, P>,
    packet: &'a [u8],
) -> Result<(Plan, &'a [u8]), RawSendError> {
    let h: &[u8; IPV4_HEADER_LEN] = packet.first_chunk().ok_or(RawSendError::HeaderInvalid)?;
    // More fragments, or an offset: the stack makes fragments itself.
    if h[0] != 0x45 || u16::from_be_bytes([h[6], h[7]]) & 0x3fff != 0 {
        return Err(RawSendError::HeaderInvalid);
    }
    let src = Ipv4Addr::new(h[12], h[13], h[14], h[15]);
    let dst = Ipv4Addr::new(h[16], h[17], h[18], h[19]);
    if dst.is_unspecified() {
        return Err(RawSendError::NoDestination);
    }
    let src = Some(IpAddr::V4(src)).filter(|ip| !ip.is_unspecified());
    let (info, alias) = route(lower, src, dst.into(), None)?;
    let packet_out = OutPacket {
        src: info.src,
        dst: dst.into(),
        protocol: h[9],
        traffic_class: h[1],
        hop_limit: Some(h[8]),
        dont_fragment: false,
        alias,
        mark: 0,
    };
    Ok((Plan { info, packet: packet_out }, &packet[IPV4_HEADER_LEN..]))
}

impl Raw {
    /// Sends one packet.
    pub(crate) fn send<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        id: SocketId,
        payload: &[u8],
        to: Option<SocketAddr>,
    ) -> Result<(), RawSendError> {
        let socket = self.get_mut(id).ok_or(RawSendError::Closed)?;
        if let Some(error) = socket.pending.take() {
            return Err(error.into());
        }
        let Use::Raw(raw) = &socket.use_ else { return Err(RawSendError::Closed) };
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(RawSendError::TooLong);
        }
        let offset = raw.checksum_offset.map(usize::from);
        let (plan, payload) = if raw.header_included {
            included(lower, payload)?
        } else {
            (socket.plan(lower, raw.protocol, to)?, payload)
        };
        let mut frame = frame_of(lower, &[payload]);
        if let Some(at) = offset {
            fill_checksum(&plan, &mut frame, at)?;
        }
        self.hand_down(lower, id.index, &plan, frame)
    }

    /// Sends an echo request.
    pub(crate) fn send_echo<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        id: SocketId,
        sequence: u16,
        payload: &[u8],
        to: Option<SocketAddr>,
    ) -> Result<(), RawSendError> {
        let socket = self.get(id).ok_or(RawSendError::Closed)?;
        let Use::Echo(EchoUse { ident, .. }) = &socket.use_ else {
            return Err(RawSendError::Closed);
        };
        let (kind, number) = match socket.family {
            Family::V4 => (8, protocol::ICMP),
            Family::V6 => (128, protocol::ICMPV6),
        };
        let mut header = [kind, 0, 0, 0, 0, 0, 0, 0];
        header[4..6].copy_from_slice(&ident.to_be_bytes());
        header[6..8].copy_from_slice(&sequence.to_be_bytes());
        if payload.len() + header.len() > PAYLOAD_BYTES_MAX {
            return Err(RawSendError::TooLong);
        }
        let plan = socket.plan(lower, number, to)?;
        let mut frame = frame_of(lower, &[&header, payload]);
        fill_checksum(&plan, &mut frame, 2)?;
        self.hand_down(lower, id.index, &plan, frame)?;
        if let Use::Echo(echo) = &mut self.sockets[id.index as usize].use_ {
            if echo.asked.len() >= ASKED_MAX {
                echo.asked.pop_front();
            }
            echo.asked.push_back((sequence, lower.ctx.now));
        }
        Ok(())
    }

    fn hand_down<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        index: u32,
        plan: &Plan,
        frame: Frame,
    ) -> Result<(), RawSendError> {
        let frames = frame.total_len().div_ceil(plan.info.mtu.saturating_sub(48).max(1)).max(1);
        let sent = if lower.ctx.out_room() < frames {
            Err(DropReason::OutQueueFull)
        } else {
            lower.send(plan.packet, frame)
        };
        match sent {
            Ok(()) => {
                lower.ctx.mib.raw.out_packets += 1;
                Ok(())
            }
            Err(DropReason::OutQueueFull) => {
                self.waiting.block(&mut self.sockets, index);
                Err(RawSendError::WouldBlock)
            }
            Err(DropReason::IpTooBig) => Err(RawSendError::TooLong),
            // Lost for now, as on the way; counted.
            Err(DropReason::NeighbourQueueFull | DropReason::NeighbourTableFull) => Ok(()),
            Err(_) => Err(RawSendError::Unreachable),
        }
    }
}

fn frame_of<P: PathLayer>(lower: &mut Lower<'_, P>, parts: &[&[u8]]) -> Frame {
    let len = parts.iter().map(|p| p.len()).sum();
    // As with datagrams: what others hold of the pool is no reason to wait.
    let mut frame = match lower.ctx.pool.alloc() {
        Some(frame) if frame.tailroom() >= len => frame,
        _ => Frame::heap_with_capacity(HEADROOM_BYTES, len),
    };
    for part in parts {
        frame.append(part);
    }
    frame
}

/// Writes a checksum at `at`; over IPv6 it covers the pseudo header (RFC 3542 3.1).
fn fill_checksum(plan: &Plan, frame: &mut Frame, at: usize) -> Result<(), RawSendError> {
    let (src, dst, len) = (plan.info.src, plan.packet.dst, frame.len());
    let initial =
        if dst.is_ipv4() { 0 } else { checksum::pseudo(src, dst, plan.packet.protocol, len) };
    let data = frame.data_mut();
    let field = data.get_mut(at..at + 2).ok_or(RawSendError::TooLong)?;
    field.fill(0);
    let sum = checksum::finish(checksum::combine(initial, checksum::sum(data)));
    data[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    Ok(())
}
