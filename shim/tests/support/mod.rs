//! A simulated network between hosts with shims, in virtual time, and messages by hand.
#![allow(dead_code, missing_docs, clippy::unwrap_used, unreachable_pub)]

pub mod net;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use weft_shim::config::ShimConfig;
use weft_shim::contexts::Contexts;
use weft_shim::layer::Layer;
use weft_shim::locator::{Locator, LocatorList, Pair, Verification};
use weft_shim::reap::ReapConfig;
use weft_shim::trust::{OwnProof, Proof, Trust, Unproved};
use weft_shim::wire::message::Message;
use weft_shim::wire::{Body, Header, PROTOCOL};
use weft_stack::frame::Frame;
use weft_stack::path::{Pass, Passing, PathAddrs, PathLayer, Rewriting};
use weft_stack::rng::Rng;
use weft_stack::time::{Duration, Instant};

/// Address `n` of host `host`.
pub fn ip(host: u16, n: u16) -> IpAddr {
    IpAddr::from([0x2001, 0xdb8, n, 0, 0, 0, 0, host])
}

/// Hosts prove their addresses as with hash-based addresses: all addresses of a host are one set,
/// and its parameters are its number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sets;

pub fn host_of(addr: IpAddr) -> u16 {
    match addr {
        IpAddr::V6(v6) => v6.segments()[7],
        IpAddr::V4(v4) => u16::from(v4.octets()[3]),
    }
}

impl Trust for Sets {
    fn is_of(&self, ulid: IpAddr, pds: &[u8]) -> bool {
        pds == host_of(ulid).to_be_bytes()
    }

    fn check(&self, ulid: IpAddr, list: &LocatorList, proof: &Proof<'_>) -> Result<(), Unproved> {
        if proof.pds.is_some_and(|pds| !self.is_of(ulid, pds)) {
            return Err(Unproved::NotTheUlids);
        }
        let bad = |l: &Locator| {
            l.addr != ulid
                && (proof.pds.is_none()
                    || host_of(l.addr) != host_of(ulid)
                    || l.verification != Verification::Hba)
        };
        list.locators.iter().position(bad).map_or(Ok(()), |at| Err(Unproved::Locator(at)))
    }

    fn accepts(&self, _: IpAddr, method: Verification) -> bool {
        method == Verification::Hba
    }

    fn method(&self, _: IpAddr, _: IpAddr, locator: &Locator) -> Option<Verification> {
        Some(locator.verification)
    }

    fn prove(
        &mut self,
        ulid: IpAddr,
        _: IpAddr,
        _: &LocatorList,
        _: &[u8],
        _: &mut Rng,
    ) -> OwnProof {
        OwnProof { pds: Some(host_of(ulid).to_be_bytes().to_vec()), ..OwnProof::default() }
    }
}

pub fn list_of(host: u16, n: u16) -> LocatorList {
    let locators = (1..=n).map(|i| Locator::new(ip(host, i), Verification::Hba)).collect();
    LocatorList { generation: u32::from(host), locators }
}

pub fn shim(host: u16, addresses: u16, config: ShimConfig, reap: ReapConfig) -> Contexts {
    shim_seeded(host, addresses, config, reap, u64::from(host))
}

pub fn shim_seeded(
    host: u16,
    addresses: u16,
    config: ShimConfig,
    reap: ReapConfig,
    seed: u64,
) -> Contexts {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    bytes[8..10].copy_from_slice(&host.to_be_bytes());
    Contexts::new(config, reap, list_of(host, addresses), Box::new(Sets), bytes)
}

/// A packet below the shim.
#[derive(Clone, Debug)]
pub struct Packet {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub protocol: u8,
    pub data: Vec<u8>,
}

impl Packet {
    /// The control message in it.
    pub fn message(&self) -> Option<Message> {
        if self.protocol != PROTOCOL {
            return None;
        }
        let Header::Control { len } = Header::read(&self.data)? else { return None };
        Message::read(&self.data[..len]).ok().map(|(m, _)| m)
    }
}

/// What a transport got: ULIDs and what the sender wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    pub at: Instant,
    pub ulids: Pair,
    pub number: u64,
}

pub struct Host {
    pub number: u16,
    pub layer: Layer,
    pub addrs: HashSet<IpAddr>,
    pub got: Vec<Got>,
    pub switched: Vec<Instant>,
    /// What connections keep of the layer's answers.
    known: HashMap<Pair, Passing>,
    /// What it said of how packets are rewritten, and of which answer.
    said: HashMap<Pair, (Passing, Rewriting)>,
}

