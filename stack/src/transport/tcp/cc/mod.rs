//! Congestion control: one of the three trait seams of the project. A controller decides how many
//! bytes may be in flight and how fast they leave; what is lost and what is sent again is decided
//! elsewhere (`recovery`), and so is the window of fast recovery (`prr`) unless the controller
//! asks for it.

use core::time::Duration;

use crate::seq::SeqNum;
use crate::socket::tcp::CongestionControl;
use crate::time::Instant;

mod bbr;
#[cfg(test)]
mod closed_loop;
mod cubic;
mod dctcp;
mod hystart;
mod newreno;

pub use bbr::Bbr;
pub use cubic::Cubic;
pub use dctcp::Dctcp;
pub use newreno::NewReno;

/// RFC 6928: the initial window, in segments.
const INITIAL_WINDOW_SEGMENTS: usize = 10;

/// A sample of the delivery rate (draft-ietf-ccwg-bbr, section 4.1).
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Delivered bytes per second over the sample's interval.
    pub bytes_per_s: u64,
    /// All bytes delivered by the connection when the newest acknowledged segment left.
    pub prior_delivered: u64,
    /// Bytes in flight when that segment left, itself included.
    pub flight_at_send: usize,
    /// Bytes judged lost since that segment left.
    pub lost: u64,
    /// Bytes reported CE-marked since that segment left.
    pub ce: u64,
    /// Bytes delivered since that segment left.
    pub delivered: u64,
    /// The application, not the path, held that segment's flight back.
    pub app_limited: bool,
}

/// What a controller learns from an acknowledgement. Sizes are bytes.
#[derive(Clone, Copy, Debug)]
pub struct Acked {
    /// Now.
    pub now: Instant,
    /// Newly delivered, cumulatively or by SACK, each byte once.
    pub bytes: usize,
    /// Newly judged lost.
    pub lost: usize,
    /// Newly reported as CE-marked (exact with AccECN, per ECE-marked ACK with RFC 3168).
    pub ce: usize,
    /// In flight before the acknowledgement.
    pub flight_before: usize,
    /// In flight after it.
    pub flight: usize,
    /// All bytes delivered, this acknowledgement included.
    pub delivered: u64,
    /// First unacknowledged and next new sequence number, for rounds.
    pub snd_una: SeqNum,
    /// See `snd_una`.
    pub snd_nxt: SeqNum,
    /// Round-trip sample of this acknowledgement.
    pub rtt: Option<Duration>,
    /// Smoothed round-trip time, once known.
    pub srtt: Option<Duration>,
    /// Delivery rate, if this acknowledgement gave a sample.
    pub rate: Option<Rate>,
    /// The congestion window was what held the sender back (RFC 7661).
    pub window_limited: bool,
    /// `snd_una` moved. What SACK reports without that is not a reason to grow (RFC 5681 3.2,
    /// RFC 3042).
    pub advanced: bool,
    /// Fast recovery goes on, or ended with this acknowledgement: loss-based controllers leave
    /// their window alone. Not set in recovery after a timeout, in which windows grow again.
    pub recovering: bool,
    /// The peer reports selectively: more than one loss shows per round trip.
    pub sack: bool,
    /// Segments leave paced: what the window grows by at once makes no burst.
    pub paced: bool,
}

/// A segment that is judged lost.
#[derive(Clone, Copy, Debug)]
pub struct Lost {
    /// Its first sequence number.
    pub seq: SeqNum,
    /// Its length.
    pub bytes: usize,
    /// Bytes in flight when it left, itself included.
    pub flight_at_send: usize,
    /// Bytes judged lost since it left, itself included.
    pub lost: u64,
    /// All bytes delivered by the connection until now.
    pub delivered: u64,
    /// The application, not the path, held the flight back when it left.
    pub app_limited: bool,
}

/// Why a window shrinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Loss, shown by acknowledgements.
    Loss,
    /// Congestion was marked (RFC 3168 6.1.2, once per round trip).
    Ecn,
}

