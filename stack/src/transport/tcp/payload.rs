//! Cutting a received payload (linear data and fragments) without copying it.

use crate::frame::{Frame, Gso};

/// Removes the first `n` bytes; all of them if there are fewer.
pub(crate) fn trim_front(frame: &mut Frame, n: usize) {
    let linear = n.min(frame.len());
    frame.pull_front(linear);
    frame.frags.advance(n - linear);
}

/// Keeps the first `len` bytes.
pub(crate) fn truncate(frame: &mut Frame, len: usize) {
    let left = len.saturating_sub(frame.len());
    frame.truncate(len);
    if !frame.frags.is_empty() {
        frame.frags.truncate(left);
    }
}

/// How many segments a received frame stands for.
pub(crate) fn segments(frame: &Frame) -> u64 {
    match frame.meta.gso {
        Gso::Tcp4 { mss } | Gso::Tcp6 { mss } if mss > 0 => {
            frame.total_len().div_ceil(usize::from(mss)).max(1) as u64
        }
        _ => 1,
    }
}

/// The memory a frame holds: its whole buffer, not only its data.
pub(crate) fn footprint(frame: &Frame) -> usize {
    frame.capacity() + frame.frags.bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cutting_matches_a_slice(
            parts in proptest::collection::vec(0..20usize, 1..5), a in 0..100usize, b in 0..100usize,
        ) {
            let mut next = 0u8;
            let mut part = |n: usize| -> Vec<u8> { (0..n).map(|_| { next += 1; next }).collect() };
            let mut frame = Frame::from_heap(16, &part(parts[0]));
            for n in &parts[1..] {
                frame.frags.push(Bytes::from(part(*n)));
            }
            let mut model = vec![0; frame.total_len()];
            frame.copy_to(&mut model);
            trim_front(&mut frame, a);
            model.drain(..a.min(model.len()));
            truncate(&mut frame, b);
            model.truncate(b);
            let mut out = vec![0; frame.total_len()];
            frame.copy_to(&mut out);
            prop_assert_eq!(out, model);
        }
    }
}
