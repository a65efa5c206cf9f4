//! How a socket's readiness reaches whoever waits for it: a blocked thread, a mio registration, a
//! poller.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use mio::{Interest, Token};
use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, eventfd};
use weft_stack::socket::Readiness;

use super::Wait;
use super::sleeper::Sleeper;
use crate::net::Ready;

pub(crate) fn new_eventfd() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?)
}

/// Adds one. A full counter is readable already, so there is no error to act on.
pub(crate) fn signal(fd: &OwnedFd) {
    let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
}

fn drain(fd: &OwnedFd) {
    let _ = rustix::io::read(fd, &mut [0u8; 8]);
}

/// Bits that somebody with `interest` is told of. An error or a dead connection concerns all.
fn wanted(interest: Interest) -> u8 {
    let mut bits = Readiness::ERROR | Readiness::READ_CLOSED | Readiness::WRITE_CLOSED;
    if interest.is_readable() {
        bits |= Readiness::READABLE;
    }
    if interest.is_writable() {
        bits |= Readiness::WRITABLE;
    }
    if interest.is_priority() {
        bits |= Readiness::PRIORITY;
    }
    bits.0
}

/// One per socket, shared by its handle and the worker.
#[derive(Debug, Default)]
pub(crate) struct Notify {
    /// Blocked threads wait here, with the worker's lock.
    pub(crate) changed: Condvar,
    /// Counts events, so that one between looking and waiting is not missed.
    fired: AtomicU32,
    watch: Mutex<Watch>,
    /// Of a socket that is on several workers: blocked threads wait at this gate instead.
    gate: Option<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    lock: Mutex<()>,
    opened: Condvar,
}

#[derive(Debug, Default)]
struct Watch {
    mio: Option<(OwnedFd, u8)>,
    poller: Option<(Arc<Queue>, Arc<Entry>)>,
}

impl Notify {
    /// For a socket that is on several workers.
    pub(crate) fn of_several() -> Notify {
        Notify { gate: Some(Gate::default()), ..Notify::default() }
    }

    /// Waits for an event after `seen`; `false`: the time is over. For a socket on several workers;
    /// no lock of any is held.
    pub(crate) fn wait_at_gate(&self, seen: u32, wait: Wait) -> bool {
        let Some(gate) = &self.gate else { return false };
        let mut lock = gate.lock.lock();
        while self.fired() == seen {
            match wait {
                Wait::Not => return false,
                Wait::Forever => gate.opened.wait(&mut lock),
                Wait::Until(at) => {
                    if gate.opened.wait_until(&mut lock, at).timed_out() {
                        return self.fired() != seen;
                    }
                }
            }
        }
        true
    }

    /// Changes with each event. Read and compared under the worker's lock.
    pub(crate) fn fired(&self) -> u32 {
        self.fired.load(Ordering::Relaxed)
    }

    /// The socket is ready for `ready` now.
    pub(crate) fn fire(&self, ready: Readiness) {
        self.fired.fetch_add(1, Ordering::Relaxed);
        if let Some(gate) = &self.gate {
            // Behind the lock, whoever counted before this waits already.
            drop(gate.lock.lock());
            gate.opened.notify_all();
        }
        self.changed.notify_all();
        let watch = self.watch.lock();
        if let Some((fd, wanted)) = &watch.mio
            && ready.0 & wanted != 0
        {
            signal(fd);
        }
        if let Some((queue, entry)) = &watch.poller {
            queue.push(entry, ready);
        }
    }

    /// Makes the descriptor that mio watches, and gives it to `f` for (re)registration.
    pub(crate) fn watch_mio(
        &self,
        interest: Interest,
        now: Readiness,
        f: impl FnOnce(i32, Interest) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut watch = self.watch.lock();
        let fd = match watch.mio.take() {
            Some((fd, _)) => fd,
            None => new_eventfd()?,
        };
        // An event counter signals "readable" only; whoever waits for "writable" gets both.
        let kernel =
            if interest.is_writable() { Interest::READABLE | Interest::WRITABLE } else { interest };
        f(fd.as_raw_fd(), kernel)?;
        let wanted = wanted(interest);
        if now.0 & wanted != 0 {
            signal(&fd);
        }
        watch.mio = Some((fd, wanted));
        Ok(())
    }

    pub(crate) fn unwatch_mio(&self, f: impl FnOnce(i32) -> io::Result<()>) -> io::Result<()> {
        match self.watch.lock().mio.take() {
            Some((fd, _)) => f(fd.as_raw_fd()),
            None => Err(io::Error::new(io::ErrorKind::NotFound, "the socket is not registered")),
        }
    }

