//! No wake-up is lost, whoever polls: threads of every face on the same two workers, in every way of
//! waiting, over many seeds. A lost wake-up fails as a timeout.
#![allow(missing_docs)]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{PATIENCE, addr, connect, pair, vs, wait_events};
use mio::{Interest, Token};
use weft_vserver::app::{Cx, Service, SocketId};
use weft_vserver::config::PollMode;
use weft_vserver::net::{Poller, TcpListener, UdpSocket};
use weft_vserver::{Host, Vserver};

/// Small, seeded, good enough to vary the order of things.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    /// Nothing, a yield, a short or a longer pause: races around spinning, leases and sleeps.
    fn dawdle(&mut self) {
        match self.roll(12) {
            0 => std::thread::yield_now(),
            1 => std::thread::sleep(Duration::from_micros(self.roll(40))),
            2 => std::thread::sleep(Duration::from_micros(400 + self.roll(300))),
            3 => (0..self.roll(3000)).for_each(|_| std::hint::spin_loop()),
            _ => {}
        }
    }
}

const ROUNDS: usize = 150;

/// Blocking accept, read, write.
fn serve_blocking(listener: &TcpListener, seed: u64) {
    let mut dice = Dice(seed);
    let (mut stream, _) = listener.accept().expect("works");
    stream.set_read_timeout(Some(PATIENCE)).expect("works");
    let mut buf = [0; 2000];
    loop {
        let n = stream.read(&mut buf).expect("works");
        if n == 0 {
            return;
        }
        dice.dawdle();
        stream.write_all(&buf[..n]).expect("works");
    }
}

fn ask(c: &Vserver, port: u16, seed: u64) {
    let mut dice = Dice(seed);
    let mut stream = connect(c, addr(&format!("10.0.0.1:{port}")));
    let mut buf = [0; 2000];
    for _ in 0..ROUNDS {
        let len = 1 + dice.roll(1999) as usize;
        stream.write_all(&buf[..len]).expect("works");
        dice.dawdle();
        stream.read_exact(&mut buf[..len]).unwrap_or_else(|e| panic!("port {port}: {e}"));
    }
}

/// A poller over several UDP sockets.
fn bind_all(web: &Vserver, poller: &Poller, ports: std::ops::Range<u16>) -> Vec<UdpSocket> {
    ports
        .enumerate()
        .map(|(n, port)| {
            let socket = UdpSocket::bind(web, addr(&format!("10.0.0.1:{port}"))).expect("works");
            socket.set_nonblocking(true).expect("works");
            poller.register(&socket, Token(n), Interest::READABLE).expect("works");
            socket
        })
        .collect()
}

fn serve_poller(poller: &Poller, sockets: &[UdpSocket], done: &AtomicBool, seed: u64) {
    let mut dice = Dice(seed);
    let mut ready = Vec::new();
    while !done.load(Ordering::Relaxed) {
        poller.wait(&mut ready, Some(Duration::from_millis(100))).expect("works");
        for r in &ready {
            let socket = &sockets[r.token.0];
            while let Ok(d) = socket.recv_datagram() {
                dice.dawdle();
                let _ = socket.send_to(&d.payload, d.from);
            }
        }
    }
}

fn ask_udp(c: &Vserver, port: u16, seed: u64) {
    let mut dice = Dice(seed);
    let socket = UdpSocket::bind(c, addr("10.0.0.2:0")).expect("works");
    socket.set_read_timeout(Some(PATIENCE)).expect("works");
    for n in 0..ROUNDS as u32 {
        socket.send_to(&n.to_be_bytes(), addr(&format!("10.0.0.1:{port}"))).expect("works");
        dice.dawdle();
        let mut buf = [0; 4];
        socket.recv_from(&mut buf).unwrap_or_else(|e| panic!("port {port}: {e}"));
        assert_eq!(u32::from_be_bytes(buf), n);
    }
}

