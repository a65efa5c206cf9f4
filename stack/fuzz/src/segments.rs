//! Segments of an established connection, one after the other, from a few bytes each.

use weft_stack::time::Duration;

use crate::build::{self, ACK, FIN, PSH, RST, SYN};
use crate::target::Target;

/// Bytes that describe one segment.
const RECORD: usize = 6;

/// Options a segment may carry; SACK blocks are filled in.
const OPTIONS: [&[u8]; 8] = [
    &[],
    &[],
    &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0],
    &[1, 1, 5, 10, 0, 0, 0, 0, 0, 0, 0, 0],
    &[1, 1, 5, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    &[2, 4, 5, 0xb4, 4, 2, 1, 3, 3, 7, 1, 1],
    &[172, 5, 0, 0, 1, 1, 1, 1],
    &[34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1],
];

/// Every six bytes are a segment of the connection: flags and options, how far its sequence number
/// lies from what is expected, its acknowledgement from what was sent, window, length, and the time
/// until the next.
pub fn segments(data: &[u8]) {
    let mut target = Target::new();
    segments_into(&mut target, data);
    target.finish();
}

/// As [`segments`], into a target that lives on.
pub fn segments_into(target: &mut Target, data: &[u8]) {
    for r in data.chunks_exact(RECORD) {
        let flags = match r[0] & 15 {
            0..=6 => ACK,
            7 => ACK | PSH,
            8 => ACK | FIN,
            9 => RST,
            10 => RST | ACK,
            11 => SYN,
            12 => SYN | ACK,
            13 => 0,
            14 => ACK | 0x40,
            _ => r[5],
        };
        // Small distances, then ever larger ones.
        let distance = |b: u8| {
            let signed = i32::from(b as i8);
            if signed.unsigned_abs() < 64 { signed } else { (signed.abs() - 63) * signed * 16 }
        };
        let mut options = OPTIONS[usize::from(r[0] >> 4 & 7)].to_vec();
        for (i, block) in options.iter_mut().skip(4).enumerate() {
            if r[0] >> 4 & 7 == 3 || r[0] >> 4 & 7 == 4 {
                *block = if i % 4 == 3 { r[3].wrapping_add((i as u8) << 3) } else { 0 };
            }
        }
        let len = usize::from(r[4] & 0x1f) * 48;
        let seq = distance(r[1]) as u32;
        let mut frame =
            build::tcp4(4000, 80, seq, distance(r[2]) as u32, flags, &options, &vec![r[4]; len]);
        // The window stands behind Ethernet, IP and 14 bytes of TCP.
        frame[48..50].copy_from_slice(&(u16::from(r[3]) << 8).to_be_bytes());
        target.aim(&mut frame);
        target.frame(&frame);
        if r[4] & 0x20 != 0 {
            target.write(usize::from(r[5]) * 16);
        }
        let wait = match r[4] >> 6 {
            0 => Duration::ZERO,
            1 => Duration::from_millis(u64::from(r[5])),
            2 => Duration::from_millis(u64::from(r[5]) * 40),
            _ => Duration::from_secs(u64::from(r[5])),
        };
        target.pass(wait);
    }
}
