//! Services that run on the worker, over two hosts joined by a memory pair.
#![allow(missing_docs)]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use bytes::Bytes;
use common::{PATIENCE, addr, connect, echo, echo_server, pair, pattern, until, vs};
use hashbrown::HashMap;
use weft_vserver::Vserver;
use weft_vserver::app::{Cx, Service, SocketId, TcpError};
use weft_vserver::net::{TcpListener, TcpStream, UdpSocket};

/// Sends back what it gets, with what the peer's window does not take yet in its own hands.
#[derive(Default)]
struct Echo {
    left: HashMap<SocketId, Bytes>,
}

impl Echo {
    fn pump(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        let mut data = self.left.remove(&id).unwrap_or_default();
        loop {
            if data.is_empty() {
                match cx.recv_bytes(id, usize::MAX) {
                    Ok(got) if got.is_empty() => return cx.close(id),
                    Ok(got) => data = got,
                    Err(_) => return,
                }
            }
            let _ = cx.send_bytes(id, &mut data);
            if !data.is_empty() {
                self.left.insert(id, data);
                return;
            }
        }
    }
}

impl Service for Echo {
    fn start(&mut self, cx: &mut Cx<'_>) {
        cx.listen(addr("10.0.0.1:7"), 1024).expect("listen");
        cx.udp_bind(addr("10.0.0.1:7")).expect("bind");
    }
    fn readable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        if id.kind != weft_stack::socket::SocketKind::Udp {
            return self.pump(cx, id);
        }
        while let Ok(datagram) = cx.udp_recv(id) {
            cx.udp_send(id, &datagram.payload, Some(datagram.from)).expect("a reply");
        }
    }
    fn writable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        self.pump(cx, id);
    }
    fn closed(&mut self, _: &mut Cx<'_>, id: SocketId, _: Option<TcpError>) {
        self.left.remove(&id);
    }
}

#[test]
fn a_service_echoes_streams_of_any_length_and_datagrams() {
    let (server, client) = pair();
    let _service = server.run_service(&vs(&server, "web"), |_| Echo::default()).unwrap();
    let c = vs(&client, "c");
    let streams: Vec<TcpStream> = (0..20).map(|_| connect(&c, addr("10.0.0.1:7"))).collect();
    for stream in &streams {
        echo(stream, b"x");
    }
    echo(&streams[0], &pattern(5_000_000));
    streams[1].shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!((&streams[1]).read(&mut [0; 1]).unwrap(), 0, "the echo ends after our end");

    let udp = UdpSocket::bind(&c, addr("10.0.0.2:0")).unwrap();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    for n in 1..50_u8 {
        udp.send_to(&vec![n; usize::from(n)], addr("10.0.0.1:7")).unwrap();
        let (len, from) = udp.recv_from(&mut [0; 100]).unwrap();
        assert_eq!((len, from), (usize::from(n), addr("10.0.0.1:7")));
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Started(usize),
    Connected,
    Closed(Option<TcpError>),
    Timer(u64),
    Text(Vec<u8>),
}

/// Connects, greets, and tells what happens.
struct Client {
    to: SocketAddr,
    seen: Sender<Seen>,
}

impl Service for Client {
    fn start(&mut self, cx: &mut Cx<'_>) {
        self.seen.send(Seen::Started(cx.worker())).expect("told");
        cx.connect(None, self.to).expect("connect");
        cx.set_timer(Duration::from_millis(3), 3);
        cx.set_timer(Duration::from_millis(1), 1);
        cx.set_timer(Duration::from_millis(1), 2);
    }
    fn connected(&mut self, cx: &mut Cx<'_>, conn: SocketId) {
        self.seen.send(Seen::Connected).expect("told");
        assert_eq!(cx.send(conn, b"hello"), Ok(5));
    }
    fn readable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        let mut buf = [0; 64];
        while let Ok(n @ 1..) = cx.recv(id, &mut buf) {
            self.seen.send(Seen::Text(buf[..n].to_vec())).expect("told");
        }
    }
    fn closed(&mut self, _: &mut Cx<'_>, _: SocketId, error: Option<TcpError>) {
        self.seen.send(Seen::Closed(error)).expect("told");
    }
    fn timer(&mut self, _: &mut Cx<'_>, token: u64) {
        self.seen.send(Seen::Timer(token)).expect("told");
    }
}

/// Sets timers until one is refused, tells how many it got, and how many came.
struct Eager {
    told: Sender<usize>,
    came: usize,
}

