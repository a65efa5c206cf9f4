//! `weft check CONFIG`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use weft_vserver::config::{
    self, HostConfig, LoadError, Nic, Privilege, ProxyTarget, RunAs, Service, ServiceKind,
};
use weft_vserver::interface::{LinkId, LinkKind};
use weft_vserver::nodes::compare;

use crate::Error;

/// Vservers listed one by one; of more, the first ones and a count.
const LISTED_MAX: usize = 20;

/// Options of `weft check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration file (TOML)
    pub config: PathBuf,
    /// Print nothing if the file is right
    #[arg(short, long)]
    pub quiet: bool,
    /// Another node's file (of a running one: `weft export` there): whether vservers of each could
    /// move to the other, and whether aliases of one name are one network
    #[arg(short, long, value_name = "FILE")]
    pub node: Vec<PathBuf>,
}

/// Checks the file; prints a summary or every error.
pub fn run(args: &Args) -> Result<(), Error> {
    let config = load(&args.config)?;
    if !args.quiet {
        std::io::stdout().lock().write_all(summary(&config).as_bytes())?;
    }
    nodes(&config, args)
}

/// Compares the file with those of other nodes; an error if a vserver could not move.
fn nodes(config: &HostConfig, args: &Args) -> Result<(), Error> {
    let mut errors = 0;
    for file in &args.node {
        let other = load_elsewhere(file)?;
        let (here, there) = (args.config.display().to_string(), file.display().to_string());
        let mut out = std::io::stdout().lock();
        for mismatch in compare((&here, config), (&there, &other)) {
            let prevents = mismatch.prevents_failover();
            errors += usize::from(prevents);
            writeln!(out, "{}: {mismatch}", if prevents { "error" } else { "warning" })?;
        }
    }
    match errors {
        0 => Ok(()),
        1 => Err(Error::Failed(String::from("one reason why vservers cannot move"))),
        n => Err(Error::Failed(format!("{n} reasons why vservers cannot move"))),
    }
}

/// Loads a file; everything that is wrong with it is one [`Error::Config`].
pub fn load(file: &Path) -> Result<HostConfig, Error> {
    config::load(file).map_err(error)
}

/// As [`load`], for a file that another machine is to run.
pub fn load_elsewhere(file: &Path) -> Result<HostConfig, Error> {
    config::load_elsewhere(file).map_err(error)
}

fn error(e: LoadError) -> Error {
    match e {
        LoadError::Read { .. } => Error::Config(e.to_string()),
        LoadError::Invalid(errors) => {
            let n = errors.list.len();
            let noun = if n == 1 { "error" } else { "errors" };
            Error::Config(format!("{errors}\n{n} {noun}; nothing was applied"))
        }
    }
}

/// What the daemon keeps of its rights, who may do what, and where that is written.
fn privilege_line(p: &Privilege) -> String {
    let kept = match p.run_as {
        RunAs::Keep => "all capabilities of who starts it",
        RunAs::Devices => "only CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF",
        RunAs::Drop => "no capability",
    };
    let user = match &p.user {
        Some(u) => format!("user {} (uid {})", u.name, u.uid),
        None => String::from("the user who starts it"),
    };
    let roles: Vec<_> = p.roles.iter().map(|r| r.name.as_str()).collect();
    let roles = if roles.is_empty() {
        String::from("no roles")
    } else {
        format!("roles {}", roles.join(", "))
    };
    let log = match &p.audit {
        Some(file) => file.display().to_string(),
        None => String::from("standard error"),
    };
    format!("runs as {user} with {kept}; {roles}; changes are logged to {log}")
}

fn summary(c: &HostConfig) -> String {
    let mut out = String::new();
    let w = &c.workers;
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{} worker(s) with {} frames of {} bytes each ({} MiB in all), control socket {}",
        w.count,
        w.frames,
        w.frame_bytes,
        (w.count * w.frames * w.frame_bytes) >> 20,
        c.control.display()
    );
    let _ = writeln!(out, "{}", privilege_line(&c.privilege));
    for nic in &c.nics {
        let aliases = aliases_of(c, &nic.name);
        let _ = writeln!(out, "nic {}: {}, aliases: {aliases}", nic.name, nic_line(nic));
    }
    out.push_str(&links(c));
    for v in c.vservers.iter().take(LISTED_MAX) {
        let addresses: Vec<_> = v
            .addresses
            .iter()
            .map(|(a, cidr)| format!("{cidr} on {}", c.aliases[*a].name))
            .chain(v.slaac.iter().map(|a| format!("slaac on {}", c.aliases[*a].name)))
            .collect();
        let services: Vec<_> = v.services.iter().map(service_name).collect();
        let _ = write!(out, "vserver {}: {}", v.name, addresses.join(", "));
        let _ = match services.as_slice() {
            [] => writeln!(out),
            some => writeln!(out, "; {}", some.join(", ")),
        };
    }
    if c.vservers.len() > LISTED_MAX {
        let _ = writeln!(out, "... and {} more vservers", c.vservers.len() - LISTED_MAX);
    }
    out.push_str(&names(c));
    let _ = writeln!(
        out,
        "ok: {} NIC(s), {} alias(es), {} vserver(s)",
        c.nics.len(),
        c.aliases.len(),
        c.vservers.len()
    );
    out
}

