//! Failure and repair: of one member, or of all at once.

use weft_stack::time::Instant;

use super::event::what_of;
use super::group::Group;
use super::member::{Cause, Failure};
use super::policy::Return;
use crate::probe::{ProbeState, ProbeVerdict};

impl Group {
    /// What is known of a member now. To be called when any of it changed, and may be at any time.
    /// The first call for a member makes it part of the group's work.
    pub fn handle_health(
        &mut self,
        now: Instant,
        member: u16,
        link_up: bool,
        verdict: ProbeVerdict,
    ) {
        let i = usize::from(member);
        let flaps_max = self.config.flaps_max;
        let Some(m) = self.members.get_mut(i) else { return };
        let was = m.link;
        m.verdict = verdict;
        m.set_link(now, link_up, flaps_max);
        if was != Some(link_up) && (was.is_some() || !link_up) {
            self.notice(Some(i), what_of::link(link_up));
        }
        if was.is_none() && self.members[i].is_usable() && link_up {
            self.place(i, Return::Online);
        }
        self.settle(now);
    }

    /// Brings the state of a member in line with its facts. True if it changed.
    pub(super) fn judge(&mut self, now: Instant, i: usize) -> bool {
        let m = &mut self.members[i];
        let Some(link_up) = m.link else { return false };
        if !link_up {
            let is_known = m.failed.is_some_and(|failure| failure.cause == Cause::Link);
            if m.offline.is_some() {
                // It comes back failed.
                m.failed = m.failed.or(Some(Failure { cause: Cause::Link, at: now }));
                return false;
            }
            return !is_known && self.fail(now, i, Cause::Link);
        }
        if m.offline.is_some() {
            return false;
        }
        if m.failed.is_some() {
            return self.repair(now, i);
        }
        let is_quiet = m.quiet_until(self.config.quiet).is_some_and(|until| now < until);
        if m.verdict.state != ProbeState::Failed || is_quiet {
            return false;
        }
        if self.others_answer(i) {
            return self.fail(now, i, Cause::Probe);
        }
        self.fail(now, i, Cause::Probe);
        self.fail_all(now);
        true
    }

    /// Whether there is evidence that the network behind the members works: one without probes
    /// that has a link, or one with an answer to a probe that was later than the first lost one of
    /// the suspect. (A link that is down needs no such evidence: it says nothing of the others.)
    fn others_answer(&self, suspect: usize) -> bool {
        let first_loss = self.members[suspect].verdict.first_loss;
        let mut others = self.members.iter().enumerate().filter(|(i, _)| *i != suspect);
        others.any(|(_, m)| {
            let is_running = m.is_usable() && m.link == Some(true);
            is_running
                && match m.verdict.state {
                    ProbeState::Disabled => true,
                    ProbeState::Unknown | ProbeState::Failed => false,
                    ProbeState::Ok => {
                        m.verdict.last_success.is_none_or(|at| first_loss.is_none_or(|l| at > l))
                    }
                }
        })
    }

    fn fail(&mut self, now: Instant, i: usize, cause: Cause) -> bool {
        let m = &mut self.members[i];
        let was_active = m.is_active();
        m.counters.failures += u64::from(m.failed.is_none());
        m.failed = Some(Failure { cause, at: now });
        m.inactive = false;
        if was_active {
            self.replace();
        }
        true
    }

    /// No member reaches anybody.
    fn fail_all(&mut self, now: Instant) {
        for m in &mut self.members {
            if m.is_usable() {
                m.counters.failures += 1;
                m.failed = Some(Failure { cause: Cause::Group, at: now });
                m.inactive = false;
            }
        }
        self.counters.group_failures += 1;
    }

    fn repair(&mut self, now: Instant, i: usize) -> bool {
        let other_usable = self.is_other_usable(i);
        let flaps_max = self.config.flaps_max;
        let m = &mut self.members[i];
        if !m.looks_repaired(other_usable) {
            return false;
        }
        // One that flaps is better than none.
        let until = m.damped_until(flaps_max).filter(|until| now < *until && other_usable);
        if until.is_some() {
            if !m.damped {
                m.damped = true;
                m.counters.damped += 1;
                self.notice(Some(i), what_of::flapping(flaps_max));
            }
            return false;
        }
        m.damped = false;
        m.failed = None;
        m.counters.repairs += 1;
        m.repairs.push(now, flaps_max);
        self.place(i, Return::Repair);
        true
    }

    pub(super) fn is_other_usable(&self, i: usize) -> bool {
        self.members.iter().enumerate().any(|(j, m)| j != i && m.is_usable())
    }

    /// When the facts of a member may be judged otherwise without another call.
    pub(super) fn judge_at(&self, i: usize) -> Option<Instant> {
        let m = &self.members[i];
        if m.offline.is_some() || m.link != Some(true) {
            return None;
        }
        let at = if m.failed.is_some() {
            m.damped.then(|| m.damped_until(self.config.flaps_max))?
        } else {
            let failing = m.verdict.state == ProbeState::Failed;
            failing.then(|| m.quiet_until(self.config.quiet))?
        };
        at.filter(|at| *at > self.now)
    }
}
