//! Explicit congestion notification (RFC 3168, RFC 8257 3.2, RFC 9768).

use super::*;
use crate::socket::tcp::{CongestionControl, EcnState};
use crate::stack::EcnMode;
use crate::transport::tcp::cc::Controller;
use crate::transport::tcp::ecn::Negotiated;
use crate::wire::tcp::AccEcnOption;

const NOT_ECT: u8 = 0;
const ECT1: u8 = 1;
const ECT0: u8 = 2;
const CE: u8 = 3;
const MODES: [EcnMode; 4] = [EcnMode::Off, EcnMode::Accept, EcnMode::Classic, EcnMode::Accurate];

fn ecn(mode: EcnMode) -> Settings {
    Settings { ecn: mode, ..settings() }
}

/// A segment with (AE, CWR, ECE) as written in RFC 9768.
fn ace(seg: Seg, bits: u8) -> Seg {
    Seg { flags: seg.flags.with_ace(u32::from(bits)), ..seg }
}

/// What our SYN asks for.
fn asked(mode: EcnMode) -> u8 {
    match mode {
        EcnMode::Accurate => 0b111,
        EcnMode::Classic => 0b011,
        EcnMode::Accept | EcnMode::Off => 0,
    }
}

/// A client after a SYN-ACK with these flags and codepoint; its ACK is not sent yet.
fn client(settings: Settings, bits: u8, codepoint: u8) -> Bench {
    let mut b = Bench::connecting(settings);
    b.recv(0, &[ace(syn(1000), asked(settings.ecn)).ecn(NOT_ECT)]);
    let options = Options { mss: Some(1000), ..Options::default() };
    b.send(0, ace(syn_ack(5000, 1001), bits).ecn(codepoint).opt(options));
    b
}

/// An established client that runs classic ECN.
fn classic(settings: Settings) -> Bench {
    let mut b = client(settings, 0b001, NOT_ECT);
    b.recv(0, &[ack(1001, 5001).ecn(NOT_ECT)]);
    b
}

/// An established client that runs AccECN, whose path is known to take the option.
fn accurate(settings: Settings) -> Bench {
    let mut b = client(settings, 0b010, NOT_ECT);
    b.recv(0, &[ace(ack(1001, 5001), 0b010)]);
    b.c.ecn.echo().unwrap().told(true);
    b
}

fn option(counters: &[u32]) -> Options {
    let mut all = [0; 3];
    all[..counters.len()].copy_from_slice(counters);
    let accurate_ecn = Some(AccEcnOption::new(false, all, counters.len()));
    Options { accurate_ecn, ..Options::default() }
}

/// A server's decision about a SYN.
fn server(mode: EcnMode, bits: u8, codepoint: u8) -> Negotiated {
    let header = ace(syn(5000), bits).ecn(codepoint).header();
    Negotiated::of_syn(mode, CongestionControl::Cubic, &header)
}

fn syn_ack_bits(negotiated: Negotiated, timeouts: u32) -> u8 {
    let mut header = syn_ack(1000, 5001).header();
    negotiated.write_syn_ack(timeouts, &mut header);
    header.flags.ace()
}

// RFC 9768 3.1.1
// RFC 9768 3.1.2
// RFC 9768 3.1.3
// RFC 3168 6.1.1
#[test]
fn a_client_enters_the_mode_that_the_syn_ack_shows() {
    use EcnState::{Accurate, Classic, Off};
    // Table 2 of RFC 9768, host A, and the reserved combination of 3.1.3.
    let rows = [
        (0b010, Accurate),
        (0b011, Accurate),
        (0b100, Accurate),
        (0b110, Accurate),
        (0b101, Accurate),
        (0b001, Classic),
        (0b000, Off),
        (0b111, Off),
    ];
    for (bits, state) in rows {
        assert_eq!(
            client(ecn(EcnMode::Accurate), bits, NOT_ECT).c.ecn.state(),
            state,
            "{bits:03b}"
        );
    }
    // A client that asked for classic ECN; ECE with CWR is a reflected SYN.
    for bits in 0..8 {
        let state = if matches!(bits, 0b001 | 0b101) { Classic } else { Off };
        let b = client(ecn(EcnMode::Classic), bits, NOT_ECT);
        assert_eq!(b.c.ecn.state(), state, "{bits:03b}");
    }
    // One that did not ask.
    for (mode, bits) in [(EcnMode::Off, 0b001), (EcnMode::Accept, 0b010), (EcnMode::Off, 0b110)] {
        assert_eq!(client(ecn(mode), bits, NOT_ECT).c.ecn.state(), Off);
    }
}

