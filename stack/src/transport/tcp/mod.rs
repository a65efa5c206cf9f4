//! TCP (RFC 9293) of one stack.
//!
//! A `Connection` (`state.rs`) knows nothing of the others; this table finds it (flow
//! table), hands it segments and time, and sends what it has to say when the way out has room
//! (dirty list). No call here looks at every connection, but for dumps and removed addresses.
//!
//! Invariants: a connection is in the dirty list at most once, has at most one event pending and
//! at most one timer in the wheel, armed at or before its earliest deadline.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use slab::Slab;

use crate::any::AnyScopes;
use crate::ctx::Timer;
use crate::frame::{Frame, prefetch};
use crate::ip::address::AliasId;
use crate::ip::icmp::ErrorLimit;
use crate::ip::rule::Via;
use crate::lower::{IcmpError, IcmpErrorKind, Lower, MappedWay, RouteInfo};
use crate::path::{Advice, PathLayer};
use crate::rng::Secrets;
use crate::seq::SeqNum;
use crate::shard::Shard;
use crate::socket::tcp::{TcpError, TcpState};
use crate::socket::{Event, SocketId, SocketKind};
use crate::stack::{FastOpen, StackConfig, SynCookies, TcpConfig};
use crate::time::Instant;
use crate::timer_wheel::{TimerHandle, TimerWheel};

mod accurate_ecn;
mod ack;
mod admission;
mod assembler;
mod autotune;
mod calls;
pub mod cc;
mod challenge;
#[cfg(any(test, feature = "check"))]
mod check;
mod delayed_ack;
mod demux;
mod dump;
mod ecn;
mod emit;
mod fast_open;
mod flow_table;
mod half_open;
mod input;
mod isn;
mod listen;
mod on_demand;
mod open;
mod output;
mod pacing;
mod passive;
mod paths;
mod payload;
mod plpmtud;
mod ports;
mod predict;
mod pressure;
mod prr;
mod rack;
mod rate;
mod recovery;
mod recv_buffer;
mod retransmit;
mod rtt;
mod sack;
mod send_buffer;
mod sent;
mod settings;
mod small;
mod state;
mod syn_cookie;
mod tail_probe;
#[cfg(test)]
mod tests;
mod time_wait;
mod timers;
mod times;
mod undo;
mod urgent;

use challenge::ChallengeBudget;
use fast_open::CookieCache;
use flow_table::{Flow, FlowKey, FlowTable};
use half_open::HalfOpen;
use listen::Listeners;
use output::{PathLimits, SegmentOut};
use paths::{Pairs, flow_of};
use plpmtud::TooBig;
use ports::Ports;
use pressure::Budget;
pub(crate) use send_buffer::{SHARE_BYTES_MIN, SHARE_POOL_BYTES_MIN};
pub(crate) use state::Connection;
use state::{Cx, Owner, Settings};
use time_wait::TimeWaits;

/// Connections that are looked at before the flow table is; a power of two.
const RECENT_FLOWS: usize = 16;

/// Frames one connection may send before the next one's turn.
const BURST_FRAMES: usize = 16;

/// Stands for all of TIME-WAIT in [`Timer::Tcp`].
const TIME_WAIT_TIMER: u32 = u32::MAX;

/// Stands for the SYN queue in [`Timer::Tcp`].
const HALF_OPEN_TIMER: u32 = u32::MAX - 1;

/// The unspecified address of the family.
fn any_of(addr: SocketAddr) -> IpAddr {
    if addr.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() }
}

