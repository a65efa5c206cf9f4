//! TCP end to end: two stacks over a line that loses, delays, reorders and duplicates.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::missing_panics_doc)]

mod net;

use std::time::Duration;

use net::{A, B, Line, Net, at, pattern, v4, v6};
use weft_stack::Stack;
use weft_stack::drop::DropReason;
use weft_stack::frame::Frame;
use weft_stack::socket::tcp::{
    ConnectError, ListenError, ShutdownHow, TcpError, TcpOption, TcpRecvError, TcpSendError,
    TcpState,
};
use weft_stack::socket::{Event, Readiness, SocketId};
use weft_stack::stack::{Change, SynCookies, TxBurst};

#[test]
fn bulk_arrives_in_both_directions_over_v4_and_v6() {
    for addr in [v4, v6] {
        let mut net = Net::new(Line::default(), 1);
        let (c, s) = net.connected(addr);
        let data = pattern(3_000_000);
        net.transfer((A, c), s, &data);
        net.transfer((B, s), c, &data[..1_000_000]);
        net.stacks[A].tcp_close(net.now, c);
        net.stacks[B].tcp_close(net.now, s);
        net.check_empty();
        let stats = &net.stacks[A].mib().tcp;
        assert_eq!(
            (stats.retrans_segs, stats.out_octets, stats.in_octets),
            (0, 3_000_000, 1_000_000)
        );
    }
}

#[test]
fn super_segments_cross_whole() {
    let mut net = Net::new(Line { gso: 65_000, ..Line::default() }, 1);
    let (c, s) = net.connected(v4);
    net.transfer((A, c), s, &pattern(5_000_000));
    assert!(net.frames[A] < 1000, "{} frames", net.frames[A]);
    net.transfer((B, s), c, &pattern(1000));
    net.stacks[A].tcp_close(net.now, c);
    net.stacks[B].tcp_close(net.now, s);
    net.check_empty();
}

#[test]
fn nothing_is_lost_over_a_bad_line() {
    for seed in 0..8 {
        let line = Line {
            loss: 50,
            duplicate: 20,
            reorder: 50,
            ethernet: seed % 2 == 0,
            ..Line::default()
        };
        let mut net = Net::new(line, seed);
        let (c, s) = net.connected(if seed % 4 < 2 { v4 } else { v6 });
        net.transfer((A, c), s, &pattern(400_000));
        net.transfer((B, s), c, &pattern(200_000));
        net.stacks[A].tcp_close(net.now, c);
        net.stacks[B].tcp_close(net.now, s);
        net.run_for(Duration::from_mins(1));
        net.check_empty();
        assert!(net.stacks[A].mib().tcp.retrans_segs > 0);
    }
}

fn byte_count(net: &mut Net, host: usize, id: SocketId) -> usize {
    let mut total = 0;
    let mut out = [0; 10_000];
    while let Ok(n) = net.stacks[host].tcp_recv(net.now, id, &mut out) {
        if n == 0 {
            break;
        }
        total += n;
    }
    total
}

fn settle(net: &mut Net, ms: u64) {
    net.run_for(Duration::from_millis(ms));
}

#[test]
fn a_reader_that_stops_closes_the_window_and_reopens_it() {
    let mut net = Net::new(Line::default(), 3);
    let (c, s) = net.connected(v4);
    let data = pattern(3_000_000);
    let mut sent = 0;
    for _ in 0..200 {
        while let Ok(n) = net.stacks[A].tcp_send(net.now, c, &data[sent..]) {
            sent += n;
        }
        settle(&mut net, 100);
    }
    let info = net.stacks[A].tcp_info(net.now, c).unwrap();
    assert_eq!(info.send_window, 0);
    assert!(net.stacks[A].mib().tcp.window_probes > 0);
    // The edge is rounded up to the unit of the window scale.
    let info = net.stacks[B].tcp_info(net.now, s).unwrap();
    let unit = 1 << info.window_scale.unwrap().1;
    let unread = info.unread;
    assert!((info.recv_buffer..=info.recv_buffer + unit).contains(&unread), "{unread}");
    let mut got = Vec::new();
    let mut out = vec![0; 70_000];
    while got.len() < data.len() {
        while let Ok(n) = net.stacks[B].tcp_recv(net.now, s, &mut out) {
            got.extend_from_slice(&out[..n]);
        }
        while sent < data.len() {
            let Ok(n) = net.stacks[A].tcp_send(net.now, c, &data[sent..]) else { break };
            sent += n;
        }
        settle(&mut net, 20);
    }
    assert!(got == data);
    net.stacks[A].tcp_close(net.now, c);
    net.stacks[B].tcp_close(net.now, s);
    net.check_empty();
}

