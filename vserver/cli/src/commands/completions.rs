//! `weft completions SHELL` and the hidden `weft man`, both from the definition of the command line.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{Cli, Error};

/// Options of `weft completions`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For which shell
    pub shell: Shell,
}

/// Prints the script.
pub fn run(args: &Args) -> Result<(), Error> {
    // `generate` panics when its writer fails, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "weft", &mut script);
    std::io::stdout().lock().write_all(&script)?;
    Ok(())
}

/// Prints the manual page.
pub fn man() -> Result<(), Error> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    std::io::stdout().lock().write_all(&page)?;
    Ok(())
}
