//! One port and all its machines.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use weft_stack::time::Instant;

use super::churn::Churn;
use super::marker::{self, Responder};
use super::transmit::{self, Transmit};
use super::wire::{self, Ignored, Info, Lacpdu, Pdu, PortId, State, SystemId};
use super::{
    LONG_TIMEOUT, MuxState, PeriodicState, ReceiveState, SHORT_TIMEOUT, Selected, mux, periodic,
    receive,
};
use crate::Mac;
use crate::bond::config::{Activity, LacpConfig, PortConfig, Rate};

/// What a port saw of the protocols.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LacpCounters {
    /// LACPDUs taken.
    pub pdus_in: u64,
    /// LACPDUs sent.
    pub pdus_out: u64,
    /// Markers taken.
    pub markers_in: u64,
    /// Markers sent.
    pub markers_out: u64,
    /// Answers to our markers.
    pub marker_responses_in: u64,
    /// Answers to the partner's markers.
    pub marker_responses_out: u64,
    /// Markers that were not answered: too many in a second.
    pub marker_limit: u64,
    /// PDUs of our own system that came back.
    pub loopback: u64,
    /// LACPDUs of a later version than 1 (taken).
    pub other_version: u64,
    /// LACPDUs while the link was down or half duplex.
    pub disabled: u64,
    /// Frames with the Slow Protocols address or ethertype but not both.
    pub not_slow: u64,
    /// PDUs that were cut off.
    pub short: u64,
    /// Frames of other slow protocols, and markers that neither ask nor answer.
    pub unknown: u64,
    /// Frames with a subtype that nobody may use.
    pub illegal_subtype: u64,
    /// PDUs with a TLV of an impossible length.
    pub bad_length: u64,
    /// PDUs whose sender had an old view of us.
    pub stale_view: u64,
    /// Times that a partner fell silent.
    pub expired: u64,
}

impl LacpCounters {
    fn ignore(&mut self, why: Ignored) {
        let counter = match why {
            Ignored::NotSlow => &mut self.not_slow,
            Ignored::Short => &mut self.short,
            Ignored::OtherProtocol | Ignored::UnknownMarker => &mut self.unknown,
            Ignored::IllegalSubtype => &mut self.illegal_subtype,
            Ignored::BadLength => &mut self.bad_length,
        };
        *counter += 1;
    }
}

/// How a port that works leaves the aggregate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// It does not.
    #[default]
    No,
    /// Another is to take its place, and it carries frames until that one does.
    Retiring { until: Instant },
    /// It sends nothing any more; a marker is on its way.
    Draining { transaction: u32, until: Instant },
    /// The partner has everything.
    Drained,
}

/// What a port knew before a restart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resume {
    pub(crate) partner: Info,
    pub(crate) actor_state: State,
    pub(crate) mux: MuxState,
    /// Too late after this.
    pub(crate) until: Instant,
}

/// One port; timers are points in time.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub(crate) mac: Mac,
    pub(super) independent: bool,
    /// `port_enabled`: link.
    pub(crate) enabled: bool,
    /// Full duplex.
    pub(crate) lacp_enabled: bool,
    pub(crate) speed_mbit: Option<u32>,
    /// `port_moved`.
    pub(crate) moved: bool,
    /// Taken out by the operator.
    pub(crate) offline: bool,
    pub(crate) actor: Info,
    pub(crate) partner: Info,
    pub(super) partner_admin: Info,
    /// What the partner last said of us.
    pub(crate) view: Info,
    /// What the last LACPDU said of its sender and of us; not forgotten when the partner is.
    pub(crate) said: Option<(Info, Info)>,
    /// LACPDUs in a row that had an old view of us.
    pub(super) stale_in_row: u8,
    pub(crate) receive: ReceiveState,
    pub(super) current_while: Option<Instant>,
    pub(crate) periodic: PeriodicState,
    pub(super) periodic_timer: Option<Instant>,
    pub(crate) mux: MuxState,
    /// Runs while WAITING.
    pub(super) wait_while: Option<Instant>,
    /// How often it ran out since.
    pub(super) waits: u8,
    pub(crate) selected: Selected,
    pub(crate) leaving: Leaving,
    /// It left in order, and what the partner sent before it knew is still taken.
    pub(super) collect_until: Option<Instant>,
    /// It was just emptied, and whether the partner said so.
    pub(crate) emptied: Option<bool>,
    pub(crate) actor_churn: Churn,
    pub(crate) partner_churn: Churn,
    pub(crate) transmit: Transmit,
    pub(super) responder: Responder,
    pub(crate) resume: Option<Resume>,
    /// The facts are from before a restart; the partner was not heard since.
    pub(crate) resumed: bool,
    pub(crate) last_pdu: Option<Instant>,
    /// Between the last two.
    pub(crate) interval: Option<weft_stack::time::Duration>,
    pub(crate) counters: LacpCounters,
    /// A LACPDU that the host has not taken.
    pub(super) outgoing: Option<Vec<u8>>,
    /// Markers and answers that the host has not taken.
    pub(super) markers: SmallVec<[Vec<u8>; 1]>,
}

