//! Two stacks back to back in virtual time: a line with delay, loss, reordering and duplication.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use weft_stack::Stack;
use weft_stack::frame::{Frame, FramePool, Gso};
use weft_stack::ip::address::{AliasConfig, AliasId, AliasMedium, Cidr};
use weft_stack::rng::Rng;
use weft_stack::socket::tcp::{TcpRecvError, TcpSendError, TcpState};
use weft_stack::socket::{Event, SocketId};
use weft_stack::stack::{Change, StackConfig, TxBurst};
use weft_stack::time::Instant;
use weft_stack::wire::checksum;

pub const ALIAS: AliasId = AliasId(0);
pub const A: usize = 0;
pub const B: usize = 1;

/// What the line does to packets.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    pub delay: Duration,
    /// Per thousand.
    pub loss: u64,
    pub duplicate: u64,
    /// Per thousand are delayed by up to ten times the delay.
    pub reorder: u64,
    pub mtu: usize,
    /// Super-segments stay whole.
    pub gso: usize,
    pub ethernet: bool,
}

impl Default for Line {
    fn default() -> Line {
        Line {
            delay: Duration::from_millis(5),
            loss: 0,
            duplicate: 0,
            reorder: 0,
            mtu: 1500,
            gso: 0,
            ethernet: false,
        }
    }
}

type Filter = Box<dyn FnMut(usize, &Frame) -> bool>;

pub struct Net {
    pub stacks: [Stack; 2],
    pub pools: [FramePool; 2],
    pub now: Instant,
    pub line: Line,
    pub events: [Vec<Event>; 2],
    flying: BTreeMap<(Instant, u64), (usize, Frame)>,
    rng: Rng,
    serial: u64,
    /// Called on every frame before it leaves; false drops it.
    pub filter: Filter,
    pub frames: [u64; 2],
    /// A router on the line with this MTU: drops larger packets with DF and says so.
    pub bottleneck: Option<usize>,
}

pub fn v4(host: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, host as u8 + 1])
}

pub fn v6(host: usize) -> IpAddr {
    IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, host as u16 + 1])
}

pub fn at(addr: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(addr, port)
}

impl Net {
    pub fn new(line: Line, seed: u64) -> Net {
        Net::with(line, seed, 4096, |_| {})
    }

    pub fn with(line: Line, seed: u64, slots: usize, tweak: impl Fn(&mut StackConfig)) -> Net {
        let pools = [FramePool::heap(slots, 2048), FramePool::heap(slots, 2048)];
        let now = Instant::from_millis(1000);
        let make = |host: usize| {
            let mut config =
                StackConfig { seed: [seed as u8 ^ host as u8; 16], ..Default::default() };
            config.seed[1] = (seed >> 8) as u8;
            tweak(&mut config);
            let mut stack = Stack::new(config, pools[host].clone(), now);
            let medium = if line.ethernet {
                AliasMedium::Ethernet { mac: [2, 0, 0, 0, 0, host as u8 + 1] }
            } else {
                AliasMedium::Ip
            };
            let alias = AliasConfig {
                mtu: line.mtu,
                gso_bytes_max: line.gso,
                tx_checksum: line.gso > 0,
                ..AliasConfig::up_without_offload(ALIAS, medium)
            };
            stack.handle_config(now, Change::AliasAdd(alias)).unwrap();
            for (addr, len) in [(v4(host), 24), (v6(host), 64)] {
                let cidr = Cidr::new(addr, len).unwrap();
                stack.handle_config(now, Change::AddressAdd { alias: ALIAS, cidr }).unwrap();
            }
            stack
        };
        let stacks = [make(A), make(B)];
        let mut net = Net {
            stacks,
            pools,
            now,
            line,
            events: [Vec::new(), Vec::new()],
            flying: BTreeMap::new(),
            rng: Rng::from_u64(seed),
            serial: 0,
            filter: Box::new(|_, _| true),
            frames: [0, 0],
            bottleneck: None,
        };
        // Duplicate address detection.
        net.run_for(Duration::from_secs(3));
        net.events = [Vec::new(), Vec::new()];
        net
    }

