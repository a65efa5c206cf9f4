//! What the threads of one worker sleep in.
//!
//! One epoll set holds the devices, the link monitor and a bell (an event counter), all by edges.
//! Whoever has the seat (`seat.rs`) sleeps in it; the worker's thread without the seat sleeps in a
//! second set with the bell alone. Ringing reaches both, from any thread and without a lock. Each
//! set remembers the edge until somebody comes to sleep. The counter is never read: that would take
//! the edge from the other set too.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};

use super::notify::{new_eventfd, signal};

const BELL: u64 = u64::MAX;
const LINKS: u64 = u64::MAX - 1;
const DEVICE: u64 = 0;

#[derive(Debug)]
pub(crate) struct Sleeper {
    set: OwnedFd,
    /// With the bell only.
    parking: OwnedFd,
    bell: OwnedFd,
}

/// Why a sleep ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Woken {
    /// By a device, a link or the bell; not by the clock.
    pub(crate) event: bool,
    /// The link monitor has something.
    pub(crate) links: bool,
}

fn timespec(time: Duration) -> Option<Timespec> {
    // What does not fit is for ever.
    Timespec::try_from(time).ok()
}

impl Sleeper {
    pub(crate) fn new() -> io::Result<Sleeper> {
        let new_set = || epoll::create(epoll::CreateFlags::CLOEXEC);
        let sleeper = Sleeper { set: new_set()?, parking: new_set()?, bell: new_eventfd()? };
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

    /// Sleeps until something happens or `timeout` has passed; zero only looks.
    pub(crate) fn sleep(&self, timeout: Option<Duration>) -> io::Result<Woken> {
        wait(&self.set, timeout)
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
    let links = events[..n].iter().any(|e| e.data.u64() == LINKS);
    Ok(Woken { event: n > 0, links })
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

    #[test]
    fn a_ring_before_the_sleep_ends_it() {
        let sleeper = Sleeper::new().unwrap();
        sleeper.ring();
        assert_eq!(sleeper.sleep(None).unwrap(), Woken { event: true, links: false });
        sleeper.park(None).unwrap();
        sleeper.ring();
        sleeper.park(None).unwrap();
        assert!(sleeper.sleep(None).unwrap().event, "who parks takes no ring from who sleeps");
    }

    #[test]
    fn each_ring_is_a_new_edge() {
        let sleeper = Sleeper::new().unwrap();
        for _ in 0..3 {
            sleeper.ring();
            assert!(sleeper.sleep(None).unwrap().event);
            assert!(!sleeper.sleep(Some(Duration::from_micros(1))).unwrap().event);
        }
    }
}
