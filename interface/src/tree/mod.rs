//! The interfaces of a host as one typed tree: `eth#`, `bond#`, `.tag`, `fail#`, then aliases;
//! middle layers are optional, and a VLAN stands on any of them.
//!
//! [`Tree::new`] checks everything as a whole, so a `Tree` that exists is legal: no link has two
//! owners, nothing but its owner stands on a link that has one, a path has at most one tag, and a
//! link stands after what it stands on.

mod build;
mod check;
pub mod draw;
mod error;
mod group;
#[cfg(test)]
mod property_tests;
mod spec;
#[cfg(test)]
mod tests;
mod warn;

use hashbrown::HashMap;
use smallvec::SmallVec;

pub use error::{At, Illegal, TreeError};
pub use spec::{AliasSpec, BondSpec, GroupSpec, NicSpec, TreeSpec, VlanSpec};
pub use warn::Warning;

use crate::bond::BondConfig;
use crate::fail::config::{BeyondConfig, GroupConfig};
use crate::name::InterfaceName;
use crate::{LinkId, Mac};

/// NICs of a host.
pub const NICS_MAX: usize = 1000;
/// Ports of a bond.
pub const PORTS_MAX: usize = 32;
/// Members of a failover group.
pub const MEMBERS_MAX: usize = 32;
/// NICs, bonds, VLANs and groups together.
pub const LINKS_MAX: usize = 16_384;

/// The interfaces of a host, checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tree {
    /// What aliases may stand on, by [`LinkId`]; each after what it stands on.
    pub links: Vec<Link>,
    /// The first so many links are the NICs, in the order of their configuration.
    pub nics: usize,
    /// Bonds, in the order of their configuration.
    pub bonds: Vec<Bond>,
    /// Failover groups, in the order of their configuration.
    pub groups: Vec<Group>,
    /// Aliases, in the order of their configuration.
    pub aliases: Vec<Alias>,
}

/// One link.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// Its name: `eth#`, `bond#`, `fail#`, or one of them with a tag.
    pub name: InterfaceName,
    /// What it is.
    pub kind: LinkKind,
    /// The bond or group that has it; such a link carries nothing else.
    pub above: Option<Owner>,
    /// The least MTU that is configured below it; `None` if none is.
    pub mtu: Option<usize>,
    /// Whether it carries Ethernet frames; else bare IP packets.
    pub ethernet: bool,
}

/// What a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// The NIC of this position, untagged.
    Nic(usize),
    /// One VLAN of another link.
    Vlan {
        /// What carries the tagged frames: a NIC, bond or group.
        over: LinkId,
        /// VLAN identifier, 1 to 4094.
        tag: u16,
        /// Priority code point of sent frames, 0 to 7; `None`: 0.
        priority: Option<u8>,
    },
    /// The bond of this position.
    Bond(usize),
    /// The failover group of this position.
    Group(usize),
}

/// What has a link as its component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The bond of this position.
    Bond(usize),
    /// The failover group of this position.
    Group(usize),
}

/// One bond.
#[derive(Clone, Debug, PartialEq)]
pub struct Bond {
    /// Its link.
    pub link: LinkId,
    /// Its ports in order; NICs.
    pub ports: Vec<LinkId>,
    /// How it works. Every port has a number, unique in the host if the operator gave none.
    pub config: BondConfig,
}

/// One failover group.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Its link.
    pub link: LinkId,
    /// Its members in order: NICs, bonds, VLANs on them.
    pub members: Vec<LinkId>,
    /// How it works.
    pub config: GroupConfig,
}

/// Where addresses live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// Its name.
    pub name: InterfaceName,
    /// The link that carries it; of an alias with a tag of its own, the VLAN.
    pub link: LinkId,
    /// The tag in its own name.
    pub tag: Option<u16>,
    /// MTU in bytes; `None`: that of the link.
    pub mtu: Option<usize>,
    /// A MAC address of its own; `None`: that of the link.
    pub mac: Option<Mac>,
    /// Targets beyond the link that it is bound to.
    pub beyond: BeyondConfig,
}

