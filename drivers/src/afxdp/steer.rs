//! Which addresses are the vservers', and the MAC groups that the NIC must let through for them.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};

use crate::device::Steer;

/// More groups than this and the NIC is asked for all of multicast; filters of NICs hold fewer,
/// and the kernel keeps a socket's memberships in a list.
const GROUPS_MAX: usize = 256;

/// What is steered to us, and the link-layer addresses that the NIC must let through for it.
#[derive(Debug, Default)]
pub(super) struct Steered {
    wanted: HashSet<Wanted>,
    groups: HashMap<[u8; 6], usize>,
    /// Not the NIC's own, but to be received.
    macs: HashSet<[u8; 6]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Wanted {
    Address(IpAddr),
    Ethertype(u16),
}

impl Wanted {
    fn groups(self) -> Groups {
        match self {
            Wanted::Address(address) => link_group(address).into_iter().collect(),
            Wanted::Ethertype(ethertype) => protocol_groups(ethertype).to_vec(),
        }
    }
}

pub(super) type Groups = Vec<[u8; 6]>;

/// What a change asks of map and NIC.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It was already there, or was not there.
    Nothing,
    /// Change the map; join or leave the groups whose first user came or whose last one left.
    Map(Groups),
    /// Let a MAC address through, or no longer.
    Mac([u8; 6]),
}

impl Steered {
    pub(super) fn apply(&mut self, change: Steer) -> Effect {
        match change {
            Steer::Add(address) => self.add(Wanted::Address(address)),
            Steer::Remove(address) => self.remove(Wanted::Address(address)),
            Steer::AddEthertype(ethertype) => self.add(Wanted::Ethertype(ethertype)),
            Steer::RemoveEthertype(ethertype) => self.remove(Wanted::Ethertype(ethertype)),
            Steer::AddMac(mac) if self.macs.insert(mac) => Effect::Mac(mac),
            Steer::RemoveMac(mac) if self.macs.remove(&mac) => Effect::Mac(mac),
            Steer::AddMac(_) | Steer::RemoveMac(_) => Effect::Nothing,
        }
    }

    fn add(&mut self, wanted: Wanted) -> Effect {
        if !self.wanted.insert(wanted) {
            return Effect::Nothing;
        }
        let mut groups = wanted.groups();
        groups.retain(|group| {
            let users = self.groups.entry(*group).or_default();
            *users += 1;
            *users == 1
        });
        Effect::Map(groups)
    }

    fn remove(&mut self, wanted: Wanted) -> Effect {
        if !self.wanted.remove(&wanted) {
            return Effect::Nothing;
        }
        let mut groups = wanted.groups();
        groups.retain(|group| self.release(*group));
        Effect::Map(groups)
    }

    /// MAC addresses beside the NIC's own.
    pub(super) fn macs(&self) -> impl Iterator<Item = [u8; 6]> + '_ {
        self.macs.iter().copied()
    }

    fn release(&mut self, group: [u8; 6]) -> bool {
        let Some(users) = self.groups.get_mut(&group) else { return false };
        *users -= 1;
        let last = *users == 0;
        if last {
            self.groups.remove(&group);
        }
        last
    }

    /// The groups of all addresses; `None`: too many, take all of multicast.
    pub(super) fn groups(&self) -> Option<impl Iterator<Item = [u8; 6]> + '_> {
        (self.groups.len() <= GROUPS_MAX).then(|| self.groups.keys().copied())
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.wanted.len()
    }
}

