//! What uses the sockets of a simulated host.

use weft_stack::Stack;
use weft_stack::rng::Rng;
use weft_stack::socket::Event;
use weft_stack::time::Instant;

/// What an actor may touch while it runs.
pub struct Io<'a> {
    /// The host's stack.
    pub stack: &'a mut Stack,
    /// Virtual time.
    pub now: Instant,
    /// The actor's share of the run's randomness.
    pub rng: &'a mut Rng,
    /// When the actor wants to run without an event; the earliest wins.
    pub wake_at: &'a mut Option<Instant>,
}

impl Io<'_> {
    /// Asks to be run at `at`.
    pub fn wake_at(&mut self, at: Instant) {
        *self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }
}

impl std::fmt::Debug for Io<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Io").field("now", &self.now).finish_non_exhaustive()
    }
}

/// An application on a simulated host.
pub trait Actor {
    /// Runs: at the start (`None`), for every event of the host's stack (of other actors' sockets
    /// too), and when a time asked for with [`Io::wake_at`] has come (`None`).
    fn run(&mut self, io: &mut Io<'_>, event: Option<&Event>);

    /// Whether it has nothing more to do.
    fn done(&self) -> bool;

    /// How far it has come, in bytes or whatever it counts; never goes back.
    fn progress(&self) -> u64 {
        0
    }

    /// What it found wrong so far, if it is done or not.
    fn problem(&self) -> Option<String> {
        None
    }

    /// What is wrong at the end of a run: a problem, or that it is not done.
    fn verdict(&self) -> Result<(), String> {
        self.problem().map_or(Ok(()), Err)
    }
}
