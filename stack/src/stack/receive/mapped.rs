//! The way up through a path layer that maps packets, and what it has to do and to tell.

use super::{above, count, datagrams};
use crate::ctx::Fate;
use crate::drop::DropReason;
use crate::frame::{Checksum, Frame, Gso};
use crate::ip::input::{self, Input};
use crate::lower::{IcmpError, IcmpErrorKind, InPacket, Lower};
use crate::path::{Pass, PathAddrs, PathEvent, PathLayer, Quoted, Requoted};
use crate::transport::Transports;
use crate::wire::{checksum, protocol};

/// Bytes of a transport header that an error must quote (RFC 792).
const QUOTE_BYTES_MIN: usize = 8;
const FRAGMENT_HEADER_LEN: usize = 8;

/// A packet that ends here, below the path layer; or datagrams that receive merging, here or in the
/// kernel, made one of. Each of those that are the layer's holds a packet: they count one by one.
pub(super) fn up<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    t: &mut Transports<'_>,
    packet: InPacket,
    frame: Frame,
    pointer: u32,
) -> Fate {
    let Some(size) = merged_size(lower, &packet, &frame) else {
        return one_up(lower, t, packet, frame, pointer);
    };
    let mut before = None;
    for frame in datagrams::split(frame, size) {
        if let Some(fate) = before.take() {
            lower.ctx.mib.frames.rx_frames += 1;
            count(lower.ctx.mib, fate);
        }
        before = Some(one_up(lower, t, packet, frame, pointer));
    }
    before.unwrap_or(Fate::Consumed)
}

/// Payload bytes of each datagram in a frame that stands for several of the layer's.
#[inline]
fn merged_size<P: PathLayer>(
    lower: &Lower<'_, P>,
    packet: &InPacket,
    frame: &Frame,
) -> Option<usize> {
    let Gso::Udp { size } = frame.meta.gso else { return None };
    let &[_, _, a, b] = frame.data().first_chunk::<4>()?;
    let ours = packet.protocol == protocol::UDP
        && !packet.to_many
        && lower.path.takes_udp_port(u16::from_be_bytes([a, b]));
    ours.then_some(usize::from(size))
}

/// What the layer maps comes up once more, as it was above the layer of the peer: raw sockets see
/// that, and nothing of what was around it.
fn one_up<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    t: &mut Transports<'_>,
    mut packet: InPacket,
    mut frame: Frame,
    pointer: u32,
) -> Fate {
    if packet.to_many {
        return above(lower, t, Input::Up { packet, frame, pointer });
    }
    let before = PathAddrs { src: packet.src, dst: packet.dst, protocol: packet.protocol };
    let mut addrs = before;
    let fate = match lower.path.ingress(lower.ctx.now, &mut addrs, &mut frame) {
        Ok(Pass::Up) if addrs == before => {
            return above(lower, t, Input::Up { packet, frame, pointer });
        }
        Ok(Pass::Up) => None,
        Ok(Pass::Unshown) => {
            packet.below = Some(before.src);
            None
        }
        Ok(Pass::Consumed) => Some(Fate::Consumed),
        Err(reason) => Some(Fate::Dropped(reason)),
    };
    lower.ip.taps.forget();
    if let Some(fate) = fate {
        return fate;
    }
    (packet.src, packet.dst, packet.protocol) = (addrs.src, addrs.dst, addrs.protocol);
    if let Checksum::Summed(sum) = frame.meta.checksum {
        if let Err(reason) = prove(lower, &packet, &mut frame, sum) {
            return Fate::Dropped(reason);
        }
    } else if before.protocol == protocol::UDP {
        // Whoever looked at a checksum looked at that of the datagram around the packet.
        frame.meta.checksum = Checksum::Complete;
    }
    let input = input::restored(&mut lower.ctx, lower.link, lower.ip, packet, frame);
    above(lower, t, input)
}

