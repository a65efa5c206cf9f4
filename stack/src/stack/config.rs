//! What a stack is made from: limits, defaults of connections, its place among shards.

use std::sync::Arc;

use crate::any::AnyScopes;
use crate::shard::{Shard, SharedCounts};
use crate::socket::tcp::CongestionControl;
use crate::wire::tcp::Options;

/// Limits of one vserver: everything that a peer or an application can make grow.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Neighbour entries, v4 and v6 together.
    pub neighbours: usize,
    /// Packets that wait for one neighbour.
    pub neighbour_queue: usize,
    /// Packets being reassembled.
    pub reassemblies: usize,
    /// Bytes held by reassembly.
    pub reassembly_bytes: usize,
    /// Routes, configured and learned.
    pub routes: usize,
    /// Policy routing rules.
    pub rules: usize,
    /// Addresses per alias, configured and learned.
    pub addresses: usize,
    /// Multicast groups per alias.
    pub groups: usize,
    /// Path MTU cache entries.
    pub pmtu: usize,
    /// TCP connections, TIME-WAIT included.
    pub tcp_connections: usize,
    /// TCP connections in SYN-RECEIVED, over all listeners: about 110 bytes each.
    pub tcp_half_open: usize,
    /// Connections that Fast Open opened and whose handshake is not over (RFC 7413 section 5.1).
    pub tcp_fast_open: usize,
    /// TCP listeners.
    pub tcp_listeners: usize,
    /// Bytes in the buffers of all TCP connections. From three quarters on buffers stop growing and
    /// what can be collapsed is; at the limit data is refused.
    pub tcp_bytes: usize,
    /// Answers to the vserver's own datagrams that access rules would not let in and that are waited
    /// for, each shard's own.
    pub access_states: usize,
    /// UDP sockets.
    pub udp_sockets: usize,
    /// Bytes a UDP socket may hold unread.
    pub udp_recv_bytes: usize,
    /// Raw sockets. 0, as it is at first: they are not allowed, for who has one can forge what the
    /// vserver's other sockets say.
    pub raw_sockets: usize,
    /// ICMP echo sockets; 0: they are not allowed.
    pub icmp_sockets: usize,
    /// Bytes a raw or ICMP socket may hold unread.
    pub raw_recv_bytes: usize,
    /// Frames of the device that applications hold to fill and send, see [`Stack::alloc`].
    pub app_frames: usize,
    /// Timers that a callback service may have set, see [`Stack::may_set_timer`].
    pub service_timers: usize,
    /// Frames that wait for [`Stack::poll_transmit`].
    pub out_queue: usize,
    /// ICMP errors per second.
    pub icmp_errors_per_second: u32,
    /// RSTs per second to segments that belong to no connection: of closed ports, of access rules.
    pub tcp_resets_per_second: u32,
    /// Received frames that wait while the vserver has used up its part of a worker.
    pub input_frames: usize,
    /// Processing time of one worker in one round that is shared with other vservers, microseconds,
    /// at the usual weight; what is used beyond is paid with rounds that follow.
    pub round_us: u32,
    /// Its part of shared rounds, packets and time, against other vservers'; 100 is usual.
    pub weight: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            neighbours: 1024,
            neighbour_queue: 16,
            reassemblies: 64,
            reassembly_bytes: 1 << 20,
            routes: 4096,
            rules: 1024,
            addresses: 256,
            groups: 256,
            pmtu: 1024,
            tcp_connections: 65_536,
            tcp_half_open: 1024,
            tcp_fast_open: 256,
            tcp_listeners: 1024,
            tcp_bytes: 512 << 20,
            access_states: 4096,
            udp_sockets: 4096,
            udp_recv_bytes: 256 << 10,
            raw_sockets: 0,
            icmp_sockets: 64,
            raw_recv_bytes: 256 << 10,
            app_frames: 2048,
            service_timers: 65_536,
            out_queue: 1024,
            icmp_errors_per_second: 100,
            tcp_resets_per_second: 10_000,
            input_frames: 1024,
            round_us: 50,
            weight: 100,
        }
    }
}

