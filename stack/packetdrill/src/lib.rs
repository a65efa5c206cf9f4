//! Runs scripts of packetdrill's language against a [`weft_stack::Stack`] in virtual time.
//!
//! A script says which packets arrive, which calls the application makes, and which packets and
//! results follow, each at its time. [`parse()`] reads it; errors name file, line and column.
#![deny(unsafe_code)]

mod assertions;
mod errno;
mod flow;
pub mod host;
mod packet;
pub mod parse;
pub mod run;
pub mod script;
pub mod settings;
mod show;
pub mod so;
mod symbols;
pub mod token;

pub use errno::Errno;
pub use parse::{ScriptError, parse};
pub use run::{Summary, run};
pub use script::Script;
pub use settings::Settings;
