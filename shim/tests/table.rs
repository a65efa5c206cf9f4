//! Every cell of the state machine (RFC 5533 appendix B): a host is brought into each state, each
//! event happens to it, and what it sends and where it ends is what the table says. `docs/shim.md`
//! has the table in words.
#![allow(clippy::unwrap_used)]

mod support;

use std::fmt::Write as _;

use support::*;
use weft_shim::config::ShimConfig;
use weft_shim::context::State;
use weft_shim::context::table::{Action, EVENTS, Event, STATES, step};
use weft_shim::contexts::{Contexts, Payload};
use weft_shim::locator::Pair;
use weft_shim::reap::ReapConfig;
use weft_shim::wire::message::kind;
use weft_shim::wire::{Body, Message, Options, Tag};
use weft_stack::path::IcmpErrorKind;
use weft_stack::time::{Duration, Instant};

/// The tag the peer, written by hand, gives its context.
const PEER: Tag = Tag::new(0x7001);
/// A validator and its responder nonce.
type Proof = (u32, smallvec::SmallVec<[u8; 24]>);

/// A host, and what a peer knows that saw everything it sent.
struct Script {
    shim: Contexts,
    now: Instant,
    /// Our tag, as the last I1, I2 or R2 told it.
    tag: Option<Tag>,
    /// The nonce of the last I1, I2 or I2bis.
    nonce: u32,
    /// For an I2 with [`PEER`] as tag.
    r1: Option<Proof>,
    /// For an I2bis about a tag nobody has.
    r1bis: Option<Proof>,
    /// The last I1.
    i1: Vec<u8>,
}

const NOBODYS: Tag = Tag::new(0x9999);

impl Script {
    fn new() -> Script {
        let mut script = Script {
            shim: shim(1, 2, ShimConfig::default(), ReapConfig::rfc()),
            now: Instant::from_millis(1000),
            tag: None,
            nonce: 0,
            r1: None,
            r1bis: None,
            i1: Vec::new(),
        };
        script.fetch_validators();
        script
    }

    /// What the host answers before it has a context: as when an R1 crosses its I1.
    fn fetch_validators(&mut self) {
        self.give(Body::I1 { initiator_tag: PEER, initiator_nonce: 1 }, Options::default());
        self.shim.received_tagged(self.now, ulids(), NOBODYS);
        self.take();
    }

    /// The peer sends a message over the ULIDs.
    fn give(&mut self, body: Body, options: Options) {
        self.give_by(ulids(), body, options);
    }

    fn give_by(&mut self, pair: Pair, body: Body, options: Options) {
        let bytes = Message { body, options }.write().unwrap();
        self.shim.receive(self.now, pair, &bytes);
    }

    /// What the host sent of set-up and recovery; remembers what a peer would.
    fn take(&mut self) -> Vec<u8> {
        let mut kinds = Vec::new();
        for (_, message) in taken(&mut self.shim) {
            let validator = message.options.validator.clone();
            match message.body {
                Body::I1 { initiator_tag, initiator_nonce } => {
                    (self.tag, self.nonce) = (Some(initiator_tag), initiator_nonce);
                    self.i1 = message.write().unwrap();
                }
                Body::I2 { initiator_tag, initiator_nonce, .. }
                | Body::I2bis { initiator_tag, initiator_nonce, .. } => {
                    (self.tag, self.nonce) = (Some(initiator_tag), initiator_nonce);
                }
                Body::R2 { responder_tag, .. } => self.tag = Some(responder_tag),
                Body::R1 { responder_nonce, .. } => {
                    self.r1 = Some((responder_nonce, validator.unwrap()));
                }
                Body::R1bis { responder_nonce, .. } => {
                    self.r1bis = Some((responder_nonce, validator.unwrap()));
                }
                _ => continue,
            }
            kinds.push(message.body.kind());
        }
        kinds
    }

    fn state(&self) -> State {
        self.shim.state(self.now, ulids(), 0)
    }

