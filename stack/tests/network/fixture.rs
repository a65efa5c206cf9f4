//! Stacks joined by cables in virtual time, and packets made by hand.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_stack::frame::{Frame, FramePool, HEADROOM_BYTES};
use weft_stack::ip::address::{AliasConfig, AliasId, AliasMedium, Cidr};
use weft_stack::ip::route::Route;
use weft_stack::socket::Event;
use weft_stack::stack::{Change, Stack, StackConfig, TxBurst};
use weft_stack::time::{Duration, Instant};
use weft_stack::wire::{checksum, frame_sum};

pub const A0: AliasId = AliasId(0);
pub const A1: AliasId = AliasId(1);

pub fn mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, n]
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn alias(id: AliasId, mac_no: u8, mtu: usize) -> AliasConfig {
    AliasConfig {
        mtu,
        ..AliasConfig::up_without_offload(id, AliasMedium::Ethernet { mac: mac(mac_no) })
    }
}

pub struct Net {
    pub now: Instant,
    pub stacks: Vec<Stack>,
    /// Ends of cables.
    cables: Vec<[(usize, AliasId); 2]>,
    /// Frames that left by an alias without a cable, as bytes.
    pub sent: Vec<(usize, AliasId, Vec<u8>)>,
    pub events: Vec<(usize, Event)>,
    /// Every frame on every cable.
    pub carried: Vec<Vec<u8>>,
    pub mangle: Option<fn(&mut Vec<u8>)>,
}

impl Net {
    pub fn new(count: usize) -> Net {
        Net::with(count, |_| {})
    }

    pub fn with(count: usize, tweak: impl Fn(&mut StackConfig)) -> Net {
        let stack = |i: usize| {
            let mut seed = [7; 16];
            seed[0] = i as u8;
            let mut config = StackConfig { name: format!("vs{i}"), seed, ..StackConfig::default() };
            tweak(&mut config);
            Stack::new(config, FramePool::heap(512, 2048), Instant::from_millis(1000))
        };
        Net {
            now: Instant::from_millis(1000),
            stacks: (0..count).map(stack).collect(),
            cables: Vec::new(),
            sent: Vec::new(),
            events: Vec::new(),
            carried: Vec::new(),
            mangle: None,
        }
    }

    /// Two stacks, `10.0.0.1/24 fd00::1/64` and `10.0.0.2/24 fd00::2/64`, past DAD.
    pub fn pair() -> Net {
        Net::pair_with(|_| {})
    }

    pub fn pair_with(tweak: impl Fn(&mut StackConfig)) -> Net {
        let mut net = Net::with(2, tweak);
        for i in 0..2u8 {
            net.alias(usize::from(i), alias(A0, i + 1, 1500));
            net.addr(usize::from(i), A0, &format!("10.0.0.{}/24", i + 1));
            net.addr(usize::from(i), A0, &format!("fd00::{}/64", i + 1));
        }
        net.cable((0, A0), (1, A0));
        net.run_for(Duration::from_secs(3));
        net
    }

    /// One stack `10.0.0.1/24 fd00::1/64` and nobody else; what it sends is in `sent`. The
    /// neighbours 10.0.0.9 and fd00::9 are pinned.
    pub fn alone() -> Net {
        Net::alone_with(|_| {})
    }

    pub fn alone_with(tweak: impl Fn(&mut StackConfig)) -> Net {
        let mut net = Net::with(1, tweak);
        net.alias(0, alias(A0, 1, 1500));
        net.addr(0, A0, "10.0.0.1/24");
        net.addr(0, A0, "fd00::1/64");
        for addr in ["10.0.0.9", "fd00::9"] {
            net.change(0, Change::NeighbourAdd { alias: A0, addr: ip(addr), mac: mac(9) });
        }
        net.run_for(Duration::from_secs(3));
        net.sent.clear();
        net
    }

    pub fn change(&mut self, stack: usize, change: Change) {
        self.stacks[stack].handle_config(self.now, change).unwrap();
    }

