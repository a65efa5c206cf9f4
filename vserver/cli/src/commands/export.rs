//! `weft export [CONFIG]`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use weft_vserver::config::export;
use weft_vserver::control::{Answer, Command};

use super::{check, daemon};
use crate::Error;

/// Options of `weft export`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The order is fixed, so two outputs can be compared line by line; paths are absolute; each vserver of
a 'count' stands alone. Running the output makes the same host.")]
pub struct Args {
    /// A configuration file instead of the daemon's
    pub config: Option<PathBuf>,
    /// Print values that are defaults too
    #[arg(short, long)]
    pub all: bool,
}

/// Prints what is in force.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let text = if let Some(file) = &args.config {
        export(&check::load_elsewhere(file)?, args.all)
    } else {
        let command = Command::Export { all: args.all };
        let answer = daemon::connect(control)?.ask(command).map_err(daemon::error)?;
        let Answer::Export(text) = answer else {
            let text = "the daemon gave an answer to something else";
            return Err(Error::Failed(String::from(text)));
        };
        text
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}
