//! What lies between two configurations.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;

use weft_stack::ip::address::Cidr;
use weft_stack::stack::{Limits, TcpConfig};

use crate::config::{Alias, HostConfig, Nic, Privilege, RouteSpec, Service, Vserver};
use crate::host::build::used_aliases;

/// Where an address stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the vserver.
    pub vserver: String,
    /// Number of the alias.
    pub alias: usize,
    /// The address and its prefix length.
    pub cidr: Cidr,
}

/// One thing that changes. Each has an inverse.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "fields are named as in the configuration")]
pub enum Step {
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
    Services {
        vserver: String,
        from: Vec<Service>,
        to: Vec<Service>,
    },
    /// From here on readers see the other configuration, and its rates and shares are in force.
    Publish,
}

impl Step {
    /// What takes it back.
    pub fn inverse(&self) -> Step {
        match self.clone() {
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
            Step::Services { vserver, from, to } => Step::Services { vserver, from: to, to: from },
            Step::Publish => Step::Publish,
        }
    }
}

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
    stages.aliases(old, new);
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
    stages.fewer_aliases(old, new);
    stages.moves = moves.steps;
    let more = if new.aliases.len() < old.aliases.len() { old } else { new };
    let aliases = more.aliases.iter().map(|a| a.name.clone()).collect();
    Ok(Plan { steps: stages.ordered(), aliases, notes: notes(old, new) })
}

/// Addresses that change their vserver or their alias within a link.
struct Moves {
    steps: Vec<Step>,
    from: HashSet<(String, usize, IpAddr)>,
    to: HashSet<(String, usize, IpAddr)>,
}

impl Moves {
    fn find(old: &HostConfig, new: &HostConfig) -> Moves {
        type Link = (usize, Option<[u8; 6]>, IpAddr);
        let link = |c: &HostConfig, alias: usize, addr: IpAddr| -> Option<Link> {
            c.aliases.get(alias).map(|a| (a.nic, a.mac, addr))
        };
        let mut owners: HashMap<Link, Place> = HashMap::new();
        for (v, (alias, cidr)) in
            old.vservers.iter().flat_map(|v| v.addresses.iter().map(move |a| (v, *a)))
        {
            if let Some(link) = link(old, alias, cidr.addr) {
                owners.insert(link, Place { vserver: v.name.clone(), alias, cidr });
            }
        }
        let mut moves = Moves { steps: Vec::new(), from: HashSet::new(), to: HashSet::new() };
        for (v, (alias, cidr)) in
            new.vservers.iter().flat_map(|v| v.addresses.iter().map(move |a| (v, *a)))
        {
            let Some(from) = link(new, alias, cidr.addr).and_then(|l| owners.get(&l)) else {
                continue;
            };
            if from.vserver == v.name && from.alias == alias {
                continue;
            }
            moves.from.insert((from.vserver.clone(), from.alias, cidr.addr));
            moves.to.insert((v.name.clone(), alias, cidr.addr));
            let to = Place { vserver: v.name.clone(), alias, cidr };
            moves.steps.push(Step::AddressMove { from: from.clone(), to });
        }
        moves
    }

    fn comes(&self, vserver: &str, (alias, cidr): &(usize, Cidr)) -> bool {
        self.to.contains(&(vserver.to_owned(), *alias, cidr.addr))
    }

    fn goes(&self, vserver: &str, (alias, cidr): &(usize, Cidr)) -> bool {
        self.from.contains(&(vserver.to_owned(), *alias, cidr.addr))
    }
}

/// Steps by when they are done.
#[derive(Default)]
struct Stages {
    first: Vec<Step>,
    vservers: Vec<Step>,
    attach: Vec<Step>,
    /// Routes of vservers that lose an address soon, which their gateways may need.
    routes_early: Vec<Step>,
    addresses: Vec<Step>,
    moves: Vec<Step>,
    routes: Vec<Step>,
    rest: Vec<Step>,
    away: Vec<Step>,
    last: Vec<Step>,
}

