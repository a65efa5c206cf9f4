//! Putting the payload header before a packet and taking it off (RFC 5533 11.1, 12.2). The
//! transport checksum stays that of the ULIDs.

use weft_stack::frame::Frame;
use weft_stack::path::PathAddrs;

use crate::locator::Pair;
use crate::wire::header::{Header, PAYLOAD_HEADER_BYTES, PROTOCOL, Tag, payload_header};

/// Sends a packet on its way: over its locators, behind a header with the peer's tag, which it
/// returns.
#[inline]
pub(crate) fn push(
    pair: Pair,
    tag: Tag,
    addrs: &mut PathAddrs,
    frame: &mut Frame,
) -> [u8; PAYLOAD_HEADER_BYTES] {
    let header = payload_header(addrs.protocol, tag);
    frame.push_front(PAYLOAD_HEADER_BYTES).copy_from_slice(&header);
    *addrs = PathAddrs { src: pair.local, dst: pair.remote, protocol: PROTOCOL };
    header
}

/// Gives a packet that came behind a payload header its ULIDs back.
#[inline]
pub(crate) fn pop(ulids: Pair, next: u8, addrs: &mut PathAddrs, frame: &mut Frame) {
    frame.pull_front(PAYLOAD_HEADER_BYTES);
    *addrs = PathAddrs { src: ulids.remote, dst: ulids.local, protocol: next };
}

/// What stands before a packet of protocol 140.
#[inline]
pub(crate) fn header(frame: &Frame) -> Option<Header> {
    Header::read(frame.data())
}
