//! `weft qos`.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::Path;

use weft_vserver::control::{Answer, Command};
use weft_vserver::qos::QosSnapshot;

use super::daemon;
use super::watch::Watch;
use crate::{Error, output};

/// Options of `weft qos`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Per link, group, vserver, class and client, in each direction: what is configured, what went in the
last whole second, and since the daemon started what was borrowed (went beyond the guarantee),
dropped (queue full, waited too long, over the limit) and marked; bytes that wait now and how long the
last packet waited. Then per vserver: its weight in its worker's rounds, what it used of one worker's
time in the last whole second and in all, and how often it waited for another round; measured while
several vservers share a worker.")]
pub struct Args {
    /// Print JSON: one document with schema_version; with --watch one per line
    #[arg(short, long)]
    pub json: bool,
    /// Again and again
    #[command(flatten)]
    pub watch: Watch,
    /// Only this vserver and its classes and clients
    pub vserver: Option<String>,
}

/// Shows what links, groups, vservers, classes and clients may use and do use.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let mut connection = daemon::connect(control)?;
    let terminal = std::io::stdout().is_terminal();
    args.watch.repeat(args.json, || {
        let command = Command::Qos { vserver: args.vserver.clone() };
        let Answer::Qos(snapshot) = connection.ask(command).map_err(daemon::error)? else {
            return Err(Error::Failed(String::from("the daemon gave an answer to something else")));
        };
        Ok(render(&snapshot, args.json, output::colour(terminal)))
    })
}

fn render(snapshot: &QosSnapshot, json: bool, bold: bool) -> String {
    if json {
        return weft_vserver::stats::json::qos(snapshot) + "\n";
    }
    let mut text = if snapshot.nodes.is_empty() {
        String::from("no rates are configured\n")
    } else {
        weft_vserver::stats::table::qos(snapshot).render(bold)
    };
    if !snapshot.processing.is_empty() {
        text.push('\n');
        text += &weft_vserver::stats::table::processing(snapshot).render(bold);
    }
    if !snapshot.names.is_empty() {
        text.push('\n');
    }
    for n in &snapshot.names {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} class {}: client {}", n.vserver, n.class, n.client.render());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    use weft_vserver::qos::Processing;

    #[test]
    fn nothing_configured_is_said_in_words_and_in_json() {
        let none =
            QosSnapshot { schema_version: 1, nodes: vec![], processing: vec![], names: vec![] };
        assert_eq!(render(&none, false, false), "no rates are configured\n");
        let json = "{\"schema_version\":1,\"nodes\":[],\"processing\":[]}\n";
        assert_eq!(render(&none, true, false), json);
    }

    #[test]
    fn processing_shares_are_shown_with_their_weights() {
        let own = Processing {
            vserver: String::from("files"),
            weight: 300,
            us_per_second: 123_400,
            us: 2_500_000,
            deferred: 7,
        };
        let some =
            QosSnapshot { schema_version: 1, nodes: vec![], processing: vec![own], names: vec![] };
        let text = render(&some, false, false);
        assert!(text.ends_with("files       300      12.3  2500         7\n"), "{text}");
    }
}
