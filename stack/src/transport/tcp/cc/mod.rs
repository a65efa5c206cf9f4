//! Congestion control: one of the three trait seams of the project. A controller decides how many
//! bytes may be in flight; what is lost and what is sent again is decided elsewhere.

use core::time::Duration;

use crate::time::Instant;

mod newreno;

pub use newreno::NewReno;

/// What a controller learns from an acknowledgement of new data.
#[derive(Clone, Copy, Debug)]
pub struct Acked {
    /// Now.
    pub now: Instant,
    /// Bytes newly acknowledged, cumulatively.
    pub bytes: usize,
    /// Bytes in flight before the acknowledgement.
    pub flight_before: usize,
    /// Smoothed round-trip time, once known.
    pub srtt: Option<Duration>,
}

/// A congestion controller of one connection. Sizes are bytes.
pub trait Controller {
    /// New data was acknowledged outside fast recovery.
    fn on_ack(&mut self, ack: &Acked);
    /// Loss was detected by duplicate or selective acknowledgements; once per recovery.
    fn on_congestion(&mut self, now: Instant, flight: usize);
    /// Fast recovery is over.
    fn on_recovered(&mut self);
    /// The retransmission timer expired; `first`: for the first time since progress.
    fn on_timeout(&mut self, now: Instant, flight: usize, first: bool);
    /// Nothing was sent for longer than the retransmission timeout (RFC 5681 section 4.1).
    fn on_idle(&mut self);
    /// The segment size changed.
    fn set_mss(&mut self, mss: usize);
    /// How many bytes may be in flight.
    fn cwnd(&self) -> usize;
    /// The slow start threshold.
    fn ssthresh(&self) -> usize;
}

/// The controllers a connection can run.
#[derive(Clone, Debug)]
pub enum Algorithm {
    /// RFC 5681 and 6582.
    NewReno(NewReno),
}

macro_rules! each {
    ($self:ident, $c:ident => $call:expr) => {
        match $self {
            Algorithm::NewReno($c) => $call,
        }
    };
}

impl Controller for Algorithm {
    fn on_ack(&mut self, ack: &Acked) {
        each!(self, c => c.on_ack(ack));
    }
    fn on_congestion(&mut self, now: Instant, flight: usize) {
        each!(self, c => c.on_congestion(now, flight));
    }
    fn on_recovered(&mut self) {
        each!(self, c => c.on_recovered());
    }
    fn on_timeout(&mut self, now: Instant, flight: usize, first: bool) {
        each!(self, c => c.on_timeout(now, flight, first));
    }
    fn on_idle(&mut self) {
        each!(self, c => c.on_idle());
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
}
