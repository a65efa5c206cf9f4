//! The scheduler in virtual time.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use weft_stack::time::{Duration, Instant};

use super::bucket::{Lateness, ticks};
use super::node::{Cost, Place, Shape, State};
use super::tree::{Planned, ROOT, Tree, Unit};
use crate::config::qos::Rates;

const MBIT: u64 = 1_000_000;
const FRAME: u32 = 1514;
const STEP: Duration = Duration::from_micros(50);

#[derive(Clone, Copy, Debug)]
struct Test {
    leaf: u32,
    bytes: u32,
    ect: bool,
    made: Instant,
}

impl Unit for Test {
    fn cost(&self) -> Cost {
        Cost { bytes: self.bytes, packets: 1 }
    }

    fn mark(&mut self) -> bool {
        self.ect
    }
}

/// Nodes as (parent, rates); the first is the root.
fn plan(nodes: &[(u32, Rates)], held: bool, workers: usize) -> Vec<Planned> {
    let mut made: Vec<Planned> = Vec::new();
    for (i, (parent, rates)) in nodes.iter().enumerate() {
        let parent = (i > 0).then_some(*parent);
        let above = parent.map(|p| &made[p as usize]);
        let ceiling = rates.limit.into_iter().chain(above.and_then(|a| a.shape.ceiling)).min();
        let scarce = above.is_some_and(|a| a.scarce) || rates.limit.is_some();
        made.push(Planned {
            parent,
            shape: Shape::new(*rates, ceiling),
            state: Arc::<State>::default(),
            place: Place::new(workers),
            scarce,
            held,
        });
    }
    made
}

fn none() -> Rates {
    Rates::default()
}

fn limit(mbit: u64) -> Rates {
    Rates { limit: Some(mbit * MBIT), ..none() }
}

/// What each leaf sent in bytes from `from` on, with its longest wait.
#[derive(Default, Debug)]
struct Sent {
    bytes: HashMap<u32, u64>,
    packets: HashMap<u32, u64>,
    longest: HashMap<u32, Duration>,
}

impl Sent {
    fn mbit(&self, leaf: u32, seconds: f64) -> f64 {
        *self.bytes.get(&leaf).unwrap_or(&0) as f64 * 8e-6 / seconds
    }
}

/// Keeps `greedy` leaves full for `ms` on every tree and counts what comes out after a second.
fn run(
    trees: &mut [Tree<Test>],
    greedy: &[(usize, u32, u32)],
    ms: u64,
    mut also: impl FnMut(Instant, &mut [Tree<Test>]),
) -> Sent {
    let mut sent = Sent::default();
    let begin = Instant::from_millis(1_000);
    let mut now = begin;
    while now < begin + Duration::from_millis(1_000 + ms) {
        for (tree, leaf, bytes) in greedy {
            while trees[*tree].room(*leaf) > 0 {
                let unit = Test { leaf: *leaf, bytes: *bytes, ect: false, made: now };
                trees[*tree].enqueue(now, *leaf, unit);
            }
        }
        also(now, trees);
        let count = trees.len();
        // Whichever worker runs first, in turn.
        for i in 0..count {
            let tree = &mut trees[(i + (now.as_micros() / 50) as usize) % count];
            while let Some(unit) = tree.dequeue(now) {
                if now >= begin + Duration::from_secs(1) {
                    *sent.bytes.entry(unit.leaf).or_default() += u64::from(unit.bytes);
                    *sent.packets.entry(unit.leaf).or_default() += 1;
                    let longest = sent.longest.entry(unit.leaf).or_default();
                    *longest = (*longest).max(now.saturating_since(unit.made));
                }
                if trees_full(&sent) {
                    return sent;
                }
                let _ = i;
                if let Some((_, leaf, bytes)) = greedy.iter().find(|g| g.1 == unit.leaf)
                    && tree.room(*leaf) > 0
                {
                    tree.enqueue(
                        now,
                        *leaf,
                        Test { leaf: *leaf, bytes: *bytes, ect: false, made: now },
                    );
                }
            }
        }
        now += STEP;
    }
    sent
}

