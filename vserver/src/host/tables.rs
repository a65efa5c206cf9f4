//! Route tables that vservers share by name, and their rules: from the configuration into the
//! stacks, at the start and while they run.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use weft_stack::ip::address::AliasId;
use weft_stack::ip::route::Route;
use weft_stack::ip::rule::{RouteTable, Rule, RuleAction, Service, TableId};
use weft_stack::stack::{Change, ChangeError};
use weft_stack::time::Instant;

use super::{Host, HostError, Shared};
use crate::access::{Ports, Protocol};
use crate::arrival::VserverId;
use crate::config::{HostConfig, MAIN_TABLE, RouteSpec, RuleSpec, RuleTarget, TableSpec};
use crate::runtime::HostStack;

/// The shared tables of a host, by name. A name keeps its number as long as it is there; no number
/// is used twice.
#[derive(Debug, Default)]
pub(crate) struct Tables(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    by_name: BTreeMap<String, (TableId, Arc<RouteTable>)>,
    /// The last number given; 0 is every stack's own table.
    last: u32,
}

fn route(spec: &RouteSpec) -> Route {
    Route {
        prefix: spec.to.network(),
        via: spec.via,
        alias: AliasId(spec.alias as u16),
        src: spec.src,
        metric: spec.metric,
        mtu: None,
    }
}

/// As stacks have it.
fn services(ports: Ports) -> Vec<Service> {
    let protocols: &[u8] = match ports.protocol {
        Protocol::Tcp => &[6],
        Protocol::Udp => &[17],
        Protocol::Icmp => &[1, 58],
        Protocol::Any => &[0],
    };
    // Without ports they have port 0.
    let (first, last) = match ports.protocol {
        Protocol::Tcp | Protocol::Udp => (ports.first, ports.last),
        Protocol::Icmp | Protocol::Any => (0, u16::MAX),
    };
    protocols.iter().map(|protocol| Service { protocol: *protocol, first, last }).collect()
}

impl Tables {
    pub(crate) fn new(config: &HostConfig) -> Tables {
        let tables = Tables::default();
        for TableSpec { name, routes } in &config.tables {
            tables.set(name, routes);
        }
        tables
    }

    /// Puts a table in the place of what had its name.
    fn set(&self, name: &str, routes: &[RouteSpec]) -> (TableId, Arc<RouteTable>) {
        let mut all = self.0.lock();
        let table = Arc::new(RouteTable::new(routes.iter().map(route)));
        if let Some(entry) = all.by_name.get_mut(name) {
            entry.1 = Arc::clone(&table);
            return (entry.0, table);
        }
        all.last += 1;
        let id = TableId(all.last);
        all.by_name.insert(name.to_owned(), (id, Arc::clone(&table)));
        (id, table)
    }

    /// Forgets a table, which no vserver uses any more.
    pub(crate) fn remove(&self, name: &str) {
        self.0.lock().by_name.remove(name);
    }

    fn get(&self, name: &str) -> Option<(TableId, Arc<RouteTable>)> {
        self.0.lock().by_name.get(name).map(|(id, table)| (*id, Arc::clone(table)))
    }

    /// The name of a table.
    pub(crate) fn name(&self, id: TableId) -> String {
        let all = self.0.lock();
        let found =
            all.by_name.iter().find(|(_, (other, _))| *other == id).map(|(name, _)| name.clone());
        found.unwrap_or_else(|| MAIN_TABLE.to_owned())
    }

    fn action(&self, target: &RuleTarget) -> RuleAction {
        match target {
            RuleTarget::Table(name) => {
                // A table that is no more has no routes.
                RuleAction::Table(self.get(name).map_or(TableId::MAIN, |(id, _)| id))
            }
            RuleTarget::Prohibit => RuleAction::Prohibit,
            RuleTarget::Blackhole => RuleAction::Blackhole,
            RuleTarget::Unreachable => RuleAction::Unreachable,
        }
    }

    fn rule(&self, spec: &RuleSpec) -> Rule {
        Rule {
            priority: spec.priority,
            from: spec.from,
            to: spec.to,
            mark: spec.mark,
            input: spec.input.map(|alias| AliasId(alias as u16)),
            dscp: spec.dscp,
            services: spec
                .class
                .as_ref()
                .map(|_| spec.ports.iter().copied().flat_map(services).collect()),
            action: self.action(&spec.target),
        }
    }

