//! ICMP errors about packets that were rewritten, and path MTUs.

use weft_stack::drop::DropReason;
use weft_stack::ip::address::{AliasConfig, AliasId, AliasMedium};
use weft_stack::path::IcmpErrorKind;
use weft_stack::socket::tcp::{TcpError, TcpState};
use weft_stack::socket::udp::{UdpError, UdpOption};
use weft_stack::stack::Change;
use weft_stack::time::Duration;

use crate::world::{A, B, World, error, pattern, v6};

// RFC 8201 4
#[test]
fn packet_too_big_lowers_the_mtu_of_the_locator_pair_alone() {
    let mut w = World::new();
    w.ways[1][1].mtu = 1400;
    w.context_by(1, 1);
    let pair = w.connected(v6(A, 0), v6(B, 0));
    w.transfer(pair, &pattern(300_000));
    assert_eq!(w.stacks[A].tcp_info(w.now, pair.0).unwrap().pmtu, 1392);
    assert!(
        w.layer(A)
            .log
            .errors
            .contains(&(IcmpErrorKind::TooBig { mtu: 1400 }, (v6(A, 1), v6(B, 1))))
    );
    assert_eq!(w.stacks[A].mib().tcp.timeouts, 0);
    // Another pair is not bound by it.
    w.switch(1, 0, false);
    w.transfer(pair, &pattern(300_000));
    assert_eq!(w.stacks[A].tcp_info(w.now, pair.0).unwrap().pmtu, 1492);
    let longest = |w: &World| w.sent.iter().map(|s| s.3.total_len()).max().unwrap();
    assert_eq!(longest(&w), 1500);
    // And it is not forgotten.
    w.switch(1, 1, false);
    w.sent.clear();
    w.transfer(pair, &pattern(300_000));
    assert_eq!(longest(&w), 1400);
    // ULIDs as locators have no header to account for.
    w.switch(0, 0, false);
    w.transfer(pair, &pattern(100_000));
    assert_eq!(w.stacks[A].tcp_info(w.now, pair.0).unwrap().pmtu, 1500);
    w.check();
}

#[test]
fn a_datagram_too_big_is_told_in_bytes_that_fit_between_ulids() {
    let mut w = World::new();
    w.ways[1][1].mtu = 1300;
    w.context_by(1, 1);
    let to = Some((v6(B, 0), 9).into());
    let s = w.stacks[A].udp_bind(w.now, (v6(A, 0), 0).into()).unwrap();
    assert!(w.stacks[A].udp_set_option(s, UdpOption::ErrorQueue(true)));
    assert!(w.stacks[A].udp_set_option(s, UdpOption::DontFragment(true)));
    w.stacks[A].udp_send(w.now, s, &pattern(1400), to).unwrap();
    w.run_for(Duration::from_millis(20));
    let report = w.stacks[A].udp_recv_error(s).unwrap();
    assert_eq!(report.error, UdpError::TooBig { mtu: 1292 });
    assert_eq!(report.to.ip(), v6(B, 0));
    // Exactly that fits.
    w.stacks[A].udp_send(w.now, s, &pattern(1292 - 48), to).unwrap();
    assert_eq!(w.sent.len(), 1);
    w.pump();
    assert_eq!(w.sent.last().unwrap().3.total_len(), 1300);
}

#[test]
fn the_first_piece_of_a_cut_packet_is_recognised_in_a_quote() {
    let mut w = World::new();
    w.context_by(1, 1);
    let s = w.stacks[A].udp_bind(w.now, (v6(A, 0), 0).into()).unwrap();
    assert!(w.stacks[A].udp_set_option(s, UdpOption::ErrorQueue(true)));
    w.stacks[A].udp_send(w.now, s, &pattern(4000), Some((v6(B, 0), 9).into())).unwrap();
    w.ways[1][1].open = [false; 2];
    w.pump();
    let pieces: Vec<_> = w.sent.iter().map(|s| s.3.to_heap()).collect();
    assert_eq!(pieces.len(), 3);
    for (n, piece) in pieces.iter().enumerate() {
        let told = error(1, 0, 0, piece.data());
        w.stacks[A].handle_frame(w.now, AliasId(1), told);
        let report = w.stacks[A].udp_recv_error(s);
        assert_eq!(report.is_some(), n == 0, "piece {n}");
        if let Some(report) = report {
            assert_eq!((report.error, report.to.ip()), (UdpError::NetUnreachable, v6(B, 0)));
        }
    }
}

