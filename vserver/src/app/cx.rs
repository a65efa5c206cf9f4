//! What a callback may do: the stack's calls, under the lock that is held anyway.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use weft_stack::frame::PoolBuf;
use weft_stack::socket::tcp::{
    ConnectError, ListenError, ShutdownHow, TcpInfo, TcpOption, TcpRecvError, TcpSendError,
};
use weft_stack::socket::udp::{
    BindError, Datagram, UdpBind, UdpOption, UdpRecvError, UdpSend, UdpSendError,
};
use weft_stack::socket::{SocketId, SocketKind};
use weft_stack::time::Instant;

use super::Owners;
use super::owners::{CONNECTING, PAUSED, WANTS_WRITE};
use crate::arrival::{Arrival, VserverId};
use crate::connect::{Connects, Races};
use crate::runtime::HostStack;
use crate::runtime::NodeId;

/// When to call, in order of arming, with which token, for which vserver.
pub(super) type Timers = BinaryHeap<Reverse<(Instant, u64, u64, u32)>>;

/// The vserver as a callback of a [`super::Service`] sees it: its sockets and its time. No call
/// blocks; `WouldBlock` means that a callback will tell. None of them makes a system call; what they send
/// leaves after the callback.
pub struct Cx<'a> {
    pub(super) now: Instant,
    pub(super) worker: usize,
    pub(super) service: u16,
    /// Number of the vserver.
    pub(super) node: u32,
    /// Which of those that had the number.
    pub(super) generation: u32,
    pub(super) listener: Option<SocketId>,
    pub(super) stack: &'a mut HostStack,
    pub(super) owners: &'a mut Owners,
    pub(super) races: &'a mut Races,
    pub(super) connects: &'a Connects,
    pub(super) timers: &'a mut Timers,
    pub(super) armed: &'a mut u64,
    /// Listeners with more to accept.
    pub(super) more: &'a mut VecDeque<(u32, SocketId)>,
}

impl std::fmt::Debug for Cx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cx").field("now", &self.now).field("worker", &self.worker).finish()
    }
}

