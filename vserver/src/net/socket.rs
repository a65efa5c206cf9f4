//! What the socket types share: the handle on a stack's socket, blocking, readiness.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use weft_stack::socket::SocketId;
use weft_stack::socket::tcp::{ConnectError, ListenError, TcpError};
use weft_stack::socket::udp::BindError;
use weft_stack::time::Instant;

use crate::Vserver;
use crate::runtime::{Leave, Node, Notify, Wait};

/// A socket of a stack. Dropping it closes the socket.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) vserver: Vserver,
    /// The worker whose stack has it.
    pub(crate) worker: usize,
    pub(crate) id: SocketId,
    /// A listener's sockets on the other workers; all share `notify`.
    pub(crate) twins: Vec<(usize, SocketId)>,
    pub(crate) notify: Arc<Notify>,
    nonblocking: AtomicBool,
    /// Nanoseconds; 0: for ever.
    read_timeout: AtomicU64,
    write_timeout: AtomicU64,
}

/// Which of the two timeouts a call has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Direction {
    Read,
    Write,
}

impl Socket {
    /// Makes a socket with `f`.
    pub(crate) fn open(
        vserver: &Vserver,
        worker: usize,
        f: impl FnOnce(&mut Node, Instant) -> io::Result<SocketId>,
    ) -> io::Result<Socket> {
        let notify = Arc::default();
        let id = Socket::make(vserver, worker, &notify, f)?;
        Ok(Socket::adopt(vserver, worker, id, notify))
    }

    /// Makes a socket of a stack whose events go to `notify`.
    pub(crate) fn make(
        vserver: &Vserver,
        worker: usize,
        notify: &Arc<Notify>,
        f: impl FnOnce(&mut Node, Instant) -> io::Result<SocketId>,
    ) -> io::Result<SocketId> {
        vserver.worker(worker).call(vserver.node(), |node, now| {
            let id = f(node, now)?;
            node.sockets.insert(id, Arc::clone(notify));
            Ok(id)
        })?
    }

    /// Starts to follow the events of a socket, under the same lock that made it.
    pub(crate) fn watch(node: &mut Node, id: SocketId) -> Arc<Notify> {
        let notify = Arc::new(Notify::default());
        node.sockets.insert(id, Arc::clone(&notify));
        notify
    }

    /// The handle on a socket that is watched already.
    pub(crate) fn adopt(
        vserver: &Vserver,
        worker: usize,
        id: SocketId,
        notify: Arc<Notify>,
    ) -> Socket {
        Socket {
            vserver: vserver.clone(),
            worker,
            id,
            twins: Vec::new(),
            notify,
            nonblocking: AtomicBool::new(false),
            read_timeout: AtomicU64::new(0),
            write_timeout: AtomicU64::new(0),
        }
    }

    pub(crate) fn call<R>(&self, f: impl FnOnce(&mut Node, Instant) -> R) -> io::Result<R> {
        self.vserver.worker(self.worker).call(self.vserver.node(), f)
    }

    /// As [`Socket::call`], on the worker of a twin.
    pub(crate) fn call_on<R>(
        &self,
        worker: usize,
        f: impl FnOnce(&mut Node, Instant) -> R,
    ) -> io::Result<R> {
        self.vserver.worker(worker).call(self.vserver.node(), f)
    }

