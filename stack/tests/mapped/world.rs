//! Two hosts with two providers each, and an internet between them that knows where addresses are.
//! Each provider takes only packets from the addresses that it gave (RFC 2827).

use std::collections::BTreeMap;
use std::net::IpAddr;

use weft_stack::Stack;
use weft_stack::frame::{Frame, FramePool, Gso};
use weft_stack::ip::address::{AliasConfig, AliasId, AliasMedium};
use weft_stack::ip::route::Route;
use weft_stack::socket::tcp::{TcpRecvError, TcpSendError, TcpState};
use weft_stack::socket::{Event, SocketId};
use weft_stack::stack::{Change, StackConfig, TxBurst};
use weft_stack::time::{Duration, Instant};
use weft_stack::wire::checksum;

use crate::layer::{Context, Layer, Pair};

pub const A: usize = 0;
pub const B: usize = 1;

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The address of a host by one of its providers.
pub fn v6(host: usize, provider: usize) -> IpAddr {
    ip(&format!("2001:db8:{host}:{provider}::1"))
}

pub fn v4(host: usize, provider: usize) -> IpAddr {
    ip(&format!("10.{host}.{provider}.1"))
}

/// What the way between a provider of A and one of B does.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    pub delay: Duration,
    /// From A to B, from B to A.
    pub open: [bool; 2],
    /// Of a router in the middle, which tells who sent too much.
    pub mtu: usize,
}

pub struct World {
    pub now: Instant,
    pub stacks: [Stack<Layer>; 2],
    /// By provider of A and provider of B.
    pub ways: [[Way; 2]; 2],
    pub events: [Vec<Event>; 2],
    /// Every packet that left: who, the alias, and the packet as on the wire.
    pub sent: Vec<(Instant, usize, AliasId, Frame)>,
    flying: BTreeMap<(Instant, u64), (usize, AliasId, Frame)>,
    serial: u64,
}

pub struct Setup {
    pub gso: usize,
    pub layers: [Layer; 2],
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { gso: 0, layers: [Layer::on(), Layer::on()] }
    }
}

impl World {
    pub fn new() -> World {
        World::with(Setup::default())
    }

    pub fn with(setup: Setup) -> World {
        let now = Instant::from_millis(1000);
        let pools = [FramePool::heap(4096, 2048), FramePool::heap(4096, 2048)];
        let mut layers = setup.layers.into_iter();
        let mut make = |host: usize| {
            let config = StackConfig { seed: [host as u8 + 1; 16], ..StackConfig::default() };
            let layer = layers.next().unwrap();
            let mut stack = Stack::with_path(config, pools[host].clone(), now, layer);
            for provider in 0..2 {
                add_alias(&mut stack, now, host, provider, setup.gso);
            }
            stack
        };
        let way = Way { delay: Duration::from_millis(5), open: [true; 2], mtu: 1500 };
        let mut world = World {
            now,
            stacks: [make(A), make(B)],
            ways: [[way; 2]; 2],
            events: [Vec::new(), Vec::new()],
            sent: Vec::new(),
            flying: BTreeMap::new(),
            serial: 0,
        };
        // Duplicate address detection.
        world.run_for(Duration::from_secs(3));
        world.sent.clear();
        world
    }

    /// A context at both ends, packets by these locators of A and B.
    pub fn context(&mut self, a: (IpAddr, IpAddr), b: (IpAddr, IpAddr)) {
        let (here, there) = (0x1234_5678_9abc, 0x0dcb_a987_6543);
        let of = |(ulid, locator), (peer, at), tag_in, tag_out| Context {
            ulids: (ulid, peer),
            locators: (locator, at),
            tag_in,
            tag_out,
        };
        self.stacks[A].with_path_mut(self.now, |l| l.contexts.push(of(a, b, here, there)));
        self.stacks[B].with_path_mut(self.now, |l| l.contexts.push(of(b, a, there, here)));
    }

    /// A context between the first addresses, by the ways given.
    pub fn context_by(&mut self, a: usize, b: usize) {
        self.context((v6(A, 0), v6(A, a)), (v6(B, 0), v6(B, b)));
    }

    /// Both ends move the context between the first addresses.
    pub fn switch(&mut self, a: usize, b: usize, lost: bool) {
        for host in [A, B] {
            self.switch_one(host, a, b, lost, None);
        }
    }

    pub fn switch_one(
        &mut self,
        host: usize,
        a: usize,
        b: usize,
        lost: bool,
        rtt: Option<Duration>,
    ) {
        let turn = |pair: Pair| if host == A { pair } else { (pair.1, pair.0) };
        let ulids = turn((v6(A, 0), v6(B, 0)));
        let to = turn((v6(A, a), v6(B, b)));
        self.stacks[host].with_path_mut(self.now, |l| l.switch(ulids, to, lost, rtt));
    }

