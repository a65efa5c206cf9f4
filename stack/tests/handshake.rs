//! How connections begin, end to end: SYN queue, cookies, Fast Open, deferred accept, TIME-WAIT.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used, clippy::missing_panics_doc)]

#[path = "attacks/fixture.rs"]
mod fixture;
mod net;

use std::net::SocketAddr;
use std::time::Duration;

use fixture::segment;
use net::{A, ALIAS, B, Line, Net, at, pattern, v4, v6};
use weft_stack::frame::Frame;
use weft_stack::seq::SeqNum;
use weft_stack::socket::SocketId;
use weft_stack::socket::tcp::{ConnectError, ShutdownHow, TcpError, TcpOption, TcpState};
use weft_stack::stack::{FastOpen, SynCookies};
use weft_stack::wire::tcp::{Flags, Header};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn header(frame: &Frame) -> Header {
    let p = frame.data();
    let at = if p[0] >> 4 == 4 { 20 } else { 40 };
    Header::parse(&p[at..]).unwrap().0
}

fn is_syn(frame: &Frame) -> bool {
    header(frame).flags.has(Flags::SYN)
}

fn listen(net: &mut Net, addr: SocketAddr, backlog: usize) -> SocketId {
    net.stacks[B].tcp_listen(net.now, addr, backlog).unwrap()
}

fn connect(net: &mut Net, addr: SocketAddr) -> SocketId {
    net.stacks[A].tcp_connect(net.now, None, addr).unwrap()
}

fn accept(net: &mut Net, l: SocketId) -> Option<SocketId> {
    net.stacks[B].tcp_accept(l).map(|a| a.id)
}

fn read(net: &mut Net, host: usize, id: SocketId) -> Vec<u8> {
    let mut out = vec![0; 100_000];
    let n = net.stacks[host].tcp_recv(net.now, id, &mut out).unwrap_or(0);
    out.truncate(n);
    out
}

fn close_all(net: &mut Net, a: &[SocketId], b: &[SocketId]) {
    for id in a {
        net.stacks[A].tcp_close(net.now, *id);
    }
    for id in b {
        net.stacks[B].tcp_close(net.now, *id);
    }
    net.check_empty();
}

#[test]
fn a_lost_syn_ack_is_sent_again_and_the_queue_shows_the_handshake() {
    for addr in [v4, v6] {
        let mut net = Net::new(Line::default(), 1);
        let l = listen(&mut net, at(addr(B), 80), 4);
        let mut lost = 2;
        net.filter = Box::new(move |host, frame| {
            let lose = host == B && is_syn(frame) && lost > 0;
            lost -= i32::from(lose);
            !lose
        });
        let c = connect(&mut net, at(addr(B), 80));
        net.run_for(ms(500));
        let mut states = Vec::new();
        net.stacks[B].for_each_socket(|s| states.push((s.state, s.peer.port() > 0)));
        assert_eq!(states, [("LISTEN", false), ("SYN-RECV", true)]);
        assert_eq!(net.stacks[B].memory().tcp_connections, 1);
        net.run_for(ms(3500));
        assert_eq!(net.stacks[A].tcp_state(c), TcpState::Established);
        let s = accept(&mut net, l).unwrap();
        net.transfer((A, c), s, &pattern(200_000));
        assert_eq!(net.stacks[B].mib().tcp.passive_opens, 1);
        assert!(net.stacks[B].mib().tcp.retrans_segs >= 2);
        let repeated = [A, B].map(|host| net.stacks[host].mib().tcp.syn_retrans);
        assert_eq!(repeated[B], net.stacks[B].mib().tcp.retrans_segs);
        assert!(repeated[A] > 0, "nobody answered the client in time");
        close_all(&mut net, &[c], &[s, l]);
    }
}

#[test]
fn a_full_accept_queue_keeps_the_handshake_until_there_is_room() {
    let mut net = Net::new(Line::default(), 2);
    let l = listen(&mut net, at(v4(B), 80), 1);
    let first = connect(&mut net, at(v4(B), 80));
    // Both SYNs arrive before either ACK.
    let second = connect(&mut net, at(v4(B), 80));
    net.run_for(ms(500));
    assert_eq!(net.stacks[B].mib().tcp.listen_overflows, 1);
    let s1 = accept(&mut net, l).unwrap();
    assert!(accept(&mut net, l).is_none());
    net.run_for(ms(2000));
    let s2 = accept(&mut net, l).expect("the SYN-ACK went out again");
    close_all(&mut net, &[first, second], &[s1, s2, l]);
}

