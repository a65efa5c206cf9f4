//! The short way up: a plain segment of a connection passes link and IP with one look at its
//! headers, and one that was predicted (in order, or a plain acknowledgement, on an established
//! connection without anything out of the ordinary) is taken without the questions of
//! `input::on_established` that cannot matter (Van Jacobson's header prediction). So does a segment
//! that came between locators, behind a header that the path layer takes off.
//!
//! What it leaves behind, counters included, is what the long way leaves; Simulations run both and
//! compare (`Stack::predict`, feature `check`). Whatever does not fit goes the long way,
//! untouched.

use core::net::{IpAddr, SocketAddr};

use crate::ctx::Fate;
use crate::frame::{Checksum, Frame};
use crate::ip::address::AliasId;
use crate::ip::input::{Glance, accepts};
use crate::lower::{Known, Lower};
use crate::path::{PathAddrs, PathLayer};
use crate::socket::tcp::TcpState;
use crate::wire::tcp::{Flags, HEADER_BYTES, Header, TIMESTAMP_BYTES};
use crate::wire::{checksum, frame_sum, protocol};

use super::demux::CONFIRM_EVERY;
use super::flow_table::{Flow, FlowKey};
use super::paths::{advise_progress, flow_of};
use super::state::{Connection, Cx, Owner};
use super::{RECENT_FLOWS, Tcp};

/// Alias, and version of the stack's addresses, for which received segments are known to be for us.
/// A memory of what was asked before, no part of a connection's state: it shows nothing.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Accepted(Option<(AliasId, u32)>);

impl core::fmt::Debug for Accepted {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("_")
    }
}

/// The same of the locators that rewritten segments come between: source and destination.
pub(super) type AcceptedBelow = (AliasId, u32, IpAddr, IpAddr);

/// A plain segment and where its parts are.
struct Plain<'a> {
    glance: &'a Glance,
    seg: Header,
    /// Bytes of the TCP header.
    header_len: usize,
}

impl Plain<'_> {
    #[inline]
    fn look<'a>(glance: &'a Glance, frame: &Frame) -> Option<Plain<'a>> {
        let Glance { link, ip, .. } = glance;
        let end = (link + ip.total_len).min(frame.len());
        let tcp = frame.data().get(link + ip.header_len..end)?;
        let (mut seg, header_len) = Header::parse(tcp)?;
        seg.ecn = ip.traffic_class & 3;
        (!seg.flags.has(Flags::SYN)).then_some(Plain { glance, seg, header_len })
    }

    fn key(&self) -> FlowKey {
        FlowKey::new(
            SocketAddr::new(self.glance.ip.dst, self.seg.dst_port),
            SocketAddr::new(self.glance.ip.src, self.seg.src_port),
        )
    }

    /// Payload, padding excluded.
    fn payload_len(&self) -> usize {
        self.glance.ip.total_len - self.glance.ip.header_len - self.header_len
    }

    fn has_right_checksum(&self, frame: &Frame) -> bool {
        let from = self.glance.link + self.glance.ip.header_len;
        let len = self.glance.ip.total_len - self.glance.ip.header_len;
        let pseudo = checksum::pseudo(self.glance.ip.src, self.glance.ip.dst, protocol::TCP, len);
        let sum = if frame.frags.is_empty() {
            checksum::combine(pseudo, checksum::sum(&frame.data()[from..from + len]))
        } else {
            frame_sum::sum_from(pseudo, frame, from)
        };
        checksum::is_valid(sum)
    }

    /// The header says no more than a sequence number, an acknowledgement, a window and timestamps.
    fn has_plain_header(&self) -> bool {
        let timestamps = self.header_len == HEADER_BYTES + TIMESTAMP_BYTES
            && self.seg.options.timestamp.is_some();
        let Flags(flags) = self.seg.flags;
        flags & !Flags::PSH.0 == Flags::ACK.0 && (timestamps || self.header_len == HEADER_BYTES)
    }
}

