//! Clients of access rules and QoS classes, and sources of policy routing rules, that have names:
//! each vserver follows its own, and its rules follow the answers.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use weft_stack::ip::address::Cidr;

use super::Follow;
use crate::QosChange;
use crate::Vserver;
use crate::config::client::ClientName;
use crate::config::qos::Qos;
use crate::config::{self, RuleSpec};
use crate::host::{Host, Shared, tables};
use crate::runtime::NodeId;
use crate::stats::NameSnapshot;

/// Addresses of one name that count: the lowest.
const ADDRESSES_MAX: usize = 64;

/// What the names of vservers stand for.
#[derive(Debug, Default)]
pub(crate) struct Answers(Mutex<HashMap<(u32, String), Vec<IpAddr>>>);

impl Answers {
    /// The addresses of names of a vserver, as they are now.
    pub(crate) fn fill(&self, index: u32, names: &mut [ClientName]) {
        if names.is_empty() {
            return;
        }
        let all = self.0.lock();
        for n in names {
            n.addresses = all.get(&(index, n.name.clone())).cloned().unwrap_or_default();
        }
    }

    pub(crate) fn fill_qos(&self, index: u32, qos: &mut Qos) {
        for class in &mut qos.classes {
            self.fill(index, &mut class.matches.names);
        }
    }

    /// Rules whose sources have names, as rules for each address: none while there is none.
    pub(crate) fn expand(&self, index: u32, rules: &[RuleSpec]) -> Vec<RuleSpec> {
        let mut out: Vec<RuleSpec> = Vec::new();
        for rule in rules {
            let Some(name) = &rule.from_name else {
                out.push(rule.clone());
                continue;
            };
            let all = self.0.lock();
            for addr in all.get(&(index, name.clone())).into_iter().flatten() {
                let prefix_len = if addr.is_ipv4() { 32 } else { 128 };
                let from = Some(Cidr { addr: *addr, prefix_len });
                let one = RuleSpec { from, from_name: None, ..rule.clone() };
                // Two names may share an address.
                if rule.fits_family(*addr) && !out.contains(&one) {
                    out.push(one);
                }
            }
        }
        out
    }
}

/// A name that is followed, and what for.
#[derive(Debug)]
struct Client {
    index: u32,
    follow: Follow,
    used_for: String,
}

/// The named clients of a host.
#[derive(Debug, Default)]
pub(crate) struct NamedClients {
    pub(crate) answers: Arc<Answers>,
    all: Mutex<Vec<Client>>,
    /// Held while rules are made from names and configuration, lest older ones come last.
    order: Mutex<()>,
}

impl NamedClients {
    pub(crate) fn new(answers: Arc<Answers>) -> NamedClients {
        NamedClients { answers, ..NamedClients::default() }
    }

    /// Follows what `names` says (name, what for) instead of what was followed for the vserver.
    pub(crate) fn set(&self, vserver: &Vserver, names: &BTreeSet<(String, &'static str)>) {
        let index = vserver.index();
        let mut wanted: HashMap<&str, Vec<&str>> = HashMap::new();
        for (name, what) in names {
            wanted.entry(name).or_default().push(what);
        }
        let mut all = self.all.lock();
        let goes = |c: &mut Client| c.index == index && !wanted.contains_key(c.follow.name());
        let gone: Vec<Client> = all.extract_if(.., goes).collect();
        for c in all.iter_mut().filter(|c| c.index == index) {
            c.used_for = wanted.remove(c.follow.name()).unwrap_or_default().join(", ");
        }
        for (name, what) in wanted {
            let follow = follow(vserver, name);
            all.push(Client { index, follow, used_for: what.join(", ") });
        }
        drop(all);
        // This waits for a change that is under way.
        let names: Vec<String> = gone.iter().map(|c| c.follow.name().to_owned()).collect();
        drop(gone);
        let mut answers = self.answers.0.lock();
        for name in names {
            answers.remove(&(index, name));
        }
    }

    /// How the names of a vserver stand.
    pub(crate) fn snapshot(&self, index: u32) -> Vec<NameSnapshot> {
        let all = self.all.lock();
        let own = all.iter().filter(|c| c.index == index);
        own.map(|c| c.follow.snapshot(&c.used_for)).collect()
    }

    /// Follows none any more.
    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *self.all.lock());
        drop(all);
    }

    /// What is made from names and configuration is not made by others meanwhile.
    pub(crate) fn in_order(&self) -> MutexGuard<'_, ()> {
        self.order.lock()
    }
}

fn follow(vserver: &Vserver, name: &str) -> Follow {
    let (handle, key) = (vserver.clone(), (vserver.index(), name.to_owned()));
    vserver.follow(name, move |addresses| {
        let shared = handle.shared();
        let some: Vec<IpAddr> = addresses.iter().take(ADDRESSES_MAX).copied().collect();
        shared.named_clients.answers.0.lock().insert(key.clone(), some);
        shared.refresh_clients(handle.node());
    })
}

impl Host {
    /// Follows the named clients of a configuration, from the start on.
    pub(crate) fn follow_clients(&self, config: &config::HostConfig) {
        for v in &config.vservers {
            let names = config.client_names(v);
            if let Some(vserver) = self.vserver(&v.name).filter(|_| !names.is_empty()) {
                self.shared.named_clients.set(&vserver, &names);
            }
        }
    }
}

impl Shared {
    /// Access rules, classes and policy routing rules of a vserver become those that its names and
    /// the configuration in force ask for, where any has a name.
    pub(crate) fn refresh_clients(&self, id: NodeId) {
        let _order = self.named_clients.in_order();
        let live = self.live();
        let at = live.slots.get(&id.index).filter(|at| live.nodes.get(**at) == Some(&id));
        let Some(v) = at.and_then(|at| live.config.vservers.get(*at)) else { return };
        let used = live.config.names_used(v);
        let has = |what| used.iter().any(|(_, used_for)| *used_for == what);
        if has("access") {
            self.update_access(&live.config, id, v);
        }
        if has("qos") {
            self.refresh_classes(id, v);
        }
        if has("rule") {
            self.refresh_rules(id, v);
        }
    }

    fn refresh_classes(&self, id: NodeId, v: &config::Vserver) {
        let mut qos = v.qos.clone();
        self.named_clients.answers.fill_qos(id.index, &mut qos);
        let mut held = self.qos.lock();
        if held.qos_of(&v.name) == Some(&qos) {
            return;
        }
        let change = QosChange::Vserver(v.name.clone(), qos);
        // It is there: the configuration in force has it.
        let Ok(next) = held.changed(&[change]) else { return };
        *held = Arc::new(next);
        for worker in &self.workers {
            // A stopped worker sends nothing.
            let _ = worker.with_core(|core, now| core.set_qos(now, &held));
        }
    }

    fn refresh_rules(&self, id: NodeId, v: &config::Vserver) {
        let rules = self.named_clients.answers.expand(id.index, &v.rules);
        let changes = self.tables.changes(&v.tables, &rules);
        for worker in &self.workers {
            let done = worker.call(id, |node, now| tables::replace(&mut node.stack, now, &changes));
            // A stopped host has no rules.
            if let Ok(Err((_, what, e))) = done {
                eprintln!("weft: vserver {}: rule {what} by name: {e}", v.name);
            }
        }
    }
}
