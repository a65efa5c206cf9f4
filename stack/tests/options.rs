//! Options of connections, end to end.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used, clippy::missing_panics_doc)]

mod net;

use std::time::Duration;

use net::{A, B, Line, Net, at, pattern, v4, v6};
use weft_stack::socket::Readiness;
use weft_stack::socket::tcp::{CongestionControl, TcpError, TcpOption, TcpRecvError, TcpState};

fn settle(net: &mut Net, ms: u64) {
    net.run_for(Duration::from_millis(ms));
}

#[test]
fn accepted_connections_inherit_the_options_of_their_listener() {
    let mut net = Net::new(Line::default(), 1);
    let listener = net.stacks[B].tcp_listen(net.now, at(v4(B), 80), 4).unwrap();
    let wanted = [
        TcpOption::NoDelay(true),
        TcpOption::Linger(Some(Duration::from_secs(2))),
        TcpOption::RecvBuffer(50_000),
        TcpOption::MaxSegment(Some(900)),
        TcpOption::NotSentLowat(Some(8000)),
        TcpOption::PacingRateMax(Some(1_000_000)),
        TcpOption::Congestion(CongestionControl::NewReno),
    ];
    for option in wanted {
        assert!(net.stacks[B].tcp_set_option(net.now, listener, option));
    }
    let c = net.stacks[A].tcp_connect(net.now, None, at(v4(B), 80)).unwrap();
    settle(&mut net, 50);
    let s = net.stacks[B].tcp_accept(listener).unwrap().id;
    let options = net.stacks[B].tcp_options(s).unwrap();
    assert_eq!(Some(options), net.stacks[B].tcp_options(listener));
    assert!(options.nodelay && !options.cork && !options.quickack);
    assert_eq!((options.recv_buffer, options.mss_max), (50_000, Some(900)));
    assert_eq!(options.linger, Some(Duration::from_secs(2)));
    assert_eq!(options.congestion, CongestionControl::NewReno);
    // A change of one is not a change of the others.
    net.stacks[B].tcp_set_option(net.now, s, TcpOption::NoDelay(false));
    assert!(net.stacks[B].tcp_options(listener).unwrap().nodelay);
    let info = net.stacks[A].tcp_info(net.now, c).unwrap();
    assert_eq!(info.mss, 900 - 12);
    assert_eq!(net.stacks[A].tcp_options(listener), None);
}

#[test]
fn peeked_bytes_are_read_again() {
    let mut net = Net::new(Line::default(), 2);
    let (c, s) = net.connected(v6);
    assert_eq!(net.stacks[B].tcp_peek(s, &mut [0; 4]), Err(TcpRecvError::WouldBlock));
    let data = pattern(5000);
    net.stacks[A].tcp_send(net.now, c, &data).unwrap();
    settle(&mut net, 50);
    let mut out = vec![0; 9000];
    assert_eq!(net.stacks[B].tcp_peek(s, &mut out), Ok(5000));
    assert_eq!(net.stacks[B].tcp_peek(s, &mut out[..3000]), Ok(3000));
    assert_eq!(out[..5000], data);
    assert_eq!(net.stacks[B].tcp_recv(net.now, s, &mut out), Ok(5000));
    net.stacks[A].tcp_close(net.now, c);
    settle(&mut net, 50);
    assert_eq!(net.stacks[B].tcp_peek(s, &mut out), Ok(0));
}

#[test]
fn a_linger_of_zero_resets_the_peer() {
    let mut net = Net::new(Line::default(), 3);
    let (c, s) = net.connected(v4);
    net.stacks[A].tcp_set_option(net.now, c, TcpOption::Linger(Some(Duration::ZERO)));
    net.stacks[A].tcp_close(net.now, c);
    settle(&mut net, 50);
    let error = net.stacks[B].tcp_recv(net.now, s, &mut [0; 8]);
    assert_eq!(error, Err(TcpRecvError::Failed(TcpError::Reset)));
    assert_eq!(net.stacks[A].mib().tcp.abort_on_linger, 1);
}

#[test]
fn a_linger_that_runs_out_resets_a_peer_that_does_not_read() {
    let mut net = Net::new(Line::default(), 4);
    let (c, s) = net.connected(v4);
    net.stacks[A].tcp_set_option(net.now, c, TcpOption::Linger(Some(Duration::from_secs(5))));
    while net.stacks[A].tcp_send(net.now, c, &vec![7; 50_000]).is_ok() {
        settle(&mut net, 20);
    }
    net.stacks[A].tcp_close(net.now, c);
    settle(&mut net, 4900);
    assert_eq!(net.stacks[B].tcp_state(s), TcpState::Established);
    settle(&mut net, 200);
    assert_eq!(net.stacks[B].tcp_take_error(s), Some(TcpError::Reset));
    assert_eq!(net.stacks[A].mib().tcp.abort_on_linger, 1);
    net.stacks[B].tcp_close(net.now, s);
    net.check_empty();
}

