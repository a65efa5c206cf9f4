//! A packet as a line of text.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, UNIX_EPOCH};

use weft_shim::wire::{Header, PROTOCOL};
use weft_vserver::capture::CapturedPacket;

const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
/// What control messages of the shim are called, by type.
const MESSAGES: [(u8, &str); 11] = [
    (1, "I1"),
    (2, "R1"),
    (3, "I2"),
    (4, "R2"),
    (5, "R1bis"),
    (6, "I2bis"),
    (64, "update request"),
    (65, "update acknowledgement"),
    (66, "keepalive"),
    (67, "probe"),
    (68, "error"),
];

/// The line, with its end.
pub(super) fn of(packet: &CapturedPacket, data: &[u8]) -> String {
    let at = UNIX_EPOCH + Duration::from_nanos(packet.time_ns);
    let stamp = humantime::format_rfc3339_micros(at).to_string();
    // The time of day.
    let stamp = stamp.get(11..26).unwrap_or(&stamp);
    let side = if packet.above { "above" } else { "below" };
    let way = if packet.out { "Out" } else { "In " };
    let text = frame(data, packet);
    format!("{stamp} {side} {way} {}\n", text.unwrap_or_else(|| String::from("[cut short]")))
}

fn be16(data: &[u8], at: usize) -> Option<u16> {
    data.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]))
}

fn be32(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

fn v4(data: &[u8], at: usize) -> Option<Ipv4Addr> {
    be32(data, at).map(Ipv4Addr::from)
}

fn v6(data: &[u8], at: usize) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = data.get(at..at + 16)?.try_into().ok()?;
    Some(octets.into())
}

fn frame(data: &[u8], packet: &CapturedPacket) -> Option<String> {
    if !packet.ethernet {
        return ip(data, packet.len);
    }
    match be16(data, 12)? {
        0x0800 | 0x86dd => ip(&data[14..], packet.len.saturating_sub(14)),
        0x0806 => arp(&data[14..]),
        other => Some(format!("ethertype 0x{other:04x}, length {}", packet.len)),
    }
}

fn arp(data: &[u8]) -> Option<String> {
    let (from, to) = (v4(data, 14)?, v4(data, 24)?);
    if be16(data, 6)? == 1 {
        return Some(format!("ARP who has {to}, tell {from}"));
    }
    let mac: Vec<_> = data[8..14].iter().map(|b| format!("{b:02x}")).collect();
    Some(format!("ARP {from} is at {}", mac.join(":")))
}

/// A packet of `len` bytes, if its header does not say.
fn ip(data: &[u8], len: usize) -> Option<String> {
    if data.first()? >> 4 == 4 {
        let header = usize::from(data[0] & 15) * 4;
        let field = be16(data, 6)?;
        let pieces = Piece { offset: usize::from(field & 0x1fff) * 8, more: field & 0x2000 != 0 };
        let total = usize::from(be16(data, 2)?);
        // The field of a super-segment may not hold it.
        let total = if total == 0xffff { len } else { total };
        let ends = (v4(data, 12)?.into(), v4(data, 16)?.into());
        let rest = data.get(header..)?;
        let body = Body { protocol: data[9], rest, len: total.saturating_sub(header) };
        return Some(body.of_piece(ends, pieces, "IP"));
    }
    let total = usize::from(be16(data, 4)?);
    let total = if total == 0xffff { len.saturating_sub(40) } else { total };
    let ends = (v6(data, 8)?.into(), v6(data, 24)?.into());
    let body = Body { protocol: data[6], rest: data.get(40..)?, len: total };
    let (body, piece) = body.behind_extensions()?;
    Some(body.of_piece(ends, piece, "IP6"))
}

/// Which part of a packet it is.
#[derive(Clone, Copy, Default)]
struct Piece {
    offset: usize,
    more: bool,
}

impl Piece {
    fn is_whole(self) -> bool {
        self.offset == 0 && !self.more
    }
}

/// What stands behind an IP header, as far as it was kept.
#[derive(Clone, Copy)]
struct Body<'a> {
    protocol: u8,
    rest: &'a [u8],
    len: usize,
}

