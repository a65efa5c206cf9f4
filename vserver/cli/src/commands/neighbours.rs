//! `weft neighbours`.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::path::Path;

use weft_vserver::NeighbourReport;
use weft_vserver::control::{Answer, Command};
use weft_vserver::stats::{json, table};

use super::daemon;
use crate::{Error, output};

/// Options of `weft neighbours`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
ORIGIN is own (the vserver asked, or listened), shared NAME (another vserver of that table asked),
static NAME (configured in the table). States are those of RFC 4861.")]
pub struct Args {
    /// Only this vserver
    #[arg(value_name = "VSERVER")]
    pub vserver: Option<String>,
    /// Print JSON: one document with schema_version
    #[arg(short, long)]
    pub json: bool,
}

/// Shows the neighbours of the daemon behind `control`.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let mut connection = daemon::connect(control)?;
    let command = Command::Neighbours { vserver: args.vserver.clone() };
    let Answer::Neighbours(report) = connection.ask(command).map_err(daemon::error)? else {
        return Err(Error::Failed(String::from("the daemon gave an answer to something else")));
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json::document("neighbours", &report))?;
    } else {
        out.write_all(render(&report, output::colour(std::io::stdout().is_terminal())).as_bytes())?;
    }
    Ok(())
}

fn render(report: &NeighbourReport, bold: bool) -> String {
    let mut text = table::neighbours(report).render(bold);
    if report.left_out > 0 {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} more; name a vserver", report.left_out);
    }
    if !report.tables.is_empty() {
        text += "\n";
        text += &table::neighbour_tables(report).render(bold);
    }
    text
}
