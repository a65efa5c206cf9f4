//! Multipath shim below stable upper-layer identifiers (ULIDs).
//!
//! The shim sits between transport and IP as a [`PathLayer`]: a connection keeps the address pair it
//! was opened with, its ULIDs, while the packets below travel between whichever locators work at the
//! moment. Sans-IO, like the stack: time, randomness and packets are arguments.
//!
//! ```text
//! connect/    the second shim: which pair a connection is opened with (RFC 6724, RFC 8305)
//! ---------   transports of the stack: ULIDs
//! layer       the seam: PathLayer over the Contexts of a vserver, or over nothing
//! contexts/   all contexts: found by ULIDs on the way out, by tag on the way in; bounds
//! context/    one context: the state machine of RFC 5533
//! reap/       which pair of it works: RFC 5534
//! log         what happened to contexts, for operators
//! encap       packets of the shim in UDP, for IPv4 locators and behind NATs
//! trust, verify, hba/   which locators belong to a ULID: RFC 5535, RFC 3972, shared keys
//! wire/       messages and options byte by byte
//! options     what sockets read and set (RFC 6316)
//! ---------   IP of the stack: locators
//! ```
//!
//! The manual is `docs/shim.md`; it says where this differs from the RFCs, and why.

pub mod config;
pub mod connect;
pub mod context;
pub mod contexts;
pub mod encap;
pub mod hba;
pub mod layer;
pub mod limit;
pub mod locator;
pub mod log;
pub mod options;
pub mod own;
pub mod reap;
mod rewrite;
pub mod stats;
pub mod trust;
pub mod verify;
pub mod wire;

pub use weft_stack::path::PathLayer;