    /// Time passes until something of set-up is sent, or the state changes, or `most` is over.
    fn wait(&mut self, most: Duration) -> Vec<u8> {
        let (until, before) = (self.now + most, self.state());
        while let Some(at) = self.shim.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.shim.handle_timeout(self.now);
            let sent = self.take();
            if !sent.is_empty() || self.state() != before {
                return sent;
            }
        }
        self.now = until;
        Vec::new()
    }

    fn peer_list() -> Options {
        Options { locators: Some(list_of(2, 2)), pds: Some(vec![0, 2]), ..Options::default() }
    }

    fn reach(&mut self, state: State) {
        match state {
            State::Idle => return,
            State::I1Sent => self.shim.start(self.now, ulids(), 0).unwrap(),
            State::I2Sent => {
                self.reach(State::I1Sent);
                self.happen(Event::R1);
            }
            State::Established => {
                self.reach(State::I2Sent);
                self.happen(Event::R2);
            }
            State::I2bisSent => {
                self.reach(State::Established);
                self.happen(Event::R1bis);
            }
            State::EFailed => {
                self.reach(State::I1Sent);
                while self.state() == State::I1Sent {
                    self.wait(Duration::from_secs(100));
                }
                // The validators are too old by now.
                self.fetch_validators();
            }
            State::NoSupport => {
                self.reach(State::I1Sent);
                self.happen(Event::NoHeader);
            }
        }
        self.take();
        assert_eq!(self.state(), state, "the state is reached");
    }

    /// Makes an event happen; what was sent.
    fn happen(&mut self, event: Event) -> Vec<u8> {
        let (tag, nonce) = (self.tag.unwrap_or(NOBODYS), self.nonce);
        // What packets of a peer make us repeat, they do not at once after the last time.
        if matches!(event, Event::R1bis | Event::Payload | Event::Control) {
            self.now += Duration::from_millis(300);
        }
        match event {
            Event::Start => drop(self.shim.start(self.now, ulids(), 0)),
            Event::I1 => {
                self.give(Body::I1 { initiator_tag: PEER, initiator_nonce: 7 }, Options::default());
            }
            Event::I1Other => self.i1_other(),
            Event::R1 => {
                let options = Options { validator: Some([1; 16][..].into()), ..Options::default() };
                self.give(Body::R1 { initiator_nonce: nonce, responder_nonce: 5 }, options);
            }
            Event::I2 => {
                let (responder_nonce, validator) = self.r1.clone().unwrap();
                let options = Options { validator: Some(validator), ..Script::peer_list() };
                let (initiator_tag, initiator_nonce) = (PEER, 8);
                self.give(Body::I2 { initiator_tag, initiator_nonce, responder_nonce }, options);
            }
            Event::I2bis => {
                let (responder_nonce, validator) = self.r1bis.clone().unwrap();
                let options = Options { validator: Some(validator), ..Script::peer_list() };
                let body = Body::I2bis {
                    initiator_tag: PEER,
                    initiator_nonce: 9,
                    responder_nonce,
                    packet_tag: NOBODYS,
                };
                self.give(body, options);
            }
            Event::R2 => {
                let body = Body::R2 { responder_tag: PEER, initiator_nonce: nonce };
                self.give(body, Script::peer_list());
            }
            Event::R1bis => {
                let options = Options { validator: Some([2; 16][..].into()), ..Options::default() };
                self.give(Body::R1bis { packet_tag: PEER, responder_nonce: 6 }, options);
            }
            Event::Payload => drop(self.shim.received_tagged(self.now, ulids(), tag)),
            Event::Control => self.give(Body::Keepalive { receiver_tag: tag }, Options::default()),
            Event::Retry => return self.wait(Duration::from_secs(10)),
            Event::GiveUp => return self.give_up(),
            Event::NoHeader => {
                let (error, i1) = (IcmpErrorKind::ProtocolUnreachable, self.i1.clone());
                self.shim.icmp_about_shim(self.now, error, ulids(), &i1);
            }
            Event::Confused => self.confuse(),
            Event::Quiet => drop(self.shim.end(self.now, ulids(), 0)),
            Event::HoldOver => {
                let held = matches!(self.state(), State::EFailed | State::NoSupport);
                return self.wait(Duration::from_secs(if held { 601 } else { 1 }));
            }
        }
        self.take()
    }

    /// Of an established context: another tag. Otherwise: from where the peer is not known to be.
    fn i1_other(&mut self) {
        if self.state() == State::Established {
            let body = Body::I1 { initiator_tag: NOBODYS, initiator_nonce: 7 };
            self.give(body, Options::default());
        } else {
            let body = Body::I1 { initiator_tag: PEER, initiator_nonce: 7 };
            let names = Options { ulids: Some(ulids().reversed()), ..Options::default() };
            self.give_by(Pair::new(ip(1, 1), ip(3, 1)), body, names);
        }
    }

    fn give_up(&mut self) -> Vec<u8> {
        let before = self.state();
        if matches!(before, State::Idle | State::Established | State::EFailed | State::NoSupport) {
            return self.wait(Duration::from_secs(1));
        }
        for _ in 0..20 {
            let sent = self.wait(Duration::from_secs(100));
            if self.state() != before {
                return sent;
            }
        }
        panic!("{before:?} never gave up");
    }

    /// The peer uses [`PEER`] for another context with its second address.
    fn confuse(&mut self) {
        let other = Pair::new(ip(1, 1), ip(2, 2));
        self.give_by(
            other,
            Body::I1 { initiator_tag: PEER, initiator_nonce: 3 },
            Options::default(),
        );
        let (_, r1) = taken(&mut self.shim).pop().unwrap();
        let Body::R1 { responder_nonce, .. } = r1.body else { panic!("{r1:?}") };
        let options = Options { validator: r1.options.validator, ..Script::peer_list() };
        let body = Body::I2 { initiator_tag: PEER, initiator_nonce: 4, responder_nonce };
        self.give_by(other, body, options);
        assert_eq!(self.shim.state(self.now, other, 0), State::Established);
    }
}

