//! One question to the servers of a vserver, over UDP and, where that is not enough, TCP
//! (RFC 7766): retries, the next server, aliases.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Interest, Token};

use super::message::{Asked, Foreign, Kind, MESSAGE_BYTES_MAX, Reply};
use super::{Dns, State};
use crate::Vserver;
use crate::net::{Poller, TcpStream, UdpSocket};

/// Aliases followed by questions of their own.
const CHAIN_MAX: u32 = 8;
/// Messages that answer something else, after which a server is asked over TCP.
const FOREIGN_MAX: u32 = 20;
/// The longest time a server has.
const TIMEOUT_MAX: Duration = Duration::from_mins(1);

/// How a question ended: what the servers say, or why nobody does.
pub(super) type Outcome = Result<Reply, String>;

/// A question under way.
pub(super) struct Exchange {
    vserver: Vserver,
    state: Arc<State>,
    dns: Dns,
    asked: Asked,
    /// What is asked for now: the name, or what it is an alias of.
    name: String,
    server: usize,
    round: u32,
    chain: u32,
    foreign: u32,
    link: Link,
    pub(super) deadline: Instant,
    /// What the last server did.
    why: String,
}

enum Link {
    None,
    Udp(UdpSocket),
    Tcp { stream: TcpStream, output: Vec<u8>, sent: usize, input: Vec<u8> },
}

/// Where readiness is told.
#[derive(Clone, Copy)]
pub(super) struct Watch<'a> {
    pub(super) poller: &'a Poller,
    pub(super) token: Token,
}

impl Exchange {
    /// Begins to ask; the outcome at once if no server can be asked.
    pub(super) fn start(
        vserver: &Vserver,
        state: &Arc<State>,
        name: &str,
        kind: Kind,
        watch: Watch,
    ) -> (Exchange, Option<Outcome>) {
        State::count(&state.counters.questions);
        let mut exchange = Exchange {
            vserver: vserver.clone(),
            state: Arc::clone(state),
            dns: state.dns.lock().clone(),
            asked: Asked { id: 0, name: String::new(), kind, exact: false },
            name: name.to_owned(),
            server: 0,
            round: 0,
            chain: 0,
            foreign: 0,
            link: Link::None,
            deadline: Instant::now(),
            why: String::from("there is none"),
        };
        let outcome = if exchange.dns.servers.is_empty() {
            Some(Err(exchange.why.clone()))
        } else {
            exchange.attempt(watch, false)
        };
        (exchange, outcome)
    }

    /// Asks the current server, or the next ones if that cannot be.
    fn attempt(&mut self, watch: Watch, over_tcp: bool) -> Option<Outcome> {
        match self.open(watch, over_tcp) {
            Ok(()) => None,
            Err(e) => self.next(watch, e.to_string()),
        }
    }

    /// Gives the current server up.
    fn next(&mut self, watch: Watch, why: String) -> Option<Outcome> {
        self.why = why;
        loop {
            self.server += 1;
            if self.server >= self.dns.servers.len() {
                (self.server, self.round) = (0, self.round + 1);
            }
            if self.round >= self.dns.attempts {
                self.link = Link::None;
                State::count(&self.state.counters.unanswered);
                return Some(Err(self.why.clone()));
            }
            State::count(&self.state.counters.retries);
            match self.open(watch, false) {
                Ok(()) => return None,
                Err(e) => self.why = e.to_string(),
            }
        }
    }

