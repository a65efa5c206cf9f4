//! Devices, stacks and the demultiplexer of one worker: everything its lock protects.
//!
//! [`Core::turn`] does one bounded round of work. Nothing here loops over vservers: a frame marks
//! the stack it went to as dirty, and only dirty stacks are polled.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use weft_drivers::device::{Device, Link};
use weft_interface::doctor::Station;
use weft_interface::plane::Seen;
use weft_interface::{Layout, LinkId, Mac, Plane};
use weft_stack::drop::Drops;
use weft_stack::frame::{Entered, Frame, FrameDomain};
use weft_stack::ip::address::AliasId;
use weft_stack::link::gro::Gro;
use weft_stack::socket::{Event, Readiness};
use weft_stack::stack::{Change, TxBurst};
use weft_stack::time::{Duration, Instant};

use super::above::{self, Above, Machines};
use super::any::Takers;
use super::captures::LiveCaptures;
use super::deadlines::Deadlines;
use super::keeping::Keeping;
use super::mesh::{Control, Mesh};
use super::seat::Polling;
use super::shares::{ShareStats, Shares};
use super::stages::{Stage, Stages};
use super::{Calls, NeighbourTables, Nic, Node, NodeId, Pins};
use crate::app::{Service, Services};
use crate::config::PollMode;
use crate::connect::Heard;
use crate::demux::{Demux, Target};
use crate::dhcp::Tap;
use crate::qos::{Plan, Shaper};

/// Frames received from a queue, or taken from a stack, at a time.
pub(super) const BURST: usize = 64;
/// Stacks whose timers run in one round.
const TIMERS_PER_TURN: usize = 256;
/// Frames between vservers of this host that may wait before senders wait.
pub(super) const LOCAL_QUEUE: usize = 1024;
/// The same with the copies for members of a group, of which one frame can make many.
pub(super) const LOCAL_FRAMES_MAX: usize = 16 * LOCAL_QUEUE;
/// When to look again after a device that took no more frames, or has some in flight; twice as
/// long each time that nothing moved, up to the maximum.
const RETRY_MIN: Duration = Duration::from_millis(1);
const RETRY_MAX: Duration = Duration::from_millis(32);
/// Bursts that each stack may still send when the host stops.
pub(super) const DRAIN_ROUNDS: usize = 1024;
/// Events that one stack may report at a time; the rest in the next turn.
const EVENTS: usize = 256;
/// Lines of [`Core::problems`] kept.
const PROBLEMS: usize = 64;

/// Where an alias stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AliasPlace {
    pub(crate) on: LinkId,
    /// Its own MTU, if below the link's.
    pub(crate) mtu: Option<usize>,
    /// Its own MAC address, if it is not the link's.
    pub(crate) mac: Option<Mac>,
}

impl AliasPlace {
    /// The number of its link.
    #[inline]
    pub(crate) fn link(self) -> usize {
        usize::from(self.on.0)
    }
}

/// Until when nobody turns the core, unless woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sleep {
    Awake,
    Until(Instant),
    Forever,
}

impl Sleep {
    /// Whether somebody looks by `at` without being woken.
    pub(crate) fn is_before(self, at: Instant) -> bool {
        match self {
            Sleep::Awake => true,
            Sleep::Until(armed) => armed <= at,
            Sleep::Forever => false,
        }
    }
}