impl Host {
    fn passes(&mut self, ulids: Pair) -> bool {
        let asked = self.layer.passes(ulids.local, ulids.remote);
        let known = self.known.entry(ulids).or_default();
        let passes = self.layer.passing(ulids.local, ulids.remote, known);
        assert_eq!(passes, asked, "what is kept of an answer is no other answer");
        passes
    }

    /// How packets that do not pass are rewritten, if the layer says so beforehand.
    fn rewriting(&mut self, ulids: Pair) -> Option<Rewriting> {
        let known = self.known[&ulids];
        let said = self.layer.rewriting(known, UDP)?;
        assert_eq!(said.way, self.layer.way(ulids.local, ulids.remote));
        assert!(self.layer.rewriting_holds(known), "of now");
        if let Some((of, before)) = self.said.insert(ulids, (known, said))
            && of == known
        {
            assert_eq!(before, said, "it holds under its name");
        }
        Some(said)
    }
}

/// Protocol of the payloads.
const UDP: u8 = 17;
/// The port that all of them go to.
const SERVICE: u16 = 9;

/// Hosts and the network between them.
pub struct Lab {
    pub now: Instant,
    pub hosts: Vec<Host>,
    /// Directed pairs of locators that lose everything.
    pub dead: HashSet<(IpAddr, IpAddr)>,
    /// Packets lost of a hundred.
    pub loss_percent: u64,
    pub delay: Duration,
    pub jitter: Duration,
    pub rng: Rng,
    wire: BTreeMap<(Instant, u64), Packet>,
    serial: u64,
    /// Everything that was sent, if wanted.
    pub log: Option<Vec<(Instant, Packet)>>,
    pub sent: u64,
    pub control_sent: u64,
}

impl Lab {
    pub fn new(seed: u64, shims: Vec<(u16, u16, Layer)>) -> Lab {
        let host = |(number, addresses, layer)| Host {
            number,
            layer,
            addrs: (1..=addresses).map(|n| ip(number, n)).collect(),
            got: Vec::new(),
            switched: Vec::new(),
            known: HashMap::new(),
            said: HashMap::new(),
        };
        Lab {
            now: Instant::from_millis(1000),
            hosts: shims.into_iter().map(host).collect(),
            dead: HashSet::new(),
            loss_percent: 0,
            delay: Duration::from_millis(5),
            jitter: Duration::ZERO,
            rng: Rng::from_u64(seed),
            wire: BTreeMap::new(),
            serial: 0,
            log: None,
            sent: 0,
            control_sent: 0,
        }
    }

    /// Two hosts with so many addresses.
    pub fn two(seed: u64, config: &ShimConfig, reap: ReapConfig, addresses: [u16; 2]) -> Lab {
        let hosts = [1u16, 2].into_iter().zip(addresses).map(|(number, n)| {
            let shim = shim_seeded(number, n, config.clone(), reap, seed);
            (number, n, Layer::on(shim))
        });
        Lab::new(seed, hosts.collect())
    }

    pub fn shim(&mut self, host: usize) -> &mut Contexts {
        self.hosts[host].layer.shim_mut().unwrap()
    }

    /// A transport of `host` sends a numbered packet.
    pub fn send(&mut self, host: usize, ulids: Pair, number: u64) {
        let mut data = vec![0, 7, 0, 9];
        data.extend_from_slice(&number.to_be_bytes());
        for addr in [ulids.local, ulids.remote] {
            data.extend_from_slice(&weft_shim::locator::to_octets(addr));
        }
        let mut addrs = PathAddrs { src: ulids.local, dst: ulids.remote, protocol: UDP };
        let h = &mut self.hosts[host];
        if h.passes(ulids) {
            let known = h.known[&ulids];
            h.layer.passed_out(self.now, addrs.src, addrs.dst, known, data.len());
        } else if let Some(said) = h.rewriting(ulids).filter(|_| number.is_multiple_of(2)) {
            h.layer.rewritten(self.now, &said);
            data.splice(..0, said.header);
            let (src, dst) = said.way.locators;
            addrs = PathAddrs { src, dst, protocol: said.protocol };
        } else {
            let mut frame = Frame::from_heap(128, &data);
            h.layer.egress(self.now, &mut addrs, &mut frame).unwrap();
            data = frame.data().to_vec();
        }
        self.put(Packet { src: addrs.src, dst: addrs.dst, protocol: addrs.protocol, data });
        self.pump(host);
    }

    /// Takes what a host wants sent and told.
    pub fn pump(&mut self, host: usize) {
        while let Some((addrs, frame)) = self.hosts[host].layer.poll_transmit(self.now) {
            let (src, dst, protocol) = (addrs.src, addrs.dst, addrs.protocol);
            self.control_sent += 1;
            self.put(Packet { src, dst, protocol, data: frame.data().to_vec() });
        }
        while let Some(event) = self.hosts[host].layer.poll_event() {
            if matches!(event, weft_stack::path::PathEvent::Switched { .. }) {
                self.hosts[host].switched.push(self.now);
            }
        }
    }

