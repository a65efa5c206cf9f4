//! Data received (RFC 9293 3.10.7.4, RFC 5681 4.2, RFC 2018, RFC 2883, RFC 7323).

use super::*;
use crate::drop::DropReason;
use crate::socket::tcp::{ShutdownHow, TcpError};

#[test]
fn established_data_is_acknowledged_after_the_delay() {
    let mut b = Bench::established();
    b.send(10, ack(5001, 1001).data(b"abc"));
    assert!(b.c.wake);
    b.recv_nothing(49);
    b.recv(50, &[ack(1001, 5004)]);
    assert_eq!((b.read(), b.stats.delayed_acks), (b"abc".to_vec(), 1));
}

#[test]
fn established_every_second_full_segment_is_acknowledged_at_once() {
    let mut b = Bench::established();
    b.send(1, ack(5001, 1001).data(&[1; 1000]));
    b.recv_nothing(1);
    b.send(2, ack(6001, 1001).data(&[2; 1000]));
    b.recv(2, &[ack(1001, 7001)]);
    b.recv_nothing(500);
    assert_eq!(b.stats.delayed_acks, 0);
}

#[test]
fn established_a_merged_segment_is_acknowledged_at_once() {
    let mut b = Bench::established();
    b.send(1, ack(5001, 1001).data(&[0; 1000]));
    b.recv(41, &[ack(1001, 6001)]);
    let mut frame = Frame::from_heap(0, &[1; 1000]);
    frame.frags.push(bytes::Bytes::from(vec![2; 9000]));
    let header = ack(6001, 1001).header();
    assert!(b.cx(|c, cx| c.on_segment(cx, &header, frame)).dropped.is_none());
    b.recv(42, &[ack(1001, 16_001)]);
    assert_eq!(b.read().len(), 11_000);
    assert_eq!(b.c.rcv_mss, 1000);
}

#[test]
fn established_data_we_send_carries_the_acknowledgement() {
    let mut b = Bench::established();
    b.send(10, ack(5001, 1001).data(b"abc"));
    b.write_bytes(5);
    b.recv(10, &[ack(1001, 5004).data(&bytes(1001, 5))]);
    b.send(11, ack(5004, 1006));
    b.recv_nothing(100);
}

#[test]
fn established_a_hole_is_reported_at_once_newest_block_first() {
    let mut b = Bench::established_sack();
    b.send(1, ack(5101, 1001).data(&[1; 100]));
    b.recv(1, &[ack(1001, 5001).sack(&[(5101, 5201)])]);
    b.send(2, ack(5301, 1001).data(&[1; 100]));
    b.recv(2, &[ack(1001, 5001).sack(&[(5301, 5401), (5101, 5201)])]);
    b.send(3, ack(5201, 1001).data(&[1; 100]));
    b.recv(3, &[ack(1001, 5001).sack(&[(5101, 5401)])]);
    b.send(4, ack(5001, 1001).data(&[1; 100]));
    b.recv(4, &[ack(1001, 5401).sack(&[])]);
    assert_eq!((b.read().len(), b.stats.ofo_queue), (400, 3));
}

#[test]
fn established_four_blocks_without_timestamps_three_with() {
    for (timestamps, most) in [(false, 4), (true, 3)] {
        let timestamp = timestamps.then_some((700, 0));
        let options = Options { sack_permitted: true, timestamp, ..Options::default() };
        let mut b = Bench::established_with(settings(), options);
        for i in 1..=5 {
            let seg = ack(5001 + i * 100, 1001).data(&[1; 10]);
            b.send(u64::from(i), if timestamps { seg.ts(700 + i, 0) } else { seg });
        }
        let (header, _) = b.poll().unwrap();
        let blocks = header.options.sack;
        assert_eq!(blocks.as_slice().len(), most);
        assert_eq!(blocks.as_slice()[0], (SeqNum(5501), SeqNum(5511)));
    }
}

#[test]
fn established_without_sack_a_hole_gives_bare_duplicates() {
    let mut b = Bench::established();
    for i in 0..3 {
        b.send(i, ack(5101 + i as u32 * 10, 1001).data(&[1; 10]));
        b.recv(i, &[ack(1001, 5001).sack(&[])]);
    }
}

