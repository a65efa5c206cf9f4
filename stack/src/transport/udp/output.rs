//! Datagrams on their way out: one, or many of equal size from one buffer.

use core::net::SocketAddr;

use bytes::Bytes;

use super::{ANY4, ANY6, HEADER_LEN, Udp, canonical, scope};
use crate::admission::First;
use crate::ctx::Ctx;
use crate::drop::DropReason;
use crate::frame::{Checksum, Frame, Gso, HEADROOM_BYTES};
use crate::ip::output::stats;
use crate::ip::rule::Via;
use crate::lower::{Lower, OutPacket, RouteInfo};
use crate::path::{PathFlow, PathLayer};
use crate::socket::SocketId;
use crate::socket::udp::{UDP_PAYLOAD_BYTES_MAX, UDP_SEGMENTS_MAX, UdpSend, UdpSendError};
use crate::wire::{checksum, frame_sum, protocol};

/// Shared payloads up to this are copied behind the header: cheaper than a piece of their own.
const COPY_BYTES_MAX: usize = 256;

/// What is to be sent.
#[derive(Clone, Copy)]
pub(crate) enum Payload<'a> {
    /// To be copied.
    Borrowed(&'a [u8]),
    /// To be sent from where it lies.
    Shared(&'a Bytes),
}

impl<'a> Payload<'a> {
    fn data(self) -> &'a [u8] {
        match self {
            Payload::Borrowed(data) => data,
            Payload::Shared(bytes) => bytes,
        }
    }

    /// The bytes to be attached, if they are.
    fn attached(self) -> Option<&'a Bytes> {
        match self {
            Payload::Shared(bytes) if bytes.len() > COPY_BYTES_MAX => Some(bytes),
            _ => None,
        }
    }
}

/// Everything but the payload.
#[derive(Clone, Copy)]
struct Plan {
    info: RouteInfo,
    packet: OutPacket,
    src_port: u16,
    to: SocketAddr,
    /// To a group or broadcast, and sockets of this stack are to hear it.
    looped: bool,
    /// To a group or broadcast.
    to_many: bool,
}

fn ip_header_len(to: SocketAddr) -> usize {
    if to.is_ipv4() { 20 } else { 40 }
}

