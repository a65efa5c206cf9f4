//! A map for the few things a stack is configured with: its keys stand in order beside each other, the
//! first ones inline. A look-up among few touches no memory but theirs, where a hash table has a
//! block of control bytes and one of entries; among many it is a binary search.

use core::ops::Index;

use smallvec::SmallVec;

/// Up to here a look-up compares with each key.
const FEW: usize = 8;

/// A map of which `N` entries need no allocation.
#[derive(Debug)]
pub(crate) struct SmallMap<K, V, const N: usize>(SmallVec<[(K, V); N]>);

impl<K, V, const N: usize> Default for SmallMap<K, V, N> {
    fn default() -> SmallMap<K, V, N> {
        SmallMap(SmallVec::new())
    }
}

impl<K: Ord + Copy, V, const N: usize> SmallMap<K, V, N> {
    #[inline]
    fn find(&self, key: &K) -> Result<usize, usize> {
        if self.0.len() > FEW {
            return self.0.binary_search_by(|(k, _)| k.cmp(key));
        }
        let found = self.0.iter().position(|(k, _)| k == key);
        found.ok_or_else(|| self.0.iter().take_while(|(k, _)| k < key).count())
    }

    /// The value of a key.
    #[inline]
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        if self.0.len() > FEW {
            return self.find(key).ok().map(|at| &self.0[at].1);
        }
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// Asks for what is inline. A spilled map is not looked into: that would wait.
    #[inline]
    pub(crate) fn prefetch(&self) {
        crate::frame::prefetch(&self.0);
    }

    /// The value of a key.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.find(key).ok().map(|at| &mut self.0[at].1)
    }

    /// Whether the key is there.
    #[inline]
    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Replaces the value of a key, or adds it.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        match self.find(&key) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.0.insert(at, (key, value)),
        }
    }

    /// The value of a key, which is added if it is missing.
    pub(crate) fn or_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        let at = self.find(&key).unwrap_or_else(|at| {
            self.0.insert(at, (key, V::default()));
            at
        });
        &mut self.0[at].1
    }

    /// Takes a key out.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.find(key).ok().map(|at| self.0.remove(at).1)
    }

    /// In the order of keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(k, v)| (k, v))
    }

    /// In the order of keys.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, v)| v)
    }
}

impl<K: Ord + Copy, V, const N: usize> Index<&K> for SmallMap<K, V, N> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        self.get(key).expect("the key is in the map")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_does_what_an_ordered_map_does(calls in prop::collection::vec((0u8..4, 0u8..24, any::<u16>()), 0..200)) {
            let mut map: SmallMap<u8, u16, 2> = SmallMap::default();
            let mut model = BTreeMap::new();
            for (call, key, value) in calls {
                match call {
                    0 => {
                        map.insert(key, value);
                        model.insert(key, value);
                    }
                    1 => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                    2 => *map.or_default(key) = *model.entry(key).or_default(),
                    _ => prop_assert_eq!(map.get_mut(&key), model.get_mut(&key)),
                }
                prop_assert_eq!(map.get(&key), model.get(&key));
                prop_assert!(map.iter().eq(model.iter()));
            }
        }
    }
}
