//! The seeds of the corpus: small real frames of every kind that the stack takes.

use crate::build::{
    ACK, FIN, NDP_HOPS, OUR_V4, OUR_V6, PEER_MAC, PEER_V4, PEER_V6, PSH, Proto, RST, SYN, arp,
    arp_message, datagram, datagram6, fragment4, fragment6, icmp4, icmp6, igmp, ip4, ip6, tcp4,
    tcp6, udp4, udp6,
};

/// A named seed: one frame or a few that belong together.
pub type Seed = (&'static str, Vec<Vec<u8>>);

/// Every seed, in the form of the files of `corpus/`.
pub fn all() -> Vec<Seed> {
    [arps(), neighbour_discovery(), membership(), icmp(), udp(), fragments(), headers(), tcp()]
        .concat()
}

fn arps() -> Vec<Seed> {
    vec![
        ("arp-request", vec![arp(&arp_message(1, PEER_V4, OUR_V4))]),
        ("arp-reply", vec![arp(&arp_message(2, PEER_V4, OUR_V4))]),
        ("arp-announcement", vec![arp(&arp_message(1, PEER_V4, PEER_V4))]),
        ("arp-conflict", vec![arp(&arp_message(1, OUR_V4, OUR_V4))]),
    ]
}

fn with_target(kind: u8, flags: u8, target: [u8; 16], option: &[u8]) -> Vec<u8> {
    let mut m = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    m.extend(target);
    m.extend(option);
    m
}

fn link_option(kind: u8) -> Vec<u8> {
    [&[kind, 1][..], &PEER_MAC].concat()
}

fn router_advert() -> Vec<u8> {
    let mut m = vec![134, 0, 0, 0, 64, 0x08, 7, 8, 0, 0, 0x75, 0x30, 0, 0, 3, 0xe8];
    m.extend(link_option(1));
    m.extend([5, 1, 0, 0, 0, 0, 5, 0xdc]);
    m.extend([3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 7, 8, 0, 0, 0, 0]);
    m.extend([0x20, 1, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    m.extend([25, 3, 0, 0, 0, 0, 0, 60]);
    m.extend(PEER_V6.octets());
    m
}

fn neighbour_discovery() -> Vec<Seed> {
    let group = "ff02::1:ff00:1";
    let ask = with_target(135, 0, OUR_V6.octets(), &link_option(1));
    let dad = with_target(135, 0, OUR_V6.octets(), &[14, 1, 1, 2, 3, 4, 5, 6]);
    let answer = with_target(136, 0x60, PEER_V6.octets(), &link_option(2));
    let mut redirect = vec![137, 0, 0, 0, 0, 0, 0, 0];
    redirect.extend(PEER_V6.octets());
    redirect.extend(PEER_V6.octets());
    vec![
        ("ns", vec![icmp6("fd00::2", group, NDP_HOPS, &ask)]),
        ("ns-dad", vec![icmp6("::", group, NDP_HOPS, &dad)]),
        ("na", vec![icmp6("fd00::2", "fd00::1", NDP_HOPS, &answer)]),
        ("rs", vec![icmp6("fe80::2", "ff02::2", NDP_HOPS, &[133, 0, 0, 0, 0, 0, 0, 0])]),
        ("ra", vec![icmp6("fe80::2", "ff02::1", NDP_HOPS, &router_advert())]),
        ("redirect", vec![icmp6("fe80::2", "fd00::1", NDP_HOPS, &redirect)]),
    ]
}

fn membership() -> Vec<Seed> {
    let mut query = vec![130, 0, 0, 0, 0, 100, 0, 0];
    query.extend([0; 16]);
    let v1 = query.clone();
    query.extend([2, 125, 0, 0]);
    let mut report = vec![143, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0];
    report.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xab, 0xcd]);
    vec![
        ("mld-query", vec![icmp6("fe80::2", "ff02::1", 1, &query)]),
        ("mld-query-v1", vec![icmp6("fe80::2", "ff02::1", 1, &v1)]),
        ("mld-report", vec![icmp6("fe80::2", "ff02::16", 1, &report)]),
        ("igmp-query", vec![igmp(&[0x11, 100, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0])]),
        ("igmp-query-v2", vec![igmp(&[0x11, 100, 0, 0, 0, 0, 0, 0])]),
        ("igmp-report-v2", vec![igmp(&[0x16, 0, 0, 0, 239, 1, 2, 3])]),
    ]
}

/// An ICMP error that quotes a segment of ours.
fn quote4(kind: u8, code: u8, word: u32) -> Vec<u8> {
    let mut m = vec![kind, code, 0, 0];
    m.extend(word.to_be_bytes());
    let mut ours = tcp4(80, 4000, 1, 1, ACK, &[], b"12345678")[14..].to_vec();
    ours[12..16].copy_from_slice(&OUR_V4.octets());
    ours[16..20].copy_from_slice(&PEER_V4.octets());
    m.extend(ours);
    m
}

/// Port unreachable about a packet that looks like one of ours.
fn quote_of(frame: &[u8]) -> Vec<u8> {
    let mut ours = frame[14..].to_vec();
    ours[12..16].copy_from_slice(&OUR_V4.octets());
    ours[16..20].copy_from_slice(&PEER_V4.octets());
    [&[3, 3, 0, 0, 0, 0, 0, 0], &ours[..]].concat()
}

fn quote6(kind: u8, code: u8, word: u32) -> Vec<u8> {
    let mut m = vec![kind, code, 0, 0];
    m.extend(word.to_be_bytes());
    let mut ours = udp6(7, 9000, b"12345678")[14..].to_vec();
    ours[8..24].copy_from_slice(&OUR_V6.octets());
    ours[24..40].copy_from_slice(&PEER_V6.octets());
    m.extend(ours);
    m
}

fn icmp() -> Vec<Seed> {
    vec![
        ("icmp-echo", vec![icmp4(&[8, 0, 0, 0, 0, 1, 0, 1, b'p', b'i', b'n', b'g'])]),
        ("icmp-echo-reply", vec![icmp4(&[0, 0, 0, 0, 0, 1, 0, 1])]),
        ("icmp-port-unreachable", vec![icmp4(&quote4(3, 3, 0))]),
        ("icmp-fragmentation-needed", vec![icmp4(&quote4(3, 4, 1300))]),
        ("icmp-time-exceeded", vec![icmp4(&quote4(11, 0, 0))]),
        ("icmp6-echo", vec![icmp6("fd00::2", "fd00::1", 64, &[128, 0, 0, 0, 0, 1, 0, 1, 1, 2])]),
        (
            "icmp6-echo-multicast",
            vec![icmp6("fe80::2", "ff02::1", 64, &[128, 0, 0, 0, 0, 1, 0, 1])],
        ),
        ("icmp6-too-big", vec![icmp6("fd00::2", "fd00::1", 64, &quote6(2, 0, 1280))]),
        ("icmp6-unreachable", vec![icmp6("fd00::2", "fd00::1", 64, &quote6(1, 4, 0))]),
    ]
}

fn udp() -> Vec<Seed> {
    vec![
        ("udp4", vec![udp4(9000, 7, b"hello")]),
        ("udp6", vec![udp6(9000, 7, b"hello")]),
        ("udp4-closed", vec![udp4(9000, 8, b"hello")]),
        ("udp4-padded", vec![[udp4(9000, 7, b"x"), vec![0; 17]].concat()]),
        (
            "udp4-group",
            vec![ip4([239, 1, 2, 3].into(), 17, 1, (1, 0), &[], &datagram(9000, 7, b"group"))],
        ),
        ("udp4-no-checksum", vec![ip4(OUR_V4, 17, 64, (1, 0), &[], &datagram(9000, 7, b"none"))]),
        ("icmp-udp-refused", vec![icmp4(&quote_of(&udp4(7, 9000, b"who?")))]),
        ("icmp-echo-refused", vec![icmp4(&quote_of(&icmp4(&[8, 0, 0, 0, 0, 1, 0, 1])))]),
    ]
}

fn fragments() -> Vec<Seed> {
    let whole = datagram(9000, 7, &[b'f'; 56]);
    let whole6 = datagram6(9000, 7, &[b'f'; 56]);
    let ((a, b), (a6, b6)) = (whole.split_at(32), whole6.split_at(32));
    vec![
        (
            "fragments4",
            vec![fragment4(9, 0, true, Proto::Udp, a), fragment4(9, 4, false, Proto::Udp, b)],
        ),
        (
            "fragments6",
            vec![fragment6(9, 4, false, Proto::Udp, b6), fragment6(9, 0, true, Proto::Udp, a6)],
        ),
        (
            "fragments-overlap",
            vec![fragment4(8, 0, true, Proto::Udp, a), fragment4(8, 2, false, Proto::Udp, b)],
        ),
        ("fragment6-atomic", vec![fragment6(7, 0, false, Proto::Udp, &whole6)]),
    ]
}

fn headers() -> Vec<Seed> {
    let data = datagram(9000, 7, b"options");
    let data6 = datagram6(9000, 7, b"options");
    let router_alert = [&[17, 0, 5, 2, 0, 0, 1, 0][..], &data6].concat();
    let padded = [&[17, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &data6].concat();
    let routing = [&[17, 2, 0, 1, 0, 0, 0, 0][..], &PEER_V6.octets(), &data6].concat();
    let source_route = [131, 7, 4, 10, 0, 0, 9];
    vec![
        ("ip6-hop-by-hop", vec![ip6(PEER_V6, OUR_V6, 0, 64, &router_alert)]),
        ("ip6-destination-options", vec![ip6(PEER_V6, OUR_V6, 60, 64, &padded)]),
        ("ip6-routing", vec![ip6(PEER_V6, OUR_V6, 43, 64, &routing)]),
        ("ip6-no-next", vec![ip6(PEER_V6, OUR_V6, 59, 64, &[])]),
        ("ip4-source-route", vec![ip4(OUR_V4, 17, 64, (3, 0), &source_route, &data)]),
        ("ip4-unknown-protocol", vec![ip4(OUR_V4, 200, 64, (3, 0), &[], &data)]),
    ]
}

fn tcp() -> Vec<Seed> {
    // MSS, SACK permitted, timestamps, window scale: what Linux sends.
    let linux = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7];
    let sack = [1, 1, 5, 10, 0, 0, 0, 100, 0, 0, 0, 200];
    let data = |seq, data: &[u8]| tcp4(4000, 80, seq, 0, ACK, &[], data);
    let stamp = [1, 1, 8, 10, 0, 0, 0, 10, 0, 0, 0, 1];
    vec![
        ("tcp4-syn", vec![tcp4(5001, 80, 1000, 0, SYN, &linux, &[])]),
        ("tcp6-syn", vec![tcp6(5001, 80, 1000, 0, SYN, &linux, &[])]),
        ("tcp4-data", vec![tcp4(4000, 80, 0, 0, ACK | PSH, &stamp, b"GET / HTTP/1.1\r\n\r\n")]),
        ("tcp4-sack", vec![tcp4(4000, 80, 0, 0, ACK, &sack, &[])]),
        ("tcp4-fin", vec![tcp4(4000, 80, 0, 0, ACK | FIN, &[], &[])]),
        ("tcp4-rst", vec![tcp4(4000, 80, 0, 0, RST, &[], &[])]),
        ("tcp4-closed", vec![tcp4(5002, 81, 7, 0, SYN, &linux, &[])]),
        ("tcp4-syn-ack", vec![tcp4(90, 40000, 7, 1, SYN | ACK, &linux, &[])]),
        ("tcp4-out-of-order", vec![data(6, b"second"), data(0, b"first "), data(3, b"overlap")]),
        (
            "tcp4-fin-then-data",
            vec![tcp4(4000, 80, 9, 0, ACK | FIN, &[], &[]), data(0, b"123456789")],
        ),
        ("tcp4-old-ack", vec![tcp4(4000, 80, 0, 0xffff_ff00, ACK, &[], &[])]),
        ("tcp4-ack-of-the-future", vec![tcp4(4000, 80, 0, 999, ACK, &[], &[])]),
        ("tcp4-syn-in-window", vec![tcp4(4000, 80, 5, 0, SYN, &linux, &[])]),
        ("tcp4-rst-in-window", vec![tcp4(4000, 80, 5, 0, RST, &[], &[])]),
        ("tcp4-window-zero", vec![tcp4(4000, 80, 0, 0, ACK, &stamp, &[])]),
    ]
}
