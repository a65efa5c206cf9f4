//! TCP listeners and connections.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use weft_stack::frame::PoolBuf;
use weft_stack::shard::flow_owner;
use weft_stack::socket::SocketId;
use weft_stack::socket::TcpOptions;
use weft_stack::socket::tcp::{
    Accepted, ShutdownHow, TcpInfo, TcpOption, TcpRecvError, TcpSendError, TcpState,
};

use super::socket::{
    Direction, Socket, connect_error, listen_error, not_connected, readiness_faces, tcp_error,
};
use crate::Vserver;
use crate::arrival::Arrival;
use crate::connect::Form;
use crate::runtime::{Node, Notify, Wait};

/// Bytes copied under the worker's lock in one go.
const COPY_BYTES_MAX: usize = 256 << 10;
/// Ports tried for a listener that may have any.
const PORTS_TRIED: usize = 64;

/// A listening socket of a vserver.
///
/// With several workers it listens on each, and each has its part of the backlog; a connection
/// stays on the worker that its addresses and ports choose.
#[derive(Debug)]
pub struct TcpListener {
    pub(super) socket: Socket,
    /// Accepts so far: whose turn it is to be asked first.
    accepted: AtomicUsize,
}

impl TcpListener {
    /// Listens on `addr` with a backlog of 1024. An unspecified address takes connections to every
    /// address of the vserver (`[::]` takes IPv4 too); port 0 picks a free one.
    ///
    /// Errors: `AddrInUse`, `AddrNotAvailable`, `QuotaExceeded` (limit of the vserver).
    pub fn bind(vserver: &Vserver, addr: SocketAddr) -> io::Result<TcpListener> {
        TcpListener::bind_with_backlog(vserver, addr, 1024)
    }

    /// As [`TcpListener::bind`], with at most `backlog` connections that wait to be accepted.
    pub fn bind_with_backlog(
        vserver: &Vserver,
        addr: SocketAddr,
        backlog: usize,
    ) -> io::Result<TcpListener> {
        let mut tries = if addr.port() == 0 { PORTS_TRIED } else { 1 };
        loop {
            tries -= 1;
            match TcpListener::listen_everywhere(vserver, addr, backlog) {
                // The port was free on the first worker only.
                Err(e) if e.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
                done => return done,
            }
        }
    }

    fn listen_everywhere(
        vserver: &Vserver,
        mut addr: SocketAddr,
        backlog: usize,
    ) -> io::Result<TcpListener> {
        let places = vserver.places();
        let (first, count) = (places.start, places.len());
        let backlog = backlog.div_ceil(count);
        let notify = Arc::new(if count > 1 { Notify::of_several() } else { Notify::default() });
        let open = |worker, addr| {
            Socket::make(vserver, worker, &notify, |node, now| {
                node.stack.tcp_listen(now, addr, backlog).map_err(listen_error)
            })
        };
        let socket = Socket::adopt(vserver, first, open(first, addr)?, Arc::clone(&notify));
        let mut listener = TcpListener { socket, accepted: AtomicUsize::new(0) };
        addr.set_port(listener.local_addr()?.port());
        for worker in places.skip(1) {
            listener.socket.twins.push((worker, open(worker, addr)?));
        }
        Ok(listener)
    }

