//! Wire formats: `smoltcp::wire` behind our names, and what it lacks.
//!
//! Its parsers check lengths and do not panic; its emitters panic on short buffers, so every
//! emitter here sizes its buffer first. Its `TcpRepr` is not used (it loses ECE, CWR, URG and the
//! fourth SACK block).

pub mod checksum;
pub mod frame_sum;
pub(crate) mod header;
pub(crate) mod plain;
pub mod tcp;

/// IP protocol numbers (IANA).
pub(crate) mod protocol {
    pub(crate) const HOP_BY_HOP: u8 = 0;
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const IGMP: u8 = 2;
    /// Headers and messages of a path layer (RFC 5533).
    pub(crate) const SHIM6: u8 = 140;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const ROUTING: u8 = 43;
    pub(crate) const FRAGMENT: u8 = 44;
    pub(crate) const ICMPV6: u8 = 58;
    pub(crate) const NO_NEXT: u8 = 59;
    pub(crate) const DEST_OPTIONS: u8 = 60;
}
