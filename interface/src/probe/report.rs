//! What a prober shows: `ipmpstat -t`, sessions and counters.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weft_stack::time::Instant;

use super::bfd;
use super::fast::BfdCounters;
use super::group::{PEERS, Prober, V4, V6, Way};
use super::path::{ProbeTarget, TargetSource, TargetState};
use super::verdict::ProbeState;
use crate::paths::TargetMode;

/// Counters of a prober.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeCounters {
    /// Probes that were sent.
    pub sent: u64,
    /// Probes that were answered.
    pub acked: u64,
    /// Probes that were given up.
    pub lost: u64,
    /// Probes to all hosts.
    pub discoveries: u64,
    /// Answers that no open probe waits for.
    pub unknown: u64,
    /// Frames that could not be read.
    pub malformed: u64,
    /// Frames with a wrong checksum.
    pub checksum: u64,
    /// Frames that are not for a prober, are our own, or came without a link.
    pub ignored: u64,
    /// Questions of other hosts that were too many to answer.
    pub answers_limited: u64,
    /// Times that another host had a test address.
    pub duplicates: u64,
    /// Configured test addresses that cannot be used: a second of a family, or no link-local one.
    pub test_addresses_unused: u64,
    /// Targets beyond the link that are too many to be probed.
    pub beyond_unused: u64,
    /// Targets that were put aside or deleted.
    pub targets_dropped: u64,
    /// Times that all found hosts were forgotten, for all members had failed.
    pub hosts_flushed: u64,
    /// Frames that nobody took in time.
    pub frames_lost: u64,
    /// Lines of the stream of probes that nobody took in time.
    pub events_lost: u64,
    /// Notices that nobody took in time.
    pub notices_lost: u64,
}

/// A prober.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Configured failure detection time, in milliseconds.
    pub configured_ms: u64,
    /// Failure detection time now.
    pub detect_ms: u64,
    /// Rows of members, in order; a member has one of each family that is probed, or a disabled
    /// one.
    pub rows: Vec<ProbeRow>,
    /// Targets beyond the link.
    pub beyond: Vec<FarRow>,
    /// BFD sessions.
    pub sessions: Vec<SessionRow>,
    /// Counters.
    pub counters: ProbeCounters,
    /// Counters of BFD.
    pub bfd: BfdCounters,
}

/// Targets of a member by one family, or through other members.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeRow {
    /// Member, by its position.
    pub member: usize,
    /// State of the member, of all its families.
    pub state: ProbeState,
    /// How targets were chosen.
    pub mode: TargetMode,
    /// Test address, or the data address that is asked from.
    pub address: Option<IpAddr>,
    /// The test address is not used, for another host has it.
    pub duplicate: bool,
    /// Losses in a row.
    pub losses: usize,
    /// Answers in a row, up to 52.
    pub acks: usize,
    /// Losses do not count for so many milliseconds more, or until the first answer.
    pub quiet_ms: u64,
    /// Targets.
    pub targets: Vec<TargetRow>,
}

/// A target beyond the link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FarRow {
    /// Who.
    pub target: IpAddr,
    /// It does not answer any more.
    pub lost: bool,
    /// Where it is asked from; `None`: no member that works has an address for that.
    pub source: Option<IpAddr>,
    /// The router on the way to it; `None`: none is known.
    pub gateway: Option<IpAddr>,
}

/// A target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetRow {
    /// Who.
    pub target: ProbeTarget,
    /// Where it is known from.
    pub source: TargetSource,
    /// State.
    pub state: TargetState,
    /// Average round trip.
    pub rttavg_ns: Option<u64>,
    /// Its mean deviation.
    pub rttdev_ns: Option<u64>,
}

/// A BFD session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionRow {
    /// Member, by its position.
    pub member: usize,
    /// The other end.
    pub peer: IpAddr,
    /// State.
    pub state: bfd::State,
    /// Why it left its last state.
    pub diagnostic: bfd::Diagnostic,
    /// The same of the other end, as it says.
    pub remote_diagnostic: bfd::Diagnostic,
    /// Our discriminator.
    pub discriminator: u32,
    /// Between two packets of ours, before jitter.
    pub tx_us: u64,
    /// Silence of this length is a failure.
    pub detect_us: u64,
}

impl Prober {
    /// Everything that is to be seen.
    pub fn report(&self, now: Instant) -> ProbeReport {
        let mut rows = Vec::new();
        for index in 0..self.members.len() {
            let before = rows.len();
            let used = [V4, V6, PEERS].into_iter().filter(|slot| self.is_shown(index, *slot));
            rows.extend(used.map(|slot| self.row(now, index, slot)));
            if rows.len() == before {
                rows.push(self.row(now, index, V4));
            }
        }
        ProbeReport {
            configured_ms: (self.user_interval() * 7).as_millis() as u64,
            detect_ms: self.detect().as_millis() as u64,
            rows,
            beyond: self.far_rows(),
            sessions: self.sessions.iter().map(session_row).collect(),
            counters: self.counters,
            bfd: self.bfd_counters,
        }
    }

    fn is_shown(&self, index: usize, slot: usize) -> bool {
        let path = &self.members[index].paths[slot];
        match self.way(index, slot) {
            None => false,
            Some(Way::Resolve(_)) => !path.targets.is_empty(),
            Some(Way::Echo(_) | Way::Peers) => true,
        }
    }

    fn row(&self, now: Instant, index: usize, slot: usize) -> ProbeRow {
        let member = &self.members[index];
        let path = &member.paths[slot];
        let run = path.run(None);
        let (mode, address) = match self.way(index, slot).filter(|_| self.is_shown(index, slot)) {
            None => (TargetMode::Disabled, self.test_address(index, slot)),
            Some(Way::Echo(test)) => {
                let hosts = path.targets.iter().all(|t| t.source == TargetSource::Host);
                let mode = if hosts { TargetMode::Multicast } else { TargetMode::Routes };
                (mode, Some(test))
            }
            Some(Way::Resolve(data)) => (TargetMode::Arp, data),
            Some(Way::Peers) => (TargetMode::Transitive, None),
        };
        let quiet = member.quiet_until.map_or(0, |at| at.saturating_since(now).as_millis() as u64);
        let targets = path.targets.iter().filter(|_| mode != TargetMode::Disabled);
        ProbeRow {
            member: index,
            state: self.state_of(index),
            mode,
            address,
            duplicate: member
                .held
                .get(slot)
                .is_some_and(|h| h.is_some_and(|h| h.duplicate.is_some())),
            losses: run.lost,
            acks: run.acked,
            quiet_ms: quiet,
            targets: targets
                .map(|t| TargetRow {
                    target: t.aim,
                    source: t.source,
                    state: t.state,
                    rttavg_ns: t.rtt.average().map(|d| d.as_nanos() as u64),
                    rttdev_ns: t.rtt.deviation().map(|d| d.as_nanos() as u64),
                })
                .collect(),
        }
    }
}

fn session_row(entry: &super::fast::FastSession) -> SessionRow {
    let session = &entry.session;
    let (diagnostic, remote_diagnostic) = session.diagnostics();
    SessionRow {
        member: entry.member,
        peer: entry.peer,
        state: session.state(),
        diagnostic,
        remote_diagnostic,
        discriminator: session.discriminator(),
        tx_us: session.tx_interval().as_micros() as u64,
        detect_us: session.detection_time().as_micros() as u64,
    }
}
