//! The second shim against the kernel's plain servers: dead addresses, ways that lose answers, RST,
//! ICMP, dead and living DNS. Over TUN, in a namespace that each test makes.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Shutdown, TcpListener as KernelListener, UdpSocket as KernelSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use common::kernel::Kernel;
use common::{PATIENCE, addr, config, echo, pattern, until, vs, wait_events};
use mio::{Events, Interest, Poll, Token};
use weft_stack::socket::Readiness;
use weft_vserver::app::{Cx, Service, SocketId, TcpError, TcpOption};
use weft_vserver::change::{Changes, Options};
use weft_vserver::net::{Connecting, Form, Poller, TcpConnect, TcpStream, UdpAnswer, UdpRequest};
use weft_vserver::{Host, Vserver};

/// Our addresses; the kernel is `10.9.0.11` to `10.9.0.15`, and the same in `fd09::/64`.
const OURS: [&str; 3] = ["10.9.0.2", "10.9.0.3", "10.9.0.4"];
const THEIRS: [&str; 5] = ["10.9.0.11", "10.9.0.12", "10.9.0.13", "10.9.0.14", "10.9.0.15"];

/// A vserver, and the kernel with an echo at port 7 of every address.
struct Lab {
    host: Arc<Host>,
    v: Vserver,
    kernel: Kernel,
}

fn text(connect: &str) -> String {
    let addresses: Vec<String> = OURS.iter().map(|a| format!("\"data0 {a}/24\"")).collect();
    format!(
        "[nic.eth0]\ndevice = \"w0\"\ndriver = \"tun\"\n[alias.data0]\nover = \"eth0\"\n\
         [vserver.v]\naddresses = [{}, \"data0 fd09::2/64\"]\n\
         routes = [{{ to = \"default\", via = \"10.9.0.11\" }}]\n\
         dns = {{ servers = [\"10.9.0.15\"], timeout_ms = 5000, attempts = 1, cache = 0 }}\n\
         [vserver.v.connect]\n{connect}\n",
        addresses.join(", ")
    )
}

impl Lab {
    fn new(connect: &str) -> Option<Lab> {
        let mut addresses = THEIRS.map(|a| format!("{a}/24")).to_vec();
        addresses.push(String::from("fd09::11/64"));
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let kernel = Kernel::beside(&addresses)?;
        let host = Arc::new(kernel.start(&text(connect))?);
        kernel.netns.set_sysctl("net/ipv4/ip_forward", "1").unwrap();
        let v = vs(&host, "v");
        until("IPv6 address", || v.addresses().contains(&"fd09::2".parse().unwrap()));
        let lab = Lab { host, v, kernel };
        lab.echo();
        Some(lab)
    }

    fn echo(&self) {
        let listener = self.kernel.netns.enter(|| KernelListener::bind("[::]:7").unwrap()).unwrap();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut &stream, &mut &stream);
                });
            }
        });
    }

    fn ip(&self, words: &str) {
        let run = || Command::new("ip").args(words.split_whitespace()).output().unwrap();
        let out = self.kernel.netns.enter(run).unwrap();
        assert!(out.status.success(), "ip {words}: {}", String::from_utf8_lossy(&out.stderr));
    }

    /// What the kernel would send from `theirs` to `ours` vanishes; so does what comes the other
    /// way, since it cannot be answered.
    fn dead(&self, ours: &str, theirs: &str) {
        self.ip(&format!("rule add from {theirs} to {ours} blackhole"));
    }

    /// A name server at 10.9.0.15: names to addresses, and addresses to names.
    fn dns(&self, names: &[(&str, &[&str])]) {
        let socket =
            self.kernel.netns.enter(|| KernelSocket::bind("10.9.0.15:53").unwrap()).unwrap();
        let names: BTreeMap<String, Vec<IpAddr>> = names
            .iter()
            .map(|(n, all)| ((*n).to_owned(), all.iter().map(|a| a.parse().unwrap()).collect()))
            .collect();
        std::thread::spawn(move || {
            let mut buf = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut buf) {
                let _ = socket.send_to(&answer(&buf[..len], &names), from);
            }
        });
    }

    fn counter(&self, name: &str) -> u64 {
        self.host.snapshot().vservers[0].counters[name]
    }

    /// Connections that the kernel has with us, in any state: one per line that names our network.
    fn kernel_connections(&self) -> usize {
        let read = || std::fs::read_to_string("/proc/thread-self/net/tcp6").unwrap();
        let text = self.kernel.netns.enter(read).unwrap();
        // Local port 7, and not the listener.
        text.lines().filter(|l| l.contains(":0007 ") && !l.contains(":0000 0A")).count()
    }
}

