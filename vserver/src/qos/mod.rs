//! Rates, shares and priorities of links, groups, vservers, classes and clients, in both directions.
//!
//! Frames that vservers send wait in the [`tree::Tree`] of their NIC, as long as stacks are asked for
//! no more than fits; frames that they receive wait too, shortly, or are policed. One [`Shaper`] per
//! worker; all of them share the buckets of one [`plan::Plan`]. See `docs/qos.md`.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use weft_stack::frame::Frame;
use weft_stack::ip::address::AliasId;
use weft_stack::time::Instant;

use crate::config::HostConfig;
use crate::config::qos::{Class, Match};
use crate::demux::Target;
use crate::facts::Facts;

mod bucket;
mod clients;
mod codel;
mod mark;
mod node;
mod plan;
mod report;
#[cfg(test)]
mod shaper_tests;
mod tree;
#[cfg(test)]
mod tree_tests;

pub use plan::Way;
pub(crate) use plan::{Plan, WayPlan, nics_of, rates_of};
pub(crate) use report::take;
pub use report::{ClassClients, Kind, Processing, QosNode, QosSnapshot};

use bucket::{Lateness, ticks};
use clients::Leaves;
use node::{Cost, Shape, add};
use plan::{Entry, prefix};
use tree::{Planned, Tree, Unit};

/// What becomes of a received packet.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Goes on, perhaps with a mark.
    Pass(Frame),
    /// Waits for its turn: [`Shaper::release`] gives it.
    Wait,
    /// Over its rate; counted by the tree (which class) and as `QosPoliced` of the vserver.
    Drop(Frame),
}

/// A frame that waits.
struct Waiting {
    frame: Frame,
    facts: Facts,
}

impl Unit for Waiting {
    fn cost(&self) -> Cost {
        Cost { bytes: self.facts.bytes, packets: self.facts.packets }
    }

    fn mark(&mut self) -> bool {
        mark::set_ce(&mut self.frame, &self.facts)
    }
}

/// A frame that a queue lost after it had taken it.
pub(crate) struct Lost {
    pub(crate) way: Way,
    pub(crate) vserver: u32,
    pub(crate) frame: Frame,
}

/// One NIC in one direction.
struct Lane {
    way: Way,
    tree: Tree<Waiting>,
    entries: Vec<Option<Entry>>,
    /// By vserver and class.
    clients: HashMap<(u32, usize), Leaves>,
    /// Vservers that wait for room.
    blocked: Vec<bool>,
}

fn fits(m: &Match, facts: &Facts, peer: (IpAddr, u16), port: u16) -> bool {
    let within = |port: u16, (low, high): (u16, u16)| low <= port && port <= high;
    let service = |(protocol, low, high): &(u8, u16, u16)| {
        *protocol == facts.protocol && within(port, (*low, *high))
    };
    (m.dscp.is_empty() || m.dscp.contains(&facts.dscp))
        && (m.services.is_empty() || m.services.iter().any(service))
        && (m.peer_ports.is_empty() || m.peer_ports.iter().any(|p| within(peer.1, *p)))
        && (m.clients.is_empty() && m.names.is_empty()
            || m.clients.iter().any(|c| c.contains(peer.0))
            || m.names.iter().any(|n| n.addresses.contains(&peer.0)))
}

/// The class of a packet: its number, `classes.len()` for `default`.
fn class_of(classes: &[Class], way: Way, facts: &Facts) -> (usize, IpAddr) {
    let (peer, port) = match way {
        Way::Send => ((facts.destination, facts.destination_port), facts.source_port),
        Way::Receive => ((facts.source, facts.source_port), facts.destination_port),
    };
    let found = classes.iter().position(|c| fits(&c.matches, facts, peer, port));
    (found.unwrap_or(classes.len()), peer.0)
}

/// What a class writes into its packets.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    /// Into what is sent.
    dscp: Option<u8>,
    /// For policy routing, of what is received; 0: none.
    route: u32,
}

impl Lane {
    fn new(way: Way, plan: &WayPlan, me: usize) -> Option<Lane> {
        plan.is_active().then(|| Lane {
            way,
            tree: Tree::new(&plan.nodes, me),
            entries: plan.entries.clone(),
            clients: HashMap::new(),
            blocked: vec![false; plan.entries.len()],
        })
    }

    fn entry(&self, vserver: u32) -> Option<&Entry> {
        self.entries.get(vserver as usize)?.as_ref()
    }

