//! Data sent: segment sizes, Nagle, windows, persist (RFC 9293 3.7.4, 3.8.6).

use super::*;
use crate::socket::Readiness;
use crate::socket::tcp::TcpSendError;

#[test]
fn writes_go_in_full_segments_and_the_last_is_pushed() {
    let mut b = Bench::established();
    b.write_bytes(2500);
    let sent: Vec<_> = std::iter::from_fn(|| b.poll()).collect();
    let lens: Vec<_> = sent.iter().map(|(_, data)| data.len()).collect();
    assert_eq!(lens, [1000, 1000, 500]);
    let pushed: Vec<_> = sent.iter().map(|(h, _)| h.flags.has(Flags::PSH)).collect();
    assert_eq!(pushed, [false, false, true]);
    assert_eq!(b.stats.out_segs, 2 + 3);
}

#[test]
fn nagle_holds_a_second_small_segment_until_the_first_is_acknowledged() {
    let mut b = Bench::established();
    b.write_bytes(10);
    b.recv(0, &[ack(1001, 5001).data(&bytes(1001, 10))]);
    b.write_bytes(10);
    b.write_bytes(10);
    b.recv_nothing(5);
    b.send(6, ack(5001, 1011));
    b.recv(6, &[ack(1011, 5001).data(&bytes(1011, 20))]);
}

// Minshall: full segments in flight do not hold a small one.
#[test]
fn nagle_lets_a_small_segment_follow_full_ones() {
    let mut b = Bench::established();
    b.write_bytes(1000);
    b.recv(0, &full(1001, 1, 5001));
    b.write_bytes(10);
    b.recv(1, &[ack(2001, 5001).data(&bytes(2001, 10))]);
    b.write_bytes(10);
    b.recv_nothing(2);
    b.write_bytes(1000);
    b.recv(3, &[ack(2011, 5001).data(&bytes(2011, 1000))]);
}

#[test]
fn nodelay_sends_at_once() {
    let mut b =
        Bench::established_with(Settings { nodelay: true, ..settings() }, Options::default());
    for i in 0..3 {
        b.write_bytes(10);
        b.recv(1, &[ack(1001 + i * 10, 5001).data(&bytes(1001 + i * 10, 10))]);
    }
}

// RFC 6928
#[test]
fn the_initial_window_is_ten_segments() {
    let mut b = Bench::established();
    b.write_bytes(20_000);
    b.recv(0, &full(1001, 10, 5001));
    b.send(10, ack(5001, 3001));
    // Slow start: two acknowledged, four sent.
    b.recv(10, &full(11_001, 4, 5001));
}

#[test]
fn super_segments_are_whole_multiples_of_the_segment_size() {
    let mut b = Bench::established();
    b.limits.gso_bytes_max = 2500;
    b.write_bytes(5500);
    b.recv(
        0,
        &[
            ack(1001, 5001).data(&bytes(1001, 2000)),
            ack(3001, 5001).data(&bytes(3001, 2000)),
            ack(5001, 5001).data(&bytes(5001, 1500)),
        ],
    );
    assert_eq!(b.stats.out_segs, 2 + 6);
}

#[test]
fn a_super_segment_is_a_third_of_the_window_at_most() {
    let mut b = Bench::established();
    b.limits.gso_bytes_max = 60_000;
    b.write_bytes(20_000);
    let sent = std::iter::from_fn(|| b.poll()).map(|(_, data)| data.len());
    assert_eq!(sent.collect::<Vec<_>>(), [3000, 3000, 3000, 1000]);
}

#[test]
fn a_super_segment_never_exceeds_an_ip_packet() {
    let settings = Settings { send_buffer: 1 << 20, ..settings() };
    let options = Options { window_scale: Some(7), ..Options::default() };
    let mut b = Bench::established_with(settings, options);
    b.send(0, ack(5001, 1001).win(60_000));
    b.c.cc = super::super::cc::Algorithm::NewReno(super::super::cc::NewReno::new(30_000));
    b.limits.gso_bytes_max = 1 << 20;
    b.write_bytes(200_000);
    let (_, data) = b.poll().unwrap();
    assert_eq!(data.len(), 65_000);
}

#[test]
fn the_peers_window_limits() {
    let mut b = Bench::established();
    b.send(0, ack(5001, 1001).win(2500));
    b.write_bytes(5000);
    b.recv(0, &full(1001, 2, 5001));
    b.send(5, ack(5001, 3001).win(2500));
    b.recv(5, &full(3001, 2, 5001));
    b.send(9, ack(5001, 5001).win(2500));
    b.recv(9, &full(5001, 1, 5001));
}

// RFC 9293 3.8.6.2.1
#[test]
fn a_silly_window_is_not_filled_until_the_override() {
    let mut b = Bench::established();
    b.send(0, ack(5001, 1001).win(100));
    b.write_bytes(5000);
    b.recv_nothing(0);
    b.recv_nothing(199);
    b.recv(1000, &[ack(1001, 5001).data(&bytes(1001, 100))]);
}

