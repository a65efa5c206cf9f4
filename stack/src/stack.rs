//! The contract of the core, and the wiring; nothing else.
//!
//! Methods of [`Stack`] are of four kinds:
//!
//! - `handle_*`: things that happened. [`Stack::handle_frame`], [`Stack::handle_timeout`],
//!   [`Stack::handle_config`].
//! - application calls: `tcp_*`, `udp_*`, `raw_*`, `icmp_*` (in [`crate::socket`]). They never block.
//! - `poll_*`: things for the caller to do. After any of the above, call [`Stack::poll_transmit`]
//!   until it returns 0 (or the burst is full), [`Stack::poll_event`] until `None`, and arm one
//!   timer for [`Stack::poll_timeout`].
//! - getters.
//!
//! Time is monotonic and the caller's. Every call does bounded work; none allocates per packet after
//! warm-up. Bad packets are never errors: they are counted by [`DropReason`](crate::drop::DropReason).

use core::net::IpAddr;
use std::sync::Arc;

use crate::admission::{Admission, Rules};
pub use crate::ctx::Moved;
use crate::ctx::{Ctx, Outbox, Timer};
use crate::drop::DropReason;
use crate::frame::{Frame, FramePool, PoolBuf, Quota};
use crate::ip::address::{Address, AddressTerms, AliasConfig, AliasId, Cidr};
pub use crate::ip::multicast::GroupFilter;
use crate::ip::route::Route;
use crate::ip::rule::{PolicyRules, RouteTable, Rule, TableId, Via};
use crate::ip::{Ip, configure, input, multicast, ndp};
use crate::link::Link;
use crate::link::neighbour::NeighbourInfo;
use crate::link::shared::{NeighbourKey, SharedNeighbours};
use crate::lower::Lower;
use crate::path::{Direct, PathLayer};
use crate::rng::{Rng, Secrets};
use crate::shard::Shard;
use crate::socket::Event;
use crate::stats::Mib;
use crate::time::{Instant, earlier};
use crate::timer_wheel::TimerWheel;
use crate::transport::Transports;
use crate::transport::raw::Raw;
use crate::transport::tcp::Tcp;
use crate::transport::udp::Udp;

mod any;
#[cfg(any(test, feature = "check"))]
mod check;
mod config;
mod memory;
mod prefetch;
mod receive;
pub use config::{
    EcnMode, FastOpen, Limits, MtuProbing, Offers, StackConfig, SynCookies, TcpConfig,
};
pub use memory::Memory;
pub use receive::FrameTicks;

/// Timers handled by one call; what is left makes [`Stack::poll_timeout`] lie in the past.
const TIMERS_PER_CALL: usize = 1024;
/// How often one [`Stack::poll_transmit`] takes up what the stack sent to itself.
const LOOP_ROUNDS: usize = 4;
/// Who has events: addresses and groups, TCP, UDP, raw.
const SOURCES: usize = 4;

