//! What became of earlier connections, by pair of addresses. Bounded: the pair not used for longest
//! is forgotten.

use core::net::IpAddr;

use hashbrown::HashMap;
use serde::Serialize;
use weft_stack::rng::Key;
use weft_stack::time::{Duration, Instant};

use crate::locator::Pair;

/// A pair that did not answer is tried late for this long, doubled with each further failure.
const AVOID_MIN: Duration = Duration::from_mins(1);
/// The longest time that a pair is tried late.
const AVOID_MAX: Duration = Duration::from_mins(10);

#[derive(Clone, Copy, Debug)]
struct Past {
    srtt: Option<Duration>,
    failures: u32,
    avoid_until: Option<Instant>,
    used: u64,
}

/// What is known of one pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Our address.
    pub local: IpAddr,
    /// The peer's.
    pub remote: IpAddr,
    /// Round-trip time, smoothed; `None`: never answered.
    pub rtt_us: Option<u64>,
    /// Failures since it last answered.
    pub failures: u32,
    /// It is tried late for now.
    pub avoided: bool,
}

/// What became of earlier connections of one vserver.
#[derive(Clone, Debug)]
pub struct History {
    pairs: HashMap<Pair, Past, Key>,
    capacity: usize,
    clock: u64,
    evicted: u64,
}

impl History {
    /// Remembers at most `capacity` pairs.
    pub fn new(capacity: usize, key: Key) -> History {
        let pairs = HashMap::with_hasher(key);
        History { pairs, capacity: capacity.max(1), clock: 0, evicted: 0 }
    }

    /// The pair answered after `rtt`.
    pub fn connected(&mut self, pair: Pair, rtt: Duration) {
        let past = self.touch(pair);
        past.srtt = Some(past.srtt.map_or(rtt, |srtt| (srtt * 7 + rtt) / 8));
        past.failures = 0;
        past.avoid_until = None;
    }

    /// The pair did not answer.
    pub fn failed(&mut self, now: Instant, pair: Pair) {
        let past = self.touch(pair);
        let avoid = AVOID_MIN * (1 << past.failures.min(4));
        past.failures = past.failures.saturating_add(1);
        past.avoid_until = Some(now + avoid.min(AVOID_MAX));
    }

    fn touch(&mut self, pair: Pair) -> &mut Past {
        self.clock += 1;
        let used = self.clock;
        if self.pairs.len() >= self.capacity && !self.pairs.contains_key(&pair) {
            self.evict();
        }
        let new = Past { srtt: None, failures: 0, avoid_until: None, used };
        let past = self.pairs.entry(pair).or_insert(new);
        past.used = used;
        past
    }

    /// The pair failed lately.
    pub fn is_failing(&self, now: Instant, pair: Pair) -> bool {
        self.pairs.get(&pair).is_some_and(|p| p.avoid_until.is_some_and(|until| now < until))
    }

    /// Round-trip time of the pair, if it answered last.
    pub fn rtt(&self, pair: Pair) -> Option<Duration> {
        let past = self.pairs.get(&pair)?;
        past.srtt.filter(|_| past.failures == 0)
    }

    /// Another capacity; what is too much is forgotten, the oldest first.
    pub fn resize(&mut self, capacity: usize) {
        self.capacity = capacity.max(1);
        while self.pairs.len() > self.capacity {
            self.evict();
        }
    }

    fn evict(&mut self) {
        let oldest = self.pairs.iter().min_by_key(|(_, past)| past.used).map(|(p, _)| *p);
        if let Some(oldest) = oldest {
            self.pairs.remove(&oldest);
            self.evicted += 1;
        }
    }

    /// An address of ours is gone: so is what it did.
    pub fn forget_local(&mut self, local: IpAddr) {
        self.pairs.retain(|pair, _| pair.local != local);
    }

    /// Pairs remembered.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Pairs forgotten because there were too many.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// What is known, in the order of addresses.
    pub fn report(&self, now: Instant) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self
            .pairs
            .iter()
            .map(|(pair, past)| Entry {
                local: pair.local,
                remote: pair.remote,
                rtt_us: past.srtt.map(|d| d.as_micros() as u64),
                failures: past.failures,
                avoided: self.is_failing(now, *pair),
            })
            .collect();
        entries.sort_by_key(|e| (e.remote, e.local));
        entries
    }
}
