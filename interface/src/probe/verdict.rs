//! What probes say of one member of a failover group.

use serde::{Deserialize, Serialize};
use weft_stack::time::Instant;

/// What a prober knows of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeState {
    /// The member is not probed: it has no test address and no other kind of probe. Its link alone
    /// counts.
    #[default]
    Disabled,
    /// It would be probed, but there is no target, or none was asked for long enough to tell. It
    /// counts as working while its link is up.
    Unknown,
    /// Targets answer.
    Ok,
    /// No target answers: as many probes in a row were lost as make a failure. From then on, and
    /// from a loss of link on, until as many in a row were answered as make a repair (if there is
    /// a target at all).
    Failed,
}

/// A prober's verdict. It does not know of the other members: whether this is a failure of the
/// member or of the network behind all of them is decided by the group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeVerdict {
    /// What it knows.
    pub state: ProbeState,
    /// The first probe of the present row of lost ones: when it was sent. `None` if the last one
    /// was answered.
    pub first_loss: Option<Instant>,
    /// When the last answer came.
    pub last_success: Option<Instant>,
}

impl ProbeVerdict {
    /// No probes.
    pub const DISABLED: ProbeVerdict =
        ProbeVerdict { state: ProbeState::Disabled, first_loss: None, last_success: None };
}
