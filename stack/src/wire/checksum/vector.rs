//! Sums with AVX2, where the processor has it.
//!
//! `vpmaddwd` adds pairs of 16-bit words to 32-bit lanes, three instructions for 32 bytes, but takes
//! the words as signed: they are moved down by 2^15 before, and the sum up again at the end.
//!
//! `unsafe` stands here because such functions must not run on a processor without the unit, and
//! because vectors are loaded and stored through pointers. `copy_and_sum` is what all data from
//! foreign memory goes through; the portable loop needs over three times the instructions.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{copy_and_sum, sum};

/// Shorter data does not repay the way through the vector unit.
pub(super) const BYTES_MIN: usize = 96;

/// As on a processor without the unit.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn sum(_data: &[u8]) -> Option<(u64, usize)> {
    None
}

/// As on a processor without the unit.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn copy_and_sum(_dst: &mut [u8], _src: &[u8]) -> Option<(u64, usize)> {
    None
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use core::arch::x86_64::{
        __m256i, _mm256_add_epi32, _mm256_add_epi64, _mm256_castsi256_si128, _mm256_cvtepi32_epi64,
        _mm256_extracti128_si256, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_set1_epi16,
        _mm256_setzero_si256, _mm256_storeu_si256, _mm256_xor_si256,
    };

    /// Two vectors at a time.
    const STEP_BYTES: usize = 64;
    /// Steps after which the 32-bit lanes are emptied: one adds at most 2^17 to a lane.
    const STEPS_MAX: usize = 1 << 13;

    /// The sum of the native-endian 16-bit words of the front of `data`, and how many bytes that
    /// is; the rest is shorter than a step. `None`: this processor has no AVX2.
    #[inline]
    pub(crate) fn sum(data: &[u8]) -> Option<(u64, usize)> {
        // SAFETY: the unit is there.
        is_x86_feature_detected!("avx2").then(|| unsafe { sum_avx2(data) })
    }

    /// The same, and copies these bytes from the front of `src` to that of `dst`.
    #[inline]
    pub(crate) fn copy_and_sum(dst: &mut [u8], src: &[u8]) -> Option<(u64, usize)> {
        // SAFETY: the unit is there.
        is_x86_feature_detected!("avx2").then(|| unsafe { copy_and_sum_avx2(dst, src) })
    }

    #[target_feature(enable = "avx2")]
    fn sum_avx2(data: &[u8]) -> (u64, usize) {
        let (steps, _) = data.as_chunks::<STEP_BYTES>();
        let mut sum = 0;
        for steps in steps.chunks(STEPS_MAX) {
            let mut lanes = [_mm256_setzero_si256(); 2];
            for step in steps {
                add(&mut lanes, load(step));
            }
            sum += total(lanes, steps.len());
        }
        (sum, steps.len() * STEP_BYTES)
    }

    #[target_feature(enable = "avx2")]
    fn copy_and_sum_avx2(dst: &mut [u8], src: &[u8]) -> (u64, usize) {
        let (from, _) = src.as_chunks::<STEP_BYTES>();
        let (to, _) = dst.as_chunks_mut::<STEP_BYTES>();
        let mut sum = 0;
        for (to, from) in to.chunks_mut(STEPS_MAX).zip(from.chunks(STEPS_MAX)) {
            let mut lanes = [_mm256_setzero_si256(); 2];
            for (to, from) in to.iter_mut().zip(from) {
                let vectors = load(from);
                store(to, vectors);
                add(&mut lanes, vectors);
            }
            sum += total(lanes, from.len());
        }
        (sum, from.len() * STEP_BYTES)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(from: &[u8; STEP_BYTES]) -> [__m256i; 2] {
        let from: *const __m256i = from.as_ptr().cast();
        // SAFETY: 64 bytes, of any alignment.
        unsafe { [_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1))] }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn store(to: &mut [u8; STEP_BYTES], [first, second]: [__m256i; 2]) {
        let to: *mut __m256i = to.as_mut_ptr().cast();
        // SAFETY: 64 bytes, of any alignment.
        unsafe {
            _mm256_storeu_si256(to, first);
            _mm256_storeu_si256(to.add(1), second);
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn add(lanes: &mut [__m256i; 2], vectors: [__m256i; 2]) {
        let (down, ones) = (_mm256_set1_epi16(i16::MIN), _mm256_set1_epi16(1));
        for (lane, vector) in lanes.iter_mut().zip(vectors) {
            let pairs = _mm256_madd_epi16(_mm256_xor_si256(vector, down), ones);
            *lane = _mm256_add_epi32(*lane, pairs);
        }
    }

    /// What `steps` steps added up to.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn total(lanes: [__m256i; 2], steps: usize) -> u64 {
        let mut sum = _mm256_setzero_si256();
        for lane in lanes {
            let halves = [_mm256_castsi256_si128(lane), _mm256_extracti128_si256::<1>(lane)];
            for half in halves {
                sum = _mm256_add_epi64(sum, _mm256_cvtepi32_epi64(half));
            }
        }
        let mut parts = [0i64; 4];
        // SAFETY: 32 bytes, of any alignment.
        unsafe { _mm256_storeu_si256(parts.as_mut_ptr().cast(), sum) };
        let moved_up = (steps * (STEP_BYTES / 2)) as i64 * (1 << 15);
        (parts.iter().sum::<i64>() + moved_up) as u64
    }
}
