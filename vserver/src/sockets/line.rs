//! A socket as plain data, every field with its unit.

use serde::{Deserialize, Serialize};
use weft_stack::socket::tcp::{EcnState, TcpInfo};
use weft_stack::socket::{SocketInfo, SocketKind};
use weft_stack::time::Duration;

/// One socket, in the words of `ss`. Fields are only added.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SocketLine {
    /// Of which vserver.
    pub vserver: String,
    /// `tcp`, `udp`, `raw` or `icmp`.
    pub protocol: String,
    /// `LISTEN`, `ESTAB`, `UNCONN`, ...
    pub state: String,
    /// Bytes not read by the application; of a listener, connections not accepted.
    pub recv_queue: usize,
    /// Bytes not acknowledged; of a listener, its backlog.
    pub send_queue: usize,
    /// Local address.
    pub local: String,
    /// Peer.
    pub peer: String,
    /// The alias its packets use; none: as routes say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Whether an application holds it.
    pub owned: bool,
    /// What it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timer: Option<TimerLine>,
    /// What it holds and may hold.
    pub memory: MemoryLine,
    /// A connection's inner state, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Box<TcpLine>>,
}

/// The timer of a socket that is due first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimerLine {
    /// `on` (retransmission), `keepalive`, `persist` or `timewait`.
    pub kind: String,
    /// Milliseconds left.
    pub left_ms: u64,
    /// Times it has fired in a row without progress.
    pub retries: u32,
}

/// Buffers of a socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryLine {
    /// Held by what was received, with its overhead.
    pub recv_held_bytes: usize,
    /// Receive buffer.
    pub recv_limit_bytes: usize,
    /// Held by what is to be sent or acknowledged.
    pub send_held_bytes: usize,
    /// Send buffer.
    pub send_limit_bytes: usize,
    /// Packets lost because the receive buffer was full.
    pub drops: u64,
}

impl SocketLine {
    /// Of a dump's entry; `vserver` and `alias` by name.
    pub fn new(
        vserver: &str,
        alias: Option<&str>,
        s: &SocketInfo,
        tcp: Option<&TcpInfo>,
    ) -> SocketLine {
        SocketLine {
            vserver: vserver.to_owned(),
            protocol: protocol(s.id.kind).to_owned(),
            state: s.state.to_owned(),
            recv_queue: s.recv_queue,
            send_queue: s.send_queue,
            local: s.local.to_string(),
            peer: s.peer.to_string(),
            alias: alias.map(str::to_owned),
            owned: s.owned,
            timer: s.timer.map(|t| TimerLine {
                kind: t.kind.to_owned(),
                left_ms: t.left.as_millis() as u64,
                retries: t.retries,
            }),
            memory: MemoryLine {
                recv_held_bytes: s.memory.recv_held,
                recv_limit_bytes: s.memory.recv_limit,
                send_held_bytes: s.memory.send_held,
                send_limit_bytes: s.memory.send_limit,
                drops: s.memory.drops,
            },
            tcp: tcp.map(|info| Box::new(TcpLine::from(info))),
        }
    }
}

/// The first column of `ss`.
pub(super) fn protocol(kind: SocketKind) -> &'static str {
    match kind {
        SocketKind::TcpListener | SocketKind::TcpStream => "tcp",
        SocketKind::Udp => "udp",
        SocketKind::Raw => "raw",
        SocketKind::Icmp => "icmp",
    }
}

