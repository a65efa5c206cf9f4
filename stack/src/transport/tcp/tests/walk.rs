//! RFC 9293 3.10.7: every state against every kind of segment, as one table.
//!
//! A cell says what state follows, and what is said: nothing, an ACK (at once or as a challenge),
//! a RST, or a SYN-ACK.

use super::*;

/// What is said to a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    Ack,
    Challenge,
    Rst,
    SynAck,
}

use Said::{Ack, Challenge, Nothing, Rst, SynAck};
use TcpState::{
    CloseWait, Closed, Closing, Established, FinWait1, FinWait2, LastAck, SynReceived, SynSent,
    TimeWait,
};

/// Everything we sent is acknowledged up to here: the SYN and one byte of data.
const ACKED: u32 = 1002;

/// A connection in each state. The peer's next number is 5001 (5002 after its FIN); of ours, one
/// byte of data was sent and acknowledged, and a FIN where the state says so (number 1002).
fn in_state(state: TcpState) -> Bench {
    if state == SynSent {
        let mut b = Bench::connecting(settings());
        b.recv(0, &[syn(1000)]);
        return b;
    }
    if state == SynReceived {
        // The active side of a simultaneous open.
        let mut b = Bench::connecting(settings());
        b.recv(0, &[syn(1000)]);
        b.send(0, syn(5000).mss(1000));
        b.recv(0, &[syn_ack(1000, 5001)]);
        return b;
    }
    let mut b = Bench::established();
    b.write(b"x");
    b.recv(1, &[ack(1001, 5001).data(b"x")]);
    b.send(1, ack(5001, ACKED));
    let passive = matches!(state, CloseWait | LastAck);
    if passive {
        b.send(2, fin(5001, ACKED));
        b.recv(2, &[ack(1002, 5002)]);
    }
    if matches!(state, FinWait1 | FinWait2 | Closing | LastAck) {
        b.cx(|c, cx| c.shut_down(cx, crate::socket::tcp::ShutdownHow::Write));
        b.recv(3, &[fin(1002, if passive { 5002 } else { 5001 })]);
    }
    if state == FinWait2 {
        b.send(3, ack(5001, 1003));
    }
    if state == Closing {
        b.send(3, fin(5001, ACKED));
        b.recv(3, &[ack(1003, 5002)]);
    }
    assert_eq!(b.state(), state);
    b
}

/// What `b` says to `seg`, and the state after it.
fn answer(b: &mut Bench, seg: Seg) -> (TcpState, Said) {
    let outcome = b.send(10, seg);
    let said = match outcome.reply {
        Reply::Challenge => Challenge,
        Reply::Reset(_) => Rst,
        Reply::None => Nothing,
    };
    let first = b.poll().map(|(h, _)| h.flags);
    let said = match (said, first) {
        (Nothing, Some(flags)) if flags.has(Flags::SYN) => SynAck,
        (Nothing, Some(_)) => Ack,
        (said, _) => said,
    };
    (b.state(), said)
}

fn check(name: &str, make: impl Fn(TcpState, u32) -> Seg, expected: &[(TcpState, TcpState, Said)]) {
    for (state, after, said) in expected {
        let mut b = in_state(*state);
        let next = if matches!(state, CloseWait | LastAck | Closing) { 5002 } else { 5001 };
        let seg = make(*state, next);
        let got = answer(&mut b, seg.clone());
        assert_eq!(got, (*after, *said), "{name} in {state:?}: {seg:?}");
    }
}

const SYNCHRONISED: [TcpState; 7] =
    [Established, FinWait1, FinWait2, CloseWait, Closing, LastAck, SynReceived];

/// The same answer in every synchronised state, which stays.
fn stays(said: Said) -> Vec<(TcpState, TcpState, Said)> {
    SYNCHRONISED.iter().map(|s| (*s, *s, said)).collect()
}

