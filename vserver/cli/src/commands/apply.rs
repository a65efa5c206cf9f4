//! `weft apply CONFIG`, `weft confirm`, `weft revert`.

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};

use weft_vserver::change::Applied;
use weft_vserver::control::{Answer, Command};

use super::daemon;
use crate::Error;

/// Options of `weft apply`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The running daemon compares the file with what it runs, tells the difference and makes it in one
transaction: all of it, or nothing if any step fails. Connections whose address stays go on. What
cannot be changed while it runs (NICs, queues, workers, the control socket) is named, and nothing
is changed.")]
pub struct Args {
    /// The configuration file (TOML)
    pub config: PathBuf,
    /// Tell the difference, change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Take the change back unless 'weft confirm' comes within this time: 30s, 5m
    #[arg(long, value_name = "TIME", value_parser = seconds, conflicts_with = "dry_run")]
    pub confirm: Option<u64>,
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
}

/// Options of `weft confirm` and `weft revert`.
#[derive(Debug, clap::Args)]
pub struct Plain {
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
}

fn seconds(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    let seconds = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    seconds
        .filter(|s| (1..=86_400).contains(s))
        .ok_or_else(|| String::from("a time from 1s to a day, like 30s or 5m"))
}

/// Applies a configuration.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let unreadable =
        |e: std::io::Error| Error::Config(format!("cannot read {}: {e}", args.config.display()));
    let text = std::fs::read_to_string(&args.config).map_err(unreadable)?;
    let path = std::fs::canonicalize(&args.config).map_err(unreadable)?;
    let command = Command::Apply { path, text, dry_run: args.dry_run, confirm_s: args.confirm };
    show(&ask(control, command)?, args.json)
}

/// Keeps a change that waits.
pub fn confirm(control: Option<&Path>, args: &Plain) -> Result<(), Error> {
    let answer = daemon::connect(control)?.ask(Command::Confirm).map_err(daemon::error)?;
    if answer != Answer::Confirmed {
        return Err(unexpected());
    }
    print(if args.json { "{\"confirmed\":true}\n" } else { "confirmed\n" })
}

/// Goes back to what was in force before the last change.
pub fn revert(control: Option<&Path>, args: &Plain) -> Result<(), Error> {
    show(&ask(control, Command::Revert)?, args.json)
}

fn print(text: &str) -> Result<(), Error> {
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}

fn unexpected() -> Error {
    Error::Failed(String::from("the daemon gave an answer to something else"))
}

fn ask(control: Option<&Path>, command: Command) -> Result<Applied, Error> {
    match daemon::connect(control)?.ask(command).map_err(daemon::error)? {
        Answer::Applied(applied) => Ok(*applied),
        _ => Err(unexpected()),
    }
}

fn show(applied: &Applied, json: bool) -> Result<(), Error> {
    if json {
        // Plain data with string keys: it has a JSON form.
        let text = serde_json::to_string(applied).unwrap_or_default();
        return print(&(text + "\n"));
    }
    print(&report(applied))
}

fn report(applied: &Applied) -> String {
    if applied.changes.lines.is_empty() {
        return String::from("no difference\n");
    }
    let mut text = applied.changes.text();
    let count = applied.changes.lines.len();
    let differences = if count == 1 { "difference" } else { "differences" };
    if applied.dry_run {
        return text + &format!("{count} {differences}; nothing was changed\n");
    }
    // Writing to a String cannot fail.
    let _ = writeln!(text, "applied: {count} {differences}, generation {}", applied.generation);
    if let Some(s) = applied.confirm_s {
        let _ = writeln!(text, "taken back in {s} s unless 'weft confirm' comes first");
    }
    for v in &applied.removed {
        let _ = writeln!(
            text,
            "removed {}: received {} frames, {} bytes; sent {} frames, {} bytes",
            v.name, v.rx_frames, v.rx_bytes, v.tx_frames, v.tx_bytes
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit_and_an_end() {
        assert_eq!(seconds("30s"), Ok(30));
        assert_eq!(seconds("5m"), Ok(300));
        assert_eq!(seconds("7"), Ok(7));
        for wrong in ["", "0s", "s", "-1s", "2h", "90000s", "99999999999999999999m"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_report_names_what_is_left_to_do() {
        assert_eq!(report(&Applied::default()), "no difference\n");
        let line = weft_vserver::change::Line {
            sign: '+',
            vserver: Some(String::from("a")),
            text: String::from("address data0 10.0.0.1/24"),
        };
        let changes = weft_vserver::change::Described { lines: vec![line] };
        let applied = Applied { changes, generation: 2, confirm_s: Some(30), ..Applied::default() };
        assert_eq!(
            report(&applied),
            "vserver a\n  + address data0 10.0.0.1/24\napplied: 1 difference, generation 2\n\
             taken back in 30 s unless 'weft confirm' comes first\n"
        );
    }
}
