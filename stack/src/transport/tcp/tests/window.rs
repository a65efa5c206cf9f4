//! The receive window (RFC 9293 3.8.6, RFC 7323 2).

use super::*;

fn small_buffer(bytes: usize) -> Bench {
    Bench::established_with(Settings { recv_buffer: bytes, ..settings() }, Options::default())
}

#[test]
fn shrinks_with_what_is_not_read() {
    let mut b = small_buffer(10_000);
    b.send(1, ack(5001, 1001).data(&[0; 1000]));
    b.send(2, ack(6001, 1001).data(&[0; 1000]));
    b.recv(2, &[ack(1001, 7001).win(8000)]);
}

#[test]
fn reading_a_quarter_is_worth_an_update() {
    let mut b = small_buffer(10_000);
    b.send(1, ack(5001, 1001).data(&[0; 6000]));
    b.recv(1, &[ack(1001, 11_001).win(4000)]);
    let mut out = [0; 2400];
    b.cx(|c, cx| c.read(cx, &mut out)).unwrap();
    b.recv_nothing(2);
    b.cx(|c, cx| c.read(cx, &mut out[..200])).unwrap();
    b.recv(3, &[ack(1001, 11_001).win(6600)]);
}

// RFC 9293 3.8.6.2.2
#[test]
fn a_closed_window_does_not_open_by_crumbs() {
    let mut b = small_buffer(10_000);
    b.send(1, ack(5001, 1001).data(&[0; 1000]));
    b.send(1, ack(6001, 1001).data(&[0; 9000]));
    b.recv(1, &[ack(1001, 15_001).win(0)]);
    let mut out = [0; 900];
    b.cx(|c, cx| c.read(cx, &mut out)).unwrap();
    b.recv_nothing(2);
    b.send(3, ack(15_001, 1001).data(b"x"));
    b.recv(3, &[ack(1001, 15_001).win(0)]);
    b.cx(|c, cx| c.read(cx, &mut out)).unwrap();
    b.recv(4, &[ack(1001, 15_001).win(1800)]);
}

#[test]
fn the_right_edge_never_moves_back() {
    let mut b = small_buffer(10_000);
    b.c.recv.set_limit(4000);
    b.send(1, ack(5001, 1001).data(&[0; 1000]));
    b.send(1, ack(6001, 1001).data(&[0; 1000]));
    b.recv(1, &[ack(1001, 7001).win(8000)]);
    b.send(2, ack(7001, 1001).data(&[0; 8000]));
    b.recv(2, &[ack(1001, 15_001).win(0)]);
    assert_eq!(b.read().len(), 10_000);
    b.recv(3, &[ack(1001, 15_001).win(4000)]);
}

// RFC 7323 2.4
#[test]
fn scaling_takes_back_less_than_its_unit_and_does_not_creep() {
    let settings = Settings { recv_buffer: 1_000_000, ..settings() };
    let options = Options { window_scale: Some(0), ..Options::default() };
    let mut b = Bench::established_with(settings, options);
    assert_eq!(b.c.rcv_wscale, 4);
    let mut edge = b.c.rcv_adv;
    let mut seq = 5001;
    for i in 1..200u32 {
        let len = 1 + (i * 37) % 900;
        b.send(u64::from(i), ack(seq, 1001).data(&vec![0; len as usize]));
        seq += len;
        b.c.ack_now = true;
        let (header, _) = b.poll().unwrap();
        let now = header.ack + (u32::from(header.window) << 4);
        assert!(now + 15 >= edge, "edge went from {edge:?} to {now:?}");
        assert_eq!(b.c.rcv_adv, b.c.rcv_adv.max(now));
        assert!(b.c.rcv_adv <= b.c.rcv_nxt + (1_000_000 - b.c.recv.len() as u32) + 16);
        edge = edge.max(now);
        if i % 3 == 0 {
            b.read();
        }
    }
}

#[test]
fn the_peers_window_is_scaled() {
    let options = Options { window_scale: Some(7), ..Options::default() };
    let mut b = Bench::established_with(settings(), options);
    b.send(1, ack(5001, 1001).win(1000));
    assert_eq!(b.c.snd_wnd, 128_000);
}

// RFC 7323 2.3
#[test]
fn a_shift_above_fourteen_counts_as_fourteen() {
    let options = Options { window_scale: Some(15), ..Options::default() };
    let b = Bench::established_with(settings(), options);
    assert_eq!(b.c.snd_wscale, 14);
}

#[test]
fn an_old_segment_does_not_change_the_send_window() {
    let mut b = Bench::established();
    b.send(1, ack(5001, 1001).data(b"abc").win(5000));
    b.write_bytes(10);
    b.recv(1, &[ack(1001, 5004).data(&bytes(1001, 10))]);
    b.send(2, ack(5004, 1011).win(4000));
    b.send(3, ack(5004, 1001).win(9000));
    assert_eq!(b.c.snd_wnd, 4000);
}

// RFC 9293 3.8.6
#[test]
fn a_retransmission_with_a_newer_acknowledgement_brings_its_window() {
    let mut b = small_buffer(10_000);
    b.write(&[7; 2000]);
    b.recv(1, &[ack(1001, 5001).data(&[7; 1000]), ack(2001, 5001).data(&[7; 1000])]);
    // The peer sends at 5001 (lost) and 6001; that one gives a window from 1001 on.
    b.send(2, ack(6001, 1001).data(&[0; 1000]).win(2500));
    b.send(3, ack(5001, 3001).data(&[0; 1000]).win(500));
    assert_eq!(b.c.snd_una + b.c.snd_wnd, crate::seq::SeqNum(3501));
}

// RFC 9293 3.8.6.2.2 MUST-39
#[test]
fn the_window_opens_by_half_the_buffer_when_that_is_less_than_a_segment() {
    let mut b = small_buffer(2048);
    b.send(1, ack(5001, 1001).data(&[0; 1460]));
    b.send(1, ack(6461, 1001).data(&[0; 588]));
    b.recv(41, &[ack(1001, 7049).win(0)]);
    let mut out = [0; 1000];
    b.cx(|c, cx| c.read(cx, &mut out)).unwrap();
    b.recv_nothing(42);
    b.cx(|c, cx| c.read(cx, &mut out[..30])).unwrap();
    b.recv(43, &[ack(1001, 7049).win(1030)]);
}

// RFC 9293 3.8.6 SHLD-14
#[test]
fn a_smaller_buffer_closes_the_window_from_the_left() {
    let mut b = small_buffer(10_000);
    b.cx(|c, cx| c.set_option(cx, crate::socket::tcp::TcpOption::RecvBuffer(3000)));
    let mut seq = 5001;
    let mut edge = 15_001;
    for ms in 1..=10 {
        b.send(ms, ack(seq, 1001).data(&[0; 1000]));
        seq += 1000;
        b.c.ack_now = true;
        let (header, _) = b.poll().unwrap();
        let now = header.ack.0 + u32::from(header.window);
        assert!(now >= edge, "edge went from {edge} to {now}");
        edge = now;
        b.read();
        while b.poll().is_some() {}
    }
    // What is offered beyond the old edge fits the new buffer.
    assert_eq!(b.c.rcv_wnd(), 3000);
}
