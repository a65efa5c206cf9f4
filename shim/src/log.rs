//! What happened to the contexts of a vserver, for operators: the last [`KEPT`], numbered.
//!
//! Whoever reads names the last number that it knows and gets what came after; a gap tells that it
//! was too slow. A vserver has a log of its own, so that nobody's events push out another's.

use std::collections::VecDeque;

use weft_stack::time::Instant;

use crate::locator::Pair;
use crate::reap::Why;

/// Entries kept; the oldest goes when one more comes.
pub const KEPT: usize = 256;

/// What happened to a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It is established.
    Established,
    /// The peer lost it: it is being set up again.
    Lost,
    /// It ended: quiet for long, or told to.
    Ended,
    /// The peer did not answer; it is not asked again for a while.
    NoAnswer,
    /// The peer does not know the protocol; it is not asked again for a long while.
    NoSupport,
    /// Packets go by another pair.
    Switched {
        /// The pair that was left.
        from: Pair,
        /// The pair that is used now.
        to: Pair,
        /// Why.
        why: Why,
    },
    /// No pair works. Probing goes on.
    NoPath,
    /// After that, one does.
    PathFound,
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Counts events of the vserver from 1.
    pub number: u64,
    /// When.
    pub at: Instant,
    /// ULIDs of the context.
    pub ulids: Pair,
    /// Its forked instance; 0: the context of all.
    pub fii: u32,
    /// What.
    pub what: What,
}

/// The last events.
#[derive(Debug, Default)]
pub struct Log {
    kept: VecDeque<Entry>,
    newest: u64,
}

impl Log {
    pub(crate) fn add(&mut self, at: Instant, (ulids, fii): (Pair, u32), what: What) {
        self.newest += 1;
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(Entry { number: self.newest, at, ulids, fii, what });
    }

    /// Number of the newest; 0: there was none.
    pub const fn newest(&self) -> u64 {
        self.newest
    }

    /// Those after number `after`, the oldest first. A number that was not given yet is one of a
    /// former log, and stands for none.
    pub fn after(&self, after: u64) -> impl Iterator<Item = &Entry> {
        let after = if after > self.newest { 0 } else { after };
        let unseen = (self.newest - after).min(self.kept.len() as u64) as usize;
        self.kept.range(self.kept.len() - unseen..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    #[test]
    fn a_reader_gets_what_it_has_not_seen_as_far_as_it_is_kept() {
        let ulids = Pair::new(IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut log = Log::default();
        let numbers = |log: &Log, after| log.after(after).map(|e| e.number).collect::<Vec<_>>();
        assert_eq!((numbers(&log, 0), numbers(&log, 7)), (vec![], vec![]));
        for at in 1..=3 {
            log.add(Instant::from_millis(at), (ulids, 0), What::Established);
        }
        assert_eq!((numbers(&log, 0), numbers(&log, 2)), (vec![1, 2, 3], vec![3]));
        assert_eq!(numbers(&log, 9), [1, 2, 3], "a number of a former log");
        for at in 4..=KEPT as u64 + 2 {
            log.add(Instant::from_millis(at), (ulids, 0), What::Ended);
        }
        assert_eq!((log.newest(), log.kept.len()), (258, KEPT));
        assert_eq!(log.after(1).next().map(|e| e.number), Some(3), "2 is not kept");
        assert_eq!(numbers(&log, 257), [258]);
    }
}
