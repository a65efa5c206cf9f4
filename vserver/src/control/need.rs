//! What a command takes.

use std::collections::HashMap;
use std::fmt;

use super::protocol::Command;
use crate::config::{HostConfig, Settings, Vserver};

/// What a command does, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Whom it is about.
    pub scope: Scope,
    /// It changes something: it is logged, and refused if it cannot be.
    pub change: bool,
}

/// What a caller must be allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// To look: any role.
    View,
    /// To change the network of these vservers. None: of some; the command finds out which and asks
    /// [`super::Caller::may`] then.
    Vservers(Vec<String>),
    /// To change what all share: NICs, management aliases, aggregates, failover sets, roles, workers.
    Cluster,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::View => f.write_str("any role"),
            Scope::Vservers(names) if names.is_empty() => {
                f.write_str("a role with allow = \"vserver\"")
            }
            Scope::Vservers(names) => {
                write!(f, "a role with allow = \"vserver\" for '{}'", names.join("', '"))
            }
            Scope::Cluster => f.write_str("a role with allow = \"cluster\""),
        }
    }
}

impl Scope {
    /// What it takes to make `after` of `before`. A tenant may change the network of its vservers:
    /// addresses, routes and rules, how TCP behaves, how names are resolved. Everything else bounds tenants, is shared by them, or
    /// reaches into this machine (files that are served, limits, who is in which group), and is for
    /// the cluster: so are vservers that come and go, and whatever touches a management alias. What
    /// is added to a configuration and not told apart here is for the cluster too.
    pub fn of_change(before: &HostConfig, after: &HostConfig) -> Scope {
        let shared = |c: &HostConfig| HostConfig {
            vservers: Vec::new(),
            defaults: Settings::default(),
            ..c.clone()
        };
        let names = |c: &HostConfig| -> Vec<String> {
            let mut names: Vec<_> = c.vservers.iter().map(|v| v.name.clone()).collect();
            names.sort_unstable();
            names
        };
        if shared(before) != shared(after) || names(before) != names(after) {
            return Scope::Cluster;
        }
        let old: HashMap<&str, &Vserver> =
            before.vservers.iter().map(|v| (v.name.as_str(), v)).collect();
        let mut changed = Vec::new();
        for new in &after.vservers {
            let Some(old) = old.get(new.name.as_str()).filter(|old| **old != new) else { continue };
            if !is_network(old, new) || on_management(before, old) != on_management(after, new) {
                return Scope::Cluster;
            }
            changed.push(new.name.clone());
        }
        // Nothing at all is changed by whoever may change something.
        Scope::Vservers(changed)
    }
}

/// Whether two vservers differ in nothing but their network.
fn is_network(old: &Vserver, new: &Vserver) -> bool {
    let rest = Vserver {
        addresses: old.addresses.clone(),
        slaac: old.slaac.clone(),
        dhcp: old.dhcp.clone(),
        acd: old.acd,
        alias_conflicts: old.alias_conflicts.clone(),
        routes: old.routes.clone(),
        named_routes: old.named_routes.clone(),
        tables: old.tables.clone(),
        rules: old.rules.clone(),
        tcp: old.tcp.clone(),
        dns: old.dns.clone(),
        ..new.clone()
    };
    rest == *old
}

/// What a vserver has on management aliases.
fn on_management(c: &HostConfig, v: &Vserver) -> String {
    let is = |alias: &usize| c.aliases.get(*alias).is_some_and(|a| a.name.starts_with("mgmt"));
    let addresses: Vec<_> = v.addresses.iter().filter(|(a, _)| is(a)).collect();
    let slaac: Vec<_> = v.slaac.iter().filter(|a| is(a)).collect();
    let routes: Vec<_> = v.routes.iter().filter(|r| is(&r.alias)).collect();
    let dhcp: Vec<_> = v.dhcp.iter().filter(|c| is(&c.alias)).collect();
    let named: Vec<_> = v.named_routes.iter().filter(|r| is(&r.alias)).collect();
    format!("{addresses:?} {slaac:?} {routes:?} {named:?} {dhcp:?}")
}

impl Need {
    /// Looks.
    pub const VIEW: Need = Need { scope: Scope::View, change: false };

    /// Changes what all share.
    pub const CLUSTER: Need = Need { scope: Scope::Cluster, change: true };

    /// Changes the network of one vserver.
    pub fn vserver(name: &str) -> Need {
        Need { scope: Scope::Vservers(vec![name.to_owned()]), change: true }
    }
}

