//! Control messages: checked, delivered to their context (RFC 5533 12.3, 12.4), turned into events.

use weft_stack::time::Instant;

use super::Contexts;
use crate::context::Given;
use crate::context::Probed;
use crate::context::env::{Came, Learned};
use crate::context::table::{Action, Event, State, step};
use crate::context::validator::Subject;
use crate::locator::{Pair, is_unicast};
use crate::wire::Tag;
use crate::wire::message::{Body, Message, ReadError, code};

impl Contexts {
    /// A control message of exactly the bytes its header says, which came by `pair`.
    pub fn receive(&mut self, now: Instant, pair: Pair, bytes: &[u8]) {
        self.env.now = now;
        self.env.stats.control_received += 1;
        if !is_unicast(pair.local) || !is_unicast(pair.remote) {
            self.env.stats.control_malformed += 1;
            return;
        }
        let (message, places) = match Message::read(bytes) {
            Ok(read) => read,
            Err(error) => return self.unreadable(now, pair, bytes, error),
        };
        let came = Came { pair, bytes, message: &message, places };
        match message.body {
            Body::I1 { initiator_tag, initiator_nonce } => {
                self.i1(now, &came, initiator_tag, initiator_nonce);
            }
            Body::R1 { initiator_nonce, responder_nonce } => {
                self.r1(now, &came, initiator_nonce, responder_nonce);
            }
            Body::I2 { .. } | Body::I2bis { .. } => self.i2(now, &came),
            Body::R2 { responder_tag, initiator_nonce } => {
                self.r2(now, &came, responder_tag, initiator_nonce);
            }
            Body::R1bis { packet_tag, responder_nonce } => {
                self.r1bis(now, &came, packet_tag, responder_nonce);
            }
            Body::Update { receiver_tag, .. }
            | Body::UpdateAck { receiver_tag, .. }
            | Body::Keepalive { receiver_tag }
            | Body::Probe { receiver_tag, .. } => self.control(now, &came, receiver_tag),
            Body::Error { code, ref packet, .. } => self.error(&came, code, packet),
        }
    }

    fn unreadable(&mut self, now: Instant, pair: Pair, bytes: &[u8], error: ReadError) {
        match error {
            ReadError::Malformed => self.env.stats.control_malformed += 1,
            ReadError::Checksum => self.env.stats.control_checksum += 1,
            ReadError::UnknownType { .. } => {
                self.env.stats.control_unknown_type += 1;
                self.env.send_error(now, pair, bytes, code::UNKNOWN_TYPE, 2);
            }
            ReadError::CriticalOption { at } => {
                self.env.stats.control_critical_option += 1;
                self.env.send_error(now, pair, bytes, code::CRITICAL_OPTION, at);
            }
        }
    }

    /// ULIDs and forked instance of an I1, I2 or I2bis; `None` if they cannot be those of a context.
    fn names(&mut self, came: &Came<'_>) -> Option<(Pair, u32)> {
        let options = &came.message.options;
        let ulids = options.ulids.map_or(came.pair, Pair::reversed);
        if !self.may_be_ulids(ulids) {
            self.env.stats.control_wrong_ulid += 1;
            return None;
        }
        Some((ulids, options.fii.unwrap_or(0)))
    }

    /// RFC 5533 7.9.
    fn i1(&mut self, now: Instant, came: &Came<'_>, tag: Tag, nonce: u32) {
        let Some((ulids, fii)) = self.names(came) else { return };
        let found = self.by_ulids.get(&(ulids, fii)).copied();
        let event = found.map_or(Event::I1, |id| {
            let context = &self.slots[id as usize];
            let tag_fits = context.state != State::Established || context.is_peer_tag(tag);
            // Without the option the packet's addresses are the ULIDs, which need no looking up.
            let locator_fits =
                came.message.options.ulids.is_none() || context.knows(came.pair.remote);
            if tag_fits && locator_fits { Event::I1 } else { Event::I1Other }
        });
        let state = found.map_or(State::Idle, |id| self.slots[id as usize].state);
        if let (Some(id), Action::SendR2) = (found, step(state, event).0) {
            let given = Given { pair: came.pair, nonce, ..Given::nothing(ulids) };
            self.fire(id, now, event, &given);
        } else {
            let subject = Subject::Names { ulids, locators: came.pair, tag, fii };
            self.env.send_r1(now, &subject, nonce);
        }
    }

    /// The context whose exchange has this nonce and goes by this pair (RFC 5533 12.4).
    fn by_nonce(&self, nonce: u32, pair: Pair) -> Option<u32> {
        let ids = self.by_nonce.get(&nonce)?;
        let fits = |id: &&u32| {
            let exchange = self.slots[**id as usize].exchange.as_ref();
            exchange.is_some_and(|e| e.nonce == nonce && e.pair == pair)
        };
        ids.iter().find(fits).copied()
    }

