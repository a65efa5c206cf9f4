//! Readiness of many sockets through one descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use parking_lot::Mutex;
use weft_stack::socket::Readiness;

use crate::runtime::{Notify, Queue, Wait, Worker};

/// Keeps [`Pollable`] to this crate.
pub(crate) trait Sealed {
    /// Calls `f` with each worker that the socket is on.
    fn each_worker(&self, f: &mut dyn FnMut(&Arc<Worker>));
    fn notify(&self) -> &Arc<Notify>;
    /// Calls `f` with what the socket is ready for now, and tells whoever watches from then on of
    /// what it is ready for on other workers.
    fn watch(&self, f: &mut dyn FnMut(Readiness)) -> io::Result<()>;
}

/// A socket that a [`Poller`] can watch: [`super::TcpListener`], [`super::TcpStream`],
/// [`super::UdpSocket`], [`super::AnyListener`], [`super::AnyUdpSocket`].
#[expect(private_bounds, reason = "sealed")]
pub trait Pollable: Sealed {}

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
pub struct Poller {
    queue: Arc<Queue>,
    /// The workers that its sockets are on.
    homes: Mutex<Vec<Arc<Worker>>>,
    /// It stands in another event loop.
    exported: AtomicBool,
}

impl Poller {
    /// An empty poller; it holds one descriptor.
    pub fn new() -> io::Result<Poller> {
        Ok(Poller {
            queue: Queue::new()?,
            homes: Mutex::default(),
            exported: AtomicBool::new(false),
        })
    }

    /// Watches a socket; if it is ready now, that is reported at once. A socket is in one poller
    /// at most; registering again replaces token and interest. Errors and closed sides are
    /// reported whatever the interest.
    pub fn register(
        &self,
        socket: &impl Pollable,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        socket.each_worker(&mut |worker| self.add_home(worker));
        socket.watch(&mut |now| socket.notify().watch_poller(&self.queue, token, interest, now))
    }

    /// Stops watching: nothing is reported of the socket any more. Closing the socket does it too.
    /// `NotFound` if it is not watched by this poller.
    pub fn deregister(&self, socket: &impl Pollable) -> io::Result<()> {
        if socket.notify().unwatch_poller(Some(&self.queue)) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "the socket is not in this poller"))
    }

    /// Replaces the contents of `ready` by the sockets that became ready, waiting for the first
    /// at most `timeout` (`None`: for ever). Empty on timeout, and sometimes without reason. One
    /// thread at a time.
    pub fn wait(&self, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> io::Result<()> {
        let until = match timeout {
            None => Wait::Forever,
            Some(Duration::ZERO) => Wait::Not,
            Some(timeout) => Wait::at_most(timeout),
        };
        ready.clear();
        let homes = self.homes.lock();
        match homes.as_slice() {
            [home] if until.waits() => {
                let home = Arc::clone(home);
                drop(homes);
                home.wait_queue(&self.queue, until, || self.queue.wait(ready, until));
                if ready.is_empty() {
                    self.queue.wait(ready, Wait::Not);
                }
            }
            _ => {
                drop(homes);
                self.queue.wait(ready, until);
            }
        }
        Ok(())
    }

    fn add_home(&self, worker: &Arc<Worker>) {
        let mut homes = self.homes.lock();
        if !homes.iter().any(|home| Arc::ptr_eq(home, worker)) {
            homes.push(Arc::clone(worker));
        }
        if self.exported.load(Ordering::Relaxed) {
            worker.dependents.watched();
        }
    }

    fn export(&self) -> BorrowedFd<'_> {
        self.exported.store(true, Ordering::Relaxed);
        self.homes.lock().iter().for_each(|home| home.dependents.watched());
        self.queue.export()
    }

    /// Makes a running or the next [`Poller::wait`] return, from any thread.
    pub fn wake(&self) -> io::Result<()> {
        self.queue.wake();
        Ok(())
    }
}

/// Readable while sockets are ready, so that a poller can stand in another event loop; then call
/// [`Poller::wait`] with a timeout of zero.
impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.export()
    }
}

impl mio::event::Source for Poller {
    fn register(&mut self, registry: &Registry, token: Token, i: Interest) -> io::Result<()> {
        SourceFd(&self.as_fd().as_raw_fd()).register(registry, token, i)
    }
    fn reregister(&mut self, registry: &Registry, token: Token, i: Interest) -> io::Result<()> {
        SourceFd(&self.as_fd().as_raw_fd()).reregister(registry, token, i)
    }
    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.as_fd().as_raw_fd()).deregister(registry)
    }
}
