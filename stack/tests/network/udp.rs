//! UDP sockets: options, errors, groups, shared ports, segments.

use std::net::{IpAddr, SocketAddr};

use super::fixture::*;
use weft_stack::frame::{Checksum, Frame, Gso, HEADROOM_BYTES};
use weft_stack::ip::address::AliasConfig;
use weft_stack::socket::SocketId;
use weft_stack::socket::udp::{
    BindError, SourceFilter, UDP_PAYLOAD_BYTES_MAX, UdpBind, UdpError, UdpOption, UdpRecvError,
    UdpSend, UdpSendError,
};
use weft_stack::stack::{Change, TxBurst};
use weft_stack::wire::checksum;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn bind(net: &mut Net, stack: usize, local: &str) -> SocketId {
    net.stacks[stack].udp_bind(net.now, at(local)).unwrap()
}

fn shared(net: &mut Net, stack: usize, local: &str) -> SocketId {
    let how = UdpBind { reuse_port: true, ..UdpBind::default() };
    net.stacks[stack].udp_bind_with(net.now, at(local), how).unwrap()
}

fn connect(net: &mut Net, stack: usize, id: SocketId, peer: &str) {
    net.stacks[stack].udp_connect(net.now, id, at(peer)).unwrap();
}

fn send(net: &mut Net, stack: usize, id: SocketId, to: &str, payload: &[u8]) {
    net.stacks[stack].udp_send(net.now, id, payload, Some(at(to))).unwrap();
    net.run();
}

fn set(net: &mut Net, stack: usize, id: SocketId, option: UdpOption) {
    assert!(net.stacks[stack].udp_set_option(id, option));
}

/// Everything that waits for a socket.
fn received(net: &mut Net, stack: usize, id: SocketId) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| net.stacks[stack].udp_recv(id).ok()).map(|d| d.payload.to_vec()).collect()
}

/// An ICMP error from `router` about the IPv4 packet `quoted`.
fn complaint(router: &str, kind: u8, code: u8, word: u32, quoted: &[u8]) -> Vec<u8> {
    let body = [&word.to_be_bytes()[..], &quoted[..quoted.len().min(60)]].concat();
    ether(&ip4(router, "10.0.0.1", 1, &icmp(router, "10.0.0.1", kind, code, &body)))
}

/// The lonely stack's last packet.
fn last(net: &Net) -> Vec<u8> {
    net.sent.last().unwrap().2[14..].to_vec()
}

// RFC 1122 4.1.3.3
#[test]
fn hard_errors_reach_a_connected_socket_once_and_soft_ones_do_not() {
    let mut net = Net::alone();
    let id = bind(&mut net, 0, "10.0.0.1:1000");
    connect(&mut net, 0, id, "10.0.0.9:9");
    let stack = 0;
    for (kind, code, expected) in [
        (3, 3, Some(UdpError::Refused)),
        (3, 2, Some(UdpError::ProtocolUnreachable)),
        (3, 13, Some(UdpError::Prohibited)),
        (12, 0, Some(UdpError::ParameterProblem)),
        (3, 0, None),
        (3, 1, None),
        (11, 0, None),
    ] {
        send(&mut net, stack, id, "10.0.0.9:9", b"hello");
        let quoted = last(&net);
        net.inject(0, A0, &complaint("10.0.0.77", kind, code, 0, &quoted));
        let told = net.stacks[0].udp_recv(id).unwrap_err();
        assert_eq!(told, expected.map_or(UdpRecvError::WouldBlock, UdpRecvError::Failed));
        assert_eq!(net.stacks[0].udp_recv(id).unwrap_err(), UdpRecvError::WouldBlock, "once");
    }
    // The next call may as well be a send, or the question itself.
    send(&mut net, stack, id, "10.0.0.9:9", b"hello");
    let refused = complaint("10.0.0.9", 3, 3, 0, &last(&net));
    net.inject(0, A0, &refused);
    let sent = net.stacks[0].udp_send(net.now, id, b"x", None);
    assert_eq!(sent, Err(UdpSendError::Failed(UdpError::Refused)));
    net.inject(0, A0, &refused);
    assert_eq!(net.stacks[0].udp_take_error(id), Some(UdpError::Refused));
    assert_eq!(net.stacks[0].udp_take_error(id), None);
    net.check();
}

