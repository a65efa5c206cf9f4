//! REAP: whether the pair in use works, and which one does if it does not (RFC 5534).
//!
//! One [`Reap`] per context. It sees that packets pass, not what they are; what it wants sent comes
//! out of [`Reap::poll_transmit`] and gets its tag and header from the context. After every call
//! the caller takes what there is to transmit and the events, and asks for the next timeout.
//!
//! Invariants: a pair is used only after the peer reported a probe sent by it in this exploration,
//! or answered a measurement by it just before, or the operator named it. A peer's report counts
//! only with the nonce and pair of a probe of ours. Probes never exceed the budget.

mod budget;
mod config;
mod detector;
mod explorer;
mod hints;
mod machine;
mod measure;
mod paths;
mod report;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use core::net::IpAddr;
use core::time::Duration;

use serde::Serialize;
use smallvec::SmallVec;
use weft_stack::rng::{Key, Rng};
use weft_stack::time::Instant;

pub use config::{Budget, Damping, Policy, ReapConfig};
pub use paths::PATHS_MAX;
pub use report::{PathReport, ReapReport, ReapStats, SwitchReport};

use crate::locator::{Locator, Pair};
use crate::wire::probe::{Probe, ReapState, Report, Reports};
use budget::Bucket;
use detector::{Detector, nanos};
use explorer::{Explorer, Sent};
use measure::{Mark, Measures};
use paths::Paths;

/// Events that wait to be taken; the oldest go first.
const EVENTS_MAX: usize = 16;
/// Answers to measurements that wait to be sent.
const ANSWERS_MAX: usize = 8;

/// What others see of the paths. Locally known facts count; what can be forged only starts a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// An address of this host, or a locator of the peer, is no more.
    LocatorGone(IpAddr),
    /// It is there again, or its link is up.
    LocatorBack(IpAddr),
    /// The link of an address of this host is down.
    LinkDown(IpAddr),
    /// An ICMP error came for a packet sent by this pair.
    Icmp(Pair),
    /// A transport waits for an acknowledgement longer than it should.
    NoProgress,
    /// A transport's data is acknowledged.
    Progress,
}

/// Why an exploration began, or a pair was left for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// No return traffic within the send timeout.
    SendTimeout,
    /// The peer explores: it does not hear this host.
    Peer,
    /// A locator of the pair is no more.
    LocatorGone,
    /// The link of the pair's local address is down.
    LinkDown,
    /// The peer says that its locator of the pair does not work (BROKEN, RFC 5533 5.15.3).
    Broken,
    /// An ICMP error.
    Icmp,
    /// A transport does not get on.
    NoProgress,
    /// The pair in use no longer answers measurements.
    Measured,
    /// Another pair is better by the policy.
    Policy,
    /// The operator's word.
    Manual,
}

/// What happened, for the context and those above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReapEvent {
    /// Packets go by another pair from now on; transports send again at once.
    Switched {
        /// The pair left.
        from: Pair,
        /// The pair used now.
        to: Pair,
        /// Its round-trip time, if it was measured.
        rtt: Option<Duration>,
        /// Why.
        why: Why,
    },
    /// It is not certain that the pair in use works.
    Exploring,
    /// Both directions work.
    Operational,
    /// Every pair was probed and none works. Probing goes on, ever more slowly.
    NoPath,
}

/// A message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// A Probe message.
    Probe(Probe),
    /// A Keepalive message.
    Keepalive,
}

/// Why a pair cannot be switched to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwitchError {
    /// The context has no such pair.
    NotAPair,
    /// An end of it is gone or its link is down.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// The protocol wants it; it waits for budget.
    Explore,
    /// A measurement, or the answer to one; left out if there is no budget.
    Measure,
    Answer(Report),
}

/// Reachability of one context.
#[derive(Clone, Debug)]
pub struct Reap {
    config: ReapConfig,
    rng: Rng,
    state: ReapState,
    current: Pair,
    /// The operator's choice: the policy leaves it alone.
    pinned: bool,
    detector: Detector,
    /// The send timeout as it is now, in nanoseconds: added for packets.
    send_after_ns: u64,
    /// Explorations that found nothing wrong, less those forgiven.
    false_alarms: u32,
    alarmed_at: Instant,
    /// Hints that prove nothing are not listened to before.
    hints_after: Instant,
    paths: Paths,
    explorer: Explorer,
    measures: Measures,
    bucket: Bucket,
    queue: VecDeque<(Pair, Purpose)>,
    events: VecDeque<ReapEvent>,
    sequence: u16,
    peer_sequence: Option<(u16, Instant)>,
    /// Probes of ours that the last probe of the peer was the first to report, and when they left.
    arrived: SmallVec<[(Pair, Instant); 2]>,
    last_switch: Option<(Instant, Pair, Pair, Why)>,
    stats: ReapStats,
}

