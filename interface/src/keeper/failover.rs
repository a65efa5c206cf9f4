//! A failover group with its probes, as one machine.

use std::net::IpAddr;

use super::standin::{Announcement, Group};
use crate::{GroupSelection, Mac};
use weft_stack::time::Instant;

/// Why a member cannot be taken out, or put back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfflineError {
    /// Nothing of that name.
    #[error("there is no interface '{0}'")]
    Unknown(String),
    /// It is in nothing that could go on without it.
    #[error("{0} is neither a member of a failover group nor a port of a bond")]
    NotAMember(String),
    /// The last one.
    #[error("{0} is the last member of {1} that can be used; bring another one up first")]
    Last(String, String),
    /// It is out.
    #[error("{0} is offline already")]
    Already(String),
    /// It is not.
    #[error("{0} is not offline")]
    NotOffline(String),
    /// Another member has its MAC address.
    #[error("{0} has the same MAC address as {1}; give one of them another")]
    DuplicateMac(String, String),
}

#[derive(Debug)]
pub(super) struct Failover {
    pub(super) group: Group,
}

impl Failover {
    pub(super) fn new(members: usize) -> Failover {
        Failover { group: Group::new(members) }
    }

    pub(super) fn handle_frame(&mut self, _now: Instant, _member: usize, _frame: &[u8]) {}

    pub(super) fn handle_link(&mut self, now: Instant, member: usize, up: bool) {
        self.group.handle_health(now, member, up);
    }

    pub(super) fn handle_timeout(&mut self, _now: Instant) {}

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    pub(super) fn address_added(&mut self, _now: Instant, addr: IpAddr, mac: Option<Mac>) {
        self.group.address_added(addr, mac);
    }

    pub(super) fn address_removed(&mut self, _now: Instant, addr: IpAddr, mac: Option<Mac>) {
        self.group.address_removed(addr, mac);
    }

    pub(super) fn selection(&self) -> GroupSelection {
        self.group.selection().clone()
    }

    pub(super) fn is_up(&self) -> bool {
        !self.group.selection().active.is_empty()
    }

    pub(super) fn poll_announcement(&mut self) -> Option<Announcement> {
        self.group.poll_announcement()
    }
}
