//! One context: a pair of ULIDs, the tags and locators of both ends, and where its state machine
//! stands (RFC 5533 6).
//!
//! What an event does stands in [`table`]; [`Context::fire`] carries it out. `establish.rs` has what
//! the four-way exchange and the recovery send and keep, `update.rs` the updates, `reach.rs` what
//! goes between a context and its [`Reap`].
//!
//! Invariants: `peer_tag` is set exactly in the states that may rewrite, ESTABLISHED and
//! I2BIS-SENT, and sometimes in I2-SENT; `exchange` exactly in the three that wait for an answer;
//! `reap` wherever the peer's locators are known. `pair` is the pair packets go by.

pub(crate) mod env;
mod establish;
mod reach;
pub mod table;
mod update;
pub(crate) mod validator;

use smallvec::SmallVec;
use weft_stack::path::PathEvent;
use weft_stack::time::{Duration, Instant};
use weft_stack::timer_wheel::TimerHandle;

use crate::encap::Endpoint;
use crate::locator::{LocatorList, Pair};
use crate::log::What;
use crate::reap::Reap;
use crate::wire::Tag;
use env::{Env, Learned};
pub(crate) use reach::Probed;
pub use table::State;
use table::{Action, Event, step};
use update::Update;

/// Whoever keeps a quiet context says so within this time.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// What an exchange in progress keeps (RFC 5533 6.2).
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    /// Initiator nonce.
    pub(crate) nonce: u32,
    /// The locators it goes by.
    pub(crate) pair: Pair,
    responder_nonce: u32,
    validator: SmallVec<[u8; 24]>,
    /// Of the R1bis that is answered.
    packet_tag: Tag,
    i1_retries: u8,
    i2_retries: u8,
    timer: Instant,
}

/// What came with an event.
#[derive(Clone, Debug)]
pub(crate) struct Given<'a> {
    /// Our address and the peer's in the message.
    pub(crate) pair: Pair,
    /// Initiator nonce, to be copied into R2.
    pub(crate) nonce: u32,
    /// Responder nonce of R1, R1bis.
    pub(crate) responder_nonce: u32,
    /// Validator of R1, R1bis.
    pub(crate) validator: &'a [u8],
    /// The tag the peer chose; of R1bis the packet's.
    pub(crate) tag: Tag,
    /// What is proved of the peer.
    pub(crate) learned: Learned,
}

impl Given<'_> {
    /// Nothing came: a timer, a wish.
    pub(crate) fn nothing(pair: Pair) -> Given<'static> {
        Given {
            pair,
            nonce: 0,
            responder_nonce: 0,
            validator: &[],
            tag: Tag::new(0),
            learned: Learned::default(),
        }
    }
}

/// What the maps of [`crate::contexts::Contexts`] know of a context.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Indexed {
    pub(crate) peer_tag: Option<Tag>,
    pub(crate) nonce: Option<u32>,
    pub(crate) timer: Option<(Instant, TimerHandle)>,
}

/// By which pair packets for the transports came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CameBy {
    /// None did.
    Nothing,
    /// By that of the ULIDs.
    Ulids,
    /// By this one.
    Pair(Pair),
}

/// What becomes of packets of a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// They [pass](Context::passes).
    Pass,
    /// They go by this pair, behind a header with this tag; in UDP or not.
    Rewritten(Pair, Tag, bool),
}

impl Said {
    pub(crate) fn of(context: &Context, env: &Env) -> Said {
        match context.tag_out() {
            Some(tag) if context.pair != context.ulids => {
                let port = env.payload_port(context.local_tag, context.pair);
                Said::Rewritten(context.pair, tag, port.is_some())
            }
            _ => Said::Pass,
        }
    }
}