    /// The leaf for a packet, and the marks that its class gives.
    fn leaf(&mut self, facts: &Facts) -> Option<(u32, Marks)> {
        let entry = self.entries.get(facts.vserver as usize)?.as_ref()?;
        if entry.classes.is_empty() {
            return Some((entry.first, Marks::default()));
        }
        let (number, peer) = class_of(&entry.classes, self.way, facts);
        let class = entry.first + number as u32;
        let class_marks = |c: &Class| Marks { dscp: c.mark, route: c.route_mark };
        let mark = entry.classes.get(number).map(class_marks).unwrap_or_default();
        let Some(Some(clients)) = entry.clients.get(number) else { return Some((class, mark)) };
        let leaves = self
            .clients
            .entry((facts.vserver, number))
            .or_insert_with(|| Leaves::new(Arc::clone(clients)));
        let client = prefix(peer, leaves.clients.each);
        if let Some(leaf) = leaves.find(client) {
            return Some((leaf, mark));
        }
        let rates = self.way.of(&entry.classes[number].rates);
        let leaf = admit_client(&mut self.tree, leaves, client, class, rates);
        Some((leaf, mark))
    }

    /// Frames that a vserver may be asked for.
    fn room(&self, vserver: u32) -> usize {
        let Some(entry) = self.entry(vserver) else { return usize::MAX };
        let count = entry.classes.len() as u32;
        let leaves = entry.first..=entry.first + count;
        let room = leaves.map(|leaf| self.tree.room(leaf)).max().unwrap_or(0);
        if count == 0 { room } else { room.max(self.clients_room(vserver)) }
    }

    /// A class with clients has room as long as it has a client without a queue.
    fn clients_room(&self, vserver: u32) -> usize {
        let Some(entry) = self.entry(vserver) else { return 0 };
        if entry.clients.iter().any(Option::is_some) { 16 } else { 0 }
    }
}

/// A leaf for a client that is new to this worker.
fn admit_client(
    tree: &mut Tree<Waiting>,
    leaves: &mut Leaves,
    client: IpAddr,
    class: u32,
    rates: crate::config::qos::Rates,
) -> u32 {
    let above = tree.planned(class).clone();
    let ceiling = rates.limit.into_iter().chain(above.shape.ceiling).min();
    let shape = Shape::new(rates, ceiling);
    let workers = above.place.heads.len();
    let plan = |state| Planned {
        parent: Some(class),
        shape,
        state,
        place: node::Place::new(workers),
        scarce: above.scarce || rates.limit.or(rates.limit_packets).is_some(),
        held: false,
    };
    if leaves.make_room(|leaf| tree.remove_leaf(leaf))
        && let Some(state) = leaves.clients.state(client)
    {
        let leaf = tree.add_leaf(plan(state));
        leaves.insert(client, leaf);
        return leaf;
    }
    add(&above.state.counts.crowded, 1);
    *leaves.crowd.get_or_insert_with(|| tree.add_leaf(plan(Arc::default())))
}

/// The classes of all vservers on one worker, what they used, what waits for NICs and stacks.
#[derive(Default)]
pub(crate) struct Shaper {
    active: bool,
    send: Vec<Option<Lane>>,
    receive: Vec<Option<Lane>>,
    /// The NIC of each alias.
    nics: Vec<usize>,
    /// Vservers that waited for room and have some.
    ready: Vec<u32>,
    lost: Vec<Lost>,
    lateness: Lateness,
}

impl Shaper {
    /// Takes over a plan; what waits goes on by the new one. Returns what has no place there.
    pub(crate) fn update(&mut self, now: Instant, plan: &Plan, nics: Vec<usize>, me: usize) {
        let mut waiting = Vec::new();
        for (nic, lane) in
            self.send.iter_mut().enumerate().filter_map(|(i, l)| Some((i, l.as_mut()?)))
        {
            waiting.extend(lane.tree.drain().into_iter().map(|w| (Way::Send, nic, w)));
            let blocked = lane.blocked.iter().enumerate().filter(|(_, b)| **b);
            self.ready.extend(blocked.map(|(v, _)| v as u32));
        }
        for (nic, lane) in
            self.receive.iter_mut().enumerate().filter_map(|(i, l)| Some((i, l.as_mut()?)))
        {
            waiting.extend(lane.tree.drain().into_iter().map(|w| (Way::Receive, nic, w)));
        }
        self.active = !plan.is_empty();
        self.nics = nics;
        self.send = plan.send.iter().map(|p| Lane::new(Way::Send, p, me)).collect();
        self.receive = plan.receive.iter().map(|p| Lane::new(Way::Receive, p, me)).collect();
        for (way, nic, Waiting { frame, facts }) in waiting {
            let lanes = if way == Way::Send { &mut self.send } else { &mut self.receive };
            // Where its alias stands now.
            let nic = self.nics.get(usize::from(facts.alias.0)).copied().unwrap_or(nic);
            let lost = match lanes.get_mut(nic).and_then(Option::as_mut) {
                Some(lane) => put(lane, now, &facts, frame).err(),
                None => Some(frame),
            };
            if let Some(frame) = lost {
                self.lost.push(Lost { way, vserver: facts.vserver, frame });
            }
        }
    }

