//! Sockets of a host that serve all its vservers, or those of a group.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
pub use weft_stack::any::AnyFamily;
use weft_stack::any::{AnyPort, AnyPorts, AnyProtocol};
use weft_stack::shard::port_owner;
use weft_stack::socket::tcp::Accepted;
use weft_stack::socket::udp::{Datagram, UdpRecvError, UdpSend};
use weft_stack::socket::{Readiness, SocketId};

use super::poller::Sealed;
use super::socket::Socket;
use super::tcp::TcpStream;
use super::udp::{recv_error, send_error};
use crate::Vserver;
use crate::arrival::{Arrival, VserverId};
use crate::host::Shared;
use crate::runtime::{NodeId, Notify, Ring, Taker, Wait, Worker, removed};

/// How a socket for any vserver is bound; the default takes every address of every vserver.
#[derive(Clone, Debug)]
pub struct AnyOptions {
    /// Which addresses.
    pub family: AnyFamily,
    /// The vservers of this group, and of groups in it, only. Before the host's own: the nearest
    /// group that has the port decides.
    pub group: Option<String>,
    /// TCP: connections of one vserver that wait to be accepted. Each has as many, so that none can
    /// fill what the others need.
    pub backlog: usize,
}

impl Default for AnyOptions {
    fn default() -> AnyOptions {
        AnyOptions { family: AnyFamily::Both, group: None, backlog: 1024 }
    }
}

/// A port that a host has bound for its vservers, until it is dropped.
#[derive(Debug)]
pub(crate) struct Binding {
    shared: Arc<Shared>,
    scope: Arc<AnyPorts>,
    pub(crate) number: u32,
}