impl Command {
    /// What it takes. A command that is not listed here does not compile.
    pub fn needs(&self) -> Need {
        match self {
            Command::Ping
            | Command::Snapshot
            | Command::Runtime { clear: false }
            | Command::Sockets(_)
            | Command::SocketSummary(_)
            | Command::Policy { .. }
            | Command::Qos { .. }
            | Command::Neighbours { .. }
            | Command::Dhcp
            | Command::Paths
            | Command::Probes { .. }
            | Command::Events { .. }
            | Command::Bonds
            | Command::Doctor
            | Command::Lldp
            | Command::Shim { .. }
            | Command::ShimEvents { .. }
            | Command::Export { .. }
            | Command::Access { .. }
            | Command::AccessTest(_)
            | Command::Audit(_) => Need::VIEW,
            Command::Runtime { clear: true }
            | Command::SetPoll { .. }
            | Command::SetOffline { .. } => Need::CLUSTER,
            // Which vservers it is about, the difference says.
            Command::Apply { dry_run, .. } => {
                Need { scope: Scope::Vservers(Vec::new()), change: !dry_run }
            }
            Command::Confirm | Command::Revert => {
                Need { scope: Scope::Vservers(Vec::new()), change: true }
            }
            // Questions leave under the vserver's name.
            Command::Resolve { vserver, .. } => {
                Need { scope: Scope::Vservers(vec![vserver.clone()]), change: false }
            }
            Command::DhcpWish { alias, .. } if alias.to_ascii_lowercase().starts_with("mgmt") => {
                Need::CLUSTER
            }
            Command::DhcpWish { vserver, .. } => Need::vserver(&vserver.to_ascii_lowercase()),
            Command::ShimWish(wish) => Need::vserver(&wish.vserver.to_ascii_lowercase()),
            // What others say to the vserver is its administrators' to read, and who did is logged.
            Command::CaptureStart(wish) => Need::vserver(&wish.vserver.to_ascii_lowercase()),
            // Of which vserver, the capture knows.
            Command::CaptureNext(_) => Need { scope: Scope::Vservers(Vec::new()), change: false },
            // It changes nothing, but packets leave under the vserver's name. Which vserver a later
            // step is about, the session knows.
            Command::Echo(step) => {
                let names = step.vserver.iter().cloned().collect();
                Need { scope: Scope::Vservers(names), change: false }
            }
        }
    }

    /// Its name, as in a request.
    pub fn name(&self) -> String {
        // A command is a table with its name under "command".
        let value = serde_json::to_value(self).unwrap_or_default();
        value["command"].as_str().unwrap_or("command").to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const BEFORE: &str = r#"
[nic.eth0]
driver = "mem"
[alias.data0]
over = "eth0"
[alias.mgmt0]
over = "eth0"
[group.gold]
[vserver.a]
group = "gold"
addresses = ["data0 10.0.0.1/24", "mgmt0 10.9.0.1/24"]
[vserver.b]
addresses = ["data0 10.0.0.2/24"]
"#;

    fn scope(from: &str, to: &str) -> Scope {
        let parse = |text: &str| {
            config::parse(text, "weft.toml".as_ref()).map_err(|e| e.to_string()).unwrap()
        };
        assert!(BEFORE.contains(from), "{from}");
        Scope::of_change(&parse(BEFORE), &parse(&BEFORE.replacen(from, to, 1)))
    }

    fn vservers(names: &[&str]) -> Scope {
        Scope::Vservers(names.iter().map(|n| (*n).to_owned()).collect())
    }

    #[test]
    fn the_network_of_a_vserver_is_its_tenants() {
        assert_eq!(scope("10.0.0.2/24", "10.0.0.3/24"), vservers(&["b"]));
        assert_eq!(scope("10.0.0.1/24", "10.0.0.3/24"), vservers(&["a"]));
        assert_eq!(scope("[vserver.b]", "[vserver.b]\ntcp.sack = false"), vservers(&["b"]));
        let dns = "dns.servers = [\"10.0.0.53\"]";
        assert_eq!(scope("[vserver.b]", &format!("[vserver.b]\n{dns}")), vservers(&["b"]));
        let rules = "rules = [{ to = \"192.0.2.0/24\", action = \"prohibit\" }]";
        assert_eq!(scope("[vserver.b]", &format!("[vserver.b]\n{rules}")), vservers(&["b"]));
        let route = "routes = [{ to = \"default\", via = \"10.0.0.254\" }]";
        assert_eq!(scope("[vserver.b]", &format!("[vserver.b]\n{route}")), vservers(&["b"]));
        // By its group: whoever has it in force.
        assert_eq!(scope("[group.gold]", &format!("[group.gold]\n{route}")), vservers(&["a"]));
        assert_eq!(scope("[nic.eth0]", "# nothing\n[nic.eth0]"), vservers(&[]));
    }

    #[test]
    fn what_is_shared_bounds_tenants_or_reaches_the_machine_is_for_the_cluster() {
        for (from, to) in [
            ("10.9.0.1/24", "10.9.0.2/24"),
            ("\"mgmt0 10.9.0.1/24\"", ""),
            ("[vserver.b]", "[vserver.b]\nslaac = [\"mgmt0\"]"),
            ("[vserver.b]", "[vserver.b]\nqos.send.limit = \"1 Gbit/s\""),
            ("[vserver.b]", "[vserver.b]\nlimits.tcp_connections = 7"),
            ("[vserver.b]", "[vserver.b]\nservice = [{ kind = \"echo\", port = 7 }]"),
            ("[vserver.b]", "[vserver.b]\ngroup = \"gold\""),
            ("[vserver.b]", "[vserver.b]\nforwarding = true"),
            ("[vserver.b]", "[vserver.c]"),
            ("[vserver.b]", "[vserver.b]\ncount = 2"),
            ("driver = \"mem\"", "driver = \"mem\"\nmtu = 1400"),
            ("[group.gold]", "[role.r]\nusers = [\"1\"]\nallow = \"cluster\"\n[group.gold]"),
        ] {
            assert_eq!(scope(from, to), Scope::Cluster, "{from} to {to}");
        }
    }
}
