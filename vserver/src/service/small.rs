//! Echo, discard and chargen (RFC 862, 863, 864), run to completion: an instance on each worker
//! answers in the turn in which something arrived.
//!
//! No callback waits or does more than the socket buffers hold. An echo that cannot send does not
//! read. The limit of connections is the service's, over all workers; it may be passed by one for
//! each further worker, when several accept at once.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use weft_stack::socket::SocketKind;

use super::{BIND_RETRY, KEEPALIVE, Place, Running, datagram};
use crate::app::{
    Cx, Instant, Service, ServiceHandle, SocketId, TcpError, TcpOption, TcpRecvError, TcpSendError,
    UdpRecvError,
};
use crate::arrival::VserverId;
use crate::config::ServiceKind;
use crate::host::Shared;
use crate::net::socket::{bind_error, listen_error};

/// Bytes taken from the stack at a time.
const RECEIVE_BYTES: usize = 256 << 10;
/// How long a worker that paused waits for connections of the other workers to end.
const RESUME: Duration = Duration::from_millis(20);
/// Connections looked at in one turn for those that idle.
const SWEEP: usize = 1024;
/// An idle connection is found after its time, by at most a part of it.
const SWEEPS_PER_IDLE: u32 = 4;

// Tokens of timers.
const TIMER_BIND: u64 = 0;
const TIMER_SWEEP: u64 = 1;
const TIMER_RESUME: u64 = 2;

/// A service on one worker.
pub(super) struct Small {
    service: Arc<Running>,
    /// How many workers serve it.
    workers: usize,
    /// What is still to be bound, and whether by UDP.
    unbound: Vec<(SocketAddr, bool)>,
    listener: Option<SocketId>,
    paused: bool,
    /// By slot of the stack's table, whose size the vserver's limits bound.
    connections: Vec<Option<Connection>>,
    live: usize,
    sweeping: bool,
    swept: usize,
}

struct Connection {
    id: SocketId,
    /// What is to be sent.
    pending: Bytes,
    /// The peer has sent its last.
    ended: bool,
    moved_at: Instant,
}

/// What becomes of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    Ends,
    Failed,
}

impl Small {
    /// Runs the service on all workers of its host. An address that is not there yet is tried again
    /// later.
    pub(super) fn run(service: &Arc<Running>, listen: SocketAddr) -> io::Result<ServiceHandle> {
        let vserver = match &service.place {
            Place::Vserver(v) => v,
            Place::Any { shared, .. } => return Small::run_any(service, shared, listen),
        };
        let of_datagrams = vserver.worker_of_port(listen.port());
        let handle = ServiceHandle::run(vserver, |worker| {
            let mut unbound = vec![(listen, false)];
            if datagram::speaks_udp(&service.config.kind) && worker == of_datagrams {
                unbound.push((listen, true));
            }
            Small::new(service, unbound)
        })?;
        match service.refused.lock().take() {
            Some(e) => Err(e),
            None => Ok(handle),
        }
    }

    fn new(service: &Arc<Running>, unbound: Vec<(SocketAddr, bool)>) -> Small {
        Small {
            service: Arc::clone(service),
            workers: service.place.workers().len(),
            unbound,
            listener: None,
            paused: false,
            connections: Vec::new(),
            live: 0,
            sweeping: false,
            swept: 0,
        }
    }

    /// The same for every vserver: each that is called gets an instance of its own.
    fn run_any(
        service: &Arc<Running>,
        shared: &Arc<Shared>,
        listen: SocketAddr,
    ) -> io::Result<ServiceHandle> {
        let how = service.place.options(listen, super::BACKLOG);
        let ports = [listen.port()];
        let udp = if datagram::speaks_udp(&service.config.kind) { &ports[..] } else { &[] };
        let make = |_| ForAll::new(service);
        let handle = ServiceHandle::run_any(shared, (&ports, udp), &how, make)?;
        service.listening.store(shared.workers.len(), Ordering::Relaxed);
        Ok(handle)
    }

