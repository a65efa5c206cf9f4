//! What dumps show of listeners, the SYN queue, connections and TIME-WAIT, slot by slot.

use core::net::SocketAddr;

use crate::socket::tcp::TcpState;
use crate::socket::{SocketId, SocketInfo, SocketKind, SocketMemory, SocketTimer};
use crate::time::Instant;

use super::state::{Connection, Owner};
use super::{Tcp, any_of};

impl Tcp {
    /// Slots of listeners, free ones counted.
    pub(crate) fn listener_slots(&self) -> usize {
        self.listeners.slots()
    }

    /// Slots of the SYN queue, free ones counted.
    pub(crate) fn half_open_slots(&self) -> usize {
        self.half_open.slots()
    }

    /// Slots of connections, free ones counted.
    pub(crate) fn connection_slots(&self) -> usize {
        self.connections.capacity()
    }

    /// Slots of TIME-WAIT, free ones counted.
    pub(crate) fn time_wait_slots(&self) -> usize {
        self.time_waits.slots()
    }

    /// The listener in a slot.
    pub(crate) fn dump_listener(&self, index: u32) -> Option<SocketInfo> {
        let l = self.listeners.get(index)?;
        Some(SocketInfo {
            id: SocketId { kind: SocketKind::TcpListener, index, generation: l.generation },
            state: TcpState::Listen.name(),
            local: l.local,
            peer: SocketAddr::new(any_of(l.local), 0),
            recv_queue: l.accept_queue.len(),
            send_queue: l.backlog,
            alias: None,
            timer: None,
            memory: SocketMemory {
                recv_limit: l.settings.recv_buffer,
                send_limit: l.settings.send_buffer,
                ..SocketMemory::default()
            },
            owned: true,
        })
    }

    /// The half-open connection in a slot.
    pub(crate) fn dump_half_open(&self, index: u32, now: Instant) -> Option<SocketInfo> {
        let r = self.half_open.get(index)?;
        let (left, retries) = r.timer(now);
        Some(SocketInfo {
            id: SocketId { kind: SocketKind::TcpStream, index, generation: 0 },
            state: TcpState::SynReceived.name(),
            local: r.key.local(),
            peer: r.key.peer(),
            recv_queue: 0,
            send_queue: 0,
            alias: Some(r.alias),
            timer: Some(SocketTimer { kind: "on", left, retries }),
            memory: SocketMemory::default(),
            owned: false,
        })
    }

    /// The connection in a slot.
    pub(crate) fn dump_connection(&self, index: u32, now: Instant) -> Option<SocketInfo> {
        let c = self.connections.get(index as usize)?;
        (c.state != TcpState::TimeWait).then(|| SocketInfo {
            id: Tcp::id_of(c, index),
            state: c.state.name(),
            local: c.key.local(),
            peer: c.key.peer(),
            recv_queue: c.recv.len(),
            send_queue: c.send.len(),
            alias: Some(c.alias),
            timer: c.pending_timer(now),
            memory: SocketMemory {
                recv_held: c.held() - c.send.len(),
                recv_limit: c.recv.limit(),
                send_held: c.send.len(),
                send_limit: c.send.limit(),
                drops: 0,
            },
            owned: c.owner == Owner::App,
        })
    }

    /// The TIME-WAIT entry in a slot.
    pub(crate) fn dump_time_wait(&self, index: u32, now: Instant) -> Option<SocketInfo> {
        let e = self.time_waits.get(index)?;
        let left = e.expires.saturating_since(now);
        Some(SocketInfo {
            id: SocketId { kind: SocketKind::TcpStream, index, generation: 0 },
            state: TcpState::TimeWait.name(),
            local: e.key.local(),
            peer: e.key.peer(),
            recv_queue: 0,
            send_queue: 0,
            alias: Some(e.alias),
            timer: Some(SocketTimer { kind: "timewait", left, retries: 0 }),
            memory: SocketMemory::default(),
            owned: false,
        })
    }
}

impl Connection {
    /// The timer that is due first, in ss's words; delayed ACKs are none of them.
    fn pending_timer(&self, now: Instant) -> Option<SocketTimer> {
        let timers = [
            ("on", self.rtx_at, self.rtx_count),
            ("persist", self.persist_at, self.persist_count),
            ("keepalive", self.keepalive_at, self.unanswered),
            ("timewait", self.linger_at, 0),
        ];
        let pending =
            timers.into_iter().filter_map(|(kind, at, retries)| Some((at?, kind, retries)));
        let (at, kind, retries) = pending.min_by_key(|(at, ..)| *at)?;
        Some(SocketTimer { kind, left: at.saturating_since(now), retries })
    }
}
