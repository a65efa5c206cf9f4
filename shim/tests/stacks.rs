//! Whole stacks over the shim: TCP between stable addresses while providers fail below it. Two hosts,
//! two providers; each host has an address of each.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use support::{ip, shim};
use weft_shim::config::{SetUp, SetUpConfig, ShimConfig};
use weft_shim::encap::EncapConfig;
use weft_shim::layer::Layer;
use weft_shim::locator::Pair;
use weft_shim::reap::ReapConfig;
use weft_stack::Stack;
use weft_stack::frame::{Frame, FramePool, HEADROOM_BYTES};
use weft_stack::ip::address::{AliasConfig, AliasId, AliasMedium};
use weft_stack::link::gro::{BurstFacts, Gro, Takes};
use weft_stack::socket::SocketId;
use weft_stack::stack::{Change, StackConfig, TxBurst};
use weft_stack::time::{Duration, Instant};
use weft_stack::wire::frame_sum;

const MS: Duration = Duration::from_millis(1);
/// One way.
const DELAY: Duration = Duration::from_millis(2);

fn mac(host: u16, provider: u16) -> [u8; 6] {
    [2, 0, 0, 0, provider as u8, host as u8]
}

struct Net {
    now: Instant,
    stacks: Vec<Stack<Layer>>,
    wire: BTreeMap<(Instant, u64), (usize, AliasId, Vec<u8>)>,
    serial: u64,
    /// Providers that carry nothing: from host 0, from host 1.
    dark: [[bool; 2]; 2],
    /// Frames carried by provider.
    carried: [u64; 2],
    /// Merges what arrives at once.
    gro: Option<Gro>,
}