impl Tree {
    /// Checks a specification as a whole. Gives everything that is wrong with it, once.
    pub fn new(spec: TreeSpec) -> Result<Tree, Vec<TreeError>> {
        build::build(spec)
    }

    /// The link of a name; an alias has none of its own.
    pub fn link(&self, name: &InterfaceName) -> Option<LinkId> {
        let at = self.links.iter().position(|l| l.name == *name)?;
        u16::try_from(at).ok().map(LinkId)
    }

    /// By link of this tree: the link of that name in `next`.
    pub fn successors(&self, next: &Tree) -> Vec<Option<LinkId>> {
        let numbers = next.links.iter().enumerate();
        let named: HashMap<&InterfaceName, LinkId> =
            numbers.map(|(at, link)| (&link.name, LinkId(at as u16))).collect();
        self.links.iter().map(|link| named.get(&link.name).copied()).collect()
    }

    /// What a number stands for.
    ///
    /// # Panics
    ///
    /// If the number is from another tree.
    pub fn at(&self, link: LinkId) -> &Link {
        &self.links[usize::from(link.0)]
    }

    /// The links that a link stands on directly: none, that below a VLAN, ports or members.
    pub fn below(&self, link: LinkId) -> SmallVec<[LinkId; 8]> {
        match self.at(link).kind {
            LinkKind::Nic(_) => SmallVec::new(),
            LinkKind::Vlan { over, .. } => SmallVec::from_slice(&[over]),
            LinkKind::Bond(bond) => SmallVec::from_slice(&self.bonds[bond].ports),
            LinkKind::Group(group) => SmallVec::from_slice(&self.groups[group].members),
        }
    }

    /// The NICs that frames of a link go through, in the order of ports and members.
    pub fn nics_below(&self, link: LinkId) -> SmallVec<[usize; 8]> {
        let mut out = SmallVec::new();
        // Every way down ends, because a link stands after what it stands on.
        self.collect_nics(link, &mut out);
        out
    }

    fn collect_nics(&self, link: LinkId, out: &mut SmallVec<[usize; 8]>) {
        if let LinkKind::Nic(nic) = self.at(link).kind {
            out.push(nic);
        }
        for below in self.below(link) {
            self.collect_nics(below, out);
        }
    }

    /// A link and everything below it with its depth, from 0, in the order to draw.
    pub fn path(&self, link: LinkId) -> Vec<(usize, LinkId)> {
        let mut out = Vec::new();
        let mut open = vec![(0, link)];
        while let Some((depth, link)) = open.pop() {
            out.push((depth, link));
            open.extend(self.below(link).into_iter().rev().map(|below| (depth + 1, below)));
        }
        out
    }

    /// The VLAN tag that frames of a link have on the wire. Members of a group may have different
    /// ones, then that of the first.
    pub fn tag(&self, link: LinkId) -> Option<u16> {
        match self.at(link).kind {
            LinkKind::Vlan { tag, .. } => Some(tag),
            LinkKind::Group(group) => self.tag(*self.groups[group].members.first()?),
            _ => None,
        }
    }

    /// The name of a bond's or group's own link.
    pub fn owner_name(&self, owner: Owner) -> &InterfaceName {
        let link = match owner {
            Owner::Bond(bond) => self.bonds[bond].link,
            Owner::Group(group) => self.groups[group].link,
        };
        &self.at(link).name
    }

    /// Aliases that a link carries itself, by position.
    pub fn aliases_of(&self, link: LinkId) -> impl Iterator<Item = usize> + '_ {
        let on_it = self.aliases.iter().enumerate().filter(move |(_, a)| a.link == link);
        on_it.map(|(i, _)| i)
    }

    /// Whether something is to be decided while frames flow: there is a bond, a failover group, or
    /// an alias that is bound to targets beyond its link.
    pub fn has_machines(&self) -> bool {
        let bound = |alias: &Alias| !alias.beyond.targets.is_empty();
        !(self.bonds.is_empty() && self.groups.is_empty()) || self.aliases.iter().any(bound)
    }

    /// What is legal and yet looks like a mistake.
    pub fn warnings(&self) -> Vec<Warning> {
        warn::warnings(self)
    }
}