#[test]
fn a_handle_given_away_may_be_traded_for_that_of_a_connection_that_came_to_be() {
    let mut net = Net::new(Line::default(), 1);
    let listener = net.stacks[B].tcp_listen(net.now, at(v4(B), 80), 8).unwrap();
    let nobody = at("10.0.0.9".parse().unwrap(), 80);
    let given = net.stacks[A].tcp_connect(net.now, None, nobody).unwrap();
    let other = net.stacks[A].tcp_connect(net.now, None, at(v4(B), 80)).unwrap();
    settle(&mut net, 100);
    let states = |net: &Net| [given, other].map(|id| net.stacks[A].tcp_state(id));
    assert_eq!(states(&net), [TcpState::SynSent, TcpState::Established]);
    let frames = net.frames[A];
    net.events[A].clear();
    assert!(net.stacks[A].tcp_exchange(net.now, given, other));
    assert_eq!(states(&net), [TcpState::Established, TcpState::SynSent]);
    settle(&mut net, 1);
    let writable = |event: &Event| match event {
        Event::Socket { id, ready } => *id == given && ready.contains(Readiness::WRITABLE),
        _ => false,
    };
    assert!(net.events[A].iter().any(writable), "it is told as if it had been so all along");
    // The one that found nobody ends without a packet; its handle means nothing any more.
    net.stacks[A].tcp_abort(net.now, other);
    assert!(!net.stacks[A].tcp_exchange(net.now, given, other));
    assert!(!net.stacks[A].tcp_exchange(net.now, given, given));
    settle(&mut net, 1);
    assert_eq!(net.frames[A], frames);
    let accepted = net.stacks[B].tcp_accept(listener).unwrap().id;
    net.stacks[B].tcp_close(net.now, listener);
    // Segments and timers find it.
    net.line.loss = 50;
    net.transfer((A, given), accepted, &pattern(300_000));
    net.transfer((B, accepted), given, &pattern(100_000));
    assert!(net.stacks[A].mib().tcp.retrans_segs > 0);
    net.line.loss = 0;
    net.stacks[A].tcp_close(net.now, given);
    net.stacks[B].tcp_close(net.now, accepted);
    net.check_empty();
}

#[test]
fn an_abort_resets_the_peer_and_leaves_nothing() {
    let mut net = Net::new(Line::default(), 4);
    let (c, s) = net.connected(v6);
    net.stacks[A].tcp_abort(net.now, c);
    settle(&mut net, 50);
    let error = net.stacks[B].tcp_recv(net.now, s, &mut [0; 8]);
    assert_eq!(error, Err(TcpRecvError::Failed(TcpError::Reset)));
    assert!(net.stacks[B].readiness(s).contains(Readiness::ERROR));
    assert_eq!(net.stacks[B].tcp_take_error(s), Some(TcpError::Reset));
    net.stacks[B].tcp_close(net.now, s);
    net.check_empty();
    assert_eq!(net.stacks[A].mib().tcp.out_rsts, 1);
}