impl Udp {
    /// Sends one datagram, or several.
    pub(crate) fn send<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        id: SocketId,
        whole: Payload<'_>,
        how: &UdpSend,
    ) -> Result<(), UdpSendError> {
        let payload = whole.data();
        let socket = self.get_mut(id).ok_or(UdpSendError::Closed)?;
        if let Some(error) = socket.pending.take() {
            return Err(error.into());
        }
        if payload.len() > UDP_PAYLOAD_BYTES_MAX {
            return Err(UdpSendError::TooLong);
        }
        let short = self.takes_short_ways() && lower.path.is_transparent();
        if short && self.send_ready(lower, id, whole, how).is_some() {
            return Ok(());
        }
        let plan = self.plan(lower, id, how)?;
        let segment = how.segment_bytes.filter(|size| payload.len() > *size);
        let longest = segment.unwrap_or(payload.len()) + HEADER_LEN + ip_header_len(plan.to);
        // Segments are for those who avoid fragments.
        let unfragmented = plan.packet.dont_fragment || segment.is_some();
        if unfragmented && longest > plan.info.mtu {
            let mtu = plan.info.mtu;
            self.too_big(lower, id.index, (plan.to, mtu), payload);
            return Err(UdpSendError::TooBig { mtu });
        }
        let sent = match segment {
            None => {
                let per_frame = plan.info.mtu.saturating_sub(48).max(1);
                let frames = (payload.len() + HEADER_LEN).div_ceil(per_frame);
                if lower.ctx.out_room() < frames {
                    Err(UdpSendError::WouldBlock)
                } else {
                    send_one(lower, &plan, whole)
                }
            }
            Some(size) => send_segments(lower, &plan, whole, size),
        };
        if sent == Err(UdpSendError::WouldBlock) {
            self.waiting.block(&mut self.sockets, id.index);
        }
        sent
    }

    /// One datagram by a way that is ready, which says the same of it as [`Udp::plan`]. `None`: it
    /// takes the long way.
    #[inline]
    fn send_ready<P: PathLayer>(
        &self,
        lower: &mut Lower<'_, P>,
        id: SocketId,
        whole: Payload<'_>,
        how: &UdpSend,
    ) -> Option<()> {
        let socket = self.get(id)?;
        let to = how.to.map(canonical).or(socket.peer)?;
        let (options, local) = (&socket.options, socket.local);
        let watched = lower.ctx.admission.rules(protocol::UDP, local.port()).is_some();
        let len = HEADER_LEN + whole.data().len();
        let cut = how.segment_bytes.is_some_and(|size| whole.data().len() > size);
        if to.port() == 0 || !socket.speaks(to.ip()) || watched || cut || lower.ctx.out_room() == 0
        {
            return None;
        }
        let alias = how.alias.or(scope(to));
        let class = how.traffic_class.unwrap_or(options.traffic_class);
        let services = lower.ip.services_of(|| (protocol::UDP, local.port(), to.port()));
        let via = Via { alias, mark: options.mark, class, services };
        let bound = Some(local.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_multicast());
        let src = match how.from.or(bound) {
            Some(src) => src,
            None => lower.route(None, to.ip(), via).ok()?.src,
        };
        let slot = lower.ready(src, to.ip(), via)?;
        let ready = lower.ip.ready.at(slot).filter(|ready| ready.takes(len, false))?;
        let head = Head {
            ports: (local.port(), to.port()),
            pseudo: ready.pseudo(protocol::UDP, len),
            partial: ready.route.tx_checksum,
        };
        let mut frame = datagram(&mut lower.ctx, &head, whole);
        let ip = stats(lower.ctx.mib, src.is_ipv4());
        let hop_limit = how.hop_limit.or(options.hop_limit);
        ready.push(ip, &mut frame, protocol::UDP, class, hop_limit);
        lower.ctx.outbox.frames.push_back((ready.route.alias, frame));
        lower.ctx.mib.udp.out_datagrams += 1;
        lower.ctx.mib.udp.out_octets += whole.data().len() as u64;
        Some(())
    }

    /// Where and how it goes, by the call and the socket's options.
    fn plan<P: PathLayer>(
        &self,
        lower: &mut Lower<'_, P>,
        id: SocketId,
        how: &UdpSend,
    ) -> Result<Plan, UdpSendError> {
        let socket = self.get(id).ok_or(UdpSendError::Closed)?;
        let to = how.to.map(canonical).or(socket.peer).ok_or(UdpSendError::NoDestination)?;
        if to.port() == 0 {
            return Err(UdpSendError::NoDestination);
        }
        if !socket.speaks(to.ip()) {
            return Err(UdpSendError::Unreachable);
        }
        let broadcast = lower.is_broadcast(to.ip());
        let options = &socket.options;
        if broadcast && !options.broadcast {
            return Err(UdpSendError::Broadcast);
        }
        let (local, multicast) = (socket.local, to.ip().is_multicast());
        let bound = Some(local.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_multicast());
        let src = how.from.or(bound);
        let alias = how.alias.or(scope(to));
        let alias = alias.or(options.multicast_alias.filter(|_| multicast));
        let class = how.traffic_class.unwrap_or(options.traffic_class);
        let services = lower.ip.services_of(|| (protocol::UDP, local.port(), to.port()));
        let mut via = Via { alias, mark: options.mark, class, services };
        let flow = PathFlow { protocol: protocol::UDP, ports: (local.port(), to.port()) };
        let info = lower.route_of(src, to.ip(), via, Some(flow));
        let mut info = info.map_err(|_| UdpSendError::Unreachable)?;
        let given = rule_mark(lower, &info, (to, local.port()), options.mark);
        if given != 0 {
            via.mark = given;
            let src = src.or(Some(info.src));
            let marked = lower.route_of(src, to.ip(), via, Some(flow));
            info = marked.map_err(|_| UdpSendError::Unreachable)?;
        }
        let hops = if multicast { Some(options.multicast_hop_limit) } else { options.hop_limit };
        let packet = OutPacket {
            src: info.src,
            dst: to.ip(),
            protocol: protocol::UDP,
            traffic_class: class,
            mark: via.mark,
            hop_limit: how.hop_limit.or(hops),
            dont_fragment: options.dont_fragment,
            alias: alias.or(Some(info.alias).filter(|_| multicast)),
        };
        let to_many = multicast || broadcast;
        let loops = (multicast && options.multicast_loop) || broadcast;
        let looped = loops && self.hears(to);
        Ok(Plan { info, packet, src_port: local.port(), to, looped, to_many })
    }

    /// Whether a socket of this stack may hear what is sent to a group or broadcast.
    fn hears(&self, to: SocketAddr) -> bool {
        let any = if to.is_ipv4() { ANY4 } else { ANY6 };
        [to.ip(), any].iter().any(|a| self.bound.contains_key(&(*a, to.port())))
    }
}

