//! What a running host cannot change, and why; and what changes without a step of its own.

use std::collections::BTreeSet;
use std::fmt;

use super::plan::by_name;
use crate::config::{HostConfig, Nic, Privilege, Vserver};
use crate::naming::ClusterId;
use crate::qos::rates_of;

/// What cannot be changed while the host runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// What of the configuration.
    pub object: String,
    /// Why, and what to do.
    pub reason: String,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.reason)
    }
}

const RESTART: &str = "cannot be changed while the daemon runs; a restart is needed";
const OPEN: &str = "a device is opened with root's rights, which the daemon gives up after its start; \
                    a restart is needed";
const CLOSE: &str = "closing a device takes a restart: workers have memory and steering of it";
const NIC: &str = "is a matter of how its device was opened, with root's rights, which the daemon has \
                   given up; a restart is needed";
const WORKERS: &str = "queues, frames and every vserver's flows are dealt to threads at the start; \
                       a restart is needed";
const CLUSTER: &str = "id, node, vendor class and enterprise number name every DHCP client, so every \
                       lease would be another one; a restart is needed";
const MEDIUM: &str = "an alias cannot go from Ethernet to bare IP packets or back: every address and \
                      neighbour on it would be another; a restart is needed";
const SHIM: &str = "cannot be switched off while the daemon runs: peers have contexts with it, and \
                    connections run over them; a restart is needed, or another vserver";
const HOME: &str = "its flows are on several workers, and with a shim on one: the table is there from the \
                    start, with enabled = false if need be; a restart is needed, or another vserver";
const MOVE: &str = "its home cannot become another worker while the daemon runs: its flows and contexts are \
                    in the memory of the one it has, which 'weft shim policy' shows; leave 'home' as it is, \
                    or restart";
const STATE: &str = "leases of clients that run are kept there; a restart is needed";
const DAEMON: &str =
    "what the daemon may and where it logs is settled at its start; a restart is needed";

/// What differs and takes a restart.
pub(super) fn obstacles(old: &HostConfig, new: &HostConfig) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let mut say = |object: &str, reason: &str| {
        found.push(Obstacle { object: object.to_owned(), reason: reason.to_owned() });
    };
    if old.control != new.control {
        say("control", RESTART);
    }
    if old.workers != new.workers {
        say("workers", WORKERS);
    }
    for nic in &new.nics {
        let name = format!("nic {}", nic.name);
        match old.nics.iter().find(|n| n.name == nic.name) {
            Some(before) if *before == (Nic { qos: before.qos, ..nic.clone() }) => {}
            Some(_) => say(&name, NIC),
            None => say(&name, OPEN),
        }
    }
    for nic in old.nics.iter().filter(|n| !new.nics.iter().any(|m| m.name == n.name)) {
        say(&format!("nic {}", nic.name), CLOSE);
    }
    if old.nics.len() == new.nics.len()
        && old.nics.iter().zip(&new.nics).any(|(a, b)| a.name != b.name)
    {
        say("nics", "stand in another order; keep it");
    }
    let roles_apart = |p: &Privilege| Privilege { roles: Vec::new(), ..p.clone() };
    if roles_apart(&old.privilege) != roles_apart(&new.privilege) {
        say("host (control_mode, control_group, audit, privileges, user)", DAEMON);
    }
    if old.state_dir != new.state_dir {
        say("state_dir", STATE);
    }
    let asks = old.vservers.iter().any(|v| !v.dhcp.is_empty());
    if asks && named_by(old) != named_by(new) {
        say("cluster", CLUSTER);
    }
    if known_parts(old, new) != *new {
        say("a table of the whole host", RESTART);
    }
    let before = by_name(old);
    for v in &new.vservers {
        let before = before.get(v.name.as_str());
        if v.shim_on().is_none() && before.is_some_and(|before| before.shim_on().is_some()) {
            say(&format!("shim of vserver {}", v.name), SHIM);
        }
        let may_have = |v: &Vserver| v.shim.is_some() || new.workers.count == 1;
        if may_have(v) && before.is_some_and(|before| !may_have(before)) {
            say(&format!("shim of vserver {}", v.name), HOME);
        }
        if before.is_some_and(|before| wants_another_home(before, v)) {
            say(&format!("shim of vserver {}", v.name), MOVE);
        }
        if before.is_some_and(|before| known_vserver_parts(before, v) != *v) {
            say(&format!("a part of vserver {}", v.name), RESTART);
        }
    }
    alias_obstacles(old, new, &mut found);
    if found.is_empty() {
        interface_obstacles(old, new, &mut found);
    }
    found
}

/// A home is named that was not named before. One that is not named any longer stays until the next
/// start.
fn wants_another_home(old: &Vserver, new: &Vserver) -> bool {
    let home = |v: &Vserver| v.shim.as_ref().and_then(|shim| shim.home);
    old.shim.is_some() && home(new).is_some() && home(new) != home(old)
}

/// What of the cluster is in the names of DHCP clients, and in what they say.
fn named_by(config: &HostConfig) -> Option<(&ClusterId, &Option<String>, &str, u32)> {
    let c = config.cluster.as_ref()?;
    Some((&c.id, &c.node, &c.vendor_class, c.enterprise))
}

