//! Access rules asked by a stack: of first packets only, of all of them, and what is answered.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::fixture::*;
use weft_stack::admission::{First, Rules, Verdict, Watch};
use weft_stack::drop::DropReason;
use weft_stack::frame::{Checksum, Frame, Gso, HEADROOM_BYTES};
use weft_stack::socket::raw::Family;
use weft_stack::socket::tcp::{TcpError, TcpRecvError};
use weft_stack::socket::udp::UdpSend;
use weft_stack::stack::{FastOpen, Limits, SynCookies};
use weft_stack::time::{Duration, Instant};
use weft_stack::wire::checksum;

const SYN: u8 = 2;
const ACK: u8 = 16;

/// One verdict about some ports.
#[derive(Debug)]
struct Closed {
    watch: Arc<Watch>,
    verdict: Verdict,
    /// Clients that may.
    but: Option<IpAddr>,
    /// What they get.
    mark: u32,
    judged: AtomicU64,
}

impl Rules for Closed {
    fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    fn judge(&self, _: Instant, first: &First, packets: u64) -> Verdict {
        self.judged.fetch_add(packets, Ordering::Relaxed);
        if self.allows(first) { Verdict::Allow } else { self.verdict }
    }

    fn allows(&self, first: &First) -> bool {
        self.but == Some(first.src)
    }

    fn mark(&self, first: &First) -> u32 {
        if self.allows(first) { self.mark } else { 0 }
    }
}

fn closed(verdict: Verdict) -> Closed {
    let mut watch = Watch::default();
    watch.add(6, 22, 23);
    watch.add(17, 161, 161);
    (watch.echo, watch.others) = (true, true);
    Closed { watch: Arc::new(watch), verdict, but: None, mark: 0, judged: AtomicU64::new(0) }
}

fn guard(net: &mut Net, stack: usize, rules: Closed) -> Arc<Closed> {
    let rules = Arc::new(rules);
    net.stacks[stack].set_access(Some(rules.clone()));
    rules
}

