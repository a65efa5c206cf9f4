//! Endless transfers, for measurements of goodput and fairness.

use std::net::SocketAddr;

use bytes::Bytes;
use weft_stack::socket::tcp::{CongestionControl, TcpOption};
use weft_stack::socket::{Event, SocketId};
use weft_stack::time::Duration;

use crate::actor::{Actor, Io};

/// Bytes given to the stack at a time.
const PIECE: usize = 64 << 10;
static ZEROS: [u8; PIECE] = [0; PIECE];

/// Connects and sends zeros as fast as it may, for ever.
#[derive(Debug)]
pub struct Source {
    remote: SocketAddr,
    congestion: CongestionControl,
    socket: Option<SocketId>,
    rest: Bytes,
    sent: u64,
}

impl Source {
    /// A sender to `remote` with a congestion controller.
    pub fn new(remote: SocketAddr, congestion: CongestionControl) -> Source {
        Source { remote, congestion, socket: None, rest: Bytes::new(), sent: 0 }
    }
}

impl Actor for Source {
    fn run(&mut self, io: &mut Io<'_>, _event: Option<&Event>) {
        let Some(id) = self.socket else {
            self.socket = io.stack.tcp_connect(io.now, None, self.remote).ok();
            match self.socket {
                Some(id) => {
                    let option = TcpOption::Congestion(self.congestion);
                    io.stack.tcp_set_option(io.now, id, option);
                }
                // The address may still be tentative.
                None => io.wake_at(io.now + Duration::from_millis(100)),
            }
            return;
        };
        loop {
            if self.rest.is_empty() {
                self.rest = Bytes::from_static(&ZEROS);
            }
            match io.stack.tcp_send_bytes(io.now, id, &mut self.rest) {
                Ok(n) => self.sent += n as u64,
                Err(_) => return,
            }
        }
    }

    fn done(&self) -> bool {
        false
    }

    fn progress(&self) -> u64 {
        self.sent
    }
}

/// Listens, accepts, and throws away what comes.
#[derive(Debug)]
pub struct Sink {
    local: SocketAddr,
    listener: Option<SocketId>,
    sockets: Vec<SocketId>,
    received: u64,
}

impl Sink {
    /// A receiver at `local`; its progress is the bytes received.
    pub fn new(local: SocketAddr) -> Sink {
        Sink { local, listener: None, sockets: Vec::new(), received: 0 }
    }
}

impl Actor for Sink {
    fn run(&mut self, io: &mut Io<'_>, _event: Option<&Event>) {
        let Some(listener) = self.listener else {
            self.listener = io.stack.tcp_listen(io.now, self.local, 16).ok();
            if self.listener.is_none() {
                io.wake_at(io.now + Duration::from_millis(100));
            }
            return;
        };
        while let Some(accepted) = io.stack.tcp_accept(listener) {
            self.sockets.push(accepted.id);
        }
        for id in &self.sockets {
            while let Ok(data) = io.stack.tcp_recv_bytes(io.now, *id, PIECE) {
                if data.is_empty() {
                    break;
                }
                self.received += data.len() as u64;
            }
        }
    }

    fn done(&self) -> bool {
        false
    }

    fn progress(&self) -> u64 {
        self.received
    }
}
