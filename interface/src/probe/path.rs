//! Probes of one member by one way (IPv4, IPv6, through other members): whom, which are open, and
//! how many in a row were lost or answered.

use std::collections::VecDeque;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weft_stack::time::{Duration, Instant};

use super::rtt::Rtt;
use crate::Mac;

/// Lost in a row: failure.
pub const LOSSES_FAIL: usize = 5;
/// Answered in a row: repair.
pub const ACKS_REPAIR: usize = 10;
/// Probes that are remembered.
pub(super) const RING: usize = 52;
/// Targets in use at one time, of each path.
pub(super) const TARGETS_ACTIVE_MAX: usize = 5;
/// With fewer than this a target is not put aside for being slow.
pub(super) const TARGETS_SLOW_MIN: usize = 4;
/// Targets that are known, of each path.
pub(super) const TARGETS_MAX: usize = 32;
/// A slow or dead target is tried again after this.
pub(super) const TARGET_REST: Duration = Duration::from_mins(1);

/// Who is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeTarget {
    /// A host or router.
    Address(IpAddr),
    /// Another member of the group, by its position.
    Member(u16),
}

/// Where a target is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetSource {
    /// Configured.
    Given,
    /// A router of a route.
    Router,
    /// It answered a probe to all hosts.
    Host,
    /// Another member of the group.
    Member,
}

/// What becomes of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetState {
    /// It is probed in turn.
    Active,
    /// There are enough others.
    Unused,
    /// It alone is too slow for the failure detection time; tried again after 60 s.
    Slow,
    /// It does not answer while others do; tried again after 60 s.
    Dead,
}

#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) aim: ProbeTarget,
    pub(super) source: TargetSource,
    pub(super) state: TargetState,
    /// Slow or dead until then.
    pub(super) until: Instant,
    pub(super) rtt: Rtt,
    /// The last answer was not counted, for it alone would have raised the detection time.
    pub(super) deferred: bool,
    pub(super) mac: Option<Mac>,
    /// Its last probe was lost: its MAC address may be another now.
    pub(super) doubtful: bool,
}

impl Target {
    pub(super) fn new(aim: ProbeTarget, source: TargetSource) -> Target {
        Target {
            aim,
            source,
            state: TargetState::Unused,
            until: Instant::ZERO,
            rtt: Rtt::default(),
            deferred: false,
            mac: None,
            doubtful: false,
        }
    }
}

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Open,
    Acked,
    Lost,
    /// Not answered when that says nothing.
    Void,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    pub(super) sequence: u16,
    /// `None`: all hosts.
    pub(super) aim: Option<ProbeTarget>,
    pub(super) sent: Instant,
    pub(super) deadline: Instant,
    pub(super) outcome: Outcome,
    /// It waits for the target's MAC address.
    pub(super) held: bool,
    /// ND from no address: the answer goes to all, so it may be that to another's question.
    pub(super) to_all: bool,
    pub(super) token: u64,
}

/// Probes in a row with the same outcome, up to now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) lost: usize,
    pub(super) acked: usize,
    /// When the first that was lost in the run was sent.
    pub(super) first_loss: Option<Instant>,
}

#[derive(Clone, Debug)]
pub(super) struct Path {
    /// Of echo probes, one for each member and family.
    pub(super) id: u16,
    pub(super) next_sequence: u16,
    pub(super) probes: VecDeque<Probe>,
    pub(super) targets: Vec<Target>,
    /// Position of the target that is probed next.
    cursor: usize,
    /// The period that `send_at` lies in began here.
    pub(super) base: Instant,
    pub(super) send_at: Option<Instant>,
    /// Between the probes that only measure.
    pub(super) measure_at: Option<Instant>,
    pub(super) first_loss: Option<Instant>,
    pub(super) last_success: Option<Instant>,
}