/// The answer to a question of one name: addresses of the type asked for, or the name of an address.
fn answer(query: &[u8], names: &BTreeMap<String, Vec<IpAddr>>) -> Vec<u8> {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] != 0 {
        let len = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..=at + len]).to_ascii_lowercase());
        at += 1 + len;
    }
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    let name = labels.join(".");
    let records: Vec<Vec<u8>> = match kind {
        12 => {
            let reversed: Vec<&str> = labels[..4].iter().rev().map(String::as_str).collect();
            let address: IpAddr = reversed.join(".").parse().unwrap();
            let owner = names.iter().find(|(_, all)| all.contains(&address));
            let encode = |(name, _): (&String, _)| {
                let labels = name.split('.').flat_map(|l| {
                    std::iter::once(l.len() as u8).chain(l.bytes()).collect::<Vec<u8>>()
                });
                labels.chain([0]).collect()
            };
            owner.map(encode).into_iter().collect()
        }
        _ => names.get(&name).into_iter().flatten().filter_map(|a| octets(*a, kind)).collect(),
    };
    let mut out = query[..at + 5].to_vec();
    out[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    for record in records {
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1, 0, 0, 0, 9]);
        out.extend((record.len() as u16).to_be_bytes());
        out.extend(record);
    }
    out
}

fn octets(address: IpAddr, kind: u16) -> Option<Vec<u8>> {
    match (address, kind) {
        (IpAddr::V4(a), 1) => Some(a.octets().to_vec()),
        (IpAddr::V6(a), 28) => Some(a.octets().to_vec()),
        _ => None,
    }
}

fn ends(stream: &TcpStream) -> (String, String) {
    let ip = |a: std::io::Result<std::net::SocketAddr>| a.unwrap().ip().to_string();
    (ip(stream.local_addr()), ip(stream.peer_addr()))
}

#[test]
fn the_one_live_pair_of_five_by_three_is_found_and_the_others_leave_nothing() {
    let Some(lab) = Lab::new("form = \"full\"\nattempt_delay_ms = 30") else { return };
    // The answers of our resolver come from 10.9.0.15, whose pairs are dead for TCP only by port.
    for ours in OURS {
        for theirs in THEIRS {
            if (ours, theirs) != ("10.9.0.3", "10.9.0.14") && theirs != "10.9.0.15" {
                lab.dead(ours, theirs);
            }
        }
        lab.ip(&format!("rule add from 10.9.0.15 to {ours} ipproto tcp blackhole"));
    }
    lab.dns(&[("db.test", &THEIRS)]);
    let stream = TcpStream::connect_name(&lab.v, "db.test", 7).unwrap();
    assert_eq!(ends(&stream), ("10.9.0.3".into(), "10.9.0.14".into()));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    echo(&stream, &pattern(100_000));
    assert_eq!((lab.counter("ConnectWonByLater"), lab.counter("ConnectLost")), (1, 0));
    let attempts = lab.counter("ConnectAttempts");
    assert_eq!(lab.counter("ConnectCancelled"), attempts - 1);
    assert_eq!(lab.kernel_connections(), 1, "the others were never there");
    // What was learned: the next connection is set up at once.
    let again = TcpStream::connect_name(&lab.v, "db.test", 7).unwrap();
    assert_eq!(ends(&again), ends(&stream));
    assert_eq!(lab.counter("ConnectWonByFirst"), 1);
    let history = lab.v.connect_history();
    assert_eq!(history.iter().filter(|e| e.rtt_us.is_some()).count(), 1, "{history:?}");
}

