//! Segments received, in the order of RFC 9293 section 3.10.7, with RFC 5961 and RFC 7323.

use core::time::Duration;

use crate::drop::DropReason;
use crate::frame::{Frame, Gso};
use crate::seq::SeqNum;
use crate::socket::tcp::{TcpError, TcpState};
use crate::wire::tcp::{Flags, Header};

use super::assembler::Inserted;
use super::payload;
use super::state::{Connection, Cx, Owner};

/// RFC 7323 5.5: a timestamp this old says nothing any more.
const PAWS_IDLE_MAX: Duration = Duration::from_hours(24 * 24);

/// Bare segments outside the window are answered this often.
const STRAY_EVERY: Duration = Duration::from_millis(100);

/// An answer that the connection does not send itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    None,
    /// An ACK, within the stack's budget (RFC 5961).
    Challenge,
    /// A RST.
    Reset(Header),
}

/// What became of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) dropped: Option<DropReason>,
    pub(crate) reply: Reply,
}

impl Outcome {
    const TAKEN: Outcome = Outcome { dropped: None, reply: Reply::None };

    fn drop(reason: DropReason) -> Outcome {
        Outcome { dropped: Some(reason), reply: Reply::None }
    }

    fn challenge(reason: DropReason) -> Outcome {
        Outcome { dropped: Some(reason), reply: Reply::Challenge }
    }

    fn reset(reason: DropReason, header: Header) -> Outcome {
        Outcome { dropped: Some(reason), reply: Reply::Reset(header) }
    }
}

/// The RST that answers `seg` (RFC 9293 3.5.2); `payload_len` counts its data.
pub(crate) fn reset_for(seg: &Header, payload_len: usize) -> Header {
    let mut rst = Header { src_port: seg.dst_port, dst_port: seg.src_port, ..Header::default() };
    if seg.flags.has(Flags::ACK) {
        (rst.seq, rst.flags) = (seg.ack, Flags::RST);
    } else {
        rst.ack = seg.seq + sequence_len(seg, payload_len);
        rst.flags = Flags::RST.with(Flags::ACK);
    }
    rst
}

/// SEG.LEN: data, SYN and FIN.
pub(crate) fn sequence_len(seg: &Header, payload_len: usize) -> u32 {
    payload_len as u32 + u32::from(seg.flags.has(Flags::SYN)) + u32::from(seg.flags.has(Flags::FIN))
}

/// RFC 9293 3.10.7.4, the table of four cases, for a window of `wnd` bytes from `nxt`.
pub(crate) fn in_window(nxt: SeqNum, wnd: u32, seg: &Header, payload_len: usize) -> bool {
    let len = sequence_len(seg, payload_len);
    if wnd == 0 {
        return len == 0 && seg.seq == nxt;
    }
    let inside = |seq: SeqNum| seq.in_range(nxt, nxt + wnd);
    if len == 0 {
        return inside(seg.seq);
    }
    inside(seg.seq) || inside(seg.seq + (len - 1))
        // It covers the whole window.
        || (seg.seq < nxt && seg.seq + len > nxt + wnd)
}

impl Connection {
    /// A segment of this connection arrived; `payload` is the frame without TCP header.
    pub(crate) fn on_segment(&mut self, cx: &mut Cx<'_>, seg: &Header, payload: Frame) -> Outcome {
        self.totals.times.last_received = cx.now;
        self.note_memory(cx);
        self.totals.times.segments_received += payload::segments(&payload);
        match self.state {
            TcpState::SynSent => self.on_syn_sent(cx, seg, payload),
            TcpState::Closed | TcpState::Listen | TcpState::TimeWait => {
                Outcome::drop(DropReason::TcpStateRefused)
            }
            _ => self.on_established(cx, seg, payload),
        }
    }

