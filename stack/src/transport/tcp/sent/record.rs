//! What is remembered about the last transmission of something.

use crate::seq::SeqNum;
use crate::time::Instant;

/// What is known of a record's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    InFlight,
    /// The peer has them (RFC 2018).
    Sacked,
    /// Judged lost, and not sent again yet.
    Lost,
}

/// The state of the connection when something left (draft-ietf-ccwg-bbr, section 4.1.1.2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) sent_at: Instant,
    pub(crate) delivered: u64,
    pub(crate) delivered_at: Instant,
    pub(crate) first_sent_at: Instant,
    /// Bytes in flight, these included.
    pub(crate) flight: u32,
    /// Totals of lost and CE-marked bytes, modulo 2^32.
    pub(crate) lost: u32,
    pub(crate) ce: u32,
    pub(crate) app_limited: bool,
}

/// One record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) stamp: Stamp,
    pub(crate) start: SeqNum,
    pub(crate) end: SeqNum,
    /// Of a reported record: everything up to here is reported.
    pub(super) run_end: SeqNum,
    pub(crate) fate: Fate,
    /// How often it was sent again.
    pub(crate) resent: u8,
}

impl Sent {
    pub(crate) fn bytes(&self) -> u32 {
        self.end - self.start
    }

    /// Its last transmission.
    pub(crate) fn transmission(&self) -> Transmission {
        Transmission { at: self.stamp.sent_at, end: self.end, resent: self.resent > 0 }
    }
}

/// One transmission of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transmission {
    pub(crate) at: Instant,
    pub(crate) end: SeqNum,
    pub(crate) resent: bool,
}

impl Transmission {
    /// RFC 8985 6.2 `RACK_sent_after`: whether it left after `other`. Much leaves in one instant;
    /// in it, repeated data may have left before new data or after, so that neither tells that
    /// the other is lost.
    pub(crate) fn is_after(&self, other: Transmission) -> bool {
        let later = self.resent != other.resent || self.end > other.end;
        self.at > other.at || (self.at == other.at && later)
    }
}

/// A repeated transmission.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resent {
    pub(super) at: Instant,
    pub(super) start: SeqNum,
    pub(super) end: SeqNum,
}

impl Resent {
    pub(super) fn of(sent: &Sent) -> Resent {
        Resent { at: sent.stamp.sent_at, start: sent.start, end: sent.end }
    }

    pub(super) fn transmission(&self) -> Transmission {
        Transmission { at: self.at, end: self.end, resent: true }
    }
}