// RFC 9768 3.1.1
// RFC 9768 3.1.2
// RFC 9768 3.1.3
// RFC 3168 6.1.1
#[test]
fn a_server_answers_every_syn_as_the_table_says() {
    use EcnState::{Accurate, Classic, Off};
    for mode in MODES {
        for bits in 0..8 {
            for (codepoint, told) in [(NOT_ECT, 0b010), (ECT1, 0b011), (ECT0, 0b100), (CE, 0b110)] {
                let expected = match bits {
                    _ if mode == EcnMode::Off => (Off, 0),
                    0b000 => (Off, 0),
                    // Mangled, and its sender cannot know.
                    0b011 if codepoint != NOT_ECT => (Off, 0),
                    0b011 => (Classic, 0b001),
                    // The rest is reserved and asks for AccECN.
                    _ => (Accurate, told),
                };
                let negotiated = server(mode, bits, codepoint);
                let got = (negotiated.state, syn_ack_bits(negotiated, 0));
                assert_eq!(got, expected, "{mode:?} {bits:03b} under {codepoint}");
            }
        }
    }
}

// RFC 9768 3.2.3.2.1
// RFC 9768 3.2.3.2.2
#[test]
fn a_syn_ack_carries_the_option_once_and_accecn_twice() {
    let negotiated = server(EcnMode::Accept, 0b111, NOT_ECT);
    let write = |timeouts, negotiated: Negotiated| {
        let mut header = syn_ack(1000, 5001).header();
        negotiated.write_syn_ack(timeouts, &mut header);
        (header.flags.ace(), header.options.accurate_ecn)
    };
    let first = option(&[1, 0, 1]).accurate_ecn;
    assert_eq!(write(0, negotiated), (0b010, first));
    assert_eq!(write(1, negotiated), (0b010, None));
    assert_eq!(write(2, negotiated), (0b000, None));
    let mut repeated = negotiated;
    assert!(repeated.repeat(&ace(syn(5000), 0b111).ecn(CE).header()));
    assert_eq!(write(0, repeated), (0b110, None), "the latest SYN is told, without the option");
}

// RFC 9768 3.1.5
#[test]
fn a_server_never_changes_its_mode() {
    let repeat = |first: u8, then: u8| {
        let mut n = server(EcnMode::Accept, first, NOT_ECT);
        let state = n.state;
        let kept = n.repeat(&ace(syn(5000), then).header());
        assert_eq!(n.state, state);
        (kept, syn_ack_bits(n, 0))
    };
    assert_eq!(repeat(0b111, 0b000), (true, 0b010), "one more try with AccECN");
    assert_eq!(repeat(0b000, 0b111), (true, 0b000), "not after a refusal");
    assert_eq!(repeat(0b000, 0b011), (true, 0b000));
    assert!(!repeat(0b111, 0b011).0, "a contradiction is reset");
    assert!(!repeat(0b011, 0b111).0);
    assert_eq!(repeat(0b011, 0b000), (true, 0b001));
}

/// A server whose SYN-ACK went out, and the ACE field and codepoint of its first data.
fn served(negotiated: Negotiated, timeouts: u32, first: Seg) -> (Bench, Header) {
    let mut b = Bench::accepting(Options { mss: Some(1000), ..Options::default() });
    b.c.ecn.serve(negotiated, timeouts, SeqNum(1000));
    let (header, _) = b.poll().unwrap();
    assert!(header.flags.has(Flags::SYN));
    b.send(10, first);
    assert_eq!(b.state(), TcpState::Established);
    b.write_bytes(10);
    let (header, _) = b.poll().unwrap();
    (b, header)
}

