//! Urgent data (RFC 9293 3.8.5, RFC 6093).

use super::*;
use crate::socket::Readiness;

fn write_urgent(b: &mut Bench, data: &[u8]) {
    assert_eq!(b.cx(|c, cx| c.write_urgent(cx, data)), Ok(data.len()));
}

// RFC 9293 3.8.5 MUST-30 MUST-62
// RFC 6093 4
#[test]
fn the_pointer_names_the_byte_behind_the_urgent_data() {
    let mut b = Bench::established();
    write_urgent(&mut b, &bytes(1001, 10));
    b.recv(0, &[ack(1001, 5001).data(&bytes(1001, 10)).urgent(10)]);
    b.send(1, ack(5001, 1011));
    b.write_bytes(5);
    let (header, _) = b.poll().unwrap();
    assert!(!header.flags.has(Flags::URG));
}

// RFC 9293 3.8.5 MUST-31
#[test]
fn urgent_data_may_be_of_any_length() {
    let settings = Settings { send_buffer: 200_000, ..settings() };
    let options = Options { window_scale: Some(7), ..Options::default() };
    let mut b = Bench::established_with(settings, options);
    b.send(0, ack(5001, 1001).win(2000));
    write_urgent(&mut b, &bytes(1001, 100_000));
    let (mut at, mut pointers) = (1, Vec::new());
    while b.c.snd_una != b.c.data_end() {
        while let Some((header, data)) = b.poll() {
            assert!(header.flags.has(Flags::URG) && data.len() == 1000);
            pointers.push((header.seq.0, header.urgent));
        }
        let nxt = b.c.snd_nxt.0;
        b.send(at, ack(5001, nxt).win(2000));
        at += 1;
    }
    assert_eq!(pointers.len(), 100);
    // Too far to name, then the end in each segment.
    assert!(pointers.iter().all(|(seq, p)| u32::from(*p) == (101_001 - seq).min(0xffff)));
}

// RFC 9293 3.8.5 MUST-32
#[test]
fn the_application_is_told_when_a_mark_comes_and_when_it_moves() {
    let mut b = Bench::established();
    b.c.wake = false;
    b.send(1, ack(5001, 1001).urgent(50));
    assert!(b.c.wake && b.c.readiness().contains(Readiness::PRIORITY));
    b.c.wake = false;
    b.send(2, ack(5001, 1001).urgent(50));
    assert!(!b.c.wake, "the same mark is no news");
    b.send(3, ack(5001, 1001).urgent(60));
    assert!(b.c.wake);
    assert_eq!(b.stats.urgent_marks, 2);
}

// RFC 9293 3.8.5 MUST-33
// RFC 6093 5
#[test]
fn urgent_data_stays_in_line_and_its_rest_can_be_asked_for() {
    let mut b = Bench::established();
    b.send(1, ack(5001, 1001).data(b"abcdef").urgent(4));
    assert_eq!(b.c.urgent_left(), Some(4));
    let mut out = [0; 3];
    assert_eq!(b.cx(|c, cx| c.read(cx, &mut out)), Ok(3));
    assert_eq!((&out, b.c.urgent_left()), (b"abc", Some(1)));
    assert_eq!(b.read(), b"def");
    assert_eq!(b.c.urgent_left(), None);
    assert!(!b.c.readiness().contains(Readiness::PRIORITY));
}

// RFC 9293 3.4 MUST-66
#[test]
fn a_mark_counts_at_a_closed_window() {
    let mut b =
        Bench::established_with(Settings { recv_buffer: 3000, ..settings() }, Options::default());
    b.send(1, ack(5001, 1001).data(&[0; 1500]));
    b.send(1, ack(6501, 1001).data(&[0; 1500]));
    b.recv(1, &[ack(1001, 8001).win(0)]);
    b.send(2, ack(8001, 1001).data(b"x").urgent(1));
    assert_eq!(b.c.urgent_left(), Some(3001));
}

#[test]
fn a_mark_goes_ahead_of_data_that_waits_for_a_window() {
    let mut b = Bench::established();
    b.send(0, ack(5001, 1001).win(0));
    write_urgent(&mut b, b"stop");
    b.recv(0, &[ack(1001, 5001).urgent(4)]);
}

#[test]
fn super_segments_do_not_carry_marks() {
    let mut b = Bench::established();
    b.limits.gso_bytes_max = 60_000;
    write_urgent(&mut b, &bytes(1001, 3000));
    let sent: Vec<_> = std::iter::from_fn(|| b.poll()).map(|(h, d)| (h.urgent, d.len())).collect();
    assert_eq!(sent, [(3000, 1000), (2000, 1000), (1000, 1000)]);
}
