//! The scheduler of one NIC in one direction, on one worker. Sans-IO.
//!
//! Leaves have queues; every node has limits and may have a guarantee. What goes next:
//!
//! 1. the node furthest behind what it is guaranteed, though a parent's limit is used up: what it
//!    takes is charged to the parents, so that others get less;
//! 2. from the root down, at each node the child of the best priority, of those the one that got the
//!    least by its weight (start-time fair queueing), among the children below their own limits.
//!
//! A node over a limit is in no parent's set until its bucket opens, so nothing waits behind it, and
//! nothing here loops over nodes that have nothing to do. Buckets and the service that a node got
//! are shared with other workers (see [`super::node`]); where workers compete for the rate of one
//! node, each leaves the turn to the other if the other's next child got less.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use weft_stack::time::{Duration, Instant};

use super::bucket::{Ticks, instant, ticks};
use super::codel::Codel;
use super::node::{Cost, NO_HEAD, Place, Shape, State, add, pack, service};

/// The root of every tree.
pub(crate) const ROOT: u32 = 0;
/// Bytes that wait in one tree at most, whatever its leaves may have.
const WAITING_BYTES_MAX: u64 = 64 << 20;
/// Of leaves that nobody holds back: RFC 8289 4.3, no drop of the last frame.
const SMALL_BYTES: u64 = 1514;
/// How far, in bytes, a worker may be ahead of others that share a node.
const AHEAD_BYTES: u32 = 16 << 10;
/// When to look again whether another worker took its turn, and when not to wait for it longer.
const GATE_RETRY: Duration = Duration::from_micros(100);
const GATE_MAX: Duration = Duration::from_millis(5);

/// What waits in a queue.
pub(crate) trait Unit {
    /// Bytes and packets of the wire.
    fn cost(&self) -> Cost;
    /// Marks congestion, if the transport knows the mark.
    fn mark(&mut self) -> bool;
}

/// A node as a plan has it.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    /// `None`: the root.
    pub(crate) parent: Option<u32>,
    pub(crate) shape: Shape,
    pub(crate) state: Arc<State>,
    pub(crate) place: Arc<Place>,
    /// It or a node above it has a limit, which its children on several workers share.
    pub(crate) scarce: bool,
    /// Stacks are asked for no more than [`Shape::ahead_bytes`].
    pub(crate) held: bool,
}

struct Queued<T> {
    unit: T,
    at: Instant,
}

struct Node<T> {
    plan: Planned,
    /// Children that may send, by priority, service and number.
    ready: BTreeSet<(u8, u64, u32)>,
    /// In the parent's set as this; of the root, that it is open.
    key: Option<(u8, u64)>,
    timer: Option<Ticks>,
    claim: Option<Ticks>,
    queue: VecDeque<Queued<T>>,
    queued: u64,
    /// Mean bytes of a frame, times eight.
    mean: u32,
    /// Of a policed leaf, the part of a mark that is due, in 1/1024.
    mark: u32,
    codel: Codel,
}

impl<T> Node<T> {
    fn new(plan: Planned) -> Node<T> {
        Node {
            plan,
            ready: BTreeSet::new(),
            key: None,
            timer: None,
            claim: None,
            queue: VecDeque::new(),
            queued: 0,
            mean: 0,
            mark: 0,
            codel: Codel::default(),
        }
    }

    fn is_busy(&self) -> bool {
        !(self.queue.is_empty() && self.ready.is_empty())
    }

    fn opens_at(&self) -> Ticks {
        self.plan.state.opens_at(&self.plan.shape)
    }

    fn service(&self) -> u64 {
        self.plan.place.service.load(Ordering::Relaxed)
    }
}

/// Where a walk down the tree ended.
enum Walk {
    Leaf(u32),
    /// Something had changed; the tree knows it now.
    Again,
    /// It is another worker's turn.
    Gated,
}

pub(crate) struct Tree<T> {
    nodes: Vec<Node<T>>,
    free: Vec<u32>,
    timers: BTreeSet<(Ticks, u32)>,
    claims: BTreeSet<(Ticks, u32)>,
    me: usize,
    waiting: usize,
    waiting_bytes: u64,
    gated_since: Option<Instant>,
    gated_until: Option<Instant>,
    /// How late this worker looks; see [`super::bucket::Lateness`].
    pub(crate) late: Ticks,
    /// What queues lost since it was last taken.
    pub(crate) lost: Vec<T>,
}

