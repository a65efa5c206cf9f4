//! What all contexts of a vserver share.

use std::collections::VecDeque;

use core::net::IpAddr;

use weft_stack::path::PathEvent;
use weft_stack::rng::Rng;
use weft_stack::time::Instant;

use super::validator::{Subject, Validators};
use crate::config::ShimConfig;
use crate::encap::{Encap, Endpoint};
use crate::limit::Bucket;
use crate::locator::{Locator, LocatorList, Pair, Verification, is_unicast, to_octets};
use crate::log::Log;
use crate::own::Own;
use crate::reap::ReapConfig;
use crate::stats::ShimStats;
use crate::trust::{Proof, Trust, Unproved};
use crate::wire::header::{MESSAGE_BYTES_MAX, PROTOCOL, Tag};
use crate::wire::message::{Body, Message, code};
use crate::wire::option::{Options, Places, Preferences};
use crate::wire::probe::KeepaliveTimeout;

/// Events that wait to be taken.
const EVENTS_MAX: usize = 4096;

/// A control message on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The locators it goes by.
    pub pair: Pair,
    /// The peer's UDP port; `None`: without UDP.
    pub port: Option<u16>,
    /// It, checksum and all.
    pub bytes: Vec<u8>,
}

/// Token buckets of [`crate::config::Bounds`].
#[derive(Debug)]
pub(crate) struct Gates {
    pub(crate) i1: Bucket,
    pub(crate) r1: Bucket,
    pub(crate) r1bis: Bucket,
    pub(crate) r2: Bucket,
    pub(crate) error: Bucket,
    pub(crate) lists: Bucket,
    pub(crate) signatures: Bucket,
}

/// What all contexts of a vserver share.
pub(crate) struct Env {
    pub(crate) config: ShimConfig,
    pub(crate) reap: ReapConfig,
    pub(crate) rng: Rng,
    pub(crate) own: Own,
    pub(crate) trust: Box<dyn Trust>,
    pub(crate) validators: Validators,
    pub(crate) gates: Gates,
    pub(crate) out: VecDeque<Outgoing>,
    pub(crate) events: VecDeque<PathEvent>,
    /// There may be something in either, or keepalives for NATs: one question instead of three, asked
    /// several times a packet.
    pub(crate) waiting: bool,
    /// Switches of the forked instance that is drained, for each of its flows to be told.
    pub(crate) forked: Vec<PathEvent>,
    pub(crate) stats: ShimStats,
    pub(crate) log: Log,
    /// The UDP port of the vserver's shim, if it has one.
    pub(crate) encap: Option<Encap>,
    /// Where the message that is being taken came from: answers go back there.
    pub(crate) came: Option<Endpoint>,
    /// Of the last call.
    pub(crate) now: Instant,
}

/// What a message told about the peer, proved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Learned {
    /// `None`: it said nothing.
    pub(crate) list: Option<LocatorList>,
    pub(crate) pds: Option<Vec<u8>>,
    pub(crate) keepalive_timeout: Option<KeepaliveTimeout>,
}

impl Env {
    pub(crate) fn new(
        config: ShimConfig,
        reap: ReapConfig,
        mut rng: Rng,
        own: LocatorList,
        trust: Box<dyn Trust>,
    ) -> Env {
        let bounds = &config.bounds;
        let gates = Gates {
            i1: Bucket::new(bounds.i1),
            r1: Bucket::new(bounds.r1),
            r1bis: Bucket::new(bounds.r1bis),
            r2: Bucket::new(bounds.r2),
            error: Bucket::new(bounds.error),
            lists: Bucket::new(bounds.lists),
            signatures: Bucket::new(bounds.signatures),
        };
        Env {
            validators: Validators::new(&mut rng),
            own: Own::new(own),
            out: VecDeque::new(),
            events: VecDeque::new(),
            waiting: false,
            forked: Vec::new(),
            stats: ShimStats::default(),
            log: Log::default(),
            encap: None,
            came: None,
            now: Instant::ZERO,
            config,
            reap,
            rng,
            trust,
            gates,
        }
    }

    /// Queues an answer to a message of no context.
    fn send(&mut self, pair: Pair, message: &Message) {
        self.send_for(None, pair, message);
    }

    /// The peer's UDP port for what goes by `pair`: where the message that is answered came from, or
    /// what is known of the peer of the context with our `tag`, or our own. `None`: without UDP.
    fn port(&self, tag: Option<Tag>, pair: Pair, probe: bool, now: Instant) -> Option<u16> {
        let encap = self.encap.as_ref()?;
        let known = tag.and_then(|tag| {
            if probe {
                encap.probe_port(now, tag, pair.remote)
            } else {
                encap.port(tag, pair.remote)
            }
        });
        let answer = self.came.filter(|c| c.pair == pair).map(|c| c.port).filter(|_| !probe);
        let ours = self.own.list().get(pair.local).and_then(|l| l.port);
        let must = pair.local.is_ipv4() || ours.is_some();
        answer.or(known).or_else(|| must.then_some(encap.own_port()))
    }

