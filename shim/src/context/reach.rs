//! Between a context and its [`Reap`]: locators, packets, probes, switches.

use weft_stack::path::PathEvent;
use weft_stack::time::Instant;

use super::env::Env;
use super::table::State;
use super::{Context, Given};
use crate::reap::{self, Hint, Reap, ReapEvent, Why};
use crate::wire::message::{Body, Message};
use crate::wire::probe::{KeepaliveTimeout, Probe, ReapState};

impl Context {
    /// The peer's locators are known, or anew: the pair of the exchange works both ways, so a new
    /// [`Reap`] starts from it.
    pub(super) fn reach(&mut self, env: &mut Env, now: Instant, given: &Given<'_>) {
        if self.reap.is_none() {
            let mut seed = [0; 16];
            for half in seed.as_chunks_mut::<8>().0 {
                *half = env.rng.next_u64().to_be_bytes();
            }
            self.pair = given.pair;
            self.reap = Some(Box::new(Reap::new(&env.reap, seed, now, given.pair)));
        }
        self.keepalive_timeout(given.learned.keepalive_timeout);
        self.set_paths(env, now);
    }

    pub(super) fn keepalive_timeout(&mut self, timeout: Option<KeepaliveTimeout>) {
        if let (Some(reap), Some(timeout)) = (&mut self.reap, timeout) {
            reap.set_peer_timeout(timeout.0);
        }
    }

    /// Our locators or the peer's are others now.
    pub(crate) fn set_paths(&mut self, env: &Env, now: Instant) {
        if let Some(reap) = &mut self.reap {
            let own = env.own_for(self.ulids);
            reap.set_paths(now, &own.locators, &self.peer.locators);
        }
    }

    pub(crate) fn hint(&mut self, now: Instant, hint: Hint) {
        if let Some(reap) = &mut self.reap {
            reap.hint(now, hint);
        }
    }

    /// A packet of the transports goes out.
    #[inline]
    pub(crate) fn sent(&mut self, now: Instant) {
        self.used = now;
        self.packets_out += 1;
        if let Some(reap) = &mut self.reap {
            reap.payload_sent(now);
        }
    }

    /// A packet for the transports came.
    #[inline]
    pub(crate) fn received(&mut self, now: Instant, pair: crate::locator::Pair) {
        self.used = now;
        self.packets_in += 1;
        if let Some(reap) = &mut self.reap {
            reap.payload_received(now, pair);
        }
    }

    /// Nothing is being looked for: packets of transports cause nothing to be sent or told.
    #[inline]
    pub(crate) fn is_calm(&self) -> bool {
        self.reap.as_ref().is_none_or(|r| r.state() == ReapState::Operational)
    }

    /// A probe with our tag.
    pub(crate) fn probe_received(&mut self, env: &mut Env, now: Instant, given: Probed<'_>) {
        let Ok((probe, _)) = Probe::parse(given.report) else {
            env.stats.control_malformed += 1;
            return;
        };
        if let Some(reap) = &mut self.reap {
            reap.probe_received(now, given.pair, &probe);
        }
    }

    pub(crate) fn keepalive_received(&mut self, now: Instant, pair: crate::locator::Pair) {
        if let Some(reap) = &mut self.reap {
            reap.keepalive_received(now, pair);
        }
    }

    /// Takes what the [`Reap`] wants sent and has to tell.
    pub(crate) fn drain(&mut self, env: &mut Env, now: Instant) {
        let (Some(reap), Some(receiver_tag)) = (&mut self.reap, self.peer_tag) else { return };
        while let Some((pair, message)) = reap.poll_transmit(now) {
            let body = match message {
                reap::Outgoing::Keepalive => Body::Keepalive { receiver_tag },
                reap::Outgoing::Probe(probe) => {
                    let mut report = Vec::with_capacity(probe.len());
                    probe.emit(&mut report);
                    Body::Probe { receiver_tag, report }
                }
            };
            env.send(pair, &Message::new(body));
        }
        while let Some(event) = reap.poll_event() {
            let ReapEvent::Switched { from, to, why, rtt } = event else { continue };
            env.stats.switches += 1;
            self.switches += 1;
            let (src, dst) = (self.ulids.local, self.ulids.remote);
            let ends = |p: crate::locator::Pair| (p.local, p.remote);
            let lost = !matches!(why, Why::Policy | Why::Manual);
            let (from, to) = (ends(from), ends(to));
            // Forked instances are the choice of whoever made them.
            if self.fii == 0 {
                env.tell(PathEvent::Switched { src, dst, from, to, lost, rtt });
            }
        }
        self.pair = reap.current();
        if self.state == State::Established {
            self.update_peer(env, now);
        }
    }
}

/// A probe and the pair it came by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probed<'a> {
    pub(crate) pair: crate::locator::Pair,
    pub(crate) report: &'a [u8],
}