    /// Takes the oldest established connection and its peer; blocks unless non-blocking. The
    /// stream is blocking.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        if !self.socket.twins.is_empty() {
            return self.accept_anywhere();
        }
        let (accepted, notify) = self.socket.wait(Direction::Read, |node, _| {
            let accepted = node.stack.tcp_accept(self.socket.id)?;
            Some(Ok((accepted, Socket::watch(node, accepted.id))))
        })?;
        Ok(self.accepted_on(self.socket.worker, accepted, notify))
    }

    fn accepted_on(
        &self,
        worker: usize,
        accepted: Accepted,
        notify: Arc<Notify>,
    ) -> (TcpStream, SocketAddr) {
        let socket = Socket::adopt(&self.socket.vserver, worker, accepted.id, notify);
        (TcpStream { socket: Arc::new(socket) }, accepted.peer)
    }

    fn accept_anywhere(&self) -> io::Result<(TcpStream, SocketAddr)> {
        // Each worker is first in turn, so that none starves.
        let first = self.accepted.fetch_add(1, Ordering::Relaxed);
        let take = |node: &mut Node, id| {
            let accepted = node.stack.tcp_accept(id)?;
            Some(Ok((accepted, Socket::watch(node, accepted.id))))
        };
        let (worker, (accepted, notify)) = self.socket.wait_anywhere(first, take)?;
        Ok(self.accepted_on(worker, accepted, notify))
    }

    /// The bound address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let addrs = self.socket.peek(|node| node.stack.tcp_addrs(self.socket.id))?;
        addrs.map(|a| a.0).ok_or_else(not_connected)
    }

    /// Switches blocking off or on.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.socket.set_nonblocking(nonblocking);
        Ok(())
    }

    /// The options that accepted connections inherit.
    pub fn options(&self) -> io::Result<TcpOptions> {
        let options = self.socket.peek(|node| node.stack.tcp_options(self.socket.id))?;
        options.ok_or_else(not_connected)
    }

    /// Sets an option that accepted connections inherit.
    pub fn set_option(&self, option: TcpOption) -> io::Result<()> {
        for (worker, id) in self.socket.places() {
            let set = self
                .socket
                .call_on(worker, |node, now| node.stack.tcp_set_option(now, id, option))?;
            if !set {
                return Err(not_connected());
            }
        }
        Ok(())
    }
}

fn set_option(socket: &Socket, option: TcpOption) -> io::Result<()> {
    let set = socket.call(|node, now| node.stack.tcp_set_option(now, socket.id, option))?;
    if set { Ok(()) } else { Err(not_connected()) }
}

/// How [`TcpStream::connect_with`] connects; the default is what [`TcpStream::connect`] does.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpConnect<'a> {
    /// From this address and port; port 0 picks a free one. `None`: chosen (RFC 6724).
    pub local: Option<SocketAddr>,
    /// Set before the SYN leaves, which matters for [`TcpOption::RecvBuffer`] (the window scale),
    /// [`TcpOption::MaxSegment`] and [`TcpOption::TrafficClass`].
    pub options: &'a [TcpOption],
    /// The first data. If the vserver has `fast_open` (`"client"` or `"both"`) and the peer gave a
    /// cookie before, it goes with the SYN (RFC 7413), which saves a round trip; the peer's
    /// application may then see it twice. Otherwise it follows the handshake.
    pub data: &'a [u8],
    /// Give up with `TimedOut` after this time; `None`: when TCP does.
    pub timeout: Option<Duration>,
    /// The kind of application, which the vserver's `connect` table may treat in its own way.
    pub class: Option<&'a str>,
    /// How far alternatives go, whatever that table says. Data then follows the handshake.
    pub form: Option<Form>,
}

/// A TCP connection of a vserver. Dropping the last clone closes it; what was written is still
/// delivered in the background.
#[derive(Debug)]
pub struct TcpStream {
    pub(super) socket: Arc<Socket>,
}

impl TcpStream {
    /// Connects, blocking until the peer answered or the attempt failed.
    ///
    /// Errors: `ConnectionRefused`, `TimedOut`, `NetworkUnreachable`, `HostUnreachable`,
    /// `AddrNotAvailable`, `AddrInUse`, `QuotaExceeded`, `InvalidInput`.
    pub fn connect(vserver: &Vserver, addr: SocketAddr) -> io::Result<TcpStream> {
        let how = TcpConnect::default();
        TcpStream::connect_with(vserver, addr, how).map(|(stream, _)| stream)
    }

    /// As [`TcpStream::connect`], giving up with `TimedOut` after `timeout`.
    pub fn connect_timeout(
        vserver: &Vserver,
        addr: SocketAddr,
        timeout: Duration,
    ) -> io::Result<TcpStream> {
        let how = TcpConnect { timeout: Some(timeout), ..TcpConnect::default() };
        TcpStream::connect_with(vserver, addr, how).map(|(stream, _)| stream)
    }

