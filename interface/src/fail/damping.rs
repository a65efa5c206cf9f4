//! Flap damping: what came back too often in a minute is not used until that is a minute ago.

use std::collections::VecDeque;

use weft_stack::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_mins(1);

/// The last times of something, as many as its limit and one more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recent(VecDeque<Instant>);

impl Recent {
    pub(crate) fn push(&mut self, now: Instant, limit: u8) {
        self.0.push_back(now);
        while self.0.len() > usize::from(limit) + 1 {
            self.0.pop_front();
        }
    }

    /// Until when there are more than `limit` within a minute; `more` to come are counted.
    pub(crate) fn too_many_until(&self, limit: u8, more: usize) -> Option<Instant> {
        let first = (self.0.len() + more).checked_sub(usize::from(limit) + 1)?;
        self.0.get(first).map(|at| *at + WINDOW)
    }
}
