//! What a vserver may make grow: reached, it is counted where it says so, and a neighbour on the same
//! worker has all of its own.

use super::tests::{A, B, Slow, World, datagram, ip, usual};
use super::*;
use weft_drivers::device::Device;

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
    while w.share(B).stats.us == 0 {
        w.send([datagram(A, 0)]);
        w.turn();
    }
    w.send([datagram(A, 0), datagram(B, 0)]);
    w.turn();
}

const ROWS: [Row; 12] = [
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

fn counter(w: &World, vserver: u32, name: &str) -> u64 {
    let node = &w.core.nodes[vserver as usize];
    let mut found = None;
    node.stack.mib().for_each(|n, v| found = if n == name { Some(v) } else { found });
    node.share.stats.for_each(|n, v| found = if n == name { Some(v) } else { found });
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
