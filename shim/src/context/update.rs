//! Updates of the peer about our locators (RFC 5533 10).

use weft_stack::time::Instant;

use super::env::{Came, Env};
use super::table::State;
use super::{Context, backed_off};
use crate::wire::message::{Body, Message};

/// The update request that waits for its acknowledgement.
#[derive(Clone, Debug)]
pub(crate) struct Update {
    pub(super) nonce: u32,
    pub(super) timer: Instant,
    retries: u32,
}

/// Updates of a peer that are known again. Lists change with addresses: this is for hours.
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
        let options = env.own_options(self.ulids, &body);
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
        let Some(learned) = env.learn(now, came, ulid, self.peer_pds.as_deref()) else { return };
        // Only where everything is right, anything is taken over.
        let anew = learned.list.is_some();
        let mut list = learned.list.unwrap_or_else(|| self.peer.clone());
        if !env.prefer(now, came, &mut list) {
            return;
        }
        env.stats.updates_received += 1;
        if !newest {
            if self.updates_taken.len() >= UPDATES_KNOWN {
                self.updates_taken.remove(0);
            }
            self.updates_taken.push(nonce);
        }
        let changed = list != self.peer;
        self.peer = list;
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