// RFC 9768 3.2.2.1
// RFC 9768 3.2.2.2
// RFC 9768 3.2.2.3
#[test]
fn the_first_ack_tells_a_server_what_became_of_its_syn_ack() {
    // Table 4; a SYN-ACK that was not ECN-capable and arrived so was mangled.
    let rows = [
        (0b000, NOT_ECT, false),
        (0b001, ECT0, false),
        (0b010, ECT0, false),
        (0b011, NOT_ECT, false),
        (0b100, NOT_ECT, false),
        (0b101, ECT0, false),
        (0b110, NOT_ECT, true),
        (0b111, ECT0, false),
    ];
    for (bits, codepoint, reduced) in rows {
        let negotiated = server(EcnMode::Accept, 0b111, NOT_ECT);
        let (b, data) = served(negotiated, 0, ace(ack(5001, 1001), bits));
        assert_eq!(data.ecn, codepoint, "{bits:03b}");
        assert_eq!(data.flags.ace(), 5, "feedback goes on");
        assert_eq!(b.c.windows().1 != usize::MAX, reduced, "{bits:03b}");
        assert_eq!(b.c.ecn.state(), EcnState::Accurate);
    }
}

// RFC 9768 3.1.5
// RFC 3168 6.1.1
#[test]
fn a_server_that_saw_or_sent_a_plain_handshake_sends_nothing_ecn_capable() {
    let negotiated = server(EcnMode::Accept, 0b111, NOT_ECT);
    let first = ace(ack(5001, 1001), 0b010);
    assert_eq!(served(negotiated, 2, first.clone()).1.ecn, NOT_ECT, "sent");
    let mut repeated = negotiated;
    assert!(repeated.repeat(&syn(5000).header()));
    assert_eq!(served(repeated, 0, first.clone()).1.ecn, NOT_ECT, "received");
    assert_eq!(served(negotiated, 0, first).1.ecn, ECT0);
    let mut classic = server(EcnMode::Accept, 0b011, NOT_ECT);
    assert_eq!(served(classic, 0, ack(5001, 1001)).1.ecn, ECT0);
    assert!(classic.repeat(&syn(5000).header()));
    assert_eq!(served(classic, 0, ack(5001, 1001)).1.ecn, NOT_ECT);
}

// RFC 9768 3.1.5
#[test]
fn without_agreement_nothing_is_ecn_capable_and_nothing_is_told() {
    for mode in MODES {
        let (mut b, data) = served(server(mode, 0, NOT_ECT), 0, ack(5001, 1001));
        assert_eq!((data.ecn, data.flags.ace()), (NOT_ECT, 0));
        b.send(20, ack(5001, 1011).data(&[1; 1000]).ecn(CE));
        b.send(20, ack(6001, 1011).data(&[1; 1000]).ecn(CE));
        b.recv(20, &[ack(1011, 7001).ecn(NOT_ECT).opt(Options::default())]);
    }
}

// RFC 9768 3.1.4.1
#[test]
fn an_accecn_syn_is_tried_twice_then_without_flags() {
    let mut b = Bench::connecting(ecn(EcnMode::Accurate));
    b.recv(0, &[ace(syn(1000), 0b111)]);
    b.recv(1000, &[ace(syn(1000), 0b111)]);
    b.recv(3000, &[syn(1000)]);
    // The first SYN-ACK decides; a client may mark its data all the same.
    b.send(3010, ace(syn_ack(5000, 1001), 0b010).mss(1000));
    b.recv(3010, &[ace(ack(1001, 5001), 0b010)]);
    b.write_bytes(10);
    b.recv(3010, &[ace(ack(1001, 5001), 5).data(&bytes(1001, 10)).ecn(ECT0)]);
}

