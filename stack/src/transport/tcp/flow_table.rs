//! Four-tuple to connection: one keyed hash, one probe, whatever the number of connections.

use core::cell::Cell;
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
    #[inline]
    pub(crate) fn hash(&self, key: &Key) -> u64 {
        // As the bytes stand in a header: both addresses, both ports.
        let tail = (u32::from(self.local_port) << 16 | u32::from(self.peer_port)).swap_bytes();
        match (self.local, self.peer) {
            (IpAddr::V4(l), IpAddr::V4(p)) => {
                let [l, p] = [l, p].map(|a| u64::from(u32::from_le_bytes(a.octets())));
                key.hash_words([p << 32 | l], tail)
            }
            (IpAddr::V6(l), IpAddr::V6(p)) => {
                let [l, p] = [l, p].map(|a| u128::from_le_bytes(a.octets()));
                key.hash_words([l as u64, (l >> 64) as u64, p as u64, (p >> 64) as u64], tail)
            }
            // Never on a wire; any value will do.
            _ => key.hash_words([], tail),
        }
    }
}

/// Where a flow's state is. Slots are below 2^30.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Slot of a connection.
    Connection(u32),
    /// Slot of a TIME-WAIT entry.
    TimeWait(u32),
    /// Slot of a SYN that waits for its ACK.
    HalfOpen(u32),
}

const KIND_SHIFT: u32 = 30;

impl Flow {
    fn pack(self) -> u32 {
        let (kind, slot) = match self {
            Flow::Connection(slot) => (0, slot),
            Flow::TimeWait(slot) => (1, slot),
            Flow::HalfOpen(slot) => (2, slot),
        };
        debug_assert!(slot >> KIND_SHIFT == 0);
        kind << KIND_SHIFT | slot
    }

    fn unpack(word: u32) -> Flow {
        let slot = word & ((1 << KIND_SHIFT) - 1);
        match word >> KIND_SHIFT {
            0 => Flow::Connection(slot),
            1 => Flow::TimeWait(slot),
            _ => Flow::HalfOpen(slot),
        }
    }
}

/// Eight bytes a flow: the names stand with the flows' state, which whoever looks one up reads
/// next. A table of millions stays small enough for caches and page tables, and grows without
/// touching any state.
#[derive(Clone, Copy)]
struct Entry {
    /// The low half of the keyed hash.
    hash: u32,
    flow: u32,
}

impl Entry {
    /// All bits of the table's hash from the half that is kept.
    fn spread(hash: u32) -> u64 {
        u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

pub(crate) struct FlowTable {
    table: HashTable<Entry>,
    key: Key,
    /// The name asked for last and its hash: one segment asks for one name several times.
    last: Cell<Option<(FlowKey, u32)>>,
}

impl FlowTable {
    pub(crate) fn new(key: Key) -> FlowTable {
        FlowTable { table: HashTable::new(), key, last: Cell::new(None) }
    }

    fn hash(&self, name: &FlowKey) -> u32 {
        match self.last.get() {
            Some((last, hash)) if last == *name => hash,
            _ => {
                let hash = name.hash(&self.key) as u32;
                self.last.set(Some((*name, hash)));
                hash
            }
        }
    }

    /// The flow of this name; `is` tells whether a flow has it.
    pub(crate) fn get(&self, name: &FlowKey, is: impl Fn(Flow) -> bool) -> Option<Flow> {
        let hash = self.hash(name);
        let same = |e: &Entry| e.hash == hash && is(Flow::unpack(e.flow));
        self.table.find(Entry::spread(hash), same).map(|e| Flow::unpack(e.flow))
    }

    /// Adds a flow whose name no other has.
    pub(crate) fn insert(&mut self, name: &FlowKey, flow: Flow) {
        let hash = self.hash(name);
        let entry = Entry { hash, flow: flow.pack() };
        self.table.insert_unique(Entry::spread(hash), entry, |e| Entry::spread(e.hash));
    }

    /// The name leads elsewhere from now on.
    pub(crate) fn replace(&mut self, name: &FlowKey, from: Flow, to: Flow) {
        let hash = self.hash(name);
        let same = |e: &Entry| e.flow == from.pack();
        if let Some(entry) = self.table.find_mut(Entry::spread(hash), same) {
            entry.flow = to.pack();
        }
    }

    pub(crate) fn remove(&mut self, name: &FlowKey, flow: Flow) {
        let hash = self.hash(name);
        let same = |e: &Entry| e.flow == flow.pack();
        if let Ok(entry) = self.table.find_entry(Entry::spread(hash), same) {
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
        let key = |port: u16| {
            FlowKey::new(
                "10.0.0.1:80".parse().unwrap(),
                SocketAddr::new([10, 0, 0, 2].into(), port),
            )
        };
        let slot = |flow| match flow {
            Flow::Connection(slot) | Flow::TimeWait(slot) | Flow::HalfOpen(slot) => slot,
        };
        let get = |t: &FlowTable, port: u16| t.get(&key(port), |f| slot(f) == u32::from(port));
        (0..1000).for_each(|p| t.insert(&key(p), Flow::Connection(u32::from(p))));
        assert_eq!(get(&t, 7), Some(Flow::Connection(7)));
        t.replace(&key(7), Flow::Connection(7), Flow::TimeWait(7));
        assert_eq!(get(&t, 7), Some(Flow::TimeWait(7)));
        t.replace(&key(7), Flow::TimeWait(7), Flow::HalfOpen(7));
        assert_eq!(get(&t, 7), Some(Flow::HalfOpen(7)));
        t.remove(&key(7), Flow::HalfOpen(7));
        assert_eq!((get(&t, 7), get(&t, 8)), (None, Some(Flow::Connection(8))));
        let v6 = FlowKey::new("[fd00::1]:80".parse().unwrap(), "[fd00::2]:7".parse().unwrap());
        assert_eq!(t.get(&v6, |_| false), None);
    }
}
