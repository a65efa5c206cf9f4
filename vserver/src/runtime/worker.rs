//! The worker: its lock, its thread, and how application calls go through both.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant as StdInstant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use parking_lot::{Mutex, MutexGuard};
use std::os::fd::AsRawFd;
use weft_drivers::device::Device;
use weft_stack::time::Instant;

use super::core::Sleep;
use super::{Core, Links, Node, Notify};
use crate::app::in_callback;
use crate::config::PollMode;

/// How long an adaptive worker looks for more work before it sleeps.
const SPIN: Duration = Duration::from_micros(50);
/// How often a spinning worker asks for link changes.
const SPINS_PER_POLL: u32 = 1 << 14;
/// How often one that always finds work does.
const TURNS_PER_POLL: u32 = 1 << 10;
const WAKE: Token = Token(usize::MAX);
const LINKS: Token = Token(usize::MAX - 1);

/// What a worker's thread sleeps in.
pub(crate) struct Sleeper {
    poll: Poll,
    links: Option<Links>,
}

/// The host's time: nanoseconds since it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(StdInstant);

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock(StdInstant::now())
    }

    pub(crate) fn now(&self) -> Instant {
        Instant::from_nanos(self.0.elapsed().as_nanos() as u64)
    }
}

/// How long a call may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wait {
    Not,
    Forever,
    Until(StdInstant),
}

impl Wait {
    /// From now on; longer than the clock can tell is for ever.
    pub(crate) fn at_most(timeout: Duration) -> Wait {
        StdInstant::now().checked_add(timeout).map_or(Wait::Forever, Wait::Until)
    }
}

pub(crate) struct Worker {
    core: Mutex<Core>,
    waker: Arc<Waker>,
    pub(crate) clock: Clock,
    /// Services whose handle was dropped, maybe with the lock held.
    ended: Mutex<Vec<u64>>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the host has stopped")
}

impl Worker {
    /// A worker and what its thread sleeps in.
    pub(crate) fn new(
        core: Core,
        clock: Clock,
        links: Option<Links>,
    ) -> io::Result<(Arc<Worker>, Sleeper)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        core.mesh.set_waker(&waker);
        let ports = core.nics.iter().flat_map(|n| &n.ports).enumerate();
        for (i, port) in ports {
            if let Some(fd) = port.device.fd() {
                let raw = fd.as_raw_fd();
                poll.registry().register(&mut SourceFd(&raw), Token(i), Interest::READABLE)?;
            }
        }
        if let Some(links) = &links {
            poll.registry().register(&mut SourceFd(&links.fd()), LINKS, Interest::READABLE)?;
        }
        let sleeper = Sleeper { poll, links };
        Ok((
            Arc::new(Worker { core: Mutex::new(core), waker, clock, ended: Mutex::default() }),
            sleeper,
        ))
    }

    /// The worker's state, also of a stopped one.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock()
    }

    fn lock_running(&self) -> io::Result<MutexGuard<'_, Core>> {
        if in_callback() {
            let text = "a blocking socket in a callback of a service, which holds the worker";
            return Err(io::Error::new(io::ErrorKind::Deadlock, text));
        }
        let core = self.core.lock();
        if core.stopped { Err(stopped()) } else { Ok(core) }
    }

    /// Reads something of a vserver; nothing is transmitted after it.
    pub(crate) fn peek<R>(&self, node: u32, f: impl FnOnce(&mut Node) -> R) -> io::Result<R> {
        let mut core = self.lock_running()?;
        let _inside = core.enter();
        Ok(f(&mut core.nodes[node as usize]))
    }

    /// One application call on a vserver's stack, with everything that follows from it.
    pub(crate) fn call<R>(
        &self,
        node: u32,
        f: impl FnOnce(&mut Node, Instant) -> R,
    ) -> io::Result<R> {
        let mut core = self.lock_running()?;
        Ok(self.call_locked(&mut core, node, f))
    }

    /// Something that concerns the worker as a whole; its loop does the rest.
    pub(crate) fn with_core<R>(&self, f: impl FnOnce(&mut Core, Instant) -> R) -> io::Result<R> {
        let mut core = self.lock_running()?;
        let result = f(&mut core, self.clock.now());
        core.sleep = Sleep::Awake;
        self.wake();
        Ok(result)
    }

    fn call_locked<R>(
        &self,
        core: &mut MutexGuard<'_, Core>,
        node: u32,
        f: impl FnOnce(&mut Node, Instant) -> R,
    ) -> R {
        let _inside = core.enter();
        let now = self.clock.now();
        let result = f(&mut core.nodes[node as usize], now);
        if core.settle(now, node) {
            core.sleep = Sleep::Awake;
            self.wake();
        }
        result
    }

    /// Repeats `op` until it gives something, sleeping for the socket's events in between. With
    /// nothing in time: `WouldBlock`.
    ///
    /// This is the one place where an application thread waits. It holds the lock whenever it is
    /// awake, so it could poll the devices itself instead of sleeping.
    pub(crate) fn wait<R>(
        &self,
        node: u32,
        notify: &Notify,
        wait: Wait,
        mut op: impl FnMut(&mut Node, Instant) -> Option<io::Result<R>>,
    ) -> io::Result<R> {
        let mut core = self.lock_running()?;
        let mut last = false;
        loop {
            let seen = notify.fired();
            if let Some(result) = self.call_locked(&mut core, node, &mut op) {
                return result;
            }
            // What the call sent may have been answered already, by a vserver of this host.
            if notify.fired() != seen {
                continue;
            }
            match wait {
                _ if last => return Err(io::ErrorKind::WouldBlock.into()),
                Wait::Not => return Err(io::ErrorKind::WouldBlock.into()),
                Wait::Forever => notify.changed.wait(&mut core),
                Wait::Until(at) => {
                    last = notify.changed.wait_until(&mut core, at).timed_out();
                }
            }
            if core.stopped {
                return Err(stopped());
            }
        }
    }

    /// Ends a service soon.
    pub(crate) fn end_service(&self, number: u64) {
        self.ended.lock().push(number);
        self.wake();
    }

    pub(crate) fn wake(&self) {
        // An eventfd write fails only when its counter is full, and then it is readable.
        let _ = self.waker.wake();
    }

    /// Ends the worker's thread soon and every blocked call now.
    pub(crate) fn stop(&self) {
        self.core.lock().stop();
        self.wake();
    }

    /// Tells the peers of every connection, after the thread has ended well.
    pub(crate) fn drain(&self) {
        let mut core = self.core.lock();
        if !core.nics.is_empty() {
            core.drain(self.clock.now());
        }
    }

    /// Transmits what other workers left to this one.
    pub(crate) fn drain_mail(&self) {
        let mut core = self.core.lock();
        if !core.nics.is_empty() {
            core.drain_mail(self.clock.now());
        }
    }

    /// Closes the devices, after the thread has ended.
    pub(crate) fn close(&self) {
        let mut core = self.core.lock();
        let nics = std::mem::take(&mut core.nics);
        drop(core);
        drop(nics);
    }
}