    /// RFC 9293 3.10.7.3.
    fn on_syn_sent(&mut self, cx: &mut Cx<'_>, seg: &Header, payload: Frame) -> Outcome {
        let acks = seg.flags.has(Flags::ACK);
        if acks && (seg.ack <= self.iss || seg.ack > self.syn_ack_max()) {
            if seg.flags.has(Flags::RST) {
                return Outcome::drop(DropReason::TcpRstInvalid);
            }
            let rst = reset_for(seg, payload.total_len());
            return Outcome::reset(DropReason::TcpAckInvalid, rst);
        }
        if seg.flags.has(Flags::RST) {
            if !acks {
                return Outcome::drop(DropReason::TcpRstInvalid);
            }
            self.fail(cx, TcpError::Refused);
            return Outcome::TAKEN;
        }
        if !seg.flags.has(Flags::SYN) {
            return Outcome::drop(DropReason::TcpStateRefused);
        }
        self.take_syn(cx.now, seg.seq, seg.window, &seg.options);
        self.rcv_adv = self.rcv_nxt + u32::from(self.settings.window_of_syn());
        self.syn_data_acked(cx, seg);
        self.marks_on_syn(cx, seg);
        if acks {
            self.snd_wl2 = seg.ack;
            self.handshake_acked(cx);
            self.snd_una = seg.ack;
            self.rtx_at = None;
            self.ack_now = true;
            // Seventh and eighth: text and FIN of the SYN-ACK (RFC 7413 4.2.2 allows both).
            let rest = Header { seq: seg.seq + 1, flags: seg.flags.without(Flags::SYN), ..*seg };
            return self.take_payload(cx, &rest, payload);
        }
        // Simultaneous open: our SYN again, now with an ACK. Its text comes again as well.
        self.set_state(cx, TcpState::SynReceived);
        self.syn_pending = true;
        Outcome::TAKEN
    }

    /// Text of a SYN, in SYN-RECEIVED.
    pub(crate) fn take_syn_payload(&mut self, cx: &mut Cx<'_>, payload: Frame) {
        let _taken = self.take_in_order(cx, payload);
    }

    /// Our SYN was acknowledged.
    fn handshake_acked(&mut self, cx: &mut Cx<'_>) {
        let sent_again = self.rtx_count > 0;
        // What else it acknowledges comes after.
        self.snd_una = self.iss + 1;
        if sent_again {
            self.rtt.syn_was_lost();
        } else if !self.notes.opening.untimed {
            // The time of the first SYN.
            let rtt = cx.now - self.progress_at;
            self.rtt.sample(rtt, 1);
            self.rtt.observe_min(cx.now, rtt);
        }
        self.rtx_count = 0;
        self.rtt.end_backoff();
        self.rtx_at = (self.flight() > 0).then(|| cx.now + self.rtt.rto());
        self.progress_at = cx.now;
        self.syn_pending = false;
        let next = if self.fin_queued { TcpState::FinWait1 } else { TcpState::Established };
        self.set_state(cx, next);
        self.arm_keepalive(cx.now);
        (self.wake, self.write_blocked) = (true, false);
    }

    /// RFC 9293 3.10.7.4: SYN-RECEIVED and everything synchronised.
    fn on_established(&mut self, cx: &mut Cx<'_>, seg: &Header, payload: Frame) -> Outcome {
        let mut seg = *seg;
        if self.state == TcpState::SynReceived
            && seg.flags.has(Flags::SYN)
            && !seg.flags.has(Flags::RST)
            && seg.seq == self.irs
        {
            if !seg.flags.has(Flags::ACK) {
                // Its SYN again: ours was lost.
                cx.stats.duplicate_segs += 1;
                if !self.marks_on_repeated_syn(&seg) {
                    self.fail(cx, TcpError::Reset);
                    let rst = reset_for(&seg, payload.total_len());
                    return Outcome::reset(DropReason::TcpFlagsInvalid, rst);
                }
                self.syn_pending = true;
                return Outcome::TAKEN;
            }
            // Simultaneous open: the SYN is known, the ACK is new.
            seg.flags = seg.flags.without(Flags::SYN);
            seg.seq += 1;
            self.marks_begin(true);
        } else {
            self.marks_begin(false);
        }
        if let Some(outcome) = self.check_sequence(cx, &seg, payload.total_len()) {
            return outcome;
        }
        self.keepalive_count_reset(cx.now);
        if let Some(outcome) = self.check_control(cx, &seg, payload.total_len()) {
            return outcome;
        }
        self.marks_on_segment(&seg, payload.total_len(), payload::segments(&payload));
        self.remember_timestamp(cx, &seg);
        self.process_ack(cx, &seg, payload.total_len());
        self.take_urgent(cx, &seg);
        if self.on_fin_acked(cx) {
            return Outcome::TAKEN;
        }
        self.take_payload(cx, &seg, payload)
    }

