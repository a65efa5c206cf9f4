//! SIGHUP, SIGINT and SIGTERM: the first one asks for an orderly end, a later one ends the process.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What comes so soon after the first signal is the same wish: `timeout` sends its signal to the
/// process and to its group, a terminal's interrupt comes from the terminal and from `make` or `sudo`.
const SAME_WISH: Duration = Duration::from_secs(1);

/// Whether the lab is to end, and what is left to be removed if it is not waited for.
#[derive(Debug, Default)]
pub(super) struct Ending {
    pub(super) stop: AtomicBool,
    /// The temporary directory, while there is one.
    pub(super) files: Mutex<Option<PathBuf>>,
}

impl Ending {
    /// Heeds signals from now on.
    pub(super) fn listen() -> io::Result<Arc<Ending>> {
        let ending = Arc::new(Ending::default());
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        if !is_hangup_ignored(&std::fs::read_to_string("/proc/self/status").unwrap_or_default()) {
            signals.add_signal(SIGHUP)?;
        }
        let heard = Arc::clone(&ending);
        let thread = std::thread::Builder::new().name(String::from("signals"));
        thread.spawn(move || {
            let mut first = None;
            for _ in signals.forever() {
                heard.stop.store(true, Ordering::Release);
                if is_another_wish(&mut first, Instant::now()) {
                    heard.remove_files();
                    std::process::exit(1);
                }
            }
        })?;
        Ok(ending)
    }

    fn remove_files(&self) {
        if let Some(files) = &*self.files.lock() {
            // Whatever is still written there: more cannot be done.
            let _ = std::fs::remove_dir_all(files);
        }
    }
}

/// Whether whoever started this process wants it to outlive the terminal, as `nohup` does; `status` is
/// that of `/proc`.
fn is_hangup_ignored(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|m| m & 1 != 0)
}

/// Whether a signal that came `now` is not the first one, nor the same once more.
fn is_another_wish(first: &mut Option<Instant>, now: Instant) -> bool {
    now.saturating_duration_since(*first.get_or_insert(now)) >= SAME_WISH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_is_sent_twice_is_one_wish_and_one_that_comes_later_is_another() {
        let begin = Instant::now();
        let mut first = None;
        let mut at = |ms: u64| is_another_wish(&mut first, begin + Duration::from_millis(ms));
        assert_eq!([at(0), at(0), at(999), at(1000)], [false, false, false, true]);
    }

    #[test]
    fn a_lab_that_is_to_outlive_its_terminal_does() {
        for (mask, ignored) in [("0000000000001001", true), ("0000000000001000", false)] {
            let status = format!("Name:\tweft\nSigIgn:\t{mask}\nSigCgt:\t0\n");
            assert_eq!(is_hangup_ignored(&status), ignored);
        }
    }

    #[test]
    fn whoever_does_not_wait_leaves_no_files() {
        let dir = tempfile::tempdir().expect("directory");
        let files = dir.path().join("weft-lab-1");
        std::fs::create_dir(&files).expect("directory");
        std::fs::write(files.join("peers.key"), "secret").expect("file");
        let ending = Ending::default();
        ending.remove_files();
        assert!(files.exists(), "none are known");
        *ending.files.lock() = Some(files.clone());
        ending.remove_files();
        assert!(!files.exists());
    }
}
