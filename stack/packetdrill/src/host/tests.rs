use super::*;
use crate::packet::{Content, Packet, Segment};
use crate::script::{OptionSpec, flag};

const LOCAL: &str = "192.168.0.1";
const PEER: &str = "192.0.2.1";

fn listening() -> Host {
    let addresses = vec![(LOCAL.parse().unwrap(), 16)];
    let stack = StackConfig::default();
    let mut host = Host::new(HostConfig { stack, addresses, mtu: 1500 }).unwrap();
    let fd = host.socket(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
    host.bind(fd, "0.0.0.0:80".parse().unwrap()).unwrap();
    host.listen(fd, 5).unwrap();
    host
}

fn segment(src: &str, dst: &str, flags: u16, seq: u32, ack: u32, len: usize) -> Vec<u8> {
    let options = if flags & flag::SYN != 0 { vec![OptionSpec::Mss(1000)] } else { Vec::new() };
    let content = Content::Tcp(Segment {
        ports: (5000, 80),
        seq,
        ack,
        flags,
        window: 60_000,
        urgent: 0,
        options,
        payload: vec![7; len],
    });
    let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
    Packet { src, dst, traffic_class: 0, ttl: 64, flow_label: 0, content }.encode()
}

fn sent(host: &mut Host) -> Vec<Segment> {
    let mut all = Vec::new();
    while let Some((_, bytes)) = host.take_transmitted() {
        match Packet::decode(&bytes).unwrap().content {
            Content::Tcp(segment) => all.push(segment),
            other => panic!("{other:?}"),
        }
    }
    all
}

// RFC 9293 3.9.2.3 MUST-57
#[test]
fn a_syn_to_a_broadcast_or_group_address_is_ignored() {
    let mut host = listening();
    for to in ["255.255.255.255", "192.168.255.255", "224.0.0.1"] {
        host.inject(&segment(PEER, to, flag::SYN, 0, 0, 0));
        assert_eq!(sent(&mut host), [], "{to}");
    }
    host.inject(&segment(PEER, LOCAL, flag::SYN, 0, 0, 0));
    assert_eq!(sent(&mut host).len(), 1);
}

// RFC 9293 3.9.2.3 MUST-63
#[test]
fn a_syn_from_an_address_that_nobody_can_have_is_ignored() {
    let mut host = listening();
    for from in ["0.0.0.0", "255.255.255.255", "224.0.0.1", "127.0.0.1", "192.168.255.255", LOCAL] {
        host.inject(&segment(from, LOCAL, flag::SYN, 0, 0, 0));
        assert_eq!(sent(&mut host), [], "{from}");
    }
}

// RFC 9293 3.10.7.4 MUST-59
#[test]
fn segments_that_arrive_together_are_acknowledged_once() {
    let mut host = listening();
    host.inject(&segment(PEER, LOCAL, flag::SYN, 0, 0, 0));
    let ours = sent(&mut host)[0].seq + 1;
    host.inject(&segment(PEER, LOCAL, flag::ACK, 1, ours, 0));
    let data = |i: u32| segment(PEER, LOCAL, flag::ACK, 1 + i * 1000, ours, 1000);
    host.inject_together(&[data(0), data(1), data(2), data(3)]);
    let acks = sent(&mut host);
    assert_eq!(acks.iter().map(|s| s.ack).collect::<Vec<_>>(), [4001]);
}

// RFC 9293 3.4.1 MUST-8, MUST-9, SHLD-1
// RFC 6528 3
#[test]
fn initial_sequence_numbers_follow_a_clock_and_tell_nothing_of_others() {
    let first = |seed: u8, port: u16, later: Duration| {
        let addresses = vec![(LOCAL.parse().unwrap(), 16)];
        let stack = StackConfig { seed: [seed; 16], ..StackConfig::default() };
        let mut host = Host::new(HostConfig { stack, addresses, mtu: 1500 }).unwrap();
        host.advance(host.now() + later);
        let fd = host.socket(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
        host.bind(fd, SocketAddr::new(LOCAL.parse().unwrap(), port)).unwrap();
        host.connect(fd, "192.0.2.1:80".parse().unwrap()).unwrap_err();
        sent(&mut host)[0].seq
    };
    let base = first(1, 1000, Duration::ZERO);
    assert_eq!(first(1, 1000, Duration::from_secs(1)).wrapping_sub(base), 250_000);
    for other in [first(1, 1001, Duration::ZERO), first(2, 1000, Duration::ZERO)] {
        assert!(base.wrapping_sub(other).min(other.wrapping_sub(base)) > 1_000_000);
    }
}
