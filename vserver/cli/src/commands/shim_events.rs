//! `weft shim events`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use weft_vserver::ShimEvent;
use weft_vserver::control::{Answer, Command};
use weft_vserver::stats::json;

use super::daemon;
use crate::Error;

/// How often the daemon is asked.
const PAUSE: Duration = Duration::from_millis(200);

/// Options of `weft shim events`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each line: seconds since the daemon began, vserver, number of the event in it, what happened, between
which ULIDs, and of a switch the pair that was left, the one that is used now, and why. The daemon keeps
the last 256 of each vserver; of more, standard error tells how many.")]
pub struct Args {
    /// Only this vserver
    #[arg(value_name = "VSERVER")]
    pub vserver: Option<String>,
    /// Go on, with what happens from now on, until stopped
    #[arg(short, long)]
    pub watch: bool,
    /// Print JSON: one document with schema_version per line
    #[arg(short, long)]
    pub json: bool,
}

/// Shows what happened to contexts of the daemon behind `control`.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let mut connection = daemon::connect(control)?;
    let vserver = args.vserver.as_deref().map(str::to_ascii_lowercase);
    let mut after = BTreeMap::new();
    // Who watches wants what comes, who looks what was.
    let mut quiet = args.watch;
    loop {
        let command = Command::ShimEvents { vserver: vserver.clone(), after: after.clone() };
        let Answer::ShimEvents { vservers, .. } = connection.ask(command).map_err(daemon::error)?
        else {
            return Err(Error::Failed(String::from("the daemon gave an answer to something else")));
        };
        let mut events = Vec::new();
        for (vserver, page) in vservers {
            if page.lost > 0 && !quiet {
                let text = format!("{vserver}: {} events are not kept any more", page.lost);
                crate::output::error(&text);
            }
            after.insert(vserver, page.next);
            events.extend(page.items);
        }
        // Several vservers, one order.
        events.sort_by_key(|e| e.at_us);
        if !quiet {
            print(&events, args.json)?;
        }
        if !args.watch {
            return Ok(());
        }
        quiet = false;
        std::thread::sleep(PAUSE);
    }
}

fn print(events: &[ShimEvent], as_json: bool) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    for event in events {
        if as_json {
            writeln!(out, "{}", json::document("event", event))?;
        } else {
            writeln!(out, "{}", line(event))?;
        }
    }
    Ok(out.flush()?)
}

fn line(e: &ShimEvent) -> String {
    let at = e.at_us as f64 / 1e6;
    let name = format!("{} {} {} {} {}", e.vserver, e.number, e.event, e.local, e.peer);
    let instance =
        if e.instance == 0 { String::new() } else { format!(" instance {}", e.instance) };
    let moved = match (e.from, e.to) {
        (Some(from), Some(to)) => format!(" from {} {} to {} {}", from.0, from.1, to.0, to.1),
        _ => String::new(),
    };
    let why = e.why.as_ref().map_or_else(String::new, |why| format!(" {why}"));
    format!("{at:.6} {name}{instance}{moved}{why}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn a_line_tells_of_a_switch_both_pairs_and_why() {
        let ip = |n: u8| IpAddr::from([10, 0, n, 1]);
        let mut event = ShimEvent {
            version: 1,
            vserver: String::from("web"),
            number: 7,
            at_us: 1_500_000,
            local: ip(0),
            peer: ip(1),
            instance: 0,
            event: String::from("switched"),
            from: Some((ip(0), ip(1))),
            to: Some((ip(2), ip(3))),
            why: Some(String::from("link-down")),
        };
        assert_eq!(
            line(&event),
            "1.500000 web 7 switched 10.0.0.1 10.0.1.1 \
             from 10.0.0.1 10.0.1.1 to 10.0.2.1 10.0.3.1 link-down"
        );
        (event.from, event.to, event.why) = (None, None, None);
        (event.instance, event.event) = (3, String::from("ended"));
        assert_eq!(line(&event), "1.500000 web 7 ended 10.0.0.1 10.0.1.1 instance 3");
    }
}
