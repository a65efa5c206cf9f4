//! Which vserver somebody called, for whoever serves many.

use std::net::SocketAddr;

use weft_stack::ip::address::AliasId;

use crate::runtime::NodeId;

/// Names a vserver of a host for as long as the vserver is there, and nobody when it was removed; see
/// [`Host::vserver_of`](crate::Host::vserver_of).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VserverId(pub(crate) NodeId);

impl VserverId {
    /// Its number among the vservers of the host: at the start in order of the configuration, later
    /// one that is free.
    pub const fn number(self) -> u32 {
        self.0.index
    }
}

/// Where a connection or datagram arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arrival {
    /// The vserver that was addressed.
    pub vserver: VserverId,
    /// The alias it came in on.
    pub alias: AliasId,
    /// Our address and port.
    pub local: SocketAddr,
}
