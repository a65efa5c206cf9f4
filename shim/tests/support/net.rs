//! Whole stacks over shims: two hosts, two providers; each host has an address of each. TCP between
//! the addresses of the first.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use weft_shim::config::{SetUp, SetUpConfig, ShimConfig};
use weft_shim::contexts::Contexts;
use weft_shim::encap::EncapConfig;
use weft_shim::layer::Layer;
use weft_shim::reap::ReapConfig;
use weft_stack::Stack;
use weft_stack::frame::{Frame, FramePool, HEADROOM_BYTES};
use weft_stack::ip::address::{AliasConfig, AliasId, AliasMedium};
use weft_stack::link::gro::{BurstFacts, Gro, Takes};
use weft_stack::socket::SocketId;
use weft_stack::stack::{Change, StackConfig, TxBurst};
use weft_stack::time::{Duration, Instant};
use weft_stack::wire::frame_sum;

use super::{Sets, ip, list_of};

pub const MS: Duration = Duration::from_millis(1);
/// The UDP port of the shims that have one.
pub const PORT: u16 = 4140;

/// What hosts and network are like.
#[derive(Clone, Debug)]
pub struct Setting {
    pub shim: ShimConfig,
    pub reap: ReapConfig,
    /// One way.
    pub delay: Duration,
    /// The locators that the second provider gave are reached by UDP.
    pub udp: bool,
    pub seed: u8,
}

impl Default for Setting {
    fn default() -> Setting {
        let (shim, reap) = (immediately(), ReapConfig::default());
        Setting { shim, reap, delay: 2 * MS, udp: false, seed: 0 }
    }
}

impl Setting {
    fn seed(&self, host: u16) -> [u8; 16] {
        let mut seed = [host as u8; 16];
        seed[15] ^= self.seed;
        seed
    }

    fn contexts(&self, host: u16) -> Contexts {
        let mut list = list_of(host, 2);
        list.locators[1].port = self.udp.then_some(PORT);
        let (shim, reap) = (self.shim.clone(), self.reap);
        let mut contexts = Contexts::new(shim, reap, list, Box::new(Sets), self.seed(host));
        contexts.set_encap(Instant::ZERO, self.udp.then(|| EncapConfig::new(PORT)));
        contexts
    }
}

fn mac(host: u16, provider: u16) -> [u8; 6] {
    [2, 0, 0, 0, provider as u8, host as u8]
}

const ETHERNET: usize = 14;

