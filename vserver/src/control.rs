//! The control socket: a unix stream socket, one JSON object per line, one answer per request.
//!
//! ```text
//! {"version":1,"command":"snapshot"}
//! {"version":1,"snapshot":{...}}
//! {"version":1,"command":"sockets","vserver":"files"}
//! {"version":1,"error":{"kind":"no-such-vserver","message":"no vserver 'files'"}}
//! ```
//!
//! The server has its own thread, answers from snapshots, and bounds what a client can cost:
//! clients, bytes of a request, time without progress, one answer in memory per client.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::net::{UnixListener as MioListener, UnixStream as MioStream};
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use slab::Slab;

use crate::config::PollMode;
use crate::ping::{PingAnswers, PingError, PingStep};
use crate::sockets::{QueryError, SocketPage, SocketQuery, SocketSummary};
use crate::stats::{HostSnapshot, RuntimeSnapshot};

/// Version of requests and answers.
pub const VERSION: u32 = 1;

/// Clients at a time; more are told so and closed.
const CLIENTS_MAX: usize = 32;
/// Bytes of a request line.
const REQUEST_BYTES_MAX: usize = 4096;
/// Bytes of an answer a client accepts: far above that of 65,536 vservers.
const ANSWER_BYTES_MAX: u64 = 1 << 30;
/// A client that neither asks nor reads is closed after this time.
const IDLE: Duration = Duration::from_mins(5);
/// How long a client waits for an answer.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// Who answers.
    Ping,
    /// Counters and facts of the whole host.
    Snapshot,
    /// What the workers do with their time.
    Runtime {
        /// Begin all counts anew after the answer.
        #[serde(default)]
        clear: bool,
    },
    /// Sockets, a page at a time.
    Sockets(SocketQuery),
    /// How many sockets there are.
    SocketSummary(SocketQuery),
    /// A step of a ping.
    Echo(PingStep),
    /// Change how workers wait for frames.
    SetPoll {
        /// From now on.
        mode: PollMode,
        /// This worker only; left out: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        worker: Option<usize>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    version: u32,
    #[serde(flatten)]
    command: Command,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Command::Ping`].
    Pong(Daemon),
    /// To [`Command::Snapshot`].
    Snapshot(Box<HostSnapshot>),
    /// To [`Command::Runtime`].
    Runtime(RuntimeSnapshot),
    /// To [`Command::Sockets`].
    Sockets(SocketPage),
    /// To [`Command::SocketSummary`].
    SocketSummary(SocketSummary),
    /// To [`Command::Echo`].
    Echo(PingAnswers),
    /// To [`Command::SetPoll`].
    Poll(PollMode),
    /// Refused.
    Error(Refusal),
}

#[derive(Debug, Serialize, Deserialize)]
struct Response {
    version: u32,
    #[serde(flatten)]
    answer: Answer,
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// Version of the program.
    pub weft: String,
    /// Process id.
    pub pid: u32,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub kind: RefusalKind,
    /// For people.
    pub message: String,
}

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RefusalKind {
    /// Not a request: no JSON, no such command, a field missing.
    BadRequest,
    /// The request has another version than [`VERSION`].
    UnsupportedVersion,
    /// No vserver of that name.
    NoSuchVserver,
    /// A filter that cannot be read.
    BadFilter,
    /// The operation failed.
    Failed,
    /// The request line is too long.
    TooLong,
    /// Too many clients.
    Busy,
}

impl From<PingError> for Answer {
    fn from(e: PingError) -> Answer {
        let kind = match e {
            PingError::NoSuchVserver(_) => RefusalKind::NoSuchVserver,
            PingError::Ambiguous(_) | PingError::Address(_) => RefusalKind::BadRequest,
            PingError::Busy => RefusalKind::Busy,
            PingError::Over | PingError::Socket { .. } => RefusalKind::Failed,
        };
        Answer::refuse(kind, e.to_string())
    }
}

impl From<QueryError> for Answer {
    fn from(e: QueryError) -> Answer {
        let kind = match e {
            QueryError::NoSuchVserver(_) => RefusalKind::NoSuchVserver,
            QueryError::Filter(_) => RefusalKind::BadFilter,
            QueryError::NoSuchProtocol(_) => RefusalKind::BadRequest,
        };
        Answer::refuse(kind, e.to_string())
    }
}

impl Answer {
    /// A refusal.
    pub fn refuse(kind: RefusalKind, message: impl Into<String>) -> Answer {
        Answer::Error(Refusal { kind, message: message.into() })
    }
}

/// Why the control socket could not be made or did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Another daemon answers there.
    #[error("another daemon answers on {}; stop it or choose another socket", .0.display())]
    InUse(PathBuf),
    /// There is something else at that path.
    #[error("{} is there and is no socket; remove it or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The operating system refused.
    #[error("control socket {}: {operation}: {source}", path.display())]
    Os {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// Nobody answers.
    #[error("no daemon answers on {}: {source}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something answers that is not understood.
    #[error("the daemon on {} answers what is not understood: {problem}", path.display())]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The daemon refused.
    #[error("{}", .0.message)]
    Refused(Refusal),
}

/// A bound control socket. Dropping it removes the file.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    file: SocketFile,
}

/// The file of a socket, removed on drop if it is still ours.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && self.identity == identity(&self.path) {
            // Nobody is left to tell; the next daemon replaces it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

impl Socket {
    /// Binds `path` for the owner alone (mode 0600), making its directory if that is missing. A
    /// socket file that nobody answers on is replaced.
    pub fn bind(path: &Path) -> Result<Socket, ControlError> {
        let os = |operation, source| ControlError::Os { path: path.to_owned(), operation, source };
        if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            std::fs::create_dir_all(directory).map_err(|e| os("make its directory", e))?;
        }
        clear_stale(path)?;
        let listener = listen(path).map_err(|e| match e.kind() {
            io::ErrorKind::AddrInUse => ControlError::InUse(path.to_owned()),
            _ => os("bind", e),
        })?;
        let file = SocketFile { path: path.to_owned(), identity: identity(path) };
        Ok(Socket { listener, file })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Answers requests with `answer`, on a thread of its own, until the server is dropped.
    pub fn serve(
        self,
        answer: impl Fn(&Command) -> Answer + Send + 'static,
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
        let state = Clients { listener, poll, all: Slab::new(), answer: Box::new(answer) };
        let thread = std::thread::Builder::new()
            .name(String::from("weft-control"))
            .spawn(move || state.run())
            .map_err(os("start a thread"))?;
        Ok(Server { waker, thread: Some(thread), _file: self.file })
    }
}

/// Removes a socket file that nobody answers on.
fn clear_stale(path: &Path) -> Result<(), ControlError> {
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(ControlError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)
            .map_err(|source| ControlError::Os {
                path: path.to_owned(),
                operation: "remove the socket of a daemon that is gone",
                source,
            }),
        // Gone meanwhile.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => Err(ControlError::InUse(path.to_owned())),
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let fd: OwnedFd = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // The file gets the mode of the socket, so that it never is open to others.
    rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&fd, 64)?;
    Ok(fd.into())
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
    answer: Box<dyn Fn(&Command) -> Answer + Send>,
}

struct Client {
    stream: MioStream,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    /// Closed when what is to be sent has been sent.
    last: bool,
    moved: Instant,
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
            let busy = self.all.len() >= CLIENTS_MAX;
            if busy {
                let message = format!("{CLIENTS_MAX} clients are connected; try again later");
                let line = line_of(Answer::refuse(RefusalKind::Busy, message));
                // It fits a socket buffer; a client that is gone needs no answer.
                let _ = stream.write(&line);
                continue;
            }
            let entry = self.all.vacant_entry();
            let both = Interest::READABLE | Interest::WRITABLE;
            let slot = entry.key();
            if self.poll.registry().register(&mut stream, Token(slot), both).is_err() {
                continue;
            }
            entry.insert(Client {
                stream,
                input: Vec::new(),
                output: Vec::new(),
                sent: 0,
                last: false,
                moved: Instant::now(),
            });
            self.advance(slot);
        }
    }

    fn advance(&mut self, slot: usize) {
        if let Some(client) = self.all.get_mut(slot)
            && !client.advance(&*self.answer)
        {
            self.all.remove(slot);
        }
    }
}

impl Client {
    /// Reads, answers and writes as far as it goes; `false`: the client is done with.
    fn advance(&mut self, answer: &dyn Fn(&Command) -> Answer) -> bool {
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
            if let Some(end) = self.input.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                self.output = line_of(reply(&line, answer));
                continue;
            }
            if self.input.len() >= REQUEST_BYTES_MAX {
                let message = format!("a request has at most {REQUEST_BYTES_MAX} bytes");
                self.output = line_of(Answer::refuse(RefusalKind::TooLong, message));
                self.last = true;
                continue;
            }
            let mut buf = [0; REQUEST_BYTES_MAX];
            let room = REQUEST_BYTES_MAX - self.input.len();
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

/// A connection to a daemon's control socket.
#[derive(Debug)]
pub struct Connection {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Connection {
    /// Connects.
    pub fn open(path: &Path) -> Result<Connection, ControlError> {
        let unreachable = |source| ControlError::Unreachable { path: path.to_owned(), source };
        let stream = UnixStream::connect(path).map_err(unreachable)?;
        stream.set_read_timeout(Some(ANSWER_WAIT)).map_err(unreachable)?;
        stream.set_write_timeout(Some(ANSWER_WAIT)).map_err(unreachable)?;
        Ok(Connection { path: path.to_owned(), stream: BufReader::new(stream) })
    }

    /// Asks and waits for the answer, at most ten seconds. [`Answer::Error`] comes as
    /// [`ControlError::Refused`].
    pub fn ask(&mut self, command: Command) -> Result<Answer, ControlError> {
        let path = self.path.clone();
        let unreachable = |source| ControlError::Unreachable { path: path.clone(), source };
        let protocol = |problem| ControlError::Protocol { path: path.clone(), problem };
        let mut line = serde_json::to_vec(&Request { version: VERSION, command })
            .map_err(|e| protocol(e.to_string()))?;
        line.push(b'\n');
        // A daemon that is busy answers before it reads.
        let written = self.stream.get_mut().write_all(&line);
        let mut answer = Vec::new();
        let read = (&mut self.stream).take(ANSWER_BYTES_MAX).read_until(b'\n', &mut answer);
        if answer.is_empty() {
            written.and(read).map_err(unreachable)?;
            return Err(unreachable(io::ErrorKind::UnexpectedEof.into()));
        }
        read.map_err(unreachable)?;
        let response: Response =
            serde_json::from_slice(&answer).map_err(|e| protocol(e.to_string()))?;
        match response.answer {
            Answer::Error(refusal) => Err(ControlError::Refused(refusal)),
            answer => Ok(answer),
        }
    }

    /// Asks for a snapshot.
    pub fn snapshot(&mut self) -> Result<HostSnapshot, ControlError> {
        match self.ask(Command::Snapshot)? {
            Answer::Snapshot(s) => Ok(*s),
            other => Err(ControlError::Protocol {
                path: self.path.clone(),
                problem: format!("a snapshot was asked for, {other:?} came"),
            }),
        }
    }

    /// Asks for the workers' accounts; with `clear` they begin anew after that.
    pub fn runtime(&mut self, clear: bool) -> Result<RuntimeSnapshot, ControlError> {
        match self.ask(Command::Runtime { clear })? {
            Answer::Runtime(s) => Ok(s),
            other => Err(ControlError::Protocol {
                path: self.path.clone(),
                problem: format!("the workers' accounts were asked for, {other:?} came"),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn answer(command: &Command) -> Answer {
        match command {
            Command::Ping => Answer::Pong(Daemon { weft: String::from("test"), pid: 7 }),
            Command::Snapshot => {
                Answer::Snapshot(Box::new(HostSnapshot { generation: 9, ..Default::default() }))
            }
            Command::Runtime { .. } => Answer::Runtime(RuntimeSnapshot::default()),
            Command::Echo(_) => PingError::Over.into(),
            Command::SetPoll { mode, .. } => Answer::Poll(*mode),
            Command::Sockets(query) | Command::SocketSummary(query) => {
                QueryError::NoSuchVserver(query.vserver.clone().unwrap_or_default()).into()
            }
        }
    }

    fn serve() -> (tempfile::TempDir, PathBuf, Server) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/weft.sock");
        let server = Socket::bind(&path).unwrap().serve(answer).unwrap();
        (directory, path, server)
    }

    /// Sends raw bytes and reads one line.
    fn raw(path: &Path, request: &[u8]) -> String {
        let mut s = UnixStream::connect(path).unwrap();
        s.write_all(request).unwrap();
        let mut line = String::new();
        BufReader::new(s).read_line(&mut line).unwrap();
        line
    }

    #[test]
    fn requests_are_answered_on_one_connection() {
        let (_d, path, _server) = serve();
        let mut c = Connection::open(&path).unwrap();
        assert_eq!(c.snapshot().unwrap().generation, 9);
        assert!(matches!(c.ask(Command::Ping).unwrap(), Answer::Pong(Daemon { pid: 7, .. })));
        let query = SocketQuery { vserver: Some(String::from("x")), ..SocketQuery::default() };
        let refused = c.ask(Command::Sockets(query)).unwrap_err();
        assert_eq!(refused.to_string(), "no vserver 'x'");
        assert_eq!(c.snapshot().unwrap().generation, 9);
    }

    #[test]
    fn the_lines_are_as_documented() {
        let (_d, path, _server) = serve();
        assert_eq!(
            raw(&path, b"{\"version\":1,\"command\":\"ping\"}\n"),
            "{\"version\":1,\"pong\":{\"weft\":\"test\",\"pid\":7}}\n"
        );
        assert_eq!(
            raw(&path, b"{\"version\":1,\"command\":\"sockets\",\"vserver\":\"v\"}\n"),
            "{\"version\":1,\"error\":{\"kind\":\"no-such-vserver\",\"message\":\"no vserver 'v'\"}}\n"
        );
        let refused = raw(&path, b"{\"version\":2,\"command\":\"ping\"}\n");
        assert!(refused.contains("\"unsupported-version\""), "{refused}");
        for bad in [
            &b"hello\n"[..],
            b"{}\n",
            b"{\"version\":1}\n",
            b"{\"version\":1,\"command\":\"x\"}\n",
            b"\xff\n",
            b"\n",
        ] {
            let refused = raw(&path, bad);
            assert!(refused.contains("\"bad-request\""), "{refused}");
        }
    }

    #[test]
    fn requests_may_come_in_pieces_or_together() {
        let (_d, path, _server) = serve();
        let mut s = UnixStream::connect(&path).unwrap();
        let request = b"{\"version\":1,\"command\":\"ping\"}\n";
        for b in request {
            s.write_all(&[*b]).unwrap();
        }
        s.write_all(&request.repeat(3)).unwrap();
        let mut lines = BufReader::new(s).lines();
        for _ in 0..4 {
            assert!(lines.next().unwrap().unwrap().contains("pong"));
        }
    }

    #[test]
    fn long_requests_and_many_clients_are_refused() {
        let (_d, path, _server) = serve();
        let refused = raw(&path, &[b'x'; REQUEST_BYTES_MAX]);
        assert!(refused.contains("\"too-long\""), "{refused}");
        let mut held = Vec::new();
        for _ in 0..CLIENTS_MAX {
            let mut c = Connection::open(&path).unwrap();
            // Ask, so that all have been accepted.
            while let Err(ControlError::Refused(Refusal { kind: RefusalKind::Busy, .. })) =
                c.snapshot()
            {
                c = Connection::open(&path).unwrap();
            }
            held.push(c);
        }
        let refused = Connection::open(&path).unwrap().snapshot().unwrap_err();
        assert!(refused.to_string().contains("clients are connected"), "{refused}");
    }

    #[test]
    fn the_file_is_the_owners_and_goes_with_the_server() {
        let (_d, path, server) = serve();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(server);
        assert!(!path.exists());
        let gone = Connection::open(&path).unwrap_err();
        assert!(matches!(gone, ControlError::Unreachable { .. }), "{gone}");
    }

    #[test]
    fn only_a_dead_socket_is_replaced() {
        let (d, path, server) = serve();
        let in_use = Socket::bind(&path).unwrap_err();
        assert!(matches!(in_use, ControlError::InUse(_)), "{in_use}");
        assert_eq!(Connection::open(&path).unwrap().snapshot().unwrap().generation, 9);
        drop(server);
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let replaced = Socket::bind(&path).unwrap();
        drop(replaced);
        assert!(!path.exists());
        let file = d.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        let refused = Socket::bind(&file).unwrap_err();
        assert!(matches!(refused, ControlError::NotASocket(_)), "{refused}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    }
}
