//! One end of a TCP transfer in both directions, which checks every byte it gets.

use std::net::SocketAddr;

use bytes::Bytes;
use weft_stack::socket::tcp::{ShutdownHow, TcpError, TcpOption, TcpRecvError, TcpSendError};
use weft_stack::socket::{Event, SocketId};
use weft_stack::time::{Duration, Instant};

use crate::actor::{Actor, Io};

/// Which side of a connection a [`Peer`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Connects to an address.
    Client(SocketAddr),
    /// Listens on an address, for one connection.
    Server(SocketAddr),
}

/// How a [`Peer`] behaves, beside sending and receiving.
#[derive(Clone, Debug, Default)]
pub struct Manner {
    /// Waits this long before it connects or listens.
    pub start_after: Duration,
    /// Options of its socket.
    pub options: Vec<TcpOption>,
    /// Pauses between reads.
    pub read_pause: Option<Duration>,
    /// Stops reading once, after so many bytes, for this long.
    pub read_stall: Option<(u64, Duration)>,
    /// Writes at most so many bytes at a time, with a pause after each.
    pub write_pieces: Option<(u64, Duration)>,
    /// Resets the connection once it has sent and received so many bytes.
    pub abort_after: Option<u64>,
    /// Closes the connection, whatever comes after, once it has sent and received so many bytes.
    pub close_after: Option<u64>,
    /// The connection may fail or end early: only wrong bytes are wrong.
    pub forgiving: bool,
}

/// When a forgiving peer goes, done or not.
const PATIENCE: Duration = Duration::from_mins(3);
/// How long it tries to connect or listen while its address may be tentative.
const OPEN_MAX: Duration = Duration::from_mins(1);

/// Sends a stream made from one number, expects the stream of another, closes after both.
///
/// It mixes the copying and the sharing calls, reads and writes in random sizes, and may have worse
/// [manners](Manner).
#[derive(Debug)]
pub struct Peer {
    role: Role,
    manner: Manner,
    send_key: u64,
    send_total: u64,
    sent: u64,
    recv_key: u64,
    recv_total: u64,
    received: u64,
    read_at: Instant,
    write_at: Instant,
    started: Option<Instant>,
    listener: Option<SocketId>,
    socket: Option<SocketId>,
    shut: bool,
    ended: bool,
    closed: bool,
    problem: Option<String>,
}

/// Eight bytes of the stream of `key`: those from `8 * word` on.
fn eight(key: u64, word: u64) -> [u8; 8] {
    let mut x = (key ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 29;
    x.wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes()
}

/// The byte at `offset` of the stream of `key`.
pub fn stream_byte(key: u64, offset: u64) -> u8 {
    eight(key, offset / 8)[(offset % 8) as usize]
}

/// The bytes of the stream of `key` from `offset` on.
pub fn stream_bytes(key: u64, offset: u64, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 16);
    let mut word = offset / 8;
    let skip = (offset % 8) as usize;
    while out.len() < skip + len {
        out.extend(eight(key, word));
        word += 1;
    }
    out.truncate(skip + len);
    out.drain(..skip);
    out
}

