//! What is on the wire, and what sockets see of it.

use weft_stack::drop::DropReason;
use weft_stack::frame::{Checksum, Frame, Gso};
use weft_stack::ip::address::AliasId;
use weft_stack::path::PathAddrs;
use weft_stack::socket::Event;
use weft_stack::socket::raw::Family;
use weft_stack::socket::tcp::TcpState;
use weft_stack::time::Duration;
use weft_stack::wire::checksum;

use crate::layer::{Layer, SHIM6};
use crate::world::{A, B, Setup, World, addresses, packet6, pattern, v4, v6};

/// Whether the transport checksum behind a payload header is right for these ULIDs.
fn sums_right(packet: &Frame, src: std::net::IpAddr, dst: std::net::IpAddr) -> bool {
    let whole = packet.to_heap();
    let payload = &whole.data()[48..];
    let pseudo = checksum::pseudo(src, dst, whole.data()[40], payload.len());
    checksum::is_valid(checksum::combine(pseudo, checksum::sum(payload)))
}

#[test]
fn a_transparent_layer_is_asked_nothing_and_short_ways_are_taken() {
    let off = || Layer { on: false, ..Layer::default() };
    let mut w = World::with(Setup { gso: 0, layers: [off(), off()] });
    let pair = w.connected(v6(A, 0), v6(B, 0));
    w.transfer(pair, &pattern(300_000));
    // The layer's own assertions say that nothing was asked.
    let log = &w.layer(A).log;
    assert_eq!((log.egress, log.ingress, log.passed_out, log.added.len()), (0, 0, 0, 0));
    w.check();
}

#[test]
fn flows_that_pass_take_short_ways_and_the_layer_is_told() {
    let mut w = World::new();
    w.context_by(0, 0);
    let pair = w.connected(v6(A, 0), v6(B, 0));
    let seen = w.layer(A).log.egress;
    w.transfer(pair, &pattern(300_000));
    assert!(w.layer(A).log.egress <= seen + 2, "{} by the long way", w.layer(A).log.egress - seen);
    let (out, received) = (w.layer(A).log.passed_out, w.layer(B).log.passed_in);
    assert!(out > 200 && received > 200, "{out} out, {received} in");
    assert!(w.layer(A).log.passed_in > 3);
    w.check();
}

#[test]
fn what_a_connection_keeps_of_a_layers_answer_goes_with_the_layer() {
    let mut w = World::new();
    w.context_by(0, 0);
    let pair = w.connected(v6(A, 0), v6(B, 0));
    w.transfer(pair, &pattern(100_000));
    for host in [A, B] {
        w.stacks[host].with_path_mut(w.now, |l| {
            let contexts = std::mem::take(&mut l.contexts);
            *l = Layer { contexts, ..Layer::on() };
        });
    }
    // Each asserts that what comes back to it was given by it.
    w.transfer(pair, &pattern(100_000));
    assert!(w.layer(A).log.passed_out > 50 && w.layer(B).log.passed_in > 50);
    w.check();
}

#[test]
fn rewritten_segments_leave_by_the_alias_of_their_locator_with_the_checksum_of_the_ulids() {
    let mut w = World::new();
    w.context_by(1, 1);
    let pair = w.connected(v6(A, 0), v6(B, 0));
    assert_eq!(w.stacks[A].tcp_addrs(pair.0).unwrap().1.ip(), v6(B, 0));
    w.transfer(pair, &pattern(500_000));
    assert_eq!(w.stacks[A].mib().tcp.retrans_segs, 0);
    let mut longest = 0;
    for (_, host, alias, packet) in &w.sent {
        let ends = if *host == A { (A, B) } else { (B, A) };
        assert_eq!(*alias, AliasId(1));
        assert_eq!(addresses(packet.data()), (v6(ends.0, 1), v6(ends.1, 1)));
        assert_eq!(packet.data()[6], SHIM6);
        assert!(sums_right(packet, v6(ends.0, 0), v6(ends.1, 0)));
        assert_ne!(packet.meta.flow_hash, 0);
        longest = longest.max(packet.total_len());
    }
    // MSS accounts for the header: full packets, none too long.
    assert_eq!(longest, 1500);
    assert_eq!(w.stacks[A].tcp_info(w.now, pair.0).unwrap().pmtu, 1492);
    w.check();
}

