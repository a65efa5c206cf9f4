//! From a [`HostConfig`] back to a file: what is in force, in a fixed order, readable.
//!
//! Parsing what is written gives an equal configuration. A `count` is written out vserver by
//! vserver, names that were defaults stand there, paths are absolute. A new field of a
//! configuration does not compile until it is written here.

use std::fmt::{Display, Write as _};
use std::path::Path;

use weft_stack::ip::address::AcdPace;

use super::{Alias, AnyService, BeyondConfig, Group, HostConfig, Lldp, Vserver, dhcp};

mod access;
mod cluster;
mod host;
mod link;
mod neighbours;
mod qos;
mod route;
mod stack;
mod vserver;

use access::write_access;
use cluster::write_cluster;
use host::{write_nic, write_privilege, write_role, write_workers};
use neighbours::write_neighbours;
use qos::write_qos_group;
use route::write_tables;
use vserver::{write_service, write_vserver};

/// Longer lists stand on several lines.
const LINE_CHARS: usize = 100;

/// The text of a file that parses to `config`. Values that are defaults are left out unless `all`.
pub fn export(config: &HostConfig, all: bool) -> String {
    let config = &expanded(config);
    let HostConfig {
        control,
        state_dir,
        lldp,
        privilege,
        cluster,
        workers,
        nics,
        bonds,
        vlans,
        failover,
        link_qos,
        aliases,
        tables,
        neighbours: _,
        groups,
        qos_groups,
        access,
        services,
        vservers,
        defaults: _,
    } = config;
    let mut w = Writer { out: String::new(), all };
    w.table("[host]");
    w.value("control", path(control));
    w.unless("state_dir", &path(state_dir), &quoted(super::STATE_DIR_DEFAULT));
    w.word("lldp", lldp, &Lldp::default(), |l| l.name());
    write_privilege(&mut w, privilege);
    if let Some(cluster) = cluster {
        write_cluster(&mut w, cluster);
    }
    write_workers(&mut w, workers);
    for group in qos_groups {
        write_qos_group(&mut w, group, qos_groups);
    }
    write_access(&mut w, access);
    for nic in nics {
        write_nic(&mut w, nic);
    }
    link::write_links(&mut w, (bonds, vlans, failover), link_qos);
    for alias in aliases {
        write_alias(&mut w, alias);
    }
    write_tables(&mut w, tables, config);
    write_neighbours(&mut w, config);
    for Group { name, parent } in groups {
        // What it gives stands with its members.
        w.table(&format!("[group.{name}]"));
        w.optional("parent", parent.map(|p| quoted(&groups[p].name)).as_ref());
    }
    for AnyService { group, service } in services {
        w.table("[[service]]");
        w.optional("group", group.as_ref().map(|g| quoted(g)).as_ref());
        write_service(&mut w, service);
    }
    for v in vservers {
        write_vserver(&mut w, v, config);
    }
    for role in &privilege.roles {
        write_role(&mut w, role);
    }
    w.out
}

fn write_alias(w: &mut Writer, alias: &Alias) {
    let Alias { name, over, mtu, mac: own, conflicts, beyond } = alias;
    w.table(&format!("[alias.{}]", key(name)));
    w.value("over", quoted(over));
    w.optional("mtu", mtu.as_ref());
    w.optional("mac", own.map(|m| quoted(&mac(m))).as_ref());
    let (pace, usual) = (conflicts.pace, AcdPace::default());
    w.optional("acd", conflicts.acd.map(|a| quoted(dhcp::acd_name(a))).as_ref());
    let ms = |p: AcdPace| p.interval.as_millis();
    w.unless("acd_interval_ms", &ms(pace), &ms(usual));
    w.unless("acd_probes", &pace.probes, &usual.probes);
    let BeyondConfig { targets, detect, hook } = beyond;
    let usual = BeyondConfig::default();
    w.list("beyond", &texts(targets));
    if !targets.is_empty() {
        w.unless("detect_ms", &detect.as_millis(), &usual.detect.as_millis());
        w.optional("hook", hook.as_ref().map(|h| quoted(h)).as_ref());
    }
}

/// With every vserver of a `count` on its own, also where roles name the table.
fn expanded(config: &HostConfig) -> HostConfig {
    let mut config = config.clone();
    for role in &mut config.privilege.roles {
        let names = std::mem::take(&mut role.vservers);
        role.vservers = names
            .into_iter()
            .flat_map(|name| {
                let of = |v: &&Vserver| v.table == name && v.name != name;
                let members: Vec<String> =
                    config.vservers.iter().filter(of).map(|v| v.name.clone()).collect();
                if members.is_empty() { vec![name] } else { members }
            })
            .collect();
    }
    for v in &mut config.vservers {
        v.table.clone_from(&v.name);
    }
    config
}

struct Writer {
    out: String,
    all: bool,
}

impl Writer {
    /// Begins a table.
    fn table(&mut self, head: &str) {
        if !self.out.is_empty() {
            self.out.push('\n');
        }
        self.out.push_str(head);
        self.out.push('\n');
    }

    fn value(&mut self, key: &str, value: impl Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.out, "{key} = {value}");
    }

    fn optional<T: Display>(&mut self, key: &str, value: Option<&T>) {
        if let Some(value) = value {
            self.value(key, value);
        }
    }

    /// A value that has a default.
    fn unless<T: Display + PartialEq>(&mut self, key: &str, value: &T, default: &T) {
        if self.all || value != default {
            self.value(key, value);
        }
    }

    /// One of a few words.
    fn word<T: PartialEq>(&mut self, key: &str, value: &T, default: &T, name: fn(&T) -> &str) {
        if self.all || value != default {
            self.value(key, quoted(name(value)));
        }
    }

    /// A list of values as they stand in a file; nothing if it is empty.
    fn list(&mut self, key: &str, items: &[String]) {
        if !items.is_empty() {
            self.value(key, array(items));
        }
    }
}

pub(super) fn array(items: &[String]) -> String {
    let line = format!("[{}]", items.join(", "));
    if line.chars().count() <= LINE_CHARS {
        return line;
    }
    format!("[\n    {},\n]", items.join(",\n    "))
}

/// A name as a part of a table's head.
fn key(name: &str) -> String {
    if name.contains('.') { quoted(name) } else { name.to_owned() }
}

pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

pub(super) fn texts<T: Display>(items: &[T]) -> Vec<String> {
    items.iter().map(|i| quoted(&i.to_string())).collect()
}

fn path(path: &Path) -> String {
    // Without a working directory the path is as good as it gets.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    quoted(&absolute.to_string_lossy())
}

fn mac(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

#[cfg(test)]
mod tests;
