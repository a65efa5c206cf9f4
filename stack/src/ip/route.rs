//! Routes of one stack: longest prefix first, then lowest metric.

use core::net::IpAddr;

use super::address::{AliasId, Cidr};

/// One route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destinations it serves.
    pub prefix: Cidr,
    /// Next hop; `None`: the destination is on the link.
    pub via: Option<IpAddr>,
    /// Out of which alias.
    pub alias: AliasId,
    /// Preferred source address.
    pub src: Option<IpAddr>,
    /// Lower wins among equal prefixes.
    pub metric: u32,
    /// Path MTU cap in bytes; `None`: the alias's.
    pub mtu: Option<usize>,
}