/// The messages an action sends.
fn sends(action: Action) -> &'static [u8] {
    match action {
        Action::SendI1 => &[kind::I1],
        Action::SendR1 => &[kind::R1],
        Action::SendI2 | Action::ProcessSendI2 => &[kind::I2],
        Action::SendR2 | Action::RecordSendR2 => &[kind::R2],
        Action::SendR1bis => &[kind::R1BIS],
        Action::SendI2bis | Action::ProcessSendI2bis => &[kind::I2BIS],
        Action::Nothing
        | Action::Discard
        | Action::Record
        | Action::Process
        | Action::Hold
        | Action::Release => &[],
    }
}

// RFC 5533 6.2
// RFC 5533 12.4
#[test]
fn every_event_does_in_every_state_what_the_table_says() {
    for state in STATES {
        for event in EVENTS {
            let (action, next) = step(state, event);
            let mut script = Script::new();
            script.reach(state);
            let before = script.shim.stats().clone();
            let mut sent = script.happen(event);
            if event == Event::Confused {
                // The R2 of the other context.
                assert!(sent.contains(&kind::R2));
                sent.retain(|k| *k != kind::R2);
            }
            assert_eq!(sent, sends(action), "{state:?}, {event:?}: sent");
            assert_eq!(script.state(), next, "{state:?}, {event:?}: state after it");
            let now = script.now;
            let reports = script.shim.report_contexts(now, 9);
            let report = reports.iter().find(|r| r.remote == ulids().remote);
            if matches!(action, Action::Record | Action::RecordSendR2) {
                let report = report.expect("what is recorded is there");
                assert_eq!(report.peer_tag, Some(PEER.to_string()));
                assert_eq!(report.peer.len(), 2);
            }
            if next == State::I1Sent {
                assert_eq!(report.unwrap().peer_tag, None, "{state:?}, {event:?}");
            }
            let stats = script.shim.stats();
            let taken = stats.rewritten_in + u64::from(event == Event::Control);
            let refused = stats.control_wrong_state + stats.payload_wrong_state
                - before.control_wrong_state
                - before.payload_wrong_state;
            let message = matches!(event, Event::Payload | Event::Control);
            if message && matches!(action, Action::Discard) {
                assert_eq!((stats.rewritten_in, refused), (0, 1), "{state:?}, {event:?}");
            } else if message && !matches!(action, Action::SendR1bis) {
                assert_eq!((taken, refused), (1, 0), "{state:?}, {event:?}");
            }
        }
    }
}

