//! Every package that weft is built from carries a licence we accept, and builds with the oldest
//! Rust we promise.
#![allow(missing_docs)]

use std::process::Command;

/// A package passes if one alternative of its licence expression names only these.
const ACCEPTED: [&str; 11] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "0BSD",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "Unlicense",
    "CC0-1.0",
];

fn accepted(expression: &str) -> bool {
    // SPDX without nested parentheses beyond "(A OR B) AND C", which is all that occurs.
    let expression = expression.replace('/', " OR ");
    expression.split(" AND ").all(|all| {
        let any = all.trim().trim_start_matches('(').trim_end_matches(')');
        any.split(" OR ").any(|one| ACCEPTED.contains(&one.trim().trim_matches(['(', ')'])))
    })
}

fn packages() -> Vec<serde_json::Value> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout).expect("valid JSON");
    let packages = metadata["packages"].as_array().expect("a list of packages").clone();
    assert!(packages.len() > 20);
    packages
}

#[test]
fn every_dependency_has_an_accepted_licence() {
    let refused: Vec<String> = packages()
        .iter()
        .filter(|p| !accepted(p["license"].as_str().unwrap_or("")))
        .map(|p| format!("{} {}: {}", p["name"], p["version"], p["license"]))
        .collect();
    assert!(refused.is_empty(), "licences to look at:\n{}", refused.join("\n"));
}

fn minor(version: &str) -> u32 {
    let minor = version.split('.').nth(1).expect("a version has two parts");
    minor.parse().expect("versions are numbers")
}

/// Our own code is held to it by clippy's `incompatible_msrv`.
#[test]
fn every_dependency_builds_with_the_oldest_rust_we_promise() {
    let ours = minor(env!("CARGO_PKG_RUST_VERSION"));
    let newer: Vec<String> = packages()
        .iter()
        .filter(|p| p["rust_version"].as_str().is_some_and(|v| minor(v) > ours))
        .map(|p| format!("{} {} needs Rust {}", p["name"], p["version"], p["rust_version"]))
        .collect();
    assert!(newer.is_empty(), "too new for Rust 1.{ours}:\n{}", newer.join("\n"));
}

#[test]
fn expressions_are_read() {
    assert!(accepted("MIT OR Apache-2.0"));
    assert!(accepted("LGPL-2.1-only OR BSD-2-Clause"));
    assert!(accepted("(MIT OR Apache-2.0) AND Unicode-3.0"));
    assert!(!accepted("GPL-2.0"));
    assert!(!accepted("EUPL-1.2"));
    assert!(!accepted(""));
}
