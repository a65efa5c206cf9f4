//! What the machines tell the data path: which NICs may be used for what, now.

use std::net::IpAddr;

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::Mac;

/// Everything that may be used now. Positions are those of the tree: bond, group, port or member
/// in the order of its configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Grows with every change.
    pub generation: u64,
    /// By bond.
    pub bonds: Vec<BondSelection>,
    /// By failover group.
    pub groups: Vec<GroupSelection>,
    /// By link: whether it carries frames.
    pub up: Vec<bool>,
}

/// Ports of a bond that carry frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BondSelection {
    /// Ports that may send, in the order that the hash counts them.
    pub distributing: SmallVec<[u16; 8]>,
    /// Ports whose frames are taken.
    pub collecting: SmallVec<[u16; 8]>,
}

/// Members of a failover group that carry frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupSelection {
    /// Members that may send.
    pub active: SmallVec<[u16; 8]>,
    /// The member for broadcast and IPv4 multicast.
    pub nominee4: Option<u16>,
    /// The member for IPv6 multicast.
    pub nominee6: Option<u16>,
    /// The member that each data address is reached by; one that is missing is not reachable.
    pub bindings: HashMap<IpAddr, u16>,
    /// The same for aliases that have a MAC address of their own: all that has it as source leaves
    /// by that member, unchanged.
    pub own_macs: HashMap<Mac, u16>,
}

impl GroupSelection {
    /// The member that an address is reached by; `own`: the MAC address of its alias, if it has one.
    pub fn member_of(&self, addr: IpAddr, own: Option<Mac>) -> Option<u16> {
        own.map_or_else(|| self.bindings.get(&addr), |mac| self.own_macs.get(&mac)).copied()
    }

    /// The member of an alias that has a MAC address of its own, which moves as a whole. As long as
    /// it has no address, and so is bound to none, one that all workers agree on. `None`: no member
    /// is active.
    pub fn member_of_mac(&self, mac: Mac) -> Option<u16> {
        self.own_macs.get(&mac).copied().or_else(|| self.first_member_of_mac(mac))
    }

    fn first_member_of_mac(&self, mac: Mac) -> Option<u16> {
        let mac = mac.iter().fold(0, |bits, octet| bits << 8 | u64::from(*octet));
        self.active.iter().copied().max_by_key(|member| {
            let mut z = (mac << 16 | u64::from(*member)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ z >> 31
        })
    }
}
