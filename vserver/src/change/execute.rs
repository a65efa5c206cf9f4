//! Doing one step on a running host: on all workers, or on none.

use std::collections::HashMap;
use std::sync::Arc;

use weft_stack::admission::Rules;
use weft_stack::ip::address::{AddressState, AliasId, AliasMedium, Cidr, Origin};
use weft_stack::ip::route::Route;
use weft_stack::stack::{Change, ChangeError, Limits};
use weft_stack::time::Instant;

use super::plan::{Place, Step};
use crate::config::{Alias, HostConfig, RouteSpec, Vserver};
use crate::host::{Changing, Host, HostError, Live, Shared, build};
use crate::runtime::{AliasPlace, Core, NodeId};
use crate::service::{ServiceError, Services};
use crate::stats::VserverSnapshot;

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The host refused it.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A service did not start.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The host has stopped.
    #[error("the host has stopped: {0}")]
    Stopped(std::io::Error),
    /// A test wanted it.
    #[error("failed on purpose")]
    OnPurpose,
}

/// A change on its way.
pub(super) struct Run<'a> {
    pub(super) host: &'a Host,
    pub(super) shared: &'a Arc<Shared>,
    pub(super) services: Option<&'a Services>,
    pub(super) changing: &'a mut Changing,
    /// Where vservers are, those of both configurations.
    pub(super) nodes: HashMap<String, NodeId>,
    /// What [`Step::Publish`] publishes; the other one afterwards.
    pub(super) next: Arc<HostConfig>,
    pub(super) now: Arc<HostConfig>,
    /// Last statistics of vservers that were removed.
    pub(super) removed: Vec<VserverSnapshot>,
}

fn change_error(
    vserver: &str,
    operation: &'static str,
    object: &dyn ToString,
) -> impl Fn(ChangeError) -> StepError {
    let (vserver, object) = (vserver.to_owned(), object.to_string());
    move |source| {
        let (vserver, object) = (vserver.clone(), object.clone());
        StepError::Host(HostError::Change { vserver, operation, object, source })
    }
}

fn route(r: &RouteSpec) -> Route {
    build::route(r)
}

