//! Readiness of many sockets through one descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use mio::{Interest, Registry, Token};
use weft_stack::socket::Readiness;

/// A socket that a [`Poller`] can watch: [`super::TcpListener`], [`super::TcpStream`],
/// [`super::UdpSocket`].
pub trait Pollable: sealed::Sealed {}

pub(crate) mod sealed {
    /// Keeps [`super::Pollable`] to this crate.
    pub trait Sealed {}
}

/// One socket's readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// As given to [`Poller::register`].
    pub token: Token,
    /// What it is ready for.
    pub readiness: Readiness,
}

/// A queue of ready sockets, of any vservers and hosts. Readiness comes by edges.
#[derive(Debug)]
pub struct Poller {}

impl Poller {
    /// An empty poller; it holds one descriptor.
    pub fn new() -> io::Result<Poller> {
        todo!()
    }

    /// Watches a socket; if it is ready now, that is reported at once. A socket is in one poller
    /// at most; registering again replaces token and interest.
    pub fn register(
        &self,
        socket: &impl Pollable,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        let _ = (socket, token, interest);
        todo!()
    }

    /// Stops watching. What is queued already may still be reported. Closing a socket does it too.
    pub fn deregister(&self, socket: &impl Pollable) -> io::Result<()> {
        let _ = socket;
        todo!()
    }

    /// Replaces the contents of `ready` by the sockets that became ready, waiting for the first
    /// at most `timeout` (`None`: for ever). Empty on timeout.
    pub fn wait(&self, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> io::Result<()> {
        let _ = (ready, timeout);
        todo!()
    }

    /// Makes a running or the next [`Poller::wait`] return, from any thread.
    pub fn wake(&self) -> io::Result<()> {
        todo!()
    }
}

/// Readable while sockets are ready, so that a poller can stand in another event loop.
impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        todo!()
    }
}

impl mio::event::Source for Poller {
    fn register(&mut self, registry: &Registry, token: Token, i: Interest) -> io::Result<()> {
        let _ = (registry, token, i);
        todo!()
    }
    fn reregister(&mut self, registry: &Registry, token: Token, i: Interest) -> io::Result<()> {
        let _ = (registry, token, i);
        todo!()
    }
    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        let _ = registry;
        todo!()
    }
}