/// mio over one stream.
fn ask_mio(c: &Vserver, port: u16, seed: u64) {
    let mut dice = Dice(seed);
    let mut stream = connect(c, addr(&format!("10.0.0.1:{port}")));
    stream.set_nonblocking(true).expect("works");
    let mut poll = mio::Poll::new().expect("works");
    poll.registry().register(&mut stream, Token(0), Interest::READABLE).expect("works");
    let mut events = mio::Events::with_capacity(4);
    for _ in 0..ROUNDS {
        stream.write_all(b"y").expect("works");
        dice.dawdle();
        loop {
            match (&stream).read(&mut [0; 1]) {
                Ok(n) => break assert_eq!(n, 1),
                Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
            }
            wait_events(&mut poll, &mut events, Some(PATIENCE));
            assert!(!events.is_empty(), "mio was not told");
        }
    }
}

struct Echo;

impl Service for Echo {
    fn start(&mut self, cx: &mut Cx<'_>) {
        cx.listen(addr("10.0.0.1:9"), 64).expect("listen");
    }
    fn readable(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        let mut buf = [0; 4096];
        while let Ok(n) = cx.recv(id, &mut buf) {
            if n == 0 || cx.send(id, &buf[..n]) != Ok(n) {
                return cx.close(id);
            }
        }
    }
}

fn switch(hosts: [&Host; 2], done: &AtomicBool, seed: u64) {
    let mut dice = Dice(seed);
    while !done.load(Ordering::Relaxed) {
        let mode = [PollMode::Interrupt, PollMode::Adaptive, PollMode::Busy][dice.roll(3) as usize];
        hosts[dice.roll(2) as usize].set_poll_mode(None, mode).expect("works");
        std::thread::sleep(Duration::from_millis(1 + dice.roll(4)));
    }
}

#[test]
fn threads_that_wait_in_every_way_lose_no_wake_up() {
    for seed in 1..=12_u64 {
        let (server, client) = pair();
        let (web, c) = (vs(&server, "web"), vs(&client, "c"));
        // One blocking pair alone, two, or everything at once.
        let pairs = seed % 3 + 1;
        let everything = seed % 4 == 0;
        let listeners: Vec<_> = (0..pairs)
            .map(|n| {
                TcpListener::bind(&web, addr(&format!("10.0.0.1:{}", 100 + n))).expect("works")
            })
            .collect();
        let service = everything.then(|| server.run_service(&web, |_| Echo).expect("works"));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (web, c, done) = (&web, &c, &done);
            let mut asking = Vec::new();
            for (n, listener) in listeners.iter().enumerate() {
                let seed = seed * 1000 + n as u64;
                scope.spawn(move || serve_blocking(listener, seed));
                asking.push(scope.spawn(move || ask(c, 100 + n as u16, seed + 500)));
            }
            if seed % 2 == 0 {
                let poller = Poller::new().expect("works");
                let sockets = bind_all(web, &poller, 200..203);
                scope.spawn(move || serve_poller(&poller, &sockets, done, seed * 77));
                asking.extend((200..203).map(|p| scope.spawn(move || ask_udp(c, p, seed * 31))));
            }
            if everything {
                asking.push(scope.spawn(move || ask(c, 9, seed * 3)));
                asking.push(scope.spawn(move || ask_mio(c, 9, seed * 5)));
            }
            let hosts = [&server, &client];
            scope.spawn(move || switch(hosts, done, seed * 13));
            let results: Vec<_> =
                asking.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            done.store(true, Ordering::Relaxed);
            for result in results {
                result.unwrap_or_else(|_| panic!("seed {seed}"));
            }
        });
        drop(service);
    }
}

/// One thread of each host, without any other: it alone polls, and sleeps in the devices.
#[test]
fn a_pair_of_threads_that_pause_is_always_woken() {
    for (seed, mode) in (1..).zip([PollMode::Interrupt, PollMode::Adaptive, PollMode::Busy]) {
        let (server, client) = pair();
        for host in [&server, &client] {
            host.set_poll_mode(None, mode).expect("works");
        }
        let listener = TcpListener::bind(&vs(&server, "web"), addr("10.0.0.1:7")).expect("works");
        let thread = std::thread::spawn(move || serve_blocking(&listener, seed));
        let c = vs(&client, "c");
        ask(&c, 7, seed + 9);
        thread.join().expect("works");
    }
}
