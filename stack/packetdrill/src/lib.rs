//! Runs scripts of packetdrill's language against a [`weft_stack::Stack`] in virtual time.
//!
//! A script says which packets arrive, which calls the application makes, and which packets and
//! results follow, each at its time. [`parse`] reads it; errors name file, line and column.
#![deny(unsafe_code)]

pub mod parse;
pub mod script;
pub mod token;

pub use parse::{ScriptError, parse};
pub use script::Script;