/// A tree without any limit would never end.
fn trees_full(sent: &Sent) -> bool {
    sent.bytes.values().sum::<u64>() > 10_000_000_000
}

fn one(nodes: &[(u32, Rates)]) -> [Tree<Test>; 1] {
    [Tree::new(&plan(nodes, true, 1), 0)]
}

fn near(got: f64, wanted: f64, percent: f64) {
    assert!((got - wanted).abs() <= wanted * percent / 100.0, "{got} is not {wanted}");
}

#[test]
fn a_limit_is_exact_in_bits_and_in_packets() {
    for rate in [1, 20, 100, 1000] {
        let mut trees = one(&[(0, none()), (0, limit(rate))]);
        let sent = run(&mut trees, &[(0, 1, FRAME)], 2_000, |_, _| {});
        near(sent.mbit(1, 2.0), rate as f64, 0.5);
    }
    let packets = Rates { limit_packets: Some(5_000), ..none() };
    let mut trees = one(&[(0, none()), (0, packets)]);
    let sent = run(&mut trees, &[(0, 1, 64)], 2_000, |_, _| {});
    near(sent.packets[&1] as f64, 10_000.0, 0.5);
}

#[test]
fn weights_share_what_there_is() {
    let weight = |weight| Rates { weight, ..none() };
    let mut trees = one(&[(0, limit(100)), (0, weight(100)), (0, weight(300))]);
    let sent = run(&mut trees, &[(0, 1, FRAME), (0, 2, FRAME)], 2_000, |_, _| {});
    near(sent.mbit(1, 2.0), 25.0, 1.0);
    near(sent.mbit(2, 2.0), 75.0, 1.0);
}

#[test]
fn frames_of_unlike_size_share_bytes_by_weight() {
    let mut trees = one(&[(0, limit(100)), (0, none()), (0, none())]);
    let sent = run(&mut trees, &[(0, 1, 200), (0, 2, FRAME)], 2_000, |_, _| {});
    near(sent.mbit(1, 2.0), 50.0, 1.0);
    near(sent.mbit(2, 2.0), 50.0, 1.0);
}

#[test]
fn a_guarantee_holds_beside_a_greedy_neighbour_of_better_priority() {
    let sure = Rates { guarantee: Some(30 * MBIT), priority: 7, ..none() };
    let greedy = Rates { priority: 0, weight: 10_000, ..none() };
    let mut trees = one(&[(0, limit(100)), (0, sure), (0, greedy)]);
    let sent = run(&mut trees, &[(0, 1, FRAME), (0, 2, FRAME)], 2_000, |_, _| {});
    near(sent.mbit(1, 2.0), 30.0, 1.0);
    near(sent.mbit(2, 2.0), 70.0, 1.0);
}

#[test]
fn a_guarantee_in_packets_holds_too() {
    let sure = Rates { guarantee_packets: Some(10_000), priority: 7, ..none() };
    let greedy = Rates { priority: 0, ..none() };
    let mut trees = one(&[(0, limit(100)), (0, sure), (0, greedy)]);
    let sent = run(&mut trees, &[(0, 1, 100), (0, 2, FRAME)], 2_000, |_, _| {});
    near(sent.packets[&1] as f64, 20_000.0, 1.0);
    near(sent.mbit(1, 2.0) + sent.mbit(2, 2.0), 100.0, 1.0);
}

#[test]
fn a_guarantee_below_the_share_adds_nothing_to_it() {
    let sure = Rates { guarantee: Some(30 * MBIT), ..none() };
    let mut trees = one(&[(0, limit(100)), (0, sure), (0, none())]);
    let sent = run(&mut trees, &[(0, 1, FRAME), (0, 2, FRAME)], 2_000, |_, _| {});
    near(sent.mbit(1, 2.0), 50.0, 2.0);
}

