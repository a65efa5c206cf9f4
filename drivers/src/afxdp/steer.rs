//! Which addresses are the vservers', and the MAC groups that the NIC must let through for them.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};

use crate::device::Steer;

/// More groups than this and the NIC is asked for all of multicast; filters of NICs hold fewer,
/// and the kernel keeps a socket's memberships in a list.
const GROUPS_MAX: usize = 256;

/// The addresses steered to us and the link-layer groups they need.
#[derive(Debug, Default)]
pub(super) struct Steered {
    addresses: HashSet<IpAddr>,
    groups: HashMap<[u8; 6], usize>,
}

/// What a change asks of map and NIC.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// The address was already there, or was not there.
    Nothing,
    /// Change the map; join or leave the group, if any.
    Map {
        /// The group whose first user came or whose last one left.
        group: Option<[u8; 6]>,
    },
}

impl Steered {
    pub(super) fn apply(&mut self, change: Steer) -> Effect {
        match change {
            Steer::Add(address) => {
                if !self.addresses.insert(address) {
                    return Effect::Nothing;
                }
                let group = link_group(address).filter(|group| {
                    let users = self.groups.entry(*group).or_default();
                    *users += 1;
                    *users == 1
                });
                Effect::Map { group }
            }
            Steer::Remove(address) => {
                if !self.addresses.remove(&address) {
                    return Effect::Nothing;
                }
                Effect::Map { group: link_group(address).filter(|group| self.release(*group)) }
            }
        }
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
        self.addresses.len()
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
        let group = Some([0x33, 0x33, 0xff, 0, 0, 1]);
        assert_eq!(steered.apply(Steer::Add(ip("fd00::1"))), Effect::Map { group });
        assert_eq!(steered.apply(Steer::Add(ip("fd00::1"))), Effect::Nothing);
        assert_eq!(steered.apply(Steer::Add(ip("fd01::1"))), Effect::Map { group: None });
        assert_eq!(steered.apply(Steer::Remove(ip("fd00::1"))), Effect::Map { group: None });
        assert_eq!(steered.apply(Steer::Remove(ip("fd00::1"))), Effect::Nothing);
        assert_eq!(steered.apply(Steer::Remove(ip("fd01::1"))), Effect::Map { group });
        assert_eq!(steered.len(), 0);
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
