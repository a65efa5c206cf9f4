//! Several workers: every flow has one owner, wherever its frames arrive.
#![allow(missing_docs)]

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use weft_drivers::device::AnyDevice;
use weft_stack::shard::{flow_owner, port_owner};
use weft_vserver::app::{Cx, Service, SocketId};
use weft_vserver::net::{Family, IcmpSocket, Poller, RawSocket, TcpListener, TcpStream, UdpSocket};
use weft_vserver::service::Services;
use weft_vserver::stats::HostSnapshot;
use weft_vserver::{Devices, Host};

mod common;

use common::{PATIENCE, addr, config, connect, echo, echo_server, pattern, until, vs};

/// A host with `workers` workers and a NIC of `queues` queues, `name` at 10.0.0.n and fd00::n.
fn text(name: &str, n: u8, workers: usize, queues: usize) -> String {
    format!(
        "[workers]\ncount = {workers}\nframes = 4096\n\
         [nic.eth0]\ndevice = \"mem\"\ndriver = \"mem\"\nqueues = {queues}\nmac = \"02:00:00:00:00:{n:02x}\"\n\
         [alias.data0]\nover = \"eth0\"\n\
         [vserver.{name}]\naddresses = [\"data0 10.0.0.{n}/24\", \"data0 fd00::{n}/64\"]\n"
    )
}

fn on(text: &str, devices: Vec<AnyDevice>) -> Host {
    let devices = Devices::from([("eth0".to_owned(), devices)]);
    Host::start_with_devices(config(text), devices).unwrap_or_else(|e| panic!("{e}"))
}

/// `web` with `workers` workers, and `c` with `far_workers`, over `queues` queues.
fn hosts(workers: usize, far_workers: usize, queues: usize) -> (Host, Host) {
    let started = Host::start(config(&text("web", 1, workers, queues)));
    let server = started.unwrap_or_else(|e| panic!("{e}"));
    let far = server.take_mem_peers("eth0").expect("a mem NIC");
    (server, on(&text("c", 2, far_workers, queues), far))
}

/// Every frame of a NIC, every copy and every packet handed on has one fate, and none was lost
/// unseen.
fn check_fates(snapshot: &HostSnapshot) {
    let sum = |v: &str| -> u64 { snapshot.vservers.iter().map(|s| s.counters[v]).sum() };
    let fates = sum("FrameInDelivered")
        + sum("FrameInForwarded")
        + sum("FrameInConsumed")
        + sum("FrameInDropped");
    assert_eq!(sum("FrameInFrames"), fates);
}

fn wait_until_empty(host: &Host, name: &str) {
    until("end of all connections", || {
        let snapshot = host.snapshot();
        let vserver = snapshot.vservers.iter().find(|v| v.name == name).expect("it is there");
        vserver.tcp_connections == 0 && vserver.udp_sockets == 0
    });
}

fn handed(host: &Host, what: &str) -> u64 {
    host.snapshot().hand_over[what]
}

#[test]
fn every_byte_arrives_whichever_worker_and_queue() {
    for (workers, far, queues) in [(2, 1, 1), (2, 2, 2), (4, 1, 2), (4, 3, 4), (1, 4, 1)] {
        let (server, client) = hosts(workers, far, queues);
        let at = addr("10.0.0.1:7");
        let _echo = echo_server(&vs(&server, "web"), at);
        let c = vs(&client, "c");
        let bytes = pattern(300_000);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..4 {
                        echo(&connect(&c, at), &bytes);
                    }
                });
            }
        });
        for host in [&server, &client] {
            let snapshot = host.snapshot();
            check_fates(&snapshot);
            assert!(snapshot.problems.is_empty(), "{:?}", snapshot.problems);
        }
        client.stop();
        server.stop();
    }
}

