//! Serves clients on a thread of its own, and bounds what each can cost.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::net::{UnixListener as MioListener, UnixStream as MioStream};
use mio::{Events, Interest, Poll, Token, Waker};
use serde::Deserialize;
use slab::Slab;

use super::ControlError;
use super::gate::{Caller, Gate, Kept};
use super::peer::Peer;
use super::protocol::{Answer, Command, RefusalKind, Request, Response, VERSION};
use super::socket::{Socket, SocketFile};

/// Clients at a time; more are told so and closed.
pub(super) const CLIENTS_MAX: usize = 32;
/// Of these, of one user who is not the owner.
const CLIENTS_OF_USER_MAX: usize = 8;
/// Bytes of a request line.
pub(super) const REQUEST_BYTES_MAX: usize = 4096;
/// Of one with a whole configuration in it, from who may change something.
pub(super) const APPLY_BYTES_MAX: usize = 4 << 20;
/// How such a line begins.
const APPLY_BEGIN: &[u8] = br#"{"version":1,"command":"apply""#;
/// A client that neither asks nor reads is closed after this time.
const IDLE: Duration = Duration::from_mins(5);

impl Socket {
    /// Answers requests that `gate` lets pass with `answer`, on a thread of its own, until the
    /// server is dropped.
    pub fn serve(
        self,
        gate: Arc<Gate>,
        answer: impl Fn(&Command, &Caller) -> Answer + Send + 'static,
    ) -> Result<Server, ControlError> {
        let path = self.file.path.clone();
        let os = |operation| {
            let path = path.clone();
            move |source| ControlError::Os { path, operation, source }
        };
        self.listener.set_nonblocking(true).map_err(os("make it non-blocking"))?;
        let mut listener = MioListener::from_std(self.listener);
        let poll = Poll::new().map_err(os("create an event queue"))?;
        let registry = poll.registry();
        registry.register(&mut listener, LISTENER, Interest::READABLE).map_err(os("watch it"))?;
        let waker = Arc::new(Waker::new(registry, STOP).map_err(os("create a waker"))?);
        let state = Clients { listener, poll, all: Slab::new(), gate, answer: Box::new(answer) };
        let thread = std::thread::Builder::new()
            .name(String::from("weft-control"))
            .spawn(move || state.run())
            .map_err(os("start a thread"))?;
        Ok(Server { waker, thread: Some(thread), _file: self.file })
    }
}

const LISTENER: Token = Token(usize::MAX);
const STOP: Token = Token(usize::MAX - 1);

/// A running server. Dropping it ends its thread and removes the socket file.
#[derive(Debug)]
pub struct Server {
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
    _file: SocketFile,
}

impl Drop for Server {
    fn drop(&mut self) {
        // A waker fails only without descriptors, and ours is open.
        let woken = self.waker.wake().is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            // A panic of the thread has been printed by the panic hook.
            let _ = thread.join();
        }
    }
}

struct Clients {
    listener: MioListener,
    poll: Poll,
    all: Slab<Client>,
    gate: Arc<Gate>,
    answer: Box<Answers>,
}

/// What is asked of the daemon, once its gate has let it pass.
type Answers = dyn Fn(&Command, &Caller) -> Answer + Send;

/// The same of who asks, and what is kept for it.
type AnswersOf<'a> = dyn Fn(&Peer, &Command, &mut Option<Kept>) -> Answer + 'a;

struct Client {
    stream: MioStream,
    peer: Peer,
    /// It may send a whole configuration.
    changes: bool,
    input: Vec<u8>,
    /// Bytes of it without an end of a line.
    searched: usize,
    output: Vec<u8>,
    sent: usize,
    /// Closed when what is to be sent has been sent.
    last: bool,
    moved: Instant,
    /// Ends with the connection.
    kept: Option<Kept>,
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("clients", &self.all.len()).finish_non_exhaustive()
    }
}

impl Clients {
    fn run(mut self) {
        let mut events = Events::with_capacity(64);
        loop {
            match self.poll.poll(&mut events, Some(IDLE)) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                    eprintln!("weft: control socket closed: waiting for events: {e}");
                    return;
                }
                _ => {}
            }
            for event in &events {
                match event.token() {
                    STOP => return,
                    LISTENER => self.accept(),
                    Token(slot) => self.advance(slot),
                }
            }
            let now = Instant::now();
            let idle: Vec<_> = self
                .all
                .iter()
                .filter(|(_, c)| now.duration_since(c.moved) >= IDLE)
                .map(|(slot, _)| slot)
                .collect();
            for slot in idle {
                self.all.remove(slot);
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((mut stream, _)) = self.listener.accept() {
            let admitted = Peer::of(&stream)
                .map_err(|e| {
                    let message = format!("who asks is not known: {e}");
                    Answer::refuse(RefusalKind::Failed, message)
                })
                .and_then(|peer| self.admit(&peer).map(|()| peer));
            let peer = match admitted {
                Ok(peer) => peer,
                Err(refusal) => {
                    // It fits a socket buffer; a client that is gone needs no answer.
                    let _ = stream.write(&line_of(refusal));
                    continue;
                }
            };
            let changes = self.gate.may_change(&peer);
            let entry = self.all.vacant_entry();
            let both = Interest::READABLE | Interest::WRITABLE;
            let slot = entry.key();
            if self.poll.registry().register(&mut stream, Token(slot), both).is_err() {
                continue;
            }
            entry.insert(Client {
                stream,
                peer,
                changes,
                input: Vec::new(),
                searched: 0,
                output: Vec::new(),
                sent: 0,
                last: false,
                moved: Instant::now(),
                kept: None,
            });
            self.advance(slot);
        }
    }