// RFC 9293 3.10.7.4 first
// RFC 5961 3.2
#[test]
fn a_reset_at_the_exact_number_ends_every_state() {
    let all: Vec<_> = SYNCHRONISED.iter().map(|s| (*s, Closed, Nothing)).collect();
    check("RST", |_, next| rst(next), &all);
}

// RFC 5961 3.2
#[test]
fn a_reset_elsewhere_in_the_window_is_challenged_and_outside_it_is_dropped() {
    check("RST inside", |_, next| rst(next + 1), &stays(Challenge));
    check("RST before", |_, next| rst(next - 1), &stays(Nothing));
    check("RST beyond", |_, next| rst(next + 100_000), &stays(Nothing));
}

// RFC 9293 3.10.7.3 second
#[test]
fn a_reset_in_syn_sent_counts_only_with_the_right_acknowledgement() {
    let with = |ack: u32| Seg { ack: Some(ack), ..rst(0) }.flag(Flags::ACK);
    check("RST+ACK", |_, _| with(1001), &[(SynSent, Closed, Nothing)]);
    check("RST+ACK old", |_, _| with(1000), &[(SynSent, SynSent, Nothing)]);
    check("RST+ACK future", |_, _| with(1002), &[(SynSent, SynSent, Nothing)]);
    check("RST", |_, _| rst(5000), &[(SynSent, SynSent, Nothing)]);
}

// RFC 9293 3.10.7.4 fourth
// RFC 5961 4.2
#[test]
fn a_syn_is_challenged_in_every_synchronised_state() {
    let most: Vec<_> = stays(Challenge).into_iter().filter(|(s, ..)| *s != SynReceived).collect();
    check("SYN at next", |_, next| syn(next), &most);
    check("SYN again", |_, _| syn(5000), &most);
    check("SYN beyond", |_, next| syn(next + 100_000), &most);
    check("SYN+ACK", |_, next| syn_ack(next, ACKED), &most);
}

// RFC 9293 3.10.7.4
// RFC 9293 3.5 MUST-10
#[test]
fn a_repeated_syn_in_syn_received_gets_the_syn_ack_again() {
    check("SYN again", |_, _| syn(5000), &[(SynReceived, SynReceived, SynAck)]);
    check("another SYN", |_, _| syn(9000), &[(SynReceived, SynReceived, Challenge)]);
    check("SYN+ACK", |_, _| syn_ack(5000, 1001), &[(SynReceived, Established, Nothing)]);
}

// RFC 9293 3.10.7.3 fourth
#[test]
fn syns_in_syn_sent_open() {
    check("SYN+ACK", |_, _| syn_ack(5000, 1001), &[(SynSent, Established, Ack)]);
    check("SYN", |_, _| syn(5000), &[(SynSent, SynReceived, SynAck)]);
    check("SYN+ACK old", |_, _| syn_ack(5000, 1000), &[(SynSent, SynSent, Rst)]);
    check("SYN+ACK future", |_, _| syn_ack(5000, 1002), &[(SynSent, SynSent, Rst)]);
    check("ACK", |_, _| ack(5000, 1001), &[(SynSent, SynSent, Nothing)]);
    check("ACK old", |_, _| ack(5000, 1000), &[(SynSent, SynSent, Rst)]);
    check("FIN", |_, _| fin(5000, 1001), &[(SynSent, SynSent, Nothing)]);
    check("data", |_, _| ack(5000, 1001).data(b"x"), &[(SynSent, SynSent, Nothing)]);
}

/// The newest number that acknowledges all that was sent.
fn all_of(state: TcpState) -> u32 {
    match state {
        SynReceived => 1001,
        FinWait1 | FinWait2 | Closing | LastAck => 1003,
        _ => ACKED,
    }
}

// RFC 9293 3.10.7.4 fifth
#[test]
fn an_acknowledgement_of_everything_moves_on() {
    let table = [
        (SynReceived, Established, Nothing),
        (Established, Established, Nothing),
        (FinWait1, FinWait2, Nothing),
        (FinWait2, FinWait2, Nothing),
        (CloseWait, CloseWait, Nothing),
        (Closing, TimeWait, Nothing),
        (LastAck, Closed, Nothing),
    ];
    check("ACK", |state, next| ack(next, all_of(state)), &table);
}

