//! UDP sockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use weft_stack::frame::PoolBuf;
use weft_stack::ip::address::AliasId;
pub use weft_stack::socket::udp::{
    Datagram, SourceFilter, UdpBind, UdpError, UdpErrorReport, UdpOption, UdpSend,
};
use weft_stack::socket::udp::{UdpRecvError, UdpSendError};

use super::socket::{Direction, Socket, bind_error, not_connected, readiness_faces};
use crate::Vserver;
use crate::runtime::Node;

/// Datagrams that one [`UdpSocket::send_many`] or [`UdpSocket::recv_many`] moves with the worker's
/// lock held.
const MANY_MAX: usize = 64;

/// A UDP socket of a vserver.
#[derive(Debug)]
pub struct UdpSocket {
    pub(super) socket: Socket,
}

impl UdpSocket {
    /// Binds. An unspecified address takes datagrams to every address of the vserver (`[::]` takes
    /// IPv4 too); port 0 picks a free one.
    ///
    /// Errors: `AddrInUse`, `AddrNotAvailable`, `QuotaExceeded` (limit of the vserver).
    pub fn bind(vserver: &Vserver, addr: SocketAddr) -> io::Result<UdpSocket> {
        let bind = |node: &mut Node, now| node.stack.udp_bind(now, addr).map_err(bind_error);
        Ok(UdpSocket { socket: Socket::open(vserver, vserver.worker_of_port(addr.port()), bind)? })
    }

    /// Binds a socket that may share its port, or take IPv6 only. Errors as [`UdpSocket::bind`].
    pub fn bind_with(vserver: &Vserver, addr: SocketAddr, how: UdpBind) -> io::Result<UdpSocket> {
        let bind =
            |node: &mut Node, now| node.stack.udp_bind_with(now, addr, how).map_err(bind_error);
        Ok(UdpSocket { socket: Socket::open(vserver, vserver.worker_of_port(addr.port()), bind)? })
    }

    fn send_one(&self, buf: &[u8], to: Option<SocketAddr>) -> io::Result<usize> {
        self.send_with(buf, &UdpSend { to, ..UdpSend::default() })
    }

    /// Sends one datagram, or several, with more to say about how: source, alias, hop limit,
    /// traffic class, segments.
    ///
    /// Errors: those of earlier datagrams (`ConnectionRefused`, ...), `InvalidInput` for what is
    /// too long (the inner error is a [`weft_stack::socket::udp::UdpSendError`] with the path MTU),
    /// `PermissionDenied` for broadcast that was not allowed, `NetworkUnreachable`, `WouldBlock`.
    pub fn send_with(&self, buf: &[u8], how: &UdpSend) -> io::Result<usize> {
        let id = self.socket.id;
        self.socket.wait(Direction::Write, |node, now| {
            match node.stack.udp_send_with(now, id, buf, how) {
                Ok(()) => Some(Ok(buf.len())),
                Err(UdpSendError::WouldBlock) => None,
                Err(e) => Some(Err(send_error(e))),
            }
        })
    }

    /// A buffer of `len` bytes in the memory that this socket's worker sends from: written, frozen
    /// and sent with [`UdpSocket::send_bytes`] it is copied no more. `None`: longer than a frame of
    /// the device, or the vserver holds its share (`app_frames`) already; then send by copying.
    pub fn alloc(&self, len: usize) -> Option<PoolBuf> {
        self.socket.peek(|node| node.stack.alloc(len)).ok()?
    }

    /// As [`UdpSocket::send_with`], from where the bytes lie; up to 256 bytes are copied behind
    /// the header.
    pub fn send_bytes(&self, payload: &Bytes, how: &UdpSend) -> io::Result<usize> {
        let id = self.socket.id;
        self.socket.wait(Direction::Write, |node, now| {
            match node.stack.udp_send_bytes(now, id, payload, how) {
                Ok(()) => Some(Ok(payload.len())),
                Err(UdpSendError::WouldBlock) => None,
                Err(e) => Some(Err(send_error(e))),
            }
        })
    }

    /// Sends several datagrams (`sendmmsg`), each as [`UdpSocket::send_bytes`] does, with one
    /// passage to the device for up to 64 of them. Returns how many went, at least one; the error
    /// of a later one comes with the next call.
    pub fn send_many(&self, messages: &[(Bytes, UdpSend)]) -> io::Result<usize> {
        let id = self.socket.id;
        if messages.is_empty() {
            return Ok(0);
        }
        self.socket.wait(Direction::Write, |node, now| {
            let mut went = 0;
            for (payload, how) in messages.iter().take(MANY_MAX) {
                match node.stack.udp_send_bytes(now, id, payload, how) {
                    Ok(()) => went += 1,
                    Err(_) if went > 0 => break,
                    Err(UdpSendError::WouldBlock) => return None,
                    Err(e) => return Some(Err(send_error(e))),
                }
            }
            Some(Ok(went))
        })
    }

    /// Appends up to `max` waiting datagrams, and no more than 64, to `out` without copying
    /// (`recvmmsg`); waits for the first. Returns how many. With [`UdpOption::KeepSegments`] each
    /// may be several of one sender.
    pub fn recv_many(&self, out: &mut Vec<Datagram>, max: usize) -> io::Result<usize> {
        let id = self.socket.id;
        if max == 0 {
            return Ok(0);
        }
        self.socket.wait(Direction::Read, |node, _| {
            let before = out.len();
            while out.len() - before < max.min(MANY_MAX) {
                match node.stack.udp_recv(id) {
                    Ok(datagram) => out.push(datagram),
                    Err(UdpRecvError::WouldBlock) if out.len() == before => return None,
                    Err(e) if out.len() == before => return Some(Err(recv_error(e))),
                    // Nothing more, or what the next call tells.
                    Err(_) => break,
                }
            }
            Some(Ok(out.len() - before))
        })
    }

