//! What connections do when their packets take another pair of locators.

use weft_stack::path::{Advice, PathFlow};
use weft_stack::socket::tcp::TcpState;
use weft_stack::time::{Duration, Instant};

use crate::layer::{Pair, SHIM6};
use crate::world::{A, B, Carrier, World, addresses, pattern, v6};

const MS: Duration = Duration::from_millis(1);

/// The longest time without a byte after `since`.
fn gap(carrier: &Carrier, since: Instant) -> Duration {
    let before = carrier.times.iter().rev().find(|t| **t <= since).copied().unwrap_or(since);
    let after: Vec<Instant> = carrier.times.iter().filter(|t| **t > since).copied().collect();
    let all: Vec<Instant> = std::iter::once(before).chain(after).collect();
    all.windows(2).map(|w| w[1] - w[0]).max().unwrap()
}

fn run(w: &mut World, carrier: &mut Carrier, time: Duration) {
    let end = w.now + time;
    while w.now < end && !carrier.turn(w) {
        if !w.step(end) {
            break;
        }
    }
}

#[test]
fn a_bulk_transfer_goes_on_within_a_round_trip_of_the_switch() {
    let mut w = World::new();
    w.context_by(0, 0);
    let pair = w.connected(v6(A, 0), v6(B, 0));
    let mut carrier = Carrier::new(pair.0, pair.1, &pattern(20_000_000));
    run(&mut w, &mut carrier, 60 * MS);
    assert!(carrier.got.len() > 100_000 && carrier.got.len() < 10_000_000);
    w.ways[0][0].open = [false; 2];
    // Known at once, as of a link that goes down.
    let at = w.now;
    w.switch(1, 1, true);
    w.run_until(Duration::from_mins(1), |w| carrier.turn(w));
    carrier.check();
    let gap = gap(&carrier, at);
    assert!(gap <= 15 * MS, "{gap:?} without a byte");
    let stats = &w.stacks[A].mib().tcp;
    assert_eq!((stats.timeouts, stats.path_switches), (0, 1));
    w.check();
}

#[test]
fn a_switch_ends_the_backoff_and_sends_the_first_segment_at_once() {
    let mut w = World::new();
    w.context_by(0, 0);
    let pair = w.connected(v6(A, 0), v6(B, 0));
    w.transfer(pair, &pattern(50_000));
    w.ways[0][0].open = [false; 2];
    let mut carrier = Carrier::new(pair.0, pair.1, &pattern(2000));
    carrier.turn(&mut w);
    w.run_for(Duration::from_secs(20));
    let info = w.stacks[A].tcp_info(w.now, pair.0).unwrap();
    assert!(info.rto >= Duration::from_secs(3), "{:?}", info.rto);
    w.sent.clear();
    let at = w.now;
    w.switch(1, 1, true);
    w.pump();
    let (when, host, _, packet) = &w.sent[0];
    assert_eq!((*when, *host, packet.data()[6]), (at, A, SHIM6));
    assert!(packet.total_len() > 1400, "the first segment again");
    w.run_until(Duration::from_secs(1), |w| carrier.turn(w));
    assert!(w.now - at <= 30 * MS, "{:?}", w.now - at);
    assert!(w.stacks[A].tcp_info(w.now, pair.0).unwrap().rto <= Duration::from_secs(1));
}

#[test]
fn a_connect_that_meets_a_dead_path_goes_on_with_its_syn() {
    let mut w = World::new();
    w.context_by(0, 0);
    w.ways[0][0].open = [false; 2];
    w.stacks[B].tcp_listen(w.now, (v6(B, 0), 80).into(), 16).unwrap();
    let from = Some((v6(A, 0), 0).into());
    let c = w.stacks[A].tcp_connect(w.now, from, (v6(B, 0), 80).into()).unwrap();
    w.run_for(100 * MS);
    w.switch(1, 1, true);
    let at = w.now;
    w.run_until(Duration::from_secs(5), |w| w.stacks[A].tcp_state(c) == TcpState::Established);
    assert_eq!(w.now - at, 10 * MS);
}

#[test]
fn a_syn_ack_that_was_lost_with_its_path_goes_out_again_at_once() {
    let mut w = World::new();
    w.context_by(0, 0);
    // The SYN arrives, nothing comes back.
    w.ways[0][0].open = [true, false];
    w.stacks[B].tcp_listen(w.now, (v6(B, 0), 80).into(), 16).unwrap();
    let from = Some((v6(A, 0), 0).into());
    let c = w.stacks[A].tcp_connect(w.now, from, (v6(B, 0), 80).into()).unwrap();
    w.run_for(100 * MS);
    assert_eq!(w.stacks[A].tcp_state(c), TcpState::SynSent);
    // What the server chose loses nothing; what it had to leave does.
    w.switch_one(B, 1, 1, false, None);
    assert_eq!(w.stacks[B].mib().tcp.syn_retrans, 0);
    w.switch_one(B, 0, 0, false, None);
    w.switch_one(B, 1, 1, true, None);
    let at = w.now;
    w.run_until(Duration::from_secs(5), |w| w.stacks[A].tcp_state(c) == TcpState::Established);
    assert_eq!(w.now - at, 5 * MS, "one way, no timeout");
    assert_eq!(w.stacks[B].mib().tcp.syn_retrans, 1);
}

