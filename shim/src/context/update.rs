//! Updates of the peer about our locators (RFC 5533 10).

use weft_stack::time::Instant;

use super::env::{Came, Env};
use super::table::State;
use super::{Context, backed_off};
use crate::locator::LocatorList;
use crate::wire::message::{Body, Message};

/// The update request that waits for its acknowledgement.
#[derive(Clone, Debug)]
pub(crate) struct Update {
    pub(super) nonce: u32,
    pub(super) timer: Instant,
    retries: u32,
}

/// Updates of a peer, and lists of it, that are known again. They change with addresses: this is for
/// hours.
const UPDATES_KNOWN: usize = 32;

impl Context {
    /// Tells the peer of our locators as they are now, unless it knows. What was not acknowledged
    /// yet is part of it (RFC 5533 10.3).
    pub(crate) fn update_peer(&mut self, env: &mut Env, now: Instant) {
        if self.state != State::Established || self.told == env.own.revision() {
            return;
        }
        self.told = env.own.revision();
        let nonce = env.rng.next_u32();
        self.update = Some(Box::new(Update { nonce, timer: now, retries: 0 }));
        self.send_update(env, now);
    }

    pub(super) fn repeat_update(&mut self, env: &mut Env, now: Instant) {
        if let Some(update) = &mut self.update {
            update.retries = update.retries.saturating_add(1);
            self.send_update(env, now);
        }
    }

    fn send_update(&mut self, env: &mut Env, now: Instant) {
        let (first, max) = (env.config.timers.update, env.config.timers.update_max);
        let Some(receiver_tag) = self.peer_tag else { return };
        let Some(update) = &mut self.update else { return };
        update.timer = backed_off(env, now, first, max, update.retries);
        let body = Body::Update { receiver_tag, nonce: update.nonce };
        let options = env.own_options(self.ulids, &body, Some(self.local_tag));
        env.stats.updates_sent += 1;
        env.send_for(Some(self.local_tag), self.pair, &Message { body, options });
    }

    /// An update request of the peer, whose tag and locators are right.
    pub(crate) fn update_received(
        &mut self,
        env: &mut Env,
        now: Instant,
        came: &Came<'_>,
        nonce: u32,
    ) {
        let newest = self.updates_taken.last() == Some(&nonce);
        if !newest && self.updates_taken.contains(&nonce) {
            // Late, or recorded: it would bring back locators that were withdrawn since.
            env.stats.replayed += 1;
            return;
        }
        let ulid = self.ulids.remote;
        let (known, from) = (self.peer_pds.as_deref(), self.peer_tag);
        let Some(learned) = env.learn(now, came, ulid, known, from) else { return };
        if learned.list.as_ref().is_some_and(|list| self.is_outdated_list(list)) {
            env.stats.replayed += 1;
            return;
        }
        // Only where everything is right, anything is taken over.
        let anew = learned.list.is_some();
        let mut list = learned.list.unwrap_or_else(|| self.peer.clone());
        if !env.prefer(now, came, &mut list) {
            return;
        }
        env.stats.updates_received += 1;
        if !newest {
            remember(&mut self.updates_taken, nonce);
        }
        let changed = list != self.peer;
        self.take_list(list);
        if anew {
            self.revoked.clear();
        }
        if let Some(pds) = learned.pds {
            self.peer_pds = Some(pds.into());
        }
        self.keepalive_timeout(learned.keepalive_timeout);
        if let Some(receiver_tag) = self.peer_tag {
            let ack = Message::new(Body::UpdateAck { receiver_tag, nonce });
            env.send_for(Some(self.local_tag), came.pair, &ack);
        }
        if changed {
            self.learn_ports(env);
            self.set_paths(env, now);
        }
    }

    /// Whether a list that was proved is older than one that was taken. Numbers of generations are
    /// random, so that only those which were seen are known again; but whoever has our keyed proof
    /// counts them.
    fn is_outdated_list(&self, list: &LocatorList) -> bool {
        let number = list.generation;
        let counted = self.keyed_list.filter(|_| list.is_keyed(self.ulids.remote));
        if counted.is_some_and(|last| (number.wrapping_sub(last) as i32) < 0) {
            return true;
        }
        number != self.peer.generation && self.lists_left.contains(&number)
    }

    /// The peer's locators are these from now on, and those before are not taken again.
    fn take_list(&mut self, list: LocatorList) {
        if list.is_keyed(self.ulids.remote) {
            self.keyed_list = Some(list.generation);
        }
        let old = core::mem::replace(&mut self.peer, list);
        if old.generation != self.peer.generation && !old.locators.is_empty() {
            remember(&mut self.lists_left, old.generation);
        }
    }

    /// The peer's locators as an exchange has them: the peer may have begun anew, so that these are
    /// the newest whatever their number is.
    pub(super) fn agree_on(&mut self, list: LocatorList) {
        self.keyed_list = list.is_keyed(self.ulids.remote).then_some(list.generation);
        self.lists_left.retain(|left| *left != list.generation);
        self.peer = list;
    }

    /// An acknowledgement; one of an update that was given up for a newer one is ignored.
    pub(crate) fn update_acknowledged(&mut self, env: &mut Env, nonce: u32) {
        if self.update.as_ref().is_some_and(|u| u.nonce == nonce) {
            env.stats.updates_acknowledged += 1;
            self.update = None;
        }
    }

    /// The peer says that it did not take the update: repeating it would not help.
    pub(crate) fn update_refused(&mut self, nonce: u32) {
        self.update.take_if(|u| u.nonce == nonce);
    }
}

/// Keeps the last ones.
fn remember(known: &mut Vec<u32>, number: u32) {
    if known.len() >= UPDATES_KNOWN {
        known.remove(0);
    }
    known.push(number);
}