#[test]
fn half_of_the_largest_window_is_enough() {
    let mut b = Bench::established();
    b.c.snd_wnd_max = 0;
    b.send(0, ack(5001, 1001).win(600));
    b.write_bytes(5000);
    b.recv(0, &[ack(1001, 5001).data(&bytes(1001, 600))]);
    b.send(1, ack(5001, 1601).win(300));
    b.recv(1, &[ack(1601, 5001).data(&bytes(1601, 300))]);
    b.send(2, ack(5001, 1901).win(299));
    b.recv_nothing(2);
}

#[test]
fn a_smaller_mtu_makes_smaller_segments() {
    let mut b = Bench::established();
    b.limits.mtu = 540;
    b.write_bytes(1200);
    b.recv(
        0,
        &[
            ack(1001, 5001).data(&bytes(1001, 500)),
            ack(1501, 5001).data(&bytes(1501, 500)),
            ack(2001, 5001).data(&bytes(2001, 200)),
        ],
    );
}

#[test]
fn a_lowered_path_mtu_sends_what_is_in_flight_again_in_smaller_segments() {
    let mut b = Bench::established();
    b.write_bytes(2000);
    b.recv(0, &full(1001, 2, 5001));
    b.limits.mtu = 540;
    b.c.set_mtu(540);
    b.c.resegment(b.now);
    let again = (0..4).map(|i| ack(1001 + i * 500, 5001).data(&bytes(1001 + i * 500, 500)));
    b.recv(1, &again.collect::<Vec<_>>());
    assert_eq!(b.stats.timeouts, 0);
    b.send(2, ack(5001, 3001));
    b.recv_nothing(2);
}

#[test]
fn timestamps_and_sack_blocks_take_room_from_the_payload() {
    let options = Options {
        mss: Some(1460),
        sack_permitted: true,
        timestamp: Some((700, 0)),
        ..Options::default()
    };
    let mut b = Bench::established_with(settings(), options);
    b.write_bytes(5000);
    assert_eq!(b.poll().unwrap().1.len(), 1448);
    b.send(1, ack(5101, 1001).ts(701, 0).data(b"x"));
    assert_eq!(b.poll().unwrap().1.len(), 1448 - 12);
}

#[test]
fn a_full_buffer_blocks_and_a_third_free_tells() {
    let mut b = Bench::established();
    assert_eq!(b.write(&vec![0; 150_000]), 100_000);
    assert!(!b.c.readiness().contains(Readiness::WRITABLE));
    let again = b.cx(|c, cx| c.write(cx, b"x"));
    assert_eq!(again, Err(TcpSendError::WouldBlock));
    b.c.wake = false;
    let mut at = 1;
    while b.c.send.free() < 100_000 / 3 {
        assert!(!b.c.wake);
        while b.poll().is_some() {}
        let una = b.c.snd_nxt.0;
        b.send(at, ack(5001, una));
        at += 1;
    }
    assert!(b.c.wake && b.c.readiness().contains(Readiness::WRITABLE));
}

#[test]
fn writing_before_the_handshake_blocks_and_after_a_shutdown_fails() {
    let mut b = Bench::connecting(settings());
    assert_eq!(b.cx(|c, cx| c.write(cx, b"x")), Err(TcpSendError::WouldBlock));
    let mut b = Bench::established();
    b.cx(|c, cx| c.shut_down(cx, crate::socket::tcp::ShutdownHow::Write));
    assert_eq!(b.cx(|c, cx| c.write(cx, b"x")), Err(TcpSendError::Closed));
}

// RFC 5681 4.1
#[test]
fn an_idle_connection_starts_slowly_again() {
    let mut b = Bench::established();
    b.write_bytes(40_000);
    let mut at = 1;
    while b.c.snd_una != b.c.data_end() {
        while b.poll().is_some() {}
        let nxt = b.c.snd_nxt.0;
        b.send(at, ack(5001, nxt));
        at += 1;
    }
    assert!(b.c.windows().0 > 10_000);
    b.at(at + 5000);
    b.write_bytes(40_000);
    let burst = std::iter::from_fn(|| b.poll()).count();
    assert_eq!(burst, 10);
}

#[test]
fn a_closed_window_is_probed_with_backoff_for_as_long_as_the_peer_answers() {
    let mut b = Bench::established();
    b.send(0, ack(5001, 1001).win(0));
    b.write_bytes(100);
    b.recv_nothing(0);
    let mut at = 0;
    for wait in [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000] {
        b.recv_nothing(at + wait - 1);
        at += wait;
        b.recv(at, &[ack(1000, 5001)]);
        b.send(at, ack(5001, 1001).win(0));
        b.recv_nothing(at);
    }
    assert_eq!(b.stats.window_probes, 11);
    b.send(at + 5, ack(5001, 1001).win(5000));
    b.recv(at + 5, &[ack(1001, 5001).data(&bytes(1001, 100))]);
}

