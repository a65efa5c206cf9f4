//! One client with its place in the host.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use weft_stack::ip::address::{AcdPace, AliasId, Cidr};
use weft_stack::ip::route::Route;
use weft_stack::time::Instant;

use super::client::{Action, Common, State};
use super::lease::{Lease, span};
use super::status::DhcpLine;
use super::tap::{Tag, Unproven};
use super::v4::Client4;
use super::v6::Client6;
use crate::config::DhcpClient;

/// Either protocol.
#[derive(Debug)]
pub(super) enum Machine {
    V4(Box<Client4>),
    V6(Box<Client6>),
}

/// What the stack has of a lease.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Applied {
    pub(super) cidr: Cidr,
    pub(super) routes: Vec<Route>,
    pub(super) mtu: Option<usize>,
}

/// Link of a client, by number and name, and the hardware address it asks with.
pub(super) struct Place {
    pub(super) link: usize,
    pub(super) name: String,
    pub(super) mac: [u8; 6],
}

/// A client of a vserver.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) vserver: String,
    pub(super) index: crate::runtime::NodeId,
    pub(super) alias: AliasId,
    pub(super) alias_name: String,
    pub(super) link: usize,
    /// Its name, which stays when numbers change.
    pub(super) link_name: String,
    pub(super) mac: [u8; 6],
    pub(super) id: String,
    pub(super) config: DhcpClient,
    /// How fast addresses on the alias are probed.
    pub(super) pace: AcdPace,
    /// What the configuration says that servers give it.
    pub(super) planned: Option<Lease>,
    /// `None`: a DHCPv6 client that has no link-local address to speak from yet.
    pub(super) machine: Option<Machine>,
    pub(super) applied: Option<Applied>,
    /// What of the lease could not be applied.
    pub(super) refused: Option<String>,
    /// Strange servers told of.
    pub(super) strange: u64,
    /// Who sent the last answer on the link: the server, or a relay.
    pub(super) via: Option<[u8; 6]>,
    pub(super) tag: Option<Tag>,
    pub(super) armed: Option<Instant>,
}

impl Slot {
    /// Its name in the cache.
    pub(super) fn key(&self) -> String {
        format!("{} {}", self.config.family.name(), self.id)
    }

    pub(super) fn common(&self) -> Option<&Common> {
        self.machine.as_ref().map(|m| match m {
            Machine::V4(c) => &c.common,
            Machine::V6(c) => &c.common,
        })
    }

    pub(super) fn state(&self) -> State {
        match &self.machine {
            None => State::Selecting,
            Some(Machine::V4(c)) => c.state(),
            Some(Machine::V6(c)) => c.state(),
        }
    }

    /// Transaction id of what is asked now.
    pub(super) fn asks(&self) -> Option<Tag> {
        Some(match self.machine.as_ref()? {
            Machine::V4(c) => Tag::V4(c.xid()),
            Machine::V6(c) => Tag::V6(c.xid()),
        })
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.machine.as_ref()? {
            Machine::V4(c) => c.deadline(),
            Machine::V6(c) => c.deadline(),
        }
    }

    pub(super) fn timeout(&mut self, now: Instant) {
        match &mut self.machine {
            Some(Machine::V4(c)) => c.timeout(now),
            Some(Machine::V6(c)) => c.timeout(now),
            None => {}
        }
    }

    pub(super) fn receive(&mut self, now: Instant, data: &[u8]) {
        match &mut self.machine {
            Some(Machine::V4(c)) => c.receive(now, data),
            Some(Machine::V6(c)) => c.receive(now, data),
            None => {}
        }
    }

    /// A message came for it whose checksums are wrong.
    pub(super) fn unproven(&mut self, why: Unproven) {
        let counts = match &mut self.machine {
            Some(Machine::V4(c)) => &mut c.common.counts,
            Some(Machine::V6(c)) => &mut c.common.counts,
            None => return,
        };
        match why {
            Unproven::Header => counts.bad_header += 1,
            Unproven::Udp => counts.bad_checksum += 1,
            Unproven::None => counts.no_checksum += 1,
        }
    }

    pub(super) fn checked(&mut self, now: Instant, addr: IpAddr, rival: Option<&str>) {
        match (&mut self.machine, addr) {
            (Some(Machine::V4(c)), IpAddr::V4(addr)) => c.checked(now, addr, rival),
            (Some(Machine::V6(c)), IpAddr::V6(addr)) => c.checked(now, addr, rival),
            _ => {}
        }
    }

