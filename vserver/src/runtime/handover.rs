//! What a worker gives to the others and takes from them: frames of their flows, packets of their
//! shards, frames for their queues, and what they have to know.

use std::net::IpAddr;

use weft_stack::drop::DropReason;
use weft_stack::frame::Frame;
use weft_stack::ip::address::AliasId;
use weft_stack::shard::{Owner, frame_owner};
use weft_stack::stack::{Change, ChangeError};
use weft_stack::time::Instant;

use super::core::LOCAL_FRAMES_MAX;
use super::mesh::{Control, Message};
use super::stages::Stage;
use super::tx_queue::IN_ORDER;
use super::{Core, NodeId};
use weft_drivers::device::Link;

/// Messages taken from one worker in one turn.
pub(super) const MAIL: usize = 256;

/// Whether a frame is to a group or to everybody.
pub(super) fn is_to_many(frame: &[u8], ethernet: bool) -> bool {
    let first = |at: usize| frame.get(at).copied().unwrap_or(0);
    match first(0) >> 4 {
        _ if ethernet => first(0) & 1 == 1,
        4 => first(16) >= 224,
        _ => first(24) == 0xff,
    }
}

impl Core {
    pub(super) fn owner(&self, link: usize, frame: &Frame) -> Owner {
        frame_owner(frame.data(), self.links[link].ethernet, self.mesh.count() as u16)
    }

    /// Hands a frame that arrived here to the worker of its flow; `Some`: it is for this one.
    #[inline]
    pub(super) fn keep(&mut self, now: Instant, link: usize, frame: Frame) -> Option<Frame> {
        match self.owner(link, &frame) {
            Owner::Shard(worker) if !self.pins.is_empty() => {
                self.keep_or_send_home(now, link, frame, worker.into())
            }
            Owner::Shard(worker) if usize::from(worker) == self.mesh.me() => Some(frame),
            Owner::Shard(worker) => {
                self.hand_arrived(worker.into(), link, frame);
                None
            }
            Owner::All => self.share(link, frame),
        }
    }

    pub(super) fn hand_arrived(&mut self, worker: usize, link: usize, frame: Frame) {
        self.mesh.stats.arrived += 1;
        self.hand(worker, Message::Arrived { link, frame });
    }

    /// Copies of ARP and neighbour discovery for the other shards of the vservers they concern.
    fn share(&mut self, link: usize, frame: Frame) -> Option<Frame> {
        self.targets.clear();
        let known = self.demux.classify(link, frame.data(), &mut self.targets).is_ok();
        if known {
            for worker in self.mesh.others() {
                self.mesh.stats.copies += 1;
                self.hand(worker, Message::Arrived { link, frame: frame.to_heap() });
            }
        } else if !self.mesh.is_home() {
            // Only shard 0 is in the groups of addresses that are still being tried.
            self.mesh.stats.arrived += 1;
            self.hand(0, Message::Arrived { link, frame });
            return None;
        }
        Some(frame)
    }

    fn hand(&mut self, worker: usize, message: Message) {
        if !self.mesh.send(worker, message) {
            self.drops.count(DropReason::HandOverFull);
        }
    }

    /// A frame of a vserver, with several workers; `self.targets` are its receivers here by this
    /// worker's tables.
    pub(super) fn emit_across(
        &mut self,
        now: Instant,
        link: usize,
        from: (u32, AliasId),
        frame: Frame,
        only_here: bool,
    ) {
        let sender = from.0;
        let at_home = !self.pins.is_empty() && self.emit_home(link, sender, &frame);
        let nobody = self.targets.is_empty();
        match self.owner(link, &frame) {
            Owner::Shard(worker) if usize::from(worker) != self.mesh.me() => {
                // Who is in a group of this port is known there.
                let to_many = is_to_many(frame.data(), self.links[link].ethernet);
                if !nobody || to_many {
                    self.mesh.stats.copies += u64::from(!only_here);
                    self.mesh.stats.local += u64::from(only_here);
                    let frame = frame.to_heap();
                    self.hand(worker.into(), Message::Local { link, sender, frame });
                }
            }
            Owner::Shard(_) => self.push_local(&frame),
            Owner::All => {
                for worker in self.mesh.others().filter(|_| !nobody) {
                    self.mesh.stats.copies += 1;
                    let frame = frame.to_heap();
                    self.hand(worker, Message::Local { link, sender, frame });
                }
                self.push_local(&frame);
            }
        }
        if !only_here {
            self.send_out(now, link, from, frame);
        } else if nobody && !at_home {
            self.drops.count(DropReason::DemuxNoVserver);
        }
    }