/// The link-layer group that frames for an address come to: its own for a multicast group
/// (RFC 1112 section 6.4, RFC 2464 section 7), the solicited-node group's for IPv6 unicast.
pub(super) fn link_group(address: IpAddr) -> Option<[u8; 6]> {
    match address {
        IpAddr::V4(group) if group.is_multicast() => {
            let [_, b, c, d] = group.octets();
            Some([0x01, 0x00, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => {
            let group = if address.is_multicast() { address } else { solicited_node(address) };
            let [.., a, b, c, d] = group.octets();
            Some([0x33, 0x33, a, b, c, d])
        }
    }
}

/// The groups that protocols of the link send to: the slow protocols' (IEEE 802.3 annex 57A), the
/// three of LLDP (IEEE 802.1AB table 7-1).
fn protocol_groups(ethertype: u16) -> &'static [[u8; 6]] {
    const fn bridge(last: u8) -> [u8; 6] {
        [0x01, 0x80, 0xc2, 0, 0, last]
    }
    const SLOW: [[u8; 6]; 1] = [bridge(0x02)];
    const LLDP: [[u8; 6]; 3] = [bridge(0x0e), bridge(0x03), bridge(0x00)];
    match ethertype {
        0x8809 => &SLOW,
        0x88cc => &LLDP,
        _ => &[],
    }
}

/// RFC 4291 section 2.7.1.
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c];
    group[15] = c;
    Ipv6Addr::from(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn groups_have_the_addresses_of_the_rfcs() {
        assert_eq!(link_group(ip("239.129.3.4")), Some([1, 0, 0x5e, 1, 3, 4]));
        assert_eq!(link_group(ip("10.0.0.1")), None);
        assert_eq!(link_group(ip("ff02::1:3")), Some([0x33, 0x33, 0, 1, 0, 3]));
        assert_eq!(link_group(ip("fd00::12:3456")), Some([0x33, 0x33, 0xff, 0x12, 0x34, 0x56]));
    }

    #[test]
    fn a_group_is_joined_by_its_first_user_and_left_by_its_last() {
        let mut steered = Steered::default();
        let group = vec![[0x33, 0x33, 0xff, 0, 0, 1]];
        let none = || Effect::Map(Vec::new());
        assert_eq!(steered.apply(Steer::Add(ip("fd00::1"))), Effect::Map(group.clone()));
        assert_eq!(steered.apply(Steer::Add(ip("fd00::1"))), Effect::Nothing);
        assert_eq!(steered.apply(Steer::Add(ip("fd01::1"))), none());
        assert_eq!(steered.apply(Steer::Remove(ip("fd00::1"))), none());
        assert_eq!(steered.apply(Steer::Remove(ip("fd00::1"))), Effect::Nothing);
        assert_eq!(steered.apply(Steer::Remove(ip("fd01::1"))), Effect::Map(group));
        assert_eq!(steered.len(), 0);
    }

    #[test]
    fn protocols_of_the_link_have_groups_and_mac_addresses_have_none() {
        let mut steered = Steered::default();
        let slow = vec![[0x01, 0x80, 0xc2, 0, 0, 2]];
        assert_eq!(steered.apply(Steer::AddEthertype(0x8809)), Effect::Map(slow.clone()));
        assert_eq!(steered.apply(Steer::AddEthertype(0x8809)), Effect::Nothing);
        assert_eq!(steered.apply(Steer::AddEthertype(0x88b5)), Effect::Map(Vec::new()));
        assert_eq!(steered.groups().unwrap().count(), 1);
        assert_eq!(steered.apply(Steer::RemoveEthertype(0x8809)), Effect::Map(slow));
        let mac = [2, 0, 0, 0, 0, 7];
        assert_eq!(steered.apply(Steer::AddMac(mac)), Effect::Mac(mac));
        assert_eq!(steered.apply(Steer::AddMac(mac)), Effect::Nothing);
        assert_eq!(steered.macs().count(), 1);
        assert_eq!(steered.apply(Steer::RemoveMac(mac)), Effect::Mac(mac));
        assert_eq!(steered.apply(Steer::RemoveMac(mac)), Effect::Nothing);
    }

    #[test]
    fn too_many_groups_become_all() {
        let mut steered = Steered::default();
        for i in 0..=GROUPS_MAX {
            steered.apply(Steer::Add(ip(&format!("fd00::{i:x}"))));
        }
        assert!(steered.groups().is_none());
    }
}
