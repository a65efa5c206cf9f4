//! Making and ending contexts, and keeping the maps as they are.

use core::net::IpAddr;

use weft_stack::path::{PathEvent, PathFlow};
use weft_stack::time::Instant;

use super::{Contexts, Ids, SAME_TAG_MAX};
use crate::context::table::{Event, State};
use crate::context::{Context, Given, Said};
use crate::locator::{LocatorList, Pair, to_octets};
use crate::wire::Tag;

/// What peers are counted by: the /64 of an IPv6 address, an IPv4 address.
pub(super) fn prefix(addr: IpAddr) -> u64 {
    let bits = u128::from_be_bytes(to_octets(addr));
    match addr {
        IpAddr::V4(_) => bits as u64,
        IpAddr::V6(_) => (bits >> 64) as u64,
    }
}

const fn initiates(state: State) -> bool {
    matches!(state, State::I1Sent | State::I2Sent)
}

impl Contexts {
    /// A context in IDLE; the caller fires what brings it to life, and settles it.
    pub(super) fn make(&mut self, now: Instant, ulids: Pair, fii: u32) -> u32 {
        let tag = loop {
            let tag = self.env.random_tag();
            if !self.by_tag.contains_key(&tag) {
                break tag;
            }
        };
        let id = self.slots.insert(Box::new(Context::new(ulids, fii, tag, now))) as u32;
        self.by_tag.insert(tag, id);
        self.by_ulids.insert((ulids, fii), id);
        *self.prefixes.entry(prefix(ulids.remote)).or_default() += 1;
        *self.own_ulids.entry(ulids.local).or_default() += 1;
        self.flows.forget(ulids);
        self.last = None;
        self.env.stats.contexts_made += 1;
        id
    }

    /// Brings maps and timers up to date with a context, and takes what it wants sent and told.
    pub(super) fn settle(&mut self, id: u32, now: Instant) {
        self.env.now = now;
        let context = &mut self.slots[id as usize];
        context.drain(&mut self.env, now);
        let name = (context.ulids, context.fii);
        self.tell_flows(name);
        let context = &mut self.slots[id as usize];
        if !context.lives() {
            self.remove(id, now);
            return;
        }
        let fate = context.said.map(|_| Said::of(context, &self.env));
        if context.said != fate {
            context.said = None;
            self.passes.revise();
        }
        let nonce = context.exchange.as_ref().map(|e| e.nonce);
        let (peer_tag, state) = (context.peer_tag, context.state);
        let before = context.indexed;
        (context.indexed.peer_tag, context.indexed.nonce) = (peer_tag, nonce);
        let was = core::mem::replace(&mut context.initiates, initiates(state));
        self.initiating = self.initiating + usize::from(initiates(state)) - usize::from(was);
        if before.peer_tag != peer_tag {
            if let Some(tag) = before.peer_tag {
                drop_id(&mut self.by_peer_tag, tag, id);
            }
            if let Some(tag) = peer_tag {
                self.by_peer_tag.entry(tag).or_default().push(id);
            }
        }
        if before.nonce != nonce {
            if let Some(nonce) = before.nonce {
                drop_id(&mut self.by_nonce, nonce, id);
            }
            if let Some(nonce) = nonce {
                self.by_nonce.entry(nonce).or_default().push(id);
            }
        }
        self.arm(id);
    }

    /// Switches of a forked instance, to each flow that uses it.
    fn tell_flows(&mut self, (ulids, fii): (Pair, u32)) {
        for event in core::mem::take(&mut self.env.forked) {
            let PathEvent::Switched { src, dst, from, to, lost, rtt, .. } = event else { continue };
            let users = self.forks.iter().filter(|(f, of)| f.ulids == ulids && **of == fii);
            for (f, _) in users {
                let flow = Some(PathFlow { protocol: f.protocol, ports: f.ports });
                self.env.tell(PathEvent::Switched { flow, src, dst, from, to, lost, rtt });
            }
        }
    }

    /// Sets the timer of a context, if it wants to be woken earlier than it will be.
    fn arm(&mut self, id: u32) {
        let at = self.slots[id as usize].poll_timeout(self.env.config.timers.quiet);
        self.arm_at(id, at);
    }