impl Tcp {
    /// A frame from a device, its link header at the front. `Err`: it goes the long way.
    // Inline, so that the glance stays in registers: 60 instructions of a segment.
    #[inline(always)]
    pub(crate) fn input_plain<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        glance: &Glance,
        mut frame: Frame,
    ) -> Result<Fate, Frame> {
        if !self.takes_short_ways() {
            return Err(frame);
        }
        let alias = glance.alias;
        let Some(plain) = Plain::look(glance, &frame) else { return Err(frame) };
        let is_v4 = glance.ip.src.is_ipv4();
        let Some(index) = self.connection_of(&plain.key()) else { return Err(frame) };
        if lower.ip.taps.listens(is_v4, protocol::TCP) {
            return Err(frame);
        }
        let c = &mut self.connections[index as usize];
        let accepted = Accepted(Some((alias, lower.ip.address_version())));
        if c.notes.accepted != accepted {
            if !accepts(lower.ip, alias, glance.ip.src, glance.ip.dst) {
                return Err(frame);
            }
            c.notes.accepted = accepted;
        }
        let trusted = glance.trust || frame.meta.checksum.is_settled();
        if !trusted && !plain.has_right_checksum(&frame) {
            return Err(frame);
        }
        if !lower.path.is_transparent() && !passes(lower, &plain, &mut c.notes.known) {
            return Err(frame);
        }
        let packets = take_headers(lower, &plain, &mut frame);
        Ok(self.take(lower, &plain, (index, packets), frame))
    }

    /// A frame with a packet of the path layer, its link header at the front: a segment that the
    /// layer only takes its header off is taken as if it had come without, by what its connection
    /// takes. `Err`: it goes the long way.
    #[inline(never)]
    pub(crate) fn input_rewritten<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        below: &Glance,
        mut frame: Frame,
    ) -> Result<Fate, Frame> {
        if !self.takes_short_ways() || !self.accepts_below(lower, below) {
            return Err(frame);
        }
        let head = &frame.data()[below.link + below.ip.header_len..];
        let is = &below.ip;
        let locators = PathAddrs { src: is.src, dst: is.dst, protocol: is.protocol };
        let Some(restored) = lower.path.would_restore(&locators, head) else {
            return Err(frame);
        };
        let ulids = &restored.addrs;
        let glance = below.above((ulids.src, ulids.dst), ulids.protocol, restored.skip);
        let taps = &lower.ip.taps;
        if glance.ip.protocol != protocol::TCP
            || taps.listens(below.ip.src.is_ipv4(), below.ip.protocol)
            || taps.listens(glance.ip.src.is_ipv4(), protocol::TCP)
        {
            return Err(frame);
        }
        let Some(plain) = Plain::look(&glance, &frame) else { return Err(frame) };
        let Some(index) = self.connection_of(&plain.key()) else { return Err(frame) };
        let summed = matches!(frame.meta.checksum, Checksum::Summed(_));
        let trusted = glance.trust || frame.meta.checksum.is_settled();
        if summed || !trusted && !plain.has_right_checksum(&frame) {
            return Err(frame);
        }
        lower.path.restored(lower.ctx.now, &locators, &restored);
        below.take_mapped_headers(lower.ctx.mib, &mut frame, &glance, plain.header_len);
        lower.ctx.mib.tcp.in_segs += 1;
        Ok(self.take(lower, &plain, (index, 1), frame))
    }

    /// Whether IP takes packets between these locators, which are no connection's to remember.
    #[inline]
    fn accepts_below<P: PathLayer>(&mut self, lower: &Lower<'_, P>, below: &Glance) -> bool {
        let (alias, src, dst) = (below.alias, below.ip.src, below.ip.dst);
        let accepted = Some((alias, lower.ip.address_version(), src, dst));
        if self.accepted_below != accepted {
            if !accepts(lower.ip, alias, src, dst) {
                return false;
            }
            self.accepted_below = accepted;
        }
        true
    }

    /// Gives a connection a segment whose headers are taken off and counted, of so many packets of
    /// the wire.
    #[inline(always)]
    fn take<P: PathLayer>(
        &mut self,
        lower: &mut Lower<'_, P>,
        plain: &Plain<'_>,
        (index, packets): (u32, u64),
        frame: Frame,
    ) -> Fate {
        lower.ctx.outbox.reached_transport();
        let now = lower.ctx.now;
        let mut cx = Cx { now, stats: &mut lower.ctx.mib.tcp, budget: self.budget };
        let c = &mut self.connections[index as usize];
        if !c.predicts(&cx, plain) {
            let packet = plain.glance.packet();
            return self.give_connection(lower, &packet, index, &plain.seg, frame);
        }
        let before = c.snd_una;
        c.take_predicted(&mut cx, &plain.seg, packets, frame);
        if c.snd_una != before {
            if now - c.notes.confirmed_at >= CONFIRM_EVERY {
                c.notes.confirmed_at = now;
                let (key, on) = (c.key, c.alias);
                if plain.glance.alias == on {
                    lower.confirm_reachable((key.local, key.peer), Some(flow_of(&key)));
                }
            }
            if !lower.path.is_transparent() {
                advise_progress(lower, c);
            }
        }
        self.settle(lower, index);
        Fate::Delivered
    }
}

