//! The state machine of RFC 5534 6, and what it does to the pair in use.

use core::time::Duration;

use weft_stack::time::Instant;

use super::detector::nanos;
use super::paths::Path;
use super::{Purpose, Reap, ReapEvent, Why};
use crate::locator::Pair;
use crate::wire::probe::{Probe, ReapState};

/// Numbers so much below the newest are of probes that were overtaken.
const OVERTAKEN: u16 = 32;
/// For so long; then the peer may have begun anew.
const OVERTAKEN_FOR: Duration = Duration::from_secs(2);
/// Rounds before pairs that keep failing or lose much are tried though the alarm may be false.
const ROUNDS_WITHOUT_DOUBTFUL: u32 = 3;
/// Shortest time between the probe of the pair in use and those of others.
const STAGGER_MIN: Duration = Duration::from_millis(2);
/// So many false alarms double the send timeout.
const ALARMS_A_DOUBLING: u32 = 3;
/// It does not grow beyond 16 times.
const DOUBLINGS_MAX: u32 = 4;
/// In so long a false alarm is forgiven.
const ALARM_FORGIVEN: Duration = Duration::from_secs(20);
/// So many probes by the operator's pair must get no answer before it is left.
const PINNED_PROBES: usize = 2;
/// Rounds in which others may answer before a pair that the peer calls broken is used all the same.
const ROUNDS_OF_OTHERS: u32 = 3;
/// Hints that prove nothing begin explorations so far apart, at least.
const HINTS_APART: Duration = Duration::from_millis(100);

impl Reap {
    /// No return traffic (RFC 5534 6.4).
    pub(super) fn send_timeout(&mut self, now: Instant) {
        match self.state {
            ReapState::Operational => self.explore(now, Why::SendTimeout, false),
            ReapState::Exploring => {}
            ReapState::InboundOk => {
                self.state = ReapState::Exploring;
                self.explorer.forget_received();
                self.explorer.restart_backoff();
                self.round(now);
            }
        }
    }

    /// From OPERATIONAL to EXPLORING. `hard`: the pair in use is out of the question.
    pub(super) fn explore(&mut self, now: Instant, why: Why, hard: bool) {
        self.state = ReapState::Exploring;
        self.detector.stop_send();
        self.detector.stop_keepalive();
        self.begin(now, why, hard, None);
    }

    fn begin(&mut self, now: Instant, why: Why, hard: bool, arrival: Option<Pair>) {
        self.stats.explorations += 1;
        self.hints_after = now + HINTS_APART * (1 << self.false_alarms.min(5));
        self.queue.retain(|(_, purpose)| matches!(purpose, Purpose::Answer(_)));
        self.explorer.begin(now, why, hard);
        self.paths.all.iter_mut().for_each(|path| path.blamed = None);
        self.order(now);
        self.tell(ReapEvent::Exploring);
        self.first_wave(now, arrival);
    }

    pub(super) fn order(&mut self, now: Instant) {
        let Reap { explorer, paths, config, rng, current, .. } = self;
        explorer.set_order(now, paths, config, *current, rng);
    }

    /// The first probes. The peer that explores is answered the way it came; where the alarm may
    /// be false, the pair in use has a start over the others.
    fn first_wave(&mut self, now: Instant, arrival: Option<Pair>) {
        let at_once = self.config.parallel > 1;
        let current = (self.paths.is_usable(self.current) && !self.explorer.hard)
            .then_some(self.current)
            .filter(|_| at_once || self.explorer.why == Why::NoProgress || self.is_told());
        let arrival = arrival.filter(|pair| self.paths.is_usable(*pair));
        let first = arrival.into_iter().chain(current.filter(|_| at_once || arrival.is_none()));
        let mut any = false;
        for pair in first {
            self.queue(pair, Purpose::Explore);
            any = true;
        }
        if !any {
            self.probe_next(self.config.parallel, true);
        } else if at_once {
            self.explorer.stagger = Some(now + self.head_start() / 2);
        }
        self.next_round(now);
    }

    /// It began with something that is no proof and says nothing of the peer.
    fn is_told(&self) -> bool {
        matches!(self.explorer.why, Why::Icmp | Why::Manual | Why::Measured | Why::Broken)
    }

