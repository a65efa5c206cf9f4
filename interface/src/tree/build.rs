//! From a specification to the links: NICs, bonds, VLANs on these, groups, VLANs on groups, then
//! aliases.

use hashbrown::{HashMap, HashSet};

use super::error::{At, Illegal, TreeError};
use super::{
    Alias, Bond, LINKS_MAX, Link, LinkKind, NICS_MAX, Owner, PORTS_MAX, Tree, TreeSpec, VlanSpec,
    check, group,
};
use crate::LinkId;
use crate::name::InterfaceName;

/// A tree that grows, and what is wrong with it.
pub(super) struct Builder {
    pub(super) tree: Tree,
    pub(super) links: HashMap<InterfaceName, LinkId>,
    /// What named a link first; where something is wrong with it, it is said there.
    pub(super) named_at: Vec<At>,
    pub(super) errors: Vec<TreeError>,
}

pub(super) fn build(mut spec: TreeSpec) -> Result<Tree, Vec<TreeError>> {
    let mut b = Builder {
        tree: Tree::default(),
        links: HashMap::new(),
        named_at: Vec::new(),
        errors: Vec::new(),
    };
    b.nics(&spec);
    b.bonds(&mut spec);
    let wanted = wanted_vlans(&mut b, &spec);
    b.vlans(&wanted, |parent| !matches!(parent, InterfaceName::Fail(_)));
    group::groups(&mut b, &spec);
    b.vlans(&wanted, |parent| matches!(parent, InterfaceName::Fail(_)));
    if b.tree.links.len() > LINKS_MAX {
        let count = b.tree.links.len();
        let what = "NICs, bonds, VLANs and groups";
        b.error(At::Whole, Illegal::TooMany { count, what, most: LINKS_MAX });
    }
    b.priorities(&spec.vlans);
    check::locks(&mut b);
    b.aliases(&spec);
    if b.errors.is_empty() {
        return Ok(b.tree);
    }
    b.errors.sort_by_key(|e| e.at);
    Err(b.errors)
}

impl Builder {
    pub(super) fn error(&mut self, at: At, why: Illegal) {
        self.errors.push(why.at(at));
    }

    /// A name, or an error at its place.
    pub(super) fn parse(&mut self, at: At, text: &str) -> Option<InterfaceName> {
        text.parse().map_err(|e: crate::name::NameError| self.error(at, e.into())).ok()
    }

    pub(super) fn name(&self, link: LinkId) -> InterfaceName {
        self.tree.at(link).name.clone()
    }

    pub(super) fn add(&mut self, at: At, name: InterfaceName, kind: LinkKind) -> LinkId {
        // The count is checked when everything was read; numbers beyond reach nobody.
        let id = LinkId(u16::try_from(self.tree.links.len()).unwrap_or(u16::MAX));
        let (mtu, ethernet) = match kind {
            LinkKind::Vlan { over, .. } => (self.tree.at(over).mtu, true),
            _ => (None, true),
        };
        self.links.insert(name.clone(), id);
        if usize::from(id.0) == self.tree.links.len() {
            self.tree.links.push(Link { name, kind, above: None, mtu, ethernet });
            self.named_at.push(at);
        }
        id
    }

    fn nics(&mut self, spec: &TreeSpec) {
        if spec.nics.len() > NICS_MAX {
            let (count, most) = (spec.nics.len(), NICS_MAX);
            self.error(At::Nic(NICS_MAX), Illegal::TooMany { count, what: "NICs", most });
        }
        for (i, nic) in spec.nics.iter().take(NICS_MAX).enumerate() {
            let at = At::Nic(i);
            let Some(name) = self.parse(at, &nic.name) else { continue };
            if !matches!(name, InterfaceName::Eth(_)) {
                self.error(at, Illegal::Place { name, place: "a NIC", wanted: "eth# is" });
                continue;
            }
            if self.links.contains_key(&name) {
                self.error(at, Illegal::Twice(name));
                continue;
            }
            let shares = |o: &&super::NicSpec| !o.device.is_empty() && o.device == nic.device;
            if let Some(other) = spec.nics[..i].iter().find(shares)
                && let Ok(other) = other.name.parse()
            {
                let device = nic.device.clone();
                self.error(at, Illegal::DeviceShared(other, name.clone(), device));
            }
            let id = self.add(at, name, LinkKind::Nic(i));
            let link = &mut self.tree.links[usize::from(id.0)];
            (link.mtu, link.ethernet) = (nic.mtu, nic.ethernet);
        }
        self.tree.nics = self.tree.links.len();
    }

