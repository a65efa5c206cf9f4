//! The course of one exploration: which pairs were probed, which of these the peer has reported,
//! what the peer's probes were, and when the next round is.

use std::collections::VecDeque;

use core::time::Duration;

use weft_stack::rng::Rng;
use weft_stack::time::Instant;

use super::Why;
use super::config::ReapConfig;
use super::paths::Paths;
use crate::locator::Pair;
use crate::wire::probe::{REPORTS_MAX, Report, Reports};

/// Probes remembered, to know what the peer reports.
const SENT_MAX: usize = 64;
/// Earlier probes that a probe tells again.
const RETOLD_MAX: usize = 5;
/// Probes of the peer that a probe reports.
const REPORTED_MAX: usize = 10;

#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) pair: Pair,
    pub(super) report: Report,
    pub(super) at: Instant,
    /// The peer has reported it.
    pub(super) confirmed: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Explorer {
    /// What it began with.
    pub(super) why: Why,
    /// The pair in use cannot be the one that is found.
    pub(super) hard: bool,
    pub(super) started: Instant,
    /// Oldest first.
    sent: VecDeque<Sent>,
    /// Newest first; since the peer was last not heard.
    received: VecDeque<Report>,
    order: Vec<Pair>,
    next: usize,
    rounds: u32,
    /// Between the last round and the next.
    pub(super) interval: Duration,
    /// The next round.
    pub(super) timer: Option<Instant>,
    /// The next part of the first round.
    pub(super) stagger: Option<Instant>,
    /// The pair in use was probed a second time.
    pub(super) again: bool,
    /// Every pair was tried, and that was told.
    pub(super) told: bool,
}

impl Explorer {
    pub(super) fn new(now: Instant) -> Explorer {
        Explorer {
            why: Why::SendTimeout,
            hard: false,
            started: now,
            sent: VecDeque::new(),
            received: VecDeque::new(),
            order: Vec::new(),
            next: 0,
            rounds: 0,
            interval: Duration::ZERO,
            timer: None,
            stagger: None,
            again: false,
            told: false,
        }
    }

    /// A new exploration; nothing of the last one counts.
    pub(super) fn begin(&mut self, now: Instant, why: Why, hard: bool) {
        let (mut sent, mut received) =
            (core::mem::take(&mut self.sent), core::mem::take(&mut self.received));
        sent.clear();
        received.clear();
        *self = Explorer { why, hard, started: now, sent, received, ..Explorer::new(now) };
    }

    /// It is over; what was sent may still be reported.
    pub(super) fn end(&mut self) {
        self.timer = None;
        self.stagger = None;
    }

    /// The order in which pairs are tried: those that work as far as is known, by cost, those that
    /// differ in both ends from the one that failed, chance; the one that failed comes last
    /// (RFC 5534 4.3).
    pub(super) fn set_order(
        &mut self,
        now: Instant,
        paths: &Paths,
        config: &ReapConfig,
        failed: Pair,
        rng: &mut Rng,
    ) {
        let mut ranked: Vec<_> = paths
            .all
            .iter()
            .map(|p| {
                let shares = p.pair.local == failed.local || p.pair.remote == failed.remote;
                let suppressed = p.is_suppressed(now, config.damping);
                let asleep = !p.is_alive(now, config);
                let doubts = (p.pair == failed, p.broken, suppressed, asleep);
                ((doubts, p.cost, shares, rng.next_u32()), p.pair)
            })
            .collect();
        ranked.sort_unstable();
        self.order = ranked.into_iter().map(|(_, pair)| pair).collect();
        self.next = 0;
    }

    /// The next pair in order, round and round, that `wanted` takes.
    pub(super) fn next_pair(&mut self, wanted: impl Fn(Pair) -> bool) -> Option<Pair> {
        for _ in 0..self.order.len() {
            let pair = self.order[self.next % self.order.len()];
            self.next = (self.next + 1) % self.order.len();
            if wanted(pair) {
                return Some(pair);
            }
        }
        None
    }

    pub(super) fn order_len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn rounds(&self) -> u32 {
        self.rounds
    }

