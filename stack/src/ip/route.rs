//! Routes of one stack: longest prefix first, then lowest metric.

use core::net::IpAddr;

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::address::{AliasId, Cidr, bits};
use crate::ctx::Ctx;
use crate::hash::ConfiguredKeys;
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

/// The routing table: one hash lookup per prefix length in use, whatever the number of routes.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// By network; the routes of one network by metric, equal metrics in order of insertion.
    by_prefix: HashMap<Cidr, SmallVec<[Route; 1]>, ConfiguredKeys>,
    v4: Lengths,
    v6: Lengths,
    count: usize,
    /// Grows with every change.
    version: u64,
}

/// Prefix lengths in use, longest first, with the number of networks of each.
#[derive(Debug, Default)]
struct Lengths(SmallVec<[(u8, u32); 8]>);

impl Lengths {
    fn add(&mut self, len: u8) {
        match self.0.binary_search_by(|(l, _)| len.cmp(l)) {
            Ok(at) => self.0[at].1 += 1,
            Err(at) => self.0.insert(at, (len, 1)),
        }
    }

    fn remove(&mut self, len: u8) {
        if let Ok(at) = self.0.binary_search_by(|(l, _)| len.cmp(l)) {
            self.0[at].1 -= 1;
            if self.0[at].1 == 0 {
                self.0.remove(at);
            }
        }
    }
}

impl Routes {
    /// Grows with every change.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Where [`Routes::version`] stands.
    pub(crate) fn version_ref(&self) -> &u64 {
        &self.version
    }

    fn lengths(&mut self, prefix: Cidr) -> &mut Lengths {
        if prefix.addr.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }

    /// Adds a route, replacing one with equal prefix, metric and alias. `Err`: the limit.
    pub(crate) fn insert(&mut self, mut route: Route, limit: usize) -> Result<(), ChangeError> {
        route.prefix = route.prefix.network();
        self.version += 1;
        if let Some(list) = self.by_prefix.get_mut(&route.prefix) {
            let same = |r: &&mut Route| r.metric == route.metric && r.alias == route.alias;
            if let Some(old) = list.iter_mut().find(same) {
                *old = route;
                return Ok(());
            }
        }
        if self.count >= limit {
            return Err(ChangeError::Limit("routes"));
        }
        let list = self.by_prefix.entry(route.prefix).or_default();
        let at = list.partition_point(|r| r.metric <= route.metric);
        list.insert(at, route);
        let first = list.iter().count() == 1;
        self.count += 1;
        if first {
            self.lengths(route.prefix).add(route.prefix.prefix_len);
        }
        Ok(())
    }

    /// The same within the stack's limit, which counts what it refuses.
    pub(crate) fn insert_for(
        &mut self,
        ctx: &mut Ctx<'_>,
        route: Route,
    ) -> Result<(), ChangeError> {
        let done = self.insert(route, ctx.limits.routes);
        ctx.mib.limits.routes += u64::from(done.is_err());
        done
    }

    /// Removes the route with this prefix, metric, alias and next hop; whether there was one.
    pub(crate) fn remove(&mut self, route: &Route) -> bool {
        let prefix = route.prefix.network();
        let Some(list) = self.by_prefix.get_mut(&prefix) else { return false };
        let same =
            |r: &Route| r.metric == route.metric && r.alias == route.alias && r.via == route.via;
        let Some(at) = list.iter().position(same) else { return false };
        list.remove(at);
        self.version += 1;
        let last = list.is_empty();
        self.count -= 1;
        if last {
            self.by_prefix.remove(&prefix);
            self.lengths(prefix).remove(prefix.prefix_len);
        }
        true
    }

    /// Removes all routes out of an alias.
    pub(crate) fn remove_alias(&mut self, alias: AliasId) {
        let gone: Vec<Route> = self.iter().filter(|r| r.alias == alias).copied().collect();
        for route in gone {
            self.remove(&route);
        }
    }

    /// The best route to `dst` that `usable` accepts: longest prefix, then lowest metric.
    #[inline]
    pub(crate) fn lookup(&self, dst: IpAddr, usable: impl Fn(&Route) -> bool) -> Option<&Route> {
        let lengths = if dst.is_ipv4() { &self.v4 } else { &self.v6 };
        debug_assert!(lengths.0.iter().all(|(len, _)| *len <= bits(dst)));
        lengths.0.iter().find_map(|(prefix_len, _)| {
            let prefix = Cidr { addr: dst, prefix_len: *prefix_len }.network();
            self.by_prefix.get(&prefix)?.iter().find(|r| usable(r))
        })
    }

    /// All routes, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Route> {
        self.by_prefix.values().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table() -> Routes {
        Routes::default()
    }

