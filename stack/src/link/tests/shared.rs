//! Stacks that share what they learn of neighbours.

use std::sync::Arc;

use super::*;
use crate::link::neighbour::NeighbourOrigin;
use crate::link::shared::SharedNeighbours;

const GATEWAY: &str = "10.0.0.2";

/// Stacks on one link, and their table.
struct Room {
    members: Vec<Bench>,
    table: Arc<SharedNeighbours>,
}

fn room(members: usize, entries_max: usize) -> Room {
    let table = Arc::new(SharedNeighbours::new([], entries_max));
    let mut room = Room { members: (0..members).map(|_| bench()).collect(), table };
    room.share();
    room
}

impl Room {
    fn share(&mut self) {
        for (me, b) in self.members.iter_mut().enumerate() {
            let shared = Some((Arc::clone(&self.table), me as u32));
            b.link.share(&mut b.world.ctx(), shared);
        }
    }

    fn told(&mut self) {
        for (me, (alias, addr)) in self.table.take_woken() {
            let b = &mut self.members[me as usize];
            b.link.told(&mut b.world.ctx(), &b.aliases[&alias], addr);
        }
    }

    fn all_output(&mut self, tag: u8) {
        for b in &mut self.members {
            assert_eq!(b.output(GATEWAY, tag), Ok(()));
        }
    }

    fn pass(&mut self, time: Duration) {
        for b in &mut self.members {
            b.pass(time);
        }
    }

    fn asked(&self) -> u64 {
        self.members.iter().map(|b| b.world.mib.neighbour.out_arp_requests).sum()
    }

    fn states(&self) -> Vec<NeighbourState> {
        self.members.iter().filter_map(|b| b.state(GATEWAY)).collect()
    }
}

/// Tags of the packets that left.
fn tags(b: &mut Bench) -> Vec<u8> {
    let frames = b.world.all_sent();
    frames.iter().filter(|f| f[12..14] == [8, 0]).map(|f| f[34]).collect()
}

#[test]
fn of_many_stacks_one_asks_and_all_send() {
    let mut r = room(500, 64);
    r.all_output(1);
    assert_eq!(r.asked(), 1);
    assert!(r.states().iter().all(|s| *s == Incomplete));
    assert_eq!(r.members[0].reply(), Fate::Consumed);
    r.told();
    for b in &mut r.members {
        assert_eq!(tags(b), [1]);
    }
    assert!(r.states().iter().all(|s| *s == Reachable));
    let origin = |b: &Bench| b.link.neighbours(b.world.now).next().unwrap().origin;
    assert_eq!(origin(&r.members[0]), NeighbourOrigin::Own);
    assert_eq!(origin(&r.members[499]), NeighbourOrigin::Shared);
    assert_eq!(r.members[499].world.mib.neighbour.shared_taken, 1);
    assert_eq!(r.members[499].world.mib.neighbour.shared_waits, 1);

    // Who comes later sends at once.
    let mut late = bench();
    late.world.now = r.members[0].world.now;
    late.link.share(&mut late.world.ctx(), Some((Arc::clone(&r.table), 500)));
    late.output(GATEWAY, 9).unwrap();
    assert_eq!((tags(&mut late), late.world.mib.neighbour.out_arp_requests), (vec![9], 0));
}

#[test]
fn what_is_no_longer_sure_is_probed_by_one() {
    let mut r = room(50, 64);
    r.all_output(1);
    let _ = r.members[0].reply();
    r.told();
    r.pass(Duration::from_secs(46));
    assert!(r.states().iter().all(|s| *s == Stale), "all believe it for as long as who asked");
    r.all_output(2);
    assert!(r.states().iter().all(|s| *s == Delay));
    r.pass(Duration::from_secs(5));
    assert_eq!(r.asked(), 2);
    let _ = r.members[0].reply();
    r.told();
    assert!(r.states().iter().all(|s| *s == Reachable));
    // Progress of one member's transport is word for the others too.
    r.pass(Duration::from_secs(46));
    let b = &mut r.members[7];
    let alias = &b.aliases[&ID];
    b.link.confirm(&mut b.world.ctx(), alias, ip(GATEWAY));
    r.all_output(3);
    assert!(r.states().iter().all(|s| *s == Reachable));
    assert_eq!(r.asked(), 2);
}