    /// RFC 5533 7.11.
    fn r1(&mut self, now: Instant, came: &Came<'_>, nonce: u32, responder_nonce: u32) {
        let Some(id) = self.by_nonce(nonce, came.pair) else {
            self.env.stats.control_no_context += 1;
            return;
        };
        let Some(validator) = came.message.options.validator.as_deref() else {
            self.env.stats.control_malformed += 1;
            return;
        };
        let given = Given { nonce, responder_nonce, validator, ..Given::nothing(came.pair) };
        if self.fire(id, now, Event::R1, &given) == Action::Discard {
            self.env.stats.control_wrong_state += 1;
        }
    }

    /// RFC 5533 7.13 and 7.20.
    fn i2(&mut self, now: Instant, came: &Came<'_>) {
        let Some(name) = self.names(came) else { return };
        let (ulids, fii) = name;
        let (event, tag, nonce, responder_nonce, subject) = match came.message.body {
            Body::I2 { initiator_tag: tag, initiator_nonce, responder_nonce } => {
                let subject = Subject::Names { ulids, locators: came.pair, tag, fii };
                (Event::I2, tag, initiator_nonce, responder_nonce, subject)
            }
            Body::I2bis { initiator_tag, initiator_nonce, responder_nonce, packet_tag } => {
                let subject = Subject::Packet { locators: came.pair, tag: packet_tag };
                (Event::I2bis, initiator_tag, initiator_nonce, responder_nonce, subject)
            }
            _ => return,
        };
        let validator = came.message.options.validator.as_deref().unwrap_or_default();
        let env = &mut self.env;
        if !env.validators.check(&mut env.rng, now, responder_nonce, validator, &subject) {
            env.stats.validator_wrong += 1;
            return;
        }
        let found = self.by_ulids.get(&name).copied();
        let mut given = Given { pair: came.pair, nonce, tag, ..Given::nothing(ulids) };
        if let Some(id) = found
            && !self.is_news(id, now, nonce, responder_nonce, &given)
        {
            return;
        }
        let Some(learned) = self.believed(now, came, name, found) else { return };
        given.learned = learned;
        if !self.clear_confusion(now, name, tag, given.learned.list.as_ref()) {
            self.env.stats.contexts_refused += 1;
            return;
        }
        // What was confused may have gone.
        let found = self.by_ulids.get(&name).copied();
        let Some(id) = found.or_else(|| self.make_for_peer(now, name)) else { return };
        self.holds.release(ulids.remote);
        self.slots[id as usize].answered = Some((nonce, responder_nonce));
        self.fire(id, now, event, &given);
    }

    /// An I2 that was taken before is answered again and changes nothing; an older one is dropped.
    fn is_news(
        &mut self,
        id: u32,
        now: Instant,
        nonce: u32,
        responder_nonce: u32,
        given: &Given<'_>,
    ) -> bool {
        let context = &mut self.slots[id as usize];
        let again = context.is_answered(nonce, responder_nonce) && context.is_peer_tag(given.tag);
        if !again && !context.is_outdated(responder_nonce) {
            return true;
        }
        self.env.stats.replayed += 1;
        if again {
            context.answer_again(&mut self.env, now, given);
            self.settle(id, now);
        }
        false
    }

    /// What an I2, I2bis or R2 says of the peer, if all of it is proved and the source is among it.
    fn believed(
        &mut self,
        now: Instant,
        came: &Came<'_>,
        name: (Pair, u32),
        found: Option<u32>,
    ) -> Option<Learned> {
        let ulid = name.0.remote;
        let context = found.map(|id| &self.slots[id as usize]);
        let known = context.and_then(|c| c.peer_pds.as_deref());
        let mut learned = self.env.learn(now, came, ulid, known, None)?;
        let source = came.pair.remote;
        let listed = learned.list.as_ref().is_some_and(|l| l.contains(source));
        let held = context.is_some_and(|c| c.peer.contains(source));
        if source != ulid && !listed && !held {
            self.env.stats.locator_unproved += 1;
            return None;
        }
        if let Some(list) = &mut learned.list
            && !self.env.prefer(now, came, list)
        {
            return None;
        }
        Some(learned)
    }

    /// A new context for a peer, if there is room.
    fn make_for_peer(&mut self, now: Instant, name: (Pair, u32)) -> Option<u32> {
        if self.has_room(name.0) {
            return Some(self.make(now, name.0, name.1));
        }
        let full = self.slots.len() >= self.env.config.bounds.contexts_max;
        let stats = &mut self.env.stats;
        *(if full { &mut stats.contexts_refused } else { &mut stats.contexts_refused_prefix }) += 1;
        None
    }

