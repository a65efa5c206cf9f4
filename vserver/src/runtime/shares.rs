//! Whose turn it is: deficit round robin between the vservers of one worker.
//!
//! A turn of the worker is a round. While the frames and calls of one vserver are all that a worker
//! has, nothing is counted and nothing waits. As soon as a second one wants something, each may use
//! per round so many packets and so much processing time, both by its weight; what is used beyond
//! (a callback cannot be interrupted) is owed, and paid with the rounds that follow. Frames for a
//! vserver that has used up its part wait in its input queue, in their order, up to its limit; the
//! worker goes on to look at the queues of the devices, so that nobody's frames wait behind them.
//!
//! Processing time is what the thread ran, not what passed: a thread that lost its CPU in the middle
//! of a vserver's turn would make it owe what nobody had. So times too long to be usual are compared
//! with the thread's own clock, which takes a system call.

use std::collections::VecDeque;

use rustix::time::{ClockId, clock_gettime};
use weft_drivers::ticks;
use weft_stack::counters;
use weft_stack::frame::{Frame, prefetch};
use weft_stack::ip::address::AliasId;
use weft_stack::stack::Limits;
use weft_stack::time::{Duration, Instant};

/// Packets that a vserver of the usual weight may have processed in a round: a burst.
const PACKETS_PER_ROUND: i64 = 64;
/// Of a super-segment, each so many bytes count as a packet: it costs far less than what it is cut into.
const PACKET_BYTES: usize = 16 << 10;
/// The usual weight.
const WEIGHT: i64 = 100;
/// How long rounds stay shared after a second vserver had something: longer than the pauses of
/// whoever asks and waits for an answer.
const SHARED_FOR: Duration = Duration::from_secs(1);
/// Ticks of a microsecond until it was measured.
const TICKS_PER_US: i64 = 2_000;
/// Rounds between two measurements of it, once it is known.
const ROUNDS_PER_MEASUREMENT: u32 = 1 << 14;
/// The least time over which it is measured, microseconds.
const MEASUREMENT_US: u64 = 5_000;
/// What took longer may be time in which the thread did not run, microseconds.
const LONG_US: i64 = 200;
/// What a call of an application takes at most, which copies no more than 256 KiB, microseconds.
const CALL_US_MAX: i64 = 1_000;
/// Rounds after which the thread's clock is read again.
const ROUNDS_PER_READING: u32 = 64;
/// Who runs when nobody does.
const NOBODY: u32 = u32::MAX;

counters! {
    /// What one vserver used of a worker while it shared rounds with others.
    pub struct ShareStats, "Share" {
        /// Rounds in which it did something.
        rounds: "Rounds",
        /// Rounds that it began with a debt.
        rounds_owing: "RoundsOwing",
        /// Packets, both ways; a super-segment is one and one more for each 16 KiB.
        packets: "Packets",
        /// Processing time, microseconds.
        us: "Us",
        /// Longest time without a break, microseconds.
        us_max: "UsMax",
        /// Not booked, because the worker's thread did not run meanwhile, microseconds.
        us_away: "UsAway",
        /// Frames that waited in the input queue.
        queued: "Queued",
        /// Most frames that waited at a time.
        queued_max: "QueuedMax",
        /// Times that output, events or timers waited for another round.
        deferred: "Deferred",
    }
}

impl ShareStats {
    /// Adds those of another worker; of the longest and most, the greater.
    pub(crate) fn add(&mut self, other: &ShareStats) {
        let us_max = self.us_max.max(other.us_max);
        let queued_max = self.queued_max.max(other.queued_max);
        self.merge(other);
        (self.us_max, self.queued_max) = (us_max, queued_max);
    }
}

/// One vserver's part of a worker. What every packet needs stands together.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Share {
    /// What it may still use in this round; negative: it owes.
    packets: i64,
    ticks: i64,
    /// When it was last filled up, and when it last did something.
    round: u32,
    ran: u32,
    weight: i64,
    us_per_round: i64,
    ticks_used: u64,
    ticks_max: i64,
    /// Ticks used in this second and in the one before.
    second: u64,
    ticks_in: [u64; 2],
    /// Frames that wait.
    pub(super) queue: VecDeque<(AliasId, Frame)>,
    queue_max: usize,
    ticks_away: u64,
    stats: ShareStats,
}

impl Share {
    pub(crate) fn new(limits: &Limits) -> Share {
        let mut share = Share::default();
        share.set_limits(limits);
        share
    }

    /// Takes over weight and limits, at any time.
    pub(crate) fn set_limits(&mut self, limits: &Limits) {
        self.weight = i64::from(limits.weight.max(1));
        self.us_per_round = i64::from(limits.round_us.max(1));
        self.queue_max = limits.input_frames;
    }

    /// Configured weight.
    pub(crate) fn weight(&self) -> u32 {
        self.weight as u32
    }

    /// Moves on to a second.
    fn turn(&mut self, second: u64) {
        let [current, _] = self.ticks_in;
        let last = if self.second + 1 == second { current } else { 0 };
        (self.second, self.ticks_in) = (second, [0, last]);
    }

