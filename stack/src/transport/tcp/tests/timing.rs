//! Retransmission timeout, RTT, keepalive, user timeout (RFC 6298, 7323 4, 9293 3.8.3, 3.8.4).

use super::*;
use crate::socket::tcp::{TcpError, TcpOption};

#[test]
fn a_timeout_sends_the_first_segment_again_and_doubles() {
    let mut b = Bench::established();
    b.write_bytes(3000);
    b.recv(0, &full(1001, 3, 5001));
    b.recv_nothing(199);
    let mut at = 0;
    for wait in [200, 400, 800] {
        at += wait;
        b.recv(at, &full(1001, 1, 5001));
    }
    assert_eq!((b.stats.timeouts, b.stats.retrans_segs), (3, 3));
    assert_eq!(b.c.windows(), (1000, 2000));
}

#[test]
fn after_a_timeout_the_rest_follows_in_slow_start() {
    let mut b = Bench::established();
    b.write_bytes(5000);
    b.recv(0, &full(1001, 5, 5001));
    b.recv(200, &full(1001, 1, 5001));
    b.send(210, ack(5001, 2001));
    b.recv(210, &full(2001, 2, 5001));
    b.send(220, ack(5001, 4001));
    b.recv(220, &full(4001, 2, 5001));
    b.send(230, ack(5001, 6001));
    b.recv_nothing(3000);
}

#[test]
fn after_a_timeout_reported_segments_are_not_sent_again() {
    let mut b = Bench::established_sack();
    b.write_bytes(3000);
    b.recv(0, &full(1001, 3, 5001));
    b.send(10, ack(5001, 1001).sack(&[(2001, 3001)]));
    b.recv(200, &full(1001, 1, 5001));
    b.send(210, ack(5001, 3001));
    b.recv(210, &full(3001, 1, 5001));
}

// RFC 2018 section 8
#[test]
fn after_a_second_timeout_reports_are_forgotten() {
    let mut b = Bench::established_sack();
    b.write_bytes(3000);
    b.recv(0, &full(1001, 3, 5001));
    b.send(10, ack(5001, 1001).sack(&[(2001, 4001)]));
    b.recv(200, &full(1001, 1, 5001));
    b.recv(600, &full(1001, 1, 5001));
    b.send(610, ack(5001, 2001));
    b.recv(610, &full(2001, 2, 5001));
}

// RFC 6298 5.3
#[test]
fn an_acknowledgement_restarts_the_timer() {
    let mut b = Bench::established();
    b.write_bytes(2000);
    b.recv(0, &full(1001, 2, 5001));
    b.send(150, ack(5001, 2001));
    b.recv_nothing(349);
    b.at(150 + b.c.rtt.rto().as_millis() as u64 - 1);
    b.recv_nothing(150 + b.c.rtt.rto().as_millis() as u64 - 1);
    let at = 150 + b.c.rtt.rto().as_millis() as u64;
    b.recv(at, &full(2001, 1, 5001));
}

// Karn
#[test]
fn a_segment_sent_twice_is_not_measured() {
    let mut b = Bench::established();
    b.write_bytes(100);
    b.recv(0, &[ack(1001, 5001).data(&bytes(1001, 100))]);
    b.recv(200, &[ack(1001, 5001).data(&bytes(1001, 100))]);
    let before = b.c.rtt.srtt();
    b.send(300, ack(5001, 1101));
    assert_eq!(b.c.rtt.srtt(), before);
    assert_eq!(b.c.rtt.backoff(), 1);
}

// RFC 7323 4
#[test]
fn with_timestamps_a_segment_sent_twice_is_measured() {
    let mut b = Bench::established_ts();
    b.c.rtt = super::super::rtt::Rtt::new(Duration::from_millis(200));
    b.write_bytes(100);
    b.recv(0, &[ack(1001, 5001).data(&bytes(1001, 100)).ts(0, 700)]);
    b.recv(1000, &[ack(1001, 5001).data(&bytes(1001, 100)).ts(1000, 700)]);
    b.send(1030, ack(5001, 1101).ts(730, 1000));
    assert_eq!((b.c.rtt.srtt(), b.c.rtt.backoff()), (Some(Duration::from_millis(30)), 0));
}

#[test]
fn fifteen_timeouts_end_it() {
    let mut b = Bench::established();
    b.write_bytes(100);
    b.recv(0, &[ack(1001, 5001).data(&bytes(1001, 100))]);
    let mut at = 0;
    let mut sent = 0;
    while b.state() == TcpState::Established {
        at += 100;
        b.at(at);
        sent += std::iter::from_fn(|| b.poll()).count();
    }
    assert_eq!(sent, 15);
    assert_eq!((b.c.error, b.stats.abort_on_timeout), (Some(TcpError::TimedOut), 1));
    assert_eq!((b.stats.estab_resets, b.stats.curr_estab), (1, 0));
}

#[test]
fn a_user_timeout_ends_it_sooner() {
    let timeout = Some(Duration::from_secs(3));
    let mut b = Bench::established_with(
        Settings { user_timeout: timeout, ..settings() },
        Options::default(),
    );
    b.at(10_000);
    b.write_bytes(100);
    b.recv(10_000, &[ack(1001, 5001).data(&bytes(1001, 100))]);
    b.at(12_999);
    assert_eq!(b.state(), TcpState::Established);
    b.at(13_000);
    assert_eq!((b.state(), b.c.error), (TcpState::Closed, Some(TcpError::TimedOut)));
}

