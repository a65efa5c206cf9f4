//! Binding, connecting, closing: who holds which address and port.

use core::net::{IpAddr, SocketAddr};
use std::collections::VecDeque;

use super::super::waiting::Marks;
use super::{ANY4, ANY6, Flow, HEADER_LEN, Options, Socket, Udp, canonical, scope};
use crate::any::{AnyFamily, AnyProtocol};
use crate::ip::rule::Via;
use crate::ip::{Ip, multicast};
use crate::lower::Lower;
use crate::path::{PathFlow, PathLayer};
use crate::socket::udp::{BindError, UDP_PAYLOAD_BYTES_MAX, UdpBind, UdpSendError};
use crate::socket::{SocketId, SocketKind};
use crate::wire::protocol;

/// Ephemeral ports, as Linux has them.
const EPHEMERAL: core::ops::RangeInclusive<u16> = 32768..=60999;

/// Addresses a binding stands for: `::` takes IPv4 too.
fn bindings(ip: IpAddr, how: UdpBind) -> impl Iterator<Item = IpAddr> {
    core::iter::once(ip).chain((ip == ANY6 && !how.only_v6).then_some(ANY4))
}

impl Socket {
    fn flow(&self) -> Option<Flow> {
        let peer = self.peer?;
        Some((self.local.ip(), self.local.port(), peer.ip(), peer.port()))
    }

    /// How its packets go.
    fn via(&self, ip: &Ip, peer: SocketAddr) -> Via {
        let services = ip.services_of(|| (protocol::UDP, self.local.port(), peer.port()));
        let (mark, class) = (self.options.mark, self.options.traffic_class);
        Via { alias: scope(peer), mark, class, services }
    }

    /// Whether it can speak to hosts of the address's family.
    pub(super) fn speaks(&self, to: IpAddr) -> bool {
        let both = self.bound == ANY6 && !self.how.only_v6;
        both || self.bound.is_ipv4() == to.is_ipv4()
    }
}

