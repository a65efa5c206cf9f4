//! The deferred set-up: pairs of ULIDs without a context are counted until their traffic is worth
//! one (RFC 5533 4, 11).

use hashbrown::HashMap;
use weft_stack::rng::Key;
use weft_stack::time::{Duration, Instant};

use crate::config::{SetUp, SetUpConfig};
use crate::locator::Pair;

/// What is counted of a pair.
#[derive(Clone, Copy, Debug)]
struct Flow {
    packets: u32,
    bytes: u64,
    first: Instant,
    last: Instant,
}

/// Counted pairs.
#[derive(Debug)]
pub(super) struct Flows {
    pairs: HashMap<Pair, Flow, Key>,
    packets: u32,
    bytes: u64,
    age: Duration,
    max: usize,
    /// Pairs that are at work, to find one to forget in a few steps.
    ring: Vec<Pair>,
    hand: usize,
}

/// A pair that was silent for so long begins anew.
const SILENCE: Duration = Duration::from_mins(1);
/// Looked at before one is forgotten that is not silent.
const STEPS_MAX: usize = 8;

impl Flows {
    pub(super) fn new(config: &SetUpConfig, key: Key) -> Flows {
        Flows {
            pairs: HashMap::with_hasher(key),
            packets: config.packets,
            bytes: config.bytes,
            age: config.age,
            max: config.flows_max.max(1),
            ring: Vec::new(),
            hand: 0,
        }
    }

    /// What makes a context worth it from now on.
    pub(super) fn set_config(&mut self, config: &SetUpConfig) {
        (self.packets, self.bytes, self.age) = (config.packets, config.bytes, config.age);
        self.max = config.flows_max.max(1);
    }

    /// Counts a packet. `true`: a context is worth it. `forgotten` counts pairs that had to make
    /// room.
    pub(super) fn count(
        &mut self,
        now: Instant,
        pair: Pair,
        bytes: usize,
        set_up: SetUp,
        forgotten: &mut u64,
    ) -> bool {
        match set_up {
            SetUp::Never => return false,
            SetUp::Immediate => return true,
            SetUp::Deferred => {}
        }
        if !self.pairs.contains_key(&pair) {
            self.add(now, pair, forgotten);
        }
        let Some(flow) = self.pairs.get_mut(&pair) else { return false };
        if now.saturating_since(flow.last) > SILENCE {
            *flow = Flow { packets: 0, bytes: 0, first: now, last: now };
        }
        flow.packets += 1;
        flow.bytes += bytes as u64;
        flow.last = now;
        flow.packets >= self.packets
            || flow.bytes >= self.bytes
            || now.saturating_since(flow.first) >= self.age
    }

    fn add(&mut self, now: Instant, pair: Pair, forgotten: &mut u64) {
        let flow = Flow { packets: 0, bytes: 0, first: now, last: now };
        if self.ring.len() < self.max {
            self.ring.push(pair);
        } else {
            self.replace(now, pair, forgotten);
        }
        self.pairs.insert(pair, flow);
    }

    /// Gives the place of a silent pair, or of the last one looked at, to `pair`.
    fn replace(&mut self, now: Instant, pair: Pair, forgotten: &mut u64) {
        for step in 1..=STEPS_MAX {
            self.hand = (self.hand + 1) % self.ring.len();
            let old = self.ring[self.hand];
            let silent = |f: &Flow| now.saturating_since(f.last) > SILENCE;
            let free = self.pairs.get(&old).is_none_or(silent);
            if free || step == STEPS_MAX {
                *forgotten += u64::from(!free);
                self.pairs.remove(&old);
                self.ring[self.hand] = pair;
                return;
            }
        }
    }

    /// A context begins, or failed to: counting starts anew when it ends.
    pub(super) fn forget(&mut self, pair: Pair) {
        if self.pairs.remove(&pair).is_some()
            && let Some(at) = self.ring.iter().position(|p| *p == pair)
        {
            self.ring.swap_remove(at);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.pairs.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;
    use weft_stack::rng::Rng;

    fn pair(n: u16) -> Pair {
        let ip = |n| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n]);
        Pair::new(ip(0), ip(n))
    }

    fn flows(max: usize) -> Flows {
        let config = SetUpConfig { flows_max: max, ..SetUpConfig::default() };
        Flows::new(&config, Key::generate(&mut Rng::from_u64(1)))
    }

    // RFC 5533 4
    // RFC 5533 11
    #[test]
    fn packets_bytes_or_time_make_a_pair_worth_a_context() {
        let (t, mut lost) = (Instant::from_millis, 0);
        let mut f = flows(16);
        let worth = (0..100).position(|i| f.count(t(i), pair(1), 100, SetUp::Deferred, &mut lost));
        assert_eq!(worth, Some(49));
        let worth = (0..100).position(|i| f.count(t(i), pair(2), 9000, SetUp::Deferred, &mut lost));
        assert_eq!(worth, Some(7));
        let worth =
            (0..10).position(|i| f.count(t(1000 * i), pair(3), 1, SetUp::Deferred, &mut lost));
        assert_eq!(worth, Some(5));
        assert!(f.count(t(0), pair(4), 1, SetUp::Immediate, &mut lost));
        assert!((0..99).all(|i| !f.count(t(i), pair(5), 9000, SetUp::Never, &mut lost)));
        assert_eq!(f.len(), 3, "what needs no counting is not counted");
    }

    #[test]
    fn counted_pairs_are_bounded_and_silent_ones_go_first() {
        let (t, mut lost) = (Instant::from_millis, 0);
        let mut f = flows(64);
        for n in 0..64 {
            f.count(t(0), pair(n), 1, SetUp::Deferred, &mut lost);
        }
        for n in 64..128 {
            f.count(t(70_000), pair(n), 1, SetUp::Deferred, &mut lost);
        }
        assert_eq!((f.len(), lost), (64, 0));
        for n in 128..1000 {
            f.count(t(70_001), pair(n), 1, SetUp::Deferred, &mut lost);
        }
        assert_eq!((f.len(), f.ring.len()), (64, 64));
        assert_eq!(lost, 872);
        f.forget(pair(999));
        assert_eq!((f.len(), f.ring.len()), (63, 63));
    }
}
