//! Loss by time, and tail loss probes (RFC 8985). The round trip of the bench is 30 ms.

use super::super::recovery::Phase;
use super::*;

fn in_flight(count: u32) -> Bench {
    let mut b = Bench::established_sack();
    b.write_bytes(count * 1000);
    b.recv(0, &full(1001, count, 5001));
    b
}

/// With reordering seen on the path, patience is a quarter of the smallest round trip.
fn reordered(count: u32) -> Bench {
    let mut b = in_flight(count);
    b.c.rack.reordered = 1;
    b
}

// RFC 8985 6.2 step 4: reordering was never seen, DupThresh segments are reported.
#[test]
fn three_reported_segments_show_loss_at_once_while_nothing_was_reordered() {
    let mut b = in_flight(5);
    b.send(30, ack(5001, 1001).sack(&[(2001, 4001)]));
    b.recv_nothing(30);
    b.send(31, ack(5001, 1001).sack(&[(2001, 5001)]));
    b.recv(31, &full(1001, 1, 5001));
    assert_eq!((b.stats.fast_retrans, b.stats.sack_recovery), (1, 1));
}

// RFC 8985 6.2 step 5
#[test]
fn one_reported_segment_shows_loss_after_a_quarter_of_the_round_trip() {
    let mut b = in_flight(2);
    b.send(30, ack(5001, 1001).sack(&[(2001, 3001)]));
    b.recv_nothing(30);
    b.recv_nothing(37);
    // 30 ms and a quarter after it left.
    b.recv(38, &full(1001, 1, 5001));
    assert_eq!((b.stats.fast_retrans, b.stats.timeouts), (1, 0));
}

// RFC 8985 6.2 step 4: the window of reordering keeps three reports from showing loss.
#[test]
fn after_reordering_three_reported_segments_wait() {
    let mut b = reordered(5);
    b.send(30, ack(5001, 1001).sack(&[(2001, 5001)]));
    b.recv_nothing(30);
    b.send(35, ack(5001, 5001));
    b.recv_nothing(60);
    assert_eq!(b.stats.fast_retrans, 0, "it was only late");
    assert_eq!(b.stats.retrans_segs, 0);
}

// RFC 8985 6.2 step 3
#[test]
fn a_segment_that_arrives_late_is_reordering() {
    let mut b = in_flight(5);
    b.send(30, ack(5001, 1001).sack(&[(2001, 3001)]));
    assert_eq!(b.c.rack.reordered, 0);
    b.send(31, ack(5001, 3001));
    assert_eq!((b.c.rack.reordered, b.stats.sack_reorder), (1, 1));
}

// RFC 8985 6.2 step 3: what was sent again says nothing about the order of the path.
#[test]
fn a_repetition_that_arrives_is_no_reordering() {
    let mut b = in_flight(5);
    b.send(30, ack(5001, 1001).sack(&[(2001, 5001)]));
    b.recv(30, &full(1001, 1, 5001));
    b.send(60, ack(5001, 5001));
    assert_eq!(b.stats.sack_reorder, 0);
}

// RFC 8985 6.2 step 4: a duplicate widens the window by a quarter of a round trip, for sixteen
// recoveries.
#[test]
fn a_reported_duplicate_makes_it_more_patient() {
    let mut b = reordered(5);
    let quarter = Duration::from_micros(7500);
    assert_eq!(b.c.reo_wnd(), quarter);
    b.send(30, ack(5001, 2001).sack(&[(1001, 2001)]));
    assert_eq!((b.c.reo_wnd(), b.stats.dsack_recv), (quarter * 2, 1));
    // Once per round trip.
    b.send(31, ack(5001, 3001).sack(&[(2001, 3001)]));
    assert_eq!(b.c.reo_wnd(), quarter * 2);
    b.send(32, ack(5001, 6001).sack(&[(2001, 3001)]));
    b.send(32, ack(5001, 6001).sack(&[(2001, 3001)]));
    assert!(b.c.reo_wnd() <= b.c.rtt.srtt().unwrap(), "never more than a round trip");
    (0..16).for_each(|_| b.c.rack.on_recovered());
    assert_eq!(b.c.reo_wnd(), quarter);
}

