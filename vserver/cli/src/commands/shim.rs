//! `weft shim`.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::net::IpAddr;
use std::path::Path;

use weft_vserver::control::{Answer, Command, Connection};
use weft_vserver::stats::json;
use weft_vserver::{PROBE_WAIT, ShimContext, ShimLocatorLine, ShimReport, ShimWish};

use super::watch::Watch;
use super::{daemon, shim_events};
use crate::{Error, output};

/// Options of `weft shim`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to show or do
    #[command(subcommand)]
    pub what: What,
}

/// What `weft shim` does.
#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// Contexts: ULIDs, state, the pair of locators in use
    Contexts(Show),
    /// Locators of vservers and of their peers
    Locators(Show),
    /// Pairs of locators of each context: state, round-trip time, loss
    Paths(Show),
    /// What is configured, and counters that are not zero
    Policy(Show),
    /// What happened to contexts: set up, lost, ended, moved to another pair and why
    Events(shim_events::Args),
    /// Probe every pair to a peer now and show them; sets up a context if there is none
    Probe {
        /// The vserver
        vserver: String,
        /// ULID of the peer
        peer: IpAddr,
        /// ULID on this side
        #[arg(long, value_name = "ULID")]
        from: Option<IpAddr>,
    },
    /// Move a context to another pair of locators
    Switch {
        /// The vserver
        vserver: String,
        /// ULID of the peer
        peer: IpAddr,
        /// Locator on this side
        local: IpAddr,
        /// Locator of the peer
        remote: IpAddr,
        /// ULID on this side, if there are several contexts with the peer
        #[arg(long, value_name = "ULID")]
        from: Option<IpAddr>,
    },
}

/// Options of what is shown.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Show {
    /// Only this vserver
    #[arg(value_name = "VSERVER")]
    pub vserver: Option<String>,
    /// Print JSON: one document with schema_version; with --watch one per line
    #[arg(short, long)]
    pub json: bool,
    /// Columns to show, separated by commas
    #[arg(short, long, value_delimiter = ',', value_name = "COLUMNS")]
    pub output: Vec<String>,
    /// Again and again
    #[command(flatten)]
    pub watch: Watch,
}

/// Asks the daemon behind `control`.
pub fn run(control: Option<&Path>, args: &Args) -> Result<(), Error> {
    match &args.what {
        What::Contexts(show) => display(control, show, contexts),
        What::Locators(show) => display(control, show, locators),
        What::Paths(show) => display(control, show, paths),
        What::Policy(show) => display(control, show, policy),
        What::Events(args) => shim_events::run(control, args),
        What::Probe { vserver, peer, from } => {
            wish(control, vserver, *peer, *from, None)?;
            std::thread::sleep(PROBE_WAIT);
            let mut report = ask(&mut daemon::connect(control)?, Some(vserver))?;
            report.contexts.retain(|c| c.peer == *peer && from.is_none_or(|f| f == c.local));
            let text = paths(&report).render(&[], bold())?;
            Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
        }
        What::Switch { vserver, peer, local, remote, from } => {
            wish(control, vserver, *peer, *from, Some((*local, *remote)))?;
            Ok(writeln!(std::io::stdout().lock(), "{vserver}: {peer} by {local} {remote}")?)
        }
    }
}

fn other() -> Error {
    Error::Failed(String::from("the daemon gave an answer to something else"))
}

fn ask(connection: &mut Connection, vserver: Option<&str>) -> Result<ShimReport, Error> {
    let command = Command::Shim { vserver: vserver.map(str::to_ascii_lowercase) };
    match connection.ask(command).map_err(daemon::error)? {
        Answer::Shim(report) => Ok(report),
        _ => Err(other()),
    }
}

fn wish(
    control: Option<&Path>,
    vserver: &str,
    peer: IpAddr,
    local: Option<IpAddr>,
    switch: Option<(IpAddr, IpAddr)>,
) -> Result<(), Error> {
    let wish = ShimWish { vserver: vserver.to_ascii_lowercase(), peer, local, switch };
    match daemon::connect(control)?.ask(Command::ShimWish(wish)).map_err(daemon::error)? {
        Answer::ShimWished => Ok(()),
        _ => Err(other()),
    }
}

fn bold() -> bool {
    output::colour(std::io::stdout().is_terminal())
}

fn display(
    control: Option<&Path>,
    show: &Show,
    rows: fn(&ShimReport) -> Rows,
) -> Result<(), Error> {
    let mut connection = daemon::connect(control)?;
    show.watch.repeat(show.json, || {
        let report = ask(&mut connection, show.vserver.as_deref())?;
        if show.json {
            return Ok(json::document("shim", &report) + "\n");
        }
        let mut text = rows(&report).render(&show.output, bold())?;
        if report.left_out > 0 {
            let _ = writeln!(text, "{} more contexts; name a vserver", report.left_out);
        }
        Ok(text)
    })
}

