//! The neighbour cache: which MAC address a next hop has. One table per stack, for ARP and NDP
//! alike, keyed by alias and address; states and timers of RFC 4861 7.3.
//!
//! The table sends nothing: what has to be asked is left in `asks`, frames whose neighbour was
//! found in `ready`, frames that found none in `lost`; `Link` carries them on.
//!
//! ```text
//!           output                     answer                 time
//!   (none) --------> INCOMPLETE ---------------> REACHABLE ---------> STALE
//!                        | 3 asked, no answer        ^                  | output
//!                        v                           | answer, or       v
//!     (none) <-------- FAILED <------- PROBE <---- confirmation ---- DELAY
//!              1 s              no answer      5 s
//! ```
//!
//! Bounds: entries by `Limits::neighbours`, of which at most a quarter may be unresolved
//! (INCOMPLETE or FAILED), so that a scan of the subnet cannot push out neighbours that exist;
//! frames by `Limits::neighbour_queue` per entry and sixteen times that in all. A lookup is one hash; timers are an ordered set
//! with one entry of the stack's wheel for the first.

use core::net::IpAddr;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use hashbrown::HashTable;
use slab::Slab;

use super::lru::{Linked, Links, List};
use super::shared::{Known, SharedNeighbours, Turn};
use crate::ctx::{Ctx, Timer};
use crate::drop::DropReason;
use crate::frame::{Frame, prefetch};
use crate::ip::address::AliasId;
use crate::rng::Key;
use crate::time::{Duration, Instant};
use crate::timer_wheel::TimerHandle;

mod sharing;

/// RFC 4861 10: solicitations to the group (or by broadcast) before giving up.
const MULTICAST_SOLICIT_MAX: u8 = 3;
/// RFC 4861 10: unicast probes before falling back or giving up.
const UNICAST_SOLICIT_MAX: u8 = 3;
/// RFC 4861 10: how long DELAY waits for a confirmation from above.
const DELAY_FIRST_PROBE: Duration = Duration::from_secs(5);
/// How long a failure is remembered: packets are refused at once, nothing is asked.
const NEGATIVE_CACHE: Duration = Duration::from_secs(1);
/// An unanswered resolution younger than this is not replaced by another.
const INCOMPLETE_PROTECTED: Duration = Duration::from_secs(1);
/// A neighbour confirmed this recently keeps its MAC against an answer nobody asked for, but not
/// against an announcement to all: so hosts tell, once, that an address moved.
const MAC_LOCK: Duration = Duration::from_secs(1);
/// How many of the least recently used entries are looked at for a stale one.
const EVICT_SCAN: usize = 16;
/// All queues together hold as much as this many full ones: frames come from a pool that others
/// need too.
const QUEUES_FULL_MAX: usize = 16;
/// Deadlines handled per call.
const EXPIRE_BATCH: usize = 64;

/// RFC 4861 7.3.2, with Linux's FAILED and PERMANENT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NeighbourState {
    /// Asked, not answered yet.
    Incomplete,
    /// Known to work.
    Reachable,
    /// Known, not verified lately.
    Stale,
    /// Used while stale; waits for a confirmation from above.
    Delay,
    /// Being probed.
    Probe,
    /// Did not answer; refused for a second.
    Failed,
    /// Configured; never ages.
    Permanent,
}

/// Who knew a neighbour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NeighbourOrigin {
    /// The stack itself, by asking or by listening.
    #[default]
    Own,
    /// Another stack of the same [`SharedNeighbours`].
    Shared,
    /// The configuration.
    Static,
}

/// One line of a neighbour dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourInfo {
    /// The alias it is behind.
    pub alias: AliasId,
    /// Its address.
    pub addr: IpAddr,
    /// Its MAC address, once known.
    pub mac: Option<[u8; 6]>,
    /// Its state.
    pub state: NeighbourState,
    /// It said that it is a router (IPv6).
    pub router: bool,
    /// Who knew it.
    pub origin: NeighbourOrigin,
}

