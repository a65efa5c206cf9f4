//! How segments that a path layer rewrites leave, asked once: between which locators, behind which
//! header, and what of their checksum is the same for all.
//!
//! An answer is kept under the name that the path layer gave to what becomes of packets between two
//! ULIDs ([`Passing`]). Whether it still holds is the layer's to say; here it ends with the layer
//! itself ([`crate::ip::Ip::path_turn`]) and with any change of addresses.

use crate::path::{Passing, Rewriting};
use crate::wire::{checksum, protocol};

/// Slots at first. A power of two, as their number always is.
const SLOTS_MIN: usize = 2;
/// Slots at most.
const SLOTS_MAX: usize = 1024;

/// How segments between two ULIDs are rewritten.
#[derive(Clone, Debug)]
pub(crate) struct Mapped {
    /// What the layer called it.
    pub(crate) name: Passing,
    /// Of the layer, and of the addresses.
    pub(crate) versions: (u32, u32),
    pub(crate) rewriting: Rewriting,
    /// Sum of the pseudo header of the ULIDs without length and protocol.
    pub(crate) pseudo: u16,
}

impl Mapped {
    /// Sum of the pseudo header of a segment, header included, of `len` bytes.
    #[inline]
    pub(crate) fn pseudo(&self, len: usize) -> u16 {
        let len = len as u32;
        let len = checksum::combine((len >> 16) as u16, len as u16);
        checksum::combine(self.pseudo, checksum::combine(u16::from(protocol::TCP), len))
    }
}

/// What is known of them.
#[derive(Debug, Default)]
pub(crate) struct MappedWays {
    /// Empty until first used. Direct-mapped; grows while names push each other out.
    slots: Box<[Option<Mapped>]>,
}

impl MappedWays {
    #[inline]
    fn slot(&self, name: Passing) -> usize {
        name.0 as usize & self.slots.len().wrapping_sub(1)
    }

    /// The place of what is known under `name`.
    #[inline]
    pub(crate) fn find(&self, name: Passing, versions: (u32, u32)) -> Option<usize> {
        let slot = self.slot(name);
        let mapped = self.at(slot)?;
        (mapped.name == name && mapped.versions == versions).then_some(slot)
    }

    /// What has a place.
    #[inline]
    pub(crate) fn at(&self, slot: usize) -> Option<&Mapped> {
        self.slots.get(slot)?.as_ref()
    }

    /// Keeps what is known under a name; returns its place.
    pub(crate) fn put(&mut self, mapped: Mapped, holds: impl Fn(Passing) -> bool) -> usize {
        if self.slots.is_empty() {
            self.slots = vec![None; SLOTS_MIN].into_boxed_slice();
        }
        let mut slot = self.slot(mapped.name);
        let lives = |old: &Mapped| old.name != mapped.name && holds(old.name);
        if self.slots[slot].as_ref().is_some_and(lives) && self.slots.len() < SLOTS_MAX {
            // What was there is asked for again.
            self.slots = vec![None; 2 * self.slots.len()].into_boxed_slice();
            slot = self.slot(mapped.name);
        }
        self.slots[slot] = Some(mapped);
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::PathWay;

    fn mapped(name: u64) -> Mapped {
        let locators = ([10, 0, 0, 1].into(), [10, 0, 0, name as u8].into());
        let way = PathWay { locators, overhead_bytes: 8, super_segments: true };
        let rewriting = Rewriting { way, protocol: protocol::SHIM6, header: [7; 8], by: 0 };
        Mapped { name: Passing(name), versions: (1, 1), rewriting, pseudo: 0 }
    }

    #[test]
    fn what_is_kept_is_found_under_its_name_and_versions_only() {
        let mut ways = MappedWays::default();
        assert_eq!(ways.find(Passing(0), (1, 1)), None);
        let place = ways.put(mapped(5), |_| true);
        assert_eq!(ways.find(Passing(5), (1, 1)), Some(place));
        assert_eq!(ways.at(place).map(|kept| kept.name), Some(Passing(5)));
        for (name, versions) in [(5, (2, 1)), (5, (1, 2)), (7, (1, 1)), (4, (1, 1))] {
            assert_eq!(ways.find(Passing(name), versions), None);
        }
    }

    #[test]
    fn the_table_grows_while_what_holds_is_pushed_out_and_no_further_than_its_bound() {
        let mut ways = MappedWays::default();
        for name in [2, 4, 6, 2] {
            ways.put(mapped(name), |_| false);
        }
        assert_eq!(ways.slots.len(), SLOTS_MIN);
        for _ in 0..20 {
            for name in 0..2 * SLOTS_MAX as u64 {
                let place = ways.put(mapped(name), |_| true);
                assert_eq!(ways.find(Passing(name), (1, 1)), Some(place));
            }
        }
        assert_eq!(ways.slots.len(), SLOTS_MAX);
    }
}
