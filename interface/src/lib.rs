//! The interface tree between the NICs and the vservers: bonds with LACP, VLANs, failover groups,
//! and the probes that tell what works.
//!
//! Sans-IO: frames, time and randomness are arguments. The host calls the data path for every
//! frame on every worker, the machines on one worker only; what they decide reaches the data path
//! as a [`Selection`].

pub mod announce;
pub mod bond;
pub mod doctor;
pub mod events;
pub mod fail;
pub mod keeper;
pub mod lldp;
pub mod name;
pub mod paths;
pub mod plane;
pub mod probe;
mod selection;
pub mod tree;
pub mod vlan;

pub use keeper::Keeper;
pub use name::{AliasClass, InterfaceName, NameError};
pub use plane::{Ingress, Layout, LinkSpec, Plane};
pub use selection::{BondSelection, GroupSelection, Selection};
pub use tree::{Tree, TreeError, TreeSpec};

/// What aliases stand on: a NIC, a VLAN, a bond or a failover group. The first numbers are those of
/// the NICs, untagged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u16);

/// A MAC address.
pub type Mac = [u8; 6];
