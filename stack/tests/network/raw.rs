//! Raw and ICMP echo sockets.

use std::net::SocketAddr;

use super::fixture::*;
use weft_stack::drop::DropReason;
use weft_stack::frame::FramePool;
use weft_stack::socket::SocketId;
use weft_stack::socket::raw::{
    Family, IcmpFilter, RawOption, RawPacket, RawRecvError, RawSendError,
};
use weft_stack::socket::udp::{BindError, UdpError};
use weft_stack::stack::{Change, Limits, Stack, StackConfig};
use weft_stack::time::{Duration, Instant};
use weft_stack::wire::checksum;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// As [`Net::pair`], with raw sockets allowed on both; a third stack allows nothing.
fn net() -> Net {
    let mut net = Net::new(3);
    for i in 0..2u8 {
        let limits = Limits { raw_sockets: 4, icmp_sockets: 2, ..Limits::default() };
        let config = StackConfig { limits, seed: [i; 16], ..StackConfig::default() };
        let i = usize::from(i);
        net.stacks[i] = Stack::new(config, FramePool::heap(512, 2048), Instant::from_millis(1000));
        net.alias(i, alias(A0, i as u8 + 1, 1500));
        net.addr(i, A0, &format!("10.0.0.{}/24", i + 1));
        net.addr(i, A0, &format!("fd00::{}/64", i + 1));
    }
    net.cable((0, A0), (1, A0));
    net.run_for(Duration::from_secs(3));
    net
}

fn open(net: &mut Net, stack: usize, family: Family, protocol: u8) -> SocketId {
    net.stacks[stack].raw_open(net.now, family, protocol).unwrap()
}

fn received(net: &mut Net, stack: usize, id: SocketId) -> Vec<RawPacket> {
    std::iter::from_fn(|| net.stacks[stack].raw_recv(id).ok()).collect()
}

#[test]
fn raw_sockets_are_a_matter_of_permission() {
    let mut net = Net::alone();
    let refused = net.stacks[0].raw_open(net.now, Family::V4, 1);
    assert_eq!(refused, Err(BindError::NotAllowed));
    assert!(net.stacks[0].icmp_open(net.now, Family::V4).is_ok());
    let mut net = self::net();
    for _ in 0..4 {
        open(&mut net, 0, Family::V6, 253);
    }
    let refused = net.stacks[0].raw_open(net.now, Family::V6, 253);
    assert_eq!(refused, Err(BindError::TooMany));
    for _ in 0..2 {
        net.stacks[0].icmp_open(net.now, Family::V6).unwrap();
    }
    assert_eq!(net.stacks[0].icmp_open(net.now, Family::V6), Err(BindError::TooMany));
    assert_eq!(net.stacks[0].memory().raw_sockets, 6);
    net.stacks[0].drain(net.now);
    assert_eq!(net.stacks[0].memory().raw_sockets, 0);
}

// RFC 1122 3.4
// RFC 3542 3
#[test]
fn a_protocol_of_its_own_goes_both_ways() {
    let mut net = net();
    for (family, from, to) in
        [(Family::V4, "10.0.0.1:0", "10.0.0.2:0"), (Family::V6, "[fd00::1]:0", "[fd00::2]:0")]
    {
        let (a, b) = (open(&mut net, 0, family, 253), open(&mut net, 1, family, 253));
        assert!(net.stacks[0].raw_set_option(a, RawOption::HopLimit(Some(9))));
        for payload in [&b"hello"[..], &[7; 4000]] {
            net.stacks[0].raw_send(net.now, a, payload, Some(at(to))).unwrap();
            net.run();
            let [packet] = &received(&mut net, 1, b)[..] else { panic!("not one packet") };
            assert_eq!((packet.from, packet.to), (at(from), at(to).ip()));
            assert_eq!((packet.hop_limit, packet.alias), (9, A0));
            let header = if family == Family::V4 { 20 } else { 0 };
            assert_eq!(&packet.payload[header..], payload);
        }
        net.stacks[1].raw_close(b);
        // Nobody listens any more: the sender's peer says so.
        net.stacks[0].raw_connect(net.now, a, at(to)).unwrap();
        net.stacks[0].raw_send(net.now, a, b"anybody?", None).unwrap();
        net.run();
        let told = net.stacks[0].raw_recv(a).unwrap_err();
        assert_eq!(told, RawRecvError::Failed(UdpError::ProtocolUnreachable));
        net.stacks[0].raw_close(a);
    }
    assert_eq!(net.stacks[1].mib().drops.get(DropReason::IpProtocolUnknown), 2);
    net.check();
}