    /// As [`TcpStream::connect`], with options and first data. Returns too how many bytes of `data`
    /// fitted the send buffer: the rest is for the caller to write.
    pub fn connect_with(
        vserver: &Vserver,
        addr: SocketAddr,
        how: TcpConnect<'_>,
    ) -> io::Result<(TcpStream, usize)> {
        if let Some(done) = TcpStream::connect_over_alternatives(vserver, addr, how) {
            return done;
        }
        let wait = how.timeout.map_or(Wait::Forever, Wait::at_most);
        let (stream, taken) = TcpStream::start_connect_with(vserver, addr, how)?;
        let id = stream.socket.id;
        let done = stream.socket.wait_for(wait, |node, _| match node.stack.tcp_state(id) {
            TcpState::SynSent | TcpState::SynReceived => None,
            state => Some(match node.stack.tcp_take_error(id) {
                Some(e) => Err(tcp_error(e)),
                None if state == TcpState::Closed => Err(io::ErrorKind::ConnectionAborted.into()),
                None => Ok(()),
            }),
        });
        match done {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
            Err(e) => Err(e),
            Ok(()) => {
                stream.socket.set_nonblocking(false);
                Ok((stream, taken))
            }
        }
    }

    /// Starts a connection, from `local` if given, and returns at once a non-blocking stream. It
    /// becomes writable when the handshake is over; then [`TcpStream::take_error`] tells how. Where
    /// the vserver's `connect` table wants alternatives they are tried meanwhile, without DNS: the
    /// addresses of the stream are known when it is writable.
    pub fn start_connect(
        vserver: &Vserver,
        local: Option<SocketAddr>,
        addr: SocketAddr,
    ) -> io::Result<TcpStream> {
        let how = TcpConnect { local, ..TcpConnect::default() };
        TcpStream::start_connect_with(vserver, addr, how).map(|(stream, _)| stream)
    }

    /// As [`TcpStream::start_connect`], with options and first data; `timeout` is not used. Returns
    /// too how many bytes of `data` fitted the send buffer.
    pub fn start_connect_with(
        vserver: &Vserver,
        addr: SocketAddr,
        how: TcpConnect<'_>,
    ) -> io::Result<(TcpStream, usize)> {
        if let Some(raced) = TcpStream::start_over_alternatives(vserver, addr, how) {
            return raced.map(|stream| (stream, 0));
        }
        start_somewhere(vserver, addr, how, |worker| {
            TcpStream::start_on(vserver, worker, addr, how)
        })
    }

    /// Starts an attempt whose events go to `notify`; where it is.
    pub(crate) fn start_watched(
        vserver: &Vserver,
        addr: SocketAddr,
        how: TcpConnect<'_>,
        notify: &Arc<Notify>,
    ) -> io::Result<(usize, SocketId)> {
        start_somewhere(vserver, addr, how, |worker| {
            let id = Socket::make(vserver, worker, notify, |node, now| {
                let started = node.stack.tcp_connect(now, how.local, addr);
                let id = started.map_err(connect_error)?;
                for option in how.options {
                    node.stack.tcp_set_option(now, id, *option);
                }
                Ok(id)
            })?;
            Ok((worker, id))
        })
    }

    /// Queues the first data of a connection that just came to be; returns how many bytes fitted.
    pub(crate) fn write_first(self, data: &[u8]) -> io::Result<(TcpStream, usize)> {
        if data.is_empty() {
            return Ok((self, 0));
        }
        let queued = self.socket.call(|node, now| node.stack.tcp_send(now, self.id(), data))?;
        let taken = queued.unwrap_or(0);
        Ok((self, taken))
    }

    fn start_on(
        vserver: &Vserver,
        worker: usize,
        addr: SocketAddr,
        how: TcpConnect<'_>,
    ) -> io::Result<(TcpStream, usize)> {
        let mut taken = 0;
        let connect = |node: &mut Node, now| {
            let started = node.stack.tcp_connect_with(now, how.local, addr, how.data);
            let (id, queued) = started.map_err(connect_error)?;
            taken = queued;
            // The SYN leaves when this is done, so that it shows them.
            for option in how.options {
                node.stack.tcp_set_option(now, id, *option);
            }
            Ok(id)
        };
        let socket = Socket::open(vserver, worker, connect)?;
        socket.set_nonblocking(true);
        Ok((TcpStream { socket: Arc::new(socket) }, taken))
    }

    /// A stream of a socket that is watched already.
    pub(crate) fn of(socket: Socket) -> TcpStream {
        TcpStream { socket: Arc::new(socket) }
    }

