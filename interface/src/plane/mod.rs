//! The data path: frames between NICs and links. One [`Plane`] for each worker; it allocates nothing
//! for a frame, and knows nothing of why a port or member may be used: a [`Selection`] says that.
//!
//! Inbound a frame climbs: the NIC's bond, if it is a port; the tag; the failover group, if the link
//! is a member. Outbound it goes down the same way. A NIC that carries nothing but untagged aliases
//! pays one look at the ethertype.

mod group;
mod headers;
mod layout;
mod seen;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use hashbrown::HashSet;
use smallvec::SmallVec;
use weft_stack::drop::DropReason;
use weft_stack::frame::Frame;

use crate::bond::Distributor;
use crate::vlan::{self, TagStats};
use crate::{LinkId, Mac, Selection};
use group::{Admit, Group, Member};
use headers::be16;

pub use group::ETHERTYPE_PROBE;
pub use layout::{Layout, LinkSpec};
pub use seen::Seen;

/// LACP and markers (IEEE 802.3 annex 57A).
pub const ETHERTYPE_SLOW: u16 = 0x8809;
/// LLDP (IEEE 802.1AB).
pub const ETHERTYPE_LLDP: u16 = 0x88cc;

/// Where a received frame belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingress {
    /// To the aliases of a link; tags are out, and the destination is the link's MAC address.
    Link(LinkId),
    /// To the machines: LACP and LLDP of a NIC, or what a prober has to see of a member (without
    /// tags then).
    Control(LinkId),
    /// To the aliases of a link, and a copy of it to the machines.
    Both {
        /// Whose aliases.
        link: LinkId,
        /// The member that it came by; without one, the link itself.
        member: LinkId,
    },
    /// To nobody.
    Drop(DropReason),
}

/// What a NIC's frames go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// IP packets without a link header.
    Raw,
    /// Nothing stands on it but untagged aliases.
    Plain,
    Tree,
}

#[derive(Clone, Debug)]
struct LinkState {
    down: Down,
    up: Up,
    /// VLANs on it, by tag.
    vlans: Box<[(u16, LinkId)]>,
    /// Hosts beyond it that the machines ask with the addresses of an alias on it.
    beyond: Box<[IpAddr]>,
    mac: Option<Mac>,
}

#[derive(Clone, Debug)]
enum Down {
    Nic,
    Vlan { over: LinkId, control: u16, stats: Box<TagStats> },
    Bond(usize),
    Group(usize),
    Nothing,
}

#[derive(Clone, Copy, Debug)]
enum Up {
    Free,
    Port { bond: usize, position: usize },
    Member { group: usize, position: usize },
}

#[derive(Clone, Debug)]
struct BondState {
    link: LinkId,
    mac: Option<Mac>,
    ports: Vec<LinkId>,
    distributor: Distributor,
    distributing: SmallVec<[u16; 8]>,
    collecting: u64,
}

/// The data path of one worker.
#[derive(Debug, Default)]
pub struct Plane {
    entries: Vec<Entry>,
    links: Vec<LinkState>,
    bonds: Vec<BondState>,
    groups: Vec<(LinkId, Group)>,
    tests: HashSet<(LinkId, IpAddr)>,
    seen: Seen,
    /// Of all links.
    macs: Vec<Mac>,
    /// Of aliases that have one of their own.
    alias_macs: Vec<(LinkId, Mac)>,
    generation: u64,
}

/// Whether of those that carried frames one does not, or the first does; and some do now.
fn is_moved(before: &[u16], now: &[u16]) -> bool {
    !now.is_empty() && (before.is_empty() || before.iter().any(|at| !now.contains(at)))
}

impl Plane {
    /// Nothing is selected yet: bonds and groups are down.
    pub fn new(layout: &Layout) -> Plane {
        layout::plane(layout)
    }

    /// Takes over what may be used. Returns the bonds and groups whose frames take another path since
    /// one was lost: a port or member went that carried them, or the first came.
    pub fn select(&mut self, selection: &Selection) -> SmallVec<[LinkId; 2]> {
        let mut moved = SmallVec::new();
        self.generation = selection.generation;
        for (bond, selected) in self.bonds.iter_mut().zip(&selection.bonds) {
            if is_moved(&bond.distributing, &selected.distributing) {
                moved.push(bond.link);
            }
            bond.distributor.apply(selected);
            bond.distributing.clone_from(&selected.distributing);
            let ports = bond.ports.len();
            let collecting = selected.collecting.iter().filter(|p| usize::from(**p) < ports);
            bond.collecting = collecting.fold(0, |set, p| set | 1 << p);
        }
        for ((link, group), selected) in self.groups.iter_mut().zip(&selection.groups) {
            if is_moved(group.selected(), &selected.active) {
                moved.push(*link);
            }
            group.apply(selected);
        }
        moved
    }

