//! What lies between two configurations.

use std::collections::{HashMap, HashSet};

use weft_stack::ip::address::Cidr;
use weft_stack::stack::{Limits, TcpConfig};

use super::obstacle::{Note, Obstacle, notes, obstacles};
use super::stages::{Moves, Stages};
use crate::config::{Alias, Conflicts, HostConfig, RouteSpec, RuleSpec, Service, Vserver};
use crate::interface::Tree;

/// Where an address stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the vserver.
    pub vserver: String,
    /// Number of the alias.
    pub alias: usize,
    /// The address and its prefix length.
    pub cidr: Cidr,
    /// How conflicts over it are settled.
    pub conflicts: Conflicts,
}

impl Place {
    pub(super) fn of(v: &Vserver, (alias, cidr): (usize, Cidr)) -> Place {
        Place { vserver: v.name.clone(), alias, cidr, conflicts: v.conflicts_on(alias) }
    }
}

/// Shared tables that a vserver uses, and its policy routing rules.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "fields are named as in the configuration")]
pub struct Ruling {
    pub tables: Vec<String>,
    pub rules: Vec<RuleSpec>,
}

/// One thing that changes. Each has an inverse.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "fields are named as in the configuration")]
pub enum Step {
    /// VLANs, bonds, failover groups, and where aliases stand. Before everything that needs them.
    Interfaces {
        from: Box<Tree>,
        to: Box<Tree>,
    },
    /// An alias after the others.
    AliasAdd {
        number: usize,
        alias: Alias,
    },
    /// The last alias.
    AliasRemove {
        number: usize,
        alias: Alias,
    },
    AliasMtu {
        number: usize,
        name: String,
        from: Option<usize>,
        to: Option<usize>,
    },
    /// With its addresses and routes, except those that others give up for it.
    VserverAdd(Box<Vserver>),
    /// With everything it still has.
    VserverRemove(Box<Vserver>),
    Limits {
        vserver: String,
        from: Box<Limits>,
        to: Box<Limits>,
    },
    Tcp {
        vserver: String,
        from: Box<TcpConfig>,
        to: Box<TcpConfig>,
    },
    /// The vserver is on an alias from now on.
    Attach {
        vserver: String,
        alias: usize,
        slaac: bool,
        forwarding: bool,
    },
    Detach {
        vserver: String,
        alias: usize,
        slaac: bool,
        forwarding: bool,
    },
    Slaac {
        vserver: String,
        alias: usize,
        on: bool,
    },
    Forwarding {
        vserver: String,
        on: bool,
    },
    AddressAdd(Place),
    AddressRemove(Place),
    /// From one vserver, or alias, to another on the same link, in one go.
    AddressMove {
        from: Place,
        to: Place,
    },
    /// The address stays, its network changes.
    Prefix {
        from: Place,
        to: Cidr,
    },
    /// To the same network on the same alias with the same metric: one is replaced at once.
    Route {
        vserver: String,
        from: Option<RouteSpec>,
        to: Option<RouteSpec>,
    },
    /// How conflicts over an address that stays are settled.
    Conflicts {
        place: Place,
        to: Conflicts,
    },
    /// A route table that vservers share by name.
    Table {
        name: String,
        from: Option<Vec<RouteSpec>>,
        to: Option<Vec<RouteSpec>>,
    },
    /// Policy routing rules and shared tables in use, all at once.
    Rules {
        vserver: String,
        from: Ruling,
        to: Ruling,
    },
    Services {
        vserver: String,
        from: Vec<Service>,
        to: Vec<Service>,
    },
    /// From here on readers see the other configuration, and what has no step of its own is in
    /// force: rates and shares, access, names, DHCP clients, registration, multicast DNS, listeners
    /// of groups.
    Publish,
}

