//! Data leaves at a rate.

use super::*;
use crate::socket::tcp::TcpOption;

/// A connection with a round trip of 40 ms, `window` bytes of congestion window and all free
/// segments sent; nothing is in flight.
fn paced(window: usize) -> Bench {
    let settings = Settings { pacing: true, send_buffer: 1 << 20, ..settings() };
    let mut b = Bench::connecting(settings);
    b.recv(0, &[syn(1000)]);
    let options = Options { mss: Some(1000), window_scale: Some(7), ..Options::default() };
    b.send(40, syn_ack(5000, 1001).opt(options));
    b.recv(40, &[ack(1001, 5001)]);
    b.send(40, ack(5001, 1001).win(10_000));
    b.write_bytes(10_000);
    let first = std::iter::from_fn(|| b.poll()).count();
    assert_eq!(first, 10, "the first window is not paced");
    b.send(80, ack(5001, 11_001).win(10_000));
    b.c.cc = super::super::cc::Algorithm::NewReno(super::super::cc::NewReno::new(window / 10));
    b
}

/// Bytes sent up to `ms`, timers running.
fn sent_until(b: &mut Bench, ms: u64) -> usize {
    let to = START + Duration::from_millis(ms);
    let mut total = 0;
    loop {
        while let Some((_, data)) = b.poll() {
            total += data.len();
        }
        let Some(at) = b.c.pacer.deadline().filter(|at| *at <= to) else { break };
        // As the wheel does: late by a part of its tick.
        let tick = 1 << 16;
        b.now = b.now.max(Instant::from_nanos(at.as_nanos().next_multiple_of(tick)));
        b.cx(Connection::on_timer);
    }
    b.now = b.now.max(to);
    total
}

#[test]
fn a_window_is_spread_over_the_round_trip() {
    let mut b = paced(100_000);
    let rate = b.c.pacing_rate().unwrap();
    // Slow start: twice the window in 40 ms.
    assert!((4_900_000..5_100_000).contains(&rate), "{rate}");
    b.write_bytes(200_000);
    let mut at = 80;
    let mut total = 0;
    let mut steps = Vec::new();
    while total < 90_000 {
        at += 1;
        steps.push(sent_until(&mut b, at));
        total += steps.last().unwrap();
    }
    // A quantum and the credit at most beyond the rate of 5000 bytes in a millisecond.
    assert!(steps.iter().all(|n| *n <= 16_000), "{steps:?}");
    assert!((16..=19).contains(&(at - 80)), "{} ms: {steps:?}", at - 80);
}

#[test]
fn late_timers_catch_up() {
    let mut b = paced(400_000);
    b.write_bytes(900_000);
    let rate = b.c.pacing_rate().unwrap() as usize;
    let total = sent_until(&mut b, 90);
    // Timers that are late by a part of a tick lose nothing.
    let fair = rate / 100;
    assert!(total >= fair && total <= fair + rate / 250, "{total} of {fair}");
}

#[test]
fn a_process_that_is_woken_late_every_time_still_sends_at_the_rate() {
    let mut b = paced(400_000);
    b.write_bytes(900_000);
    let rate = b.c.pacing_rate().unwrap() as usize;
    let mut total = 0;
    while b.now < START + Duration::from_millis(92) {
        total += std::iter::from_fn(|| b.poll()).map(|(_, data)| data.len()).sum::<usize>();
        let at = b.c.pacer.deadline().expect("more to send");
        b.now = at + Duration::from_micros(2900);
        b.cx(Connection::on_timer);
    }
    let fair = rate * (b.now - (START + Duration::from_millis(80))).as_millis() as usize / 1000;
    assert!(total >= fair * 8 / 10 && total <= fair, "{total} of {fair}");
}

#[test]
fn acknowledgements_do_not_wait_for_the_pacer() {
    let mut b = paced(100_000);
    b.write_bytes(200_000);
    while b.poll().is_some() {}
    assert!(b.c.pacer.is_waiting());
    b.send(80, ack(5001, 11_001).data(&[1; 1460]));
    b.send(80, ack(6461, 11_001).data(&[1; 1460]));
    let (header, data) = b.poll().unwrap();
    assert_eq!((header.ack.0, data.len()), (7921, 0));
    assert!(b.poll().is_none());
}

#[test]
fn without_pacing_a_window_leaves_at_once() {
    let mut b = paced(100_000);
    std::sync::Arc::make_mut(&mut b.c.settings).pacing = false;
    b.write_bytes(200_000);
    let burst: usize = std::iter::from_fn(|| b.poll()).map(|(_, data)| data.len()).sum();
    assert_eq!(burst, 100_000);
    assert_eq!(b.c.pacing_rate(), None);
}

#[test]
fn a_round_trip_below_a_millisecond_is_not_paced() {
    let settings = Settings { pacing: true, ..settings() };
    let mut b = Bench::established_with(settings, Options::default());
    b.c.rtt = super::super::rtt::Rtt::new(Duration::from_millis(200));
    b.c.rtt.sample(Duration::from_micros(500), 1);
    assert_eq!(b.c.pacing_rate(), None);
}

#[test]
fn the_applications_bound_holds_even_without_pacing() {
    let mut b = paced(100_000);
    std::sync::Arc::make_mut(&mut b.c.settings).pacing = false;
    b.cx(|c, cx| c.set_option(cx, TcpOption::PacingRateMax(Some(1_000_000))));
    assert_eq!(b.c.pacing_rate(), Some(1_000_000));
    b.write_bytes(200_000);
    let total = sent_until(&mut b, 100);
    // 20 ms, two segments of quantum and as many of credit.
    assert!((20_000..=25_000).contains(&total), "{total}");
}

#[test]
fn super_segments_are_a_quantum_at_most() {
    let mut b = paced(400_000);
    b.limits.gso_bytes_max = 65_000;
    b.write_bytes(400_000);
    let (_, data) = b.poll().unwrap();
    // 20 MB/s: 20,000 bytes in a millisecond.
    assert!((19_000..=20_000).contains(&data.len()), "{}", data.len());
}

// RFC 6928
#[test]
fn after_idleness_the_initial_window_is_free_again() {
    let mut b = paced(100_000);
    b.at(10_000);
    b.write_bytes(40_000);
    let burst: usize = std::iter::from_fn(|| b.poll()).map(|(_, data)| data.len()).sum();
    assert_eq!(burst, 10_000);
}
