//! TCP as an application sees it.

use core::net::SocketAddr;
use core::time::Duration;

use bytes::Bytes;

use super::{Readiness, SocketId, SocketKind};
use crate::Stack;
use crate::ip::address::AliasId;
use crate::path::PathLayer;
use crate::time::Instant;
use crate::transport::tcp::{SHARE_BYTES_MIN, SHARE_POOL_BYTES_MIN};

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
    /// With this local port the connection would be another worker's.
    #[error("with this local port the connection belongs to another worker; connect there")]
    OtherShard,
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
    /// Send small segments at once (Nagle off). Switching it on also sends what [`TcpOption::Cork`]
    /// holds back.
    NoDelay(bool),
    /// Send full segments only. What is short of one goes out when this is switched off, when our
    /// side is shut down, or after 200 ms.
    Cork(bool),
    /// Acknowledge every segment at once, until switched off.
    QuickAck(bool),
    /// Probe an idle peer: idle time and interval (at least a millisecond), count (at least one).
    /// `None` switches it off.
    KeepAlive(Option<(Duration, Duration, u32)>),
    /// Send buffer limit in bytes, 2 KiB to 1 GiB; it is not tuned any more.
    SendBuffer(usize),
    /// Receive buffer limit in bytes, 2 KiB to 1 GiB; it is not tuned any more. The window scale
    /// can follow it only if it is set before the handshake (on the listener, or before the first
    /// [`crate::Stack::poll_transmit`] after a connect).
    RecvBuffer(usize),
    /// Give up after unacknowledged data has been outstanding this long. `None` or zero: never.
    UserTimeout(Option<Duration>),
    /// What a close does: `None` delivers in the background for as long as that takes; a time ends
    /// it with a reset if the peer has not acknowledged everything by then; zero resets at once.
    Linger(Option<Duration>),
    /// A listener's: a connection is offered for acceptance when its first data arrives, or when
    /// this time since its SYN has passed, rounded up to the next retransmission of a SYN-ACK (1, 3,
    /// 7, 15, 31 or 63 s). `None` or zero: when its handshake is done.
    DeferAccept(Option<Duration>),
    /// The connection is writable while fewer bytes than this wait to be sent for the first time.
    /// `None`: the send buffer alone decides.
    NotSentLowat(Option<usize>),
    /// Bytes per second that data leaves with at most. `None`: no bound of its own.
    PacingRateMax(Option<u64>),
    /// Largest segment payload, 64 bytes and more: bounds what is sent, and if it is set before
    /// the handshake also what is asked for. `None`: what the path takes.
    MaxSegment(Option<u16>),
    /// A listener's: data that comes with a SYN and a good cookie is delivered at once, on a
    /// connection that is accepted before its handshake is over (RFC 7413). Such a SYN can be
    /// replayed: only for requests that may be served twice.
    FastOpen(bool),
    /// The DiffServ field of segments to come, as it stands in the IP header; its lowest two bits are
    /// not the application's (ECN) and are ignored.
    TrafficClass(u8),
    /// What policy routing rules look at (`SO_MARK`); 0 at first. A listener's is that of its
    /// connections. The source address of a connect was chosen before: give one if it matters.
    Mark(u32),
    /// TTL or hop limit of segments to come, from 1. `None`: the stack's, 64.
    HopLimit(Option<u8>),
    /// The congestion controller; its state starts anew.
    Congestion(CongestionControl),
}

/// Congestion controllers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CongestionControl {
    /// RFC 5681, 6582.
    NewReno,
    /// RFC 9438, with HyStart++ (RFC 9406).
    #[default]
    Cubic,
    /// BBR version 3 (draft-ietf-ccwg-bbr).
    Bbr,
    /// RFC 8257; for networks whose every switch marks.
    Dctcp,
}

impl CongestionControl {
    /// All of them.
    pub const ALL: [CongestionControl; 4] = [
        CongestionControl::NewReno,
        CongestionControl::Cubic,
        CongestionControl::Bbr,
        CongestionControl::Dctcp,
    ];