impl Net {
    fn new(config: &ShimConfig) -> Net {
        let now = Instant::from_millis(1000);
        let stacks = [1u16, 2].map(|host| {
            let layer = Layer::on(shim(host, 2, config.clone(), ReapConfig::default()));
            let stack = StackConfig { seed: [host as u8; 16], ..StackConfig::default() };
            let mut stack = Stack::with_path(stack, FramePool::heap(1024, 2048), now, layer);
            let mut change = |c| stack.handle_config(now, c).unwrap();
            for provider in [1u16, 2] {
                let alias = AliasId(provider - 1);
                change(Change::AliasAdd(AliasConfig {
                    id: alias,
                    name: format!("data{provider}"),
                    medium: AliasMedium::Ethernet { mac: mac(host, provider) },
                    mtu: 1500,
                    gso_bytes_max: 0,
                    tx_checksum: false,
                    rx_checksum_trust: false,
                    up: true,
                    slaac: false,
                }));
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
            wire: BTreeMap::new(),
            serial: 0,
            dark: [[false; 2]; 2],
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
                self.carried[provider] += 1;
                self.serial += 1;
                let bytes = frame.to_heap().data().to_vec();
                self.wire.insert((self.now + DELAY, self.serial), (1 - host, alias, bytes));
            }
        }
        while self.stacks[host].poll_event().is_some() {}
    }

    fn run(&mut self, time: Duration) {
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
                gro.merge(&mut burst, BurstFacts { ethernet: true, trust: false }, |_| {
                    Takes::Units
                });
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
    fn connect(&mut self) -> (SocketId, SocketId) {
        let at = |host, port| SocketAddr::new(ip(host, 1), port);
        let listener = self.stacks[1].tcp_listen(self.now, at(2, 80), 8).unwrap();
        let client = self.stacks[0].tcp_connect(self.now, Some(at(1, 0)), at(2, 80)).unwrap();
        self.run(50 * MS);
        let server = self.stacks[1].tcp_accept(listener).expect("a connection").id;
        (client, server)
    }
}

fn content(at: usize) -> u8 {
    (at.wrapping_mul(31) >> 3) as u8
}

/// Sends `bytes` from host 0 to host 1 in steps of a millisecond, with `event` after some of it;
/// returns the longest time without progress.
fn transfer(net: &mut Net, bytes: usize, mut event: impl FnMut(&mut Net, usize)) -> Duration {
    let (client, server) = net.connect();
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

fn immediately() -> ShimConfig {
    let set_up = SetUpConfig { default: SetUp::Immediate, ..SetUpConfig::default() };
    ShimConfig { set_up, ..ShimConfig::default() }
}

fn pair(net: &Net) -> (IpAddr, IpAddr) {
    let ulids = support::ulids();
    let now = net.now;
    let reports = net.stacks[0].path().shim().unwrap().report_contexts(now, 9);
    let report = reports.iter().find(|r| r.remote == ulids.remote).expect("a context");
    (report.locator_local, report.locator_remote)
}

#[test]
fn a_transfer_goes_on_when_a_provider_goes_dark() {
    for directions in [[true, true], [true, false], [false, true]] {
        let mut net = Net::new(&immediately());
        let mut failed = false;
        let gap = transfer(&mut net, 3_000_000, |net, got| {
            if got > 1_000_000 && !failed {
                failed = true;
                net.dark[0] = directions;
            }
        });
        assert!(gap <= Duration::from_millis(200), "{directions:?}: {gap:?} without progress");
        // Acknowledgements alone are fewer.
        assert!(net.carried[1] > 100, "{directions:?}: the other provider carries it");
    }
}

#[test]
fn a_transfer_goes_on_when_its_address_is_taken_away() {
    let mut net = Net::new(&immediately());
    let mut taken = false;
    let gap = transfer(&mut net, 3_000_000, |net, got| {
        if got > 1_000_000 && !taken {
            taken = true;
            let change = Change::AddressRemove { alias: AliasId(0), addr: ip(1, 1) };
            net.stacks[0].handle_config(net.now, change).unwrap();
        }
    });
    assert!(gap <= Duration::from_millis(100), "{gap:?} without progress");
    assert_eq!(pair(&net).0, ip(1, 2));
}

#[test]
fn a_transfer_survives_one_provider_after_the_other() {
    let mut net = Net::new(&immediately());
    let mut step = 0;
    let gap = transfer(&mut net, 6_000_000, |net, got| {
        if got > (step + 1) * 1_000_000 && step < 4 {
            step += 1;
            // One of both is dark, in turn.
            net.dark = [[step % 2 == 1; 2], [step % 2 == 0; 2]];
        }
    });
    assert_eq!(step, 4);
    assert!(gap <= Duration::from_millis(200), "{gap:?} without progress");
}

/// Receive merging makes one frame of datagrams of a flow, and all packets in UDP are of one.
#[test]
fn a_transfer_in_udp_loses_nothing_when_datagrams_are_merged() {
    let mut net = Net::new(&immediately());
    net.gro = Some(Gro::default());
    let now = net.now;
    for host in [1u16, 2] {
        net.stacks[usize::from(host) - 1].with_path_mut(now, |layer| {
            let shim = layer.shim_mut().unwrap();
            let mut list = support::list_of(host, 2);
            list.generation += 1;
            list.locators[1].port = Some(4140);
            shim.set_encap(now, Some(EncapConfig::new(4140)));
            shim.set_own(now, list);
        });
    }
    let mut moved = false;
    transfer(&mut net, 1_000_000, |net, got| {
        if got > 100_000 && !moved {
            moved = true;
            let (now, by) = (net.now, Pair::new(ip(1, 2), ip(2, 2)));
            for (host, by) in [by, by.reversed()].into_iter().enumerate() {
                let ulids = if host == 0 { support::ulids() } else { support::ulids().reversed() };
                net.stacks[host].with_path_mut(now, |layer| {
                    layer.shim_mut().unwrap().switch(now, ulids, 0, by).unwrap();
                });
            }
        }
    });
    assert_eq!(pair(&net), (ip(1, 2), ip(2, 2)));
    let shim = |host: usize| net.stacks[host].path().shim().unwrap();
    let (out, into) = (shim(0).encap().unwrap().stats(), shim(1).encap().unwrap().stats());
    assert!(out.packets_out > 500 && out.packets_out == into.packets_in, "{out:?} {into:?}");
    assert_eq!(net.stacks[0].mib().tcp.retrans_segs, 0);
    for stack in &net.stacks {
        assert_eq!(stack.mib().tcp.in_csum_errors, 0);
        stack.mib().check_sums().unwrap();
    }
}

#[test]
fn a_transfer_with_the_shim_on_and_nothing_failing_is_not_rewritten() {
    let mut net = Net::new(&ShimConfig::default());
    transfer(&mut net, 1_000_000, |_, _| {});
    let stats = net.stacks[0].path().shim().unwrap().stats();
    assert_eq!((stats.contexts_established, stats.rewritten_out), (1, 0));
    assert_eq!(pair(&net), (ip(1, 1), ip(2, 1)));
}