/// Markers and answers that wait for the host; more are not kept.
const MARKERS_MAX: usize = 16;

impl Port {
    /// A port at position `index`.
    pub(crate) fn new(
        index: usize,
        config: &PortConfig,
        lacp: &LacpConfig,
        system: Mac,
        mac: Mac,
    ) -> Port {
        let mut state = State::default();
        state.set(State::ACTIVITY, lacp.activity == Activity::Active);
        state.set(State::TIMEOUT, lacp.rate == Rate::Fast);
        state.set(State::AGGREGATION, !config.individual);
        state.set(State::DEFAULTED, true);
        let number = config.number.unwrap_or(index as u16 + 1);
        let actor = Info {
            system: SystemId { priority: lacp.system_priority, mac: system },
            key: lacp.key,
            port: PortId { priority: config.priority, number },
            state,
        };
        // With a fallback, nobody at the other end is as good as somebody who is in sync.
        let assumed = State::SYNC.with(State::COLLECTING).with(State::DISTRIBUTING);
        let partner_admin =
            Info { state: if lacp.fallback { assumed } else { State(0) }, ..Info::default() };
        Port {
            mac,
            independent: lacp.independent,
            enabled: false,
            lacp_enabled: true,
            speed_mbit: None,
            moved: false,
            offline: false,
            actor,
            partner: partner_admin,
            partner_admin,
            view: Info::default(),
            said: None,
            stale_in_row: 0,
            receive: ReceiveState::Initialize,
            current_while: None,
            periodic: PeriodicState::NoPeriodic,
            periodic_timer: None,
            mux: MuxState::Detached,
            wait_while: None,
            waits: 0,
            selected: Selected::Unselected,
            leaving: Leaving::No,
            collect_until: None,
            emptied: None,
            actor_churn: Churn::default(),
            partner_churn: Churn::default(),
            transmit: Transmit::default(),
            responder: Responder::default(),
            resume: None,
            resumed: false,
            last_pdu: None,
            interval: None,
            counters: LacpCounters::default(),
            outgoing: None,
            markers: SmallVec::new(),
        }
    }

    /// A control frame came in. The sender's end, if it was a LACPDU that was taken.
    /// Without `negotiates` what a partner says is only kept for those who look for errors.
    pub(crate) fn handle_frame(
        &mut self,
        now: Instant,
        frame: &[u8],
        negotiates: bool,
    ) -> Option<Info> {
        match wire::parse(frame) {
            Ok(Pdu::Lacp(pdu)) => self.handle_lacpdu(now, &pdu, negotiates),
            Ok(Pdu::Marker(marker)) => {
                if self.markers.len() < MARKERS_MAX {
                    marker::take(self, now, &marker);
                } else {
                    self.counters.marker_limit += 1;
                }
                None
            }
            Err(why) => {
                self.counters.ignore(why);
                None
            }
        }
    }

    fn handle_lacpdu(&mut self, now: Instant, pdu: &Lacpdu, negotiates: bool) -> Option<Info> {
        if !self.enabled || !self.lacp_enabled {
            self.counters.disabled += 1;
            return None;
        }
        self.counters.pdus_in += 1;
        self.counters.other_version += u64::from(pdu.version > 1);
        self.counters.loopback += u64::from(pdu.actor.system.mac == self.actor.system.mac);
        self.interval = self.last_pdu.map(|last| now - last);
        self.last_pdu = Some(now);
        self.said = Some((pdu.actor, pdu.partner));
        if !negotiates {
            self.partner = pdu.actor;
            self.view = pdu.partner;
            return None;
        }
        self.resume = None;
        receive::step(self, now, Some(pdu));
        Some(pdu.actor)
    }

