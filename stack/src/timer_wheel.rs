//! Deadlines of one stack: a hierarchical wheel.
//!
//! Eight levels of 64 slots over ticks of 65 microseconds. A timer stands in the level of the
//! highest six-bit group in which its tick differs from the current one, so that every timer of
//! a level is due before every timer of the levels above, and a slot is found by counting zeros in
//! one word. When the clock reaches a slot of a higher level, its timers move down; each moves at
//! most seven times. Scheduling and cancelling take the same few steps whatever is pending.

use crate::time::Instant;

/// Nanoseconds per tick, as a power of two.
const TICK_BITS: u32 = 16;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = 8;
/// The end of time: 64 bits of nanoseconds, rounded down so that the levels hold it.
const TICK_MAX: u64 = u64::MAX >> TICK_BITS;
/// The list of timers that are due.
const EXPIRED: usize = LEVELS * SLOTS;
const NONE: u32 = u32::MAX;

/// Names a scheduled timer until it fires or is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerHandle {
    index: u32,
    generation: u32,
}

#[derive(Debug)]
struct Node<T> {
    /// `None`: the node is free.
    key: Option<T>,
    tick: u64,
    generation: u32,
    list: u16,
    prev: u32,
    /// Also links free nodes.
    next: u32,
}

/// Timers with a key of type `T`.
#[derive(Debug)]
#[repr(C)]
pub struct TimerWheel<T> {
    /// First of the timers that are due: looked at for every packet, so it stands here.
    due: u32,
    /// Which slots of a level have timers.
    occupied: [u64; LEVELS],
    /// The tick up to which everything was expired.
    elapsed: u64,
    len: usize,
    /// First node of each list.
    heads: Box<[u32]>,
    nodes: Vec<Node<T>>,
    free: u32,
}

impl<T> Default for TimerWheel<T> {
    fn default() -> Self {
        TimerWheel {
            nodes: Vec::new(),
            free: NONE,
            heads: vec![NONE; EXPIRED].into_boxed_slice(),
            due: NONE,
            occupied: [0; LEVELS],
            elapsed: 0,
            len: 0,
        }
    }
}

impl<T> TimerWheel<T> {
    /// Asks for what [`TimerWheel::next_deadline`] reads.
    #[inline]
    pub(crate) fn prefetch(&self) {
        crate::frame::prefetch(&self.occupied);
        crate::frame::prefetch(&self.elapsed);
        crate::frame::prefetch(&self.due);
    }

    /// Adds a timer that fires at or shortly after `at`, never before (but for the last tick of the
    /// 584 years that an [`Instant`] can name).
    pub fn schedule(&mut self, at: Instant, key: T) -> TimerHandle {
        let tick = at.as_nanos().div_ceil(1 << TICK_BITS).min(TICK_MAX);
        let index = self.take_node(key, tick);
        self.place(index);
        self.len += 1;
        TimerHandle { index, generation: self.nodes[index as usize].generation }
    }

    fn take_node(&mut self, key: T, tick: u64) -> u32 {
        if self.free == NONE {
            let (list, generation) = (EXPIRED as u16, 0);
            self.nodes.push(Node {
                key: Some(key),
                tick,
                generation,
                list,
                prev: NONE,
                next: NONE,
            });
            return (self.nodes.len() - 1) as u32;
        }
        let index = self.free;
        let node = &mut self.nodes[index as usize];
        self.free = node.next;
        node.key = Some(key);
        node.tick = tick;
        index
    }

    /// Removes a timer; `None` if it fired already.
    pub fn cancel(&mut self, handle: TimerHandle) -> Option<T> {
        let node = self.nodes.get(handle.index as usize)?;
        if node.generation != handle.generation || node.key.is_none() {
            return None;
        }
        self.unlink(handle.index);
        self.release(handle.index)
    }

    /// The next expired timer, removed.
    pub fn pop_expired(&mut self, now: Instant) -> Option<T> {
        let now = now.as_nanos() >> TICK_BITS;
        loop {
            let due = self.due;
            if due != NONE {
                self.unlink(due);
                return self.release(due);
            }
            match self.next_slot() {
                Some((list, tick)) if tick <= now => {
                    self.elapsed = self.elapsed.max(tick);
                    self.cascade(list);
                }
                // No slot starts before `now`, so no timer can be passed over.
                _ => {
                    self.elapsed = self.elapsed.max(now);
                    return None;
                }
            }
        }
    }

    /// When to call [`TimerWheel::pop_expired`] next; may be earlier than the first deadline, never
    /// later.
    pub fn next_deadline(&self) -> Option<Instant> {
        let tick = if self.due == NONE { self.next_slot()?.1 } else { self.elapsed };
        Some(Instant::from_nanos(tick << TICK_BITS))
    }

    /// Timers scheduled.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is scheduled.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first occupied slot and the tick at which it starts.
    fn next_slot(&self) -> Option<(usize, u64)> {
        let level = self.occupied.iter().position(|slots| *slots != 0)?;
        let slot = self.occupied[level].trailing_zeros() as usize;
        let shift = SLOT_BITS * level as u32;
        let above = self.elapsed >> (shift + SLOT_BITS) << (shift + SLOT_BITS);
        Some((level * SLOTS + slot, above | (slot as u64) << shift))
    }

    /// Moves the timers of a slot that was reached to where they belong now.
    fn cascade(&mut self, list: usize) {
        while self.heads[list] != NONE {
            let index = self.heads[list];
            self.unlink(index);
            self.place(index);
        }
    }

