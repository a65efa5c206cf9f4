//! The locators of this vserver, as peers are told of them.

use core::net::IpAddr;

use crate::locator::{LOCATORS_MAX, Locator, LocatorList, Preference};
use crate::reap::Hint;

/// What became of an address of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// An alias has it.
    Added,
    /// No alias has it any longer.
    Removed,
    /// Its link is up.
    LinkUp,
    /// Its link is down.
    LinkDown,
}

/// The locators of a vserver and which of them can be used now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Own {
    list: LocatorList,
    /// Bits of those whose address is not there.
    gone: u16,
    /// Bits of those whose link is down.
    down: u16,
    /// Bits of those the operator calls broken.
    broken: u16,
    /// Rises with every change that peers are to be told.
    revision: u32,
}

impl Own {
    /// `list` has the first generation number.
    pub(crate) fn new(list: LocatorList) -> Own {
        let mut own = Own::default();
        own.list.generation = list.generation.wrapping_sub(1);
        own.replace(list);
        own
    }

    /// Another list, of the next generation. More than [`LOCATORS_MAX`] are left out.
    pub(crate) fn replace(&mut self, mut list: LocatorList) {
        list.generation = self.list.generation;
        list.locators.truncate(LOCATORS_MAX);
        let (gone, down) = (self.gone, self.down);
        let was = |mask: u16, l: &Locator| self.at(l.addr).is_some_and(|i| mask >> i & 1 == 1);
        let bits = |test: &dyn Fn(&Locator) -> bool| {
            let ones = list.locators.iter().enumerate().filter(|(_, l)| test(l));
            ones.fold(0, |bits, (i, _)| bits | 1 << i)
        };
        let (gone, down) = (bits(&|l| was(gone, l)), bits(&|l| was(down, l)));
        self.broken = bits(&|l| l.preference.is_broken());
        (self.gone, self.down) = (gone, down);
        self.list = list;
        self.flag();
        self.changed();
    }

    /// Peers are to be told. Every list that they may see has a number of its own, and a later one
    /// has a larger one: who counts on that takes no older list.
    fn changed(&mut self) {
        self.revision = self.revision.wrapping_add(1);
        self.list.generation = self.list.generation.wrapping_add(1);
    }

    fn at(&self, addr: IpAddr) -> Option<usize> {
        self.list.locators.iter().position(|l| l.addr == addr)
    }

    fn flag(&mut self) {
        for (i, locator) in self.list.locators.iter_mut().enumerate() {
            let bit = if (self.gone | self.down | self.broken) >> i & 1 == 1 {
                Preference::BROKEN
            } else {
                0
            };
            let flags = &mut locator.preference.flags;
            *flags = *flags & !Preference::BROKEN | bit;
        }
    }

    /// Something became of an address. `true`: it is a locator, and can be used now and could not
    /// before, or the other way round.
    pub(crate) fn set(&mut self, addr: IpAddr, change: Change) -> bool {
        let Some(i) = self.at(addr) else { return false };
        let before = (self.gone | self.down) >> i & 1;
        match change {
            Change::Added => self.gone &= !(1 << i),
            Change::Removed => self.gone |= 1 << i,
            Change::LinkUp => self.down &= !(1 << i),
            Change::LinkDown => self.down |= 1 << i,
        }
        if (self.gone | self.down) >> i & 1 == before {
            return false;
        }
        self.flag();
        self.changed();
        true
    }

    pub(crate) fn list(&self) -> &LocatorList {
        &self.list
    }

    pub(crate) fn contains(&self, addr: IpAddr) -> bool {
        self.at(addr).is_some()
    }

    /// Each locator, and what is to be said of it to whoever knows nothing of the changes.
    pub(crate) fn hints(&self) -> impl Iterator<Item = Hint> + '_ {
        self.list.locators.iter().enumerate().map(|(i, l)| {
            if self.gone >> i & 1 == 1 {
                Hint::LocatorGone(l.addr)
            } else if self.down >> i & 1 == 1 {
                Hint::LinkDown(l.addr)
            } else {
                Hint::LocatorBack(l.addr)
            }
        })
    }

    pub(crate) fn revision(&self) -> u32 {
        self.revision
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::locator::Verification;

    #[test]
    fn an_absent_locator_is_flagged_until_it_is_back() {
        let ip = |n: u8| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n)]);
        let mut list = LocatorList::default();
        for n in 1..=3 {
            list.locators.push(Locator::new(ip(n), Verification::Hba));
        }
        list.locators[2].preference.flags = Preference::BROKEN;
        list.generation = u32::MAX;
        let mut own = Own::new(list.clone());
        let first = own.revision();
        assert_eq!(own.list().generation, u32::MAX);
        assert!(own.set(ip(2), Change::Removed) && !own.set(ip(2), Change::LinkDown));
        assert_ne!(own.revision(), first);
        assert_eq!(own.list().generation, 0, "one more");
        let broken = |own: &Own| -> Vec<bool> {
            own.list().locators.iter().map(|l| l.preference.is_broken()).collect()
        };
        assert_eq!(broken(&own), [false, true, true]);
        list.locators.swap(0, 1);
        own.replace(list);
        assert_eq!(own.list().generation, 1);
        assert_eq!(broken(&own), [true, false, true], "absence goes by address");
        assert!(!own.set(ip(2), Change::Added), "its link is still down");
        assert!(own.set(ip(2), Change::LinkUp));
        assert!(!own.set(ip(3), Change::Added), "the operator's word stands");
        assert_eq!(broken(&own), [false, false, true]);
        assert!(!own.set(ip(9), Change::Removed));
    }
}
