//! The four-way exchange and the recovery (RFC 5533 7.7-7.20): what is sent, kept and repeated.

use smallvec::SmallVec;
use weft_stack::time::{Duration, Instant};

use super::env::Env;
use super::table::{Action, Event, State};
use super::{Context, Exchange, Given, backed_off};
use crate::locator::{LocatorList, Verification};
use crate::wire::Tag;
use crate::wire::message::{Body, Message};
use crate::wire::option::Options;

impl Exchange {
    fn over(env: &mut Env, now: Instant, given: &Given<'_>) -> Exchange {
        Exchange {
            nonce: env.rng.next_u32(),
            pair: given.pair,
            responder_nonce: given.responder_nonce,
            validator: SmallVec::from_slice(given.validator),
            packet_tag: given.tag,
            i1_retries: 0,
            i2_retries: 0,
            timer: now,
        }
    }
}

impl Context {
    /// I1 is to be sent: first or again, or instead of I2, or because the peer lost the context.
    pub(super) fn begin(&mut self, env: &mut Env, now: Instant, before: State, given: &Given<'_>) {
        match before {
            State::I1Sent => {}
            // Falls back to I1, whose repetitions go on counting.
            State::I2Sent | State::I2bisSent if self.exchange.is_some() => {
                self.forget_peer();
                if let Some(exchange) = &mut self.exchange {
                    exchange.i1_retries += 1;
                    exchange.i2_retries = 0;
                }
            }
            _ => {
                self.forget_peer();
                self.exchange = Some(Box::new(Exchange::over(env, now, given)));
            }
        }
        self.send_i1(env, now);
    }

    /// The ULIDs, where the packet's addresses do not say them, and the forked instance.
    fn names(&self, over: crate::locator::Pair) -> Options {
        Options {
            ulids: (over != self.ulids).then_some(self.ulids),
            fii: (self.fii != 0).then_some(self.fii),
            ..Options::default()
        }
    }

    fn send_i1(&mut self, env: &mut Env, now: Instant) {
        let timers = &env.config.timers;
        let (first, max) = (timers.handshake, Duration::MAX);
        let Some(exchange) = &mut self.exchange else { return };
        exchange.timer = backed_off(env, now, first, max, u32::from(exchange.i1_retries));
        let (pair, initiator_nonce) = (exchange.pair, exchange.nonce);
        let body = Body::I1 { initiator_tag: self.local_tag, initiator_nonce };
        let message = Message { body, options: self.names(pair) };
        env.send_for(Some(self.local_tag), pair, &message);
    }

    /// I2 or I2bis is to be sent: for the first time, again because time passed, or again because
    /// the peer speaks as if it had answered.
    pub(super) fn second(
        &mut self,
        env: &mut Env,
        now: Instant,
        action: Action,
        event: Event,
        given: &Given<'_>,
    ) {
        match event {
            Event::R1 => {
                // It has our nonce.
                self.shown |= given.pair.remote == self.ulids.remote;
                if let Some(exchange) = &mut self.exchange {
                    exchange.responder_nonce = given.responder_nonce;
                    exchange.validator = SmallVec::from_slice(given.validator);
                }
            }
            Event::R1bis if self.exchange.is_none() => {
                env.stats.recoveries += 1;
                self.again = now + env.config.bounds.again;
                self.exchange = Some(Box::new(Exchange::over(env, now, given)));
            }
            Event::Retry => {}
            _ if now < self.again => {
                env.stats.limited_again += 1;
                return;
            }
            _ => {
                self.again = now + env.config.bounds.again;
                // Another pair that works towards us: the first may not work back.
                if let (Event::R1bis, Some(exchange)) = (event, &mut self.exchange) {
                    exchange.pair = given.pair;
                    exchange.responder_nonce = given.responder_nonce;
                    exchange.validator = SmallVec::from_slice(given.validator);
                    exchange.packet_tag = given.tag;
                }
            }
        }
        self.send_second(env, matches!(action, Action::SendI2bis | Action::ProcessSendI2bis));
        if matches!(event, Event::R1 | Event::R1bis | Event::Retry) {
            let first = env.config.timers.handshake;
            let retries = self.exchange.as_ref().map_or(0, |e| u32::from(e.i2_retries));
            let timer = backed_off(env, now, first, Duration::MAX, retries);
            if let Some(exchange) = &mut self.exchange {
                exchange.timer = timer;
            }
        }
    }

