//! A fast hash for tables whose keys only the owner of the stack chooses: addresses, prefixes,
//! aliases. Peers can look such keys up but not put any in, so collisions cannot be forced; tables
//! with keys of peers use a [`Key`](crate::rng::Key) instead.

use core::hash::{BuildHasherDefault, Hasher};

/// State for hash maps with configured keys.
pub(crate) type ConfiguredKeys = BuildHasherDefault<FoldHasher>;

/// Multiplies and folds, eight bytes at a time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FoldHasher(u64);

impl FoldHasher {
    #[inline]
    fn mix(&mut self, word: u64) {
        // The odd constant of splitmix64; the fold brings the high half down to the index bits.
        let product = u128::from(self.0 ^ word ^ 0x9e37_79b9_7f4a_7c15)
            * u128::from(0xbf58_476d_1ce4_e5b9_u64);
        self.0 = (product as u64) ^ (product >> 64) as u64;
    }
}

impl Hasher for FoldHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.mix(u64::from_le_bytes(word.try_into().expect("chunks of eight bytes")));
        }
        let rest = words.remainder();
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.mix(u64::from_le_bytes(last));
        }
    }

    #[inline]
    fn write_u8(&mut self, n: u8) {
        self.mix(u64::from(n));
    }

    #[inline]
    fn write_u16(&mut self, n: u16) {
        self.mix(u64::from(n));
    }

    #[inline]
    fn write_u32(&mut self, n: u32) {
        self.mix(u64::from(n));
    }

    #[inline]
    fn write_u64(&mut self, n: u64) {
        self.mix(n);
    }

    #[inline]
    fn write_usize(&mut self, n: usize) {
        self.mix(n as u64);
    }

    #[inline]
    fn write_isize(&mut self, n: isize) {
        self.mix(n as u64);
    }

    #[inline]
    fn finish(&self) -> u64 {
        // Index bits are at the bottom, tag bits at the top: both have to be mixed.
        let h = (self.0 ^ self.0 >> 32).wrapping_mul(0x94d0_49bb_1331_11eb);
        h ^ h >> 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::hash::BuildHasher;
    use core::net::Ipv4Addr;
    use std::collections::HashSet;

    #[test]
    fn neighbouring_addresses_spread() {
        let state = ConfiguredKeys::default();
        let hash = |n: u32| state.hash_one(Ipv4Addr::from(0x0a00_0000 + n));
        let low: HashSet<u64> = (0..4096).map(|n| hash(n) & 0xfff).collect();
        let high: HashSet<u64> = (0..4096).map(|n| hash(n) >> 52).collect();
        // 4,096 balls in as many bins leave about 63 % of them full.
        assert!(low.len() > 2400 && high.len() > 2400, "{} {}", low.len(), high.len());
    }
}
