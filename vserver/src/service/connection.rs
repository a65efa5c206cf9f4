//! A TCP connection of a service: moves bytes between the socket and its session, as far as both
//! allow.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::proxy::Proxy;
use super::session::{Output, Patience};
use super::{Running, http};
use crate::net::TcpStream;

/// Bytes a connection may move before the next one's turn.
pub(super) const TURN_BYTES: usize = 1 << 20;
/// Bytes taken from the stack at a time.
const RECEIVE_BYTES: usize = 256 << 10;
/// For a request head, and for the rest after the last answer.
const SHORT: Duration = Duration::from_secs(10);

/// What became of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing more can be done before an event.
    Wait,
    /// The turn is over, but more can be done now.
    Again,
    /// The connection is over; drop it.
    Over,
}

/// An accepted connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) service: Arc<Running>,
    pub(super) role: Role,
    /// By edges: what the socket was ready for last.
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// Closed when this comes, if there is one.
    pub(super) deadline: Option<Instant>,
    /// The deadline that the event loop has noted.
    pub(super) armed: Option<Instant>,
    /// Whether the deadline stands however bytes move.
    short: bool,
    /// It waits for another turn.
    pub(super) queued: bool,
    pending: Bytes,
    receive_ended: bool,
    send_ended: bool,
}

/// What stands behind the connection.
#[derive(Debug)]
pub(super) enum Role {
    /// RFC 9112.
    Http(Box<http::Connection>),
    /// A socket of the kernel.
    Proxy(Box<Proxy>),
}

impl Connection {
    pub(super) fn new(stream: TcpStream, service: Arc<Running>, role: Role, now: Instant) -> Self {
        let mut c = Connection {
            stream,
            service,
            role,
            readable: true,
            writable: true,
            deadline: None,
            armed: None,
            short: false,
            queued: false,
            pending: Bytes::new(),
            receive_ended: false,
            send_ended: false,
        };
        c.touch(now);
        c
    }

    /// One turn. `scratch` is for reading from the kernel.
    pub(super) fn advance(&mut self, now: Instant, scratch: &mut [u8]) -> Turn {
        let before = self.moved();
        let turn = match &mut self.role {
            Role::Proxy(_) => self.advance_proxy(scratch),
            Role::Http(_) => self.advance_http(),
        };
        let counters = &self.service.counters;
        match turn {
            Ok(Turn::Over) => return Turn::Over,
            Err(_) => {
                counters.failed.add(1);
                return Turn::Over;
            }
            Ok(_) => {}
        }
        let patience = match &self.role {
            Role::Http(c) => c.patience(),
            Role::Proxy(_) => Patience::WhileBytesMove,
        };
        match patience {
            Patience::Short if !self.short => {
                self.short = true;
                self.deadline = Some(now + SHORT);
            }
            Patience::Short => {}
            Patience::WhileBytesMove if self.short || self.moved() != before => self.touch(now),
            Patience::WhileBytesMove => {}
        }
        turn.unwrap_or(Turn::Over)
    }

    /// The deadline has come. What has been handed to the stack is still delivered if the session
    /// was over; else the peer does not read, and holding it would hold memory.
    pub(super) fn give_up(&mut self) {
        match &mut self.role {
            Role::Proxy(p) => p.abort(),
            Role::Http(_) if self.pending.is_empty() => return,
            Role::Http(_) => {}
        }
        self.stream.abort();
    }

    fn touch(&mut self, now: Instant) {
        self.short = false;
        let idle_s = self.service.config.idle_s;
        self.deadline = (idle_s > 0).then(|| now + Duration::from_secs(u64::from(idle_s)));
    }

    /// Changes when bytes move on any connection of the service; only this one's turn lies between
    /// two looks at it.
    fn moved(&self) -> u64 {
        let c = &self.service.counters;
        c.in_bytes.get().wrapping_add(c.out_bytes.get())
    }

    fn advance_proxy(&mut self, scratch: &mut [u8]) -> io::Result<Turn> {
        let Role::Proxy(proxy) = &mut self.role else { return Ok(Turn::Over) };
        let mut ready = (self.readable, self.writable);
        let turn = proxy.advance(&self.stream, &mut ready, &self.service.counters, scratch);
        (self.readable, self.writable) = ready;
        turn
    }

    fn advance_http(&mut self) -> io::Result<Turn> {
        let mut budget = TURN_BYTES;
        loop {
            let sent = self.send(&mut budget)?;
            if self.send_ended && self.receive_ended {
                return Ok(Turn::Over);
            }
            let received = self.receive(&mut budget)?;
            if budget == 0 {
                return Ok(Turn::Again);
            }
            if !sent && !received {
                return Ok(Turn::Wait);
            }
        }
    }

    /// Sends what the session has, while there is room. Whether anything moved.
    fn send(&mut self, budget: &mut usize) -> io::Result<bool> {
        let Role::Http(session) = &mut self.role else { return Ok(false) };
        let counters = &self.service.counters;
        let mut moved = false;
        while self.writable && *budget > 0 && !self.send_ended {
            if self.pending.is_empty() {
                match session.next_output(counters) {
                    Output::Data(data) => self.pending = data,
                    Output::Nothing => break,
                    Output::End => {
                        self.stream.shutdown(Shutdown::Write)?;
                        self.send_ended = true;
                        break;
                    }
                    Output::Reset => {
                        self.stream.abort();
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    }
                }
            }
            match self.stream.send_bytes(&mut self.pending) {
                Ok(n) => {
                    counters.out_bytes.add(n as u64);
                    *budget = budget.saturating_sub(n);
                    moved = true;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(e) => return Err(e),
            }
        }
        Ok(moved)
    }

    /// Takes the next received bytes, if the session wants them now. Whether anything moved.
    fn receive(&mut self, budget: &mut usize) -> io::Result<bool> {
        let Role::Http(session) = &mut self.role else { return Ok(false) };
        let wanted = self.pending.is_empty() && session.wants_input();
        if !self.readable || self.receive_ended || *budget == 0 || !wanted {
            return Ok(false);
        }
        match self.stream.recv_bytes(RECEIVE_BYTES) {
            Ok(data) if data.is_empty() => {
                self.receive_ended = true;
                session.receive_end();
            }
            Ok(data) => {
                self.service.counters.in_bytes.add(data.len() as u64);
                *budget = budget.saturating_sub(data.len());
                session.receive(data, &self.service.counters);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                return Ok(false);
            }
            Err(e) => return Err(e),
        }
        Ok(true)
    }
}
