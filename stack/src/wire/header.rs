//! IP headers pushed in front of a frame.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::frame::Frame;
use crate::wire::checksum;

/// Bytes of an IPv4 header without options.
pub(crate) const IPV4_LEN: usize = 20;
/// Bytes of the fixed IPv6 header.
pub(crate) const IPV6_LEN: usize = 40;

/// The folded sum of a header without options, in the byte order of memory.
#[inline]
pub(crate) fn sum_of_v4(h: &[u8; IPV4_LEN]) -> u16 {
    let word = |at: usize| u64::from(u32::from_ne_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]));
    let sum = word(0) + word(4) + word(8) + word(12) + word(16);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Fields of a header to be pushed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IpHeader {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) traffic_class: u8,
    pub(crate) hop_limit: u8,
    /// IPv4 identification.
    pub(crate) ident: u16,
    /// IPv4 flags and fragment offset, as on the wire.
    pub(crate) flags_offset: u16,
    /// Router alert (RFC 2113, RFC 2711), for IGMP and MLD.
    pub(crate) router_alert: bool,
}

/// IPv4 "don't fragment".
pub(crate) const DF: u16 = 0x4000;
/// IPv4 "more fragments".
pub(crate) const MF: u16 = 0x2000;

impl IpHeader {
    /// A plain header; `DF` set on IPv4.
    pub(crate) fn new(src: IpAddr, dst: IpAddr, protocol: u8, hop_limit: u8) -> IpHeader {
        IpHeader {
            src,
            dst,
            protocol,
            traffic_class: 0,
            hop_limit,
            ident: 0,
            flags_offset: DF,
            router_alert: false,
        }
    }

    /// Pushes the header before `frame` (whose data and fragments are the payload) and marks it as
    /// network header. Mixed families give a header that nobody accepts; callers do not mix.
    pub(crate) fn push(&self, frame: &mut Frame) {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.push_v4(frame, src, dst),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.push_v6(frame, src, dst),
            _ => debug_assert!(false, "addresses of two families in one header"),
        }
        frame.mark_network_header();
    }

    fn push_v4(&self, frame: &mut Frame, src: Ipv4Addr, dst: Ipv4Addr) {
        let header_len = if self.router_alert { IPV4_LEN + 4 } else { IPV4_LEN };
        let total = frame.total_len() + header_len;
        let h = frame.push_front(header_len);
        h[0] = 0x40 | (header_len / 4) as u8;
        h[1] = self.traffic_class;
        // A super-segment may exceed 64 KiB by its headers; whoever cuts it writes the lengths.
        h[2..4].copy_from_slice(&(total.min(0xffff) as u16).to_be_bytes());
        h[4..6].copy_from_slice(&self.ident.to_be_bytes());
        h[6..8].copy_from_slice(&self.flags_offset.to_be_bytes());
        h[8] = self.hop_limit;
        h[9] = self.protocol;
        h[10..12].fill(0);
        h[12..16].copy_from_slice(&src.octets());
        h[16..20].copy_from_slice(&dst.octets());
        if self.router_alert {
            h[20..24].copy_from_slice(&[148, 4, 0, 0]);
        }
        let sum = match h.first_chunk::<IPV4_LEN>() {
            Some(plain) if !self.router_alert => u16::from_be(sum_of_v4(plain)),
            _ => checksum::sum(h),
        };
        h[10..12].copy_from_slice(&checksum::finish(sum).to_be_bytes());
    }

    fn push_v6(&self, frame: &mut Frame, src: Ipv6Addr, dst: Ipv6Addr) {
        let mut next = self.protocol;
        if self.router_alert {
            frame.push_front(8).copy_from_slice(&[next, 0, 5, 2, 0, 0, 1, 0]);
            next = super::protocol::HOP_BY_HOP;
        }
        let payload = frame.total_len();
        let h = frame.push_front(IPV6_LEN);
        h[0] = 0x60 | self.traffic_class >> 4;
        h[1] = self.traffic_class << 4;
        h[2..4].fill(0);
        h[4..6].copy_from_slice(&(payload.min(0xffff) as u16).to_be_bytes());
        h[6] = next;
        h[7] = self.hop_limit;
        h[8..24].copy_from_slice(&src.octets());
        h[24..40].copy_from_slice(&dst.octets());
    }
}
