//! IPv4 and IPv6: input, output, routes, addresses, reassembly, ICMP, PMTU, multicast.

pub mod address;
pub mod route;

/// IP of one stack: addresses, routes, reassembly, PMTU, ICMP, membership.
#[derive(Debug, Default)]
pub(crate) struct Ip {}
