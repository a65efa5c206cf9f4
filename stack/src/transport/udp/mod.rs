//! UDP (RFC 768): bound sockets, demultiplexing, receive queues, errors of connected sockets.
//!
//! A socket is found by (local address, port), exact before wildcard; a connected socket passes
//! over datagrams of others, which then go to a less exact binding. `::` binds both families.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::collections::VecDeque;

use bytes::Bytes;
use hashbrown::HashMap;
use slab::Slab;

use crate::ctx::Fate;
use crate::drop::DropReason;
use crate::frame::{Checksum, Frame, HEADROOM_BYTES};
use crate::hash::ConfiguredKeys;
use crate::ip::address::AliasId;
use crate::ip::multicast;
use crate::lower::{IcmpError, IcmpErrorKind, InPacket, Lower, OutPacket, RouteInfo};
use crate::path::PathLayer;
use crate::socket::udp::{BindError, Datagram, UdpRecvError, UdpSendError};
use crate::socket::{Event, Readiness, SocketId, SocketInfo, SocketKind, SocketMemory};
use crate::stack::Limits;
use crate::wire::{checksum, frame_sum, protocol};

const HEADER_LEN: usize = 8;
/// What fits an IPv4 packet; IPv6 would take 20 bytes more.
const PAYLOAD_MAX: usize = 65_507;
/// Payloads up to this are copied out, so that they do not hold a slot of the frame pool each.
const COPY_MAX: usize = 256;
/// What a waiting datagram is charged beside its bytes.
const DATAGRAM_OVERHEAD_BYTES: usize = 64;
/// Ephemeral ports, as Linux has them.
const EPHEMERAL: core::ops::RangeInclusive<u16> = 32768..=60999;

#[derive(Debug)]
struct Socket {
    generation: u32,
    /// As bound; a connect fills in the address.
    local: SocketAddr,
    peer: Option<SocketAddr>,
    queue: VecDeque<(Datagram, usize)>,
    /// Charged for the queue.
    held_bytes: usize,
    /// A connected peer refused a datagram; told once.
    refused: bool,
    groups: Vec<(AliasId, IpAddr)>,
    /// In the dirty list.
    dirty: bool,
    /// In the list of those that wait for room to send.
    blocked: bool,
    /// What it is bound by.
    bound: IpAddr,
}

/// UDP of one stack.
#[derive(Debug, Default)]
pub(crate) struct Udp {
    sockets: Slab<Socket>,
    bound: HashMap<(IpAddr, u16), u32, ConfiguredKeys>,
    dirty: VecDeque<u32>,
    blocked: Vec<u32>,
    generation: u32,
}

const ANY4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// IPv4-mapped addresses mean IPv4.
fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), addr.port()),
        IpAddr::V6(_) => addr,
    }
}

/// The alias a scope id names: the alias number plus one, as 0 means none.
fn scope(addr: SocketAddr) -> Option<AliasId> {
    match addr {
        SocketAddr::V6(a) => a.scope_id().checked_sub(1).map(|n| AliasId(n as u16)),
        SocketAddr::V4(_) => None,
    }
}

/// A peer's address; link-local ones carry the scope id of their alias.
fn peer_addr(ip: IpAddr, port: u16, alias: AliasId) -> SocketAddr {
    match ip {
        IpAddr::V6(a) if a.is_unicast_link_local() => {
            SocketAddrV6::new(a, port, 0, u32::from(alias.0) + 1).into()
        }
        ip => SocketAddr::new(ip, port),
    }
}

impl Socket {
    /// Whether a datagram from `src` to `dst` is for this socket.
    fn takes(&self, packet: &InPacket, src_port: u16) -> bool {
        let local = self.local.ip();
        if !local.is_unspecified() && local != packet.dst {
            return false;
        }
        if packet.dst.is_multicast() && !self.groups.contains(&(packet.alias, packet.dst)) {
            return false;
        }
        self.peer.is_none_or(|p| p.ip() == packet.src && p.port() == src_port)
    }
}

