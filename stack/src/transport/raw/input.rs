//! What raw and echo sockets receive: copies of packets, answers, ICMP errors.

use core::net::IpAddr;

use bytes::Bytes;

use super::{Raw, Use};
use crate::ctx::Fate;
use crate::frame::Frame;
use crate::ip::rule::Via;
use crate::lower::{IcmpError, IcmpErrorKind, InPacket, Lower};
use crate::path::PathLayer;
use crate::socket::raw::{EchoAnswer, RawPacket};
use crate::transport::udp::{meaning, peer_addr};
use crate::wire::{checksum, protocol};

/// What a waiting packet is charged beside its bytes.
const OVERHEAD_BYTES: usize = 64;
/// Bytes of an echo message before its payload.
const ECHO_HEADER_LEN: usize = 8;

impl Raw {
    /// Gives the copies that IP made to their sockets; whether somebody wanted the last one.
    pub(crate) fn take_copies<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>) -> bool {
        let mut wanted = false;
        while let Some((packet, payload)) = lower.ip.taps.pop() {
            wanted = self.give(lower, &packet, &payload);
        }
        wanted
    }

    fn give<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        packet: &InPacket,
        payload: &Bytes,
    ) -> bool {
        let is_v4 = packet.dst.is_ipv4();
        let Some(all) = self.by_protocol.get(&(is_v4, packet.protocol)) else { return false };
        let icmp = icmp_type(packet, payload);
        let mut wanted = false;
        for at in 0..all.len() {
            let index = self.by_protocol[&(is_v4, packet.protocol)][at];
            let socket = &mut self.sockets[index as usize];
            let Use::Raw(raw) = &mut socket.use_ else { continue };
            let to_it = socket.local.is_unspecified()
                || socket.local == packet.dst
                || packet.dst.is_multicast();
            let from_peer = socket.peer.is_none_or(|p| p.ip() == packet.src);
            let checked = raw.checksum_offset.is_none() || checksum_is_right(packet, payload);
            if !to_it || !from_peer || !checked {
                continue;
            }
            wanted = true;
            if icmp.is_some_and(|kind| !raw.filter.passes(kind)) {
                continue;
            }
            let charge = payload.len() + OVERHEAD_BYTES;
            if socket.held_bytes + charge > socket.recv_bytes {
                lower.ctx.mib.raw.rcvbuf_errors += 1;
                socket.lost += 1;
                continue;
            }
            lower.ctx.mib.raw.in_packets += 1;
            socket.held_bytes += charge;
            let received = RawPacket {
                from: peer_addr(packet.src, 0, packet.alias),
                to: packet.dst,
                alias: packet.alias,
                hop_limit: packet.hop_limit,
                traffic_class: packet.traffic_class,
                payload: payload.clone(),
            };
            raw.queue.push_back((received, charge));
            self.tell(index);
        }
        wanted
    }

    /// An echo reply, checksum verified; `frame` starts with the ICMP header.
    pub(crate) fn echo_reply<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        packet: &InPacket,
        frame: Frame,
    ) -> Fate {
        let frame = if frame.frags.is_empty() { frame } else { frame.to_heap() };
        let Some((ident, sequence)) = echo_fields(frame.data()) else { return Fate::Consumed };
        let Some(index) = self.by_ident.get(&(packet.dst.is_ipv4(), ident)).copied() else {
            return Fate::Consumed;
        };
        let socket = &self.sockets[index as usize];
        let to_it = socket.local.is_unspecified() || socket.local == packet.dst;
        if !to_it || socket.peer.is_some_and(|p| p.ip() != packet.src) {
            return Fate::Consumed;
        }
        let answer = EchoAnswer {
            from: Some(peer_addr(packet.src, 0, packet.alias)),
            sequence,
            rtt: None,
            hop_limit: packet.hop_limit,
            result: Ok(Bytes::copy_from_slice(&frame.data()[ECHO_HEADER_LEN..])),
        };
        self.answer(lower, index, answer);
        Fate::Delivered
    }

    fn answer<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        index: u32,
        mut answer: EchoAnswer,
    ) {
        let socket = &mut self.sockets[index as usize];
        let Use::Echo(echo) = &mut socket.use_ else { return };
        let charge = answer.result.as_ref().map_or(0, Bytes::len) + OVERHEAD_BYTES;
        if socket.held_bytes + charge > socket.recv_bytes {
            lower.ctx.mib.raw.rcvbuf_errors += 1;
            socket.lost += 1;
            return;
        }
        lower.ctx.mib.raw.in_packets += 1;
        socket.held_bytes += charge;
        let asked = echo.asked.iter().rev().find(|(sequence, _)| *sequence == answer.sequence);
        answer.rtt = asked.map(|(_, at)| lower.ctx.now.saturating_since(*at));
        echo.queue.push_back((answer, charge));
        self.tell(index);
    }

    /// An ICMP error about a packet of neither TCP nor UDP; whether a socket sent it.
    pub(crate) fn icmp_error<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        number: u8,
        error: &IcmpError<'_>,
    ) -> bool {
        let is_v4 = error.src.is_ipv4();
        let echo_request = match number {
            protocol::ICMP => is_v4 && error.transport.first() == Some(&8),
            protocol::ICMPV6 => !is_v4 && error.transport.first() == Some(&128),
            _ => false,
        };
        let fields = echo_fields(error.transport).filter(|_| echo_request);
        let echo = fields
            .and_then(|(ident, sequence)| Some((*self.by_ident.get(&(is_v4, ident))?, sequence)));
        let raw = self.by_protocol.get(&(is_v4, number)).and_then(|all| {
            let connected = |index: &&u32| {
                let socket = &self.sockets[**index as usize];
                socket.peer.is_some_and(|p| p.ip() == error.dst)
            };
            all.iter().find(connected).copied()
        });
        if echo.is_none() && raw.is_none() {
            return false;
        }
        if let IcmpErrorKind::TooBig { mtu } = error.kind {
            lower.lower_pmtu((error.src, error.dst), None, mtu);
        }
        if let Some((index, sequence)) = echo {
            let alias = lower
                .route(None, error.dst, Via::default())
                .map_or(crate::ip::LOOPBACK, |i| i.alias);
            let from = error.origin.map(|ip: IpAddr| peer_addr(ip, 0, alias));
            let result = Err(meaning(error.kind));
            self.answer(
                lower,
                index,
                EchoAnswer { from, sequence, rtt: None, hop_limit: 0, result },
            );
        }
        if let Some(index) = raw {
            self.sockets[index as usize].pending = Some(meaning(error.kind));
            self.tell(index);
        }
        true
    }
}

/// Identifier and sequence number of an echo message.
fn echo_fields(message: &[u8]) -> Option<(u16, u16)> {
    let h: &[u8; ECHO_HEADER_LEN] = message.first_chunk()?;
    Some((u16::from_be_bytes([h[4], h[5]]), u16::from_be_bytes([h[6], h[7]])))
}

/// The type of an ICMP message; `None`: it is none.
fn icmp_type(packet: &InPacket, payload: &[u8]) -> Option<u8> {
    match packet.protocol {
        protocol::ICMP => payload.get(usize::from(payload.first()? & 15) * 4).copied(),
        protocol::ICMPV6 => payload.first().copied(),
        _ => None,
    }
}

/// RFC 3542 3.1: with a checksum offset, received packets are verified too.
fn checksum_is_right(packet: &InPacket, payload: &[u8]) -> bool {
    let pseudo = checksum::pseudo(packet.src, packet.dst, packet.protocol, payload.len());
    checksum::is_valid(checksum::combine(pseudo, checksum::sum(payload)))
}
