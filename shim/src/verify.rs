//! Whether the locators a peer names are the peer's (RFC 5533 7.2, 16.1): nobody may send a peer's
//! packets to a third party, or a third party's to themselves.
//!
//! Three proofs, by what each locator says of itself:
//!
//! - hash-based (RFC 5535): ULID and locator are hashes over one list of prefixes; two SHA-1 each;
//! - cryptographically generated (RFC 3972): the ULID is a hash of a key that signed the locators;
//!   one RSA verification per list, a tenth of a millisecond, which the caller limits;
//! - keyed, of our own: an HMAC-SHA256 (RFC 2104) under a key that both administrators hold. The
//!   only proof an IPv4 address can have.
//!
//! ```text
//! keyed option:  key id 4 | HMAC 32
//! HMAC over:     "weft shim locators 1" 0 | binding length 4 | binding | ULID 16 | generation 4 |
//!                per locator: address 16, method 1, port 2 (0: none), in the list's order
//! signed:        message type 16 | generation 4 | addresses of the locators said to be signed
//! ```
//!
//! `binding` is what makes a message one of this exchange: its type and fixed part (nonces and tags),
//! and the sender's tag where that is not in it. A MAC recorded in one exchange proves nothing in
//! another. The receiver's ULID is not in it: tags are the receiver's own. Generations of lists with such a proof
//! are counted, so that an older list is known by its number.

use core::fmt;
use core::net::IpAddr;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use smallvec::SmallVec;
use weft_stack::ip::address::Cidr;
use weft_stack::rng::Rng;

use crate::hba::{
    HbaSet, Parameters, PdsError, SIGNATURE_TAG, SigningKey, Unbound, verify_signature,
};
use crate::locator::{LocatorList, Verification, to_octets};

const LABEL: &[u8] = b"weft shim locators 1\0";
/// Length of a keyed proof: id and MAC.
pub const KEYED_BYTES: usize = 36;
/// Bytes of a shared key; shorter ones can be guessed.
const KEY_BYTES: core::ops::RangeInclusive<usize> = 16..=64;

/// A key that the administrators of two hosts share.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedKey {
    secret: Vec<u8>,
    id: [u8; 4],
}

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedKey(..)")
    }
}

impl SharedKey {
    /// `None`: shorter than 16 bytes or longer than 64.
    pub fn new(secret: &[u8]) -> Option<SharedKey> {
        if !KEY_BYTES.contains(&secret.len()) {
            return None;
        }
        let mut key = SharedKey { secret: secret.to_vec(), id: [0; 4] };
        // Lets both ends hold an old and a new key while it changes, without numbers to agree on.
        let id = key.hmac().chain_update(b"weft shim key id").finalize().into_bytes();
        key.id.copy_from_slice(&id[..4]);
        Some(key)
    }

    fn hmac(&self) -> Hmac<Sha256> {
        Hmac::new_from_slice(&self.secret).expect("HMAC takes keys of any length")
    }

    fn mac_of(&self, ulid: IpAddr, list: &LocatorList, binding: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.hmac();
        mac.update(LABEL);
        mac.update(&(binding.len() as u32).to_be_bytes());
        mac.update(binding);
        mac.update(&to_octets(ulid));
        mac.update(&list.generation.to_be_bytes());
        for l in &list.locators {
            mac.update(&to_octets(l.addr));
            mac.update(&[l.verification.octet()]);
            mac.update(&l.port.unwrap_or(0).to_be_bytes());
        }
        mac
    }

    /// The content of a keyed option for `list` of the host with `ulid`.
    fn prove(&self, ulid: IpAddr, list: &LocatorList, binding: &[u8]) -> Vec<u8> {
        let mac = self.mac_of(ulid, list, binding).finalize().into_bytes();
        [&self.id[..], &mac].concat()
    }

    /// Compares in constant time.
    fn proves(&self, ulid: IpAddr, list: &LocatorList, binding: &[u8], proof: &[u8]) -> bool {
        let Some((id, mac)) = proof.split_first_chunk::<4>() else { return false };
        *id == self.id && self.mac_of(ulid, list, binding).verify_slice(mac).is_ok()
    }
}

/// A key and the peers it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyedPeers {
    /// ULIDs of the peers.
    pub peers: Cidr,
    /// The key shared with them.
    pub key: SharedKey,
}

/// Which proofs are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustConfig {
    /// Hash-based sets.
    pub hba: bool,
    /// Signatures.
    pub cga: bool,
    /// Shared keys.
    pub keyed: Vec<KeyedPeers>,
}

