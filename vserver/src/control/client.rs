//! Asking a daemon.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ControlError;
use super::protocol::{Answer, Command, Request, Response, VERSION};
use crate::stats::{HostSnapshot, RuntimeSnapshot};

/// Bytes of an answer a client accepts: far above that of 65,536 vservers.
const ANSWER_BYTES_MAX: u64 = 1 << 30;
/// How long a client waits for an answer.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

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
