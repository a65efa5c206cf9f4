//! Raw sockets and ICMP echo ("ping") sockets as an application sees them.

use core::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::SocketId;
use super::udp::{BindError, UdpError};
use crate::Stack;
use crate::ip::address::AliasId;
use crate::path::PathLayer;
use crate::time::{Duration, Instant};

/// The family of a raw or ICMP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A packet that a raw socket received a copy of.
#[derive(Clone, Debug)]
pub struct RawPacket {
    /// Sender; port 0, a link-local address carries its scope.
    pub from: SocketAddr,
    /// The address it was sent to.
    pub to: IpAddr,
    /// The alias it came in on.
    pub alias: AliasId,
    /// TTL or hop limit as it arrived.
    pub hop_limit: u8,
    /// DSCP and ECN as they arrived.
    pub traffic_class: u8,
    /// IPv4: the packet with its header. IPv6: what follows its headers (RFC 3542 3). Whole: after
    /// reassembly.
    pub payload: Bytes,
}

/// An answer to an echo request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EchoAnswer {
    /// Who answered: the host asked, or the one that reported an error. `None`: known here.
    pub from: Option<SocketAddr>,
    /// Sequence number of the request.
    pub sequence: u16,
    /// Since the request was sent; `None`: it is not among the last 64.
    pub rtt: Option<Duration>,
    /// TTL or hop limit as the answer arrived; 0 if it is known here or came as an error.
    pub hop_limit: u8,
    /// The payload that came back, or why none will.
    pub result: Result<Bytes, UdpError>,
}

/// Why a raw packet or an echo request was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RawSendError {
    /// No room now; wait for writable.
    #[error("would block")]
    WouldBlock,
    /// No such socket, or one of another kind.
    #[error("socket is closed")]
    Closed,
    /// No destination: not connected and none given.
    #[error("no destination address")]
    NoDestination,
    /// No route, no source address, or a source that is none of the vserver's.
    #[error("network unreachable")]
    Unreachable,
    /// Longer than a packet can be.
    #[error("message too long for one packet")]
    TooLong,
    /// The header given is no IPv4 header without options and fragments.
    #[error("the IPv4 header must have 20 bytes, no options and no fragment offset")]
    HeaderInvalid,
    /// Broadcast is not allowed with raw and ICMP sockets.
    #[error("broadcast is not allowed with raw and ICMP sockets")]
    Broadcast,
    /// An earlier packet failed; this one was not sent. Told once.
    #[error(transparent)]
    Failed(#[from] UdpError),
}

/// Why nothing was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RawRecvError {
    /// Nothing waits.
    #[error("would block")]
    WouldBlock,
    /// No such socket, or one of another kind.
    #[error("socket is closed")]
    Closed,
    /// An earlier packet of a connected socket failed. Told once.
    #[error(transparent)]
    Failed(#[from] UdpError),
}

/// ICMP types that a raw socket of the ICMP protocol does not want (`ICMP_FILTER`, RFC 3542 3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IcmpFilter([u64; 4]);

impl IcmpFilter {
    /// Every type is wanted.
    pub const PASS_ALL: IcmpFilter = IcmpFilter([0; 4]);
    /// None is.
    pub const BLOCK_ALL: IcmpFilter = IcmpFilter([u64::MAX; 4]);

    /// The same, with a type wanted.
    #[must_use]
    pub const fn pass(mut self, kind: u8) -> IcmpFilter {
        self.0[kind as usize / 64] &= !(1 << (kind % 64));
        self
    }

    /// The same, with a type not wanted.
    #[must_use]
    pub const fn block(mut self, kind: u8) -> IcmpFilter {
        self.0[kind as usize / 64] |= 1 << (kind % 64);
        self
    }

    /// Whether a type is wanted.
    pub const fn passes(self, kind: u8) -> bool {
        self.0[kind as usize / 64] & 1 << (kind % 64) == 0
    }
}

