//! Limited transmit (RFC 3042).

use super::*;

fn ten_in_flight(mut b: Bench) -> Bench {
    b.write_bytes(30_000);
    b.recv(0, &full(1001, 10, 5001));
    b
}

// RFC 3042 2
#[test]
fn each_of_the_first_two_duplicates_sends_a_new_segment() {
    let mut b = ten_in_flight(Bench::established());
    b.send(10, ack(5001, 1001));
    b.recv(10, &full(11_001, 1, 5001));
    b.send(11, ack(5001, 1001));
    b.recv(11, &full(12_001, 1, 5001));
    // The window itself has not moved.
    assert_eq!(b.c.windows().0, 10_000);
    b.send(12, ack(5001, 1001));
    b.recv(12, &full(1001, 1, 5001));
}

// RFC 3042 2: with SACK only for what reports something new.
#[test]
fn with_sack_a_duplicate_that_reports_nothing_new_sends_nothing() {
    let mut b = ten_in_flight(Bench::established_sack());
    b.send(10, ack(5001, 1001).sack(&[(2001, 3001)]));
    b.recv(10, &full(11_001, 1, 5001));
    b.send(11, ack(5001, 1001).sack(&[(2001, 3001)]));
    b.recv_nothing(11);
}

// RFC 3042 2: the peer's window holds.
#[test]
fn the_peers_window_is_the_limit() {
    let mut b = Bench::established();
    b.send(0, ack(5001, 1001).win(10_000));
    b.write_bytes(30_000);
    b.recv(0, &full(1001, 10, 5001));
    b.send(10, ack(5001, 1001).win(10_000));
    b.recv_nothing(10);
}

// RFC 3042 2: three losses of a window of four no longer need a timeout.
#[test]
fn a_small_window_recovers_without_a_timeout() {
    let mut b = Bench::established();
    b.write_bytes(6000);
    b.c.cc = super::super::cc::Algorithm::NewReno(super::super::cc::NewReno::new(400));
    b.recv(0, &full(1001, 4, 5001));
    b.send(30, ack(5001, 1001));
    b.recv(30, &full(5001, 1, 5001));
    b.send(31, ack(5001, 1001));
    b.recv(31, &full(6001, 1, 5001));
    b.send(60, ack(5001, 1001));
    b.recv(60, &full(1001, 1, 5001));
    assert_eq!((b.stats.timeouts, b.stats.fast_retrans), (0, 1));
}
