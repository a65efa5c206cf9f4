//! The socket faces over two hosts joined by a memory pair.
#![allow(missing_docs)]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use bytes::Bytes;
use common::{PATIENCE, addr, connect, echo, echo_server, pair, pattern, until, vs, wait_events};
use mio::{Interest, Token};
use weft_stack::socket::Readiness;
use weft_stack::socket::tcp::{TcpOption, TcpState};
use weft_vserver::net::{Poller, TcpListener, TcpStream, UdpSocket};

#[test]
fn blocking_echo_over_v4_and_v6() {
    let (server, client) = pair();
    let c = vs(&client, "c");
    let thread = echo_server(&vs(&server, "web"), addr("[::]:7"));
    let stream = connect(&c, addr("10.0.0.1:7"));
    assert_eq!(stream.peer_addr().unwrap(), addr("10.0.0.1:7"));
    assert_eq!(stream.local_addr().unwrap().ip(), addr("10.0.0.2:0").ip());
    echo(&stream, &pattern(3_000_000));
    until("IPv6 address", || {
        c.addresses().contains(&addr("[fd00::2]:0").ip())
            && vs(&server, "web").addresses().contains(&addr("[fd00::1]:0").ip())
    });
    let stream = connect(&c, addr("[fd00::1]:7"));
    echo(&stream, &pattern(1_000_000));
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!((&stream).read(&mut [0; 1]).unwrap(), 0, "the echo ends after our end");
    drop(stream);
    server.stop();
    thread.join().unwrap();
}