    pub fn layer(&self, host: usize) -> &Layer {
        self.stacks[host].path()
    }

    pub fn change(&mut self, host: usize, change: Change) {
        self.stacks[host].handle_config(self.now, change).unwrap();
    }

    /// The wire cuts what senders left to it.
    fn transmit(&mut self, host: usize, alias: AliasId, frame: &Frame) {
        assert!(frame.meta.gso != Gso::None || frame.total_len() <= 1500, "too long for the link");
        self.sent.push((self.now, host, alias, copy_of(frame)));
        let (src, dst) = addresses(frame.data());
        let Some((of, by)) = owner(src) else { return };
        if (of, by) != (host, usize::from(alias.0)) {
            return;
        }
        let Some((to, on)) = owner(dst).filter(|(to, _)| *to != host) else { return };
        let way = if host == A { self.ways[by][on] } else { self.ways[on][by] };
        if !way.open[host] {
            return;
        }
        if frame.meta.gso == Gso::None && frame.total_len() > way.mtu {
            let told = too_big(way.mtu, &frame.to_heap());
            return self.fly(way.delay, (host, alias, told));
        }
        self.fly(way.delay, (to, AliasId(on as u16), copy_of(frame)));
    }

    fn fly(&mut self, delay: Duration, what: (usize, AliasId, Frame)) {
        self.serial += 1;
        self.flying.insert((self.now + delay, self.serial), what);
    }

    pub fn pump(&mut self) {
        for host in [A, B] {
            loop {
                let mut burst = TxBurst::new(64);
                if self.stacks[host].poll_transmit(self.now, &mut burst) == 0 {
                    break;
                }
                for (alias, frame) in burst.frames {
                    self.transmit(host, alias, &frame);
                }
            }
            while let Some(event) = self.stacks[host].poll_event() {
                self.events[host].push(event);
            }
        }
    }

    pub fn step(&mut self, until: Instant) -> bool {
        self.pump();
        let timers = self.stacks.iter().filter_map(Stack::poll_timeout);
        let frames = self.flying.keys().next().map(|k| k.0);
        let Some(next) = timers.chain(frames).min().filter(|t| *t <= until) else {
            self.now = self.now.max(until);
            return false;
        };
        self.now = self.now.max(next);
        while let Some(entry) = self.flying.first_entry().filter(|e| e.key().0 <= self.now) {
            let (to, alias, frame) = entry.remove();
            self.stacks[to].handle_frame(self.now, alias, frame);
        }
        for stack in &mut self.stacks {
            if stack.poll_timeout().is_some_and(|t| t <= self.now) {
                stack.handle_timeout(self.now);
            }
        }
        self.pump();
        true
    }

    pub fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
    }

    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut World) -> bool) {
        let until = self.now + limit;
        self.pump();
        while !done(self) {
            assert!(self.step(until), "not done after {limit:?}");
        }
    }

    /// A connection from A to port 80 of B between two ULIDs: both ends.
    pub fn connected(&mut self, from: IpAddr, to: IpAddr) -> (SocketId, SocketId) {
        let l = self.stacks[B].tcp_listen(self.now, (to, 80).into(), 16).unwrap();
        let from = Some((from, 0).into());
        let c = self.stacks[A].tcp_connect(self.now, from, (to, 80).into()).unwrap();
        let mut accepted = None;
        self.run_until(Duration::from_mins(1), |w| {
            accepted = accepted.or_else(|| w.stacks[B].tcp_accept(l));
            accepted.is_some() && w.stacks[A].tcp_state(c) == TcpState::Established
        });
        self.stacks[B].tcp_close(self.now, l);
        (c, accepted.unwrap().id)
    }

    /// Sends `data` from A to B, or as much as `until` says, and checks every byte.
    pub fn transfer(&mut self, (tx, rx): (SocketId, SocketId), data: &[u8]) {
        let mut carrier = Carrier::new(tx, rx, data);
        self.run_until(Duration::from_mins(10), |w| carrier.turn(w));
        carrier.check();
    }

    pub fn check(&self) {
        for stack in &self.stacks {
            stack.mib().check_sums().unwrap();
        }
    }
}

/// A transfer from A to B that goes on while other things happen.
pub struct Carrier {
    tx: SocketId,
    rx: SocketId,
    data: Vec<u8>,
    sent: usize,
    pub got: Vec<u8>,
    /// When bytes came.
    pub times: Vec<Instant>,
}

impl Carrier {
    pub fn new(tx: SocketId, rx: SocketId, data: &[u8]) -> Carrier {
        Carrier { tx, rx, data: data.to_vec(), sent: 0, got: Vec::new(), times: Vec::new() }
    }