fn aliases_of(c: &HostConfig, link: &str) -> String {
    let on_it = c.aliases.iter().filter(|a| a.link() == link);
    let names: Vec<_> = on_it.map(|a| a.name.as_str()).collect();
    if names.is_empty() { String::from("none") } else { names.join(", ") }
}

/// Bonds, VLANs and failover groups, and what looks like a mistake.
fn links(c: &HostConfig) -> String {
    let mut out = String::new();
    // A configuration that was read has a tree.
    let Ok(tree) = c.tree() else { return out };
    let upper = tree.links.iter().zip(0..).skip(tree.nics);
    for (link, id) in upper.take(LISTED_MAX) {
        let kind = match link.kind {
            LinkKind::Nic(_) => "nic",
            LinkKind::Vlan { .. } => "vlan",
            LinkKind::Bond(_) => "bond",
            LinkKind::Group(_) => "failover group",
        };
        let below = tree.below(LinkId(id));
        let below: Vec<_> = below.iter().map(|l| tree.at(*l).name.to_string()).collect();
        let (name, aliases) = (link.name.to_string(), aliases_of(c, &link.name.to_string()));
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{kind} {name}: over {}, aliases: {aliases}", below.join(", "));
    }
    if tree.links.len() - tree.nics > LISTED_MAX {
        let more = tree.links.len() - tree.nics - LISTED_MAX;
        let _ = writeln!(out, "... and {more} more bonds, VLANs and groups");
    }
    for warning in tree.warnings() {
        let _ = writeln!(out, "warning: {warning}");
    }
    out
}

/// Where names may not stand, for what they are resolved with must be there first.
const LITERALS: &str = "addresses, routes' to and src, rules' to, neighbours, dns.servers, cluster.leases, cluster.subnet, host.control";

/// The names that stand for addresses, and where none may.
fn names(c: &HostConfig) -> String {
    let mut all = Vec::new();
    for v in &c.vservers {
        all.extend(v.named_routes.iter().map(|r| format!("{}: gateway {}", v.name, r.via)));
        let host = c.access.rules.iter().flat_map(|r| &r.names);
        let own = c
            .client_names(v)
            .into_iter()
            .filter(|(name, what)| *what != "access" || !host.clone().any(|n| n.name == *name));
        all.extend(own.map(|(name, what)| format!("{}: client {name} ({what})", v.name)));
        for s in &v.services {
            let port = s.listen.port();
            all.extend(
                s.listen_name.iter().map(|n| format!("{}: address {n} of port {port}", v.name)),
            );
            if let ServiceKind::Proxy(ProxyTarget::Named(name, to)) = &s.kind {
                all.push(format!("{}: target {name}:{to} of port {port}", v.name));
            }
        }
    }
    let host: BTreeSet<&str> =
        c.access.rules.iter().flat_map(|r| &r.names).map(|n| n.name.as_str()).collect();
    let mut out = String::new();
    for name in &host {
        let _ =
            writeln!(out, "name resolved by every vserver with a resolver: client {name} (access)");
    }
    for line in all.iter().take(LISTED_MAX) {
        let _ = writeln!(out, "name resolved by vserver {line}");
    }
    if all.len() > LISTED_MAX {
        let _ = writeln!(out, "... and {} more names", all.len() - LISTED_MAX);
    }
    if !all.is_empty() || !host.is_empty() {
        let _ = writeln!(out, "no names, needed before any is resolved: {LITERALS}");
    }
    out
}

fn nic_line(nic: &Nic) -> String {
    let driver = nic.driver.name();
    format!("{driver} on {}, {} queue(s)", nic.device, nic.queues)
}

fn service_name(s: &Service) -> String {
    let kind = match s.kind {
        ServiceKind::Echo => "echo",
        ServiceKind::Discard => "discard",
        ServiceKind::Chargen => "chargen",
        ServiceKind::Http { .. } => "http",
        ServiceKind::Proxy(_) => "proxy",
    };
    format!("{kind} on port {}", s.listen.port())
}