    /// Timers and the link: everything up to what the selection looks at.
    pub(crate) fn step_receive(&mut self, now: Instant) {
        self.collect_until = self.collect_until.filter(|at| self.enabled && *at > now);
        self.take_up(now);
        receive::step(self, now, None);
        mux::step_wait(self, now);
    }

    /// Continues where the process before us was, once there is a link.
    fn take_up(&mut self, now: Instant) {
        let Some(resume) = self.resume else { return };
        if now >= resume.until {
            self.resume = None;
        } else if self.enabled && self.lacp_enabled {
            self.resume = None;
            self.receive = ReceiveState::Current;
            self.current_while = Some(now + SHORT_TIMEOUT);
            self.resumed = true;
            self.partner = resume.partner;
            self.view = Info { state: resume.actor_state, ..self.actor };
            self.selected = Selected::Selected;
            mux::enter(self, resume.mux, now);
            self.actor.state.set(State::DEFAULTED.with(State::EXPIRED), false);
            self.transmit.ntt = true;
        }
    }

    /// Runs the Mux machine; tells whether it moved.
    pub(crate) fn step_mux(&mut self, now: Instant, ready: bool, enough: bool) -> bool {
        mux::step(self, now, ready, enough)
    }

    /// Runs what follows from the others: churn, periodic, transmit.
    pub(crate) fn step_rest(&mut self, now: Instant) {
        let enabled = self.enabled && self.lacp_enabled;
        self.actor_churn.step(now, enabled, self.actor.state.has(State::SYNC));
        self.partner_churn.step(now, enabled, self.partner.state.has(State::SYNC));
        periodic::step(self, now);
        transmit::step(self, now);
    }

    /// Begins to empty the port.
    pub(crate) fn drain(&mut self, now: Instant, transaction: u32) {
        marker::ask(self, now, transaction);
    }

    /// Nothing is sent any more, and it waits for the partner to have taken the rest.
    pub(crate) fn is_draining(&self) -> bool {
        matches!(self.leaving, Leaving::Draining { .. } | Leaving::Drained)
    }

    /// The next frame to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        if let Some(frame) = self.outgoing.take() {
            self.counters.pdus_out += 1;
            return Some(frame);
        }
        (!self.markers.is_empty()).then(|| self.markers.remove(0))
    }

    /// When a timer runs out.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let transmit = if self.transmit.ntt && self.periodic != PeriodicState::NoPeriodic {
            self.transmit.allowed_at()
        } else {
            None
        };
        let leaving = match self.leaving {
            Leaving::Retiring { until } | Leaving::Draining { until, .. } => Some(until),
            Leaving::No | Leaving::Drained => None,
        };
        [
            self.current_while,
            self.periodic_timer,
            self.wait_while,
            self.collect_until,
            self.actor_churn.timer,
            self.partner_churn.timer,
            self.resume.map(|r| r.until),
            transmit,
            leaving,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The silence after which the partner gives us up.
    pub(crate) fn partner_patience(partner: &Info) -> weft_stack::time::Duration {
        if partner.state.has(State::TIMEOUT) { SHORT_TIMEOUT } else { LONG_TIMEOUT }
    }

    /// May send data.
    pub(crate) fn distributes(&self) -> bool {
        self.mux == MuxState::Distributing && !self.is_draining()
    }

    /// A partner was heard, so there is nothing to be taken up.
    pub(crate) fn heard_since_start(&self) -> bool {
        self.last_pdu.is_some()
    }

    /// Collecting and distributing are controlled independently.
    pub(crate) fn controls_independently(&self) -> bool {
        self.independent
    }

    /// What the partner says of us stays wrong, though we answer each time. Once or twice is what
    /// any change of ours looks like.
    pub(crate) fn has_stale_view(&self) -> bool {
        self.stale_in_row >= 3
    }

    /// Its data frames are taken.
    pub(crate) fn collects(&self) -> bool {
        self.mux >= MuxState::Collecting || self.collect_until.is_some()
    }
}
