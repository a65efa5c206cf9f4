//! The cheapest clock of the processor, for accounting: a counter that only grows, of unknown
//! frequency. Who wants nanoseconds measures it against another clock over a longer time.

/// The counter now. About ten nanoseconds; no system call. On x86-64 the time stamp counter, which
/// every processor of the last fifteen years runs at one rate on all cores; on aarch64 the virtual
/// counter; elsewhere nanoseconds.
#[inline]
pub fn now() -> u64 {
    read()
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn read() -> u64 {
    // SAFETY: every x86-64 processor has the instruction; it reads a counter and touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(target_arch = "aarch64")]
#[inline]
fn read() -> u64 {
    let ticks: u64;
    // SAFETY: user space may read the virtual counter; the instruction touches no memory.
    unsafe { core::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack)) };
    ticks
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn read() -> u64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed().as_nanos() as u64
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_counter_grows() {
        let a = super::now();
        (0..1000).for_each(|_| assert!(super::now() >= a));
        assert!(super::now() > a);
    }
}
