//! Between a context and its [`Reap`]: locators, packets, probes, switches.

use core::net::IpAddr;

use smallvec::SmallVec;
use weft_stack::path::PathEvent;
use weft_stack::time::Instant;

use super::env::Env;
use super::table::State;
use super::{CameBy, Context, Given};
use crate::encap::Endpoint;
use crate::locator::{Locator, Pair, Verification};
use crate::log::What;
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
    pub(crate) fn set_paths(&mut self, env: &mut Env, now: Instant) {
        if self.reap.is_some() {
            self.hold_ports(env, now);
        }
        if let Some(reap) = &mut self.reap {
            let own = env.own_for(self.ulids);
            reap.set_paths(now, &own.locators, &self.peer.locators);
        }
    }

    /// The same, and some of ours may have gone or come back.
    pub(crate) fn own_changed(&mut self, env: &mut Env, now: Instant) {
        self.set_paths(env, now);
        if let Some(reap) = &mut self.reap {
            for hint in env.own.hints() {
                if reap.is_news(hint) {
                    reap.hint(now, hint);
                }
            }
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
        self.came_by = CameBy::Pair(pair);
        if let Some(reap) = &mut self.reap {
            reap.payload_received(now, pair);
        }
    }

    /// [`Context::sent`] of a context at rest, whose timer needs no look after it; `false`: that is
    /// to be called.
    #[inline]
    pub(crate) fn sent_at_rest(&mut self, now: Instant) -> bool {
        if !self.is_awaited(now) {
            return false;
        }
        let Some(reap) = &mut self.reap else { return false };
        reap.sent_at_rest(now);
        self.used = now;
        self.packets_out += 1;
        true
    }

    /// The same for a packet that came between the ULIDs.
    #[inline]
    pub(crate) fn received_at_rest(&mut self, now: Instant) -> bool {
        if !self.is_awaited(now) {
            return false;
        }
        let Some(reap) = &mut self.reap else { return false };
        reap.received_at_rest(now);
        self.used = now;
        self.packets_in += 1;
        self.came_by = CameBy::Ulids;
        true
    }

    /// Nothing is being looked for: packets of transports cause nothing to be sent or told.
    #[inline]
    pub(crate) fn is_calm(&self) -> bool {
        self.reap.as_ref().is_none_or(|r| r.state() == ReapState::Operational)
    }

    /// Whether its timer ends before anything that a packet just set going could be due: the
    /// timer stands no later than what was due before.
    #[inline]
    pub(crate) fn is_awaited(&self, now: Instant) -> bool {
        let (from, until) = self.awaited;
        from <= now && now < until
    }

    /// Its timer was set, or what it stands for may have changed: how long packets of a context that
    /// is at rest need not look at it.
    pub(crate) fn note_awaited(&mut self) {
        self.awaited = (Instant::ZERO, Instant::ZERO);
        let lead = self.reap.as_ref().and_then(|r| r.lead());
        if let (Some((at, _)), Some((lead, next))) = (self.indexed.timer, lead)
            && next.is_none_or(|next| at <= next)
        {
            self.awaited = (Instant::from_nanos(at.as_nanos().saturating_sub(lead)), at);
        }
    }

    /// A probe with our tag.
    pub(crate) fn probe_received(&mut self, env: &mut Env, now: Instant, given: Probed<'_>) {
        let Ok((probe, _)) = Probe::parse(given.report) else {
            env.stats.control_malformed += 1;
            return;
        };
        let Some(reap) = &mut self.reap else { return };
        reap.probe_received(now, given.pair, &probe);
        let arrived = reap.just_arrived();
        self.shown |= arrived.iter().any(|(pair, _)| pair.remote == self.ulids.remote);
        if let (Some(encap), Some(from)) = (&mut env.encap, env.came) {
            let there = arrived.iter().filter(|(pair, _)| pair.remote == from.pair.remote);
            let newest = there.map(|(_, sent)| *sent).max();
            if newest.is_some_and(|sent| encap.proved(self.local_tag, from, sent)) {
                self.hold_ports(env, now);
            }
        }
    }

    /// Forgets locators of the peer whose proof is taken no longer; whether there were any. Its ULID
    /// needs none.
    pub(crate) fn revoke(&mut self, env: &mut Env, now: Instant) -> bool {
        let (ulid, before) = (self.ulids.remote, self.peer.locators.len());
        let trust = &env.trust;
        let taken = |l: &Locator| l.addr == ulid || trust.accepts(ulid, l.verification);
        let gone = self.peer.locators.iter().filter(|l| !taken(l)).map(|l| l.addr);
        self.revoked.extend(gone);
        self.peer.locators.retain(|l| taken(l));
        let revoked = before - self.peer.locators.len();
        if self.peer.locators.is_empty() {
            // Its list did not name it.
            self.peer.locators.push(Locator::new(ulid, Verification::Hba));
        }
        if revoked > 0 {
            env.stats.locators_revoked += revoked as u64;
            self.learn_ports(env);
            self.set_paths(env, now);
        }
        revoked > 0
    }

    /// The peer's locators have these UDP ports.
    pub(crate) fn learn_ports(&mut self, env: &mut Env) {
        let Some(encap) = &mut env.encap else { return };
        let own = encap.own_port();
        let told = |l: &Locator| {
            let port = l.port.or_else(|| l.addr.is_ipv4().then_some(own))?;
            Some((l.addr, port))
        };
        let told: SmallVec<[(IpAddr, u16); 4]> =
            self.peer.locators.iter().filter_map(told).collect();
        encap.keep_ports(self.local_tag, &told);
        for (addr, port) in told {
            encap.set_port(self.local_tag, addr, port);
        }
    }

    /// NATs on the ways to the peer are kept open, and to nowhere else.
    fn hold_ports(&mut self, env: &mut Env, now: Instant) {
        let held = core::mem::take(&mut self.held);
        if let Some(encap) = &mut env.encap {
            for own in &env.own.list().locators {
                for peer in &self.peer.locators {
                    let pair = Pair::new(own.addr, peer.addr);
                    if let Some(port) = encap.port(self.local_tag, peer.addr)
                        && pair.same_family()
                        && encap.hold(now, Endpoint { pair, port })
                    {
                        self.held.push(Endpoint { pair, port });
                    }
                }
            }
            for to in held {
                encap.release(to);
            }
        }
    }

    /// The port they were held at is no more.
    pub(crate) fn forget_ports(&mut self) {
        self.held.clear();
    }

    /// The context ends.
    pub(crate) fn release_ports(&mut self, env: &mut Env) {
        if let Some(encap) = &mut env.encap {
            encap.forget(self.local_tag);
            for to in self.held.drain(..) {
                encap.release(to);
            }
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
            env.send_for(Some(self.local_tag), pair, &Message::new(body));
        }
        while let Some(event) = reap.poll_event() {
            let name = (self.ulids, self.fii);
            let (from, to, why, rtt) = match event {
                ReapEvent::Switched { from, to, why, rtt } => (from, to, why, rtt),
                ReapEvent::NoPath => {
                    self.pathless = true;
                    env.log.add(now, name, What::NoPath);
                    continue;
                }
                ReapEvent::Operational => {
                    if core::mem::take(&mut self.pathless) {
                        env.log.add(now, name, What::PathFound);
                    }
                    continue;
                }
                ReapEvent::Exploring => continue,
            };
            env.log.add(now, name, What::Switched { from, to, why });
            env.stats.switches += 1;
            self.switches += 1;
            let (src, dst) = (self.ulids.local, self.ulids.remote);
            let ends = |p: crate::locator::Pair| (p.local, p.remote);
            let lost = !matches!(why, Why::Policy | Why::Manual);
            let (from, to) = (ends(from), ends(to));
            let event = PathEvent::Switched { flow: None, src, dst, from, to, lost, rtt };
            // Which flows use a forked instance, contexts know.
            if self.fii == 0 {
                env.tell(event);
            } else {
                env.forked.push(event);
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