    /// Asks the processor for it.
    #[inline]
    pub(super) fn prefetch(&self) {
        prefetch(&self.packets);
        prefetch(&self.queue);
        prefetch(&self.stats.rounds);
    }

    /// Its output, events or timers wait for another round.
    pub(super) fn defer(&mut self) {
        self.stats.deferred += 1;
    }

    pub(super) fn is_spent(&self) -> bool {
        self.packets <= 0 || self.ticks <= 0
    }

    /// Frames in the input queue.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
    }
}

/// A reading of both clocks, by the thread whose one of them is.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    thread: usize,
    round: u32,
    ticks: u64,
    ran_ns: u64,
}

thread_local! {
    static THREAD: u8 = const { 0 };
}

/// Something that no other thread has.
fn this_thread() -> usize {
    THREAD.with(|t| std::ptr::from_ref(t).addr())
}

/// How long this thread ran, nanoseconds. Without the time in which it was ready and another ran.
fn ran_ns() -> u64 {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// The rounds of one worker.
#[derive(Debug)]
pub(crate) struct Shares {
    /// Rounds are shared, or were a moment ago and frames still wait.
    pub(super) active: bool,
    round: u32,
    shared_until: Instant,
    /// The vserver that last had something.
    pub(super) last: u32,
    /// Vservers with frames in their input queues.
    pub(super) backlog: VecDeque<u32>,
    /// Who runs, and since when.
    running: (u32, u64),
    /// Vservers that did something in this round, and in the one before.
    runners: u32,
    runners_before: u32,
    clock: fn() -> u64,
    ran_ns: fn() -> u64,
    reading: Reading,
    ticks_per_us: i64,
    /// It is not the first guess any more.
    is_measured: bool,
    /// Of the round.
    second: u64,
    measured: (u64, Instant),
}

fn second_of(now: Instant) -> u64 {
    now.as_millis() / 1_000
}

impl Default for Shares {
    fn default() -> Shares {
        Shares {
            active: false,
            round: 0,
            shared_until: Instant::default(),
            last: NOBODY,
            backlog: VecDeque::new(),
            running: (NOBODY, 0),
            runners: 0,
            runners_before: 0,
            clock: ticks::now,
            ran_ns,
            reading: Reading::default(),
            ticks_per_us: TICKS_PER_US,
            is_measured: false,
            second: 0,
            measured: (0, Instant::default()),
        }
    }
}

impl Shares {
    /// With clocks that tell what a test says, in microseconds, and of the thread in nanoseconds.
    #[cfg(test)]
    pub(super) fn with_clocks(clock: fn() -> u64, ran_ns: fn() -> u64) -> Shares {
        Shares {
            clock,
            ran_ns,
            ticks_per_us: 1,
            is_measured: true,
            measured: (u64::MAX, Instant::default()),
            ..Shares::default()
        }
    }

    /// A round begins.
    #[inline]
    pub(super) fn begin(&mut self, now: Instant) {
        self.round = self.round.wrapping_add(1);
        if self.active {
            self.runners_before = std::mem::take(&mut self.runners);
            self.active = now < self.shared_until || !self.backlog.is_empty();
            self.second = second_of(now);
            if !self.is_measured || self.round.is_multiple_of(ROUNDS_PER_MEASUREMENT) {
                self.measure(now);
            }
            let old = self.round.wrapping_sub(self.reading.round) >= ROUNDS_PER_READING;
            if old || self.reading.thread != this_thread() {
                self.read_clocks();
            }
        }
    }

    /// The thread sleeps: what it ran since the last reading says nothing any more.
    pub(super) fn slept(&mut self) {
        self.reading.thread = 0;
    }

    fn read_clocks(&mut self) -> Reading {
        let ran_ns = (self.ran_ns)();
        let ticks = (self.clock)();
        let reading = Reading { thread: this_thread(), round: self.round, ticks, ran_ns };
        std::mem::replace(&mut self.reading, reading)
    }

    /// How much of a long time that ends now the thread did not run.
    #[cold]
    fn away(&mut self, ticks: u64) -> u64 {
        if self.reading.thread != this_thread() {
            return ticks.saturating_sub((CALL_US_MAX * self.ticks_per_us) as u64);
        }
        let before = self.read_clocks();
        let passed = self.reading.ticks.saturating_sub(before.ticks);
        let ran_us = (self.reading.ran_ns - before.ran_ns) / 1000;
        passed.saturating_sub((ran_us + 1) * self.ticks_per_us as u64).min(ticks)
    }

    fn measure(&mut self, now: Instant) {
        let (ticks, at) = self.measured;
        if ticks == u64::MAX {
            return;
        }
        let us = now.saturating_since(at).as_micros() as u64;
        if ticks > 0 && us < MEASUREMENT_US {
            return;
        }
        if ticks > 0 {
            let passed = (self.clock)().saturating_sub(ticks);
            self.ticks_per_us = (passed / us).max(1) as i64;
            self.is_measured = true;
        }
        self.measured = ((self.clock)(), now);
    }

    /// Another vserver than the last has something.
    #[cold]
    #[inline(never)]
    pub(super) fn changes(&mut self, now: Instant, vserver: u32) {
        if self.last != NOBODY {
            self.shared_until = now + SHARED_FOR;
            self.active = true;
        }
        self.last = vserver;
    }

    /// Gives a vserver what is due to it since it was last seen.
    fn fill(&self, share: &mut Share) {
        let rounds = i64::from(self.round.wrapping_sub(share.round));
        if rounds == 0 {
            return;
        }
        share.round = self.round;
        share.stats.rounds += 1;
        let packets = (PACKETS_PER_ROUND * share.weight / WEIGHT).max(1);
        let ticks = (share.us_per_round * self.ticks_per_us * share.weight / WEIGHT).max(1);
        let own = u32::from(share.ran == self.round.wrapping_sub(1));
        if rounds == 1 && self.runners_before == own {
            // Nobody else had anything to do: it owes to nobody.
            (share.packets, share.ticks) = (packets, ticks);
        }
        share.packets = (share.packets + rounds.saturating_mul(packets)).min(packets);
        share.ticks = (share.ticks.saturating_add(rounds.saturating_mul(ticks))).min(ticks);
        share.stats.rounds_owing += u64::from(share.is_spent());
    }

    /// Whether a vserver may do something in this round.
    pub(super) fn may_run(&self, share: &mut Share) -> bool {
        self.fill(share);
        !share.is_spent()
    }

    /// The next frame of a vserver that it may have in this round.
    pub(super) fn next_waiting(&self, share: &mut Share) -> Option<(AliasId, Frame)> {
        if self.may_run(share) { share.queue.pop_front() } else { None }
    }

    /// What a vserver may still send in this round, in packets.
    pub(super) fn packets_left(share: &Share) -> usize {
        share.packets.max(1) as usize
    }

    /// Time since somebody else was booked.
    pub(super) fn lap(&mut self) -> u64 {
        let now = (self.clock)();
        now.saturating_sub(std::mem::replace(&mut self.running, (NOBODY, now)).1)
    }

    /// Whether the vserver that runs has used up its time; without booking.
    pub(super) fn is_over_time(&self, share: &Share) -> bool {
        let used = (self.clock)().saturating_sub(self.running.1) as i64;
        used >= share.ticks
    }

    /// What follows is done for this vserver; returns whose time, and how much, is to be booked.
    #[inline]
    pub(super) fn run(&mut self, vserver: u32) -> Option<(u32, u64)> {
        if self.running.0 == vserver {
            return None;
        }
        let now = (self.clock)();
        let (before, since) = std::mem::replace(&mut self.running, (vserver, now));
        (before != NOBODY).then(|| (before, now.saturating_sub(since)))
    }

    /// What follows is done for nobody.
    pub(super) fn rest(&mut self) -> Option<(u32, u64)> {
        if self.running.0 == NOBODY { None } else { self.run(NOBODY) }
    }

    /// Microseconds that a vserver used of the last whole second.
    pub(crate) fn used_last(&self, now: Instant, share: &mut Share) -> u64 {
        if share.second != second_of(now) {
            share.turn(second_of(now));
        }
        share.ticks_in[1] / self.ticks_per_us as u64
    }

    /// Books time.
    pub(super) fn book(&mut self, share: &mut Share, ticks: u64) {
        self.runners += u32::from(share.ran != self.round);
        share.ran = self.round;
        let long = ticks as i64 > LONG_US * self.ticks_per_us && self.is_measured;
        let away = if long { self.away(ticks) } else { 0 };
        let ticks = ticks - away;
        let spent = ticks as i64;
        share.ticks = share.ticks.saturating_sub(spent);
        share.ticks_used += ticks;
        if share.second != self.second {
            share.turn(self.second);
        }
        share.ticks_in[0] += ticks;
        share.ticks_max = share.ticks_max.max(spent);
        share.ticks_away += away;
    }

    /// What a vserver used.
    pub(crate) fn stats_of(&self, share: &Share) -> ShareStats {
        let us = |ticks: u64| ticks / self.ticks_per_us as u64;
        ShareStats {
            us: us(share.ticks_used),
            us_max: us(share.ticks_max as u64),
            us_away: us(share.ticks_away),
            ..share.stats.clone()
        }
    }
}

impl Share {
    /// Books a frame.
    #[inline]
    pub(super) fn count(&mut self, frame: &Frame) {
        let packets = 1 + frame.total_len() / PACKET_BYTES;
        self.packets -= packets as i64;
        self.stats.packets += packets as u64;
    }

    /// Puts a frame into the input queue; gives it back if the limit is reached. Of a device that is
    /// short of frames, whoever took them, it keeps none.
    pub(super) fn wait(&mut self, alias: AliasId, frame: Frame) -> Result<(), Frame> {
        if self.queue.len() >= self.queue_max {
            return Err(frame);
        }
        let frame = if frame.is_scarce() { frame.to_heap() } else { frame };
        self.queue.push_back((alias, frame));
        self.stats.queued += 1;
        self.stats.queued_max = self.stats.queued_max.max(self.queue.len() as u64);
        Ok(())
    }
}

#[cfg(test)]
mod quotas;
#[cfg(test)]
mod tests;