// RFC 2883
#[test]
fn established_an_old_segment_is_reported_as_duplicate() {
    let mut b = Bench::established_sack();
    b.send(1, ack(5001, 1001).data(&[1; 100]));
    let outcome = b.send(2, ack(5001, 1001).data(&[1; 100]));
    assert_eq!(outcome.dropped, Some(DropReason::TcpOutOfWindow));
    b.recv(2, &[ack(1001, 5101).sack(&[(5001, 5101)])]);
    assert_eq!((b.read().len(), b.stats.duplicate_segs), (100, 1));
    b.send(3, ack(5201, 1001).data(&[1; 100]));
    b.recv(3, &[ack(1001, 5101).sack(&[(5201, 5301)])]);
}

#[test]
fn established_an_overlap_is_trimmed() {
    let mut b = Bench::established();
    b.send(1, ack(5001, 1001).data(&bytes(5001, 100)));
    b.send(2, ack(5051, 1001).data(&bytes(5051, 100)));
    assert_eq!(b.read(), bytes(5001, 150));
    assert_eq!(b.c.rcv_nxt.0, 5151);
}

#[test]
fn established_data_beyond_the_window_is_cut() {
    let mut b =
        Bench::established_with(Settings { recv_buffer: 3000, ..settings() }, Options::default());
    b.send(1, ack(5001, 1001).data(&bytes(5001, 4000)));
    b.recv(1, &[ack(1001, 8001).win(0)]);
    assert_eq!(b.read(), bytes(5001, 3000));
}

#[test]
fn established_a_segment_behind_the_window_is_answered_and_dropped() {
    let mut b = Bench::established();
    let outcome = b.send(1, ack(5001 + 60_000, 1001).data(b"x"));
    assert_eq!(outcome.dropped, Some(DropReason::TcpOutOfWindow));
    b.recv(1, &[ack(1001, 5001)]);
}

// RFC 9293 3.10.7.4: special allowance for ACKs at a closed window.
#[test]
fn established_at_a_closed_window_the_ack_counts_and_the_data_does_not() {
    let mut b =
        Bench::established_with(Settings { recv_buffer: 3000, ..settings() }, Options::default());
    b.send(1, ack(5001, 1001).data(&[0; 3000]));
    b.recv(1, &[ack(1001, 8001).win(0)]);
    b.write_bytes(10);
    b.recv(1, &[ack(1001, 8001).data(&bytes(1001, 10)).win(0)]);
    let outcome = b.send(2, ack(8001, 1011).data(b"x"));
    assert_eq!(outcome.dropped, Some(DropReason::TcpBufferFull));
    assert_eq!(b.c.snd_una.0, 1011);
    b.recv(2, &[ack(1011, 8001).win(0)]);
}

#[test]
fn established_a_segment_without_ack_is_dropped() {
    let mut b = Bench::established();
    let seg = Seg { seq: 5001, ..Seg::default() }.data(b"x");
    assert_eq!(b.send(1, seg).dropped, Some(DropReason::TcpFlagsInvalid));
    assert_eq!(b.read(), b"");
}

// RFC 6093: urgent data is ordinary data.
#[test]
fn established_urgent_data_stays_in_the_stream() {
    let mut b = Bench::established();
    b.send(1, ack(5001, 1001).flag(Flags::URG).data(b"urgent"));
    assert_eq!(b.read(), b"urgent");
}

// RFC 5961 section 5
#[test]
fn established_an_ack_of_what_was_never_sent_is_challenged() {
    let mut b = Bench::established();
    let outcome = b.send(1, ack(5001, 1002).data(b"x"));
    assert_eq!(
        (outcome.reply, outcome.dropped),
        (Reply::Challenge, Some(DropReason::TcpAckInvalid))
    );
    assert_eq!(b.read(), b"");
}