impl Udp {
    fn id(&self, index: u32) -> Option<SocketId> {
        let generation = self.sockets.get(index as usize)?.generation;
        Some(SocketId { kind: SocketKind::Udp, index, generation })
    }

    fn get(&self, id: SocketId) -> Option<&Socket> {
        let socket = self.sockets.get(id.index as usize)?;
        (id.kind == SocketKind::Udp && socket.generation == id.generation).then_some(socket)
    }

    fn get_mut(&mut self, id: SocketId) -> Option<&mut Socket> {
        let socket = self.sockets.get_mut(id.index as usize)?;
        (id.kind == SocketKind::Udp && socket.generation == id.generation).then_some(socket)
    }

    fn mark_dirty(&mut self, index: u32) {
        if let Some(socket) = self.sockets.get_mut(index as usize)
            && !socket.dirty
        {
            socket.dirty = true;
            self.dirty.push_back(index);
        }
    }

    /// Waits for room to send.
    fn block(&mut self, index: u32) {
        if let Some(socket) = self.sockets.get_mut(index as usize)
            && !socket.blocked
        {
            socket.blocked = true;
            self.blocked.push(index);
        }
    }

    /// There is room to send again: sockets that were refused become writable.
    pub(crate) fn room_available(&mut self) {
        while let Some(index) = self.blocked.pop() {
            if let Some(socket) = self.sockets.get_mut(index as usize)
                && socket.blocked
            {
                socket.blocked = false;
                self.mark_dirty(index);
            }
        }
    }