    fn bind(&mut self, cx: &mut Cx<'_>) {
        let mut unbound = std::mem::take(&mut self.unbound);
        unbound.retain(|(local, udp)| {
            let bound = if *udp {
                cx.udp_bind(*local).map_err(bind_error)
            } else {
                cx.listen(*local, super::BACKLOG.div_ceil(self.workers)).map_err(listen_error)
            };
            match bound {
                Ok(_) if *udp => false,
                Ok(id) => {
                    self.listener = Some(id);
                    self.service.listening.fetch_add(1, Ordering::Relaxed);
                    false
                }
                Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => true,
                Err(e) => {
                    *self.service.refused.lock() = Some(e);
                    false
                }
            }
        });
        if !unbound.is_empty() {
            cx.set_timer(BIND_RETRY, TIMER_BIND);
        }
        self.unbound = unbound;
    }

    fn connection(&mut self, id: SocketId) -> Option<&mut Connection> {
        self.connections.get_mut(id.index as usize)?.as_mut().filter(|c| c.id == id)
    }

    fn is_full(&self) -> bool {
        self.service.counters.connections.get() >= self.service.config.connections as u64
    }

    /// Moves what can be moved on a connection.
    fn advance(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        let service = Arc::clone(&self.service);
        let Some(connection) = self.connection(id) else { return };
        let fate = match service.config.kind {
            ServiceKind::Echo => connection.echo(cx, &service),
            ServiceKind::Chargen => connection.generate(cx, &service),
            _ => connection.discard(cx, &service),
        };
        match fate {
            Fate::Stays => return,
            Fate::Ends => cx.close(id),
            Fate::Failed => {
                service.counters.failed.add(1);
                cx.abort(id);
            }
        }
        self.forget(cx, id);
    }

    /// Frees the place of a connection.
    fn forget(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        if self.connection(id).is_none() {
            return;
        }
        self.connections[id.index as usize] = None;
        self.live -= 1;
        self.service.counters.connections.sub(1);
        self.resume(cx);
    }

    fn pause(&mut self, cx: &mut Cx<'_>) {
        let Some(listener) = self.listener.filter(|_| !self.paused) else { return };
        self.paused = true;
        self.service.counters.accept_paused.add(1);
        cx.set_accepting(listener, false);
        if self.workers > 1 {
            cx.set_timer(RESUME, TIMER_RESUME);
        }
    }

    fn resume(&mut self, cx: &mut Cx<'_>) {
        if let Some(listener) = self.listener
            && self.paused
            && !self.is_full()
        {
            self.paused = false;
            cx.set_accepting(listener, true);
        }
    }

    /// Closes connections on which nothing moved, a bounded number at a time.
    fn sweep(&mut self, cx: &mut Cx<'_>) {
        let idle = Duration::from_secs(u64::from(self.service.config.idle_s));
        let end = self.connections.len().min(self.swept + SWEEP);
        for slot in self.swept..end {
            let Some(c) = &self.connections[slot] else { continue };
            if cx.now() < c.moved_at + idle {
                continue;
            }
            let id = c.id;
            self.service.counters.timeouts.add(1);
            // A peer that does not read would hold memory; else what was sent is still delivered.
            if c.pending.is_empty() {
                cx.close(id);
            } else {
                cx.abort(id);
            }
            self.forget(cx, id);
        }
        let over = end == self.connections.len();
        self.swept = if over { 0 } else { end };
        self.sweeping = !over || self.live > 0;
        if self.sweeping {
            cx.set_timer(if over { idle / SWEEPS_PER_IDLE } else { Duration::ZERO }, TIMER_SWEEP);
        }
    }

