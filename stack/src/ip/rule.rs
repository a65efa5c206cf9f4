//! Policy routing: rules that choose the route table of a packet, as `ip rule` of Linux has them,
//! and route tables that several stacks share.
//!
//! A stack's own routes are its table [`TableId::MAIN`]. Other tables come from outside, whole, and
//! are shared by reference: thousands of members hold one pointer each. A table is used in two ways:
//! it adds to the own routes (the longest prefix of all wins; among equal ones the own, then the
//! tables in order), or rules name it.
//!
//! Rules are asked in order of priority, the own routes at [`Rule::MAIN_PRIORITY`]; a table without a
//! route to the destination hands on to the next rule. Without any rule or table nothing here is
//! looked at. Packets to ourselves, to groups, and to link-local addresses are not ruled.

use core::net::IpAddr;
use std::sync::Arc;

use super::address::{AliasId, Cidr};
use super::route::{Route, Routes};
use crate::drop::DropReason;
use crate::small_map::SmallMap;
use crate::stack::ChangeError;

/// Names a route table of a stack. Any number: there is no limit of 252 tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub u32);

impl TableId {
    /// The stack's own routes, connected and learned ones too.
    pub const MAIN: TableId = TableId(0);
}

/// What a rule does with the packets that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RuleAction {
    /// Looks for a route in a table; without one the next rule is asked.
    Table(TableId),
    /// Refuses: a sender is told "administratively prohibited".
    Prohibit,
    /// Drops in silence.
    Blackhole,
    /// Refuses: a sender is told "host unreachable".
    Unreachable,
}

/// Service lists that the rules of one stack may have between them.
pub const SERVICE_LISTS_MAX: usize = 64;

/// A protocol and a range of its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// IP protocol number; 0: every protocol.
    pub protocol: u8,
    /// First port; protocols without ports have port 0.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl Service {
    fn is_of(self, (protocol, local, peer): Flow) -> bool {
        let covers = |port| self.first <= port && port <= self.last;
        (self.protocol == 0 || self.protocol == protocol) && (covers(local) || covers(peer))
    }
}

/// Protocol, our port, the peer's; port 0: none, or not known yet.
pub(crate) type Flow = (u8, u16, u16);

/// A rule. It matches packets of which all that it names is true.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Lower is asked first; equal ones in order of insertion.
    pub priority: u32,
    /// Source network. A packet without a source yet, of a connect, matches none.
    pub from: Option<Cidr>,
    /// Destination network.
    pub to: Option<Cidr>,
    /// Value and mask of the mark: a socket's option, or given to a received packet by its class.
    pub mark: Option<(u32, u32)>,
    /// The alias that a forwarded packet came in on; packets of our own match none.
    pub input: Option<AliasId>,
    /// DiffServ codepoint, 0 to 63.
    pub dscp: Option<u8>,
    /// Our port or the peer's is of one of these; forwarded packets match none.
    pub services: Option<Arc<[Service]>>,
    /// What becomes of the packet.
    pub action: RuleAction,
}

impl Rule {
    /// Where the own routes stand among the rules.
    pub const MAIN_PRIORITY: u32 = 32_766;

    /// A rule for all packets.
    pub const fn new(priority: u32, action: RuleAction) -> Rule {
        Rule {
            priority,
            from: None,
            to: None,
            mark: None,
            input: None,
            dscp: None,
            services: None,
            action,
        }
    }

    fn matches(&self, asked: &Asked, lists: &[Arc<[Service]>]) -> bool {
        let within = |net: Option<Cidr>, addr: Option<IpAddr>| {
            net.is_none_or(|net| addr.is_some_and(|addr| net.contains(addr)))
        };
        within(self.from, asked.src)
            && within(self.to, Some(asked.dst))
            && self.mark.is_none_or(|(value, mask)| asked.by.mark & mask == value & mask)
            && self.input.is_none_or(|alias| asked.input == Some(alias))
            && self.dscp.is_none_or(|dscp| asked.by.class >> 2 == dscp)
            && self.services.as_ref().is_none_or(|services| {
                let at = lists.iter().position(|list| list == services);
                at.is_some_and(|bit| asked.by.services >> bit & 1 != 0)
            })
    }
}

/// How a packet is to go, beside its addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Via {
    /// Out of this alias only.
    pub(crate) alias: Option<AliasId>,
    /// What rules look at.
    pub(crate) mark: u32,
    /// The traffic class; its ECN bits do not matter.
    pub(crate) class: u8,
    /// A bit for each service list of the rules that it is of; see [`super::Ip::services_of`].
    pub(crate) services: u64,
}

impl From<Option<AliasId>> for Via {
    fn from(alias: Option<AliasId>) -> Via {
        Via { alias, ..Via::default() }
    }
}

/// A packet as rules see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) src: Option<IpAddr>,
    pub(super) dst: IpAddr,
    pub(super) by: Via,
    pub(super) input: Option<AliasId>,
}

/// A route table that stacks share. It does not change; a changed one takes its place.
#[derive(Debug, Default)]
pub struct RouteTable(Routes);

impl RouteTable {
    /// A table of these routes. Of routes with equal prefix, metric and alias the last counts; those
    /// out of an alias that a stack does not have, or that is down, do not exist for that stack.
    pub fn new(routes: impl IntoIterator<Item = Route>) -> RouteTable {
        let mut table = Routes::default();
        for route in routes {
            // Without a limit it takes every route.
            let _ = table.insert(route, usize::MAX);
        }
        RouteTable(table)
    }

    /// Its routes, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.iter()
    }
}

/// Rules and shared tables of a stack, for dumps.
#[derive(Clone, Debug, Default)]
pub struct PolicyRules {
    /// By priority.
    pub rules: Vec<Rule>,
    /// By number.
    pub tables: Vec<(TableId, Arc<RouteTable>)>,
    /// The tables that add to the own routes, in order.
    pub also: Vec<TableId>,
}

