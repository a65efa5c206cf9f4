//! The parameters that an address is a hash of (RFC 3972 3, RFC 5535 5): reading, writing, hashing
//! and checking an address against them.

use core::net::Ipv6Addr;

use sha1::{Digest, Sha1};

/// The upper half of an address.
pub type Prefix = [u8; 8];

/// Prefixes in one set: as many as one context has locators.
pub const PREFIXES_MAX: usize = 16;
/// Collisions after which a set is given up (RFC 3972 4).
pub const COLLISIONS_MAX: u8 = 2;
/// Largest Sec that means SHA-1 (RFC 4982 4, RFC 5535 7).
pub(super) const SEC_MAX: u8 = 2;
/// Longest encoding taken: what fits a control message of 1280 bytes beside everything else.
const BYTES_MAX: usize = 1024;
/// Longest run of extensions taken.
const EXTENSIONS_MAX: usize = 8;
/// The list of prefixes among extensions (RFC 5535 5).
pub(super) const MULTI_PREFIX: u16 = 0x0012;
/// The P bit in the first word of that extension.
const HAS_KEY: u8 = 0x80;
/// Bits of an interface identifier that are not of the hash: Sec, u and g.
const FREE_BITS: u64 = 0xe300_0000_0000_0000;

/// A further part of the parameters (RFC 4581).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// What it is.
    pub kind: u16,
    /// Its content.
    pub data: Vec<u8>,
}

/// What an address is a hash of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Random; found so that Hash2 begins with enough zeros.
    pub modifier: [u8; 16],
    /// Upper half of the address in question.
    pub prefix: Prefix,
    /// Times that an address of the set was in use already, at most [`COLLISIONS_MAX`].
    pub collisions: u8,
    /// A public key as DER of SubjectPublicKeyInfo, or random bits in that form.
    pub key: Vec<u8>,
    /// In order; all of them are hashed.
    pub extensions: Vec<Extension>,
}

/// Why bytes are no parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PdsError {
    /// They end too early.
    #[error("address parameters end within their {0}")]
    Short(&'static str),
    /// More than a control message has room for.
    #[error("address parameters of {0} bytes; 1024 at most")]
    Long(usize),
    /// Where the key should be is no DER of a SEQUENCE.
    #[error("the public key in address parameters is no DER structure")]
    Key,
    /// The list of prefixes has a length that is not 4 + 8 n, or too many of them.
    #[error("the list of prefixes in address parameters is malformed")]
    Prefixes,
    /// More extensions than are looked at.
    #[error("more than 8 extensions in address parameters")]
    Extensions,
}

/// Why an address is none of some parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unbound {
    /// More collisions than a set survives.
    #[error("a collision count above 2")]
    Collisions,
    /// Its prefix is another, or not in the list.
    #[error("a prefix that the parameters do not have")]
    Prefix,
    /// Sec is another than that of the set, or u or g is set: nobody makes such an address of it.
    #[error("bits beside the hash that the set does not have")]
    Bits,
    /// The interface identifier is another hash.
    #[error("an interface identifier that is another hash")]
    Hash1,
    /// Sec above 2 means other hashes (RFC 4982), of which none is defined.
    #[error("a Sec above 2, which names no hash known")]
    Sec,
    /// Hash2 does not begin with the zeros that Sec asks for.
    #[error("a modifier that has not done the work of Sec")]
    Hash2,
}

impl Parameters {
    /// Reads what a peer or a file gave (RFC 3972 3).
    pub fn parse(bytes: &[u8]) -> Result<Parameters, PdsError> {
        if bytes.len() > BYTES_MAX {
            return Err(PdsError::Long(bytes.len()));
        }
        let (modifier, rest) = bytes.split_first_chunk().ok_or(PdsError::Short("modifier"))?;
        let (prefix, rest) = rest.split_first_chunk().ok_or(PdsError::Short("prefix"))?;
        let (collisions, rest) = rest.split_first().ok_or(PdsError::Short("collision count"))?;
        let (key, mut rest) = rest.split_at(der_len(rest)?);
        let mut extensions = Vec::new();
        while !rest.is_empty() {
            if extensions.len() == EXTENSIONS_MAX {
                return Err(PdsError::Extensions);
            }
            let (head, body) = rest.split_first_chunk::<4>().ok_or(PdsError::Short("extension"))?;
            let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let data = body.get(..len).ok_or(PdsError::Short("extension"))?.to_vec();
            extensions.push(Extension { kind: u16::from_be_bytes([head[0], head[1]]), data });
            rest = &body[len..];
        }
        let read = Parameters {
            modifier: *modifier,
            prefix: *prefix,
            collisions: *collisions,
            key: key.to_vec(),
            extensions,
        };
        let well_formed = read.multi_prefix().is_none_or(|data| {
            data.len() >= 4 && data.len() % 8 == 4 && data.len() / 8 <= PREFIXES_MAX
        });
        if well_formed { Ok(read) } else { Err(PdsError::Prefixes) }
    }

    /// The encoding, as it goes into a control message or a file.
    pub fn emit(&self) -> Vec<u8> {
        let mut bytes = self.modifier.to_vec();
        bytes.extend_from_slice(&self.prefix);
        bytes.push(self.collisions);
        self.emit_tail(&mut bytes);
        bytes
    }

    /// Key and extensions.
    pub(super) fn emit_tail(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.key);
        for e in &self.extensions {
            bytes.extend_from_slice(&e.kind.to_be_bytes());
            bytes.extend_from_slice(&(e.data.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&e.data);
        }
    }