/// Congestion, once per round trip.
#[derive(Clone, Copy, Debug)]
pub struct Congestion {
    /// Now.
    pub now: Instant,
    /// Why.
    pub cause: Cause,
    /// Bytes in flight (RFC 5681 FlightSize).
    pub flight: usize,
    /// Next new sequence number: recovery ends when it is acknowledged.
    pub snd_nxt: SeqNum,
}

/// A congestion controller of one connection. Sizes are bytes.
pub trait Controller {
    /// Bytes were delivered, or judged lost.
    fn on_ack(&mut self, ack: &Acked);
    /// A segment is judged lost. Called for each, in order of the sequence, before
    /// [`Controller::on_congestion`] and before the [`Controller::on_ack`] of the same
    /// acknowledgement; not for what a timeout declares lost without evidence.
    fn on_lost(&mut self, lost: &Lost) {
        let _ = lost;
    }
    /// Congestion was detected; once per recovery. What the window was is remembered for
    /// [`Controller::undo`].
    fn on_congestion(&mut self, c: &Congestion);
    /// Fast recovery is over.
    fn on_recovered(&mut self, now: Instant);
    /// The retransmission timer expired; `first`: for the first time since progress.
    fn on_timeout(&mut self, now: Instant, flight: usize, first: bool);
    /// The last congestion or timeout was spurious (RFC 3522, 4015, 5682): take the reaction back.
    fn undo(&mut self, now: Instant);
    /// About to send new data with `flight` bytes in flight.
    fn on_send(&mut self, now: Instant, flight: usize, app_limited: bool);
    /// Nothing was sent for `idle`, longer than the retransmission timeout (RFC 5681 4.1).
    fn on_idle(&mut self, now: Instant, idle: Duration);
    /// The segment size changed.
    fn set_mss(&mut self, mss: usize);
    /// How many bytes may be in flight.
    fn cwnd(&self) -> usize;
    /// The slow start threshold; `usize::MAX` before the first congestion.
    fn ssthresh(&self) -> usize;
    /// Bytes per second to send at; `None`: the pacer derives it from window and round trip.
    fn pacing_rate(&self) -> Option<u64> {
        None
    }
    /// It sets the window in fast recovery itself, instead of proportional rate reduction.
    fn governs_recovery(&self) -> bool {
        false
    }
    /// It reacts to every single mark (RFC 8257), not once per round trip.
    fn wants_every_mark(&self) -> bool {
        false
    }
}

/// The controllers a connection can run.
#[derive(Clone, Debug)]
pub enum Algorithm {
    /// RFC 5681 and 6582.
    NewReno(NewReno),
    /// RFC 9438.
    Cubic(Cubic),
    /// draft-ietf-ccwg-bbr.
    Bbr(Box<Bbr>),
    /// RFC 8257.
    Dctcp(Dctcp),
}

impl Algorithm {
    /// A controller of the `kind`, in its initial state, for segments of `mss` bytes.
    /// `seed` makes the random choices of BBR; an outsider should not know it.
    pub fn new(kind: CongestionControl, mss: usize, seed: u64) -> Algorithm {
        match kind {
            CongestionControl::NewReno => Algorithm::NewReno(NewReno::new(mss)),
            CongestionControl::Cubic => Algorithm::Cubic(Cubic::new(mss)),
            CongestionControl::Bbr => Algorithm::Bbr(Box::new(Bbr::new(mss, seed))),
            CongestionControl::Dctcp => Algorithm::Dctcp(Dctcp::new(mss)),
        }
    }
}

macro_rules! each {
    ($self:ident, $c:ident => $call:expr) => {
        match $self {
            Algorithm::NewReno($c) => $call,
            Algorithm::Cubic($c) => $call,
            Algorithm::Bbr($c) => $call,
            Algorithm::Dctcp($c) => $call,
        }
    };
}

