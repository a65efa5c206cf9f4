//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo, errors sent and received.

use core::net::{IpAddr, Ipv6Addr};

use super::address::AliasId;
use super::input::Input;
use super::pmtu::IPV6_MIN;
use super::{Ip, multicast, ndp, output};
use crate::ctx::{Ctx, Fate};
use crate::drop::DropReason;
use crate::frame::{Checksum, Frame};
use crate::link::Link;
use crate::lower::{self, IcmpErrorKind, InPacket, OutPacket, Refusal};
use crate::stats::{IcmpStats, Mib};
use crate::time::Instant;
use crate::wire::header::{IPV4_LEN, IPV6_LEN};
use crate::wire::{checksum, frame_sum, protocol};

/// Bytes before the quoted packet, in both families.
const ERROR_HEADER_LEN: usize = 8;
/// RFC 1812 4.3.2.3: an ICMPv4 error is at most 576 bytes.
const IPV4_ERROR_BYTES: usize = 576;
/// RFC 4443 2.4 (c).
const IPV6_ERROR_BYTES: usize = IPV6_MIN;

mod v4 {
    pub(super) const ECHO_REPLY: u8 = 0;
    pub(super) const UNREACHABLE: u8 = 3;
    pub(super) const SOURCE_QUENCH: u8 = 4;
    pub(super) const REDIRECT: u8 = 5;
    pub(super) const ECHO: u8 = 8;
    pub(super) const TIME_EXCEEDED: u8 = 11;
    pub(super) const PARAMETER_PROBLEM: u8 = 12;
}

mod v6 {
    pub(super) const UNREACHABLE: u8 = 1;
    pub(super) const TOO_BIG: u8 = 2;
    pub(super) const TIME_EXCEEDED: u8 = 3;
    pub(super) const PARAMETER_PROBLEM: u8 = 4;
    pub(super) const ECHO: u8 = 128;
    pub(super) const ECHO_REPLY: u8 = 129;
    pub(super) const MLD_QUERY: u8 = 130;
    pub(super) const MLD_DONE: u8 = 132;
    pub(super) const ROUTER_SOLICIT: u8 = 133;
    pub(super) const REDIRECT: u8 = 137;
    pub(super) const MLDV2_REPORT: u8 = 143;
}

/// An error to be reported to the sender of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    NoRoute,
    /// Administratively prohibited.
    Prohibited,
    HostUnreachable,
    ProtocolUnreachable,
    PortUnreachable,
    AdminProhibited,
    /// Packet too big, fragmentation needed.
    TooBig {
        mtu: usize,
    },
    HopLimitExceeded,
    ReassemblyTimeout,
    /// IPv6 code and pointer.
    Parameter {
        code: u8,
        pointer: u32,
    },
}

impl Problem {
    /// Type, code and the second word, for IPv4.
    fn v4(self) -> (u8, u8, u32) {
        match self {
            Problem::NoRoute => (v4::UNREACHABLE, 0, 0),
            Problem::Prohibited => (v4::UNREACHABLE, 13, 0),
            Problem::HostUnreachable => (v4::UNREACHABLE, 1, 0),
            Problem::ProtocolUnreachable => (v4::UNREACHABLE, 2, 0),
            Problem::PortUnreachable => (v4::UNREACHABLE, 3, 0),
            Problem::AdminProhibited => (v4::UNREACHABLE, 13, 0),
            Problem::TooBig { mtu } => (v4::UNREACHABLE, 4, mtu.min(0xffff) as u32),
            Problem::HopLimitExceeded => (v4::TIME_EXCEEDED, 0, 0),
            Problem::ReassemblyTimeout => (v4::TIME_EXCEEDED, 1, 0),
            Problem::Parameter { pointer, .. } => (v4::PARAMETER_PROBLEM, 0, pointer << 24),
        }
    }

