//! What a group shows.

use serde::{Deserialize, Serialize};

use super::event::what_of;
use super::group::Group;
use super::member::{Cause, Member, Offline};
use crate::paths::{AddressPath, GroupPath, InterfacePath, LinkHealth, MemberFlags, ProbeHealth};
use crate::probe::ProbeState;

/// A group, at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupReport {
    /// Its line of `weft paths -g`. The detection time is the configured one; a prober that cannot
    /// meet it knows better.
    pub path: GroupPath,
    /// It carries frames.
    pub up: bool,
    /// Towards the stacks.
    pub mac: String,
    /// A repaired member is used again.
    pub failback: bool,
    /// Targets beyond the link that are lost.
    pub beyond_lost: Vec<std::net::IpAddr>,
    /// Its members, in the order of the configuration.
    pub members: Vec<MemberReport>,
    /// Its data addresses.
    pub addresses: Vec<AddressPath>,
    /// What was counted.
    pub counters: GroupCounters,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReport {
    /// Its line of `weft paths -i`.
    pub path: InterfacePath,
    /// More precisely.
    pub state: MemberState,
    /// MAC address, `02:00:..`.
    pub mac: String,
    /// What is bound to it: addresses, and aliases with a MAC address of their own.
    pub bound: usize,
    /// Its repair is withheld for as many milliseconds.
    pub damped_ms: Option<u64>,
    /// What was counted.
    pub counters: MemberCounters,
}

/// What a member is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberState {
    /// Nothing was heard of it yet.
    Init,
    /// Carries frames.
    Active,
    /// Could carry frames, and waits because `failback` is off.
    Inactive,
    /// Could carry frames, and waits because it is standby.
    Standby,
    /// Cannot carry frames.
    Failed,
    /// Taken out by the operator.
    Offline,
    /// Taken out because another member has its MAC address.
    Duplicate,
}

/// What is counted of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberCounters {
    /// It failed.
    pub failures: u64,
    /// It worked again.
    pub repairs: u64,
    /// Its link came, but for the first time.
    pub link_ups: u64,
    /// Its link went.
    pub link_downs: u64,
    /// A repair was withheld.
    pub damped: u64,
    /// Its MAC address was found to be another's.
    pub duplicates: u64,
}

/// What is counted of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupCounters {
    /// Probes told that the network behind all members failed.
    pub group_failures: u64,
    /// Addresses that moved.
    pub moves: u64,
    /// Addresses that were too many.
    pub addresses_refused: u64,
    /// Multicast groups that were too many.
    pub memberships_refused: u64,
    /// Events that were not read in time, or left out because there were so many of a kind.
    pub events_lost: u64,
}

impl Group {
    /// Everything that is known.
    pub fn report(&self) -> GroupReport {
        let members = 0..self.members.len();
        GroupReport {
            path: self.group_path(),
            up: self.is_up(),
            mac: what_of::text(self.mac),
            failback: self.config.failback,
            beyond_lost: self.beyond_lost.clone(),
            members: members.map(|i| self.member_report(i)).collect(),
            addresses: self.address_paths(),
            counters: GroupCounters {
                moves: self.inbound.moves,
                addresses_refused: self.inbound.refused,
                ..self.counters
            },
        }
    }

    fn group_path(&self) -> GroupPath {
        let names = |of: &dyn Fn(&Member) -> bool| -> Vec<String> {
            self.members.iter().filter(|m| of(m)).map(|m| m.info.name.clone()).collect()
        };
        let probed = self.members.iter().any(|m| m.verdict.state != ProbeState::Disabled);
        GroupPath {
            group: self.name.clone(),
            group_name: self.name.clone(),
            state: self.state,
            detection_ms: probed.then_some(self.config.detect.as_millis() as u64),
            active: names(&Member::is_active),
            inactive: names(&Member::is_waiting),
            unusable: names(&|m| !m.is_usable()),
            signature: self.signature,
            beyond_lost: self.beyond_lost.clone(),
        }
    }

