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
        assert_eq!(b.cx(|c, cx| c.write_bytes(cx, &mut data, 2048)), Ok(CHUNK));
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

// RFC 9293 3.4
// RFC 7323 5.2
#[test]
fn sequence_numbers_and_both_clocks_wrap_in_the_middle_of_recovery() {
    let first = 0u32.wrapping_sub(3000);
    let iss = SeqNum(first.wrapping_sub(1));
    // Our clock wraps at 50 ms, the peer's at 55.
    let ts_offset = 0u32.wrapping_sub(100_050);
    let at = |i: u32| first.wrapping_add(i * 1000);
    let (ours, theirs) = (|ms: u32| ms.wrapping_sub(50), |ms: u32| ms.wrapping_sub(55));
    let mut b =
        Bench::new(|cx| Connection::connect(Origin { iss, ts_offset, ..origin() }, settings(), cx));
    b.recv(0, &[syn(iss.0)]);
    let options = Options {
        mss: Some(1012),
        sack_permitted: true,
        timestamp: Some((theirs(30), ours(0))),
        ..Options::default()
    };
    b.send(30, syn_ack(5000, first).opt(options));
    b.recv(30, &[ack(first, 5001)]);
    assert_eq!(b.write(&[7; 8000]), 8000);
    assert_eq!(drain(&mut b).len(), 8);
    // The third and fourth are lost, on both sides of the wrap.
    b.send(60, ack(5001, at(2)).ts(theirs(60), ours(30)));
    b.send(61, ack(5001, at(2)).ts(theirs(61), ours(30)).sack(&[(at(4), at(8))]));
    assert_eq!(b.c.recovery.phase, Phase::Fast);
    let again: Vec<_> = drain(&mut b).iter().map(|h| h.seq.0).collect();
    assert_eq!(again, [at(2), at(3)]);
    b.send(91, ack(5001, at(8)).ts(theirs(91), ours(61)));
    assert_eq!((b.c.recovery.phase, b.c.flight(), b.stats.paws_rejected), (Phase::Open, 0, 0));
    assert_eq!((b.stats.full_undo, b.c.sent.lost()), (0, 0));
    assert_eq!(b.c.rtt.srtt(), Some(Duration::from_millis(30)));
}
