//! The userspace-stack interface of packetdrill: `libweft_packetdrill.so`.
//!
//! The tool calls [`packetdrill_interface_init`] once and gets a table of calls. Its main thread runs
//! the script, moves time (`usleep`, `netdev_receive`) and takes packets; a second thread makes the
//! calls that block. Time is virtual: it moves only when the main thread waits. A call that can return
//! does so, and its thread reads the clock, before time moves on.
#![allow(unsafe_code, reason = "a C interface")]

use std::ffi::{CStr, c_char, c_int, c_long, c_longlong, c_void};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use weft_stack::time::Instant;

use crate::errno::{AGAIN, Errno};
use crate::host::{Host, HostConfig};
use crate::settings::Settings;

mod address;
#[cfg(feature = "preload")]
mod preload;
mod table;

pub use table::Interface;

/// What the clock advances by whenever it is read, so that who spins on it gets ahead.
const TICK: Duration = Duration::from_micros(1);
/// How long a packet is waited for: more than the idle time of keep-alives.
const PATIENCE: Duration = Duration::from_hours(3);
/// Real time for the second thread to begin a call before time moves on.
const SETTLE: Duration = Duration::from_millis(1);
/// Real time for the second thread to read the clock when a call returned.
const READ_CLOCK: Duration = Duration::from_millis(50);

struct State {
    host: Host,
    /// Grows with everything that may let a call return.
    generation: u64,
    /// Threads in a call that blocks, and those of them that have not tried this generation.
    waiting: usize,
    stale: usize,
    /// A blocked call of this thread returned; it has not read the clock yet.
    returned: Option<ThreadId>,
    /// When calls that wait return by themselves.
    deadlines: Vec<Instant>,
    /// With `realtime`: the wall clock at the host's instant.
    real: Option<(std::time::Instant, Instant)>,
}

/// What `userdata` points to.
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    main: ThreadId,
}

impl Shared {
    fn new(flags: &str) -> Result<Shared, String> {
        let mut settings = Settings::default();
        let mut real = false;
        let mut addresses = Vec::new();
        for flag in flags.split([',', ' ']).filter(|f| !f.is_empty()) {
            if flag == "realtime" {
                real = true;
            } else if let Some(local) = flag.strip_prefix("local=") {
                let (addr, len) = local.split_once('/').unwrap_or((local, "16"));
                let addr = addr.parse().map_err(|_| format!("`{addr}` is no IP address"))?;
                addresses.push((addr, len.parse().map_err(|_| format!("/{len} is no length"))?));
            } else {
                // Everything else is a sysctl, as in scripts.
                settings.command(&format!("sysctl {flag}"))?;
            }
        }
        if addresses.is_empty() {
            let v6 = std::net::Ipv6Addr::new(0xfd3d, 0xfa7b, 0xd17d, 0, 0, 0, 0, 1);
            addresses = vec![(settings.local, 16), (v6.into(), 48)];
        }
        let host = Host::new(HostConfig { stack: settings.stack, addresses, mtu: settings.mtu })?;
        let mut host = host;
        host.set_numbers(reserve);
        let real = real.then(|| (std::time::Instant::now(), host.now()));
        let state = State {
            host,
            generation: 0,
            waiting: 0,
            stale: 0,
            returned: None,
            deadlines: Vec::new(),
            real,
        };
        Ok(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            main: thread::current().id(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((wall, origin)) = state.real {
            state.host.advance(origin + wall.elapsed());
        }
        state
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        for_at_most: Duration,
    ) -> (MutexGuard<'a, State>, bool) {
        let (state, result) =
            self.changed.wait_timeout(state, for_at_most).unwrap_or_else(PoisonError::into_inner);
        (state, result.timed_out())
    }

    /// Something may have changed: lets calls that wait try again, and those that return read the
    /// clock.
    fn settle<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.generation += 1;
        state.stale = state.waiting;
        self.changed.notify_all();
        while state.stale > 0 {
            state = self.wait(state, READ_CLOCK).0;
        }
        while state.returned.is_some() {
            let (again, timed_out) = self.wait(state, READ_CLOCK);
            state = again;
            if timed_out {
                state.returned = None;
            }
        }
        state
    }

    /// Goes to the next thing that happens, at most to `to`; false: nothing is left before.
    fn step<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        to: Instant,
    ) -> (MutexGuard<'a, State>, bool) {
        let own = state.deadlines.iter().copied().filter(|d| *d > state.host.now()).min();
        let next = state.host.next_deadline().into_iter().chain(own).min().filter(|t| *t < to);
        let at = next.unwrap_or(to).max(state.host.now());
        state.host.advance(at);
        (self.settle(state), next.is_some())
    }