    fn datagrams(&self, cx: &mut Cx<'_>, id: SocketId) {
        let (config, counters) = (&self.service.config, &self.service.counters);
        loop {
            let datagram = match cx.udp_recv(id) {
                Ok(d) => d,
                // About an earlier datagram.
                Err(UdpRecvError::Failed(_)) => continue,
                Err(_) => return,
            };
            counters.in_datagrams.add(1);
            counters.in_bytes.add(datagram.payload.len() as u64);
            if !matches!(config.kind, ServiceKind::Echo) {
                continue;
            }
            let answered = datagram::may_answer(datagram.from, config.listen.port())
                && cx.udp_send_with(id, &datagram.payload, &datagram::back(&datagram)).is_ok();
            if answered {
                counters.out_datagrams.add(1);
                counters.out_bytes.add(datagram.payload.len() as u64);
            } else {
                // Without room, or an answer that could be answered for ever: UDP may lose it.
                counters.dropped_datagrams.add(1);
            }
        }
    }
}

impl Connection {
    fn echo(&mut self, cx: &mut Cx<'_>, service: &Running) -> Fate {
        loop {
            match self.send(cx, service) {
                Ok(()) => {}
                Err(fate) => return fate,
            }
            if self.ended {
                return Fate::Ends;
            }
            match cx.recv_bytes(self.id, RECEIVE_BYTES) {
                Ok(data) if data.is_empty() => self.ended = true,
                Ok(data) => {
                    service.counters.in_bytes.add(data.len() as u64);
                    self.moved_at = cx.now();
                    self.pending = data;
                }
                Err(TcpRecvError::WouldBlock) => return Fate::Stays,
                Err(_) => return Fate::Failed,
            }
        }
    }

    fn discard(&mut self, cx: &mut Cx<'_>, service: &Running) -> Fate {
        loop {
            match cx.recv_in_place(self.id, usize::MAX, |_| {}) {
                Ok(0) => return Fate::Ends,
                Ok(n) => {
                    service.counters.in_bytes.add(n as u64);
                    self.moved_at = cx.now();
                }
                Err(TcpRecvError::WouldBlock) => return Fate::Stays,
                Err(_) => return Fate::Failed,
            }
        }
    }

    /// Who has shut its half down is still served, until it is gone.
    fn generate(&mut self, cx: &mut Cx<'_>, service: &Running) -> Fate {
        if !self.ended {
            match self.discard(cx, service) {
                Fate::Ends => self.ended = true,
                Fate::Stays => {}
                Fate::Failed => return Fate::Failed,
            }
        }
        loop {
            if self.pending.is_empty() {
                self.pending = CHARGEN.clone();
            }
            if let Err(fate) = self.send(cx, service) {
                return fate;
            }
        }
    }

    /// Sends all that is pending, or says what becomes of the connection.
    fn send(&mut self, cx: &mut Cx<'_>, service: &Running) -> Result<(), Fate> {
        while !self.pending.is_empty() {
            match cx.send_bytes(self.id, &mut self.pending) {
                Ok(n) => {
                    service.counters.out_bytes.add(n as u64);
                    self.moved_at = cx.now();
                }
                Err(TcpSendError::WouldBlock) => return Err(Fate::Stays),
                Err(_) => return Err(Fate::Failed),
            }
        }
        Ok(())
    }
}

impl Service for Small {
    fn start(&mut self, cx: &mut Cx<'_>) {
        self.bind(cx);
    }

    fn accepted(&mut self, cx: &mut Cx<'_>, id: SocketId, _: SocketAddr) {
        let counters = &self.service.counters;
        counters.accepted.add(1);
        counters.connections.add(1);
        // Answers are written whole; waiting for an acknowledgment could only delay their end.
        cx.set_option(id, TcpOption::NoDelay(true));
        let idle_s = self.service.config.idle_s;
        if idle_s == 0 {
            // Who may be silent for ever must at least be there.
            cx.set_option(id, TcpOption::KeepAlive(Some(KEEPALIVE)));
        }
        let slot = id.index as usize;
        if slot >= self.connections.len() {
            self.connections.resize_with(slot + 1, || None);
        }
        if self.connections[slot].take().is_some() {
            // Of a vserver that is no more, and whose number this one has.
            self.live -= 1;
            counters.connections.sub(1);
        }
        let connection = Connection { id, pending: Bytes::new(), ended: false, moved_at: cx.now() };
        self.connections[slot] = Some(connection);
        self.live += 1;
        if idle_s > 0 && !self.sweeping {
            self.sweeping = true;
            cx.set_timer(Duration::from_secs(idle_s.into()) / SWEEPS_PER_IDLE, TIMER_SWEEP);
        }
        if self.is_full() {
            self.pause(cx);
        }
        if matches!(self.service.config.kind, ServiceKind::Chargen) {
            self.advance(cx, id);
        }
    }

