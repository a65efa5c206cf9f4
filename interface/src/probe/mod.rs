//! Probes: does a member reach anybody? ICMP, ARP and ND, transitive, and BFD.
//!
//! A [`Prober`] serves one failover group. It is a small host of its own: it answers ARP, ND and
//! echo for the test addresses of members, finds the MAC addresses of its targets, and says of
//! each member whether it works. What follows from that is decided elsewhere ([`crate::fail`]).

pub mod bfd;
mod change;
mod config;
mod event;
mod far;
mod fast;
mod group;
mod input;
mod judge;
mod path;
mod report;
mod rtt;
mod send;
mod verdict;
mod wire;

pub use crate::fail::{FastConfig, ProbeMode};
pub use crate::paths::TargetMode;
pub use config::{ProbeConfig, ProbeMember, TestAddress};
pub use event::{ProbeEvent, ProbeNotice, ProbeOutcome};
pub use fast::{BFD_PORT, BfdCounters};
pub use group::{PROBE_MEMBERS_MAX, Prober};
pub use path::{ACKS_REPAIR, LOSSES_FAIL, ProbeTarget, TargetSource, TargetState};
pub use report::{FarRow, ProbeCounters, ProbeReport, ProbeRow, SessionRow, TargetRow};
pub use verdict::{ProbeState, ProbeVerdict};

#[cfg(test)]
mod fast_tests;
#[cfg(test)]
mod lab_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;
