//! The Internet checksum (RFC 1071): sums, a fused copy and sum, pseudo headers, and the
//! incremental update of RFC 1624.
//!
//! A *sum* is the folded one's complement sum of big-endian 16-bit words, not yet inverted; an odd
//! last byte counts as the high half of a word. Sums of pieces are joined with [`combine`] (pieces
//! at even offsets), [`combine_at`] or an [`Accumulator`] (any offsets). A *checksum* is what
//! stands in the header: the inverted sum, see [`finish`].

mod vector;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes per step of the main loop; wide enough for the compiler to use vector registers.
const STEP_BYTES: usize = 64;

/// Sums the 32-bit halves of native-endian words: byte order does not matter to a one's complement
/// sum but for one swap at the end (RFC 1071 section 2). Neither does the width of the words.
#[inline]
fn sum_words(data: &[u8]) -> u64 {
    if data.len() < STEP_BYTES {
        return sum_tail(data);
    }
    let mut lanes = [0u64; 8];
    let mut steps = data.chunks_exact(STEP_BYTES);
    for step in &mut steps {
        for (lane, word) in lanes.iter_mut().zip(step.chunks_exact(8)) {
            let word = u64::from_ne_bytes(word.try_into().expect("chunks of eight bytes"));
            *lane += (word & 0xffff_ffff) + (word >> 32);
        }
    }
    // 2^30 steps (64 GiB) fit a lane; slices here are frames.
    lanes.iter().sum::<u64>() + sum_tail(steps.remainder())
}

/// Of less than a step.
#[inline]
fn sum_tail(data: &[u8]) -> u64 {
    let mut sum = 0u64;
    let (words, rest) = data.as_chunks::<8>();
    for word in words {
        let word = u64::from_ne_bytes(*word);
        sum += (word & 0xffff_ffff) + (word >> 32);
    }
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        sum += u64::from(u32::from_ne_bytes(*word));
    }
    let last = match *rest {
        [] => return sum,
        [a] => [a, 0, 0, 0],
        [a, b] => [a, b, 0, 0],
        [a, b, c] => [a, b, c, 0],
        _ => return sum,
    };
    sum + u64::from(u32::from_ne_bytes(last))
}

/// One's complement sum of 16 bits out of a wider one.
#[inline]
pub(super) const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The sum of `data`.
#[inline]
pub fn sum(data: &[u8]) -> u16 {
    let (mut sum, mut done) = (0, 0);
    if data.len() >= vector::BYTES_MIN {
        (sum, done) = vector::sum(data).unwrap_or_default();
    }
    u16::from_be(fold(sum + sum_words(&data[done..])))
}

/// Copies `src` into `dst` and returns its sum: one pass over the memory instead of two.
///
/// # Panics
/// If the lengths differ.
#[inline]
pub fn copy_and_sum(dst: &mut [u8], src: &[u8]) -> u16 {
    assert_eq!(dst.len(), src.len(), "copy between slices of different length");
    let (mut sum, mut done) = (0, 0);
    if src.len() >= vector::BYTES_MIN {
        (sum, done) = vector::copy_and_sum(dst, src).unwrap_or_default();
    }
    u16::from_be(fold(sum + copy_and_sum_words(&mut dst[done..], &src[done..])))
}

#[inline]
fn copy_and_sum_words(dst: &mut [u8], src: &[u8]) -> u64 {
    let mut lanes = [0u64; 8];
    let mut to = dst.chunks_exact_mut(STEP_BYTES);
    let mut from = src.chunks_exact(STEP_BYTES);
    for (to, from) in (&mut to).zip(&mut from) {
        let words = to.chunks_exact_mut(8).zip(from.chunks_exact(8));
        for (lane, (to, from)) in lanes.iter_mut().zip(words) {
            let word = u64::from_ne_bytes(from.try_into().expect("chunks of eight bytes"));
            to.copy_from_slice(&word.to_ne_bytes());
            *lane += (word & 0xffff_ffff) + (word >> 32);
        }
    }
    to.into_remainder().copy_from_slice(from.remainder());
    lanes.iter().sum::<u64>() + sum_tail(from.remainder())
}