    /// The vserver that the connection belongs to, the alias it came in on or leaves by, and our
    /// address. `NotConnected` when the connection is gone.
    pub fn arrival(&self) -> io::Result<Arrival> {
        let found = self.socket.peek(|node| node.stack.tcp_arrival(self.id()))?;
        let (alias, local) = found.ok_or_else(not_connected)?;
        Ok(Arrival { vserver: self.socket.vserver.id(), alias, local })
    }

    /// The vserver that the connection belongs to.
    pub fn vserver(&self) -> &Vserver {
        &self.socket.vserver
    }

    fn id(&self) -> SocketId {
        self.socket.id
    }

    /// Takes at most `max` received bytes without copying; empty at the end of the stream.
    pub fn recv_bytes(&self, max: usize) -> io::Result<Bytes> {
        self.socket.wait(Direction::Read, |node, now| {
            received(node.stack.tcp_recv_bytes(now, self.id(), max))
        })
    }

    /// A buffer of `len` bytes in the memory that this stream's worker sends from: written, frozen
    /// and sent with [`TcpStream::send_bytes`] it is copied no more. `None`: longer than a frame of
    /// the device, or the vserver holds its share (`app_frames`) already; then send by copying.
    pub fn alloc(&self, len: usize) -> Option<PoolBuf> {
        let worker = self.socket.vserver.worker(self.socket.worker);
        worker.peek(self.socket.vserver.node(), |node| node.stack.alloc(len)).ok()?
    }

    /// Queues `data` without copying. Blocking: all of it; non-blocking: takes what fits off its
    /// front, `WouldBlock` if that is nothing. Returns the bytes taken.
    pub fn send_bytes(&self, data: &mut Bytes) -> io::Result<usize> {
        let mut total = 0;
        while !data.is_empty() {
            let sent = self.socket.wait(Direction::Write, |node, now| {
                sent(node.stack.tcp_send_bytes(now, self.id(), data))
            });
            match sent {
                Ok(n) => total += n,
                Err(_) if total > 0 => break,
                Err(e) => return Err(e),
            }
            if self.socket.is_nonblocking() {
                break;
            }
        }
        Ok(total)
    }

