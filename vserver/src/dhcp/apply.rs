//! A lease becomes changes of the vserver's stacks, one on each worker.

use std::net::IpAddr;
use std::time::Duration;

use weft_stack::ip::address::{AddressTerms, Origin};
use weft_stack::stack::{Change, ChangeError};

use super::lease::Lease;
use super::slot::{Applied, Slot, preferred_left};
use crate::host::Shared;
use crate::runtime::Worker;

/// Adds the address, or gives it new times.
pub(super) fn address(
    shared: &Shared,
    slot: &Slot,
    lease: &Lease,
    left: Option<Duration>,
) -> Result<(), ChangeError> {
    let (cidr, alias) = (lease.cidr(), slot.alias);
    let preferred = lease.address.is_ipv6().then(|| preferred_left(lease, left)).flatten();
    let (acd, pace) = (slot.config.acd, slot.pace);
    let terms = AddressTerms { origin: Origin::Dhcp, acd, pace, preferred, valid: left };
    on_all(shared, slot, |worker| {
        let change = Change::AddressAssign { alias, cidr, terms };
        let done = worker.call(slot.index, |node, now| node.stack.handle_config(now, change));
        // A host that has stopped needs no address.
        done.unwrap_or(Ok(()))?;
        if let Some(broadcast) = cidr.broadcast() {
            let _ = worker.with_core(|core, _| core.demux.join(alias, broadcast, slot.index.index));
        }
        Ok(())
    })
}

/// Changes addresses on the home, then on the others. These heed nothing that the home told before
/// it was changed. A host that has stopped has no use for any of it.
fn on_all(
    shared: &Shared,
    slot: &Slot,
    mut change: impl FnMut(&Worker) -> Result<(), ChangeError>,
) -> Result<(), ChangeError> {
    change(shared.home())?;
    let edition = shared.next_edition();
    let mut done = Ok(());
    for (number, worker) in shared.workers.iter().enumerate() {
        let _ = worker.with_core(|core, _| core.set_edition(slot.index, edition));
        if number > 0 && done.is_ok() {
            done = change(worker);
        }
    }
    let _ = shared.home().with_core(|core, _| {
        core.tell_edition(slot.index);
        core.mesh.ring();
    });
    done
}

/// Routes and MTU; what was refused.
pub(super) fn extras(
    shared: &Shared,
    slot: &Slot,
    before: Option<&Applied>,
    now: &Applied,
) -> Option<String> {
    let old = before.map_or(&[][..], |b| &b.routes);
    let mut refused = None;
    for worker in &shared.workers {
        let done = worker.call(slot.index, |node, at| {
            for route in old.iter().filter(|r| !now.routes.contains(r)) {
                // Gone with its alias, perhaps.
                let _ = node.stack.handle_config(at, Change::RouteRemove(*route));
            }
            let mut failed = None;
            for route in now.routes.iter().filter(|r| !old.contains(r)) {
                if let Err(e) = node.stack.handle_config(at, Change::RouteAdd(*route)) {
                    failed = Some(format!("route to {}: {e}", route.prefix));
                }
            }
            failed
        });
        refused = refused.or(done.ok().flatten());
        if before.and_then(|b| b.mtu) != now.mtu {
            let (index, alias, mtu) = (slot.index.index, slot.alias, now.mtu);
            let _ = worker.with_core(|core, at| core.set_mtu(at, index, alias, mtu));
        }
    }
    refused
}

/// Takes everything of a lease away.
pub(super) fn remove(shared: &Shared, slot: &Slot, applied: Option<&Applied>, addr: IpAddr) {
    let alias = slot.alias;
    if let Some(applied) = applied {
        let nothing = Applied { routes: Vec::new(), mtu: None, ..applied.clone() };
        extras(shared, slot, Some(applied), &nothing);
    }
    let _ = on_all(shared, slot, |worker| {
        let _ = worker.call(slot.index, |node, now| {
            // Only what is ours: the stack may have removed it already when its time was over.
            let ours = node.stack.addresses(alias).iter().find(|a| a.cidr.addr == addr);
            if ours.is_some_and(|a| a.origin == Origin::Dhcp) {
                let _ = node.stack.handle_config(now, Change::AddressRemove { alias, addr });
            }
        });
        let Some(broadcast) = applied.and_then(|a| a.cidr.broadcast()) else { return Ok(()) };
        let _ = worker.with_core(|core, _| {
            let index = slot.index.index;
            let Some(node) = core.node(slot.index) else { return };
            let stack = &node.stack;
            let shared =
                stack.addresses(alias).iter().any(|a| a.cidr.broadcast() == Some(broadcast));
            if !shared {
                core.demux.leave(alias, broadcast, index);
            }
        });
        Ok(())
    });
}