    pub(super) fn push_local(&mut self, frame: &Frame) {
        for target in &self.targets {
            if self.local.len() >= LOCAL_FRAMES_MAX {
                self.drops.count(DropReason::OutQueueFull);
                continue;
            }
            // Linear, so that the payload no longer belongs to the sender's buffer.
            self.local.push_back((*target, frame.to_heap()));
        }
    }

    /// A frame that leaves by a NIC now, or by the worker that has its queue.
    pub(super) fn give_nic(&mut self, nic: usize, vserver: u32, frame: Frame) {
        let Some(worker) = self.nics[nic].via else {
            return self.nics[nic].enqueue(vserver, frame);
        };
        self.mesh.stats.transmits += 1;
        if !self.mesh.transmit(worker, nic, frame) {
            self.drops.count(DropReason::HandOverFull);
        }
    }

    /// Packets that a stack found to be another shard's.
    pub(super) fn hand_moved(&mut self, index: u32) {
        let vserver = self.id_of(index);
        while let Some(moved) = self.nodes[index as usize].stack.poll_moved() {
            self.mesh.stats.moved += 1;
            let (alias, looped, frame) = (moved.alias, moved.looped, moved.frame);
            // A looped packet may lie in the sender's buffer, which is this worker's.
            let frame = if looped { frame.to_heap() } else { frame };
            let message = Message::Moved { vserver, alias, looped, frame };
            self.hand(moved.to.into(), message);
        }
    }

    /// Takes what other workers gave; returns whether there was something.
    pub(super) fn take_mail(&mut self, now: Instant) -> bool {
        let mut work = false;
        for worker in self.mesh.others() {
            // Frames of one link in a row are a burst, to be merged as one from a queue.
            let (mut burst, mut messages) = (None, 0);
            self.stages.start();
            for _ in 0..self.mesh.waiting(worker).min(MAIL) {
                let Some(message) = self.mesh.receive(worker) else { break };
                work = true;
                messages += 1;
                let (link, frame, home) = match message {
                    Message::Arrived { link, frame } => (link, frame, false),
                    Message::Home { link, frame } => (link, frame, true),
                    other => {
                        self.take(now, other);
                        continue;
                    }
                };
                if let Some(other) = burst.replace(link).filter(|other| *other != link) {
                    self.stages.lap(Stage::HandOver, std::mem::take(&mut messages));
                    self.deliver_link(now, other);
                }
                if home {
                    self.classify_home(now, link, frame);
                } else {
                    self.classify(now, link, frame);
                }
            }
            self.stages.lap(Stage::HandOver, messages);
            if let Some(link) = burst {
                self.deliver_link(now, link);
            }
            while let Some(nic) = self.mesh.transmit_waits(worker) {
                if self.nics[nic].room() == 0 {
                    break;
                }
                let Some((nic, frame)) = self.mesh.take_transmit(worker) else { break };
                self.nics[nic].enqueue(IN_ORDER, frame);
                work = true;
            }
        }
        work
    }

    #[inline]
    pub(super) fn has_mail(&self) -> bool {
        self.mesh.count() > 1 && self.mesh.has_mail(|nic| self.nics[nic].room() > 0)
    }

    pub(super) fn take(&mut self, now: Instant, message: Message) {
        match message {
            // Part of a burst.
            Message::Arrived { .. } | Message::Home { .. } => {}
            Message::Control { link, frame } => self.give_machines(link, frame),
            Message::Local { link, sender, frame } => {
                self.targets.clear();
                self.demux.local(link, frame.data(), sender, &mut self.targets);
                self.keep_spread(link, &frame);
                if self.targets.is_empty() {
                    return self.lose_here(link, &frame, None);
                }
                self.push_local(&frame);
            }
            Message::HomeLocal { link, sender, frame } => {
                self.targets.clear();
                self.demux.local(link, frame.data(), sender, &mut self.targets);
                self.keep_at_home(link, &frame);
                if self.targets.is_empty() {
                    return self.lose_here(link, &frame, None);
                }
                self.push_local(&frame);
            }
            Message::Moved { vserver, alias, looped, frame } => {
                let Some(node) = self.node_mut(vserver) else { return self.mesh.stats.stale += 1 };
                node.stack.handle_moved(now, alias, looped, frame);
                self.mark_dirty(vserver.index);
            }
            Message::Told(control) => self.heed(now, *control),
        }
    }

