//! All contexts of a vserver: found by ULIDs on the way out and by tag on the way in, bounded, and
//! driven by what arrives, by time and by traffic.
//!
//! Invariants: a context is in `by_ulids` and `by_tag` exactly while it exists; `by_peer_tag`,
//! `by_nonce` and the timer wheel follow it at the end of every call ([`Contexts::settle`]). A peer
//! makes this host remember something only by an I2 or I2bis that repeats what was sent to its
//! address. Every map has a bound.

mod announce;
mod change;
mod flows;
mod holds;
mod icmp;
mod index;
mod lookup;
mod passes;
mod receive;
mod report;
mod traffic;

use core::net::IpAddr;

use hashbrown::HashMap;
use slab::Slab;
use smallvec::SmallVec;
use weft_stack::path::PathEvent;
use weft_stack::rng::{Key, Rng};
use weft_stack::time::{Instant, earlier};
use weft_stack::timer_wheel::TimerWheel;

use crate::config::ShimConfig;
use crate::context::env::{Env, Outgoing};
use crate::context::table::{Action, Event, State, step};
use crate::context::{CameBy, Context, Given};
use crate::encap::{Encap, Endpoint};
use crate::locator::{LocatorList, Pair, is_unicast};
use crate::log::Log;
use crate::own::Change;
use crate::reap::{Hint, Reap, ReapConfig, SwitchError};
use crate::stats::ShimStats;
use crate::trust::Trust;
use crate::wire::Tag;
use announce::Announcing;
use flows::Flows;
use holds::Holds;
use passes::Passes;

pub use icmp::QuotedWas;
pub use report::{ContextReport, LocatorReport, ShimReport};
pub use traffic::{Flow, Payload, Way};

/// Contexts with one tag of their peers: more is no accident.
const SAME_TAG_MAX: usize = 16;

/// ULIDs and forked instance.
type Name = (Pair, u32);
type Ids = SmallVec<[u32; 2]>;

/// All contexts of a vserver.
pub struct Contexts {
    env: Env,
    slots: Slab<Box<Context>>,
    by_ulids: HashMap<Name, u32, Key>,
    by_tag: HashMap<Tag, u32, Key>,
    by_peer_tag: HashMap<Tag, Ids, Key>,
    by_nonce: HashMap<u32, Ids, Key>,
    /// Contexts of peers of one prefix.
    prefixes: HashMap<u64, u32, Key>,
    /// Contexts of one of our ULIDs.
    own_ulids: HashMap<IpAddr, u32, Key>,
    /// Transport flows that use a forked instance.
    forks: HashMap<traffic::Flow, u32, Key>,
    /// The instances that those between two ULIDs use.
    forked: HashMap<Pair, Ids, Key>,
    initiating: usize,
    timers: TimerWheel<u32>,
    /// When the next timer or hold-down ends, or more contexts learn of our locators.
    due: Option<Instant>,
    flows: Flows,
    holds: Holds,
    /// The last pair that was looked up, and what was found.
    last: Option<(Pair, Option<u32>)>,
    /// The same of the last tag.
    last_tag: Option<(Tag, u32)>,
    passes: Passes,
    announcing: Announcing,
}

/// Why a context was not made on request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// One end is not unicast, ours is none of our locators, or the families differ.
    NotUlids,
    /// There is one already.
    Exists,
    /// The peer did not answer, or cannot, a short time ago.
    HeldDown,
    /// A bound of the vserver is reached.
    Bound,
}

impl Contexts {
    /// No contexts. `own`: the locators of the vserver.
    pub fn new(
        config: ShimConfig,
        reap: ReapConfig,
        own: LocatorList,
        trust: Box<dyn Trust>,
        seed: [u8; 16],
    ) -> Contexts {
        let mut rng = Rng::new(seed);
        let own = LocatorList { generation: rng.next_u32(), ..own };
        let key = Key::generate(&mut rng);
        let passes = Passes::new(&mut rng);
        let (flows, holds) = (Flows::new(&config.set_up, key), Holds::new(&config, key));
        Contexts {
            env: Env::new(config, reap, rng, own, trust),
            slots: Slab::new(),
            by_ulids: HashMap::with_hasher(key),
            by_tag: HashMap::with_hasher(key),
            by_peer_tag: HashMap::with_hasher(key),
            by_nonce: HashMap::with_hasher(key),
            prefixes: HashMap::with_hasher(key),
            own_ulids: HashMap::with_hasher(key),
            forks: HashMap::with_hasher(key),
            forked: HashMap::with_hasher(key),
            initiating: 0,
            timers: TimerWheel::default(),
            due: None,
            flows,
            holds,
            last: None,
            last_tag: None,
            passes,
            announcing: Announcing::default(),
        }
    }

    /// Number of contexts.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Counters.
    pub fn stats(&self) -> &ShimStats {
        &self.env.stats
    }

    /// What happened to contexts lately.
    pub fn log(&self) -> &Log {
        &self.env.log
    }

