//! Packets on their way out: header, fragments, loop or link.

use core::hash::{Hash, Hasher};
use core::net::IpAddr;

use super::address::Alias;
use super::rule::{Flow, Via};
use super::{Ip, NextHop, Way};
use crate::ctx::Ctx;
use crate::drop::DropReason;
use crate::frame::{Checksum, Frame, Gso};
use crate::hash::FoldHasher;
use crate::link::Link;
use crate::lower::OutPacket;
use crate::stats::{IpStats, Mib};
use crate::wire::header::{DF, IPV4_LEN, IPV6_LEN, IpHeader, MF};
use crate::wire::{frame_sum, protocol};

const FRAGMENT_HEADER_LEN: usize = 8;
/// The most an IP packet can carry: 16 bits of length. IPv6 does not count its header.
const LENGTH_MAX: usize = 0xffff;

/// The counters of a family.
pub(crate) fn stats(mib: &mut Mib, is_v4: bool) -> &mut IpStats {
    if is_v4 { &mut mib.ip4 } else { &mut mib.ip6 }
}

pub(crate) fn header_len(addr: IpAddr) -> usize {
    if addr.is_ipv4() { IPV4_LEN } else { IPV6_LEN }
}

/// Sends a packet whose transport header stands at the front of `frame`. Losses are counted here.
pub(crate) fn send(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    out: &OutPacket,
    frame: Frame,
) -> Result<(), DropReason> {
    let is_v4 = out.dst.is_ipv4();
    stats(ctx.mib, is_v4).out_requests += 1;
    let result = try_send(ctx, link, ip, out, frame);
    if let Err(reason) = result {
        count_loss(ctx, is_v4, reason);
    }
    result
}

fn count_loss(ctx: &mut Ctx<'_>, is_v4: bool, reason: DropReason) {
    let stats = stats(ctx.mib, is_v4);
    match reason {
        DropReason::IpNoRoute
        | DropReason::IpNoSourceAddress
        | DropReason::RuleProhibit
        | DropReason::RuleBlackhole
        | DropReason::RuleUnreachable => stats.out_no_routes += 1,
        DropReason::IpTooBig => stats.frag_fails += 1,
        _ => stats.out_discards += 1,
    }
    ctx.drop_out(reason);
}

/// Of a frame that starts with the transport header.
pub(crate) fn flow_of(number: u8, frame: &Frame) -> Flow {
    let ports = frame.data().first_chunk::<4>();
    match (number, ports) {
        (protocol::TCP | protocol::UDP, Some([a, b, c, d])) => {
            (number, u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]))
        }
        _ => (number, 0, 0),
    }
}

/// What keeps the packets of a flow on one queue and one bond member; never 0.
pub(crate) fn flow_hash(src: IpAddr, dst: IpAddr, number: u8, frame: &Frame) -> u32 {
    flow_hash_from(addresses_hash(src, dst), number, frame)
}

/// The addresses' part of it.
pub(super) fn addresses_hash(src: IpAddr, dst: IpAddr) -> FoldHasher {
    let mut hasher = FoldHasher::default();
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            hasher.write_u64(u64::from(src.to_bits()) << 32 | u64::from(dst.to_bits()));
        }
        (src, dst) => (src, dst).hash(&mut hasher),
    }
    hasher
}

/// The rest of it.
#[inline]
pub(super) fn flow_hash_from(mut hasher: FoldHasher, number: u8, frame: &Frame) -> u32 {
    let ports = match frame.data().first_chunk::<4>() {
        Some(ports) if matches!(number, protocol::TCP | protocol::UDP) => {
            u32::from_ne_bytes(*ports)
        }
        _ => 0,
    };
    hasher.write_u64(u64::from(number) << 32 | u64::from(ports));
    ((hasher.finish() >> 32) as u32).max(1)
}

