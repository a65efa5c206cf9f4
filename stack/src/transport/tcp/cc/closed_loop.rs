//! One sender, one bottleneck: a small model of a path in virtual time, in which controllers
//! are tested without the rest of TCP. Segments are never reordered; each is acknowledged by
//! itself, selectively; what is judged lost is sent again as new.

use std::collections::VecDeque;

use core::time::Duration;

use crate::rng::Rng;
use crate::seq::SeqNum;
use crate::time::Instant;

use super::{Acked, Cause, Congestion, Controller, Lost, Rate};

pub(super) const MSS: usize = 1448;

/// The path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    /// Bytes per second.
    pub(super) rate: u64,
    pub(super) rtt: Duration,
    pub(super) queue_bytes: u64,
    /// Chance that a segment is lost.
    pub(super) loss: f64,
    /// Bytes waiting from which segments are marked.
    pub(super) mark_bytes: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    seq: u64,
    sent_at: Instant,
    first_sent_at: Instant,
    delivered: u64,
    delivered_at: Instant,
    flight: usize,
    lost_before: u64,
    ce_before: u64,
    marked: bool,
    app_limited: bool,
    /// `None`: lost on the way.
    acked_at: Option<Instant>,
}

/// A sender with the controller `cc`.
pub(super) struct Loop<C> {
    pub(super) cc: C,
    pub(super) path: Path,
    pub(super) now: Instant,
    rng: Rng,
    flight: VecDeque<Segment>,
    pub(super) delivered: u64,
    delivered_at: Instant,
    first_sent_at: Instant,
    pub(super) lost: u64,
    ce: u64,
    snd_nxt: u64,
    recover: Option<u64>,
    send_at: Instant,
    busy_until: Instant,
    limited_until: u64,
    srtt: Option<Duration>,
    /// The application writes at this rate; `None`: always more.
    pub(super) app_rate: Option<u64>,
    /// Nothing is written before this.
    pub(super) silent_until: Instant,
    pub(super) queue_max: u64,
    pub(super) timeouts: u32,
    /// Sum of the waiting bytes each segment met, and their number.
    queue_sum: (u64, u64),
}

impl<C: Controller> Loop<C> {
    pub(super) fn new(cc: C, path: Path, seed: u64) -> Loop<C> {
        let start = Instant::from_millis(1000);
        Loop {
            cc,
            path,
            now: start,
            rng: Rng::from_u64(seed),
            flight: VecDeque::new(),
            delivered: 0,
            delivered_at: start,
            first_sent_at: start,
            lost: 0,
            ce: 0,
            snd_nxt: 0,
            recover: None,
            send_at: start,
            busy_until: start,
            limited_until: 0,
            srtt: None,
            app_rate: None,
            silent_until: start,
            queue_max: 0,
            timeouts: 0,
            queue_sum: (0, 0),
        }
    }

    fn inflight(&self) -> usize {
        self.flight.len() * MSS
    }

    /// Runs for a while; bytes delivered per second.
    pub(super) fn run(&mut self, time: Duration) -> f64 {
        let (until, before) = (self.now + time, self.delivered);
        self.queue_max = 0;
        self.queue_sum = (0, 0);
        while self.step(until) {}
        self.now = until;
        (self.delivered - before) as f64 / time.as_secs_f64()
    }

    /// Mean bytes in the queue during the last run.
    pub(super) fn queue_mean(&self) -> u64 {
        self.queue_sum.0 / self.queue_sum.1.max(1)
    }

    /// The next thing that happens, by `until`; `false`: nothing does.
    pub(super) fn step(&mut self, until: Instant) -> bool {
        let ack = self.flight.iter().find_map(|s| s.acked_at);
        let window = self.cc.cwnd() >= self.inflight() + MSS;
        if !window {
            self.limited_until = self.snd_nxt;
        }
        let may_send = window.then(|| self.send_at.max(self.silent_until).max(self.now));
        let next = ack.into_iter().chain(may_send).min();
        let Some(at) = next else {
            return self.time_out(until);
        };
        if at > until {
            return false;
        }
        self.now = self.now.max(at);
        if may_send == Some(at) && ack.is_none_or(|a| at < a) {
            self.send();
        } else {
            self.acknowledge();
        }
        true
    }

    fn time_out(&mut self, until: Instant) -> bool {
        let at = self.now + self.srtt.unwrap_or(Duration::from_secs(1)) * 2;
        if at > until {
            return false;
        }
        self.now = at;
        self.timeouts += 1;
        let flight = self.inflight();
        self.lost += flight as u64;
        self.flight.clear();
        self.recover = None;
        self.cc.on_timeout(self.now, flight, true);
        true
    }