// RFC 8985 3.1, 6.2 step 5: a lost repetition is found by what left after it.
#[test]
fn a_repetition_that_is_lost_is_repeated_without_a_timeout() {
    let mut b = in_flight(10);
    b.write_bytes(20_000);
    b.send(30, ack(5001, 1001).sack(&[(2001, 5001)]));
    let sent: Vec<_> = std::iter::from_fn(|| b.poll()).map(|(h, _)| h.seq.0).collect();
    assert_eq!(sent[0], 1001);
    // The rest of the flight arrives, then what left after the repetition.
    b.send(31, ack(5001, 1001).sack(&[(2001, 11_001)]));
    let new: Vec<_> = std::iter::from_fn(|| b.poll()).map(|(h, _)| h.seq.0).collect();
    assert!(!new.contains(&1001) && new.contains(&11_001), "{new:?}");
    b.send(61, ack(5001, 1001).sack(&[(2001, 12_001)]));
    let (h, _) = b.poll().unwrap();
    assert_eq!(h.seq.0, 1001);
    assert_eq!((b.stats.lost_retransmit, b.stats.timeouts, b.stats.fast_retrans), (1, 0, 1));
}

// RFC 8985 6.2 step 2: an acknowledgement sooner than the smallest round trip after a repetition
// is of the original.
#[test]
fn an_answer_too_soon_for_the_repetition_does_not_judge_by_it() {
    let mut b = in_flight(10);
    b.send(30, ack(5001, 1001).sack(&[(2001, 5001)]));
    b.recv(30, &full(1001, 1, 5001));
    // The original of the first segment arrives 5 ms after its repetition left.
    b.send(35, ack(5001, 5001));
    b.at(45);
    // Six segments that left with the original are not lost because of it.
    assert_eq!(b.c.sent.lost(), 0);
}

// RFC 8985 6.3
#[test]
fn a_timeout_does_not_call_lost_what_had_no_time_to_arrive() {
    let mut b = in_flight(2);
    b.send(30, ack(5001, 2001));
    // The last of the first flight hangs; more data keeps leaving.
    b.c.sent.recent.probe.forget();
    let due = b.c.rtx_at.unwrap();
    let due = (due - START).as_millis() as u64;
    b.at(due - 10);
    b.c.sent.recent.probe.forget();
    b.write_bytes(1000);
    b.recv(due - 10, &full(3001, 1, 5001));
    b.c.sent.recent.probe.forget();
    b.recv(due + 1, &full(2001, 1, 5001));
    assert_eq!((b.stats.timeouts, b.c.sent.lost()), (1, 0), "the second left 10 ms ago");
}

// RFC 8985 7.2, 7.3
#[test]
fn the_last_segment_is_repeated_after_two_round_trips() {
    let mut b = in_flight(3);
    b.recv_nothing(61);
    b.recv(62, &full(3001, 1, 5001));
    assert_eq!((b.stats.loss_probes, b.stats.timeouts), (1, 0));
    assert_eq!(b.c.totals.losses.retransmits.tail_probe, 1);
    // The timeout counts from the probe (RFC 8985 7.3), and there is one probe only.
    b.recv_nothing(261);
    b.recv(262, &full(1001, 1, 5001));
    assert_eq!((b.stats.loss_probes, b.stats.timeouts), (1, 1));
}

// RFC 8985 7.3: new data is better than old, whatever the congestion window says.
#[test]
fn a_probe_is_new_data_if_there_is_some() {
    let mut b = Bench::established_sack();
    b.write_bytes(12_000);
    b.recv(0, &full(1001, 10, 5001));
    b.recv(62, &full(11_001, 1, 5001));
    assert_eq!((b.stats.loss_probes, b.stats.retrans_segs), (1, 0));
    b.recv_nothing(200);
}

