//! 802.1Q tags: put into frames and taken out, with priority.

use weft_stack::counters;
use weft_stack::frame::{Frame, HEADROOM_BYTES};

/// The tag of a VLAN (IEEE 802.1Q section 9.6).
pub const TPID: u16 = 0x8100;
/// The outer one of two (802.1ad); also taken.
pub const TPID_SERVICE: u16 = 0x88a8;
/// Bytes of a tag.
pub const TAG_BYTES: usize = 4;
/// The part of a tag that names the VLAN; 0 is a frame with a priority and no VLAN.
pub const ID_MASK: u16 = 0x0fff;

const MACS_BYTES: usize = 12;

counters! {
    /// Frames with one tag.
    pub struct TagStats, "Vlan" {
        /// Frames taken.
        rx_frames: "InFrames",
        /// Bytes of them, without the tag.
        rx_bytes: "InBytes",
        /// Frames given to the link below.
        tx_frames: "OutFrames",
        /// Bytes of them, without the tag; a super-segment counts as it is.
        tx_bytes: "OutBytes",
        /// Frames taken that had a priority above 0.
        rx_prioritised: "InPrioritised",
    }
}

/// Whether a tag follows.
#[inline]
pub fn is_tag(ethertype: u16) -> bool {
    ethertype == TPID || ethertype == TPID_SERVICE
}

/// What a tag says: the VLAN and the priority code point (0 to 7).
#[inline]
pub fn control(tag: u16, priority: u8) -> u16 {
    u16::from(priority & 7) << 13 | tag & ID_MASK
}

/// Puts a tag behind the MAC addresses. Offsets of a partial checksum move along. A frame without
/// headroom is copied.
#[inline]
pub fn push(frame: &mut Frame, control: u16) {
    if frame.headroom() < TAG_BYTES {
        give_headroom(frame);
    }
    frame.push_front(TAG_BYTES);
    let data = frame.data_mut();
    if data.len() < MACS_BYTES + TAG_BYTES {
        return;
    }
    data.copy_within(TAG_BYTES..TAG_BYTES + MACS_BYTES, 0);
    data[MACS_BYTES..MACS_BYTES + 2].copy_from_slice(&TPID.to_be_bytes());
    data[MACS_BYTES + 2..MACS_BYTES + 4].copy_from_slice(&control.to_be_bytes());
}

#[cold]
fn give_headroom(frame: &mut Frame) {
    let bytes = frame.total_len();
    let mut copy = Frame::heap_with_capacity(HEADROOM_BYTES, bytes);
    frame.copy_to(copy.push_back(bytes));
    copy.meta = frame.meta;
    *frame = copy;
}

/// Takes the outer tag out and returns what it said; `None`: there is none, or the frame ends in it.
#[inline]
pub fn pop(frame: &mut Frame) -> Option<u16> {
    let data = frame.data_mut();
    let header: &[u8; 18] = data.first_chunk()?;
    if !is_tag(u16::from_be_bytes([header[12], header[13]])) {
        return None;
    }
    let control = u16::from_be_bytes([header[14], header[15]]);
    data.copy_within(0..MACS_BYTES, TAG_BYTES);
    frame.pull_front(TAG_BYTES);
    Some(control)
}

#[cfg(test)]
mod tests {
    use super::*;

    use weft_stack::frame::Checksum;

    #[test]
    fn a_tag_goes_in_and_comes_out_with_its_priority() {
        for headroom in [0, 64] {
            let mut frame = Frame::from_heap(headroom, b"dst---src---\x08\x00rest of it");
            frame.meta.checksum = Checksum::Partial { start: 34, offset: 16 };
            push(&mut frame, control(5, 3));
            assert_eq!(frame.data(), b"dst---src---\x81\x00\x60\x05\x08\x00rest of it");
            assert_eq!(frame.meta.checksum, Checksum::Partial { start: 38, offset: 16 });
            assert_eq!(pop(&mut frame), Some(0x6005));
            assert_eq!(frame.data(), b"dst---src---\x08\x00rest of it");
            assert_eq!(frame.meta.checksum, Checksum::Partial { start: 34, offset: 16 });
            assert_eq!(pop(&mut frame), None);
        }
    }

    #[test]
    fn a_frame_that_ends_in_its_tag_has_none() {
        for len in 0..18 {
            let whole = b"dst---src---\x81\x00\x60\x05\x08\x00";
            assert_eq!(pop(&mut Frame::from_heap(8, &whole[..len])), None);
        }
    }
}
