//! Four-tuple to connection: one keyed hash, one probe, whatever the number of connections.

use core::net::{IpAddr, SocketAddr};

use hashbrown::HashTable;

use crate::rng::Key;

/// A connection's name: both ends, local first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    pub(crate) local: IpAddr,
    pub(crate) peer: IpAddr,
    pub(crate) local_port: u16,
    pub(crate) peer_port: u16,
}

impl FlowKey {
    pub(crate) fn new(local: SocketAddr, peer: SocketAddr) -> FlowKey {
        FlowKey {
            local: local.ip(),
            peer: peer.ip(),
            local_port: local.port(),
            peer_port: peer.port(),
        }
    }

    pub(crate) fn local(&self) -> SocketAddr {
        SocketAddr::new(self.local, self.local_port)
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.peer, self.peer_port)
    }

    /// A keyed hash of the tuple.
    pub(crate) fn hash(&self, key: &Key) -> u64 {
        let ports = u32::from(self.local_port) << 16 | u32::from(self.peer_port);
        let ports = ports.to_be_bytes();
        match (self.local, self.peer) {
            (IpAddr::V4(l), IpAddr::V4(p)) => key.hash(&[&l.octets(), &p.octets(), &ports]),
            (IpAddr::V6(l), IpAddr::V6(p)) => key.hash(&[&l.octets(), &p.octets(), &ports]),
            // Never on a wire; any value will do.
            _ => key.hash(&[&ports]),
        }
    }
}

/// Where a flow's state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Slot of a connection.
    Connection(u32),
    /// Slot of a TIME-WAIT entry.
    TimeWait(u32),
}

pub(crate) struct FlowTable {
    table: HashTable<(FlowKey, Flow)>,
    key: Key,
}

impl FlowTable {
    pub(crate) fn new(key: Key) -> FlowTable {
        FlowTable { table: HashTable::new(), key }
    }

    pub(crate) fn get(&self, flow: &FlowKey) -> Option<Flow> {
        let found = self.table.find(flow.hash(&self.key), |(k, _)| k == flow);
        found.map(|(_, f)| *f)
    }

    pub(crate) fn contains(&self, flow: &FlowKey) -> bool {
        self.get(flow).is_some()
    }

    /// Adds or replaces.
    pub(crate) fn insert(&mut self, flow: FlowKey, to: Flow) {
        let hash = flow.hash(&self.key);
        if let Some((_, old)) = self.table.find_mut(hash, |(k, _)| *k == flow) {
            *old = to;
            return;
        }
        let key = self.key;
        self.table.insert_unique(hash, (flow, to), |(k, _)| k.hash(&key));
    }

    pub(crate) fn remove(&mut self, flow: &FlowKey) {
        if let Ok(entry) = self.table.find_entry(flow.hash(&self.key), |(k, _)| k == flow) {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn finds_what_was_inserted_and_only_that() {
        let mut t = FlowTable::new(Key::generate(&mut Rng::from_u64(1)));
        let key = |port| {
            FlowKey::new(
                "10.0.0.1:80".parse().unwrap(),
                SocketAddr::new([10, 0, 0, 2].into(), port),
            )
        };
        (0..1000).for_each(|p| t.insert(key(p), Flow::Connection(u32::from(p))));
        assert_eq!(t.get(&key(7)), Some(Flow::Connection(7)));
        t.insert(key(7), Flow::TimeWait(1));
        assert_eq!(t.get(&key(7)), Some(Flow::TimeWait(1)));
        t.remove(&key(7));
        assert!(!t.contains(&key(7)) && t.contains(&key(8)));
        let v6 = FlowKey::new("[fd00::1]:80".parse().unwrap(), "[fd00::2]:7".parse().unwrap());
        assert!(!t.contains(&v6));
    }
}