#[test]
fn copies_are_by_protocol_address_and_icmp_type() {
    let mut net = net();
    let udp = open(&mut net, 1, Family::V4, 17);
    let icmp = open(&mut net, 1, Family::V4, 1);
    let echoes = open(&mut net, 1, Family::V4, 1);
    let other = open(&mut net, 1, Family::V4, 1);
    let only_requests = IcmpFilter::BLOCK_ALL.pass(8);
    assert!(net.stacks[1].raw_set_option(echoes, RawOption::Filter(only_requests)));
    net.stacks[1].raw_connect(net.now, other, at("10.0.0.77:0")).unwrap();
    let client = net.stacks[0].udp_bind(net.now, at("0.0.0.0:1000")).unwrap();
    net.stacks[0].udp_send(net.now, client, b"datagram", Some(at("10.0.0.2:9"))).unwrap();
    let ping = net.stacks[0].icmp_open(net.now, Family::V4).unwrap();
    net.stacks[0].icmp_send_echo(net.now, ping, 7, b"abc", Some(at("10.0.0.2:0"))).unwrap();
    net.run();
    let packets = received(&mut net, 1, udp);
    assert_eq!(packets.len(), 1);
    assert!(packets[0].payload.ends_with(b"datagram"));
    // The port is closed all the same: a copy is no socket.
    assert_eq!(net.stacks[1].mib().udp.no_ports, 1);
    for id in [icmp, echoes] {
        let packets = received(&mut net, 1, id);
        assert_eq!((packets.len(), packets[0].payload[20]), (1, 8));
    }
    assert!(received(&mut net, 1, other).is_empty());
    // The stack answers echo requests itself; the raw socket only sees them.
    assert_eq!(net.stacks[0].icmp_recv(ping).unwrap().result.unwrap(), &b"abc"[..]);
    net.check();
}

// RFC 3542 3.1
#[test]
fn ipv6_checksums_are_filled_in_and_verified() {
    let mut net = net();
    let (a, b) = (open(&mut net, 0, Family::V6, 253), open(&mut net, 1, Family::V6, 253));
    assert!(!net.stacks[0].raw_set_option(a, RawOption::ChecksumOffset(Some(3))), "odd");
    for id in [(0, a), (1, b)] {
        assert!(net.stacks[id.0].raw_set_option(id.1, RawOption::ChecksumOffset(Some(4))));
    }
    let to = Some(at("[fd00::2]:0"));
    assert_eq!(net.stacks[0].raw_send(net.now, a, b"short", to), Err(RawSendError::TooLong));
    net.stacks[0].raw_send(net.now, a, b"sum:??!", to).unwrap();
    net.run();
    let [packet] = &received(&mut net, 1, b)[..] else { panic!("not one packet") };
    let pseudo = checksum::pseudo(ip("fd00::1"), ip("fd00::2"), 253, 7);
    assert!(checksum::is_valid(checksum::combine(pseudo, checksum::sum(&packet.payload))));
    // One that is wrong is not for it.
    net.stacks[0].raw_set_option(a, RawOption::ChecksumOffset(None));
    net.stacks[0].raw_send(net.now, a, b"sum:\0\0!", to).unwrap();
    net.run();
    assert!(received(&mut net, 1, b).is_empty());
    let icmp = open(&mut net, 0, Family::V6, 58);
    assert!(!net.stacks[0].raw_set_option(icmp, RawOption::ChecksumOffset(None)), "always at 2");
    net.check();
}

#[test]
fn a_header_of_its_own_is_taken_over_but_for_forgery() {
    let mut net = net();
    let (a, b) = (open(&mut net, 0, Family::V4, 253), open(&mut net, 1, Family::V4, 254));
    assert!(net.stacks[0].raw_set_option(a, RawOption::HeaderIncluded(true)));
    let mut packet = ip4("0.0.0.0", "10.0.0.2", 254, b"mine");
    (packet[1], packet[8]) = (0xb8, 33);
    net.stacks[0].raw_send(net.now, a, &packet, None).unwrap();
    net.run();
    let [got] = &received(&mut net, 1, b)[..] else { panic!("not one packet") };
    assert_eq!((got.from, got.hop_limit, got.traffic_class), (at("10.0.0.1:0"), 33, 0xb8));
    assert!(got.payload.ends_with(b"mine"));
    let send = |net: &mut Net, p: &[u8]| net.stacks[0].raw_send(net.now, a, p, None);
    let forged = ip4("10.0.0.99", "10.0.0.2", 254, b"x");
    assert_eq!(send(&mut net, &forged), Err(RawSendError::Unreachable));
    let optional = ip4_with("10.0.0.1", "10.0.0.2", 254, &[1; 4], 0, b"x");
    for bad in [&b"short"[..], &optional, &ip4_with("10.0.0.1", "10.0.0.2", 254, &[], 5, b"x")] {
        assert_eq!(send(&mut net, bad), Err(RawSendError::HeaderInvalid));
    }
    let all = ip4("10.0.0.1", "10.0.0.255", 254, b"x");
    assert_eq!(send(&mut net, &all), Err(RawSendError::Broadcast));
    net.check();
}