impl<'a> Run<'a> {
    pub(super) fn new(
        host: &'a Host,
        services: Option<&'a Services>,
        changing: &'a mut Changing,
        next: Arc<HostConfig>,
    ) -> Run<'a> {
        let shared = &host.shared;
        let live = shared.live();
        let (nodes, now) = (live.names.clone(), Arc::clone(&live.config));
        Run { host, shared, services, changing, nodes, next, now, removed: Vec::new() }
    }

    /// Does one step whole, or leaves everything as it was.
    pub(super) fn perform(&mut self, step: &Step) -> Result<(), StepError> {
        match step {
            Step::AliasAdd { number, alias } => self.alias_add(*number, alias),
            Step::AliasRemove { number, .. } => self.alias_remove(*number),
            Step::AliasMtu { number, name, to, .. } => self.alias_mtu(*number, name, *to),
            Step::VserverAdd(v) => self.vserver_add(v),
            Step::VserverRemove(v) => self.vserver_remove(&v.name),
            Step::Limits { vserver, to, .. } => self.limits(vserver, to),
            Step::Tcp { vserver, to, .. } => {
                self.change(vserver, "set TCP defaults", &"", &Change::Tcp(to.clone()), None)
            }
            Step::Attach { vserver, alias, slaac, forwarding } => {
                self.attach(vserver, *alias, *slaac, *forwarding)
            }
            Step::Detach { vserver, alias, .. } => self.detach(vserver, *alias),
            Step::Slaac { vserver, alias, on } => {
                let alias = AliasId(*alias as u16);
                let change = |on| Change::AliasSlaac { alias, on };
                self.change(
                    vserver,
                    "set slaac of",
                    &self.alias_name(alias),
                    &change(*on),
                    Some(&change(!on)),
                )
            }
            Step::Forwarding { vserver, on } => self.forwarding(vserver, *on),
            Step::AddressAdd(place) => self.address_add(place),
            Step::AddressRemove(place) => self.address_remove(place),
            Step::AddressMove { from, to } => self.address_move(from, to),
            Step::Prefix { from, to } => self.prefix(from, *to),
            Step::Route { vserver, from, to } => self.route(vserver, from.as_ref(), to.as_ref()),
            Step::Services { vserver, from, to } => self.services(vserver, from, to),
            Step::Publish => self.publish(),
        }
    }

    fn alias_name(&self, alias: AliasId) -> String {
        self.changing.aliases.get(alias.0 as usize).map_or_else(String::new, |a| a.name.clone())
    }

    /// The other workers first: what the home tells them finds them ready.
    fn order(&self) -> impl Iterator<Item = usize> + use<> {
        (0..self.shared.workers.len()).rev()
    }

    fn on<R>(
        &self,
        worker: usize,
        f: impl FnOnce(&mut Core, Instant) -> R,
    ) -> Result<R, StepError> {
        let inside = |core: &mut Core, now| {
            let _inside = core.enter();
            f(core, now)
        };
        self.shared.workers[worker].with_core(inside).map_err(StepError::Stopped)
    }

    /// Does something on all workers; where it failed, `undo` is done on those before.
    fn on_all(
        &self,
        mut f: impl FnMut(&mut Core, Instant) -> Result<(), StepError>,
        mut undo: impl FnMut(&mut Core, Instant),
    ) -> Result<(), StepError> {
        let mut done = Vec::new();
        for worker in self.order() {
            if let Err(e) = self.on(worker, &mut f).and_then(|r| r) {
                for worker in done.into_iter().rev() {
                    self.on(worker, &mut undo)?;
                }
                return Err(e);
            }
            done.push(worker);
        }
        Ok(())
    }

    fn id(&self, vserver: &str) -> NodeId {
        // A plan names vservers of its two configurations, and these are there.
        self.nodes.get(vserver).copied().unwrap_or_default()
    }

    /// One change of every shard of a vserver's stack.
    fn change(
        &self,
        vserver: &str,
        operation: &'static str,
        object: &dyn ToString,
        change: &Change,
        undo: Option<&Change>,
    ) -> Result<(), StepError> {
        let error = change_error(vserver, operation, object);
        let id = self.id(vserver);
        self.on_all(
            |core, now| configure(core, now, id, change.clone()).map_err(&error),
            |core, now| {
                if let Some(undo) = undo {
                    // It undoes what was done a moment ago.
                    let _ = configure(core, now, id, undo.clone());
                }
            },
        )
    }

    fn publish(&mut self) -> Result<(), StepError> {
        let live = self.shared.live();
        let nodes = self.next.vservers.iter().map(|v| self.id(&v.name)).collect();
        let nodes: Vec<NodeId> = nodes;
        self.set_qos(&nodes)?;
        self.shared.publish(Live::new(live.generation + 1, Arc::clone(&self.next), nodes));
        std::mem::swap(&mut self.next, &mut self.now);
        self.set_names(&live.config);
        self.set_access(&live.config);
        if self.now.vservers.iter().chain(&self.next.vservers).any(|v| !v.dhcp.is_empty()) {
            self.host.update_dhcp(&self.now)?;
        }
        Ok(())
    }

    /// Access rules follow what is configured now.
    fn set_access(&self, before: &HostConfig) {
        let old: HashMap<&str, &Vserver> =
            before.vservers.iter().map(|v| (v.name.as_str(), v)).collect();
        let shared = before.access != self.now.access || before.aliases != self.now.aliases;
        for v in &self.now.vservers {
            if shared || old.get(v.name.as_str()).is_none_or(|old| old.access != v.access) {
                self.shared.update_access(&self.now, self.id(&v.name), v);
            }
        }
    }

    /// Resolvers and gateways with names follow what is configured now.
    fn set_names(&self, before: &HostConfig) {
        let before: HashMap<&str, &Vserver> =
            before.vservers.iter().map(|v| (v.name.as_str(), v)).collect();
        for v in &self.now.vservers {
            let old = before.get(v.name.as_str());
            let handle = || crate::Vserver::new(Arc::clone(self.shared), self.id(&v.name), &v.name);
            if old.map_or(&Vserver::default().dns, |old| &old.dns) != &v.dns {
                handle().set_dns(v.dns.clone());
            }
            if old.map_or(&[][..], |old| &old.named_routes) != v.named_routes {
                self.shared.named_routes.set(&handle(), &v.named_routes);
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
            slotted.vservers[id.index as usize] = v.clone();
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

    fn alias_add(&mut self, number: usize, alias: &Alias) -> Result<(), StepError> {
        let nic = &self.next.nics[alias.nic];
        let made =
            self.on(0, |core, _| build::alias_config(number, alias, nic, &core.nics[alias.nic]))??;
        let id = AliasId(number as u16);
        let mac = match made.medium {
            AliasMedium::Ethernet { mac } => Some(mac),
            AliasMedium::Ip => None,
        };
        self.changing.aliases.truncate(number);
        self.changing.aliases.push(made);
        let place = AliasPlace { nic: alias.nic, mtu: alias.mtu };
        self.on_all(
            |core, _| {
                core.add_alias(id, place, mac);
                Ok(())
            },
            |core, _| core.remove_alias(id),
        )
    }

    fn alias_remove(&mut self, number: usize) -> Result<(), StepError> {
        self.changing.aliases.truncate(number);
        self.on_all(
            |core, _| {
                core.remove_alias(AliasId(number as u16));
                Ok(())
            },
            |_, _| {},
        )
    }

    fn alias_mtu(&mut self, number: usize, name: &str, to: Option<usize>) -> Result<(), StepError> {
        let alias = AliasId(number as u16);
        let nic = self.next.aliases[number].nic;
        let largest = self.on(0, |core, _| core.nics[nic].link.mtu)?;
        if let Some(mtu) = to.filter(|mtu| *mtu > largest) {
            return Err(StepError::Host(HostError::Config {
                object: format!("alias {name}"),
                problem: format!("MTU {mtu} is larger than the {largest} of its NIC"),
                hint: String::from("lower it, or raise the NIC's"),
            }));
        }
        self.changing.aliases[number].mtu = to.unwrap_or(largest);
        self.on_all(
            |core, now| {
                core.set_alias_mtu(now, alias, to);
                Ok(())
            },
            |_, _| {},
        )
    }

    fn vserver_add(&mut self, v: &Vserver) -> Result<(), StepError> {
        let id = self.changing.take_slot();
        let seed = build::seed()?;
        let counts = Arc::default();
        let mut aliases = self.changing.aliases.clone();
        self.on(0, |core, _| aliases.iter_mut().for_each(|a| core.refresh_link(a)))?;
        let ports = self.shared.any.scopes(&self.next, v);
        // Before its first packet.
        let mut access = self.shared.access.lock();
        let slot = id.index as usize;
        access.update(&self.next, slot, (&v.name, &v.access));
        let guard = access.guard(slot);
        drop(access);
        let added = self.on_all(
            |core, now| {
                let place = (id, &ports, &self.shared.tables);
                let added = build::add_vserver(core, v, &aliases, place, (seed, &counts, now));
                if added.is_err() {
                    core.unattach(id, v);
                }
                if let Some((node, guard)) = core.node_mut(id).zip(guard.clone()) {
                    let rules: Arc<dyn Rules> = guard;
                    node.stack.set_access(Some(rules));
                }
                Ok(added?)
            },
            |core, now| core.vacate(now, id),
        );
        match added {
            Ok(()) => drop(self.nodes.insert(v.name.clone(), id)),
            Err(_) => self.changing.free_slot(id),
        }
        added
    }

    fn vserver_remove(&mut self, name: &str) -> Result<(), StepError> {
        let id = self.id(name);
        self.removed.extend(crate::stats::of_vserver(self.shared, &self.now, id, name));
        // The home first: it gives up what is steered.
        for worker in 0..self.shared.workers.len() {
            self.on(worker, |core, now| core.vacate(now, id))?;
        }
        let handle = crate::Vserver::new(Arc::clone(self.shared), id, name);
        self.shared.named_routes.set(&handle, &[]);
        self.shared.resolvers.forget(id.index);
        self.nodes.remove(name);
        self.changing.free_slot(id);
        Ok(())
    }

    fn attach(
        &mut self,
        vserver: &str,
        alias: usize,
        slaac: bool,
        forwarding: bool,
    ) -> Result<(), StepError> {
        let id = self.id(vserver);
        let mut config = self.changing.aliases[alias].clone();
        config.slaac = slaac;
        let name = config.name.clone();
        let error = change_error(vserver, "attach to alias", &name);
        let alias = AliasId(alias as u16);
        self.on_all(
            |core, now| {
                if forwarding && !core.demux.set_forwarder(alias, id.index) {
                    return Err(StepError::Host(build::forwards_already(vserver, &name)));
                }
                let mut config = config.clone();
                core.refresh_link(&mut config);
                let done = configure(core, now, id, Change::AliasAdd(config)).map_err(&error);
                if done.is_ok() {
                    core.demux.attach(alias, id.index);
                    core.set_nics(id.index);
                }
                done
            },
            |core, now| core.detach(now, id.index, alias),
        )
    }

    fn detach(&mut self, vserver: &str, alias: usize) -> Result<(), StepError> {
        let id = self.id(vserver);
        for worker in self.order() {
            self.on(worker, |core, now| core.detach(now, id.index, AliasId(alias as u16)))?;
        }
        Ok(())
    }

    fn limits(&mut self, vserver: &str, limits: &Limits) -> Result<(), StepError> {
        let id = self.id(vserver);
        self.change(vserver, "set limits", &"", &Change::Limits(Box::new(limits.clone())), None)?;
        for worker in self.order() {
            self.on(worker, |core, _| core.set_share(id, limits))?;
        }
        Ok(())
    }

    fn forwarding(&mut self, vserver: &str, on: bool) -> Result<(), StepError> {
        let id = self.id(vserver);
        self.on_all(
            |core, now| {
                let aliases = core.aliases_of(id);
                if let Some(taken) =
                    aliases.iter().find(|a| on && !core.demux.may_forward(**a, id.index))
                {
                    let name = self.alias_name(*taken);
                    return Err(StepError::Host(build::forwards_already(vserver, &name)));
                }
                set_forwarding(core, now, id, on);
                Ok(())
            },
            |core, now| set_forwarding(core, now, id, !on),
        )
    }

    fn address_add(&mut self, place: &Place) -> Result<(), StepError> {
        let id = self.id(&place.vserver);
        let error = change_error(&place.vserver, "add address", &place.cidr);
        self.on_all(
            |core, now| add_address(core, now, id, place).map_err(&error),
            |core, now| drop(remove_address(core, now, id, place)),
        )
    }

    fn address_remove(&mut self, place: &Place) -> Result<(), StepError> {
        let id = self.id(&place.vserver);
        let error = change_error(&place.vserver, "remove address", &place.cidr);
        self.on_all(
            |core, now| remove_address(core, now, id, place).map_err(&error),
            |core, now| drop(add_address(core, now, id, place)),
        )
    }

    fn address_move(&mut self, from: &Place, to: &Place) -> Result<(), StepError> {
        let (giver, taker) = (self.id(&from.vserver), self.id(&to.vserver));
        let error = change_error(&to.vserver, "take address", &to.cidr);
        self.on_all(
            |core, now| {
                remove_address(core, now, giver, from).map_err(&error)?;
                let taken = take_address(core, now, taker, to).map_err(&error);
                if taken.is_err() {
                    let _ = take_address(core, now, giver, from);
                }
                taken
            },
            |core, now| {
                let _ = remove_address(core, now, taker, to);
                let _ = take_address(core, now, giver, from);
            },
        )
    }

    fn prefix(&mut self, from: &Place, to: Cidr) -> Result<(), StepError> {
        let id = self.id(&from.vserver);
        let error = change_error(&from.vserver, "change the network of", &from.cidr);
        let alias = AliasId(from.alias as u16);
        self.on_all(
            |core, now| set_prefix(core, now, id, alias, (from.cidr, to)).map_err(&error),
            |core, now| drop(set_prefix(core, now, id, alias, (to, from.cidr))),
        )
    }

    fn route(
        &mut self,
        vserver: &str,
        from: Option<&RouteSpec>,
        to: Option<&RouteSpec>,
    ) -> Result<(), StepError> {
        let (from, to) = (from.map(route), to.map(route));
        let (operation, object, change) = match (&to, &from) {
            (Some(to), _) => ("add route to", to.prefix, Change::RouteAdd(*to)),
            (None, Some(from)) => ("remove route to", from.prefix, Change::RouteRemove(*from)),
            (None, None) => return Ok(()),
        };
        let undo = match (to, from) {
            (_, Some(from)) => Change::RouteAdd(from),
            (Some(to), None) => Change::RouteRemove(to),
            (None, None) => return Ok(()),
        };
        self.change(vserver, operation, &object, &change, Some(&undo))
    }

    fn services(
        &mut self,
        vserver: &str,
        from: &[crate::config::Service],
        to: &[crate::config::Service],
    ) -> Result<(), StepError> {
        let Some(services) = self.services else { return Ok(()) };
        let handle = crate::Vserver::new(Arc::clone(self.shared), self.id(vserver), vserver);
        let described = |c: &HostConfig| c.vservers.iter().find(|v| v.name == vserver).cloned();
        let Some(v) = described(&self.next).or_else(|| described(&self.now)) else { return Ok(()) };
        Ok(services.update(&handle, &v, from, to)?)
    }
}

fn configure(core: &mut Core, now: Instant, id: NodeId, change: Change) -> Result<(), ChangeError> {
    let Some(node) = core.node_mut(id) else { return Ok(()) };
    let done = node.stack.handle_config(now, change);
    core.mark_dirty(id.index);
    core.run_now(now, id.index);
    done
}

fn set_forwarding(core: &mut Core, now: Instant, id: NodeId, on: bool) {
    for alias in core.aliases_of(id) {
        if on {
            core.demux.set_forwarder(alias, id.index);
        } else {
            core.demux.clear_forwarder(alias, id.index);
        }
    }
    // Nothing a stack can object to.
    let _ = configure(core, now, id, Change::Forwarding(on));
}

fn add_address(
    core: &mut Core,
    now: Instant,
    id: NodeId,
    place: &Place,
) -> Result<(), ChangeError> {
    let (alias, cidr) = (AliasId(place.alias as u16), place.cidr);
    match configure(core, now, id, Change::AddressAdd { alias, cidr }) {
        // The home may have told this worker first.
        Err(ChangeError::AddressExists(_)) if !core.mesh.is_home() => {}
        done => done?,
    }
    core.join_broadcast(id, alias, cidr);
    Ok(())
}

fn remove_address(
    core: &mut Core,
    now: Instant,
    id: NodeId,
    place: &Place,
) -> Result<(), ChangeError> {
    let (alias, addr) = (AliasId(place.alias as u16), place.cidr.addr);
    match configure(core, now, id, Change::AddressRemove { alias, addr }) {
        Err(ChangeError::NoAddress(_)) if !core.mesh.is_home() => {}
        done => done?,
    }
    core.leave_broadcast(id, alias, place.cidr);
    Ok(())
}

/// An address that this host has had: it is used at once, whatever asks the link meanwhile whether
/// somebody else has it.
fn take_address(
    core: &mut Core,
    now: Instant,
    id: NodeId,
    place: &Place,
) -> Result<(), ChangeError> {
    add_address(core, now, id, place)?;
    let alias = AliasId(place.alias as u16);
    let Some(node) = core.node(id) else { return Ok(()) };
    let mut addresses = node.stack.addresses(alias).to_vec();
    for a in addresses.iter_mut().filter(|a| a.cidr.addr == place.cidr.addr) {
        if a.origin == Origin::Static && a.state == AddressState::Tentative {
            a.state = AddressState::Preferred;
        }
    }
    configure(core, now, id, Change::AddressesAdopt { alias, addresses })
}

fn set_prefix(
    core: &mut Core,
    now: Instant,
    id: NodeId,
    alias: AliasId,
    (from, to): (Cidr, Cidr),
) -> Result<(), ChangeError> {
    configure(core, now, id, Change::AddressPrefix { alias, cidr: to })?;
    core.leave_broadcast(id, alias, from);
    core.join_broadcast(id, alias, to);
    Ok(())
}
