//! `weft sockets VSERVER`.

use std::io::{IsTerminal, Write};
use std::path::Path;

use weft_vserver::control::{Answer, Command};
use weft_vserver::stats::table;

use super::daemon;
use crate::{Error, output};

/// Options of `weft sockets`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Of which vserver
    pub vserver: String,
    /// Print JSON: a list of sockets
    #[arg(short, long)]
    pub json: bool,
}

/// Shows the sockets of a vserver, in the words of `ss`.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let command = Command::Sockets { vserver: args.vserver.clone() };
    let answer = daemon::connect(control)?.ask(command).map_err(daemon::error)?;
    let Answer::Sockets(found) = answer else {
        return Err(Error::Failed(String::from("the daemon did not answer with sockets")));
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        let text = serde_json::to_string(&found).map_err(|e| Error::Failed(e.to_string()))?;
        writeln!(out, "{text}")?;
        return Ok(());
    }
    let bold = output::colour(out.is_terminal());
    write!(out, "{}", table::sockets(&found).render(bold))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use weft_vserver::control::SocketLine;

    use super::*;

    #[test]
    fn sockets_look_like_those_of_ss() {
        let line = |state: &str, peer: &str| SocketLine {
            protocol: String::from("tcp"),
            state: state.to_owned(),
            recv_queue: 0,
            send_queue: 1024,
            local: String::from("[::]:80"),
            peer: peer.to_owned(),
        };
        let found = [line("LISTEN", "[::]:0"), line("ESTAB", "10.0.0.1:4711")];
        assert_eq!(
            table::sockets(&found).render(false),
            "NETID  STATE   RECV-Q  SEND-Q  LOCAL    PEER\n\
             tcp    LISTEN       0    1024  [::]:80  [::]:0\n\
             tcp    ESTAB        0    1024  [::]:80  10.0.0.1:4711\n"
        );
    }
}