// RFC 8985 7.3: but not beyond the peer's window.
#[test]
fn a_probe_stays_inside_the_peers_window() {
    let mut b = Bench::established_sack();
    b.send(0, ack(5001, 1001).win(2000));
    b.write_bytes(3000);
    b.recv(0, &full(1001, 2, 5001));
    b.recv(62, &full(2001, 1, 5001));
}

// RFC 8985 7.2, 8: one segment may wait for a delayed acknowledgement; the probe is due with the
// timeout at the latest, and goes instead of it.
#[test]
fn a_single_segment_is_probed_after_a_delayed_acknowledgement_or_when_its_timeout_is_due() {
    let mut b = in_flight(1);
    b.recv_nothing(109);
    b.recv(110, &full(1001, 1, 5001));
    assert_eq!((b.stats.loss_probes, b.stats.timeouts), (1, 0));
    assert_eq!(b.c.windows().0, 10_000, "a probe is no sign of congestion");
    b.recv(310, &full(1001, 1, 5001));
    assert_eq!(b.stats.timeouts, 1);
    let mut b = in_flight(1);
    b.c.rack.acks_late = true;
    b.c.schedule_probe(b.now);
    b.recv_nothing(199);
    b.recv(200, &full(1001, 1, 5001));
    assert_eq!((b.stats.loss_probes, b.stats.timeouts), (1, 0));
}

// RFC 8985 7.2: a peer whose acknowledgements come later than that is asked later.
#[test]
fn a_probe_that_was_too_early_for_a_delayed_acknowledgement_teaches_patience() {
    let mut b = in_flight(1);
    b.recv(110, &full(1001, 1, 5001));
    b.send(120, ack(5001, 2001));
    b.send(140, ack(5001, 2001).sack(&[(1001, 2001)]));
    b.write_bytes(1000);
    b.recv(140, &full(2001, 1, 5001));
    b.recv_nothing(339);
    assert_eq!((b.stats.loss_probes, b.stats.timeouts), (1, 0));
}

// RFC 8985 7.2, 7.3: the last segments of an answer within a data centre are lost. However many
// they are, no timeout is needed, and only a single one waits for a delayed acknowledgement.
#[test]
fn a_lost_tail_of_any_length_is_repaired_without_a_timeout() {
    const SEGMENTS: u32 = 12;
    for lost in 1..=SEGMENTS {
        let mut b = Bench::established_sack();
        b.c.cc = super::super::cc::Algorithm::NewReno(super::super::cc::NewReno::new(20_000));
        b.c.rtt = super::super::rtt::Rtt::new(Duration::from_millis(200));
        b.c.rtt.sample(Duration::from_micros(50), 1);
        b.write_bytes(SEGMENTS * 1000);
        b.recv(0, &full(1001, SEGMENTS, 5001));
        let (end, first) = (1001 + SEGMENTS * 1000, 1001 + (SEGMENTS - lost) * 1000);
        if lost < SEGMENTS {
            b.send(0, ack(5001, first));
        }
        let due = if lost == 1 { 51 } else { 3 };
        b.recv(due, &full(end - 1000, 1, 5001));
        // Everything is there again two round trips later.
        if lost > 1 {
            b.send(due, ack(5001, first).sack(&[(end - 1000, end)]));
            let mut again: Vec<u32> = Vec::new();
            while let Some((header, data)) = b.poll() {
                again.push(header.seq.0);
                let next = header.seq.0 + data.len() as u32;
                b.send(due, ack(5001, next).sack(&[(end - 1000, end)]));
            }
            assert_eq!(again.first(), Some(&first));
        }
        b.send(due, ack(5001, end));
        assert_eq!((b.c.flight(), b.stats.timeouts), (0, 0), "{lost} lost");
        assert_eq!(b.stats.loss_probes, 1, "{lost} lost");
    }
}