// RFC 792
// RFC 4443 4.1
#[test]
fn echo_sockets_get_their_own_answers() {
    let mut net = net();
    for (family, to) in [(Family::V4, "10.0.0.2:0"), (Family::V6, "[fd00::2]:0")] {
        let one = net.stacks[0].icmp_open(net.now, family).unwrap();
        let two = net.stacks[0].icmp_open(net.now, family).unwrap();
        let idents = [one, two].map(|id| net.stacks[0].raw_local(id).unwrap().port());
        assert_ne!(idents[0], idents[1]);
        for (sequence, payload) in [(1, &b"ping"[..]), (2, &[9; 3000]), (0xffff, b"")] {
            let to = Some(at(to));
            net.stacks[0].icmp_send_echo(net.now, one, sequence, payload, to).unwrap();
            net.run();
            let answer = net.stacks[0].icmp_recv(one).unwrap();
            assert_eq!((answer.from, answer.sequence, answer.hop_limit), (to, sequence, 64));
            assert_eq!(answer.rtt, Some(Duration::ZERO));
            assert_eq!(answer.result.unwrap(), payload);
        }
        assert_eq!(net.stacks[0].icmp_recv(two), Err(RawRecvError::WouldBlock));
        for id in [one, two] {
            net.stacks[0].raw_close(id);
            assert_eq!(net.stacks[0].icmp_recv(id), Err(RawRecvError::Closed));
        }
    }
    net.check();
}

// RFC 1122 3.2.2.4
#[test]
fn echo_sockets_learn_what_went_wrong_and_from_whom() {
    let mut net = routed();
    net.change(1, Change::Forwarding(true));
    for (family, far, router, headers) in [
        (Family::V4, "10.1.0.1:0", "10.0.0.254:0", 28),
        (Family::V6, "[fd00:0:0:1::1]:0", "[fd00::fe]:0", 48),
    ] {
        let id = net.stacks[0].icmp_open(net.now, family).unwrap();
        net.stacks[0].raw_set_option(id, RawOption::HopLimit(Some(1)));
        net.stacks[0].icmp_send_echo(net.now, id, 5, b"ping", Some(at(far))).unwrap();
        net.run();
        let answer = net.stacks[0].icmp_recv(id).unwrap();
        assert_eq!(answer.result, Err(UdpError::TimeExceeded));
        assert_eq!((answer.from, answer.sequence), (Some(at(router)), 5));
        // Once the path MTU is known larger ones go in fragments.
        net.stacks[0].raw_set_option(id, RawOption::HopLimit(None));
        let long = vec![1; 1500 - headers];
        net.stacks[0].icmp_send_echo(net.now, id, 6, &long, Some(at(far))).unwrap();
        net.run();
        let answer = net.stacks[0].icmp_recv(id).unwrap();
        assert_eq!(answer.result, Err(UdpError::TooBig { mtu: 1400 }));
        net.stacks[0].icmp_send_echo(net.now, id, 7, &long, Some(at(far))).unwrap();
        net.run();
        assert_eq!(net.stacks[0].icmp_recv(id).unwrap().result.unwrap(), long);
    }
    net.check();
}

#[test]
fn unread_packets_are_bounded_and_their_loss_is_counted() {
    let mut net = net();
    let (a, b) = (open(&mut net, 0, Family::V4, 253), open(&mut net, 1, Family::V4, 253));
    net.stacks[1].raw_set_option(b, RawOption::RecvBuffer(4000));
    for _ in 0..20 {
        net.stacks[0].raw_send(net.now, a, &[1; 916], Some(at("10.0.0.2:0"))).unwrap();
        net.run();
    }
    assert_eq!(net.stacks[1].memory().raw_bytes, 4000);
    assert_eq!(received(&mut net, 1, b).len(), 4);
    assert_eq!((net.stacks[1].mib().raw.rcvbuf_errors, net.stacks[1].memory().raw_bytes), (16, 0));
    let mut lines = Vec::new();
    net.stacks[1].for_each_socket(|s| lines.push((s.state, s.local.port(), s.memory.drops)));
    assert_eq!(lines, [("UNCONN", 253, 16)]);
    net.check();
}
