//! The event loop: what happens next, and what is looked at afterwards.

use std::cmp::Reverse;

use weft_stack::Stack;
use weft_stack::frame::{Checksum, Frame, HEADROOM_BYTES};
use weft_stack::ip::address::AliasId;
use weft_stack::socket::Event;
use weft_stack::time::Instant;

use crate::actor::Io;
use crate::host::{Host, Player};
use crate::link::{Arrivals, Medium, Wire};
use crate::net::{Arrival, Net, Place};
use crate::witness::Seen;

/// Rounds of one host within one instant after which it counts as spinning.
const ROUNDS_MAX: usize = 10_000;

/// What the next step is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Fault,
    Arrival,
    Host(usize),
    Station(usize),
}

impl Net {
    /// Moves to the next thing that happens, at `until` at the latest. `false`: nothing did.
    pub(crate) fn step(&mut self, until: Instant) -> bool {
        let Some((at, next)) = self.next_step().filter(|(at, _)| *at <= until) else {
            self.now = self.now.max(until);
            return false;
        };
        self.now = self.now.max(at);
        self.steps += 1;
        match next {
            Next::Fault => {
                if let Some(fault) = self.timeline.pop() {
                    self.apply(fault);
                }
            }
            Next::Arrival => {
                if let Some(Reverse(arrival)) = self.arrivals.pop() {
                    self.deliver(arrival);
                }
            }
            Next::Host(host) => {
                let now = self.hosts[host].clock.read(self.now);
                self.hosts[host].stack.handle_timeout(now);
                self.service(host);
            }
            Next::Station(station) => self.poll_station(station),
        }
        true
    }

    fn next_step(&mut self) -> Option<(Instant, Next)> {
        let fault = self.timeline.next().map(|at| (at, Next::Fault));
        let arrival = self.arrivals.peek().map(|Reverse(a)| (a.at, Next::Arrival));
        let mut next = fault.into_iter().chain(arrival).min();
        let mut earlier = |at: Instant, what: Next| {
            if next.is_none_or(|n| (at, what) < n) {
                next = Some((at, what));
            }
        };
        for (i, host) in self.hosts.iter().enumerate() {
            if let Some(at) = host.next_at {
                earlier(at, Next::Host(i));
            }
        }
        let now = self.now;
        for (i, station) in self.stations.iter_mut().enumerate() {
            if let Some(at) = station.next(now) {
                // A station that has nothing to do now and says so must not stop time.
                earlier(at.max(now), Next::Station(i));
            }
        }
        next
    }

    fn deliver(&mut self, arrival: Arrival) {
        let Arrival { port, wire, .. } = arrival;
        let (place, interface) = (self.ports[port].place, self.ports[port].interface);
        if let Some(capture) = &mut self.capture {
            capture.frame(interface, self.now.as_nanos(), &wire.data);
        }
        match place {
            Place::Host(host, alias) => self.deliver_to_host(host, alias, &wire),
            Place::Station(station) => {
                self.stations[station].receive(self.now, &wire.data);
                self.poll_station(station);
            }
        }
    }

    fn deliver_to_host(&mut self, index: usize, alias: AliasId, wire: &Wire) {
        let host = &mut self.hosts[index];
        if let Some(seen) = wire.seen.as_ref().filter(|_| !host.forwarding && self.checked) {
            self.witness.arrived(seen);
        }
        let frame = host.pool.alloc().filter(|f| f.tailroom() >= wire.data.len());
        let mut frame =
            frame.unwrap_or_else(|| Frame::heap_with_capacity(HEADROOM_BYTES, wire.data.len()));
        frame.append(&wire.data);
        frame.meta = wire.meta;
        host.stack.handle_frame(host.clock.read(self.now), alias, frame);
        self.service(index);
    }

    /// Runs a host's actors and sends its frames until it has nothing to do in this instant.
    ///
    /// # Panics
    /// If it does not come to rest, or something does not hold that must.
    pub(crate) fn service(&mut self, host: usize) {
        for _ in 0..ROUNDS_MAX {
            let played = self.play(host);
            let sent = self.transmit(host);
            if !played && !sent {
                if let Some(trace) = &mut self.trace {
                    trace.rests(&self.hosts[host].stack);
                }
                if self.checked {
                    let holds = self.hosts[host].stack.check();
                    holds.unwrap_or_else(|e| self.broken(host, &e));
                }
                self.hosts[host].plan();
                return;
            }
        }
        self.broken(host, "it does not come to rest");
    }

    /// # Panics
    /// Always: something does not hold that must.
    fn broken(&self, host: usize, what: &str) -> ! {
        let (name, seed) = (&self.hosts[host].name, self.seed);
        panic!("{name} at {:?} (seed {seed}, step {}): {what}", self.now, self.steps);
    }

    fn play(&mut self, host: usize) -> bool {
        let Host { stack, players, clock, .. } = &mut self.hosts[host];
        let mut played = false;
        let now = clock.read(self.now);
        for player in players.iter_mut().filter(|p| p.wake_at.is_some_and(|at| at <= now)) {
            player.wake_at = None;
            let wake_at = &mut player.wake_at;
            player.actor.run(&mut Io { stack, now, rng: &mut player.rng, wake_at }, None);
            played = true;
        }
        while let Some(event) = stack.poll_event() {
            played = true;
            run_all(stack, players, now, &event);
        }
        played
    }

