//! Ports on which a host listens for any of its vservers.
//!
//! The table is one for all stacks of a host (or of a group of vservers). A stack that has no socket
//! of its own for a SYN or a datagram looks here; what it finds gets queues in that stack when they
//! are first needed. So a port costs nothing in a vserver that nobody has called yet, a vserver made
//! later is covered at once, and everything that happens to a connection (limits, routes,
//! neighbours, TCP defaults) is that of the vserver that was addressed. Each vserver has a backlog of
//! its own: none can fill that of the others.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use smallvec::SmallVec;

/// Which protocol a port is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AnyProtocol {
    /// Connections.
    Tcp,
    /// Datagrams to one host; those to groups and broadcast addresses are not taken.
    Udp,
}

/// Which addresses of a vserver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AnyFamily {
    /// All.
    #[default]
    Both,
    /// Those of IPv4.
    V4,
    /// Those of IPv6.
    V6,
}

impl AnyFamily {
    /// Whether it includes IPv4, or IPv6.
    pub fn includes(self, v4: bool) -> bool {
        match self {
            AnyFamily::Both => true,
            AnyFamily::V4 => v4,
            AnyFamily::V6 => !v4,
        }
    }
}

/// A port bound for any vserver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnyPort {
    /// Names the binding; unique in a host, never used again.
    pub number: u32,
    /// Its protocol.
    pub protocol: AnyProtocol,
    /// Addresses it takes.
    pub family: AnyFamily,
    /// From 1.
    pub port: u16,
    /// TCP: connections of one vserver that wait to be accepted; each shard has its part.
    pub backlog: usize,
}

/// The ports bound for any vserver; shared by its stacks.
#[derive(Debug, Default)]
pub struct AnyPorts {
    /// So that a stack that finds no listener pays one load where there are none.
    count: AtomicUsize,
    bound: RwLock<Vec<AnyPort>>,
}

impl AnyPorts {
    /// Adds a port; `false`: protocol, port and one of the families are taken.
    pub fn bind(&self, new: AnyPort) -> bool {
        let mut bound = self.bound.write().unwrap_or_else(PoisonError::into_inner);
        let meets = |v4: bool| {
            new.family.includes(v4) && find(&bound, new.protocol, v4, new.port).is_some()
        };
        if meets(true) || meets(false) {
            return false;
        }
        let at = bound.partition_point(|b| (b.protocol, b.port) < (new.protocol, new.port));
        bound.insert(at, new);
        self.count.store(bound.len(), Ordering::Release);
        true
    }

    /// Removes a port. What stacks hold for it goes with [`crate::Stack::close_any`].
    pub fn unbind(&self, number: u32) {
        let mut bound = self.bound.write().unwrap_or_else(PoisonError::into_inner);
        bound.retain(|b| b.number != number);
        self.count.store(bound.len(), Ordering::Release);
    }

    /// Numbers of the bindings.
    pub fn numbers(&self) -> Vec<u32> {
        let bound = self.bound.read().unwrap_or_else(PoisonError::into_inner);
        bound.iter().map(|b| b.number).collect()
    }

    fn find(&self, protocol: AnyProtocol, v4: bool, port: u16) -> Option<AnyPort> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        find(&self.bound.read().unwrap_or_else(PoisonError::into_inner), protocol, v4, port)
    }
}

/// `bound` is in order of protocol and port.
fn find(bound: &[AnyPort], protocol: AnyProtocol, v4: bool, port: u16) -> Option<AnyPort> {
    let from = bound.partition_point(|b| (b.protocol, b.port) < (protocol, port));
    let same = bound[from..].iter().take_while(|b| b.protocol == protocol && b.port == port);
    same.copied().find(|b| b.family.includes(v4))
}

/// The tables that concern a stack: its group's, that group's parent's, the host's. The first that
/// has the port decides.
#[derive(Clone, Debug, Default)]
pub struct AnyScopes(SmallVec<[Arc<AnyPorts>; 1]>);

impl AnyScopes {
    /// Of these tables, the nearest first.
    pub fn new(tables: impl IntoIterator<Item = Arc<AnyPorts>>) -> AnyScopes {
        AnyScopes(tables.into_iter().collect())
    }

    /// Numbers of the bindings in these tables that are not in `next`.
    pub fn left_for(&self, next: &AnyScopes) -> Vec<u32> {
        let stays = |t: &&Arc<AnyPorts>| !next.0.iter().any(|n| Arc::ptr_eq(n, t));
        self.0.iter().filter(stays).flat_map(|t| t.numbers()).collect()
    }

    pub(crate) fn find(&self, protocol: AnyProtocol, v4: bool, port: u16) -> Option<AnyPort> {
        self.0.iter().find_map(|table| table.find(protocol, v4, port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(number: u32, family: AnyFamily, port: u16) -> AnyPort {
        AnyPort { number, protocol: AnyProtocol::Tcp, family, port, backlog: 4 }
    }

    #[test]
    fn a_port_is_bound_once_per_family_and_the_nearest_table_decides() {
        let (host, group) = (Arc::new(AnyPorts::default()), Arc::new(AnyPorts::default()));
        assert!(host.bind(port(1, AnyFamily::V4, 80)) && host.bind(port(2, AnyFamily::V6, 80)));
        assert!(!host.bind(port(3, AnyFamily::Both, 80)) && !host.bind(port(3, AnyFamily::V4, 80)));
        assert!(group.bind(port(4, AnyFamily::V4, 80)) && host.bind(port(5, AnyFamily::Both, 79)));
        let scopes = AnyScopes::new([Arc::clone(&group), Arc::clone(&host)]);
        let at = |v4, port| scopes.find(AnyProtocol::Tcp, v4, port).map(|b| b.number);
        assert_eq!([at(true, 80), at(false, 80), at(true, 79)], [Some(4), Some(2), Some(5)]);
        assert_eq!(scopes.find(AnyProtocol::Udp, true, 80), None);
        group.unbind(4);
        assert_eq!(at(true, 80), Some(1));
        assert_eq!(at(true, 81), None);
    }
}
