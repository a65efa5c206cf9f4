//! Ways found lately. A miss costs a look into the tables, so the cache may be small and forget at
//! will; it must only never be wrong, so every change of addresses, routes and links empties it.

use core::net::IpAddr;

use smallvec::SmallVec;

use super::Way;
use super::rule::Via;
use crate::time::{Duration, Instant};

/// Entries once there is more than one question; a power of two. Direct-mapped.
const SLOTS: usize = 64;
/// What changes with time alone (path MTUs, deprecated addresses) is noticed this late at most.
const LIFETIME: Duration = Duration::from_secs(1);

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) src: Option<IpAddr>,
    pub(super) dst: IpAddr,
    pub(super) via: Via,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    question: Question,
    way: Way,
    until: Instant,
    version: u64,
}

/// The cache.
#[derive(Debug, Default)]
pub(super) struct WayCache {
    /// One slot until two questions differ: most stacks of a large host talk to one peer, or none.
    slots: SmallVec<[Option<Slot>; 1]>,
}

/// Only what differs between most questions decides.
#[inline]
fn slot(question: &Question, slots: usize) -> usize {
    let low = match question.dst {
        IpAddr::V4(a) => a.to_bits(),
        IpAddr::V6(a) => a.to_bits() as u32 ^ (a.to_bits() >> 64) as u32,
    };
    (low.wrapping_mul(0x9e37_79b9) >> (u32::BITS - SLOTS.trailing_zeros())) as usize
        & slots.wrapping_sub(1)
}

impl WayCache {
    /// The way found before, if nothing changed since, and until when it holds.
    #[inline]
    pub(super) fn get(
        &self,
        now: Instant,
        version: u64,
        question: &Question,
    ) -> Option<(Way, Instant)> {
        let slot = self.slots.get(slot(question, self.slots.len()))?.as_ref()?;
        (slot.question == *question && slot.version == version && now < slot.until)
            .then_some((slot.way, slot.until))
    }

    /// Remembers a way; returns until when.
    pub(super) fn put(
        &mut self,
        now: Instant,
        version: u64,
        question: Question,
        way: Way,
    ) -> Instant {
        let others = |s: &Slot| s.question != question;
        match self.slots.as_slice() {
            [] => self.slots.push(None),
            [Some(only)] if others(only) => {
                let only = *only;
                self.slots.resize(SLOTS, None);
                self.slots[0] = None;
                self.slots[slot(&only.question, SLOTS)] = Some(only);
            }
            _ => {}
        }
        let until = now + LIFETIME;
        let at = slot(&question, self.slots.len());
        self.slots[at] = Some(Slot { question, way, until, version });
        until
    }
}