    /// Shuts a half down: `Write` sends FIN after what was written.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let how = match how {
            Shutdown::Read => ShutdownHow::Read,
            Shutdown::Write => ShutdownHow::Write,
            Shutdown::Both => ShutdownHow::Both,
        };
        self.socket.call(|node, now| {
            // No other attempt would know of it.
            node.races.give_up(&mut node.stack, now, self.id());
            node.stack.tcp_shutdown(now, self.id(), how);
        })
    }

    /// Resets the connection.
    pub fn abort(&self) {
        // After the host stopped there is nothing left to reset.
        let _ = self.socket.call(|node, now| node.stack.tcp_abort(now, self.id()));
    }

    /// Switches blocking off or on, for all clones.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.socket.set_nonblocking(nonblocking);
        Ok(())
    }

    /// Copies received bytes out and leaves them to be read; 0 at the end of the stream.
    pub fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.wait(Direction::Read, |node, _| received(node.stack.tcp_peek(self.id(), buf)))
    }

    /// Writes, and says that more follows soon: what is short of a full segment waits for the next
    /// write, but no longer than 200 ms (`MSG_MORE`).
    pub fn write_more(&self, buf: &[u8]) -> io::Result<usize> {
        let len = buf.len().min(COPY_BYTES_MAX);
        self.socket.wait(Direction::Write, |node, now| {
            sent(node.stack.tcp_send_more(now, self.id(), &buf[..len]))
        })
    }

    /// Writes, and announces the end of what was taken as urgent (`MSG_OOB`; see RFC 6093 for why
    /// new protocols should not).
    pub fn write_urgent(&self, buf: &[u8]) -> io::Result<usize> {
        let len = buf.len().min(COPY_BYTES_MAX);
        self.socket.wait(Direction::Write, |node, now| {
            sent(node.stack.tcp_send_urgent(now, self.id(), &buf[..len]))
        })
    }

    /// Bytes to read before the end of the peer's urgent data; `None`: none is announced.
    pub fn urgent_left(&self) -> io::Result<Option<usize>> {
        self.socket.peek(|node| node.stack.tcp_urgent(self.id()))
    }

    /// Whether the next byte to read is the first behind the peer's urgent data (`SIOCATMARK`).
    pub fn is_at_mark(&self) -> io::Result<bool> {
        self.socket.peek(|node| node.stack.tcp_at_mark(self.id()))
    }

    /// Sends small segments at once (Nagle off).
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.set_option(TcpOption::NoDelay(nodelay))
    }

    /// Whether Nagle is off.
    pub fn nodelay(&self) -> io::Result<bool> {
        Ok(self.options()?.nodelay)
    }

    /// TTL or hop limit of what is sent, from 1.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        let limit = u8::try_from(ttl).ok().filter(|limit| *limit > 0);
        let limit = limit.ok_or(io::ErrorKind::InvalidInput)?;
        self.set_option(TcpOption::HopLimit(Some(limit)))
    }

    /// TTL or hop limit of what is sent.
    pub fn ttl(&self) -> io::Result<u32> {
        Ok(u32::from(self.options()?.hop_limit.unwrap_or(64)))
    }

    /// What a close does: `None` delivers in the background, a time ends that with a reset, zero
    /// resets at once. Closing never blocks.
    pub fn set_linger(&self, linger: Option<Duration>) -> io::Result<()> {
        self.set_option(TcpOption::Linger(linger))
    }

    /// What a close waits for.
    pub fn linger(&self) -> io::Result<Option<Duration>> {
        Ok(self.options()?.linger)
    }

    /// All options as they are now; buffers as tuned.
    pub fn options(&self) -> io::Result<TcpOptions> {
        self.socket.peek(|node| node.stack.tcp_options(self.id()))?.ok_or_else(not_connected)
    }

    /// The connection's inner state (`TCP_INFO`).
    pub fn info(&self) -> io::Result<TcpInfo> {
        let info = self.socket.call(|node, now| node.stack.tcp_info(now, self.id()))?;
        info.ok_or_else(not_connected)
    }

    /// Sets an option. Before the handshake, on a stream of [`TcpStream::start_connect`], buffer and
    /// segment size decide what is offered to the peer.
    pub fn set_option(&self, option: TcpOption) -> io::Result<()> {
        set_option(&self.socket, option)
    }

    /// How long a blocking read waits; then `WouldBlock`, as the standard library's on Unix.
    /// `None`: for ever.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_timeout(Direction::Read, timeout)
    }

    /// How long a blocking write waits; then `WouldBlock`. `None`: for ever.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_timeout(Direction::Write, timeout)
    }

    fn addrs(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        let addrs = self.socket.peek(|node| node.stack.tcp_addrs(self.id()))?;
        addrs.ok_or_else(not_connected)
    }

    /// Our address. `NotConnected` when the connection is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addrs()?.0)
    }

    /// The peer's address. `NotConnected` when the connection is gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addrs()?.1)
    }

    /// State of the connection (RFC 9293 3.3.2).
    pub fn state(&self) -> TcpState {
        let state = self.socket.peek(|node| node.stack.tcp_state(self.id()));
        state.unwrap_or(TcpState::Closed)
    }

    /// Takes the pending error.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        let error = self.socket.peek(|node| node.stack.tcp_take_error(self.id()))?;
        Ok(error.map(tcp_error))
    }

    /// Another handle on the same connection; they share its mode and timeouts.
    pub fn try_clone(&self) -> io::Result<TcpStream> {
        Ok(TcpStream { socket: Arc::clone(&self.socket) })
    }
}

/// Starts a connection on the worker that is to have it, or another one if that has no room: each
/// has a part of the ephemeral ports, and of the limit.
pub(crate) fn start_somewhere<R>(
    vserver: &Vserver,
    addr: SocketAddr,
    how: TcpConnect<'_>,
    mut start: impl FnMut(usize) -> io::Result<R>,
) -> io::Result<R> {
    let mut tries = vserver.places().len();
    let mut worker = connect_worker(vserver, how.local, addr)?;
    loop {
        tries -= 1;
        match start(worker) {
            Err(e) if tries > 0 && may_try_elsewhere(&e, how.local) => {
                worker = (worker + 1) % vserver.workers().len();
            }
            done => return done,
        }
    }
}

