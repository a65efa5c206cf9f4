//! The table of calls, in the order of packetdrill's `struct packetdrill_interface`.

use std::slice;

use libc::{
    epoll_event, iovec, msghdr, nfds_t, pollfd, size_t, sockaddr, socklen_t, ssize_t, timeval,
};

use super::address;
use super::{Errno, Host, answer, c_int, c_long, c_longlong, c_void, shared};

const EINVAL: Errno = Errno(libc::EINVAL);
const ENOSYS: Errno = Errno(libc::ENOSYS);
const EFAULT: Errno = Errno(libc::EFAULT);

type User = *mut c_void;

macro_rules! table {
    ($($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// What packetdrill calls; each function gets `userdata` first.
        #[repr(C)]
        #[allow(missing_docs, reason = "the names are those of the calls")]
        pub struct Interface {
            pub userdata: User,
            $(pub $name: unsafe extern "C" fn(User, $($argument),*) $(-> $result)?,)*
        }

        impl Interface {
            pub(super) fn new(userdata: User) -> Interface {
                Interface { userdata, $($name),* }
            }
        }
    };
}

table! {
    free: fn();
    socket: fn(c_int, c_int, c_int) -> c_int;
    bind: fn(c_int, *const sockaddr, socklen_t) -> c_int;
    listen: fn(c_int, c_int) -> c_int;
    accept: fn(c_int, *mut sockaddr, *mut socklen_t) -> c_int;
    connect: fn(c_int, *const sockaddr, socklen_t) -> c_int;
    read: fn(c_int, *mut c_void, size_t) -> ssize_t;
    readv: fn(c_int, *const iovec, c_int) -> ssize_t;
    recv: fn(c_int, *mut c_void, size_t, c_int) -> ssize_t;
    recvfrom: fn(c_int, *mut c_void, size_t, c_int, *mut sockaddr, *mut socklen_t) -> ssize_t;
    recvmsg: fn(c_int, *mut msghdr, c_int) -> ssize_t;
    write: fn(c_int, *const c_void, size_t) -> ssize_t;
    writev: fn(c_int, *const iovec, c_int) -> ssize_t;
    send: fn(c_int, *const c_void, size_t, c_int) -> ssize_t;
    sendto: fn(c_int, *const c_void, size_t, c_int, *const sockaddr, socklen_t) -> ssize_t;
    sendmsg: fn(c_int, *const msghdr, c_int) -> ssize_t;
    fcntl: fn(c_int, c_int, c_long) -> c_int;
    ioctl: fn(c_int, libc::c_ulong, *mut c_int) -> c_int;
    close: fn(c_int) -> c_int;
    shutdown: fn(c_int, c_int) -> c_int;
    getsockopt: fn(c_int, c_int, c_int, *mut c_void, *mut socklen_t) -> c_int;
    setsockopt: fn(c_int, c_int, c_int, *const c_void, socklen_t) -> c_int;
    poll: fn(*mut pollfd, nfds_t, c_int) -> c_int;
    netdev_send: fn(*const c_void, size_t) -> c_int;
    netdev_receive: fn(*mut c_void, *mut size_t, *mut c_longlong) -> c_int;
    usleep: fn(u32) -> c_int;
    gettimeofday: fn(*mut timeval, *mut c_void) -> c_int;
    epoll_create: fn(c_int) -> c_int;
    epoll_ctl: fn(c_int, c_int, c_int, *mut epoll_event) -> c_int;
    epoll_wait: fn(c_int, *mut epoll_event, c_int, c_int) -> c_int;
    pipe: fn(*mut c_int) -> c_int;
    splice: fn(c_int, *mut i64, c_int, *mut i64, size_t, u32) -> c_int;
}

/// Bytes an application gives.
///
/// # Safety
/// `buf` is null or points to `len` bytes.
unsafe fn bytes<'a>(buf: *const c_void, len: usize) -> Result<&'a [u8], Errno> {
    // No application has memory in the first page.
    match ((buf as usize) < 4096, len) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(EFAULT),
        // SAFETY: the caller says so.
        (false, _) => Ok(unsafe { slice::from_raw_parts(buf.cast(), len) }),
    }
}