#[test]
fn closing_with_unread_data_resets_the_peer() {
    let mut net = Net::new(Line::default(), 4);
    let (c, s) = net.connected(v4);
    net.stacks[A].tcp_send(net.now, c, b"unread").unwrap();
    settle(&mut net, 50);
    net.stacks[B].tcp_close(net.now, s);
    settle(&mut net, 50);
    assert_eq!(net.stacks[A].tcp_take_error(c), Some(TcpError::Reset));
    net.stacks[A].tcp_close(net.now, c);
    net.check_empty();
}

#[test]
fn a_closed_port_refuses() {
    let mut net = Net::new(Line::default(), 5);
    let c = net.stacks[A].tcp_connect(net.now, None, at(v4(B), 81)).unwrap();
    settle(&mut net, 50);
    assert_eq!(net.stacks[A].tcp_take_error(c), Some(TcpError::Refused));
    assert_eq!(net.stacks[A].tcp_state(c), TcpState::Closed);
    assert_eq!(net.stacks[B].mib().drops.get(DropReason::TcpPortClosed), 1);
    net.stacks[A].tcp_close(net.now, c);
    net.check_empty();
}

#[test]
fn both_ends_may_open_at_once() {
    let mut net = Net::new(Line::default(), 6);
    let (a, b) = (at(v4(A), 1111), at(v4(B), 2222));
    let c = net.stacks[A].tcp_connect(net.now, Some(a), b).unwrap();
    let s = net.stacks[B].tcp_connect(net.now, Some(b), a).unwrap();
    settle(&mut net, 100);
    assert_eq!(net.stacks[A].tcp_state(c), TcpState::Established);
    assert_eq!(net.stacks[B].tcp_state(s), TcpState::Established);
    net.transfer((A, c), s, &pattern(100_000));
    net.transfer((B, s), c, &pattern(100_000));
    net.stacks[A].tcp_close(net.now, c);
    net.stacks[B].tcp_close(net.now, s);
    net.check_empty();
}

#[test]
fn a_connection_to_oneself_works() {
    let mut net = Net::new(Line::default(), 6);
    let now = net.now;
    let stack = &mut net.stacks[A];
    let l = stack.tcp_listen(now, at(v4(A), 80), 4).unwrap();
    let c = stack.tcp_connect(now, None, at(v4(A), 80)).unwrap();
    settle(&mut net, 10);
    let s = net.stacks[A].tcp_accept(l).unwrap().id;
    net.stacks[A].tcp_send(net.now, c, &pattern(50_000)).unwrap();
    settle(&mut net, 100);
    assert_eq!(byte_count(&mut net, A, s), 50_000);
    for id in [l, c, s] {
        net.stacks[A].tcp_close(net.now, id);
    }
    net.check_empty();
}

#[test]
fn a_full_accept_queue_holds_the_handshake_back_and_nobody_is_lost() {
    let mut net = Net::new(Line::default(), 7);
    let l = net.stacks[B].tcp_listen(net.now, at(v4(B), 80), 4).unwrap();
    let clients: Vec<_> =
        (0..12).map(|_| net.stacks[A].tcp_connect(net.now, None, at(v4(B), 80)).unwrap()).collect();
    settle(&mut net, 500);
    let mib = &net.stacks[B].mib().tcp;
    assert!(mib.listen_overflows > 0);
    assert_eq!(net.stacks[B].mib().drops.get(DropReason::TcpAcceptQueueFull), mib.listen_overflows);
    let mut accepted = Vec::new();
    for _ in 0..100 {
        settle(&mut net, 500);
        accepted.extend(std::iter::from_fn(|| net.stacks[B].tcp_accept(l)).map(|a| a.id));
    }
    assert_eq!(accepted.len(), 12);
    for id in clients {
        assert_eq!(net.stacks[A].tcp_state(id), TcpState::Established);
        net.stacks[A].tcp_close(net.now, id);
    }
    accepted.push(l);
    for id in accepted {
        net.stacks[B].tcp_close(net.now, id);
    }
    net.check_empty();
}

