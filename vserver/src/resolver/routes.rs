//! Routes whose gateway has a name.

use std::net::IpAddr;

use parking_lot::Mutex;
use weft_stack::ip::address::{AliasId, Cidr};
use weft_stack::ip::route::Route;
use weft_stack::stack::Change;

use super::Follow;
use crate::Vserver;
use crate::config::{HostConfig, NamedRoute};
use crate::host::Host;
use crate::stats::NameSnapshot;

/// The named routes of a host, each following its gateway.
#[derive(Debug, Default)]
pub(crate) struct NamedRoutes(Mutex<Vec<(u32, Follow)>>);

impl NamedRoutes {
    /// Follows the gateways of one vserver as `routes` has them, instead of those before.
    pub(crate) fn set(&self, vserver: &Vserver, routes: &[NamedRoute]) {
        let mut all = self.0.lock();
        all.retain(|(index, _)| *index != vserver.index());
        all.extend(routes.iter().map(|r| (vserver.index(), follow(vserver, r))));
    }

    /// How the gateways of a vserver stand.
    pub(crate) fn snapshot(&self, index: u32) -> Vec<NameSnapshot> {
        let all = self.0.lock();
        all.iter().filter(|(i, _)| *i == index).map(|(_, f)| f.snapshot("gateway")).collect()
    }

    /// Follows none any more.
    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *self.0.lock());
        drop(all);
    }
}

impl Host {
    /// Follows the named gateways of a configuration, from the start on.
    pub(crate) fn follow_routes(&self, config: &HostConfig) {
        for v in config.vservers.iter().filter(|v| !v.named_routes.is_empty()) {
            if let Some(vserver) = self.vserver(&v.name) {
                self.named_routes().set(&vserver, &v.named_routes);
            }
        }
    }
}

/// The route stands for as long as it is followed: the follower takes it away at its end.
struct Standing {
    vserver: Vserver,
    routes: Vec<Route>,
}

impl Drop for Standing {
    fn drop(&mut self) {
        let routes = std::mem::take(&mut self.routes);
        apply(&self.vserver, &routes, &[]);
    }
}

fn follow(vserver: &Vserver, named: &NamedRoute) -> Follow {
    let mut standing = Standing { vserver: vserver.clone(), routes: Vec::new() };
    let template = named.clone();
    vserver.follow(&named.via, move |addresses| {
        let wanted = routes(&template, addresses);
        let old = std::mem::replace(&mut standing.routes, wanted.clone());
        apply(&standing.vserver, &old, &wanted);
    })
}

/// One route per family, by the lowest address of it.
fn routes(named: &NamedRoute, addresses: &[IpAddr]) -> Vec<Route> {
    let any = |v6: bool| -> Cidr {
        let addr = if v6 {
            IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)
        } else {
            IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)
        };
        Cidr { addr, prefix_len: 0 }
    };
    let mut found = Vec::new();
    for v6 in [false, true] {
        let to = named.to.unwrap_or_else(|| any(v6));
        let gateway = addresses.iter().find(|a| a.is_ipv6() == v6 && to.addr.is_ipv6() == v6);
        let Some(gateway) = gateway else { continue };
        found.push(Route {
            prefix: to.network(),
            via: Some(*gateway),
            alias: AliasId(named.alias as u16),
            src: named.src.filter(|s| s.is_ipv6() == v6),
            metric: named.metric,
            mtu: None,
        });
    }
    found
}

/// New routes first, so that there is one at every moment; one to the same network over the same
/// alias takes the place of the old one by itself.
fn apply(vserver: &Vserver, old: &[Route], new: &[Route]) {
    let replaced = |o: &Route| {
        let place = |r: &Route| (r.prefix, r.alias, r.metric);
        new.iter().any(|n| place(n) == place(o))
    };
    let changes: Vec<Change> = new
        .iter()
        .filter(|r| !old.contains(r))
        .copied()
        .map(Change::RouteAdd)
        .chain(old.iter().filter(|r| !replaced(r)).copied().map(Change::RouteRemove))
        .collect();
    for change in changes {
        for worker in vserver.workers() {
            // A stopped host has no routes; one that the stack refuses is told below.
            let refused = worker.call(vserver.node(), |node, now| {
                node.stack.handle_config(now, change.clone()).err()
            });
            if let Ok(Some(e)) = refused {
                eprintln!("weft: vserver {}: route by name: {e}", vserver.name());
            }
        }
    }
}