    /// The same for payload of a context.
    #[inline]
    pub(crate) fn payload_port(&self, tag: Tag, pair: Pair) -> Option<u16> {
        self.encap.as_ref()?;
        let ours = || {
            let port = self.own.list().get(pair.local).and_then(|l| l.port);
            pair.local.is_ipv4() || port.is_some()
        };
        let encap = self.encap.as_ref()?;
        encap.port(tag, pair.remote).or_else(|| ours().then_some(encap.own_port()))
    }

    /// Queues a message of the context with our `tag`.
    pub(crate) fn send_for(&mut self, tag: Option<Tag>, pair: Pair, message: &Message) {
        if self.out.len() >= self.config.bounds.queue_max {
            self.stats.control_unsent += 1;
            return;
        }
        let Some(bytes) = message.write() else {
            self.stats.control_too_long += 1;
            return;
        };
        self.stats.control_sent += 1;
        let probe = matches!(message.body, Body::Probe { .. });
        let port = self.port(tag, pair, probe, self.now);
        self.out.push_back(Outgoing { pair, port, bytes });
        self.waiting = true;
    }

    pub(crate) fn tell(&mut self, event: PathEvent) {
        if self.events.len() >= EVENTS_MAX {
            self.stats.events_lost += 1;
            self.events.pop_front();
        }
        self.events.push_back(event);
        self.waiting = true;
    }

    /// Whether something waits to be taken, by a look at all of it.
    pub(crate) fn look_for_waiting(&self) -> bool {
        let keepalives = self.encap.as_ref().is_some_and(Encap::wants_transmit);
        !self.out.is_empty() || !self.events.is_empty() || keepalives
    }

    /// Answers an I1 without remembering it.
    pub(crate) fn send_r1(&mut self, now: Instant, subject: &Subject, initiator_nonce: u32) {
        let Subject::Names { locators, .. } = *subject else { return };
        if !self.gates.r1.take(now) {
            self.stats.limited_r1 += 1;
            return;
        }
        let responder_nonce = self.validators.nonce(now);
        let validator = self.validators.make(&mut self.rng, now, subject);
        let options = Options { validator: Some((&validator[..]).into()), ..Options::default() };
        let body = Body::R1 { initiator_nonce, responder_nonce };
        self.send(locators, &Message { body, options });
    }

    /// Answers a packet whose tag names no context, without remembering it.
    pub(crate) fn send_r1bis(&mut self, now: Instant, locators: Pair, tag: Tag) {
        if !self.gates.r1bis.take(now) {
            self.stats.limited_r1bis += 1;
            return;
        }
        let subject = Subject::Packet { locators, tag };
        let responder_nonce = self.validators.nonce(now);
        let validator = self.validators.make(&mut self.rng, now, &subject);
        let options = Options { validator: Some((&validator[..]).into()), ..Options::default() };
        let body = Body::R1bis { packet_tag: tag, responder_nonce };
        self.send(locators, &Message { body, options });
    }

    /// Tells the sender of `message`, which came by `pair`, of an error at offset `at` of it.
    pub(crate) fn send_error(
        &mut self,
        now: Instant,
        pair: Pair,
        message: &[u8],
        code: u8,
        at: usize,
    ) {
        if !self.gates.error.take(now) {
            self.stats.limited_error += 1;
            return;
        }
        self.stats.errors_sent += 1;
        let mut packet = ip_header(pair.remote, pair.local, message.len()).to_vec();
        let pointer = (packet.len() + at) as u16;
        packet.extend_from_slice(&message[..message.len().min(MESSAGE_BYTES_MAX)]);
        self.send(pair, &Message::new(Body::Error { code, pointer, packet }));
    }

    /// Our locators as the peer of `ulids` may know them: those that can be proved to it.
    pub(crate) fn own_for(&self, ulids: Pair) -> LocatorList {
        let all = self.own.list();
        let proved = |l: &Locator| {
            let verification = self.trust.method(ulids.local, ulids.remote, l)?;
            Some(Locator { verification, ..*l })
        };
        let locators = all.locators.iter().filter_map(proved).collect();
        LocatorList { generation: all.generation, locators }
    }