impl Stages {
    fn ordered(self) -> Vec<Step> {
        let before = [
            self.first,
            self.vservers,
            self.attach,
            self.routes_early,
            self.addresses,
            self.moves,
            self.routes,
            self.rest,
            vec![Step::Publish],
        ];
        before.into_iter().flatten().chain(self.away).chain(self.last).collect()
    }

    fn aliases(&mut self, old: &HostConfig, new: &HostConfig) {
        for (number, alias) in new.aliases.iter().enumerate() {
            let Some(before) = old.aliases.get(number) else {
                self.first.push(Step::AliasAdd { number, alias: alias.clone() });
                continue;
            };
            if before.mtu != alias.mtu {
                let (name, from, to) = (alias.name.clone(), before.mtu, alias.mtu);
                self.first.push(Step::AliasMtu { number, name, from, to });
            }
        }
    }

    fn fewer_aliases(&mut self, old: &HostConfig, new: &HostConfig) {
        let gone = old.aliases.iter().enumerate().skip(new.aliases.len()).rev();
        self.last.extend(gone.map(|(number, a)| Step::AliasRemove { number, alias: a.clone() }));
    }

    fn added(&mut self, v: &Vserver, moves: &Moves) {
        let mut bare = v.clone();
        bare.addresses.retain(|a| !moves.comes(&v.name, a));
        bare.services.clear();
        if bare.addresses.len() < v.addresses.len() {
            // Gateways may be on networks that come with those addresses.
            let used = used_aliases(v);
            bare.routes.clear();
            let has = used_aliases(&bare);
            for alias in used.into_iter().filter(|a| !has.contains(a)) {
                self.attach.push(attach(v, alias));
            }
            self.routes.extend(v.routes.iter().map(|r| Step::Route {
                vserver: v.name.clone(),
                from: None,
                to: Some(r.clone()),
            }));
        }
        self.vservers.push(Step::VserverAdd(Box::new(bare)));
        self.services(&v.name, &[], &v.services);
    }

    fn removed(&mut self, v: &Vserver, moves: &Moves) {
        self.services(&v.name, &v.services, &[]);
        let mut rest = v.clone();
        rest.services.clear();
        rest.addresses.retain(|a| !moves.goes(&v.name, a));
        if rest.addresses.len() < v.addresses.len() {
            rest.routes.clear();
            let (vserver, to) = (&v.name, None);
            self.routes_early.extend(v.routes.iter().map(|r| Step::Route {
                vserver: vserver.clone(),
                from: Some(r.clone()),
                to: to.clone(),
            }));
        }
        let (had, has) = (used_aliases(v), used_aliases(&rest));
        for alias in had.into_iter().filter(|a| !has.contains(a)) {
            let (vserver, slaac, forwarding) = (v.name.clone(), false, v.forwarding);
            self.last.push(Step::Detach { vserver, alias, slaac, forwarding });
        }
        self.last.push(Step::VserverRemove(Box::new(rest)));
    }

    fn services(&mut self, vserver: &str, from: &[Service], to: &[Service]) {
        if from != to {
            let (from, to) = (from.to_vec(), to.to_vec());
            self.rest.push(Step::Services { vserver: vserver.to_owned(), from, to });
        }
    }