    /// Whether anything is configured. Asked per frame.
    #[inline]
    pub(crate) fn is_active(&self) -> bool {
        self.active
    }

    /// A worker looks again; something could have been done since `due`. What the buckets did not
    /// give since then they still give.
    pub(crate) fn begin(&mut self, now: Instant, due: Option<Instant>) {
        let late = self.lateness.look(ticks(now), due.map(ticks));
        for lane in self.send.iter_mut().chain(&mut self.receive).flatten() {
            lane.tree.late = late;
        }
    }

    fn receiving(&self, facts_alias: usize) -> Option<&Lane> {
        self.receive.get(*self.nics.get(facts_alias)?)?.as_ref()
    }

    /// Whether received frames for this one are limited or marked.
    #[inline]
    pub(crate) fn polices(&self, to: Target) -> bool {
        self.active
            && self.receiving(to.alias.0 as usize).is_some_and(|l| l.entry(to.vserver).is_some())
    }

    /// Whether frames for this NIC wait here for their turn. Frames that are not IP do not.
    #[inline]
    pub(crate) fn shapes(&self, nic: usize) -> bool {
        self.send.get(nic).is_some_and(Option::is_some)
    }

    /// A frame for a vserver arrived: counts it, may mark it or keep it for a while.
    pub(crate) fn police(&mut self, now: Instant, facts: &Facts, frame: Frame) -> Verdict {
        let nic = self.nics.get(facts.alias.0 as usize).copied();
        let lane = nic.and_then(|nic| self.receive.get_mut(nic)?.as_mut());
        let Some(lane) = lane else { return Verdict::Pass(frame) };
        let Some((leaf, marks)) = lane.leaf(facts) else { return Verdict::Pass(frame) };
        let mut unit = Waiting { frame, facts: *facts };
        if marks.route != 0 {
            unit.frame.meta.mark = marks.route;
        }
        let polices = lane.tree.planned(leaf).shape.rates.queue == Some(0);
        if polices || (!lane.tree.waits() && lane.tree.is_unlimited(now, leaf)) {
            if lane.tree.police(now, leaf, &mut unit, polices) {
                return Verdict::Pass(unit.frame);
            }
            return Verdict::Drop(unit.frame);
        }
        if !lane.tree.has_room(leaf, unit.cost()) {
            lane.tree.count_full(leaf, unit.cost());
            return Verdict::Drop(unit.frame);
        }
        // A frame that waits is not to keep the device from receiving.
        unit.frame = unit.frame.to_heap();
        lane.tree.enqueue(now, leaf, unit);
        Verdict::Wait
    }

    /// A frame received from a NIC whose turn it is.
    pub(crate) fn release(&mut self, now: Instant, nic: usize) -> Option<(Target, Frame)> {
        let lane = self.receive.get_mut(nic)?.as_mut().filter(|l| l.tree.waits())?;
        let unit = lane.tree.dequeue(now);
        take_lost(lane, &mut self.lost);
        let Waiting { frame, facts } = unit?;
        Some((Target { alias: facts.alias, vserver: facts.vserver }, frame))
    }

    /// Frames that queues lost since the last time.
    pub(crate) fn take_lost(&mut self) -> Option<Lost> {
        self.lost.pop()
    }

    /// Frames that a vserver may send to a shaped NIC now.
    pub(crate) fn room(&self, nic: usize, vserver: u32) -> usize {
        self.send.get(nic).and_then(Option::as_ref).map_or(usize::MAX, |l| l.room(vserver))
    }

    /// The vserver found no room; [`Shaper::take_ready`] tells when there is some.
    pub(crate) fn await_room(&mut self, nic: usize, vserver: u32) {
        let lane = self.send.get_mut(nic).and_then(Option::as_mut);
        match lane.and_then(|l| l.blocked.get_mut(vserver as usize)) {
            Some(blocked) => *blocked = true,
            None => self.ready.push(vserver),
        }
    }