impl<T: Unit> Tree<T> {
    /// The tree of worker `me`; the first node is the root, parents come before their children.
    pub(crate) fn new(plan: &[Planned], me: usize) -> Tree<T> {
        let mut tree = Tree {
            nodes: Vec::with_capacity(plan.len()),
            free: Vec::new(),
            timers: BTreeSet::new(),
            claims: BTreeSet::new(),
            me,
            waiting: 0,
            waiting_bytes: 0,
            gated_since: None,
            gated_until: None,
            late: 0,
            lost: Vec::new(),
        };
        for node in plan {
            // Of a plan that this one replaces.
            tree.publish(&node.place, None);
            tree.nodes.push(Node::new(node.clone()));
        }
        tree
    }

    /// Adds a leaf below a node.
    pub(crate) fn add_leaf(&mut self, plan: Planned) -> u32 {
        if let Some(leaf) = self.free.pop() {
            self.nodes[leaf as usize] = Node::new(plan);
            return leaf;
        }
        self.nodes.push(Node::new(plan));
        (self.nodes.len() - 1) as u32
    }

    /// Takes away a leaf where nothing waits; `false`: something does.
    pub(crate) fn remove_leaf(&mut self, leaf: u32) -> bool {
        if self.nodes[leaf as usize].is_busy() {
            return false;
        }
        self.free.push(leaf);
        true
    }

    /// Frames wait.
    #[inline]
    pub(crate) fn waits(&self) -> bool {
        self.waiting > 0
    }

    pub(crate) fn planned(&self, node: u32) -> &Planned {
        &self.nodes[node as usize].plan
    }

    /// Frames that a leaf has room for, by the size of the last ones.
    pub(crate) fn room(&self, leaf: u32) -> usize {
        let node = &self.nodes[leaf as usize];
        let free = node.plan.shape.ahead_bytes.saturating_sub(node.queued);
        free.div_ceil(u64::from(node.mean / 8).max(64)) as usize
    }

    /// At least half of what a stack is asked for in advance is gone.
    pub(crate) fn has_half(&self, leaf: u32) -> bool {
        let node = &self.nodes[leaf as usize];
        node.queued * 2 <= node.plan.shape.ahead_bytes
    }

    /// Whether a leaf's queue takes a unit.
    pub(crate) fn has_room(&self, leaf: u32, cost: Cost) -> bool {
        let node = &self.nodes[leaf as usize];
        let bytes = u64::from(cost.bytes);
        let fits = node.queue.is_empty()
            || node.plan.held
            || node.queued + bytes <= node.plan.shape.queue_bytes;
        fits && self.waiting_bytes + bytes <= WAITING_BYTES_MAX
    }

    /// A unit found no room.
    pub(crate) fn count_full(&self, leaf: u32, cost: Cost) {
        let counts = &self.nodes[leaf as usize].plan.state.counts;
        add(&counts.dropped_full, cost.packets.into());
    }

    /// No limit of a leaf and the nodes above it is used up.
    pub(crate) fn is_unlimited(&self, now: Instant, leaf: u32) -> bool {
        let at = ticks(now);
        let up = std::iter::successors(Some(leaf), |n| self.nodes[*n as usize].plan.parent);
        up.map(|n| &self.nodes[n as usize]).all(|n| n.opens_at() <= at)
    }

    /// Puts a unit in a leaf's queue, which has room.
    pub(crate) fn enqueue(&mut self, now: Instant, leaf: u32, unit: T) {
        let cost = unit.cost();
        let node = &mut self.nodes[leaf as usize];
        let bytes = u64::from(cost.bytes);
        node.mean = node.mean - node.mean / 8 + cost.bytes;
        node.queue.push_back(Queued { unit, at: now });
        node.queued += bytes;
        add(&node.plan.state.counts.queued, bytes);
        self.waiting += 1;
        self.waiting_bytes += bytes;
        if self.nodes[leaf as usize].queue.len() == 1 {
            self.refresh(leaf, ticks(now));
        }
    }

    /// The next unit that may go now.
    pub(crate) fn dequeue(&mut self, now: Instant) -> Option<T> {
        if self.waiting == 0 {
            return None;
        }
        let at = ticks(now);
        self.gated_until = None;
        while let Some((due, node)) = self.timers.first().copied()
            && due <= at
        {
            self.refresh(node, at);
        }
        loop {
            let (start, claims) = match self.due(at) {
                Some(node) => (node, true),
                None if self.is_open(at) => (ROOT, false),
                None => return None,
            };
            match self.descend(start, at, claims) {
                Walk::Leaf(leaf) => {
                    if let Some(unit) = self.pop(leaf, now) {
                        self.charge(leaf, at, unit.cost());
                        self.gated_since = None;
                        return Some(unit);
                    }
                    self.refresh(leaf, at);
                }
                Walk::Again => {}
                Walk::Gated => {
                    let since = *self.gated_since.get_or_insert(now);
                    if now < since + GATE_MAX {
                        self.gated_until = Some(now + GATE_RETRY);
                        return None;
                    }
                }
            }
        }
    }