/// An option of a raw or ICMP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RawOption {
    /// What is sent begins with an IPv4 header. Its destination, TTL, traffic class and protocol
    /// are taken; a source of 0 is filled in, another has to be the vserver's; lengths, checksum,
    /// identification and flags are the stack's.
    HeaderIncluded(bool),
    /// Where an IPv6 packet has a checksum over the pseudo header to be filled in (RFC 3542 3.1);
    /// even. ICMPv6 has it at 2, always.
    ChecksumOffset(Option<u16>),
    /// ICMP types not wanted.
    Filter(IcmpFilter),
    /// Bytes that may wait unread, overhead included; not above the vserver's `raw_recv_bytes`.
    RecvBuffer(usize),
    /// TTL or hop limit; `None`: the default, 64, of multicast 1.
    HopLimit(Option<u8>),
    /// DSCP and ECN of what is sent.
    TrafficClass(u8),
}

impl<P: PathLayer> Stack<P> {
    /// Opens a raw socket: it gets a copy of every packet of that protocol which is for this
    /// vserver, and sends such packets. [`BindError::NotAllowed`] if `Limits::raw_sockets` is 0.
    pub fn raw_open(
        &mut self,
        now: Instant,
        family: Family,
        protocol: u8,
    ) -> Result<SocketId, BindError> {
        let (mut lower, transports) = self.parts_all(now);
        transports.raw.open_raw(&mut lower, family, protocol)
    }

    /// Opens a socket for ICMP echo requests and their answers, with an identifier of its own.
    /// [`BindError::NotAllowed`] if `Limits::icmp_sockets` is 0.
    pub fn icmp_open(&mut self, now: Instant, family: Family) -> Result<SocketId, BindError> {
        let (mut lower, transports) = self.parts_all(now);
        transports.raw.open_icmp(&mut lower, family)
    }

    /// Takes packets to this address of the vserver only, and sends from it.
    pub fn raw_bind(&mut self, now: Instant, id: SocketId, local: IpAddr) -> Result<(), BindError> {
        let (mut lower, transports) = self.parts_all(now);
        transports.raw.bind(&mut lower, id, local)
    }

    /// Takes packets from this host only, sends to it, and learns of ICMP errors. Ports mean
    /// nothing; the scope id of a link-local address is the alias number plus one.
    pub fn raw_connect(
        &mut self,
        now: Instant,
        id: SocketId,
        peer: SocketAddr,
    ) -> Result<(), RawSendError> {
        let (mut lower, transports) = self.parts_all(now);
        transports.raw.connect(&mut lower, id, peer)
    }

    /// Sends one packet; `to` is `None` on a connected socket or with a header of its own.
    pub fn raw_send(
        &mut self,
        now: Instant,
        id: SocketId,
        payload: &[u8],
        to: Option<SocketAddr>,
    ) -> Result<(), RawSendError> {
        let (mut lower, transports) = self.parts_all(now);
        transports.raw.send(&mut lower, id, payload, to)
    }

    /// Takes the oldest packet.
    pub fn raw_recv(&mut self, id: SocketId) -> Result<RawPacket, RawRecvError> {
        self.raw.recv(id)
    }

    /// Sends an echo request; `to` is `None` on a connected socket.
    pub fn icmp_send_echo(
        &mut self,
        now: Instant,
        id: SocketId,
        sequence: u16,
        payload: &[u8],
        to: Option<SocketAddr>,
    ) -> Result<(), RawSendError> {
        let (mut lower, transports) = self.parts_all(now);
        transports.raw.send_echo(&mut lower, id, sequence, payload, to)
    }

    /// Takes the oldest answer, or error, to an echo request.
    pub fn icmp_recv(&mut self, id: SocketId) -> Result<EchoAnswer, RawRecvError> {
        self.raw.recv_echo(id)
    }

    /// Sets an option; `false` for a stale handle, or one that the socket does not have.
    pub fn raw_set_option(&mut self, id: SocketId, option: RawOption) -> bool {
        let limit = self.limits.raw_recv_bytes;
        self.raw.set_option(id, option, limit)
    }

    /// The local address; the port is the protocol, of an ICMP socket the identifier.
    pub fn raw_local(&self, id: SocketId) -> Option<SocketAddr> {
        self.raw.local(id)
    }

    /// Closes a raw or ICMP socket; what was not read is lost.
    pub fn raw_close(&mut self, id: SocketId) {
        let now = self.now();
        let (mut lower, transports) = self.parts_all(now);
        transports.raw.close(&mut lower, id);
    }
}
