//! `weft stat`.

use std::path::Path;

use crate::Error;

/// Options of `weft stat`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
}

/// Shows counters of the daemon behind `control`.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let _ = args;
    Err(Error::Failed(format!("stat {control:?}: not built yet")))
}
