//! What a running host is configured as, and how vservers come and go.

use std::collections::HashMap;
use std::sync::Arc;

use weft_stack::ip::address::AliasConfig;

use crate::config::HostConfig;
use crate::interface::Tree;
use crate::runtime::NodeId;

/// A whole configuration and where its vservers are. Never changed: replaced.
#[derive(Debug)]
pub(crate) struct Live {
    /// Counts configurations, from 1.
    pub(crate) generation: u64,
    pub(crate) config: Arc<HostConfig>,
    /// By position in the configuration.
    pub(crate) nodes: Vec<NodeId>,
    pub(crate) names: HashMap<String, NodeId>,
    /// Positions by slot.
    pub(crate) slots: HashMap<u32, usize>,
}

impl Live {
    /// Of a host that starts: its vservers stand in order.
    pub(crate) fn first(config: HostConfig) -> Live {
        let nodes = (0..config.vservers.len() as u32).map(|index| NodeId { index, generation: 0 });
        Live::new(1, Arc::new(config), nodes.collect())
    }

    pub(crate) fn new(generation: u64, config: Arc<HostConfig>, nodes: Vec<NodeId>) -> Live {
        let named = config.vservers.iter().map(|v| v.name.clone());
        let names = named.zip(nodes.iter().copied()).collect();
        let slots = nodes.iter().enumerate().map(|(at, id)| (id.index, at)).collect();
        Live { generation, config, nodes, names, slots }
    }
}

/// What only who changes a host's configuration needs.
#[derive(Debug)]
pub(crate) struct Changing {
    /// What stacks are told of each alias, apart from its link's state and SLAAC.
    pub(crate) aliases: Vec<AliasConfig>,
    /// What they stand on.
    pub(crate) tree: Tree,
    /// Slots without a vserver.
    free: Vec<NodeId>,
    /// Slots there are.
    slots: u32,
}

impl Changing {
    pub(crate) fn new(aliases: Vec<AliasConfig>, tree: Tree, vservers: usize) -> Changing {
        Changing { aliases, tree, free: Vec::new(), slots: vservers as u32 }
    }

    /// A place for one more vserver.
    pub(crate) fn take_slot(&mut self) -> NodeId {
        self.free.pop().unwrap_or_else(|| {
            self.slots += 1;
            NodeId { index: self.slots - 1, generation: 0 }
        })
    }

    /// Its vserver was removed, on all workers.
    pub(crate) fn free_slot(&mut self, id: NodeId) {
        self.free.push(id.next());
    }
}
