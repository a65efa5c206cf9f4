//! Many seeds in one test, and the one that failed again.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Environment variable that replays one seed.
const VARIABLE: &str = "WEFT_SEED";
/// Environment variable that sets how many seeds are run.
const COUNT: &str = "WEFT_SEEDS";

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} must be a number from 0 to 2^64-1")))
}

/// Runs `f` for seeds `0..count` (or as many as `WEFT_SEEDS` says), or for the one in `WEFT_SEED`
/// alone.
///
/// # Panics
/// At the first seed that fails or panics, with the seed and how to replay it.
pub fn each_seed(test: &str, count: u64, f: impl Fn(u64) -> Result<(), String>) {
    let count = number(COUNT).unwrap_or(count);
    let seeds = number(VARIABLE).map_or(0..count, |seed| seed..seed + 1);
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
