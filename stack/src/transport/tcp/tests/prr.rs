//! Proportional rate reduction on a connection (RFC 9937).

use super::*;

fn in_flight(count: u32) -> Bench {
    let mut b = Bench::established_sack();
    b.c.cc = super::super::cc::Algorithm::NewReno(super::super::cc::NewReno::new(2000));
    b.write_bytes(40_000);
    b.recv(0, &full(1001, count, 5001));
    b
}

fn sent(b: &mut Bench) -> Vec<u32> {
    std::iter::from_fn(|| b.poll()).map(|(h, _)| h.seq.0).collect()
}

// RFC 9937 6.2: twenty in flight, ten is the aim: every second acknowledgement sends.
#[test]
fn half_of_what_is_delivered_leaves_while_above_the_threshold() {
    let mut b = in_flight(20);
    b.send(30, ack(5001, 1001).sack(&[(2001, 5001)]));
    assert_eq!(sent(&mut b), [1001], "the fast retransmission");
    let mut counts = Vec::new();
    for i in 1..13 {
        b.send(30 + u64::from(i), ack(5001, 1001).sack(&[(2001, 5001 + i * 1000)]));
        counts.push(sent(&mut b).len());
    }
    let total: usize = counts.iter().sum();
    assert!((6..=7).contains(&total), "{counts:?}");
    assert!(counts.iter().all(|n| *n <= 1), "no bursts: {counts:?}");
}

// RFC 9937 6.2: what was lost leaves the flight at once; sending keeps up with delivery.
#[test]
fn after_heavy_loss_sending_keeps_up_with_delivery() {
    let mut b = in_flight(20);
    // Sixteen are lost, four arrive.
    b.send(30, ack(5001, 1001).sack(&[(17_001, 21_001)]));
    assert_eq!(b.c.sent.lost(), 16_000);
    assert_eq!(sent(&mut b), [1001, 2001, 3001, 4001], "as many as were delivered");
    // Each acknowledged without further loss brings one more (slow start).
    b.send(60, ack(5001, 2001).sack(&[(17_001, 21_001)]));
    assert_eq!(sent(&mut b), [5001, 6001]);
    b.send(61, ack(5001, 3001).sack(&[(17_001, 21_001)]));
    assert_eq!(sent(&mut b), [7001, 8001]);
    assert!(b.c.window() <= b.c.windows().1, "{}", b.c.window());
}

// RFC 9937 6.4: when it is over, the window is the threshold.
#[test]
fn the_window_ends_at_the_threshold() {
    let mut b = in_flight(20);
    b.send(30, ack(5001, 1001).sack(&[(2001, 6001)]));
    sent(&mut b);
    b.send(60, ack(5001, 21_001));
    assert_eq!((b.c.window(), b.c.windows()), (10_000, (10_000, 10_000)));
}

// RFC 9937 6.1: what was reported before recovery is not delivered in it.
#[test]
fn reports_before_recovery_do_not_count() {
    let mut b = in_flight(20);
    b.c.rack.reordered = 1;
    b.send(30, ack(5001, 1001).sack(&[(2001, 12_001)]));
    let limited = sent(&mut b).len();
    b.at(38);
    // RACK's timer starts recovery: nothing is delivered with it, one segment leaves.
    assert_eq!(sent(&mut b), [1001]);
    assert!(limited > 0);
}