/// Declares [`TcpLine`], its fields with their units, and how they come from [`TcpInfo`].
macro_rules! tcp_line {
    ($info:ident; $( $(#[doc = $doc:literal])* $field:ident: $type:ty = $value:expr; )*) => {
        /// A connection's inner state: [`TcpInfo`] with units in the names.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct TcpLine { $( $(#[doc = $doc])* pub $field: $type, )* }

        impl From<&TcpInfo> for TcpLine {
            fn from($info: &TcpInfo) -> TcpLine {
                TcpLine { $( $field: $value, )* }
            }
        }
    };
}

fn us(time: Duration) -> u64 {
    time.as_micros() as u64
}

tcp_line! { i;
    /// Congestion controller.
    congestion: String = i.congestion.name().to_owned();
    /// `open`, `recovery` or `loss`.
    phase: String = i.phase.to_owned();
    /// Smoothed round-trip time; 0 before the first sample.
    rtt_us: u64 = us(i.rtt);
    /// Its variation.
    rtt_var_us: u64 = us(i.rtt_var);
    /// Smallest round-trip time of the last minutes; 0 before the first sample.
    rtt_min_us: u64 = us(i.rtt_min);
    /// Retransmission timeout, backed off.
    rto_us: u64 = us(i.rto);
    /// Timeouts since the last round-trip sample.
    backoff: u32 = i.backoff;
    /// Payload of a full segment.
    mss_bytes: usize = i.mss;
    /// Largest IP packet to the peer.
    pmtu_bytes: usize = i.pmtu;
    /// Estimate of the peer's segment size.
    recv_mss_bytes: usize = i.recv_mss;
    /// Window scale of the peer and ours; none: not agreed.
    window_scale: Option<(u8, u8)> = i.window_scale;
    /// Congestion window.
    cwnd_bytes: usize = i.cwnd;
    /// Slow start threshold; none before the first loss.
    ssthresh_bytes: Option<usize> = Some(i.ssthresh).filter(|s| *s < usize::MAX);
    /// What the pacer lets go; none: not paced.
    pacing_rate_bytes_per_second: Option<u64> = i.pacing_rate;
    /// Newest delivery rate sample; 0: none yet.
    delivery_rate_bytes_per_second: u64 = i.delivery_rate;
    /// That sample was limited by the application.
    delivery_rate_app_limited: bool = i.delivery_rate_app_limited;
    /// Window the peer offers.
    send_window_bytes: usize = i.send_window;
    /// Window offered to the peer.
    recv_window_bytes: usize = i.recv_window;
    /// Send buffer limit, as tuned.
    send_buffer_bytes: usize = i.send_buffer;
    /// Receive buffer limit, as tuned.
    recv_buffer_bytes: usize = i.recv_buffer;
    /// Sent and not acknowledged.
    in_flight_bytes: usize = i.in_flight;
    /// Of these, reported by SACK.
    sacked_bytes: usize = i.sacked;
    /// Of these, judged lost and not sent again yet.
    lost_bytes: usize = i.lost;
    /// Written and not sent.
    unsent_bytes: usize = i.unsent;
    /// Received and not read.
    unread_bytes: usize = i.unread;
    /// Received behind a hole.
    out_of_order_bytes: usize = i.out_of_order;
    /// Segments sent again because acknowledgements showed loss.
    retransmits_fast: u64 = i.retransmits.fast;
    /// Tail loss probes.
    retransmits_tail_probe: u64 = i.retransmits.tail_probe;
    /// Segments sent again after a timeout.
    retransmits_timeout: u64 = i.retransmits.timeout;
    /// SYN and SYN-ACK sent again.
    retransmits_handshake: u64 = i.retransmits.handshake;
    /// Segments cut anew for a smaller path MTU.
    retransmits_path_mtu: u64 = i.retransmits.path_mtu;
    /// Duplicates that the peer reported (DSACK).
    dsacks: u64 = i.dsacks;
    /// Recoveries found spurious and taken back.
    undos: u64 = i.undos;
    /// Times reordering was seen.
    reordering_seen: u64 = i.reordering_seen;
    /// Segments sent, retransmissions included.
    segments_sent: u64 = i.segments_sent;
    /// Segments received.
    segments_received: u64 = i.segments_received;
    /// Payload sent, retransmissions included.
    bytes_sent: u64 = i.bytes_sent;
    /// Payload sent again.
    bytes_retransmitted: u64 = i.bytes_retransmitted;
    /// Payload acknowledged by the peer.
    bytes_acked: u64 = i.bytes_acked;
    /// Payload received in order.
    bytes_received: u64 = i.bytes_received;
    /// Payload delivered under a CE mark.
    bytes_ce: u64 = i.bytes_ce;
    /// Time with data in flight or to send.
    busy_us: u64 = us(i.busy);
    /// Of that, held back by the peer's window.
    rwnd_limited_us: u64 = us(i.rwnd_limited);
    /// Of that, held back by the send buffer.
    sndbuf_limited_us: u64 = us(i.sndbuf_limited);
    /// Since the last segment with data left; 0: none yet.
    last_sent_us: u64 = us(i.last_sent);
    /// Since the last segment arrived.
    last_received_us: u64 = us(i.last_received);
    /// Timestamps are in use.
    timestamps: bool = i.timestamps;
    /// SACK is in use.
    sack: bool = i.sack;
    /// `off`, `classic` or `accurate`.
    ecn: String = String::from(match i.ecn {
        EcnState::Off => "off",
        EcnState::Classic => "classic",
        EcnState::Accurate => "accurate",
    });
    /// Data went with the SYN and was taken.
    fast_open: bool = i.fast_open;
}

impl TcpLine {
    /// Segments sent again, all causes.
    pub fn retransmits(&self) -> u64 {
        self.retransmits_fast
            + self.retransmits_tail_probe
            + self.retransmits_timeout
            + self.retransmits_handshake
            + self.retransmits_path_mtu
    }
}
