//! The Mux machine (802.1AX 6.4.15): whether a port takes and sends frames, with independent
//! control of both or coupled.

use serde::{Deserialize, Serialize};
use weft_stack::time::Instant;

use super::wire::State;
use super::{AGGREGATE_WAIT, Port, Selected};

/// States of the Mux machine.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum MuxState {
    /// Not part of the aggregate.
    #[default]
    Detached,
    /// Waits for others to join with.
    Waiting,
    /// Part of it (in sync).
    Attached,
    /// Takes frames. Independent control only.
    Collecting,
    /// Sends and takes frames. With coupled control this is COLLECTING_DISTRIBUTING.
    Distributing,
}

/// What the machine looks at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Inputs {
    pub(super) independent: bool,
    pub(super) selected: Selected,
    /// All that wait for the aggregate have waited long enough.
    pub(super) ready: bool,
    /// The partner is in sync, and `min_links` are.
    pub(super) partner_sync: bool,
    pub(super) partner_collecting: bool,
    /// The port is being emptied: nothing more is sent.
    pub(super) draining: bool,
}

/// The state to enter, if any.
pub(super) fn next(state: MuxState, i: Inputs) -> Option<MuxState> {
    use MuxState::{Attached, Collecting, Detached, Distributing, Waiting};
    let stays = i.selected == Selected::Selected;
    let collects = stays && i.partner_sync;
    let distributes = collects && i.partner_collecting && !i.draining;
    match state {
        Detached => (i.selected != Selected::Unselected).then_some(Waiting),
        Waiting if i.selected == Selected::Unselected => Some(Detached),
        Waiting => (stays && i.ready).then_some(Attached),
        Attached if !stays => Some(Detached),
        Attached if collects => Some(if i.independent { Collecting } else { Distributing }),
        Collecting if !collects => Some(Attached),
        Collecting if distributes => Some(Distributing),
        Distributing if i.independent => (!distributes).then_some(Collecting),
        Distributing => (!collects).then_some(Attached),
        Attached | Collecting => None,
    }
}

/// Runs the machine until it rests; tells whether it moved.
pub(super) fn step(port: &mut Port, now: Instant, ready: bool, enough: bool) -> bool {
    let mut moved = false;
    loop {
        let inputs = Inputs {
            independent: port.independent,
            selected: port.selected,
            ready,
            partner_sync: port.partner.state.has(State::SYNC) && enough,
            partner_collecting: port.partner.state.has(State::COLLECTING),
            draining: port.is_draining(),
        };
        // A port that was detached may not pass through WAITING in the same step.
        let Some(state) = next(port.mux, inputs).filter(|s| !(moved && *s == MuxState::Waiting))
        else {
            return moved;
        };
        moved = true;
        enter(port, state, now);
    }
}

/// Enters `state` and does what it asks for.
pub(super) fn enter(port: &mut Port, state: MuxState, now: Instant) {
    let up = state > port.mux;
    port.mux = state;
    port.wait_while = (state == MuxState::Waiting).then(|| now + AGGREGATE_WAIT);
    port.waits = 0;
    let attached = state >= MuxState::Attached;
    let collecting = state >= MuxState::Collecting;
    port.actor.state.set(State::SYNC, attached);
    port.actor.state.set(State::COLLECTING, collecting);
    port.actor.state.set(State::DISTRIBUTING, state == MuxState::Distributing);
    // That we begin to send is nothing that a partner waits for; with coupled control the same
    // step tells it that we collect.
    let told =
        state == MuxState::Waiting || state == MuxState::Distributing && up && port.independent;
    port.transmit.ntt |= !told;
}

/// The wait for others runs twice: one that comes late is waited for, but not one that comes late
/// again and again.
pub(super) const WAITS_MAX: u8 = 2;

/// Runs the wait of a port that is WAITING.
pub(super) fn step_wait(port: &mut Port, now: Instant) {
    if let Some(at) = port.wait_while.filter(|at| *at <= now) {
        port.waits += 1;
        port.wait_while = (port.waits < WAITS_MAX).then(|| at + AGGREGATE_WAIT);
    }
}