#[test]
fn flows_below_keep_apart_what_ports_keep_apart_above() {
    let mut w = World::new();
    w.context_by(1, 1);
    let first = w.connected(v6(A, 0), v6(B, 0));
    let hash = |w: &World| w.sent.last().unwrap().3.meta.flow_hash;
    w.stacks[A].tcp_send(w.now, first.0, b"one").unwrap();
    w.pump();
    let one = hash(&w);
    let second = w.connected(v6(A, 0), v6(B, 0));
    w.stacks[A].tcp_send(w.now, second.0, b"two").unwrap();
    w.pump();
    assert_ne!(one, hash(&w), "two connections of one pair of locators");
}

#[test]
fn super_segments_carry_the_header_once_and_leave_their_checksum_partial() {
    let mut w = World::with(Setup { gso: 65_000, ..Setup::default() });
    w.context_by(1, 1);
    let pair = w.connected(v6(A, 0), v6(B, 0));
    w.transfer(pair, &pattern(2_000_000));
    let supers: Vec<_> = w.sent.iter().filter(|s| s.3.meta.gso != Gso::None).collect();
    assert!(supers.len() > 20, "{} super-segments", supers.len());
    for (_, _, _, packet) in &supers {
        assert_eq!(packet.data()[6], SHIM6);
        assert!(matches!(packet.meta.checksum, Checksum::Partial { start: 48, offset: 16 }));
        // With the headers of every cut segment within the link's 1,500 bytes.
        let Gso::Tcp6 { mss } = packet.meta.gso else { panic!("{:?}", packet.meta.gso) };
        assert!(usize::from(mss) <= 1500 - 48 - 32, "{mss}");
        assert!(packet.total_len() <= 65_000 + 40);
    }
    // Others are complete: no checksum unit finds a transport header behind protocol 140.
    let others = w.sent.iter().filter(|s| s.3.meta.gso == Gso::None && s.3.data()[6] == SHIM6);
    for (_, host, _, packet) in others {
        assert_eq!(packet.meta.checksum, Checksum::Complete);
        assert!(sums_right(packet, v6(*host, 0), v6(1 - *host, 0)));
    }
    w.check();
}

#[test]
fn a_layer_whose_header_differs_by_segment_gets_no_super_segments() {
    let layer = || Layer { super_segments: false, ..Layer::on() };
    let mut w = World::with(Setup { gso: 65_000, layers: [layer(), layer()] });
    w.context_by(1, 1);
    let pair = w.connected(v6(A, 0), v6(B, 0));
    w.transfer(pair, &pattern(200_000));
    assert!(w.sent.iter().all(|s| s.3.meta.gso == Gso::None));
}

#[test]
fn ipv4_ulids_go_over_ipv6_locators() {
    let mut w = World::new();
    w.context((v4(A, 0), v6(A, 1)), (v4(B, 0), v6(B, 1)));
    let pair = w.connected(v4(A, 0), v4(B, 0));
    w.transfer(pair, &pattern(200_000));
    assert!(w.sent.iter().all(|s| s.3.data()[6] == SHIM6));
    assert_eq!(w.stacks[A].tcp_info(w.now, pair.0).unwrap().pmtu, 1472);
    w.check();
}

// RFC 5533 4.6
#[test]
fn long_datagrams_are_cut_above_the_layer_and_whole_again_at_the_peer() {
    for (a, b) in
        [((v6(A, 0), v6(A, 1)), (v6(B, 0), v6(B, 1))), ((v4(A, 0), v6(A, 1)), (v4(B, 0), v6(B, 1)))]
    {
        let mut w = World::new();
        w.context(a, b);
        let server = w.stacks[B].udp_bind(w.now, (b.0, 9).into()).unwrap();
        let client = w.stacks[A].udp_bind(w.now, (a.0, 0).into()).unwrap();
        for len in [1, 1444, 1445, 4000, 60_000] {
            let data = pattern(len);
            w.stacks[A].udp_send(w.now, client, &data, Some((b.0, 9).into())).unwrap();
            w.run_for(Duration::from_millis(20));
            let got = w.stacks[B].udp_recv(server).unwrap();
            assert!(got.payload == data && got.to == b.0 && got.from.ip() == a.0, "{len} bytes");
        }
        let cut: Vec<_> = w.sent.iter().filter(|s| s.3.data()[40] == 44).collect();
        assert!(cut.len() > 40);
        assert!(cut.iter().all(|s| s.3.data()[6] == SHIM6 && s.3.total_len() <= 1500));
        assert!(cut.iter().any(|s| s.3.total_len() > 1480), "pieces fill packets");
        w.check();
    }
}