    /// As the kernel writes it.
    pub const fn name(self) -> &'static str {
        match self {
            CongestionControl::NewReno => "reno",
            CongestionControl::Cubic => "cubic",
            CongestionControl::Bbr => "bbr",
            CongestionControl::Dctcp => "dctcp",
        }
    }
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
    /// The congestion controller.
    pub congestion: CongestionControl,
    /// `open`, `recovery` (fast) or `loss` (after a timeout).
    pub phase: &'static str,
    /// Smoothed round-trip time; zero before the first sample.
    pub rtt: Duration,
    /// Its variation.
    pub rtt_var: Duration,
    /// Smallest round-trip time of the last minutes; zero before the first sample.
    pub rtt_min: Duration,
    /// Retransmission timeout, backed off.
    pub rto: Duration,
    /// Timeouts since the last round-trip sample.
    pub backoff: u32,
    /// Payload of a full segment.
    pub mss: usize,
    /// Largest IP packet to the peer.
    pub pmtu: usize,
    /// Estimate of the peer's segment size.
    pub recv_mss: usize,
    /// Window scale of the peer and ours; `None`: not agreed.
    pub window_scale: Option<(u8, u8)>,
    /// Congestion window.
    pub cwnd: usize,
    /// Slow start threshold; `usize::MAX` before the first loss.
    pub ssthresh: usize,
    /// Bytes per second the pacer lets go; `None`: not paced.
    pub pacing_rate: Option<u64>,
    /// Newest delivery rate sample, bytes per second; 0: none yet.
    pub delivery_rate: u64,
    /// That sample was limited by the application.
    pub delivery_rate_app_limited: bool,
    /// Window the peer offers.
    pub send_window: usize,
    /// Window offered to the peer.
    pub recv_window: usize,
    /// Send buffer limit, as tuned.
    pub send_buffer: usize,
    /// Receive buffer limit, as tuned.
    pub recv_buffer: usize,
    /// Sent and not acknowledged.
    pub in_flight: usize,
    /// Of these, reported by SACK.
    pub sacked: usize,
    /// Of these, judged lost and not sent again yet.
    pub lost: usize,
    /// Written and not sent.
    pub unsent: usize,
    /// Received and not read.
    pub unread: usize,
    /// Received behind a hole.
    pub out_of_order: usize,
    /// Segments sent again, by cause.
    pub retransmits: Retransmits,
    /// Duplicates that the peer reported (DSACK).
    pub dsacks: u64,
    /// Recoveries found spurious and taken back.
    pub undos: u64,
    /// Times reordering was seen.
    pub reordering_seen: u64,
    /// Segments sent, retransmissions included.
    pub segments_sent: u64,
    /// Segments received.
    pub segments_received: u64,
    /// Payload sent, retransmissions included.
    pub bytes_sent: u64,
    /// Payload sent again.
    pub bytes_retransmitted: u64,
    /// Payload acknowledged by the peer.
    pub bytes_acked: u64,
    /// Payload received in order.
    pub bytes_received: u64,
    /// Payload delivered under a CE mark, as the peer reports it.
    pub bytes_ce: u64,
    /// Time with data in flight or to send.
    pub busy: Duration,
    /// Of that, held back by the peer's window.
    pub rwnd_limited: Duration,
    /// Of that, held back by the send buffer.
    pub sndbuf_limited: Duration,
    /// Since the last segment with data left; zero: none yet.
    pub last_sent: Duration,
    /// Since the last segment arrived.
    pub last_received: Duration,
    /// RFC 7323 timestamps are in use.
    pub timestamps: bool,
    /// SACK is in use.
    pub sack: bool,
    /// How congestion marks are reported.
    pub ecn: EcnState,
    /// Data went with the SYN and was taken (RFC 7413).
    pub fast_open: bool,
}

/// Segments sent again, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retransmits {
    /// Loss shown by acknowledgements: SACK, RACK, duplicates.
    pub fast: u64,
    /// Tail loss probes (RFC 8985 section 7).
    pub tail_probe: u64,
    /// After a retransmission timeout.
    pub timeout: u64,
    /// SYN and SYN-ACK.
    pub handshake: u64,
    /// Cut anew for a smaller path MTU.
    pub path_mtu: u64,
}

impl Retransmits {
    /// All.
    pub fn total(&self) -> u64 {
        self.fast + self.tail_probe + self.timeout + self.handshake + self.path_mtu
    }
}

