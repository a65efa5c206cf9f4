//! From a configuration to the nodes of every NIC's trees, one plan for all workers.
//!
//! What a node has used is kept by its name, so that a changed plan goes on where the one before
//! was, and a vserver on several NICs has one limit for all of them.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::clients::Clients;
use super::node::{Bounds, Place, Shape, State};
use super::tree::Planned;
use crate::config::qos::{Both, Class, Qos, QosGroup, Rates};
use crate::config::{HostConfig, Vserver};
use crate::host::QosChange;

/// Send or receive.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// What vservers send.
    Send,
    /// What they receive.
    Receive,
}

impl Way {
    pub(crate) const ALL: [Way; 2] = [Way::Send, Way::Receive];

    pub(crate) fn of(self, both: &Both) -> Rates {
        match self {
            Way::Send => both.send,
            Way::Receive => both.receive,
        }
    }
}

/// What a node stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Name {
    Link(String),
    Group(String),
    Vserver(String),
    /// Vserver and class.
    Class(String, String),
}

/// A node that the report shows, once for all NICs.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) name: Name,
    pub(crate) shape: Shape,
    pub(crate) state: Arc<State>,
    pub(crate) clients: Option<Arc<Clients>>,
    /// Of each of them.
    pub(crate) client_rates: Rates,
}

/// Where a vserver's frames of one NIC go.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The leaf of the first class, the others behind it, `default` last.
    pub(crate) first: u32,
    pub(crate) classes: Arc<[Class]>,
    /// By class: its clients, if they are told apart.
    pub(crate) clients: Vec<Option<Arc<Clients>>>,
}

/// One NIC in one direction.
#[derive(Clone, Debug, Default)]
pub(crate) struct WayPlan {
    pub(crate) nodes: Vec<Planned>,
    /// By vserver; `None`: it is not on the NIC.
    pub(crate) entries: Vec<Option<Entry>>,
}

impl WayPlan {
    /// Something is configured.
    pub(crate) fn is_active(&self) -> bool {
        !self.nodes.is_empty()
    }
}

/// All NICs.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) send: Vec<WayPlan>,
    pub(crate) receive: Vec<WayPlan>,
    pub(crate) shown: [Vec<Shown>; 2],
    /// By vserver: what its stack may make; `None`: whatever the device takes.
    pub(crate) bounds: Vec<Option<Bounds>>,
    source: Source,
    states: HashMap<(Name, Way), Arc<State>>,
    clients: HashMap<(Name, Way), Arc<Clients>>,
}

/// What plans are made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Source {
    workers: usize,
    links: Vec<(String, Both)>,
    groups: Vec<QosGroup>,
    /// Name, links, and what is configured.
    vservers: Vec<(String, Vec<usize>, Qos)>,
}

impl Source {
    pub(crate) fn of(config: &HostConfig) -> Source {
        let lanes: Vec<Vec<usize>> =
            config.lanes_of_aliases().into_iter().map(|lane| vec![lane]).collect();
        let vserver = |i: usize| {
            let v = &config.vservers[i];
            (v.name.clone(), nics_of(v, &lanes), v.qos.clone())
        };
        Source {
            workers: config.workers.count,
            links: links_of(config),
            groups: config.qos_groups.clone(),
            vservers: (0..config.vservers.len()).map(vserver).collect(),
        }
    }

    /// Applies a change; `Err`: there is nothing of that name.
    fn change(&mut self, change: &QosChange) -> Result<(), String> {
        let unknown = |name: &String| name.clone();
        match change {
            QosChange::Link(name, rates) => {
                let found = self.links.iter_mut().find(|l| l.0 == *name);
                found.ok_or_else(|| unknown(name))?.1 = *rates;
            }
            QosChange::Group(name, rates) => {
                let found = self.groups.iter_mut().find(|g| g.name == *name);
                found.ok_or_else(|| unknown(name))?.rates = *rates;
            }
            QosChange::Vserver(name, qos) => {
                let found = self.vservers.iter_mut().find(|v| v.0 == *name);
                found.ok_or_else(|| unknown(name))?.2 = qos.clone();
            }
            QosChange::Groups(groups) => self.groups.clone_from(groups),
        }
        Ok(())
    }
}

/// Every link and its rates.
fn links_of(config: &HostConfig) -> Vec<(String, Both)> {
    let nics = config.nics.iter().map(|n| (n.name.clone(), n.qos));
    let tree = config.tree().unwrap_or_default();
    let above = tree.links.iter().skip(config.nics.len());
    let above = above.map(|link| {
        let name = link.name.to_string();
        let rates = rates_of(config, &name);
        (name, rates)
    });
    nics.chain(above).collect()
}

/// Rates of a bond or failover group in the configuration.
pub(crate) fn rates_of(config: &HostConfig, link: &str) -> Both {
    config.link_qos.iter().find(|(name, _)| name == link).map_or_else(Both::default, |l| l.1)
}