    pub(super) fn renew(&mut self, now: Instant) {
        match &mut self.machine {
            Some(Machine::V4(c)) => c.renew(now),
            Some(Machine::V6(c)) => c.renew(now),
            None => {}
        }
    }

    pub(super) fn release(&mut self, now: Instant) {
        match &mut self.machine {
            Some(Machine::V4(c)) => c.release(now),
            Some(Machine::V6(c)) => c.release(now),
            None => {}
        }
    }

    /// Its alias may stand elsewhere now, and links may have other numbers. Returns whether the server
    /// is asked again: it knows whether the lease is good there.
    pub(super) fn stand(&mut self, now: Instant, place: Place) -> bool {
        self.link = place.link;
        let moved = self.link_name != place.name;
        if moved {
            self.link_name = place.name;
            self.renew(now);
        }
        moved
    }

    /// The link came up: what waits to be sent is sent now.
    pub(super) fn link_up(&mut self, now: Instant) {
        match &mut self.machine {
            Some(Machine::V4(c)) => c.hurry(now),
            Some(Machine::V6(c)) => c.hurry(now),
            None => {}
        }
    }

    pub(super) fn poll(&mut self) -> Option<Action> {
        match self.machine.as_mut()? {
            Machine::V4(c) => c.poll(),
            Machine::V6(c) => c.poll(),
        }
    }

    /// What the stack is to have of a lease.
    pub(super) fn wanted(&self, lease: &Lease) -> Applied {
        let route = |r: &super::lease::LeaseRoute| Route {
            prefix: Cidr { addr: r.to, prefix_len: r.prefix_len },
            via: r.via,
            alias: self.alias,
            src: None,
            metric: super::driver::ROUTE_METRIC,
            mtu: None,
        };
        let takes = self.config.routes;
        let mut routes: Vec<Route> = lease.routes.iter().filter(|_| takes).map(route).collect();
        // A gateway may stand behind a route to itself.
        routes.sort_by_key(|r| r.via.is_some());
        Applied { cidr: lease.cidr(), routes, mtu: lease.mtu.filter(|_| takes).map(usize::from) }
    }

    pub(super) fn line(&self, now: Instant) -> DhcpLine {
        let common = self.common();
        let held = common.and_then(|c| c.held.as_ref());
        let lease = held.map(|h| &h.lease);
        let left = |at: Option<Instant>| at.map(|at| at.saturating_since(now).as_secs());
        let mut counters = BTreeMap::new();
        if let Some(common) = common {
            common.counts.for_each(|name, n| {
                if n > 0 {
                    counters.insert(name.to_owned(), n);
                }
            });
        }
        let waits = || String::from("no link-local address yet");
        let error = match common {
            Some(common) => common.error.clone().or_else(|| self.refused.clone()),
            None => Some(waits()),
        };
        DhcpLine {
            vserver: self.vserver.clone(),
            alias: self.alias_name.clone(),
            family: self.config.family.name().to_owned(),
            instance: self.config.instance,
            id: self.id.clone(),
            state: self.state(),
            address: lease.map(|l| l.cidr().to_string()),
            server: lease.map(Lease::server_text),
            valid_s: lease.filter(|l| span(l.valid_s).is_some()).map(|l| l.valid_s),
            left_s: held.and_then(|h| left(h.expires)),
            renew_in_s: held.and_then(|h| left(h.renew_at)),
            rebind_in_s: held.and_then(|h| left(h.rebind_at)),
            routes: lease.map(|l| l.routes.clone()).unwrap_or_default(),
            mtu: lease.and_then(|l| l.mtu),
            dns: lease.map(|l| l.dns.iter().map(ToString::to_string).collect()).unwrap_or_default(),
            search: lease.map(|l| l.search.clone()).unwrap_or_default(),
            ntp: lease.map(|l| l.ntp.clone()).unwrap_or_default(),
            host_name: lease.and_then(|l| l.host_name.clone()),
            vendor: lease.map(|l| l.vendor.clone()).unwrap_or_default(),
            error,
            counters,
        }
    }
}

/// How much of the preferred lifetime is left when `left` of the valid one is.
pub(super) fn preferred_left(lease: &Lease, left: Option<Duration>) -> Option<Duration> {
    let (valid, preferred) = (span(lease.valid_s), span(lease.preferred_s)?);
    match (valid, left) {
        (Some(valid), Some(left)) => Some(preferred.saturating_sub(valid.saturating_sub(left))),
        _ => Some(preferred),
    }
}