impl Binding {
    /// Takes the port; nothing arrives before every worker knows the taker that `taker` makes.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        protocol: AnyProtocol,
        port: u16,
        how: &AnyOptions,
        mut taker: impl FnMut(usize) -> Taker,
    ) -> io::Result<Binding> {
        if port == 0 {
            let text = "a port for any vserver has a number from 1 on";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let scope = shared.any.scope(how.group.as_deref()).ok_or_else(|| {
            let text = format!("no group '{}'", how.group.as_deref().unwrap_or_default());
            io::Error::new(io::ErrorKind::NotFound, text)
        })?;
        let number = shared.any.next();
        let binding = Binding { shared: Arc::clone(shared), scope, number };
        for (at, worker) in shared.workers.iter().enumerate() {
            worker.with_core(|core, _| core.any.insert(number, taker(at)))?;
        }
        let (backlog, family) = (how.backlog, how.family);
        if !binding.scope.bind(AnyPort { number, protocol, family, port, backlog }) {
            let text = format!("port {port} is bound for any vserver already");
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        Ok(binding)
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        self.scope.unbind(self.number);
        for worker in &self.shared.workers {
            // After the host stopped there is nothing left to close.
            let _ = worker.with_core(|core, now| core.any_close(now, self.number));
        }
    }
}

/// What both kinds of sockets are.
#[derive(Debug)]
struct Any {
    binding: Binding,
    port: u16,
    notify: Arc<Notify>,
    nonblocking: AtomicBool,
    /// Nanoseconds; 0: for ever.
    timeout: AtomicU64,
    /// Whose turn it is to be asked first.
    turn: AtomicUsize,
}

impl Any {
    fn new(
        shared: &Arc<Shared>,
        protocol: AnyProtocol,
        port: u16,
        how: &AnyOptions,
    ) -> io::Result<Any> {
        let notify = Arc::new(Notify::of_several());
        let taker = |_| Taker::Socket(Ring::new(Arc::clone(&notify)));
        let binding = Binding::new(shared, protocol, port, how, taker)?;
        Ok(Any {
            binding,
            port,
            notify,
            nonblocking: AtomicBool::new(false),
            timeout: AtomicU64::new(0),
            turn: AtomicUsize::new(0),
        })
    }

    fn workers(&self) -> &[Arc<Worker>] {
        &self.binding.shared.workers
    }

    /// Takes one of what waits, each worker and each vserver in turn; `take` says whether there is
    /// more. Returns too where it was.
    fn take<R>(
        &self,
        mut take: impl FnMut(&mut crate::runtime::Node, SocketId) -> (Option<R>, bool),
    ) -> io::Result<(usize, NodeId, R)> {
        let wait = match self.timeout.load(Ordering::Relaxed) {
            _ if self.nonblocking.load(Ordering::Relaxed) => Wait::Not,
            0 => Wait::Forever,
            ns => Wait::at_most(Duration::from_nanos(ns)),
        };
        let workers = self.workers();
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        // It sleeps where no worker knows of it.
        for worker in workers {
            worker.dependents.watched();
        }
        loop {
            let seen = self.notify.fired();
            for step in 0..workers.len() {
                let at = (first + step) % workers.len();
                if let Some((id, got)) = workers[at].any_take(self.binding.number, &mut take)? {
                    return Ok((at, id, got));
                }
            }
            if !self.notify.wait_at_gate(seen, wait) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
    }

    fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        let ns = match timeout {
            Some(Duration::ZERO) => {
                let text = "a timeout of zero; None waits for ever, set_nonblocking not at all";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            Some(t) => u64::try_from(t.as_nanos()).unwrap_or(0),
            None => 0,
        };
        self.timeout.store(ns, Ordering::Relaxed);
        Ok(())
    }

    fn readiness(&self) -> io::Result<Readiness> {
        let mut ready = Readiness::default();
        for worker in self.workers() {
            if worker.with_core(|core, _| core.any_is_ready(self.binding.number))? {
                ready |= Readiness::READABLE;
            }
        }
        Ok(ready)
    }

    fn watch_mio(
        &self,
        interest: Interest,
        f: impl FnOnce(RawFd, Interest) -> io::Result<()>,
    ) -> io::Result<()> {
        for worker in self.workers() {
            worker.dependents.watched();
        }
        self.notify.watch_mio(interest, Readiness::default(), f)?;
        self.tell_of_now()
    }

    /// Tells whoever began to watch what is there already.
    fn tell_of_now(&self) -> io::Result<()> {
        let ready = self.readiness()?;
        if !ready.is_empty() {
            self.notify.fire(ready);
        }
        Ok(())
    }
}

impl Drop for Any {
    fn drop(&mut self) {
        self.notify.unwatch_poller(None);
    }
}

/// A listener for any vserver of a host: one socket that takes the connections of thousands.
///
/// An accepted connection is one of the vserver that was addressed, with its routes, neighbours, TCP
/// defaults and limits; [`TcpStream::arrival`] tells which. A vserver's own listener on the port
/// comes first. Vservers made later are covered, those removed are no longer. Nothing is held for a
/// vserver that nobody has called. Each vserver has a backlog of its own, and they are accepted from
/// in turn.
#[derive(Debug)]
pub struct AnyListener {
    any: Any,
}

impl AnyListener {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        port: u16,
        how: &AnyOptions,
    ) -> io::Result<AnyListener> {
        Ok(AnyListener { any: Any::new(shared, AnyProtocol::Tcp, port, how)? })
    }

    /// Takes an established connection and its peer, of one vserver after the other; blocks unless
    /// non-blocking. The stream is blocking.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let (worker, id, (accepted, notify)) = self.any.take(|node, id| {
                let accepted: Option<Accepted> = node.stack.tcp_accept(id);
                let more = node.stack.readiness(id).contains(Readiness::READABLE);
                (accepted.map(|a| (a, Socket::watch(node, a.id))), more)
            })?;
            // A vserver that was removed meanwhile took the connection along, which is nothing to
            // those that serve the others.
            if let Some(vserver) = Vserver::of(&self.any.binding.shared, id) {
                let socket = Socket::adopt(&vserver, worker, accepted.id, notify);
                return Ok((TcpStream::of(socket), accepted.peer));
            }
        }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.any.port
    }

    /// Switches blocking off or on.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.any.nonblocking.store(nonblocking, Ordering::Relaxed);
        Ok(())
    }

    /// How long a blocking accept waits; then `WouldBlock`. `None`: for ever.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.any.set_timeout(timeout)
    }
}

/// A UDP socket for any vserver of a host: as [`AnyListener`], for datagrams to single hosts.
///
/// Each vserver has a queue of its own, bounded by its `udp_recv_bytes`.
#[derive(Debug)]
pub struct AnyUdpSocket {
    any: Any,
}

