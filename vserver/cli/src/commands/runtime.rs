//! `weft runtime`: how the daemon's workers wait.

use std::io::Write;
use std::path::Path;

use weft_vserver::config::PollMode;
use weft_vserver::control::{Answer, Command};

use super::daemon;
use crate::Error;

/// Options of `weft runtime`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Change how the workers wait for frames: interrupt, adaptive or busy
    #[arg(long, value_name = "MODE", value_parser = mode)]
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

/// Changes what `args` asks for in the daemon behind `control`.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let Some(mode) = args.set_poll else {
        return Err(Error::Config(String::from("say what to change: --set-poll MODE")));
    };
    let mut daemon = daemon::connect(control)?;
    let request = Command::SetPoll { mode, worker: args.worker };
    match daemon.ask(request).map_err(daemon::error)? {
        Answer::Poll(mode) => {
            writeln!(std::io::stdout(), "polling: {}", mode.name())?;
            Ok(())
        }
        _ => Err(Error::Failed(String::from("the daemon gave an answer to something else"))),
    }
}