// RFC 4987 3.6
#[test]
fn with_a_full_queue_cookies_keep_window_scale_and_sack() {
    for mode in [SynCookies::Pressure, SynCookies::Always] {
        for addr in [v4, v6] {
            let mut net = Net::with(Line::default(), 3, 4096, |c| {
                c.tcp.syn_cookies = mode;
                c.limits.tcp_half_open = 0;
            });
            let l = listen(&mut net, at(addr(B), 80), 4);
            let c = connect(&mut net, at(addr(B), 80));
            net.run_for(ms(9));
            assert_eq!(net.stacks[B].memory().tcp_connections, 0, "nothing is kept");
            net.run_for(ms(50));
            let s = accept(&mut net, l).unwrap();
            let (ours, theirs) = (
                net.stacks[A].tcp_info(net.now, c).unwrap(),
                net.stacks[B].tcp_info(net.now, s).unwrap(),
            );
            assert!(theirs.sack && theirs.timestamps && ours.sack && ours.timestamps);
            assert_eq!(theirs.window_scale, ours.window_scale.map(|(a, b)| (b, a)));
            assert!(theirs.window_scale.is_some());
            net.transfer((A, c), s, &pattern(300_000));
            net.transfer((B, s), c, &pattern(300_000));
            let stats = &net.stacks[B].mib().tcp;
            let seen = (stats.syncookies_sent, stats.syncookies_recv, stats.syncookies_failed);
            assert_eq!(seen, (1, 1, 0));
            close_all(&mut net, &[c], &[s, l]);
        }
    }
}

#[test]
fn a_cookie_whose_ack_was_lost_is_brought_back_by_the_data() {
    let mut net = Net::with(Line::default(), 3, 4096, |c| c.tcp.syn_cookies = SynCookies::Always);
    let l = listen(&mut net, at(v4(B), 80), 4);
    let mut lost = 1;
    net.filter = Box::new(move |host, frame| {
        let lose = host == A && !is_syn(frame) && lost > 0;
        lost -= i32::from(lose);
        !lose
    });
    let c = connect(&mut net, at(v4(B), 80));
    net.run_for(ms(50));
    assert!(accept(&mut net, l).is_none());
    net.stacks[A].tcp_send(net.now, c, b"hello").unwrap();
    net.run_for(ms(50));
    let s = accept(&mut net, l).unwrap();
    assert_eq!(read(&mut net, B, s), b"hello");
    close_all(&mut net, &[c], &[s, l]);
}

#[test]
fn acks_are_taken_for_cookies_only_while_cookies_are_out() {
    let mut net = Net::new(Line::default(), 4);
    let l = listen(&mut net, at(v4(B), 80), 4);
    let (c, s) = {
        let c = connect(&mut net, at(v4(B), 80));
        net.run_for(ms(50));
        (c, accept(&mut net, l).unwrap())
    };
    // B forgets the connection; what A sends is an ACK for a listener.
    net.filter = Box::new(|host, _| host == A);
    net.stacks[B].tcp_abort(net.now, s);
    net.pump();
    net.filter = Box::new(|_, _| true);
    net.stacks[A].tcp_send(net.now, c, b"?").unwrap();
    net.run_for(ms(50));
    assert_eq!(net.stacks[B].mib().tcp.syncookies_failed, 0);
    assert_eq!(net.stacks[A].tcp_state(c), TcpState::Closed);
    close_all(&mut net, &[c], &[l]);
}