pub(crate) struct Core {
    pub(crate) nics: Vec<Nic>,
    /// What aliases stand on; the first ones are the NICs.
    pub(crate) links: Vec<Above>,
    pub(crate) plane: Plane,
    pub(super) layout: Layout,
    pub(crate) machines: Machines,
    /// The machines themselves, on worker 0 of a host that has any.
    pub(crate) keeping: Option<Box<Keeping>>,
    /// LLDP, and who looks for errors of switches; on worker 0.
    pub(super) station: Option<Box<Station>>,
    /// What came in by the other workers, for it.
    pub(super) seen_elsewhere: Vec<Seen>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) demux: Demux,
    /// Who takes answers of DHCP servers; `None`: there is no client.
    pub(crate) dhcp: Option<Arc<Tap>>,
    /// Frames lost before a vserver was found.
    pub(crate) drops: Drops,
    /// What an operator should know: addresses in conflict, devices that failed.
    pub(crate) problems: Vec<String>,
    pub(crate) stopped: bool,
    /// Services that run on this worker.
    pub(crate) apps: Services,
    /// Who takes what arrives for any vserver.
    pub(crate) any: Takers,
    pub(crate) sleep: Sleep,
    /// The other workers.
    pub(crate) mesh: Mesh,
    /// Vservers with all their flows on one of them.
    pub(crate) pins: Pins,
    pub(crate) poll: Polling,
    pub(crate) qos: Shaper,
    pub(crate) shares: Shares,
    /// Neighbour tables that vservers share.
    pub(crate) neighbours: NeighbourTables,
    pub(super) aliases: Vec<AliasPlace>,
    pub(super) deadlines: Deadlines,
    retry: Duration,
    pub(super) dirty: VecDeque<u32>,
    /// Vservers that wanted to send and found no free frame.
    pub(super) starved: Vec<u32>,
    /// Frames from one vserver of this host to another.
    pub(super) local: VecDeque<(Target, Frame)>,
    /// Of vservers that have frames here.
    pub(super) captures: LiveCaptures,
    pub(super) rx: Vec<Frame>,
    /// Received frames and whom they are for; merging leaves holes.
    pub(super) burst: Vec<(Target, Option<Frame>)>,
    pub(super) gro: Gro,
    /// A vserver of this worker has, or had, a multipath shim.
    pub(super) shims: bool,
    pub(crate) stages: Stages,
    pub(super) tx: TxBurst,
    pub(super) targets: Vec<Target>,
    /// The devices' frame pools.
    domain: FrameDomain,
}

impl Core {
    pub(crate) fn new(mut nics: Vec<Nic>, aliases: Vec<AliasPlace>, demux: Demux) -> Core {
        let mut domain = FrameDomain::new();
        for port in nics.iter_mut().flat_map(|n| &mut n.ports) {
            port.device.join_domain(&mut domain);
        }
        let layout = above::bare(&nics);
        let plane = Plane::new(&layout);
        Core {
            links: above::links(&plane, &nics),
            plane,
            layout,
            machines: Machines::default(),
            keeping: None,
            station: None,
            seen_elsewhere: Vec::new(),
            nics,
            nodes: Vec::new(),
            demux,
            dhcp: None,
            drops: Drops::default(),
            problems: Vec::new(),
            stopped: false,
            apps: Services::default(),
            any: Takers::default(),
            sleep: Sleep::Awake,
            mesh: Mesh::default(),
            pins: Pins::default(),
            poll: Polling::new(PollMode::Interrupt),
            qos: Shaper::default(),
            shares: Shares::default(),
            neighbours: NeighbourTables::default(),
            aliases,
            deadlines: Deadlines::default(),
            retry: RETRY_MIN,
            dirty: VecDeque::new(),
            starved: Vec::new(),
            local: VecDeque::new(),
            captures: LiveCaptures::new(),
            rx: Vec::with_capacity(BURST),
            burst: Vec::with_capacity(BURST),
            gro: Gro::default(),
            shims: false,
            stages: Stages::new(Instant::default()),
            tx: TxBurst::new(BURST),
            targets: Vec::new(),
            domain,
        }
    }

    /// For as long as the guard lives, frames are taken and dropped without a lock. The caller
    /// holds the worker's, and does not sleep meanwhile.
    pub(crate) fn enter(&mut self) -> Entered {
        self.domain.enter()
    }