    fn open(&mut self, watch: Watch, over_tcp: bool) -> io::Result<()> {
        // The old socket first: its port and its place in the poller go.
        self.link = Link::None;
        self.foreign = 0;
        let mut random = [0; 34];
        rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty())?;
        self.asked.id = u16::from_be_bytes([random[0], random[1]]);
        self.asked.exact = self.dns.mixed_case && !over_tcp;
        self.asked.name =
            if self.asked.exact { mixed(&self.name, &random[2..]) } else { self.name.clone() };
        let message = self.asked.message().ok_or(io::ErrorKind::InvalidInput)?;
        let server = self.dns.servers[self.server];
        let timeout = Duration::from_millis(u64::from(self.dns.timeout_ms));
        let timeout = timeout.saturating_mul(1 << self.round.min(16)).min(TIMEOUT_MAX);
        self.deadline = Instant::now() + timeout;
        if over_tcp {
            State::count(&self.state.counters.over_tcp);
            let stream = TcpStream::start_connect(&self.vserver, None, server)?;
            let both = Interest::READABLE | Interest::WRITABLE;
            watch.poller.register(&stream, watch.token, both)?;
            let length = (message.len() as u16).to_be_bytes();
            let output = [&length[..], &message].concat();
            self.link = Link::Tcp { stream, output, sent: 0, input: Vec::new() };
            return Ok(());
        }
        let any: SocketAddr = if server.is_ipv4() {
            (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let socket = UdpSocket::bind(&self.vserver, any)?;
        socket.set_nonblocking(true)?;
        // Only the server's datagrams come in, and what ICMP says of it.
        socket.connect(server)?;
        watch.poller.register(&socket, watch.token, Interest::READABLE)?;
        socket.send(&message)?;
        self.link = Link::Udp(socket);
        Ok(())
    }

    /// The server did not answer in time.
    pub(super) fn expired(&mut self, watch: Watch) -> Option<Outcome> {
        self.next(watch, String::from("timed out"))
    }

    /// The socket is ready for something.
    pub(super) fn advance(&mut self, watch: Watch) -> Option<Outcome> {
        loop {
            let (message, tcp) = match &mut self.link {
                Link::None => return None,
                Link::Udp(socket) => match socket.recv_datagram() {
                    Ok(datagram) => (datagram.payload.to_vec(), false),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return None,
                    Err(e) => return self.next(watch, e.to_string()),
                },
                Link::Tcp { stream, output, sent, input } => {
                    match advance_tcp(stream, output, sent, input) {
                        Ok(Some(message)) => (message, true),
                        Ok(None) => return None,
                        Err(e) => return self.next(watch, e.to_string()),
                    }
                }
            };
            if let Some(step) = self.take(&message, tcp, watch) {
                return step;
            }
        }
    }

    /// Takes a message; `None` if the socket may have more that matters.
    #[allow(clippy::option_option)]
    fn take(&mut self, message: &[u8], tcp: bool, watch: Watch) -> Option<Option<Outcome>> {
        let reply = match self.asked.read(message) {
            Ok(reply) => reply,
            Err(foreign) => {
                State::count(&self.state.counters.foreign);
                self.foreign += 1;
                if tcp {
                    return Some(self.next(watch, String::from("answered something else")));
                }
                // A server that changes the case is asked in a way that is harder to forge.
                let enough = foreign == Foreign::Case || self.foreign >= FOREIGN_MAX;
                return enough.then(|| self.attempt(watch, true));
            }
        };
        Some(match reply {
            Reply::Truncated if tcp => self.next(watch, String::from("truncated its answer")),
            Reply::Truncated => self.attempt(watch, true),
            Reply::Failed(code) => self.next(watch, format!("answered {code:?}")),
            Reply::Alias(target) => {
                self.chain += 1;
                self.name = target.to_ascii_lowercase();
                if self.chain > CHAIN_MAX {
                    self.link = Link::None;
                    State::count(&self.state.counters.unanswered);
                    return Some(Some(Err(String::from("too many aliases"))));
                }
                self.attempt(watch, false)
            }
            reply => {
                self.link = Link::None;
                State::count(&self.state.counters.answers);
                Some(Ok(reply))
            }
        })
    }
}

/// Writes the question, reads the answer; `None`: not yet.
fn advance_tcp(
    stream: &TcpStream,
    output: &[u8],
    sent: &mut usize,
    input: &mut Vec<u8>,
) -> io::Result<Option<Vec<u8>>> {
    let blocked = |e: io::Error| if e.kind() == io::ErrorKind::WouldBlock { Ok(0) } else { Err(e) };
    if let Some(e) = stream.take_error()? {
        return Err(e);
    }
    while *sent < output.len() {
        match (&mut &*stream).write(&output[*sent..]).or_else(blocked)? {
            0 => return Ok(None),
            n => *sent += n,
        }
    }
    let mut buf = [0; 4096];
    loop {
        if let Some(length) = input.get(..2) {
            let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
            if input.len() >= 2 + length {
                return Ok(Some(input[2..2 + length].to_vec()));
            }
        }
        match (&mut &*stream).read(&mut buf) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) if input.len() + n <= MESSAGE_BYTES_MAX + 2 + buf.len() => {
                input.extend_from_slice(&buf[..n]);
            }
            Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(e),
        }
    }
}

/// The name with the case of each letter by a bit of `random`.
fn mixed(name: &str, random: &[u8]) -> String {
    let upper = |i: usize| random.get(i / 8).is_some_and(|b| b >> (i % 8) & 1 == 1);
    let letter = |(i, c): (usize, char)| if upper(i) { c.to_ascii_uppercase() } else { c };
    name.chars().enumerate().map(letter).collect()
}
