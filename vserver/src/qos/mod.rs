//! Rates, shares and priorities of groups, vservers, classes and clients, in both directions.

use weft_stack::frame::Frame;
use weft_stack::time::Instant;

use crate::facts::Facts;

/// What becomes of a received packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Goes on, perhaps with a mark.
    Pass,
    /// Over its rate; counted by the tree (which class) and as `QosPoliced` of the vserver.
    Drop,
}

/// The classes of all vservers on one worker, what they used, what waits for NICs.
#[derive(Debug, Default)]
pub(crate) struct Tree {}

#[allow(clippy::unused_self, clippy::needless_pass_by_ref_mut, reason = "no limits yet")]
impl Tree {
    /// Whether anything is configured. Asked per frame.
    #[inline]
    pub(crate) fn is_active(&self) -> bool {
        false
    }

    /// Whether received frames of this vserver are limited or marked.
    #[inline]
    pub(crate) fn polices(&self, _vserver: u32) -> bool {
        false
    }

    /// Whether frames for this NIC wait here for their turn. Frames that are not IP do not.
    #[inline]
    pub(crate) fn shapes(&self, _nic: usize) -> bool {
        false
    }

    /// A frame for a vserver arrived: counts it, may mark it.
    pub(crate) fn police(&mut self, _now: Instant, _facts: &Facts, _frame: &mut Frame) -> Verdict {
        Verdict::Pass
    }

    /// Frames that a vserver may send to a shaped NIC now.
    pub(crate) fn room(&self, _nic: usize, _vserver: u32) -> usize {
        usize::MAX
    }

    /// The vserver found no room; [`Tree::take_ready`] tells when there is some.
    pub(crate) fn await_room(&mut self, _nic: usize, _vserver: u32) {}

    /// A vserver that waited for room and has some.
    pub(crate) fn take_ready(&mut self) -> Option<u32> {
        None
    }

    /// Takes a frame for a shaped NIC; `false`: there was no room for its class, it is lost and
    /// counted by the tree.
    pub(crate) fn enqueue(
        &mut self,
        _now: Instant,
        _nic: usize,
        _facts: &Facts,
        _frame: Frame,
    ) -> bool {
        true
    }

    /// Whether frames wait for a NIC.
    #[inline]
    pub(crate) fn waits(&self, _nic: usize) -> bool {
        false
    }

    /// The next frame that may go to a NIC now.
    pub(crate) fn dequeue(&mut self, _now: Instant, _nic: usize) -> Option<Frame> {
        None
    }

    /// When [`Tree::dequeue`] has a frame for one of the NICs that have room, at the earliest.
    pub(crate) fn next_deadline(&self, _has_room: impl Fn(usize) -> bool) -> Option<Instant> {
        None
    }
}
