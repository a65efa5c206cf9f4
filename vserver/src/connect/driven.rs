//! Races that a worker drives, for callers who have one socket from the beginning.
//!
//! The caller's handle is always that of an attempt which is under way; when another one is to have
//! it, the two connections trade handles ([`weft_stack::Stack::tcp_exchange`]). What attempts tell
//! is kept from the caller until the race is over: then the handle is that of the connection, or of
//! the attempt whose error says most. DNS is not asked: the peers are those that are known when the
//! race begins.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;
use weft_shim::connect::{
    Action, Addresses, Answer, AttemptId, Ends, Failure, Form, Labels, Outcome, PolicyTable, Race,
    Request, Source, World,
};
use weft_stack::socket::SocketId;
use weft_stack::socket::tcp::{ConnectError, TcpOption, TcpState};
use weft_stack::time::Instant;

use super::racing::failure;
use super::{State, sources};
use crate::net::socket::{connect_error, tcp_error};
use crate::runtime::{HostStack, Node};

/// Races of one vserver on one worker; beyond, a connect is one attempt, as without a table.
const RACES_MAX: usize = 1024;

/// Our addresses towards each peer, as they were when the race began.
#[derive(Debug, Default)]
struct Known(Vec<(IpAddr, SmallVec<[Source; 4]>)>);

impl Addresses for Known {
    fn sources(&self, dst: IpAddr) -> SmallVec<[Source; 4]> {
        let found = self.0.iter().find(|(addr, _)| *addr == dst);
        found.map(|(_, sources)| sources.clone()).unwrap_or_default()
    }
}

/// What a race is about, and what each attempt does.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(super) request: Request,
    pub(super) state: Arc<State>,
    /// Our port; 0: a free one.
    pub(super) port: u16,
    pub(super) options: Vec<TcpOption>,
}

#[derive(Debug)]
struct Running {
    race: Race,
    state: Arc<State>,
    policy: Arc<PolicyTable>,
    labels: Arc<Labels>,
    known: Known,
    /// The peer's port, and ours.
    ports: (u16, u16),
    options: Vec<TcpOption>,
    /// The caller's handle.
    face: Option<SocketId>,
    tries: Vec<Option<SocketId>>,
    /// Why the first attempt that could not start did not.
    refused: Option<ConnectError>,
}

impl Running {
    fn begin(stack: &mut HostStack, now: Instant, plan: Plan) -> Running {
        let Plan { mut request, state, port, options } = plan;
        request.look_up = false;
        if let Some(shim) = stack.path().shim() {
            let of_peer = request.given.iter().flat_map(|given| shim.locators_of_peer(*given));
            request.known = of_peer.collect();
        }
        let peers = request.given.iter().chain(&request.known).copied();
        let known = Known(peers.map(|peer| (peer, sources(stack, peer))).collect());
        let (policy, labels) = (Arc::clone(&state.policy.lock()), Arc::clone(&state.labels.lock()));
        let ports = (request.port, port);
        let race = {
            let mut history = state.history.lock();
            let (addresses, labels) = (&known, &labels);
            let mut world = World { addresses, policy: &policy, labels, history: &mut history };
            Race::new(now, request, &mut world)
        };
        let (face, tries, refused) = (None, Vec::new(), None);
        Running { race, state, policy, labels, known, ports, options, face, tries, refused }
    }