#[test]
fn a_syn_flood_fills_the_queue_and_nothing_else() {
    let mut net = Net::with(Line::default(), 8, 4096, |c| {
        c.limits.tcp_half_open = 100;
        c.tcp.syn_cookies = SynCookies::Off;
    });
    // The clients never see an answer.
    net.filter = Box::new(|host, _| host == A);
    let l = net.stacks[B].tcp_listen(net.now, at(v4(B), 80), 1000).unwrap();
    for _ in 0..300 {
        let c = net.stacks[A].tcp_connect(net.now, None, at(v4(B), 80)).unwrap();
        net.pump();
        net.stacks[A].tcp_close(net.now, c);
    }
    settle(&mut net, 500);
    assert_eq!(net.stacks[B].memory().tcp_connections, 100);
    assert_eq!(net.stacks[B].mib().tcp.syn_queue_overflows, 200);
    net.stacks[B].tcp_close(net.now, l);
    net.check_empty();
}

#[test]
fn closing_a_listener_resets_what_it_queued() {
    let mut net = Net::new(Line::default(), 9);
    let l = net.stacks[B].tcp_listen(net.now, at(v6(B), 80), 8).unwrap();
    let c = net.stacks[A].tcp_connect(net.now, None, at(v6(B), 80)).unwrap();
    settle(&mut net, 100);
    net.stacks[B].tcp_close(net.now, l);
    settle(&mut net, 100);
    assert_eq!(net.stacks[A].tcp_take_error(c), Some(TcpError::Reset));
    net.stacks[A].tcp_close(net.now, c);
    net.check_empty();
}

#[test]
fn the_connection_limit_holds_and_time_wait_gives_way() {
    let mut net = Net::with(Line::default(), 10, 4096, |c| c.limits.tcp_connections = 8);
    let l = net.stacks[B].tcp_listen(net.now, at(v4(B), 80), 100).unwrap();
    for _ in 0..30 {
        let c = net.stacks[A].tcp_connect(net.now, None, at(v4(B), 80)).unwrap();
        settle(&mut net, 50);
        let s = net.stacks[B].tcp_accept(l).unwrap().id;
        net.stacks[A].tcp_close(net.now, c);
        settle(&mut net, 50);
        net.stacks[B].tcp_close(net.now, s);
        settle(&mut net, 50);
        assert!(net.stacks[A].memory().tcp_connections <= 8);
    }
    assert_eq!(net.stacks[A].mib().tcp.time_waits, 30);
    let ids: Vec<_> =
        (0..8).map(|_| net.stacks[A].tcp_connect(net.now, None, at(v4(B), 80)).unwrap()).collect();
    let more = net.stacks[A].tcp_connect(net.now, None, at(v4(B), 80));
    assert_eq!(more, Err(ConnectError::TooMany));
    for id in ids {
        net.stacks[A].tcp_close(net.now, id);
    }
    net.stacks[B].tcp_close(net.now, l);
    net.check_empty();
}

// RFC 6191
#[test]
fn a_tuple_in_time_wait_is_taken_over_by_a_newer_syn() {
    let mut net = Net::new(Line::default(), 11);
    let l = net.stacks[B].tcp_listen(net.now, at(v4(B), 80), 4).unwrap();
    for round in 0..3 {
        let local = Some(at(v4(A), 5555));
        let c = net.stacks[A].tcp_connect(net.now, local, at(v4(B), 80)).unwrap();
        settle(&mut net, 50);
        let s = net.stacks[B].tcp_accept(l).unwrap_or_else(|| panic!("round {round}")).id;
        // The server closes first and gets the TIME-WAIT.
        net.stacks[B].tcp_close(net.now, s);
        settle(&mut net, 50);
        net.stacks[A].tcp_close(net.now, c);
        settle(&mut net, 50);
        assert_eq!(net.stacks[B].memory().tcp_connections, 1);
        assert_eq!(net.stacks[A].memory().tcp_connections, 0);
    }
    net.stacks[B].tcp_close(net.now, l);
    net.check_empty();
}