/// One context.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) ulids: Pair,
    pub(crate) fii: u32,
    pub(crate) state: State,
    pub(crate) local_tag: Tag,
    pub(crate) peer_tag: Option<Tag>,
    /// The pair packets go by.
    pub(crate) pair: Pair,
    /// How the last packet for the transports came.
    pub(crate) came_by: CameBy,
    pub(crate) peer: LocatorList,
    /// Locators of the peer that were proved once and are no longer: it may still speak from there.
    pub(crate) revoked: Vec<core::net::IpAddr>,
    pub(crate) peer_pds: Option<Box<[u8]>>,
    /// The peer has shown that packets to its ULID reach it, or somebody whom we share a key with
    /// says so. A hash-based set or a signature does not: anybody can make them for any prefix.
    pub(crate) shown: bool,
    pub(crate) reap: Option<Box<Reap>>,
    pub(crate) exchange: Option<Box<Exchange>>,
    pub(crate) update: Option<Box<Update>>,
    /// Revision of our locators that the peer knows or is being told.
    told: u32,
    /// Nonces of the last I2 or I2bis that was taken: initiator's, responder's.
    pub(crate) answered: Option<(u32, u32)>,
    /// Nonces of updates that were taken, the newest last.
    updates_taken: Vec<u32>,
    /// Generations of the peer's lists that another took the place of, the newest last.
    lists_left: Vec<u32>,
    /// Generation of the last list that a keyed proof covered.
    keyed_list: Option<u32>,
    pub(crate) used: Instant,
    /// It is quiet, and ends at this instant if nobody keeps it.
    asked: Option<Instant>,
    /// It was kept.
    kept: Instant,
    pub(crate) made: Instant,
    again: Instant,
    pub(crate) packets_out: u64,
    pub(crate) packets_in: u64,
    pub(crate) switches: u64,
    /// Every pair was probed, and none worked.
    pathless: bool,
    pub(crate) indexed: Indexed,
    /// From the first instant on, before the second, packets set nothing going that its timer would
    /// be too late for.
    awaited: (Instant, Instant),
    /// UDP endpoints whose NATs are kept open for it.
    held: Vec<Endpoint>,
    /// Counted among those this host sets up.
    pub(crate) initiates: bool,
    /// What was said last, and may be kept, of what becomes of its packets.
    pub(crate) said: Option<Said>,
}

impl Context {
    /// A context in IDLE: the caller fires what brought it.
    pub(crate) fn new(ulids: Pair, fii: u32, local_tag: Tag, now: Instant) -> Context {
        Context {
            ulids,
            fii,
            state: State::Idle,
            local_tag,
            peer_tag: None,
            pair: ulids,
            came_by: CameBy::Nothing,
            peer: LocatorList::default(),
            revoked: Vec::new(),
            peer_pds: None,
            shown: false,
            reap: None,
            exchange: None,
            update: None,
            told: 0,
            answered: None,
            updates_taken: Vec::new(),
            lists_left: Vec::new(),
            keyed_list: None,
            used: now,
            asked: None,
            kept: now,
            made: now,
            again: now,
            packets_out: 0,
            packets_in: 0,
            switches: 0,
            pathless: false,
            indexed: Indexed::default(),
            awaited: (Instant::ZERO, Instant::ZERO),
            held: Vec::new(),
            initiates: false,
            said: None,
        }
    }

    /// Whether the context is worth keeping.
    pub(crate) const fn lives(&self) -> bool {
        !matches!(self.state, State::Idle | State::EFailed | State::NoSupport)
    }

    /// The tag to rewrite packets with, where that is allowed (RFC 5533 11).
    pub(crate) const fn tag_out(&self) -> Option<Tag> {
        match self.state {
            State::Established | State::I2bisSent => self.peer_tag,
            _ => None,
        }
    }

    /// Its packets are not rewritten.
    #[inline]
    pub(crate) fn passes(&self) -> bool {
        self.tag_out().is_none() || self.pair == self.ulids
    }

    /// The pair as the peer's locators may stand in a message: its ULID, what it told, and what the
    /// exchange goes by.
    pub(crate) fn knows(&self, remote: core::net::IpAddr) -> bool {
        let exchange = self.exchange.as_ref().is_some_and(|e| e.pair.remote == remote);
        let list = &self.peer.locators;
        let told = self.peer.contains(remote) || self.revoked.contains(&remote);
        exchange || told || (list.is_empty() && self.ulids.remote == remote)
    }

