//! Calls that the real tool makes past its table: `getsockopt` for the values of `%{ }%`.
//!
//! With this library in `LD_PRELOAD` they come here; those on descriptors that are not ours go on to
//! the kernel.

use std::sync::atomic::{AtomicPtr, Ordering};

use libc::{c_int, c_void, socklen_t};

use super::shared;

static HOST: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

pub(super) fn set(userdata: *mut c_void) {
    HOST.store(userdata, Ordering::Release);
}

/// `getsockopt` of the process: exported, though this module is not.
///
/// # Safety
/// As `getsockopt`.
#[allow(unreachable_pub, reason = "the linker reaches it")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    let user = HOST.load(Ordering::Acquire);
    // SAFETY: the pointer is the one that `packetdrill_interface_init` made, or null.
    if !user.is_null() && unsafe { shared(user) }.lock().host.has(fd) {
        // SAFETY: as the call takes them.
        return unsafe { super::table::getsockopt(user, fd, level, name, value, len) };
    }
    // SAFETY: the same call, of the kernel.
    unsafe { libc::syscall(libc::SYS_getsockopt, fd, level, name, value, len) as c_int }
}