/// TCP of one stack: listeners, connections, the flow table.
#[repr(C, align(64))]
pub(crate) struct Tcp {
    // What every packet of any protocol asks for comes first.
    /// Connections with something to send.
    dirty: VecDeque<u32>,
    /// Sockets with something to tell.
    events: VecDeque<SocketId>,
    connections: Slab<Box<Connection>>,
    flows: FlowTable,
    /// Slots of connections that plain segments were for lately, by a cheap hash: guesses.
    recent: [u32; RECENT_FLOWS],
    /// Between which locators rewritten segments came last, for which IP takes them.
    accepted_below: Option<predict::AcceptedBelow>,
    listeners: Listeners,
    /// Who listens where the vserver does not.
    pub(crate) any: AnyScopes,
    shard: Shard,
    time_waits: TimeWaits,
    time_wait_armed: bool,
    ports: Ports,
    challenge: ChallengeBudget,
    /// RSTs to what belongs to nothing.
    resets: ErrorLimit,
    settings: Arc<Settings>,
    budget: Budget,
    /// The SYN queues of all listeners.
    half_open: HalfOpen,
    half_open_armed: Option<(Instant, TimerHandle)>,
    syn_cookies: SynCookies,
    /// Fast Open of connects: whether it is used, and the cookies of servers.
    fast_open_client: bool,
    cookies: CookieCache,
    /// Connections of listeners that Fast Open opened and whose handshake is not over.
    fast_opens: usize,
    generation: u32,
    /// Connections by their addresses, for a path layer that maps packets.
    pairs: Pairs,
    /// Predicted segments take the short way.
    #[cfg(any(test, feature = "check"))]
    pub(crate) predict: bool,
}

impl Tcp {
    /// Asks for what every packet reads here; of a segment (`all`) more.
    #[inline]
    pub(crate) fn prefetch(&self, all: bool) {
        prefetch(&self.dirty);
        prefetch(&self.events);
        if all {
            prefetch(&self.connections);
            prefetch(&self.flows);
            prefetch(&self.recent);
            prefetch(&self.budget);
        }
    }

    /// An empty table.
    pub(crate) fn new(config: &StackConfig, secrets: &Secrets) -> Tcp {
        Tcp {
            connections: Slab::new(),
            flows: FlowTable::new(secrets.flow),
            recent: [u32::MAX; RECENT_FLOWS],
            accepted_below: None,
            listeners: Listeners::default(),
            any: config.any.clone(),
            shard: config.shard,
            time_waits: TimeWaits::new(Duration::from_secs(u64::from(config.tcp.time_wait_s))),
            time_wait_armed: false,
            ports: Ports::default(),
            challenge: ChallengeBudget::default(),
            resets: ErrorLimit::new(Instant::ZERO, config.limits.tcp_resets_per_second),
            settings: Arc::new(Settings::new(&config.tcp)),
            budget: Budget::new(config.limits.tcp_bytes),
            dirty: VecDeque::new(),
            events: VecDeque::new(),
            half_open: HalfOpen::default(),
            half_open_armed: None,
            syn_cookies: config.tcp.syn_cookies,
            fast_open_client: matches!(config.tcp.fast_open, FastOpen::Client | FastOpen::Both),
            cookies: CookieCache::new(secrets.flow),
            fast_opens: 0,
            generation: 0,
            pairs: Pairs::new(secrets.flow),
            #[cfg(any(test, feature = "check"))]
            predict: true,
        }
    }

    /// Bytes that all connections may hold, from now on.
    pub(crate) fn set_memory(&mut self, bytes: usize) {
        self.budget.limit = bytes;
    }

    /// Other defaults, for sockets made from now on.
    pub(crate) fn set_defaults(&mut self, config: &TcpConfig) {
        self.settings = Arc::new(Settings::new(config));
        self.syn_cookies = config.syn_cookies;
        self.fast_open_client = matches!(config.fast_open, FastOpen::Client | FastOpen::Both);
        self.time_waits.set_length(Duration::from_secs(u64::from(config.time_wait_s)));
    }

    fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    fn id_of(c: &Connection, index: u32) -> SocketId {
        SocketId { kind: SocketKind::TcpStream, index, generation: c.notes.generation }
    }

    /// The slot of a live handle.
    pub(crate) fn find(&self, id: SocketId) -> Option<u32> {
        let live = match id.kind {
            SocketKind::TcpStream => self
                .connections
                .get(id.index as usize)
                .is_some_and(|c| c.notes.generation == id.generation && c.owner == Owner::App),
            SocketKind::TcpListener => {
                self.listeners.get(id.index).is_some_and(|l| l.generation == id.generation)
            }
            SocketKind::Udp | SocketKind::Raw | SocketKind::Icmp => false,
        };
        live.then_some(id.index)
    }