    fn route(prefix: &str, alias: u16, metric: u32) -> Route {
        Route {
            prefix: prefix.parse().unwrap(),
            via: None,
            alias: AliasId(alias),
            src: None,
            metric,
            mtu: None,
        }
    }

    #[test]
    fn longest_prefix_then_lowest_metric() {
        let mut t = table();
        for r in [
            route("0.0.0.0/0", 1, 10),
            route("0.0.0.0/0", 2, 5),
            route("10.0.0.0/8", 3, 100),
            route("10.1.0.0/16", 4, 100),
            route("10.1.2.3/32", 5, 0),
            route("::/0", 6, 0),
        ] {
            t.insert(r, 100).unwrap();
        }
        let to =
            |t: &Routes, dst: &str| t.lookup(dst.parse().unwrap(), |_| true).map(|r| r.alias.0);
        assert_eq!(to(&t, "8.8.8.8"), Some(2));
        assert_eq!(to(&t, "10.9.9.9"), Some(3));
        assert_eq!(to(&t, "10.1.9.9"), Some(4));
        assert_eq!(to(&t, "10.1.2.3"), Some(5));
        assert_eq!(to(&t, "2001:db8::1"), Some(6));
        // An unusable route gives way to the next by metric, then to a shorter prefix.
        let up = |r: &Route| r.alias.0 != 2 && r.alias.0 != 4;
        assert_eq!(t.lookup("8.8.8.8".parse().unwrap(), up).unwrap().alias.0, 1);
        assert_eq!(t.lookup("10.1.9.9".parse().unwrap(), up).unwrap().alias.0, 3);
        assert!(t.remove(&route("0.0.0.0/0", 2, 5)) && !t.remove(&route("0.0.0.0/0", 2, 5)));
        assert_eq!(to(&t, "8.8.8.8"), Some(1));
        t.remove_alias(AliasId(1));
        assert_eq!(to(&t, "8.8.8.8"), None);
    }

    #[test]
    fn equal_prefix_metric_and_alias_replace_and_the_limit_holds() {
        let mut t = table();
        t.insert(route("10.0.0.0/8", 1, 0), 1).unwrap();
        let mut via = route("10.0.0.0/8", 1, 0);
        via.via = Some("10.0.0.1".parse().unwrap());
        t.insert(via, 1).unwrap();
        assert_eq!(t.iter().count(), 1);
        assert_eq!(t.lookup("10.2.3.4".parse().unwrap(), |_| true), Some(&via));
        assert_eq!(t.insert(route("11.0.0.0/8", 1, 0), 1), Err(ChangeError::Limit("routes")));
    }

    fn any_route() -> impl Strategy<Value = Route> {
        // Few bits vary, so that prefixes nest and collide.
        (any::<bool>(), 0u32..16, 0u8..=32, 0u32..3, 0u16..3).prop_map(
            |(v6, host, len, metric, alias)| {
                let addr: IpAddr = if v6 {
                    core::net::Ipv6Addr::from(u128::from(host) << 96 | u128::from(host)).into()
                } else {
                    core::net::Ipv4Addr::from(host << 28 | host).into()
                };
                let prefix = Cidr { addr, prefix_len: len }.network();
                Route { prefix, via: None, alias: AliasId(alias), src: None, metric, mtu: None }
            },
        )
    }

    proptest! {
        #[test]
        fn lookup_agrees_with_a_linear_scan(
            added in proptest::collection::vec(any_route(), 0..60),
            removed in proptest::collection::vec(any_route(), 0..60),
            hosts in proptest::collection::vec((any::<bool>(), 0u32..16), 1..40),
        ) {
            let mut t = table();
            let mut model: Vec<Route> = Vec::new();
            for r in added {
                t.insert(r, 1000).unwrap();
                let same = |m: &Route| (m.prefix, m.metric, m.alias) == (r.prefix, r.metric, r.alias);
                if !model.iter().any(same) {
                    model.push(r);
                }
            }
            for r in removed {
                let before = model.len();
                model.retain(|m| m != &r);
                prop_assert_eq!(t.remove(&r), model.len() < before);
            }
            prop_assert_eq!(t.iter().count(), model.len());
            for (v6, host) in hosts {
                let dst: IpAddr = if v6 {
                    core::net::Ipv6Addr::from(u128::from(host) << 96 | 7).into()
                } else {
                    core::net::Ipv4Addr::from(host << 28 | 7).into()
                };
                let best = model
                    .iter()
                    .filter(|r| r.prefix.contains(dst))
                    .max_by_key(|r| (r.prefix.prefix_len, core::cmp::Reverse(r.metric)));
                let found = t.lookup(dst, |_| true);
                prop_assert_eq!(
                    found.map(|r| (r.prefix, r.metric)),
                    best.map(|r| (r.prefix, r.metric))
                );
            }
        }
    }
}