    /// Whether frames of a link take a path through another, which is below it or the same.
    pub fn stands_on(&self, link: LinkId, below: LinkId) -> bool {
        link == below
            || match &self.links[usize::from(link.0)].down {
                Down::Nic | Down::Nothing => false,
                Down::Vlan { over, .. } => self.stands_on(*over, below),
                Down::Bond(bond) => self.bonds[*bond].ports.contains(&below),
                Down::Group(group) => {
                    let members = &self.groups[*group].1.members;
                    members.iter().any(|member| self.stands_on(member.link, below))
                }
            }
    }

    /// Takes the place of `old` before its first selection: what was counted goes on, and
    /// destinations stay with their members. `to`: the new number of each old link.
    pub fn succeed(&mut self, old: Plane, to: &[Option<LinkId>]) {
        let renumbered = |link: LinkId| to.get(usize::from(link.0)).copied().flatten();
        for nic in 0..old.entries.len() {
            let Some(new) = renumbered(LinkId(nic as u16)) else { continue };
            let owner = old.owner(nic).map(renumbered);
            if owner == self.owner(usize::from(new.0)).map(Some) {
                self.seen.go_on(usize::from(new.0), &old.seen, nic);
            }
        }
        for (at, link) in old.links.into_iter().enumerate() {
            let new = renumbered(LinkId(at as u16)).map(|new| &mut self.links[usize::from(new.0)]);
            if let (
                Some(LinkState { down: Down::Vlan { stats, .. }, .. }),
                Down::Vlan { stats: counted, .. },
            ) = (new, link.down)
            {
                *stats = counted;
            }
        }
        for (link, group) in old.groups {
            let new = renumbered(link);
            if let Some((_, next)) = self.groups.iter_mut().find(|(l, _)| Some(*l) == new) {
                next.succeed(group, renumbered);
            }
        }
    }

    /// The bond or group that a NIC itself is part of.
    fn owner(&self, nic: usize) -> Option<LinkId> {
        match self.links[nic].up {
            Up::Free => None,
            Up::Port { bond, .. } => Some(self.bonds[bond].link),
            Up::Member { group, .. } => Some(self.groups[group].0),
        }
    }

    /// That of the selection in use.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Addresses that the prober has on members of groups: frames for them are its own.
    pub fn set_test_addresses(&mut self, tests: impl IntoIterator<Item = (LinkId, IpAddr)>) {
        self.tests = tests.into_iter().collect();
    }

    /// The prober of this group asks for neighbours with the addresses of the stacks, or with none.
    pub fn listen(&mut self, group: LinkId) {
        if let Some(group) = self.group_below(group) {
            group.listens = true;
        }
    }

    /// The prober of this group asks these hosts beyond the link with the addresses of the stacks.
    pub fn listen_beyond(&mut self, group: LinkId, hosts: &[IpAddr]) {
        if let Some(group) = self.group_below(group) {
            group.listens |= !hosts.is_empty();
            group.beyond = hosts.into();
        }
    }

    /// The machines ask these hosts beyond a link, too, with the addresses of an alias on it.
    pub fn listen_for_alias(&mut self, link: LinkId, hosts: &[IpAddr]) {
        let Some(state) = self.links.get_mut(usize::from(link.0)) else { return };
        state.beyond = state.beyond.iter().chain(hosts).copied().collect();
        if let Some(entry) = self.entries.get_mut(usize::from(link.0))
            && *entry == Entry::Plain
            && !hosts.is_empty()
        {
            *entry = Entry::Tree;
        }
    }

    /// An alias on this link has a MAC address of its own.
    pub fn add_mac(&mut self, link: LinkId, mac: Mac) {
        if !self.alias_macs.contains(&(link, mac)) {
            self.alias_macs.push((link, mac));
        }
        if let Some(group) = self.group_below(link) {
            group.add_mac(mac);
        }
    }