    /// One more round: `Initial Probe Timeout` apart at first, then ever longer (RFC 5534 7).
    pub(super) fn next_round(
        &mut self,
        now: Instant,
        config: &ReapConfig,
        rtt: Duration,
        rng: &mut Rng,
    ) {
        self.rounds = self.rounds.saturating_add(1);
        let mut interval = config.initial_probe_timeout;
        if config.adaptive {
            interval = interval.max(rtt + rtt / 2);
        }
        let doublings = (self.rounds + 1).saturating_sub(config.initial_probes.max(1)).min(20);
        let interval = (interval * (1 << doublings)).min(config.max_probe_timeout);
        self.interval = interval;
        let spread = interval * u32::from(config.jitter_percent) / 100;
        let jitter = Duration::from_nanos(rng.below(2 * spread.as_nanos() as u64 + 1));
        self.timer = Some(now + interval.saturating_sub(spread) + jitter);
    }

    /// Begins again with short intervals.
    pub(super) fn restart_backoff(&mut self) {
        self.rounds = 0;
    }

    /// Reports of what was sent so far count no longer.
    pub(super) fn forget_sent(&mut self) {
        self.sent.clear();
    }

    pub(super) fn forget_received(&mut self) {
        self.received.clear();
    }

    pub(super) fn add_received(&mut self, report: Report) {
        self.received.retain(|r| r.nonce != report.nonce);
        self.received.truncate(REPORTS_MAX - 1);
        self.received.push_front(report);
    }

    /// The same for a probe that came after a newer one: its state is history, but that its pair
    /// works is not. Otherwise a pair slower than others would never be found. The newest stays
    /// first, for that one alone tells a round trip.
    pub(super) fn add_overtaken(&mut self, report: Report) {
        self.received.retain(|r| r.nonce != report.nonce);
        self.received.truncate(REPORTS_MAX - 1);
        self.received.insert(self.received.len().min(1), report);
    }

    pub(super) fn reported(&self) -> Reports {
        self.received.iter().take(REPORTED_MAX).copied().collect()
    }

    pub(super) fn add_sent(&mut self, sent: Sent) {
        if self.sent.len() == SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back(sent);
    }

    /// The newest probe and earlier ones to the same locator that the peer has not reported. What went
    /// to others shows, when it is reported, that the peer is there: so only there it is told.
    pub(super) fn retold(&self) -> Reports {
        let Some(newest) = self.sent.back() else { return Reports::new() };
        let earlier = self.sent.iter().rev().skip(1).filter(|s| !s.confirmed);
        let there = earlier.filter(|s| s.pair.remote == newest.pair.remote).take(RETOLD_MAX);
        core::iter::once(newest).chain(there).map(|s| s.report).collect()
    }

    /// The probe that a report of the peer means, if it was ours.
    pub(super) fn find_sent(&mut self, report: &Report) -> Option<&mut Sent> {
        self.sent.iter_mut().find(|s| {
            let r = &s.report;
            (r.nonce, r.src, r.dst) == (report.nonce, report.src, report.dst)
        })
    }

    pub(super) fn is_tried(&self, pair: Pair) -> bool {
        self.sent.iter().any(|s| s.pair == pair)
    }

    /// A probe went by the pair not longer ago than `since`.
    pub(super) fn is_just_tried(&self, pair: Pair, since: Instant) -> bool {
        self.sent.iter().any(|s| s.pair == pair && s.at >= since)
    }

    pub(super) fn is_confirmed(&self, pair: Pair) -> bool {
        self.sent.iter().any(|s| s.pair == pair && s.confirmed)
    }

    /// Probes by the pair that the peer has not reported in so long a time.
    pub(super) fn unanswered(&self, pair: Pair, now: Instant, patience: Duration) -> usize {
        let by_it = self.sent.iter().filter(|s| s.pair == pair && !s.confirmed);
        by_it.filter(|s| now - s.at >= patience).count()
    }

    /// When the `nth` of them was sent, counted from 1.
    pub(super) fn nth_unanswered(&self, pair: Pair, nth: usize) -> Option<Instant> {
        let by_it = self.sent.iter().filter(|s| s.pair == pair && !s.confirmed);
        by_it.map(|s| s.at).nth(nth.checked_sub(1)?)
    }

    pub(super) fn last_sent(&self) -> Option<Pair> {
        self.sent.back().map(|s| s.pair)
    }

    /// Pairs that the peer has received a probe by, in the order of sending.
    pub(super) fn confirmed(&self) -> impl Iterator<Item = Pair> {
        self.sent.iter().filter(|s| s.confirmed).map(|s| s.pair)
    }
}