#[test]
fn errors_have_the_kinds_of_the_standard_library() {
    let (server, client) = pair();
    let (web, c) = (vs(&server, "web"), vs(&client, "c"));
    let kind = |r: std::io::Result<TcpStream>| r.unwrap_err().kind();
    let refused = TcpStream::connect_timeout(&c, addr("10.0.0.1:9"), PATIENCE);
    assert_eq!(kind(refused), ErrorKind::ConnectionRefused);
    assert_eq!(kind(TcpStream::connect(&c, addr("192.0.2.1:9"))), ErrorKind::NetworkUnreachable);
    let quiet = TcpStream::connect_timeout(&c, addr("10.0.0.77:9"), Duration::from_millis(20));
    assert_eq!(kind(quiet), ErrorKind::TimedOut);
    let listener = TcpListener::bind(&web, addr("10.0.0.1:80")).unwrap();
    let bind = |a| TcpListener::bind(&web, addr(a)).unwrap_err().kind();
    assert_eq!(bind("10.0.0.1:80"), ErrorKind::AddrInUse);
    assert_eq!(bind("10.0.0.9:80"), ErrorKind::AddrNotAvailable);
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    listener.set_nonblocking(false).unwrap();

    let stream = connect(&c, addr("10.0.0.1:80"));
    let (accepted, peer) = listener.accept().unwrap();
    assert_eq!(peer, stream.local_addr().unwrap());
    stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    assert_eq!((&stream).read(&mut [0; 9]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(stream.set_read_timeout(Some(Duration::ZERO)).is_err());
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    accepted.abort();
    assert_eq!((&stream).read(&mut [0; 9]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    until("broken pipe", || {
        (&stream)
            .write(b"x")
            .is_err_and(|e| matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset))
    });

    client.stop();
    let stopped = TcpStream::connect(&c, addr("10.0.0.1:80")).unwrap_err();
    assert_eq!(stopped.kind(), ErrorKind::NotConnected);
}

#[test]
fn stopping_a_host_ends_blocked_calls() {
    let (server, client) = pair();
    let listener = TcpListener::bind(&vs(&server, "web"), addr("0.0.0.0:80")).unwrap();
    let stream = connect(&vs(&client, "c"), addr("10.0.0.1:80"));
    let reader = std::thread::spawn(move || (&stream).read(&mut [0; 9]).unwrap_err().kind());
    let (accepted, first) = std::sync::mpsc::channel();
    let accepter = std::thread::spawn(move || {
        accepted.send(listener.accept()).unwrap();
        listener.accept().unwrap_err().kind()
    });
    let _open = first.recv().unwrap().unwrap();
    client.stop();
    assert_eq!(reader.join().unwrap(), ErrorKind::NotConnected);
    server.stop();
    assert_eq!(accepter.join().unwrap(), ErrorKind::NotConnected);
}

#[test]
fn bytes_go_through_without_copies_in_the_face() {
    let (server, client) = pair();
    let listener = TcpListener::bind(&vs(&server, "web"), addr("0.0.0.0:80")).unwrap();
    let stream = connect(&vs(&client, "c"), addr("10.0.0.1:80"));
    let (accepted, _) = listener.accept().unwrap();
    let sent = pattern(2_000_000);
    let copy = Bytes::from(sent.clone());
    let writer = std::thread::spawn(move || {
        let mut rest = copy;
        assert_eq!(accepted.send_bytes(&mut rest).unwrap(), 2_000_000);
        assert!(rest.is_empty());
    });
    let mut got = Vec::new();
    loop {
        let part = stream.recv_bytes(100_000).unwrap();
        assert!(part.len() <= 100_000);
        if part.is_empty() {
            break;
        }
        got.extend_from_slice(&part);
    }
    writer.join().unwrap();
    assert!(got == sent);
}

#[test]
fn options_are_set_and_read_as_with_std() {
    let (server, client) = pair();
    let listener = TcpListener::bind(&vs(&server, "web"), addr("10.0.0.1:80")).unwrap();
    listener.set_option(TcpOption::NoDelay(true)).unwrap();
    let stream = connect(&vs(&client, "c"), addr("10.0.0.1:80"));
    let (accepted, _) = listener.accept().unwrap();
    assert!(accepted.nodelay().unwrap() && listener.options().unwrap().nodelay);
    assert!(!stream.nodelay().unwrap());
    stream.set_nodelay(true).unwrap();
    stream.set_ttl(7).unwrap();
    assert_eq!((stream.nodelay().unwrap(), stream.ttl().unwrap()), (true, 7));
    assert_eq!(stream.set_ttl(0).unwrap_err().kind(), ErrorKind::InvalidInput);
    stream.set_linger(Some(Duration::from_secs(1))).unwrap();
    assert_eq!(stream.linger().unwrap(), Some(Duration::from_secs(1)));

    assert_eq!(stream.write_more(b"question ").unwrap(), 9);
    assert_eq!((&stream).write(b"and more").unwrap(), 8);
    let mut buf = [0; 32];
    until("both parts", || accepted.peek(&mut buf).unwrap() == 17);
    assert_eq!((&accepted).read(&mut buf).unwrap(), 17);
    assert_eq!(&buf[..17], b"question and more");
    let poller = Poller::new().unwrap();
    poller.register(&accepted, Token(1), Interest::PRIORITY).unwrap();
    assert_eq!(stream.write_urgent(b"!").unwrap(), 1);
    let mut ready = Vec::new();
    poller.wait(&mut ready, Some(PATIENCE)).unwrap();
    assert!(ready[0].readiness.contains(Readiness::PRIORITY), "{ready:?}");
    assert_eq!(accepted.urgent_left().unwrap(), Some(1));
    assert_eq!((&accepted).read(&mut buf).unwrap(), 1);
    assert!(accepted.is_at_mark().unwrap());
    let info = stream.info().unwrap();
    assert_eq!((info.state, info.bytes_sent), (TcpState::Established, 18));
    stream.set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    assert_eq!((&accepted).read(&mut buf).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn udp_both_ways_and_refused() {
    let (server, client) = pair();
    let s = UdpSocket::bind(&vs(&server, "web"), addr("0.0.0.0:53")).unwrap();
    let c = UdpSocket::bind(&vs(&client, "c"), addr("10.0.0.2:0")).unwrap();
    c.set_read_timeout(Some(PATIENCE)).unwrap();
    s.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(s.local_addr().unwrap(), addr("0.0.0.0:53"));
    assert_eq!(c.send_to(b"question", addr("10.0.0.1:53")).unwrap(), 8);
    let mut buf = [0; 4];
    let (n, from) = s.recv_from(&mut buf).unwrap();
    assert_eq!((n, &buf, from), (4, b"ques", c.local_addr().unwrap()), "cut to the buffer");
    let big = pattern(8000);
    s.send_to(&big, from).unwrap();
    let datagram = c.recv_datagram().unwrap();
    assert_eq!(datagram.from, addr("10.0.0.1:53"));
    assert!(datagram.payload == big, "in fragments and whole again");
    drop(s);
    c.connect(addr("10.0.0.1:53")).unwrap();
    c.send(b"anyone?").unwrap();
    assert_eq!(c.recv(&mut buf).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn mio_reports_edges() {
    let (server, client) = pair();
    let mut poll = mio::Poll::new().unwrap();
    let mut events = mio::Events::with_capacity(8);
    let mut listener = TcpListener::bind(&vs(&server, "web"), addr("0.0.0.0:80")).unwrap();
    listener.set_nonblocking(true).unwrap();
    poll.registry().register(&mut listener, Token(0), Interest::READABLE).unwrap();
    let mut stream =
        TcpStream::start_connect(&vs(&client, "c"), None, addr("10.0.0.1:80")).unwrap();
    poll.registry().register(&mut stream, Token(1), Interest::WRITABLE).unwrap();
    let mut accepted = None;
    let mut connected = false;
    while accepted.is_none() || !connected {
        wait_events(&mut poll, &mut events, Some(PATIENCE));
        assert!(!events.is_empty(), "an edge was lost");
        for event in &events {
            match event.token() {
                Token(0) => accepted = listener.accept().ok().or(accepted),
                _ => connected = (&stream).write(b"hello").is_ok() || connected,
            }
        }
    }
    assert!(stream.take_error().unwrap().is_none());
    let (mut accepted, _) = accepted.unwrap();
    accepted.set_nonblocking(true).unwrap();
    poll.registry().register(&mut accepted, Token(2), Interest::READABLE).unwrap();
    let mut got = Vec::new();
    while got.len() < 5 {
        match (&accepted).read_to_end(&mut got) {
            Ok(_) => panic!("the stream has not ended"),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => panic!("{e}"),
        }
        if got.len() < 5 {
            wait_events(&mut poll, &mut events, Some(PATIENCE));
            assert!(!events.is_empty(), "an edge was lost");
        }
    }
    assert_eq!(got, b"hello");
    poll.registry().deregister(&mut accepted).unwrap();
    assert!(poll.registry().deregister(&mut accepted).is_err());
}

#[test]
fn the_longest_timeout_waits_like_none() {
    let poller = Poller::new().unwrap();
    poller.wake().unwrap();
    poller.wait(&mut Vec::new(), Some(Duration::MAX)).unwrap();
}

#[test]
fn one_poller_for_many_sockets() {
    let (server, client) = pair();
    let (web, c) = (vs(&server, "web"), vs(&client, "c"));
    let poller = Poller::new().unwrap();
    let listener = TcpListener::bind(&web, addr("0.0.0.0:7")).unwrap();
    listener.set_nonblocking(true).unwrap();
    poller.register(&listener, Token(usize::MAX), Interest::READABLE).unwrap();
    let clients: Vec<_> =
        (0..50).map(|_| TcpStream::start_connect(&c, None, addr("10.0.0.1:7")).unwrap()).collect();
    let mut servers: Vec<TcpStream> = Vec::new();
    let mut ready = Vec::new();
    while servers.len() < clients.len() {
        poller.wait(&mut ready, Some(PATIENCE)).unwrap();
        assert!(!ready.is_empty(), "an edge was lost");
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true).unwrap();
            let token = Token(servers.len());
            poller.register(&stream, token, Interest::READABLE).unwrap();
            servers.push(stream);
        }
    }
    for (i, stream) in clients.iter().enumerate() {
        until("writable", || (&*stream).write(&[i as u8]).is_ok());
    }
    let mut seen = 0;
    while seen < clients.len() {
        poller.wait(&mut ready, Some(PATIENCE)).unwrap();
        assert!(!ready.is_empty(), "an edge was lost");
        for r in &ready {
            assert!(!r.readiness.is_empty());
            let Some(stream) = servers.get(r.token.0) else { continue };
            let mut byte = [0; 2];
            while let Ok(n) = (&*stream).read(&mut byte) {
                assert_eq!(n, 1);
                seen += 1;
            }
        }
    }
    // Quiet now; a wake-up from elsewhere ends the wait with nothing in it.
    poller.wake().unwrap();
    poller.wait(&mut ready, Some(PATIENCE)).unwrap();
    poller.wait(&mut ready, Some(Duration::ZERO)).unwrap();
    assert!(ready.iter().all(|r| !r.readiness.contains(Readiness::ERROR)));
    poller.deregister(&servers[0]).unwrap();
    assert_eq!(poller.deregister(&servers[0]).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_poller_stands_in_a_mio_loop() {
    let (server, client) = pair();
    let mut poll = mio::Poll::new().unwrap();
    let mut events = mio::Events::with_capacity(8);
    let mut poller = Poller::new().unwrap();
    poll.registry().register(&mut poller, Token(9), Interest::READABLE).unwrap();
    let socket = UdpSocket::bind(&vs(&server, "web"), addr("0.0.0.0:53")).unwrap();
    socket.set_nonblocking(true).unwrap();
    poller.register(&socket, Token(1), Interest::READABLE).unwrap();
    let c = UdpSocket::bind(&vs(&client, "c"), addr("10.0.0.2:0")).unwrap();
    let mut ready = Vec::new();
    for round in 0..3u8 {
        c.send_to(&[round], addr("10.0.0.1:53")).unwrap();
        let got = loop {
            wait_events(&mut poll, &mut events, Some(PATIENCE));
            assert!(!events.is_empty(), "round {round}: an edge was lost");
            poller.wait(&mut ready, Some(Duration::ZERO)).unwrap();
            if let Ok(d) = socket.recv_datagram() {
                break d.payload[0];
            }
        };
        assert_eq!(got, round);
    }
}
