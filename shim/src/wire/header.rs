//! The two forms of the Shim6 header: before a payload, and a control message (RFC 5533 5.1-5.3).

use core::fmt;

use weft_stack::wire::checksum;

/// IP protocol of everything the shim sends.
pub const PROTOCOL: u8 = 140;
/// Next header of a control message.
pub const NO_NEXT_HEADER: u8 = 59;
/// Bytes of the header before a payload.
pub const PAYLOAD_HEADER_BYTES: usize = 8;
/// Longest control message: 1,280 bytes with the IPv6 header (RFC 5533 5.1).
pub const MESSAGE_BYTES_MAX: usize = 1240;

/// A context tag: 47 bits that the receiver of a message chose.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(u64);

impl Tag {
    const MASK: u64 = (1 << 47) - 1;

    /// The lowest 47 bits of `bits`.
    pub const fn new(bits: u64) -> Tag {
        Tag(bits & Tag::MASK)
    }

    /// As a number.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Reads six bytes; the bit before the tag is reserved and ignored.
    pub const fn read(b: [u8; 6]) -> Tag {
        Tag::new(u64::from_be_bytes([0, 0, b[0], b[1], b[2], b[3], b[4], b[5]]))
    }

    /// Six bytes, the bit before the tag zero.
    pub const fn octets(self) -> [u8; 6] {
        let b = self.0.to_be_bytes();
        [b[2], b[3], b[4], b[5], b[6], b[7]]
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What stands at the front of a packet of protocol 140.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// A payload follows, of IP protocol `next`.
    Payload {
        /// Protocol of the payload.
        next: u8,
        /// The receiver's tag.
        tag: Tag,
    },
    /// A control message of `len` bytes.
    Control {
        /// Its length, at most that of the packet.
        len: usize,
    },
}

impl Header {
    /// Reads the first eight bytes. `None`: shorter than it says, a payload header of another
    /// length, or a message of HIP, which has the last bit of the fourth octet set.
    pub fn read(packet: &[u8]) -> Option<Header> {
        let (&[next, len, b2, b3, b4, b5, b6, b7], _) = packet.split_first_chunk::<8>()?;
        if b2 & 0x80 != 0 {
            let tag = Tag::read([b2 & 0x7f, b3, b4, b5, b6, b7]);
            return (len == 0).then_some(Header::Payload { next, tag });
        }
        let len = (usize::from(len) + 1) * 8;
        (packet.len() >= len && b3 & 1 == 0).then_some(Header::Control { len })
    }
}

/// The header before a payload of protocol `next`.
#[inline]
pub const fn payload_header(next: u8, tag: Tag) -> [u8; PAYLOAD_HEADER_BYTES] {
    let t = tag.octets();
    [next, 0, 0x80 | t[0], t[1], t[2], t[3], t[4], t[5]]
}

/// Whether the sum over a control message, without any pseudo-header, is right.
pub fn checksum_is_valid(message: &[u8]) -> bool {
    checksum::is_valid(checksum::sum(message))
}

/// Fills in the length and the checksum of a message whose length is a multiple of eight.
pub(super) fn seal(message: &mut [u8]) {
    debug_assert!(message.len().is_multiple_of(8) && message.len() >= 8);
    message[1] = (message.len() / 8 - 1) as u8;
    message[4..6].fill(0);
    let sum = checksum::finish(checksum::sum(message));
    message[4..6].copy_from_slice(&sum.to_be_bytes());
}