    pub(super) fn heed(&mut self, now: Instant, control: Control) {
        match control {
            Control::Addresses { vserver, edition, alias, addresses } => {
                let change = Change::AddressesAdopt { alias, addresses };
                let node = self.node_mut(vserver).filter(|n| n.edition <= edition);
                let Some(node) = node else { return self.mesh.stats.stale += 1 };
                if let Err(e) = node.stack.handle_config(now, change)
                    // It was detached here a moment before.
                    && !matches!(e, ChangeError::NoAlias(_))
                {
                    let worker = self.mesh.me();
                    self.problem(format!(
                        "addresses of vserver number {} on worker {worker}: {e}",
                        vserver.index
                    ));
                }
                self.follow_broadcasts(vserver, alias);
                self.mark_dirty(vserver.index);
            }
            Control::Group { vserver, worker, alias, group, filter } => {
                let Some(node) = self.node_mut(vserver) else { return self.mesh.stats.stale += 1 };
                let key = (worker, alias, group);
                let before = node.groups_elsewhere.remove(&key).unwrap_or_default();
                node.stack.adopt_group(now, (alias, group), &before, &filter);
                if filter != weft_stack::stack::GroupFilter::Nothing {
                    node.groups_elsewhere.insert(key, filter);
                }
                self.mark_dirty(vserver.index);
            }
            Control::Link { nic, link } => self.link_is(now, nic, link),
            Control::Selection(selection) => self.select(now, &selection),
            Control::Failed { nic } => {
                self.nics[nic].fail();
                let link = Link { up: false, ..self.nics[nic].link };
                self.link_is(now, nic, link);
            }
        }
    }