fn try_send(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    out: &OutPacket,
    mut frame: Frame,
) -> Result<(), DropReason> {
    if out.src.is_ipv4() != out.dst.is_ipv4() {
        return Err(DropReason::IpNoSourceAddress);
    }
    if frame.meta.flow_hash == 0 {
        frame.meta.flow_hash = flow_hash(out.src, out.dst, out.protocol, &frame);
    }
    let src = (!out.src.is_unspecified()).then_some(out.src);
    let services = ip.services_of(|| flow_of(out.protocol, &frame));
    let via = Via { alias: out.alias, mark: out.mark, class: out.traffic_class, services };
    let way = ip.resolve(ctx.now, src, out.dst, via)?;
    let default_hops = if out.dst.is_multicast() { 1 } else { way.hop_limit };
    let hop_limit = out.hop_limit.unwrap_or(default_hops);
    let mut header = IpHeader::new(out.src, out.dst, out.protocol, hop_limit);
    header.traffic_class = out.traffic_class;
    let len = frame.total_len() + header_len(out.dst);
    let is_super = frame.meta.gso != Gso::None;
    if !is_super && !out.dont_fragment && len > way.mtu {
        return fragment(ctx, link, ip, &way, &header, frame);
    }
    if way.local {
        header.push(&mut frame);
        return loop_back(ctx, &way, frame);
    }
    let Some(alias) = ip.aliases.get(&way.alias) else { return Err(DropReason::AliasUnknown) };
    if is_super {
        if frame.total_len() > alias.config.gso_bytes_max {
            return Err(DropReason::IpTooBig);
        }
    } else if len > way.mtu {
        return Err(DropReason::IpTooBig);
    }
    if !alias.config.tx_checksum {
        frame_sum::complete(&mut frame);
    }
    header.push(&mut frame);
    let stats = stats(ctx.mib, out.dst.is_ipv4());
    stats.out_transmits += 1;
    stats.out_octets += len as u64;
    link.output(ctx, alias, way.next_hop, frame)
}

/// A packet to one of our own addresses: `Stack` takes it up again.
fn loop_back(ctx: &mut Ctx<'_>, way: &Way, frame: Frame) -> Result<(), DropReason> {
    if ctx.outbox.looped.len() >= ctx.limits.out_queue {
        return Err(DropReason::OutQueueFull);
    }
    let stats = stats(ctx.mib, way.src.is_ipv4());
    stats.out_transmits += 1;
    stats.out_octets += frame.total_len() as u64;
    ctx.outbox.looped.push_back((way.alias, frame));
    Ok(())
}

/// Cuts a packet into fragments and sends them. Either all are sent, or the packet is lost.
fn fragment(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    way: &Way,
    header: &IpHeader,
    mut frame: Frame,
) -> Result<(), DropReason> {
    let is_v4 = header.dst.is_ipv4();
    let overhead = header_len(header.dst) + if is_v4 { 0 } else { FRAGMENT_HEADER_LEN };
    let headers_counted = if is_v4 { IPV4_LEN } else { FRAGMENT_HEADER_LEN };
    let total = frame.total_len();
    let step = way.mtu.saturating_sub(overhead) & !7;
    if total + headers_counted > LENGTH_MAX || step == 0 {
        return Err(DropReason::IpTooBig);
    }
    if total.div_ceil(step) > ctx.out_room() {
        return Err(DropReason::OutQueueFull);
    }
    frame_sum::complete(&mut frame);
    frame.meta.checksum = Checksum::Complete;
    // RFC 6864 4.1, RFC 7739: unpredictable, and not soon again.
    let ident = ctx.rng.next_u32();
    let mut source = Pieces { frame: &frame, offset: 0 };
    while source.offset < total {
        let offset = source.offset;
        let take = step.min(total - offset);
        let more = offset + take < total;
        let mut piece = piece_frame(ctx, take + overhead);
        piece.meta.flow_hash = frame.meta.flow_hash;
        source.copy(piece.push_back(take));
        push_headers(&mut piece, header, ident, offset, more);
        send_fragment(ctx, link, ip, way, piece)?;
    }
    let stats = stats(ctx.mib, is_v4);
    stats.frag_oks += 1;
    Ok(())
}

fn send_fragment(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    ip: &mut Ip,
    way: &Way,
    piece: Frame,
) -> Result<(), DropReason> {
    stats(ctx.mib, way.src.is_ipv4()).frag_creates += 1;
    if way.local {
        return loop_back(ctx, way, piece);
    }
    let stats = stats(ctx.mib, way.src.is_ipv4());
    stats.out_transmits += 1;
    stats.out_octets += piece.len() as u64;
    let alias = ip.aliases.get(&way.alias).ok_or(DropReason::AliasUnknown)?;
    link.output(ctx, alias, way.next_hop, piece)
}

/// A frame with tailroom for `bytes`: from the pool, or from the heap if the pool cannot.
fn piece_frame(ctx: &mut Ctx<'_>, bytes: usize) -> Frame {
    match ctx.pool.alloc() {
        Some(frame) if frame.tailroom() >= bytes => frame,
        _ => Frame::heap_with_capacity(crate::frame::HEADROOM_BYTES, bytes),
    }
}