#[test]
fn errors_reach_the_socket_between_ulids_and_forged_ones_nobody() {
    let mut w = World::new();
    w.context_by(1, 1);
    w.ways[1][1].open = [false; 2];
    let from = Some((v6(A, 0), 0).into());
    let c = w.stacks[A].tcp_connect(w.now, from, (v6(B, 0), 80).into()).unwrap();
    w.pump();
    let syn = w.sent.last().unwrap().3.to_heap();
    // Another tag, other locators: none of ours.
    for at in [47, 39] {
        let mut forged = syn.data().to_vec();
        forged[at] ^= 1;
        w.stacks[A].handle_frame(w.now, AliasId(1), error(1, 3, 0, &forged));
        assert_eq!(w.stacks[A].tcp_state(c), TcpState::SynSent);
    }
    // Cut off inside the shim's header, and before eight bytes of TCP.
    for len in [44, 48, 55] {
        w.stacks[A].handle_frame(w.now, AliasId(1), error(1, 3, 0, &syn.data()[..len]));
        assert_eq!(w.stacks[A].tcp_state(c), TcpState::SynSent);
    }
    w.stacks[A].handle_frame(w.now, AliasId(1), error(1, 3, 0, syn.data()));
    assert_eq!(w.stacks[A].tcp_state(c), TcpState::Closed);
    assert_eq!(w.stacks[A].tcp_take_error(c), Some(TcpError::HostUnreachable));
    w.check();
}

#[test]
fn a_closed_port_is_told_between_ulids() {
    let mut w = World::new();
    w.context_by(1, 1);
    let s = w.stacks[A].udp_bind(w.now, (v6(A, 0), 0).into()).unwrap();
    w.stacks[A].udp_connect(w.now, s, (v6(B, 0), 9).into()).unwrap();
    w.stacks[A].udp_send(w.now, s, b"?", None).unwrap();
    w.run_for(Duration::from_millis(20));
    assert_eq!(w.stacks[A].udp_send(w.now, s, b"?", None), Err(UdpError::Refused.into()));
    // The error went through the peer's layer.
    let (_, host, _, packet) = w.sent.last().unwrap();
    assert_eq!((*host, packet.data()[6], packet.data()[40]), (B, 140, 58));
    assert_eq!(w.stacks[B].mib().drops.get(DropReason::UdpPortClosed), 1);
    w.check();
}

#[test]
fn a_next_hop_that_does_not_answer_is_told_to_the_layer_and_between_ulids() {
    let mut w = World::new();
    let third = AliasId(2);
    let medium = AliasMedium::Ethernet { mac: [2, 0, 0, 0, 0, 3] };
    w.change(A, Change::AliasAdd(AliasConfig::up_without_offload(third, medium)));
    let cidr = "2001:db8:77::1/64".parse().unwrap();
    w.change(A, Change::AddressAdd { alias: third, cidr });
    w.run_for(Duration::from_secs(3));
    let (here, there) = ("2001:db8:77::1".parse().unwrap(), "2001:db8:77::2".parse().unwrap());
    w.context((v6(A, 0), here), (v6(B, 0), there));
    let from = Some((v6(A, 0), 0).into());
    let c = w.stacks[A].tcp_connect(w.now, from, (v6(B, 0), 80).into()).unwrap();
    w.run_for(Duration::from_secs(4));
    let hinted = (IcmpErrorKind::HostUnreachable, (here, there));
    assert!(w.layer(A).log.errors.contains(&hinted), "{:?}", w.layer(A).log.errors);
    assert_eq!(w.stacks[A].tcp_take_error(c), Some(TcpError::HostUnreachable));
}
