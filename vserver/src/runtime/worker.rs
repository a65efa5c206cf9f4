//! The worker: its lock, its thread, and how application calls go through both.

use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant as StdInstant};

use parking_lot::{Mutex, MutexGuard};
use weft_drivers::device::Device;
use weft_stack::socket::{SocketId, SocketKind};
use weft_stack::time::Instant;

use super::core::Sleep;
use super::seat::{Awaited, Dependents, Ended};
use super::sleeper::Sleeper;
use super::{Core, Links, Node, NodeId, Notify, removed};
use crate::app::in_callback;
use crate::config::PollMode;

/// How late the kernel may end a sleep of the worker's thread to save a wake-up, in nanoseconds: the
/// default of 50 us is longer than what the pacer spreads.
const TIMER_SLACK_NS: u64 = 1_000;
/// Frames per call of a device's busy polling, and microseconds: what `poll = "busy"` asks for.
const BUSY_POLL: (u16, u32) = (64, 20);

/// The host's time: nanoseconds since it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(StdInstant);

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock(StdInstant::now())
    }

    pub(crate) fn now(&self) -> Instant {
        self.instant(StdInstant::now())
    }

    pub(crate) fn instant(&self, at: StdInstant) -> Instant {
        Instant::from_nanos(at.saturating_duration_since(self.0).as_nanos() as u64)
    }

    pub(crate) fn at(&self, at: Instant) -> StdInstant {
        self.0 + Duration::from_nanos(at.as_nanos())
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
    /// Whether it may wait at all.
    pub(crate) fn waits(self) -> bool {
        !matches!(self, Wait::Not)
    }

    /// From now on; longer than the clock can tell is for ever.
    pub(crate) fn at_most(timeout: Duration) -> Wait {
        StdInstant::now().checked_add(timeout).map_or(Wait::Forever, Wait::Until)
    }
}

pub(crate) struct Worker {
    core: Mutex<Core>,
    pub(super) sleeper: Arc<Sleeper>,
    pub(crate) clock: Clock,
    pub(crate) dependents: Dependents,
    /// What was left by who may hold the lock.
    pub(super) left: Mutex<Vec<Left>>,
}

/// A handle that was dropped.
#[derive(Clone, Copy, Debug)]
pub(super) enum Left {
    /// Of a service.
    Service(u64),
    /// Of a socket.
    Socket(NodeId, SocketId, Leave),
}

/// How a socket is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// What was sent is still delivered.
    Close,
    /// A connection is reset.
    Abort,
}