    /// What a stack without rules and tables is told, for these.
    pub(crate) fn changes(
        &self,
        used: &[String],
        rules: &[RuleSpec],
    ) -> Vec<(&'static str, String, Change)> {
        let mut out = Vec::new();
        let named = rules.iter().filter_map(|r| match &r.target {
            RuleTarget::Table(name) => Some(name),
            _ => None,
        });
        let mut ids: Vec<TableId> = Vec::new();
        for name in used.iter().chain(named) {
            let Some((id, table)) = self.get(name) else { continue };
            if !ids.contains(&id) {
                ids.push(id);
                let table = Some(table);
                out.push(("use table", name.clone(), Change::TableSet { id, table }));
            }
        }
        if !used.is_empty() {
            let also = used.iter().filter_map(|name| Some(self.get(name)?.0)).collect();
            out.push(("use tables", used.join(", "), Change::TablesUse(also)));
        }
        // What has a name is not there before it has an address.
        for spec in rules.iter().filter(|r| r.from_name.is_none()) {
            let what = format!("of priority {}", spec.priority);
            out.push(("add rule", what, Change::RuleAdd(self.rule(spec))));
        }
        out
    }
}

/// Takes all rules and shared tables from a stack.
fn clear(stack: &mut HostStack, now: Instant) -> Result<(), ChangeError> {
    let before = stack.rules();
    for rule in before.rules {
        stack.handle_config(now, Change::RuleRemove(rule))?;
    }
    if !before.also.is_empty() {
        stack.handle_config(now, Change::TablesUse(Vec::new()))?;
    }
    for (id, _) in before.tables {
        stack.handle_config(now, Change::TableSet { id, table: None })?;
    }
    Ok(())
}

/// What was tried, with what, and the stack's answer.
pub(crate) type Refused = (&'static str, String, ChangeError);

/// Puts rules and tables in the place of those that a stack has, or leaves these.
pub(crate) fn replace(
    stack: &mut HostStack,
    now: Instant,
    changes: &[(&'static str, String, Change)],
) -> Result<(), Refused> {
    let before = stack.rules();
    clear(stack, now).map_err(|e| ("remove rule", String::new(), e))?;
    let done = changes.iter().try_for_each(|(operation, object, change)| {
        let result = stack.handle_config(now, change.clone());
        result.map_err(|source| (*operation, object.clone(), source))
    });
    if done.is_err() {
        // All of it was there a moment ago.
        let _ = clear(stack, now);
        for (id, table) in before.tables {
            let _ = stack.handle_config(now, Change::TableSet { id, table: Some(table) });
        }
        let _ = stack.handle_config(now, Change::TablesUse(before.also));
        for rule in before.rules {
            let _ = stack.handle_config(now, Change::RuleAdd(rule));
        }
    }
    done
}

impl Shared {
    /// Puts a table in the place of what had its name: every vserver that uses it follows, those of
    /// one worker in one step. Returns how many they are.
    pub(crate) fn set_table(&self, name: &str, routes: &[RouteSpec]) -> std::io::Result<usize> {
        let (id, table) = self.tables.set(name, routes);
        let mut members = 0;
        for worker in &self.workers {
            members = worker.with_core(|core, now| {
                let mut members = 0;
                for index in 0..core.nodes.len() as u32 {
                    let stack = &mut core.nodes[index as usize].stack;
                    if stack.has_table(id) {
                        let table = Some(Arc::clone(&table));
                        // It has that number already, which is all it could object to.
                        let _ = stack.handle_config(now, Change::TableSet { id, table });
                        core.mark_dirty(index);
                        members += 1;
                    }
                }
                members
            })?;
        }
        Ok(members)
    }
}

impl Host {
    /// Changes a shared route table, or adds one: every vserver that uses it follows, those of one
    /// worker in one step. Returns how many they are. Connections stay; their next packet takes the
    /// way that is now right.
    ///
    /// Errors: `NotConnected` after a stop.
    pub fn update_table(&self, name: &str, routes: &[RouteSpec]) -> std::io::Result<usize> {
        self.shared.set_table(name, routes)
    }

    /// Puts rules and used tables of a vserver in the place of those it had, in one step for each of
    /// its shards.
    ///
    /// Errors: those of the stack, which then has those it had.
    pub fn update_rules(
        &self,
        vserver: VserverId,
        used: &[String],
        rules: &[RuleSpec],
    ) -> Result<(), HostError> {
        let os = |source| HostError::Os { operation: "change rules", source };
        let handle =
            self.vserver_of(vserver).ok_or_else(|| os(std::io::ErrorKind::NotFound.into()))?;
        let _order = self.shared.named_clients.in_order();
        let rules = self.shared.named_clients.answers.expand(vserver.0.index, rules);
        let changes = self.shared.tables.changes(used, &rules);
        for worker in &self.shared.workers {
            let done =
                worker.call(handle.node(), |node, now| replace(&mut node.stack, now, &changes));
            done.map_err(os)?.map_err(|refused| change_error(handle.name(), refused))?;
        }
        Ok(())
    }
}

/// A refusal as the host tells it.
pub(crate) fn change_error(vserver: &str, (operation, object, source): Refused) -> HostError {
    HostError::Change { vserver: vserver.to_owned(), operation, object, source }
}
