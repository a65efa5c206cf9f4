//! Signatures of cryptographically generated addresses (RFC 3972 6): RSASSA-PKCS1-v1_5 over SHA-1.
//!
//! SHA-1 is what the RFC fixes. Forging a signature takes a second preimage, not a collision: what
//! is signed is made by the signer.

use rsa::pkcs1v15::{Signature, SigningKey as Pkcs1SigningKey, VerifyingKey};
use rsa::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePublicKey};
use rsa::rand_core::{CryptoRng, RngCore};
use rsa::signature::{RandomizedSigner, SignatureEncoding, Verifier};
use rsa::traits::PublicKeyParts;
use rsa::{RsaPrivateKey, RsaPublicKey};
use sha1::Sha1;
use weft_stack::rng::Rng;

/// The message type of Shim6 signatures (RFC 5533 5.15.5): what is signed for another protocol is
/// no signature here.
pub const SIGNATURE_TAG: [u8; 16] = [
    0x4a, 0x30, 0x56, 0x62, 0x48, 0x58, 0x57, 0x4b, 0x36, 0x55, 0x41, 0x6f, 0x50, 0x6a, 0x6d, 0x48,
];
/// Bits of a key that is accepted from a peer: below it is no proof, above it costs too much.
const PEER_BITS: core::ops::RangeInclusive<usize> = 1024..=4096;

/// Why a key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Neither PKCS#8 text nor DER of an RSA key.
    #[error("no RSA private key in PKCS#8 form; make one with 'openssl genpkey -algorithm RSA'")]
    Form,
    /// Too short or too long.
    #[error("an RSA key of {0} bits; take 1024 to 4096")]
    Bits(usize),
}

/// A private key that signs for addresses.
pub struct SigningKey {
    key: Pkcs1SigningKey<Sha1>,
    public_der: Vec<u8>,
}

impl core::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

impl SigningKey {
    /// Reads a key from the content of a file: PKCS#8, as text (PEM) or DER.
    pub fn from_pkcs8(content: &[u8]) -> Result<SigningKey, KeyError> {
        let key = match core::str::from_utf8(content) {
            Ok(text) => RsaPrivateKey::from_pkcs8_pem(text.trim()),
            Err(_) => RsaPrivateKey::from_pkcs8_der(content),
        };
        let key = key.map_err(|_| KeyError::Form)?;
        let bits = key.size() * 8;
        if !PEER_BITS.contains(&bits) {
            return Err(KeyError::Bits(bits));
        }
        let public = key.to_public_key().to_public_key_der().map_err(|_| KeyError::Form)?;
        Ok(SigningKey { key: Pkcs1SigningKey::new(key), public_der: public.into_vec() })
    }

    /// The public key as it stands in the parameters of an address.
    pub fn public_der(&self) -> &[u8] {
        &self.public_der
    }

    /// Signs `message`, which begins with a message type. `rng` blinds the computation, so that its
    /// time says nothing of the key; the signature is the same whatever it gives.
    pub fn sign(&self, message: &[u8], rng: &mut Rng) -> Vec<u8> {
        self.key.sign_with_rng(&mut Blinding(rng), message).to_vec()
    }
}

/// `signature` is one of `message` under the key of some parameters. Costs an RSA verification: a
/// tenth of a millisecond, which the caller limits.
pub fn verify_signature(key_der: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let Ok(key) = RsaPublicKey::from_public_key_der(key_der) else { return false };
    if !PEER_BITS.contains(&(key.size() * 8)) {
        return false;
    }
    let Ok(signature) = Signature::try_from(signature) else { return false };
    VerifyingKey::<Sha1>::new(key).verify(message, &signature).is_ok()
}

/// The vserver's generator in the form that the signing crate asks for.
struct Blinding<'a>(&'a mut Rng);

impl RngCore for Blinding<'_> {
    fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.0.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rsa::rand_core::Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

/// Keyed with the vserver's secret seed; no output of it leaves the signature's computation.
impl CryptoRng for Blinding<'_> {}
