//! DSCP and ECN in the headers of a frame.

use weft_stack::frame::Frame;

use crate::facts::Facts;

/// Congestion experienced (RFC 3168 5).
const CE: u8 = 3;

/// Sets the traffic class (DSCP and ECN) of the IP header at `network`.
fn set_class(frame: &mut Frame, facts: &Facts, change: impl Fn(u8) -> u8) {
    let Some(packet) = frame.data_mut().get_mut(facts.network..) else { return };
    if facts.is_v6 {
        let [first, second, ..] = packet else { return };
        let class = change((*first << 4) | (*second >> 4));
        *first = (*first & 0xf0) | (class >> 4);
        *second = (*second & 0x0f) | (class << 4);
    } else if let Some(header) = packet.first_chunk_mut::<20>() {
        let before = u16::from_be_bytes([header[0], header[1]]);
        header[1] = change(header[1]);
        let after = u16::from_be_bytes([header[0], header[1]]);
        // RFC 1624 3: HC' = ~(~HC + ~m + m')
        let sum = u16::from_be_bytes([header[10], header[11]]);
        let mut new = u32::from(!sum) + u32::from(!before) + u32::from(after);
        new = (new & 0xffff) + (new >> 16);
        new = (new & 0xffff) + (new >> 16);
        header[10..12].copy_from_slice(&(!(new as u16)).to_be_bytes());
    }
}

/// Writes a DSCP.
pub(crate) fn set_dscp(frame: &mut Frame, facts: &Facts, dscp: u8) {
    set_class(frame, facts, |class| (dscp << 2) | (class & 3));
}

/// Marks congestion; `false`: the packet is of a transport that does not know the mark, and is to be
/// dropped instead (RFC 3168 5, RFC 8311 4.1: ECT(0) and ECT(1) alike).
pub(crate) fn set_ce(frame: &mut Frame, facts: &Facts) -> bool {
    if facts.ecn == 0 {
        return false;
    }
    set_class(frame, facts, |class| class | CE);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    use weft_stack::ip::address::AliasId;

    use crate::demux::Target;

    const OF: Target = Target { alias: AliasId(0), vserver: 0 };

    /// RFC 1071
    fn sum(header: &[u8]) -> u16 {
        let words = header.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
        let sum: u32 = words.sum();
        ((sum & 0xffff) + (sum >> 16)) as u16
    }

    fn v4(class: u8) -> Frame {
        let mut p = vec![0x45, class, 0, 28, 1, 2, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let sum = !sum(&p);
        p[10..12].copy_from_slice(&sum.to_be_bytes());
        p.extend([0, 9, 0, 9, 0, 8, 0, 0]);
        Frame::from_heap(0, &p)
    }

    fn v6(class: u8) -> Frame {
        let mut p = vec![0x60 | (class >> 4), (class << 4) | 5, 6, 7, 0, 8, 17, 64];
        p.extend([0xfd; 32]);
        p.extend([0, 9, 0, 9, 0, 8, 0, 0]);
        Frame::from_heap(0, &p)
    }

    // RFC 3168 5
    #[test]
    fn only_capable_transports_are_marked_and_the_checksum_stays_right() {
        for ecn in 0..4 {
            for mut frame in [v4(0xb8 | ecn), v6(0xb8 | ecn)] {
                let facts = Facts::of(&frame, false, OF).unwrap();
                assert_eq!(set_ce(&mut frame, &facts), ecn != 0);
                let after = Facts::of(&frame, false, OF).unwrap();
                assert_eq!((after.dscp, after.ecn), (46, if ecn == 0 { 0 } else { 3 }));
                if !facts.is_v6 {
                    assert_eq!(!sum(&frame.data()[..20]), 0);
                }
            }
        }
    }

    #[test]
    fn a_code_point_is_written_and_the_ecn_field_stays() {
        for mut frame in [v4(0x02), v6(0x02)] {
            let facts = Facts::of(&frame, false, OF).unwrap();
            set_dscp(&mut frame, &facts, 46);
            let after = Facts::of(&frame, false, OF).unwrap();
            assert_eq!((after.dscp, after.ecn), (46, 2));
            assert_eq!(after.destination, facts.destination);
            assert_eq!(frame.data()[2..4], if facts.is_v6 { [6, 7] } else { [0, 28] });
        }
    }
}
