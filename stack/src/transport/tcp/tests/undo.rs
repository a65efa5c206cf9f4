//! Spurious recoveries: Eifel (RFC 3522, 4015), DSACK (RFC 3708), F-RTO (RFC 5682).

use super::super::recovery::Phase;
use super::*;

fn options() -> Options {
    Options { sack_permitted: true, timestamp: Some((700, 0)), ..Options::default() }
}

/// Ten segments of 1000 bytes with timestamps and SACK, sent at 5.
fn with_timestamps() -> Bench {
    let mss = Some(1012);
    let mut b = Bench::established_with(settings(), Options { mss, ..options() });
    b.at(5);
    b.write_bytes(10_000);
    b.recv(5, &full(1001, 10, 5001));
    b
}

fn drain(b: &mut Bench) -> Vec<u32> {
    std::iter::from_fn(|| b.poll()).map(|(h, _)| h.seq.0).collect()
}

// RFC 3522 3.2, RFC 4015 3.2
#[test]
fn an_echo_older_than_the_repetition_takes_a_timeout_back() {
    let mut b = with_timestamps();
    b.c.sent.recent.probe.forget();
    b.at(205);
    assert_eq!(drain(&mut b), [1001]);
    assert_eq!((b.c.recovery.phase, b.c.windows().0), (Phase::Timeout, 1000));
    // The original was only late.
    b.send(210, ack(5001, 2001).ts(710, 5));
    assert_eq!((b.c.recovery.phase, b.stats.loss_undo), (Phase::Open, 1));
    assert!(b.c.windows().0 >= 10_000, "{:?}", b.c.windows());
    assert_eq!(b.c.sent.lost(), 0);
    assert_eq!(b.c.info(b.now).undos, 1);
}

// RFC 4015 3.3: the estimate starts again from the first round trip of data that was not sent when
// the timeout came.
#[test]
fn after_an_early_timeout_the_estimate_starts_again_from_new_data() {
    let mut b = with_timestamps();
    b.c.sent.recent.probe.forget();
    b.at(205);
    assert_eq!(drain(&mut b), [1001]);
    let before = b.c.rtt.srtt();
    b.send(305, ack(5001, 11_001).ts(805, 5));
    assert_eq!((b.c.recovery.phase, b.stats.loss_undo), (Phase::Open, 1));
    // Slow, or are acknowledgements before it lost? What comes next tells; until then the timer
    // stays backed off.
    assert_eq!((b.c.rtt.srtt(), b.c.rtt.backoff()), (before, 1));
    b.write_bytes(1000);
    drain(&mut b);
    b.send(605, ack(5001, 12_001).ts(1105, 305));
    assert_eq!((b.c.rtt.srtt(), b.c.rtt.backoff()), (Some(Duration::from_millis(300)), 0));
    assert!(b.c.rtt.rto() > Duration::from_millis(600), "{:?}", b.c.rtt.rto());
}

/// All acknowledgements are lost until a window update at 6005, which echoes `echo`.
fn a_window_update_after_lost_acknowledgements(echo: u32) -> Bench {
    let mut b = with_timestamps();
    b.c.sent.recent.probe.forget();
    b.at(205);
    assert_eq!(drain(&mut b), [1001]);
    b.at(605);
    assert_eq!(drain(&mut b), [1001]);
    let before = b.c.rtt.srtt();
    b.send(6005, ack(5001, 11_001).ts(700 + echo, echo));
    assert_eq!((b.c.rtt.srtt(), b.c.flight()), (before, 0));
    b.write_bytes(1000);
    drain(&mut b);
    b.send(6025, ack(5001, 12_001).ts(6725, 6005));
    b
}

