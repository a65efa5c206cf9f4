//! Sorted intervals over all values of an integer, each with a value: one binary search, a few
//! cache lines, nothing to rebalance because nothing changes after it was made.

use std::collections::BTreeMap;

/// An address or a port as a number.
pub(super) trait Key: Copy + Ord {
    const MIN: Self;
    fn next(self) -> Option<Self>;
}

impl Key for u16 {
    const MIN: u16 = 0;
    fn next(self) -> Option<u16> {
        self.checked_add(1)
    }
}

impl Key for u32 {
    const MIN: u32 = 0;
    fn next(self) -> Option<u32> {
        self.checked_add(1)
    }
}

impl Key for u128 {
    const MIN: u128 = 0;
    fn next(self) -> Option<u128> {
        self.checked_add(1)
    }
}

#[derive(Debug)]
pub(super) struct Intervals<K, V> {
    /// The first is the least value.
    starts: Box<[K]>,
    values: Box<[V]>,
}

impl<K: Key, V: Clone + PartialEq> Intervals<K, V> {
    /// Each range has its value, except where a later one of the list has its own; `rest` is the
    /// value of everything else.
    pub(super) fn paint(rest: V, ranges: impl IntoIterator<Item = (K, K, V)>) -> Intervals<K, V> {
        let mut all = BTreeMap::from([(K::MIN, rest)]);
        for (first, last, value) in ranges {
            if let Some(after) = last.next()
                && !all.contains_key(&after)
                && let Some((_, v)) = all.range(..after).next_back()
            {
                let v = v.clone();
                all.insert(after, v);
            }
            let inside: Vec<K> = all.range(first..=last).map(|(k, _)| *k).collect();
            for start in inside {
                all.remove(&start);
            }
            all.insert(first, value);
        }
        let (mut starts, mut values): (Vec<K>, Vec<V>) = (Vec::new(), Vec::new());
        for (start, value) in all {
            if values.last() != Some(&value) {
                starts.push(start);
                values.push(value);
            }
        }
        Intervals { starts: starts.into(), values: values.into() }
    }
}

impl<K: Key, V> Intervals<K, V> {
    pub(super) fn get(&self, key: K) -> &V {
        let after = self.starts.partition_point(|start| *start <= key);
        &self.values[after.saturating_sub(1)]
    }

    /// Each interval's first key and value.
    pub(super) fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        self.starts.iter().copied().zip(&self.values)
    }
}