/// A table of text with columns to choose from.
struct Rows {
    columns: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Rows {
    fn render(&self, chosen: &[String], bold: bool) -> Result<String, Error> {
        let position = |name: &String| {
            let found = self.columns.iter().position(|c| c.eq_ignore_ascii_case(name));
            found.ok_or_else(|| {
                let known: Vec<_> = self.columns.iter().map(|c| c.to_lowercase()).collect();
                Error::Failed(format!("no column '{name}'; there are {}", known.join(", ")))
            })
        };
        let chosen: Vec<usize> = if chosen.is_empty() {
            (0..self.columns.len()).collect()
        } else {
            chosen.iter().map(position).collect::<Result<_, _>>()?
        };
        let width = |at: &usize| {
            let cells = self.rows.iter().map(|r| r[*at].chars().count());
            cells.chain([self.columns[*at].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = chosen.iter().map(width).collect();
        let line = |cell: &dyn Fn(usize) -> String| {
            let cells: Vec<_> =
                chosen.iter().zip(&widths).map(|(at, w)| format!("{:<w$}", cell(*at))).collect();
            cells.join("  ").trim_end().to_owned()
        };
        let head = line(&|at| self.columns[at].to_owned());
        let mut text = if bold { format!("\x1b[1m{head}\x1b[0m\n") } else { head + "\n" };
        for row in &self.rows {
            text += &line(&|at| row[at].clone());
            text += "\n";
        }
        Ok(text)
    }
}

fn contexts(report: &ShimReport) -> Rows {
    let row = |c: &ShimContext| {
        let by = if c.rewritten { "rewritten" } else { "ulids" };
        let numbers =
            [c.packets_out, c.packets_in, c.switches, c.age_s, c.idle_ms].map(|n| n.to_string());
        let words = [
            c.vserver.clone(),
            c.local.to_string(),
            c.peer.to_string(),
            c.state.clone(),
            if c.reap.is_empty() { String::from("-") } else { c.reap.clone() },
            c.locator.to_string(),
            c.peer_locator.to_string(),
            by.to_owned(),
        ];
        let ago = c.switched_us.map(|us| format!("{}.{:03}", us / 1_000_000, us / 1000 % 1000));
        let why = if c.switched_why.is_empty() { "-" } else { &c.switched_why };
        let last = [ago.unwrap_or_else(|| String::from("-")), why.to_owned()];
        words.into_iter().chain(numbers).chain(last).collect()
    };
    Rows {
        columns: &[
            "VSERVER",
            "LOCAL",
            "PEER",
            "STATE",
            "REAP",
            "LOCATOR",
            "PEER-LOCATOR",
            "PACKETS",
            "OUT",
            "IN",
            "SWITCHES",
            "AGE-S",
            "IDLE-MS",
            "SWITCHED-S",
            "WHY",
        ],
        rows: report.contexts.iter().map(row).collect(),
    }
}

fn locators(report: &ShimReport) -> Rows {
    let row = |vserver: &str, of: &str, l: &ShimLocatorLine| {
        let state = if l.broken { "broken" } else { "ok" };
        let words =
            [vserver, of, &l.address.to_string(), &l.verification, state].map(str::to_owned);
        words.into_iter().chain([l.priority.to_string(), l.weight.to_string()]).collect()
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    for v in &report.vservers {
        rows.extend(v.locators.iter().map(|l| row(&v.vserver, "own", l)));
    }
    for c in &report.contexts {
        let peer = c.peer.to_string();
        rows.extend(c.peer_locators.iter().map(|l| row(&c.vserver, &peer, l)));
    }
    Rows { columns: &["VSERVER", "OF", "LOCATOR", "PROOF", "STATE", "PRIORITY", "WEIGHT"], rows }
}

fn paths(report: &ShimReport) -> Rows {
    let mut rows = Vec::new();
    for c in &report.contexts {
        for p in &c.paths {
            let unknown = || String::from("-");
            let suppressed = if p.suppressed { " suppressed" } else { "" };
            rows.push(vec![
                c.vserver.clone(),
                c.local.to_string(),
                c.peer.to_string(),
                p.local.to_string(),
                p.remote.to_string(),
                if p.current { String::from("*") } else { String::new() },
                format!("{}{suppressed}", p.state),
                p.rtt_us.map_or_else(unknown, |us| format!("{}.{:03}", us / 1000, us % 1000)),
                p.loss_permille.map_or_else(unknown, |n| format!("{}.{}", n / 10, n % 10)),
                p.cost.to_string(),
            ]);
        }
    }
    Rows {
        columns: &[
            "VSERVER",
            "LOCAL",
            "PEER",
            "LOCATOR",
            "PEER-LOCATOR",
            "USED",
            "STATE",
            "RTT-MS",
            "LOSS-%",
            "COST",
        ],
        rows,
    }
}

fn policy(report: &ShimReport) -> Rows {
    let mut rows = Vec::new();
    for v in &report.vservers {
        let row = |what: &str, value: String| vec![v.vserver.clone(), what.to_owned(), value];
        rows.push(row("worker", v.worker.to_string()));
        let home = v.home.map_or_else(|| String::from("automatic"), |home| home.to_string());
        rows.push(row("home", home));
        rows.push(row("set_up", v.set_up.clone()));
        rows.push(row("reap", v.reap.clone()));
        rows.push(row("policy", v.policy.clone()));
        rows.push(row("accept", v.accept.join(" ")));
        rows.push(row("offer", v.offer.join(" ")));
        rows.extend(v.udp_port.map(|port| row("udp_port", port.to_string())));
        rows.push(row("contexts", format!("{} of {}", v.contexts, v.contexts_max)));
        rows.push(row("initiating", v.initiating.to_string()));
        rows.push(row("held_down", v.held_down.to_string()));
        let counted = v.counters.iter().filter(|(_, n)| *n > 0);
        rows.extend(counted.map(|(name, n)| row(name, n.to_string())));
    }
    Rows { columns: &["VSERVER", "WHAT", "VALUE"], rows }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_vserver::{ShimPath, VserverShim};

    fn report() -> ShimReport {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let locator = |addr: &str, broken| ShimLocatorLine {
            address: ip(addr),
            verification: String::from("hba"),
            broken,
            priority: 0,
            weight: 1,
        };
        let path = |local: &str, current, rtt_us| ShimPath {
            local: ip(local),
            remote: ip("2001:db8:2::1"),
            current,
            state: String::from(if current { "works" } else { "unknown" }),
            suppressed: !current,
            rtt_us,
            loss_permille: rtt_us.map(|_| 31),
            cost: 10,
        };
        let context = ShimContext {
            vserver: String::from("web"),
            local: ip("2001:db8:1::1"),
            peer: ip("2001:db8:2::1"),
            instance: 0,
            state: String::from("established"),
            locator: ip("2001:db8:3::1"),
            peer_locator: ip("2001:db8:2::1"),
            rewritten: true,
            reap: String::from("operational"),
            age_s: 12,
            idle_ms: 3,
            packets_out: 70,
            packets_in: 60,
            switches: 1,
            switched_us: Some(61_234_567),
            switched_why: String::from("link-down"),
            peer_locators: vec![locator("2001:db8:2::1", false)],
            paths: vec![
                path("2001:db8:3::1", true, Some(1234)),
                path("2001:db8:1::1", false, None),
            ],
        };
        let vserver = VserverShim {
            vserver: String::from("web"),
            set_up: String::from("deferred"),
            locators: vec![locator("2001:db8:1::1", true), locator("2001:db8:3::1", false)],
            counters: vec![(String::from("switches"), 1), (String::from("replayed"), 0)],
            ..VserverShim::default()
        };
        ShimReport { vservers: vec![vserver], contexts: vec![context], left_out: 0 }
    }

    fn chosen(rows: &Rows, columns: &str) -> String {
        let columns: Vec<String> = columns.split(',').map(str::to_owned).collect();
        rows.render(&columns, false).unwrap()
    }

    #[test]
    fn each_view_shows_what_it_is_asked_for() {
        let report = report();
        assert_eq!(
            chosen(&contexts(&report), "peer,STATE,locator,packets,switched-s,why"),
            "PEER           STATE        LOCATOR        PACKETS    SWITCHED-S  WHY\n\
             2001:db8:2::1  established  2001:db8:3::1  rewritten  61.234      link-down\n"
        );
        assert_eq!(
            chosen(&locators(&report), "of,locator,state"),
            "OF             LOCATOR        STATE\n\
             own            2001:db8:1::1  broken\n\
             own            2001:db8:3::1  ok\n\
             2001:db8:2::1  2001:db8:2::1  ok\n"
        );
        assert_eq!(
            chosen(&paths(&report), "locator,used,state,rtt-ms,loss-%"),
            "LOCATOR        USED  STATE               RTT-MS  LOSS-%\n\
             2001:db8:3::1  *     works               1.234   3.1\n\
             2001:db8:1::1        unknown suppressed  -       -\n"
        );
        let text = chosen(&policy(&report), "what,value");
        assert!(text.contains("switches    1\n") && !text.contains("replayed"), "{text}");
        assert!(text.contains("home        automatic\n"), "{text}");
        let mut named = report;
        named.vservers[0].home = Some(3);
        let text = chosen(&policy(&named), "what,value");
        assert!(text.contains("home        3\n"), "{text}");
    }

    #[test]
    fn an_unknown_column_is_told_with_those_there_are() {
        let wrong = contexts(&report()).render(&[String::from("rtt")], false).unwrap_err();
        assert!(wrong.to_string().contains("no column 'rtt'; there are vserver, local, peer"));
    }
}
