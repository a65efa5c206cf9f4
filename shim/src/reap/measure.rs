//! Round-trip time and loss of every pair, at a low rate, while the context is in use: the next
//! pair is known before it is needed.
//!
//! A measurement is a Probe that changes no state. The `data` of its report, which the RFC leaves
//! to the sender, says so: an octet of ours, the kind, and a number that also tells which of two
//! probes is newer. A peer that is not weft takes a request for a probe in state OPERATIONAL; it
//! is left alone when a few were not answered.

use core::time::Duration;

use weft_stack::time::Instant;

use super::config::ReapConfig;
use super::paths::MISSES_MAX;
use super::{ANSWERS_MAX, Purpose, Reap, Why};
use crate::locator::Pair;
use crate::wire::probe::{Probe, ReapState, Report};

/// First octet of a report's data.
const OURS: u32 = 0x57;
/// A context that is not used is measured ever more seldom, down to this.
const INTERVAL_MAX: Duration = Duration::from_mins(1);
/// An answer may take twice the round-trip time, or between these: until then a request is not lost.
const ANSWER_MIN: Duration = Duration::from_millis(20);
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// Requests to a peer that never answered one.
const TRIALS: u32 = 8;

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Explore,
    Request,
    Answer,
}

impl Mark {
    pub(super) fn data(self, sequence: u16) -> u32 {
        OURS << 24 | (self as u32) << 16 | u32::from(sequence)
    }

    pub(super) fn of(data: u32) -> Option<(Mark, u16)> {
        let mark = match (data >> 16) & 0xff {
            0 => Mark::Explore,
            1 => Mark::Request,
            2 => Mark::Answer,
            _ => return None,
        };
        (data >> 24 == OURS).then_some((mark, data as u16))
    }
}

/// When to measure what.
#[derive(Clone, Debug)]
pub(super) struct Measures {
    next: Option<Instant>,
    path: usize,
    /// Rounds of all pairs since the context was used.
    idle: u32,
    /// Requests that a peer which never answered had.
    trials: u32,
    answers: bool,
}

impl Measures {
    pub(super) fn new(config: &ReapConfig, now: Instant) -> Measures {
        let next = config.measure.map(|_| now);
        Measures { next, path: 0, idle: 0, trials: 0, answers: false }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    fn given_up(&self) -> bool {
        !self.answers && self.trials >= TRIALS
    }

    /// A packet makes it measure more often again.
    pub(super) fn is_slowed(&self) -> bool {
        self.idle > 1
    }

    /// Measures from now on.
    pub(super) fn start(&mut self, config: &ReapConfig, now: Instant) {
        if config.measure.is_some() && !self.given_up() {
            self.next = Some(now);
            self.idle = 0;
        }
    }

    /// The context is in use.
    #[inline]
    pub(super) fn in_use(&mut self, config: &ReapConfig, now: Instant) {
        if self.is_slowed() {
            self.start(config, now);
        }
        self.idle = 0;
    }

    /// The same where nothing [is slowed](Measures::is_slowed).
    #[inline]
    pub(super) fn in_use_at_rest(&mut self) {
        self.idle = 0;
    }
}

impl Reap {
    /// Asks every pair, now.
    pub fn probe_now(&mut self, now: Instant) {
        if self.state != ReapState::Operational {
            return;
        }
        for i in 0..self.paths.all.len() {
            self.request(now, i);
        }
    }

    /// The next pair's turn.
    pub(super) fn measure(&mut self, now: Instant) {
        if self.measures.next.take_if(|at| *at <= now).is_none() || self.measures.given_up() {
            return;
        }
        let Some(interval) = self.config.measure else { return };
        let count = self.paths.all.len();
        if count == 0 {
            return;
        }
        let interval = interval.max(self.current_rtt() * 2);
        let interval =
            (interval * (1 << self.measures.idle.min(16))).min(INTERVAL_MAX.max(interval));
        self.measures.next = Some(now + interval / count as u32);
        let i = self.measures.path % count;
        self.measures.path = (i + 1) % count;
        if self.measures.path == 0 {
            self.measures.idle += 1;
        }
        if self.state == ReapState::Operational {
            self.request(now, i);
            if self.paths.all[i].pair == self.current {
                self.check_current(now);
            }
        }
    }

    fn request(&mut self, now: Instant, i: usize) {
        let answers = self.measures.answers;
        let path = &mut self.paths.all[i];
        if path.gone {
            return;
        }
        // Of one that is asked again before it can have answered, nothing is known.
        let patience = path.rtt.map_or(ANSWER_MIN, |rtt| (rtt * 2).clamp(ANSWER_MIN, ANSWER_MAX));
        let overdue = path.request.take().is_some_and(|(_, at)| now - at >= patience);
        if overdue && answers {
            path.outcome(now, true, &self.config);
        }
        let pair = path.pair;
        self.queue(pair, Purpose::Measure);
    }

    /// The pair in use has stopped answering, though nobody sends by it.
    fn check_current(&mut self, now: Instant) {
        let Some(path) = self.paths.get_mut(self.current) else { return };
        if path.misses >= MISSES_MAX && core::mem::take(&mut path.answered) {
            self.explore(now, Why::Measured, false);
        }
    }

    pub(super) fn measure_sent(&mut self, now: Instant, pair: Pair, nonce: u32) {
        self.measures.trials = self.measures.trials.saturating_add(1);
        if let Some(path) = self.paths.get_mut(pair) {
            path.request = Some((nonce, now));
        }
    }

    /// The peer measures: it gets back what it sent, the way it came.
    pub(super) fn measure_asked(&mut self, pair: Pair, asked: Report) {
        self.measures.answers = true;
        let waiting = self.queue.iter().filter(|(_, p)| matches!(p, Purpose::Answer(_))).count();
        if waiting < ANSWERS_MAX && self.paths.is_usable(pair) {
            self.queue(pair, Purpose::Answer(asked));
        } else {
            self.stats.measures_left_out += 1;
        }
    }

    pub(super) fn measure_answered(&mut self, now: Instant, pair: Pair, probe: &Probe) -> bool {
        self.measures.answers = true;
        let Some(report) = probe.received.first() else { return false };
        let Some(path) = self.paths.get_mut(pair) else { return false };
        let Some((_, at)) = path.request.take_if(|(nonce, _)| *nonce == report.nonce) else {
            return false;
        };
        path.outcome(now, false, &self.config);
        path.measured(now - at);
        self.arrived.push((pair, at));
        if pair == self.current {
            self.set_send_after();
        }
        self.reconsider(now);
        true
    }

    /// Moves to a pair that the policy likes better.
    fn reconsider(&mut self, now: Instant) {
        use super::Policy::{Failover, Prefer, Spread};
        let may = match self.config.policy {
            Failover => false,
            Prefer | Spread => !self.pinned && self.state == ReapState::Operational,
        };
        if !may {
            return;
        }
        if let Some(pair) = self.paths.preferred(now, &self.config, self.current) {
            self.explorer.forget_sent();
            self.use_pair(now, pair, Why::Policy);
        }
    }
}