#[test]
fn acks_that_were_lost_with_a_path_are_sent_again_at_once() {
    let mut w = World::new();
    w.context_by(0, 0);
    let pair = w.connected(v6(A, 0), v6(B, 0));
    // Data arrives, no ACK comes back.
    w.ways[0][0].open = [true, false];
    let mut carrier = Carrier::new(pair.0, pair.1, &pattern(5000));
    run(&mut w, &mut carrier, 150 * MS);
    assert_eq!(carrier.got.len(), 5000);
    let acked = |w: &World| w.stacks[A].tcp_info(w.now, pair.0).unwrap().bytes_acked;
    let before = acked(&w);
    let repeated = w.stacks[A].mib().tcp.retrans_segs;
    w.sent.clear();
    w.switch_one(B, 1, 1, true, None);
    w.run_for(5 * MS);
    assert_eq!(acked(&w) - before, 5000, "one way after the switch");
    assert_eq!(w.stacks[A].mib().tcp.retrans_segs, repeated);
    // Once: what was chosen, or what is long past, loses no ACK that the peer could wait for.
    let from_b = |w: &World| w.sent.iter().filter(|(_, host, ..)| *host == B).count();
    assert_eq!(from_b(&w), 1);
    w.switch_one(B, 0, 0, false, None);
    w.run_for(Duration::from_secs(11));
    w.switch_one(B, 1, 1, true, None);
    w.run_for(5 * MS);
    assert_eq!(from_b(&w), 1);
}

#[test]
fn a_flow_with_a_pair_of_its_own_is_moved_alone_and_not_with_the_others() {
    let mut w = World::new();
    w.context_by(0, 0);
    let first = w.connected(v6(A, 0), v6(B, 0));
    let second = w.connected(v6(A, 0), v6(B, 0));
    let ends = |w: &World, c| w.stacks[A].tcp_addrs(c).unwrap();
    let (local, peer) = ends(&w, first.0);
    let flow = PathFlow { protocol: 6, ports: (local.port(), peer.port()) };
    for pair in [first, second] {
        w.transfer(pair, &pattern(10_000));
    }
    let rtt = |w: &mut World, c| w.stacks[A].tcp_info(w.now, c).unwrap().rtt;
    let (ulids, to) = ((v6(A, 0), v6(B, 0)), (v6(A, 1), v6(B, 1)));
    w.stacks[A].with_path_mut(w.now, |l| {
        l.apart.push(local.port());
        l.switch_flow(ulids, flow, to, false);
    });
    assert!(rtt(&mut w, first.0).is_zero() && !rtt(&mut w, second.0).is_zero());
    w.transfer(first, &pattern(10_000));
    // The last byte has arrived; what acknowledges it comes half a round trip later.
    w.run_for(10 * MS);
    w.switch_one(A, 1, 1, false, None);
    assert_eq!((rtt(&mut w, first.0), rtt(&mut w, second.0)), (10 * MS, Duration::ZERO));
}

#[test]
fn round_trip_and_window_belong_to_the_pair_and_come_back_with_it() {
    let mut w = World::new();
    w.ways[1][1].delay = 40 * MS;
    w.context_by(0, 0);
    let pair = w.connected(v6(A, 0), v6(B, 0));
    w.transfer(pair, &pattern(1_000_000));
    let first = w.stacks[A].tcp_info(w.now, pair.0).unwrap();
    w.switch(1, 1, false);
    let fresh = w.stacks[A].tcp_info(w.now, pair.0).unwrap();
    assert!(fresh.cwnd < first.cwnd, "a path that is not known begins with the initial window");
    w.transfer(pair, &pattern(100_000));
    let second = w.stacks[A].tcp_info(w.now, pair.0).unwrap();
    assert!(second.rtt >= 80 * MS, "{:?}", second.rtt);
    w.switch(0, 0, false);
    let again = w.stacks[A].tcp_info(w.now, pair.0).unwrap();
    assert_eq!((again.rtt, again.cwnd), (first.rtt, first.cwnd));
    w.switch(1, 1, false);
    let again = w.stacks[A].tcp_info(w.now, pair.0).unwrap();
    assert_eq!((again.rtt, again.cwnd), (second.rtt, second.cwnd));
    assert_eq!(w.stacks[A].mib().tcp.retrans_segs, 0, "nothing was lost by choosing");
}

#[test]
fn a_measured_round_trip_is_where_a_new_pair_begins() {
    let mut w = World::new();
    w.context_by(0, 0);
    let pair = w.connected(v6(A, 0), v6(B, 0));
    w.transfer(pair, &pattern(10_000));
    w.switch_one(A, 1, 1, true, Some(7 * MS));
    assert_eq!(w.stacks[A].tcp_info(w.now, pair.0).unwrap().rtt, 7 * MS);
    w.switch_one(A, 1, 0, true, None);
    assert_eq!(w.stacks[A].tcp_info(w.now, pair.0).unwrap().rtt, Duration::ZERO);
}

