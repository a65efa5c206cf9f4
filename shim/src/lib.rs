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

/// The path layer of a host without multipath: ULIDs are locators, nothing is added to a packet.
pub type Identity = weft_stack::path::Direct;

/// The identity layer of one vserver.
pub const fn identity() -> Identity {
    weft_stack::path::Direct
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;
    use weft_stack::frame::Frame;
    use weft_stack::path::PathAddrs;
    use weft_stack::time::Instant;

    #[test]
    fn the_identity_changes_nothing() {
        let (src, dst): (IpAddr, IpAddr) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
        let mut layer = identity();
        let mut addrs = PathAddrs { src, dst, protocol: 6 };
        let mut frame = Frame::from_heap(64, b"segment");
        layer.egress(Instant::ZERO, &mut addrs, &mut frame).unwrap();
        layer.ingress(Instant::ZERO, &mut addrs, &mut frame).unwrap();
        assert_eq!(addrs, PathAddrs { src, dst, protocol: 6 });
        assert_eq!(frame.data(), b"segment");
        assert_eq!(layer.overhead_bytes(src, dst), 0);
        assert_eq!(layer.locators(src, dst), (src, dst));
    }
}