#[test]
fn rst_and_icmp_are_followed_at_once() {
    // Were they waited for, the delay would show in the number of attempts that are cancelled.
    let Some(lab) = Lab::new("form = \"weak\"\nattempt_delay_ms = 2000") else { return };
    lab.ip("route add unreachable 10.99.0.1");
    lab.ip("address add 10.98.0.1/32 dev lo");
    let listener = lab.kernel.netns.enter(|| KernelListener::bind("10.9.0.12:8").unwrap()).unwrap();
    lab.dns(&[("www.test", &["10.99.0.1", "10.98.0.1", "10.9.0.12"])]);
    let stream = TcpStream::connect_name(&lab.v, "www.test", 8).unwrap();
    assert_eq!(ends(&stream).1, "10.9.0.12");
    assert!(listener.accept().is_ok());
    assert!(lab.counter("ConnectUnreachable") + lab.counter("ConnectRefused") > 0);
    assert_eq!((lab.counter("ConnectCancelled"), lab.counter("ConnectTimedOut")), (0, 0));
    // Nobody is there: the peer's word is the error.
    let refused = TcpStream::connect(&lab.v, addr("10.9.0.13:9")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let unreachable = TcpStream::connect(&lab.v, addr("10.99.0.1:9")).unwrap_err();
    assert_eq!(unreachable.kind(), ErrorKind::HostUnreachable);
    let nobody = TcpStream::connect_name(&lab.v, "nobody.test", 9).unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::NotFound);
}

#[test]
fn a_way_that_loses_answers_is_left_though_dns_is_dead_too() {
    let Some(lab) = Lab::new("form = \"full\"\nattempt_delay_ms = 20") else { return };
    // No name server is there. The kernel takes our SYN from the first address and cannot answer.
    let first = lab.v.clone();
    lab.dead("10.9.0.2", "10.9.0.11");
    lab.dead("10.9.0.3", "10.9.0.11");
    let stream = TcpStream::connect(&first, addr("10.9.0.11:7")).unwrap();
    assert_eq!(ends(&stream), ("10.9.0.4".into(), "10.9.0.11".into()));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    echo(&stream, &pattern(10_000));
}

#[test]
fn an_address_that_is_dead_leads_to_the_other_addresses_of_its_name() {
    let Some(lab) = Lab::new("form = \"full\"\nattempt_delay_ms = 20") else { return };
    for ours in OURS {
        lab.dead(ours, "10.9.0.11");
    }
    lab.dns(&[("box.test", &["10.9.0.11", "10.9.0.12"])]);
    let stream = TcpStream::connect(&lab.v, addr("10.9.0.11:7")).unwrap();
    assert_eq!(ends(&stream).1, "10.9.0.12");
    // The weak form goes nowhere else.
    let how = TcpConnect {
        form: Some(Form::Weak),
        timeout: Some(Duration::from_millis(300)),
        ..TcpConnect::default()
    };
    let weak = TcpStream::connect_with(&lab.v, addr("10.9.0.11:7"), how).unwrap_err();
    assert_eq!(weak.kind(), ErrorKind::TimedOut);
}

