//! The acknowledgement side of a received segment: send window, RTT, scoreboard, congestion.

use core::time::Duration;

use crate::socket::tcp::TcpState;
use crate::time::Instant;
use crate::wire::tcp::{Flags, Header};

use super::cc::{Acked, Controller, Rate};
use super::rate::Newly;
use super::recovery::Phase;
use super::state::{Connection, Cx};
use super::tail_probe::Duplicate;

/// What an acknowledgement found.
struct Before {
    pipe: usize,
    flight: usize,
    /// Total of lost bytes.
    lost: u64,
    fast: bool,
}

impl Connection {
    /// RFC 5961 section 5: whether the acknowledgement number can be the peer's.
    pub(crate) fn ack_is_acceptable(&self, seg: &Header) -> bool {
        let oldest = self.snd_una - self.snd_wnd_max.max(1);
        seg.ack >= oldest && seg.ack <= self.snd_nxt
    }

    /// Takes an acceptable acknowledgement (RFC 9293 3.10.7.4, RFC 5681, 6675, 8985).
    pub(crate) fn process_ack(&mut self, cx: &mut Cx<'_>, seg: &Header, payload_len: usize) {
        self.unanswered = 0;
        self.small.burst = self.snd_nxt;
        if self.flight() > 0 {
            self.take_ack(cx, seg, payload_len);
        } else if !seg.options.sack.is_empty() {
            self.take_late_report(cx, seg);
        }
        self.update_window(seg);
        self.note_times(cx.now);
    }

    /// An acknowledgement while something is in flight.
    fn take_ack(&mut self, cx: &mut Cx<'_>, seg: &Header, payload_len: usize) {
        let before = Before {
            pipe: self.pipe(),
            flight: self.flight(),
            lost: self.delivery.lost,
            fast: self.recovery.phase == Phase::Fast,
        };
        let mut newly = Newly::default();
        let dsack = self.take_sack(cx, seg, &mut newly);
        if dsack.is_some() {
            self.on_dsack(cx);
        }
        let echo = seg.options.timestamp.map(|(_, echo)| echo);
        let window = u32::from(seg.window) << self.snd_wscale;
        // RFC 5681 section 2: what counts as a duplicate.
        let duplicate = seg.ack == self.snd_una
            && payload_len == 0
            && !seg.flags.has(Flags::FIN)
            && (window == self.snd_wnd || newly.bytes > 0);
        let acked = if seg.ack > self.snd_una { self.advance(cx, seg, &mut newly) } else { 0 };
        self.path_on_ack(cx, acked > 0);
        let elsewhere = self.notes.switched_at != Instant::ZERO && self.is_of_path_before(&newly);
        let rtt = if elsewhere {
            None
        } else {
            self.sample_rtt(cx, seg, &newly, (before.flight, dsack.is_some()))
        };
        self.rack_update(cx, &newly, echo);
        let marks = self.read_marks(cx, seg, newly.bytes);
        let rate = self.delivery.sample(cx.now, &newly, self.rtt.min());
        self.find_spurious(cx, acked > 0, echo, dsack);
        let bare = duplicate && seg.options.sack.is_empty();
        let reported_end = dsack.map(|(_, end)| end);
        self.probe_on_ack(cx, seg, Duplicate { reported_end, bare });
        self.recovery_on_ack(cx, acked, duplicate, &newly);
        if !elsewhere {
            self.react_to_marks(cx, marks);
            self.tell_controller(cx, acked, marks.bytes, &newly, &before, (rtt, rate));
        }
        if acked > 0 {
            // RFC 6298 5.2, 5.3
            self.rtx_at = (self.flight() > 0).then(|| cx.now + self.rtt.rto());
            self.tune_send(cx);
            self.tell_writable();
        }
        self.schedule_probe(cx.now);
    }

    /// Whether what is delivered left before the last switch of paths.
    #[cold]
    fn is_of_path_before(&self, newly: &Newly) -> bool {
        newly.newest().is_some_and(|newest| newest.stamp.sent_at < self.notes.switched_at)
    }

    /// A report while nothing is in flight: of a duplicate, or nothing.
    fn take_late_report(&mut self, cx: &mut Cx<'_>, seg: &Header) {
        let dsack = self.take_sack(cx, seg, &mut Newly::default());
        if let Some((_, end)) = dsack {
            self.on_dsack(cx);
            self.find_spurious(cx, false, None, dsack);
            self.probe_on_ack(cx, seg, Duplicate { reported_end: Some(end), bare: false });
        }
    }

