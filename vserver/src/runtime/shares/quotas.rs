//! What a vserver may make grow: reached, it is counted where it says so, and a neighbour on the same
//! worker has all of its own.

use super::tests::{A, B, Slow, World, datagram, ip, usual};
use super::*;
use std::collections::BTreeSet;
use weft_drivers::device::Device;
use weft_stack::drop::DropReason;
use weft_stack::ip::route::Route;
use weft_stack::socket::raw::Family;
use weft_stack::stack::Change;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const LISTENED: u16 = 80;

struct Row {
    limit: &'static str,
    set: fn(&mut Limits),
    /// Makes it grow, for B.
    push: fn(&mut World),
    counted: &'static str,
}

fn syn(number: u32) -> Vec<u8> {
    let mut t = vec![0; 20];
    t[0..2].copy_from_slice(&(1024 + number as u16).to_be_bytes());
    t[2..4].copy_from_slice(&LISTENED.to_be_bytes());
    t[12..16].copy_from_slice(&[0x50, 2, 0xff, 0xff]);
    ip(B, TCP, 0x4000, &t)
}

fn syns(w: &mut World) {
    let local = (std::net::Ipv4Addr::UNSPECIFIED, LISTENED).into();
    w.core.nodes[B as usize].stack.tcp_listen(w.now, local, 4096).unwrap();
    w.send((0..60).map(syn));
    w.turn();
}

/// The same, and each answer is acknowledged.
fn handshakes(w: &mut World) {
    syns(w);
    let mut answers = Vec::new();
    w.far.receive(&mut answers, 64).unwrap();
    w.send(answers.iter().map(|frame| {
        let answer = &frame.data()[20..40];
        let mut t = vec![0; 20];
        t[0..2].copy_from_slice(&answer[2..4]);
        t[2..4].copy_from_slice(&answer[0..2]);
        t[4..8].copy_from_slice(&answer[8..12]);
        let acked = u32::from_be_bytes(answer[4..8].try_into().unwrap()).wrapping_add(1);
        t[8..12].copy_from_slice(&acked.to_be_bytes());
        t[12..16].copy_from_slice(&[0x50, 16, 0xff, 0xff]);
        ip(B, TCP, 0x4000, &t)
    }));
    w.turn();
}

fn unread(w: &mut World) {
    for _ in 0..40 {
        w.send((0..50).map(|n| datagram(B, n)));
        w.turn();
    }
}

fn fragments(w: &mut World) {
    w.send((0..40).map(|n: u16| {
        let mut p = ip(B, UDP, 0x2000, &[0; 1024]);
        p[4..6].copy_from_slice(&n.to_be_bytes());
        World::seal(p)
    }));
    w.turn();
}

fn echoes(w: &mut World) {
    w.send((0..60).map(|n| {
        let mut echo = vec![8, 0, 0, 0, 0, 0, 0, n];
        let sum = weft_stack::wire::checksum::finish(weft_stack::wire::checksum::sum(&echo));
        echo[2..4].copy_from_slice(&sum.to_be_bytes());
        ip(B, ICMP, 0, &echo)
    }));
    w.turn();
}

fn closed(w: &mut World) {
    w.send((0..60).map(|_| ip(B, UDP, 0x4000, &[16, 0, 0, 99, 0, 8, 0, 0])));
    w.turn();
}

/// SYNs to a port where nobody listens.
fn strays(w: &mut World) {
    w.send((0..60).map(syn));
    w.turn();
}

fn buffers(w: &mut World) {
    let stack = &mut w.core.nodes[B as usize].stack;
    let held: Vec<_> = (0..5).map_while(|_| stack.alloc(100)).collect();
    assert!(held.len() < 5);
}

fn timers(w: &mut World) {
    let stack = &mut w.core.nodes[B as usize].stack;
    assert!((0..100).any(|set| !stack.may_set_timer(set)));
}