    /// How long the pair in use has to answer before others are probed.
    fn head_start(&self) -> Duration {
        let longest = self.config.stagger_max.max(STAGGER_MIN);
        let rtt = self.paths.get(self.current).and_then(|p| p.rtt);
        rtt.map_or(longest, |rtt| (rtt * 2).clamp(STAGGER_MIN, longest))
    }

    /// The pair in use once more, for its probe may be lost; then those not probed so far.
    pub(super) fn second_wave(&mut self, now: Instant) {
        if !core::mem::replace(&mut self.explorer.again, true) && !self.explorer.hard {
            self.queue(self.current, Purpose::Explore);
            self.explorer.stagger = Some(now + self.head_start() / 2);
            return;
        }
        let wanted: Vec<Pair> = self
            .paths
            .all
            .iter()
            .filter(|p| !p.gone && (self.explorer.hard || !self.is_doubtful(now, p)))
            .map(|p| p.pair)
            .filter(|pair| !self.explorer.is_tried(*pair))
            .take(self.config.parallel)
            .collect();
        for pair in wanted {
            self.queue(pair, Purpose::Explore);
        }
    }

    /// Not worth leaving another for, if that one may still work.
    fn is_doubtful(&self, now: Instant, path: &Path) -> bool {
        path.lossy || path.is_suppressed(now, self.config.damping)
    }

    /// Queues the next `count` pairs in order.
    fn probe_next(&mut self, count: usize, doubtful: bool) {
        let now = self.explorer.started;
        let Reap { paths, config, explorer, queue, current, .. } = self;
        let damping = config.damping;
        let wanted = |pair: Pair| {
            paths.get(pair).is_some_and(|p| {
                let doubt = p.lossy || p.is_suppressed(now, damping);
                !p.gone && (doubtful || !doubt || pair == *current)
            })
        };
        for _ in 0..count.min(explorer.order_len()) {
            let Some(pair) = explorer.next_pair(wanted) else { break };
            if !queue.contains(&(pair, Purpose::Explore)) {
                queue.push_back((pair, Purpose::Explore));
            }
        }
        if self.paths.all.is_empty() {
            self.queue(self.current, Purpose::Explore);
        }
    }

    /// Retransmission (RFC 5534 6.5).
    pub(super) fn round(&mut self, now: Instant) {
        let patient = !self.explorer.hard && self.config.parallel > 1;
        let doubtful = !patient || self.explorer.rounds() >= ROUNDS_WITHOUT_DOUBTFUL;
        let asked = self.ask_pinned();
        if !asked || self.config.parallel > 1 {
            self.probe_next(self.config.parallel, doubtful);
        }
        if self.state == ReapState::InboundOk {
            self.detector.start_send(now, nanos(self.inbound_timeout()));
        }
        self.next_round(now);
        let paths = &self.paths.all;
        let tried = paths.iter().all(|p| p.gone || self.explorer.is_tried(p.pair));
        if tried && self.explorer.rounds() > self.config.initial_probes && !self.explorer.told {
            self.explorer.told = true;
            self.stats.no_path += 1;
            self.tell(ReapEvent::NoPath);
        }
    }

    /// The operator's pair is asked in every round; where pairs are probed one after the other, in
    /// every second.
    fn ask_pinned(&mut self) -> bool {
        let turn = self.config.parallel > 1 || self.explorer.rounds() % 2 == 1;
        let ask = turn && self.pinned && self.paths.is_usable(self.current);
        if ask {
            self.queue(self.current, Purpose::Explore);
        }
        ask
    }

    fn next_round(&mut self, now: Instant) {
        let rtt = self.current_rtt();
        self.explorer.next_round(now, &self.config, rtt, &mut self.rng);
    }

    /// Traffic came while it was missed (RFC 5534 6.1, 6.6).
    pub(super) fn heard(&mut self, now: Instant, arrival: Pair) {
        // What came before the link went, or was on its way when the failure was told of, says
        // nothing of what works now.
        let on_its_way = self.config.adaptive && now - self.explorer.started < self.head_start();
        if on_its_way || self.paths.get(arrival).is_some_and(|p| p.gone) {
            return;
        }
        self.state = ReapState::InboundOk;
        self.detector.restart_send(now, self.inbound_timeout());
        self.answer(now, arrival);
    }

