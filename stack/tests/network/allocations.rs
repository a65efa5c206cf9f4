//! What a packet costs the allocator after warm-up.

use std::sync::Arc;

use allocation_counter::measure;
use weft_stack::any::{AnyFamily, AnyPort, AnyPorts, AnyProtocol, AnyScopes};
use weft_stack::frame::{Frame, FramePool};
use weft_stack::stack::{Change, Stack, StackConfig, TxBurst};
use weft_stack::wire::checksum;

use crate::fixture::*;

/// Frames of a device: from a pool, as on a NIC.
fn arrive(net: &mut Net, pool: &FramePool, burst: &mut TxBurst, bytes: &[u8]) -> usize {
    let mut frame: Frame = pool.alloc().unwrap();
    frame.append(bytes);
    let now = net.now;
    net.stacks[0].handle_frame(now, A0, frame);
    let sent = net.stacks[0].poll_transmit(now, burst);
    burst.frames.clear();
    sent
}

#[test]
fn echo_allocates_nothing() {
    let mut net = Net::alone();
    let pool = FramePool::heap(16, 2048);
    let mut burst = TxBurst::new(16);
    let ask = icmp("10.0.0.9", "10.0.0.1", 8, 0, &[0; 60]);
    let bytes = ether(&ip4("10.0.0.9", "10.0.0.1", 1, &ask));
    arrive(&mut net, &pool, &mut burst, &bytes);
    let cost = measure(|| {
        for _ in 0..1000 {
            assert_eq!(arrive(&mut net, &pool, &mut burst, &bytes), 1);
        }
    });
    assert_eq!(cost.count_total, 0);
    net.check();
}

#[test]
fn a_datagram_costs_the_one_owner_of_its_payload() {
    let mut net = Net::alone();
    let pool = FramePool::heap(16, 2048);
    let mut burst = TxBurst::new(16);
    let now = net.now;
    let server = net.stacks[0].udp_bind(now, "10.0.0.1:9".parse().unwrap()).unwrap();
    for payload in [vec![7; 100], vec![7; 1400]] {
        let datagram = udp("10.0.0.9", "10.0.0.1", (5, 9), &payload);
        let bytes = ether(&ip4("10.0.0.9", "10.0.0.1", 17, &datagram));
        let mut turn = |net: &mut Net| {
            arrive(net, &pool, &mut burst, &bytes);
            let got = net.stacks[0].udp_recv(server).unwrap();
            net.stacks[0].udp_send(now, server, &got.payload, Some(got.from)).unwrap();
            assert_eq!(net.stacks[0].poll_transmit(now, &mut burst), 1);
            burst.frames.clear();
            while net.stacks[0].poll_event().is_some() {}
        };
        turn(&mut net);
        let cost = measure(|| (0..1000).for_each(|_| turn(&mut net)));
        assert_eq!(cost.count_total, 1000);
        assert_eq!(cost.count_current, 0);
    }
    net.check();
}

/// Stacks behind one port.
const STACKS: usize = 5000;

/// What a port for any vserver costs one that was called and has nothing open any more, bytes.
const CALLED_BYTES_MAX: u64 = 4096;

#[test]
fn a_port_of_5000_vservers_costs_none_of_them_anything_before_it_is_called() {
    let ports = Arc::new(AnyPorts::default());
    let scopes = AnyScopes::new([Arc::clone(&ports)]);
    let mut net = Net::with(1, |c| c.any = scopes.clone());
    let stack = |i: usize| {
        let config = StackConfig { name: i.to_string(), any: scopes.clone(), ..Default::default() };
        Stack::new(config, FramePool::heap(2, 2048), net.now)
    };
    let mut stacks: Vec<Stack> = (0..STACKS).map(stack).collect();
    let port = |number, protocol| AnyPort {
        number,
        protocol,
        family: AnyFamily::Both,
        port: 80,
        backlog: 64,
    };
    let bound = measure(|| {
        assert!(ports.bind(port(1, AnyProtocol::Tcp)) && ports.bind(port(2, AnyProtocol::Udp)));
    });
    assert!(bound.bytes_current < 1024, "{bound:?}: for all of them at once");

    // What is bound before it is called is one table; of the stacks, nothing is touched.
    stacks.truncate(100);
    for stack in &mut stacks {
        std::mem::swap(&mut net.stacks[0], stack);
        net.alias(0, alias(A0, 1, 1500));
        net.addr(0, A0, "10.0.0.1/24");
        net.change(0, Change::NeighbourAdd { alias: A0, addr: ip("10.0.0.9"), mac: mac(9) });
        std::mem::swap(&mut net.stacks[0], stack);
    }
    let (mut one, mut rest) = (0, 0);
    for stack in &mut stacks {
        std::mem::swap(&mut net.stacks[0], stack);
        let called = measure(|| call(&mut net));
        std::mem::swap(&mut net.stacks[0], stack);
        rest = rest.max(called.bytes_current.max(0) as u64);
        one = called.bytes_max.max(one);
    }
    println!(
        "NUMBER any port: {} B for {STACKS} vservers; one that was called: {rest} B kept, {one} B at most",
        bound.bytes_current
    );
    assert!(rest < CALLED_BYTES_MAX, "{rest}");
}

/// A SYN that is given up and a datagram that nobody reads come to port 80 of the stack.
fn call(net: &mut Net) {
    let (src, dst) = ("10.0.0.9", "10.0.0.1");
    let mut segment = |flags: u8, seq: u32| {
        let mut s = vec![16, 0, 0, 80];
        s.extend(seq.to_be_bytes());
        s.extend([0, 0, 0, 0, 0x50, flags, 0x10, 0, 0, 0, 0, 0]);
        let pseudo = checksum::pseudo(ip(src), ip(dst), 6, s.len());
        let sum = checksum::finish(checksum::combine(pseudo, checksum::sum(&s)));
        s[16..18].copy_from_slice(&sum.to_be_bytes());
        net.inject(0, A0, &ether(&ip4(src, dst, 6, &s)));
    };
    segment(2, 1);
    segment(4, 2);
    assert_eq!(net.stacks[0].mib().tcp.passive_opens, 1);
    net.inject(0, A0, &ether(&ip4(src, dst, 17, &udp(src, dst, (9, 80), b"x"))));
    assert_eq!(net.stacks[0].mib().udp.in_datagrams, 1);
    net.sent.clear();
    net.events.clear();
}