// RFC 3168 6.1.1.1
// RFC 3168 6.1.1
#[test]
fn a_classic_syn_is_tried_once_and_then_data_is_not_marked() {
    let mut b = Bench::connecting(ecn(EcnMode::Classic));
    b.recv(0, &[ace(syn(1000), 0b011)]);
    b.recv(1000, &[syn(1000)]);
    b.send(1010, ace(syn_ack(5000, 1001), 0b001).mss(1000));
    b.recv(1010, &[ack(1001, 5001)]);
    b.write_bytes(10);
    b.recv(1010, &[ack(1001, 5001).data(&bytes(1001, 10)).ecn(NOT_ECT)]);
    // Its own marks are told: the server may have understood the first SYN.
    b.send(1020, ack(5001, 1011).data(b"x").ecn(CE));
    b.recv(1020, &[ack(1011, 5002).flag(Flags::ECE)]);
}

// RFC 9768 3.1.2
#[test]
fn in_a_simultaneous_open_the_other_syn_is_answered_as_by_a_server() {
    for (bits, answer) in [(0b111, 0b100), (0b011, 0b000), (0b000, 0b000)] {
        let mut b = Bench::connecting(ecn(EcnMode::Accurate));
        b.recv(0, &[ace(syn(1000), 0b111)]);
        b.send(5, ace(syn(5000), bits).ecn(ECT0).mss(1000));
        b.recv(5, &[ace(syn_ack(1000, 5001), answer)]);
        // Its SYN-ACK: no counter, whatever it shows.
        b.send(9, ace(syn_ack(5000, 1001), 0b000));
        assert_eq!(b.state(), TcpState::Established);
        b.write_bytes(10);
        let (header, _) = b.poll().unwrap();
        assert_eq!(header.ecn == ECT0, bits == 0b111);
    }
}

// RFC 9768 3.2.2.1
// RFC 9768 3.2.3.2.1
#[test]
fn a_client_tells_the_codepoint_of_the_syn_ack_by_a_bare_ack() {
    for (codepoint, told, then) in [(NOT_ECT, 2, 5), (ECT1, 3, 5), (ECT0, 4, 5), (CE, 6, 6)] {
        let mut b = client(ecn(EcnMode::Accurate), 0b010, codepoint);
        b.write_bytes(20);
        let counters = option(&[1, 0, 1]);
        let first = ace(ack(1001, 5001), told).opt(counters);
        let data = ace(ack(1001, 5001), then).data(&bytes(1001, 20)).opt(counters);
        b.recv(0, &[first, data]);
        // The SYN-ACK again, with another codepoint.
        b.send(30, ace(syn_ack(5000, 1001), 0b010).ecn(ECT0));
        b.recv(30, &[ace(ack(1021, 5001), 0b100)]);
    }
}

// RFC 9768 3.2.2.3
// RFC 9768 3.2.2.2
#[test]
fn a_client_whose_syn_arrived_marked_sends_nothing_ecn_capable_but_listens() {
    for (bits, codepoint) in [(0b010, ECT0), (0b011, NOT_ECT), (0b100, NOT_ECT), (0b110, NOT_ECT)] {
        let mut b = client(ecn(EcnMode::Accurate), bits, NOT_ECT);
        assert_eq!(b.c.windows().1 != usize::MAX, bits == 0b110, "CE is congestion");
        b.c.cc = super::super::cc::Algorithm::new(CongestionControl::NewReno, 1000, 1);
        b.write_bytes(100);
        let data = ace(ack(1001, 5001), 5).data(&bytes(1001, 100));
        b.recv(0, &[ace(ack(1001, 5001), 2), data.ecn(codepoint)]);
    }
}

// RFC 3168 6.1.2
// RFC 3168 6.1.4
// RFC 3168 6.1.5
// RFC 3168 6.1.6
// RFC 9768 3.1.5
#[test]
fn only_new_data_is_ecn_capable() {
    for mut b in [classic(ecn(EcnMode::Classic)), accurate(ecn(EcnMode::Accurate))] {
        let told = if b.c.ecn.state() == EcnState::Accurate { 5 } else { 0 };
        b.write_bytes(900);
        b.recv(5, &[ace(ack(1001, 5001), told).data(&bytes(1001, 900)).ecn(ECT0)]);
        // A bare ACK.
        b.send(10, ace(ack(5001, 1001), told).data(&[1; 1000]));
        b.send(10, ace(ack(6001, 1001), told).data(&[1; 1000]));
        b.recv(10, &[ace(ack(1901, 7001), told).ecn(NOT_ECT)]);
        // What is sent again.
        b.at(800);
        let (header, _) = b.poll().unwrap();
        assert_eq!((header.seq.0, header.ecn), (1001, NOT_ECT));
        // A probe of a closed window.
        b.send(900, ace(ack(7001, 1901), told).win(0));
        b.write_bytes(10);
        b.recv_nothing(900);
        b.at(3000);
        let (header, data) = b.poll().unwrap();
        assert_eq!((header.seq.0, data.len(), header.ecn), (1900, 0, NOT_ECT));
    }
}