fn flood(w: &mut World) {
    w.send((0..500).flat_map(|n| [datagram(A, n), datagram(B, n)]));
    w.turn();
}

fn slow(w: &mut World) {
    w.send([datagram(A, 0), datagram(B, 0)]);
    w.turn();
    w.core.start_service(w.now, B, Box::new(Slow)).unwrap();
    while w.stats(B).us == 0 {
        w.send([datagram(A, 0)]);
        w.turn();
    }
    w.send([datagram(A, 0), datagram(B, 0)]);
    w.turn();
}

fn stack(w: &mut World) -> &mut crate::runtime::HostStack {
    &mut w.core.nodes[B as usize].stack
}

fn listeners(w: &mut World) {
    let now = w.now;
    let local = |port| (std::net::Ipv4Addr::UNSPECIFIED, port).into();
    assert!((1..10).any(|port| stack(w).tcp_listen(now, local(port), 1).is_err()));
}

fn connects(w: &mut World) {
    let now = w.now;
    let to = "10.0.0.200:1".parse().unwrap();
    assert!((0..10).any(|_| stack(w).tcp_connect(now, None, to).is_err()));
}

fn udp_sockets(w: &mut World) {
    let now = w.now;
    let any = (std::net::Ipv4Addr::UNSPECIFIED, 0).into();
    assert!((0..10).any(|_| stack(w).udp_bind(now, any).is_err()));
}

fn raw_sockets(w: &mut World) {
    let now = w.now;
    assert!((0..10).any(|_| stack(w).raw_open(now, Family::V4, ICMP).is_err()));
}

fn echo_sockets(w: &mut World) {
    let now = w.now;
    assert!((0..10).any(|_| stack(w).icmp_open(now, Family::V4).is_err()));
}

fn change(w: &mut World, change: Change) -> bool {
    let now = w.now;
    stack(w).handle_config(now, change).is_ok()
}

fn routes(w: &mut World) {
    let via = Some("10.0.0.200".parse().unwrap());
    let to = |n| format!("192.0.{n}.0/24").parse().unwrap();
    let route =
        |n| Route { prefix: to(n), via, alias: AliasId(0), src: None, metric: 0, mtu: None };
    assert!((0..10).any(|n| !change(w, Change::RouteAdd(route(n)))));
}

fn addresses(w: &mut World) {
    let cidr = |n| format!("10.1.0.{n}/24").parse().unwrap();
    let add = |n| Change::AddressAdd { alias: AliasId(0), cidr: cidr(n) };
    assert!((1..10).any(|n| !change(w, add(n))));
}

fn groups(w: &mut World) {
    let (now, id) = (w.now, w.socket(B));
    let group = |n: u8| std::net::Ipv4Addr::new(239, 1, 1, n).into();
    assert!((0..10).any(|n| stack(w).udp_join(now, id, AliasId(0), group(n)).is_err()));
}