    /// Whether a context could be between two addresses: unicast of one family, ours among our
    /// locators, neither link-local.
    pub fn may_be_ulids(&self, ulids: Pair) -> bool {
        let global = |a: IpAddr| match a {
            IpAddr::V4(v4) => !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_unicast_link_local(),
        };
        let fit = |a: IpAddr| is_unicast(a) && global(a);
        ulids.local != ulids.remote
            && ulids.same_family()
            && fit(ulids.local)
            && fit(ulids.remote)
            && self.env.own.contains(ulids.local)
    }

    /// Begins to set up a context.
    pub fn start(&mut self, now: Instant, ulids: Pair, fii: u32) -> Result<(), StartError> {
        if !self.may_be_ulids(ulids) {
            return Err(StartError::NotUlids);
        }
        if self.by_ulids.contains_key(&(ulids, fii)) {
            return Err(StartError::Exists);
        }
        let state = self.holds.state(now, ulids.remote);
        if !matches!(step(state, Event::Start), (Action::SendI1, _)) {
            return Err(StartError::HeldDown);
        }
        if self.initiating >= self.env.config.bounds.initiating_max || !self.has_room(ulids) {
            self.env.stats.initiations_put_off += 1;
            return Err(StartError::Bound);
        }
        if !self.env.gates.i1.take(now) {
            self.env.stats.limited_i1 += 1;
            return Err(StartError::Bound);
        }
        let id = self.make(now, ulids, fii);
        self.fire(id, now, Event::Start, &Given::nothing(ulids));
        Ok(())
    }

    /// Ends a context without telling the peer (RFC 5533 9). `false`: there is none.
    pub fn end(&mut self, now: Instant, ulids: Pair, fii: u32) -> bool {
        let Some(&id) = self.by_ulids.get(&(ulids, fii)) else { return false };
        self.fire(id, now, Event::Quiet, &Given::nothing(ulids));
        true
    }

    /// Sends a context's packets by `pair` from now on.
    pub fn switch(
        &mut self,
        now: Instant,
        ulids: Pair,
        fii: u32,
        pair: Pair,
    ) -> Result<(), SwitchError> {
        let id = *self.by_ulids.get(&(ulids, fii)).ok_or(SwitchError::NotAPair)?;
        let context = &mut self.slots[id as usize];
        let reap = context.reap.as_mut().ok_or(SwitchError::NotAPair)?;
        let done = reap.switch(now, pair);
        self.settle(id, now);
        done
    }

    /// Probes every pair of a context now. `false`: there is none that is established.
    pub fn probe(&mut self, now: Instant, ulids: Pair, fii: u32) -> bool {
        let Some(&id) = self.by_ulids.get(&(ulids, fii)) else { return false };
        let Some(reap) = self.slots[id as usize].reap.as_mut() else { return false };
        reap.probe_now(now);
        self.settle(id, now);
        true
    }

    fn has_room(&self, ulids: Pair) -> bool {
        let bounds = &self.env.config.bounds;
        let same = self.prefixes.get(&index::prefix(ulids.remote)).copied().unwrap_or(0);
        self.slots.len() < bounds.contexts_max && same < bounds.contexts_per_prefix_max
    }

    /// Carries out an event of a context.
    fn fire(&mut self, id: u32, now: Instant, event: Event, given: &Given<'_>) -> Action {
        let context = &mut self.slots[id as usize];
        let action = context.fire(&mut self.env, now, event, given);
        self.settle(id, now);
        action
    }

    /// Our locators are these from now on; contexts tell their peers, where there are many not all in
    /// this call. The list gets a new generation number (RFC 5533 10.1).
    pub fn set_own(&mut self, now: Instant, list: LocatorList) {
        self.env.own.replace(list);
        self.own_changed(now);
    }

    /// Something became of an address of ours; contexts tell their peers, as with [`Contexts::set_own`].
    pub fn address_changed(&mut self, now: Instant, addr: IpAddr, change: Change) {
        if self.env.own.set(addr, change) {
            self.own_changed(now);
        }
    }

    /// Sockets are connected between two ULIDs whose contexts were about to end (RFC 5533 9).
    pub fn keep(&mut self, now: Instant, ulids: Pair) {
        let forked = self.forked.get(&ulids).cloned().unwrap_or_default();
        for fii in core::iter::once(0).chain(forked) {
            let Some(&id) = self.by_ulids.get(&(ulids, fii)) else { continue };
            if self.slots[id as usize].keep(now) {
                self.env.stats.contexts_kept += 1;
                self.settle(id, now);
            }
        }
    }

    /// What transports notice between two ULIDs.
    pub fn hint(&mut self, now: Instant, ulids: Pair, hint: Hint) {
        self.env.now = now;
        if let Some(&id) = self.by_ulids.get(&(ulids, 0)) {
            self.slots[id as usize].hint(now, hint);
            self.settle(id, now);
        }
    }

    /// The pair that packets between two ULIDs go by.
    pub fn pair(&self, ulids: Pair, fii: u32) -> Option<Pair> {
        let context = &self.slots[self.find(ulids, fii)? as usize];
        Some(if context.tag_out().is_some() { context.pair } else { ulids })
    }