    pub fn alias(&mut self, stack: usize, config: AliasConfig) {
        self.change(stack, Change::AliasAdd(config));
    }

    pub fn addr(&mut self, stack: usize, alias: AliasId, cidr: &str) {
        let cidr: Cidr = cidr.parse().unwrap();
        self.change(stack, Change::AddressAdd { alias, cidr });
    }

    pub fn route(&mut self, stack: usize, alias: AliasId, prefix: &str, via: &str) {
        self.change(
            stack,
            Change::RouteAdd(Route {
                prefix: prefix.parse().unwrap(),
                via: Some(ip(via)),
                alias,
                src: None,
                metric: 10,
                mtu: None,
            }),
        );
    }

    pub fn cable(&mut self, a: (usize, AliasId), b: (usize, AliasId)) {
        self.cables.push([a, b]);
    }

    fn other_end(&self, end: (usize, AliasId)) -> Option<(usize, AliasId)> {
        self.cables.iter().find_map(|[a, b]| match end {
            e if e == *a => Some(*b),
            e if e == *b => Some(*a),
            _ => None,
        })
    }

    /// Carries frames until nobody sends any more.
    pub fn run(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "the network never comes to rest");
            let mut moved = 0;
            for i in 0..self.stacks.len() {
                let mut burst = TxBurst::new(32);
                moved += self.stacks[i].poll_transmit(self.now, &mut burst);
                for (alias, mut frame) in burst.frames {
                    frame_sum::complete(&mut frame);
                    let mut bytes = frame.to_heap().data().to_vec();
                    if let Some(mangle) = self.mangle {
                        mangle(&mut bytes);
                    }
                    match self.other_end((i, alias)) {
                        Some((to, on)) => {
                            self.carried.push(bytes.clone());
                            let frame = Frame::from_heap(HEADROOM_BYTES, &bytes);
                            self.stacks[to].handle_frame(self.now, on, frame);
                        }
                        None => self.sent.push((i, alias, bytes)),
                    }
                }
                while let Some(event) = self.stacks[i].poll_event() {
                    self.events.push((i, event));
                }
            }
            if moved == 0 && !self.stacks.iter().any(Stack::wants_transmit) {
                return;
            }
        }
    }

    /// Lets time pass, with every timer at its instant.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        self.run();
        for _ in 0..100_000 {
            let next = self.stacks.iter().filter_map(Stack::poll_timeout).min();
            let Some(at) = next.filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(at);
            for stack in &mut self.stacks {
                if stack.poll_timeout().is_some_and(|at| at <= self.now) {
                    stack.handle_timeout(self.now);
                }
            }
            self.run();
        }
        panic!("timers never come to rest");
    }

    /// A frame from nowhere.
    pub fn inject(&mut self, stack: usize, alias: AliasId, bytes: &[u8]) {
        let frame = Frame::from_heap(HEADROOM_BYTES, bytes);
        self.stacks[stack].handle_frame(self.now, alias, frame);
        self.run();
    }

    /// Sums of every stack are right.
    pub fn check(&self) {
        for stack in &self.stacks {
            stack.mib().check_sums().unwrap();
        }
    }
}

/// An Ethernet frame from the pinned neighbour to the lonely stack.
pub fn ether(packet: &[u8]) -> Vec<u8> {
    ether_to(mac(1), packet)
}

pub fn ether_to(dst: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let kind: [u8; 2] = if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] };
    [&dst[..], &mac(9), &kind, packet].concat()
}

pub fn ip4(src: &str, dst: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ip4_with(src, dst, protocol, &[], 0x4000, payload)
}