impl Path {
    pub(super) fn new(id: u16) -> Path {
        Path {
            id,
            next_sequence: 0,
            probes: VecDeque::with_capacity(RING),
            targets: Vec::new(),
            cursor: 0,
            base: Instant::ZERO,
            send_at: None,
            measure_at: None,
            first_loss: None,
            last_success: None,
        }
    }

    /// Forgets probes: what was before does not count.
    pub(super) fn clear(&mut self) {
        self.probes.clear();
        self.first_loss = None;
    }

    /// Stops sending.
    pub(super) fn stop(&mut self) {
        self.clear();
        self.send_at = None;
        self.measure_at = None;
    }

    pub(super) fn target(&mut self, aim: ProbeTarget) -> Option<&mut Target> {
        self.targets.iter_mut().find(|t| t.aim == aim)
    }

    pub(super) fn active(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(|t| t.state == TargetState::Active)
    }

    /// Adds a target; false if it is known or there are too many.
    pub(super) fn add_target(&mut self, aim: ProbeTarget, source: TargetSource) -> bool {
        if self.targets.len() >= TARGETS_MAX || self.targets.iter().any(|t| t.aim == aim) {
            return false;
        }
        self.targets.push(Target::new(aim, source));
        true
    }

    /// Wakes targets whose rest is over, and fills up those in use.
    pub(super) fn refresh_targets(&mut self, now: Instant) {
        let mut active = self.active().count();
        for target in &mut self.targets {
            let resting = matches!(target.state, TargetState::Slow | TargetState::Dead);
            if resting && target.until <= now {
                target.state = TargetState::Unused;
                target.rtt = Rtt::default();
            }
            if target.state == TargetState::Unused && active < TARGETS_ACTIVE_MAX {
                target.state = TargetState::Active;
                active += 1;
            }
        }
    }

    /// The next target in turn.
    pub(super) fn next_target(&mut self) -> Option<ProbeTarget> {
        let count = self.targets.len();
        let at = (0..count)
            .map(|i| (self.cursor + i) % count)
            .find(|at| self.targets[*at].state == TargetState::Active)?;
        self.cursor = at + 1;
        Some(self.targets[at].aim)
    }

    /// Opens a probe.
    pub(super) fn open(&mut self, aim: Option<ProbeTarget>, now: Instant, wait: Duration) -> Probe {
        if self.probes.len() == RING {
            self.probes.pop_front();
        }
        let probe = Probe {
            sequence: self.next_sequence,
            aim,
            sent: now,
            deadline: now + wait,
            outcome: Outcome::Open,
            held: false,
            to_all: false,
            token: 0,
        };
        self.next_sequence = self.next_sequence.wrapping_add(1);
        self.probes.push_back(probe);
        probe
    }

    /// The run of the newest probes; of one target's only if given.
    pub(super) fn run(&self, aim: Option<ProbeTarget>) -> Run {
        let mut run = Run::default();
        for probe in self.probes.iter().rev() {
            if aim.is_some() && probe.aim != aim {
                continue;
            }
            match probe.outcome {
                Outcome::Lost if run.acked == 0 => {
                    run.lost += 1;
                    run.first_loss = Some(probe.sent);
                }
                Outcome::Acked if run.lost == 0 => run.acked += 1,
                Outcome::Open | Outcome::Void => {}
                Outcome::Lost | Outcome::Acked => break,
            }
        }
        run
    }

    /// After an outcome: since when answers are missing.
    pub(super) fn note_run(&mut self) -> Run {
        let run = self.run(None);
        self.first_loss = match run.lost {
            0 => None,
            _ => self.first_loss.or(run.first_loss),
        };
        run
    }

    /// Enough answers in a row for a repair, over all targets or of one.
    pub(super) fn is_repaired(&self) -> bool {
        self.run(None).acked >= ACKS_REPAIR
            || self.active().any(|t| self.run(Some(t.aim)).acked >= ACKS_REPAIR)
    }

    /// When the next open probe is given up.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.probes.iter().filter(|p| p.outcome == Outcome::Open).map(|p| p.deadline).min()
    }
}