    fn place(&mut self, index: u32) {
        let tick = self.nodes[index as usize].tick;
        if tick <= self.elapsed {
            self.link(index, EXPIRED);
            return;
        }
        let level = (tick ^ self.elapsed).ilog2() / SLOT_BITS;
        let slot = (tick >> (level * SLOT_BITS)) as usize % SLOTS;
        self.occupied[level as usize] |= 1 << slot;
        self.link(index, level as usize * SLOTS + slot);
    }

    /// The first of a list.
    fn head(&mut self, list: usize) -> &mut u32 {
        if list == EXPIRED { &mut self.due } else { &mut self.heads[list] }
    }

    fn link(&mut self, index: u32, list: usize) {
        let first = std::mem::replace(self.head(list), index);
        let node = &mut self.nodes[index as usize];
        (node.list, node.prev, node.next) = (list as u16, NONE, first);
        if first != NONE {
            self.nodes[first as usize].prev = index;
        }
    }

    fn unlink(&mut self, index: u32) {
        let node = &self.nodes[index as usize];
        let (list, prev, next) = (node.list as usize, node.prev, node.next);
        if next != NONE {
            self.nodes[next as usize].prev = prev;
        }
        if prev != NONE {
            self.nodes[prev as usize].next = next;
            return;
        }
        *self.head(list) = next;
        if next == NONE && list != EXPIRED {
            self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
        }
    }

    fn release(&mut self, index: u32) -> Option<T> {
        let free = std::mem::replace(&mut self.free, index);
        let node = &mut self.nodes[index as usize];
        node.generation = node.generation.wrapping_add(1);
        node.next = free;
        self.len -= 1;
        node.key.take()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    const TICK: u64 = 1 << TICK_BITS;

    #[test]
    fn the_end_of_time_can_be_waited_for() {
        let mut w = TimerWheel::default();
        for at in [u64::MAX, u64::MAX - TICK, u64::MAX - 1] {
            w.schedule(Instant::from_nanos(at), at);
        }
        assert_eq!(w.pop_expired(Instant::from_nanos(1 << 60)), None);
        assert!(w.next_deadline().is_some());
    }

    #[test]
    fn a_timer_fires_once_within_a_tick_and_never_before() {
        for at in [0, 1, TICK - 1, TICK, 5_000_000_000, 1 << 50, u64::MAX >> 8] {
            let mut w = TimerWheel::default();
            w.schedule(Instant::from_nanos(at), 'x');
            if at > 0 {
                assert_eq!(w.pop_expired(Instant::from_nanos(at - 1)), None, "{at}");
            }
            assert!(w.next_deadline().unwrap() <= Instant::from_nanos(at + TICK));
            assert_eq!(w.pop_expired(Instant::from_nanos(at + TICK)), Some('x'), "{at}");
            assert_eq!((w.pop_expired(Instant::from_nanos(at + TICK)), w.len()), (None, 0));
            assert_eq!(w.next_deadline(), None);
        }
    }

    #[test]
    fn a_handle_is_stale_after_its_timer_fired() {
        let mut w = TimerWheel::default();
        let first = w.schedule(Instant::from_millis(1), 1);
        assert_eq!(w.pop_expired(Instant::from_millis(10)), Some(1));
        let second = w.schedule(Instant::from_millis(20), 2);
        assert_eq!(w.cancel(first), None);
        assert_eq!(w.cancel(second), Some(2));
        assert_eq!(w.cancel(second), None);
        assert!(w.is_empty());
    }

    #[test]
    fn following_the_deadlines_reaches_a_far_timer_in_few_steps() {
        let mut w = TimerWheel::default();
        let at = Instant::from_millis(123_456_789);
        w.schedule(at, ());
        let mut steps = 0;
        while let Some(next) = w.next_deadline() {
            steps += 1;
            if w.pop_expired(next).is_some() {
                assert!(next >= at);
            }
        }
        assert!(steps <= LEVELS, "{steps}");
    }

    #[derive(Clone, Debug)]
    enum Op {
        Schedule(u64),
        Cancel(usize),
        Advance(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        let span = prop_oneof![0..3 * TICK, 0..300 * TICK, 0..(1u64 << 40), 0..(1u64 << 48)];
        prop_oneof![
            4 => span.clone().prop_map(Op::Schedule),
            1 => any::<usize>().prop_map(Op::Cancel),
            3 => span.prop_map(Op::Advance),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_an_ordered_map(ops in proptest::collection::vec(op(), 1..120)) {
            let mut wheel = TimerWheel::default();
            let mut model: BTreeMap<u32, (u64, TimerHandle)> = BTreeMap::new();
            let mut now = 0u64;
            for (key, op) in ops.into_iter().enumerate() {
                let key = key as u32;
                match op {
                    Op::Schedule(after) => {
                        let handle = wheel.schedule(Instant::from_nanos(now + after), key);
                        model.insert(key, (now + after, handle));
                    }
                    Op::Cancel(n) if !model.is_empty() => {
                        let key = *model.keys().nth(n % model.len()).unwrap();
                        let (_, handle) = model.remove(&key).unwrap();
                        prop_assert_eq!(wheel.cancel(handle), Some(key));
                    }
                    Op::Cancel(_) => {}
                    Op::Advance(by) => {
                        now += by;
                        while let Some(key) = wheel.pop_expired(Instant::from_nanos(now)) {
                            let (at, _) = model.remove(&key).unwrap();
                            prop_assert!(at <= now, "fired {} early", at - now);
                        }
                        let late = model.values().filter(|(at, _)| at + TICK <= now).count();
                        prop_assert_eq!(late, 0);
                    }
                }
                prop_assert_eq!(wheel.len(), model.len());
                if let Some(first) = model.values().map(|(at, _)| *at).min() {
                    prop_assert!(wheel.next_deadline().unwrap().as_nanos() < first + TICK);
                }
            }
        }
    }
}
