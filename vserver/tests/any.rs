//! Sockets of a host that serve all its vservers, over hosts joined by memory pairs.
#![allow(missing_docs)]

mod common;

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, addr, connect, echo, nic, start, start_on, until, vs};
use mio::{Interest, Token};
use weft_stack::socket::SocketKind;
use weft_vserver::app::{Cx, Service, SocketId};
use weft_vserver::change::{Changes, Options};
use weft_vserver::net::{
    AnyFamily, AnyListener, AnyOptions, Poller, TcpListener, TcpStream, UdpSocket,
};
use weft_vserver::{Arrival, Host, Vserver};

/// Vservers behind each of two gateways.
const EACH: u32 = 2500;
/// The client's address, the same behind both.
const CLIENT: &str = "192.168.0.9";

/// 5,000 vservers on one link with two routers, and a client behind each.
struct Net {
    server: Host,
    _routers: Host,
    clients: [Host; 2],
}

fn net() -> Net {
    let of = |name: &str, n: u8| {
        format!(
            "[vserver.{name}]\ncount = {EACH}\naddresses = [\"data0 10.{n}.0.1/16\"]\n\
             routes = [{{ to = \"default\", via = \"10.{n}.255.1\" }}]\n"
        )
    };
    let text = format!(
        "{}[alias.data0]\nover = \"eth0\"\n{}{}",
        nic("eth0", 1),
        of("red", 1),
        of("blue", 2)
    );
    let (server, far) = start(&text);
    let mut text = nic("eth0", 2) + &nic("eth1", 3) + &nic("eth2", 4);
    for n in [1, 2] {
        let _ = write!(
            text,
            "[alias.data{n}]\nover = \"eth0\"\nmac = \"02:00:00:00:01:0{n}\"\n\
             [alias.san{n}]\nover = \"eth{n}\"\n\
             [vserver.r{n}]\nforwarding = true\nlimits = {{ neighbours = 8192 }}\n\
             addresses = [\"data{n} 10.{n}.255.1/16\", \"san{n} 192.168.0.1/24\"]\n"
        );
    }
    let mut config = common::config(&text);
    for at in [1, 2] {
        config.nics[at].gro = false;
    }
    let mut given = weft_vserver::Devices::new();
    given.insert(String::from("eth0"), far);
    let routers = Host::start_with_devices(config, given).unwrap_or_else(|e| panic!("{e}"));
    let clients = [1, 2].map(|n: u8| {
        let text = format!(
            "{}[alias.data0]\nover = \"eth0\"\n[vserver.c]\naddresses = [\"data0 {CLIENT}/24\"]\n\
             routes = [{{ to = \"default\", via = \"192.168.0.1\" }}]\n",
            nic("eth0", 5 + n)
        );
        start_on(&text, vec![routers.take_mem_peer(&format!("eth{n}")).expect("a mem NIC")])
    });
    Net { server, _routers: routers, clients }
}

/// The n-th vserver behind router 1 or 2.
fn address(router: u8, n: u32, port: u16) -> SocketAddr {
    let [.., high, low] = (n + 1).to_be_bytes();
    SocketAddr::from(([10, router, high, low], port))
}