    fn fly(&mut self, to: usize, frame: Frame) {
        let mut delay = self.line.delay;
        if self.rng.below(1000) < self.line.reorder {
            delay += self.line.delay * self.rng.below(10) as u32;
        }
        self.serial += 1;
        self.flying.insert((self.now + delay, self.serial), (to, frame));
    }

    /// Moves what the stacks want to send onto the line, and their events out.
    pub fn pump(&mut self) {
        for host in [A, B] {
            loop {
                let mut burst = TxBurst::new(64);
                if self.stacks[host].poll_transmit(self.now, &mut burst) == 0 {
                    break;
                }
                for (_, frame) in burst.frames {
                    self.frames[host] += 1;
                    let link = if self.line.ethernet { 14 } else { 0 };
                    assert!(
                        frame.meta.gso != Gso::None || frame.total_len() <= self.line.mtu + link,
                        "{} bytes on the line",
                        frame.total_len()
                    );
                    if !(self.filter)(host, &frame) || self.rng.below(1000) < self.line.loss {
                        continue;
                    }
                    if let Some(mtu) = self.bottleneck.filter(|m| frame.total_len() > *m) {
                        let answer = too_big(mtu, &frame.to_heap());
                        self.fly(host, answer);
                        continue;
                    }
                    // A wire does not share memory.
                    let mut copy = Frame::from_heap(64, frame.data());
                    copy.frags.extend(frame.frags.iter().map(bytes::Bytes::copy_from_slice));
                    copy.meta = frame.meta;
                    let frame = if self.line.gso == 0 { copy.to_heap() } else { copy };
                    if self.rng.below(1000) < self.line.duplicate {
                        self.fly(1 - host, frame.to_heap());
                    }
                    self.fly(1 - host, frame);
                }
            }
            while let Some(event) = self.stacks[host].poll_event() {
                self.events[host].push(event);
            }
        }
    }