    fn send_second(&mut self, env: &mut Env, bis: bool) {
        let Some(exchange) = &self.exchange else { return };
        let (initiator_tag, initiator_nonce) = (self.local_tag, exchange.nonce);
        let responder_nonce = exchange.responder_nonce;
        let body = if bis {
            let packet_tag = exchange.packet_tag;
            Body::I2bis { initiator_tag, initiator_nonce, responder_nonce, packet_tag }
        } else {
            Body::I2 { initiator_tag, initiator_nonce, responder_nonce }
        };
        let names = self.names(exchange.pair);
        let options = Options {
            validator: Some(exchange.validator.clone()),
            ulids: names.ulids,
            fii: names.fii,
            ..env.own_options(self.ulids, &body, None)
        };
        self.told = env.own.revision();
        env.send_for(Some(self.local_tag), exchange.pair, &Message { body, options });
    }

    pub(super) fn send_r2(&mut self, env: &mut Env, now: Instant, given: &Given<'_>) {
        if !env.gates.r2.take(now) {
            env.stats.limited_r2 += 1;
            return;
        }
        let body = Body::R2 { responder_tag: self.local_tag, initiator_nonce: given.nonce };
        let options = env.own_options(self.ulids, &body, None);
        self.told = env.own.revision();
        env.send_for(Some(self.local_tag), given.pair, &Message { body, options });
    }

    /// Takes over the peer's tag and locators (RFC 5533 7.13, 7.16, 7.20).
    pub(super) fn record(&mut self, env: &mut Env, now: Instant, given: &Given<'_>) {
        self.peer_tag = Some(given.tag);
        if let Some(list) = &given.learned.list {
            self.agree_on(list.clone());
            self.revoked.clear();
        } else if self.peer.locators.is_empty() {
            self.peer = LocatorList::single(self.ulids.remote, Verification::Hba);
        }
        if let Some(pds) = &given.learned.pds {
            self.peer_pds = Some(pds.clone().into());
        }
        self.used = now;
        // What came back there with our nonce or validator went to that address.
        let ulid = self.ulids.remote;
        self.shown |= given.pair.remote == ulid || self.peer.is_keyed(ulid);
        self.learn_ports(env);
        if self.reap.is_none() {
            env.stats.contexts_established += 1;
        }
        self.reach(env, now, given);
    }

    /// No answer came in time.
    pub(super) fn retry(&mut self, env: &mut Env, now: Instant) {
        let timers = &env.config.timers;
        let Some(exchange) = &mut self.exchange else { return };
        let pair = exchange.pair;
        let i1_left = exchange.i1_retries < timers.i1_retries;
        let event = if self.state == State::I1Sent {
            exchange.i1_retries = exchange.i1_retries.saturating_add(1);
            if i1_left { Event::Retry } else { Event::GiveUp }
        } else {
            exchange.i2_retries = exchange.i2_retries.saturating_add(1);
            let left = exchange.i2_retries <= timers.i2_retries;
            if left { Event::Retry } else { Event::GiveUp }
        };
        if event == Event::GiveUp && self.state == State::I1Sent {
            env.stats.initiations_failed += 1;
        }
        self.fire(env, now, event, &Given::nothing(pair));
    }

    /// R2 again, for an I2 that was taken before.
    pub(crate) fn answer_again(&mut self, env: &mut Env, now: Instant, given: &Given<'_>) {
        self.send_r2(env, now, given);
    }

    /// Whether an I2 or I2bis with these nonces was answered before.
    pub(crate) fn is_answered(&self, initiator: u32, responder: u32) -> bool {
        self.answered == Some((initiator, responder))
    }

    /// Whether an I2 or I2bis is older than the last that was taken: the responder nonce counts
    /// seconds.
    pub(crate) fn is_outdated(&self, responder: u32) -> bool {
        self.answered.is_some_and(|(_, last)| (responder.wrapping_sub(last) as i32) < 0)
    }

    /// The tag a peer must have in an I1 that repeats the one that made this context.
    pub(crate) fn is_peer_tag(&self, tag: Tag) -> bool {
        self.peer_tag == Some(tag)
    }
}