#[test]
fn pairs_that_are_remembered_are_bounded() {
    let mut w = World::new();
    w.context_by(0, 0);
    let pair = w.connected(v6(A, 0), v6(B, 0));
    w.transfer(pair, &pattern(300_000));
    let first = w.stacks[A].tcp_info(w.now, pair.0).unwrap();
    let ulids = (v6(A, 0), v6(B, 0));
    for n in 0..1000u16 {
        let to = (v6(A, 1), format!("2001:db8:9::{n:x}").parse().unwrap());
        w.stacks[A].with_path_mut(w.now, |l| l.switch(ulids, to, false, None));
    }
    w.stacks[A].with_path_mut(w.now, |l| l.switch(ulids, ulids, false, None));
    let info = w.stacks[A].tcp_info(w.now, pair.0).unwrap();
    assert!(info.rtt.is_zero() && !first.rtt.is_zero(), "the first pair was forgotten");
    w.transfer(pair, &pattern(100_000));
}

#[test]
fn tcp_tells_the_layer_of_progress_once_a_round_trip_and_of_none() {
    let mut w = World::new();
    w.context_by(1, 1);
    let pair = w.connected(v6(A, 0), v6(B, 0));
    let start = w.now;
    w.transfer(pair, &pattern(3_000_000));
    let ulids = (v6(A, 0), v6(B, 0));
    let told = &w.layer(A).log.advice;
    assert!(told.iter().all(|(_, of, what)| *of == ulids && *what == Advice::Progress));
    let round_trips = (w.now - start).as_millis() as usize / 10;
    assert!(told.len() >= round_trips / 2 && told.len() <= round_trips + 3, "{}", told.len());
    w.ways[1][1].open = [false; 2];
    let mut carrier = Carrier::new(pair.0, pair.1, &pattern(100_000));
    carrier.turn(&mut w);
    let at = w.now;
    w.run_for(Duration::from_secs(1));
    let none = |told: &&(Instant, Pair, Advice)| told.2 == Advice::NoProgress;
    let (when, of, _) = w.layer(A).log.advice.iter().find(none).unwrap();
    assert_eq!(*of, ulids);
    assert!(
        *when - at <= 60 * MS,
        "the tail loss probe comes before the timeout: {:?}",
        *when - at
    );
    assert!(w.layer(A).log.advice.iter().filter(none).count() >= 3);
}

#[test]
fn the_same_is_told_of_flows_that_pass() {
    let mut w = World::new();
    w.context_by(0, 0);
    let pair = w.connected(v6(A, 0), v6(B, 0));
    w.transfer(pair, &pattern(1_000_000));
    assert!(w.layer(A).log.passed_out > 0);
    assert!(w.layer(A).log.advice.len() > 3);
}

#[test]
fn a_unidirectional_path_is_enough_each_way() {
    let mut w = World::new();
    // A to B by the first providers only, B to A by the second only.
    w.ways[0][0].open = [true, false];
    w.ways[1][1].open = [false, true];
    w.context_by(0, 0);
    w.switch_one(B, 1, 1, true, None);
    let pair = w.connected(v6(A, 0), v6(B, 0));
    w.transfer(pair, &pattern(500_000));
    for (_, host, _, packet) in &w.sent {
        let provider = usize::from(*host == B);
        assert_eq!(addresses(packet.data()).0, v6(*host, provider));
    }
}

/// Random failures of ways, each followed by a switch to one that works: every byte arrives once.
#[test]
fn nothing_is_lost_or_doubled_over_random_failures() {
    use weft_stack::rng::Rng;
    for seed in 0..20 {
        let mut rng = Rng::from_u64(seed);
        let mut w = World::new();
        for row in &mut w.ways {
            for way in row {
                way.delay = Duration::from_millis(1 + rng.below(30));
                way.mtu = [1500, 1400, 1280][rng.below(3) as usize];
            }
        }
        w.context_by(0, 0);
        let pair = w.connected(v6(A, 0), v6(B, 0));
        let mut carrier = Carrier::new(pair.0, pair.1, &pattern(3_000_000));
        let mut done = false;
        for _ in 0..20 {
            let end = w.now + Duration::from_millis(rng.below(400));
            while !done && w.now < end {
                done = carrier.turn(&mut w);
                if !w.step(end) {
                    break;
                }
            }
            let (a, b) = (rng.below(2) as usize, rng.below(2) as usize);
            let dead = rng.below(2) == 0;
            for (i, row) in w.ways.iter_mut().enumerate() {
                for (j, way) in row.iter_mut().enumerate() {
                    way.open = [!dead || (i, j) == (a, b); 2];
                }
            }
            w.run_for(Duration::from_millis(rng.below(300)));
            w.switch(a, b, dead);
        }
        w.run_until(Duration::from_mins(2), |w| carrier.turn(w));
        carrier.check();
        w.check();
    }
}
