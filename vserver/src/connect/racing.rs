//! A race over the sockets and the resolver of a vserver.

use std::io;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use parking_lot::Mutex;
use weft_shim::connect::{
    Action, Answer, AttemptId, Ends, Failure, Form, Labels, Outcome, PolicyTable, Question, Race,
    Request, World,
};
use weft_stack::socket::tcp::{TcpOption, TcpState};
use weft_stack::socket::udp::{UdpRecvError, UdpSend};
use weft_stack::socket::{Readiness, SocketId};

use super::{Ours, State};
use crate::Vserver;
use crate::net::socket::{Socket, bind_error, tcp_error};
use crate::net::{TcpConnect, TcpStream, recv_error, send_error};
use crate::resolver::{Lookup, ResolveError, Wanted};
use crate::runtime::{Leave, Node, Notify, Wait};

/// What each attempt does.
#[derive(Debug)]
pub(super) enum Want {
    Tcp { port: u16, options: Vec<TcpOption> },
    Udp(Vec<u8>),
}

impl Want {
    pub(super) fn tcp(how: &TcpConnect<'_>) -> Want {
        let port = how.local.map_or(0, |l| l.port());
        Want::Tcp { port, options: how.options.to_vec() }
    }
}

/// How a request of one datagram is sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct UdpRequest<'a> {
    /// From this address. `None`: chosen.
    pub local: Option<IpAddr>,
    /// The kind of application, for the vserver's table.
    pub class: Option<&'a str>,
    /// Says more than the table.
    pub form: Option<Form>,
    /// Give up with `TimedOut` after this time. `None`: after the table's `answer_timeout_ms`.
    pub timeout: Option<Duration>,
}

/// The answer to a request of one datagram.
#[derive(Clone, Debug)]
pub struct UdpAnswer {
    /// What it says.
    pub payload: Bytes,
    /// Who said it.
    pub from: SocketAddr,
    /// The address of ours that it came to.
    pub to: IpAddr,
}

/// An attempt: a socket of a stack, closed with the race unless it wins.
#[derive(Clone, Copy, Debug)]
struct Try {
    worker: usize,
    id: SocketId,
}

type Answers = Arc<Mutex<Vec<(Question, Answer)>>>;

/// A connection that is being set up over alternatives.
///
/// Registered with mio or a poller for *writable*, it is reported whenever something happened; then,
/// and when the time of [`Connecting::timeout`] is over, call [`Connecting::drive`]. Dropping it
/// ends every attempt.
#[derive(Debug)]
pub struct Connecting<T> {
    vserver: Vserver,
    state: Arc<State>,
    policy: Arc<PolicyTable>,
    labels: Arc<Labels>,
    ours: Ours,
    notify: Arc<Notify>,
    race: Race,
    want: Want,
    port: u16,
    tries: Vec<Option<Try>>,
    answers: Answers,
    errors: Vec<(AttemptId, io::Error)>,
    /// Why DNS had nothing, for whoever asked by name.
    unresolved: Arc<Mutex<Option<ResolveError>>>,
    datagram: Option<UdpAnswer>,
    kind: PhantomData<fn() -> T>,
}

/// What a race is run for.
pub trait Prize: Sized {
    /// Made of the socket that won.
    #[doc(hidden)]
    fn take(racing: &mut Connecting<Self>, winner: AttemptId) -> io::Result<Self>;
}

impl Prize for TcpStream {
    fn take(racing: &mut Connecting<TcpStream>, winner: AttemptId) -> io::Result<TcpStream> {
        let Try { worker, id } = racing.tries[winner].take().ok_or_else(gone)?;
        let vserver = &racing.vserver;
        // From now on its events are its own.
        let notify = vserver.worker(worker).peek(vserver.node(), |n| Socket::watch(n, id))?;
        Ok(TcpStream::of(Socket::adopt(vserver, worker, id, notify)))
    }
}

impl Prize for UdpAnswer {
    fn take(racing: &mut Connecting<UdpAnswer>, _: AttemptId) -> io::Result<UdpAnswer> {
        racing.datagram.take().ok_or_else(gone)
    }
}

