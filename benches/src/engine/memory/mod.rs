//! What the stack itself costs, in one process and without a device: one flow, a flow beside many
//! idle connections, packets to many vservers.
//!
//! The latency of a run is the time of one packet, as the mean of a batch.

use std::io;
use std::time::{Duration, Instant};

use weft_micro::peer::MSS;
use weft_micro::receive::{Delivery, Receiver};
use weft_micro::rival;

use super::{Engine, unsupported};
use crate::meter::Meter;
use crate::side::Control;
use crate::spec::{Side, Workload};

mod threads;
mod vservers;

/// Segments that arrive together.
const BATCH: usize = 32;

/// weft, as `memory`.
pub(super) struct Memory;
/// smoltcp with the same frames, as `memory-smoltcp`.
pub(super) struct MemorySmoltcp;

impl Engine for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn run(&self, side: &Side, control: &Control) -> io::Result<()> {
        match side.workload {
            Workload::Segments if count(side) == 1 => {
                control.fact("mode", "memory, one stack");
                receive(side, control, &mut Weft(Receiver::new(Delivery::InPlace, merging(side))));
                Ok(())
            }
            Workload::Segments => threads::speedup(side, control),
            Workload::Idle => {
                idle(side, control);
                Ok(())
            }
            Workload::Vservers => vservers::run(side, control),
            _ => Err(unsupported(side)),
        }
    }
}

impl Engine for MemorySmoltcp {
    fn name(&self) -> &'static str {
        "memory-smoltcp"
    }

    fn run(&self, side: &Side, control: &Control) -> io::Result<()> {
        if side.workload != Workload::Segments {
            return Err(unsupported(side));
        }
        control.fact("mode", "memory, one interface");
        receive(side, control, &mut rival::Receiver::new(Delivery::InPlace));
        Ok(())
    }
}

/// Takes in full segments of one connection.
trait Receives {
    /// So many arrive; not measured.
    fn load(&mut self, segments: usize);
    /// Receives, acknowledges, delivers; returns the bytes.
    fn run(&mut self) -> usize;
}

struct Weft(Receiver);

impl Receives for Weft {
    fn load(&mut self, segments: usize) {
        self.0.rest();
        self.0.load(segments);
    }

    fn run(&mut self) -> usize {
        self.0.run()
    }
}

impl Receives for rival::Receiver {
    fn load(&mut self, segments: usize) {
        rival::Receiver::load(self, segments);
    }

    fn run(&mut self) -> usize {
        rival::Receiver::run(self)
    }
}

fn receive(side: &Side, control: &Control, receiver: &mut impl Receives) {
    let mut meter = Meter::start(side, control);
    loop {
        receiver.load(BATCH);
        let began = Instant::now();
        let got = receiver.run();
        let now = Instant::now();
        assert_eq!(got, BATCH * MSS, "all of it is delivered");
        control.work().add_received(got);
        if !one_of(&mut meter, now, now - began, BATCH) {
            return;
        }
    }
}

/// Counts `packets` that took `time` together. `false`: it is over.
fn one_of(meter: &mut Meter, now: Instant, time: Duration, packets: usize) -> bool {
    let each = time / packets as u32;
    meter.operation(now.checked_sub(each).unwrap_or(now), now)
}

/// One flow beside many idle ones.
fn idle(side: &Side, control: &Control) {
    let before = resident_bytes();
    let mut receiver = Weft(Receiver::beside(Delivery::InPlace, merging(side), count(side)));
    let each = (resident_bytes() - before) / count(side) as f64;
    control.number("bytes_per_connection", each);
    control.fact("mode", "memory, one stack");
    receive(side, control, &mut receiver);
}

/// How many of what the workload has many of: `--extra count=N`.
fn count(side: &Side) -> usize {
    side.extra("count").and_then(|n| n.parse().ok()).unwrap_or(side.connections).max(1)
}

/// Whether bursts are merged before the stack, as workers do; `--extra gro=off`: not.
fn merging(side: &Side) -> bool {
    side.extra("gro") != Some("off")
}

/// Resident memory of this process.
fn resident_bytes() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|n| n.parse::<f64>().ok()).unwrap_or_default();
    pages * rustix::param::page_size() as f64
}
