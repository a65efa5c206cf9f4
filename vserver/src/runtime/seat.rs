//! Who polls: the worker's thread, or an application thread that waits.
//!
//! There is one *seat* per worker. Whoever has it turns the core and sleeps in the devices; a thread
//! that blocks in a call takes it if nobody else depends on the polling, so that what it waits for
//! arrives on its own CPU, without a switch of threads. `docs/host.md` has the protocol and why no
//! wake-up is lost.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::MutexGuard;
use weft_stack::time::{Duration, Instant};

use super::account::Account;
use super::core::Sleep;
use super::idle::Idle;
use super::sleeper::Woken;
use super::worker::{StopOnPanic, Wait, Worker};
use super::{Core, Links, Notify, Queue};
use crate::config::PollMode;

/// How long the devices may go unwatched after an application thread left the seat: it mostly comes
/// back to wait for the next answer, and waking the worker's thread each time would cost more than
/// the wait saved.
const LEASE: Duration = Duration::from_micros(500);
/// A thread takes the seat from a worker's thread that sleeps only if waits follow each other this
/// closely; for a rare one the worker's thread is as good.
const RECENT: Duration = Duration::from_millis(1);
/// How often who does not sleep asks for link changes: by time, for turns under load take long, and
/// connections stand still until a link that was lost is known to be.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Looks of a worker that never sleeps between two readings of the clock.
const LOOKS_PER_TURN: u32 = 16;
/// After so many turns without a sleep the devices need not tell of frames any more: for a worker
/// that sleeps soon again the two system calls would cost more than the wake-ups of nobody.
const TURNS_UNTIL_UNWATCHED: u32 = 64;

/// Who turns the core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Seat {
    /// The worker's thread.
    #[default]
    Worker,
    /// A waiting application thread.
    Waiter,
    /// Nobody since then; the worker's thread comes after [`LEASE`], or when it is woken.
    Vacant(Instant),
}

/// What a waiting thread waits for.
#[derive(Clone, Copy)]
pub(crate) enum Awaited<'a> {
    /// Another event of a socket than the so-many-th.
    Socket(&'a Arc<Notify>, u32),
    /// An entry in a poller's list.
    Queue(&'a Arc<Queue>),
}

impl Awaited<'_> {
    fn is_there(&self) -> bool {
        match self {
            Awaited::Socket(notify, seen) => notify.fired() != *seen,
            Awaited::Queue(queue) => queue.is_ready(),
        }
    }
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Event,
    TimedOut,
}

/// The part of a [`Core`] that polling is about.
#[derive(Debug)]
pub(crate) struct Polling {
    pub(crate) mode: PollMode,
    pub(crate) seat: Seat,
    /// Counts changes of the seat.
    changes: u64,
    /// The worker's thread sleeps in the devices, whoever has the seat.
    worker_in_set: bool,
    /// The waiter with the seat does.
    waiter_in_set: bool,
    /// The socket event that it sleeps for.
    asleep_for: Option<(Arc<Notify>, u32)>,
    /// Until when the worker's thread sleeps without the seat.
    parked: Sleep,
    /// Application threads asleep on their sockets.
    waiters: usize,
    /// When one last ended a wait.
    last_wait: Instant,
    idle: Idle,
    /// Since when nobody slept or asked for link changes.
    unlooked: Option<Instant>,
    /// Turns since the last sleep in the devices.
    awake: u32,
    pub(crate) account: Account,
    pub(crate) links: Option<Links>,
}

impl Polling {
    pub(crate) fn new(mode: PollMode) -> Polling {
        Polling {
            mode,
            seat: Seat::Worker,
            changes: 0,
            worker_in_set: false,
            waiter_in_set: false,
            asleep_for: None,
            parked: Sleep::Awake,
            waiters: 0,
            last_wait: Instant::default(),
            idle: Idle::default(),
            unlooked: None,
            awake: 0,
            account: Account::default(),
            links: None,
        }
    }

    /// The waiter that sleeps in the devices has its event, made by a call of another thread.
    pub(crate) fn sleeper_has_event(&self) -> bool {
        self.asleep_for.as_ref().is_some_and(|(notify, seen)| notify.fired() != *seen)
    }

    /// Whether link changes have to be asked for, after a turn that is not followed by a sleep.
    fn is_look_due(&mut self, now: Instant) -> bool {
        let since = *self.unlooked.get_or_insert(now);
        now.saturating_since(since) >= LOOK_EVERY
    }