/// Of segments that receive merging summed, whose addresses are known now, whether their checksums
/// are right.
fn prove<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    packet: &InPacket,
    frame: &mut Frame,
    sum: u16,
) -> Result<(), DropReason> {
    let addresses = checksum::pseudo(packet.src, packet.dst, 0, 0);
    frame.meta.checksum = Checksum::Verified;
    if checksum::is_valid(checksum::combine(addresses, sum)) {
        return Ok(());
    }
    let entry = lower.ip.aliases.get(&packet.alias);
    if frame.meta.gso == Gso::None {
        // TCP finds the same.
        frame.meta.checksum = Checksum::Complete;
    } else if !entry.is_some_and(|a| a.config.rx_checksum_trust) {
        let header_len = frame.data().get(12).map_or(0, |b| usize::from(b >> 4) * 4);
        let (packets, stats) = (frame.packets(header_len), &mut lower.ctx.mib.tcp);
        stats.in_segs += packets;
        stats.in_errs += packets;
        stats.in_csum_errors += packets;
        return Err(DropReason::TcpChecksumBad);
    }
    Ok(())
}

/// What a quoted packet was above the layer; `None`: nobody above is told.
pub(super) fn requote<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    error: &mut IcmpError<'_>,
    number: &mut u8,
) -> Option<()> {
    let quoted =
        Quoted { src: error.src, dst: error.dst, protocol: *number, payload: error.transport };
    match lower.path.icmp_error(lower.ctx.now, error.kind, &quoted) {
        Requoted::Same => return Some(()),
        Requoted::Consumed => return None,
        Requoted::Rewritten { addrs, skip, overhead_bytes } => {
            (error.src, error.dst, *number) = (addrs.src, addrs.dst, addrs.protocol);
            error.transport = error.transport.get(skip..)?;
            if let IcmpErrorKind::TooBig { mtu } = &mut error.kind {
                *mtu = mtu.saturating_sub(overhead_bytes);
            }
        }
    }
    if *number == protocol::FRAGMENT {
        let h: &[u8; FRAGMENT_HEADER_LEN] = error.transport.first_chunk()?;
        if u16::from_be_bytes([h[2], h[3]]) >> 3 != 0 {
            return None;
        }
        *number = h[0];
        error.transport = &error.transport[FRAGMENT_HEADER_LEN..];
    }
    (error.transport.len() >= QUOTE_BYTES_MIN).then_some(())
}

/// Whether [`work_off`] has something to do.
#[inline]
pub(in crate::stack) fn has_work<P: PathLayer>(lower: &Lower<'_, P>) -> bool {
    // One branch for what is hardly ever there.
    lower.path.has_work() | lower.ctx.outbox.for_path
}

/// What the layer is to be told, what it tells and what it sends.
#[inline(never)]
pub(in crate::stack) fn work_off<P: PathLayer>(lower: &mut Lower<'_, P>, t: &mut Transports<'_>) {
    lower.ctx.outbox.for_path = false;
    while let Some(addr) = lower.ip.added.pop() {
        lower.path.address_added(lower.ctx.now, addr);
    }
    while let Some((packet, frame)) = lower.ctx.outbox.mapped.pop_front() {
        // A loss is counted there.
        let _ = lower.send(packet, frame);
    }
    while let Some(event) = lower.path.poll_event() {
        match event {
            PathEvent::Switched { .. } => t.tcp.path_switched(lower, &event),
            PathEvent::Released(ulid) if !lower.ip.is_local(ulid) => {
                t.tcp.address_removed(lower, ulid);
            }
            PathEvent::Released(_) => {}
            PathEvent::Quiet(src, dst) => {
                if t.tcp.connects(src, dst) || t.udp.connects(src, dst) {
                    lower.path.keep(lower.ctx.now, src, dst);
                }
            }
        }
    }
    t.tcp.answer_again(lower);
    while lower.ctx.out_room() > 0 && lower.path.wants_transmit() {
        let Some((addrs, frame)) = lower.path.poll_transmit(lower.ctx.now) else { break };
        lower.send_own(addrs, frame);
    }
}

/// The alias with these addresses went up or down.
pub(in crate::stack) fn link_changed<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    alias: crate::ip::address::AliasId,
    up: bool,
) {
    let Some(entry) = lower.ip.aliases.get(&alias) else { return };
    for address in entry.addresses.iter().filter(|a| a.state.usable()) {
        lower.path.link_changed(lower.ctx.now, address.cidr.addr, up);
    }
}
