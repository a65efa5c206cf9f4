//! Clients that have names, in access rules, QoS classes and policy routing rules.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::Range;

use super::diagnostic::Report;
use super::{HostConfig, Vserver};

/// Names of clients in one list: access rules, QoS classes, policy routing rules of a vserver.
pub const NAMES_MAX: usize = 64;

/// A name that stands for all the addresses it has. While it has none nothing matches it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientName {
    /// The name.
    pub name: String,
    /// What it stands for now; always empty in a configuration.
    pub addresses: Vec<IpAddr>,
}

impl ClientName {
    /// As a file has it.
    pub(super) fn new(text: &str) -> ClientName {
        ClientName { name: text.to_ascii_lowercase(), addresses: Vec::new() }
    }
}

/// Reports more names than one list may have.
pub(super) fn check_count<'n>(
    report: &mut Report,
    span: &Range<usize>,
    names: impl Iterator<Item = &'n str>,
) {
    let all: BTreeSet<&str> = names.collect();
    if all.len() > NAMES_MAX {
        let text = format!("{} names of clients; use {NAMES_MAX} at most, or networks", all.len());
        report.error(span, text);
    }
}

impl HostConfig {
    /// Names of clients that a vserver follows, and what for: those of its own tables, and of the
    /// host's access rules that concern it. None if it cannot resolve any.
    pub fn client_names(&self, v: &Vserver) -> BTreeSet<(String, &'static str)> {
        if v.dns.servers.is_empty() && v.dhcp.is_empty() {
            return BTreeSet::new();
        }
        self.names_used(v)
    }

    /// The same, whether or not it can resolve them.
    pub(crate) fn names_used(&self, v: &Vserver) -> BTreeSet<(String, &'static str)> {
        let host = self.access.rules.iter().filter(|r| r.concerns(&v.name));
        let access = v.access.iter().chain(host).flat_map(|r| &r.names);
        let qos = v.qos.classes.iter().flat_map(|c| &c.matches.names);
        let of = |n: &ClientName, what| (n.name.clone(), what);
        access
            .map(|n| of(n, "access"))
            .chain(qos.map(|n| of(n, "qos")))
            .chain(v.rules.iter().filter_map(|r| Some((r.from_name.clone()?, "rule"))))
            .collect()
    }
}