    /// First: PAWS and the window. Whatever fails is answered with an ACK, unless it is a RST.
    fn check_sequence(&mut self, cx: &mut Cx<'_>, seg: &Header, len: usize) -> Option<Outcome> {
        let rst = seg.flags.has(Flags::RST);
        if !rst && let Some(outcome) = self.check_timestamp(cx, seg, len) {
            return Some(outcome);
        }
        // RFC 5961 section 4: a SYN is challenged wherever it lies.
        if in_window(self.rcv_nxt, self.rcv_wnd(), seg, len) || (seg.flags.has(Flags::SYN) && !rst)
        {
            return None;
        }
        if rst {
            return Some(Outcome::drop(DropReason::TcpRstInvalid));
        }
        let end = seg.seq + len as u32;
        let old = len > 0 && end <= self.rcv_nxt;
        if old {
            cx.stats.duplicate_segs += 1;
            // RFC 2883
            self.dsack = Some((seg.seq, end));
        }
        let full = !old && self.rcv_wnd() == 0 && seg.seq == self.rcv_nxt;
        if full && seg.flags.has(Flags::ACK) && self.ack_is_acceptable(seg) {
            // Special allowance at a closed window: the ACK counts.
            self.process_ack(cx, seg, len);
            self.take_urgent(cx, seg);
            self.on_fin_acked(cx);
        }
        self.answer_stray(cx, len);
        let reason = if full { DropReason::TcpBufferFull } else { DropReason::TcpOutOfWindow };
        Some(Outcome::drop(reason))
    }

    /// An unacceptable segment is answered with an ACK. Two ends that disagree must not answer each
    /// other's bare ACKs at the speed of the line.
    fn answer_stray(&mut self, cx: &Cx<'_>, len: usize) {
        if len > 0 || cx.now - self.notes.stray_answered_at >= STRAY_EVERY {
            self.notes.stray_answered_at = cx.now;
            self.ack_now = true;
        }
    }

    /// RFC 7323 5.3 R1 and 3.2.
    fn check_timestamp(&mut self, cx: &mut Cx<'_>, seg: &Header, len: usize) -> Option<Outcome> {
        if !self.ts_ok {
            return None;
        }
        let Some((value, _)) = seg.options.timestamp else {
            let syn = seg.flags.has(Flags::SYN);
            return (!syn).then(|| Outcome::drop(DropReason::TcpPaws));
        };
        let old = (value.wrapping_sub(self.ts_recent) as i32) < 0;
        if !old || cx.now - self.ts_recent_at > PAWS_IDLE_MAX {
            return None;
        }
        cx.stats.paws_rejected += 1;
        self.answer_stray(cx, len);
        Some(Outcome::drop(DropReason::TcpPaws))
    }

