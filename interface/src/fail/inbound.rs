//! Which member each data address is reached by, and who takes what is for all.
//!
//! Each address is bound to one active member; the numbers of any two members differ by one at
//! most, after every change, with as few moves as that takes:
//!
//! - a new address goes to the member with the fewest;
//! - one that goes leaves a gap, which the fullest member's fills if it is then two short;
//! - addresses of a member that leaves go to the emptiest each; if another joins in the same
//!   instant it takes them, and the others keep theirs;
//! - a member that joins takes one after the other from the fullest.
//!
//! Addresses of an alias that has a MAC address of its own are one unit: a switch can see a MAC
//! address at one port only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::{GroupSelection, Mac};

/// Data addresses (with their aliases' MAC addresses) that one group keeps apart.
pub const ADDRESSES_MAX: usize = 65_536;

/// What moves as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Unit {
    Address(IpAddr),
    Mac(Mac),
}

/// An address that is reached by another member than before: the neighbours have to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Announcement {
    /// The member it is reached by now.
    pub member: u16,
    /// The address.
    pub address: IpAddr,
    /// The MAC address of its alias, if it has one of its own; else the member's is announced.
    pub mac: Option<Mac>,
}

#[derive(Clone, Debug, Default)]
struct Bound {
    member: Option<u16>,
    /// The member that neighbours know of.
    announced: Option<u16>,
    /// The member that listeners know of.
    told: Option<u16>,
    /// How often each was added.
    addresses: BTreeMap<IpAddr, u32>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Inbound {
    units: BTreeMap<Unit, Bound>,
    /// What is bound to each member.
    loads: Vec<BTreeSet<Unit>>,
    unbound: BTreeSet<Unit>,
    /// Bound to another member since they were last announced.
    moved: BTreeSet<Unit>,
    /// The same since listeners were last told.
    untold: BTreeSet<Unit>,
    active: Vec<u16>,
    selection: GroupSelection,
    addresses: usize,
    /// Addresses beyond [`ADDRESSES_MAX`].
    pub(super) refused: u64,
    /// Addresses that were bound anew, or not any more.
    pub(super) moves: u64,
    changed: bool,
}

impl Inbound {
    /// Adds a member behind the last one.
    pub(super) fn grow(&mut self) {
        self.loads.push(BTreeSet::new());
    }

    /// Members are counted anew: each is `to[old]` now, or gone. None that goes is active.
    pub(super) fn renumber(&mut self, to: &[Option<u16>], members: usize) {
        let map = |member: &mut Option<u16>| {
            *member = member.and_then(|m| to.get(usize::from(m)).copied().flatten());
        };
        self.active =
            self.active.iter().filter_map(|m| to.get(usize::from(*m)).copied().flatten()).collect();
        let mut loads = vec![BTreeSet::new(); members];
        for (old, load) in core::mem::take(&mut self.loads).into_iter().enumerate() {
            if let Some(new) = to[old] {
                loads[usize::from(new)] = load;
            }
        }
        self.loads = loads;
        for bound in self.units.values_mut() {
            map(&mut bound.member);
            map(&mut bound.announced);
            map(&mut bound.told);
        }
        self.selection.active = self.active.iter().copied().collect();
        for member in
            self.selection.bindings.values_mut().chain(self.selection.own_macs.values_mut())
        {
            *member = to[usize::from(*member)].expect("nothing is bound to one that goes");
        }
        self.changed = true;
    }

    /// Members in the order in which they became active.
    pub(super) fn active(&self) -> &[u16] {
        &self.active
    }

    /// Whether what the data path has to know changed since this was last asked.
    pub(super) fn take_changed(&mut self) -> bool {
        core::mem::take(&mut self.changed)
    }

    pub(super) fn load(&self, member: u16) -> usize {
        self.loads[usize::from(member)].len()
    }

    /// From now on these members are active, those that were keep their place in the order.
    pub(super) fn set_active(&mut self, wanted: &[u16]) {
        let is_same = wanted.len() == self.active.len()
            && wanted.iter().all(|member| self.active.contains(member));
        if is_same {
            return;
        }
        self.changed = true;
        let left: Vec<u16> = self.active.iter().copied().filter(|m| !wanted.contains(m)).collect();
        self.active.retain(|m| wanted.contains(m));
        for member in left {
            for unit in core::mem::take(&mut self.loads[usize::from(member)]) {
                self.set_member(unit, None);
                self.unbound.insert(unit);
            }
        }
        let joined: Vec<u16> =
            wanted.iter().copied().filter(|m| !self.active.contains(m)).collect();
        self.active.extend(&joined);
        self.selection.active = self.active.iter().copied().collect();
        self.bind_unbound();
        for member in joined {
            self.fill(member);
        }
    }

    fn emptiest(&self) -> Option<u16> {
        self.active.iter().copied().min_by_key(|m| self.load(*m))
    }

    fn fullest(&self) -> Option<u16> {
        self.active.iter().rev().copied().max_by_key(|m| self.load(*m))
    }

