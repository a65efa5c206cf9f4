//! Received datagrams: checked, given to their sockets, cut if a device merged them.

use core::hash::BuildHasher;
use core::net::IpAddr;

use bytes::Bytes;
use smallvec::SmallVec;

use super::{ANY4, ANY6, HEADER_LEN, Udp, peer_addr};
use crate::ctx::Fate;
use crate::drop::DropReason;
use crate::frame::{Frag, Frame, Gso};
use crate::ip::input::{Glance, accepts};
use crate::lower::{InPacket, Lower, Refusal};
use crate::path::PathLayer;
use crate::socket::udp::Datagram;
use crate::wire::{frame_sum, protocol};

/// Payloads up to this are copied out, so that they do not hold a slot of the frame pool each.
const COPY_MAX: usize = 256;
/// What a waiting datagram is charged beside its bytes.
const DATAGRAM_OVERHEAD_BYTES: usize = 64;

/// A payload on its way into queues.
#[derive(Clone, Default)]
struct Arrived {
    /// Of one datagram, or of several, none of which stands in two parts.
    parts: SmallVec<[Bytes; 1]>,
    /// What holding it costs, overhead included.
    charge: usize,
    segment_bytes: Option<usize>,
    /// Bytes copied to keep it.
    copied: usize,
}

/// A payload, what holding it is charged, and the size of the datagrams in it if there are several.
type Piece = (Bytes, usize, Option<usize>);

impl From<Frame> for Arrived {
    /// Of a frame that starts with the UDP header.
    fn from(mut frame: Frame) -> Arrived {
        frame.pull_front(HEADER_LEN);
        let segment_bytes = match frame.meta.gso {
            Gso::Udp { size } => Some(usize::from(size)),
            _ => None,
        };
        let segment_bytes = segment_bytes.filter(|size| frame.total_len() > *size && *size > 0);
        if let Some(size) = segment_bytes
            && parts_are_whole(&frame, size)
        {
            let frags = core::mem::take(&mut frame.frags);
            let mut all = Arrived { segment_bytes, ..Arrived::default() };
            if !frame.is_empty() {
                all.push(payload(frame));
            }
            frags.into_iter().for_each(|frag| all.push(piece(frag)));
            return all;
        }
        let mut one = Arrived { segment_bytes, ..Arrived::default() };
        one.push(payload(frame));
        one
    }
}

/// Whether datagrams of `size` bytes begin with each part, as receive merging leaves them.
fn parts_are_whole(frame: &Frame, size: usize) -> bool {
    let last = frame.frags.len();
    last > 0 && frame.len().is_multiple_of(size) && {
        let mut parts = frame.frags.iter().map(<[u8]>::len).zip(1..);
        parts.all(|(len, n)| len > 0 && (n == last || len % size == 0))
    }
}

impl Arrived {
    fn push(&mut self, (bytes, charge, copied): (Bytes, usize, usize)) {
        self.parts.push(bytes);
        self.charge += charge;
        self.copied += copied;
    }

    /// One by one, unless they are to be kept together.
    fn pieces(mut self, keep: bool) -> impl Iterator<Item = Piece> {
        let size = self.segment_bytes.filter(|_| !keep);
        if size.is_none() && self.parts.len() > 1 {
            let all: Vec<u8> = self.parts.concat();
            self.parts = SmallVec::from_buf([Bytes::from(all)]);
        }
        let (charge, whole) = (self.charge, self.segment_bytes);
        let mut parts = self.parts.into_iter();
        let mut part = Bytes::new();
        core::iter::from_fn(move || {
            if part.is_empty() {
                part = parts.next()?;
            }
            let Some(size) = size else { return Some((core::mem::take(&mut part), charge, whole)) };
            let piece = part.split_to(size.min(part.len()));
            let charge = piece.len() + DATAGRAM_OVERHEAD_BYTES;
            Some((piece, charge, None))
        })
    }
}