/// What was agreed about explicit congestion notification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EcnState {
    /// Not in use.
    #[default]
    Off,
    /// RFC 3168.
    Classic,
    /// Accurate ECN (RFC 9768).
    Accurate,
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
        tcp.connect(&mut lower, local, remote, None).map(|(id, _)| id)
    }

    /// Of the listener at an address: connections that wait to be accepted, and the backlog.
    pub fn tcp_listener_queue(&self, local: SocketAddr) -> Option<(usize, usize)> {
        self.tcp.listener_queue(local)
    }

    /// Starts a connection and queues `data` as the first to be sent; returns how many bytes fitted
    /// the send buffer. With [`TcpConfig::fast_open`](crate::stack::TcpConfig::fast_open) they go
    /// with the SYN where the peer gave a cookie before (RFC 7413): the peer's application may then
    /// see them twice. Otherwise they follow the handshake. Without `data` only a cookie is asked for.
    pub fn tcp_connect_with(
        &mut self,
        now: Instant,
        local: Option<SocketAddr>,
        remote: SocketAddr,
        data: &[u8],
    ) -> Result<(SocketId, usize), ConnectError> {
        let (mut lower, tcp, _) = self.parts(now);
        tcp.connect(&mut lower, local, remote, Some(data))
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

    /// As [`Stack::tcp_send`]; more will follow, so that what is short of a full segment waits for
    /// the next call, but no longer than 200 ms.
    pub fn tcp_send_more(
        &mut self,
        now: Instant,
        id: SocketId,
        data: &[u8],
    ) -> Result<usize, TcpSendError> {
        let (mut lower, tcp, _) = self.parts(now);
        tcp.with_connection(&mut lower, id, |c, cx| c.write_more(cx, data))
            .unwrap_or(Err(TcpSendError::Closed))
    }

    /// As [`Stack::tcp_send`]; the end of what was taken is announced as urgent (RFC 9293 3.8.5).
    /// For old protocols only: middleboxes clear the mark, and receivers differ in what they make of
    /// it (RFC 6093).
    pub fn tcp_send_urgent(
        &mut self,
        now: Instant,
        id: SocketId,
        data: &[u8],
    ) -> Result<usize, TcpSendError> {
        let (mut lower, tcp, _) = self.parts(now);
        tcp.with_connection(&mut lower, id, |c, cx| c.write_urgent(cx, data))
            .unwrap_or(Err(TcpSendError::Closed))
    }

    /// Bytes to read before the end of the peer's urgent data; `None`: none is announced, or it was
    /// read. The data itself stays in the stream, as RFC 6093 says, and reads do not stop there.
    /// Announcements show as [`Readiness::PRIORITY`].
    pub fn tcp_urgent(&self, id: SocketId) -> Option<usize> {
        self.tcp.connection(id)?.urgent_left()
    }

    /// Queues shared bytes without copying; takes what fits off the front of `data`. Pieces below
    /// 2 KiB (of [`Stack::alloc`]'s memory: 512 bytes) are copied all the same: each would be a
    /// piece of its own down to the device, which costs more.
    pub fn tcp_send_bytes(
        &mut self,
        now: Instant,
        id: SocketId,
        data: &mut Bytes,
    ) -> Result<usize, TcpSendError> {
        let share_min =
            if self.is_pool_memory(data) { SHARE_POOL_BYTES_MIN } else { SHARE_BYTES_MIN };
        let (mut lower, tcp, _) = self.parts(now);
        tcp.with_connection(&mut lower, id, |c, cx| c.write_bytes(cx, data, share_min))
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

    /// Shows the next received bytes where they are, at most `max`, piece by piece and in order,
    /// and gives them up: neither copied nor lent, so nothing is allocated. Returns how many there
    /// were; `Ok(0)` is the end of the stream.
    pub fn tcp_recv_in_place(
        &mut self,
        now: Instant,
        id: SocketId,
        max: usize,
        look: impl FnMut(&[u8]),
    ) -> Result<usize, TcpRecvError> {
        let (mut lower, tcp, _) = self.parts(now);
        tcp.with_connection(&mut lower, id, |c, cx| c.read_in_place(cx, max, look))
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

    /// Two connections trade handles: each handle means the other one from now on, and an event says
    /// what that is ready for. Options stay with the handle. For whoever tries several ways and has
    /// given one handle away.
    /// `false`, and nothing changed: a handle is stale, or not of a connection.
    pub fn tcp_exchange(&mut self, now: Instant, a: SocketId, b: SocketId) -> bool {
        let (mut lower, tcp, _) = self.parts(now);
        tcp.exchange(&mut lower, a, b)
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

    /// What went wrong, whether or not that was told.
    pub fn tcp_error(&self, id: SocketId) -> Option<TcpError> {
        self.tcp.connection(id)?.error
    }

    /// A connection's inner state; `None` for a stale handle or a listener.
    pub fn tcp_info(&self, now: Instant, id: SocketId) -> Option<TcpInfo> {
        self.tcp.connection(id).map(|c| c.info(now))
    }

    /// What the socket (of any kind) is ready for now.
    pub fn readiness(&self, id: SocketId) -> Readiness {
        match id.kind {
            SocketKind::TcpListener | SocketKind::TcpStream => self.tcp.readiness(id),
            SocketKind::Udp => self.udp.readiness(id, self.has_out_room()),
            SocketKind::Raw | SocketKind::Icmp => self.raw.readiness(id, self.has_out_room()),
        }
    }
}
