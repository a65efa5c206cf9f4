//! Opening (RFC 9293 3.5, 3.10.7.2, 3.10.7.3).

use super::*;
use crate::drop::DropReason;
use crate::socket::tcp::TcpError;

const ALL: Options = Options {
    mss: Some(1460),
    window_scale: Some(3),
    sack_permitted: true,
    timestamp: Some((700, 0)),
    sack: crate::wire::tcp::SackBlocks::EMPTY,
    fast_open: None,
    accurate_ecn: None,
};

#[test]
fn syn_sent_offers_every_option() {
    let mut b = Bench::connecting(Settings { recv_buffer: 200_000, ..settings() });
    let options = Options { window_scale: Some(2), timestamp: Some((0, 0)), ..ALL };
    b.recv(0, &[syn(1000).opt(options).win(65_535)]);
    assert_eq!(b.stats.active_opens, 1);
}

#[test]
fn syn_sent_syn_ack_establishes() {
    let mut b = Bench::connecting(settings());
    b.recv(0, &[syn(1000)]);
    b.send(10, syn_ack(5000, 1001).opt(ALL).win(9000));
    assert_eq!(b.state(), TcpState::Established);
    b.recv(10, &[ack(1001, 5001).ts(10, 700)]);
    assert!(b.c.wake && b.c.ts_ok && b.c.sack_ok);
    assert_eq!((b.c.snd_wscale, b.c.snd_wnd), (3, 9000));
    assert_eq!(b.c.rtt.srtt(), Some(Duration::from_millis(10)));
    assert_eq!(b.stats.curr_estab, 1);
}

#[test]
fn syn_sent_options_not_taken_up_are_not_used() {
    let mut b = Bench::connecting(Settings { recv_buffer: 200_000, ..settings() });
    b.recv(0, &[syn(1000)]);
    b.send(10, syn_ack(5000, 1001).mss(1000));
    b.recv(10, &[ack(1001, 5001).opt(Options::default()).win(65_535)]);
    assert_eq!(b.c.rcv_wscale, 0);
}

#[test]
fn syn_sent_wrong_ack_is_answered_with_rst() {
    let mut b = Bench::connecting(settings());
    b.recv(0, &[syn(1000)]);
    for wrong in [1000, 1002] {
        let outcome = b.send(1, syn_ack(5000, wrong));
        let Reply::Reset(header) = outcome.reply else { panic!("{outcome:?}") };
        assert_eq!((header.flags, header.seq.0), (Flags::RST, wrong));
    }
    assert_eq!(b.state(), TcpState::SynSent);
}

#[test]
fn syn_sent_wrong_ack_with_rst_is_dropped() {
    let mut b = Bench::connecting(settings());
    b.recv(0, &[syn(1000)]);
    let outcome = b.send(1, rst(0).flag(Flags::ACK));
    assert_eq!(outcome.dropped, Some(DropReason::TcpRstInvalid));
    assert_eq!((outcome.reply, b.state()), (Reply::None, TcpState::SynSent));
}

#[test]
fn syn_sent_rst_refuses() {
    let mut b = Bench::connecting(settings());
    b.recv(0, &[syn(1000)]);
    let mut seg = rst(0).flag(Flags::ACK);
    seg.ack = Some(1001);
    b.send(1, seg);
    assert_eq!((b.state(), b.c.error), (TcpState::Closed, Some(TcpError::Refused)));
    assert_eq!(b.stats.attempt_fails, 1);
    assert!(b.c.wake);
}

#[test]
fn syn_sent_rst_without_ack_is_dropped() {
    let mut b = Bench::connecting(settings());
    b.recv(0, &[syn(1000)]);
    b.send(1, rst(5000));
    assert_eq!(b.state(), TcpState::SynSent);
}

#[test]
fn syn_sent_ack_without_syn_is_dropped() {
    let mut b = Bench::connecting(settings());
    b.recv(0, &[syn(1000)]);
    let outcome = b.send(1, ack(5000, 1001));
    assert_eq!(outcome.dropped, Some(DropReason::TcpStateRefused));
    assert_eq!(b.state(), TcpState::SynSent);
}

// RFC 9293 figure 7
#[test]
fn syn_sent_simultaneous_open() {
    let mut b = Bench::connecting(settings());
    b.recv(0, &[syn(1000)]);
    b.send(10, syn(5000).mss(1000));
    assert_eq!(b.state(), TcpState::SynReceived);
    b.recv(10, &[syn_ack(1000, 5001)]);
    b.send(20, syn_ack(5000, 1001).mss(1000));
    assert_eq!(b.state(), TcpState::Established);
    b.send(21, ack(5001, 1001).data(b"hello"));
    assert_eq!(b.read(), b"hello");
}

// RFC 9293 3.8.3 MUST-23
#[test]
fn syn_sent_backs_off_and_gives_up() {
    let mut b = Bench::connecting(settings());
    b.recv(0, &[syn(1000)]);
    b.recv_nothing(999);
    let mut at = 0;
    for wait in [1000, 2000, 4000, 8000, 16_000, 32_000, 64_000] {
        at += wait;
        b.recv(at, &[syn(1000)]);
    }
    b.recv_nothing(at + 120_000);
    assert_eq!((b.state(), b.c.error), (TcpState::Closed, Some(TcpError::TimedOut)));
    assert_eq!((b.stats.abort_on_timeout, b.stats.retrans_segs, b.stats.out_segs), (1, 7, 1));
}

