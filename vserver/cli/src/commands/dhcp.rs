//! `weft dhcp`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use weft_vserver::control::{Answer, Command, Connection};
use weft_vserver::dhcp::{DhcpLine, DhcpReport, DhcpWish, State};

use super::daemon;
use super::watch::Watch;
use crate::Error;

/// Options of `weft dhcp`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
One line per address that a vserver asks DHCP servers for: where its client is, the address, who gave
it, when it is renewed and when it ends, the identifier it is asked under. Below it what went wrong.

  weft dhcp renew VSERVER ALIAS      ask for more time now, or begin anew
  weft dhcp release VSERVER ALIAS    give the address back, and stay without until a renew")]
pub struct Args {
    /// Print JSON: one document with schema_version; with --watch one per line
    #[arg(short, long)]
    pub json: bool,
    /// Again and again
    #[command(flatten)]
    pub watch: Watch,
    /// What to do instead of showing
    #[command(subcommand)]
    pub wish: Option<Wish>,
}

/// What can be done with leases.
#[derive(Debug, clap::Subcommand)]
pub enum Wish {
    /// Ask for more time now, or begin anew
    Renew(Place),
    /// Give the address back, and stay without until a renew
    Release(Place),
}

/// Which leases.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// The vserver
    pub vserver: String,
    /// The alias
    pub alias: String,
    /// Only this one of the vserver's addresses on the alias [default: all]
    #[arg(long, value_name = "N")]
    pub instance: Option<u32>,
}

/// Shows the DHCP clients of the daemon behind `control`, or has one do something.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let mut connection = daemon::connect(control)?;
    match &args.wish {
        Some(Wish::Renew(place)) => return wish(&mut connection, place, DhcpWish::Renew),
        Some(Wish::Release(place)) => return wish(&mut connection, place, DhcpWish::Release),
        None => {}
    }
    args.watch.repeat(args.json, || {
        let Answer::Dhcp(report) = connection.ask(Command::Dhcp).map_err(daemon::error)? else {
            return Err(other());
        };
        if args.json { json(&report) } else { Ok(render(&report)) }
    })
}

fn other() -> Error {
    Error::Failed(String::from("the daemon gave an answer to something else"))
}

fn wish(connection: &mut Connection, place: &Place, wish: DhcpWish) -> Result<(), Error> {
    let command = Command::DhcpWish {
        vserver: place.vserver.clone(),
        alias: place.alias.clone(),
        instance: place.instance,
        wish,
    };
    match connection.ask(command).map_err(daemon::error)? {
        Answer::DhcpWish { clients } => {
            let done = match wish {
                DhcpWish::Renew => "asked for more time",
                DhcpWish::Release => "released",
            };
            let s = if clients == 1 { "" } else { "s" };
            writeln!(std::io::stdout(), "{clients} lease{s} {done}; see 'weft dhcp'")?;
            Ok(())
        }
        _ => Err(other()),
    }
}

fn json(report: &DhcpReport) -> Result<String, Error> {
    let failed = |e: serde_json::Error| Error::Failed(format!("writing JSON: {e}"));
    let mut value = serde_json::to_value(report).map_err(failed)?;
    value["schema_version"] = 1.into();
    Ok(value.to_string() + "\n")
}

/// `1h20m`, `45s`.
fn time(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m{s}s"),
        (0, h, m, _) => format!("{h}h{m}m"),
        (d, h, ..) => format!("{d}d{h}h"),
    }
}

fn row(l: &DhcpLine) -> [String; 7] {
    let dash = || String::from("-");
    let ends = match (&l.address, l.left_s) {
        (None, _) => dash(),
        (_, None) => String::from("never"),
        (_, Some(s)) => time(s),
    };
    let renews = l.renew_in_s.filter(|_| l.state == State::Bound).map_or_else(dash, time);
    // DHCPv4's are addresses; a DUID is long.
    let server = l.server.as_ref().map_or_else(dash, |s| s.chars().take(20).collect());
    [
        l.vserver.clone(),
        format!("{} {}", l.alias, l.family),
        l.state.name().to_owned(),
        l.address.clone().unwrap_or_else(dash),
        server,
        format!("{renews}/{ends}"),
        l.id.clone(),
    ]
}

fn render(report: &DhcpReport) -> String {
    if report.clients.is_empty() {
        return String::from("no vserver asks for an address\n");
    }
    let head = ["VSERVER", "ALIAS", "STATE", "ADDRESS", "SERVER", "RENEW/END", "IDENTIFIER"];
    let rows: Vec<[String; 7]> = report.clients.iter().map(row).collect();
    let width =
        |i: usize| rows.iter().map(|r| r[i].len()).chain([head[i].len()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..7).map(width).collect();
    let mut out = String::new();
    let mut line = |cells: &[String]| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(c, w)| format!("{c:<w$}")).collect();
        // Writing to a string does not fail.
        let _ = writeln!(out, "{}", padded.join("  ").trim_end());
    };
    line(&head.map(String::from));
    for (row, l) in rows.iter().zip(&report.clients) {
        line(row);
        if let Some(error) = &l.error {
            line(&[format!("    {error}")]);
        }
    }
    if report.lost > 0 {
        let _ = writeln!(out, "{} messages of servers lost: too many at once", report.lost);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_state_times_and_identifier_and_the_error_below() {
        let client = |state: &str, more: &str| -> DhcpLine {
            let text = format!(
                r#"{{"vserver":"files","alias":"data0","family":"v4","instance":0,
                   "id":"00:07:34:04:12:0E:data0:files:0","state":"{state}"{more}}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        let bound = r#","address":"10.0.0.5/24","server":"10.0.0.1","left_s":4800,"renew_in_s":45"#;
        let report = DhcpReport {
            clients: vec![client("bound", bound), client("selecting", r#","error":"no answer""#)],
            lost: 2,
        };
        let text = render(&report);
        let lines: Vec<_> = text.lines().collect();
        let words: Vec<_> = lines[1].split_whitespace().collect();
        assert_eq!(
            words,
            [
                "files",
                "data0",
                "v4",
                "bound",
                "10.0.0.5/24",
                "10.0.0.1",
                "45s/1h20m",
                "00:07:34:04:12:0E:data0:files:0"
            ]
        );
        assert_eq!(
            (lines[3], lines[4]),
            ("    no answer", "2 messages of servers lost: too many at once")
        );
        assert!(json(&report).unwrap().contains("\"schema_version\":1"));
        assert_eq!(render(&DhcpReport::default()), "no vserver asks for an address\n");
    }
}
