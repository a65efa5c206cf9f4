//! The queue before a link with a rate: when a frame leaves it, and whether it is marked or
//! dropped on the way.
//!
//! The queue is computed, not kept: with one rate and one order a frame's fate is known when it
//! arrives.

use weft_stack::rng::Rng;
use weft_stack::time::{Duration, Instant};

use crate::fate::chance;

/// What a queue does besides dropping at its tail. Packets that carry ECT are marked where others
/// are dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Discipline {
    /// Nothing.
    #[default]
    Tail,
    /// Marks from so many waiting bytes on, never drops (RFC 8257 section 3.1: a switch for DCTCP).
    Step(usize),
    /// Marks or drops once packets have waited longer than `target` for an `interval` (RFC 8289).
    CoDel {
        /// The delay aimed at, 5 ms on the Internet.
        target: Duration,
        /// A round trip of the path, 100 ms on the Internet.
        interval: Duration,
    },
    /// Marks or drops with a chance that rises from 0 at `min` to `max_p` at `max` waiting bytes
    /// (RFC 2309, on the instantaneous length).
    Red {
        /// Waiting bytes below which nothing happens.
        min: usize,
        /// Waiting bytes from which on everything is marked or dropped.
        max: usize,
        /// The chance just below `max`.
        max_p: f64,
    },
}

/// What becomes of a frame that found room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Pass,
    /// Mark it if it can be, else drop it.
    Congested,
    /// Mark it if it can be.
    Mark,
}

/// The queue's memory.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backlog {
    /// When the last byte of the last frame leaves.
    pub(crate) busy_until: Instant,
    codel: CoDel,
}

#[derive(Clone, Copy, Debug, Default)]
struct CoDel {
    above_since: Option<Instant>,
    dropping: bool,
    next: Instant,
    count: u32,
}

impl CoDel {
    /// RFC 8289 section 5.4, for a packet that has waited for `wait` and leaves at `now`.
    fn signal(
        &mut self,
        now: Instant,
        wait: Duration,
        target: Duration,
        interval: Duration,
    ) -> bool {
        if wait < target {
            (self.above_since, self.dropping) = (None, false);
            return false;
        }
        let since = *self.above_since.get_or_insert(now);
        if !self.dropping {
            if now - since < interval {
                return false;
            }
            self.dropping = true;
            // A new episode soon after the last goes on where that was.
            let recent = self.count > 2 && now - self.next < interval * 8;
            self.count = if recent { self.count - 2 } else { 1 };
        } else if now < self.next {
            return false;
        } else {
            self.count += 1;
        }
        self.next = now + interval.div_f64(f64::from(self.count).sqrt());
        true
    }
}

impl Backlog {
    /// Bytes waiting at `now`.
    pub(crate) fn bytes(&self, now: Instant, rate: u64) -> usize {
        let backlog = self.busy_until.saturating_since(now);
        (backlog.as_nanos() * u128::from(rate) / 8_000_000_000) as usize
    }

    pub(crate) fn signal(
        &mut self,
        kind: &Discipline,
        waiting: usize,
        rng: &mut Rng,
        now: Instant,
    ) -> Signal {
        let congested = match *kind {
            Discipline::Tail => false,
            Discipline::Step(from) => {
                return if waiting > from { Signal::Mark } else { Signal::Pass };
            }
            Discipline::CoDel { target, interval } => {
                let leaves = self.busy_until.max(now);
                self.codel.signal(leaves, leaves - now, target, interval)
            }
            Discipline::Red { min, max, max_p } if waiting < max => {
                let above = waiting.saturating_sub(min) as f64;
                chance(rng, max_p * above / (max - min).max(1) as f64)
            }
            Discipline::Red { .. } => true,
        };
        if congested { Signal::Congested } else { Signal::Pass }
    }

    /// A frame joins the queue; when its last byte leaves.
    pub(crate) fn push(&mut self, now: Instant, rate: u64, bytes: usize) -> Instant {
        let lasts = Duration::from_nanos(bytes as u64 * 8_000_000_000 / rate);
        self.busy_until = self.busy_until.max(now) + lasts;
        self.busy_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Signals among 10 000 packets that arrive `over` times as fast as they leave.
    fn signals(kind: Discipline, over: u64) -> usize {
        let (mut q, mut rng) = (Backlog::default(), Rng::from_u64(1));
        let mut count = 0;
        for i in 0..10_000u64 {
            // 1000 bytes at 8 Mbit/s: a millisecond each.
            let now = Instant::from_micros(i * 1000 / over);
            let waiting = q.bytes(now, 8_000_000);
            match q.signal(&kind, waiting, &mut rng, now) {
                Signal::Pass => drop(q.push(now, 8_000_000, 1000)),
                _ => count += 1,
            }
        }
        count
    }

    #[test]
    fn disciplines_leave_a_link_alone_that_is_not_full() {
        let codel = Discipline::CoDel {
            target: Duration::from_millis(5),
            interval: Duration::from_millis(100),
        };
        let red = Discipline::Red { min: 5_000, max: 20_000, max_p: 0.1 };
        for kind in [Discipline::Tail, Discipline::Step(3_000), codel, red] {
            assert_eq!(signals(kind, 1), 0, "{kind:?}");
        }
    }

    #[test]
    fn disciplines_signal_when_the_queue_stands() {
        let codel = Discipline::CoDel {
            target: Duration::from_millis(5),
            interval: Duration::from_millis(100),
        };
        let red = Discipline::Red { min: 5_000, max: 20_000, max_p: 0.1 };
        assert_eq!(signals(Discipline::Tail, 2), 0);
        assert!(signals(codel, 2) > 20);
        // What is dropped is what arrives too much.
        assert!((4_900..5_100).contains(&signals(red, 2)), "{}", signals(red, 2));
    }
}