    fn sit(&mut self, seat: Seat) {
        self.seat = seat;
        self.changes += 1;
    }
}

/// What [`Worker`] has for this beside the core.
#[derive(Debug, Default)]
pub(crate) struct Dependents {
    /// Threads asleep on pollers with sockets of this worker.
    pollers: AtomicUsize,
    /// Somebody watches descriptors that the worker writes: a mio registration, a poller in another
    /// event loop. For good, since such programs do it all the time.
    watched: AtomicBool,
}

impl Dependents {
    /// From now on an event has to be noticed at once although nobody waits for it in a call.
    pub(crate) fn watched(&self) {
        self.watched.store(true, Ordering::Relaxed);
    }
}

impl Core {
    /// Devices tell of frames only if somebody may sleep.
    pub(super) fn watch_devices(&mut self, mode: PollMode) -> io::Result<()> {
        let ports = self.nics.iter_mut().flat_map(|n| &mut n.ports);
        ports.map(|p| p.device.watch(mode != PollMode::Busy)).fold(Ok(()), io::Result::and)
    }

    fn counted_turn(&mut self, now: Instant, waiter: bool) -> bool {
        if self.poll.account.begin(now, waiter) {
            self.shares.slept();
        }
        let worked = self.may_work(now) && self.turn(now);
        self.poll.account.end(worked);
        worked
    }

    /// Who never sleeps looks some times for work without asking for the time, which takes longer
    /// than the look.
    fn look(&mut self) {
        if self.poll.mode == PollMode::Busy {
            for _ in 0..LOOKS_PER_TURN {
                if self.has_work() {
                    return;
                }
            }
        }
    }

    /// Whether the devices' descriptors have to tell of frames.
    fn watch(&mut self, on: bool) -> io::Result<()> {
        let ports = self.nics.iter_mut().flat_map(|n| &mut n.ports);
        ports.map(|p| p.device.watch(on)).fold(Ok(()), io::Result::and)
    }
}

impl Worker {
    /// Somebody other than a thread in the seat needs events noticed at once.
    fn has_dependents(&self, core: &Core) -> bool {
        core.poll.waiters > 0
            || !core.apps.is_empty()
            || self.dependents.watched.load(Ordering::Relaxed)
            || self.dependents.pollers.load(Ordering::Relaxed) > 0
    }

    /// When the worker's thread has to take a vacant seat.
    fn takeover_at(&self, core: &Core, left: Instant, now: Instant) -> Instant {
        let lease = left + LEASE;
        if self.has_dependents(core) {
            return now;
        }
        core.wake_at(now).map_or(lease, |due| due.min(lease))
    }

    /// Takes the seat for a thread that waits, if that is of use.
    pub(super) fn try_sit(&self, core: &mut Core) -> bool {
        if core.poll.seat == Seat::Waiter || self.has_dependents(core) {
            return false;
        }
        if core.poll.worker_in_set {
            let now = self.clock.now();
            if now.saturating_since(core.poll.last_wait) > RECENT {
                return false;
            }
            self.wake();
        }
        core.poll.sit(Seat::Waiter);
        core.mesh.get_up();
        core.poll.account.seats_taken += 1;
        core.sleep = Sleep::Awake;
        true
    }

    /// The calling thread will sleep: somebody has to be in the seat.
    fn needs_a_poller(&self, core: &mut Core) {
        if matches!(core.poll.seat, Seat::Vacant(_)) {
            core.sleep = Sleep::Awake;
            self.wake();
        }
    }

    /// Gives the seat back.
    pub(super) fn leave(&self, core: &mut Core) {
        let now = self.clock.now();
        core.poll.last_wait = now;
        core.poll.account.rest();
        if core.stopped || core.poll.worker_in_set {
            // The worker's thread did not notice that it had lost the seat, or has to end.
            core.poll.sit(Seat::Worker);
            core.sleep = Sleep::Awake;
            core.mesh.get_up();
            return self.wake();
        }
        core.poll.sit(Seat::Vacant(now));
        core.mesh.lie_down();
        let due = self.takeover_at(core, now, now);
        if core.poll.parked.is_before(due) {
            core.sleep = core.poll.parked;
        } else {
            core.sleep = Sleep::Awake;
            self.wake();
        }
    }