/// A change of configuration.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Change {
    /// Attach to a device.
    AliasAdd(AliasConfig),
    /// Detach; addresses, routes and neighbours of the alias go with it.
    AliasRemove(AliasId),
    /// The link below an alias changed.
    AliasLink {
        /// Which.
        alias: AliasId,
        /// Up, with carrier.
        up: bool,
        /// Its MTU in bytes.
        mtu: usize,
    },
    /// What is below an alias is another: all of its configuration but its number, whether routers
    /// are heeded and its kind of medium. Addresses and what is bound to them stay.
    AliasMove {
        /// From now on.
        config: AliasConfig,
        /// It stands on another link, or has another MAC address there: neighbours are forgotten
        /// but for pinned ones, addresses are announced, groups are reported.
        elsewhere: bool,
    },
    /// Add an address (and the route to its network). IPv6 is used after DAD, IPv4 at once, with an
    /// announcement.
    AddressAdd {
        /// Where.
        alias: AliasId,
        /// Address and prefix length.
        cidr: Cidr,
    },
    /// Add an address on terms, or give one that came from the same origin new ones (a lease was
    /// renewed): it stays in use.
    AddressAssign {
        /// Where.
        alias: AliasId,
        /// Address and prefix length.
        cidr: Cidr,
        /// Origin, conflicts, lifetimes.
        terms: AddressTerms,
    },
    /// Take an address that another stack of this host has just given up: it is used at once, not
    /// tried for duplicates first, and announced (gratuitous ARP, unsolicited neighbour
    /// advertisement), since its MAC address may be another one now.
    AddressTake {
        /// Where.
        alias: AliasId,
        /// Address and prefix length.
        cidr: Cidr,
        /// Origin, conflicts, lifetimes.
        terms: AddressTerms,
    },
    /// See that there is a link-local IPv6 address, for who speaks from it.
    LinkLocalAdd(AliasId),
    /// Remove an address; connections bound to it are reset.
    AddressRemove {
        /// Where.
        alias: AliasId,
        /// The address.
        addr: IpAddr,
    },
    /// The addresses of an alias are these, as shard 0 has them; for the other shards.
    AddressesAdopt {
        /// Where.
        alias: AliasId,
        /// All of them.
        addresses: Vec<Address>,
    },
    /// Add a route, replacing one with equal prefix, metric and alias.
    RouteAdd(Route),
    /// Remove a route.
    RouteRemove(Route),
    /// Pin a neighbour.
    NeighbourAdd {
        /// Where.
        alias: AliasId,
        /// Its address.
        addr: IpAddr,
        /// Its MAC address.
        mac: [u8; 6],
    },
    /// Share a neighbour table with other stacks of the worker, as this number; `None`: no longer.
    NeighboursShare(Option<(Arc<SharedNeighbours>, u32)>),
    /// Add a policy routing rule.
    RuleAdd(Rule),
    /// Remove a rule, all of whose fields are equal.
    RuleRemove(Rule),
    /// Set or remove (`None`) a route table other than the main one.
    TableSet {
        /// Which.
        id: TableId,
        /// Shared with whoever else has it.
        table: Option<Arc<RouteTable>>,
    },
    /// The tables that add to the stack's own routes, in order; none else.
    TablesUse(Vec<TableId>),
    /// The prefix length of an address changed; what is bound to it stays.
    AddressPrefix {
        /// Where.
        alias: AliasId,
        /// The address with its new prefix length.
        cidr: Cidr,
    },
    /// Heed router advertisements on an alias, or no longer: what they taught stays until its time
    /// is over.
    AliasSlaac {
        /// Where.
        alias: AliasId,
        /// From now on.
        on: bool,
    },
    /// Switch forwarding between aliases.
    Forwarding(bool),
    /// Bytes of the longest super-segment from now on, if a device takes that; `None`: as devices
    /// do. Below a rate limit a long one would be a burst.
    SuperBytes(Option<usize>),
    /// Other limits, of the whole vserver. What is held beyond them is kept; nothing is added.
    Limits(Box<Limits>),
    /// Other TCP defaults, for sockets made from now on.
    Tcp(Box<TcpConfig>),
}

/// Why a change was refused; the stack is as before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// No such alias in this stack.
    #[error("alias {0:?} is not attached to this vserver")]
    NoAlias(AliasId),
    /// The alias number is taken.
    #[error("alias {0:?} is attached already")]
    AliasExists(AliasId),
    /// Ethernet and bare packets have not the same addresses.
    #[error("alias {0:?} cannot change between Ethernet and bare IP packets")]
    MediumOther(AliasId),
    /// The address is there already.
    #[error("address {0} is on the alias already")]
    AddressExists(IpAddr),
    /// No such address.
    #[error("address {0} is not on the alias")]
    NoAddress(IpAddr),
    /// Not an address a host can have (unspecified, multicast, broadcast).
    #[error("address {0} cannot be a host's address")]
    AddressInvalid(IpAddr),
    /// The next hop is not on a network of the alias.
    #[error("gateway {0} is not on a network of the alias")]
    GatewayUnreachable(IpAddr),
    /// No such route.
    #[error("no such route to {0}")]
    NoRoute(Cidr),
    /// The rule is there already.
    #[error("the rule of priority {0} is there already")]
    RuleExists(u32),
    /// No such rule.
    #[error("no such rule of priority {0}")]
    NoRule(u32),
    /// The main table is the stack's own routes.
    #[error("the main table is changed route by route")]
    TableMain,
    /// A limit of the vserver.
    #[error("limit of {0} reached")]
    Limit(&'static str),
}

