//! `weft resolve VSERVER NAME`.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use weft_vserver::control::{Answer, Command};

use super::daemon;
use crate::Error;

/// How often the daemon is asked for the answer.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Options of `weft resolve`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The daemon asks the vserver's DNS servers by the vserver's addresses and routes, or answers from what
the resolver keeps. Of an address the names are printed.")]
pub struct Args {
    /// Which vserver asks
    pub vserver: String,
    /// A name or an address
    pub name: String,
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
    /// Seconds to wait for the answer
    #[arg(short = 'W', long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub wait: u32,
}

/// Prints one address or name per line; fails if there is none.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let mut connection = daemon::connect(control)?;
    let until = Instant::now() + Duration::from_secs(args.wait.into());
    let found = loop {
        let (vserver, name) = (args.vserver.clone(), args.name.clone());
        let asked = connection.ask(Command::Resolve { vserver, name });
        match asked.map_err(daemon::error)? {
            Answer::Resolved(found) if found.done => break found,
            Answer::Resolved(_) if Instant::now() < until => std::thread::sleep(LOOK_EVERY),
            Answer::Resolved(_) => {
                let text = format!("no answer about '{}' within {} s", args.name, args.wait);
                return Err(Error::Failed(text));
            }
            _ => {
                let text = "the daemon gave an answer to something else";
                return Err(Error::Failed(String::from(text)));
            }
        }
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        let text = serde_json::to_string(&found).map_err(|e| Error::Failed(e.to_string()))?;
        writeln!(out, "{text}")?;
    }
    if let Some(error) = found.error {
        return Err(Error::Failed(error));
    }
    if !args.json {
        for line in found.addresses.iter().chain(&found.names) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}
