//! What the options of a TCP socket are now.

use core::time::Duration;

use super::SocketId;
use super::tcp::{CongestionControl, TcpRecvError};
use crate::Stack;
use crate::path::PathLayer;

/// The options of a connection or listener; see [`super::tcp::TcpOption`] for what each means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpOptions {
    /// Nagle is off.
    pub nodelay: bool,
    /// Small segments are held back.
    pub cork: bool,
    /// Every segment is acknowledged at once.
    pub quickack: bool,
    /// Idle time, interval and count of keepalive.
    pub keepalive: Option<(Duration, Duration, u32)>,
    /// How long data may stay unacknowledged.
    pub user_timeout: Option<Duration>,
    /// What a close waits for.
    pub linger: Option<Duration>,
    /// How long a listener waits for the first data of a connection.
    pub defer_accept: Option<Duration>,
    /// Send buffer limit in bytes, as tuned.
    pub send_buffer: usize,
    /// Receive buffer limit in bytes, as tuned.
    pub recv_buffer: usize,
    /// Unsent bytes that end writability.
    pub notsent_lowat: Option<usize>,
    /// Bound of the rate data leaves with, bytes per second.
    pub pacing_rate_max: Option<u64>,
    /// Bound of the segment payload.
    pub mss_max: Option<u16>,
    /// The DiffServ field.
    pub traffic_class: u8,
    /// What policy routing rules look at.
    pub mark: u32,
    /// TTL or hop limit; `None`: the stack's.
    pub hop_limit: Option<u8>,
    /// The congestion controller.
    pub congestion: CongestionControl,
}

impl<P: PathLayer> Stack<P> {
    /// The options of a connection or listener; `None` for a stale handle.
    pub fn tcp_options(&self, id: SocketId) -> Option<TcpOptions> {
        self.tcp.options(id)
    }

    /// Copies received bytes out and leaves them unread; `Ok(0)` is the end of the stream.
    pub fn tcp_peek(&self, id: SocketId, out: &mut [u8]) -> Result<usize, TcpRecvError> {
        self.tcp.connection(id).map_or(Err(TcpRecvError::Closed), |c| c.peek(out))
    }

    /// Whether the next byte to read is the first behind the peer's urgent data (RFC 6093 section
    /// 4.1, `SIOCATMARK`): urgent data was announced, and the last read ended at its end.
    pub fn tcp_at_mark(&self, id: SocketId) -> bool {
        self.tcp.connection(id).is_some_and(crate::transport::tcp::Connection::is_at_mark)
    }
}
