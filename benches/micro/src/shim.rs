//! Two stacks above multipath shims, back to back in virtual time: what the shim costs where it is
//! off, where it does nothing, and where it rewrites. And one shim with many contexts.

use std::net::{IpAddr, SocketAddr};

use weft_shim::config::{Bounds, ShimConfig};
use weft_shim::contexts::{Contexts, Payload};
use weft_shim::encap::EncapConfig;
use weft_shim::layer::Layer;
use weft_shim::limit::Rate;
use weft_shim::locator::{Locator, LocatorList, Pair, Verification};
use weft_shim::reap::ReapConfig;
use weft_shim::trust::{OwnProof, Proof, Trust, Unproved};
use weft_shim::wire::{Body, Message, Tag};
use weft_stack::Stack;
use weft_stack::ip::address::{AliasConfig, AliasId, AliasMedium, Cidr};
use weft_stack::path::PathLayer;
use weft_stack::rng::Rng;
use weft_stack::socket::SocketId;
use weft_stack::stack::{Change, StackConfig, TxBurst};
use weft_stack::time::{Duration, Instant};

const ALIAS: AliasId = AliasId(0);
const PORT: u16 = 7;
const UDP_PORT: u16 = 4140;
const TCP: u8 = 6;

/// What the shim does with the packets of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// There is none.
    Off,
    /// It has a context, and packets go between the ULIDs.
    Plain,
    /// They go between other locators, behind a header.
    Rewritten,
    /// The same in UDP.
    Udp,
}

impl Way {
    /// All of them, the one that the others are compared with first.
    pub const ALL: [Way; 4] = [Way::Off, Way::Plain, Way::Rewritten, Way::Udp];
}

/// Proofs cost nothing here: they are of the set-up, not of packets.
struct Believed;

impl Trust for Believed {
    fn is_of(&self, _: IpAddr, _: &[u8]) -> bool {
        true
    }

    fn check(&self, _: IpAddr, _: &LocatorList, _: &Proof<'_>) -> Result<(), Unproved> {
        Ok(())
    }

    fn accepts(&self, _: IpAddr, _: Verification) -> bool {
        true
    }

    fn method(&self, _: IpAddr, _: IpAddr, locator: &Locator) -> Option<Verification> {
        Some(locator.verification)
    }

    fn prove(&mut self, _: IpAddr, _: IpAddr, _: &LocatorList, _: &[u8], _: &mut Rng) -> OwnProof {
        OwnProof::default()
    }
}

/// Address `n` of a host.
fn ip(host: u16, n: u16) -> IpAddr {
    IpAddr::from([0x2001, 0xdb8, n, 0, 0, 0, 0, host])
}

fn ulids() -> Pair {
    Pair::new(ip(1, 1), ip(2, 1))
}

/// A client and a server with two addresses each, and a connection between the first ones.
pub struct Hosts {
    now: Instant,
    stacks: [Stack<Layer>; 2],
    burst: TxBurst,
    /// The client's end and the server's.
    ends: (SocketId, SocketId),
}

impl Hosts {
    /// Connected, and their packets go that way.
    ///
    /// # Panics
    /// If they do not: the bench would measure something else.
    pub fn new(way: Way) -> Hosts {
        let mut now = Instant::from_millis(1000);
        let mut stacks = [1u16, 2].map(|host| stack(host, way, now));
        let mut burst = TxBurst::new(64);
        let mut run = |stacks: &mut [Stack<Layer>; 2], time: Duration| {
            now += time;
            settle(now, stacks, &mut burst);
            now
        };
        let now = run(&mut stacks, Duration::from_secs(3));
        if way != Way::Off {
            with_shim(&mut stacks[0], now, |shim| {
                shim.start(now, ulids(), 0).expect("nothing speaks against it");
            });
            run(&mut stacks, Duration::from_secs(1));
        }
        let second = Pair::new(ip(1, 2), ip(2, 2));
        for host in 0..2 {
            let now = run(&mut stacks, Duration::ZERO);
            let turn = |pair: Pair| if host == 0 { pair } else { pair.reversed() };
            if matches!(way, Way::Rewritten | Way::Udp) {
                with_shim(&mut stacks[host], now, |shim| {
                    shim.switch(now, turn(ulids()), 0, turn(second)).expect("a pair of theirs");
                });
            }
            let ends = turn(ulids());
            let overhead = stacks[host].path().overhead_bytes(ends.local, ends.remote);
            let expected = match way {
                Way::Off | Way::Plain => 0,
                Way::Rewritten => 8,
                Way::Udp => 16,
            };
            assert_eq!(overhead, expected, "{way:?}");
        }
        let now = run(&mut stacks, Duration::from_millis(1));
        let at = SocketAddr::new(ip(2, 1), PORT);
        let from = Some(SocketAddr::new(ip(1, 1), 0));
        let listener = stacks[1].tcp_listen(now, at, 4).expect("the port is free");
        let client = stacks[0].tcp_connect(now, from, at).expect("a free port");
        let now = run(&mut stacks, Duration::from_millis(1));
        let server = stacks[1].tcp_accept(listener).expect("the handshake is done").id;
        Hosts { now, stacks, burst, ends: (client, server) }
    }

