//! Packets as bytes: a codec of its own, so that the stack's is checked against a second one.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::script::OptionSpec;

/// A decoded packet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Packet {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) traffic_class: u8,
    pub(crate) ttl: u8,
    pub(crate) flow_label: u32,
    pub(crate) content: Content,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    Tcp(Segment),
    Udp {
        ports: (u16, u16),
        payload: Vec<u8>,
    },
    Icmp {
        kind: u8,
        code: u8,
        /// Bytes 4..8 of the message.
        rest: u32,
        payload: Vec<u8>,
    },
    Other(u8),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Segment {
    pub(crate) ports: (u16, u16),
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u16,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    pub(crate) options: Vec<OptionSpec>,
    pub(crate) payload: Vec<u8>,
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP4: u8 = 1;
const ICMP6: u8 = 58;

impl Packet {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (protocol, mut body, sum_at) = match &self.content {
            Content::Tcp(segment) => (TCP, segment.encode(), 16),
            Content::Udp { ports, payload } => (UDP, datagram(*ports, payload), 6),
            Content::Icmp { kind, code, rest, payload } => {
                let protocol = if self.src.is_ipv4() { ICMP4 } else { ICMP6 };
                let mut body = vec![*kind, *code, 0, 0];
                body.extend(rest.to_be_bytes());
                body.extend(payload);
                (protocol, body, 2)
            }
            Content::Other(protocol) => (*protocol, Vec::new(), 0),
        };
        if sum_at > 0 {
            let sum = !fold(self.pseudo(protocol, body.len()) + sum(&body));
            body[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        let mut out = self.ip_header(protocol, body.len());
        out.extend(body);
        out
    }

    fn ip_header(&self, protocol: u8, len: usize) -> Vec<u8> {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut h = vec![0x45, self.traffic_class];
                h.extend((len as u16 + 20).to_be_bytes());
                // DF, as every TCP of today sends it.
                h.extend([0, 0, 0x40, 0, self.ttl, protocol, 0, 0]);
                h.extend(src.octets());
                h.extend(dst.octets());
                let sum = !fold(sum(&h));
                h[10..12].copy_from_slice(&sum.to_be_bytes());
                h
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let first = 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label;
                let mut h = first.to_be_bytes().to_vec();
                h.extend((len as u16).to_be_bytes());
                h.extend([protocol, self.ttl]);
                h.extend(src.octets());
                h.extend(dst.octets());
                h
            }
            // Both addresses come from one family of the script.
            _ => Vec::new(),
        }
    }

    /// Sum of the pseudo header; ICMP over IPv4 has none.
    fn pseudo(&self, protocol: u8, len: usize) -> u64 {
        let addresses = |a: &[u8], b: &[u8]| sum(a) + sum(b) + u64::from(protocol) + len as u64;
        match (self.src, self.dst) {
            (IpAddr::V4(_), IpAddr::V4(_)) if protocol == ICMP4 => 0,
            (IpAddr::V4(a), IpAddr::V4(b)) => addresses(&a.octets(), &b.octets()),
            (IpAddr::V6(a), IpAddr::V6(b)) => addresses(&a.octets(), &b.octets()),
            _ => 0,
        }
    }

    /// Reads a packet and checks its lengths and checksums.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Packet, String> {
        let (mut packet, protocol, body) = match bytes.first().map(|b| b >> 4) {
            Some(4) => ipv4(bytes)?,
            Some(6) => ipv6(bytes)?,
            _ => return Err("neither IPv4 nor IPv6".into()),
        };
        if matches!(protocol, TCP | UDP | ICMP4 | ICMP6)
            && fold(packet.pseudo(protocol, body.len()) + sum(body)) != 0xffff
        {
            return Err(format!("bad checksum of protocol {protocol}"));
        }
        packet.content = match protocol {
            TCP => Content::Tcp(Segment::decode(body)?),
            UDP if body.len() >= 8 => {
                Content::Udp { ports: (word(body, 0), word(body, 2)), payload: body[8..].to_vec() }
            }
            ICMP4 | ICMP6 if body.len() >= 8 => Content::Icmp {
                kind: body[0],
                code: body[1],
                rest: long(body, 4),
                payload: body[8..].to_vec(),
            },
            UDP | ICMP4 | ICMP6 => return Err("truncated header".into()),
            other => Content::Other(other),
        };
        Ok(packet)
    }
}

fn ipv4(b: &[u8]) -> Result<(Packet, u8, &[u8]), String> {
    let header = usize::from(b[0] & 15) * 4;
    if b.len() < header || header < 20 || usize::from(word(b, 2)) != b.len() {
        return Err("wrong length of the IPv4 packet".into());
    }
    if fold(sum(&b[..header])) != 0xffff {
        return Err("bad checksum of the IPv4 header".into());
    }
    if word(b, 6) & 0x3fff != 0 {
        return Err("a fragment".into());
    }
    let addr = |at: usize| Ipv4Addr::from(long(b, at)).into();
    let packet = Packet {
        src: addr(12),
        dst: addr(16),
        traffic_class: b[1],
        ttl: b[8],
        flow_label: 0,
        content: Content::Other(b[9]),
    };
    Ok((packet, b[9], &b[header..]))
}

