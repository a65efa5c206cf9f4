//! Failover groups: several members behind one interface, as IPMP has them.
//!
//! A [`Group`] is one interface to everything above it; its members are NICs, bonds or VLANs. It
//! decides which members carry frames (*active*), which of them each data address is reached by,
//! and which one takes broadcast and multicast; the result is a
//! [`GroupSelection`](crate::GroupSelection), and [`Outbound`] on the data path chooses among the
//! active members for each destination.
//!
//! What happens to a member, in the order of its facts:
//!
//! 1. Its link and what probes say ([`ProbeVerdict`](crate::probe::ProbeVerdict)) make it work or
//!    fail. If probes fail on a member and no other has had an answer since, the network behind all
//!    of them failed, and so does the group.
//! 2. The operator, or a MAC address that another member has too, may put it offline.
//! 3. Of those that are left some wait (*inactive*): standby members while enough others carry
//!    frames, and repaired ones if `failback` is off. When an active one goes, one that waits
//!    takes its place.
//! 4. Addresses are bound to the active ones ([`inbound`]), and destinations ([`outbound`]).
//!
//! A member is `usable` if it neither failed nor is offline. While one is usable, one is active.
//! Where facts and failures of links come too often, a repair is withheld for a while ([`damping`]).
//!
//! Everything is driven by calls with the time as argument; after any of them look at
//! [`Group::poll_event`], [`Group::take_changed`], [`Group::announcements`],
//! [`Group::poll_handover`] and [`Group::poll_timeout`].

pub mod config;
pub(crate) mod damping;
mod duplicate;
mod event;
mod group;
mod health;
mod inbound;
mod member;
mod offline;
pub mod outbound;
mod policy;
#[cfg(test)]
mod random_tests;
mod report;
#[cfg(test)]
mod tests;

pub use config::{ConfigError, FastConfig, GroupConfig, ProbeMode};
pub use event::log_line;
pub use group::{Family, Group, Handover, MemberError, MemberInfo};
pub use inbound::{ADDRESSES_MAX, Announcement};
pub use offline::{OfflineError, UndoError};
pub use outbound::Outbound;
pub use report::{GroupCounters, GroupReport, MemberCounters, MemberReport, MemberState};