/// Frames on their way out, with the alias each leaves by.
#[derive(Debug, Default)]
pub struct TxBurst {
    /// In order of transmission.
    pub frames: Vec<(AliasId, Frame)>,
    /// The stack stops when `frames` is this long.
    pub max: usize,
}

impl TxBurst {
    /// An empty burst of at most `max` frames.
    pub fn new(max: usize) -> TxBurst {
        TxBurst { frames: Vec::with_capacity(max), max }
    }
}

/// One logical stack of a vserver; see the module documentation.
///
/// The fields stand in the order of use: on a host of thousands of vservers each packet finds its
/// stack in no cache, and pays for every line it touches. See [`Stack::prefetch`].
#[repr(C, align(64))]
pub struct Stack<P: PathLayer = Direct> {
    /// The last instant a caller gave.
    now: Instant,
    /// Whose event is next: addresses, TCP, UDP, raw.
    turn: usize,
    shard: Shard,
    outbox: Outbox,
    timers: TimerWheel<Timer>,
    link: Link,
    ip: Ip,
    pub(crate) tcp: Tcp,
    pub(crate) udp: Udp,
    pub(crate) raw: Raw,
    mib: Mib,
    pub(crate) limits: Limits,
    /// As configured, and what [`Stack::bound_out_queue`] allows of it.
    out_queue: usize,
    out_bound: usize,
    pool: FramePool,
    path: P,
    admission: Admission,
    rng: Rng,
    secrets: Secrets,
    quota: Quota,
    name: String,
}

impl Stack<Direct> {
    /// A stack without a multipath shim. Frames it makes come from `pool`.
    pub fn new(config: StackConfig, pool: FramePool, now: Instant) -> Stack<Direct> {
        Stack::with_path(config, pool, now, Direct)
    }
}

impl<P: PathLayer> Stack<P> {
    /// A stack over a path layer.
    pub fn with_path(mut config: StackConfig, pool: FramePool, now: Instant, path: P) -> Stack<P> {
        let mut rng = Rng::new(config.seed);
        let secrets = Secrets::generate(&mut rng);
        if !config.shard.is_home() {
            rng = rng.fork(config.shard.index);
        }
        config.limits = config.shard.share(config.limits);
        let admission = Admission::new(&secrets);
        let mut tcp = Tcp::new(&config, &secrets);
        let udp = Udp::new(&secrets, config.shared.take(), config.any.clone());
        let mut ip = Ip::new(&config, &secrets, now);
        ip.mapped = !path.is_transparent();
        tcp.track_pairs(ip.mapped);
        Stack {
            name: config.name,
            out_queue: config.limits.out_queue,
            out_bound: usize::MAX,
            limits: config.limits,
            shard: config.shard,
            admission,
            rng,
            secrets,
            mib: Mib::default(),
            pool,
            quota: Quota::default(),
            timers: TimerWheel::default(),
            outbox: Outbox::default(),
            link: Link::default(),
            ip,
            path,
            tcp,
            udp,
            raw: Raw::default(),
            now,
            turn: 0,
        }
    }

    /// Everything below the transports, and the transports, borrowed apart.
    pub(crate) fn parts(&mut self, now: Instant) -> (Lower<'_, P>, &mut Tcp, &mut Udp) {
        let (lower, Transports { tcp, udp, .. }) = self.parts_all(now);
        (lower, tcp, udp)
    }

    /// The same, with all transports.
    pub(crate) fn parts_all(&mut self, now: Instant) -> (Lower<'_, P>, Transports<'_>) {
        self.now = self.now.max(now);
        let lower = Lower {
            ctx: Ctx {
                now: self.now,
                rng: &mut self.rng,
                secrets: &self.secrets,
                limits: &self.limits,
                shard: self.shard,
                admission: &mut self.admission,
                mib: &mut self.mib,
                pool: &self.pool,
                timers: &mut self.timers,
                outbox: &mut self.outbox,
            },
            link: &mut self.link,
            ip: &mut self.ip,
            path: &mut self.path,
        };
        let transports = Transports { tcp: &mut self.tcp, udp: &mut self.udp, raw: &mut self.raw };
        (lower, transports)
    }

