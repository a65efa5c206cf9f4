//! Datagrams to and fro, which may be lost but not damaged.

use std::collections::HashMap;
use std::net::SocketAddr;

use weft_stack::socket::{Event, SocketId};
use weft_stack::time::{Duration, Instant};

use crate::actor::{Actor, Io};
use crate::peer::stream_byte as byte;

/// Which side of a datagram exchange a [`UdpEcho`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpRole {
    /// Sends so many datagrams of random size to an address, one every ten milliseconds.
    Client {
        /// Where the echo is.
        remote: SocketAddr,
        /// How many.
        count: u64,
        /// Largest payload in bytes, at least 16.
        size_max: u64,
    },
    /// Sends back what comes, until the given time has passed.
    Server(SocketAddr, Duration),
}

/// A UDP client or server that checks what it gets.
#[derive(Debug)]
pub struct UdpEcho {
    role: UdpRole,
    socket: Option<SocketId>,
    started: Option<Instant>,
    next_at: Instant,
    sent: u64,
    /// How often each datagram came back.
    answers: HashMap<u64, u32>,
    answered_min: u64,
    done: bool,
    problem: Option<String>,
}

/// How long a client waits for late answers.
const LINGER: Duration = Duration::from_secs(2);

impl UdpEcho {
    /// A side of an exchange; a client wants at least `answered_min` different answers.
    pub fn new(role: UdpRole, answered_min: u64) -> UdpEcho {
        UdpEcho {
            role,
            socket: None,
            started: None,
            next_at: Instant::ZERO,
            sent: 0,
            answers: HashMap::new(),
            answered_min,
            done: false,
            problem: None,
        }
    }

    fn open(&mut self, io: &mut Io<'_>) -> Option<SocketId> {
        if self.socket.is_none() {
            let local = match self.role {
                UdpRole::Client { remote, .. } if remote.is_ipv4() => "0.0.0.0:0".parse().ok()?,
                UdpRole::Client { .. } => "[::]:0".parse().ok()?,
                UdpRole::Server(local, _) => local,
            };
            match io.stack.udp_bind(io.now, local) {
                Ok(id) => self.socket = Some(id),
                // The address may still be tentative.
                Err(_) => io.wake_at(io.now + Duration::from_millis(100)),
            }
            self.started = self.socket.map(|_| io.now);
        }
        self.socket
    }

    fn receive(&mut self, io: &mut Io<'_>, id: SocketId) {
        while let Ok(datagram) = io.stack.udp_recv(id) {
            let data = &datagram.payload;
            if let UdpRole::Server(..) = self.role {
                // A full queue loses the answer, as a network might.
                let _ = io.stack.udp_send(io.now, id, data, Some(datagram.from));
                continue;
            }
            let Some(number) = data.get(..8).and_then(|n| n.try_into().ok()) else {
                self.problem = Some(format!("{} bytes came back", data.len()));
                return;
            };
            let number = u64::from_be_bytes(number);
            let intact = (8u64..).zip(&data[8..]).all(|(i, b)| *b == byte(number, i));
            if number >= self.sent || !intact {
                self.problem = Some(format!("datagram {number} is not what was sent"));
            }
            *self.answers.entry(number).or_default() += 1;
        }
    }

    fn send(&mut self, io: &mut Io<'_>, id: SocketId) {
        let UdpRole::Client { remote, count, size_max } = self.role else { return };
        while self.sent < count && self.next_at <= io.now {
            let len = 8 + io.rng.below(size_max - 8);
            let mut data = self.sent.to_be_bytes().to_vec();
            data.extend((8..8 + len).map(|i| byte(self.sent, i)));
            // An address still tentative, a full queue: that datagram is not sent.
            let _ = io.stack.udp_send(io.now, id, &data, Some(remote));
            self.sent += 1;
            self.next_at = io.now + Duration::from_millis(10);
        }
        let next = if self.sent < count { self.next_at } else { self.next_at + LINGER };
        if next > io.now {
            io.wake_at(next);
        } else {
            self.finish(io, id);
        }
    }

    fn finish(&mut self, io: &mut Io<'_>, id: SocketId) {
        self.done = true;
        io.stack.udp_close(id);
        let answered = self.answers.len() as u64;
        if matches!(self.role, UdpRole::Client { .. }) && answered < self.answered_min {
            let (sent, min) = (self.sent, self.answered_min);
            self.problem.get_or_insert(format!("{answered} of {sent} answered, not {min}"));
        }
    }
}

impl Actor for UdpEcho {
    fn run(&mut self, io: &mut Io<'_>, _event: Option<&Event>) {
        if self.done {
            return;
        }
        let Some(id) = self.open(io) else { return };
        self.receive(io, id);
        match self.role {
            UdpRole::Client { .. } => self.send(io, id),
            UdpRole::Server(_, lasts) => {
                let end = self.started.unwrap_or(io.now) + lasts;
                if io.now >= end { self.finish(io, id) } else { io.wake_at(end) }
            }
        }
    }

    fn done(&self) -> bool {
        self.done
    }

    fn problem(&self) -> Option<String> {
        self.problem.as_ref().map(|p| format!("{:?}: {p}", self.role))
    }
}