    /// A probe at once: the way the peer's packet came if that was not just tried, else the next.
    fn answer(&mut self, now: Instant, arrival: Pair) {
        let just = self.config.initial_probe_timeout.as_nanos() as u64;
        let just = Instant::from_nanos((now.as_nanos() + 1).saturating_sub(just));
        let known = self.paths.get(arrival).is_some_and(|p| !p.gone);
        // While the pair in use has its start, no other is probed.
        if known && (!self.explorer.is_just_tried(arrival, just) || self.explorer.stagger.is_some())
        {
            // Before a round that waits for budget.
            self.queue.retain(|queued| *queued != (arrival, Purpose::Explore));
            self.queue.push_front((arrival, Purpose::Explore));
        } else {
            self.probe_next(1, true);
        }
    }

    /// The send timeout in INBOUND-OK. Shorter than the time in which every pair has its turn, two
    /// hosts that hear each other by different pairs would never do so at the same time.
    pub(super) fn inbound_timeout(&self) -> Duration {
        if !self.config.adaptive {
            return self.send_after();
        }
        let pairs = self.explorer.order_len() as u32;
        let turn = Duration::from_secs(1) * pairs / self.config.budget.per_second.max(1);
        self.send_after().max((turn + self.explorer.interval) * 2)
    }

    /// The number is one of a probe that a newer one overtook: its state is history.
    pub(super) fn is_old(&mut self, now: Instant, sequence: u16) -> bool {
        if let Some((newest, at)) = self.peer_sequence
            && newest.wrapping_sub(sequence) <= OVERTAKEN
            && now - at < OVERTAKEN_FOR
        {
            return true;
        }
        self.peer_sequence = Some((sequence, now));
        false
    }

    /// A probe of an exploration. True if it reports one of ours.
    pub(super) fn explored(&mut self, now: Instant, pair: Pair, probe: &Probe) -> bool {
        if self.state == ReapState::Operational && probe.state == ReapState::Exploring {
            self.peer_explores(now, pair, probe);
            return false;
        }
        self.add_received(probe);
        let ours = self.note_reports(now, pair, probe);
        match probe.state {
            ReapState::Exploring => self.peer_still_explores(now, pair),
            ReapState::InboundOk => self.peer_hears(now, pair, probe, ours),
            ReapState::Operational => self.peer_is_operational(now, pair, probe, ours),
        }
        ours
    }

    fn add_received(&mut self, probe: &Probe) {
        if let Some(first) = probe.sent.first() {
            self.explorer.add_received(*first);
        }
    }

    /// Marks the probes of ours that the peer has received.
    fn note_reports(&mut self, now: Instant, arrival: Pair, probe: &Probe) -> bool {
        let mut ours = false;
        for (i, report) in probe.received.iter().enumerate() {
            let Some(sent) = self.explorer.find_sent(report) else { continue };
            ours = true;
            let (pair, at) = (sent.pair, sent.at);
            let first = !core::mem::replace(&mut sent.confirmed, true);
            if first {
                self.arrived.push((pair, at));
            }
            if let Some(path) = self.paths.get_mut(pair).filter(|_| first) {
                path.works(now);
                path.pardon(now, self.config.damping);
                // Only the newest report of the way back tells a round trip.
                if i == 0 && arrival == pair {
                    path.measured(now - at);
                }
            }
        }
        ours
    }

    /// A probe in state EXPLORING in OPERATIONAL (RFC 5534 6.7).
    fn peer_explores(&mut self, now: Instant, pair: Pair, probe: &Probe) {
        self.state = ReapState::InboundOk;
        self.detector.stop_keepalive();
        self.detector.restart_send(now, self.inbound_timeout());
        let hard = !self.paths.is_usable(self.current);
        self.begin(now, Why::Peer, hard, Some(pair));
        self.add_received(probe);
    }

    /// The same in the other states.
    fn peer_still_explores(&mut self, now: Instant, pair: Pair) {
        self.state = ReapState::InboundOk;
        self.detector.restart_send(now, self.inbound_timeout());
        self.answer(now, pair);
    }