    fn world<R>(&mut self, f: impl FnOnce(&mut Race, &mut World<'_>) -> R) -> R {
        let mut history = self.state.history.lock();
        let (addresses, labels) = (&self.known, &self.labels);
        let mut world = World { addresses, policy: &self.policy, labels, history: &mut history };
        f(&mut self.race, &mut world)
    }

    /// Does what can be done now; whether the race is over.
    fn drive(&mut self, stack: &mut HostStack, now: Instant) -> bool {
        loop {
            self.look(stack, now);
            if self.race.poll_timeout().is_some_and(|at| at <= now) {
                self.world(|race, world| race.handle_timeout(now, world));
            }
            // Before the losers end, of which the caller's may be one.
            if let Some(Outcome::Won(id, _)) = self.race.outcome() {
                self.show(stack, now, id);
            }
            let acted = self.act(stack, now);
            if let Some(outcome) = self.race.outcome() {
                self.finish(stack, now, outcome);
                return true;
            }
            if !acted {
                self.keep_under_way(stack, now);
                return false;
            }
        }
    }

    /// What became of the attempts.
    fn look(&mut self, stack: &HostStack, now: Instant) {
        let pending: Vec<AttemptId> = self.race.pending().collect();
        for id in pending {
            let Some(Some(socket)) = self.tries.get(id).copied() else { continue };
            let result = match stack.tcp_state(socket) {
                TcpState::SynSent | TcpState::SynReceived => continue,
                TcpState::Closed => {
                    let error = stack.tcp_error(socket).map(|e| failure(&tcp_error(e)));
                    Err(error.unwrap_or(Failure::Local))
                }
                _ => Ok(()),
            };
            self.world(|race, world| race.handle_attempt(now, id, result, world));
        }
    }

    /// Carries out what the race wants; whether it wanted anything.
    fn act(&mut self, stack: &mut HostStack, now: Instant) -> bool {
        let mut acted = false;
        while let Some(action) = self.race.poll_action() {
            acted = true;
            match action {
                Action::Look(question) => {
                    self.world(|race, world| {
                        race.handle_answer(now, &question, Answer::Nothing, world);
                    });
                }
                Action::Cancel(id) => self.close(stack, now, id),
                Action::Attempt(id, ends) => {
                    self.tries.resize(id + 1, None);
                    match self.start(stack, now, ends) {
                        Ok(socket) => self.tries[id] = Some(socket),
                        Err(e) => {
                            let result = Err(failure(&connect_error(e)));
                            self.refused.get_or_insert(e);
                            self.world(|race, world| race.handle_attempt(now, id, result, world));
                        }
                    }
                }
            }
        }
        acted
    }

    fn start(
        &mut self,
        stack: &mut HostStack,
        now: Instant,
        ends: Ends,
    ) -> Result<SocketId, ConnectError> {
        let any = match ends.remote {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let (to, own) = self.ports;
        let local = (ends.local.is_some() || own != 0)
            .then(|| SocketAddr::new(ends.local.unwrap_or(any), own));
        let socket = stack.tcp_connect(now, local, SocketAddr::new(ends.remote, to))?;
        for option in &self.options {
            stack.tcp_set_option(now, socket, *option);
        }
        // The first one that could start.
        self.face.get_or_insert(socket);
        Ok(socket)
    }

    /// The caller's handle is that of an attempt that is under way, if there is one.
    fn keep_under_way(&mut self, stack: &mut HostStack, now: Instant) {
        let opening = |s| matches!(s, TcpState::SynSent | TcpState::SynReceived);
        if self.face.is_some_and(|face| opening(stack.tcp_state(face))) {
            return;
        }
        let next = self.race.pending().find(|id| self.tries.get(*id).is_some_and(Option::is_some));
        if let Some(id) = next {
            self.show(stack, now, id);
        }
    }

    /// The caller's handle is that of this attempt from now on.
    fn show(&mut self, stack: &mut HostStack, now: Instant, id: AttemptId) {
        let (Some(face), Some(Some(socket))) = (self.face, self.tries.get(id).copied()) else {
            return;
        };
        if !stack.tcp_exchange(now, face, socket) {
            return;
        }
        for handle in self.tries.iter_mut().flatten() {
            if *handle == face {
                *handle = socket;
            } else if *handle == socket {
                *handle = face;
            }
        }
    }

    /// Ends an attempt: in SYN-SENT nothing is sent, and an answer finds nobody.
    fn close(&mut self, stack: &mut HostStack, now: Instant, id: AttemptId) {
        let face = self.face;
        let not_the_callers = |s: &mut SocketId| Some(*s) != face;
        let Some(at) = self.tries.get_mut(id) else { return };
        if let Some(socket) = at.take_if(not_the_callers) {
            stack.tcp_abort(now, socket);
        }
    }

    fn finish(&mut self, stack: &mut HostStack, now: Instant, outcome: Outcome) {
        if let Outcome::Failed(_, Some(id)) = outcome {
            self.show(stack, now, id);
        }
        self.end(stack, now);
    }

    /// Ends every attempt but the caller's.
    fn end(&mut self, stack: &mut HostStack, now: Instant) {
        for id in 0..self.tries.len() {
            self.close(stack, now, id);
        }
        *self.state.counters.lock() += self.race.counters();
    }
}

/// What an event of a socket was.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Heard {
    /// No attempt's: its holder is to hear it.
    Plain,
    /// An attempt's: the race has used it.
    Attempt,
    /// The same, and the race is over: whoever has this handle is to be told what it is ready for.
    Over(SocketId),
}

/// The races of one vserver on one worker.
///
/// Invariants: `due` has each race of `running` that waits for a time, under that time; `attempts`
/// has the sockets of each, and no other.
#[derive(Debug, Default)]
pub(crate) struct Races {
    running: HashMap<u64, Running>,
    due: BTreeSet<(Instant, u64)>,
    /// Which race an attempt is of.
    attempts: HashMap<SocketId, u64>,
    begun: u64,
}

impl Races {
    /// Begins a race; the caller's handle. `Ok(None)`: as many run as there may be, which is
    /// counted, or there is nothing to try; then it is one attempt.
    pub(crate) fn begin(
        &mut self,
        stack: &mut HostStack,
        now: Instant,
        plan: Plan,
    ) -> Result<Option<SocketId>, ConnectError> {
        if self.running.len() >= RACES_MAX {
            *plan.state.unraced.lock() += 1;
            return Ok(None);
        }
        let mut running = Running::begin(stack, now, plan);
        let over = running.drive(stack, now);
        let (face, refused) = (running.face, running.refused);
        if !over {
            self.begun += 1;
            self.keep(self.begun, running);
        }
        match (face, refused) {
            (Some(face), _) => Ok(Some(face)),
            // Nothing could start: the race is over.
            (None, Some(refused)) => Err(refused),
            (None, None) => Ok(None),
        }
    }

