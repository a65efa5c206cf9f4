//! Writes the seeds of the corpus to the directory given.
use std::{env, fs, path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    let Some(dir) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: corpus DIRECTORY");
        return ExitCode::from(2);
    };
    for (name, frames) in weft_fuzz::frames::all() {
        let path = dir.join(name);
        if let Err(e) = fs::write(&path, weft_fuzz::join(&frames)) {
            eprintln!("write {}: {e}", path.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