    /// Then RST, SYN and the acknowledgement number.
    fn check_control(&mut self, cx: &mut Cx<'_>, seg: &Header, len: usize) -> Option<Outcome> {
        if seg.flags.has(Flags::RST) {
            // RFC 5961 section 3
            if seg.seq != self.rcv_nxt {
                return Some(Outcome::challenge(DropReason::TcpRstInvalid));
            }
            self.on_reset(cx);
            return Some(Outcome::TAKEN);
        }
        if seg.flags.has(Flags::SYN) {
            self.marks_on_syn_ack_again(seg);
            return Some(Outcome::challenge(DropReason::TcpStateRefused));
        }
        if !seg.flags.has(Flags::ACK) {
            return Some(Outcome::drop(DropReason::TcpFlagsInvalid));
        }
        if self.state == TcpState::SynReceived {
            if seg.ack <= self.snd_una || seg.ack > self.snd_nxt {
                return Some(Outcome::reset(DropReason::TcpAckInvalid, reset_for(seg, len)));
            }
            // RFC 7323 2.2: from here on windows are scaled.
            self.snd_wnd = 0;
            (self.snd_wl1, self.snd_wl2) = (seg.seq - 1, seg.ack);
            self.handshake_acked(cx);
            self.marks_on_handshake_ack(cx, seg, len);
        }
        if !self.ack_is_acceptable(seg) {
            return Some(Outcome::challenge(DropReason::TcpAckInvalid));
        }
        None
    }

    fn on_reset(&mut self, cx: &mut Cx<'_>) {
        match self.state {
            TcpState::Closing | TcpState::LastAck => self.finish(cx),
            TcpState::SynReceived => self.fail(cx, TcpError::Refused),
            _ => self.fail(cx, TcpError::Reset),
        }
    }

    /// RFC 7323 4.3: only a segment that spans what we last acknowledged moves the echo.
    fn remember_timestamp(&mut self, cx: &mut Cx<'_>, seg: &Header) {
        // RFC 7323 5.5: what is too old to compare with is replaced.
        let newer = |value: u32| {
            value.wrapping_sub(self.ts_recent) as i32 >= 0
                || cx.now - self.ts_recent_at > PAWS_IDLE_MAX
        };
        if let Some((value, _)) = seg.options.timestamp.filter(|_| self.ts_ok)
            && seg.seq <= self.rcv_acked
            && newer(value)
        {
            self.ts_recent = value;
            self.ts_recent_at = cx.now;
        }
    }

    /// Moves on when our FIN was acknowledged; true when the connection is over.
    fn on_fin_acked(&mut self, cx: &mut Cx<'_>) -> bool {
        if !self.fin_acked() {
            return false;
        }
        match self.state {
            TcpState::FinWait1 => self.set_state(cx, TcpState::FinWait2),
            TcpState::Closing => self.enter_time_wait(cx),
            TcpState::LastAck => {
                self.finish(cx);
                return true;
            }
            _ => {}
        }
        false
    }

    /// The data and the FIN of an acceptable segment.
    fn take_payload(&mut self, cx: &mut Cx<'_>, seg: &Header, mut payload: Frame) -> Outcome {
        let fin = seg.flags.has(Flags::FIN);
        if payload.total_len() == 0 && !fin {
            return Outcome::TAKEN;
        }
        if !matches!(self.state, TcpState::Established | TcpState::FinWait1 | TcpState::FinWait2) {
            // The peer has said that there is no more.
            self.ack_now = true;
            return Outcome::TAKEN;
        }
        if self.owner == Owner::Nobody && payload.total_len() > 0 {
            return self.refuse_data(cx, reset_for(seg, payload.total_len()));
        }
        let (mut seq, len) = (seg.seq, payload.total_len());
        let end = seq + len as u32;
        // A FIN before data that is here already cannot be the end.
        if fin && self.peer_fin.is_none() && self.assembler.end().is_none_or(|e| e <= end) {
            self.peer_fin = Some(end);
        }
        if seq < self.rcv_nxt {
            let old = self.rcv_nxt - seq;
            self.dsack = Some((seq, self.rcv_nxt));
            payload::trim_front(&mut payload, old as usize);
            seq = self.rcv_nxt;
        }
        let edge = self.peer_fin.map_or(self.rcv_adv, |fin| self.rcv_adv.min(fin));
        let room = edge.max(seq) - seq;
        payload::truncate(&mut payload, room as usize);
        let in_order = seq == self.rcv_nxt;
        if payload.total_len() > 0 && !self.admit(cx, &payload, in_order) {
            // The sender has to learn how things stand, and the reader to read.
            self.ack_now = true;
            self.wake |= self.recv.len() > 0;
            cx.stats.rcv_q_drop += 1;
            return Outcome::drop(DropReason::TcpMemory);
        }
        let outcome = if in_order {
            self.take_in_order(cx, payload)
        } else {
            self.take_out_of_order(cx, seq, payload)
        };
        self.measure_recv_rtt(cx.now, seg, len);
        self.take_fin(cx);
        outcome
    }