impl Udp {
    /// A plain frame from a device, its link header at the front: passes link and IP with the glance
    /// that was taken at it, as plain segments of TCP do. `Err`: it goes the long way.
    pub(crate) fn input_plain<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        glance: &Glance,
        mut frame: Frame,
    ) -> Result<Fate, Frame> {
        let (src, dst) = (glance.ip.src, glance.ip.dst);
        if !self.takes_short_ways() || lower.ip.taps.listens(src.is_ipv4(), protocol::UDP) {
            return Err(frame);
        }
        let accepted = Some((glance.alias, lower.ip.address_version(), src, dst));
        if self.accepted != accepted {
            if !accepts(lower.ip, glance.alias, src, dst) {
                return Err(frame);
            }
            self.accepted = accepted;
        }
        glance.take_headers(lower.ctx.mib, &mut frame, HEADER_LEN);
        lower.ctx.outbox.reached_transport();
        Ok(self.input(lower, &glance.packet(), frame))
    }

    /// A datagram arrived; `frame` starts with the UDP header.
    pub(crate) fn input<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        packet: &InPacket,
        frame: Frame,
    ) -> Fate {
        let (src_port, dst_port, frame) = match check(lower, packet, frame) {
            Ok(checked) => checked,
            Err(reason) => {
                let stats = &mut lower.ctx.mib.udp;
                stats.in_errors += 1;
                stats.in_csum_errors += u64::from(reason == DropReason::UdpChecksumBad);
                return Fate::Dropped(reason);
            }
        };
        if let Some(refusal) = self.refuses(lower, packet, (src_port, dst_port), &frame) {
            if refusal != Refusal::Drop {
                lower.prohibited(packet, &frame);
            }
            return Fate::Dropped(refusal.reason());
        }
        if packet.to_many {
            return self.input_to_many(lower, packet, (src_port, dst_port), frame);
        }
        let room = lower.ctx.limits.udp_recv_bytes;
        let taker = match self.find(packet, src_port, dst_port) {
            Some(own) => Some(own),
            None => self.any_socket(room, packet.dst.is_ipv4(), dst_port),
        };
        let Some(taker) = taker else { return nobody(lower, packet, &frame) };
        let arrived = Arrived::from(frame);
        lower.ctx.mib.udp.in_copied_octets += arrived.copied as u64;
        fate(self.deliver(lower, packet, src_port, taker, arrived))
    }

    /// To a group or broadcast.
    fn input_to_many<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        packet: &InPacket,
        (src_port, dst_port): (u16, u16),
        frame: Frame,
    ) -> Fate {
        let takers = self.find_all(packet, src_port, dst_port);
        let Some((last, others)) = takers.split_last() else {
            return nobody(lower, packet, &frame);
        };
        let arrived = Arrived::from(frame);
        lower.ctx.mib.udp.in_copied_octets += arrived.copied as u64;
        let mut delivered = false;
        for index in others {
            delivered |= self.deliver(lower, packet, src_port, *index, arrived.clone());
        }
        fate(delivered | self.deliver(lower, packet, src_port, *last, arrived))
    }

    /// What access rules say of a datagram, unless it answers one of ours: a connected socket waits
    /// for it, or something was sent to its sender a while ago.
    #[inline]
    fn refuses<P: PathLayer>(
        &self,
        lower: &Lower<'_, P>,
        packet: &InPacket,
        (src_port, dst_port): (u16, u16),
        frame: &Frame,
    ) -> Option<Refusal> {
        let admission = &lower.ctx.admission;
        admission.rules(protocol::UDP, dst_port)?;
        let known = self.flows.contains_key(&(packet.dst, dst_port, packet.src, src_port))
            || admission.is_answer(lower.ctx.now, dst_port, packet.src, src_port);
        if known { None } else { lower.refuses(packet, dst_port, frame.packets(HEADER_LEN)) }
    }

    /// Queues what arrived, in pieces if the socket does not want it whole; whether there was room
    /// for some of it.
    fn deliver<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        packet: &InPacket,
        src_port: u16,
        index: u32,
        arrived: Arrived,
    ) -> bool {
        let socket = &mut self.sockets[index as usize];
        let stats = &mut lower.ctx.mib.udp;
        let from = peer_addr(packet.src, src_port, packet.alias);
        let keep = socket.options.keep_segments;
        if keep && arrived.parts.len() > 1 {
            stats.in_copied_octets += arrived.parts.iter().map(Bytes::len).sum::<usize>() as u64;
        }
        let mut taken = false;
        for (payload, charge, segment_bytes) in arrived.pieces(keep) {
            let datagrams = segment_bytes.map_or(1, |size| payload.len().div_ceil(size) as u64);
            if socket.held_bytes + charge > socket.options.recv_bytes {
                stats.rcvbuf_errors += datagrams;
                socket.lost += datagrams;
                continue;
            }
            stats.in_datagrams += datagrams;
            stats.in_octets += payload.len() as u64;
            socket.held_bytes += charge;
            let datagram = Datagram {
                from,
                to: packet.dst,
                alias: packet.alias,
                hop_limit: packet.hop_limit,
                traffic_class: packet.traffic_class,
                segment_bytes,
                payload,
            };
            socket.queue.push_back((datagram, charge));
            taken = true;
        }
        if taken {
            self.tell(index);
        }
        taken
    }

    /// The socket for a datagram: connected before bound, exact before wildcard.
    fn find(&self, packet: &InPacket, src_port: u16, dst_port: u16) -> Option<u32> {
        let flow = (packet.dst, dst_port, packet.src, src_port);
        if !self.flows.is_empty()
            && let Some(index) = self.flows.get(&flow)
        {
            return Some(*index);
        }
        let any = if packet.dst.is_ipv4() { ANY4 } else { ANY6 };
        [packet.dst, any].into_iter().find_map(|addr| {
            let open = &self.bound.get(&(addr, dst_port))?.open;
            match open.len() {
                0 | 1 => open.first().copied(),
                n => {
                    let hash = self.flows.hasher().hash_one(flow);
                    open.get((hash % n as u64) as usize).copied()
                }
            }
        })
    }

    /// RFC 1122 4.1.3.2 and RFC 3376 3.1: every socket that wants a datagram to a group or
    /// broadcast gets it.
    fn find_all(&self, packet: &InPacket, src_port: u16, dst_port: u16) -> SmallVec<[u32; 1]> {
        let any = if packet.dst.is_ipv4() { ANY4 } else { ANY6 };
        let wants = |index: &u32| {
            let socket = &self.sockets[*index as usize];
            let member = !packet.dst.is_multicast() || socket.is_member(packet);
            member && socket.peer.is_none_or(|p| p.ip() == packet.src && p.port() == src_port)
        };
        let buckets = [packet.dst, any].into_iter().filter_map(|a| self.bound.get(&(a, dst_port)));
        buckets.flat_map(|b| b.all.iter().copied()).filter(wants).collect()
    }
}

