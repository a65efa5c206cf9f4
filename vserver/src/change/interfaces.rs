//! The step to another tree of interfaces: on all workers at once, which stand still meanwhile.

use std::sync::Arc;

use weft_drivers::ethtool::set_vlan_stripping;
use weft_interface::{Mac, tree};

use super::describe::{Line, changed_fields, host};
use super::execute::{Run, StepError};
use crate::config::qos::Both;
use crate::config::{BeyondConfig, Driver};
use crate::host::{HostError, build};
use crate::interface::{LinkId, Tree};
use crate::qos;
use crate::runtime::{Core, Retree, Sleep, retree};

impl Run<'_> {
    /// Puts the host on another tree, or leaves everything as it was.
    pub(super) fn interfaces(&mut self, to: &Tree) -> Result<(), StepError> {
        self.leave_tags(to)?;
        let seed = u128::from_ne_bytes(build::seed()?) as u64;
        let mut rates = self.shared.qos.lock();
        let mut guards = Vec::new();
        // In the order in which nobody waits for another.
        for worker in &self.shared.workers {
            guards.push(worker.lock_running().map_err(StepError::Stopped)?);
        }
        let now = self.shared.home().clock.now();
        let (known, nics) = (&self.changing.aliases, &self.next.nics);
        let next =
            Retree::new(&guards[0], (&self.changing.tree, to), known, |number, place, view| {
                build::alias_config((number, &known[number].name), place, nics, view)
            })?;
        let plan = self.relinked(&rates, &next);
        let active = !(plan.is_empty() && rates.is_empty());
        let mut cores: Vec<&mut Core> = guards.iter_mut().map(|core| &mut **core).collect();
        let shaped = active.then_some(&plan);
        let lldp = self.next.lldp;
        let station = |tree: &Tree, macs: &[Mac]| build::station(tree, macs, lldp);
        retree(&mut cores, now, &next, (shaped, seed), station);
        *rates = Arc::new(plan);
        for (worker, mut core) in self.shared.workers.iter().zip(guards) {
            core.sleep = Sleep::Awake;
            drop(core);
            worker.wake();
        }
        (self.changing.aliases, self.changing.tree) = (next.aliases, next.tree);
        drop(rates);
        // A group that was put back knows none.
        self.host.follow_routers(&self.host.config());
        Ok(())
    }

    /// Rates of the vservers that run, over the links of another tree.
    fn relinked(&self, rates: &qos::Plan, next: &Retree) -> qos::Plan {
        let live = self.shared.live();
        let lanes: Vec<Vec<usize>> = next.lanes().into_iter().map(|lane| vec![lane]).collect();
        let slots = live.nodes.iter().map(|id| id.index as usize + 1).max().unwrap_or(0);
        let mut links = vec![Vec::new(); slots];
        for (id, v) in live.nodes.iter().zip(&live.config.vservers) {
            links[id.index as usize] = qos::nics_of(v, &lanes);
        }
        let names = next.tree.links.iter().map(|link| {
            let name = link.name.to_string();
            // Of a bond that is put back; what is new has its rates with the other configuration.
            let rates = qos::rates_of(&live.config, &name);
            (name, rates)
        });
        rates.relinked(names.chain([(String::new(), Both::default())]), links.into_iter())
    }

    /// NICs that get their first VLAN leave tags in frames, where AF_XDP finds them.
    fn leave_tags(&self, to: &Tree) -> Result<(), StepError> {
        for (number, nic) in self.next.nics.iter().enumerate() {
            let before = build::is_tagged(&self.changing.tree, number);
            if nic.driver != Driver::AfXdp || before || !build::is_tagged(to, number) {
                continue;
            }
            set_vlan_stripping(&nic.device, false).map_err(|e| HostError::Config {
                object: format!("nic {}", nic.name),
                problem: format!(
                    "it takes tags out of frames, and the daemon may not change that: {e}"
                ),
                hint: format!("ethtool -K {} rxvlan off, then try again", nic.device),
            })?;
        }
        Ok(())
    }
}

