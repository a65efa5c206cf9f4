//! What answers and losses mean: round-trip times, the detection time, and the verdict.

use weft_stack::time::{Duration, Instant};

use super::bfd::State;
use super::event::{ProbeNotice, ProbeOutcome};
use super::fast::up_since_loss;
use super::group::{LOWER_AFTER, Member, PEERS, Prober, V4, V6, Way, family};
use super::path::{
    LOSSES_FAIL, Outcome, Path, Probe, ProbeTarget, Run, TARGETS_SLOW_MIN, Target, TargetSource,
    TargetState,
};
use super::verdict::ProbeState;

/// What is raised is raised to this many round trips, and lowered by this factor.
const FACTOR: u32 = 2;
/// The detection time is not raised beyond 70 s.
const INTERVAL_MAX: Duration = Duration::from_secs(10);

impl Prober {
    /// A probe was answered.
    pub(super) fn answered(&mut self, now: Instant, index: usize, slot: usize, at: usize) {
        let member = &mut self.members[index];
        let path = &mut member.paths[slot];
        let Some(probe) = path.probes.get_mut(at) else { return };
        probe.outcome = Outcome::Acked;
        let probe = *probe;
        member.quiet_until = None;
        member.heard = true;
        path.last_success = Some(now);
        member.last_success = Some(now);
        path.note_run();
        if let Some(target) = probe.aim.and_then(|aim| path.target(aim)) {
            target.doubtful = false;
        }
        self.counters.acked += 1;
        let rtt = now.saturating_since(probe.sent);
        self.integrate(now, (index, slot), &probe, rtt);
        self.tell_probe(index, slot, &probe, ProbeOutcome::Acked, Some(rtt));
        self.lower(now);
    }

    /// A probe that only measures was answered: it may make a round-trip time shorter.
    pub(super) fn measured(
        &mut self,
        now: Instant,
        index: usize,
        slot: usize,
        aim: ProbeTarget,
        rtt: Duration,
    ) {
        if let Some(target) = self.members[index].paths[slot].target(aim)
            && target.rtt.average().is_some_and(|average| rtt < average)
        {
            target.rtt = target.rtt.with(rtt);
        }
        self.lower(now);
    }

    /// Takes a sample into the target's round-trip time; raises the detection time if the target
    /// is too slow for it, or puts the target aside if it alone is.
    fn integrate(
        &mut self,
        now: Instant,
        (index, slot): (usize, usize),
        probe: &Probe,
        rtt: Duration,
    ) {
        let interval = self.interval;
        let Some(aim) = probe.aim else { return };
        let path = &mut self.members[index].paths[slot];
        let Some(target) = path.target(aim) else { return };
        let slow = |d: Option<Duration>| d.is_some_and(|c| c > interval);
        let next = target.rtt.with(rtt);
        if probe.to_all && next.conservative().is_some_and(|c| c > interval / 2) {
            // Answers to others come at any time after a question that was never answered.
            return;
        }
        if slow(next.conservative()) && !slow(target.rtt.conservative()) && !target.deferred {
            // One late answer may be chance; the second in a row is not.
            target.deferred = true;
            return;
        }
        target.deferred = false;
        target.rtt = next;
        let Some(crtt) = next.conservative().filter(|c| *c > interval) else { return };
        let fast = |t: &Target| t.rtt.conservative().is_some_and(|c| c < interval / 2);
        let alone = path.active().count() >= TARGETS_SLOW_MIN
            && path.active().filter(|t| t.aim != aim).all(fast);
        if alone {
            self.counters.targets_dropped += 1;
            self.rest_target(now, index, slot, aim, TargetState::Slow);
            return;
        }
        let raised = (crtt * FACTOR).min(INTERVAL_MAX.max(self.user_interval()));
        if raised > interval {
            self.interval = raised;
            self.raised_at = Some(now);
            self.notify(ProbeNotice::DetectRaised { detect_ms: self.detect().as_millis() as u64 });
        }
    }

    /// Shortens a detection time that was raised, once all targets of all members are fast.
    fn lower(&mut self, now: Instant) {
        let user = self.user_interval();
        let early = self.raised_at.is_some_and(|at| now < at + LOWER_AFTER);
        if self.interval <= user || early {
            return;
        }
        let limit = self.interval / (2 * FACTOR);
        let fast = |m: &Member| {
            let mut targets = m.paths.iter().flat_map(Path::active);
            targets.all(|t| t.rtt.conservative().is_none_or(|crtt| crtt < limit))
        };
        if self.members.iter().filter(|m| m.up && !m.offline).all(fast) {
            self.interval = (self.interval / FACTOR).max(user);
            self.notify(ProbeNotice::DetectLowered { detect_ms: self.detect().as_millis() as u64 });
        }
    }

    /// Paths of a member that are probed now and have somebody to probe.
    fn capable(&self, index: usize) -> impl Iterator<Item = usize> {
        let path = move |slot: &usize| {
            self.way(index, *slot).is_some()
                && self.members[index].paths[*slot].active().next().is_some()
        };
        [V4, V6, PEERS].into_iter().filter(path)
    }