    pub(crate) fn connection(&self, id: SocketId) -> Option<&Connection> {
        let index = self.find(id).filter(|_| id.kind == SocketKind::TcpStream)?;
        self.connections.get(index as usize).map(|c| &**c)
    }

    /// Calls `f` on a connection of the application, then sees to what follows from it.
    pub(crate) fn with_connection<P: PathLayer, R>(
        &mut self,
        lower: &mut Lower<'_, P>,
        id: SocketId,
        f: impl FnOnce(&mut Connection, &mut Cx<'_>) -> R,
    ) -> Option<R> {
        let index = self.find(id).filter(|_| id.kind == SocketKind::TcpStream)?;
        let mut cx = Cx { now: lower.ctx.now, stats: &mut lower.ctx.mib.tcp, budget: self.budget };
        let result = f(&mut self.connections[index as usize], &mut cx);
        self.settle(lower, index);
        Some(result)
    }

    /// Brings the table in line with a connection that something happened to.
    fn settle<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>, index: u32) {
        let Some(c) = self.connections.get_mut(index as usize) else { return };
        if self.budget.account(c) {
            lower.ctx.mib.tcp.memory_pressures += 1;
        }
        let open = matches!(c.state, TcpState::Established | TcpState::FinWait2);
        let news = c.notes.embryo || c.notes.abort || c.notes.opening.offer.is_some();
        if (!open || news) && self.settle_state(lower, index) {
            return;
        }
        self.queue_event(index);
        let c = &mut self.connections[index as usize];
        if !c.notes.dirty && c.wants_output() {
            c.notes.dirty = true;
            self.dirty.push_back(index);
        }
        // Its turn to send comes next, and changes deadlines again; the timer that is armed finds
        // those of a connection whose turn does not come.
        if !c.notes.dirty || c.notes.armed.is_none() {
            self.arm(lower, index);
        }
    }

