//! TCP and UDP packets and those of a path layer without anything unusual, recognised at a glance: whole,
//! no IP options or extension headers. Everything else is read field by field in `ip::input`.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::header::{IPV4_LEN, IPV6_LEN, sum_of_v4};
use super::protocol;
use crate::frame::{Frame, Gso};

/// What the IP header of such a packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlainIp {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    /// TCP, UDP or the path layer's.
    pub(crate) protocol: u8,
    pub(crate) traffic_class: u8,
    pub(crate) hop_limit: u8,
    /// Bytes of the IP header.
    pub(crate) header_len: usize,
    /// Bytes of the packet, padding excluded.
    pub(crate) total_len: usize,
}

impl PlainIp {
    /// Reads the packet behind `link` bytes of a frame. `None`: look closer. An IPv4 header has a
    /// right checksum.
    #[inline]
    pub(crate) fn look(frame: &Frame, link: usize) -> Option<PlainIp> {
        let data = frame.data().get(link..)?;
        let said = match *data.first()? {
            0x45 => Self::look_v4(data)?,
            first if first >> 4 == 6 => Self::look_v6(data)?,
            _ => return None,
        };
        let total_len = match frame.meta.gso {
            Gso::None if frame.frags.is_empty() && said.total_len <= data.len() => said.total_len,
            // The length field of a super-segment may not hold it.
            Gso::Tcp4 { .. } | Gso::Tcp6 { .. } if said.protocol == protocol::TCP => {
                frame.total_len() - link
            }
            _ => return None,
        };
        (total_len > said.header_len).then_some(PlainIp { total_len, ..said })
    }

    #[inline]
    fn look_v4(data: &[u8]) -> Option<PlainIp> {
        let h: &[u8; IPV4_LEN] = data.first_chunk()?;
        // Protocol, and neither more fragments nor an offset.
        if !is_known(h[9]) || h[6] & 0x3f != 0 || h[7] != 0 || sum_of_v4(h) != 0xffff {
            return None;
        }
        Some(PlainIp {
            src: Ipv4Addr::new(h[12], h[13], h[14], h[15]).into(),
            dst: Ipv4Addr::new(h[16], h[17], h[18], h[19]).into(),
            protocol: h[9],
            traffic_class: h[1],
            hop_limit: h[8],
            header_len: IPV4_LEN,
            total_len: usize::from(u16::from_be_bytes([h[2], h[3]])),
        })
    }

    #[inline]
    fn look_v6(data: &[u8]) -> Option<PlainIp> {
        let h: &[u8; IPV6_LEN] = data.first_chunk()?;
        if !is_known(h[6]) {
            return None;
        }
        let (src, rest) = h[8..].split_first_chunk::<16>()?;
        let dst = rest.first_chunk::<16>()?;
        Some(PlainIp {
            src: Ipv6Addr::from(*src).into(),
            dst: Ipv6Addr::from(*dst).into(),
            protocol: h[6],
            traffic_class: h[0] << 4 | h[1] >> 4,
            hop_limit: h[7],
            header_len: IPV6_LEN,
            total_len: IPV6_LEN + usize::from(u16::from_be_bytes([h[4], h[5]])),
        })
    }
}

#[inline]
const fn is_known(number: u8) -> bool {
    matches!(number, protocol::TCP | protocol::UDP | protocol::SHIM6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::checksum;
    use proptest::prelude::*;

    fn v4(total_len: u16, protocol: u8, flags: u8) -> Vec<u8> {
        let mut packet = vec![7; usize::from(total_len)];
        packet[..10].copy_from_slice(&[0x45, 2, 0, 0, 9, 9, flags, 0, 64, protocol]);
        packet[2..4].copy_from_slice(&total_len.to_be_bytes());
        packet[10..12].fill(0);
        let sum = checksum::finish(checksum::sum(&packet[..20]));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    fn look(bytes: &[u8]) -> Option<PlainIp> {
        PlainIp::look(&Frame::from_heap(16, bytes), 0)
    }

    #[test]
    fn padding_is_no_part_of_a_packet_and_what_is_cut_off_is_none() {
        let mut bytes = v4(40, 6, 0x40);
        bytes.extend([0; 6]);
        let plain = look(&bytes).unwrap();
        assert_eq!((plain.total_len, plain.header_len, plain.traffic_class), (40, 20, 2));
        assert_eq!(look(&bytes[..39]), None);
    }

    #[test]
    fn fragments_options_other_protocols_and_bad_sums_are_looked_at_closely() {
        let tcp = v4(40, 6, 0);
        assert!(look(&tcp).is_some());
        assert_eq!(look(&v4(40, 17, 0)).map(|p| p.protocol), Some(17));
        assert_eq!(look(&v4(48, 140, 0)).map(|p| p.protocol), Some(140));
        assert_eq!(look(&v4(40, 1, 0)), None);
        assert_eq!(look(&v4(40, 6, 0x20)), None, "more fragments");
        let mut offset = v4(40, 6, 0);
        offset[7] = 1;
        assert_eq!(look(&offset), None);
        let mut options = tcp.clone();
        options[0] = 0x46;
        assert_eq!(look(&options), None);
        let mut broken = tcp;
        broken[15] ^= 1;
        assert_eq!(look(&broken), None);
    }

    proptest! {
        #[test]
        fn the_sum_of_a_header_agrees_with_the_general_one(h in any::<[u8; 20]>()) {
            let right = checksum::is_valid(checksum::sum(&h));
            prop_assert_eq!(sum_of_v4(&h) == 0xffff, right);
            let mut h = h;
            h[10..12].fill(0);
            let sum = checksum::finish(checksum::sum(&h));
            h[10..12].copy_from_slice(&sum.to_be_bytes());
            prop_assert_eq!(sum_of_v4(&h), 0xffff);
        }
    }
}