/// The pieces of a vector.
///
/// # Safety
/// `iov` is null or points to `count` pieces.
unsafe fn pieces<'a>(iov: *const iovec, count: usize) -> &'a [iovec] {
    if iov.is_null() || count == 0 {
        return &[];
    }
    // SAFETY: the caller says so.
    unsafe { slice::from_raw_parts(iov, count) }
}

/// Everything a vector's pieces hold, in one.
///
/// # Safety
/// Each piece is valid for reading.
unsafe fn gathered(iov: &[iovec]) -> Result<Vec<u8>, Errno> {
    let mut all = Vec::new();
    for piece in iov {
        // SAFETY: the caller says so.
        all.extend_from_slice(unsafe { bytes(piece.iov_base, piece.iov_len) }?);
    }
    Ok(all)
}

/// Reads at most `max` bytes into `iov`.
///
/// # Safety
/// Each piece of `iov` is valid for writing; `addr` and `len` as for `recvfrom`.
unsafe fn receive(
    user: User,
    fd: c_int,
    iov: &[iovec],
    flags: c_int,
    (addr, len): (*mut sockaddr, *mut socklen_t),
) -> ssize_t {
    // SAFETY: `user` is ours.
    let shared = unsafe { shared(user) };
    let max = iov.iter().map(|p| p.iov_len).sum();
    // No application has memory in the first page.
    if iov.iter().any(|p| p.iov_len > 0 && (p.iov_base as usize) < 4096) {
        return answer::<i64>(Err(EFAULT)) as ssize_t;
    }
    if flags & !(libc::MSG_DONTWAIT | libc::MSG_PEEK) != 0 {
        return answer::<i64>(Err(Errno(libc::EOPNOTSUPP))) as ssize_t;
    }
    let waits = flags & libc::MSG_DONTWAIT == 0;
    let peek = flags & libc::MSG_PEEK != 0;
    let result = shared.call(
        |h| waits && h.is_blocking(fd),
        |h| if peek { h.peek(fd, max) } else { h.recv(fd, max) },
    );
    let result = result.map(|got| {
        let mut rest = &got.data[..];
        for piece in iov {
            let n = rest.len().min(piece.iov_len);
            // SAFETY: the piece has room for `n` bytes.
            unsafe { std::ptr::copy_nonoverlapping(rest.as_ptr(), piece.iov_base.cast(), n) };
            rest = &rest[n..];
        }
        if let Some(from) = got.from {
            // SAFETY: the caller says so.
            unsafe { address::write(from, from.is_ipv6(), addr, len) };
        }
        got.data.len() as i64
    });
    answer(result) as ssize_t
}

/// Sends all of `data`, waiting for room if the descriptor lets it.
///
/// # Safety
/// `user` is ours; `addr` is null or points to `len` bytes.
unsafe fn transmit(
    user: User,
    fd: c_int,
    data: &[u8],
    flags: c_int,
    (addr, len): (*const sockaddr, socklen_t),
) -> ssize_t {
    const KNOWN: c_int = libc::MSG_DONTWAIT
        | libc::MSG_NOSIGNAL
        | libc::MSG_MORE
        | libc::MSG_OOB
        | libc::MSG_EOR
        | libc::MSG_FASTOPEN;
    // SAFETY: both as the caller says.
    let (shared, to) = unsafe { (shared(user), address::read(addr, len)) };
    if flags & !KNOWN != 0 {
        return answer::<i64>(Err(Errno(libc::EOPNOTSUPP))) as ssize_t;
    }
    let waits = flags & libc::MSG_DONTWAIT == 0;
    let mut done = 0;
    let result = shared.call(
        |h| waits && h.is_blocking(fd),
        |h: &mut Host| loop {
            match h.send(fd, &data[done..], flags, to) {
                Ok(n) => {
                    done += n;
                    if done >= data.len() || h.is_datagram(fd) {
                        return Ok(done as i64);
                    }
                }
                Err(Errno(libc::EAGAIN)) if done > 0 && !(waits && h.is_blocking(fd)) => {
                    return Ok(done as i64);
                }
                Err(e) if done > 0 && e != super::AGAIN => return Ok(done as i64),
                Err(e) => return Err(e),
            }
        },
    );
    answer(result) as ssize_t
}

// SAFETY (of every function below): packetdrill passes the userdata it was given, and pointers as
// the system call of the same name takes them.

