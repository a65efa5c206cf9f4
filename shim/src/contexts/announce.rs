//! Contexts learn of a change of our own locators some at a time: a vserver may have a hundred
//! thousand of them, and each looks at its pairs and writes a message.
//!
//! What is told is what our locators are when it is told, not what became of them: a context that is
//! late learns of two changes as one, and one that is told twice finds nothing new.

use weft_stack::time::Instant;

use super::Contexts;

/// Contexts that learn in one call.
pub(super) const CONTEXTS_A_CALL: usize = 64;
/// Places of contexts that are looked at in one call, empty ones counted.
const SLOTS_A_CALL: usize = 8192;

/// How far the last change has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Announcing {
    /// The place to go on from.
    next: usize,
    /// Places still to be looked at, from there on and from the end on from the start.
    left: usize,
    /// All places there were when the change was made; contexts in others knew it from the start.
    slots: usize,
    /// When it is to go on.
    at: Option<Instant>,
}

impl Announcing {
    /// A change: each context learns of it, and those that still wait for the last one first.
    fn begin(&mut self, slots: usize) {
        (self.left, self.slots) = (slots, slots);
    }

    /// The next place.
    fn step(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let at = if self.next < self.slots { self.next } else { 0 };
        self.next = at + 1;
        Some(at)
    }

    /// When it is to go on; `None`: every context knows.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.at
    }
}

impl Contexts {
    /// Something became of our locators, or of how they are reached: the first contexts learn it
    /// now, the others with the next calls of [`Contexts::handle_timeout`].
    pub(super) fn own_changed(&mut self, now: Instant) {
        self.announcing.begin(self.slots.capacity());
        self.announce(now);
    }

    /// The next contexts learn of our locators as they are.
    pub(super) fn announce(&mut self, now: Instant) {
        // Half of the queue stays for answers. One context always gets on.
        let room = self.env.config.bounds.queue_max / 2;
        let mut told = 0;
        for _ in 0..SLOTS_A_CALL {
            if told == CONTEXTS_A_CALL || told > 0 && self.env.out.len() >= room {
                break;
            }
            let Some(slot) = self.announcing.step() else { break };
            let Some(context) = self.slots.get_mut(slot) else { continue };
            context.own_changed(&mut self.env, now);
            self.settle(slot as u32, now);
            told += 1;
        }
        let more = self.announcing.left > 0;
        self.announcing.at = more.then_some(now);
        self.env.stats.own_changes_continued += u64::from(more);
        self.note_due();
    }
}