    fn bonds(&mut self, spec: &mut TreeSpec) {
        for (i, bond) in spec.bonds.iter_mut().enumerate() {
            let at = At::Bond(i);
            let Some(name) = self.parse(at, &bond.name) else { continue };
            if !matches!(name, InterfaceName::Bond(_)) {
                self.error(at, Illegal::Place { name, place: "a bond", wanted: "bond# is" });
                continue;
            }
            if self.links.contains_key(&name) {
                self.error(at, Illegal::Twice(name));
                continue;
            }
            let mut config = bond.config.clone();
            let count = config.ports.len();
            if count == 0 {
                self.error(at, Illegal::Empty(name.clone(), "ports"));
            }
            if count > PORTS_MAX {
                let (what, most) = ("ports of a bond", PORTS_MAX);
                self.error(at, Illegal::TooMany { count, what, most });
                continue;
            }
            let position = self.tree.bonds.len();
            let link = self.add(at, name.clone(), LinkKind::Bond(position));
            let mut ports = Vec::new();
            for (n, port) in config.ports.iter_mut().enumerate() {
                let at = At::Port(i, n);
                let Some(nic) = self.port(at, &name, &port.name, &spec.nics) else { continue };
                port.name = self.name(nic).to_string();
                // Unique in the host, so that bonds may share a system, and the same after the
                // next start.
                if let (None, InterfaceName::Eth(number)) = (port.number, self.name(nic)) {
                    port.number = Some(number + 1);
                }
                self.tree.links[usize::from(nic.0)].above = Some(Owner::Bond(position));
                ports.push(nic);
            }
            check::drivers(self, i, &ports, &spec.nics);
            let mtus = ports.iter().filter_map(|p| self.tree.at(*p).mtu);
            self.tree.links[usize::from(link.0)].mtu = mtus.min();
            config.primary = config.primary.map(|p| p.to_ascii_lowercase());
            self.tree.bonds.push(Bond { link, ports, config });
            check::bond(self, i);
        }
    }

    /// A port of a bond: a NIC that carries Ethernet and that nobody has.
    fn port(
        &mut self,
        at: At,
        bond: &InterfaceName,
        text: &str,
        nics: &[super::NicSpec],
    ) -> Option<LinkId> {
        let name = self.parse(at, text)?;
        if !matches!(name, InterfaceName::Eth(_)) {
            self.error(at, Illegal::Place { name, place: "a port of a bond", wanted: "eth# is" });
            return None;
        }
        let Some(&nic) = self.links.get(&name) else {
            // A NIC whose section is wrong is reported there.
            if !nics.iter().any(|n| n.name.eq_ignore_ascii_case(text)) {
                self.error(at, Illegal::Unknown(name));
            }
            return None;
        };
        if !self.tree.at(nic).ethernet {
            self.error(at, Illegal::NotEthernet { name, what: "it is no port of a bond" });
            return None;
        }
        if let Some(owner) = self.tree.at(nic).above {
            // The owner that is being read has no place in `bonds` yet.
            let by = match owner {
                Owner::Bond(b) if b == self.tree.bonds.len() => bond.clone(),
                owner => self.tree.owner_name(owner).clone(),
            };
            self.error(at, Illegal::Used { name, by });
            return None;
        }
        Some(nic)
    }

    /// Adds the VLANs whose parent is wanted and exists.
    fn vlans(&mut self, all: &[(At, InterfaceName)], parents: impl Fn(&InterfaceName) -> bool) {
        for (at, name) in all {
            let InterfaceName::Vlan { parent, tag } = name else { continue };
            if !parents(parent) || self.links.contains_key(name) {
                continue;
            }
            let Some(&over) = self.links.get(&**parent) else {
                self.error(*at, Illegal::Unknown((**parent).clone()));
                continue;
            };
            if !self.tree.at(over).ethernet {
                let name = (**parent).clone();
                self.error(*at, Illegal::NotEthernet { name, what: "it has no VLANs" });
                continue;
            }
            if let Some(below) = check::tagged_below(&self.tree, over) {
                let over = self.name(below);
                self.error(*at, Illegal::TwoTags { name: name.clone(), over });
                continue;
            }
            self.add(*at, name.clone(), LinkKind::Vlan { over, tag: *tag, priority: None });
        }
    }