unsafe extern "C" fn free(user: User) {
    // SAFETY: made by `Box::into_raw`; the tool calls nothing afterwards.
    drop(unsafe { Box::from_raw(user.cast::<super::Shared>()) });
}

unsafe extern "C" fn socket(user: User, domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    // SAFETY: `user` is ours.
    let shared = unsafe { shared(user) };
    answer(shared.call(|_| false, |h| h.socket(domain, kind, protocol))) as c_int
}

unsafe extern "C" fn bind(user: User, fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
    // SAFETY: as the call takes them.
    let (shared, addr) = unsafe { (shared(user), address::read(addr, len)) };
    let Some(addr) = addr else { return answer::<i32>(Err(EINVAL)) as c_int };
    answer(shared.call(|_| false, |h| h.bind(fd, addr).map(|()| 0))) as c_int
}

unsafe extern "C" fn listen(user: User, fd: c_int, backlog: c_int) -> c_int {
    // SAFETY: `user` is ours.
    let shared = unsafe { shared(user) };
    answer(shared.call(|_| false, |h| h.listen(fd, backlog).map(|()| 0))) as c_int
}

unsafe extern "C" fn accept(
    user: User,
    fd: c_int,
    addr: *mut sockaddr,
    len: *mut socklen_t,
) -> c_int {
    // SAFETY: `user` is ours.
    let shared = unsafe { shared(user) };
    let result = shared.call(|h| h.is_blocking(fd), |h| h.accept(fd));
    let result = result.map(|(new, peer)| {
        let v6 = shared.lock().host.is_v6(new);
        // SAFETY: as the call takes them.
        unsafe { address::write(peer, v6, addr, len) };
        new
    });
    answer(result) as c_int
}

unsafe extern "C" fn connect(
    user: User,
    fd: c_int,
    addr: *const sockaddr,
    len: socklen_t,
) -> c_int {
    // SAFETY: as the call takes them.
    let (shared, addr) = unsafe { (shared(user), address::read(addr, len)) };
    let Some(addr) = addr else { return answer::<i32>(Err(EINVAL)) as c_int };
    let result = shared.call(|h| h.is_blocking(fd), |h| h.connect(fd, addr).map(|()| 0));
    answer(result) as c_int
}

unsafe extern "C" fn read(user: User, fd: c_int, buf: *mut c_void, count: size_t) -> ssize_t {
    let iov = [iovec { iov_base: buf, iov_len: count }];
    // SAFETY: as the call takes them.
    unsafe { receive(user, fd, &iov, 0, (std::ptr::null_mut(), std::ptr::null_mut())) }
}

unsafe extern "C" fn readv(user: User, fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: as the call takes them.
    unsafe {
        let iov = pieces(iov, count.max(0) as usize);
        receive(user, fd, iov, 0, (std::ptr::null_mut(), std::ptr::null_mut()))
    }
}

unsafe extern "C" fn recv(
    user: User,
    fd: c_int,
    buf: *mut c_void,
    len: size_t,
    flags: c_int,
) -> ssize_t {
    let iov = [iovec { iov_base: buf, iov_len: len }];
    // SAFETY: as the call takes them.
    unsafe { receive(user, fd, &iov, flags, (std::ptr::null_mut(), std::ptr::null_mut())) }
}

unsafe extern "C" fn recvfrom(
    user: User,
    fd: c_int,
    buf: *mut c_void,
    len: size_t,
    flags: c_int,
    addr: *mut sockaddr,
    addr_len: *mut socklen_t,
) -> ssize_t {
    let iov = [iovec { iov_base: buf, iov_len: len }];
    // SAFETY: as the call takes them.
    unsafe { receive(user, fd, &iov, flags, (addr, addr_len)) }
}

unsafe extern "C" fn recvmsg(user: User, fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
    // SAFETY: as the call takes them.
    unsafe {
        let message = &mut *message;
        (message.msg_controllen, message.msg_flags) = (0, 0);
        let iov = pieces(message.msg_iov, message.msg_iovlen);
        let name = (message.msg_name.cast(), &raw mut message.msg_namelen);
        receive(user, fd, iov, flags, name)
    }
}