/// A question to send: to `mac`, or to everybody who may know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) alias: AliasId,
    pub(crate) addr: IpAddr,
    pub(crate) mac: Option<[u8; 6]>,
    /// Source of the packet that asks for it (RFC 4861 7.2.2: preferred for the question).
    pub(crate) src: Option<IpAddr>,
}

/// An answer: ARP reply or neighbour advertisement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) solicited: bool,
    pub(crate) overrides: bool,
    pub(crate) router: bool,
    /// Nobody was asked, everybody is told that the address is elsewhere now.
    pub(crate) announced: bool,
}

/// What to do with a frame.
#[derive(Debug)]
pub(super) enum Verdict {
    Send([u8; 6], Frame),
    /// Taken into the queue.
    Queued,
}

#[derive(Debug)]
struct Entry {
    alias: AliasId,
    addr: IpAddr,
    mac: [u8; 6],
    state: NeighbourState,
    router: bool,
    origin: NeighbourOrigin,
    /// Questions asked in this state.
    asked: u8,
    /// When the state began.
    since: Instant,
    /// REACHABLE turns into STALE here; looked at when used, no timer.
    reachable_until: Instant,
    deadline: Option<Instant>,
    queue: VecDeque<Frame>,
    src: Option<IpAddr>,
    links: Links,
}

impl Linked for Entry {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
    fn next(&self) -> u32 {
        self.links.next()
    }
}

impl Entry {
    fn state_at(&self, now: Instant) -> NeighbourState {
        if self.state == NeighbourState::Reachable && now >= self.reachable_until {
            return NeighbourState::Stale;
        }
        self.state
    }
}

/// Times of one alias, from RAs or the defaults of RFC 4861 10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NeighbourTimes {
    /// BaseReachableTime; each confirmation lasts 0.5 to 1.5 of it.
    pub(crate) reachable: Duration,
    /// RetransTimer.
    pub(crate) retrans: Duration,
}

impl Default for NeighbourTimes {
    fn default() -> NeighbourTimes {
        NeighbourTimes { reachable: Duration::from_secs(30), retrans: Duration::from_secs(1) }
    }
}

/// See the module documentation.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Neighbours {
    entries: Slab<Entry>,
    /// Whom the last packet went to: a guess.
    last: u32,
    /// A deadline changed since the timer was set.
    changed: bool,
    /// Grows with every change of what frames are sent to.
    version: u64,
    /// Entries with a MAC address, PERMANENT excepted.
    resolved: List,
    incomplete: List,
    failed: List,
    deadlines: BTreeSet<(Instant, u32)>,
    armed: Option<(Instant, TimerHandle)>,
    queued: usize,
    index: HashTable<u32>,
    /// What other stacks know, and the number of this one there.
    shared: Option<(Arc<SharedNeighbours>, u32)>,
    pub(super) asks: VecDeque<Ask>,
    pub(super) ready: VecDeque<([u8; 6], Frame)>,
    pub(super) lost: VecDeque<(AliasId, Frame)>,
    pub(super) gone: VecDeque<(AliasId, IpAddr)>,
}

fn hash(key: &Key, alias: AliasId, addr: IpAddr) -> u64 {
    let tail = u32::from(alias.0);
    match addr {
        IpAddr::V4(a) => key.hash_words([u64::from(a.to_bits())], tail),
        IpAddr::V6(a) => {
            let bits = a.to_bits();
            key.hash_words([bits as u64, (bits >> 64) as u64], tail)
        }
    }
}

/// Source address of the packet in a frame, IP header in front.
fn source_of(frame: &Frame) -> Option<IpAddr> {
    let data = frame.data();
    match data.first()? >> 4 {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(data.get(12..16)?).ok()?)),
        _ => Some(IpAddr::from(<[u8; 16]>::try_from(data.get(8..24)?).ok()?)),
    }
}