#[test]
fn accept_is_deferred_until_data_comes_or_time_runs_out() {
    let mut net = Net::new(Line::default(), 5);
    let l = listen(&mut net, at(v4(B), 80), 4);
    let defer = TcpOption::DeferAccept(Some(Duration::from_secs(5)));
    assert!(net.stacks[B].tcp_set_option(net.now, l, defer));
    let talker = connect(&mut net, at(v4(B), 80));
    let silent = connect(&mut net, at(v4(B), 80));
    net.run_for(ms(500));
    assert_eq!(net.stacks[A].tcp_state(talker), TcpState::Established);
    assert!(accept(&mut net, l).is_none());
    net.stacks[A].tcp_send(net.now, talker, b"GET").unwrap();
    net.run_for(ms(100));
    let s1 = accept(&mut net, l).unwrap();
    assert_eq!(read(&mut net, B, s1), b"GET");
    net.run_for(Duration::from_secs(5));
    assert!(accept(&mut net, l).is_none());
    net.run_for(Duration::from_secs(2));
    let s2 = accept(&mut net, l).expect("seven seconds are more than five");
    net.transfer((A, silent), s2, b"late");
    // No SYN-ACK was sent again for the silent one.
    assert_eq!(net.stacks[B].mib().tcp.retrans_segs, 0);
    close_all(&mut net, &[talker, silent], &[s1, s2, l]);
}

#[test]
fn a_fin_ends_the_deferral() {
    let mut net = Net::new(Line::default(), 5);
    let l = listen(&mut net, at(v4(B), 80), 4);
    let defer = TcpOption::DeferAccept(Some(Duration::from_mins(1)));
    assert!(net.stacks[B].tcp_set_option(net.now, l, defer));
    let c = connect(&mut net, at(v4(B), 80));
    net.run_for(ms(100));
    net.stacks[A].tcp_shutdown(net.now, c, ShutdownHow::Write);
    net.run_for(ms(100));
    let s = accept(&mut net, l).unwrap();
    assert_eq!(net.stacks[B].tcp_state(s), TcpState::CloseWait);
    close_all(&mut net, &[c], &[s, l]);
}

fn fast_open_net(seed: u64) -> Net {
    Net::with(Line::default(), seed, 4096, |c| c.tcp.fast_open = FastOpen::Both)
}

/// Connects with `data`, and says whether it was there after one way.
fn open_with(net: &mut Net, l: SocketId, data: &[u8]) -> (SocketId, SocketId, bool) {
    let to = net.stacks[B].tcp_addrs(l).unwrap().0;
    let (c, taken) = net.stacks[A].tcp_connect_with(net.now, None, to, data).unwrap();
    assert_eq!(taken, data.len());
    net.run_for(ms(6));
    let early = accept(net, l);
    if let Some(s) = early {
        assert_eq!(net.stacks[B].tcp_state(s), TcpState::SynReceived);
        assert_eq!(read(net, B, s), data[..data.len().min(1400)]);
        return (c, s, true);
    }
    net.run_for(ms(3000));
    let s = accept(net, l).unwrap();
    let mut got = Vec::new();
    while got.len() < data.len() {
        got.extend(read(net, B, s));
        net.run_for(ms(50));
    }
    assert!(got == data);
    (c, s, false)
}

// RFC 7413 3.1
// RFC 7413 4.2.1
// RFC 7413 4.2.2
#[test]
fn fast_open_gets_a_cookie_first_and_then_delivers_data_with_the_syn() {
    for addr in [v4, v6] {
        let mut net = fast_open_net(6);
        let l = listen(&mut net, at(addr(B), 80), 8);
        let (c1, s1, early) = open_with(&mut net, l, b"first");
        assert!(!early);
        let (c2, s2, early) = open_with(&mut net, l, b"second");
        assert!(early, "the cookie is known");
        // The server answers before the handshake is over.
        net.stacks[B].tcp_send(net.now, s2, b"answer").unwrap();
        net.run_for(ms(6));
        assert_eq!(read(&mut net, A, c2), b"answer");
        net.run_for(ms(100));
        assert_eq!(net.stacks[B].tcp_state(s2), TcpState::Established);
        assert!(net.stacks[A].tcp_info(net.now, c2).unwrap().fast_open);
        assert!(net.stacks[B].tcp_info(net.now, s2).unwrap().fast_open);
        assert!(!net.stacks[A].tcp_info(net.now, c1).unwrap().fast_open);
        net.transfer((A, c2), s2, &pattern(100_000));
        net.transfer((B, s2), c2, &pattern(100_000));
        let (a, b) = (&net.stacks[A].mib().tcp, &net.stacks[B].mib().tcp);
        assert_eq!((a.fast_open_active, a.fast_open_active_fails), (1, 0));
        assert_eq!((b.fast_open_cookies_requested, b.fast_open_passive), (1, 1));
        assert_eq!((a.retrans_segs, b.retrans_segs), (0, 0));
        close_all(&mut net, &[c1, c2], &[s1, s2, l]);
    }
}

