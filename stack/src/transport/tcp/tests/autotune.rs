//! Buffers that grow, and where the time goes.

use super::*;
use crate::socket::tcp::TcpOption;

fn tuned() -> Bench {
    let settings = Settings {
        send_buffer: 64_000,
        send_buffer_max: 1 << 20,
        recv_buffer: 64_000,
        recv_buffer_max: 1 << 20,
        ..settings()
    };
    let options = Options { mss: Some(1000), window_scale: Some(7), ..Options::default() };
    let mut b = Bench::connecting(settings);
    b.recv(0, &[syn(1000)]);
    b.send(20, syn_ack(5000, 1001).opt(options));
    b.recv(20, &[ack(1001, 5001)]);
    b
}

/// Each 20 ms `rates[i]` bytes arrive and are read at once.
fn receive(b: &mut Bench, rates: &[usize]) -> usize {
    let mut seq = b.c.rcv_nxt.0;
    for (i, rate) in rates.iter().enumerate() {
        let ms = 40 + 20 * i as u64;
        for _ in 0..rate / 1000 {
            b.send(ms, ack(seq, 1001).data(&[7; 1000]));
            seq += 1000;
        }
        while b.poll().is_some() {}
        b.read();
        while b.poll().is_some() {}
    }
    b.c.recv.limit()
}

#[test]
fn the_receive_buffer_follows_what_is_read_per_round_trip() {
    let mut b = tuned();
    let steady = receive(&mut b, &[10_000; 10]);
    assert_eq!(steady, 64_000, "a slow flow needs no more");
    let mut b = tuned();
    let grown = receive(&mut b, &[10_000, 10_000, 20_000, 40_000, 60_000, 60_000, 60_000]);
    assert!((2 * 60_000..=1 << 20).contains(&grown), "{grown}");
    // And what it may hold is offered.
    assert!(b.c.rcv_wnd() as usize >= grown / 2, "{}", b.c.rcv_wnd());
}

#[test]
fn a_reader_that_does_not_read_gets_no_larger_buffer() {
    let mut b = tuned();
    let mut seq = 5001;
    for i in 0..60 {
        b.send(40 + i, ack(seq, 1001).data(&[7; 1000]));
        seq += 1000;
        while b.poll().is_some() {}
    }
    assert_eq!(b.c.recv.limit(), 64_000);
}

#[test]
fn a_buffer_that_the_application_fixed_stays() {
    let mut b = tuned();
    b.cx(|c, cx| c.set_option(cx, TcpOption::RecvBuffer(80_000)));
    b.cx(|c, cx| c.set_option(cx, TcpOption::SendBuffer(70_000)));
    assert_eq!(receive(&mut b, &[10_000, 10_000, 20_000, 40_000, 60_000, 60_000]), 80_000);
    b.c.cc = super::super::cc::Algorithm::NewReno(super::super::cc::NewReno::new(30_000));
    b.write_bytes(1000);
    while b.poll().is_some() {}
    let nxt = b.c.snd_nxt.0;
    let seq = b.c.rcv_nxt.0;
    b.send(1000, ack(seq, nxt).win(1000));
    assert_eq!(b.c.send.limit(), 70_000);
}

#[test]
fn the_send_buffer_holds_two_windows() {
    let mut b = tuned();
    b.c.cc = super::super::cc::Algorithm::NewReno(super::super::cc::NewReno::new(10_000));
    b.send(20, ack(5001, 1001).win(1000));
    b.write_bytes(1000);
    while b.poll().is_some() {}
    b.send(40, ack(5001, 2001).win(1000));
    assert_eq!(b.c.send.limit(), 2 * b.c.windows().0);
    b.c.cc = super::super::cc::Algorithm::NewReno(super::super::cc::NewReno::new(200_000));
    b.write_bytes(1000);
    while b.poll().is_some() {}
    b.send(60, ack(5001, 3001).win(1000));
    assert_eq!(b.c.send.limit(), 1 << 20, "the maximum of the settings");
}

#[test]
fn buffers_do_not_grow_when_memory_is_tight() {
    let mut b = tuned();
    b.budget = Budget { held: 80, limit: 100, holders: 1 };
    assert_eq!(receive(&mut b, &[10_000, 10_000, 20_000, 40_000, 60_000, 60_000]), 64_000);
    let mut b = tuned();
    b.budget = Budget { held: 0, limit: 1_000_000, holders: 10 };
    let grown = receive(&mut b, &[10_000, 10_000, 20_000, 40_000, 60_000, 60_000]);
    assert_eq!(grown, 100_000, "a fair share");
}

#[test]
fn a_dump_says_where_the_time_went() {
    let mut b = tuned();
    let info = |b: &Bench| b.c.info(b.now);
    b.at(1000);
    assert_eq!(info(&b).busy, Duration::ZERO);
    b.write_bytes(2000);
    while b.poll().is_some() {}
    b.at(1010);
    // Sent, waiting for the acknowledgement.
    assert_eq!((info(&b).busy.as_millis(), info(&b).rwnd_limited.as_millis()), (10, 0));
    b.send(1010, ack(5001, 3001).win(0));
    b.at(1100);
    assert_eq!(info(&b).busy.as_millis(), 10);
    b.write_bytes(2000);
    while b.poll().is_some() {}
    b.at(1150);
    assert_eq!((info(&b).busy.as_millis(), info(&b).rwnd_limited.as_millis()), (60, 50));
    b.send(1150, ack(5001, 3001).win(1000));
    while b.poll().is_some() {}
    b.c.cc = super::super::cc::Algorithm::NewReno(super::super::cc::NewReno::new(200_000));
    b.write(&vec![0; 100_000]);
    while b.poll().is_some() {}
    b.at(1170);
    let last = info(&b);
    assert_eq!((last.busy.as_millis(), last.sndbuf_limited.as_millis()), (80, 20));
    assert_eq!(last.bytes_sent, 4000 + 62_000);
    assert_eq!((last.segments_sent, last.segments_received), (2 + 66, 3));
    assert_eq!(last.last_received.as_millis(), 20);
}

#[test]
fn an_idle_connection_gives_its_memory_back() {
    let mut b = tuned();
    b.write_bytes(5000);
    while b.poll().is_some() {}
    b.send(40, ack(5001, 6001).data(&[1; 5000]));
    b.read();
    while b.poll().is_some() {}
    assert!(b.c.send.has_spare() && b.c.recv.has_spare());
    b.at(2000);
    assert!(!b.c.send.has_spare() && !b.c.recv.has_spare());
    assert_eq!((b.c.held(), b.c.next_deadline()), (0, None));
}
