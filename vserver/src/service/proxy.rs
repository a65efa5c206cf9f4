//! Forwards a vserver's connection to a local socket of the kernel, both ways, with backpressure
//! and half-close.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;

use bytes::{Buf, Bytes};
use mio::event::Source;
use mio::net::{TcpStream as KernelTcp, UnixStream as KernelUnix};
use mio::{Interest, Registry, Token};
use rustix::net::sockopt;

use super::connection::{TURN_BYTES, Turn};
use super::counters::Counters;
use crate::config::ProxyTarget;
use crate::net::TcpStream;

/// Bytes taken from the client before they are written to the kernel in one call.
const GATHER_BYTES: usize = 256 << 10;
/// Pieces written in one call.
const GATHER_PIECES: usize = 64;

/// The kernel's side of a forwarded connection.
#[derive(Debug)]
pub(super) struct Proxy {
    kernel: Kernel,
    connected: bool,
    /// By edges: what the kernel's socket was ready for last.
    pub(super) kernel_readable: bool,
    pub(super) kernel_writable: bool,
    /// From the client, not yet taken by the kernel.
    up: VecDeque<Bytes>,
    up_bytes: usize,
    client_ended: bool,
    kernel_shut: bool,
    /// From the kernel, not yet taken by the client's socket.
    down: Bytes,
    kernel_ended: bool,
    client_shut: bool,
}

#[derive(Debug)]
enum Kernel {
    Tcp(KernelTcp),
    Unix(KernelUnix),
}

impl Proxy {
    /// Starts to connect.
    pub(super) fn connect(target: &ProxyTarget) -> io::Result<Proxy> {
        let kernel = match target {
            ProxyTarget::Tcp(addr) => {
                let stream = KernelTcp::connect(*addr)?;
                stream.set_nodelay(true)?;
                Kernel::Tcp(stream)
            }
            // Until its name is resolved there is nowhere to go.
            ProxyTarget::Named(..) => return Err(io::ErrorKind::AddrNotAvailable.into()),
            ProxyTarget::Unix(path) => Kernel::Unix(KernelUnix::connect(path)?),
        };
        Ok(Proxy {
            kernel,
            connected: false,
            kernel_readable: false,
            kernel_writable: false,
            up: VecDeque::new(),
            up_bytes: 0,
            client_ended: false,
            kernel_shut: false,
            down: Bytes::new(),
            kernel_ended: false,
            client_shut: false,
        })
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.kernel.source().register(registry, token, Interest::READABLE | Interest::WRITABLE)
    }

    pub(super) fn deregister(&mut self, registry: &Registry) {
        // Closing the descriptor, which follows, does the same.
        let _ = self.kernel.source().deregister(registry);
    }

    /// One turn; `ready` is what the client's socket is ready for (read, write).
    pub(super) fn advance(
        &mut self,
        client: &TcpStream,
        ready: &mut (bool, bool),
        counters: &Counters,
        scratch: &mut [u8],
    ) -> io::Result<Turn> {
        if !self.connected {
            match self.finish_connect() {
                Ok(true) => self.connected = true,
                Ok(false) => return Ok(Turn::Wait),
                Err(_) => {
                    counters.connect_failed.add(1);
                    client.abort();
                    return Ok(Turn::Over);
                }
            }
        }
        let turn = self.forward(client, ready, counters, scratch);
        if turn.is_err() {
            // Neither side may take a failure of the other for an end of the data.
            client.abort();
            self.kernel.reset_on_close();
        }
        turn
    }

    /// Closing the client's side failed or timed out: the server sees a reset.
    pub(super) fn abort(&mut self) {
        self.kernel.reset_on_close();
    }