/// Joins two sums; the second piece starts at an even offset.
#[inline]
pub const fn combine(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u16
}

/// Joins two sums; the second piece starts `offset` bytes in, which may be odd.
#[inline]
pub const fn combine_at(a: u16, b: u16, offset: usize) -> u16 {
    combine(a, if offset % 2 == 1 { b.swap_bytes() } else { b })
}

/// The checksum that belongs into the header for a sum.
#[inline]
pub const fn finish(sum: u16) -> u16 {
    !sum
}

/// As [`finish`] for UDP, where a zero checksum means "none" and goes as all ones (RFC 768).
#[inline]
pub const fn finish_udp(sum: u16) -> u16 {
    if sum == 0xffff { 0xffff } else { !sum }
}

/// The checksum for a field `offset` bytes into a transport header: UDP has it at 6, and only UDP
/// sends a zero as all ones. No sum of a TCP segment gives all ones, so analysers take it as wrong.
#[inline]
pub const fn finish_at(offset: usize, sum: u16) -> u16 {
    if offset == 6 { finish_udp(sum) } else { finish(sum) }
}

/// Whether a sum over data that includes its checksum proves it correct.
#[inline]
pub const fn is_valid(sum: u16) -> bool {
    sum == 0xffff
}

/// Sum of the IPv4 pseudo header (RFC 9293 section 3.1). `len`: bytes of transport header and payload.
#[inline]
pub fn pseudo_v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, len: usize) -> u16 {
    let addresses = combine(sum(&src.octets()), sum(&dst.octets()));
    combine(addresses, tail_of_pseudo(protocol, len))
}

/// Sum of the IPv6 pseudo header (RFC 8200 section 8.1). `len`: bytes of the upper-layer packet.
#[inline]
pub fn pseudo_v6(src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, len: usize) -> u16 {
    let addresses = combine(sum(&src.octets()), sum(&dst.octets()));
    combine(addresses, tail_of_pseudo(protocol, len))
}

/// Sum of the pseudo header of either family.
///
/// # Panics
/// If the addresses are of different families.
#[inline]
pub fn pseudo(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> u16 {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => pseudo_v4(src, dst, protocol, len),
        (IpAddr::V6(src), IpAddr::V6(dst)) => pseudo_v6(src, dst, protocol, len),
        _ => panic!("pseudo header of mixed address families"),
    }
}

#[inline]
fn tail_of_pseudo(protocol: u8, len: usize) -> u16 {
    let len = len as u32;
    combine(combine((len >> 16) as u16, len as u16), u16::from(protocol))
}

/// A checksum after one 16-bit field that it covers changed from `old` to `new` (RFC 1624 eqn. 3).
#[inline]
pub const fn replace(checksum: u16, old: u16, new: u16) -> u16 {
    !combine(combine(!checksum, !old), new)
}

/// Sums pieces of any length one after the other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accumulator {
    sum: u16,
    odd: bool,
}

impl Accumulator {
    /// Starts with the sum of what stands before (a pseudo header, an even number of bytes).
    #[inline]
    pub const fn starting_with(sum: u16) -> Accumulator {
        Accumulator { sum, odd: false }
    }

    /// Adds the next piece.
    #[inline]
    pub fn add(&mut self, data: &[u8]) {
        self.join(sum(data), data.len());
    }

    /// Copies the next piece from `src` into `dst` and adds it.
    ///
    /// # Panics
    /// If the lengths differ.
    #[inline]
    pub fn copy(&mut self, dst: &mut [u8], src: &[u8]) {
        let piece = copy_and_sum(dst, src);
        self.join(piece, src.len());
    }

    #[inline]
    fn join(&mut self, piece: u16, len: usize) {
        self.sum = combine_at(self.sum, piece, usize::from(self.odd));
        self.odd ^= len % 2 == 1;
    }

