//! A device that treats frames as a bad link does, both directions, the same on every run for the
//! same seed and the same calls.
//!
//! It is a wire: super-segments are cut and checksums completed first, so that each frame has its
//! own fate and a flipped bit is really wrong.

use std::collections::VecDeque;
use std::io;

use weft_stack::frame::{Checksum, Frame, Gso};
use weft_stack::rng::Rng;

use crate::device::{Device, Medium};
use crate::segment::Cut;

/// Frames that wait for the device inside before no more are taken.
const OUT_FRAMES_MAX: usize = 256;

/// How bad the link is. Chances are per mille of frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultConfig {
    /// Same seed, same faults.
    pub seed: u64,
    /// Chance to lose a frame.
    pub loss: u32,
    /// Chance that a frame comes twice.
    pub duplicate: u32,
    /// Chance that a frame is overtaken by one to `reorder_frames` others.
    pub reorder: u32,
    /// Most frames that overtake.
    pub reorder_frames: u32,
    /// Chance that one bit is wrong.
    pub corrupt: u32,
    /// Every frame comes this many frames late.
    pub delay_frames: u32,
    /// Most frames that one call of transmit takes, by chance fewer; 0: no limit.
    pub accept_max: usize,
}

weft_stack::counters! {
    /// What was done to frames, both directions together.
    pub struct FaultStats, "Fault" {
        /// Frames lost.
        lost: "Lost",
        /// Frames that came twice.
        duplicated: "Duplicated",
        /// Frames that were overtaken.
        reordered: "Reordered",
        /// Frames with a wrong bit.
        corrupted: "Corrupted",
        /// Frames that came late because every frame does.
        delayed: "Delayed",
        /// Calls of transmit that took less than was offered.
        refused: "Refused",
        /// Super-segments that could not be cut, lost.
        malformed: "Malformed",
    }
}

/// Frames on their way in one direction.
struct Lane {
    rng: Rng,
    /// Held frames, and after how many others they go on.
    held: Vec<(u32, Frame)>,
    /// Frames that go on now.
    out: VecDeque<Frame>,
}

impl Lane {
    fn new(seed: u64) -> Lane {
        Lane { rng: Rng::from_u64(seed), held: Vec::new(), out: VecDeque::new() }
    }

    fn happens(&mut self, per_mille: u32) -> bool {
        // No draw for what is off: switching one fault on leaves the others as they were.
        per_mille > 0 && self.rng.below(1000) < u64::from(per_mille)
    }

    /// Takes one frame of a sender.
    fn enter(
        &mut self,
        frame: Frame,
        medium: Medium,
        config: &FaultConfig,
        stats: &mut FaultStats,
    ) {
        let plain = matches!(frame.meta.checksum, Checksum::Complete | Checksum::Verified)
            && frame.meta.gso == Gso::None
            && frame.frags.is_empty();
        if plain {
            self.pass(frame, config, stats);
            return;
        }
        let Ok(mut cut) = Cut::new(&frame, medium) else {
            stats.malformed += 1;
            return;
        };
        while let Some(len) = cut.next_len() {
            let mut part = Frame::heap_with_capacity(frame.headroom(), len);
            cut.write_next(part.push_back(len));
            part.meta.flow_hash = frame.meta.flow_hash;
            self.pass(part, config, stats);
        }
    }

    /// Decides what becomes of one frame of the wire.
    fn pass(&mut self, mut frame: Frame, config: &FaultConfig, stats: &mut FaultStats) {
        self.age();
        if self.happens(config.loss) {
            stats.lost += 1;
            return;
        }
        if self.happens(config.corrupt) && !frame.is_empty() {
            stats.corrupted += 1;
            let bit = self.rng.below(frame.len() as u64 * 8) as usize;
            frame.data_mut()[bit / 8] ^= 1 << (bit % 8);
            frame.meta.checksum = Checksum::Complete;
        }
        if self.happens(config.duplicate) {
            stats.duplicated += 1;
            self.out.push_back(frame.to_heap());
        }
        let mut wait = config.delay_frames;
        stats.delayed += u64::from(wait > 0);
        if config.reorder_frames > 0 && self.happens(config.reorder) {
            stats.reordered += 1;
            wait += 1 + self.rng.below(u64::from(config.reorder_frames)) as u32;
        }
        if wait == 0 {
            self.out.push_back(frame);
        } else {
            self.held.push((wait, frame));
        }
    }

