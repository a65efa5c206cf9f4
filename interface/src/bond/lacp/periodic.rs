//! The Periodic Transmission machine (802.1AX 6.4.13): the partner's timeout says how often.

use serde::{Deserialize, Serialize};
use weft_stack::time::Instant;

use super::wire::State;
use super::{FAST_PERIODIC, Port, SLOW_PERIODIC};

/// States of the Periodic Transmission machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeriodicState {
    /// No link, or both ends are passive.
    #[default]
    NoPeriodic,
    /// Every second.
    Fast,
    /// Every 30 s.
    Slow,
    /// Now; left at once.
    Transmit,
}

/// What the machine looks at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Inputs {
    /// Link and LACP.
    pub(super) enabled: bool,
    pub(super) both_passive: bool,
    pub(super) partner_short: bool,
    pub(super) expired: bool,
}

/// The state to enter, if any.
pub(super) const fn next(state: PeriodicState, i: Inputs) -> Option<PeriodicState> {
    use PeriodicState::{Fast, NoPeriodic, Slow, Transmit};
    match state {
        NoPeriodic if !i.enabled || i.both_passive => None,
        _ if !i.enabled || i.both_passive => Some(NoPeriodic),
        NoPeriodic => Some(Fast),
        Fast if !i.partner_short => Some(Slow),
        Fast | Slow if i.expired => Some(Transmit),
        Slow if i.partner_short => Some(Transmit),
        Transmit if i.partner_short => Some(Fast),
        Transmit => Some(Slow),
        Fast | Slow => None,
    }
}

/// Runs the machine until it rests.
pub(super) fn step(port: &mut Port, now: Instant) {
    loop {
        let active = port.actor.state.has(State::ACTIVITY);
        let inputs = Inputs {
            enabled: port.enabled && port.lacp_enabled,
            both_passive: !active && !port.partner.state.has(State::ACTIVITY),
            partner_short: port.partner.state.has(State::TIMEOUT) || port.resumed,
            expired: port.periodic_timer.is_some_and(|at| at <= now),
        };
        let Some(state) = next(port.periodic, inputs) else { return };
        port.periodic = state;
        port.periodic_timer = match state {
            PeriodicState::NoPeriodic | PeriodicState::Transmit => None,
            PeriodicState::Fast => Some(now + FAST_PERIODIC),
            PeriodicState::Slow => Some(now + SLOW_PERIODIC),
        };
        port.transmit.ntt |= state == PeriodicState::Transmit;
    }
}