    fn exchange(&mut self) {
        exchange(self.now, &mut self.stacks, &mut self.burst);
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        for stack in &mut self.stacks {
            if stack.poll_timeout().is_some_and(|at| at <= self.now) {
                stack.handle_timeout(self.now);
            }
        }
    }

    /// One byte there and one back.
    ///
    /// # Panics
    /// If a byte does not arrive.
    pub fn ping_pong(&mut self) {
        let (client, server) = self.ends;
        let mut byte = [0];
        self.stacks[0].tcp_send(self.now, client, &[1]).expect("room for a byte");
        self.exchange();
        assert_eq!(self.stacks[1].tcp_recv(self.now, server, &mut byte), Ok(1));
        self.stacks[1].tcp_send(self.now, server, &byte).expect("room for a byte");
        self.exchange();
        assert_eq!(self.stacks[0].tcp_recv(self.now, client, &mut byte), Ok(1));
        self.advance(Duration::from_micros(10));
    }

    /// `data` from client to server, read as it arrives.
    pub fn bulk(&mut self, data: &[u8], read: &mut [u8]) {
        let (client, server) = self.ends;
        let (mut sent, mut received) = (0, 0);
        while received < data.len() {
            if let Ok(n) = self.stacks[0].tcp_send(self.now, client, &data[sent..]) {
                sent += n;
            }
            self.exchange();
            while let Ok(n @ 1..) = self.stacks[1].tcp_recv(self.now, server, read) {
                received += n;
            }
            self.advance(Duration::from_micros(50));
        }
    }
}

fn with_shim(stack: &mut Stack<Layer>, now: Instant, f: impl FnOnce(&mut Contexts)) {
    stack.with_path_mut(now, |layer| f(layer.shim_mut().expect("a shim")));
}

/// Moves frames both ways until neither side has one.
fn exchange(now: Instant, stacks: &mut [Stack<Layer>; 2], burst: &mut TxBurst) {
    loop {
        let mut carried = 0;
        for from in 0..2 {
            carried += stacks[from].poll_transmit(now, burst);
            for (alias, frame) in burst.frames.drain(..) {
                // A device hands over what it received in one piece.
                let frame = if frame.frags.is_empty() { frame } else { frame.to_heap() };
                stacks[1 - from].handle_frame(now, alias, frame);
            }
        }
        if carried == 0 {
            break;
        }
    }
    for stack in stacks {
        while stack.poll_event().is_some() {}
    }
}

/// Lets time pass until `end`.
fn settle(end: Instant, stacks: &mut [Stack<Layer>; 2], burst: &mut TxBurst) {
    loop {
        let next = stacks.iter().filter_map(Stack::poll_timeout).min();
        let Some(at) = next.filter(|at| *at <= end) else { break };
        for stack in &mut *stacks {
            stack.handle_timeout(at);
        }
        exchange(at, stacks, burst);
    }
    exchange(end, stacks, burst);
}

fn stack(host: u16, way: Way, now: Instant) -> Stack<Layer> {
    let layer = if way == Way::Off { Layer::off() } else { Layer::on(shim(host, way, now)) };
    let config = StackConfig { seed: [host as u8; 16], ..StackConfig::default() };
    let mut stack = Stack::with_path(config, crate::peer::pool(4096), now, layer);
    let alias = AliasConfig::up_without_offload(ALIAS, AliasMedium::Ip);
    let mut changes = vec![Change::AliasAdd(alias)];
    for n in 1..=2 {
        let cidr = Cidr { addr: ip(host, n), prefix_len: 48 };
        changes.push(Change::AddressAdd { alias: ALIAS, cidr });
    }
    for change in changes {
        stack.handle_config(now, change).expect("a plain configuration");
    }
    stack
}