/// The mark of the access rule that lets a client in, for what goes to it from the port that it
/// calls; one that the socket has stays.
#[inline]
fn rule_mark<P: PathLayer>(
    lower: &Lower<'_, P>,
    info: &RouteInfo,
    (to, port): (SocketAddr, u16),
    own: u32,
) -> u32 {
    if own != 0 {
        return 0;
    }
    // Where the client comes in, which need not be where its answers go out.
    let alias = || lower.ip.alias_of(info.src).unwrap_or(info.alias);
    let first = || First { alias: alias(), protocol: protocol::UDP, src: to.ip(), port };
    lower.ctx.admission.mark(first)
}

fn send_one<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    plan: &Plan,
    payload: Payload<'_>,
) -> Result<(), UdpSendError> {
    let len = HEADER_LEN + payload.data().len();
    // A packet that will be cut into fragments needs its sum before.
    let partial = plan.info.tx_checksum && len + ip_header_len(plan.to) <= plan.info.mtu;
    let frame = datagram(&mut lower.ctx, &plan.head(len, partial), payload);
    hand_down(lower, plan, frame, 1, payload.data().len())
}

/// RFC 8085 3.2 keeps each within the path MTU. All go, or none.
fn send_segments<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    plan: &Plan,
    whole: Payload<'_>,
    size: usize,
) -> Result<(), UdpSendError> {
    let payload = whole.data();
    let count = if size == 0 { usize::MAX } else { payload.len().div_ceil(size) };
    if count > UDP_SEGMENTS_MAX {
        return Err(UdpSendError::SegmentSize);
    }
    let at_once = plan.info.tx_checksum && payload.len() + HEADER_LEN <= plan.info.gso_bytes_max;
    if lower.ctx.out_room() < if at_once { 1 } else { count } {
        return Err(UdpSendError::WouldBlock);
    }
    if at_once {
        let head = plan.head(HEADER_LEN + payload.len(), true);
        let mut frame = datagram(&mut lower.ctx, &head, whole);
        frame.meta.gso = Gso::Udp { size: size as u16 };
        return hand_down(lower, plan, frame, count as u64, payload.len());
    }
    payload.chunks(size).try_for_each(|part| {
        let slice;
        let part = match whole {
            Payload::Borrowed(_) => Payload::Borrowed(part),
            Payload::Shared(bytes) => {
                slice = bytes.slice_ref(part);
                Payload::Shared(&slice)
            }
        };
        send_one(lower, plan, part)
    })
}

/// Access rules may mean what comes back.
#[cold]
fn await_answer<P: PathLayer>(lower: &mut Lower<'_, P>, plan: &Plan) {
    let ctx = &mut lower.ctx;
    let (alias, src, port) = (plan.info.alias, plan.to.ip(), plan.src_port);
    let to = First { alias, protocol: protocol::UDP, src, port };
    let max = ctx.limits.access_states;
    if !ctx.admission.sent(ctx.now, &to, plan.to.port(), plan.to_many, max) {
        ctx.mib.frames.access_states_refused += 1;
    }
}

