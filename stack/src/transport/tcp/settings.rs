//! Options of a connection, inherited from its listener or from the vserver's defaults.

use core::time::Duration;

use super::emit::IpFields;
use super::flow_table::FlowKey;
use crate::ip::Ip;
use crate::ip::address::AliasId;
use crate::ip::rule::Via;
use crate::socket::TcpOptions;
use crate::socket::tcp::{CongestionControl, TcpOption};
use crate::stack::{EcnMode, FastOpen, MtuProbing, Offers, TcpConfig};
use crate::wire::protocol;

/// Smallest buffer of either direction.
pub(crate) const BUFFER_BYTES_MIN: usize = 2 << 10;

/// Largest send buffer: sequence numbers compare over half their space.
pub(crate) const SEND_BUFFER_BYTES_MAX: usize = 1 << 30;

/// RFC 7323 2.3.
pub(crate) const WINDOW_SCALE_MAX: u8 = 14;

/// The largest window that scaling can name.
pub(crate) const RECV_BUFFER_BYTES_MAX: usize = 0xffff << WINDOW_SCALE_MAX;

/// Shortest idle time and interval of keepalive.
const KEEPALIVE_MIN: Duration = Duration::from_millis(1);

/// A segment size below this is an attack on our CPU, whoever asks for it.
pub(crate) const MSS_MIN: usize = 64;

/// What applications and the vserver's defaults decide about a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) send_buffer: usize,
    /// Autotuning ends here; not above `send_buffer`: no tuning.
    pub(crate) send_buffer_max: usize,
    pub(crate) recv_buffer: usize,
    /// The same of the receive side.
    pub(crate) recv_buffer_max: usize,
    pub(crate) rto_min: Duration,
    pub(crate) delayed_ack: Duration,
    pub(crate) quick_acks: u8,
    pub(crate) offers: Offers,
    /// Idle time, interval, count.
    pub(crate) keepalive: Option<(Duration, Duration, u32)>,
    pub(crate) user_timeout: Option<Duration>,
    /// What close waits for acknowledgements before it resets.
    pub(crate) linger: Option<Duration>,
    /// How long a listener keeps a connection without data from its accept queue.
    pub(crate) defer_accept: Option<Duration>,
    /// Unsent bytes from which on the connection is not writable.
    pub(crate) notsent_lowat: usize,
    /// Bytes per second; `u64::MAX`: no bound.
    pub(crate) pacing_rate_max: u64,
    /// The DiffServ field of every segment, in the place it has in the IP header.
    pub(crate) traffic_class: u8,
    /// What policy routing rules look at.
    pub(crate) mark: u32,
    /// `None`: the stack's.
    pub(crate) hop_limit: Option<u8>,
    /// Bound of both segment sizes.
    pub(crate) mss_max: u16,
    pub(crate) nodelay: bool,
    pub(crate) cork: bool,
    pub(crate) quickack: bool,
    pub(crate) pacing: bool,
    /// A listener gives and takes Fast Open cookies.
    pub(crate) fast_open: bool,
    pub(crate) congestion: CongestionControl,
    pub(crate) ecn: EcnMode,
    pub(crate) mtu_probing: MtuProbing,
}

impl Settings {
    /// The vserver's defaults.
    pub(crate) fn new(tcp: &TcpConfig) -> Settings {
        Settings {
            send_buffer: tcp.send_buffer.clamp(BUFFER_BYTES_MIN, SEND_BUFFER_BYTES_MAX),
            send_buffer_max: tcp.send_buffer_max.min(SEND_BUFFER_BYTES_MAX),
            recv_buffer: tcp.recv_buffer.clamp(BUFFER_BYTES_MIN, RECV_BUFFER_BYTES_MAX),
            recv_buffer_max: tcp.recv_buffer_max.min(RECV_BUFFER_BYTES_MAX),
            rto_min: Duration::from_millis(u64::from(tcp.rto_ms_min)),
            delayed_ack: Duration::from_millis(u64::from(tcp.delayed_ack_ms)),
            quick_acks: tcp.quick_acks.min(u32::from(u8::MAX)) as u8,
            offers: tcp.offers,
            keepalive: None,
            user_timeout: None,
            linger: None,
            defer_accept: None,
            notsent_lowat: usize::MAX,
            pacing_rate_max: u64::MAX,
            traffic_class: 0,
            mark: 0,
            hop_limit: None,
            mss_max: u16::MAX,
            nodelay: false,
            cork: false,
            quickack: false,
            pacing: tcp.pacing,
            fast_open: matches!(tcp.fast_open, FastOpen::Server | FastOpen::Both),
            congestion: tcp.congestion,
            ecn: tcp.ecn,
            mtu_probing: tcp.mtu_probing,
        }
    }

