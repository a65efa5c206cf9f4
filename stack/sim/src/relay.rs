//! The faults of a [`LinkSpec`] for frames that come from outside the simulation, whose owner has
//! the time and the two ends.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use weft_stack::frame::FrameMeta;
use weft_stack::rng::Rng;
use weft_stack::time::Instant;

use crate::link::{Direction, LinkSpec, LinkStats, Wire};

/// When it arrives, its number, at which end, and the frame.
type UnderWay = (Instant, u64, usize, Vec<u8>);

/// One direction.
#[derive(Debug)]
struct Way {
    spec: LinkSpec,
    state: Direction,
    stats: LinkStats,
}

/// A link between ends 0 and 1. Which frames meet which fault depends on the seed and on the order
/// and time of the frames alone.
#[derive(Debug)]
pub struct Relay {
    ways: [Way; 2],
    rng: Rng,
    serial: u64,
    under_way: BinaryHeap<Reverse<UnderWay>>,
}

impl Relay {
    /// A relay with the faults of `specs[0]` from end 0 to end 1 and of `specs[1]` back.
    pub fn new(specs: [LinkSpec; 2], seed: u64) -> Relay {
        let way = |spec| Way { spec, state: Direction::default(), stats: LinkStats::default() };
        let rng = Rng::from_u64(seed);
        Relay { ways: specs.map(way), rng, serial: 0, under_way: BinaryHeap::new() }
    }

    /// A frame enters at end `from` (0 or 1). Instants never go back.
    pub fn push(&mut self, now: Instant, from: usize, frame: &[u8]) {
        let mut wire = Wire { data: frame.to_vec(), meta: FrameMeta::default(), seen: None };
        let way = &mut self.ways[from];
        let arrivals = way.spec.pass(&mut way.state, &mut way.stats, &mut self.rng, now, &mut wire);
        if let Some(at) = arrivals.again {
            self.enter(at, 1 - from, wire.data.clone());
        }
        if let Some(at) = arrivals.first {
            self.enter(at, 1 - from, wire.data);
        }
    }

    fn enter(&mut self, at: Instant, to: usize, data: Vec<u8>) {
        self.serial += 1;
        self.under_way.push(Reverse((at, self.serial, to, data)));
    }

    /// When the next frame leaves.
    pub fn next(&self) -> Option<Instant> {
        self.under_way.peek().map(|Reverse(next)| next.0)
    }

    /// A frame that leaves by `now`, and at which end.
    pub fn pop(&mut self, now: Instant) -> Option<(usize, Vec<u8>)> {
        if self.next()? > now {
            return None;
        }
        self.under_way.pop().map(|Reverse((_, _, to, data))| (to, data))
    }

    /// What happened so far, from end 0 and from end 1.
    pub fn stats(&self) -> [LinkStats; 2] {
        [self.ways[0].stats, self.ways[1].stats]
    }
}

#[cfg(test)]
mod tests {
    use weft_stack::time::Duration;

    use super::*;

    fn run(seed: u64) -> (Vec<(usize, u8)>, [LinkStats; 2]) {
        let spec = LinkSpec {
            loss: 0.1,
            reorder: 0.2,
            duplicate: 0.1,
            latency: Duration::from_millis(1),
            ..LinkSpec::default()
        };
        let mut relay = Relay::new([spec, LinkSpec::default()], seed);
        let mut got = Vec::new();
        for i in 0..200u8 {
            let now = Instant::from_micros(u64::from(i) * 100);
            relay.push(now, 0, &[i; 60]);
            relay.push(now, 1, &[i; 60]);
            got.extend(std::iter::from_fn(|| relay.pop(now)).map(|(to, data)| (to, data[0])));
        }
        assert!(relay.next().is_some_and(|at| at > Instant::from_micros(19_900)));
        let end = Instant::from_millis(100);
        got.extend(std::iter::from_fn(|| relay.pop(end)).map(|(to, data)| (to, data[0])));
        assert_eq!(relay.next(), None);
        (got, relay.stats())
    }

    #[test]
    fn a_relay_has_the_faults_of_its_direction_and_repeats_them_for_a_seed() {
        let (got, stats) = run(1);
        assert_eq!((got.clone(), stats), run(1));
        assert_ne!(got, run(2).0);
        assert!(stats[0].lost > 5 && stats[0].duplicated > 5 && stats[0].reordered > 10);
        let back: Vec<u8> = got.iter().filter(|(to, _)| *to == 0).map(|(_, b)| *b).collect();
        assert!(back.iter().copied().eq(0..200), "the way back is clean");
        let forth = got.iter().filter(|(to, _)| *to == 1).count() as u64;
        assert_eq!(forth, 200 - stats[0].lost + stats[0].duplicated);
    }
}
