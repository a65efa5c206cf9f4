//! RST and SYN on a connection (RFC 5961 sections 3 and 4, RFC 9293 3.5.2).

use super::super::input::reset_for;
use super::*;
use crate::drop::DropReason;
use crate::socket::tcp::TcpError;

#[test]
fn established_the_exact_sequence_number_resets() {
    let mut b = Bench::established();
    b.send(1, rst(5001));
    assert_eq!((b.state(), b.c.error), (TcpState::Closed, Some(TcpError::Reset)));
    assert_eq!((b.stats.estab_resets, b.stats.curr_estab), (1, 0));
    b.recv_nothing(1);
}

#[test]
fn established_inside_the_window_is_challenged() {
    let mut b = Bench::established();
    let outcome = b.send(1, rst(5002));
    assert_eq!(outcome.reply, Reply::Challenge);
    assert_eq!(outcome.dropped, Some(DropReason::TcpRstInvalid));
    b.recv(1, &[ack(1001, 5001)]);
    assert_eq!(b.state(), TcpState::Established);
}

#[test]
fn established_outside_the_window_is_dropped_in_silence() {
    let mut b = Bench::established();
    for seq in [5000, 5001 + 60_000] {
        let outcome = b.send(1, rst(seq));
        assert_eq!(
            (outcome.reply, outcome.dropped),
            (Reply::None, Some(DropReason::TcpRstInvalid))
        );
    }
    b.recv_nothing(1);
}

#[test]
fn established_a_syn_is_challenged_wherever_it_lies() {
    let mut b = Bench::established();
    for seq in [5001, 5000, 9000, 5001 + 70_000, 1] {
        let outcome = b.send(1, syn(seq));
        assert_eq!(outcome.reply, Reply::Challenge, "{seq}");
        b.recv(1, &[ack(1001, 5001)]);
    }
    assert_eq!(b.state(), TcpState::Established);
}

#[test]
fn established_at_a_closed_window_the_exact_rst_still_resets() {
    let mut b =
        Bench::established_with(Settings { recv_buffer: 3000, ..settings() }, Options::default());
    b.send(1, ack(5001, 1001).data(&[0; 3000]));
    b.recv(1, &[ack(1001, 8001).win(0)]);
    b.send(2, rst(8001));
    assert_eq!(b.state(), TcpState::Closed);
}

#[test]
fn data_that_arrived_before_a_reset_can_be_read() {
    let mut b = Bench::established();
    b.send(1, ack(5001, 1001).data(b"last words"));
    b.send(2, rst(5011));
    assert_eq!(b.read(), b"last words");
    let after = b.cx(|c, cx| c.read(cx, &mut [0; 8]));
    assert_eq!(after, Err(TcpError::Reset.into()));
    assert_eq!(b.c.take_error(), Some(TcpError::Reset));
    assert_eq!(b.c.take_error(), None);
}

#[test]
fn closing_and_last_ack_a_reset_is_no_error() {
    let mut b = Bench::established();
    b.send(1, fin(5001, 1001));
    b.cx(super::super::state::Connection::close);
    b.recv(1, &[fin(1001, 5002)]);
    b.send(2, rst(5002));
    assert_eq!((b.state(), b.c.error), (TcpState::Closed, None));
}

#[test]
fn a_closed_connection_says_nothing() {
    let mut b = Bench::established();
    b.send(1, rst(5001));
    let outcome = b.send(2, ack(5001, 1001).data(b"x"));
    assert_eq!(outcome.dropped, Some(DropReason::TcpStateRefused));
    b.recv_nothing(2);
    assert_eq!(b.c.next_deadline(), None);
}

// RFC 9293 3.5.2, group 1
#[test]
fn the_answer_to_a_stray_segment_has_its_ack_or_covers_it() {
    let header = ack(7000, 333).data(b"abc").header();
    let answer = reset_for(&header, 3);
    assert_eq!((answer.seq.0, answer.flags), (333, Flags::RST));
    assert_eq!((answer.src_port, answer.dst_port), (40_000, 80));
    let header = syn(7000).flag(Flags::FIN).header();
    let answer = reset_for(&header, 3);
    assert_eq!((answer.seq.0, answer.ack.0), (0, 7005));
    assert_eq!(answer.flags, Flags::RST.with(Flags::ACK));
}