fn alias_obstacles(old: &HostConfig, new: &HostConfig, found: &mut Vec<Obstacle>) {
    for (number, before) in old.aliases.iter().enumerate() {
        let reason = match new.aliases.get(number) {
            Some(a) if a.name != before.name => {
                if new.aliases.iter().any(|a| a.name == before.name) {
                    "stands at another place; keep the order of aliases, new ones last"
                } else {
                    "removing an alias that others follow takes a restart"
                }
            }
            // The last ones nobody follows.
            None | Some(_) => continue,
        };
        found
            .push(Obstacle { object: format!("alias {}", before.name), reason: reason.to_owned() });
    }
}

/// Aliases that cannot stand where they are to stand.
fn interface_obstacles(old: &HostConfig, new: &HostConfig, found: &mut Vec<Obstacle>) {
    let (Ok(before), after) = (old.tree(), new.tree()) else { return };
    let after = match after {
        Ok(after) => after,
        Err(errors) => {
            let object = String::from("interfaces");
            return found.extend(
                errors.iter().map(|e| Obstacle { object: object.clone(), reason: e.to_string() }),
            );
        }
    };
    for (a, b) in before.aliases.iter().zip(&after.aliases) {
        if before.at(a.link).ethernet != after.at(b.link).ethernet {
            let object = format!("alias {}", b.name);
            found.push(Obstacle { object, reason: MEDIUM.to_owned() });
        }
    }
}

/// `old` with everything of `new` that is compared elsewhere.
#[allow(clippy::needless_update, reason = "what is added later and has no step takes a restart")]
fn known_parts(old: &HostConfig, new: &HostConfig) -> HostConfig {
    let new = new.clone();
    HostConfig {
        control: new.control,
        state_dir: new.state_dir,
        lldp: new.lldp,
        cluster: new.cluster,
        tables: new.tables,
        privilege: new.privilege,
        workers: new.workers,
        nics: new.nics,
        bonds: new.bonds,
        vlans: new.vlans,
        failover: new.failover,
        link_qos: new.link_qos,
        aliases: new.aliases,
        groups: new.groups,
        neighbours: new.neighbours,
        services: new.services,
        access: new.access,
        qos_groups: new.qos_groups,
        vservers: new.vservers,
        defaults: new.defaults,
        ..old.clone()
    }
}

#[allow(clippy::needless_update, reason = "what is added later and has no step takes a restart")]
fn known_vserver_parts(old: &Vserver, new: &Vserver) -> Vserver {
    let new = new.clone();
    Vserver {
        name: new.name,
        addresses: new.addresses,
        slaac: new.slaac,
        routes: new.routes,
        acd: new.acd,
        alias_conflicts: new.alias_conflicts,
        tables: new.tables,
        rules: new.rules,
        register: new.register,
        mdns: new.mdns,
        shim: new.shim,
        forwarding: new.forwarding,
        limits: new.limits,
        tcp: new.tcp,
        services: new.services,
        table: new.table,
        group: new.group,
        roles: new.roles,
        settings: new.settings,
        spelled: new.spelled,
        identity: new.identity,
        dhcp: new.dhcp,
        named_routes: new.named_routes,
        dns: new.dns,
        connect: new.connect,
        neighbours: new.neighbours,
        access: new.access,
        qos: new.qos,
        ..old.clone()
    }
}

/// What differs and is in force with the configuration as a whole.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Note {
    pub(super) vserver: Option<String>,
    pub(super) text: String,
}

pub(super) fn notes(old: &HostConfig, new: &HostConfig) -> Vec<Note> {
    let mut notes = Vec::new();
    let mut host = |differs: bool, text: &str| {
        notes.extend(differs.then(|| Note { vserver: None, text: text.to_owned() }));
    };
    host(old.privilege.roles != new.privilege.roles, "roles");
    host(old.groups != new.groups, "groups");
    host(old.neighbours != new.neighbours, "neighbour tables");
    host(old.services != new.services, "services of all vservers");
    host(old.cluster != new.cluster, "cluster");
    host(old.access != new.access, "access");
    host(old.lldp != new.lldp, &format!("lldp {} -> {}", old.lldp.name(), new.lldp.name()));
    host(old.qos_groups != new.qos_groups, "QoS groups");
    for (a, b) in old.nics.iter().zip(&new.nics) {
        host(a.qos != b.qos, &format!("qos of nic {}", b.name));
    }
    let links = old.link_qos.iter().chain(&new.link_qos).map(|(name, _)| name.as_str());
    for name in links.collect::<BTreeSet<_>>() {
        host(rates_of(old, name) != rates_of(new, name), &format!("qos of {name}"));
    }
    let before = by_name(old);
    for v in &new.vservers {
        let Some(old) = before.get(v.name.as_str()) else { continue };
        for (differs, text) in [
            (old.roles != v.roles, "roles"),
            (old.group != v.group, "group"),
            (old.qos != v.qos, "qos"),
            (old.access != v.access, "access"),
            (old.dhcp != v.dhcp, "dhcp"),
            (old.dns != v.dns, "dns"),
            (old.connect != v.connect, "connect"),
            (old.shim != v.shim, "shim"),
            (old.register != v.register, "register"),
            (old.mdns != v.mdns, "mdns"),
            (old.named_routes != v.named_routes, "routes by name"),
            (old.identity != v.identity, "identity"),
        ] {
            let vserver = Some(v.name.clone());
            notes.extend(differs.then(|| Note { vserver, text: text.to_owned() }));
        }
    }
    notes
}