    /// Carries out what the table says. Packets are the caller's part of [`Action::Process`]; so
    /// are R1, R1bis and hold-downs, which no context remembers.
    pub(crate) fn fire(
        &mut self,
        env: &mut Env,
        now: Instant,
        event: Event,
        given: &Given<'_>,
    ) -> Action {
        let (action, next) = step(self.state, event);
        let before = core::mem::replace(&mut self.state, next);
        match action {
            Action::SendI1 => self.begin(env, now, before, given),
            Action::SendI2
            | Action::ProcessSendI2
            | Action::SendI2bis
            | Action::ProcessSendI2bis => self.second(env, now, action, event, given),
            Action::SendR2 => self.send_r2(env, now, given),
            Action::RecordSendR2 => {
                self.record(env, now, given);
                self.send_r2(env, now, given);
            }
            Action::Record => self.record(env, now, given),
            Action::Hold | Action::Release => self.end(),
            Action::Nothing | Action::Discard | Action::Process => {}
            Action::SendR1 | Action::SendR1bis => {}
        }
        if self.state == State::Established {
            self.exchange = None;
        }
        self.note(env, now, before, action);
        action
    }

    /// Writes into the log where the state machine went.
    fn note(&self, env: &mut Env, now: Instant, before: State, action: Action) {
        let was_set_up = matches!(before, State::Established | State::I2bisSent);
        let what = match self.state {
            State::Established if before != State::Established => What::Established,
            State::I1Sent | State::I2bisSent if before == State::Established => What::Lost,
            State::EFailed => What::NoAnswer,
            State::NoSupport => What::NoSupport,
            State::Idle if was_set_up && action == Action::Release => What::Ended,
            _ => return,
        };
        env.log.add(now, (self.ulids, self.fii), what);
    }

    fn end(&mut self) {
        self.exchange = None;
        self.update = None;
        self.forget_peer();
    }

    /// What I1-SENT does not have (RFC 5533 6.2).
    fn forget_peer(&mut self) {
        self.peer_tag = None;
        self.reap = None;
        self.update = None;
        self.peer = LocatorList::default();
        self.revoked.clear();
        self.peer_pds = None;
        self.shown = false;
        self.answered = None;
    }

    /// When [`Context::handle_timeout`] is wanted.
    pub(crate) fn poll_timeout(&self, quiet: Duration) -> Instant {
        let exchange = self.exchange.as_ref().map(|e| e.timer);
        let update = self.update.as_ref().map(|u| u.timer);
        let reap = self.reap.as_ref().and_then(|r| r.poll_timeout());
        let quiet = self.asked.unwrap_or(self.used.max(self.kept) + quiet);
        [exchange, update, reap].into_iter().flatten().fold(quiet, Instant::min)
    }

    /// Nothing was sent or received for long, and nobody who was asked keeps it (RFC 5533 9).
    fn is_over(&mut self, env: &mut Env, now: Instant) -> bool {
        if now < self.used.max(self.kept) + env.config.timers.quiet {
            self.asked = None;
            return false;
        }
        if self.asked.is_none() && self.state == State::Established {
            self.asked = Some(now + ANSWER_WITHIN);
            env.tell(PathEvent::Quiet(self.ulids.local, self.ulids.remote));
        }
        self.asked.is_none_or(|until| until <= now)
    }

    /// It is to go on; false if that was not in question.
    pub(crate) fn keep(&mut self, now: Instant) -> bool {
        let asked = self.asked.take().is_some();
        if asked {
            self.kept = now;
        }
        asked
    }

    /// Whatever is due.
    pub(crate) fn handle_timeout(&mut self, env: &mut Env, now: Instant) {
        if self.is_over(env, now) {
            env.stats.contexts_quiet += 1;
            self.fire(env, now, Event::Quiet, &Given::nothing(self.pair));
            return;
        }
        if self.exchange.as_ref().is_some_and(|e| e.timer <= now) {
            self.retry(env, now);
        }
        if self.update.as_ref().is_some_and(|u| u.timer <= now) {
            self.repeat_update(env, now);
        }
        if let Some(reap) = &mut self.reap {
            reap.handle_timeout(now);
        }
    }
}

/// A timeout after `retries` repetitions: binary exponential backoff, then between half and one and
/// a half of it (RFC 5533 14).
fn backed_off(
    env: &mut Env,
    now: Instant,
    first: Duration,
    max: Duration,
    retries: u32,
) -> Instant {
    let nominal = (first * (1 << retries.min(16))).min(max).as_nanos() as u64;
    now + Duration::from_nanos(nominal / 2 + env.rng.below(nominal.max(1)))
}