    /// Puts a packet on the wire, unless it is lost.
    pub fn put(&mut self, packet: Packet) {
        self.sent += 1;
        if let Some(log) = &mut self.log {
            log.push((self.now, packet.clone()));
        }
        // Nothing leaves with an address that no host has any longer.
        let stray = !self.hosts.iter().any(|h| h.addrs.contains(&packet.src));
        let lost = stray || self.rng.below(100) < self.loss_percent;
        if lost || self.dead.contains(&(packet.src, packet.dst)) {
            return;
        }
        let extra = self.rng.below(self.jitter.as_nanos() as u64 + 1);
        let at = self.now + self.delay + Duration::from_nanos(extra);
        self.serial += 1;
        self.wire.insert((at, self.serial), packet);
    }

    fn arrive(&mut self, packet: &Packet) {
        let Some(at) = self.hosts.iter().position(|h| h.addrs.contains(&packet.dst)) else {
            return;
        };
        self.deliver(at, packet);
        self.pump(at);
    }

    /// Gives a packet to a host.
    pub fn deliver(&mut self, host: usize, packet: &Packet) {
        let mut addrs = PathAddrs { src: packet.src, dst: packet.dst, protocol: packet.protocol };
        let mut frame = Frame::from_heap(128, &packet.data);
        let h = &mut self.hosts[host];
        let port = u16::from_be_bytes([packet.data[2], packet.data[3]]);
        let ours = packet.protocol == PROTOCOL || h.layer.takes_udp_port(port);
        if !ours && packet.protocol == UDP && port != SERVICE {
            // Nobody listens: a datagram for a port that the shim had.
            return;
        }
        let ulids = Pair::new(packet.dst, packet.src);
        let foresee = packet.protocol == PROTOCOL && self.serial.is_multiple_of(2);
        let said = if foresee { h.layer.would_restore(&addrs, frame.data()) } else { None };
        if !ours && h.passes(ulids) {
            let known = h.known[&ulids];
            h.layer.passed_in(self.now, packet.src, packet.dst, known, packet.data.len());
        } else if let Some(said) = said {
            h.layer.restored(self.now, &addrs, &said);
            frame.pull_front(said.skip);
            addrs = said.addrs;
        } else if !matches!(
            h.layer.ingress(self.now, &mut addrs, &mut frame),
            Ok(Pass::Up | Pass::Unshown)
        ) {
            return;
        }
        assert_eq!(addrs.protocol, UDP);
        let data = frame.data();
        let written =
            |at: usize| weft_shim::locator::from_octets(data[at..at + 16].try_into().unwrap());
        // Never a packet to a ULID that is not the context's.
        assert_eq!((addrs.src, addrs.dst), (written(12), written(28)), "ULIDs are restored");
        let number = u64::from_be_bytes(data[4..12].try_into().unwrap());
        let ulids = Pair::new(addrs.dst, addrs.src);
        h.got.push(Got { at: self.now, ulids, number });
    }

    fn next(&self) -> Option<Instant> {
        let wire = self.wire.keys().next().map(|(at, _)| *at);
        let timers = self.hosts.iter().filter_map(|h| h.layer.poll_timeout());
        timers.chain(wire).min()
    }

    /// Lets time pass until `until`.
    pub fn run_until(&mut self, until: Instant) {
        while let Some(at) = self.next().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            for host in 0..self.hosts.len() {
                self.hosts[host].layer.handle_timeout(self.now);
                self.pump(host);
            }
            while let Some(entry) = self.wire.first_entry().filter(|e| e.key().0 <= self.now) {
                let packet = entry.remove();
                self.arrive(&packet);
            }
        }
        self.now = self.now.max(until);
    }

    pub fn run(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    /// All directions between two hosts' addresses that work.
    pub fn kill(&mut self, src: IpAddr, dst: IpAddr) {
        self.dead.insert((src, dst));
    }
}

/// The ULIDs of hosts 1 and 2, as host 1 sees them.
pub fn ulids() -> Pair {
    Pair::new(ip(1, 1), ip(2, 1))
}

/// The messages a shim wants sent, and where to.
pub fn taken(shim: &mut Contexts) -> Vec<(Pair, Message)> {
    let mut out = Vec::new();
    while let Some(next) = shim.poll_transmit() {
        let (message, _) = Message::read(&next.bytes).expect("what is sent can be read");
        out.push((next.pair, message));
    }
    out
}

/// Whether a message is part of set-up or recovery.
pub fn is_handshake(body: &Body) -> bool {
    body.kind() < 64
}