    /// The socket and its twins.
    pub(crate) fn places(&self) -> impl Iterator<Item = (usize, SocketId)> + Clone + '_ {
        std::iter::once((self.worker, self.id)).chain(self.twins.iter().copied())
    }

    /// Tells whoever began to watch what twins are ready for already.
    pub(crate) fn tell_of_twins(&self) -> io::Result<()> {
        for (worker, id) in &self.twins {
            let worker = self.vserver.worker(*worker);
            let ready = worker.peek(self.vserver.node(), |node| node.stack.readiness(*id))?;
            if !ready.is_empty() {
                self.notify.fire(ready);
            }
        }
        Ok(())
    }

    pub(crate) fn peek<R>(&self, f: impl FnOnce(&mut Node) -> R) -> io::Result<R> {
        self.vserver.worker(self.worker).peek(self.vserver.node(), f)
    }

    /// Repeats `op` until it gives something, or as long as the socket's mode and timeout allow.
    pub(crate) fn wait<R>(
        &self,
        direction: Direction,
        op: impl FnMut(&mut Node, Instant) -> Option<io::Result<R>>,
    ) -> io::Result<R> {
        let timeout = match direction {
            Direction::Read => &self.read_timeout,
            Direction::Write => &self.write_timeout,
        };
        self.wait_for(self.patience(timeout), op)
    }

    fn patience(&self, timeout: &AtomicU64) -> Wait {
        match timeout.load(Ordering::Relaxed) {
            _ if self.is_nonblocking() => Wait::Not,
            0 => Wait::Forever,
            ns => Wait::at_most(Duration::from_nanos(ns)),
        }
    }

    /// Repeats `op` on the socket and its twins until it gives something, on which worker too, or
    /// as long as a read may wait. `first` is asked first.
    pub(crate) fn wait_anywhere<R>(
        &self,
        first: usize,
        mut op: impl FnMut(&mut Node, SocketId) -> Option<io::Result<R>>,
    ) -> io::Result<(usize, R)> {
        let wait = self.patience(&self.read_timeout);
        let count = self.twins.len() + 1;
        // It sleeps where no worker knows of it.
        self.places().for_each(|(worker, _)| self.vserver.worker(worker).dependents.watched());
        loop {
            let seen = self.notify.fired();
            for (worker, id) in self.places().cycle().skip(first % count).take(count) {
                if let Some(result) = self.call_on(worker, |node, _| op(node, id))? {
                    return result.map(|result| (worker, result));
                }
            }
            if !self.notify.wait_at_gate(seen, wait) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
    }

    pub(crate) fn wait_for<R>(
        &self,
        wait: Wait,
        op: impl FnMut(&mut Node, Instant) -> Option<io::Result<R>>,
    ) -> io::Result<R> {
        self.vserver.worker(self.worker).wait(self.vserver.node(), &self.notify, wait, op)
    }

    pub(crate) fn is_nonblocking(&self) -> bool {
        self.nonblocking.load(Ordering::Relaxed)
    }

    pub(crate) fn set_nonblocking(&self, nonblocking: bool) {
        self.nonblocking.store(nonblocking, Ordering::Relaxed);
    }

    pub(crate) fn set_timeout(
        &self,
        direction: Direction,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        let ns = match timeout {
            Some(Duration::ZERO) => {
                let text = "a timeout of zero; None waits for ever, set_nonblocking not at all";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            Some(t) => u64::try_from(t.as_nanos()).unwrap_or(0),
            None => 0,
        };
        match direction {
            Direction::Read => self.read_timeout.store(ns, Ordering::Relaxed),
            Direction::Write => self.write_timeout.store(ns, Ordering::Relaxed),
        }
        Ok(())
    }

    /// (Re)registers with mio.
    pub(crate) fn watch_mio(
        &self,
        interest: Interest,
        f: impl FnOnce(RawFd, Interest) -> io::Result<()>,
    ) -> io::Result<()> {
        self.places().for_each(|(worker, _)| self.vserver.worker(worker).dependents.watched());
        self.peek(|node| self.notify.watch_mio(interest, node.stack.readiness(self.id), f))??;
        self.tell_of_twins()
    }

    pub(crate) fn register(&self, r: &Registry, token: Token, i: Interest) -> io::Result<()> {
        self.watch_mio(i, |fd, i| SourceFd(&fd).register(r, token, i))
    }

    pub(crate) fn reregister(&self, r: &Registry, token: Token, i: Interest) -> io::Result<()> {
        self.watch_mio(i, |fd, i| SourceFd(&fd).reregister(r, token, i))
    }

    pub(crate) fn deregister(&self, r: &Registry) -> io::Result<()> {
        self.notify.unwatch_mio(|fd| SourceFd(&fd).deregister(r))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.notify.unwatch_poller(None);
        for (worker, id) in self.places() {
            self.vserver.worker(worker).give_up(self.vserver.node(), id, Leave::Close);
        }
    }
}

/// The error kinds of the standard library for the stack's.
pub(crate) fn tcp_error(e: TcpError) -> io::Error {
    let kind = match e {
        TcpError::Refused => io::ErrorKind::ConnectionRefused,
        TcpError::Reset => io::ErrorKind::ConnectionReset,
        TcpError::TimedOut => io::ErrorKind::TimedOut,
        TcpError::HostUnreachable => io::ErrorKind::HostUnreachable,
        _ => io::ErrorKind::ConnectionAborted,
    };
    io::Error::new(kind, e)
}

pub(crate) fn connect_error(e: ConnectError) -> io::Error {
    let kind = match e {
        ConnectError::Unreachable => io::ErrorKind::NetworkUnreachable,
        ConnectError::NotAvailable => io::ErrorKind::AddrNotAvailable,
        ConnectError::InUse => io::ErrorKind::AddrInUse,
        ConnectError::TooMany => io::ErrorKind::QuotaExceeded,
        _ => io::ErrorKind::InvalidInput,
    };
    io::Error::new(kind, e)
}

pub(crate) fn listen_error(e: ListenError) -> io::Error {
    let kind = match e {
        ListenError::InUse => io::ErrorKind::AddrInUse,
        ListenError::NotAvailable => io::ErrorKind::AddrNotAvailable,
        _ => io::ErrorKind::QuotaExceeded,
    };
    io::Error::new(kind, e)
}

pub(crate) fn bind_error(e: BindError) -> io::Error {
    let kind = match e {
        BindError::InUse => io::ErrorKind::AddrInUse,
        BindError::NotAvailable => io::ErrorKind::AddrNotAvailable,
        BindError::NotAllowed => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::QuotaExceeded,
    };
    io::Error::new(kind, e)
}

pub(crate) fn not_connected() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

/// The readiness faces of a socket type with a field `socket`.
macro_rules! readiness_faces {
    ($type:ty) => {
        impl $crate::net::poller::Sealed for $type {
            fn each_worker(&self, f: &mut dyn FnMut(&std::sync::Arc<$crate::runtime::Worker>)) {
                let socket = &self.socket;
                socket.places().for_each(|(worker, _)| f(socket.vserver.worker(worker)));
            }
            fn notify(&self) -> &std::sync::Arc<$crate::runtime::Notify> {
                &self.socket.notify
            }
            fn watch(
                &self,
                f: &mut dyn FnMut(weft_stack::socket::Readiness),
            ) -> std::io::Result<()> {
                self.socket.peek(|node| f(node.stack.readiness(self.socket.id)))?;
                self.socket.tell_of_twins()
            }
        }
        impl $crate::net::Pollable for $type {}

        /// One event descriptor per registered socket. Writable interest is reported together
        /// with readable; the state is what the next call says.
        impl mio::event::Source for $type {
            fn register(
                &mut self,
                registry: &mio::Registry,
                token: mio::Token,
                interests: mio::Interest,
            ) -> std::io::Result<()> {
                self.socket.register(registry, token, interests)
            }
            fn reregister(
                &mut self,
                registry: &mio::Registry,
                token: mio::Token,
                interests: mio::Interest,
            ) -> std::io::Result<()> {
                self.socket.reregister(registry, token, interests)
            }
            fn deregister(&mut self, registry: &mio::Registry) -> std::io::Result<()> {
                self.socket.deregister(registry)
            }
        }
    };
}
pub(crate) use readiness_faces;
