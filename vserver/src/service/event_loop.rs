//! The thread that serves http and proxy.
//!
//! Sockets stand in one slab; a token is slot and generation, so that an event for a socket that is
//! gone finds nobody. Deadlines stand in a heap with one entry per connection, which is looked at
//! when it comes and put back if the connection has lived on.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use weft_stack::socket::Readiness;
use weft_stack::socket::tcp::TcpOption;

use super::connection::{Connection, Role, Turn};
use super::proxy::Proxy;
use super::{BIND_RETRY, Control, KEEPALIVE, Order, Place, Running, http};
use crate::config::{ProxyTarget, ServiceKind};
use crate::net::{AnyListener, Poller, Ready, TcpListener, TcpStream};

/// Connections accepted by one listener before the next socket's turn.
const TURN_ACCEPTS: usize = 64;
/// The longest wait, in case a wake-up is lost.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Bytes read from the kernel at a time.
const SCRATCH_BYTES: usize = 256 << 10;
/// The token of the poller in the kernel's queue; sockets' tokens have a generation above 0.
const POLLER: Token = Token(0);

/// All sockets of all services.
pub(super) struct EventLoop {
    control: Arc<Control>,
    kernel: Poll,
    sockets: Slab<Entry>,
    generation: u32,
    /// Sockets that can go on without an event.
    again: VecDeque<Token>,
    deadlines: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Services that wait for an address.
    unbound: Vec<Arc<Running>>,
    /// Kernel sockets open; while there are none, the poller is waited on directly.
    kernel_sockets: usize,
    retry_at: Instant,
    scratch: Vec<u8>,
}

struct Entry {
    generation: u32,
    socket: Socket,
}

enum Socket {
    Listener(Box<Listener>),
    Connection(Box<Connection>),
}

/// A listener of one vserver, or of all.
enum Accepting {
    One(TcpListener),
    Any(AnyListener),
}

impl Accepting {
    fn bind(place: &Place, listen: SocketAddr) -> io::Result<Accepting> {
        match place {
            Place::Vserver(v) => {
                let socket = TcpListener::bind(v, listen)?;
                socket.set_nonblocking(true)?;
                Ok(Accepting::One(socket))
            }
            Place::Any { shared, .. } => {
                let how = place.options(listen, super::BACKLOG);
                let socket = AnyListener::new(shared, listen.port(), &how)?;
                socket.set_nonblocking(true)?;
                Ok(Accepting::Any(socket))
            }
        }
    }

    fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match self {
            Accepting::One(socket) => socket.accept(),
            Accepting::Any(socket) => socket.accept(),
        }
    }

    fn register(&self, poller: &Poller, token: Token) -> io::Result<()> {
        match self {
            Accepting::One(socket) => poller.register(socket, token, Interest::READABLE),
            Accepting::Any(socket) => poller.register(socket, token, Interest::READABLE),
        }
    }

    fn deregister(&self, poller: &Poller) -> io::Result<()> {
        match self {
            Accepting::One(socket) => poller.deregister(socket),
            Accepting::Any(socket) => poller.deregister(socket),
        }
    }
}

struct Listener {
    socket: Accepting,
    service: Arc<Running>,
    queued: bool,
    /// The service has as many connections as it may; accepting goes on when one ends.
    paused: bool,
}

impl EventLoop {
    pub(super) fn new(control: Arc<Control>) -> io::Result<EventLoop> {
        let kernel = Poll::new()?;
        let fd = control.poller.as_fd().as_raw_fd();
        kernel.registry().register(&mut SourceFd(&fd), POLLER, Interest::READABLE)?;
        Ok(EventLoop {
            control,
            kernel,
            sockets: Slab::new(),
            generation: 0,
            again: VecDeque::new(),
            deadlines: BinaryHeap::new(),
            unbound: Vec::new(),
            kernel_sockets: 0,
            retry_at: Instant::now(),
            scratch: vec![0; SCRATCH_BYTES],
        })
    }

    /// Binds the listener of a service. An address that is not there yet is tried again later.
    pub(super) fn add(&mut self, service: &Arc<Running>) -> io::Result<()> {
        match self.bind(service) {
            Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => {
                self.unbound.push(Arc::clone(service));
                Ok(())
            }
            bound => bound,
        }
    }

