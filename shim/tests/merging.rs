//! Receive merging of segments that the shim rewrote: it changes nothing that an application or a
//! peer can tell, and joins nothing that does not belong together.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::{IpAddr, SocketAddr};

use support::{Sets, ip, ulids};
use weft_shim::config::ShimConfig;
use weft_shim::contexts::Contexts;
use weft_shim::encap::EncapConfig;
use weft_shim::layer::Layer;
use weft_shim::locator::{Locator, LocatorList, Pair, Verification};
use weft_shim::reap::ReapConfig;
use weft_stack::Stack;
use weft_stack::frame::{Checksum, Frame, FramePool, HEADROOM_BYTES};
use weft_stack::ip::address::{AliasConfig, AliasId, AliasMedium};
use weft_stack::link::gro::{BurstFacts, Gro, GroStats, Takes};
use weft_stack::socket::SocketId;
use weft_stack::stack::{Change, StackConfig, TxBurst};
use weft_stack::time::{Duration, Instant};
use weft_stack::wire::{checksum, frame_sum};

const ALIAS: AliasId = AliasId(0);
const UDP_PORT: u16 = 4140;
const FACTS: BurstFacts = BurstFacts { ethernet: false, trust: false };

/// What the second locators are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Header,
    Datagram,
    Ip4,
}

const WAYS: [Way; 3] = [Way::Header, Way::Datagram, Way::Ip4];

impl Way {
    fn second(self, host: u16) -> IpAddr {
        if self == Way::Ip4 { IpAddr::from([192, 0, 2, host as u8]) } else { ip(host, 2) }
    }

    fn takes(self) -> Takes {
        Takes::Rewritten { udp_port: (self != Way::Header).then_some(UDP_PORT) }
    }

    /// Where the payload header stands in a packet.
    fn header_at(self) -> usize {
        match self {
            Way::Header => 40,
            Way::Datagram => 48,
            Way::Ip4 => 28,
        }
    }
}

struct Two {
    way: Way,
    now: Instant,
    stacks: [Stack<Layer>; 2],
    merges: bool,
    merged: GroStats,
    ends: Option<(SocketId, SocketId)>,
}

fn stack(host: u16, way: Way, now: Instant) -> Stack<Layer> {
    let mut second = Locator::new(way.second(host), Verification::Hba);
    second.port = (way != Way::Header).then_some(UDP_PORT);
    let first = Locator::new(ip(host, 1), Verification::Hba);
    let own = LocatorList { generation: 0, locators: vec![first, second].into() };
    let (config, reap) = (ShimConfig::default(), ReapConfig::default());
    let mut shim = Contexts::new(config, reap, own, Box::new(Sets), [host as u8; 16]);
    shim.set_encap(now, (way != Way::Header).then(|| EncapConfig::new(UDP_PORT)));
    let config = StackConfig { seed: [host as u8; 16], ..StackConfig::default() };
    let pool = FramePool::heap(4096, 2048);
    let mut stack = Stack::with_path(config, pool, now, Layer::on(shim));
    let alias = AliasConfig::up_without_offload(ALIAS, AliasMedium::Ip);
    stack.handle_config(now, Change::AliasAdd(alias)).unwrap();
    for addr in [ip(host, 1), ip(host, 2), IpAddr::from([192, 0, 2, host as u8])] {
        let len = if addr.is_ipv4() { 24 } else { 48 };
        let cidr = format!("{addr}/{len}").parse().unwrap();
        stack.handle_config(now, Change::AddressAdd { alias: ALIAS, cidr }).unwrap();
    }
    stack
}

impl Two {
    /// A connection from host 0 to host 1 that is rewritten both ways.
    fn connected(way: Way, merges: bool) -> Two {
        let now = Instant::from_millis(1000);
        let stacks = [1, 2].map(|host| stack(host, way, now));
        let mut two = Two { way, now, stacks, merges, merged: GroStats::default(), ends: None };
        two.run(Duration::from_secs(3));
        two.shim(0, |shim, now| shim.start(now, ulids(), 0).unwrap());
        two.run(Duration::from_secs(1));
        let second = Pair::new(way.second(1), way.second(2));
        two.shim(0, |shim, now| shim.switch(now, ulids(), 0, second).unwrap());
        let (back, second) = (ulids().reversed(), second.reversed());
        two.shim(1, |shim, now| shim.switch(now, back, 0, second).unwrap());
        two.run(Duration::from_millis(1));
        let at = SocketAddr::new(ip(2, 1), 80);
        let from = Some(SocketAddr::new(ip(1, 1), 0));
        let listener = two.stacks[1].tcp_listen(two.now, at, 4).unwrap();
        let client = two.stacks[0].tcp_connect(two.now, from, at).unwrap();
        two.run(Duration::from_millis(1));
        let server = two.stacks[1].tcp_accept(listener).expect("a connection").id;
        two.ends = Some((client, server));
        two
    }