    /// Whether something waits that needs no clock to be seen; a fraction of a turn's cost.
    #[inline]
    pub(super) fn has_work(&mut self) -> bool {
        let waits = !(self.dirty.is_empty() && self.local.is_empty() && self.starved.is_empty());
        waits
            || !self.shares.backlog.is_empty()
            || self.apps.has_work()
            || (self.mesh.count() > 1 && (self.has_mail() || self.mesh.is_to_ring()))
            || self.nics.iter_mut().any(Nic::has_work)
    }

    /// Whether a turn may find something to do.
    pub(super) fn may_work(&mut self, now: Instant) -> bool {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        self.has_work()
            || due(self.deadlines.next())
            || due(self.apps.wake_at(now))
            || due(self.shaped_until())
            || due(self.keeping_at())
    }

    /// One bounded round: receive, timers, transmit. Returns whether there was anything to do.
    pub(crate) fn turn(&mut self, now: Instant) -> bool {
        let _inside = self.enter();
        self.stages.begin();
        self.shares.begin(now);
        self.feed();
        let mut work = self.qos.is_active() && self.begin_shaping(now);
        let mut frames = 0;
        for nic in 0..self.nics.len() {
            for port in 0..self.nics[nic].ports.len() {
                frames += self.receive(now, nic, port);
            }
        }
        self.stages.received(frames);
        work |= frames > 0;
        self.stages.start();
        work |= self.take_mail(now);
        work |= self.run_keeping(now);
        if self.qos.is_active() {
            work |= self.release(now);
        }
        work |= self.run_timers(now);
        work |= self.run_local(now);
        work |= self.run_services(now);
        work |= self.tell_neighbours(now);
        if !self.shares.backlog.is_empty() {
            work |= self.run_light(now);
            work |= self.run_backlog(now);
        }
        work |= self.run_dirty(now);
        work |= self.flush(now);
        self.tell_failures(now);
        self.mesh.ring();
        self.retry = if work { RETRY_MIN } else { (self.retry * 2).min(RETRY_MAX) };
        work
    }

    /// What waited for its turn goes before what has arrived since, which needs its room.
    fn begin_shaping(&mut self, now: Instant) -> bool {
        // After work the next turn follows at once.
        let due = if self.retry == RETRY_MIN {
            Some(Instant::ZERO)
        } else {
            [self.shaped_until(), self.deadlines.next()].into_iter().flatten().min()
        };
        self.qos.begin(now, due);
        self.release(now)
    }

    /// Takes over a plan of rates and shares.
    pub(crate) fn set_qos(&mut self, now: Instant, plan: &Plan) {
        let links = self.aliases.iter().map(|a| self.links[a.link()].lane).collect();
        self.qos.update(now, plan, links, self.mesh.me());
        for (node, most) in self.nodes.iter_mut().zip(&plan.bounds) {
            // The stack's own state, which nothing can object to.
            let super_bytes = most.map(|m| m.super_bytes);
            let _ = node.stack.handle_config(now, Change::SuperBytes(super_bytes));
            node.stack.bound_out_queue(most.map(|m| m.frames));
        }
        for index in 0..self.nodes.len() as u32 {
            self.nodes[index as usize].blocked = false;
            self.mark_dirty(index);
        }
    }

    pub(crate) fn mark_dirty(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        if !node.dirty {
            node.dirty = true;
            self.dirty.push_back(index);
        }
    }

    fn run_timers(&mut self, now: Instant) -> bool {
        self.stages.start();
        let mut expired = 0;
        while expired < TIMERS_PER_TURN
            && let Some(index) = self.deadlines.pop_expired(now)
        {
            if self.shares.active {
                self.book(|shares| shares.run(index));
            }
            let node = &mut self.nodes[index as usize];
            // With the rest of what it has to do, in a round that it has a part in.
            node.overdue = self.shares.active && !self.shares.may_run(&mut node.share);
            if !node.overdue {
                node.stack.handle_timeout(now);
            }
            self.mark_dirty(index);
            expired += 1;
        }
        self.book(Shares::rest);
        self.stages.lap(Stage::Timers, expired as u64);
        expired > 0
    }