#[test]
fn a_guarantee_that_is_not_used_is_lent() {
    let sure = Rates { guarantee: Some(90 * MBIT), ..none() };
    let mut trees = one(&[(0, limit(100)), (0, sure), (0, none())]);
    let sent = run(&mut trees, &[(0, 2, FRAME)], 2_000, |_, _| {});
    near(sent.mbit(2, 2.0), 100.0, 0.5);
}

#[test]
fn priority_goes_first_and_the_rest_is_for_the_others() {
    let first = Rates { priority: 0, limit: Some(40 * MBIT), ..none() };
    let mut trees = one(&[(0, limit(100)), (0, first), (0, none()), (0, none())]);
    let all = [(0, 1, FRAME), (0, 2, FRAME), (0, 3, FRAME)];
    let sent = run(&mut trees, &all, 2_000, |_, _| {});
    near(sent.mbit(1, 2.0), 40.0, 1.0);
    near(sent.mbit(2, 2.0), 30.0, 2.0);
    near(sent.mbit(3, 2.0), 30.0, 2.0);
}

#[test]
fn groups_borrow_from_each_other_up_to_their_ceilings() {
    // link 100, group a (ceiling 60) with two, group b with one
    let nodes =
        [(0, limit(100)), (0, limit(60)), (0, none()), (1, none()), (1, none()), (2, none())];
    let mut trees = one(&nodes);
    let alone = run(&mut trees, &[(0, 3, FRAME), (0, 4, FRAME)], 1_000, |_, _| {});
    near(alone.mbit(3, 1.0), 30.0, 1.5);
    near(alone.mbit(4, 1.0), 30.0, 1.5);
    let mut trees = one(&nodes);
    let all = [(0, 3, FRAME), (0, 4, FRAME), (0, 5, FRAME)];
    let sent = run(&mut trees, &all, 1_000, |_, _| {});
    near(sent.mbit(5, 1.0), 50.0, 1.5);
    near(sent.mbit(3, 1.0) + sent.mbit(4, 1.0), 50.0, 1.5);
}

#[test]
fn a_throttled_vserver_keeps_nobody_waiting() {
    let mut trees = one(&[(0, none()), (0, limit(1)), (0, none())]);
    let mut longest = Duration::ZERO;
    let mut count = 0;
    let sent = run(&mut trees, &[(0, 1, FRAME)], 1_000, |now, trees| {
        if now.as_millis().is_multiple_of(10) {
            let tree = &mut trees[0];
            tree.enqueue(now, 2, Test { leaf: 2, bytes: 100, ect: false, made: now });
            count += 1;
        }
    });
    longest = longest.max(sent.longest[&2]);
    assert_eq!(longest, Duration::ZERO, "the light one's frames left at once");
    assert!(count > 0);
    near(sent.mbit(1, 1.0), 1.0, 2.0);
}

#[test]
fn a_light_tenant_waits_for_little_more_than_a_frame() {
    let mut trees = one(&[(0, limit(100)), (0, none()), (0, none())]);
    let sent = run(&mut trees, &[(0, 1, FRAME)], 1_000, |now, trees| {
        if (now.as_micros() / 50).is_multiple_of(100) {
            trees[0].enqueue(now, 2, Test { leaf: 2, bytes: 200, ect: false, made: now });
        }
    });
    // a frame takes 121 us
    assert!(sent.longest[&2] <= Duration::from_micros(400), "{:?}", sent.longest[&2]);
}

