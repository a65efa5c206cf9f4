//! Whether to look again or to sleep when there is nothing to do.

use weft_stack::time::{Duration, Instant};

use crate::config::PollMode;

/// The longest an adaptive worker looks for more work before it sleeps.
const ADAPTIVE_MAX: Duration = Duration::from_micros(100);
/// The same of an interrupt-driven one: about what a sleep costs, so that a stream of frames does
/// not wake it for each.
const INTERRUPT_MAX: Duration = Duration::from_micros(8);
/// A window starts with this much.
const WINDOW_MIN: Duration = Duration::from_micros(4);
/// Deadlines closer than this are waited for awake.
const NEAR: Duration = Duration::from_micros(4);

/// How long to look before sleeping, learnt from how long work lets wait: a gap that the longest
/// window would have covered widens the window, a longer one halves it (KVM's halt polling does the
/// same). A worker whose work comes seldom sleeps at once.
#[derive(Debug, Default)]
pub(crate) struct Idle {
    since: Option<Instant>,
    window: Duration,
}

impl Idle {
    /// There was work.
    pub(crate) fn worked(&mut self, now: Instant, mode: PollMode) {
        let Some(since) = self.since.take() else { return };
        let (gap, max) = (now.saturating_since(since), longest(mode));
        if gap <= max {
            self.window = self.window.max((gap * 2).max(WINDOW_MIN)).min(max);
        } else {
            self.window /= 2;
            if self.window < WINDOW_MIN {
                self.window = Duration::ZERO;
            }
        }
    }

    /// There was none; returns whether to look again at once. `due` is when there will be.
    pub(crate) fn look_again(
        &mut self,
        now: Instant,
        mode: PollMode,
        due: Option<Instant>,
    ) -> bool {
        let since = *self.since.get_or_insert(now);
        mode == PollMode::Busy
            || now.saturating_since(since) < self.window.min(longest(mode))
            || due.is_some_and(|due| due.saturating_since(now) < NEAR)
    }
}

fn longest(mode: PollMode) -> Duration {
    match mode {
        PollMode::Interrupt => INTERRUPT_MAX,
        PollMode::Adaptive | PollMode::Busy => ADAPTIVE_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(us: u64) -> Instant {
        Instant::from_nanos(us * 1000)
    }

    /// Work comes every `gap` us; how long it looked in the last round, in us.
    fn looked(mode: PollMode, gap: u64) -> u64 {
        let mut idle = Idle::default();
        let (mut now, mut looked) = (0, 0);
        for _ in 0..20 {
            let start = now;
            looked = (0..gap).take_while(|i| idle.look_again(us(start + i), mode, None)).count();
            now += gap;
            idle.worked(us(now), mode);
        }
        looked as u64
    }

    #[test]
    fn looks_as_long_as_work_lets_wait_and_no_longer_than_a_bound() {
        assert_eq!(looked(PollMode::Interrupt, 3), 3);
        assert_eq!(looked(PollMode::Interrupt, 30), 0);
        assert_eq!(looked(PollMode::Adaptive, 30), 30);
        assert_eq!(looked(PollMode::Adaptive, 99), 99);
        assert_eq!(looked(PollMode::Adaptive, 5000), 0, "work that comes seldom is slept for");
        assert_eq!(looked(PollMode::Busy, 5000), 5000);
    }

    #[test]
    fn a_close_deadline_is_waited_for_awake() {
        let mut idle = Idle::default();
        assert!(idle.look_again(us(10), PollMode::Interrupt, Some(us(12))));
        assert!(!idle.look_again(us(11), PollMode::Interrupt, Some(us(40))));
    }

    #[test]
    fn one_long_gap_does_not_forget_a_stream() {
        let mut idle = Idle::default();
        for gap in [10, 10, 900, 10] {
            idle.look_again(us(0), PollMode::Adaptive, None);
            idle.worked(us(gap), PollMode::Adaptive);
        }
        idle.look_again(us(0), PollMode::Adaptive, None);
        assert!(idle.look_again(us(15), PollMode::Adaptive, None));
    }
}