#[test]
fn over_ipv6_too() {
    let (server, client) = hosts(3, 2, 2);
    let at = addr("[fd00::1]:7");
    let ready = |host: &Host, name: &str| vs(host, name).addresses().len() >= 3;
    until("addresses on every worker", || ready(&server, "web") && ready(&client, "c"));
    let _echo = echo_server(&vs(&server, "web"), at);
    for _ in 0..12 {
        echo(&connect(&vs(&client, "c"), at), &pattern(20_000));
    }
    check_fates(&server.snapshot());
}

#[test]
fn a_blocked_accept_gets_connections_of_all_shards_and_they_spread() {
    const CONNECTIONS: usize = 400;
    let (server, client) = hosts(4, 1, 1);
    let listener = TcpListener::bind(&vs(&server, "web"), addr("0.0.0.0:80")).unwrap();
    let c = vs(&client, "c");
    let (streams, accepted) = std::thread::scope(|scope| {
        let accept = || (0..CONNECTIONS).map(|_| listener.accept().unwrap()).collect::<Vec<_>>();
        let accepting = scope.spawn(accept);
        let connected = (0..CONNECTIONS).map(|_| connect(&c, addr("10.0.0.1:80")));
        let streams: Vec<_> = connected.collect();
        (streams, accepting.join().unwrap())
    });
    let mut per_worker = [0; 4];
    for (stream, peer) in &accepted {
        per_worker[usize::from(flow_owner(stream.local_addr().unwrap(), *peer, 4))] += 1;
    }
    assert!(per_worker.iter().all(|n| *n > CONNECTIONS / 8), "{per_worker:?}");
    let peers: HashSet<SocketAddr> = accepted.iter().map(|a| a.1).collect();
    assert!(streams.iter().all(|s| peers.contains(&s.local_addr().unwrap())));
    let listed = server.sockets("web").unwrap();
    assert_eq!(listed.iter().filter(|l| l.state == "LISTEN").count(), 1);
    assert_eq!(listed.iter().filter(|l| l.state == "ESTAB").count(), CONNECTIONS);
    drop((streams, accepted));
    let queue = handed(&server, "HandOverArrived");
    assert!(queue > 0, "one queue serves four workers");
    assert!(handed(&server, "HandOverTransmits") > 0);
}

#[test]
fn a_connection_of_our_own_comes_home() {
    let (server, client) = hosts(1, 4, 4);
    let _echo = echo_server(&vs(&server, "web"), addr("10.0.0.1:7"));
    let c = vs(&client, "c");
    let mut owners = HashSet::new();
    for _ in 0..16 {
        let stream = connect(&c, addr("10.0.0.1:7"));
        owners.insert(flow_owner(stream.local_addr().unwrap(), addr("10.0.0.1:7"), 4));
        echo(&stream, &pattern(1000));
    }
    assert_eq!(owners.len(), 4, "workers take turns");
    // A port of the caller's choice leads to its worker.
    for port in 5000..5016 {
        let stream = TcpStream::start_connect(
            &c,
            Some(SocketAddr::new([0; 4].into(), port)),
            addr("10.0.0.1:7"),
        );
        let stream = stream.unwrap();
        stream.set_nonblocking(false).unwrap();
        let (mut to, mut from, mut got) = (&stream, &stream, [0; 4]);
        until("connection", || to.write(b"ping").is_ok());
        from.read_exact(&mut got).unwrap();
        assert_eq!((&got, stream.local_addr().unwrap().port()), (b"ping", port));
    }
}