/// Cuts a packet above the path layer: pieces whose data, an IPv6 fragment header in front, is at
/// most `room` bytes. The packet's checksum is complete.
pub(crate) fn cut_above(
    ctx: &mut Ctx<'_>,
    number: u8,
    room: usize,
    frame: &Frame,
) -> Result<Vec<Frame>, DropReason> {
    let total = frame.total_len();
    let step = room.saturating_sub(FRAGMENT_HEADER_LEN) & !7;
    if total + FRAGMENT_HEADER_LEN > LENGTH_MAX || step == 0 {
        return Err(DropReason::IpTooBig);
    }
    let count = total.div_ceil(step);
    if count > ctx.out_room() {
        return Err(DropReason::OutQueueFull);
    }
    let ident = ctx.rng.next_u32();
    let mut source = Pieces { frame, offset: 0 };
    let mut pieces = Vec::with_capacity(count);
    while source.offset < total {
        let offset = source.offset;
        let take = step.min(total - offset);
        let mut piece = piece_frame(ctx, take);
        piece.meta.flow_hash = frame.meta.flow_hash;
        source.copy(piece.push_back(take));
        push_fragment_header(&mut piece, number, ident, offset, offset + take < total);
        pieces.push(piece);
    }
    Ok(pieces)
}

fn push_fragment_header(piece: &mut Frame, number: u8, ident: u32, offset: usize, more: bool) {
    let field = offset as u16 | u16::from(more);
    let h = piece.push_front(FRAGMENT_HEADER_LEN);
    h[0] = number;
    h[1] = 0;
    h[2..4].copy_from_slice(&field.to_be_bytes());
    h[4..8].copy_from_slice(&ident.to_be_bytes());
}

fn push_headers(piece: &mut Frame, header: &IpHeader, ident: u32, offset: usize, more: bool) {
    let mut header = *header;
    if header.dst.is_ipv4() {
        header.ident = (ident >> 16) as u16;
        header.flags_offset = (offset / 8) as u16 | if more { MF } else { 0 };
    } else {
        push_fragment_header(piece, header.protocol, ident, offset, more);
        header.protocol = protocol::FRAGMENT;
    }
    header.push(piece);
}

/// Reads a frame's linear data and fragments one piece after the other.
struct Pieces<'a> {
    frame: &'a Frame,
    offset: usize,
}

impl Pieces<'_> {
    fn copy(&mut self, out: &mut [u8]) {
        let mut done = 0;
        let mut start = 0;
        let parts = core::iter::once(self.frame.data()).chain(&self.frame.frags);
        for part in parts {
            let end = start + part.len();
            let from = self.offset + done;
            if from < end && done < out.len() {
                let n = (end - from).min(out.len() - done);
                out[done..done + n].copy_from_slice(&part[from - start..from - start + n]);
                done += n;
            }
            start = end;
        }
        self.offset += done;
    }
}

/// Cuts an IPv4 packet that is being forwarded (its header at the front, DF clear).
pub(super) fn refragment(
    ctx: &mut Ctx<'_>,
    link: &mut Link,
    alias: &Alias,
    hop: &NextHop,
    frame: &Frame,
) -> Result<(), DropReason> {
    let data = frame.data();
    let head_len = usize::from(data[0] & 15) * 4;
    let step = hop.mtu.saturating_sub(head_len) & !7;
    let payload = &data[head_len..];
    if step == 0 || !frame.frags.is_empty() {
        return Err(DropReason::IpTooBig);
    }
    let field = u16::from_be_bytes([data[6], data[7]]);
    let (start, was_more) = (usize::from(field & 0x1fff) * 8, field & MF != 0);
    if start + payload.len() > LENGTH_MAX {
        // Offsets of its pieces would run into the flags.
        return Err(DropReason::FragmentMalformed);
    }
    for (i, part) in payload.chunks(step).enumerate() {
        let more = was_more || (i + 1) * step < payload.len();
        let mut piece = piece_frame(ctx, part.len() + head_len);
        piece.append(part);
        let h = piece.push_front(head_len);
        h.copy_from_slice(&data[..head_len]);
        let offset = (start + i * step) / 8;
        let field = offset as u16 | if more { MF } else { 0 };
        h[2..4].copy_from_slice(&((head_len + part.len()) as u16).to_be_bytes());
        h[6..8].copy_from_slice(&field.to_be_bytes());
        h[10..12].fill(0);
        let sum = crate::wire::checksum::finish(crate::wire::checksum::sum(h));
        h[10..12].copy_from_slice(&sum.to_be_bytes());
        piece.mark_network_header();
        ctx.mib.ip4.frag_creates += 1;
        link.output(ctx, alias, hop.addr, piece)?;
    }
    debug_assert!(field & DF == 0);
    ctx.mib.ip4.frag_oks += 1;
    Ok(())
}
