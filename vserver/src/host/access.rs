//! Access rules of a running host.

use std::sync::Arc;

use weft_stack::admission::Rules;
use weft_stack::drop::DropReason;

use super::{Host, Shared};
use crate::access::{AccessDecision, AccessQuery, AccessReport, VserverAccess};
use crate::config::{HostConfig, Vserver};
use crate::runtime::NodeId;

/// Why a question about access has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// No vserver of that name.
    #[error("no vserver '{0}'")]
    NoSuchVserver(String),
    /// Neither an alias nor an address of the vserver.
    #[error("vserver '{vserver}' has no alias and no address '{to}'; see 'weft list'")]
    NoSuchPlace {
        /// Which vserver.
        vserver: String,
        /// What was asked for.
        to: String,
    },
    /// No service.
    #[error("{0}")]
    Service(String),
}

impl Shared {
    /// Gives a vserver of `config` the rules that `config` has for it; returns how many connections
    /// that ended. Packets see the old rules or the new ones, never a part of either. For a vserver
    /// that was added, changed, or whose groups or host have other rules.
    pub(crate) fn update_access(&self, config: &HostConfig, id: NodeId, v: &Vserver) -> usize {
        let guard = self.access.lock().update(config, id.index as usize, (&v.name, &v.access));
        let Some(guard) = guard else { return 0 };
        let mut ended = 0;
        for worker in &self.workers {
            let rules: Arc<dyn Rules> = guard.clone();
            let ends = config.access.ends_denied();
            // A worker that stopped admits nobody.
            let done = worker.call(id, |node, now| {
                node.stack.set_access(Some(Arc::clone(&rules)));
                if ends { node.stack.end_denied(now, &*rules) } else { 0 }
            });
            ended += done.unwrap_or(0);
        }
        ended
    }

    fn vserver_access(&self, id: NodeId) -> Option<VserverAccess> {
        let guard = self.access.lock().guard(id.index as usize)?;
        let mut report = guard.report(self.home().clock.now());
        for worker in &self.workers {
            let counts = worker.peek(id, |node| {
                let mib = node.stack.mib();
                report.denied += mib.drops.get(DropReason::AccessDenied);
                report.rejected += mib.drops.get(DropReason::AccessRejected);
                report.states_refused += mib.frames.access_states_refused;
                node.stack.access_states()
            });
            let (states, max) = counts.unwrap_or_default();
            report.states += states;
            report.states_max += max;
        }
        Some(report)
    }
}

impl Host {
    /// Access rules in order of evaluation, and what they decided: of one vserver, or of all.
    pub fn access(&self, vserver: Option<&str>) -> Result<AccessReport, AccessError> {
        let _settled = self.shared.settled();
        let live = self.shared.live();
        let chosen = match vserver {
            Some(name) => {
                let id = live.names.get(name);
                vec![*id.ok_or_else(|| AccessError::NoSuchVserver(name.to_owned()))?]
            }
            None => live.nodes.clone(),
        };
        let vservers = chosen.into_iter().filter_map(|i| self.shared.vserver_access(i));
        Ok(AccessReport { schema_version: 1, vservers: vservers.collect() })
    }

    /// Which rule decides about a client. Nothing is counted.
    pub fn test_access(&self, query: &AccessQuery) -> Result<Vec<AccessDecision>, AccessError> {
        let none = || AccessError::NoSuchVserver(query.vserver.clone());
        let live = self.shared.live();
        let id = *live.names.get(&query.vserver).ok_or_else(none)?;
        let guard = self.shared.access.lock().guard(id.index as usize).ok_or_else(none)?;
        let addresses = self.shared.home().peek(id, |node| node.addresses.clone());
        let addresses = addresses.unwrap_or_default();
        let config = &live.config;
        let mut places: Vec<(usize, String)> = Vec::new();
        for (alias, addr) in &addresses {
            let number = usize::from(alias.0);
            let Some(name) = config.aliases.get(number).map(|a| a.name.clone()) else { continue };
            let meant = query.to.as_ref().is_none_or(|to| {
                *to == name || to.parse::<std::net::IpAddr>().is_ok_and(|ip| ip == *addr)
            });
            if meant && !places.iter().any(|(a, _)| *a == number) {
                places.push((number, name));
            }
        }
        places.sort_unstable();
        if let (Some(to), true) = (&query.to, places.is_empty()) {
            let (vserver, to) = (query.vserver.clone(), to.clone());
            return Err(AccessError::NoSuchPlace { vserver, to });
        }
        guard.test(query, &config.access.catalogue, &places).map_err(AccessError::Service)
    }

    /// Gives every vserver the rules that `config` has for it; returns how many connections that
    /// ended. `config` must have the vservers and aliases of this host.
    pub fn update_access(&self, config: &HostConfig) -> usize {
        let live = self.shared.live();
        let known = config.vservers.iter().filter_map(|v| Some((*live.names.get(&v.name)?, v)));
        let _order = self.shared.named_clients.in_order();
        known.map(|(id, v)| self.shared.update_access(config, id, v)).sum()
    }
}