    fn bind(&mut self, service: &Arc<Running>) -> io::Result<()> {
        // Without an address yet its name will bring it back here.
        let Some(listen) = service.listen() else { return Ok(()) };
        let socket = Accepting::bind(&service.place, listen)?;
        let running = Arc::clone(service);
        let service = Arc::clone(service);
        let listener = Listener { socket, service, queued: false, paused: false };
        let slot = self.insert(Socket::Listener(Box::new(listener)))?;
        running.listener.store(token(slot, self.generation).0, Ordering::Relaxed);
        running.listening.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn insert(&mut self, socket: Socket) -> io::Result<usize> {
        self.generation = self.generation.wrapping_add(1).max(1);
        let entry = self.sockets.vacant_entry();
        let token = token(entry.key(), self.generation);
        let poller = &self.control.poller;
        match &socket {
            Socket::Listener(l) => l.socket.register(poller, token)?,
            Socket::Connection(c) => {
                poller.register(&c.stream, token, Interest::READABLE | Interest::WRITABLE)?;
            }
        }
        let slot = entry.key();
        entry.insert(Entry { generation: self.generation, socket });
        Ok(slot)
    }

    /// Serves until it is told to stop.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(256);
        let mut ready = Vec::new();
        while !self.control.stop.load(Ordering::Acquire) {
            if let Err(e) = self.wait(&mut events, &mut ready) {
                // Neither queue fails while its descriptor is open; without them nothing can be
                // served.
                eprintln!("weft: services stopped: waiting for events: {e}");
                return;
            }
            self.obey();
            let now = Instant::now();
            for r in &ready {
                self.handle(*r, now);
            }
            for event in &events {
                if event.token() != POLLER {
                    self.handle_kernel(event, now);
                }
            }
            // Only those that wait now: a new turn comes after the other sockets' events.
            for _ in 0..self.again.len() {
                if let Some(t) = self.again.pop_front() {
                    if let Some(queued) = self.queued(t) {
                        *queued = false;
                    }
                    self.advance(t, now);
                }
            }
            self.expire(now);
            self.retry(now);
            self.move_services();
        }
    }

    fn obey(&mut self) {
        let orders = std::mem::take(&mut *self.control.orders.lock());
        for order in orders {
            match order {
                Order::Add(service, told) => {
                    let listens = self.add(&service);
                    // Who asked may have lost patience.
                    let _ = told.send(listens);
                }
                Order::Remove(service) => self.forget(&service),
            }
        }
    }

    /// Closes the listener and the connections of a service.
    fn forget(&mut self, service: &Arc<Running>) {
        self.unbound.retain(|s| !Arc::ptr_eq(s, service));
        let ours = |entry: &Entry| match &entry.socket {
            Socket::Listener(l) => Arc::ptr_eq(&l.service, service),
            Socket::Connection(c) => Arc::ptr_eq(&c.service, service),
        };
        let slots: Vec<_> =
            self.sockets.iter().filter(|(_, e)| ours(e)).map(|(slot, _)| slot).collect();
        for slot in slots {
            if let Socket::Listener(l) = &self.sockets[slot].socket {
                // It fails only for a socket that is gone.
                let _ = l.socket.deregister(&self.control.poller);
                self.sockets.remove(slot);
            } else {
                self.remove(slot);
            }
        }
    }