    /// A probe in state INBOUND-OK (RFC 5534 6.8).
    fn peer_hears(&mut self, now: Instant, pair: Pair, probe: &Probe, ours: bool) {
        let at_rest = self.state == ReapState::Operational;
        if !self.is_proof(probe, ours) || !self.settle(now, ours) {
            self.only_heard(now, pair);
            return;
        }
        self.detector.restart_send(now, self.send_after());
        self.detector.stop_keepalive();
        self.queue(self.current, Purpose::Explore);
        if at_rest && self.config.parallel > 1 && self.paths.is_usable(pair) {
            // The pair in use need not be one that reaches the peer.
            self.queue(pair, Purpose::Explore);
        }
    }

    /// A probe in state OPERATIONAL (RFC 5534 6.9). Its reports name the pair as those of
    /// INBOUND-OK do: otherwise the side that was found would not learn which of its pairs works.
    fn peer_is_operational(&mut self, now: Instant, pair: Pair, probe: &Probe, ours: bool) {
        let at_rest = self.state == ReapState::Operational;
        if !at_rest && (!self.is_proof(probe, ours) || !self.settle(now, ours)) {
            self.only_heard(now, pair);
            return;
        }
        self.detector.stop_send();
        self.detector.start_keepalive(now);
    }

    /// The probe says that the peer hears this host. Reports of nothing that was sent are forged,
    /// or of an exploration long over. No reports at all are enough for the RFC, though what the
    /// peer heard may have left before the failure; a weft peer that heard a probe reports it.
    fn is_proof(&self, probe: &Probe, ours: bool) -> bool {
        let says_more = self.config.adaptive && self.peer_sequence.is_some();
        let at_rest = self.state == ReapState::Operational;
        let enough = at_rest || !self.explorer.hard && !says_more;
        ours || probe.received.is_empty() && enough
    }

    /// The peer is heard, and nothing more is known.
    fn only_heard(&mut self, now: Instant, pair: Pair) {
        match self.state {
            ReapState::Exploring => self.heard(now, pair),
            ReapState::Operational | ReapState::InboundOk => self.detector.stop_send(),
        }
    }

    /// OPERATIONAL, by the pair that the reports allow. False if they allow none.
    fn settle(&mut self, now: Instant, ours: bool) -> bool {
        let proven = self.explorer.is_confirmed(self.current)
            || self.explorer.confirmed().next().is_none()
            || self.state == ReapState::Operational && !ours;
        // At rest nothing speaks against the operator's choice.
        let proven = proven || self.state == ReapState::Operational && self.pinned;
        let keep = self.paths.is_usable(self.current) && proven && !self.may_others_answer();
        let to = if keep {
            Some(self.current)
        } else if self.may_pinned_answer(now) {
            // That another pair works, or is faster, says nothing of the operator's.
            None
        } else {
            self.best_confirmed(now)
        };
        let Some(to) = to else {
            self.wait_for_pinned(now);
            return false;
        };
        if self.state != ReapState::Operational {
            self.state = ReapState::Operational;
            self.explorer.end();
            self.queue.retain(|(_, purpose)| *purpose != Purpose::Explore);
            self.tell(ReapEvent::Operational);
            if let Some(path) = self.paths.get_mut(to) {
                // Perhaps it works in one direction only.
                path.answered = false;
            }
            self.judge_alarm(now, to);
        }
        if to != self.current {
            let (why, damping) = (self.explorer.why, self.config.damping);
            let blamed = self.explorer.hard;
            if let Some(path) = self.paths.get_mut(self.current).filter(|_| !blamed) {
                path.blame(now, damping);
            }
            self.use_pair(now, to, why);
        } else if let Some(path) = self.paths.get_mut(to) {
            path.works(now);
        }
        self.set_send_after();
        true
    }

    /// The peer says that the pair in use does not work, and others were not asked often enough to
    /// say that none does.
    fn may_others_answer(&self) -> bool {
        let early = self.explorer.rounds() <= ROUNDS_OF_OTHERS;
        let at_rest = self.state == ReapState::Operational;
        let disowned = self.paths.is_disowned(self.current);
        disowned && early && !at_rest && !self.pinned && self.paths.has_sound()
    }