#[test]
fn the_table_decides_by_port_and_class_and_changes_while_the_host_runs() {
    let Some(lab) = Lab::new("") else { return };
    lab.dead("10.9.0.2", "10.9.0.11");
    let soon = TcpConnect { timeout: Some(Duration::from_millis(300)), ..TcpConnect::default() };
    let to = addr("10.9.0.11:7");
    let off = TcpStream::connect_with(&lab.v, to, soon).unwrap_err();
    assert_eq!(off.kind(), ErrorKind::TimedOut);
    assert_eq!(lab.host.snapshot().vservers[0].counters.get("ConnectRaces"), Some(&0));
    let changes = Changes::new(Arc::clone(&lab.host), None, Vec::new(), |_, _| {});
    let rules = "rules = [{ class = \"backup\", form = \"off\" }, { ports = \"7\", form = \"weak\", attempt_delay_ms = 20 }]";
    changes.apply(config(&text(rules)), &Options::default()).unwrap();
    let patient = TcpConnect { timeout: Some(PATIENCE), ..TcpConnect::default() };
    let (stream, _) = TcpStream::connect_with(&lab.v, to, patient).unwrap();
    assert_ne!(ends(&stream).0, "10.9.0.2");
    let backup = TcpConnect { class: Some("backup"), ..soon };
    let off = TcpStream::connect_with(&lab.v, to, backup).unwrap_err();
    assert_eq!(off.kind(), ErrorKind::TimedOut);
    // The socket says more than the table, either way.
    let wanted = TcpConnect { form: Some(Form::Weak), timeout: Some(PATIENCE), ..backup };
    assert!(TcpStream::connect_with(&lab.v, to, wanted).is_ok());
    let bound = TcpConnect { local: Some(addr("10.9.0.2:0")), ..soon };
    let dead = TcpStream::connect_with(&lab.v, to, bound).unwrap_err();
    assert_eq!(dead.kind(), ErrorKind::TimedOut, "bound to an address, it stays there");
}

// RFC 6724 2.1
#[test]
fn the_policy_table_orders_addresses_and_changes_while_the_host_runs() {
    let connect = "form = \"full\"\nattempt_delay_ms = 2000\nresolution_delay_ms = 2000\n";
    let Some(lab) = Lab::new(connect) else { return };
    lab.dns(&[("both.test", &["fd09::11", "10.9.0.11"])]);
    let winner = || ends(&TcpStream::connect_name(&lab.v, "both.test", 7).unwrap()).1;
    assert_eq!(winner(), "10.9.0.11", "the standard has unique local addresses behind IPv4");
    let changes = Changes::new(Arc::clone(&lab.host), None, Vec::new(), |_, _| {});
    let apply = |rows: &str| {
        let connect = format!("{connect}policy_table = [{rows}]");
        changes.apply(config(&text(&connect)), &Options::default()).unwrap();
    };
    apply("\"fd09::/64 90 13\"");
    assert_eq!(winner(), "fd09::11");
    apply("\"fd09::/64 90 13\", \"0.0.0.0/0 91 4\"");
    assert_eq!(winner(), "10.9.0.11");
    apply("");
    assert_eq!(winner(), "10.9.0.11");
}

#[test]
fn a_connection_is_set_up_by_readiness_and_the_first_data_follows() {
    let Some(lab) = Lab::new("form = \"weak\"\nattempt_delay_ms = 20") else { return };
    lab.dead("10.9.0.2", "10.9.0.11");
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(8);
    let to = addr("10.9.0.11:7");
    let mut connecting = Connecting::to(&lab.v, to, TcpConnect::default()).unwrap();
    poll.registry().register(&mut connecting, Token(1), Interest::WRITABLE).unwrap();
    let stream = loop {
        if let Some(stream) = connecting.drive().unwrap() {
            break stream;
        }
        wait_events(&mut poll, &mut events, connecting.timeout().or(Some(PATIENCE)));
    };
    poll.registry().deregister(&mut connecting).unwrap();
    drop(connecting);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    echo(&stream, b"by readiness");
    let how = TcpConnect { data: b"first", ..TcpConnect::default() };
    let (stream, taken) = TcpStream::connect_with(&lab.v, to, how).unwrap();
    assert_eq!(taken, 5);
    let mut got = [0; 5];
    std::io::Read::read_exact(&mut &stream, &mut got).unwrap();
    assert_eq!(&got, b"first");
    // Given up half way, nothing stays.
    lab.dead("10.9.0.3", "10.9.0.11");
    lab.dead("10.9.0.4", "10.9.0.11");
    let before = lab.v.connect_history().len();
    let mut connecting = Connecting::to(&lab.v, to, TcpConnect::default()).unwrap();
    assert!(connecting.drive().unwrap().is_none());
    drop(connecting);
    assert_eq!(lab.counter("ConnectLost"), 1);
    assert_eq!(lab.v.connect_history().len(), before);
}