impl Peer {
    /// A peer that sends the stream of `send_key` and expects that of `recv_key`, both empty.
    pub fn new(role: Role, send_key: u64, recv_key: u64) -> Peer {
        Peer {
            role,
            manner: Manner::default(),
            send_key,
            send_total: 0,
            sent: 0,
            recv_key,
            recv_total: 0,
            received: 0,
            read_at: Instant::ZERO,
            write_at: Instant::ZERO,
            started: None,
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
    pub fn reading_slowly(mut self, pause: Duration) -> Peer {
        self.manner.read_pause = Some(pause);
        self
    }

    /// How it behaves.
    pub fn behaving(self, manner: Manner) -> Peer {
        Peer { manner, ..self }
    }

    fn fail(&mut self, what: String) {
        self.problem.get_or_insert(what);
        self.closed = true;
    }

    /// Something went wrong that a forgiving peer takes.
    fn fail_unless_forgiving(&mut self, what: String) {
        if self.manner.forgiving {
            self.closed = true;
        } else {
            self.fail(what);
        }
    }

    fn open(&mut self, io: &mut Io<'_>, started: Instant) {
        let late = io.now > started + OPEN_MAX;
        match self.role {
            Role::Client(remote) if self.socket.is_none() => {
                match io.stack.tcp_connect(io.now, None, remote) {
                    Ok(id) => self.socket = Some(id),
                    // The address may still be tentative.
                    Err(e) if late => self.fail_unless_forgiving(format!("connect: {e}")),
                    Err(_) => io.wake_at(io.now + Duration::from_millis(100)),
                }
                self.set_options(io, self.socket);
            }
            Role::Server(local) if self.listener.is_none() && self.socket.is_none() => {
                match io.stack.tcp_listen(io.now, local, 4) {
                    Ok(id) => self.listener = Some(id),
                    Err(e) if late => self.fail_unless_forgiving(format!("listen: {e}")),
                    Err(_) => io.wake_at(io.now + Duration::from_millis(100)),
                }
                self.set_options(io, self.listener);
            }
            _ => {}
        }
        if self.socket.is_none()
            && let Some(listener) = self.listener
            && let Some(accepted) = io.stack.tcp_accept(listener)
        {
            self.socket = Some(accepted.id);
            self.listener = None;
            io.stack.tcp_close(io.now, listener);
        }
    }

    /// A neighbour that did not answer in time, or does not listen yet, is no reason to give up.
    /// True if it will be tried again.
    fn try_again(&mut self, io: &mut Io<'_>, id: SocketId, error: TcpError) -> bool {
        let early = self.sent == 0 && self.received == 0 && matches!(self.role, Role::Client(_));
        let again = early && error != TcpError::Reset;
        if again {
            io.stack.tcp_close(io.now, id);
            (self.socket, self.shut) = (None, false);
            io.wake_at(io.now + Duration::from_secs(1));
        }
        again
    }

    fn set_options(&self, io: &mut Io<'_>, id: Option<SocketId>) {
        for option in id.into_iter().flat_map(|_| &self.manner.options) {
            if let Some(id) = id {
                io.stack.tcp_set_option(io.now, id, *option);
            }
        }
    }

    fn send(&mut self, io: &mut Io<'_>, id: SocketId) {
        while self.sent < self.send_total && !self.closed {
            if io.now < self.write_at {
                return io.wake_at(self.write_at);
            }
            let most = self.manner.write_pieces.map_or(20_000, |(most, _)| most);
            let len = (1 + io.rng.below(most)).min(self.send_total - self.sent);
            let data = stream_bytes(self.send_key, self.sent, len as usize);
            let result = if io.rng.below(2) == 0 {
                io.stack.tcp_send(io.now, id, &data)
            } else {
                io.stack.tcp_send_bytes(io.now, id, &mut Bytes::from(data))
            };
            match result {
                Ok(0) => return self.fail("a send took nothing".into()),
                Ok(n) => self.sent += n as u64,
                Err(TcpSendError::WouldBlock) => return,
                Err(TcpSendError::Failed(e)) if self.try_again(io, id, e) => return,
                Err(e) => {
                    let sent = self.sent;
                    return self.fail_unless_forgiving(format!("send after {sent} bytes: {e}"));
                }
            }
            if let Some((_, pause)) = self.manner.write_pieces {
                self.write_at = io.now + pause;
            }
            self.leave_early(io, id);
        }
        if !self.shut && !self.closed {
            self.shut = true;
            io.stack.tcp_shutdown(io.now, id, ShutdownHow::Write);
        }
    }

    fn receive(&mut self, io: &mut Io<'_>, id: SocketId) {
        while !self.ended && !self.closed {
            if io.now < self.read_at {
                return io.wake_at(self.read_at);
            }
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
                Err(TcpRecvError::Failed(e)) if self.try_again(io, id, e) => return,
                Err(e) => {
                    let got = self.received;
                    return self.fail_unless_forgiving(format!("receive after {got} bytes: {e}"));
                }
            }
            if let Some(pause) = self.manner.read_pause {
                self.read_at = io.now + pause;
            }
            if let Some((after, pause)) = self.manner.read_stall
                && self.received >= after
            {
                self.manner.read_stall = None;
                self.read_at = io.now + pause;
            }
            self.leave_early(io, id);
        }
    }

    /// Aborts or closes if it is time to.
    fn leave_early(&mut self, io: &mut Io<'_>, id: SocketId) {
        let done = |after: Option<u64>| after.is_some_and(|n| self.sent + self.received >= n);
        if done(self.manner.abort_after) {
            self.closed = true;
            io.stack.tcp_abort(io.now, id);
            self.socket = None;
        } else if done(self.manner.close_after) {
            self.closed = true;
        }
    }

    fn verify(&mut self, data: &[u8]) {
        let want = stream_bytes(self.recv_key, self.received, data.len());
        if let Some(i) = (0..data.len()).find(|i| data[*i] != want[*i]) {
            let (at, got, want) = (self.received + i as u64, data[i], want[i]);
            return self.fail(format!("byte {at} is {got:#04x}, {want:#04x} was sent"));
        }
        self.received += data.len() as u64;
        if self.received > self.recv_total {
            self.fail(format!("{} bytes came, {} were sent", self.received, self.recv_total));
        }
    }

    fn end(&mut self) {
        self.ended = true;
        if self.received != self.recv_total {
            let (got, want) = (self.received, self.recv_total);
            self.fail_unless_forgiving(format!("the stream ended after {got} of {want} bytes"));
        }
    }

    /// Gives up what it still holds.
    fn leave(&mut self, io: &mut Io<'_>) {
        for id in [self.socket.take(), self.listener.take()].into_iter().flatten() {
            io.stack.tcp_close(io.now, id);
        }
    }
}

impl Actor for Peer {
    fn run(&mut self, io: &mut Io<'_>, _event: Option<&Event>) {
        if self.closed {
            return;
        }
        let started = *self.started.get_or_insert(io.now + self.manner.start_after);
        if io.now < started {
            return io.wake_at(started);
        }
        self.open(io, started);
        if let Some(id) = self.socket.filter(|_| !self.closed) {
            self.send(io, id);
            if self.socket.is_some() {
                self.receive(io, id);
            }
            if let Some(e) = io.stack.tcp_take_error(id)
                && self.socket.is_some()
                && !self.try_again(io, id, e)
            {
                self.fail_unless_forgiving(format!("connection: {e}"));
            }
        }
        self.closed |= self.socket.is_some() && self.shut && self.ended;
        if self.manner.forgiving && !self.closed {
            let end = started + PATIENCE;
            self.closed |= io.now >= end;
            io.wake_at(end);
        }
        if self.closed {
            self.leave(io);
        }
    }

    fn done(&self) -> bool {
        self.closed
    }

    fn progress(&self) -> u64 {
        self.sent + self.received + u64::from(self.shut) + u64::from(self.ended)
    }

    fn problem(&self) -> Option<String> {
        self.problem.as_ref().map(|problem| format!("{:?}: {problem}", self.role))
    }

    fn verdict(&self) -> Result<(), String> {
        match self.problem() {
            Some(problem) => Err(problem),
            None if !self.closed => {
                let (r, s) = (self.received, self.sent);
                let totals = (self.recv_total, self.send_total);
                Err(format!("{:?}: not finished: {r} received, {s} sent, of {totals:?}", self.role))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_same_in_any_pieces() {
        let whole = stream_bytes(7, 0, 100);
        for (from, len) in [(0, 1), (3, 8), (8, 8), (13, 50), (99, 1)] {
            assert_eq!(stream_bytes(7, from as u64, len), whole[from..from + len]);
            assert_eq!(stream_byte(7, from as u64), whole[from]);
        }
    }
}