impl<'a> Body<'a> {
    fn skip(&self, protocol: u8, bytes: usize) -> Option<Body<'a>> {
        let rest = self.rest.get(bytes..)?;
        Some(Body { protocol, rest, len: self.len.saturating_sub(bytes) })
    }

    fn behind_extensions(mut self) -> Option<(Body<'a>, Piece)> {
        let mut piece = Piece::default();
        while matches!(self.protocol, 0 | 43 | FRAGMENT | 60) {
            let mut bytes = (usize::from(*self.rest.get(1)?) + 1) * 8;
            if self.protocol == FRAGMENT {
                let field = be16(self.rest, 2)?;
                piece = Piece { offset: usize::from(field & 0xfff8), more: field & 1 != 0 };
                bytes = 8;
            }
            self = self.skip(self.rest[0], bytes)?;
        }
        Some((self, piece))
    }

    fn of_piece(self, (src, dst): (IpAddr, IpAddr), piece: Piece, name: &str) -> String {
        if piece.is_whole() {
            return format!("{name} {}", self.between((src, dst)));
        }
        let (protocol, len) = (self.protocol, self.len);
        let more = if piece.more { "+" } else { "" };
        format!("{name} {src} > {dst}: protocol {protocol}, fragment {len}@{}{more}", piece.offset)
    }

    fn between(self, (src, dst): (IpAddr, IpAddr)) -> String {
        let ports = matches!(self.protocol, TCP | UDP);
        let ports = ports.then(|| Some((be16(self.rest, 0)?, be16(self.rest, 2)?))).flatten();
        let what = self.told().unwrap_or_else(|| String::from("[cut short]"));
        match ports {
            Some((from, to)) => format!("{src}.{from} > {dst}.{to}: {what}"),
            None => format!("{src} > {dst}: {what}"),
        }
    }

    fn told(self) -> Option<String> {
        match self.protocol {
            TCP => tcp(self.rest, self.len),
            UDP => Some(format!("UDP, length {}", self.len.saturating_sub(8))),
            1 | 58 => icmp(self),
            PROTOCOL => self.shim(),
            other => Some(format!("protocol {other}, length {}", self.len)),
        }
    }

    fn shim(self) -> Option<String> {
        match Header::read(self.rest) {
            Some(Header::Payload { next, tag }) => {
                let inner = self.skip(next, 8)?;
                let ports = match next {
                    TCP | UDP => {
                        let (from, to) = (be16(inner.rest, 0)?, be16(inner.rest, 2)?);
                        format!("{from} > {to}: ")
                    }
                    _ => String::new(),
                };
                Some(format!("shim, tag {tag}: {ports}{}", inner.told()?))
            }
            Some(Header::Control { len }) => {
                let kind = self.rest[2] & 0x7f;
                let name = MESSAGES.iter().find(|(n, _)| *n == kind);
                let name = name.map_or_else(|| format!("type {kind}"), |(_, s)| (*s).to_owned());
                Some(format!("shim {name}, length {len}"))
            }
            None => Some(format!("shim, length {}", self.len)),
        }
    }
}

fn tcp(h: &[u8], len: usize) -> Option<String> {
    let header = usize::from(*h.get(12)? >> 4) * 4;
    let bits = *h.get(13)?;
    let names =
        [(2, 'S'), (1, 'F'), (8, 'P'), (4, 'R'), (32, 'U'), (64, 'E'), (128, 'W'), (16, '.')];
    let flags: String = names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, c)| *c).collect();
    let (seq, length) = (be32(h, 4)?, len.saturating_sub(header));
    let mut text = format!("Flags [{flags}], seq {seq}");
    if length > 0 {
        let _ = write!(text, ":{}", seq.wrapping_add(length as u32));
    }
    if bits & 16 != 0 {
        let _ = write!(text, ", ack {}", be32(h, 8)?);
    }
    let _ = write!(text, ", win {}, length {length}", be16(h, 14)?);
    Some(text)
}

fn icmp(body: Body<'_>) -> Option<String> {
    let (h, v6) = (body.rest, body.protocol == 58);
    let (kind, code) = (*h.first()?, *h.get(1)?);
    let name = if v6 { "ICMP6" } else { "ICMP" };
    let what = match (v6, kind) {
        (false, 8) | (true, 128) => "echo request",
        (false, 0) | (true, 129) => "echo reply",
        (true, 135) => return Some(format!("{name} who has {}", v6_target(h)?)),
        (true, 136) => return Some(format!("{name} {} is here", v6_target(h)?)),
        _ => return Some(format!("{name} type {kind}, code {code}, length {}", body.len)),
    };
    let (id, seq) = (be16(h, 4)?, be16(h, 6)?);
    Some(format!("{name} {what}, id {id}, seq {seq}, length {}", body.len))
}

fn v6_target(h: &[u8]) -> Option<Ipv6Addr> {
    v6(h, 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_shim::wire::{Tag, payload_header};

    fn shown(data: &[u8]) -> String {
        let packet = CapturedPacket {
            time_ns: 1_700_000_000_123_456_789,
            above: true,
            out: true,
            len: data.len(),
            ..CapturedPacket::default()
        };
        of(&packet, data)
    }

    fn packet(protocol: u8, body: &[u8]) -> Vec<u8> {
        let mut data = vec![0x60, 0, 0, 0, 0, body.len() as u8, protocol, 64];
        for last in [1, 2] {
            data.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
        data.extend(body);
        data
    }

    const SYN: [u8; 20] = [0, 7, 0x9c, 0x40, 0, 0, 0, 5, 0, 0, 0, 9, 0x50, 0x12, 1, 0, 0, 0, 0, 0];

    #[test]
    fn a_line_says_who_and_what() {
        let line = shown(&packet(TCP, &SYN));
        assert_eq!(
            line,
            "22:13:20.123456 above Out IP6 2001:db8::1.7 > 2001:db8::2.40000: \
             Flags [S.], seq 5, ack 9, win 256, length 0\n"
        );
    }

    #[test]
    fn what_is_behind_the_shim_is_shown_and_its_messages_have_names() {
        let rewritten = [&payload_header(TCP, Tag::new(0xabc))[..], &SYN].concat();
        let line = shown(&packet(PROTOCOL, &rewritten));
        let told =
            "2001:db8::1 > 2001:db8::2: shim, tag 000000000abc: 7 > 40000: Flags [S.], seq 5";
        assert!(line.contains(told), "{line}");
        let probe = [59, 1, 67, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(shown(&packet(PROTOCOL, &probe)).ends_with(": shim probe, length 16\n"));
    }

    #[test]
    fn fragments_and_what_was_cut_short_are_told() {
        let fragment = [&[UDP, 0, 0, 9, 0, 0, 0, 1][..], &[7; 16]].concat();
        assert!(shown(&packet(FRAGMENT, &fragment)).contains("protocol 17, fragment 16@8+"));
        for cut in 0..60 {
            shown(&packet(TCP, &SYN)[..cut]);
        }
        assert!(shown(&packet(TCP, &SYN)[..50]).contains("[cut short]"));
    }
}