    /// RFC 5533 7.16.
    fn r2(&mut self, now: Instant, came: &Came<'_>, tag: Tag, nonce: u32) {
        let Some(id) = self.by_nonce(nonce, came.pair) else {
            self.env.stats.control_no_context += 1;
            return;
        };
        let context = &self.slots[id as usize];
        let name = (context.ulids, context.fii);
        let Some(learned) = self.believed(now, came, name, Some(id)) else { return };
        if !self.clear_confusion(now, name, tag, learned.list.as_ref()) {
            self.env.stats.contexts_refused += 1;
            return;
        }
        let Some(&id) = self.by_ulids.get(&name) else { return };
        self.holds.release(name.0.remote);
        let given = Given { nonce, tag, learned, ..Given::nothing(came.pair) };
        self.fire(id, now, Event::R2, &given);
    }

    /// RFC 5533 7.18. Any pair of the context is taken, not only the one in use: probes of other
    /// pairs are what tells first that the peer lost the context (RFC 5533 7.5).
    fn r1bis(&mut self, now: Instant, came: &Came<'_>, tag: Tag, responder_nonce: u32) {
        let own = self.env.own.contains(came.pair.local);
        let ids = self.by_peer_tag.get(&tag).map_or(&[][..], |ids| ids);
        let fits = |id: &&u32| {
            let context = &self.slots[**id as usize];
            context.peer.contains(came.pair.remote)
                && (own || context.ulids.local == came.pair.local)
        };
        let Some(id) = ids.iter().find(fits).copied() else {
            self.env.stats.control_no_context += 1;
            return;
        };
        let Some(validator) = came.message.options.validator.as_deref() else {
            self.env.stats.control_malformed += 1;
            return;
        };
        let given = Given { responder_nonce, validator, tag, ..Given::nothing(came.pair) };
        if self.fire(id, now, Event::R1bis, &given) == Action::Discard {
            self.env.stats.control_wrong_state += 1;
        }
    }

    /// Update, acknowledgement, keepalive, probe: by tag, over locators of the context.
    fn control(&mut self, now: Instant, came: &Came<'_>, tag: Tag) {
        let Some(&id) = self.by_tag.get(&tag) else {
            self.env.stats.control_unknown_tag += 1;
            self.env.send_r1bis(now, came.pair, tag);
            return;
        };
        let context = &self.slots[id as usize];
        let local = came.pair.local;
        let own = self.env.own.contains(local) || context.ulids.local == local;
        let state = context.state;
        if state != State::I1Sent && !(own && context.knows(came.pair.remote)) {
            // A stale context of somebody else that happens to have this tag (RFC 5533 10.4).
            self.env.stats.control_wrong_locators += 1;
            self.env.send_r1bis(now, came.pair, tag);
            return;
        }
        let exchange = context.exchange.as_ref().map_or(came.pair, |e| e.pair);
        let action = self.fire(id, now, Event::Control, &Given::nothing(exchange));
        if !matches!(action, Action::Process | Action::ProcessSendI2 | Action::ProcessSendI2bis) {
            self.env.stats.control_wrong_state += 1;
            return;
        }
        self.seen(now, id, tag);
        let context = &mut self.slots[id as usize];
        match &came.message.body {
            Body::Update { nonce, .. } => {
                context.update_received(&mut self.env, now, came, *nonce);
            }
            Body::UpdateAck { nonce, .. } => context.update_acknowledged(&mut self.env, *nonce),
            Body::Keepalive { .. } => context.keepalive_received(now, came.pair),
            Body::Probe { report, .. } => {
                let probed = Probed { pair: came.pair, report };
                context.probe_received(&mut self.env, now, probed);
            }
            _ => {}
        }
        self.settle(id, now);
    }

    /// An error about a message of ours. It names the context by what we sent: our locators and
    /// tags in the packet it carries (RFC 5533 12.4).
    fn error(&mut self, came: &Came<'_>, code: u8, packet: &[u8]) {
        let quoted = packet.get(40..).and_then(|m| m.first_chunk::<16>());
        let Some(message) = quoted else {
            self.env.stats.control_malformed += 1;
            return;
        };
        let kind = message[2] & 0x7f;
        let tag = Message::context_tag(message);
        let fits = |id: &&u32| self.slots[**id as usize].peer.contains(came.pair.remote);
        let ids = tag.and_then(|t| self.by_peer_tag.get(&t)).map_or(&[][..], |ids| ids);
        let Some(&id) = ids.iter().find(fits) else {
            self.env.stats.control_no_context += 1;
            return;
        };
        self.env.stats.errors_received += 1;
        let nonce = u32::from_be_bytes([message[12], message[13], message[14], message[15]]);
        let refused = matches!(code, code::VERIFICATION | code::GENERATION | code::PREFERENCES);
        if refused && kind == crate::wire::message::kind::UPDATE {
            self.slots[id as usize].update_refused(nonce);
        }
    }
}
