//! Instructions that each scenario takes, counted by valgrind and compared with the baseline.
//!
//! `weft-count` counts all and prints a table. `--check` fails if one needs over 3 % more than the
//! baseline, and asks for a new one if it needs as much less; `WEFT_BLESS=1` writes it. Where the
//! toolchain, the C library or the processor's vector units differ from the baseline's, differences
//! are printed and nothing fails. Names of scenarios restrict the run; `--profile NAME` leaves what
//! `callgrind_annotate` reads in `target/callgrind.out`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::{env, fs};

use serde::{Deserialize, Serialize};
use weft_micro::scenario::{SCENARIOS, Scenario};

/// Of the baseline, to either side.
const TOLERANCE: f64 = 0.03;

#[derive(Debug, Serialize, Deserialize)]
struct Baseline {
    /// What the counts hold for.
    machine: Machine,
    /// Instructions per unit.
    instructions: BTreeMap<String, f64>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Machine {
    rustc: String,
    libc: String,
    avx2: bool,
}

fn main() -> ExitCode {
    let mut names: Vec<String> = env::args().skip(1).collect();
    let check = names.iter().position(|n| n == "--check").map(|i| names.remove(i)).is_some();
    let profile = names.iter().position(|n| n == "--profile").map(|i| names.remove(i)).is_some();
    if names.first().is_some_and(|n| n == "--run") {
        return run(names.get(1).map_or("", String::as_str));
    }
    let wanted = |s: &&Scenario| names.is_empty() || names.iter().any(|n| n == s.name);
    match count_all(SCENARIOS.iter().filter(wanted), profile) {
        Ok(counts) => report(&counts, check, names.is_empty()),
        Err(why) => {
            eprintln!("weft-count: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Inside valgrind, or without it to see that it works.
fn run(name: &str) -> ExitCode {
    let Some(scenario) = SCENARIOS.iter().find(|s| s.name == name) else {
        eprintln!("weft-count: no scenario is called `{name}`");
        return ExitCode::FAILURE;
    };
    println!("{}", (scenario.run)());
    ExitCode::SUCCESS
}

type Counts = Vec<(&'static Scenario, f64)>;

fn count_all(
    scenarios: impl Iterator<Item = &'static Scenario>,
    profile: bool,
) -> Result<Counts, String> {
    let scenarios: Vec<_> = scenarios.collect();
    let mut counts = Vec::new();
    // Two at a time: counts do not depend on load.
    for pair in scenarios.chunks(2) {
        count_pair(pair, profile, &mut counts)?;
    }
    Ok(counts)
}

fn count_pair(
    scenarios: &[&'static Scenario],
    profile: bool,
    counts: &mut Counts,
) -> Result<(), String> {
    let mut running = Vec::new();
    for scenario in scenarios {
        let name = format!("weft-count-{}-{}", std::process::id(), scenario.name);
        let out = env::temp_dir().join(name);
        let child = valgrind(scenario, &out)?.spawn();
        running.push((*scenario, out, child));
    }
    for (scenario, out, child) in running {
        let done = child.and_then(std::process::Child::wait_with_output);
        let read = fs::read_to_string(&out);
        if profile {
            // Kept for callgrind_annotate.
            let _moved = fs::copy(&out, "target/callgrind.out");
        }
        let _gone = fs::remove_file(&out);
        let done = done.map_err(|e| format!("valgrind does not start ({e}); run scripts/setup"))?;
        if !done.status.success() {
            let why = String::from_utf8_lossy(&done.stderr);
            return Err(format!("{} failed under valgrind:\n{why}", scenario.name));
        }
        let units = String::from_utf8_lossy(&done.stdout).trim().parse::<f64>();
        let total = read.ok().as_deref().and_then(total);
        let (Ok(units), Some(total)) = (units, total) else {
            return Err(format!("{}: callgrind left no count", scenario.name));
        };
        counts.push((scenario, total / units));
    }
    Ok(())
}

fn valgrind(scenario: &Scenario, out: &std::path::Path) -> Result<Command, String> {
    let me = env::current_exe().map_err(|e| format!("who am I: {e}"))?;
    let mut command = Command::new("valgrind");
    command
        .arg("--tool=callgrind")
        .arg("--toggle-collect=weft_micro::scenario::measured*")
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(me)
        .args(["--run", scenario.name])
        // The same routines of the C library on every processor, bound before the count begins.
        .env(
            "GLIBC_TUNABLES",
            "glibc.cpu.hwcaps=-AVX2,-AVX,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM,-AVX512F,-AVX512VL",
        )
        .env("LD_BIND_NOW", "1")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    Ok(command)
}

fn total(callgrind: &str) -> Option<f64> {
    let line = callgrind.lines().find_map(|l| l.strip_prefix("totals: "))?;
    line.split(' ').next()?.parse().ok()
}

fn first_line(program: &str, arg: &str) -> String {
    let out = Command::new(program).arg(arg).output().map(|o| o.stdout).unwrap_or_default();
    String::from_utf8_lossy(&out).lines().next().unwrap_or("unknown").to_owned()
}

fn machine() -> Machine {
    #[cfg(target_arch = "x86_64")]
    let avx2 = std::arch::is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    let avx2 = false;
    Machine { rustc: first_line("rustc", "-V"), libc: first_line("ldd", "--version"), avx2 }
}

fn report(counts: &Counts, check: bool, all: bool) -> ExitCode {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/baseline/instructions.toml"));
    let machine = machine();
    let text = fs::read_to_string(&path).unwrap_or_default();
    let baseline = toml::from_str::<Baseline>(&text).ok();
    let old = baseline.as_ref().map(|b| &b.instructions);
    let old = |s: &Scenario| old.and_then(|b| b.get(s.name).copied());
    let mut off = 0;
    println!("{:<26} {:>12} {:>12} {:>8}", "scenario", "instructions", "baseline", "change");
    for (scenario, count) in counts {
        let change = old(scenario).map(|old| count / old - 1.0);
        off += usize::from(change.is_none_or(|c| c.abs() > TOLERANCE));
        let baseline = old(scenario).map_or(String::from("-"), |old| format!("{old:.0}"));
        let change = change.map_or(String::new(), |c| format!("{:+.1} %", c * 100.0));
        let (name, unit) = (scenario.name, scenario.unit);
        println!("{name:<26} {count:>12.0} {baseline:>12} {change:>8}  a {unit}");
    }
    if env::var_os("WEFT_BLESS").is_some_and(|v| v == "1") && all {
        let rounded = |(s, n): &(&Scenario, f64)| (s.name.to_owned(), n.round());
        let instructions = counts.iter().map(rounded).collect();
        let text = toml::to_string(&Baseline { machine, instructions }).unwrap_or_default();
        let head = "# Written by `WEFT_BLESS=1 scripts/instructions`; see docs/performance.md.\n";
        return match fs::write(&path, head.to_owned() + &text) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("weft-count: {} cannot be written: {e}", path.display());
                ExitCode::FAILURE
            }
        };
    }
    let same = baseline.is_some_and(|b| b.machine == machine);
    if !same {
        println!("the baseline is of another toolchain, C library or processor: nothing is judged");
    } else if off > 0 && check {
        println!(
            "{off} differ by more than 3 %. More: find out why. Less, or on purpose: \
             WEFT_BLESS=1 scripts/instructions"
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
