//! A handle on one virtual server.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use weft_stack::ip::address::AliasId;

use crate::host::Shared;
use crate::runtime::Worker;

/// A virtual server of a running host: what sockets are made on. Cheap to clone; it does not keep
/// the host running.
#[derive(Clone)]
pub struct Vserver {
    shared: Arc<Shared>,
    index: u32,
}

impl fmt::Debug for Vserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Vserver").field(&self.name()).finish()
    }
}

impl Vserver {
    pub(crate) fn new(shared: Arc<Shared>, index: u32) -> Vserver {
        Vserver { shared, index }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.shared.config.vservers[self.index as usize].name
    }

    /// Number of the alias of that name (`data0`), for multicast joins.
    pub fn alias(&self, name: &str) -> Option<AliasId> {
        let position = self.shared.config.aliases.iter().position(|a| a.name == name)?;
        Some(AliasId(position as u16))
    }

    /// Addresses in use now: configured ones that passed duplicate detection, and learned ones.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let core = self.shared.home().lock();
        core.nodes[self.index as usize].addresses.iter().map(|a| a.1).collect()
    }

    pub(crate) fn workers(&self) -> &[Arc<Worker>] {
        &self.shared.workers
    }

    pub(crate) fn is_of(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    pub(crate) fn worker(&self) -> &Arc<Worker> {
        self.shared.home()
    }

    pub(crate) fn index(&self) -> u32 {
        self.index
    }
}
