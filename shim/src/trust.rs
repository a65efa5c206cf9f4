//! What the contexts ask of whoever proves locators: which of a peer's belong to its ULID, and how
//! this host proves its own.

use core::net::IpAddr;

use weft_stack::rng::Rng;

use crate::locator::{LOCATORS_MAX, Locator, LocatorList, Verification};
use crate::verify::{OwnSet, Received, TrustConfig, Verdict, Verifier};

/// The proof that came with a locator list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proof<'a> {
    /// CGA parameter data structure, of this message or an earlier one of the peer.
    pub pds: Option<&'a [u8]>,
    /// CGA signature.
    pub signature: Option<&'a [u8]>,
    /// MAC under a configured key.
    pub keyed: Option<&'a [u8]>,
    /// What ties a MAC to its message.
    pub binding: &'a [u8],
}

/// The proof of a list of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnProof {
    /// CGA parameter data structure.
    pub pds: Option<Vec<u8>>,
    /// CGA signature over the list.
    pub signature: Option<Vec<u8>>,
    /// MAC over the list.
    pub keyed: Option<Vec<u8>>,
}

/// Why a list is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unproved {
    /// The parameters are not those of the ULID: the message is dropped in silence.
    NotTheUlids,
    /// The method of the locator at this index is unknown, does not fit the parameters, or fails:
    /// the sender is told (RFC 5533 7.2).
    Locator(usize),
}

/// Proves locators.
pub trait Trust: Send {
    /// Whether `pds` is that of `ulid` (RFC 5533 7.13).
    fn is_of(&self, ulid: IpAddr, pds: &[u8]) -> bool;

    /// Whether every locator of `list` belongs to `ulid`. The ULID itself needs no proof. Called at
    /// a bounded rate if the list is signed.
    fn check(&self, ulid: IpAddr, list: &LocatorList, proof: &Proof<'_>) -> Result<(), Unproved>;

    /// Whether proofs of this method are taken from the peer with `ulid` now; what was proved so
    /// before is revoked otherwise. Costs next to nothing.
    fn accepts(&self, ulid: IpAddr, method: Verification) -> bool;

    /// How our `locator` is proved to `peer` in a context with our `ulid`; `None`: it cannot be, and
    /// is not told.
    fn method(&self, ulid: IpAddr, peer: IpAddr, locator: &Locator) -> Option<Verification>;

    /// The proof of our `list` for a context with our `ulid`; `peer` chooses the key of a MAC.
    fn prove(
        &mut self,
        ulid: IpAddr,
        peer: IpAddr,
        list: &LocatorList,
        binding: &[u8],
        rng: &mut Rng,
    ) -> OwnProof;
}

/// Proof by hash-based addresses, signatures and shared keys.
#[derive(Debug, Default)]
pub struct Proofs {
    verifier: Verifier,
    own: OwnSet,
    /// The last list of each ULID that was signed, and its proof: a signature costs a millisecond,
    /// and the same list goes to every peer. As many as there are locators.
    signed: Vec<(IpAddr, LocatorList, OwnProof)>,
}

impl Proofs {
    /// Proves our locators by `own` and takes the proofs of `trust`.
    pub fn new(trust: &TrustConfig, own: OwnSet) -> Proofs {
        Proofs { verifier: Verifier::new(trust), own, signed: Vec::new() }
    }
}

impl Trust for Proofs {
    fn is_of(&self, ulid: IpAddr, pds: &[u8]) -> bool {
        let received = Received { pds: Some(pds), ..Received::default() };
        self.verifier.check(ulid, &LocatorList::default(), &received).is_ok()
    }

    fn check(&self, ulid: IpAddr, list: &LocatorList, proof: &Proof<'_>) -> Result<(), Unproved> {
        let &Proof { pds, signature, keyed, binding } = proof;
        let received = Received { pds, signature, keyed, binding };
        let verdicts =
            self.verifier.check(ulid, list, &received).map_err(|_| Unproved::NotTheUlids)?;
        let bad = verdicts.iter().position(|v| *v != Verdict::Proved);
        bad.map_or(Ok(()), |at| Err(Unproved::Locator(at)))
    }

    fn accepts(&self, ulid: IpAddr, method: Verification) -> bool {
        self.verifier.accepts(ulid, method)
    }

    fn method(&self, ulid: IpAddr, peer: IpAddr, locator: &Locator) -> Option<Verification> {
        self.own.method(ulid, peer, locator.addr)
    }

    fn prove(
        &mut self,
        ulid: IpAddr,
        peer: IpAddr,
        list: &LocatorList,
        binding: &[u8],
        rng: &mut Rng,
    ) -> OwnProof {
        let known = self.signed.iter().find(|(of, known, _)| *of == ulid && known == list);
        if let Some((_, _, proof)) = known {
            return proof.clone();
        }
        let made = self.own.proof(ulid, peer, list, binding, rng);
        let proof = OwnProof { pds: made.pds, signature: made.signature, keyed: made.keyed };
        // A MAC is of one message.
        if proof.signature.is_some() && proof.keyed.is_none() {
            self.signed.retain(|(of, _, _)| *of != ulid);
            if self.signed.len() >= LOCATORS_MAX {
                self.signed.remove(0);
            }
            self.signed.push((ulid, list.clone(), proof.clone()));
        }
        proof
    }
}
