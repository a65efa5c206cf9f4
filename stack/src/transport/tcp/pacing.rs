//! Pacing: data leaves at a rate instead of in bursts of a window, so that queues on the path stay
//! short. The timer wheel is the clock.
//!
//! A debt in time: what was sent is paid for at `paid_at`. Data may run a quantum ahead of it, and
//! then waits until all is paid, so that there is one timer per quantum and not one per segment.
//! Time in which nothing was to be sent is credit up to a quantum; time that a late timer missed is
//! credit up to [`LATE_MAX`]: a process is woken when its machine pleases.

use crate::time::{Duration, Instant};

use super::cc::Controller;
use super::state::Connection;

/// A quantum is what the rate gives in this time, and two segments at least.
const QUANTUM: Duration = Duration::from_millis(1);

/// Below this a quantum is more than the window, and pacing by the window means nothing.
const RTT_MIN: Duration = Duration::from_millis(1);

/// The first segments of a connection, and after idleness, are not delayed: there is no estimate
/// yet, or an old one (RFC 6928).
const UNPACED_SEGMENTS: u8 = 10;

/// Kernels round a sleep up to a millisecond, and busy ones add more.
const LATE_MAX: Duration = Duration::from_millis(5);

/// The pacer of one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pacer {
    /// When everything sent so far is paid for.
    paid_at: Instant,
    /// No data before this.
    open_at: Option<Instant>,
    /// So many segments are free.
    unpaced: u8,
    /// How late the last timer was, in microseconds.
    late_us: u16,
}

impl Default for Pacer {
    fn default() -> Pacer {
        Pacer { paid_at: Instant::ZERO, open_at: None, unpaced: UNPACED_SEGMENTS, late_us: 0 }
    }
}

impl Pacer {
    /// When data may go on, while it waits.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.open_at
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.open_at.is_some()
    }

    /// Time has come to `now`.
    pub(crate) fn on_timer(&mut self, now: Instant) {
        if let Some(at) = self.open_at.filter(|at| *at <= now) {
            self.late_us = (now - at).min(LATE_MAX).as_micros() as u16;
            self.open_at = None;
        }
    }

    pub(crate) fn stop(&mut self) {
        self.open_at = None;
    }

    fn may_send(&mut self, now: Instant, quantum: Duration) -> bool {
        self.on_timer(now);
        if self.is_waiting() {
            return false;
        }
        if self.unpaced == 0 && self.paid_at >= now + quantum {
            self.open_at = Some(self.paid_at);
            self.late_us = 0;
            return false;
        }
        true
    }

    fn charge(&mut self, now: Instant, cost: Duration, quantum: Duration, segments: usize) {
        if self.unpaced > 0 {
            self.unpaced = self.unpaced.saturating_sub(segments.min(255) as u8);
            // They stand for what may leave ahead.
            self.paid_at = self.paid_at.max(now + quantum);
            return;
        }
        let missed = quantum.max(Duration::from_micros(u64::from(self.late_us)));
        let credit = Instant::from_nanos(now.as_nanos().saturating_sub(nanos(missed)));
        self.paid_at = self.paid_at.max(credit) + cost;
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// How long `bytes` take at `rate`.
fn time_of(bytes: u64, rate: u64) -> Duration {
    let ns = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

impl Connection {
    /// Bytes per second that may leave; `None`: not paced.
    pub(crate) fn pacing_rate(&self) -> Option<u64> {
        let most = self.settings.pacing_rate_max;
        match self.cc.pacing_rate().or_else(|| self.window_rate()) {
            Some(rate) => Some(rate.min(most).max(1)),
            None => (most != u64::MAX).then_some(most),
        }
    }

    /// The window over the round trip, and enough more for the window to grow: twice as much in
    /// slow start, a fifth more later.
    fn window_rate(&self) -> Option<u64> {
        let srtt = self.rtt.srtt().filter(|srtt| self.settings.pacing && *srtt >= RTT_MIN)?;
        let cwnd = self.cc.cwnd();
        let percent = if cwnd < self.cc.ssthresh() / 2 { 200 } else { 120 };
        let window = cwnd.max(self.flight()) as u128;
        let rate = window * percent * 10_000_000 / srtt.as_nanos().max(1);
        Some(u64::try_from(rate).unwrap_or(u64::MAX))
    }

    /// What may leave at once at a rate.
    fn quantum_bytes(&self, rate: u64) -> u64 {
        let bytes = u128::from(rate) * QUANTUM.as_nanos() / 1_000_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX).max(2 * self.mss_full() as u64)
    }

    /// Whether data may leave now; if not, a timer is set.
    pub(crate) fn may_send_paced(&mut self, now: Instant) -> bool {
        let Some(rate) = self.pacing_rate() else {
            self.pacer.stop();
            return true;
        };
        let quantum = time_of(self.quantum_bytes(rate), rate);
        self.pacer.may_send(now, quantum)
    }

    /// `len` bytes of data leave now.
    pub(crate) fn charge_pacer(&mut self, now: Instant, len: usize) {
        if len == 0 {
            return;
        }
        let segments = len.div_ceil(self.mss_full());
        let Some(rate) = self.pacing_rate() else {
            self.pacer.unpaced = self.pacer.unpaced.saturating_sub(segments.min(255) as u8);
            return;
        };
        let quantum = time_of(self.quantum_bytes(rate), rate);
        self.pacer.charge(now, time_of(len as u64, rate), quantum, segments);
    }

    /// Nothing was sent for longer than the retransmission timeout.
    pub(crate) fn pacer_on_idle(&mut self) {
        self.pacer.unpaced = UNPACED_SEGMENTS;
    }

    /// A super-segment is a quantum at most: what is one frame to us is a burst to the path.
    pub(crate) fn paced_len(&self, mss: usize) -> usize {
        let quantum = self.pacing_rate().map_or(u64::MAX, |rate| self.quantum_bytes(rate));
        usize::try_from(quantum).unwrap_or(usize::MAX).max(2 * mss)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// The model: a bucket that fills at the rate and holds a few quanta. Timers come late.
        #[test]
        fn never_more_leaves_than_the_rate_and_a_few_quanta(
            rate in 10_000u64..1_000_000_000,
            wishes in proptest::collection::vec((1u64..20_000, 0u64..5_000), 1..200),
        ) {
            let quantum = time_of((rate / 1000).max(2 * 1448), rate);
            let mut p = Pacer { unpaced: 0, ..Pacer::default() };
            let begin = Instant::from_millis(1000);
            let (mut now, mut cost) = (begin, Duration::ZERO);
            for (bytes, late_us) in wishes {
                if !p.may_send(now, quantum) {
                    let Some(at) = p.deadline() else { panic!("it waits without a deadline") };
                    proptest::prop_assert!(at > now, "a deadline that has passed");
                    now = at + Duration::from_micros(late_us);
                    proptest::prop_assert!(p.may_send(now, quantum), "it waits for ever");
                }
                // A quantum at a time, as output does.
                let bytes = bytes.min((rate / 1000).max(2 * 1448));
                p.charge(now, time_of(bytes, rate), quantum, 1);
                cost += time_of(bytes, rate);
                proptest::prop_assert!(cost <= (now - begin) + quantum * 3);
            }
            // And not much less, were it not for late timers: all is paid for soon.
            proptest::prop_assert!(p.paid_at <= now + quantum * 2);
        }
    }
}