    /// Our locators as the peer of a context may know them, and the peer's that are proved.
    pub(crate) fn locators_of(&self, ulids: Pair, fii: u32) -> Option<(LocatorList, LocatorList)> {
        let context = &self.slots[*self.by_ulids.get(&(ulids, fii))? as usize];
        Some((self.env.own_for(ulids), context.peer.clone()))
    }

    /// The pair by which the last packet of a context came; `None`: none did yet.
    pub(crate) fn came_by(&self, ulids: Pair, fii: u32) -> Option<Pair> {
        match self.slots[*self.by_ulids.get(&(ulids, fii))? as usize].came_by {
            CameBy::Nothing => None,
            CameBy::Ulids => Some(ulids),
            CameBy::Pair(pair) => Some(pair),
        }
    }

    /// The reachability of a context that is set up.
    pub(crate) fn reap_of(&self, ulids: Pair, fii: u32) -> Option<&Reap> {
        self.slots[*self.by_ulids.get(&(ulids, fii))? as usize].reap.as_deref()
    }

    /// The same, to change it. `None`: there is no such context.
    pub(crate) fn with_reap<R>(
        &mut self,
        now: Instant,
        ulids: Pair,
        fii: u32,
        change: impl FnOnce(&mut Reap) -> R,
    ) -> Option<R> {
        let id = *self.by_ulids.get(&(ulids, fii))?;
        let done = change(self.slots[id as usize].reap.as_mut()?);
        self.settle(id, now);
        Some(done)
    }

    /// How failures are found in contexts that are set up from now on.
    pub(crate) fn reap_config(&self) -> &ReapConfig {
        &self.env.reap
    }

    /// Whether pairs are measured while they are not used.
    pub fn measures(&self) -> bool {
        self.env.reap.measure.is_some()
    }

    /// The state of the context between two ULIDs.
    pub fn state(&self, now: Instant, ulids: Pair, fii: u32) -> State {
        match self.by_ulids.get(&(ulids, fii)) {
            Some(&id) => self.slots[id as usize].state,
            None => self.holds.state(now, ulids.remote),
        }
    }

    /// Whether a context has this ULID of ours.
    pub fn owns(&self, ulid: IpAddr) -> bool {
        self.own_ulids.contains_key(&ulid)
    }

    /// The instant of [`Contexts::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.env.now = now;
        if let Some(encap) = &mut self.env.encap {
            encap.handle_timeout(now);
            self.env.waiting |= encap.wants_transmit();
        }
        while let Some(id) = self.timers.pop_expired(now) {
            let context = &mut self.slots[id as usize];
            context.indexed.timer = None;
            context.handle_timeout(&mut self.env, now);
            self.settle(id, now);
        }
        if self.announcing.poll_timeout().is_some_and(|at| at <= now) {
            self.announce(now);
        }
        self.holds.expire(now);
        self.note_due();
    }

    /// Timers, hold-downs or what is announced are others now.
    fn note_due(&mut self) {
        self.due = self.look_for_due();
    }

    fn look_for_due(&self) -> Option<Instant> {
        let timers = earlier(self.timers.next_deadline(), self.holds.poll_timeout());
        earlier(timers, self.announcing.poll_timeout())
    }

    /// When to call [`Contexts::handle_timeout`].
    #[inline]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let own = self.due;
        debug_assert_eq!(own, self.look_for_due());
        let Some(encap) = &self.env.encap else { return own };
        let keepalive = encap.poll_timeout().filter(|_| !self.slots.is_empty());
        earlier(own, earlier(keepalive, encap.poll_old_port()))
    }

    /// The UDP port of the shim.
    pub fn encap(&self) -> Option<&Encap> {
        self.env.encap.as_ref()
    }

    /// The same, for the packets it carries.
    pub fn encap_mut(&mut self) -> Option<&mut Encap> {
        self.env.encap.as_mut()
    }

    /// What comes next came in UDP from there; `None`: it did not.
    pub fn came_from(&mut self, now: Instant, from: Option<Endpoint>) {
        self.env.now = now;
        self.env.came = from;
    }

    /// Whether there is something of either to be taken.
    #[inline]
    pub fn has_work(&self) -> bool {
        debug_assert!(self.env.waiting || !self.env.look_for_waiting());
        self.env.waiting
    }

    /// Something was taken.
    pub(crate) fn note_taken(&mut self) {
        self.env.waiting = self.env.look_for_waiting();
    }

    /// Whether [`Contexts::poll_event`] has something.
    #[inline]
    pub fn has_events(&self) -> bool {
        !self.env.events.is_empty()
    }

    /// Whether [`Contexts::poll_transmit`] has something.
    #[inline]
    pub fn wants_transmit(&self) -> bool {
        let keepalives = || self.env.encap.as_ref().is_some_and(Encap::wants_transmit);
        self.has_work() && (!self.env.out.is_empty() || keepalives())
    }

    /// The next control message.
    pub fn poll_transmit(&mut self) -> Option<Outgoing> {
        let next = self.env.out.pop_front();
        if self.env.out.is_empty() {
            self.env.out.shrink_to(64);
        }
        self.note_taken();
        next
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<PathEvent> {
        let next = self.env.events.pop_front();
        self.note_taken();
        next
    }
}