    fn wait(&mut self, events: &mut Events, ready: &mut Vec<Ready>) -> io::Result<()> {
        let timeout = self.timeout();
        ready.clear();
        events.clear();
        let poller: &Poller = &self.control.poller;
        if self.kernel_sockets == 0 {
            return poller.wait(ready, Some(timeout));
        }
        match self.kernel.poll(events, Some(timeout)) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
            _ => {}
        }
        poller.wait(ready, Some(Duration::ZERO))
    }

    fn timeout(&self) -> Duration {
        if !self.again.is_empty() {
            return Duration::ZERO;
        }
        let retry = if self.unbound.is_empty() { WAIT_MAX } else { BIND_RETRY };
        let next = self.deadlines.peek().map(|Reverse((at, _))| *at);
        next.map_or(WAIT_MAX, |at| at.saturating_duration_since(Instant::now())).min(retry)
    }

    fn entry(&mut self, t: Token) -> Option<&mut Socket> {
        let (slot, generation) = parts(t);
        let entry = self.sockets.get_mut(slot)?;
        (entry.generation == generation).then_some(&mut entry.socket)
    }

    fn handle(&mut self, r: Ready, now: Instant) {
        if let Some(Socket::Connection(c)) = self.entry(r.token) {
            let any = |bits: Readiness| r.readiness.0 & bits.0 != 0;
            let gone = Readiness::READ_CLOSED | Readiness::ERROR;
            c.readable |= any(Readiness::READABLE | gone);
            c.writable |= any(Readiness::WRITABLE | Readiness::WRITE_CLOSED | Readiness::ERROR);
        }
        self.advance(r.token, now);
    }

    fn handle_kernel(&mut self, event: &mio::event::Event, now: Instant) {
        let Some(Socket::Connection(c)) = self.entry(event.token()) else { return };
        let Role::Proxy(p) = &mut c.role else { return };
        p.kernel_readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        p.kernel_writable |= event.is_writable() || event.is_write_closed() || event.is_error();
        self.advance(event.token(), now);
    }

    /// Gives a socket its turn.
    fn advance(&mut self, t: Token, now: Instant) {
        let (slot, generation) = parts(t);
        let Some(entry) = self.sockets.get_mut(slot).filter(|e| e.generation == generation) else {
            return;
        };
        let again = match &mut entry.socket {
            Socket::Listener(_) => return self.accept(t, now),
            Socket::Connection(c) => match c.advance(now, &mut self.scratch) {
                Turn::Over => return self.remove(slot),
                turn => {
                    self.arm(t);
                    turn == Turn::Again
                }
            },
        };
        if again {
            self.requeue(t);
        }
    }

    /// Whether the socket waits for another turn.
    fn queued(&mut self, t: Token) -> Option<&mut bool> {
        Some(match self.entry(t)? {
            Socket::Listener(l) => &mut l.queued,
            Socket::Connection(c) => &mut c.queued,
        })
    }

    /// Gives the socket another turn after the others, once.
    fn requeue(&mut self, t: Token) {
        if let Some(queued) = self.queued(t)
            && !std::mem::replace(queued, true)
        {
            self.again.push_back(t);
        }
    }

    fn accept(&mut self, t: Token, now: Instant) {
        for _ in 0..TURN_ACCEPTS {
            let Some(Socket::Listener(l)) = self.entry(t) else { return };
            let service = Arc::clone(&l.service);
            let counters = &service.counters;
            if counters.connections.get() >= service.config.connections as u64 {
                if !l.paused {
                    l.paused = true;
                    counters.accept_paused.add(1);
                }
                return;
            }
            match l.socket.accept() {
                Ok((stream, _)) => {
                    counters.accepted.add(1);
                    if self.open(stream, &service, now).is_err() {
                        counters.failed.add(1);
                    }
                }
                Err(_) => return,
            }
        }
        self.requeue(t);
    }

    fn open(&mut self, stream: TcpStream, service: &Arc<Running>, now: Instant) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        // Answers are written whole; waiting for an acknowledgment could only delay their end.
        stream.set_nodelay(true)?;
        if service.config.idle_s == 0 {
            // Who may be silent for ever must at least be there.
            stream.set_option(TcpOption::KeepAlive(Some(KEEPALIVE)))?;
        }
        let Some(role) = role(service) else {
            stream.abort();
            return Ok(());
        };
        let connection = Connection::new(stream, Arc::clone(service), role, now);
        let slot = self.insert(Socket::Connection(Box::new(connection)))?;
        service.counters.connections.add(1);
        let t = token(slot, self.generation);
        if let Socket::Connection(c) = &mut self.sockets[slot].socket
            && let Role::Proxy(p) = &mut c.role
        {
            self.kernel_sockets += 1;
            if let Err(e) = p.register(self.kernel.registry(), t) {
                self.remove(slot);
                return Err(e);
            }
        }
        self.advance(t, now);
        Ok(())
    }

    fn remove(&mut self, slot: usize) {
        let Socket::Connection(mut c) = self.sockets.remove(slot).socket else { return };
        if let Role::Proxy(p) = &mut c.role {
            p.deregister(self.kernel.registry());
            self.kernel_sockets -= 1;
        }
        // Closing fails only for a socket that is gone.
        let _ = self.control.poller.deregister(&c.stream);
        let service = Arc::clone(&c.service);
        service.counters.connections.sub(1);
        drop(c);
        self.resume(&service);
    }

    /// Lets a paused listener of the service accept again.
    fn resume(&mut self, service: &Arc<Running>) {
        if service.counters.connections.get() >= service.config.connections as u64 {
            return;
        }
        let t = Token(service.listener.load(Ordering::Relaxed));
        let Some(Socket::Listener(l)) = self.entry(t) else { return };
        if std::mem::take(&mut l.paused) {
            self.requeue(t);
        }
    }

    /// Notes a connection's deadline if it comes before what is noted.
    fn arm(&mut self, t: Token) {
        let Some(Socket::Connection(c)) = self.entry(t) else { return };
        let Some(at) = c.deadline.filter(|at| c.armed.is_none_or(|armed| *at < armed)) else {
            return;
        };
        c.armed = Some(at);
        self.deadlines.push(Reverse((at, t.0)));
    }

    /// Closes the connections whose deadline has come.
    fn expire(&mut self, now: Instant) {
        while let Some(Reverse((at, _))) = self.deadlines.peek()
            && *at <= now
        {
            let Some(Reverse((at, t))) = self.deadlines.pop() else { return };
            let Some(Socket::Connection(c)) = self.entry(Token(t)) else { continue };
            // An earlier one was noted after this, and has been looked at.
            if c.armed != Some(at) {
                continue;
            }
            c.armed = None;
            if c.deadline.is_some_and(|d| d <= now) {
                c.service.counters.timeouts.add(1);
                c.give_up();
                self.remove(parts(Token(t)).0);
            } else {
                self.arm(Token(t));
            }
        }
    }

    /// Listens elsewhere where a name has another address; connections stay.
    fn move_services(&mut self) {
        let moved = std::mem::take(&mut *self.control.moved.lock());
        for service in moved {
            let of_it = |s: &Socket| match s {
                Socket::Listener(l) => Arc::ptr_eq(&l.service, &service),
                Socket::Connection(_) => false,
            };
            self.sockets.retain(|_, e| !of_it(&e.socket));
            self.unbound.retain(|u| !Arc::ptr_eq(u, &service));
            service.listening.store(0, Ordering::Relaxed);
            if let Err(e) = self.add(&service) {
                eprintln!("weft: {}", service.error("listen", e));
            }
        }
    }

    /// Tries the addresses again that were not there.
    fn retry(&mut self, now: Instant) {
        if self.unbound.is_empty() || now < self.retry_at {
            return;
        }
        self.retry_at = now + BIND_RETRY;
        for service in std::mem::take(&mut self.unbound) {
            if let Err(e) = self.add(&service) {
                eprintln!("weft: {}", service.error("listen", e));
            }
        }
    }
}

/// What serves a new connection; `None` if a proxy's target refuses at once (counted).
fn role(service: &Running) -> Option<Role> {
    if let ServiceKind::Proxy(target) = &service.config.kind {
        let resolved = service.target.lock().map(ProxyTarget::Tcp);
        let proxy = Proxy::connect(resolved.as_ref().unwrap_or(target)).ok();
        if proxy.is_none() {
            service.counters.connect_failed.add(1);
        }
        return Some(Role::Proxy(Box::new(proxy?)));
    }
    let site = Arc::clone(service.site.as_ref()?);
    Some(Role::Http(Box::new(http::Connection::new(site))))
}

fn token(slot: usize, generation: u32) -> Token {
    Token((generation as usize) << 32 | slot)
}

fn parts(t: Token) -> (usize, u32) {
    (t.0 & 0xffff_ffff, (t.0 >> 32) as u32)
}
