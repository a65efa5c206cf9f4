//! Peers that make us hold memory: holes, tiny segments, closed windows, optimistic ACKs.

use std::time::Duration;

use weft_stack::drop::DropReason;
use weft_stack::seq::SeqNum;
use weft_stack::socket::tcp::{TcpOption, TcpState};
use weft_stack::wire::tcp::{Flags, Header, Options};

use crate::fixture::{Victim, header, segment};
use crate::net::{A, ALIAS, B, Line, Net, at, pattern, v4};

fn victim(seed: u64, limit: usize) -> Victim {
    let net = Net::with(Line::default(), seed, 8192, |c| c.limits.tcp_bytes = limit);
    Victim::new(net, v4)
}

// RFC 2018 8
#[test]
fn holes_are_bounded_in_number_and_memory() {
    let mut v = victim(1, 512 << 20);
    let honest = v.honest();
    // One byte in two, then in between: every byte its own segment, most of them own holes.
    for i in 1..20_000u32 {
        v.forge(Header { seq: honest.seq + 2 * i, ..honest }, b"x");
    }
    let info = v.net.stacks[B].tcp_info(v.net.now, v.s).unwrap();
    let full = v.net.stacks[B].mib().drops.get(DropReason::TcpReassemblyFull);
    assert!(info.out_of_order <= 128, "{} bytes", info.out_of_order);
    assert!(full > 19_000, "{full}");
    assert!(v.net.stacks[B].memory().tcp_bytes < 64 << 10);
    assert!(v.net.pools[B].free() + 64 > v.net.pools[B].slots());
    v.net.run_for(Duration::from_millis(100));
    v.net.stacks[A].tcp_abort(v.net.now, v.c);
    v.net.run_for(Duration::from_millis(100));
    v.close();
}

#[test]
fn many_small_segments_behind_one_hole_cost_at_most_twice_the_buffer() {
    let mut v = victim(2, 512 << 20);
    v.net.stacks[B].tcp_set_option(v.net.now, v.s, TcpOption::RecvBuffer(64 << 10));
    let honest = v.honest();
    for i in 1..60_000u32 {
        v.forge(Header { seq: honest.seq + i, ..honest }, b"y");
    }
    let memory = v.net.stacks[B].memory().tcp_bytes;
    assert!(memory <= 128 << 10, "{memory}");
    // Neighbours share frames, so that all of it fits.
    let info = v.net.stacks[B].tcp_info(v.net.now, v.s).unwrap();
    assert_eq!(info.out_of_order, 59_999);
    v.net.stacks[A].tcp_abort(v.net.now, v.c);
    v.net.run_for(Duration::from_millis(100));
    v.close();
}

// RFC 9293 3.8.6.1 MUST-37
#[test]
fn readers_that_never_read_cost_the_sender_its_send_buffer_and_no_more() {
    let mut net = Net::with(Line::default(), 3, 8192, |c| {
        c.tcp.send_buffer = 128 << 10;
        c.tcp.send_buffer_max = 0;
        c.tcp.recv_buffer = 16 << 10;
        c.tcp.recv_buffer_max = 0;
    });
    let l = net.stacks[B].tcp_listen(net.now, at(v4(B), 80), 64).unwrap();
    let mut open = Vec::new();
    for _ in 0..32 {
        open.push(net.stacks[A].tcp_connect(net.now, None, at(v4(B), 80)).unwrap());
    }
    net.run_for(Duration::from_millis(200));
    let data = pattern(1 << 20);
    let mut accepted = Vec::new();
    while let Some(s) = net.stacks[B].tcp_accept(l) {
        accepted.push(s.id);
    }
    assert_eq!(accepted.len(), 32);
    for round in 0..100 {
        for s in &accepted {
            while let Ok(1..) = net.stacks[B].tcp_send(net.now, *s, &data) {}
        }
        net.run_for(Duration::from_millis(10 * round));
    }
    let held = net.stacks[B].memory().tcp_bytes;
    assert!(held <= 32 * (128 << 10), "{held}");
    assert!(net.stacks[B].mib().tcp.window_probes > 0);
    // Slow readers: a byte now and then does not make the sender dribble.
    let before = net.frames[B];
    for _ in 0..100 {
        for c in &open {
            let _n = net.stacks[A].tcp_recv(net.now, *c, &mut [0]);
        }
        net.run_for(Duration::from_millis(10));
    }
    assert!(net.frames[B] - before < 32 * 20, "{} frames", net.frames[B] - before);
    for id in open {
        net.stacks[A].tcp_abort(net.now, id);
    }
    net.run_for(Duration::from_millis(100));
    for id in accepted.into_iter().chain([l]) {
        net.stacks[B].tcp_close(net.now, id);
    }
    net.check_empty();
}

/// B's end of a connection whose peer is the test, with an MSS and a window of its choice.
struct Puppet {
    net: Net,
    s: weft_stack::socket::SocketId,
    seq: SeqNum,
    ack: SeqNum,
}

