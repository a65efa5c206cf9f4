//! Wire formats of RFC 5533 and RFC 5534. Everything read is length-checked, nothing panics; what
//! cannot be read says whether its sender must be told.

pub mod header;
pub mod message;
pub mod option;
pub mod probe;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;

pub use header::{Header, PROTOCOL, Tag, payload_header};
pub use message::{Body, Message, ReadError};
pub use option::{Options, Places, Preferences};
