//! Two hosts in virtual time. Every pair of addresses is a link of its own in each direction, with
//! a delay, a loss and a switch.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::*;

#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) up: bool,
    pub(super) delay: Duration,
    pub(super) loss_percent: u64,
}

#[derive(Clone, Debug)]
enum Message {
    Payload,
    Reap(Outgoing),
}

#[derive(Debug)]
struct Flight {
    at: Instant,
    number: u64,
    to: usize,
    /// As the receiver sees it.
    pair: Pair,
    message: Message,
}

impl PartialEq for Flight {
    fn eq(&self, other: &Flight) -> bool {
        self.number == other.number
    }
}
impl Eq for Flight {}
impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Flight) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Flight {
    fn cmp(&self, other: &Flight) -> core::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// What a host sends above the shim.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    /// A packet so often.
    pub(super) every: Option<Duration>,
    /// Each packet received is acknowledged.
    pub(super) answers: bool,
}

pub(super) struct Host {
    pub(super) reap: Reap,
    pub(super) traffic: Traffic,
    next: Option<Instant>,
    /// When payload arrived.
    pub(super) arrived: Vec<Instant>,
    /// Probes and when they left.
    pub(super) probes: Vec<(Instant, Pair, Probe)>,
    pub(super) keepalives: Vec<Instant>,
    pub(super) events: Vec<(Instant, ReapEvent)>,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) hosts: [Host; 2],
    links: BTreeMap<(IpAddr, IpAddr), Link>,
    heap: BinaryHeap<Reverse<Flight>>,
    number: u64,
    pub(super) rng: Rng,
    config: ReapConfig,
}

impl World {
    /// Host 1 with `counts.0` locators, host 2 with `counts.1`, all pairs up.
    pub(super) fn new(seed: u64, config: ReapConfig, counts: (u8, u8), delay: Duration) -> World {
        World::of(seed, config, &locators(1, counts.0), &locators(2, counts.1), delay)
    }

    pub(super) fn of(
        seed: u64,
        config: ReapConfig,
        one: &[Locator],
        two: &[Locator],
        delay: Duration,
    ) -> World {
        let now = Instant::from_millis(1_000);
        let host = |salt: u8, pair: Pair, local: &[Locator], peer: &[Locator]| {
            let mut key = [salt; 16];
            key[..8].copy_from_slice(&seed.to_le_bytes());
            let mut reap = Reap::new(&config, key, now, pair);
            reap.set_paths(now, local, peer);
            if let Some(timeout) = config.announced() {
                reap.set_peer_timeout(timeout);
            }
            Host {
                reap,
                traffic: Traffic::default(),
                next: None,
                arrived: vec![],
                probes: vec![],
                keepalives: vec![],
                events: vec![],
            }
        };
        let first = Pair::new(one[0].addr, two[0].addr);
        let mut links = BTreeMap::new();
        for a in one {
            for b in two {
                let link = Link { up: true, delay, loss_percent: 0 };
                links.insert((a.addr, b.addr), link);
                links.insert((b.addr, a.addr), link);
            }
        }
        World {
            now,
            hosts: [host(1, first, one, two), host(2, first.reversed(), two, one)],
            links,
            heap: BinaryHeap::new(),
            number: 0,
            rng: Rng::from_u64(seed),
            config,
        }
    }

    /// The way from `src` to `dst`.
    pub(super) fn link(&mut self, src: IpAddr, dst: IpAddr) -> &mut Link {
        self.links.get_mut(&(src, dst)).unwrap()
    }

    /// Both ways of a pair of host 1.
    pub(super) fn set_up(&mut self, pair: Pair, up: bool) {
        self.link(pair.local, pair.remote).up = up;
        self.link(pair.remote, pair.local).up = up;
    }

    /// Everything that touches an address.
    pub(super) fn set_address_up(&mut self, addr: IpAddr, up: bool) {
        for (_, link) in self.links.iter_mut().filter(|((a, b), _)| *a == addr || *b == addr) {
            link.up = up;
        }
    }

    pub(super) fn each_link(&mut self, mut change: impl FnMut(&mut Link)) {
        self.links.values_mut().for_each(&mut change);
    }

    /// Bulk from host 1, acknowledged by host 2.
    pub(super) fn bulk(&mut self, every: Duration) {
        self.traffic(0, Some(every));
        self.hosts[1].traffic.answers = true;
    }

    pub(super) fn traffic(&mut self, host: usize, every: Option<Duration>) {
        self.hosts[host].traffic.every = every;
        self.hosts[host].next = every.map(|_| self.now);
    }

    pub(super) fn hint(&mut self, host: usize, hint: Hint) {
        self.hosts[host].reap.hint(self.now, hint);
        self.flush(host);
    }

    pub(super) fn payload(&mut self, host: usize) {
        let pair = self.hosts[host].reap.current();
        self.hosts[host].reap.payload_sent(self.now);
        self.fly(host, pair, Message::Payload);
        self.flush(host);
    }