impl Reap {
    /// Of a context just established over `current`.
    pub fn new(config: &ReapConfig, seed: [u8; 16], now: Instant, current: Pair) -> Reap {
        let mut rng = Rng::new(seed);
        let salt = Key::generate(&mut rng);
        Reap {
            config: *config,
            state: ReapState::Operational,
            current,
            pinned: false,
            detector: Detector::new(config.keepalive_timeout, &mut rng),
            send_after_ns: nanos(config.send_timeout),
            false_alarms: 0,
            alarmed_at: now,
            hints_after: now,
            paths: Paths::new(salt),
            explorer: Explorer::new(now),
            measures: Measures::new(config, now),
            bucket: Bucket::new(config.budget, now),
            queue: VecDeque::new(),
            events: VecDeque::new(),
            sequence: rng.next_u32() as u16,
            peer_sequence: None,
            arrived: SmallVec::new(),
            last_switch: None,
            stats: ReapStats::default(),
            rng,
        }
    }

    /// The pair that packets go by.
    pub fn current(&self) -> Pair {
        self.current
    }

    /// Where the state machine stands.
    pub fn state(&self) -> ReapState {
        self.state
    }

    /// What the peer says its send timeout is: so long it gets keepalives (RFC 5534 5.3).
    pub fn set_peer_timeout(&mut self, timeout: Duration) {
        self.detector.set_keepalive_timeout(timeout, &mut self.rng);
    }

    /// The constants it goes by.
    pub(crate) fn config(&self) -> &ReapConfig {
        &self.config
    }

    /// How long return traffic may be away from the next packet on, without what round trips and
    /// false alarms add.
    pub(crate) fn set_send_timeout(&mut self, timeout: Duration) {
        self.config.send_timeout = timeout;
        self.set_send_after();
    }

    /// Which of several working pairs is used from now on.
    pub fn set_policy(&mut self, policy: Policy) {
        self.config.policy = policy;
    }

    /// The locators of both hosts. If the pair in use is not among their pairs any longer, or the
    /// peer says from now on that it does not work, another one is looked for.
    pub fn set_paths(&mut self, now: Instant, local: &[Locator], peer: &[Locator]) {
        let known = self.paths.is_disowned(self.current);
        self.paths.set(local, peer, self.current);
        let paths = &self.paths;
        self.queue.retain(|(pair, _)| paths.get(*pair).is_some());
        self.measures.start(&self.config, now);
        if self.state != ReapState::Operational {
            self.order(now);
            self.explorer.restart_backoff();
            self.round(now);
        } else if !self.paths.is_usable(self.current) {
            self.leave(now, Why::LocatorGone);
        } else if !known && self.paths.is_disowned(self.current) {
            self.disowned(now);
        }
    }

    /// A packet of the context was sent by the pair in use: neither a Probe nor a Keepalive
    /// (RFC 5534 6.2).
    #[inline]
    pub fn payload_sent(&mut self, now: Instant) {
        match self.state {
            ReapState::Operational => {
                self.detector.stop_keepalive();
                self.detector.start_send(now, self.send_after_ns);
            }
            ReapState::Exploring => {}
            ReapState::InboundOk => self.detector.start_send(now, nanos(self.inbound_timeout())),
        }
        self.measures.in_use(&self.config, now);
    }

    /// A packet of the context was received: neither a Probe nor a Keepalive (RFC 5534 6.1).
    #[inline]
    pub fn payload_received(&mut self, now: Instant, pair: Pair) {
        match self.state {
            ReapState::Operational => {
                self.detector.stop_send();
                self.detector.start_keepalive(now);
            }
            ReapState::Exploring => self.heard(now, pair),
            ReapState::InboundOk => self.detector.stop_send(),
        }
    }

    /// [`Reap::payload_sent`] of one that [`Reap::lead`] says is at rest.
    #[inline]
    pub(crate) fn sent_at_rest(&mut self, now: Instant) {
        debug_assert!(self.is_at_rest(), "whoever changes that says so");
        self.detector.stop_keepalive();
        self.detector.start_send(now, self.send_after_ns);
        self.measures.in_use_at_rest();
    }

    /// [`Reap::payload_received`] of the same.
    #[inline]
    pub(crate) fn received_at_rest(&mut self, now: Instant) {
        debug_assert!(self.is_at_rest(), "whoever changes that says so");
        self.detector.stop_send();
        self.detector.start_keepalive(now);
    }

    /// Packets do no more than set timers going.
    fn is_at_rest(&self) -> bool {
        self.state == ReapState::Operational && !self.measures.is_slowed()
    }

    fn send_after(&self) -> Duration {
        Duration::from_nanos(self.send_after_ns)
    }

    /// How many nanoseconds after a packet [`Reap::handle_timeout`] is wanted for it at the soonest, and when it
    /// is wanted for measurements; `None`: packets do more than set timers going. Packets change
    /// neither.
    pub(crate) fn lead(&self) -> Option<(u64, Option<Instant>)> {
        let lead = self.send_after_ns.min(self.detector.interval_ns());
        self.is_at_rest().then_some((lead, self.measures.next()))
    }

    /// A Keepalive was received (RFC 5534 6.6).
    pub fn keepalive_received(&mut self, now: Instant, pair: Pair) {
        self.stats.keepalives_received += 1;
        match self.state {
            ReapState::Exploring => self.heard(now, pair),
            ReapState::Operational | ReapState::InboundOk => self.detector.stop_send(),
        }
    }