    fn changed(&mut self, old: &Vserver, new: &Vserver, moves: &Moves) {
        let vserver = &new.name;
        if old.limits != new.limits {
            let (from, to) = (Box::new(old.limits.clone()), Box::new(new.limits.clone()));
            self.first.push(Step::Limits { vserver: vserver.clone(), from, to });
        }
        if old.tcp != new.tcp {
            let (from, to) = (Box::new(old.tcp.clone()), Box::new(new.tcp.clone()));
            self.first.push(Step::Tcp { vserver: vserver.clone(), from, to });
        }
        let (had, has) = (used_aliases(old), used_aliases(new));
        for alias in has.iter().filter(|a| !had.contains(a)) {
            self.attach.push(attach(new, *alias));
        }
        for alias in had.iter().filter(|a| has.contains(a)) {
            let on = new.slaac.contains(alias);
            if old.slaac.contains(alias) != on {
                self.rest.push(Step::Slaac { vserver: vserver.clone(), alias: *alias, on });
            }
        }
        // Before addresses: what goes late goes before them too.
        let loses = loses_early(old, new, moves);
        self.changed_routes(old, new, loses);
        self.changed_addresses(old, new, moves);
        if old.forwarding != new.forwarding {
            self.rest.push(Step::Forwarding { vserver: vserver.clone(), on: new.forwarding });
        }
        self.services(vserver, &old.services, &new.services);
        for alias in had.iter().filter(|a| !has.contains(a)) {
            let Step::Attach { vserver, alias, slaac, .. } = attach(old, *alias) else { continue };
            // Forwarding has changed by then.
            let forwarding = new.forwarding;
            self.last.push(Step::Detach { vserver, alias, slaac, forwarding });
        }
    }

    fn changed_addresses(&mut self, old: &Vserver, new: &Vserver, moves: &Moves) {
        let place = |(alias, cidr): &(usize, Cidr)| Place {
            vserver: new.name.clone(),
            alias: *alias,
            cidr: *cidr,
        };
        let same = |a: &(usize, Cidr), b: &(usize, Cidr)| a.0 == b.0 && a.1.addr == b.1.addr;
        let gone = old.addresses.iter().filter(|a| !new.addresses.iter().any(|b| same(a, b)));
        let gone: Vec<Step> = gone
            .filter(|a| !moves.goes(&new.name, a))
            .map(|a| Step::AddressRemove(place(a)))
            .collect();
        let mut come = Vec::new();
        for a in &new.addresses {
            match old.addresses.iter().find(|b| same(a, b)) {
                Some(before) if before.1 == a.1 => {}
                Some(before) => come.push(Step::Prefix { from: place(before), to: a.1 }),
                None if moves.comes(&new.name, a) => {}
                None => come.push(Step::AddressAdd(place(a))),
            }
        }
        // New addresses before old ones go, if the limit allows both.
        if is_tight(old, new) {
            self.addresses.extend(gone);
        } else {
            self.away.extend(gone);
        }
        self.addresses.extend(come);
    }

    fn changed_routes(&mut self, old: &Vserver, new: &Vserver, early: bool) {
        let key = |r: &RouteSpec| (r.to.network(), r.alias, r.metric);
        let vserver = || new.name.clone();
        for to in &new.routes {
            let from = old.routes.iter().find(|from| key(from) == key(to));
            if from != Some(to) {
                let from = from.filter(|_| !early);
                let (from, to) = (from.cloned(), Some(to.clone()));
                self.routes.push(Step::Route { vserver: vserver(), from, to });
            }
        }
        for r in &old.routes {
            let stays = new.routes.iter().any(|n| if early { n == r } else { key(n) == key(r) });
            if !stays {
                let stage = if early { &mut self.routes_early } else { &mut self.away };
                stage.push(Step::Route { vserver: vserver(), from: Some(r.clone()), to: None });
            }
        }
    }
}

/// Whether a network of the vserver may go before its new routes are there.
fn loses_early(old: &Vserver, new: &Vserver, moves: &Moves) -> bool {
    let narrows = |a: &(usize, Cidr)| {
        let same = |b: &&(usize, Cidr)| a.0 == b.0 && a.1.addr == b.1.addr;
        new.addresses.iter().find(same).is_some_and(|b| b.1 != a.1)
    };
    is_tight(old, new) || old.addresses.iter().any(|a| moves.goes(&old.name, a) || narrows(a))
}

/// Whether old and new addresses are too many at once.
fn is_tight(old: &Vserver, new: &Vserver) -> bool {
    let limit = old.limits.addresses.min(new.limits.addresses);
    old.addresses.len() + new.addresses.len() > limit
}