impl Default for TrustConfig {
    fn default() -> TrustConfig {
        TrustConfig { hba: true, cga: true, keyed: Vec::new() }
    }
}

/// What is known of one locator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It is the peer's.
    Proved,
    /// The proof it names is not accepted here, or nobody knows it.
    Refused,
    /// The proof it names is not in the message.
    Missing,
    /// It is not in the hash-based set.
    NotInSet(Unbound),
    /// The signature is not one of this list under the ULID's key.
    BadSignature,
    /// No key held for this peer makes the MAC.
    BadMac,
}

/// Verdicts in the order of the list.
pub type Verdicts = SmallVec<[Verdict; 4]>;

/// Why a message proves nothing at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The address parameters are malformed.
    #[error("malformed address parameters: {0}")]
    Parameters(#[from] PdsError),
    /// They are those of another address.
    #[error("the address parameters are not the ULID's: {0}")]
    Ulid(Unbound),
}

/// What came with a list of locators.
#[derive(Clone, Copy, Debug, Default)]
pub struct Received<'a> {
    /// Parameters of the ULID (option 4 of Shim6).
    pub pds: Option<&'a [u8]>,
    /// Signature (option 5).
    pub signature: Option<&'a [u8]>,
    /// Keyed proof (our own option).
    pub keyed: Option<&'a [u8]>,
    /// What makes the message one of this exchange.
    pub binding: &'a [u8],
}

/// Checks lists of locators.
#[derive(Clone, Debug, Default)]
pub struct Verifier {
    config: TrustConfig,
}

impl Verifier {
    /// One that takes the proofs of `config`.
    pub fn new(config: &TrustConfig) -> Verifier {
        Verifier { config: config.clone() }
    }

    /// Whether proofs of this method are taken from the peer with this ULID.
    pub fn accepts(&self, peer_ulid: IpAddr, method: Verification) -> bool {
        match method {
            Verification::Hba => self.config.hba,
            Verification::Cga => self.config.cga,
            Verification::Keyed => self.config.keyed.iter().any(|k| k.peers.contains(peer_ulid)),
            Verification::Other(_) => false,
        }
    }

    /// What each locator of the list of the peer with `peer_ulid` is worth. The ULID itself needs no
    /// proof: the exchange shows that the peer receives there.
    pub fn check(
        &self,
        peer_ulid: IpAddr,
        list: &LocatorList,
        received: &Received<'_>,
    ) -> Result<Verdicts, VerifyError> {
        let parameters = match received.pds {
            Some(bytes) if self.config.hba || self.config.cga => {
                Some(checked(peer_ulid, Parameters::parse(bytes)?)?)
            }
            _ => None,
        };
        // Each at most once for the list.
        let (mut signature, mut mac) = (None, None);
        let verdicts = list.locators.iter().map(|l| match l.verification {
            _ if l.addr == peer_ulid => Verdict::Proved,
            Verification::Hba if self.config.hba => in_set(parameters.as_ref(), peer_ulid, l.addr),
            Verification::Cga if self.config.cga && l.addr.is_ipv6() => *signature
                .get_or_insert_with(|| signature_verdict(parameters.as_ref(), list, received)),
            Verification::Keyed => *mac.get_or_insert_with(|| self.mac(peer_ulid, list, received)),
            _ => Verdict::Refused,
        });
        Ok(verdicts.collect())
    }

    fn mac(&self, peer_ulid: IpAddr, list: &LocatorList, received: &Received<'_>) -> Verdict {
        let mut keys = self.config.keyed.iter().filter(|k| k.peers.contains(peer_ulid)).peekable();
        if keys.peek().is_none() {
            return Verdict::Refused;
        }
        let Some(proof) = received.keyed else { return Verdict::Missing };
        let good = keys.any(|k| k.key.proves(peer_ulid, list, received.binding, proof));
        if good { Verdict::Proved } else { Verdict::BadMac }
    }
}

/// What the signature says of every locator that names it.
fn signature_verdict(
    parameters: Option<&Parameters>,
    list: &LocatorList,
    received: &Received<'_>,
) -> Verdict {
    let (Some(parameters), Some(signature)) = (parameters, received.signature) else {
        return Verdict::Missing;
    };
    // Random bits in a key's place sign nothing.
    let good =
        parameters.has_key() && verify_signature(&parameters.key, &signed_content(list), signature);
    if good { Verdict::Proved } else { Verdict::BadSignature }
}