fn ipv6(b: &[u8]) -> Result<(Packet, u8, &[u8]), String> {
    if b.len() < 40 || usize::from(word(b, 4)) + 40 != b.len() {
        return Err("wrong length of the IPv6 packet".into());
    }
    let addr = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&b[at..at + 16]);
        Ipv6Addr::from(octets).into()
    };
    let packet = Packet {
        src: addr(8),
        dst: addr(24),
        traffic_class: (word(b, 0) >> 4) as u8,
        ttl: b[7],
        flow_label: long(b, 0) & 0xf_ffff,
        content: Content::Other(b[6]),
    };
    Ok((packet, b[6], &b[40..]))
}

fn datagram(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut body = ports.0.to_be_bytes().to_vec();
    body.extend(ports.1.to_be_bytes());
    body.extend((payload.len() as u16 + 8).to_be_bytes());
    body.extend([0, 0]);
    body.extend(payload);
    body
}

impl Segment {
    fn encode(&self) -> Vec<u8> {
        let mut options: Vec<u8> = self.options.iter().flat_map(encode_option).collect();
        options.resize(options.len().next_multiple_of(4), 0);
        let mut out = self.ports.0.to_be_bytes().to_vec();
        out.extend(self.ports.1.to_be_bytes());
        out.extend(self.seq.to_be_bytes());
        out.extend(self.ack.to_be_bytes());
        let words = (5 + options.len() / 4) as u16;
        out.extend((words << 12 | self.flags).to_be_bytes());
        out.extend(self.window.to_be_bytes());
        out.extend([0, 0]);
        out.extend(self.urgent.to_be_bytes());
        out.extend(options);
        out.extend(&self.payload);
        out
    }

    fn decode(b: &[u8]) -> Result<Segment, String> {
        let header = if b.len() < 20 { 0 } else { usize::from(b[12] >> 4) * 4 };
        if header < 20 || header > b.len() {
            return Err("impossible length of the TCP header".into());
        }
        Ok(Segment {
            ports: (word(b, 0), word(b, 2)),
            seq: long(b, 4),
            ack: long(b, 8),
            flags: word(b, 12) & 0x1ff,
            window: word(b, 14),
            urgent: word(b, 18),
            options: decode_options(&b[20..header])?,
            payload: b[header..].to_vec(),
        })
    }
}

fn encode_option(option: &OptionSpec) -> Vec<u8> {
    let (kind, body) = match option {
        OptionSpec::Nop => return vec![1],
        OptionSpec::Eol => return vec![0],
        OptionSpec::Mss(n) => (2, n.to_be_bytes().to_vec()),
        OptionSpec::WindowScale(n) => (3, vec![*n]),
        OptionSpec::SackOk => (4, Vec::new()),
        OptionSpec::Sack(blocks) => {
            let edges = blocks.iter().flat_map(|(l, r)| [l.to_be_bytes(), r.to_be_bytes()]);
            (5, edges.flatten().collect())
        }
        OptionSpec::Timestamp(value, echo) => {
            (8, [value.to_be_bytes(), echo.to_be_bytes()].concat())
        }
        OptionSpec::FastOpen { cookie, experimental: false } => (34, cookie.clone()),
        OptionSpec::FastOpen { cookie, experimental: true } => {
            (254, [&[0xf9, 0x89], &cookie[..]].concat())
        }
        OptionSpec::Md5(digest) => (19, digest.clone()),
        OptionSpec::AccEcn { e1_first, counters } => {
            let bytes = counters.iter().flat_map(|c| c.to_be_bytes()[1..].to_vec());
            (if *e1_first { 174 } else { 172 }, bytes.collect())
        }
        OptionSpec::Unknown(kind, body) => (*kind, body.clone()),
    };
    let mut out = vec![kind, body.len() as u8 + 2];
    out.extend(body);
    out
}

fn decode_options(mut b: &[u8]) -> Result<Vec<OptionSpec>, String> {
    let mut options = Vec::new();
    while let Some(kind) = b.first() {
        if *kind <= 1 {
            options.push(if *kind == 0 { OptionSpec::Eol } else { OptionSpec::Nop });
            b = &b[1..];
            continue;
        }
        let len = b.get(1).map_or(0, |l| usize::from(*l));
        if len < 2 || len > b.len() {
            return Err(format!("TCP option {kind} of impossible length {len}"));
        }
        options.push(decode_option(*kind, &b[2..len]));
        b = &b[len..];
    }
    Ok(options)
}

