//! What an operator says of the probes of a failover group.

use std::net::IpAddr;

use weft_stack::time::Duration;

use crate::Mac;
use crate::fail::{FastConfig, GroupConfig, ProbeMode};

/// Probes of one group. Test addresses belong to its members ([`ProbeMember`]).
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeConfig {
    /// Number of the group, unique in the host: it stands in transitive probes.
    pub group: u32,
    /// How members are probed. Those with test addresses by ICMP, unless it is `Link`.
    pub method: ProbeMode,
    /// Failure detection time; less than 100 ms counts as that.
    pub detect: Duration,
    /// Whom to probe; the routers of routes if empty, and hosts that answer if there are none.
    pub targets: Vec<IpAddr>,
    /// Hosts behind a router: they are probed by the members in turn, from an IPv4 test address or
    /// a data address, and told of by [`Prober::poll_beyond`](super::Prober::poll_beyond).
    pub beyond: Vec<IpAddr>,
    /// Losses are not counted for so long after the start or link up, until the first answer.
    pub quiet: Duration,
    /// BFD with other hosts: a session from each member with a test address to each peer.
    pub fast: Option<FastConfig>,
}

impl Default for ProbeConfig {
    fn default() -> ProbeConfig {
        ProbeConfig {
            group: 0,
            method: ProbeMode::Link,
            detect: Duration::from_secs(10),
            targets: Vec::new(),
            beyond: Vec::new(),
            quiet: Duration::from_secs(40),
            fast: None,
        }
    }
}

impl ProbeConfig {
    /// The probes of a group; `number` is its own in the host.
    pub fn of(number: u32, config: &GroupConfig) -> ProbeConfig {
        ProbeConfig {
            group: number,
            method: config.probe,
            detect: config.detect,
            targets: config.targets.clone(),
            beyond: config.beyond.clone(),
            quiet: config.quiet,
            fast: config.fast.clone(),
        }
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

impl ProbeMember {
    /// The members of a group, with these MAC addresses, in its order.
    pub fn of(config: &GroupConfig, macs: &[Mac]) -> Vec<ProbeMember> {
        let member = |(name, mac): (&String, &Mac)| {
            let own = config.test.iter().filter(|t| t.0 == *name);
            let test = own.map(|t| TestAddress { address: t.1.addr, prefix_len: t.1.prefix_len });
            ProbeMember { mac: *mac, test: test.collect() }
        };
        config.members.iter().zip(macs).map(member).collect()
    }
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
