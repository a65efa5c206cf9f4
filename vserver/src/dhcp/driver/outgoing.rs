//! What clients want done: messages on their way, leases in the stacks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use weft_stack::shard::port_owner;
use weft_stack::socket::udp::UdpSend;
use weft_stack::stack::Change;

use super::super::client::To;
use super::super::slot::{Applied, Slot};
use super::super::tap::{frame4, frame4_to, frame6};
use super::super::{Lease, apply};
use super::{Clients, Inner};

impl Inner {
    /// Asks the stack for a link-local address to speak from, and whether there is one.
    pub(super) fn link_local(&self, slot: &Slot) -> Option<Ipv6Addr> {
        let alias = slot.alias;
        let found = self.shared.home().call(slot.index, |node, now| {
            // The alias is attached, which is all the stack can object to.
            let _ = node.stack.handle_config(now, Change::LinkLocalAdd(alias));
            node.stack.addresses(alias).iter().find_map(|a| match a.cidr.addr {
                IpAddr::V6(addr) if addr.is_unicast_link_local() && a.state.usable() => Some(addr),
                _ => None,
            })
        });
        found.ok().flatten()
    }

    pub(super) fn send(&self, slot: &Slot, to: To, data: &[u8]) {
        let frame = match to {
            To::Everybody => frame4(slot.mac, data),
            // Through the stack it would wait for a neighbour, and the address is gone by then.
            To::Farewell { from, to } => match slot.via {
                Some(via) => frame4_to((slot.mac, via), (from, to), data),
                None => return self.send_to(slot, from, to, data),
            },
            To::Server { from, to } => return self.send_to(slot, from, to, data),
            To::Servers6 => match self.link_local(slot) {
                Some(from) => frame6(slot.mac, from, data),
                None => return,
            },
        };
        // What does not leave is sent again, as what is lost on the way.
        let _ = self.shared.home().with_core(|core, _| core.send_frame(slot.link, &frame));
    }

    /// From the leased address: through the stack, which has the route and the neighbour.
    fn send_to(&self, slot: &Slot, from: Ipv4Addr, to: Ipv4Addr, data: &[u8]) {
        let workers = &self.shared.workers;
        let spread = || port_owner(68, workers.len() as u16).into();
        let owner: usize = self.shared.flows_of(slot.index.index).unwrap_or_else(spread);
        let _ = workers[owner].call(slot.index, |node, now| {
            let local = |port| SocketAddr::new(from.into(), port);
            let bound = node.stack.udp_bind(now, local(68));
            // The vserver's own client may have it; servers answer to port 68 whatever we use.
            let Ok(id) = bound.or_else(|_| node.stack.udp_bind(now, local(0))) else { return };
            let server = SocketAddr::new(to.into(), 67);
            let how = UdpSend { to: Some(server), ..UdpSend::default() };
            let _ = node.stack.udp_send_with(now, id, data, &how);
            node.stack.udp_close(id);
        });
    }

    /// Gives a lease to the stack. `Err`: who has the address already.
    pub(super) fn assign(
        &self,
        slot: &mut Slot,
        lease: &Lease,
        left: Option<Duration>,
    ) -> Result<(), String> {
        let wanted = slot.wanted(lease);
        let given = apply::address(&self.shared, slot, lease, left);
        if let Err(e) = given {
            let text = format!("{}: {e}", wanted.cidr.addr);
            self.problem(format!("vserver {}: {text}", slot.vserver));
            return Err(String::from("this vserver"));
        }
        let before = slot.applied.replace(wanted.clone());
        slot.refused = apply::extras(&self.shared, slot, before.as_ref(), &wanted);
        Ok(())
    }

    pub(super) fn withdraw(&self, clients: &mut Clients, at: usize, addr: IpAddr) {
        let Some(slot) = clients.slots[at].as_mut() else { return };
        let applied = slot.applied.take();
        apply::remove(&self.shared, slot, applied.as_ref(), addr);
        // What another lease of the alias gave as well is still wanted.
        let (index, alias) = (slot.index, slot.alias);
        for other in clients.slots.iter_mut().flatten() {
            if (other.index, other.alias) == (index, alias)
                && let Some(own) = other.applied.clone()
            {
                let nothing = Applied { routes: Vec::new(), mtu: None, ..own.clone() };
                other.refused = apply::extras(&self.shared, other, Some(&nothing), &own);
            }
        }
    }
}
