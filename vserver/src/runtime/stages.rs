//! What each stage of a worker's turn costs per packet.
//!
//! Of turns and application calls one in [`TURNS_PER_SAMPLE`] is timed, at uneven distances, or what
//! alternates (a call, a turn, a call) would always show the same side. The clock is read once per
//! stage and batch, and of the frames handed to a stack one in [`FRAMES_PER_SAMPLE`] is timed by
//! itself, which tells IP from the transport. All other turns pay a subtraction and a few branches.

use weft_drivers::ticks;
use weft_stack::frame::Frame;
use weft_stack::stack::FrameTicks;
use weft_stack::time::Instant;

/// One turn in so many is timed, on average: a power of two.
const TURNS_PER_SAMPLE: u32 = 16;
/// Of the frames of a timed burst, one in so many is timed.
const FRAMES_PER_SAMPLE: usize = 8;
/// Headers of a usual packet, for how many packets a super-segment stands for.
const HEADERS: usize = 54;
/// Classes of burst sizes: 1, 2-3, 4-7, ..., 128 and more.
pub(crate) const BURST_CLASSES: usize = 8;

/// In the order of a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Frames from a device.
    Rx,
    /// Frames and packets that other workers left, and the device's for them.
    HandOver,
    /// Which vserver a frame is for.
    Demux,
    /// Receive merging.
    Gro,
    /// Link and IP on the way in.
    Ip,
    /// TCP and UDP on the way in.
    Transport,
    Timers,
    /// Callbacks of services and the waking of threads.
    App,
    /// What stacks send, from the transport down.
    Output,
    /// Frames to devices, and kicks.
    Tx,
}

const STAGES: [(Stage, &str); 10] = [
    (Stage::Rx, "rx"),
    (Stage::HandOver, "hand-over"),
    (Stage::Demux, "demux"),
    (Stage::Gro, "gro"),
    (Stage::Ip, "ip"),
    (Stage::Transport, "tcp"),
    (Stage::Timers, "timers"),
    (Stage::App, "app"),
    (Stage::Output, "output"),
    (Stage::Tx, "tx"),
];

/// One stage, timed batches only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) batches: u64,
    pub(crate) packets: u64,
    pub(crate) ticks: u64,
}

/// Costs of one worker.
#[derive(Clone, Debug)]
pub(crate) struct Stages {
    costs: [Cost; STAGES.len()],
    /// Turns that received frames, by how many.
    pub(crate) bursts: [u64; BURST_CLASSES],
    /// Turns until one is timed.
    left: u32,
    /// Makes the distances uneven.
    noise: u32,
    timed: bool,
    mark: u64,
    /// Both clocks when counting began.
    since: (u64, Instant),
    /// Packets emitted in this turn, if it is timed.
    sent: u64,
}

impl Stages {
    pub(crate) fn new(now: Instant) -> Stages {
        Stages {
            costs: [Cost::default(); STAGES.len()],
            bursts: [0; BURST_CLASSES],
            left: TURNS_PER_SAMPLE,
            noise: 1,
            timed: false,
            mark: 0,
            since: (ticks::now(), now),
            sent: 0,
        }
    }

    /// Since when it counts.
    pub(crate) fn since(&self) -> Instant {
        self.since.1
    }

