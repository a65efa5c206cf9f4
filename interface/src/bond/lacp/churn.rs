//! The Churn Detection machines (802.1AX 6.4.17): an end that stays out of sync with its link up.

use serde::{Deserialize, Serialize};
use weft_stack::time::Instant;

use super::CHURN_DETECTION;

/// States of a Churn Detection machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChurnState {
    /// Not in sync for less than 60 s, or no link.
    #[default]
    Monitor,
    /// In sync.
    None,
    /// Not in sync for 60 s.
    Churn,
}

/// The state to enter, if any.
pub(super) const fn next(
    state: ChurnState,
    enabled: bool,
    sync: bool,
    expired: bool,
) -> Option<ChurnState> {
    match state {
        ChurnState::Monitor if !enabled => None,
        _ if !enabled => Some(ChurnState::Monitor),
        ChurnState::Monitor | ChurnState::Churn if sync => Some(ChurnState::None),
        ChurnState::Monitor if expired => Some(ChurnState::Churn),
        ChurnState::None if !sync => Some(ChurnState::Monitor),
        ChurnState::Monitor | ChurnState::Churn | ChurnState::None => None,
    }
}

/// One machine: of the actor or of the partner.
#[derive(Clone, Debug, Default)]
pub(crate) struct Churn {
    pub(crate) state: ChurnState,
    pub(super) timer: Option<Instant>,
}

impl Churn {
    /// Runs the machine until it rests.
    pub(super) fn step(&mut self, now: Instant, enabled: bool, sync: bool) {
        loop {
            let expired = self.timer.is_some_and(|at| at <= now);
            if let Some(state) = next(self.state, enabled, sync, expired) {
                self.state = state;
                self.timer = None;
            } else {
                break;
            }
        }
        if self.state == ChurnState::Monitor && enabled {
            self.timer.get_or_insert(now + CHURN_DETECTION);
        } else {
            self.timer = None;
        }
    }
}
