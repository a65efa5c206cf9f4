//! How long whole stacks stand still when a path dies, in virtual time: ten failures of each kind, or
//! as many as `WEFT_SHIM_RUNS` says, one a run, at any moment of the second between two measurements;
//! every other run has UDP on the second provider. A stream goes from host 0 to host 1, 2000 bytes each millisecond, and requests from
//! host 1 to host 0, one at a time. The defaults for data centres, 10 ms round trip.
//! `WEFT_SHIM_RUNS=50 cargo test -p weft-shim --test gaps -- --nocapture` prints what was seen.
#![allow(clippy::unwrap_used)]

mod support;

use support::ip;
use support::net::{MS, Net, PORT, Setting, content};
use weft_shim::reap::ReapConfig;
use weft_stack::ip::address::AliasId;
use weft_stack::socket::SocketId;
use weft_stack::stack::Change;
use weft_stack::time::{Duration, Instant};

const RUNS: u8 = 10;
const RTT: Duration = Duration::from_millis(10);
/// What is asked is seen a tick later at each end, at most.
const TICK: Duration = MS;
const PIECE: usize = 2000;
const REQUEST: usize = 100;
const ANSWER: usize = 1000;
/// Of the second provider nothing fails: a mistake would be seen.
const FIRST: usize = 0;

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The provider carries nothing of these hosts, and nobody is told.
    Dark([bool; 2]),
    /// The cable of this host is pulled.
    Link(usize),
    /// Host 0 loses its address.
    Withdrawn,
}

impl Fault {
    fn strike(self, net: &mut Net) {
        match self {
            Fault::Dark(from) => net.dark[FIRST] = from,
            Fault::Link(host) => {
                net.dark[FIRST] = [true; 2];
                let change = Change::AliasLink { alias: AliasId(0), up: false, mtu: 1500 };
                net.stacks[host].handle_config(net.now, change).unwrap();
            }
            Fault::Withdrawn => {
                let change = Change::AddressRemove { alias: AliasId(0), addr: ip(1, 1) };
                net.stacks[0].handle_config(net.now, change).unwrap();
            }
        }
    }
}

/// A stream and a conversation.
struct Flows {
    stream: (SocketId, SocketId),
    asking: (SocketId, SocketId),
    sent: usize,
    got: usize,
    pieces: Vec<Instant>,
    asked: usize,
    request: usize,
    answer: usize,
    answers: Vec<Instant>,
}

impl Flows {
    fn new(net: &mut Net) -> Flows {
        Flows {
            stream: net.connect(80),
            asking: net.connect(81),
            sent: 0,
            got: 0,
            pieces: vec![net.now],
            asked: 0,
            request: 0,
            answer: 0,
            answers: vec![net.now],
        }
    }

    /// A millisecond. Data is compared byte by byte; an error of a socket ends the test.
    fn tick(&mut self, net: &mut Net, stream: bool, ask: bool) {
        let mut buffer = vec![0; 65_536];
        if stream {
            let piece: Vec<u8> = (self.sent..self.sent + PIECE).map(content).collect();
            self.sent += net.stacks[0].tcp_send(net.now, self.stream.0, &piece).unwrap_or(0);
        }
        if ask && self.asked == self.answers.len() - 1 {
            let sent = net.stacks[1].tcp_send(net.now, self.asking.1, &[1; REQUEST]);
            assert_eq!(sent, Ok(REQUEST));
            self.asked += 1;
        }
        net.run(TICK);
        while let Ok(n @ 1..) = net.stacks[1].tcp_recv(net.now, self.stream.1, &mut buffer) {
            assert!(buffer[..n].iter().enumerate().all(|(i, b)| *b == content(self.got + i)));
            self.got += n;
            self.pieces.push(net.now);
        }
        while let Ok(n @ 1..) = net.stacks[0].tcp_recv(net.now, self.asking.0, &mut buffer) {
            self.request += n;
        }
        if self.request >= REQUEST {
            self.request -= REQUEST;
            let sent = net.stacks[0].tcp_send(net.now, self.asking.0, &[2; ANSWER]);
            assert_eq!(sent, Ok(ANSWER));
        }
        while let Ok(n @ 1..) = net.stacks[1].tcp_recv(net.now, self.asking.1, &mut buffer) {
            self.answer += n;
        }
        if self.answer >= ANSWER {
            self.answer -= ANSWER;
            self.answers.push(net.now);
        }
    }

    fn ticks(&mut self, net: &mut Net, time: Duration, stream: bool, ask: bool) {
        let end = net.now + time;
        while net.now < end {
            self.tick(net, stream, ask);
        }
    }

