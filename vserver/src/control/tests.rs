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
use weft_interface::events::Page;

fn answer(command: &Command, _: &Caller) -> Answer {
    match command {
        Command::Apply { .. } | Command::Revert | Command::Confirm => {
            Answer::refuse(RefusalKind::Failed, "no host")
        }
        Command::Policy { .. } => Answer::Policy(Box::default()),
        Command::Neighbours { .. } => Answer::Neighbours(crate::NeighbourReport::default()),
        Command::Qos { .. } => Answer::refuse(RefusalKind::Failed, "no rates"),
        Command::Paths => Answer::Paths(Box::default()),
        Command::Probes { .. } => Answer::Probes { now_us: 7, probes: Page::empty() },
        Command::Events { .. } => Answer::Events { now_us: 7, events: Page::empty() },
        Command::Bonds => Answer::Bonds(Vec::new()),
        Command::Doctor => Answer::Doctor(Vec::new()),
        Command::Lldp => Answer::Lldp(Vec::new()),
        Command::Shim { .. } => Answer::Shim(crate::ShimReport::default()),
        Command::ShimEvents { .. } => Answer::ShimEvents { now_us: 7, vservers: Vec::new() },
        Command::ShimWish(_) => Answer::ShimWished,
        Command::CaptureStart(_) => Answer::Capturing(crate::capture::CaptureBegun::default()),
        Command::CaptureNext(_) => crate::capture::CaptureError::Over.into(),
        Command::SetOffline { offline, .. } => Answer::Offline { offline: *offline },
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
fn what_is_kept_for_a_connection_ends_with_it_or_gives_way_to_another() {
    struct Told(std::sync::mpsc::Sender<u8>, u8);
    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send(self.1);
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weft.sock");
    let (tell, told) = std::sync::mpsc::channel();
    let number = std::sync::atomic::AtomicU8::new(0);
    let keeping = move |command: &Command, caller: &Caller| {
        if matches!(command, Command::CaptureStart(_)) {
            let n = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            caller.keep(Told(tell.clone(), n));
        }
        answer(command, caller)
    };
    let _server = Socket::bind(&path).unwrap().serve(gate(), keeping).unwrap();
    let patience = std::time::Duration::from_secs(20);
    let mut c = Connection::open(&path).unwrap();
    let start = || Command::CaptureStart(crate::capture::CaptureWish::default());
    c.ask(start()).unwrap();
    c.ask(Command::Ping).unwrap();
    assert_eq!(told.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty));
    c.ask(start()).unwrap();
    assert_eq!(told.recv_timeout(patience), Ok(0));
    drop(c);
    assert_eq!(told.recv_timeout(patience), Ok(1));
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

/// Roles for users 1 (view), 2 (the vserver web) and 3 (cluster); 9 has none.
const ROLES: &str = r#"
[nic.eth0]
driver = "mem"
[alias.data0]
over = "eth0"
[alias.mgmt0]
over = "eth0"
[vserver.web]
addresses = ["data0 10.0.0.1/24", "mgmt0 10.9.0.1/24"]
[vserver.files]
addresses = ["data0 10.0.0.2/24"]
[role.watchers]
users = ["1"]
allow = "view"
[role.webmasters]
users = ["2"]
allow = "vserver"
vservers = ["web"]
[role.operators]
users = ["3"]
allow = "cluster"
"#;

/// Every command, the least user that may ask it, and whether it is a change.
const EVERY: [(&str, u32, bool); 38] = [
    (r#"{"command":"ping"}"#, 1, false),
    (r#"{"command":"snapshot"}"#, 1, false),
    (r#"{"command":"runtime"}"#, 1, false),
    (r#"{"command":"runtime","clear":true}"#, 3, true),
    (r#"{"command":"sockets"}"#, 1, false),
    (r#"{"command":"socket-summary"}"#, 1, false),
    (r#"{"command":"echo","vserver":"web","to":"10.0.0.9"}"#, 2, false),
    (r#"{"command":"echo","vserver":"files","to":"10.0.0.9"}"#, 3, false),
    (r#"{"command":"policy","vserver":"files"}"#, 1, false),
    (r#"{"command":"qos"}"#, 1, false),
    (r#"{"command":"neighbours"}"#, 1, false),
    (r#"{"command":"access"}"#, 1, false),
    (r#"{"command":"access-test","vserver":"web","service":"ssh","from":"10.0.0.9"}"#, 1, false),
    (r#"{"command":"audit"}"#, 1, false),
    (r#"{"command":"resolve","vserver":"web","name":"x"}"#, 2, false),
    (r#"{"command":"resolve","vserver":"files","name":"x"}"#, 3, false),
    (r#"{"command":"export"}"#, 1, false),
    (r#"{"command":"dhcp"}"#, 1, false),
    (r#"{"command":"dhcp-wish","vserver":"Web","alias":"data0","wish":"renew"}"#, 2, true),
    (r#"{"command":"dhcp-wish","vserver":"web","alias":"MGMT0","wish":"renew"}"#, 3, true),
    (r#"{"command":"apply","path":"/","text":"","dry_run":false}"#, 2, true),
    (r#"{"command":"confirm"}"#, 2, true),
    (r#"{"command":"revert"}"#, 2, true),
    (r#"{"command":"set-poll","mode":"busy"}"#, 3, true),
    (r#"{"command":"paths"}"#, 1, false),
    (r#"{"command":"probes"}"#, 1, false),
    (r#"{"command":"events","after":7}"#, 1, false),
    (r#"{"command":"bonds"}"#, 1, false),
    (r#"{"command":"doctor"}"#, 1, false),
    (r#"{"command":"lldp"}"#, 1, false),
    (r#"{"command":"shim"}"#, 1, false),
    (r#"{"command":"shim-events","after":{"web":7}}"#, 1, false),
    (r#"{"command":"shim-wish","vserver":"Web","peer":"2001:db8::9"}"#, 2, true),
    (r#"{"command":"shim-wish","vserver":"files","peer":"2001:db8::9"}"#, 3, true),
    (r#"{"command":"set-offline","interface":"eth0","offline":true}"#, 3, true),
    (r#"{"command":"capture-start","vserver":"Web","snaplen":96}"#, 2, true),
    (r#"{"command":"capture-start","vserver":"files","filter":"port 80"}"#, 3, true),
    (r#"{"command":"capture-next","capture":7}"#, 2, false),
];

/// Numbers every kind of command: a new one does not compile until it stands in [`EVERY`] too.
fn kind(command: &Command) -> usize {
    match command {
        Command::Ping => 0,
        Command::Snapshot => 1,
        Command::Runtime { .. } => 2,
        Command::Sockets(_) => 3,
        Command::SocketSummary(_) => 4,
        Command::Echo(_) => 5,
        Command::Policy { .. } => 6,
        Command::Qos { .. } => 7,
        Command::Neighbours { .. } => 8,
        Command::Access { .. } => 9,
        Command::AccessTest(_) => 10,
        Command::Audit(_) => 11,
        Command::Resolve { .. } => 12,
        Command::Export { .. } => 13,
        Command::Dhcp => 14,
        Command::DhcpWish { .. } => 15,
        Command::Apply { .. } => 16,
        Command::Confirm => 17,
        Command::Revert => 18,
        Command::SetPoll { .. } => 19,
        Command::Paths => 20,
        Command::Probes { .. } => 21,
        Command::Events { .. } => 22,
        Command::Bonds => 23,
        Command::SetOffline { .. } => 24,
        Command::Doctor => 25,
        Command::Shim { .. } => 26,
        Command::ShimWish(_) => 27,
        Command::Lldp => 28,
        Command::ShimEvents { .. } => 29,
        Command::CaptureStart(_) => 30,
        Command::CaptureNext(_) => 31,
    }
}

const KINDS: usize = 32;

#[test]
fn every_command_is_refused_to_who_may_not_and_the_log_tells_each_attempt() {
    let directory = tempfile::tempdir().unwrap();
    let text = format!("[host]\naudit = \"audit.log\"\n{ROLES}");
    let file = directory.path().join("weft.toml");
    let config = crate::config::parse(&text, &file).map_err(|e| e.to_string()).unwrap();
    let gate = Gate::new(&config).unwrap();
    let mut kinds = [false; KINDS];
    let mut changes = 0;
    let mut refused = std::collections::BTreeMap::new();
    for (text, least, change) in EVERY {
        let command: Command = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        kinds[kind(&command)] = true;
        assert_eq!(command.needs().change, change, "{text}");
        for uid in [1, 2, 3, 9] {
            let peer = Peer { uid, gid: uid, groups: Vec::new(), pid: 7 };
            let asked = std::cell::Cell::new(false);
            let answered = gate.answer(&peer, &command, &mut None, &|command, caller| {
                asked.set(true);
                answer(command, caller)
            });
            let may = uid != 9 && uid >= least;
            assert_eq!(asked.get(), may, "{uid}: {text}");
            let denied = matches!(&answered, Answer::Error(r) if r.kind == RefusalKind::Denied);
            assert_eq!(denied, !may, "{uid}: {text}");
            changes += usize::from(may && change);
            *refused.entry(uid).or_insert(0) += usize::from(!may);
        }
    }
    assert_eq!(kinds, [true; KINDS], "one is not in the list");
    let page = gate.records(&AuditQuery::default()).unwrap();
    let told = |begin: &str| {
        let starts = |r: &&Record| r.result.as_deref().is_some_and(|r| r.starts_with(begin));
        page.records.iter().filter(starts).count()
    };
    // Of one user only so many a minute are told.
    let most = super::audit::REFUSALS_PER_MINUTE as usize;
    let refusals: usize = refused.into_values().map(|n: usize| n.min(most)).sum();
    assert_eq!(told("refused: "), refusals);
    // A change is there twice: when it begins and how it ended.
    assert_eq!(told("ok") + told("failed: "), changes);
    assert_eq!(page.records.len(), refusals + 2 * changes);
    assert!(page.records.iter().all(|r| r.request.is_object() || r.result.is_some()));
}
