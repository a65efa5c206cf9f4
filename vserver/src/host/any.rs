//! Ports that the host has bound for any vserver, or any of a group.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::RwLock;
use weft_stack::any::{AnyPorts, AnyScopes};

use crate::config::{HostConfig, Vserver};

/// One table for the host, one for each group there is or was: a listener on a group that goes and
/// comes again is heard again.
#[derive(Debug, Default)]
pub(crate) struct AnyTables {
    host: Arc<AnyPorts>,
    groups: RwLock<HashMap<String, Arc<AnyPorts>>>,
    next: AtomicU32,
}

impl AnyTables {
    pub(crate) fn new(config: &HostConfig) -> AnyTables {
        let tables = AnyTables::default();
        tables.add_groups(config);
        tables
    }

    /// Groups of a configuration that have no table yet get one.
    pub(crate) fn add_groups(&self, config: &HostConfig) {
        let mut groups = self.groups.write();
        for group in &config.groups {
            groups.entry(group.name.clone()).or_default();
        }
    }

    /// The tables that concern a vserver, the nearest group's first.
    pub(crate) fn scopes(&self, config: &HostConfig, v: &Vserver) -> AnyScopes {
        let groups = self.groups.read();
        let names = config.group_names(v.group);
        let mut tables: Vec<_> =
            names.into_iter().filter_map(|name| groups.get(name).map(Arc::clone)).collect();
        tables.push(Arc::clone(&self.host));
        AnyScopes::new(tables)
    }

    /// The table of a group, or of the host; `None`: no such group.
    pub(crate) fn scope(&self, group: Option<&str>) -> Option<Arc<AnyPorts>> {
        match group {
            None => Some(Arc::clone(&self.host)),
            Some(name) => self.groups.read().get(name).map(Arc::clone),
        }
    }

    /// A number that no binding had before.
    pub(crate) fn next(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}
