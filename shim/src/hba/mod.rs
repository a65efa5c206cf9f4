//! Hash-based addresses (RFC 5535): addresses of several prefixes that prove each other.
//!
//! The interface identifier of each address is a hash over the same modifier, key and list of
//! prefixes, with the address's own prefix put in. Who knows the parameters (the PDS of RFC 3972)
//! can tell at the cost of two SHA-1 that two addresses are of one set, without any signature; and
//! who wants another host's address in their own set must find a second preimage of 59 bits, times
//! 2^(16 * Sec).
//!
//! ```text
//! PDS:        modifier 16 | prefix 8 | collision count 1 | key (DER) | extensions
//! extension:  type 2 | length 2 | data
//! prefixes:   type 0x0012, P 1 bit | reserved 31 bits | prefix 8, ...
//! Hash1(i):   first 64 bits of SHA-1(PDS with prefix i); Sec into bits 0-2, bits 6 and 7 cleared
//! Hash2:      first 112 bits of SHA-1(PDS with prefix and collision count zero); 16 * Sec zeros
//! ```
//!
//! With P the key is a real one and every address of the set is a CGA as well: then further
//! locators, of prefixes that were not known when the set was made, can be signed ([`SigningKey`]).

mod generate;
mod key;
mod parameters;
#[cfg(test)]
mod tests;

pub use generate::{GenerateError, HbaSet, Search};
pub use key::{KeyError, SIGNATURE_TAG, SigningKey, verify_signature};
pub use parameters::{
    COLLISIONS_MAX, Extension, PREFIXES_MAX, Parameters, PdsError, Prefix, Unbound, prefix_of,
    sec_of,
};