    fn shim(&mut self, host: usize, f: impl FnOnce(&mut Contexts, Instant)) {
        let now = self.now;
        self.stacks[host].with_path_mut(now, |layer| f(layer.shim_mut().unwrap(), now));
    }

    /// What a host sends now, as the wire has it.
    fn sent(&mut self, host: usize) -> Vec<Frame> {
        let mut burst = TxBurst::new(64);
        while self.stacks[host].poll_transmit(self.now, &mut burst) > 0 {}
        let whole = |(_, mut frame): (AliasId, Frame)| {
            frame_sum::complete(&mut frame);
            let bytes = frame.to_heap().data().to_vec();
            Frame::from_heap(HEADROOM_BYTES, &bytes)
        };
        burst.frames.drain(..).map(whole).collect()
    }

    fn give(&mut self, host: usize, frames: Vec<Frame>) {
        let mut burst: Vec<_> = frames.into_iter().map(|f| ((), Some(f))).collect();
        if self.merges {
            let stats = Gro::default().merge(&mut burst, FACTS, |()| self.way.takes());
            self.merged.merge(&stats);
        }
        for frame in burst.into_iter().filter_map(|b| b.1) {
            self.stacks[host].handle_frame(self.now, ALIAS, frame);
        }
    }

    /// The receiver takes what was merged.
    fn take(&mut self, units: Vec<Frame>) {
        for frame in units {
            self.stacks[1].handle_frame(self.now, ALIAS, frame);
        }
    }

    fn exchange(&mut self) {
        loop {
            let mut carried = 0;
            for from in 0..2 {
                let frames = self.sent(from);
                carried += frames.len();
                self.give(1 - from, frames);
            }
            if carried == 0 {
                break;
            }
        }
        for stack in &mut self.stacks {
            while stack.poll_event().is_some() {}
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.exchange();
            let next = self.stacks.iter().filter_map(Stack::poll_timeout).min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            for stack in &mut self.stacks {
                stack.handle_timeout(self.now);
            }
        }
        self.now = end;
    }

    fn read(&mut self, got: &mut Vec<u8>) {
        let mut out = vec![0; 65_536];
        while let Ok(n @ 1..) = self.stacks[1].tcp_recv(self.now, self.ends.unwrap().1, &mut out) {
            got.extend(&out[..n]);
        }
    }

    /// Sends `data` from host 0 to host 1; what arrived.
    fn transfer(&mut self, data: &[u8]) -> Vec<u8> {
        let (mut sent, mut got) = (0, Vec::new());
        for _ in 0..1000 {
            let client = self.ends.unwrap().0;
            sent += self.stacks[0].tcp_send(self.now, client, &data[sent..]).unwrap_or(0);
            self.run(Duration::from_millis(1));
            self.read(&mut got);
            if got.len() >= data.len() {
                break;
            }
        }
        got
    }

    /// Segments of full size that are on their way and not given yet.
    fn segments(&mut self) -> Vec<Frame> {
        self.transfer(&vec![1; 200_000]);
        let data: Vec<u8> = (0..20_000).map(content).collect();
        self.stacks[0].tcp_send(self.now, self.ends.unwrap().0, &data).unwrap();
        let frames = self.sent(0);
        assert!(frames.len() > 10, "{}", frames.len());
        frames
    }

    fn counter(&self, name: &str) -> u64 {
        let mut found = None;
        self.stacks[1].mib().for_each(|n, value| found = found.or((n == name).then_some(value)));
        found.unwrap_or_else(|| panic!("no counter {name}"))
    }
}

fn content(at: usize) -> u8 {
    (at.wrapping_mul(31) >> 3) as u8
}

