//! UDP as an application sees it.

use core::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::SocketId;
use crate::Stack;
use crate::ip::address::AliasId;
use crate::path::PathLayer;
use crate::time::Instant;
use crate::transport::udp::Payload;

/// The most payload that one datagram can have: what fits an IPv4 packet. IPv6 would take 20 bytes
/// more, which nobody can count on.
pub const UDP_PAYLOAD_BYTES_MAX: usize = 65_507;
/// The most datagrams that one [`Stack::udp_send_segments`] makes, as Linux has it.
pub const UDP_SEGMENTS_MAX: usize = 128;

/// Why a bind or a join failed.
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
    /// The vserver may not have sockets of this kind: its limit is 0.
    #[error("sockets of this kind are not allowed on this vserver; raise their limit")]
    NotAllowed,
}

/// What became of an earlier datagram, told by ICMP or known here (RFC 1122 4.1.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UdpError {
    /// No socket is bound to the port.
    #[error("connection refused")]
    Refused,
    /// No way to the network.
    #[error("network unreachable")]
    NetUnreachable,
    /// The host does not answer its neighbours.
    #[error("host unreachable")]
    HostUnreachable,
    /// The host does not speak UDP.
    #[error("protocol unreachable")]
    ProtocolUnreachable,
    /// A filter on the way.
    #[error("administratively prohibited")]
    Prohibited,
    /// Longer than the path takes, and not to be fragmented.
    #[error("message longer than the path MTU of {mtu} bytes")]
    TooBig {
        /// Largest IP packet, headers included.
        mtu: usize,
    },
    /// The hop limit ran out, or fragments were missing.
    #[error("time exceeded on the way")]
    TimeExceeded,
    /// A host or router did not understand the header.
    #[error("parameter problem")]
    ParameterProblem,
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
    /// Longer than a datagram can be.
    #[error("message too long: a datagram has at most 65,507 bytes")]
    TooLong,
    /// Longer than the path takes, and the socket does not fragment.
    #[error("message longer than the path MTU of {mtu} bytes, and the socket does not fragment")]
    TooBig {
        /// Largest IP packet, headers included.
        mtu: usize,
    },
    /// A segment size of 0, or more than [`UDP_SEGMENTS_MAX`] segments.
    #[error("segments must have 1 byte or more, and be 128 at most")]
    SegmentSize,
    /// The destination is a broadcast address and the socket may not send there.
    #[error("broadcast is not allowed on this socket; set the Broadcast option")]
    Broadcast,
    /// Another socket of the same address and port is connected to that peer.
    #[error("another socket is connected to that peer from the same address and port")]
    InUse,
    /// An earlier datagram failed; this one was not sent. Told once.
    #[error(transparent)]
    Failed(#[from] UdpError),
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
    /// An earlier datagram failed. Told once.
    #[error(transparent)]
    Failed(#[from] UdpError),
}

/// One received datagram, or several of one sender if the socket keeps segments together.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// Sender.
    pub from: SocketAddr,
    /// The local address it was sent to.
    pub to: IpAddr,
    /// The alias it came in on.
    pub alias: AliasId,
    /// TTL or hop limit as it arrived.
    pub hop_limit: u8,
    /// DSCP and ECN as they arrived.
    pub traffic_class: u8,
    /// The payload holds datagrams of this many bytes each, the last one may be shorter. `None`:
    /// it is one datagram. Only with [`UdpOption::KeepSegments`].
    pub segment_bytes: Option<usize>,
    /// The payload, owned, no copy.
    pub payload: Bytes,
}

/// An entry of the error queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpErrorReport {
    /// What went wrong.
    pub error: UdpError,
    /// Where the datagram was to go.
    pub to: SocketAddr,
    /// The host or router that told; `None`: known here.
    pub origin: Option<IpAddr>,
    /// As much of its payload as came back.
    pub payload: Bytes,
}