unsafe extern "C" fn write(user: User, fd: c_int, buf: *const c_void, count: size_t) -> ssize_t {
    // SAFETY: as the call takes them.
    unsafe { send(user, fd, buf, count, 0) }
}

unsafe extern "C" fn writev(user: User, fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: as the call takes them.
    unsafe {
        match gathered(pieces(iov, count.max(0) as usize)) {
            Ok(data) => transmit(user, fd, &data, 0, (std::ptr::null(), 0)),
            Err(e) => answer::<i64>(Err(e)) as ssize_t,
        }
    }
}

unsafe extern "C" fn send(
    user: User,
    fd: c_int,
    buf: *const c_void,
    len: size_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: as the call takes them.
    unsafe { sendto(user, fd, buf, len, flags, std::ptr::null(), 0) }
}

unsafe extern "C" fn sendto(
    user: User,
    fd: c_int,
    buf: *const c_void,
    len: size_t,
    flags: c_int,
    addr: *const sockaddr,
    addr_len: socklen_t,
) -> ssize_t {
    // SAFETY: as the call takes them.
    unsafe {
        match bytes(buf, len) {
            Ok(data) => transmit(user, fd, data, flags, (addr, addr_len)),
            Err(e) => answer::<i64>(Err(e)) as ssize_t,
        }
    }
}

unsafe extern "C" fn sendmsg(
    user: User,
    fd: c_int,
    message: *const msghdr,
    flags: c_int,
) -> ssize_t {
    // SAFETY: as the call takes them.
    unsafe {
        let message = &*message;
        match gathered(pieces(message.msg_iov, message.msg_iovlen)) {
            Ok(data) => {
                let to = (message.msg_name.cast_const().cast(), message.msg_namelen);
                transmit(user, fd, &data, flags, to)
            }
            Err(e) => answer::<i64>(Err(e)) as ssize_t,
        }
    }
}

unsafe extern "C" fn fcntl(user: User, fd: c_int, command: c_int, argument: c_long) -> c_int {
    // SAFETY: `user` is ours.
    let shared = unsafe { shared(user) };
    answer(shared.call(|_| false, |h| h.fcntl(fd, command, argument as i32))) as c_int
}

unsafe extern "C" fn ioctl(
    user: User,
    fd: c_int,
    request: libc::c_ulong,
    argument: *mut c_int,
) -> c_int {
    // SAFETY: `user` is ours.
    let shared = unsafe { shared(user) };
    let result = shared.call(|_| false, |h| h.ioctl(fd, request)).map(|value| {
        // SAFETY: the requests known all write one integer.
        unsafe { *argument = value };
        0
    });
    answer(result) as c_int
}

unsafe extern "C" fn close(user: User, fd: c_int) -> c_int {
    // SAFETY: `user` is ours.
    let shared = unsafe { shared(user) };
    let result = shared.call(|_| false, |h| h.close(fd).map(|()| 0));
    if result.is_ok() {
        // SAFETY: the number that was reserved for this descriptor.
        unsafe { libc::close(fd) };
    }
    answer(result) as c_int
}

unsafe extern "C" fn shutdown(user: User, fd: c_int, how: c_int) -> c_int {
    // SAFETY: `user` is ours.
    let shared = unsafe { shared(user) };
    answer(shared.call(|_| false, |h| h.shutdown(fd, how).map(|()| 0))) as c_int
}

pub(super) unsafe extern "C" fn getsockopt(
    user: User,
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    // SAFETY: `user` is ours.
    let shared = unsafe { shared(user) };
    let result = shared.call(|_| false, |h| h.get_option(fd, level, name)).map(|bytes| {
        // SAFETY: `value` has room for `*len` bytes.
        unsafe {
            let n = bytes.len().min(*len as usize);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), value.cast(), n);
            *len = n as socklen_t;
        }
        0
    });
    answer(result) as c_int
}

unsafe extern "C" fn setsockopt(
    user: User,
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    // SAFETY: as the call takes them.
    let (shared, value) = unsafe { (shared(user), bytes(value, len as usize)) };
    let result = value.and_then(|value| {
        shared.call(|_| false, |h| h.set_option(fd, level, name, value).map(|()| 0))
    });
    answer(result) as c_int
}