// RFC 8985 7.2: no probe while something is reported: RACK's timer is at work.
#[test]
fn reported_segments_need_no_probe() {
    let mut b = reordered(4);
    b.send(30, ack(5001, 1001).sack(&[(2001, 3001)]));
    b.at(100);
    assert_eq!(b.stats.loss_probes, 0);
}

// RFC 8985 4, 7.2: and none without SACK.
#[test]
fn without_sack_there_are_no_probes() {
    let mut b = Bench::established();
    b.write_bytes(3000);
    b.recv(0, &full(1001, 3, 5001));
    b.recv_nothing(199);
    b.recv(200, &full(1001, 1, 5001));
    assert_eq!((b.stats.loss_probes, b.stats.timeouts), (0, 1));
}

// RFC 8985 7.4: the probe is reported, the lost tail is seen.
#[test]
fn a_probe_that_is_reported_shows_the_lost_tail() {
    let mut b = Bench::established_sack();
    b.write_bytes(4000);
    b.recv(0, &full(1001, 4, 5001));
    b.send(30, ack(5001, 2001));
    b.recv(120, &full(4001, 1, 5001));
    b.send(150, ack(5001, 2001).sack(&[(4001, 5001)]));
    b.recv(150, &full(2001, 1, 5001));
    b.send(180, ack(5001, 3001).sack(&[(4001, 5001)]));
    b.recv(180, &full(3001, 1, 5001));
    assert_eq!((b.stats.timeouts, b.stats.fast_retrans), (0, 1));
}

fn probed_tail() -> Bench {
    let mut b = in_flight(3);
    b.recv(62, &full(3001, 1, 5001));
    b
}

// RFC 8985 7.4.2: the probe repaired the loss of the last segment: once more than it, and no
// duplicate.
#[test]
fn a_loss_that_the_probe_repaired_is_congestion() {
    let mut b = probed_tail();
    b.send(92, ack(5001, 4001));
    assert_eq!((b.stats.loss_probe_recovery, b.c.windows().0), (0, 10_000), "not known yet");
    b.write_bytes(1000);
    b.recv(92, &full(4001, 1, 5001));
    b.send(122, ack(5001, 5001));
    assert_eq!(b.stats.loss_probe_recovery, 1);
    assert!(b.c.windows().0 < 10_000);
    assert_eq!(b.c.recovery.phase, Phase::Open);
}

// RFC 8985 7.4.2: the duplicate tells that nothing was lost.
#[test]
fn a_probe_that_was_a_duplicate_is_not_congestion() {
    let mut b = probed_tail();
    b.send(70, ack(5001, 4001));
    b.send(92, ack(5001, 4001).sack(&[(3001, 4001)]));
    b.write_bytes(1000);
    b.recv(92, &full(4001, 1, 5001));
    b.send(122, ack(5001, 5001));
    assert_eq!((b.stats.loss_probe_recovery, b.c.windows().0), (0, 10_000));
}

// RFC 8985 7.3
#[test]
fn a_probe_repeats_the_fin() {
    let mut b = Bench::established_sack();
    b.write_bytes(2500);
    b.cx(super::super::state::Connection::close);
    b.recv(0, &[full(1001, 2, 5001), vec![fin(3001, 5001).data(&bytes(3001, 500))]].concat());
    b.recv(62, &[fin(3001, 5001).data(&bytes(3001, 500))]);
    b.send(92, ack(5001, 3502));
    assert_eq!(b.state(), TcpState::FinWait2);
}

// A super-segment is one record: of the last one, a segment is repeated.
#[test]
fn a_probe_of_a_super_segment_is_its_last_segment() {
    let mut b = Bench::established_sack();
    b.limits.gso_bytes_max = 60_000;
    b.write_bytes(9000);
    while b.poll().is_some() {}
    b.at(70);
    let (h, data) = b.poll().unwrap();
    assert_eq!((h.seq.0, data.len()), (9001, 1000));
    assert!(b.poll().is_none());
}
