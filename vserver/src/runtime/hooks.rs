//! Command hooks of failover groups: programs that are run for events, one after the other, on a
//! thread of its own, so that no frame waits for them.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use weft_interface::events::Event;

/// Events that wait for programs; more are lost, and counted.
const QUEUE: usize = 256;
/// A program that runs longer is killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Failures that are kept until somebody looks.
const FAILURES: usize = 16;

struct Call {
    program: PathBuf,
    event: Event,
}

/// Runs programs. Dropping it lets the one that runs end, within [`PATIENCE`], and forgets the rest.
#[derive(Debug)]
pub(crate) struct Hooks {
    queue: SyncSender<Call>,
    failures: Arc<Mutex<Vec<String>>>,
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.program.display(), self.event.what)
    }
}

impl Hooks {
    /// Starts the thread. The rights of the process are those that programs get.
    pub(crate) fn start() -> io::Result<Hooks> {
        let (queue, calls) = sync_channel(QUEUE);
        let failures = Arc::<Mutex<Vec<String>>>::default();
        let told = Arc::clone(&failures);
        std::thread::Builder::new()
            .name(String::from("weft-hooks"))
            .spawn(move || run(&calls, &told))?;
        Ok(Hooks { queue, failures })
    }

    /// Has the program run for the event, after those of before.
    pub(crate) fn call(&self, program: &Path, event: &Event) {
        let call = Call { program: program.to_owned(), event: event.clone() };
        let why = match self.queue.try_send(call) {
            Ok(()) => return,
            Err(TrySendError::Full(_)) => "too many events wait for it",
            Err(TrySendError::Disconnected(_)) => "its thread has ended",
        };
        let text = format!("hook {} was not run: {why}", program.display());
        tell(&self.failures, text);
    }

    /// What went wrong since the last call.
    pub(crate) fn take_failures(&self) -> Vec<String> {
        std::mem::take(&mut *self.failures.lock())
    }
}

fn tell(failures: &Mutex<Vec<String>>, text: String) {
    let mut failures = failures.lock();
    if failures.len() < FAILURES && !failures.contains(&text) {
        failures.push(text);
    }
}

fn run(calls: &Receiver<Call>, failures: &Mutex<Vec<String>>) {
    while let Ok(Call { program, event }) = calls.recv() {
        let failed = match start(&program, &event).and_then(|child| end(child, PATIENCE)) {
            Ok(Some(status)) if status.success() => continue,
            Ok(Some(status)) => status.to_string(),
            Ok(None) => format!("it did not end within {} s and was killed", PATIENCE.as_secs()),
            Err(e) => e.to_string(),
        };
        tell(failures, format!("hook {}: {failed}", program.display()));
    }
}

/// Its arguments are the words of the event, its variable `WEFT_EVENT` is the event as JSON.
fn start(program: &Path, event: &Event) -> io::Result<Child> {
    let line = event.what.to_string();
    let json = serde_json::to_string(event).unwrap_or_default();
    Command::new(program)
        .args(line.split(' '))
        .env("WEFT_EVENT", json)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
}

/// How it ended; `None`: it had to be ended after `patience`.
fn end(mut child: Child, patience: Duration) -> io::Result<Option<ExitStatus>> {
    match ends_within(&child, patience) {
        Ok(true) => child.wait().map(Some),
        not_yet => {
            child.kill()?;
            child.wait()?;
            not_yet.map(|_| None)
        }
    }
}

/// Waits for the end of a program, which its descriptor tells of.
fn ends_within(child: &Child, patience: Duration) -> io::Result<bool> {
    let program = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&program, PollFlags::IN)], Some(&left)) {
            Ok(ended) => return Ok(ended > 0),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use weft_interface::events::What;

    fn event(number: u64) -> Event {
        let (group, state) = (String::from("fail0"), String::from("degraded"));
        Event { version: 1, number, at_us: 5, what: What::Group { group, signature: 1, state } }
    }

    fn script(directory: &Path, text: &str) -> PathBuf {
        let path = directory.join("hook");
        // By a child: a file that this process has open for writing is so in the children that other
        // tests begin meanwhile, and cannot be run then.
        let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" >\"$0\" && chmod 755 \"$0\"";
        let written = Command::new("sh").args(["-c", write]).arg(&path).arg(text).status();
        assert!(written.unwrap().success());
        path
    }

    fn wait_for<T>(mut there: impl FnMut() -> Option<T>) -> T {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(found) = there() {
                return found;
            }
            assert!(Instant::now() < until, "nothing happened");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_program_that_does_not_end_in_time_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        let endless = script(directory.path(), "exec sleep 600");
        let begin = Instant::now();
        let child = start(&endless, &event(1)).unwrap();
        let pid = Pid::from_child(&child);
        assert_eq!(end(child, Duration::from_millis(50)).unwrap(), None);
        assert!(begin.elapsed() >= Duration::from_millis(50));
        assert_eq!(rustix::process::test_kill_process(pid), Err(Errno::SRCH), "it is gone");

        let short = script(directory.path(), "exit 7");
        let status = end(start(&short, &event(2)).unwrap(), PATIENCE).unwrap();
        assert_eq!(status.and_then(|s| s.code()), Some(7));
        assert!(begin.elapsed() < PATIENCE, "its end was not waited for in vain");
    }

    #[test]
    fn a_program_gets_the_words_of_each_event_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        let text = format!("echo \"$@\" \"$WEFT_EVENT\" >> {}", out.display());
        let program = script(directory.path(), &text);
        let hooks = Hooks::start().unwrap();
        for number in [1, 2] {
            hooks.call(&program, &event(number));
        }
        let text = wait_for(|| {
            std::fs::read_to_string(&out).ok().filter(|text| text.lines().count() == 2)
        });
        for (line, number) in text.lines().zip(1..) {
            let begin = format!("group fail0 degraded {{\"version\":1,\"number\":{number},");
            assert!(line.starts_with(&begin), "{line}");
        }
        assert_eq!(hooks.take_failures(), Vec::<String>::new());
    }

    #[test]
    fn what_fails_is_told_once() {
        let directory = tempfile::tempdir().unwrap();
        let program = script(directory.path(), "exit 3");
        let hooks = Hooks::start().unwrap();
        hooks.call(&program, &event(1));
        let told = wait_for(|| Some(hooks.take_failures()).filter(|f| !f.is_empty()));
        assert!(told[0].ends_with("/hook: exit status: 3"), "{told:?}");
        hooks.call(Path::new("/nowhere/hook"), &event(2));
        let told = wait_for(|| Some(hooks.take_failures()).filter(|f| !f.is_empty()));
        assert!(told[0].starts_with("hook /nowhere/hook: No such file"), "{told:?}");
    }
}
