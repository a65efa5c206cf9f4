//! `weft runtime`.

use std::io::{IsTerminal, Write};
use std::path::Path;

use weft_vserver::config::PollMode;
use weft_vserver::control::{Answer, Command, Connection};
use weft_vserver::stats::{RuntimeSnapshot, WorkerRuntime};

use super::daemon;
use super::watch::Watch;
use crate::{Error, output};

/// Options of `weft runtime`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Per worker: its time idle, polling and working, frames per burst and wake-up, and what each stage
costs per packet. Counts since the daemon started or --clear; with --watch since the last output.
Stages are timed in one turn of sixteen; a packet of a super-segment counts as one.")]
pub struct Args {
    /// Print JSON: one document with schema_version; with --watch one per line, from the start on
    #[arg(short, long)]
    pub json: bool,
    /// Again and again
    #[command(flatten)]
    pub watch: Watch,
    /// Begin all counts anew after this output
    #[arg(short, long)]
    pub clear: bool,
    /// Change how the workers wait for frames, instead: interrupt, adaptive or busy
    #[arg(long, value_name = "MODE", value_parser = mode,
          conflicts_with_all = ["json", "watch", "clear"])]
    pub set_poll: Option<PollMode>,
    /// Change this worker only, numbered from 0
    #[arg(long, value_name = "N", requires = "set_poll")]
    pub worker: Option<usize>,
}

fn mode(text: &str) -> Result<PollMode, String> {
    let known = [PollMode::Interrupt, PollMode::Adaptive, PollMode::Busy];
    let found = known.into_iter().find(|m| m.name() == text);
    found.ok_or_else(|| String::from("interrupt, adaptive or busy"))
}

fn set_poll(daemon: &mut Connection, mode: PollMode, worker: Option<usize>) -> Result<(), Error> {
    match daemon.ask(Command::SetPoll { mode, worker }).map_err(daemon::error)? {
        Answer::Poll(mode) => {
            writeln!(std::io::stdout(), "polling: {}", mode.name())?;
            Ok(())
        }
        _ => Err(Error::Failed(String::from("the daemon gave an answer to something else"))),
    }
}

/// Shows what the workers of the daemon behind `control` do with their time, or changes how they
/// wait.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let mut connection = daemon::connect(control)?;
    if let Some(mode) = args.set_poll {
        return set_poll(&mut connection, mode, args.worker);
    }
    let terminal = std::io::stdout().is_terminal();
    let mut before: Option<RuntimeSnapshot> = None;
    args.watch.repeat(args.json, || {
        let clear = args.clear && before.is_none();
        let snapshot = daemon::runtime(&mut connection, clear)?;
        let text = render(&snapshot, before.as_ref(), args.json, output::colour(terminal));
        before = Some(snapshot);
        Ok(text)
    })
}

fn render(
    now: &RuntimeSnapshot,
    before: Option<&RuntimeSnapshot>,
    json: bool,
    bold: bool,
) -> String {
    if json {
        return weft_vserver::stats::json::runtime(now) + "\n";
    }
    let one = |(i, w): (usize, &WorkerRuntime)| {
        let earlier = before.and_then(|b| b.workers.get(i));
        earlier.map_or_else(|| w.render(bold), |earlier| w.since(earlier).render(bold))
    };
    now.workers.iter().enumerate().map(one).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_shows_differences_and_json_everything() {
        let at = |n: u64| RuntimeSnapshot {
            schema_version: 1,
            workers: vec![WorkerRuntime { turns: n, elapsed_ns: n, ..WorkerRuntime::default() }],
        };
        assert!(render(&at(5), None, false, false).contains("turns 5 "));
        assert!(render(&at(5), Some(&at(3)), false, false).contains("turns 2 "));
        assert!(render(&at(5), Some(&at(3)), true, false).contains("\"turns\":5"));
    }
}