    /// No longer.
    pub fn remove_mac(&mut self, link: LinkId, mac: Mac) {
        self.alias_macs.retain(|known| *known != (link, mac));
        if let Some(group) = self.group_below(link) {
            group.remove_mac(mac);
        }
    }

    fn is_ours(&self, mac: Mac) -> bool {
        self.macs.contains(&mac) || self.alias_macs.iter().any(|known| known.1 == mac)
    }

    fn group_below(&mut self, link: LinkId) -> Option<&mut Group> {
        let mut at = link;
        loop {
            match self.links.get(usize::from(at.0))?.down {
                Down::Vlan { over, .. } => at = over,
                Down::Group(group) => return Some(&mut self.groups[group].1),
                Down::Nic | Down::Bond(_) | Down::Nothing => return None,
            }
        }
    }

    /// Finds the link of a frame that a NIC gave, and makes the frame what the link's stacks expect.
    #[inline]
    pub fn receive(&mut self, nic: usize, frame: &mut Frame) -> Ingress {
        let link = LinkId(nic as u16);
        if self.entries[nic] == Entry::Raw {
            return Ingress::Link(link);
        }
        let ethertype = be16(frame.data(), 12).unwrap_or(0);
        let ip = ethertype == headers::IP4 || ethertype == headers::IP6;
        if self.entries[nic] == Entry::Plain && (ip || ethertype <= headers::ARP) {
            return Ingress::Link(link);
        }
        self.climb(link, ethertype, frame)
    }

    fn climb(&mut self, nic: LinkId, ethertype: u16, frame: &mut Frame) -> Ingress {
        if ethertype == ETHERTYPE_SLOW || ethertype == ETHERTYPE_LLDP {
            return Ingress::Control(nic);
        }
        self.seen.count(usize::from(nic.0), frame.data(), |mac| self.is_ours(mac));
        let mut at = nic;
        let mut heard = None;
        // Each step is one link up, and a tag without a VLAN at most.
        loop {
            match self.links[usize::from(at.0)].up {
                Up::Port { bond, position } => {
                    let bond = &self.bonds[bond];
                    if bond.mac.is_some_and(|mac| frame.data().get(6..12) == Some(&mac[..])) {
                        self.seen.count_own(usize::from(nic.0));
                        return Ingress::Drop(DropReason::OwnFrameReflected);
                    }
                    if bond.collecting >> position & 1 == 0 {
                        return Ingress::Drop(DropReason::BondNotCollecting);
                    }
                    at = bond.link;
                    continue;
                }
                Up::Member { group, position } => {
                    let (link, group) = &self.groups[group];
                    match group.receive(position, frame, &self.tests) {
                        Admit::Group => at = *link,
                        Admit::Probe => return Ingress::Control(at),
                        Admit::Both => {
                            heard = Some(at);
                            at = *link;
                        }
                        Admit::Drop(reason) => return Ingress::Drop(reason),
                    }
                    continue;
                }
                Up::Free => {}
            }
            let Some(control) = vlan::pop(frame) else { return self.found(at, heard, frame) };
            let tag = control & vlan::ID_MASK;
            if tag == 0 {
                // A priority and no VLAN (802.1Q section 6.9.1); another tag may follow.
                if be16(frame.data(), 12).is_some_and(vlan::is_tag) {
                    return Ingress::Drop(DropReason::VlanUnknown);
                }
                return self.found(at, heard, frame);
            }
            let vlans = &self.links[usize::from(at.0)].vlans;
            let Ok(found) = vlans.binary_search_by_key(&tag, |v| v.0) else {
                return Ingress::Drop(DropReason::VlanUnknown);
            };
            at = vlans[found].1;
            if let Down::Vlan { stats, .. } = &mut self.links[usize::from(at.0)].down {
                stats.rx_frames += 1;
                stats.rx_bytes += frame.total_len() as u64;
                stats.rx_prioritised += u64::from(control >> 13 != 0);
            }
        }
    }

    /// A frame belongs to the aliases of a link, and perhaps to the machines too.
    fn found(&self, link: LinkId, heard: Option<LinkId>, frame: &Frame) -> Ingress {
        let beyond = &self.links[usize::from(link.0)].beyond;
        let (data, asks) = (frame.data(), !beyond.is_empty());
        let answers = || headers::is_answer(data) || headers::is_echo_reply(data, beyond);
        match heard {
            Some(member) => Ingress::Both { link, member },
            None if asks && answers() => Ingress::Both { link, member: link },
            None => Ingress::Link(link),
        }
    }

