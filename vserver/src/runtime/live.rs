//! Vservers that come and go while a worker runs.
//!
//! A slot of [`Core::nodes`] is never taken away: what a removed vserver leaves is a node without
//! addresses, which costs the hot path no question, until the slot gets its next vserver. Whoever
//! knows a vserver by its slot also knows the slot's generation, and finds out that it is gone.

use std::io;
use std::net::IpAddr;

use weft_shim::layer::Layer;
use weft_stack::drop::DropReason;
use weft_stack::frame::FramePool;
use weft_stack::ip::address::{AliasConfig, AliasId, Cidr, Origin};
use weft_stack::socket::Readiness;
use weft_stack::stack::{Change, Limits, StackConfig};
use weft_stack::time::Instant;

use super::core::{AliasPlace, DRAIN_ROUNDS};
use super::{Core, HostStack, Node};
use crate::config;
use crate::host::build::used_aliases;

/// A slot, the same on every worker, and which of its vservers is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl NodeId {
    /// The slot's next vserver.
    pub(crate) fn next(self) -> NodeId {
        NodeId { generation: self.generation.wrapping_add(1), ..self }
    }
}

/// What handles of a removed vserver answer.
pub(crate) fn removed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the vserver was removed")
}

impl Node {
    /// What stands in a slot without a vserver: every frame for it is a drop, every timer nothing.
    fn vacant(generation: u32, now: Instant) -> Node {
        let pool = FramePool::heap(1, 64);
        let stack = HostStack::with_path(StackConfig::default(), pool, now, Layer::off());
        let mut node = Node::new(stack, Vec::new());
        node.generation = generation;
        node
    }

    /// Takes the place of `old`; what queues of the worker know of the slot stays true.
    fn succeed(mut self, old: &Node) -> Node {
        (self.dirty, self.blocked, self.starved) = (old.dirty, old.blocked, old.starved);
        self
    }
}

