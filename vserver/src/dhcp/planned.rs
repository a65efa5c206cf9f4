//! The lease that `[cluster.leases]` promises a client.
//!
//! When addresses move, the server's file and every node's cache must learn it: nodes that start
//! together without a server would else come up with the old ones. The cache learns it from the
//! configuration, for that is what reaches every node.

use weft_stack::ip::address::Cidr;

use super::lease::{FOREVER_S, Lease, LeaseRoute};
use crate::config::{DhcpClient, DhcpFamily, HostConfig, Vserver};

/// What servers that were given this configuration would say to a client; `None`: it has no fixed
/// address.
pub(super) fn lease(config: &HostConfig, v: &Vserver, client: &DhcpClient) -> Option<Lease> {
    let cluster = config.cluster.as_ref()?;
    let claim = config.claim(v, client.alias, client.instance)?;
    let v6 = client.family == DhcpFamily::V6;
    let own = |l: &&crate::config::Lease| l.claim == claim && l.address.is_ipv6() == v6;
    let address = cluster.leases.iter().find(own)?.address;
    let subnet = cluster.subnets.iter().find(|s| s.network.contains(address))?;
    let of_family = |all: &[std::net::IpAddr]| -> Vec<std::net::IpAddr> {
        all.iter().copied().filter(|a| a.is_ipv6() == v6).collect()
    };
    let unspecified: std::net::IpAddr = std::net::Ipv4Addr::UNSPECIFIED.into();
    let gateway = subnet.gateway.filter(|_| !v6);
    let route = |via| LeaseRoute { to: unspecified, prefix_len: 0, via: Some(via) };
    let Cidr { prefix_len, .. } = subnet.network;
    let valid_s = subnet.lease_s;
    let part = |eighths| if valid_s == FOREVER_S { FOREVER_S } else { valid_s / 8 * eighths };
    Some(Lease {
        address,
        prefix_len: if v6 { 128 } else { prefix_len },
        server: String::new(),
        valid_s,
        preferred_s: valid_s,
        renew_s: part(4),
        rebind_s: part(7),
        routes: gateway.map(route).into_iter().collect(),
        mtu: subnet.mtu.filter(|_| !v6),
        dns: of_family(&subnet.dns),
        search: subnet.search.clone(),
        ntp: of_family(&subnet.ntp).iter().map(ToString::to_string).collect(),
        host_name: None,
        vendor: Vec::new(),
    })
}
