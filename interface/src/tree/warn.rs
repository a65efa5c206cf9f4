//! What is legal and yet looks like a mistake.

use hashbrown::HashSet;

use super::{LinkKind, Tree};
use crate::LinkId;
use crate::name::InterfaceName;

/// Something suspicious. Displays as what it is and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// Members that reach different networks.
    #[error(
        "{group}: {a} is {} and {b} is {}; members usually reach one network",
        vlan(*.a_tag), vlan(*.b_tag)
    )]
    DifferentVlans {
        /// The group.
        group: InterfaceName,
        /// A member.
        a: InterfaceName,
        /// Its tag.
        a_tag: Option<u16>,
        /// Another.
        b: InterfaceName,
        /// Its tag.
        b_tag: Option<u16>,
    },
    /// Nothing to fail over to.
    #[error("{0} has one {1}; nothing takes over when it fails")]
    Single(InterfaceName, &'static str),
    /// Nobody uses it.
    #[error("{0} carries no alias; frames for it are dropped")]
    Unused(InterfaceName),
    /// The smallest MTU wins.
    #[error("{link}: {a} has mtu {a_mtu} and {b} has {b_mtu}; all use the smaller one")]
    DifferentMtus {
        /// The bond or group.
        link: InterfaceName,
        /// A part of it.
        a: InterfaceName,
        /// Its MTU.
        a_mtu: usize,
        /// Another.
        b: InterfaceName,
        /// Its MTU.
        b_mtu: usize,
    },
}

fn vlan(tag: Option<u16>) -> String {
    tag.map_or_else(|| "untagged".to_owned(), |t| format!("in VLAN {t}"))
}

impl Warning {
    /// The bond, VLAN or group that is suspicious.
    pub fn subject(&self) -> &InterfaceName {
        match self {
            Warning::DifferentVlans { group: name, .. }
            | Warning::Single(name, _)
            | Warning::Unused(name)
            | Warning::DifferentMtus { link: name, .. } => name,
        }
    }
}

pub(super) fn warnings(tree: &Tree) -> Vec<Warning> {
    let mut out = Vec::new();
    for bond in &tree.bonds {
        parts(tree, bond.link, &bond.ports, "port", &mut out);
    }
    for group in &tree.groups {
        parts(tree, group.link, &group.members, "member", &mut out);
        let Some((&first, rest)) = group.members.split_first() else { continue };
        let a_tag = tree.tag(first);
        if let Some(&other) = rest.iter().find(|m| tree.tag(**m) != a_tag) {
            let name = |link| tree.at(link).name.clone();
            let (group, a, b) = (name(group.link), name(first), name(other));
            out.push(Warning::DifferentVlans { group, a, a_tag, b, b_tag: tree.tag(other) });
        }
    }
    let over = tree.links.iter().filter_map(|l| match l.kind {
        LinkKind::Vlan { over, .. } => Some(over),
        _ => None,
    });
    let used: HashSet<LinkId> = over.chain(tree.aliases.iter().map(|a| a.link)).collect();
    for (link, id) in tree.links.iter().zip(0..).skip(tree.nics) {
        if link.above.is_none() && !used.contains(&LinkId(id)) {
            out.push(Warning::Unused(link.name.clone()));
        }
    }
    out
}

fn parts(tree: &Tree, link: LinkId, parts: &[LinkId], what: &'static str, out: &mut Vec<Warning>) {
    let name = |link| tree.at(link).name.clone();
    if parts.len() == 1 {
        out.push(Warning::Single(name(link), what));
    }
    let mut mtus = parts.iter().filter_map(|p| Some((*p, tree.at(*p).mtu?)));
    let Some((first, a_mtu)) = mtus.next() else { return };
    if let Some((other, b_mtu)) = mtus.find(|(_, mtu)| *mtu != a_mtu) {
        let (link, a, b) = (name(link), name(first), name(other));
        out.push(Warning::DifferentMtus { link, a, a_mtu, b, b_mtu });
    }
}