    /// Type, code and the second word, for IPv6.
    fn v6(self) -> (u8, u8, u32) {
        match self {
            Problem::NoRoute => (v6::UNREACHABLE, 0, 0),
            Problem::Prohibited => (v6::UNREACHABLE, 1, 0),
            Problem::HostUnreachable => (v6::UNREACHABLE, 3, 0),
            Problem::ProtocolUnreachable => (v6::PARAMETER_PROBLEM, 1, 6),
            Problem::PortUnreachable => (v6::UNREACHABLE, 4, 0),
            Problem::AdminProhibited => (v6::UNREACHABLE, 1, 0),
            Problem::TooBig { mtu } => (v6::TOO_BIG, 0, mtu as u32),
            Problem::HopLimitExceeded => (v6::TIME_EXCEEDED, 0, 0),
            Problem::ReassemblyTimeout => (v6::TIME_EXCEEDED, 1, 0),
            Problem::Parameter { code, pointer } => (v6::PARAMETER_PROBLEM, code, pointer),
        }
    }

    /// RFC 4443 2.4 (e.3): these two go out even about packets to a group.
    fn even_to_many(self) -> bool {
        matches!(self, Problem::TooBig { .. } | Problem::Parameter { code: 2, .. })
    }
}

/// How many errors may still be sent: a bucket that holds one second's worth.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ErrorLimit {
    /// In millionths of an error.
    tokens: u64,
    since: Instant,
}

impl ErrorLimit {
    /// A full bucket.
    pub(crate) fn new(now: Instant, per_second: u32) -> ErrorLimit {
        ErrorLimit { tokens: u64::from(per_second) * 1_000_000, since: now }
    }

    /// Whether one more may be sent.
    pub(crate) fn take(&mut self, now: Instant, per_second: u32) -> bool {
        let rate = u64::from(per_second);
        let elapsed_us = now.saturating_since(self.since).as_micros() as u64;
        self.tokens = (self.tokens + elapsed_us.min(1_000_000) * rate).min(rate * 1_000_000);
        self.since = now;
        let ok = self.tokens >= 1_000_000;
        if ok {
            self.tokens -= 1_000_000;
        }
        ok
    }
}

fn stats(mib: &mut Mib, is_v4: bool) -> &mut IcmpStats {
    if is_v4 { &mut mib.icmp4 } else { &mut mib.icmp6 }
}

/// The part of a packet that an error or its receiver looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quote<'a> {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) protocol: u8,
    /// Transport header, as far as it is there; empty in a later fragment.
    pub(crate) transport: &'a [u8],
    /// Total length by the header.
    pub(crate) packet_len: usize,
    first_fragment: bool,
}

