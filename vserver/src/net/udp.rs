//! UDP sockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mio::{Interest, Registry, Token};
use weft_stack::ip::address::AliasId;
use weft_stack::socket::udp::Datagram;

use super::poller::{Pollable, sealed::Sealed};
use super::tcp::source_stub;
use crate::Vserver;

/// A UDP socket of a vserver.
#[derive(Debug)]
pub struct UdpSocket {}

impl UdpSocket {
    /// Binds. An unspecified address takes datagrams to every address of the vserver (`[::]` takes
    /// IPv4 too); port 0 picks a free one.
    pub fn bind(vserver: &Vserver, addr: SocketAddr) -> io::Result<UdpSocket> {
        let _ = (vserver, addr);
        todo!()
    }

    /// Sends one datagram.
    pub fn send_to(&self, buf: &[u8], to: SocketAddr) -> io::Result<usize> {
        let _ = (buf, to);
        todo!()
    }

    /// Receives one datagram; what does not fit into `buf` is cut off.
    pub fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let _ = buf;
        todo!()
    }

    /// Receives one datagram without copying, with the local address it was sent to.
    pub fn recv_datagram(&self) -> io::Result<Datagram> {
        todo!()
    }

    /// Fixes the peer: only its datagrams are received, ICMP errors come as `ConnectionRefused`.
    pub fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        let _ = peer;
        todo!()
    }

    /// Sends to the connected peer.
    pub fn send(&self, buf: &[u8]) -> io::Result<usize> {
        let _ = buf;
        todo!()
    }

    /// Receives from the connected peer.
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        let _ = buf;
        todo!()
    }

    /// Joins a multicast group on an alias ([`Vserver::alias`]).
    pub fn join_multicast(&self, alias: AliasId, group: IpAddr) -> io::Result<()> {
        let _ = (alias, group);
        todo!()
    }

    /// Leaves a group.
    pub fn leave_multicast(&self, alias: AliasId, group: IpAddr) -> io::Result<()> {
        let _ = (alias, group);
        todo!()
    }

    /// The bound address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        todo!()
    }

    /// Switches blocking off or on.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        let _ = nonblocking;
        todo!()
    }

    /// How long a blocking receive waits; then `WouldBlock`. `None`: for ever.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        let _ = timeout;
        todo!()
    }
}

source_stub!(UdpSocket);
