//! Dumps of the socket tables, in pieces, so that nobody waits for a long one.

use core::net::SocketAddr;

use super::SocketId;
use crate::Stack;
use crate::ip::address::AliasId;
use crate::path::PathLayer;
use crate::time::{Duration, Instant};

/// One line of a socket dump (`ss`).
#[derive(Clone, Debug)]
pub struct SocketInfo {
    /// Handle.
    pub id: SocketId,
    /// `LISTEN`, `ESTAB`, ... (ss names); `UNCONN` for a UDP socket without a peer.
    pub state: &'static str,
    /// Local address.
    pub local: SocketAddr,
    /// Peer, unspecified if none.
    pub peer: SocketAddr,
    /// Bytes the application has not read (listener: connections not accepted).
    pub recv_queue: usize,
    /// Bytes not acknowledged (listener: the backlog).
    pub send_queue: usize,
    /// The alias its packets use; `None`: as routes say.
    pub alias: Option<AliasId>,
    /// What it waits for.
    pub timer: Option<SocketTimer>,
    /// What it holds and may hold.
    pub memory: SocketMemory,
    /// An application holds its handle; not so of one closed and still sending, of TIME-WAIT, and
    /// of a connection that was not accepted yet.
    pub owned: bool,
}

/// The timer of a socket that is due first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketTimer {
    /// `on` (retransmission), `keepalive`, `persist`, `timewait`: ss's words.
    pub kind: &'static str,
    /// Time left; zero if it is due.
    pub left: Duration,
    /// Times it has fired in a row without progress.
    pub retries: u32,
}

/// Bytes of a socket's buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketMemory {
    /// Held by what was received: unread and out of order, with its overhead.
    pub recv_held: usize,
    /// The receive buffer's limit.
    pub recv_limit: usize,
    /// Held by what is to be sent or acknowledged.
    pub send_held: usize,
    /// The send buffer's limit.
    pub send_limit: usize,
    /// Packets lost because the receive buffer was full.
    pub drops: u64,
}

/// Where a dump goes on; the default is the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketCursor {
    /// Which table: raw and ICMP sockets come first, then UDP, listeners, half-open connections,
    /// connections, TIME-WAIT.
    pub table: u8,
    /// The next slot in it.
    pub slot: u32,
}

/// Tables in the order of a dump.
const TABLES: u8 = 6;

impl<P: PathLayer> Stack<P> {
    /// Calls `f` for the sockets in the next `slots` slots from `from` on, as of `now`; returns
    /// where to go on, `None` at the end. Sockets made or closed between two calls may be missing;
    /// none comes twice, unless it moves to a later table meanwhile.
    pub fn dump_sockets(
        &self,
        now: Instant,
        from: SocketCursor,
        slots: usize,
        mut f: impl FnMut(SocketInfo),
    ) -> Option<SocketCursor> {
        let mut at = from;
        for _ in 0..slots {
            while at.slot as usize >= self.socket_slots(at.table) {
                at = SocketCursor { table: at.table.saturating_add(1), slot: 0 };
                if at.table >= TABLES {
                    return None;
                }
            }
            if let Some(info) = self.socket_at(now, at) {
                f(info);
            }
            at.slot = at.slot.saturating_add(1);
        }
        Some(at)
    }

    /// Slots of a table, free ones counted.
    fn socket_slots(&self, table: u8) -> usize {
        match table {
            0 => self.raw.slots(),
            1 => self.udp.slots(),
            2 => self.tcp.listener_slots(),
            3 => self.tcp.half_open_slots(),
            4 => self.tcp.connection_slots(),
            _ => self.tcp.time_wait_slots(),
        }
    }

    fn socket_at(&self, now: Instant, at: SocketCursor) -> Option<SocketInfo> {
        match at.table {
            0 => self.raw.dump(at.slot),
            1 => self.udp.dump(at.slot),
            2 => self.tcp.dump_listener(at.slot),
            3 => self.tcp.dump_half_open(at.slot, now),
            4 => self.tcp.dump_connection(at.slot, now),
            _ => self.tcp.dump_time_wait(at.slot, now),
        }
    }

    /// Calls `f` for each socket. Cost grows with the number of sockets; see
    /// [`Stack::dump_sockets`].
    pub fn for_each_socket(&self, f: impl FnMut(SocketInfo)) {
        let end = self.dump_sockets(self.now(), SocketCursor::default(), usize::MAX, f);
        debug_assert!(end.is_none(), "all slots were visited");
    }
}