fn ports(tree: &Tree, links: &[LinkId]) -> String {
    links.iter().map(|link| tree.at(*link).name.to_string()).collect::<Vec<_>>().join(", ")
}

fn bond_text(tree: &Tree, bond: &tree::Bond) -> String {
    format!("bond {} [{}]", tree.at(bond.link).name, ports(tree, &bond.ports))
}

fn group_text(tree: &Tree, group: &tree::Group) -> String {
    format!("fail {} [{}]", tree.at(group.link).name, ports(tree, &group.members))
}

/// What differs between two trees, as an operator reads it.
pub(super) fn lines(from: &Tree, to: &Tree) -> Vec<Line> {
    let known = |tree: &Tree, name| tree.link(name).is_some();
    let gone = from.links.iter().filter(|l| !known(to, &l.name));
    let come = to.links.iter().filter(|l| !known(from, &l.name));
    let mut lines: Vec<Line> = gone.map(|l| host('-', link_text(from, l))).collect();
    lines.extend(come.map(|l| host('+', link_text(to, l))));
    lines.extend(settings(from, to));
    lines.extend(priorities(from, to));
    lines.extend(aliases(from, to));
    if lines.is_empty() {
        lines.push(host('~', "order of interfaces"));
    }
    lines
}

/// Of bonds and groups that both have.
fn settings(from: &Tree, to: &Tree) -> Vec<Line> {
    let mut lines = Vec::new();
    for b in &to.bonds {
        let name = &to.at(b.link).name;
        if let Some(a) = from.bonds.iter().find(|a| from.at(a.link).name == *name) {
            lines.extend(changed_fields(&format!("bond.{name}"), &a.config, &b.config));
        }
    }
    for b in &to.groups {
        let name = &to.at(b.link).name;
        if let Some(a) = from.groups.iter().find(|a| from.at(a.link).name == *name) {
            lines.extend(changed_fields(&format!("fail.{name}"), &a.config, &b.config));
        }
    }
    lines
}

/// Of VLANs that both have.
fn priorities(from: &Tree, to: &Tree) -> Vec<Line> {
    let priority = |link: &tree::Link| match link.kind {
        tree::LinkKind::Vlan { priority, .. } => Some(priority.unwrap_or(0)),
        _ => None,
    };
    let line = |b: &tree::Link| {
        let a = from.links.iter().find(|a| a.name == b.name)?;
        let (a, b_) = (priority(a)?, priority(b)?);
        (a != b_).then(|| host('~', format!("vlan {} priority {a} -> {b_}", b.name)))
    };
    to.links.iter().filter_map(line).collect()
}

/// Where aliases stand, and what they are bound to.
fn aliases(from: &Tree, to: &Tree) -> Vec<Line> {
    let mac = |alias: &tree::Alias| {
        alias.mac.map_or_else(|| String::from("the link's"), crate::stats::mac_text)
    };
    let mut lines = Vec::new();
    for (a, b) in from.aliases.iter().zip(&to.aliases) {
        let (on_a, on_b) = (&from.at(a.link).name, &to.at(b.link).name);
        if on_a != on_b {
            lines.push(host('~', format!("alias {} over {on_a} -> {on_b}", b.name)));
        }
        if a.mac != b.mac {
            lines.push(host('~', format!("alias {} mac {} -> {}", b.name, mac(a), mac(b))));
        }
    }
    for b in &to.aliases {
        let none = BeyondConfig::default();
        let a = from.aliases.iter().find(|a| a.name == b.name).map_or(&none, |a| &a.beyond);
        lines.extend(changed_fields(&format!("alias.{} beyond", b.name), a, &b.beyond));
    }
    lines
}

fn link_text(tree: &Tree, link: &tree::Link) -> String {
    match link.kind {
        tree::LinkKind::Bond(bond) => bond_text(tree, &tree.bonds[bond]),
        tree::LinkKind::Group(group) => group_text(tree, &tree.groups[group]),
        tree::LinkKind::Vlan { .. } => format!("vlan {}", link.name),
        tree::LinkKind::Nic(_) => format!("nic {}", link.name),
    }
}