    /// Goes to the next thing that happens, at most to `until`; false if nothing is left before.
    pub fn step(&mut self, until: Instant) -> bool {
        self.pump();
        let timers = self.stacks.iter().filter_map(Stack::poll_timeout);
        let frames = self.flying.keys().next().map(|k| k.0);
        let Some(next) = timers.chain(frames).min().filter(|t| *t <= until) else {
            self.now = self.now.max(until);
            return false;
        };
        self.now = self.now.max(next);
        while let Some(entry) = self.flying.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (to, frame) = entry.remove();
            self.stacks[to].handle_frame(self.now, ALIAS, frame);
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

    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Net) -> bool) {
        let until = self.now + limit;
        self.pump();
        while !done(self) {
            assert!(self.step(until), "not done after {limit:?}");
        }
    }

    /// A connection from A to a listener of B, port 80: both ends.
    pub fn connected(&mut self, addr: fn(usize) -> IpAddr) -> (SocketId, SocketId) {
        let l = self.stacks[B].tcp_listen(self.now, at(addr(B), 80), 16).unwrap();
        let c = self.stacks[A].tcp_connect(self.now, None, at(addr(B), 80)).unwrap();
        let mut accepted = None;
        self.run_until(Duration::from_mins(1), |net| {
            accepted = accepted.or_else(|| net.stacks[B].tcp_accept(l));
            accepted.is_some()
        });
        self.stacks[B].tcp_close(self.now, l);
        self.run_until(Duration::from_mins(1), |net| {
            net.stacks[A].tcp_state(c) == TcpState::Established
        });
        (c, accepted.unwrap().id)
    }

    /// Sends `data` from one host while the other reads; also closes the sender's half.
    pub fn transfer(&mut self, from: (usize, SocketId), rx: SocketId, data: &[u8]) {
        self.carry(from, rx, data, true);
    }

    /// The same, leaving the sender's half open.
    pub fn transfer_open(&mut self, from: (usize, SocketId), rx: SocketId, data: &[u8]) {
        self.carry(from, rx, data, false);
    }

    fn carry(&mut self, (from, tx): (usize, SocketId), rx: SocketId, data: &[u8], close: bool) {
        let mut sent = 0;
        let mut got = Vec::new();
        let mut shut = !close;
        let mut out = vec![0; 40_000];
        self.run_until(Duration::from_hours(2), |net| {
            while sent < data.len() {
                let end = data.len().min(sent + 30_000);
                match net.stacks[from].tcp_send(net.now, tx, &data[sent..end]) {
                    Ok(n) => sent += n,
                    Err(TcpSendError::WouldBlock) => break,
                    Err(e) => panic!("send: {e}"),
                }
            }
            if sent == data.len() && !shut {
                shut = true;
                let how = weft_stack::socket::tcp::ShutdownHow::Write;
                net.stacks[from].tcp_shutdown(net.now, tx, how);
            }
            loop {
                match net.stacks[1 - from].tcp_recv(net.now, rx, &mut out) {
                    Ok(0) => return true,
                    Ok(n) => {
                        got.extend_from_slice(&out[..n]);
                        if !close && got.len() == data.len() {
                            return true;
                        }
                    }
                    Err(TcpRecvError::WouldBlock) => return false,
                    Err(e) => panic!("receive: {e}"),
                }
            }
        });
        assert!(got == data, "{} of {} bytes, or wrong ones", got.len(), data.len());
    }

    /// Nothing is left: sockets closed, frames back in their pools, sums right.
    pub fn check_empty(&mut self) {
        self.run_for(Duration::from_secs(400));
        for (stack, pool) in self.stacks.iter().zip(&self.pools) {
            stack.mib().check_sums().unwrap();
            let memory = stack.memory();
            assert_eq!((memory.tcp_connections, memory.tcp_bytes), (0, 0));
            assert_eq!(memory.out_frames, 0);
            assert_eq!(stack.mib().tcp.curr_estab, 0);
            assert_eq!(pool.free(), pool.slots());
        }
    }
}

/// The router's answer (RFC 1191, RFC 4443) to a bare IP packet.
pub fn too_big(mtu: usize, packet: &Frame) -> Frame {
    let p = packet.data();
    let v4 = p[0] >> 4 == 4;
    let mut icmp = vec![if v4 { 3 } else { 2 }, if v4 { 4 } else { 0 }, 0, 0];
    icmp.extend((mtu as u32).to_be_bytes());
    icmp.extend_from_slice(&p[..if v4 { 28 } else { p.len().min(1200) }]);
    let mut ip;
    if v4 {
        ip = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 254];
        ip.extend_from_slice(&p[12..16]);
        ip[2..4].copy_from_slice(&(20 + icmp.len() as u16).to_be_bytes());
        let sum = checksum::finish(checksum::sum(&ip));
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let sum = checksum::finish(checksum::sum(&icmp));
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    } else {
        let (src, dst) = (v6(253), <[u8; 16]>::try_from(&p[8..24]).unwrap());
        ip = vec![0x60, 0, 0, 0];
        ip.extend((icmp.len() as u16).to_be_bytes());
        ip.extend([58, 64]);
        let IpAddr::V6(router) = src else { unreachable!() };
        ip.extend(router.octets());
        ip.extend(dst);
        let pseudo = checksum::pseudo(src, IpAddr::from(dst), 58, icmp.len());
        let sum = checksum::finish(checksum::combine(pseudo, checksum::sum(&icmp)));
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    ip.extend(icmp);
    Frame::from_heap(64, &ip)
}

/// Bytes that differ at every position.
pub fn pattern(len: usize) -> Vec<u8> {
    let mut rng = Rng::from_u64(99);
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend_from_slice(&rng.next_u64().to_le_bytes());
    }
    out.truncate(len);
    out
}