    /// What a change of state asks for; true if there is no connection to go on with.
    fn settle_state<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>, index: u32) -> bool {
        let c = &self.connections[index as usize];
        if c.notes.embryo && c.state != TcpState::SynReceived {
            self.leave_handshake(index);
        }
        if self.connections[index as usize].notes.abort {
            self.reset(lower, index);
            return true;
        }
        let c = &mut self.connections[index as usize];
        if std::mem::take(&mut c.notes.last_word) {
            emit::send_header(lower, &c.key, c.alias, c.reset_header(lower.ctx.now));
        }
        if self.connections[index as usize].notes.opening.offer.is_some() {
            self.learn_fast_open(lower, index);
        }
        self.leave_flow_table(lower, index)
    }

    /// The application is told, if there is something to tell.
    fn queue_event(&mut self, index: u32) {
        let c = &mut self.connections[index as usize];
        if std::mem::take(&mut c.wake) && c.owner == Owner::App && !c.notes.event_queued {
            c.notes.event_queued = true;
            self.events.push_back(Tcp::id_of(c, index));
        }
    }

    /// What the handshake of a client taught about Fast Open, once it is over.
    fn learn_fast_open<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>, index: u32) {
        let c = &mut self.connections[index as usize];
        if c.state == TcpState::SynSent {
            return;
        }
        if let Some(offer) = c.notes.opening.offer.take()
            && self.cookies.learn(c.key.peer, &offer, c.notes.opening.taken, lower.ctx.now)
        {
            lower.ctx.mib.tcp.fast_open_blackholes += 1;
        }
    }

    /// TIME-WAIT shrinks to its entry, CLOSED to nothing; true if the slot is free now.
    fn leave_flow_table<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>, index: u32) -> bool {
        let c = &mut self.connections[index as usize];
        if !matches!(c.state, TcpState::TimeWait | TcpState::Closed) {
            return false;
        }
        if !c.notes.detached {
            c.notes.detached = true;
            if c.state == TcpState::TimeWait {
                let entry = c.time_wait_entry();
                if std::mem::take(&mut c.ack_now) {
                    emit::send_header(lower, &entry.key, entry.alias, entry.ack(lower.ctx.now));
                }
                let slot = self.time_waits.insert(entry, lower.ctx.now);
                let (from, to) = (Flow::Connection(index), Flow::TimeWait(slot));
                self.flows.replace(&entry.key, from, to);
                self.arm_time_wait(lower);
            } else {
                let key = c.key;
                self.flows.remove(&key, Flow::Connection(index));
            }
        }
        if self.connections[index as usize].owner != Owner::Nobody {
            return false;
        }
        self.free(lower, index);
        true
    }

    fn free<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>, index: u32) {
        let Some(c) = self.connections.try_remove(index as usize) else { return };
        self.pairs.remove(&c.key, index);
        self.release(c.notes.charged);
        if let Some((_, timer)) = c.notes.armed {
            lower.ctx.timers.cancel(timer);
        }
    }

    /// The wheel is touched only when the deadline moved forward; a timer that fires early finds
    /// nothing due and is armed again.
    // Inline: a call to find out that nothing is to be done.
    #[inline(always)]
    fn arm<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>, index: u32) {
        let c = &mut self.connections[index as usize];
        let Some(at) = c.next_deadline() else { return };
        if c.notes.armed.is_none_or(|(armed, _)| at < armed) {
            arm_at(lower.ctx.timers, c, index, at);
        }
    }

    /// `Timer::Tcp` fired.
    pub(crate) fn timeout<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        index: u32,
        generation: u32,
    ) {
        if index == TIME_WAIT_TIMER {
            self.expire_time_waits(lower);
            return;
        }
        if index == HALF_OPEN_TIMER {
            self.expire_half_open(lower);
            return;
        }
        let c =
            self.connections.get_mut(index as usize).filter(|c| c.notes.generation == generation);
        let Some(c) = c else { return };
        c.notes.armed = None;
        let waited = (c.rtx_count, c.sent.recent.probe.due);
        c.on_timer(&mut Cx {
            now: lower.ctx.now,
            stats: &mut lower.ctx.mib.tcp,
            budget: self.budget,
        });
        if !lower.path.is_transparent()
            && (c.rtx_count > waited.0 || (c.sent.recent.probe.due && !waited.1))
        {
            lower.path.advise(lower.ctx.now, c.key.local, c.key.peer, Advice::NoProgress);
        }
        if let Some(mtu) = c.path.take_believed() {
            lower.lower_pmtu((c.key.local, c.key.peer), Some(flow_of(&c.key)), mtu);
            lower_mtu(lower, c);
            c.forgive_timeout(lower.ctx.now);
        }
        self.settle(lower, index);
    }

    /// Frames of an alias were lost below it, and take another path now.
    pub(crate) fn path_moved<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>, alias: AliasId) {
        let on = self.connections.iter().filter(|(_, c)| c.alias == alias);
        let indices: Vec<u32> = on.map(|(index, _)| index as u32).collect();
        for index in indices {
            let c = &mut self.connections[index as usize];
            let (stats, now) = (&mut lower.ctx.mib.tcp, lower.ctx.now);
            c.on_path_moved(&mut Cx { now, stats, budget: self.budget });
            self.settle(lower, index);
        }
    }

    fn expire_time_waits<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>) {
        self.time_wait_armed = false;
        while let Some((slot, entry)) = self.time_waits.pop_expired(lower.ctx.now) {
            self.flows.remove(&entry.key, Flow::TimeWait(slot));
        }
        self.arm_time_wait(lower);
    }

    fn arm_time_wait<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>) {
        if self.time_wait_armed {
            return;
        }
        if let Some(at) = self.time_waits.next_deadline() {
            self.time_wait_armed = true;
            let timer = Timer::Tcp { index: TIME_WAIT_TIMER, generation: 0 };
            lower.ctx.timers.schedule(at, timer);
        }
    }

    /// Sends what dirty connections may send while `lower.ctx.out_room() > 0`.
    pub(crate) fn transmit<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>) {
        // Taken from the pool and not needed by a connection that could not send after all.
        let mut spare = None;
        let short = self.takes_short_ways();
        while lower.ctx.out_room() > 0 {
            let Some(index) = self.dirty.pop_front() else { return };
            // The slot may be empty or somebody else's by now.
            let Some(c) = self.connections.get_mut(index as usize).filter(|c| c.notes.dirty) else {
                continue;
            };
            match turn(lower, c, (self.budget, short), &mut spare) {
                Turn::Done => c.notes.dirty = false,
                Turn::More => self.dirty.push_back(index),
                Turn::NoFrame => {
                    self.dirty.push_front(index);
                    return;
                }
            }
            self.queue_event(index);
            self.arm(lower, index);
        }
    }

    /// Whether segments that are like others take the short ways up and down.
    #[inline]
    #[cfg_attr(not(any(test, feature = "check")), allow(clippy::unused_self))]
    fn takes_short_ways(&self) -> bool {
        #[cfg(any(test, feature = "check"))]
        return self.predict;
        #[cfg(not(any(test, feature = "check")))]
        true
    }

    /// Whether [`Tcp::transmit`] has something to do.
    pub(crate) fn wants_transmit(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Whether there is an event to be told, maybe of a socket that is gone.
    #[inline]
    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// The next event from the list, with the readiness of now.
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        loop {
            let id = self.events.pop_front()?;
            if self.find(id).is_none() {
                continue;
            }
            if let Some(l) =
                self.listeners.get_mut(id.index).filter(|_| id.kind == SocketKind::TcpListener)
            {
                l.event_queued = false;
            } else if let Some(c) = self.connections.get_mut(id.index as usize) {
                c.notes.event_queued = false;
            }
            return Some(Event::Socket { id, ready: self.readiness(id) });
        }
    }

    /// An ICMP error about a segment; whether a connection recognised it (RFC 5927: by address,
    /// ports and a sequence number in flight).
    pub(crate) fn icmp_error<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        error: &IcmpError<'_>,
    ) -> bool {
        let Some(quote) = error.transport.first_chunk::<8>() else { return false };
        let port = |at: usize| u16::from_be_bytes([quote[at], quote[at + 1]]);
        let key =
            FlowKey { local: error.src, peer: error.dst, local_port: port(0), peer_port: port(2) };
        let seq = SeqNum(u32::from_be_bytes([quote[4], quote[5], quote[6], quote[7]]));
        let index = match self.flow(&key) {
            Some(Flow::Connection(index)) => index,
            // RFC 5461 2.2 applies: the SYN-ACK goes out again.
            Some(Flow::HalfOpen(slot)) => {
                return self.half_open.get(slot).is_some_and(|r| r.iss == seq);
            }
            Some(Flow::TimeWait(_)) | None => return false,
        };
        let c = &mut self.connections[index as usize];
        if seq < c.snd_una || seq >= c.snd_nxt {
            return false;
        }
        match error.kind {
            IcmpErrorKind::TooBig { mtu } => {
                if c.path.judge(seq, mtu) == TooBig::Believe {
                    lower.lower_pmtu((key.local, key.peer), Some(flow_of(&key)), mtu);
                    lower_mtu(lower, c);
                }
            }
            kind => {
                // RFC 1122 4.2.3.9: soft once there is a connection, however hard it sounds.
                let error = connect_error(kind);
                if let Some(error) = error.filter(|_| c.state == TcpState::SynSent) {
                    let (now, stats) = (lower.ctx.now, &mut lower.ctx.mib.tcp);
                    c.fail(&mut Cx { now, stats, budget: self.budget }, error);
                } else {
                    c.notes.soft_error = error.or(c.notes.soft_error);
                }
            }
        }
        self.settle(lower, index);
        true
    }

    /// The address is gone: its connections fail. Listeners stay, for when it comes back.
    pub(crate) fn address_removed<P: PathLayer>(&mut self, lower: &mut Lower<'_, P>, addr: IpAddr) {
        lower.ctx.mib.tcp.attempt_fails += self.forget_half_open_if(|r| r.key.local == addr);
        let lost = self.connections.iter().filter(|(_, c)| c.key.local == addr);
        let lost: Vec<u32> = lost.map(|(i, _)| i as u32).collect();
        for index in lost {
            let c = &mut self.connections[index as usize];
            if c.state != TcpState::Closed {
                let mut cx =
                    Cx { now: lower.ctx.now, stats: &mut lower.ctx.mib.tcp, budget: self.budget };
                c.fail(&mut cx, TcpError::Aborted);
            }
            self.settle(lower, index);
        }
    }

    /// Connections (half-open ones and TIME-WAIT included) and listeners held.
    pub(crate) fn held(&self) -> (usize, usize) {
        let connections = self.connections.len() + self.half_open.len() + self.time_waits.len();
        (connections, self.listeners.len())
    }

    /// Where the state of a four-tuple is.
    fn flow(&self, key: &FlowKey) -> Option<Flow> {
        self.flows.get(key, |flow| match flow {
            Flow::Connection(i) => self.connections.get(i as usize).is_some_and(|c| c.key == *key),
            Flow::TimeWait(slot) => self.time_waits.get(slot).is_some_and(|e| e.key == *key),
            Flow::HalfOpen(slot) => self.half_open.get(slot).is_some_and(|r| r.key == *key),
        })
    }
}

