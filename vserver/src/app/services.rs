//! The services of one worker: who is called for which event, timers, and how a service ends.

use std::any::Any;
use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use smallvec::SmallVec;
use weft_stack::socket::tcp::{TcpError, TcpState};
use weft_stack::socket::{Readiness, SocketId, SocketKind};
use weft_stack::time::Instant;

use super::cx::{Timers, close};
use super::owners::{CONNECTING, PAUSED, WANTS_WRITE};
use super::{Cx, Service};
use crate::connect::Connects;
use crate::runtime::NodeId;
use crate::runtime::deadlines::Deadlines;
use crate::runtime::{Calls, Node};

/// Connections accepted from one listener at a time.
const ACCEPTS: usize = 64;
/// Timers of one service called at a time.
const TIMERS: usize = 256;
/// Slots of a socket table looked at in one turn for sockets of a service that ended.
const SWEEP: usize = 1024;
/// What the look at a vserver without any counts as.
const SWEEP_NODE: usize = 4;
/// Services of one worker.
const SERVICES_MAX: usize = u16::MAX as usize;

thread_local! {
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside a callback, and so holds the lock of a worker.
pub(crate) fn in_callback() -> bool {
    IN_CALLBACK.get()
}

/// Runs code of an application, which holds the lock of the worker. An error: it panicked.
fn calling<R>(f: impl FnOnce() -> R) -> std::thread::Result<R> {
    let outside = IN_CALLBACK.replace(true);
    let done = catch_unwind(AssertUnwindSafe(f));
    IN_CALLBACK.set(outside);
    done
}

/// In the place of a vserver's number: any.
const ANY: u32 = u32::MAX;

struct Slot {
    /// Never used twice.
    number: u64,
    /// Number of its vserver, or [`ANY`].
    node: u32,
    /// `None`: it ended, and its sockets are being closed.
    app: Option<Box<dyn Service>>,
    timers: Timers,
    /// Timers set so far: those of one instant are called in order.
    armed: u64,
    /// How far its sockets are closed: of which vserver, if it is for any, and there.
    swept_node: u32,
    swept: (usize, usize),
    /// They are reset, because it panicked.
    failed: bool,
}

/// All services of one worker.
#[derive(Default)]
pub(crate) struct Services {
    /// Number of the worker.
    pub(crate) worker: usize,
    /// How vservers set connections up.
    pub(crate) connects: Arc<Connects>,
    slots: Vec<Option<Slot>>,
    started: u64,
    live: usize,
    deadlines: Deadlines,
    /// Listeners with more connections than are accepted in one turn.
    more: VecDeque<(u32, SocketId)>,
    /// Slots of services that ended.
    ending: Vec<u16>,
    /// What operators have to know.
    reports: Vec<String>,
    /// The listener whose connection is being accepted.
    accepting: Option<SocketId>,
    /// Callbacks made.
    pub(crate) callbacks: u64,
    /// Services that panicked.
    pub(crate) panics: u64,
}

impl Services {
    /// Takes a service in; `None`: there are too many. Call [`Services::start`] next.
    pub(crate) fn add(&mut self, node: u32, app: Box<dyn Service>) -> Option<(u16, u64)> {
        let free = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if free >= SERVICES_MAX {
            return None;
        }
        self.started += 1;
        self.live += 1;
        let slot = Slot {
            number: self.started,
            node,
            app: Some(app),
            timers: Timers::new(),
            armed: 0,
            swept_node: if node == ANY { 0 } else { node },
            swept: (0, 0),
            failed: false,
        };
        if free == self.slots.len() {
            self.slots.push(Some(slot));
        } else {
            self.slots[free] = Some(slot);
        }
        Some((free as u16, self.started))
    }

    /// Takes in a service for any vserver.
    pub(crate) fn add_any(&mut self, app: Box<dyn Service>) -> Option<(u16, u64)> {
        self.add(ANY, app)
    }

    pub(crate) fn start(&mut self, node: &mut Node, now: Instant, index: u32, service: u16) {
        self.call((node, index), now, service, Service::start);
    }

    fn find(&self, number: u64) -> Option<u16> {
        let found = |s: &Option<Slot>| s.as_ref().is_some_and(|s| s.number == number);
        self.slots.iter().position(found).map(|index| index as u16)
    }

    pub(crate) fn is_running(&self, number: u64) -> bool {
        let slot = self.find(number).and_then(|s| self.slots[s as usize].as_ref());
        slot.is_some_and(|s| s.app.is_some())
    }

    /// The vserver of a service, the first one if it is for any, and its slot.
    pub(crate) fn place(&self, number: u64) -> Option<(u32, u16)> {
        let service = self.find(number)?;
        let node = self.slots[service as usize].as_ref()?.node;
        Some((if node == ANY { 0 } else { node }, service))
    }

    /// Ends a service; its sockets are closed in the turns to come.
    pub(crate) fn end(&mut self, number: u64) {
        if let Some(service) = self.find(number) {
            self.retire(service, false);
        }
    }

    /// Ends all services of a vserver whose sockets go with its stack.
    pub(crate) fn vacate(&mut self, id: NodeId) {
        let node = id.index;
        for service in 0..self.slots.len() {
            if self.slots[service].as_ref().is_some_and(|s| s.node == node) {
                self.retire(service as u16, false);
                self.ending.retain(|s| usize::from(*s) != service);
                self.slots[service] = None;
                self.live -= 1;
            }
        }
        self.more.retain(|(index, _)| *index != node);
        for slot in self.slots.iter_mut().flatten().filter(|s| s.node == ANY) {
            let Some(app) = slot.app.as_mut() else { continue };
            if calling(|| app.vserver_removed(crate::VserverId(id))).is_err() {
                self.reports.push(String::from("a service of any vserver panicked"));
            }
        }
    }

    /// Ends all, with nobody left to close their sockets.
    pub(crate) fn shut(&mut self) {
        for service in 0..self.slots.len() {
            self.retire(service as u16, false);
        }
    }

    fn retire(&mut self, service: u16, failed: bool) {
        let Some(slot) = &mut self.slots[service as usize] else { return };
        slot.failed = failed;
        slot.timers.clear();
        if let Some(app) = slot.app.take() {
            self.ending.push(service);
            // Its destructor is the application's too.
            if calling(|| drop(app)).is_err() {
                self.reports.push(match slot.node {
                    ANY => String::from("a service of any vserver panicked"),
                    node => format!("a service of vserver number {node} panicked"),
                });
                self.panics += 1;
            }
        }
    }

    /// One callback. A panic in it ends the service.
    fn call(
        &mut self,
        (node, index): (&mut Node, u32),
        now: Instant,
        service: u16,
        f: impl FnOnce(&mut dyn Service, &mut Cx<'_>),
    ) {
        let Some(slot) = &mut self.slots[service as usize] else { return };
        let Some(app) = slot.app.as_deref_mut() else { return };
        let before = slot.timers.peek().map(|t| t.0.0);
        let mut cx = Cx {
            now,
            worker: self.worker,
            service,
            node: index,
            generation: node.generation,
            listener: self.accepting,
            stack: &mut node.stack,
            owners: &mut node.owners,
            races: &mut node.races,
            connects: &self.connects,
            timers: &mut slot.timers,
            armed: &mut slot.armed,
            more: &mut self.more,
        };
        let ended = calling(|| f(app, &mut cx));
        self.callbacks += 1;
        let next = slot.timers.peek().map(|t| t.0.0);
        if next != before {
            self.deadlines.update(u32::from(service), next);
        }
        if let Err(why) = ended {
            let (why, vserver) = (panic_text(&*why), node.stack.name());
            let text = format!("a service of vserver {vserver} panicked ({why}) and was ended");
            self.reports.push(text);
            self.panics += 1;
            self.retire(service, true);
        }
    }

    /// An event of a socket; returns whether a service owns it.
    pub(crate) fn event(
        &mut self,
        node: &mut Node,
        now: Instant,
        index: u32,
        id: SocketId,
        ready: Readiness,
    ) -> bool {
        let Some(owner) = node.owners.get(id) else { return false };
        let (service, flags) = (owner.service, owner.flags);
        match id.kind {
            SocketKind::TcpListener => self.accept(node, now, index, service, id),
            SocketKind::TcpStream if flags & CONNECTING != 0 => {
                self.connect_ended((node, index), now, service, id);
            }
            SocketKind::TcpStream => self.stream((node, index), now, service, id, ready),
            _ => self.data((node, index), now, service, id, ready),
        }
        true
    }

    fn accept(&mut self, node: &mut Node, now: Instant, index: u32, service: u16, id: SocketId) {
        for _ in 0..ACCEPTS {
            // A callback may have closed or paused the listener.
            if node.owners.get(id).is_none_or(|o| o.flags & PAUSED != 0) {
                return;
            }
            let Some(accepted) = node.stack.tcp_accept(id) else { return };
            let conn = accepted.id;
            node.owners.add(conn, service, 0);
            self.accepting = Some(id);
            self.call((&mut *node, index), now, service, |app, cx| {
                app.accepted(cx, conn, accepted.peer);
            });
            self.accepting = None;
            if node.owners.get(conn).is_some() {
                // What came before it was accepted made no event.
                let ready = node.stack.readiness(conn);
                self.stream((&mut *node, index), now, service, conn, ready);
            }
        }
        // Once, however many events come meanwhile.
        if !self.more.contains(&(index, id)) {
            self.more.push_back((index, id));
        }
    }

    fn connect_ended(
        &mut self,
        (node, index): (&mut Node, u32),
        now: Instant,
        service: u16,
        id: SocketId,
    ) {
        let state = node.stack.tcp_state(id);
        if matches!(state, TcpState::SynSent | TcpState::SynReceived) {
            return;
        }
        if let Some(owner) = node.owners.get(id) {
            owner.flags &= !CONNECTING;
        }
        let ready = node.stack.readiness(id);
        if state == TcpState::Closed || ready.contains(Readiness::ERROR) {
            return self.closed((node, index), now, service, id);
        }
        self.call((&mut *node, index), now, service, |app, cx| app.connected(cx, id));
        if node.owners.get(id).is_some() {
            let ready = node.stack.readiness(id);
            self.stream((node, index), now, service, id, ready);
        }
    }

    fn stream(
        &mut self,
        (node, index): (&mut Node, u32),
        now: Instant,
        service: u16,
        id: SocketId,
        ready: Readiness,
    ) {
        if ready.contains(Readiness::ERROR) {
            return self.closed((node, index), now, service, id);
        }
        self.data((&mut *node, index), now, service, id, ready);
        let both = Readiness::READ_CLOSED | Readiness::WRITE_CLOSED;
        if ready.contains(both)
            && node.owners.get(id).is_some()
            && node.stack.tcp_peek(id, &mut [0]) == Ok(0)
        {
            self.closed((node, index), now, service, id);
        }
    }

    fn data(
        &mut self,
        (node, index): (&mut Node, u32),
        now: Instant,
        service: u16,
        id: SocketId,
        ready: Readiness,
    ) {
        if ready.contains(Readiness::READABLE) {
            self.call((&mut *node, index), now, service, |app, cx| app.readable(cx, id));
        }
        if ready.contains(Readiness::WRITABLE)
            && let Some(owner) = node.owners.get(id)
            && owner.flags & WANTS_WRITE != 0
        {
            owner.flags &= !WANTS_WRITE;
            self.call((node, index), now, service, |app, cx| app.writable(cx, id));
        }
    }

    fn closed(
        &mut self,
        (node, index): (&mut Node, u32),
        now: Instant,
        service: u16,
        id: SocketId,
    ) {
        let error: Option<TcpError> = node.stack.tcp_take_error(id);
        node.owners.remove(id);
        close(&mut node.stack, now, id);
        self.call((node, index), now, service, |app, cx| app.closed(cx, id, error));
    }

    /// Calls `timer` of a service now.
    pub(crate) fn trigger(
        &mut self,
        (node, index): (&mut Node, u32),
        now: Instant,
        service: u16,
        token: u64,
    ) {
        self.call((node, index), now, service, |app, cx| app.timer(cx, token));
    }

    /// Timers that are due, listeners that had more, sockets of services that ended; `calls` is told
    /// of whom something was called. Returns whether there was anything to do.
    pub(crate) fn run(&mut self, nodes: &mut [Node], now: Instant, mut calls: Calls<'_>) -> bool {
        let mut work = false;
        // As many as there are services, since one that has more due is armed again.
        for _ in 0..self.slots.len() {
            let Some(service) = self.deadlines.pop_expired(now) else { break };
            self.run_timers(nodes, now, service as u16, &mut calls);
            work = true;
        }
        for _ in 0..self.more.len() {
            let Some((index, id)) = self.more.pop_front() else { break };
            let node = &mut nodes[index as usize];
            if !calls.may_run(node) {
                self.more.push_back((index, id));
                work = true;
            } else if let Some(service) = node.owners.get(id).map(|o| o.service) {
                self.accept(node, now, index, service, id);
                calls.ran(node, index);
                work = true;
            }
        }
        let mut budget = SWEEP;
        while let Some(service) = self.ending.last().copied() {
            if budget == 0 {
                break;
            }
            let Some(slot) = &mut self.slots[service as usize] else { break };
            let index = slot.swept_node;
            let node = &mut nodes[index as usize];
            while let Some(id) = node.owners.take_next(service, &mut slot.swept, &mut budget) {
                if slot.failed && id.kind == SocketKind::TcpStream {
                    node.stack.tcp_abort(now, id);
                }
                node.races.give_up(&mut node.stack, now, id);
                close(&mut node.stack, now, id);
            }
            calls.ran(node, index);
            work = true;
            let last = slot.node != ANY || index as usize + 1 >= nodes.len();
            if budget > 0 && !last {
                // Looking at a vserver costs, even if it has none.
                budget = budget.saturating_sub(SWEEP_NODE);
                (slot.swept_node, slot.swept) = (index + 1, (0, 0));
            } else if budget > 0 {
                self.slots[service as usize] = None;
                self.live -= 1;
                self.ending.pop();
            }
        }
        work
    }

    fn run_timers(
        &mut self,
        nodes: &mut [Node],
        now: Instant,
        service: u16,
        calls: &mut Calls<'_>,
    ) {
        // Of vservers that have used up their part of the round.
        let mut later: SmallVec<[_; 8]> = SmallVec::new();
        for _ in 0..TIMERS {
            let Some(slot) = &mut self.slots[service as usize] else { return };
            let Some(Reverse((at, _, token, index))) = slot.timers.peek().copied() else { break };
            if at > now {
                break;
            }
            let timer = slot.timers.pop();
            // Of a vserver that is there no more nothing is due.
            let Some(node) = nodes.get_mut(index as usize) else { continue };
            if !calls.may_run(node) {
                later.extend(timer);
                continue;
            }
            self.call((&mut *node, index), now, service, |app, cx| app.timer(cx, token));
            calls.ran(node, index);
        }
        let Some(slot) = &mut self.slots[service as usize] else { return };
        slot.timers.extend(later);
        let next = slot.timers.peek();
        self.deadlines.update(u32::from(service), next.map(|t| t.0.0));
    }

    /// Whether sockets of services that ended are to be closed.
    pub(crate) fn is_ending(&self) -> bool {
        !self.ending.is_empty()
    }

    /// Whether there is none, not even one that ends.
    pub(crate) fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Whether [`Services::run`] has something to do whatever the time, or something is to be
    /// reported.
    pub(crate) fn has_work(&self) -> bool {
        !(self.more.is_empty() && self.ending.is_empty() && self.reports.is_empty())
    }

    /// When [`Services::run`] has something to do.
    pub(crate) fn wake_at(&self, now: Instant) -> Option<Instant> {
        if self.more.is_empty() && self.ending.is_empty() {
            return self.deadlines.next();
        }
        Some(now)
    }

    /// What happened to services since the last call.
    pub(crate) fn take_reports(&mut self) -> Vec<String> {
        std::mem::take(&mut self.reports)
    }
}

fn panic_text(why: &(dyn Any + Send)) -> &str {
    let text = why.downcast_ref::<&str>().copied();
    text.or_else(|| why.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