impl<'a> Quote<'a> {
    /// Reads the headers of a packet that may be cut off; `None` if even the IP header is.
    pub(crate) fn parse(packet: &'a [u8]) -> Option<Quote<'a>> {
        match packet.first()? >> 4 {
            4 => Quote::parse_v4(packet),
            6 => Quote::parse_v6(packet),
            _ => None,
        }
    }

    fn parse_v4(p: &'a [u8]) -> Option<Quote<'a>> {
        let header_len = usize::from(p[0] & 15) * 4;
        if header_len < IPV4_LEN || p.len() < header_len {
            return None;
        }
        let addr = |at: usize| IpAddr::from([p[at], p[at + 1], p[at + 2], p[at + 3]]);
        let first_fragment = u16::from_be_bytes([p[6], p[7]]) << 3 == 0;
        Some(Quote {
            src: addr(12),
            dst: addr(16),
            protocol: p[9],
            transport: if first_fragment { &p[header_len..] } else { &[] },
            packet_len: usize::from(u16::from_be_bytes([p[2], p[3]])),
            first_fragment,
        })
    }

    fn parse_v6(p: &'a [u8]) -> Option<Quote<'a>> {
        let header: &[u8; IPV6_LEN] = p.first_chunk()?;
        let octets = |at: usize| -> Option<[u8; 16]> { header.get(at..at + 16)?.try_into().ok() };
        let (mut next, mut at, mut first_fragment) = (header[6], IPV6_LEN, true);
        // Eight headers, as input allows.
        for _ in 0..8 {
            let len = match next {
                protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DEST_OPTIONS => {
                    8 * (usize::from(*p.get(at + 1)?) + 1)
                }
                protocol::FRAGMENT => {
                    let field = p.get(at + 2..at + 4)?;
                    first_fragment &= u16::from_be_bytes([field[0], field[1]]) >> 3 == 0;
                    8
                }
                _ => break,
            };
            next = *p.get(at)?;
            at += len;
        }
        Some(Quote {
            src: Ipv6Addr::from(octets(8)?).into(),
            dst: Ipv6Addr::from(octets(24)?).into(),
            protocol: next,
            transport: if first_fragment { p.get(at..).unwrap_or_default() } else { &[] },
            packet_len: IPV6_LEN + usize::from(u16::from_be_bytes([header[4], header[5]])),
            first_fragment,
        })
    }

    /// RFC 1122 3.2.2, RFC 4443 2.4 (e): packets that never cause an error.
    fn may_be_answered(&self, ip: &Ip, problem: Problem) -> bool {
        let to_many = self.dst.is_multicast() || ip.is_broadcast(self.dst);
        let src_is_one = match self.src {
            IpAddr::V4(a) => {
                !a.is_unspecified() && !a.is_multicast() && !a.is_loopback() && a.octets()[0] < 240
            }
            IpAddr::V6(a) => !a.is_unspecified() && !a.is_multicast() && !a.is_loopback(),
        };
        let kind = self.transport.first().copied();
        let about_error = match (self.protocol, kind) {
            (protocol::ICMP, Some(kind)) => kind != v4::ECHO && (3..=12).contains(&kind),
            (protocol::ICMPV6, Some(kind)) => kind < 128 || kind == v6::REDIRECT,
            (protocol::ICMP | protocol::ICMPV6, None) => true,
            _ => false,
        };
        (!to_many || (problem.even_to_many() && self.src.is_ipv6()))
            && src_is_one
            && !about_error
            && self.first_fragment
            && !ip.is_broadcast(self.src)
    }
}

/// Reports a problem to the sender of `packet` (its IP header at the front, as much as is there),
/// which came in on `alias`, unless that is forbidden or over the rate limit.
pub(crate) fn send_error(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    alias: AliasId,
    problem: Problem,
    packet: &[u8],
) {
    let Some(quote) = Quote::parse(packet) else { return };
    if !quote.may_be_answered(ip, problem) {
        return;
    }
    let is_v4 = quote.src.is_ipv4();
    if !ip.error_limit.take(ctx.now, ctx.limits.icmp_errors_per_second) {
        stats(ctx.mib, is_v4).out_rate_limited += 1;
        return;
    }
    let dst = quote.src;
    let alias = needs_alias(dst).then_some(alias);
    let src = if ip.is_local(quote.dst) {
        quote.dst
    } else {
        match ip.resolve(ctx.now, None, dst, alias.into()) {
            Ok(way) => way.src,
            Err(_) => return,
        }
    };
    let Some(mut frame) = ctx.pool.alloc() else {
        return ctx.drop_out(DropReason::FramePoolEmpty);
    };
    let (kind, code, word) = if is_v4 { problem.v4() } else { problem.v6() };
    let room = frame.tailroom().saturating_sub(ERROR_HEADER_LEN);
    let allowed = if is_v4 { IPV4_ERROR_BYTES - IPV4_LEN } else { IPV6_ERROR_BYTES - IPV6_LEN };
    let quoted = packet.len().min(room).min(allowed - ERROR_HEADER_LEN);
    if frame.tailroom() < ERROR_HEADER_LEN {
        return ctx.drop_out(DropReason::FramePoolEmpty);
    }
    let header = frame.push_back(ERROR_HEADER_LEN);
    header[..4].copy_from_slice(&[kind, code, 0, 0]);
    header[4..].copy_from_slice(&word.to_be_bytes());
    frame.append(&packet[..quoted]);
    count_out_error(stats(ctx.mib, is_v4), problem);
    // A packet whose transport checksum was left to the device is quoted as it is.
    send_message(ctx, link, ip, (src, dst), alias, frame);
}

fn count_out_error(stats: &mut IcmpStats, problem: Problem) {
    match problem {
        Problem::TooBig { .. } => stats.out_pkt_too_bigs += 1,
        Problem::HopLimitExceeded | Problem::ReassemblyTimeout => stats.out_time_excds += 1,
        Problem::Parameter { .. } => {}
        _ => stats.out_dest_unreachs += 1,
    }
}

/// Destinations that mean nothing without the link they are on.
fn needs_alias(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(a) if a.is_unicast_link_local() || a.is_multicast())
}

/// Writes the checksum of an ICMP message and sends it.
fn send_message(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    (src, dst): (IpAddr, IpAddr),
    alias: Option<AliasId>,
    mut frame: Frame,
) {
    let is_v4 = src.is_ipv4();
    let number = if is_v4 { protocol::ICMP } else { protocol::ICMPV6 };
    frame.data_mut()[2..4].fill(0);
    let initial = if is_v4 { 0 } else { checksum::pseudo(src, dst, number, frame.total_len()) };
    let sum = checksum::finish(frame_sum::sum_from(initial, &frame, 0));
    frame.data_mut()[2..4].copy_from_slice(&sum.to_be_bytes());
    frame.meta.checksum = Checksum::Complete;
    stats(ctx.mib, is_v4).out_msgs += 1;
    let out = OutPacket {
        src,
        dst,
        protocol: number,
        traffic_class: 0,
        hop_limit: None,
        dont_fragment: false,
        alias,
        mark: 0,
    };
    if ip.mapped {
        ctx.leave_to_path(out, frame);
        return;
    }
    // A loss is counted there.
    let _ = output::send(ctx, link, ip, &out, frame);
}

/// An ICMP or ICMPv6 message for us; `frame` starts with it.
pub(crate) fn input(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    packet: &InPacket,
    mut frame: Frame,
) -> Input {
    let is_v4 = packet.src.is_ipv4();
    stats(ctx.mib, is_v4).in_msgs += 1;
    if frame.len() < ERROR_HEADER_LEN - 4 || (is_v4 && frame.len() < ERROR_HEADER_LEN) {
        stats(ctx.mib, is_v4).in_errors += 1;
        return Input::Done(Fate::Dropped(DropReason::IcmpMalformed));
    }
    frame_sum::complete(&mut frame);
    if frame.meta.checksum != Checksum::Verified && !checksum_is_right(packet, &frame) {
        stats(ctx.mib, is_v4).in_errors += 1;
        return Input::Done(Fate::Dropped(DropReason::IcmpChecksumBad));
    }
    if is_v4 {
        input_v4(ctx, link, ip, packet, frame)
    } else {
        input_v6(ctx, link, ip, packet, frame)
    }
}

fn checksum_is_right(packet: &InPacket, frame: &Frame) -> bool {
    if packet.src.is_ipv4() {
        checksum::is_valid(frame_sum::sum_from(0, frame, 0))
    } else {
        frame_sum::is_valid(packet.src, packet.dst, protocol::ICMPV6, frame)
    }
}

fn input_v4(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    packet: &InPacket,
    frame: Frame,
) -> Input {
    let (kind, code) = (frame.data()[0], frame.data()[1]);
    let counters = &mut ctx.mib.icmp4;
    match kind {
        v4::ECHO => {
            counters.in_echos += 1;
            // RFC 1122 3.2.2.6 allows silence to broadcasts, and smurfs advise it.
            if packet.to_many {
                return Input::Done(Fate::Dropped(DropReason::IcmpEchoSuppressed));
            }
            if let Some(fate) = refuses_echo(ctx, link, ip, packet, &frame) {
                return Input::Done(fate);
            }
            echo(ctx, link, ip, packet, v4::ECHO_REPLY, frame)
        }
        v4::ECHO_REPLY => {
            counters.in_echo_reps += 1;
            Input::EchoReply(*packet, frame)
        }
        v4::UNREACHABLE => {
            let kind = match code {
                0 | 6 | 11 => IcmpErrorKind::NetUnreachable,
                2 => IcmpErrorKind::ProtocolUnreachable,
                3 => IcmpErrorKind::PortUnreachable,
                4 => {
                    counters.in_pkt_too_bigs += 1;
                    IcmpErrorKind::TooBig { mtu: mtu_v4(frame.data()) }
                }
                9 | 10 | 13 => IcmpErrorKind::AdminProhibited,
                _ => IcmpErrorKind::HostUnreachable,
            };
            counters.in_dest_unreachs += 1;
            Input::Error(kind, packet.src, frame)
        }
        v4::TIME_EXCEEDED => {
            counters.in_time_excds += 1;
            Input::Error(IcmpErrorKind::TimeExceeded, packet.src, frame)
        }
        v4::PARAMETER_PROBLEM => Input::Error(IcmpErrorKind::ParameterProblem, packet.src, frame),
        // RFC 6633 and RFC 1122 3.2.2.2: quench is ignored, hosts here take no redirects.
        v4::SOURCE_QUENCH | v4::REDIRECT => Input::Done(Fate::Dropped(DropReason::IcmpTypeUnknown)),
        _ => Input::Done(Fate::Dropped(DropReason::IcmpTypeUnknown)),
    }
}

fn input_v6(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    packet: &InPacket,
    frame: Frame,
) -> Input {
    let (kind, code) = (frame.data()[0], frame.data()[1]);
    let counters = &mut ctx.mib.icmp6;
    if kind < 128 && frame.len() < ERROR_HEADER_LEN {
        counters.in_errors += 1;
        return Input::Done(Fate::Dropped(DropReason::IcmpMalformed));
    }
    match kind {
        v6::UNREACHABLE => {
            counters.in_dest_unreachs += 1;
            let kind = match code {
                0 => IcmpErrorKind::NetUnreachable,
                1 | 5 | 6 => IcmpErrorKind::AdminProhibited,
                4 => IcmpErrorKind::PortUnreachable,
                _ => IcmpErrorKind::HostUnreachable,
            };
            Input::Error(kind, packet.src, frame)
        }
        v6::TOO_BIG => {
            counters.in_pkt_too_bigs += 1;
            let mtu = u32::from_be_bytes(*frame.data()[4..].first_chunk().unwrap_or(&[0; 4]));
            // RFC 8201 4: no link has less, so nobody can mean it.
            if (mtu as usize) < IPV6_MIN {
                counters.in_errors += 1;
                return Input::Done(Fate::Dropped(DropReason::IcmpMalformed));
            }
            Input::Error(IcmpErrorKind::TooBig { mtu: mtu as usize }, packet.src, frame)
        }
        v6::TIME_EXCEEDED => {
            counters.in_time_excds += 1;
            Input::Error(IcmpErrorKind::TimeExceeded, packet.src, frame)
        }
        v6::PARAMETER_PROBLEM if code == 1 => {
            Input::Error(IcmpErrorKind::ProtocolUnreachable, packet.src, frame)
        }
        v6::PARAMETER_PROBLEM => Input::Error(IcmpErrorKind::ParameterProblem, packet.src, frame),
        v6::ECHO => {
            counters.in_echos += 1;
            if let Some(fate) = refuses_echo(ctx, link, ip, packet, &frame) {
                return Input::Done(fate);
            }
            echo(ctx, link, ip, packet, v6::ECHO_REPLY, frame)
        }
        v6::ECHO_REPLY => {
            counters.in_echo_reps += 1;
            Input::EchoReply(*packet, frame)
        }
        v6::MLD_QUERY..=v6::MLD_DONE | v6::MLDV2_REPORT => {
            Input::Done(multicast::input_mld(ctx, ip, packet, &frame))
        }
        v6::ROUTER_SOLICIT..=v6::REDIRECT => Input::Done(ndp::input(ctx, link, ip, packet, frame)),
        _ => Input::Done(Fate::Dropped(DropReason::IcmpTypeUnknown)),
    }
}

/// Whether access rules refuse an echo request.
fn refuses_echo(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    packet: &InPacket,
    frame: &Frame,
) -> Option<Fate> {
    let refusal = lower::refuses(ctx, ip, packet, 0, 1)?;
    if refusal != Refusal::Drop && !packet.to_many {
        let problem = Problem::AdminProhibited;
        send_error(ctx, link, ip, packet.alias, problem, frame.network_header());
    }
    Some(Fate::Dropped(refusal.reason()))
}

/// Answers an echo request in its own frame, from the address that was asked.
fn echo(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    packet: &InPacket,
    reply: u8,
    mut frame: Frame,
) -> Input {
    let dst = packet.src;
    let alias = needs_alias(dst).then_some(packet.alias);
    let src = if packet.to_many {
        match ip.resolve(ctx.now, None, dst, Some(packet.alias).into()) {
            Ok(way) => way.src,
            Err(reason) => return Input::Done(Fate::Dropped(reason)),
        }
    } else {
        packet.dst
    };
    frame.data_mut()[0] = reply;
    stats(ctx.mib, dst.is_ipv4()).out_echo_reps += 1;
    let frame = with_headroom(frame);
    send_message(ctx, link, ip, (src, dst), alias, frame);
    Input::Done(Fate::Consumed)
}

/// A received frame with room for the headers of the way out.
pub(crate) fn with_headroom(frame: Frame) -> Frame {
    // IPv6, Ethernet with a tag.
    const NEEDED_BYTES: usize = 64;
    if frame.headroom() >= NEEDED_BYTES {
        return frame;
    }
    let mut copy = Frame::heap_with_capacity(crate::frame::HEADROOM_BYTES, frame.total_len());
    let n = frame.total_len();
    frame.copy_to(copy.push_back(n));
    copy.meta = frame.meta;
    copy
}

/// The MTU a router told (RFC 1191 4), or guessed by its plateau table (7.1) from old ones.
fn mtu_v4(message: &[u8]) -> usize {
    const PLATEAUS: [usize; 10] = [32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68];
    let told = usize::from(u16::from_be_bytes([message[6], message[7]]));
    if told != 0 {
        return told;
    }
    let sent = Quote::parse(&message[ERROR_HEADER_LEN..]).map_or(0, |q| q.packet_len);
    PLATEAUS.into_iter().find(|p| *p < sent).unwrap_or(68)
}

/// The packet that an error quotes; `message` starts with the ICMP header.
pub(crate) fn quoted(message: &[u8]) -> Option<Quote<'_>> {
    let quote = Quote::parse(message.get(ERROR_HEADER_LEN..)?)?;
    // Both ports, at least (RFC 792: 8 bytes).
    (quote.transport.len() >= 8).then_some(quote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_limited_to_the_rate() {
        let t0 = Instant::from_millis(5);
        let mut limit = ErrorLimit::new(t0, 100);
        assert_eq!((0..1000).filter(|_| limit.take(t0, 100)).count(), 100);
        let later = Instant::from_millis(55);
        assert_eq!((0..1000).filter(|_| limit.take(later, 100)).count(), 5);
        let hour = Instant::from_millis(3_600_000);
        assert_eq!((0..1000).filter(|_| limit.take(hour, 100)).count(), 100);
    }

    #[test]
    fn old_routers_are_guessed_by_plateau() {
        let mut message = vec![3, 4, 0, 0, 0, 0, 0, 0];
        let mut packet = vec![0u8; 28];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&1500u16.to_be_bytes());
        message.extend_from_slice(&packet);
        assert_eq!(mtu_v4(&message), 1492);
        message[6..8].copy_from_slice(&1280u16.to_be_bytes());
        assert_eq!(mtu_v4(&message), 1280);
    }
}
