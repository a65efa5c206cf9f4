//! Raw sockets and ICMP echo sockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub use weft_stack::socket::raw::{EchoAnswer, Family, IcmpFilter, RawOption, RawPacket};
use weft_stack::socket::raw::{RawRecvError, RawSendError};

use super::socket::{Direction, Socket, bind_error, not_connected, readiness_faces};
use super::udp::udp_error;
use crate::Vserver;
use crate::runtime::{Node, Notify};

/// Protocols whose packets go to the worker of their flow; all others are worker 0's.
const SPREAD: [u8; 4] = [1, 6, 17, 58];
/// Protocols with packets that are worker 0's, whatever the home of the vserver.
const OF_ROUTERS: [u8; 2] = [2, 58];

/// The workers that see packets of a protocol; the first one sends.
fn raw_places(vserver: &Vserver, protocol: u8) -> Vec<usize> {
    let places = vserver.places();
    match (places.len(), places.start) {
        (1, home) if home > 0 && OF_ROUTERS.contains(&protocol) => vec![home, 0],
        (1, home) => vec![home],
        _ if SPREAD.contains(&protocol) => places.collect(),
        _ => vec![0],
    }
}

/// A raw socket of a vserver: copies of received packets of one protocol, and packets of it to
/// send. Its vserver has to allow it (`raw_sockets`).
#[derive(Debug)]
pub struct RawSocket {
    socket: Socket,
}

impl RawSocket {
    /// Opens a socket for an IP protocol.
    ///
    /// Errors: `PermissionDenied` if the vserver's limit is 0, `QuotaExceeded` at the limit.
    pub fn open(vserver: &Vserver, family: Family, protocol: u8) -> io::Result<RawSocket> {
        let places = raw_places(vserver, protocol);
        let open =
            |node: &mut Node, now| node.stack.raw_open(now, family, protocol).map_err(bind_error);
        let (first, others) = (places[0], &places[1..]);
        if others.is_empty() {
            return Ok(RawSocket { socket: Socket::open(vserver, first, open)? });
        }
        let notify = Arc::new(Notify::of_several());
        let id = Socket::make(vserver, first, &notify, open)?;
        let mut socket = Socket::adopt(vserver, first, id, Arc::clone(&notify));
        for &worker in others {
            let id = Socket::make(vserver, worker, &notify, open)?;
            socket.twins.push((worker, id));
        }
        Ok(RawSocket { socket })
    }

    /// Sends one packet; `to` is `None` on a connected socket or with a header of its own.
    pub fn send_to(&self, buf: &[u8], to: Option<SocketAddr>) -> io::Result<usize> {
        let id = self.socket.id;
        self.socket.wait(Direction::Write, |node, now| {
            sent(node.stack.raw_send(now, id, buf, to), buf.len())
        })
    }

    /// Receives one packet without copying; of IPv4 with its header.
    pub fn recv_packet(&self) -> io::Result<RawPacket> {
        let id = self.socket.id;
        if self.socket.twins.is_empty() {
            let receive = |node: &mut Node, _| received(node.stack.raw_recv(id));
            return self.socket.wait(Direction::Read, receive);
        }
        let receive = |node: &mut Node, id| received(node.stack.raw_recv(id));
        self.socket.wait_anywhere(0, receive).map(|(_, packet)| packet)
    }
}

/// A socket of a vserver for ICMP echo requests ("ping"). Its vserver has to allow it
/// (`icmp_sockets`).
#[derive(Debug)]
pub struct IcmpSocket {
    socket: Socket,
}

impl IcmpSocket {
    /// Opens a socket with an identifier of its own.
    ///
    /// Errors: `PermissionDenied` if the vserver's limit is 0, `QuotaExceeded` at the limit.
    pub fn open(vserver: &Vserver, family: Family) -> io::Result<IcmpSocket> {
        let open = |node: &mut Node, now| node.stack.icmp_open(now, family).map_err(bind_error);
        let worker = vserver.first_place();
        Ok(IcmpSocket { socket: Socket::open(vserver, worker, open)? })
    }

    /// Sends an echo request; `to` is `None` on a connected socket. Ports mean nothing.
    pub fn send_echo(
        &self,
        sequence: u16,
        payload: &[u8],
        to: Option<SocketAddr>,
    ) -> io::Result<()> {
        let id = self.socket.id;
        self.socket.wait(Direction::Write, |node, now| {
            sent(node.stack.icmp_send_echo(now, id, sequence, payload, to), ())
        })
    }

    /// Receives the next answer to a request of this socket, or what went wrong with one.
    pub fn recv_answer(&self) -> io::Result<EchoAnswer> {
        let id = self.socket.id;
        self.socket.wait(Direction::Read, |node, _| received(node.stack.icmp_recv(id)))
    }
}

/// What both have.
macro_rules! raw_calls {
    ($type:ty) => {
        impl $type {
            /// Takes packets to this address only, and sends from it.
            pub fn bind(&self, local: IpAddr) -> io::Result<()> {
                for (worker, id) in self.socket.places() {
                    let bind = |node: &mut Node, now| node.stack.raw_bind(now, id, local);
                    self.socket.call_on(worker, bind)?.map_err(bind_error)?;
                }
                Ok(())
            }

            /// Takes packets from this host only, and sends to it.
            pub fn connect(&self, peer: SocketAddr) -> io::Result<()> {
                for (worker, id) in self.socket.places() {
                    let connect = |node: &mut Node, now| node.stack.raw_connect(now, id, peer);
                    self.socket.call_on(worker, connect)?.map_err(send_error)?;
                }
                Ok(())
            }

            /// Sets an option; `InvalidInput` if the socket does not have it.
            pub fn set_option(&self, option: RawOption) -> io::Result<()> {
                for (worker, id) in self.socket.places() {
                    let set = |node: &mut Node, _| node.stack.raw_set_option(id, option);
                    if !self.socket.call_on(worker, set)? {
                        return Err(io::ErrorKind::InvalidInput.into());
                    }
                }
                Ok(())
            }

            /// The local address; the port is the protocol, of an ICMP socket the identifier.
            pub fn local_addr(&self) -> io::Result<SocketAddr> {
                let addr = self.socket.peek(|node| node.stack.raw_local(self.socket.id))?;
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
        }

        readiness_faces!($type);
    };
}

raw_calls!(RawSocket);
raw_calls!(IcmpSocket);

fn sent<R>(result: Result<(), RawSendError>, value: R) -> Option<io::Result<R>> {
    match result {
        Ok(()) => Some(Ok(value)),
        Err(RawSendError::WouldBlock) => None,
        Err(e) => Some(Err(send_error(e))),
    }
}

fn received<R>(result: Result<R, RawRecvError>) -> Option<io::Result<R>> {
    match result {
        Ok(value) => Some(Ok(value)),
        Err(RawRecvError::WouldBlock) => None,
        Err(RawRecvError::Failed(e)) => Some(Err(udp_error(e))),
        Err(_) => Some(Err(not_connected())),
    }
}

fn send_error(e: RawSendError) -> io::Error {
    let kind = match e {
        RawSendError::Failed(e) => return udp_error(e),
        RawSendError::WouldBlock => io::ErrorKind::WouldBlock,
        RawSendError::NoDestination | RawSendError::Closed => io::ErrorKind::NotConnected,
        RawSendError::Unreachable => io::ErrorKind::NetworkUnreachable,
        RawSendError::Broadcast => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::InvalidInput,
    };
    io::Error::new(kind, e)
}