const ROWS: [Row; 20] = [
    Row {
        limit: "tcp_listeners",
        set: |l| l.tcp_listeners = 4,
        push: listeners,
        counted: "LimitTcpListeners",
    },
    Row {
        limit: "tcp_connections",
        set: |l| l.tcp_connections = 4,
        push: connects,
        counted: "LimitTcpConnects",
    },
    Row {
        limit: "udp_sockets",
        set: |l| l.udp_sockets = 4,
        push: udp_sockets,
        counted: "LimitUdpSockets",
    },
    Row {
        limit: "raw_sockets",
        set: |l| l.raw_sockets = 4,
        push: raw_sockets,
        counted: "LimitRawSockets",
    },
    Row {
        limit: "icmp_sockets",
        set: |l| l.icmp_sockets = 4,
        push: echo_sockets,
        counted: "LimitIcmpSockets",
    },
    Row { limit: "routes", set: |l| l.routes = 4, push: routes, counted: "LimitRoutes" },
    Row {
        limit: "addresses",
        set: |l| l.addresses = 4,
        push: addresses,
        counted: "LimitAddresses",
    },
    Row { limit: "groups", set: |l| l.groups = 4, push: groups, counted: "LimitGroups" },
    Row {
        limit: "tcp_half_open",
        set: |l| l.tcp_half_open = 4,
        push: syns,
        counted: "TcpExtSyncookiesSent",
    },
    Row {
        limit: "tcp_connections",
        set: |l| l.tcp_connections = 4,
        push: handshakes,
        counted: "DropTcpConnectionLimit",
    },
    Row {
        limit: "udp_recv_bytes",
        set: |l| l.udp_recv_bytes = 2048,
        push: unread,
        counted: "DropUdpBufferFull",
    },
    Row {
        limit: "reassemblies",
        set: |l| l.reassemblies = 2,
        push: fragments,
        counted: "DropFragmentTooMany",
    },
    Row {
        limit: "reassembly_bytes",
        set: |l| l.reassembly_bytes = 4096,
        push: fragments,
        counted: "DropFragmentTooMany",
    },
    Row {
        limit: "icmp_errors_per_second",
        set: |l| l.icmp_errors_per_second = 1,
        push: closed,
        counted: "IcmpOutRateLimited",
    },
    Row {
        limit: "tcp_resets_per_second",
        set: |l| l.tcp_resets_per_second = 1,
        push: strays,
        counted: "TcpExtTCPResetsLimited",
    },
    Row {
        limit: "out_queue",
        set: |l| l.out_queue = 16,
        push: echoes,
        counted: "DropOutQueueFull",
    },
    Row {
        limit: "app_frames",
        set: |l| l.app_frames = 1,
        push: buffers,
        counted: "FramePoolBufsRefused",
    },
    Row {
        limit: "service_timers",
        set: |l| l.service_timers = 16,
        push: timers,
        counted: "FrameServiceTimersRefused",
    },
    Row {
        limit: "input_frames",
        set: |l| l.input_frames = 16,
        push: flood,
        counted: "DropInputQueueFull",
    },
    Row { limit: "round_us", set: |l| l.round_us = 1, push: slow, counted: "ShareRoundsOwing" },
];

const MANUAL: &str = include_str!("../../../../docs/operating.md");

/// What the manual says of limits: key, default, counters.
fn manual() -> Vec<(&'static str, &'static str, Vec<&'static str>)> {
    let table = MANUAL.split("## Limits\n").nth(1).unwrap();
    let table = table.split("\n\n").find(|part| part.starts_with("| limit |")).unwrap();
    let row = |line: &'static str| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let quoted = |cell: &'static str| cell.split('`').skip(1).step_by(2).collect::<Vec<_>>();
        (quoted(cells[0])[0], quoted(cells[1])[0], quoted(cells[3]))
    };
    table.lines().skip(2).map(row).collect()
}

#[test]
fn the_manual_has_every_limit_with_its_default_and_counters_that_exist() {
    let limits = format!("{:?}", Limits::default());
    let limits = limits.trim_start_matches("Limits {").trim_end_matches('}');
    let limits: BTreeSet<String> = limits.split(',').map(|l| l.trim().to_owned()).collect();
    let manual = manual();
    let written = manual.iter().map(|(key, default, _)| format!("{key}: {default}"));
    assert_eq!(limits, written.collect::<BTreeSet<_>>());
    let mut counters = BTreeSet::new();
    weft_stack::stats::Mib::default().for_each(|name, _| counters.extend([name.to_owned()]));
    ShareStats::default().for_each(|name, _| counters.extend([name.to_owned()]));
    counters.extend(DropReason::ALL.iter().map(|r| format!("Drop{}", r.name())));
    for (key, _, named) in &manual {
        let missing = named.iter().find(|name| !counters.contains(**name));
        assert_eq!(missing, None, "counter of {key} in docs/operating.md");
        let none = ["rules"].contains(key);
        assert_eq!(none, named.is_empty(), "{key} needs a counter");
    }
    for row in &ROWS {
        let (_, _, named) = manual.iter().find(|(key, ..)| *key == row.limit).unwrap();
        assert!(
            named.contains(&row.counted),
            "{}: {} is not in the manual",
            row.limit,
            row.counted
        );
    }
}

