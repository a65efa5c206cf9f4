//! Raw sockets (RFC 3542 3 for IPv6, as Linux for IPv4) and ICMP echo sockets.
//!
//! Raw sockets get copies of whole packets, by protocol number, beside whoever takes the packet
//! itself; a protocol that a raw socket took is not answered by "protocol unreachable". Echo sockets
//! get the answers to their own requests, told apart by an identifier that the stack chooses, and
//! the ICMP errors about them.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::collections::VecDeque;

use bytes::Bytes;
use hashbrown::HashMap;
use slab::Slab;

use super::waiting::{Marked, Marks, Waiting};
use crate::frame::prefetch;
use crate::hash::ConfiguredKeys;
use crate::lower::Lower;
use crate::path::PathLayer;
use crate::socket::raw::{
    EchoAnswer, Family, IcmpFilter, RawOption, RawPacket, RawRecvError, RawSendError,
};
use crate::socket::udp::{BindError, UdpError};
use crate::socket::{Event, Readiness, SocketId, SocketInfo, SocketKind, SocketMemory};
use crate::time::Instant;
use crate::wire::protocol;

mod input;
mod output;

/// The smallest receive buffer.
const RECV_BYTES_MIN: usize = 2048;

#[derive(Debug)]
struct Socket {
    generation: u32,
    family: Family,
    use_: Use,
    local: IpAddr,
    peer: Option<SocketAddr>,
    hop_limit: Option<u8>,
    traffic_class: u8,
    recv_bytes: usize,
    held_bytes: usize,
    lost: u64,
    pending: Option<UdpError>,
    marks: Marks,
}

/// What it is for, with what waits.
#[derive(Debug)]
enum Use {
    Raw(RawUse),
    Echo(EchoUse),
}

#[derive(Debug)]
struct EchoUse {
    ident: u16,
    queue: VecDeque<(EchoAnswer, usize)>,
    /// When the last requests left, oldest first.
    asked: VecDeque<(u16, Instant)>,
}

#[derive(Debug)]
struct RawUse {
    protocol: u8,
    header_included: bool,
    checksum_offset: Option<u16>,
    filter: IcmpFilter,
    queue: VecDeque<(RawPacket, usize)>,
}

/// Raw and ICMP sockets of one stack.
#[derive(Debug, Default)]
pub(crate) struct Raw {
    sockets: Slab<Socket>,
    by_protocol: HashMap<(bool, u8), Vec<u32>, ConfiguredKeys>,
    by_ident: HashMap<(bool, u16), u32, ConfiguredKeys>,
    waiting: Waiting,
    generation: u32,
}

impl Family {
    fn is_v4(self) -> bool {
        self == Family::V4
    }

    fn any(self) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

impl Marked for Socket {
    fn marks(&mut self) -> &mut Marks {
        &mut self.marks
    }
}

impl Socket {
    fn kind(&self) -> SocketKind {
        match self.use_ {
            Use::Raw(_) => SocketKind::Raw,
            Use::Echo(_) => SocketKind::Icmp,
        }
    }

    /// The protocol, or the identifier.
    fn port(&self) -> u16 {
        match &self.use_ {
            Use::Raw(raw) => u16::from(raw.protocol),
            Use::Echo(echo) => echo.ident,
        }
    }

    fn waits(&self) -> bool {
        match &self.use_ {
            Use::Raw(raw) => !raw.queue.is_empty(),
            Use::Echo(echo) => !echo.queue.is_empty(),
        }
    }
}

impl Raw {
    /// Asks for what every packet reads here.
    #[inline]
    pub(crate) fn prefetch(&self) {
        prefetch(&self.waiting);
    }

    fn id(&self, index: u32) -> Option<SocketId> {
        let socket = self.sockets.get(index as usize)?;
        Some(SocketId { kind: socket.kind(), index, generation: socket.generation })
    }

    fn get(&self, id: SocketId) -> Option<&Socket> {
        let socket = self.sockets.get(id.index as usize)?;
        (socket.kind() == id.kind && socket.generation == id.generation).then_some(socket)
    }

    fn get_mut(&mut self, id: SocketId) -> Option<&mut Socket> {
        let socket = self.sockets.get_mut(id.index as usize)?;
        (socket.kind() == id.kind && socket.generation == id.generation).then_some(socket)
    }

    fn count(&self, kind: SocketKind) -> usize {
        self.sockets.iter().filter(|(_, s)| s.kind() == kind).count()
    }

