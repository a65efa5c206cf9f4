//! When a segment that is not full may leave: Nagle's algorithm with Minshall's change (RFC 9293
//! 3.7.4), corking, and the override of silly-window avoidance (RFC 9293 3.8.6.2.1).

use crate::seq::SeqNum;
use crate::time::{Duration, Instant};

use super::state::{Connection, Cx};

/// A corked tail leaves after this.
const CORK_MAX: Duration = Duration::from_millis(200);

/// What is known about segments short of full.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Small {
    /// End of the last one sent.
    end: SeqNum,
    /// The last write promised more.
    pub(crate) more: bool,
    /// The cork held a tail for as long as it may.
    pub(crate) expired: bool,
    /// Send what the window takes, however little (persist override of SWS avoidance).
    pub(crate) force: bool,
    /// When the cork gives way.
    cork_at: Option<Instant>,
}

impl Small {
    pub(crate) fn new(iss: SeqNum) -> Small {
        Small { end: iss, more: false, expired: false, force: false, cork_at: None }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.cork_at
    }

    pub(crate) fn stop(&mut self) {
        self.cork_at = None;
    }

    /// New data up to `end` was sent; `small`: less than full segments.
    pub(crate) fn on_sent(&mut self, end: SeqNum, small: bool) {
        (self.force, self.expired, self.cork_at) = (false, false, None);
        if small {
            self.end = end;
        }
    }
}

impl Connection {
    /// The application holds small segments back itself.
    pub(crate) fn is_corked(&self) -> bool {
        (self.settings.cork || self.small.more) && !self.small.expired
    }

    /// Whether all that is left, less than a full segment, may go.
    pub(crate) fn may_send_tail(&self, fin: bool) -> bool {
        // Held back for an acknowledgement, F-RTO would wait for the next timeout.
        if fin || self.small.force || self.frto_holds() {
            return true;
        }
        if self.is_corked() {
            return false;
        }
        // Above `snd_nxt` it was sent gigabytes ago.
        let small_in_flight = self.small.end > self.snd_una && self.small.end <= self.snd_nxt;
        self.settings.nodelay || self.small.expired || !small_in_flight
    }

    /// A tail waits; the cork gives way in time.
    pub(crate) fn arm_cork(&mut self, now: Instant) {
        if self.is_corked() && self.small.cork_at.is_none() {
            self.small.cork_at = Some(now + CORK_MAX);
        }
    }

    pub(crate) fn on_cork_timer(&mut self, cx: &mut Cx<'_>) {
        if self.small.cork_at.is_none_or(|at| at > cx.now) {
            return;
        }
        self.small.cork_at = None;
        if self.unsent() > 0 && self.is_corked() {
            self.small.expired = true;
            cx.stats.cork_timeouts += 1;
        }
    }
}
