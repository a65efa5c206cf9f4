//! Headers of received packets: checked and read.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::drop::DropReason;
use crate::frame::{Frame, Gso};
use crate::wire::checksum;
use crate::wire::header::{IPV4_LEN, IPV6_LEN};

/// Everything known of a packet once its header is checked.
#[derive(Clone, Copy)]
pub(super) struct Header {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) traffic_class: u8,
    pub(super) hop_limit: u8,
    /// IPv4: of the payload. IPv6: of the first header.
    pub(super) protocol: u8,
    pub(super) len: usize,
    pub(super) total_len: usize,
    /// IPv4 identification, flags and offset.
    pub(super) ident: u16,
    pub(super) flags_offset: u16,
}

/// `looped`: from this stack itself, whose checksums are not looked at.
pub(super) fn parse_v4(frame: &Frame, looped: bool) -> Result<Header, DropReason> {
    let data = frame.data();
    let Some(h) = data.first_chunk::<IPV4_LEN>() else { return Err(DropReason::IpTruncated) };
    if h[0] >> 4 != 4 {
        return Err(DropReason::IpVersionWrong);
    }
    let header_len = usize::from(h[0] & 15) * 4;
    let mut total_len = usize::from(u16::from_be_bytes([h[2], h[3]]));
    if frame.meta.gso != Gso::None {
        // The length field of a super-segment may not hold it.
        total_len = frame.total_len();
    }
    if header_len < IPV4_LEN || total_len < header_len {
        return Err(DropReason::IpHeaderMalformed);
    }
    if total_len > frame.total_len() || header_len > data.len() {
        return Err(DropReason::IpTruncated);
    }
    if !looped && !checksum::is_valid(checksum::sum(&data[..header_len])) {
        return Err(DropReason::IpChecksumBad);
    }
    options_v4(&data[IPV4_LEN..header_len])?;
    Ok(Header {
        src: Ipv4Addr::new(h[12], h[13], h[14], h[15]).into(),
        dst: Ipv4Addr::new(h[16], h[17], h[18], h[19]).into(),
        traffic_class: h[1],
        hop_limit: h[8],
        protocol: h[9],
        len: header_len,
        total_len,
        ident: u16::from_be_bytes([h[4], h[5]]),
        flags_offset: u16::from_be_bytes([h[6], h[7]]),
    })
}

/// RFC 7126: source routes are refused, everything else is skipped.
fn options_v4(options: &[u8]) -> Result<(), DropReason> {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    let mut at = 0;
    while at < options.len() {
        match options[at] {
            END => break,
            NOP => at += 1,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return Err(DropReason::IpOptionRefused),
            _ => {
                let len = options.get(at + 1).map_or(0, |len| usize::from(*len));
                if len < 2 || at + len > options.len() {
                    return Err(DropReason::IpHeaderMalformed);
                }
                at += len;
            }
        }
    }
    Ok(())
}

pub(super) fn parse_v6(frame: &Frame) -> Result<Header, DropReason> {
    let Some(h) = frame.data().first_chunk::<IPV6_LEN>() else {
        return Err(DropReason::IpTruncated);
    };
    if h[0] >> 4 != 6 {
        return Err(DropReason::IpVersionWrong);
    }
    let mut total_len = IPV6_LEN + usize::from(u16::from_be_bytes([h[4], h[5]]));
    if frame.meta.gso != Gso::None {
        total_len = frame.total_len();
    }
    if total_len > frame.total_len() {
        return Err(DropReason::IpTruncated);
    }
    let addr = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&h[at..at + 16]);
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    Ok(Header {
        src: addr(8),
        dst: addr(24),
        traffic_class: h[0] << 4 | h[1] >> 4,
        hop_limit: h[7],
        protocol: h[6],
        len: IPV6_LEN,
        total_len,
        ident: 0,
        flags_offset: 0,
    })
}

/// Removes what the link padded.
pub(super) fn trim(frame: &mut Frame, total_len: usize) {
    if frame.total_len() <= total_len {
        return;
    }
    if frame.frags.is_empty() || frame.len() >= total_len {
        frame.frags.clear();
        frame.truncate(total_len);
    } else {
        let mut copy = frame.to_heap();
        copy.truncate(total_len);
        *frame = copy;
    }
}