    fn finish_connect(&mut self) -> io::Result<bool> {
        if !self.kernel_writable {
            return Ok(false);
        }
        let connected = match &self.kernel {
            Kernel::Tcp(s) => s.take_error()?.map_or_else(|| s.peer_addr().map(|_| ()), Err),
            Kernel::Unix(s) => s.take_error()?.map_or_else(|| s.peer_addr().map(|_| ()), Err),
        };
        match connected {
            Ok(()) => Ok(true),
            // A writable event from before the connection was made.
            Err(e) if e.kind() == io::ErrorKind::NotConnected => {
                self.kernel_writable = false;
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    fn forward(
        &mut self,
        client: &TcpStream,
        ready: &mut (bool, bool),
        counters: &Counters,
        scratch: &mut [u8],
    ) -> io::Result<Turn> {
        let mut moved = 0;
        loop {
            let now = self.forward_up(client, &mut ready.0, counters)?
                + self.forward_down(client, &mut ready.1, counters, scratch)?;
            if self.kernel_shut && self.client_shut {
                return Ok(Turn::Over);
            }
            moved += now;
            match now {
                0 => return Ok(Turn::Wait),
                _ if moved >= TURN_BYTES => return Ok(Turn::Again),
                _ => {}
            }
        }
    }

    /// Client to kernel; returns the bytes and ends that moved.
    fn forward_up(
        &mut self,
        client: &TcpStream,
        readable: &mut bool,
        counters: &Counters,
    ) -> io::Result<usize> {
        let mut moved = 0;
        while *readable && !self.client_ended && self.up_bytes < GATHER_BYTES {
            match client.recv_bytes(GATHER_BYTES - self.up_bytes) {
                Ok(data) if data.is_empty() => {
                    self.client_ended = true;
                    moved += 1;
                }
                Ok(data) => {
                    counters.in_bytes.add(data.len() as u64);
                    moved += data.len();
                    self.up_bytes += data.len();
                    self.up.push_back(data);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => *readable = false,
                Err(e) => return Err(e),
            }
        }
        while self.kernel_writable && !self.up.is_empty() {
            let pieces: Vec<IoSlice> =
                self.up.iter().take(GATHER_PIECES).map(|b| IoSlice::new(b)).collect();
            match self.kernel.write_vectored(&pieces) {
                Ok(n) => {
                    drop(pieces);
                    self.taken(n);
                    moved += n;
                }
                Err(e) => self.kernel_writable = blocked(e)?,
            }
        }
        if self.client_ended && self.up.is_empty() && !self.kernel_shut {
            self.kernel.shutdown()?;
            self.kernel_shut = true;
            moved += 1;
        }
        Ok(moved)
    }

    fn taken(&mut self, mut n: usize) {
        self.up_bytes -= n;
        while let Some(front) = self.up.front_mut() {
            if n < front.len() {
                front.advance(n);
                return;
            }
            n -= front.len();
            self.up.pop_front();
        }
    }

    /// Kernel to client; returns the bytes and ends that moved.
    fn forward_down(
        &mut self,
        client: &TcpStream,
        writable: &mut bool,
        counters: &Counters,
        scratch: &mut [u8],
    ) -> io::Result<usize> {
        let mut moved = 0;
        while *writable && moved < TURN_BYTES {
            if !self.down.is_empty() {
                match client.send_bytes(&mut self.down) {
                    Ok(n) => {
                        counters.out_bytes.add(n as u64);
                        moved += n;
                    }
                    Err(e) => *writable = blocked(e)?,
                }
                continue;
            }
            if !self.kernel_readable || self.kernel_ended {
                break;
            }
            match self.kernel.read(scratch) {
                Ok(0) => {
                    self.kernel_ended = true;
                    moved += 1;
                }
                Ok(n) => match (&mut &*client).write(&scratch[..n]) {
                    Ok(taken) => {
                        counters.out_bytes.add(taken as u64);
                        moved += n;
                        self.down = Bytes::copy_from_slice(&scratch[taken..n]);
                    }
                    Err(e) => {
                        *writable = blocked(e)?;
                        moved += n;
                        self.down = Bytes::copy_from_slice(&scratch[..n]);
                    }
                },
                Err(e) => self.kernel_readable = blocked(e)?,
            }
        }
        if self.kernel_ended && self.down.is_empty() && !self.client_shut {
            client.shutdown(Shutdown::Write)?;
            self.client_shut = true;
            moved += 1;
        }
        Ok(moved)
    }
}

/// `WouldBlock` is `Ok(false)`: not ready any more. An interrupted call may be repeated at once.
fn blocked(e: io::Error) -> io::Result<bool> {
    match e.kind() {
        io::ErrorKind::WouldBlock => Ok(false),
        io::ErrorKind::Interrupted => Ok(true),
        _ => Err(e),
    }
}

impl Kernel {
    fn source(&mut self) -> &mut dyn Source {
        match self {
            Kernel::Tcp(s) => s,
            Kernel::Unix(s) => s,
        }
    }

    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Kernel::Tcp(s) => s.read(buf),
            Kernel::Unix(s) => s.read(buf),
        }
    }

    fn write_vectored(&mut self, pieces: &[IoSlice]) -> io::Result<usize> {
        match self {
            Kernel::Tcp(s) => s.write_vectored(pieces),
            Kernel::Unix(s) => s.write_vectored(pieces),
        }
    }

    fn shutdown(&self) -> io::Result<()> {
        match self {
            Kernel::Tcp(s) => s.shutdown(Shutdown::Write),
            Kernel::Unix(s) => s.shutdown(Shutdown::Write),
        }
    }

    fn reset_on_close(&self) {
        if let Kernel::Tcp(s) = self {
            // Without it the server sees an end instead of a reset, and nothing worse.
            let _ = sockopt::set_socket_linger(s, Some(std::time::Duration::ZERO));
        }
    }
}