    /// Waits, with the lock, for something that only turns and calls can bring. `seated`: whether the
    /// thread has the seat; it stays so, for the next wait of the same call.
    pub(super) fn await_event(
        &self,
        core: &mut MutexGuard<'_, Core>,
        awaited: Awaited<'_>,
        until: Option<Instant>,
        seated: &mut bool,
    ) -> Ended {
        *seated = *seated || self.try_sit(core);
        if *seated {
            return self.poll_for(core, awaited, until);
        }
        let Awaited::Socket(notify, _) = awaited else { return Ended::TimedOut };
        core.poll.waiters += 1;
        self.needs_a_poller(core);
        let timed_out = match until {
            None => {
                notify.changed.wait(core);
                false
            }
            Some(at) => notify.changed.wait_until(core, self.clock.at(at)).timed_out(),
        };
        core.poll.waiters -= 1;
        core.poll.last_wait = self.clock.now();
        if timed_out { Ended::TimedOut } else { Ended::Event }
    }

    /// Polls the devices until the event is there.
    fn poll_for(
        &self,
        core: &mut MutexGuard<'_, Core>,
        awaited: Awaited<'_>,
        until: Option<Instant>,
    ) -> Ended {
        loop {
            core.look();
            let now = self.clock.now();
            let worked = core.counted_turn(now, true);
            if core.stopped || awaited.is_there() {
                return Ended::Event;
            }
            if until.is_some_and(|at| at <= now) {
                return Ended::TimedOut;
            }
            self.between_turns(core, now, worked, Some((awaited, until)));
            if core.stopped || awaited.is_there() {
                return Ended::Event;
            }
        }
    }

    /// One turn of the worker's thread, or its sleep while another has the seat. `seen` is how often
    /// the seat had changed when it last slept so.
    pub(super) fn round(&self, core: &mut MutexGuard<'_, Core>, seen: &mut u64) {
        match core.poll.seat {
            Seat::Worker => {
                core.look();
                let now = self.clock.now();
                let worked = core.counted_turn(now, false);
                self.between_turns(core, now, worked, None);
            }
            Seat::Vacant(left) => {
                core.mesh.lie_down();
                let now = self.clock.now();
                let due = self.takeover_at(core, left, now);
                if due <= now {
                    core.mesh.get_up();
                    return core.poll.sit(Seat::Worker);
                }
                self.park(core, now, Some(due));
            }
            Seat::Waiter => {
                let now = self.clock.now();
                // A thread that comes and goes is looked after again soon, so that it does not have
                // to wake this one each time it goes.
                let until = (core.poll.changes != *seen).then(|| now + LEASE);
                self.park(core, now, until);
            }
        }
        *seen = core.poll.changes;
    }

    fn park(&self, core: &mut MutexGuard<'_, Core>, now: Instant, until: Option<Instant>) {
        let vacant = core.poll.seat != Seat::Waiter;
        core.poll.parked = until.map_or(Sleep::Forever, Sleep::Until);
        if vacant {
            core.sleep = core.poll.parked;
        }
        let timeout = until.map(|at| at.saturating_since(now));
        let parked = MutexGuard::unlocked(core, || self.sleeper.park(timeout));
        core.poll.parked = Sleep::Awake;
        if core.poll.seat != Seat::Waiter {
            core.sleep = Sleep::Awake;
        }
        self.slept(core, parked);
    }