    /// `snd_una` moves to the acknowledgement; returns by how much.
    fn advance(&mut self, cx: &mut Cx<'_>, seg: &Header, newly: &mut Newly) -> usize {
        let acked = (seg.ack - self.snd_una) as usize;
        self.snd_una = seg.ack;
        self.sent.ack(seg.ack, |sent| newly.take(sent, true));
        let data = seg.ack.diff(self.send_base).clamp(0, self.send.len() as i32) as usize;
        if data > 0 {
            self.send.ack(data);
            self.send_base += data as u32;
            self.totals.bytes_acked += data as u64;
            cx.stats.out_octets += data as u64;
        }
        self.urgent_on_ack();
        self.rtx_count = 0;
        self.progress_at = cx.now;
        self.notes.soft_error = None;
        acked
    }

    fn tell_controller(
        &mut self,
        cx: &Cx<'_>,
        acked: usize,
        ce: usize,
        newly: &Newly,
        before: &Before,
        (rtt, rate): (Option<Duration>, Option<Rate>),
    ) {
        let lost = (self.delivery.lost - before.lost) as usize;
        if newly.bytes == 0 && lost == 0 && ce == 0 {
            return;
        }
        let slow_start = self.cc.cwnd() < self.cc.ssthresh();
        let half_used = slow_start && before.pipe * 2 >= self.cc.cwnd();
        let window_limited = self.delivery.was_window_limited(self.snd_una) || half_used;
        self.cc.on_ack(&Acked {
            now: cx.now,
            bytes: newly.bytes,
            lost,
            ce,
            flight_before: before.pipe,
            flight: self.pipe(),
            delivered: self.delivery.delivered,
            snd_una: self.snd_una,
            snd_nxt: self.snd_nxt,
            rtt,
            srtt: self.rtt.srtt(),
            rate,
            window_limited,
            advanced: acked > 0,
            recovering: before.fast || self.recovery.phase == Phase::Fast,
            sack: self.sack_ok,
            paced: self.pacing_rate().is_some(),
        });
    }

    /// RFC 6298 section 3 (Karn), RFC 7323 section 4: only the timestamp can tell which
    /// transmission of a segment sent twice was acknowledged. Returns the sample of the newest
    /// segment delivered, which waited least for its acknowledgement.
    fn sample_rtt(
        &mut self,
        cx: &Cx<'_>,
        seg: &Header,
        newly: &Newly,
        (flight, duplicate): (usize, bool),
    ) -> Option<Duration> {
        // What was sent once but is acknowledged with what was sent again may have waited for it.
        let once = |at: Option<Instant>| at.filter(|_| newly.resent_at.is_none());
        let newest = once(newly.newest_once).map(|at| cx.now - at);
        if let Some(rtt) = newest {
            self.rtt.observe_min(cx.now, rtt);
        }
        if let Some(at) = once(newly.oldest_once) {
            // An acknowledgement of every second segment.
            let per_round = flight.div_ceil(2 * self.mss_full()) as u32;
            self.adapt_after_spurious(at, cx.now);
            self.rtt.sample(cx.now - at, per_round);
        // A duplicate is answered with the echo of what came before it.
        } else if let Some(resent_at) = newly.resent_at.filter(|_| self.ts_ok && !duplicate) {
            let (_, echo) = seg.options.timestamp?;
            let elapsed = self.timestamp(cx.now).wrapping_sub(echo);
            // An echo from the future or from long ago is no measurement; neither is that of a
            // transmission before the last: the path may be slow, or the acknowledgements of that
            // one were lost, and a window update long after brings its echo.
            let of_last = self.echoed_at(cx.now, echo) >= resent_at;
            if echo != 0 && elapsed < 1 << 20 && of_last {
                let rtt = Duration::from_millis(u64::from(elapsed.max(1)));
                self.rtt.sample(rtt, 1);
                return Some(rtt);
            }
        }
        newest
    }

    /// The peer reports a segment that it had received before.
    fn on_dsack(&mut self, cx: &mut Cx<'_>) {
        cx.stats.dsack_recv += 1;
        self.totals.losses.dsacks += 1;
        self.rack_on_dsack();
    }

    /// RFC 9293 3.10.7.4: older segments must not shrink the window.
    pub(crate) fn update_window(&mut self, seg: &Header) {
        if seg.ack < self.snd_una || seg.ack > self.snd_nxt {
            return;
        }
        // A retransmission with a newer acknowledgement tells the newer window too: the old one,
        // counted from the new snd_una, would reach beyond the edge that the peer promised.
        let newer = self.snd_wl2 < seg.ack
            || self.snd_wl1 < seg.seq
            || (self.snd_wl1 == seg.seq && self.snd_wl2 <= seg.ack);
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
        if self.write_blocked && self.may_write() && self.has_write_room() {
            self.write_blocked = false;
            self.wake = true;
        }
    }

    /// Whether the application may still write.
    pub(crate) fn may_write(&self) -> bool {
        let open = match self.state {
            TcpState::Established | TcpState::CloseWait => true,
            TcpState::SynReceived => self.notes.opening.early,
            _ => false,
        };
        open && !self.fin_queued
    }
}