    /// Another frame passed, or time without any: held frames come nearer.
    fn age(&mut self) {
        let mut i = 0;
        while i < self.held.len() {
            self.held[i].0 -= 1;
            if self.held[i].0 == 0 {
                let (_, frame) = self.held.remove(i);
                self.out.push_back(frame);
            } else {
                i += 1;
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.held.is_empty() && self.out.is_empty()
    }
}

/// A device behind a bad link.
pub struct Fault<D> {
    inner: D,
    config: FaultConfig,
    tx: Lane,
    rx: Lane,
    accept: Rng,
    stats: FaultStats,
    arrived: Vec<Frame>,
}

impl<D: Device> Fault<D> {
    /// Puts a bad link before `inner`.
    pub fn new(inner: D, config: FaultConfig) -> Fault<D> {
        let lane = |n| Lane::new(config.seed.wrapping_mul(3).wrapping_add(n));
        Fault {
            inner,
            config,
            tx: lane(0),
            rx: lane(1),
            accept: lane(2).rng,
            stats: FaultStats::default(),
            arrived: Vec::new(),
        }
    }

    /// What was done so far.
    pub fn faults(&self) -> &FaultStats {
        &self.stats
    }

    /// The device inside; held frames are lost.
    pub fn into_inner(self) -> D {
        self.inner
    }

    fn accepted(&mut self, offered: usize) -> usize {
        let room = OUT_FRAMES_MAX.saturating_sub(self.tx.out.len());
        let mut n = offered.min(room);
        if self.config.accept_max > 0 {
            n = n.min(self.accept.below(self.config.accept_max as u64 + 1) as usize);
        }
        self.stats.refused += u64::from(n < offered);
        n
    }
}

impl<D: Device> Device for Fault<D> {
    crate::forward_facts!(inner);

    fn receive(&mut self, burst: &mut Vec<Frame>, max: usize) -> io::Result<usize> {
        let room = max.saturating_sub(self.rx.out.len());
        let n = self.inner.receive(&mut self.arrived, room)?;
        let medium = self.inner.caps().medium;
        for frame in self.arrived.drain(..) {
            self.rx.enter(frame, medium, &self.config, &mut self.stats);
        }
        if n == 0 {
            self.rx.age();
        }
        let n = max.min(self.rx.out.len());
        burst.extend(self.rx.out.drain(..n));
        Ok(n)
    }

    fn transmit(&mut self, burst: &mut VecDeque<Frame>) -> io::Result<usize> {
        let taken = self.accepted(burst.len());
        let medium = self.inner.caps().medium;
        for frame in burst.drain(..taken) {
            self.tx.enter(frame, medium, &self.config, &mut self.stats);
        }
        self.inner.transmit(&mut self.tx.out)?;
        Ok(taken)
    }

    /// Held frames count as in flight: call again, and they go on, also when nothing follows them.
    fn flush(&mut self) -> io::Result<bool> {
        self.tx.age();
        self.inner.transmit(&mut self.tx.out)?;
        let more = self.inner.flush()?;
        Ok(more || !self.tx.is_empty() || !self.rx.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{MemConfig, pair};

    const FRAMES: u32 = 2000;

    /// Sends numbered frames through a bad link; returns the numbers as they came.
    fn run(config: FaultConfig) -> (Vec<u32>, FaultStats) {
        let (a, mut b) = pair(&MemConfig::default()).unwrap();
        let mut a = Fault::new(a, config);
        let mut burst: VecDeque<Frame> = (0..FRAMES)
            .map(|i| Frame::from_heap(0, &[&i.to_be_bytes()[..], &[0; 60]].concat()))
            .collect();
        let mut got = Vec::new();
        loop {
            a.transmit(&mut burst).unwrap();
            let more = a.flush().unwrap();
            while b.receive(&mut got, 64).unwrap() > 0 {}
            if burst.is_empty() && !more {
                break;
            }
        }
        let number = |f: &Frame| u32::from_be_bytes(f.data()[..4].try_into().unwrap());
        (got.iter().map(number).collect(), a.faults().clone())
    }

    #[test]
    fn a_good_link_changes_nothing() {
        let (got, stats) = run(FaultConfig::default());
        assert!(got.into_iter().eq(0..FRAMES));
        let nothing = FaultStats { refused: stats.refused, ..FaultStats::default() };
        assert_eq!(stats, nothing);
    }

    #[test]
    fn every_fault_happens_is_counted_and_repeats() {
        let base = FaultConfig { seed: 7, ..FaultConfig::default() };
        let (got, stats) = run(FaultConfig { loss: 100, ..base });
        assert_eq!(got.len() as u64, u64::from(FRAMES) - stats.lost);
        assert!((100..320).contains(&stats.lost), "{}", stats.lost);

        let (got, stats) = run(FaultConfig { duplicate: 100, ..base });
        assert_eq!(got.len() as u64, u64::from(FRAMES) + stats.duplicated);
        assert!(stats.duplicated > 0);

        let reorder = FaultConfig { reorder: 100, reorder_frames: 5, ..base };
        let (mut got, stats) = run(reorder);
        assert_eq!(run(reorder).0, got);
        assert!(stats.reordered > 0 && !got.is_sorted());
        got.sort_unstable();
        assert!(got.into_iter().eq(0..FRAMES));

        let (got, stats) = run(FaultConfig { delay_frames: 3, ..base });
        assert!(got.into_iter().eq(0..FRAMES) && stats.delayed == u64::from(FRAMES));

        let (got, stats) = run(FaultConfig { accept_max: 3, ..base });
        assert!(got.into_iter().eq(0..FRAMES) && stats.refused > 600);
    }

    #[test]
    fn corruption_is_seen_on_receive_and_is_not_verified() {
        let (mut a, b) = pair(&MemConfig::default()).unwrap();
        let mut b = Fault::new(b, FaultConfig { corrupt: 1000, ..FaultConfig::default() });
        let mut frame = Frame::from_heap(0, &[0; 60]);
        frame.meta.checksum = Checksum::Verified;
        a.transmit(&mut VecDeque::from([frame])).unwrap();
        let mut got = Vec::new();
        b.receive(&mut got, 8).unwrap();
        assert_eq!(got[0].data().iter().map(|b| b.count_ones()).sum::<u32>(), 1);
        assert_eq!(got[0].meta.checksum, Checksum::Complete);
        assert_eq!(b.faults().corrupted, 1);
    }

    #[test]
    fn held_frames_come_without_others_after_them() {
        let (mut a, b) = pair(&MemConfig::default()).unwrap();
        let mut b = Fault::new(b, FaultConfig { delay_frames: 2, ..FaultConfig::default() });
        a.transmit(&mut VecDeque::from([Frame::from_heap(0, &[0; 60])])).unwrap();
        let mut got = Vec::new();
        assert_eq!(b.receive(&mut got, 8).unwrap(), 0);
        assert!(b.flush().unwrap());
        assert_eq!(b.receive(&mut got, 8).unwrap(), 0);
        assert_eq!(b.receive(&mut got, 8).unwrap(), 1);
        assert!(!b.flush().unwrap());
    }
}
