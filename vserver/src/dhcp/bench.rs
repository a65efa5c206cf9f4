//! A client in virtual time, for the tests of both protocols: [`Bench::pass`] goes from deadline to
//! deadline.

use std::time::Duration;

use weft_stack::time::Instant;

use super::client::Action;
use super::v4::Client4;
use super::v6::Client6;

/// What both clients can do.
pub(super) trait Client {
    fn deadline(&self) -> Option<Instant>;
    fn timeout(&mut self, now: Instant);
    fn poll(&mut self) -> Option<Action>;
}

impl Client for Client4 {
    fn deadline(&self) -> Option<Instant> {
        self.deadline()
    }

    fn timeout(&mut self, now: Instant) {
        self.timeout(now);
    }

    fn poll(&mut self) -> Option<Action> {
        self.poll()
    }
}

impl Client for Client6 {
    fn deadline(&self) -> Option<Instant> {
        self.deadline()
    }

    fn timeout(&mut self, now: Instant) {
        self.timeout(now);
    }

    fn poll(&mut self) -> Option<Action> {
        self.poll()
    }
}

/// A client, what time it is, and what it wanted when.
pub(super) struct Bench<C> {
    pub(super) client: C,
    pub(super) now: Instant,
    pub(super) actions: Vec<(Instant, Action)>,
}

impl<C: Client> Bench<C> {
    /// `start` gets the time.
    pub(super) fn new(start: impl FnOnce(Instant) -> C) -> Bench<C> {
        let now = Instant::from_millis(1000);
        let mut b = Bench { client: start(now), now, actions: Vec::new() };
        b.pass(Duration::ZERO);
        b
    }

    pub(super) fn drain(&mut self) {
        while let Some(action) = self.client.poll() {
            self.actions.push((self.now, action));
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.drain();
        while let Some(at) = self.client.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.client.timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    pub(super) fn secs(&mut self, seconds: u64) {
        self.pass(Duration::from_secs(seconds));
    }

    /// Everything but messages.
    pub(super) fn done(&mut self) -> Vec<&'static str> {
        let all = std::mem::take(&mut self.actions);
        all.iter()
            .filter_map(|(_, a)| match a {
                Action::Send { .. } => None,
                Action::Assign { .. } => Some("assign"),
                Action::Withdraw(_) => Some("withdraw"),
                Action::Store { .. } => Some("store"),
                Action::Forget => Some("forget"),
            })
            .collect()
    }
}

/// Seconds between the times.
pub(super) fn gaps(times: &[Instant]) -> Vec<f64> {
    times.windows(2).map(|w| w[1].saturating_since(w[0]).as_secs_f64()).collect()
}
