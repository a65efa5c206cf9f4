//! UDP (RFC 768): bound sockets, demultiplexing, receive queues, errors.
//!
//! A datagram goes to the socket connected to its sender, else to one that is not connected and
//! bound to its address, else to `0.0.0.0` or `::`; among sockets that share a port a hash of the
//! sender decides. Datagrams to a group or broadcast go to every socket that wants them. `::` binds
//! both families.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use core::sync::atomic::Ordering;
use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;
use slab::Slab;
use smallvec::SmallVec;

use super::waiting::{Marked, Marks, Waiting};
use crate::any::AnyScopes;
use crate::frame::prefetch;
use crate::hash::ConfiguredKeys;
use crate::ip::address::AliasId;
use crate::rng::{Key, Secrets};
use crate::shard::SharedCounts;
use crate::socket::udp::{Datagram, UdpBind, UdpError, UdpErrorReport, UdpOption, UdpRecvError};
use crate::socket::{Event, Readiness, SocketId, SocketInfo, SocketKind, SocketMemory};

mod bind;
mod errors;
mod input;
mod membership;
mod output;

pub(super) use errors::meaning;
use membership::Membership;
pub(crate) use output::Payload;

const HEADER_LEN: usize = 8;
/// The smallest receive buffer: one small datagram.
const RECV_BYTES_MIN: usize = 2048;

const ANY4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

#[derive(Debug)]
struct Socket {
    generation: u32,
    /// As bound; a connect fills in the address.
    local: SocketAddr,
    peer: Option<SocketAddr>,
    how: UdpBind,
    /// What it is bound by.
    bound: IpAddr,
    options: Options,
    queue: VecDeque<(Datagram, usize)>,
    /// Charged for the queue.
    held_bytes: usize,
    /// Datagrams lost because the queue was full.
    lost: u64,
    /// An earlier datagram failed; told once.
    pending: Option<UdpError>,
    errors: VecDeque<UdpErrorReport>,
    groups: Vec<Membership>,
    /// It is the host's for any vserver: the number of its binding.
    any: Option<u32>,
    marks: Marks,
}

#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option that applications switch")]
struct Options {
    broadcast: bool,
    recv_bytes: usize,
    hop_limit: Option<u8>,
    multicast_hop_limit: u8,
    multicast_loop: bool,
    multicast_alias: Option<AliasId>,
    traffic_class: u8,
    dont_fragment: bool,
    error_queue: bool,
    keep_segments: bool,
    mark: u32,
}

/// Sockets bound to one address and port.
#[derive(Debug, Default)]
struct Bucket {
    all: SmallVec<[u32; 1]>,
    /// Of these, those without a peer.
    open: SmallVec<[u32; 1]>,
}

/// Connected sockets that are gone through for those between two addresses.
const FLOWS_LOOKED_AT: usize = 1024;

/// Local address and port, peer's address and port.
type Flow = (IpAddr, u16, IpAddr, u16);

/// UDP of one stack.
#[derive(Debug)]
pub(crate) struct Udp {
    sockets: Slab<Socket>,
    bound: HashMap<(IpAddr, u16), Bucket, ConfiguredKeys>,
    /// Connected sockets. Peers may choose what is connected to.
    flows: HashMap<Flow, u32, Key>,
    /// Who is bound where the vserver is not, and what is in use of it, by number of the binding.
    pub(crate) any: AnyScopes,
    any_in_use: Vec<(u32, u32)>,
    waiting: Waiting,
    generation: u32,
    shared: Option<Arc<SharedCounts>>,
    /// What IP said of the last plain datagram.
    accepted: Option<Accepted>,
    /// Datagrams that are like others take the short ways up and down.
    #[cfg(any(test, feature = "check"))]
    pub(crate) predict: bool,
}

/// Alias, version of the stack's addresses, source and destination of datagrams that are for us.
type Accepted = (AliasId, u32, IpAddr, IpAddr);

/// IPv4-mapped addresses mean IPv4.
fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), addr.port()),
        IpAddr::V6(_) => addr,
    }
}

/// The alias a scope id names: the alias number plus one, as 0 means none.
pub(super) fn scope(addr: SocketAddr) -> Option<AliasId> {
    match addr {
        SocketAddr::V6(a) => a.scope_id().checked_sub(1).map(|n| AliasId(n as u16)),
        SocketAddr::V4(_) => None,
    }
}

/// A peer's address; link-local ones carry the scope id of their alias.
pub(super) fn peer_addr(ip: IpAddr, port: u16, alias: AliasId) -> SocketAddr {
    match ip {
        IpAddr::V6(a) if a.is_unicast_link_local() => {
            SocketAddrV6::new(a, port, 0, u32::from(alias.0) + 1).into()
        }
        ip => SocketAddr::new(ip, port),
    }
}

impl Marked for Socket {
    fn marks(&mut self) -> &mut Marks {
        &mut self.marks
    }
}

impl Udp {
    /// Whether a socket is connected between two addresses. Where many are, nobody looks.
    pub(crate) fn connects(&self, local: IpAddr, peer: IpAddr) -> bool {
        self.flows.len() <= FLOWS_LOOKED_AT
            && self.flows.keys().any(|(from, _, to, _)| (*from, *to) == (local, peer))
    }

