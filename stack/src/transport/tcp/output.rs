//! Segments to send: what a connection says next, one (super-)segment at a time.
//!
//! Order: handshake, retransmission, new data and FIN, probes, a bare ACK. Whatever goes out
//! carries the current acknowledgement, so at most one ACK is owed.

use core::time::Duration;

use crate::seq::SeqNum;
use crate::socket::tcp::TcpState;
use crate::time::Instant;
use crate::wire::tcp::{Flags, HEADER_BYTES, Header, Options, TIMESTAMP_BYTES};

use super::cc::Controller;
use super::state::{Connection, Cx, Probe};

/// What the path takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathLimits {
    /// Largest IP packet.
    pub(crate) mtu: usize,
    /// Largest super-segment payload; 0: one segment at a time.
    pub(crate) gso_bytes_max: usize,
}

/// A segment, or several under one header if `payload_len > mss`.
#[derive(Debug)]
pub(crate) struct SegmentOut {
    pub(crate) header: Header,
    /// Where the payload begins, in bytes of the send buffer.
    pub(crate) offset: usize,
    pub(crate) payload_len: usize,
    /// Payload of each segment it is cut into.
    pub(crate) mss: usize,
}

/// What may be said about new data now.
enum Grant {
    /// Send this many bytes.
    Bytes(usize),
    /// The window, not us, holds it back: probe.
    Closed,
    /// Wait for an acknowledgement or for more data.
    Wait,
}

/// Super-segments in a congestion window, at least.
const BURSTS_PER_WINDOW: usize = 3;

/// The RFC 791 limit on a packet, less IP and TCP headers with options.
const SEGMENT_BYTES_MAX: usize = 65_535 - 60 - 60;

impl Connection {
    /// The next segment; `None`: nothing to say now. The state is as if it had been sent.
    pub(crate) fn poll_segment(
        &mut self,
        cx: &mut Cx<'_>,
        limits: &PathLimits,
    ) -> Option<SegmentOut> {
        self.follow_path(cx.now, limits.mtu);
        let segment = self.next_segment(cx, limits);
        if segment.is_none() {
            self.note_times(cx.now);
        }
        segment
    }

    fn next_segment(&mut self, cx: &mut Cx<'_>, limits: &PathLimits) -> Option<SegmentOut> {
        match self.state {
            TcpState::Closed | TcpState::Listen | TcpState::TimeWait => None,
            TcpState::SynSent | TcpState::SynReceived => match self.poll_syn(cx) {
                None if self.may_send_early() => {
                    self.grant_new(cx, limits).map(|len| self.new_segment(cx, len, self.mss_now()))
                }
                out => out,
            },
            _ => {
                let first = self
                    .poll_mark_ack(cx)
                    .or_else(|| self.poll_retransmission(cx, limits))
                    .or_else(|| self.poll_tail_probe(cx, limits))
                    .or_else(|| self.poll_mtu_probe(cx, limits));
                if first.is_some() {
                    return first;
                }
                if let Some(len) = self.grant_new(cx, limits) {
                    return Some(self.new_segment(cx, len, self.mss_now()));
                }
                if self.probe.is_some() {
                    return self.poll_probe(cx);
                }
                self.ack_now.then(|| self.bare(cx, self.snd_nxt))
            }
        }
    }

    /// The path MTU changed (RFC 1191, 8201).
    pub(crate) fn set_mtu(&mut self, mtu: usize) {
        if self.path.mtu != mtu {
            self.path.resize(mtu);
            let mss = self.mss_full();
            self.cc.set_mss(mss);
        }
    }

