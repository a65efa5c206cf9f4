//! What a prober tells: the stream of probes, and what is worth a line in a log.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::bfd;
use super::path::{ProbeTarget, TargetState};

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeOutcome {
    /// It was sent.
    Sent,
    /// It was answered (also after it was given up).
    Acked,
    /// It was given up.
    Lost,
}

/// One line of the stream of probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeEvent {
    /// When the probe was sent, in nanoseconds since the origin of time.
    pub sent_ns: u64,
    /// Member, by its position.
    pub member: usize,
    /// Number of the probe, of this member and family; wraps at 65536.
    pub number: u16,
    /// What became of it.
    pub outcome: ProbeOutcome,
    /// Round trip on the wire.
    pub netrtt_ns: Option<u64>,
    /// Round trip until the prober handled the answer.
    pub rtt_ns: Option<u64>,
    /// Average of its target.
    pub rttavg_ns: Option<u64>,
    /// Mean deviation of its target.
    pub rttdev_ns: Option<u64>,
    /// Who was probed; `None`: all hosts.
    pub target: Option<ProbeTarget>,
}

/// Something that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "notice", rename_all = "kebab-case")]
pub enum ProbeNotice {
    /// Another host has the test address too, or another member: it is not used.
    DuplicateTestAddress {
        /// Member, by its position.
        member: usize,
        /// The address.
        address: IpAddr,
    },
    /// No other host has the test address any more: it is used again.
    TestAddressUnique {
        /// Member, by its position.
        member: usize,
        /// The address.
        address: IpAddr,
    },
    /// Targets are too slow for the configured failure detection time.
    DetectRaised {
        /// Failure detection time now, in milliseconds.
        detect_ms: u64,
    },
    /// The failure detection time is shorter again.
    DetectLowered {
        /// Failure detection time now, in milliseconds.
        detect_ms: u64,
    },
    /// A target was found, put aside, or is back.
    Target {
        /// Member, by its position.
        member: usize,
        /// Who.
        target: ProbeTarget,
        /// Its state; `None`: it was deleted.
        state: Option<TargetState>,
    },
    /// A BFD session changed its state.
    Session {
        /// Member, by its position.
        member: usize,
        /// The other end.
        peer: IpAddr,
        /// State now.
        state: bfd::State,
        /// Why it left the last one.
        diagnostic: bfd::Diagnostic,
    },
}