impl Puppet {
    fn new(mss: u16, window: u16) -> Puppet {
        let mut net = Net::new(Line::default(), 4);
        let l = net.stacks[B].tcp_listen(net.now, at(v4(B), 80), 4).unwrap();
        let options = Options { mss: Some(mss), ..Options::default() };
        let syn =
            Header { seq: SeqNum(7), flags: Flags::SYN, window, options, ..Header::default() };
        let mut p = Puppet { net, s: l, seq: SeqNum(7), ack: SeqNum(0) };
        let sent = p.say(syn, Duration::ZERO);
        p.seq = SeqNum(8);
        p.ack = sent[0].0.seq + 1;
        p.say(p.ack_of(p.ack, window), Duration::ZERO);
        p.s = p.net.stacks[B].tcp_accept(l).unwrap().id;
        p.net.stacks[B].tcp_close(p.net.now, l);
        p
    }

    fn ack_of(&self, ack: SeqNum, window: u16) -> Header {
        Header { seq: self.seq, ack, flags: Flags::ACK, window, ..Header::default() }
    }

    /// Sends, waits, and gives what B says: header and payload length.
    fn say(&mut self, header_out: Header, wait: Duration) -> Vec<(Header, usize)> {
        let frame = segment(at(v4(A), 4000), at(v4(B), 80), header_out, &[]);
        self.net.stacks[B].handle_frame(self.net.now, ALIAS, frame);
        let sent = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let seen = std::rc::Rc::clone(&sent);
        self.net.filter = Box::new(move |host, frame| {
            if host == B {
                let h = header(frame);
                seen.borrow_mut().push((h, frame.total_len() - 20 - h.len()));
            }
            false
        });
        self.net.pump();
        self.net.run_for(wait);
        sent.take()
    }
}

// RFC 9293 3.7.1 MUST-14
#[test]
fn a_tiny_segment_size_does_not_make_us_send_single_bytes() {
    let mut p = Puppet::new(1, 60_000);
    let data = pattern(10_000);
    p.net.stacks[B].tcp_send(p.net.now, p.s, &data).unwrap();
    let sent = p.say(p.ack_of(p.ack, 60_000), Duration::from_millis(5));
    assert!(sent.iter().all(|(_, len)| *len == 0 || *len >= 52), "{sent:?}");
    p.net.stacks[B].tcp_abort(p.net.now, p.s);
}

// RFC 9293 3.8.6.2.1
#[test]
fn a_window_of_a_few_bytes_does_not_make_us_send_them() {
    let mut p = Puppet::new(1460, 10);
    p.net.stacks[B].tcp_send(p.net.now, p.s, &pattern(10_000)).unwrap();
    let mut segments = 0;
    for _ in 0..100 {
        let sent = p.say(p.ack_of(p.ack, 10), Duration::from_millis(1));
        segments += sent.iter().filter(|(_, len)| *len > 0).count();
    }
    assert!(segments <= 4, "{segments}");
    p.net.stacks[B].tcp_abort(p.net.now, p.s);
}

// RFC 5961 5.2
#[test]
fn optimistic_acks_do_not_open_the_window() {
    let mut p = Puppet::new(1000, 60_000);
    p.net.stacks[B].tcp_send(p.net.now, p.s, &pattern(500_000)).unwrap();
    p.say(p.ack_of(p.ack, 60_000), Duration::ZERO);
    let before = p.net.stacks[B].tcp_info(p.net.now, p.s).unwrap();
    for ahead in 1..1000 {
        let nxt = p.ack + before.in_flight as u32;
        p.say(p.ack_of(nxt + ahead * 1000, 60_000), Duration::ZERO);
    }
    let after = p.net.stacks[B].tcp_info(p.net.now, p.s).unwrap();
    assert_eq!((after.cwnd, after.in_flight), (before.cwnd, before.in_flight));
    assert_eq!(p.net.stacks[B].mib().drops.get(DropReason::TcpAckInvalid), 999);
    p.net.stacks[B].tcp_abort(p.net.now, p.s);
}

// RFC 5681 3.1
#[test]
fn an_acknowledgement_in_a_thousand_pieces_grows_the_window_by_bytes() {
    let mut p = Puppet::new(1000, 60_000);
    p.net.stacks[B].tcp_send(p.net.now, p.s, &pattern(500_000)).unwrap();
    p.say(p.ack_of(p.ack, 60_000), Duration::ZERO);
    let before = p.net.stacks[B].tcp_info(p.net.now, p.s).unwrap();
    for _ in 0..1000 {
        p.ack += 1;
        p.say(p.ack_of(p.ack, 60_000), Duration::ZERO);
    }
    let after = p.net.stacks[B].tcp_info(p.net.now, p.s).unwrap();
    assert!(after.cwnd <= before.cwnd + 2000, "{} to {}", before.cwnd, after.cwnd);
    p.net.stacks[B].tcp_abort(p.net.now, p.s);
}

#[test]
fn the_memory_of_all_connections_has_a_limit() {
    let mut v = victim(5, 256 << 10);
    let data = pattern(4 << 20);
    let mut sent = 0;
    // Nobody reads.
    for _ in 0..200 {
        if let Ok(n) = v.net.stacks[A].tcp_send(v.net.now, v.c, &data[sent..]) {
            sent += n;
        }
        v.net.run_for(Duration::from_millis(50));
        for host in [A, B] {
            let held = v.net.stacks[host].memory().tcp_bytes;
            assert!(held <= 320 << 10, "{held} bytes at {host}");
        }
    }
    assert_ne!(v.net.stacks[A].tcp_state(v.c), TcpState::Closed);
    v.net.stacks[A].tcp_abort(v.net.now, v.c);
    v.net.run_for(Duration::from_millis(200));
    v.close();
}
