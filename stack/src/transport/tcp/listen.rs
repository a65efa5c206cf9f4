//! Listeners: who takes a SYN, and the two queues it passes, half open and to be accepted.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use slab::Slab;

use crate::any::{AnyFamily, AnyPort};
use crate::time::Instant;

use super::state::Settings;

/// A listener may have this many half-open connections, whatever its backlog.
const HALF_OPEN_MIN: usize = 16;

#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) local: SocketAddr,
    pub(crate) backlog: usize,
    pub(crate) settings: Arc<Settings>,
    pub(crate) generation: u32,
    pub(crate) event_queued: bool,
    /// Established, oldest first: connection slots.
    pub(crate) accept_queue: VecDeque<u32>,
    /// Its entries in the SYN queue.
    pub(crate) half_open: usize,
    /// It is the host's for any vserver: the number of its binding.
    pub(crate) any: Option<u32>,
    /// When a SYN was last answered by a cookie: ACKs without a connection may bring one.
    pub(crate) cookie_sent_at: Option<Instant>,
}

impl Listener {
    fn new(
        local: SocketAddr,
        backlog: usize,
        settings: Arc<Settings>,
        generation: u32,
    ) -> Listener {
        Listener {
            local,
            backlog: backlog.max(1),
            settings,
            generation,
            event_queued: false,
            accept_queue: VecDeque::new(),
            half_open: 0,
            any: None,
            cookie_sent_at: None,
        }
    }

    pub(crate) fn is_accept_queue_full(&self) -> bool {
        self.accept_queue.len() >= self.backlog
    }

    pub(crate) fn is_syn_queue_full(&self) -> bool {
        self.half_open >= self.backlog.max(HALF_OPEN_MIN)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Listeners {
    slots: Slab<Listener>,
    by_addr: BTreeMap<(IpAddr, u16), u32>,
    /// The host's, by number of the binding; looked for only where the vserver has none.
    any: Vec<(u32, u32)>,
}

impl Listeners {
    /// The vserver's own.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.any.len()
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Listener> {
        self.slots.get(slot as usize)
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Listener> {
        self.slots.get_mut(slot as usize)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Listener)> {
        self.slots.iter().map(|(i, l)| (i as u32, l))
    }

    /// Slots, free ones counted.
    pub(crate) fn slots(&self) -> usize {
        self.slots.capacity()
    }

    pub(crate) fn is_taken(&self, local: SocketAddr) -> bool {
        self.by_addr.contains_key(&(local.ip(), local.port()))
    }

    /// The listener bound to exactly this address.
    pub(crate) fn at(&self, local: SocketAddr) -> Option<&Listener> {
        self.get(*self.by_addr.get(&(local.ip(), local.port()))?)
    }

    /// Adds a listener; the address is free ([`Listeners::is_taken`]).
    pub(crate) fn insert(
        &mut self,
        local: SocketAddr,
        backlog: usize,
        settings: Arc<Settings>,
        generation: u32,
    ) -> u32 {
        let listener = Listener::new(local, backlog, settings, generation);
        let slot = self.slots.insert(listener) as u32;
        self.by_addr.insert((local.ip(), local.port()), slot);
        slot
    }

    /// Adds the queues of a listener for any vserver.
    pub(crate) fn insert_any(
        &mut self,
        port: &AnyPort,
        settings: Arc<Settings>,
        generation: u32,
    ) -> u32 {
        let unspecified = match port.family {
            AnyFamily::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AnyFamily::Both | AnyFamily::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let local = SocketAddr::new(unspecified, port.port);
        let mut listener = Listener::new(local, port.backlog, settings, generation);
        listener.any = Some(port.number);
        let slot = self.slots.insert(listener) as u32;
        self.any.push((port.number, slot));
        slot
    }

    /// The queues of a listener for any vserver.
    pub(crate) fn of_any(&self, number: u32) -> Option<u32> {
        self.any.iter().find(|(n, _)| *n == number).map(|(_, slot)| *slot)
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<Listener> {
        let listener = self.slots.try_remove(slot as usize)?;
        if listener.any.is_some() {
            self.any.retain(|(_, s)| *s != slot);
        } else {
            self.by_addr.remove(&(listener.local.ip(), listener.local.port()));
        }
        Some(listener)
    }

    /// Who takes a SYN to `addr` and `port`: the exact address, then the wildcard of its family,
    /// then `::` for both.
    pub(crate) fn lookup(&self, addr: IpAddr, port: u16) -> Option<u32> {
        let any4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let any6 = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let candidates = if addr.is_ipv4() { [addr, any4, any6] } else { [addr, any6, any6] };
        candidates.iter().find_map(|a| self.by_addr.get(&(*a, port)).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::tcp::tests::settings;

    #[test]
    fn exact_before_wildcard_before_dual_stack() {
        let mut l = Listeners::default();
        let mut add = |a: &str| l.insert(a.parse().unwrap(), 1, settings().into(), 0);
        let (dual, any4) = (add("[::]:80"), add("0.0.0.0:80"));
        let (exact4, exact6) = (add("10.0.0.1:80"), add("[fd00::1]:80"));
        let at = |a: &str| l.lookup(a.parse().unwrap(), 80);
        assert_eq!(at("10.0.0.1"), Some(exact4));
        assert_eq!(at("10.0.0.2"), Some(any4));
        assert_eq!(at("fd00::1"), Some(exact6));
        assert_eq!(at("fd00::2"), Some(dual));
        assert_eq!(l.lookup("10.0.0.1".parse().unwrap(), 81), None);
        l.remove(any4);
        assert_eq!(l.lookup("10.0.0.2".parse().unwrap(), 80), Some(dual));
    }
}
