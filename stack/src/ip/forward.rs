//! Packets between aliases, where the vserver's configuration says so (RFC 1812, RFC 8200).

use core::net::IpAddr;

use super::address::AliasId;
use super::icmp::{self, Problem};
use super::{Ip, extension, output};
use crate::ctx::{Ctx, Fate};
use crate::drop::DropReason;
use crate::frame::{Checksum, Frame, Gso};
use crate::link::Link;
use crate::wire::header::DF;
use crate::wire::{checksum, frame_sum};

/// A valid packet for somebody else, its IP header at the front.
pub(super) fn forward(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    came_by: AliasId,
    (src, dst): (IpAddr, IpAddr),
    frame: Frame,
) -> Fate {
    let mut problem = None;
    // An error quotes the packet as it came; headers change below.
    let mut head = [0u8; 128];
    let head_len = frame.len().min(head.len());
    head[..head_len].copy_from_slice(&frame.data()[..head_len]);
    match try_forward(ctx, link, ip, (src, dst), frame, &mut problem) {
        Ok(()) => {
            output::stats(ctx.mib, dst.is_ipv4()).forw_datagrams += 1;
            Fate::Forwarded
        }
        Err(reason) => {
            let stats = output::stats(ctx.mib, dst.is_ipv4());
            match reason {
                DropReason::IpNoRoute => stats.in_no_routes += 1,
                DropReason::IpTtlExceeded => stats.in_hdr_errors += 1,
                DropReason::IpTooBig => stats.frag_fails += 1,
                _ => stats.out_discards += 1,
            }
            if let Some(problem) = problem {
                icmp::send_error(ctx, link, ip, came_by, problem, &head[..head_len]);
            }
            Fate::Dropped(reason)
        }
    }
}

/// Packets that never leave their link (RFC 3927 7, RFC 4291 2.5.6).
fn stays_on_link(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => a.is_link_local() || a.is_unspecified() || a.is_loopback(),
        IpAddr::V6(a) => a.is_unicast_link_local() || a.is_unspecified() || a.is_loopback(),
    }
}

fn try_forward(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    (src, dst): (IpAddr, IpAddr),
    mut frame: Frame,
    problem: &mut Option<Problem>,
) -> Result<(), DropReason> {
    if stays_on_link(src) || stays_on_link(dst) {
        return Err(DropReason::IpDestinationNotOurs);
    }
    if dst.is_ipv6()
        && let Err(refusal) = extension::hop_by_hop(frame.data(), false)
    {
        *problem = refusal.problem.map(|(code, pointer)| Problem::Parameter { code, pointer });
        return Err(refusal.reason);
    }
    let ttl_at = if dst.is_ipv4() { 8 } else { 7 };
    if frame.data()[ttl_at] <= 1 {
        *problem = Some(Problem::HopLimitExceeded);
        return Err(DropReason::IpTtlExceeded);
    }
    let route = ip.route_to(dst, None).inspect_err(|_| *problem = Some(Problem::NoRoute))?;
    let mtu = route.mtu;
    let alias = ip.aliases.get(&route.alias).ok_or(DropReason::AliasUnknown)?;
    let super_len = alias.config.gso_bytes_max;
    let tx_checksum = alias.config.tx_checksum;
    let len = frame.total_len();
    if frame.meta.gso != Gso::None && len > super_len {
        return Err(DropReason::FrameTooLong);
    }
    let too_big = frame.meta.gso == Gso::None && len > mtu;
    let may_cut = dst.is_ipv4() && u16::from_be_bytes([frame.data()[6], frame.data()[7]]) & DF == 0;
    if too_big && !may_cut {
        *problem = Some(Problem::TooBig { mtu });
        return Err(DropReason::IpTooBig);
    }
    decrement(&mut frame, ttl_at);
    if !tx_checksum {
        frame_sum::complete(&mut frame);
    }
    if frame.meta.checksum == Checksum::Verified {
        frame.meta.checksum = Checksum::Complete;
    }
    let stats = output::stats(ctx.mib, dst.is_ipv4());
    stats.out_transmits += 1;
    stats.out_octets += len as u64;
    if too_big {
        frame_sum::complete(&mut frame);
        return output::refragment(ctx, link, ip, (route.alias, route.addr), mtu, &frame);
    }
    let mut frame = icmp::with_headroom(frame);
    frame.mark_network_header();
    let alias = ip.aliases.get(&route.alias).ok_or(DropReason::AliasUnknown)?;
    link.output(ctx, alias, route.addr, frame)
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
