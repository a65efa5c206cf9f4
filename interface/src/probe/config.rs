//! What an operator says of the probes of a failover group.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weft_stack::time::Duration;

use crate::Mac;

/// The shortest failure detection time of probes.
pub const DETECT_MIN: Duration = Duration::from_millis(100);

/// How members are probed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeMethod {
    /// Not at all: their link tells.
    #[default]
    Link,
    /// ICMP and ICMPv6 echo from test addresses; members without one are not probed.
    Icmp,
    /// ARP requests and neighbour solicitations, for members without test addresses.
    Arp,
    /// Members that data addresses are bound to by ARP and ND, the others through those.
    Transitive,
}

/// Probes of one group. Test addresses belong to its members ([`ProbeMember`]).
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeConfig {
    /// Number of the group, unique in the host: it stands in transitive probes.
    pub group: u32,
    /// How members are probed. Those with test addresses by ICMP, unless it is `Link`.
    pub method: ProbeMethod,
    /// Failure detection time; less than [`DETECT_MIN`] counts as that.
    pub detect: Duration,
    /// Whom to probe; the routers of routes if empty, and hosts that answer if there are none.
    pub targets: Vec<IpAddr>,
    /// Hosts behind a router that are probed instead, so that the loss of the gateway is a loss.
    pub beyond: Vec<IpAddr>,
    /// Losses are not counted for so long after the start or link up, until the first answer.
    pub quiet: Duration,
    /// BFD with other hosts.
    pub fast: Option<FastConfig>,
}

impl Default for ProbeConfig {
    fn default() -> ProbeConfig {
        ProbeConfig {
            group: 0,
            method: ProbeMethod::Link,
            detect: Duration::from_secs(10),
            targets: Vec::new(),
            beyond: Vec::new(),
            quiet: Duration::from_secs(40),
            fast: None,
        }
    }
}

/// BFD sessions of a group: one from each member with a test address to each peer.
#[derive(Clone, Debug, PartialEq)]
pub struct FastConfig {
    /// Test addresses of other hosts, or whoever speaks BFD.
    pub peers: Vec<IpAddr>,
    /// Between two packets, both ways, 1 ms at least.
    pub interval: Duration,
    /// So many packets lost are a failure.
    pub multiplier: u8,
}

impl Default for FastConfig {
    fn default() -> FastConfig {
        FastConfig { peers: Vec::new(), interval: Duration::from_millis(3), multiplier: 3 }
    }
}

/// An address of a member that only probes use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TestAddress {
    /// The address. IPv6: link-local, others are not used.
    pub address: IpAddr,
    /// Bits of its subnet.
    pub prefix_len: u8,
}

/// A member of a group, as its probes see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeMember {
    /// Source of its frames.
    pub mac: Mac,
    /// Its test addresses; the first of each family is used.
    pub test: Vec<TestAddress>,
}

impl TestAddress {
    /// Whether `other` is on the subnet of this address.
    pub fn covers(&self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let shift = 32 - u32::from(self.prefix_len.min(32));
                (u32::from(a) ^ u32::from(b)).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(_), IpAddr::V6(b)) => b.is_unicast_link_local(),
            _ => false,
        }
    }
}