/// `field`: flags and fragment offset.
pub fn ip4_with(
    src: &str,
    dst: &str,
    protocol: u8,
    options: &[u8],
    field: u16,
    payload: &[u8],
) -> Vec<u8> {
    let (src, dst): (Ipv4Addr, Ipv4Addr) = (src.parse().unwrap(), dst.parse().unwrap());
    let header_len = 20 + options.len();
    let total = (header_len + payload.len()) as u16;
    let mut p = vec![0x40 | (header_len / 4) as u8, 0];
    p.extend(total.to_be_bytes());
    p.extend([0x12, 0x34]);
    p.extend(field.to_be_bytes());
    p.extend([64, protocol, 0, 0]);
    p.extend(src.octets());
    p.extend(dst.octets());
    p.extend(options);
    fix_ip4_sum(&mut p);
    p.extend(payload);
    p
}

pub fn fix_ip4_sum(p: &mut [u8]) {
    let header_len = (usize::from(p[0] & 15) * 4).min(p.len());
    p[10..12].fill(0);
    let sum = checksum::finish(checksum::sum(&p[..header_len]));
    p[10..12].copy_from_slice(&sum.to_be_bytes());
}

pub fn ip6(src: &str, dst: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let (src, dst): (Ipv6Addr, Ipv6Addr) = (src.parse().unwrap(), dst.parse().unwrap());
    let mut p = vec![0x60, 0, 0, 0];
    p.extend((payload.len() as u16).to_be_bytes());
    p.extend([next, 64]);
    p.extend(src.octets());
    p.extend(dst.octets());
    p.extend(payload);
    p
}

/// A UDP datagram with a right checksum.
pub fn udp(src: &str, dst: &str, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut u = Vec::new();
    u.extend(ports.0.to_be_bytes());
    u.extend(ports.1.to_be_bytes());
    u.extend((8 + payload.len() as u16).to_be_bytes());
    u.extend([0, 0]);
    u.extend(payload);
    let pseudo = checksum::pseudo(ip(src), ip(dst), 17, u.len());
    let sum = checksum::finish_udp(checksum::combine(pseudo, checksum::sum(&u)));
    u[6..8].copy_from_slice(&sum.to_be_bytes());
    u
}

/// An ICMP message with a right checksum, of the family of `src`.
pub fn icmp(src: &str, dst: &str, kind: u8, code: u8, body: &[u8]) -> Vec<u8> {
    let mut m = vec![kind, code, 0, 0];
    m.extend(body);
    let pseudo =
        if ip(src).is_ipv4() { 0 } else { checksum::pseudo(ip(src), ip(dst), 58, m.len()) };
    let sum = checksum::finish(checksum::combine(pseudo, checksum::sum(&m)));
    m[2..4].copy_from_slice(&sum.to_be_bytes());
    m
}

/// 10.0.0.1 -- 10.0.0.254 (router, MTU 1400 behind) 10.1.0.254 -- 10.1.0.1, and fd00: likewise.
pub fn routed() -> Net {
    let mut net = Net::new(3);
    net.alias(0, alias(A0, 1, 1500));
    net.alias(1, alias(A0, 2, 1500));
    net.alias(1, alias(A1, 3, 1400));
    net.alias(2, alias(A0, 4, 1500));
    for (stack, on, cidr) in [
        (0, A0, "10.0.0.1/24"),
        (0, A0, "fd00:0::1/64"),
        (1, A0, "10.0.0.254/24"),
        (1, A0, "fd00:0::fe/64"),
        (1, A1, "10.1.0.254/24"),
        (1, A1, "fd00:0:0:1::fe/64"),
        (2, A0, "10.1.0.1/24"),
        (2, A0, "fd00:0:0:1::1/64"),
    ] {
        net.addr(stack, on, cidr);
    }
    net.route(0, A0, "0.0.0.0/0", "10.0.0.254");
    net.route(0, A0, "::/0", "fd00::fe");
    net.route(2, A0, "0.0.0.0/0", "10.1.0.254");
    net.route(2, A0, "::/0", "fd00:0:0:1::fe");
    net.cable((0, A0), (1, A0));
    net.cable((1, A1), (2, A0));
    net.run_for(Duration::from_secs(3));
    net
}