    /// Failure or repair of a member.
    pub(super) fn judge(&mut self, index: usize) {
        self.judge_sessions(index);
        let slots: Vec<usize> = self.capable(index).collect();
        let runs: Vec<Run> =
            slots.iter().map(|slot| self.members[index].paths[*slot].run(None)).collect();
        let lost = !runs.is_empty() && runs.iter().all(|run| run.lost >= LOSSES_FAIL);
        let lost = lost && (slots != [PEERS] || self.peers_work(index));
        let enabled = self.is_enabled(index);
        let member = &mut self.members[index];
        let path_loss = slots.iter().filter_map(|s| member.paths[*s].first_loss).min();
        if member.up && !enabled {
            member.failed = false;
        } else if member.up && !member.failed && lost {
            member.failed = true;
        } else if member.failed && member.up {
            // Either family tells that it works again.
            member.failed = !slots.iter().any(|slot| member.paths[*slot].is_repaired());
        }
        let fast = self.session_loss(index).filter(|_| self.members[index].failed_fast);
        let member = &mut self.members[index];
        if member.failed || member.failed_fast {
            let since = path_loss.into_iter().chain(fast).min();
            member.first_loss = member.first_loss.or(since);
        } else {
            member.first_loss = path_loss;
        }
    }

    /// Lost through other members: one of those has reached somebody since, so it is not them.
    fn peers_work(&self, index: usize) -> bool {
        let path = &self.members[index].paths[PEERS];
        let Some(first) = path.run(None).first_loss else { return false };
        path.probes.iter().filter(|p| p.outcome == Outcome::Lost && p.sent >= first).any(|p| {
            let Some(ProbeTarget::Member(other)) = p.aim else { return false };
            let peer = self.members.get(usize::from(other));
            peer.and_then(|_| self.reached(usize::from(other))).is_some_and(|at| at > first)
        })
    }

    /// All members failed before this call, so that was seen: hosts that were found may have been
    /// the wrong ones, and are looked for anew.
    pub(super) fn flush_dead_hosts(&mut self) {
        let used = |m: &&Member| m.up && !m.offline;
        if self.members.iter().filter(used).any(|m| !m.failed) {
            return;
        }
        for index in 0..self.members.len() {
            for slot in [V4, V6] {
                let path = &mut self.members[index].paths[slot];
                let hosts = path.targets.iter().any(|t| t.source == TargetSource::Host);
                // Those that answer again stay.
                if hosts && path.run(None).lost >= LOSSES_FAIL {
                    path.targets.retain(|t| t.source != TargetSource::Host);
                    path.clear();
                    self.counters.hosts_flushed += 1;
                }
            }
        }
    }

    /// BFD: a session that is lost while another member has the same peer, or if nothing else
    /// probes. A peer that all members lose is the peer's fault, if other probes are answered: who
    /// loses it last clears those before, if they reached somebody since.
    fn judge_sessions(&mut self, index: usize) {
        let Some(loss) = self.session_loss(index) else {
            self.members[index].failed_fast = false;
            return;
        };
        let probed = self.capable(index).next().is_some() && self.members[index].heard;
        let elsewhere = self.sessions.iter().filter(|s| s.member == index).any(|mine| {
            mine.session.lost().is_some()
                && self.sessions.iter().any(|other| {
                    other.member != index
                        && other.session.state() == State::Up
                        && up_since_loss(&other.session, loss)
                })
        });
        let mut others = self.sessions.iter().filter(|s| s.member != index);
        let member = &mut self.members[index];
        let cleared = member.last_success.is_some_and(|at| at > loss)
            && !others.any(|other| other.session.state() == State::Up);
        member.failed_fast = (member.failed_fast && !cleared) || elsewhere || !probed;
    }

    /// When the first BFD packet was missing, if every session of the member that was up is lost.
    fn session_loss(&self, index: usize) -> Option<Instant> {
        let mut loss = None;
        for entry in self.sessions.iter().filter(|s| s.member == index) {
            match entry.session.lost() {
                Some(at) => loss = loss.into_iter().chain([at]).min(),
                None if entry.session.state() == State::Up => return None,
                None => {}
            }
        }
        loss
    }

    /// Some path is probed, or could be.
    pub(super) fn is_enabled(&self, index: usize) -> bool {
        let usable = |slot| match self.way(index, slot) {
            Some(Way::Echo(_) | Way::Peers) => true,
            Some(Way::Resolve(_)) => !self.members[index].paths[slot].targets.is_empty(),
            None => false,
        };
        [V4, V6, PEERS].into_iter().any(usable)
    }

    /// When the member was last reached, by probes or BFD.
    pub(super) fn reached(&self, index: usize) -> Option<Instant> {
        let sessions = self.sessions.iter().filter(|s| s.member == index);
        let fast = sessions.filter(|s| s.session.state() == State::Up);
        fast.filter_map(|s| s.session.last_rx()).chain(self.members[index].last_success).max()
    }

    pub(super) fn state_of(&self, index: usize) -> ProbeState {
        let member = &self.members[index];
        let sessions = || self.sessions.iter().filter(|s| s.member == index && s.running);
        let probed = self.capable(index).next().is_some();
        // Without anybody to probe nothing is known, whatever was.
        if member.failed_fast || (member.failed && (probed || !member.up)) {
            return ProbeState::Failed;
        }
        let up = sessions().any(|s| s.session.state() == State::Up);
        if up || (member.heard && probed) {
            return ProbeState::Ok;
        }
        let pending = member.up && !member.offline;
        let configured =
            self.is_probed() && member.held.iter().flatten().any(|h| h.duplicate.is_none());
        if sessions().next().is_some() || self.is_enabled(index) || (!pending && configured) {
            return ProbeState::Unknown;
        }
        ProbeState::Disabled
    }

    /// Whether a test address of the family can be used.
    pub(super) fn test_address(&self, index: usize, slot: usize) -> Option<std::net::IpAddr> {
        let held = self.members[index].held.get(slot)?.as_ref()?;
        debug_assert_eq!(family(held.test.address), slot);
        Some(held.test.address)
    }
}
