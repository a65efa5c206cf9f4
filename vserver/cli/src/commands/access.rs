//! `weft access`.

use std::io::Write;
use std::net::IpAddr;
use std::path::Path;

use weft_vserver::access::{AccessDecision, AccessQuery, AccessReport};
use weft_vserver::control::{Answer, Command, Connection};
use weft_vserver::stats::json;

use super::daemon;
use super::watch::Watch;
use crate::Error;

/// Options of `weft access`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
The first rule that matches decides about the first packet of a flow; what none matches is allowed.
Packets of established connections and answers to what the vserver sent are not judged. A hit is a
packet, not a connection: a client that asks again is counted again."
)]
pub struct Args {
    /// Only this vserver
    #[arg(value_name = "VSERVER")]
    pub vserver: Option<String>,
    /// Print JSON: one document with schema_version; with --watch one per line
    #[arg(short, long)]
    pub json: bool,
    /// Again and again
    #[command(flatten)]
    pub watch: Watch,
    /// Instead
    #[command(subcommand)]
    pub action: Option<Action>,
}

/// What else `weft access` does.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Say which rule decides: weft access test web tcp/22 from 10.0.0.5 to data0
    Test(Test),
}

/// Options of `weft access test`.
#[derive(Debug, clap::Args)]
pub struct Test {
    /// Which vserver
    #[arg(value_name = "VSERVER")]
    pub vserver: String,
    /// tcp/PORT, udp/PORT, icmp, or the name of a service or class
    #[arg(value_name = "SERVICE")]
    pub service: String,
    /// from CLIENT, and if you like to ALIAS or to ADDRESS
    #[arg(value_name = "from CLIENT [to ALIAS]", num_args = 2..=4, required = true)]
    pub words: Vec<String>,
    /// Print JSON: one document with schema_version
    #[arg(short, long)]
    pub json: bool,
}

/// Shows the access rules of the daemon behind `control`, or asks it which one decides.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    if let Some(Action::Test(test)) = &args.action {
        return ask(&mut daemon::connect(control)?, test);
    }
    let mut connection = daemon::connect(control)?;
    args.watch.repeat(args.json, || {
        let report = report(&mut connection, args.vserver.clone())?;
        Ok(if args.json {
            json::document("access", &report.vservers) + "\n"
        } else {
            report.render()
        })
    })
}

fn report(connection: &mut Connection, vserver: Option<String>) -> Result<AccessReport, Error> {
    match connection.ask(Command::Access { vserver }).map_err(daemon::error)? {
        Answer::Access(report) => Ok(report),
        _ => Err(unexpected()),
    }
}

fn unexpected() -> Error {
    Error::Failed(String::from("the daemon gave an answer to something else"))
}

/// `from CLIENT` and `to ALIAS`, in either order.
fn places(words: &[String]) -> Result<(IpAddr, Option<String>), Error> {
    let usage = || {
        let example = "weft access test web tcp/22 from 10.0.0.5 to data0";
        Error::Config(format!("say from which client, as in '{example}'"))
    };
    let (mut from, mut to) = (None, None);
    for pair in words.chunks(2) {
        match pair {
            [word, client] if word == "from" => {
                let wrong = |_| Error::Config(format!("'{client}' is no address of a client"));
                from = Some(client.parse().map_err(wrong)?);
            }
            [word, alias] if word == "to" => to = Some(alias.clone()),
            _ => return Err(usage()),
        }
    }
    Ok((from.ok_or_else(usage)?, to))
}

fn ask(connection: &mut Connection, test: &Test) -> Result<(), Error> {
    let (from, to) = places(&test.words)?;
    let (vserver, service) = (test.vserver.clone(), test.service.clone());
    let query = AccessQuery { vserver, service, from, to };
    let answer = connection.ask(Command::AccessTest(query)).map_err(daemon::error)?;
    let Answer::AccessTest(decisions) = answer else { return Err(unexpected()) };
    let mut out = std::io::stdout().lock();
    if test.json {
        writeln!(out, "{}", json::document("decisions", &decisions))?;
    } else {
        let text: String = decisions.iter().map(AccessDecision::render).collect();
        out.write_all(text.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_and_to_stand_in_either_order_and_from_must_be_there() {
        let words = |text: &str| places(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let client: IpAddr = [10, 0, 0, 5].into();
        assert_eq!(words("from 10.0.0.5").unwrap(), (client, None));
        let both = (client, Some(String::from("data0")));
        assert_eq!(words("from 10.0.0.5 to data0").unwrap(), both);
        assert_eq!(words("to data0 from 10.0.0.5").unwrap(), both);
        for wrong in ["to data0", "from nobody", "from 10.0.0.5 to", "by 10.0.0.5"] {
            assert!(words(wrong).is_err(), "{wrong}");
        }
    }
}
