//! Making sets (RFC 5535 6): the search for a modifier in steps, so that whoever searches can show
//! progress and give up.

use core::net::Ipv6Addr;

use sha1::{Digest, Sha1};
use weft_stack::rng::Rng;

use super::parameters::{
    COLLISIONS_MAX, PREFIXES_MAX, Parameters, Prefix, SEC_MAX, begins_with_zeros, prefix_of,
};

/// Why there is no set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// None, too many, or one twice.
    #[error("a set has 1 to 16 prefixes, each once")]
    Prefixes,
    /// Above 2 no hash is defined.
    #[error("Sec is 0, 1 or 2, not {0}")]
    Sec(u8),
    /// The bound of the search is reached; with another seed it may be shorter.
    #[error("no modifier found in {0} tries; try again, or with a smaller Sec")]
    Exhausted(u64),
    /// Three addresses in a row were in use; somebody may want that (RFC 3972 4, step 8).
    #[error("an address of the set was in use three times; make a new set")]
    Collisions,
}

/// Addresses that prove each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HbaSet {
    parameters: Parameters,
    sec: u8,
    addresses: Vec<Ipv6Addr>,
}

impl HbaSet {
    fn new(parameters: Parameters, sec: u8) -> HbaSet {
        let addresses = parameters.prefixes().map(|p| parameters.address(p, sec)).collect();
        HbaSet { parameters, sec, addresses }
    }

    /// The set that parameters from a file describe; `sec` is what it was made with.
    pub fn restore(parameters: Parameters, sec: u8) -> HbaSet {
        HbaSet::new(parameters, sec)
    }

    /// One address per prefix, in the order of the prefixes.
    pub fn addresses(&self) -> &[Ipv6Addr] {
        &self.addresses
    }

    /// The parameters with the first prefix.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The parameters for one address of the set: what is sent when it is the ULID.
    pub fn parameters_of(&self, address: Ipv6Addr) -> Parameters {
        Parameters { prefix: prefix_of(address), ..self.parameters.clone() }
    }

    /// An address is in use by somebody else: makes all of them anew. The count is one of the whole
    /// set, since a peer checks every address against the parameters of one.
    pub fn collided(&mut self) -> Result<(), GenerateError> {
        if self.parameters.collisions == COLLISIONS_MAX {
            return Err(GenerateError::Collisions);
        }
        self.parameters.collisions += 1;
        *self = HbaSet::new(self.parameters.clone(), self.sec);
        Ok(())
    }
}

/// A search under way.
#[derive(Clone, Debug)]
pub struct Search {
    parameters: Parameters,
    sec: u8,
    /// Hashed in each try; the modifier is its first 16 bytes.
    bytes: Vec<u8>,
    tried: u64,
    limit: u64,
}

impl Search {
    /// For a set over `prefixes`. `key` is the DER of a public key (SubjectPublicKeyInfo), whose
    /// owner can then sign for the addresses; `None` takes 384 random bits in its place. At most
    /// `limit` modifiers are tried; 2^(16 * `sec`) are needed on average.
    pub fn new(
        prefixes: &[Prefix],
        sec: u8,
        key: Option<&[u8]>,
        limit: u64,
        rng: &mut Rng,
    ) -> Result<Search, GenerateError> {
        let twice = prefixes.iter().enumerate().any(|(i, p)| prefixes[..i].contains(p));
        let (Some(first), false, true) = (prefixes.first(), twice, prefixes.len() <= PREFIXES_MAX)
        else {
            return Err(GenerateError::Prefixes);
        };
        if sec > SEC_MAX {
            return Err(GenerateError::Sec(sec));
        }
        let parameters = Parameters {
            modifier: random(rng),
            prefix: *first,
            collisions: 0,
            key: key.map_or_else(|| extended_modifier(random(rng)), <[u8]>::to_vec),
            extensions: vec![Parameters::prefix_list(prefixes, key.is_some())],
        };
        Ok(Search::over(parameters, sec, limit))
    }

    /// From the modifier that `parameters` have.
    pub(super) fn over(parameters: Parameters, sec: u8, limit: u64) -> Search {
        let mut bytes = parameters.modifier.to_vec();
        bytes.extend_from_slice(&[0; 9]);
        parameters.emit_tail(&mut bytes);
        Search { parameters, sec, bytes, tried: 0, limit }
    }

    /// Tries at most `rounds` further modifiers; `None`: not found yet.
    pub fn advance(&mut self, rounds: u64) -> Result<Option<HbaSet>, GenerateError> {
        for _ in 0..rounds {
            if self.tried == self.limit {
                return Err(GenerateError::Exhausted(self.limit));
            }
            self.tried += 1;
            if self.sec == 0 || begins_with_zeros(&Sha1::digest(&self.bytes), self.sec) {
                return Ok(Some(HbaSet::new(self.parameters.clone(), self.sec)));
            }
            let next = u128::from_be_bytes(self.parameters.modifier).wrapping_add(1);
            self.parameters.modifier = next.to_be_bytes();
            self.bytes[..16].copy_from_slice(&self.parameters.modifier);
        }
        Ok(None)
    }

    /// Modifiers tried so far.
    pub fn tried(&self) -> u64 {
        self.tried
    }

    /// Modifiers needed on average.
    pub fn expected(&self) -> u64 {
        1 << (16 * self.sec)
    }

    /// The parameters with the modifier that is tried next.
    #[cfg(test)]
    pub(super) fn parameters(&self) -> &Parameters {
        &self.parameters
    }
}

fn random<const N: usize>(rng: &mut Rng) -> [u8; N] {
    core::array::from_fn(|_| rng.next_u64() as u8)
}

/// Random bits in the form of an RSA key of 384 bits, where no key is wanted (RFC 5535 6, step 2):
/// whoever parses parameters finds the structure that they expect.
fn extended_modifier(mut bits: [u8; 48]) -> Vec<u8> {
    const HEAD: [u8; 20] = [
        0x30, 0x4c, 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01,
        0x05, 0x00, 0x03, 0x3b, 0x00,
    ];
    // An odd number of exactly 384 bits.
    bits[0] |= 0x80;
    bits[47] |= 1;
    let mut der = HEAD.to_vec();
    der.extend_from_slice(&[0x30, 0x38, 0x02, 0x31, 0x00]);
    der.extend_from_slice(&bits);
    der.extend_from_slice(&[0x02, 0x03, 0x01, 0x00, 0x01]);
    der
}