    /// A vserver that waited for room and has some.
    pub(crate) fn take_ready(&mut self) -> Option<u32> {
        self.ready.pop()
    }

    /// Takes a frame for a shaped NIC; given back: there was no room for its class, which the tree
    /// counted.
    pub(crate) fn enqueue(
        &mut self,
        now: Instant,
        nic: usize,
        facts: &Facts,
        frame: Frame,
    ) -> Result<(), Frame> {
        let Some(lane) = self.send.get_mut(nic).and_then(Option::as_mut) else { return Err(frame) };
        put(lane, now, facts, frame)
    }

    /// Whether frames wait for a NIC.
    #[inline]
    pub(crate) fn waits(&self, nic: usize) -> bool {
        self.send.get(nic).and_then(Option::as_ref).is_some_and(|l| l.tree.waits())
    }

    /// The next frame that may go to a NIC now, and the alias it leaves by.
    pub(crate) fn dequeue(&mut self, now: Instant, nic: usize) -> Option<(AliasId, Frame)> {
        let lane = self.send.get_mut(nic)?.as_mut()?;
        let unit = lane.tree.dequeue(now);
        for lost in &lane.tree.lost {
            unblock(
                &lane.entries,
                &mut lane.blocked,
                &lane.tree,
                &mut self.ready,
                lost.facts.vserver,
            );
        }
        take_lost(lane, &mut self.lost);
        let unit = unit?;
        let vserver = unit.facts.vserver;
        unblock(&lane.entries, &mut lane.blocked, &lane.tree, &mut self.ready, vserver);
        Some((unit.facts.alias, unit.frame))
    }

    /// When [`Shaper::release`] or, for one of the NICs that have room, [`Shaper::dequeue`] has a
    /// frame at the earliest.
    pub(crate) fn next_deadline(&self, has_room: impl Fn(usize) -> bool) -> Option<Instant> {
        let send = self.send.iter().enumerate().filter_map(|(i, l)| Some((i, l.as_ref()?)));
        let send =
            send.filter(|(_, l)| l.tree.waits()).filter(|(i, _)| has_room(*i)).map(|(_, l)| l);
        send.chain(self.receive.iter().flatten()).filter_map(|l| l.tree.next_deadline()).min()
    }
}

/// Tells a vserver that waits for room if it has some.
fn unblock(
    entries: &[Option<Entry>],
    blocked: &mut [bool],
    tree: &Tree<Waiting>,
    ready: &mut Vec<u32>,
    vserver: u32,
) {
    let Some(waits) = blocked.get_mut(vserver as usize).filter(|b| **b) else { return };
    let Some(Some(entry)) = entries.get(vserver as usize) else { return };
    let count = entry.classes.len() as u32;
    if count > 0 || tree.has_half(entry.first) {
        *waits = false;
        ready.push(vserver);
    }
}

fn take_lost(lane: &mut Lane, lost: &mut Vec<Lost>) {
    let way = lane.way;
    let all = lane.tree.lost.drain(..);
    lost.extend(all.map(|w| Lost { way, vserver: w.facts.vserver, frame: w.frame }));
}

/// Puts a frame in its class's queue, with the class's DSCP if it is sent.
fn put(lane: &mut Lane, now: Instant, facts: &Facts, mut frame: Frame) -> Result<(), Frame> {
    let Some((leaf, Marks { dscp, .. })) = lane.leaf(facts) else { return Err(frame) };
    let mut facts = *facts;
    if lane.way == Way::Send
        && let Some(dscp) = dscp
    {
        mark::set_dscp(&mut frame, &facts, dscp);
        facts.dscp = dscp;
    }
    let mut unit = Waiting { frame, facts };
    if unit.frame.is_scarce() {
        // It may wait for long: others need the device's frames.
        unit.frame = unit.frame.to_heap();
    }
    if !lane.tree.has_room(leaf, unit.cost()) {
        lane.tree.count_full(leaf, unit.cost());
        return Err(unit.frame);
    }
    lane.tree.enqueue(now, leaf, unit);
    Ok(())
}

/// The plan of a configuration, going on from an earlier one.
pub(crate) fn plan(config: &HostConfig, before: Option<&Plan>) -> Arc<Plan> {
    Arc::new(Plan::new(&plan::Source::of(config), before))
}