// RFC 3168 6.1.3
#[test]
fn a_classic_receiver_echoes_until_the_window_was_reduced() {
    let mut b = classic(ecn(EcnMode::Classic));
    b.send(1, ack(5001, 1001).data(b"a").ecn(ECT0));
    b.recv(41, &[ack(1001, 5002)]);
    b.send(50, ack(5002, 1001).data(b"b").ecn(CE));
    b.recv(50, &[ack(1001, 5003).flag(Flags::ECE)]);
    b.send(60, ack(5003, 1001).data(b"c").ecn(ECT0));
    b.write_bytes(5);
    b.recv(60, &[ack(1001, 5004).flag(Flags::ECE).data(&bytes(1001, 5))]);
    b.send(70, ack(5004, 1006).data(b"d").flag(Flags::CWR).ecn(ECT0));
    b.recv(110, &[ack(1006, 5005)]);
    // CWR and CE at once: a new mark.
    b.send(120, ack(5005, 1006).data(b"e").flag(Flags::CWR).ecn(CE));
    b.recv(120, &[ack(1006, 5006).flag(Flags::ECE)]);
}

// RFC 3168 6.1.5
#[test]
fn marks_on_segments_outside_the_window_do_not_count() {
    let mut b = classic(ecn(EcnMode::Classic));
    b.send(1, ack(5001, 1001).data(b"a"));
    b.recv(41, &[ack(1001, 5002)]);
    b.send(50, ack(5001, 1001).data(b"a").ecn(CE));
    b.recv(50, &[ack(1001, 5002)]);
}

// RFC 3168 6.1.2
#[test]
fn a_classic_sender_reduces_once_per_round_trip_and_says_so() {
    let mut b = classic(ecn(EcnMode::Classic));
    b.write_bytes(20_000);
    b.recv(0, &full(1001, 10, 5001).into_iter().map(|s| s.ecn(ECT0)).collect::<Vec<_>>());
    b.send(30, ack(5001, 2001).flag(Flags::ECE));
    assert_eq!(b.c.cc.cwnd(), 4500, "half of what was in flight");
    b.recv(30, &[]);
    for i in 1..7 {
        b.send(30 + u64::from(i), ack(5001, 2001 + i * 1000).flag(Flags::ECE));
    }
    assert!(b.c.cc.cwnd() < 6000, "once");
    let (header, data) = b.poll().unwrap();
    assert_eq!((header.seq.0, data.len()), (11_001, 1000));
    assert!(header.flags.has(Flags::CWR) && header.ecn == ECT0);
    while let Some((header, _)) = b.poll() {
        assert!(!header.flags.has(Flags::CWR), "the first new data only");
    }
    // ECE for what was in flight before the reduction is the same congestion, up to the segment
    // with CWR.
    let before = b.c.cc.ssthresh();
    b.send(60, ack(5001, 11_001).flag(Flags::ECE));
    assert_eq!(b.c.cc.ssthresh(), before);
    b.send(61, ack(5001, 12_001).flag(Flags::ECE));
    assert!(b.c.cc.ssthresh() < before, "a new window");
    assert_eq!(b.c.totals.losses.retransmits.total(), 0);
}

