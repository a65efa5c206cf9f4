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

/// Options of `weft man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// The command to describe; without it, the program
    pub command: Option<String>,
}

/// Prints the manual page of the program or of a command.
pub fn man(args: &ManArgs) -> Result<(), Error> {
    let mut program = Cli::command();
    program.build();
    let command = match &args.command {
        None => program,
        Some(name) => {
            let found = program.find_subcommand(name).cloned();
            found.ok_or_else(|| {
                Error::NoSuchObject(format!("no command '{name}'; see 'weft --help'"))
            })?
        }
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    std::io::stdout().lock().write_all(&page)?;
    Ok(())
}
