//! The interfaces as an operator writes them, before anything is checked.

use crate::Mac;
use crate::bond::BondConfig;
use crate::fail::config::{BeyondConfig, GroupConfig};

/// Everything that a [`Tree`](super::Tree) is made from. Names are text, as written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TreeSpec {
    /// Physical components; their positions become the numbers of the first links.
    pub nics: Vec<NicSpec>,
    /// Bonds.
    pub bonds: Vec<BondSpec>,
    /// VLANs of which more is said than their names.
    pub vlans: Vec<VlanSpec>,
    /// Failover groups.
    pub groups: Vec<GroupSpec>,
    /// Where addresses live.
    pub aliases: Vec<AliasSpec>,
}

/// One physical component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicSpec {
    /// `eth#`.
    pub name: String,
    /// The kernel's name of the interface; empty if there is none.
    pub device: String,
    /// What carries its frames; ports of one bond have the same.
    pub driver: &'static str,
    /// Whether it carries Ethernet frames; else bare IP packets.
    pub ethernet: bool,
    /// MTU in bytes, if it is known.
    pub mtu: Option<usize>,
}

/// One bond; its ports are in the configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BondSpec {
    /// `bond#`.
    pub name: String,
    /// The rest.
    pub config: BondConfig,
}

/// A VLAN with its own settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VlanSpec {
    /// `<eth#, bond# or fail#>.<tag>`.
    pub name: String,
    /// Priority code point of sent frames, 0 to 7; 0 if not set.
    pub priority: Option<u8>,
}

/// One failover group; its members (`eth#`, `bond#` or VLANs on them) are in the configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupSpec {
    /// `fail#`.
    pub name: String,
    /// The rest.
    pub config: GroupConfig,
}

/// One alias.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AliasSpec {
    /// `mgmt#`, `data#` or `san#`, or one of them with a tag of its own: `data0.5`.
    pub name: String,
    /// The link that carries it. Of `data0.5` it may be missing where `data0` has one.
    pub over: Option<String>,
    /// MTU in bytes; that of the link if not set.
    pub mtu: Option<usize>,
    /// A MAC address of its own; that of the link if not set.
    pub mac: Option<Mac>,
    /// Targets beyond the link that it is bound to.
    pub beyond: BeyondConfig,
}
