//! Runs random scenarios on all cores, and says how to run a failed one again.
//!
//! ```text
//! cargo run --profile sim -p weft-sim --example simulate -- 10000
//! cargo run --profile sim -p weft-sim --example simulate -- 10000 500000   # from seed 500000 on
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use weft_sim::scenario;

/// Failures after which no more seeds are begun.
const FAILURES_MAX: usize = 20;

#[derive(Default)]
struct Total {
    steps: u64,
    segments: u64,
    transfers: u64,
    virtual_s: u64,
    slowest: (u128, u64),
    failed: Vec<(u64, String)>,
}

fn argument(index: usize, default: u64) -> Result<u64, String> {
    std::env::args().nth(index).map_or(Ok(default), |text| {
        text.parse().map_err(|_| format!("usage: simulate [COUNT [FIRST]]; {text:?} is no number"))
    })
}

fn one(seed: u64, total: &Mutex<Total>) {
    let begin = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| scenario::run(seed)));
    let took = begin.elapsed().as_micros();
    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
    total.slowest = total.slowest.max((took, seed));
    match outcome {
        Ok(Ok(report)) => {
            total.steps += report.steps;
            total.segments += report.segments;
            total.transfers += report.transfers as u64;
            total.virtual_s += report.took.as_secs();
        }
        Ok(Err(problem)) => total.failed.push((seed, problem)),
        Err(_) => total.failed.push((seed, "panicked, see above".into())),
    }
}

fn run() -> Result<(u64, f64, Total), String> {
    let (count, first) = (argument(1, 10_000)?, argument(2, 0)?);
    let begin = Instant::now();
    let next = AtomicU64::new(first);
    let total = Mutex::new(Total::default());
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let failures =
                        total.lock().unwrap_or_else(PoisonError::into_inner).failed.len();
                    if seed >= first + count || failures >= FAILURES_MAX {
                        return;
                    }
                    one(seed, &total);
                }
            });
        }
    });
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok((count, begin.elapsed().as_secs_f64(), total))
}

fn main() -> ExitCode {
    let (count, seconds, total) = match run() {
        Ok(outcome) => outcome,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(2);
        }
    };
    println!(
        "{count} scenarios in {seconds:.1} s: {} transfers, {} steps, {} TCP segments judged, {} h of virtual time",
        total.transfers,
        total.steps,
        total.segments,
        total.virtual_s / 3600
    );
    println!("slowest: seed {} with {} ms", total.slowest.1, total.slowest.0 / 1000);
    for (seed, problem) in &total.failed {
        println!("FAILED seed {seed}: {problem}");
        println!("  replay: WEFT_SEED={seed} cargo test -p weft-sim a_random_scenario");
    }
    if total.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
