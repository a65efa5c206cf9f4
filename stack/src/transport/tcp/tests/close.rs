//! Closing (RFC 9293 3.6, 3.10.4).

use super::super::calls::Closing;
use super::*;
use crate::socket::Readiness;
use crate::socket::tcp::ShutdownHow;

fn close(b: &mut Bench) -> Closing {
    b.cx(super::super::state::Connection::close)
}

#[test]
fn active_close_passes_fin_wait_1_and_2_to_time_wait() {
    let mut b = Bench::established();
    assert_eq!(close(&mut b), Closing::Background);
    assert_eq!(b.state(), TcpState::FinWait1);
    b.recv(0, &[fin(1001, 5001)]);
    b.send(10, ack(5001, 1002));
    assert_eq!(b.state(), TcpState::FinWait2);
    b.send(20, fin(5001, 1002));
    assert_eq!((b.state(), b.stats.time_waits), (TcpState::TimeWait, 1));
    assert!(b.c.ack_now);
    let entry = b.c.time_wait_entry();
    assert_eq!((entry.snd_nxt.0, entry.rcv_nxt.0), (1002, 5002));
    assert_eq!(b.c.next_deadline(), None);
    assert_eq!(b.stats.curr_estab, 0);
}

#[test]
fn active_close_fin_with_the_ack_of_ours_goes_to_time_wait_at_once() {
    let mut b = Bench::established();
    close(&mut b);
    b.recv(0, &[fin(1001, 5001)]);
    b.send(10, fin(5001, 1002));
    assert_eq!(b.state(), TcpState::TimeWait);
}

#[test]
fn passive_close_passes_close_wait_and_last_ack() {
    let mut b = Bench::established();
    b.send(10, fin(5001, 1001));
    assert_eq!(b.state(), TcpState::CloseWait);
    assert!(b.c.readiness().contains(Readiness::READABLE | Readiness::READ_CLOSED));
    b.recv(10, &[ack(1001, 5002)]);
    b.write_bytes(100);
    b.recv(11, &[ack(1001, 5002).data(&bytes(1001, 100))]);
    close(&mut b);
    assert_eq!(b.state(), TcpState::LastAck);
    b.recv(12, &[fin(1101, 5002)]);
    b.send(20, ack(5002, 1102));
    assert_eq!((b.state(), b.c.error), (TcpState::Closed, None));
}

// RFC 9293 figure 13
#[test]
fn simultaneous_close_passes_closing() {
    let mut b = Bench::established();
    close(&mut b);
    b.recv(0, &[fin(1001, 5001)]);
    b.send(10, fin(5001, 1001));
    assert_eq!(b.state(), TcpState::Closing);
    b.recv(10, &[ack(1002, 5002)]);
    b.send(20, ack(5002, 1002));
    assert_eq!(b.state(), TcpState::TimeWait);
}

#[test]
fn half_close_goes_on_receiving() {
    let mut b = Bench::established();
    b.cx(|c, cx| c.shut_down(cx, ShutdownHow::Write));
    b.recv(0, &[fin(1001, 5001)]);
    b.send(10, ack(5001, 1002));
    b.send(20, ack(5001, 1002).data(&[7; 1000]));
    b.send(20, ack(6001, 1002).data(&[7; 1000]));
    b.recv(20, &[ack(1002, 7001)]);
    assert_eq!((b.read().len(), b.state()), (2000, TcpState::FinWait2));
    b.send(30, fin(7001, 1002).data(b"end"));
    assert_eq!((b.read(), b.state()), (b"end".to_vec(), TcpState::TimeWait));
    let end = b.cx(|c, cx| c.read(cx, &mut [0; 8]));
    assert_eq!(end, Ok(0));
}

#[test]
fn the_fin_waits_for_the_data_before_it() {
    let mut b = Bench::established();
    b.write_bytes(15_000);
    close(&mut b);
    b.recv(0, &full(1001, 10, 5001));
    b.send(10, ack(5001, 11_001));
    let mut rest = full(11_001, 5, 5001);
    rest[4] = rest[4].clone().flag(Flags::FIN);
    b.recv(10, &rest);
    assert_eq!(b.state(), TcpState::FinWait1);
}

