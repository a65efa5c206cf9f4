//! Answers that still hold. Sans-IO.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::message::{Kind, Value};

/// No answer is kept longer.
const TTL_MAX: Duration = Duration::from_hours(24);
/// No "there is none" is kept longer (RFC 2308 5).
const NEGATIVE_TTL_MAX: Duration = Duration::from_hours(3);

/// What is known about a name and type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Found(Vec<Value>),
    Nothing { no_name: bool },
}

type Key = (String, Kind);

/// A bounded number of answers; when it is full the one that would expire first goes.
#[derive(Debug, Default)]
pub(super) struct Cache {
    capacity: usize,
    entries: HashMap<Key, (Known, Instant)>,
    by_end: BTreeSet<(Instant, Key)>,
    /// Answers that went before their time.
    pub(super) evicted: u64,
}

impl Cache {
    pub(super) fn new(capacity: usize) -> Cache {
        Cache { capacity, ..Cache::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What is known, and how long that still holds. `name` in lower case.
    pub(super) fn get(&self, name: &str, kind: Kind, now: Instant) -> Option<(Known, Duration)> {
        let (known, end) = self.entries.get(&(name.to_owned(), kind))?;
        let left = end.checked_duration_since(now).filter(|d| !d.is_zero())?;
        Some((known.clone(), left))
    }

    /// Keeps an answer; one that holds for no time is not kept.
    pub(super) fn put(
        &mut self,
        name: &str,
        kind: Kind,
        known: Known,
        ttl: Duration,
        now: Instant,
    ) {
        let most = match known {
            Known::Found(_) => TTL_MAX,
            Known::Nothing { .. } => NEGATIVE_TTL_MAX,
        };
        let key = (name.to_owned(), kind);
        self.remove(&key);
        if ttl.is_zero() || self.capacity == 0 {
            return;
        }
        while self.entries.len() >= self.capacity {
            let Some((end, first)) = self.by_end.pop_first() else { break };
            self.entries.remove(&first);
            self.evicted += u64::from(end > now);
        }
        let end = now + ttl.min(most);
        self.by_end.insert((end, key.clone()));
        self.entries.insert(key, (known, end));
    }

    fn remove(&mut self, key: &Key) {
        if let Some((_, end)) = self.entries.remove(key) {
            self.by_end.remove(&(end, key.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(n: u8) -> Known {
        Known::Found(vec![Value::Address(std::net::Ipv4Addr::new(10, 0, 0, n).into())])
    }

    #[test]
    fn answers_hold_for_their_time_and_no_longer() {
        let (mut cache, now) = (Cache::new(4), Instant::now());
        let s = Duration::from_secs;
        cache.put("a", Kind::A, found(1), s(10), now);
        cache.put("a", Kind::Aaaa, Known::Nothing { no_name: false }, s(1_000_000), now);
        cache.put("b", Kind::A, found(2), s(0), now);
        assert_eq!(cache.get("a", Kind::A, now + s(3)), Some((found(1), s(7))));
        assert_eq!(cache.get("a", Kind::A, now + s(10)), None);
        assert_eq!(cache.get("a", Kind::Aaaa, now).unwrap().1, NEGATIVE_TTL_MAX);
        assert_eq!(cache.get("b", Kind::A, now), None);
        // a newer answer replaces the older one, also by none at all
        cache.put("a", Kind::A, found(3), s(5), now);
        assert_eq!(cache.get("a", Kind::A, now), Some((found(3), s(5))));
        cache.put("a", Kind::A, found(4), s(0), now);
        assert_eq!((cache.get("a", Kind::A, now), cache.len()), (None, 1));
    }

    #[test]
    fn a_full_cache_gives_up_what_would_expire_first() {
        let (mut cache, now) = (Cache::new(3), Instant::now());
        for (i, name) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
            cache.put(name, Kind::A, found(i as u8), Duration::from_secs(100 - i as u64 * 10), now);
            assert_eq!(cache.entries.len(), cache.by_end.len());
        }
        assert_eq!((cache.len(), cache.evicted), (3, 2));
        assert!(cache.get("a", Kind::A, now).is_some() && cache.get("c", Kind::A, now).is_none());
        assert_eq!(Cache::new(0).len(), 0);
    }
}
