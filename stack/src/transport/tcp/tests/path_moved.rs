//! What a connection does when its path below moved and frames were lost with it.

use super::*;

fn moved(b: &mut Bench, ms: u64) {
    b.at(ms);
    b.cx(Connection::on_path_moved);
}

/// Three segments in flight since 0; a round trip takes 30 ms.
fn in_flight() -> Bench {
    let mut b = Bench::established_sack();
    b.write_bytes(3000);
    b.recv(0, &full(1001, 3, 5001));
    b
}

#[test]
fn what_had_time_to_be_acknowledged_is_sent_again_at_once() {
    let mut b = in_flight();
    // The probe of the tail is lost as well.
    b.recv(62, &full(3001, 1, 5001));
    moved(&mut b, 80);
    // Two, so that the peer does not wait for another.
    b.recv(80, &full(1001, 2, 5001));
    b.send(110, ack(5001, 3001));
    b.recv(110, &full(3001, 1, 5001));
    b.send(140, ack(5001, 4001));
    assert_eq!((b.c.flight(), b.stats.timeouts, b.stats.path_moved_retrans), (0, 0, 1));
}

#[test]
fn what_may_still_be_answered_is_not_sent_again() {
    let mut b = in_flight();
    moved(&mut b, 59);
    b.recv_nothing(59);
    assert_eq!(b.stats.path_moved_retrans, 0);
    b.send(61, ack(5001, 4001));
    moved(&mut b, 300);
    b.recv_nothing(300);
}

// RFC 6069 2, 4: a path that was interrupted is no reason to wait longer.
#[test]
fn timeouts_of_the_outage_make_no_later_one_longer() {
    let mut b = in_flight();
    b.recv(62, &full(3001, 1, 5001));
    let rto = b.c.rtt.rto();
    let mut ms = 62;
    while b.stats.timeouts < 4 {
        ms += 10;
        b.at(ms);
        while b.poll().is_some() {}
    }
    assert_eq!(b.c.rtt.rto(), rto * 16);
    // Too early to say what becomes of the last try, and no reason to wait for 16 times as long.
    moved(&mut b, ms + 1);
    b.recv_nothing(ms + 1);
    assert_eq!(b.c.rtt.rto(), rto);
    moved(&mut b, ms + 100);
    b.recv(ms + 100, &full(1001, 1, 5001));
    b.send(ms + 130, ack(5001, 2001));
    b.recv(ms + 130, &full(2001, 2, 5001));
}

#[test]
fn a_syn_does_not_wait_for_its_second_either() {
    let mut b = Bench::connecting(settings());
    b.recv(0, &[syn(1000)]);
    moved(&mut b, 4);
    b.recv_nothing(4);
    moved(&mut b, 50);
    b.recv(50, &[syn(1000)]);
    b.send(51, syn_ack(5000, 1001).mss(1000));
    b.recv(51, &[ack(1001, 5001)]);
    assert_eq!(b.state(), TcpState::Established);
}

#[test]
fn a_closed_window_is_asked_about_at_once() {
    let mut b = Bench::established();
    b.send(10, ack(5001, 1001).win(0));
    b.write_bytes(1000);
    b.recv_nothing(10);
    let asked = |b: &mut Bench| std::iter::from_fn(|| b.poll()).count();
    b.at(10_000);
    while b.poll().is_some() {}
    b.at(10_050);
    assert_eq!(asked(&mut b), 0);
    moved(&mut b, 10_060);
    b.at(10_060);
    assert_eq!(asked(&mut b), 1);
}
