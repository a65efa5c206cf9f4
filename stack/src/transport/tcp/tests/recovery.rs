//! Fast retransmit and recovery (RFC 5681 3.2, 6582, 6675).

use super::*;

/// Ten segments in flight, sent at 0.
fn in_flight(mut b: Bench) -> Bench {
    b.write_bytes(30_000);
    b.recv(0, &full(1001, 10, 5001));
    b
}

fn duplicate(b: &mut Bench, ms: u64) {
    b.send(ms, ack(5001, 1001));
}

// RFC 5681 3.2
#[test]
fn three_duplicates_send_the_first_segment_again() {
    let mut b = in_flight(Bench::established());
    duplicate(&mut b, 10);
    b.recv(10, &full(11_001, 1, 5001));
    duplicate(&mut b, 11);
    b.recv(11, &full(12_001, 1, 5001));
    duplicate(&mut b, 12);
    b.recv(12, &full(1001, 1, 5001));
    assert_eq!((b.stats.fast_retrans, b.stats.reno_recovery, b.stats.retrans_segs), (1, 1, 1));
    // Half of what was in flight without what limited transmit added.
    assert_eq!(b.c.windows(), (5000, 5000));
}

// RFC 6582 3.2 step 3
#[test]
fn reno_a_partial_acknowledgement_sends_the_next_hole() {
    let mut b = in_flight(Bench::established());
    for i in 0..3 {
        duplicate(&mut b, 10);
        while let Some((h, _)) = b.poll() {
            assert!(i < 2 || h.seq.0 == 1001);
        }
    }
    b.send(20, ack(5001, 4001));
    let (h, data) = b.poll().unwrap();
    assert_eq!((h.seq.0, data.len()), (4001, 1000));
    while let Some((h, _)) = b.poll() {
        assert!(h.seq.0 > 12_000);
    }
    let all = b.c.snd_nxt.0;
    b.send(30, ack(5001, all));
    assert_eq!(b.c.recovery.phase, super::super::recovery::Phase::Open);
    assert_eq!(b.c.windows(), (5000, 5000));
    assert_eq!(b.stats.fast_retrans, 1);
}

#[test]
fn data_and_window_updates_are_no_duplicates() {
    let mut b = in_flight(Bench::established());
    for i in 0..5u16 {
        b.send(10, ack(5001 + u32::from(i), 1001).data(b"x"));
        b.send(10, ack(5002 + u32::from(i), 1001).win(30_001 + i));
    }
    assert_eq!(b.stats.fast_retrans, 0);
}

// RFC 6582 3.2 step 2
#[test]
fn reno_duplicates_after_a_timeout_do_not_start_recovery() {
    let mut b = in_flight(Bench::established());
    b.recv(200, &full(1001, 1, 5001));
    for _ in 0..5 {
        duplicate(&mut b, 210);
    }
    assert_eq!(b.stats.fast_retrans, 0);
    b.send(220, ack(5001, 11_001));
    while b.poll().is_some() {}
    for _ in 0..3 {
        b.send(230, ack(5001, 11_001));
    }
    assert_eq!(b.stats.fast_retrans, 0, "they answer what was sent twice");
}

#[test]
fn sack_holes_are_sent_again_and_nothing_else() {
    let mut b = in_flight(Bench::established_sack());
    // 1, 3 and 5 are missing.
    b.send(10, ack(5001, 1001).sack(&[(2001, 3001)]));
    b.recv(10, &full(11_001, 1, 5001));
    b.send(11, ack(5001, 1001).sack(&[(4001, 5001), (2001, 3001)]));
    b.recv(11, &full(12_001, 1, 5001));
    b.send(12, ack(5001, 1001).sack(&[(6001, 9001), (4001, 5001), (2001, 3001)]));
    b.recv(12, &full(1001, 1, 5001));
    assert_eq!(b.stats.sack_recovery, 1);
    b.send(20, ack(5001, 3001).sack(&[(6001, 9001), (4001, 5001)]));
    b.recv(20, &full(3001, 1, 5001));
    b.send(21, ack(5001, 5001).sack(&[(6001, 9001)]));
    b.recv(21, &full(5001, 1, 5001));
    b.send(21, ack(5001, 9001));
    let mut again = 0;
    while let Some((h, _)) = b.poll() {
        again += u32::from(h.seq.0 <= 12_001);
    }
    assert_eq!(again, 0);
    assert_eq!(b.stats.retrans_segs, 3);
}