    fn send(&mut self) {
        let flight = self.inflight();
        let app_limited = self.app_rate.is_some() || self.silent_until >= self.now;
        self.cc.on_send(self.now, flight, app_limited);
        if flight == 0 {
            (self.first_sent_at, self.delivered_at) = (self.now, self.now);
        }
        let waiting = self.busy_until.saturating_since(self.now);
        let waiting = (waiting.as_nanos() * u128::from(self.path.rate) / 1_000_000_000) as u64;
        self.queue_max = self.queue_max.max(waiting);
        self.queue_sum = (self.queue_sum.0 + waiting, self.queue_sum.1 + 1);
        let by_chance = (self.rng.below(1 << 32) as f64) < self.path.loss * 4_294_967_296.0;
        let full = waiting + MSS as u64 > self.path.queue_bytes;
        let mut acked_at = None;
        if !full {
            let bits = Duration::from_nanos(MSS as u64 * 1_000_000_000 / self.path.rate);
            self.busy_until = self.busy_until.max(self.now) + bits;
            acked_at = (!by_chance).then_some(self.busy_until + self.path.rtt);
        }
        self.flight.push_back(Segment {
            seq: self.snd_nxt,
            sent_at: self.now,
            first_sent_at: self.first_sent_at,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            flight: flight + MSS,
            lost_before: self.lost,
            ce_before: self.ce,
            marked: self.path.mark_bytes.is_some_and(|from| waiting > from),
            app_limited,
            acked_at,
        });
        self.snd_nxt += MSS as u64;
        let pace = self.cc.pacing_rate().unwrap_or_else(|| {
            let gain = if self.cc.cwnd() < self.cc.ssthresh() { 2.0 } else { 1.2 };
            self.srtt.map_or(u64::MAX, |s| (self.cc.cwnd() as f64 * gain / s.as_secs_f64()) as u64)
        });
        let pace = self.app_rate.map_or(pace, |rate| pace.min(rate)).max(1);
        let gap = Duration::from_nanos(MSS as u64 * 1_000_000_000 / pace);
        self.send_at = self.send_at.max(self.now) + gap;
    }

    fn acknowledge(&mut self) {
        let Some(index) = self.flight.iter().position(|s| s.acked_at.is_some()) else { return };
        let flight_before = self.inflight();
        let Some(s) = self.flight.remove(index) else { return };
        self.delivered += MSS as u64;
        self.delivered_at = self.now;
        self.first_sent_at = s.sent_at;
        let ce = if s.marked { MSS } else { 0 };
        self.ce += ce as u64;
        let interval = (s.sent_at - s.first_sent_at).max(self.now - s.delivered_at);
        let newly_lost = self.detect_loss(s.seq, flight_before);
        let rtt = self.now - s.sent_at;
        self.srtt = Some(self.srtt.map_or(rtt, |srtt| (srtt * 7 + rtt) / 8));
        let delivered = self.delivered - s.delivered;
        let rate = (!interval.is_zero()).then(|| Rate {
            bytes_per_s: (u128::from(delivered) * 1_000_000_000 / interval.as_nanos()) as u64,
            prior_delivered: s.delivered,
            flight_at_send: s.flight,
            lost: self.lost - s.lost_before,
            ce: self.ce - s.ce_before,
            delivered,
            app_limited: s.app_limited,
        });
        let una = self.flight.front().map_or(self.snd_nxt, |f| f.seq);
        let recovering = self.recover.is_some();
        if self.recover.is_some_and(|end| una >= end) {
            self.recover = None;
            self.cc.on_recovered(self.now);
        }
        self.cc.on_ack(&Acked {
            now: self.now,
            bytes: MSS,
            lost: newly_lost,
            ce,
            flight_before,
            flight: self.inflight(),
            delivered: self.delivered,
            snd_una: SeqNum(una as u32),
            snd_nxt: SeqNum(self.snd_nxt as u32),
            rtt: Some(rtt),
            srtt: self.srtt,
            rate,
            window_limited: una <= self.limited_until,
            advanced: true,
            recovering,
            sack: true,
            paced: true,
        });
    }

    /// What left three segments before `seq` is lost.
    fn detect_loss(&mut self, seq: u64, flight: usize) -> usize {
        let mut newly = 0;
        let proved = |f: &Segment| f.seq + 3 * MSS as u64 <= seq;
        while let Some(f) = self.flight.front().copied().filter(proved) {
            self.flight.pop_front();
            self.lost += MSS as u64;
            newly += MSS;
            self.cc.on_lost(&Lost {
                seq: SeqNum(f.seq as u32),
                bytes: MSS,
                flight_at_send: f.flight,
                lost: self.lost - f.lost_before,
                delivered: self.delivered,
                app_limited: f.app_limited,
            });
        }
        if newly > 0 && self.recover.is_none() {
            let (now, snd_nxt) = (self.now, SeqNum(self.snd_nxt as u32));
            self.recover = Some(self.snd_nxt);
            self.cc.on_congestion(&Congestion { now, cause: Cause::Loss, flight, snd_nxt });
        }
        newly
    }
}