fn hand_down<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    plan: &Plan,
    frame: Frame,
    datagrams: u64,
    octets: usize,
) -> Result<(), UdpSendError> {
    if plan.looped {
        lower.loop_copy(&plan.packet, plan.info.alias, &frame);
    }
    if lower.ctx.admission.rules(protocol::UDP, plan.src_port).is_some() {
        await_answer(lower, plan);
    }
    match lower.send(plan.packet, frame) {
        Ok(()) => {
            lower.ctx.mib.udp.out_datagrams += datagrams;
            lower.ctx.mib.udp.out_octets += octets as u64;
            Ok(())
        }
        Err(DropReason::OutQueueFull) => Err(UdpSendError::WouldBlock),
        Err(DropReason::IpTooBig) => Err(UdpSendError::TooBig { mtu: plan.info.mtu }),
        // Lost for now, as on the way; counted.
        Err(DropReason::NeighbourQueueFull | DropReason::NeighbourTableFull) => Ok(()),
        Err(_) => Err(UdpSendError::Unreachable),
    }
}

/// What is in the UDP header beside the length.
struct Head {
    ports: (u16, u16),
    /// Sum of the pseudo header, length included.
    pseudo: u16,
    /// The checksum is left to whoever copies or cuts the frame.
    partial: bool,
}

impl Plan {
    /// Of a datagram of `len` bytes, header included.
    fn head(&self, len: usize, partial: bool) -> Head {
        let pseudo = checksum::pseudo(self.info.src, self.to.ip(), protocol::UDP, len);
        Head { ports: (self.src_port, self.to.port()), pseudo, partial }
    }
}

/// A frame with the header written, checksum 0, and room for the payload unless that is `attached`.
fn headed(ctx: &mut Ctx<'_>, head: &Head, len: usize, attached: Option<&Bytes>) -> Frame {
    let room = attached.map_or(len, |_| HEADER_LEN);
    // What others hold of the pool is no reason to wait; the out queue bounds this.
    let mut frame = match ctx.pool.alloc() {
        Some(frame) if frame.tailroom() >= room => frame,
        _ => Frame::heap_with_capacity(HEADROOM_BYTES, room),
    };
    let header = [head.ports.0, head.ports.1, len as u16, 0].map(u16::to_be_bytes);
    frame.push_back(room)[..HEADER_LEN].copy_from_slice(header.as_flattened());
    match attached {
        Some(bytes) => frame.frags.push(bytes.clone()),
        None => ctx.mib.udp.out_copied_octets += (len - HEADER_LEN) as u64,
    }
    frame
}

/// A frame that starts with the UDP header.
fn datagram(ctx: &mut Ctx<'_>, head: &Head, payload: Payload<'_>) -> Frame {
    let len = HEADER_LEN + payload.data().len();
    let attached = payload.attached();
    let mut frame = headed(ctx, head, len, attached);
    let sum = if head.partial {
        frame.meta.checksum = Checksum::Partial { start: 0, offset: 6 };
        if attached.is_none() {
            frame.data_mut()[HEADER_LEN..].copy_from_slice(payload.data());
        }
        head.pseudo
    } else if attached.is_some() {
        checksum::finish_udp(frame_sum::sum_from(head.pseudo, &frame, 0))
    } else {
        let body = checksum::copy_and_sum(&mut frame.data_mut()[HEADER_LEN..], payload.data());
        let ports = checksum::combine(head.ports.0, head.ports.1);
        let header = checksum::combine(ports, len as u16);
        let sum = checksum::combine(head.pseudo, checksum::combine(header, body));
        checksum::finish_udp(sum)
    };
    frame.data_mut()[6..8].copy_from_slice(&sum.to_be_bytes());
    frame
}
