//! Ethernet II headers, and the MAC addresses of groups.

use core::net::IpAddr;

use crate::frame::Frame;

/// Bytes of the header; a VLAN tag is the interface tree's business.
pub(crate) const HEADER_BYTES: usize = 14;
pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EtherType {
    Ip4,
    Arp,
    Ip6,
    Other,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) dst: [u8; 6],
    pub(super) ethertype: EtherType,
}

/// Reads the header; `None` if the frame is too short.
pub(super) fn parse(data: &[u8]) -> Option<Header> {
    let header = data.get(..HEADER_BYTES)?;
    let ethertype = match [header[12], header[13]] {
        [0x08, 0x00] => EtherType::Ip4,
        [0x08, 0x06] => EtherType::Arp,
        [0x86, 0xdd] => EtherType::Ip6,
        _ => EtherType::Other,
    };
    let dst = core::array::from_fn(|i| header[i]);
    Some(Header { dst, ethertype })
}

/// Puts a header in front.
pub(super) fn push(frame: &mut Frame, dst: [u8; 6], src: [u8; 6], ethertype: EtherType) {
    frame.push_front(HEADER_BYTES).copy_from_slice(&header(dst, src, ethertype));
}

/// The header's bytes.
pub(super) fn header(dst: [u8; 6], src: [u8; 6], ethertype: EtherType) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..6].copy_from_slice(&dst);
    header[6..12].copy_from_slice(&src);
    header[12..14].copy_from_slice(match ethertype {
        EtherType::Ip4 => &[0x08, 0x00],
        EtherType::Arp => &[0x08, 0x06],
        EtherType::Ip6 => &[0x86, 0xdd],
        EtherType::Other => &[0xff, 0xff],
    });
    header
}

/// Group bit: multicast or broadcast.
pub(super) fn is_group(mac: [u8; 6]) -> bool {
    mac[0] & 1 != 0
}

/// A MAC address that one host can have.
pub(super) fn is_host(mac: [u8; 6]) -> bool {
    !is_group(mac) && mac != [0; 6]
}

/// The MAC address of a multicast group (RFC 1112 6.4, RFC 2464 7) or of the limited broadcast.
pub(super) fn group_mac(addr: IpAddr) -> Option<[u8; 6]> {
    match addr {
        IpAddr::V4(a) if a.is_broadcast() => Some(BROADCAST),
        IpAddr::V4(a) if a.is_multicast() => {
            let [_, b, c, d] = a.octets();
            Some([0x01, 0x00, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V6(a) if a.is_multicast() => {
            let o = a.octets();
            Some([0x33, 0x33, o[12], o[13], o[14], o[15]])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_macs() {
        let mac = |s: &str| group_mac(s.parse().unwrap());
        assert_eq!(mac("224.129.2.3"), Some([1, 0, 0x5e, 1, 2, 3]));
        assert_eq!(mac("ff02::1:ff00:203"), Some([0x33, 0x33, 0xff, 0, 2, 3]));
        assert_eq!(mac("255.255.255.255"), Some(BROADCAST));
        assert_eq!(mac("10.0.0.255"), None);
    }

    #[test]
    fn a_header_survives_a_round_trip() {
        let mut f = Frame::from_heap(14, b"x");
        push(&mut f, [1; 6], [2; 6], EtherType::Ip6);
        let h = parse(f.data()).unwrap();
        assert_eq!((h.dst, h.ethertype), ([1; 6], EtherType::Ip6));
        assert_eq!(f.data()[6..12], [2; 6]);
        assert!(parse(&[0; 13]).is_none());
    }
}