    /// A buffer of `len` bytes in the device's memory: what is written to it, frozen and sent, is
    /// copied no more. `None`, counted as `FramePoolBufsRefused`: more than [`Stack::alloc_bytes_max`],
    /// or [`Limits::app_frames`] are held already, or three quarters of the pool are in use. Then
    /// send by copying.
    pub fn alloc(&mut self, len: usize) -> Option<PoolBuf> {
        let buf = self.quota.alloc(&self.pool, len, self.limits.app_frames);
        self.mib.frames.pool_bufs_refused += u64::from(buf.is_none());
        buf
    }

    /// Whether a service above the stack that has `set` timers may set another; a refusal is counted
    /// as `FrameServiceTimersRefused`.
    pub fn may_set_timer(&mut self, set: usize) -> bool {
        let may = set < self.limits.service_timers;
        self.mib.frames.service_timers_refused += u64::from(!may);
        may
    }

    /// The longest buffer of [`Stack::alloc`]: a frame of the device.
    pub fn alloc_bytes_max(&self) -> usize {
        self.pool.slot_bytes()
    }

    /// Whether bytes lie in the device's memory.
    pub(crate) fn is_pool_memory(&self, data: &[u8]) -> bool {
        self.pool.holds(data)
    }

    /// The last instant a caller gave.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// Whether a datagram can be sent now.
    pub(crate) fn has_out_room(&self) -> bool {
        self.outbox.frames.len().max(self.outbox.looped.len()) < self.limits.out_queue
    }

    /// A frame arrived on `alias`.
    pub fn handle_frame(&mut self, now: Instant, alias: AliasId, frame: Frame) {
        let (mut lower, mut t) = self.parts_all(now);
        lower.ctx.mib.frames.rx_frames += 1;
        lower.ctx.mib.frames.rx_bytes += frame.total_len() as u64;
        let fate = receive::frame(&mut lower, &mut t, alias, frame);
        receive::count(lower.ctx.mib, fate);
        receive::work_off(&mut lower, &mut t);
    }

    /// What its user and its peers may make grow; of a shard, its share.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A received frame that the host does not hand over: a loss of this vserver all the same.
    pub fn lose_received(&mut self, frame: &Frame, reason: DropReason) {
        self.mib.frames.rx_frames += 1;
        self.mib.frames.rx_bytes += frame.total_len() as u64;
        self.mib.frames.rx_dropped += 1;
        self.mib.drops.count(reason);
    }

    /// Frames that may wait for the device from now on, never more than [`Limits::out_queue`]
    /// configured; `None`: that.
    pub fn bound_out_queue(&mut self, most: Option<usize>) {
        self.out_bound = most.unwrap_or(usize::MAX);
        self.limits.out_queue = self.out_queue.min(self.out_bound);
    }

    /// What waits for the device waits for long: while frames are scarce, it goes without them.
    pub fn spare_frames(&mut self) {
        for (_, frame) in self.outbox.frames.iter_mut().rev() {
            if !frame.is_scarce() {
                return;
            }
            *frame = frame.to_heap();
        }
    }

    /// A frame of this stack that the host did not transmit.
    pub fn lose_sent(&mut self, reason: DropReason) {
        self.mib.frames.tx_dropped += 1;
        self.mib.drops.count(reason);
    }

    /// A packet that another shard found to be this one's ([`Stack::poll_moved`]).
    pub fn handle_moved(&mut self, now: Instant, alias: AliasId, looped: bool, frame: Frame) {
        let (mut lower, mut t) = self.parts_all(now);
        receive::moved(&mut lower, &mut t, alias, looped, frame);
        receive::work_off(&mut lower, &mut t);
    }

    /// The next packet that is another shard's.
    #[inline]
    pub fn poll_moved(&mut self) -> Option<Moved> {
        self.outbox.moved.pop_front()
    }

    /// What this shard wants of a group.
    pub fn group_filter(&self, alias: AliasId, group: IpAddr) -> GroupFilter {
        self.ip.aliases.get(&alias).map_or(GroupFilter::Nothing, |a| a.groups.filter(group))
    }