// RFC 3168 6.1.2
#[test]
fn loss_and_marks_in_one_window_reduce_once() {
    let options = Options { sack_permitted: true, mss: Some(1000), ..Options::default() };
    let mut b = Bench::connecting(ecn(EcnMode::Classic));
    b.recv(0, &[ace(syn(1000), 0b011)]);
    b.send(30, ace(syn_ack(5000, 1001), 0b001).opt(options));
    b.recv(30, &[ack(1001, 5001)]);
    b.write_bytes(20_000);
    while b.poll().is_some() {}
    for i in 2..=5 {
        b.send(60, ack(5001, 1001).sack(&[(2001, 1001 + i * 1000)]));
    }
    let reduced = b.c.cc.ssthresh();
    assert!(reduced < 10_000);
    b.send(61, ack(5001, 1001).sack(&[(2001, 7001)]).flag(Flags::ECE));
    assert_eq!(b.c.cc.ssthresh(), reduced);
}

// RFC 8257 3.2
#[test]
fn a_dctcp_receiver_tells_each_change_and_what_came_before_it() {
    let settings = Settings { congestion: CongestionControl::Dctcp, ..ecn(EcnMode::Classic) };
    let mut b = classic(settings);
    b.send(1, ack(5001, 1001).data(&[1; 100]).ecn(ECT0));
    b.recv_nothing(1);
    b.send(2, ack(5101, 1001).data(&[1; 100]).ecn(CE));
    // The first without the mark, then the state of now.
    b.recv(2, &[ack(1001, 5101), ack(1001, 5201).flag(Flags::ECE)]);
    b.send(3, ack(5201, 1001).data(&[1; 100]).ecn(CE));
    b.recv_nothing(3);
    b.send(4, ack(5301, 1001).data(&[1; 100]).ecn(ECT0));
    b.recv(4, &[ack(1001, 5301).flag(Flags::ECE), ack(1001, 5401)]);
    // Nothing waits for an ACK: one is enough. CWR does not end it.
    b.send(5, ack(5401, 1001).data(&[1; 100]).flag(Flags::CWR).ecn(CE));
    b.recv(5, &[ack(1001, 5501).flag(Flags::ECE)]);
}

// RFC 9768 3.2.2
// RFC 9768 3.2.3.3
// RFC 9768 3.2.2.5.1
#[test]
fn an_accecn_receiver_counts_in_every_segment() {
    let mut b = accurate(ecn(EcnMode::Accurate));
    b.write_bytes(1);
    b.recv(0, &[ace(ack(1001, 5001), 5).data(&bytes(1001, 1))]);
    let told = |b: &mut Bench, ms, bits, at, counters: &[u32]| {
        b.recv(ms, &[ace(ack(1002, at), bits).opt(option(counters))]);
    };
    b.send(10, ace(ack(5001, 1002), 5).data(&[1; 1000]).ecn(ECT0));
    b.send(10, ace(ack(6001, 1002), 5).data(&[1; 1000]).ecn(ECT0));
    told(&mut b, 10, 5, 7001, &[2001]);
    // A change is told at once, though only one segment came.
    b.send(20, ace(ack(7001, 1002), 5).data(&[1; 1000]).ecn(CE));
    told(&mut b, 20, 6, 8001, &[2001, 1000]);
    // Data that we send carries the newest counters, and so does what is sent again.
    b.send(30, ace(ack(8001, 1002), 5).data(&[1; 1000]).ecn(CE));
    b.write_bytes(10);
    let counters = option(&[2001, 2000]);
    b.recv(30, &[ace(ack(1002, 9001), 7).data(&bytes(1002, 10)).opt(counters).ecn(ECT0)]);
    b.send(31, ace(ack(9001, 1002), 5).data(&[1; 1000]).ecn(CE));
    b.send(31, ace(ack(10_001, 1002), 5).data(&[1; 1000]).ecn(CE));
    b.recv(31, &[ace(ack(1012, 11_001), 1).opt(option(&[2001, 4000]))]);
    // A merged unit counts for each of its packets.
    let mut frame = Frame::from_heap(0, &[1; 3000]);
    frame.meta.gso = crate::frame::Gso::Tcp4 { mss: 1000 };
    let header = ace(ack(11_001, 1002), 5).ecn(CE).header();
    assert!(b.cx(|c, cx| c.on_segment(cx, &header, frame)).dropped.is_none());
    b.recv(31, &[ace(ack(1012, 14_001), 4).opt(option(&[2001, 7000]))]);
}

