//! What a group knows of one member.

use serde::{Deserialize, Serialize};
use weft_stack::time::{Duration, Instant};

use super::damping::Recent;
use super::group::MemberInfo;
use super::report::MemberCounters;
use crate::Mac;
use crate::paths::MemberHealth;
use crate::probe::{ProbeState, ProbeVerdict};

/// Why a member failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Cause {
    /// No link.
    Link,
    /// Its probes are lost, those of another member are not.
    Probe,
    /// No member's probes are answered.
    Group,
}

impl Cause {
    pub(super) fn text(self) -> &'static str {
        match self {
            Cause::Link => "link is down",
            Cause::Probe => "probes are not answered",
            Cause::Group => "probes of no member are answered",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) cause: Cause,
    pub(super) at: Instant,
}

/// Who put a member offline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offline {
    Operator,
    /// Another member has its MAC address.
    Duplicate,
}

/// What listeners were told of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) health: MemberHealth,
    pub(super) active: bool,
    pub(super) standby: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) info: MemberInfo,
    pub(super) standby: bool,
    /// `None`: nothing was heard of it yet.
    pub(super) link: Option<bool>,
    pub(super) up_since: Option<Instant>,
    pub(super) verdict: ProbeVerdict,
    pub(super) failed: Option<Failure>,
    pub(super) offline: Option<Offline>,
    /// It waits; also as long as nothing was heard of it.
    pub(super) inactive: bool,
    /// It was usable once.
    pub(super) worked: bool,
    /// The whole group failed while it was failed.
    pub(super) with_group: bool,
    /// Lost probes do not count since then, unless one was answered.
    pub(super) quiet_since: Option<Instant>,
    pub(super) link_ups: Recent,
    pub(super) repairs: Recent,
    /// A repair is withheld.
    pub(super) damped: bool,
    pub(super) told: Told,
    pub(super) counters: MemberCounters,
}

impl Member {
    pub(super) fn new(info: MemberInfo, standby: bool) -> Member {
        Member {
            info,
            standby,
            link: None,
            up_since: None,
            verdict: ProbeVerdict::default(),
            failed: None,
            offline: None,
            inactive: true,
            worked: false,
            with_group: false,
            quiet_since: None,
            link_ups: Recent::default(),
            repairs: Recent::default(),
            damped: false,
            told: Told { standby, ..Told::default() },
            counters: MemberCounters::default(),
        }
    }

    pub(super) fn mac(&self) -> Mac {
        self.info.mac
    }

    /// It carries frames, or could.
    pub(super) fn is_usable(&self) -> bool {
        self.link.is_some() && self.failed.is_none() && self.offline.is_none()
    }

    pub(super) fn is_active(&self) -> bool {
        self.is_usable() && !self.inactive
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.is_usable() && self.inactive
    }

    /// Link came or went.
    pub(super) fn set_link(&mut self, now: Instant, up: bool, flaps_max: u8) {
        let was = self.link.replace(up);
        if was == Some(up) {
            return;
        }
        self.up_since = up.then_some(now);
        self.quiet_since = self.up_since;
        if up && was.is_some() {
            self.link_ups.push(now, flaps_max);
            self.counters.link_ups += 1;
        }
        self.counters.link_downs += u64::from(!up);
    }

    /// Until when lost probes do not count.
    pub(super) fn quiet_until(&self, quiet: Duration) -> Option<Instant> {
        let since = self.quiet_since?;
        let answered = self.verdict.last_success.is_some_and(|at| at >= since);
        (!answered).then(|| since + quiet)
    }

    /// Its facts are those of a member that works, whatever happened before.
    pub(super) fn looks_repaired(&self, other_usable: bool) -> bool {
        let (Some(failure), Some(up_since)) = (self.failed, self.up_since) else { return false };
        match (self.verdict.state, failure.cause) {
            (ProbeState::Disabled, _) => true,
            (ProbeState::Unknown, Cause::Link) => true,
            (ProbeState::Unknown, Cause::Group) => other_usable,
            (ProbeState::Unknown, Cause::Probe) | (ProbeState::Failed, _) => false,
            // Answers of before are no repair.
            (ProbeState::Ok, Cause::Group) => {
                self.verdict.last_success.is_some_and(|at| at > failure.at)
            }
            (ProbeState::Ok, _) => self.verdict.last_success.is_none_or(|at| at >= up_since),
        }
    }

    /// Until when its repair is withheld, if it is up.
    pub(super) fn damped_until(&self, flaps_max: u8) -> Option<Instant> {
        match self.verdict.state {
            ProbeState::Disabled | ProbeState::Unknown => {
                self.link_ups.too_many_until(flaps_max, 0)
            }
            ProbeState::Ok | ProbeState::Failed => self.repairs.too_many_until(flaps_max, 1),
        }
    }

    pub(super) fn health(&self) -> MemberHealth {
        if self.offline.is_some() {
            MemberHealth::Offline
        } else if self.failed.is_some() {
            MemberHealth::Failed
        } else if self.link.is_none() || self.verdict.state == ProbeState::Unknown {
            MemberHealth::Unknown
        } else {
            MemberHealth::Ok
        }
    }
}