    /// For shard 0: another shard wants `after` of a group where it wanted `before`.
    pub fn adopt_group(
        &mut self,
        now: Instant,
        (alias, group): (AliasId, IpAddr),
        before: &GroupFilter,
        after: &GroupFilter,
    ) {
        let (mut lower, mut t) = self.parts_all(now);
        let (before, after) = (before.wanted(), after.wanted());
        multicast::set_sources(&mut lower.ctx, lower.ip, alias, group, before, after);
        receive::work_off(&mut lower, &mut t);
    }

    /// The path layer.
    pub fn path(&self) -> &P {
        &self.path
    }

    /// Does something to the path layer, then what follows from it. If that makes a transparent
    /// layer one that maps packets, it is told all addresses; the cost grows with the number of
    /// connections then.
    pub fn with_path_mut<R>(&mut self, now: Instant, f: impl FnOnce(&mut P) -> R) -> R {
        let (mut lower, mut t) = self.parts_all(now);
        let result = f(lower.path);
        lower.ip.path_turn = lower.ip.path_turn.wrapping_add(1);
        let mapped = !lower.path.is_transparent();
        if mapped != lower.ip.mapped {
            lower.ip.mapped = mapped;
            // What is known of ways was learned without the layer.
            lower.ip.changed();
            t.tcp.track_pairs(mapped);
            lower.ip.added = if mapped { lower.ip.local_addresses().collect() } else { Vec::new() };
            lower.ctx.outbox.for_path = true;
        }
        receive::work_off(&mut lower, &mut t);
        result
    }

