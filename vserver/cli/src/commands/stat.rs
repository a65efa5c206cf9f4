//! `weft stat`.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::Path;

use weft_vserver::stats::{HostSnapshot, VserverSnapshot, copied_per_byte, json, table};

use super::daemon;
use super::watch::Watch;
use crate::{Error, output};

/// Options of `weft stat`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without a VSERVER: one line for each, then the NICs, then what was lost before a vserver was found.
With VSERVERs: every counter that is not zero, and every loss with its meaning and remedy.
All numbers of one call come from one snapshot; counters start at zero with the daemon.")]
pub struct Args {
    /// Which vservers, in detail
    #[arg(value_name = "VSERVER")]
    pub vservers: Vec<String>,
    /// Print JSON: one document with schema_version; with --watch one per line
    #[arg(short, long)]
    pub json: bool,
    /// Show zeros too
    #[arg(short, long)]
    pub all: bool,
    /// Again and again
    #[command(flatten)]
    pub watch: Watch,
}

/// Shows counters of the daemon behind `control`.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let mut connection = daemon::connect(control)?;
    let terminal = std::io::stdout().is_terminal();
    args.watch.repeat(args.json, || {
        let snapshot = daemon::snapshot(&mut connection)?;
        render(&snapshot, args, output::colour(terminal))
    })
}

fn render(s: &HostSnapshot, args: &Args, bold: bool) -> Result<String, Error> {
    let mut chosen: Vec<&VserverSnapshot> = Vec::new();
    for name in &args.vservers {
        let found = s.vservers.iter().find(|v| v.name == *name);
        chosen.push(
            found.ok_or_else(|| {
                Error::NoSuchObject(format!("no vserver '{name}'; see 'weft list'"))
            })?,
        );
    }
    if args.json {
        return Ok(json::snapshot(s, &args.vservers) + "\n");
    }
    if !chosen.is_empty() {
        let all: Vec<_> = chosen.iter().map(|v| table::details(v, args.all, bold)).collect();
        return Ok(all.join("\n"));
    }
    let every: Vec<_> = s.vservers.iter().collect();
    let mut out = table::traffic(&every).render(bold);
    // Writing to a String cannot fail.
    let _ = write!(out, "\n{}", table::nics(s).render(bold));
    if let Some(shares) = table::shares(&every) {
        let _ = write!(out, "\n{}", shares.render(bold));
    }
    if let Some(workers) = table::workers(s) {
        let _ = write!(out, "\n{}", workers.render(bold));
    }
    let _ = writeln!(out, "\n{}", copied_per_byte(s));
    if args.all || !s.drops.is_empty() {
        let _ = write!(out, "\nlost before a vserver was found\n");
        out.push_str(&table::drops(&s.drops, args.all).render(bold));
    }
    if let Some(rights) = &s.rights {
        let _ = writeln!(out, "\ndaemon: {rights}");
    }
    for p in &s.problems {
        let _ = writeln!(out, "\nproblem: {p}");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(vservers: &[&str], json: bool) -> Args {
        let vservers = vservers.iter().map(|v| String::from(*v)).collect();
        Args { vservers, json, all: false, watch: Watch::default() }
    }

    fn host() -> HostSnapshot {
        let v = |name: &str| VserverSnapshot { name: name.to_owned(), ..Default::default() };
        HostSnapshot {
            vservers: vec![v("a"), v("b")],
            drops: [(String::from("DemuxNoVserver"), 3)].into(),
            problems: vec![String::from("address 10.0.0.1 is in use elsewhere")],
            ..Default::default()
        }
    }

    #[test]
    fn the_overview_has_vservers_nics_losses_and_problems() {
        let text = render(&host(), &args(&[], false), false).unwrap();
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what} in {text}"));
        assert!(at("VSERVER") < at("total") && at("total") < at("NIC"));
        assert!(at("NIC") < at("lost before") && at("lost before") < at("DemuxNoVserver"));
        assert!(at("DemuxNoVserver") < at("problem: address 10.0.0.1"));
    }

    #[test]
    fn named_vservers_must_exist() {
        let e = render(&host(), &args(&["b", "c"], false), false).unwrap_err();
        assert_eq!((e.to_string().as_str(), e.exit_code()), ("no vserver 'c'; see 'weft list'", 3));
        assert!(render(&host(), &args(&["b"], false), false).unwrap().starts_with("vserver b\n"));
        let json = render(&host(), &args(&["b"], true), false).unwrap();
        assert!(json.contains("\"b\"") && !json.contains("\"a\"") && json.ends_with('\n'));
    }
}