/// Waits until something is told of the stream.
fn reported(stream: &TcpStream) {
    let (poller, mut ready) = (Poller::new().unwrap(), Vec::new());
    poller.register(stream, Token(1), Interest::WRITABLE).unwrap();
    until("readiness", || {
        poller.wait(&mut ready, Some(PATIENCE)).unwrap();
        !ready.is_empty()
    });
    assert!(ready[0].readiness.contains(Readiness::WRITABLE), "{ready:?}");
    poller.deregister(stream).unwrap();
}

#[test]
fn a_stream_that_was_started_tells_what_becomes_of_the_race_and_nothing_of_its_attempts() {
    let Some(lab) = Lab::new("form = \"weak\"\nattempt_delay_ms = 20") else { return };
    lab.dead("10.9.0.2", "10.9.0.11");
    lab.dead("10.9.0.3", "10.9.0.11");
    let to = addr("10.9.0.11:7");
    let stream = TcpStream::start_connect(&lab.v, None, to).unwrap();
    stream.set_nodelay(true).unwrap();
    reported(&stream);
    assert!(stream.take_error().unwrap().is_none());
    assert_eq!(ends(&stream), ("10.9.0.4".into(), "10.9.0.11".into()));
    assert!(stream.nodelay().unwrap(), "set before another attempt had the handle");
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    echo(&stream, &pattern(100_000));
    let counters = ["ConnectAttempts", "ConnectCancelled", "ConnectWonByLater", "ConnectLost"];
    assert_eq!(counters.map(|name| lab.counter(name)), [3, 2, 1, 0]);
    assert_eq!(lab.kernel_connections(), 1, "the others were never there");

    // Each attempt is refused at once; the caller hears of it when none is left.
    let refused = TcpStream::start_connect(&lab.v, None, addr("10.9.0.12:9")).unwrap();
    reported(&refused);
    let error = refused.take_error().unwrap().unwrap();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!((lab.counter("ConnectRefused"), lab.counter("ConnectLost")), (3, 1));

    // Given up half way, nothing stays.
    lab.dead("10.9.0.4", "10.9.0.11");
    drop(TcpStream::start_connect(&lab.v, None, to).unwrap());
    assert_eq!((lab.counter("ConnectLost"), lab.counter("ConnectUnraced")), (2, 0));
    // Whoever shuts it down has that attempt, and no other.
    let shut = TcpStream::start_connect(&lab.v, None, to).unwrap();
    shut.shutdown(Shutdown::Write).unwrap();
    assert_eq!(lab.counter("ConnectLost"), 3);
}

/// What a service hears of the connections it begins.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Connected(String, String),
    Closed(Option<TcpError>),
    Echo(usize),
}

/// Connects to an echo from its first callback on, then to where nobody listens.
struct Caller(Sender<Heard>);

impl Service for Caller {
    fn start(&mut self, cx: &mut Cx<'_>) {
        let id = cx.connect(None, addr("10.9.0.11:7")).unwrap();
        assert!(cx.set_option(id, TcpOption::NoDelay(true)));
        // Given up at once: no callback follows.
        let other = cx.connect(None, addr("10.9.0.11:7")).unwrap();
        cx.close(other);
    }