#[test]
fn udp_goes_by_its_port_and_large_datagrams_are_reassembled_at_home() {
    let (server, client) = hosts(4, 2, 2);
    let (web, c) = (vs(&server, "web"), vs(&client, "c"));
    let mut owners = HashSet::new();
    for port in 7000..7016 {
        owners.insert(port_owner(port, 4));
        let socket = UdpSocket::bind(&web, SocketAddr::new([10, 0, 0, 1].into(), port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let asker = UdpSocket::bind(&c, addr("0.0.0.0:0")).unwrap();
        asker.set_read_timeout(Some(PATIENCE)).unwrap();
        asker.connect(socket.local_addr().unwrap()).unwrap();
        for len in [1, 1400, 9000] {
            let sent = pattern(len);
            asker.send(&sent).unwrap();
            let got = socket.recv_datagram().unwrap();
            assert!(got.payload == sent);
            socket.send_to(&got.payload, got.from).unwrap();
            assert!(asker.recv_datagram().unwrap().payload == sent);
        }
    }
    assert_eq!(owners.len(), 4);
    assert!(handed(&server, "HandOverMoved") > 0);
    check_fates(&server.snapshot());
    check_fates(&client.snapshot());
    // An error about a datagram finds the socket that sent it.
    for _ in 0..8 {
        let asker = UdpSocket::bind(&c, addr("0.0.0.0:0")).unwrap();
        asker.set_read_timeout(Some(PATIENCE)).unwrap();
        asker.connect(addr("10.0.0.1:9")).unwrap();
        asker.send(b"x").unwrap();
        let refused = asker.recv_datagram().unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

#[test]
fn a_vserver_reaches_itself_and_its_neighbours_across_workers() {
    let more = "[vserver.b]\naddresses = [\"data0 10.0.0.3/24\"]\n";
    let host = Host::start(config(&(text("a", 1, 4, 1) + more))).unwrap();
    let (a, b) = (vs(&host, "a"), vs(&host, "b"));
    let _echo = echo_server(&b, addr("0.0.0.0:7"));
    for (from, to) in [(&a, "10.0.0.3:7"), (&b, "10.0.0.3:7"), (&b, "127.0.0.1:7")] {
        for _ in 0..8 {
            echo(&connect(from, addr(to)), &pattern(100_000));
        }
    }
    let socket = UdpSocket::bind(&b, addr("0.0.0.0:7007")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    for (from, to) in [(&a, "10.0.0.3:7007"), (&b, "10.0.0.3:7007"), (&b, "127.0.0.1:7007")] {
        for _ in 0..8 {
            let asker = UdpSocket::bind(from, addr("0.0.0.0:0")).unwrap();
            asker.set_read_timeout(Some(PATIENCE)).unwrap();
            asker.connect(addr(to)).unwrap();
            asker.send(b"hello").unwrap();
            let got = socket.recv_datagram().unwrap();
            socket.send_to(&got.payload, got.from).unwrap();
            assert_eq!(asker.recv_datagram().unwrap().payload, b"hello"[..]);
        }
    }
    check_fates(&host.snapshot());
}

#[test]
fn a_ping_is_answered_once_and_asks_from_home() {
    let (server, client) = hosts(4, 4, 2);
    let ping = IcmpSocket::open(&vs(&client, "c"), Family::V4).unwrap();
    ping.set_read_timeout(Some(PATIENCE)).unwrap();
    for sequence in 0..20 {
        ping.send_echo(sequence, b"0123456789", Some(addr("10.0.0.1:0"))).unwrap();
        assert_eq!(ping.recv_answer().unwrap().sequence, sequence);
    }
    let counters = &server.snapshot().vservers[0].counters;
    assert_eq!((counters["IcmpInEchos"], counters["IcmpOutEchoReps"]), (20, 20));
    // One announcement and one answer per question, whatever the number of shards.
    let (answers, questions) = (counters["NeighOutArpReplies"], counters["NeighInArpRequests"]);
    assert!(answers >= 1 && questions >= answers, "{answers} of {questions}");
    let asked = client.snapshot().vservers[0].counters["NeighOutArpRequests"];
    assert!(answers <= asked, "{answers} answers to {asked}");
}

#[test]
fn thousands_of_connections_leave_nothing() {
    const ROUNDS: usize = 500;
    const THREADS: usize = 4;
    let (server, client) = hosts(2, 2, 2);
    let web = vs(&server, "web");
    let listener = TcpListener::bind(&web, addr("0.0.0.0:80")).unwrap();
    let c = vs(&client, "c");
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| {
            for _ in 0..ROUNDS * THREADS {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = [0; 8];
                stream.read_exact(&mut asked).unwrap();
                stream.write_all(&asked).unwrap();
                // The asker goes first, by a reset.
                assert!(!matches!(stream.read(&mut asked), Ok(1..)));
            }
        });
        for t in 0..THREADS {
            let c = &c;
            scope.spawn(move || {
                for i in 0..ROUNDS {
                    let mut stream = connect(c, addr("10.0.0.1:80"));
                    let question = ((t * ROUNDS + i) as u64).to_be_bytes();
                    stream.write_all(&question).unwrap();
                    let mut answer = [0; 8];
                    stream.read_exact(&mut answer).unwrap();
                    assert_eq!(answer, question);
                    stream.set_linger(Some(Duration::ZERO)).unwrap();
                }
            });
        }
        serving.join().ok();
    });
    drop(listener);
    wait_until_empty(&server, "web");
    wait_until_empty(&client, "c");
    check_fates(&server.snapshot());
    check_fates(&client.snapshot());
    for _ in 0..2 {
        server.stop();
        client.stop();
    }
}

#[test]
fn a_poller_sees_connections_of_all_shards() {
    let (server, client) = hosts(4, 1, 1);
    let listener = TcpListener::bind(&vs(&server, "web"), addr("0.0.0.0:80")).unwrap();
    let c = vs(&client, "c");
    // Some before it is watched, some after.
    let mut streams: Vec<_> = (0..8).map(|_| connect(&c, addr("10.0.0.1:80"))).collect();
    let poller = Poller::new().unwrap();
    poller.register(&listener, mio::Token(1), mio::Interest::READABLE).unwrap();
    listener.set_nonblocking(true).unwrap();
    let (mut ready, mut accepted) = (Vec::new(), Vec::new());
    while accepted.len() < 16 {
        if streams.len() < 16 {
            streams.push(connect(&c, addr("10.0.0.1:80")));
        }
        poller.wait(&mut ready, Some(PATIENCE)).unwrap();
        assert!(!ready.is_empty(), "{} accepted", accepted.len());
        while let Ok(one) = listener.accept() {
            accepted.push(one);
        }
    }
}

#[test]
fn a_stop_ends_blocked_calls_on_every_worker() {
    let (server, client) = hosts(4, 2, 2);
    let listener = TcpListener::bind(&vs(&server, "web"), addr("0.0.0.0:80")).unwrap();
    let c = vs(&client, "c");
    let streams: Vec<_> = (0..8).map(|_| connect(&c, addr("10.0.0.1:80"))).collect();
    let accepted: Vec<_> = (0..8).map(|_| listener.accept().unwrap().0).collect();
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| listener.accept().unwrap_err().kind());
        let reads: Vec<_> = accepted
            .iter()
            .map(|mut stream| scope.spawn(move || stream.read(&mut [0; 1]).unwrap_err().kind()))
            .collect();
        server.stop();
        assert_eq!(blocked.join().unwrap(), std::io::ErrorKind::NotConnected);
        for read in reads {
            assert_eq!(read.join().unwrap(), std::io::ErrorKind::NotConnected);
        }
    });
    // The peers of all shards were told.
    for mut stream in &streams {
        assert_eq!(
            stream.read(&mut [0; 1]).unwrap_err().kind(),
            std::io::ErrorKind::ConnectionReset
        );
    }
}

