//! Access rules asked by a stack: of first packets only, of all of them, and what is answered.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::fixture::*;
use weft_stack::admission::{First, Rules, Verdict, Watch};
use weft_stack::drop::DropReason;
use weft_stack::socket::tcp::{TcpError, TcpRecvError};
use weft_stack::socket::udp::UdpSend;
use weft_stack::stack::SynCookies;
use weft_stack::time::{Duration, Instant};
use weft_stack::wire::checksum;

const SYN: u8 = 2;
const ACK: u8 = 16;

/// One verdict about some ports.
#[derive(Debug)]
struct Closed {
    watch: Watch,
    verdict: Verdict,
    /// Clients that may.
    but: Option<IpAddr>,
    judged: AtomicU64,
}

impl Rules for Closed {
    fn watch(&self) -> &Watch {
        &self.watch
    }

    fn judge(&self, _: Instant, first: &First) -> Verdict {
        self.judged.fetch_add(1, Ordering::Relaxed);
        if self.allows(first) { Verdict::Allow } else { self.verdict }
    }

    fn allows(&self, first: &First) -> bool {
        self.but == Some(first.src)
    }
}

fn closed(verdict: Verdict) -> Closed {
    let mut watch = Watch::default();
    watch.add(6, 22, 23);
    watch.add(17, 161, 161);
    (watch.echo, watch.others) = (true, true);
    Closed { watch, verdict, but: None, judged: AtomicU64::new(0) }
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
