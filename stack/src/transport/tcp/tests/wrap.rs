//! Connections that have carried more than half the sequence space: what was noted long ago must not
//! come ahead again (RFC 9293 3.4).

use bytes::Bytes;

use super::super::recovery::Phase;
use super::*;
use crate::socket::Readiness;

const CHUNK: usize = 60_000;

fn established() -> Bench {
    let options = Options { window_scale: Some(7), ..Options::default() };
    Bench::established_with(Settings { send_buffer: 2 * CHUNK, ..settings() }, options)
}

/// The application writes more than two gigabytes, all acknowledged.
fn transfer(b: &mut Bench) {
    let limits = PathLimits { gso_bytes_max: CHUNK, ..b.limits };
    let chunk = Bytes::from(vec![7; CHUNK]);
    let from = b.c.snd_una;
    while b.c.snd_una - from < 5 << 29 {
        let mut data = chunk.clone();
        assert_eq!(b.cx(|c, cx| c.write_bytes(cx, &mut data)), Ok(CHUNK));
        while b.c.snd_una != b.c.data_end() {
            while b.cx(|c, cx| c.poll_segment(cx, &limits)).is_some() {}
            let nxt = b.c.snd_nxt.0;
            b.send(1, ack(5001, nxt));
        }
    }
}

fn drain(b: &mut Bench) -> Vec<Header> {
    std::iter::from_fn(|| b.poll()).map(|(header, _)| header).collect()
}

// RFC 9293 3.4
// RFC 6582 3.2
#[test]
fn three_duplicates_start_recovery_after_gigabytes_without_loss() {
    let mut b = established();
    transfer(&mut b);
    let una = b.c.snd_una.0;
    b.write_bytes(10_000);
    drain(&mut b);
    for _ in 0..3 {
        b.send(2, ack(5001, una));
    }
    assert_eq!(b.c.recovery.phase, Phase::Fast);
    assert_eq!(drain(&mut b)[0].seq.0, una);
}

// RFC 9293 3.4
// RFC 9293 3.8.5
#[test]
fn an_old_urgent_mark_does_not_come_ahead_again() {
    let mut b = established();
    assert_eq!(b.cx(|c, cx| c.write_urgent(cx, b"!")), Ok(1));
    assert!(drain(&mut b)[0].flags.has(Flags::URG));
    transfer(&mut b);
    b.write_bytes(10);
    assert!(!drain(&mut b)[0].flags.has(Flags::URG));
}

// RFC 9293 3.4
// RFC 9293 3.8.5
#[test]
fn a_mark_that_was_read_past_is_forgotten() {
    let mut b = established();
    b.send(1, ack(5001, 1001).data(b"123").urgent(2));
    assert!(b.c.readiness().contains(Readiness::PRIORITY));
    let mut one = [0; 1];
    b.cx(|c, cx| c.read(cx, &mut one)).unwrap();
    b.cx(|c, cx| c.read(cx, &mut one)).unwrap();
    assert!(b.c.is_at_mark());
    b.cx(|c, cx| c.read(cx, &mut one)).unwrap();
    assert!(!b.c.is_at_mark());
    // Gigabytes later.
    b.c.rcv_nxt += 5 << 29;
    assert_eq!(b.c.urgent_left(), None);
}

// RFC 9293 3.4
// RFC 9293 3.7.4
#[test]
fn a_small_segment_of_long_ago_does_not_hold_a_tail_back() {
    let mut b = established();
    b.write_bytes(10);
    drain(&mut b);
    transfer(&mut b);
    b.write_bytes(1000);
    assert_eq!(drain(&mut b).len(), 1);
    b.write_bytes(10);
    assert_eq!(drain(&mut b).len(), 1);
}