fn decode_option(kind: u8, body: &[u8]) -> OptionSpec {
    match (kind, body) {
        (2, [_, _]) => OptionSpec::Mss(word(body, 0)),
        (3, [shift]) => OptionSpec::WindowScale(*shift),
        (4, []) => OptionSpec::SackOk,
        (5, _) if body.len().is_multiple_of(8) => {
            OptionSpec::Sack(body.chunks(8).map(|b| (long(b, 0), long(b, 4))).collect())
        }
        (8, _) if body.len() == 8 => OptionSpec::Timestamp(long(body, 0), long(body, 4)),
        (34, _) => OptionSpec::FastOpen { cookie: body.to_vec(), experimental: false },
        (254, [0xf9, 0x89, cookie @ ..]) => {
            OptionSpec::FastOpen { cookie: cookie.to_vec(), experimental: true }
        }
        (19, _) => OptionSpec::Md5(body.to_vec()),
        (172 | 174, _) if body.len().is_multiple_of(3) => {
            let counters = body.chunks(3).map(|c| u32::from_be_bytes([0, c[0], c[1], c[2]]));
            OptionSpec::AccEcn { e1_first: kind == 174, counters: counters.collect() }
        }
        _ => OptionSpec::Unknown(kind, body.to_vec()),
    }
}

fn word(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

fn long(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn sum(b: &[u8]) -> u64 {
    b.chunks(2).map(|c| u64::from(c[0]) << 8 | c.get(1).map_or(0, |x| u64::from(*x))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Number of an ICMP type by its name.
pub(crate) fn icmp_kind(v4: bool, name: &str) -> Option<u8> {
    let table: &[(&str, u8)] = if v4 {
        &[
            ("echo_reply", 0),
            ("unreachable", 3),
            ("source_quench", 4),
            ("redirect", 5),
            ("echo_request", 8),
            ("time_exceeded", 11),
            ("parameter_problem", 12),
            ("timestamp_request", 13),
            ("timestamp_reply", 14),
        ]
    } else {
        &[
            ("unreachable", 1),
            ("packet_too_big", 2),
            ("time_exceeded", 3),
            ("parameter_problem", 4),
            ("echo_request", 128),
            ("echo_reply", 129),
        ]
    };
    table.iter().find(|(n, _)| *n == name).map(|(_, k)| *k)
}

/// Number of an ICMP code by its name.
pub(crate) fn icmp_code(v4: bool, kind: u8, name: &str) -> Option<u8> {
    const UNREACHABLE4: [&str; 16] = [
        "net_unreachable",
        "host_unreachable",
        "protocol_unreachable",
        "port_unreachable",
        "frag_needed",
        "source_route_failed",
        "net_unknown",
        "host_unknown",
        "source_host_isolated",
        "net_prohibited",
        "host_prohibited",
        "net_unreachable_for_tos",
        "host_unreachable_for_tos",
        "packet_filtered",
        "precedence_violation",
        "precedence_cutoff",
    ];
    let names: &[&str] = match (v4, kind) {
        (true, 3) => &UNREACHABLE4,
        (false, 1) if name == "net_unreachable" => return Some(0),
        (false, 1) => &[
            "no_route",
            "admin_prohibited",
            "not_neighbour",
            "address_unreachable",
            "port_unreachable",
        ],
        (true, 11) | (false, 3) => &["exceeded_hop_limit", "exceeded_frag_time"],
        (false, 4) => &["header_field", "unknown_next_header", "unknown_option"],
        _ => &[],
    };
    names.iter().position(|n| *n == name).map(|i| i as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(options: Vec<OptionSpec>) -> Packet {
        Packet {
            src: "192.0.2.1".parse().unwrap(),
            dst: "192.168.0.1".parse().unwrap(),
            traffic_class: 2,
            ttl: 64,
            flow_label: 0,
            content: Content::Tcp(Segment {
                ports: (1, 2),
                seq: 7,
                ack: 8,
                flags: 0x1ff,
                window: 9,
                urgent: 10,
                options,
                payload: vec![1, 2, 3],
            }),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let options = vec![
            OptionSpec::Mss(1460),
            OptionSpec::Sack(vec![(1, 2), (3, 4)]),
            OptionSpec::AccEcn { e1_first: true, counters: vec![1, 0xff_ffff] },
            OptionSpec::FastOpen { cookie: vec![9; 4], experimental: false },
        ];
        let packet = tcp(options);
        assert_eq!(Packet::decode(&packet.encode()).unwrap(), packet);
        let mut six = tcp(vec![OptionSpec::Nop; 4]);
        (six.src, six.dst) = ("::1".parse().unwrap(), "::2".parse().unwrap());
        six.flow_label = 0xabcde;
        assert_eq!(Packet::decode(&six.encode()).unwrap(), six);
    }

    #[test]
    fn the_stack_reads_the_same() {
        let bytes =
            tcp(vec![OptionSpec::Timestamp(5, 6), OptionSpec::Nop, OptionSpec::Nop]).encode();
        let (header, _) = weft_stack::wire::tcp::Header::parse(&bytes[20..]).unwrap();
        assert_eq!((header.seq.0, header.ack.0, header.window), (7, 8, 9));
        assert_eq!(header.options.timestamp, Some((5, 6)));
    }

    #[test]
    fn damage_is_told() {
        let good = tcp(Vec::new()).encode();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(Packet::decode(&bad).is_err(), "byte {at}");
        }
        assert!(Packet::decode(&good[..10]).is_err());
    }
}
