//! The virtio-net header that TUN, TAP and AF_PACKET put before a frame: checksum and segmentation
//! state in the kernel's words (`linux/virtio_net.h`), in native byte order.

use weft_stack::frame::{Checksum, Frame, Gso};

use crate::device::Medium;
use crate::segment::Headers;

/// Bytes of the header without the count of merged buffers.
pub(crate) const LEN: usize = 10;
/// Bytes with it; some interfaces are preset to this size.
pub(crate) const LEN_MRG: usize = 12;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;
const TCP_CWR: u8 = 0x80;
const IPV6_LEN: usize = 40;

fn get16(header: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([header[at], header[at + 1]])
}

/// Takes the state of a received frame over into its meta data. `false`: the header contradicts
/// the frame, or names a segmentation that was never asked for.
pub(crate) fn decode(header: &[u8], frame: &mut Frame) -> bool {
    let (start, offset) = (get16(header, 6), get16(header, 8));
    frame.meta.checksum = if header[0] & NEEDS_CSUM != 0 {
        Checksum::Partial { start, offset }
    } else if header[0] & DATA_VALID != 0 {
        Checksum::Verified
    } else {
        Checksum::Complete
    };
    let size = get16(header, 4);
    frame.meta.gso = match header[1] & !GSO_ECN {
        GSO_NONE => Gso::None,
        GSO_TCPV4 => Gso::Tcp4 { mss: size },
        GSO_TCPV6 => Gso::Tcp6 { mss: size },
        GSO_UDP_L4 => Gso::Udp { size },
        _ => return false,
    };
    let field_end = usize::from(start) + usize::from(offset) + 2;
    let fits = header[0] & NEEDS_CSUM == 0 || field_end <= frame.len();
    fits && (frame.meta.gso == Gso::None || size > 0)
}

/// A header for a frame to be sent, and how many packets it stands for.
pub(crate) struct Encoded {
    pub(crate) header: [u8; LEN_MRG],
    pub(crate) packets: u64,
}

/// The header for a frame to be sent; `None` if the kernel could not cut it and software must: a
/// super-segment whose checksum is not partial, whose headers are not all in the linear data, or
/// that has extension headers.
pub(crate) fn encode(frame: &Frame, medium: Medium) -> Option<Encoded> {
    let mut out = Encoded { header: [0; LEN_MRG], packets: 1 };
    let header = &mut out.header;
    let mut put = |at: usize, value: u16| {
        header[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    };
    if let Checksum::Partial { start, offset } = frame.meta.checksum {
        put(6, start);
        put(8, offset);
    }
    let (mut kind, size) = match frame.meta.gso {
        Gso::None => {
            let partial = matches!(frame.meta.checksum, Checksum::Partial { .. });
            out.header[0] = if partial { NEEDS_CSUM } else { 0 };
            return Some(out);
        }
        Gso::Tcp4 { mss } => (GSO_TCPV4, mss),
        Gso::Tcp6 { mss } => (GSO_TCPV6, mss),
        Gso::Udp { size } => (GSO_UDP_L4, size),
    };
    let Checksum::Partial { .. } = frame.meta.checksum else { return None };
    let headers = Headers::parse(frame.data(), medium).ok()?;
    if headers.ip_version == 6 && headers.transport != headers.network + IPV6_LEN {
        // The kernel cuts behind the extension headers that it knows; a shim's is not among them.
        return None;
    }
    if kind != GSO_UDP_L4 && frame.data()[headers.transport + 13] & TCP_CWR != 0 {
        kind |= GSO_ECN;
    }
    put(2, headers.payload as u16);
    put(4, size);
    let payload = frame.total_len() - headers.payload;
    if payload > usize::from(size) {
        out.packets = payload.div_ceil(usize::from(size).max(1)) as u64;
    } else {
        // The kernel refuses segmentation state on what fits one packet.
        kind = GSO_NONE;
        out.header[2..6].fill(0);
    }
    out.header[0] = NEEDS_CSUM;
    out.header[1] = kind;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn super_segment(payload: usize, cwr: bool) -> Frame {
        let mut data = vec![0u8; 40 + payload];
        data[0] = 0x45;
        data[9] = 6;
        data[32] = 0x50;
        data[33] = if cwr { 0x90 } else { 0x10 };
        let mut frame = Frame::from_heap(0, &data);
        frame.meta.checksum = Checksum::Partial { start: 20, offset: 16 };
        frame.meta.gso = Gso::Tcp4 { mss: 1000 };
        frame
    }

    #[test]
    fn what_is_encoded_decodes_the_same() {
        for cwr in [false, true] {
            let frame = super_segment(3500, cwr);
            let encoded = encode(&frame, Medium::Ip).unwrap();
            assert_eq!(encoded.packets, 4);
            assert_eq!(encoded.header[1] & GSO_ECN != 0, cwr);
            let mut back = Frame::from_heap(0, frame.data());
            assert!(decode(&encoded.header[..LEN], &mut back));
            assert_eq!(back.meta.gso, frame.meta.gso);
            assert_eq!(back.meta.checksum, frame.meta.checksum);
        }
    }

    #[test]
    fn one_segment_is_no_super_segment() {
        let encoded = encode(&super_segment(1000, false), Medium::Ip).unwrap();
        assert_eq!((encoded.header[1], encoded.packets), (GSO_NONE, 1));
    }

    #[test]
    fn what_the_kernel_cannot_cut_is_left_to_software() {
        let mut frame = super_segment(3500, false);
        frame.meta.checksum = Checksum::Complete;
        assert!(encode(&frame, Medium::Ip).is_none());
    }

    #[test]
    fn what_a_shim_rewrote_is_cut_by_software() {
        let mut data = vec![0u8; 40 + 8 + 20 + 3500];
        (data[0], data[6], data[40], data[42], data[60]) = (0x60, 140, 6, 0x80, 0x50);
        let mut frame = Frame::from_heap(0, &data);
        frame.meta.checksum = Checksum::Partial { start: 48, offset: 16 };
        frame.meta.gso = Gso::Tcp6 { mss: 1000 };
        assert!(encode(&frame, Medium::Ip).is_none());
        // One packet with a checksum to be completed is no matter of headers.
        frame.meta.gso = Gso::None;
        assert!(encode(&frame, Medium::Ip).is_some());
    }

    #[test]
    fn contradictions_are_refused() {
        let mut frame = Frame::from_heap(0, &[0; 30]);
        assert!(!decode(&[NEEDS_CSUM, 0, 0, 0, 0, 0, 20, 0, 16, 0], &mut frame));
        assert!(!decode(&[0, 3, 0, 0, 9, 9, 0, 0, 0, 0], &mut frame));
        assert!(!decode(&[0, GSO_TCPV4, 0, 0, 0, 0, 0, 0, 0, 0], &mut frame));
        assert!(decode(&[DATA_VALID, 0, 0, 0, 0, 0, 0, 0, 0, 0], &mut frame));
        assert_eq!(frame.meta.checksum, Checksum::Verified);
    }
}