    /// Starts attempts of races that are due; returns whether there were any.
    fn run_races(&mut self, now: Instant, index: u32) -> bool {
        let Node { stack, races, .. } = &mut self.nodes[index as usize];
        if races.is_empty() || races.poll_timeout().is_none_or(|at| at > now) {
            return false;
        }
        for id in races.handle_timeout(stack, now) {
            let ready = self.nodes[index as usize].stack.readiness(id);
            self.handle_event(now, index, Event::Socket { id, ready });
        }
        true
    }

    /// Tells events of a stack to whom they concern; returns whether a service was called.
    pub(super) fn run_events(&mut self, now: Instant, index: u32) -> bool {
        self.stages.start();
        let (mut called, mut told, mut spent) = (self.run_races(now, index), 0, false);
        while told < EVENTS
            && let Some(event) = self.nodes[index as usize].stack.poll_event()
        {
            called |= self.handle_event(now, index, event);
            told += 1;
            if self.shares.active && called && self.is_over_time(index) {
                spent = true;
                break;
            }
        }
        if told == EVENTS || spent {
            self.mark_dirty(index);
        }
        self.stages.lap(Stage::App, told as u64);
        called
    }

    /// Whether a vserver that runs has used up its part of the round.
    pub(super) fn is_spent(&self, index: u32) -> bool {
        let share = &self.nodes[index as usize].share;
        share.is_spent() || self.shares.is_over_time(share)
    }

    /// Microseconds of the last whole second that a vserver used here, its weight, and what it used.
    pub(crate) fn used_last(&mut self, now: Instant, id: NodeId) -> Option<(u64, u32, ShareStats)> {
        self.node(id)?;
        let share = &mut self.nodes[id.index as usize].share;
        let last = self.shares.used_last(now, share);
        Some((last, share.weight(), self.shares.stats_of(share)))
    }

    fn is_over_time(&self, index: u32) -> bool {
        self.shares.is_over_time(&self.nodes[index as usize].share)
    }

    pub(super) fn run_services(&mut self, now: Instant) -> bool {
        let (dirty, shares) = (&mut self.dirty, &mut self.shares);
        if shares.active {
            shares.lap();
        }
        self.apps.run(&mut self.nodes, now, Calls { dirty, shares })
    }

    /// Takes a service in and starts it; `None`: there are too many.
    pub(crate) fn start_service(
        &mut self,
        now: Instant,
        index: u32,
        app: Box<dyn Service>,
    ) -> Option<u64> {
        let (service, number) = self.apps.add(index, app)?;
        self.apps.start(&mut self.nodes[index as usize], now, index, service);
        self.mark_dirty(index);
        Some(number)
    }

    /// Calls a service's timer; one that has ended is not called.
    pub(crate) fn trigger_service(&mut self, now: Instant, number: u64, token: u64) {
        if let Some((index, service)) = self.apps.place(number) {
            self.apps.trigger((&mut self.nodes[index as usize], index), now, service, token);
            self.mark_dirty(index);
        }
    }