    /// Whether no stack has anything to say, and nothing is on the way between workers.
    #[cfg(test)]
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.dirty.is_empty() && !self.has_mail() && !self.mesh.is_to_ring()
    }

    /// Shard 0's addresses changed: the others follow.
    pub(super) fn tell_addresses(&mut self, vserver: u32, alias: AliasId) {
        let addresses = self.nodes[vserver as usize].stack.addresses(alias).to_vec();
        let edition = self.nodes[vserver as usize].edition;
        let vserver = self.id_of(vserver);
        self.mesh.tell_all(&Control::Addresses { vserver, edition, alias, addresses });
    }

    /// Addresses of a vserver are changed on all workers, here now: what the home told before it
    /// was changed too would take that back, and counts no more. The number is larger than that of
    /// any change before. To be called again after the change; the home tells what it has then.
    pub(crate) fn set_edition(&mut self, vserver: NodeId, edition: u64) {
        let Some(node) = self.node_mut(vserver) else { return };
        node.edition = node.edition.max(edition);
    }

    /// After a change that was made on all workers: others follow the home again.
    pub(crate) fn tell_edition(&mut self, vserver: NodeId) {
        if self.mesh.is_home() && self.mesh.count() > 1 {
            for alias in self.aliases_of(vserver) {
                self.tell_addresses(vserver.index, alias);
            }
        }
    }

    /// Shard 0 speaks to multicast routers for this one.
    pub(super) fn tell_group(&mut self, vserver: u32, alias: AliasId, group: IpAddr) {
        let filter = self.nodes[vserver as usize].stack.group_filter(alias, group);
        let (vserver, worker) = (self.id_of(vserver), self.mesh.me());
        self.mesh.tell(0, Control::Group { vserver, worker, alias, group, filter });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Host, config};

    #[test]
    fn what_the_home_told_before_a_change_takes_no_broadcast_away_for_good() {
        let text = "[workers]\ncount = 2\n[nic.eth0]\ndriver = \"mem\"\nmac = \"02:00:00:00:00:01\"\n\
                    [alias.data0]\nover = \"eth0\"\n[vserver.a]\nacd = \"off\"\n\
                    addresses = [\"data0 10.0.0.1/24\", \"data0 10.0.0.2/24\"]\n";
        let host = Host::start(config::parse(text, "t.toml".as_ref()).unwrap()).unwrap();
        let (vserver, alias) = (NodeId::default(), AliasId(0));
        let mut core = host.shared.workers[1].lock();
        let both = core.node(vserver).unwrap().stack.addresses(alias).to_vec();
        assert_eq!(both.len(), 2);
        let tell = |core: &mut Core, addresses: &[_]| {
            let addresses = addresses.to_vec();
            let news = Control::Addresses { vserver, edition: 0, alias, addresses };
            core.heed(Instant::ZERO, news);
            core.node(vserver).unwrap().broadcasts.len()
        };
        // The second was added here; the home, told so a moment later, speaks of the first alone.
        assert_eq!(tell(&mut core, &both[..1]), 1);
        assert_eq!(tell(&mut core, &[]), 0);
        assert_eq!(tell(&mut core, &both), 1);
        let broadcast: IpAddr = "10.0.0.255".parse().unwrap();
        let all = core.demux.describe(&|_| String::from("a"));
        assert!(all.contains(&format!("{alias:?} {broadcast} has a")), "{all:#?}");
    }

    const TWO: &str = "[workers]\ncount = 2\n\
        [nic.eth0]\ndriver = \"mem\"\nmac = \"02:00:00:00:00:01\"\n[alias.data0]\nover = \"eth0\"\n\
        [vserver.a]\nacd = \"off\"\naddresses = [\"data0 10.0.0.1/24\"]\n\
        [vserver.b]\nacd = \"off\"\naddresses = [\"data0 10.0.0.2/24\"]\n";

    /// Both workers turn until neither has anything to do, and are held.
    fn rest(cores: &mut [parking_lot::MutexGuard<'_, Core>], now: Instant) {
        while cores.iter_mut().any(|core| !core.is_quiet()) {
            for core in cores.iter_mut() {
                core.turn(now);
            }
        }
    }

    #[test]
    fn a_vserver_that_takes_an_address_over_has_it_in_whatever_order_stacks_tell() {
        let alias = AliasId(0);
        for first in [0, 1] {
            let host = Host::start(config::parse(TWO, "t.toml".as_ref()).unwrap()).unwrap();
            let mut cores: Vec<_> = host.shared.workers.iter().map(|w| w.lock()).collect();
            let now = host.shared.home().clock.now();
            rest(&mut cores, now);
            let core = &mut cores[1];
            let nodes = [1, 0].map(|index| &core.nodes[index]);
            let both = nodes.map(|node| node.stack.addresses(alias)).concat();
            // This one's events are taken first.
            core.mark_dirty(first);
            for (index, addresses) in [(0, Vec::new()), (1, both)] {
                let vserver = core.id_of(index);
                core.heed(now, Control::Addresses { vserver, edition: 0, alias, addresses });
            }
            rest(&mut cores, now);
            let core = &cores[1];
            let all = core.demux.describe(&|v| ["a", "b"][v as usize].to_owned());
            let of: Vec<_> = all.iter().filter(|l| l.contains("10.0.0.1 ")).collect();
            assert_eq!(of, [&format!("{alias:?} 10.0.0.1 is b")], "{first} first: {all:#?}");
            assert_eq!(core.nodes[1].addresses.len(), 2);
            assert_eq!(core.nodes[0].addresses, []);
            assert_eq!(core.problems, Vec::<String>::new());
        }
    }

    #[test]
    fn what_the_home_told_before_a_change_takes_no_address_away() {
        let host = Host::start(config::parse(TWO, "t.toml".as_ref()).unwrap()).unwrap();
        let mut cores: Vec<_> = host.shared.workers.iter().map(|w| w.lock()).collect();
        let now = host.shared.home().clock.now();
        rest(&mut cores, now);
        let (vserver, alias) = (cores[0].id_of(0), AliasId(0));
        let stale = cores[1].mesh.stats.stale;
        // It told, the other worker is changed, has the news, and only then the home is changed.
        cores[0].tell_addresses(0, alias);
        let add = |core: &mut Core| {
            core.set_edition(vserver, 7);
            let cidr = "10.0.0.3/24".parse().unwrap();
            let node = core.node_mut(vserver).unwrap();
            node.stack.handle_config(now, Change::AddressAdd { alias, cidr }).unwrap();
            core.mark_dirty(0);
        };
        add(&mut cores[1]);
        cores[1].turn(now);
        assert_eq!(cores[1].nodes[0].stack.addresses(alias).len(), 2);
        assert_eq!(cores[1].mesh.stats.stale, stale + 1);
        add(&mut cores[0]);
        cores[0].tell_edition(vserver);
        rest(&mut cores, now);
        assert_eq!(cores[1].nodes[0].stack.addresses(alias).len(), 2);
        // What it tells from then on counts.
        let change = Change::AddressRemove { alias, addr: "10.0.0.3".parse().unwrap() };
        cores[0].node_mut(vserver).unwrap().stack.handle_config(now, change).unwrap();
        cores[0].mark_dirty(0);
        rest(&mut cores, now);
        assert_eq!(cores[1].nodes[0].stack.addresses(alias).len(), 1);
        assert_eq!(cores[1].mesh.stats.stale, stale + 1);
    }
}
