//! Data addresses: where they are, and who has to be told.

use std::collections::BTreeMap;
use std::net::IpAddr;

use smallvec::SmallVec;
use weft_stack::time::Instant;

use super::{Keeper, Where};
use crate::announce::{announcement, membership_reports};
use crate::fail::{Family, Handover};
use crate::tree::LinkKind;
use crate::{LinkId, Mac};

impl Keeper {
    /// A stack has the address on the link; `own`: the MAC address of its alias, if that has one.
    /// The stack itself announces it; a group binds it to a member.
    pub fn address_added(&mut self, now: Instant, link: LinkId, addr: IpAddr, own: Option<Mac>) {
        if usize::from(link.0) >= self.tree.links.len() {
            return;
        }
        *self.addresses.entry((link, addr, own)).or_default() += 1;
        if let Some(group) = self.group_below(link) {
            self.groups[group].address_added(now, addr, own);
            self.run(now);
        }
    }

    /// A stack does not have the address any more; `own` as it was added.
    pub fn address_removed(&mut self, now: Instant, link: LinkId, addr: IpAddr, own: Option<Mac>) {
        let Some(count) = self.addresses.get_mut(&(link, addr, own)) else { return };
        *count -= 1;
        if *count == 0 {
            self.addresses.remove(&(link, addr, own));
        }
        if let Some(group) = self.group_below(link) {
            self.groups[group].address_removed(now, addr, own);
            self.run(now);
        }
    }

    /// A stack joined a multicast group on the link: it is reported anew where another member of a
    /// failover group takes over.
    pub fn membership_added(&mut self, link: LinkId, addr: IpAddr) {
        if usize::from(link.0) < self.tree.links.len()
            && let Some(group) = self.group_below(link)
            && self.groups[group].group.membership_added(addr)
        {
            *self.memberships.entry((link, addr)).or_default() += 1;
        }
    }

    /// A stack left it.
    pub fn membership_removed(&mut self, link: LinkId, addr: IpAddr) {
        let Some(count) = self.memberships.get_mut(&(link, addr)) else { return };
        *count -= 1;
        if *count == 0 {
            self.memberships.remove(&(link, addr));
        }
        if let Some(group) = self.group_below(link) {
            self.groups[group].group.membership_removed(addr);
        }
    }

    /// Another member takes multicast: switches hear from it which groups are wanted.
    fn hand_over(&mut self, group: usize, handover: &Handover) {
        let by = self.tree.groups[group].members[usize::from(handover.to)];
        let mut wanted: BTreeMap<LinkId, Vec<IpAddr>> = BTreeMap::new();
        for (link, addr) in self.memberships.keys() {
            let is_family = addr.is_ipv4() == (handover.family == Family::V4);
            if is_family && self.group_below(*link) == Some(group) {
                wanted.entry(*link).or_default().push(*addr);
            }
        }
        for (link, groups) in wanted {
            for frame in membership_reports(&groups, self.mac(by)) {
                self.send_at(link, by, frame);
            }
        }
    }

    /// The group that a link is, or is a VLAN of.
    pub(super) fn group_below(&self, link: LinkId) -> Option<usize> {
        match self.tree.at(link).kind {
            LinkKind::Group(group) => Some(group),
            LinkKind::Vlan { over, .. } => self.group_below(over),
            LinkKind::Nic(_) | LinkKind::Bond(_) => None,
        }
    }

    /// `active-backup`: switches have to learn where the addresses of a bond are. Those on it and on
    /// its VLANs, and those that a group has bound to it or to one of them.
    pub(super) fn bond_moved(&mut self, bond: LinkId) {
        let on_it = |link: LinkId| {
            link == bond
                || matches!(self.tree.at(link).kind, LinkKind::Vlan { over, .. } if over == bond)
        };
        let links: SmallVec<[LinkId; 8]> =
            (0..self.tree.links.len()).map(|l| LinkId(l as u16)).filter(|l| on_it(*l)).collect();
        let own = self.addresses.keys().filter(|(link, ..)| links.contains(link));
        let mut moved: Vec<(LinkId, IpAddr, Option<Mac>, LinkId)> =
            own.map(|(link, addr, own)| (*link, *addr, *own, *link)).collect();
        for (group, of) in self.tree.groups.iter().enumerate() {
            let selection = self.groups[group].selection();
            for (link, addr, own) in self.addresses.keys() {
                let member = selection.member_of(*addr, *own);
                let member = member.map(|m| of.members[usize::from(m)]);
                if self.group_below(*link) == Some(group)
                    && let Some(member) = member.filter(|m| links.contains(m))
                {
                    moved.push((*link, *addr, *own, member));
                }
            }
        }
        for (link, addr, own, by) in moved {
            self.announce_at(link, addr, own, by);
        }
    }

    /// Tells the network of addresses that groups moved, and of multicast that goes elsewhere.
    pub(super) fn announce(&mut self) {
        for group in 0..self.groups.len() {
            while let Some(handover) = self.groups[group].group.poll_handover() {
                self.hand_over(group, &handover);
            }
            for moved in self.groups[group].announcements() {
                let by = self.tree.groups[group].members[usize::from(moved.member)];
                let links: SmallVec<[LinkId; 2]> = self
                    .addresses
                    .keys()
                    .filter(|(_, addr, own)| *addr == moved.address && *own == moved.mac)
                    .map(|(link, ..)| *link)
                    .filter(|link| self.group_below(*link) == Some(group))
                    .collect();
                for link in links {
                    self.announce_at(link, moved.address, moved.mac, by);
                }
            }
        }
    }

    /// One burst for an address of an alias on `link`, sent at `by`, which is below it or it itself.
    fn announce_at(&mut self, link: LinkId, addr: IpAddr, own: Option<Mac>, by: LinkId) {
        let mac = own.unwrap_or_else(|| self.mac(by));
        for frame in announcement(addr, mac) {
            self.send_at(link, by, frame);
        }
    }

    /// A frame of who stands on `link`, at `by`, which is below it or it itself.
    fn send_at(&mut self, link: LinkId, by: LinkId, mut frame: Vec<u8>) {
        // A VLAN of a group has its tag above the member.
        if link != by
            && let LinkKind::Vlan { tag, priority, .. } = self.tree.at(link).kind
        {
            let tci = tag | u16::from(priority.unwrap_or(0)) << 13;
            let [high, low] = tci.to_be_bytes();
            frame.splice(12..12, [0x81, 0x00, high, low]);
        }
        self.send(Where::Link(by), frame);
    }
}
