//! Copies of frames, finished as a reader expects them: whole checksums, true lengths.

use std::net::IpAddr;

use weft_stack::frame::{Checksum, Frame, Gso};
use weft_stack::wire::{checksum, frame_sum};

use super::sight::{FRAGMENT, Rewritten, Sight, TCP, UDP};

fn put16(data: &mut [u8], at: usize, value: u16) {
    if let Some(field) = data.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

/// The first `most` bytes of a frame as a wire would have had them, or of a super-segment as if a
/// wire took it.
pub(super) fn of(frame: &Frame, sight: Option<&Sight>, most: usize) -> Vec<u8> {
    let most = most.min(frame.total_len());
    if !Sight::is_unfinished(frame) {
        let mut data = vec![0; most];
        copy_front(frame, &mut data);
        return data;
    }
    let mut whole = vec![0; frame.total_len()];
    copy_front(frame, &mut whole);
    finish(&mut whole, frame, sight);
    whole.truncate(most);
    whole
}

fn copy_front(frame: &Frame, out: &mut [u8]) {
    let mut at = 0;
    for part in std::iter::once(frame.data()).chain(&frame.frags) {
        let n = part.len().min(out.len() - at);
        out[at..at + n].copy_from_slice(&part[..n]);
        at += n;
    }
}

fn finish(data: &mut [u8], frame: &Frame, sight: Option<&Sight>) {
    let transport = sight.and_then(|s| s.transport(frame));
    if let Checksum::Partial { start, offset } = frame.meta.checksum {
        let (start, offset) = (usize::from(start), usize::from(offset));
        let value = checksum::finish_at(offset, frame_sum::sum_from(0, frame, start));
        put16(data, start + offset, value);
    } else if let Some((at, protocol, ends)) = transport {
        sum_merged(data, at, protocol, ends, frame);
    }
    let Some(sight) = sight.filter(|_| frame.meta.gso != Gso::None) else { return };
    lengths(data, sight.network);
    let is_tcp = matches!(frame.meta.gso, Gso::Tcp4 { .. } | Gso::Tcp6 { .. });
    if is_tcp && sight.rewritten.is_some_and(|r| r.in_udp) {
        sum_merged(data, sight.payload, UDP, (sight.src, sight.dst), frame);
    }
}

/// The length and checksum of what was merged: those in the headers are the first one's. A unit
/// that was summed and is wrong stays wrong.
fn sum_merged(data: &mut [u8], at: usize, protocol: u8, ends: (IpAddr, IpAddr), frame: &Frame) {
    let offset = if protocol == TCP { 16 } else { 6 };
    let total = data.len().saturating_sub(at);
    if total < offset + 2 || ends.0.is_ipv4() != ends.1.is_ipv4() {
        return;
    }
    if protocol == UDP {
        put16(data, at + 4, length(total));
        if data[at + 6..at + 8] == [0, 0] {
            return;
        }
    }
    if let (TCP, Checksum::Summed(sum)) = (protocol, frame.meta.checksum) {
        let addresses = checksum::pseudo(ends.0, ends.1, 0, 0);
        if !checksum::is_valid(checksum::combine(addresses, sum)) {
            return;
        }
    }
    put16(data, at + offset, 0);
    let pseudo = checksum::pseudo(ends.0, ends.1, protocol, total);
    let sum = checksum::combine(pseudo, checksum::sum(&data[at..]));
    let value = if protocol == UDP { checksum::finish_udp(sum) } else { checksum::finish(sum) };
    put16(data, at + offset, value);
}

/// The length in the IP header of a super-segment.
fn lengths(data: &mut [u8], network: usize) {
    let Some(ip) = data.get_mut(network..) else { return };
    let total = ip.len();
    if ip.first().is_some_and(|b| b >> 4 == 6) {
        return put16(ip, 4, length(total.saturating_sub(40)));
    }
    let header_len = ip.first().map_or(0, |b| usize::from(b & 15) * 4);
    put16(ip, 2, length(total));
    put16(ip, 10, 0);
    if let Some(header) = ip.get(..header_len) {
        let sum = checksum::finish(checksum::sum(header));
        put16(ip, 10, sum);
    }
}

/// A packet above the shim: its bytes, and how many there were.
pub(super) struct Packet {
    pub(super) data: Vec<u8>,
    pub(super) len: usize,
}

/// A packet that the shim did not touch, without the link's header and padding: `copy` to `end`.
pub(super) fn plain(copy: &[u8], sight: &Sight, end: usize) -> Packet {
    let len = end.saturating_sub(sight.network);
    let data = copy.get(sight.network..end.min(copy.len())).unwrap_or_default();
    Packet { data: data.to_vec(), len }
}

/// A packet that the shim rewrote, between its ULIDs. The transport's bytes are those of `copy` from
/// behind the payload header to `end`.
pub(super) fn above(copy: &[u8], sight: &Sight, what: &Rewritten, end: usize) -> Packet {
    let (mut at, mut next) = (what.payload(), what.next);
    let outer = &copy[sight.network..];
    let (class, hops) = match outer.first().map(|b| b >> 4) {
        Some(4) => (outer[1], outer[8]),
        _ => (outer[0] << 4 | outer[1] >> 4, outer[7]),
    };
    // IPv4 has no header for pieces that were cut above the shim, but fields.
    let (mut ident, mut fragment) = (0, 0);
    if let (FRAGMENT, IpAddr::V4(_), Some(h)) = (next, what.ulids.0, copy.get(at..at + 8)) {
        let field = u16::from_be_bytes([h[2], h[3]]);
        ident = u16::from_be_bytes([h[6], h[7]]);
        fragment = field >> 3 | (field & 1) << 13;
        next = h[0];
        at += 8;
    }
    let body = copy.get(at..end.min(copy.len())).unwrap_or_default();
    let len = end.saturating_sub(at);
    let mut data = Vec::with_capacity(40 + body.len());
    match what.ulids {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            data.extend([0x45, class]);
            data.extend(length(len + 20).to_be_bytes());
            data.extend(ident.to_be_bytes());
            data.extend(fragment.to_be_bytes());
            data.extend([hops, next, 0, 0]);
            data.extend(src.octets());
            data.extend(dst.octets());
            let sum = checksum::finish(checksum::sum(&data));
            put16(&mut data, 10, sum);
        }
        (src, dst) => {
            data.extend([0x60 | class >> 4, class << 4, 0, 0]);
            data.extend(length(len).to_be_bytes());
            data.extend([next, hops]);
            for addr in [src, dst] {
                match addr {
                    IpAddr::V6(addr) => data.extend(addr.octets()),
                    IpAddr::V4(addr) => data.extend(addr.to_ipv6_mapped().octets()),
                }
            }
        }
    }
    let len = len + data.len();
    data.extend(body);
    Packet { data, len }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_shim::wire::{Tag, payload_header};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A packet of the shim over IPv6, and what it is above between two IPv4 ULIDs.
    fn rewritten(next: u8, body: &[u8]) -> (Vec<u8>, Sight) {
        let mut data = vec![0x60, 0, 0, 0, 0, 8 + body.len() as u8, 140, 64];
        data.extend([0; 32]);
        data.extend(payload_header(next, Tag::new(7)));
        data.extend(body);
        let ulids = (ip("10.0.0.1"), ip("10.0.0.2"));
        let sight = Sight {
            network: 0,
            src: ip("fd00::1"),
            dst: ip("fd00::2"),
            protocol: 140,
            payload: 40,
            end: data.len(),
            headless: false,
            of_shim: true,
            rewritten: Some(Rewritten { at: 40, in_udp: false, next, ulids }),
        };
        (data, sight)
    }

    #[test]
    fn a_piece_between_ipv4_ulids_is_an_ipv4_fragment() {
        let piece = [&[UDP, 0, 0, 17, 0, 1, 2, 3][..], &[9; 24]].concat();
        let (data, sight) = rewritten(FRAGMENT, &piece);
        let packet = above(&data, &sight, &sight.rewritten.unwrap(), data.len());
        assert_eq!((packet.len, packet.data.len()), (44, 44));
        // Identification, more fragments and 2 times 8 bytes before.
        assert_eq!(packet.data[4..8], [2, 3, 0x20, 2]);
        assert_eq!((packet.data[9], &packet.data[20..]), (UDP, &[9; 24][..]));
        assert!(checksum::is_valid(checksum::sum(&packet.data[..20])));
    }

    #[test]
    fn a_merged_unit_gets_the_checksum_of_its_ulids_unless_it_is_wrong() {
        let (src, dst) = (ip("10.0.0.1"), ip("10.0.0.2"));
        let mut segment = vec![0; 20];
        segment[12] = 0x50;
        segment.extend([1, 2, 3, 4, 5, 6]);
        let (data, sight) = rewritten(TCP, &segment);
        let summed = |sum| {
            let mut frame = Frame::from_heap(0, &data);
            frame.meta.gso = Gso::Tcp6 { mss: 3 };
            frame.meta.checksum = Checksum::Summed(sum);
            of(&frame, Some(&sight), usize::MAX)[48..].to_vec()
        };
        let is_right = |segment: &[u8]| {
            let pseudo = checksum::pseudo(src, dst, TCP, segment.len());
            checksum::is_valid(checksum::combine(pseudo, checksum::sum(segment)))
        };
        let right = !checksum::pseudo(src, dst, 0, 0);
        assert!(is_right(&summed(right)));
        assert!(!is_right(&summed(right ^ 1)), "what is wrong is shown so");
    }
}
