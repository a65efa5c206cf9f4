//! Ports that the host has bound for any vserver, or any of a group.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use weft_stack::any::{AnyPorts, AnyScopes};

use crate::config::{GROUP_DEPTH_MAX, HostConfig, Vserver};

/// One table for the host, one for each group.
#[derive(Debug, Default)]
pub(crate) struct AnyTables {
    host: Arc<AnyPorts>,
    groups: HashMap<String, Arc<AnyPorts>>,
    next: AtomicU32,
}

impl AnyTables {
    pub(crate) fn new(config: &HostConfig) -> AnyTables {
        let groups = config.groups.iter().map(|g| (g.name.clone(), Arc::default())).collect();
        AnyTables { groups, ..AnyTables::default() }
    }

    /// The tables that concern a vserver, the nearest group's first.
    pub(crate) fn scopes(&self, config: &HostConfig, v: &Vserver) -> AnyScopes {
        let mut tables = Vec::new();
        let mut at = v.group;
        while let Some(group) = at.and_then(|g| config.groups.get(g)) {
            tables.extend(self.groups.get(&group.name).map(Arc::clone));
            // A tree has no circle; a configuration made in code might.
            at = group.parent.filter(|_| tables.len() < GROUP_DEPTH_MAX);
        }
        tables.push(Arc::clone(&self.host));
        AnyScopes::new(tables)
    }

    /// The table of a group, or of the host; `None`: no such group.
    pub(crate) fn scope(&self, group: Option<&str>) -> Option<Arc<AnyPorts>> {
        match group {
            None => Some(Arc::clone(&self.host)),
            Some(name) => self.groups.get(name).map(Arc::clone),
        }
    }

    /// A number that no binding had before.
    pub(crate) fn next(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}