fn shim(host: u16, way: Way, now: Instant) -> Contexts {
    let mut own = LocatorList::default();
    for n in 1..=2 {
        let mut locator = Locator::new(ip(host, n), Verification::Keyed);
        locator.port = (way == Way::Udp && n == 2).then_some(UDP_PORT);
        own.locators.push(locator);
    }
    let (config, reap) = (ShimConfig::default(), ReapConfig::default());
    let mut shim = Contexts::new(config, reap, own, Box::new(Believed), [host as u8; 16]);
    shim.set_encap(now, (way == Way::Udp).then(|| EncapConfig::new(UDP_PORT)));
    shim
}

/// A shim with many contexts, any of which the next packet may be of.
pub struct Many {
    shim: Contexts,
    now: Instant,
    /// ULIDs and our tag of each.
    contexts: Vec<(Pair, Tag)>,
    at: usize,
}

impl Many {
    /// With `count` contexts, each set up by a peer of its own.
    ///
    /// # Panics
    /// If one is not set up.
    pub fn new(count: usize) -> Many {
        let most = Rate::new(1_000_000, 1_000_000);
        let (r1, r2, lists) = (most, most, most);
        let bounds = Bounds { contexts_max: count, r1, r2, lists, ..Bounds::default() };
        let config = ShimConfig { bounds, ..ShimConfig::default() };
        let server = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]);
        let mut many = Many {
            shim: contexts_of(server, config, 0),
            now: Instant::from_millis(1000),
            contexts: Vec::with_capacity(count),
            at: 0,
        };
        for n in 0..count as u32 {
            // A prefix each: the contexts of one are bounded.
            let (high, low) = ((n >> 16) as u16 + 1, n as u16);
            let peer = IpAddr::from([0x2001, 0xdb8, high, low, 0, 0, 0, 2]);
            let tag = many.set_up(Pair::new(server, peer), n);
            many.contexts.push((Pair::new(server, peer), tag));
        }
        assert_eq!(many.shim.len(), count, "every context is there");
        many
    }

    /// A peer sets a context up and is heard of no more; our tag of it.
    fn set_up(&mut self, ulids: Pair, seed: u32) -> Tag {
        self.now += Duration::from_micros(100);
        let now = self.now;
        let mut peer = contexts_of(ulids.remote, ShimConfig::default(), seed + 1);
        peer.start(now, ulids.reversed(), 0).expect("nothing speaks against it");
        let mut ours = None;
        while ours.is_none() {
            let out = peer.poll_transmit().expect("the peer goes on");
            self.shim.receive(now, out.pair.reversed(), &out.bytes);
            let answer = self.shim.poll_transmit().expect("an answer");
            let (message, _) = Message::read(&answer.bytes).expect("what is sent can be read");
            if let Body::R2 { responder_tag, .. } = message.body {
                ours = Some(responder_tag);
            }
            peer.receive(now, answer.pair.reversed(), &answer.bytes);
        }
        ours.expect("the loop ended")
    }

    /// When the first of all contexts wants time.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.shim.poll_timeout()
    }

    /// Nothing uses the contexts any longer; returns when the last one has ended.
    ///
    /// # Panics
    /// If one is left that waits for nothing.
    pub fn end(&mut self) {
        while !self.shim.is_empty() {
            let at = self.shim.poll_timeout().expect("a context waits for its end");
            self.now = self.now.max(at);
            self.shim.handle_timeout(self.now);
            while self.shim.poll_transmit().is_some() {}
            while self.shim.poll_event().is_some() {}
        }
    }

    /// A packet of the next context goes out, and one comes.
    ///
    /// # Panics
    /// If it is of none.
    pub fn packets(&mut self) {
        self.at = (self.at + 7919) % self.contexts.len();
        self.now += Duration::from_micros(1);
        let (ulids, tag) = self.contexts[self.at];
        self.shim.send(self.now, ulids, TCP, &[], 1500);
        let came = self.shim.received_tagged(self.now, ulids, tag);
        assert_eq!(came, Payload::Of(ulids));
    }
}

fn contexts_of(addr: IpAddr, config: ShimConfig, seed: u32) -> Contexts {
    let mut own = LocatorList::default();
    own.locators.push(Locator::new(addr, Verification::Keyed));
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&seed.to_be_bytes());
    Contexts::new(config, ReapConfig::rfc(), own, Box::new(Believed), bytes)
}
