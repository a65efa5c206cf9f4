//! Buffers grow with what the path can carry: the receive buffer to twice what the application
//! reads per round trip (dynamic right-sizing), so that the window never holds a sender back that
//! doubles its own; the send buffer to twice the congestion window. Both stop at the maximum of the
//! settings, at the connection's fair share of the vserver's memory, and when memory is tight.

use crate::seq::SeqNum;
use crate::time::{Duration, Instant};
use crate::wire::tcp::Header;

use super::cc::Controller;
use super::on_demand::Blank;
use super::state::{Connection, Cx};

/// What a sender may send before its first acknowledgement (RFC 6928).
const INITIAL_SEGMENTS: usize = 10;

/// Room for segments that a sender adds while the buffer is measured.
const SLACK_SEGMENTS: usize = 16;

/// What is measured for the receive buffer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tuning {
    /// Round trip as the receiver sees it, microseconds; 0: not known.
    rtt_us: u32,
    /// The timestamp echo last used for a sample.
    echo: u32,
    /// Without timestamps: a window's worth of data takes a round trip at least.
    round_end: SeqNum,
    round_at: Instant,
    /// Most bytes read in one round trip.
    space: usize,
    /// Where and when this round trip's reading began.
    read_from: SeqNum,
    read_at: Instant,
}

impl Blank for Tuning {
    fn blank() -> &'static Tuning {
        const BLANK: Tuning = Tuning {
            rtt_us: 0,
            echo: 0,
            round_end: SeqNum(0),
            round_at: Instant::ZERO,
            space: 0,
            read_from: SeqNum(0),
            read_at: Instant::ZERO,
        };
        &BLANK
    }
}

impl Tuning {
    fn sample(&mut self, rtt: Duration) {
        let us = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1);
        self.rtt_us = match self.rtt_us {
            0 => us,
            old => (u64::from(old) * 7 / 8 + u64::from(us) / 8).max(1) as u32,
        };
    }
}

impl Connection {
    /// A sequence of `len` bytes arrived: how long is the round trip of a peer that sends?
    pub(crate) fn measure_recv_rtt(&mut self, now: Instant, seg: &Header, len: usize) {
        if let Some((_, echo)) = seg.options.timestamp.filter(|_| self.ts_ok) {
            if len >= self.rcv_mss && echo != self.recv.tuning.echo {
                self.recv.tuning.echo = echo;
                let elapsed = self.timestamp(now).wrapping_sub(echo);
                if echo != 0 && elapsed < 1 << 20 {
                    let rtt = self.finer(elapsed);
                    self.recv.tuning.sample(rtt);
                }
            }
            return;
        }
        if self.recv.tuning.round_end <= self.rcv_nxt || self.recv.tuning.rtt_us == 0 {
            if self.recv.tuning.round_end != SeqNum(0) {
                let rtt = now - self.recv.tuning.round_at;
                self.recv.tuning.sample(rtt);
            }
            (self.recv.tuning.round_end, self.recv.tuning.round_at) = (self.rcv_adv, now);
        }
    }

    /// The clock of timestamps is coarse; on short paths the round trip of what we sent says more.
    fn finer(&self, elapsed_ms: u32) -> Duration {
        let coarse = Duration::from_millis(u64::from(elapsed_ms.max(1)));
        match self.rtt.srtt() {
            Some(srtt) if elapsed_ms <= 1 => coarse.min(srtt),
            _ => coarse,
        }
    }

    /// The application has read: more of the path per round trip deserves a larger buffer.
    pub(crate) fn tune_recv(&mut self, cx: &mut Cx<'_>) {
        let most = self.settings.recv_buffer_max;
        if self.recv.limit() >= most {
            return;
        }
        let rtt = Duration::from_micros(u64::from(self.recv.tuning.rtt_us));
        let rtt = if rtt.is_zero() { self.rtt.srtt().unwrap_or(rtt) } else { rtt };
        if rtt.is_zero() || cx.now - self.recv.tuning.read_at < rtt {
            return;
        }
        let at = self.read_seq();
        let read = at.diff(self.recv.tuning.read_from).max(0) as usize;
        let first = self.recv.tuning.read_from == SeqNum(0);
        (self.recv.tuning.read_from, self.recv.tuning.read_at) = (at, cx.now);
        let space = self.recv.tuning.space.max(INITIAL_SEGMENTS * self.rcv_mss);
        if first || read <= space {
            return;
        }
        self.recv.tuning.space = read;
        // As much again if the sender goes on growing as it did.
        let mut want = 2 * read + SLACK_SEGMENTS * self.rcv_mss;
        want += 2 * (want as u64 * (read - space) as u64 / space as u64) as usize;
        let want = want.min(most).min(cx.budget.share());
        if want > self.recv.limit() && !cx.budget.is_tight() {
            self.recv.set_limit(want);
        }
    }

    /// Data was acknowledged: the buffer holds two windows, one in flight and one to come.
    pub(crate) fn tune_send(&mut self, cx: &Cx<'_>) {
        let (limit, most) = (self.send.limit(), self.settings.send_buffer_max);
        let want = 2 * self.cc.cwnd();
        if want <= limit || limit >= most || cx.budget.is_tight() {
            return;
        }
        let want = want.min(most).min(cx.budget.share());
        if want > limit {
            self.send.set_limit(want);
        }
    }
}