#[test]
fn a_fin_out_of_order_waits_for_its_data() {
    let mut b = Bench::established();
    b.send(10, fin(5004, 1001).data(b"def"));
    assert_eq!(b.state(), TcpState::Established);
    b.recv(10, &[ack(1001, 5001)]);
    b.send(20, ack(5001, 1001).data(b"abc"));
    assert_eq!((b.state(), b.read()), (TcpState::CloseWait, b"abcdef".to_vec()));
    b.recv(20, &[ack(1001, 5008)]);
}

#[test]
fn a_repeated_fin_is_acknowledged_again() {
    let mut b = Bench::established();
    b.send(10, fin(5001, 1001));
    b.recv(10, &[ack(1001, 5002)]);
    b.send(20, fin(5001, 1001));
    b.recv(20, &[ack(1001, 5002)]);
    assert_eq!(b.state(), TcpState::CloseWait);
}

#[test]
fn data_after_the_fin_is_not_taken() {
    let mut b = Bench::established();
    b.send(10, fin(5001, 1001));
    b.recv(10, &[ack(1001, 5002)]);
    b.send(20, ack(5002, 1001).data(b"more"));
    b.recv(20, &[ack(1001, 5002)]);
    assert_eq!(b.read(), b"");
}

#[test]
fn a_lost_fin_is_sent_again() {
    let mut b = Bench::established();
    close(&mut b);
    b.recv(0, &[fin(1001, 5001)]);
    b.recv(200, &[fin(1001, 5001)]);
    b.recv(600, &[fin(1001, 5001)]);
}

#[test]
fn an_orphan_waits_a_minute_for_the_peers_fin() {
    let mut b = Bench::established();
    close(&mut b);
    b.recv(0, &[fin(1001, 5001)]);
    b.send(10, ack(5001, 1002));
    b.at(60_009);
    assert_eq!(b.state(), TcpState::FinWait2);
    b.at(60_010);
    assert_eq!(b.state(), TcpState::Closed);
}

#[test]
fn a_half_closed_connection_with_an_owner_waits_for_ever() {
    let mut b = Bench::established();
    b.cx(|c, cx| c.shut_down(cx, ShutdownHow::Write));
    b.recv(0, &[fin(1001, 5001)]);
    b.send(10, ack(5001, 1002));
    assert_eq!(b.c.next_deadline(), None);
    b.at(100_000);
    close(&mut b);
    b.at(160_000);
    assert_eq!(b.state(), TcpState::Closed);
}

#[test]
fn an_orphan_that_nobody_answers_gives_up_sooner() {
    let mut b = Bench::established();
    b.write_bytes(10);
    close(&mut b);
    let mut at = 0;
    while b.state() != TcpState::Closed {
        at += 100;
        b.at(at);
        while b.poll().is_some() {}
    }
    assert_eq!(b.stats.retrans_segs, 8);
}

// RFC 2525 2.17
#[test]
fn closing_with_unread_data_resets() {
    let mut b = Bench::established();
    b.send(1, ack(5001, 1001).data(b"unread"));
    assert_eq!(close(&mut b), Closing::Reset);
    let rst = b.c.reset_header(b.now);
    assert_eq!((rst.seq.0, rst.flags), (1001, Flags::RST.with(Flags::ACK)));
}

#[test]
fn closing_before_the_handshake_is_silent() {
    let mut b = Bench::connecting(settings());
    b.recv(0, &[syn(1000)]);
    assert_eq!(close(&mut b), Closing::Silent);
}

#[test]
fn a_fin_before_data_that_arrived_is_not_believed() {
    let mut b = Bench::established();
    b.send(1, ack(6001, 1001).data(&[2; 1000]));
    b.send(1, fin(5501, 1001));
    b.send(2, ack(5001, 1001).data(&[1; 1000]));
    b.send(3, fin(7001, 1001));
    assert_eq!(b.read().len(), 2000);
    assert_eq!(b.state(), TcpState::CloseWait);
}
