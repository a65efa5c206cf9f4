//! The kernel's own way over several paths: sockets of MPTCP.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, Protocol, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

use super::LabError;
use super::scenario::pause;
use super::topology::Machine;
use super::traffic::{self, PATIENCE, Sum, join};

/// `IPPROTO_MPTCP` of linux/in.h.
const MPTCP: u32 = 262;

fn socket(at: SocketAddr) -> io::Result<OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let protocol = NonZeroU32::new(MPTCP).map(Protocol::from_raw);
    Ok(socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, protocol)?)
}

/// A stream of which nothing gets off for so long goes by no path any more.
const STUCK: Duration = Duration::from_secs(5);

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
    /// Nothing, if it got stuck and was given up.
    pub(super) sent: Option<Sum>,
    pub(super) got: Sum,
    /// The longest time in which nothing came.
    pub(super) gap: Duration,
}

/// Streams to `client` from the listener at `at`; after `calm`, `fail` happens and lasts `effect`. A
/// signal ends it early.
pub(super) fn stream(
    client: &Machine,
    (listener, at): (&TcpListener, SocketAddr),
    (calm, effect, stop): (Duration, Duration, &AtomicBool),
    fail: impl FnOnce() -> Result<(), LabError>,
    mend: impl FnOnce() -> Result<(), LabError>,
) -> Result<Trial, LabError> {
    let ended = &AtomicBool::new(false);
    let stream = client.netns.enter(|| connect_to(at))?;
    let stream = stream.map_err(LabError::io("connect with MPTCP"))?;
    let (served, _) = listener.accept().map_err(LabError::io("accept"))?;
    served.set_write_timeout(Some(STUCK)).map_err(LabError::io("set a timeout"))?;
    let ends = (&served, &stream);
    std::thread::scope(|scope| {
        let produced = scope.spawn(move || traffic::produce(ends.0, ended, PATIENCE));
        let consumed = scope.spawn(move || traffic::consume(ends.1));
        let calmed = pause(calm, stop);
        let broken = Instant::now();
        let done = calmed.and_then(|()| fail()).and_then(|()| pause(effect, stop));
        ended.store(true, Ordering::Release);
        if let Err(e) = done {
            give_up(ends);
            return mend().and(Err(e));
        }
        // The stream ends on what is left; the dead path comes back for the next.
        let Ok(sent) = join(produced)? else {
            give_up(ends);
            let silent = broken.elapsed();
            return mend().map(|()| Trial { sent: None, got: Sum::default(), gap: silent });
        };
        // The threads only borrow it: nobody else says that this was all.
        let _ = served.shutdown(Shutdown::Write);
        let mended = mend();
        let (got, times) = join(consumed)?.map_err(LabError::io("receive with MPTCP"))?;
        mended?;
        let gap = traffic::gap(&times, broken, broken + effect);
        Ok(Trial { sent: Some(sent), got, gap })
    })
}

/// Whoever waits for data of the stream waits no longer.
fn give_up((served, stream): (&TcpStream, &TcpStream)) {
    for end in [served, stream] {
        // One that has ended already is all right.
        let _ = end.shutdown(Shutdown::Both);
    }
}
