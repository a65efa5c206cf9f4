//! TCP listeners and connections.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use mio::{Interest, Registry, Token};
use weft_stack::socket::tcp::{TcpOption, TcpState};

use super::poller::{Pollable, sealed::Sealed};
use crate::Vserver;

/// A listening socket of a vserver.
#[derive(Debug)]
pub struct TcpListener {}

impl TcpListener {
    /// Listens on `addr` with a backlog of 1024. An unspecified address takes connections to every
    /// address of the vserver (`[::]` takes IPv4 too); port 0 picks a free one.
    ///
    /// Errors: `AddrInUse`, `AddrNotAvailable`, `OutOfMemory` (limit of the vserver).
    pub fn bind(vserver: &Vserver, addr: SocketAddr) -> io::Result<TcpListener> {
        TcpListener::bind_with_backlog(vserver, addr, 1024)
    }

    /// As [`TcpListener::bind`], with at most `backlog` connections that wait to be accepted.
    pub fn bind_with_backlog(
        vserver: &Vserver,
        addr: SocketAddr,
        backlog: usize,
    ) -> io::Result<TcpListener> {
        let _ = (vserver, addr, backlog);
        todo!()
    }

    /// Takes the oldest established connection and its peer; blocks unless non-blocking. The
    /// stream is blocking.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        todo!()
    }

    /// The bound address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        todo!()
    }

    /// Switches blocking off or on.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        let _ = nonblocking;
        todo!()
    }

    /// Sets an option that accepted connections inherit.
    pub fn set_option(&self, option: TcpOption) -> io::Result<()> {
        let _ = option;
        todo!()
    }
}

/// A TCP connection of a vserver. Dropping the last clone closes it; what was written is still
/// delivered in the background.
#[derive(Debug)]
pub struct TcpStream {}

impl TcpStream {
    /// Connects, blocking until the peer answered or the attempt failed.
    ///
    /// Errors: `ConnectionRefused`, `TimedOut`, `NetworkUnreachable`, `HostUnreachable`,
    /// `AddrNotAvailable`, `InvalidInput`.
    pub fn connect(vserver: &Vserver, addr: SocketAddr) -> io::Result<TcpStream> {
        let _ = (vserver, addr);
        todo!()
    }

    /// As [`TcpStream::connect`], giving up with `TimedOut` after `timeout`.
    pub fn connect_timeout(
        vserver: &Vserver,
        addr: SocketAddr,
        timeout: Duration,
    ) -> io::Result<TcpStream> {
        let _ = (vserver, addr, timeout);
        todo!()
    }

    /// Starts a connection, from `local` if given, and returns at once a non-blocking stream. It
    /// becomes writable when the handshake is over; then [`TcpStream::take_error`] tells how.
    pub fn start_connect(
        vserver: &Vserver,
        local: Option<SocketAddr>,
        addr: SocketAddr,
    ) -> io::Result<TcpStream> {
        let _ = (vserver, local, addr);
        todo!()
    }

    /// Takes at most `max` received bytes without copying; empty at the end of the stream.
    pub fn recv_bytes(&self, max: usize) -> io::Result<Bytes> {
        let _ = max;
        todo!()
    }

    /// Queues `data` without copying. Blocking: all of it; non-blocking: takes what fits off its
    /// front, `WouldBlock` if that is nothing. Returns the bytes taken.
    pub fn send_bytes(&self, data: &mut Bytes) -> io::Result<usize> {
        let _ = data;
        todo!()
    }

    /// Shuts a half down: `Write` sends FIN after what was written.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let _ = how;
        todo!()
    }

    /// Resets the connection.
    pub fn abort(&self) {
        todo!()
    }

    /// Switches blocking off or on, for all clones.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        let _ = nonblocking;
        todo!()
    }

    /// Sends small segments at once (Nagle off).
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.set_option(TcpOption::NoDelay(nodelay))
    }

    /// Sets an option.
    pub fn set_option(&self, option: TcpOption) -> io::Result<()> {
        let _ = option;
        todo!()
    }

    /// How long a blocking read waits; then `WouldBlock`, as the standard library's on Unix.
    /// `None`: for ever.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        let _ = timeout;
        todo!()
    }

    /// How long a blocking write waits; then `WouldBlock`. `None`: for ever.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        let _ = timeout;
        todo!()
    }

    /// Our address. `NotConnected` when the connection is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        todo!()
    }

    /// The peer's address. `NotConnected` when the connection is gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        todo!()
    }

    /// State of the connection (RFC 9293 3.3.2).
    pub fn state(&self) -> TcpState {
        todo!()
    }

    /// Takes the pending error.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        todo!()
    }

    /// Another handle on the same connection.
    pub fn try_clone(&self) -> io::Result<TcpStream> {
        todo!()
    }
}

impl Read for &TcpStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let _ = buf;
        todo!()
    }
}

impl Write for &TcpStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let _ = buf;
        todo!()
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for TcpStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buf)
    }
}

impl Write for TcpStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self).write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

macro_rules! source_stub {
    ($t:ty) => {
        impl Sealed for $t {}
        impl Pollable for $t {}
        impl mio::event::Source for $t {
            fn register(&mut self, r: &Registry, token: Token, i: Interest) -> io::Result<()> {
                let _ = (r, token, i);
                todo!()
            }
            fn reregister(&mut self, r: &Registry, token: Token, i: Interest) -> io::Result<()> {
                let _ = (r, token, i);
                todo!()
            }
            fn deregister(&mut self, r: &Registry) -> io::Result<()> {
                let _ = r;
                todo!()
            }
        }
    };
}
pub(crate) use source_stub;
source_stub!(TcpListener);
source_stub!(TcpStream);
