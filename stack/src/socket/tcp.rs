//! TCP as an application sees it.

use core::net::SocketAddr;
use core::time::Duration;

use bytes::Bytes;

use super::{Readiness, SocketId, SocketKind};
use crate::Stack;
use crate::ip::address::AliasId;
use crate::path::PathLayer;
use crate::time::Instant;

/// Why a listen failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Another listener holds the address and port.
    #[error("address in use")]
    InUse,
    /// The address is none of the vserver's.
    #[error("address not available on this vserver")]
    NotAvailable,
    /// The vserver's listener limit is reached.
    #[error("too many listeners on this vserver")]
    TooMany,
}

/// Why a connect could not start. A refusal by the peer comes later, as [`TcpError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No route, or no source address of the family.
    #[error("network unreachable")]
    Unreachable,
    /// The local address is none of the vserver's.
    #[error("address not available on this vserver")]
    NotAvailable,
    /// The four-tuple is in use, or no ephemeral port is free.
    #[error("address in use")]
    InUse,
    /// The vserver's connection limit is reached.
    #[error("too many connections on this vserver")]
    TooMany,
    /// The remote address can never be a TCP peer (unspecified, multicast, port 0).
    #[error("invalid remote address")]
    InvalidRemote,
}

/// Why a connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TcpError {
    /// RST in answer to our SYN.
    #[error("connection refused")]
    Refused,
    /// RST later on.
    #[error("connection reset by peer")]
    Reset,
    /// The peer did not answer: retransmissions, keepalives or the user timeout ran out.
    #[error("connection timed out")]
    TimedOut,
    /// ICMP said the host or net cannot be reached while connecting.
    #[error("host unreachable")]
    HostUnreachable,
    /// The application aborted it, or the vserver was removed.
    #[error("connection aborted")]
    Aborted,
}

/// Why nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TcpSendError {
    /// The send buffer is full (or the handshake is not done); wait for writable.
    #[error("would block")]
    WouldBlock,
    /// Our side was shut down, or the handle is stale.
    #[error("broken pipe")]
    Closed,
    /// The connection failed.
    #[error(transparent)]
    Failed(#[from] TcpError),
}

/// Why nothing was received. The end of the stream is `Ok(0)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TcpRecvError {
    /// Nothing waits; wait for readable.
    #[error("would block")]
    WouldBlock,
    /// The handle is stale.
    #[error("socket is closed")]
    Closed,
    /// The connection failed.
    #[error(transparent)]
    Failed(#[from] TcpError),
}

/// An accepted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its handle.
    pub id: SocketId,
    /// The address and port the peer connected to.
    pub local: SocketAddr,
    /// The peer.
    pub peer: SocketAddr,
    /// The alias the handshake came in on.
    pub alias: AliasId,
}

/// Which half to shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownHow {
    /// Discard what arrives from now on.
    Read,
    /// Send FIN after what is buffered.
    Write,
    /// Both.
    Both,
}

/// An option of a connection or listener (a listener passes its options on).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TcpOption {
    /// Send small segments at once (Nagle off).
    NoDelay(bool),
    /// Probe an idle peer: idle time and interval (at least a millisecond), count (at least one).
    /// `None` switches it off.
    KeepAlive(Option<(Duration, Duration, u32)>),
    /// Send buffer limit in bytes, 2 KiB to 1 GiB.
    SendBuffer(usize),
    /// Receive buffer limit in bytes.
    RecvBuffer(usize),
    /// Give up after unacknowledged data has been outstanding this long. `None` or zero: never.
    UserTimeout(Option<Duration>),
}

/// RFC 9293 3.3.2 states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum TcpState {
    Listen,
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
    Closed,
}

impl TcpState {
    /// As `ss` writes it.
    pub const fn name(self) -> &'static str {
        match self {
            TcpState::Listen => "LISTEN",
            TcpState::SynSent => "SYN-SENT",
            TcpState::SynReceived => "SYN-RECV",
            TcpState::Established => "ESTAB",
            TcpState::FinWait1 => "FIN-WAIT-1",
            TcpState::FinWait2 => "FIN-WAIT-2",
            TcpState::CloseWait => "CLOSE-WAIT",
            TcpState::Closing => "CLOSING",
            TcpState::LastAck => "LAST-ACK",
            TcpState::TimeWait => "TIME-WAIT",
            TcpState::Closed => "CLOSED",
        }
    }
}

/// A connection's inner state, for dumps and tests. Sizes are bytes.
#[derive(Clone, Copy, Debug)]
pub struct TcpInfo {
    /// RFC 9293 state.
    pub state: TcpState,
    /// Smoothed round-trip time; zero before the first sample.
    pub rtt: Duration,
    /// Its variation.
    pub rtt_var: Duration,
    /// Retransmission timeout, backed off.
    pub rto: Duration,
    /// Timeouts since the last round-trip sample.
    pub backoff: u32,
    /// Payload of a full segment.
    pub mss: usize,
    /// Congestion window.
    pub cwnd: usize,
    /// Slow start threshold; `usize::MAX` before the first loss.
    pub ssthresh: usize,
    /// Window the peer offers.
    pub send_window: usize,
    /// Window offered to the peer.
    pub recv_window: usize,
    /// Sent and not acknowledged.
    pub in_flight: usize,
    /// Written and not sent.
    pub unsent: usize,
    /// Received and not read.
    pub unread: usize,
    /// Received behind a hole.
    pub out_of_order: usize,
    /// Segments sent again.
    pub retransmits: u64,
    /// Payload acknowledged by the peer.
    pub bytes_acked: u64,
    /// Payload received in order.
    pub bytes_received: u64,
    /// RFC 7323 timestamps are in use.
    pub timestamps: bool,
    /// SACK is in use.
    pub sack: bool,
}

