//! TCP sequence numbers: 32 bits, compared modulo 2^32 (RFC 9293 3.4).

use core::cmp::Ordering;
use core::ops::{Add, AddAssign, Sub};

/// A TCP sequence number. `a < b` means "a is before b in the window around them".
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SeqNum(pub u32);

impl SeqNum {
    /// Signed distance from `other` to `self`.
    pub const fn diff(self, other: SeqNum) -> i32 {
        self.0.wrapping_sub(other.0) as i32
    }

    /// The later of two.
    pub fn max(self, other: SeqNum) -> SeqNum {
        if self >= other { self } else { other }
    }

    /// The earlier of two.
    pub fn min(self, other: SeqNum) -> SeqNum {
        if self <= other { self } else { other }
    }

    /// Whether `self` lies in `[from, to)`.
    pub fn in_range(self, from: SeqNum, to: SeqNum) -> bool {
        self >= from && self < to
    }
}

impl core::fmt::Debug for SeqNum {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl PartialOrd for SeqNum {
    fn partial_cmp(&self, other: &SeqNum) -> Option<Ordering> {
        Some(self.diff(*other).cmp(&0))
    }
}

impl Add<u32> for SeqNum {
    type Output = SeqNum;
    fn add(self, n: u32) -> SeqNum {
        SeqNum(self.0.wrapping_add(n))
    }
}

impl AddAssign<u32> for SeqNum {
    fn add_assign(&mut self, n: u32) {
        self.0 = self.0.wrapping_add(n);
    }
}

impl Sub<u32> for SeqNum {
    type Output = SeqNum;
    fn sub(self, n: u32) -> SeqNum {
        SeqNum(self.0.wrapping_sub(n))
    }
}

impl Sub<SeqNum> for SeqNum {
    type Output = u32;
    /// Bytes from `other` to `self`, modulo 2^32.
    fn sub(self, other: SeqNum) -> u32 {
        self.0.wrapping_sub(other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_wraps() {
        let a = SeqNum(u32::MAX - 1);
        let b = a + 5;
        assert!(a < b);
        assert_eq!(b - a, 5);
        assert_eq!(a.max(b), b);
        assert!((a + 1).in_range(a, b) && !b.in_range(a, b));
    }

    proptest::proptest! {
        /// The model: numbers of 64 bits, of which 32 are on the wire.
        #[test]
        fn arithmetic_is_that_of_whole_numbers_less_than_half_apart(
            base in proptest::prelude::any::<u64>(),
            a in 0u32..1 << 30,
            b in 0u32..1 << 30,
            c in 0u32..1 << 30,
        ) {
            let base = base >> 1;
            let wire = |n: u64| SeqNum(n as u32);
            let (x, y, z) = (base + u64::from(a), base + u64::from(b), base + u64::from(c));
            proptest::prop_assert_eq!(wire(x).diff(wire(y)), (x as i128 - y as i128) as i32);
            proptest::prop_assert_eq!(wire(x).partial_cmp(&wire(y)), Some(x.cmp(&y)));
            proptest::prop_assert_eq!(wire(x).max(wire(y)), wire(x.max(y)));
            proptest::prop_assert_eq!(wire(x).min(wire(y)), wire(x.min(y)));
            proptest::prop_assert_eq!(wire(x).in_range(wire(y), wire(z)), y <= x && x < z);
            proptest::prop_assert_eq!(wire(x) + b - a, wire(y));
            proptest::prop_assert_eq!(wire(x) + (wire(y) - wire(x)), wire(y));
        }
    }
}