// RFC 7413 4.1.3
#[test]
fn data_beyond_one_segment_follows_the_handshake() {
    let mut net = fast_open_net(7);
    let l = listen(&mut net, at(v4(B), 80), 8);
    let (c1, s1, _) = open_with(&mut net, l, b"first");
    let data = pattern(20_000);
    let to = at(v4(B), 80);
    let (c, taken) = net.stacks[A].tcp_connect_with(net.now, None, to, &data).unwrap();
    assert_eq!(taken, data.len());
    net.run_for(ms(6));
    let s = accept(&mut net, l).unwrap();
    let mut got = read(&mut net, B, s);
    assert!((1300..1460).contains(&got.len()), "{}", got.len());
    net.run_for(ms(200));
    while got.len() < data.len() {
        got.extend(read(&mut net, B, s));
        net.run_for(ms(50));
    }
    assert!(got == data);
    close_all(&mut net, &[c1, c], &[s1, s, l]);
}

// RFC 7413 4.1.3.1
#[test]
fn a_path_that_eats_syns_with_data_costs_one_timeout_and_is_remembered() {
    let mut net = fast_open_net(8);
    let l = listen(&mut net, at(v4(B), 80), 8);
    let (c1, s1, _) = open_with(&mut net, l, b"first");
    net.filter = Box::new(|host, frame| {
        !(host == A && is_syn(frame) && header(frame).options.fast_open.is_some())
    });
    let before = net.now;
    let (c2, s2, early) = open_with(&mut net, l, b"second");
    assert!(!early && net.now - before > Duration::from_secs(1));
    let (c3, s3, early) = open_with(&mut net, l, b"third");
    assert!(!early);
    let a = &net.stacks[A].mib().tcp;
    assert_eq!((a.fast_open_blackholes, a.fast_open_active_fails, a.retrans_segs), (1, 1, 1));
    close_all(&mut net, &[c1, c2, c3], &[s1, s2, s3, l]);
}

// RFC 7413 4.2.2
#[test]
fn a_foreign_cookie_is_answered_with_a_good_one_and_the_data_comes_again() {
    let mut net = fast_open_net(9);
    let l = listen(&mut net, at(v4(B), 80), 8);
    let (c1, s1, _) = open_with(&mut net, l, b"first");
    // A day later the key has changed twice.
    net.run_for(Duration::from_hours(25));
    let (c2, s2, early) = open_with(&mut net, l, b"second");
    assert!(!early);
    let (c3, s3, early) = open_with(&mut net, l, b"third");
    assert!(early);
    net.run_for(ms(100));
    assert_eq!(net.stacks[B].mib().tcp.fast_open_passive_fails, 1);
    assert_eq!(net.stacks[A].mib().tcp.fast_open_active_fails, 1);
    close_all(&mut net, &[c1, c2, c3], &[s1, s2, s3, l]);
}

// RFC 7413 5.1
#[test]
fn pending_fast_opens_are_limited_and_counted() {
    let mut net = Net::with(Line::default(), 10, 4096, |c| {
        c.tcp.fast_open = FastOpen::Both;
        c.limits.tcp_fast_open = 2;
    });
    let l = listen(&mut net, at(v4(B), 80), 16);
    let (c1, s1, _) = open_with(&mut net, l, b"first");
    // SYN-ACKs are lost: the connections stay pending.
    net.filter = Box::new(|host, frame| !(host == B && is_syn(frame)));
    let mut open = vec![c1];
    for _ in 0..5 {
        let to = at(v4(B), 80);
        open.push(net.stacks[A].tcp_connect_with(net.now, None, to, b"x").unwrap().0);
    }
    net.run_for(ms(10));
    assert_eq!(net.stacks[B].mib().tcp.fast_open_overflows, 3);
    let mut accepted = vec![s1, l];
    while let Some(s) = accept(&mut net, l) {
        accepted.push(s);
    }
    assert_eq!(accepted.len(), 4);
    net.filter = Box::new(|_, _| true);
    net.run_for(Duration::from_secs(10));
    while let Some(s) = accept(&mut net, l) {
        accepted.push(s);
    }
    assert_eq!(accepted.len(), 7);
    // The client took the lost SYN-ACKs for a path that eats SYNs with data.
    net.run_for(Duration::from_hours(9));
    let (c, s, early) = open_with(&mut net, l, b"again");
    assert!(early, "none is pending any more");
    open.push(c);
    accepted.push(s);
    close_all(&mut net, &open, &accepted);
}

