//! Transport checksums over whole frames, fragments included.

use core::net::IpAddr;

use super::checksum::{self, Accumulator};
use crate::frame::{Checksum, Frame};

/// Sum of the linear data from `from` on and of all fragments, on top of `initial`.
#[inline]
pub fn sum_from(initial: u16, frame: &Frame, from: usize) -> u16 {
    if frame.frags.is_empty() {
        let data = frame.data().get(from..).unwrap_or_default();
        return checksum::combine(initial, checksum::sum(data));
    }
    sum_of_pieces(initial, frame, from)
}

#[inline(never)]
fn sum_of_pieces(initial: u16, frame: &Frame, from: usize) -> u16 {
    let mut sum = Accumulator::starting_with(initial);
    sum.add(frame.data().get(from..).unwrap_or_default());
    for frag in &frame.frags {
        sum.add(frag);
    }
    sum.sum()
}

/// Whether the checksum of a frame that starts with its transport header is right.
pub fn is_valid(src: IpAddr, dst: IpAddr, protocol: u8, frame: &Frame) -> bool {
    let pseudo = checksum::pseudo(src, dst, protocol, frame.total_len());
    checksum::is_valid(sum_from(pseudo, frame, 0))
}

/// Completes a [`Checksum::Partial`] in software; other states are left alone.
pub fn complete(frame: &mut Frame) {
    let Checksum::Partial { start, offset } = frame.meta.checksum else { return };
    frame.meta.checksum = Checksum::Complete;
    let (start, field) = (start as usize, start as usize + offset as usize);
    if field + 2 > frame.len() {
        return;
    }
    // The field holds the pseudo-header sum, which is thereby part of the sum.
    let value = checksum::finish_at(field - start, sum_from(0, frame, start));
    frame.data_mut()[field..field + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_checksum_is_completed() {
        let (src, dst) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut frame = Frame::from_heap(64, &[0, 7, 0, 7, 0, 14, 0, 0, b'a', b'b', b'c']);
        frame.frags.push(bytes::Bytes::from_static(b"def"));
        let partial = checksum::pseudo(src, dst, 17, 14);
        frame.data_mut()[6..8].copy_from_slice(&partial.to_be_bytes());
        frame.meta.checksum = Checksum::Partial { start: 0, offset: 6 };
        frame.push_front(20);
        complete(&mut frame);
        frame.pull_front(20);
        assert!(is_valid(src, dst, 17, &frame));
        frame.data_mut()[8] ^= 1;
        assert!(!is_valid(src, dst, 17, &frame));
    }
}
