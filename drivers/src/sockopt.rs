//! Socket options that are plain data.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, socklen_t};

/// Sets one option; `value` is what the option's documentation says.
pub(crate) fn set_option<T>(fd: impl AsFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of a live value.
    let result = unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Integers, and structs of nothing else.
///
/// # Safety
/// Any bytes are a value of the type.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: three integers without padding.
unsafe impl Plain for libc::tpacket_stats_v3 {}

// SAFETY: three integers of four bytes.
unsafe impl Plain for libc::ucred {}

/// Reads one option. What the kernel does not write stays as in `value`.
pub(crate) fn get_option<T: Plain>(
    fd: impl AsFd,
    level: c_int,
    name: c_int,
    mut value: T,
) -> io::Result<T> {
    let mut len = size_of::<T>() as socklen_t;
    // SAFETY: the kernel writes at most `len` bytes of a live value, and any bytes are a value.
    let result = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            name,
            std::ptr::from_mut(&mut value).cast(),
            &raw mut len,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}
