//! Clients of a prefix, each with buckets of its own: bounded tables, the longest unused leaves.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::node::State;

/// Entries looked at to make room for a new client.
const TRIES: usize = 8;

/// What all workers know of a class's clients.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) each: u8,
    /// Clients at a time.
    pub(crate) most: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    states: HashMap<IpAddr, Arc<State>>,
    order: VecDeque<IpAddr>,
}

impl Clients {
    pub(crate) fn new(each: u8, most: usize) -> Clients {
        Clients { each, most, table: Mutex::default() }
    }

    /// What a client has used; `None`: the table is full of clients that workers know.
    pub(crate) fn state(&self, client: IpAddr) -> Option<Arc<State>> {
        let mut table = self.table.lock();
        if let Some(state) = table.states.get(&client) {
            return Some(Arc::clone(state));
        }
        let mut tries = 0;
        while table.states.len() >= self.most {
            let oldest = table.order.pop_front()?;
            // Known to no worker.
            if table.states.get(&oldest).is_some_and(|s| Arc::strong_count(s) == 1) {
                table.states.remove(&oldest);
                break;
            }
            table.order.push_back(oldest);
            tries += 1;
            if tries == TRIES {
                return None;
            }
        }
        let state = Arc::<State>::default();
        table.states.insert(client, Arc::clone(&state));
        table.order.push_back(client);
        Some(state)
    }

    /// Everybody there is, up to `most`.
    pub(crate) fn list(&self, most: usize) -> Vec<(IpAddr, Arc<State>)> {
        let table = self.table.lock();
        let mut all: Vec<_> =
            table.states.iter().take(most).map(|(a, s)| (*a, Arc::clone(s))).collect();
        all.sort_by_key(|(a, _)| *a);
        all
    }
}

/// The leaves that a worker has for the clients of a class.
#[derive(Debug)]
pub(crate) struct Leaves {
    pub(crate) clients: Arc<Clients>,
    /// Leaf, and whether it was used since it was last looked at.
    known: HashMap<IpAddr, (u32, bool)>,
    order: VecDeque<IpAddr>,
    /// For whoever finds the table full.
    pub(crate) crowd: Option<u32>,
}

impl Leaves {
    pub(crate) fn new(clients: Arc<Clients>) -> Leaves {
        Leaves { clients, known: HashMap::new(), order: VecDeque::new(), crowd: None }
    }

    /// The leaf of a client.
    pub(crate) fn find(&mut self, client: IpAddr) -> Option<u32> {
        let (leaf, used) = self.known.get_mut(&client)?;
        *used = true;
        Some(*leaf)
    }

    pub(crate) fn insert(&mut self, client: IpAddr, leaf: u32) {
        self.known.insert(client, (leaf, true));
        self.order.push_back(client);
    }

    /// Whether there is room for another; a leaf long unused that `remove` can do without goes.
    pub(crate) fn make_room(&mut self, mut remove: impl FnMut(u32) -> bool) -> bool {
        if self.known.len() < self.clients.most {
            return true;
        }
        for _ in 0..TRIES {
            let Some(oldest) = self.order.pop_front() else { return false };
            let Some((leaf, used)) = self.known.get_mut(&oldest) else { continue };
            if !std::mem::take(used) && remove(*leaf) {
                self.known.remove(&oldest);
                return true;
            }
            self.order.push_back(oldest);
        }
        false
    }
}
