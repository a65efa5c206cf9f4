//! Segments that a path layer rewrote: behind an eight-byte payload header (RFC 5533 5.2), which
//! may stand in a datagram.
//!
//! They merge as other segments do, if their payload headers, and with them the receiver's tag, are
//! equal. Their checksum covers addresses that only the layer knows. So only the rest of it is
//! summed here: with one pair of addresses, what is right of all sums is the same, and the layer's
//! stack, which learns the addresses, has one look for the whole unit ([`Checksum::Summed`]).

use crate::frame::{Checksum, Frame};
use crate::wire::{checksum, frame_sum, protocol};

use super::{Kind, Segment, UDP_LEN, be16, be32, transport};

/// Of the payload header: next header, length, a set bit and the receiver's tag.
pub(super) const HEADER_LEN: usize = 8;
/// Set in the third octet of a payload header; not so in a control message.
const IS_PAYLOAD: u8 = 0x80;

/// What stands between IP and the transport header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Outer {
    /// Nothing.
    #[default]
    None,
    /// A payload header.
    Header,
    /// A UDP header and a payload header.
    Datagram,
}

impl Outer {
    /// Bytes of it.
    pub(super) const fn len(self) -> usize {
        match self {
            Outer::None => 0,
            Outer::Header => HEADER_LEN,
            Outer::Datagram => UDP_LEN + HEADER_LEN,
        }
    }

    /// Whether what two packets of one flow have there, from `at` on, lets them merge.
    pub(super) fn is_alike(self, a: &[u8], b: &[u8], at: usize) -> bool {
        match self {
            Outer::None => true,
            Outer::Header => a[at..at + HEADER_LEN] == b[at..at + HEADER_LEN],
            Outer::Datagram => {
                let (header, end) = (at + UDP_LEN, at + self.len());
                a[at..at + 4] == b[at..at + 4] && a[header..end] == b[header..end]
            }
        }
    }
}

/// A packet with `outer` at `at`, behind its IP header.
pub(super) fn kind(frame: &Frame, at: usize, outer: Outer, addresses: &[u8], whole: bool) -> Kind {
    let Some(header) = frame.data().get(at..at + outer.len()) else { return Kind::Foreign };
    let is_datagram = outer == Outer::Datagram;
    if is_datagram && be16(header, 4) != frame.total_len() - at {
        return Kind::Unknown;
    }
    let header = &header[outer.len() - HEADER_LEN..];
    if header[2] & IS_PAYLOAD == 0 {
        // A control message is of no flow.
        return Kind::Foreign;
    }
    if header[0] != protocol::TCP || header[1] != 0 {
        return Kind::Unknown;
    }
    match transport(frame, at + outer.len(), protocol::TCP, addresses, whole) {
        Kind::Alone(hash) => Kind::Alone(mixed(hash, header)),
        Kind::Mergeable(hash, segment) => {
            Kind::Mergeable(mixed(hash, header), Segment { outer, ..segment })
        }
        other => other,
    }
}

/// Hash of a flow and its tag.
fn mixed(hash: u32, header: &[u8]) -> u32 {
    (hash ^ be32(header, 4).wrapping_mul(0x9e37_79b9)) | 1 << 31
}

/// Of protocol and length, and of transport header and payload.
fn rest(sum: u16, len: usize) -> u16 {
    checksum::combine(checksum::combine(sum, u16::from(protocol::TCP)), len as u16)
}

/// Whether the checksum of the datagram around a segment is right, if there is one; the segment's
/// own is summed.
pub(super) fn verify(frame: &mut Frame, s: &mut Segment, trust: bool) -> bool {
    let inner = frame_sum::sum_from(0, frame, s.transport);
    let len = frame.total_len() - s.transport;
    s.sum = rest(inner, len);
    if s.outer == Outer::Datagram {
        let data = frame.data();
        let datagram = s.transport - s.outer.len();
        let is_none = s.is_v4 && data[datagram + 6..datagram + 8] == [0, 0];
        if !(trust || is_none || frame.meta.checksum.is_settled()) {
            let addresses = datagram - if s.is_v4 { 8 } else { 32 };
            let sum = checksum::sum(&data[addresses..s.transport]);
            let sum = checksum::combine(sum, u16::from(protocol::UDP));
            let sum = checksum::combine(sum, (len + s.outer.len()) as u16);
            if data[datagram + 6..datagram + 8] == [0, 0]
                || !checksum::is_valid(checksum::combine(sum, inner))
            {
                return false;
            }
        }
    }
    frame.meta.checksum = Checksum::Summed(s.sum);
    true
}

/// The same for segments of which all but that is known to be as in the unit's first.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    outer: Outer,
    is_v4: bool,
    /// Of pseudo header, datagram's header without checksum, and payload header.
    around: u16,
}

impl Sums {
    /// Of a unit's first packet, whose transport header is at `s.transport`.
    pub(super) fn of(data: &[u8], s: &Segment) -> Sums {
        let mut sums = Sums { outer: s.outer, is_v4: s.is_v4, around: 0 };
        if s.outer == Outer::Datagram {
            let datagram = s.transport - s.outer.len();
            let addresses = datagram - if s.is_v4 { 8 } else { 32 };
            let before = checksum::sum(&data[addresses..datagram + 6]);
            let behind = checksum::sum(&data[datagram + UDP_LEN..s.transport]);
            let length = be16(data, datagram + 4) as u16;
            let pseudo = checksum::combine(length, u16::from(protocol::UDP));
            sums.around = checksum::combine(checksum::combine(before, behind), pseudo);
        }
        sums
    }

    /// Whether a segment's checksums are right, its own if that of the unit is. `settled`: of the
    /// datagram around it that is known.
    #[inline]
    pub(super) fn fit(self, data: &[u8], at: usize, unit: u16, settled: bool) -> bool {
        let segment = &data[at..];
        let inner = checksum::sum(segment);
        if rest(inner, segment.len()) != unit {
            return false;
        }
        if settled || self.outer == Outer::Header {
            return true;
        }
        let field = be16(data, at - HEADER_LEN - 2) as u16;
        if field == 0 {
            return self.is_v4;
        }
        let sum = checksum::combine(checksum::combine(self.around, field), inner);
        checksum::is_valid(sum)
    }
}