    fn poll_syn(&mut self, cx: &mut Cx<'_>) -> Option<SegmentOut> {
        let active = self.state == TcpState::SynSent;
        if !self.syn_pending {
            // What does not fit the handshake is answered with an ACK.
            return (self.ack_now && !active).then(|| self.bare(cx, self.snd_nxt));
        }
        self.syn_pending = false;
        let flags = if active { Flags::SYN } else { Flags::SYN.with(Flags::ACK) };
        let ours = self.settings.offers;
        let mut options = Options {
            mss: Some(self.mss_advertised() as u16),
            // Offered by us, or offered by the peer and taken up.
            window_scale: (active && ours.window_scaling || self.scale_agreed)
                .then_some(self.rcv_wscale),
            sack_permitted: active && ours.sack || self.sack_ok,
            timestamp: (active && ours.timestamps || self.ts_ok)
                .then(|| (self.timestamp(cx.now), if active { 0 } else { self.ts_recent })),
            ..Options::default()
        };
        let mut early = 0;
        if active {
            (options.fast_open, early) = self.syn_offer(options.len());
        }
        let mut out = self.segment(cx, self.iss, flags, (early, self.mss_full()));
        out.header.options = options;
        if early > 0 {
            out.mss = early;
            self.syn_data_sent(early);
        }
        self.mark_syn(&mut out.header);
        // RFC 7323 2.2: never scaled in a SYN.
        let window = self.settings.window_of_syn();
        out.header.window = window;
        self.rcv_adv = self.rcv_adv.max(self.rcv_nxt + u32::from(window));
        if self.snd_nxt == self.iss {
            self.snd_nxt = self.iss + 1 + early as u32;
            self.progress_at = cx.now;
            cx.stats.out_segs += 1;
        } else {
            cx.stats.retrans_segs += 1;
            cx.stats.syn_retrans += 1;
            self.totals.losses.retransmits.handshake += 1;
        }
        self.rtx_at = Some(cx.now + self.rtt.rto());
        Some(out)
    }

    /// How many bytes never sent before may go out now; none is a FIN alone.
    fn grant_new(&mut self, cx: &mut Cx<'_>, limits: &PathLimits) -> Option<usize> {
        let unsent = self.unsent();
        let fin = self.fin_queued && !self.fin_sent && self.state != TcpState::SynReceived;
        if unsent == 0 && !fin {
            self.note_limit();
            return None;
        }
        self.restart_after_idle(cx);
        if unsent > 0 && !self.may_send_paced(cx.now) {
            return None;
        }
        let mss = self.mss_now();
        match self.grant(unsent, fin, mss, self.super_len(mss, limits)) {
            Grant::Bytes(len) => Some(len),
            Grant::Wait => {
                self.arm_cork(cx.now);
                self.note_limit();
                None
            }
            Grant::Closed => {
                self.arm_persist(cx);
                None
            }
        }
    }

    /// The next `len` new bytes in segments of `mss`, and FIN if they are the last.
    pub(crate) fn new_segment(&mut self, cx: &mut Cx<'_>, len: usize, mss: usize) -> SegmentOut {
        let from = self.snd_nxt;
        let last = len == self.unsent();
        let fin = self.fin_queued && !self.fin_sent && last && self.usable_window() > len;
        let mut flags = Flags::ACK;
        if fin {
            flags = flags.with(Flags::FIN);
            self.fin_sent = true;
        }
        let mut out = self.data_segment(cx, from, (len, mss), flags);
        self.mark_new_data(&mut out.header, len);
        let end = from + len as u32 + u32::from(fin);
        self.on_send_new(cx, end);
        self.snd_nxt = end;
        self.small.on_sent(end, !len.is_multiple_of(mss));
        self.path.on_sent(len >= mss, end);
        cx.stats.out_segs += len.div_ceil(mss).max(1) as u64;
        (self.persist_at, self.persist_count) = (None, 0);
        self.arm_retransmission(cx);
        if self.settings.notsent_lowat != usize::MAX {
            self.tell_writable();
        }
        out
    }

    /// Most payload under one header: whole segments, no longer than an IP packet, and no more than
    /// a part of the congestion window, so that acknowledgements keep coming and the loss of one
    /// super-segment is noticed by the next.
    pub(crate) fn super_len(&self, mss: usize, limits: &PathLimits) -> usize {
        if self.ecn.goes_alone() {
            return mss;
        }
        let most = limits.gso_bytes_max.min(SEGMENT_BYTES_MAX);
        if self.urgent_end().is_some() {
            // A device that cuts would copy the pointer, which counts from each segment's start.
            return mss;
        }
        let most = most.min(self.window() / BURSTS_PER_WINDOW).min(self.paced_len(mss));
        (most / mss).max(1) * mss
    }

    /// Sender's silly-window avoidance and Nagle (RFC 9293 3.8.6.2.1, 3.7.4).
    fn grant(&self, unsent: usize, fin: bool, mss: usize, super_len: usize) -> Grant {
        let window = self.usable_window();
        let idle = self.flight() == 0;
        let by_window = unsent.min(window);
        if by_window == 0 && (unsent > 0 || window == 0) {
            return if idle { Grant::Closed } else { Grant::Wait };
        }
        let mut room = self.window().saturating_sub(self.pipe());
        if idle {
            room = room.max(mss);
        }
        if by_window > room {
            // Whole segments only where the congestion window is what limits.
            room = room / mss * mss;
            if room == 0 {
                return Grant::Wait;
            }
        }
        let len = by_window.min(room).min(super_len);
        let (whole, tail) = (len / mss * mss, len % mss);
        if tail == 0 && len > 0 {
            return Grant::Bytes(len);
        }
        if len == unsent && self.may_send_tail(fin) {
            return Grant::Bytes(len);
        }
        if whole > 0 {
            return Grant::Bytes(whole);
        }
        if len < unsent && (self.small.force || len >= self.snd_wnd_max as usize / 2) {
            return Grant::Bytes(len);
        }
        if len < unsent && idle { Grant::Closed } else { Grant::Wait }
    }

