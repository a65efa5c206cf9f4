//! `weft interface offline` and `undo`.

use std::io::Write;
use std::path::Path;

use weft_vserver::control::{Answer, Command};

use super::daemon;
use crate::Error;

/// Options of `weft interface`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub what: What,
}

/// What to do with an interface.
#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// Take it out, before its cable is: addresses move to other members first. Refused for the last
    /// one that can be used
    Offline {
        /// A member of a failover group, or a port of a bond
        #[arg(value_name = "NAME")]
        interface: String,
    },
    /// Put it back
    #[command(visible_alias = "online")]
    Undo {
        /// Which one was taken out
        #[arg(value_name = "NAME")]
        interface: String,
    },
}

/// Asks the daemon behind `control`.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let (interface, offline) = match &args.what {
        What::Offline { interface } => (interface, true),
        What::Undo { interface } => (interface, false),
    };
    let command = Command::SetOffline { interface: interface.clone(), offline };
    let mut connection = daemon::connect(control)?;
    match connection.ask(command).map_err(daemon::error)? {
        Answer::Offline { offline } => {
            let state = if offline { "offline" } else { "back" };
            Ok(writeln!(std::io::stdout().lock(), "{interface}: {state}")?)
        }
        _ => Err(Error::Failed(String::from("the daemon gave an answer to something else"))),
    }
}
