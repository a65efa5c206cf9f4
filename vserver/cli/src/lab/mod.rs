//! `weft lab`: hosts as network namespaces, weft in one, kernel clients in the others.

use crate::Error;

/// Options of `weft lab`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the lab.
pub fn run(args: &Args) -> Result<(), Error> {
    let _ = args;
    Err(Error::Failed(String::from("lab: not built yet")))
}