    /// Asks for what every packet reads here; of a datagram (`all`) more.
    #[inline]
    pub(crate) fn prefetch(&self, all: bool) {
        prefetch(&self.waiting);
        if all {
            prefetch(&self.sockets);
            prefetch(&self.bound);
            prefetch(&self.flows);
        }
    }

    /// No sockets.
    pub(crate) fn new(secrets: &Secrets, shared: Option<Arc<SharedCounts>>, any: AnyScopes) -> Udp {
        Udp {
            shared,
            any,
            any_in_use: Vec::new(),
            sockets: Slab::new(),
            bound: HashMap::default(),
            flows: HashMap::with_hasher(secrets.flow),
            waiting: Waiting::default(),
            generation: 0,
            accepted: None,
            #[cfg(any(test, feature = "check"))]
            predict: true,
        }
    }

    /// Whether datagrams that are like others take the short ways up and down.
    #[inline]
    #[cfg_attr(not(any(test, feature = "check")), allow(clippy::unused_self))]
    fn takes_short_ways(&self) -> bool {
        #[cfg(any(test, feature = "check"))]
        return self.predict;
        #[cfg(not(any(test, feature = "check")))]
        true
    }

    /// One socket more, unless the vserver has `limit` of them, on all shards.
    fn count_in(&self, limit: usize) -> bool {
        let Some(shared) = &self.shared else { return self.own() < limit };
        let more = |n: usize| (n < limit).then_some(n + 1);
        shared.udp_sockets.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Sockets of the vserver itself.
    fn own(&self) -> usize {
        self.sockets.len() - self.any_in_use.len()
    }

    fn count_out(&self) {
        if let Some(shared) = &self.shared {
            shared.udp_sockets.fetch_sub(1, Ordering::Relaxed);
        }
    }

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

    fn tell(&mut self, index: u32) {
        self.waiting.tell(&mut self.sockets, index);
    }

    /// There is room to send again: sockets that were refused become writable.
    pub(crate) fn room_available(&mut self) {
        self.waiting.room_available(&mut self.sockets);
    }

    /// Takes the oldest datagram.
    pub(crate) fn recv(&mut self, id: SocketId) -> Result<Datagram, UdpRecvError> {
        let socket = self.get_mut(id).ok_or(UdpRecvError::Closed)?;
        if let Some(error) = socket.pending.take() {
            return Err(error.into());
        }
        let (datagram, charge) = socket.queue.pop_front().ok_or(UdpRecvError::WouldBlock)?;
        socket.held_bytes -= charge;
        Ok(datagram)
    }

    /// Sets an option; `limit` bounds the receive buffer.
    pub(crate) fn set_option(&mut self, id: SocketId, option: UdpOption, limit: usize) -> bool {
        let Some(socket) = self.get_mut(id) else { return false };
        let o = &mut socket.options;
        match option {
            UdpOption::Broadcast(on) => o.broadcast = on,
            UdpOption::RecvBuffer(bytes) => o.recv_bytes = bytes.max(RECV_BYTES_MIN).min(limit),
            UdpOption::HopLimit(hops) => o.hop_limit = hops,
            UdpOption::MulticastHopLimit(hops) => o.multicast_hop_limit = hops,
            UdpOption::MulticastLoop(on) => o.multicast_loop = on,
            UdpOption::MulticastAlias(alias) => o.multicast_alias = alias,
            UdpOption::TrafficClass(class) => o.traffic_class = class,
            UdpOption::DontFragment(on) => o.dont_fragment = on,
            UdpOption::ErrorQueue(on) => {
                o.error_queue = on;
                if !on {
                    socket.errors.clear();
                }
            }
            UdpOption::KeepSegments(on) => o.keep_segments = on,
            UdpOption::Mark(mark) => o.mark = mark,
        }
        true
    }

    /// The bound address.
    pub(crate) fn local(&self, id: SocketId) -> Option<SocketAddr> {
        self.get(id).map(|s| s.local)
    }

    /// The peer, if connected.
    pub(crate) fn peer(&self, id: SocketId) -> Option<SocketAddr> {
        self.get(id)?.peer
    }

    /// What the socket is ready for; `writable`: the transmit queue has room.
    pub(crate) fn readiness(&self, id: SocketId, writable: bool) -> Readiness {
        let Some(socket) = self.get(id) else { return Readiness::default() };
        let mut ready = Readiness::default();
        let failed = socket.pending.is_some() || !socket.errors.is_empty();
        if !socket.queue.is_empty() || failed {
            ready |= Readiness::READABLE;
        }
        if writable {
            ready |= Readiness::WRITABLE;
        }
        if failed {
            ready |= Readiness::ERROR;
        }
        ready
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
                recv_limit: socket.options.recv_bytes,
                drops: socket.lost,
                ..SocketMemory::default()
            },
            owned: true,
        })
    }

    /// Sockets, and bytes they hold unread.
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.own(), self.sockets.iter().map(|(_, s)| s.held_bytes).sum())
    }
}
