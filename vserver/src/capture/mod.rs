//! Captures on demand: copies of what a vserver sends and receives, for who asks by the control
//! socket.
//!
//! A worker that hands a frame to a vserver with a live capture, or takes one from it, offers the
//! frame to the capture's [`feed::Feed`]: looked at once ([`sight`]), asked for by the filter, copied
//! ([`copy`]) into a queue with bounds. What has no room is lost and counted. Packets are shown on
//! both sides of the multipath shim: above it between ULIDs, as sockets see them, below it between
//! locators, as the wire does. The upper one is made from the lower by the tag in it.

mod copy;
mod feed;
mod filter;
mod sessions;
mod sight;

use serde::{Deserialize, Serialize};

pub(crate) use feed::Feed;
pub use filter::FilterError;
pub use sessions::{Captures, Hold};

/// Bytes of a packet that are kept at most, and unless something else is wanted.
pub const SNAPLEN_MAX: u32 = 262_144;
/// Captures at a time.
const CAPTURES_MAX: usize = 8;
/// Of these, of one vserver.
const OF_VSERVER_MAX: usize = 2;

/// Sides of the shim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layers {
    /// Packets between ULIDs.
    Above,
    /// Frames between locators.
    Below,
    /// Both.
    #[default]
    Both,
}

impl Layers {
    fn has_above(self) -> bool {
        self != Layers::Below
    }

    fn has_below(self) -> bool {
        self != Layers::Above
    }
}

/// What to capture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CaptureWish {
    /// Of which vserver.
    pub vserver: String,
    /// `host`, `net`, `port`, `proto`, joined by `and`.
    pub filter: String,
    /// Which sides of the shim.
    pub layers: Layers,
    /// Bytes of each packet.
    pub snaplen: u32,
    /// It ends after so many packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// A capture began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureBegun {
    /// Its number, for what follows.
    pub capture: u64,
    /// The vserver.
    pub vserver: String,
    /// The vserver's links have Ethernet headers; of several kinds, the first one's.
    pub ethernet: bool,
}

/// Asks for packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureStep {
    /// The number of the capture, from the answer to its start.
    pub capture: u64,
    /// Take no more of them, give those that wait.
    #[serde(default)]
    pub stop: bool,
}

/// A packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedPacket {
    /// Nanoseconds since the Unix epoch.
    pub time_ns: u64,
    /// Above the shim.
    pub above: bool,
    /// Sent.
    pub out: bool,
    /// It begins with an Ethernet header, otherwise with that of IP.
    pub ethernet: bool,
    /// Bytes that it had.
    pub len: usize,
    /// Those that were kept, in hexadecimal digits.
    pub data: String,
}

impl CapturedPacket {
    /// The bytes that were kept; `None`: those are no hexadecimal digits.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
        let (pairs, rest) = self.data.as_bytes().as_chunks::<2>();
        if !rest.is_empty() {
            return None;
        }
        pairs.iter().map(|[a, b]| Some(digit(*a)? << 4 | digit(*b)?)).collect()
    }
}

/// What came since the last batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureBatch {
    /// In order of time.
    pub packets: Vec<CapturedPacket>,
    /// Taken so far, with these.
    pub captured: u64,
    /// Lost so far for want of room.
    pub lost: u64,
    /// Why it ended; nothing follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
}

/// How a capture ended, for the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CaptureEnd {
    /// Its number.
    pub capture: u64,
    /// The vserver.
    pub vserver: String,
    /// Packets taken.
    pub captured: u64,
    /// Lost for want of room.
    pub lost: u64,
    /// Why.
    pub why: String,
}

/// Why a capture was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// No such vserver.
    #[error("no vserver '{0}'")]
    NoSuchVserver(String),
    /// The filter cannot be read.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// Too many on this host.
    #[error("{CAPTURES_MAX} captures are running; try again later")]
    Busy,
    /// Too many of this vserver.
    #[error("{OF_VSERVER_MAX} captures of vserver '{0}' are running; try again later")]
    BusyVserver(String),
    /// It is over.
    #[error("the capture is over")]
    Over,
    /// The host has stopped.
    #[error("the host has stopped")]
    Stopped,
}