/// A worker that panics leaves no application waiting for it.
struct StopOnPanic<'a>(&'a Worker);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

/// Runs until [`Worker::stop`].
pub(crate) fn worker_loop(
    worker: &Worker,
    mut sleeper: Sleeper,
    mode: PollMode,
    cpu: Option<usize>,
) {
    let mut events = Events::with_capacity(64);
    let mut idle_since: Option<StdInstant> = None;
    let (mut spins, mut turns) = (0u32, 0u32);
    let _stop = StopOnPanic(worker);
    let mut core = worker.lock();
    if let Some(cpu) = cpu
        && let Err(e) = pin(cpu)
    {
        core.problem(format!("pinning the worker to CPU {cpu} failed: {e}; it runs unpinned"));
    }
    while !core.stopped {
        let now = worker.clock.now();
        let worked = core.turn(now);
        turns = if worked { turns.wrapping_add(1) } else { 0 };
        if worked {
            idle_since = None;
            if !turns.is_multiple_of(TURNS_PER_POLL) {
                // Hands the lock to an application thread that waits for it.
                MutexGuard::bump(&mut core);
                continue;
            }
        }
        let spin = match mode {
            _ if worked => false,
            PollMode::Interrupt => false,
            PollMode::Adaptive => idle_since.get_or_insert_with(StdInstant::now).elapsed() < SPIN,
            PollMode::Busy => true,
        };
        spins = if spin { spins.wrapping_add(1) } else { 0 };
        if !spin && !worked {
            core.mesh.lie_down();
        }
        let at = if spin || worked { Some(now) } else { core.wake_at(now) };
        core.sleep = at.map_or(Sleep::Forever, Sleep::Until);
        let timeout = at.map(|at| at.saturating_since(now));
        let polled = MutexGuard::unlocked_fair(&mut core, || {
            if spin && !spins.is_multiple_of(SPINS_PER_POLL) {
                std::hint::spin_loop();
                return Ok(());
            }
            idle_since = if spin { idle_since } else { None };
            sleeper.poll.poll(&mut events, timeout)
        });
        core.sleep = Sleep::Awake;
        core.mesh.get_up();
        match polled {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                core.problem(format!("waiting for devices failed: {e}"));
                core.stop();
            }
        }
        if let Some(links) = &mut sleeper.links
            && events.iter().any(|e| e.token() == LINKS)
        {
            for (nic, link) in links.changes() {
                core.set_link(worker.clock.now(), nic, link);
            }
            for name in links.take_gone() {
                core.problem(format!("interface {name} was removed; restart weft when it is back"));
            }
        }
        for number in std::mem::take(&mut *worker.ended.lock()) {
            core.apps.end(number);
        }
        events.clear();
    }
}

fn pin(cpu: usize) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    if cpu >= rustix::thread::CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}