    /// Stages with their names and costs, in the order of a packet's way.
    pub(crate) fn costs(&self) -> impl Iterator<Item = (&'static str, Cost)> + '_ {
        STAGES.iter().map(|(stage, name)| (*name, self.costs[*stage as usize]))
    }

    /// Nanoseconds per tick, measured since counting began.
    pub(crate) fn tick_ns(&self, now: Instant) -> f64 {
        let ticks = ticks::now().saturating_sub(self.since.0);
        now.saturating_since(self.since.1).as_nanos() as f64 / ticks.max(1) as f64
    }

    /// A turn, or an application's call, begins.
    #[inline]
    pub(crate) fn begin(&mut self) {
        self.left -= 1;
        self.timed = self.left == 0;
        if self.timed {
            // Numerical Recipes' generator; its high bits are the good ones.
            self.noise = self.noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            self.left = TURNS_PER_SAMPLE / 2 + (self.noise >> 16) % (TURNS_PER_SAMPLE + 1);
        }
        self.sent = 0;
        self.start();
    }

    /// A turn received so many frames.
    #[inline]
    pub(crate) fn received(&mut self, frames: usize) {
        if frames > 0 {
            self.bursts[(frames.ilog2() as usize).min(BURST_CLASSES - 1)] += 1;
        }
    }

    /// What follows belongs to the next [`Stages::lap`].
    #[inline]
    pub(crate) fn start(&mut self) {
        if self.timed {
            self.mark = ticks::now();
        }
    }

    /// Books the time since the last lap or start, of a stage that had `packets`; without any it is
    /// booked nowhere.
    #[inline]
    pub(crate) fn lap(&mut self, stage: Stage, packets: u64) {
        if self.timed {
            let now = ticks::now();
            if packets > 0 {
                self.book(stage, packets, now.saturating_sub(self.mark));
            }
            self.mark = now;
        }
    }

    fn book(&mut self, stage: Stage, packets: u64, ticks: u64) {
        let cost = &mut self.costs[stage as usize];
        cost.batches += 1;
        cost.packets += packets;
        cost.ticks += ticks;
    }

    /// Packets of the wire in some frames, in a timed turn; 0 otherwise.
    #[inline]
    pub(crate) fn packets(&self, frames: &[Frame]) -> u64 {
        if self.timed { frames.iter().map(|f| f.packets(HEADERS)).sum() } else { 0 }
    }

    /// Whether the `index`-th frame of a burst is timed by itself; how many packets it has.
    #[inline]
    pub(crate) fn sample(&self, index: usize, frame: &Frame) -> Option<u64> {
        (self.timed && index.is_multiple_of(FRAMES_PER_SAMPLE)).then(|| frame.packets(HEADERS))
    }

    /// A frame that was timed by itself.
    pub(crate) fn sampled(&mut self, packets: u64, ticks: FrameTicks) {
        self.book(Stage::Ip, packets, ticks.below);
        self.book(Stage::Transport, packets, ticks.transport);
    }

    /// A frame goes to a device.
    #[inline]
    pub(crate) fn sends(&mut self, frame: &Frame) {
        if self.timed {
            self.sent += frame.packets(HEADERS);
        }
    }

    /// Packets that went to devices in this turn so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stages() -> Stages {
        let mut stages = Stages::new(Instant::default());
        while !stages.timed {
            stages.begin();
        }
        stages
    }

    fn cost(stages: &Stages, name: &str) -> Cost {
        stages.costs().find(|c| c.0 == name).unwrap().1
    }

    #[test]
    fn one_turn_in_sixteen_is_timed_also_of_those_that_alternate() {
        let mut stages = Stages::new(Instant::default());
        for turn in 0..16_000 {
            stages.begin();
            stages.lap(if turn % 2 == 0 { Stage::Rx } else { Stage::Tx }, 5);
        }
        let (rx, tx) = (cost(&stages, "rx"), cost(&stages, "tx"));
        assert_eq!(rx.packets, 5 * rx.batches);
        for batches in [rx.batches, tx.batches] {
            assert!((400..600).contains(&batches), "{rx:?} {tx:?}");
        }
    }

    #[test]
    fn a_stage_without_packets_is_not_booked() {
        let mut stages = stages();
        stages.lap(Stage::Rx, 0);
        stages.lap(Stage::Tx, 1);
        assert_eq!(cost(&stages, "rx"), Cost::default());
        assert_eq!(cost(&stages, "tx").packets, 1);
    }

    #[test]
    fn bursts_are_counted_by_powers_of_two() {
        let mut stages = stages();
        for frames in [0, 1, 2, 3, 4, 64, 127, 128, 5000] {
            stages.received(frames);
        }
        assert_eq!(stages.bursts, [1, 2, 1, 0, 0, 0, 2, 2]);
    }

    #[test]
    fn the_stage_is_the_index_of_its_name() {
        for (i, (stage, _)) in STAGES.iter().enumerate() {
            assert_eq!(*stage as usize, i);
        }
    }
}
