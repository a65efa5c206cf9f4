//! What a worker's turns were made for: counts and times, with one reading of the clock per turn.

use weft_stack::time::{Duration, Instant};

/// What the time since the last turn began counts as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Spent {
    /// Asleep, or nobody polls.
    #[default]
    Idle,
    /// In turns that found nothing.
    Polling,
    /// In turns that did something.
    Working,
}

/// Counters of one worker since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// Rounds of receive, timers and transmit, whoever made them.
    pub(crate) turns: u64,
    /// Of these, with something to do.
    pub(crate) turns_working: u64,
    /// Of these, made by application threads that waited.
    pub(crate) turns_of_waiters: u64,
    /// Sleeps for devices and deadlines.
    pub(crate) sleeps: u64,
    /// Of these, ended by a device, a link or another thread; the rest by a deadline.
    pub(crate) wakeups: u64,
    /// Frames received.
    pub(crate) frames_received: u64,
    /// Calls of applications on sockets.
    pub(crate) calls: u64,
    /// Times that an application thread took over the polling.
    pub(crate) seats_taken: u64,
    /// Time asleep, or with nobody polling.
    pub(crate) idle: Duration,
    /// Time in turns that found nothing.
    pub(crate) polling: Duration,
    /// Time in turns that found something, and in callbacks of services.
    pub(crate) working: Duration,
    /// System calls of devices, and messages to other workers, before counting began.
    pub(crate) before: (u64, u64),
    last: Instant,
    spent: Spent,
}

impl Account {
    /// A turn begins; what passed since the last one is booked. Returns whether nobody polled.
    pub(crate) fn begin(&mut self, now: Instant, waiter: bool) -> bool {
        self.book(now);
        self.turns += 1;
        self.turns_of_waiters += u64::from(waiter);
        self.spent == Spent::Idle
    }

    fn book(&mut self, now: Instant) {
        let passed = now.saturating_since(self.last);
        self.last = now;
        match self.spent {
            Spent::Idle => self.idle += passed,
            Spent::Polling => self.polling += passed,
            Spent::Working => self.working += passed,
        }
    }

    /// As it is, with the time until now.
    pub(crate) fn at(mut self, now: Instant) -> Account {
        self.book(now);
        self
    }

    /// Counts anew.
    pub(crate) fn clear(&mut self, now: Instant, before: (u64, u64)) {
        *self = Account { last: now, spent: self.spent, before, ..Account::default() };
    }

    /// It ended.
    pub(crate) fn end(&mut self, worked: bool) {
        self.turns_working += u64::from(worked);
        self.spent = if worked { Spent::Working } else { Spent::Polling };
    }

    /// From now on nobody polls.
    pub(crate) fn rest(&mut self) {
        self.spent = Spent::Idle;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_microsecond_is_booked_once() {
        let us = Duration::from_micros;
        let at = |n| Instant::from_nanos(0) + us(n);
        let mut a = Account::default();
        a.begin(at(10), false);
        a.end(true);
        a.begin(at(13), true);
        a.end(false);
        a.begin(at(14), true);
        a.end(false);
        a.rest();
        a.begin(at(100), false);
        a.end(true);
        assert_eq!((a.idle, a.polling, a.working), (us(10 + 86), us(1), us(3)));
        assert_eq!((a.turns, a.turns_working, a.turns_of_waiters), (4, 2, 2));
    }
}