impl Neighbours {
    /// Asks for what every packet reads here.
    #[inline]
    pub(super) fn prefetch(&self) {
        prefetch(&self.entries);
        prefetch(&self.resolved);
    }

    /// Reads the entry that the next packet probably needs.
    #[inline]
    pub(super) fn touch(&self) -> usize {
        self.entries.get(self.last as usize).map_or(0, |e| {
            prefetch(&e.links);
            usize::from(e.asked)
        })
    }

    fn find(&self, ctx: &Ctx<'_>, alias: AliasId, addr: IpAddr) -> Option<u32> {
        let hash = hash(&ctx.secrets.flow, alias, addr);
        let same = |at: &u32| {
            let e = &self.entries[*at as usize];
            e.addr == addr && e.alias == alias
        };
        self.index.find(hash, same).copied()
    }

    fn unlink(&mut self, at: u32) {
        match self.entries[at as usize].state {
            NeighbourState::Permanent => {}
            NeighbourState::Incomplete => self.incomplete.remove(&mut self.entries, at),
            NeighbourState::Failed => self.failed.remove(&mut self.entries, at),
            _ => self.resolved.remove(&mut self.entries, at),
        }
    }

    fn link(&mut self, at: u32) {
        match self.entries[at as usize].state {
            NeighbourState::Permanent => {}
            NeighbourState::Incomplete => self.incomplete.push_back(&mut self.entries, at),
            NeighbourState::Failed => self.failed.push_back(&mut self.entries, at),
            _ => self.resolved.push_back(&mut self.entries, at),
        }
    }

    fn enter(&mut self, ctx: &Ctx<'_>, at: u32, state: NeighbourState, after: Option<Duration>) {
        self.version += 1;
        self.unlink(at);
        let e = &mut self.entries[at as usize];
        if e.state != state {
            e.state = state;
            e.since = ctx.now;
            e.asked = 0;
        }
        self.link(at);
        self.set_deadline(at, after.map(|d| ctx.now + d));
    }