// RFC 7413 2
#[test]
fn without_fast_open_data_of_a_connect_follows_the_handshake() {
    let mut net = Net::new(Line::default(), 11);
    let l = listen(&mut net, at(v4(B), 80), 8);
    let (c, s, early) = open_with(&mut net, l, b"data");
    assert!(!early && !net.stacks[A].tcp_info(net.now, c).unwrap().fast_open);
    close_all(&mut net, &[c], &[s, l]);
}

#[test]
fn fast_open_survives_a_bad_line() {
    for seed in 0..16 {
        let line = Line { loss: 150, duplicate: 50, reorder: 100, ..Line::default() };
        let mut net = Net::with(line, 100 + seed, 4096, |c| c.tcp.fast_open = FastOpen::Both);
        let l = listen(&mut net, at(v4(B), 80), 8);
        for _ in 0..4 {
            let data = pattern(5000);
            let to = at(v4(B), 80);
            let (c, _) = net.stacks[A].tcp_connect_with(net.now, None, to, &data).unwrap();
            let mut s = None;
            let mut got = Vec::new();
            net.run_until(Duration::from_mins(10), |net| {
                s = s.or_else(|| net.stacks[B].tcp_accept(l).map(|a| a.id));
                if let Some(s) = s {
                    got.extend(read(net, B, s));
                }
                got.len() >= data.len()
            });
            assert!(got == data, "seed {seed}: {} bytes", got.len());
            net.stacks[A].tcp_close(net.now, c);
            net.stacks[B].tcp_close(net.now, s.unwrap());
        }
        net.stacks[B].tcp_close(net.now, l);
        net.check_empty();
    }
}

/// A connection from a chosen port that A closed first: A keeps TIME-WAIT.
fn into_time_wait(net: &mut Net, l: SocketId, port: u16) {
    let from = Some(at(v4(A), port));
    let c = net.stacks[A].tcp_connect(net.now, from, at(v4(B), 80)).unwrap();
    net.run_for(ms(50));
    let s = accept(net, l).unwrap();
    net.stacks[A].tcp_close(net.now, c);
    net.run_for(ms(50));
    net.stacks[B].tcp_close(net.now, s);
    net.run_for(ms(50));
    assert_eq!(net.stacks[A].memory().tcp_connections, 1);
}

// RFC 6191 2
#[test]
fn a_connect_takes_its_own_time_wait_over_after_a_second() {
    let mut net = Net::new(Line::default(), 20);
    let l = listen(&mut net, at(v4(B), 80), 4);
    into_time_wait(&mut net, l, 5000);
    let again =
        |net: &mut Net| net.stacks[A].tcp_connect(net.now, Some(at(v4(A), 5000)), at(v4(B), 80));
    assert_eq!(again(&mut net), Err(ConnectError::InUse));
    net.run_for(ms(1000));
    let c = again(&mut net).unwrap();
    net.run_for(ms(50));
    let s = accept(&mut net, l).unwrap();
    net.transfer((A, c), s, &pattern(50_000));
    assert_eq!(net.stacks[A].mib().tcp.time_waits_reused, 1);
    close_all(&mut net, &[c], &[s, l]);
}

// RFC 6191 2
// RFC 9293 3.10.7.4
#[test]
fn a_newer_syn_takes_time_wait_over_and_an_old_one_does_not() {
    let mut net = Net::new(Line::default(), 21);
    let l = listen(&mut net, at(v4(B), 80), 4);
    let open = |net: &mut Net| {
        let c = net.stacks[A].tcp_connect(net.now, Some(at(v4(A), 5000)), at(v4(B), 80)).unwrap();
        net.run_for(ms(50));
        (c, accept(net, l).unwrap())
    };
    let (c, s) = open(&mut net);
    // The server closes first and keeps TIME-WAIT.
    net.stacks[B].tcp_close(net.now, s);
    net.run_for(ms(50));
    net.stacks[A].tcp_close(net.now, c);
    net.run_for(ms(50));
    assert_eq!(net.stacks[B].memory().tcp_connections, 1);
    let (c, s) = open(&mut net);
    assert_eq!(net.stacks[B].mib().tcp.time_waits_reused, 1);
    net.transfer((A, c), s, &pattern(50_000));
    close_all(&mut net, &[c], &[s, l]);
}