// RFC 9768 3.2.3.3
#[test]
fn two_sack_blocks_go_before_the_option_and_three_do_not() {
    let options = Options {
        mss: Some(1000),
        sack_permitted: true,
        timestamp: Some((700, 0)),
        ..Options::default()
    };
    let mut b = Bench::connecting(ecn(EcnMode::Accurate));
    b.recv(0, &[ace(syn(1000), 0b111)]);
    b.send(0, ace(syn_ack(5000, 1001), 0b010).opt(options));
    b.recv(0, &[ace(ack(1001, 5001), 0b010)]);
    b.write_bytes(1);
    b.recv(0, &[ace(ack(1001, 5001), 5).data(&bytes(1001, 1))]);
    let mut codepoint = ECT0;
    for i in 1..=3 {
        let data = ace(ack(5001 + i * 200, 1002), 5).data(&[1; 100]).ts(700 + i, 0);
        b.send(10, data.ecn(codepoint));
        codepoint = CE;
    }
    let (header, _) = b.poll().unwrap();
    let sack = header.options.sack;
    assert_eq!(sack.as_slice(), [(SeqNum(5601), SeqNum(5701)), (SeqNum(5401), SeqNum(5501))]);
    assert_eq!(header.options.accurate_ecn, option(&[101, 200]).accurate_ecn);
    // Nothing new to count: all the room is for SACK.
    b.send(11, ace(ack(5801, 1002), 5).data(&[1; 100]).ts(704, 0));
    let (header, _) = b.poll().unwrap();
    assert_eq!(header.options.sack.as_slice().len(), 3);
    // With ECT(1) besides, three counters would leave room for one block.
    b.send(12, ace(ack(6001, 1002), 5).data(&[1; 100]).ts(705, 0).ecn(ECT1));
    b.send(12, ace(ack(6201, 1002), 5).data(&[1; 100]).ts(705, 0).ecn(ECT0));
    let (header, _) = b.poll().unwrap();
    assert_eq!((header.options.sack.as_slice().len(), header.options.accurate_ecn), (3, None));
}

// RFC 9768 3.2.2.2
// RFC 9768 3.1.5
#[test]
fn an_accecn_sender_reduces_once_per_round_trip_without_cwr() {
    let mut b = accurate(ecn(EcnMode::Accurate));
    b.write_bytes(20_000);
    while b.poll().is_some() {}
    b.send(30, ace(ack(5001, 2001), 6));
    assert_eq!(b.c.cc.ssthresh(), 4500);
    b.send(31, ace(ack(5001, 3001), 7));
    b.send(32, ace(ack(5001, 9001), 1));
    assert_eq!(b.c.cc.ssthresh(), 4500, "once");
    while let Some((header, _)) = b.poll() {
        assert_eq!(header.flags.ace(), 5, "the field is the counter of the other direction");
    }
    assert_eq!((b.c.ecn.bytes_ce(), b.stats.delivered_ce), (4000, 4));
    // An older ACK does not wind the counter back.
    b.send(33, ace(ack(5001, 8001), 0));
    assert_eq!(b.stats.delivered_ce, 4);
}

// RFC 9768 3.2.2.4
#[test]
fn a_zeroed_first_counter_switches_ecn_off_for_our_half() {
    let mut b = accurate(ecn(EcnMode::Accurate));
    b.write_bytes(5000);
    while b.poll().is_some() {}
    b.send(30, ace(ack(5001, 2001), 0));
    b.send(31, ace(ack(5001, 3001), 3));
    assert_eq!((b.c.cc.ssthresh(), b.stats.delivered_ce), (usize::MAX, 0));
    b.write_bytes(100);
    let (header, _) = b.poll().unwrap();
    assert_eq!((header.ecn, header.flags.ace()), (NOT_ECT, 5), "we report all the same");
}

