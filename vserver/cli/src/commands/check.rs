//! `weft check CONFIG`.

use std::path::PathBuf;

use crate::Error;

/// Options of `weft check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration file (TOML)
    pub config: PathBuf,
}

/// Checks the file; prints a summary or every error.
pub fn run(args: &Args) -> Result<(), Error> {
    Err(Error::Failed(format!("check {}: not built yet", args.config.display())))
}