    /// Opens a raw socket.
    pub(crate) fn open_raw<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        family: Family,
        number: u8,
    ) -> Result<SocketId, BindError> {
        let limit = lower.ctx.limits.raw_sockets;
        if let Err(e) = self.may_open(SocketKind::Raw, limit) {
            lower.ctx.mib.limits.raw_sockets += 1;
            return Err(e);
        }
        let checksum_offset = (family == Family::V6 && number == protocol::ICMPV6).then_some(2);
        let use_ = Use::Raw(RawUse {
            protocol: number,
            header_included: false,
            checksum_offset,
            filter: IcmpFilter::PASS_ALL,
            queue: VecDeque::new(),
        });
        let id = self.insert(lower, family, use_);
        self.by_protocol.entry((family.is_v4(), number)).or_default().push(id.index);
        lower.ip.taps.set(family.is_v4(), number, true);
        Ok(id)
    }

    /// Opens an echo socket.
    pub(crate) fn open_icmp<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        family: Family,
    ) -> Result<SocketId, BindError> {
        let limit = lower.ctx.limits.icmp_sockets;
        if let Err(e) = self.may_open(SocketKind::Icmp, limit) {
            lower.ctx.mib.limits.icmp_sockets += 1;
            return Err(e);
        }
        // A forger must guess it, so it starts anywhere; one more than sockets are tried.
        let start = lower.ctx.rng.next_u32() as u16;
        let tries = (self.by_ident.len() + 1).min(1 << 16) as u32;
        let mut idents = (0..tries).map(|i| start.wrapping_add(i as u16));
        let free = |ident: &u16| !self.by_ident.contains_key(&(family.is_v4(), *ident));
        let ident = idents.find(free).ok_or(BindError::TooMany)?;
        let echo = EchoUse { ident, queue: VecDeque::new(), asked: VecDeque::new() };
        let id = self.insert(lower, family, Use::Echo(echo));
        self.by_ident.insert((family.is_v4(), ident), id.index);
        Ok(id)
    }

    fn may_open(&self, kind: SocketKind, limit: usize) -> Result<(), BindError> {
        match limit {
            0 => Err(BindError::NotAllowed),
            limit if self.count(kind) >= limit => Err(BindError::TooMany),
            _ => Ok(()),
        }
    }

    fn insert<P: PathLayer>(
        &mut self,
        lower: &Lower<'_, P>,
        family: Family,
        use_: Use,
    ) -> SocketId {
        self.generation = self.generation.wrapping_add(1);
        let socket = Socket {
            generation: self.generation,
            family,
            use_,
            local: family.any(),
            peer: None,
            hop_limit: None,
            traffic_class: 0,
            recv_bytes: lower.ctx.limits.raw_recv_bytes,
            held_bytes: 0,
            lost: 0,
            pending: None,
            marks: Marks::default(),
        };
        let kind = socket.kind();
        let index = self.sockets.insert(socket) as u32;
        SocketId { kind, index, generation: self.generation }
    }

    /// Fixes the local address.
    pub(crate) fn bind<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        id: SocketId,
        local: IpAddr,
    ) -> Result<(), BindError> {
        let socket = self.get_mut(id).ok_or(BindError::NotAvailable)?;
        let fits = local.is_ipv4() == socket.family.is_v4();
        if !fits || !(local.is_unspecified() || lower.may_bind(local)) {
            return Err(BindError::NotAvailable);
        }
        socket.local = local;
        Ok(())
    }

    /// Fixes the peer.
    pub(crate) fn connect<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        id: SocketId,
        peer: SocketAddr,
    ) -> Result<(), RawSendError> {
        let socket = self.get_mut(id).ok_or(RawSendError::Closed)?;
        if peer.ip().is_unspecified() {
            return Err(RawSendError::NoDestination);
        }
        if lower.is_broadcast(peer.ip()) {
            return Err(RawSendError::Broadcast);
        }
        let src = Some(socket.local).filter(|ip| !ip.is_unspecified());
        let fits = peer.is_ipv4() == socket.family.is_v4();
        let way = lower.route(src, peer.ip(), super::udp::scope(peer)).ok().filter(|_| fits);
        socket.local = way.ok_or(RawSendError::Unreachable)?.src;
        socket.peer = Some(peer);
        Ok(())
    }

    /// Sets an option; `limit` bounds the receive buffer.
    pub(crate) fn set_option(&mut self, id: SocketId, option: RawOption, limit: usize) -> bool {
        let Some(socket) = self.get_mut(id) else { return false };
        let is_v4 = socket.family.is_v4();
        match (option, &mut socket.use_) {
            (RawOption::RecvBuffer(bytes), _) => {
                socket.recv_bytes = bytes.max(RECV_BYTES_MIN).min(limit);
            }
            (RawOption::HopLimit(hops), _) => socket.hop_limit = hops,
            (RawOption::TrafficClass(class), _) => socket.traffic_class = class,
            (RawOption::HeaderIncluded(on), Use::Raw(raw)) if is_v4 => raw.header_included = on,
            (RawOption::ChecksumOffset(at), Use::Raw(raw))
                if !is_v4
                    && raw.protocol != protocol::ICMPV6
                    && at.is_none_or(|at| at.is_multiple_of(2)) =>
            {
                raw.checksum_offset = at;
            }
            (RawOption::Filter(filter), Use::Raw(raw)) => raw.filter = filter,
            _ => return false,
        }
        true
    }

    /// The local address with protocol or identifier.
    pub(crate) fn local(&self, id: SocketId) -> Option<SocketAddr> {
        let socket = self.get(id)?;
        Some(SocketAddr::new(socket.local, socket.port()))
    }

    /// Takes the oldest packet.
    pub(crate) fn recv(&mut self, id: SocketId) -> Result<RawPacket, RawRecvError> {
        let socket = self.get_mut(id).ok_or(RawRecvError::Closed)?;
        if let Some(error) = socket.pending.take() {
            return Err(error.into());
        }
        let Use::Raw(raw) = &mut socket.use_ else { return Err(RawRecvError::Closed) };
        let (packet, charge) = raw.queue.pop_front().ok_or(RawRecvError::WouldBlock)?;
        socket.held_bytes -= charge;
        Ok(packet)
    }

    /// Takes the oldest answer.
    pub(crate) fn recv_echo(&mut self, id: SocketId) -> Result<EchoAnswer, RawRecvError> {
        let socket = self.get_mut(id).ok_or(RawRecvError::Closed)?;
        let Use::Echo(echo) = &mut socket.use_ else { return Err(RawRecvError::Closed) };
        let (answer, charge) = echo.queue.pop_front().ok_or(RawRecvError::WouldBlock)?;
        socket.held_bytes -= charge;
        Ok(answer)
    }

    /// What the socket is ready for; `writable`: the transmit queue has room.
    pub(crate) fn readiness(&self, id: SocketId, writable: bool) -> Readiness {
        let Some(socket) = self.get(id) else { return Readiness::default() };
        let mut ready = Readiness::default();
        if socket.waits() || socket.pending.is_some() {
            ready |= Readiness::READABLE;
        }
        if writable {
            ready |= Readiness::WRITABLE;
        }
        if socket.pending.is_some() {
            ready |= Readiness::ERROR;
        }
        ready
    }

    /// Closes a socket.
    pub(crate) fn close<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>, id: SocketId) {
        if self.get(id).is_none() {
            return;
        }
        let socket = self.sockets.remove(id.index as usize);
        let is_v4 = socket.family.is_v4();
        match socket.use_ {
            Use::Echo(echo) => {
                self.by_ident.remove(&(is_v4, echo.ident));
            }
            Use::Raw(raw) => {
                let key = (is_v4, raw.protocol);
                let Some(all) = self.by_protocol.get_mut(&key) else { return };
                all.retain(|index| *index != id.index);
                if all.is_empty() {
                    self.by_protocol.remove(&key);
                    lower.ip.taps.set(is_v4, raw.protocol, false);
                }
            }
        }
    }

    fn tell(&mut self, index: u32) {
        self.waiting.tell(&mut self.sockets, index);
    }

    /// There is room to send again: sockets that were refused become writable.
    pub(crate) fn room_available(&mut self) {
        self.waiting.room_available(&mut self.sockets);
    }

    /// Whether a socket has something to tell, maybe one that is gone.
    #[inline]
    pub(crate) fn has_events(&self) -> bool {
        self.waiting.has_dirty()
    }

    /// The next event from the dirty list.
    pub(crate) fn poll_event(&mut self, writable: bool) -> Option<Event> {
        let index = self.waiting.next(&mut self.sockets)?;
        let id = self.id(index)?;
        Some(Event::Socket { id, ready: self.readiness(id, writable) })
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
    pub(crate) fn dump(&self, index: u32) -> Option<SocketInfo> {
        let socket = self.sockets.get(index as usize)?;
        let recv_queue = match &socket.use_ {
            Use::Raw(raw) => raw.queue.iter().map(|(p, _)| p.payload.len()).sum(),
            Use::Echo(echo) => {
                echo.queue.iter().map(|(a, _)| a.result.as_ref().map_or(0, Bytes::len)).sum()
            }
        };
        Some(SocketInfo {
            id: self.id(index)?,
            state: if socket.peer.is_some() { "ESTAB" } else { "UNCONN" },
            local: SocketAddr::new(socket.local, socket.port()),
            peer: socket.peer.unwrap_or(SocketAddr::new(socket.family.any(), 0)),
            recv_queue,
            send_queue: 0,
            alias: None,
            timer: None,
            memory: SocketMemory {
                recv_held: socket.held_bytes,
                recv_limit: socket.recv_bytes,
                drops: socket.lost,
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
