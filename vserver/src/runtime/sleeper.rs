//! What the threads of one worker sleep in.
//!
//! One epoll set holds the devices, the link monitor and a bell (an event counter), all by edges.
//! Whoever has the seat (`seat.rs`) sleeps in it; the worker's thread without the seat sleeps in a
//! second set with the bell alone. Ringing reaches both, from any thread and without a lock. Each
//! set remembers the edge until somebody comes to sleep. The counter is never read: that would take
//! the edge from the other set too.
//!
//! Deadlines that are not near are a timer in the set, which stays armed when a sleep ends early: as a
//! rule the deadline of the next sleep is no earlier, so that the timer still does for it. To set and
//! take back a timeout of each sleep means to program the clock twice, which in a virtual machine
//! costs more than a wake-up now and then that finds nothing due.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use weft_stack::time::Instant;

use super::notify::{new_eventfd, signal};

const BELL: u64 = u64::MAX;
const LINKS: u64 = u64::MAX - 1;
const TIMER: u64 = u64::MAX - 2;
const DEVICE: u64 = 0;

/// Deadlines nearer than this are timeouts of one sleep: they mostly come, and the next is another.
const NEAR: Duration = Duration::from_micros(250);
/// The timer is not armed.
const NEVER: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Sleeper {
    set: OwnedFd,
    /// With the bell only.
    parking: OwnedFd,
    bell: OwnedFd,
    timer: OwnedFd,
    /// When the timer rings, in nanoseconds of the host's time.
    armed: AtomicU64,
}

/// Why a sleep ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Woken {
    /// By a device, a link or the bell; not by the clock.
    pub(crate) event: bool,
    /// The link monitor has something.
    pub(crate) links: bool,
    /// The timer rang, maybe for an earlier sleep.
    timer: bool,
}

fn timespec(time: Duration) -> Option<Timespec> {
    // What does not fit is for ever.
    Timespec::try_from(time).ok()
}

impl Sleeper {
    pub(crate) fn new() -> io::Result<Sleeper> {
        let new_set = || epoll::create(epoll::CreateFlags::CLOEXEC);
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        let sleeper = Sleeper {
            set: new_set()?,
            parking: new_set()?,
            bell: new_eventfd()?,
            timer,
            armed: AtomicU64::new(NEVER),
        };
        add(&sleeper.set, sleeper.timer.as_fd(), TIMER)?;
        add(&sleeper.set, sleeper.bell.as_fd(), BELL)?;
        add(&sleeper.parking, sleeper.bell.as_fd(), BELL)?;
        Ok(sleeper)
    }

    pub(crate) fn add_device(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        add(&self.set, fd, DEVICE)
    }

    pub(crate) fn add_links(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        add(&self.set, fd, LINKS)
    }

    /// Ends the sleep of whoever sleeps, or the next one.
    pub(crate) fn ring(&self) {
        signal(&self.bell);
    }

    /// Sleeps until something happens or `until`; from time to time a little less, so that whoever
    /// sleeps looks what is due.
    pub(crate) fn sleep(&self, now: Instant, until: Option<Instant>) -> io::Result<Woken> {
        let Some(until) = until else { return self.wait(None) };
        if self.armed.load(Ordering::Relaxed) <= until.as_nanos() {
            return self.wait(None);
        }
        let timeout = until.saturating_since(now);
        if timeout < NEAR {
            return self.wait(Some(timeout));
        }
        let Some(value) = timespec(timeout) else { return self.wait(None) };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // Before the timer: an edge that comes at once finds it armed.
        self.armed.store(until.as_nanos(), Ordering::Relaxed);
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        self.wait(None)
    }

    /// Looks what has happened, without sleeping.
    pub(crate) fn look(&self) -> io::Result<Woken> {
        self.wait(Some(Duration::ZERO))
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<Woken> {
        let woken = wait(&self.set, timeout)?;
        if woken.timer {
            self.armed.store(NEVER, Ordering::Relaxed);
        }
        Ok(woken)
    }

    /// Sleeps until the bell rings or `timeout` has passed.
    pub(crate) fn park(&self, timeout: Option<Duration>) -> io::Result<()> {
        wait(&self.parking, timeout).map(drop)
    }
}

fn add(set: &OwnedFd, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    Ok(epoll::add(set, fd, epoll::EventData::new_u64(token), flags)?)
}

fn wait(set: &OwnedFd, timeout: Option<Duration>) -> io::Result<Woken> {
    let timeout = timeout.and_then(timespec);
    let data = epoll::EventData::new_u64(0);
    let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data }; 16];
    let n = ignore_interrupt(epoll::wait(set, &mut events[..], timeout.as_ref()))?;
    let has = |token| events[..n].iter().any(|e| e.data.u64() == token);
    let timer = has(TIMER);
    Ok(Woken { event: n > usize::from(timer), links: has(LINKS), timer })
}

fn ignore_interrupt(result: rustix::io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(rustix::io::Errno::INTR) => Ok(0),
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_millis(1);

    fn after(us: u64) -> Instant {
        Instant::from_nanos(START.as_nanos() + us * 1000)
    }

    #[test]
    fn a_ring_before_the_sleep_ends_it() {
        let sleeper = Sleeper::new().unwrap();
        sleeper.ring();
        let woken = sleeper.sleep(START, None).unwrap();
        assert_eq!(woken, Woken { event: true, ..Woken::default() });
        sleeper.park(None).unwrap();
        sleeper.ring();
        sleeper.park(None).unwrap();
        assert!(
            sleeper.sleep(START, None).unwrap().event,
            "who parks takes no ring from who sleeps"
        );
    }

    #[test]
    fn a_deadline_ends_a_sleep_near_or_far_and_an_earlier_one_is_kept() {
        let sleeper = Sleeper::new().unwrap();
        let sleep = |us| sleeper.sleep(START, Some(after(us))).unwrap();
        assert_eq!(sleep(1), Woken::default());
        for _ in 0..2 {
            assert_eq!(sleep(1000), Woken { timer: true, ..Woken::default() });
        }
        // A sleep that ends early leaves the timer armed; it does for a later deadline, not for an
        // earlier one.
        sleeper.ring();
        assert!(sleep(2_000_000).event);
        let armed = || sleeper.armed.load(Ordering::Relaxed);
        let first = armed();
        sleeper.ring();
        assert!(sleep(3_000_000).event && armed() == first);
        assert!(sleep(2000).timer && armed() == NEVER);
        // So does one for ever, and one that rang while nobody slept.
        sleeper.ring();
        assert!(sleep(300).event);
        assert!(sleeper.sleep(START, None).unwrap().timer);
    }

    #[test]
    fn each_ring_is_a_new_edge() {
        let sleeper = Sleeper::new().unwrap();
        for _ in 0..3 {
            sleeper.ring();
            assert!(sleeper.sleep(START, None).unwrap().event);
            assert!(!sleeper.look().unwrap().event);
        }
    }
}