/// No socket is there for it.
fn nobody<P: PathLayer>(lower: &mut Lower<'_, P>, packet: &InPacket, frame: &Frame) -> Fate {
    lower.ctx.mib.udp.no_ports += frame.packets(HEADER_LEN);
    lower.port_unreachable(packet, frame);
    Fate::Dropped(DropReason::UdpPortClosed)
}

fn fate(delivered: bool) -> Fate {
    if delivered { Fate::Delivered } else { Fate::Dropped(DropReason::UdpBufferFull) }
}

/// Checks length, ports and checksum; gives the ports and the frame cut to the datagram.
fn check<P: PathLayer>(
    lower: &Lower<'_, P>,
    packet: &InPacket,
    mut frame: Frame,
) -> Result<(u16, u16, Frame), DropReason> {
    if frame.len() < HEADER_LEN && !frame.frags.is_empty() {
        frame = frame.to_heap();
    }
    let Some(h) = frame.data().first_chunk::<HEADER_LEN>().copied() else {
        return Err(DropReason::UdpMalformed);
    };
    let word = |at: usize| u16::from_be_bytes([h[at], h[at + 1]]);
    let (src_port, dst_port, mut len, sum) = (word(0), word(2), usize::from(word(4)), word(6));
    if matches!(frame.meta.gso, Gso::Udp { .. }) {
        // The length field of several datagrams in one may hold that of one only.
        len = frame.total_len();
    }
    if len < HEADER_LEN || len > frame.total_len() || dst_port == 0 {
        return Err(DropReason::UdpMalformed);
    }
    if len < frame.total_len() {
        if !frame.frags.is_empty() {
            frame = frame.to_heap();
        }
        frame.truncate(len);
    }
    let trusted = frame.meta.checksum.is_settled()
        || lower.ip.aliases.get(&packet.alias).is_some_and(|a| a.config.rx_checksum_trust);
    let right = match (sum, packet.dst) {
        // RFC 768: none was made. RFC 8200 8.1: IPv6 does not allow that.
        (0, IpAddr::V4(_)) => true,
        (0, IpAddr::V6(_)) => false,
        _ => trusted || frame_sum::is_valid(packet.src, packet.dst, protocol::UDP, &frame),
    };
    if right { Ok((src_port, dst_port, frame)) } else { Err(DropReason::UdpChecksumBad) }
}

/// A part of a payload, see [`payload`].
fn piece(frag: Frag) -> (Bytes, usize, usize) {
    match frag {
        Frag::Frame(frame) => payload(frame),
        Frag::Shared(bytes) => {
            let charge = bytes.len() + DATAGRAM_OVERHEAD_BYTES;
            (bytes, charge, 0)
        }
    }
}

/// The payload as owned bytes, what holding it is charged, and how much of it was copied.
fn payload(mut frame: Frame) -> (Bytes, usize, usize) {
    let len = frame.total_len();
    if len <= COPY_MAX && frame.frags.is_empty() {
        return (Bytes::copy_from_slice(frame.data()), len + DATAGRAM_OVERHEAD_BYTES, len);
    }
    if len <= COPY_MAX {
        let mut small = [0; COPY_MAX];
        frame.copy_to(&mut small);
        return (Bytes::copy_from_slice(&small[..len]), len + DATAGRAM_OVERHEAD_BYTES, len);
    }
    // Sent from where it lay, behind a header of its own.
    if frame.is_empty()
        && frame.frags.len() == 1
        && let Some(only) = frame.frags.pop_front()
    {
        return piece(only);
    }
    let keep = frame.frags.is_empty() && !frame.is_scarce();
    let frame = if keep { frame } else { frame.to_heap() };
    let charge = frame.headroom() + frame.len() + frame.tailroom() + DATAGRAM_OVERHEAD_BYTES;
    (frame.into_bytes(), charge, if keep { 0 } else { len })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FramePool;

    #[test]
    fn what_nobody_reads_does_not_hold_a_pool_that_runs_low() {
        let pool = FramePool::heap(64, 2048);
        let held: Vec<_> = (0..200)
            .map(|_| {
                let mut frame = pool.alloc().expect("some are left");
                frame.append(&[7; 300]);
                payload(frame)
            })
            .collect();
        assert!(pool.free() >= 7, "{}", pool.free());
        assert!(held.iter().all(|(bytes, charge, _)| bytes[..] == [7; 300] && *charge >= 300));
    }
}
