//! Which vserver somebody called, for whoever serves many.

use std::net::SocketAddr;

use weft_stack::ip::address::AliasId;

/// Names a vserver of a host for as long as the vserver is there; see
/// [`Host::vserver_of`](crate::Host::vserver_of).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VserverId(pub(crate) u32);

impl VserverId {
    /// Its number among the vservers of the host, in order of the configuration.
    pub const fn number(self) -> u32 {
        self.0
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