/// The timer of a connection ends at `at` from now on.
#[inline(never)]
fn arm_at(timers: &mut TimerWheel<Timer>, c: &mut Connection, index: u32, at: Instant) {
    if let Some((_, timer)) = c.notes.armed {
        timers.cancel(timer);
    }
    let timer = Timer::Tcp { index, generation: c.notes.generation };
    c.notes.armed = Some((at, timers.schedule(at, timer)));
}

/// How a connection's turn at the way out ended.
enum Turn {
    /// It has no more to say now.
    Done,
    /// It has, but others wait.
    More,
    /// The frame pool is empty; nothing was taken.
    NoFrame,
}

/// Sends a bounded number of segments of one connection.
fn turn<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    c: &mut Connection,
    (budget, short): (Budget, bool),
    spare: &mut Option<Frame>,
) -> Turn {
    let (key, alias) = (c.key, c.alias);
    let hint = emit::bound_alias(&key, alias);
    let via = c.settings.via(lower.ip, &key, hint);
    let short = if short { ShortWay::of(lower, c, via) } else { ShortWay::None };
    let route = match short.route(lower) {
        Some(route) => Ok(route),
        None => lower.route_of(Some(key.local), key.peer, via, Some(flow_of(&key))),
    };
    // Without a route segments are built as before and lost below, counted; timers go on.
    let (mtu, gso, tx_checksum) =
        route.map_or((c.path.mtu, 0, false), |r| (r.mtu, r.gso_bytes_max, r.tx_checksum));
    share_mtu(lower, c, mtu);
    let limits = PathLimits { mtu, gso_bytes_max: if tx_checksum { gso } else { 0 } };
    for _ in 0..BURST_FRAMES {
        if lower.ctx.out_room() == 0 {
            return Turn::More;
        }
        if !c.wants_output() {
            return Turn::Done;
        }
        let Some(frame) = spare.take().or_else(|| lower.ctx.pool.alloc()) else {
            return Turn::NoFrame;
        };
        let mut cx = Cx { now: lower.ctx.now, stats: &mut lower.ctx.mib.tcp, budget };
        let Some(segment) = c.poll_segment(&mut cx, &limits) else {
            *spare = Some(frame);
            return Turn::Done;
        };
        let frame = match short.send(lower, c, frame, &segment) {
            Ok(()) => continue,
            Err(unused) => unused,
        };
        let frame = emit::build_for(frame, &key, &segment, &mut c.send, tx_checksum);
        if frame.frags.is_empty() {
            lower.ctx.mib.tcp.snd_copied_octets += segment.payload_len as u64;
        }
        let fields = c.settings.ip_fields(segment.header.ecn);
        emit::send(lower, &key, alias, fields, frame);
    }
    Turn::More
}