    fn set_deadline(&mut self, at: u32, deadline: Option<Instant>) {
        let e = &mut self.entries[at as usize];
        self.changed |= e.deadline != deadline;
        if let Some(old) = e.deadline.take() {
            self.deadlines.remove(&(old, at));
        }
        e.deadline = deadline;
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, at));
        }
    }

    fn create(
        &mut self,
        ctx: &mut Ctx<'_>,
        alias: AliasId,
        addr: IpAddr,
        state: NeighbourState,
    ) -> Option<u32> {
        self.make_room(ctx, state)?;
        let entry = Entry {
            alias,
            addr,
            mac: [0; 6],
            state,
            router: false,
            origin: NeighbourOrigin::Own,
            asked: 0,
            since: ctx.now,
            reachable_until: ctx.now,
            deadline: None,
            queue: VecDeque::new(),
            src: None,
            links: Links::default(),
        };
        let at = self.entries.insert(entry) as u32;
        self.link(at);
        let key = &ctx.secrets.flow;
        let entries = &self.entries;
        let rehash = |at: &u32| {
            let e = &entries[*at as usize];
            hash(key, e.alias, e.addr)
        };
        self.index.insert_unique(hash(key, alias, addr), at, rehash);
        ctx.mib.neighbour.created += 1;
        Some(at)
    }

    /// Removes entries until one of `state` fits; `None` if that is not possible.
    fn make_room(&mut self, ctx: &mut Ctx<'_>, state: NeighbourState) -> Option<()> {
        let unresolved = self.incomplete.len() + self.failed.len();
        let unresolved_max = (ctx.limits.neighbours / 4).max(1);
        let full = self.entries.len() >= ctx.limits.neighbours;
        let victim = if state == NeighbourState::Incomplete && unresolved >= unresolved_max {
            Some(self.unresolved_victim(ctx.now)?)
        } else if full {
            let victim = self.failed.front().or_else(|| self.resolved_victim(ctx.now));
            Some(victim.or_else(|| self.unresolved_victim(ctx.now))?)
        } else {
            None
        };
        if let Some(victim) = victim {
            ctx.mib.neighbour.evicted += 1;
            self.remove(ctx, victim);
        }
        Some(())
    }

    /// FAILED first; else a resolution that had its time.
    fn unresolved_victim(&self, now: Instant) -> Option<u32> {
        self.failed.front().or_else(|| {
            let oldest = self.incomplete.front()?;
            let age = now.saturating_since(self.entries[oldest as usize].since);
            (age > INCOMPLETE_PROTECTED).then_some(oldest)
        })
    }

    /// STALE first, by last use; else whoever was used least recently.
    fn resolved_victim(&self, now: Instant) -> Option<u32> {
        self.resolved
            .front_entries(&self.entries, EVICT_SCAN)
            .find(|at| self.entries[*at as usize].state_at(now) == NeighbourState::Stale)
            .or_else(|| self.resolved.front())
    }

    fn remove(&mut self, ctx: &mut Ctx<'_>, at: u32) {
        self.version += 1;
        self.set_deadline(at, None);
        self.unlink(at);
        let entry = self.entries.remove(at as usize);
        let hash = hash(&ctx.secrets.flow, entry.alias, entry.addr);
        if let Ok(slot) = self.index.find_entry(hash, |i| *i == at) {
            slot.remove();
        }
        for _ in entry.queue {
            self.queued -= 1;
            ctx.drop_out(DropReason::NeighbourUnreachable);
        }
    }

    /// A frame (IP header in front) for `addr`: its MAC, or the frame is queued, or refused.
    pub(super) fn output(
        &mut self,
        ctx: &mut Ctx<'_>,
        alias: AliasId,
        addr: IpAddr,
        frame: Frame,
        times: NeighbourTimes,
    ) -> Result<Verdict, DropReason> {
        let last = self.entries.get(self.last as usize);
        let same = last.is_some_and(|e| e.addr == addr && e.alias == alias);
        let found = if same { Some(self.last) } else { self.find(ctx, alias, addr) };
        let Some(at) = found.or_else(|| self.create_shared(ctx, alias, addr)) else {
            let at = self
                .create(ctx, alias, addr, NeighbourState::Incomplete)
                .ok_or(DropReason::NeighbourTableFull)?;
            self.entries[at as usize].src = source_of(&frame);
            self.enqueue(ctx, at, frame);
            self.ask(ctx, at, false, times.retrans);
            return Ok(Verdict::Queued);
        };
        self.last = at;
        let e = &mut self.entries[at as usize];
        match e.state_at(ctx.now) {
            NeighbourState::Failed => return Err(DropReason::NeighbourUnreachable),
            NeighbourState::Incomplete => {
                self.enqueue(ctx, at, frame);
                return Ok(Verdict::Queued);
            }
            NeighbourState::Stale => {
                // RFC 4861 7.3.3: the first packet starts the delay before probing.
                e.src = source_of(&frame);
                if !self.adopt(ctx, at) {
                    self.enter(ctx, at, NeighbourState::Delay, Some(DELAY_FIRST_PROBE));
                }
            }
            NeighbourState::Permanent => {}
            _ => self.resolved.touch(&mut self.entries, at),
        }
        Ok(Verdict::Send(self.entries[at as usize].mac, frame))
    }

    /// The MAC address that frames for `addr` may be sent to without [`Neighbours::output`], and until
    /// when while [`Neighbours::version`] stays the same. Using it is told once, here.
    pub(super) fn ready_mac(
        &mut self,
        ctx: &Ctx<'_>,
        alias: AliasId,
        addr: IpAddr,
    ) -> Option<([u8; 6], Option<Instant>)> {
        let at = self.find(ctx, alias, addr)?;
        let e = &self.entries[at as usize];
        let (mac, state) = (e.mac, e.state_at(ctx.now));
        let until = match state {
            NeighbourState::Permanent => return Some((mac, None)),
            NeighbourState::Reachable => Some(e.reachable_until),
            NeighbourState::Delay | NeighbourState::Probe => None,
            NeighbourState::Incomplete | NeighbourState::Stale | NeighbourState::Failed => {
                return None;
            }
        };
        self.resolved.touch(&mut self.entries, at);
        Some((mac, until))
    }

    #[inline]
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// RFC 4861 7.2.2: when the queue is full the new packet replaces the oldest.
    fn enqueue(&mut self, ctx: &mut Ctx<'_>, at: u32, frame: Frame) {
        let e = &mut self.entries[at as usize];
        let max = ctx.limits.neighbour_queue;
        if e.queue.len() >= max && e.queue.pop_front().is_some() {
            self.queued -= 1;
            ctx.drop_out(DropReason::NeighbourQueueFull);
        }
        if self.queued >= max * QUEUES_FULL_MAX {
            return ctx.drop_out(DropReason::NeighbourQueueFull);
        }
        self.queued += 1;
        e.queue.push_back(frame);
    }

    fn flush(&mut self, at: u32) {
        let e = &mut self.entries[at as usize];
        for frame in e.queue.drain(..) {
            self.queued -= 1;
            self.ready.push_back((e.mac, frame));
        }
    }

    fn reachable(&mut self, ctx: &mut Ctx<'_>, at: u32, times: NeighbourTimes) {
        // RFC 4861 6.3.2: uniformly between 0.5 and 1.5 of the base.
        let base_us = times.reachable.as_micros() as u64;
        let lasts = Duration::from_micros(base_us / 2 + ctx.rng.below(base_us + 1));
        let e = &mut self.entries[at as usize];
        e.reachable_until = ctx.now + lasts;
        e.origin = NeighbourOrigin::Own;
        if let Some((shared, me)) = &self.shared {
            let known = Known { mac: e.mac, router: e.router, until: Some(e.reachable_until) };
            shared.learned((e.alias, e.addr), *me, known, ctx.now);
        }
        self.enter(ctx, at, NeighbourState::Reachable, None);
    }

    /// A neighbour named itself and its MAC without being asked (source of a request, of a router
    /// advertisement): RFC 4861 7.2.3, RFC 826. Only `create` makes an entry.
    pub(super) fn heard(
        &mut self,
        ctx: &mut Ctx<'_>,
        alias: AliasId,
        addr: IpAddr,
        mac: [u8; 6],
        (create, announced): (bool, bool),
    ) {
        let at = match self.find(ctx, alias, addr) {
            Some(at) => at,
            None if create => {
                let Some(at) = self.create(ctx, alias, addr, NeighbourState::Stale) else {
                    return;
                };
                self.entries[at as usize].mac = mac;
                return;
            }
            None => return,
        };
        let e = &mut self.entries[at as usize];
        let unresolved = matches!(e.state, NeighbourState::Incomplete | NeighbourState::Failed);
        if e.state == NeighbourState::Permanent || (e.mac == mac && !unresolved) {
            return;
        }
        if !unresolved && !announced && Self::locked(e, ctx.now) {
            return;
        }
        e.mac = mac;
        self.doubt(at);
        self.enter(ctx, at, NeighbourState::Stale, None);
        self.flush(at);
    }

    fn locked(e: &Entry, now: Instant) -> bool {
        e.state == NeighbourState::Reachable && now.saturating_since(e.since) < MAC_LOCK
    }

    /// RFC 4861 7.2.5. Returns whether a neighbour that was a router is none any more.
    pub(super) fn answered(
        &mut self,
        ctx: &mut Ctx<'_>,
        alias: AliasId,
        addr: IpAddr,
        answer: Answer,
        times: NeighbourTimes,
    ) -> bool {
        let Some(at) = self.find(ctx, alias, addr) else { return false };
        let e = &mut self.entries[at as usize];
        match e.state {
            NeighbourState::Permanent => return false,
            NeighbourState::Incomplete | NeighbourState::Failed => {
                let Some(mac) = answer.mac else { return false };
                e.mac = mac;
                e.router = answer.router;
                if answer.solicited {
                    self.reachable(ctx, at, times);
                } else {
                    self.enter(ctx, at, NeighbourState::Stale, None);
                }
                self.flush(at);
                return false;
            }
            _ => {}
        }
        let differs = answer.mac.is_some_and(|m| m != e.mac);
        if differs && !answer.overrides {
            // RFC 4861 7.2.5: doubt, but no change.
            if e.state == NeighbourState::Reachable {
                self.doubt(at);
                self.enter(ctx, at, NeighbourState::Stale, None);
            }
            return false;
        }
        if differs && !answer.announced && Self::locked(e, ctx.now) {
            return false;
        }
        let asked = matches!(e.state, NeighbourState::Delay | NeighbourState::Probe);
        e.mac = answer.mac.unwrap_or(e.mac);
        let router_gone = e.router && !answer.router;
        e.router = answer.router;
        // A new MAC counts as verified only if a question is open.
        if answer.solicited && (asked || !differs) {
            self.reachable(ctx, at, times);
        } else if differs {
            self.doubt(at);
            self.enter(ctx, at, NeighbourState::Stale, None);
        }
        router_gone
    }

    /// RFC 4861 7.3.1: an upper layer made progress through this neighbour.
    pub(super) fn confirm(
        &mut self,
        ctx: &mut Ctx<'_>,
        alias: AliasId,
        addr: IpAddr,
        times: NeighbourTimes,
    ) {
        let Some(at) = self.find(ctx, alias, addr) else { return };
        let e = &self.entries[at as usize];
        match e.state {
            NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe => {}
            // Renewed in its second half only: confirmations come with every ACK.
            NeighbourState::Reachable
                if e.reachable_until.saturating_since(ctx.now) < times.reachable / 4 => {}
            _ => return,
        }
        self.reachable(ctx, at, times);
    }

    /// Pins an entry; `false` if every other entry is pinned too.
    pub(super) fn pin(
        &mut self,
        ctx: &mut Ctx<'_>,
        alias: AliasId,
        addr: IpAddr,
        mac: [u8; 6],
    ) -> bool {
        let at = match self.find(ctx, alias, addr) {
            Some(at) => at,
            None => match self.create(ctx, alias, addr, NeighbourState::Permanent) {
                Some(at) => at,
                None => return false,
            },
        };
        let e = &mut self.entries[at as usize];
        e.mac = mac;
        e.origin = NeighbourOrigin::Static;
        self.enter(ctx, at, NeighbourState::Permanent, None);
        self.flush(at);
        true
    }

    pub(super) fn set_router(&mut self, ctx: &Ctx<'_>, alias: AliasId, addr: IpAddr) {
        if let Some(at) = self.find(ctx, alias, addr) {
            self.entries[at as usize].router = true;
        }
    }

    /// Drops the entries of an alias; of a link that is down only those that were learned.
    pub(super) fn forget_alias(&mut self, ctx: &mut Ctx<'_>, alias: AliasId, permanent: bool) {
        let gone: Vec<u32> = self
            .entries
            .iter()
            .filter(|(_, e)| e.alias == alias)
            .filter(|(_, e)| permanent || e.state != NeighbourState::Permanent)
            .map(|(at, _)| at as u32)
            .collect();
        for at in gone {
            self.remove(ctx, at);
        }
        if let Some((shared, _)) = self.shared.as_ref().filter(|_| !permanent) {
            shared.forget_alias(alias);
        }
    }

    /// Moves entries whose time has come; bounded, the rest follows at once.
    pub(super) fn expire(&mut self, ctx: &mut Ctx<'_>, times: impl Fn(AliasId) -> NeighbourTimes) {
        for _ in 0..EXPIRE_BATCH {
            let Some(&(deadline, at)) = self.deadlines.first() else { return };
            if deadline > ctx.now {
                return;
            }
            let e = &self.entries[at as usize];
            let (state, retrans) = (e.state, times(e.alias).retrans);
            let (asked, is_v4) = (e.asked, e.addr.is_ipv4());
            match state {
                NeighbourState::Delay | NeighbourState::Probe if self.adopt(ctx, at) => {}
                NeighbourState::Incomplete if asked < MULTICAST_SOLICIT_MAX => {
                    self.ask(ctx, at, false, retrans);
                }
                NeighbourState::Delay => {
                    self.enter(ctx, at, NeighbourState::Probe, None);
                    self.ask(ctx, at, true, retrans);
                }
                NeighbourState::Probe if asked < UNICAST_SOLICIT_MAX => {
                    self.ask(ctx, at, true, retrans);
                }
                // As Linux does for ARP: the host may have got a new card, ask everybody.
                NeighbourState::Probe
                    if is_v4 && asked < UNICAST_SOLICIT_MAX + MULTICAST_SOLICIT_MAX =>
                {
                    self.ask(ctx, at, false, retrans);
                }
                NeighbourState::Incomplete | NeighbourState::Probe => self.fail(ctx, at),
                NeighbourState::Failed => self.remove(ctx, at),
                _ => self.set_deadline(at, None),
            }
        }
    }

    fn ask(&mut self, ctx: &mut Ctx<'_>, at: u32, unicast: bool, retrans: Duration) {
        let e = &mut self.entries[at as usize];
        e.asked += 1;
        if let Some((shared, me)) = &self.shared
            && shared.turn((e.alias, e.addr), *me, ctx.now, retrans) == Turn::Wait
        {
            ctx.mib.neighbour.shared_waits += 1;
            return self.set_deadline(at, Some(ctx.now + retrans));
        }
        let mac = unicast.then_some(e.mac);
        self.asks.push_back(Ask { alias: e.alias, addr: e.addr, mac, src: e.src });
        self.set_deadline(at, Some(ctx.now + retrans));
    }

    fn fail(&mut self, ctx: &mut Ctx<'_>, at: u32) {
        ctx.mib.neighbour.res_failed += 1;
        self.give_up(at);
        let e = &mut self.entries[at as usize];
        let (alias, addr) = (e.alias, e.addr);
        let queue = core::mem::take(&mut e.queue);
        self.gone.push_back((alias, addr));
        for frame in queue {
            self.queued -= 1;
            self.lost.push_back((alias, frame));
        }
        self.enter(ctx, at, NeighbourState::Failed, Some(NEGATIVE_CACHE));
    }

    /// Brings the stack's timer in line with the first deadline.
    pub(super) fn arm(&mut self, ctx: &mut Ctx<'_>, other: Option<Instant>) {
        self.changed = false;
        let first = self.deadlines.first().map(|d| d.0);
        let want = [first, other].into_iter().flatten().min();
        if self.armed.map(|a| a.0) == want {
            return;
        }
        if let Some((_, handle)) = self.armed.take() {
            ctx.timers.cancel(handle);
        }
        self.armed = want.map(|at| (at, ctx.timers.schedule(at, Timer::Neighbour)));
    }

    /// Whether there is something to carry on with: a question always comes with a deadline.
    pub(super) fn is_changed(&self) -> bool {
        self.changed
    }

    pub(super) fn timer_fired(&mut self) {
        self.armed = None;
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    pub(super) fn iter(&self, now: Instant) -> impl Iterator<Item = NeighbourInfo> + '_ {
        self.entries.iter().map(move |(_, e)| {
            let state = e.state_at(now);
            let known = !matches!(state, NeighbourState::Incomplete | NeighbourState::Failed);
            NeighbourInfo {
                alias: e.alias,
                addr: e.addr,
                mac: known.then_some(e.mac),
                state,
                router: e.router,
                origin: e.origin,
            }
        })
    }
}