impl Udp {
    /// Binds a socket.
    pub(crate) fn bind<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        local: SocketAddr,
        how: UdpBind,
    ) -> Result<SocketId, BindError> {
        let mut local = canonical(local);
        let ip = local.ip();
        if !ip.is_unspecified() && !ip.is_multicast() && !lower.may_bind(ip) {
            return Err(BindError::NotAvailable);
        }
        if !self.count_in(lower.ctx.limits.udp_sockets) {
            lower.ctx.mib.limits.udp_sockets += 1;
            return Err(BindError::TooMany);
        }
        let port = match local.port() {
            // A port of its own, whatever it would share.
            0 => self.ephemeral(lower, ip, UdpBind { reuse_port: false, ..how }),
            port => Some(port)
                .filter(|port| self.is_free(ip, *port, how) && !lower.path.takes_udp_port(*port)),
        };
        let Some(port) = port else {
            self.count_out();
            return Err(BindError::InUse);
        };
        local.set_port(port);
        let index = self.insert(lower.ctx.limits.udp_recv_bytes, local, how, None);
        for addr in bindings(ip, how) {
            let bucket = self.bound.entry((addr, local.port())).or_default();
            bucket.all.push(index);
            bucket.open.push(index);
        }
        Ok(SocketId { kind: SocketKind::Udp, index, generation: self.generation })
    }

    fn insert(
        &mut self,
        recv_bytes: usize,
        local: SocketAddr,
        how: UdpBind,
        any: Option<u32>,
    ) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.sockets.insert(Socket {
            generation: self.generation,
            local,
            peer: None,
            how,
            bound: local.ip(),
            options: Options {
                broadcast: false,
                recv_bytes,
                hop_limit: None,
                multicast_hop_limit: 1,
                multicast_loop: true,
                multicast_alias: None,
                traffic_class: 0,
                dont_fragment: false,
                error_queue: false,
                keep_segments: false,
                mark: 0,
            },
            queue: VecDeque::new(),
            held_bytes: 0,
            lost: 0,
            pending: None,
            errors: VecDeque::new(),
            groups: Vec::new(),
            any,
            marks: Marks::default(),
        }) as u32
    }

    /// The host's socket for any vserver on that port; its queue in this stack is made when it is
    /// first needed.
    pub(super) fn any_socket(&mut self, recv_bytes: usize, v4: bool, port: u16) -> Option<u32> {
        let found = self.any.find(AnyProtocol::Udp, v4, port)?;
        if let Some((_, index)) = self.any_in_use.iter().find(|(n, _)| *n == found.number) {
            return Some(*index);
        }
        let ip = if found.family == AnyFamily::V4 { ANY4 } else { ANY6 };
        let how = UdpBind { reuse_port: false, only_v6: found.family == AnyFamily::V6 };
        let number = found.number;
        let index = self.insert(recv_bytes, SocketAddr::new(ip, port), how, Some(number));
        self.any_in_use.push((number, index));
        Some(index)
    }

    /// The binding for any vserver that a socket belongs to.
    pub(crate) fn any_of(&self, id: SocketId) -> Option<u32> {
        self.get(id)?.any
    }

    /// Closes what the stack has of a binding for any vserver.
    pub(crate) fn close_any<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        number: u32,
    ) -> bool {
        let found = self.any_in_use.iter().find(|(n, _)| *n == number);
        let Some(id) = found.and_then(|(_, index)| self.id(*index)) else { return false };
        self.close(lower, id);
        true
    }

    /// As [`Udp::any_socket`].
    pub(crate) fn any_id(&mut self, recv_bytes: usize, v4: bool, port: u16) -> Option<SocketId> {
        let index = self.any_socket(recv_bytes, v4, port)?;
        self.id(index)
    }

    /// Whether nobody holds the address and port, or all who do share it.
    fn is_free(&self, ip: IpAddr, port: u16, how: UdpBind) -> bool {
        let shares = |index: &u32| self.sockets[*index as usize].how.reuse_port;
        bindings(ip, how).all(|addr| {
            let bucket = self.bound.get(&(addr, port));
            bucket.is_none_or(|b| how.reuse_port && b.all.iter().all(shares))
        })
    }

    /// RFC 6056 algorithm 2: where to start is random for each socket, because the port of a
    /// datagram is all that a forger must guess.
    fn ephemeral<P: PathLayer>(
        &self,
        lower: &mut Lower<'_, P>,
        ip: IpAddr,
        how: UdpBind,
    ) -> Option<u16> {
        let count = u64::from(EPHEMERAL.end() - EPHEMERAL.start()) + 1;
        let start = lower.ctx.rng.below(count);
        let shard = lower.ctx.shard;
        // One more candidate than sockets: one of them is free. Among several shards, each has its
        // part of the range.
        let enough = self.sockets.len() as u64 + 1;
        let tries = if shard.has_peers() { count } else { count.min(enough) };
        (0..tries).map(|i| EPHEMERAL.start() + ((start + i) % count) as u16).find(|port| {
            let free = shard.owns_port(*port) && self.is_free(ip, *port, how);
            free && !lower.path.takes_udp_port(*port)
        })
    }

    /// Fixes the peer.
    pub(crate) fn connect<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        id: SocketId,
        peer: SocketAddr,
    ) -> Result<(), UdpSendError> {
        let socket = self.get(id).ok_or(UdpSendError::Closed)?;
        let peer = canonical(peer);
        if peer.port() == 0 || peer.ip().is_unspecified() {
            return Err(UdpSendError::NoDestination);
        }
        let bound = socket.bound;
        if lower.is_broadcast(peer.ip()) && !socket.options.broadcast {
            return Err(UdpSendError::Broadcast);
        }
        let src = Some(bound).filter(|ip| !ip.is_unspecified() && !ip.is_multicast());
        let via = socket.via(lower.ip, peer);
        let info = lower.route(src, peer.ip(), via).ok().filter(|_| socket.speaks(peer.ip()));
        let info = info.ok_or(UdpSendError::Unreachable)?;
        let local = SocketAddr::new(info.src, socket.local.port());
        let flow = (local.ip(), local.port(), peer.ip(), peer.port());
        if self.flows.get(&flow).is_some_and(|other| *other != id.index) {
            return Err(UdpSendError::InUse);
        }
        self.disconnect(id);
        let socket = &mut self.sockets[id.index as usize];
        socket.local = local;
        socket.peer = Some(peer);
        let (port, how) = (local.port(), socket.how);
        self.flows.insert(flow, id.index);
        for addr in bindings(bound, how) {
            if let Some(bucket) = self.bound.get_mut(&(addr, port)) {
                bucket.open.retain(|index| *index != id.index);
            }
        }
        Ok(())
    }

    /// Takes the peer back.
    pub(crate) fn disconnect(&mut self, id: SocketId) {
        let Some(socket) = self.get_mut(id) else { return };
        socket.pending = None;
        let Some(flow) = socket.flow() else { return };
        socket.peer = None;
        socket.local.set_ip(socket.bound);
        let (bound, how) = (socket.bound, socket.how);
        self.flows.remove(&flow);
        for addr in bindings(bound, how) {
            if let Some(bucket) = self.bound.get_mut(&(addr, flow.1))
                && bucket.all.contains(&id.index)
            {
                bucket.open.push(id.index);
            }
        }
    }

    /// Payload of a datagram that needs no fragments.
    pub(crate) fn payload_max<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        id: SocketId,
    ) -> Option<usize> {
        let socket = self.get(id)?;
        let peer = socket.peer?;
        let via = socket.via(lower.ip, peer);
        let ports = (socket.local.port(), peer.port());
        let flow = Some(PathFlow { protocol: protocol::UDP, ports });
        let info = lower.route_of(Some(socket.local.ip()), peer.ip(), via, flow).ok()?;
        let headers = HEADER_LEN + if peer.is_ipv4() { 20 } else { 40 };
        Some(info.mtu.saturating_sub(headers).min(UDP_PAYLOAD_BYTES_MAX))
    }

    /// Closes the socket and leaves its groups.
    pub(crate) fn close<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>, id: SocketId) {
        if self.get(id).is_none() {
            return;
        }
        self.disconnect(id);
        let socket = self.sockets.remove(id.index as usize);
        if socket.any.is_some() {
            self.any_in_use.retain(|(_, index)| *index != id.index);
        } else {
            self.count_out();
        }
        for addr in bindings(socket.bound, socket.how) {
            let key = (addr, socket.local.port());
            let Some(bucket) = self.bound.get_mut(&key) else { continue };
            bucket.all.retain(|index| *index != id.index);
            bucket.open.retain(|index| *index != id.index);
            if bucket.all.is_empty() {
                self.bound.remove(&key);
            }
        }
        for m in socket.groups {
            let before = Some(m.wanted());
            multicast::set_sources(&mut lower.ctx, lower.ip, m.alias, m.group, before, None);
        }
    }
}
