//! Blind injection (RFC 5961), and wars of acknowledgements.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use weft_stack::drop::DropReason;
use weft_stack::rng::Rng;
use weft_stack::seq::SeqNum;
use weft_stack::socket::tcp::TcpState;
use weft_stack::wire::tcp::{Flags, Header, Options};

use crate::fixture::Victim;
use crate::net::{A, B, Line, Net, v4, v6};

fn victim(seed: u64) -> Victim {
    Victim::new(Net::new(Line::default(), seed), if seed.is_multiple_of(2) { v4 } else { v6 })
}

fn drops(v: &Victim, reason: DropReason) -> u64 {
    v.net.stacks[B].mib().drops.get(reason)
}

// RFC 5961 3.2
#[test]
fn blind_resets_anywhere_but_at_the_exact_number_do_nothing() {
    for seed in [0, 1] {
        let mut v = victim(seed);
        let honest = v.honest();
        let rst = |seq| Header { seq, flags: Flags::RST, ..Header::default() };
        // A walk over the whole space in steps of a window, as an attacker would.
        let mut sent = 0;
        for i in 0..4096u32 {
            v.forge(rst(honest.seq + 1 + (i << 20)), &[]);
            sent += 1;
        }
        assert_eq!(drops(&v, DropReason::TcpRstInvalid), sent);
        let stats = &v.net.stacks[B].mib().tcp;
        assert!(stats.challenge_acks <= 10, "{}", stats.challenge_acks);
        assert_eq!(stats.estab_resets, 0);
        v.check_alive();
        v.close();
    }
}

// RFC 5961 4.2
#[test]
fn blind_syns_do_nothing_wherever_they_lie() {
    let mut v = victim(2);
    let honest = v.honest();
    for i in 0..4096u32 {
        let syn = Header { seq: honest.seq + (i << 20), flags: Flags::SYN, ..Header::default() };
        v.forge(syn, &[]);
    }
    let stats = &v.net.stacks[B].mib().tcp;
    assert!(stats.challenge_acks <= 10 && stats.challenge_acks_limited >= 4000);
    assert_eq!((stats.estab_resets, stats.passive_opens), (0, 1));
    v.check_alive();
    v.close();
}

// RFC 5961 5.2
// RFC 7323 3.2
// RFC 7323 5.3
#[test]
fn blind_data_does_not_reach_the_reader() {
    for seed in [3, 4] {
        let mut v = victim(seed);
        let honest = v.honest();
        let with = |seq: SeqNum, ack: SeqNum, timestamp| Header {
            seq,
            ack,
            options: Options { timestamp, ..Options::default() },
            ..honest
        };
        let fresh = honest.options.timestamp;
        let mut rng = Rng::from_u64(seed);
        for _ in 0..1000 {
            // In the window, but without the timestamp, with an old one, or with a wrong ACK.
            let seq = honest.seq + rng.below(60_000) as u32;
            v.forge(with(seq, honest.ack, None), b"evil");
            let old = fresh.map(|(value, echo)| (value.wrapping_sub(1), echo));
            v.forge(with(seq, honest.ack, old), b"evil");
            v.forge(with(seq, honest.ack + 1 + rng.below(1 << 30) as u32, fresh), b"evil");
            v.forge(with(seq, honest.ack - (1 << 24), fresh), b"evil");
            // Outside the window.
            let far = honest.seq + (1 << 22) + rng.below(1 << 30) as u32;
            v.forge(with(far, honest.ack, fresh), b"evil");
        }
        assert_eq!(drops(&v, DropReason::TcpPaws), 2000);
        assert_eq!(drops(&v, DropReason::TcpAckInvalid), 2000);
        assert_eq!(drops(&v, DropReason::TcpOutOfWindow), 1000);
        assert_eq!(v.net.stacks[B].tcp_info(v.net.now, v.s).unwrap().out_of_order, 0);
        v.check_alive();
        v.close();
    }
}