// RFC 8289 4
#[test]
fn a_sender_that_heeds_drops_finds_its_queue_near_the_target() {
    let rates = Rates { limit: Some(100 * MBIT), queue: Some(1 << 20), ..none() };
    let mut tree = Tree::<Test>::new(&plan(&[(0, none()), (0, rates)], false, 1), 0);
    let begin = Instant::from_millis(1_000);
    let mut now = begin;
    // A window as of TCP: what left is replaced, one more per window; halved by a loss.
    let (mut window, mut flight, mut grown) = (10.0_f64, 0.0, 0.0);
    let mut waits: Vec<Duration> = Vec::new();
    while now < begin + Duration::from_secs(10) {
        while flight < window {
            tree.enqueue(now, 1, Test { leaf: 1, bytes: FRAME, ect: false, made: now });
            flight += 1.0;
        }
        while let Some(unit) = tree.dequeue(now) {
            flight -= 1.0;
            grown += 1.0;
            if grown >= window {
                (window, grown) = (window + 1.0, 0.0);
            }
            if now > begin + Duration::from_secs(3) {
                waits.push(now.saturating_since(unit.made));
            }
        }
        for _ in tree.lost.drain(..) {
            flight -= 1.0;
            window = (window / 2.0).max(2.0);
        }
        now += STEP;
    }
    let rate = waits.len() as f64 * f64::from(FRAME) * 8e-6 / 7.0;
    waits.sort();
    let median = waits[waits.len() / 2];
    near(rate, 100.0, 1.0);
    assert!(median < Duration::from_millis(12), "median {median:?}");
}

#[test]
fn capable_transports_are_marked_instead() {
    let rates = Rates { limit: Some(10 * MBIT), ..none() };
    let plan = plan(&[(0, none()), (0, rates)], false, 1);
    let mut tree = Tree::<Test>::new(&plan, 0);
    let mut now = Instant::from_millis(1_000);
    for _ in 0..20_000 {
        let unit = Test { leaf: 1, bytes: FRAME, ect: true, made: now };
        if tree.has_room(1, unit.cost()) {
            tree.enqueue(now, 1, unit);
        }
        while tree.dequeue(now).is_some() {}
        now += STEP;
    }
    let counts = &plan[1].state.counts;
    let n = |c: &std::sync::atomic::AtomicU64| c.load(std::sync::atomic::Ordering::Relaxed);
    assert!(n(&counts.marked) > 0 && n(&counts.dropped_late) == 0 && tree.lost.is_empty());
}

#[test]
fn slow_limits_are_used_up_by_senders_that_heed_nothing() {
    let slow = Rates { limit: Some(400_000), ..none() };
    let mut nodes = vec![(0, none())];
    nodes.extend((0..200).map(|_| (0, slow)));
    let plan = plan(&nodes, false, 1);
    let mut tree = Tree::<Test>::new(&plan, 0);
    let begin = Instant::from_millis(1_000);
    let mut sent = vec![0_u64; 201];
    for step in 0..200_000_u32 {
        let now = begin + STEP * step;
        // 53 packets per second for each, one after the other
        if step.is_multiple_of(2) {
            let leaf = 1 + (step / 2) % 200;
            let unit = Test { leaf, bytes: 1442, ect: false, made: now };
            if tree.has_room(leaf, unit.cost()) {
                tree.enqueue(now, leaf, unit);
            }
        }
        while let Some(unit) = tree.dequeue(now) {
            if step >= 100_000 {
                sent[unit.leaf as usize] += u64::from(unit.bytes);
            }
        }
    }
    for sent in &sent[1..] {
        near(*sent as f64 * 8e-6 / 5.0, 0.4, 1.5);
    }
}

// RFC 3168 5
#[test]
fn a_policer_marks_before_it_drops() {
    let rates = Rates { limit: Some(10 * MBIT), queue: Some(0), ..none() };
    let plan = plan(&[(0, none()), (0, rates)], false, 1);
    let mut tree = Tree::<Test>::new(&plan, 0);
    let mut passed = 0;
    let begin = Instant::from_millis(1_000);
    let mut first_mark = None;
    for i in 0..40_000_u32 {
        let now = begin + STEP * i;
        let mut unit = Test { leaf: 1, bytes: FRAME, ect: true, made: now };
        if tree.police(now, 1, &mut unit, true) {
            passed += u64::from(FRAME);
        }
        let n = plan[1].state.counts.marked.load(std::sync::atomic::Ordering::Relaxed);
        let lost = plan[1].state.counts.dropped_policed.load(std::sync::atomic::Ordering::Relaxed);
        if n > 0 && first_mark.is_none() {
            first_mark = Some(lost);
        }
    }
    assert_eq!(first_mark, Some(0), "marks came before any loss");
    near(passed as f64 * 8e-6 / 2.0, 10.0, 1.5);
}