#[test]
fn a_closed_window_of_a_silent_peer_times_out() {
    let mut b = Bench::established();
    b.send(0, ack(5001, 1001).win(0));
    b.write_bytes(100);
    let mut probes = 0;
    let mut at = 0;
    while b.state() == TcpState::Established {
        at += 500;
        b.at(at);
        probes += std::iter::from_fn(|| b.poll()).count();
    }
    assert_eq!(probes, 15);
    assert_eq!(b.c.error, Some(crate::socket::tcp::TcpError::TimedOut));
}

#[test]
fn a_closed_window_does_not_keep_an_orphan_for_ever() {
    let mut b = Bench::established();
    b.send(0, ack(5001, 1001).win(0));
    b.write_bytes(100);
    b.cx(super::super::state::Connection::close);
    let mut at = 0;
    while b.state() != TcpState::Closed {
        at += 1000;
        assert!(at < 1_000_000);
        b.at(at);
        if b.poll().is_some() {
            b.send(at, ack(5001, 1001).win(0));
        }
    }
}

#[test]
fn a_closed_window_holds_the_fin_too() {
    let mut b = Bench::established();
    b.send(0, ack(5001, 1001).win(0));
    b.cx(super::super::state::Connection::close);
    b.recv_nothing(0);
    b.recv(1000, &[ack(1000, 5001)]);
    b.send(1001, ack(5001, 1001).win(10));
    b.recv(1001, &[fin(1001, 5001)]);
}

#[test]
fn a_window_that_shrank_is_respected() {
    let mut b = Bench::established();
    b.write_bytes(10_000);
    b.recv(0, &full(1001, 10, 5001));
    b.write_bytes(5000);
    b.send(1, ack(5001, 2001).win(2000));
    b.recv_nothing(1);
    b.send(2, ack(5001, 11_001).win(2000));
    b.recv(2, &full(11_001, 2, 5001));
}

// RFC 9293 3.8.6.1 (MUST-37): also when the window closed over data on its way.
#[test]
fn a_window_closed_over_data_in_flight_is_waited_for_while_the_peer_answers() {
    let mut b = Bench::established();
    b.write_bytes(1000);
    let data = [ack(1001, 5001).data(&bytes(1001, 1000))];
    b.recv(0, &data);
    for _ in 0..40 {
        let at = b.c.rtx_at.expect("the data is not given up");
        let ms = (at - START).as_millis() as u64 + 1;
        b.recv(ms, &data);
        b.send(ms, ack(5001, 1001).win(0));
    }
    assert_eq!(b.state(), TcpState::Established);
    // Silence is another matter.
    for _ in 0..20 {
        let Some(at) = b.c.rtx_at else { break };
        b.at((at - START).as_millis() as u64 + 1);
        while b.poll().is_some() {}
    }
    assert_eq!(b.state(), TcpState::Closed);
}

// RFC 9293 3.8.6.1 SHLD-29
#[test]
fn the_first_probe_of_a_closed_window_waits_for_one_timeout() {
    let mut b = Bench::established();
    b.send(0, ack(5001, 1001).win(0));
    b.write_bytes(100);
    b.recv_nothing(0);
    let rto = b.c.rtt.rto().as_millis() as u64;
    b.recv_nothing(rto - 1);
    b.recv(rto, &[ack(1000, 5001)]);
}

// RFC 9293 3.8.6 SHLD-16 SHLD-17 MUST-34
#[test]
fn data_within_a_window_that_shrank_is_sent_again() {
    let mut b = Bench::established();
    b.write_bytes(4000);
    b.recv(0, &full(1001, 4, 5001));
    b.send(5, ack(5001, 2001).win(1000));
    b.recv_nothing(5);
    let rto = b.c.rtt.rto().as_millis() as u64;
    b.at(5 + rto);
    let (header, data) = b.poll().unwrap();
    assert_eq!((header.seq.0, data.len()), (2001, 1000));
}

// RFC 9293 3.8.6.2.1 MUST-38
#[test]
fn a_silly_window_waits_while_data_is_in_flight() {
    let mut b = Bench::established();
    b.send(0, ack(5001, 1001).win(5000));
    b.write_bytes(10_000);
    b.recv(0, &full(1001, 5, 5001));
    // The peer reads crumbs.
    for (ms, edge) in [(1, 6100), (2, 6300), (3, 6900)] {
        b.send(ms, ack(5001, 2001).win((edge - 2001) as u16));
        b.recv_nothing(ms);
    }
    b.send(4, ack(5001, 2001).win(5000));
    b.recv(4, &full(6001, 1, 5001));
}