    /// Takes an option of the application; sizes get a floor that keeps a connection usable.
    pub(crate) fn set(&mut self, option: TcpOption) {
        match option {
            TcpOption::NoDelay(on) => self.nodelay = on,
            TcpOption::Cork(on) => self.cork = on,
            TcpOption::QuickAck(on) => self.quickack = on,
            TcpOption::KeepAlive(times) => {
                self.keepalive = times.map(|(idle, interval, count)| {
                    (idle.max(KEEPALIVE_MIN), interval.max(KEEPALIVE_MIN), count.max(1))
                });
            }
            TcpOption::SendBuffer(bytes) => {
                self.send_buffer = bytes.clamp(BUFFER_BYTES_MIN, SEND_BUFFER_BYTES_MAX);
                self.send_buffer_max = 0;
            }
            TcpOption::RecvBuffer(bytes) => {
                self.recv_buffer = bytes.clamp(BUFFER_BYTES_MIN, RECV_BUFFER_BYTES_MAX);
                self.recv_buffer_max = 0;
            }
            TcpOption::UserTimeout(limit) => {
                self.user_timeout = limit.filter(|limit| !limit.is_zero());
            }
            TcpOption::Linger(limit) => self.linger = limit,
            TcpOption::DeferAccept(limit) => {
                self.defer_accept = limit.filter(|limit| !limit.is_zero());
            }
            TcpOption::NotSentLowat(bytes) => {
                self.notsent_lowat = bytes.unwrap_or(usize::MAX).max(1);
            }
            TcpOption::PacingRateMax(rate) => {
                self.pacing_rate_max = rate.unwrap_or(u64::MAX).max(1);
            }
            TcpOption::MaxSegment(mss) => {
                self.mss_max = mss.unwrap_or(u16::MAX).max(MSS_MIN as u16);
            }
            TcpOption::TrafficClass(class) => self.traffic_class = class & !3,
            TcpOption::Mark(mark) => self.mark = mark,
            TcpOption::HopLimit(limit) => self.hop_limit = limit.filter(|limit| *limit > 0),
            TcpOption::Congestion(kind) => self.congestion = kind,
            TcpOption::FastOpen(on) => self.fast_open = on,
        }
    }

    /// The window that a SYN or SYN-ACK offers: never scaled (RFC 7323 2.2).
    pub(crate) fn window_of_syn(&self) -> u16 {
        self.recv_buffer.min(usize::from(u16::MAX)) as u16
    }

    /// As applications see them, beside the limits of the two buffers.
    pub(crate) fn options(&self, send_buffer: usize, recv_buffer: usize) -> TcpOptions {
        TcpOptions {
            nodelay: self.nodelay,
            cork: self.cork,
            quickack: self.quickack,
            keepalive: self.keepalive,
            user_timeout: self.user_timeout,
            linger: self.linger,
            defer_accept: self.defer_accept,
            send_buffer,
            recv_buffer,
            notsent_lowat: (self.notsent_lowat != usize::MAX).then_some(self.notsent_lowat),
            pacing_rate_max: (self.pacing_rate_max != u64::MAX).then_some(self.pacing_rate_max),
            mss_max: (self.mss_max != u16::MAX).then_some(self.mss_max),
            traffic_class: self.traffic_class,
            mark: self.mark,
            hop_limit: self.hop_limit,
            congestion: self.congestion,
        }
    }

    /// What IP headers say, with the codepoint `ecn`.
    pub(crate) fn ip_fields(&self, ecn: u8) -> IpFields {
        let (hop_limit, mark) = (self.hop_limit, self.mark);
        IpFields { traffic_class: self.traffic_class | ecn, hop_limit, mark }
    }

    /// How its packets go.
    pub(crate) fn via(&self, ip: &Ip, key: &FlowKey, alias: Option<AliasId>) -> Via {
        let services = ip.services_of(|| (protocol::TCP, key.local_port, key.peer_port));
        Via { alias, mark: self.mark, class: self.traffic_class, services }
    }

    /// The smallest shift that lets 16 bits name the largest window there may be.
    pub(crate) fn window_scale(&self) -> u8 {
        let most = self.recv_buffer.max(self.recv_buffer_max);
        (0..WINDOW_SCALE_MAX).find(|s| most >> s <= 0xffff).unwrap_or(WINDOW_SCALE_MAX)
    }
}
