//! The moment in which another configuration is in force, and what follows from it as a whole.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::execute::{Run, StepError};
use super::plan::by_name;
use crate::config::{HostConfig, Vserver};
use crate::host::{Host, Live, ShimChange};
use crate::runtime::NodeId;

/// A part of a daemon beside its host that does what the configuration says: registration,
/// multicast DNS.
pub trait Follower: Send + Sync {
    /// What it is, to tell of failures.
    fn name(&self) -> &'static str;

    /// Does what [`Host::config`] says from now on. Vservers that are no longer in it still have
    /// their addresses, and are removed when this has returned: what is to be said in their name is
    /// said before, within a few seconds. Called again with what was in force before if this, or
    /// anything after it, fails.
    ///
    /// # Errors
    /// If it cannot: then nothing of the change stays.
    fn follow(&self, host: &Host) -> io::Result<()>;
}

/// What is done about a part that cannot follow.
type Failed<'a> = dyn FnMut(StepError) -> Result<(), StepError> + 'a;

impl Run<'_> {
    /// Puts the other configuration in force, or leaves the one that is.
    pub(super) fn publish(&mut self) -> Result<(), StepError> {
        let before = Arc::clone(&self.now);
        let Err(failure) = self.put_in_force(&mut Err) else { return Ok(()) };
        if Arc::ptr_eq(&before, &self.now) {
            return Err(failure);
        }
        // What was in force a moment ago. What of it cannot be put back keeps nothing else from it.
        let mut left = Vec::new();
        self.put_in_force(&mut |e| {
            left.push(e.to_string());
            Ok(())
        })?;
        if left.is_empty() {
            return Err(failure);
        }
        Err(StepError::Between { failure: Box::new(failure), undo: left.join("; ") })
    }

    /// `failed` is given what cannot be done, and says whether that is the end of it.
    fn put_in_force(&mut self, failed: &mut Failed<'_>) -> Result<(), StepError> {
        // Files are read before anything is changed.
        let shims = self.read_shims(failed)?;
        let live = self.shared.live();
        let nodes: Vec<NodeId> = self.next.vservers.iter().map(|v| self.id(&v.name)).collect();
        self.set_qos(&nodes).or_else(&mut *failed)?;
        self.shared.publish(Live::new(live.generation + 1, Arc::clone(&self.next), nodes));
        std::mem::swap(&mut self.next, &mut self.now);
        self.set_any().or_else(&mut *failed)?;
        self.set_names(&live.config);
        self.set_neighbours(&live.config).or_else(&mut *failed)?;
        self.set_shims(shims).or_else(&mut *failed)?;
        if let Some(services) = self.services {
            let (from, to) = (&live.config.services, &self.now.services);
            let done = services.update_any(self.host, from, to).map_err(StepError::from);
            done.or_else(&mut *failed)?;
        }
        self.set_access(&live.config);
        if self.now.vservers.iter().chain(&self.next.vservers).any(|v| !v.dhcp.is_empty()) {
            self.host.update_dhcp(&self.now).map_err(StepError::from).or_else(&mut *failed)?;
        }
        self.host.follow_routers(&self.now);
        let lldp = self.now.lldp.config();
        self.on(0, |core, now| core.set_lldp(now, lldp)).or_else(&mut *failed)?;
        for follower in self.followers {
            let part = follower.name();
            let done = follower.follow(self.host);
            done.map_err(|source| StepError::Part { part, source }).or_else(&mut *failed)?;
        }
        Ok(())
    }

    /// Vservers hear the listeners of the groups they are in now.
    fn set_any(&self) -> Result<(), StepError> {
        let any = &self.shared.any;
        any.add_groups(&self.now);
        if self.now.groups.is_empty() && self.next.groups.is_empty() {
            return Ok(());
        }
        let before: HashMap<&str, &Vserver> = by_name(&self.next);
        for v in &self.now.vservers {
            let chain = self.now.group_names(v.group);
            let old = before.get(v.name.as_str());
            if old.is_none_or(|old| self.next.group_names(old.group) == chain) {
                continue;
            }
            let (id, scopes) = (self.id(&v.name), any.scopes(&self.now, v));
            for worker in self.order() {
                self.on(worker, |core, now| {
                    if let Some(node) = core.node_mut(id) {
                        node.stack.set_any(now, &scopes);
                        core.mark_dirty(id.index);
                        core.run_now(now, id.index);
                    }
                })?;
            }
        }
        Ok(())
    }

    /// Shared neighbour tables, and who uses them, follow what is configured now.
    fn set_neighbours(&self, before: &HostConfig) -> Result<(), StepError> {
        let id = |name: &str| self.id(name);
        for worker in self.order() {
            self.on(worker, |core, now| {
                crate::host::follow_neighbours(core, now, (before, &self.now), id);
            })?;
        }
        Ok(())
    }

    /// What becomes of shims, whose files can be read.
    fn read_shims(&self, failed: &mut Failed<'_>) -> Result<Vec<(NodeId, ShimChange)>, StepError> {
        let (old, mut changes) = (by_name(&self.now), Vec::new());
        for v in &self.next.vservers {
            let Some(old) = old.get(v.name.as_str()) else { continue };
            match ShimChange::of(old, v) {
                Ok(change) => changes.extend(change.map(|change| (self.id(&v.name), change))),
                Err(why) => failed(StepError::Part {
                    part: "shim",
                    source: io::Error::other(format!("vserver {}: {why}", v.name)),
                })?,
            }
        }
        Ok(changes)
    }

    /// Shims follow their tables, and their locators the addresses that are configured now.
    fn set_shims(&self, changes: Vec<(NodeId, ShimChange)>) -> Result<(), StepError> {
        for (id, change) in changes {
            let worker = self.shared.flows_of(id.index).unwrap_or(0);
            self.on(worker, |core, now| change.apply(core, now, id))?;
        }
        Ok(())
    }

    /// Access rules follow what is configured now.
    fn set_access(&self, before: &HostConfig) {
        let old = by_name(before);
        let shared = before.access != self.now.access || before.aliases != self.now.aliases;
        for v in &self.now.vservers {
            if shared || old.get(v.name.as_str()).is_none_or(|old| old.access != v.access) {
                let _order = self.shared.named_clients.in_order();
                self.shared.update_access(&self.now, self.id(&v.name), v);
            }
        }
    }

    /// Resolvers and gateways with names follow what is configured now.
    fn set_names(&self, before: &HostConfig) {
        let (config, before) = (before, by_name(before));
        for v in &self.now.vservers {
            let old = before.get(v.name.as_str());
            let handle = || crate::Vserver::new(Arc::clone(self.shared), self.id(&v.name), &v.name);
            if old.map_or(&Vserver::default().dns, |old| &old.dns) != &v.dns {
                handle().set_dns(v.dns.clone());
                self.host.retell_dhcp(&v.name);
            }
            if old.is_none_or(|old| old.connect != v.connect) {
                self.shared.connects.set(self.id(&v.name).index, &v.connect);
            }
            if old.map_or(&[][..], |old| &old.named_routes) != v.named_routes {
                self.shared.named_routes.set(&handle(), &v.named_routes);
            }
            let names = self.now.client_names(v);
            if !names.is_empty() || old.is_some_and(|old| !config.client_names(old).is_empty()) {
                self.shared.named_clients.set(&handle(), &names);
                self.shared.refresh_clients(self.id(&v.name));
            }
        }
    }

    /// Rates, shares and classes by the slots of vservers.
    fn set_qos(&self, nodes: &[NodeId]) -> Result<(), StepError> {
        let mut held = self.shared.qos.lock();
        let slots = nodes.iter().map(|id| id.index as usize + 1).max().unwrap_or(0);
        let mut slotted =
            HostConfig { vservers: vec![Vserver::default(); slots], ..(*self.next).clone() };
        for (id, v) in nodes.iter().zip(&self.next.vservers) {
            let slot = &mut slotted.vservers[id.index as usize];
            slot.clone_from(v);
            self.shared.named_clients.answers.fill_qos(id.index, &mut slot.qos);
        }
        let plan = crate::qos::plan(&slotted, Some(&held));
        if plan.is_empty() && held.is_empty() {
            return Ok(());
        }
        for worker in self.order() {
            self.on(worker, |core, now| core.set_qos(now, &plan))?;
        }
        *held = plan;
        Ok(())
    }
}
