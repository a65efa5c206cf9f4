//! UDP as an application sees it.

use core::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::SocketId;
use crate::Stack;
use crate::ip::address::AliasId;
use crate::path::PathLayer;
use crate::time::Instant;

/// Why a bind failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another socket holds the address and port.
    #[error("address in use")]
    InUse,
    /// The address is none of the vserver's.
    #[error("address not available on this vserver")]
    NotAvailable,
    /// The vserver's socket limit is reached.
    #[error("too many sockets on this vserver")]
    TooMany,
}

/// Why a datagram was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UdpSendError {
    /// No room now; wait for writable.
    #[error("would block")]
    WouldBlock,
    /// No such socket.
    #[error("socket is closed")]
    Closed,
    /// No destination: not connected and none given.
    #[error("no destination address")]
    NoDestination,
    /// No route or no source address.
    #[error("network unreachable")]
    Unreachable,
    /// Longer than a datagram can be, or than the path takes with DF.
    #[error("message too long")]
    TooLong,
    /// A connected peer refused an earlier datagram (ICMP port unreachable).
    #[error("connection refused")]
    Refused,
}

/// Why nothing was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UdpRecvError {
    /// Nothing waits.
    #[error("would block")]
    WouldBlock,
    /// No such socket.
    #[error("socket is closed")]
    Closed,
    /// A connected peer refused an earlier datagram.
    #[error("connection refused")]
    Refused,
}

/// One received datagram.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// Sender.
    pub from: SocketAddr,
    /// The local address it was sent to.
    pub to: IpAddr,
    /// The alias it came in on.
    pub alias: AliasId,
    /// The payload, owned, no copy.
    pub payload: Bytes,
}

impl<P: PathLayer> Stack<P> {
    /// Binds a UDP socket. An unspecified address takes datagrams to every address of the vserver
    /// (`::` takes IPv4 too); port 0 picks a free one.
    pub fn udp_bind(&mut self, now: Instant, local: SocketAddr) -> Result<SocketId, BindError> {
        let (mut lower, _, udp) = self.parts(now);
        udp.bind(&mut lower, local)
    }

    /// Fixes the peer: other senders' datagrams are not delivered, ICMP errors are.
    pub fn udp_connect(
        &mut self,
        now: Instant,
        id: SocketId,
        peer: SocketAddr,
    ) -> Result<(), UdpSendError> {
        let (mut lower, _, udp) = self.parts(now);
        udp.connect(&mut lower, id, peer)
    }

    /// Sends one datagram; `to` is `None` on a connected socket. What exceeds the path MTU goes in
    /// fragments. The scope id of a link-local address is the alias number plus one.
    pub fn udp_send(
        &mut self,
        now: Instant,
        id: SocketId,
        payload: &[u8],
        to: Option<SocketAddr>,
    ) -> Result<(), UdpSendError> {
        let (mut lower, _, udp) = self.parts(now);
        udp.send(&mut lower, id, payload, to)
    }

    /// Takes the oldest datagram.
    pub fn udp_recv(&mut self, id: SocketId) -> Result<Datagram, UdpRecvError> {
        self.udp.recv(id)
    }

    /// The bound address.
    pub fn udp_local(&self, id: SocketId) -> Option<SocketAddr> {
        self.udp.local(id)
    }

    /// Closes the socket; datagrams not read are lost.
    pub fn udp_close(&mut self, id: SocketId) {
        let now = self.now();
        let (mut lower, _, udp) = self.parts(now);
        udp.close(&mut lower, id);
    }

    /// Joins a multicast group on an alias for this socket.
    pub fn udp_join(
        &mut self,
        now: Instant,
        id: SocketId,
        alias: AliasId,
        group: IpAddr,
    ) -> Result<(), BindError> {
        let (mut lower, _, udp) = self.parts(now);
        udp.join(&mut lower, id, alias, group)
    }

    /// Leaves a group joined before.
    pub fn udp_leave(&mut self, now: Instant, id: SocketId, alias: AliasId, group: IpAddr) {
        let (mut lower, _, udp) = self.parts(now);
        udp.leave(&mut lower, id, alias, group);
    }
}