// RFC 6298 3 (Karn): the reader stopped for six seconds, and the update of its window is the first
// acknowledgement that arrives. It measures nothing.
#[test]
fn a_window_update_after_lost_acknowledgements_is_no_round_trip() {
    // The echo of the original; of the first repetition, when there were two.
    for echo in [5, 205] {
        let b = a_window_update_after_lost_acknowledgements(echo);
        assert!(b.c.rtt.srtt().unwrap() <= Duration::from_millis(30), "{:?}", b.c.rtt.srtt());
        assert_eq!(b.c.rtt.rto(), Duration::from_millis(200), "echo {echo}");
    }
}

// RFC 3522 3.2: the echo of the repetition proves that the original was lost.
#[test]
fn an_echo_of_the_repetition_takes_nothing_back() {
    let mut b = with_timestamps();
    b.c.sent.recent.probe.forget();
    b.at(205);
    assert_eq!(drain(&mut b), [1001]);
    b.send(235, ack(5001, 2001).ts(735, 205));
    assert_eq!((b.c.recovery.phase, b.stats.loss_undo), (Phase::Timeout, 0));
    // RFC 3522 3.2 step 3: only the first acceptable acknowledgement tells.
    b.send(236, ack(5001, 3001).ts(736, 5));
    assert_eq!(b.stats.loss_undo, 0);
}

// RFC 3522 3.2: fast recovery, because of reordering.
#[test]
fn an_echo_older_than_the_repetition_takes_fast_recovery_back() {
    let mut b = with_timestamps();
    b.send(30, ack(5001, 1001).sack(&[(2001, 5001)]).ts(700, 5));
    assert_eq!(drain(&mut b), [1001]);
    assert_eq!(b.c.recovery.phase, Phase::Fast);
    let reordered = b.c.rack.reordered;
    b.send(35, ack(5001, 5001).ts(705, 5));
    assert_eq!((b.c.recovery.phase, b.stats.full_undo), (Phase::Open, 1));
    assert_eq!(b.c.windows(), (10_000, usize::MAX));
    assert!(b.c.rack.reordered > reordered, "the path reorders: more patience from now on");
}

// RFC 3522 3.2: what counts is the repetition of the acknowledged segment, which may be from the
// recovery before.
#[test]
fn the_echo_of_a_repetition_from_an_earlier_recovery_takes_nothing_back() {
    let mut b = with_timestamps();
    b.c.cc = super::super::cc::Algorithm::NewReno(super::super::cc::NewReno::new(2000));
    b.write_bytes(60_000);
    let report = |una, blocks: &[(u32, u32)]| ack(5001, una).sack(blocks).win(60_000);
    // The first is lost; new segments leave meanwhile, from 11001 on, of which the first is lost
    // too.
    b.send(30, report(1001, &[(2001, 8001)]).ts(730, 5));
    drain(&mut b);
    b.send(40, report(1001, &[(2001, 11_001)]).ts(740, 5));
    assert!(drain(&mut b).contains(&14_001));
    b.send(60, report(1001, &[(12_001, 15_001), (2001, 11_001)]).ts(760, 30));
    assert!(drain(&mut b).contains(&11_001));
    b.send(65, report(11_001, &[(12_001, 15_001)]).ts(765, 30));
    let last = *drain(&mut b).iter().max().unwrap() + 1000;
    assert!(last >= 17_001, "{last}");
    assert_eq!((b.c.recovery.phase, b.stats.sack_recovery), (Phase::Open, 1));
    // 15001 is lost as well: another recovery begins before the repetition of 11001 arrives.
    b.send(85, report(11_001, &[(16_001, last), (12_001, 15_001)]).ts(785, 30));
    assert_eq!((b.c.recovery.phase, b.stats.sack_recovery), (Phase::Fast, 2));
    assert!(drain(&mut b).contains(&15_001));
    b.send(95, report(15_001, &[(16_001, last)]).ts(795, 60));
    assert_eq!((b.c.recovery.phase, b.stats.full_undo), (Phase::Fast, 0));
}

fn plain() -> Bench {
    let mut b = Bench::established_sack();
    b.write_bytes(10_000);
    b.recv(0, &full(1001, 10, 5001));
    b
}

