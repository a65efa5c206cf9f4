//! One frame that stands for several datagrams of a flow, taken apart again.

use core::mem;

use crate::frame::{Checksum, Frag, Frame, FrameMeta, Gso, HEADROOM_BYTES};

const UDP_LEN: usize = 8;
/// Room that a part's own headers took: for any that may be put in front of it again.
const HEADERS_BYTES: usize = 64;

/// The datagrams of `size` payload bytes in a frame that starts with their UDP header. They are moved
/// where each begins with a part of its own, as receive merging leaves them, and copied otherwise.
pub(super) fn split(mut frame: Frame, size: usize) -> Vec<Frame> {
    let Some(&ports) = frame.data().first_chunk::<4>().filter(|_| frame.len() >= UDP_LEN) else {
        return vec![frame];
    };
    // Whoever merged them looked at their checksums; the transport in them has its own.
    let meta =
        FrameMeta { checksum: Checksum::Verified, gso: Gso::None, network_offset: 0, ..frame.meta };
    frame.pull_front(UDP_LEN);
    let size = size.max(1);
    let mut all =
        if parts_are_whole(&frame, size) { moved(frame, size) } else { copied(&frame, size) };
    for one in &mut all {
        one.meta = meta;
        let len = (one.total_len() + UDP_LEN) as u16;
        let header = one.push_front(UDP_LEN);
        header[..4].copy_from_slice(&ports);
        header[4..6].copy_from_slice(&len.to_be_bytes());
        header[6..].fill(0);
    }
    all
}

/// Whether no part has bytes of two datagrams.
fn parts_are_whole(frame: &Frame, size: usize) -> bool {
    let mut left = size;
    let mut parts = core::iter::once(frame.data()).chain(&frame.frags).map(<[u8]>::len);
    parts.all(|len| {
        if left == 0 {
            left = size;
        }
        len <= left && {
            left -= len;
            true
        }
    })
}

fn moved(mut frame: Frame, size: usize) -> Vec<Frame> {
    let mut frags = mem::take(&mut frame.frags);
    let mut all = Vec::with_capacity((frame.len() + frags.bytes()).div_ceil(size));
    let mut bytes = frame.len();
    while let Some(frag) = frags.pop_front() {
        let len = frag.len();
        if bytes < size {
            frame.frags.push(frag);
            bytes += len;
        } else {
            all.push(mem::replace(&mut frame, head(frag)));
            bytes = len;
        }
    }
    all.push(frame);
    all
}

/// A part that a datagram begins with.
fn head(frag: Frag) -> Frame {
    match frag {
        Frag::Frame(frame) if frame.headroom() >= HEADERS_BYTES => frame,
        Frag::Frame(frame) => Frame::from_heap(HEADROOM_BYTES, frame.data()),
        Frag::Shared(bytes) => Frame::from_heap(HEADROOM_BYTES, &bytes),
    }
}

fn copied(frame: &Frame, size: usize) -> Vec<Frame> {
    let whole = frame.to_heap();
    whole.data().chunks(size).map(|one| Frame::from_heap(HEADROOM_BYTES, one)).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn unit(linear: &[u8], size: u16) -> Frame {
        let header = [0x10, 0x2c, 0x10, 0x2c, 0, 99, 1, 2];
        let mut frame = Frame::from_heap(128, &[&header[..], linear].concat());
        frame.meta.gso = Gso::Udp { size };
        frame.meta.mark = 7;
        frame
    }

    fn payloads(frame: Frame, size: usize) -> Vec<Vec<u8>> {
        let each = |one: Frame| {
            assert_eq!((one.meta.gso, one.meta.checksum), (Gso::None, Checksum::Verified));
            assert_eq!(one.meta.mark, 7);
            let whole = one.to_heap();
            let header = whole.data()[..UDP_LEN].to_vec();
            assert_eq!(header[..4], [0x10, 0x2c, 0x10, 0x2c]);
            assert_eq!(usize::from(u16::from_be_bytes([header[4], header[5]])), whole.len());
            whole.data()[UDP_LEN..].to_vec()
        };
        split(frame, size).into_iter().map(each).collect()
    }

    #[test]
    fn parts_of_datagrams_are_moved_to_where_they_belong() {
        let mut frame = unit(b"ab", 4);
        frame.frags.push(Bytes::from_static(b"cd"));
        let mut next = Frame::from_heap(128, b"ef");
        next.frags.push(Bytes::from_static(b"gh"));
        frame.frags.push(next);
        frame.frags.push(Bytes::from_static(b"ijkl"));
        frame.frags.push(Frame::from_heap(8, b"m"));
        assert_eq!(payloads(frame, 4), [&b"abcd"[..], b"efgh", b"ijkl", b"m"]);
    }

    #[test]
    fn datagrams_that_share_a_part_are_copied_out_of_it() {
        let mut frame = unit(b"abcdefg", 4);
        frame.frags.push(Bytes::from_static(b"hij"));
        assert_eq!(payloads(frame, 4), [&b"abcd"[..], b"efgh", b"ij"]);
    }

    #[test]
    fn a_frame_without_a_whole_header_stays_as_it_is() {
        let mut frame = Frame::from_heap(128, &[1, 2, 3, 4, 5]);
        frame.meta.gso = Gso::Udp { size: 4 };
        let all = split(frame, 4);
        assert_eq!((all.len(), all[0].data()), (1, &[1, 2, 3, 4, 5][..]));
    }
}
