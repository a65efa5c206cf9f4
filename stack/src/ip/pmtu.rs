//! Path MTU cache (RFC 1191, RFC 8201): what routers told, or connections found out by probing
//! (RFC 4821), for ten minutes, per destination; below a multipath shim per pair of locators, since
//! each leaves by its own provider.

use core::net::IpAddr;
use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::rng::Key;
use crate::time::{Duration, Instant};

/// RFC 8201 4: an increase is tried again after ten minutes.
const LIFETIME: Duration = Duration::from_mins(10);
/// The least a router can claim: less would let a forger choke a path (Linux's `min_pmtu`).
const IPV4_MIN: usize = 552;
/// RFC 8200 5.
pub(crate) const IPV6_MIN: usize = 1280;

/// What an entry is about: a destination, from wherever (`None`) or from one address of ours.
pub(crate) type Ends = (Option<IpAddr>, IpAddr);

#[derive(Clone, Copy, Debug)]
struct Entry {
    mtu: usize,
    until: Instant,
}

/// The cache. Bounded; the oldest entry makes room.
#[derive(Debug)]
pub(crate) struct PmtuCache {
    entries: HashMap<Ends, Entry, Key>,
    /// In order of insertion, which is the order of expiry. A refreshed entry is in here twice; the
    /// older mention is recognised by its `until`.
    order: VecDeque<(Ends, Instant)>,
    evicted: u64,
}

impl PmtuCache {
    /// An empty cache.
    pub(crate) fn new(key: Key) -> PmtuCache {
        PmtuCache { entries: HashMap::with_hasher(key), order: VecDeque::new(), evicted: 0 }
    }

    /// The MTU between `ends`, if it is known to be lower than the link's.
    #[inline]
    pub(crate) fn get(&self, now: Instant, ends: Ends) -> Option<usize> {
        if self.entries.is_empty() {
            return None;
        }
        self.entries.get(&ends).filter(|e| e.until > now).map(|e| e.mtu)
    }

    /// Lowers the MTU between `ends`; never raises it. Returns whether that changed anything.
    pub(crate) fn lower(&mut self, now: Instant, ends: Ends, mtu: usize, limit: usize) -> bool {
        let mtu = mtu.max(if ends.1.is_ipv4() { IPV4_MIN } else { IPV6_MIN });
        if self.get(now, ends).is_some_and(|old| old <= mtu) || limit == 0 {
            return false;
        }
        self.insert(now, ends, mtu, limit);
        true
    }

    /// Whatever was known: the MTU between `ends` is this; `None`: not lower than the link's.
    pub(crate) fn set(&mut self, now: Instant, ends: Ends, mtu: Option<usize>, limit: usize) {
        match mtu.filter(|_| limit > 0) {
            Some(mtu) => self.insert(now, ends, mtu, limit),
            None => drop(self.entries.remove(&ends)),
        }
    }

    fn insert(&mut self, now: Instant, ends: Ends, mtu: usize, limit: usize) {
        let until = now + LIFETIME;
        self.entries.insert(ends, Entry { mtu, until });
        self.order.push_back((ends, until));
        self.trim(now, limit);
    }

    fn trim(&mut self, now: Instant, limit: usize) {
        while let Some((ends, until)) = self.order.front().copied() {
            let current = self.entries.get(&ends).is_some_and(|e| e.until == until);
            let full = self.entries.len() > limit || self.order.len() > 2 * limit;
            if current && until > now && !full {
                break;
            }
            self.order.pop_front();
            if current {
                self.evicted += u64::from(until > now);
                self.entries.remove(&ends);
            }
        }
    }

    /// How many were removed before their time since the last call.
    pub(crate) fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }

    /// Entries held.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn lowers_ages_and_stays_bounded() {
        let mut cache = PmtuCache::new(Key::generate(&mut Rng::from_u64(1)));
        let of = |addr: &str| -> Ends { (None, addr.parse().unwrap()) };
        let dst = of("192.0.2.1");
        let t0 = Instant::from_millis(1);
        assert!(cache.lower(t0, dst, 1400, 4));
        // Floods of old news leave what is cached about routes alone.
        assert!(!cache.lower(t0, dst, 1450, 4) && !cache.lower(t0, dst, 1400, 4));
        assert_eq!(cache.get(t0, dst), Some(1400));
        cache.lower(t0, dst, 100, 4);
        assert_eq!(cache.get(t0, dst), Some(IPV4_MIN));
        assert_eq!(cache.get(t0 + LIFETIME, dst), None);
        for i in 0..100u8 {
            cache.lower(t0, (None, IpAddr::from([10, 0, 0, i])), 1000, 4);
            assert!(cache.len() <= 4 && cache.order.len() <= 8);
        }
        assert_eq!(cache.get(t0, of("10.0.0.99")), Some(1000));
        cache.lower(t0, of("fd00::1"), 600, 4);
        assert_eq!(cache.get(t0, of("fd00::1")), Some(IPV6_MIN));
    }
}