// RFC 1122 4.1.3.3
// RFC 8085 5.2
#[test]
fn the_error_queue_tells_who_complained_about_what_and_is_bounded() {
    let mut net = Net::alone();
    let id = bind(&mut net, 0, "0.0.0.0:1000");
    set(&mut net, 0, id, UdpOption::ErrorQueue(true));
    send(&mut net, 0, id, "10.0.0.9:9", b"hello");
    let quoted = last(&net);
    net.inject(0, A0, &complaint("10.0.0.77", 11, 0, 0, &quoted));
    let report = net.stacks[0].udp_recv_error(id).unwrap();
    assert_eq!(report.error, UdpError::TimeExceeded);
    assert_eq!((report.to, report.origin), (at("10.0.0.9:9"), Some(ip("10.0.0.77"))));
    assert_eq!(&report.payload[..], b"hello");
    assert_eq!(net.stacks[0].udp_take_error(id), None, "the queue told it");
    for _ in 0..100 {
        net.inject(0, A0, &complaint("10.0.0.77", 3, 1, 0, &quoted));
    }
    let queued = std::iter::from_fn(|| net.stacks[0].udp_recv_error(id)).count();
    assert_eq!((queued, net.stacks[0].mib().udp.error_queue_full), (64, 36));
    net.check();
}

// RFC 1191 6.2
// RFC 8085 3.2
#[test]
fn a_socket_that_does_not_fragment_learns_the_path_mtu() {
    let mut net = routed();
    net.change(1, Change::Forwarding(true));
    let server = bind(&mut net, 2, "[::]:9");
    for (local, peer, headers) in
        [("0.0.0.0:0", "10.1.0.1:9", 28), ("[::]:0", "[fd00:0:0:1::1]:9", 48)]
    {
        let id = bind(&mut net, 0, local);
        connect(&mut net, 0, id, peer);
        set(&mut net, 0, id, UdpOption::DontFragment(true));
        set(&mut net, 0, id, UdpOption::ErrorQueue(true));
        let now = net.now;
        let too_big = |mtu| Err(UdpSendError::TooBig { mtu });
        assert_eq!(net.stacks[0].udp_payload_max(now, id), Some(1500 - headers));
        assert_eq!(net.stacks[0].udp_send(now, id, &[1; 1473], None), too_big(1500));
        let local = net.stacks[0].udp_recv_error(id).unwrap();
        assert_eq!((local.error, local.origin), (UdpError::TooBig { mtu: 1500 }, None));
        // It leaves, and the router behind which the MTU is 1400 complains.
        net.stacks[0].udp_send(now, id, &vec![1; 1500 - headers], None).unwrap();
        net.run();
        let told = net.stacks[0].udp_send(now, id, &[1; 100], None);
        assert_eq!(told, Err(UdpSendError::Failed(UdpError::TooBig { mtu: 1400 })));
        assert!(net.stacks[0].udp_recv_error(id).unwrap().origin.is_some());
        assert_eq!(net.stacks[0].udp_payload_max(now, id), Some(1400 - headers));
        net.stacks[0].udp_send(now, id, &vec![2; 1400 - headers], None).unwrap();
        net.run();
        assert_eq!(received(&mut net, 2, server), [vec![2; 1400 - headers]]);
    }
    net.check();
}

// RFC 768
// RFC 8200 8.1
#[test]
fn a_datagram_has_at_most_65507_bytes_in_both_families() {
    let mut net = Net::pair();
    let server = bind(&mut net, 1, "[::]:9");
    let client = bind(&mut net, 0, "[::]:0");
    for to in ["10.0.0.2:9", "[fd00::2]:9"] {
        let long = vec![7; UDP_PAYLOAD_BYTES_MAX + 1];
        let sent = net.stacks[0].udp_send(net.now, client, &long, Some(at(to)));
        assert_eq!(sent, Err(UdpSendError::TooLong));
        // So many fragments do not wait for a neighbour.
        send(&mut net, 0, client, to, b"who are you?");
        send(&mut net, 0, client, to, &long[1..]);
        let lengths: Vec<_> = received(&mut net, 1, server).iter().map(Vec::len).collect();
        assert_eq!(lengths, [12, UDP_PAYLOAD_BYTES_MAX]);
    }
    net.check();
}

