//! Who may talk to which service of a vserver, decided before the stack sees a packet.

use weft_stack::time::Instant;

use crate::facts::Facts;
use crate::runtime::HostStack;

/// What becomes of a received packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(dead_code, reason = "no rules yet")]
pub(crate) enum Verdict {
    Pass,
    /// Silently lost; counted by the gate (which rule) and as `AccessDenied` of the vserver.
    Drop,
    /// Lost, and the sender is told.
    Reject(Reject),
}

/// How the sender of a refused packet is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(dead_code, reason = "no rules yet")]
pub(crate) enum Reject {
    /// TCP: a RST as from a closed port.
    Reset,
    /// ICMP: communication administratively prohibited.
    Prohibited,
}

/// The access rules of all vservers on one worker, and what they remember of flows.
#[derive(Debug, Default)]
pub(crate) struct Gate {}

#[allow(clippy::unused_self, clippy::needless_pass_by_ref_mut, reason = "no rules yet")]
impl Gate {
    /// Whether any vserver has rules. Asked per frame.
    #[inline]
    pub(crate) fn is_active(&self) -> bool {
        false
    }

    /// Whether this one has.
    #[inline]
    pub(crate) fn guards(&self, _vserver: u32) -> bool {
        false
    }

    /// A packet for a guarded vserver arrived, from the wire or from another vserver of this host.
    pub(crate) fn admit(&mut self, _now: Instant, _facts: &Facts, _stack: &HostStack) -> Verdict {
        Verdict::Pass
    }

    /// A guarded vserver sends a packet: answers to it may come.
    pub(crate) fn sent(&mut self, _now: Instant, _facts: &Facts) {}
}
