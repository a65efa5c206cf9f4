//! The benchmark benchmarks: two tiny cells, from namespaces to the table.
#![allow(missing_docs)]

use std::process::Command;

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