// RFC 1122 4.1.4
#[test]
fn hop_limit_and_traffic_class_are_set_and_shown() {
    let mut net = Net::pair();
    let server = bind(&mut net, 1, "[::]:9");
    let client = bind(&mut net, 0, "[::]:0");
    for to in ["10.0.0.2:9", "[fd00::2]:9"] {
        set(&mut net, 0, client, UdpOption::HopLimit(Some(7)));
        set(&mut net, 0, client, UdpOption::TrafficClass(0x2e << 2));
        send(&mut net, 0, client, to, b"by option");
        let how = UdpSend {
            to: Some(at(to)),
            hop_limit: Some(200),
            traffic_class: Some(1),
            ..UdpSend::default()
        };
        net.stacks[0].udp_send_with(net.now, client, b"by call", &how).unwrap();
        net.run();
        for (payload, hops, class) in [("by option", 7, 0xb8), ("by call", 200, 1)] {
            let d = net.stacks[1].udp_recv(server).unwrap();
            assert_eq!(&d.payload[..], payload.as_bytes());
            assert_eq!((d.hop_limit, d.traffic_class, d.alias), (hops, class, A0));
            assert_eq!(d.to, at(to).ip());
        }
    }
    net.check();
}

#[test]
fn a_shared_port_is_balanced_by_sender_and_groups_go_to_all() {
    let mut net = Net::pair();
    let alone = bind(&mut net, 1, "0.0.0.0:10");
    let how = UdpBind { reuse_port: true, ..UdpBind::default() };
    let again = net.stacks[1].udp_bind_with(net.now, at("0.0.0.0:10"), how);
    assert_eq!(again, Err(BindError::InUse), "the first does not share");
    net.stacks[1].udp_close(alone);

    let servers: Vec<_> = (0..4).map(|_| shared(&mut net, 1, "[::]:9")).collect();
    let refused = net.stacks[1].udp_bind(net.now, at("[::]:9"));
    assert_eq!(refused, Err(BindError::InUse));
    let clients: Vec<_> = (0..64).map(|_| bind(&mut net, 0, "[::]:0")).collect();
    for _ in 0..2 {
        for client in &clients {
            send(&mut net, 0, *client, "10.0.0.2:9", b"x");
        }
    }
    let counts: Vec<_> = servers.iter().map(|s| received(&mut net, 1, *s).len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 128);
    // Both datagrams of a client went the same way, and no server is left out.
    assert!(counts.iter().all(|n| *n > 0 && n % 2 == 0), "{counts:?}");

    for server in &servers[..3] {
        net.stacks[1].udp_join(net.now, *server, A0, ip("239.1.2.3")).unwrap();
    }
    send(&mut net, 0, clients[0], "239.1.2.3:9", b"group");
    let got: Vec<_> = servers.iter().map(|s| received(&mut net, 1, *s).len()).collect();
    assert_eq!(got, [1, 1, 1, 0]);
    // Whoever is connected to a sender takes what it sends; it no longer shares the rest.
    let peer = net.stacks[0].udp_local(clients[0]).unwrap().port();
    connect(&mut net, 1, servers[2], &format!("10.0.0.1:{peer}"));
    for client in &clients {
        send(&mut net, 0, *client, "10.0.0.2:9", b"x");
    }
    assert_eq!(received(&mut net, 1, servers[2]).len(), 1);
    let again = net.stacks[1].udp_connect(net.now, servers[3], at(&format!("10.0.0.1:{peer}")));
    assert_eq!(again, Err(UdpSendError::InUse));
    net.stacks[1].udp_disconnect(servers[2]);
    for server in servers {
        net.stacks[1].udp_close(server);
    }
    assert!(net.stacks[1].udp_bind(net.now, at("[::]:9")).is_ok());
    net.check();
}

