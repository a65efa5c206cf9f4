//! What operators are told of clients.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::client::State;
use super::lease::LeaseRoute;

/// One client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhcpLine {
    /// Its vserver.
    pub vserver: String,
    /// Its alias.
    pub alias: String,
    /// `v4` or `v6`.
    pub family: String,
    /// Which address of the vserver on the alias.
    pub instance: u32,
    /// The client identifier.
    pub id: String,
    /// Where it is.
    pub state: State,
    /// The address with its prefix length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Who gave it: an address, or a DUID in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Seconds for which it was given; none: for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_s: Option<u32>,
    /// Seconds that are left of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_s: Option<u64>,
    /// Seconds until its server is asked to renew it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renew_in_s: Option<u64>,
    /// Seconds until any server is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebind_in_s: Option<u64>,
    /// Routes of the lease.
    #[serde(default)]
    pub routes: Vec<LeaseRoute>,
    /// MTU of the lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Name servers.
    #[serde(default)]
    pub dns: Vec<String>,
    /// Domains to search.
    #[serde(default)]
    pub search: Vec<String>,
    /// Time servers.
    #[serde(default)]
    pub ntp: Vec<String>,
    /// Name that the server gives the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_name: Option<String>,
    /// Encapsulated vendor options: code, bytes in hexadecimal digits.
    #[serde(default)]
    pub vendor: Vec<(u16, String)>,
    /// What went wrong last; gone when a lease is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Counters that are not zero.
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
}

/// All clients of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhcpReport {
    /// By vserver, alias, family, instance.
    pub clients: Vec<DhcpLine>,
    /// Messages of servers lost because too many waited.
    pub lost: u64,
}

/// What leases say that is not the stack's: for a vserver's resolver and clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DhcpFacts {
    /// Name servers, in order of the clients.
    pub dns: Vec<std::net::IpAddr>,
    /// Domains to search.
    pub search: Vec<String>,
    /// Time servers, addresses or names.
    pub ntp: Vec<String>,
}

/// Why an operator's wish was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DhcpError {
    /// Nothing is asked for there.
    #[error("vserver '{vserver}' asks for no address on '{alias}'; `weft dhcp` lists who does")]
    NoClient {
        /// Of which vserver.
        vserver: String,
        /// On which alias.
        alias: String,
    },
}

/// What an operator wants of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DhcpWish {
    /// Ask for more time, or begin anew.
    Renew,
    /// Give the address back and stay without until a renew.
    Release,
}