// RFC 3708 3
#[test]
fn duplicates_of_all_that_was_sent_again_take_recovery_back() {
    let mut b = plain();
    b.send(30, ack(5001, 1001).sack(&[(3001, 6001)]));
    assert_eq!(drain(&mut b)[0], 1001);
    b.send(31, ack(5001, 1001).sack(&[(3001, 8001)]));
    let again = drain(&mut b);
    b.send(33, ack(5001, 8001));
    let mut bytes = 1000;
    if again.contains(&2001) {
        b.send(60, ack(5001, 8001).sack(&[(1001, 2001)]));
        assert_eq!(b.stats.dsack_undo, 0, "one of two");
        b.send(60, ack(5001, 8001).sack(&[(2001, 3001)]));
        bytes += 1000;
    } else {
        b.send(60, ack(5001, 8001).sack(&[(1001, 2001)]));
    }
    assert_eq!((b.stats.dsack_undo, b.c.totals.losses.bytes_retransmitted), (1, bytes));
    assert!(b.c.windows().0 >= 10_000);
    assert_eq!(b.c.info(b.now).dsacks, bytes / 1000);
}

// RFC 3708 3: also after recovery is over; but nothing twice.
#[test]
fn a_recovery_is_taken_back_after_its_end_and_once() {
    let mut b = plain();
    b.send(30, ack(5001, 1001).sack(&[(2001, 5001)]));
    drain(&mut b);
    b.send(40, ack(5001, 11_001));
    assert_eq!(b.c.recovery.phase, Phase::Open);
    for _ in 0..3 {
        b.send(60, ack(5001, 11_001).sack(&[(1001, 2001)]));
    }
    // Nothing is in flight any more: only what is sent again is looked at.
    b.write_bytes(1000);
    drain(&mut b);
    for _ in 0..3 {
        b.send(61, ack(5001, 11_001).sack(&[(1001, 2001)]));
    }
    assert_eq!(b.stats.dsack_undo, 1);
}

// RFC 2883 4, RFC 3708 3: what lies below the start of recovery belongs to an earlier one.
#[test]
fn an_old_duplicate_takes_nothing_back() {
    let mut b = plain();
    b.send(30, ack(5001, 3001));
    b.send(31, ack(5001, 3001).sack(&[(4001, 8001)]));
    drain(&mut b);
    b.send(32, ack(5001, 3001).sack(&[(1001, 2001), (4001, 8001)]));
    assert_eq!((b.stats.dsack_recv, b.stats.dsack_undo), (1, 0));
}

/// A timeout at 200 with more to send; the first segment went again.
fn timed_out(mut b: Bench) -> Bench {
    b.send(0, ack(5001, 1001).win(5000));
    b.write_bytes(15_000);
    b.recv(0, &full(1001, 5, 5001));
    b.c.sent.recent.probe.forget();
    b.recv(200, &full(1001, 1, 5001));
    b
}

// RFC 5682 2.1, 4
#[test]
fn after_a_timeout_two_new_segments_ask_whether_it_was_spurious() {
    let mut b = timed_out(Bench::established());
    b.send(210, ack(5001, 2001));
    b.recv(210, &full(6001, 2, 5001));
    // Step 3b: more of the old flight is acknowledged: nothing was lost.
    b.send(211, ack(5001, 3001));
    assert_eq!((b.stats.spurious_rtos, b.c.recovery.phase), (1, Phase::Open));
    assert_eq!(b.c.sent.lost(), 0);
    let more = drain(&mut b);
    assert!(more.iter().all(|seq| *seq > 6001), "nothing old: {more:?}");
}

// RFC 5682 2.1 step 3a
#[test]
fn a_duplicate_after_the_new_segments_says_that_the_loss_was_real() {
    let mut b = timed_out(Bench::established());
    b.send(210, ack(5001, 2001));
    b.recv(210, &full(6001, 2, 5001));
    b.send(240, ack(5001, 2001));
    assert_eq!((b.stats.spurious_rtos, b.c.recovery.phase), (0, Phase::Timeout));
    assert_eq!(drain(&mut b).first(), Some(&2001));
}

