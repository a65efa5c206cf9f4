//! Deterministic mutations of frames.

use weft_stack::rng::Rng;

use crate::build;

/// Values that sit at the edges of lengths and offsets.
const EDGES: [u8; 8] = [0, 1, 0x3f, 0x40, 0x7f, 0x80, 0xfe, 0xff];
/// Longest frame that a mutation makes.
const LEN_MAX: usize = 1800;

/// Changes a frame in one to four places; often makes its checksums right again, so that what lies
/// behind them is reached.
pub fn frame(rng: &mut Rng, frame: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=rng.below(4) {
        once(rng, frame, other);
    }
    if rng.below(4) != 0 {
        build::repair(frame);
    }
}

fn once(rng: &mut Rng, frame: &mut Vec<u8>, other: &[u8]) {
    let at = rng.below(frame.len() as u64) as usize;
    match rng.below(8) {
        _ if frame.is_empty() => frame.push(rng.next_u32() as u8),
        0 => frame.truncate(at),
        1 => {
            let len = rng.below(64) as usize;
            frame.extend((0..len).map(|i| i as u8));
        }
        2 => {
            // The tail of another frame.
            let from = rng.below(other.len() as u64 + 1) as usize;
            frame.truncate(at);
            frame.extend(&other[from..]);
        }
        3 => {
            // A piece twice: options and headers repeat.
            let len = (rng.below(40) as usize).min(frame.len() - at);
            let piece = frame[at..at + len].to_vec();
            frame.splice(at..at, piece);
        }
        4 => frame[at] = EDGES[rng.below(EDGES.len() as u64) as usize],
        5 => frame[at] = rng.next_u32() as u8,
        _ => frame[at] ^= 1 << rng.below(8),
    }
    frame.truncate(LEN_MAX);
}