    /// Nothing is on its way any longer; nothing came twice.
    fn check(&mut self, net: &mut Net) {
        net.run(500 * MS);
        self.ticks(net, 4 * RTT, false, false);
        assert_eq!((self.got, self.request, self.answer), (self.sent, 0, 0));
        assert_eq!(self.answers.len() - 1, self.asked);
    }
}

/// The longest time without any of them around `from` and after it.
fn gap(times: &[Instant], from: Instant) -> Duration {
    let first = times.partition_point(|at| *at < from).saturating_sub(1);
    times[first..].windows(2).map(|pair| pair[1] - pair[0]).max().unwrap()
}

fn net(run: u8, reap: ReapConfig) -> Net {
    Net::with(&Setting { delay: RTT / 2, udp: run % 2 == 1, seed: run, reap, ..Setting::default() })
}

fn runs() -> u8 {
    std::env::var("WEFT_SHIM_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(RUNS)
}

/// Moments of a second.
fn phase(run: u8) -> Duration {
    Duration::from_secs(1) * u32::from(run) / u32::from(runs())
}

/// Median, the value that 99 % do not exceed, and the most, in ms.
fn told(what: &str, mut gaps: Vec<Duration>) -> Duration {
    gaps.sort();
    let at = |part: f64| gaps[(gaps.len() as f64 * part).ceil() as usize - 1].as_secs_f64() * 1e3;
    println!("{what}: {:.0} / {:.0} / {:.0} ms", at(0.5), at(0.99), at(1.0));
    *gaps.last().unwrap()
}

/// The most of the stream and of the requests.
fn many(fault: Fault) -> [Duration; 2] {
    let (mut stream, mut requests) = (Vec::new(), Vec::new());
    for run in 0..runs() {
        let mut net = net(run, ReapConfig::default());
        let mut flows = Flows::new(&mut net);
        flows.ticks(&mut net, 300 * MS + phase(run), true, true);
        let broken = net.now;
        fault.strike(&mut net);
        flows.ticks(&mut net, 250 * MS, true, true);
        stream.push(gap(&flows.pieces, broken));
        requests.push(gap(&flows.answers, broken));
        flows.check(&mut net);
        for (host, stack) in net.stacks.iter().enumerate() {
            let encap = stack.path().shim().unwrap().encap().map(|e| e.stats().packets_out);
            let used = encap.is_some_and(|n| n > 100);
            let sends = !matches!(fault, Fault::Dark(from) if !from[host]);
            assert!(
                !sends || used == (run % 2 == 1),
                "{fault:?}, {run}: UDP port {PORT} {encap:?}"
            );
        }
    }
    [told(&format!("{fault:?}, stream"), stream), told(&format!("{fault:?}, requests"), requests)]
}

#[test]
fn a_link_or_address_that_is_lost_costs_two_round_trips_and_5_ms() {
    for fault in [Fault::Link(0), Fault::Link(1), Fault::Withdrawn] {
        let [stream, requests] = many(fault);
        let bound = 2 * RTT + 5 * MS;
        assert!(stream <= bound + TICK, "{fault:?}: {stream:?}");
        // Between two answers there is always a round trip.
        assert!(requests <= bound + RTT + 2 * TICK, "{fault:?}: {requests:?}");
    }
}

#[test]
fn a_provider_that_goes_dark_under_traffic_costs_200_ms() {
    for from in [[true, true], [true, false], [false, true]] {
        let [stream, requests] = many(Fault::Dark(from));
        assert!(stream.max(requests) <= 200 * MS, "{from:?}: {stream:?} {requests:?}");
    }
}

#[test]
fn after_a_silence_the_next_request_is_answered_within_200_ms_and_a_round_trip() {
    let mut took = Vec::new();
    for run in 0..runs() {
        let mut net = net(run, ReapConfig::default());
        let mut flows = Flows::new(&mut net);
        flows.ticks(&mut net, 300 * MS, true, true);
        flows.ticks(&mut net, 500 * MS, false, false);
        Fault::Dark([true; 2]).strike(&mut net);
        net.run(phase(run));
        let (begin, before) = (net.now, flows.answers.len());
        while flows.answers.len() == before {
            flows.tick(&mut net, false, true);
            assert!(net.now - begin < Duration::from_secs(5), "no answer");
        }
        took.push(net.now - begin);
        flows.check(&mut net);
    }
    let most = told("dark while idle, next request", took);
    assert!(most <= 200 * MS + RTT, "{most:?}");
}
