//! Built-in services end to end: two hosts joined by a memory pair, clients in one, services in the
//! other, proxied servers in the kernel.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use common::{PATIENCE, addr, connect, echo, nic, pattern, start, start_on, until, vs};
use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
use tempfile::TempDir;
use weft_vserver::net::{TcpStream, UdpSocket};
use weft_vserver::service::Services;
use weft_vserver::stats::ServiceSnapshot;
use weft_vserver::{Host, Vserver};

struct Served {
    // Dropped first: services end before the host does.
    services: Services,
    host: Host,
    client_host: Host,
}

/// `web` at 10.0.0.1 and fd00::1 with `services`, a client at 10.0.0.2 and fd00::2.
fn serve(services: &str) -> Served {
    let one = |name: &str, mac, n: u8| {
        format!(
            "{}[alias.data0]\nover = \"eth0\"\n[vserver.{name}]\n\
             addresses = [\"data0 10.0.0.{n}/24\", \"data0 fd00::{n}/64\"]\n",
            nic("eth0", mac)
        )
    };
    let (host, peers) = start(&(one("web", 1, 1) + services));
    let client_host = start_on(&one("c", 2, 2), peers);
    let services = Services::start(&host).unwrap_or_else(|e| panic!("{e}"));
    Served { services, host, client_host }
}

fn service(kind: &str, port: u16, more: &str) -> String {
    format!("[[vserver.web.service]]\nkind = \"{kind}\"\nport = {port}\n{more}\n")
}

impl Served {
    fn client(&self) -> Vserver {
        vs(&self.client_host, "c")
    }

    fn connect(&self, to: &str) -> TcpStream {
        connect(&self.client(), addr(to))
    }

    /// The first service as a snapshot has it.
    fn snapshot(&self) -> ServiceSnapshot {
        let mut s = self.host.snapshot();
        self.services.fill(&mut s);
        s.vservers[0].services[0].clone()
    }

    fn count(&self, counter: &str) -> u64 {
        self.snapshot().counters[counter]
    }
}

