//! Connections and listeners come and go: connect, listen, accept, close.

use core::mem;
use core::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::any::{AnyPort, AnyProtocol};
use crate::ip::rule::Via;
use crate::lower::Lower;
use crate::path::PathLayer;
use crate::seq::SeqNum;
use crate::socket::tcp::{Accepted, ConnectError, ListenError, TcpError, TcpOption, TcpState};
use crate::socket::{Readiness, SocketId, SocketKind, TcpOptions};
use crate::time::Instant;
use crate::wire::protocol;

use super::calls::Closing;
use super::flow_table::{Flow, FlowKey};
use super::isn::{initial_sequence, timestamp_offset};
use super::passive::REUSE_GAP;
use super::state::{Connection, Cx, Origin, Owner};
use super::{Tcp, emit};

impl Tcp {
    pub(crate) fn listen<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        local: SocketAddr,
        backlog: usize,
    ) -> Result<SocketId, ListenError> {
        if !local.ip().is_unspecified() && !lower.may_bind(local.ip()) {
            return Err(ListenError::NotAvailable);
        }
        if self.listeners.len() >= lower.ctx.limits.tcp_listeners {
            lower.ctx.mib.limits.tcp_listeners += 1;
            return Err(ListenError::TooMany);
        }
        let mut local = local;
        if local.port() == 0 {
            let seed = (local.ip(), local.ip(), 0);
            let free = |port| !self.listeners.is_taken(SocketAddr::new(local.ip(), port));
            let port = self.ports.pick(&lower.ctx.secrets.port, seed, free);
            local.set_port(port.ok_or(ListenError::InUse)?);
        } else if self.listeners.is_taken(local) {
            return Err(ListenError::InUse);
        }
        let generation = self.next_generation();
        let index = self.listeners.insert(local, backlog, Arc::clone(&self.settings), generation);
        Ok(SocketId { kind: SocketKind::TcpListener, index, generation })
    }

    /// Who takes a SYN: the vserver's own listener, else the host's for any vserver.
    pub(super) fn listener_for(&mut self, addr: IpAddr, port: u16) -> Option<u32> {
        self.listeners.lookup(addr, port).or_else(|| self.any_listener(addr.is_ipv4(), port))
    }

    /// Its queues in this stack are made when they are first needed.
    fn any_listener(&mut self, v4: bool, port: u16) -> Option<u32> {
        let found = self.any.find(AnyProtocol::Tcp, v4, port)?;
        if let Some(slot) = self.listeners.of_any(found.number) {
            return Some(slot);
        }
        let generation = self.next_generation();
        let found = AnyPort { backlog: self.shard.part(found.backlog), ..found };
        Some(self.listeners.insert_any(&found, Arc::clone(&self.settings), generation))
    }

    /// The binding for any vserver that a listener belongs to.
    pub(crate) fn any_of(&self, id: SocketId) -> Option<u32> {
        let slot = self.find(id).filter(|_| id.kind == SocketKind::TcpListener)?;
        self.listeners.get(slot)?.any
    }

    /// Closes what the stack has of a binding for any vserver.
    pub(crate) fn close_any<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        number: u32,
    ) -> bool {
        let Some(slot) = self.listeners.of_any(number) else { return false };
        self.close_listener(lower, slot);
        true
    }

    /// Connections that wait at the listener of an address, and its backlog.
    pub(crate) fn listener_queue(&self, local: SocketAddr) -> Option<(usize, usize)> {
        self.listeners.at(local).map(|l| (l.accept_queue.len(), l.backlog))
    }

    pub(crate) fn accept(&mut self, id: SocketId) -> Option<Accepted> {
        let slot = self.find(id).filter(|_| id.kind == SocketKind::TcpListener)?;
        let index = self.listeners.get_mut(slot)?.accept_queue.pop_front()?;
        let c = self.connections.get_mut(index as usize)?;
        c.owner = Owner::App;
        let id = Tcp::id_of(c, index);
        if !c.notes.event_queued {
            // Data may wait already.
            c.notes.event_queued = true;
            self.events.push_back(id);
        }
        let c = &self.connections[index as usize];
        Some(Accepted { id, local: c.key.local(), peer: c.key.peer(), alias: c.alias })
    }

    pub(crate) fn connect<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        local: Option<SocketAddr>,
        remote: SocketAddr,
        data: Option<&[u8]>,
    ) -> Result<(SocketId, usize), ConnectError> {
        if !can_be_peer(remote) {
            return Err(ConnectError::InvalidRemote);
        }
        let wanted = local.map(|l| l.ip()).filter(|ip| !ip.is_unspecified());
        if let Some(ip) = wanted
            && (!lower.is_local(ip) || ip.is_ipv4() != remote.is_ipv4())
        {
            return Err(ConnectError::NotAvailable);
        }
        let own = local.map_or(0, |l| l.port());
        let services = lower.ip.services_of(|| (protocol::TCP, own, remote.port()));
        let route = lower
            .route(wanted, remote.ip(), Via { services, ..Via::default() })
            .map_err(|_| ConnectError::Unreachable)?;
        if !self.make_room(lower) {
            lower.ctx.mib.limits.tcp_connects += 1;
            return Err(ConnectError::TooMany);
        }
        let port = local.map_or(0, |l| l.port());
        let (key, old) = self.free_tuple(lower, SocketAddr::new(route.src, port), remote)?;
        let now = lower.ctx.now;
        let clock = initial_sequence(lower.ctx.secrets, &key, now);
        let origin = Origin {
            key,
            alias: route.alias,
            iss: old.map_or(clock, |old| clock.max(old + REUSE_GAP)),
            ts_offset: timestamp_offset(lower.ctx.secrets, &key),
            mtu: route.mtu,
        };
        let mut cx = Cx { now, stats: &mut lower.ctx.mib.tcp, budget: self.budget };
        let mut c = Connection::connect(origin, Arc::clone(&self.settings), &mut cx);
        let taken = c.open_with(&mut cx, data.unwrap_or_default());
        if data.is_some() && self.fast_open_client {
            c.notes.opening.offer = self.cookies.offer(key.peer, now);
        }
        c.notes.generation = self.next_generation();
        let index = self.connections.insert(Box::new(c)) as u32;
        self.flows.insert(&key, Flow::Connection(index));
        self.pairs.insert(&key, index);
        self.settle(lower, index);
        Ok((Tcp::id_of(&self.connections[index as usize], index), taken))
    }

    /// Two connections of the application trade handles: each handle means the other one from now
    /// on, and what that is ready for is told. `false`, and nothing changed: a handle is stale.
    pub(crate) fn exchange<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        a: SocketId,
        b: SocketId,
    ) -> bool {
        let is_app = |id| self.connection(id).is_some_and(|c| c.owner == Owner::App);
        if a == b || !is_app(a) || !is_app(b) {
            return false;
        }
        self.unlink(lower, a.index);
        self.unlink(lower, b.index);
        let (at_a, at_b) = (a.index as usize, b.index as usize);
        if let Some((x, y)) = self.connections.get2_mut(at_a, at_b) {
            mem::swap(x, y);
            // The slot's, not the connection's; and what the holder of the handle has set.
            mem::swap(&mut x.settings, &mut y.settings);
            mem::swap(&mut x.notes.generation, &mut y.notes.generation);
            mem::swap(&mut x.notes.dirty, &mut y.notes.dirty);
            mem::swap(&mut x.notes.event_queued, &mut y.notes.event_queued);
            let cx = Cx { now: lower.ctx.now, stats: &mut lower.ctx.mib.tcp, budget: self.budget };
            let (of_x, of_y) = (Arc::clone(&x.settings), Arc::clone(&y.settings));
            if !Arc::ptr_eq(&of_x, &of_y) {
                x.follow_settings(&cx, &of_y);
                y.follow_settings(&cx, &of_x);
            }
        }
        self.link(lower, a.index);
        self.link(lower, b.index);
        true
    }

    /// Neither segments nor timers lead to the slot any more.
    fn unlink<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>, index: u32) {
        let c = &mut self.connections[index as usize];
        let (key, detached, armed) = (c.key, c.notes.detached, c.notes.armed.take());
        if !detached {
            self.flows.remove(&key, Flow::Connection(index));
        }
        self.pairs.remove(&key, index);
        if let Some((_, timer)) = armed {
            lower.ctx.timers.cancel(timer);
        }
    }

    /// They lead to whatever is in the slot now.
    fn link<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>, index: u32) {
        let c = &mut self.connections[index as usize];
        c.wake = true;
        let (key, detached) = (c.key, c.notes.detached);
        if !detached {
            self.flows.insert(&key, Flow::Connection(index));
        }
        self.pairs.insert(&key, index);
        self.settle(lower, index);
    }

    /// A four-tuple for a connect; a TIME-WAIT entry that stood in the way is gone, and what its
    /// sequence numbers came to is told.
    fn free_tuple<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<(FlowKey, Option<SeqNum>), ConnectError> {
        let mut key = FlowKey::new(local, remote);
        let now = lower.ctx.now;
        if local.port() == 0 {
            let seed = (local.ip(), remote.ip(), remote.port());
            let mut ports = std::mem::take(&mut self.ports);
            let at = |port| self.flow(&FlowKey { local_port: port, ..key });
            let shard = lower.ctx.shard;
            // A port whose answers come to this shard.
            let ours = |port| shard.owns_flow(SocketAddr::new(local.ip(), port), remote);
            let port_key = &lower.ctx.secrets.port;
            let port = ports.pick(port_key, seed, |port| ours(port) && at(port).is_none());
            // Only when no port is free: TIME-WAIT costs nothing to leave alone.
            let port = port.or_else(|| {
                let gives_way = |port| self.may_take_over(at(port), now).is_some();
                ports.pick(port_key, seed, |port| ours(port) && gives_way(port))
            });
            self.ports = ports;
            key.local_port = port.ok_or(ConnectError::InUse)?;
        } else if !lower.ctx.shard.owns_flow(local, remote) {
            return Err(ConnectError::OtherShard);
        }
        let Some(flow) = self.flow(&key) else { return Ok((key, None)) };
        let slot = self.may_take_over(Some(flow), now).ok_or(ConnectError::InUse)?;
        let old = self.time_waits.remove(slot);
        self.flows.remove(&key, flow);
        lower.ctx.mib.tcp.time_waits_reused += 1;
        Ok((key, old.map(|e| e.snd_nxt)))
    }

    /// The slot of a TIME-WAIT entry that gives way to a connect.
    fn may_take_over(&self, flow: Option<Flow>, now: Instant) -> Option<u32> {
        let Some(Flow::TimeWait(slot)) = flow else { return None };
        self.time_waits.get(slot)?.may_connect(now).then_some(slot)
    }

    /// Gives a handle up.
    pub(crate) fn close<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>, id: SocketId) {
        let Some(index) = self.find(id) else { return };
        if id.kind == SocketKind::TcpListener {
            self.close_listener(lower, index);
            return;
        }
        let c = &mut self.connections[index as usize];
        let mut cx = Cx { now: lower.ctx.now, stats: &mut lower.ctx.mib.tcp, budget: self.budget };
        match c.close(&mut cx) {
            Closing::Background => {}
            closing @ (Closing::Reset | Closing::Abort) => {
                if closing == Closing::Reset {
                    cx.stats.abort_on_data += 1;
                } else {
                    cx.stats.abort_on_linger += 1;
                }
                self.reset(lower, index);
                return;
            }
            Closing::Silent => {
                if c.state == TcpState::SynSent {
                    cx.stats.attempt_fails += 1;
                    c.finish(&mut cx);
                }
            }
        }
        self.settle(lower, index);
    }

    fn close_listener<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>, slot: u32) {
        let Some(listener) = self.listeners.remove(slot) else { return };
        let refused = self.forget_half_open_if(|r| r.listener == slot);
        lower.ctx.mib.tcp.attempt_fails += refused;
        for index in listener.accept_queue {
            self.reset(lower, index);
        }
    }

    /// Resets a connection and forgets it.
    pub(super) fn reset<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>, index: u32) {
        let c = &mut self.connections[index as usize];
        c.owner = Owner::Nobody;
        c.notes.abort = false;
        let speaks = !matches!(
            c.state,
            TcpState::Closed | TcpState::Listen | TcpState::SynSent | TcpState::TimeWait
        );
        if speaks {
            let (key, alias, rst) = (c.key, c.alias, c.reset_header(lower.ctx.now));
            let mut cx =
                Cx { now: lower.ctx.now, stats: &mut lower.ctx.mib.tcp, budget: self.budget };
            c.fail(&mut cx, TcpError::Aborted);
            emit::send_header(lower, &key, alias, rst);
        } else if c.state == TcpState::SynSent {
            let mut cx =
                Cx { now: lower.ctx.now, stats: &mut lower.ctx.mib.tcp, budget: self.budget };
            c.fail(&mut cx, TcpError::Aborted);
        }
        self.settle(lower, index);
    }

    /// Resets every connection, with or without a handle, closes every listener and forgets
    /// TIME-WAIT.
    pub(crate) fn drain<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>) {
        let listeners: Vec<u32> = self.listeners.iter().map(|(slot, _)| slot).collect();
        for slot in listeners {
            self.close_listener(lower, slot);
        }
        let connections: Vec<u32> = self.connections.iter().map(|(i, _)| i as u32).collect();
        for index in connections {
            self.reset(lower, index);
        }
        while let Some((slot, entry)) = self.time_waits.evict() {
            self.flows.remove(&entry.key, Flow::TimeWait(slot));
        }
    }

    /// Resets a connection and gives its handle up; a listener is closed.
    pub(crate) fn abort<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>, id: SocketId) {
        match (self.find(id), id.kind) {
            (Some(index), SocketKind::TcpStream) => self.reset(lower, index),
            (Some(slot), _) => self.close_listener(lower, slot),
            (None, _) => {}
        }
    }

    pub(crate) fn set_option<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        id: SocketId,
        option: TcpOption,
    ) -> bool {
        if id.kind == SocketKind::TcpListener {
            let Some(slot) = self.find(id) else { return false };
            let Some(listener) = self.listeners.get_mut(slot) else { return false };
            Arc::make_mut(&mut listener.settings).set(option);
            return true;
        }
        self.with_connection(lower, id, |c, cx| c.set_option(cx, option)).is_some()
    }

    pub(crate) fn options(&self, id: SocketId) -> Option<TcpOptions> {
        if id.kind == SocketKind::TcpListener {
            let settings = &self.listeners.get(self.find(id)?)?.settings;
            return Some(settings.options(settings.send_buffer, settings.recv_buffer));
        }
        let c = self.connection(id)?;
        Some(c.settings.options(c.send.limit(), c.recv.limit()))
    }

    pub(crate) fn state(&self, id: SocketId) -> TcpState {
        match id.kind {
            SocketKind::TcpListener if self.find(id).is_some() => TcpState::Listen,
            _ => self.connection(id).map_or(TcpState::Closed, |c| c.state),
        }
    }

    pub(crate) fn addrs(&self, id: SocketId) -> Option<(SocketAddr, SocketAddr)> {
        if id.kind == SocketKind::TcpListener {
            let local = self.listeners.get(self.find(id)?)?.local;
            let any: IpAddr = if local.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
            return Some((local, SocketAddr::new(any, 0)));
        }
        self.connection(id).map(|c| (c.key.local(), c.key.peer()))
    }

    pub(crate) fn take_error(&mut self, id: SocketId) -> Option<TcpError> {
        let index = self.find(id).filter(|_| id.kind == SocketKind::TcpStream)?;
        self.connections.get_mut(index as usize)?.take_error()
    }

    pub(crate) fn readiness(&self, id: SocketId) -> Readiness {
        if id.kind == SocketKind::TcpListener {
            let listener = self.find(id).and_then(|slot| self.listeners.get(slot));
            let waits = listener.is_some_and(|l| !l.accept_queue.is_empty());
            return if waits { Readiness::READABLE } else { Readiness::default() };
        }
        let gone = Readiness::READ_CLOSED | Readiness::WRITE_CLOSED;
        self.connection(id).map_or(gone, Connection::readiness)
    }
}

/// Unicast, specified, with a port.
fn can_be_peer(remote: SocketAddr) -> bool {
    let broadcast = matches!(remote.ip(), IpAddr::V4(a) if a.is_broadcast());
    !(remote.port() == 0 || remote.ip().is_unspecified() || remote.ip().is_multicast() || broadcast)
}
