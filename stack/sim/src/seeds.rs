//! Many seeds in one test, and the one that failed again.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::capture::Capture;

/// Environment variable that replays one seed, and keeps what happens on the wire.
const VARIABLE: &str = "WEFT_SEED";
/// Environment variable that sets how many seeds are run.
const COUNT: &str = "WEFT_SEEDS";
/// Environment variable that names the directory for captures.
const CAPTURES: &str = "WEFT_CAPTURES";

thread_local! {
    /// The test that runs in this thread.
    static TEST: RefCell<String> = const { RefCell::new(String::new()) };
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} must be a number from 0 to 2^64-1")))
}

/// Whether one seed is run again.
pub(crate) fn replaying() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Writes the capture of a replayed run to a file, and says where it is.
pub(crate) fn keep(seed: u64, capture: &Capture) {
    let dir = std::env::var_os(CAPTURES).map_or_else(std::env::temp_dir, Into::into);
    let test = TEST.with_borrow(|t| if t.is_empty() { "net".to_owned() } else { t.clone() });
    let path = dir.join(format!("weft-{test}-{seed}.pcapng"));
    match std::fs::write(&path, capture.bytes()) {
        Ok(()) => eprintln!("capture: {}", path.display()),
        Err(e) => eprintln!("capture: write {}: {e}", path.display()),
    }
}

/// Runs `f` for seeds `0..count` (or as many as `WEFT_SEEDS` says), or for the one in `WEFT_SEED`
/// alone; then every [`Net`](crate::Net) writes what it carried to
/// `weft-<test>-<seed>.pcapng` in the directory `WEFT_CAPTURES` (else in that for temporary files).
///
/// # Panics
/// At the first seed that fails or panics, with the seed and how to replay it.
pub fn each_seed(test: &str, count: u64, f: impl Fn(u64) -> Result<(), String>) {
    let count = number(COUNT).unwrap_or(count);
    let seeds = number(VARIABLE).map_or(0..count, |seed| seed..seed + 1);
    println!("{test}: {} seeds", seeds.end - seeds.start);
    TEST.with_borrow_mut(|t| test.clone_into(t));
    for seed in seeds {
        let outcome = catch_unwind(AssertUnwindSafe(|| f(seed)));
        let problem = match outcome {
            Ok(Ok(())) => continue,
            Ok(Err(problem)) => problem,
            Err(_) => String::from("panicked, see above"),
        };
        panic!(
            "{test}: seed {seed}: {problem}\nreplay: {VARIABLE}={seed} cargo test -p weft-sim {test}"
        );
    }
}