impl<P: PathLayer> Stack<P> {
    /// Listens. An unspecified address takes connections to every address of the vserver (`::`
    /// takes IPv4 too); port 0 picks a free one. `backlog` bounds the accept queue.
    pub fn tcp_listen(
        &mut self,
        now: Instant,
        local: SocketAddr,
        backlog: usize,
    ) -> Result<SocketId, ListenError> {
        let (mut lower, tcp, _) = self.parts(now);
        tcp.listen(&mut lower, local, backlog)
    }

    /// Takes the oldest established connection; `None`: none waits. A stale handle gives `None`.
    pub fn tcp_accept(&mut self, listener: SocketId) -> Option<Accepted> {
        self.tcp.accept(listener)
    }

    /// Starts a connection. Writable (or an error) follows as an event.
    pub fn tcp_connect(
        &mut self,
        now: Instant,
        local: Option<SocketAddr>,
        remote: SocketAddr,
    ) -> Result<SocketId, ConnectError> {
        let (mut lower, tcp, _) = self.parts(now);
        tcp.connect(&mut lower, local, remote)
    }

    /// Copies bytes into the send buffer; returns how many fitted (at least one, unless `data` is
    /// empty).
    pub fn tcp_send(
        &mut self,
        now: Instant,
        id: SocketId,
        data: &[u8],
    ) -> Result<usize, TcpSendError> {
        let (mut lower, tcp, _) = self.parts(now);
        tcp.with_connection(&mut lower, id, |c, cx| c.write(cx, data))
            .unwrap_or(Err(TcpSendError::Closed))
    }

    /// Queues shared bytes without copying; takes what fits off the front of `data`. Pieces below
    /// 2 KiB are copied all the same.
    pub fn tcp_send_bytes(
        &mut self,
        now: Instant,
        id: SocketId,
        data: &mut Bytes,
    ) -> Result<usize, TcpSendError> {
        let (mut lower, tcp, _) = self.parts(now);
        tcp.with_connection(&mut lower, id, |c, cx| c.write_bytes(cx, data))
            .unwrap_or(Err(TcpSendError::Closed))
    }

    /// Copies received bytes out; `Ok(0)` is the end of the stream.
    pub fn tcp_recv(
        &mut self,
        now: Instant,
        id: SocketId,
        out: &mut [u8],
    ) -> Result<usize, TcpRecvError> {
        let (mut lower, tcp, _) = self.parts(now);
        tcp.with_connection(&mut lower, id, |c, cx| c.read(cx, out))
            .unwrap_or(Err(TcpRecvError::Closed))
    }

    /// Takes the next received bytes without copying, at most `max`; empty is the end of the
    /// stream. What the caller keeps counts against the receive buffer; beyond it come copies.
    pub fn tcp_recv_bytes(
        &mut self,
        now: Instant,
        id: SocketId,
        max: usize,
    ) -> Result<Bytes, TcpRecvError> {
        let (mut lower, tcp, _) = self.parts(now);
        tcp.with_connection(&mut lower, id, |c, cx| c.read_bytes(cx, max))
            .unwrap_or(Err(TcpRecvError::Closed))
    }

    /// Shuts a half down.
    pub fn tcp_shutdown(&mut self, now: Instant, id: SocketId, how: ShutdownHow) {
        let (mut lower, tcp, _) = self.parts(now);
        tcp.with_connection(&mut lower, id, |c, cx| c.shut_down(cx, how));
    }

    /// Gives the handle up. What is buffered is still sent and acknowledged in the background;
    /// unread data makes it a reset (RFC 2525 2.17). A listener's pending connections are reset.
    pub fn tcp_close(&mut self, now: Instant, id: SocketId) {
        let (mut lower, tcp, _) = self.parts(now);
        tcp.close(&mut lower, id);
    }

    /// Resets the connection and gives the handle up.
    pub fn tcp_abort(&mut self, now: Instant, id: SocketId) {
        let (mut lower, tcp, _) = self.parts(now);
        tcp.abort(&mut lower, id);
    }

    /// Sets an option; `false` for a stale handle.
    pub fn tcp_set_option(&mut self, now: Instant, id: SocketId, option: TcpOption) -> bool {
        let (mut lower, tcp, _) = self.parts(now);
        tcp.set_option(&mut lower, id, option)
    }

    /// The state; `Closed` for a stale handle.
    pub fn tcp_state(&self, id: SocketId) -> TcpState {
        self.tcp.state(id)
    }

    /// Local and peer address.
    pub fn tcp_addrs(&self, id: SocketId) -> Option<(SocketAddr, SocketAddr)> {
        self.tcp.addrs(id)
    }

    /// Takes the pending error.
    pub fn tcp_take_error(&mut self, id: SocketId) -> Option<TcpError> {
        self.tcp.take_error(id)
    }

    /// A connection's inner state; `None` for a stale handle or a listener.
    pub fn tcp_info(&self, id: SocketId) -> Option<TcpInfo> {
        self.tcp.connection(id).map(crate::transport::tcp::Connection::info)
    }

    /// What the socket (of any kind) is ready for now.
    pub fn readiness(&self, id: SocketId) -> Readiness {
        match id.kind {
            SocketKind::TcpListener | SocketKind::TcpStream => self.tcp.readiness(id),
            SocketKind::Udp => self.udp.readiness(id, self.has_out_room()),
        }
    }
}