struct Builder<'a> {
    source: &'a Source,
    before: Option<&'a Plan>,
    seen: HashSet<(Name, Way)>,
    plan: Plan,
}

/// NICs of a vserver, with those below each alias.
pub(crate) fn nics_of(v: &Vserver, below: &[Vec<usize>]) -> Vec<usize> {
    let aliases = v.addresses.iter().map(|a| a.0).chain(v.slaac.iter().copied());
    let aliases = aliases.chain(v.routes.iter().map(|r| r.alias));
    let mut nics: Vec<usize> = aliases.flat_map(|a| below[a].iter().copied()).collect();
    nics.sort_unstable();
    nics.dedup();
    nics
}

fn least(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.into_iter().chain(b).min()
}

impl Plan {
    /// Nothing is configured: every frame passes by.
    pub(crate) fn is_empty(&self) -> bool {
        !self.send.iter().chain(&self.receive).any(WayPlan::is_active)
    }

    /// What a vserver has in it.
    pub(crate) fn qos_of(&self, vserver: &str) -> Option<&Qos> {
        self.source.vservers.iter().find(|v| v.0 == vserver).map(|v| &v.2)
    }

    /// Classes whose clients have names: vserver, class, and what they stand for.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&str, &Class)> {
        let all = self.source.vservers.iter();
        all.flat_map(|(name, _, qos)| qos.classes.iter().map(move |c| (name.as_str(), c)))
            .filter(|(_, c)| !c.matches.names.is_empty())
    }

    /// This plan with changes; `Err`: there is nothing of that name.
    pub(crate) fn changed(&self, changes: &[QosChange]) -> Result<Plan, String> {
        let mut source = self.source.clone();
        for change in changes {
            source.change(change)?;
        }
        Ok(Plan::new(&source, Some(self)))
    }

    /// This plan over other links; nodes go on from where they are. `names` are those of all links
    /// with rates for those that are new, `vservers` the links of each vserver.
    pub(crate) fn relinked(
        &self,
        names: impl Iterator<Item = (String, Both)>,
        vservers: impl Iterator<Item = Vec<usize>>,
    ) -> Plan {
        let mut source = self.source.clone();
        let rates = |name: &String, new: Both| {
            self.source.links.iter().find(|l| l.0 == *name).map_or(new, |l| l.1)
        };
        source.links = names.map(|(name, new)| (name.clone(), rates(&name, new))).collect();
        for (vserver, links) in source.vservers.iter_mut().zip(vservers) {
            vserver.1 = links;
        }
        Plan::new(&source, Some(self))
    }

    /// The plan of a configuration; nodes that `before` had go on from where they are.
    pub(crate) fn new(source: &Source, before: Option<&Plan>) -> Plan {
        let plan = Plan { bounds: vec![None; source.vservers.len()], ..Plan::default() };
        let mut builder = Builder { source, before, seen: HashSet::new(), plan };
        for way in Way::ALL {
            for nic in 0..source.links.len() {
                let made = builder.way(way, nic);
                match way {
                    Way::Send => builder.plan.send.push(made),
                    Way::Receive => builder.plan.receive.push(made),
                }
            }
        }
        Plan { source: source.clone(), ..builder.plan }
    }
}

