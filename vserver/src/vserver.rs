//! A handle on one virtual server.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use weft_stack::frame::PoolBuf;
use weft_stack::ip::address::AliasId;
use weft_stack::shard::port_owner;

use crate::arrival::VserverId;
use crate::config::{Connect, Dns};
use crate::host::Shared;
use crate::resolver::Resolvers;
use crate::runtime::{NodeId, Worker};

/// A virtual server of a running host: what sockets are made on. Cheap to clone; it does not keep
/// the host running. After the vserver was removed, its calls and those of its sockets fail with
/// `NotConnected`.
#[derive(Clone)]
pub struct Vserver {
    shared: Arc<Shared>,
    id: NodeId,
    name: Arc<str>,
    /// The worker with all its flows; `None`: they are spread. As long as it lives.
    home: Option<usize>,
}

impl fmt::Debug for Vserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Vserver").field(&self.name()).finish()
    }
}

impl Vserver {
    /// Of the vserver that is meant, unless it was removed.
    pub(crate) fn of(shared: &Arc<Shared>, id: NodeId) -> Option<Vserver> {
        let live = shared.live();
        if let Some(at) = live.slots.get(&id.index).filter(|at| live.nodes[**at] == id) {
            let name = &live.config.vservers[*at].name;
            return Some(Vserver::new(Arc::clone(shared), id, name));
        }
        // It is being added.
        let core = shared.home().lock();
        let node = core.node(id)?;
        let name = node.stack.name().to_owned();
        drop(core);
        Some(Vserver::new(Arc::clone(shared), id, &name))
    }

    pub(crate) fn new(shared: Arc<Shared>, id: NodeId, name: &str) -> Vserver {
        let home = shared.flows_of(id.index);
        Vserver { shared, id, name: name.into(), home }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What names it where a handle would be too much, as in [`crate::Arrival`].
    pub fn id(&self) -> VserverId {
        VserverId(self.id)
    }

    /// Number of the alias of that name (`data0`), for multicast joins.
    pub fn alias(&self, name: &str) -> Option<AliasId> {
        let live = self.shared.live();
        let position = live.config.aliases.iter().position(|a| a.name == name)?;
        Some(AliasId(position as u16))
    }

    /// Addresses in use now: configured ones that passed duplicate detection, and learned ones.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let of = |worker: &Arc<Worker>| -> Vec<IpAddr> {
            let core = worker.lock();
            let of = core.node(self.id).into_iter().flat_map(|n| &n.addresses);
            of.map(|a| a.1).collect()
        };
        let mut all = of(self.shared.home());
        // The other workers are told a moment later.
        for worker in &self.shared.workers[1..] {
            let there = of(worker);
            all.retain(|a| there.contains(a));
        }
        all
    }

    /// Those of [`Vserver::addresses`] that are on an alias, sorted.
    pub(crate) fn addresses_on(&self, alias: AliasId) -> Vec<IpAddr> {
        let home = self.shared.home().lock();
        let all = home.node(self.id).into_iter().flat_map(|n| &n.addresses);
        let mut on: Vec<IpAddr> = all.filter(|a| a.0 == alias).map(|a| a.1).collect();
        on.sort_unstable();
        on
    }

    /// The worker of a new socket that may be on any.
    pub(crate) fn next_worker(&self) -> usize {
        self.home.unwrap_or_else(|| self.shared.next_worker())
    }

    /// Numbers of the workers that have flows of it.
    pub(crate) fn places(&self) -> Range<usize> {
        self.home.map_or(0..self.shared.workers.len(), |home| home..home + 1)
    }

    /// The first of them.
    pub(crate) fn first_place(&self) -> usize {
        self.places().start
    }

    /// The worker of a UDP port; port 0: one in turn, which then picks a port of its own.
    pub(crate) fn worker_of_port(&self, port: u16) -> usize {
        let count = self.workers().len();
        match port {
            _ if self.places().len() == 1 => self.first_place(),
            0 => self.next_worker(),
            port => port_owner(port, count as u16).into(),
        }
    }

    /// A buffer of `len` bytes in the memory of its first worker's device; see
    /// [`TcpStream::alloc`](crate::net::TcpStream::alloc), which with several workers knows better.
    pub fn alloc(&self, len: usize) -> Option<PoolBuf> {
        self.worker(self.first_place()).peek(self.id, |node| node.stack.alloc(len)).ok()?
    }

    pub(crate) fn workers(&self) -> &[Arc<Worker>] {
        &self.shared.workers
    }

    pub(crate) fn is_of(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn resolvers(&self) -> &Resolvers {
        &self.shared.resolvers
    }

    /// How the configuration has it resolve names.
    pub(crate) fn configured_dns(&self) -> Dns {
        {
            let live = self.shared.live();
            let at = live.slots.get(&self.id.index);
            at.map(|at| live.config.vservers[*at].dns.clone()).unwrap_or_default()
        }
    }

    /// How the configuration has it set connections up.
    pub(crate) fn configured_connect(&self) -> Connect {
        let live = self.shared.live();
        let at = live.slots.get(&self.id.index);
        at.map(|at| live.config.vservers[*at].connect.clone()).unwrap_or_default()
    }

    pub(crate) fn worker(&self, number: usize) -> &Arc<Worker> {
        &self.shared.workers[number]
    }

    pub(crate) fn index(&self) -> u32 {
        self.id.index
    }

    /// Whether it is in the configuration that is in force.
    pub(crate) fn exists(&self) -> bool {
        self.shared.live().names.get(self.name()) == Some(&self.id)
    }

    pub(crate) fn node(&self) -> NodeId {
        self.id
    }
}