fn read_all(mut stream: &TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

#[test]
fn echo_returns_everything_and_closes_after_the_client() {
    let s = serve(&service("echo", 7, ""));
    let data = pattern(3_000_000);
    let stream = s.connect("10.0.0.1:7");
    echo(&stream, &data);
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(read_all(&stream).is_empty());
    until("closed connection", || s.snapshot().connections == 0);
    assert_eq!((s.count("Accepted"), s.count("Failed")), (1, 0));
    assert_eq!((s.count("InBytes"), s.count("OutBytes")), (3_000_000, 3_000_000));
}

#[test]
fn echo_does_not_read_what_it_cannot_send() {
    let s = serve(&service("echo", 7, ""));
    let stream = s.connect("10.0.0.1:7");
    stream.set_nonblocking(true).unwrap();
    let data = pattern(64 << 10);
    let mut sent = 0_u64;
    // Never reads: buffers on both sides fill, and then nothing moves.
    let (mut before, mut quiet) = (0, 0);
    until("full buffers", || match (&stream).write(&data) {
        Ok(n) => {
            sent += n as u64;
            assert!(sent < 64 << 20, "the service takes without end");
            quiet = 0;
            false
        }
        Err(e) => {
            assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
            let now = s.count("InBytes");
            quiet = if std::mem::replace(&mut before, now) == now { quiet + 1 } else { 0 };
            quiet > 1000
        }
    });
    stream.set_nonblocking(false).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut left = sent;
    let mut buf = vec![0; 1 << 16];
    while left > 0 {
        let n = (&stream).read(&mut buf).unwrap() as u64;
        assert!(n > 0, "{left} of {sent} bytes missing");
        left -= n;
    }
}

#[test]
fn echo_answers_datagrams_from_the_address_that_was_asked() {
    let s = serve(&service("echo", 7, ""));
    let client = UdpSocket::bind(&s.client(), addr("[::]:5000")).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buf = [0; 100];
    client.send_to(b"four", addr("10.0.0.1:7")).unwrap();
    let (n, from) = client.recv_from(&mut buf).unwrap();
    assert_eq!((&buf[..n], from), (&b"four"[..], addr("10.0.0.1:7")));
    // The address is listened on once duplicate address detection is over.
    until("answer over IPv6", || {
        client.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
        let _ = client.send_to(b"six", addr("[fd00::1]:7"));
        client.recv_from(&mut buf).is_ok_and(|(n, from)| {
            assert_eq!((&buf[..n], from), (&b"six"[..], addr("[fd00::1]:7")));
            true
        })
    });
    // Two echo services must not talk to each other for ever.
    let other = UdpSocket::bind(&s.client(), addr("[::]:7")).unwrap();
    other.send_to(b"loop", addr("10.0.0.1:7")).unwrap();
    until("refused loop", || s.count("DroppedDatagrams") == 1);
}

#[test]
fn discard_takes_everything() {
    let s = serve(&service("discard", 9, ""));
    let stream = s.connect("10.0.0.1:9");
    (&stream).write_all(&pattern(5_000_000)).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(read_all(&stream).is_empty());
    assert_eq!((s.count("InBytes"), s.count("OutBytes")), (5_000_000, 0));
    let client = UdpSocket::bind(&s.client(), addr("[::]:5000")).unwrap();
    client.send_to(b"gone", addr("10.0.0.1:9")).unwrap();
    until("datagram", || s.count("InDatagrams") == 1);
    assert_eq!(s.count("OutDatagrams"), 0);
}

#[test]
fn chargen_sends_until_the_client_has_enough() {
    let s = serve(&service("chargen", 19, ""));
    let stream = s.connect("10.0.0.1:19");
    let mut got = vec![0; 4_000_000];
    (&stream).read_exact(&mut got).unwrap();
    assert!(got.chunks_exact(74).all(|l| l.ends_with(b"\r\n")));
    assert_eq!(&got[..10], b" !\"#$%&'()");
    stream.abort();
    until("closed connection", || s.snapshot().connections == 0);
}

/// A directory with some files, and its http service.
fn site() -> (TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("large"), pattern(8_000_000)).unwrap();
    for i in 0..50 {
        std::fs::write(directory.path().join(format!("{i}.txt")), format!("file {i}")).unwrap();
    }
    std::fs::create_dir(directory.path().join("in")).unwrap();
    let root = directory.path().display();
    let text = service("http", 80, &format!("root = \"{root}\"\nupload = \"{root}/in\""));
    (directory, text)
}

/// One request on an open connection: status and body.
fn ask(stream: &TcpStream, request: &str) -> (u16, Vec<u8>) {
    (&mut &*stream).write_all(format!("{request}\r\nHost: h\r\n\r\n").as_bytes()).unwrap();
    answer(&mut BufReader::new(stream))
}

