//! Packets between aliases, where the vserver's configuration says so (RFC 1812, RFC 8200).

use core::net::IpAddr;

use super::address::AliasId;
use super::icmp::{self, Problem};
use super::rule::Via;
use super::{Ip, NextHop, extension, output};
use crate::ctx::{Ctx, Fate};
use crate::drop::DropReason;
use crate::frame::{Checksum, Frame, Gso};
use crate::link::Link;
use crate::wire::header::{DF, IPV6_LEN};
use crate::wire::{checksum, frame_sum};

const UDP_LEN: usize = 8;

/// Why a packet is not forwarded, and what its sender is told.
struct Refused {
    reason: DropReason,
    problem: Option<Problem>,
}

impl Refused {
    fn silent(reason: DropReason) -> Refused {
        Refused { reason, problem: None }
    }

    fn tell(reason: DropReason, problem: Problem) -> Refused {
        Refused { reason, problem: Some(problem) }
    }
}

/// A valid packet for somebody else, its IP header at the front.
pub(super) fn forward(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    came_by: AliasId,
    (src, dst): (IpAddr, IpAddr),
    frame: Frame,
) -> Fate {
    let refused = match check(ip, came_by, (src, dst), &frame) {
        Ok(hop) => match send(ctx, link, ip, &hop, dst, frame) {
            Ok(()) => {
                output::stats(ctx.mib, dst.is_ipv4()).forw_datagrams += 1;
                return Fate::Forwarded;
            }
            Err(reason) => Refused::silent(reason),
        },
        Err(refused) => {
            if let Some(problem) = refused.problem {
                icmp::send_error(ctx, link, ip, came_by, problem, frame.data());
            }
            refused
        }
    };
    let stats = output::stats(ctx.mib, dst.is_ipv4());
    match refused.reason {
        DropReason::IpNoRoute
        | DropReason::RuleProhibit
        | DropReason::RuleBlackhole
        | DropReason::RuleUnreachable => stats.in_no_routes += 1,
        DropReason::IpDestinationNotOurs => stats.in_addr_errors += 1,
        DropReason::IpTtlExceeded
        | DropReason::IpExtensionMalformed
        | DropReason::IpExtensionUnknown => stats.in_hdr_errors += 1,
        DropReason::IpTooBig => stats.frag_fails += 1,
        _ => stats.out_discards += 1,
    }
    Fate::Dropped(refused.reason)
}

/// Packets that never leave their link (RFC 3927 7, RFC 4291 2.5.6).
fn stays_on_link(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => a.is_link_local() || a.is_unspecified() || a.is_loopback(),
        IpAddr::V6(a) => a.is_unicast_link_local() || a.is_unspecified() || a.is_loopback(),
    }
}

/// As Linux answers for what rules refuse.
fn no_way(reason: DropReason) -> Refused {
    match reason {
        DropReason::RuleBlackhole => Refused::silent(reason),
        DropReason::RuleProhibit => Refused::tell(reason, Problem::Prohibited),
        DropReason::RuleUnreachable => Refused::tell(reason, Problem::HostUnreachable),
        _ => Refused::tell(reason, Problem::NoRoute),
    }
}

fn traffic_class(dst: IpAddr, frame: &Frame) -> u8 {
    match (frame.data(), dst) {
        ([_, class, ..], IpAddr::V4(_)) => *class,
        ([high, low, ..], IpAddr::V6(_)) => high << 4 | low >> 4,
        _ => 0,
    }
}

fn ttl_at(dst: IpAddr) -> usize {
    if dst.is_ipv4() { 8 } else { 7 }
}

