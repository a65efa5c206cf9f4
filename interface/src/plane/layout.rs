//! How links stand on each other, as the data path has to know it.

use std::iter;

use smallvec::SmallVec;

use super::seen::NicSeen;
use super::{BondState, Distributor, Down, Entry, Group, LinkState, Member, Plane, Seen, Up};
use crate::bond::{BondConfig, Mode};
use crate::tree::{LinkKind, Tree};
use crate::vlan::{self, TagStats};
use crate::{BondSelection, GroupSelection, LinkId, Mac, Selection};

/// One link.
#[derive(Clone, Debug, PartialEq)]
pub enum LinkSpec {
    /// A NIC and its MAC address; `None`: it carries IP packets without a link header.
    Nic(Option<Mac>),
    /// One VLAN of another link.
    Vlan {
        /// What carries the tagged frames.
        over: LinkId,
        /// VLAN identifier, 1 to 4094.
        tag: u16,
        /// Priority code point of sent frames, 0 to 7.
        priority: u8,
    },
    /// A bond.
    Bond {
        /// Its position in a [`Selection`].
        position: usize,
        /// Its ports in order; NICs.
        ports: Vec<LinkId>,
        /// How it chooses among them.
        config: BondConfig,
    },
    /// A failover group.
    Group {
        /// Its position in a [`Selection`].
        position: usize,
        /// Its members in order.
        members: Vec<LinkId>,
        /// What stacks on it have as MAC address; `None`: that of the first member.
        mac: Option<Mac>,
    },
    /// Nothing: where an alias stands whose link is gone, until it is gone too.
    Nothing,
}

/// All links; NICs first, in the order of their configuration, and each after what it stands on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layout {
    /// By [`LinkId`].
    pub links: Vec<LinkSpec>,
}

impl Layout {
    /// That of a tree whose NICs have these MAC addresses; `None`: a NIC without link headers.
    pub fn new(tree: &Tree, macs: &[Option<Mac>]) -> Layout {
        let link = |link: &crate::tree::Link| match link.kind {
            LinkKind::Nic(nic) => LinkSpec::Nic(macs.get(nic).copied().flatten()),
            LinkKind::Vlan { over, tag, priority } => {
                LinkSpec::Vlan { over, tag, priority: priority.unwrap_or(0) }
            }
            LinkKind::Bond(position) => {
                let bond = &tree.bonds[position];
                let (ports, config) = (bond.ports.clone(), bond.config.clone());
                LinkSpec::Bond { position, ports, config }
            }
            LinkKind::Group(position) => {
                let members = tree.groups[position].members.clone();
                LinkSpec::Group { position, members, mac: None }
            }
        };
        Layout { links: tree.links.iter().map(link).collect() }
    }

    /// NICs with these MAC addresses, and nothing on them.
    pub fn bare(macs: impl IntoIterator<Item = Option<Mac>>) -> Layout {
        Layout { links: macs.into_iter().map(LinkSpec::Nic).collect() }
    }

    /// The MAC address that stacks on a link have: a bond's is configured or its first port's, a
    /// group's is its first member's.
    pub fn mac(&self, link: LinkId) -> Option<Mac> {
        match self.links.get(usize::from(link.0))? {
            LinkSpec::Nic(mac) => *mac,
            LinkSpec::Vlan { over, .. } => self.mac(*over),
            LinkSpec::Bond { ports, config, .. } => {
                config.mac.or_else(|| self.mac(*ports.first()?))
            }
            LinkSpec::Group { members, mac, .. } => mac.or_else(|| self.mac(*members.first()?)),
            LinkSpec::Nothing => None,
        }
    }

    /// Failover groups of this layout, which takes the place of `old`, keep the MAC addresses that
    /// stacks know; `to`: the new number of each old link.
    pub fn keep_macs(&mut self, old: &Layout, to: &[Option<LinkId>]) {
        for (at, to) in to.iter().enumerate() {
            let Some(LinkSpec::Group { mac, .. }) =
                to.and_then(|l| self.links.get_mut(usize::from(l.0)))
            else {
                continue;
            };
            *mac = old.mac(LinkId(at as u16));
        }
    }

    /// What may be used while nobody decides: every port and member whose NIC has link (of an
    /// `active-backup` bond the first such), and the first such member for frames to many.
    pub fn selection(&self, nic_up: impl Fn(usize) -> bool) -> Selection {
        let (mut bonds, mut groups) = (Vec::new(), Vec::new());
        for link in &self.links {
            match link {
                LinkSpec::Bond { position, ports, config } => {
                    let up = |p: &u16| nic_up(usize::from(ports[usize::from(*p)].0));
                    let most = if config.mode == Mode::ActiveBackup { 1 } else { ports.len() };
                    let distributing = (0..ports.len() as u16).filter(up).take(most).collect();
                    let collecting = (0..ports.len() as u16).filter(up).collect();
                    bonds.push((*position, BondSelection { distributing, collecting }));
                }
                LinkSpec::Group { position, members, .. } => {
                    let up = |m: &u16| self.has_nic(members[usize::from(*m)], &nic_up);
                    let active: SmallVec<[u16; 8]> = (0..members.len() as u16).filter(up).collect();
                    let first = active.first().copied();
                    let (nominee4, nominee6) = (first, first);
                    let rest = GroupSelection::default();
                    let group = GroupSelection { active, nominee4, nominee6, ..rest };
                    groups.push((*position, group));
                }
                LinkSpec::Nic(_) | LinkSpec::Vlan { .. } | LinkSpec::Nothing => {}
            }
        }
        let up = (0..self.links.len() as u16).map(|l| self.has_nic(LinkId(l), &nic_up));
        let up = up.collect();
        Selection { generation: 0, bonds: in_order(bonds), groups: in_order(groups), up }
    }