/// By which short way segments of a connection leave.
enum ShortWay {
    None,
    /// As they are, by this place in `ip.ready`.
    Ready(usize),
    /// Rewritten.
    Mapped(MappedWay),
}

impl ShortWay {
    #[inline]
    fn of<P: PathLayer>(lower: &mut Lower<'_, P>, c: &mut Connection, via: Via) -> ShortWay {
        let (ends, known) = ((c.key.local, c.key.peer), &mut c.notes.known);
        match lower.ready_of(ends, via, known) {
            Some(slot) => ShortWay::Ready(slot),
            None => lower.mapped_way(ends, via, known).map_or(ShortWay::None, ShortWay::Mapped),
        }
    }

    #[inline]
    fn route<P: PathLayer>(&self, lower: &Lower<'_, P>) -> Option<RouteInfo> {
        match self {
            ShortWay::None => None,
            ShortWay::Ready(slot) => lower.ip.ready.at(*slot).map(|ready| ready.route),
            ShortWay::Mapped(way) => way.route(lower.ip),
        }
    }

    /// Sends a segment; `Err`: it takes the long way.
    #[inline]
    fn send<P: PathLayer>(
        &self,
        lower: &mut Lower<'_, P>,
        c: &mut Connection,
        frame: Frame,
        segment: &SegmentOut,
    ) -> Result<(), Frame> {
        let slot = match self {
            ShortWay::None => return Err(frame),
            ShortWay::Mapped(way) => return send_mapped(lower, way, c, frame, segment),
            ShortWay::Ready(slot) => *slot,
        };
        let Some(ready) = lower.ip.ready.at(slot) else { return Err(frame) };
        let fields = c.settings.ip_fields(segment.header.ecn);
        emit::send_ready(&mut lower.ctx, ready, frame, (segment, &mut c.send), fields)?;
        if !lower.path.is_transparent() {
            let (now, known) = (lower.ctx.now, c.notes.known.passing);
            if !lower.path.noted_out(now, known) {
                tell_out(lower, c, segment);
            }
        }
        Ok(())
    }
}