/// A TCP segment from the client's port 4000, in either family.
fn tcp(src: &str, dst: &str, port: u16, flags: u8) -> Vec<u8> {
    let mut s = Vec::new();
    s.extend(4000u16.to_be_bytes());
    s.extend(port.to_be_bytes());
    s.extend(7u32.to_be_bytes());
    s.extend(9u32.to_be_bytes());
    s.extend([0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    let pseudo = checksum::pseudo(ip(src), ip(dst), 6, s.len());
    let sum = checksum::finish(checksum::combine(pseudo, checksum::sum(&s)));
    s[16..18].copy_from_slice(&sum.to_be_bytes());
    s
}

fn packet(src: &str, dst: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let packet = if ip(src).is_ipv4() {
        ip4(src, dst, protocol, payload)
    } else {
        ip6(src, dst, protocol, payload)
    };
    ether(&packet)
}

const ENDS: [(&str, &str); 2] = [("10.0.0.9", "10.0.0.1"), ("fd00::9", "fd00::1")];

/// What the lonely stack answers: protocol and the transport header's start.
fn answers(net: &mut Net, bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    net.sent.clear();
    net.inject(0, A0, bytes);
    let all = std::mem::take(&mut net.sent);
    let header = |f: &[u8]| {
        if f[14] >> 4 == 4 { (f[23], f[34..].to_vec()) } else { (f[20], f[54..].to_vec()) }
    };
    all.iter().map(|(_, _, f)| header(f)).collect()
}

fn drops(net: &Net, reason: DropReason) -> u64 {
    net.stacks[0].mib().drops.get(reason)
}

#[test]
fn no_scan_tells_a_denied_port_with_a_listener_from_one_without() {
    for (src, dst) in ENDS {
        let mut net = Net::alone();
        net.stacks[0].tcp_listen(net.now, "[::]:22".parse().unwrap(), 8).unwrap();
        net.stacks[0].udp_bind(net.now, "[::]:161".parse().unwrap()).unwrap();
        guard(&mut net, 0, closed(Verdict::Drop));
        let mut denied = 0;
        // SYN, ACK, FIN, Xmas, NULL, SYN with ACK, Maimon
        for flags in [SYN, ACK, 1, 0x29, 0, SYN | ACK, 0x11] {
            for port in [22, 23] {
                let segment = packet(src, dst, 6, &tcp(src, dst, port, flags));
                assert_eq!(answers(&mut net, &segment), [], "{flags:#x} to {port}");
                denied += 1;
            }
        }
        let datagram = packet(src, dst, 17, &udp(src, dst, (9, 161), b"x"));
        assert_eq!(answers(&mut net, &datagram), []);
        let (kind, number) = if ip(src).is_ipv4() { (8, 1) } else { (128, 58) };
        let echo = icmp(src, dst, kind, 0, &[0, 1, 0, 1, 5]);
        assert_eq!(answers(&mut net, &packet(src, dst, number, &echo)), []);
        assert_eq!(answers(&mut net, &packet(src, dst, 132, &[0; 12])), []);
        assert_eq!(drops(&net, DropReason::AccessDenied), denied + 3);
        // A port that no rule means answers as ever.
        let segment = packet(src, dst, 6, &tcp(src, dst, 24, SYN));
        let found = answers(&mut net, &segment);
        assert_eq!((found.len(), found[0].1[13]), (1, 0x14), "RST, ACK");
        net.check();
    }
}

// RFC 9293 3.5.2, RFC 1812 5.2.7.1, RFC 4443 3.1
#[test]
fn a_refusal_is_the_reset_of_a_closed_port_or_administratively_prohibited() {
    for (src, dst) in ENDS {
        let unreachable = if ip(src).is_ipv4() { [3, 13] } else { [1, 1] };
        for verdict in [Verdict::Reject, Verdict::Prohibit] {
            let mut net = Net::alone();
            net.stacks[0].tcp_listen(net.now, "[::]:22".parse().unwrap(), 8).unwrap();
            guard(&mut net, 0, closed(verdict));
            let syn = packet(src, dst, 6, &tcp(src, dst, 22, SYN));
            let found = answers(&mut net, &syn);
            assert_eq!(found.len(), 1);
            if verdict == Verdict::Reject {
                let no_listener = answers(&mut net, &packet(src, dst, 6, &tcp(src, dst, 24, SYN)));
                // All but the port and the checksum.
                assert_eq!(found[0].0, 6);
                assert_eq!(found[0].1[2..16], no_listener[0].1[2..16]);
            } else {
                assert_eq!(found[0].1[..2], unreachable);
            }
            let datagram = packet(src, dst, 17, &udp(src, dst, (9, 161), b"x"));
            assert_eq!(answers(&mut net, &datagram)[0].1[..2], unreachable);
            let other = packet(src, dst, 132, &[0; 12]);
            assert_eq!(answers(&mut net, &other)[0].1[..2], unreachable);
            assert_eq!(drops(&net, DropReason::AccessRejected), 3);
            // RST is never answered.
            let rst = packet(src, dst, 6, &tcp(src, dst, 22, 4));
            assert_eq!(answers(&mut net, &rst), []);
            net.check();
        }
    }
}

#[test]
fn fragments_are_judged_when_they_are_whole() {
    let (src, dst) = ENDS[0];
    let mut net = Net::alone();
    let id = net.stacks[0].udp_bind(net.now, "10.0.0.1:161".parse().unwrap()).unwrap();
    let rules = guard(&mut net, 0, closed(Verdict::Drop));
    let whole = udp(src, dst, (9, 161), &[7; 64]);
    // The later part first, so that no part with ports stands alone.
    let parts = [(0x0003, &whole[24..]), (0x2000, &whole[..24])];
    for (field, part) in parts {
        net.inject(0, A0, &ether(&ip4_with(src, dst, 17, &[], field, part)));
    }
    assert_eq!(rules.judged.load(Ordering::Relaxed), 1);
    assert_eq!(drops(&net, DropReason::AccessDenied), 1);
    assert!(net.stacks[0].udp_recv(id).is_err());
}

#[test]
fn established_connections_are_not_judged_and_stay_or_end_as_asked() {
    for addr in ["10.0.0.2", "[fd00::2]"] {
        let mut net = Net::pair();
        let l =
            net.stacks[1].tcp_listen(net.now, format!("{addr}:22").parse().unwrap(), 8).unwrap();
        let c = net.stacks[0].tcp_connect(net.now, None, format!("{addr}:22").parse().unwrap());
        let c = c.unwrap();
        net.run();
        let s = net.stacks[1].tcp_accept(l).unwrap().id;
        let rules = guard(&mut net, 1, closed(Verdict::Drop));
        net.stacks[0].tcp_send(net.now, c, b"still here").unwrap();
        net.run();
        let mut buf = [0; 64];
        assert_eq!(net.stacks[1].tcp_recv(net.now, s, &mut buf), Ok(10));
        assert_eq!(rules.judged.load(Ordering::Relaxed), 0);
        // A connection of its own may well go to such a port.
        let l0 = net.stacks[0].tcp_listen(net.now, "[::]:22".parse().unwrap(), 8).unwrap();
        let to = if addr.starts_with('[') { "[fd00::1]:22" } else { "10.0.0.1:22" };
        let out = net.stacks[1].tcp_connect(net.now, None, to.parse().unwrap()).unwrap();
        net.run();
        assert!(net.stacks[0].tcp_accept(l0).is_some());

        assert_eq!(net.stacks[1].end_denied(net.now, &*rules), 1);
        net.run();
        assert_eq!(
            net.stacks[1].tcp_recv(net.now, s, &mut buf),
            Err(TcpRecvError::Failed(TcpError::Aborted))
        );
        assert_eq!(
            net.stacks[0].tcp_recv(net.now, c, &mut buf),
            Err(TcpRecvError::Failed(TcpError::Reset))
        );
        net.stacks[1].tcp_send(net.now, out, b"x").unwrap();
        net.check();
    }
}

// RFC 4987 3.6
#[test]
fn the_ack_of_a_syn_cookie_is_judged_like_a_syn() {
    let (src, dst) = ENDS[0];
    let mut net = Net::alone_with(|c| c.tcp.syn_cookies = SynCookies::Always);
    let l = net.stacks[0].tcp_listen(net.now, "10.0.0.1:22".parse().unwrap(), 8).unwrap();
    let found = answers(&mut net, &packet(src, dst, 6, &tcp(src, dst, 22, SYN)));
    assert_eq!(found[0].1[13], SYN | ACK);
    let cookie = u32::from_be_bytes(found[0].1[4..8].try_into().unwrap());
    let mut ack = tcp(src, dst, 22, ACK);
    ack[4..8].copy_from_slice(&8u32.to_be_bytes());
    ack[8..12].copy_from_slice(&(cookie.wrapping_add(1)).to_be_bytes());
    ack[16..18].fill(0);
    let pseudo = checksum::pseudo(ip(src), ip(dst), 6, ack.len());
    let sum = checksum::finish(checksum::combine(pseudo, checksum::sum(&ack)));
    ack[16..18].copy_from_slice(&sum.to_be_bytes());
    let ack = packet(src, dst, 6, &ack);
    guard(&mut net, 0, closed(Verdict::Drop));
    assert_eq!(answers(&mut net, &ack), []);
    assert!(net.stacks[0].tcp_accept(l).is_none());
    net.stacks[0].set_access(None);
    answers(&mut net, &ack);
    assert!(net.stacks[0].tcp_accept(l).is_some());
}

#[test]
fn answers_to_its_own_datagrams_come_in_for_two_minutes_and_to_connected_sockets_always() {
    for (src, dst) in ENDS {
        let mut net = Net::alone();
        guard(&mut net, 0, closed(Verdict::Drop));
        let id = net.stacks[0].udp_bind(net.now, "[::]:161".parse().unwrap()).unwrap();
        let from = |port| packet(src, dst, 17, &udp(src, dst, (port, 161), b"x"));
        answers(&mut net, &from(162));
        assert!(net.stacks[0].udp_recv(id).is_err(), "nobody asked");
        let peer = std::net::SocketAddr::new(ip(src), 162);
        net.stacks[0].udp_send(net.now, id, b"?", Some(peer)).unwrap();
        assert_eq!(net.stacks[0].access_states().0, 1);
        answers(&mut net, &from(162));
        assert!(net.stacks[0].udp_recv(id).is_ok());
        answers(&mut net, &from(163));
        assert!(net.stacks[0].udp_recv(id).is_err(), "another port of the peer");
        net.run_for(Duration::from_secs(121));
        answers(&mut net, &from(162));
        assert!(net.stacks[0].udp_recv(id).is_err(), "too late");
        net.stacks[0].udp_connect(net.now, id, peer).unwrap();
        answers(&mut net, &from(162));
        assert!(net.stacks[0].udp_recv(id).is_ok());
        net.check();
    }
}

#[test]
fn states_are_bounded_and_a_reply_to_a_client_that_may_needs_none() {
    let (src, dst) = ENDS[0];
    let mut net = Net::alone_with(|c| c.limits.access_states = 2);
    let rules = Closed { but: Some(ip(src)), ..closed(Verdict::Drop) };
    guard(&mut net, 0, rules);
    let id = net.stacks[0].udp_bind(net.now, "10.0.0.1:161".parse().unwrap()).unwrap();
    answers(&mut net, &packet(src, dst, 17, &udp(src, dst, (5, 161), b"x")));
    assert!(net.stacks[0].udp_recv(id).is_ok());
    let mut send = |to: &str| {
        let how = UdpSend { to: Some(to.parse().unwrap()), ..UdpSend::default() };
        net.stacks[0].udp_send_with(net.now, id, b"y", &how).unwrap();
    };
    send("10.0.0.9:5");
    for to in ["10.0.0.8:1", "10.0.0.8:2", "10.0.0.8:3", "10.0.0.8:1"] {
        send(to);
    }
    assert_eq!(net.stacks[0].access_states(), (2, 2));
    assert_eq!(net.stacks[0].mib().frames.access_states_refused, 1);
}

// RFC 7413 4.2.2
#[test]
fn data_of_a_denied_syn_with_a_good_fast_open_cookie_reaches_no_listener() {
    for addr in ["10.0.0.2:22", "[fd00::2]:22"] {
        let mut net = Net::pair_with(|c| c.tcp.fast_open = FastOpen::Both);
        let l = net.stacks[1].tcp_listen(net.now, addr.parse().unwrap(), 8).unwrap();
        let open = |net: &mut Net| {
            let to = addr.parse().unwrap();
            let (c, taken) = net.stacks[0].tcp_connect_with(net.now, None, to, b"early").unwrap();
            assert_eq!(taken, 5);
            net.run();
            c
        };
        open(&mut net);
        assert!(net.stacks[1].tcp_accept(l).is_some());
        let early = |net: &Net| net.stacks[1].mib().tcp.fast_open_passive;
        open(&mut net);
        assert_eq!(early(&net), 1, "the cookie is good");
        assert!(net.stacks[1].tcp_accept(l).is_some());
        let rules = guard(&mut net, 1, closed(Verdict::Drop));
        open(&mut net);
        assert_eq!(rules.judged.load(Ordering::Relaxed), 1);
        assert_eq!((early(&net), net.stacks[1].tcp_accept(l).is_none()), (1, true));
        // Nor does it later, by the SYN without data that the client tries then.
        net.run_for(Duration::from_secs(10));
        assert!(net.stacks[1].tcp_accept(l).is_none());
        net.check();
    }
}

#[test]
fn a_merged_unit_is_judged_once_and_counts_as_its_parts() {
    let (src, dst) = ENDS[0];
    for verdict in [Verdict::Drop, Verdict::Prohibit, Verdict::Allow] {
        let mut net = Net::alone();
        let id = net.stacks[0].udp_bind(net.now, "10.0.0.1:161".parse().unwrap()).unwrap();
        let rules = guard(&mut net, 0, closed(verdict));
        net.sent.clear();
        let mut unit = |protocol: u8, payload: &[u8], gso: Gso| {
            let bytes = ether(&ip4(src, dst, protocol, payload));
            let mut frame = Frame::from_heap(HEADROOM_BYTES, &bytes);
            (frame.meta.checksum, frame.meta.gso) = (Checksum::Verified, gso);
            net.stacks[0].handle_frame(net.now, A0, frame);
        };
        unit(17, &udp(src, dst, (9, 161), &[7; 1300]), Gso::Udp { size: 400 });
        assert_eq!(rules.judged.swap(0, Ordering::Relaxed), 4);
        let mut data = tcp(src, dst, 22, ACK);
        data.extend([7; 1300]);
        unit(6, &data, Gso::Tcp4 { mss: 500 });
        assert_eq!(rules.judged.load(Ordering::Relaxed), 3);
        net.run();
        let told = net.sent.len();
        match verdict {
            Verdict::Allow => {
                let got = std::iter::from_fn(|| net.stacks[0].udp_recv(id).ok());
                let lengths: Vec<usize> = got.map(|d| d.payload.len()).collect();
                assert_eq!((lengths, told), (vec![400, 400, 400, 100], 1), "and a RST");
            }
            Verdict::Drop => assert_eq!((net.stacks[0].udp_recv(id).is_err(), told), (true, 0)),
            _ => assert_eq!((net.stacks[0].udp_recv(id).is_err(), told), (true, 2)),
        }
        net.check();
    }
}

/// The lonely stack, with raw sockets allowed.
fn with_raw() -> Net {
    Net::alone_with(|c| c.limits = Limits { raw_sockets: 8, ..c.limits })
}

#[test]
fn raw_sockets_see_nothing_that_is_denied_however_it_was_lost() {
    for (src, dst) in ENDS {
        let v4 = ip(src).is_ipv4();
        let (family, icmp_number, echo_kind) =
            if v4 { (Family::V4, 1, 8) } else { (Family::V6, 58, 128) };
        let mut net = with_raw();
        let open = |net: &mut Net, number| net.stacks[0].raw_open(net.now, family, number).unwrap();
        let sockets = [6, 17, icmp_number, 132].map(|n| open(&mut net, n));
        net.stacks[0].tcp_listen(net.now, "[::]:22".parse().unwrap(), 8).unwrap();
        net.stacks[0].udp_bind(net.now, "[::]:161".parse().unwrap()).unwrap();
        guard(&mut net, 0, closed(Verdict::Drop));
        let broken = |mut bytes: Vec<u8>, at: usize| {
            bytes[at] ^= 0x55;
            bytes
        };
        let datagram = |port| udp(src, dst, (9, port), b"secret");
        let echo = icmp(src, dst, echo_kind, 0, &[0, 1, 0, 1, 5]);
        let denied = [
            (6, tcp(src, dst, 22, SYN)),
            (6, tcp(src, dst, 22, 4)),
            (6, broken(tcp(src, dst, 22, SYN), 16)),
            (6, tcp(src, dst, 22, SYN | 1)),
            (17, datagram(161)),
            (17, broken(datagram(161), 7)),
            (17, broken(datagram(161), 5)),
            (icmp_number, echo.clone()),
            (icmp_number, broken(echo, 2)),
            (132, vec![0; 12]),
        ];
        let see = |net: &mut Net| -> Vec<usize> {
            sockets
                .iter()
                .map(|id| std::iter::from_fn(|| net.stacks[0].raw_recv(*id).ok()).count())
                .collect()
        };
        for (number, bytes) in &denied {
            answers(&mut net, &packet(src, dst, *number, bytes));
            assert_eq!(see(&mut net), [0, 0, 0, 0], "{number}: {bytes:x?}");
        }
        // What no rule means they see, lost or not.
        for bytes in [tcp(src, dst, 24, SYN), broken(tcp(src, dst, 24, SYN), 16)] {
            answers(&mut net, &packet(src, dst, 6, &bytes));
        }
        answers(&mut net, &packet(src, dst, 17, &datagram(162)));
        assert_eq!(see(&mut net), [2, 1, 0, 0]);
        net.stacks[0].set_access(None);
        for (number, bytes) in &denied {
            answers(&mut net, &packet(src, dst, *number, bytes));
        }
        assert!(see(&mut net).iter().all(|n| *n > 0), "without rules they do");
        net.check();
    }
}

/// An IPv6 packet with destination options, routing and hop-by-hop headers before `number`.
fn extended(src: &str, dst: &str, number: u8, payload: &[u8]) -> Vec<u8> {
    let pad = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    // A routing header without segments left is passed over (RFC 8200 4.4).
    let routing = [60, 0, 0, 0, 0, 0, 0, 0];
    let whole = [&pad(43)[..], &routing, &pad(number), payload].concat();
    ip6(src, dst, 0, &whole)
}

#[test]
fn ports_are_found_behind_ipv6_extension_headers_and_in_fragments() {
    let (src, dst) = ENDS[1];
    let mut net = Net::alone();
    net.stacks[0].tcp_listen(net.now, "[::]:22".parse().unwrap(), 8).unwrap();
    let id = net.stacks[0].udp_bind(net.now, "[::]:161".parse().unwrap()).unwrap();
    let rules = guard(&mut net, 0, closed(Verdict::Drop));
    let syn = tcp(src, dst, 22, SYN);
    let datagram = udp(src, dst, (9, 161), &[7; 64]);
    for (number, bytes) in [(6, &syn), (17, &datagram)] {
        assert_eq!(answers(&mut net, &ether(&extended(src, dst, number, bytes))), []);
    }
    assert_eq!(drops(&net, DropReason::AccessDenied), 2);
    // The first fragment holds nothing but a destination options header: no port.
    let whole = [&[17u8, 0, 1, 4, 0, 0, 0, 0][..], &datagram].concat();
    let cuts = [(0, 8, true), (8, 16, true), (16, whole.len(), false)];
    for (from, to, more) in cuts {
        let offset = (from as u16 | u16::from(more)).to_be_bytes();
        let header = [60, 0, offset[0], offset[1], 0, 0, 0, 9];
        let part = [&header[..], &whole[from..to]].concat();
        net.inject(0, A0, &ether(&ip6(src, dst, 44, &part)));
    }
    // And a whole packet that is called a fragment (RFC 6946), with a TCP header.
    let atomic = [&[6u8, 0, 0, 0, 0, 0, 0, 7][..], &syn].concat();
    assert_eq!(answers(&mut net, &ether(&ip6(src, dst, 44, &atomic))), []);
    assert_eq!(drops(&net, DropReason::AccessDenied), 4);
    assert_eq!(rules.judged.load(Ordering::Relaxed), 4);
    assert!(net.stacks[0].udp_recv(id).is_err());
    // The same without rules gets through.
    net.stacks[0].set_access(None);
    net.inject(0, A0, &ether(&extended(src, dst, 17, &datagram)));
    assert!(net.stacks[0].udp_recv(id).is_ok());
    net.check();
}

#[test]
fn a_half_open_connection_finishes_unless_the_connections_of_its_rule_are_ended() {
    for (src, dst) in ENDS {
        for ends in [false, true] {
            let mut net = Net::alone();
            let at = if ip(dst).is_ipv4() { "10.0.0.1:22" } else { "[fd00::1]:22" };
            let l = net.stacks[0].tcp_listen(net.now, at.parse().unwrap(), 8).unwrap();
            let found = answers(&mut net, &packet(src, dst, 6, &tcp(src, dst, 22, SYN)));
            assert_eq!(found[0].1[13], SYN | ACK);
            let iss = u32::from_be_bytes(found[0].1[4..8].try_into().unwrap());
            let rules = guard(&mut net, 0, closed(Verdict::Reject));
            if ends {
                assert_eq!(net.stacks[0].end_denied(net.now, &*rules), 1);
            }
            let mut ack = tcp(src, dst, 22, ACK);
            ack[4..8].copy_from_slice(&8u32.to_be_bytes());
            ack[8..12].copy_from_slice(&iss.wrapping_add(1).to_be_bytes());
            ack[16..18].fill(0);
            let pseudo = checksum::pseudo(ip(src), ip(dst), 6, ack.len());
            let sum = checksum::finish(checksum::combine(pseudo, checksum::sum(&ack)));
            ack[16..18].copy_from_slice(&sum.to_be_bytes());
            let told = answers(&mut net, &packet(src, dst, 6, &ack));
            assert_eq!(net.stacks[0].tcp_accept(l).is_none(), ends);
            // The ACK of one that was ended is that of a stranger, and judged like it.
            assert_eq!(rules.judged.load(Ordering::Relaxed), u64::from(ends));
            assert_eq!(told.iter().filter(|(_, t)| t[13] & 4 != 0).count(), usize::from(ends));
            // Nothing is sent to a peer any more whose half-open connection was forgotten.
            net.sent.clear();
            net.run_for(Duration::from_secs(70));
            assert!(!ends || net.sent.is_empty());
            net.check();
        }
    }
}

// RFC 1122 3.2.2, RFC 4443 2.4 (e)
#[test]
fn refusals_are_never_reflected_to_groups_or_broadcast_addresses_and_are_limited() {
    for verdict in [Verdict::Reject, Verdict::Prohibit] {
        let mut net = Net::alone_with(|c| {
            (c.limits.tcp_resets_per_second, c.limits.icmp_errors_per_second) = (5, 5);
        });
        guard(&mut net, 0, closed(verdict));
        let bind = |net: &mut Net, at: &str| net.stacks[0].udp_bind(net.now, at.parse().unwrap());
        bind(&mut net, "0.0.0.0:161").unwrap();
        // To all, and from those who would get the answer in the victim's place.
        for (src, dst) in [
            ("10.0.0.9", "10.0.0.255"),
            ("10.0.0.9", "255.255.255.255"),
            ("10.0.0.9", "224.0.0.1"),
            ("10.0.0.255", "10.0.0.1"),
            ("255.255.255.255", "10.0.0.1"),
            ("224.0.0.1", "10.0.0.1"),
            ("0.0.0.0", "10.0.0.1"),
            ("fd00::9", "ff02::1"),
            ("ff02::1", "fd00::1"),
            ("::", "fd00::1"),
        ] {
            let datagram = udp(src, dst, (9, 161), b"x");
            for (number, bytes) in [(6, tcp(src, dst, 22, SYN)), (17, datagram), (132, vec![0; 12])]
            {
                let found = answers(&mut net, &packet(src, dst, number, &bytes));
                assert_eq!(found, [], "{number} {src} to {dst}");
            }
        }
        // A unicast packet in a frame to everybody is nobody's either.
        let (src, dst) = ENDS[0];
        let stray = ether_to([0xff; 6], &ip4(src, dst, 6, &tcp(src, dst, 22, SYN)));
        assert_eq!(answers(&mut net, &stray), []);

        net.run_for(Duration::from_secs(2));
        let told: usize = (0..50)
            .map(|_| answers(&mut net, &packet(src, dst, 6, &tcp(src, dst, 22, SYN))).len())
            .sum();
        assert_eq!(told, 5);
        let mib = net.stacks[0].mib();
        let silent = if verdict == Verdict::Reject {
            mib.tcp.resets_limited
        } else {
            mib.icmp4.out_rate_limited
        };
        assert_eq!(silent, 45);
        // A closed port is as silent now.
        if verdict == Verdict::Reject {
            assert_eq!(answers(&mut net, &packet(src, dst, 6, &tcp(src, dst, 24, SYN))), []);
        }
        net.run_for(Duration::from_secs(1));
        assert_eq!(answers(&mut net, &packet(src, dst, 6, &tcp(src, dst, 22, SYN))).len(), 1);
        net.check();
    }
}
