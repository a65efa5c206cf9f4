//! `weft policy`.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use weft_vserver::config::{Origin, Policy, Setting};
use weft_vserver::control::{Answer, Command, Gate};
use weft_vserver::stats::json;

use super::{check, daemon};
use crate::{Error, output};

/// Longer values are cut in the table; JSON has all of them.
const VALUE_CHARS_MAX: usize = 72;

/// Options of `weft policy`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// What `weft policy` does.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Print what is in force for a vserver: its own value, its group's, or the default
    Show(Show),
}

/// Options of `weft policy show`.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// Which vserver
    #[arg(value_name = "VSERVER")]
    pub vserver: String,
    /// From this file instead of the daemon
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Defaults too
    #[arg(short, long)]
    pub all: bool,
    /// Print JSON: one document with schema_version
    #[arg(short, long)]
    pub json: bool,
}

/// Shows what is in force for a vserver of the daemon behind `control`, or of a file.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let Action::Show(args) = &args.action;
    let policy = match &args.config {
        Some(file) => of_file(file, &args.vserver)?,
        None => of_daemon(control, &args.vserver)?,
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json::document("policy", &policy))?;
        return Ok(());
    }
    let bold = output::colour(out.is_terminal());
    out.write_all(render(&policy, args.all, bold).as_bytes())?;
    Ok(())
}

fn of_file(file: &Path, vserver: &str) -> Result<Policy, Error> {
    let mut config = check::load(file)?;
    let Some(mut policy) = config.policy(vserver) else {
        let file = file.display();
        return Err(Error::NoSuchObject(format!("no vserver '{vserver}' in {file}")));
    };
    // Only asked who may: nothing is to be written.
    config.privilege.audit = None;
    let gate = Gate::new(&config).map_err(|e| Error::Failed(e.to_string()))?;
    policy.roles = gate.roles_of(vserver);
    Ok(policy)
}

fn of_daemon(control: Option<&Path>, vserver: &str) -> Result<Policy, Error> {
    let command = Command::Policy { vserver: vserver.to_owned() };
    match daemon::connect(control)?.ask(command).map_err(daemon::error)? {
        Answer::Policy(policy) => Ok(*policy),
        _ => Err(Error::Failed(String::from("the daemon gave an answer to something else"))),
    }
}

fn render(p: &Policy, all: bool, bold: bool) -> String {
    let mut out = String::new();
    let groups = match p.groups.as_slice() {
        [] => String::from("in no group"),
        some => format!("in group {}", some.join(", in ")),
    };
    let roles = match p.roles.as_slice() {
        [] => String::from("changed by cluster roles only"),
        some => format!("changed by role {}", some.join(", ")),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "vserver {}: {groups}; {roles}\n", p.vserver);
    let (given, defaults): (Vec<_>, Vec<_>) =
        p.settings.iter().partition(|s| s.origin != Origin::Default);
    let shown: Vec<&Setting> =
        given.into_iter().chain(defaults.iter().copied().filter(|_| all)).collect();
    let width = |of: fn(&Setting) -> String, head: &str| {
        shown.iter().map(|s| of(s).chars().count()).max().unwrap_or(0).max(head.len())
    };
    let (key, value) = (width(|s| s.key.clone(), "KEY"), width(cut, "VALUE"));
    let (on, off) = if bold { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    let _ = writeln!(out, "{on}{:key$}  {:value$}  FROM{off}", "KEY", "VALUE");
    for s in &shown {
        let _ = writeln!(out, "{:key$}  {:value$}  {}", s.key, cut(s), s.origin);
    }
    if !all && !defaults.is_empty() {
        let _ = writeln!(out, "\n{} more at their defaults (-a shows them)", defaults.len());
    }
    out
}

fn cut(s: &Setting) -> String {
    if s.value.chars().count() <= VALUE_CHARS_MAX {
        return s.value.clone();
    }
    let start: String = s.value.chars().take(VALUE_CHARS_MAX - 3).collect();
    format!("{start}...")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(key: &str, value: &str, origin: Origin) -> Setting {
        Setting { key: key.to_owned(), value: value.to_owned(), origin }
    }

    #[test]
    fn the_table_tells_value_and_origin() {
        let gold = || Origin::Group { name: String::from("gold"), line: 12 };
        let p = Policy {
            vserver: String::from("files"),
            groups: vec![String::from("gold"), String::from("base")],
            roles: vec![],
            settings: vec![
                setting("forwarding", "true", Origin::Vserver { line: 3 }),
                setting("routes", &"x".repeat(100), gold()),
                setting("tcp.sack", "true", Origin::Default),
            ],
        };
        let text = render(&p, false, false);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[0],
            "vserver files: in group gold, in base; changed by cluster roles only"
        );
        let from = lines[2].find("FROM").unwrap();
        assert!(lines[2].starts_with("KEY         VALUE  "), "{text}");
        assert_eq!(&lines[3][from..], "vserver, line 3");
        assert_eq!(&lines[4][from - 5..], "...  group gold, line 12");
        assert_eq!(lines[6], "1 more at their defaults (-a shows them)");
        assert!(render(&p, true, false).ends_with("default\n"));
    }
}