// RFC 5533 4.6
#[test]
fn a_packet_that_was_cut_below_the_layer_is_whole_before_it_comes_to_it() {
    let mut w = World::new();
    w.context_by(1, 1);
    let server = w.stacks[B].udp_bind(w.now, (v6(B, 0), 9).into()).unwrap();
    let client = w.stacks[A].udp_bind(w.now, (v6(A, 0), 0).into()).unwrap();
    w.stacks[A].udp_send(w.now, client, &pattern(800), Some((v6(B, 0), 9).into())).unwrap();
    w.ways[1][1].open[0] = false;
    w.pump();
    let whole = w.sent.last().unwrap().3.to_heap();
    let payload = &whole.data()[40..];
    for (offset, part) in [(0, &payload[..400]), (400, &payload[400..])] {
        let more = u16::from(offset == 0);
        let mut piece = vec![SHIM6, 0];
        piece.extend((offset | more).to_be_bytes());
        piece.extend(7u32.to_be_bytes());
        piece.extend_from_slice(part);
        let packet = packet6(v6(A, 1), v6(B, 1), 44, piece, None);
        w.stacks[B].handle_frame(w.now, AliasId(1), packet);
    }
    assert_eq!(w.stacks[B].udp_recv(server).unwrap().payload[..], pattern(800)[..]);
}

#[test]
fn echo_goes_between_ulids_both_ways() {
    let mut w = World::new();
    w.context_by(1, 1);
    let ping = w.stacks[A].icmp_open(w.now, Family::V6).unwrap();
    w.stacks[A].icmp_send_echo(w.now, ping, 1, b"hello", Some((v6(B, 0), 0).into())).unwrap();
    w.run_for(Duration::from_millis(20));
    let answer = w.stacks[A].icmp_recv(ping).unwrap();
    assert_eq!(answer.from.unwrap().ip(), v6(B, 0));
    assert_eq!(&answer.result.unwrap()[..], b"hello");
    assert_eq!(w.sent.len(), 2);
    for (_, _, _, packet) in &w.sent {
        assert_eq!((packet.data()[6], packet.data()[40]), (SHIM6, 58));
    }
    w.check();
}

#[test]
fn control_messages_end_in_the_layer_and_leave_by_their_source() {
    let mut w = World::new();
    let message = [59, 1, 1, 0, 0, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9];
    // Whose provider is not that of the best route to the destination.
    for (from, to) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let addrs = PathAddrs { src: v6(A, from), dst: v6(B, to), protocol: SHIM6 };
        let frame = Frame::from_heap(64, &message);
        w.stacks[A].with_path_mut(w.now, |l| l.to_send.push_back((addrs, frame)));
        w.run_for(Duration::from_millis(10));
        let (_, _, alias, packet) = w.sent.last().unwrap();
        assert_eq!(*alias, AliasId(from as u16));
        assert_eq!(addresses(packet.data()), (v6(A, from), v6(B, to)));
    }
    assert_eq!(w.layer(B).log.control, vec![message.to_vec(); 4]);
    let mib = w.stacks[B].mib();
    assert_eq!((mib.frames.consumed, mib.drops.total()), (4, 0));
    w.check();
}

