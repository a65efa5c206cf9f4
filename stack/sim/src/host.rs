//! A simulated host: a stack, its pool, its applications and its clock.

use weft_stack::Stack;
use weft_stack::frame::{Frame, FramePool};
use weft_stack::rng::Rng;
use weft_stack::stack::{Limits, TcpConfig};
use weft_stack::time::{Duration, Instant};

use crate::actor::Actor;

/// What a host is made from.
#[derive(Clone, Debug)]
pub struct HostSpec {
    /// Its name, for messages.
    pub name: String,
    /// Bounds of its stack.
    pub limits: Limits,
    /// TCP defaults.
    pub tcp: TcpConfig,
    /// Forward packets between its attachments.
    pub forwarding: bool,
    /// Frames in its pool.
    pub frames: usize,
}

impl HostSpec {
    /// A host with default limits.
    pub fn named(name: &str) -> HostSpec {
        HostSpec {
            name: name.to_owned(),
            limits: Limits::default(),
            tcp: TcpConfig::default(),
            forwarding: false,
            frames: 4096,
        }
    }
}

/// A host's clock: monotonic, but it may stand still and leap.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    /// How far it is ahead.
    ahead: Duration,
    /// What it shows while it stands still, and until when (in the time of the network).
    stalled: Option<(Instant, Instant)>,
}

impl Clock {
    /// What it shows at `now`.
    pub(crate) fn read(&self, now: Instant) -> Instant {
        match self.stalled {
            Some((shows, until)) if now < until => shows,
            _ => now + self.ahead,
        }
    }

    /// When it will show `at` or more.
    pub(crate) fn when(&self, at: Instant) -> Instant {
        let ahead = self.ahead.as_nanos() as u64;
        let plain = Instant::from_nanos(at.as_nanos().saturating_sub(ahead));
        match self.stalled {
            Some((shows, until)) if at > shows => plain.max(until),
            _ => plain,
        }
    }

    pub(crate) fn leap(&mut self, by: Duration) {
        self.ahead += by;
    }

    pub(crate) fn stall(&mut self, now: Instant, lasts: Duration) {
        self.stalled = Some((self.read(now), now + lasts));
    }
}

pub(crate) struct Player {
    pub(crate) actor: Box<dyn Actor>,
    pub(crate) rng: Rng,
    pub(crate) wake_at: Option<Instant>,
}

pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) stack: Stack,
    pub(crate) pool: FramePool,
    pub(crate) players: Vec<Player>,
    pub(crate) clock: Clock,
    pub(crate) forwarding: bool,
    /// Its attachments by alias, as ports of the network.
    pub(crate) ports: Vec<usize>,
    /// Frames that somebody else holds.
    pub(crate) seized: Vec<Frame>,
    /// When it has something to do, in the time of the network.
    pub(crate) next_at: Option<Instant>,
}

impl Host {
    /// Recomputes `next_at`.
    pub(crate) fn plan(&mut self) {
        let wakes = self.players.iter().filter_map(|p| p.wake_at).min();
        let next = self.stack.poll_timeout().into_iter().chain(wakes).min();
        self.next_at = next.map(|at| self.clock.when(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(s: u64) -> Instant {
        Instant::from_millis(s * 1000)
    }

    #[test]
    fn a_clock_stands_still_then_leaps_and_never_goes_back() {
        let mut c = Clock::default();
        c.leap(Duration::from_secs(5));
        assert_eq!((c.read(s(1)), c.when(s(8))), (s(6), s(3)));
        c.stall(s(2), Duration::from_secs(10));
        assert_eq!((c.read(s(2)), c.read(s(11)), c.read(s(12))), (s(7), s(7), s(17)));
        // A timer within the pause fires at its end; one already due at once.
        assert_eq!((c.when(s(8)), c.when(s(30)), c.when(s(7))), (s(12), s(25), s(2)));
    }
}