    /// The instant of [`Stack::poll_timeout`] has come. Calling early is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        let (mut lower, mut t) = self.parts_all(now);
        if !lower.path.is_transparent()
            && lower.path.poll_timeout().is_some_and(|at| at <= lower.ctx.now)
        {
            lower.path.handle_timeout(lower.ctx.now);
        }
        for _ in 0..TIMERS_PER_CALL {
            let Some(timer) = lower.ctx.timers.pop_expired(lower.ctx.now) else { break };
            match timer {
                Timer::Tcp { index, generation } => t.tcp.timeout(&mut lower, index, generation),
                Timer::Neighbour => lower.link.timeout(&mut lower.ctx, &lower.ip.aliases),
                Timer::Ndp => ndp::timeout(&mut lower.ctx, lower.link, lower.ip),
                Timer::Membership => multicast::timeout(&mut lower.ctx, lower.link, lower.ip),
                Timer::Reassembly => {
                    input::reassembly_timeout(&mut lower.ctx, lower.link, lower.ip);
                }
            }
        }
        receive::work_off(&mut lower, &mut t);
    }

    /// Applies one change, or refuses it whole.
    pub fn handle_config(&mut self, now: Instant, change: Change) -> Result<(), ChangeError> {
        match change {
            Change::Limits(limits) => {
                self.limits = self.shard.share(*limits);
                self.out_queue = self.limits.out_queue;
                self.limits.out_queue = self.out_queue.min(self.out_bound);
                self.tcp.set_memory(self.limits.tcp_bytes);
                return Ok(());
            }
            Change::Tcp(config) => {
                self.tcp.set_defaults(&config);
                return Ok(());
            }
            _ => {}
        }
        let (mut lower, mut t) = self.parts_all(now);
        let link_change = match &change {
            Change::AliasLink { alias, up, .. } if !lower.path.is_transparent() => {
                let before = lower.ip.aliases.get(alias).map(|a| a.config.up);
                before.filter(|before| before != up).map(|_| (*alias, *up))
            }
            _ => None,
        };
        let Lower { ctx, link, ip, .. } = &mut lower;
        let result = configure::apply(ctx, link, ip, change);
        if let Some((alias, up)) = link_change {
            receive::mapped::link_changed(&mut lower, alias, up);
        }
        receive::work_off(&mut lower, &mut t);
        result
    }

    /// A neighbour that this stack waits for is known in the table that it shares
    /// ([`SharedNeighbours::take_woken`]): what waits for it is sent.
    pub fn handle_neighbour_known(&mut self, now: Instant, (alias, addr): NeighbourKey) {
        let (mut lower, mut t) = self.parts_all(now);
        let Lower { ctx, link, ip, .. } = &mut lower;
        if let Some(alias) = ip.aliases.get(&alias) {
            link.told(ctx, alias, addr);
        }
        receive::work_off(&mut lower, &mut t);
    }

    /// Frames of an alias were lost below it (a failover group or a bond lost what carried them, or
    /// carries some again), and from now on take another path: what waits for answers that were lost
    /// does not wait for its timers.
    pub fn handle_path_moved(&mut self, now: Instant, alias: AliasId) {
        let (mut lower, mut t) = self.parts_all(now);
        t.tcp.path_moved(&mut lower, alias);
        receive::work_off(&mut lower, &mut t);
    }

    /// Who may begin a flow from now on; `None`: everybody. Connections stay as they are.
    pub fn set_access(&mut self, rules: Option<Arc<dyn Rules>>) {
        self.admission.set(rules);
    }

    /// Answers to the vserver's own datagrams that are waited for because access rules would not let
    /// them in, and how many there may be.
    pub fn access_states(&self) -> (usize, usize) {
        (self.admission.states(), self.limits.access_states)
    }

    /// Resets the connections that peers opened and that `rules` would not let them open now; returns
    /// how many. Takes as long as there are connections.
    pub fn end_denied(&mut self, now: Instant, rules: &dyn Rules) -> usize {
        let (mut lower, t) = self.parts_all(now);
        t.tcp.end_denied(&mut lower, rules)
    }

    /// Moves frames into `burst` until it is full or nothing is left; returns how many.
    pub fn poll_transmit(&mut self, now: Instant, burst: &mut TxBurst) -> usize {
        let before = burst.frames.len();
        if !self.wants_transmit() && !self.link.has_work() && self.ip.removed.is_empty() {
            self.now = self.now.max(now);
            self.udp.room_available();
            self.raw.room_available();
            return 0;
        }
        let (mut lower, mut t) = self.parts_all(now);
        for _ in 0..LOOP_ROUNDS {
            receive::work_off(&mut lower, &mut t);
            let room = burst.max.saturating_sub(burst.frames.len());
            if t.tcp.wants_transmit() {
                lower.ctx.outbox.burst = Some(room);
                t.tcp.transmit(&mut lower);
                lower.ctx.outbox.burst = None;
                ndp::link_work(&mut lower.ctx, lower.link, lower.ip);
                if !lower.path.is_transparent() && receive::mapped::has_work(&lower) {
                    receive::mapped::work_off(&mut lower, &mut t);
                }
            }
            let taken = room.min(lower.ctx.outbox.frames.len());
            for _ in 0..taken {
                let Some((alias, frame)) = lower.ctx.outbox.frames.pop_front() else { break };
                lower.ctx.mib.frames.tx_frames += 1;
                lower.ctx.mib.frames.tx_bytes += frame.total_len() as u64;
                burst.frames.push((alias, frame));
            }
            if lower.ctx.outbox.looped.is_empty() || taken == room {
                break;
            }
        }
        if lower.ctx.out_room() > 0 {
            t.udp.room_available();
            t.raw.room_available();
        }
        burst.frames.len() - before
    }

    /// The vserver goes away: resets every connection and closes every socket. What peers are told
    /// is in the next [`Stack::poll_transmit`]. Cost grows with the number of sockets.
    pub fn drain(&mut self, now: Instant) {
        let (mut lower, t) = self.parts_all(now);
        t.tcp.drain(&mut lower);
        let mut open = Vec::new();
        t.udp.for_each_id(|id| open.push(id));
        for id in open {
            t.udp.close(&mut lower, id);
        }
        let mut open = Vec::new();
        t.raw.for_each_id(|id| open.push(id));
        for id in open {
            t.raw.close(&mut lower, id);
        }
    }

    /// When to call [`Stack::handle_timeout`]; `None`: nothing is pending.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.outbox.looped.is_empty() {
            let own = self.timers.next_deadline();
            if self.path.is_transparent() {
                return own;
            }
            return earlier(own, self.path.poll_timeout());
        }
        // More than one call may take up waits for the next, whoever makes it.
        Some(self.now)
    }

    /// The next event.
    #[inline]
    pub fn poll_event(&mut self) -> Option<Event> {
        // Asked twice a turn, and mostly there is none.
        let quiet = self.outbox.events.is_empty()
            && !self.tcp.has_events()
            && !self.udp.has_events()
            && !self.raw.has_events();
        if quiet { None } else { self.next_event() }
    }

    fn next_event(&mut self) -> Option<Event> {
        let writable = self.has_out_room();
        for step in 0..SOURCES {
            let source = (self.turn + step) % SOURCES;
            let event = match source {
                0 => self.outbox.events.pop_front(),
                1 => self.tcp.poll_event(),
                2 => self.udp.poll_event(writable),
                _ => self.raw.poll_event(writable),
            };
            if event.is_some() {
                // The others come first next time, so that none starves.
                self.turn = (source + 1) % SOURCES;
                return event;
            }
        }
        None
    }

    /// Whether [`Stack::poll_transmit`] has something to do.
    pub fn wants_transmit(&self) -> bool {
        !self.outbox.frames.is_empty()
            || !self.outbox.looped.is_empty()
            || !self.link.solicits.is_empty()
            || self.tcp.wants_transmit()
            || (!self.path.is_transparent() && self.path.wants_transmit())
    }

    /// All counters.
    pub fn mib(&self) -> &Mib {
        &self.mib
    }

    /// Which of the vserver's stacks this is.
    pub fn shard(&self) -> Shard {
        self.shard
    }

    /// Name of the vserver.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All routes, connected and learned ones too, in no order.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.ip.routes.iter()
    }

    /// Policy routing rules by priority, shared tables by number, and those of them that add to
    /// the own routes.
    pub fn rules(&self) -> PolicyRules {
        let Some(policy) = &self.ip.policy else { return PolicyRules::default() };
        let tables = policy.tables().map(|(id, table)| (id, Arc::clone(table))).collect();
        PolicyRules { rules: policy.rules().to_vec(), tables, also: policy.also().to_vec() }
    }

    /// Whether a shared table has that number here.
    pub fn has_table(&self, id: TableId) -> bool {
        self.ip.policy.as_ref().is_some_and(|policy| policy.has(id))
    }

    /// All neighbours.
    pub fn neighbours(&self) -> impl Iterator<Item = NeighbourInfo> + '_ {
        self.link.neighbours(self.now)
    }

    /// The aliases with their addresses, in no order.
    pub fn aliases(&self) -> impl Iterator<Item = (&AliasConfig, &[Address])> {
        self.ip.aliases.values().map(|a| (&a.config, &a.addresses[..]))
    }

    /// Addresses of an alias; none if it is not attached.
    pub fn addresses(&self, alias: AliasId) -> &[Address] {
        self.ip.aliases.get(&alias).map_or(&[], |a| &a.addresses[..])
    }

    /// Whether `addr` is a usable address of this stack.
    pub fn is_local(&self, addr: IpAddr) -> bool {
        self.ip.is_local(addr)
    }

    /// The address that a packet to `dst` leaves from, `src` if that may be; `None`: no route, or no
    /// such address.
    pub fn source_for(&mut self, src: Option<IpAddr>, dst: IpAddr) -> Option<IpAddr> {
        let (mut lower, _) = self.parts_all(self.now);
        lower.route(src, dst, Via::default()).ok().map(|way| way.src)
    }

    /// What the stack holds.
    pub fn memory(&self) -> Memory {
        let (tcp_connections, tcp_listeners) = self.tcp.held();
        let (udp_sockets, udp_bytes) = self.udp.held();
        let (raw_sockets, raw_bytes) = self.raw.held();
        Memory {
            tcp_connections,
            tcp_listeners,
            tcp_bytes: self.tcp.held_bytes(),
            udp_sockets,
            udp_bytes,
            raw_sockets,
            raw_bytes,
            reassemblies: self.ip.reassembly.len(),
            reassembly_bytes: self.ip.reassembly.held_bytes(),
            neighbour_frames: self.link.queued(),
            out_frames: self.outbox.frames.len()
                + self.outbox.looped.len()
                + self.outbox.moved.len(),
            neighbours: self.link.len(),
            path_mtus: self.ip.pmtu_len(),
        }
    }
}