impl Cx<'_> {
    /// The host's time at the beginning of this turn of the worker.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Number of the worker, from 0.
    pub fn worker(&self) -> usize {
        self.worker
    }

    /// The vserver whose sockets this is about.
    pub fn vserver(&self) -> VserverId {
        VserverId(NodeId { index: self.node, generation: self.generation })
    }

    /// Where a connection arrived, or leaves; `None` for a stale handle.
    pub fn arrival(&self, id: SocketId) -> Option<Arrival> {
        let (alias, local) = self.stack.tcp_arrival(id)?;
        Some(Arrival { vserver: self.vserver(), alias, local })
    }

    /// Within [`super::Service::accepted`]: the listener that took the connection.
    pub fn listener(&self) -> Option<SocketId> {
        self.listener
    }

    /// Listens, with at most `backlog` connections that wait to be accepted. An unspecified address
    /// takes connections to every address of the vserver (`[::]` takes IPv4 too); port 0 picks a
    /// free one.
    pub fn listen(&mut self, local: SocketAddr, backlog: usize) -> Result<SocketId, ListenError> {
        let id = self.stack.tcp_listen(self.now, local, backlog)?;
        self.owners.add(id, self.service, 0);
        Ok(id)
    }

    /// Lets the connections of a listener wait in its backlog (`false`), or takes them again, those
    /// that wait soon after this callback.
    pub fn set_accepting(&mut self, listener: SocketId, on: bool) {
        let Some(owner) = self.owners.get(listener) else { return };
        if !on {
            owner.flags |= PAUSED;
        } else if owner.flags & PAUSED != 0 {
            owner.flags &= !PAUSED;
            self.more.push_back((self.node, listener));
        }
    }

    /// Begins a connection, from `local` if given; [`super::Service::connected`] or
    /// [`super::Service::closed`] follows. Where the vserver's `connect` table wants alternatives
    /// they are tried meanwhile, without DNS: the addresses of the connection are known when it is
    /// established.
    pub fn connect(
        &mut self,
        local: Option<SocketAddr>,
        remote: SocketAddr,
    ) -> Result<SocketId, ConnectError> {
        let raced = match self.connects.find(self.node) {
            Some(state) => self.races.begin_to(self.stack, self.now, state, (local, remote))?,
            None => None,
        };
        let id = match raced {
            Some(id) => id,
            None => self.stack.tcp_connect(self.now, local, remote)?,
        };
        self.owners.add(id, self.service, CONNECTING);
        Ok(id)
    }

    /// Copies received bytes out; 0 at the end of the stream.
    pub fn recv(&mut self, id: SocketId, buf: &mut [u8]) -> Result<usize, TcpRecvError> {
        self.stack.tcp_recv(self.now, id, buf)
    }

    /// Takes at most `max` received bytes without copying; empty at the end of the stream. Small
    /// pieces of large frames are better taken by [`Cx::recv`]: what is kept keeps its frame.
    pub fn recv_bytes(&mut self, id: SocketId, max: usize) -> Result<Bytes, TcpRecvError> {
        self.stack.tcp_recv_bytes(self.now, id, max)
    }

    /// Shows at most `max` received bytes where they are, piece by piece, and gives them up: the
    /// cheapest way to read what is looked at once. Returns how many; 0 at the end of the stream.
    pub fn recv_in_place(
        &mut self,
        id: SocketId,
        max: usize,
        look: impl FnMut(&[u8]),
    ) -> Result<usize, TcpRecvError> {
        self.stack.tcp_recv_in_place(self.now, id, max, look)
    }

    /// Copies bytes into the send buffer; returns how many fitted, at least one. After less than
    /// all [`super::Service::writable`] follows.
    pub fn send(&mut self, id: SocketId, data: &[u8]) -> Result<usize, TcpSendError> {
        let sent = self.stack.tcp_send(self.now, id, data);
        self.note_short(id, sent, data.len());
        sent
    }

    /// A buffer of `len` bytes in the device's memory: written, frozen and sent with
    /// [`Cx::send_bytes`] it is copied no more. `None`: longer than a frame of the device, or the
    /// vserver holds its share (`app_frames`) already; then send by copying.
    pub fn alloc(&mut self, len: usize) -> Option<PoolBuf> {
        self.stack.alloc(len)
    }

    /// Queues bytes without copying and takes what fitted off the front of `data`; returns how many.
    /// After less than all [`super::Service::writable`] follows.
    pub fn send_bytes(&mut self, id: SocketId, data: &mut Bytes) -> Result<usize, TcpSendError> {
        let len = data.len();
        let sent = self.stack.tcp_send_bytes(self.now, id, data);
        self.note_short(id, sent, len);
        sent
    }

    fn note_short(&mut self, id: SocketId, sent: Result<usize, TcpSendError>, len: usize) {
        let short = match sent {
            Ok(n) => n < len,
            Err(e) => e == TcpSendError::WouldBlock,
        };
        if short {
            self.want_write(id);
        }
    }

    /// Asks for one [`super::Service::writable`] when there is room.
    pub fn want_write(&mut self, id: SocketId) {
        if let Some(owner) = self.owners.get(id) {
            owner.flags |= WANTS_WRITE;
        }
    }

    /// Shuts a half of a connection down: `Write` sends FIN after what was sent.
    pub fn shutdown(&mut self, id: SocketId, how: ShutdownHow) {
        // No other attempt would know of it.
        self.races.give_up(self.stack, self.now, id);
        self.stack.tcp_shutdown(self.now, id, how);
    }

    /// Closes a socket of any kind. What a connection has sent is still delivered. No callback
    /// follows.
    pub fn close(&mut self, id: SocketId) {
        if self.owners.remove(id) {
            self.races.give_up(self.stack, self.now, id);
            close(self.stack, self.now, id);
        }
    }

    /// Resets a connection, closes another socket. No callback follows.
    pub fn abort(&mut self, id: SocketId) {
        if id.kind == SocketKind::TcpStream {
            self.races.give_up(self.stack, self.now, id);
            self.stack.tcp_abort(self.now, id);
        }
        self.close(id);
    }

    /// Sets an option of a connection or listener; `false` for a stale handle.
    pub fn set_option(&mut self, id: SocketId, option: TcpOption) -> bool {
        self.stack.tcp_set_option(self.now, id, option)
    }

    /// Our address and the peer's; `None` for a stale handle. The peer of a listener is unspecified.
    pub fn addrs(&self, id: SocketId) -> Option<(SocketAddr, SocketAddr)> {
        self.stack.tcp_addrs(id)
    }

    /// A connection's inner state; `None` for a stale handle.
    pub fn info(&mut self, id: SocketId) -> Option<TcpInfo> {
        self.stack.tcp_info(self.now, id)
    }

    /// Binds a UDP socket. An unspecified address takes datagrams to every address of the vserver;
    /// port 0 picks a free one.
    pub fn udp_bind(&mut self, local: SocketAddr) -> Result<SocketId, BindError> {
        self.udp_bind_with(local, UdpBind::default())
    }

    /// As [`Cx::udp_bind`], for a socket that may share its port or take IPv6 only.
    pub fn udp_bind_with(
        &mut self,
        local: SocketAddr,
        how: UdpBind,
    ) -> Result<SocketId, BindError> {
        let id = self.stack.udp_bind_with(self.now, local, how)?;
        self.owners.add(id, self.service, 0);
        Ok(id)
    }

    /// Fixes the peer of a UDP socket.
    pub fn udp_connect(&mut self, id: SocketId, peer: SocketAddr) -> Result<(), UdpSendError> {
        self.stack.udp_connect(self.now, id, peer)
    }

    /// Takes the oldest datagram, without copying.
    pub fn udp_recv(&mut self, id: SocketId) -> Result<Datagram, UdpRecvError> {
        self.stack.udp_recv(id)
    }

    /// Sends one datagram; `to` is `None` on a connected socket. After `WouldBlock`
    /// [`super::Service::writable`] follows.
    pub fn udp_send(
        &mut self,
        id: SocketId,
        payload: &[u8],
        to: Option<SocketAddr>,
    ) -> Result<(), UdpSendError> {
        self.udp_send_with(id, payload, &UdpSend { to, ..UdpSend::default() })
    }

    /// Sends one datagram, or several, with more to say about how.
    pub fn udp_send_with(
        &mut self,
        id: SocketId,
        payload: &[u8],
        how: &UdpSend,
    ) -> Result<(), UdpSendError> {
        let sent = self.stack.udp_send_with(self.now, id, payload, how);
        if sent == Err(UdpSendError::WouldBlock) {
            self.want_write(id);
        }
        sent
    }

    /// As [`Cx::udp_send_with`], from where the bytes lie: those of [`Cx::alloc`] and of received
    /// datagrams are not copied if the device can gather. Up to 256 bytes are copied behind the
    /// header.
    pub fn udp_send_bytes(
        &mut self,
        id: SocketId,
        payload: &Bytes,
        how: &UdpSend,
    ) -> Result<(), UdpSendError> {
        let sent = self.stack.udp_send_bytes(self.now, id, payload, how);
        if sent == Err(UdpSendError::WouldBlock) {
            self.want_write(id);
        }
        sent
    }

    /// Sends several datagrams as [`Cx::udp_send_bytes`] does, up to the first that fails; returns
    /// how many went, and why no more did.
    pub fn udp_send_many(
        &mut self,
        id: SocketId,
        messages: &[(Bytes, UdpSend)],
    ) -> (usize, Result<(), UdpSendError>) {
        for (went, (payload, how)) in messages.iter().enumerate() {
            if let Err(e) = self.udp_send_bytes(id, payload, how) {
                return (went, Err(e));
            }
        }
        (messages.len(), Ok(()))
    }

    /// Appends up to `max` waiting datagrams to `out`, without copying; returns how many, and why
    /// no more did.
    pub fn udp_recv_many(
        &mut self,
        id: SocketId,
        out: &mut Vec<Datagram>,
        max: usize,
    ) -> (usize, Result<(), UdpRecvError>) {
        for n in 0..max {
            match self.stack.udp_recv(id) {
                Ok(datagram) => out.push(datagram),
                Err(e) => return (n, Err(e)),
            }
        }
        (max, Ok(()))
    }

    /// Sets an option of a UDP socket; `false` for a stale handle.
    pub fn udp_set_option(&mut self, id: SocketId, option: UdpOption) -> bool {
        self.stack.udp_set_option(id, option)
    }

    /// The address a UDP socket is bound to; `None` for a stale handle.
    pub fn udp_local(&self, id: SocketId) -> Option<SocketAddr> {
        self.stack.udp_local(id)
    }

    /// Calls [`super::Service::timer`] with `token` once, `after` this turn's time or a little
    /// later, with the vserver of this callback. Timers are not taken back; one that is no longer wanted is ignored when it comes.
    /// `false`, counted as `FrameServiceTimersRefused`: as many are set as the vserver allows
    /// (`service_timers`).
    pub fn set_timer(&mut self, after: Duration, token: u64) -> bool {
        if !self.stack.may_set_timer(self.timers.len()) {
            return false;
        }
        *self.armed += 1;
        self.timers.push(Reverse((self.now + after, *self.armed, token, self.node)));
        true
    }
}

/// Closes a socket of any kind that services have.
pub(super) fn close(stack: &mut HostStack, now: Instant, id: SocketId) {
    match id.kind {
        SocketKind::Udp => stack.udp_close(id),
        SocketKind::Raw | SocketKind::Icmp => stack.raw_close(id),
        SocketKind::TcpListener | SocketKind::TcpStream => stack.tcp_close(now, id),
    }
}