#[test]
fn a_stack_that_is_not_answered_does_not_hold_up_the_others() {
    let mut r = room(3, 64);
    r.all_output(1);
    assert_eq!(r.asked(), 1);
    // The first one's question is lost, as is every one that it may send.
    for _ in 0..10 {
        r.pass(Duration::from_millis(100));
    }
    assert_eq!(r.members[0].world.mib.neighbour.out_arp_requests, 1);
    assert_eq!(r.members[1].world.mib.neighbour.out_arp_requests, 1, "then it is another's turn");
    let _ = r.members[1].reply();
    r.told();
    for b in &mut r.members {
        assert_eq!(tags(b), [1]);
    }
}

#[test]
fn silence_fails_for_all_after_three_seconds_with_one_question_a_second() {
    let mut r = room(20, 64);
    r.all_output(1);
    for _ in 0..31 {
        r.pass(Duration::from_millis(100));
    }
    assert!(r.states().iter().all(|s| *s == Failed));
    assert!((3..=4).contains(&r.asked()), "{}", r.asked());
    assert_eq!(r.table.counts().entries, 0);
    assert!(r.members.iter().all(|b| b.link.failed.len() == 1));
}

#[test]
fn what_is_said_unasked_takes_out_and_never_comes_in() {
    let mut r = room(2, 64);
    r.all_output(1);
    let _ = r.members[0].reply();
    r.told();
    r.pass(Duration::from_secs(2));
    // Only the first hears of the new address; the table forgets the old one.
    let _ = r.members[0].arp_in(BROADCAST_MAC, &arp(1, OTHER, [10, 0, 0, 2], [10, 0, 0, 2]));
    assert_eq!(
        (r.members[0].state(GATEWAY), r.members[1].state(GATEWAY)),
        (Some(Stale), Some(Reachable))
    );
    let mut late = bench();
    late.world.now = r.members[0].world.now;
    late.link.share(&mut late.world.ctx(), Some((Arc::clone(&r.table), 2)));
    late.output(GATEWAY, 1).unwrap();
    assert_eq!(late.world.mib.neighbour.out_arp_requests, 1, "nobody's word is good, so it asks");
}

#[test]
fn configured_neighbours_are_there_for_all_and_go_with_their_table() {
    let mut r = room(2, 0);
    r.table = Arc::new(SharedNeighbours::new([((ID, ip(GATEWAY)), PEER)], 0));
    r.share();
    r.all_output(1);
    assert_eq!((r.asked(), tags(&mut r.members[1])), (0, vec![1]));
    assert_eq!(r.states(), [Permanent, Permanent]);
    // It learns nothing, so everything else is each one's own.
    for b in &mut r.members {
        b.output("10.0.0.9", 1).unwrap();
    }
    assert_eq!(r.asked(), 2);
    r.table = Arc::new(SharedNeighbours::new([((ID, ip(GATEWAY)), OTHER)], 0));
    r.share();
    assert_eq!(r.states(), []);
    r.all_output(2);
    assert_eq!(r.members[0].world.all_sent().last().unwrap()[..6], OTHER);
}

#[test]
fn a_scan_by_one_fills_at_most_a_quarter_and_pushes_nobody_out() {
    let mut r = room(2, 16);
    r.all_output(1);
    let _ = r.members[0].reply();
    r.told();
    for host in 3..200 {
        let _ = r.members[0].output(&format!("10.0.0.{host}"), 1);
    }
    assert_eq!(r.table.counts().entries, 1 + 4);
    let mut late = bench();
    late.world.now = r.members[0].world.now;
    late.link.share(&mut late.world.ctx(), Some((Arc::clone(&r.table), 2)));
    late.output(GATEWAY, 1).unwrap();
    assert_eq!(late.world.mib.neighbour.out_arp_requests, 0);
}

#[test]
fn a_full_table_makes_room_for_what_is_answered() {
    let mut r = room(1, 4);
    for host in 2..12u8 {
        r.members[0].output(&format!("10.0.0.{host}"), 1).unwrap();
        let _ = r.members[0].arp_in(OURS, &arp(2, PEER, [10, 0, 0, host], [10, 0, 0, 1]));
    }
    let counts = r.table.counts();
    assert_eq!((counts.entries, counts.evicted), (4, 6));
}