fn merge(frames: &[Vec<u8>], takes: Takes) -> (Vec<Frame>, GroStats) {
    let frame = |bytes: &Vec<u8>| ((), Some(Frame::from_heap(HEADROOM_BYTES, bytes)));
    let mut burst: Vec<_> = frames.iter().map(frame).collect();
    let stats = Gro::default().merge(&mut burst, FACTS, |()| takes);
    (burst.into_iter().filter_map(|b| b.1).collect(), stats)
}

fn bytes_of(frames: &[Frame]) -> Vec<Vec<u8>> {
    frames.iter().map(|f| f.data().to_vec()).collect()
}

/// The datagram around a changed packet has a right checksum again, and so has the IPv4 header.
fn repair(way: Way, packet: &mut [u8]) {
    if way == Way::Header {
        return;
    }
    let at = way.header_at() - 8;
    packet[at + 6..at + 8].fill(0);
    if way == Way::Ip4 {
        packet[10..12].fill(0);
        let sum = checksum::finish(checksum::sum(&packet[..20]));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    let addr = |n: usize| -> IpAddr {
        if way == Way::Ip4 {
            let octets: [u8; 4] = packet[12 + 4 * n..16 + 4 * n].try_into().unwrap();
            return octets.into();
        }
        let octets: [u8; 16] = packet[8 + 16 * n..24 + 16 * n].try_into().unwrap();
        octets.into()
    };
    let pseudo = checksum::pseudo(addr(0), addr(1), 17, packet.len() - at);
    let sum = checksum::combine(pseudo, checksum::sum(&packet[at..]));
    packet[at + 6..at + 8].copy_from_slice(&checksum::finish_udp(sum).to_be_bytes());
}

#[test]
fn merged_segments_give_the_bytes_and_counters_of_single_ones() {
    let data: Vec<u8> = (0..300_000).map(content).collect();
    for way in WAYS {
        let mut counters = Vec::new();
        for merges in [false, true] {
            let mut two = Two::connected(way, merges);
            assert!(two.transfer(&data) == data, "{way:?}, merged: {merges}");
            let ip = if way == Way::Ip4 { "IpIn" } else { "Ip6In" };
            let names = ["TcpInSegs", "TcpInErrs", "TcpInCsumErrors"].map(str::to_owned);
            let names = names.into_iter().chain(["Receives", "Octets"].map(|n| format!("{ip}{n}")));
            counters.push(names.map(|n| (two.counter(&n), n)).collect::<Vec<_>>());
            let (units, packets) = (two.merged.units, two.merged.packets);
            assert_eq!(units > 0, merges, "{way:?}");
            assert!(!merges || packets > 150, "{way:?}: {packets} in {units} units");
        }
        // Acknowledgements are of bursts, so that only what comes to the receiver is alike.
        assert_eq!(counters[0], counters[1], "{way:?}");
    }
}

#[test]
fn a_burst_is_one_unit_whose_sum_the_stack_completes() {
    for way in WAYS {
        let mut two = Two::connected(way, true);
        let wire = bytes_of(&two.segments());
        let (units, stats) = merge(&wire, way.takes());
        assert_eq!((stats.units, stats.packets), (1, wire.len() as u64), "{way:?}");
        assert!(matches!(units[0].meta.checksum, Checksum::Summed(_)));
        let before = two.counter("TcpInSegs");
        two.take(units);
        assert_eq!(two.counter("TcpInSegs") - before, wire.len() as u64);
        let mut got = Vec::new();
        two.read(&mut got);
        assert!(got == (0..20_000).map(content).collect::<Vec<_>>(), "{way:?}");
    }
}

/// Changes a packet, and where its payload header stands.
type Alter = fn(&mut [u8], usize);

#[test]
fn what_differs_from_its_neighbours_does_not_merge() {
    let changes: [(&str, Alter); 6] = [
        ("another tag", |p, at| p[at + 7] ^= 1),
        ("another marking", |p, _| if p[0] >> 4 == 6 { p[1] |= 0x30 } else { p[1] |= 3 }),
        ("another sequence number", |p, at| p[at + 8 + 6] ^= 1),
        ("another window", |p, at| p[at + 8 + 15] ^= 1),
        ("another port", |p, at| p[at + 8 + 1] ^= 1),
        ("something else behind the header", |p, at| p[at] = 17),
    ];
    for way in WAYS {
        let wire = bytes_of(&Two::connected(way, true).segments());
        for (what, change) in changes {
            let mut wire = wire[..6].to_vec();
            change(&mut wire[3], way.header_at());
            repair(way, &mut wire[3]);
            let (units, stats) = merge(&wire, way.takes());
            assert_eq!(stats.packets, 5, "{way:?}, {what}");
            let lens: Vec<_> = units.iter().map(Frame::total_len).collect();
            assert_eq!(lens.len(), 3, "{way:?}, {what}: {lens:?}");
            assert!(lens.contains(&wire[3].len()), "{way:?}, {what}: {lens:?}");
        }
    }
}

#[test]
fn control_messages_between_segments_pass_by() {
    for way in WAYS {
        let mut wire = bytes_of(&Two::connected(way, true).segments())[..6].to_vec();
        wire[3][way.header_at() + 2] &= 0x7f;
        repair(way, &mut wire[3]);
        let (units, stats) = merge(&wire, way.takes());
        assert_eq!((units.len(), stats.packets), (3, 5), "{way:?}");
    }
}

#[test]
fn receivers_without_a_shim_get_what_the_wire_carried() {
    for way in WAYS {
        let wire = bytes_of(&Two::connected(way, true).segments());
        for takes in [Takes::Frames, Takes::Units] {
            if way != Way::Header && takes == Takes::Units {
                // These are datagrams to them, and merge as such.
                continue;
            }
            let (units, stats) = merge(&wire, takes);
            assert_eq!((units.len(), stats.units), (wire.len(), 0), "{way:?}, {takes:?}");
        }
    }
}

#[test]
fn a_broken_segment_stays_alone_and_is_lost() {
    for way in WAYS {
        let mut two = Two::connected(way, true);
        let mut wire = bytes_of(&two.segments());
        *wire[3].last_mut().unwrap() ^= 0x40;
        repair(way, &mut wire[3]);
        let before = [two.counter("TcpInCsumErrors"), two.counter("TcpInSegs")];
        let (units, stats) = merge(&wire, way.takes());
        assert_eq!(stats.packets, wire.len() as u64 - 1, "{way:?}");
        two.take(units);
        let after = [two.counter("TcpInCsumErrors"), two.counter("TcpInSegs")];
        assert_eq!([after[0] - before[0], after[1] - before[1]], [1, wire.len() as u64]);
        // The rest is sent again.
        two.run(Duration::from_secs(2));
        let mut got = Vec::new();
        two.read(&mut got);
        assert!(got == (0..20_000).map(content).collect::<Vec<_>>(), "{way:?}");
    }
}

#[test]
fn a_unit_summed_for_other_addresses_is_lost_as_a_whole() {
    for way in WAYS {
        let mut two = Two::connected(way, true);
        let mut wire = bytes_of(&two.segments());
        for packet in &mut wire {
            // All checksums are wrong by the same.
            let at = way.header_at() + 8 + 16;
            let sum = u16::from_be_bytes([packet[at], packet[at + 1]]);
            let sum = checksum::combine(sum, 0x0101);
            packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            repair(way, packet);
        }
        let before = [two.counter("TcpInCsumErrors"), two.counter("TcpInSegs")];
        let (units, stats) = merge(&wire, way.takes());
        assert_eq!((stats.units, units.len()), (1, 1), "{way:?}");
        two.take(units);
        let all = wire.len() as u64;
        let after = [two.counter("TcpInCsumErrors"), two.counter("TcpInSegs")];
        assert_eq!([after[0] - before[0], after[1] - before[1]], [all, all], "{way:?}");
        let mut got = Vec::new();
        two.read(&mut got);
        assert!(got.is_empty(), "{way:?}");
    }
}

#[test]
fn a_broken_datagram_around_a_segment_stays_alone_and_is_lost() {
    for way in [Way::Datagram, Way::Ip4] {
        let mut two = Two::connected(way, true);
        let mut wire = bytes_of(&two.segments());
        let at = way.header_at() - 8 + 6;
        wire[3][at] ^= 0x10;
        let (units, stats) = merge(&wire, way.takes());
        assert_eq!(stats.packets, wire.len() as u64 - 1, "{way:?}");
        let before = two.counter("TcpInSegs");
        two.take(units);
        assert_eq!(two.counter("TcpInSegs") - before, wire.len() as u64 - 1, "{way:?}");
    }
}