#[test]
fn one_listener_serves_5000_vservers_and_answers_leave_by_the_gateway_of_each() {
    let begin = Instant::now();
    let net = net();
    eprintln!("5,000 vservers started in {:?}", begin.elapsed());
    let begin = Instant::now();
    let listener = net.server.listen_any(7, &AnyOptions::default()).unwrap();
    let udp = net.server.bind_any_udp(7, &AnyOptions::default()).unwrap();
    eprintln!("bound for all of them in {:?}", begin.elapsed());
    listener.set_timeout(Some(PATIENCE)).unwrap();
    // Datagrams come when all connections have been made.
    udp.set_timeout(Some(20 * PATIENCE)).unwrap();
    thread::scope(|s| {
        s.spawn(|| {
            for _ in 0..2 * EACH {
                let (mut stream, peer) = listener.accept().unwrap();
                assert_eq!(peer.ip().to_string(), CLIENT);
                let arrival: Arrival = stream.arrival().unwrap();
                assert_eq!(stream.vserver().id(), arrival.vserver);
                let name = net.server.vserver_of(arrival.vserver).unwrap().name().to_owned();
                stream.write_all(format!("{name} {}", arrival.local).as_bytes()).unwrap();
            }
        });
        s.spawn(|| {
            for _ in 0..200 {
                let (datagram, arrival) = udp.recv_datagram().unwrap();
                let name = net.server.vserver_of(arrival.vserver).unwrap().name().to_owned();
                udp.send_to(name.as_bytes(), datagram.from, &arrival).unwrap();
            }
        });
        for (client, router, name) in [(0, 1, "red"), (1, 2, "blue")] {
            let c = vs(&net.clients[client], "c");
            s.spawn(move || {
                for n in 0..EACH {
                    let to = address(router, n, 7);
                    let mut told = String::new();
                    connect(&c, to).read_to_string(&mut told).unwrap();
                    assert_eq!(told, format!("{name}{} {to}", n + 1));
                }
                let socket = UdpSocket::bind(&c, addr("0.0.0.0:5353")).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                for n in 0..100 {
                    let to = address(router, n * 25, 7);
                    socket.send_to(b"who?", to).unwrap();
                    let mut told = [0; 64];
                    let (len, from) = socket.recv_from(&mut told).unwrap();
                    assert_eq!(
                        (&told[..len], from),
                        (format!("{name}{}", n * 25 + 1).as_bytes(), to)
                    );
                }
            });
        }
    });
}

/// Two vservers of one host, `a` at 10.0.0.1 and `b` at 10.0.0.2, and a client at 10.0.0.9.
fn two() -> (Host, Host) {
    let head = |mac| format!("{}[alias.data0]\nover = \"eth0\"\n", nic("eth0", mac));
    let text = head(1)
        + "[vserver.a]\naddresses = [\"data0 10.0.0.1/24\"]\n\
           [vserver.b]\naddresses = [\"data0 10.0.0.2/24\"]\n";
    let (server, far) = start(&text);
    let client = head(2) + "[vserver.c]\naddresses = [\"data0 10.0.0.9/24\"]\n";
    (server, start_on(&client, far))
}

#[test]
fn a_listener_of_the_vserver_itself_comes_first_and_closing_refuses() {
    let (server, client) = two();
    let c = vs(&client, "c");
    let any = server.listen_any(80, &AnyOptions::default()).unwrap();
    any.set_timeout(Some(PATIENCE)).unwrap();
    let taken = server.listen_any(80, &AnyOptions::default()).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    // The vserver is not kept from the port, whether or not somebody has called it.
    let early = connect(&c, addr("10.0.0.1:80"));
    let own = TcpListener::bind(&vs(&server, "a"), addr("0.0.0.0:80")).unwrap();
    let _stream = connect(&c, addr("10.0.0.1:80"));
    own.accept().unwrap();
    let (accepted, peer) = any.accept().unwrap();
    assert_eq!(peer, early.local_addr().unwrap());
    assert_eq!(accepted.vserver().name(), "a");
    drop(any);
    // What was accepted lives on, the port is closed.
    echo_once(&early, &accepted);
    let refused = TcpStream::connect(&c, addr("10.0.0.2:80")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let again = server.listen_any(80, &AnyOptions::default()).unwrap();
    again.set_timeout(Some(PATIENCE)).unwrap();
    let _stream = connect(&c, addr("10.0.0.2:80"));
    assert_eq!(again.accept().unwrap().0.vserver().name(), "b");
}

fn echo_once(mut from: &TcpStream, mut to: &TcpStream) {
    from.write_all(b"x").expect("write");
    to.read_exact(&mut [0]).expect("read");
}

#[test]
fn a_vserver_that_is_called_much_fills_its_own_backlog_only() {
    const BACKLOG: usize = 4;
    let (server, client) = two();
    let c = vs(&client, "c");
    let how = AnyOptions { backlog: BACKLOG, family: AnyFamily::V4, ..AnyOptions::default() };
    let any = server.listen_any(80, &how).unwrap();
    any.set_nonblocking(true).unwrap();
    let poller = Poller::new().unwrap();
    poller.register(&any, Token(7), Interest::READABLE).unwrap();
    let start = |to| TcpStream::start_connect(&c, None, addr(to)).unwrap();
    let flood: Vec<_> = (0..30).map(|_| start("10.0.0.1:80")).collect();
    let mut ready = Vec::new();
    until("a connection to accept", || {
        poller.wait(&mut ready, Some(PATIENCE)).unwrap();
        ready.iter().any(|r| r.token == Token(7))
    });
    let _other = connect(&c, addr("10.0.0.2:80"));
    let mut names = Vec::new();
    until("a connection of b", || {
        while let Ok((stream, _)) = any.accept() {
            names.push(stream.vserver().name().to_owned());
        }
        names.contains(&String::from("b"))
    });
    // In turn: b did not wait for all of a's.
    let b = names.iter().position(|n| n == "b").unwrap();
    assert!(b <= BACKLOG, "{names:?}");
    drop(flood);
}

struct Echo;

impl Service for Echo {
    fn accepted(&mut self, cx: &mut Cx<'_>, conn: SocketId, _: SocketAddr) {
        assert!(cx.listener().is_some());
        let arrival = cx.arrival(conn).expect("it is there");
        assert_eq!(arrival.vserver, cx.vserver());
        // Timers come with the vserver that set them.
        cx.set_timer(std::time::Duration::ZERO, u64::from(cx.vserver().number()));
    }
    fn readable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        if id.kind == SocketKind::Udp {
            while let Ok(d) = cx.udp_recv(id) {
                cx.udp_send(id, &d.payload, Some(d.from)).expect("an answer");
            }
            return;
        }
        while let Ok(mut data) = cx.recv_bytes(id, usize::MAX) {
            if data.is_empty() || cx.send_bytes(id, &mut data).is_err() {
                return cx.close(id);
            }
        }
    }
    fn timer(&mut self, cx: &mut Cx<'_>, token: u64) {
        assert_eq!(token, u64::from(cx.vserver().number()));
    }
}