impl Builder<'_> {
    fn state(&mut self, name: &Name, way: Way) -> Arc<State> {
        let key = (name.clone(), way);
        let before = self.before;
        let made = || before.and_then(|b| b.states.get(&key).cloned()).unwrap_or_default();
        Arc::clone(self.plan.states.entry(key.clone()).or_insert_with(made))
    }

    fn clients(&mut self, name: &Name, way: Way, class: &Class) -> Option<Arc<Clients>> {
        let each = class.each?;
        let key = (name.clone(), way);
        let fits = |c: &&Arc<Clients>| (c.each, c.most) == (each, class.clients_max);
        let before = self.before.and_then(|b| b.clients.get(&key)).filter(fits).cloned();
        let made = || before.unwrap_or_else(|| Arc::new(Clients::new(each, class.clients_max)));
        Some(Arc::clone(self.plan.clients.entry(key.clone()).or_insert_with(made)))
    }

    /// Whether something of this direction is configured for the NIC or one of its vservers.
    fn is_used(&self, way: Way, nic: usize) -> bool {
        let set = |both: &Both| way.of(both) != Rates::default();
        let groups = &self.source.groups;
        set(&self.source.links[nic].1)
            || self.source.vservers.iter().filter(|v| v.1.contains(&nic)).any(|(_, _, qos)| {
                let mut up = std::iter::successors(qos.group, |g| groups[*g].parent);
                let marks = qos.classes.iter().any(|c| match way {
                    Way::Send => c.mark.is_some(),
                    Way::Receive => c.route_mark != 0,
                });
                set(&qos.rates)
                    || marks
                    || up.any(|g| set(&groups[g].rates))
                    || qos.classes.iter().any(|c| set(&c.rates))
            })
    }

    fn way(&mut self, way: Way, nic: usize) -> WayPlan {
        if !self.is_used(way, nic) {
            return WayPlan::default();
        }
        let mut made = WayPlan::default();
        let (name, rates) = &self.source.links[nic];
        let name = Name::Link(name.clone());
        let root = self.push(&mut made, way, name, None, way.of(rates), false);
        let mut groups: HashMap<usize, u32> = HashMap::new();
        for (vserver, (_, nics, qos)) in self.source.vservers.iter().enumerate() {
            if !nics.contains(&nic) {
                made.entries.push(None);
                continue;
            }
            let parent = self.group(&mut made, way, qos.group, root, &mut groups);
            let entry = self.vserver(&mut made, way, vserver, parent);
            made.entries.push(Some(entry));
        }
        made
    }

    fn group(
        &mut self,
        made: &mut WayPlan,
        way: Way,
        group: Option<usize>,
        root: u32,
        known: &mut HashMap<usize, u32>,
    ) -> u32 {
        let Some(group) = group else { return root };
        if let Some(node) = known.get(&group) {
            return *node;
        }
        let g = &self.source.groups[group];
        let parent = self.group(made, way, g.parent, root, known);
        let name = Name::Group(g.name.clone());
        let node = self.push(made, way, name, Some(parent), way.of(&g.rates), false);
        known.insert(group, node);
        node
    }

    fn vserver(&mut self, made: &mut WayPlan, way: Way, vserver: usize, parent: u32) -> Entry {
        let (own_name, _, qos) = &self.source.vservers[vserver];
        let held = way == Way::Send;
        let name = Name::Vserver(own_name.clone());
        let single = qos.classes.is_empty();
        let own = self.push(made, way, name, Some(parent), way.of(&qos.rates), held && single);
        if way == Way::Send {
            let most = made.nodes[own as usize].shape.ceiling.map(Bounds::new);
            let before = &mut self.plan.bounds[vserver];
            *before = before.iter().copied().chain(most).min_by_key(|b| b.super_bytes);
        }
        let classes: Arc<[Class]> = qos.classes.clone().into();
        if single {
            return Entry { first: own, classes, clients: Vec::new() };
        }
        let first = made.nodes.len() as u32;
        let mut clients = Vec::new();
        for class in classes.iter() {
            let name = Name::Class(own_name.clone(), class.name.clone());
            let own_clients = self.clients(&name, way, class);
            // With clients the rates are each client's.
            let rates = way.of(&class.rates);
            let (of_class, of_each) = if class.each.is_some() {
                (Rates::default(), rates)
            } else {
                (rates, Rates::default())
            };
            let clients_shown = (own_clients.clone(), of_each);
            self.push_shown(made, way, (name, clients_shown), Some(own), of_class, false);
            clients.push(own_clients);
        }
        let name = Name::Class(own_name.clone(), String::from("default"));
        self.push(made, way, name, Some(own), Rates::default(), false);
        Entry { first, classes, clients }
    }

    fn push(
        &mut self,
        made: &mut WayPlan,
        way: Way,
        name: Name,
        parent: Option<u32>,
        rates: Rates,
        held: bool,
    ) -> u32 {
        self.push_shown(made, way, (name, (None, Rates::default())), parent, rates, held)
    }

    fn push_shown(
        &mut self,
        made: &mut WayPlan,
        way: Way,
        (name, (clients, client_rates)): (Name, (Option<Arc<Clients>>, Rates)),
        parent: Option<u32>,
        rates: Rates,
        held: bool,
    ) -> u32 {
        let above = parent.map(|p| &made.nodes[p as usize]);
        let ceiling = least(rates.limit, above.and_then(|a| a.shape.ceiling));
        let scarce =
            above.is_some_and(|a| a.scarce) || rates.limit.or(rates.limit_packets).is_some();
        let shape = Shape::new(rates, ceiling);
        let state = self.state(&name, way);
        let shown = &mut self.plan.shown[way as usize];
        if self.seen.insert((name.clone(), way)) {
            shown.push(Shown { name, shape, state: Arc::clone(&state), clients, client_rates });
        }
        let place = Place::new(self.source.workers);
        made.nodes.push(Planned { parent, shape, state, place, scarce, held });
        (made.nodes.len() - 1) as u32
    }
}

/// The first `len` bits of an address.
pub(crate) fn prefix(addr: IpAddr, len: u8) -> IpAddr {
    match addr {
        IpAddr::V4(a) => {
            let bits = u32::from(a);
            IpAddr::V4(
                (bits & u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0)).into(),
            )
        }
        IpAddr::V6(a) => {
            let bits = u128::from(a);
            IpAddr::V6((bits & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)).into())
        }
    }
}