/// A window that was not used says nothing about the path, and does not grow (RFC 7661 4.2: half
/// of it must have been in flight).
fn was_used(ack: &Acked, cwnd: usize) -> bool {
    ack.advanced && ack.bytes > 0 && ack.window_limited && ack.flight_before * 2 >= cwnd
}

/// What slow start adds for an acknowledgement (RFC 3465 2.2, 2.3): all of it where segments are
/// paced, but one segment after a timeout if the bytes may have been lying at the peer for long,
/// which only selective reports tell.
fn grow_by(ack: &Acked, mss: usize, restarting: bool) -> usize {
    match (restarting && !ack.sack, ack.paced) {
        (true, _) => ack.bytes.min(mss),
        (false, true) => ack.bytes,
        (false, false) => ack.bytes.min(2 * mss),
    }
}

/// A window when segments change their size: as many segments of a smaller one (RFC 1191 6.4 knows no
/// other reaction), but no more bytes of a larger one (RFC 8899 section 3), beyond one segment.
fn rescale(cwnd: u32, old: u32, new: u32) -> u32 {
    if new <= old { (cwnd / old.max(1)).max(1) * new } else { cwnd.max(new) }
}

/// A slow start threshold as callers see it.
fn threshold(ssthresh: u32) -> usize {
    if ssthresh == u32::MAX { usize::MAX } else { ssthresh as usize }
}

impl Controller for Algorithm {
    fn on_ack(&mut self, ack: &Acked) {
        each!(self, c => c.on_ack(ack));
    }
    fn on_lost(&mut self, lost: &Lost) {
        each!(self, c => c.on_lost(lost));
    }
    fn on_congestion(&mut self, congestion: &Congestion) {
        each!(self, c => c.on_congestion(congestion));
    }
    fn on_recovered(&mut self, now: Instant) {
        each!(self, c => c.on_recovered(now));
    }
    fn on_timeout(&mut self, now: Instant, flight: usize, first: bool) {
        each!(self, c => c.on_timeout(now, flight, first));
    }
    fn undo(&mut self, now: Instant) {
        each!(self, c => c.undo(now));
    }
    fn on_send(&mut self, now: Instant, flight: usize, app_limited: bool) {
        each!(self, c => c.on_send(now, flight, app_limited));
    }
    fn on_idle(&mut self, now: Instant, idle: Duration) {
        each!(self, c => c.on_idle(now, idle));
    }
    fn set_mss(&mut self, mss: usize) {
        each!(self, c => c.set_mss(mss));
    }
    fn cwnd(&self) -> usize {
        each!(self, c => c.cwnd())
    }
    fn ssthresh(&self) -> usize {
        each!(self, c => c.ssthresh())
    }
    fn pacing_rate(&self) -> Option<u64> {
        each!(self, c => c.pacing_rate())
    }
    fn governs_recovery(&self) -> bool {
        each!(self, c => c.governs_recovery())
    }
    fn wants_every_mark(&self) -> bool {
        each!(self, c => c.wants_every_mark())
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// An ACK of `bytes` at time zero with `flight` bytes in flight before it.
    pub(crate) fn acked(bytes: usize, flight: usize) -> Acked {
        Acked {
            now: Instant::ZERO,
            bytes,
            lost: 0,
            ce: 0,
            flight_before: flight,
            flight: flight.saturating_sub(bytes),
            delivered: bytes as u64,
            snd_una: SeqNum(0),
            snd_nxt: SeqNum(0),
            rtt: None,
            srtt: None,
            rate: None,
            window_limited: true,
            advanced: true,
            recovering: false,
            sack: true,
            paced: true,
        }
    }

    /// Congestion at time zero with `flight` bytes in flight.
    pub(crate) fn congestion(flight: usize, cause: Cause) -> Congestion {
        Congestion { now: Instant::ZERO, cause, flight, snd_nxt: SeqNum(0) }
    }
}
