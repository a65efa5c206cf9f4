//! Wiring of the way up: link, IP, path, transport.

use core::net::IpAddr;

use crate::ctx::{Fate, Probe};
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::ip::address::AliasId;
use crate::ip::icmp::{self, Problem, Quote};
use crate::ip::input::{self, Arrival, Glance, Input};
use crate::ip::{ndp, output};
use crate::link::LinkInput;
use crate::lower::{IcmpError, IcmpErrorKind, InPacket, Lower, Refusal};
use crate::path::PathLayer;
use crate::shard::Owner;
use crate::stack::Stack;
use crate::stats::Mib;
use crate::time::Instant;
use crate::transport::Transports;
use crate::wire::protocol;

mod datagrams;
pub(super) mod mapped;

/// Packets of the stack to itself that one call takes up.
const LOOPED_PER_CALL: usize = 256;

/// Counts what became of a frame.
pub(super) fn count(mib: &mut Mib, fate: Fate) {
    match fate {
        Fate::Delivered => mib.frames.delivered += 1,
        Fate::Forwarded => mib.frames.forwarded += 1,
        Fate::Consumed => mib.frames.consumed += 1,
        Fate::Dropped(reason) => {
            mib.frames.rx_dropped += 1;
            mib.drops.count(reason);
        }
    }
}

/// Where the time of one frame went, in ticks of the clock that was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameTicks {
    /// Link and IP; all of it if the frame got no further.
    pub below: u64,
    /// The transport, its sockets, and what the frame gave rise to.
    pub transport: u64,
}

impl<P: PathLayer> Stack<P> {
    /// As [`Stack::handle_frame`], and tells where the time went; `clock` is read three times.
    pub fn handle_frame_timed(
        &mut self,
        now: Instant,
        alias: AliasId,
        frame: Frame,
        clock: fn() -> u64,
    ) -> FrameTicks {
        let begin = clock();
        self.outbox.probe = Some(Probe { clock, transport_at: None });
        self.handle_frame(now, alias, frame);
        let end = clock();
        let reached = self.outbox.probe.take().and_then(|p| p.transport_at).unwrap_or(end);
        FrameTicks { below: reached.saturating_sub(begin), transport: end.saturating_sub(reached) }
    }
}

/// A frame from a device.
pub(super) fn frame<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    t: &mut Transports<'_>,
    alias: AliasId,
    frame: Frame,
) -> Fate {
    let mut frame = frame;
    if let Some(glance) = Glance::at(lower.ip, alias, &frame) {
        let taken = match glance.ip.protocol {
            protocol::TCP => t.tcp.input_plain(lower, &glance, frame),
            protocol::UDP if lower.path.is_transparent() => {
                t.udp.input_plain(lower, &glance, frame)
            }
            protocol::SHIM6 if !lower.path.is_transparent() => {
                t.tcp.input_rewritten(lower, &glance, frame)
            }
            _ => Err(frame),
        };
        match taken {
            Ok(fate) => return fate,
            Err(untouched) => frame = untouched,
        }
    }
    let Some(entry) = lower.ip.aliases.get(&alias) else {
        return Fate::Dropped(DropReason::AliasUnknown);
    };
    let (is_v4, frame) = match lower.link.input(&mut lower.ctx, entry, frame) {
        LinkInput::Ip4(frame) => (true, frame),
        LinkInput::Ip6(frame) => (false, frame),
        LinkInput::Done(fate) => return fate,
    };
    packet(lower, t, Arrival { alias, looped: false }, is_v4, frame)
}

/// A packet that another shard left to this one.
pub(super) fn moved<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    t: &mut Transports<'_>,
    alias: AliasId,
    looped: bool,
    frame: Frame,
) {
    lower.ctx.mib.frames.rx_frames += 1;
    lower.ctx.mib.frames.rx_bytes += frame.total_len() as u64;
    let is_v4 = frame.data().first().is_some_and(|b| b >> 4 == 4);
    let fate = packet(lower, t, Arrival { alias, looped }, is_v4, frame);
    count(lower.ctx.mib, fate);
}

/// A packet, its IP header at the front.
fn packet<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    t: &mut Transports<'_>,
    arrival: Arrival,
    is_v4: bool,
    frame: Frame,
) -> Fate {
    let input = input::input(&mut lower.ctx, lower.link, lower.ip, arrival, is_v4, frame);
    match input {
        Input::Up { packet, frame, pointer } if !lower.path.is_transparent() => {
            mapped::up(lower, t, packet, frame, pointer)
        }
        input => above(lower, t, input),
    }
}

/// What IP made of a packet, behind the path layer.
fn above<P: PathLayer>(lower: &mut Lower<'_, P>, t: &mut Transports<'_>, input: Input) -> Fate {
    match input {
        Input::Done(fate) => match (fate, show(lower, t, fate)) {
            (Fate::Dropped(DropReason::IcmpTypeUnknown), true) => Fate::Delivered,
            _ => fate,
        },
        Input::EchoReply(packet, frame) => {
            t.raw.take_copies(lower);
            t.raw.echo_reply(lower, &packet, frame)
        }
        Input::Error(kind, origin, frame) => {
            t.raw.take_copies(lower);
            match icmp::quoted(frame.data()) {
                Some(quote) => icmp_error(lower, t, (kind, Some(origin)), &quote),
                None => Fate::Dropped(DropReason::IcmpMalformed),
            }
        }
        Input::Up { packet, frame, pointer } => up(lower, t, packet, frame, pointer),
    }
}