    /// Binds a socket.
    pub(crate) fn bind<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        local: SocketAddr,
    ) -> Result<SocketId, BindError> {
        let mut local = canonical(local);
        let ip = local.ip();
        if !ip.is_unspecified() && !ip.is_multicast() && !lower.may_bind(ip) {
            return Err(BindError::NotAvailable);
        }
        if self.sockets.len() >= lower.ctx.limits.udp_sockets {
            return Err(BindError::TooMany);
        }
        if local.port() == 0 {
            local.set_port(self.ephemeral(lower, ip).ok_or(BindError::InUse)?);
        } else if !self.is_free(ip, local.port()) {
            return Err(BindError::InUse);
        }
        self.generation = self.generation.wrapping_add(1);
        let index = self.sockets.insert(Socket {
            generation: self.generation,
            local,
            peer: None,
            queue: VecDeque::new(),
            held_bytes: 0,
            refused: false,
            groups: Vec::new(),
            dirty: false,
            blocked: false,
            bound: ip,
        }) as u32;
        for addr in bindings(ip) {
            self.bound.insert((addr, local.port()), index);
        }
        Ok(SocketId { kind: SocketKind::Udp, index, generation: self.generation })
    }

    fn is_free(&self, ip: IpAddr, port: u16) -> bool {
        bindings(ip).all(|addr| !self.bound.contains_key(&(addr, port)))
    }

    /// RFC 6056 algorithm 2: where to start is random for each socket, because the port of a
    /// datagram is all that a forger must guess.
    fn ephemeral<P: PathLayer>(&self, lower: &mut Lower<'_, P>, ip: IpAddr) -> Option<u16> {
        let count = u64::from(EPHEMERAL.end() - EPHEMERAL.start()) + 1;
        let start = lower.ctx.rng.below(count);
        // One more candidate than sockets: one of them is free.
        let tries = count.min(self.sockets.len() as u64 + 1);
        (0..tries)
            .map(|i| EPHEMERAL.start() + ((start + i) % count) as u16)
            .find(|port| self.is_free(ip, *port))
    }

    /// Fixes the peer.
    pub(crate) fn connect<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        id: SocketId,
        peer: SocketAddr,
    ) -> Result<(), UdpSendError> {
        let socket = self.get_mut(id).ok_or(UdpSendError::Closed)?;
        let peer = canonical(peer);
        if peer.port() == 0 || peer.ip().is_unspecified() {
            return Err(UdpSendError::NoDestination);
        }
        let src = Some(socket.bound).filter(|ip| !ip.is_unspecified());
        let fits = socket.bound == ANY6 || socket.bound.is_ipv4() == peer.is_ipv4();
        let info = lower.route(src, peer.ip(), scope(peer)).ok().filter(|_| fits);
        let info = info.ok_or(UdpSendError::Unreachable)?;
        socket.local.set_ip(info.src);
        socket.peer = Some(peer);
        socket.refused = false;
        Ok(())
    }

    /// Sends one datagram.
    pub(crate) fn send<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        id: SocketId,
        payload: &[u8],
        to: Option<SocketAddr>,
    ) -> Result<(), UdpSendError> {
        let socket = self.get_mut(id).ok_or(UdpSendError::Closed)?;
        if core::mem::take(&mut socket.refused) {
            return Err(UdpSendError::Refused);
        }
        let to = to.map(canonical).or(socket.peer).ok_or(UdpSendError::NoDestination)?;
        if to.port() == 0 {
            return Err(UdpSendError::NoDestination);
        }
        if payload.len() > PAYLOAD_MAX {
            return Err(UdpSendError::TooLong);
        }
        let local = socket.local;
        let src = Some(local.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_multicast());
        if !(socket.bound == ANY6 || local.is_ipv4() == to.is_ipv4()) {
            return Err(UdpSendError::Unreachable);
        }
        let alias = scope(to);
        let info = lower.route(src, to.ip(), alias).map_err(|_| UdpSendError::Unreachable)?;
        let frames = (payload.len() + HEADER_LEN).div_ceil(info.mtu.saturating_sub(48).max(1));
        if lower.ctx.out_room() < frames {
            self.block(id.index);
            return Err(UdpSendError::WouldBlock);
        }
        let frame = datagram(lower, &info, local.port(), to, payload);
        let packet = OutPacket {
            src: info.src,
            dst: to.ip(),
            protocol: protocol::UDP,
            traffic_class: 0,
            hop_limit: None,
            dont_fragment: false,
            alias: alias.or(Some(info.alias).filter(|_| to.ip().is_multicast())),
        };
        match lower.send(packet, frame) {
            Ok(()) => {
                lower.ctx.mib.udp.out_datagrams += 1;
                lower.ctx.mib.udp.out_octets += payload.len() as u64;
                Ok(())
            }
            Err(DropReason::OutQueueFull) => {
                self.block(id.index);
                Err(UdpSendError::WouldBlock)
            }
            Err(DropReason::IpTooBig) => Err(UdpSendError::TooLong),
            // Lost for now, as on the way; counted.
            Err(DropReason::NeighbourQueueFull | DropReason::NeighbourTableFull) => Ok(()),
            Err(_) => Err(UdpSendError::Unreachable),
        }
    }

    /// Takes the oldest datagram.
    pub(crate) fn recv(&mut self, id: SocketId) -> Result<Datagram, UdpRecvError> {
        let socket = self.get_mut(id).ok_or(UdpRecvError::Closed)?;
        if let Some((datagram, charge)) = socket.queue.pop_front() {
            socket.held_bytes -= charge;
            return Ok(datagram);
        }
        if core::mem::take(&mut socket.refused) {
            return Err(UdpRecvError::Refused);
        }
        Err(UdpRecvError::WouldBlock)
    }

    /// The bound address.
    pub(crate) fn local(&self, id: SocketId) -> Option<SocketAddr> {
        self.get(id).map(|s| s.local)
    }

    /// What the socket is ready for; `writable`: the transmit queue has room.
    pub(crate) fn readiness(&self, id: SocketId, writable: bool) -> Readiness {
        let Some(socket) = self.get(id) else { return Readiness::default() };
        let mut ready = Readiness::default();
        if !socket.queue.is_empty() || socket.refused {
            ready |= Readiness::READABLE;
        }
        if writable {
            ready |= Readiness::WRITABLE;
        }
        if socket.refused {
            ready |= Readiness::ERROR;
        }
        ready
    }

    /// Closes the socket and leaves its groups.
    pub(crate) fn close<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>, id: SocketId) {
        if self.get(id).is_none() {
            return;
        }
        let socket = self.sockets.remove(id.index as usize);
        for addr in bindings(socket.bound) {
            self.bound.remove(&(addr, socket.local.port()));
        }
        for (alias, group) in socket.groups {
            multicast::leave(&mut lower.ctx, lower.ip, alias, group);
        }
    }

    /// Joins a group.
    pub(crate) fn join<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        id: SocketId,
        alias: AliasId,
        group: IpAddr,
    ) -> Result<(), BindError> {
        let limit = lower.ctx.limits.groups;
        let socket = self.get_mut(id).ok_or(BindError::NotAvailable)?;
        if !group.is_multicast() || socket.groups.contains(&(alias, group)) {
            return Err(BindError::NotAvailable);
        }
        if socket.groups.len() >= limit {
            return Err(BindError::TooMany);
        }
        use crate::stack::ChangeError;
        match multicast::join(&mut lower.ctx, lower.ip, alias, group) {
            Ok(()) => {
                socket.groups.push((alias, group));
                Ok(())
            }
            Err(ChangeError::Limit(_)) => Err(BindError::TooMany),
            Err(_) => Err(BindError::NotAvailable),
        }
    }

    /// Leaves a group.
    pub(crate) fn leave<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        id: SocketId,
        alias: AliasId,
        group: IpAddr,
    ) {
        let Some(socket) = self.get_mut(id) else { return };
        let Some(at) = socket.groups.iter().position(|g| *g == (alias, group)) else { return };
        socket.groups.swap_remove(at);
        multicast::leave(&mut lower.ctx, lower.ip, alias, group);
    }

    /// A datagram arrived; `frame` starts with the UDP header.
    pub(crate) fn input<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        packet: &InPacket,
        frame: Frame,
    ) -> Fate {
        let (src_port, dst_port, mut frame) = match check(lower, packet, frame) {
            Ok(checked) => checked,
            Err(reason) => {
                let stats = &mut lower.ctx.mib.udp;
                stats.in_errors += 1;
                stats.in_csum_errors += u64::from(reason == DropReason::UdpChecksumBad);
                return Fate::Dropped(reason);
            }
        };
        let Some(index) = self.find(packet, src_port, dst_port) else {
            lower.ctx.mib.udp.no_ports += 1;
            lower.port_unreachable(packet, &frame);
            return Fate::Dropped(DropReason::UdpPortClosed);
        };
        frame.pull_front(HEADER_LEN);
        let (payload, charge) = payload(frame);
        let socket = &mut self.sockets[index as usize];
        let stats = &mut lower.ctx.mib.udp;
        if socket.held_bytes + charge > lower.ctx.limits.udp_recv_bytes {
            stats.rcvbuf_errors += 1;
            return Fate::Dropped(DropReason::UdpBufferFull);
        }
        stats.in_datagrams += 1;
        stats.in_octets += payload.len() as u64;
        socket.held_bytes += charge;
        let from = peer_addr(packet.src, src_port, packet.alias);
        let datagram = Datagram { from, to: packet.dst, alias: packet.alias, payload };
        socket.queue.push_back((datagram, charge));
        self.mark_dirty(index);
        Fate::Delivered
    }

    /// The socket for a datagram, exact before wildcard.
    fn find(&self, packet: &InPacket, src_port: u16, dst_port: u16) -> Option<u32> {
        let any = if packet.dst.is_ipv4() { ANY4 } else { ANY6 };
        [packet.dst, any].into_iter().find_map(|addr| {
            let index = *self.bound.get(&(addr, dst_port))?;
            let socket = self.sockets.get(index as usize)?;
            socket.takes(packet, src_port).then_some(index)
        })
    }

    /// An ICMP error about a datagram; whether a socket sent it.
    pub(crate) fn icmp_error<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        error: &IcmpError<'_>,
    ) -> bool {
        let [a, b, c, d, ..] = *error.transport else { return false };
        let (src_port, dst_port) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let any = if error.src.is_ipv4() { ANY4 } else { ANY6 };
        let index = [error.src, any].into_iter().find_map(|addr| {
            let index = *self.bound.get(&(addr, src_port))?;
            let socket = self.sockets.get(index as usize)?;
            let peer = socket.peer.is_none_or(|p| p.ip() == error.dst && p.port() == dst_port);
            peer.then_some(index)
        });
        let Some(index) = index else { return false };
        let socket = &mut self.sockets[index as usize];
        match error.kind {
            IcmpErrorKind::TooBig { mtu } => lower.lower_pmtu(error.dst, mtu),
            IcmpErrorKind::PortUnreachable | IcmpErrorKind::ProtocolUnreachable
                if socket.peer.is_some() =>
            {
                socket.refused = true;
                self.mark_dirty(index);
            }
            // Soft errors (RFC 1122 4.1.3.3) have no reader here.
            _ => {}
        }
        true
    }

    /// The next event from the dirty list.
    pub(crate) fn poll_event(&mut self, writable: bool) -> Option<Event> {
        while let Some(index) = self.dirty.pop_front() {
            // The slot may be free by now, or somebody else's, who then is not dirty.
            let Some(socket) = self.sockets.get_mut(index as usize) else { continue };
            if !core::mem::take(&mut socket.dirty) {
                continue;
            }
            let id = self.id(index)?;
            return Some(Event::Socket { id, ready: self.readiness(id, writable) });
        }
        None
    }

    /// Calls `f` for each socket.
    pub(crate) fn for_each_id(&self, mut f: impl FnMut(SocketId)) {
        for (index, _) in &self.sockets {
            if let Some(id) = self.id(index as u32) {
                f(id);
            }
        }
    }

    /// Slots of sockets, free ones counted.
    pub(crate) fn slots(&self) -> usize {
        self.sockets.capacity()
    }

    /// The socket in a slot.
    pub(crate) fn dump(&self, index: u32, limits: &Limits) -> Option<SocketInfo> {
        let socket = self.sockets.get(index as usize)?;
        let any = if socket.local.is_ipv4() { ANY4 } else { ANY6 };
        Some(SocketInfo {
            id: self.id(index)?,
            state: if socket.peer.is_some() { "ESTAB" } else { "UNCONN" },
            local: socket.local,
            peer: socket.peer.unwrap_or(SocketAddr::new(any, 0)),
            recv_queue: socket.queue.iter().map(|(d, _)| d.payload.len()).sum(),
            send_queue: 0,
            alias: None,
            timer: None,
            memory: SocketMemory {
                recv_held: socket.held_bytes,
                recv_limit: limits.udp_recv_bytes,
                ..SocketMemory::default()
            },
            owned: true,
        })
    }

    /// Sockets, and bytes they hold unread.
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.sockets.len(), self.sockets.iter().map(|(_, s)| s.held_bytes).sum())
    }
}