    /// A Probe was received by `pair` (RFC 5534 6.7 to 6.9). True if it reports a probe of ours:
    /// the peer then is reachable where that probe went, which no one off the path can pretend.
    pub fn probe_received(&mut self, now: Instant, pair: Pair, probe: &Probe) -> bool {
        self.stats.probes_received += 1;
        self.arrived.clear();
        let Some(first) = probe.sent.first() else { return false };
        match Mark::of(first.data) {
            Some((Mark::Request, _)) => {
                self.measure_asked(pair, *first);
                false
            }
            Some((Mark::Answer, _)) => self.measure_answered(now, pair, probe),
            Some((Mark::Explore, sequence)) if self.is_old(now, sequence) => {
                self.stats.probes_old += 1;
                self.explorer.add_overtaken(*first);
                false
            }
            _ => self.explored(now, pair, probe),
        }
    }

    /// Which probes of ours the one received last was the first to report, and when they left: what is
    /// reported again may be a recording.
    pub(crate) fn just_arrived(&self) -> &[(Pair, Instant)] {
        &self.arrived
    }

    /// Uses `pair` from now on, until it fails.
    pub fn switch(&mut self, now: Instant, pair: Pair) -> Result<(), SwitchError> {
        match self.paths.get(pair) {
            None => return Err(SwitchError::NotAPair),
            Some(path) if path.gone => return Err(SwitchError::Gone),
            Some(_) => {}
        }
        self.use_pair(now, pair, Why::Manual);
        self.pinned = true;
        if self.state == ReapState::Operational {
            self.explore(now, Why::Manual, false);
        } else {
            self.explorer.forget_sent();
            self.queue(pair, Purpose::Explore);
        }
        Ok(())
    }

    /// Whatever is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.detector.send_expired(now) {
            self.send_timeout(now);
        }
        self.detector.handle_timeout(now, &mut self.rng);
        if self.explorer.stagger.take_if(|at| *at <= now).is_some() {
            self.second_wave(now);
            self.judge_pinned(now);
        }
        if self.explorer.timer.take_if(|at| *at <= now).is_some() {
            self.round(now);
        }
        self.measure(now);
    }

    /// When [`Reap::handle_timeout`] and [`Reap::poll_transmit`] are wanted next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let budget = (!self.queue.is_empty()).then(|| self.bucket.next(0));
        let own = [self.explorer.timer, self.explorer.stagger, self.measures.next(), budget];
        own.into_iter().chain([self.detector.poll_timeout()]).flatten().min()
    }

    /// The next message and the pair it goes by.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(Pair, Outgoing)> {
        if self.detector.take_due() {
            self.stats.keepalives_sent += 1;
            return Some((self.current, Outgoing::Keepalive));
        }
        loop {
            let urgent = self.queue.iter().position(|(_, p)| *p == Purpose::Explore);
            let at = urgent.unwrap_or(0);
            let &(pair, purpose) = self.queue.get(at)?;
            let reserve = if urgent.is_some() { 0 } else { self.bucket.reserve() };
            if self.bucket.take(now, reserve) {
                self.queue.remove(at);
                return Some((pair, Outgoing::Probe(self.probe(now, pair, purpose))));
            }
            if urgent.is_some() {
                self.stats.budget_waits += 1;
                return None;
            }
            self.queue.pop_front();
            self.stats.measures_left_out += 1;
        }
    }

    /// What happened since the last call.
    pub fn poll_event(&mut self) -> Option<ReapEvent> {
        self.events.pop_front()
    }

    fn tell(&mut self, event: ReapEvent) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// The probe as it is at the moment of sending: its state is the one then (RFC 5534 6.1).
    fn probe(&mut self, now: Instant, pair: Pair, purpose: Purpose) -> Probe {
        self.stats.probes_sent += 1;
        self.sequence = self.sequence.wrapping_add(1);
        let mark = match purpose {
            Purpose::Explore => Mark::Explore,
            Purpose::Measure => Mark::Request,
            Purpose::Answer(_) => Mark::Answer,
        };
        let data = mark.data(self.sequence);
        let nonce = self.rng.next_u32();
        let this = Report { src: pair.local, dst: pair.remote, nonce, data };
        let (sent, received) = match purpose {
            Purpose::Explore => {
                self.explorer.add_sent(Sent { pair, report: this, at: now, confirmed: false });
                (self.explorer.retold(), self.explorer.reported())
            }
            Purpose::Measure => {
                self.measure_sent(now, pair, nonce);
                (Reports::from_slice(&[this]), Reports::new())
            }
            Purpose::Answer(asked) => (Reports::from_slice(&[this]), Reports::from_slice(&[asked])),
        };
        Probe { state: self.state, sent, received }
    }

    /// Queues a message; the same one is not queued twice.
    fn queue(&mut self, pair: Pair, purpose: Purpose) {
        if !self.queue.contains(&(pair, purpose)) {
            self.queue.push_back((pair, purpose));
        }
    }
}