fn answer(from: &mut BufReader<&TcpStream>) -> (u16, Vec<u8>) {
    let mut status = String::new();
    from.read_line(&mut status).unwrap();
    let mut len = 0;
    loop {
        let mut line = String::new();
        from.read_line(&mut line).unwrap();
        if let Some(n) = line.strip_prefix("Content-Length: ") {
            len = n.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
        assert!(!line.is_empty(), "the answer breaks off");
    }
    let mut body = vec![0; len];
    from.read_exact(&mut body).unwrap();
    (status.split(' ').nth(1).unwrap().parse().unwrap(), body)
}

#[test]
fn http_serves_many_files_on_one_connection_and_on_many() {
    let (_directory, text) = site();
    let s = serve(&text);
    let stream = s.connect("10.0.0.1:80");
    for i in 0..50 {
        let (status, body) = ask(&stream, &format!("GET /{i}.txt HTTP/1.1"));
        assert_eq!((status, body), (200, format!("file {i}").into_bytes()));
    }
    for i in 0..50 {
        let one = s.connect("10.0.0.1:80");
        let (status, body) = ask(&one, &format!("GET /{i}.txt HTTP/1.1\r\nConnection: close"));
        assert_eq!((status, body), (200, format!("file {i}").into_bytes()));
        assert!(read_all(&one).is_empty());
    }
    assert_eq!(ask(&stream, "GET /none HTTP/1.1").0, 404);
    assert_eq!((s.count("Requests"), s.count("ErrorResponses")), (101, 1));
    drop(stream);
    until("closed connections", || s.snapshot().connections == 0);
}

#[test]
fn http_pipelines_large_files() {
    let (_directory, text) = site();
    let s = serve(&text);
    let stream = s.connect("10.0.0.1:80");
    let request = "GET /large HTTP/1.1\r\nHost: h\r\n\r\n";
    (&stream).write_all(request.repeat(3).as_bytes()).unwrap();
    let mut from = BufReader::new(&stream);
    for _ in 0..3 {
        let (status, body) = answer(&mut from);
        assert!(status == 200 && body == pattern(8_000_000));
    }
}

#[test]
fn http_takes_uploads() {
    let (directory, text) = site();
    let s = serve(&text);
    let stream = s.connect("10.0.0.1:80");
    let data = pattern(5_000_000);
    let head = format!("PUT /new HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", data.len());
    (&stream).write_all(head.as_bytes()).unwrap();
    (&stream).write_all(&data).unwrap();
    assert_eq!(answer(&mut BufReader::new(&stream)).0, 201);
    assert!(std::fs::read(directory.path().join("in/new")).unwrap() == data);
    // One that breaks off leaves nothing.
    (&stream).write_all(head.replace("new", "half").as_bytes()).unwrap();
    (&stream).write_all(&data[..1_000_000]).unwrap();
    until("a file in the making", || parts(directory.path()) == 1);
    stream.abort();
    until("its removal", || parts(directory.path()) == 0);
    assert!(!directory.path().join("in/half").exists());
}

fn parts(directory: &Path) -> usize {
    let hidden = |e: io::Result<std::fs::DirEntry>| {
        e.is_ok_and(|e| e.file_name().to_string_lossy().starts_with('.'))
    };
    std::fs::read_dir(directory.join("in")).unwrap().filter_map(|e| hidden(e).then_some(())).count()
}

/// A kernel server on loopback that handles each connection with `f`.
fn kernel_server(f: impl Fn(std::net::TcpStream) + Send + Sync + Clone + 'static) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let f = f.clone();
            thread::spawn(move || f(stream));
        }
    });
    at
}

#[test]
fn proxy_forwards_both_ways_with_half_close() {
    // Answers only when the client has said everything.
    let at = kernel_server(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all.reverse();
        stream.write_all(&all).unwrap();
    });
    let s = serve(&service("proxy", 8080, &format!("to = \"{at}\"")));
    let stream = s.connect("10.0.0.1:8080");
    let mut data = pattern(4_000_000);
    (&stream).write_all(&data).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    data.reverse();
    assert!(read_all(&stream) == data);
    until("closed connection", || s.snapshot().connections == 0);
    assert_eq!((s.count("InBytes"), s.count("OutBytes")), (4_000_000, 4_000_000));
    assert_eq!(s.count("Failed"), 0);
}

#[test]
fn proxy_serves_many_connections_to_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("echo.sock");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || io::copy(&mut &stream, &mut &stream).is_ok());
        }
    });
    let s = serve(&service("proxy", 8080, &format!("to = \"unix:{}\"", path.display())));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| echo(&s.connect("10.0.0.1:8080"), &pattern(300_000)));
        }
    });
    until("closed connections", || s.snapshot().connections == 0);
    assert_eq!((s.count("Accepted"), s.count("InBytes")), (8, 8 * 300_000));
}