/// How a socket is bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpBind {
    /// Share address and port with other sockets that say so too: datagrams of one sender go to
    /// one of them, those to a group or broadcast to all.
    pub reuse_port: bool,
    /// `::` does not take IPv4.
    pub only_v6: bool,
}

/// Where and how one datagram is sent; what is `None` is as the socket's options say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpSend {
    /// Destination; `None` on a connected socket.
    pub to: Option<SocketAddr>,
    /// Source address, one of the vserver's.
    pub from: Option<IpAddr>,
    /// Leave by this alias.
    pub alias: Option<AliasId>,
    /// TTL or hop limit.
    pub hop_limit: Option<u8>,
    /// DSCP and ECN.
    pub traffic_class: Option<u8>,
    /// Cut the payload into datagrams of this many bytes, the last one may be shorter.
    pub segment_bytes: Option<usize>,
}

/// An option of a UDP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UdpOption {
    /// May send to broadcast addresses. Off at first.
    Broadcast(bool),
    /// Bytes that may wait unread, overhead included; not above the vserver's `udp_recv_bytes`.
    RecvBuffer(usize),
    /// TTL or hop limit of unicast; `None`: the link's, 64 if it says nothing.
    HopLimit(Option<u8>),
    /// TTL or hop limit of multicast. 1 at first.
    MulticastHopLimit(u8),
    /// Sockets of this vserver get what this one sends to their groups. On at first.
    MulticastLoop(bool),
    /// The alias that multicast leaves by; `None`: as routes say.
    MulticastAlias(Option<AliasId>),
    /// DSCP and ECN of what is sent.
    TrafficClass(u8),
    /// Refuse what exceeds the path MTU ([`UdpSendError::TooBig`]) in place of fragmenting it
    /// (RFC 8085 3.2). Off at first.
    DontFragment(bool),
    /// Every ICMP error becomes pending, on an unconnected socket too, and goes to the error queue.
    ErrorQueue(bool),
    /// Datagrams of one sender that the device merged come in one piece, with
    /// [`Datagram::segment_bytes`].
    KeepSegments(bool),
    /// What policy routing rules look at (`SO_MARK`). 0 at first.
    Mark(u32),
}

/// Which senders a membership takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceFilter {
    /// All but these.
    Exclude(Vec<IpAddr>),
    /// These only.
    Include(Vec<IpAddr>),
}

impl<P: PathLayer> Stack<P> {
    /// Binds a UDP socket. An unspecified address takes datagrams to every address of the vserver
    /// (`::` takes IPv4 too); port 0 picks a free one.
    pub fn udp_bind(&mut self, now: Instant, local: SocketAddr) -> Result<SocketId, BindError> {
        self.udp_bind_with(now, local, UdpBind::default())
    }