    fn fly(&mut self, from: usize, pair: Pair, message: Message) {
        let Some(link) = self.links.get(&(pair.local, pair.remote)).copied() else { return };
        if !link.up || self.rng.below(100) < link.loss_percent {
            return;
        }
        self.number += 1;
        let at = self.now + link.delay;
        let (number, to) = (self.number, 1 - from);
        self.heap.push(Reverse(Flight { at, number, to, pair: pair.reversed(), message }));
    }

    /// Sends what a host has to send and keeps its events.
    pub(super) fn flush(&mut self, host: usize) {
        while let Some((pair, out)) = self.hosts[host].reap.poll_transmit(self.now) {
            let now = self.now;
            match &out {
                Outgoing::Probe(probe) => {
                    self.hosts[host].probes.push((now, pair, probe.clone()));
                    let sent = probe.sent[0];
                    assert_eq!((sent.src, sent.dst), (pair.local, pair.remote));
                }
                Outgoing::Keepalive => self.hosts[host].keepalives.push(now),
            }
            self.fly(host, pair, Message::Reap(out));
        }
        while let Some(event) = self.hosts[host].reap.poll_event() {
            let now = self.now;
            self.hosts[host].events.push((now, event));
        }
    }

    fn deliver(&mut self, flight: Flight) {
        let now = self.now;
        let host = &mut self.hosts[flight.to];
        let mut answer = false;
        match flight.message {
            Message::Payload => {
                host.arrived.push(now);
                host.reap.payload_received(now, flight.pair);
                answer = host.traffic.answers;
            }
            Message::Reap(Outgoing::Keepalive) => host.reap.keepalive_received(now, flight.pair),
            Message::Reap(Outgoing::Probe(probe)) => {
                // As it looks on the wire.
                let mut body = vec![];
                probe.emit(&mut body);
                let (probe, _) = Probe::parse(&body).unwrap();
                host.reap.probe_received(now, flight.pair, &probe);
            }
        }
        self.flush(flight.to);
        if answer {
            self.payload(flight.to);
        }
    }

    fn next_event(&self) -> Option<Instant> {
        let flight = self.heap.peek().map(|f| f.0.at);
        let own = self.hosts.iter().flat_map(|h| [h.reap.poll_timeout(), h.next]);
        own.chain([flight]).flatten().min()
    }

    /// Lets `time` pass.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let mut idle = 0;
        while let Some(at) = self.next_event().filter(|at| *at <= end) {
            idle = if at > self.now { 0 } else { idle + 1 };
            assert!(idle < 1_000, "time stands still at {:?}", self.now);
            self.now = self.now.max(at);
            self.step();
        }
        self.now = end;
    }

    fn step(&mut self) {
        while self.heap.peek().is_some_and(|f| f.0.at <= self.now) {
            let flight = self.heap.pop().unwrap().0;
            self.deliver(flight);
        }
        for host in 0..2 {
            if self.hosts[host].next.is_some_and(|at| at <= self.now) {
                self.hosts[host].next = self.hosts[host].traffic.every.map(|e| self.now + e);
                self.payload(host);
            }
            self.hosts[host].reap.handle_timeout(self.now);
            self.flush(host);
        }
    }

    /// The longest time without payload at a host since `from`.
    pub(super) fn gap(&self, host: usize, from: Instant) -> Duration {
        let arrived = self.hosts[host].arrived.iter().filter(|at| **at >= from);
        let times: Vec<_> = [from].iter().chain(arrived).copied().chain([self.now]).collect();
        times.windows(2).map(|w| w[1] - w[0]).max().unwrap()
    }

    pub(super) fn switches(&self, host: usize) -> Vec<(Instant, Pair, Why)> {
        let switched = |(at, e): &(Instant, ReapEvent)| match e {
            ReapEvent::Switched { to, why, .. } => Some((*at, *to, *why)),
            _ => None,
        };
        self.hosts[host].events.iter().filter_map(switched).collect()
    }

    /// No host sent more probes in any time than its budget.
    pub(super) fn check_budget(&self) {
        let budget = self.config.budget;
        for host in &self.hosts {
            let (mut level, mut last) = (0.0, Instant::ZERO);
            for (at, _, _) in &host.probes {
                let passed = (*at - last).as_secs_f64();
                level = (level - passed * f64::from(budget.per_second)).max(0.0) + 1.0;
                last = *at;
                assert!(level <= f64::from(budget.burst) + 1e-6, "{level} probes at {at:?}");
            }
        }
    }

    pub(super) fn probes_since(&self, host: usize, from: Instant) -> Vec<(Instant, Pair)> {
        let probes = self.hosts[host].probes.iter().filter(|(at, _, _)| *at >= from);
        probes.map(|(at, pair, _)| (*at, *pair)).collect()
    }
}
