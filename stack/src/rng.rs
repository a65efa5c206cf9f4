//! Randomness as an argument: seeded by the caller, the same on every run for the same seed.
//!
//! `Rng` is a keyed SipHash in counter mode, so that what one peer sees of its output (ports, IP
//! identifiers, jitter) does not tell the next value. `Secrets` are the keys a vserver signs with.

use core::hash::{BuildHasher, Hasher};
use siphasher::sip::SipHasher13;

/// Deterministic generator. Not for long-term keys; those come in with [`Secrets`].
#[derive(Clone, Debug)]
pub struct Rng {
    key: (u64, u64),
    counter: u64,
}

impl Rng {
    /// A generator for `seed`: from the operating system in production, fixed in tests.
    pub fn new(seed: [u8; 16]) -> Rng {
        let (a, b) = seed.split_at(8);
        let word = |s: &[u8]| s.iter().rev().fold(0u64, |v, b| v << 8 | u64::from(*b));
        Rng { key: (word(a), word(b)), counter: 0 }
    }

    /// A generator for tests and simulations.
    pub fn from_u64(seed: u64) -> Rng {
        Rng { key: (seed, 0x9e37_79b9_7f4a_7c15), counter: 0 }
    }

    /// A generator whose numbers have nothing to do with this one's.
    pub(crate) fn fork(&self, number: u16) -> Rng {
        Rng { key: (self.key.0, self.key.1 ^ u64::from(number) << 48), counter: 0 }
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        let mut h = SipHasher13::new_with_keys(self.key.0, self.key.1);
        h.write_u64(self.counter);
        h.finish()
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    /// A number in `0..bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }
}

/// A secret 128-bit key for SipHash.
#[derive(Clone, Copy)]
pub struct Key(u64, u64);

impl Key {
    /// Takes the key from a generator.
    pub fn generate(rng: &mut Rng) -> Key {
        Key(rng.next_u64(), rng.next_u64())
    }

    /// A keyed hash (SipHash-1-3) of `parts`, in order.
    pub fn hash(&self, parts: &[&[u8]]) -> u64 {
        let mut h = SipHasher13::new_with_keys(self.0, self.1);
        for part in parts {
            h.write(part);
        }
        h.finish()
    }

    /// The same of `words` and `tail` in little-endian order: what [`Key::hash`] gives for those
    /// bytes, without the loops over lengths that a flow's name does not need.
    #[inline]
    pub(crate) fn hash_words<const N: usize>(&self, words: [u64; N], tail: u32) -> u64 {
        let mut v = [
            self.0 ^ 0x736f_6d65_7073_6575,
            self.1 ^ 0x646f_7261_6e64_6f6d,
            self.0 ^ 0x6c79_6765_6e65_7261,
            self.1 ^ 0x7465_6462_7974_6573,
        ];
        let bytes = N as u64 * 8 + 4;
        for word in words.into_iter().chain([bytes << 56 | u64::from(tail)]) {
            v[3] ^= word;
            sip_round(&mut v);
            v[0] ^= word;
        }
        v[2] ^= 0xff;
        sip_round(&mut v);
        sip_round(&mut v);
        sip_round(&mut v);
        v[0] ^ v[1] ^ v[2] ^ v[3]
    }
}

#[inline]
fn sip_round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32).wrapping_add(v[3]);
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}

/// A key as the state of a hash map: peers cannot choose colliding keys.
impl BuildHasher for Key {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, self.1)
    }
}

impl core::fmt::Debug for Key {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// The keys of one vserver. Never shared between vservers: knowing one's says nothing of another's.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// Initial sequence numbers (RFC 6528).
    pub isn: Key,
    /// Ephemeral ports (RFC 6056 algorithm 3).
    pub port: Key,
    /// Timestamp offsets (RFC 7323 7.1).
    pub timestamp: Key,
    /// Flow-table hashing, against chosen collisions.
    pub flow: Key,
    /// Stable opaque interface identifiers (RFC 7217).
    pub address: Key,
    /// SYN cookies (RFC 4987 section 3.6).
    pub syn_cookie: Key,
    /// Fast Open cookies (RFC 7413 section 4.1.2).
    pub fast_open: Key,
}

impl Secrets {
    /// Draws a fresh set.
    pub fn generate(rng: &mut Rng) -> Secrets {
        Secrets {
            isn: Key::generate(rng),
            port: Key::generate(rng),
            timestamp: Key::generate(rng),
            flow: Key::generate(rng),
            address: Key::generate(rng),
            syn_cookie: Key::generate(rng),
            fast_open: Key::generate(rng),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_numbers() {
        let (mut a, mut b) = (Rng::from_u64(7), Rng::from_u64(7));
        let first: Vec<_> = (0..8).map(|_| a.next_u64()).collect();
        assert!(first.iter().all(|x| *x == b.next_u64()));
        assert_ne!(first[0], Rng::from_u64(8).next_u64());
        assert!((0..1000).all(|_| a.below(10) < 10));
    }

    #[test]
    fn words_hash_as_their_bytes_do() {
        let mut rng = Rng::from_u64(3);
        for _ in 0..100 {
            let key = Key::generate(&mut rng);
            let words = [rng.next_u64(), rng.next_u64(), rng.next_u64(), rng.next_u64()];
            let tail = rng.next_u32();
            let bytes = words.map(u64::to_le_bytes).concat();
            let parts = [&bytes[..], &tail.to_le_bytes()];
            assert_eq!(key.hash_words(words, tail), key.hash(&parts));
            let parts = [&bytes[..8], &tail.to_le_bytes()];
            assert_eq!(key.hash_words([words[0]], tail), key.hash(&parts));
        }
    }
}