// RFC 5682 2.1 step 2a
#[test]
fn a_duplicate_as_the_first_answer_ends_the_asking() {
    let mut b = timed_out(Bench::established());
    b.send(210, ack(5001, 1001).win(5000));
    b.send(211, ack(5001, 2001));
    assert_eq!(drain(&mut b).first(), Some(&2001), "conventional recovery");
}

// RFC 5682 2.1 step 2: without new data there is nothing to ask with.
#[test]
fn without_new_data_recovery_is_conventional() {
    let mut b = Bench::established();
    b.write_bytes(5000);
    b.recv(0, &full(1001, 5, 5001));
    b.recv(200, &full(1001, 1, 5001));
    b.send(210, ack(5001, 2001));
    b.recv(210, &full(2001, 2, 5001));
}

// RFC 5682 3.1: with SACK a report of what was sent before is enough.
#[test]
fn with_sack_a_report_of_the_old_flight_takes_the_timeout_back() {
    let mut b = timed_out(Bench::established_sack());
    b.send(210, ack(5001, 2001));
    b.recv(210, &full(6001, 2, 5001));
    b.send(212, ack(5001, 2001).sack(&[(3001, 4001)]));
    assert_eq!((b.stats.spurious_rtos, b.c.recovery.phase), (1, Phase::Open));
}

// RFC 5682 3.1 step 3a: only the new segments arrive: the old ones are lost.
#[test]
fn with_sack_a_report_of_the_new_segments_alone_is_real_loss() {
    let mut b = timed_out(Bench::established_sack());
    b.send(210, ack(5001, 2001));
    b.recv(210, &full(6001, 2, 5001));
    b.send(240, ack(5001, 2001).sack(&[(6001, 7001)]));
    assert_eq!((b.stats.spurious_rtos, b.c.recovery.phase), (0, Phase::Timeout));
    assert_eq!(drain(&mut b).first(), Some(&2001));
}

// RFC 5682 2.1 step 1: not in the recovery of an earlier timeout.
#[test]
fn a_second_timeout_asks_no_more() {
    let mut b = timed_out(Bench::established());
    b.recv(600, &full(1001, 1, 5001));
    b.send(610, ack(5001, 2001));
    assert_eq!(drain(&mut b).first(), Some(&2001));
}

// RFC 2018 8: the peer dropped what it had reported.
#[test]
fn a_report_that_the_acknowledgement_passed_over_is_void() {
    let mut b = plain();
    b.send(30, ack(5001, 1001).sack(&[(2001, 4001)]));
    // The cumulative acknowledgement stops where the report begins.
    b.send(31, ack(5001, 2001));
    b.c.sent.recent.at = None;
    b.c.sent.recent.probe.forget();
    let due = (b.c.rtx_at.unwrap() - START).as_millis() as u64 + 1;
    b.at(due);
    assert_eq!((b.stats.sack_reneging, b.c.sent.sacked()), (1, 0));
    assert_eq!(drain(&mut b), [2001]);
}

// RFC 5682 2.1: step 2b needs new data that leaves. Neither Nagle nor a cork holds it back.
#[test]
fn after_a_timeout_a_small_tail_is_new_data_too() {
    for cork in [false, true] {
        let mut b = Bench::established_with(Settings { cork, ..settings() }, Options::default());
        b.write_bytes(4000);
        b.recv(0, &full(1001, 4, 5001));
        if !cork {
            b.write_bytes(10);
            assert_eq!(drain(&mut b), [5001]);
        }
        let tail = b.c.data_end().0;
        b.write_bytes(10);
        b.recv_nothing(199);
        b.c.small.stop();
        b.at(300);
        assert_eq!(drain(&mut b), [1001]);
        // What the window takes of new data goes first, then what is lost.
        b.send(330, ack(5001, 2001));
        assert_eq!(drain(&mut b), [tail]);
    }
}