// RFC 1191 6.4
// RFC 5927 7.2
// RFC 8201 4
#[test]
fn a_smaller_mtu_in_the_middle_is_found_by_icmp() {
    for addr in [v4, v6] {
        let mut net = Net::new(Line::default(), 12);
        let (c, s) = net.connected(addr);
        net.transfer_open((A, c), s, &pattern(100_000));
        net.bottleneck = Some(1300);
        net.transfer((A, c), s, &pattern(300_000));
        let info = net.stacks[A].tcp_info(net.now, c).unwrap();
        let headers = if addr(A).is_ipv4() { 40 } else { 60 };
        assert_eq!(info.mss, 1300 - headers - 12);
        // Larger packets had arrived: the message is believed once one of them times out, which is
        // no sign of congestion.
        assert_eq!(net.stacks[A].mib().tcp.timeouts, 1);
        assert_eq!(info.ssthresh, usize::MAX);
        net.stacks[A].tcp_close(net.now, c);
        net.stacks[B].tcp_close(net.now, s);
        net.check_empty();
    }
}

// RFC 5927 7.2
#[test]
fn a_small_mtu_that_contradicts_what_arrives_is_forgotten() {
    let mut net = Net::new(Line::default(), 13);
    let (c, s) = net.connected(v4);
    net.transfer_open((A, c), s, &pattern(100_000));
    net.stacks[A].tcp_send(net.now, c, &pattern(20_000)).unwrap();
    let mut sent = TxBurst::new(1);
    while net.stacks[A].poll_transmit(net.now, &mut sent) == 0 {
        // The pacer may still wait.
        net.now += Duration::from_millis(1);
        net.stacks[A].handle_timeout(net.now);
    }
    let (_, first) = sent.frames.pop().unwrap();
    // An attacker on the path knows the number in flight. That segment is even lost.
    let forged = net::too_big(600, &first.to_heap());
    drop(first);
    net.stacks[A].handle_frame(net.now, net::ALIAS, forged);
    let pmtu = |net: &Net| net.stacks[A].tcp_info(net.now, c).unwrap().pmtu;
    assert_eq!(pmtu(&net), 1500);
    settle(&mut net, 1000);
    let mut got = 0;
    while let Ok(n @ 1..) = net.stacks[B].tcp_recv(net.now, s, &mut vec![0; 30_000]) {
        got += n;
    }
    assert_eq!((got, pmtu(&net)), (20_000, 1500));
    net.stacks[A].tcp_close(net.now, c);
    net.stacks[B].tcp_close(net.now, s);
    net.check_empty();
}