    /// Sends `buf` as datagrams of `segment_bytes` each, the last one may be shorter; at most 128,
    /// each within the path MTU. All are sent or none. `to` is `None` on a connected socket.
    pub fn send_segments(
        &self,
        buf: &[u8],
        segment_bytes: usize,
        to: Option<SocketAddr>,
    ) -> io::Result<usize> {
        let segment_bytes = Some(segment_bytes);
        self.send_with(buf, &UdpSend { to, segment_bytes, ..UdpSend::default() })
    }

    /// Sends one datagram.
    pub fn send_to(&self, buf: &[u8], to: SocketAddr) -> io::Result<usize> {
        self.send_one(buf, Some(to))
    }

    /// Receives one datagram; what does not fit into `buf` is cut off.
    pub fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let id = self.socket.id;
        self.socket.wait(Direction::Read, |node, _| match node.stack.udp_recv_to(id, buf) {
            Ok(received) => Some(Ok(received)),
            Err(UdpRecvError::WouldBlock) => None,
            Err(e) => Some(Err(recv_error(e))),
        })
    }

    /// Receives one datagram as a view of the received frame, and its sender. Up to 256 bytes are
    /// copied, so that they hold no frame.
    pub fn recv_bytes(&self) -> io::Result<(Bytes, SocketAddr)> {
        let datagram = self.recv_datagram()?;
        Ok((datagram.payload, datagram.from))
    }

    /// Receives one datagram without copying, with the local address it was sent to.
    pub fn recv_datagram(&self) -> io::Result<Datagram> {
        let id = self.socket.id;
        self.socket.wait(Direction::Read, |node, _| match node.stack.udp_recv(id) {
            Ok(datagram) => Some(Ok(datagram)),
            Err(UdpRecvError::WouldBlock) => None,
            Err(e) => Some(Err(recv_error(e))),
        })
    }

    /// Fixes the peer: only its datagrams are received, ICMP errors come as `ConnectionRefused`.
    pub fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        let id = self.socket.id;
        self.socket.call(|node, now| node.stack.udp_connect(now, id, peer))?.map_err(send_error)
    }

    /// Takes the peer back.
    pub fn disconnect(&self) -> io::Result<()> {
        let id = self.socket.id;
        self.socket.call(|node, _| node.stack.udp_disconnect(id))
    }

    /// The connected peer.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        let addr = self.socket.peek(|node| node.stack.udp_peer(self.socket.id))?;
        addr.ok_or_else(not_connected)
    }

    /// Payload of a datagram to the connected peer that needs no fragments.
    pub fn payload_max(&self) -> io::Result<usize> {
        let id = self.socket.id;
        let max = self.socket.call(|node, now| node.stack.udp_payload_max(now, id))?;
        max.ok_or_else(not_connected)
    }

    /// Sets an option.
    pub fn set_option(&self, option: UdpOption) -> io::Result<()> {
        let id = self.socket.id;
        let set = self.socket.call(|node, _| node.stack.udp_set_option(id, option))?;
        if set { Ok(()) } else { Err(not_connected()) }
    }

    /// May send to broadcast addresses, or not.
    pub fn set_broadcast(&self, on: bool) -> io::Result<()> {
        self.set_option(UdpOption::Broadcast(on))
    }

    /// Takes the pending error.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        let id = self.socket.id;
        Ok(self.socket.call(|node, _| node.stack.udp_take_error(id))?.map(udp_error))
    }

    /// Takes the oldest report of the error queue ([`UdpOption::ErrorQueue`]), without waiting.
    pub fn recv_error(&self) -> io::Result<Option<UdpErrorReport>> {
        let id = self.socket.id;
        self.socket.call(|node, _| node.stack.udp_recv_error(id))
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

    /// Joins a group for what some senders send, or all but some; or replaces the senders of a
    /// membership. `Include` of nobody leaves.
    pub fn set_multicast_sources(
        &self,
        alias: AliasId,
        group: IpAddr,
        sources: SourceFilter,
    ) -> io::Result<()> {
        let id = self.socket.id;
        self.socket
            .call(|node, now| node.stack.udp_set_sources(now, id, alias, group, sources))?
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

pub(crate) fn recv_error(e: UdpRecvError) -> io::Error {
    match e {
        UdpRecvError::Failed(e) => udp_error(e),
        UdpRecvError::WouldBlock => io::ErrorKind::WouldBlock.into(),
        _ => not_connected(),
    }
}

pub(crate) fn send_error(e: UdpSendError) -> io::Error {
    let kind = match e {
        UdpSendError::Failed(e) => return udp_error(e),
        UdpSendError::WouldBlock => io::ErrorKind::WouldBlock,
        UdpSendError::NoDestination | UdpSendError::Closed => io::ErrorKind::NotConnected,
        UdpSendError::Unreachable => io::ErrorKind::NetworkUnreachable,
        UdpSendError::Broadcast => io::ErrorKind::PermissionDenied,
        UdpSendError::InUse => io::ErrorKind::AddrInUse,
        _ => io::ErrorKind::InvalidInput,
    };
    io::Error::new(kind, e)
}

/// The error kinds of the standard library for what ICMP told.
pub(crate) fn udp_error(e: UdpError) -> io::Error {
    let kind = match e {
        UdpError::Refused => io::ErrorKind::ConnectionRefused,
        UdpError::NetUnreachable => io::ErrorKind::NetworkUnreachable,
        UdpError::HostUnreachable | UdpError::Prohibited | UdpError::TimeExceeded => {
            io::ErrorKind::HostUnreachable
        }
        UdpError::TooBig { .. } => io::ErrorKind::InvalidInput,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, e)
}

readiness_faces!(UdpSocket);
