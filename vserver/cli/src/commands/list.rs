//! `weft list`.

use std::path::Path;

use crate::Error;

/// Options of `weft list`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
}

/// Lists the vservers of the daemon behind `control`.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let _ = args;
    Err(Error::Failed(format!("list {control:?}: not built yet")))
}
