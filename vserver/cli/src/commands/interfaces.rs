//! `weft interfaces`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use weft_interface::bond::BondReport;
use weft_interface::paths::PathsReport;
use weft_vserver::config::{self, HostConfig};
use weft_vserver::control::{Answer, Command};
use weft_vserver::interface::draw::{self, NicFacts};
use weft_vserver::stats::{NicSnapshot, json};

use super::{check, daemon};
use crate::Error;

/// Options of `weft interfaces`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
From what carries aliases down to the NICs: state, what it consists of, the least MTU below.
Columns: interface, kind, state, detail, mtu, mac, aliases.")]
pub struct Args {
    /// A configuration file instead of the daemon's; nothing is known of its links then
    pub config: Option<PathBuf>,
    /// Print JSON: one document with schema_version
    #[arg(short, long)]
    pub json: bool,
    /// Columns to show, separated by commas; all: every one
    #[arg(short, long, value_delimiter = ',', value_name = "COLUMNS")]
    pub output: Vec<String>,
    /// For programs: no header, nothing drawn, fields between colons, `:` and `\` in them after a `\`
    #[arg(short = 'P', long, requires = "output", conflicts_with = "json")]
    pub parsable: bool,
}

/// What machines say, by name of the interface: state and detail.
type Live = BTreeMap<String, (String, String)>;

/// Draws the tree of interfaces.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let (config, nics, live) = match &args.config {
        Some(file) => (check::load_elsewhere(file)?, Vec::new(), Live::new()),
        None => ask(control)?,
    };
    let text = render(&config, &nics, &live, args)?;
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

fn ask(control: Option<&Path>) -> Result<(HostConfig, Vec<NicSnapshot>, Live), Error> {
    let other = || Error::Failed(String::from("the daemon gave an answer to something else"));
    let mut connection = daemon::connect(control)?;
    let command = Command::Export { all: false };
    let Answer::Export(text) = connection.ask(command).map_err(daemon::error)? else {
        return Err(other());
    };
    let config = config::parse_elsewhere(&text, Path::new("daemon"));
    let config = config.map_err(|e| Error::Config(e.to_string()))?;
    let Answer::Bonds(bonds) = connection.ask(Command::Bonds).map_err(daemon::error)? else {
        return Err(other());
    };
    let Answer::Paths(paths) = connection.ask(Command::Paths).map_err(daemon::error)? else {
        return Err(other());
    };
    Ok((config, daemon::snapshot(&mut connection)?.nics, live(&bonds, &paths)))
}

fn word(value: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

fn live(bonds: &[(String, BondReport)], paths: &PathsReport) -> Live {
    let mut live = Live::new();
    for (name, bond) in bonds {
        let sending = bond.ports.iter().filter(|p| p.distributing).count();
        let mut detail =
            format!("{}, {sending} of {} ports send", word(&bond.mode), bond.ports.len());
        if let Some(partner) = bond.lacp.as_ref().and_then(|l| l.partner.as_ref()) {
            // Writing to a String cannot fail.
            let _ = write!(detail, ", partner {} key {}", partner.system, partner.key);
        }
        let state = if bond.up { "up" } else { "down" };
        live.insert(name.clone(), (state.to_owned(), detail));
        for port in &bond.ports {
            let state = match (port.offline, port.link) {
                (true, _) => "offline",
                (false, true) => "up",
                (false, false) => "down",
            };
            let detail = port.unused.as_ref().map_or("sends".to_owned(), word);
            live.insert(port.name.clone(), (state.to_owned(), detail));
        }
    }
    for group in &paths.groups {
        let part = |what: &str, names: &[String]| match names {
            [] => String::new(),
            names => format!("{what} {}", names.join(" ")),
        };
        let parts = [
            part("active", &group.active),
            part("waiting", &group.inactive),
            part("unusable", &group.unusable),
        ];
        let lost: Vec<String> = group.beyond_lost.iter().map(ToString::to_string).collect();
        let parts = parts.into_iter().chain([part("not reached", &lost)]);
        let parts: Vec<_> = parts.filter(|p| !p.is_empty()).collect();
        live.insert(group.group.clone(), (word(&group.state), parts.join(", ")));
    }
    for member in &paths.interfaces {
        let mut detail = match (member.active, member.flags.inactive) {
            (true, _) => "active".to_owned(),
            (false, true) => "waiting".to_owned(),
            (false, false) => "unused".to_owned(),
        };
        detail.extend(member.why.iter().map(|why| format!(": {why}")));
        let before = live.get(&member.interface).map(|(_, detail)| detail);
        detail.extend(before.map(|d| format!("; {d}")));
        live.insert(member.interface.clone(), (word(&member.state), detail));
    }
    live
}

fn render(
    config: &HostConfig,
    nics: &[NicSnapshot],
    live: &Live,
    args: &Args,
) -> Result<String, Error> {
    let tree = config.tree().map_err(|errors| {
        let all: Vec<_> = errors.iter().map(ToString::to_string).collect();
        Error::Config(all.join("\n"))
    })?;
    let facts = |name: &str, mtu: Option<usize>| {
        let now = nics.iter().find(|n| n.name == name);
        NicFacts {
            up: now.is_some_and(|n| n.up),
            mtu: now.map_or(mtu.unwrap_or(0), |n| n.mtu),
            mac: now.and_then(|n| n.mac.clone()),
        }
    };
    let facts: Vec<_> = config.nics.iter().map(|n| facts(&n.name, n.mtu)).collect();
    let known: &[NicFacts] = if nics.is_empty() { &[] } else { &facts };
    let lines = tree.draw(known, live);
    if args.json {
        return Ok(json::document("interfaces", &lines) + "\n");
    }
    let lower: Vec<String> = args.output.iter().map(|c| c.to_ascii_lowercase()).collect();
    let columns: Vec<&str> = lower.iter().map(String::as_str).collect();
    let all = columns.is_empty() || columns.contains(&"all");
    let columns = if all { &draw::COLUMNS[..] } else { &columns[..] };
    let form = if args.parsable { draw::parsable } else { draw::table };
    form(&lines, columns).map_err(Error::Failed)
}