/// Bits that no rule looks at are no part of a question.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Looks {
    mark: u32,
    class: u8,
    /// At protocols and ports.
    pub(super) services: bool,
}

impl Looks {
    #[inline]
    pub(super) fn at(self, by: Via) -> Via {
        Via {
            alias: by.alias,
            mark: by.mark & self.mark,
            class: by.class & self.class,
            services: by.services,
        }
    }
}

/// Rules and tables of a stack that has any.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    rules: Vec<Rule>,
    /// Those that rules look at, each once.
    lists: Vec<Arc<[Service]>>,
    tables: SmallMap<TableId, Arc<RouteTable>, 1>,
    /// Those that add to the own routes.
    also: Vec<TableId>,
}

impl Policy {
    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.tables.iter().next().is_none()
    }

    pub(super) fn looks(&self) -> Looks {
        let mask = self.rules.iter().filter_map(|r| r.mark).fold(0, |all, (_, mask)| all | mask);
        let class = if self.rules.iter().any(|r| r.dscp.is_some()) { !3 } else { 0 };
        Looks { mark: mask, class, services: !self.lists.is_empty() }
    }

    pub(super) fn add(&mut self, rule: Rule, limit: usize) -> Result<(), ChangeError> {
        if self.rules.contains(&rule) {
            return Err(ChangeError::RuleExists(rule.priority));
        }
        if self.rules.len() >= limit {
            return Err(ChangeError::Limit("rules"));
        }
        if let Some(services) = rule.services.as_ref().filter(|s| !self.lists.contains(s)) {
            if self.lists.len() == SERVICE_LISTS_MAX {
                return Err(ChangeError::Limit("service lists of rules"));
            }
            self.lists.push(Arc::clone(services));
        }
        let at = self.rules.partition_point(|r| r.priority <= rule.priority);
        self.rules.insert(at, rule);
        Ok(())
    }

    pub(super) fn remove(&mut self, rule: &Rule) -> Result<(), ChangeError> {
        let at = self.rules.iter().position(|r| r == rule);
        self.rules.remove(at.ok_or(ChangeError::NoRule(rule.priority))?);
        let rules = &self.rules;
        self.lists.retain(|list| rules.iter().any(|r| r.services.as_ref() == Some(list)));
        Ok(())
    }

    pub(super) fn set_table(&mut self, id: TableId, table: Option<Arc<RouteTable>>) {
        match table {
            Some(table) => self.tables.insert(id, table),
            None => drop(self.tables.remove(&id)),
        }
    }

    pub(super) fn set_also(&mut self, tables: Vec<TableId>) {
        self.also = tables;
    }

    /// Which of the lists a flow is of, a bit for each.
    pub(super) fn services_of(&self, flow: Flow) -> u64 {
        let is_of = |list: &Arc<[Service]>| list.iter().any(|s| s.is_of(flow));
        let bits = self.lists.iter().enumerate().filter(|(_, list)| is_of(list));
        bits.fold(0, |all, (bit, _)| all | 1 << bit)
    }

    pub(crate) fn has(&self, id: TableId) -> bool {
        self.tables.contains_key(&id)
    }

    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    pub(crate) fn tables(&self) -> impl Iterator<Item = (TableId, &Arc<RouteTable>)> {
        self.tables.iter().map(|(id, table)| (*id, table))
    }

    pub(crate) fn also(&self) -> &[TableId] {
        &self.also
    }

    /// The best route of a table; `own` are the stack's.
    pub(super) fn lookup<'a>(
        &'a self,
        own: &'a Routes,
        table: TableId,
        dst: IpAddr,
        usable: impl Fn(&Route) -> bool + Copy,
    ) -> Option<&'a Route> {
        if table != TableId::MAIN {
            return self.tables.get(&table)?.0.lookup(dst, usable);
        }
        let shared = self.also.iter().filter_map(|id| self.tables.get(id));
        let found = shared.filter_map(|table| table.0.lookup(dst, usable));
        found.fold(own.lookup(dst, usable), |best, next| match best {
            Some(best) if best.prefix.prefix_len >= next.prefix.prefix_len => Some(best),
            _ => Some(next),
        })
    }

    /// Asks `find` for the tables that the rules name, in order, until one has a way.
    pub(super) fn decide<T>(
        &self,
        asked: &Asked,
        find: impl Fn(TableId) -> Result<T, DropReason>,
    ) -> Result<T, DropReason> {
        let main = self.rules.partition_point(|r| r.priority <= Rule::MAIN_PRIORITY);
        let (before, after) = self.rules.split_at(main);
        if let Some(decided) = ask((before, &self.lists), asked, &find) {
            return decided;
        }
        match find(TableId::MAIN) {
            Ok(found) => Ok(found),
            Err(reason) => ask((after, &self.lists), asked, &find).unwrap_or(Err(reason)),
        }
    }
}

fn ask<T>(
    (rules, lists): (&[Rule], &[Arc<[Service]>]),
    asked: &Asked,
    find: &impl Fn(TableId) -> Result<T, DropReason>,
) -> Option<Result<T, DropReason>> {
    rules.iter().filter(|rule| rule.matches(asked, lists)).find_map(|rule| match rule.action {
        RuleAction::Table(table) => find(table).ok().map(Ok),
        RuleAction::Prohibit => Some(Err(DropReason::RuleProhibit)),
        RuleAction::Blackhole => Some(Err(DropReason::RuleBlackhole)),
        RuleAction::Unreachable => Some(Err(DropReason::RuleUnreachable)),
    })
}

#[cfg(test)]
mod tests;