    /// The same, when that instant is known.
    pub(super) fn arm_at(&mut self, id: u32, at: Instant) {
        let context = &mut self.slots[id as usize];
        if context.indexed.timer.is_none_or(|(set, _)| at < set) {
            if let Some((_, handle)) = context.indexed.timer {
                self.timers.cancel(handle);
            }
            context.indexed.timer = Some((at, self.timers.schedule(at, id)));
            context.note_awaited();
            return self.note_due();
        }
        context.note_awaited();
    }

    fn remove(&mut self, id: u32, now: Instant) {
        let mut context = self.slots.remove(id as usize);
        context.release_ports(&mut self.env);
        let (ulids, indexed) = (context.ulids, context.indexed);
        self.by_tag.remove(&context.local_tag);
        self.by_ulids.remove(&(ulids, context.fii));
        if let Some(tag) = indexed.peer_tag {
            drop_id(&mut self.by_peer_tag, tag, id);
        }
        if let Some(nonce) = indexed.nonce {
            drop_id(&mut self.by_nonce, nonce, id);
        }
        if let Some((_, handle)) = indexed.timer {
            self.timers.cancel(handle);
        }
        self.initiating -= usize::from(context.initiates);
        count_down(&mut self.prefixes, prefix(ulids.remote));
        if count_down(&mut self.own_ulids, ulids.local) {
            self.env.tell(PathEvent::Released(ulids.local));
        }
        if context.fii != 0 {
            self.forks.retain(|flow, fii| flow.ulids != ulids || *fii != context.fii);
            self.count_forks(ulids);
        }
        if matches!(context.state, State::EFailed | State::NoSupport) {
            self.holds.hold(&mut self.env, now, ulids.remote, context.state);
        }
        (self.last, self.last_tag) = (None, None);
        if context.said.is_some() {
            self.passes.revise();
        }
        self.note_due();
        self.env.stats.contexts_ended += 1;
    }

    /// The peer uses `tag` for the context `ulids`, `fii` now: others of it that have the same tag
    /// were lost there (RFC 5533 7.15). `false`: too many hosts use the tag, which is no accident.
    pub(super) fn clear_confusion(
        &mut self,
        now: Instant,
        name: (Pair, u32),
        tag: Tag,
        list: Option<&LocatorList>,
    ) -> bool {
        let Some(ids) = self.by_peer_tag.get(&tag) else { return true };
        let same_host = |c: &Context| {
            let ulid = c.peer.contains(name.0.remote) || c.ulids.remote == name.0.remote;
            ulid || list.is_some_and(|l| l.overlaps(&c.peer) || l.contains(c.ulids.remote))
        };
        let confused: Ids = ids
            .iter()
            .copied()
            .filter(|id| {
                let c = &self.slots[*id as usize];
                (c.ulids, c.fii) != name && same_host(c)
            })
            .collect();
        for id in confused {
            let context = &self.slots[id as usize];
            if matches!(context.state, State::Established | State::I2bisSent) {
                let pair = context.pair;
                self.env.stats.contexts_confused += 1;
                self.fire(id, now, Event::Confused, &Given::nothing(pair));
            }
        }
        self.by_peer_tag.get(&tag).is_none_or(|ids| ids.len() < SAME_TAG_MAX)
    }
}

fn drop_id<K: core::hash::Hash + Eq>(
    map: &mut hashbrown::HashMap<K, Ids, weft_stack::rng::Key>,
    key: K,
    id: u32,
) {
    if let hashbrown::hash_map::Entry::Occupied(mut ids) = map.entry(key) {
        ids.get_mut().retain(|other| *other != id);
        if ids.get().is_empty() {
            ids.remove();
        }
    }
}

/// `true`: it was the last.
fn count_down<K: core::hash::Hash + Eq>(
    map: &mut hashbrown::HashMap<K, u32, weft_stack::rng::Key>,
    key: K,
) -> bool {
    let hashbrown::hash_map::Entry::Occupied(mut count) = map.entry(key) else { return false };
    *count.get_mut() -= 1;
    let last = *count.get() == 0;
    if last {
        count.remove();
    }
    last
}