fn leave(node: &mut Node, now: Instant, id: SocketId, how: Leave) {
    node.sockets.remove(&id);
    node.races.give_up(&mut node.stack, now, id);
    match id.kind {
        SocketKind::Udp => node.stack.udp_close(id),
        SocketKind::Raw | SocketKind::Icmp => node.stack.raw_close(id),
        SocketKind::TcpListener | SocketKind::TcpStream if how == Leave::Abort => {
            node.stack.tcp_abort(now, id);
        }
        SocketKind::TcpListener | SocketKind::TcpStream => node.stack.tcp_close(now, id),
    }
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
    /// A worker that watches its devices and `links`.
    pub(crate) fn new(
        mut core: Core,
        clock: Clock,
        links: Option<Links>,
    ) -> io::Result<Arc<Worker>> {
        let sleeper = Arc::new(Sleeper::new()?);
        core.mesh.set_bell(&sleeper);
        for fd in core.nics.iter().flat_map(|n| &n.ports).filter_map(|p| p.device.fd()) {
            sleeper.add_device(fd)?;
        }
        if let Some(links) = &links {
            sleeper.add_links(links.fd())?;
        }
        core.poll.links = links;
        let mode = core.poll.mode;
        if let Err(e) = core.watch_devices(mode) {
            core.problem(format!("telling devices that they are polled: {e}"));
        }
        Ok(Arc::new(Worker {
            core: Mutex::new(core),
            sleeper,
            clock,
            dependents: Dependents::default(),
            left: Mutex::default(),
        }))
    }

    /// The worker's state, also of a stopped one.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock()
    }

    pub(crate) fn lock_running(&self) -> io::Result<MutexGuard<'_, Core>> {
        if in_callback() {
            let text = "a blocking socket in a callback of a service, which holds the worker";
            return Err(io::Error::new(io::ErrorKind::Deadlock, text));
        }
        let core = self.core.lock();
        if core.stopped { Err(stopped()) } else { Ok(core) }
    }

    /// Reads something of a vserver; nothing is transmitted after it.
    pub(crate) fn peek<R>(&self, node: NodeId, f: impl FnOnce(&mut Node) -> R) -> io::Result<R> {
        let mut core = self.lock_running()?;
        let _inside = core.enter();
        Ok(f(core.node_mut(node).ok_or_else(removed)?))
    }

    /// One application call on a vserver's stack, with everything that follows from it.
    pub(crate) fn call<R>(
        &self,
        node: NodeId,
        f: impl FnOnce(&mut Node, Instant) -> R,
    ) -> io::Result<R> {
        let mut core = self.lock_running()?;
        self.call_locked(&mut core, node, f)
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
        node: NodeId,
        f: impl FnOnce(&mut Node, Instant) -> R,
    ) -> io::Result<R> {
        let _inside = core.enter();
        let now = self.clock.now();
        let result = f(core.node_mut(node).ok_or_else(removed)?, now);
        core.poll.account.calls += 1;
        if core.settle(now, node.index) {
            core.sleep = Sleep::Awake;
            self.wake();
        } else if core.poll.sleeper_has_event() {
            self.wake();
        }
        Ok(result)
    }

    /// Repeats `op` until it gives something, waiting for the socket's events in between. With
    /// nothing in time: `WouldBlock`.
    ///
    /// This is the one place where an application thread waits for a socket; it polls the devices
    /// meanwhile, unless somebody else does.
    pub(crate) fn wait<R>(
        &self,
        node: NodeId,
        notify: &Arc<Notify>,
        wait: Wait,
        mut op: impl FnMut(&mut Node, Instant) -> Option<io::Result<R>>,
    ) -> io::Result<R> {
        let _stop = StopOnPanic(self);
        let mut core = self.lock_running()?;
        let mut seated = false;
        let result = self.wait_locked(&mut core, node, notify, wait, &mut op, &mut seated);
        if seated {
            self.leave(&mut core);
        }
        result
    }

    fn wait_locked<R>(
        &self,
        core: &mut MutexGuard<'_, Core>,
        node: NodeId,
        notify: &Arc<Notify>,
        wait: Wait,
        op: &mut impl FnMut(&mut Node, Instant) -> Option<io::Result<R>>,
        seated: &mut bool,
    ) -> io::Result<R> {
        let mut last = false;
        loop {
            let seen = notify.fired();
            if let Some(result) = self.call_locked(core, node, &mut *op)? {
                return result;
            }
            // What the call sent may have been answered already, by a vserver of this host.
            if notify.fired() != seen {
                continue;
            }
            let until = match wait {
                _ if last => return Err(io::ErrorKind::WouldBlock.into()),
                Wait::Not => return Err(io::ErrorKind::WouldBlock.into()),
                Wait::Forever => None,
                Wait::Until(at) => Some(self.clock.instant(at)),
            };
            let ended = self.await_event(core, Awaited::Socket(notify, seen), until, seated);
            last = ended == Ended::TimedOut;
            if core.stopped {
                return Err(stopped());
            }
        }
    }

    /// Takes one of what waits at a binding for any vserver, of the vserver whose turn it is, with
    /// everything that follows from it.
    pub(crate) fn any_take<R>(
        &self,
        number: u32,
        take: &mut impl FnMut(&mut Node, SocketId) -> (Option<R>, bool),
    ) -> io::Result<Option<(NodeId, R)>> {
        let mut core = self.lock_running()?;
        while let Some((index, id)) = core.any_next(number) {
            let at = core.id_of(index);
            let (taken, more) = self.call_locked(&mut core, at, |node, _| take(node, id))?;
            if more {
                core.any_more(number, (index, id));
            }
            if let Some(taken) = taken {
                return Ok(Some((at, taken)));
            }
        }
        Ok(None)
    }

    /// Ends a service soon.
    pub(crate) fn end_service(&self, number: u64) {
        self.left.lock().push(Left::Service(number));
        self.wake();
    }

    /// Gives up a socket: now, or soon if this thread is in a callback, which holds a worker's lock.
    pub(crate) fn give_up(&self, node: NodeId, id: SocketId, how: Leave) {
        if in_callback() {
            self.left.lock().push(Left::Socket(node, id, how));
            return self.wake();
        }
        // After the host stopped there is nothing left to close.
        let _ = self.call(node, |node, now| leave(node, now, id, how));
    }

    /// Does what was left.
    pub(super) fn clear_up(&self, core: &mut Core) {
        // Not locked meanwhile: the end of a service may leave more.
        let all = std::mem::take(&mut *self.left.lock());
        for left in all {
            match left {
                Left::Service(number) => core.apps.end(number),
                Left::Socket(at, id, how) => {
                    let now = self.clock.now();
                    if let Some(node) = core.node_mut(at) {
                        leave(node, now, id, how);
                        core.mark_dirty(at.index);
                    }
                }
            }
        }
    }

    /// Ends those services at once, so that what they listened on is free again.
    pub(crate) fn end_services_now(&self) {
        // A host that has stopped ends them with everything else.
        let _ = self.with_core(|core, now| {
            self.clear_up(core);
            core.finish_services(now);
        });
    }

    /// Changes how the worker waits, from now on. Errors are the devices'; the worker's part is
    /// done whatever they say.
    pub(crate) fn set_poll_mode(&self, mode: PollMode) -> io::Result<()> {
        self.with_core(|core, _| {
            core.poll.mode = mode;
            let (budget, us) = if mode == PollMode::Busy { BUSY_POLL } else { (0, 0) };
            let watch = core.watch_devices(mode);
            let ports = core.nics.iter_mut().flat_map(|n| &mut n.ports);
            ports.map(|p| p.device.set_busy_poll(budget, us)).fold(watch, io::Result::and)
        })?
    }

    /// Whoever polls looks at everything again, soon. From any thread, without the lock.
    pub(crate) fn wake(&self) {
        self.sleeper.ring();
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

    /// Closes the devices, after the thread has ended. Services go too: they may have handles of
    /// their host, which would keep it in memory.
    pub(crate) fn close(&self) {
        let mut core = self.core.lock();
        core.apps.shut();
        let nics = std::mem::take(&mut core.nics);
        drop(core);
        drop(nics);
    }
}

/// A thread that panics in a turn leaves no application waiting for it.
pub(super) struct StopOnPanic<'a>(pub(super) &'a Worker);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

/// Runs until [`Worker::stop`].
pub(crate) fn worker_loop(worker: &Worker, cpu: Option<usize>) {
    let _stop = StopOnPanic(worker);
    let mut core = worker.lock();
    if let Some(cpu) = cpu
        && let Err(e) = pin(cpu)
    {
        core.problem(format!("pinning the worker to CPU {cpu} failed: {e}; it runs unpinned"));
    }
    // Without it deadlines are met later, no more.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(TIMER_SLACK_NS));
    let mut seen = 0;
    while !core.stopped {
        worker.round(&mut core, &mut seen);
    }
    // A waiter that polled may have taken the ring.
    worker.wake();
}

fn pin(cpu: usize) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    if cpu >= rustix::thread::CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}