/// Sends a segment that the path layer rewrites; `Err`: it takes the long way.
#[inline]
fn send_mapped<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    way: &MappedWay,
    c: &mut Connection,
    frame: Frame,
    segment: &SegmentOut,
) -> Result<(), Frame> {
    let Some((mapped, ready)) = way.at(lower.ip) else { return Err(frame) };
    emit::send_mapped(&mut lower.ctx, (mapped, ready), c, frame, segment)?;
    lower.path.rewritten(lower.ctx.now, &mapped.rewriting);
    Ok(())
}

/// Tells the path layer of a segment that passed it.
#[inline(never)]
fn tell_out<P: PathLayer>(lower: &mut Lower<'_, P>, c: &Connection, segment: &SegmentOut) {
    let (now, known) = (lower.ctx.now, c.notes.known.passing);
    lower.path.passed_out(now, c.key.local, c.key.peer, known, segment.payload_len);
}

/// What a connection found out about packet sizes is for all to the same host; what others found is
/// for it.
fn share_mtu<P: PathLayer>(lower: &mut Lower<'_, P>, c: &mut Connection, limit: usize) {
    let (ulids, flow) = ((c.key.local, c.key.peer), Some(flow_of(&c.key)));
    if let Some(mtu) = c.path.take_news() {
        let mtu = Some(mtu).filter(|mtu| *mtu < limit);
        lower.learn_pmtu(ulids, flow, mtu);
    }
    if let Some(mtu) = lower.learned_pmtu(ulids, flow) {
        c.adopt_mtu(lower.ctx.now, mtu, limit);
    }
}

/// Takes a lowered path MTU over at once.
fn lower_mtu<P: PathLayer>(lower: &mut Lower<'_, P>, c: &mut Connection) {
    let hint = emit::bound_alias(&c.key, c.alias);
    let via = c.settings.via(lower.ip, &c.key, hint);
    let flow = Some(flow_of(&c.key));
    if let Ok(route) = lower.route_of(Some(c.key.local), c.key.peer, via, flow)
        && route.mtu < c.path.mtu
    {
        c.set_mtu(route.mtu);
        c.resegment(lower.ctx.now);
    }
}

/// What an ICMP error means for a connect.
fn connect_error(kind: IcmpErrorKind) -> Option<TcpError> {
    match kind {
        IcmpErrorKind::PortUnreachable | IcmpErrorKind::ProtocolUnreachable => {
            Some(TcpError::Refused)
        }
        IcmpErrorKind::NetUnreachable
        | IcmpErrorKind::HostUnreachable
        | IcmpErrorKind::AdminProhibited => Some(TcpError::HostUnreachable),
        IcmpErrorKind::TooBig { .. }
        | IcmpErrorKind::TimeExceeded
        | IcmpErrorKind::ParameterProblem => None,
    }
}