unsafe extern "C" fn poll(user: User, fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
    // SAFETY: as the call takes them.
    let (shared, fds) = unsafe { (shared(user), slice::from_raw_parts_mut(fds, count as usize)) };
    let always = libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
    let result = shared.wait_for(timeout, |host| {
        for entry in fds.iter_mut() {
            entry.revents = host.readiness(entry.fd) & (entry.events | always);
        }
        let ready = fds.iter().filter(|e| e.revents != 0).count();
        Ok((ready > 0).then_some(ready as i32))
    });
    answer(result.map(Option::unwrap_or_default)) as c_int
}

unsafe extern "C" fn netdev_send(user: User, buf: *const c_void, count: size_t) -> c_int {
    // SAFETY: as the tool passes them.
    let (shared, packet) = unsafe { (shared(user), bytes(buf, count)) };
    answer(packet.map(|packet| {
        shared.inject(packet);
        0
    })) as c_int
}

unsafe extern "C" fn netdev_receive(
    user: User,
    buf: *mut c_void,
    count: *mut size_t,
    time_us: *mut c_longlong,
) -> c_int {
    // SAFETY: `user` is ours.
    let shared = unsafe { shared(user) };
    let Some((at, packet)) = shared.receive() else {
        // The tool would ask for ever.
        eprintln!("libweft_packetdrill: the stack has nothing more to send");
        std::process::exit(1);
    };
    // SAFETY: `buf` has room for `*count` bytes.
    unsafe {
        let n = packet.len().min(*count);
        std::ptr::copy_nonoverlapping(packet.as_ptr(), buf.cast(), n);
        (*count, *time_us) = (n, at as c_longlong);
    }
    0
}

unsafe extern "C" fn usleep(user: User, us: u32) -> c_int {
    // SAFETY: `user` is ours.
    unsafe { shared(user) }.sleep(us);
    0
}

unsafe extern "C" fn gettimeofday(user: User, time: *mut timeval, _zone: *mut c_void) -> c_int {
    // SAFETY: `user` is ours.
    let us = unsafe { shared(user) }.read_clock() as i64;
    // SAFETY: as the call takes it.
    unsafe { *time = timeval { tv_sec: us / 1_000_000, tv_usec: us % 1_000_000 } };
    0
}

unsafe extern "C" fn epoll_create(user: User, _size: c_int) -> c_int {
    // SAFETY: `user` is ours.
    let shared = unsafe { shared(user) };
    answer(shared.call(|_| false, |h| Ok(h.epoll_create()))) as c_int
}

unsafe extern "C" fn epoll_ctl(
    user: User,
    epoll: c_int,
    operation: c_int,
    fd: c_int,
    event: *mut epoll_event,
) -> c_int {
    // SAFETY: `user` is ours.
    let shared = unsafe { shared(user) };
    let (events, data) = if event.is_null() {
        (0, 0)
    } else {
        // SAFETY: as the call takes it.
        let event = unsafe { event.read_unaligned() };
        (event.events, event.u64)
    };
    let result =
        shared.call(|_| false, |h| h.epoll_control(epoll, operation, fd, events, data).map(|()| 0));
    answer(result) as c_int
}

unsafe extern "C" fn epoll_wait(
    user: User,
    epoll: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout: c_int,
) -> c_int {
    // SAFETY: `user` is ours.
    let shared = unsafe { shared(user) };
    let result = shared.wait_for(timeout, |host| {
        let ready = host.epoll_ready(epoll, max.max(0) as usize)?;
        Ok((!ready.is_empty()).then_some(ready))
    });
    let result = result.map(Option::unwrap_or_default).map(|ready| {
        for (i, entry) in ready.iter().enumerate() {
            // SAFETY: at most `max` entries.
            unsafe {
                events
                    .add(i)
                    .write_unaligned(epoll_event { events: entry.events, u64: entry.data });
            }
        }
        ready.len() as i32
    });
    answer(result) as c_int
}

unsafe extern "C" fn pipe(_user: User, _fds: *mut c_int) -> c_int {
    answer::<i32>(Err(ENOSYS)) as c_int
}

unsafe extern "C" fn splice(
    _user: User,
    _from: c_int,
    _from_offset: *mut i64,
    _to: c_int,
    _to_offset: *mut i64,
    _len: size_t,
    _flags: u32,
) -> c_int {
    answer::<i32>(Err(ENOSYS)) as c_int
}