impl Tcp {
    /// The connection of a name: most segments are for one that the last ones were for.
    #[inline(always)]
    fn connection_of(&mut self, key: &FlowKey) -> Option<u32> {
        let ports = key.local_port ^ key.peer_port.rotate_left(5);
        let guess = &mut self.recent[usize::from(ports ^ ports >> 8) % RECENT_FLOWS];
        let known = self.connections.get(*guess as usize);
        if known.is_some_and(|c| c.key == *key && !c.notes.detached) {
            return Some(*guess);
        }
        let Some(Flow::Connection(index)) = self.flow(key) else { return None };
        self.recent[usize::from(ports ^ ports >> 8) % RECENT_FLOWS] = index;
        Some(index)
    }
}

/// Whether the path layer lets a segment through unchanged; it is told of it then.
// Inline: half of what it costs would be the call.
#[inline(always)]
fn passes<P: PathLayer>(lower: &mut Lower<'_, P>, plain: &Plain<'_>, known: &mut Known) -> bool {
    lower.noted_in(known) || passes_otherwise(lower, plain, known)
}

#[inline(never)]
fn passes_otherwise<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    plain: &Plain<'_>,
    known: &mut Known,
) -> bool {
    let (src, dst) = (plain.glance.ip.src, plain.glance.ip.dst);
    let passes = lower.passes(dst, src, known);
    if passes {
        lower.path.passed_in(lower.ctx.now, src, dst, known.passing, plain.payload_len());
    }
    passes
}

/// Counts a packet and leaves its payload; returns how many packets of the wire it stands for.
fn take_headers<P: PathLayer>(
    lower: &mut Lower<'_, P>,
    plain: &Plain<'_>,
    frame: &mut Frame,
) -> u64 {
    let packets = plain.glance.take_headers(lower.ctx.mib, frame, plain.header_len);
    lower.ctx.mib.tcp.in_segs += packets;
    frame.pull_front(plain.header_len);
    packets
}

impl Connection {
    /// Whether a segment is one of those that take the short way.
    fn predicts(&self, cx: &Cx<'_>, plain: &Plain<'_>) -> bool {
        let (seg, len) = (&plain.seg, plain.payload_len());
        let open = match self.state {
            // What comes after our FIN was acknowledged is like what came before.
            TcpState::Established | TcpState::FinWait2 => {
                self.peer_fin.is_none() && !self.read_shut && self.owner != Owner::Nobody
            }
            TcpState::CloseWait => len == 0,
            _ => false,
        };
        open && plain.has_plain_header()
            && seg.seq == self.rcv_nxt
            && len <= self.rcv_wnd() as usize
            && seg.ack >= self.snd_una
            && seg.ack <= self.snd_nxt
            && self.has_newer_timestamp(seg)
            && self.assembler.is_empty()
            && self.urgent.is_none()
            && self.keepalive_at.is_none()
            && !self.ecn.is_active()
            && !cx.budget.is_tight()
    }

    /// RFC 7323 5.3 R1 and R3 pass without a question.
    fn has_newer_timestamp(&self, seg: &Header) -> bool {
        match seg.options.timestamp {
            Some((value, _)) => self.ts_ok && value.wrapping_sub(self.ts_recent) as i32 >= 0,
            None => !self.ts_ok,
        }
    }

    /// Takes a segment that was predicted.
    fn take_predicted(&mut self, cx: &mut Cx<'_>, seg: &Header, packets: u64, payload: Frame) {
        let len = payload.total_len();
        self.totals.times.last_received = cx.now;
        self.totals.times.segments_received += packets;
        // Memory is not tight.
        self.recv.set_window_max(usize::MAX);
        if let Some((value, _)) = seg.options.timestamp
            && seg.seq <= self.rcv_acked
        {
            (self.ts_recent, self.ts_recent_at) = (value, cx.now);
        }
        self.process_ack(cx, seg, len);
        if len > 0 {
            let _taken = self.take_in_order(cx, payload);
            self.measure_recv_rtt(cx.now, seg, len);
        }
    }
}