#[test]
fn sack_one_block_of_more_than_two_segments_proves_loss() {
    let mut b = in_flight(Bench::established_sack());
    b.send(10, ack(5001, 1001).sack(&[(2001, 4001)]));
    assert_eq!(b.stats.fast_retrans, 0);
    while b.poll().is_some() {}
    b.send(11, ack(5001, 1001).sack(&[(2001, 4002)]));
    assert_eq!(b.stats.fast_retrans, 1);
}

#[test]
fn sack_recovery_sends_new_data_as_the_pipe_drains() {
    let mut b = in_flight(Bench::established_sack());
    b.send(10, ack(5001, 1001).sack(&[(2001, 11_001)]));
    // The pipe held one lost segment; the window is half of ten.
    let sent: Vec<_> = std::iter::from_fn(|| b.poll()).map(|(h, _)| h.seq.0).collect();
    assert_eq!(sent, [1001, 11_001, 12_001, 13_001, 14_001]);
}

#[test]
fn sack_blocks_that_lie_do_no_harm() {
    let mut b = in_flight(Bench::established_sack());
    for block in [(900, 1500), (10_001, 50_000), (6000, 5000), (1001, 2001)] {
        b.send(10, ack(5001, 1001).sack(&[block]));
    }
    assert_eq!((b.c.sent.sacked(), b.stats.fast_retrans), (0, 0));
}

// RFC 9937 6.2, 11: the window of recovery is what was just delivered, 11 segments.
#[test]
fn sack_super_segments_are_sent_again_as_super_segments() {
    let mut b = Bench::established_sack();
    b.send(0, ack(5001, 1001).win(60_000));
    b.c.cc = super::super::cc::Algorithm::NewReno(super::super::cc::NewReno::new(4000));
    b.write_bytes(40_000);
    b.recv(0, &full(1001, 40, 5001));
    b.limits.gso_bytes_max = 60_000;
    b.send(10, ack(5001, 1001).sack(&[(30_001, 41_001)]).win(60_000));
    let sent: Vec<_> = std::iter::from_fn(|| b.poll()).map(|(h, d)| (h.seq.0, d.len())).collect();
    // The first one alone, whatever the window; then thirds of the window; then the rest.
    let thirds = [(2001, 3000), (5001, 3000), (8001, 3000)];
    assert_eq!(sent, [&[(1001, 1000)][..], &thirds, &[(11_001, 1000)]].concat());
    assert_eq!(b.stats.retrans_segs, 11);
}

#[test]
fn recovery_ends_with_the_window_at_ssthresh() {
    let mut b = in_flight(Bench::established_sack());
    b.send(10, ack(5001, 1001).sack(&[(2001, 6001)]));
    while b.poll().is_some() {}
    let all = b.c.snd_nxt.0;
    b.send(20, ack(5001, all));
    assert_eq!(b.c.windows(), (5000, 5000));
    assert_eq!(b.c.recovery.phase, super::super::recovery::Phase::Open);
}

#[test]
fn the_fin_is_sent_again_with_the_lost_data_before_it() {
    let mut b = Bench::established();
    b.write_bytes(500);
    b.cx(super::super::state::Connection::close);
    b.recv(0, &[fin(1001, 5001).data(&bytes(1001, 500))]);
    b.recv(200, &[fin(1001, 5001).data(&bytes(1001, 500))]);
    b.send(210, ack(5001, 1501));
    b.recv_nothing(210);
    b.recv(900, &[fin(1501, 5001)]);
    b.send(910, ack(5001, 1502));
    assert_eq!(b.state(), TcpState::FinWait2);
}
