//! The kernel's own way over several paths: sockets of MPTCP.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, Protocol, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

use super::LabError;
use super::topology::Machine;
use super::traffic::{self, PATIENCE, Sum, join};

/// `IPPROTO_MPTCP` of linux/in.h.
const MPTCP: u32 = 262;

fn socket(at: SocketAddr) -> io::Result<OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let protocol = NonZeroU32::new(MPTCP).map(Protocol::from_raw);
    Ok(socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, protocol)?)
}

/// A listener in the calling thread's namespace.
pub(super) fn listen_at(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(at)?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &at)?;
    listen(&socket, 1)?;
    Ok(TcpListener::from(socket))
}

/// A connection from the calling thread's namespace; reading from it ends after [`PATIENCE`].
pub(super) fn connect_to(at: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(at)?;
    connect(&socket, &at)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A stream from the kernel to a client, one of whose paths fails.
pub(super) struct Trial {
    pub(super) sent: Sum,
    pub(super) got: Sum,
    /// The longest time in which nothing came.
    pub(super) gap: Duration,
}

/// Streams to `client` from the listener at `at`; after `calm`, `fail` happens and lasts `effect`.
pub(super) fn stream(
    client: &Machine,
    (listener, at): (&TcpListener, SocketAddr),
    (calm, effect): (Duration, Duration),
    fail: impl FnOnce() -> Result<(), LabError>,
    mend: impl FnOnce() -> Result<(), LabError>,
) -> Result<Trial, LabError> {
    let ended = &AtomicBool::new(false);
    let stream = client.netns.enter(|| connect_to(at))?;
    let stream = stream.map_err(LabError::io("connect with MPTCP"))?;
    let (served, _) = listener.accept().map_err(LabError::io("accept"))?;
    std::thread::scope(|scope| {
        let produced = scope.spawn(move || traffic::produce(served, ended, PATIENCE));
        let consumed = scope.spawn(|| traffic::consume(&stream));
        sleep(calm);
        let broken = Instant::now();
        let done = fail().map(|()| sleep(effect));
        // The stream ends on what is left; the dead path comes back for the next.
        ended.store(true, Ordering::Release);
        let sent = join(produced)?.map_err(LabError::io("send with MPTCP"))?;
        let mended = mend();
        let (got, times) = join(consumed)?.map_err(LabError::io("receive with MPTCP"))?;
        done.and(mended)?;
        Ok(Trial { sent, got, gap: traffic::gap(&times, broken, broken + effect) })
    })
}