fn counter(w: &World, vserver: u32, name: &str) -> u64 {
    let node = &w.core.nodes[vserver as usize];
    let mut found = None;
    node.stack.mib().for_each(|n, v| found = if n == name { Some(v) } else { found });
    w.stats(vserver).for_each(|n, v| found = if n == name { Some(v) } else { found });
    found.unwrap_or_else(|| panic!("no counter {name}"))
}

#[test]
fn every_limit_is_counted_where_it_is_reached_and_is_nobody_elses() {
    for row in &ROWS {
        let mut limits = usual();
        (row.set)(&mut limits);
        let mut w = World::new(&[Limits { input_frames: 1024, ..usual() }, limits]);
        (row.push)(&mut w);
        assert!(counter(&w, B, row.counted) > 0, "{}: {} not counted", row.limit, row.counted);
        assert_eq!(counter(&w, A, row.counted), 0, "{}: of the neighbour", row.limit);
        while w.turn() {}
        w.numbers(A);
        w.send([datagram(A, 4711)]);
        w.turn();
        assert_eq!(w.numbers(A), [4711], "{}: the neighbour is served", row.limit);
        w.check();
    }
}

#[test]
fn flooded_in_every_way_at_once_it_costs_its_vserver_alone_and_every_frame_has_a_fate() {
    let mut w = World::new(&[usual(), Limits { udp_recv_bytes: 16 << 10, ..usual() }]);
    w.send([datagram(A, 0), datagram(B, 0)]);
    w.turn();
    w.numbers(A);
    let local = (std::net::Ipv4Addr::UNSPECIFIED, LISTENED).into();
    let now = w.now;
    stack(&mut w).tcp_listen(now, local, 64).unwrap();
    let _held: Vec<_> = std::iter::from_fn(|| stack(&mut w).alloc(1000)).collect();
    let (mut sent, mut answers) = (1, Vec::new());
    for round in 1..200 {
        let flood = |n: u32| match n % 4 {
            0 => syn(round * 100 + n),
            1 => datagram(B, n),
            2 => ip(B, UDP, 0x4000, &[16, 0, 0, 99, 0, 8, 0, 0]),
            _ => {
                let mut p = ip(B, UDP, 0x2000, &[0; 256]);
                p[4..6].copy_from_slice(&(round as u16 * 100 + n as u16).to_be_bytes());
                World::seal(p)
            }
        };
        w.send((0..300).map(flood));
        w.send([datagram(A, round)]);
        sent += 300;
        w.turn();
        assert_eq!(w.numbers(A), [round], "in its round, whatever B has to do");
        while w.far.receive(&mut answers, 64).unwrap() > 0 {}
        answers.clear();
    }
    let (a, b) = (w.core.nodes[A as usize].stack.mib(), w.core.nodes[B as usize].stack.mib());
    assert_eq!(a.drops.total(), 0);
    assert_eq!(b.frames.rx_frames + w.share(B).waiting() as u64, sent);
    for reason in [
        DropReason::InputQueueFull,
        DropReason::UdpBufferFull,
        DropReason::UdpPortClosed,
        DropReason::FragmentTooMany,
    ] {
        assert!(b.drops.get(reason) > 0, "{reason:?}: {:?}", b.drops);
    }
    assert!(counter(&w, B, "TcpExtSyncookiesSent") > 0 && counter(&w, B, "IcmpOutRateLimited") > 0);
    assert!(counter(&w, B, "FramePoolBufsRefused") > 0);
    w.check();
}