    /// Bytes the peer's window takes now.
    pub(crate) fn usable_window(&self) -> usize {
        (self.snd_una + self.snd_wnd).diff(self.snd_nxt).max(0) as usize
    }

    /// RFC 5681 4.1.
    fn restart_after_idle(&mut self, cx: &Cx<'_>) {
        let idle = cx.now - self.last_sent;
        if self.flight() == 0 && idle > self.rtt.rto() {
            self.cc.on_idle(cx.now, idle);
            self.pacer_on_idle();
        }
    }

    fn poll_probe(&mut self, cx: &mut Cx<'_>) -> Option<SegmentOut> {
        match self.probe.take()? {
            Probe::KeepAlive => cx.stats.keepalives += 1,
            Probe::Window => cx.stats.window_probes += 1,
        }
        // RFC 9293 3.8.4, 3.8.6.1: an old sequence number makes the peer answer with its window.
        Some(self.bare(cx, self.snd_una - 1))
    }

    pub(crate) fn bare(&mut self, cx: &mut Cx<'_>, seq: SeqNum) -> SegmentOut {
        cx.stats.out_segs += 1;
        self.segment(cx, seq, Flags::ACK, (0, 1))
    }

    pub(crate) fn data_segment(
        &mut self,
        cx: &mut Cx<'_>,
        from: SeqNum,
        (len, mss): (usize, usize),
        mut flags: Flags,
    ) -> SegmentOut {
        if self.pushes(from, len) {
            flags = flags.with(Flags::PSH);
        }
        let mut out = self.segment(cx, from, flags, (len, mss));
        if len > 0 {
            out.offset = (from - self.send_base) as usize;
        }
        self.charge_pacer(cx.now, len);
        self.totals.times.bytes_sent += len as u64;
        self.last_sent = cx.now;
        out
    }

    /// A segment with the current acknowledgement; nothing is owed after it.
    #[inline(always)]
    fn segment(
        &mut self,
        cx: &Cx<'_>,
        seq: SeqNum,
        flags: Flags,
        (payload_len, mss): (usize, usize),
    ) -> SegmentOut {
        // Without payload there is nothing to cut.
        let mss = if payload_len > 0 { mss } else { 1 };
        let mut options = self.options(cx.now);
        let acks = flags.has(Flags::ACK);
        let mut header = Header {
            src_port: self.key.local_port,
            dst_port: self.key.peer_port,
            seq,
            flags,
            ..Header::default()
        };
        if acks {
            header.ack = self.rcv_nxt;
            header.window = self.advertise();
            self.dsack = None;
            self.rcv_acked = self.rcv_nxt;
            self.note_acked(cx.now, payload_len > 0);
        } else {
            options.sack = <_>::default();
        }
        header.options = options;
        if acks {
            self.mark_ack(&mut header);
        }
        self.totals.times.segments_sent += payload_len.div_ceil(mss).max(1) as u64;
        self.mark_urgent(&mut header);
        SegmentOut { header, offset: 0, payload_len, mss }
    }

    /// Timestamps on every segment; SACK blocks while there are holes (RFC 2018 section 4, RFC
    /// 2883: the duplicate first).
    fn options(&self, now: Instant) -> Options {
        let mut options = Options::default();
        if self.ts_ok {
            options.timestamp = Some((self.timestamp(now), self.ts_recent));
        }
        if self.sack_ok && self.wants_sack() {
            let mut room = if self.ts_ok { 3 } else { 4 };
            if let Some(block) = self.dsack {
                options.sack.push(block);
                room -= 1;
            }
            self.assembler.sack_blocks(room, &mut options.sack);
        }
        self.ecn.add_option(&mut options);
        options
    }

    fn wants_sack(&self) -> bool {
        self.dsack.is_some() || !self.assembler.is_empty()
    }

