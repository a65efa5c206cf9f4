//! Where a connection's time goes, and what it has sent and received: for dumps.

use crate::time::{Duration, Instant};

use super::state::Connection;

/// What holds sending back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Limit {
    #[default]
    /// Nothing is to be sent.
    Idle,
    /// The path: congestion window, pacing, acknowledgements to come.
    Path,
    /// The peer's window.
    RecvWindow,
    /// The send buffer: all of it is in flight, and the application has more.
    SendBuffer,
}

/// The clocks and counters of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    limit: Limit,
    since: Instant,
    path: Nanos,
    recv_window: Nanos,
    send_buffer: Nanos,
    pub(crate) last_received: Instant,
    pub(crate) segments_sent: u64,
    pub(crate) segments_received: u64,
    pub(crate) bytes_sent: u64,
}

/// Half as long as a [`Duration`].
type Nanos = u64;

impl Times {
    fn turn(&mut self, now: Instant, limit: Limit) {
        let spent = now.as_nanos() - self.since.as_nanos().min(now.as_nanos());
        match self.limit {
            Limit::Idle => {}
            Limit::Path => self.path += spent,
            Limit::RecvWindow => self.recv_window += spent,
            Limit::SendBuffer => self.send_buffer += spent,
        }
        (self.limit, self.since) = (limit, now);
    }

    /// Time with something to send, held back by the peer's window, held back by the send buffer.
    pub(crate) fn spent(&self, now: Instant) -> (Duration, Duration, Duration) {
        let mut t = *self;
        t.turn(now, Limit::Idle);
        let busy = t.path + t.recv_window + t.send_buffer;
        let [busy, window, buffer] = [busy, t.recv_window, t.send_buffer].map(Duration::from_nanos);
        (busy, window, buffer)
    }
}

impl Connection {
    /// After whatever may have changed what holds sending back.
    pub(crate) fn note_times(&mut self, now: Instant) {
        let limit = self.limit();
        if limit != self.totals.times.limit {
            self.totals.times.turn(now, limit);
        }
    }

    fn limit(&self) -> Limit {
        let unsent = self.unsent();
        if self.send.len() == 0 {
            return Limit::Idle;
        }
        if self.window() <= self.pipe() || self.pacer.is_waiting() {
            return Limit::Path;
        }
        if unsent > 0 && self.usable_window() < unsent.min(self.mss_full()) {
            return Limit::RecvWindow;
        }
        if unsent == 0 && self.write_blocked { Limit::SendBuffer } else { Limit::Path }
    }
}
