//! The acknowledgement side of a received segment: send window, RTT, scoreboard, congestion.

use core::time::Duration;

use crate::socket::tcp::TcpState;
use crate::wire::tcp::{Flags, Header};

use super::cc::{Acked, Controller};
use super::recovery::Phase;
use super::state::{Connection, Cx};

impl Connection {
    /// RFC 5961 section 5: whether the acknowledgement number can be the peer's.
    pub(crate) fn ack_is_acceptable(&self, seg: &Header) -> bool {
        let oldest = self.snd_una - self.snd_wnd_max.max(1);
        seg.ack >= oldest && seg.ack <= self.snd_nxt
    }

    /// Takes an acceptable acknowledgement (RFC 9293 3.10.7.4, RFC 5681, RFC 6675).
    pub(crate) fn process_ack(&mut self, cx: &mut Cx<'_>, seg: &Header, payload_len: usize) {
        self.unanswered = 0;
        let reported = self.take_sack(seg);
        if seg.ack > self.snd_una {
            self.advance(cx, seg);
        } else {
            let window = u32::from(seg.window) << self.snd_wscale;
            // RFC 5681 section 2: what counts as a duplicate.
            let duplicate = seg.ack == self.snd_una
                && self.flight() > 0
                && payload_len == 0
                && !seg.flags.has(Flags::FIN)
                && (window == self.snd_wnd || reported > 0);
            if self.flight() > 0 {
                self.recovery_on_duplicate(cx, duplicate, reported);
            }
        }
        self.update_window(seg);
    }

    fn take_sack(&mut self, seg: &Header) -> usize {
        if !self.sack_ok || seg.options.sack.is_empty() {
            return 0;
        }
        let (una, nxt) = (self.snd_una.max(seg.ack), self.snd_nxt);
        let blocks = seg.options.sack.as_slice();
        blocks.iter().map(|b| self.scoreboard.add(*b, una, nxt)).sum()
    }

    fn advance(&mut self, cx: &mut Cx<'_>, seg: &Header) {
        let flight_before = self.flight();
        let acked = (seg.ack - self.snd_una) as usize;
        self.snd_una = seg.ack;
        self.scoreboard.advance(seg.ack);
        let data = seg.ack.diff(self.send_base).clamp(0, self.send.len() as i32) as usize;
        if data > 0 {
            self.send.ack(data);
            self.send_base += data as u32;
            self.totals.bytes_acked += data as u64;
            cx.stats.out_octets += data as u64;
        }
        self.sample_rtt(cx, seg);
        self.rtx_count = 0;
        self.progress_at = cx.now;
        let recovering = self.recovery.phase == Phase::Fast;
        self.recovery_on_advance(cx, acked);
        self.detect_loss(cx);
        if !recovering && self.recovery.phase != Phase::Fast {
            self.cc.on_ack(&Acked {
                now: cx.now,
                bytes: acked,
                lost: 0,
                ce: 0,
                flight_before,
                flight: self.flight(),
                delivered: self.totals.bytes_acked,
                snd_una: self.snd_una,
                snd_nxt: self.snd_nxt,
                rtt: None,
                srtt: self.rtt.srtt(),
                rate: None,
                window_limited: true,
                recovering: false,
                sack: self.sack_ok,
            });
        }
        // RFC 6298 5.2, 5.3
        self.rtx_at = (self.flight() > 0).then(|| cx.now + self.rtt.rto());
        self.tell_writable();
    }

    /// RFC 6298 section 3 (Karn), RFC 7323 section 4: one timed segment per round trip; after a
    /// retransmission only the timestamp can tell which transmission was acknowledged.
    fn sample_rtt(&mut self, cx: &mut Cx<'_>, seg: &Header) {
        match self.timed {
            Some((end, sent)) if seg.ack >= end => {
                self.timed = None;
                self.rtt.sample(cx.now - sent);
            }
            None if self.ts_ok => {
                let Some((_, echo)) = seg.options.timestamp else { return };
                let elapsed = self.timestamp(cx.now).wrapping_sub(echo);
                // An echo from the future or from long ago is no measurement.
                if echo != 0 && elapsed < 1 << 20 {
                    self.rtt.sample(Duration::from_millis(u64::from(elapsed.max(1))));
                }
            }
            _ => {}
        }
    }

    /// RFC 9293 3.10.7.4: older segments must not shrink the window.
    pub(crate) fn update_window(&mut self, seg: &Header) {
        if seg.ack < self.snd_una || seg.ack > self.snd_nxt {
            return;
        }
        let newer = self.snd_wl1 < seg.seq || (self.snd_wl1 == seg.seq && self.snd_wl2 <= seg.ack);
        if !newer {
            return;
        }
        let opened = u32::from(seg.window) << self.snd_wscale;
        if opened > self.snd_wnd {
            // The next output decides whether it is enough.
            self.persist_at = None;
            self.persist_count = 0;
        }
        self.snd_wnd = opened;
        self.snd_wnd_max = self.snd_wnd_max.max(opened);
        self.snd_wl1 = seg.seq;
        self.snd_wl2 = seg.ack;
    }

    /// A writer that was refused is told when a third of the buffer is free.
    pub(crate) fn tell_writable(&mut self) {
        if self.write_blocked && self.may_write() && self.send.free() >= self.send.limit() / 3 {
            self.write_blocked = false;
            self.wake = true;
        }
    }

    /// Whether the application may still write.
    pub(crate) fn may_write(&self) -> bool {
        matches!(self.state, TcpState::Established | TcpState::CloseWait) && !self.fin_queued
    }
}