    fn readable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        if id.kind == SocketKind::Udp {
            self.datagrams(cx, id);
        } else {
            self.advance(cx, id);
        }
    }

    fn writable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        self.advance(cx, id);
    }

    fn closed(&mut self, cx: &mut Cx<'_>, id: SocketId, error: Option<TcpError>) {
        if error.is_some() {
            self.service.counters.failed.add(1);
        }
        self.forget(cx, id);
    }

    fn timer(&mut self, cx: &mut Cx<'_>, token: u64) {
        match token {
            TIMER_BIND => self.bind(cx),
            TIMER_SWEEP => self.sweep(cx),
            _ => {
                self.resume(cx);
                if self.paused {
                    cx.set_timer(RESUME, TIMER_RESUME);
                }
            }
        }
    }
}

/// A service for every vserver on one worker: an instance for each that was called, for as long as it
/// has connections.
struct ForAll {
    service: Arc<Running>,
    of: HashMap<VserverId, Small>,
}

impl ForAll {
    fn new(service: &Arc<Running>) -> ForAll {
        ForAll { service: Arc::clone(service), of: HashMap::new() }
    }

    fn call(&mut self, cx: &mut Cx<'_>, f: impl FnOnce(&mut Small, &mut Cx<'_>)) {
        let vserver = cx.vserver();
        let make = || Small::new(&self.service, Vec::new());
        let small = self.of.entry(vserver).or_insert_with(make);
        f(small, cx);
        // What sweeps or waits to go on has a timer that comes back to it.
        if small.live == 0 && !small.sweeping && !small.paused {
            self.of.remove(&vserver);
        }
    }
}

impl Service for ForAll {
    fn accepted(&mut self, cx: &mut Cx<'_>, id: SocketId, peer: SocketAddr) {
        self.call(cx, |small, cx| {
            small.listener = cx.listener();
            small.accepted(cx, id, peer);
        });
    }

    fn readable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        self.call(cx, |small, cx| small.readable(cx, id));
    }

    fn writable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        self.call(cx, |small, cx| small.writable(cx, id));
    }

    fn closed(&mut self, cx: &mut Cx<'_>, id: SocketId, error: Option<TcpError>) {
        self.call(cx, |small, cx| small.closed(cx, id, error));
    }

    fn timer(&mut self, cx: &mut Cx<'_>, token: u64) {
        self.call(cx, |small, cx| small.timer(cx, token));
    }

    fn vserver_removed(&mut self, vserver: VserverId) {
        self.of.remove(&vserver);
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        self.service.counters.connections.sub(self.live as u64);
        if self.listener.is_some() && matches!(self.service.place, Place::Vserver(_)) {
            self.service.listening.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Lines of 72 printable characters, each starting one later than the last, until the first comes
/// again; as often as makes a piece worth sending.
static CHARGEN: LazyLock<Bytes> = LazyLock::new(|| {
    let printable: Vec<u8> = (b' '..=b'~').collect();
    let mut pattern = Vec::with_capacity(printable.len() * 74);
    for first in 0..printable.len() {
        pattern.extend(printable.iter().cycle().skip(first).take(72));
        pattern.extend(b"\r\n");
    }
    Bytes::from(pattern.repeat(36))
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chargen_repeats_without_a_seam() {
        let lines: Vec<_> = CHARGEN.chunks(74).collect();
        assert_eq!(CHARGEN.len() % 74, 0);
        assert!(lines[0].starts_with(b" !\"#$%&'()*"));
        assert!(lines.iter().all(|l| l.ends_with(b"\r\n")));
        assert_eq!(lines[94][0], b'~');
        assert_eq!(lines[95], lines[0]);
        assert_eq!(lines.len() % 95, 0);
    }
}