// RFC 9768 3.2.2.3
#[test]
fn marks_on_everything_from_the_start_are_not_believed() {
    let mut b = accurate(ecn(EcnMode::Accurate));
    let mut marks = 5u32;
    let mut at = 1001;
    for round in 0..6u64 {
        b.write_bytes(2000);
        b.at(round * 50);
        let mut capable = false;
        while let Some((header, _)) = b.poll() {
            capable |= header.ecn == ECT0;
        }
        assert_eq!(capable, round < 4, "round {round}");
        for _ in 0..2 {
            marks += 1;
            at += 1000;
            b.send(round * 50 + 30, ace(ack(5001, at), (marks & 7) as u8));
        }
    }
}

// RFC 9768 3.2.3.2.2
#[test]
fn a_first_flight_that_is_lost_goes_again_without_the_option() {
    let mut b = client(ecn(EcnMode::Accurate), 0b010, NOT_ECT);
    b.recv(0, &[ace(ack(1001, 5001), 0b010)]);
    b.write_bytes(10);
    let first = option(&[1, 0, 1]);
    b.recv(0, &[ace(ack(1001, 5001), 5).data(&bytes(1001, 10)).opt(first).ecn(ECT0)]);
    while b.stats.timeouts == 0 {
        let next = b.c.next_deadline().unwrap();
        b.at(u64::try_from((next - START).as_millis()).unwrap() + 1);
        let again = ace(ack(1001, 5001), 5).data(&bytes(1001, 10)).ecn(NOT_ECT);
        let (header, data) = b.poll().unwrap();
        again.check(&header, &data);
    }
    b.send(2000, ace(ack(5001, 1011), 5).data(&[1; 1000]).ecn(ECT0));
    b.send(2000, ace(ack(6001, 1011), 5).data(&[1; 1000]).ecn(ECT0));
    b.recv(2000, &[ace(ack(1011, 7001), 5).opt(Options::default())]);
}

// RFC 9768 5.1
#[test]
fn a_syn_cookie_comes_back_with_the_mode_it_stood_for() {
    let mode = |mode, classic, bits| {
        Negotiated::of_cookie(mode, classic, &ace(ack(5001, 1001), bits).header()).state
    };
    for bits in 0..8 {
        let accurate = if bits < 2 { EcnState::Off } else { EcnState::Accurate };
        assert_eq!(mode(EcnMode::Accept, false, bits), accurate);
        assert_eq!(mode(EcnMode::Accept, true, bits), EcnState::Classic);
        assert_eq!(mode(EcnMode::Off, true, bits), EcnState::Off);
    }
}

// RFC 9768 3.3.4
#[test]
fn super_segments_are_not_cut_by_hardware_that_takes_cwr_for_a_flag() {
    let mut b = accurate(ecn(EcnMode::Accurate));
    b.limits.gso_bytes_max = 60_000;
    b.write_bytes(9000);
    let (_, first) = b.poll().unwrap();
    assert!(first.len() > 1000);
    while b.poll().is_some() {}
    // The counter of the other direction reaches 6, which has the bit of CWR.
    b.send(30, ace(ack(5001, 9001), 5).data(b"x").ecn(CE));
    b.write_bytes(4000);
    let (header, data) = b.poll().unwrap();
    assert!(header.flags.has(Flags::CWR) && data.len() <= 1000);
}

// RFC 3168 6.1.2
// RFC 9293 3.4
#[test]
fn marks_count_after_gigabytes_without_one() {
    let mut b = classic(ecn(EcnMode::Classic));
    b.write_bytes(10_000);
    while b.poll().is_some() {}
    b.send(1, ack(5001, 2001));
    // As if acknowledged since: the number reacted to is that of the handshake.
    for _ in 0..3 {
        b.c.send_base += 1 << 30;
        b.c.snd_una += 1 << 30;
        b.c.snd_nxt += 1 << 30;
        b.c.sent.clear();
        b.c.send.clear();
        b.c.snd_nxt = b.c.snd_una;
        b.c.send_base = b.c.snd_una;
        b.write_bytes(10_000);
        while b.poll().is_some() {}
        let una = b.c.snd_una.0;
        b.send(2, ack(5001, una + 1000));
    }
    let (una, before) = (b.c.snd_una.0, b.c.windows().0);
    b.send(3, ack(5001, una + 1000).flag(Flags::ECE));
    assert!(b.c.windows().0 < before, "{:?}", b.c.windows());
}
