//! Another tree while everything runs: machines of interfaces that stay go on.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher13;
use weft_stack::rng::Rng;
use weft_stack::time::Instant;

use super::failover::Failover;
use super::{Keeper, Where};
use crate::bond::{Bond, PortLink};
use crate::events::What;
use crate::tree::Tree;
use crate::{LinkId, Mac};

/// What stacks have on the links of a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Data addresses, with the MAC address of their alias if it has one of its own.
    pub addresses: Vec<(LinkId, IpAddr, Option<Mac>)>,
    /// Multicast groups.
    pub memberships: Vec<(LinkId, IpAddr)>,
    /// The addresses by alias, its position in the tree.
    pub of_aliases: Vec<(usize, IpAddr)>,
}

/// Data addresses of a failover group, and how often each is there.
type Bound = BTreeMap<(IpAddr, Option<Mac>), usize>;

impl Keeper {
    /// The tree is another from now on, with the same NICs. Bonds and groups go by their names: one
    /// that stays as it was notices nothing, one that changes keeps what it knows of ports and
    /// members that stay. `standing` is what stacks have on the links of the new tree. `seed` is
    /// random.
    ///
    /// # Panics
    ///
    /// If the trees have not the same NICs.
    pub fn update(&mut self, now: Instant, tree: &Tree, seed: u64, standing: &Standing) {
        assert_eq!(tree.nics, self.tree.nics, "NICs are those of the start");
        let mut rng = Rng::from_u64(seed);
        let to = self.tree.successors(tree);
        let bound = self.bound();
        self.end_sessions(now, tree);
        self.transmit.retain_mut(|(at, _)| match at {
            Where::Nic(_) => true,
            Where::Link(link) => {
                let new = to[usize::from(link.0)];
                *link = new.unwrap_or(*link);
                new.is_some()
            }
        });
        let old = std::mem::replace(&mut self.tree, tree.clone());
        let mut up = vec![false; tree.links.len()];
        for (at, new) in to.iter().enumerate() {
            if let Some(new) = new {
                up[usize::from(new.0)] = self.up[at];
            }
        }
        self.up = up;
        self.update_bonds(now, &old, &mut rng);
        self.update_groups(now, &old, (&bound, standing), &mut rng);
        self.update_outlooks(now, &mut rng);
        self.run(now);
    }

    /// By group.
    fn bound(&self) -> Vec<Bound> {
        let mut bound = vec![Bound::new(); self.groups.len()];
        for ((link, addr, own), count) in &self.addresses {
            if let Some(group) = self.group_below(*link) {
                *bound[group].entry((*addr, *own)).or_default() += count;
            }
        }
        bound
    }

    /// BFD sessions that end now end in order.
    fn end_sessions(&mut self, now: Instant, next: &Tree) {
        for number in 0..self.groups.len() {
            let name = &self.tree.at(self.tree.groups[number].link).name;
            let stays = next.groups.iter().position(|g| next.at(g.link).name == *name);
            self.groups[number].farewell(now, stays.map(|at| (next, at)));
            while let Some((link, frame)) = self.groups[number].poll_transmit() {
                self.send(Where::Link(link), frame);
            }
        }
    }

    fn update_bonds(&mut self, now: Instant, old: &Tree, rng: &mut Rng) {
        let mut before: BTreeMap<_, (Bond, _)> = BTreeMap::new();
        for (at, bond) in old.bonds.iter().zip(std::mem::take(&mut self.bonds)) {
            before.insert(old.at(at.link).name.to_string(), (bond, &at.config));
        }
        for at in &self.tree.bonds {
            let macs: Vec<Mac> = at.ports.iter().map(|p| self.macs[usize::from(p.0)]).collect();
            let links: Vec<PortLink> =
                at.ports.iter().map(|p| self.links[usize::from(p.0)]).collect();
            let seed = rng.next_u64();
            let bond = match before.remove(&self.tree.at(at.link).name.to_string()) {
                Some((bond, config)) if *config == at.config => bond,
                Some((mut bond, _)) => {
                    bond.update(now, &at.config, (&macs, &links), seed);
                    bond
                }
                None => {
                    let mut bond = Bond::new(&at.config, &macs, seed);
                    for (port, link) in links.iter().enumerate() {
                        bond.handle_link(now, port, *link);
                    }
                    bond
                }
            };
            self.bonds.push(bond);
        }
    }

    fn update_groups(
        &mut self,
        now: Instant,
        old: &Tree,
        (bound, standing): (&[Bound], &Standing),
        rng: &mut Rng,
    ) {
        let groups = std::mem::take(&mut self.groups);
        let mut before: BTreeMap<String, (Failover, &Bound)> = BTreeMap::new();
        for ((at, group), bound) in old.groups.iter().zip(groups).zip(bound) {
            before.insert(old.at(at.link).name.to_string(), (group, bound));
        }
        let none = Bound::new();
        let mut had = Vec::new();
        for number in 0..self.tree.groups.len() {
            let seed = rng.next_u64();
            let name = self.tree.at(self.tree.groups[number].link).name.to_string();
            let known = before.remove(&name);
            if known.is_none() {
                self.tell_group_change(name, true);
            }
            let (mut group, bound) =
                known.unwrap_or_else(|| (self.new_failover(number, seed), &none));
            let mac = |link| self.mac(link);
            group.update(now, (&self.tree, number), mac);
            self.groups.push(group);
            had.push(bound);
        }
        for (name, _) in before {
            self.tell_group_change(name, false);
        }
        self.stand(standing);
        let has = self.bound();
        for (group, (had, has)) in self.groups.iter_mut().zip(had.into_iter().zip(&has)) {
            change_addresses(now, group, had, has);
        }
        let mut wanted: Vec<Vec<IpAddr>> = vec![Vec::new(); self.groups.len()];
        for (link, addr) in &standing.memberships {
            if let Some(group) = self.group_below(*link) {
                wanted[group].push(*addr);
            }
        }
        for (group, wanted) in self.groups.iter_mut().zip(wanted) {
            group.group.set_memberships(wanted);
        }
    }

    /// A failover group came into being, or is no more.
    fn tell_group_change(&mut self, group: String, added: bool) {
        let mut hasher = SipHasher13::new();
        for at in &self.tree.groups {
            hasher.write(self.tree.at(at.link).name.to_string().as_bytes());
            hasher.write_u8(0);
        }
        self.tell(What::GroupChange { group, signature: hasher.finish(), added });
    }

    /// What stacks have stands on the links of this tree.
    fn stand(&mut self, standing: &Standing) {
        self.addresses.clear();
        self.memberships.clear();
        self.of_aliases.clear();
        for at in &standing.of_aliases {
            *self.of_aliases.entry(*at).or_default() += 1;
        }
        for at in &standing.addresses {
            *self.addresses.entry(*at).or_default() += 1;
        }
        for at in &standing.memberships {
            if self.group_below(at.0).is_some() {
                *self.memberships.entry(*at).or_default() += 1;
            }
        }
    }
}

/// What came and went is told to the group; what stays keeps its member.
fn change_addresses(now: Instant, group: &mut Failover, had: &Bound, has: &Bound) {
    for (unit @ (addr, own), count) in had {
        for _ in has.get(unit).copied().unwrap_or(0)..*count {
            group.address_removed(now, *addr, *own);
        }
    }
    for (unit @ (addr, own), count) in has {
        for _ in had.get(unit).copied().unwrap_or(0)..*count {
            group.address_added(now, *addr, *own);
        }
    }
}
