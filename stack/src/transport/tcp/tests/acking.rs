//! When ACKs leave, where PSH stands, and what is offered in handshakes.

use super::*;
use crate::socket::tcp::ShutdownHow;
use crate::stack::Offers;

fn quick(quick_acks: u8) -> Bench {
    Bench::established_with(Settings { quick_acks, ..settings() }, Options::default())
}

// RFC 9293 3.8.6.3 SHLD-18
// RFC 5681 4.2
#[test]
fn the_first_acks_are_quick_and_later_ones_are_delayed() {
    let mut b = quick(2);
    b.send(1, ack(5001, 1001).data(b"a"));
    b.recv(1, &[ack(1001, 5002)]);
    b.send(2, ack(5002, 1001).data(b"b"));
    b.recv(2, &[ack(1001, 5003)]);
    b.send(3, ack(5003, 1001).data(b"c"));
    b.recv_nothing(42);
    b.recv(43, &[ack(1001, 5004)]);
    // Idleness longer than the retransmission timeout: a new start.
    b.send(3000, ack(5004, 1001).data(b"d"));
    b.recv(3000, &[ack(1001, 5005)]);
}

// RFC 9293 3.8.6.3 SHLD-18
#[test]
fn acks_ride_on_the_answers_of_an_application_that_answers() {
    let mut b = quick(16);
    b.send(1, ack(5001, 1001).data(b"a"));
    b.recv(1, &[ack(1001, 5002)]);
    b.write_bytes(10);
    b.recv(2, &[ack(1001, 5002).data(&bytes(1001, 10))]);
    b.send(3, ack(5002, 1011).data(b"b"));
    b.recv_nothing(20);
    b.write_bytes(10);
    b.recv(21, &[ack(1011, 5003).data(&bytes(1011, 10))]);
    // No answer: the delay ends, and with it the patience.
    b.send(22, ack(5003, 1021).data(b"c"));
    b.recv_nothing(61);
    b.recv(62, &[ack(1021, 5004)]);
    b.send(63, ack(5004, 1021).data(b"d"));
    b.recv(63, &[ack(1021, 5005)]);
}

fn pushed(b: &mut Bench) -> Vec<bool> {
    std::iter::from_fn(|| b.poll()).map(|(h, _)| h.flags.has(Flags::PSH)).collect()
}

// RFC 9293 3.9.1.2 MUST-61
#[test]
fn the_end_of_a_burst_is_pushed_although_more_is_queued() {
    let mut b = Bench::established();
    b.write_bytes(15_000);
    let mut burst = vec![false; 9];
    burst.push(true);
    assert_eq!(pushed(&mut b), burst);
    b.send(50, ack(5001, 3001));
    assert_eq!(pushed(&mut b), [false, false, false, true]);
}

// RFC 7323 3.2
#[test]
fn the_reset_of_an_abort_carries_a_timestamp() {
    let mut b = Bench::established_ts();
    b.now += Duration::from_millis(5);
    let rst = b.c.reset_header(b.now);
    assert_eq!(rst.options.timestamp.map(|(_, echo)| echo), Some(b.c.ts_recent));
}

// RFC 7323 2.2
// RFC 7323 3.2
// RFC 2018 2
#[test]
fn what_is_switched_off_is_neither_offered_nor_taken_up() {
    let offers = Offers { timestamps: false, sack: false, window_scaling: false };
    let all = Options {
        mss: Some(1000),
        window_scale: Some(7),
        sack_permitted: true,
        timestamp: Some((7, 0)),
        ..Options::default()
    };
    let mut b = Bench::connecting(Settings { offers, ..settings() });
    b.recv(0, &[syn(1000).opt(Options { mss: Some(1460), ..Options::default() })]);
    // A peer that answers what was not asked.
    b.send(1, syn_ack(5000, 1001).opt(all));
    b.recv(1, &[ack(1001, 5001).opt(Options::default())]);
    assert_eq!((b.c.ts_ok, b.c.sack_ok, b.c.scale_agreed), (false, false, false));
}

// RFC 2018 3
// RFC 8985 6.2
#[test]
fn a_reordered_old_ack_still_tells_what_arrived_above() {
    let mut b = Bench::established_sack();
    b.write_bytes(10_000);
    b.recv(0, &full(1001, 10, 5001));
    b.send(50, ack(5001, 3001));
    b.send(51, ack(5001, 2001).sack(&[(6001, 8001)]));
    assert_eq!(b.c.sent.sacked(), 2000);
}

// RFC 9293 3.8.6.2.2
#[test]
fn shutting_the_reading_side_sends_nothing() {
    let mut b = Bench::established();
    b.send(1, ack(5001, 1001).data(&[1; 1000]));
    b.recv(41, &[ack(1001, 6001)]);
    b.cx(|c, cx| c.shut_down(cx, ShutdownHow::Read));
    b.recv_nothing(100);
}