/// Gives raw sockets their copies of a packet; whether somebody wanted them. They see nothing of
/// what access rules let no further, even if it was lost for another reason before it was judged: a
/// wrong checksum, a RST.
fn show<P: PathLayer>(lower: &mut Lower<'_, P>, t: &mut Transports<'_>, fate: Fate) -> bool {
    if let Fate::Dropped(reason) = fate {
        let refused = matches!(reason, DropReason::AccessDenied | DropReason::AccessRejected);
        let hidden = |(packet, port): (InPacket, u16)| !lower.may_be_seen(&packet, port);
        if refused || lower.ip.taps.judged().any(hidden) {
            lower.ip.taps.forget();
        }
    }
    t.raw.take_copies(lower)
}

/// To the transport.
fn up<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    t: &mut Transports<'_>,
    packet: InPacket,
    frame: Frame,
    pointer: u32,
) -> Fate {
    let is_v4 = packet.dst.is_ipv4();
    lower.ctx.outbox.reached_transport();
    let fate = match packet.protocol {
        protocol::TCP => {
            let header_len = frame.data().get(12).map_or(0, |b| usize::from(b >> 4) * 4);
            output::stats(lower.ctx.mib, is_v4).in_delivers += frame.packets(header_len);
            t.tcp.input(lower, &packet, frame)
        }
        protocol::UDP => {
            output::stats(lower.ctx.mib, is_v4).in_delivers += frame.packets(8);
            t.udp.input(lower, &packet, frame)
        }
        _ => return other(lower, t, &packet, &frame, pointer),
    };
    show(lower, t, fate);
    fate
}

/// A protocol that only raw sockets know.
fn other<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    t: &mut Transports<'_>,
    packet: &InPacket,
    frame: &Frame,
    pointer: u32,
) -> Fate {
    let is_v4 = packet.dst.is_ipv4();
    if let Some(refusal) = lower.refuses(packet, 0, 1) {
        lower.ip.taps.forget();
        if refusal != Refusal::Drop {
            lower.prohibited(packet, frame);
        }
        return Fate::Dropped(refusal.reason());
    }
    if t.raw.take_copies(lower) {
        output::stats(lower.ctx.mib, is_v4).in_delivers += 1;
        return Fate::Delivered;
    }
    output::stats(lower.ctx.mib, is_v4).in_unknown_protos += 1;
    let problem =
        if is_v4 { Problem::ProtocolUnreachable } else { Problem::Parameter { code: 1, pointer } };
    lower.report(packet.alias, problem, frame);
    Fate::Dropped(DropReason::IpProtocolUnknown)
}

/// An ICMP error, or our own knowledge, about a packet of ours.
fn icmp_error<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    t: &mut Transports<'_>,
    (kind, origin): (IcmpErrorKind, Option<IpAddr>),
    quote: &Quote<'_>,
) -> Fate {
    let (src, dst, transport) = (quote.src, quote.dst, quote.transport);
    let mut error = IcmpError { kind, src, dst, origin, transport };
    let mut number = quote.protocol;
    if !lower.path.is_transparent() && mapped::requote(lower, &mut error, &mut number).is_none() {
        return Fate::Consumed;
    }
    let known = lower.is_local(error.src)
        && match number {
            protocol::TCP => t.tcp.icmp_error(lower, &error),
            protocol::UDP => t.udp.icmp_error(lower, &error),
            number => t.raw.icmp_error(lower, number, &error),
        };
    if known { Fate::Consumed } else { Fate::Dropped(DropReason::IcmpErrorUnmatched) }
}

/// What calls leave behind: packets of the stack to itself, packets whose neighbour is gone,
/// addresses that went away, questions of the link layer.
#[inline(always)]
pub(super) fn work_off<P: PathLayer>(lower: &mut Lower<'_, P>, t: &mut Transports<'_>) {
    let (link, ip) = (&lower.link, &lower.ip);
    let looped = !lower.ctx.outbox.looped.is_empty();
    if looped || link.has_work() || !ip.removed.is_empty() {
        work_off_some(lower, t);
    }
    if !lower.path.is_transparent() && mapped::has_work(lower) {
        mapped::work_off(lower, t);
    }
}

#[inline(never)]
fn work_off_some<P: PathLayer>(lower: &mut Lower<'_, P>, t: &mut Transports<'_>) {
    for _ in 0..LOOPED_PER_CALL {
        let Some((alias, frame)) = lower.ctx.outbox.looped.pop_front() else { break };
        let shard = lower.ctx.shard;
        if shard.has_peers()
            && let Owner::Shard(to) = shard.owner(frame.data())
            && to != shard.index
        {
            lower.ctx.move_to(to, alias, true, frame);
            continue;
        }
        moved(lower, t, alias, true, frame);
    }
    while let Some((alias, frame)) = lower.link.failed.pop_front() {
        unreachable(lower, t, alias, &frame);
    }
    while let Some(addr) = lower.ip.removed.pop() {
        if !lower.path.is_transparent() {
            lower.path.address_removed(lower.ctx.now, addr);
        }
        // A ULID lives on while a context has it.
        if !lower.is_local(addr) {
            t.tcp.address_removed(lower, addr);
        }
    }
    ndp::link_work(&mut lower.ctx, lower.link, lower.ip);
}

/// A packet whose next hop did not answer: its sender learns of it, here or far away.
fn unreachable<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    t: &mut Transports<'_>,
    alias: AliasId,
    frame: &Frame,
) {
    lower.ctx.drop_out(DropReason::NeighbourUnreachable);
    let Some(quote) = Quote::parse(frame.data()) else { return };
    if lower.ip.is_local(quote.src) {
        // Not a received frame: whoever knows it is told, nothing is counted.
        let _ = icmp_error(lower, t, (IcmpErrorKind::HostUnreachable, None), &quote);
    } else {
        let problem = Problem::HostUnreachable;
        icmp::send_error(&mut lower.ctx, lower.link, lower.ip, alias, problem, frame.data());
    }
}