impl Step {
    /// What takes it back.
    pub fn inverse(&self) -> Step {
        match self.clone() {
            Step::Interfaces { from, to } => Step::Interfaces { from: to, to: from },
            Step::AliasAdd { number, alias } => Step::AliasRemove { number, alias },
            Step::AliasRemove { number, alias } => Step::AliasAdd { number, alias },
            Step::AliasMtu { number, name, from, to } => {
                Step::AliasMtu { number, name, from: to, to: from }
            }
            Step::VserverAdd(v) => Step::VserverRemove(v),
            Step::VserverRemove(v) => Step::VserverAdd(v),
            Step::Limits { vserver, from, to } => Step::Limits { vserver, from: to, to: from },
            Step::Tcp { vserver, from, to } => Step::Tcp { vserver, from: to, to: from },
            Step::Attach { vserver, alias, slaac, forwarding } => {
                Step::Detach { vserver, alias, slaac, forwarding }
            }
            Step::Detach { vserver, alias, slaac, forwarding } => {
                Step::Attach { vserver, alias, slaac, forwarding }
            }
            Step::Slaac { vserver, alias, on } => Step::Slaac { vserver, alias, on: !on },
            Step::Forwarding { vserver, on } => Step::Forwarding { vserver, on: !on },
            Step::AddressAdd(place) => Step::AddressRemove(place),
            Step::AddressRemove(place) => Step::AddressAdd(place),
            Step::AddressMove { from, to } => Step::AddressMove { from: to, to: from },
            Step::Prefix { from, to } => {
                let before = from.cidr;
                Step::Prefix { from: Place { cidr: to, ..from }, to: before }
            }
            Step::Route { vserver, from, to } => Step::Route { vserver, from: to, to: from },
            Step::Conflicts { place, to } => {
                let before = place.conflicts;
                Step::Conflicts { place: Place { conflicts: to, ..place }, to: before }
            }
            Step::Table { name, from, to } => Step::Table { name, from: to, to: from },
            Step::Rules { vserver, from, to } => Step::Rules { vserver, from: to, to: from },
            Step::Services { vserver, from, to } => Step::Services { vserver, from: to, to: from },
            Step::Publish => Step::Publish,
        }
    }
}

/// The steps from one configuration to another, in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Never without [`Step::Publish`].
    pub steps: Vec<Step>,
    /// Names of the aliases, to tell of steps.
    pub(super) aliases: Vec<String>,
    /// What else differs and is in force as soon as it is published: rates and shares, groups, roles.
    pub(super) notes: Vec<Note>,
}

impl Plan {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty() && self.steps == [Step::Publish]
    }
}

/// The steps from `old` to `new`, or all that stands against it.
pub fn plan(old: &HostConfig, new: &HostConfig) -> Result<Plan, Vec<Obstacle>> {
    let obstacles = obstacles(old, new);
    if !obstacles.is_empty() {
        return Err(obstacles);
    }
    let mut stages = Stages::default();
    stages.interfaces(old, new);
    stages.aliases(old, new);
    stages.tables(old, new);
    let moves = Moves::find(old, new);
    let before = by_name(old);
    let after: HashSet<&str> = new.vservers.iter().map(|v| v.name.as_str()).collect();
    for v in &new.vservers {
        match before.get(v.name.as_str()) {
            Some(old) => stages.changed(old, v, &moves),
            None => stages.added(v, &moves),
        }
    }
    for v in old.vservers.iter().filter(|v| !after.contains(v.name.as_str())) {
        stages.removed(v, &moves);
    }
    stages.fewer_tables(old, new);
    stages.fewer_aliases(old, new);
    stages.moves = moves.steps;
    let more = if new.aliases.len() < old.aliases.len() { old } else { new };
    let aliases = more.aliases.iter().map(|a| a.name.clone()).collect();
    Ok(Plan { steps: stages.ordered(), aliases, notes: notes(old, new) })
}

pub(super) fn by_name(config: &HostConfig) -> HashMap<&str, &Vserver> {
    config.vservers.iter().map(|v| (v.name.as_str(), v)).collect()
}
