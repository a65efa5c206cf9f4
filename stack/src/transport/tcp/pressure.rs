//! Memory of all connections of a stack: a running total against `Limits::tcp_bytes`, and what
//! gives way when it runs out.
//!
//! From three quarters on memory is tight. No buffer grows. A connection that holds its fair share
//! (the limit over the connections that hold anything) is offered no more window, takes no more
//! data out of order and no more writes; what was promised stays promised. Small frames are copied
//! together. At the limit data is refused even inside the window, after what waits out of order was
//! given up (RFC 2018 section 8 allows it). A connection that holds less than
//! [`CONNECTION_BYTES_MIN`] is never refused: however much one hoards, the others go on.

use crate::frame::Frame;

use super::Tcp;
use super::payload;
use super::state::{Connection, Cx};

/// What every connection may hold, whatever the others do.
pub(crate) const CONNECTION_BYTES_MIN: usize = 4 << 10;

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

    /// Nothing more is taken, beyond what every connection may hold.
    pub(crate) fn is_full(&self) -> bool {
        self.held >= self.limit
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

    /// Brings the account in line with what a connection holds now; whether memory became tight.
    pub(super) fn account(&mut self, c: &mut Connection) -> bool {
        let held = c.held();
        let before = std::mem::replace(&mut c.notes.charged, held);
        before != held && self.charge(before, held)
    }
}

impl Connection {
    /// Takes over how much memory there is for what the window may offer.
    pub(crate) fn note_memory(&mut self, cx: &Cx<'_>) {
        let most = if cx.budget.is_tight() {
            let more = cx.budget.share().saturating_sub(self.held());
            (self.recv.len() + more).max(CONNECTION_BYTES_MIN)
        } else {
            usize::MAX
        };
        self.recv.set_window_max(most);
    }

    /// Whether memory allows to keep a payload.
    pub(crate) fn admit(&mut self, cx: &mut Cx<'_>, payload: &Frame, in_order: bool) -> bool {
        if !cx.budget.is_tight() {
            return true;
        }
        self.collapse(cx);
        if self.held() + payload.total_len() <= CONNECTION_BYTES_MIN {
            return true;
        }
        let cost = payload::footprint(payload).min(2 * payload.total_len());
        if !in_order {
            let fair = self.held() + cost <= cx.budget.share();
            return fair && cx.budget.held + cost <= cx.budget.limit;
        }
        if cx.budget.held + cost > cx.budget.limit {
            self.prune(cx, cost);
        }
        cx.budget.held + cost <= cx.budget.limit
    }

    /// Copies small frames together.
    fn collapse(&mut self, cx: &mut Cx<'_>) {
        let before = self.recv.held();
        let (frames, bytes) = self.recv.collapse();
        cx.stats.rcv_collapsed += frames;
        cx.stats.rcv_copied_octets += bytes as u64;
        cx.budget.held = (cx.budget.held + self.recv.held()).saturating_sub(before);
    }

    /// Gives up what arrived out of order, the newest data first, until `bytes` are free.
    fn prune(&mut self, cx: &mut Cx<'_>, bytes: usize) {
        let before = self.assembler.held();
        cx.stats.ofo_pruned += self.assembler.prune(bytes);
        let freed = before - self.assembler.held();
        cx.budget.held = cx.budget.held.saturating_sub(freed);
    }

    /// Bytes that may be written, as far as memory goes.
    pub(crate) fn write_room(&self, cx: &Cx<'_>) -> usize {
        let budget = &cx.budget;
        if !budget.is_tight() {
            return usize::MAX;
        }
        let least = CONNECTION_BYTES_MIN.saturating_sub(self.send.len());
        let fair = budget.share().saturating_sub(self.held());
        fair.min(budget.limit.saturating_sub(budget.held)).max(least)
    }
}

impl Tcp {
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
