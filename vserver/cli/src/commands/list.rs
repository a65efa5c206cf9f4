//! `weft list`.

use std::io::{IsTerminal, Write};
use std::path::Path;

use weft_vserver::stats::{json, table};

use super::daemon;
use crate::{Error, output};

/// Options of `weft list`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON: one document with schema_version
    #[arg(short, long)]
    pub json: bool,
}

/// Lists the NICs and vservers of the daemon behind `control`.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let mut s = daemon::snapshot(&mut daemon::connect(control)?)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        // What a list shows, in the form of a snapshot.
        for v in &mut s.vservers {
            v.counters.clear();
            v.drops.clear();
            v.services.iter_mut().for_each(|s| s.counters.clear());
        }
        s.nics.iter_mut().for_each(|n| n.counters.clear());
        s.drops.clear();
        writeln!(out, "{}", json::snapshot(&s, &[]))?;
        return Ok(());
    }
    let bold = output::colour(out.is_terminal());
    write!(out, "{}", table::list(&s).render(bold))?;
    Ok(())
}