// RFC 9293 3.6.1
#[test]
fn time_wait_gives_way_to_connections_and_is_counted() {
    let mut net = Net::with(Line::default(), 22, 4096, |c| c.limits.tcp_connections = 4);
    let l = listen(&mut net, at(v4(B), 80), 4);
    for port in 5000..5010 {
        let from = Some(at(v4(A), port));
        let c = net.stacks[A].tcp_connect(net.now, from, at(v4(B), 80)).unwrap();
        net.run_for(ms(50));
        let s = accept(&mut net, l).unwrap();
        net.stacks[A].tcp_close(net.now, c);
        net.run_for(ms(50));
        net.stacks[B].tcp_close(net.now, s);
        net.run_for(ms(50));
        assert!(net.stacks[A].memory().tcp_connections <= 4);
    }
    assert_eq!(net.stacks[A].mib().tcp.time_wait_overflows, 6);
    close_all(&mut net, &[], &[l]);
}

/// The headers B sends at once to a segment for `port` from a peer that is no stack.
fn say(net: &mut Net, port: u16, flags: Flags, (seq, ack): (u32, u32), data: &[u8]) -> Vec<Header> {
    let sent = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let seen = std::rc::Rc::clone(&sent);
    net.filter = Box::new(move |host, frame| {
        if host == B {
            seen.borrow_mut().push(header(frame));
        }
        false
    });
    let (seq, ack) = (SeqNum(seq), SeqNum(ack));
    let segment_out = Header { seq, ack, flags, window: 30_000, ..Header::default() };
    let frame = segment(at(v4(A), 7000), at(v4(B), port), segment_out, data);
    net.stacks[B].handle_frame(net.now, ALIAS, frame);
    net.pump();
    sent.take()
}

const SYN_ACK: Flags = Flags::SYN.with(Flags::ACK);
const FIN_ACK: Flags = Flags::FIN.with(Flags::ACK);
const RST_ACK: Flags = Flags::RST.with(Flags::ACK);

/// One answer: a RST with these numbers.
fn check_reset(said: &[Header], flags: Flags, seq: u32, ack: u32) {
    let got: Vec<_> = said.iter().map(|h| (h.flags, h.seq.0, h.ack.0)).collect();
    assert_eq!(got, [(flags, seq, ack)]);
}

// RFC 9293 3.10.7.1
// RFC 9293 3.5.2
#[test]
fn a_closed_port_answers_everything_but_resets_with_a_reset() {
    let mut net = Net::new(Line::default(), 30);
    let mut closed = |flags, numbers, data: &[u8]| say(&mut net, 9, flags, numbers, data);
    check_reset(&closed(Flags::SYN, (500, 0), b""), RST_ACK, 0, 501);
    check_reset(&closed(Flags::SYN, (500, 0), b"data"), RST_ACK, 0, 505);
    check_reset(&closed(Flags::FIN, (500, 0), b"data"), RST_ACK, 0, 505);
    check_reset(&closed(Flags::ACK, (500, 77), b""), Flags::RST, 77, 0);
    check_reset(&closed(SYN_ACK, (500, 77), b""), Flags::RST, 77, 0);
    check_reset(&closed(FIN_ACK, (500, 77), b"data"), Flags::RST, 77, 0);
    assert!(closed(Flags::RST, (500, 0), b"").is_empty());
    assert!(closed(RST_ACK, (500, 77), b"").is_empty());
}

