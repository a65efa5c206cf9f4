//! Reads the sources and holds the rules that no compiler holds: who may import whom, where
//! `unsafe` stands, what the sans-IO crates may touch, how long files and functions are, and that
//! no counter or drop reason is decoration.
#![allow(missing_docs)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;

struct Source {
    path: String,
    /// Lines before the file's test module.
    lines: Vec<String>,
    test: bool,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the stack stands in a workspace").into()
}

fn sources() -> Vec<Source> {
    let mut out = Vec::new();
    for top in ["stack", "drivers", "interface", "shim", "vserver", "benches"] {
        walk(&root().join(top), &mut out);
    }
    assert!(out.len() > 30, "the tree was not found");
    out
}

fn walk(dir: &Path, out: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if !path.ends_with("target") {
                walk(&path, out);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).expect("source files are UTF-8");
            let shown = path.strip_prefix(root()).expect("below the root").display().to_string();
            let test = shown.contains("/tests/") || shown.ends_with("tests.rs");
            // Up to the test module, if its body is here.
            let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or("");
            let lines = text.lines().map(str::to_owned).collect();
            out.push(Source { path: shown, lines, test });
        }
    }
}

fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or("")
}

fn fail_if(found: &[String], rule: &str) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

/// Which places of a tree break a rule on single lines of code.
fn offenders(wanted: impl Fn(&Source) -> bool, bad: impl Fn(&Source, &str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for s in sources().iter().filter(|s| !s.test && wanted(s)) {
        for (i, line) in s.lines.iter().enumerate() {
            if bad(s, code(line)) {
                found.push(format!("{}:{}: {}", s.path, i + 1, line.trim()));
            }
        }
    }
    found
}

#[test]
fn crates_import_one_way() {
    let may: &[(&str, &[&str])] = &[
        ("stack", &[]),
        ("stack/sim", &["weft-stack"]),
        ("stack/packetdrill", &["weft-stack"]),
        ("shim", &["weft-stack"]),
        ("interface", &["weft-stack"]),
        ("drivers", &["weft-stack"]),
        ("vserver", &["weft-stack", "weft-interface", "weft-shim", "weft-drivers"]),
    ];
    let mut found = Vec::new();
    for (krate, allowed) in may {
        let manifest = fs::read_to_string(root().join(krate).join("Cargo.toml")).expect("manifest");
        let deps = manifest.split("[dependencies]").nth(1).unwrap_or("");
        let deps = deps.split("\n[").next().unwrap_or("");
        for line in deps.lines().filter(|l| l.starts_with("weft-")) {
            let name = line.split(['.', ' ', '=']).next().unwrap_or("");
            if !allowed.contains(&name) {
                found.push(format!("{krate} depends on {name}"));
            }
        }
    }
    fail_if(&found, "crates import one way: stack <- shim, drivers <- vserver <- cli");
}

#[test]
fn layers_of_the_stack_import_one_way() {
    // A layer may use those to its left. Plain data that every layer names is free.
    const ORDER: [&str; 5] = ["link", "ip", "path", "transport", "socket"];
    const FREE: [&str; 2] = ["crate::ip::address", "crate::socket::Event"];
    let layer = |s: &Source| {
        let rest = s.path.strip_prefix("stack/src/")?;
        ORDER.iter().position(|l| rest.starts_with(&format!("{l}/")))
    };
    let found = offenders(
        |s| layer(s).is_some(),
        |s, line| {
            let mine = layer(s).expect("filtered");
            ORDER[mine + 1..].iter().any(|above| {
                line.contains(&format!("crate::{above}::"))
                    && !FREE.iter().any(|f| line.contains(f))
                    // The calls of an application are methods of Stack, written in `socket`.
                    && !(ORDER[mine] == "transport" && *above == "socket")
            })
        },
    );
    fail_if(&found, "layers import one way: link <- ip <- path <- transport <- socket");
}

fn is_frame_module(s: &Source) -> bool {
    s.path == "stack/src/frame.rs" || s.path.starts_with("stack/src/frame/")
}

#[test]
fn unsafe_stands_where_it_may() {
    const WORDS: [&str; 4] = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
    let found = offenders(
        |s| {
            !s.path.starts_with("drivers/")
                && !is_frame_module(s)
                // Vector instructions, where the processor has them.
                && s.path != "stack/src/wire/checksum/vector.rs"
                // The C interface of packetdrill.
                && !s.path.starts_with("stack/packetdrill/src/so")
        },
        |_, line| WORDS.iter().any(|w| line.contains(w)),
    );
    fail_if(&found, "unsafe outside drivers/, stack/src/frame.rs and packetdrill's C interface");
}

#[test]
fn the_core_is_sans_io() {
    let banned = [
        "std::time::Instant",
        "std::time::SystemTime",
        "std::thread",
        "std::net::Tcp",
        "std::net::Udp",
        "std::fs",
        "std::io",
        "std::env",
        "libc::",
        "rustix::",
        "println!",
        "thread_local!",
        "static mut",
    ];
    let found = offenders(
        |s| ["stack/src/", "interface/src/", "shim/src/"].iter().any(|d| s.path.starts_with(d)),
        |s, line| {
            // A frame is dropped wherever it is: only its thread knows whether a worker is there.
            let line = if s.path == "stack/src/frame/domain.rs" {
                line.replace("thread_local!", "")
            } else {
                line.to_owned()
            };
            banned.iter().any(|b| line.contains(b))
        },
    );
    fail_if(&found, "clock, thread, syscall or output in a sans-IO crate");
}

#[test]
fn nothing_is_left_unfinished_or_silenced() {
    let banned = ["todo!(", "unimplemented!(", "#[ignore", "allow(dead_code", "allow(unused"];
    let found = offenders(|_| true, |_, line| banned.iter().any(|b| line.contains(b)));
    fail_if(&found, "unfinished or silenced");
}

#[test]
fn files_stay_readable() {
    let mut found = Vec::new();
    for s in sources().iter().filter(|s| !s.test) {
        if s.lines.len() > FILE_LINES_MAX {
            found.push(format!("{}: {} lines", s.path, s.lines.len()));
        }
    }
    fail_if(&found, "files longer than 800 lines without tests: split by meaning");
}

#[test]
fn functions_stay_readable() {
    let mut found = Vec::new();
    for s in sources().iter().filter(|s| !s.test) {
        let mut start: Option<(usize, String)> = None;
        for (i, line) in s.lines.iter().enumerate() {
            let body = line.trim_start();
            let indent = &line[..line.len() - body.len()];
            let shown = body.strip_prefix("pub(").and_then(|body| body.split_once(") "));
            let head = shown.map_or(body, |(_, body)| body).split('(').next().unwrap_or("");
            if head.split(' ').any(|w| w == "fn") && !body.starts_with("//") {
                start = (!body.ends_with([';', '}'])).then(|| (i, indent.to_owned()));
            } else if let Some((from, at)) = &start
                && body == "}"
                && indent == at
            {
                let lines = i + 1 - from;
                if lines > FUNCTION_LINES_MAX {
                    found.push(format!("{}:{}: {lines} lines", s.path, from + 1));
                }
                start = None;
            }
        }
    }
    fail_if(&found, "functions longer than 70 lines: split by meaning");
}

#[test]
fn every_drop_reason_happens_somewhere() {
    let all: String = sources()
        .iter()
        .filter(|s| s.path != "stack/src/drop.rs" && !s.test)
        .flat_map(|s| s.lines.iter().map(|l| code(l).to_owned() + "\n"))
        .collect();
    let mut unused = String::new();
    for reason in weft_stack::drop::DropReason::ALL {
        if !all.contains(&format!("DropReason::{}", reason.name())) {
            let _ = writeln!(unused, "  {}", reason.name());
        }
    }
    assert!(unused.is_empty(), "drop reasons that nothing counts:\n{unused}");
}

#[test]
fn every_counter_is_counted() {
    let sources = sources();
    let mut unused = Vec::new();
    for declared in &sources {
        let mut inside = false;
        for line in &declared.lines {
            inside |= line.contains("counters! {") && !line.contains("macro_rules");
            inside &= !line.starts_with('}');
            let Some((field, _)) = line.trim().split_once(": \"").filter(|_| inside) else {
                continue;
            };
            let counted = |l: &String| {
                let l = code(l);
                ["+=", "-=", " = "]
                    .iter()
                    .any(|op| l.contains(&format!(".{field} {}", op.trim_start())))
                    || l.contains(&format!(".{field}.add("))
                    || l.contains(&format!("{field}:")) && !l.contains(": \"")
                    || l.contains(&format!("&mut s.{field}"))
                    || l.contains(&format!("&mut stats.{field}"))
            };
            if !sources.iter().any(|s| !s.test && s.lines.iter().any(counted)) {
                unused.push(format!("{}: {field}", declared.path));
            }
        }
    }
    fail_if(&unused, "counters that nothing increments");
}