// RFC 1112 6.1
// RFC 3678 4.1.3
#[test]
fn members_choose_senders_and_may_hear_their_own_host() {
    let mut net = Net::pair();
    net.addr(0, A0, "10.0.0.11/24");
    let group = ip("239.1.2.3");
    let near = bind(&mut net, 0, "0.0.0.0:9");
    let far = bind(&mut net, 1, "0.0.0.0:9");
    let client = bind(&mut net, 0, "0.0.0.0:0");
    let (one, other): (IpAddr, IpAddr) = (ip("10.0.0.1"), ip("10.0.0.11"));
    let now = net.now;
    net.stacks[0].udp_join(now, near, A0, group).unwrap();
    let from = |net: &mut Net, src: IpAddr, text: &[u8]| {
        let to = Some(SocketAddr::new(group, 9));
        let how = UdpSend { to, from: Some(src), ..UdpSend::default() };
        net.stacks[0].udp_send_with(net.now, client, text, &how).unwrap();
        net.run();
    };
    for (sources, expected) in [
        (SourceFilter::Include(vec![one]), vec![b"1".to_vec()]),
        (SourceFilter::Exclude(vec![one]), vec![b"2".to_vec()]),
        (SourceFilter::Exclude(vec![]), vec![b"1".to_vec(), b"2".to_vec()]),
        (SourceFilter::Include(vec![]), vec![]),
    ] {
        net.stacks[1].udp_set_sources(now, far, A0, group, sources).unwrap();
        from(&mut net, one, b"1");
        from(&mut net, other, b"2");
        assert_eq!(received(&mut net, 1, far), expected);
        assert_eq!(received(&mut net, 0, near), [b"1", b"2"], "looped back");
    }
    set(&mut net, 0, client, UdpOption::MulticastLoop(false));
    from(&mut net, one, b"3");
    assert!(received(&mut net, 0, near).is_empty());
    net.check();
}

// RFC 3376 4.2.12
#[test]
fn senders_asked_for_are_reported() {
    let mut net = Net::alone();
    let id = bind(&mut net, 0, "0.0.0.0:9");
    let group = ip("232.1.2.3");
    let only = SourceFilter::Include(vec![ip("10.0.0.77")]);
    net.stacks[0].udp_set_sources(net.now, id, A0, group, only).unwrap();
    net.run_for(weft_stack::time::Duration::from_secs(3));
    let reports: Vec<_> = net.sent.iter().map(|(_, _, f)| &f[14..]).collect();
    // "Changed to INCLUDE" with one sender, twice (robustness).
    let record = [3, 0, 0, 1, 232, 1, 2, 3, 10, 0, 0, 77];
    assert_eq!(reports.len(), 2);
    assert!(reports.iter().all(|r| r.ends_with(&record)), "{reports:?}");
    net.sent.clear();
    net.stacks[0].udp_close(id);
    net.run_for(weft_stack::time::Duration::from_secs(3));
    assert!(net.sent.iter().all(|(_, _, f)| f.ends_with(&[3, 0, 0, 0, 232, 1, 2, 3])));
    assert_eq!(net.sent.len(), 2);
}

/// A lonely stack on a device that takes super-segments.
fn offloading() -> Net {
    let mut net = Net::new(1);
    let config = AliasConfig { gso_bytes_max: 65_000, tx_checksum: true, ..alias(A0, 1, 1500) };
    net.alias(0, config);
    net.addr(0, A0, "10.0.0.1/24");
    net.change(0, Change::NeighbourAdd { alias: A0, addr: ip("10.0.0.9"), mac: mac(9) });
    net.run();
    net
}

// RFC 8085 3.2
#[test]
fn segments_go_whole_to_a_device_that_cuts_and_singly_to_others() {
    let payload: Vec<u8> = (0..3300u32).map(|i| i as u8).collect();
    let mut net = offloading();
    let id = bind(&mut net, 0, "10.0.0.1:1000");
    let to = Some(at("10.0.0.9:9"));
    net.stacks[0].udp_send_segments(net.now, id, &payload, 1000, to).unwrap();
    let mut burst = TxBurst::new(8);
    net.stacks[0].poll_transmit(net.now, &mut burst);
    let [(_, frame)] = &burst.frames[..] else { panic!("{burst:?}") };
    assert_eq!(frame.meta.gso, Gso::Udp { size: 1000 });
    let sum = checksum::pseudo(ip("10.0.0.1"), ip("10.0.0.9"), 17, 3308);
    let flat = frame.to_heap();
    assert_eq!(flat.data()[14 + 26..14 + 28], sum.to_be_bytes());
    assert_eq!(frame.meta.checksum, Checksum::Partial { start: 34, offset: 6 });
    assert_eq!(flat.data()[14 + 28..], payload);

    let mut net = Net::pair();
    let server = bind(&mut net, 1, "[::]:9");
    let client = bind(&mut net, 0, "[::]:0");
    for to in ["10.0.0.2:9", "[fd00::2]:9"] {
        net.stacks[0].udp_send_segments(net.now, client, &payload, 1000, Some(at(to))).unwrap();
        net.run();
        let got = received(&mut net, 1, server);
        assert_eq!(got, payload.chunks(1000).collect::<Vec<_>>());
        let try_send = |net: &mut Net, len: usize, size: usize| {
            net.stacks[0].udp_send_segments(net.now, client, &vec![0; len], size, Some(at(to)))
        };
        assert_eq!(try_send(&mut net, 129, 1), Err(UdpSendError::SegmentSize));
        assert_eq!(try_send(&mut net, 10, 0), Err(UdpSendError::SegmentSize));
        let too_big = UdpSendError::TooBig { mtu: 1500 };
        assert_eq!(try_send(&mut net, 5000, 1473), Err(too_big));
        assert_eq!(try_send(&mut net, 128, 1), Ok(()));
        net.run();
        assert_eq!(received(&mut net, 1, server).len(), 128);
    }
    assert_eq!(net.stacks[0].mib().udp.out_datagrams, 2 * (4 + 128));
    net.check();
}