#[test]
fn a_user_timeout_counts_from_the_last_progress() {
    let timeout = Some(Duration::from_secs(3));
    let mut b = Bench::established_with(
        Settings { user_timeout: timeout, ..settings() },
        Options::default(),
    );
    b.write_bytes(2000);
    b.recv(0, &full(1001, 2, 5001));
    b.send(100, ack(5001, 2001));
    b.at(3050);
    assert_eq!(b.state(), TcpState::Established);
    b.at(3100);
    assert_eq!(b.state(), TcpState::Closed);
}

fn keepalive() -> Bench {
    let mut b = Bench::established();
    let times = (Duration::from_secs(10), Duration::from_secs(1), 3);
    b.cx(|c, cx| c.set_option(cx, TcpOption::KeepAlive(Some(times))));
    b
}

#[test]
fn keepalive_asks_after_the_idle_time_and_an_answer_is_enough() {
    let mut b = keepalive();
    b.send(5000, ack(5001, 1001).data(b"x"));
    b.recv(5040, &[ack(1001, 5002)]);
    b.recv_nothing(14_999);
    b.recv(15_000, &[ack(1000, 5002)]);
    b.send(15_010, ack(5002, 1001));
    b.recv_nothing(25_009);
    b.recv(25_010, &[ack(1000, 5002)]);
    assert_eq!(b.stats.keepalives, 2);
}

#[test]
fn keepalive_without_answer_ends_it() {
    let mut b = keepalive();
    for at in [10_000, 11_000, 12_000] {
        b.recv(at, &[ack(1000, 5001)]);
    }
    b.at(13_000);
    assert_eq!((b.state(), b.c.error), (TcpState::Closed, Some(TcpError::TimedOut)));
}

#[test]
fn a_keepalive_probe_of_the_peer_is_answered() {
    let mut b = Bench::established();
    b.send(1, ack(5000, 1001));
    b.recv(1, &[ack(1001, 5001)]);
    b.send(2, ack(5000, 1001).data(b"x"));
    b.recv(2, &[ack(1001, 5001)]);
}

#[test]
fn options_that_would_break_a_connection_are_bounded() {
    use crate::socket::tcp::TcpOption;
    let mut s = settings();
    s.set(TcpOption::SendBuffer(usize::MAX));
    assert!(s.send_buffer <= 1 << 30, "sequence numbers compare over half their space");
    s.set(TcpOption::KeepAlive(Some((Duration::ZERO, Duration::ZERO, 0))));
    let (idle, interval, count) = s.keepalive.unwrap();
    assert!(!idle.is_zero() && !interval.is_zero() && count > 0, "no spinning, no rash end");
    s.set(TcpOption::UserTimeout(Some(Duration::ZERO)));
    assert_eq!(s.user_timeout, None);
}

// RFC 9293 3.8.4 MUST-25
#[test]
fn keepalives_are_off_unless_asked_for() {
    let mut b = Bench::established();
    b.recv_nothing(1_000_000_000);
    assert_eq!(b.c.next_deadline(), None);
}

// RFC 9293 3.8.4 MUST-24, RFC 9293 3.8.4 MUST-27
#[test]
fn keepalives_can_be_switched_off_again() {
    let mut b = keepalive();
    b.cx(|c, cx| c.set_option(cx, TcpOption::KeepAlive(None)));
    b.recv_nothing(100_000);
}

// RFC 9293 3.8.4 MUST-26
#[test]
fn keepalives_wait_while_data_is_outstanding() {
    let mut b = keepalive();
    b.write_bytes(100);
    let data = [ack(1001, 5001).data(&bytes(1001, 100))];
    b.recv(0, &data);
    let mut sent = 0;
    for ms in (100..12_000).step_by(100) {
        b.at(ms);
        while let Some((header, _)) = b.poll() {
            assert_eq!(header.seq.0, 1001, "a retransmission, no probe");
            sent += 1;
        }
    }
    assert!(sent > 2);
    assert_eq!(b.stats.keepalives, 0);
    // What arrives counts as much as what is sent.
    b.send(12_000, ack(5001, 1101));
    b.recv_nothing(21_999);
    b.recv(22_000, &[ack(1100, 5001)]);
}

// RFC 5482 3.1
// RFC 9293 3.8.3 MUST-21
#[test]
fn a_user_timeout_holds_for_data_behind_a_closed_window_too() {
    let timeout = Some(Duration::from_secs(30));
    let mut b = Bench::established_with(
        Settings { user_timeout: timeout, ..settings() },
        Options::default(),
    );
    b.send(0, ack(5001, 1001).win(0));
    b.write_bytes(100);
    let mut at = 0;
    while b.state() == TcpState::Established {
        at += 100;
        b.at(at);
        if b.poll().is_some() && b.state() == TcpState::Established {
            b.send(at, ack(5001, 1001).win(0));
        }
    }
    assert_eq!(at, 30_000);
}