    fn transmit(&mut self, host: usize) -> bool {
        let mut burst = std::mem::take(&mut self.burst);
        let now = self.hosts[host].clock.read(self.now);
        let sent = self.hosts[host].stack.poll_transmit(now, &mut burst) > 0;
        for (alias, frame) in burst.frames.drain(..) {
            self.leave_host(host, alias, &frame);
        }
        self.burst = burst;
        sent
    }

    /// A frame leaves a host.
    fn leave_host(&mut self, from: usize, alias: AliasId, frame: &Frame) {
        let mut data = vec![0; frame.total_len()];
        frame.copy_to(&mut data);
        if let Some(trace) = &mut self.trace {
            trace.sent(from, self.now, &data);
        }
        let mut meta = frame.meta;
        meta.network_offset = 0;
        let Some(&port) = self.hosts[from].ports.get(usize::from(alias.0)) else { return };
        let spec = &self.segments[self.ports[port].segment].spec;
        if !spec.offload {
            let offloaded = meta.checksum != Checksum::Complete;
            assert!(!offloaded, "a frame for a plain link leaves work to the device");
        }
        let mut wire = Wire { data, meta, seen: None };
        if self.checked {
            let ip = (spec.medium == Medium::Ip)
                || matches!(wire.data.get(12..14), Some([8, 0] | [0x86, 0xdd]));
            let header = spec.header_bytes();
            // What a router passes on may have been damaged before it came there.
            let forwards = self.hosts[from].forwarding && meta.checksum == Checksum::Complete;
            let parse = if forwards { Seen::parse_intact } else { Seen::parse };
            let seen = ip.then(|| parse(wire.data.get(header..)?)).flatten();
            if let Some(mut seen) = seen {
                seen.to_be_cut = spec.offload;
                if !self.hosts[from].forwarding {
                    let holds = self.witness.sent(&seen);
                    holds.unwrap_or_else(|e| self.broken(from, &e));
                }
                wire.seen = Some(Box::new(seen));
            }
        }
        self.carry(port, wire);
    }

    /// Lets a station send what it has.
    pub(crate) fn poll_station(&mut self, station: usize) {
        let mut out = Vec::new();
        self.stations[station].poll(self.now, &mut out);
        let place = Place::Station(station);
        let port = self.ports.iter().position(|p| p.place == place);
        for data in out {
            let Some(port) = port else { continue };
            let header = self.segments[self.ports[port].segment].spec.header_bytes();
            let seen = data.get(header..).and_then(Seen::parse).map(Box::new);
            if let Some(seen) = &seen {
                self.witness.heard(seen);
            }
            self.carry(port, Wire { data, meta: <_>::default(), seen });
        }
    }

    /// A frame enters a segment by a port.
    fn carry(&mut self, from: usize, mut wire: Wire) {
        let port = &mut self.ports[from];
        if let Some(capture) = &mut self.capture {
            capture.frame(port.interface, self.now.as_nanos(), &wire.data);
        }
        let segment = &mut self.segments[port.segment];
        let spec = port.egress.as_ref().unwrap_or(&segment.spec);
        let copies = match &mut self.fates {
            Some(fates) => {
                // ARP has no checksum, and one left to a device covers nothing.
                let arp = spec.medium == Medium::Ethernet && wire.data.get(12..14) == Some(&[8, 6]);
                let whole = wire.meta.checksum == Checksum::Complete && !arp;
                let header = if whole { spec.header_bytes() } else { wire.data.len() };
                fates.decide(self.now, header, &mut wire.data)
            }
            None => {
                spec.pass(&mut port.way, &mut segment.stats, &mut self.rng, self.now, &mut wire)
            }
        };
        if copies.first.is_none() {
            return;
        }
        let ethernet = spec.medium == Medium::Ethernet;
        let dst: [u8; 6] = std::array::from_fn(|i| wire.data.get(i).copied().unwrap_or(0));
        let to_all = !ethernet || dst[0] & 1 != 0;
        let ports = &self.ports;
        let takes = |p: &usize| *p != from && (to_all || ports[*p].mac == dst);
        let takers: Vec<usize> = segment.ports.iter().copied().filter(takes).collect();
        for (i, port) in takers.iter().enumerate() {
            let last = i + 1 == takers.len();
            self.enqueue(*port, copies, &mut wire, last);
        }
    }

    fn enqueue(&mut self, port: usize, copies: Arrivals, wire: &mut Wire, last: bool) {
        let Arrivals { first, again } = copies;
        let count = usize::from(first.is_some()) + usize::from(again.is_some());
        for (i, at) in first.into_iter().chain(again).enumerate() {
            self.serial += 1;
            let wire = if last && i + 1 == count {
                Wire {
                    data: std::mem::take(&mut wire.data),
                    meta: wire.meta,
                    seen: wire.seen.take(),
                }
            } else {
                wire.clone()
            };
            self.arrivals.push(Reverse(Arrival { at, serial: self.serial, port, wire }));
        }
    }
}

fn run_all(stack: &mut Stack, players: &mut [Player], now: Instant, event: &Event) {
    for player in players {
        let wake_at = &mut player.wake_at;
        player.actor.run(&mut Io { stack, now, rng: &mut player.rng, wake_at }, Some(event));
    }
}
