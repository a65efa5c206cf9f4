//! `weft register [VSERVER]`.

use std::io::{IsTerminal, Write as _};
use std::path::Path;

use weft_vserver::stats::table;

use super::daemon;
use crate::{Error, output};

/// Options of `weft register`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Names and reverse names that vservers keep in DNS, and whether the server has confirmed each. A
registration that fails is tried again, after a second at first and five minutes at last.")]
pub struct Args {
    /// Of this vserver only
    pub vserver: Option<String>,
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
}

/// Shows what is registered.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let snapshot = daemon::snapshot(&mut daemon::connect(control)?)?;
    let wanted = |name: &str| args.vserver.as_deref().is_none_or(|v| v == name);
    if let Some(name) = args.vserver.as_deref()
        && !snapshot.vservers.iter().any(|v| v.name == name)
    {
        return Err(Error::NoSuchObject(format!("no vserver '{name}'; see 'weft list'")));
    }
    let chosen: Vec<_> = snapshot.vservers.iter().filter(|v| wanted(&v.name)).collect();
    let mut out = std::io::stdout().lock();
    if args.json {
        let all: Vec<_> = chosen
            .iter()
            .map(|v| serde_json::json!({ "vserver": v.name, "records": v.records }))
            .collect();
        let text = serde_json::json!({ "schema_version": 1, "vservers": all });
        return Ok(writeln!(out, "{text}")?);
    }
    let table = table::records(&chosen);
    let bold = output::colour(std::io::stdout().is_terminal());
    Ok(out.write_all(table.render(bold).as_bytes())?)
}
