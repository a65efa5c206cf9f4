//! Asking for cache lines before they are needed.

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// Asks the processor for the cache lines that hold `value`, and does not wait for them. A hint: where
/// there is no such instruction nothing happens.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    let first = core::ptr::from_ref(value).cast::<u8>();
    let skew = first.addr() % LINE_BYTES;
    for offset in (0..skew + size_of::<T>()).step_by(LINE_BYTES) {
        prefetch_line(first.wrapping_sub(skew).wrapping_add(offset));
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch_line(line: *const u8) {
    use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: the instruction reads nothing that the program can see and does not fault, whatever the
    // address; SSE is part of the architecture's baseline.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn prefetch_line(_line: *const u8) {}