    /// These with their proof, for a message with this `body` to the peer of `ulids`; `from`: the
    /// tag by which the peer knows us, where the message does not have it.
    pub(crate) fn own_options(&mut self, ulids: Pair, body: &Body, from: Option<Tag>) -> Options {
        let list = self.own_for(ulids);
        if list.locators.is_empty() {
            return Options::default();
        }
        let ports: smallvec::SmallVec<[u16; 4]> =
            list.locators.iter().map(|l| l.port.unwrap_or(0)).collect();
        let binding = binding(body, from);
        let proof = self.trust.prove(ulids.local, ulids.remote, &list, &binding, &mut self.rng);
        Options {
            preferences: Preferences::of(&list),
            locators: Some(list),
            ports: ports.iter().any(|p| *p != 0).then_some(ports),
            pds: proof.pds,
            signature: proof.signature,
            keyed: proof.keyed,
            keepalive_timeout: self.reap.announced().map(KeepaliveTimeout),
            ..Options::default()
        }
    }

    /// What `message` says of the peer's locators, if it is proved; otherwise the peer is told where
    /// it has to be. `known`: the parameters of an earlier message; `from`: the peer's tag, where
    /// the message does not have it.
    pub(crate) fn learn(
        &mut self,
        now: Instant,
        came: &Came<'_>,
        ulid: IpAddr,
        known: Option<&[u8]>,
        from: Option<Tag>,
    ) -> Option<Learned> {
        let options = &came.message.options;
        if !self.gates.lists.take(now) {
            self.stats.limited_lists += 1;
            return None;
        }
        if let Some(pds) = &options.pds
            && !self.trust.is_of(ulid, pds)
        {
            self.stats.pds_wrong += 1;
            return None;
        }
        let (pds, keepalive_timeout) = (options.pds.clone(), options.keepalive_timeout);
        let Some(mut list) = options.locators.clone() else {
            return Some(Learned { list: None, pds, keepalive_timeout });
        };
        // Ports first: a MAC covers them.
        for (locator, port) in list.locators.iter_mut().zip(options.ports.iter().flatten()) {
            locator.port = (*port != 0).then_some(*port);
        }
        let signed = list.locators.iter().any(|l| l.verification == Verification::Cga);
        if signed && !self.gates.signatures.take(now) {
            self.stats.limited_signatures += 1;
            return None;
        }
        let binding = binding(&came.message.body, from);
        let proof = Proof {
            pds: options.pds.as_deref().or(known),
            signature: options.signature.as_deref(),
            keyed: options.keyed.as_deref(),
            binding: &binding,
        };
        let stray = list.locators.iter().position(|l| !is_unicast(l.addr)).map(Unproved::Locator);
        match stray.map_or_else(|| self.trust.check(ulid, &list, &proof), Err) {
            Ok(()) => {}
            Err(Unproved::NotTheUlids) => {
                self.stats.pds_wrong += 1;
                return None;
            }
            Err(Unproved::Locator(at)) => {
                self.stats.locator_unproved += 1;
                let place = came.places.methods + at;
                self.send_error(now, came.pair, came.bytes, code::VERIFICATION, place);
                return None;
            }
        }
        Some(Learned { list: Some(list), pds, keepalive_timeout })
    }

    /// Enters preferences in the list they are for; otherwise tells the peer.
    pub(crate) fn prefer(&mut self, now: Instant, came: &Came<'_>, list: &mut LocatorList) -> bool {
        let Some(preferences) = &came.message.options.preferences else { return true };
        let (code, place) = if preferences.generation != list.generation {
            self.stats.generation_wrong += 1;
            (code::GENERATION, came.places.preferences_generation)
        } else if preferences.elements.len() != list.locators.len() {
            self.stats.preferences_wrong += 1;
            (code::PREFERENCES, came.places.preferences_length)
        } else {
            for (locator, element) in list.locators.iter_mut().zip(&preferences.elements) {
                locator.preference = *element;
            }
            return true;
        };
        self.send_error(now, came.pair, came.bytes, code, place);
        false
    }

    /// A random tag.
    pub(crate) fn random_tag(&mut self) -> Tag {
        Tag::new(self.rng.next_u64())
    }
}

/// What a keyed proof is bound to besides the list. An update has the receiver's tag only: without
/// the sender's, one recorded before the sender lost the context would prove something after.
fn binding(body: &Body, from: Option<Tag>) -> Vec<u8> {
    let mut binding = body.binding();
    binding.extend(from.iter().flat_map(|tag| tag.octets()));
    binding
}

/// A message as it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Came<'a> {
    /// Our address and the peer's.
    pub(crate) pair: Pair,
    pub(crate) bytes: &'a [u8],
    pub(crate) message: &'a Message,
    pub(crate) places: Places,
}

/// An IPv6 header as the front of a packet in error; IPv4 locators appear mapped in it.
fn ip_header(src: IpAddr, dst: IpAddr, payload: usize) -> [u8; 40] {
    let mut out = [0; 40];
    out[0] = 0x60;
    out[4..6].copy_from_slice(&(payload as u16).to_be_bytes());
    out[6] = PROTOCOL;
    out[7] = 64;
    out[8..24].copy_from_slice(&to_octets(src));
    out[24..40].copy_from_slice(&to_octets(dst));
    out
}