#[test]
fn two_workers_share_limits_weights_and_guarantees() {
    let nodes = [
        (0, limit(100)),
        (0, none()),
        (0, Rates { weight: 300, ..none() }),
        (0, Rates { guarantee: Some(20 * MBIT), priority: 7, ..none() }),
    ];
    let plan = plan(&nodes, true, 2);
    let mut trees = [Tree::new(&plan, 0), Tree::new(&plan, 1)];
    // the first two on one worker each, the third on both
    let greedy = [(0, 1, FRAME), (1, 2, FRAME), (0, 3, FRAME), (1, 3, FRAME)];
    let sent = run(&mut trees, &greedy, 2_000, |_, _| {});
    near(sent.mbit(3, 2.0), 20.0, 3.0);
    near(sent.mbit(1, 2.0), 20.0, 5.0);
    near(sent.mbit(2, 2.0), 60.0, 3.0);
}

#[test]
fn ten_thousand_vservers_with_limits_each_get_theirs() {
    let mut nodes = vec![(0, limit(1_000))];
    nodes.extend((0..10_000).map(|_| (0, none())));
    let mut tree = Tree::<Test>::new(&plan(&nodes, true, 1), 0);
    let mut now = Instant::from_millis(1_000);
    let mut got = vec![0_u64; 10_001];
    for leaf in 1..=10_000 {
        for _ in 0..4 {
            tree.enqueue(now, leaf, Test { leaf, bytes: 200, ect: false, made: now });
        }
    }
    while tree.waits() {
        while let Some(unit) = tree.dequeue(now) {
            got[unit.leaf as usize] += 1;
        }
        let (low, high) = (got[1..].iter().min(), got[1..].iter().max());
        assert!(high.unwrap() - low.unwrap() <= 1, "in turn");
        now += Duration::from_millis(1);
    }
    assert!(got[1..].iter().all(|n| *n == 4));
    assert_eq!(tree.next_deadline(), None);
}

/// When a worker looks that is kept from it for `pause` out of every `every` milliseconds.
fn looks(seconds: u64, every: u64, pause: u64) -> impl Iterator<Item = Instant> {
    let begin = Instant::from_millis(1_000);
    let steps = seconds * 1_000_000 / 50;
    (0..steps).map(move |i| begin + STEP * i as u32).filter(move |now| {
        let at = now.saturating_since(begin).as_millis() as u64 % every;
        at >= pause
    })
}

/// What leaf 1 sends in Mbit/s, of a stack that is asked for what there is room for, by a worker
/// that is kept from it.
fn sent_by_a_late_worker(nodes: &[(u32, Rates)], every: u64, pause: u64) -> f64 {
    let mut trees = one(nodes);
    let tree = &mut trees[0];
    let mut lateness = Lateness::default();
    let mut bytes = 0;
    for now in looks(4, every, pause) {
        let due = tree.next_deadline();
        tree.late = lateness.look(ticks(now), due.map(ticks));
        let fill = |tree: &mut Tree<Test>| {
            for leaf in 1..nodes.len() as u32 {
                while tree.room(leaf) > 0 {
                    tree.enqueue(now, leaf, Test { leaf, bytes: FRAME, ect: false, made: now });
                }
            }
        };
        fill(tree);
        while let Some(unit) = tree.dequeue(now) {
            let counts = unit.leaf == 1 && now >= Instant::from_millis(2_000);
            bytes += if counts { u64::from(unit.bytes) } else { 0 };
            fill(tree);
        }
    }
    bytes as f64 * 8e-6 / 3.0
}