    /// Payload of a full segment with the options of now.
    #[inline]
    pub(crate) fn mss_now(&self) -> usize {
        let full = self.mss_full();
        if !(self.ecn.wants_option() || self.sack_ok && self.wants_sack()) {
            return full;
        }
        self.mss_beside_options(full)
    }

    fn mss_beside_options(&self, full: usize) -> usize {
        let usual = if self.ts_ok { TIMESTAMP_BYTES } else { 0 };
        let bytes = self.options(Instant::ZERO).len() - usual;
        // An MSS that the peer named does not count options (RFC 6691).
        full.saturating_sub(bytes).max(HEADER_BYTES)
    }

    /// The window field, and the right edge it promises: never moved back by a unit of the scale or
    /// more (RFC 7323 2.4), and not forward by crumbs (RFC 9293 3.8.6.2.2).
    fn advertise(&mut self) -> u16 {
        let edge = self.window_edge();
        let wanted = edge.diff(self.rcv_nxt).max(0) as u32;
        let unit = 1u32 << self.rcv_wscale;
        let (mut field, up) = (wanted >> self.rcv_wscale, wanted.div_ceil(unit).min(0xffff));
        let takes_back = self.rcv_nxt + (field << self.rcv_wscale) < self.rcv_adv;
        // Rounding up every time would let the edge creep beyond the buffer.
        if takes_back && self.rcv_nxt + (up << self.rcv_wscale) <= self.free_edge() + unit {
            field = up;
        }
        let field = field.min(0xffff);
        self.rcv_adv = self.rcv_adv.max(self.rcv_nxt + (field << self.rcv_wscale));
        field as u16
    }

    /// Where the receive buffer ends.
    fn free_edge(&self) -> SeqNum {
        let room = self.recv.window_limit().saturating_sub(self.recv.len());
        // What the field cannot say is no window: reading would bring updates that say nothing new.
        self.rcv_nxt + room.min(0xffff << self.rcv_wscale) as u32
    }

    fn window_edge(&self) -> SeqNum {
        let edge = self.free_edge();
        let crumb = (self.recv.window_limit() / 2).min(self.rcv_mss) as i32;
        if edge.diff(self.rcv_adv) < crumb { self.rcv_adv } else { edge }
    }

    /// The application has read: tell the peer once it is worth a segment.
    pub(crate) fn window_update(&mut self) {
        if !self.is_synchronised() || self.fin_received {
            return;
        }
        let limit = self.recv.window_limit().min(0xffff << self.rcv_wscale);
        let gain = self.window_edge().diff(self.rcv_adv);
        let starved = (self.rcv_wnd() as usize) < 2 * self.rcv_mss;
        if gain > 0 && (starved || gain as usize >= limit / 4) {
            self.ack_now = true;
        }
    }

    /// The RST of an abort (RFC 9293 3.10.5), with a timestamp as RFC 7323 3.2 wants it.
    pub(crate) fn reset_header(&self, now: Instant) -> Header {
        let timestamp = self.ts_ok.then(|| (self.timestamp(now), self.ts_recent));
        Header {
            options: Options { timestamp, ..Options::default() },
            src_port: self.key.local_port,
            dst_port: self.key.peer_port,
            seq: self.snd_nxt,
            ack: self.rcv_nxt,
            flags: Flags::RST.with(Flags::ACK),
            ..Header::default()
        }
    }

    pub(crate) fn arm_retransmission(&mut self, cx: &Cx<'_>) {
        if self.rtx_at.is_none() {
            self.rtx_at = Some(cx.now + self.rtt.rto());
        }
        self.schedule_probe(cx.now);
    }

    fn arm_persist(&mut self, cx: &Cx<'_>) {
        if self.persist_at.is_none() && self.probe.is_none() {
            let wait = self.rtt.rto().saturating_mul(1 << self.persist_count.min(16));
            self.persist_at = Some(cx.now + wait.min(PERSIST_MAX));
        }
    }

    /// Whether [`Connection::poll_segment`] is worth a call.
    pub(crate) fn wants_output(&self) -> bool {
        if matches!(self.state, TcpState::Closed | TcpState::TimeWait) {
            return false;
        }
        let data = self.unsent() > 0 || self.sent.lost() > 0;
        self.ack_now
            || self.syn_pending
            || self.probe.is_some()
            || self.sent.recent.probe.due
            || (data && (!self.pacer.is_waiting() || self.recovery.force))
            || (self.fin_queued && !self.fin_sent && self.unsent() == 0)
    }
}

/// RFC 9293 3.8.6.1 leaves the limit open; RFC 6298's will do.
const PERSIST_MAX: Duration = Duration::from_mins(1);