    /// Does what can be done now; true when all has arrived.
    pub fn turn(&mut self, w: &mut World) -> bool {
        while self.sent < self.data.len() {
            let end = self.data.len().min(self.sent + 30_000);
            match w.stacks[A].tcp_send(w.now, self.tx, &self.data[self.sent..end]) {
                Ok(n) => self.sent += n,
                Err(TcpSendError::WouldBlock) => break,
                Err(e) => panic!("send: {e}"),
            }
        }
        let mut out = vec![0; 65_536];
        loop {
            match w.stacks[B].tcp_recv(w.now, self.rx, &mut out) {
                Ok(0) => panic!("the sender does not close"),
                Ok(n) => {
                    self.got.extend_from_slice(&out[..n]);
                    self.times.push(w.now);
                }
                Err(TcpRecvError::WouldBlock) => break,
                Err(e) => panic!("receive: {e}"),
            }
        }
        w.pump();
        self.got.len() == self.data.len()
    }

    pub fn check(&self) {
        assert!(self.got == self.data[..self.got.len()], "wrong bytes");
    }
}

fn add_alias(stack: &mut Stack<Layer>, now: Instant, host: usize, provider: usize, gso: usize) {
    let id = AliasId(provider as u16);
    let mut add = |change| stack.handle_config(now, change).unwrap();
    add(Change::AliasAdd(AliasConfig {
        gso_bytes_max: gso,
        tx_checksum: gso > 0,
        ..AliasConfig::up_without_offload(id, AliasMedium::Ip)
    }));
    for (addr, any) in [(v6(host, provider), "::/0"), (v4(host, provider), "0.0.0.0/0")] {
        let len = if addr.is_ipv4() { 24 } else { 64 };
        let cidr = format!("{addr}/{len}").parse().unwrap();
        add(Change::AddressAdd { alias: id, cidr });
        let prefix = any.parse().unwrap();
        let metric = 10 + provider as u32;
        add(Change::RouteAdd(Route { prefix, via: None, alias: id, src: None, metric, mtu: None }));
    }
}

/// Bytes that share no memory with the sender's.
fn copy_of(frame: &Frame) -> Frame {
    let mut copy = Frame::from_heap(64, frame.data());
    copy.frags.extend(frame.frags.iter().map(bytes::Bytes::copy_from_slice));
    copy.meta = frame.meta;
    if frame.meta.gso == Gso::None { copy.to_heap() } else { copy }
}

/// Source and destination of a packet.
pub fn addresses(p: &[u8]) -> Pair {
    let v6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&p[at..at + 16]).unwrap());
    let v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&p[at..at + 4]).unwrap());
    if p[0] >> 4 == 6 { (v6(8), v6(24)) } else { (v4(12), v4(16)) }
}

/// Whose address it is: host and provider.
fn owner(addr: IpAddr) -> Option<(usize, usize)> {
    let all = [(A, 0), (A, 1), (B, 0), (B, 1)];
    all.into_iter().find(|(h, p)| v6(*h, *p) == addr || v4(*h, *p) == addr)
}

/// The router's answer (RFC 4443) to an IPv6 packet.
fn too_big(mtu: usize, packet: &Frame) -> Frame {
    error(2, 0, mtu as u32, packet.data())
}

/// An ICMPv6 error about a packet, to who sent it.
pub fn error(kind: u8, code: u8, word: u32, packet: &[u8]) -> Frame {
    let mut icmp = vec![kind, code, 0, 0];
    icmp.extend(word.to_be_bytes());
    icmp.extend_from_slice(&packet[..packet.len().min(1200)]);
    let (router, to) = (ip("2001:db8:ffff::1"), addresses(packet).0);
    packet6(router, to, 58, icmp, Some(2))
}

/// An IPv6 packet, its payload's checksum at `sum` written.
pub fn packet6(
    src: IpAddr,
    dst: IpAddr,
    next: u8,
    mut payload: Vec<u8>,
    sum: Option<usize>,
) -> Frame {
    if let Some(at) = sum {
        let pseudo = checksum::pseudo(src, dst, next, payload.len());
        let sum = checksum::finish(checksum::combine(pseudo, checksum::sum(&payload)));
        payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    let (IpAddr::V6(src), IpAddr::V6(dst)) = (src, dst) else { panic!("IPv6 only") };
    let mut p = vec![0x60, 0, 0, 0];
    p.extend((payload.len() as u16).to_be_bytes());
    p.extend([next, 64]);
    p.extend(src.octets());
    p.extend(dst.octets());
    p.extend(payload);
    Frame::from_heap(64, &p)
}

/// Bytes that differ at every position.
pub fn pattern(len: usize) -> Vec<u8> {
    let mut rng = weft_stack::rng::Rng::from_u64(99);
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend_from_slice(&rng.next_u64().to_le_bytes());
    }
    out.truncate(len);
    out
}
