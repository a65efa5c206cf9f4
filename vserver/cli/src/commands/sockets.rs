//! `weft sockets [VSERVER] [FILTER...]`, in the manner of `ss`.

use std::io::{IsTerminal, Write};
use std::path::Path;

use weft_vserver::control::{Answer, Command, Connection};
use weft_vserver::sockets::text::{self, Details};
use weft_vserver::sockets::{Filter, Show, SocketLine, SocketQuery};

use super::daemon;
use crate::{Error, output};

/// Options of `weft sockets`; the letters are those of `ss`.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
#[command(after_help = "\
Without -a and -l, connected sockets are shown. A filter is words as ss takes them:

  state established|syn-sent|...|connected|all     exclude STATE
  src|dst [=|!=] 10.0.0.0/8|10.0.0.1:80|[fd00::/8]:80|:80
  sport|dport [=|!=|<|<=|>|>=|eq|ne|lt|le|gt|ge] PORT
  dev [=|!=] ALIAS        and, or, not, ( )

  weft sockets files -ti state established and dport ge 1024
  weft sockets 'dst 10.0.0.0/8 and ( sport = :80 or sport = :443 )'")]
pub struct Args {
    /// Of which vserver, then the filter; without a vserver, of all
    #[arg(value_name = "VSERVER|FILTER")]
    pub words: Vec<String>,
    /// Of all vservers; every word is of the filter, as it is anyway if the first begins one
    #[arg(long = "all")]
    pub all_vservers: bool,
    /// TCP
    #[arg(short, long)]
    pub tcp: bool,
    /// UDP
    #[arg(short, long)]
    pub udp: bool,
    /// Raw
    #[arg(short = 'w', long)]
    pub raw: bool,
    /// Listening and unconnected
    #[arg(short, long)]
    pub listening: bool,
    /// Connected, listening and all others
    #[arg(short = 'a', long)]
    pub any_state: bool,
    /// Numbers only, as always
    #[arg(short, long)]
    pub numeric: bool,
    /// With the inner state of TCP connections
    #[arg(short, long)]
    pub info: bool,
    /// With memory
    #[arg(short, long)]
    pub memory: bool,
    /// With timers
    #[arg(short = 'o', long)]
    pub options: bool,
    /// With alias and owner
    #[arg(short, long)]
    pub extended: bool,
    /// Numbers of sockets only
    #[arg(short, long)]
    pub summary: bool,
    /// Print JSON: a list of sockets, or the summary
    #[arg(short, long)]
    pub json: bool,
    /// No header line
    #[arg(short = 'H', long)]
    pub no_header: bool,
}

impl Args {
    fn query(&self) -> Result<SocketQuery, Error> {
        let (vserver, words) = match self.words.split_first() {
            Some((vserver, words)) if !self.all_vservers && !Filter::begins(&self.words) => {
                (Some(vserver.clone()), words)
            }
            _ => (None, &self.words[..]),
        };
        let filter = words.join(" ");
        // Told here, before anybody is asked.
        Filter::parse(&filter).map_err(|e| Error::Config(e.to_string()))?;
        let kinds = [(self.tcp, "tcp"), (self.udp, "udp"), (self.raw, "raw"), (self.raw, "icmp")];
        let wanted = kinds.into_iter().filter(|(on, _)| *on);
        Ok(SocketQuery {
            vserver,
            protocols: wanted.map(|(_, name)| name.to_owned()).collect(),
            show: match (self.any_state || self.summary, self.listening) {
                (true, _) => Show::All,
                (false, true) => Show::Listening,
                (false, false) => Show::Connected,
            },
            filter,
            tcp_info: self.info,
            after: None,
        })
    }
}

/// Shows sockets in the words of `ss`.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    let query = args.query()?;
    let mut daemon = daemon::connect(control)?;
    let mut out = std::io::stdout().lock();
    if args.summary {
        let answer = daemon.ask(Command::SocketSummary(query)).map_err(daemon::error)?;
        let Answer::SocketSummary(found) = answer else { return Err(misunderstood()) };
        let text = if args.json { json(&found)? } else { text::summary(&found) };
        return Ok(out.write_all(text.as_bytes())?);
    }
    let with_vserver = query.vserver.is_none();
    let found = all_pages(&mut daemon, query)?;
    let details = Details {
        vserver: with_vserver,
        info: args.info,
        timers: args.options,
        memory: args.memory,
        extended: args.extended,
    };
    let bold = output::colour(out.is_terminal());
    let text = if args.json {
        json(&found)?
    } else {
        text::render(&found, details, !args.no_header, bold)
    };
    Ok(out.write_all(text.as_bytes())?)
}

fn misunderstood() -> Error {
    Error::Failed(String::from("the daemon did not answer with sockets"))
}

fn json(found: &impl serde::Serialize) -> Result<String, Error> {
    let text = serde_json::to_string(found).map_err(|e| Error::Failed(e.to_string()))?;
    Ok(text + "\n")
}

fn all_pages(daemon: &mut Connection, mut query: SocketQuery) -> Result<Vec<SocketLine>, Error> {
    let mut all = Vec::new();
    loop {
        let answer = daemon.ask(Command::Sockets(query.clone())).map_err(daemon::error)?;
        let Answer::Sockets(page) = answer else { return Err(misunderstood()) };
        all.extend(page.sockets);
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(all),
        }
    }
}