/// Parameters that are the ULID's own, or those of another address of its set.
fn checked(ulid: IpAddr, parameters: Parameters) -> Result<Parameters, VerifyError> {
    let IpAddr::V6(ulid) = ulid else { return Err(VerifyError::Ulid(Unbound::Prefix)) };
    let bound = match parameters.verify(ulid) {
        Err(Unbound::Prefix) => parameters.verify_member(ulid),
        bound => bound,
    };
    bound.map_err(VerifyError::Ulid)?;
    Ok(parameters)
}

fn in_set(parameters: Option<&Parameters>, ulid: IpAddr, locator: IpAddr) -> Verdict {
    let Some(parameters) = parameters else { return Verdict::Missing };
    let (IpAddr::V6(locator), IpAddr::V6(ulid)) = (locator, ulid) else {
        return Verdict::NotInSet(Unbound::Prefix);
    };
    match parameters.verify_beside(locator, ulid) {
        Ok(()) => Verdict::Proved,
        Err(why) => Verdict::NotInSet(why),
    }
}

/// What a CGA signature is over (RFC 5533 5.15.5).
fn signed_content(list: &LocatorList) -> Vec<u8> {
    let mut bytes = SIGNATURE_TAG.to_vec();
    bytes.extend_from_slice(&list.generation.to_be_bytes());
    for l in list.locators.iter().filter(|l| l.verification == Verification::Cga) {
        bytes.extend_from_slice(&to_octets(l.addr));
    }
    bytes
}

/// The proofs that go with a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// Parameters of the ULID.
    pub pds: Option<Vec<u8>>,
    /// Signature of the locators said to be signed.
    pub signature: Option<Vec<u8>>,
    /// Keyed proof.
    pub keyed: Option<Vec<u8>>,
}

/// What a vserver can prove of its own addresses.
#[derive(Debug, Default)]
pub struct OwnSet {
    /// Its hash-based set.
    pub set: Option<HbaSet>,
    /// The key that the set was made with.
    pub key: Option<SigningKey>,
    /// Keys shared with peers.
    pub keyed: Vec<KeyedPeers>,
    /// Addresses of the set are signed for too, instead of proved by being in it.
    pub sign_all: bool,
}

impl OwnSet {
    /// The cheapest proof for `locator` beside `ulid` towards a peer; `None`: it cannot be proved
    /// and is not to be named.
    pub fn method(&self, ulid: IpAddr, peer: IpAddr, locator: IpAddr) -> Option<Verification> {
        let member = |addr: IpAddr| matches!((&self.set, addr), (Some(set), IpAddr::V6(a)) if set.addresses().contains(&a));
        let in_set = member(locator) && !self.sign_all;
        if member(ulid) && (in_set || ulid == locator) {
            Some(Verification::Hba)
        } else if member(ulid) && self.key.is_some() && locator.is_ipv6() {
            Some(Verification::Cga)
        } else if self.shared_with(peer).is_some() {
            Some(Verification::Keyed)
        } else {
            // A ULID alone needs no proof.
            (ulid == locator).then_some(Verification::Hba)
        }
    }

    fn shared_with(&self, peer: IpAddr) -> Option<&SharedKey> {
        self.keyed.iter().find(|k| k.peers.contains(peer)).map(|k| &k.key)
    }

    /// What `list` of `ulid` needs towards `peer`: nothing that no locator of it asks for.
    pub fn proof(
        &self,
        ulid: IpAddr,
        peer: IpAddr,
        list: &LocatorList,
        binding: &[u8],
        rng: &mut Rng,
    ) -> Proof {
        let asked =
            |method| list.locators.iter().any(|l| l.addr != ulid && l.verification == method);
        let (hba, cga) = (asked(Verification::Hba), asked(Verification::Cga));
        let pds = match (&self.set, ulid) {
            (Some(set), IpAddr::V6(ulid)) if hba || cga => Some(set.parameters_of(ulid).emit()),
            _ => None,
        };
        let signature = self.key.as_ref().filter(|_| cga);
        let keyed = self.shared_with(peer).filter(|_| asked(Verification::Keyed));
        Proof {
            pds,
            signature: signature.map(|key| key.sign(&signed_content(list), rng)),
            keyed: keyed.map(|key| key.prove(ulid, list, binding)),
        }
    }
}

#[cfg(test)]
mod tests;