    /// The sum of all pieces.
    #[inline]
    pub const fn sum(self) -> u16 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(data: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in data.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn example_of_rfc_1071() {
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&data), 0xddf2);
        assert_eq!(finish(sum(&data)), 0x220d);
        assert_eq!(sum(&[]), 0);
        assert_eq!(sum(&vec![0xff; 70_000]), 0xffff);
        for len in [3 << 20, (3 << 20) + 63] {
            assert_eq!((sum(&vec![0xff; len]), sum(&vec![0; len])), (naive(&vec![0xff; len]), 0));
            assert_eq!(copy_and_sum(&mut vec![0; len], &vec![0xff; len]), naive(&vec![0xff; len]));
        }
    }

    #[test]
    fn udp_never_sends_zero() {
        assert_eq!(finish_udp(0xffff), 0xffff);
        assert_eq!(finish_udp(0x1234), !0x1234);
        assert_eq!(finish_at(6, 0xffff), 0xffff);
        assert_eq!(finish_at(16, 0xffff), 0);
    }

    proptest! {
        #[test]
        fn sum_is_the_naive_sum(data in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(sum(&data), naive(&data));
        }

        #[test]
        fn the_portable_and_the_vector_sum_agree(
            data in proptest::collection::vec(any::<u8>(), 0..3000), from in 0usize..40, fill: bool,
        ) {
            let mut data = data;
            if fill {
                data.fill(0xff);
            }
            let data = &data[from.min(data.len())..];
            let portable = u16::from_be(fold(sum_words(data)));
            prop_assert_eq!(portable, naive(data));
            prop_assert_eq!(sum(data), portable);
            let mut copy = vec![0; data.len()];
            prop_assert_eq!(u16::from_be(fold(copy_and_sum_words(&mut copy, data))), portable);
            prop_assert_eq!(copy, data);
            if let Some((part, done)) = vector::sum(data) {
                prop_assert!(data.len() - done < 64);
                prop_assert_eq!(u16::from_be(fold(part + sum_words(&data[done..]))), portable);
            }
        }

        #[test]
        fn copy_copies_and_sums(data in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let mut copy = vec![0; data.len()];
            prop_assert_eq!(copy_and_sum(&mut copy, &data), naive(&data));
            prop_assert_eq!(copy, data);
        }

        #[test]
        fn pieces_join_at_any_offset(
            data in proptest::collection::vec(any::<u8>(), 0..600),
            cuts in proptest::collection::vec(0usize..600, 0..5),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(data.len())).collect();
            cuts.sort_unstable();
            cuts.push(data.len());
            let (mut acc, mut from) = (Accumulator::default(), 0);
            for cut in cuts {
                acc.add(&data[from..cut]);
                from = cut;
            }
            prop_assert_eq!(acc.sum(), naive(&data));
        }

        #[test]
        fn replacing_a_field_is_summing_again(
            mut data in proptest::collection::vec(any::<u8>(), 40..41),
            word in 0usize..20,
            new in any::<u16>(),
        ) {
            // All zeros is the one input whose checksum has two forms.
            data[0] |= 1;
            let word = word.max(1);
            let before = finish(sum(&data));
            let old = u16::from_be_bytes([data[word * 2], data[word * 2 + 1]]);
            data[word * 2..word * 2 + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(replace(before, old, new), finish(sum(&data)));
        }

        #[test]
        fn pseudo_headers_sum_their_bytes(src: u128, dst: u128, protocol: u8, len in 0usize..100_000) {
            let (s, d) = (Ipv6Addr::from(src), Ipv6Addr::from(dst));
            let mut bytes = [s.octets(), d.octets()].concat();
            bytes.extend((len as u32).to_be_bytes());
            bytes.extend([0, 0, 0, protocol]);
            prop_assert_eq!(pseudo(s.into(), d.into(), protocol, len), naive(&bytes));
            let (s, d) = (Ipv4Addr::from(src as u32), Ipv4Addr::from(dst as u32));
            let len = len & 0xffff;
            let mut bytes = [s.octets(), d.octets()].concat();
            bytes.extend([0, protocol]);
            bytes.extend((len as u16).to_be_bytes());
            prop_assert_eq!(pseudo(s.into(), d.into(), protocol, len), naive(&bytes));
        }
    }
}
