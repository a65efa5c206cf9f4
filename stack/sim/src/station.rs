//! What else can be in a network: somebody else's TCP/IP, somebody else's faults.

use weft_stack::time::Instant;

use crate::link::Arrivals;

/// A TCP/IP implementation that is not weft, with its application: see [`Net::add_station`].
///
/// [`Net::add_station`]: crate::Net::add_station
pub trait Station {
    /// A frame arrives: with its link header on an Ethernet, a bare packet else.
    fn receive(&mut self, now: Instant, frame: &[u8]);

    /// Sends what it has; called after every frame and at the time of [`Station::next`].
    fn poll(&mut self, now: Instant, out: &mut Vec<Vec<u8>>);

    /// When it has something to do without a frame.
    fn next(&mut self, now: Instant) -> Option<Instant>;

    /// Whether it has nothing more to do.
    fn done(&self) -> bool;

    /// What it found wrong so far.
    fn verdict(&self) -> Result<(), String>;
}

/// Decides what becomes of every frame: see [`Net::set_fates`].
///
/// [`Net::set_fates`]: crate::Net::set_fates
pub trait Fates {
    /// A frame enters a segment at `now`. What of it may be damaged so that the receiver will notice
    /// is behind the first `header` bytes, if anything.
    fn fate(&mut self, now: Instant, header: usize, frame: &mut Vec<u8>) -> Fate;
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is lost.
    Lost,
    /// It arrives then.
    At(Instant),
    /// It arrives twice.
    Twice(Instant, Instant),
}

impl dyn Fates {
    pub(crate) fn decide(&mut self, now: Instant, header: usize, frame: &mut Vec<u8>) -> Arrivals {
        match self.fate(now, header, frame) {
            Fate::Lost => Arrivals::default(),
            Fate::At(at) => Arrivals { first: Some(at.max(now)), again: None },
            Fate::Twice(a, b) => Arrivals { first: Some(a.max(now)), again: Some(b.max(now)) },
        }
    }
}