/// Addresses a binding stands for: `::` takes IPv4 too.
fn bindings(ip: IpAddr) -> impl Iterator<Item = IpAddr> {
    core::iter::once(ip).chain((ip == ANY6).then_some(ANY4))
}

/// Checks length, ports and checksum; gives the ports and the frame cut to the datagram.
fn check<P: PathLayer>(
    lower: &Lower<'_, P>,
    packet: &InPacket,
    mut frame: Frame,
) -> Result<(u16, u16, Frame), DropReason> {
    if frame.len() < HEADER_LEN && !frame.frags.is_empty() {
        frame = frame.to_heap();
    }
    let Some(h) = frame.data().first_chunk::<HEADER_LEN>().copied() else {
        return Err(DropReason::UdpMalformed);
    };
    let word = |at: usize| u16::from_be_bytes([h[at], h[at + 1]]);
    let (src_port, dst_port, len, sum) = (word(0), word(2), usize::from(word(4)), word(6));
    if len < HEADER_LEN || len > frame.total_len() || dst_port == 0 {
        return Err(DropReason::UdpMalformed);
    }
    if len < frame.total_len() {
        if !frame.frags.is_empty() {
            frame = frame.to_heap();
        }
        frame.truncate(len);
    }
    let trusted = frame.meta.checksum != Checksum::Complete
        || lower.ip.aliases.get(&packet.alias).is_some_and(|a| a.config.rx_checksum_trust);
    let right = match (sum, packet.dst) {
        // RFC 768: none was made. RFC 8200 8.1: IPv6 does not allow that.
        (0, IpAddr::V4(_)) => true,
        (0, IpAddr::V6(_)) => false,
        _ => trusted || frame_sum::is_valid(packet.src, packet.dst, protocol::UDP, &frame),
    };
    if right { Ok((src_port, dst_port, frame)) } else { Err(DropReason::UdpChecksumBad) }
}