// RFC 9293 3.10.7.4 fifth
// RFC 5961 5.2
#[test]
fn an_acknowledgement_of_what_was_never_sent_is_answered_and_dropped() {
    let mut table = stays(Challenge);
    table.retain(|(s, ..)| *s != SynReceived);
    check("ACK future", |state, next| ack(next, all_of(state) + 1), &table);
    check("ACK far old", |_, next| ack(next, ACKED.wrapping_sub(1 << 20)), &table);
    check("ACK future", |_, next| ack(next, 1002), &[(SynReceived, SynReceived, Rst)]);
    check("ACK old", |_, next| ack(next, 1000), &[(SynReceived, SynReceived, Rst)]);
}

// RFC 9293 3.10.7.4 fifth
#[test]
fn an_old_acknowledgement_changes_nothing() {
    let mut table = stays(Nothing);
    table.retain(|(s, ..)| *s != SynReceived);
    check("ACK old", |_, next| ack(next, 1001), &table);
}

// RFC 9293 3.10.7.4 first
#[test]
fn segments_outside_the_window_are_answered_with_an_ack() {
    check("ACK before", |state, next| ack(next - 1, all_of(state)), &stays(Ack));
    check("ACK beyond", |state, next| ack(next + 100_000, all_of(state)), &stays(Ack));
    check("old data", |state, next| ack(next - 5, all_of(state)).data(b"12345"), &stays(Ack));
    check("far data", |state, next| ack(next + 100_000, all_of(state)).data(b"1"), &stays(Ack));
    check("old FIN", |state, next| fin(next - 1, all_of(state)), &stays(Ack));
}

// RFC 9293 3.10.7.4 fifth
#[test]
fn a_segment_without_ack_is_dropped() {
    let bare = |next| Seg { flags: Flags::default(), seq: next, ..Seg::default() };
    check("no flags", |_, next| bare(next), &stays(Nothing));
    check("bare FIN", |_, next| bare(next).flag(Flags::FIN), &stays(Nothing));
}

// RFC 9293 3.10.7.4 seventh
#[test]
fn data_in_the_window_is_taken_where_the_peer_may_still_send() {
    for state in [SynReceived, Established, FinWait1, FinWait2] {
        let mut b = in_state(state);
        let una = if state == SynReceived { 1001 } else { ACKED };
        b.send(10, ack(5001, una).data(b"data"));
        assert_eq!((b.c.rcv_nxt.0, b.c.recv.len()), (5005, 4), "{state:?}");
    }
    // After its FIN there is nothing to take; what lies beyond is answered.
    for state in [CloseWait, Closing, LastAck] {
        let mut b = in_state(state);
        let got = answer(&mut b, ack(5002, ACKED).data(b"data"));
        assert_eq!((got, b.c.recv.len()), ((state, Ack), 0), "{state:?}");
    }
}

// RFC 9293 3.10.7.4 seventh
#[test]
fn data_ahead_is_kept_and_answered_at_once() {
    for state in [Established, FinWait1, FinWait2] {
        let mut b = in_state(state);
        let got = answer(&mut b, ack(5010, ACKED).data(b"data"));
        assert_eq!((got, b.c.recv.len()), ((state, Ack), 0), "{state:?}");
        assert_eq!(b.c.assembler.bytes(), 4);
    }
}