#[test]
fn a_service_for_any_vserver_answers_in_each_of_them() {
    let (server, client) = two();
    let c: Arc<Vserver> = Arc::new(vs(&client, "c"));
    let service = server.run_service_any((&[7], &[7]), &AnyOptions::default(), |_| Echo).unwrap();
    let socket = UdpSocket::bind(&c, addr("0.0.0.0:0")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut streams = Vec::new();
    for to in ["10.0.0.1:7", "10.0.0.2:7"] {
        let stream = connect(&c, addr(to));
        echo(&stream, b"hello");
        streams.push(stream);
        socket.send_to(b"datagram", addr(to)).unwrap();
        let mut got = [0; 16];
        assert_eq!(socket.recv_from(&mut got).unwrap(), (8, addr(to)));
    }
    assert!(service.is_running());
    drop(service);
    for stream in &streams {
        assert_eq!((&*stream).read(&mut [0]).unwrap(), 0, "its connections end with it");
    }
    let refused = TcpStream::connect(&c, addr("10.0.0.1:7")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

/// `a`, and `guest` if it is there, on so many workers; the client at 10.0.0.9.
fn guests(workers: usize, guest: Option<&str>) -> String {
    let guest = guest.map_or_else(String::new, |name| {
        format!("[vserver.{name}]\naddresses = [\"data0 10.0.0.2/24\", \"data0 fd00::2/64\"]\n")
    });
    format!(
        "[workers]\ncount = {workers}\nframes = 4096\n{}[alias.data0]\nover = \"eth0\"\n\
         [vserver.a]\naddresses = [\"data0 10.0.0.1/24\", \"data0 fd00::1/64\"]\n{guest}",
        nic("eth0", 1)
    )
}

/// Answers every connection with the name of its vserver; accepting never fails.
fn name_everybody(host: &Host, listener: &AnyListener, stop: &AtomicBool) {
    listener.set_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((mut stream, _)) => {
                // It may be gone again.
                let Ok(arrival) = stream.arrival() else { continue };
                let Some(vserver) = host.vserver_of(arrival.vserver) else { continue };
                assert_eq!(
                    (stream.vserver().id(), vserver.id()),
                    (arrival.vserver, arrival.vserver)
                );
                assert_eq!(vserver.name(), stream.vserver().name());
                assert_eq!(arrival.local, stream.local_addr().unwrap_or(arrival.local));
                let _ = stream.write_all(vserver.name().as_bytes());
            }
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock, "{e}"),
        }
    }
}