    /// No more turns and calls; whoever waits for a socket is told.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
        for notify in self.nodes.iter().flat_map(|n| n.sockets.values()) {
            notify.fire(Readiness::ERROR);
        }
    }

    /// Resets every connection and sends what the devices take of it without waiting.
    pub(crate) fn drain(&mut self, now: Instant) {
        self.stop_station();
        for index in 0..self.nodes.len() as u32 {
            self.nodes[index as usize].stack.drain(now);
            self.mark_dirty(index);
        }
        for _ in 0..DRAIN_ROUNDS {
            let moved = self.run_dirty(now);
            if !(self.flush(now) || moved) {
                return;
            }
        }
    }

    /// Transmits what other workers, which have stopped too, left to this one.
    pub(crate) fn drain_mail(&mut self, now: Instant) {
        for _ in 0..DRAIN_ROUNDS {
            let moved = self.take_mail(now) | self.run_local(now) | self.run_dirty(now);
            if !(self.flush(now) || moved) {
                return;
            }
        }
    }

    /// A device that failed is a link that is down, to every stack on it.
    fn tell_failures(&mut self, now: Instant) {
        for nic in 0..self.nics.len() {
            if let Some(why) = self.nics[nic].take_failure() {
                self.problem(format!("NIC number {nic}: {why}; it is out of use until a restart"));
                self.mesh.tell_all(&Control::Failed { nic });
                let link = Link { up: false, ..self.nics[nic].link };
                self.link_is(now, nic, link);
            }
        }
        for report in self.apps.take_reports() {
            self.problem(report);
        }
    }

    /// After an application's call on one stack: transmit what it produced, tell who waits. The
    /// rest is the worker's; returns whether it has to wake for it.
    pub(crate) fn settle(&mut self, now: Instant, index: u32) -> bool {
        self.stages.begin();
        self.poll_node(now, index, true);
        // What the call sent to a neighbour on this host, and its answer.
        for _ in 0..2 {
            if self.run_local(now) | self.tell_neighbours(now) {
                self.run_dirty(now);
            }
        }
        self.flush(now);
        self.tell_failures(now);
        self.mesh.ring();
        self.retry = RETRY_MIN;
        self.wake_at(now).is_some_and(|at| !self.sleep.is_before(at))
    }

    /// When the worker must run again on its own; `None`: when something happens.
    pub(crate) fn wake_at(&self, now: Instant) -> Option<Instant> {
        let waits = !(self.dirty.is_empty() && self.local.is_empty());
        let told = self.neighbours.has_woken();
        if waits || told || !self.shares.backlog.is_empty() || self.has_mail() {
            return Some(now);
        }
        let mut ports = self.nics.iter().flat_map(|n| &n.ports);
        let soon = ports
            .any(|p| p.failed.is_none() && (p.stalled() || p.in_flight || p.device.fd().is_none()));
        let soon = soon || !self.starved.is_empty() || self.mesh.has_later();
        let retry = soon.then(|| now + self.retry);
        let machines = self.keeping_at();
        let deadlines =
            [self.deadlines.next(), self.apps.wake_at(now), self.shaped_until(), machines];
        deadlines.into_iter().chain([retry]).flatten().min()
    }

    /// Returns whether a service was called, or a race went on: there may be more to send.
    pub(super) fn handle_event(&mut self, now: Instant, index: u32, event: Event) -> bool {
        let link = |alias: AliasId| self.aliases[alias.0 as usize].link();
        let mut raced = false;
        match event {
            Event::Socket { id, ready } => {
                let node = &mut self.nodes[index as usize];
                let (mut id, mut ready) = (id, ready);
                if !node.races.is_empty() {
                    match node.races.event(&mut node.stack, now, id) {
                        Heard::Plain => {}
                        // The next attempt may have to leave.
                        Heard::Attempt => return true,
                        Heard::Over(face) => {
                            (id, ready, raced) = (face, node.stack.readiness(face), true);
                        }
                    }
                }
                if self.apps.event(node, now, index, id, ready) {
                    return true;
                }
                if let Some(notify) = node.sockets.get(&id) {
                    notify.fire(ready);
                } else if !self.any.is_empty() {
                    return self.any_event(now, index, id, ready);
                }
            }
            Event::AddressAdded { alias, addr } => self.address_added(now, index, alias, addr),
            Event::AddressProbed { alias, addr } => self.address_probed(index, alias, addr),
            Event::AddressRemoved { alias, addr } => self.address_removed(now, index, alias, addr),
            Event::AddressDuplicate { alias, addr, mac } => {
                self.address_duplicate(index, alias, addr, mac);
            }
            Event::GroupJoined { alias, group } => {
                self.demux.join(alias, group, index);
                self.nodes[index as usize].groups.push((alias, group));
                self.steer(link(alias), group, true);
                self.keep_membership(now, alias, group, true);
            }
            Event::GroupLeft { alias, group } => {
                self.demux.leave(alias, group, index);
                self.nodes[index as usize].groups.retain(|g| *g != (alias, group));
                self.steer(link(alias), group, false);
                self.keep_membership(now, alias, group, false);
            }
            Event::AddressesChanged { alias } => self.tell_addresses(index, alias),
            Event::GroupChanged { alias, group } => self.tell_group(index, alias, group),
        }
        raced
    }

    /// Frames for an address are wanted from the NICs of a link, or no longer. Worker 0 says so for
    /// all.
    pub(super) fn steer(&mut self, link: usize, addr: IpAddr, wanted: bool) {
        if !self.mesh.is_home() {
            return;
        }
        for at in 0..self.links[link].nics.len() {
            self.steer_nic(self.links[link].nics[at], addr, wanted);
        }
    }

    pub(super) fn steer_nic(&mut self, nic: usize, addr: IpAddr, wanted: bool) {
        let nic = &mut self.nics[nic];
        let steered = if wanted { nic.steer_add(addr) } else { nic.steer_remove(addr) };
        if let Err(e) = steered {
            self.problem(format!("steering of {addr} failed: {e}; its frames go to the kernel"));
        }
    }

    pub(crate) fn problem(&mut self, text: String) {
        if self.problems.len() < PROBLEMS && !self.problems.contains(&text) {
            self.problems.push(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::SocketAddr;

    use weft_drivers::device::{AnyDevice, Medium};
    use weft_drivers::mem::{MemConfig, pair};
    use weft_stack::Stack;
    use weft_stack::frame::FramePool;
    use weft_stack::ip::address::{AliasConfig, AliasMedium};
    use weft_stack::stack::StackConfig;

    const ALIAS: AliasId = AliasId(0);
    const START: Instant = Instant::from_millis(1);

    /// A worker with one vserver on a memory device without neighbours, its pool, the far end.
    fn worker() -> (Core, FramePool, AnyDevice) {
        let config = MemConfig { medium: Medium::Ip, ..MemConfig::default() };
        let (near, far) = pair(&config).unwrap();
        let places = vec![AliasPlace { on: LinkId(0), mtu: None, mac: None }];
        let mut demux = Demux::default();
        demux.add_link();
        demux.add_alias(0, ALIAS, None);
        demux.attach(ALIAS, 0);
        let mut core = Core::new(vec![Nic::new(vec![Box::new(near)])], places, demux);
        let pool = FramePool::heap(4, 2048);
        let path = weft_shim::layer::Layer::off();
        let mut stack = Stack::with_path(StackConfig::default(), pool.clone(), START, path);
        let alias = AliasConfig::up_without_offload(ALIAS, AliasMedium::Ip);
        let cidr = "10.0.0.1/24".parse().unwrap();
        for change in [Change::AliasAdd(alias), Change::AddressAdd { alias: ALIAS, cidr }] {
            stack.handle_config(START, change).unwrap();
        }
        core.nodes.push(Node::new(stack, vec![0]));
        core.settle(START, 0);
        (core, pool, Box::new(far))
    }

    #[test]
    fn a_stack_that_found_no_frame_is_polled_again() {
        let (mut core, pool, mut far) = worker();
        let mut got = Vec::new();
        far.receive(&mut got, 64).unwrap();
        got.clear();

        let held: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
        let to: SocketAddr = "10.0.0.2:80".parse().unwrap();
        core.nodes[0].stack.tcp_connect(START, None, to).unwrap();
        core.settle(START, 0);
        assert_eq!(far.receive(&mut got, 64).unwrap(), 0, "there was no frame to send");

        let again = core.wake_at(START).expect("the worker comes back by itself");
        assert!(again <= START + RETRY_MAX, "{again:?}");
        drop(held);
        core.turn(again);
        assert_eq!(far.receive(&mut got, 64).unwrap(), 1, "the SYN");
    }
}
