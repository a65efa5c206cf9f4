//! What is asked and answered: plain data with a JSON form.

use serde::{Deserialize, Serialize};

use std::collections::BTreeMap;
use std::path::PathBuf;

use weft_interface::bond::BondReport;
use weft_interface::doctor::Diagnosis;
use weft_interface::events::{Event, Page};
use weft_interface::lldp::LldpReport;
use weft_interface::paths::{PathsReport, ProbeLine};

use super::audit::{AuditPage, AuditQuery};
use crate::access::{AccessDecision, AccessQuery, AccessReport};
use crate::capture::{CaptureBatch, CaptureBegun, CaptureError, CaptureStep, CaptureWish};
use crate::change::Applied;
use crate::config::Policy;
use crate::config::PollMode;
use crate::dhcp::{DhcpReport, DhcpWish};
use crate::ping::{PingAnswers, PingError, PingStep};
use crate::qos::QosSnapshot;
use crate::resolver::Resolved;
use crate::sockets::{QueryError, SocketPage, SocketQuery, SocketSummary};
use crate::stats::{HostSnapshot, RuntimeSnapshot};
use crate::{NeighbourReport, ShimError, ShimEventPages, ShimReport, ShimWish};

/// Version of requests and answers.
pub const VERSION: u32 = 1;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// Who answers.
    Ping,
    /// Counters and facts of the whole host.
    Snapshot,
    /// What the workers do with their time.
    Runtime {
        /// Begin all counts anew after the answer.
        #[serde(default)]
        clear: bool,
    },
    /// Sockets, a page at a time.
    Sockets(SocketQuery),
    /// How many sockets there are.
    SocketSummary(SocketQuery),
    /// A step of a ping.
    Echo(PingStep),
    /// What is in force for a vserver, and where it comes from.
    Policy {
        /// Which one.
        vserver: String,
    },
    /// Rates and shares: what is configured, what is used.
    Qos {
        /// Of this one only; left out: of all, and of links and groups.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vserver: Option<String>,
    },
    /// What vservers know of their neighbours, and the tables that they share.
    Neighbours {
        /// Of this one only; left out: of all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vserver: Option<String>,
    },
    /// Access rules in order of evaluation, and what they decided.
    Access {
        /// Of which vserver; left out: of all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vserver: Option<String>,
    },
    /// Which access rule decides about a client.
    AccessTest(AccessQuery),
    /// Records of the log of changes.
    Audit(AuditQuery),
    /// What a name stands for, by the resolver of a vserver; asked again until it is done.
    Resolve {
        /// Which vserver.
        vserver: String,
        /// A name or an address.
        name: String,
    },
    /// The configuration in force, as the text of a file.
    Export {
        /// Values that are defaults too.
        #[serde(default)]
        all: bool,
    },
    /// What the DHCP clients do.
    Dhcp,
    /// Renew or release leases.
    DhcpWish {
        /// Of this vserver.
        vserver: String,
        /// On this alias.
        alias: String,
        /// This one only; left out: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance: Option<u32>,
        /// What to do.
        wish: DhcpWish,
    },
    /// Make another configuration the daemon's, or tell what would change.
    Apply {
        /// Where the text stands: relative paths in it are from there.
        path: PathBuf,
        /// Of the whole file.
        text: String,
        /// Change nothing.
        #[serde(default)]
        dry_run: bool,
        /// Take it back unless it is confirmed within so many seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        confirm_s: Option<u64>,
    },
    /// Keep a change that waits.
    Confirm,
    /// Go back to what was in force before the last change.
    Revert,
    /// Failover groups: addresses, members, targets.
    Paths,
    /// Probes that ended.
    Probes {
        /// Those after this number; left out: none, to learn the number to begin with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<u64>,
    },
    /// What happened to the interfaces.
    Events {
        /// Those after this number; left out: none, to learn the number to begin with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<u64>,
    },
    /// Bonds and their ports, with LACP.
    Bonds,
    /// What is wrong with switches, cables and the tree of interfaces.
    Doctor,
    /// Who speaks LLDP at the other ends of the NICs.
    Lldp,
    /// Multipath shims: their contexts, locators, pairs.
    Shim {
        /// Of this vserver only; left out: of all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vserver: Option<String>,
    },
    /// What happened to contexts of multipath shims.
    ShimEvents {
        /// Of this vserver only; left out: of all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vserver: Option<String>,
        /// Those after these numbers of vservers; of one that is not named, all.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        after: BTreeMap<String, u64>,
    },
    /// Probe the pairs of a context, set one up, or move one to another pair.
    ShimWish(ShimWish),
    /// Copy what a vserver sends and receives, as long as the connection lasts.
    CaptureStart(CaptureWish),
    /// Packets of a capture.
    CaptureNext(CaptureStep),
    /// Take a member out of its failover group, or a port out of its bond; or put it back.
    SetOffline {
        /// Its name.
        interface: String,
        /// Out, or back in.
        offline: bool,
    },
    /// Change how workers wait for frames.
    SetPoll {
        /// From now on.
        mode: PollMode,
        /// This worker only; left out: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        worker: Option<usize>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) version: u32,
    #[serde(flatten)]
    pub(super) command: Command,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Command::Apply`] and [`Command::Revert`].
    Applied(Box<Applied>),
    /// To [`Command::Confirm`].
    Confirmed,
    /// To [`Command::Ping`].
    Pong(Daemon),
    /// To [`Command::Snapshot`].
    Snapshot(Box<HostSnapshot>),
    /// To [`Command::Runtime`].
    Runtime(RuntimeSnapshot),
    /// To [`Command::Sockets`].
    Sockets(SocketPage),
    /// To [`Command::SocketSummary`].
    SocketSummary(SocketSummary),
    /// To [`Command::Echo`].
    Echo(PingAnswers),
    /// To [`Command::Policy`].
    Policy(Box<Policy>),
    /// To [`Command::Qos`].
    Qos(QosSnapshot),
    /// To [`Command::Neighbours`].
    Neighbours(NeighbourReport),
    /// To [`Command::Access`].
    Access(AccessReport),
    /// To [`Command::AccessTest`].
    AccessTest(Vec<AccessDecision>),
    /// To [`Command::Audit`].
    Audit(AuditPage),
    /// To [`Command::Dhcp`].
    Dhcp(DhcpReport),
    /// To [`Command::DhcpWish`].
    DhcpWish {
        /// How many clients it concerns.
        clients: usize,
    },
    /// To [`Command::SetPoll`].
    Poll(PollMode),
    /// To [`Command::Paths`].
    Paths(Box<PathsReport>),
    /// To [`Command::Probes`].
    Probes {
        /// The host's clock, in which probes are dated, in microseconds.
        now_us: u64,
        /// Those that ended.
        probes: Page<ProbeLine>,
    },
    /// To [`Command::Events`].
    Events {
        /// The host's clock, in which events are dated, in microseconds.
        now_us: u64,
        /// What happened.
        events: Page<Event>,
    },
    /// To [`Command::Bonds`].
    Bonds(Vec<(String, BondReport)>),
    /// To [`Command::Doctor`].
    Doctor(Vec<Diagnosis>),
    /// To [`Command::Lldp`].
    Lldp(Vec<LldpReport>),
    /// To [`Command::Shim`].
    Shim(ShimReport),
    /// To [`Command::ShimEvents`].
    ShimEvents {
        /// The host's clock, in which events are dated, in microseconds.
        now_us: u64,
        /// By vserver, each with numbers of its own.
        vservers: ShimEventPages,
    },
    /// To [`Command::ShimWish`].
    ShimWished,
    /// To [`Command::CaptureStart`].
    Capturing(CaptureBegun),
    /// To [`Command::CaptureNext`].
    Captured(CaptureBatch),
    /// To [`Command::SetOffline`].
    Offline {
        /// As asked.
        offline: bool,
    },
    /// To [`Command::Resolve`].
    Resolved(Resolved),
    /// To [`Command::Export`].
    Export(String),
    /// Refused.
    Error(Refusal),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Response {
    pub(super) version: u32,
    #[serde(flatten)]
    pub(super) answer: Answer,
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// Version of the program.
    pub weft: String,
    /// Process id.
    pub pid: u32,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub kind: RefusalKind,
    /// For people.
    pub message: String,
}

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RefusalKind {
    /// Not a request: no JSON, no such command, a field missing.
    BadRequest,
    /// The request has another version than [`VERSION`].
    UnsupportedVersion,
    /// No vserver of that name.
    NoSuchVserver,
    /// No interface of that name that it could be done to.
    NoSuchInterface,
    /// A filter that cannot be read.
    BadFilter,
    /// The operation failed.
    Failed,
    /// The request line is too long.
    TooLong,
    /// Too many clients.
    Busy,
    /// The peer has no role that allows it.
    Denied,
}

impl From<PingError> for Answer {
    fn from(e: PingError) -> Answer {
        let kind = match e {
            PingError::NoSuchVserver(_) => RefusalKind::NoSuchVserver,
            PingError::Ambiguous(_) | PingError::Address(_) => RefusalKind::BadRequest,
            PingError::Busy => RefusalKind::Busy,
            PingError::Over | PingError::Socket { .. } => RefusalKind::Failed,
        };
        Answer::refuse(kind, e.to_string())
    }
}

impl From<ShimError> for Answer {
    fn from(e: ShimError) -> Answer {
        let kind = match e {
            ShimError::NoSuchVserver(_) => RefusalKind::NoSuchVserver,
            ShimError::WhichContext(..) | ShimError::Pair(..) => RefusalKind::BadRequest,
            ShimError::Off(_) | ShimError::Start(..) => RefusalKind::Failed,
        };
        Answer::refuse(kind, e.to_string())
    }
}

impl From<CaptureError> for Answer {
    fn from(e: CaptureError) -> Answer {
        let kind = match e {
            CaptureError::NoSuchVserver(_) => RefusalKind::NoSuchVserver,
            CaptureError::Filter(_) => RefusalKind::BadFilter,
            CaptureError::Busy | CaptureError::BusyVserver(_) => RefusalKind::Busy,
            CaptureError::Over | CaptureError::Stopped => RefusalKind::Failed,
        };
        Answer::refuse(kind, e.to_string())
    }
}

impl From<QueryError> for Answer {
    fn from(e: QueryError) -> Answer {
        let kind = match e {
            QueryError::NoSuchVserver(_) => RefusalKind::NoSuchVserver,
            QueryError::Filter(_) => RefusalKind::BadFilter,
            QueryError::NoSuchProtocol(_) => RefusalKind::BadRequest,
        };
        Answer::refuse(kind, e.to_string())
    }
}

impl Answer {
    /// A refusal.
    pub fn refuse(kind: RefusalKind, message: impl Into<String>) -> Answer {
        Answer::Error(Refusal { kind, message: message.into() })
    }
}