#[test]
fn forged_icmp_changes_nothing() {
    let mut net = Net::new(Line::default(), 13);
    let (c, s) = net.connected(v4);
    let (local, _) = net.stacks[A].tcp_addrs(c).unwrap();
    let mut quote = vec![0x45, 0, 0, 60, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    quote.extend(local.port().to_be_bytes());
    quote.extend(80u16.to_be_bytes());
    quote.extend([1, 2, 3, 4]);
    let frame = net::too_big(576, &Frame::from_heap(0, &quote));
    net.stacks[A].handle_frame(net.now, net::ALIAS, frame);
    assert_eq!(net.stacks[A].tcp_info(net.now, c).unwrap().mss, 1448);
    assert_eq!(net.stacks[A].mib().drops.get(DropReason::IcmpErrorUnmatched), 1);
    net.stacks[A].tcp_close(net.now, c);
    net.stacks[B].tcp_close(net.now, s);
    net.check_empty();
}

#[test]
fn an_empty_pool_delays_and_loses_nothing() {
    let mut net = Net::new(Line::default(), 14);
    let (c, s) = net.connected(v4);
    let pool = net.pools[A].clone();
    let held: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    net.stacks[A].tcp_send(net.now, c, &pattern(5000)).unwrap();
    settle(&mut net, 10);
    assert!(net.stacks[A].wants_transmit());
    assert_eq!(byte_count(&mut net, B, s), 0);
    drop(held);
    settle(&mut net, 50);
    assert_eq!(byte_count(&mut net, B, s), 5000);
    assert_eq!(net.stacks[A].mib().tcp.retrans_segs, 0);
    net.stacks[A].tcp_close(net.now, c);
    net.stacks[B].tcp_close(net.now, s);
    net.check_empty();
}

#[test]
fn lent_frames_are_bounded_by_the_receive_buffer() {
    let mut net = Net::new(Line::default(), 15);
    let (c, s) = net.connected(v4);
    net.stacks[B].tcp_set_option(net.now, s, TcpOption::RecvBuffer(50_000));
    let data = pattern(400_000);
    let mut sent = 0;
    let mut kept = Vec::new();
    while kept.iter().map(bytes::Bytes::len).sum::<usize>() < data.len() {
        while sent < data.len() {
            let Ok(n) = net.stacks[A].tcp_send(net.now, c, &data[sent..]) else { break };
            sent += n;
        }
        settle(&mut net, 5);
        while let Ok(bytes) = net.stacks[B].tcp_recv_bytes(net.now, s, 100_000) {
            kept.push(bytes);
        }
    }
    assert!(kept.concat() == data);
    let copied = net.stacks[B].mib().tcp.rcv_copied_octets;
    assert!((300_000..400_000).contains(&copied), "{copied}");
    drop(kept);
    net.stacks[A].tcp_close(net.now, c);
    net.stacks[B].tcp_close(net.now, s);
    net.check_empty();
}

#[test]
fn shared_bytes_are_sent_without_copying() {
    let mut net = Net::new(Line { gso: 60_000, ..Line::default() }, 16);
    let (c, s) = net.connected(v4);
    net.stacks[A].tcp_set_option(net.now, c, TcpOption::SendBuffer(1 << 20));
    net.stacks[B].tcp_set_option(net.now, s, TcpOption::RecvBuffer(1 << 20));
    let mut data = bytes::Bytes::from(pattern(500_000));
    assert_eq!(net.stacks[A].tcp_send_bytes(net.now, c, &mut data), Ok(500_000));
    assert!(data.is_empty());
    settle(&mut net, 1000);
    assert_eq!(byte_count(&mut net, B, s), 500_000);
    assert_eq!(net.stacks[A].mib().tcp.snd_copied_octets, 0);
    net.stacks[A].tcp_close(net.now, c);
    net.stacks[B].tcp_close(net.now, s);
    net.check_empty();
}

#[test]
fn a_removed_address_fails_its_connections() {
    let mut net = Net::new(Line::default(), 17);
    let (c, s) = net.connected(v4);
    let change = Change::AddressRemove { alias: net::ALIAS, addr: v4(A) };
    net.stacks[A].handle_config(net.now, change).unwrap();
    assert_eq!(net.stacks[A].tcp_take_error(c), Some(TcpError::Aborted));
    net.stacks[A].tcp_close(net.now, c);
    net.stacks[B].tcp_abort(net.now, s);
    net.check_empty();
}

#[test]
fn a_peer_that_vanished_times_out() {
    let mut net = Net::new(Line::default(), 18);
    let (c, s) = net.connected(v4);
    net.filter = Box::new(|_, _| false);
    net.stacks[A].tcp_send(net.now, c, b"hello?").unwrap();
    settle(&mut net, 1_500_000);
    assert_eq!(net.stacks[A].tcp_take_error(c), Some(TcpError::TimedOut));
    net.stacks[A].tcp_close(net.now, c);
    net.stacks[B].tcp_abort(net.now, s);
    net.check_empty();
}

#[test]
fn a_peer_that_restarted_answers_with_rst() {
    let mut net = Net::new(Line::default(), 19);
    let (c, s) = net.connected(v4);
    net.filter = Box::new(|_, _| false);
    net.stacks[B].tcp_abort(net.now, s);
    net.pump();
    net.filter = Box::new(|_, _| true);
    net.stacks[A].tcp_send(net.now, c, b"hello?").unwrap();
    settle(&mut net, 100);
    assert_eq!(net.stacks[A].tcp_take_error(c), Some(TcpError::Reset));
    net.stacks[A].tcp_close(net.now, c);
    net.check_empty();
}

#[test]
fn events_come_once_per_change() {
    let mut net = Net::new(Line::default(), 20);
    let (c, s) = net.connected(v4);
    settle(&mut net, 100);
    net.events = [Vec::new(), Vec::new()];
    net.stacks[A].tcp_send(net.now, c, &pattern(3000)).unwrap();
    settle(&mut net, 100);
    net.stacks[A].tcp_shutdown(net.now, c, ShutdownHow::Write);
    settle(&mut net, 100);
    let ready: Vec<_> = net.events[B]
        .iter()
        .map(|e| match e {
            Event::Socket { id, ready } if *id == s => *ready,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(ready.len() <= 4, "{ready:?}");
    assert!(ready[0].contains(Readiness::READABLE));
    assert!(ready.last().unwrap().contains(Readiness::READ_CLOSED));
    assert!(net.events[A].is_empty(), "{:?}", net.events[A]);
    net.stacks[A].tcp_close(net.now, c);
    assert_eq!(byte_count(&mut net, B, s), 3000);
    net.stacks[B].tcp_close(net.now, s);
    net.check_empty();
}

#[test]
fn handles_of_closed_sockets_are_stale_for_good() {
    let mut net = Net::new(Line::default(), 21);
    let (c, s) = net.connected(v4);
    net.stacks[A].tcp_abort(net.now, c);
    let again = net.stacks[A].tcp_connect(net.now, None, at(v4(B), 80)).unwrap();
    assert_eq!((again.index, again == c), (c.index, false));
    assert_eq!(net.stacks[A].tcp_send(net.now, c, b"x"), Err(TcpSendError::Closed));
    assert_eq!(net.stacks[A].tcp_recv(net.now, c, &mut [0]), Err(TcpRecvError::Closed));
    assert_eq!(net.stacks[A].tcp_state(c), TcpState::Closed);
    assert!(net.stacks[A].tcp_addrs(c).is_none());
    net.stacks[A].tcp_close(net.now, c);
    assert_eq!(net.stacks[A].tcp_state(again), TcpState::SynSent);
    net.stacks[A].tcp_close(net.now, again);
    net.stacks[B].tcp_close(net.now, s);
    net.check_empty();
}

#[test]
fn listens_and_connects_that_cannot_be_say_why() {
    let mut net = Net::new(Line::default(), 22);
    let now = net.now;
    let stack = &mut net.stacks[A];
    let any = at(std::net::Ipv6Addr::UNSPECIFIED.into(), 80);
    let l = stack.tcp_listen(now, any, 4).unwrap();
    assert_eq!(stack.tcp_listen(now, any, 4), Err(ListenError::InUse));
    assert_eq!(stack.tcp_listen(now, at(v4(B), 80), 4), Err(ListenError::NotAvailable));
    let exact = stack.tcp_listen(now, at(v4(A), 80), 4).unwrap();
    let picked = stack.tcp_listen(now, at(v4(A), 0), 4).unwrap();
    assert_ne!(stack.tcp_addrs(picked).unwrap().0.port(), 0);
    let bad = |s: &mut Stack, a: &str| s.tcp_connect(now, None, a.parse().unwrap());
    assert_eq!(bad(stack, "224.0.0.1:80"), Err(ConnectError::InvalidRemote));
    assert_eq!(bad(stack, "10.0.0.2:0"), Err(ConnectError::InvalidRemote));
    assert_eq!(bad(stack, "192.0.2.1:80"), Err(ConnectError::Unreachable));
    let wrong = stack.tcp_connect(now, Some(at(v4(B), 0)), at(v4(B), 80));
    assert_eq!(wrong, Err(ConnectError::NotAvailable));
    let first = stack.tcp_connect(now, Some(at(v4(A), 7)), at(v4(B), 7)).unwrap();
    let second = stack.tcp_connect(now, Some(at(v4(A), 7)), at(v4(B), 7));
    assert_eq!(second, Err(ConnectError::InUse));
    for id in [l, exact, picked, first] {
        stack.tcp_close(now, id);
    }
    net.check_empty();
}

#[test]
fn a_thousand_connections_at_once() {
    let mut net = Net::with(Line { loss: 20, ..Line::default() }, 23, 16_384, |_| {});
    let l = net.stacks[B].tcp_listen(net.now, at(v4(B), 80), 2000).unwrap();
    let data = pattern(3000);
    let clients: Vec<_> = (0..1000)
        .map(|_| net.stacks[A].tcp_connect(net.now, None, at(v4(B), 80)).unwrap())
        .collect();
    let mut servers = Vec::new();
    let mut sent = vec![false; clients.len()];
    for _ in 0..1000 {
        settle(&mut net, 100);
        for (id, sent) in clients.iter().zip(&mut sent) {
            if !*sent && net.stacks[A].tcp_send(net.now, *id, &data).is_ok() {
                *sent = true;
                net.stacks[A].tcp_close(net.now, *id);
            }
        }
        servers.extend(std::iter::from_fn(|| net.stacks[B].tcp_accept(l)).map(|a| a.id));
        if servers.len() == 1000 && sent.iter().all(|s| *s) {
            break;
        }
    }
    assert_eq!(servers.len(), 1000);
    settle(&mut net, 60_000);
    for id in servers {
        assert_eq!(byte_count(&mut net, B, id), 3000);
        net.stacks[B].tcp_close(net.now, id);
    }
    net.stacks[B].tcp_close(net.now, l);
    net.check_empty();
    assert_eq!(net.stacks[B].mib().tcp.curr_estab, 0);
}

#[test]
fn no_reset_leaves_a_healthy_transfer() {
    let mut net = Net::new(Line { loss: 30, reorder: 100, ethernet: true, ..Line::default() }, 24);
    let (c, s) = net.connected(v4);
    let seen = std::rc::Rc::new(std::cell::Cell::new(0));
    let count = seen.clone();
    net.filter = Box::new(move |_, frame| {
        if frame.data()[12..14] == [8, 0] && frame.data()[14 + 9] == 6 {
            count.set(count.get() + u32::from(frame.data()[14 + 20 + 13] & 4 != 0));
        }
        true
    });
    net.transfer((A, c), s, &pattern(300_000));
    net.transfer((B, s), c, &pattern(300_000));
    assert_eq!(seen.get(), 0);
    net.stacks[A].tcp_close(net.now, c);
    net.stacks[B].tcp_close(net.now, s);
    // From here on a segment that was overtaken may find the connection gone, and be reset.
    net.check_empty();
}

#[test]
fn draining_forgets_orphans_and_time_wait_too() {
    let mut net = Net::new(Line::default(), 25);
    let (c, s) = net.connected(v4);
    net.stacks[A].tcp_close(net.now, c);
    settle(&mut net, 50);
    net.stacks[B].tcp_close(net.now, s);
    settle(&mut net, 50);
    let (c, s) = net.connected(v6);
    net.stacks[A].tcp_close(net.now, c);
    settle(&mut net, 50);
    assert_eq!(net.stacks[A].memory().tcp_connections, 2, "a TIME-WAIT and an orphan");
    net.stacks[A].drain(net.now);
    assert_eq!(net.stacks[A].memory().tcp_connections, 0);
    settle(&mut net, 50);
    assert_eq!(net.stacks[B].tcp_take_error(s), Some(TcpError::Reset));
    net.stacks[B].tcp_close(net.now, s);
    net.check_empty();
}
