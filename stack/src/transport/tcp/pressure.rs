//! Memory of all connections of a stack: a running total against `Limits::tcp_bytes`.

use super::Tcp;

/// The account of a stack, as a connection's code sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Bytes held by all connections.
    pub(crate) held: usize,
    pub(crate) limit: usize,
    /// Connections that hold anything.
    pub(crate) holders: usize,
}

impl Budget {
    pub(crate) const fn new(limit: usize) -> Budget {
        Budget { held: 0, limit, holders: 0 }
    }

    /// Buffers stop growing.
    pub(crate) fn is_tight(&self) -> bool {
        self.held >= self.limit / 4 * 3
    }

    /// What each connection that holds anything may hold when memory is tight.
    pub(crate) fn share(&self) -> usize {
        self.limit / self.holders.max(1)
    }

    /// Takes note that a connection's share went from `before` to `now`; whether memory became
    /// tight by it.
    fn charge(&mut self, before: usize, now: usize) -> bool {
        let tight = self.is_tight();
        self.held = self.held - before + now;
        match (before, now) {
            (0, 1..) => self.holders += 1,
            (1.., 0) => self.holders -= 1,
            _ => {}
        }
        !tight && self.is_tight()
    }
}

impl Tcp {
    /// Brings the account in line with what a connection holds now; whether memory became tight.
    pub(super) fn account(&mut self, index: u32) -> bool {
        let Some(c) = self.connections.get_mut(index as usize) else { return false };
        let held = c.held();
        let before = std::mem::replace(&mut c.notes.charged, held);
        before != held && self.budget.charge(before, held)
    }

    /// A connection is gone with what it held.
    pub(super) fn release(&mut self, charged: usize) {
        self.budget.charge(charged, 0);
    }

    /// Bytes of buffers held by connections.
    pub(crate) fn held_bytes(&self) -> usize {
        debug_assert_eq!(
            self.budget.held,
            self.connections.iter().map(|(_, c)| c.held()).sum::<usize>(),
            "the account of memory is wrong"
        );
        self.budget.held
    }
}
