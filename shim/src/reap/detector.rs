//! Forced bidirectional detection (RFC 5534 4.1): whoever sends expects something back, whoever
//! receives and has nothing to send sends keepalives. One of the two timers runs, or none.

use core::time::Duration;

use weft_stack::rng::Rng;
use weft_stack::time::Instant;

/// A peer cannot have keepalives more often than for this timeout.
const KEEPALIVE_TIMEOUT_MIN: Duration = Duration::from_millis(20);

/// A duration as the data path adds it.
pub(super) fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Detector {
    /// The send timer: when return traffic is overdue.
    pub(super) send: Option<Instant>,
    /// The keepalive timer: when nothing more is owed to the peer.
    pub(super) keepalive: Option<Instant>,
    /// The next keepalive before that.
    interval: Option<Instant>,
    keepalive_timeout: Duration,
    /// The same, in nanoseconds: added for packets.
    keepalive_ns: u64,
    /// Nanoseconds of the next interval, drawn beforehand: the data path draws nothing.
    interval_ns: u64,
    /// A keepalive waits to be sent.
    due: bool,
}

impl Detector {
    pub(super) fn new(keepalive_timeout: Duration, rng: &mut Rng) -> Detector {
        let mut detector = Detector {
            send: None,
            keepalive: None,
            interval: None,
            keepalive_timeout,
            keepalive_ns: 0,
            interval_ns: 0,
            due: false,
        };
        detector.set_keepalive_timeout(keepalive_timeout, rng);
        detector
    }

    pub(super) fn set_keepalive_timeout(&mut self, timeout: Duration, rng: &mut Rng) {
        self.keepalive_timeout = timeout.max(KEEPALIVE_TIMEOUT_MIN);
        self.keepalive_ns = nanos(self.keepalive_timeout);
        self.draw(rng);
    }

    pub(super) fn keepalive_timeout(&self) -> Duration {
        self.keepalive_timeout
    }

    /// Nanoseconds to the next keepalive to be owed.
    pub(super) fn interval_ns(&self) -> u64 {
        self.interval_ns
    }

    /// Between a third and a half of the timeout, at random (RFC 5534 4.1, 7).
    fn draw(&mut self, rng: &mut Rng) {
        let third = self.keepalive_timeout / 3;
        let spread = nanos((self.keepalive_timeout / 2).saturating_sub(third));
        self.interval_ns = nanos(third).saturating_add(rng.below(spread.saturating_add(1)));
    }

    #[inline]
    pub(super) fn start_send(&mut self, now: Instant, timeout_ns: u64) {
        if self.send.is_none() {
            self.send = Some(now.after_nanos(timeout_ns));
        }
    }

    pub(super) fn restart_send(&mut self, now: Instant, timeout: Duration) {
        self.send = Some(now + timeout);
    }

    #[inline]
    pub(super) fn stop_send(&mut self) {
        self.send = None;
    }

    #[inline]
    pub(super) fn start_keepalive(&mut self, now: Instant) {
        if self.keepalive.is_none() {
            self.keepalive = Some(now.after_nanos(self.keepalive_ns));
            self.interval = Some(now.after_nanos(self.interval_ns));
        }
    }

    #[inline]
    pub(super) fn stop_keepalive(&mut self) {
        self.keepalive = None;
        self.interval = None;
        self.due = false;
    }

    /// True if return traffic is overdue; the timer then stands still.
    pub(super) fn send_expired(&mut self, now: Instant) -> bool {
        self.send.take_if(|at| *at <= now).is_some()
    }

    /// Keepalives that are due; the last one when the timer ends.
    pub(super) fn handle_timeout(&mut self, now: Instant, rng: &mut Rng) {
        if self.keepalive.take_if(|at| *at <= now).is_some() {
            self.interval = None;
            self.due = true;
        }
        if self.interval.is_some_and(|at| at <= now) {
            self.due = true;
            self.draw(rng);
            self.interval = Some(now.after_nanos(self.interval_ns));
        }
    }

    /// Takes the keepalive that is due.
    pub(super) fn take_due(&mut self) -> bool {
        core::mem::take(&mut self.due)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.send, self.keepalive, self.interval].into_iter().flatten().min()
    }
}
