//! `weft dhcp-config CONFIG`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use weft_vserver::config::HostConfig;
use weft_vserver::server_config::{
    Plan, PlanError, Program, Version, changes, dnsmasq, isc, kea, next_alias, next_instance,
    refusal, worksheet,
};

use super::check;
use crate::Error;

/// Options of `weft dhcp-config`.
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("what").required(true),
    after_help = "\
Needs the file alone: no daemon, no device, no directory that the file names. It takes what stands in
[cluster], and the vservers' own addresses, which servers must give to nobody else.

  weft dhcp-config weft.toml --worksheet             a table for who administers the servers
  weft dhcp-config weft.toml --for kea --v6 --interface eth1
                                                     the file of kea-dhcp6, which serves over eth1
  weft dhcp-config weft.toml --for dnsmasq --refuse  for another server of the link: leave them alone
  weft dhcp-config weft.toml --next data0 files      the next free instance of an address
  weft dhcp-config weft.toml --next data             the next free alias
  weft dhcp-config new.toml --changes-from old.toml  what servers must change, for example after a
                                                     vserver was renamed"
)]
pub struct Args {
    /// The configuration file (TOML)
    pub config: PathBuf,
    /// Print the configuration of this server
    #[arg(long = "for", value_name = "SERVER", group = "what")]
    pub server: Option<Server>,
    /// For DHCPv6
    #[arg(long, requires = "server")]
    pub v6: bool,
    /// Interface of the server's machine over which it serves: NAME, or NETWORK=NAME for one
    /// network. Kea needs it for DHCPv6, dnsmasq where a link has several networks
    #[arg(long, requires = "server", value_name = "[NETWORK=]NAME")]
    pub interface: Vec<String>,
    /// Print instead the lines by which a server leaves the clients of this cluster to another one
    #[arg(long, requires = "server", conflicts_with = "interface")]
    pub refuse: bool,
    /// Print the work sheet
    #[arg(long, group = "what")]
    pub worksheet: bool,
    /// Print the next free instance of a vserver's addresses on an alias (data0 files), or the next
    /// free alias of a class (data)
    #[arg(long, num_args = 1..=2, value_names = ["ALIAS", "VSERVER"], group = "what")]
    pub next: Vec<String>,
    /// Print what servers must change that were configured for this file
    #[arg(long, value_name = "OLD", group = "what")]
    pub changes_from: Option<PathBuf>,
}

/// Servers whose configuration can be printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Server {
    /// ISC DHCP (dhcpd.conf)
    Isc,
    /// Kea (kea-dhcp4.conf, kea-dhcp6.conf)
    Kea,
    /// dnsmasq (dnsmasq.conf)
    Dnsmasq,
}

/// Prints what was asked for.
pub fn run(args: &Args) -> Result<(), Error> {
    let config = check::load_elsewhere(&args.config)?;
    let text = text(args, &config)?;
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

fn text(args: &Args, config: &HostConfig) -> Result<String, Error> {
    let wrong = |e: PlanError| Error::Config(format!("{}: {e}", args.config.display()));
    match &args.next[..] {
        [alias, vserver] => {
            return Ok(format!("{}\n", next_instance(config, alias, vserver).map_err(wrong)?));
        }
        [class] => return Ok(format!("{}\n", next_alias(config, class).map_err(wrong)?)),
        _ => {}
    }
    let plan = Plan::of(config).and_then(|p| p.served_on(&args.interface)).map_err(wrong)?;
    let version = if args.v6 { Version::V6 } else { Version::V4 };
    if let Some(file) = &args.changes_from {
        let old = check::load_elsewhere(file)?;
        let old = Plan::of(&old);
        let old = old.map_err(|e| Error::Config(format!("{}: {e}", file.display())))?;
        let mut out = String::new();
        for edit in changes(&old, &plan) {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{edit}");
        }
        return Ok(if out.is_empty() { String::from("nothing to change\n") } else { out });
    }
    if let Some(server) = args.server.filter(|_| args.refuse) {
        let program = match server {
            Server::Isc => Program::Isc,
            Server::Kea => Program::Kea,
            Server::Dnsmasq => Program::Dnsmasq,
        };
        return refusal(&plan, program, version).ok_or_else(|| {
            Error::Config(String::from(
                "dhcpd refuses no DHCPv6 clients by class; give it no range6 on these networks",
            ))
        });
    }
    Ok(match args.server {
        Some(Server::Isc) => isc(&plan, version),
        Some(Server::Kea) => kea(&plan, version),
        Some(Server::Dnsmasq) => dnsmasq(&plan, version),
        None => worksheet(&plan),
    })
}