#[test]
fn ten_thousand_connections_spread_evenly() {
    const CONNECTIONS: usize = 10_000;
    const AT_ONCE: usize = 250;
    let (server, client) = hosts(4, 4, 4);
    let listener = TcpListener::bind(&vs(&server, "web"), addr("0.0.0.0:80")).unwrap();
    let c = vs(&client, "c");
    let (mut streams, mut accepted) = (Vec::new(), Vec::new());
    while streams.len() < CONNECTIONS {
        for _ in 0..AT_ONCE {
            streams.push(TcpStream::start_connect(&c, None, addr("10.0.0.1:80")).unwrap());
        }
        for _ in 0..AT_ONCE {
            accepted.push(listener.accept().unwrap());
        }
    }
    let mut per_worker = [0; 4];
    for (stream, peer) in &accepted {
        per_worker[usize::from(flow_owner(stream.local_addr().unwrap(), *peer, 4))] += 1;
    }
    // The client takes its workers in turn, and both ends of a flow have the same number.
    assert_eq!(per_worker, [CONNECTIONS / 4; 4]);
    let now = |host: &Host| host.snapshot().vservers[0].tcp_connections;
    assert_eq!((now(&server), now(&client)), (CONNECTIONS, CONNECTIONS));
    for stream in &streams {
        stream.set_linger(Some(Duration::ZERO)).unwrap();
    }
    drop((streams, accepted, listener));
    wait_until_empty(&server, "web");
    wait_until_empty(&client, "c");
    check_fates(&server.snapshot());
    let drops = server.snapshot().drops;
    assert!(!drops.contains_key("HandOverFull"), "{drops:?}");
}