/// Ends the threads of a test, of one that failed too.
struct Stop<'s>(&'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn vservers_come_and_go_under_a_listener_and_their_names_are_nobody_elses() {
    for workers in [1, 3] {
        let (server, far) = start(&guests(workers, None));
        let server = Arc::new(server);
        let changes = Changes::new(Arc::clone(&server), None, Vec::new(), |_, _| {});
        let text = format!(
            "{}[alias.data0]\nover = \"eth0\"\n[vserver.c]\naddresses = [\"data0 10.0.0.9/24\"]\n",
            nic("eth0", 2)
        );
        let client = start_on(&text, far);
        let c = vs(&client, "c");
        let listener = server.listen_any(80, &AnyOptions::default()).unwrap();
        let udp = server.bind_any_udp(53, &AnyOptions::default()).unwrap();
        udp.set_timeout(Some(Duration::from_millis(20))).unwrap();
        let asks = UdpSocket::bind(&c, addr("0.0.0.0:0")).unwrap();
        asks.set_read_timeout(Some(PATIENCE)).unwrap();
        let (stop, closed) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|s| {
            // Longer than who calls: a connection that nobody accepts any more is not served.
            s.spawn(|| name_everybody(&server, &listener, &closed));
            let closes = Stop(&closed);
            // Whoever calls `a` is served, whatever happens beside it.
            let talk = s.spawn(|| {
                let mut served = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut told = String::new();
                    connect(&c, addr("10.0.0.1:80")).read_to_string(&mut told).unwrap();
                    assert_eq!(told, "a");
                    served += 1;
                }
                served
            });
            // Calls the guest all the time, there or not.
            s.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let wait = Duration::from_millis(20);
                    if let Ok(mut stream) =
                        TcpStream::connect_timeout(&c, addr("10.0.0.2:80"), wait)
                    {
                        let _ = stream.set_read_timeout(Some(wait));
                        let mut told = String::new();
                        let _ = stream.read_to_string(&mut told);
                        assert!(["", "odd", "even"].contains(&&*told), "{told}");
                    }
                }
            });
            let ends = Stop(&stop);
            let mut known = Vec::new();
            for round in 0..30 {
                let name = if round % 2 == 0 { "even" } else { "odd" };
                let with = common::config(&guests(workers, Some(name)));
                changes.apply(with, &Options::default()).unwrap();
                // What was asked of this one is answered by it, and by no later one.
                let end = Instant::now() + PATIENCE;
                let (arrival, from) = loop {
                    assert!(Instant::now() < end, "round {round}: no datagram of '{name}'");
                    let _ = asks.send_to(b"?", addr("10.0.0.2:53"));
                    let Ok((datagram, arrival)) = udp.recv_datagram() else { continue };
                    let found = server.vserver_of(arrival.vserver);
                    if found.is_some_and(|v| v.name() == name) {
                        break (arrival, datagram.from);
                    }
                };
                assert_eq!(arrival.local, addr("10.0.0.2:53"));
                udp.send_to(name.as_bytes(), from, &arrival).unwrap();
                for (old, to) in &known {
                    let e = udp.send_to(b"wrong", *to, old).unwrap_err();
                    assert_eq!(e.kind(), ErrorKind::NotConnected);
                    assert!(server.vserver_of(old.vserver).is_none());
                }
                let mut told = [0; 16];
                let (len, _) = asks.recv_from(&mut told).unwrap();
                assert_eq!(&told[..len], name.as_bytes());
                known.push((arrival, from));
                changes.apply(common::config(&guests(workers, None)), &Options::default()).unwrap();
            }
            drop(ends);
            assert!(talk.join().unwrap() > 0);
            drop(closes);
        });
        let snapshot = server.snapshot();
        assert!(snapshot.problems.is_empty(), "{:?}", snapshot.problems);
    }
}
