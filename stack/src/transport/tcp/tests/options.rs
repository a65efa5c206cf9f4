//! Options of the application: cork, quick acknowledgements, segment size, unsent bytes, linger.

use super::super::calls::Closing;
use super::*;
use crate::socket::Readiness;
use crate::socket::tcp::{ShutdownHow, TcpOption, TcpSendError};

fn set(b: &mut Bench, option: TcpOption) {
    b.cx(|c, cx| c.set_option(cx, option));
}

// RFC 9293 3.7.4 MUST-17
#[test]
fn nagle_can_be_switched_off_while_it_holds_data() {
    let mut b = Bench::established();
    b.write_bytes(10);
    b.recv(0, &[ack(1001, 5001).data(&bytes(1001, 10))]);
    b.write_bytes(10);
    b.recv_nothing(1);
    set(&mut b, TcpOption::NoDelay(true));
    b.recv(1, &[ack(1011, 5001).data(&bytes(1011, 10))]);
}

#[test]
fn a_cork_lets_full_segments_through_only() {
    let mut b = Bench::established();
    set(&mut b, TcpOption::Cork(true));
    b.write_bytes(10);
    b.recv_nothing(0);
    b.write_bytes(1500);
    b.recv(1, &full(1001, 1, 5001));
    set(&mut b, TcpOption::Cork(false));
    b.recv(2, &[ack(2001, 5001).data(&bytes(2001, 510))]);
    assert_eq!(b.stats.cork_timeouts, 0);
}

#[test]
fn a_cork_gives_way_after_200_ms() {
    let mut b = Bench::established();
    set(&mut b, TcpOption::Cork(true));
    b.write_bytes(10);
    b.recv_nothing(0);
    b.recv_nothing(199);
    b.recv(200, &[ack(1001, 5001).data(&bytes(1001, 10))]);
    assert_eq!(b.stats.cork_timeouts, 1);
    b.send(201, ack(5001, 1011));
    b.write_bytes(10);
    b.recv_nothing(202);
    b.recv(402, &[ack(1011, 5001).data(&bytes(1011, 10))]);
}

#[test]
fn a_cork_does_not_hold_the_end() {
    let mut b = Bench::established();
    set(&mut b, TcpOption::Cork(true));
    b.write_bytes(10);
    b.recv_nothing(0);
    b.cx(|c, cx| c.shut_down(cx, ShutdownHow::Write));
    b.recv(1, &[fin(1001, 5001).data(&bytes(1001, 10))]);
}

#[test]
fn more_to_come_holds_a_tail_until_the_next_write() {
    let mut b = Bench::established();
    let data = bytes(1001, 30);
    assert_eq!(b.cx(|c, cx| c.write_more(cx, &data[..10])), Ok(10));
    b.recv_nothing(0);
    assert_eq!(b.cx(|c, cx| c.write_more(cx, &data[10..20])), Ok(10));
    b.recv_nothing(100);
    assert_eq!(b.cx(|c, cx| c.write(cx, &data[20..])), Ok(10));
    b.recv(110, &[ack(1001, 5001).data(&data)]);
}

#[test]
fn quick_acknowledgements_are_not_delayed() {
    let mut b = Bench::established();
    b.send(1, ack(5001, 1001).data(&[0; 10]));
    b.recv_nothing(1);
    set(&mut b, TcpOption::QuickAck(true));
    b.recv(1, &[ack(1001, 5011)]);
    b.send(2, ack(5011, 1001).data(&[0; 10]));
    b.recv(2, &[ack(1001, 5021)]);
    set(&mut b, TcpOption::QuickAck(false));
    b.send(3, ack(5021, 1001).data(&[0; 10]));
    b.recv_nothing(3);
    assert_eq!(b.stats.delayed_acks, 0);
}

// RFC 9293 3.7.1 MUST-14
#[test]
fn a_segment_size_is_asked_for_and_kept_to() {
    let mut b = Bench::connecting(settings());
    set(&mut b, TcpOption::MaxSegment(Some(700)));
    let (header, _) = b.poll().unwrap();
    assert_eq!(header.options.mss, Some(700));
    b.send(0, syn_ack(5000, 1001).mss(1000));
    b.recv(0, &[ack(1001, 5001)]);
    b.write_bytes(1400);
    let lens: Vec<_> = std::iter::from_fn(|| b.poll()).map(|(_, data)| data.len()).collect();
    assert_eq!(lens, [700, 700]);
}

#[test]
fn unsent_bytes_end_writability() {
    let mut b = Bench::established();
    set(&mut b, TcpOption::NotSentLowat(Some(5000)));
    b.write_bytes(15_000);
    assert!(!b.c.readiness().contains(Readiness::WRITABLE));
    assert_eq!(b.cx(|c, cx| c.write(cx, b"x")), Err(TcpSendError::WouldBlock));
    b.c.wake = false;
    b.recv(0, &full(1001, 10, 5001));
    // 5000 bytes are left.
    assert!(!b.c.wake);
    b.send(5, ack(5001, 2001));
    assert!(b.poll().is_some());
    assert!(b.c.wake && b.c.readiness().contains(Readiness::WRITABLE));
}

#[test]
fn zero_linger_resets() {
    let mut b = Bench::established();
    set(&mut b, TcpOption::Linger(Some(Duration::ZERO)));
    b.write_bytes(10);
    assert_eq!(b.cx(Connection::close), Closing::Abort);
}

#[test]
fn a_linger_that_runs_out_resets_and_one_that_does_not_is_silent() {
    for acked in [false, true] {
        let mut b = Bench::established();
        set(&mut b, TcpOption::Linger(Some(Duration::from_secs(3))));
        b.write_bytes(10);
        assert_eq!(b.cx(Connection::close), Closing::Background);
        b.recv(0, &[fin(1001, 5001).data(&bytes(1001, 10))]);
        if acked {
            b.send(100, ack(5001, 1012));
        }
        b.at(2999);
        while b.poll().is_some() {}
        assert!(!b.c.notes.abort);
        b.at(3000);
        assert_eq!((b.c.notes.abort, b.stats.abort_on_linger), (!acked, u64::from(!acked)));
    }
}

#[test]
fn a_fixed_receive_buffer_decides_the_scale_before_the_syn_leaves() {
    let mut b = Bench::connecting(Settings { recv_buffer_max: 4 << 20, ..settings() });
    set(&mut b, TcpOption::RecvBuffer(130_000));
    let (header, _) = b.poll().unwrap();
    assert_eq!(header.options.window_scale, Some(1));
    let mut b = Bench::connecting(Settings { recv_buffer_max: 4 << 20, ..settings() });
    let (header, _) = b.poll().unwrap();
    assert_eq!(header.options.window_scale, Some(7));
}