    fn connected(&mut self, cx: &mut Cx<'_>, conn: SocketId) {
        let (local, peer) = cx.addrs(conn).unwrap();
        let _ = self.0.send(Heard::Connected(local.ip().to_string(), peer.ip().to_string()));
        assert_eq!(cx.send(conn, b"hello"), Ok(5));
    }

    fn readable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        let got = cx.recv(id, &mut [0; 64]).unwrap();
        let _ = self.0.send(Heard::Echo(got));
        cx.close(id);
        cx.connect(None, addr("10.9.0.12:9")).unwrap();
    }

    fn closed(&mut self, _: &mut Cx<'_>, _: SocketId, error: Option<TcpError>) {
        let _ = self.0.send(Heard::Closed(error));
    }
}

#[test]
fn a_service_hears_what_becomes_of_the_race_that_its_connection_is() {
    let Some(lab) = Lab::new("form = \"weak\"\nattempt_delay_ms = 20") else { return };
    lab.dead("10.9.0.2", "10.9.0.11");
    lab.dead("10.9.0.3", "10.9.0.11");
    let (sender, heard) = channel();
    let service = lab.host.run_service(&lab.v, |_| Caller(sender.clone())).unwrap();
    let next = || heard.recv_timeout(PATIENCE).unwrap();
    assert_eq!(next(), Heard::Connected("10.9.0.4".into(), "10.9.0.11".into()));
    assert_eq!(next(), Heard::Echo(5));
    assert_eq!(next(), Heard::Closed(Some(TcpError::Refused)));
    let counters = ["ConnectRaces", "ConnectWonByLater", "ConnectRefused", "ConnectLost"];
    assert_eq!(counters.map(|name| lab.counter(name)), [3, 1, 3, 2]);
    assert!(service.is_running() && heard.try_recv().is_err());
}

#[test]
fn a_request_of_one_datagram_is_repeated_over_pairs_where_it_may_be() {
    let Some(lab) = Lab::new("form = \"full\"\nattempt_delay_ms = 20\nanswer_timeout_ms = 400")
    else {
        return;
    };
    let serve = |at: &'static str| {
        let socket = lab.kernel.netns.enter(|| KernelSocket::bind(at).unwrap()).unwrap();
        std::thread::spawn(move || {
            let mut buf = [0; 64];
            while let Ok((len, from)) = socket.recv_from(&mut buf) {
                let _ = socket.send_to(&buf[..len], from);
            }
        });
    };
    serve("10.9.0.11:5");
    serve("10.9.0.12:5");
    lab.dns(&[("ask.test", &["10.9.0.11", "10.9.0.12"])]);
    for ours in OURS {
        lab.dead(ours, "10.9.0.11");
    }
    let to = addr("10.9.0.11:5");
    let once = UdpAnswer::ask(&lab.v, to, b"ping", UdpRequest::default()).unwrap_err();
    assert_eq!((once.kind(), lab.counter("ConnectAttempts")), (ErrorKind::TimedOut, 1));
    let mut policy = (*lab.v.connect_policy()).clone();
    policy.default.repeat = true;
    lab.v.set_connect_policy(policy);
    let patient = || UdpRequest { timeout: Some(PATIENCE), ..UdpRequest::default() };
    let answer = UdpAnswer::ask(&lab.v, to, b"ping", patient()).unwrap();
    assert_eq!((&answer.payload[..], answer.from), (&b"ping"[..], addr("10.9.0.12:5")));
    let answer = UdpAnswer::ask_name(&lab.v, "ask.test", 5, b"pong", patient());
    assert_eq!(&answer.unwrap().payload[..], b"pong");
    let refused = UdpAnswer::ask(
        &lab.v,
        addr("10.9.0.12:6"),
        b"x",
        UdpRequest { form: Some(Form::Off), ..patient() },
    );
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}