#[test]
fn proxy_resets_when_nobody_listens_and_when_the_server_does() {
    // A port where nobody listens, and which nobody else is given.
    let held = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&held, &addr("127.0.0.1:0")).unwrap();
    let free = SocketAddr::try_from(getsockname(&held).unwrap()).unwrap();
    let s = serve(&service("proxy", 8080, &format!("to = \"{free}\"")));
    let stream = s.connect("10.0.0.1:8080");
    let e = (&stream).read(&mut [0; 10]).unwrap_err();
    assert_eq!(e.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(s.count("ConnectFailed"), 1);

    let at = kernel_server(|stream| {
        let mut stream = stream;
        // Closing with unread bytes is a reset (RFC 2525 2.17).
        stream.peek(&mut [0; 1]).unwrap();
        stream.write_all(b"x").unwrap();
    });
    let s = serve(&service("proxy", 8080, &format!("to = \"{at}\"")));
    let stream = s.connect("10.0.0.1:8080");
    (&stream).write_all(b"hello").unwrap();
    let mut all = Vec::new();
    let e = (&stream).read_to_end(&mut all).unwrap_err();
    assert_eq!(e.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn connections_beyond_the_limit_wait_for_their_turn() {
    let s = serve(&service("echo", 7, "connections = 2"));
    let first = s.connect("10.0.0.1:7");
    let second = s.connect("10.0.0.1:7");
    echo(&first, b"one");
    echo(&second, b"two");
    let third = s.connect("10.0.0.1:7");
    (&third).write_all(b"three").unwrap();
    until("pause", || s.count("AcceptPaused") == 1);
    assert_eq!(s.snapshot().connections, 2);
    drop(first);
    let mut got = [0; 5];
    (&third).read_exact(&mut got).unwrap();
    assert_eq!(&got, b"three");
}

#[test]
fn idle_connections_are_closed() {
    let s = serve(&service("echo", 7, "idle_s = 1"));
    let stream = s.connect("10.0.0.1:7");
    echo(&stream, b"hello");
    assert!(read_all(&stream).is_empty());
    assert_eq!(s.count("Timeouts"), 1);
    until("closed connection", || s.snapshot().connections == 0);
}

#[test]
fn a_service_on_an_address_in_doubt_starts_when_it_is_sure() {
    let s = serve(&service("echo", 7, "address = \"fd00::1\""));
    until("listening service", || s.snapshot().listening);
    let mut stream = None;
    until("connection over IPv6", || {
        stream = TcpStream::connect_timeout(&s.client(), addr("[fd00::1]:7"), PATIENCE).ok();
        stream.is_some()
    });
    echo(&stream.unwrap(), b"hello");
}

#[test]
fn services_end_when_told_to() {
    let s = serve(&service("echo", 7, ""));
    let stream = s.connect("10.0.0.1:7");
    echo(&stream, b"hello");
    s.services.stop();
    s.services.stop();
    // The connection is gone, by FIN or by reset.
    let mut all = Vec::new();
    let _ = (&stream).read_to_end(&mut all);
    assert!(all.is_empty());
    assert!(TcpStream::connect(&s.client(), addr("10.0.0.1:7")).is_err());
}

#[test]
fn one_service_answers_for_every_vserver_and_for_those_that_come_later() {
    let text = |more: &str| {
        format!(
            "{}[alias.data0]\nover = \"eth0\"\n[group.gold]\n[group.inner]\nparent = \"gold\"\n\
             [[service]]\nkind = \"echo\"\nport = 7\n\
             [[service]]\nkind = \"chargen\"\nport = 7\ngroup = \"gold\"\n\
             [vserver.web]\ncount = 50\naddresses = [\"data0 10.0.0.1/16\", \"data0 fd00::1/64\"]\n\
             [vserver.own]\naddresses = [\"data0 10.0.1.1/16\"]\n\
             service = [{{ kind = \"discard\", port = 7 }}]\n\
             [vserver.in]\ngroup = \"inner\"\naddresses = [\"data0 10.0.1.2/16\"]\n{more}",
            nic("eth0", 1)
        )
    };
    let (host, peers) = start(&text(""));
    let one = "[alias.data0]\nover = \"eth0\"\n[vserver.c]\naddresses = [\"data0 10.0.9.2/16\", \"data0 fd00::9:2/64\"]\n";
    let client_host = start_on(&(nic("eth0", 2) + one), peers);
    let client = vs(&client_host, "c");
    let host = std::sync::Arc::new(host);
    let services = std::sync::Arc::new(Services::start(&host).unwrap());
    for n in [1, 2, 50] {
        echo(&connect(&client, addr(&format!("10.0.0.{n}:7"))), b"who is it");
    }
    until("IPv6 is there", || {
        host.snapshot().vservers[0]
            .addresses
            .iter()
            .any(|a| a.contains("fd00::") && !a.contains("tentative"))
            && client_host.snapshot().vservers[0]
                .addresses
                .iter()
                .any(|a| a.contains("fd00::") && !a.contains("tentative"))
    });
    echo(&connect(&client, addr("[fd00::1]:7")), b"by IPv6");
    let socket = UdpSocket::bind(&client, addr("0.0.0.0:0")).unwrap();
    socket.send_to(b"datagram", addr("10.0.0.3:7")).unwrap();
    assert_eq!(socket.recv_from(&mut [0; 16]).unwrap(), (8, addr("10.0.0.3:7")));
    // Its own comes first, its group's before the host's.
    let discard = connect(&client, addr("10.0.1.1:7"));
    (&discard).write_all(b"x").unwrap();
    discard.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&discard), b"");
    let mut first = [0; 3];
    (&connect(&client, addr("10.0.1.2:7"))).read_exact(&mut first).unwrap();
    assert_eq!(&first, b" !\"");

    let changes = weft_vserver::change::Changes::new(
        std::sync::Arc::clone(&host),
        Some(std::sync::Arc::clone(&services)),
        Vec::new(),
        |_, _| {},
    );
    let apply = |text: &str| {
        changes
            .apply(common::config(text), &weft_vserver::change::Options::default())
            .unwrap_or_else(|e| panic!("{e}"))
    };
    let kept = connect(&client, addr("10.0.0.1:7"));
    apply(&text("[vserver.late]\naddresses = [\"data0 10.0.2.1/16\"]\n"));
    echo(&connect(&client, addr("10.0.2.1:7")), b"added live");
    echo(&kept, b"still there");
    // A vserver that goes takes its connections with it; they count no more.
    let gone = connect(&client, addr("10.0.2.1:7"));
    echo(&gone, b"soon gone");
    apply(&text(""));
    drop((gone, kept));
    let snapshot = || {
        let mut s = host.snapshot();
        services.fill(&mut s);
        s.services
    };
    until("no connection is counted", || snapshot().iter().all(|s| s.connections == 0));
    assert_eq!(snapshot()[0].listen, "every vserver, [::]:7");
    assert_eq!(snapshot()[1].listen, "every vserver of group gold, [::]:7");
    // The host's service goes, the group's becomes another.
    let other = text("").replacen("[[service]]\nkind = \"echo\"\nport = 7\n", "", 1);
    apply(&other.replace("kind = \"chargen\"", "kind = \"echo\""));
    let refused = TcpStream::connect(&client, addr("10.0.0.1:7")).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    echo(&connect(&client, addr("10.0.1.2:7")), b"another");
}

#[test]
fn one_http_service_answers_for_every_vserver_of_the_host() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("x"), "contents").unwrap();
    let text = format!(
        "{}[alias.data0]\nover = \"eth0\"\n[[service]]\nkind = \"http\"\nport = 80\nroot = \"{}\"\n\
         [vserver.web]\ncount = 20\naddresses = [\"data0 10.0.0.1/16\"]\n",
        nic("eth0", 1),
        directory.path().display()
    );
    let (host, peers) = start(&text);
    let one = "[alias.data0]\nover = \"eth0\"\n[vserver.c]\naddresses = [\"data0 10.0.9.2/16\"]\n";
    let client_host = start_on(&(nic("eth0", 2) + one), peers);
    let services = Services::start(&host).unwrap();
    for n in [1, 20] {
        let stream = connect(&vs(&client_host, "c"), addr(&format!("10.0.0.{n}:80")));
        (&stream).write_all(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        assert!(read_all(&stream).ends_with(b"contents"));
    }
    drop(services);
}
