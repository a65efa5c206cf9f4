//! Aggregates: several ports that act as one (IEEE 802.1AX).
//!
//! A [`Bond`] is a set of ports with one MAC address. It decides which of them may send
//! (*distribute*) and whose frames are taken (*collect*); the result is a
//! [`BondSelection`](crate::BondSelection), and a [`Distributor`] on the data path chooses among
//! the ports for each frame ([`hash`]). How it decides is its [`Mode`]: by link alone (`static`,
//! `round-robin`), one of those with link (`active-backup`), or negotiated (`lacp`).
//!
//! With LACP both ends tell each other who they are and what they would do, for each port. A port
//! passes through four machines, in the order in which facts flow:
//!
//! 1. *Receive* ([`lacp`]) keeps what the partner says, and forgets it when the partner is silent.
//! 2. *Selection* looks at all ports: those with one partner, key and speed are one aggregate;
//!    a bond uses one, others are left out, some of it may be standby.
//! 3. *Mux* joins a selected port to the aggregate (after 2 s, in which others can come), tells
//!    that (in sync), and when the partner is in sync as well begins to collect and to distribute.
//! 4. *Periodic* and *Transmit* send a LACPDU as often as the partner asks, and when it has to know
//!    of a change, but at most three a second.
//!
//! *Churn detection* watches for ends that never come together. *Markers* empty a port before it
//! leaves in order. A port whose link goes down leaves within the call that says so.
//!
//! Everything is driven by calls with the time as argument: [`Bond::handle_link`],
//! [`Bond::handle_frame`], [`Bond::handle_timeout`]; after any of them look at
//! [`Bond::poll_transmit`], [`Bond::poll_event`], [`Bond::take_changed`] and
//! [`Bond::poll_timeout`]. [`Bond::save`] and [`Bond::restore`] carry an aggregate over a restart of
//! the process, and over a change of its configuration.

mod aggregate;
mod change;
#[cfg(test)]
mod change_tests;
pub mod config;
#[cfg(test)]
mod doctor_tests;
mod event;
pub mod hash;
#[cfg(test)]
mod lab_tests;
pub mod lacp;
#[cfg(test)]
mod property_tests;
mod report;
mod saved;
#[cfg(test)]
mod tests;

pub use aggregate::{Bond, PortLink};
pub use config::{BondConfig, HashPolicy, LacpConfig, Mode, PortConfig};
pub use event::{BondEvent, Unused};
pub use hash::Distributor;
pub use report::{
    BondReport, EndReport, LacpPortReport, LacpReport, PartnerReport, PortReport, SaidReport,
    StateReport,
};
pub use saved::{SavedBond, SavedPort};
