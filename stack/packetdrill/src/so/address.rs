//! `struct sockaddr` and back.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use libc::{sockaddr, sockaddr_in, sockaddr_in6, socklen_t};

/// Reads an address.
///
/// # Safety
/// `addr` is null or points to `len` bytes.
pub(super) unsafe fn read(addr: *const sockaddr, len: socklen_t) -> Option<SocketAddr> {
    if addr.is_null() || (len as usize) < size_of::<sockaddr_in>() {
        return None;
    }
    // SAFETY: as long as the shortest address, which has a family.
    let family = unsafe { (*addr).sa_family };
    if i32::from(family) == libc::AF_INET {
        // SAFETY: checked to be long enough.
        let v4 = unsafe { addr.cast::<sockaddr_in>().read_unaligned() };
        let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
        return Some(SocketAddr::new(ip.into(), u16::from_be(v4.sin_port)));
    }
    if i32::from(family) == libc::AF_INET6 && len as usize >= size_of::<sockaddr_in6>() {
        // SAFETY: checked to be long enough.
        let v6 = unsafe { addr.cast::<sockaddr_in6>().read_unaligned() };
        let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
        return Some(SocketAddr::new(ip.to_canonical(), u16::from_be(v6.sin6_port)));
    }
    None
}

/// Writes an address, cut to the room there is; `v6`: as an IPv6 one.
///
/// # Safety
/// `addr` is null or has room for `*len` bytes; `len` is null or valid.
pub(super) unsafe fn write(
    address: SocketAddr,
    v6: bool,
    addr: *mut sockaddr,
    len: *mut socklen_t,
) {
    if addr.is_null() || len.is_null() {
        return;
    }
    // SAFETY: not null, so valid.
    let room = unsafe { *len } as usize;
    let mut bytes = Vec::with_capacity(size_of::<sockaddr_in6>());
    match address {
        SocketAddr::V4(v4) if !v6 => {
            bytes.extend((libc::AF_INET as u16).to_ne_bytes());
            bytes.extend(v4.port().to_be_bytes());
            bytes.extend(v4.ip().octets());
            bytes.resize(size_of::<sockaddr_in>(), 0);
        }
        other => {
            let ip = match other.ip() {
                std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                std::net::IpAddr::V6(v6) => v6,
            };
            bytes.extend((libc::AF_INET6 as u16).to_ne_bytes());
            bytes.extend(other.port().to_be_bytes());
            bytes.extend([0; 4]);
            bytes.extend(ip.octets());
            bytes.resize(size_of::<sockaddr_in6>(), 0);
        }
    }
    // SAFETY: at most as many bytes as there is room for.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), addr.cast(), bytes.len().min(room));
        *len = bytes.len() as socklen_t;
    }
}
