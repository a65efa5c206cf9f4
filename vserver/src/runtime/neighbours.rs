//! Neighbour tables that vservers of a worker share by name: each worker has one of each name, so
//! that workers ask once each and share no memory for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_stack::ip::address::AliasId;
use weft_stack::link::shared::{SharedNeighbourCounts, SharedNeighbours};
use weft_stack::stack::Change;
use weft_stack::time::Instant;

use super::Core;
use crate::config::NeighbourTable;

/// The tables of one worker.
#[derive(Debug, Default)]
pub(crate) struct NeighbourTables(BTreeMap<String, (NeighbourTable, Arc<SharedNeighbours>)>);

impl NeighbourTables {
    /// Whether a stack waits for what another learned.
    #[inline]
    pub(super) fn has_woken(&self) -> bool {
        !self.0.is_empty() && self.0.values().any(|(_, table)| table.has_woken())
    }

    /// How each stands, by name.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&NeighbourTable, SharedNeighbourCounts)> {
        self.0.values().map(|(spec, table)| (spec, table.counts()))
    }
}

fn made(spec: &NeighbourTable) -> Arc<SharedNeighbours> {
    let fixed = spec.entries.iter().map(|e| ((AliasId(e.alias as u16), e.addr), e.mac));
    Arc::new(SharedNeighbours::new(fixed, spec.learned))
}

impl Core {
    /// The tables are these from now on; those that did not change keep what they learned. Vservers
    /// keep what they use until [`Core::share_neighbours`].
    pub(crate) fn set_neighbours(&mut self, tables: &[NeighbourTable]) {
        let mut before = std::mem::take(&mut self.neighbours.0);
        let next = tables.iter().map(|spec| {
            let same = before.remove(&spec.name).filter(|(old, _)| old == spec);
            (spec.name.clone(), same.unwrap_or_else(|| (spec.clone(), made(spec))))
        });
        self.neighbours.0 = next.collect();
    }

    /// A vserver uses the table of that name, or none.
    pub(crate) fn share_neighbours(&mut self, now: Instant, index: u32, name: Option<&str>) {
        let table = name.and_then(|name| self.neighbours.0.get(name));
        let share = table.map(|(_, table)| (Arc::clone(table), index));
        if let Some(node) = self.nodes.get_mut(index as usize) {
            // There is nothing in it to object to.
            let _ = node.stack.handle_config(now, Change::NeighboursShare(share));
            self.mark_dirty(index);
        }
    }

    /// Tells stacks what they wait for.
    pub(super) fn tell_neighbours(&mut self, now: Instant) -> bool {
        if !self.neighbours.has_woken() {
            return false;
        }
        let woken: Vec<_> =
            self.neighbours.0.values().flat_map(|(_, table)| table.take_woken()).collect();
        for (index, key) in woken {
            // Another may be in its slot by now: it waits for nothing, and is told nothing wrong.
            if let Some(node) = self.nodes.get_mut(index as usize) {
                node.stack.handle_neighbour_known(now, key);
                self.mark_dirty(index);
            }
        }
        true
    }
}