    /// A call that may block on `fd`: tried until it does not.
    fn call<T>(
        &self,
        blocks: impl Fn(&Host) -> bool,
        mut attempt: impl FnMut(&mut Host) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let mut state = self.lock();
        let mut waited = false;
        loop {
            let result = attempt(&mut state.host);
            let waits = matches!(result, Err(AGAIN | Errno(libc::EINPROGRESS | libc::EALREADY)));
            if !waits || !blocks(&state.host) {
                if waited {
                    state.returned = Some(thread::current().id());
                } else if thread::current().id() == self.main {
                    drop(self.settle(state));
                }
                self.changed.notify_all();
                return result;
            }
            if state.real.is_some() {
                state = self.wait(state, Duration::from_millis(1)).0;
                continue;
            }
            if thread::current().id() == self.main {
                let until = state.host.now() + PATIENCE;
                let (again, more) = self.step(state, until);
                state = again;
                if !more {
                    return result;
                }
                continue;
            }
            waited = true;
            state.waiting += 1;
            let seen = state.generation;
            while state.generation == seen {
                state = self.wait(state, READ_CLOCK).0;
            }
            state.waiting -= 1;
            state.stale = state.stale.saturating_sub(1);
        }
    }

    /// A call that waits for something until a time, at most `timeout_ms` if that is not negative.
    fn wait_for<T>(
        &self,
        timeout_ms: c_int,
        mut attempt: impl FnMut(&mut Host) -> Result<Option<T>, Errno>,
    ) -> Result<Option<T>, Errno> {
        let deadline = {
            let mut state = self.lock();
            let now = state.host.now();
            let deadline = u64::try_from(timeout_ms).ok().map(|ms| now + Duration::from_millis(ms));
            state.deadlines.extend(deadline);
            deadline
        };
        let result = self.call(
            |_| true,
            |host| match attempt(host)? {
                Some(found) => Ok(Some(found)),
                None if deadline.is_some_and(|d| host.now() >= d) => Ok(None),
                None => Err(AGAIN),
            },
        );
        if let Some(deadline) = deadline {
            self.lock().deadlines.retain(|d| *d != deadline);
        }
        result
    }

    fn sleep(&self, us: u32) {
        thread::sleep(SETTLE);
        let mut state = self.lock();
        if state.real.is_some() {
            drop(state);
            thread::sleep(Duration::from_micros(us.into()));
            return;
        }
        let to = state.host.now() + Duration::from_micros(us.into());
        let mut more = true;
        while more {
            (state, more) = self.step(state, to);
        }
    }

    fn read_clock(&self) -> u64 {
        let mut state = self.lock();
        if state.real.is_none() {
            let now = state.host.now() + TICK;
            state.host.advance(now);
        }
        if state.returned == Some(thread::current().id()) {
            state.returned = None;
            self.changed.notify_all();
        }
        state.host.now().as_micros()
    }

    fn receive(&self) -> Option<(u64, Vec<u8>)> {
        thread::sleep(SETTLE);
        let mut state = self.lock();
        let until = state.host.now() + PATIENCE;
        loop {
            if let Some((at, packet)) = state.host.take_transmitted() {
                return Some((at.as_micros(), packet));
            }
            if state.real.is_some() {
                drop(state);
                thread::sleep(Duration::from_micros(100));
                state = self.lock();
                continue;
            }
            if state.host.now() >= until {
                return None;
            }
            state = self.step(state, until).0;
        }
    }

    fn inject(&self, packet: &[u8]) {
        let mut state = self.lock();
        state.host.inject(packet);
        drop(self.settle(state));
    }
}

/// Fills packetdrill's table of calls. `flags` is the tool's `--so_flags`: words with commas or
/// spaces between: `realtime`, `local=ADDRESS/LENGTH` (once per family), or a sysctl as in scripts,
/// `net.ipv4.tcp_ecn=1`.
///
/// # Safety
/// `flags` is null or a C string; `interface` points to packetdrill's structure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn packetdrill_interface_init(
    flags: *const c_char,
    interface: *mut Interface,
) {
    let text = if flags.is_null() {
        String::new()
    } else {
        // SAFETY: the caller gives a C string.
        unsafe { CStr::from_ptr(flags) }.to_string_lossy().into_owned()
    };
    match Shared::new(&text) {
        Ok(shared) => {
            let userdata = Box::into_raw(Box::new(shared)).cast();
            #[cfg(feature = "preload")]
            preload::set(userdata);
            // SAFETY: the caller gives a structure of this layout.
            unsafe { interface.write(Interface::new(userdata)) };
        }
        Err(what) => {
            eprintln!("libweft_packetdrill: {what}");
            std::process::exit(2);
        }
    }
}

/// A number that is nobody else's in this process: the tool closes descriptors itself at its end.
fn reserve() -> Option<i32> {
    std::fs::File::open("/dev/null").ok().map(std::os::fd::IntoRawFd::into_raw_fd)
}

/// The host behind a call's first argument.
///
/// # Safety
/// `userdata` is what [`packetdrill_interface_init`] gave.
unsafe fn shared<'a>(userdata: *mut c_void) -> &'a Shared {
    // SAFETY: made by `Box::into_raw` and given back in `free` only.
    unsafe { &*userdata.cast::<Shared>() }
}

/// A result as C wants it: -1 and `errno`.
fn answer<T: Into<i64>>(result: Result<T, Errno>) -> i64 {
    match result {
        Ok(value) => value.into(),
        Err(Errno(number)) => {
            // SAFETY: the thread's own errno.
            unsafe { *libc::__errno_location() = number };
            -1
        }
    }
}