    /// Whether there is room for a client, and reason for it to be here.
    fn admit(&self, peer: &Peer) -> Result<(), Answer> {
        self.gate.admit(peer)?;
        let busy = |message| Err(Answer::refuse(RefusalKind::Busy, message));
        if self.all.len() >= CLIENTS_MAX {
            return busy(format!("{CLIENTS_MAX} clients are connected; try again later"));
        }
        // Nobody with a role keeps the owner out.
        let of_user = self.all.iter().filter(|(_, c)| c.peer.uid == peer.uid).count();
        if of_user >= CLIENTS_OF_USER_MAX && !self.gate.is_owner(peer) {
            return busy(format!(
                "{CLIENTS_OF_USER_MAX} clients of user {} are connected; try again later",
                peer.uid
            ));
        }
        Ok(())
    }

    fn advance(&mut self, slot: usize) {
        let (gate, answer) = (&self.gate, &*self.answer);
        if let Some(client) = self.all.get_mut(slot)
            && !client.advance(&|peer, command, kept| gate.answer(peer, command, kept, answer))
        {
            self.all.remove(slot);
        }
    }
}

impl Client {
    fn request_bytes_max(&self) -> usize {
        let applies = self.changes && self.input.starts_with(APPLY_BEGIN);
        if applies { APPLY_BYTES_MAX } else { REQUEST_BYTES_MAX }
    }

    /// Reads, answers and writes as far as it goes; `false`: the client is done with.
    fn advance(&mut self, answer: &AnswersOf) -> bool {
        loop {
            if self.sent < self.output.len() {
                match self.stream.write(&self.output[self.sent..]) {
                    Ok(n) => {
                        self.sent += n;
                        self.moved = Instant::now();
                        continue;
                    }
                    Err(e) => return e.kind() == io::ErrorKind::WouldBlock,
                }
            }
            if self.last {
                return false;
            }
            // One answer at a time: the next request is read when this one has been taken.
            self.output.clear();
            self.sent = 0;
            let end = self.input[self.searched..].iter().position(|b| *b == b'\n');
            if let Some(end) = end.map(|at| at + self.searched) {
                self.searched = 0;
                let line: Vec<u8> = self.input.drain(..=end).collect();
                let kept = RefCell::new(self.kept.take());
                let answer =
                    |command: &Command| answer(&self.peer, command, &mut kept.borrow_mut());
                self.output = line_of(reply(&line, &answer));
                self.kept = kept.into_inner();
                continue;
            }
            self.searched = self.input.len();
            let most = self.request_bytes_max();
            if self.input.len() >= most {
                let message = format!("a request has at most {most} bytes");
                self.output = line_of(Answer::refuse(RefusalKind::TooLong, message));
                self.last = true;
                continue;
            }
            let mut buf = [0; REQUEST_BYTES_MAX];
            let room = (most - self.input.len()).min(buf.len());
            match self.stream.read(&mut buf[..room]) {
                Ok(0) => return false,
                Ok(n) => {
                    self.input.extend_from_slice(&buf[..n]);
                    self.moved = Instant::now();
                }
                Err(e) => return e.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }
}

/// The answer to one request line, `answer` being that to its command.
pub fn reply(line: &[u8], answer: &dyn Fn(&Command) -> Answer) -> Answer {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    match serde_json::from_slice::<Versioned>(line) {
        Err(e) => return Answer::refuse(RefusalKind::BadRequest, format!("no request: {e}")),
        Ok(v) if v.version != VERSION => {
            let message = format!("version {} is not spoken here, {VERSION} is", v.version);
            return Answer::refuse(RefusalKind::UnsupportedVersion, message);
        }
        Ok(_) => {}
    }
    match serde_json::from_slice::<Request>(line) {
        Ok(request) => answer(&request.command),
        Err(e) => Answer::refuse(RefusalKind::BadRequest, format!("no request: {e}")),
    }
}

fn line_of(answer: Answer) -> Vec<u8> {
    let response = Response { version: VERSION, answer };
    // Plain data with string keys: it has a JSON form.
    let mut line = serde_json::to_vec(&response).unwrap_or_default();
    line.push(b'\n');
    line
}