/// The payload as owned bytes, and what holding it is charged.
fn payload(frame: Frame) -> (Bytes, usize) {
    let len = frame.total_len();
    if len <= COPY_MAX {
        let mut small = [0; COPY_MAX];
        frame.copy_to(&mut small);
        return (Bytes::copy_from_slice(&small[..len]), len + DATAGRAM_OVERHEAD_BYTES);
    }
    let keep = frame.frags.is_empty() && !frame.is_scarce();
    let frame = if keep { frame } else { frame.to_heap() };
    let charge = frame.headroom() + frame.len() + frame.tailroom() + DATAGRAM_OVERHEAD_BYTES;
    (frame.into_bytes(), charge)
}

/// A frame that starts with the UDP header.
fn datagram<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    info: &RouteInfo,
    src_port: u16,
    to: SocketAddr,
    payload: &[u8],
) -> Frame {
    let len = HEADER_LEN + payload.len();
    // What others hold of the pool is no reason to wait; the out queue bounds this.
    let mut frame = match lower.ctx.pool.alloc() {
        Some(frame) if frame.tailroom() >= len => frame,
        _ => Frame::heap_with_capacity(HEADROOM_BYTES, len),
    };
    let data = frame.push_back(len);
    data[0..2].copy_from_slice(&src_port.to_be_bytes());
    data[2..4].copy_from_slice(&to.port().to_be_bytes());
    data[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    data[6..8].fill(0);
    let pseudo = checksum::pseudo(info.src, to.ip(), protocol::UDP, len);
    // A packet that will be cut needs its sum before.
    let header_len = if to.is_ipv4() { 20 } else { 40 };
    let sum = if info.tx_checksum && len + header_len <= info.mtu {
        data[HEADER_LEN..].copy_from_slice(payload);
        frame.meta.checksum = Checksum::Partial { start: 0, offset: 6 };
        pseudo
    } else {
        let header = checksum::sum(&data[..HEADER_LEN]);
        let body = checksum::copy_and_sum(&mut data[HEADER_LEN..], payload);
        checksum::finish_udp(checksum::combine(pseudo, checksum::combine(header, body)))
    };
    frame.data_mut()[6..8].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FramePool;

    #[test]
    fn what_nobody_reads_does_not_hold_a_pool_that_runs_low() {
        let pool = FramePool::heap(64, 2048);
        let held: Vec<_> = (0..200)
            .map(|_| {
                let mut frame = pool.alloc().expect("some are left");
                frame.append(&[7; 300]);
                payload(frame)
            })
            .collect();
        assert!(pool.free() >= 7, "{}", pool.free());
        assert!(held.iter().all(|(bytes, charge)| bytes[..] == [7; 300] && *charge >= 300));
    }
}
