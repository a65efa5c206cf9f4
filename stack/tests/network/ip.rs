//! The IP layer and UDP, seen from outside: stacks on cables, and packets made by hand.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::fixture::*;
use weft_stack::drop::DropReason;
use weft_stack::frame::{Checksum, Frame, Gso};
use weft_stack::ip::address::{AliasConfig, AliasId, AliasMedium, Cidr};
use weft_stack::ip::route::Route;
use weft_stack::socket::udp::{BindError, UdpError, UdpOption, UdpRecvError, UdpSendError};
use weft_stack::socket::{Event, Readiness, SocketId};
use weft_stack::stack::{Change, ChangeError, TxBurst};
use weft_stack::time::Duration;
use weft_stack::wire::checksum;

fn bind(net: &mut Net, stack: usize, local: &str) -> SocketId {
    net.stacks[stack].udp_bind(net.now, local.parse().unwrap()).unwrap()
}

fn send(net: &mut Net, stack: usize, id: SocketId, to: &str, payload: &[u8]) {
    net.stacks[stack].udp_send(net.now, id, payload, Some(to.parse().unwrap())).unwrap();
    net.run();
}

fn ready(net: &Net, stack: usize, id: SocketId) -> Option<Readiness> {
    net.events.iter().rev().find_map(|(s, e)| match e {
        Event::Socket { id: of, ready } if *s == stack && *of == id => Some(*ready),
        _ => None,
    })
}

/// The IP packets a lonely stack sent.
fn packets(net: &Net) -> Vec<&[u8]> {
    net.sent.iter().map(|(_, _, f)| &f[14..]).collect()
}

#[test]
fn addresses_are_announced_once_they_may_be_used() {
    let net = Net::pair();
    for (stack, addr) in [(0, "10.0.0.1"), (0, "fd00::1"), (1, "10.0.0.2"), (1, "fd00::2")] {
        let event = Event::AddressAdded { alias: A0, addr: ip(addr) };
        assert_eq!(net.events.iter().filter(|e| **e == (stack, event)).count(), 1, "{addr}");
    }
    net.check();
}

#[test]
fn datagrams_cross_after_address_resolution() {
    let mut net = Net::pair();
    for (local, remote) in [("10.0.0.1:0", "10.0.0.2:7"), ("[fd00::1]:0", "[fd00::2]:7")] {
        let client = bind(&mut net, 0, local);
        let server = bind(&mut net, 1, remote);
        send(&mut net, 0, client, remote, b"hello");
        assert!(ready(&net, 1, server).unwrap().contains(Readiness::READABLE));
        let got = net.stacks[1].udp_recv(server).unwrap();
        assert_eq!((&got.payload[..], got.alias), (&b"hello"[..], A0));
        assert_eq!(Some(got.from), net.stacks[0].udp_local(client));
        send(&mut net, 1, server, &got.from.to_string(), b"world");
        assert_eq!(&net.stacks[0].udp_recv(client).unwrap().payload[..], b"world");
        assert_eq!(net.stacks[0].udp_recv(client).unwrap_err(), UdpRecvError::WouldBlock);
    }
    assert_eq!(net.stacks[0].mib().udp.out_datagrams, 2);
    assert_eq!(net.stacks[1].mib().udp.in_datagrams, 2);
    net.check();
}

#[test]
fn echo_is_answered_from_the_address_asked() {
    let mut net = Net::alone();
    let body = [0, 1, 0, 2, b'a', b'b', b'c'];
    let ask = icmp("10.0.0.9", "10.0.0.1", 8, 0, &body);
    net.inject(0, A0, &ether(&ip4("10.0.0.9", "10.0.0.1", 1, &ask)));
    let ask6 = icmp("fd00::9", "fd00::1", 128, 0, &body);
    net.inject(0, A0, &ether(&ip6("fd00::9", "fd00::1", 58, &ask6)));
    let sent = packets(&net);
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0][20..], icmp("10.0.0.1", "10.0.0.9", 0, 0, &body)[..]);
    assert_eq!(sent[0][12..20], [10, 0, 0, 1, 10, 0, 0, 9]);
    assert_eq!(sent[1][40..], icmp("fd00::1", "fd00::9", 129, 0, &body)[..]);
    // IPv4 broadcast and multicast are not answered, IPv6 multicast is.
    let many = icmp("10.0.0.9", "10.0.0.255", 8, 0, &body);
    let frame = ether_to([255; 6], &ip4("10.0.0.9", "10.0.0.255", 1, &many));
    net.inject(0, A0, &frame);
    assert_eq!(net.sent.len(), 2);
    let many6 = icmp("fd00::9", "ff02::1", 128, 0, &body);
    let frame = ether_to([0x33, 0x33, 0, 0, 0, 1], &ip6("fd00::9", "ff02::1", 58, &many6));
    net.inject(0, A0, &frame);
    assert_eq!(packets(&net)[2][40..], icmp("fd00::1", "fd00::9", 129, 0, &body)[..]);
    let mib = net.stacks[0].mib();
    assert_eq!(mib.drops.get(DropReason::IcmpEchoSuppressed), 1);
    assert_eq!((mib.icmp4.in_echos, mib.icmp4.out_echo_reps), (2, 1));
    assert_eq!((mib.icmp6.in_echos, mib.icmp6.out_echo_reps), (2, 2));
    net.check();
}