#[test]
fn what_the_layer_refuses_is_counted_by_its_reason() {
    let mut w = World::new();
    w.context_by(1, 1);
    let short = packet6(v6(A, 1), v6(B, 1), SHIM6, vec![6, 0, 0x80], None);
    w.stacks[B].handle_frame(w.now, AliasId(1), short);
    let unknown = packet6(v6(A, 1), v6(B, 1), SHIM6, vec![6, 0, 0x80, 1, 2, 3, 4, 5], None);
    w.stacks[B].handle_frame(w.now, AliasId(1), unknown);
    let drops = &w.stacks[B].mib().drops;
    assert_eq!(drops.get(DropReason::IpExtensionMalformed), 1);
    assert_eq!(drops.get(DropReason::IpProtocolUnknown), 1);
    // A header in a header is a protocol that nobody knows.
    let tag = 0x0dcb_a987_6543u64 | 1 << 47;
    let mut twice = tag.to_be_bytes();
    twice[0] = SHIM6;
    let nested = [twice, twice].concat();
    let nested = packet6(v6(A, 1), v6(B, 1), SHIM6, nested, None);
    w.stacks[B].handle_frame(w.now, AliasId(1), nested);
    assert_eq!(w.stacks[B].mib().drops.get(DropReason::IpProtocolUnknown), 2);
    w.check();
}

#[test]
fn the_layers_timer_is_one_of_the_stacks() {
    let mut w = World::new();
    let at = w.now + Duration::from_millis(1234);
    w.stacks[A].with_path_mut(w.now, |l| l.deadline = Some(at));
    assert_eq!(w.stacks[A].poll_timeout(), Some(at));
    w.run_for(Duration::from_secs(5));
    assert_eq!(w.layer(A).log.fired, [at]);
}

#[test]
fn raw_sockets_see_ulids_and_nothing_of_the_layer() {
    let mut w = World::new();
    w.stacks[B].handle_config(w.now, raw_allowed()).unwrap();
    w.context_by(1, 1);
    let udp = w.stacks[B].raw_open(w.now, Family::V6, 17).unwrap();
    let shim = w.stacks[B].raw_open(w.now, Family::V6, SHIM6).unwrap();
    let server = w.stacks[B].udp_bind(w.now, (v6(B, 0), 9).into()).unwrap();
    let client = w.stacks[A].udp_bind(w.now, (v6(A, 0), 0).into()).unwrap();
    w.stacks[A].udp_send(w.now, client, b"seen", Some((v6(B, 0), 9).into())).unwrap();
    w.run_for(Duration::from_millis(20));
    let copy = w.stacks[B].raw_recv(udp).unwrap();
    assert_eq!((copy.from.ip(), copy.to), (v6(A, 0), v6(B, 0)));
    assert_eq!(&copy.payload[8..], b"seen");
    assert!(w.stacks[B].raw_recv(shim).is_err());
    assert_eq!(&w.stacks[B].udp_recv(server).unwrap().payload[..], b"seen");
}

fn raw_allowed() -> weft_stack::stack::Change {
    use weft_stack::stack::{Change, Limits};
    Change::Limits(Box::new(Limits { raw_sockets: 8, ..Limits::default() }))
}

#[test]
fn a_layer_that_is_switched_on_learns_of_addresses_and_connections() {
    let off = || Layer { on: false, super_segments: true, ..Layer::default() };
    let mut w = World::with(Setup { gso: 0, layers: [off(), off()] });
    let pair = w.connected(v6(A, 0), v6(B, 0));
    for host in [A, B] {
        w.stacks[host].with_path_mut(w.now, |l| l.on = true);
        let mut known = w.layer(host).log.added.clone();
        known.retain(|a| !matches!(a, std::net::IpAddr::V6(a) if a.is_unicast_link_local()));
        known.sort();
        let mut all = vec![v4(host, 0), v4(host, 1), v6(host, 0), v6(host, 1)];
        all.sort();
        assert_eq!(known, all);
    }
    w.context_by(0, 0);
    w.switch(1, 1, true);
    w.transfer(pair, &pattern(100_000));
    assert_eq!(w.stacks[A].mib().tcp.path_switches, 1);
    assert!(w.sent.iter().any(|s| s.3.data()[6] == SHIM6));
    assert!(!w.events[A].iter().any(|e| matches!(e, Event::AddressRemoved { .. })));
    assert_eq!(w.stacks[A].tcp_state(pair.0), TcpState::Established);
}
