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
    /// End of the last segment with PSH.
    pushed: SeqNum,
    /// What was sent before the peer's last segment ended here.
    pub(crate) burst: SeqNum,
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
        Small {
            end: iss,
            pushed: iss,
            burst: iss,
            more: false,
            expired: false,
            force: false,
            cork_at: None,
        }
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
    /// RFC 9293 3.9.1.2 MUST-61: PSH at the end of what is queued, also when it is sent again, unless
    /// the application said that more follows. And where the peer should let go of what its receive
    /// offload has joined: at the end of a burst, and twice per window.
    pub(crate) fn pushes(&mut self, from: SeqNum, len: usize) -> bool {
        if len == 0 {
            return false;
        }
        let end = from + len as u32;
        let last = end == self.data_end() && !self.small.more;
        let half = end.diff(self.small.pushed) > (self.snd_wnd_max / 2) as i32;
        let push = last || half || (from == self.snd_nxt && self.ends_burst(len));
        if push {
            self.small.pushed = self.small.pushed.max(end);
        }
        push
    }

    /// Whether `len` new bytes are the last of several segments until the peer answers.
    fn ends_burst(&self, len: usize) -> bool {
        let (rest, mss) = (self.unsent().saturating_sub(len), self.mss_now());
        let several = (self.snd_nxt + len as u32).diff(self.small.burst) > mss as i32;
        if rest == 0 || !several || self.is_corked() {
            return false;
        }
        let room = self.window().saturating_sub(self.pipe()).min(self.usable_window());
        room < len + mss.min(rest) || (rest < mss && !self.may_send_tail(false))
    }

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