    /// RFC 9293 3.6.1, RFC 2525 2.17: nobody will read it, and the peer must know.
    /// `rst` has the number that the peer waits for, although our FIN may be lost (RFC 5961 3).
    fn refuse_data(&mut self, cx: &mut Cx<'_>, rst: Header) -> Outcome {
        cx.stats.abort_on_data += 1;
        self.fail(cx, TcpError::Aborted);
        Outcome::reset(DropReason::TcpStateRefused, rst)
    }

    pub(crate) fn take_in_order(&mut self, cx: &mut Cx<'_>, payload: Frame) -> Outcome {
        let len = payload.total_len();
        if len == 0 {
            return Outcome::TAKEN;
        }
        let segment = match payload.meta.gso {
            Gso::Tcp4 { mss } | Gso::Tcp6 { mss } => usize::from(mss),
            _ if payload.frags.is_empty() => len,
            _ => 0,
        };
        self.rcv_mss = self.rcv_mss.max(segment).min(self.mss_advertised());
        let hole = !self.assembler.is_empty();
        self.deliver(cx, payload);
        while let Some(frame) = self.assembler.pop(self.rcv_nxt) {
            self.deliver(cx, frame);
        }
        self.wake = true;
        self.owe_ack(cx, hole);
        Outcome::TAKEN
    }

    fn deliver(&mut self, cx: &mut Cx<'_>, frame: Frame) {
        let len = frame.total_len();
        self.rcv_nxt += len as u32;
        self.totals.bytes_received += len as u64;
        if self.read_shut {
            return;
        }
        let tight = cx.budget.is_tight();
        let copied = if tight { self.recv.push_compact(frame) } else { self.recv.push(frame) };
        cx.stats.rcv_copied_octets += copied as u64;
    }

    fn take_out_of_order(&mut self, cx: &mut Cx<'_>, seq: SeqNum, payload: Frame) -> Outcome {
        // RFC 5681 4.2: the sender must learn of the hole at once.
        self.ack_now = true;
        if payload.total_len() == 0 {
            return Outcome::TAKEN;
        }
        match self.assembler.insert(seq, payload, self.recv.limit()) {
            Inserted::Queued { copied } => {
                cx.stats.ofo_queue += 1;
                cx.stats.rcv_copied_octets += copied as u64;
                Outcome::TAKEN
            }
            Inserted::Duplicate(range) => {
                cx.stats.duplicate_segs += 1;
                self.dsack = Some(range);
                Outcome::TAKEN
            }
            Inserted::Full => Outcome::drop(DropReason::TcpReassemblyFull),
        }
    }

    /// RFC 9293 3.10.7.4, eighth: the FIN counts once everything before it has arrived.
    fn take_fin(&mut self, cx: &mut Cx<'_>) {
        if self.fin_received || self.peer_fin != Some(self.rcv_nxt) {
            return;
        }
        self.fin_received = true;
        self.rcv_nxt += 1;
        self.rcv_adv = self.rcv_adv.max(self.rcv_nxt);
        self.assembler.clear();
        self.ack_now = true;
        self.wake = true;
        match self.state {
            TcpState::Established => self.set_state(cx, TcpState::CloseWait),
            TcpState::FinWait1 => self.set_state(cx, TcpState::Closing),
            TcpState::FinWait2 => self.enter_time_wait(cx),
            _ => {}
        }
    }

    fn enter_time_wait(&mut self, cx: &mut Cx<'_>) {
        self.stop_timers();
        self.set_state(cx, TcpState::TimeWait);
        self.wake = true;
    }
}
