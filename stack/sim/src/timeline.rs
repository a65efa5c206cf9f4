//! Faults with a date: "at two seconds the link goes away".

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use weft_stack::stack::Change;
use weft_stack::time::{Duration, Instant};

use crate::link::LinkSpec;
use crate::net::{HostId, Net, SegmentId};

/// Something that happens to the network at a date; see [`Net::at`].
#[derive(Clone, Debug)]
pub enum Fault {
    /// A segment has other properties, in all directions.
    Segment(SegmentId, LinkSpec),
    /// What a host sends into its attachment (counted from 0) has other properties.
    Egress(HostId, usize, LinkSpec),
    /// A host's configuration changes: its link goes down, its MTU changes, an address goes.
    Change(HostId, Change),
    /// A host's clock leaps forward.
    ClockLeap(HostId, Duration),
    /// A host's clock stands still for this long, then leaps to where it should be: the stack runs
    /// on frames and calls meanwhile, but its time does not pass.
    ClockStall(HostId, Duration),
    /// Somebody takes so many frames out of a host's pool; fewer if there are fewer.
    SeizeFrames(HostId, usize),
    /// The seized frames come back.
    ReleaseFrames(HostId),
}

pub(crate) struct Entry {
    pub(crate) at: Instant,
    serial: u64,
    pub(crate) fault: Fault,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.serial == other.serial
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

/// Faults to come.
#[derive(Default)]
pub(crate) struct Timeline {
    entries: BinaryHeap<Reverse<Entry>>,
    serial: u64,
}

impl Timeline {
    pub(crate) fn push(&mut self, at: Instant, fault: Fault) {
        self.serial += 1;
        self.entries.push(Reverse(Entry { at, serial: self.serial, fault }));
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.entries.peek().map(|e| e.0.at)
    }

    pub(crate) fn pop(&mut self) -> Option<Fault> {
        self.entries.pop().map(|e| e.0.fault)
    }
}

impl Net {
    /// Lets `fault` happen when `after` has passed from now.
    pub fn at(&mut self, after: Duration, fault: Fault) {
        let at = self.now() + after;
        self.timeline.push(at, fault);
    }

    /// Lets `fault` happen now.
    ///
    /// # Panics
    /// If a host refuses its change.
    pub fn apply(&mut self, fault: Fault) {
        let now = self.now();
        match fault {
            Fault::Segment(segment, spec) => self.set_segment(segment, spec),
            Fault::Egress(host, attachment, spec) => self.set_egress(host, attachment, Some(spec)),
            Fault::Change(host, change) => self.change(host, change),
            Fault::ClockLeap(host, by) => {
                self.hosts[host.0].clock.leap(by);
                self.wake(host);
            }
            Fault::ClockStall(host, lasts) => {
                self.hosts[host.0].clock.stall(now, lasts);
                self.wake(host);
            }
            Fault::SeizeFrames(host, count) => {
                let host = &mut self.hosts[host.0];
                for _ in 0..count {
                    host.seized.extend(host.pool.alloc());
                }
            }
            Fault::ReleaseFrames(host) => {
                self.hosts[host.0].seized.clear();
                self.wake(host);
            }
        }
    }
}
