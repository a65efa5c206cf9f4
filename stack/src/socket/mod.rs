//! What an application holds: handles, readiness, options, errors.
//!
//! The calls stand on [`crate::Stack`]: `socket/tcp.rs` and `socket/udp.rs` extend it. None of them
//! blocks; `WouldBlock` means "wait for the event".

use core::ops::{BitOr, BitOrAssign};

use crate::ip::address::AliasId;

mod dump;
pub mod raw;
pub mod tcp;
mod tcp_options;
pub mod udp;

pub use dump::{SocketCursor, SocketInfo, SocketMemory, SocketTimer};
pub use tcp_options::TcpOptions;

/// Which table a socket is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SocketKind {
    /// A listening TCP socket.
    TcpListener,
    /// A TCP connection.
    TcpStream,
    /// A UDP socket.
    Udp,
    /// A raw socket.
    Raw,
    /// An ICMP echo socket.
    Icmp,
}

/// Names a socket of one stack. The generation makes a handle of a closed socket stale for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId {
    /// Which table.
    pub kind: SocketKind,
    /// Slot in the table.
    pub index: u32,
    /// Changes when the slot is used again.
    pub generation: u32,
}

/// A set of readiness bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness(pub u8);

impl Readiness {
    /// Data, an end of stream, a connection to accept or an error can be read.
    pub const READABLE: Readiness = Readiness(1);
    /// Data can be written; a connect has finished, well or badly.
    pub const WRITABLE: Readiness = Readiness(2);
    /// The peer has closed its side.
    pub const READ_CLOSED: Readiness = Readiness(4);
    /// Our side is closed, or the connection is gone.
    pub const WRITE_CLOSED: Readiness = Readiness(8);
    /// An error is pending.
    pub const ERROR: Readiness = Readiness(16);

    /// Urgent data is announced and not read yet (RFC 9293 3.8.5).
    pub const PRIORITY: Readiness = Readiness(32);

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Readiness) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether no bit is set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Readiness {
    type Output = Readiness;
    fn bitor(self, o: Readiness) -> Readiness {
        Readiness(self.0 | o.0)
    }
}

impl BitOrAssign for Readiness {
    fn bitor_assign(&mut self, o: Readiness) {
        self.0 |= o.0;
    }
}

/// What [`crate::Stack::poll_event`] reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A socket became ready. One event per socket is pending at most; `ready` is the state when it
    /// is polled, level-wise.
    Socket {
        /// Which.
        id: SocketId,
        /// Everything it is ready for now.
        ready: Readiness,
    },
    /// An address may be used and must be steered to this stack (configured, or by SLAAC).
    AddressAdded {
        /// On which alias.
        alias: AliasId,
        /// The address.
        addr: core::net::IpAddr,
    },
    /// An IPv4 address is being probed (RFC 5227 2.1.1): ARP that names it must be steered to this
    /// stack, which does not use it yet. [`Event::AddressAdded`] or [`Event::AddressRemoved`] follows.
    AddressProbed {
        /// On which alias.
        alias: AliasId,
        /// The address.
        addr: core::net::IpAddr,
    },
    /// An address is gone.
    AddressRemoved {
        /// From which alias.
        alias: AliasId,
        /// The address.
        addr: core::net::IpAddr,
    },
    /// Another host has the address. An address that was being tried (DAD, RFC 4862; ACD, RFC 5227)
    /// is not used. An IPv4 address in use is treated as its [`Acd`](crate::ip::address::Acd) says:
    /// one of these events every ten seconds while the other host speaks, or, if it is given up, one
    /// of these and [`Event::AddressRemoved`].
    AddressDuplicate {
        /// On which alias.
        alias: AliasId,
        /// The address.
        addr: core::net::IpAddr,
        /// The other host.
        mac: [u8; 6],
    },
    /// The stack wants frames for a multicast group.
    GroupJoined {
        /// On which alias.
        alias: AliasId,
        /// The group.
        group: core::net::IpAddr,
    },
    /// The stack left a group.
    GroupLeft {
        /// On which alias.
        alias: AliasId,
        /// The group.
        group: core::net::IpAddr,
    },
    /// Shard 0 of several: addresses of an alias came, went or changed their state; the other
    /// shards are to be told ([`crate::stack::Change::AddressesAdopt`]).
    AddressesChanged {
        /// On which alias.
        alias: AliasId,
    },
    /// A shard other than 0: what it wants of a group is not what it was; shard 0 is to be told,
    /// which speaks to multicast routers ([`crate::Stack::adopt_group`]).
    GroupChanged {
        /// On which alias.
        alias: AliasId,
        /// The group.
        group: core::net::IpAddr,
    },
}
