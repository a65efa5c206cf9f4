//! Forged ICMP errors (RFC 5927).

use std::time::Duration;

use weft_stack::drop::DropReason;
use weft_stack::frame::Frame;
use weft_stack::socket::tcp::TcpState;
use weft_stack::wire::checksum;

use crate::fixture::{Victim, packet};
use crate::net::{A, ALIAS, B, Line, Net, at, pattern, v4};

/// An ICMPv4 error to A about a segment to B with this sequence number.
fn error(v: &Victim, (kind, code): (u8, u8), rest: u32, seq: u32) -> Frame {
    let mut quoted = Vec::new();
    quoted.extend(v.a.port().to_be_bytes());
    quoted.extend(v.b.port().to_be_bytes());
    quoted.extend(seq.to_be_bytes());
    let quote = packet(v.a.ip(), v.b.ip(), 6, &quoted);
    let mut icmp = vec![kind, code, 0, 0];
    icmp.extend(rest.to_be_bytes());
    icmp.extend(quote);
    let sum = checksum::finish(checksum::sum(&icmp));
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    Frame::from_heap(64, &packet([10, 0, 0, 254].into(), v.a.ip(), 1, &icmp))
}

fn give(v: &mut Victim, frame: Frame) {
    v.net.stacks[A].handle_frame(v.net.now, ALIAS, frame);
}

// RFC 5927 4.1
// RFC 5927 5.2
// RFC 5927 6.2
// RFC 1122 4.2.3.9
#[test]
fn unreachable_messages_do_not_end_a_connection_even_with_the_right_number() {
    let mut v = Victim::new(Net::new(Line::default(), 1), v4);
    v.net.stacks[A].tcp_send(v.net.now, v.c, b"in flight").unwrap();
    v.net.pump();
    let seq = v.honest().seq.0;
    for code in 0..16 {
        // In flight, the oldest guess, and anywhere.
        for seq in [seq.wrapping_sub(9), seq, 0, seq.wrapping_add(1 << 30)] {
            let frame = error(&v, (3, code), 0, seq);
            give(&mut v, frame);
        }
        let quench = error(&v, (4, 0), 0, seq.wrapping_sub(9));
        give(&mut v, quench);
    }
    assert_eq!(v.net.stacks[A].tcp_state(v.c), TcpState::Established);
    let unmatched = v.net.stacks[A].mib().drops.get(DropReason::IcmpErrorUnmatched);
    assert!(unmatched >= 40, "{unmatched}");
    v.net.run_for(Duration::from_millis(50));
    assert_eq!(v.net.stacks[B].tcp_recv(v.net.now, v.s, &mut [0; 20]), Ok(9));
    v.check_alive();
    v.close();
}

// RFC 5927 7.2
#[test]
fn a_small_mtu_counts_only_with_a_number_in_flight_and_has_a_floor() {
    let mut v = Victim::new(Net::new(Line::default(), 2), v4);
    let before = v.net.stacks[A].tcp_info(v.net.now, v.c).unwrap().pmtu;
    for seq in [0u32, 1 << 30, 1 << 31] {
        let frame = error(&v, (3, 4), 600, v.honest().seq.0.wrapping_add(seq));
        give(&mut v, frame);
    }
    v.net.run_for(Duration::from_millis(1));
    assert_eq!(v.net.stacks[A].tcp_info(v.net.now, v.c).unwrap().pmtu, before);
    // Somebody on the path may lower it, but not to where every byte costs a header.
    v.net.stacks[A].tcp_send(v.net.now, v.c, &pattern(5000)).unwrap();
    v.net.pump();
    let seq = v.honest().seq.0.wrapping_sub(100);
    for mtu in [68, 0, 1] {
        let frame = error(&v, (3, 4), mtu, seq);
        give(&mut v, frame);
    }
    v.net.run_for(Duration::from_millis(100));
    let after = v.net.stacks[A].tcp_info(v.net.now, v.c).unwrap();
    assert!(after.pmtu >= 552, "{}", after.pmtu);
    let mut got = 0;
    while let Ok(n @ 1..) = v.net.stacks[B].tcp_recv(v.net.now, v.s, &mut [0; 10_000]) {
        got += n;
    }
    assert_eq!(got, 5000);
    v.check_alive();
    v.close();
}

// RFC 5927 4.1
#[test]
fn a_connect_is_ended_only_by_an_error_about_its_own_syn() {
    let mut net = Net::new(Line::default(), 3);
    net.filter = Box::new(|_, _| false);
    let c = net.stacks[A].tcp_connect(net.now, None, at(v4(B), 80)).unwrap();
    net.run_for(Duration::from_millis(1));
    let (a, b) = net.stacks[A].tcp_addrs(c).unwrap();
    let mut quoted = Vec::new();
    quoted.extend(a.port().to_be_bytes());
    quoted.extend(b.port().to_be_bytes());
    for guess in 0..1000u32 {
        let mut transport = quoted.clone();
        transport.extend((guess << 22).to_be_bytes());
        let quote = packet(a.ip(), b.ip(), 6, &transport);
        let mut icmp = vec![3, 3, 0, 0, 0, 0, 0, 0];
        icmp.extend(quote);
        let sum = checksum::finish(checksum::sum(&icmp));
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        let frame = Frame::from_heap(64, &packet(b.ip(), a.ip(), 1, &icmp));
        net.stacks[A].handle_frame(net.now, ALIAS, frame);
    }
    assert_eq!(net.stacks[A].tcp_state(c), TcpState::SynSent);
    assert_eq!(net.stacks[A].mib().drops.get(DropReason::IcmpErrorUnmatched), 1000);
    net.stacks[A].tcp_close(net.now, c);
    net.check_empty();
}
