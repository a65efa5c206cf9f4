//! The data path: which context a packet belongs to, and what becomes of it.

use weft_stack::time::Instant;

use super::Contexts;
use crate::config::SetUp;
use crate::context::table::{Action, Event};
use crate::context::{CameBy, Given};
use crate::encap::Seen;
use crate::locator::Pair;
use crate::wire::Tag;

/// A transport flow: what forked instances are chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// ULIDs.
    pub ulids: Pair,
    /// IP protocol.
    pub protocol: u8,
    /// Our port and the peer's.
    pub ports: (u16, u16),
}

/// Where a packet goes and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As it is.
    Plain,
    /// Over other locators than its ULIDs, behind a header with the tag.
    Rewritten {
        /// Locators.
        pair: Pair,
        /// The peer's tag.
        tag: Tag,
        /// The peer's UDP port; `None`: without UDP.
        port: Option<u16>,
    },
}

/// What a packet behind a payload header is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// One between these ULIDs.
    Of(Pair),
    /// The same, of a peer that has not shown yet that packets to its ULID reach it.
    Unshown(Pair),
    /// No context has its tag: the sender was told, or too many were.
    UnknownTag,
    /// Its context does not take packets yet.
    WrongState,
}

/// Source and destination port of a transport that has them in front.
pub(crate) fn ports(protocol: u8, head: &[u8]) -> Option<(u16, u16)> {
    let &[a, b, c, d] = head.first_chunk::<4>()?;
    matches!(protocol, 6 | 17 | 33 | 132 | 136)
        .then_some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

impl Contexts {
    /// What the rules of ports say of a packet.
    fn set_up(&self, protocol: u8, ports: Option<(u16, u16)>) -> SetUp {
        let config = &self.env.config.set_up;
        // SCTP has its own ways of several addresses (RFC 6629).
        if protocol == 132 {
            return SetUp::Never;
        }
        let Some((a, b)) = ports else { return config.default };
        let fits = |r: &&crate::config::PortRule| {
            r.protocol == protocol && (r.ports.contains(&a) || r.ports.contains(&b))
        };
        config.ports.iter().find(fits).map_or(config.default, |r| r.set_up)
    }

    /// Whether ports must be seen before it is known what becomes of a packet.
    pub(super) fn asks_ports(&self) -> bool {
        !self.env.config.set_up.ports.is_empty()
    }

    #[inline]
    pub(super) fn look_up(&mut self, ulids: Pair) -> Option<u32> {
        match self.last {
            Some((pair, id)) if pair == ulids => id,
            _ => {
                let id = self.by_ulids.get(&(ulids, 0)).copied();
                self.last = Some((ulids, id));
                id
            }
        }
    }

    /// The context of an instance between two ULIDs. A packet's questions follow each other, so
    /// that most are answered by what the first one found.
    #[inline]
    pub(super) fn find(&self, ulids: Pair, fii: u32) -> Option<u32> {
        match self.last {
            Some((pair, id)) if pair == ulids && fii == 0 => id,
            _ => self.by_ulids.get(&(ulids, fii)).copied(),
        }
    }

    /// A packet that [passes](Contexts::passes) went out (`true`) or came: what
    /// [`Contexts::send`] and [`Contexts::received_plain`] do, without their questions.
    #[inline(never)]
    pub fn passed(&mut self, now: Instant, ulids: Pair, out: bool, bytes: usize) {
        if out && self.asks_ports() && self.set_up(0, None) == SetUp::Never {
            return;
        }
        let Some(id) = self.look_up(ulids) else {
            self.count(now, ulids, 0, None, bytes);
            return;
        };
        let context = &mut self.slots[id as usize];
        if out {
            context.sent(now);
        } else {
            context.received(now, ulids);
        }
        self.touch(id, now);
    }

    /// Whether every packet between two ULIDs goes and comes as it is, but for received datagrams,
    /// any of which may be one of the shim's.
    #[inline]
    pub fn passes(&mut self, ulids: Pair) -> bool {
        let Some(id) = self.look_up(ulids) else {
            let asks = self.asks_ports() || !self.forks.is_empty();
            return !asks || !self.may_be_ulids(ulids);
        };
        self.slots[id as usize].passes() && self.forks.is_empty()
    }

    /// A packet goes out. `head`: the front of its transport header, if that is at hand.
    #[inline]
    pub fn send(
        &mut self,
        now: Instant,
        ulids: Pair,
        protocol: u8,
        head: &[u8],
        bytes: usize,
    ) -> Way {
        let ports = ports(protocol, head);
        let special = protocol == 132 || self.asks_ports() || !self.forks.is_empty();
        if special && self.set_up(protocol, ports) == SetUp::Never {
            return Way::Plain;
        }
        let fork = self.fork_of(ulids, protocol, ports);
        let Some(id) = fork.or_else(|| self.look_up(ulids)) else {
            self.count(now, ulids, protocol, ports, bytes);
            return Way::Plain;
        };
        let context = &mut self.slots[id as usize];
        context.sent(now);
        let (pair, tag, local_tag) = (context.pair, context.tag_out(), context.local_tag);
        self.touch(id, now);
        match tag {
            Some(tag) if pair != ulids => {
                self.env.stats.rewritten_out += 1;
                let port = self.env.payload_port(local_tag, pair);
                Way::Rewritten { pair, tag, port }
            }
            _ => Way::Plain,
        }
    }

    /// A packet came between two ULIDs, without a header of the shim (RFC 5533 12.1).
    #[inline]
    pub fn received_plain(
        &mut self,
        now: Instant,
        ulids: Pair,
        protocol: u8,
        head: &[u8],
        bytes: usize,
    ) {
        let Some(id) = self.look_up(ulids) else {
            let ports = ports(protocol, head);
            self.count(now, ulids, protocol, ports, bytes);
            return;
        };
        self.slots[id as usize].received(now, ulids);
        self.touch(id, now);
    }

    /// A packet came behind a payload header with `tag` (RFC 5533 12.2).
    pub fn received_tagged(&mut self, now: Instant, pair: Pair, tag: Tag) -> Payload {
        let Some(id) = self.of_tag(tag) else {
            self.env.stats.payload_unknown_tag += 1;
            self.env.send_r1bis(now, pair, tag);
            return Payload::UnknownTag;
        };
        let context = &mut self.slots[id as usize];
        if context.tag_out().is_none() || context.exchange.is_some() {
            let over = context.exchange.as_ref().map_or(pair, |e| e.pair);
            let action = self.fire(id, now, Event::Payload, &Given::nothing(over));
            if action == Action::Discard {
                self.env.stats.payload_wrong_state += 1;
                return Payload::WrongState;
            }
        }
        self.seen(now, id, tag);
        let context = &self.slots[id as usize];
        let (ulids, shown) = (context.ulids, context.shown);
        self.take_tagged(now, pair, id);
        if shown { Payload::Of(ulids) } else { Payload::Unshown(ulids) }
    }

    /// The context that a packet behind a payload header with `tag` is of, and its ULIDs, if it takes
    /// packets without further ado ([`Contexts::take_tagged`]).
    #[inline]
    pub(crate) fn would_take(&mut self, tag: Tag) -> Option<(u32, Pair)> {
        let id = self.of_tag(tag)?;
        let context = &self.slots[id as usize];
        let takes = context.tag_out().is_some() && context.exchange.is_none() && context.shown;
        takes.then_some((id, context.ulids))
    }

    /// A packet that came by `pair` is one of this context.
    #[inline(always)]
    pub(crate) fn take_tagged(&mut self, now: Instant, pair: Pair, id: u32) {
        self.env.stats.rewritten_in += 1;
        let context = &mut self.slots[id as usize];
        if context.received_at_rest(now) {
            context.came_by = CameBy::Pair(pair);
            debug_assert!(self.is_in_time(id));
        } else {
            self.received_otherwise(now, pair, id);
        }
    }

    #[inline(never)]
    fn received_otherwise(&mut self, now: Instant, pair: Pair, id: u32) {
        self.slots[id as usize].received(now, pair);
        self.touch(id, now);
    }

    /// The context with our `tag`. Most packets are of the one that the last was of.
    #[inline]
    fn of_tag(&mut self, tag: Tag) -> Option<u32> {
        if let Some((last, id)) = self.last_tag
            && last == tag
        {
            return Some(id);
        }
        let id = *self.by_tag.get(&tag)?;
        self.last_tag = Some((tag, id));
        Some(id)
    }

    /// A packet of a context came in UDP: from another port than before, that port is tested.
    pub(super) fn seen(&mut self, now: Instant, id: u32, tag: Tag) {
        if let (Some(encap), Some(from)) = (&mut self.env.encap, self.env.came)
            && encap.seen(now, tag, from) == Seen::Probe
        {
            if let Some(reap) = &mut self.slots[id as usize].reap {
                reap.probe_now(now);
            }
            self.settle(id, now);
        }
    }

    /// The pairs that rewritten packets between two ULIDs go by, and the peer's UDP port on each:
    /// that of the common context, and those of forked instances.
    pub fn ways(&self, ulids: Pair) -> impl Iterator<Item = (Pair, Option<u16>)> + '_ {
        let forked = if self.forks.is_empty() { None } else { self.forked.get(&ulids) };
        let forked = forked.into_iter().flatten().copied();
        core::iter::once(0).chain(forked).filter_map(move |fii| self.way(ulids, fii))
    }

    /// Whether all flows between two ULIDs go by one pair.
    #[inline]
    pub(crate) fn is_whole(&self) -> bool {
        self.forks.is_empty()
    }

    /// The same of one instance.
    #[inline]
    pub(crate) fn way(&self, ulids: Pair, fii: u32) -> Option<(Pair, Option<u16>)> {
        let context = &self.slots[self.find(ulids, fii)? as usize];
        context.tag_out()?;
        let port = self.env.payload_port(context.local_tag, context.pair);
        (context.pair != ulids).then_some((context.pair, port))
    }

    /// What a packet of the data path may have changed.
    #[inline]
    pub(super) fn touch(&mut self, id: u32, now: Instant) {
        let context = &self.slots[id as usize];
        if !context.is_awaited(now) {
            return self.look_at_timer(id, now);
        }
        debug_assert!(self.is_in_time(id), "a timer never ends too late");
    }

    /// The timer of a context ends before anything it has is overdue.
    pub(super) fn is_in_time(&self, id: u32) -> bool {
        let context = &self.slots[id as usize];
        let due = context.poll_timeout(self.env.config.timers.quiet);
        context.indexed.timer.is_some_and(|(at, _)| at <= due)
    }

    #[cold]
    fn look_at_timer(&mut self, id: u32, now: Instant) {
        let context = &self.slots[id as usize];
        let at = context.poll_timeout(self.env.config.timers.quiet);
        if at <= now || !context.is_calm() {
            self.settle(id, now);
        } else {
            self.arm_at(id, at);
        }
    }

    /// Counts a packet of a pair without context, and sets one up if it is worth it.
    fn count(
        &mut self,
        now: Instant,
        ulids: Pair,
        protocol: u8,
        ports: Option<(u16, u16)>,
        bytes: usize,
    ) {
        let set_up = self.set_up(protocol, ports);
        if set_up == SetUp::Never || !self.may_be_ulids(ulids) {
            return;
        }
        let forgotten = &mut self.env.stats.flows_forgotten;
        if self.flows.count(now, ulids, bytes, set_up, forgotten) {
            // Held down, or too many at once: a later packet asks again.
            let _ = self.start(now, ulids, 0);
            self.flows.forget(ulids);
        }
    }

    /// Packets of `flow` use a context of their own from now on, which is set up if there is none
    /// (RFC 5533 4.2). At most as many flows as there may be contexts.
    pub fn fork(&mut self, now: Instant, flow: Flow, fii: u32) -> Result<(), super::StartError> {
        if fii == 0 || self.forks.len() >= self.env.config.bounds.contexts_max {
            return Err(super::StartError::Bound);
        }
        match self.start(now, flow.ulids, fii) {
            Ok(()) | Err(super::StartError::Exists) => {
                self.forks.insert(flow, fii);
                self.passes.revise();
                let used = self.forked.entry(flow.ulids).or_default();
                if !used.contains(&fii) {
                    used.push(fii);
                }
                Ok(())
            }
            error => error,
        }
    }

    /// A flow uses the context of all again.
    pub fn unfork(&mut self, flow: &Flow) {
        if self.forks.remove(flow).is_some() {
            self.count_forks(flow.ulids);
        }
    }

    /// Which forked instances flows between two ULIDs use. Costs a look at every forked flow.
    pub(super) fn count_forks(&mut self, ulids: Pair) {
        let used = self.forks.iter().filter(|(flow, _)| flow.ulids == ulids);
        let mut used: super::Ids = used.map(|(_, fii)| *fii).collect();
        used.sort_unstable();
        used.dedup();
        if used.is_empty() {
            self.forked.remove(&ulids);
        } else {
            self.forked.insert(ulids, used);
        }
    }

    /// Whether a flow uses a forked instance.
    pub fn is_forked(&self, flow: &Flow) -> bool {
        !self.forks.is_empty() && self.forks.contains_key(flow)
    }

    /// The instance that a flow uses; 0: the common one.
    pub(crate) fn instance_of(&self, flow: &Flow) -> u32 {
        self.forks.get(flow).copied().unwrap_or(0)
    }

    fn fork_of(&self, ulids: Pair, protocol: u8, ports: Option<(u16, u16)>) -> Option<u32> {
        if self.forks.is_empty() {
            return None;
        }
        let flow = Flow { ulids, protocol, ports: ports? };
        let fii = *self.forks.get(&flow)?;
        self.by_ulids.get(&(ulids, fii)).copied()
    }
}