#[test]
fn large_datagrams_are_cut_and_joined() {
    let mut net = Net::pair();
    let payload: Vec<u8> = (0..60_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
    for (local, remote) in [("10.0.0.1:0", "10.0.0.2:9"), ("[fd00::1]:0", "[fd00::2]:9")] {
        let client = bind(&mut net, 0, local);
        let server = bind(&mut net, 1, remote);
        // The first one waits in the neighbour queue, which holds fewer packets: resolve first.
        send(&mut net, 0, client, remote, b"first");
        net.stacks[1].udp_recv(server).unwrap();
        send(&mut net, 0, client, remote, &payload);
        let got = net.stacks[1].udp_recv(server).unwrap();
        assert!(got.payload[..] == payload[..]);
    }
    assert!(net.carried.iter().all(|f| f.len() <= 1514));
    let (sent, got) = (net.stacks[0].mib(), net.stacks[1].mib());
    assert_eq!((sent.ip4.frag_oks, sent.ip6.frag_oks), (1, 1));
    assert_eq!((sent.ip4.frag_creates, got.ip4.reasm_reqds), (41, 41));
    assert_eq!((got.ip4.reasm_oks, got.ip6.reasm_oks), (1, 1));
    assert_eq!(net.stacks[1].memory().reassembly_bytes, 0);
    net.check();
}

/// Fragments of a UDP datagram of 24 payload bytes, to be put into packets: 16 + 16 bytes.
fn halves(src: &str, dst: &str) -> (Vec<u8>, Vec<u8>) {
    let whole = udp(src, dst, (1000, 9), &[5; 24]);
    (whole[..16].to_vec(), whole[16..].to_vec())
}

fn frag6(offset: u16, more: bool, ident: u8, payload: &[u8]) -> Vec<u8> {
    let field = (offset | u16::from(more)).to_be_bytes();
    let header = [&[17, 0], &field[..], &[0, 0, 0, ident]].concat();
    ether(&ip6("fd00::9", "fd00::1", 44, &[&header[..], payload].concat()))
}

#[test]
fn fragments_that_never_complete_time_out_with_an_icmp_error() {
    let mut net = Net::alone();
    let (first, second) = halves("10.0.0.9", "10.0.0.1");
    net.inject(0, A0, &ether(&ip4_with("10.0.0.9", "10.0.0.1", 17, &[], 0x2000, &first)));
    net.inject(0, A0, &frag6(0, true, 1, &first));
    // Without the first fragment nothing is reported.
    net.inject(0, A0, &frag6(16, false, 2, &second));
    assert_eq!(net.stacks[0].memory().reassemblies, 3);
    net.run_for(Duration::from_secs(61));
    let sent = packets(&net);
    assert_eq!(sent.len(), 2, "{sent:x?}");
    assert_eq!(sent[0][20..22], [11, 1]);
    assert_eq!(sent[1][40..42], [3, 1]);
    let mib = net.stacks[0].mib();
    assert_eq!(mib.drops.get(DropReason::FragmentTimeout), 3);
    assert_eq!((mib.ip4.reasm_fails, mib.ip6.reasm_fails), (1, 2));
    let memory = net.stacks[0].memory();
    assert_eq!((memory.reassemblies, memory.reassembly_bytes), (0, 0));
    net.check();
}

#[test]
fn overlapping_fragments_discard_the_packet_and_its_rest() {
    let mut net = Net::alone();
    let server = bind(&mut net, 0, "[::]:9");
    let (first, second) = halves("fd00::9", "fd00::1");
    net.inject(0, A0, &frag6(0, true, 1, &first));
    net.inject(0, A0, &frag6(8, true, 1, &first));
    net.inject(0, A0, &frag6(16, false, 1, &second));
    assert_eq!(net.stacks[0].udp_recv(server).unwrap_err(), UdpRecvError::WouldBlock);
    assert_eq!(net.stacks[0].mib().drops.get(DropReason::FragmentOverlap), 3);
    // An exact duplicate is harmless (RFC 8200 4.5), in any order.
    net.inject(0, A0, &frag6(16, false, 2, &second));
    net.inject(0, A0, &frag6(16, false, 2, &second));
    net.inject(0, A0, &frag6(0, true, 2, &first));
    assert_eq!(net.stacks[0].udp_recv(server).unwrap().payload[..], [5; 24]);
    // An atomic fragment does not wait for anything (RFC 6946).
    let whole = [first, second].concat();
    net.inject(0, A0, &frag6(0, false, 1, &whole));
    assert_eq!(net.stacks[0].udp_recv(server).unwrap().payload[..], [5; 24]);
    net.run_for(Duration::from_secs(61));
    assert_eq!(net.stacks[0].memory().reassembly_bytes, 0);
    net.check();
}

#[test]
fn reassembly_is_bounded() {
    let mut net = Net::alone();
    for ident in 0..200u8 {
        net.inject(0, A0, &frag6(0, true, ident, &[0; 1400]));
        let memory = net.stacks[0].memory();
        assert!(memory.reassemblies <= 64 && memory.reassembly_bytes <= 1 << 20);
    }
    assert_eq!(net.stacks[0].mib().drops.get(DropReason::FragmentTooMany), 136);
    net.run_for(Duration::from_secs(61));
    assert_eq!(net.stacks[0].memory().reassembly_bytes, 0);
    net.check();
}

#[test]
fn a_closed_port_is_reported_and_refuses_a_connected_socket() {
    let mut net = Net::pair();
    for (local, remote) in [("10.0.0.1:0", "10.0.0.2:99"), ("[fd00::1]:0", "[fd00::2]:99")] {
        let client = bind(&mut net, 0, local);
        let now = net.now;
        net.stacks[0].udp_connect(now, client, remote.parse().unwrap()).unwrap();
        net.stacks[0].udp_send(now, client, b"anybody?", None).unwrap();
        net.run();
        assert!(ready(&net, 0, client).unwrap().contains(Readiness::ERROR));
        assert_eq!(
            net.stacks[0].udp_recv(client).unwrap_err(),
            UdpRecvError::Failed(UdpError::Refused)
        );
        assert_eq!(net.stacks[0].udp_recv(client).unwrap_err(), UdpRecvError::WouldBlock);
    }
    let mib = net.stacks[1].mib();
    assert_eq!(mib.drops.get(DropReason::UdpPortClosed), 2);
    assert_eq!((mib.icmp4.out_dest_unreachs, mib.icmp6.out_dest_unreachs), (1, 1));
    assert_eq!(net.stacks[0].mib().icmp4.in_dest_unreachs, 1);
    net.check();
}

#[test]
fn icmp_errors_are_rate_limited() {
    let mut net = Net::alone();
    let datagram = udp("10.0.0.9", "10.0.0.1", (5, 99), b"x");
    for _ in 0..150 {
        net.inject(0, A0, &ether(&ip4("10.0.0.9", "10.0.0.1", 17, &datagram)));
    }
    assert_eq!(net.sent.len(), 100);
    assert_eq!(net.stacks[0].mib().icmp4.out_rate_limited, 50);
    net.check();
}

#[test]
fn a_middle_stack_forwards_only_if_told() {
    let mut net = routed();
    let server = bind(&mut net, 2, "[::]:9");
    for (local, remote) in [("10.0.0.1:0", "10.1.0.1:9"), ("[fd00::1]:0", "[fd00:0:0:1::1]:9")] {
        let client = bind(&mut net, 0, local);
        send(&mut net, 0, client, remote, b"no");
        assert_eq!(net.stacks[2].udp_recv(server).unwrap_err(), UdpRecvError::WouldBlock);
        net.change(1, Change::Forwarding(true));
        send(&mut net, 0, client, remote, b"yes");
        let got = net.stacks[2].udp_recv(server).unwrap();
        assert_eq!(&got.payload[..], b"yes");
        send(&mut net, 2, server, &got.from.to_string(), b"back");
        assert_eq!(&net.stacks[0].udp_recv(client).unwrap().payload[..], b"back");
        net.change(1, Change::Forwarding(false));
    }
    let mib = net.stacks[1].mib();
    assert_eq!(mib.drops.get(DropReason::IpDestinationNotOurs), 2);
    assert_eq!(mib.frames.forwarded, 4);
    assert_eq!((mib.ip4.forw_datagrams, mib.ip6.forw_datagrams), (2, 2));
    net.check();
}

#[test]
fn path_mtu_is_learned_from_routers() {
    let mut net = routed();
    net.change(1, Change::Forwarding(true));
    let server = bind(&mut net, 2, "[::]:9");
    for (local, remote) in [("10.0.0.1:0", "10.1.0.1:9"), ("[fd00::1]:0", "[fd00:0:0:1::1]:9")] {
        let client = bind(&mut net, 0, local);
        // 1,440 bytes fit the first link and not the second.
        send(&mut net, 0, client, remote, &[1; 1440]);
        assert_eq!(net.stacks[2].udp_recv(server).unwrap_err(), UdpRecvError::WouldBlock);
        send(&mut net, 0, client, remote, &[2; 1440]);
        assert_eq!(net.stacks[2].udp_recv(server).unwrap().payload[..], [2; 1440]);
    }
    assert_eq!(net.stacks[0].memory().path_mtus, 2);
    let mib = net.stacks[1].mib();
    assert_eq!((mib.icmp4.out_pkt_too_bigs, mib.icmp6.out_pkt_too_bigs), (1, 1));
    assert_eq!(net.stacks[0].mib().icmp4.in_pkt_too_bigs, 1);
    assert_eq!(net.stacks[2].mib().ip4.reasm_oks, 1);
    // After ten minutes the larger size is tried again.
    net.run_for(Duration::from_secs(601));
    let client = bind(&mut net, 0, "10.0.0.1:0");
    send(&mut net, 0, client, "10.1.0.1:9", &[3; 1440]);
    assert_eq!(net.stacks[1].mib().icmp4.out_pkt_too_bigs, 2);
    net.check();
}

#[test]
fn a_router_reports_expired_hops_and_missing_routes() {
    let mut net = routed();
    net.change(1, Change::Forwarding(true));
    let datagram = udp("10.0.0.1", "10.1.0.1", (1, 2), b"x");
    let mut packet = ip4("10.0.0.1", "10.1.0.1", 17, &datagram);
    packet[8] = 1;
    fix_ip4_sum(&mut packet);
    net.inject(1, A0, &ether_to(mac(2), &packet));
    let lost = ip4("10.0.0.1", "192.0.2.1", 17, &datagram);
    net.inject(1, A0, &ether_to(mac(2), &lost));
    let mib = net.stacks[1].mib();
    assert_eq!(mib.drops.get(DropReason::IpTtlExceeded), 1);
    assert_eq!(mib.drops.get(DropReason::IpNoRoute), 1);
    assert_eq!((mib.icmp4.out_time_excds, mib.icmp4.out_dest_unreachs), (1, 1));
    assert_eq!(net.stacks[0].mib().icmp4.in_time_excds, 1);
    net.check();
}

#[test]
fn a_router_cuts_what_may_be_cut() {
    let mut net = routed();
    net.change(1, Change::Forwarding(true));
    let server = bind(&mut net, 2, "0.0.0.0:9");
    let datagram = udp("10.0.0.1", "10.1.0.1", (1, 9), &[8; 1440]);
    let packet = ip4_with("10.0.0.1", "10.1.0.1", 17, &[], 0, &datagram);
    net.inject(1, A0, &ether_to(mac(2), &packet));
    assert_eq!(net.stacks[2].udp_recv(server).unwrap().payload[..], [8; 1440]);
    assert_eq!(net.stacks[1].mib().ip4.frag_creates, 2);
    net.check();
}

#[test]
fn sockets_of_one_stack_reach_each_other() {
    let mut net = Net::alone();
    for (server, to) in [
        ("10.0.0.1:5", "10.0.0.1:5"),
        ("127.0.0.1:6", "127.0.0.1:6"),
        ("[::1]:7", "[::1]:7"),
        ("[::]:8", "[fd00::1]:8"),
    ] {
        let server = bind(&mut net, 0, server);
        let client = bind(&mut net, 0, if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" });
        let big = vec![1; 30_000];
        send(&mut net, 0, client, to, &big);
        let got = net.stacks[0].udp_recv(server).unwrap();
        assert!(got.payload[..] == big[..]);
        send(&mut net, 0, server, &got.from.to_string(), b"re");
        assert_eq!(&net.stacks[0].udp_recv(client).unwrap().payload[..], b"re");
    }
    assert!(net.sent.is_empty());
    net.check();
}

#[test]
fn bindings_are_exact_before_wildcard() {
    let mut net = Net::pair();
    net.addr(1, A0, "10.0.0.3/24");
    let exact = bind(&mut net, 1, "10.0.0.2:9");
    let any = bind(&mut net, 1, "[::]:9");
    let now = net.now;
    let again = net.stacks[1].udp_bind(now, "0.0.0.0:9".parse().unwrap());
    assert_eq!(again, Err(BindError::InUse));
    let foreign = net.stacks[1].udp_bind(now, "10.9.9.9:9".parse().unwrap());
    assert_eq!(foreign, Err(BindError::NotAvailable));
    let client = bind(&mut net, 0, "0.0.0.0:0");
    send(&mut net, 0, client, "10.0.0.2:9", b"exact");
    send(&mut net, 0, client, "10.0.0.3:9", b"any");
    assert_eq!(&net.stacks[1].udp_recv(exact).unwrap().payload[..], b"exact");
    assert_eq!(&net.stacks[1].udp_recv(any).unwrap().payload[..], b"any");
    // A connected socket passes over others' datagrams, which fall to the wildcard.
    let now = net.now;
    net.stacks[1].udp_connect(now, exact, "10.0.0.1:1".parse().unwrap()).unwrap();
    send(&mut net, 0, client, "10.0.0.2:9", b"passed over");
    assert_eq!(&net.stacks[1].udp_recv(any).unwrap().payload[..], b"passed over");
    // A closed handle stays stale when its slot is used again.
    net.stacks[1].udp_close(any);
    let new = bind(&mut net, 1, "[::]:9");
    assert_eq!(new.index, any.index);
    assert_eq!(net.stacks[1].udp_recv(any).unwrap_err(), UdpRecvError::Closed);
    assert_eq!(net.stacks[1].udp_local(any), None);
    net.check();
}

#[test]
fn a_full_receive_buffer_drops_and_counts() {
    let mut net = Net::pair();
    let server = bind(&mut net, 1, "10.0.0.2:9");
    let client = bind(&mut net, 0, "10.0.0.1:0");
    for _ in 0..300 {
        send(&mut net, 0, client, "10.0.0.2:9", &[0; 1400]);
    }
    let mib = net.stacks[1].mib();
    assert!(mib.drops.get(DropReason::UdpBufferFull) > 100);
    assert_eq!(mib.udp.rcvbuf_errors, mib.drops.get(DropReason::UdpBufferFull));
    assert!(net.stacks[1].memory().udp_bytes <= 256 << 10);
    while net.stacks[1].udp_recv(server).is_ok() {}
    assert_eq!(net.stacks[1].memory().udp_bytes, 0);
    net.check();
}

#[test]
fn a_full_transmit_queue_blocks_until_there_is_room() {
    let mut net = Net::alone();
    let client = bind(&mut net, 0, "0.0.0.0:0");
    let to = "10.0.0.9:9".parse().unwrap();
    let now = net.now;
    let mut sent = 0;
    let error = loop {
        match net.stacks[0].udp_send(now, client, b"x", Some(to)) {
            Ok(()) => sent += 1,
            Err(e) => break e,
        }
        assert!(sent <= 1024);
    };
    assert_eq!(error, UdpSendError::WouldBlock);
    assert!(sent >= 500, "{sent}");
    net.events.clear();
    net.run();
    assert!(ready(&net, 0, client).unwrap().contains(Readiness::WRITABLE));
    assert_eq!(net.sent.len(), sent);
    net.check();
}

#[test]
fn broadcasts_and_groups_are_delivered_to_those_who_want_them() {
    let mut net = Net::pair();
    let server = bind(&mut net, 1, "[::]:9");
    let client = bind(&mut net, 0, "0.0.0.0:0");
    for to in ["10.0.0.255:9", "255.255.255.255:9"] {
        let refused = net.stacks[0].udp_send(net.now, client, b"x", Some(to.parse().unwrap()));
        assert_eq!(refused, Err(UdpSendError::Broadcast));
    }
    net.stacks[0].udp_set_option(client, UdpOption::Broadcast(true));
    for to in ["10.0.0.255:9", "255.255.255.255:9"] {
        send(&mut net, 0, client, to, b"all");
        assert_eq!(&net.stacks[1].udp_recv(server).unwrap().payload[..], b"all");
    }
    let client6 = bind(&mut net, 0, "[::]:0");
    let unwanted = |net: &Net| net.stacks[1].mib().drops.get(DropReason::MulticastNotMember);
    let start = unwanted(&net);
    for (group, to, from) in
        [("239.1.2.3", "239.1.2.3:9", client), ("ff15::99", "[ff15::99]:9", client6)]
    {
        send(&mut net, 0, from, to, b"before");
        let now = net.now;
        net.stacks[1].udp_join(now, server, A0, ip(group)).unwrap();
        send(&mut net, 0, from, to, b"joined");
        net.stacks[1].udp_leave(now, server, A0, ip(group));
        send(&mut net, 0, from, to, b"after");
        assert_eq!(&net.stacks[1].udp_recv(server).unwrap().payload[..], b"joined");
        assert_eq!(net.stacks[1].udp_recv(server).unwrap_err(), UdpRecvError::WouldBlock);
        let joined = Event::GroupJoined { alias: A0, group: ip(group) };
        let left = Event::GroupLeft { alias: A0, group: ip(group) };
        assert!(net.events.contains(&(1, joined)) && net.events.contains(&(1, left)));
    }
    assert_eq!(unwanted(&net), start + 4);
    net.check();
}

#[test]
fn an_absent_neighbour_is_reported_to_the_socket_layer() {
    let mut net = Net::alone();
    let client = bind(&mut net, 0, "10.0.0.1:0");
    send(&mut net, 0, client, "10.0.0.77:9", b"x");
    assert_eq!(net.stacks[0].memory().neighbour_frames, 1);
    net.run_for(Duration::from_secs(5));
    let mib = net.stacks[0].mib();
    assert_eq!(mib.drops.get(DropReason::NeighbourUnreachable), 1);
    assert_eq!(net.stacks[0].memory().neighbour_frames, 0);
    net.check();
}

#[test]
fn every_kind_of_bad_packet_has_its_reason() {
    let good = |p: &str| udp("10.0.0.9", p, (5, 9), b"data");
    let v4 = |payload: &[u8]| ip4("10.0.0.9", "10.0.0.1", 17, payload);
    let v6 = |next: u8, payload: &[u8]| ether(&ip6("fd00::9", "fd00::1", next, payload));
    let edit = |mut p: Vec<u8>, at: usize, value: u8, fix: bool| {
        p[at] = value;
        if fix {
            fix_ip4_sum(&mut p);
        }
        ether(&p)
    };
    let udp4 = v4(&good("10.0.0.1"));
    let udp6 = udp("fd00::9", "fd00::1", (5, 9), b"data");
    let echo = icmp("10.0.0.9", "10.0.0.1", 8, 0, &[0; 4]);
    let option = |o: &[u8]| ether(&ip4_with("10.0.0.9", "10.0.0.1", 17, o, 0, &[]));
    let from = |src: &str| ether(&ip4(src, "10.0.0.1", 17, &good("10.0.0.1")));
    let from6 = |src: &str| ether(&ip6(src, "fd00::1", 17, &udp6));
    let cases: Vec<(DropReason, Vec<u8>)> = vec![
        (DropReason::EthernetTruncated, vec![0; 9]),
        (DropReason::EthertypeUnknown, [&mac(1)[..], &mac(9), &[0x12, 0x34], &[0; 46]].concat()),
        (DropReason::NotForThisHost, ether_to(mac(77), &udp4)),
        (DropReason::IpTruncated, ether(&udp4[..19])),
        (DropReason::IpTruncated, ether(&udp4[..28])),
        (DropReason::IpVersionWrong, [&mac(1)[..], &mac(9), &[8, 0], &[0x65; 40]].concat()),
        (DropReason::IpVersionWrong, [&mac(1)[..], &mac(9), &[0x86, 0xdd], &[0x45; 60]].concat()),
        (DropReason::IpHeaderMalformed, edit(udp4.clone(), 0, 0x44, false)),
        (DropReason::IpHeaderMalformed, edit(udp4.clone(), 3, 12, true)),
        (DropReason::IpHeaderMalformed, option(&[7, 9, 0, 0])),
        (DropReason::IpHeaderMalformed, option(&[7, 0, 0, 0])),
        (DropReason::IpChecksumBad, edit(udp4.clone(), 10, 0xaa, false)),
        (DropReason::IpOptionRefused, option(&[131, 3, 4, 0])),
        (DropReason::IpOptionRefused, option(&[1, 137, 3, 4])),
        (DropReason::IpSourceInvalid, from("224.0.0.1")),
        (DropReason::IpSourceInvalid, from("127.0.0.1")),
        (DropReason::IpSourceInvalid, from("255.255.255.255")),
        (DropReason::IpSourceInvalid, from("10.0.0.255")),
        (DropReason::IpSourceInvalid, from("0.0.0.0")),
        (DropReason::IpSourceInvalid, from6("ff02::1")),
        (DropReason::IpSourceInvalid, from6("::1")),
        (DropReason::IpSourceInvalid, from6("::")),
        (DropReason::IpSourceInvalid, from6("::ffff:10.0.0.9")),
        (DropReason::IpSourceIsUs, from("10.0.0.1")),
        (DropReason::IpSourceIsUs, from6("fd00::1")),
        (DropReason::IpDestinationNotOurs, ether(&ip4("10.0.0.9", "10.0.0.8", 17, &[]))),
        (DropReason::IpDestinationNotOurs, ether(&ip6("fd00::9", "fd00::8", 17, &[]))),
        (DropReason::IpProtocolUnknown, ether(&ip4("10.0.0.9", "10.0.0.1", 200, &[0; 8]))),
        (DropReason::IpProtocolUnknown, v6(200, &[0; 8])),
        (DropReason::IpExtensionMalformed, v6(60, &[17, 9, 0, 0, 0, 0, 0, 0])),
        (DropReason::IpExtensionUnknown, v6(43, &[17, 0, 0, 1, 0, 0, 0, 0])),
        (DropReason::IpExtensionUnknown, v6(60, &[17, 0, 0xc5, 4, 0, 0, 0, 0])),
        (DropReason::IpExtensionTooMany, v6(60, &[60, 0, 1, 4, 0, 0, 0, 0].repeat(9))),
        (DropReason::FragmentMalformed, frag6(0, true, 9, &[0; 9])),
        (DropReason::FragmentMalformed, frag6(0xfff8, false, 9, &[0; 100])),
        (
            DropReason::FragmentMalformed,
            ether(&ip4_with("10.0.0.9", "10.0.0.1", 17, &[], 0x1fff, &[0; 100])),
        ),
        (DropReason::IcmpMalformed, ether(&ip4("10.0.0.9", "10.0.0.1", 1, &echo[..5]))),
        (DropReason::IcmpChecksumBad, edit(ip4("10.0.0.9", "10.0.0.1", 1, &echo), 22, 9, false)),
        (
            DropReason::IcmpTypeUnknown,
            ether(&ip4("10.0.0.9", "10.0.0.1", 1, &icmp("10.0.0.9", "10.0.0.1", 77, 0, &[0; 4]))),
        ),
        (
            DropReason::IcmpErrorUnmatched,
            ether(&ip4(
                "10.0.0.9",
                "10.0.0.1",
                1,
                &icmp(
                    "10.0.0.9",
                    "10.0.0.1",
                    3,
                    3,
                    &[&[0; 4][..], &ip4("10.0.0.1", "10.0.0.9", 17, &[0; 8])].concat(),
                ),
            )),
        ),
        (DropReason::MulticastNotMember, {
            let dst = [1, 0, 0x5e, 1, 2, 3];
            ether_to(dst, &ip4("10.0.0.9", "239.1.2.3", 17, &good("239.1.2.3")))
        }),
        (DropReason::UdpMalformed, ether(&v4(&good("10.0.0.1")[..7]))),
        (DropReason::UdpMalformed, edit(udp4.clone(), 25, 7, false)),
        (DropReason::UdpMalformed, edit(udp4.clone(), 25, 200, false)),
        (DropReason::UdpChecksumBad, edit(udp4.clone(), 30, b'X', false)),
        (DropReason::UdpChecksumBad, v6(17, &[&udp6[..6], &[0, 0], &udp6[8..]].concat())),
        (DropReason::UdpPortClosed, ether(&udp4)),
    ];
    for (reason, frame) in cases {
        let mut net = Net::alone();
        net.inject(0, A0, &frame);
        let mib = net.stacks[0].mib();
        let counted: Vec<_> = mib.drops.iter().filter(|d| d.1 > 0).collect();
        assert_eq!(counted, [(reason, 1)], "{frame:02x?}");
        net.check();
    }
}

#[test]
fn padding_is_cut_and_a_missing_checksum_taken_over_ipv4() {
    let mut net = Net::alone();
    let server = bind(&mut net, 0, "[::]:9");
    let mut datagram = udp("10.0.0.9", "10.0.0.1", (5, 9), b"hi");
    datagram[6..8].fill(0);
    let mut frame = ether(&ip4("10.0.0.9", "10.0.0.1", 17, &datagram));
    frame.resize(60, 0xee);
    net.inject(0, A0, &frame);
    assert_eq!(&net.stacks[0].udp_recv(server).unwrap().payload[..], b"hi");
    net.check();
}

#[test]
fn problems_with_extension_headers_are_reported_with_their_place() {
    let mut net = Net::alone();
    let frame = ether(&ip6("fd00::9", "fd00::1", 60, &[17, 0, 0x9e, 4, 0, 0, 0, 0]));
    net.inject(0, A0, &frame);
    net.inject(0, A0, &ether(&ip6("fd00::9", "fd00::1", 60, &[200, 0, 1, 4, 0, 0, 0, 0])));
    let sent = packets(&net);
    assert_eq!((&sent[0][40..42], &sent[0][44..48]), (&[4, 2][..], &[0, 0, 0, 42][..]));
    assert_eq!((&sent[1][40..42], &sent[1][44..48]), (&[4, 1][..], &[0, 0, 0, 40][..]));
    net.check();
}

#[test]
fn no_error_answers_an_error_a_group_or_a_later_fragment() {
    let mut net = Net::alone();
    let quote = ip4("10.0.0.1", "10.0.0.9", 17, &[0; 8]);
    let error = icmp("10.0.0.9", "10.0.0.1", 3, 3, &[&[0; 4][..], &quote].concat());
    net.inject(0, A0, &ether(&ip4("10.0.0.9", "10.0.0.1", 1, &error)));
    let datagram = udp("10.0.0.9", "10.0.0.255", (5, 99), b"x");
    let frame = ether_to([255; 6], &ip4("10.0.0.9", "10.0.0.255", 17, &datagram));
    net.inject(0, A0, &frame);
    assert!(net.sent.is_empty(), "{:02x?}", net.sent);
    net.check();
}

#[test]
fn refused_changes_say_why_and_change_nothing() {
    let mut net = Net::alone();
    let cidr = |text: &str| -> Cidr { text.parse().unwrap() };
    let route = |prefix: &str, via: Option<&str>, alias| Route {
        prefix: cidr(prefix),
        via: via.map(ip),
        alias,
        src: None,
        metric: 0,
        mtu: None,
    };
    let none = AliasId(9);
    let cases = [
        (Change::AliasAdd(alias(A0, 1, 1500)), ChangeError::AliasExists(A0)),
        (Change::AliasRemove(none), ChangeError::NoAlias(none)),
        (Change::AliasLink { alias: none, up: true, mtu: 1 }, ChangeError::NoAlias(none)),
        (Change::AddressAdd { alias: none, cidr: cidr("10.0.0.3/24") }, ChangeError::NoAlias(none)),
        (
            Change::AddressAdd { alias: A0, cidr: cidr("10.0.0.1/24") },
            ChangeError::AddressExists(ip("10.0.0.1")),
        ),
        (
            Change::AddressAdd { alias: A0, cidr: cidr("10.0.0.255/24") },
            ChangeError::AddressInvalid(ip("10.0.0.255")),
        ),
        (
            Change::AddressAdd { alias: A0, cidr: cidr("ff02::1/64") },
            ChangeError::AddressInvalid(ip("ff02::1")),
        ),
        (
            Change::AddressRemove { alias: A0, addr: ip("10.0.0.7") },
            ChangeError::NoAddress(ip("10.0.0.7")),
        ),
        (
            Change::RouteAdd(route("0.0.0.0/0", Some("10.7.7.7"), A0)),
            ChangeError::GatewayUnreachable(ip("10.7.7.7")),
        ),
        (
            Change::RouteRemove(route("10.9.0.0/16", None, A0)),
            ChangeError::NoRoute(cidr("10.9.0.0/16")),
        ),
        (
            Change::NeighbourAdd { alias: A0, addr: ip("224.0.0.1"), mac: mac(3) },
            ChangeError::AddressInvalid(ip("224.0.0.1")),
        ),
    ];
    let routes = net.stacks[0].routes().count();
    for (change, error) in cases {
        let now = net.now;
        assert_eq!(net.stacks[0].handle_config(now, change), Err(error));
    }
    assert_eq!(net.stacks[0].routes().count(), routes);
    let now = net.now;
    let many =
        (0..5000u16).map(|i| route(&format!("10.{}.{}.0/24", 64 + (i >> 8), i & 255), None, A0));
    let full =
        many.map(|r| net.stacks[0].handle_config(now, Change::RouteAdd(r))).find(Result::is_err);
    assert_eq!(full, Some(Err(ChangeError::Limit("routes"))));
}

#[test]
fn what_leaves_with_an_alias_is_gone() {
    let mut net = Net::alone();
    let server = bind(&mut net, 0, "10.0.0.1:9");
    net.change(0, Change::AliasRemove(A0));
    net.run();
    for addr in ["10.0.0.1", "fd00::1"] {
        let event = Event::AddressRemoved { alias: A0, addr: ip(addr) };
        assert!(net.events.contains(&(0, event)));
        assert!(!net.stacks[0].is_local(ip(addr)));
    }
    assert_eq!(net.stacks[0].routes().count(), 0);
    assert_eq!(net.stacks[0].memory().neighbours, 0);
    let now = net.now;
    let refused = net.stacks[0].udp_send(now, server, b"x", Some("10.0.0.9:1".parse().unwrap()));
    assert_eq!(refused, Err(UdpSendError::Unreachable));
    net.inject(0, A0, &[0; 60]);
    assert_eq!(net.stacks[0].mib().drops.get(DropReason::AliasUnknown), 1);
    net.check();
}

#[test]
fn a_router_completes_partial_checksums_and_passes_super_segments_on() {
    let mut net = Net::new(1);
    let big = |id, n| AliasConfig { gso_bytes_max: 65_000, ..alias(id, n, 1500) };
    net.alias(0, big(A0, 1));
    net.alias(0, big(A1, 2));
    net.addr(0, A0, "10.0.0.1/24");
    net.addr(0, A1, "10.1.0.1/24");
    let addr = ip("10.1.0.9");
    net.change(0, Change::NeighbourAdd { alias: A1, addr, mac: mac(8) });
    net.change(0, Change::Forwarding(true));
    net.run_for(Duration::from_secs(3));
    net.sent.clear();
    // A TCP segment as a local kernel leaves it: the pseudo-header sum in its checksum field.
    let mut tcp = vec![0u8; 4020];
    tcp[12] = 0x50;
    let pseudo = checksum::pseudo(ip("10.0.0.9"), addr, 6, tcp.len());
    tcp[16..18].copy_from_slice(&pseudo.to_be_bytes());
    let bytes = ether(&ip4("10.0.0.9", "10.1.0.9", 6, &tcp));
    for gso in [Gso::Tcp4 { mss: 1000 }, Gso::None] {
        let mut frame = Frame::from_heap(64, &bytes);
        frame.meta.checksum = Checksum::Partial { start: 34, offset: 16 };
        frame.meta.gso = gso;
        net.stacks[0].handle_frame(net.now, A0, frame);
        net.run();
    }
    // Whole as a super-segment; as one packet too big, and DF says so.
    net.sent.retain(|(_, alias, _)| *alias == A1);
    assert_eq!(net.sent.len(), 1);
    let packet = &net.sent[0].2[14..];
    assert_eq!((packet.len(), packet[8]), (4040, 63));
    let sum = checksum::combine(
        checksum::pseudo(ip("10.0.0.9"), addr, 6, 4020),
        checksum::sum(&packet[20..]),
    );
    assert!(checksum::is_valid(sum) && checksum::is_valid(checksum::sum(&packet[..20])));
    let mib = net.stacks[0].mib();
    assert_eq!((mib.frames.forwarded, mib.drops.get(DropReason::IpTooBig)), (1, 1));
    net.check();
}

#[test]
fn changes_take_effect_at_once() {
    let mut net = Net::alone();
    let client = bind(&mut net, 0, "0.0.0.0:0");
    let to = |net: &mut Net| {
        net.sent.clear();
        let sent =
            net.stacks[0].udp_send(net.now, client, b"x", Some("192.0.2.1:9".parse().unwrap()));
        net.run();
        sent.map(|()| net.sent.last().unwrap().2[..6].to_vec())
    };
    assert_eq!(to(&mut net), Err(UdpSendError::Unreachable));
    net.route(0, A0, "0.0.0.0/0", "10.0.0.9");
    assert_eq!(to(&mut net), Ok(mac(9).to_vec()));
    net.change(0, Change::NeighbourAdd { alias: A0, addr: ip("10.0.0.8"), mac: mac(8) });
    net.route(0, A0, "192.0.2.0/24", "10.0.0.8");
    assert_eq!(to(&mut net), Ok(mac(8).to_vec()));
    net.change(0, Change::AliasLink { alias: A0, up: false, mtu: 1500 });
    assert_eq!(to(&mut net), Err(UdpSendError::Unreachable));
    net.change(0, Change::AliasLink { alias: A0, up: true, mtu: 1500 });
    assert_eq!(to(&mut net), Ok(mac(8).to_vec()));
    net.change(0, Change::AddressRemove { alias: A0, addr: ip("10.0.0.1") });
    assert_eq!(to(&mut net), Err(UdpSendError::Unreachable));
    net.check();
}

#[test]
fn the_preferred_source_of_a_route_and_the_alias_of_a_source_count() {
    let mut net = Net::alone();
    net.addr(0, A0, "10.0.0.2/24");
    net.alias(0, alias(A1, 2, 1500));
    net.addr(0, A1, "10.1.0.1/24");
    for (on, addr) in [(A0, "10.0.0.9"), (A1, "10.1.0.9")] {
        net.change(0, Change::NeighbourAdd { alias: on, addr: ip(addr), mac: mac(9) });
    }
    net.route(0, A0, "0.0.0.0/0", "10.0.0.9");
    let mut second = Route {
        prefix: "0.0.0.0/0".parse().unwrap(),
        via: Some(ip("10.1.0.9")),
        alias: A1,
        src: None,
        metric: 99,
        mtu: None,
    };
    net.change(0, Change::RouteAdd(second));
    second.prefix = "198.51.100.0/24".parse().unwrap();
    second.via = Some(ip("10.0.0.9"));
    second.alias = A0;
    second.src = Some(ip("10.0.0.2"));
    net.change(0, Change::RouteAdd(second));
    net.run_for(Duration::from_secs(3));
    let mut leaves = |local: &str, to: &str| {
        let id = bind(&mut net, 0, local);
        net.sent.clear();
        send(&mut net, 0, id, to, b"x");
        let (_, alias, frame) = &net.sent[0];
        (*alias, frame[26..30].to_vec())
    };
    assert_eq!(leaves("0.0.0.0:0", "192.0.2.1:9"), (A0, vec![10, 0, 0, 1]));
    assert_eq!(leaves("0.0.0.0:0", "198.51.100.1:9"), (A0, vec![10, 0, 0, 2]));
    // RFC 1122 3.3.4.2: a source address leaves by its own alias, through that alias's gateway.
    assert_eq!(leaves("10.1.0.1:0", "192.0.2.1:9"), (A1, vec![10, 1, 0, 1]));
    net.check();
}

#[test]
fn packets_of_a_flow_share_a_hash_and_flows_differ() {
    let mut net = Net::alone();
    let mut hashes = Vec::new();
    for _ in 0..8 {
        let client = bind(&mut net, 0, "10.0.0.1:0");
        let to = "10.0.0.9:9".parse().unwrap();
        // One whole datagram, and one in fragments.
        for payload in [&[0; 10][..], &[0; 4000]] {
            net.stacks[0].udp_send(net.now, client, payload, Some(to)).unwrap();
        }
        let mut burst = TxBurst::new(16);
        assert_eq!(net.stacks[0].poll_transmit(net.now, &mut burst), 4);
        let flow: HashSet<u32> = burst.frames.iter().map(|(_, f)| f.meta.flow_hash).collect();
        assert_eq!(flow.len(), 1);
        hashes.extend(flow);
    }
    let queues: HashSet<u32> = hashes.iter().map(|h| h % 4).collect();
    assert!(hashes.iter().all(|h| *h != 0) && queues.len() > 1, "{hashes:x?}");
}

#[test]
fn link_local_peers_carry_their_alias_as_scope() {
    let mut net = Net::pair();
    let local = |net: &Net, stack: usize| {
        let addresses = net.stacks[stack].addresses(A0).iter().map(|a| a.cidr.addr);
        let mut local =
            addresses.filter(|a| matches!(a, IpAddr::V6(a) if a.is_unicast_link_local()));
        local.next().unwrap()
    };
    let server = bind(&mut net, 1, "[::]:9");
    let client = bind(&mut net, 0, "[::]:0");
    let IpAddr::V6(peer) = local(&net, 1) else { unreachable!() };
    let scope_id = u32::from(A0.0) + 1;
    let to = SocketAddrV6::new(peer, 9, 0, scope_id).into();
    net.stacks[0].udp_send(net.now, client, b"near", Some(to)).unwrap();
    net.run();
    let got = net.stacks[1].udp_recv(server).unwrap();
    let SocketAddr::V6(from) = got.from else { panic!("{:?}", got.from) };
    assert_eq!((IpAddr::V6(*from.ip()), from.scope_id()), (local(&net, 0), scope_id));
    net.stacks[1].udp_connect(net.now, server, got.from).unwrap();
    net.stacks[1].udp_send(net.now, server, b"back", None).unwrap();
    net.run();
    assert_eq!(&net.stacks[0].udp_recv(client).unwrap().payload[..], b"back");
    net.check();
}

#[test]
fn a_router_reports_hosts_that_do_not_answer() {
    let mut net = routed();
    net.change(1, Change::Forwarding(true));
    for to in ["10.1.0.77:9", "[fd00:0:0:1::77]:9"] {
        let client =
            bind(&mut net, 0, if to.starts_with('[') { "[fd00::1]:0" } else { "10.0.0.1:0" });
        send(&mut net, 0, client, to, b"x");
    }
    net.run_for(Duration::from_secs(10));
    let (router, host) = (net.stacks[1].mib(), net.stacks[0].mib());
    assert_eq!(router.drops.get(DropReason::NeighbourUnreachable), 2);
    assert_eq!((router.icmp4.out_dest_unreachs, router.icmp6.out_dest_unreachs), (1, 1));
    assert_eq!((host.icmp4.in_dest_unreachs, host.icmp6.in_dest_unreachs), (1, 1));
    net.check();
}

#[test]
fn bare_ip_devices_have_no_neighbours() {
    let mut net = Net::new(2);
    for i in 0..2u8 {
        let config = AliasConfig { medium: AliasMedium::Ip, ..alias(A0, 0, 1500) };
        net.alias(usize::from(i), config);
        net.addr(usize::from(i), A0, &format!("10.0.0.{}/24", i + 1));
        net.addr(usize::from(i), A0, &format!("fd00::{}/64", i + 1));
    }
    net.cable((0, A0), (1, A0));
    // No link, no duplicates to look for: usable at once.
    for remote in ["10.0.0.2:9", "[fd00::2]:9"] {
        let server = bind(&mut net, 1, remote);
        let client = bind(&mut net, 0, "[::]:0");
        send(&mut net, 0, client, remote, &[1; 3000]);
        let got = net.stacks[1].udp_recv(server).unwrap();
        assert_eq!(got.payload[..], [1; 3000]);
    }
    assert_eq!(net.stacks[0].memory().neighbours, 0);
    net.inject(1, A0, &[0x15; 40]);
    net.inject(1, A0, &[]);
    let drops = &net.stacks[1].mib().drops;
    assert_eq!((drops.get(DropReason::IpVersionWrong), drops.get(DropReason::IpTruncated)), (1, 1));
    net.check();
}

#[test]
fn addresses_wait_for_the_link_and_survive_its_loss() {
    let mut net = Net::new(2);
    for i in 0..2u8 {
        let config = AliasConfig { up: i == 1, ..alias(A0, i + 1, 1500) };
        net.alias(usize::from(i), config);
        net.addr(usize::from(i), A0, &format!("10.0.0.{}/24", i + 1));
        net.addr(usize::from(i), A0, &format!("fd00::{}/64", i + 1));
    }
    net.cable((0, A0), (1, A0));
    net.run_for(Duration::from_secs(3));
    // Services may bind before duplicate address detection has ended.
    let early = bind(&mut net, 0, "[fd00::1]:7");
    let client = bind(&mut net, 1, "[::]:0");
    for _ in 0..2 {
        net.change(0, Change::AliasLink { alias: A0, up: true, mtu: 1500 });
        net.run_for(Duration::from_secs(5));
        send(&mut net, 1, client, "[fd00::1]:7", b"six");
        assert_eq!(&net.stacks[0].udp_recv(early).unwrap().payload[..], b"six");
        let four = bind(&mut net, 0, "10.0.0.1:7");
        send(&mut net, 1, client, "10.0.0.1:7", b"four");
        assert_eq!(&net.stacks[0].udp_recv(four).unwrap().payload[..], b"four");
        net.stacks[0].udp_close(four);
        net.change(0, Change::AliasLink { alias: A0, up: false, mtu: 1500 });
        net.run();
        let down = |net: &Net| net.stacks[0].mib().drops.get(DropReason::AliasDown);
        let before = down(&net);
        net.inject(0, A0, &[0; 60]);
        assert_eq!(down(&net), before + 1);
    }
    net.check();
}

// RFC 6980 5, RFC 8200 4.1
#[test]
fn fragments_carry_no_neighbour_discovery_and_no_hop_by_hop_options() {
    let mut net = Net::alone();
    let target: Ipv6Addr = "fd00::1".parse().unwrap();
    let body = [&[0; 4][..], &target.octets()].concat();
    let solicitation = icmp("fd00::9", "fd00::1", 135, 0, &body);
    let in_fragment = |next: u8, payload: &[u8]| {
        let fragment = [&[next, 0, 0, 0, 0, 0, 0, 1][..], payload].concat();
        let mut p = ip6("fd00::9", "fd00::1", 44, &fragment);
        p[7] = 255;
        ether(&p)
    };
    net.inject(0, A0, &in_fragment(58, &solicitation));
    assert!(net.sent.is_empty(), "{:02x?}", net.sent);
    assert_eq!(net.stacks[0].mib().drops.get(DropReason::NdpInvalid), 1);
    let datagram = udp("fd00::9", "fd00::1", (5, 9), b"x");
    let hop_by_hop = [&[17, 0, 1, 4, 0, 0, 0, 0][..], &datagram].concat();
    net.inject(0, A0, &in_fragment(0, &hop_by_hop));
    assert_eq!(net.stacks[0].mib().drops.get(DropReason::IpExtensionMalformed), 1);
    net.check();
}

#[test]
fn a_socket_of_both_families_that_is_connected_keeps_to_its_peers() {
    let mut net = Net::pair();
    let client = bind(&mut net, 0, "[::]:0");
    net.stacks[0].udp_connect(net.now, client, "10.0.0.2:9".parse().unwrap()).unwrap();
    for to in ["[fd00::2]:9", "[fd00::1]:9", "[ff02::1]:9"] {
        let sent = net.stacks[0].udp_send(net.now, client, b"x", Some(to.parse().unwrap()));
        assert_eq!(sent.unwrap_err(), UdpSendError::Unreachable, "{to}");
    }
    // Connected anew it has another source.
    net.stacks[0].udp_connect(net.now, client, "[fd00::2]:9".parse().unwrap()).unwrap();
    net.stacks[0].udp_send(net.now, client, b"x", None).unwrap();
    let route = Route {
        prefix: "10.9.0.0/16".parse().unwrap(),
        via: None,
        alias: A0,
        src: Some(ip("fd00::1")),
        metric: 0,
        mtu: None,
    };
    let mixed = net.stacks[0].handle_config(net.now, Change::RouteAdd(route));
    assert_eq!(mixed, Err(ChangeError::NoAddress(ip("fd00::1"))));
    net.run();
    net.check();
}

#[test]
fn a_router_does_not_pass_super_segments_whose_segments_are_too_big() {
    let mut net = Net::new(1);
    let big = |id, n, mtu| AliasConfig { gso_bytes_max: 65_000, ..alias(id, n, mtu) };
    net.alias(0, big(A0, 1, 9000));
    net.alias(0, big(A1, 2, 1500));
    net.addr(0, A0, "10.0.0.1/24");
    net.addr(0, A1, "10.1.0.1/24");
    for (on, addr) in [(A0, "10.0.0.9"), (A1, "10.1.0.9")] {
        net.change(0, Change::NeighbourAdd { alias: on, addr: ip(addr), mac: mac(8) });
    }
    net.change(0, Change::Forwarding(true));
    net.run_for(Duration::from_secs(3));
    for (mss, passed) in [(1460, true), (1461, false)] {
        net.sent.clear();
        let mut tcp = vec![0u8; 20_020];
        tcp[12] = 0x50;
        let bytes = ether(&ip4("10.0.0.9", "10.1.0.9", 6, &tcp));
        let mut frame = Frame::from_heap(64, &bytes);
        frame.meta.checksum = Checksum::Partial { start: 34, offset: 16 };
        frame.meta.gso = Gso::Tcp4 { mss };
        net.stacks[0].handle_frame(net.now, A0, frame);
        net.run();
        assert_eq!(net.sent.len(), 1);
        let (_, on, bytes) = &net.sent[0];
        assert_eq!(*on == A1, passed);
        if !passed {
            // Fragmentation needed, with the MTU (RFC 1191 4).
            assert_eq!((&bytes[34..36], &bytes[40..42]), (&[3, 4][..], &1500u16.to_be_bytes()[..]));
        }
    }
    net.check();
}

#[test]
fn a_router_does_not_cut_a_fragment_that_ends_beyond_a_packet() {
    let mut net = routed();
    net.change(1, Change::Forwarding(true));
    let beyond = ip4_with("10.0.0.1", "10.1.0.1", 17, &[], 0x1fff, &[0; 1480]);
    net.inject(1, A0, &ether_to(mac(2), &beyond));
    assert_eq!(net.stacks[1].mib().drops.get(DropReason::FragmentMalformed), 1);
    net.check();
}