    fn set_member(&mut self, unit: Unit, member: Option<u16>) {
        let bound = self.units.get_mut(&unit).expect("units are bound only while they exist");
        bound.member = member;
        self.moved.insert(unit);
        self.untold.insert(unit);
        self.select(unit, member);
        self.changed = true;
    }

    fn bind(&mut self, unit: Unit, member: u16) {
        self.loads[usize::from(member)].insert(unit);
        self.set_member(unit, Some(member));
    }

    fn bind_unbound(&mut self) {
        while let Some(member) = self.emptiest()
            && let Some(unit) = self.unbound.pop_first()
        {
            self.bind(unit, member);
        }
    }

    /// Takes from the fullest until none has two more.
    fn fill(&mut self, member: u16) {
        while let Some(fullest) = self.fullest()
            && self.load(fullest) > self.load(member) + 1
            && let Some(unit) = self.loads[usize::from(fullest)].pop_last()
        {
            self.bind(unit, member);
        }
    }

    /// False if there are too many.
    pub(super) fn add(&mut self, address: IpAddr, mac: Option<Mac>) -> bool {
        let unit = mac.map_or(Unit::Address(address), Unit::Mac);
        let is_new = |bound: &Bound| !bound.addresses.contains_key(&address);
        if self.units.get(&unit).is_none_or(is_new) {
            if self.addresses == ADDRESSES_MAX {
                self.refused += 1;
                return false;
            }
            self.addresses += 1;
            self.changed = true;
        }
        let is_unit_new = !self.units.contains_key(&unit);
        *self.units.entry(unit).or_default().addresses.entry(address).or_default() += 1;
        if is_unit_new {
            self.unbound.insert(unit);
            self.bind_unbound();
            // Whoever adds an address announces it himself, if it can be reached.
            let bound = self.units.get_mut(&unit).expect("just added");
            bound.announced = bound.member;
            bound.told = bound.member;
        }
        true
    }

    pub(super) fn remove(&mut self, address: IpAddr, mac: Option<Mac>) {
        let unit = mac.map_or(Unit::Address(address), Unit::Mac);
        let Some(bound) = self.units.get_mut(&unit) else { return };
        let Some(count) = bound.addresses.get_mut(&address) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        bound.addresses.remove(&address);
        self.addresses -= 1;
        self.changed = true;
        if !bound.addresses.is_empty() {
            return;
        }
        let member = bound.member;
        self.units.remove(&unit);
        self.select(unit, None);
        self.unbound.remove(&unit);
        self.moved.remove(&unit);
        self.untold.remove(&unit);
        let Some(member) = member else { return };
        self.loads[usize::from(member)].remove(&unit);
        self.fill(member);
    }

    /// What moved since this was last asked.
    pub(super) fn announcements(&mut self) -> Vec<Announcement> {
        let mut out = Vec::new();
        for unit in core::mem::take(&mut self.moved) {
            let Some(bound) = self.units.get_mut(&unit) else { continue };
            let mac = match unit {
                Unit::Address(_) => None,
                Unit::Mac(mac) => Some(mac),
            };
            if let Some(member) = bound.member.filter(|_| bound.member != bound.announced) {
                let each = bound.addresses.keys();
                out.extend(each.map(|address| Announcement { member, address: *address, mac }));
            }
            bound.announced = bound.member;
        }
        out
    }

    /// Addresses with the member they had when this was last asked, and the one they have.
    pub(super) fn take_moves(&mut self) -> Vec<(IpAddr, Option<u16>, Option<u16>)> {
        let mut out = Vec::new();
        for unit in core::mem::take(&mut self.untold) {
            let Some(bound) = self.units.get_mut(&unit) else { continue };
            let from = core::mem::replace(&mut bound.told, bound.member);
            if from != bound.member {
                out.extend(bound.addresses.keys().map(|address| (*address, from, bound.member)));
                self.moves += bound.addresses.len() as u64;
            }
        }
        out
    }

    /// All addresses with the MAC address of their alias and the member they are reached by.
    pub(super) fn bindings(&self) -> impl Iterator<Item = (IpAddr, Option<Mac>, Option<u16>)> {
        self.units.iter().flat_map(|(unit, bound)| {
            let mac = match unit {
                Unit::Address(_) => None,
                Unit::Mac(mac) => Some(*mac),
            };
            bound.addresses.keys().map(move |address| (*address, mac, bound.member))
        })
    }

    /// What the data path has to know.
    pub(super) fn selection(&self) -> &GroupSelection {
        &self.selection
    }

    /// The members that take multicast.
    pub(super) fn nominate(&mut self, nominees: [Option<u16>; 2]) {
        let selection = &mut self.selection;
        self.changed |= [selection.nominee4, selection.nominee6] != nominees;
        [selection.nominee4, selection.nominee6] = nominees;
    }

    fn select(&mut self, unit: Unit, member: Option<u16>) {
        let selection = &mut self.selection;
        match (unit, member) {
            (Unit::Address(address), Some(m)) => selection.bindings.insert(address, m),
            (Unit::Address(address), None) => selection.bindings.remove(&address),
            (Unit::Mac(mac), Some(m)) => selection.own_macs.insert(mac, m),
            (Unit::Mac(mac), None) => selection.own_macs.remove(&mac),
        };
    }
}
