//! `weft run CONFIG`.

use std::path::{Path, PathBuf};

use crate::Error;

/// Options of `weft run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration file (TOML)
    pub config: PathBuf,
}

/// Runs the daemon until a signal.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let _ = control;
    Err(Error::Failed(format!("run {}: not built yet", args.config.display())))
}