fn attach(v: &Vserver, alias: usize) -> Step {
    Step::Attach {
        vserver: v.name.clone(),
        alias,
        slaac: v.slaac.contains(&alias),
        forwarding: v.forwarding,
    }
}

const RESTART: &str = "cannot be changed while the daemon runs; a restart is needed";

/// What differs and takes a restart.
fn obstacles(old: &HostConfig, new: &HostConfig) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let mut say = |object: &str, reason: &str| {
        found.push(Obstacle { object: object.to_owned(), reason: reason.to_owned() });
    };
    if old.control != new.control {
        say("control", RESTART);
    }
    if old.workers != new.workers {
        say("workers", RESTART);
    }
    for nic in &new.nics {
        let name = format!("nic {}", nic.name);
        match old.nics.iter().find(|n| n.name == nic.name) {
            Some(before) if *before == (Nic { qos: before.qos, ..nic.clone() }) => {}
            Some(_) => say(&name, RESTART),
            None => say(&name, "opening a device takes a restart"),
        }
    }
    for nic in old.nics.iter().filter(|n| !new.nics.iter().any(|m| m.name == n.name)) {
        say(&format!("nic {}", nic.name), "closing a device takes a restart");
    }
    if old.nics.len() == new.nics.len()
        && old.nics.iter().zip(&new.nics).any(|(a, b)| a.name != b.name)
    {
        say("nics", "stand in another order; keep it");
    }
    let roles_apart = |p: &Privilege| Privilege { roles: Vec::new(), ..p.clone() };
    if roles_apart(&old.privilege) != roles_apart(&new.privilege) {
        say("host (control_mode, control_group, audit, privileges, user)", RESTART);
    }
    if known_parts(old, new) != *new {
        say("a table of the whole host", RESTART);
    }
    let before = by_name(old);
    for v in &new.vservers {
        let before = before.get(v.name.as_str());
        if before.is_some_and(|before| known_vserver_parts(before, v) != *v) {
            say(&format!("a part of vserver {}", v.name), RESTART);
        }
    }
    alias_obstacles(old, new, &mut found);
    found
}

fn by_name(config: &HostConfig) -> HashMap<&str, &Vserver> {
    config.vservers.iter().map(|v| (v.name.as_str(), v)).collect()
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
            Some(a) if a.nic != before.nic => "putting an alias on another NIC takes a restart",
            Some(a) if a.mac != before.mac => "another MAC address takes a restart",
            // The last ones nobody follows.
            None | Some(_) => continue,
        };
        found
            .push(Obstacle { object: format!("alias {}", before.name), reason: reason.to_owned() });
    }
}

/// `old` with everything of `new` that is compared elsewhere.
#[allow(clippy::needless_update, reason = "what is added later and has no step takes a restart")]
fn known_parts(old: &HostConfig, new: &HostConfig) -> HostConfig {
    let new = new.clone();
    HostConfig {
        control: new.control,
        privilege: new.privilege,
        workers: new.workers,
        nics: new.nics,
        aliases: new.aliases,
        groups: new.groups,
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

fn notes(old: &HostConfig, new: &HostConfig) -> Vec<Note> {
    let mut notes = Vec::new();
    let mut host = |differs: bool, text: &str| {
        notes.extend(differs.then(|| Note { vserver: None, text: text.to_owned() }));
    };
    host(old.privilege.roles != new.privilege.roles, "roles");
    host(old.groups != new.groups, "groups");
    host(old.access != new.access, "access");
    host(old.qos_groups != new.qos_groups, "QoS groups");
    for (a, b) in old.nics.iter().zip(&new.nics) {
        host(a.qos != b.qos, &format!("qos of nic {}", b.name));
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
            (old.named_routes != v.named_routes, "routes by name"),
            (old.identity != v.identity, "identity"),
        ] {
            let vserver = Some(v.name.clone());
            notes.extend(differs.then(|| Note { vserver, text: text.to_owned() }));
        }
    }
    notes
}