#[test]
fn flows_that_come_on_their_own_queue_are_not_handed_over() {
    let (server, client) = hosts(2, 2, 2);
    let _echo = echo_server(&vs(&server, "web"), addr("0.0.0.0:7"));
    for _ in 0..8 {
        echo(&connect(&vs(&client, "c"), addr("10.0.0.1:7")), &pattern(100_000));
    }
    for host in [&server, &client] {
        // Both hosts number the owners alike: what one sends on its queue is the other's of the
        // same number.
        assert_eq!((handed(host, "HandOverArrived"), handed(host, "HandOverTransmits")), (0, 0));
    }
}

#[test]
fn a_raw_socket_sees_the_packets_of_every_worker() {
    let limits = "[vserver.web.limits]\nraw_sockets = 2\n";
    let server = Host::start(config(&(text("web", 1, 4, 1) + limits))).unwrap();
    let client = on(&text("c", 2, 1, 1), server.take_mem_peers("eth0").unwrap());
    let raw = RawSocket::open(&vs(&server, "web"), Family::V4, 17).unwrap();
    raw.set_read_timeout(Some(PATIENCE)).unwrap();
    let asker = UdpSocket::bind(&vs(&client, "c"), addr("0.0.0.0:0")).unwrap();
    let mut owners = HashSet::new();
    for port in 7000..7016u16 {
        owners.insert(port_owner(port, 4));
        asker.send_to(b"x", SocketAddr::new([10, 0, 0, 1].into(), port)).unwrap();
        let packet = raw.recv_packet().unwrap();
        assert_eq!(packet.payload[22..24], port.to_be_bytes());
    }
    assert_eq!(owners.len(), 4);
}

#[test]
fn udp_sockets_are_counted_over_all_workers() {
    let limits = "[vserver.web.limits]\nudp_sockets = 4\n";
    let host = Host::start(config(&(text("web", 1, 4, 1) + limits))).unwrap();
    let web = vs(&host, "web");
    let bind = |port| UdpSocket::bind(&web, SocketAddr::new([0; 4].into(), port));
    // All on one worker, and all that the vserver may have.
    let ports: Vec<u16> = (7000..).filter(|p| port_owner(*p, 4) == 1).take(5).collect();
    let mut held: Vec<_> = ports[..4].iter().map(|p| bind(*p).unwrap()).collect();
    assert_eq!(bind(ports[4]).unwrap_err().kind(), std::io::ErrorKind::QuotaExceeded);
    assert_eq!(bind(0).unwrap_err().kind(), std::io::ErrorKind::QuotaExceeded);
    held.pop();
    held.push(bind(0).unwrap());
    assert_eq!(bind(ports[0]).unwrap_err().kind(), std::io::ErrorKind::QuotaExceeded);
    held.clear();
    assert_eq!(bind(ports[0]).unwrap().local_addr().unwrap().port(), ports[0]);
}