// RFC 5961 3.2
#[test]
fn an_attacker_who_sees_the_wire_can_reset_and_nobody_else() {
    let mut v = victim(5);
    let honest = v.honest();
    v.forge(Header { flags: Flags::RST, ..honest }, &[]);
    assert_eq!(v.net.stacks[B].tcp_state(v.s), TcpState::Closed);
    assert_eq!(v.net.stacks[B].mib().tcp.estab_resets, 1);
    v.close();
}

// RFC 5961 7
#[test]
fn what_one_connection_is_attacked_with_does_not_cost_another_its_challenges() {
    let mut v = victim(6);
    let (c2, s2) = {
        let l = v.net.stacks[B].tcp_listen(v.net.now, crate::net::at(v4(B), 81), 4).unwrap();
        let c = v.net.stacks[A].tcp_connect(v.net.now, None, crate::net::at(v4(B), 81)).unwrap();
        v.net.run_for(Duration::from_millis(50));
        let s = v.net.stacks[B].tcp_accept(l).unwrap().id;
        v.net.stacks[B].tcp_close(v.net.now, l);
        (c, s)
    };
    let first = (v.a, v.b);
    let honest = v.honest();
    let rst = |seq| Header { seq, flags: Flags::RST, ..Header::default() };
    let (a2, b2) = v.net.stacks[A].tcp_addrs(c2).unwrap();
    (v.a, v.b) = (a2, b2);
    for _ in 0..2000 {
        v.forge(rst(honest.seq + 1), &[]);
    }
    assert_eq!(v.net.stacks[B].mib().tcp.challenge_acks, 10);
    (v.a, v.b) = first;
    v.forge(Header { seq: honest.seq, flags: Flags::SYN, ..Header::default() }, &[]);
    assert_eq!(v.net.stacks[B].mib().tcp.challenge_acks, 11);
    v.net.run_for(Duration::from_millis(50));
    v.check_alive();
    v.net.stacks[A].tcp_close(v.net.now, c2);
    v.net.stacks[B].tcp_close(v.net.now, s2);
    v.close();
}

/// Frames between the ends from now on.
fn frames_in(v: &mut Victim, time: Duration) -> u64 {
    let count = Rc::new(Cell::new(0));
    let seen = Rc::clone(&count);
    v.net.filter = Box::new(move |_, _| {
        seen.set(seen.get() + 1);
        true
    });
    v.net.run_for(time);
    count.get()
}

// RFC 9293 3.10.7.4
#[test]
fn two_ends_that_disagree_do_not_answer_each_other_for_ever() {
    let mut v = victim(7);
    // Somebody on the path gave B a byte that A never sent: each end sees the other's as wrong.
    let honest = v.honest();
    v.forge(honest, b"!");
    let frames = frames_in(&mut v, Duration::from_mins(1));
    assert!(frames < 10, "{frames} frames");
    // A says something: B has that byte already, and acknowledges more than A sent.
    v.net.stacks[A].tcp_send(v.net.now, v.c, b"hello").unwrap();
    let frames = frames_in(&mut v, Duration::from_mins(1));
    assert!(frames < 100, "{frames} frames");
    v.net.stacks[A].tcp_abort(v.net.now, v.c);
    v.net.run_for(Duration::from_secs(1));
    v.close();
}

// RFC 5961 5.2
#[test]
fn spoofed_bare_acks_are_answered_at_a_bounded_rate() {
    let mut v = victim(8);
    let honest = v.honest();
    let mut rng = Rng::from_u64(9);
    let before = v.net.stacks[B].mib().tcp.out_segs;
    for _ in 0..10_000 {
        let seq = SeqNum(rng.next_u32());
        let ack = SeqNum(rng.next_u32());
        v.forge(Header { seq, ack, ..honest }, &[]);
        v.net.run_for(Duration::from_micros(100));
    }
    // A second of it: ten answers to what is outside the window, ten challenges.
    let sent = v.net.stacks[B].mib().tcp.out_segs - before;
    assert!(sent <= 25, "{sent} segments");
    v.check_alive();
    v.close();
}