impl AnyUdpSocket {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        port: u16,
        how: &AnyOptions,
    ) -> io::Result<AnyUdpSocket> {
        Ok(AnyUdpSocket { any: Any::new(shared, AnyProtocol::Udp, port, how)? })
    }

    /// Receives one datagram, of one vserver after the other, and tells where it arrived.
    pub fn recv_datagram(&self) -> io::Result<(Datagram, Arrival)> {
        let (_, node, got) = self.any.take(|node, id| {
            let got = match node.stack.udp_recv(id) {
                Ok(datagram) => Some(Ok(datagram)),
                Err(UdpRecvError::WouldBlock | UdpRecvError::Closed) => None,
                Err(e) => Some(Err(recv_error(e))),
            };
            (got, node.stack.readiness(id).contains(Readiness::READABLE))
        })?;
        let datagram = got?;
        let local = SocketAddr::new(datagram.to, self.any.port);
        let arrival = Arrival { vserver: VserverId(node), alias: datagram.alias, local };
        Ok((datagram, arrival))
    }

    /// Receives one datagram; what does not fit into `buf` is cut off.
    pub fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr, Arrival)> {
        let (datagram, arrival) = self.recv_datagram()?;
        let len = datagram.payload.len().min(buf.len());
        buf[..len].copy_from_slice(&datagram.payload[..len]);
        Ok((len, datagram.from, arrival))
    }

    /// Sends a datagram from where another arrived: by that vserver's routes, from the address and
    /// port that were addressed. Does not wait.
    ///
    /// Errors: those of [`UdpSocket::send_with`](super::UdpSocket::send_with); `NotConnected` for a
    /// vserver that is no more.
    pub fn send_to(&self, buf: &[u8], to: SocketAddr, from: &Arrival) -> io::Result<usize> {
        let workers = self.any.workers();
        let (node, source) = (from.vserver.0, from.local.ip());
        let spread = || port_owner(self.any.port, workers.len() as u16).into();
        let worker = self.any.binding.shared.flows_of(node.index).unwrap_or_else(spread);
        let worker = &workers[worker];
        let how = UdpSend { to: Some(to), from: Some(source), ..UdpSend::default() };
        let id = worker.with_core(|core, _| core.any_socket(node, source, self.any.port))?;
        let id = id.ok_or_else(removed)?;
        worker
            .call(node, |node, now| node.stack.udp_send_with(now, id, buf, &how))?
            .map_err(send_error)?;
        Ok(buf.len())
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.any.port
    }

    /// Switches blocking off or on.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.any.nonblocking.store(nonblocking, Ordering::Relaxed);
        Ok(())
    }

    /// How long a blocking receive waits; then `WouldBlock`. `None`: for ever.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.any.set_timeout(timeout)
    }
}

macro_rules! faces {
    ($type:ty) => {
        impl Sealed for $type {
            fn each_worker(&self, f: &mut dyn FnMut(&Arc<Worker>)) {
                self.any.workers().iter().for_each(f);
            }
            fn notify(&self) -> &Arc<Notify> {
                &self.any.notify
            }
            fn watch(&self, f: &mut dyn FnMut(Readiness)) -> io::Result<()> {
                f(Readiness::default());
                self.any.tell_of_now()
            }
        }
        impl super::Pollable for $type {}

        /// One event descriptor per registered socket, for readable interest.
        impl Source for $type {
            fn register(&mut self, r: &Registry, token: Token, i: Interest) -> io::Result<()> {
                self.any.watch_mio(i, |fd, i| SourceFd(&fd).register(r, token, i))
            }
            fn reregister(&mut self, r: &Registry, token: Token, i: Interest) -> io::Result<()> {
                self.any.watch_mio(i, |fd, i| SourceFd(&fd).reregister(r, token, i))
            }
            fn deregister(&mut self, r: &Registry) -> io::Result<()> {
                self.any.notify.unwatch_mio(|fd| SourceFd(&fd).deregister(r))
            }
        }
    };
}

faces!(AnyListener);
faces!(AnyUdpSocket);