// RFC 6298 5.7
#[test]
fn a_lost_syn_starts_data_at_three_seconds() {
    let mut b = Bench::connecting(settings());
    b.recv(0, &[syn(1000)]);
    b.recv(1000, &[syn(1000)]);
    b.send(1010, syn_ack(5000, 1001).mss(1000));
    b.recv(1010, &[ack(1001, 5001)]);
    b.write_bytes(10);
    b.recv(1010, &[ack(1001, 5001).data(&bytes(1001, 10))]);
    b.recv_nothing(4009);
    b.recv(4010, &[ack(1001, 5001).data(&bytes(1001, 10))]);
}

#[test]
fn syn_received_answers_what_was_offered() {
    let mut b = Bench::accepting(ALL);
    let options = Options { window_scale: Some(0), timestamp: Some((0, 700)), ..ALL };
    b.recv(0, &[syn_ack(1000, 5001).opt(options)]);
    let mut b = Bench::accepting(Options { mss: Some(1000), ..Options::default() });
    b.recv(0, &[syn_ack(1000, 5001).opt(Options { mss: Some(1460), ..Options::default() })]);
}

#[test]
fn syn_received_ack_establishes_with_its_data() {
    let mut b = Bench::accepting(Options { mss: Some(1000), ..Options::default() });
    b.recv(0, &[syn_ack(1000, 5001)]);
    b.send(5, ack(5001, 1001).data(b"early").win(777));
    assert_eq!(b.state(), TcpState::Established);
    assert_eq!(b.c.snd_wnd, 777);
    assert_eq!(b.read(), b"early");
    assert_eq!(b.stats.curr_estab, 1);
}

#[test]
fn syn_received_scaled_window_counts_from_the_first_ack() {
    let mut b = Bench::accepting(ALL);
    b.recv(0, &[syn_ack(1000, 5001)]);
    b.send(5, ack(5001, 1001).ts(701, 0).win(1000));
    assert_eq!(b.c.snd_wnd, 8000);
}

#[test]
fn syn_received_repeated_syn_gets_the_syn_ack_again() {
    let mut b = Bench::accepting(Options::default());
    b.recv(0, &[syn_ack(1000, 5001)]);
    b.send(10, syn(5000));
    b.recv(10, &[syn_ack(1000, 5001)]);
    assert_eq!(b.stats.retrans_segs, 1);
}

#[test]
fn syn_received_backs_off_and_gives_up() {
    let mut b = Bench::accepting(Options::default());
    b.recv(0, &[syn_ack(1000, 5001)]);
    for at in [1000, 3000, 7000, 15_000, 31_000] {
        b.recv(at, &[syn_ack(1000, 5001)]);
    }
    b.recv_nothing(63_000);
    assert_eq!((b.state(), b.stats.attempt_fails), (TcpState::Closed, 1));
}

#[test]
fn syn_received_wrong_ack_is_answered_with_rst() {
    let mut b = Bench::accepting(Options::default());
    b.recv(0, &[syn_ack(1000, 5001)]);
    for wrong in [1000, 1002] {
        let outcome = b.send(1, ack(5001, wrong));
        assert!(matches!(outcome.reply, Reply::Reset(h) if h.seq.0 == wrong));
    }
    assert_eq!(b.state(), TcpState::SynReceived);
}

#[test]
fn syn_received_rst_ends_it() {
    let mut b = Bench::accepting(Options::default());
    b.recv(0, &[syn_ack(1000, 5001)]);
    b.send(1, rst(5001));
    assert_eq!((b.state(), b.stats.attempt_fails), (TcpState::Closed, 1));
}

#[test]
fn syn_received_fin_closes_the_peers_half_at_once() {
    let mut b = Bench::accepting(Options::default());
    b.recv(0, &[syn_ack(1000, 5001)]);
    b.send(1, fin(5001, 1001).data(b"bye"));
    assert_eq!((b.state(), b.read()), (TcpState::CloseWait, b"bye".to_vec()));
    b.recv(1, &[ack(1001, 5005)]);
}

#[test]
fn a_peer_without_mss_gets_the_default_and_a_tiny_one_the_floor() {
    let mut b = Bench::accepting(Options::default());
    assert_eq!(b.c.mss_full(), 536);
    b.recv(0, &[syn_ack(1000, 5001)]);
    let b = Bench::accepting(Options { mss: Some(1), ..Options::default() });
    assert_eq!(b.c.mss_full(), 64);
}

#[test]
fn simultaneous_open_then_close_sends_fin_after_the_handshake() {
    let mut b = Bench::connecting(settings());
    b.recv(0, &[syn(1000)]);
    b.send(1, syn(5000).mss(1000));
    b.recv(1, &[syn_ack(1000, 5001)]);
    b.cx(super::super::state::Connection::close);
    b.recv_nothing(2);
    b.send(3, ack(5001, 1001));
    assert_eq!(b.state(), TcpState::FinWait1);
    b.recv(3, &[fin(1001, 5001)]);
}