    /// The pair in use is the operator's choice, and too few probes by it were lost to say that it
    /// failed.
    fn may_pinned_answer(&self, now: Instant) -> bool {
        let lost = self.explorer.unanswered(self.current, now, self.pinned_patience());
        self.pinned && self.paths.is_usable(self.current) && lost < PINNED_PROBES
    }

    /// How long a probe by the operator's pair may take.
    fn pinned_patience(&self) -> Duration {
        let at_once = self.config.parallel > 1;
        let least = if at_once { self.head_start() / 2 } else { self.config.initial_probe_timeout };
        let rtt = self.current_rtt();
        least.max(rtt + rtt / 2)
    }

    /// Another pair works, and the operator's may still answer: when it has had its time, that is looked
    /// at again, though nothing more may come that would be the occasion.
    fn wait_for_pinned(&mut self, now: Instant) {
        if !self.pinned || self.config.parallel == 1 || self.explorer.stagger.is_some() {
            return;
        }
        let last = self.explorer.nth_unanswered(self.current, PINNED_PROBES);
        let until = last.map(|at| at + self.pinned_patience());
        self.explorer.stagger = until.filter(|until| *until > now);
    }

    /// Leaves the operator's pair if it has had its time and another one works.
    pub(super) fn judge_pinned(&mut self, now: Instant) {
        let other = self.explorer.confirmed().next().is_some();
        if !self.pinned || !other || self.state == ReapState::Operational {
            return;
        }
        if self.settle(now, true) {
            self.detector.restart_send(now, self.send_after());
            self.detector.stop_keepalive();
            self.queue(self.current, Purpose::Explore);
        }
    }

    fn best_confirmed(&self, now: Instant) -> Option<Pair> {
        let usable = self.explorer.confirmed().filter_map(|pair| self.paths.get(pair));
        let sound_only = self.may_others_answer();
        let usable = usable.filter(|p| !(p.gone || sound_only && p.broken));
        usable.min_by_key(|p| self.paths.rank(p, now, &self.config)).map(|p| p.pair)
    }

    /// Nothing was wrong: the next alarm of that kind takes longer.
    fn judge_alarm(&mut self, now: Instant, found: Pair) {
        let soft = matches!(self.explorer.why, Why::SendTimeout | Why::NoProgress | Why::Icmp);
        let forgiven = (now - self.alarmed_at).as_secs() / ALARM_FORGIVEN.as_secs();
        self.false_alarms = self.false_alarms.saturating_sub(forgiven.min(100) as u32);
        self.alarmed_at = now;
        if found != self.current {
            self.false_alarms = self.false_alarms.saturating_sub(ALARMS_A_DOUBLING);
        } else if soft {
            self.stats.false_alarms += 1;
            self.false_alarms = (self.false_alarms + 1).min(ALARMS_A_DOUBLING * DOUBLINGS_MAX);
        }
    }

    /// Packets go by `to` from now on.
    pub(super) fn use_pair(&mut self, now: Instant, to: Pair, why: Why) {
        if to == self.current {
            return;
        }
        let from = core::mem::replace(&mut self.current, to);
        self.pinned = false;
        self.stats.switches += 1;
        self.last_switch = Some((now, from, to, why));
        self.set_send_after();
        let rtt = self.paths.get(to).and_then(|p| p.rtt);
        self.tell(ReapEvent::Switched { from, to, rtt, why });
    }

    pub(super) fn current_rtt(&self) -> Duration {
        self.paths.get(self.current).and_then(|p| p.rtt).unwrap_or_default()
    }

    /// The send timeout: by the round-trip time and by false alarms in a row longer, if that is
    /// allowed.
    pub(super) fn set_send_after(&mut self) {
        let mut send_after = self.config.send_timeout;
        if self.config.adaptive {
            let doublings = (self.false_alarms / ALARMS_A_DOUBLING).min(DOUBLINGS_MAX);
            send_after = (send_after + self.current_rtt()) * (1 << doublings);
        }
        self.send_after_ns = nanos(send_after);
    }
}