    pub(crate) fn watch_poller(
        &self,
        queue: &Arc<Queue>,
        token: Token,
        interest: Interest,
        now: Readiness,
    ) {
        let entry = Arc::new(Entry {
            token,
            wanted: wanted(interest),
            pending: AtomicU8::new(0),
            live: AtomicBool::new(true),
        });
        let mut watch = self.watch.lock();
        if let Some((_, old)) = watch.poller.take() {
            old.live.store(false, Ordering::Relaxed);
        }
        queue.push(&entry, now);
        watch.poller = Some((Arc::clone(queue), entry));
    }

    /// Whether it was watched by `queue` (`None`: by any).
    pub(crate) fn unwatch_poller(&self, queue: Option<&Arc<Queue>>) -> bool {
        let mut watch = self.watch.lock();
        let ours = |q: &Arc<Queue>| queue.is_none_or(|wanted| Arc::ptr_eq(q, wanted));
        match watch.poller.take_if(|(q, _)| ours(q)) {
            Some((_, entry)) => {
                entry.live.store(false, Ordering::Relaxed);
                true
            }
            None => false,
        }
    }
}

#[derive(Debug)]
struct Entry {
    token: Token,
    wanted: u8,
    /// Bits not yet reported; not zero: the entry is in the queue.
    pending: AtomicU8,
    live: AtomicBool,
}

/// The ready list of a [`crate::net::Poller`].
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<QueueState>,
    filled: Condvar,
    fd: OwnedFd,
}

#[derive(Debug, Default)]
struct QueueState {
    ready: Vec<Arc<Entry>>,
    woken: bool,
    /// Somebody watches the descriptor; before that, it is not written.
    exported: bool,
    /// The descriptor is readable.
    signalled: bool,
    /// Who waits sleeps there, in the devices of a worker.
    asleep_in: Option<Arc<Sleeper>>,
}

impl Queue {
    pub(crate) fn new() -> io::Result<Arc<Queue>> {
        Ok(Arc::new(Queue {
            state: Mutex::new(QueueState::default()),
            filled: Condvar::new(),
            fd: new_eventfd()?,
        }))
    }

    fn push(&self, entry: &Arc<Entry>, ready: Readiness) {
        let bits = ready.0 & entry.wanted;
        if bits == 0 {
            return;
        }
        let mut state = self.state.lock();
        if entry.pending.fetch_or(bits, Ordering::Relaxed) == 0 {
            state.ready.push(Arc::clone(entry));
            self.announce(&mut state);
        }
    }

    fn announce(&self, state: &mut QueueState) {
        self.filled.notify_one();
        if let Some(sleeper) = &state.asleep_in {
            sleeper.ring();
        }
        if state.exported && !state.signalled {
            state.signalled = true;
            signal(&self.fd);
        }
    }

    /// Whether a wait would end at once.
    pub(crate) fn is_ready(&self) -> bool {
        let state = self.state.lock();
        !state.ready.is_empty() || state.woken
    }

    /// Every new entry rings there.
    pub(crate) fn ring_on_entry(&self, sleeper: Option<Arc<Sleeper>>) {
        self.state.lock().asleep_in = sleeper;
    }

    pub(crate) fn wake(&self) {
        let mut state = self.state.lock();
        state.woken = true;
        self.announce(&mut state);
    }

    /// The descriptor, written from now on.
    pub(crate) fn export(&self) -> BorrowedFd<'_> {
        let mut state = self.state.lock();
        state.exported = true;
        if !state.ready.is_empty() || state.woken {
            self.announce(&mut state);
        }
        drop(state);
        self.fd.as_fd()
    }

    pub(crate) fn wait(&self, out: &mut Vec<Ready>, until: Wait) {
        out.clear();
        let mut state = self.state.lock();
        while state.ready.is_empty() && !state.woken {
            let timed_out = match until {
                Wait::Not => true,
                Wait::Until(at) => self.filled.wait_until(&mut state, at).timed_out(),
                Wait::Forever => {
                    self.filled.wait(&mut state);
                    false
                }
            };
            if timed_out && state.ready.is_empty() {
                break;
            }
        }
        state.woken = false;
        if state.signalled {
            state.signalled = false;
            drain(&self.fd);
        }
        for entry in state.ready.drain(..) {
            let bits = entry.pending.swap(0, Ordering::Relaxed);
            if entry.live.load(Ordering::Relaxed) {
                out.push(Ready { token: entry.token, readiness: Readiness(bits) });
            }
        }
    }
}
