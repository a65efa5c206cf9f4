//! Every script under `scripts/`, each a test of its own.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::{Arguments, Trial};
use weft_packetdrill::{Settings, parse, run};

fn scripts(dir: &Path, out: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            scripts(&path, out);
        } else if path.extension().is_some_and(|e| e == "pkt") {
            out.push(path);
        }
    }
}

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let mut found = Vec::new();
    scripts(&root, &mut found);
    assert!(!found.is_empty(), "no scripts in {}", root.display());
    let trials = found.into_iter().map(|path| {
        let name = path.strip_prefix(&root).unwrap().display().to_string();
        Trial::test(name.clone(), move || {
            let text = fs::read_to_string(&path)?;
            let script = parse(&name, &text)?;
            run(&script, &Settings::default())?;
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}