    /// After a turn: hands the lock to who waits for it, looks again at once, or sleeps.
    fn between_turns(
        &self,
        core: &mut MutexGuard<'_, Core>,
        now: Instant,
        worked: bool,
        waiter: Option<(Awaited<'_>, Option<Instant>)>,
    ) {
        let poll = &mut core.poll;
        let mode = poll.mode;
        let mut at = Some(now);
        if worked {
            poll.idle.worked(now, mode);
        } else {
            // Who never sleeps needs no deadline to sleep for.
            let due = if mode == PollMode::Busy { None } else { core.wake_at(now) };
            if !core.poll.idle.look_again(now, mode, due) {
                let until = waiter.and_then(|(_, until)| until);
                at = [due, until].into_iter().flatten().min();
            } else if mode != PollMode::Busy {
                // Whoever is to be as fast as can be does without the pause, which takes longer than
                // the look itself.
                std::hint::spin_loop();
            }
        }
        let mut sleeps = at.is_none_or(|at| at > now);
        if sleeps {
            core.mesh.lie_down();
            if core.has_mail() {
                core.mesh.get_up();
                sleeps = false;
            }
        }
        if sleeps || core.poll.is_look_due(now) {
            core.poll.unlooked = None;
            self.sleep_in_set(core, (now, at), !sleeps, waiter.map(|(awaited, _)| awaited));
        } else {
            core.poll.awake = core.poll.awake.saturating_add(1);
            if core.poll.awake == TURNS_UNTIL_UNWATCHED {
                let unwatched = core.watch(false);
                self.slept(core, unwatched);
            }
            MutexGuard::bump(core);
        }
    }

    fn sleep_in_set(
        &self,
        core: &mut MutexGuard<'_, Core>,
        (now, at): (Instant, Option<Instant>),
        looks: bool,
        awaited: Option<Awaited<'_>>,
    ) {
        let waiter = awaited.is_some();
        core.sleep = at.map_or(Sleep::Forever, Sleep::Until);
        if waiter {
            core.poll.waiter_in_set = true;
        } else {
            core.poll.worker_in_set = true;
        }
        let mut rings = None;
        match awaited {
            Some(Awaited::Socket(notify, seen)) => {
                core.poll.asleep_for = Some((Arc::clone(notify), seen));
            }
            Some(Awaited::Queue(queue)) => {
                queue.ring_on_entry(Some(Arc::clone(&self.sleeper)));
                rings = Some(queue);
            }
            None => {}
        }
        if !looks {
            core.poll.account.rest();
            core.poll.account.sleeps += 1;
        }
        // An entry that a poller's list got before it could ring is there already.
        let skip = rings.is_some_and(|queue| queue.is_ready());
        let watched = if looks { Ok(()) } else { core.watch(true) };
        core.poll.awake = if looks { core.poll.awake } else { 0 };
        let woken = MutexGuard::unlocked(core, || {
            watched?;
            match (skip, looks) {
                (true, _) => Ok(Woken::default()),
                (_, true) => self.sleeper.look(),
                _ => self.sleeper.sleep(now, at),
            }
        });
        if let Some(queue) = rings {
            queue.ring_on_entry(None);
        }
        let poll = &mut core.poll;
        if let Ok(woken) = &woken {
            poll.account.wakeups += u64::from(woken.event && !looks);
        }
        if waiter {
            poll.waiter_in_set = false;
            poll.asleep_for = None;
            core.sleep = Sleep::Awake;
            core.mesh.get_up();
        } else {
            poll.worker_in_set = false;
            self.back_from_set(core);
        }
        let links = woken.as_ref().is_ok_and(|w| w.links);
        self.slept(core, woken.map(drop));
        if links {
            core.apply_links(self.clock.now());
        }
    }

    /// The worker's thread comes back from the devices. If it lost the seat meanwhile, it may have
    /// taken an event that the one who has it sleeps for: it does the work, and rings.
    fn back_from_set(&self, core: &mut MutexGuard<'_, Core>) {
        if core.poll.seat != Seat::Waiter {
            core.sleep = Sleep::Awake;
            core.mesh.get_up();
            return;
        }
        let now = self.clock.now();
        core.counted_turn(now, false);
        if core.poll.waiter_in_set {
            core.poll.account.rest();
            self.wake();
        }
    }

    fn slept(&self, core: &mut Core, result: io::Result<()>) {
        if let Err(e) = result {
            core.problem(format!("waiting for devices failed: {e}"));
            core.stop();
        }
        self.clear_up(core);
    }

    /// Waits until a poller's list has an entry, as the one who polls if nobody else depends on that;
    /// otherwise `sleep` does, which waits on the list alone.
    pub(crate) fn wait_queue(&self, queue: &Arc<Queue>, wait: Wait, sleep: impl FnOnce()) {
        if queue.is_ready() {
            return;
        }
        let _stop = StopOnPanic(self);
        let Ok(mut core) = self.lock_running() else { return sleep() };
        if self.try_sit(&mut core) {
            let until = match wait {
                Wait::Not => Some(Instant::default()),
                Wait::Forever => None,
                Wait::Until(at) => Some(self.clock.instant(at)),
            };
            self.poll_for(&mut core, Awaited::Queue(queue), until);
            return self.leave(&mut core);
        }
        self.dependents.pollers.fetch_add(1, Ordering::Relaxed);
        self.needs_a_poller(&mut core);
        drop(core);
        sleep();
        self.dependents.pollers.fetch_sub(1, Ordering::Relaxed);
        self.lock().poll.last_wait = self.clock.now();
    }
}

#[cfg(test)]
mod tests;