// RFC 9293 3.10.7.4 eighth
#[test]
fn a_fin_moves_on_and_is_acknowledged() {
    let table = [
        (SynReceived, CloseWait, Ack),
        (Established, CloseWait, Ack),
        (FinWait1, Closing, Ack),
        (FinWait2, TimeWait, Nothing),
    ];
    let una = |state| if state == SynReceived { 1001 } else { ACKED };
    check("FIN", |state, next| fin(next, una(state)), &table);
    let both = [(FinWait1, TimeWait, Nothing)];
    check("FIN with the ACK of ours", |_, next| fin(next, 1003), &both);
    // Again: it lies before the window now.
    for state in [CloseWait, Closing, LastAck] {
        let got = answer(&mut in_state(state), fin(5001, ACKED));
        assert_eq!(got, (state, Ack), "{state:?}");
    }
}

// RFC 9293 3.10.7.4 eighth
#[test]
fn a_fin_behind_a_hole_waits_for_it() {
    let mut b = in_state(Established);
    assert_eq!(answer(&mut b, fin(5005, ACKED)), (Established, Ack));
    assert_eq!(answer(&mut b, ack(5001, ACKED).data(b"1234")), (CloseWait, Ack));
}

// RFC 9293 3.10.7.1
#[test]
fn a_closed_connection_takes_nothing() {
    for seg in [ack(5001, ACKED), fin(5001, ACKED), syn(5001), rst(5001)] {
        let mut b = in_state(Established);
        b.send(1, rst(5001));
        assert_eq!(answer(&mut b, seg), (Closed, Nothing));
    }
}

// RFC 7323 4.3
#[test]
fn the_echo_is_that_of_the_segment_that_the_last_ack_covers() {
    let mut b = Bench::established_ts();
    let recent = |b: &Bench| b.c.ts_recent;
    b.send(10, ack(5001, 1001).ts(710, 0).data(b"1234"));
    assert_eq!(recent(&b), 710);
    // Delayed: the ACK is not sent yet, the earliest unacknowledged segment is echoed.
    b.send(12, ack(5005, 1001).ts(712, 0).data(b"5678"));
    assert_eq!(recent(&b), 710);
    b.recv(50, &[ack(1001, 5009).ts(50, 710)]);
    // Behind a hole: not echoed.
    b.send(60, ack(5100, 1001).ts(760, 0).data(b"x"));
    assert_eq!(recent(&b), 710);
    // The segment that fills it is, although an older one.
    b.send(61, ack(5009, 1001).ts(750, 0).data(&bytes(5009, 91)));
    assert_eq!(recent(&b), 750);
}

// RFC 7323 5.3
// RFC 7323 5.5
#[test]
fn an_old_timestamp_is_refused_until_the_stored_one_is_older_than_24_days() {
    let mut b = Bench::established_ts();
    b.send(10, ack(5001, 1001).ts(710, 0).data(b"1"));
    b.recv(50, &[ack(1001, 5002)]);
    let outcome = b.send(200, ack(5002, 1001).ts(709, 0).data(b"2"));
    assert_eq!(outcome.dropped, Some(crate::drop::DropReason::TcpPaws));
    b.recv(200, &[ack(1001, 5002)]);
    let days = |n: u64| n * 24 * 3_600_000;
    let outcome = b.send(days(23), ack(5002, 1001).ts(709, 0).data(b"2"));
    assert_eq!(outcome.dropped, Some(crate::drop::DropReason::TcpPaws));
    b.recv(days(23), &[ack(1001, 5002)]);
    let outcome = b.send(days(25), ack(5002, 1001).ts(709, 0).data(b"2"));
    assert_eq!((outcome.dropped, b.read()), (None, b"12".to_vec()));
    // It takes the stored one's place, and is echoed.
    b.recv(days(25) + 40, &[ack(1001, 5003).ts((days(25) + 40) as u32, 709)]);
    let outcome = b.send(days(26), ack(5003, 1001).ts(708, 0).data(b"3"));
    assert_eq!(outcome.dropped, Some(crate::drop::DropReason::TcpPaws));
}

// RFC 7323 5.3
#[test]
fn a_reset_is_not_judged_by_its_timestamp() {
    let mut b = Bench::established_ts();
    b.send(1, rst(5001).ts(1, 0));
    assert_eq!(b.state(), Closed);
}
