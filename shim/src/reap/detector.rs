//! Forced bidirectional detection (RFC 5534 4.1): whoever sends expects something back, whoever
//! receives and has nothing to send sends keepalives. One of the two timers runs, or none.

use core::time::Duration;

use weft_stack::rng::Rng;
use weft_stack::time::Instant;

/// A peer cannot have keepalives more often than for this timeout.
const KEEPALIVE_TIMEOUT_MIN: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug)]
pub(super) struct Detector {
    /// The send timer: when return traffic is overdue.
    pub(super) send: Option<Instant>,
    /// The keepalive timer: when nothing more is owed to the peer.
    pub(super) keepalive: Option<Instant>,
    /// The next keepalive before that.
    interval: Option<Instant>,
    keepalive_timeout: Duration,
    /// Of the next interval, drawn beforehand: the data path draws nothing.
    interval_len: Duration,
    /// A keepalive waits to be sent.
    due: bool,
}

impl Detector {
    pub(super) fn new(keepalive_timeout: Duration, rng: &mut Rng) -> Detector {
        let mut detector = Detector {
            send: None,
            keepalive: None,
            interval: None,
            keepalive_timeout: keepalive_timeout.max(KEEPALIVE_TIMEOUT_MIN),
            interval_len: Duration::ZERO,
            due: false,
        };
        detector.draw(rng);
        detector
    }

    pub(super) fn set_keepalive_timeout(&mut self, timeout: Duration, rng: &mut Rng) {
        self.keepalive_timeout = timeout.max(KEEPALIVE_TIMEOUT_MIN);
        self.draw(rng);
    }

    pub(super) fn keepalive_timeout(&self) -> Duration {
        self.keepalive_timeout
    }

    /// Of the next keepalive to be owed.
    pub(super) fn interval_len(&self) -> Duration {
        self.interval_len
    }

    /// Between a third and a half of the timeout, at random (RFC 5534 4.1, 7).
    fn draw(&mut self, rng: &mut Rng) {
        let third = self.keepalive_timeout / 3;
        let spread = (self.keepalive_timeout / 2).saturating_sub(third).as_nanos() as u64;
        self.interval_len = third + Duration::from_nanos(rng.below(spread + 1));
    }

    pub(super) fn start_send(&mut self, now: Instant, timeout: Duration) {
        if self.send.is_none() {
            self.send = Some(now + timeout);
        }
    }

    pub(super) fn restart_send(&mut self, now: Instant, timeout: Duration) {
        self.send = Some(now + timeout);
    }

    pub(super) fn stop_send(&mut self) {
        self.send = None;
    }

    pub(super) fn start_keepalive(&mut self, now: Instant) {
        if self.keepalive.is_none() {
            self.keepalive = Some(now + self.keepalive_timeout);
            self.interval = Some(now + self.interval_len);
        }
    }

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
            self.interval = Some(now + self.interval_len);
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