/// Answers what it gets, and counts on which worker.
struct Answer(Arc<[AtomicUsize; 4]>);

impl Service for Answer {
    fn start(&mut self, cx: &mut Cx<'_>) {
        cx.listen(addr("0.0.0.0:7"), 1024).expect("listen");
    }
    fn accepted(&mut self, cx: &mut Cx<'_>, _: SocketId, _: SocketAddr) {
        self.0[cx.worker()].fetch_add(1, Ordering::Relaxed);
    }
    fn readable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        let mut buf = [0; 100];
        while let Ok(n) = cx.recv(id, &mut buf) {
            if n == 0 {
                return cx.close(id);
            }
            cx.send(id, &buf[..n]).expect("room for so little");
        }
    }
}

#[test]
fn a_service_runs_on_every_worker() {
    let (server, client) = hosts(4, 1, 2);
    let seen: Arc<[AtomicUsize; 4]> = Arc::default();
    let answer = |_| Answer(Arc::clone(&seen));
    let service = server.run_service(&vs(&server, "web"), answer).unwrap();
    let c = vs(&client, "c");
    for _ in 0..64 {
        echo(&connect(&c, addr("10.0.0.1:7")), b"hello");
    }
    let counts: Vec<usize> = seen.iter().map(|n| n.load(Ordering::Relaxed)).collect();
    assert!(counts.iter().all(|n| *n > 0) && counts.iter().sum::<usize>() == 64, "{counts:?}");
    drop(service);
    until("end of the service", || TcpStream::connect(&c, addr("10.0.0.1:7")).is_err());
}

#[test]
fn a_built_in_service_counts_its_connections_over_all_workers() {
    let service = "[[vserver.web.service]]\nkind = \"echo\"\nport = 7\nconnections = 4\n";
    let started = Host::start(config(&(text("web", 1, 2, 2) + service)));
    let server = started.unwrap_or_else(|e| panic!("{e}"));
    let client = on(&text("c", 2, 2, 2), server.take_mem_peers("eth0").expect("a mem NIC"));
    let services = Services::start(&server).expect("the address is there");
    let snapshot = || {
        let mut all = server.snapshot();
        services.fill(&mut all);
        all.vservers[0].services[0].clone()
    };
    until("listeners on both workers", || snapshot().listening);
    let c = vs(&client, "c");
    let mut open: Vec<_> = (0..16).map(|_| connect(&c, addr("10.0.0.1:7"))).collect();
    until("pause", || snapshot().counters["AcceptPaused"] >= 1);
    // One too many at most, by the worker that did not know yet.
    until("full service", || (4..=5).contains(&snapshot().connections));
    // The others come to their turn on whichever worker they are.
    for stream in &open {
        (&*stream).write_all(b"ping").expect("write");
    }
    while !open.is_empty() {
        let before = open.len();
        open.retain(|stream| {
            stream.set_nonblocking(true).expect("open");
            let mut got = [0; 4];
            (&*stream).read_exact(&mut got).is_err()
        });
        assert!(snapshot().connections <= 5);
        if open.len() == before {
            std::thread::yield_now();
        }
    }
    until("end of all connections", || snapshot().connections == 0);
    let asker = UdpSocket::bind(&c, addr("10.0.0.2:5000")).expect("bind");
    asker.set_read_timeout(Some(PATIENCE)).expect("set");
    asker.send_to(b"ping", addr("10.0.0.1:7")).expect("send");
    assert_eq!(asker.recv(&mut [0; 9]).expect("answer"), 4);
}