    /// When [`Tree::dequeue`] gives something at the earliest.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        if self.waiting == 0 {
            return None;
        }
        if self.nodes[ROOT as usize].key.is_some() && self.gated_until.is_none() {
            return Some(Instant::ZERO);
        }
        let timer = self.timers.first().map(|(at, _)| instant(*at));
        let claim = self.claims.first().map(|(at, _)| instant(*at));
        [timer, claim, self.gated_until].into_iter().flatten().min()
    }

    /// Passes a unit by, if no limit of the leaf and the nodes above it is used up; else it is lost
    /// and counted where the limit is. Before that, if it `marks`, ever more units get marks.
    pub(crate) fn police(&mut self, now: Instant, leaf: u32, unit: &mut T, marks: bool) -> bool {
        let (at, cost) = (ticks(now), unit.cost());
        let mut low = 1.0_f64;
        let mut next = Some(leaf);
        while let Some(n) = next {
            let plan = &self.nodes[n as usize].plan;
            if plan.state.opens_at(&plan.shape) > at {
                add(&plan.state.counts.dropped_policed, cost.packets.into());
                return false;
            }
            low = low.min(plan.state.level(at, &plan.shape));
            if plan.state.due_at(&plan.shape).is_some_and(|due| due <= at) {
                break;
            }
            next = plan.parent;
        }
        self.charge(leaf, at, cost);
        if !marks {
            return true;
        }
        let node = &mut self.nodes[leaf as usize];
        // From half a burst down: the mean of what is marked rises from none to all.
        node.mark += ((1.0 - 2.0 * low).max(0.0) * 1024.0) as u32;
        if node.mark >= 1024 {
            node.mark -= 1024;
            if unit.mark() {
                add(&node.plan.state.counts.marked, cost.packets.into());
            }
        }
        true
    }

    /// Everything that waits, oldest first per leaf; the tree is empty then.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        let mut all = Vec::new();
        for node in &mut self.nodes {
            let counts = &node.plan.state.counts;
            counts.queued.fetch_sub(node.queued, Ordering::Relaxed);
            node.queued = 0;
            all.extend(node.queue.drain(..).map(|q| q.unit));
            for head in &node.plan.place.heads {
                head.store(NO_HEAD, Ordering::Relaxed);
            }
        }
        (self.waiting, self.waiting_bytes) = (0, 0);
        all
    }

    fn is_open(&mut self, at: Ticks) -> bool {
        let root = &self.nodes[ROOT as usize];
        if root.key.is_some() && root.opens_at() > at {
            self.refresh(ROOT, at);
        }
        self.nodes[ROOT as usize].key.is_some()
    }

    /// The node that is furthest behind its guarantee.
    fn due(&mut self, at: Ticks) -> Option<u32> {
        while let Some((due, n)) = self.claims.first().copied()
            && due <= at
        {
            let node = &self.nodes[n as usize];
            let plan = &node.plan;
            let still = plan.state.due_at(&plan.shape).is_some_and(|due| due <= at);
            if still && node.opens_at() <= at && node.is_busy() {
                return Some(n);
            }
            // Another worker served it.
            self.refresh(n, at);
        }
        None
    }

    fn descend(&mut self, start: u32, at: Ticks, claims: bool) -> Walk {
        let mut n = start;
        loop {
            let node = &self.nodes[n as usize];
            let Some((priority, key, child)) = node.ready.first().copied() else {
                if !node.queue.is_empty() {
                    return Walk::Leaf(n);
                }
                self.refresh(n, at);
                return Walk::Again;
            };
            let next = &self.nodes[child as usize];
            if next.opens_at() > at || next.service() != key {
                self.refresh(child, at);
                return Walk::Again;
            }
            if !claims && node.plan.scarce && self.is_gated(n, priority, key, child) {
                return Walk::Gated;
            }
            n = child;
        }
    }

    /// Whether another worker has a child of `n` that comes first by more than a little.
    fn is_gated(&self, n: u32, priority: u8, key: u64, child: u32) -> bool {
        let heads = &self.nodes[n as usize].plan.place.heads;
        if heads.len() < 2 {
            return false;
        }
        let weight = self.nodes[child as usize].plan.shape.rates.weight;
        let mine = pack(priority, key.saturating_sub(service(AHEAD_BYTES, weight)));
        let others = heads.iter().enumerate().filter(|(w, _)| *w != self.me);
        others.map(|(_, h)| h.load(Ordering::Relaxed)).any(|head| head < mine)
    }

    fn pop(&mut self, leaf: u32, now: Instant) -> Option<T> {
        let node = &mut self.nodes[leaf as usize];
        let counts = &node.plan.state.counts;
        let shape = &node.plan.shape;
        let small = if node.plan.held { shape.ahead_bytes } else { SMALL_BYTES };
        while let Some(Queued { mut unit, at }) = node.queue.pop_front() {
            let cost = unit.cost();
            let is_small = node.queued <= small;
            node.queued -= u64::from(cost.bytes);
            counts.queued.fetch_sub(cost.bytes.into(), Ordering::Relaxed);
            self.waiting -= 1;
            self.waiting_bytes -= u64::from(cost.bytes);
            let sojourn = now.saturating_since(at);
            counts.sojourn.store(sojourn.as_nanos() as u64, Ordering::Relaxed);
            if !node.codel.takes(now, sojourn, shape.target, is_small) {
                return Some(unit);
            }
            if unit.mark() {
                add(&counts.marked, cost.packets.into());
                return Some(unit);
            }
            add(&counts.dropped_late, cost.packets.into());
            self.lost.push(unit);
        }
        None
    }

    /// A unit of a leaf went.
    fn charge(&mut self, leaf: u32, at: Ticks, cost: Cost) {
        let mut n = leaf;
        loop {
            let plan = &self.nodes[n as usize].plan;
            plan.state.charge(at, self.late, &plan.shape, cost);
            let got = service(cost.bytes, plan.shape.rates.weight);
            let began = plan.place.service.fetch_add(got, Ordering::Relaxed);
            let Some(parent) = plan.parent else { break };
            let floors = &self.nodes[parent as usize].plan.place.floors;
            floors[usize::from(plan.shape.rates.priority)].fetch_max(began, Ordering::Relaxed);
            self.refresh(n, at);
            n = parent;
        }
        self.refresh(ROOT, at);
    }

    /// Brings a node, and those above it as far as they change, into the sets they belong to.
    fn refresh(&mut self, node: u32, at: Ticks) {
        let mut n = node;
        loop {
            let node = &self.nodes[n as usize];
            let plan = &node.plan;
            let opens = node.is_busy().then(|| node.opens_at());
            let open = opens.is_some_and(|opens| opens <= at);
            let claim = if open { plan.state.due_at(&plan.shape) } else { None };
            let priority = plan.shape.rates.priority;
            if open
                && node.key.is_none()
                && let Some(parent) = plan.parent
            {
                // Time in which it had nothing to send is no credit.
                let floors = &self.nodes[parent as usize].plan.place.floors;
                let floor = floors[usize::from(priority)].load(Ordering::Relaxed);
                plan.place.service.fetch_max(floor, Ordering::Relaxed);
            }
            let key = open.then(|| (priority, node.service()));
            let parent = plan.parent;
            self.set_timer(n, opens.filter(|opens| *opens > at));
            self.set_claim(n, claim);
            let before = std::mem::replace(&mut self.nodes[n as usize].key, key);
            let Some(parent) = parent.filter(|_| before != key) else { return };
            let ready = &mut self.nodes[parent as usize].ready;
            let was = ready.is_empty();
            if let Some((priority, service)) = before {
                ready.remove(&(priority, service, n));
            }
            if let Some((priority, service)) = key {
                ready.insert((priority, service, n));
            }
            let head = ready.first().copied();
            let is = ready.is_empty();
            self.publish(&self.nodes[parent as usize].plan.place, head);
            if was == is {
                return;
            }
            n = parent;
        }
    }

    fn publish(&self, place: &Place, head: Option<(u8, u64, u32)>) {
        if place.heads.len() > 1 {
            let head = head.map_or(NO_HEAD, |(priority, service, _)| pack(priority, service));
            place.heads[self.me].store(head, Ordering::Relaxed);
        }
    }

    fn set_timer(&mut self, n: u32, at: Option<Ticks>) {
        let before = std::mem::replace(&mut self.nodes[n as usize].timer, at);
        move_entry(&mut self.timers, n, before, at);
    }

    fn set_claim(&mut self, n: u32, at: Option<Ticks>) {
        let before = std::mem::replace(&mut self.nodes[n as usize].claim, at);
        move_entry(&mut self.claims, n, before, at);
    }
}

fn move_entry(set: &mut BTreeSet<(Ticks, u32)>, n: u32, before: Option<Ticks>, at: Option<Ticks>) {
    if before == at {
        return;
    }
    if let Some(before) = before {
        set.remove(&(before, n));
    }
    if let Some(at) = at {
        set.insert((at, n));
    }
}