#[test]
fn a_bound_on_the_rate_holds_over_timers_of_the_wheel() {
    for gso in [0, 60_000] {
        let mut net = Net::new(Line { gso, ..Line::default() }, 5);
        let (c, s) = net.connected(v4);
        net.stacks[A].tcp_set_option(net.now, c, TcpOption::PacingRateMax(Some(1_000_000)));
        let before = net.now;
        net.transfer_open((A, c), s, &pattern(500_000));
        let took = (net.now - before).as_millis();
        // The first ten segments are free.
        assert!((470..=520).contains(&took), "{took} ms with {gso}");
        let info = net.stacks[A].tcp_info(net.now, c).unwrap();
        assert_eq!(info.pacing_rate, Some(1_000_000));
    }
}

#[test]
fn buffers_grow_on_a_long_path() {
    let mut net = Net::new(Line { delay: Duration::from_millis(40), ..Line::default() }, 6);
    let (c, s) = net.connected(v4);
    let before = net.now;
    net.transfer_open((A, c), s, &pattern(20_000_000));
    let took = net.now - before;
    let (a, b) =
        (net.stacks[A].tcp_info(net.now, c).unwrap(), net.stacks[B].tcp_info(net.now, s).unwrap());
    assert!(a.send_buffer > 1 << 20, "{}", a.send_buffer);
    assert!(b.recv_buffer > 1 << 20, "{}", b.recv_buffer);
    // 256 KiB per round trip would take more than six seconds.
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(a.busy > Duration::ZERO && a.busy <= took + Duration::from_secs(1), "{:?}", a.busy);
    assert_eq!(a.bytes_sent - a.bytes_retransmitted, 20_000_000);
}

// RFC 9293 3.8.5 MUST-30
#[test]
fn an_urgent_mark_crosses_the_line() {
    let mut net = Net::new(Line::default(), 7);
    let (c, s) = net.connected(v4);
    net.stacks[A].tcp_send(net.now, c, b"abc").unwrap();
    net.stacks[A].tcp_send_urgent(net.now, c, b"!").unwrap();
    settle(&mut net, 100);
    assert!(net.stacks[B].readiness(s).contains(Readiness::PRIORITY));
    assert_eq!(net.stacks[B].tcp_urgent(s), Some(4));
    let mut out = [0; 8];
    assert_eq!(net.stacks[B].tcp_recv(net.now, s, &mut out), Ok(4));
    assert_eq!(&out[..4], b"abc!");
    assert!(net.stacks[B].tcp_at_mark(s) && net.stacks[B].tcp_urgent(s).is_none());
    net.stacks[A].tcp_send(net.now, c, b"d").unwrap();
    settle(&mut net, 100);
    net.stacks[B].tcp_recv(net.now, s, &mut out).unwrap();
    assert!(!net.stacks[B].tcp_at_mark(s));
}

// RFC 9293 3.9.1.9 MUST-48 SHLD-21 SHLD-22
// RFC 9293 3.9.2 MUST-49
#[test]
fn the_applications_traffic_class_and_hop_limit_stand_in_the_ip_header() {
    use std::cell::RefCell;
    use std::rc::Rc;
    for (host, fields) in [(v4 as fn(usize) -> _, [1, 8]), (v6, [0, 7])] {
        let mut net = Net::new(Line::default(), 8);
        let seen = Rc::new(RefCell::new(Vec::new()));
        let (c, s) = net.connected(host);
        let log = Rc::clone(&seen);
        net.filter = Box::new(move |from, frame| {
            if from == A {
                let data = frame.data();
                let class = if fields[0] == 1 { data[1] } else { data[0] << 4 | data[1] >> 4 };
                log.borrow_mut().push((class & !3, data[fields[1]]));
            }
            true
        });
        for (class, hops) in [(0xb8, Some(255)), (0x2b, Some(3)), (0, None)] {
            net.stacks[A].tcp_set_option(net.now, c, TcpOption::TrafficClass(class));
            net.stacks[A].tcp_set_option(net.now, c, TcpOption::HopLimit(hops));
            seen.borrow_mut().clear();
            net.transfer_open((A, c), s, &pattern(5000));
            let wanted = (class & !3, hops.unwrap_or(64));
            assert!(!seen.borrow().is_empty());
            assert!(seen.borrow().iter().all(|fields| *fields == wanted), "{:?}", seen.borrow());
        }
    }
}