    /// Binds a UDP socket that may share its port, or take IPv6 only.
    pub fn udp_bind_with(
        &mut self,
        now: Instant,
        local: SocketAddr,
        how: UdpBind,
    ) -> Result<SocketId, BindError> {
        let (mut lower, _, udp) = self.parts(now);
        udp.bind(&mut lower, local, how)
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

    /// Takes the peer back: everybody's datagrams are delivered again.
    pub fn udp_disconnect(&mut self, id: SocketId) {
        self.udp.disconnect(id);
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
        self.udp_send_with(now, id, payload, &UdpSend { to, ..UdpSend::default() })
    }

    /// Sends one datagram, or several, with more to say about how.
    pub fn udp_send_with(
        &mut self,
        now: Instant,
        id: SocketId,
        payload: &[u8],
        how: &UdpSend,
    ) -> Result<(), UdpSendError> {
        let (mut lower, _, udp) = self.parts(now);
        udp.send(&mut lower, id, Payload::Borrowed(payload), how)
    }

    /// As [`Stack::udp_send_with`], from where the bytes lie: pool memory ([`Stack::alloc`]) is not
    /// copied on its way down if the device can gather, other memory once at most. Up to 256 bytes
    /// are copied behind the header.
    pub fn udp_send_bytes(
        &mut self,
        now: Instant,
        id: SocketId,
        payload: &Bytes,
        how: &UdpSend,
    ) -> Result<(), UdpSendError> {
        let (mut lower, _, udp) = self.parts(now);
        udp.send(&mut lower, id, Payload::Shared(payload), how)
    }

    /// Sends `payload` as datagrams of `segment_bytes` each, the last one may be shorter: at most
    /// [`UDP_SEGMENTS_MAX`] and [`UDP_PAYLOAD_BYTES_MAX`] bytes in all, each within the path MTU.
    /// All are sent or none. A device that takes super-segments gets them in one.
    pub fn udp_send_segments(
        &mut self,
        now: Instant,
        id: SocketId,
        payload: &[u8],
        segment_bytes: usize,
        to: Option<SocketAddr>,
    ) -> Result<(), UdpSendError> {
        let segment_bytes = Some(segment_bytes);
        self.udp_send_with(now, id, payload, &UdpSend { to, segment_bytes, ..UdpSend::default() })
    }

    /// Takes the oldest datagram.
    pub fn udp_recv(&mut self, id: SocketId) -> Result<Datagram, UdpRecvError> {
        self.udp.recv(id)
    }

    /// Copies the oldest datagram into `buf` and gives it up: how many of its bytes fitted, and the
    /// sender.
    pub fn udp_recv_to(
        &mut self,
        id: SocketId,
        buf: &mut [u8],
    ) -> Result<(usize, SocketAddr), UdpRecvError> {
        let (lower, _, udp) = self.parts(Instant::default());
        let datagram = udp.recv(id)?;
        let len = datagram.payload.len().min(buf.len());
        buf[..len].copy_from_slice(&datagram.payload[..len]);
        lower.ctx.mib.udp.in_copied_octets += len as u64;
        Ok((len, datagram.from))
    }

    /// Takes the pending error.
    pub fn udp_take_error(&mut self, id: SocketId) -> Option<UdpError> {
        self.udp.take_error(id)
    }

    /// Takes the oldest entry of the error queue ([`UdpOption::ErrorQueue`]). The queue is bounded;
    /// what did not fit is counted.
    pub fn udp_recv_error(&mut self, id: SocketId) -> Option<UdpErrorReport> {
        self.udp.recv_error(id)
    }

    /// Sets an option; `false` for a stale handle.
    pub fn udp_set_option(&mut self, id: SocketId, option: UdpOption) -> bool {
        let limit = self.limits.udp_recv_bytes;
        self.udp.set_option(id, option, limit)
    }

    /// The bound address.
    pub fn udp_local(&self, id: SocketId) -> Option<SocketAddr> {
        self.udp.local(id)
    }

    /// The peer of a connected socket.
    pub fn udp_peer(&self, id: SocketId) -> Option<SocketAddr> {
        self.udp.peer(id)
    }

    /// Payload of a datagram that needs no fragments to the connected peer; `None` if there is no
    /// peer or no way to it.
    pub fn udp_payload_max(&mut self, now: Instant, id: SocketId) -> Option<usize> {
        let (mut lower, _, udp) = self.parts(now);
        udp.payload_max(&mut lower, id)
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
        self.udp_set_sources(now, id, alias, group, SourceFilter::Exclude(Vec::new()))
    }

    /// Joins a group for what some senders send, or all but some (RFC 3376, RFC 3810), or replaces
    /// the senders of a membership; `Include` of nobody leaves. At most 64 senders.
    pub fn udp_set_sources(
        &mut self,
        now: Instant,
        id: SocketId,
        alias: AliasId,
        group: IpAddr,
        sources: SourceFilter,
    ) -> Result<(), BindError> {
        let (mut lower, _, udp) = self.parts(now);
        udp.set_sources(&mut lower, id, (alias, group), sources)
    }

    /// Leaves a group joined before.
    pub fn udp_leave(&mut self, now: Instant, id: SocketId, alias: AliasId, group: IpAddr) {
        let (mut lower, _, udp) = self.parts(now);
        udp.leave(&mut lower, id, alias, group);
    }
}
