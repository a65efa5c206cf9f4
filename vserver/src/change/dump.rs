//! What a running host has, as text: to compare it before a change and after it was taken back.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;

use weft_stack::ip::address::Origin;

use crate::host::Shared;

/// Everything that a configuration puts into workers and stacks, sorted by name; not what peers
/// taught, nor where in memory it stands.
pub(super) fn dump(shared: &Arc<Shared>) -> String {
    let live = shared.live();
    let mut out = String::new();
    for (v, id) in live.config.vservers.iter().zip(&live.nodes) {
        let Some(seen) = crate::stats::of_vserver(shared, &live.config, *id, &v.name) else {
            continue;
        };
        let vserver = crate::Vserver::new(Arc::clone(shared), *id, &v.name);
        let _ = writeln!(out, "{} rules {:?} {:?}", v.name, seen.rules, seen.tables);
        let _ = writeln!(out, "{} dns {:?}", v.name, vserver.dns());
        let _ = writeln!(out, "{} connect {:?}", v.name, vserver.connect_policy());
        let guard = shared.access.lock().guard(id.index as usize);
        let report = guard.map(|g| g.report(shared.home().clock.now()));
        for rule in report.iter().flat_map(|r| &r.rules) {
            let what = (&rule.action, &rule.ports, &rule.on, &rule.from);
            let _ = writeln!(out, "{} access {what:?}", v.name);
        }
    }
    for (number, worker) in shared.workers.iter().enumerate() {
        let core = worker.lock();
        let mut parts = BTreeSet::new();
        let named = live.config.vservers.iter().zip(&live.nodes);
        for (v, id) in named.clone() {
            let Some(node) = core.node(*id) else {
                parts.insert(format!("{} is missing", v.name));
                continue;
            };
            let stack = &node.stack;
            for (alias, addresses) in stack.aliases() {
                parts.insert(format!("{} {alias:?}", v.name));
                for a in addresses.iter().filter(|a| a.origin == Origin::Static) {
                    parts.insert(format!("{} {} {}", v.name, alias.name, a.cidr));
                }
            }
            for r in stack.routes() {
                parts.insert(format!("{} {r:?}", v.name));
            }
            parts.insert(format!("{} {:?}", v.name, stack.limits()));
            parts.insert(format!("{} links {:?}", v.name, node.links));
        }
        for (v, id) in named.clone() {
            parts.insert(format!("{} home {:?}", v.name, core.pins.home(id.index)));
        }
        let name = |index: u32| {
            let found = named.clone().find(|(_, id)| id.index == index);
            found.map_or_else(|| format!("slot {index}, nobody"), |(v, _)| v.name.clone())
        };
        parts.extend(core.demux.describe(&name));
        parts.extend(core.describe_links());
        for part in parts {
            let _ = writeln!(out, "worker {number}: {part}");
        }
    }
    out
}