/// The worker for a new connection: in turn, or the one that the local port leads to.
fn connect_worker(
    vserver: &Vserver,
    local: Option<SocketAddr>,
    remote: SocketAddr,
) -> io::Result<usize> {
    let count = vserver.workers().len();
    let spread = vserver.places().len() > 1;
    let Some(local) = local.filter(|l| spread && l.port() != 0) else {
        return Ok(vserver.next_worker());
    };
    let wanted = Some(local.ip()).filter(|ip| !ip.is_unspecified());
    let source = |node: &mut Node| node.stack.source_for(wanted, remote.ip());
    let source = vserver.worker(0).peek(vserver.node(), source)?;
    let from = SocketAddr::new(source.unwrap_or(local.ip()), local.port());
    Ok(flow_owner(from, remote, count as u16).into())
}

/// Whether another worker may have what one had no more: ports, connections.
fn may_try_elsewhere(error: &io::Error, local: Option<SocketAddr>) -> bool {
    let kind = error.kind();
    local.is_none_or(|l| l.port() == 0)
        && (kind == io::ErrorKind::AddrInUse || kind == io::ErrorKind::QuotaExceeded)
}

fn received<T>(result: Result<T, TcpRecvError>) -> Option<io::Result<T>> {
    match result {
        Ok(data) => Some(Ok(data)),
        Err(TcpRecvError::WouldBlock) => None,
        Err(TcpRecvError::Failed(e)) => Some(Err(tcp_error(e))),
        Err(_) => Some(Err(not_connected())),
    }
}

fn sent(result: Result<usize, TcpSendError>) -> Option<io::Result<usize>> {
    match result {
        Ok(n) => Some(Ok(n)),
        Err(TcpSendError::WouldBlock) => None,
        Err(TcpSendError::Failed(e)) => Some(Err(tcp_error(e))),
        Err(_) => Some(Err(io::ErrorKind::BrokenPipe.into())),
    }
}

impl TcpStream {
    fn fill(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        if bufs.iter().all(|b| b.is_empty()) {
            return Ok(0);
        }
        self.socket.wait(Direction::Read, |node, now| {
            let mut total = 0;
            for buf in bufs.iter_mut().filter(|b| !b.is_empty()) {
                let len = buf.len().min(COPY_BYTES_MAX - total);
                let n = match node.stack.tcp_recv(now, self.id(), &mut buf[..len]) {
                    Ok(n) => n,
                    Err(e) if total == 0 => return received(Err(e)),
                    // What the next call tells again.
                    Err(_) => break,
                };
                total += n;
                // There was no more, or it stops at urgent data.
                if n < buf.len() {
                    break;
                }
            }
            Some(Ok(total))
        })
    }

    fn drain(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        if bufs.iter().all(|b| b.is_empty()) {
            return Ok(0);
        }
        let last = bufs.iter().rposition(|b| !b.is_empty());
        self.socket.wait(Direction::Write, |node, now| {
            let mut total = 0;
            for (i, buf) in bufs.iter().enumerate().filter(|(_, b)| !b.is_empty()) {
                let len = buf.len().min(COPY_BYTES_MAX - total);
                // More follows in this call: no segment ends where a piece does.
                let taken = if Some(i) == last {
                    node.stack.tcp_send(now, self.id(), &buf[..len])
                } else {
                    node.stack.tcp_send_more(now, self.id(), &buf[..len])
                };
                let n = match taken {
                    Ok(n) => n,
                    Err(e) if total == 0 => return sent(Err(e)),
                    Err(_) => break,
                };
                total += n;
                if n < buf.len() {
                    break;
                }
            }
            Some(Ok(total))
        })
    }
}

impl Read for &TcpStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let len = buf.len().min(COPY_BYTES_MAX);
        self.socket.wait(Direction::Read, |node, now| {
            received(node.stack.tcp_recv(now, self.id(), &mut buf[..len]))
        })
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.fill(bufs)
    }
}

impl Write for &TcpStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let len = buf.len().min(COPY_BYTES_MAX);
        self.socket.wait(Direction::Write, |node, now| {
            sent(node.stack.tcp_send(now, self.id(), &buf[..len]))
        })
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.drain(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for TcpStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buf)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.fill(bufs)
    }
}

impl Write for TcpStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self).write(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.drain(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

readiness_faces!(TcpListener);
readiness_faces!(TcpStream);