#[test]
fn a_late_worker_gives_the_limit_all_the_same() {
    for (every, pause) in [(100, 40), (200, 90), (60, 50)] {
        for rate in [1, 40, 400] {
            let sent = sent_by_a_late_worker(&[(0, none()), (0, limit(rate))], every, pause);
            near(sent, rate as f64, 2.5);
        }
    }
}

#[test]
fn a_late_worker_gives_guarantees_all_the_same() {
    let sure = Rates { guarantee: Some(24 * MBIT), priority: 7, ..none() };
    let greedy = Rates { priority: 0, ..none() };
    let nodes = [(0, limit(80)), (0, sure), (0, greedy)];
    near(sent_by_a_late_worker(&nodes, 100, 60), 24.0, 2.5);
}

#[test]
fn what_a_late_worker_may_make_up_for_is_bounded() {
    let sent = sent_by_a_late_worker(&[(0, none()), (0, limit(40))], 1_000, 500);
    // Of 500 ms, 100 and the burst of 20 are made up for.
    near(sent, 40.0 * 0.62, 1.0);
}

fn rates() -> impl Strategy<Value = Rates> {
    let mbit = prop::option::of(1..200_u64);
    (mbit, prop::option::of(1..20_u64), 1..10_000_u32, 0..8_u8).prop_map(
        |(high, low, weight, priority)| Rates {
            limit: high.map(|m| m * MBIT),
            guarantee: low.filter(|l| high.is_none_or(|h| *l <= h)).map(|m| m * MBIT),
            weight,
            priority,
            ..none()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever the tree: no node goes above its ceiling, but for what is guaranteed below it, and
    /// while a leaf and those above it are open, something is sent.
    #[test]
    fn no_ceiling_is_exceeded_and_no_time_is_lost(
        root in 20..300_u64,
        inner in prop::collection::vec(rates(), 1..4),
        leaves in prop::collection::vec((0..3_usize, rates(), 64..1514_u32), 1..8),
    ) {
        let mut nodes = vec![(ROOT, limit(root))];
        // Guarantees of leaves are what may exceed the ceilings above; here there are none.
        nodes.extend(inner.iter().map(|r| (ROOT, Rates { guarantee: None, ..*r })));
        let first = nodes.len() as u32;
        let inner = inner.len();
        let free = |r: &Rates| Rates { guarantee: None, ..*r };
        nodes.extend(leaves.iter().map(|(p, r, _)| ((1 + p % inner) as u32, free(r))));
        let mut trees = one(&nodes);
        let greedy: Vec<_> =
            leaves.iter().enumerate().map(|(i, l)| (0, first + i as u32, l.2)).collect();
        let sent = run(&mut trees, &greedy, 500, |_, _| {});
        let mbit = |n: u32| sent.mbit(n, 0.5);
        let slack = 1.05;
        let mut possible = 0.0;
        for (i, (_, rates)) in nodes.iter().enumerate().skip(1).take(inner) {
            let below: Vec<u32> =
                (first..nodes.len() as u32).filter(|n| nodes[*n as usize].0 == i as u32).collect();
            let got: f64 = below.iter().map(|n| mbit(*n)).sum();
            let ceiling = |r: &Rates| r.limit.map_or(f64::INFINITY, |l| l as f64 / 1e6);
            prop_assert!(got <= ceiling(rates) * slack + 0.1, "inner {} sent {}", i, got);
            let wanted: f64 = below.iter().map(|n| ceiling(&nodes[*n as usize].1)).sum();
            possible += wanted.min(ceiling(rates));
            for n in below {
                prop_assert!(mbit(n) <= ceiling(&nodes[n as usize].1) * slack + 0.1);
            }
        }
        let all: f64 = (first..nodes.len() as u32).map(mbit).sum();
        prop_assert!(all <= root as f64 * slack);
        prop_assert!(all >= possible.min(root as f64) * 0.95 - 0.1, "{} of {}", all, possible);
    }
}