// RFC 5533 7.11 MUST
// RFC 5533 7.13 MUST
// RFC 5533 7.16 MUST
// RFC 5533 7.18 MUST
// RFC 5533 7.20 MUST
#[test]
fn messages_that_fail_their_checks_change_nothing_in_any_state() {
    for state in STATES {
        let mut script = Script::new();
        script.reach(state);
        let validator = Some([0; 16][..].into());
        let forged = Options { validator, ..Script::peer_list() };
        let (nonce, tag) = (script.nonce.wrapping_add(1), Tag::new(0x1234));
        let bodies = [
            Body::R1 { initiator_nonce: nonce, responder_nonce: 1 },
            Body::I2 { initiator_tag: tag, initiator_nonce: 1, responder_nonce: 1 },
            Body::I2bis {
                initiator_tag: tag,
                initiator_nonce: 1,
                responder_nonce: 1,
                packet_tag: tag,
            },
            Body::R2 { responder_tag: tag, initiator_nonce: nonce },
            Body::R1bis { packet_tag: tag, responder_nonce: 1 },
        ];
        let now = script.now;
        let picture = |s: &Contexts| format!("{:?}", s.report_contexts(now, 9));
        let before = picture(&script.shim);
        for body in bodies {
            let kind = body.kind();
            script.give(body, forged.clone());
            assert_eq!(script.take(), [0; 0], "{state:?}, type {kind}");
            assert_eq!(picture(&script.shim), before, "{state:?}, type {kind}");
            assert_eq!(script.state(), state);
        }
    }
}

// RFC 5533 12.2
#[test]
fn a_rewritten_packet_is_taken_while_the_last_answer_is_on_its_way() {
    for (state, taken) in [
        (State::I1Sent, false),
        (State::I2Sent, true),
        (State::Established, true),
        (State::I2bisSent, true),
    ] {
        let mut script = Script::new();
        script.reach(state);
        let tag = script.tag.unwrap();
        let pair = Pair::new(ip(1, 2), ip(2, 2));
        let what = script.shim.received_tagged(script.now, pair, tag);
        assert_eq!(what == Payload::Of(ulids()), taken, "{state:?}: {what:?}");
    }
}

/// The table as it stands in the document.
fn table() -> String {
    let name = |s: State| match s {
        State::Idle => "IDLE",
        State::I1Sent => "I1-SENT",
        State::I2Sent => "I2-SENT",
        State::Established => "ESTABLISHED",
        State::I2bisSent => "I2BIS-SENT",
        State::EFailed => "E-FAILED",
        State::NoSupport => "NO-SUPPORT",
    };
    let event = |e: Event| match e {
        Event::Start => "context wanted",
        Event::I1 => "I1, peer's tag and locator",
        Event::I1Other => "I1, other tag or locator",
        Event::R1 => "R1",
        Event::I2 => "I2",
        Event::R2 => "R2",
        Event::R1bis => "R1bis",
        Event::I2bis => "I2bis",
        Event::Payload => "payload header",
        Event::Control => "update, ack, keepalive, probe",
        Event::Retry => "timeout, retries left",
        Event::GiveUp => "timeout, none left",
        Event::NoHeader => "ICMP: unknown next header",
        Event::Confused => "tag used for another context",
        Event::Quiet => "quiet for 5 min, or ended",
        Event::HoldOver => "hold-down over",
    };
    let action = |a: Action| match a {
        Action::Nothing => "–",
        Action::Discard => "drop",
        Action::SendI1 => "I1",
        Action::SendR1 => "R1",
        Action::SendI2 => "I2",
        Action::SendR2 => "R2",
        Action::SendR1bis => "R1bis",
        Action::SendI2bis => "I2bis",
        Action::RecordSendR2 => "learn, R2",
        Action::Record => "learn",
        Action::Process => "take",
        Action::ProcessSendI2 => "take, I2",
        Action::ProcessSendI2bis => "take, I2bis",
        Action::Hold | Action::Release => "end",
    };
    let mut out = String::from("| |");
    for s in STATES {
        write!(out, " {} |", name(s)).unwrap();
    }
    out.push_str("\n|---|");
    out.push_str(&"---|".repeat(STATES.len()));
    out.push('\n');
    for e in EVENTS {
        write!(out, "| {} |", event(e)).unwrap();
        for s in STATES {
            let (a, next) = step(s, e);
            write!(out, " {}", action(a)).unwrap();
            if next != s {
                write!(out, " → {}", name(next)).unwrap();
            }
            out.push_str(" |");
        }
        out.push('\n');
    }
    out
}

#[test]
fn the_document_has_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/shim.md");
    let document = std::fs::read_to_string(path).unwrap();
    let (before, rest) = document.split_once("<!-- table -->\n").expect("a place for the table");
    let (written, after) = rest.split_once("<!-- end of table -->").unwrap();
    if std::env::var_os("WEFT_BLESS").is_some() {
        let whole = format!("{before}<!-- table -->\n{}<!-- end of table -->{after}", table());
        return std::fs::write(path, whole).unwrap();
    }
    assert_eq!(written, table(), "WEFT_BLESS=1 writes the table anew; read what changed");
}