impl Core {
    /// The vserver, unless it was removed.
    pub(crate) fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.index as usize).filter(|n| n.generation == id.generation)
    }

    /// The vserver, unless it was removed.
    pub(crate) fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(id.index as usize).filter(|n| n.generation == id.generation)
    }

    /// Who is in a slot now.
    pub(crate) fn id_of(&self, index: u32) -> NodeId {
        NodeId { index, generation: self.nodes[index as usize].generation }
    }

    /// Puts a vserver into a slot that is new or free.
    pub(crate) fn install(&mut self, id: NodeId, mut node: Node) {
        node.generation = id.generation;
        self.shims |= node.stack.path().shim().is_some();
        match self.nodes.get_mut(id.index as usize) {
            Some(slot) => *slot = node.succeed(slot),
            None => self.nodes.push(node),
        }
        self.mark_dirty(id.index);
    }

    /// Removes a vserver: its services end, its connections are reset as far as the devices take
    /// that at once, its addresses and groups are given up, its sockets' waiters are woken.
    pub(crate) fn vacate(&mut self, now: Instant, id: NodeId) {
        if self.node(id).is_none() {
            return;
        }
        let _inside = self.enter();
        self.apps.vacate(id);
        self.any_forget(id.index);
        self.nodes[id.index as usize].stack.drain(now);
        self.transmit_rest(now, id.index);
        let aliases: Vec<AliasId> =
            self.nodes[id.index as usize].stack.aliases().map(|(a, _)| a.id).collect();
        for alias in aliases {
            self.detach(now, id.index, alias);
        }
        self.transmit_rest(now, id.index);
        self.forget_rest(id.index);
        let next = Node::vacant(id.next().generation, now).succeed(&self.nodes[id.index as usize]);
        let old = std::mem::replace(&mut self.nodes[id.index as usize], next);
        self.pins.set(id.index, None);
        for notify in old.sockets.values() {
            notify.fire(Readiness::ERROR);
        }
    }

    /// Sends what a stack has, as far as the devices take it without waiting.
    fn transmit_rest(&mut self, now: Instant, index: u32) {
        for _ in 0..DRAIN_ROUNDS {
            self.settle(now, index);
            self.take_events(now, index);
            let waits = self.nodes[index as usize].stack.wants_transmit();
            if !waits || self.room(index) == 0 {
                return;
            }
        }
    }

    fn take_events(&mut self, now: Instant, index: u32) {
        while let Some(event) = self.nodes[index as usize].stack.poll_event() {
            self.handle_event(now, index, event);
        }
    }

    /// Takes an alias from a vserver, with its addresses.
    pub(crate) fn detach(&mut self, now: Instant, index: u32, alias: AliasId) {
        let stack = &mut self.nodes[index as usize].stack;
        // It is attached, which is all the stack can object to.
        let _ = stack.handle_config(now, Change::AliasRemove(alias));
        self.take_events(now, index);
        self.forget_alias(now, index, alias);
        self.demux.detach(alias, index);
        self.set_links(index);
        self.mark_dirty(index);
    }

    /// The links of a vserver are those of its aliases.
    pub(crate) fn set_links(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        let aliases = node.stack.aliases();
        node.links = aliases.map(|(a, _)| self.aliases[a.id.0 as usize].link()).collect();
        node.links.sort_unstable();
        node.links.dedup();
    }

    /// Addresses and groups that no event of the stack gave up: an alias that is gone has none.
    fn forget_alias(&mut self, now: Instant, index: u32, alias: AliasId) {
        let node = &mut self.nodes[index as usize];
        let addresses = node.addresses.extract_if(.., |(on, _)| *on == alias);
        let addresses: Vec<_> = addresses.map(|(_, addr)| addr).collect();
        let groups = node.groups.extract_if(.., |(on, _)| *on == alias);
        let groups: Vec<_> = groups.map(|(_, group)| group).collect();
        let broadcasts = node.broadcasts.extract_if(.., |(on, _)| *on == alias);
        let broadcasts: Vec<_> = broadcasts.map(|(_, broadcast)| broadcast).collect();
        let link = self.aliases[alias.0 as usize].link();
        for broadcast in broadcasts {
            self.demux.leave(alias, broadcast, index);
            self.steer(link, broadcast, false);
        }
        for addr in addresses {
            self.demux.remove_address(alias, addr, index);
            self.steer(link, addr, false);
            self.keep_address(now, alias, addr, false);
            self.inherit(now, alias, addr);
        }
        for group in groups {
            self.demux.leave(alias, group, index);
            self.steer(link, group, false);
            self.keep_membership(now, alias, group, false);
        }
    }

    /// What queues of this worker have for the vserver.
    fn forget_rest(&mut self, index: u32) {
        self.shares.backlog.retain(|waiting| *waiting != index);
        for _ in self.nodes[index as usize].share.queue.drain(..) {
            self.drops.count(DropReason::DemuxNoVserver);
        }
        self.local.retain(|(to, _)| to.vserver != index);
        self.deadlines.forget(index);
    }

    /// Other limits of a vserver's part of the worker.
    pub(crate) fn set_share(&mut self, id: NodeId, limits: &Limits) {
        if let Some(node) = self.node_mut(id) {
            node.share.set_limits(limits);
        }
    }

    /// Takes up what a stack has to say and to send.
    pub(crate) fn run_now(&mut self, now: Instant, index: u32) {
        self.take_events(now, index);
        self.settle(now, index);
    }

    /// Closes the sockets of services that ended.
    pub(crate) fn finish_services(&mut self, now: Instant) {
        while self.apps.is_ending() && self.run_services(now) {}
    }

    /// Aliases that a vserver is attached to.
    pub(crate) fn aliases_of(&self, id: NodeId) -> Vec<AliasId> {
        self.node(id).into_iter().flat_map(|n| n.stack.aliases()).map(|(a, _)| a.id).collect()
    }

    /// What a vserver that could not be made had got.
    pub(crate) fn unattach(&mut self, id: NodeId, v: &config::Vserver) {
        for alias in used_aliases(v) {
            self.demux.detach(AliasId(alias as u16), id.index);
        }
    }

    /// Frames to everybody on the network of an address are for the vserver too.
    pub(crate) fn join_broadcast(&mut self, id: NodeId, alias: AliasId, cidr: Cidr) {
        let Some(broadcast) = cidr.broadcast() else { return };
        self.demux.join(alias, broadcast, id.index);
        if let Some(node) =
            self.node_mut(id).filter(|n| !n.broadcasts.contains(&(alias, broadcast)))
        {
            node.broadcasts.push((alias, broadcast));
            self.steer(self.aliases[alias.0 as usize].link(), broadcast, true);
        }
    }

    fn forget_broadcast(&mut self, id: NodeId, alias: AliasId, broadcast: IpAddr) {
        self.demux.leave(alias, broadcast, id.index);
        let Some(node) = self.node_mut(id) else { return };
        let before = node.broadcasts.len();
        node.broadcasts.retain(|b| *b != (alias, broadcast));
        if node.broadcasts.len() < before {
            self.steer(self.aliases[alias.0 as usize].link(), broadcast, false);
        }
    }

    /// An address is gone: so are frames to everybody on its network, unless another one is there.
    pub(crate) fn leave_broadcast(&mut self, id: NodeId, alias: AliasId, cidr: Cidr) {
        let Some(broadcast) = cidr.broadcast() else { return };
        let addresses = self.node(id).map(|n| n.stack.addresses(alias)).unwrap_or_default();
        if !addresses.iter().any(|a| a.cidr.broadcast() == Some(broadcast)) {
            self.forget_broadcast(id, alias, broadcast);
        }
    }

    /// The home told which addresses an alias has: frames to everybody on their networks come, on
    /// others they do not.
    pub(super) fn follow_broadcasts(&mut self, id: NodeId, alias: AliasId) {
        let Some(node) = self.node(id) else { return };
        let addresses = node.stack.addresses(alias).iter();
        let wanted: Vec<Cidr> =
            addresses.filter(|a| a.origin != Origin::Slaac).map(|a| a.cidr).collect();
        let joined = node.broadcasts.iter().filter(|(on, _)| *on == alias).map(|(_, b)| *b);
        let gone: Vec<IpAddr> =
            joined.filter(|b| !wanted.iter().any(|w| w.broadcast() == Some(*b))).collect();
        for broadcast in gone {
            self.forget_broadcast(id, alias, broadcast);
        }
        for cidr in wanted {
            self.join_broadcast(id, alias, cidr);
        }
    }

    /// One more alias; its number is the next.
    pub(crate) fn add_alias(&mut self, id: AliasId, place: AliasPlace, mac: Option<[u8; 6]>) {
        self.aliases.truncate(id.0 as usize);
        self.aliases.push(place);
        self.demux.add_alias(place.link(), id, mac);
        self.admit_mac(place);
    }

    /// Takes the last alias away, which nobody is attached to.
    pub(crate) fn remove_alias(&mut self, id: AliasId) {
        if let Some(place) = self.alias_place(id) {
            self.demux.remove_alias(place.link(), id);
            self.aliases.truncate(id.0 as usize);
            self.forget_mac(place);
        }
    }

    /// Another MTU of an alias; `None`: its NIC's.
    pub(crate) fn set_alias_mtu(&mut self, now: Instant, id: AliasId, mtu: Option<usize>) {
        let Some(place) = self.aliases.get_mut(id.0 as usize) else { return };
        place.mtu = mtu;
        let link = place.link();
        self.tell_links(now, link);
    }

    /// The state of an alias's link as it is now.
    pub(crate) fn refresh_link(&self, alias: &mut AliasConfig) {
        if let Some(place) = self.alias_place(alias.id) {
            let link = &self.links[place.link()];
            alias.up = link.up;
            alias.mtu = place.mtu.unwrap_or(link.mtu).min(link.mtu);
        }
    }

    /// What stands on which NIC and what is steered to it, a line each.
    #[cfg(test)]
    pub(crate) fn describe_links(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.aliases.iter().map(|a| format!("{a:?}")).collect();
        for (number, nic) in self.nics.iter().enumerate() {
            lines.extend(nic.steered().map(|(a, n)| format!("nic {number} steers {a} for {n}")));
            lines.extend(nic.macs().map(|(m, n)| format!("nic {number} takes {m:?} for {n}")));
        }
        for (number, link) in self.layout.links.iter().enumerate() {
            if *link != weft_interface::LinkSpec::Nothing {
                let mut link = link.clone();
                if let weft_interface::LinkSpec::Group { mac, .. } = &mut link {
                    // That of the first member it ever had, which stacks alone see.
                    *mac = None;
                }
                lines.push(format!("link {number} is {link:?}, up {}", self.links[number].up));
            }
        }
        lines
    }

    /// Where an alias stands, if there is one.
    pub(crate) fn alias_place(&self, alias: AliasId) -> Option<AliasPlace> {
        self.aliases.get(alias.0 as usize).copied()
    }
}