// RFC 9293 3.10.7.2
#[test]
fn listen_takes_a_syn_refuses_acks_and_ignores_the_rest() {
    let mut net = Net::new(Line::default(), 31);
    let l = listen(&mut net, at(v4(B), 80), 4);
    let mut listening = |flags, numbers, data: &[u8]| say(&mut net, 80, flags, numbers, data);
    assert!(listening(Flags::RST, (500, 0), b"").is_empty());
    assert!(listening(RST_ACK, (500, 77), b"").is_empty());
    check_reset(&listening(Flags::ACK, (500, 77), b""), Flags::RST, 77, 0);
    check_reset(&listening(FIN_ACK, (500, 77), b"data"), Flags::RST, 77, 0);
    check_reset(&listening(SYN_ACK, (500, 77), b""), Flags::RST, 77, 0);
    assert!(listening(Flags::FIN, (500, 0), b"data").is_empty());
    assert!(listening(Flags::default(), (500, 0), b"data").is_empty());
    assert!(listening(Flags::SYN.with(Flags::FIN), (500, 0), b"").is_empty());
    // Text of a SYN comes again after the handshake.
    let said = listening(Flags::SYN, (500, 0), b"data");
    assert_eq!((said[0].flags, said[0].ack.0), (SYN_ACK, 501));
    close_all(&mut net, &[], &[l]);
}

// RFC 9293 3.5 MUST-11
// RFC 9293 3.10.7.4
#[test]
fn a_reset_in_syn_received_goes_back_to_listen_after_a_passive_open_and_fails_an_active_one() {
    let mut net = Net::new(Line::default(), 32);
    let l = listen(&mut net, at(v4(B), 80), 4);
    say(&mut net, 80, Flags::SYN, (500, 0), b"");
    assert_eq!(net.stacks[B].memory().tcp_connections, 1);
    assert!(say(&mut net, 80, Flags::RST, (501, 0), b"").is_empty());
    assert_eq!(net.stacks[B].memory().tcp_connections, 0);
    assert_eq!(net.stacks[B].tcp_state(l), TcpState::Listen);
    let said = say(&mut net, 80, Flags::SYN, (900, 0), b"");
    assert_eq!((said[0].flags, said[0].ack.0), (SYN_ACK, 901));
    // The active side of a simultaneous open.
    let from = Some(at(v4(B), 90));
    let c = net.stacks[B].tcp_connect(net.now, from, at(v4(A), 7000)).unwrap();
    let said = say(&mut net, 90, Flags::SYN, (500, 0), b"");
    assert_eq!(said.last().unwrap().flags, SYN_ACK);
    assert_eq!(net.stacks[B].tcp_state(c), TcpState::SynReceived);
    say(&mut net, 90, Flags::RST, (501, 0), b"");
    assert_eq!(net.stacks[B].tcp_take_error(c), Some(TcpError::Refused));
    close_all(&mut net, &[], &[c, l]);
}

// RFC 9293 3.6.1 MUST-13
#[test]
fn who_closes_first_waits_for_two_segment_lifetimes() {
    let mut net = Net::new(Line::default(), 33);
    let l = listen(&mut net, at(v4(B), 80), 4);
    into_time_wait(&mut net, l, 5000);
    net.run_for(Duration::from_millis(59_800));
    assert_eq!(net.stacks[A].memory().tcp_connections, 1);
    assert_eq!(net.stacks[B].memory().tcp_connections, 0);
    net.run_for(Duration::from_millis(400));
    assert_eq!(net.stacks[A].memory().tcp_connections, 0);
    close_all(&mut net, &[], &[l]);
}

// RFC 9293 3.7.1 MUST-16
#[test]
fn a_segment_size_below_those_of_cookies_is_remembered_or_refused() {
    for (mode, half_open, refused) in
        [(SynCookies::Always, 16, false), (SynCookies::Pressure, 0, true)]
    {
        let mut net = Net::with(Line::default(), 3, 4096, |c| {
            c.tcp.syn_cookies = mode;
            c.limits.tcp_half_open = half_open;
        });
        let l = listen(&mut net, at(v4(B), 80), 4);
        let c = connect(&mut net, at(v4(B), 80));
        net.stacks[A].tcp_set_option(net.now, c, TcpOption::MaxSegment(Some(300)));
        net.run_for(ms(50));
        let stats = &net.stacks[B].mib().tcp;
        assert_eq!((stats.syncookies_sent, stats.syn_queue_overflows > 0), (0, refused));
        if let Some(s) = accept(&mut net, l) {
            assert!(!refused);
            assert!(net.stacks[B].tcp_info(net.now, s).unwrap().mss <= 288);
            close_all(&mut net, &[c], &[s, l]);
        } else {
            assert!(refused);
        }
    }
}
