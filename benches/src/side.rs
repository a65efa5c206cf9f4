//! The child process: one engine in one role. It speaks lines with the program that started it:
//!
//! ```text
//!   server  -> READY            it answers
//!   client  -> BEGIN, END       the measured time, passed on to the server
//!   server <-  begin, end, stop
//!   both    -> {...}            one line of JSON, the last
//! ```
//! Everything else goes to standard error, which becomes the reason if the side fails.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::outcome::{CpuSeconds, Latency, Outcome};
use crate::spec::{Role, Side};
use crate::{cpu, engine};

/// What the threads of an engine count. One writer each: no read-modify-write.
#[derive(Debug, Default)]
pub(crate) struct Work {
    operations: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

impl Work {
    /// Operations so far, set by the one thread that counts them.
    pub(crate) fn set_operations(&self, n: u64) {
        self.operations.store(n, Relaxed);
    }

    /// `n` more operations; for the one thread that counts them.
    pub(crate) fn add_operations(&self, n: u64) {
        self.operations.store(self.operations.load(Relaxed) + n, Relaxed);
    }

    /// `n` more bytes received; for the one thread that receives.
    pub(crate) fn add_received(&self, n: usize) {
        self.received.store(self.received.load(Relaxed) + n as u64, Relaxed);
    }

    /// `n` more bytes sent; for the one thread that sends.
    pub(crate) fn add_sent(&self, n: usize) {
        self.sent.store(self.sent.load(Relaxed) + n as u64, Relaxed);
    }

    /// Operations so far.
    #[cfg(test)]
    pub(crate) fn operations(&self) -> u64 {
        self.operations.load(Relaxed)
    }
}

/// Everything that is read at the begin and at the end.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    cpu: CpuSeconds,
    operations: u64,
    received: u64,
    sent: u64,
}

#[derive(Debug, Default)]
struct Shared {
    work: Work,
    stopped: AtomicBool,
    marks: Mutex<[Option<Mark>; 2]>,
    words: Mutex<BTreeMap<String, String>>,
    numbers: Mutex<BTreeMap<String, f64>>,
    latency: Mutex<Option<Latency>>,
}

/// An engine's link to the program that measures. Clones are the same link.
#[derive(Clone, Debug, Default)]
pub(crate) struct Control {
    shared: Arc<Shared>,
}

impl Control {
    /// The counters that the measured time is cut out of.
    pub(crate) fn work(&self) -> &Work {
        &self.shared.work
    }

    /// A server says that it answers.
    #[expect(clippy::unused_self, reason = "only a side under control is ready")]
    pub(crate) fn ready(&self) {
        say("READY");
    }

    /// The measured time begins (called by clients).
    pub(crate) fn begin(&self) {
        say("BEGIN");
        self.mark(0);
    }

    /// The measured time ends (called by clients).
    pub(crate) fn end(&self) {
        self.mark(1);
        say("END");
    }

    /// Whether a server shall end.
    pub(crate) fn stopped(&self) -> bool {
        self.shared.stopped.load(Relaxed)
    }

    /// A fact for the report: `fact("mode", "af-xdp native copy")`.
    pub(crate) fn fact(&self, name: &str, value: impl Into<String>) {
        lock(&self.shared.words).insert(name.to_owned(), value.into());
    }

    /// A number for the report.
    pub(crate) fn number(&self, name: &str, value: f64) {
        lock(&self.shared.numbers).insert(name.to_owned(), value);
    }

    /// Times of the operations of the measured time, in ns.
    pub(crate) fn latency(&self, histogram: &Histogram<u64>) {
        if histogram.is_empty() {
            return;
        }
        *lock(&self.shared.latency) = Some(Latency {
            count: histogram.len(),
            mean: histogram.mean(),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        });
    }

    fn mark(&self, which: usize) {
        let work = &self.shared.work;
        let mark = Mark {
            at: Instant::now(),
            cpu: cpu::own().unwrap_or_default(),
            operations: work.operations.load(Relaxed),
            received: work.received.load(Relaxed),
            sent: work.sent.load(Relaxed),
        };
        lock(&self.shared.marks)[which] = Some(mark);
    }

    /// Follows the lines of the program that measures until it says `stop` or goes away.
    fn follow(&self) {
        for line in io::stdin().lock().lines() {
            match line.as_deref() {
                Ok("begin") => self.mark(0),
                Ok("end") => self.mark(1),
                _ => break,
            }
        }
        self.shared.stopped.store(true, Relaxed);
        engine::wake();
    }

    fn outcome(&self) -> Result<Outcome, String> {
        let [Some(begin), Some(end)] = *lock(&self.shared.marks) else {
            return Err(String::from("it ended before the measured time did"));
        };
        Ok(Outcome {
            seconds: (end.at - begin.at).as_secs_f64(),
            operations: end.operations - begin.operations,
            received: end.received - begin.received,
            sent: end.sent - begin.sent,
            cpu: CpuSeconds {
                user: end.cpu.user - begin.cpu.user,
                system: end.cpu.system - begin.cpu.system,
            },
            latency: *lock(&self.shared.latency),
            facts: lock(&self.shared.words).clone(),
            numbers: lock(&self.shared.numbers).clone(),
        })
    }
}

/// A thread that panicked while it held one of these has ended the run anyway.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn say(line: &str) {
    let mut out = io::stdout().lock();
    // If the program that measures is gone, so is the reason to go on: `stopped` tells.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Runs a side.
pub(crate) fn main(side: &Side) -> ExitCode {
    let control = Control::default();
    let follower = control.clone();
    let result = prepare(side).and_then(|()| {
        std::thread::Builder::new().name("control".into()).spawn(move || follower.follow())?;
        engine::run(side, &control)?;
        // A server whose client has left already still hears where the measured time ended.
        while side.role == Role::Server && !control.stopped() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    });
    let outcome = result.map_err(|e| e.to_string()).and_then(|()| control.outcome());
    match outcome.and_then(|o| serde_json::to_string(&o).map_err(|e| e.to_string())) {
        Ok(line) => {
            say(&line);
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

/// Its own session, so that the scheduler's groups are the two sides and not whoever started the
/// benchmark; its CPU; descriptors for ten thousand connections.
fn prepare(side: &Side) -> io::Result<()> {
    // fails for the leader of a session, which has its own group already
    let _ = rustix::process::setsid();
    if let Some(cpu) = side.cpu {
        let mut set = CpuSet::new();
        set.set(cpu);
        sched_setaffinity(None, &set)?;
    }
    let files = Some(1 << 20);
    // without the right to it, cells with many connections fail and say so
    let _ = setrlimit(Resource::Nofile, Rlimit { current: files, maximum: files });
    Ok(())
}
