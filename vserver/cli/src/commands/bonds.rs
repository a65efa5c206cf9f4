//! `weft bonds`: aggregates, in the form of `dladm show-aggr`.

use std::path::Path;

use weft_interface::bond::{BondReport, PortReport, StateReport};
use weft_vserver::control::{Answer, Command};
use weft_vserver::stats::json;

use super::daemon;
use super::watch::Watch;
use crate::Error;

/// Options of `weft bonds`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without -L, -x: a line for each bond; FLAGS is up or down. -L: what this end of each port tells its
partner, with the state of its machines. -x: ports with their links. The name of the bond is in its
first line only. A value that there is not is --.")]
pub struct Args {
    /// Only this bond
    #[arg(value_name = "BOND")]
    pub bond: Option<String>,
    /// LACP of each port
    #[arg(short = 'L', long)]
    pub lacp: bool,
    /// Link of each port, and why it does not send
    #[arg(short = 'x', long, conflicts_with = "lacp")]
    pub extended: bool,
    /// Print JSON: one document with schema_version and everything that is known
    #[arg(short, long, conflicts_with_all = ["lacp", "extended"])]
    pub json: bool,
    /// Again and again
    #[command(flatten)]
    pub watch: Watch,
}

pub(super) type Row = Vec<String>;

/// Shows the bonds of the daemon behind `control`.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let mut connection = daemon::connect(control)?;
    args.watch.repeat(args.json, || {
        let Answer::Bonds(mut bonds) = connection.ask(Command::Bonds).map_err(daemon::error)?
        else {
            return Err(Error::Failed(String::from("the daemon gave an answer to something else")));
        };
        if let Some(name) = &args.bond {
            bonds.retain(|(bond, _)| bond.eq_ignore_ascii_case(name));
            if bonds.is_empty() {
                return Err(Error::NoSuchObject(format!("no bond '{name}'")));
            }
        }
        Ok(if args.json { json::document("bonds", &bonds) + "\n" } else { render(&bonds, args) })
    })
}

fn render(bonds: &[(String, BondReport)], args: &Args) -> String {
    let each = |row: fn(&PortReport) -> Row| -> Vec<Row> {
        let ports = bonds.iter().flat_map(|(name, bond)| {
            bond.ports.iter().enumerate().map(move |(at, port)| {
                let name = if at == 0 { name.clone() } else { none() };
                std::iter::once(name).chain(row(port)).collect()
            })
        });
        ports.collect()
    };
    if args.lacp {
        let header = [
            "LINK",
            "PORT",
            "AGGREGATABLE",
            "SYNC",
            "COLL",
            "DIST",
            "DEFAULTED",
            "EXPIRED",
            "RECEIVE",
            "MUX",
            "PARTNER",
        ];
        return table(&header, &each(lacp_row));
    }
    if args.extended {
        let header = ["LINK", "PORT", "SPEED", "DUPLEX", "STATE", "ADDRESS", "COLL", "DIST", "WHY"];
        return table(&header, &each(port_row));
    }
    let header =
        ["LINK", "MODE", "POLICY", "LACPACTIVITY", "LACPTIMER", "FLAGS", "PORTS", "PARTNER"];
    table(&header, &bonds.iter().map(bond_row).collect::<Vec<_>>())
}

fn bond_row((name, bond): &(String, BondReport)) -> Row {
    let lacp = bond.lacp.as_ref();
    let partner = lacp.and_then(|l| l.partner.as_ref());
    let used = bond.ports.iter().filter(|p| p.distributing).count();
    vec![
        name.clone(),
        word(bond.mode),
        word(bond.hash),
        lacp.map_or_else(none, |l| word(l.activity)),
        lacp.map_or_else(none, |l| word(l.rate)),
        String::from(if bond.up { "up" } else { "down" }),
        format!("{used}/{}", bond.ports.len()),
        partner.map_or_else(none, |p| format!("{},{} key {}", p.system_priority, p.system, p.key)),
    ]
}

fn lacp_row(port: &PortReport) -> Row {
    let Some(lacp) = &port.lacp else {
        return std::iter::once(port.name.clone()).chain((0..9).map(|_| none())).collect();
    };
    let StateReport { aggregatable, sync, collecting, distributing, defaulted, expired, .. } =
        lacp.actor.state;
    let yes = |is: bool| String::from(if is { "yes" } else { "no" });
    let partner = port.partner.as_ref();
    let mut row = vec![port.name.clone()];
    row.extend([aggregatable, sync, collecting, distributing, defaulted, expired].map(yes));
    row.extend([word(lacp.receive), word(lacp.mux)]);
    row.push(partner.map_or_else(none, |p| format!("{} port {}", p.system, p.port)));
    row
}

fn port_row(port: &PortReport) -> Row {
    let yes = |is: bool| String::from(if is { "yes" } else { "no" });
    vec![
        port.name.clone(),
        port.speed_mbit.map_or_else(none, |mbit| format!("{mbit}Mb")),
        String::from(if port.full_duplex { "full" } else { "half" }),
        String::from(if port.link { "up" } else { "down" }),
        port.mac.clone(),
        yes(port.collecting),
        yes(port.distributing),
        port.unused.map_or_else(none, word),
    ]
}

pub(super) fn none() -> String {
    String::from("--")
}

/// A value as JSON says it.
fn word(value: impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub(super) fn table(header: &[&str], rows: &[Row]) -> String {
    let width = |i: usize| {
        rows.iter().map(|r| r[i].len()).chain([header[i].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut header.iter().copied());
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    use weft_interface::bond::{Bond, BondConfig, PortConfig, PortLink};
    use weft_stack::time::Instant;

    fn args(line: &str) -> Args {
        #[derive(Debug, clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        <Line as clap::Parser>::try_parse_from(line.split(' ')).unwrap().args
    }

    #[test]
    fn a_bond_without_partner_looks_like_show_aggr() {
        let ports = vec![PortConfig::named("eth0"), PortConfig::named("eth1")];
        let config = BondConfig { ports, ..BondConfig::default() };
        let mut bond = Bond::new(&config, &[[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]], 1);
        let link = PortLink { speed_mbit: Some(10_000), ..PortLink::UP };
        bond.handle_link(Instant::ZERO, 0, link);
        let bonds = [(String::from("bond0"), bond.report(Instant::ZERO))];
        let text = render(&bonds, &args("bonds"));
        assert_eq!(
            text,
            "\
LINK   MODE  POLICY  LACPACTIVITY  LACPTIMER  FLAGS  PORTS  PARTNER
bond0  lacp  l3+4    active        slow       down   0/2    --
"
        );
        let text = render(&bonds, &args("bonds -L"));
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("LINK   PORT  AGGREGATABLE  SYNC  COLL  DIST  DEFAULTED"));
        assert!(lines[1].starts_with("bond0  eth0  yes "), "{text}");
        assert!(lines[2].starts_with("--     eth1  yes "), "{text}");
        let text = render(&bonds, &args("bonds -x"));
        assert!(text.contains("bond0  eth0  10000Mb  full    up     02:00:00:00:00:01"), "{text}");
        assert!(text.ends_with("link-down\n"), "{text}");
    }
}
