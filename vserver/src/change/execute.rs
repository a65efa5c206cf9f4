//! Doing one step on a running host: on all workers, or on none.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use weft_stack::admission::Rules;
use weft_stack::ip::address::{AliasId, AliasMedium, Cidr};
use weft_stack::ip::route::Route;
use weft_stack::stack::{Change, ChangeError, Limits};
use weft_stack::time::Instant;

use super::plan::{Place, Ruling, Step};
use super::publish::Follower;
use crate::config::{Alias, Conflicts, HostConfig, RouteSpec, Vserver};
use crate::host::tables::{self, change_error as table_error};
use crate::host::{Changing, Host, HostError, Shared, build};
use crate::interface::LinkId;
use crate::runtime::{AliasPlace, Core, HostStack, LinksView, NodeId};
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
    /// A part of the daemon that follows the configuration could not.
    #[error("{part}: {source}")]
    Part {
        /// Which.
        part: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Neither it nor what was before could be done whole.
    #[error("{failure}")]
    Between {
        /// Why it was not done.
        failure: Box<StepError>,
        /// What of the configuration before is not in force again, and why.
        undo: String,
    },
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
    pub(super) followers: &'a [Arc<dyn Follower>],
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
        (services, followers): (Option<&'a Services>, &'a [Arc<dyn Follower>]),
        changing: &'a mut Changing,
        next: Arc<HostConfig>,
    ) -> Run<'a> {
        let shared = &host.shared;
        let live = shared.live();
        let (nodes, now) = (live.names.clone(), Arc::clone(&live.config));
        let removed = Vec::new();
        Run { host, shared, services, followers, changing, nodes, next, now, removed }
    }

    /// Does one step whole, or leaves everything as it was.
    pub(super) fn perform(&mut self, step: &Step) -> Result<(), StepError> {
        match step {
            Step::Interfaces { to, .. } => self.interfaces(to),
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
            Step::Conflicts { place, to } => self.conflicts(place, *to),
            Step::Table { name, to, .. } => self.table(name, to.as_deref()),
            Step::Rules { vserver, from, to } => self.rules(vserver, from, to),
            Step::Services { vserver, from, to } => self.services(vserver, from, to),
            Step::Publish => self.publish(),
        }
    }

    fn alias_name(&self, alias: AliasId) -> String {
        self.changing.aliases.get(alias.0 as usize).map_or_else(String::new, |a| a.name.clone())
    }

    /// The other workers first: what the home tells them finds them ready.
    pub(super) fn order(&self) -> impl Iterator<Item = usize> + use<> {
        (0..self.shared.workers.len()).rev()
    }

    pub(super) fn on<R>(
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

    /// As [`Run::on_all`], what changes addresses of these vservers: news of the home from before
    /// does not take back what is done on a worker before it.
    fn on_all_of(
        &self,
        vservers: &[NodeId],
        mut f: impl FnMut(&mut Core, Instant) -> Result<(), StepError>,
        undo: impl FnMut(&mut Core, Instant),
    ) -> Result<(), StepError> {
        let edition = self.shared.next_edition();
        let mark = |core: &mut Core| {
            for v in vservers {
                core.set_edition(*v, edition);
            }
        };
        let changed = |core: &mut Core, now: Instant| {
            mark(core);
            f(core, now)?;
            // A vserver that was added is there now.
            mark(core);
            Ok(())
        };
        let done = self.on_all(changed, undo);
        // Done or not, the home says how it is.
        self.on(0, |core, _| {
            mark(core);
            for v in vservers {
                core.tell_edition(*v);
            }
            core.mesh.ring();
        })?;
        done
    }

    pub(super) fn id(&self, vserver: &str) -> NodeId {
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

    fn alias_add(&mut self, number: usize, alias: &Alias) -> Result<(), StepError> {
        let link = self.link_of(alias);
        let nics = &self.next.nics;
        let place = AliasPlace { on: link, mtu: alias.mtu, mac: alias.mac };
        let made = self.on(0, |core, _| {
            let view = LinksView::of(core);
            build::alias_config((number, &alias.name), place, nics, &view)
        })??;
        let id = AliasId(number as u16);
        let mac = match made.medium {
            AliasMedium::Ethernet { mac } => Some(mac),
            AliasMedium::Ip => None,
        };
        self.changing.aliases.truncate(number);
        self.changing.aliases.push(made);
        self.on_all(
            |core, _| {
                core.add_alias(id, place, mac);
                Ok(())
            },
            |core, _| core.remove_alias(id),
        )
    }

    /// The link that carries an alias; nothing if there is none any more, for one that is put back
    /// only to have its link put back too.
    fn link_of(&self, alias: &Alias) -> LinkId {
        let tree = &self.changing.tree;
        let link = alias.link().parse().ok().and_then(|name| tree.link(&name));
        link.unwrap_or(LinkId(tree.links.len() as u16))
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
        let largest = self.on(0, |core, _| {
            core.alias_place(alias).map_or(usize::MAX, |place| core.links[place.link()].mtu)
        })?;
        if let Some(mtu) = to.filter(|mtu| *mtu > largest) {
            return Err(StepError::Host(HostError::Config {
                object: format!("alias {name}"),
                problem: format!("MTU {mtu} is larger than the {largest} of what it stands on"),
                hint: String::from("lower it, or raise that of the NICs below"),
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
        self.shared.any.add_groups(&self.next);
        let ports = self.shared.any.scopes(&self.next, v);
        let workers = self.shared.workers.len();
        let home = build::home(v, &self.shared.pins.read(), workers);
        self.shared.pins.write().set(id.index, home);
        // Before its first packet.
        let mut access = self.shared.access.lock();
        let slot = id.index as usize;
        access.update(&self.next, slot, (&v.name, &v.access));
        let guard = access.guard(slot);
        drop(access);
        let added = self.on_all_of(
            &[id],
            |core, now| {
                let place = (id, home, &ports, &self.shared.tables);
                let added = build::add_vserver(core, v, &aliases, place, (seed, &counts, now));
                if added.is_err() {
                    core.pins.set(id.index, None);
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
        if added.is_ok() {
            self.nodes.insert(v.name.clone(), id);
        } else {
            self.shared.pins.write().set(id.index, None);
            self.changing.free_slot(id);
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
        self.shared.named_clients.set(&handle, &BTreeSet::new());
        self.shared.resolvers.forget(id.index);
        self.shared.connects.forget(id.index);
        self.shared.pins.write().set(id.index, None);
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
        self.on_all_of(
            &[id],
            |core, now| {
                if forwarding && !core.demux.set_forwarder(alias, id.index) {
                    return Err(StepError::Host(build::forwards_already(vserver, &name)));
                }
                let mut config = config.clone();
                core.refresh_link(&mut config);
                let done = configure(core, now, id, Change::AliasAdd(config)).map_err(&error);
                if done.is_ok() {
                    core.demux.attach(alias, id.index);
                    core.set_links(id.index);
                } else if forwarding {
                    core.demux.clear_forwarder(alias, id.index);
                }
                done
            },
            |core, now| core.detach(now, id.index, alias),
        )
    }

    fn detach(&mut self, vserver: &str, alias: usize) -> Result<(), StepError> {
        let id = self.id(vserver);
        let detach = |core: &mut Core, now: Instant| {
            core.detach(now, id.index, AliasId(alias as u16));
            Ok(())
        };
        self.on_all_of(&[id], detach, |_, _| {})
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
        self.on_all_of(
            &[id],
            |core, now| add_address(core, now, id, (place, Coming::New)).map_err(&error),
            |core, now| drop(remove_address(core, now, id, place)),
        )
    }

    fn address_remove(&mut self, place: &Place) -> Result<(), StepError> {
        let id = self.id(&place.vserver);
        let error = change_error(&place.vserver, "remove address", &place.cidr);
        self.on_all_of(
            &[id],
            |core, now| remove_address(core, now, id, place).map_err(&error),
            |core, now| drop(add_address(core, now, id, (place, Coming::New))),
        )
    }

    fn address_move(&mut self, from: &Place, to: &Place) -> Result<(), StepError> {
        let (giver, taker) = (self.id(&from.vserver), self.id(&to.vserver));
        let error = change_error(&to.vserver, "take address", &to.cidr);
        let used = self.on(0, |core, _| uses(core, giver, from))?;
        let how = if used { Coming::Taken } else { Coming::New };
        self.on_all_of(
            &[giver, taker],
            |core, now| {
                remove_address(core, now, giver, from).map_err(&error)?;
                let taken = add_address(core, now, taker, (to, how)).map_err(&error);
                if taken.is_err() {
                    let _ = add_address(core, now, giver, (from, how));
                }
                taken
            },
            |core, now| {
                let _ = remove_address(core, now, taker, to);
                let _ = add_address(core, now, giver, (from, how));
            },
        )
    }

    fn prefix(&mut self, from: &Place, to: Cidr) -> Result<(), StepError> {
        let id = self.id(&from.vserver);
        let error = change_error(&from.vserver, "change the network of", &from.cidr);
        let alias = AliasId(from.alias as u16);
        self.on_all_of(
            &[id],
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

    fn conflicts(&mut self, place: &Place, to: Conflicts) -> Result<(), StepError> {
        let change = |conflicts: Conflicts| {
            let (alias, cidr) = (AliasId(place.alias as u16), place.cidr);
            let terms = conflicts.terms();
            Change::AddressAssign { alias, cidr, terms }
        };
        let operation = "set acd of";
        self.change(
            &place.vserver,
            operation,
            &place.cidr,
            &change(to),
            Some(&change(place.conflicts)),
        )
    }

    fn table(&mut self, name: &str, to: Option<&[RouteSpec]>) -> Result<(), StepError> {
        match to {
            Some(routes) => drop(self.shared.set_table(name, routes).map_err(StepError::Stopped)?),
            None => self.shared.tables.remove(name),
        }
        Ok(())
    }

    fn rules(&mut self, vserver: &str, from: &Ruling, to: &Ruling) -> Result<(), StepError> {
        let id = self.id(vserver);
        let changes = |r: &Ruling| {
            let rules = self.shared.named_clients.answers.expand(id.index, &r.rules);
            self.shared.tables.changes(&r.tables, &rules)
        };
        let (back, forth) = (changes(from), changes(to));
        let put = |core: &mut Core, now: Instant, changes: &[_]| {
            let Some(node) = core.node_mut(id) else { return Ok(()) };
            let done = tables::replace(&mut node.stack, now, changes);
            core.mark_dirty(id.index);
            core.run_now(now, id.index);
            done
        };
        self.on_all(
            |core, now| {
                put(core, now, &forth).map_err(|e| StepError::Host(table_error(vserver, e)))
            },
            // They were there a moment ago.
            |core, now| drop(put(core, now, &back)),
        )
    }

    fn services(
        &mut self,
        vserver: &str,
        from: &[crate::config::Service],
        to: &[crate::config::Service],
    ) -> Result<(), StepError> {
        let Some(services) = self.services else { return Ok(()) };
        let handle = crate::Vserver::new(Arc::clone(self.shared), self.id(vserver), vserver);
        Ok(services.update(&handle, from, to)?)
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

/// Whether an address is new to the host, or another vserver used it a moment ago.
#[derive(Clone, Copy)]
enum Coming {
    New,
    Taken,
}

fn add_address(
    core: &mut Core,
    now: Instant,
    id: NodeId,
    (place, how): (&Place, Coming),
) -> Result<(), ChangeError> {
    let (alias, cidr) = (AliasId(place.alias as u16), place.cidr);
    let terms = place.conflicts.terms();
    let known = core.node(id).is_some_and(|n| has(&n.stack, alias, cidr.addr));
    // The home may have told this worker first.
    if known && core.mesh.is_home() {
        return Err(ChangeError::AddressExists(cidr.addr));
    }
    let change = match how {
        Coming::New => Change::AddressAssign { alias, cidr, terms },
        Coming::Taken => Change::AddressTake { alias, cidr, terms },
    };
    configure(core, now, id, change)?;
    core.join_broadcast(id, alias, cidr);
    Ok(())
}

fn has(stack: &HostStack, alias: AliasId, addr: IpAddr) -> bool {
    stack.addresses(alias).iter().any(|a| a.cidr.addr == addr)
}

/// Whether the vserver uses an address: not while it is tried for duplicates, nor if there is one.
fn uses(core: &Core, id: NodeId, place: &Place) -> bool {
    let addresses = core.node(id).map(|n| n.stack.addresses(AliasId(place.alias as u16)));
    let own = addresses.unwrap_or_default().iter().find(|a| a.cidr.addr == place.cidr.addr);
    own.is_some_and(|a| a.state.usable())
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
