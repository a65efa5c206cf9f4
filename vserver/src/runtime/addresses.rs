//! What follows from a stack's addresses: the demultiplexer's table, the device's steering, and who
//! else wants to know.

use std::net::IpAddr;

use weft_stack::ip::address::{AddressState, AliasId};
use weft_stack::time::Instant;

use super::Core;
use crate::dhcp::Tap;

impl Core {
    /// ARP that names the address is wanted, packets are not used yet.
    pub(super) fn address_probed(&mut self, index: u32, alias: AliasId, addr: IpAddr) {
        let node = &self.nodes[index as usize];
        if node.addresses.contains(&(alias, addr)) || node.probed.contains(&(alias, addr)) {
            return;
        }
        if let Some(owner) = self.demux.add_address(alias, addr, index) {
            return self.belongs_to(index, alias, addr, owner);
        }
        self.nodes[index as usize].probed.push((alias, addr));
        self.steer(self.aliases[alias.0 as usize].link(), addr, true);
    }

    pub(super) fn address_added(&mut self, now: Instant, index: u32, alias: AliasId, addr: IpAddr) {
        if let Some(owner) = self.demux.add_address(alias, addr, index) {
            return self.belongs_to(index, alias, addr, owner);
        }
        let node = &mut self.nodes[index as usize];
        let probed = node.probed.iter().position(|a| *a == (alias, addr));
        if let Some(at) = probed {
            node.probed.swap_remove(at);
        }
        if !node.addresses.contains(&(alias, addr)) {
            node.addresses.push((alias, addr));
            if probed.is_none() {
                self.steer(self.aliases[alias.0 as usize].link(), addr, true);
            }
            self.keep_address(now, alias, addr, true);
        }
        self.tell_dhcp(|tap| tap.address(index, alias, addr, None));
    }

    pub(super) fn address_removed(
        &mut self,
        now: Instant,
        index: u32,
        alias: AliasId,
        addr: IpAddr,
    ) {
        let node = &mut self.nodes[index as usize];
        let used = node.addresses.contains(&(alias, addr));
        // One that was another vserver's already was never steered for this one.
        let lists = [&mut node.addresses, &mut node.probed];
        let found = lists.into_iter().any(|list| {
            let at = list.iter().position(|a| *a == (alias, addr));
            at.map(|at| list.swap_remove(at)).is_some()
        });
        self.demux.remove_address(alias, addr, index);
        if found {
            self.steer(self.aliases[alias.0 as usize].link(), addr, false);
        }
        if used {
            self.keep_address(now, alias, addr, false);
        }
        self.inherit(now, alias, addr);
    }

    /// Nobody has an address any more: it goes to whoever got it while it was another vserver's.
    pub(super) fn inherit(&mut self, now: Instant, alias: AliasId, addr: IpAddr) {
        while let Some(heir) = self.demux.heir(alias, addr) {
            // Its own news of what happened to the address since is still to come.
            self.demux.remove_address(alias, addr, heir);
            let own = self.nodes[heir as usize].stack.addresses(alias).iter();
            let state = own.filter(|a| a.cidr.addr == addr).map(|a| a.state).next();
            match state {
                Some(state) if state.usable() => self.address_added(now, heir, alias, addr),
                Some(AddressState::Tentative) if addr.is_ipv4() => {
                    self.address_probed(heir, alias, addr);
                }
                _ => {}
            }
        }
    }

    pub(super) fn address_duplicate(
        &mut self,
        index: u32,
        alias: AliasId,
        addr: IpAddr,
        mac: [u8; 6],
    ) {
        let mac = crate::stats::mac_text(mac);
        let stack = &self.nodes[index as usize].stack;
        let own = stack.addresses(alias).iter().find(|a| a.cidr.addr == addr);
        let used = own.is_some_and(|a| a.state != AddressState::Duplicate);
        let what = if used { "kept" } else { "not used" };
        let name = stack.name().to_owned();
        self.problem(format!("vserver {name}: {addr} is in use by {mac}; {what}"));
        if !used {
            self.tell_dhcp(|tap| tap.address(index, alias, addr, Some(mac)));
        }
    }

    fn belongs_to(&mut self, index: u32, alias: AliasId, addr: IpAddr, owner: u32) {
        if !self.mesh.is_home() {
            // The home speaks for all. Here stacks may tell in another order than there.
            return;
        }
        let name = |i: u32| self.nodes[i as usize].stack.name().to_owned();
        let (own, other) = (name(index), name(owner));
        self.problem(format!(
            "vserver {own}: {addr} belongs to vserver {other}; not used until that gives it up"
        ));
        self.tell_dhcp(|tap| tap.address(index, alias, addr, Some(format!("vserver {other}"))));
    }

    /// Worker 0 speaks for all.
    fn tell_dhcp(&self, f: impl FnOnce(&Tap)) {
        if let Some(tap) = self.dhcp.as_ref().filter(|_| self.mesh.is_home()) {
            f(tap);
        }
    }
}
