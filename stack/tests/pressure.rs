//! The memory of all connections of a stack at its limit.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used, clippy::missing_panics_doc)]

mod net;

use std::time::Duration;

use net::{A, B, Line, Net, at, pattern, v4};
use weft_stack::drop::DropReason;
use weft_stack::socket::SocketId;

const LIMIT: usize = 600_000;

/// `count` connections from A to B, whose memory is small.
fn crowd(count: usize) -> (Net, Vec<(SocketId, SocketId)>) {
    let mut net = Net::with(Line::default(), 7, 4096, |config| config.limits.tcp_bytes = LIMIT);
    let listener = net.stacks[B].tcp_listen(net.now, at(v4(B), 80), 64).unwrap();
    let mut pairs = Vec::new();
    for _ in 0..count {
        let c = net.stacks[A].tcp_connect(net.now, None, at(v4(B), 80)).unwrap();
        net.run_for(Duration::from_millis(50));
        pairs.push((c, net.stacks[B].tcp_accept(listener).unwrap().id));
    }
    net.stacks[B].tcp_close(net.now, listener);
    (net, pairs)
}

/// The peers of `hoards` send without end and nobody reads.
fn hoard(net: &mut Net, hoards: &[(SocketId, SocketId)]) {
    let data = pattern(60_000);
    for _ in 0..100 {
        for (c, _) in hoards {
            while net.stacks[A].tcp_send(net.now, *c, &data).is_ok() {}
        }
        net.run_for(Duration::from_millis(50));
        let held = net.stacks[B].memory().tcp_bytes;
        // Whole frames are held, and 4 KiB are everybody's.
        assert!(held <= LIMIT + hoards.len() * 4096 + 4096, "{held}");
    }
}

#[test]
fn those_who_do_not_read_stop_at_the_limit_and_the_others_go_on() {
    let (mut net, pairs) = crowd(9);
    // The senders' own memory is another stack's; what they hold is bounded by the same limit.
    hoard(&mut net, &pairs[..4]);
    let held = net.stacks[B].memory().tcp_bytes;
    assert!(held >= LIMIT / 4 * 3, "{held}");
    let tcp = &net.stacks[B].mib().tcp;
    assert!(tcp.memory_pressures > 0);
    let data = pattern(300_000);
    for (c, s) in &pairs[4..] {
        net.transfer_open((A, *c), *s, &data);
    }
    // The hoarders' data is not lost either.
    for (c, s) in &pairs {
        net.stacks[A].tcp_abort(net.now, *c);
        net.stacks[B].tcp_abort(net.now, *s);
    }
    net.run_for(Duration::from_secs(1));
    assert_eq!(net.stacks[B].memory().tcp_bytes, 0);
    net.check_empty();
}

#[test]
fn at_the_limit_segments_are_refused_with_a_reason() {
    let (mut net, pairs) = crowd(12);
    hoard(&mut net, &pairs);
    let mib = net.stacks[B].mib();
    assert_eq!(mib.drops.get(DropReason::TcpMemory), mib.tcp.rcv_q_drop);
    let refused = net.stacks[A].mib().tcp.snd_memory_refused + mib.tcp.rcv_q_drop;
    assert!(refused > 0);
    mib.check_sums().unwrap();
    for (c, s) in pairs {
        let mut out = vec![0; 100_000];
        for _ in 0..200 {
            while net.stacks[B].tcp_recv(net.now, s, &mut out).is_ok_and(|n| n > 0) {}
            net.run_for(Duration::from_millis(20));
        }
        net.stacks[A].tcp_abort(net.now, c);
        net.run_for(Duration::from_millis(50));
        net.stacks[B].tcp_close(net.now, s);
    }
    assert_eq!(net.stacks[B].memory().tcp_bytes, 0);
}
