//! One end of a TCP transfer in both directions, which checks every byte it gets.

use std::net::SocketAddr;

use bytes::Bytes;
use weft_stack::socket::tcp::{ShutdownHow, TcpRecvError, TcpSendError};
use weft_stack::socket::{Event, SocketId};
use weft_stack::time::Duration;

use crate::actor::{Actor, Io};

/// Which side of a connection a [`Peer`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Connects to an address.
    Client(SocketAddr),
    /// Listens on an address, for one connection.
    Server(SocketAddr),
}

/// Sends a stream made from one number, expects the stream of another, closes after both.
///
/// It mixes the copying and the sharing calls, reads and writes in random sizes, and may read
/// slowly.
#[derive(Debug)]
pub struct Peer {
    role: Role,
    send_key: u64,
    send_total: u64,
    sent: u64,
    recv_key: u64,
    recv_total: u64,
    received: u64,
    pause: Option<Duration>,
    paused: bool,
    listener: Option<SocketId>,
    socket: Option<SocketId>,
    shut: bool,
    ended: bool,
    closed: bool,
    problem: Option<String>,
}

/// The byte at `offset` of the stream of `key`.
pub(crate) fn byte(key: u64, offset: u64) -> u8 {
    let mut x = (key ^ (offset / 8)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 29;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (x >> (8 * (offset % 8))) as u8
}

impl Peer {
    /// A peer that sends the stream of `send_key` and expects that of `recv_key`, both empty.
    pub fn new(role: Role, send_key: u64, recv_key: u64) -> Peer {
        Peer {
            role,
            send_key,
            send_total: 0,
            sent: 0,
            recv_key,
            recv_total: 0,
            received: 0,
            pause: None,
            paused: false,
            listener: None,
            socket: None,
            shut: false,
            ended: false,
            closed: false,
            problem: None,
        }
    }

    /// Bytes to send.
    pub fn sending(self, bytes: u64) -> Peer {
        Peer { send_total: bytes, ..self }
    }

    /// Bytes that must come, and no more.
    pub fn expecting(self, bytes: u64) -> Peer {
        Peer { recv_total: bytes, ..self }
    }

    /// Pauses between reads.
    pub fn reading_slowly(self, pause: Duration) -> Peer {
        Peer { pause: Some(pause), ..self }
    }

    fn fail(&mut self, what: String) {
        self.problem.get_or_insert(what);
        self.closed = true;
    }

    fn open(&mut self, io: &mut Io<'_>) {
        match self.role {
            Role::Client(remote) if self.socket.is_none() => {
                match io.stack.tcp_connect(io.now, None, remote) {
                    Ok(id) => self.socket = Some(id),
                    // The address may still be tentative.
                    Err(e) if io.now.as_millis() > 60_000 => self.fail(format!("connect: {e}")),
                    Err(_) => io.wake_at(io.now + Duration::from_millis(100)),
                }
            }
            Role::Server(local) if self.listener.is_none() => {
                match io.stack.tcp_listen(io.now, local, 4) {
                    Ok(id) => self.listener = Some(id),
                    Err(e) if io.now.as_millis() > 60_000 => self.fail(format!("listen: {e}")),
                    Err(_) => io.wake_at(io.now + Duration::from_millis(100)),
                }
            }
            _ => {}
        }
        if self.socket.is_none()
            && let Some(listener) = self.listener
            && let Some(accepted) = io.stack.tcp_accept(listener)
        {
            self.socket = Some(accepted.id);
            io.stack.tcp_close(io.now, listener);
        }
    }

    fn send(&mut self, io: &mut Io<'_>, id: SocketId) {
        while self.sent < self.send_total {
            let len = (1 + io.rng.below(20_000)).min(self.send_total - self.sent);
            let from = self.sent;
            let data: Vec<u8> = (from..from + len).map(|i| byte(self.send_key, i)).collect();
            let result = if io.rng.below(2) == 0 {
                io.stack.tcp_send(io.now, id, &data)
            } else {
                io.stack.tcp_send_bytes(io.now, id, &mut Bytes::from(data))
            };
            match result {
                Ok(0) => return self.fail("a send took nothing".into()),
                Ok(n) => self.sent += n as u64,
                Err(TcpSendError::WouldBlock) => return,
                Err(e) => return self.fail(format!("send after {} bytes: {e}", self.sent)),
            }
        }
        if !self.shut {
            self.shut = true;
            io.stack.tcp_shutdown(io.now, id, ShutdownHow::Write);
        }
    }

    fn receive(&mut self, io: &mut Io<'_>, id: SocketId) {
        while !self.ended && !self.paused {
            let max = 1 + io.rng.below(30_000) as usize;
            let result = if io.rng.below(2) == 0 {
                let mut out = vec![0; max];
                io.stack.tcp_recv(io.now, id, &mut out).map(|n| {
                    out.truncate(n);
                    Bytes::from(out)
                })
            } else {
                io.stack.tcp_recv_bytes(io.now, id, max)
            };
            match result {
                Ok(data) if data.is_empty() => self.end(),
                Ok(data) => self.verify(&data),
                Err(TcpRecvError::WouldBlock) => return,
                Err(e) => return self.fail(format!("receive after {} bytes: {e}", self.received)),
            }
            if let Some(pause) = self.pause {
                self.paused = true;
                io.wake_at(io.now + pause);
            }
        }
    }

    fn verify(&mut self, data: &[u8]) {
        for got in data {
            let want = byte(self.recv_key, self.received);
            if *got != want {
                let at = self.received;
                return self.fail(format!("byte {at} is {got:#04x}, {want:#04x} was sent"));
            }
            self.received += 1;
        }
        if self.received > self.recv_total {
            self.fail(format!("{} bytes came, {} were sent", self.received, self.recv_total));
        }
    }

    fn end(&mut self) {
        self.ended = true;
        if self.received != self.recv_total {
            let (got, want) = (self.received, self.recv_total);
            self.fail(format!("the stream ended after {got} of {want} bytes"));
        }
    }
}

impl Actor for Peer {
    fn run(&mut self, io: &mut Io<'_>, event: Option<&Event>) {
        if self.closed {
            return;
        }
        // Its time has come, not somebody's event.
        if event.is_none() {
            self.paused = false;
        }
        self.open(io);
        let Some(id) = self.socket else { return };
        self.send(io, id);
        self.receive(io, id);
        if let Some(e) = io.stack.tcp_take_error(id) {
            self.fail(format!("connection: {e}"));
        }
        if self.shut && self.ended && !self.closed {
            self.closed = true;
        }
        if self.closed {
            io.stack.tcp_close(io.now, id);
        }
    }

    fn done(&self) -> bool {
        self.closed
    }

    fn verdict(&self) -> Result<(), String> {
        match &self.problem {
            Some(problem) => Err(format!("{:?}: {problem}", self.role)),
            None if !self.closed => {
                let (r, s) = (self.received, self.sent);
                let totals = (self.recv_total, self.send_total);
                Err(format!("{:?}: not finished: {r} received, {s} sent, of {totals:?}", self.role))
            }
            None => Ok(()),
        }
    }
}
