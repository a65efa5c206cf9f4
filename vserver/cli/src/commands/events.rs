//! `weft events`.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use weft_interface::events::Event;
use weft_vserver::control::{Answer, Command};
use weft_vserver::stats::json;

use super::daemon;
use crate::Error;

/// How often the daemon is asked.
const PAUSE: Duration = Duration::from_millis(200);

/// Options of `weft events`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each line: seconds since the daemon began, the number of the event, what happened. The daemon keeps
the last 1024; of more, numbers are missing and standard error tells how many.")]
pub struct Args {
    /// Go on, with what happens from now on, until stopped
    #[arg(short, long)]
    pub watch: bool,
    /// Begin after the event of this number
    #[arg(long, value_name = "NUMBER")]
    pub after: Option<u64>,
    /// Print JSON: one document with schema_version per line
    #[arg(short, long)]
    pub json: bool,
}

/// Shows events of the daemon behind `control`.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let mut connection = daemon::connect(control)?;
    // Who watches wants what comes, who looks what was.
    let mut after = if args.watch { args.after } else { Some(args.after.unwrap_or(0)) };
    loop {
        let Answer::Events { events, .. } =
            connection.ask(Command::Events { after }).map_err(daemon::error)?
        else {
            return Err(Error::Failed(String::from("the daemon gave an answer to something else")));
        };
        let mut out = std::io::stdout().lock();
        if events.lost > 0 {
            crate::output::error(&format!("{} events are not kept any more", events.lost));
        }
        for event in &events.items {
            if args.json {
                writeln!(out, "{}", json::document("event", event))?;
            } else {
                writeln!(out, "{}", line(event))?;
            }
        }
        out.flush()?;
        drop(out);
        let more = after != Some(events.next) && !events.items.is_empty();
        after = Some(events.next);
        if !more && !args.watch {
            return Ok(());
        }
        if !more {
            std::thread::sleep(PAUSE);
        }
    }
}

fn line(event: &Event) -> String {
    format!("{:.6} {} {}", event.at_us as f64 / 1e6, event.number, event.what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_interface::events::What;

    #[test]
    fn a_line_has_time_number_and_what_happened() {
        let what = What::Link { interface: String::from("eth0"), up: false };
        let event = Event { version: 1, number: 7, at_us: 1_500_000, what };
        assert_eq!(line(&event), "1.500000 7 link eth0 down");
    }
}