    /// The NIC that a frame of a link leaves by; the frame becomes what goes out there. A link that
    /// is a port or a member, and the NICs themselves, may be given too: what the machines send.
    #[inline]
    pub fn send(&mut self, link: LinkId, frame: &mut Frame) -> Result<usize, DropReason> {
        let mut at = usize::from(link.0);
        loop {
            let below = match &mut self.links[at].down {
                Down::Nic => return Ok(at),
                Down::Vlan { over, control, stats } => {
                    stats.tx_frames += 1;
                    stats.tx_bytes += frame.total_len() as u64;
                    vlan::push(frame, *control);
                    *over
                }
                Down::Bond(bond) => {
                    let bond = &mut self.bonds[*bond];
                    let port = bond.distributor.choose(frame.data());
                    let port = port.and_then(|p| bond.ports.get(usize::from(p)));
                    *port.ok_or(DropReason::LinkHasNoMember)?
                }
                Down::Group(group) => {
                    let member = self.groups[*group].1.send(frame);
                    member.ok_or(DropReason::LinkHasNoMember)?
                }
                Down::Nothing => return Err(DropReason::LinkHasNoMember),
            };
            at = usize::from(below.0);
        }
    }

    /// Whether frames of a link can leave, if those of its NICs can.
    pub fn is_up(&self, link: LinkId, nic_up: impl Fn(usize) -> bool + Copy) -> bool {
        match &self.links[usize::from(link.0)].down {
            Down::Nic => nic_up(usize::from(link.0)),
            Down::Vlan { over, .. } => self.is_up(*over, nic_up),
            Down::Bond(bond) => {
                let bond = &self.bonds[*bond];
                let up =
                    |p: &u16| bond.ports.get(usize::from(*p)).is_some_and(|l| nic_up(l.0.into()));
                bond.distributing.iter().any(up)
            }
            Down::Group(group) => {
                let group = &self.groups[*group].1;
                group.is_up() && group.active().any(|member| self.is_up(member, nic_up))
            }
            Down::Nothing => false,
        }
    }

    /// NICs that frames of a link may leave or come by, each once.
    pub fn nics_below(&self, link: LinkId) -> SmallVec<[usize; 2]> {
        let mut nics = SmallVec::new();
        self.collect_nics(link, &mut nics);
        nics.sort_unstable();
        nics.dedup();
        nics
    }

    fn collect_nics(&self, link: LinkId, nics: &mut SmallVec<[usize; 2]>) {
        match &self.links[usize::from(link.0)].down {
            Down::Nic => nics.push(usize::from(link.0)),
            Down::Vlan { over, .. } => self.collect_nics(*over, nics),
            Down::Bond(bond) => nics.extend(self.bonds[*bond].ports.iter().map(|p| p.0.into())),
            Down::Group(group) => {
                for member in &self.groups[*group].1.members {
                    self.collect_nics(member.link, nics);
                }
            }
            Down::Nothing => {}
        }
    }

    /// What came in on each NIC below a bond or group.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Whether a selection makes a difference: there is a bond or a group.
    pub fn has_choice(&self) -> bool {
        !(self.bonds.is_empty() && self.groups.is_empty())
    }

    /// The link below the tag of a VLAN; any other is its own.
    pub fn base(&self, link: LinkId) -> LinkId {
        match self.links[usize::from(link.0)].down {
            Down::Vlan { over, .. } => self.base(over),
            _ => link,
        }
    }

    /// How many links there are; the first ones are the NICs.
    pub fn links(&self) -> usize {
        self.links.len()
    }

    /// The MAC address that stacks on a link have; `None`: it has none.
    pub fn mac(&self, link: LinkId) -> Option<Mac> {
        self.links[usize::from(link.0)].mac
    }

    /// Counters of every VLAN.
    pub fn tags(&self) -> impl Iterator<Item = (LinkId, &TagStats)> {
        self.links.iter().enumerate().filter_map(|(at, link)| match &link.down {
            Down::Vlan { stats, .. } => Some((LinkId(at as u16), &**stats)),
            _ => None,
        })
    }
}