    fn multi_prefix(&self) -> Option<&[u8]> {
        self.extensions.iter().find(|e| e.kind == MULTI_PREFIX).map(|e| &e.data[..])
    }

    /// The prefixes of the set, in order; none in the parameters of a plain CGA.
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> + '_ {
        let list = self.multi_prefix().and_then(|data| data.get(4..)).unwrap_or_default();
        list.chunks_exact(8).map(|p| p.try_into().expect("chunks of eight"))
    }

    /// The key is a real one, so that the address is a CGA: without a list of prefixes always,
    /// with one if its P bit says so (RFC 5535 5).
    pub fn has_key(&self) -> bool {
        self.multi_prefix().is_none_or(|data| data.first().is_some_and(|b| b & HAS_KEY != 0))
    }

    /// The extension that lists `prefixes`.
    pub(super) fn prefix_list(prefixes: &[Prefix], has_key: bool) -> Extension {
        let mut data = vec![if has_key { HAS_KEY } else { 0 }, 0, 0, 0];
        data.extend(prefixes.iter().flatten());
        Extension { kind: MULTI_PREFIX, data }
    }

    /// Hash1 for `prefix` (RFC 3972 4, step 5).
    fn hash1(&self, prefix: Prefix) -> u64 {
        let mut bytes = self.modifier.to_vec();
        bytes.extend_from_slice(&prefix);
        bytes.push(self.collisions);
        self.emit_tail(&mut bytes);
        let digest = Sha1::digest(&bytes);
        u64::from_be_bytes(digest[..8].try_into().expect("SHA-1 has 20 bytes"))
    }

    /// Hash2 begins with 16 * `sec` zeros (RFC 3972 4, steps 2 and 3).
    fn worked(&self, sec: u8) -> bool {
        if sec == 0 {
            return true;
        }
        let mut bytes = self.modifier.to_vec();
        bytes.extend_from_slice(&[0; 9]);
        self.emit_tail(&mut bytes);
        begins_with_zeros(&Sha1::digest(&bytes), sec)
    }

    /// The address of these parameters with another prefix (RFC 3972 4, steps 5 to 7).
    pub fn address(&self, prefix: Prefix, sec: u8) -> Ipv6Addr {
        let id = self.hash1(prefix) & !FREE_BITS | u64::from(sec & 7) << 61;
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&prefix);
        octets[8..].copy_from_slice(&id.to_be_bytes());
        Ipv6Addr::from_octets(octets)
    }

    /// `address` is the one of these parameters (RFC 3972 5).
    pub fn verify(&self, address: Ipv6Addr) -> Result<(), Unbound> {
        if self.prefix != prefix_of(address) {
            return Err(Unbound::Prefix);
        }
        self.verify_as(self.prefix, address)
    }

    /// `address` is of the set of these parameters (RFC 5535 7.2): its prefix is in the list, and
    /// with that prefix put in it is the one of the parameters.
    pub fn verify_member(&self, address: Ipv6Addr) -> Result<(), Unbound> {
        let prefix = prefix_of(address);
        if !self.prefixes().any(|p| p == prefix) {
            return Err(Unbound::Prefix);
        }
        self.verify_as(prefix, address)
    }

    /// The same, of the set that made `beside`: the bits beside the hash are the same in all of a set.
    /// Without that, a neighbour of one of its addresses could call itself one that differs in them.
    pub fn verify_beside(&self, address: Ipv6Addr, beside: Ipv6Addr) -> Result<(), Unbound> {
        if (address.to_bits() ^ beside.to_bits()) as u64 & FREE_BITS != 0 {
            return Err(Unbound::Bits);
        }
        self.verify_member(address)
    }

    fn verify_as(&self, prefix: Prefix, address: Ipv6Addr) -> Result<(), Unbound> {
        if self.collisions > COLLISIONS_MAX {
            return Err(Unbound::Collisions);
        }
        let id = address.to_bits() as u64;
        if (self.hash1(prefix) ^ id) & !FREE_BITS != 0 {
            return Err(Unbound::Hash1);
        }
        match sec_of(address) {
            sec if sec > SEC_MAX => Err(Unbound::Sec),
            sec if self.worked(sec) => Ok(()),
            _ => Err(Unbound::Hash2),
        }
    }
}

/// 16 * `sec` zeros at the front, of the 112 bits that count (RFC 3972 5, step 7).
pub(super) fn begins_with_zeros(digest: &[u8], sec: u8) -> bool {
    digest.iter().take(usize::from(sec) * 2).all(|b| *b == 0)
}

/// The upper half of an address.
pub const fn prefix_of(address: Ipv6Addr) -> Prefix {
    ((address.to_bits() >> 64) as u64).to_be_bytes()
}

/// How much work an address claims to stand for: its first three bits of the lower half.
pub const fn sec_of(address: Ipv6Addr) -> u8 {
    address.octets()[8] >> 5
}

/// Length of the DER SEQUENCE at the front of `bytes`.
fn der_len(bytes: &[u8]) -> Result<usize, PdsError> {
    let short = PdsError::Short("public key");
    let [tag, first, rest @ ..] = bytes else { return Err(short) };
    if *tag != 0x30 {
        return Err(PdsError::Key);
    }
    let (head, len) = match *first {
        n @ 0..=0x7f => (2, usize::from(n)),
        // Two bytes of length suffice below 1024.
        0x81 => (3, usize::from(*rest.first().ok_or(short)?)),
        0x82 => (4, usize::from(u16::from_be_bytes(*rest.first_chunk().ok_or(short)?))),
        _ => return Err(PdsError::Key),
    };
    if head + len > bytes.len() { Err(short) } else { Ok(head + len) }
}
