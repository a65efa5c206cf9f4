//! What a packet costs the allocator after warm-up.

use allocation_counter::measure;
use weft_stack::frame::{Frame, FramePool};
use weft_stack::stack::TxBurst;

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