#[test]
fn established_an_ack_older_than_a_window_is_challenged_a_younger_one_ignored() {
    let mut b = Bench::established();
    assert_eq!(b.send(1, ack(5001, 1001u32.wrapping_sub(30_001))).reply, Reply::Challenge);
    let outcome = b.send(2, ack(5001, 1001 - 500).data(b"x"));
    assert_eq!(outcome.dropped, None);
    assert_eq!(b.read(), b"x");
}

#[test]
fn established_with_reading_shut_data_is_acknowledged_and_discarded() {
    let mut b = Bench::established();
    b.cx(|c, cx| c.shut_down(cx, ShutdownHow::Read));
    b.send(1, ack(5001, 1001).data(&[1; 1000]));
    b.send(1, ack(6001, 1001).data(&[1; 1000]));
    b.recv(1, &[ack(1001, 7001).win(60_000)]);
    assert_eq!(b.c.recv.len(), 0);
}

// RFC 9293 3.6.1
#[test]
fn fin_wait_1_of_an_orphan_data_is_answered_with_rst() {
    let mut b = Bench::established();
    b.cx(super::super::state::Connection::close);
    b.recv(1, &[fin(1001, 5001)]);
    // The FIN did not arrive: the number that the peer waits for is the one before.
    let outcome = b.send(2, ack(5001, 1001).data(b"x"));
    assert!(matches!(outcome.reply, Reply::Reset(h) if h.seq.0 == 1001));
    assert_eq!((b.state(), b.c.error), (TcpState::Closed, Some(TcpError::Aborted)));
    assert_eq!(b.stats.abort_on_data, 1);
}

// RFC 7323 5.3
#[test]
fn paws_an_old_timestamp_is_answered_and_dropped() {
    let mut b = Bench::established_ts();
    b.send(1, ack(5001, 1001).ts(800, 0).data(b"a"));
    let outcome = b.send(2, ack(5002, 1001).ts(799, 0).data(b"b"));
    assert_eq!(outcome.dropped, Some(DropReason::TcpPaws));
    b.recv(2, &[ack(1001, 5002).ts(2, 800)]);
    assert_eq!((b.read(), b.stats.paws_rejected), (b"a".to_vec(), 1));
}

#[test]
fn paws_timestamps_wrap() {
    let options = Options { timestamp: Some((u32::MAX, 0)), ..Options::default() };
    let mut b = Bench::established_with(settings(), options);
    b.send(1, ack(5001, 1001).ts(5, 0).data(b"a"));
    assert_eq!(b.read(), b"a");
}

// RFC 7323 5.5
#[test]
fn paws_a_timestamp_says_nothing_after_24_days() {
    let mut b = Bench::established_ts();
    let days = |n: u64| n * 86_400_000;
    b.send(days(25), ack(5001, 1001).ts(3, 0).data(b"a"));
    assert_eq!(b.read(), b"a");
}

// RFC 7323 3.2
#[test]
fn paws_a_segment_without_timestamp_is_dropped_but_not_a_rst() {
    let mut b = Bench::established_ts();
    assert_eq!(b.send(1, ack(5001, 1001).data(b"a")).dropped, Some(DropReason::TcpPaws));
    b.recv_nothing(1);
    b.send(2, rst(5001));
    assert_eq!(b.state(), TcpState::Closed);
}

// RFC 7323 4.3
#[test]
fn a_delayed_ack_echoes_the_first_timestamp() {
    let mut b = Bench::established_ts();
    b.send(1, ack(5001, 1001).ts(801, 0).data(b"a"));
    b.send(5, ack(5002, 1001).ts(805, 0).data(b"b"));
    b.recv(41, &[ack(1001, 5003).ts(41, 801)]);
    b.send(50, ack(5003, 1001).ts(850, 0).data(b"c"));
    b.recv(90, &[ack(1001, 5004).ts(90, 850)]);
}

#[test]
fn a_segment_out_of_order_does_not_move_the_echo() {
    let mut b = Bench::established_ts();
    b.send(1, ack(5101, 1001).ts(900, 0).data(b"a"));
    b.recv(1, &[ack(1001, 5001).ts(1, 700)]);
    b.send(2, ack(5001, 1001).ts(850, 0).data(&[0; 100]));
    b.recv(2, &[ack(1001, 5102).ts(2, 850)]);
}
