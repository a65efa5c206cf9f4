//! Which services are reachable: rules of class × alias × vserver × client, compiled once for all
//! vservers that share them, asked by the stacks for the first packet of a flow.
//!
//! The first rule that matches decides, in the order printed by `weft access`: the vserver's own,
//! those of its groups from the nearest up, the host's, the built-in ones. First match rather than
//! most specific, because over services, places and clients at once "more specific" is no order: of
//! two rules one may have the longer prefix and the other the smaller class, and nobody could tell
//! from reading them which one counts.
//!
//! What the stack knows is never judged: segments of established connections, answers to what the
//! vserver sent ([`weft_stack::admission`]). An established connection stays when its rule is
//! withdrawn, unless `established = "end"`: a slip in a change of rules shall not cut every mount
//! and session of a host, and who means to cut them can say so.

use serde::{Deserialize, Serialize};

mod catalogue;
mod compile;
mod guard;
mod intervals;
mod report;
#[cfg(test)]
mod tests;

pub use catalogue::{Catalogue, Class, Ports, Protocol};
pub(crate) use guard::HostAccess;
pub use report::{
    AccessDecision, AccessQuery, AccessReport, NamedClient, RuleReport, VserverAccess,
};

use crate::config::client::ClientName;
use crate::interface::AliasClass;
use std::fmt;
use weft_stack::admission::Verdict;
use weft_stack::ip::address::Cidr;

/// Rules that one vserver may have, inherited ones included.
pub const RULES_MAX: usize = 4096;

/// What becomes of the first packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It reaches whoever listens.
    Allow,
    /// Silence: a scan finds the port filtered.
    Drop,
    /// TCP: a RST, as if nobody listened; others: as `prohibit`.
    Reject,
    /// ICMP or ICMPv6: communication administratively prohibited.
    Prohibit,
}

impl Action {
    /// All of them, by their keys in a configuration.
    pub const ALL: [(&'static str, Action); 4] = [
        ("allow", Action::Allow),
        ("drop", Action::Drop),
        ("reject", Action::Reject),
        ("prohibit", Action::Prohibit),
    ];

    /// As in a configuration.
    pub fn name(self) -> &'static str {
        let found = Action::ALL.iter().find(|(_, a)| *a == self);
        found.map_or("", |(name, _)| name)
    }

    fn verdict(self) -> Verdict {
        match self {
            Action::Allow => Verdict::Allow,
            Action::Drop => Verdict::Drop,
            Action::Reject => Verdict::Reject,
            Action::Prohibit => Verdict::Prohibit,
        }
    }
}

/// Where a rule holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// On every alias of a kind: `data`.
    Kind(AliasClass),
    /// On one: `data0`, with its index in [`crate::config::HostConfig::aliases`].
    Alias(usize, String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Kind(kind) => f.write_str(kind_name(*kind)),
            Place::Alias(_, name) => f.write_str(name),
        }
    }
}

pub(crate) fn kind_name(kind: AliasClass) -> &'static str {
    match kind {
        AliasClass::Mgmt => "mgmt",
        AliasClass::Data => "data",
        AliasClass::San => "san",
    }
}

/// Where a rule was written. Always equal: a rule that moved in its file is the same rule.
#[derive(Clone, Debug, Default)]
pub struct Written(pub String);

impl PartialEq for Written {
    fn eq(&self, _: &Written) -> bool {
        true
    }
}

impl Eq for Written {}

impl std::hash::Hash for Written {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AccessRule {
    /// What becomes of what it matches.
    pub action: Action,
    /// The services as written: `mgmt, tcp/8080`.
    pub services: String,
    /// What they are.
    pub ports: Vec<Ports>,
    /// Where; empty: on every alias.
    pub on: Vec<Place>,
    /// Of which vservers, for a rule of the host: names, or beginnings of names with a `*`; empty: of
    /// all.
    pub of: Vec<String>,
    /// From which clients; with `names` empty too: from all.
    pub from: Vec<Cidr>,
    /// From which clients that have names; see [`ClientName`].
    pub names: Vec<ClientName>,
    /// What answers those that it allows, for policy routing rules to look at; 0: none.
    pub mark: u32,
    /// Write a line for what it denies, at most ten per second for the whole host.
    pub log: bool,
    /// Where it stands.
    pub written: Written,
}

impl AccessRule {
    /// Whether a rule of the host concerns a vserver.
    pub(crate) fn concerns(&self, vserver: &str) -> bool {
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => vserver.starts_with(start),
            None => pattern == vserver,
        };
        self.of.is_empty() || self.of.iter().any(matches)
    }

    /// Whether it is about every client.
    fn is_from_all(&self) -> bool {
        self.from.is_empty() && self.names.is_empty()
    }

    /// Networks and names, as written.
    pub(crate) fn clients(&self) -> Vec<String> {
        let names = self.names.iter().map(|n| n.name.clone());
        self.from.iter().map(Cidr::to_string).chain(names).collect()
    }

    /// The same rule, whatever its names stand for.
    fn is_same(&self, other: &AccessRule) -> bool {
        let bare = |rule: &AccessRule| {
            let mut rule = rule.clone();
            rule.names.iter_mut().for_each(|n| n.addresses.clear());
            rule
        };
        if self.names.is_empty() { self == other } else { bare(self) == bare(other) }
    }

    fn holds_on(&self, alias: usize, kind: Option<AliasClass>) -> bool {
        self.on.is_empty()
            || self.on.iter().any(|place| match place {
                Place::Kind(k) => Some(*k) == kind,
                Place::Alias(a, _) => *a == alias,
            })
    }
}

impl fmt::Display for AccessRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |items: Vec<String>| items.join(", ");
        write!(f, "{} {}", self.action.name(), self.services)?;
        if !self.on.is_empty() {
            write!(f, " on {}", list(self.on.iter().map(Place::to_string).collect()))?;
        }
        if !self.of.is_empty() {
            write!(f, " of {}", self.of.join(", "))?;
        }
        if !self.is_from_all() {
            write!(f, " from {}", list(self.clients()))?;
        }
        if self.mark != 0 {
            write!(f, " mark {}", self.mark)?;
        }
        Ok(())
    }
}

/// What becomes of connections whose rule was withdrawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Established {
    /// They stay until they end by themselves.
    #[default]
    Keep,
    /// They are reset.
    End,
}

/// Access control of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessConfig {
    /// Classes and services by name.
    pub catalogue: Catalogue,
    /// Rules for all vservers, behind their own.
    pub rules: Vec<AccessRule>,
    /// What becomes of connections whose rule was withdrawn.
    pub established: Established,
}

impl AccessConfig {
    /// The rules of a vserver in order of evaluation: its `own`, the host's, the built-in ones.
    pub fn effective(&self, vserver: &str, own: &[AccessRule]) -> Vec<AccessRule> {
        let host = self.rules.iter().filter(|r| r.concerns(vserver));
        own.iter().chain(host).cloned().chain(self.catalogue.defaults()).collect()
    }
}