/// What a router says of an IPv6 packet that is too long for it, to whom it came from.
fn too_big(frame: &[u8], mtu: usize) -> Vec<u8> {
    let (from, to) = (&frame[38..54], &frame[22..38]);
    let mut message = vec![2, 0, 0, 0];
    message.extend((mtu as u32).to_be_bytes());
    message.extend(frame[ETHERNET..].iter().take(1232));
    let mut summed = [from, to, &(message.len() as u32).to_be_bytes(), &[0, 0, 0, 58]].concat();
    summed.extend_from_slice(&message);
    let word = |w: &[u8]| u32::from(w[0]) << 8 | u32::from(w.get(1).copied().unwrap_or(0));
    let mut sum: u32 = summed.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    message[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let mut out = [&frame[6..12], &frame[..6], &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    out.extend((message.len() as u16).to_be_bytes());
    out.extend([58, 64]);
    out.extend_from_slice(&[from, to].concat());
    out.extend(message);
    out
}

pub struct Net {
    pub now: Instant,
    pub stacks: Vec<Stack<Layer>>,
    delay: Duration,
    wire: BTreeMap<(Instant, u64), (usize, AliasId, Vec<u8>)>,
    serial: u64,
    /// Providers that carry nothing: from host 0, from host 1.
    pub dark: [[bool; 2]; 2],
    /// The longest IP packet that routers of a provider forward.
    pub mtu: [usize; 2],
    /// Frames carried by provider.
    pub carried: [u64; 2],
    /// Merges what arrives at once.
    pub gro: Option<Gro>,
}

impl Net {
    pub fn new(config: &ShimConfig) -> Net {
        Net::with(&Setting { shim: config.clone(), ..Setting::default() })
    }

    pub fn with(setting: &Setting) -> Net {
        let now = Instant::from_millis(1000);
        let stacks = [1u16, 2].map(|host| {
            let layer = Layer::on(setting.contexts(host));
            let stack = StackConfig { seed: setting.seed(host), ..StackConfig::default() };
            let mut stack = Stack::with_path(stack, FramePool::heap(1024, 2048), now, layer);
            let mut change = |c| stack.handle_config(now, c).unwrap();
            for provider in [1u16, 2] {
                let alias = AliasId(provider - 1);
                change(Change::AliasAdd(AliasConfig::up_without_offload(
                    alias,
                    AliasMedium::Ethernet { mac: mac(host, provider) },
                )));
                let peer = 3 - host;
                let (addr, mac) = (ip(peer, provider), mac(peer, provider));
                change(Change::NeighbourAdd { alias, addr, mac });
                let cidr = format!("{}/48", ip(host, provider)).parse().unwrap();
                change(Change::AddressAdd { alias, cidr });
            }
            stack
        });
        let mut net = Net {
            now,
            stacks: stacks.into(),
            delay: setting.delay,
            wire: BTreeMap::new(),
            serial: 0,
            dark: [[false; 2]; 2],
            mtu: [usize::MAX; 2],
            carried: [0; 2],
            gro: None,
        };
        net.run(Duration::from_secs(3));
        net
    }

    fn take(&mut self, host: usize) {
        let mut burst = TxBurst::new(64);
        while self.stacks[host].poll_transmit(self.now, &mut burst) > 0 {
            for (alias, mut frame) in std::mem::replace(&mut burst, TxBurst::new(64)).frames {
                frame_sum::complete(&mut frame);
                let provider = usize::from(alias.0);
                if self.dark[provider][host] {
                    continue;
                }
                self.serial += 1;
                let bytes = frame.to_heap().data().to_vec();
                if bytes.len() - ETHERNET > self.mtu[provider] {
                    let answer = too_big(&bytes, self.mtu[provider]);
                    self.wire.insert((self.now + self.delay, self.serial), (host, alias, answer));
                    continue;
                }
                self.carried[provider] += 1;
                self.wire.insert((self.now + self.delay, self.serial), (1 - host, alias, bytes));
            }
        }
        while self.stacks[host].poll_event().is_some() {}
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            for host in 0..2 {
                self.take(host);
            }
            let timers = self.stacks.iter().filter_map(Stack::poll_timeout);
            let next = timers.chain(self.wire.keys().next().map(|k| k.0)).min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            for stack in &mut self.stacks {
                stack.handle_timeout(self.now);
            }
            let mut burst = Vec::new();
            while let Some(first) = self.wire.first_entry().filter(|e| e.key().0 <= self.now) {
                let (to, alias, bytes) = first.remove();
                burst.push(((to, alias), Some(Frame::from_heap(HEADROOM_BYTES, &bytes))));
            }
            if let Some(gro) = &mut self.gro {
                let facts = BurstFacts { ethernet: true, trust: false };
                gro.merge(&mut burst, facts, |_| Takes::Units);
            }
            for ((to, alias), frame) in burst {
                if let Some(frame) = frame {
                    self.stacks[to].handle_frame(self.now, alias, frame);
                }
            }
        }
        self.now = end;
    }

    /// A connection from host 0 to host 1 between their first addresses.
    pub fn connect(&mut self, port: u16) -> (SocketId, SocketId) {
        let at = |host, port| SocketAddr::new(ip(host, 1), port);
        let listener = self.stacks[1].tcp_listen(self.now, at(2, port), 8).unwrap();
        let client = self.stacks[0].tcp_connect(self.now, Some(at(1, 0)), at(2, port)).unwrap();
        self.run(50 * MS);
        let server = self.stacks[1].tcp_accept(listener).expect("a connection").id;
        (client, server)
    }
}

pub fn content(at: usize) -> u8 {
    (at.wrapping_mul(31) >> 3) as u8
}

/// Sends `bytes` from host 0 to host 1 in steps of a millisecond, with `event` after some of it;
/// returns the longest time without progress.
pub fn transfer(net: &mut Net, bytes: usize, mut event: impl FnMut(&mut Net, usize)) -> Duration {
    let (client, server) = net.connect(80);
    let (mut sent, mut got, mut last, mut gap) = (0, 0, net.now, Duration::ZERO);
    let mut buffer = vec![0; 65_536];
    let limit = net.now + Duration::from_secs(30);
    while got < bytes {
        let chunk: Vec<u8> = (sent..bytes.min(sent + 16_384)).map(content).collect();
        if !chunk.is_empty() {
            // A full buffer takes none.
            sent += net.stacks[0].tcp_send(net.now, client, &chunk).unwrap_or(0);
        }
        net.run(MS);
        while let Ok(n @ 1..) = net.stacks[1].tcp_recv(net.now, server, &mut buffer) {
            assert!(buffer[..n].iter().enumerate().all(|(i, b)| *b == content(got + i)));
            got += n;
            gap = gap.max(net.now.saturating_since(last));
            last = net.now;
        }
        event(net, got);
        assert!(net.now < limit, "{got} of {bytes} bytes");
    }
    gap
}

pub fn immediately() -> ShimConfig {
    let set_up = SetUpConfig { default: SetUp::Immediate, ..SetUpConfig::default() };
    ShimConfig { set_up, ..ShimConfig::default() }
}

pub fn pair(net: &Net) -> (IpAddr, IpAddr) {
    let ulids = super::ulids();
    let now = net.now;
    let reports = net.stacks[0].path().shim().unwrap().report_contexts(now, 9);
    let report = reports.iter().find(|r| r.remote == ulids.remote).expect("a context");
    (report.locator_local, report.locator_remote)
}
