//! The Receive machine (802.1AX 6.4.12): what we believe of the partner.

use serde::{Deserialize, Serialize};
use weft_stack::time::Instant;

use super::wire::{Info, Lacpdu, State};
use super::{LONG_TIMEOUT, Port, SHORT_TIMEOUT, Selected};

/// States of the Receive machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReceiveState {
    /// Begin, or the partner was seen on another port.
    #[default]
    Initialize,
    /// No link.
    PortDisabled,
    /// Link, but the partner was not heard, or not lately.
    Expired,
    /// Half duplex: 802.1AX does not aggregate such a link.
    LacpDisabled,
    /// Nobody there: configured facts are used.
    Defaulted,
    /// The partner is heard.
    Current,
}

/// What the machine looks at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Inputs {
    pub(super) port_enabled: bool,
    pub(super) lacp_enabled: bool,
    pub(super) port_moved: bool,
    /// `current_while` has run out.
    pub(super) expired: bool,
    /// A LACPDU is here.
    pub(super) pdu: bool,
}

/// The state to enter, if any.
pub(super) const fn next(state: ReceiveState, i: Inputs) -> Option<ReceiveState> {
    use ReceiveState::{Current, Defaulted, Expired, Initialize, LacpDisabled, PortDisabled};
    match state {
        Initialize => Some(PortDisabled),
        PortDisabled if !i.port_enabled => {
            if i.port_moved {
                Some(Initialize)
            } else {
                None
            }
        }
        _ if !i.port_enabled => Some(PortDisabled),
        PortDisabled if i.lacp_enabled => Some(Expired),
        PortDisabled => Some(LacpDisabled),
        LacpDisabled if i.lacp_enabled => Some(PortDisabled),
        LacpDisabled => None,
        _ if !i.lacp_enabled => Some(LacpDisabled),
        Expired | Defaulted | Current if i.pdu => Some(Current),
        Expired if i.expired => Some(Defaulted),
        Current if i.expired => Some(Expired),
        Expired | Defaulted | Current => None,
    }
}

/// Runs the machine until it rests, with a PDU if one came.
pub(super) fn step(port: &mut Port, now: Instant, mut pdu: Option<&Lacpdu>) {
    loop {
        let inputs = Inputs {
            port_enabled: port.enabled,
            lacp_enabled: port.lacp_enabled,
            port_moved: port.moved,
            expired: port.current_while.is_some_and(|at| at <= now),
            pdu: pdu.is_some(),
        };
        let Some(state) = next(port.receive, inputs) else { return };
        let from = core::mem::replace(&mut port.receive, state);
        enter(port, from, now, &mut pdu);
    }
}

fn enter(port: &mut Port, from: ReceiveState, now: Instant, pdu: &mut Option<&Lacpdu>) {
    port.current_while = None;
    match port.receive {
        ReceiveState::Initialize => {
            port.selected = Selected::Unselected;
            record_default(port);
            port.actor.state.set(State::EXPIRED, false);
            port.moved = false;
        }
        ReceiveState::PortDisabled => port.partner.state.set(State::SYNC, false),
        ReceiveState::Expired => {
            port.partner.state.set(State::SYNC, false);
            // So that we send often, and the partner sees that we do not hear it.
            port.partner.state.set(State::TIMEOUT, true);
            port.actor.state.set(State::EXPIRED, true);
            port.current_while = Some(now + SHORT_TIMEOUT);
            port.counters.expired += u64::from(from == ReceiveState::Current);
            // The partner should not have to wait a period to learn that the link is up.
            port.transmit.ntt = true;
        }
        ReceiveState::LacpDisabled => {
            port.selected = Selected::Unselected;
            record_default(port);
            port.partner.state.set(State::AGGREGATION, false);
            port.actor.state.set(State::EXPIRED, false);
        }
        ReceiveState::Defaulted => {
            if !port.partner.is_same_end(&port.partner_admin) {
                port.selected = Selected::Unselected;
            }
            record_default(port);
            port.actor.state.set(State::EXPIRED, false);
        }
        ReceiveState::Current => {
            if let Some(pdu) = pdu.take() {
                take(port, now, pdu);
            }
        }
    }
}

fn take(port: &mut Port, now: Instant, pdu: &Lacpdu) {
    // update_Selected: another partner, another aggregate.
    if !pdu.actor.is_same_end(&port.partner) {
        port.selected = Selected::Unselected;
    }
    // update_NTT: the partner has an old view of us.
    if is_stale(&pdu.partner, &port.actor) {
        port.transmit.ntt = true;
        port.counters.stale_view += 1;
        port.stale_in_row = port.stale_in_row.saturating_add(1);
    } else {
        port.stale_in_row = 0;
    }
    record_pdu(port, pdu);
    let short = port.actor.state.has(State::TIMEOUT);
    port.current_while = Some(now + if short { SHORT_TIMEOUT } else { LONG_TIMEOUT });
    port.actor.state.set(State::EXPIRED, false);
    port.resumed = false;
}

/// recordPDU. The partner counts as in sync if it says so of a link that it knows to be ours, and
/// if one of both will keep talking.
fn record_pdu(port: &mut Port, pdu: &Lacpdu) {
    port.partner = pdu.actor;
    port.view = pdu.partner;
    let knows_us = pdu.partner.is_same_end(&port.actor);
    let individual = !pdu.actor.state.has(State::AGGREGATION);
    let maintained = pdu.actor.state.has(State::ACTIVITY)
        || port.actor.state.has(State::ACTIVITY) && pdu.partner.state.has(State::ACTIVITY);
    let sync = pdu.actor.state.has(State::SYNC) && (knows_us || individual) && maintained;
    port.partner.state.set(State::SYNC, sync);
    port.actor.state.set(State::DEFAULTED, false);
}

fn record_default(port: &mut Port) {
    port.partner = port.partner_admin;
    port.view = Info::default();
    port.stale_in_row = 0;
    port.actor.state.set(State::DEFAULTED, true);
}

/// Whether `view` of us misses something that its holder acts on.
pub(super) fn is_stale(view: &Info, actor: &Info) -> bool {
    let watched = State::ACTIVITY.with(State::TIMEOUT).with(State::SYNC).with(State::AGGREGATION).0;
    !view.is_same_end(actor) || (view.state.0 ^ actor.state.0) & watched != 0
}
