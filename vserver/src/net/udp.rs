//! UDP sockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use weft_stack::ip::address::AliasId;
use weft_stack::socket::udp::{Datagram, UdpRecvError, UdpSendError};

use super::socket::{Direction, Socket, bind_error, not_connected, readiness_faces};
use crate::Vserver;
use crate::runtime::Node;

/// A UDP socket of a vserver.
#[derive(Debug)]
pub struct UdpSocket {
    socket: Socket,
}

impl UdpSocket {
    /// Binds. An unspecified address takes datagrams to every address of the vserver (`[::]` takes
    /// IPv4 too); port 0 picks a free one.
    ///
    /// Errors: `AddrInUse`, `AddrNotAvailable`, `QuotaExceeded` (limit of the vserver).
    pub fn bind(vserver: &Vserver, addr: SocketAddr) -> io::Result<UdpSocket> {
        let bind = |node: &mut Node, now| node.stack.udp_bind(now, addr).map_err(bind_error);
        Ok(UdpSocket { socket: Socket::open(vserver, bind)? })
    }

    fn send_one(&self, buf: &[u8], to: Option<SocketAddr>) -> io::Result<usize> {
        let id = self.socket.id;
        self.socket.wait(Direction::Write, |node, now| {
            match node.stack.udp_send(now, id, buf, to) {
                Ok(()) => Some(Ok(buf.len())),
                Err(UdpSendError::WouldBlock) => None,
                Err(e) => Some(Err(send_error(e))),
            }
        })
    }

    /// Sends one datagram.
    pub fn send_to(&self, buf: &[u8], to: SocketAddr) -> io::Result<usize> {
        self.send_one(buf, Some(to))
    }

    /// Receives one datagram; what does not fit into `buf` is cut off.
    pub fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let datagram = self.recv_datagram()?;
        let len = datagram.payload.len().min(buf.len());
        buf[..len].copy_from_slice(&datagram.payload[..len]);
        Ok((len, datagram.from))
    }

    /// Receives one datagram without copying, with the local address it was sent to.
    pub fn recv_datagram(&self) -> io::Result<Datagram> {
        let id = self.socket.id;
        self.socket.wait(Direction::Read, |node, _| match node.stack.udp_recv(id) {
            Ok(datagram) => Some(Ok(datagram)),
            Err(UdpRecvError::WouldBlock) => None,
            Err(UdpRecvError::Refused) => Some(Err(io::ErrorKind::ConnectionRefused.into())),
            Err(_) => Some(Err(not_connected())),
        })
    }

    /// Fixes the peer: only its datagrams are received, ICMP errors come as `ConnectionRefused`.
    pub fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        let id = self.socket.id;
        self.socket.call(|node, now| node.stack.udp_connect(now, id, peer))?.map_err(send_error)
    }

    /// Sends to the connected peer.
    pub fn send(&self, buf: &[u8]) -> io::Result<usize> {
        self.send_one(buf, None)
    }

    /// Receives from the connected peer.
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(self.recv_from(buf)?.0)
    }

    /// Joins a multicast group on an alias ([`Vserver::alias`]).
    pub fn join_multicast(&self, alias: AliasId, group: IpAddr) -> io::Result<()> {
        let id = self.socket.id;
        self.socket
            .call(|node, now| node.stack.udp_join(now, id, alias, group))?
            .map_err(bind_error)
    }

    /// Leaves a group.
    pub fn leave_multicast(&self, alias: AliasId, group: IpAddr) -> io::Result<()> {
        let id = self.socket.id;
        self.socket.call(|node, now| node.stack.udp_leave(now, id, alias, group))
    }

    /// The bound address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let addr = self.socket.peek(|node| node.stack.udp_local(self.socket.id))?;
        addr.ok_or_else(not_connected)
    }

    /// Switches blocking off or on.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.socket.set_nonblocking(nonblocking);
        Ok(())
    }

    /// How long a blocking receive waits; then `WouldBlock`. `None`: for ever.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_timeout(Direction::Read, timeout)
    }

    /// How long a blocking send waits; then `WouldBlock`. `None`: for ever.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_timeout(Direction::Write, timeout)
    }
}

fn send_error(e: UdpSendError) -> io::Error {
    let kind = match e {
        UdpSendError::WouldBlock => io::ErrorKind::WouldBlock,
        UdpSendError::NoDestination | UdpSendError::Closed => io::ErrorKind::NotConnected,
        UdpSendError::Unreachable => io::ErrorKind::NetworkUnreachable,
        UdpSendError::Refused => io::ErrorKind::ConnectionRefused,
        _ => io::ErrorKind::InvalidInput,
    };
    io::Error::new(kind, e)
}

readiness_faces!(UdpSocket);
