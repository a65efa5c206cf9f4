//! Multipath shim below stable upper-layer identifiers (ULIDs).
//!
//! The shim will sit between transport and IP as a [`PathLayer`]: a connection keeps the address
//! pair it was opened with, its ULIDs, while the packets below travel between whichever locators
//! work at the moment. Sans-IO, like the stack.
//!
//! What is here now is the identity layer: ULIDs are locators. The host builds every stack over
//! [`Identity`], so the seam is in use from the first day and the multipath layer replaces one
//! name.

pub mod config;
pub mod connect;
pub mod context;
pub mod contexts;
pub mod encap;
pub mod hba;
pub mod layer;
pub mod limit;
pub mod locator;
pub mod options;
pub mod own;
pub mod reap;
mod rewrite;
pub mod stats;
pub mod trust;
pub mod verify;
pub mod wire;

pub use weft_stack::path::PathLayer;
