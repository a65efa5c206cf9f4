//! When each stack of a worker wants to be called next.

use std::collections::BTreeSet;

use weft_stack::time::Instant;

/// At most one deadline per stack, the earliest first.
///
/// Deadlines move later far more often than they fire (a retransmission timer with each
/// acknowledgement), so a later one is not entered: the earlier fires for nothing, once, and the
/// stack is asked again.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    order: BTreeSet<(Instant, u32)>,
    armed: Vec<Option<Instant>>,
}

impl Deadlines {
    /// The stack wants to be called at `at`.
    pub(crate) fn update(&mut self, stack: u32, at: Option<Instant>) {
        let index = stack as usize;
        if index >= self.armed.len() {
            self.armed.resize(index + 1, None);
        }
        let Some(at) = at else { return };
        match self.armed[index] {
            Some(armed) if armed <= at => return,
            Some(armed) => drop(self.order.remove(&(armed, stack))),
            None => {}
        }
        self.armed[index] = Some(at);
        self.order.insert((at, stack));
    }

    /// The next stack whose deadline has come, no longer armed.
    pub(crate) fn pop_expired(&mut self, now: Instant) -> Option<u32> {
        let (at, stack) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.order.pop_first();
        self.armed[stack as usize] = None;
        Some(stack)
    }

    /// The stack is gone.
    pub(crate) fn forget(&mut self, stack: u32) {
        if let Some(armed) = self.armed.get_mut(stack as usize).and_then(Option::take) {
            self.order.remove(&(armed, stack));
        }
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    #[test]
    fn the_earliest_fires_once() {
        let mut d = Deadlines::default();
        d.update(7, Some(at(100)));
        d.update(3, Some(at(50)));
        d.update(7, Some(at(200)));
        d.update(7, None);
        assert_eq!(d.next(), Some(at(50)));
        assert_eq!(d.pop_expired(at(49)), None);
        assert_eq!(d.pop_expired(at(150)), Some(3));
        assert_eq!(d.pop_expired(at(150)), Some(7), "a later deadline was not entered");
        d.update(7, Some(at(200)));
        d.update(7, Some(at(180)));
        assert_eq!(d.pop_expired(at(150)), None);
        assert_eq!(d.pop_expired(at(190)), Some(7));
        assert_eq!(d.pop_expired(at(900)), None);
        assert_eq!(d.next(), None);
    }
}
