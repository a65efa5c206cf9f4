//! The order in which a host is changed.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use weft_interface::tree;
use weft_stack::ip::address::Cidr;

use super::plan::{Place, Ruling, Step};
use crate::config::{HostConfig, RouteSpec, Service, TableSpec, Vserver};
use crate::host::build::used_aliases;
use crate::interface::Tree;

/// Addresses that change their vserver or their alias within a link.
pub(super) struct Moves {
    pub(super) steps: Vec<Step>,
    from: HashSet<(String, usize, IpAddr)>,
    to: HashSet<(String, usize, IpAddr)>,
}

/// Link and MAC address of an alias, address: who answers a frame.
type Link = (String, Option<[u8; 6]>, IpAddr);

fn link(c: &HostConfig, (alias, cidr): (usize, Cidr)) -> Option<Link> {
    c.aliases.get(alias).map(|a| (a.link(), a.mac, cidr.addr))
}

impl Moves {
    pub(super) fn find(old: &HostConfig, new: &HostConfig) -> Moves {
        let mut owners: HashMap<Link, Place> = HashMap::new();
        for v in &old.vservers {
            for a in &v.addresses {
                owners.extend(link(old, *a).map(|link| (link, Place::of(v, *a))));
            }
        }
        let stays: HashSet<Link> =
            new.vservers.iter().flat_map(|v| &v.addresses).filter_map(|a| link(new, *a)).collect();
        // On the same link, with a MAC address of its own before or after: whoever else has the
        // address there keeps it.
        let mut by_link: HashMap<(String, IpAddr), Link> = HashMap::new();
        let mut gone: Vec<&Link> = owners.keys().filter(|at| !stays.contains(*at)).collect();
        gone.sort_unstable();
        by_link.extend(gone.into_iter().map(|at| ((at.0.clone(), at.2), at.clone())));
        let all = new.vservers.iter().flat_map(|v| v.addresses.iter().map(move |a| (v, a)));
        let keeps: HashSet<(&str, usize, IpAddr)> =
            all.map(|(v, a)| (v.name.as_str(), a.0, a.1.addr)).collect();
        let mut moves = Moves { steps: Vec::new(), from: HashSet::new(), to: HashSet::new() };
        for (v, a) in new.vservers.iter().flat_map(|v| v.addresses.iter().map(move |a| (v, *a))) {
            let Some(at) = link(new, a) else { continue };
            let Some(from) = owners.get(&at).or_else(|| {
                let other = by_link.remove(&(at.0.clone(), at.2))?;
                owners.get(&other)
            }) else {
                continue;
            };
            if keeps.contains(&(from.vserver.as_str(), from.alias, a.1.addr)) {
                // It takes it along to another link.
                continue;
            }
            if from.vserver == v.name && from.alias == a.0 {
                continue;
            }
            moves.from.insert((from.vserver.clone(), from.alias, a.1.addr));
            moves.to.insert((v.name.clone(), a.0, a.1.addr));
            moves.steps.push(Step::AddressMove { from: from.clone(), to: Place::of(v, a) });
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
pub(super) struct Stages {
    first: Vec<Step>,
    vservers: Vec<Step>,
    attach: Vec<Step>,
    /// Routes of vservers that lose an address soon, which their gateways may need.
    routes_early: Vec<Step>,
    addresses: Vec<Step>,
    pub(super) moves: Vec<Step>,
    routes: Vec<Step>,
    rest: Vec<Step>,
    away: Vec<Step>,
    last: Vec<Step>,
}

impl Stages {
    pub(super) fn ordered(self) -> Vec<Step> {
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

    pub(super) fn interfaces(&mut self, old: &HostConfig, new: &HostConfig) {
        // Both were looked at: obstacles tell of an illegal one.
        let (Ok(from), Ok(to)) = (old.tree(), new.tree()) else { return };
        let links = |tree: &Tree| (tree.links.clone(), tree.bonds.clone(), tree.groups.clone());
        let place = |tree: &Tree, a: &tree::Alias| (tree.at(a.link).name.clone(), a.mac);
        let mut both = from.aliases.iter().zip(&to.aliases);
        let moves = both.any(|(a, b)| place(&from, a) != place(&to, b));
        let bound = |tree: &Tree| -> Vec<_> {
            let all = tree.aliases.iter().filter(|a| !a.beyond.targets.is_empty());
            all.map(|a| (a.name.clone(), a.beyond.clone())).collect()
        };
        if moves || links(&from) != links(&to) || bound(&from) != bound(&to) {
            let (from, to) = (Box::new(from), Box::new(to));
            self.first.push(Step::Interfaces { from, to });
        }
    }

    pub(super) fn aliases(&mut self, old: &HostConfig, new: &HostConfig) {
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

    /// Before whoever uses them.
    pub(super) fn tables(&mut self, old: &HostConfig, new: &HostConfig) {
        for TableSpec { name, routes } in &new.tables {
            let before = old.tables.iter().find(|t| t.name == *name).map(|t| &t.routes);
            if before != Some(routes) {
                let (from, to) = (before.cloned(), Some(routes.clone()));
                self.first.push(Step::Table { name: name.clone(), from, to });
            }
        }
    }

    /// After whoever used them.
    pub(super) fn fewer_tables(&mut self, old: &HostConfig, new: &HostConfig) {
        for TableSpec { name, routes } in &old.tables {
            if !new.tables.iter().any(|t| t.name == *name) {
                let from = Some(routes.clone());
                self.last.push(Step::Table { name: name.clone(), from, to: None });
            }
        }
    }

    pub(super) fn fewer_aliases(&mut self, old: &HostConfig, new: &HostConfig) {
        let gone = old.aliases.iter().enumerate().skip(new.aliases.len()).rev();
        self.last.extend(gone.map(|(number, a)| Step::AliasRemove { number, alias: a.clone() }));
    }

    pub(super) fn added(&mut self, v: &Vserver, moves: &Moves) {
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

    pub(super) fn removed(&mut self, v: &Vserver, moves: &Moves) {
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

    pub(super) fn changed(&mut self, old: &Vserver, new: &Vserver, moves: &Moves) {
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
        let ruling = |v: &Vserver| Ruling { tables: v.tables.clone(), rules: v.rules.clone() };
        let (from, to) = (ruling(old), ruling(new));
        if from != to {
            self.rest.push(Step::Rules { vserver: vserver.clone(), from, to });
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
        let same = |a: &(usize, Cidr), b: &(usize, Cidr)| a.0 == b.0 && a.1.addr == b.1.addr;
        let gone = old.addresses.iter().filter(|a| !new.addresses.iter().any(|b| same(a, b)));
        let gone: Vec<Step> = gone
            .filter(|a| !moves.goes(&new.name, a))
            .map(|a| Step::AddressRemove(Place::of(old, *a)))
            .collect();
        let mut come = Vec::new();
        for a in &new.addresses {
            match old.addresses.iter().find(|b| same(a, b)) {
                Some(before) => {
                    let from = Place::of(old, *before);
                    if before.1 != a.1 {
                        come.push(Step::Prefix { from: from.clone(), to: a.1 });
                    }
                    let to = new.conflicts_on(a.0);
                    if from.conflicts != to && a.1.addr.is_ipv4() {
                        come.push(Step::Conflicts { place: Place { cidr: a.1, ..from }, to });
                    }
                }
                None if moves.comes(&new.name, a) => {}
                None => come.push(Step::AddressAdd(Place::of(new, *a))),
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
