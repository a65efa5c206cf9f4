//! Frames made by hand.

use std::net::{IpAddr, Ipv4Addr};

use weft_stack::wire::checksum;

use crate::place;
use crate::spec::{Side, Workload};

pub(super) const ETHERNET_BYTES: usize = 14;
/// Ethernet, IPv4 and UDP headers.
const HEADERS_BYTES: usize = 42;
const DISCARD: u16 = 9;

/// Bytes on the wire of the frame that stands for the workload's.
fn frame_bytes(side: &Side) -> usize {
    match side.workload {
        Workload::BulkIn | Workload::BulkOut | Workload::BulkBoth => side.mtu + ETHERNET_BYTES,
        // Ethernet, IPv4, TCP with timestamps
        Workload::RequestResponse => side.bytes + 66,
        Workload::UdpEcho => side.bytes + HEADERS_BYTES,
        _ => side.bytes,
    }
    .clamp(HEADERS_BYTES, side.mtu + ETHERNET_BYTES)
}

/// A UDP datagram to the other side, in a frame as long as the workload's.
pub(super) fn to_peer(side: &Side) -> Vec<u8> {
    let (from, to) = if side.local == IpAddr::V4(place::SERVER) {
        (place::SERVER_MAC, place::CLIENT_MAC)
    } else {
        (place::CLIENT_MAC, place::SERVER_MAC)
    };
    let mut frame = vec![0x5a; frame_bytes(side)];
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&from);
    frame[12..14].copy_from_slice(&[8, 0]);
    write_datagram(&mut frame[ETHERNET_BYTES..], side.local, side.peer);
    frame
}

/// Fills an IPv4 packet: a datagram to the discard port, without a UDP checksum.
pub(super) fn write_datagram(packet: &mut [u8], from: IpAddr, to: IpAddr) {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED.octets(),
    };
    let total = packet.len() as u16;
    packet[..12].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[12..16].copy_from_slice(&octets(from));
    packet[16..20].copy_from_slice(&octets(to));
    let sum = !checksum::sum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet[20..22].copy_from_slice(&DISCARD.to_be_bytes());
    packet[22..24].copy_from_slice(&DISCARD.to_be_bytes());
    packet[24..26].copy_from_slice(&(total - 20).to_be_bytes());
    packet[26..28].fill(0);
}

/// Back to the sender: addresses of both layers change places.
pub(super) fn turn(frame: &mut [u8]) {
    if frame.len() < HEADERS_BYTES {
        return;
    }
    let (to, from) = frame.split_at_mut(6);
    to.swap_with_slice(&mut from[..6]);
    let (source, destination) = frame[26..34].split_at_mut(4);
    source.swap_with_slice(destination);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_has_a_valid_header_before_and_after_it_is_turned() {
        let mut frame = vec![0; 100];
        let (a, b) = (IpAddr::from([10, 77, 0, 1]), IpAddr::from([10, 77, 0, 2]));
        write_datagram(&mut frame[ETHERNET_BYTES..], a, b);
        assert_eq!(checksum::sum(&frame[14..34]), 0xffff);
        turn(&mut frame);
        assert_eq!(checksum::sum(&frame[14..34]), 0xffff);
        assert_eq!(frame[26..34], [10, 77, 0, 2, 10, 77, 0, 1]);
    }
}
