#![allow(missing_docs)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::server::{CLIENTS_MAX, REQUEST_BYTES_MAX};
use super::*;
use crate::access::AccessReport;
use crate::config::HostConfig;
use crate::ping::PingError;
use crate::sockets::{QueryError, SocketQuery};
use crate::stats::{HostSnapshot, RuntimeSnapshot};

fn answer(command: &Command, _: &Caller) -> Answer {
    match command {
        Command::Apply { .. } | Command::Revert | Command::Confirm => {
            Answer::refuse(RefusalKind::Failed, "no host")
        }
        Command::Policy { .. } => Answer::Policy(Box::default()),
        Command::Neighbours { .. } => Answer::Neighbours(crate::NeighbourReport::default()),
        Command::Qos { .. } => Answer::refuse(RefusalKind::Failed, "no rates"),
        Command::Access { .. } => Answer::Access(AccessReport::default()),
        Command::AccessTest(_) => Answer::AccessTest(Vec::new()),
        Command::Audit(_) => Answer::Audit(AuditPage::default()),
        Command::Ping => Answer::Pong(Daemon { weft: String::from("test"), pid: 7 }),
        Command::Snapshot => {
            Answer::Snapshot(Box::new(HostSnapshot { generation: 9, ..Default::default() }))
        }
        Command::Runtime { .. } => Answer::Runtime(RuntimeSnapshot::default()),
        Command::Echo(_) => PingError::Over.into(),
        Command::SetPoll { mode, .. } => Answer::Poll(*mode),
        Command::Resolve { .. } => Answer::Resolved(crate::resolver::Resolved::default()),
        Command::Export { .. } => Answer::Export(String::new()),
        Command::Dhcp => Answer::Dhcp(crate::dhcp::DhcpReport::default()),
        Command::DhcpWish { .. } => Answer::DhcpWish { clients: 0 },
        Command::Sockets(query) | Command::SocketSummary(query) => {
            QueryError::NoSuchVserver(query.vserver.clone().unwrap_or_default()).into()
        }
    }
}

fn gate() -> Arc<Gate> {
    Arc::new(Gate::new(&HostConfig::default()).unwrap())
}

fn serve() -> (tempfile::TempDir, PathBuf, Server) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made/weft.sock");
    let server = Socket::bind(&path).unwrap().serve(gate(), answer).unwrap();
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
        while let Err(ControlError::Refused(Refusal { kind: RefusalKind::Busy, .. })) = c.snapshot()
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
