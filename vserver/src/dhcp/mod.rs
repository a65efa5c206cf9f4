//! Addresses from DHCP servers.
//!
//! One client per address that the configuration asks for, DHCPv4 or DHCPv6, each under its own name
//! ([`crate::naming`]), many on one NIC with one MAC address.

mod apply;
#[cfg(test)]
mod bench;
mod cache;
mod client;
mod driver;
mod lease;
mod message4;
mod message6;
mod planned;
mod slot;
mod status;
mod tap;
mod v4;
mod v6;

pub use client::{DhcpCounts, State};
pub(crate) use driver::Dhcp;
pub use lease::{FOREVER_S, Lease, LeaseRoute};
pub use status::{DhcpError, DhcpFacts, DhcpLine, DhcpReport, DhcpWish};
pub(crate) use tap::Tap;
