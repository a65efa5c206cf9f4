//! Ways found lately. A miss costs a look into the tables, so the cache may be small and forget at
//! will; it must only never be wrong, so every change of addresses, routes and links empties it.

use core::hash::{Hash, Hasher};
use core::net::IpAddr;

use super::Way;
use super::address::AliasId;
use crate::hash::FoldHasher;
use crate::time::{Duration, Instant};

/// Entries; a power of two. Direct-mapped.
const SLOTS: usize = 64;
/// What changes with time alone (path MTUs, deprecated addresses) is noticed this late at most.
const LIFETIME: Duration = Duration::from_secs(1);

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    pub(super) src: Option<IpAddr>,
    pub(super) dst: IpAddr,
    pub(super) alias: Option<AliasId>,
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
    /// Empty until first used: most stacks of a large host are idle.
    slots: Box<[Option<Slot>]>,
}

fn slot(question: &Question) -> usize {
    let mut hasher = FoldHasher::default();
    question.hash(&mut hasher);
    hasher.finish() as usize % SLOTS
}

impl WayCache {
    /// The way found before, if nothing changed since.
    #[inline]
    pub(super) fn get(&self, now: Instant, version: u64, question: &Question) -> Option<Way> {
        let slot = self.slots.get(slot(question))?.as_ref()?;
        (slot.question == *question && slot.version == version && now < slot.until)
            .then_some(slot.way)
    }

    /// Remembers a way.
    pub(super) fn put(&mut self, now: Instant, version: u64, question: Question, way: Way) {
        if self.slots.is_empty() {
            self.slots = vec![None; SLOTS].into_boxed_slice();
        }
        let until = now + LIFETIME;
        self.slots[slot(&question)] = Some(Slot { question, way, until, version });
    }
}
