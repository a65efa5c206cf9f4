//! `weft audit`.

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use weft_vserver::control::{Answer, AuditPage, AuditQuery, Command, Record, read_files};

use super::daemon;
use crate::Error;

/// Options of `weft audit`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
One line per change or refusal, oldest first: when (UTC), who by user and roles, what, how it ended.
'begun' alone is a change during which the daemon ended. The daemon shows its last 1000 records.")]
pub struct Args {
    /// Only what happened since: a time (2026-01-31T08:00:00Z), or how long ago (90s, 15m, 2h, 3days)
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<String>,
    /// Read this log and its older files instead of asking the daemon
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Print JSON: the records as they are in the log, one per line
    #[arg(short, long)]
    pub json: bool,
}

fn since(text: &str) -> Result<String, String> {
    let at = match humantime::parse_duration(text) {
        Ok(ago) => SystemTime::now().checked_sub(ago),
        Err(_) => humantime::parse_rfc3339_weak(text).ok(),
    };
    let at = at.ok_or("a time like 2026-01-31T08:00:00Z, or how long ago: 90s, 15m, 2h, 3days")?;
    Ok(humantime::format_rfc3339_millis(at).to_string())
}

/// Shows the log of the daemon behind `control`, or a file.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let query = AuditQuery { since: args.since.clone() };
    let page = match &args.file {
        Some(file) => {
            read_files(file, &query, usize::MAX).map_err(|e| Error::Failed(e.to_string()))?
        }
        None => ask(control, query)?,
    };
    if page.file.is_none() {
        let text =
            "the daemon keeps no log: its records go to its standard error; set 'audit' in [host]";
        return Err(Error::Failed(String::from(text)));
    }
    let mut out = std::io::stdout().lock();
    let text = if args.json { lines(&page) } else { render(&page) };
    out.write_all(text.as_bytes())?;
    Ok(())
}

fn ask(control: Option<&Path>, query: AuditQuery) -> Result<AuditPage, Error> {
    let answer = daemon::connect(control)?.ask(Command::Audit(query)).map_err(daemon::error)?;
    if let Answer::Audit(page) = answer {
        return Ok(page);
    }
    Err(Error::Failed(String::from("the daemon gave an answer to something else")))
}

fn lines(page: &AuditPage) -> String {
    // Plain data with string keys: it has a JSON form.
    let line = |r| serde_json::to_string(r).unwrap_or_default() + "\n";
    page.records.iter().map(line).collect()
}

fn render(page: &AuditPage) -> String {
    let mut out = String::new();
    if page.more
        && let Some(file) = &page.file
    {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "... older ones: weft audit --file {}", file.display());
    }
    for r in &page.records {
        let ended = |o: &&Record| o.id == r.id && o.result.is_some();
        if r.result.is_none() && page.records.iter().any(|o| ended(&o)) {
            continue;
        }
        let result = r.result.as_deref().unwrap_or("begun");
        let _ = write!(out, "{} uid {} ({}) {}: {result}", r.time, r.uid, r.role, r.what);
        if !r.before.is_null() || !r.after.is_null() {
            let _ = write!(out, "; {} -> {}", r.before, r.after);
        }
        if let Some(n) = r.untold {
            let _ = write!(out, " ({n} refusals before are not told)");
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_one_line_and_one_without_end_shows() {
        let begun = Record {
            time: String::from("2026-01-31T08:00:00.000Z"),
            id: 1,
            uid: 1001,
            role: String::from("ops"),
            what: String::from("set-poll"),
            ..Record::default()
        };
        let ended = Record {
            before: "busy".into(),
            after: "interrupt".into(),
            result: Some(String::from("ok")),
            ..begun.clone()
        };
        let lost = Record { id: 2, ..begun.clone() };
        let page = AuditPage { records: vec![begun, ended, lost], more: false, file: None };
        assert_eq!(
            render(&page),
            "2026-01-31T08:00:00.000Z uid 1001 (ops) set-poll: ok; \"busy\" -> \"interrupt\"\n\
             2026-01-31T08:00:00.000Z uid 1001 (ops) set-poll: begun\n"
        );
        assert_eq!(lines(&page).lines().count(), 3);
    }

    #[test]
    fn times_are_absolute_or_ago() {
        assert_eq!(since("2026-01-31T08:00:00Z").unwrap(), "2026-01-31T08:00:00.000Z");
        assert!(since("2h").unwrap() < since("1h").unwrap());
        assert!(since("yesterday").is_err());
    }
}
