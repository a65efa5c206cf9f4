//! The benchmark benchmarks: two tiny cells, from namespaces to the table.
#![allow(missing_docs)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn two_tiny_cells_run_and_are_reported() {
    if !weft_drivers::netns::may_make_namespaces() {
        println!("skipped: needs root, for network namespaces");
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_weft-bench")).arg("smoke").output().unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    let row = |name: &str| out.lines().find(|l| l.trim_start().starts_with(name));
    for contestant in ["kernel ", "weft, kernel client "] {
        let row = row(contestant).unwrap_or_else(|| panic!("no {contestant} in {out}"));
        assert!(row.contains(" us ") || row.contains(" ms "), "{row}");
    }
}

#[test]
fn a_contestant_that_fails_is_told_with_its_reason_and_the_run_goes_on() {
    let binary = env!("CARGO_BIN_EXE_weft-bench");
    let side = ["side", "--engine", "nobody", "--role", "client", "--workload", "udp-echo"];
    let output = Command::new(binary).args(side).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("no engine 'nobody'"));
}

#[test]
fn a_run_that_is_told_to_end_keeps_what_it_has_and_leaves_nobody_behind() {
    if !weft_drivers::netns::may_make_namespaces() {
        println!("skipped: needs root, for network namespaces");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("results.json");
    // a length that tells this run's processes from those of others
    let seconds = "0.23456";
    let mut bench = Command::new(env!("CARGO_BIN_EXE_weft-bench"))
        .args(["run", "--only", "1 connection, polling", "--contestant", "kernel"])
        .args(["--repetitions", "1000", "--seconds", seconds, "--json"])
        .arg(&json)
        .arg("--html")
        .arg(dir.path().join("results.html"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(bench.stderr.take().unwrap()).lines();
    lines.find(|l| l.as_ref().unwrap().contains("#1 ")).expect("a run has ended").unwrap();
    assert!(!processes_with(seconds).is_empty());
    let pid = rustix::process::Pid::from_child(&bench);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    lines.for_each(drop);
    assert!(!bench.wait().unwrap().success(), "it is not complete");
    let results = std::fs::read_to_string(&json).unwrap();
    assert!(results.contains("\"interrupted\": true") && results.contains("\"operations\": "));
    // namespaces and devices have no name: they go with the last process inside, which was killed
    let begin = Instant::now();
    while !processes_with(seconds).is_empty() && begin.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(processes_with(seconds), [] as [String; 0]);
}

/// Command lines with this word.
fn processes_with(word: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("a /proc").flatten();
    let lines = processes.filter_map(|p| std::fs::read_to_string(p.path().join("cmdline")).ok());
    lines.filter(|line| line.split('\0').any(|w| w == word)).collect()
}