    fn has_nic(&self, link: LinkId, nic_up: &impl Fn(usize) -> bool) -> bool {
        match self.links.get(usize::from(link.0)) {
            Some(LinkSpec::Nic(_)) => nic_up(usize::from(link.0)),
            Some(LinkSpec::Vlan { over, .. }) => self.has_nic(*over, nic_up),
            Some(LinkSpec::Bond { ports: below, .. } | LinkSpec::Group { members: below, .. }) => {
                below.iter().any(|l| self.has_nic(*l, nic_up))
            }
            Some(LinkSpec::Nothing) | None => false,
        }
    }
}

fn in_order<T>(mut placed: Vec<(usize, T)>) -> Vec<T> {
    placed.sort_unstable_by_key(|p| p.0);
    placed.into_iter().map(|p| p.1).collect()
}

pub(super) fn plane(layout: &Layout) -> Plane {
    let mut plane = Plane::default();
    let (mut bonds, mut groups) = (Vec::new(), Vec::new());
    let mut ups = vec![Up::Free; layout.links.len()];
    let mut vlans = vec![Vec::new(); layout.links.len()];
    let mut downs = Vec::new();
    for (at, spec) in layout.links.iter().enumerate() {
        let link = LinkId(at as u16);
        downs.push(match spec {
            LinkSpec::Nic(_) => Down::Nic,
            LinkSpec::Vlan { over, tag, priority } => {
                vlans[usize::from(over.0)].push((*tag, link));
                let control = vlan::control(*tag, *priority);
                Down::Vlan { over: *over, control, stats: Box::new(TagStats::default()) }
            }
            LinkSpec::Bond { position: bond, ports, config } => {
                for (position, port) in ports.iter().enumerate() {
                    ups[usize::from(port.0)] = Up::Port { bond: *bond, position };
                }
                let state = BondState {
                    link,
                    mac: layout.mac(link),
                    ports: ports.clone(),
                    distributor: Distributor::new(config),
                    distributing: SmallVec::new(),
                    collecting: 0,
                };
                bonds.push((*bond, state));
                Down::Bond(*bond)
            }
            LinkSpec::Group { position: group, members, .. } => {
                for (position, member) in members.iter().enumerate() {
                    ups[usize::from(member.0)] = Up::Member { group: *group, position };
                }
                let mac = |l| layout.mac(l).unwrap_or_default();
                let own = members.iter().map(|l| Member { link: *l, mac: mac(*l) });
                groups.push((*group, (link, Group::new(mac(link), own.collect()))));
                Down::Group(*group)
            }
            LinkSpec::Nothing => Down::Nothing,
        });
    }
    (plane.bonds, plane.groups) = (in_order(bonds), in_order(groups));
    for (at, (down, mut vlans)) in iter::zip(downs, vlans).enumerate() {
        vlans.sort_unstable();
        let mac = layout.mac(LinkId(at as u16));
        if let LinkSpec::Nic(address) = &layout.links[at] {
            plane.entries.push(match (address, ups[at]) {
                (None, _) => Entry::Raw,
                (Some(_), Up::Free) if vlans.is_empty() => Entry::Plain,
                (Some(_), _) => Entry::Tree,
            });
        }
        plane.macs.extend(mac.filter(|mac| !plane.macs.contains(mac)));
        let (up, vlans, beyond) = (ups[at], vlans.into(), Box::default());
        plane.links.push(LinkState { down, up, vlans, beyond, mac });
    }
    plane.seen = seen(&plane);
    plane
}

/// Counters for the NICs below bonds and groups.
fn seen(plane: &Plane) -> Seen {
    let bonds = plane.bonds.iter().map(|bond| bond.link);
    let tops: Vec<LinkId> = bonds.chain(plane.groups.iter().map(|group| group.0)).collect();
    let below: Vec<usize> = tops.iter().flat_map(|link| plane.nics_below(*link)).collect();
    let nic = |nic: usize| below.contains(&nic).then(|| NicSeen::new(outer_tags(plane, nic)));
    Seen::new((0..plane.entries.len()).map(nic).collect())
}

/// VLANs that frames of a NIC may be of, by their outermost tag.
fn outer_tags(plane: &Plane, nic: usize) -> Vec<u16> {
    let (mut tags, mut at) = (Vec::new(), nic);
    loop {
        tags.extend(plane.links[at].vlans.iter().map(|vlan| vlan.0));
        at = match plane.links[at].up {
            Up::Free => return tags,
            Up::Port { bond, .. } => usize::from(plane.bonds[bond].link.0),
            Up::Member { group, .. } => usize::from(plane.groups[group].0.0),
        };
    }
}