    fn priorities(&mut self, specs: &[VlanSpec]) {
        let mut seen = HashSet::new();
        for (i, spec) in specs.iter().enumerate() {
            let at = At::Vlan(i);
            let Ok(name) = spec.name.parse::<InterfaceName>() else { continue };
            if !seen.insert(name.clone()) {
                self.error(at, Illegal::Twice(name));
                continue;
            }
            if let Some(p) = spec.priority.filter(|p| *p > 7) {
                self.error(at, Illegal::Priority(p));
            }
            let Some(&link) = self.links.get(&name) else { continue };
            if let LinkKind::Vlan { priority, .. } = &mut self.tree.links[usize::from(link.0)].kind
            {
                *priority = spec.priority;
            }
        }
    }

    fn aliases(&mut self, spec: &TreeSpec) {
        let mut seen: HashMap<InterfaceName, usize> = HashMap::new();
        for (i, alias) in spec.aliases.iter().enumerate() {
            let at = At::Alias(i);
            let Some(name) = self.parse(at, &alias.name) else { continue };
            if name.alias_class().is_none() {
                let wanted = "mgmt#, data# and san# are";
                self.error(at, Illegal::Place { name, place: "an alias", wanted });
                continue;
            }
            if seen.insert(name.clone(), i).is_some() {
                self.error(at, Illegal::Twice(name));
                continue;
            }
            let Some(over) = check::over(self, i, &name, spec) else { continue };
            let own = name.tag();
            let Some(&link) = self.links.get(&own.and_then(|t| over.tagged(t)).unwrap_or(over))
            else {
                continue;
            };
            check::alias(self, i, &name, alias, link);
            let (mtu, mac, beyond) = (alias.mtu, alias.mac, alias.beyond.clone());
            self.tree.aliases.push(Alias { name, link, tag: own, mtu, mac, beyond });
        }
    }
}

/// All VLANs that are named somewhere, with the place of their first name; tells what is wrong with
/// those names.
fn wanted_vlans(b: &mut Builder, spec: &TreeSpec) -> Vec<(At, InterfaceName)> {
    let mut out = Vec::new();
    for (i, vlan) in spec.vlans.iter().enumerate() {
        let at = At::Vlan(i);
        let Some(name) = b.parse(at, &vlan.name) else { continue };
        let wanted = "<eth#, bond# or fail#>.<tag> is; of an alias's own tag, the link it makes";
        match name {
            InterfaceName::Vlan { .. } if name.alias_class().is_none() => out.push((at, name)),
            name => b.error(at, Illegal::Place { name, place: "a VLAN", wanted }),
        }
    }
    for (i, group) in spec.groups.iter().enumerate() {
        let names = group.config.members.iter().map(|m| m.parse()).enumerate();
        let names = names.filter_map(|(n, name)| Some((At::Member(i, n), name.ok()?)));
        // Others are no members; that is said when the group is made.
        out.extend(names.filter(|(_, name)| group::may_be_member(name)));
    }
    for (i, alias) in spec.aliases.iter().enumerate() {
        let Ok(name) = alias.name.parse::<InterfaceName>() else { continue };
        let Some(over) = check::over_text(spec, &name, alias).and_then(|t| t.parse().ok()) else {
            continue;
        };
        let over: InterfaceName = over;
        if over.alias_class().is_some() {
            continue;
        }
        match name.tag() {
            Some(tag) if name.alias_class().is_some() => {
                // A link's own tag would be the first; that is said with the alias.
                out.extend(over.tagged(tag).map(|link| (At::Alias(i), link)));
            }
            _ => out.push((At::Over(i), over)),
        }
    }
    out.retain(|(_, name)| name.tag().is_some());
    out
}