    /// The same for a connection without more to say about it, if the table wants alternatives.
    pub(crate) fn begin_to(
        &mut self,
        stack: &mut HostStack,
        now: Instant,
        state: Arc<State>,
        (local, remote): (Option<SocketAddr>, SocketAddr),
    ) -> Result<Option<SocketId>, ConnectError> {
        let (policy, shard) = (Arc::clone(&state.policy.lock()), stack.shard());
        let port = local.map_or(0, |l| l.port());
        // With a port of ours each pair of addresses leads to another worker.
        if policy.is_off() || (port != 0 && shard.count > 1 && shard.flows.is_none()) {
            return Ok(None);
        }
        let mut request = Request::to(remote.ip(), remote.port());
        request.bound = local.map(|l| l.ip()).filter(|ip| !ip.is_unspecified());
        if request.treatment(&policy, Some(remote.ip())).form == Form::Off {
            return Ok(None);
        }
        self.begin(stack, now, Plan { request, state, port, options: Vec::new() })
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// When [`Races::handle_timeout`] is wanted.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// An event of a socket.
    pub(crate) fn event(&mut self, stack: &mut HostStack, now: Instant, id: SocketId) -> Heard {
        let Some(number) = self.attempts.get(&id).copied() else { return Heard::Plain };
        self.drive(stack, now, number).map_or(Heard::Attempt, Heard::Over)
    }

    /// Starts what is due; the handles whose races are over.
    pub(crate) fn handle_timeout(
        &mut self,
        stack: &mut HostStack,
        now: Instant,
    ) -> SmallVec<[SocketId; 4]> {
        let is_due = |(at, _): &&(Instant, u64)| *at <= now;
        let due: SmallVec<[u64; 4]> =
            self.due.iter().take_while(is_due).map(|(_, number)| *number).collect();
        due.into_iter().filter_map(|number| self.drive(stack, now, number)).collect()
    }

    /// A race goes on; the caller's handle if it is over.
    fn drive(&mut self, stack: &mut HostStack, now: Instant, number: u64) -> Option<SocketId> {
        let mut running = self.take(number)?;
        // The caller gave it up.
        if running.face.is_none_or(|face| stack.tcp_addrs(face).is_none()) {
            running.race.abort();
            running.end(stack, now);
            return None;
        }
        if running.drive(stack, now) {
            return running.face;
        }
        self.keep(number, running);
        None
    }

    /// Takes a race out, with all that leads to it.
    fn take(&mut self, number: u64) -> Option<Running> {
        let running = self.running.remove(&number)?;
        if let Some(at) = running.race.poll_timeout() {
            self.due.remove(&(at, number));
        }
        for socket in running.tries.iter().flatten() {
            self.attempts.remove(socket);
        }
        Some(running)
    }

    fn keep(&mut self, number: u64, running: Running) {
        self.attempts.extend(running.tries.iter().flatten().map(|socket| (*socket, number)));
        self.due.extend(running.race.poll_timeout().map(|at| (at, number)));
        self.running.insert(number, running);
    }

    /// The caller gives its handle up, or wants no attempt but the one that it has now.
    pub(crate) fn give_up(&mut self, stack: &mut HostStack, now: Instant, face: SocketId) {
        if self.is_empty() {
            return;
        }
        let Some(number) = self.attempts.get(&face).copied() else { return };
        if let Some(mut running) = self.take(number) {
            running.race.abort();
            running.end(stack, now);
        }
    }
}

impl Node {
    /// When the stack, or a race, has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.stack.poll_timeout().into_iter().chain(self.races.poll_timeout()).min()
    }
}
