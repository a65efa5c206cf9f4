//! BFD (RFC 5880): does the other end hear us, within a few milliseconds?

mod session;
mod wire;

pub use session::{SLOW_TX_US, Session, Timers};
pub use wire::{Diagnostic, PACKET_BYTES, Packet, Refused, State};

#[cfg(test)]
mod tests;
