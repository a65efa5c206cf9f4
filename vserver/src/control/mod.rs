//! The control socket: a unix stream socket, one JSON object per line, one answer per request.
//!
//! ```text
//! {"version":1,"command":"snapshot"}
//! {"version":1,"snapshot":{...}}
//! {"version":1,"command":"sockets","vserver":"files"}
//! {"version":1,"error":{"kind":"no-such-vserver","message":"no vserver 'files'"}}
//! ```
//!
//! Who asks is known by the credentials of its socket; what it may and whether that is written down
//! is decided by a [`Gate`] before a command is carried out. The server has its own thread, answers from snapshots, and bounds what a client can cost:
//! clients, bytes of a request, time without progress, one answer in memory per client.

use std::io;
use std::path::PathBuf;

mod audit;
mod authority;
mod client;
mod gate;
mod need;
mod peer;
mod protocol;
mod server;
mod socket;
#[cfg(test)]
mod tests;

pub use audit::{AuditError, AuditPage, AuditQuery, Record, read_files};
pub use client::Connection;
pub use gate::{Caller, Gate};
pub use need::{Need, Scope};
pub use peer::Peer;
pub use protocol::{Answer, Command, Daemon, Refusal, RefusalKind, VERSION};
pub use server::{Server, reply};
pub use socket::Socket;

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