impl Service for Eager {
    fn start(&mut self, cx: &mut Cx<'_>) {
        let got = (0..1_000_000).take_while(|n| cx.set_timer(Duration::ZERO, *n)).count();
        self.told.send(got).expect("the test listens");
    }
    fn timer(&mut self, cx: &mut Cx<'_>, _: u64) {
        self.came += 1;
        // One that came makes room for another.
        if self.came <= 2 {
            assert!(cx.set_timer(Duration::ZERO, 0));
        }
        let _ = self.told.send(self.came);
    }
}

#[test]
fn a_service_has_no_more_timers_than_its_vserver_allows() {
    let (server, _client) = pair();
    let (told, tells) = channel();
    let eager = |_| Eager { told: told.clone(), came: 0 };
    let handle = server.run_service(&vs(&server, "web"), eager).expect("it runs");
    assert_eq!(tells.recv_timeout(PATIENCE), Ok(65_536));
    let snapshot = server.snapshot();
    assert_eq!(snapshot.vservers[0].counters["FrameServiceTimersRefused"], 1);
    while tells.recv_timeout(PATIENCE).expect("all come") < 65_538 {}
    assert!(handle.is_running());
}

#[test]
fn a_service_connects_and_is_told_how_it_ends() {
    let (server, client) = pair();
    let listener = TcpListener::bind(&vs(&server, "web"), addr("10.0.0.1:80")).unwrap();
    let c = vs(&client, "c");
    let (seen, told) = channel();
    let service =
        client.run_service(&c, |_| Client { to: addr("10.0.0.1:80"), seen: seen.clone() }).unwrap();
    assert_eq!(told.recv_timeout(PATIENCE), Ok(Seen::Started(0)), "before run_service returned");
    let (mut stream, _) = listener.accept().unwrap();
    let mut hello = [0; 5];
    stream.read_exact(&mut hello).unwrap();
    stream.write_all(b"well").unwrap();
    let mut seen_all = Vec::new();
    while !seen_all.contains(&Seen::Timer(3)) || !seen_all.contains(&Seen::Text(b"well".to_vec())) {
        seen_all.push(told.recv_timeout(PATIENCE).unwrap());
    }
    let timers = seen_all.iter().filter(|s| matches!(s, Seen::Timer(_)));
    assert!(timers.eq([&Seen::Timer(1), &Seen::Timer(2), &Seen::Timer(3)]), "in order");
    stream.abort();
    assert_eq!(told.recv_timeout(PATIENCE), Ok(Seen::Closed(Some(TcpError::Reset))));

    service.trigger(77).unwrap();
    assert_eq!(told.try_recv(), Ok(Seen::Timer(77)), "before trigger returned");
    drop((service, seen));
    until("end of the service", || {
        told.try_recv() == Err(std::sync::mpsc::TryRecvError::Disconnected)
    });

    let (seen, told) = channel();
    let _refused =
        client.run_service(&c, |_| Client { to: addr("10.0.0.1:81"), seen: seen.clone() }).unwrap();
    let closed = told.iter().find(|s| matches!(s, Seen::Closed(_)));
    assert_eq!(closed, Some(Seen::Closed(Some(TcpError::Refused))));
}

/// Panics on its first data, and holds what it must not use.
struct Bad {
    vserver: Vserver,
    kinds: Sender<ErrorKind>,
}

impl Service for Bad {
    fn start(&mut self, cx: &mut Cx<'_>) {
        cx.listen(addr("10.0.0.1:13"), 16).expect("listen");
        let blocking = TcpListener::bind(&self.vserver, addr("10.0.0.1:14"));
        self.kinds.send(blocking.expect_err("a deadlock").kind()).expect("told");
    }
    fn readable(&mut self, _: &mut Cx<'_>, _: SocketId) {
        panic!("on purpose");
    }
}

