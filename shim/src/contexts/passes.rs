//! What connections keep of a context: which one their packets are of, and whether it rewrites them, so
//! that packets find it without a look at their addresses.

use weft_stack::path::Passing;
use weft_stack::rng::Rng;
use weft_stack::time::Instant;

use super::Contexts;
use crate::context::Said;
use crate::locator::Pair;
use crate::wire::Tag;

/// Bits of [`Passing`] that name a context; those above are the revision in which it was named.
const NAME_BITS: u32 = 24;
/// Of these: its packets are rewritten.
const REWRITES: u64 = 1 << 23;
/// What revisions are apart.
const NEXT: u64 = 1 << NAME_BITS;
/// The last revision: nothing is named in it.
const LAST: u64 = u64::MAX << NAME_BITS;

/// In which revision names are given. A name holds while the revision does, which ends with whatever
/// may make a context that was named another of its addresses, or turn what becomes of its packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passes {
    /// As it stands in a name: a multiple of [`NEXT`].
    revision: u64,
}

impl Passes {
    /// Begins anywhere in the lower half: connections may still keep names of a shim that this one
    /// took the place of, and those must not come to mean something here. What nobody named is of
    /// revision zero.
    pub(super) fn new(rng: &mut Rng) -> Passes {
        Passes { revision: (1 + rng.below(1 << (63 - NAME_BITS))) << NAME_BITS }
    }

    /// No name holds any longer.
    pub(super) fn revise(&mut self) {
        self.revision = self.revision.saturating_add(NEXT).min(LAST);
    }

    fn name(self, id: u32, passes: bool) -> Passing {
        let id = u64::from(id);
        let fits = self.revision != LAST && id < REWRITES;
        let flag = if passes { 0 } else { REWRITES };
        if fits { Passing(self.revision | flag | id) } else { Passing::default() }
    }

    /// Whether packets of a context that is named pass.
    #[inline]
    fn answer(self, known: Passing) -> Option<bool> {
        let name = known.0 ^ self.revision;
        (name < NEXT).then_some(name < REWRITES)
    }

    /// The context that is named, if that is what becomes of its packets.
    #[inline]
    fn named(self, known: Passing, passes: bool) -> Option<u32> {
        let id = known.0 ^ self.revision ^ if passes { 0 } else { REWRITES };
        if id < REWRITES { Some(id as u32) } else { None }
    }
}

impl Contexts {
    /// `known` says still that packets pass.
    #[inline]
    pub(crate) fn passes_still(&self, known: Passing) -> bool {
        self.passes.named(known, true).is_some()
    }

    /// `known` says still that packets are rewritten, and as [`Contexts::rewriting`] said.
    #[inline]
    pub(crate) fn rewrites_still(&self, known: Passing) -> bool {
        self.passes.named(known, false).is_some()
    }

    /// [`Contexts::passes`], by what is known of it still, and what to keep of the answer.
    #[inline(never)]
    pub(crate) fn passing(&mut self, ulids: Pair, known: &mut Passing) -> bool {
        if let Some(passes) = self.passes.answer(*known) {
            return passes;
        }
        *known = Passing::default();
        let passes = self.passes(ulids);
        // Where ports matter, they are looked at for each packet.
        if !self.asks_ports()
            && self.is_whole()
            && let Some(id) = self.look_up(ulids)
        {
            let context = &mut self.slots[id as usize];
            context.said = Some(Said::of(context, &self.env));
            *known = self.passes.name(id, passes);
        }
        passes
    }

    /// [`Contexts::passed`] of the context that `known` names, where that only notes the time;
    /// `false`: that is to be called.
    // Inline: half of what it costs would be the call.
    #[inline(always)]
    pub(crate) fn passed_at_rest(&mut self, now: Instant, known: Passing, out: bool) -> bool {
        let Some(id) = self.passes.named(known, true) else { return false };
        let Some(context) = self.slots.get_mut(id as usize) else { return false };
        let noted = if out { context.sent_at_rest(now) } else { context.received_at_rest(now) };
        debug_assert!(!noted || self.is_in_time(id));
        noted
    }

    /// The context that `known` names, and the ULIDs, the pair and the tag with which all of its
    /// packets are rewritten now; none of one whose packets go in UDP.
    pub(crate) fn rewriting(&self, known: Passing) -> Option<(u32, Pair, Pair, Tag)> {
        let id = self.passes.named(known, false)?;
        let context = &self.slots[id as usize];
        let (pair, tag) = (context.pair, context.tag_out()?);
        let in_udp = self.env.payload_port(context.local_tag, pair).is_some();
        (!in_udp).then_some((id, context.ulids, pair, tag))
    }

    /// A packet of such a context was sent.
    #[inline(always)]
    pub(crate) fn rewritten(&mut self, now: Instant, id: u32) {
        let Some(context) = self.slots.get_mut(id as usize) else { return };
        self.env.stats.rewritten_out += 1;
        if context.sent_at_rest(now) {
            debug_assert!(self.is_in_time(id));
        } else {
            self.sent_otherwise(now, id);
        }
    }

    #[inline(never)]
    fn sent_otherwise(&mut self, now: Instant, id: u32) {
        self.slots[id as usize].sent(now);
        self.touch(id, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_holds_until_the_next_revision_and_never_in_another_shim() {
        let of = |seed| Passes::new(&mut Rng::from_u64(seed));
        let mut passes = of(1);
        let (direct, rewritten) = (passes.name(7, true), passes.name(8, false));
        assert_eq!((passes.named(direct, true), passes.named(direct, false)), (Some(7), None));
        assert_eq!(passes.named(rewritten, false), Some(8));
        assert_eq!(passes.answer(Passing::default()), None);
        for seed in 2..1000 {
            let mut other = of(seed);
            for _ in 0..100 {
                assert_eq!(other.answer(direct), None, "seed {seed}");
                other.revise();
            }
        }
        passes.revise();
        assert_eq!((passes.answer(direct), passes.answer(rewritten)), (None, None));
    }

    #[test]
    fn the_last_revision_names_nothing() {
        let mut passes = Passes { revision: LAST - NEXT };
        let last = passes.name(7, false);
        assert_eq!((passes.answer(last), passes.named(last, false)), (Some(false), Some(7)));
        for _ in 0..3 {
            passes.revise();
            assert_eq!(passes.name(7, true), Passing::default());
            for known in [last, Passing::default()] {
                let named = (passes.named(known, true), passes.named(known, false));
                assert_eq!((passes.answer(known), named), (None, (None, None)));
            }
        }
    }
}