/// Everything that can be wrong before a byte of the packet changes.
fn check(
    ip: &Ip,
    came_by: AliasId,
    (src, dst): (IpAddr, IpAddr),
    frame: &Frame,
) -> Result<NextHop, Refused> {
    if stays_on_link(src) || stays_on_link(dst) {
        return Err(Refused::silent(DropReason::IpDestinationNotOurs));
    }
    if dst.is_ipv6()
        && let Err(refusal) = extension::hop_by_hop(frame.data(), false)
    {
        let parameter = |(code, pointer)| Problem::Parameter { code, pointer };
        return Err(Refused { reason: refusal.reason, problem: refusal.problem.map(parameter) });
    }
    if frame.data()[ttl_at(dst)] <= 1 {
        return Err(Refused::tell(DropReason::IpTtlExceeded, Problem::HopLimitExceeded));
    }
    let by =
        Via { alias: None, mark: frame.meta.mark, class: traffic_class(dst, frame), services: 0 };
    let hop = ip.hop_forward(src, dst, came_by, by).map_err(no_way)?;
    let len = frame.total_len();
    if frame.meta.gso != Gso::None {
        let takes = ip.aliases.get(&hop.alias).map_or(0, |a| a.config.gso_bytes_max);
        if segment_len(frame, dst).is_none_or(|segment| segment > hop.mtu) {
            let problem = Problem::TooBig { mtu: hop.mtu };
            return Err(Refused::tell(DropReason::IpTooBig, problem));
        }
        let fits = len <= takes;
        return if fits { Ok(hop) } else { Err(Refused::silent(DropReason::FrameTooLong)) };
    }
    if len > hop.mtu && !may_cut(dst, frame) {
        let problem = Problem::TooBig { mtu: hop.mtu };
        return Err(Refused::tell(DropReason::IpTooBig, problem));
    }
    Ok(hop)
}

/// Bytes of each packet that a super-segment will be cut into; `None`: it has no whole header.
fn segment_len(frame: &Frame, dst: IpAddr) -> Option<usize> {
    let data = frame.data();
    let network = if dst.is_ipv4() { usize::from(data.first()? & 15) * 4 } else { IPV6_LEN };
    Some(match frame.meta.gso {
        Gso::None => frame.total_len(),
        Gso::Udp { size } => network + UDP_LEN + usize::from(size),
        Gso::Tcp4 { mss } | Gso::Tcp6 { mss } => {
            network + usize::from(data.get(network + 12)? >> 4) * 4 + usize::from(mss)
        }
    })
}

fn may_cut(dst: IpAddr, frame: &Frame) -> bool {
    dst.is_ipv4() && u16::from_be_bytes([frame.data()[6], frame.data()[7]]) & DF == 0
}

fn send(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &Ip,
    hop: &NextHop,
    dst: IpAddr,
    mut frame: Frame,
) -> Result<(), DropReason> {
    let alias = ip.aliases.get(&hop.alias).ok_or(DropReason::AliasUnknown)?;
    let len = frame.total_len();
    let too_big = frame.meta.gso == Gso::None && len > hop.mtu;
    decrement(&mut frame, ttl_at(dst));
    if !alias.config.tx_checksum || too_big {
        frame_sum::complete(&mut frame);
    }
    if frame.meta.checksum == Checksum::Verified {
        frame.meta.checksum = Checksum::Complete;
    }
    let stats = output::stats(ctx.mib, dst.is_ipv4());
    stats.out_transmits += 1;
    stats.out_octets += len as u64;
    if too_big {
        return output::refragment(ctx, link, alias, hop, &frame);
    }
    let mut frame = icmp::with_headroom(frame);
    frame.mark_network_header();
    link.output(ctx, alias, hop.addr, frame)
}

/// Takes one off the TTL or hop limit; the IPv4 header checksum follows (RFC 1624).
fn decrement(frame: &mut Frame, ttl_at: usize) {
    let data = frame.data_mut();
    if ttl_at == 8 {
        let old = u16::from_be_bytes([data[8], data[9]]);
        let sum = u16::from_be_bytes([data[10], data[11]]);
        let sum = checksum::replace(sum, old, old - 0x100);
        data[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    data[ttl_at] -= 1;
}