#[test]
fn a_service_that_panics_ends_alone() {
    let (server, client) = pair();
    let (web, c) = (vs(&server, "web"), vs(&client, "c"));
    let (kinds, told) = channel();
    let bad =
        server.run_service(&web, |_| Bad { vserver: web.clone(), kinds: kinds.clone() }).unwrap();
    assert_eq!(told.recv(), Ok(ErrorKind::Deadlock), "a blocking call in a callback is refused");
    let good = server.run_service(&web, |_| Echo::default()).unwrap();
    let thread = echo_server(&web, addr("10.0.0.1:77"));
    let (idle, mut first) = (connect(&c, addr("10.0.0.1:13")), connect(&c, addr("10.0.0.1:13")));
    let fine = connect(&c, addr("10.0.0.1:7"));
    let handle = connect(&c, addr("10.0.0.1:77"));
    first.write_all(b"x").unwrap();
    assert_eq!(first.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!((&idle).read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(!bad.is_running() && good.is_running() && server.is_running());
    echo(&fine, b"still there");
    echo(&handle, b"and so are the sockets of threads");
    until("closed listener", || TcpStream::connect(&c, addr("10.0.0.1:13")).is_err());
    let problems = server.snapshot().problems;
    assert!(
        problems.iter().any(|p| p.contains("vserver web panicked (on purpose)")),
        "{problems:?}"
    );
    server.stop();
    assert!(!good.is_running());
    assert_eq!(good.trigger(1).unwrap_err().kind(), ErrorKind::NotConnected);
    thread.join().unwrap();
}

/// Knows its host, which has it.
struct Knowing(#[expect(dead_code)] Vserver, #[expect(dead_code)] std::sync::Arc<()>);

impl Service for Knowing {}

#[test]
fn a_host_that_stops_lets_go_of_services_that_know_it() {
    let (server, _client) = pair();
    let (web, there) = (vs(&server, "web"), std::sync::Arc::new(()));
    let service = server.run_service(&web, |_| Knowing(web.clone(), there.clone())).unwrap();
    assert_eq!(std::sync::Arc::strong_count(&there), 2);
    server.stop();
    assert_eq!(std::sync::Arc::strong_count(&there), 1);
    assert!(!service.is_running());
}

/// Has handles that threads use.
struct Holder {
    /// Dropped in a callback.
    first: Option<TcpStream>,
    /// Dropped with it.
    _rest: (TcpStream, TcpListener, UdpSocket, weft_vserver::app::ServiceHandle),
}

impl Service for Holder {
    fn timer(&mut self, _: &mut Cx<'_>, _: u64) {
        self.first = None;
    }
}

#[test]
fn handles_that_a_service_drops_in_a_callback_or_with_itself_are_closed() {
    let (server, client) = pair();
    let (web, c) = (vs(&server, "web"), vs(&client, "c"));
    let listener = TcpListener::bind(&web, addr("10.0.0.1:77")).unwrap();
    let mut ends: Vec<TcpStream> = (0..2).map(|_| connect(&c, addr("10.0.0.1:77"))).collect();
    let [first, second] = [(); 2].map(|()| listener.accept().unwrap().0);
    let udp = UdpSocket::bind(&web, addr("10.0.0.1:78")).unwrap();
    let other = server.run_service(&web, |_| Echo::default()).unwrap();
    let mut holder = Some(Holder { first: Some(first), _rest: (second, listener, udp, other) });
    let service = server.run_service(&web, |_| holder.take().expect("one worker")).unwrap();
    service.trigger(0).unwrap();
    assert_eq!(ends[0].read(&mut [0; 1]).unwrap(), 0, "what it dropped is closed");
    ends[1].set_nonblocking(true).unwrap();
    assert_eq!(ends[1].read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
    ends[1].set_nonblocking(false).unwrap();
    drop(service);
    assert_eq!(ends[1].read(&mut [0; 1]).unwrap(), 0, "so is what went with it");
    for port in [7, 77] {
        let free = || TcpListener::bind(&web, format!("10.0.0.1:{port}").parse().unwrap()).is_ok();
        until("free port", free);
    }
    until("free UDP port", || UdpSocket::bind(&web, addr("10.0.0.1:78")).is_ok());
}

#[test]
fn a_service_ends_with_its_handle_and_its_port_is_free_again() {
    let (server, client) = pair();
    let (web, c) = (vs(&server, "web"), vs(&client, "c"));
    for _ in 0..3 {
        let service = server.run_service(&web, |_| Echo::default()).unwrap();
        let stream = connect(&c, addr("10.0.0.1:7"));
        echo(&stream, b"x");
        drop(service);
        assert_eq!((&stream).read(&mut [0; 1]).unwrap(), 0, "closed in an orderly way");
        until("free port", || TcpListener::bind(&web, addr("10.0.0.1:7")).is_ok());
        until("free UDP port", || UdpSocket::bind(&web, addr("10.0.0.1:7")).is_ok());
    }
    let foreign = client.run_service(&web, |_| Echo::default());
    assert_eq!(foreign.unwrap_err().kind(), ErrorKind::InvalidInput);
}
