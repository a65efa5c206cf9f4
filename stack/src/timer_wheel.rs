//! Deadlines of one stack.

use std::collections::BTreeMap;

use crate::time::Instant;

/// Names a scheduled timer until it fires or is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimerHandle {
    at: Instant,
    serial: u64,
}

/// Timers with a key of type `T`.
#[derive(Debug)]
pub struct TimerWheel<T> {
    entries: BTreeMap<TimerHandle, T>,
    serial: u64,
}

impl<T> Default for TimerWheel<T> {
    fn default() -> Self {
        TimerWheel { entries: BTreeMap::new(), serial: 0 }
    }
}

impl<T> TimerWheel<T> {
    /// Adds a timer that fires at or shortly after `at`, never before.
    pub fn schedule(&mut self, at: Instant, key: T) -> TimerHandle {
        self.serial += 1;
        let handle = TimerHandle { at, serial: self.serial };
        self.entries.insert(handle, key);
        handle
    }

    /// Removes a timer; `None` if it fired already.
    pub fn cancel(&mut self, handle: TimerHandle) -> Option<T> {
        self.entries.remove(&handle)
    }

    /// The next expired timer, removed.
    pub fn pop_expired(&mut self, now: Instant) -> Option<T> {
        let (handle, _) = self.entries.first_key_value()?;
        if handle.at > now {
            return None;
        }
        self.entries.pop_first().map(|(_, key)| key)
    }

    /// When to call [`TimerWheel::pop_expired`] next; may be earlier than the first deadline, never
    /// later.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.entries.first_key_value().map(|(h, _)| h.at)
    }

    /// Timers scheduled.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is scheduled.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
