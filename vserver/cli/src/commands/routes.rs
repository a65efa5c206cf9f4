//! `weft routes`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

use serde::Serialize;
use weft_vserver::stats::{VserverSnapshot, json};

use super::daemon;
use crate::Error;

/// Options of `weft routes`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Per vserver: its policy routing rules in the order in which they are asked, as 'ip rule' shows them,
its own routes (table main), then those of the shared tables that it uses. Without rules and shared
tables its own routes decide alone.")]
pub struct Args {
    /// Which vservers; all if none is named
    #[arg(value_name = "VSERVER")]
    pub vservers: Vec<String>,
    /// One table only: main, or the name of a shared one
    #[arg(long, value_name = "NAME")]
    pub table: Option<String>,
    /// Print JSON: one document with schema_version
    #[arg(short, long)]
    pub json: bool,
}

/// Rules and routes of a vserver.
#[derive(Debug, Serialize)]
struct Routes<'s> {
    vserver: &'s str,
    rules: &'s [String],
    tables: BTreeMap<&'s str, &'s [String]>,
}

impl<'s> Routes<'s> {
    fn of(v: &'s VserverSnapshot, table: Option<&str>) -> Routes<'s> {
        let shared = v.tables.iter().map(|(name, routes)| (name.as_str(), &routes[..]));
        let all = std::iter::once(("main", &v.routes[..])).chain(shared);
        let tables = all.filter(|(name, _)| table.is_none_or(|wanted| wanted == *name)).collect();
        Routes { vserver: &v.name, rules: if table.is_some() { &[] } else { &v.rules }, tables }
    }
}

/// Shows rules and routes of the daemon behind `control`.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let snapshot = daemon::snapshot(&mut daemon::connect(control)?)?;
    let mut out = std::io::stdout().lock();
    let text = render(&snapshot.vservers, args)?;
    out.write_all(text.as_bytes())?;
    Ok(())
}

fn render(all: &[VserverSnapshot], args: &Args) -> Result<String, Error> {
    if let Some(missing) = args.vservers.iter().find(|n| !all.iter().any(|v| v.name == **n)) {
        return Err(Error::NoSuchObject(format!("no vserver '{missing}'; see 'weft list'")));
    }
    let wanted = |v: &&VserverSnapshot| args.vservers.is_empty() || args.vservers.contains(&v.name);
    let chosen = all.iter().filter(wanted).map(|v| Routes::of(v, args.table.as_deref()));
    let chosen: Vec<_> = chosen.filter(|r| !r.tables.is_empty()).collect();
    if let Some(table) = args.table.as_ref().filter(|_| chosen.is_empty()) {
        return Err(Error::NoSuchObject(format!("no vserver uses a route table '{table}'")));
    }
    if args.json {
        return Ok(json::document("routes", &chosen) + "\n");
    }
    let mut text = String::new();
    for r in &chosen {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "vserver {}", r.vserver);
        for rule in r.rules {
            let _ = writeln!(text, "  {rule}");
        }
        for (name, routes) in &r.tables {
            let _ = writeln!(text, "  table {name}");
            for route in *routes {
                let _ = writeln!(text, "    {route}");
            }
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_come_before_tables_and_one_table_can_be_chosen() {
        let v = VserverSnapshot {
            name: String::from("a"),
            routes: vec![String::from("10.0.0.0/24 dev data0")],
            rules: vec![String::from("100: from all lookup transit")],
            tables: [(String::from("transit"), vec![String::from("0.0.0.0/0 dev data1")])].into(),
            ..VserverSnapshot::default()
        };
        let args = |table: Option<&str>, json| Args {
            vservers: vec![String::from("a")],
            table: table.map(str::to_owned),
            json,
        };
        let all = [v];
        let text = render(&all, &args(None, false)).unwrap();
        assert_eq!(
            text,
            "vserver a\n  100: from all lookup transit\n  table main\n    10.0.0.0/24 dev data0\n  \
             table transit\n    0.0.0.0/0 dev data1\n"
        );
        let one = render(&all, &args(Some("transit"), false)).unwrap();
        assert_eq!(one, "vserver a\n  table transit\n    0.0.0.0/0 dev data1\n");
        assert!(render(&all, &args(Some("x"), false)).is_err());
        assert!(render(&all, &args(None, true)).unwrap().contains("lookup transit"));
    }
}