/// TCP defaults of one vserver.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpConfig {
    /// Send buffer of a new connection, bytes.
    pub send_buffer: usize,
    /// How far autotuning lets it grow; not above `send_buffer`: no tuning.
    pub send_buffer_max: usize,
    /// Receive buffer of a new connection, bytes.
    pub recv_buffer: usize,
    /// How far autotuning lets it grow; also decides the window scale.
    pub recv_buffer_max: usize,
    /// Lower bound of the retransmission timeout, milliseconds (RFC 6298 says 1 s, LANs want less).
    pub rto_ms_min: u32,
    /// How long TIME-WAIT lasts, seconds (RFC 9293: 2 MSL).
    pub time_wait_s: u32,
    /// How long an ACK may be delayed, milliseconds (RFC 9293: below 500).
    pub delayed_ack_ms: u32,
    /// So many ACKs of a connection's first data, and of what comes after idleness, are not delayed,
    /// unless the application answers at once. Linux has 16; 0: all are delayed.
    pub quick_acks: u32,
    /// What is offered and taken up in handshakes.
    pub offers: Offers,
    /// Congestion controller of new connections.
    pub congestion: CongestionControl,
    /// Spread what the window allows over the round trip. BBR is paced whatever this says.
    pub pacing: bool,
    /// Explicit congestion notification.
    pub ecn: EcnMode,
    /// TCP Fast Open (RFC 7413).
    pub fast_open: FastOpen,
    /// When SYNs are answered without keeping state (RFC 4987 section 3.6).
    pub syn_cookies: SynCookies,
    /// Packetisation-layer path MTU discovery (RFC 4821, 8899).
    pub mtu_probing: MtuProbing,
}

impl Default for TcpConfig {
    fn default() -> TcpConfig {
        TcpConfig {
            send_buffer: 256 << 10,
            send_buffer_max: 4 << 20,
            recv_buffer: 256 << 10,
            recv_buffer_max: 6 << 20,
            rto_ms_min: 200,
            time_wait_s: 60,
            delayed_ack_ms: 40,
            quick_acks: 0,
            offers: Offers::default(),
            congestion: CongestionControl::Cubic,
            pacing: true,
            ecn: EcnMode::Accept,
            fast_open: FastOpen::Off,
            syn_cookies: SynCookies::Pressure,
            mtu_probing: MtuProbing::BlackHole,
        }
    }
}

/// Options of TCP that both ends must offer before they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offers {
    /// Timestamps (RFC 7323 section 3). Without them spurious retransmissions are found out later,
    /// and old duplicates are told from new data by sequence numbers alone.
    pub timestamps: bool,
    /// Selective acknowledgements (RFC 2018).
    pub sack: bool,
    /// Windows above 65,535 bytes (RFC 7323 section 2).
    pub window_scaling: bool,
}

impl Default for Offers {
    fn default() -> Offers {
        Offers { timestamps: true, sack: true, window_scaling: true }
    }
}

impl Offers {
    /// What remains of a peer's offer.
    pub(crate) fn taken_up(self, peer: &Options) -> Options {
        Options {
            timestamp: peer.timestamp.filter(|_| self.timestamps),
            sack_permitted: peer.sack_permitted && self.sack,
            window_scale: peer.window_scale.filter(|_| self.window_scaling),
            ..*peer
        }
    }
}

/// Explicit congestion notification of a vserver's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EcnMode {
    /// Neither asked for nor accepted.
    Off,
    /// Accepted from peers that ask: accurate (RFC 9768) or classic (RFC 3168).
    #[default]
    Accept,
    /// Classic ECN asked for, either accepted.
    Classic,
    /// Accurate ECN asked for; falls back to classic.
    Accurate,
}

/// TCP Fast Open of a vserver's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FastOpen {
    /// Cookies are neither asked for nor given.
    #[default]
    Off,
    /// Connects may carry data.
    Client,
    /// Listeners give and take cookies.
    Server,
    /// Both.
    Both,
}

/// When SYNs are answered by a cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SynCookies {
    /// Never: a full SYN queue refuses.
    Off,
    /// When the SYN queue is full.
    #[default]
    Pressure,
    /// Always; for tests.
    Always,
}

/// When the path is probed for its MTU with data segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MtuProbing {
    /// Never: only ICMP is believed.
    Off,
    /// Once full segments vanish although small ones pass.
    #[default]
    BlackHole,
    /// Always, upwards from a safe size.
    Always,
}

/// What a stack is made from.
#[derive(Clone, Debug)]
pub struct StackConfig {
    /// Name of the vserver, for messages.
    pub name: String,
    /// Bounds.
    pub limits: Limits,
    /// TCP defaults.
    pub tcp: TcpConfig,
    /// Forward packets between aliases.
    pub forwarding: bool,
    /// Seed of everything random: from the operating system, fixed in tests. All shards of a vserver
    /// have the same, for a peer must find the same secrets on each.
    pub seed: [u8; 16],
    /// Which of the vserver's stacks this is; limits are those of the whole vserver.
    pub shard: Shard,
    /// What is counted over all shards; `None`: this is the only one.
    pub shared: Option<Arc<SharedCounts>>,
    /// Ports that the host listens on for any vserver.
    pub any: AnyScopes,
}

impl Default for StackConfig {
    fn default() -> StackConfig {
        StackConfig {
            name: String::from("vserver"),
            limits: Limits::default(),
            tcp: TcpConfig::default(),
            forwarding: false,
            seed: [0; 16],
            shard: Shard::ONLY,
            shared: None,
            any: AnyScopes::default(),
        }
    }
}