fn gone() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

impl<T: Prize> Connecting<T> {
    pub(super) fn new(vserver: &Vserver, mut request: Request, want: Want) -> io::Result<Self> {
        request.known = known_locators(vserver, &request);
        let state = vserver.second_shim();
        let policy = Arc::clone(&state.policy.lock());
        let labels = Arc::clone(&state.labels.lock());
        let (ours, port) = (Ours::new(vserver), request.port);
        for addr in request.given.iter().chain(&request.known) {
            ours.learn(*addr);
        }
        let race = {
            let mut history = state.history.lock();
            let (addresses, labels) = (&ours, &labels);
            let mut world = World { addresses, policy: &policy, labels, history: &mut history };
            Race::new(vserver.clock(), request, &mut world)
        };
        let mut connecting = Connecting {
            vserver: vserver.clone(),
            state,
            policy,
            labels,
            ours,
            notify: Arc::new(Notify::of_several()),
            race,
            want,
            port,
            tries: Vec::new(),
            answers: Answers::default(),
            errors: Vec::new(),
            unresolved: Arc::default(),
            datagram: None,
            kind: PhantomData,
        };
        connecting.act()?;
        Ok(connecting)
    }

    fn world<R>(&mut self, f: impl FnOnce(&mut Race, &mut World<'_>) -> R) -> R {
        let mut history = self.state.history.lock();
        let (addresses, labels) = (&self.ours, &self.labels);
        let mut world = World { addresses, policy: &self.policy, labels, history: &mut history };
        f(&mut self.race, &mut world)
    }

    /// Does what can be done now; `Some`: it is set up. Call no more after that, or after an error.
    ///
    /// Errors: those of the attempt that says most; `TimedOut`; `NotFound` for a name without
    /// addresses.
    pub fn drive(&mut self) -> io::Result<Option<T>> {
        loop {
            let now = self.vserver.clock();
            let answers = std::mem::take(&mut *self.answers.lock());
            for (question, answer) in answers {
                if let Answer::Addresses(all) = &answer {
                    for addr in all {
                        self.ours.learn(*addr);
                    }
                }
                self.world(|race, world| race.handle_answer(now, &question, answer, world));
            }
            self.look()?;
            if self.race.poll_timeout().is_some_and(|at| at <= now) {
                self.world(|race, world| race.handle_timeout(now, world));
            }
            let acted = self.act()?;
            match self.race.outcome() {
                Some(Outcome::Won(id, _)) => return T::take(self, id).map(Some),
                Some(outcome) => return Err(self.error(outcome)),
                None if !acted => return Ok(None),
                None => {}
            }
        }
    }

    /// How long until [`Connecting::drive`] has something to do that nobody reports. `None`: for
    /// ever.
    pub fn timeout(&self) -> Option<Duration> {
        let at = self.race.poll_timeout()?;
        Some(at.saturating_since(self.vserver.clock()))
    }

    /// Waits until it is set up.
    pub fn wait(mut self) -> io::Result<T> {
        if crate::app::in_callback() {
            let text = "waiting for a connection in a callback; use Connecting";
            return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
        }
        self.watched();
        loop {
            let seen = self.notify.fired();
            if let Some(prize) = self.drive()? {
                return Ok(prize);
            }
            let wait = self.timeout().map_or(Wait::Forever, Wait::at_most);
            self.notify.wait_at_gate(seen, wait);
        }
    }

    /// It sleeps where no worker knows of it.
    fn watched(&self) {
        self.vserver.workers().iter().for_each(|worker| worker.dependents.watched());
    }

    /// What became of the attempts.
    fn look(&mut self) -> io::Result<()> {
        let pending: Vec<AttemptId> = self.race.pending().collect();
        for id in pending {
            let Some(Some(attempt)) = self.tries.get(id).copied() else { continue };
            let Some(result) = self.result(attempt)? else { continue };
            let now = self.vserver.clock();
            self.over(id, result, now);
        }
        Ok(())
    }

    fn over(&mut self, id: AttemptId, result: io::Result<()>, now: weft_stack::time::Instant) {
        let result = result.map_err(|e| {
            let failure = failure(&e);
            self.errors.push((id, e));
            failure
        });
        self.world(|race, world| race.handle_attempt(now, id, result, world));
        if result.is_err() {
            self.close(id);
        }
    }

    /// `None`: it is still under way.
    fn result(&mut self, attempt: Try) -> io::Result<Option<io::Result<()>>> {
        let (id, worker) = (attempt.id, self.vserver.worker(attempt.worker));
        let node = self.vserver.node();
        if let Want::Tcp { .. } = self.want {
            return worker.peek(node, |node| match node.stack.tcp_state(id) {
                TcpState::SynSent | TcpState::SynReceived => None,
                state => Some(match node.stack.tcp_take_error(id) {
                    Some(e) => Err(tcp_error(e)),
                    None if state == TcpState::Closed => Err(gone()),
                    None => Ok(()),
                }),
            });
        }
        let got = worker.peek(node, |node| node.stack.udp_recv(id))?;
        Ok(match got {
            Ok(d) => {
                self.datagram = Some(UdpAnswer { payload: d.payload, from: d.from, to: d.to });
                Some(Ok(()))
            }
            Err(UdpRecvError::WouldBlock) => None,
            Err(e) => Some(Err(recv_error(e))),
        })
    }

    /// Carries out what the race wants; whether it wanted anything.
    fn act(&mut self) -> io::Result<bool> {
        let mut acted = false;
        while let Some(action) = self.race.poll_action() {
            acted = true;
            match action {
                Action::Look(question) => self.ask(question),
                Action::Cancel(id) => self.close(id),
                Action::Attempt(id, ends) => {
                    self.tries.resize(id + 1, None);
                    match self.start(ends) {
                        Ok(attempt) => self.tries[id] = Some(attempt),
                        // The vserver, or the host, is gone.
                        Err(e) if e.kind() == io::ErrorKind::NotConnected => return Err(e),
                        Err(e) => {
                            let now = self.vserver.clock();
                            self.over(id, Err(e), now);
                        }
                    }
                }
            }
        }
        Ok(acted)
    }

    fn start(&self, ends: Ends) -> io::Result<Try> {
        let remote = SocketAddr::new(ends.remote, self.port);
        match &self.want {
            Want::Tcp { port, options } => {
                let any = match ends.remote {
                    IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                    IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                };
                let named = ends.local.map(|ip| SocketAddr::new(ip, *port));
                let local = named.or((*port != 0).then(|| SocketAddr::new(any, *port)));
                let how = TcpConnect { local, options, ..TcpConnect::default() };
                let notify = &self.notify;
                let (worker, id) = TcpStream::start_watched(&self.vserver, remote, how, notify)?;
                Ok(Try { worker, id })
            }
            Want::Udp(payload) => self.send(ends.local, remote, payload),
        }
    }

    fn send(&self, local: Option<IpAddr>, remote: SocketAddr, payload: &[u8]) -> io::Result<Try> {
        let any = match remote.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let worker = self.vserver.worker_of_port(0);
        let local = SocketAddr::new(local.unwrap_or(any), 0);
        let id = Socket::make(&self.vserver, worker, &self.notify, |node, now| {
            let id = node.stack.udp_bind(now, local).map_err(bind_error)?;
            let sent = node
                .stack
                .udp_connect(now, id, remote)
                .and_then(|()| node.stack.udp_send_with(now, id, payload, &UdpSend::default()));
            match sent {
                Ok(()) => Ok(id),
                Err(e) => {
                    node.stack.udp_close(id);
                    Err(send_error(e))
                }
            }
        })?;
        Ok(Try { worker, id })
    }

    /// Ends an attempt: in SYN-SENT nothing is sent, and an answer finds nobody.
    fn close(&mut self, id: AttemptId) {
        let Some(Try { worker, id }) = self.tries.get_mut(id).and_then(Option::take) else {
            return;
        };
        self.vserver.worker(worker).give_up(self.vserver.node(), id, Leave::Abort);
    }

    fn ask(&self, question: Question) {
        let wanted = match &question {
            Question::Aaaa(name) => Wanted::Ipv6(name.clone()),
            Question::A(name) => Wanted::Ipv4(name.clone()),
            Question::Ptr(addr) => Wanted::Address(*addr),
        };
        let (answers, notify) = (Arc::clone(&self.answers), Arc::clone(&self.notify));
        let unresolved = Arc::clone(&self.unresolved);
        let done = move |outcome: Result<Lookup, ResolveError>| {
            let answer = match (&question, outcome) {
                (Question::Ptr(_), Ok(found)) => Answer::Names(found.names),
                (_, Ok(found)) => Answer::Addresses(found.addresses),
                (_, Err(e)) => {
                    *unresolved.lock() = Some(e);
                    Answer::Nothing
                }
            };
            answers.lock().push((question, answer));
            notify.fire(Readiness::WRITABLE);
        };
        self.vserver.ask(wanted, Box::new(done));
    }

    fn error(&mut self, outcome: Outcome) -> io::Error {
        let of = |wanted: AttemptId| self.errors.iter().position(|(id, _)| *id == wanted);
        let at = match outcome {
            Outcome::Failed(_, Some(id)) => of(id),
            _ => None,
        };
        if let Some(at) = at {
            return self.errors.swap_remove(at).1;
        }
        match (outcome, self.unresolved.lock().take()) {
            (Outcome::NoAddress, Some(e)) => io::Error::new(io::ErrorKind::NotFound, e),
            (Outcome::NoAddress, None) => io::ErrorKind::NotFound.into(),
            (Outcome::Failed(Failure::TimedOut, _), _) => io::ErrorKind::TimedOut.into(),
            _ => io::ErrorKind::NetworkUnreachable.into(),
        }
    }
}

impl<T> Drop for Connecting<T> {
    fn drop(&mut self) {
        self.race.abort();
        self.notify.unwatch_poller(None);
        *self.state.counters.lock() += self.race.counters();
        for Try { worker, id } in self.tries.drain(..).flatten() {
            self.vserver.worker(worker).give_up(self.vserver.node(), id, Leave::Abort);
        }
    }
}

/// Further addresses of the peer that contexts of the vserver's shim have proved.
fn known_locators(vserver: &Vserver, request: &Request) -> Vec<IpAddr> {
    let of_peer = |node: &mut Node| -> Option<Vec<IpAddr>> {
        let contexts = node.stack.path().shim()?;
        let all = request.given.iter().flat_map(|given| contexts.locators_of_peer(*given));
        Some(all.collect())
    };
    let worker = vserver.worker(vserver.first_place());
    worker.peek(vserver.node(), of_peer).ok().flatten().unwrap_or_default()
}

pub(super) fn failure(e: &io::Error) -> Failure {
    match e.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Failure::Refused,
        io::ErrorKind::TimedOut => Failure::TimedOut,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Failure::Unreachable,
        _ => Failure::Local,
    }
}

/// One event descriptor, for writable interest.
impl<T: Prize> Source for Connecting<T> {
    fn register(&mut self, r: &Registry, token: Token, i: Interest) -> io::Result<()> {
        self.watch_mio(i, |fd, i| SourceFd(&fd).register(r, token, i))
    }
    fn reregister(&mut self, r: &Registry, token: Token, i: Interest) -> io::Result<()> {
        self.watch_mio(i, |fd, i| SourceFd(&fd).reregister(r, token, i))
    }
    fn deregister(&mut self, r: &Registry) -> io::Result<()> {
        self.notify.unwatch_mio(|fd| SourceFd(&fd).deregister(r))
    }
}

impl<T: Prize> Connecting<T> {
    fn watch_mio(
        &self,
        interest: Interest,
        f: impl FnOnce(RawFd, Interest) -> io::Result<()>,
    ) -> io::Result<()> {
        self.watched();
        // What happened before is looked at when this is driven, so that it is driven once.
        self.notify.watch_mio(interest, Readiness::WRITABLE, f)
    }
}
