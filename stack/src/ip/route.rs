//! Routes of one stack: longest prefix first, then lowest metric.

use core::net::IpAddr;

use super::address::{AliasId, Cidr};
use crate::stack::ChangeError;

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

/// The routing table.
#[derive(Debug, Default)]
pub(crate) struct Routes {}

impl Routes {
    /// Adds a route, replacing one with equal prefix, metric and alias. `Err`: the limit.
    pub(crate) fn insert(&mut self, route: Route, limit: usize) -> Result<(), ChangeError> {
        let _ = (route, limit);
        todo!()
    }

    /// Removes the route with this prefix, metric, alias and next hop; whether there was one.
    pub(crate) fn remove(&mut self, route: &Route) -> bool {
        let _ = route;
        todo!()
    }
}