#[test]
fn merged_datagrams_stay_together_for_those_who_ask() {
    let mut net = offloading();
    let single = bind(&mut net, 0, "10.0.0.1:9");
    let whole = bind(&mut net, 0, "10.0.0.1:10");
    set(&mut net, 0, whole, UdpOption::KeepSegments(true));
    let payload: Vec<u8> = (0..3300u32).map(|i| i as u8).collect();
    for port in [9, 10] {
        let datagram = udp("10.0.0.9", "10.0.0.1", (5, port), &payload);
        let bytes = ether(&ip4("10.0.0.9", "10.0.0.1", 17, &datagram));
        // As TUN gives it: the rest of the payload in a buffer of its own.
        let mut frame = Frame::from_heap(HEADROOM_BYTES, &bytes[..1000]);
        frame.frags.push(bytes::Bytes::copy_from_slice(&bytes[1000..]));
        frame.meta.checksum = Checksum::Verified;
        frame.meta.gso = Gso::Udp { size: 1000 };
        net.stacks[0].handle_frame(net.now, A0, frame);
    }
    assert_eq!(received(&mut net, 0, single), payload.chunks(1000).collect::<Vec<_>>());
    let together = net.stacks[0].udp_recv(whole).unwrap();
    assert_eq!((&together.payload[..], together.segment_bytes), (&payload[..], Some(1000)));
    assert_eq!(net.stacks[0].udp_recv(whole).unwrap_err(), UdpRecvError::WouldBlock);
    assert_eq!(net.stacks[0].mib().udp.in_datagrams, 8);
    assert_eq!(net.stacks[0].memory().udp_bytes, 0);
    net.check();
}

#[test]
fn the_receive_buffer_is_the_sockets_and_what_is_lost_is_shown() {
    let mut net = Net::pair();
    let server = bind(&mut net, 1, "0.0.0.0:9");
    set(&mut net, 1, server, UdpOption::RecvBuffer(4000));
    let client = bind(&mut net, 0, "0.0.0.0:0");
    for _ in 0..10 {
        send(&mut net, 0, client, "10.0.0.2:9", &[1; 200]);
    }
    let mut seen = Vec::new();
    net.stacks[1].for_each_socket(|s| seen.push((s.memory.recv_limit, s.memory.drops)));
    assert_eq!(seen, [(4000, 0)]);
    for _ in 0..10 {
        send(&mut net, 0, client, "10.0.0.2:9", &[1; 200]);
    }
    net.stacks[1].for_each_socket(|s| assert_eq!(s.memory.drops, 5));
    assert_eq!(received(&mut net, 1, server).len(), 15);
    net.check();
}

#[test]
fn only_v6_leaves_ipv4_to_others() {
    let mut net = Net::pair();
    let how = UdpBind { only_v6: true, ..UdpBind::default() };
    let six = net.stacks[1].udp_bind_with(net.now, at("[::]:9"), how).unwrap();
    let four = bind(&mut net, 1, "0.0.0.0:9");
    let client = bind(&mut net, 0, "[::]:0");
    send(&mut net, 0, client, "10.0.0.2:9", b"4");
    send(&mut net, 0, client, "[fd00::2]:9", b"6");
    assert_eq!(received(&mut net, 1, six), [b"6"]);
    assert_eq!(received(&mut net, 1, four), [b"4"]);
    let refused = net.stacks[1].udp_send(net.now, six, b"x", Some(at("10.0.0.1:9")));
    assert_eq!(refused, Err(UdpSendError::Unreachable));
}