    fn address_paths(&self) -> Vec<AddressPath> {
        let name = |member: &u16| self.members[usize::from(*member)].info.name.clone();
        let active: Vec<String> = self.inbound.active().iter().map(name).collect();
        let line = |(address, mac, member): (_, Option<crate::Mac>, Option<u16>)| {
            let inbound = member.as_ref().map(name);
            // What is sent with a MAC address of its own leaves where that is.
            let outbound = match (&inbound, mac) {
                (None, _) => Vec::new(),
                (Some(member), Some(_)) => vec![member.clone()],
                (Some(_), None) => active.clone(),
            };
            AddressPath { address, up: true, group: self.name.clone(), inbound, outbound }
        };
        self.inbound.bindings().map(line).collect()
    }

    fn member_report(&self, i: usize) -> MemberReport {
        let m = &self.members[i];
        let damped = m.damped.then(|| m.damped_until(self.config.flaps_max)).flatten();
        MemberReport {
            path: self.interface_path(i),
            state: state(m),
            mac: what_of::text(m.mac()),
            bound: self.inbound.load(i as u16),
            damped_ms: damped.map(|until| (until - self.now).as_millis() as u64),
            counters: m.counters,
        }
    }

    fn interface_path(&self, i: usize) -> InterfacePath {
        let m = &self.members[i];
        let nominated = |family: usize| self.nominees[family] == Some(i as u16);
        InterfacePath {
            interface: m.info.name.clone(),
            active: m.is_active(),
            group: self.name.clone(),
            flags: MemberFlags {
                inactive: m.is_waiting(),
                standby: m.standby,
                multicast4: nominated(0),
                broadcast: nominated(0),
                multicast6: nominated(1),
                down: m.offline.is_some(),
                duplicate_mac: m.offline == Some(Offline::Duplicate),
            },
            link: match m.link {
                Some(true) => LinkHealth::Up,
                Some(false) => LinkHealth::Down,
                None => LinkHealth::Unknown,
            },
            probe: match m.verdict.state {
                ProbeState::Disabled => ProbeHealth::Disabled,
                ProbeState::Unknown => ProbeHealth::Unknown,
                ProbeState::Ok => ProbeHealth::Ok,
                ProbeState::Failed => ProbeHealth::Failed,
            },
            state: m.health(),
            why: Some(self.why(i).to_owned()),
        }
    }

    /// Why a member is what it is, for people.
    pub(super) fn why(&self, i: usize) -> &'static str {
        let m = &self.members[i];
        match (state(m), m.failed.map(|failure| failure.cause)) {
            (MemberState::Init, _) => "nothing is known of it yet",
            (MemberState::Active, _) if m.verdict.state == ProbeState::Unknown => {
                "link is up; there is no target for probes"
            }
            (MemberState::Active, _) if m.verdict.state == ProbeState::Disabled => "link is up",
            (MemberState::Active, _) if m.verdict.state == ProbeState::Failed => {
                "link is up; lost probes do not count yet"
            }
            (MemberState::Active, _) => "link is up, probes are answered",
            (MemberState::Inactive, _) => "failback is off",
            (MemberState::Standby, _) => "standby",
            (MemberState::Failed, _) if m.damped => "came back too often in a minute",
            (MemberState::Failed, cause) => cause.map_or("failed", Cause::text),
            (MemberState::Offline, _) => "taken out by the operator",
            (MemberState::Duplicate, _) => "another member has its hardware address",
        }
    }
}

fn state(m: &Member) -> MemberState {
    match m.offline {
        Some(Offline::Operator) => MemberState::Offline,
        Some(Offline::Duplicate) => MemberState::Duplicate,
        None if m.failed.is_some() => MemberState::Failed,
        None if m.link.is_none() => MemberState::Init,
        None if !m.inactive => MemberState::Active,
        None if m.standby => MemberState::Standby,
        None => MemberState::Inactive,
    }
}
